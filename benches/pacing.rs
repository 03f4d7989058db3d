//! How exactly messages are sent when they are due, at rising rates.
//!
//! `cargo build --release && cargo run --release -p logboom-benches --bin pacing`
//!
//! The real generator with one shard, which is on the first cpu, the real engine on the second half of
//! them, and so many connections that a slow reply keeps no message back. Before and behind every
//! run this program spins on the shard's cpu and notes where the clock jumped: what the machine takes
//! from anybody there. Lag beyond that is the generator's. `nice -n -20` before the command, where
//! permitted, gives that cpu to the shard rather than to what else wakes there.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures and prints")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use logboom_benches::rig::{Engine, beside, halves, json, on};
use logboom_benches::spread;

/// Lag at rising rates.
#[derive(Parser)]
struct Options {
    /// Runs at each rate
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a run, behind one of warm-up
    #[arg(long, default_value_t = 8)]
    secs: u64,
    /// Messages a second
    #[arg(long, value_delimiter = ',', default_value = "1k,10k,100k,500k", value_parser = runtime::units::count)]
    rates: Vec<u64>,
    /// precise or thrifty
    #[arg(long, default_value = "precise")]
    pacing: String,
    /// Connections of the generator
    #[arg(long, default_value_t = 256)]
    connections: usize,
}

/// A gap is what a message at its due time would have waited for: longer than any system call.
const GAP: Duration = Duration::from_micros(50);
const LIMIT: Duration = Duration::from_micros(200);
const SPIN: Duration = Duration::from_secs(2);

/// What a run came to.
struct Found {
    /// p50, p95 and p99, µs.
    lag_us: [f64; 3],
    /// Shares of the time.
    cpu: f64,
    no_cpu: f64,
}

fn main() {
    let options = Options::parse();
    let (first, second) = halves();
    let cpu = &first[..1];
    let folder = tempfile::tempdir().unwrap();
    let alone = [("ENABLE_PERSISTENCE", "false"), ("DURABILITY", "received"), ("SHARDS", "1")];
    let engine = Engine::start(&second, folder.path(), alone);
    println!(
        "lag of {} pacing, {} connections, one shard: median (least to most) of {} runs of {} s",
        options.pacing, options.connections, options.rounds, options.secs
    );
    println!(
        "{:>9} {:>24} {:>24} {:>28} {:>8} {:>9} {:>14}",
        "rate/s", "p50 us", "p95 us", "p99 us", "cpu", "no cpu", "machine's gaps"
    );
    for &rate in &options.rates {
        let mut gaps = Vec::new();
        let mut runs = Vec::new();
        for _ in 0..options.rounds {
            gaps.push(on(cpu, beyond_limit));
            runs.push(run(engine.port, folder.path(), rate, &options));
            gaps.push(on(cpu, beyond_limit));
        }
        let of = |at: usize| runs.iter().map(move |run| run.lag_us[at]);
        let mean = |of: &dyn Fn(&Found) -> f64| {
            runs.iter().map(of).sum::<f64>() / runs.len() as f64 * 100.0
        };
        println!(
            "{rate:>9} {:>24} {:>24} {:>28} {:>6.1} % {:>7.2} % {:>12.3} %",
            spread(0, of(0)),
            spread(0, of(1)),
            spread(0, of(2)),
            mean(&|run| run.cpu),
            mean(&|run| run.no_cpu),
            gaps.iter().sum::<f64>() / gaps.len() as f64 * 100.0,
        );
    }
    println!(
        "no cpu: the shard was ready and did not run; machine's gaps: moments from which a program \
         that does nothing on that cpu ran only more than {LIMIT:?} later"
    );
}

/// Of moments that are evenly spread, the share from which on this thread did not run for LIMIT.
fn beyond_limit() -> f64 {
    let began = Instant::now();
    let (mut last, mut lost) = (began, Duration::ZERO);
    while last - began < SPIN {
        let now = Instant::now();
        if now - last > GAP {
            lost += (now - last).saturating_sub(LIMIT);
        }
        last = now;
    }
    lost.as_secs_f64() / SPIN.as_secs_f64()
}

fn run(port: u16, folder: &Path, rate: u64, options: &Options) -> Found {
    let summary = folder.join("summary.json");
    let mut generator = Command::new(beside("logboom-loadgen"));
    generator
        .env_clear()
        .args(["--target", &format!("tcp://127.0.0.1:{port}"), "--quiet"])
        .args(["--shards", "1", "--warmup-secs", "1", "--pacing", &options.pacing])
        .args(["--rate", &rate.to_string(), "--duration", &format!("{}s", options.secs)])
        .args(["--concurrency", &options.connections.to_string(), "--json"])
        .arg(&summary)
        .stdout(Stdio::null());
    let status = generator.status().unwrap();
    assert!(status.success(), "the generator ended with {status}");
    let summary = json(&summary);
    let us = |field: &str| summary["latency"]["lag"][field].as_f64().unwrap_or(f64::NAN) / 1e3;
    let signals = summary["validity"]["signals"].as_array().unwrap();
    let run_queue = signals.iter().find(|it| it["name"] == "run_queue");
    let measured_s = options.secs as f64 + 1.0;
    Found {
        lag_us: ["p50_ns", "p95_ns", "p99_ns"].map(us),
        cpu: summary["pacing"]["cpu_ns"].as_f64().unwrap() / 1e9 / measured_s,
        no_cpu: run_queue.map_or(f64::NAN, |it| it["observed"].as_f64().unwrap_or(f64::NAN)),
    }
}
