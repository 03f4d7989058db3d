//! The file sink and its recovery against a slow oracle: the lines that were acknowledged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fastrand::Rng;
use memchr::{memchr_iter, memchr2, memmem};

use super::*;
use crate::sink::Sink;
use crate::sink::disk::faulty::{FaultyDisk, Operation, Verdict};
use crate::sink::disk::tests::on_each_disk;
use crate::sink::disk::{Disk, RealDisk};

/// Fast where a test syncs thousands of times.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    seed
}

/// How often a random test runs: ROUNDS, or what fits into a second or two.
fn rounds(usual: usize) -> usize {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

fn plan(log_dir: &Path, next: u64) -> Plan {
    Plan::for_test(log_dir, next)
}

/// Lines with numbers of their own, each ended by `\n`; sometimes longer than a block.
fn random_lines(rng: &mut Rng, count: &mut u64) -> Vec<u8> {
    let mut lines = Vec::new();
    for _ in 0..rng.u32(1..12) {
        let bytes = match rng.u8(..20) {
            0 => rng.usize(4000..9000),
            1..6 => 0,
            _ => rng.usize(0..400),
        };
        let message = "x".repeat(bytes);
        let line = format!("{{\"level\":\"INFO\",\"message\":\"{message}\",\"seq\":{count}}}\n");
        lines.extend_from_slice(line.as_bytes());
        *count += 1;
    }
    lines
}

/// What stands between the sink and a caller that begins the next batch while one is written.
struct Stager {
    head: usize,
}

impl Stager {
    fn stage<D: Disk>(&mut self, sink: &Sink<D>, lines: &[u8]) -> Staged<D::Buf> {
        let len = self.head + lines.len();
        let mut buf = sink.alloc(len + 2 * BLOCK);
        buf.as_mut()[self.head..len].copy_from_slice(lines);
        let count = memchr_iter(b'\n', lines).count() as u64;
        let staged = Staged { buf, head: self.head, len, lines: count };
        self.head = staged.next_head();
        staged
    }
}

/// The lines of a file which holds nothing but whole lines and padding behind them.
fn lines_of(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|&byte| byte != b'\n').map_or(0, |last| last + 2);
    assert!(end <= bytes.len(), "{} ends in the middle of a line", path.display());
    let lines = &bytes[..end];
    assert!(memmem::find(lines, b"\n\n").is_none(), "padding between lines");
    assert!(memchr2(0, b'?', lines).is_none() && lines.first() != Some(&b'\n'));
    lines.to_vec()
}

fn read_all(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let segments = segments::segments(directory).unwrap();
    segments.into_iter().map(|s| (s.path.clone(), fs::read(s.path).unwrap())).collect()
}

fn lines_of_all(files: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    files.iter().map(|(path, bytes)| lines_of(path, bytes)).collect::<Vec<_>>().concat()
}

/// All bytes, one file behind the other.
fn bytes_of_all(files: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    files.iter().map(|(_, bytes)| bytes.as_slice()).collect::<Vec<_>>().concat()
}

/// The same without blank lines.
fn unpadded(files: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (_, bytes) in files {
        let mut start = 0;
        for newline in memchr_iter(b'\n', bytes) {
            if newline > start {
                lines.extend_from_slice(&bytes[start..=newline]);
            }
            start = newline + 1;
        }
        lines.extend_from_slice(&bytes[start..]);
    }
    lines
}

#[test]
fn a_real_disk_holds_exactly_the_acknowledged_lines_at_any_moment() {
    let seed = seed();
    on_each_disk(|disk, dir| async move {
        let rng = &mut Rng::with_seed(seed);
        let log_dir = LogDir::open(&dir, 1).unwrap();
        let directory = segments::shard_directory(&dir, 0);
        let active = Arc::new(AtomicU64::new(0));
        let sink =
            FileSink::begin(disk, &log_dir.plan(), 0, 20_000, Arc::clone(&active)).await.unwrap();
        let mut sink = Sink::File(sink);
        let (mut stager, mut count, mut acknowledged) = (Stager { head: 0 }, 0, Vec::new());
        for _ in 0..150 {
            let lines = random_lines(rng, &mut count);
            let staged = stager.stage(&sink, &lines);
            sink.write(staged).await.unwrap();
            acknowledged.extend_from_slice(&lines);
            assert!(lines_of_all(&read_all(&directory)) == acknowledged);
            if rng.u8(..4) == 0 {
                assert!(sink.is_dirty());
                sink.sync().await.unwrap();
                assert!(!sink.is_dirty());
            }
            let Watermarks { written, synced } = sink.watermarks();
            assert!(synced <= written && written.segment == active.load(Ordering::Relaxed));
        }
        assert!(sink.watermarks().written.segment > 5, "it rotates");
        sink.close().await.unwrap();
        let files = read_all(&directory);
        assert!(bytes_of_all(&files) == acknowledged, "a clean close leaves no padding");
        assert!(files.iter().all(|(_, bytes)| !bytes.is_empty() && bytes.len() < 40_000));

        drop(log_dir);
        let log_dir = LogDir::open(&dir, 1).unwrap();
        assert_eq!(log_dir.recovery().bytes_cut, 0);
        assert_eq!(log_dir.plan().shard(0).1, active.load(Ordering::Relaxed) + 1);
        assert!(read_all(&directory) == files);
    });
}

#[test]
fn an_engine_that_begins_and_writes_nothing_leaves_no_segment() {
    on_each_disk(|disk, dir| async move {
        let log_dir = LogDir::open(&dir, 3).unwrap();
        for shard in [0, 2] {
            let sink =
                FileSink::begin(disk.clone(), &log_dir.plan(), shard, 1 << 20, Arc::default())
                    .await
                    .unwrap();
            assert_eq!(read_all(&segments::shard_directory(&dir, shard)).len(), 1);
            sink.close().await.unwrap();
            assert!(read_all(&segments::shard_directory(&dir, shard)).is_empty());
        }
    });
}

/// One run over the disk in memory, on which every operation may fail.
struct Run {
    disk: FaultyDisk,
    acknowledged: Vec<Vec<u8>>,
    /// How many of them were synced.
    synced: usize,
    offered: Vec<Vec<u8>>,
}

/// A disk that fails one in `odds` operations, but the first three: those of `begin`.
fn unreliable(rng: &mut Rng, odds: u32, sync_odds: u32) -> FaultyDisk {
    let mut rng = rng.fork();
    let mut operations = 0;
    FaultyDisk::new(move |_, operation| {
        operations += 1;
        let odds = if *operation == Operation::Sync { sync_odds } else { odds };
        if operations <= 3 || odds == 0 || rng.u32(..odds) > 0 {
            return Verdict::Go;
        }
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::Other];
        let kind = kinds[rng.usize(..kinds.len())];
        match operation {
            Operation::Write { bytes, .. } => match rng.u8(..3) {
                0 => Verdict::Fail(kind),
                1 => Verdict::Short(rng.usize(..*bytes)),
                _ => Verdict::Torn(rng.usize(..=*bytes), kind),
            },
            _ => Verdict::Fail(kind),
        }
    })
}

fn run(rng: &mut Rng, odds: u32, sync_odds: u32) -> (Run, Sink<FaultyDisk>) {
    let disk = unreliable(rng, odds, sync_odds);
    let sink =
        disk.run(FileSink::begin(disk.clone(), &plan(Path::new(""), 1), 0, 20_000, Arc::default()));
    let mut sink = Sink::File(sink.unwrap());
    let mut run =
        Run { disk: disk.clone(), acknowledged: Vec::new(), synced: 0, offered: Vec::new() };
    let (mut stager, mut count) = (Stager { head: 0 }, 0);
    let mut before = sink.watermarks();
    let mut is_final = false;
    for _ in 0..rng.u32(1..80) {
        let lines = random_lines(rng, &mut count);
        run.offered.push(lines.clone());
        let staged = stager.stage(&sink, &lines);
        match disk.run(sink.write(staged)) {
            Ok(()) => {
                assert!(!is_final, "a final failure is final");
                run.acknowledged.push(lines);
            }
            Err(error) => {
                let written = sink.watermarks().written;
                assert!(written == before.written || written.offset == 0);
                is_final |= error.is_final();
            }
        }
        if sink.watermarks().synced.segment > before.synced.segment {
            // Everything before this batch was synced at the rotation.
            run.synced = run.acknowledged.len() - 1.min(run.acknowledged.len());
        }
        if rng.u8(..5) == 0 {
            match disk.run(sink.sync()) {
                Ok(()) => {
                    assert!(!is_final, "a final failure is final");
                    run.synced = run.acknowledged.len();
                    assert!(!sink.is_dirty());
                }
                Err(_) => is_final = true,
            }
        }
        let after = sink.watermarks();
        assert!(after.synced <= after.written && before.synced <= after.synced);
        before = after;
        run.check();
    }
    (run, sink)
}

impl Run {
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.disk.files(|file| file.bytes.clone())
    }

    /// Whether the last failure could not be undone yet.
    fn is_torn(&self) -> bool {
        let log = self.disk.log();
        let last = log.iter().rposition(|(_, operation, verdict)| {
            matches!(operation, Operation::Truncate { .. } | Operation::Write { .. })
                && !matches!(verdict, Verdict::Fail(_))
        });
        last.is_some_and(|last| {
            matches!(log[last].1, Operation::Write { .. }) && log[last].2 != Verdict::Go
        })
    }

    fn check(&self) {
        let acknowledged = self.acknowledged.concat();
        if self.is_torn() {
            assert!(unpadded(&self.files()).starts_with(&acknowledged));
        } else {
            assert!(lines_of_all(&self.files()) == acknowledged);
        }
        let synced = unpadded(&self.disk.files(|file| file.synced.clone()));
        assert!(synced.starts_with(&self.acknowledged[..self.synced].concat()));
    }

    /// A segment's last write is followed by a sync before the next segment's first write.
    fn check_rotations(&self) {
        let mut unsynced: Option<&Path> = None;
        for (path, operation, verdict) in &*self.disk.log() {
            match operation {
                Operation::Write { .. } => {
                    assert!(unsynced.is_none_or(|unsynced| unsynced == path), "not synced before");
                    unsynced = Some(path);
                }
                Operation::Sync if *verdict == Verdict::Go && unsynced == Some(path) => {
                    unsynced = None;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn whatever_fails_the_file_holds_the_acknowledged_lines() {
    let rng = &mut Rng::with_seed(seed());
    for round in 0..rounds(120) {
        let (run, sink) = run(rng, [0, 3, 10, 40][round % 4], [0, 30, 100][round % 3]);
        let failed_before = run.disk.log().iter().any(|(_, _, verdict)| *verdict != Verdict::Go);
        let closed = run.disk.run(sink.close());
        run.check_rotations();
        let failed = run.disk.log().iter().any(|(_, _, verdict)| *verdict != Verdict::Go);
        assert!(closed.is_ok() || failed, "{closed:?}");
        if !failed {
            assert!(bytes_of_all(&run.files()) == run.acknowledged.concat());
            assert!(run.files().iter().all(|(_, bytes)| !bytes.is_empty()));
        } else if !failed_before {
            run.check();
        }
    }
}

#[test]
fn a_failed_sync_is_final() {
    let failing = Arc::new(AtomicU64::new(0));
    let judge = Arc::clone(&failing);
    let disk = FaultyDisk::new(move |_, operation| {
        let fail = *operation == Operation::Sync && judge.load(Ordering::Relaxed) == 1;
        if fail { Verdict::Fail(io::ErrorKind::Other) } else { Verdict::Go }
    });
    let sink = disk.run(FileSink::begin(
        disk.clone(),
        &plan(Path::new(""), 1),
        0,
        1 << 20,
        Arc::default(),
    ));
    let mut sink = Sink::File(sink.unwrap());
    let mut stager = Stager { head: 0 };
    let staged = stager.stage(&sink, b"{}\n");
    disk.run(sink.write(staged)).unwrap();
    failing.store(1, Ordering::Relaxed);
    let refused = disk.run(sink.sync()).unwrap_err().to_string();
    assert!(refused.contains("000000000001.ndjson"), "{refused}");
    failing.store(0, Ordering::Relaxed);
    assert!(disk.run(sink.sync()).is_err());
    let staged = stager.stage(&sink, b"{}\n");
    assert!(disk.run(sink.write(staged)).unwrap_err().is_final());
    let operations = disk.log().len();
    assert!(disk.run(sink.close()).is_err());
    let is_on_a_segment = |operation: &Operation| *operation != Operation::Put;
    let then: Vec<_> = disk.log()[operations..].iter().map(|entry| entry.1.clone()).collect();
    let then: Vec<_> = then.into_iter().filter(is_on_a_segment).collect();
    assert_eq!(then, [Operation::Close], "nothing but a close");
}

#[test]
fn a_full_disk_is_told_apart_and_the_sink_goes_on_when_space_returns() {
    let full = Arc::new(AtomicU64::new(0));
    let judge = Arc::clone(&full);
    let disk = FaultyDisk::new(move |_, operation| match operation {
        Operation::Write { bytes, .. } if judge.load(Ordering::Relaxed) == 1 => {
            Verdict::Torn(bytes / 2, io::ErrorKind::StorageFull)
        }
        _ => Verdict::Go,
    });
    let sink = disk.run(FileSink::begin(
        disk.clone(),
        &plan(Path::new(""), 1),
        0,
        1 << 20,
        Arc::default(),
    ));
    let mut sink = Sink::File(sink.unwrap());
    let mut stager = Stager { head: 0 };
    let line = [vec![b'x'; 3000], b"\n".to_vec()].concat();
    for round in 0..9 {
        full.store(u64::from(round % 3 == 1), Ordering::Relaxed);
        let staged = stager.stage(&sink, &line);
        match disk.run(sink.write(staged)) {
            Ok(()) => assert_ne!(round % 3, 1),
            Err(error) => assert!(round % 3 == 1 && error.is_disk_full() && !error.is_final()),
        }
    }
    assert_eq!(sink.watermarks().written.offset, 6 * 3001);
    disk.run(sink.close()).unwrap();
    assert!(disk.files(|file| file.bytes.clone())[0].1 == line.repeat(6));
}

#[test]
fn a_segment_that_could_not_be_prepared_ahead_is_tried_again_at_the_rotation() {
    let mut creations = 0;
    let disk = FaultyDisk::new(move |_, operation| {
        creations += u32::from(*operation == Operation::Create);
        // The second is ahead of time, the third and the fourth at a rotation.
        if *operation == Operation::Create && (2..4).contains(&creations) {
            return Verdict::Fail(io::ErrorKind::StorageFull);
        }
        Verdict::Go
    });
    let sink =
        disk.run(FileSink::begin(disk.clone(), &plan(Path::new(""), 7), 0, 8192, Arc::default()));
    let mut sink = Sink::File(sink.unwrap());
    let mut stager = Stager { head: 0 };
    let line = [vec![b'x'; 4999], b"\n".to_vec()].concat();
    let mut write = |sink: &mut Sink<FaultyDisk>| {
        let staged = stager.stage(sink, &line);
        disk.run(sink.write(staged))
    };
    write(&mut sink).unwrap();
    assert!(write(&mut sink).unwrap_err().is_disk_full());
    assert_eq!(sink.watermarks().written, Position { segment: 7, offset: 5000 });
    write(&mut sink).unwrap();
    assert_eq!(sink.watermarks().written, Position { segment: 8, offset: 5000 });
    disk.run(sink.close()).unwrap();
    let names: Vec<_> = disk.files(|_| ()).into_iter().map(|(path, ())| path).collect();
    let shard = segments::shard_directory(Path::new(""), 0);
    assert_eq!(names, [shard.join(segments::file_name(7)), shard.join(segments::file_name(8))]);
}

/// The lines in `directory` after recovery; each must be one that was offered, in order.
fn recovered(root: &Path, offered: &[u8]) -> (Vec<u8>, RecoveryReport) {
    let log_dir = LogDir::open(root, 1).unwrap();
    let report = log_dir.recovery().clone();
    let files = read_all(&segments::shard_directory(root, 0));
    let kept = unpadded(&files);
    let mut offered = offered.split_inclusive(|&byte| byte == b'\n');
    for line in kept.split_inclusive(|&byte| byte == b'\n') {
        assert!(offered.any(|offered| offered == line), "not offered: {}", line.escape_ascii());
    }
    drop(log_dir);
    let again = LogDir::open(root, 1).unwrap();
    assert_eq!((again.recovery().bytes_cut, again.recovery().segments_removed), (0, 0));
    assert!(read_all(&segments::shard_directory(root, 0)) == files, "a second recovery is a no-op");
    (kept, report)
}

#[test]
fn after_a_kill_what_was_written_is_there_and_after_a_power_loss_what_was_synced() {
    let rng = &mut Rng::with_seed(seed());
    for round in 0..rounds(50) {
        let (run, _sink) = run(rng, [0, 4, 20][round % 3], [0, 40][round % 2]);
        let offered = run.offered.concat();
        let root = memory_dir();
        run.disk.after_kill(root.path());
        let (kept, _) = recovered(root.path(), &offered);
        assert!(kept.starts_with(&run.acknowledged.concat()));
        for _ in 0..4 {
            let root = memory_dir();
            run.disk.after_power_loss(root.path(), rng);
            let (kept, _) = recovered(root.path(), &offered);
            assert!(kept.starts_with(&run.acknowledged[..run.synced].concat()));
        }
    }
}

/// A sink on `disk`, and its directory.
async fn real_sink(disk: RealDisk, dir: &Path) -> (LogDir, Sink<RealDisk>) {
    let log_dir = LogDir::open(dir, 1).unwrap();
    let sink = FileSink::begin(disk, &log_dir.plan(), 0, 20_000, Arc::default()).await.unwrap();
    (log_dir, Sink::File(sink))
}

#[test]
fn a_directory_that_was_removed_costs_one_batch_and_is_made_again() {
    on_each_disk(|disk, dir| async move {
        let (log_dir, mut sink) = real_sink(disk, &dir).await;
        let mut stager = Stager { head: 0 };
        for round in 0..3 {
            let kept = stager.stage(&sink, b"{\"kept\":1}\n");
            sink.write(kept).await.unwrap();
            fs::remove_dir_all(&dir).unwrap();
            if round == 1 {
                // What was written and not synced can never be promised now.
                let refused = sink.sync().await.unwrap_err();
                assert!(!refused.is_final && refused.to_string().contains("removed"), "{refused}");
            } else {
                let lost = stager.stage(&sink, b"{\"lost\":1}\n");
                let refused = sink.write(lost).await.unwrap_err();
                assert!(!refused.is_final() && !refused.is_disk_full(), "{refused}");
                assert!(refused.to_string().contains("000000000"), "{refused}");
            }
            let kept = stager.stage(&sink, b"{\"again\":1}\n");
            sink.write(kept).await.unwrap();
            let files = read_all(&segments::shard_directory(&dir, 0));
            assert_eq!(lines_of_all(&files), b"{\"again\":1}\n");
            // Whoever waited for a sync of what is gone is told so, once.
            if round != 1 {
                assert!(!sink.sync().await.unwrap_err().is_final);
            }
            sink.sync().await.unwrap();
            assert!(matches!(LogDir::open(&dir, 1), Err(OpenError::Locked { .. })), "it is ours");
        }
        sink.close().await.unwrap();
        let report = fsck::examine(&dir).unwrap();
        assert!(!report.is_damaged() && report.segments.len() == 1);
        assert_eq!((report.segments[0].unverified, report.segments[0].lines), (0, 1), "{report}");
        drop(log_dir);
        LogDir::open(&dir, 1).unwrap();
    });
}

#[test]
fn while_the_directory_cannot_be_made_writes_fail_and_then_they_succeed() {
    on_each_disk(|disk, dir| async move {
        let (_log_dir, mut sink) = real_sink(disk, &dir).await;
        let mut stager = Stager { head: 0 };
        fs::remove_dir_all(&dir).unwrap();
        fs::write(&dir, "in the way").unwrap();
        for _ in 0..3 {
            let staged = stager.stage(&sink, b"{}\n");
            assert!(!sink.write(staged).await.unwrap_err().is_final());
        }
        fs::remove_file(&dir).unwrap();
        let staged = stager.stage(&sink, b"{}\n");
        sink.write(staged).await.unwrap();
        assert_eq!(lines_of_all(&read_all(&segments::shard_directory(&dir, 0))), b"{}\n");
        sink.close().await.unwrap();
    });
}

#[test]
fn a_directory_that_was_moved_keeps_its_segment_and_another_engines_is_left_alone() {
    on_each_disk(|disk, dir| async move {
        let (_log_dir, mut sink) = real_sink(disk, &dir).await;
        let mut stager = Stager { head: 0 };
        let line = [vec![b'x'; 14_999], b"\n".to_vec()].concat();
        let moved = dir.with_extension("moved");
        fs::rename(&dir, &moved).unwrap();
        let other = LogDir::open(&dir, 1).unwrap();
        let staged = stager.stage(&sink, &line);
        sink.write(staged).await.unwrap();
        assert_eq!(lines_of_all(&read_all(&segments::shard_directory(&moved, 0))), line);
        // The next segment lies where LOG_DIR is, unless somebody else is there by then.
        let staged = stager.stage(&sink, &line);
        let refused = sink.write(staged).await.unwrap_err().to_string();
        assert!(refused.contains("another engine"), "{refused}");
        drop(other);
        let staged = stager.stage(&sink, &line);
        sink.write(staged).await.unwrap();
        assert_eq!(lines_of_all(&read_all(&segments::shard_directory(&dir, 0))), line);
        sink.close().await.unwrap();
    });
}
