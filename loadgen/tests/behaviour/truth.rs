//! What a run says, against what a server that lies by a script makes true.
//!
//! Times are asserted as arithmetic gives them. A busy machine adds to them and never takes away;
//! what it adds, a run tells itself: in the seconds in which the server was at its best.

use std::time::Duration;

use crate::liar::{Deed, Script};
use crate::tool::{Run, run};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The quantile `q` of the response, in seconds, where messages come evenly for `seconds` and the
/// server stalls once for `stall`: of those due in the stall, the first waits for all of it and the
/// last not at all, so that their waits are spread evenly over it; all others take no time.
fn stalled_response(seconds: f64, stall: f64, q: f64) -> f64 {
    let share = stall / seconds;
    let above = (1.0 - q) / share;
    stall * (1.0 - above).max(0.0)
}

#[test]
fn the_arithmetic_of_a_stall_is_that_of_its_messages() {
    for (seconds, stall) in [(5, 1), (4, 2), (10, 3)] {
        let mut waits: Vec<u64> =
            (0..seconds * 1000).map(|due: u64| (1000u64 * stall).saturating_sub(due)).collect();
        waits.sort_unstable();
        for q in [0.5, 0.9, 0.95, 0.99, 0.999] {
            let counted = crate::queue::quantile(&waits, q) as f64 / 1e3;
            let derived = stalled_response(seconds as f64, stall as f64, q);
            assert!(
                (counted - derived).abs() < 0.002,
                "{seconds} {stall} {q}: {counted} {derived}"
            );
        }
    }
}

/// The longest response of the seconds in which nothing but the machine disturbed the run.
fn noise(run: &Run, seconds: &[usize]) -> f64 {
    let max = |&second: &usize| {
        run.json["series"][second]["response_max_ns"].as_f64().expect("messages in it") / 1e9
    };
    seconds.iter().map(max).fold(0.0, f64::max)
}

#[test]
fn a_stall_shows_in_the_percentiles_as_arithmetic_says_and_takes_nothing_from_what_is_offered() {
    let server = Script::default().stall(ms(2000), ms(1000)).start();
    // Workers for all that waits at the end of the stall.
    let run = run(server.port, "-r 1000 -z 5s -c 8 --batch-size 200");
    assert_eq!((run.code, run.load("offered"), run.load("ok")), (0, 5000, 5000));
    assert_eq!(server.received(), 5000);
    for second in &run.json["series"].as_array().unwrap()[..5] {
        assert_eq!(second["offered"], 1000, "{second}");
    }
    // What the machine adds elsewhere it may have added here; 15 ms are for a thousand messages in
    // one go. The server's clock starts when the first message has come, which makes the stall
    // later and no shorter. The pacer's tick and a histogram's step are 5 ms below.
    let room = 0.015 + 2.0 * noise(&run, &[0, 1, 4]);
    for (field, q) in [("p90_ns", 0.9), ("p95_ns", 0.95), ("p99_ns", 0.99)] {
        let derived = stalled_response(5.0, 1.0, q);
        let told = run.latency("response", field);
        assert!((derived - 0.005..derived + room).contains(&told), "{field}: {told}, room {room}");
    }
    assert!(run.latency("response", "p50_ns") < room);
    // Who times from the write sees no more than the eight batches that were under way.
    assert!(run.latency("service", "p95_ns") < 0.3);
    // The eight that were under way had no lag.
    assert!(run.latency("lag", "p95_ns") > 0.73, "the wait was before the write");
}

#[test]
fn a_closed_loop_hides_the_same_stall() {
    let server = Script::default().stall(ms(1000), ms(1000)).start();
    // A thousand a second at most: one worker that rests a millisecond.
    let run = run(server.port, "-z 3s -c 1 --batch-size 1 --think-time 1ms");
    assert_eq!((run.code, run.load("unsent")), (0, 0));
    // Only the one message that was under way has met the stall …
    assert!(run.latency("response", "max_ns") > 0.9);
    // … of which there were hundreds, so that not even one in a hundred knows of it. By arithmetic
    // it is a third of the time: for whoever came then, p90 is at least 0.7 s.
    assert!(run.load("ok") > 200, "{}", run.json["load"]);
    assert!(run.latency("response", "p95_ns") < 0.2, "{}", run.json["latency"]["response"]);
    assert!(stalled_response(3.0, 1.0, 0.95) > 0.8);
}

#[test]
fn whatever_the_lies_a_message_is_ok_at_most_once_for_each_ok_that_was_meant() {
    // One message in twelve is lied about, in six ways.
    let lies = [
        Deed::Reject("disk_full"),
        Deed::Swallow,
        Deed::Repeat,
        Deed::Babble,
        Deed::Reset,
        Deed::Close,
    ];
    let server = Script::default()
        .choose(move |n| {
            let mut random = loadgen::plan::random::Random::new(n);
            if random.below(12) == 0 { *random.pick(&lies) } else { Deed::Answer }
        })
        .start();
    let run = run(server.port, "-r 500 -z 2s -c 20 --batch-size 10 --reply-timeout-secs 300ms");
    assert_eq!((run.code, run.verdict(), run.load("offered")), (10, "fail", 1000));
    // Every kind has left its trace.
    for code in ["disk_full", "mismatch", "reset"] {
        assert!(run.error(code) > 0, "{code}: {}", run.json["errors"]);
    }
    assert!(run.error("timeout") + run.load("unanswered") > 0, "{}", run.json["errors"]);
    assert!(run.load("ok") > 300, "{}", run.json["load"]);
    assert!(run.load("ok") <= server.answered(), "{} {}", run.load("ok"), server.answered());
    assert!(run.load("sent") >= server.received());
}

#[test]
fn messages_without_a_reply_are_not_ok_and_cost_at_least_the_wait() {
    // Every tenth is never answered; each has a connection for itself.
    let server = Script::default()
        .choose(|n| if n % 10 == 9 { Deed::Swallow } else { Deed::Answer })
        .start();
    let run = run(server.port, "-r 200 -z 2s -c 60 --batch-size 1 --reply-timeout-secs 1");
    let missing = run.error("timeout") + run.load("unanswered");
    assert_eq!(server.received() - server.answered(), server.received() / 10);
    assert_eq!((run.load("ok"), missing), (server.answered(), server.received() / 10));
    assert_eq!(run.load("offered"), 400);
    // A tenth took at least a second, so the slowest twentieth did; printed as a bound.
    let response = &run.json["latency"]["response"];
    assert!(run.latency("response", "p95_ns") >= 0.99, "{response}");
    assert!(response["lower_bounds"].as_array().unwrap().contains(&"p95_ns".into()), "{response}");
    assert!(run.latency("response", "p50_ns") < 0.5, "{response}");
}

#[test]
fn a_server_that_accepts_late_shows_in_the_response() {
    let server = Script::default().accept_after(ms(1000)).start();
    let run = run(server.port, "-r 200 -z 2s -c 4 --batch-size 500");
    assert_eq!((run.code, run.load("ok")), (0, 400));
    // Half of the messages were due before anybody listened: as a stall of 1 s in 2 s.
    let derived = stalled_response(2.0, 1.0, 0.9);
    let told = run.latency("response", "p90_ns");
    assert!((derived - 0.03..derived + 0.5).contains(&told), "{told} {derived}");
}

#[test]
fn a_connection_is_replaced_after_its_messages_and_nothing_is_lost() {
    let server = Script::default().start();
    let run = run(server.port, "-n 1000 -c 4 --batch-size 10 --connection-messages-max 50");
    assert_eq!((run.code, run.load("ok"), server.received()), (0, 1000, 1000));
    // Batches of 10: each connection carries 50, its last one may carry fewer.
    assert!((20..=24).contains(&server.connections()), "{}", server.connections());
}

#[test]
fn a_storm_knocks_with_all_connections_at_once_again_and_again() {
    let server = Script::default().start();
    let run = run(
        server.port,
        "-r 400 -z 2s -c 40 --batch-size 1 --connect storm --connection-secs-max 500ms",
    );
    assert_eq!((run.code, run.load("ok")), (0, 800));
    // At 0, 0.5, 1 and 1.5 s; a worker that has nothing to send then connects when it has.
    assert!((100..=160).contains(&server.connections()), "{}", server.connections());
}

#[test]
fn a_worker_rests_between_its_batches() {
    let server = Script::default().start();
    let run = run(server.port, "-z 2s -c 2 --batch-size 5 --think-time 20ms..60ms");
    // A round takes 40 ms on average and a worker's share of 2 s at least: at most 50 rounds each,
    // with room for chance (50 rests of 20 to 60 ms vary by 82 ms together).
    assert!((200..=2 * 5 * 55).contains(&run.load("ok")), "{}", run.load("ok"));
    assert!(run.latency("response", "p50_ns") < 0.02, "a rest is not latency");
}

#[test]
fn a_server_that_reads_slowly_shows_as_lag_for_the_socket_was_full() {
    // 16 MiB through a server that reads 8 MiB a second.
    let server = Script::default().read_slowly(8 << 20).start();
    let run = run(server.port, "-n 256 -c 1 --batch-size 256 --payload-bytes 64KiB");
    assert_eq!((run.code, run.load("ok")), (0, 256));
    // The last message is read when all are, but for the last read of at most 64 KiB.
    let last = run.latency("response", "max_ns");
    assert!(last > 1.99, "{last}");
    // It could be written when all but what the kernel's buffers hold had been read, a few MiB.
    let (lag, service) = (run.latency("lag", "max_ns"), run.latency("service", "max_ns"));
    assert!(lag > 1.0 && service < last, "lag {lag}, service {service}");
    assert!(run.lag_share("socket") > 0.5, "{}", run.json["latency"]["lag"]["causes"]);
}
