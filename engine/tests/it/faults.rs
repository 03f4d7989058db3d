//! The world fails under the real engine: disks, descriptors, the clock.
//!
//! Disks that fail are file systems of their own, mounted where only the test and its engine see
//! them (a mount namespace); that takes root, and elsewhere these tests say that they are skipped.
//! The namespace goes, and with it all mounts, when the process that holds it loses its standard
//! input: nothing is left behind by a test that is killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto::reply::{OwnedReply, Status};
use tempfile::TempDir;

use crate::clients::{Client, hammer, line};
use crate::harness::{Engine, PATIENCE, command, command_under, skip, stored};

/// A mount namespace.
struct Mounts {
    /// Ends when its standard input does.
    keeper: Child,
}

impl Mounts {
    /// Runs `script` in a new namespace; `None`, said loudly, where that cannot be had.
    fn make(test: &str, folder: &Path, script: &str) -> Option<Mounts> {
        let script = format!("set -e\n{script}\necho made\nexec cat >/dev/null");
        let keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut keeper = match keeper {
            Ok(keeper) => keeper,
            Err(error) => {
                skip(test, &format!("unshare: {error}"));
                return None;
            }
        };
        let mut said = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said != "made\n" {
            let mut why = String::new();
            keeper.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            keeper.wait().unwrap();
            skip(test, &format!("no file system of its own: {}", why.trim()));
            return None;
        }
        Some(Mounts { keeper })
    }

    fn enter(&self) -> [String; 4] {
        ["nsenter".into(), "--target".into(), self.keeper.id().to_string(), "--mount".into()]
    }

    /// Runs `script` inside.
    fn try_run(&self, folder: &Path, script: &str) -> Output {
        let [nsenter, words @ ..] = self.enter();
        let folder = folder.display();
        Command::new(nsenter)
            .args(words)
            .args(["sh", "-ec", &format!("cd {folder}\n{script}")])
            .output()
            .unwrap()
    }

    fn run(&self, folder: &Path, script: &str) {
        let output = self.try_run(folder, script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// An engine inside, with LOG_DIR `disk/logs` below `folder`.
    fn engine(&self, folder: TempDir, settings: &[(&str, &str)]) -> Engine {
        let words = self.enter();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut command = command_under(&words, folder.path());
        command.env("LOG_DIR", folder.path().join("disk/logs")).envs(settings.iter().copied());
        Engine::start_as(command, folder)
    }

    /// Where the test finds `path` of the inside.
    fn outside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.keeper.id());
        Path::new(&root).join(path.strip_prefix("/").unwrap())
    }

    /// The lines that are stored inside, each once.
    fn stored(&self, folder: &Path) -> BTreeSet<String> {
        let lines = stored(&self.outside(&folder.join("disk")));
        for (line, &times) in &lines {
            assert_eq!(times, 1, "{line}");
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        lines.into_keys().collect()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

const TMPFS: &str = "mkdir disk && mount -t tmpfs -o size=24m none disk";

/// ext4 on a sparse file: everything but the journal is there, and the file system below is full,
/// so that writes succeed and syncs fail.
const EXT4_WITHOUT_JOURNAL_SPACE: &str = "
mkdir below disk && mount -t tmpfs -o size=90m none below && truncate -s 64M below/image
mkfs.ext4 -q -J size=4 -E lazy_journal_init=1,lazy_itable_init=1,nodiscard below/image
mount -o loop,errors=remount-ro below/image disk
dd if=/dev/zero of=disk/all bs=1M oflag=direct 2>/dev/null || true
rm disk/all && sync -f disk";

const EXT4: &str = "
mkdir below disk && mount -t tmpfs -o size=90m none below && truncate -s 64M below/image
mkfs.ext4 -q -J size=4 below/image && mount -o loop below/image disk";

/// About `bytes` long, and like no other of another `id`.
fn long_line(id: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!(r#"{{"level":"INFO","message":"{text}","id":"{id}"}}"#)
}

fn code(reply: &OwnedReply) -> &str {
    reply.code.as_deref().unwrap_or("ok")
}

/// A client that keeps its own list of what was acknowledged.
struct Witness {
    client: Client,
    acknowledged: Vec<String>,
    asked: usize,
    line_bytes: usize,
}

impl Witness {
    fn of(engine: &Engine, line_bytes: usize) -> Witness {
        let client = Client::of(engine.connect());
        Witness { client, acknowledged: Vec::new(), asked: 0, line_bytes }
    }

    fn ask(&mut self) -> OwnedReply {
        self.asked += 1;
        let line = long_line(&self.asked.to_string(), self.line_bytes);
        let reply = self.client.ask(&line);
        if reply.status == Status::Ok {
            self.acknowledged.push(line);
        }
        reply
    }

    /// Asks until the code is one of `wanted`.
    fn ask_until(&mut self, wanted: &[&str]) {
        let began = Instant::now();
        let mut last = self.ask();
        while !wanted.contains(&code(&last)) {
            assert!(began.elapsed() < PATIENCE, "still {last:?}");
            std::thread::sleep(Duration::from_millis(1));
            last = self.ask();
        }
    }
}

fn is_ready(engine: &Engine) -> bool {
    let mut stream = TcpStream::connect(engine.admin.unwrap()).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said.starts_with("HTTP/1.1 200")
}

#[test]
fn a_full_disk_fails_lines_and_nothing_else_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let test = "a_full_disk_fails_lines_and_nothing_else_until_there_is_room";
    let Some(mounts) = Mounts::make(test, folder.path(), TMPFS) else { return };
    let settings = [("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "1MiB"), ("COMMIT_BYTES_MAX", "1MiB")];
    let engine = mounts.engine(folder, &settings);
    let folder = engine.folder.path().to_owned();
    let mut witness = Witness::of(&engine, 20_000);
    for round in 0..2 {
        witness.ask_until(&["ok"]);
        mounts.run(&folder, "dd if=/dev/zero of=disk/fill bs=64k 2>/dev/null || true");
        witness.ask_until(&["storage_failed", "disk_full"]);
        for _ in 0..20 {
            let reply = witness.ask();
            assert!(["ok", "storage_failed", "disk_full"].contains(&code(&reply)), "{reply:?}");
        }
        mounts.run(&folder, "rm disk/fill");
        witness.ask_until(&["ok"]);
        for _ in 0..20 {
            assert_eq!(code(&witness.ask()), "ok", "in round {round}");
        }
    }
    assert!(is_ready(&engine));
    let stopped = engine.stop();
    stopped.assert_clean();
    let there = mounts.stored(stopped.folder.path());
    for line in &witness.acknowledged {
        assert!(there.contains(line), "lost {}", &line[line.len() - 30..]);
    }
}

#[test]
fn a_disk_that_fails_every_write_costs_the_lines_and_not_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let test = "a_disk_that_fails_every_write_costs_the_lines_and_not_the_engine";
    let Some(mounts) = Mounts::make(test, folder.path(), EXT4) else { return };
    // What `EXT4_IOC_SHUTDOWN` does: from now on each operation is an EIO, as with a dead disk.
    let dies = r#"python3 -c "import fcntl, os, struct
fcntl.ioctl(os.open('disk', os.O_RDONLY), 0x8004587d, struct.pack('I', 0))""#;
    let engine = mounts.engine(folder, &[("SHARDS", "1")]);
    let folder = engine.folder.path().to_owned();
    let mut witness = Witness::of(&engine, 100);
    for _ in 0..50 {
        assert_eq!(code(&witness.ask()), "ok");
    }
    let died = mounts.try_run(&folder, dies);
    if !died.status.success() {
        return skip(test, &String::from_utf8_lossy(&died.stderr));
    }
    for _ in 0..20 {
        assert_eq!(code(&witness.ask()), "storage_failed");
    }
    // Others get their answer, too.
    let replies = engine.converse((line("other") + "\n[]\n").as_bytes());
    assert_eq!(replies.iter().map(code).collect::<Vec<_>>(), ["storage_failed", "not_an_object"]);
    let stopped = engine.stop();
    assert_eq!(stopped.total("in_flight"), 0);
    assert_eq!(stopped.total("ok"), 50);
    assert!(stopped.code == Some(1), "{:?}: {}", stopped.code, stopped.err);
    // The disk comes back; the next engine finds what was acknowledged.
    mounts.run(&folder, "umount disk && mount -o loop below/image disk");
    let engine = mounts.engine(stopped.folder, &[("SHARDS", "1")]);
    let stopped = engine.stop();
    stopped.assert_clean();
    let there = mounts.stored(stopped.folder.path());
    for line in &witness.acknowledged {
        assert!(there.contains(line), "lost {line}");
    }
}

#[test]
fn a_failed_sync_is_final_and_costs_nothing_that_was_durable() {
    let folder = tempfile::tempdir().unwrap();
    let test = "a_failed_sync_is_final_and_costs_nothing_that_was_durable";
    let Some(mounts) = Mounts::make(test, folder.path(), EXT4_WITHOUT_JOURNAL_SPACE) else {
        return;
    };
    let engine = mounts.engine(folder, &[("SHARDS", "1"), ("DURABILITY", "durable")]);
    let folder = engine.folder.path().to_owned();
    let mut witness = Witness::of(&engine, 5_000);
    for _ in 0..20 {
        assert_eq!(code(&witness.ask()), "ok");
    }
    assert!(is_ready(&engine));
    mounts.run(&folder, "dd if=/dev/zero of=below/fill bs=64k 2>/dev/null || true");
    witness.ask_until(&["storage_failed"]);
    for _ in 0..20 {
        assert_eq!(code(&witness.ask()), "storage_failed");
    }
    // Room would help the disk, and may not help the engine: what is gone is gone.
    mounts.run(&folder, "rm below/fill");
    for _ in 0..20 {
        assert_eq!(code(&witness.ask()), "storage_failed");
    }
    let began = Instant::now();
    while is_ready(&engine) {
        assert!(began.elapsed() < PATIENCE, "still ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    let stopped = engine.stop();
    assert_eq!(stopped.code, Some(1), "{}", stopped.err);
    assert!(stopped.err.contains("sync"), "{}", stopped.err);
    assert_eq!(stopped.total("in_flight"), 0);
    assert_eq!(stopped.total("ok"), witness.acknowledged.len() as u64);
    mounts.run(&folder, "umount disk && mount -o loop below/image disk");
    let engine = mounts.engine(stopped.folder, &[("SHARDS", "1")]);
    let stopped = engine.stop();
    stopped.assert_clean();
    let there = mounts.stored(stopped.folder.path());
    for line in &witness.acknowledged {
        assert!(there.contains(line), "lost {}", &line[line.len() - 30..]);
    }
}

#[test]
fn a_folder_that_takes_no_file_fails_lines_until_it_does_again() {
    let folder = tempfile::tempdir().unwrap();
    let test = "a_folder_that_takes_no_file_fails_lines_until_it_does_again";
    let Some(mounts) = Mounts::make(test, folder.path(), EXT4) else { return };
    let settings = [("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "64KiB"), ("COMMIT_BYTES_MAX", "1MiB")];
    let engine = mounts.engine(folder, &settings);
    let folder = engine.folder.path().to_owned();
    let mut witness = Witness::of(&engine, 20_000);
    witness.ask_until(&["ok"]);
    // Root ignores modes, but not this.
    mounts.run(&folder, "chattr +i disk/logs/shard-00");
    witness.ask_until(&["storage_failed"]);
    for _ in 0..20 {
        let reply = witness.ask();
        assert!(["ok", "storage_failed"].contains(&code(&reply)), "{reply:?}");
    }
    mounts.run(&folder, "chattr -i disk/logs/shard-00");
    witness.ask_until(&["ok"]);
    for _ in 0..20 {
        assert_eq!(code(&witness.ask()), "ok");
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    let there = mounts.stored(stopped.folder.path());
    for line in &witness.acknowledged {
        assert!(there.contains(line), "lost {}", &line[line.len() - 30..]);
    }
}

/// Seconds of CPU that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn without_descriptors_who_is_there_is_served_and_others_when_some_return() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command_under(&["prlimit", "--nofile=128:128"], folder.path());
    command.envs([("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "64KiB"), ("COMMIT_BYTES_MAX", "1MiB")]);
    let engine = Engine::start_as(command, folder);
    let mut first = Client::of(engine.connect());
    assert_eq!(code(&first.ask(&line("before"))), "ok");
    // The kernel takes them all into its queue; the engine gets as many as it has descriptors.
    let crowd: Vec<_> = (0..200).map(|_| engine.connect()).collect();
    let began = Instant::now();
    while descriptors(engine.pid()) < 128 {
        assert!(began.elapsed() < PATIENCE, "{} descriptors", descriptors(engine.pid()));
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = cpu_seconds(engine.pid());
    std::thread::sleep(Duration::from_millis(1500));
    let used = cpu_seconds(engine.pid()) - before;
    assert!(used < 0.75, "{used} s of CPU in 1.5 s without a descriptor");
    let mut acknowledged = Vec::new();
    for n in 0..200 {
        // Segments of 64 KiB: this needs new files, too.
        let line = long_line(&format!("during {n}"), 2_000);
        let reply = first.ask(&line);
        match code(&reply) {
            "ok" => acknowledged.push(line),
            "storage_failed" => {}
            _ => panic!("{reply:?}"),
        }
    }
    println!("without descriptors: {used:.2} s of CPU in 1.5 s, {} of 200 ok", acknowledged.len());
    drop(crowd);
    let began = Instant::now();
    loop {
        let mut late = Client::of(engine.connect());
        let late_line = line("late");
        if late.try_ask(&late_line).is_some_and(|reply| reply.status == Status::Ok) {
            acknowledged.push(late_line);
            break;
        }
        assert!(began.elapsed() < PATIENCE, "nobody is served any more");
    }
    let last = line("last");
    assert_eq!(code(&first.ask(&last)), "ok");
    acknowledged.push(last);
    drop(first);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stopped.total("accept_errors") > 0);
    let there = stored(stopped.folder.path());
    for line in &acknowledged {
        assert!(there.contains_key(line), "lost {}", &line[line.len() - 30..]);
    }
}

/// Moves the wall clock of one process by the seconds that a file says.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        char text[32] = {0};
        int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY | O_CLOEXEC);
        if (file >= 0 && read(file, text, sizeof text - 1) > 0) time->tv_sec += atoll(text);
        if (file >= 0) close(file);
    }
    return result;
}
"#;

#[test]
fn a_wall_clock_that_jumps_changes_nothing() {
    let test = "a_wall_clock_that_jumps_changes_nothing";
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("clock.c"), folder.path().join("clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output();
    match built {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(test, &String::from_utf8_lossy(&output.stderr)),
        Err(error) => return skip(test, &format!("cc: {error}")),
    }
    let offset = folder.path().join("offset");
    let set = |seconds: i64| std::fs::write(&offset, seconds.to_string()).unwrap();
    set(0);
    let mut command = command(folder.path());
    command
        .env("LD_PRELOAD", &library)
        .env("CLOCK_OFFSET_FILE", &offset)
        .env("SYNC_MS", "50")
        .env("IDLE_TIMEOUT_SECS", "60")
        .env("SHARDS", "1");
    let engine = Engine::start_as(command, folder);
    let mut client = Client::of(engine.connect());
    let idle = engine.connect();
    const YEAR: i64 = 365 * 24 * 3600;
    for (n, seconds) in [20 * YEAR, -20 * YEAR, 3600, -3600, 0].into_iter().enumerate() {
        set(seconds);
        let began = Instant::now();
        for m in 0..20 {
            assert_eq!(code(&client.ask(&line(&format!("{n} {m}")))), "ok");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(began.elapsed() < PATIENCE);
    }
    let mut idle = Client::of(idle);
    assert_eq!(code(&idle.ask(&line("idle"))), "ok");
    // The proof that the clock did jump: the engine's last words carry its time.
    set(20 * YEAR);
    drop((client, idle));
    let stopped = engine.stop();
    stopped.assert_clean();
    let year = |line: &str| line.get(..4).and_then(|year| year.parse::<u32>().ok());
    let years: BTreeSet<_> = stopped.err.lines().filter_map(year).collect();
    let span = years.last().unwrap() - years.first().unwrap();
    assert!(span >= 19, "the clock did not jump: {}", stopped.err);
    assert_eq!(stored(stopped.folder.path()).len(), 101);
    assert!(stopped.total("syncs") > 2);
    assert_eq!(stopped.total("idle_timeouts"), 0);
}

#[test]
fn a_log_dir_that_is_removed_while_running_is_made_again_and_what_is_acknowledged_then_is_there() {
    let engine = Engine::start(&[("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "64KiB")]);
    let log_dir = engine.log_dir();
    let enough = Arc::new(AtomicBool::new(false));
    // Others write all the time, so that it goes in the middle of something.
    let others: Vec<_> = (0..3)
        .map(|n| hammer(engine.address, format!("other {n}"), None, Arc::clone(&enough)))
        .collect();
    let mut witness = Witness::of(&engine, 1_000);
    for round in 0..5 {
        for _ in 0..20 {
            witness.ask_until(&["ok"]);
        }
        if round % 2 == 0 {
            // The engine may put something there while it goes.
            while std::fs::remove_dir_all(&log_dir).is_err() && log_dir.exists() {}
        } else {
            let aside = engine.folder.path().join(format!("aside {round}"));
            std::fs::write(&aside, "in the way").unwrap();
            // In one step: the engine would make it again in between.
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &log_dir, rustix::fs::CWD, &aside, exchange)
                .unwrap();
            std::fs::remove_dir_all(&aside).unwrap();
            witness.ask_until(&["storage_failed"]);
            std::fs::remove_file(&log_dir).unwrap();
        }
        witness.acknowledged.clear();
    }
    for _ in 0..50 {
        witness.ask_until(&["ok"]);
    }
    enough.store(true, Ordering::Relaxed);
    for other in others {
        other.join().unwrap();
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    let there = stored(stopped.folder.path());
    for line in &witness.acknowledged {
        assert_eq!(there.get(line), Some(&1), "lost {}", &line[line.len() - 30..]);
    }
}
