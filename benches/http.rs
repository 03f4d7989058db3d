//! What a million HTTP requests cost the client: the generator beside wrk, against one nginx.
//!
//! `cargo build --release && cargo run --release -p logboom-benches --bin http`
//!
//! nginx has one half of the cpus, the client the other, one thread each. Both clients send as fast
//! as answers come for the same time; the generator has everything on that it always has (latencies
//! from due times, full histograms), wrk has neither. CPU-seconds are the kernel's account of the
//! whole process, from its start to its end. Clients take turns (A B B A …), so that a machine that
//! drifts drifts for both; quote medians and ratios from one run, never figures of two runs.
//! Where nginx or wrk is not installed it says so and ends.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures and prints")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use logboom_benches::rig::{beside, halves, spawn_on};
use logboom_benches::{median, spread};
use serde_json::Value;

/// What a million HTTP requests cost.
#[derive(Parser)]
struct Options {
    /// Rounds; each runs both clients once at each number of connections
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Seconds of a run
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "8,64,1000")]
    connections: Vec<u32>,
    /// Another build of the generator, instead of the one beside this program
    #[arg(long)]
    generator: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Generator,
    Wrk,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Client::Generator => "logboom-loadgen",
            Client::Wrk => "wrk",
        }
    }
}

/// What a run came to.
#[derive(Clone, Copy)]
struct Cost {
    requests: f64,
    /// User and system time of the client.
    cpu_s: f64,
}

impl Cost {
    fn requests_per_cpu_s(&self) -> f64 {
        self.requests / self.cpu_s
    }
}

fn main() {
    let options = Options::parse();
    let (Some(nginx), Some(wrk)) = (find("nginx"), find("wrk")) else {
        eprintln!("SKIPPED: nginx or wrk is not installed (apt-get install nginx-light wrk)");
        return;
    };
    let generator = options.generator.clone().unwrap_or_else(|| beside("logboom-loadgen"));
    let server = Nginx::start(&nginx);
    let run = |client: Client, connections: u32, seconds: u64| match client {
        Client::Generator => run_generator(&generator, &server, connections, seconds),
        Client::Wrk => run_wrk(&wrk, &server, connections, seconds),
    };
    println!(
        "requests per CPU-second of the client: median (least to most) of {} runs of {} s",
        options.rounds, options.seconds
    );
    println!(
        "{:>11}  {:<16} {:>28} {:>11}",
        "connections", "client", "requests/CPU-s", "requests/s"
    );
    for &connections in &options.connections {
        let clients = [Client::Generator, Client::Wrk];
        for client in clients {
            // Nobody looks at the first one.
            let _ = run(client, connections, 1);
        }
        let mut costs = [Vec::new(), Vec::new()];
        for round in 0..options.rounds {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for index in order {
                costs[index].push(run(clients[index], connections, options.seconds));
            }
        }
        for (client, costs) in clients.iter().zip(&costs) {
            let seconds = options.seconds as f64;
            println!(
                "{connections:>11}  {:<16} {:>28} {:>11.0}",
                client.name(),
                spread(0, costs.iter().map(Cost::requests_per_cpu_s)),
                median(costs.iter().map(|cost| cost.requests / seconds)),
            );
        }
        let [ours, theirs] = &costs;
        let ratios = ours.iter().zip(theirs);
        let ratios =
            ratios.map(|(one, other)| one.requests_per_cpu_s() / other.requests_per_cpu_s());
        println!("{connections:>11}  generator / wrk  {:>28}", spread(3, ratios));
    }
}

fn run_generator(program: &Path, server: &Nginx, connections: u32, seconds: u64) -> Cost {
    let summary = server.folder.path().join("summary.json");
    let mut generator = Command::new(program);
    generator.env_clear().args(["--target", &server.url(), "--quiet", "--shards", "1"]);
    generator.args(["-z", &seconds.to_string(), "-c", &connections.to_string(), "--json"]);
    generator.arg(&summary).stdout(Stdio::null());
    let before = children_cpu_seconds();
    let status = spawn_on(&halves().1, &mut generator).wait().unwrap();
    let cpu_s = children_cpu_seconds() - before;
    assert!(status.success(), "the generator ended with {status}");
    let summary: Value = serde_json::from_str(&std::fs::read_to_string(summary).unwrap()).unwrap();
    assert_eq!(summary["load"]["error"], 0);
    Cost { requests: summary["load"]["ok"].as_f64().unwrap(), cpu_s }
}

fn run_wrk(program: &Path, server: &Nginx, connections: u32, seconds: u64) -> Cost {
    let mut wrk = Command::new(program);
    wrk.env_clear().args(["-t", "1", "-c", &connections.to_string()]);
    wrk.args(["-d", &format!("{seconds}s"), &server.url()]).stdout(Stdio::piped());
    let before = children_cpu_seconds();
    let output = spawn_on(&halves().1, &mut wrk).wait_with_output().unwrap();
    let cpu_s = children_cpu_seconds() - before;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("rrors:"), "wrk: {text}");
    // "  123456 requests in 4.00s, 12.34MB read"
    let line = text.lines().find(|line| line.contains(" requests in ")).unwrap();
    Cost { requests: line.trim().split(' ').next().unwrap().parse().unwrap(), cpu_s }
}

/// One worker process, on its half of the cpus.
struct Nginx {
    port: u16,
    process: Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    fn start(program: &Path) -> Nginx {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = format!(
            "daemon off; master_process off; worker_rlimit_nofile 8192; pid {dir}/pid;\n\
             error_log {dir}/error.log; events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 100000000;\n\
             client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n\
             uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; \
             location / {{ return 200 'hello from nginx'; }} }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), conf).unwrap();
        let mut nginx = Command::new(program);
        nginx.arg("-p").arg(folder.path()).args(["-c", "nginx.conf"]);
        nginx.stdout(Stdio::null()).stderr(Stdio::null());
        let process = spawn_on(&halves().0, &mut nginx);
        let server = Nginx { port, process, folder };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "nginx does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// User and system time of all children that have been waited for, in the kernel's ticks of 10 ms.
fn children_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the name, which may hold spaces, cutime and cstime are the 14th and 15th.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = rest.split(' ').skip(13).take(2).map(|it| it.parse::<u64>().unwrap()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}
