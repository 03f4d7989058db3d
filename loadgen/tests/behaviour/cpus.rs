//! Which cpus the threads of a run are on.

use std::time::{Duration, Instant};

use crate::server::{Do, OK, Server};
use crate::tool::{skip, start};

const PATIENCE: Duration = Duration::from_secs(20);

/// The name of each thread of a process, "main" for the first, and the cpus that it may run on.
fn affinities(pid: u32) -> Vec<(String, Vec<usize>)> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let one = |task: std::fs::DirEntry| {
        let is_main = task.file_name().to_str() == Some(&pid.to_string());
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.map(|value| value.trim().to_owned())
        };
        let name = if is_main { "main".to_owned() } else { field("Name:")? };
        Some((name, list(&field("Cpus_allowed_list:")?)))
    };
    tasks.flatten().filter_map(one).collect()
}

/// `0-2,5`.
fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        from.parse().unwrap()..=to.parse().unwrap()
    };
    text.split(',').flat_map(range).collect()
}

#[test]
fn what_is_no_shard_keeps_off_its_cpu_where_there_is_another() {
    const NAME: &str = "what_is_no_shard_keeps_off_its_cpu_where_there_is_another";
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip(NAME, "one cpu");
    }
    let server = Server::start(|_| Do::Say(OK.to_owned()));
    let mut child = start(server.port, "-r 100 -z 60s -c 1 --shards 1 --quiet");
    let began = Instant::now();
    loop {
        let all = affinities(child.id());
        let main = all.iter().find(|it| it.0 == "main").map(|it| it.1.clone()).unwrap_or_default();
        // The shard has a helper of its name, which is where the main thread is.
        let is_shard = |it: &&(String, Vec<usize>)| it.0 == "loadgen-0" && it.1.len() == 1;
        if all.iter().filter(is_shard).any(|it| !main.contains(&it.1[0])) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{all:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
