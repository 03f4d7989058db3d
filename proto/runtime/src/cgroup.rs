//! What the cgroups of a process allow it, and what that has cost it.
//!
//! Reads both versions, and machines that have both. Of all the cgroups that a process is in (its own
//! and those above) the tightest cap counts, so far as they are visible from here; a missing or
//! unreadable file means "no cap". Leaves the number of shards to [`crate::cpus`].
//!
//! Invariant: reads files only, a few hundred bytes each, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The cgroups that cap a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cgroups {
    cpu: Option<Capped<f64>>,
    memory: Option<Capped<u64>>,
}

/// A cgroup with a cap.
#[derive(Clone, Debug, PartialEq)]
struct Capped<T> {
    directory: PathBuf,
    version: Version,
    cap: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// How the cpu quota was felt since its cgroup began; of all that runs in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods of the quota in which something ran.
    pub periods: u64,
    /// Periods whose share was used up before their end.
    pub throttled_periods: u64,
    /// How long threads were kept from running, added up over the cpus.
    pub throttled: Duration,
}

/// How close its cgroup is to the cap on memory; the cgroup's page cache is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub used_bytes: u64,
    /// The most so far; `None` where the kernel does not keep it (version 2 before Linux 5.19).
    pub peak_bytes: Option<u64>,
    /// How often something had to be given back because the cap was reached.
    pub reached: u64,
}

impl Cgroups {
    /// Of the process with this id, or of this one.
    pub fn of(pid: Option<u32>) -> Cgroups {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let cgroup = read(&format!("/proc/{process}/cgroup"));
        Cgroups::find(Path::new("/"), &read("/proc/self/mountinfo"), &cgroup)
    }

    /// `filesystem` is prefixed to every path; `mountinfo` and `cgroup` are the texts of
    /// `/proc/self/mountinfo` and `/proc/PID/cgroup`.
    fn find(filesystem: &Path, mountinfo: &str, cgroup: &str) -> Cgroups {
        let find = |controller| directories(filesystem, mountinfo, cgroup, controller);
        Cgroups {
            cpu: tightest(find("cpu"), cpu_quota),
            memory: tightest(find("memory"), memory_bytes_max),
        }
    }

    /// Cpus' worth of time per period; `None` is unlimited.
    pub fn cpu_quota(&self) -> Option<f64> {
        self.cpu.as_ref().map(|capped| capped.cap)
    }

    /// Memory that all processes of the cgroup may have together; `None` is unlimited.
    pub fn memory_bytes_max(&self) -> Option<u64> {
        self.memory.as_ref().map(|capped| capped.cap)
    }

    /// What the quota has cost so far; `None` without one.
    pub fn throttling(&self) -> Option<Throttling> {
        let Capped { directory, version, .. } = self.cpu.as_ref()?;
        let stat = fs::read_to_string(directory.join("cpu.stat")).ok()?;
        let throttled = match version {
            Version::One => field(&stat, "throttled_time").map(Duration::from_nanos),
            Version::Two => field(&stat, "throttled_usec").map(Duration::from_micros),
        };
        Some(Throttling {
            periods: field(&stat, "nr_periods")?,
            throttled_periods: field(&stat, "nr_throttled")?,
            throttled: throttled?,
        })
    }

    /// Memory against its cap; `None` without one.
    pub fn memory(&self) -> Option<Memory> {
        let Capped { directory, version, .. } = self.memory.as_ref()?;
        let number = |name: &str| number(&directory.join(name));
        let (used, peak, reached) = match version {
            Version::One => (
                number("memory.usage_in_bytes"),
                number("memory.max_usage_in_bytes"),
                number("memory.failcnt"),
            ),
            Version::Two => {
                let events = fs::read_to_string(directory.join("memory.events")).ok();
                let reached = events.and_then(|events| field(&events, "max"));
                (number("memory.current"), number("memory.peak"), reached)
            }
        };
        Some(Memory { used_bytes: used?, peak_bytes: peak, reached: reached.unwrap_or(0) })
    }
}

/// The cgroups of a process that `controller` rules, its own first.
fn directories(
    filesystem: &Path,
    mountinfo: &str,
    cgroup: &str,
    controller: &str,
) -> Vec<(PathBuf, Version)> {
    let mut all = Vec::new();
    for mounted in mountinfo.lines().filter_map(|line| hierarchy(line, controller)) {
        let member = |line| membership(line, mounted.version, controller);
        let Some(path) = cgroup.lines().find_map(member) else {
            continue;
        };
        // Inside a container the path may name a cgroup outside the mount: then the mount's root
        // is ours.
        let below = path.strip_prefix(mounted.root.trim_end_matches('/')).unwrap_or("");
        let mount = filesystem.join(mounted.mount.strip_prefix("/").unwrap_or(&mounted.mount));
        let mut directory = mount.join(below.trim_start_matches('/'));
        if !directory.is_dir() {
            directory.clone_from(&mount);
        }
        loop {
            all.push((directory.clone(), mounted.version));
            if directory == mount || !directory.pop() || !directory.starts_with(&mount) {
                break;
            }
        }
    }
    all
}

fn tightest<T: PartialOrd>(
    directories: Vec<(PathBuf, Version)>,
    cap: impl Fn(&Path, Version) -> Option<T>,
) -> Option<Capped<T>> {
    let mut tightest: Option<Capped<T>> = None;
    for (directory, version) in directories {
        let Some(cap) = cap(&directory, version) else { continue };
        if tightest.as_ref().is_none_or(|other| cap < other.cap) {
            tightest = Some(Capped { directory, version, cap });
        }
    }
    tightest
}

/// A mounted hierarchy.
struct Hierarchy {
    version: Version,
    mount: PathBuf,
    /// The cgroup that is the root of this mount (in a container often not `/`).
    root: String,
}

/// One line of mountinfo, if `controller` may be found there:
/// `id parent dev root mount options … - type source super-options`.
fn hierarchy(line: &str, controller: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, mount) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup2" => Version::Two,
        "cgroup" if right.nth(1)?.split(',').any(|option| option == controller) => Version::One,
        _ => return None,
    };
    Some(Hierarchy { version, mount: unescape(mount), root: root.to_owned() })
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(path: &str) -> PathBuf {
    let octal = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(octal.iter().fold(path.to_owned(), |path, (code, text)| path.replace(code, text)))
}

/// One line of /proc/PID/cgroup: `id:controllers:path`; version 2 is `0::path`.
fn membership<'l>(line: &'l str, version: Version, controller: &str) -> Option<&'l str> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let ours = match version {
        Version::Two => id == "0" && controllers.is_empty(),
        Version::One => controllers.split(',').any(|named| named == controller),
    };
    ours.then_some(path)
}

fn cpu_quota(directory: &Path, version: Version) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    let (quota, period) = match version {
        Version::Two => {
            let text = read("cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            (number(quota)?, number(period)?)
        }
        Version::One => (number(&read("cpu.cfs_quota_us")?)?, number(&read("cpu.cfs_period_us")?)?),
    };
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn memory_bytes_max(directory: &Path, version: Version) -> Option<u64> {
    /// Version 1 says "no cap" by a number near 2^63.
    const BYTES_MAX: u64 = 1 << 60;
    let name = match version {
        Version::Two => "memory.max",
        Version::One => "memory.limit_in_bytes",
    };
    number(&directory.join(name)).filter(|&bytes| bytes < BYTES_MAX)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// `name value` on a line of its own.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      34 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join("sys/fs/cgroup").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn quota(root: &tempfile::TempDir, mountinfo: &str, cgroup: &str) -> Option<f64> {
        Cgroups::find(root.path(), mountinfo, cgroup).cpu_quota()
    }

    #[test]
    fn version_2_takes_the_smallest_quota_on_the_way_up() {
        let root = tree(&[("a/cpu.max", "150000 100000\n"), ("a/b/cpu.max", "max 100000\n")]);
        assert_eq!(quota(&root, V2, "0::/a/b\n"), Some(1.5));
    }

    #[test]
    fn version_2_without_a_limit_has_no_caps() {
        let root = tree(&[("a/cpu.max", "max 100000\n"), ("a/memory.max", "max\n")]);
        for (mountinfo, cgroup) in [(V2, "0::/a\n"), (V2, ""), ("", "0::/a\n")] {
            let cgroups = Cgroups::find(root.path(), mountinfo, cgroup);
            assert_eq!(cgroups, Cgroups::default());
            assert_eq!((cgroups.throttling(), cgroups.memory()), (None, None));
        }
    }

    #[test]
    fn version_1_reads_quota_and_period_of_the_cpu_controller_only() {
        let root = tree(&[
            ("cpu,cpuacct/box/cpu.cfs_quota_us", "250000\n"),
            ("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("memory/box/cpu.cfs_quota_us", "1\n"),
        ]);
        assert_eq!(quota(&root, V1, "5:memory:/box\n3:cpu,cpuacct:/box\n"), Some(2.5));
    }

    #[test]
    fn in_a_container_the_mount_root_is_our_cgroup() {
        let mounts = "29 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        let root = tree(&[("cpu.max", "200000 100000\n")]);
        assert_eq!(quota(&root, mounts, "0::/docker/abc\n"), Some(2.0));
        // With a cgroup namespace the path is `/`, or one that is not visible at all.
        assert_eq!(quota(&root, mounts, "0::/\n"), Some(2.0));
        assert_eq!(quota(&root, V2, "0::/../elsewhere\n"), Some(2.0));
    }

    #[test]
    fn a_hybrid_machine_takes_the_quota_of_the_hierarchy_that_has_one() {
        let mounts =
            format!("{V1}40 25 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n");
        let root = tree(&[
            ("cpu,cpuacct/cpu.cfs_quota_us", "300000"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000"),
            ("unified/cgroup.procs", ""),
        ]);
        assert_eq!(quota(&root, &mounts, "1:cpu,cpuacct:/\n0::/\n"), Some(3.0));
    }

    #[test]
    fn version_2_says_what_its_caps_have_cost() {
        let root = tree(&[
            ("box/cpu.max", "50000 100000\n"),
            (
                "box/cpu.stat",
                "usage_usec 9\nnr_periods 70\nnr_throttled 12\nthrottled_usec 1500000\n",
            ),
            ("box/memory.max", "536870912\n"),
            ("box/memory.current", "100\n"),
            ("box/memory.peak", "200\n"),
            ("box/memory.events", "low 0\nhigh 7\nmax 3\noom 0\noom_kill 0\n"),
            // Its own caps are tighter than those of the group above.
            ("memory.max", "1073741824\n"),
            ("memory.current", "999\n"),
        ]);
        let cgroups = Cgroups::find(root.path(), V2, "0::/box\n");
        assert_eq!((cgroups.cpu_quota(), cgroups.memory_bytes_max()), (Some(0.5), Some(512 << 20)));
        let throttled = Duration::from_millis(1500);
        let felt = Throttling { periods: 70, throttled_periods: 12, throttled };
        assert_eq!(cgroups.throttling(), Some(felt));
        let memory = Memory { used_bytes: 100, peak_bytes: Some(200), reached: 3 };
        assert_eq!(cgroups.memory(), Some(memory));
    }

    #[test]
    fn version_2_of_an_older_kernel_has_no_peak() {
        let root = tree(&[("memory.max", "4096\n"), ("memory.current", "100\n")]);
        let memory = Cgroups::find(root.path(), V2, "0::/\n").memory();
        assert_eq!(memory, Some(Memory { used_bytes: 100, peak_bytes: None, reached: 0 }));
    }

    #[test]
    fn version_1_says_what_its_caps_have_cost() {
        let root = tree(&[
            ("cpu,cpuacct/box/cpu.cfs_quota_us", "100000\n"),
            ("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/box/cpu.stat", "nr_periods 40\nnr_throttled 4\nthrottled_time 2000000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/box/memory.limit_in_bytes", "268435456\n"),
            ("memory/box/memory.usage_in_bytes", "5\n"),
            ("memory/box/memory.max_usage_in_bytes", "6\n"),
            ("memory/box/memory.failcnt", "1\n"),
        ]);
        let cgroups = Cgroups::find(root.path(), V1, "5:memory:/box\n3:cpu,cpuacct:/box\n");
        let throttled = Duration::from_millis(2);
        let felt = Throttling { periods: 40, throttled_periods: 4, throttled };
        assert_eq!(cgroups.throttling(), Some(felt));
        assert_eq!(cgroups.memory_bytes_max(), Some(256 << 20));
        let memory = Memory { used_bytes: 5, peak_bytes: Some(6), reached: 1 };
        assert_eq!(cgroups.memory(), Some(memory));
        // Of a process that is not in the box.
        let outside = Cgroups::find(root.path(), V1, "5:memory:/\n3:cpu,cpuacct:/\n");
        assert_eq!(outside, Cgroups::default());
    }

    #[test]
    fn the_cgroups_of_a_process_that_is_gone_are_no_caps() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(Cgroups::of(Some(child.id())), Cgroups::default());
        assert_eq!(Cgroups::of(None), Cgroups::of(Some(std::process::id())));
    }
}
