//! `logboom-engine check`: every knob and its source, all findings, and no secret.

use crate::harness::{command, run};

/// Exit code, and what stdout says.
fn check(settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    let output = run(command.envs(settings.iter().copied()).args(arguments));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{said}");
    assert!(!folder.path().join("logs").exists(), "LOG_DIR is left alone");
    (output.status.code(), said)
}

#[test]
fn every_knob_is_shown_with_its_value_and_where_it_comes_from() {
    let (code, said) = check(&[("BATCH_SIZE", "1k")], &["--server-port", "9050", "check"]);
    assert_eq!(code, Some(0), "{said}");
    let row = |name: &str| {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {said}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("SERVER_PORT"), ["SERVER_PORT", "9050", "flag"]);
    assert_eq!(row("BATCH_SIZE"), ["BATCH_SIZE", "1k", "environment"]);
    assert_eq!(row("COMMIT_BYTES_MAX"), ["COMMIT_BYTES_MAX", "4MiB", "default"]);
    assert!(row("SHARDS")[1].parse::<usize>().unwrap() > 0, "what this machine means");
    let options = engine::config::command();
    for arg in options.get_arguments().filter(|arg| arg.get_env().is_some()) {
        row(arg.get_env().unwrap().to_str().unwrap());
    }
}

#[test]
fn all_that_is_wrong_is_told_and_exits_2() {
    let settings = [
        ("BUFFER_SIZE", "many"),
        ("LOG_FORMAT", "xml"),
        ("BATCH_SIZE", "0"),
        ("MEMORY_BYTES_MAX", "1MiB"),
        ("ADMIN_HOST", "no such host"),
    ];
    let (code, said) = check(&settings, &["check"]);
    assert_eq!(code, Some(2), "{said}");
    let wrong: Vec<_> = said.lines().filter(|line| line.starts_with("wrong: ")).collect();
    assert_eq!(wrong.len(), settings.len(), "{said}");
    for ((knob, _), line) in settings.iter().zip(["many", "xml", "BATCH", "MEMORY", "ADMIN"]) {
        assert!(wrong.iter().any(|wrong| wrong.contains(line)), "{knob} is not in {said}");
    }
}

#[test]
fn certificates_and_token_are_read_and_missing_ones_exit_as_a_start_does() {
    let folder = tempfile::tempdir().unwrap();
    for settings in [
        [("ENABLE_TLS", "true"), ("CERT_DIR", "/no/certs")],
        [("AUTH_TOKEN_FILE", "/no/token"), ("ENABLE_UDP", "false")],
    ] {
        let (code, said) = check(&settings, &["check"]);
        assert!(said.contains("wrong: ") && said.contains("1 finding"), "{said}");
        let start = run(command(folder.path()).envs(settings));
        assert_eq!(start.status.code(), code, "{said}");
        let start = String::from_utf8(start.stderr).unwrap();
        let reason = start.trim().strip_prefix("logboom-engine: ").unwrap();
        assert!(said.contains(reason), "{reason} is not in {said}");
    }
}

#[test]
fn a_start_says_the_same_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    let output = run(command.env("BUFFER_SIZE", "many").env("LOG_FORMAT", "xml"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("many") && said.contains("xml") && said.lines().count() == 1, "{said}");
}

#[test]
fn json_has_the_same_knobs_and_findings() {
    let (code, said) = check(&[("BATCH_SIZE", "0")], &["check", "--json"]);
    assert_eq!(code, Some(2));
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let knobs = report["knobs"].as_array().unwrap();
    let batch = knobs.iter().find(|knob| knob["name"] == "BATCH_SIZE").unwrap();
    assert_eq!((&batch["value"], &batch["source"]), (&"0".into(), &"environment".into()));
    assert_eq!(report["findings"][0]["exit_code"], 2);
}

#[test]
fn a_token_is_read_but_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "not-for-your-eyes\n").unwrap();
    let path = path.to_str().unwrap();
    for arguments in [&["check"][..], &["check", "--json"]] {
        let (_, said) = check(&[("AUTH_TOKEN_FILE", path)], arguments);
        assert!(said.contains(path) && !said.contains("not-for-your-eyes"), "{said}");
    }
}
