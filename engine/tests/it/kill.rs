//! `kill -9` at random moments under load, again and again on one LOG_DIR, and a judge that is not
//! the engine: it knows which lines were acknowledged, and looks for them in the segments.
//!
//! Every line is a function of its connection and its number, so the judge compares whole lines,
//! byte by byte, and needs to remember two numbers only. `LOGBOOM_KILLS` says how often the tests
//! of this file kill, all together; `LOGBOOM_SEED` repeats the choices of an earlier run (not its
//! timing: the machine has a say in that).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use proto::reply::{OwnedReply, Status};

use crate::harness::{Engine, PATIENCE, command, content, segments};

/// In the ordinary suite, over the tests of this file.
const KILLS: usize = 65;
const TESTS: usize = 5;
const CLIENTS: usize = 6;

/// One line: which connection first sent it, and as its how-many-th.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    connection: u32,
    number: u32,
}

/// What a connection is like follows from its number.
#[derive(Clone, Copy, Debug)]
struct Manner {
    hello: Option<&'static str>,
    /// Replies are counted in runs; the lines have no id then.
    is_ranged: bool,
    lines_per_batch: usize,
    /// Every so-many-th line is long.
    long_every: u32,
    long_bytes: usize,
}

const WRITTEN_RANGE: &str = r#"{"hello":{"version":1,"durability":"written","replies":"range"}}"#;
const DURABLE: &str = r#"{"hello":{"version":1,"durability":"durable"}}"#;
const DURABLE_RANGE: &str = r#"{"hello":{"version":1,"durability":"durable","replies":"range"}}"#;

fn manner(connection: u32) -> Manner {
    let mut rng = Rng::with_seed(u64::from(connection) ^ 0x6b69_6c6c);
    let (hello, is_ranged) = match rng.u8(..4) {
        0 => (None, false),
        1 => (Some(WRITTEN_RANGE), true),
        2 => (Some(DURABLE), false),
        _ => (Some(DURABLE_RANGE), true),
    };
    let lines_per_batch = [1, 3, 20, 100, 600][rng.usize(..5)];
    let (long_every, long_bytes) = [(u32::MAX, 0), (50, 6_000), (40, 100_000)][rng.usize(..3)];
    Manner { hello, is_ranged, lines_per_batch, long_every, long_bytes }
}

impl Key {
    fn line(self) -> String {
        let Key { connection, number } = self;
        let manner = manner(connection);
        let mut rng = Rng::with_seed((u64::from(connection) << 32) | u64::from(number));
        let long = number % manner.long_every == manner.long_every - 1;
        let bytes = rng.usize(..150) + if long { rng.usize(..manner.long_bytes) } else { 0 };
        let letter = char::from(b'a' + rng.u8(..26));
        let text: String = std::iter::repeat_n(letter, bytes).collect();
        let id = if manner.is_ranged {
            String::new()
        } else {
            format!(r#","id":"{connection}.{number}""#)
        };
        format!(r#"{{"level":"INFO","message":"{connection}.{number} {text}"{id}}}"#)
    }

    /// Which line this is, if it is one of ours, from its first to its last byte.
    fn of(line: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(line).ok()?;
        let rest = text.strip_prefix(r#"{"level":"INFO","message":""#)?;
        let (connection, number) = rest.split_once(' ')?.0.split_once('.')?;
        let key = Key { connection: connection.parse().ok()?, number: number.parse().ok()? };
        (key.line() == text).then_some(key)
    }
}

/// What one client did until its connection broke.
struct Report {
    /// In this order. The last ones may not have left.
    sent: Vec<Key>,
    /// So many of them, from the first one, were acknowledged.
    acknowledged: usize,
}

/// Sends `again` and then new lines of `connection`, a batch at a time, until it is cut off.
fn client(address: SocketAddr, connection: u32, again: Vec<Key>) -> Report {
    let mut report = Report { sent: Vec::new(), acknowledged: 0 };
    let manner = manner(connection);
    let Ok(stream) = TcpStream::connect(address) else { return report };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    if let Some(hello) = manner.hello {
        let mut welcome = String::new();
        if writeln!(writer, "{hello}").is_err() || !whole_line(&mut reader, &mut welcome) {
            return report;
        }
        assert!(welcome.starts_with(r#"{"hello":"#), "{welcome}");
    }
    let mut keys = again.into_iter().chain((0..).map(|number| Key { connection, number }));
    loop {
        let batch: Vec<Key> = keys.by_ref().take(manner.lines_per_batch).collect();
        let text: String = batch.iter().map(|key| key.line() + "\n").collect();
        report.sent.extend(&batch);
        let wrote = writer.write_all(text.as_bytes());
        // What was acknowledged before the break counts, also when the write failed.
        let all = read_replies(&mut reader, &mut report);
        if wrote.is_err() || !all {
            return report;
        }
    }
}

/// Reads until all that was sent is answered; false if the connection broke before.
fn read_replies(reader: &mut impl BufRead, report: &mut Report) -> bool {
    let mut text = String::new();
    while report.acknowledged < report.sent.len() {
        if !whole_line(reader, &mut text) {
            return false;
        }
        let reply = OwnedReply::parse(text.trim_end().as_bytes()).unwrap();
        assert_eq!(reply.status, Status::Ok, "{text}");
        if let Some(id) = &reply.id {
            let Key { connection, number } = report.sent[report.acknowledged];
            assert_eq!(id.as_str(), Some(&*format!("{connection}.{number}")), "out of order");
        }
        report.acknowledged += usize::try_from(reply.count).unwrap();
        assert!(report.acknowledged <= report.sent.len(), "a reply to nothing");
    }
    true
}

/// A line that ends with its newline: one that was cut off says nothing.
fn whole_line(reader: &mut impl BufRead, text: &mut String) -> bool {
    text.clear();
    matches!(reader.read_line(text), Ok(bytes) if bytes > 0) && text.ends_with('\n')
}

/// Keeps what was acknowledged, outside of the engine.
#[derive(Default)]
struct Judge {
    /// How often each line was sent, if more than once.
    sent_again: HashMap<Key, u32>,
    sent: u64,
    acknowledged: Vec<Key>,
    /// Up to where each segment was read, by its path.
    read_to: BTreeMap<PathBuf, u64>,
    /// How often each line was found.
    found: HashMap<Key, u32>,
}

impl Judge {
    fn note(&mut self, report: &Report) {
        self.sent += report.sent.len() as u64;
        self.acknowledged.extend(&report.sent[..report.acknowledged]);
    }

    /// Reads what is new in the segments. Nothing in them may be less than a whole line.
    fn look(&mut self, log_dir: &Path) {
        // A set: there may be ten thousand of them.
        let all: BTreeSet<PathBuf> = segments(log_dir).into_iter().collect();
        for path in self.read_to.keys() {
            assert!(all.contains(path), "{} has gone", path.display());
        }
        for path in all {
            let from = self.read_to.get(&path).copied().unwrap_or(0);
            let all = content(&path);
            assert!(all.len() as u64 >= from, "{} has shrunk", path.display());
            let bytes = &all[usize::try_from(from).unwrap()..];
            let mut end = from;
            let mut at = from;
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                at += line.len() as u64;
                // Blank lines are padding, and may become lines yet.
                if line == b"\n" {
                    continue;
                }
                let whole = line.strip_suffix(b"\n").and_then(Key::of);
                let Some(key) = whole else {
                    panic!("{} has a torn line before {at}", path.display())
                };
                *self.found.entry(key).or_default() += 1;
                end = at;
            }
            // One without a line, prepared ahead, may be removed by the next recovery.
            if end > 0 {
                self.read_to.insert(path, end);
            }
        }
    }

    /// How many acknowledged lines are not there.
    fn lost(&self, from: usize) -> usize {
        self.acknowledged[from..].iter().filter(|key| !self.found.contains_key(key)).count()
    }

    fn assert_nothing_is_there_too_often(&self) {
        for (key, &times) in &self.found {
            let sent = self.sent_again.get(key).copied().unwrap_or(1);
            assert!(times <= sent, "{key:?} was sent {sent} times and is there {times} times");
        }
    }
}

/// Kills as often as its share is; `settings` are those of the n-th start.
fn siege(name: &str, settings: impl Fn(usize) -> Vec<(&'static str, &'static str)>) {
    siege_and(name, settings, &|_, _| {});
}

/// What is done besides, before each kill and before the stop at the end, given LOG_DIR.
type Besides<'a> = &'a dyn Fn(&Path, Ending);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Kill,
    Stop,
}

fn siege_and(
    name: &str,
    settings: impl Fn(usize) -> Vec<(&'static str, &'static str)>,
    besides: Besides<'_>,
) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let kills = number("LOGBOOM_KILLS").map_or(KILLS, |all| usize::try_from(all).unwrap());
    let kills = kills.div_ceil(TESTS);
    let seed = number("LOGBOOM_SEED").unwrap_or_else(|| Rng::new().u64(..));
    println!("{name}: {kills} kills, LOGBOOM_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut judge = Judge::default();
    let mut folder = tempfile::tempdir().unwrap();
    let mut unanswered: Vec<Vec<Key>> = vec![Vec::new(); CLIENTS];
    let (mut done, mut starts, mut connection) = (0, 0, 0);
    let mut checked = 0;
    let engine = loop {
        let now = settings(starts);
        starts += 1;
        if starts > 1 && rng.u8(..5) == 0 && done < kills {
            // While it starts: recovery, too, may be killed.
            let mut child = command(folder.path()).envs(now.iter().copied()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(rng.u64(..40)));
            child.kill().unwrap();
            child.wait().unwrap();
            done += 1;
            continue;
        }
        let engine = Engine::start_in(folder, &now);
        judge.look(&engine.log_dir());
        let lost = judge.lost(checked);
        assert_eq!(lost, 0, "lost after {done} kills, LOGBOOM_SEED={seed}");
        checked = judge.acknowledged.len();
        if done >= kills {
            break engine;
        }
        let clients: Vec<_> = unanswered
            .iter_mut()
            .map(|unanswered| {
                // As a client would: what has no answer is sent again, by some of them.
                let again = if rng.bool() { std::mem::take(unanswered) } else { Vec::new() };
                for key in &again {
                    *judge.sent_again.entry(*key).or_insert(1) += 1;
                }
                connection += 1;
                let (address, connection) = (engine.address, connection);
                std::thread::spawn(move || client(address, connection, again))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(rng.u64(50..220)));
        besides(&engine.log_dir(), Ending::Kill);
        folder = engine.kill();
        done += 1;
        for (client, unanswered) in clients.into_iter().zip(&mut unanswered) {
            let report = client.join().unwrap();
            judge.note(&report);
            *unanswered = report.sent[report.acknowledged..].to_vec();
        }
    };
    besides(&engine.log_dir(), Ending::Stop);
    let stopped = engine.stop();
    stopped.assert_clean();
    // Once more from the first byte: what was there once may not go later.
    judge.read_to.clear();
    judge.found.clear();
    judge.look(&stopped.folder.path().join("logs"));
    let lost = judge.lost(0);
    println!(
        "{name}: kills {done}, lines sent {}, acknowledged {}, stored {}, lost {lost}",
        judge.sent,
        judge.acknowledged.len(),
        judge.found.values().map(|&times| u64::from(times)).sum::<u64>(),
    );
    assert_eq!(lost, 0, "LOGBOOM_SEED={seed}");
    judge.assert_nothing_is_there_too_often();
    assert!(judge.acknowledged.len() > 20 * kills, "that was no load");
}

#[test]
fn no_kill_loses_an_acknowledged_line_of_one_shard_with_small_segments() {
    siege("one shard", |_| vec![("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "64KiB")]);
}

#[test]
fn no_kill_loses_an_acknowledged_line_of_two_shards_that_sync_often() {
    siege("two shards", |_| {
        vec![("SHARDS", "2"), ("SEGMENT_BYTES_MAX", "1MiB"), ("SYNC_MS", "20")]
    });
}

#[test]
fn no_kill_loses_an_acknowledged_line_while_shards_come_and_go() {
    siege("shards come and go", |start| {
        let shards = ["2", "1", "3"][start % 3];
        vec![("SHARDS", shards), ("SEGMENT_BYTES_MAX", "4MiB")]
    });
}

#[test]
fn no_kill_loses_an_acknowledged_line_of_small_commits() {
    siege("small commits", |_| {
        vec![("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "256KiB"), ("COMMIT_BYTES_MAX", "300KiB")]
    });
}

#[test]
fn no_kill_loses_an_acknowledged_line_while_segments_are_packed() {
    /// Segments that are packed by now.
    fn packed(log_dir: &Path) -> usize {
        segments(log_dir).iter().filter(|path| !path.exists()).count()
    }
    let settings = |start| {
        // Also what was packed before is read by an engine that packs no more.
        let compression = if start % 4 == 3 { "none" } else { "zstd" };
        let small = [("SHARDS", "2"), ("SEGMENT_BYTES_MAX", "64KiB")];
        [&small[..], &[("SEGMENT_COMPRESSION", compression)]].concat()
    };
    siege_and("packed", settings, &|log_dir, ending| {
        let (before, began) = (packed(log_dir), Instant::now());
        // In the midst of it, where it comes to it; the thread has what nobody else wants of a cpu.
        let patience = Duration::from_millis(300);
        while ending == Ending::Kill && packed(log_dir) == before && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        if ending == Ending::Stop {
            let is_packing = || packed(log_dir) < 3;
            while is_packing() && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
            }
            println!("packed: {} of {}", packed(log_dir), segments(log_dir).len());
        }
    });
}

#[test]
fn the_judge_sees_what_is_lost_torn_or_there_twice() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("shard-00");
    std::fs::create_dir(&shard).unwrap();
    let segment = shard.join("000000000001.ndjson");
    let keys: Vec<_> = (0..3).map(|number| Key { connection: 7, number }).collect();
    let lines: Vec<_> = keys.iter().map(|key| key.line() + "\n").collect();
    let judge = |content: &str| {
        std::fs::write(&segment, content).unwrap();
        let mut judge = Judge::default();
        judge.note(&Report { sent: keys.clone(), acknowledged: 2 });
        judge.look(folder.path());
        judge.assert_nothing_is_there_too_often();
        judge.lost(0)
    };
    let fails = |content: String| std::panic::catch_unwind(|| judge(&content)).is_err();
    assert_eq!(judge(&format!("{}\n\n{}\n", lines[0], lines[1])), 0);
    assert_eq!(judge(&lines[1]), 1);
    assert_eq!(judge(""), 2);
    assert!(fails(format!("{}{}{}", lines[0], lines[1], lines[0])));
    assert!(fails(format!("{}{}", lines[0], &lines[1][..20])));
    assert!(fails(format!("{}{}", lines[0], lines[1].trim_end())));
    assert!(fails(lines[0].replacen("7.0", "7.9", 1)));
}
