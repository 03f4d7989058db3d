//! Signals one by one, from evidence in plain numbers.

use super::run_queue::Ran;
use super::*;

const SECOND_NS: u64 = 1_000_000_000;

/// A run that nothing can be said against.
fn good() -> Evidence {
    Evidence {
        elapsed_ns: 10_000_000_000,
        is_debug: false,
        is_open_loop: true,
        has_replies: true,
        offered: 100_000,
        unsent: 0,
        sample: 100_000,
        response_p99_ns: Some(2_000_000),
        lag_p99_ns: Some(900_000),
        lag_own_share: None,
        tick_ns: 1_000_000,
        is_spinning: false,
        threads: Some(threads(0.3, 0.01)),
        in_flight: Ok(InFlight { sampled_mean: 10.4, expected_mean: 10.0, error: 0.3 }),
        drift: Some(Drift { elapsed_ns: 10 * SECOND_NS, wall_step_ns: -1_000, suspended_ns: 0 }),
        rate_per_s: 10_000.0,
        ceiling_per_s: Ok(1_000_000.0),
        shared: Ok(Shared::new(vec![42], 1, 1_000)),
        steadiness: Steadiness::new(&[1e4; 10], &[1e6; 10]),
    }
}

fn threads(busy: f64, wait: f64) -> Threads {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
    let ns = |share: f64| (share * SECOND_NS as f64) as u64;
    let ran = Ran { elapsed_ns: SECOND_NS, cpu_ns: ns(busy), wait_ns: ns(wait), slices: 1000 };
    Threads::new([Some(Ran::default()), Some(ran)]).unwrap()
}

fn state(name: &str, spoil: impl FnOnce(&mut Evidence)) -> (SignalState, String) {
    let mut evidence = good();
    spoil(&mut evidence);
    let validity = Validity::judge(&evidence);
    let signal = validity.signals.into_iter().find(|signal| signal.name == name);
    let signal = signal.unwrap_or_else(|| panic!("there is a signal {name}"));
    let has_numbers = signal.observed.is_some() && signal.limit.is_some();
    assert!(has_numbers || name == "build" || signal.state == SignalState::NotAssessed);
    (signal.state, signal.detail)
}

use SignalState::{Bad, NotAssessed, Ok as Fine};

#[test]
fn a_run_of_less_than_a_second_says_nothing_about_shares_of_time() {
    let mut evidence = Evidence { elapsed_ns: 999_999_999, ..good() };
    evidence.threads = Some(threads(0.3, 0.5));
    evidence.shared = Ok(Shared::new(vec![42], 500, 1_000));
    let state = |evidence: &Evidence, name: &str| {
        let validity = Validity::judge(evidence);
        validity.signals.into_iter().find(|signal| signal.name == name).unwrap().state
    };
    for name in ["run_queue", "target_cores"] {
        assert_eq!(state(&evidence, name), SignalState::NotAssessed, "{name}");
    }
    evidence.elapsed_ns += 1;
    for name in ["run_queue", "target_cores"] {
        assert_eq!(state(&evidence, name), SignalState::Bad, "{name}");
    }
}

#[test]
fn a_good_run_is_valid_and_all_its_signals_are_ok() {
    let validity = Validity::judge(&good());
    assert!(validity.is_valid, "{validity:?}");
    assert!(validity.signals.iter().all(|signal| signal.state == Fine), "{validity:?}");
    assert_eq!(
        validity.lines(),
        ["ok            build, sample, lag, achieved, run_queue, \
        littles_law, clock, ceiling, target_cores, steady_state"]
    );
    let json = serde_json::to_string(&validity).unwrap();
    assert_eq!(serde_json::from_str::<Validity>(&json).unwrap(), validity);
}

#[test]
fn every_signal_turns_bad_at_its_limit_and_says_what_to_try() {
    type Spoil = fn(&mut Evidence);
    let cases: [(&str, Spoil, Spoil, &str); 13] = [
        ("build", |_| {}, |it| it.is_debug = true, "--release"),
        ("sample", |it| it.sample = 1_000, |it| it.sample = 999, "TOTAL_LOGS"),
        (
            "lag",
            |it| it.lag_p99_ns = Some(5_000_000),
            |it| it.lag_p99_ns = Some(5_000_001),
            "PACING precise",
        ),
        ("lag", |it| it.tick_ns = 200_000, |it| it.tick_ns = 100_000, "SHARDS"),
        ("achieved", |it| it.unsent = 5_000, |it| it.unsent = 5_001, "lower the rate"),
        (
            "run_queue",
            |it| it.threads = Some(threads(0.3, 0.1)),
            |it| it.threads = Some(threads(0.3, 0.11)),
            "taskset",
        ),
        (
            "littles_law",
            |it| {
                it.in_flight = Ok(InFlight { sampled_mean: 14.9, expected_mean: 10.0, error: 0.0 })
            },
            |it| it.in_flight = Ok(InFlight { sampled_mean: 6.6, expected_mean: 10.0, error: 0.0 }),
            "report",
        ),
        (
            "littles_law",
            |it| {
                it.in_flight = Ok(InFlight { sampled_mean: 16.0, expected_mean: 10.0, error: 1.6 })
            },
            |it| {
                it.in_flight = Ok(InFlight { sampled_mean: 16.0, expected_mean: 10.0, error: 1.4 })
            },
            "seed",
        ),
        (
            "clock",
            |it| {
                it.drift = Some(Drift {
                    elapsed_ns: 10 * SECOND_NS,
                    wall_step_ns: -14_000_000,
                    suspended_ns: 0,
                })
            },
            |it| {
                it.drift = Some(Drift {
                    elapsed_ns: 10 * SECOND_NS,
                    wall_step_ns: -16_000_000,
                    suspended_ns: 0,
                })
            },
            "set by 16.0 ms",
        ),
        (
            "clock",
            |_| {},
            |it| {
                it.drift =
                    Some(Drift { elapsed_ns: SECOND_NS, wall_step_ns: 0, suspended_ns: SECOND_NS })
            },
            "suspended for 1.00 s",
        ),
        (
            "ceiling",
            |it| it.rate_per_s = 899_999.0,
            |it| it.rate_per_s = 900_001.0,
            "several machines",
        ),
        (
            "target_cores",
            |it| it.shared = Ok(Shared::new(vec![42], 5, 100)),
            |it| it.shared = Ok(Shared::new(vec![42, 43], 6, 100)),
            "(pid 42, 43) took 6 % of our cpus",
        ),
        (
            "steady_state",
            |it| it.steadiness = Steadiness::new(&[1e4; 10], &[]),
            |it| it.steadiness = Steadiness::new(&[vec![1e4; 10], vec![5e3; 10]].concat(), &[]),
            "throughput fell",
        ),
    ];
    for (name, fine, bad, advice) in cases {
        let (is_fine, detail) = state(name, fine);
        assert_eq!(is_fine, Fine, "{name}: {detail}");
        let (is_bad, detail) = state(name, bad);
        assert!(is_bad == Bad && detail.contains(advice), "{name}: {detail}");
        let mut evidence = good();
        bad(&mut evidence);
        let validity = Validity::judge(&evidence);
        assert!(!validity.is_valid && validity.reasons().starts_with(name), "{name}");
    }
}

#[test]
fn a_signal_without_evidence_is_not_assessed_and_never_ok() {
    type Spoil = fn(&mut Evidence);
    let cases: [(&str, Spoil); 10] = [
        ("sample", |it| it.has_replies = false),
        ("lag", |it| it.lag_p99_ns = None),
        ("lag", |it| it.is_open_loop = false),
        ("achieved", |it| it.offered = 0),
        ("run_queue", |it| it.threads = None),
        ("littles_law", |it| it.in_flight = Err("x".into())),
        ("clock", |it| it.drift = None),
        ("ceiling", |it| it.ceiling_per_s = Err("x".into())),
        ("target_cores", |it| it.shared = Err("x".into())),
        ("steady_state", |it| it.steadiness = Err("x".into())),
    ];
    for (name, spoil) in cases {
        let (state, detail) = state(name, spoil);
        assert!(state == NotAssessed && !detail.is_empty(), "{name}: {detail}");
    }
}

#[test]
fn lag_that_the_target_caused_counts_in_the_response_and_is_not_ours() {
    let stalled = |it: &mut Evidence| {
        it.lag_p99_ns = Some(SECOND_NS);
        it.response_p99_ns = Some(SECOND_NS);
    };
    assert_eq!(state("lag", stalled).0, Bad, "nobody knows whose it is");
    let (found, detail) = state("lag", |it| {
        stalled(it);
        it.lag_own_share = Some(0.01);
    });
    assert!(found == Fine && detail.contains("1 % of it within the generator"), "{detail}");
    let busy = |it: &mut Evidence| {
        stalled(it);
        it.lag_own_share = Some(0.01);
        it.threads = Some(threads(0.95, 0.0));
    };
    // Workers wait for each other where a shard has no time left.
    assert_eq!(state("lag", busy).0, Bad);
    let spinning = |it: &mut Evidence| {
        busy(it);
        it.is_spinning = true;
    };
    assert_eq!(state("lag", spinning).0, Fine);
    assert_eq!(state("lag", |it| it.lag_own_share = Some(0.9)).0, Fine, "small lag is nobody's");
}

#[test]
fn close_to_the_ceiling_is_said_though_it_is_not_bad_yet() {
    let (found, detail) = state("ceiling", |it| it.rate_per_s = 750_000.0);
    assert!(found == Fine && detail.contains("close to it"), "{detail}");
}

#[test]
fn lines_name_what_is_bad_first_and_what_nobody_looked_at_last() {
    let mut evidence = good();
    evidence.is_debug = true;
    evidence.ceiling_per_s = Err("not calibrated".into());
    let lines = Validity::judge(&evidence).lines();
    assert_eq!(lines[0], "BAD           build");
    assert!(lines[1].starts_with("ok            sample, lag, "), "{lines:?}");
    assert_eq!(lines[2], "not assessed  ceiling: not calibrated");
}
