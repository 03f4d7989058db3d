//! What the facts mean for an engine, item by item. Pure.

use runtime::cpus::Cpus;
use runtime::uring::{Refused, Uring};

use super::facts::{Direct, Facts, Folder, Rings};
use super::{Item, Report, Verdict};

/// The first release with COOP_TASKRUN.
const KERNEL_MIN: (u32, u32) = (5, 19);
/// glommio refuses to start below this.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// Registered by each of a shard's three rings: four buffers of COMMIT_BYTES_MAX (4 MiB).
const MEMLOCK_BYTES_PER_SHARD: u64 = 3 * 4 * (4 << 20);
/// The default of CONNECTIONS_MAX, and room for rings, segments and listeners.
const NOFILE_MIN: u64 = 20_000 + 200;
/// What the listeners ask for.
const BACKLOG: u64 = 4096;
/// As many outgoing connections as the engine takes by default (CONNECTIONS_MAX).
const LOCAL_PORTS_MIN: u64 = 20_000;
/// Room for the segments that two shards prepare ahead (SEGMENT_BYTES_MAX 128 MiB), and then some.
const DISK_FREE_BYTES_MIN: u64 = 1 << 30;

pub(super) fn judge(facts: &Facts) -> Report {
    let shards = facts.cpus.as_ref().map_or(1, Cpus::shards_default);
    let mut items = vec![
        kernel(&facts.kernel),
        uring(&facts.uring),
        rings(facts.rings.as_ref()),
        memlock(facts.memlock, facts.locks_freely, shards),
        nofile(facts.nofile),
        cpus(&facts.cpus),
        log_dir(&facts.log_dir),
        file_system(&facts.log_dir.system),
    ];
    items.extend(free_bytes(&facts.log_dir.system));
    items.extend([direct(&facts.log_dir.direct), backlog(facts.somaxconn)]);
    items.push(local_ports(facts.local_ports));
    Report { items }
}

fn kernel(release: &str) -> Item {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let version = number().zip(number());
    let verdict = if version.is_some_and(|version| version >= KERNEL_MIN) {
        Verdict::Ok
    } else {
        Verdict::Short("Linux 5.19 or later is what the engine is made and tested for".into())
    };
    Item { name: "kernel", found: format!("Linux {release}"), verdict }
}

fn uring(probed: &Result<Uring, Refused>) -> Item {
    let (found, verdict) = match probed {
        Ok(Uring { coop_taskrun: true }) => ("allowed, with COOP_TASKRUN".into(), Verdict::Ok),
        Ok(Uring { coop_taskrun: false }) => (
            "allowed, without COOP_TASKRUN".into(),
            Verdict::Short("Linux 5.19: without it each message costs more".into()),
        ),
        Err(refused) => ("refused".into(), Verdict::Missing(refused.to_string())),
    };
    Item { name: "io_uring", found, verdict }
}

fn rings(started: Option<&Result<Rings, String>>) -> Item {
    let (found, verdict) = match started {
        None => (
            "not tried".into(),
            Verdict::Short("they follow once io_uring is allowed, see above".into()),
        ),
        Some(Err(reason)) => (
            reason.clone(),
            Verdict::Missing("without its rings no shard starts; raise what it names".into()),
        ),
        Some(Ok(Rings { wrapped, cooperative })) => {
            let found = format!(
                "{wrapped} of one shard through the linker wrap, {cooperative} with COOP_TASKRUN"
            );
            let verdict = if cooperative == wrapped {
                Verdict::Ok
            } else {
                Verdict::Short("Linux 5.19: without it each message costs more".into())
            };
            (found, verdict)
        }
    };
    Item { name: "rings", found, verdict }
}

fn memlock(soft: Option<u64>, locks_freely: bool, shards: usize) -> Item {
    const REMEDY: &str = "`ulimit -l unlimited`, `memlock: -1` under ulimits in compose, \
                          LimitMEMLOCK=infinity in systemd";
    let wanted = u64::try_from(shards).unwrap_or(u64::MAX).saturating_mul(MEMLOCK_BYTES_PER_SHARD);
    let (found, verdict) = match soft {
        None => ("unlimited".into(), Verdict::Ok),
        // glommio looks at the limit itself, whatever the kernel would let this process do.
        Some(limit) if limit < MEMLOCK_BYTES_MIN => {
            let found = format!("{}, and glommio wants 512 KiB", size(limit));
            (found, Verdict::Missing(REMEDY.into()))
        }
        Some(limit) if locks_freely => {
            (format!("{}, which CAP_IPC_LOCK lifts", size(limit)), Verdict::Ok)
        }
        Some(limit) if limit < wanted => {
            let found = format!(
                "{} per user; {shards} shards register write buffers of {}, or go on without",
                size(limit),
                size(wanted)
            );
            (found, Verdict::Short(REMEDY.into()))
        }
        Some(limit) => (size(limit), Verdict::Ok),
    };
    Item { name: "memlock", found, verdict }
}

fn nofile((soft, hard): (u64, u64)) -> Item {
    let number =
        |limit| if limit == u64::MAX { "unlimited".into() } else { format!("{limit} files") };
    let found = format!("{} now, the engine raises it to {}", number(soft), number(hard));
    let verdict = if hard >= NOFILE_MIN {
        Verdict::Ok
    } else {
        Verdict::Short(format!(
            "CONNECTIONS_MAX 20000 needs {NOFILE_MIN}: `ulimit -Hn`, nofile under ulimits in \
             compose, LimitNOFILE in systemd; or a lower CONNECTIONS_MAX"
        ))
    };
    Item { name: "nofile", found, verdict }
}

fn cpus(detected: &Result<Cpus, String>) -> Item {
    let (found, verdict) = match detected {
        Err(reason) => (
            reason.clone(),
            Verdict::Missing("sched_getaffinity must be allowed: see the seccomp profile".into()),
        ),
        Ok(cpus) => {
            let quota =
                cpus.quota.map_or("no quota".into(), |quota| format!("a quota of {quota:.2}"));
            let found = format!(
                "{} by affinity, {quota}: SHARDS is {} by default",
                cpus.affinity.len(),
                cpus.shards_default()
            );
            let verdict = if cpus.quota.is_some_and(|quota| quota < 1.0) {
                Verdict::Short("a shard wants a whole cpu: raise the quota (`cpus:`)".into())
            } else {
                Verdict::Ok
            };
            (found, verdict)
        }
    };
    Item { name: "cpus", found, verdict }
}

fn log_dir(folder: &Folder) -> Item {
    let (log_dir, nearest) = (folder.log_dir.display(), folder.nearest.display());
    let made = folder.log_dir != folder.nearest;
    let (found, verdict) = match &folder.writable {
        Ok(()) if made => (format!("{log_dir} will be made in {nearest}"), Verdict::Ok),
        Ok(()) => (format!("{log_dir} can be written"), Verdict::Ok),
        Err(reason) => (
            format!("{log_dir}: nothing can be written to {nearest}: {reason}"),
            Verdict::Missing("give the engine's user that folder, or set another LOG_DIR".into()),
        ),
    };
    Item { name: "LOG_DIR", found, verdict }
}

/// What a file system of this magic number (statfs(2)) means for segments.
enum Medium {
    Disk,
    Memory,
    /// A container's own layer.
    Layer,
    Network,
}

fn medium(magic: i64) -> Option<(&'static str, Medium)> {
    Some(match magic {
        0xef53 => ("ext4", Medium::Disk),
        0x5846_5342 => ("xfs", Medium::Disk),
        0x9123_683e => ("btrfs", Medium::Disk),
        0xf2f5_2010 => ("f2fs", Medium::Disk),
        0x2fc1_2fc1 => ("zfs", Medium::Disk),
        0xca45_1a4e => ("bcachefs", Medium::Disk),
        0x0102_1994 => ("tmpfs", Medium::Memory),
        0x8584_58f6 => ("ramfs", Medium::Memory),
        0x794c_7630 => ("overlay", Medium::Layer),
        0x6969 => ("nfs", Medium::Network),
        0xff53_4d42 | 0xfe53_4d42 => ("smb", Medium::Network),
        0x0102_1997 => ("9p", Medium::Network),
        0x6573_5546 => ("fuse", Medium::Network),
        0x00c3_6400 => ("ceph", Medium::Network),
        _ => return None,
    })
}

fn file_system(system: &Result<(i64, u64), String>) -> Item {
    let (found, verdict) = match system {
        Err(reason) => (
            format!("unknown: {reason}"),
            Verdict::Short("LOG_DIR belongs on a local disk (ext4, xfs)".into()),
        ),
        &Ok((magic, _)) => match medium(magic) {
            Some((name, Medium::Disk)) => (name.into(), Verdict::Ok),
            Some((name, Medium::Memory)) => (
                format!("{name}, in memory"),
                Verdict::Short("nothing survives a restart: set LOG_DIR to a disk".into()),
            ),
            Some((name, Medium::Layer)) => (
                format!("{name}, a container's own layer"),
                Verdict::Short("it goes with the container: mount a volume for LOG_DIR".into()),
            ),
            Some((name, Medium::Network)) => (
                format!("{name}, behind a server"),
                Verdict::Short("lock and sync are the server's word: take a local disk".into()),
            ),
            None => (format!("{magic:#x}, not one of those the engine is tested on"), Verdict::Ok),
        },
    };
    Item { name: "file system", found, verdict }
}

fn free_bytes(system: &Result<(i64, u64), String>) -> Option<Item> {
    let &(_, free) = system.as_ref().ok()?;
    let verdict = if free >= DISK_FREE_BYTES_MIN {
        Verdict::Ok
    } else {
        Verdict::Short("make room below LOG_DIR: 1 GiB at least".into())
    };
    Some(Item { name: "free space", found: size(free), verdict })
}

fn direct(tried: &Direct) -> Item {
    let (found, verdict) = match tried {
        Direct::Works => ("works".into(), Verdict::Ok),
        Direct::Refused(reason) => (
            format!("refused ({reason}): writes go through the page cache and cost more"),
            Verdict::Short("set LOG_DIR to a file system that takes O_DIRECT (ext4, xfs)".into()),
        ),
        Direct::NotTried => (
            "not tried".into(),
            Verdict::Short("it follows once io_uring and LOG_DIR are there, see above".into()),
        ),
    };
    Item { name: "direct I/O", found, verdict }
}

fn backlog(somaxconn: Option<u64>) -> Item {
    let (found, verdict) = match somaxconn {
        None => ("net.core.somaxconn cannot be read".into(), Verdict::Ok),
        Some(limit) => {
            let found = format!("net.core.somaxconn {limit}");
            let verdict = if limit >= BACKLOG {
                Verdict::Ok
            } else {
                Verdict::Short(format!(
                    "many clients at once wait or fail: `sysctl net.core.somaxconn={BACKLOG}`"
                ))
            };
            (found, verdict)
        }
    };
    Item { name: "backlog", found, verdict }
}

fn local_ports(range: Option<(u64, u64)>) -> Item {
    let (found, verdict) = match range {
        None => ("ip_local_port_range cannot be read".into(), Verdict::Ok),
        Some((first, last)) => {
            let count = (last + 1).saturating_sub(first);
            let found = format!("{first} to {last}: {count} connections to one target");
            let verdict = if count >= LOCAL_PORTS_MIN {
                Verdict::Ok
            } else {
                Verdict::Short(
                    "a generator here runs out of ports: `sysctl \
                     net.ipv4.ip_local_port_range=\"32768 60999\"`"
                        .into(),
                )
            };
            (found, verdict)
        }
    };
    Item { name: "local ports", found, verdict }
}

/// Bytes in the largest binary unit that leaves at least one.
fn size(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|&(_, shift)| bytes >> shift > 0)
        .map_or_else(
            || format!("{bytes} bytes"),
            |(unit, shift)| format!("{} {unit}", bytes >> shift),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which nothing is short.
    fn good() -> Facts {
        Facts {
            kernel: "6.1.0-18-amd64".into(),
            uring: Ok(Uring { coop_taskrun: true }),
            rings: Some(Ok(Rings { wrapped: 3, cooperative: 3 })),
            memlock: None,
            locks_freely: false,
            nofile: (1024, 1 << 20),
            cpus: Ok(Cpus { affinity: vec![0, 1], quota: None }),
            log_dir: Folder {
                log_dir: "/var/lib/logboom".into(),
                nearest: "/var/lib/logboom".into(),
                system: Ok((0xef53, 75 << 30)),
                writable: Ok(()),
                direct: Direct::Works,
            },
            somaxconn: Some(4096),
            local_ports: Some((32_768, 60_999)),
        }
    }

    /// The lines of a report that are not `ok`, without the last one.
    fn complaints(facts: &Facts) -> Vec<String> {
        let text = judge(facts).to_string();
        let lines: Vec<_> = text.lines().collect();
        let items = &lines[..lines.len() - 1];
        items.iter().filter(|line| !line.starts_with("ok ")).map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_good_machine_is_fit_and_every_item_is_one_line() {
        let report = judge(&good());
        assert!(report.is_fit());
        let text = report.to_string();
        assert_eq!(text.lines().count(), report.items.len() + 1, "{text}");
        assert!(complaints(&good()).is_empty(), "{text}");
        assert!(text.ends_with("nothing is short\n"), "{text}");
        assert!(text.contains("2 by affinity, no quota: SHARDS is 2 by default"), "{text}");
    }

    #[test]
    fn what_is_short_names_its_remedy_and_leaves_the_machine_fit() {
        type Change = fn(&mut Facts);
        let cases: &[(&str, &str, Change)] = &[
            ("kernel", "Linux 5.19", |facts| facts.kernel = "5.18.19".into()),
            ("kernel", "Linux 5.19", |facts| facts.kernel = "4.19.0".into()),
            ("kernel", "Linux 5.19", |facts| facts.kernel = "odd".into()),
            ("io_uring", "Linux 5.19", |facts| facts.uring = Ok(Uring { coop_taskrun: false })),
            ("rings", "Linux 5.19", |facts| {
                facts.rings = Some(Ok(Rings { wrapped: 3, cooperative: 0 }));
            }),
            ("memlock", "ulimit -l", |facts| facts.memlock = Some(8 << 20)),
            ("nofile", "CONNECTIONS_MAX", |facts| facts.nofile = (1024, 4096)),
            ("cpus", "quota", |facts| {
                facts.cpus = Ok(Cpus { affinity: vec![0, 1], quota: Some(0.5) });
            }),
            ("file system", "LOG_DIR to a disk", |facts| {
                facts.log_dir.system = Ok((0x0102_1994, 75 << 30));
            }),
            ("file system", "volume", |facts| facts.log_dir.system = Ok((0x794c_7630, 75 << 30))),
            ("file system", "local disk", |facts| facts.log_dir.system = Ok((0x6969, 75 << 30))),
            ("file system", "local disk", |facts| facts.log_dir.system = Err("stale".into())),
            ("free space", "make room", |facts| {
                facts.log_dir.system = Ok((0xef53, (1 << 30) - 1));
            }),
            ("direct I/O", "ext4, xfs", |facts| {
                facts.log_dir.direct = Direct::Refused("O_DIRECT is refused".into());
            }),
            ("backlog", "net.core.somaxconn=4096", |facts| facts.somaxconn = Some(128)),
            ("local ports", "ip_local_port_range", |facts| {
                facts.local_ports = Some((50_000, 60_000));
            }),
        ];
        for (name, remedy, change) in cases {
            let mut facts = good();
            change(&mut facts);
            let complaints = complaints(&facts);
            assert_eq!(complaints.len(), 1, "{name}: {complaints:?}");
            assert!(complaints[0].starts_with(&format!("short    {name}")), "{complaints:?}");
            assert!(complaints[0].contains(remedy), "{complaints:?}");
            assert!(judge(&facts).is_fit(), "{complaints:?}");
        }
    }

    #[test]
    fn what_keeps_the_engine_from_starting_makes_the_machine_unfit() {
        type Change = fn(&mut Facts);
        let cases: &[(&str, &str, Change)] = &[
            ("io_uring", "seccomp", |facts| facts.uring = Err(Refused::NotPermitted)),
            ("rings", "out of memory", |facts| facts.rings = Some(Err("out of memory".into()))),
            ("memlock", "ulimit -l", |facts| {
                (facts.memlock, facts.locks_freely) = (Some(64 << 10), true);
            }),
            ("LOG_DIR", "permission denied", |facts| {
                facts.log_dir.writable = Err("permission denied".into());
            }),
        ];
        for (name, text, change) in cases {
            let mut facts = good();
            change(&mut facts);
            let complaints = complaints(&facts);
            assert!(complaints[0].starts_with(&format!("missing  {name}")), "{complaints:?}");
            assert!(complaints[0].contains(text), "{complaints:?}");
            assert!(!judge(&facts).is_fit(), "{complaints:?}");
            assert!(judge(&facts).to_string().ends_with("cannot start here\n"));
        }
    }

    #[test]
    fn the_limit_on_locked_memory_grows_with_the_shards_and_capabilities_lift_it() {
        let verdict = |bytes, freely, shards| memlock(bytes, freely, shards).verdict;
        assert_eq!(verdict(Some(48 << 20), false, 1), Verdict::Ok);
        assert!(matches!(verdict(Some(48 << 20), false, 2), Verdict::Short(_)));
        assert_eq!(verdict(Some(8 << 20), true, 64), Verdict::Ok);
        assert_eq!(verdict(None, false, 64), Verdict::Ok);
    }
}
