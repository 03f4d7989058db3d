//! Whether a target on this machine ran on the cpus of our shards.
//!
//! Finds who listens at the target's port (/proc/net/tcp to a socket's inode, /proc/PID/fd to its
//! process) and looks from time to time where that process's threads were and what they used. A
//! thread that is pinned to our cpus counts in full, any other by the cpu that it was last seen on.
//! Leaves the limit to [`super`]. Invariant: what may not be read is said, not guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A process with more threads is looked at as far as this.
const THREADS_MAX: usize = 512;

/// The target's use of our cpus.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shared {
    pids: Vec<u32>,
    /// Time that it was on our cpus.
    on_ours_ns: u64,
    /// Time that our cpus had.
    ours_ns: u64,
}

impl Shared {
    /// It took `on_ours_ns` of `ours_ns`.
    pub fn new(pids: Vec<u32>, on_ours_ns: u64, ours_ns: u64) -> Shared {
        Shared { pids, on_ours_ns, ours_ns }
    }

    /// Of our cpus' time, 0.0 to 1.0.
    pub fn share(&self) -> f64 {
        self.on_ours_ns as f64 / self.ours_ns.max(1) as f64
    }

    /// `17, 18`.
    pub fn pids(&self) -> String {
        let mut text = String::new();
        for pid in &self.pids {
            let _ = write!(text, "{}{pid}", if text.is_empty() { "" } else { ", " });
        }
        text
    }
}

/// Where a target listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listens {
    /// At this address.
    pub at: SocketAddr,
    /// For datagrams; otherwise for connections.
    pub is_udp: bool,
}

/// Looks at the target's threads.
#[derive(Debug)]
pub struct Watcher {
    proc: PathBuf,
    /// Our shards' cpus.
    cpus: BTreeSet<usize>,
    found: Result<Vec<u32>, String>,
    threads: BTreeMap<u32, u64>,
    on_ours_ns: u64,
}

impl Watcher {
    /// Looks for who listens at `addresses`; `cpus` are those of our shards.
    pub fn new(addresses: &[Listens], cpus: &[usize]) -> Watcher {
        Watcher::in_proc(Path::new("/proc"), addresses, cpus)
    }

    fn in_proc(proc: &Path, addresses: &[Listens], cpus: &[usize]) -> Watcher {
        let mut watcher = Watcher {
            proc: proc.to_owned(),
            cpus: cpus.iter().copied().collect(),
            found: find(proc, addresses),
            threads: BTreeMap::new(),
            on_ours_ns: 0,
        };
        watcher.look();
        // What it had used before is not this run's.
        watcher.on_ours_ns = 0;
        watcher
    }

    /// Adds what the target used since the last look.
    pub fn look(&mut self) {
        let Ok(pids) = &self.found else { return };
        let pids = pids.clone();
        for pid in pids {
            let tasks = self.proc.join(pid.to_string()).join("task");
            let Ok(entries) = std::fs::read_dir(tasks) else { continue };
            for entry in entries.flatten().take(THREADS_MAX) {
                self.look_at(&entry.path());
            }
        }
    }

    fn look_at(&mut self, task: &Path) {
        let id = task.file_name().and_then(|name| name.to_str()?.parse().ok());
        let text = |name: &str| std::fs::read_to_string(task.join(name)).ok();
        let cpu_ns = text("schedstat")
            .and_then(|text| text.split_ascii_whitespace().next()?.parse::<u64>().ok());
        let (Some(id), Some(cpu_ns)) = (id, cpu_ns) else { return };
        let before_ns = self.threads.insert(id, cpu_ns).unwrap_or(0);
        let used_ns = cpu_ns.saturating_sub(before_ns);
        if used_ns == 0 {
            return;
        }
        let allowed = text("status").and_then(|text| allowed(&text));
        let is_pinned_here =
            allowed.is_some_and(|allowed| !allowed.is_empty() && allowed.is_subset(&self.cpus));
        let is_here = || {
            let last = text("stat").and_then(|text| last_cpu(&text));
            last.is_some_and(|cpu| self.cpus.contains(&cpu))
        };
        if is_pinned_here || is_here() {
            self.on_ours_ns += used_ns;
        }
    }

    /// What came of it, over a run of `elapsed_ns`.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn finish(mut self, elapsed_ns: u64) -> Result<Shared, String> {
        self.look();
        self.so_far(elapsed_ns)
    }

    /// What has come of it in the first `elapsed_ns` of a run, by the last look.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn so_far(&self, elapsed_ns: u64) -> Result<Shared, String> {
        let pids = self.found.clone()?;
        if self.threads.is_empty() {
            return Err(format!("the target's threads may not be read (pid {})", pids[0]));
        }
        let ours_ns = elapsed_ns.saturating_mul(self.cpus.len() as u64);
        Ok(Shared { pids, on_ours_ns: self.on_ours_ns, ours_ns })
    }
}

/// The processes that listen at `addresses`.
fn find(proc: &Path, addresses: &[Listens]) -> Result<Vec<u32>, String> {
    if addresses.is_empty() {
        return Err("there is no target but this process".to_owned());
    }
    let mut inodes = BTreeSet::new();
    let mut is_here = false;
    for (is_udp, tables) in [(false, ["tcp", "tcp6"]), (true, ["udp", "udp6"])] {
        let ours = addresses.iter().filter(|it| it.is_udp == is_udp && it.at.ip().is_loopback());
        let ports: BTreeSet<u16> = ours.map(|it| it.at.port()).collect();
        is_here |= !ports.is_empty();
        for table in tables {
            let text = std::fs::read_to_string(proc.join("net").join(table)).unwrap_or_default();
            inodes.extend(text.lines().filter_map(|line| listener(line, is_udp, &ports)));
        }
    }
    if !is_here {
        return Err("the target is not on this machine".to_owned());
    }
    if inodes.is_empty() {
        return Err("nobody is seen to listen at the target's port".to_owned());
    }
    let links: BTreeSet<PathBuf> =
        inodes.iter().map(|inode| format!("socket:[{inode}]").into()).collect();
    let pids: Vec<u32> = processes(proc).filter(|pid| holds(proc, *pid, &links)).collect();
    if pids.is_empty() {
        return Err("the process that listens there may not be looked into".to_owned());
    }
    if pids.contains(&std::process::id()) {
        return Err("the target is within this process".to_owned());
    }
    Ok(pids)
}

fn processes(proc: &Path) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds(proc: &Path, pid: u32, links: &BTreeSet<PathBuf>) -> bool {
    let Ok(entries) = std::fs::read_dir(proc.join(pid.to_string()).join("fd")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| links.contains(&link)))
}

/// The inode of a line of /proc/net/tcp (or udp) that listens at one of `ports`:
/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`.
fn listener(line: &str, is_udp: bool, ports: &BTreeSet<u16>) -> Option<u64> {
    // TCP_LISTEN; an unconnected UDP socket is in TCP_CLOSE.
    let state = if is_udp { "07" } else { "0A" };
    let mut fields = line.split_ascii_whitespace().skip(1);
    let port = u16::from_str_radix(fields.next()?.rsplit_once(':')?.1, 16).ok()?;
    let is_listening = fields.nth(1)? == state;
    let inode = fields.nth(5)?.parse().ok()?;
    (is_listening && ports.contains(&port)).then_some(inode)
}

/// Cpus_allowed_list of /proc/PID/status.
fn allowed(status: &str) -> Option<BTreeSet<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cpus = BTreeSet::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

/// Field 39 of /proc/PID/stat, the cpu it last ran on; the second one is a name in parentheses.
fn last_cpu(stat: &str) -> Option<usize> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel prints them: port 9000 is 2328 in hexadecimal.
    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:2328 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0000000000000000 20 4 30 10 -1
   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0000000000000000 100 0 0 10 0
";

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Machine {
            let machine = Machine(tempfile::tempdir().unwrap());
            machine.write("net/tcp", TCP);
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn process(&self, pid: u32, socket: u64) {
            let folder = self.0.path().join(format!("{pid}/fd"));
            std::fs::create_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink(format!("socket:[{socket}]"), folder.join("3")).unwrap();
        }

        fn thread(&self, pid: u32, id: u32, cpu_ns: u64, last: usize, allowed: &str) {
            let task = format!("{pid}/task/{id}");
            let zeros = "0 ".repeat(35);
            self.write(&format!("{task}/stat"), &format!("{id} (a ) b) S {zeros}{last} 0 0\n"));
            self.write(&format!("{task}/schedstat"), &format!("{cpu_ns} 7 7\n"));
            self.write(
                &format!("{task}/status"),
                &format!("Name:\ta\nCpus_allowed_list:\t{allowed}\n"),
            );
        }

        fn watch(&self, target: &str, cpus: &[usize]) -> Watcher {
            let at = target.parse().unwrap();
            Watcher::in_proc(self.0.path(), &[Listens { at, is_udp: false }], cpus)
        }
    }

    #[test]
    fn time_on_our_cpus_is_counted_from_the_first_look() {
        let machine = Machine::new();
        machine.process(42, 4711);
        machine.process(43, 4713);
        machine.thread(42, 42, 1000, 0, "0-3");
        machine.thread(42, 44, 1000, 2, "2");
        let mut watcher = machine.watch("127.0.0.1:9000", &[0, 1]);
        // On cpu 0, which is ours; on cpu 2, which is not; a new one that is pinned to ours.
        machine.thread(42, 42, 1400, 0, "0-3");
        machine.thread(42, 44, 9000, 2, "2");
        watcher.look();
        machine.thread(42, 42, 1900, 3, "0-3");
        machine.thread(42, 45, 50, 3, "0-1");
        let shared = watcher.finish(1000).unwrap();
        assert_eq!(shared, Shared { pids: vec![42], on_ours_ns: 450, ours_ns: 2000 });
        assert_eq!((shared.share(), shared.pids()), (0.225, "42".to_owned()));
    }

    #[test]
    fn what_cannot_be_known_is_said() {
        let machine = Machine::new();
        let why = |target: &str| machine.watch(target, &[0]).finish(1).unwrap_err();
        assert!(why("192.0.2.1:9000").contains("not on this machine"));
        assert!(why("127.0.0.1:9001").contains("nobody is seen to listen"));
        assert!(why("127.0.0.1:9000").contains("may not be looked into"));
        machine.process(42, 4711);
        assert!(why("127.0.0.1:9000").contains("may not be read (pid 42)"));
        machine.process(std::process::id(), 4711);
        assert!(why("127.0.0.1:9000").contains("within this process"));
    }

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let ports = BTreeSet::from([9000]);
        let found: Vec<u64> = TCP.lines().filter_map(|it| listener(it, false, &ports)).collect();
        assert_eq!(found, [4711]);
        assert_eq!(allowed("Cpus_allowed_list:\t0-2,5\n"), Some(BTreeSet::from([0, 1, 2, 5])));
        assert_eq!(allowed("nothing"), None);
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let watcher = Watcher::new(&[Listens { at, is_udp: false }], &[0]);
        let why = watcher.finish(1).unwrap_err();
        assert!(why.contains("within this process"), "{why}");
    }
}
