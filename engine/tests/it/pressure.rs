//! What a client is told while the engine cannot store: no disk, no room, a sink that fails or hangs.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proto::Code;
use proto::reply::{OwnedReply, Status};

use crate::harness::{self, Engine, PATIENCE, skip, stored};

const RECEIVED: &[u8] = b"{\"hello\":{\"version\":1,\"durability\":\"received\"}}\n";

fn line(level: &str, id: usize, pad: &str) -> String {
    format!("{{\"level\":\"{level}\",\"message\":\"{pad}\",\"id\":{id}}}\n")
}

/// A client that asks one thing at a time.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn new(engine: &Engine) -> Client {
        Client { stream: BufReader::new(engine.connect()) }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn reply(&mut self) -> OwnedReply {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        OwnedReply::parse(line.trim_ascii_end()).unwrap()
    }

    fn ask(&mut self, bytes: &[u8]) -> OwnedReply {
        self.send(bytes);
        self.reply()
    }

    /// Asks until it is told ok; gives what it was told before.
    fn ask_until_ok(&mut self, bytes: &[u8]) -> Vec<OwnedReply> {
        let began = Instant::now();
        let mut told = Vec::new();
        loop {
            let reply = self.ask(bytes);
            if reply.status == Status::Ok {
                return told;
            }
            assert!(began.elapsed() < PATIENCE, "never ok again: {reply:?}");
            told.push(reply);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is(reply: &OwnedReply, code: Code) -> bool {
    reply.known_code() == Some(code)
}

#[test]
fn below_the_bound_every_line_is_told_so_with_its_id_and_none_is_stored() {
    let engine = Engine::start(&[("DISK_FREE_BYTES_MIN", "1000000GiB")]);
    let mut input: String = (0..1000).map(|id| line("INFO", id, "m")).collect();
    input.push_str(
        "[]\n{\"level\":\"trace\",\"message\":\"m\"}\n{\"level\":\"INFO\",\"message\":\"m\"}\n",
    );
    let replies = engine.converse(input.as_bytes());
    assert_eq!(replies.len(), 1003);
    for (id, reply) in replies[..1000].iter().enumerate() {
        assert!(is(reply, Code::DiskFull), "{reply:?}");
        assert_eq!(reply.id, Some(id.into()));
        assert!(reply.retry_after_ms.is_some_and(|ms| ms > 0));
    }
    assert!(is(&replies[1000], Code::NotAnObject), "the sender's own fault comes first");
    assert_eq!(replies[1001].status, Status::Filtered);
    assert!(is(&replies[1002], Code::DiskFull) && replies[1002].id.is_none());
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!((stopped.total("disk_full"), stopped.total("ok")), (1001, 0));
    assert!(stored(stopped.folder.path()).is_empty());
}

#[test]
fn when_space_returns_lines_are_taken_again_on_the_same_connection() {
    let test = "when_space_returns_lines_are_taken_again_on_the_same_connection";
    // A file system that nobody else fills by hundreds of megabytes in between.
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return skip(test, "no /dev/shm") };
    let free = {
        let system = rustix::fs::statvfs(folder.path()).unwrap();
        system.f_bavail * system.f_frsize
    };
    const MIB: u64 = 1 << 20;
    let filler_bytes = (free / 2).min(128 * MIB);
    if filler_bytes < 16 * MIB {
        return skip(test, "less than 32 MiB are free in /dev/shm");
    }
    let filler = folder.path().join("filler");
    let fill = || {
        let file = std::fs::File::create(&filler).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, filler_bytes).unwrap();
    };
    let free_min = (free - filler_bytes / 2).to_string();
    fill();
    let engine = Engine::start_in(folder, &[("DISK_FREE_BYTES_MIN", &free_min)]);
    let mut client = Client::new(&engine);
    let first = client.ask(line("INFO", 1, "m").as_bytes());
    assert!(is(&first, Code::DiskFull), "{first:?}");
    for _ in 0..2 {
        std::fs::remove_file(&filler).unwrap();
        let told = client.ask_until_ok(line("INFO", 2, "m").as_bytes());
        assert!(told.iter().all(|reply| is(reply, Code::DiskFull)));
        fill();
        let began = Instant::now();
        while !is(&client.ask(line("INFO", 3, "m").as_bytes()), Code::DiskFull) {
            assert!(began.elapsed() < PATIENCE, "the full disk is not seen");
        }
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    let on_disk: usize = stored(stopped.folder.path()).values().sum();
    assert_eq!(on_disk as u64, stopped.total("ok"));
    assert!(stopped.err.contains("DISK_FREE_BYTES_MIN"), "{}", stopped.err);
}

#[test]
fn under_a_flood_the_least_important_lines_are_shed_first_and_replies_stay_in_order() {
    let engine = Engine::start(&[
        ("SHARDS", "1"),
        ("OVERLOAD", "shed"),
        ("LINE_BYTES_MAX", "4096"),
        // A batch of 8 KiB, and reads of many times that: it fills up within one turn.
        ("COMMIT_BYTES_MAX", "20481"),
        ("BUFFER_SIZE", "1MiB"),
        ("SEGMENT_BYTES_MAX", "64KiB"),
    ]);
    let levels = ["DEBUG", "INFO", "ERROR"];
    let lines: Vec<_> = (0..30_000).map(|id| line(levels[id % 3], id, "a message")).collect();
    let replies = engine.converse(lines.concat().as_bytes());
    assert_eq!(replies.len(), lines.len());
    let (mut shed, mut kept) = ([0, 0, 0], Vec::new());
    for (id, reply) in replies.iter().enumerate() {
        assert_eq!(reply.id, Some(id.into()), "in the order of the lines");
        match reply.status {
            Status::Ok => kept.push(lines[id].trim_end()),
            _ if is(reply, Code::Overloaded) => {
                assert!(reply.retry_after_ms.is_some() && !reply.fatal);
                shed[id % 3] += 1;
            }
            _ => panic!("{reply:?}"),
        }
    }
    assert!(shed[0] > shed[1] && shed[1] > shed[2], "{shed:?}");
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("shed"), shed.iter().sum::<u64>());
    let on_disk: Vec<_> = harness::segments(&stopped.folder.path().join("logs"))
        .iter()
        .map(|segment| std::fs::read_to_string(segment).unwrap())
        .collect();
    let on_disk = on_disk.concat();
    let on_disk: Vec<_> = on_disk.lines().filter(|line| !line.is_empty()).collect();
    assert!(on_disk == kept, "the file has what was taken, in the order of the lines");
}

#[test]
fn without_shed_the_same_flood_waits_and_loses_nothing() {
    let engine = Engine::start(&[
        ("SHARDS", "1"),
        ("LINE_BYTES_MAX", "4096"),
        ("COMMIT_BYTES_MAX", "20481"),
        ("BUFFER_SIZE", "1MiB"),
    ]);
    let lines: String = (0..5_000).map(|id| line("DEBUG", id, "a message")).collect();
    let replies = engine.converse(lines.as_bytes());
    assert_eq!(replies.len(), 5_000);
    assert!(replies.iter().all(|reply| reply.status == Status::Ok));
    assert_eq!(engine.stop().total("shed"), 0);
}

/// An engine whose writes can be made to fail from outside, without root: by its limit on file
/// sizes, the signal of which it ignores.
fn start_limitable(settings: &[(&str, &str)]) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let like = harness::command(folder.path());
    let mut command = Command::new("sh");
    command.args([OsStr::new("-c"), OsStr::new("trap '' XFSZ; exec \"$0\""), like.get_program()]);
    command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Engine::start_as(command, folder)
}

/// False if this machine has no way to.
fn limit_files(engine: &Engine, soft: &str) -> bool {
    let limits = [format!("--pid={}", engine.pid()), format!("--fsize={soft}:")];
    Command::new("prlimit").args(limits).status().is_ok_and(|status| status.success())
}

#[test]
fn writes_that_fail_open_the_breaker_and_it_closes_by_itself_when_they_succeed_again() {
    let engine = start_limitable(&[
        ("SHARDS", "1"),
        ("CIRCUIT_BREAKER_ENABLED", "true"),
        ("BREAKER_FAILURES_MAX", "3"),
        ("BREAKER_OPEN_MS", "400"),
    ]);
    let mut client = Client::new(&engine);
    let good = line("INFO", 7, "m");
    assert_eq!(client.ask(good.as_bytes()).status, Status::Ok);
    // A client's bad lines count for nothing.
    for _ in 0..50 {
        assert!(is(&client.ask(b"{\n"), Code::InvalidJson));
    }
    if !limit_files(&engine, "0") {
        return skip(
            "writes_that_fail_open_the_breaker_and_it_closes_by_itself_when_they_succeed_again",
            "no prlimit",
        );
    }
    for _ in 0..3 {
        let failed = client.ask(good.as_bytes());
        assert!(is(&failed, Code::StorageFailed), "{failed:?}");
        assert_eq!(failed.id, Some(7.into()));
    }
    let open = client.ask(b"not even looked at\n");
    assert!(is(&open, Code::BreakerOpen) && open.id.is_none(), "{open:?}");
    assert!(open.retry_after_ms.is_some_and(|ms| (1..=400).contains(&ms)), "{open:?}");
    // Nobody reaches the sink but one probe each 400 ms.
    let began = Instant::now();
    let mut probes = 0;
    while began.elapsed() < Duration::from_millis(900) {
        let reply = client.ask(good.as_bytes());
        probes += usize::from(is(&reply, Code::StorageFailed));
        assert!(is(&reply, Code::BreakerOpen) || is(&reply, Code::StorageFailed), "{reply:?}");
    }
    assert!((1..=2).contains(&probes), "{probes}");
    assert!(limit_files(&engine, "unlimited"));
    client.ask_until_ok(good.as_bytes());
    assert_eq!(client.ask(good.as_bytes()).status, Status::Ok);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!((stopped.total("ok"), stopped.total("breakers_open")), (3, 0));
    assert!(stopped.total("breaker_opened") >= 2 && stopped.total("breaker_refused") > 0);
    assert_eq!(stored(stopped.folder.path()).values().sum::<usize>(), 3);
    for said in ["breaker open", "breaker half-open", "breaker closed"] {
        assert!(stopped.err.contains(said), "{}", stopped.err);
    }
}

/// A file system of its own that can be made to hang.
struct Freezer {
    mount: PathBuf,
    _folder: tempfile::TempDir,
}

/// While it lives, writes hang. Not even a killed process gets away from them.
struct Frozen<'a>(&'a Freezer);

fn succeeds(program: &str, arguments: &[&OsStr]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Freezer {
    /// `None` where this needs root, or a tool is missing.
    fn mount() -> Option<Freezer> {
        let folder = tempfile::tempdir().unwrap();
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        let (image, at) = (image.as_os_str(), mount.as_os_str());
        let is_there = succeeds("mkfs.ext4", &["-q".as_ref(), image])
            && succeeds("mount", &["-o".as_ref(), "loop".as_ref(), image, at]);
        is_there.then(|| Freezer { mount: mount.clone(), _folder: folder })
    }

    fn freeze(&self) -> Option<Frozen<'_>> {
        let done = succeeds("fsfreeze", &["-f".as_ref(), self.mount.as_os_str()]);
        done.then_some(Frozen(self))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        succeeds("fsfreeze", &["-u".as_ref(), self.0.mount.as_os_str()]);
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        succeeds("umount", &["-l".as_ref(), self.mount.as_os_str()]);
    }
}

#[test]
fn a_real_disk_that_hangs_for_two_seconds_sheds_then_opens_the_breaker_and_recovers() {
    let test = "a_real_disk_that_hangs_for_two_seconds_sheds_then_opens_the_breaker_and_recovers";
    let Some(disk) = Freezer::mount() else {
        return skip(test, "needs root, mkfs.ext4 and loop mounts");
    };
    if disk.freeze().is_none() {
        return skip(test, "needs fsfreeze");
    }
    let logs = disk.mount.join("logs");
    let engine = Engine::start(&[
        ("SHARDS", "1"),
        ("LOG_DIR", logs.to_str().unwrap()),
        ("OVERLOAD", "shed"),
        ("LINE_BYTES_MAX", "4096"),
        ("COMMIT_BYTES_MAX", "64KiB"),
        ("SEGMENT_BYTES_MAX", "1MiB"),
        ("CIRCUIT_BREAKER_ENABLED", "true"),
        ("BREAKER_FAILURES_MAX", "4"),
        ("BREAKER_SLOW_MS", "250"),
        ("BREAKER_OPEN_MS", "500"),
    ]);
    let mut client = Client::new(&engine);
    client.send(RECEIVED);
    let mut welcome = String::new();
    client.stream.read_line(&mut welcome).unwrap();
    assert!(welcome.contains("received"), "{welcome}");
    assert_eq!(client.ask(line("INFO", 0, "m").as_bytes()).status, Status::Ok);
    let frozen = disk.freeze().unwrap();
    let began = Instant::now();
    let (mut ok, mut shed, mut refused) = (Vec::new(), [0, 0, 0], 0);
    let (levels, pad) = (["DEBUG", "INFO", "ERROR"], "x".repeat(300));
    let mut id = 0;
    while began.elapsed() < Duration::from_secs(2) {
        id += 1;
        let line = line(levels[id % 3], id, &pad);
        // Who was promised no more than `received` is answered at once, whatever the disk does.
        let reply = client.ask(line.as_bytes());
        match reply.known_code() {
            None => ok.push(line.trim_end().to_owned()),
            Some(Code::Overloaded) => shed[id % 3] += 1,
            Some(Code::BreakerOpen) => refused += 1,
            _ => panic!("{reply:?}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(frozen);
    assert!(shed[0] > 0 && shed[0] >= shed[1] && shed[1] >= shed[2], "{shed:?}");
    assert!(refused > 0 && ok.len() > 50, "{refused} refused, {} taken", ok.len());
    client.ask_until_ok(line("DEBUG", id + 1, "m").as_bytes());
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("lost_after_received"), 0);
    let mut on_disk = String::new();
    for segment in harness::segments(&logs) {
        std::fs::File::open(segment).unwrap().read_to_string(&mut on_disk).unwrap();
    }
    let on_disk: Vec<_> = on_disk.lines().filter(|line| line.contains(&pad)).collect();
    assert!(on_disk == ok, "what was taken is stored, in its order");
}
