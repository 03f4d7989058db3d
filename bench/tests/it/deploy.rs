//! What of deploy/ can be held without a container engine: caps for a native run, the seccomp profile,
//! the words of the Makefile. The rest is for deploy/verify-containers.sh.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use runtime::cpus::Cpus;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn capped(arguments: &[&str]) -> Output {
    Command::new(root().join("deploy/capped.sh")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_command_under_caps_has_its_cpu_and_its_group_and_keeps_its_exit_code() {
    let cpu = Cpus::detect().unwrap().affinity[0].to_string();
    let script = "grep Cpus_allowed_list /proc/self/status; cat /proc/self/cgroup; exit 7";
    let output =
        capped(&["--cpuset", &cpu, "--cpus", "0.5", "--memory", "64M", "--", "sh", "-c", script]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(stdout.contains(&format!("Cpus_allowed_list:\t{cpu}\n")), "{stdout}");
    if stderr.contains("by a cgroup") {
        let group = stdout.lines().find_map(|line| line.split("logboom-capped-").nth(1));
        let group = format!("logboom-capped-{}", group.unwrap());
        for place in ["", "cpu", "memory"] {
            let left = Path::new("/sys/fs/cgroup").join(place).join(&group);
            assert!(!left.exists(), "{} stays behind", left.display());
        }
    } else {
        // Not every machine lets one make a group; then that is said.
        assert!(stderr.contains("by systemd") || stderr.contains("NOT capped"), "{stderr}");
    }
}

#[test]
fn caps_that_are_none_are_refused_by_value_and_name() {
    for (arguments, needle) in [
        (&["--memory", "much", "--", "true"][..], "much (--memory)"),
        (&["--cpuset", "4000", "--", "true"], "4000 (--cpuset)"),
        (&["--speed", "9", "--", "true"], "--speed"),
        (&["--cpus", "1"], "no command"),
    ] {
        let output = capped(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(needle), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_seccomp_profile_refuses_what_it_does_not_name_and_allows_io_uring() {
    let profile = std::fs::read_to_string(root().join("deploy/seccomp.json")).unwrap();
    let profile: Value = serde_json::from_str(&profile).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let allowed: BTreeSet<&str> = rules
        .iter()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule["args"].is_null())
        .flat_map(|rule| rule["names"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    for needed in ["io_uring_setup", "io_uring_enter", "io_uring_register", "execve", "fdatasync"] {
        assert!(allowed.contains(needed), "{needed}");
    }
    // Of the calls that an engine's default keeps from a container without capabilities.
    for refused in
        ["mount", "unshare", "setns", "bpf", "init_module", "kexec_load", "keyctl", "reboot"]
    {
        assert!(!allowed.contains(refused), "{refused}");
    }
}

#[test]
fn the_makefile_has_the_same_words_both_ways() {
    for via in ["docker", "native"] {
        let make = |target: &str| {
            let mut command = Command::new("make");
            command.current_dir(root()).env_remove("MAKEFLAGS").env("VIA", via);
            text(&command.args(["--dry-run", target]).output().unwrap().stdout)
        };
        for target in "setup build test run load benchmark perf stop clean certs observe".split(' ')
        {
            let plan = make(target);
            assert!(plan.contains(&format!("make {target}: via {via}")), "{plan}");
        }
        assert!(make("load").contains("-n 1000 -c 5"), "{}", make("load"));
    }
}
