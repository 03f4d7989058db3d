//! The bench as its user meets it: the real binary, with the real engine and with fakes that lie.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod it {
    mod deploy;
    mod endings;
    mod fakes;
    mod grafana;
    mod replays;
    mod schema;
    mod support;
    mod targets;
    mod tiers;
    mod transports;
    mod watched;
}
