//! What a service manager is told, and the unit that it reads.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Instant;

use crate::clients::line;
use crate::harness::{Engine, PATIENCE, command, skip};

/// Waits for a datagram with `what` in it; gives everything that came until then.
fn await_told(socket: &UnixDatagram, what: &str) -> String {
    let (mut all, mut bytes) = (String::new(), [0; 4096]);
    let began = Instant::now();
    while !all.lines().any(|line| line.starts_with(what)) {
        assert!(began.elapsed() < PATIENCE, "no {what} in {all}");
        if let Ok(length) = socket.recv(&mut bytes) {
            all.push_str(str::from_utf8(&bytes[..length]).unwrap());
            all.push('\n');
        }
    }
    all
}

#[test]
fn a_service_manager_is_told_of_the_start_the_watchdog_and_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = command(folder.path());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let engine = Engine::start_as(command, folder);
    let told = await_told(&socket, "READY=1");
    assert!(told.starts_with("STATUS=recovering"), "{told}");
    assert!(told.contains(&format!("MAINPID={}", engine.pid())), "{told}");
    assert!(told.contains(&format!("STATUS=listening on {}", engine.address)), "{told}");
    assert_eq!(engine.converse((line("1") + "\n").as_bytes()).len(), 1);
    for _ in 0..3 {
        await_told(&socket, "WATCHDOG=1");
    }
    engine.signal("-TERM");
    let told = await_told(&socket, "STOPPING=1");
    assert!(told.contains("STATUS=draining"), "{told}");
    let mut engine = engine;
    engine.wait().assert_clean();
}

#[test]
fn a_manager_that_has_gone_is_no_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.env("NOTIFY_SOCKET", folder.path().join("nobody")).env("WATCHDOG_USEC", "600000");
    let engine = Engine::start_as(command, folder);
    assert_eq!(engine.converse((line("1") + "\n").as_bytes()).len(), 1);
    engine.stop().assert_clean();
}

#[test]
fn the_unit_is_one_that_systemd_understands_and_is_hardened() {
    const NAME: &str = "the_unit_is_one_that_systemd_understands_and_is_hardened";
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/logboom-engine.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let program = "ExecStart=/usr/local/bin/logboom-engine\n";
    assert!(unit.contains(program), "{unit}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logboom-engine.service");
    let engine = format!("ExecStart={}\n", env!("CARGO_BIN_EXE_logboom-engine"));
    std::fs::write(&path, unit.replace(program, &engine)).unwrap();
    let analyze = |arguments: &[&str]| {
        Command::new("systemd-analyze")
            .args(arguments)
            .arg(&path)
            .env("SYSTEMD_COLORS", "0")
            .output()
    };
    let Ok(verified) = analyze(&["verify", "--man=no"]) else {
        return skip(NAME, "systemd-analyze is not here");
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !said.contains("logboom-engine.service:"), "{said}");
    // Exposure, in tenths of a point of ten: at most 2.0.
    let security =
        analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]).unwrap();
    let said = String::from_utf8_lossy(&security.stdout).into_owned();
    assert!(security.status.success(), "{said}");

    // Every call that glommio's rings and pinned threads need, through all the filter's lines.
    let listed = Command::new("systemd-analyze").args(["syscall-filter", "@privileged"]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let filters: Vec<&str> =
        unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")).collect();
    assert_eq!(filters.first(), Some(&"@system-service"));
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(filters.iter().any(|filter| filter.split(' ').any(|it| it == call)), "{call}");
        assert!(!listed.lines().any(|line| line.trim() == call), "{call} is taken away again");
    }
}
