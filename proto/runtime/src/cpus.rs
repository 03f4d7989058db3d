//! How many cpus this process may use, and which.
//!
//! Two limits hold at once: the affinity mask says *which* cpus (taskset, `cpuset:`), the cgroup
//! quota says *how much* of them (`cpus:` in compose). Reads both cgroup versions; a missing or
//! unreadable file means "no quota". Leaves pinning to [`crate::shards`].

use std::io;
use std::path::{Path, PathBuf};

/// What the machine lets this process use.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpus {
    /// The cpus that this thread may run on, ascending.
    pub affinity: Vec<usize>,
    /// Cpus' worth of time per period that the cgroups grant; `None` is unlimited.
    pub quota: Option<f64>,
}

impl Cpus {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `sched_getaffinity` fails.
    pub fn detect() -> io::Result<Cpus> {
        let set = rustix::thread::sched_getaffinity(None)?;
        let affinity =
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let quota =
            quota(Path::new("/"), &read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        Ok(Cpus { affinity, quota })
    }

    /// min(affinity, whole cpus of the quota), at least 1.
    pub fn shards_default(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a quota is a small positive number, and `as` saturates"
        )]
        let whole = self.quota.map_or(usize::MAX, |quota| quota.floor() as usize);
        self.affinity.len().min(whole).max(1)
    }
}

/// A mounted cgroup hierarchy that has the cpu controller.
struct Hierarchy {
    version: u8,
    mount: PathBuf,
    /// The cgroup that is the root of this mount (in a container often not `/`).
    root: String,
}

/// The smallest cpu quota of this process's cgroup and its ancestors, as far as they are visible.
///
/// `filesystem` is prefixed to every path; `mountinfo` and `cgroup` are the texts of
/// `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn quota(filesystem: &Path, mountinfo: &str, cgroup: &str) -> Option<f64> {
    let mut smallest: Option<f64> = None;
    for hierarchy in mountinfo.lines().filter_map(hierarchy) {
        let Some(path) = cgroup.lines().find_map(|line| membership(line, hierarchy.version)) else {
            continue;
        };
        // Inside a container the path may name a cgroup outside the mount: then the mount's root
        // is ours.
        let below = path.strip_prefix(hierarchy.root.trim_end_matches('/')).unwrap_or("");
        let mount = filesystem.join(hierarchy.mount.strip_prefix("/").unwrap_or(&hierarchy.mount));
        let mut directory = mount.join(below.trim_start_matches('/'));
        if !directory.is_dir() {
            directory.clone_from(&mount);
        }
        loop {
            if let Some(quota) = quota_of(&directory, hierarchy.version) {
                smallest = Some(smallest.map_or(quota, |other| other.min(quota)));
            }
            if directory == mount || !directory.pop() || !directory.starts_with(&mount) {
                break;
            }
        }
    }
    smallest
}

/// One line of mountinfo: `id parent dev root mount options … - type source super-options`.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, mount) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup2" => 2,
        "cgroup" if right.nth(1)?.split(',').any(|option| option == "cpu") => 1,
        _ => return None,
    };
    Some(Hierarchy { version, mount: unescape(mount), root: root.to_owned() })
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(path: &str) -> PathBuf {
    let octal = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(octal.iter().fold(path.to_owned(), |path, (code, text)| path.replace(code, text)))
}

/// One line of /proc/self/cgroup: `id:controllers:path`; version 2 is `0::path`.
fn membership(line: &str, version: u8) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let ours = match version {
        2 => id == "0" && controllers.is_empty(),
        _ => controllers.split(',').any(|controller| controller == "cpu"),
    };
    ours.then_some(path)
}

fn quota_of(directory: &Path, version: u8) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
    let (quota, period) = if version == 2 {
        let text = read("cpu.max")?;
        let (quota, period) = text.trim().split_once(' ')?;
        (number(quota)?, number(period)?)
    } else {
        (number(&read("cpu.cfs_quota_us")?)?, number(&read("cpu.cfs_period_us")?)?)
    };
    (quota > 0.0 && period > 0.0).then(|| quota / period)
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
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn shards(affinity: usize, quota: Option<f64>) -> usize {
        Cpus { affinity: (0..affinity).collect(), quota }.shards_default()
    }

    #[test]
    fn shards_follow_the_tighter_of_affinity_and_whole_quota() {
        assert_eq!(shards(8, None), 8);
        assert_eq!(shards(8, Some(2.9)), 2);
        assert_eq!(shards(2, Some(16.0)), 2);
        assert_eq!(shards(4, Some(0.5)), 1);
    }

    #[test]
    fn version_2_takes_the_smallest_quota_on_the_way_up() {
        let root = tree(&[
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(quota(root.path(), V2, "0::/a/b\n"), Some(1.5));
    }

    #[test]
    fn version_2_without_a_limit_has_no_quota() {
        let root = tree(&[("sys/fs/cgroup/a/cpu.max", "max 100000\n")]);
        assert_eq!(quota(root.path(), V2, "0::/a\n"), None);
        assert_eq!(quota(root.path(), V2, ""), None);
        assert_eq!(quota(root.path(), "", "0::/a\n"), None);
    }

    #[test]
    fn version_1_reads_quota_and_period_of_the_cpu_controller_only() {
        let root = tree(&[
            ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "250000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/box/cpu.cfs_quota_us", "1\n"),
        ]);
        assert_eq!(quota(root.path(), V1, "5:memory:/box\n3:cpu,cpuacct:/box\n"), Some(2.5));
    }

    #[test]
    fn in_a_container_the_mount_root_is_our_cgroup() {
        let mounts = "29 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        let root = tree(&[("sys/fs/cgroup/cpu.max", "200000 100000\n")]);
        assert_eq!(quota(root.path(), mounts, "0::/docker/abc\n"), Some(2.0));
        // With a cgroup namespace the path is `/`, or one that is not visible at all.
        assert_eq!(quota(root.path(), mounts, "0::/\n"), Some(2.0));
        assert_eq!(quota(root.path(), V2, "0::/../elsewhere\n"), Some(2.0));
    }

    #[test]
    fn a_hybrid_machine_takes_the_quota_of_the_hierarchy_that_has_one() {
        let mounts =
            format!("{V1}40 25 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n");
        let root = tree(&[
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
            ("sys/fs/cgroup/unified/cgroup.procs", ""),
        ]);
        assert_eq!(quota(root.path(), &mounts, "1:cpu,cpuacct:/\n0::/\n"), Some(3.0));
    }

    #[test]
    fn this_machine_has_at_least_one_cpu() {
        let cpus = Cpus::detect().unwrap();
        assert!(!cpus.affinity.is_empty());
        assert!(cpus.shards_default() >= 1);
    }
}
