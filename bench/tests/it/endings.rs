//! Runs that don't come to their end.

use super::schema;
use super::support::{Bench, Started, children, eventually, is_alive, kill};

/// A bench in the middle of a long peak.
fn amid_a_peak() -> Started {
    let mut started = Bench::with_engine("--tier warmup,peak --peak-secs 30").start();
    started.await_stderr("errors 0");
    started
}

#[test]
fn a_signal_ends_it_with_a_partial_report() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let started = amid_a_peak();
        started.signal(signal);
        let ran = started.finish().expect(code);
        let report = ran.report();
        schema::check(&report);
        assert_eq!(
            (&report["verdict"], &report["exit_code"]),
            (&"interrupted".into(), &code.into())
        );
        assert_eq!(report["tiers"].as_array().unwrap().len(), 2);
        let tier = &report["tiers"][1];
        assert_eq!(tier["summary"]["verdict"], "interrupted");
        assert!(tier["summary"]["load"]["ok"].as_u64().unwrap() > 1000);
        let audit = &tier["verification"]["audit"];
        assert_eq!((&audit["missing"], &audit["damaged"]), (&0.into(), &0.into()));
        assert_eq!(tier["verification"]["pass"], true, "{}", tier["verification"]["failures"]);
        ran.expect_nothing_left();
    }
}

#[test]
fn a_signal_in_a_pause_ends_it_at_once() {
    let mut started = Bench::with_engine("--tier warmup,peak --cooldown-secs 1h").start();
    started.await_stderr("warmup       pass");
    started.signal("INT");
    let ran = started.finish().expect(130);
    assert_eq!(ran.report()["tiers"].as_array().unwrap().len(), 1);
    ran.expect_nothing_left();
}

#[test]
fn an_engine_that_is_killed_is_told_and_owes_what_it_acknowledged() {
    let started = amid_a_peak();
    kill(started.child_with("logboom-engine"), "KILL");
    let ran = started.finish().expect(1);
    let report = ran.report();
    schema::check(&report);
    assert_eq!(report["verdict"], "broken");
    let trouble = report["trouble"].as_str().unwrap();
    assert!(trouble.contains("the engine died in tier peak: signal: 9"), "{trouble}");
    let verification = &report["tiers"][1]["verification"];
    assert!(verification["audit"]["acknowledged"].as_u64().unwrap() > 1000);
    assert_eq!(verification["audit"]["missing"], 0);
    ran.expect_nothing_left();
}

#[test]
fn a_generator_that_is_killed_breaks_the_run() {
    let started = amid_a_peak();
    kill(started.child_with("generate"), "KILL");
    let ran = started.finish().expect(1);
    let report = ran.report();
    schema::check(&report);
    assert!(report["trouble"].as_str().unwrap().contains("generator"), "{}", report["trouble"]);
    ran.expect_nothing_left();
}

#[test]
fn a_bench_that_is_killed_takes_its_children_along() {
    let mut started = amid_a_peak();
    let children = children(started.child.id());
    assert_eq!(children.len(), 2);
    assert!(children.iter().all(|pid| is_alive(*pid)));
    started.child.kill().unwrap();
    started.child.wait().unwrap();
    eventually("both children end", || children.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn an_engine_that_is_not_there_is_told_with_the_way_to_build_it() {
    let ran = Bench::new("--engine /no/engine").run().expect(3);
    assert!(ran.stderr().contains("/no/engine") && ran.stderr().contains("cargo build"));
    assert!(!ran.bench.folder().join("results").exists(), "nothing was run");
}

#[test]
fn a_mistake_in_the_arguments_is_usage() {
    let ran = Bench::new("--scale many").run().expect(2);
    assert!(ran.stderr().contains("many"), "{}", ran.stderr());
    Bench::with_engine("--scale 0").run().expect(2);
    Bench::new("--help").run().expect(0);
}

#[test]
fn an_engine_that_refuses_its_settings_says_so_through_the_bench() {
    let ran = Bench::with_engine("--tier warmup --engine-env BATCH_SIZE=none").run().expect(2);
    let stderr = ran.stderr();
    assert!(stderr.contains("the engine did not start") && stderr.contains("none"), "{stderr}");
    ran.expect_nothing_left();
}

#[test]
fn a_tier_that_the_disk_has_no_room_for_is_refused_on_stderr_by_knob_and_value() {
    let ran = Bench::with_engine("--tier warmup,peak --peak-secs 1000000000").run().expect(3);
    let (stdout, stderr) = (ran.stdout(), ran.stderr());
    for needle in ["logboom-bench: tier peak with 1000000000 s (PEAK_SECS)", "TMPDIR", " GiB free"]
    {
        assert!(stderr.contains(needle), "{needle} is not in: {stderr}");
    }
    assert_eq!(stdout.lines().filter(|line| line.contains("TMPDIR")).count(), 0, "{stdout}");
    assert!(stdout.contains("BROKEN  The run broke; 0 tiers"), "{stdout}");
    let report = ran.report();
    schema::check(&report);
    assert!(report["trouble"].as_str().unwrap().contains("PEAK_SECS"), "{}", report["trouble"]);
    ran.expect_nothing_left();
}
