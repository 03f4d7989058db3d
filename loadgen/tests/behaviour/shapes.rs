//! Shapes of load as the server sees them: what has come in by any moment is the integral of the
//! rate, as far as the run itself says that messages were on time.

use std::time::Duration;

use serde_json::Value;

use crate::liar::{Liar, Script};
use crate::tool::{Run, run};

/// Looks every 100 ms at what has come in: as much as `due(t)`, what is due by t seconds, between
/// the moments before and after by which the slowest message was late.
fn follows(server: &Liar, run: &Run, due: impl Fn(f64) -> f64) {
    // The server counts time from the first arrival, which was late by no more than that, too.
    let late = run.latency("response", "max_ns") + 0.001;
    let arrivals = server.arrivals();
    let end = arrivals.last().expect("messages have come in").as_secs_f64();
    let mut slice = 1.0;
    while slice / 10.0 < end {
        let t = slice / 10.0;
        let came = arrivals.partition_point(|&at| at < Duration::from_secs_f64(t)) as f64;
        let (least, most) = (due(t - late) - 1.0, due(t + late) + 1.0);
        assert!((least..=most).contains(&came), "{t} s: {came} not in {least}..{most}");
        slice += 1.0;
    }
    // Were the slowest message slow enough, all this would say nothing.
    let typical = run.latency("response", "p90_ns");
    assert!(typical < 0.05, "{typical}: this machine is too busy for any figure");
}

#[test]
fn a_constant_rate_comes_in_as_time_passes() {
    let server = Script::default().start();
    let run = run(server.port, "-r 2000 -z 2s -c 8 --shards 2");
    assert_eq!((run.code, run.load("ok")), (0, 4000));
    follows(&server, &run, |t| (t * 2000.0).clamp(0.0, 4000.0));
}

/// What the JSON says of a flow.
fn flow<'a>(run: &'a Run, name: &str) -> &'a Value {
    let flows = run.json["flows"].as_array().expect("flows");
    flows.iter().find(|flow| flow["name"] == name).unwrap_or_else(|| panic!("{name}: {flows:?}"))
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no time")) / 1e9
}

#[test]
fn stages_climb_hold_and_fall_as_the_integral_of_their_rate() {
    let server = Script::default().start();
    let run = run(server.port, "--stages 1s:1000,1s@1000,1s:0 -c 8 --shards 2");
    assert_eq!((run.code, run.load("offered"), run.load("ok")), (0, 2000, 2000));
    follows(&server, &run, |t| {
        let climb = t.clamp(0.0, 1.0);
        let hold = (t - 1.0).clamp(0.0, 1.0);
        let fall = (t - 2.0).clamp(0.0, 1.0);
        500.0 * climb * climb + 1000.0 * (hold + fall) - 500.0 * fall * fall
    });
}

#[test]
fn a_wave_swings_around_its_mean() {
    let server = Script::default().start();
    let run = run(server.port, "--wave mean=500,swing=400,every=2s -z 4s -c 8");
    assert_eq!((run.code, run.load("offered"), run.load("ok")), (0, 2000, 2000));
    follows(&server, &run, |t| {
        let t = t.clamp(0.0, 4.0);
        let round = std::f64::consts::TAU / 2.0;
        500.0 * t + 400.0 / round * (1.0 - (round * t).cos())
    });
}

#[test]
fn bursts_ride_on_their_base() {
    let server = Script::default().start();
    let run = run(server.port, "--burst rate=2000,for=500ms,every=2s,base=200,after=1s -z 4s -c 8");
    assert_eq!((run.code, run.load("offered"), run.load("ok")), (0, 2800, 2800));
    follows(&server, &run, |t| {
        let bursts = (t - 1.0).clamp(0.0, 0.5) + (t - 3.0).clamp(0.0, 0.5);
        200.0 * t.clamp(0.0, 4.0) + 2000.0 * bursts
    });
    assert_eq!(flow(&run, "base")["load"]["offered"], 800);
    assert_eq!(flow(&run, "burst")["load"]["offered"], 2000);
}

/// A server that takes 2 ms a message: a burst of 1,000 a second leaves most of itself waiting for
/// its own workers, and each message of the base meets at most those of the four workers.
#[test]
fn bursts_do_not_starve_their_base() {
    let server = Script::default().service(Duration::from_millis(2)).start();
    let run = run(
        server.port,
        "--burst rate=1000,for=500ms,every=2s,base=100,after=500ms -z 2s -c 4 --batch-size 1",
    );
    // 500 messages at no more than 500 a second less the base's: half a second late at the end.
    let late = seconds(&flow(&run, "burst")["latency"]["lag"]["p95_ns"]);
    assert!(late > 0.3, "burst: {late}");
    let late = seconds(&flow(&run, "base")["latency"]["lag"]["p95_ns"]);
    assert!(late < 0.1, "base: {late}");
    assert_eq!(flow(&run, "base")["load"]["ok"], 200);
}

#[test]
fn a_base_that_is_too_much_does_not_starve_its_bursts() {
    let server = Script::default().service(Duration::from_millis(2)).start();
    let run = run(
        server.port,
        "--burst rate=100,for=1s,every=2s,base=1000,after=500ms -z 2s -c 4 --batch-size 1",
    );
    let late = seconds(&flow(&run, "base")["latency"]["lag"]["p90_ns"]);
    assert!(late > 0.5, "base: {late}");
    let late = seconds(&flow(&run, "burst")["latency"]["lag"]["p90_ns"]);
    assert!(late < 0.1, "burst: {late}");
    assert_eq!(flow(&run, "burst")["load"]["ok"], 100);
}

#[test]
fn a_warm_up_reaches_the_server_and_no_figure() {
    let server = Script::default().stall(Duration::ZERO, Duration::from_millis(500)).start();
    let run = run(server.port, "-r 400 -w 1s -z 1s -c 8 --batch-size 100");
    assert_eq!((run.code, run.load("offered"), run.load("ok")), (0, 400, 400));
    assert_eq!(server.received(), 800);
    assert_eq!(run.json["rate"]["offered_per_s"], 400.0);
    // Half of the warm-up was stalled, which is nobody's latency.
    assert!(run.latency("response", "p95_ns") < 0.2, "{}", run.json["latency"]["response"]);
    assert_eq!(run.json["series"][0]["warmup"], true);
}

/// 1,000 a second for 3 s, and the second second is a stall: 1,000 messages become due that nobody
/// can send, but for those that the four workers hold.
#[test]
fn what_a_stall_left_behind_is_caught_up_as_asked() {
    let go = |catch_up: &str| {
        let stall = Duration::from_secs(1);
        let server = Script::default().stall(stall, stall).start();
        let run =
            run(server.port, &format!("-r 1000 -z 3s -c 4 --batch-size 50 --catch-up {catch_up}"));
        assert_eq!(run.load("offered"), 3000, "{catch_up}");
        run.load("unsent")
    };
    // At once, behind the stall: all.
    let asap = go("asap");
    assert!(asap <= 50, "{asap}");
    // Not at all; what the machine itself makes late by milliseconds is missed, too.
    let none = go("none");
    assert!((900..=2500).contains(&none), "{none}");
    // A fifth more than planned for the second that is left: 200 of the thousand at most. What a
    // busy machine delays before it cannot be made good either.
    let faster = go("1.2x");
    assert!((750..=2500).contains(&faster), "{faster}");
}
