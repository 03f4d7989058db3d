//! What is answered without sending anything, and the schema that summaries hold to.

use std::process::Output;

use serde_json::Value;

use crate::server::{Do, OK, Server};
use crate::tool::command;

fn ask(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn answer(args: &[&str]) -> String {
    let output = ask(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn schema() -> jsonschema::Validator {
    let schema = serde_json::from_str(&answer(&["--schema"])).unwrap();
    jsonschema::draft202012::meta::validate(&schema).expect("it is a schema");
    jsonschema::validator_for(&schema).unwrap()
}

fn hold(schema: &jsonschema::Validator, what: &str, summary: &Value) {
    let wrong: Vec<String> = schema
        .iter_errors(summary)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(wrong, [""; 0], "{what}");
}

#[test]
fn summaries_of_every_kind_of_run_hold_to_the_schema() {
    let schema = schema();
    let server = Server::honest();
    let grumpy = Server::start(|line| {
        let error = r#"{"status":"error","code":"overloaded","reason":"enough"}"#;
        Do::Say(if line.index % 2 == 0 { format!("{error}\n") } else { OK.to_owned() })
    });
    let [good, bad] = [&server, &grumpy].map(|server| format!("tcp://127.0.0.1:{}", server.port));
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("tcp://{}", listener.local_addr().unwrap())
    };
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = format!("udp://{}", udp.local_addr().unwrap());
    // On a busy machine some messages of an open loop are not sent in time.
    for (target, args, verdicts) in [
        (&good, "-n 2000", &["pass"][..]),
        (&good, "-r 500 -z 600ms -w 300ms --slo p50<10s --max-error-rate 100%", &["pass"]),
        (&good, "-r 100 -z 300ms --slo p99<10s --max-error-rate 100%", &["inconclusive"]),
        (&good, "--stages up=300ms:400,300ms@400,0s:0 -c 4 --max-error-rate 100%", &["pass"]),
        (
            &good,
            "--burst rate=2k,for=50ms,every=100ms,base=100 -z 300ms --max-error-rate 100%",
            &["pass"],
        ),
        (&good, "-r 100 -z 300ms --strict --max-error-rate 100%", &["pass", "invalid"]),
        (&good, "-r 100 -z 300ms --slo p50<1us", &["fail"]),
        (&bad, "-n 200", &["fail"]),
        (&closed, "-n 10 --connect-timeout-secs 300ms", &["unreachable", "fail"]),
        (&udp, "-n 100", &["pass", "fail"]),
    ] {
        let mut all = vec!["--target", target, "--json", "-", "--quiet"];
        all.extend(args.split_whitespace());
        let output = ask(&all);
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{args}: {error}\n{}", String::from_utf8_lossy(&output.stderr))
        });
        hold(&schema, args, &summary);
        let verdict = summary["verdict"].as_str().unwrap();
        assert!(verdicts.contains(&verdict), "{args}: {verdict}");
    }
}

#[test]
fn the_schema_is_strict() {
    let schema = schema();
    let server = Server::honest();
    let target = format!("tcp://127.0.0.1:{}", server.port);
    let output = ask(&["--target", &target, "-n", "20", "--json", "-", "--quiet"]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    hold(&schema, "as it is", &summary);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = summary.clone();
        change(&mut changed);
        schema.is_valid(&changed)
    };
    assert!(!with(&|it| it["surprise"] = 1.into()), "a field that is not known");
    assert!(!with(&|it| it["latency"]["response"]["p98_ns"] = 1.into()), "nor further in");
    assert!(!with(&|it| it["verdict"] = "good".into()), "a verdict that does not exist");
    assert!(!with(&|it| it["load"]["ok"] = (-1).into()), "a negative count");
    assert!(!with(&|it| it["schema_version"] = 2.into()), "another version");
    assert!(!with(&|it| drop(it.as_object_mut().unwrap().remove("rate"))), "a field that is gone");
}

#[test]
fn what_a_run_would_do_is_told_and_nothing_is_sent() {
    let server = Server::honest();
    let target = format!("tcp://127.0.0.1:{}", server.port);
    let text = answer(&["--target", &target, "-r", "1k", "-z", "3s", "--explain"]);
    assert!(text.starts_with(&target) && text.contains("3,000 messages, in 3 s"), "{text}");
    let wrong = ask(&["--explain", "-n", "0", "-z", "0"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(server.lines().len(), 0);
}

#[test]
fn the_estimate_of_memory_is_about_right() {
    let server = Server::honest();
    let target = format!("tcp://127.0.0.1:{}", server.port);
    for workers in ["5", "500"] {
        let args = ["--target", &target, "-r", "500", "-z", "1200ms", "-c", workers];
        let text = answer(&[&args[..], &["--explain"]].concat());
        let told = text.split("about ").find_map(|rest| rest.split_once(" MiB")?.0.parse().ok());
        let told: f64 = told.unwrap();
        let output = ask(&[&args[..], &["--json", "-", "--quiet"]].concat());
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let peak = summary["resources"]["rss_peak_bytes"].as_f64().unwrap() / f64::from(1 << 20);
        assert!((0.4..2.5).contains(&(told / peak)), "{workers}: told {told}, was {peak} MiB");
    }
}

#[test]
fn the_resolved_run_is_printed_without_secrets_and_runs_again() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "very-secret").unwrap();
    let args = ["-r", "2k", "-z", "90s", "--auth-token-file", token.to_str().unwrap()];
    let toml = answer(&[&args[..], &["--print-config"]].concat());
    let json = answer(&[&args[..], &["--print-config=json"]].concat());
    assert!(!toml.contains("very-secret") && !json.contains("very-secret"));
    assert!(toml.contains("target_rps = 2000") && toml.contains("[[flow]]"), "{toml}");
    let scenario = folder.path().join("scenario.toml");
    std::fs::write(&scenario, &toml).unwrap();
    let again = answer(&["--scenario", scenario.to_str().unwrap(), "--print-config=json"]);
    assert_eq!(json, again);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["flows"][0]["duration_secs"], 90.0);
    assert!(json["shards"].as_u64().unwrap() >= 1, "resolved for this machine");
}

#[test]
fn completions_the_manual_and_examples_are_there() {
    for shell in ["bash", "zsh", "fish"] {
        let text = answer(&["completions", shell]);
        assert!(text.contains("--target-rps") || text.contains("target-rps"), "{shell}");
    }
    let output = ask(&["completions", "tcsh"]);
    assert_eq!(output.status.code(), Some(2));
    let manual = answer(&["man"]);
    assert!(manual.contains(".TH logboom-loadgen") && manual.contains("TARGET_RPS"), "{manual}");
    let examples = answer(&["examples"]);
    assert!(examples.lines().filter(|line| line.starts_with("logboom-loadgen ")).count() > 10);
}

#[test]
fn a_shell_can_source_the_completions() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    let text = answer(&["completions", "bash"]);
    let bash = Command::new("bash")
        .args(["--norc", "-c", "source /dev/stdin && complete -p logboom-loadgen"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut bash) = bash else {
        return crate::tool::skip("a_shell_can_source_the_completions", "bash is missing");
    };
    bash.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(output.status.success() && !output.stdout.is_empty());
}
