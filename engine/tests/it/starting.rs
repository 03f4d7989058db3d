//! Starting, refusing to start, and the doctor.

use std::process::Stdio;

use crate::clients::line;
use crate::harness::{Engine, command, run, stored};

fn refused(settings: &[(&str, &str)], code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = run(command(folder.path()).envs(settings.iter().copied()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
}

#[test]
fn what_cannot_work_is_refused_with_value_and_knob() {
    refused(&[("COMMIT_BYTES_MAX", "1000")], 2, &["1000", "COMMIT_BYTES_MAX"]);
    refused(&[("MIN_LOG_LEVEL", "LOUD")], 2, &["LOUD", "MIN_LOG_LEVEL"]);
    refused(&[("BUFFER_SIZE", "many")], 2, &["many", "BUFFER_SIZE"]);
    refused(&[("SERVER_HOST", "no such host")], 2, &["no such host", "SERVER_HOST"]);
    refused(&[("LOG_DIR", "/proc/no/such")], 3, &["/proc/no/such", "LOG_DIR"]);
}

#[test]
fn a_taken_port_is_refused_although_the_first_engine_shares_it() {
    let engine = Engine::start(&[]);
    let port = engine.address.port().to_string();
    refused(&[("SERVER_PORT", &port)], 3, &[&port, "SERVER_PORT", "in use"]);
    engine.stop().assert_clean();
}

#[test]
fn a_second_engine_on_the_same_folder_is_refused() {
    let engine = Engine::start(&[]);
    let output = run(&mut command(engine.folder.path()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("LOG_DIR"), "{said}");
    engine.stop().assert_clean();
}

#[test]
fn the_doctor_says_what_this_machine_allows() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(command(folder.path()).arg("doctor").stdin(Stdio::null()));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for item in ["kernel", "io_uring", "COOP_TASKRUN", "memlock", "nofile", "cpus", "direct"] {
        assert!(said.to_lowercase().contains(&item.to_lowercase()), "{item} is missing in: {said}");
    }
}

#[test]
fn a_relative_log_dir_is_below_the_working_directory() {
    let folder = tempfile::tempdir().unwrap();
    let mut relative = command(folder.path());
    relative.env_remove("LOG_DIR").current_dir(folder.path());
    let engine = Engine::start_as(relative, folder);
    assert_eq!(engine.converse((line("1") + "\n").as_bytes()).len(), 1);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stored(stopped.folder.path()).contains_key(&line("1")));
}
