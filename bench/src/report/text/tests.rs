//! What people see, as snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;

use loadgen::summary::{self, Load, Summary};

use super::*;
use crate::audit::{Audit, Missing};
use crate::judge::{Failure, FailureKind, Verification};
use crate::observe::Sample;
use crate::report::{Asked, Host, SCHEMA_VERSION, TierResources, Tool};
use crate::runner::cores::Cores;
use crate::runner::engine::Totals;

fn latency(scale: u64) -> LatencySummary {
    LatencySummary {
        count: 50_000_000,
        min_ns: Some(90 * scale),
        mean_ns: Some(1_000 * scale),
        p50_ns: Some(900 * scale),
        p90_ns: Some(5_100 * scale),
        p95_ns: Some(7_000 * scale),
        p99_ns: Some(12_345 * scale),
        p999_ns: Some(30_000 * scale),
        max_ns: Some(2_000_000 * scale),
        ..LatencySummary::default()
    }
}

fn summary() -> Summary {
    Summary {
        verdict: summary::Verdict::Pass,
        duration_ns: 27_912_345_678,
        load: Load { offered: 50_000_000, sent: 50_000_000, ok: 50_000_000, ..Load::default() },
        latency: summary::LatencySummaries {
            response: latency(1000),
            service: LatencySummary {
                lower_bounds: vec!["p99_ns".into(), "max_ns".into()],
                ..latency(800)
            },
            lag: latency(1),
        },
        ..Summary::default()
    }
}

fn resources() -> Resources {
    let sample = Sample { at_s: 0.0, cpu_percent: None, rss_bytes: 1 << 24 };
    Resources {
        cpu_seconds: 20.5,
        cpu_seconds_per_million: Some(0.41),
        cpu_mean_percent: 73.4,
        cpu_peak_percent: 99.6,
        rss_mean_bytes: 30 << 20,
        rss_peak_bytes: 33 << 20,
        caps: Caps::default(),
        samples: vec![sample],
    }
}

fn tier() -> TierReport {
    let count = 50_000_000;
    TierReport {
        name: "stress_test".into(),
        total_logs: Some(count),
        duration_secs: 30.0,
        concurrency: 100,
        run_id: "01016b5c-4".into(),
        summary: summary(),
        remarks: Vec::new(),
        resources: TierResources { engine: Some(resources()), generator: resources() },
        verification: Verification {
            min_rps: Some(1_666_666.7),
            max_error_rate: 0.01,
            achieved_per_s: 1_791_322.0,
            error_rate: 0.0,
            audit: Some(Audit { stored: count, acknowledged: count, ..Audit::default() }),
            engine_totals: Some(Totals { received: count, ok: count, ..Totals::default() }),
            failures: Vec::new(),
            pass: true,
        },
    }
}

fn report(verdict: Verdict, tiers: Vec<TierReport>) -> Report {
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        tool: Tool {
            name: "logboom-bench".into(),
            version: "0.1.0".into(),
            build: "release".into(),
        },
        verdict,
        exit_code: 0,
        sentence: String::new(),
        trouble: None,
        suite: "tiers".into(),
        started_at: "2026-11-21T03:53:57Z".into(),
        duration_ns: 1,
        host: Host {
            name: None,
            kernel: None,
            cpu_model: None,
            memory_bytes: None,
            cpus_allowed: vec![0, 1],
            cpu_quota: None,
            cores: Cores::split(&[0, 1]),
        },
        config: Asked {
            scale: 1000,
            cooldown_secs: 5.0,
            peak_secs: 5.0,
            min_rps: None,
            max_error_rate: 0.01,
            durability: None,
            engine: Some(PathBuf::from("logboom-engine")),
            engine_env: BTreeMap::new(),
            target: None,
            logs: None,
        },
        tiers,
    };
    report.sentence = sentence(&report);
    report
}

fn small(name: &str) -> TierReport {
    let mut tier = tier();
    tier.name = name.into();
    tier.summary.load = Load { offered: 100, sent: 100, ok: 100, ..Load::default() };
    tier.summary.latency.response.p99_ns = None;
    tier
}

#[test]
fn a_run_that_passes() {
    let report = report(Verdict::Pass, vec![small("warmup"), tier()]);
    insta::assert_snapshot!(render(&report, false));
}

#[test]
fn a_run_that_lost_a_line() {
    let mut bad = small("high_load");
    let range = Missing { conn: 17, first_seq: 42, count: 1 };
    bad.verification.audit = Some(Audit {
        stored: 99,
        acknowledged: 100,
        missing: 1,
        missing_ranges: vec![range],
        ..Audit::default()
    });
    bad.verification.failures = vec![
        Failure {
            kind: FailureKind::Missing,
            text:
                "1 of 100 acknowledged lines are not on disk; the first: connection 17, message 42"
                    .into(),
        },
        Failure { kind: FailureKind::TooSlow, text: "90 messages a second, asked for 500".into() },
    ];
    bad.verification.pass = false;
    bad.remarks = vec!["asked for durable (DURABILITY), the target grants written".into()];
    let mut report = report(Verdict::Fail, vec![small("warmup"), bad]);
    report.tool.build = "debug".into();
    report.exit_code = 12;
    report.sentence = sentence(&report);
    insta::assert_snapshot!(render(&report, false));
}

#[test]
fn a_run_against_a_target_without_its_segments() {
    let mut tier = tier();
    tier.resources.engine = None;
    tier.verification.audit = None;
    tier.verification.engine_totals = None;
    let mut report = report(Verdict::Pass, vec![tier]);
    report.config.target = Some("tcp://example.org:9000".into());
    report.host.cores = Cores::all_for_the_generator(&[0, 1]);
    report.sentence = sentence(&report);
    insta::assert_snapshot!(render(&report, false));
}

#[test]
fn caps_are_shown_where_there_are_any() {
    let mut tier = tier();
    tier.resources.generator.caps = Caps { cpus: vec![1], ..Caps::default() };
    assert!(!render(&report(Verdict::Pass, vec![tier.clone()]), false).contains("caps"));
    tier.resources.engine.as_mut().unwrap().caps = Caps {
        cpus: vec![0],
        cpu_quota: Some(0.5),
        periods: Some(280),
        throttled_periods: Some(12),
        throttled_s: Some(0.4711),
        memory_bytes_max: Some(512 << 20),
        memory_bytes: Some(40 << 20),
        memory_peak_bytes: Some(64 << 20),
        memory_reached: Some(0),
    };
    let text = render(&report(Verdict::Pass, vec![tier]), false);
    let (_, caps) = text.split_once("\n\ncaps").unwrap();
    let (caps, _) = caps.split_once("\n\n").unwrap();
    insta::assert_snapshot!(format!("caps{caps}"));
}

#[test]
fn a_run_that_broke_before_its_first_tier() {
    let mut report = report(Verdict::Broken, Vec::new());
    report.trouble = Some("no engine".into());
    insta::assert_snapshot!(render(&report, false), @r"
    BROKEN  The run broke; 0 tiers are in its report.
    ");
    assert!(render(&report, true).contains("\x1b[1;31mBROKEN\x1b[0m"));
}
