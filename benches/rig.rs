//! Starts the real programs that lie beside a measurement, each on cpus of its own.
//!
//! Owns where programs are, what they run on, and their end. Leaves what is measured to the
//! measurements.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

/// A program of this build.
///
/// # Panics
/// It has not been built.
pub fn beside(name: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().with_file_name(name);
    assert!(path.exists(), "{} is missing: run `cargo build --release` first", path.display());
    path
}

/// The allowed cpus, first half and rest; both all of them where there is only one.
pub fn halves() -> (Vec<usize>, Vec<usize>) {
    let set = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    if cpus.len() < 2 {
        return (cpus.clone(), cpus);
    }
    let (first, rest) = cpus.split_at(cpus.len() / 2);
    (first.to_vec(), rest.to_vec())
}

/// Does `work` in a thread that may run on `cpus` only; a child inherits that.
pub fn on<T: Send>(cpus: &[usize], work: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|&cpu| set.set(cpu));
        sched_setaffinity(None, &set).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(pinned).join().unwrap())
}

/// Starts a program on some cpus.
pub fn spawn_on(cpus: &[usize], command: &mut Command) -> Child {
    on(cpus, || command.spawn().unwrap())
}

/// A file's JSON.
pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// An engine; it ends with the value.
#[derive(Debug)]
pub struct Engine {
    process: Child,
    /// Where it listens, on the loopback.
    pub port: u16,
}

impl Engine {
    /// One on `cpus` that keeps its files in `folder`, with further variables of its environment.
    ///
    /// # Panics
    /// It does not start within ten seconds.
    pub fn start<K, V>(
        cpus: &[usize],
        folder: &Path,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Engine
    where
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let ready = folder.join("ready");
        let mut engine = Command::new(beside("logboom-engine"));
        engine
            .env_clear()
            .env("SERVER_HOST", "127.0.0.1")
            .env("SERVER_PORT", "0")
            .env("ADMIN_PORT", "0")
            .env("LOG_DIR", folder.join("logs"))
            .env("READY_FILE", &ready)
            .envs(env)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut engine = Engine { process: spawn_on(cpus, &mut engine), port: 0 };
        let began = Instant::now();
        while !ready.exists() {
            assert!(began.elapsed() < Duration::from_secs(10), "the engine does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.port = json(&ready)["port"].as_u64().unwrap().try_into().unwrap();
        engine
    }

    /// What the scheduler has charged to all its threads, kernel workers included.
    pub fn cpu_seconds(&self) -> f64 {
        let nanos: f64 = std::fs::read_dir(format!("/proc/{}/task", self.process.id()))
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
            .sum();
        nanos / 1e9
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
