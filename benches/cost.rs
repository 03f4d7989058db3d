//! What a million lines cost, in CPU-seconds of the engine and of the generator.
//!
//! `cargo build --release && cargo run --release -p logboom-benches --bin cost`
//!
//! Starts the real binaries that lie beside this one, the engine on one half of the cpus, the
//! generator on the other, and reads the scheduler's own account of both processes (ring workers
//! included). Shapes take turns (A B B A …), so that a machine that drifts drifts for all; quote
//! medians and ratios from one run, never figures of two runs.
//!
//! Beside the generator stands the plainest client in C that does the same work without measuring it
//! (`peers/epoll.c`, compiled here by `cc`; skipped, and said so, where there is none).
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures and prints")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Parser;
use logboom_benches::rig::{Engine, beside, halves, json, spawn_on};
use logboom_benches::{median, spread};
use serde_json::Value;

/// What a million lines cost.
#[derive(Parser)]
struct Options {
    /// Rounds; each runs every shape once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Pipelined lines per run
    #[arg(long, default_value = "5M", value_parser = runtime::units::count)]
    lines: u64,
    /// Ping-pong messages per run
    #[arg(long, default_value = "300k", value_parser = runtime::units::count)]
    pings: u64,
    /// Only shapes whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Further settings of the engine, KEY=VALUE
    #[arg(long)]
    engine_env: Vec<String>,
}

/// How the generator talks to the engine.
struct Shape {
    name: &'static str,
    connections: u32,
    batch: u32,
    pipelined: bool,
    wire: Wire,
    client: Client,
    engine: &'static [(&'static str, &'static str)],
}

/// What lies below the lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Plain,
    Tls,
    Gzip,
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Generator,
    /// `peers/epoll.c`.
    PlainC,
}

/// What the costs of other wires are compared with.
const PLAIN: Shape = Shape {
    name: "pipelined, written",
    connections: 8,
    batch: 2000,
    pipelined: true,
    wire: Wire::Plain,
    client: Client::Generator,
    engine: &[],
};

const NOTHING_KEPT: &[(&str, &str)] = &[("ENABLE_PERSISTENCE", "false")];

/// One message a connection at a time.
const PING_PONG: Shape =
    Shape { name: "ping-pong, written", connections: 64, batch: 1, pipelined: false, ..PLAIN };

const PIPELINED_RECEIVED: Shape =
    Shape { name: "pipelined, received, no persistence", engine: NOTHING_KEPT, ..PLAIN };
const PING_PONG_RECEIVED: Shape =
    Shape { name: "ping-pong, received, no persistence", engine: NOTHING_KEPT, ..PING_PONG };
const MANY: Shape =
    Shape { name: "ping-pong, 10,000 connections", connections: 10_000, ..PING_PONG_RECEIVED };

const SHAPES: &[Shape] = &[
    PLAIN,
    Shape { name: "pipelined, durable", engine: &[("DURABILITY", "durable")], ..PLAIN },
    Shape { name: "pipelined, written, TLS", wire: Wire::Tls, ..PLAIN },
    Shape { name: "pipelined, written, gzip", wire: Wire::Gzip, ..PLAIN },
    PIPELINED_RECEIVED,
    Shape { name: "C: pipelined, received", client: Client::PlainC, ..PIPELINED_RECEIVED },
    PING_PONG,
    PING_PONG_RECEIVED,
    Shape { name: "C: ping-pong, received", client: Client::PlainC, ..PING_PONG_RECEIVED },
    MANY,
    Shape { name: "C: ping-pong, 10,000 connections", client: Client::PlainC, ..MANY },
    Shape { name: "lone, received", engine: &[("DURABILITY", "received")], ..LONE },
    LONE,
    Shape { name: "lone, durable", engine: &[("DURABILITY", "durable")], ..LONE },
];

/// One message at a time over one connection: what its median takes.
const LONE: Shape =
    Shape { name: "lone, written", connections: 1, batch: 1, pipelined: false, ..PLAIN };

/// One run's result.
#[derive(Clone, Copy)]
struct Cost {
    /// CPU-seconds per million lines.
    engine: f64,
    client: f64,
    lines_per_second: f64,
    /// Median response in milliseconds; a client that does not measure has none.
    p50_ms: Option<f64>,
    /// Most memory that the client has had.
    client_mib: f64,
}

fn main() {
    let options = Options::parse();
    let plain_c = PlainC::compile();
    let shapes: Vec<_> = SHAPES
        .iter()
        .filter(|shape| shape.name.contains(options.only.as_str()))
        .filter(|shape| shape.client != Client::PlainC || plain_c.is_some())
        .collect();
    let mut costs: Vec<Vec<Cost>> = shapes.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..shapes.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let cost = run(shapes[index], &options, plain_c.as_ref());
            eprintln!(
                "{}: engine {:.3}, client {:.3} CPU-s per million, {:.0} lines/s, {:.1} MiB",
                shapes[index].name,
                cost.engine,
                cost.client,
                cost.lines_per_second,
                cost.client_mib
            );
            costs[index].push(cost);
        }
    }
    println!("CPU-seconds per million lines: median (least to most) of {} runs", options.rounds);
    println!(
        "{:<38} {:>22} {:>22} {:>10} {:>9} {:>10}",
        "shape", "engine", "client", "lines/s", "p50", "its memory"
    );
    for (shape, costs) in shapes.iter().zip(&costs) {
        let p50s: Vec<f64> = costs.iter().filter_map(|cost| cost.p50_ms).collect();
        let p50 = match p50s.as_slice() {
            [] => "-".to_owned(),
            p50s => format!("{:.3} ms", median(p50s.iter().copied())),
        };
        println!(
            "{:<38} {:>22} {:>22} {:>10.0} {:>9} {:>6.1} MiB",
            shape.name,
            spread(3, costs.iter().map(|cost| cost.engine)),
            spread(3, costs.iter().map(|cost| cost.client)),
            median(costs.iter().map(|cost| cost.lines_per_second)),
            p50,
            median(costs.iter().map(|cost| cost.client_mib)),
        );
    }
    // Of neighbours in time, so that what a drifting machine adds is in both.
    let ratios = |one: &[Cost], other: &[Cost], of: fn(&Cost) -> f64| {
        spread(3, one.iter().zip(other).map(|(one, other)| of(one) / of(other)))
    };
    let plain = shapes.iter().position(|shape| shape.name == PLAIN.name);
    for (index, shape) in shapes.iter().enumerate() {
        if let Some(plain) = plain.filter(|_| shape.wire != Wire::Plain) {
            let ratio = ratios(&costs[index], &costs[plain], |cost| cost.engine);
            println!("{}: engine {ratio} times plain", shape.name);
        }
        let is_twin = |other: &&Shape| {
            other.client == Client::PlainC
                && (other.connections, other.batch) == (shape.connections, shape.batch)
                && other.engine == shape.engine
        };
        if shape.client == Client::Generator
            && let Some(twin) = shapes.iter().position(|other| is_twin(&&**other))
        {
            let ratio = ratios(&costs[index], &costs[twin], |cost| cost.client);
            println!("{}: generator {ratio} times plain C", shape.name);
        }
    }
}

/// The client in C, compiled.
struct PlainC {
    program: PathBuf,
    /// Keeps it.
    _folder: tempfile::TempDir,
}

impl PlainC {
    /// `None` where there is no compiler, which is said.
    fn compile() -> Option<PlainC> {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("epoll.c"), folder.path().join("epoll"));
        std::fs::write(&source, include_str!("peers/epoll.c")).unwrap();
        let made = Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(&source).status();
        match made {
            Ok(status) => assert!(status.success(), "peers/epoll.c does not compile"),
            Err(error) => {
                eprintln!("SKIPPED: the plain client in C: no cc: {error}");
                return None;
            }
        }
        Some(PlainC { program, _folder: folder })
    }
}

fn run(shape: &Shape, options: &Options, plain_c: Option<&PlainC>) -> Cost {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("certs");
    if shape.wire == Wire::Tls {
        let mut make = Command::new(beside("logboom-engine"));
        let made = make.env_clear().args(["certs", "--cert-dir"]).arg(&certs).output().unwrap();
        assert!(made.status.success(), "no certificates: {made:?}");
    }
    let mut env = vec![
        ("ENABLE_TLS", (shape.wire == Wire::Tls).to_string()),
        ("CERT_DIR", certs.display().to_string()),
    ];
    env.extend(shape.engine.iter().map(|&(name, value)| (name, value.to_owned())));
    let own = options.engine_env.iter().filter_map(|pair| pair.split_once('='));
    env.extend(own.map(|(name, value)| (name, value.to_owned())));
    let (engine_cpus, generator_cpus) = halves();
    let engine = Engine::start(&engine_cpus, folder.path(), env);
    let port = engine.port;
    let scheme = if shape.wire == Wire::Tls { "tls" } else { "tcp" };
    let generate = |total: u64| {
        let summary = folder.path().join("summary.json");
        let mut generator = Command::new(beside("logboom-loadgen"));
        generator
            .env_clear()
            .args(["--target", &format!("{scheme}://127.0.0.1:{port}"), "--quiet"])
            .args(["-n", &total.to_string(), "-c", &shape.connections.to_string()])
            .args(["--batch-size", &shape.batch.to_string()])
            .arg(format!("--compress={}", shape.wire == Wire::Gzip))
            .arg("--ca-cert-path")
            .arg(certs.join("ca.crt"))
            .arg("--json")
            .arg(&summary)
            .stdout(Stdio::null());
        let status = spawn_on(&generator_cpus, &mut generator).wait().unwrap();
        assert!(status.success(), "the generator ended with {status}");
        let summary = json(&summary);
        let number = |value: &Value| value.as_f64().unwrap();
        let resources = &summary["resources"];
        Load {
            cpu_s: number(&resources["cpu_user_s"]) + number(&resources["cpu_system_s"]),
            lines_per_second: number(&summary["rate"]["achieved_per_s"]),
            p50_ms: Some(number(&summary["latency"]["response"]["p50_ns"]) / 1e6),
            rss_bytes: number(&resources["rss_peak_bytes"]),
        }
    };
    let epoll = |total: u64| {
        let mut client = Command::new(&plain_c.expect("compiled").program);
        client.env_clear().args(["127.0.0.1", &port.to_string(), &shape.connections.to_string()]);
        client.args([total.to_string(), shape.batch.to_string()]).stdout(Stdio::piped());
        let output = spawn_on(&generator_cpus, &mut client).wait_with_output().unwrap();
        assert!(output.status.success(), "the client in C ended with {}", output.status);
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |name: &str| summary[name].as_f64().unwrap();
        Load {
            cpu_s: number("cpu_user_s") + number("cpu_system_s"),
            lines_per_second: number("messages") / number("seconds"),
            p50_ms: None,
            rss_bytes: number("rss_peak_bytes"),
        }
    };
    let load = |total: u64| match shape.client {
        Client::Generator => generate(total),
        Client::PlainC => epoll(total),
    };
    let total = match (shape.pipelined, shape.connections) {
        (true, _) => options.lines,
        (false, 1) => options.pings / 10,
        (false, _) => options.pings,
    };
    load(total / 20); // touches memory, caches and the first segment
    let before = engine.cpu_seconds();
    let load = load(total);
    let engine_seconds = engine.cpu_seconds() - before;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let millions = total as f64 / 1e6;
    Cost {
        engine: engine_seconds / millions,
        client: load.cpu_s / millions,
        lines_per_second: load.lines_per_second,
        p50_ms: load.p50_ms,
        client_mib: load.rss_bytes / f64::from(1 << 20),
    }
}

/// What a client says of its run.
struct Load {
    cpu_s: f64,
    lines_per_second: f64,
    p50_ms: Option<f64>,
    rss_bytes: f64,
}
