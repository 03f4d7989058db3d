//! How exactly a recording is replayed at 200,000 messages a second, and in how much memory.
//!
//! `cargo build --release && cargo run --release -p logboom-benches --bin replay`
//!
//! Writes a recording of evenly spaced lines, and lets the real generator that lies beside this
//! program run it against `null://`, in turns with the same rate without a recording (A B B A …):
//! whatever lag the second has is the pacing error, and the machine. Quote ratios of one run.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures and prints")]

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Parser;
use logboom_benches::median;
use logboom_benches::rig::beside;
use serde_json::Value;

/// Lag and memory of a replay.
#[derive(Parser)]
struct Options {
    /// Rounds; each runs both
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Messages a second
    #[arg(long, default_value = "200k", value_parser = runtime::units::count)]
    rate: u64,
    /// Seconds of a run
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// thrifty or precise
    #[arg(long, default_value = "thrifty")]
    pacing: String,
}

/// What a run came to.
struct Found {
    /// p50 and p99, ns.
    lag: [u64; 2],
    reader_share: f64,
    peak_mib: f64,
    sent: u64,
}

fn main() {
    let options = Options::parse();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording.ndjson");
    write(&path, options.rate, options.secs);
    let bytes = path.metadata().unwrap().len();
    let (rate, secs) = (options.rate.to_string(), options.secs.to_string());
    let shapes: [(&str, Vec<&str>); 2] = [
        ("replay", vec!["--replay", path.to_str().unwrap()]),
        ("same rate", vec!["--rate", &rate, "--duration", &secs]),
    ];
    let mut found: [Vec<Found>; 2] = [Vec::new(), Vec::new()];
    for round in 0..options.rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let (name, args) = &shapes[which];
            let one = run(args, &options.pacing);
            eprintln!("{name}: lag p50 {} µs, p99 {} µs", one.lag[0] / 1000, one.lag[1] / 1000);
            found[which].push(one);
        }
    }
    println!(
        "{} messages a second for {} s, {} MiB of lines, 1 shard, pacing {}; medians of {} runs",
        options.rate,
        options.secs,
        bytes >> 20,
        options.pacing,
        options.rounds
    );
    println!(
        "{:<10} {:>12} {:>12} {:>14} {:>12} {:>10}",
        "", "lag p50", "lag p99", "by the reader", "memory", "sent"
    );
    for ((name, _), found) in shapes.iter().zip(&found) {
        println!(
            "{name:<10} {:>9.1} µs {:>9.1} µs {:>12.1} % {:>8.1} MiB {:>10}",
            median(found.iter().map(|one| one.lag[0] as f64 / 1e3)),
            median(found.iter().map(|one| one.lag[1] as f64 / 1e3)),
            median(found.iter().map(|one| one.reader_share * 100.0)),
            found.iter().map(|one| one.peak_mib).fold(0.0, f64::max),
            median(found.iter().map(|one| one.sent as f64)),
        );
    }
    let peak = found[0].iter().map(|one| one.peak_mib).fold(0.0, f64::max);
    println!("peak memory of a replay {peak:.1} MiB, to be below 64: {}", peak < 64.0);
}

/// Lines of about 190 bytes, evenly spaced.
fn write(path: &Path, rate: u64, secs: u64) {
    let mut out = BufWriter::new(std::fs::File::create(path).unwrap());
    let begin_ns = 1_795_233_237_000_000_000u64;
    for n in 0..rate * secs {
        let at_ns =
            begin_ns + u64::try_from(u128::from(n) * 1_000_000_000 / u128::from(rate)).unwrap();
        writeln!(
            out,
            "{{\"timestamp\":{at_ns},\"level\":\"INFO\",\"service\":\"checkout\",\
             \"trace\":\"{n:016x}\",\"message\":\"order {n} accepted, 3 items, 48 ms, as seen by the \
             collector of this host; nothing was lost\"}}"
        )
        .unwrap();
    }
    out.flush().unwrap();
}

fn run(args: &[&str], pacing: &str) -> Found {
    let generator = beside("logboom-loadgen");
    let output = Command::new(&generator)
        .env_clear()
        .args(["--target", "null://", "--shards", "1", "-c", "8", "--quiet", "--json", "-"])
        .args(["--pacing", pacing])
        .args(args)
        .stderr(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", generator.display()));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ns = |field: &str| json["latency"]["lag"][field].as_u64().unwrap();
    Found {
        lag: [ns("p50_ns"), ns("p99_ns")],
        reader_share: json["latency"]["lag"]["causes"]["reader"]["share"].as_f64().unwrap_or(0.0),
        peak_mib: json["resources"]["rss_peak_bytes"].as_f64().unwrap() / f64::from(1 << 20),
        sent: json["load"]["sent"].as_u64().unwrap(),
    }
}
