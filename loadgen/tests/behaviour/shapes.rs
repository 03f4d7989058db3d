//! Shapes of load as the server sees them: what has come in by any moment is the integral of the
//! rate, as far as the run itself says that messages were on time.

use std::time::Duration;

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
