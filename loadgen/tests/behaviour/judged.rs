//! What a run has to hold, and whether it can be believed: exit codes, and what is withheld.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::{Do, OK, Server};
use crate::tool::{Run, command, finish, run, run_unchecked, start};

/// A run with SLOs, which may hold spaces.
fn slo_run(port: u16, args: &str, slos: &[&str]) -> Run {
    finish(with_slos(port, args, slos).spawn().unwrap())
}

fn with_slos(port: u16, args: &str, slos: &[&str]) -> Command {
    let port = port.to_string();
    let mut all = vec!["--server-host", "127.0.0.1", "--server-port", &port, "--json", "-"];
    all.extend(args.split_whitespace());
    slos.iter().for_each(|slo| all.extend(["--slo", slo]));
    let mut command = command(&all);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

fn states(run: &Run) -> Vec<&str> {
    let slos = run.json["slos"].as_array().map_or(&[][..], Vec::as_slice);
    slos.iter().map(|slo| slo["state"].as_str().unwrap()).collect()
}

fn signal<'a>(run: &'a Run, name: &str) -> &'a Value {
    let signals = run.json["validity"]["signals"].as_array().unwrap();
    signals.iter().find(|signal| signal["name"] == name).unwrap()
}

fn state<'a>(run: &'a Run, name: &str) -> &'a str {
    signal(run, name)["state"].as_str().unwrap()
}

#[test]
fn an_slo_that_holds_passes_and_one_that_does_not_exits_10() {
    let server = Server::honest();
    let args = "-n 2000 -c 2 --batch-size 10";
    let held = slo_run(server.port, args, &["p99<30s", "loss==0", "achieved>=99%"]);
    assert_eq!((held.code, held.verdict()), (0, "pass"), "{}", held.json["slos"]);
    assert_eq!(states(&held), ["held", "held", "held"]);
    let p99 = held.json["latency"]["response"]["p99_ns"].as_f64();
    assert_eq!(held.json["slos"][0]["observed"].as_f64(), p99, "the same figure as in the table");
    let failed = slo_run(server.port, args, &["p99<30s", "max<1us"]);
    assert_eq!((failed.code, failed.verdict()), (10, "fail"));
    assert_eq!(states(&failed), ["held", "failed"]);
    assert!(failed.stderr.contains("FAILED        max<1us: "), "{}", failed.stderr);
    // Two thousand messages say nothing about one in ten thousand: no pass, and no failure.
    let neither = slo_run(server.port, args, &["p99.99<30s", "p99<30s over 1m"]);
    assert_eq!((neither.code, neither.verdict()), (14, "inconclusive"));
    assert_eq!(states(&neither), ["not_assessed", "not_assessed"]);
    assert!(neither.stderr.contains("needs 100,000 messages"), "{}", neither.stderr);
}

#[test]
fn a_lost_message_cannot_hide_behind_a_short_wait() {
    let server = Server::start(|line| match (line.connection, line.index) {
        (0, 0..20) => Do::Say(String::new()),
        _ => Do::Say(OK.to_owned()),
    });
    // 20 of 1,000 are given up after 300 ms; whether p99 is below 10 s, nobody knows.
    let args = "-n 1000 -c 1 --batch-size 20 --reply-timeout-secs 300ms --max-error-rate 100%";
    let run = slo_run(server.port, args, &["p99<10s", "p99<200ms", "p50<10s", "errors==20"]);
    assert_eq!(states(&run), ["not_assessed", "failed", "held", "held"], "{}", run.json["slos"]);
    assert_eq!((run.code, run.json["slos"][0]["observed"].is_null()), (10, true));
}

#[test]
fn what_an_slo_names_and_does_not_exist_is_a_usage_error() {
    for (slo, named) in [
        ("p98.7654<1s", "unknown metric \"p98.7654\""),
        ("p99<50", "not a time with a unit"),
        ("p99{stage=hgih}<1s", "unknown stage \"hgih\"; this run has: low, high"),
        ("p99{flow=other}<1s", "unknown flow \"other\"; this run has: main"),
    ] {
        let args = ["--target", "null://", "--stages", "low=1s@10,high=1s@20", "--slo", slo];
        let output = command(&args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{slo}: {stderr}");
        assert!(stderr.contains(named), "{slo}: {stderr}");
    }
}

#[test]
fn stages_and_bursts_have_slos_of_their_own() {
    let slos = ["throughput{stage=low}<=300", "throughput{stage=high}>300", "loss==0"];
    let mut command =
        command(&["--target", "null://", "--json", "-", "--stages", "low=1s@200,high=1s@400"]);
    for slo in slos {
        command.args(["--slo", slo]);
    }
    let json: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let told: Vec<_> = json["slos"].as_array().unwrap().iter().map(|it| &it["state"]).collect();
    assert_eq!(told, ["held", "held", "held"], "{}", json["slos"]);

    let run = run_unchecked(
        "--target null:// --burst rate=4k,for=500ms,every=1s,base=200 -z 2s \
         --slo p99{stage=burst}<30s --slo throughput{flow=base}<1k",
    );
    assert_eq!((run.code, states(&run)), (0, vec!["held", "held"]), "{}", run.json["slos"]);
}

#[test]
fn abort_ends_the_run_as_soon_as_the_slo_cannot_hold_any_more() {
    let server = Server::start(|line| match line.index {
        0..50 => Do::Say(OK.to_owned()),
        _ => Do::Say(
            "{\"status\":\"error\",\"code\":\"overloaded\",\"reason\":\"full\"}\n".to_owned(),
        ),
    });
    let begin = Instant::now();
    let args = "-r 100 -z 60s -c 1 --max-error-rate 100%";
    let run = slo_run(server.port, args, &["errors<=20 abort"]);
    assert!(begin.elapsed() < Duration::from_secs(30), "it does not run for a minute");
    assert_eq!((run.code, run.verdict()), (10, "fail"));
    assert!(run.load("offered") < 3000 && run.error("overloaded") > 20, "{}", run.json["load"]);
    let reason = "ended early: SLO errors<=20 abort cannot hold any more";
    assert!(run.stderr.contains(reason), "{}", run.stderr);
}

#[test]
fn a_run_ends_with_every_signal_and_a_missing_one_is_not_assessed() {
    let server = Server::honest();
    let run = run(server.port, "-r 1000 -z 2s -c 4 --shards 1");
    let names: Vec<_> = run.json["validity"]["signals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|signal| signal["name"].as_str().unwrap())
        .collect();
    let expected = [
        "build",
        "sample",
        "lag",
        "achieved",
        "run_queue",
        "littles_law",
        "clock",
        "ceiling",
        "target_cores",
        "steady_state",
    ];
    assert_eq!(names, expected);
    let built = if cfg!(debug_assertions) { "bad" } else { "ok" };
    assert_eq!(state(&run, "build"), built);
    assert_eq!((state(&run, "sample"), state(&run, "ceiling")), ("ok", "not_assessed"));
    assert_eq!(state(&run, "steady_state"), "not_assessed", "two seconds show no trend");
    // These depend on the machine; that they were looked at does not.
    for name in ["lag", "achieved", "run_queue", "clock"] {
        assert_ne!(state(&run, name), "not_assessed", "{}", signal(&run, name));
    }
    // The target is this test: found by its port, in another process.
    let pid = format!("pid {}", std::process::id());
    let cores = signal(&run, "target_cores");
    assert!(cores["detail"].as_str().unwrap().contains(&pid), "{cores}");
    assert_eq!((run.code, run.verdict()), (0, "pass"), "without STRICT the verdict stays");
    if cfg!(debug_assertions) {
        let text = run.stderr.find("INVALID: this run cannot vouch").unwrap();
        assert!(run.stderr.contains("debug build") && text < run.stderr.find("PASS:").unwrap());
    }
}

#[test]
fn strict_withholds_every_figure_of_an_invalid_run_and_13_beats_10() {
    let server = Server::honest();
    // Twenty messages are no sample, in any build.
    let run = slo_run(server.port, "-n 20 -c 2 --strict", &["max<1us"]);
    assert_eq!((run.code, run.verdict()), (13, "invalid"));
    assert_eq!(state(&run, "sample"), "bad");
    assert_eq!((run.load("ok"), run.load("offered")), (20, 20), "counts stay");
    for (section, field) in [("rate", "offered_per_s"), ("rate", "achieved_per_s")] {
        assert!(run.json[section][field].is_null(), "{}", run.json[section]);
    }
    for kind in ["response", "service", "lag"] {
        let latency = run.json["latency"][kind].as_object().unwrap();
        for (field, value) in latency.iter().filter(|(field, _)| field.ends_with("_ns")) {
            assert!(value.is_null(), "{kind}.{field}: {value}");
        }
        assert_eq!(latency["hdr_v2_deflate_base64"], "");
    }
    assert_eq!(states(&run), ["not_assessed"]);
    for figure in ["p99.9", "a second", "response"] {
        assert!(!run.stderr.contains(figure), "{figure}: {}", run.stderr);
    }
    assert!(run.stderr.contains("rates and times are withheld (STRICT)"), "{}", run.stderr);
}

#[test]
fn an_unreachable_target_is_unreachable_also_when_strict() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let run = finish(start(port, "-n 10 -c 1 --strict --connect-timeout-secs 500ms"));
    assert_eq!((run.code, run.verdict()), (15, "unreachable"));
}

#[test]
fn ten_times_the_calibrated_ceiling_gives_no_figure() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &str| {
        let words: Vec<&str> = args.split_whitespace().collect();
        let mut command = command(&words);
        command.env("XDG_STATE_HOME", home.path()).output().unwrap()
    };
    let load = "-c 2 --batch-size 50 --shards 1";
    let output = run(&format!("calibrate {load} -z 50ms --quiet"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("kept in") && stderr.is_empty(), "{text}{stderr}");
    let folder = home.path().join("logboom/ceilings");
    let entry = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    let kept: Value = serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap();
    let ceilings = kept["ceilings"].as_array().unwrap();
    assert_eq!(ceilings.len(), 4, "null and sink, closed and open");
    for ceiling in ceilings {
        assert!(ceiling["per_s"].as_f64().unwrap() > 0.0, "{ceiling}");
        assert_eq!(ceiling["turns"].as_array().unwrap().len(), 5, "{ceiling}");
    }
    let open = |it: &&Value| it["against"] == "null" && it["drive"] == "open";
    let ceiling = ceilings.iter().find(open).unwrap()["per_s"].as_f64().unwrap();

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
    let rate = |times: f64| (ceiling * times) as u64;
    let over = run(&format!("--target null:// {load} -r {} -z 1s --strict --json -", rate(10.0)));
    let stderr = String::from_utf8_lossy(&over.stderr);
    assert_eq!(over.status.code(), Some(13), "{stderr}");
    let over: Value = serde_json::from_slice(&over.stdout).unwrap();
    assert_eq!(over["verdict"], "invalid");
    assert!(over["rate"]["achieved_per_s"].is_null());
    assert!(over["latency"]["response"]["p99_ns"].is_null());
    let find = |json: &Value, name: &str| -> Value {
        let signals = json["validity"]["signals"].as_array().unwrap();
        signals.iter().find(|signal| signal["name"] == name).unwrap().clone()
    };
    let signal = find(&over, "ceiling");
    assert_eq!(signal["state"], "bad");
    // Of the shape's own rounding, and nothing else: the ceiling is the one that was kept.
    assert!((9.9..10.1).contains(&signal["observed"].as_f64().unwrap()), "{signal}");
    assert_eq!(find(&over, "achieved")["state"], "bad");

    let under = run(&format!("--target null:// {load} -r {} -z 1s --json -", rate(0.05)));
    let under: Value = serde_json::from_slice(&under.stdout).unwrap();
    let signal = find(&under, "ceiling");
    assert_eq!(signal["state"], "ok", "{signal}");
    // Another load has another ceiling, which nobody has measured.
    let other = run("--target null:// -c 3 --batch-size 50 --shards 1 -r 100 -z 500ms --json -");
    let other: Value = serde_json::from_slice(&other.stdout).unwrap();
    let signal = find(&other, "ceiling");
    assert_eq!(signal["state"], "not_assessed");
    assert!(signal["detail"].as_str().unwrap().contains("logboom-loadgen calibrate"), "{signal}");
}
