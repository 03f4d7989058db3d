//! The model test: the real flusher and file sink over a disk that loses, tears and fails, then
//! real recovery, life after life.
//!
//! A case is all of what one seed makes up: lines of all durabilities in random batches, failing
//! operations, rotations, and a death at a random operation, of the process (what was seen stays)
//! or of the machine (what was not synced may go, in any mix). After each death:
//! - each line that was acknowledged is there, if its durability promised that;
//! - what recovery once kept stays for ever;
//! - every line that is served was offered, is whole, and comes once, in the order of the offers;
//! - the side files call nothing damaged, before recovery and after it, and after a clean end
//!   nothing unverified.
//!
//! `LOGBOOM_SEED=… cargo test -p logboom-engine model` runs one case again; `LOGBOOM_CASES=…` runs
//! more of them. That the model finds what it looks for is tested with disks that lie.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use glommio::LocalExecutorBuilder;
use memchr::memchr_iter;
use proto::hello::Durability;

use super::Sink;
use super::disk::Disk;
use super::disk::faulty::{FaultyDisk, Operation, Verdict, poll_once};
use super::file::{FileSink, LogDir, fsck, segments};
use crate::counters::Counters;
use crate::flusher;
use crate::ingest::batch::Limits;
use crate::ingest::commit::{Outcome, Ticket};
use crate::ingest::lanes::Policy;
use crate::ingest::{self, Fate};
use crate::intake::{Intake, Terms};

/// What may happen in a case, beside writing.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Operations fail.
    faults: bool,
    /// The machine dies, not only the process.
    power_loss: bool,
    /// Somebody removes every file of this life, now and then.
    removals: bool,
    /// Lives in a row on one directory.
    lives: u32,
    /// The disk says it has done these, and has not.
    lies: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Sync,
    Truncate,
    SyncDirectory,
}

impl Kind {
    fn of(operation: &Operation) -> Option<Kind> {
        match operation {
            Operation::Write { .. } => Some(Kind::Write),
            Operation::Sync => Some(Kind::Sync),
            Operation::Truncate { .. } => Some(Kind::Truncate),
            Operation::SyncDirectory => Some(Kind::SyncDirectory),
            Operation::Create | Operation::Close | Operation::Remove | Operation::Put => None,
        }
    }
}

/// What all cases of a test have seen, to know that they see something.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    lives: u64,
    offered: u64,
    /// Lines that had to be there after a death, and were.
    owed: u64,
    /// Lines that nobody was owed, and that were there.
    spare: u64,
    /// Failed operations.
    faults: u64,
    bytes_cut: u64,
    rotations: u64,
    clean_ends: u64,
}

/// A line as the connection that offered it sees it.
struct Offer {
    line: Vec<u8>,
    durability: Durability,
    /// `None` where it was refused.
    ticket: Option<Ticket>,
    /// What had been kept when somebody removed it.
    removed: Vec<Durability>,
}

impl Offer {
    fn is_acknowledged(&self, promise: Durability) -> bool {
        self.ticket.as_ref().is_some_and(|one| one.outcome(promise) == Some(Outcome::Stored))
    }
}

struct Case {
    rng: Rng,
    weather: Weather,
    lengths: Lengths,
    root: tempfile::TempDir,
    /// By their numbers, over all lives.
    lines: Vec<Vec<u8>>,
    /// The numbers of the lines that were served after the last recovery.
    kept: Vec<usize>,
    seen: Seen,
}

fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// How long the lines of a case are.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    /// Of all kinds, mostly short.
    Mixed,
    /// Mostly longer than a sector: sectors of two can mix.
    Long,
    /// Whole sectors: what is lost leaves whole lines around it.
    Sectors,
}

/// A line like no other: what is mixed from two is neither.
fn line(rng: &mut Rng, number: usize, lengths: Lengths) -> Vec<u8> {
    let bytes = match (lengths, rng.u8(..24)) {
        (Lengths::Mixed, 0) => rng.usize(3000..9000),
        (Lengths::Mixed, 1..6) => 0,
        (Lengths::Long, 0..16) => rng.usize(1000..4000),
        (Lengths::Sectors, _) => 150,
        _ => rng.usize(..300),
    };
    let mut line = String::new();
    match rng.u8(..4) {
        // What looks like a line within a line.
        0 => line.push_str(r#"{"inner":{"level":"INFO","message":"m","seq":0},"#),
        1 => line.push_str(r#"{"text":"{\"level\":\"INFO\",\"message\":\"\\n\"}","#),
        _ => line.push('{'),
    }
    let fill = char::from(b'a' + u8::try_from(number % 26).unwrap()).to_string();
    line.push_str(r#""level":"INFO","message":""#);
    line.push_str(&fill.repeat(bytes));
    write!(line, r#"","seq":{number}}}"#).unwrap();
    let mut line = line.into_bytes();
    if matches!(lengths, Lengths::Sectors) {
        // In front, so that the number stays at the end.
        let missing = (line.len() + 1).next_multiple_of(512) - (line.len() + 1);
        line.splice(1..1, std::iter::repeat_n(b' ', missing));
    }
    line
}

fn number_of(line: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('}')?;
    text.rsplit_once(':')?.1.parse().ok()
}

/// Decides what comes of each operation; dies at the `death`th.
fn judge(
    mut rng: Rng,
    weather: Weather,
    death: Option<u32>,
) -> impl FnMut(&Path, &Operation) -> Verdict {
    let odds = if weather.faults { [5, 15, 60][rng.usize(..3)] } else { 0 };
    // A failed sync ends a life early.
    let sync_odds = if weather.faults { [0, 10, 80][rng.usize(..3)] } else { 0 };
    let mut operations = 0;
    move |_, operation| {
        operations += 1;
        if death == Some(operations) {
            return Verdict::Die;
        }
        if weather.lies.is_some() && weather.lies == Kind::of(operation) {
            return Verdict::Lie;
        }
        let odds = if *operation == Operation::Sync { sync_odds } else { odds };
        // Three operations begin a segment; there would be no life without.
        if operations <= 3 || odds == 0 || rng.u32(..odds) > 0 {
            return Verdict::Go;
        }
        let kind = if rng.bool() { ErrorKind::StorageFull } else { ErrorKind::Other };
        match operation {
            Operation::Write { bytes, .. } => match rng.u8(..5) {
                0 => Verdict::Fail(kind),
                1 => Verdict::Deny(kind),
                2 => Verdict::Short(rng.usize(..*bytes)),
                3 => Verdict::Torn(rng.usize(..=*bytes), kind),
                _ => Verdict::Scattered(kind),
            },
            Operation::Put if rng.bool() => Verdict::Scattered(kind),
            _ if rng.bool() => Verdict::Fail(kind),
            _ => Verdict::Deny(kind),
        }
    }
}

impl Case {
    fn new(seed: u64, weather: Weather) -> Case {
        let mut rng = Rng::with_seed(seed);
        let lengths = match rng.u8(..6) {
            0 => Lengths::Long,
            1 => Lengths::Sectors,
            _ => Lengths::Mixed,
        };
        Case {
            rng,
            weather,
            lengths,
            root: memory_dir(),
            lines: Vec::new(),
            kept: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn run(mut self) -> Result<Seen, String> {
        let mut owed = Vec::new();
        for _ in 0..self.weather.lives {
            let log_dir = self.recover(&owed)?;
            owed = self.live(&log_dir);
        }
        self.recover(&owed)?;
        Ok(self.seen)
    }

    /// Opens the directory as a starting engine does, and looks at what is served. `owed` are the
    /// lines of the last life that have to be there.
    fn recover(&mut self, owed: &[usize]) -> Result<LogDir, String> {
        self.check_sides(None)?;
        let log_dir = LogDir::open(self.root.path(), 1).map_err(|error| error.to_string())?;
        self.seen.bytes_cut += log_dir.recovery().bytes_cut;
        if !log_dir.recovery().files_damaged.is_empty() {
            return Err("recovery calls something damaged".into());
        }
        if self.rng.u8(..4) == 0 {
            self.check_sides(None)?;
        }
        let served = self.served()?;
        if !served.starts_with(&self.kept) {
            return Err("what an earlier recovery had kept is gone".into());
        }
        for number in owed {
            if served.binary_search(number).is_err() {
                return Err(format!("line {number} was acknowledged, and is gone"));
            }
        }
        self.seen.owed += owed.len() as u64;
        self.seen.spare += (served.len() - self.kept.len() - owed.len()) as u64;
        self.kept = served;
        Ok(log_dir)
    }

    /// Nothing is damaged; nothing is unverified but what was there `before`.
    fn check_sides(&self, before: Option<&[PathBuf]>) -> Result<(), String> {
        let report = fsck::examine(self.root.path()).map_err(|error| error.to_string())?;
        let is_unverified = before.is_some_and(|before| {
            report.segments.iter().any(|one| one.unverified > 0 && !before.contains(&one.path))
        });
        if report.is_damaged() || is_unverified {
            return Err(format!("fsck says {report}"));
        }
        Ok(())
    }

    fn segments(&self) -> Vec<PathBuf> {
        let directory = segments::shard_directory(self.root.path(), 0);
        segments::segments(&directory).unwrap().into_iter().map(|segment| segment.path).collect()
    }

    /// The numbers of all lines that a reader finds, which are whole, unique and in order.
    fn served(&self) -> Result<Vec<usize>, String> {
        let mut served: Vec<usize> = Vec::new();
        for path in self.segments() {
            let bytes = fs::read(&path).unwrap();
            if bytes.last().is_some_and(|&last| last != b'\n') {
                return Err(format!("{} ends within a line", path.display()));
            }
            let mut start = 0;
            for end in memchr_iter(b'\n', &bytes) {
                let line = &bytes[start..end];
                start = end + 1;
                if line.is_empty() {
                    continue;
                }
                let number = number_of(line)
                    .filter(|&number| self.lines.get(number).is_some_and(|known| known == line))
                    .ok_or_else(|| {
                        let begin = line[..line.len().min(60)].escape_ascii();
                        format!("nobody offered a line of {} bytes: {begin}", line.len())
                    })?;
                if served.last().is_some_and(|&last| last >= number) {
                    return Err(format!("line {number} comes behind {:?}", served.last()));
                }
                served.push(number);
            }
        }
        Ok(served)
    }

    /// Begins, writes and dies; gives what must be found.
    fn live(&mut self, log_dir: &LogDir) -> Vec<usize> {
        self.seen.lives += 1;
        let before = self.segments();
        let rng = &mut self.rng;
        let death = rng.bool().then(|| rng.u32(1..100));
        let disk = FaultyDisk::slow(
            judge(rng.fork(), self.weather, death),
            rng.fork(),
            [0, 1, 4][rng.usize(..3)],
        );
        let plan = log_dir.plan();
        let begin = FileSink::begin(disk.clone(), &plan, 0, rng.u64(4..16) * 4096, Arc::default());
        let (offers, ended) = match drive(&disk, pin!(begin)) {
            Some(Ok(sink)) => self.write(&disk, sink),
            // Died early, or cannot begin: the engine does not start.
            Some(Err(_)) | None => (Vec::new(), None),
        };
        disk.die();

        self.seen.faults += disk
            .log()
            .iter()
            .filter(|(_, _, verdict)| !matches!(verdict, Verdict::Go | Verdict::Die))
            .count() as u64;
        self.seen.rotations += disk.files(|_| ()).len().saturating_sub(1) as u64;
        if self.weather.power_loss {
            disk.after_power_loss(Path::new(""), &mut self.rng);
        } else {
            disk.after_kill(Path::new(""));
        }

        let is_clean = ended == Some(Ok(()));
        self.seen.clean_ends += u64::from(is_clean);
        if is_clean && !self.weather.faults && self.weather.lies.is_none() {
            self.check_sides(Some(&before)).expect("a clean end leaves everything verified");
        }
        let mut owed = Vec::new();
        for offer in offers {
            let number = self.lines.len();
            // A clean end makes everything durable that was written.
            let promise = match offer.durability {
                _ if is_clean => Some(Durability::Written),
                Durability::Received => None,
                Durability::Written if self.weather.power_loss => None,
                durability => Some(durability),
            };
            let is_owed = promise.is_some_and(|promise| {
                offer.is_acknowledged(promise) && !offer.removed.contains(&promise)
            });
            if is_owed {
                owed.push(number);
            }
            self.lines.push(offer.line);
        }
        self.seen.offered = self.lines.len() as u64;
        owed
    }

    /// Offers lines and lets the flusher work, until the disk dies or the script is over.
    fn write(
        &mut self,
        disk: &FaultyDisk,
        sink: FileSink<FaultyDisk>,
    ) -> (Vec<Offer>, Option<Result<(), String>>) {
        let rng = &mut self.rng;
        let sink = Sink::File(sink);
        // No time passes in a case: what waits for time waits for ever, or not at all.
        let mut some_time = || if rng.bool() { Duration::ZERO } else { Duration::from_hours(1) };
        let terms = Terms {
            buffer_bytes: 1 << 16,
            sync_after: some_time(),
            ingest: ingest::Terms {
                shard: 0,
                level_min: proto::level::Level::Debug,
                batch: Limits { bytes_max: 1 << 15, lines_flush: 20, flush_after: some_time() },
                overload: Policy::Wait,
                breaker: None,
                disk_free_bytes_min: 0,
            },
        };
        let intake = Rc::new(Intake::new(terms, Rc::new(Counters::default()), disk.alloc(1 << 16)));
        let mut flusher = Box::pin(flusher::run(Rc::clone(&intake), sink));
        let mut offers: Vec<Offer> = Vec::new();
        let durabilities = [Durability::Received, Durability::Written, Durability::Durable];
        for _ in 0..rng.u32(1..100) {
            let durability = durabilities[rng.usize(..3)];
            for _ in 0..rng.usize(..6) {
                let line = line(rng, self.lines.len() + offers.len(), self.lengths);
                let mut ingest = intake.ingest.borrow_mut();
                let ticket = match ingest.offer(&line, durability, Instant::now()) {
                    Fate::Batched(ticket, _) => Some(Rc::clone(ticket)),
                    Fate::Refused(_) => None,
                    Fate::Held => break,
                    other => panic!("{other:?}"),
                };
                offers.push(Offer { line, durability, ticket, removed: Vec::new() });
            }
            intake.nudge_flusher();
            // A disk that was full has room again, and lines are taken again.
            intake.tick(u64::MAX, Instant::now() + ingest::disk::PAUSE);
            for _ in 0..rng.u32(..4) {
                turn(disk, flusher.as_mut());
            }
            if disk.is_dead() {
                return (offers, None);
            }
            if self.weather.removals && rng.u8(..30) == 0 {
                disk.remove_all();
                for offer in &mut offers {
                    for promise in durabilities {
                        if offer.is_acknowledged(promise) {
                            offer.removed.push(promise);
                        }
                    }
                }
            }
        }
        let ended = rng.bool().then(|| {
            intake.close();
            drive(disk, flusher.as_mut())
        });
        (offers, ended.flatten())
    }
}

fn turn<T>(disk: &FaultyDisk, future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let done = poll_once(future);
    disk.run_tasks();
    done
}

/// Runs `future` to its end; `None` if the disk dies before.
fn drive<T>(disk: &FaultyDisk, mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..100_000 {
        if let Some(done) = turn(disk, future.as_mut()) {
            return Some(done);
        }
        if disk.is_dead() {
            return None;
        }
    }
    panic!("it waits for something that never comes");
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Says which seed it was when a case panics.
struct Name(u64);

impl Drop for Name {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with LOGBOOM_SEED={}", self.0);
        }
    }
}

/// Runs cases in turn over each of `weathers` until one fails.
fn cases(count: u64, weathers: &[Weather]) -> Result<Seen, String> {
    let weathers = weathers.to_vec();
    // Only for the flusher's timers; nothing here ever waits.
    let executor = LocalExecutorBuilder::default().io_memory(1 << 20).make().unwrap();
    executor.run(async move {
        let replayed = number_from("LOGBOOM_SEED");
        let first = replayed.unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
        let count =
            if replayed.is_some() { 1 } else { number_from("LOGBOOM_CASES").unwrap_or(count) };
        let mut seen = Seen::default();
        for seed in first..first + count {
            for weather in &weathers {
                let name = Name(seed);
                let case = Case::new(seed, *weather).run();
                let one =
                    case.map_err(|error| format!("LOGBOOM_SEED={seed} {weather:?}: {error}"))?;
                drop(name);
                seen.add(one);
            }
        }
        Ok(seen)
    })
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.lives += other.lives;
        self.offered += other.offered;
        self.owed += other.owed;
        self.spare += other.spare;
        self.faults += other.faults;
        self.bytes_cut += other.bytes_cut;
        self.rotations += other.rotations;
        self.clean_ends += other.clean_ends;
    }
}

/// Runs cases that must hold, and must have seen something.
fn hold(count: u64, weathers: &[Weather]) {
    let count = number_from("LOGBOOM_CASES").unwrap_or(count);
    let seen = cases(count, weathers).unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{seen:?}");
    if number_from("LOGBOOM_SEED").is_none() {
        assert!(seen.owed > 10 * count && seen.spare > 0 && seen.clean_ends > 0, "{seen:?}");
        assert!(seen.bytes_cut > 0 && seen.rotations > count / 2, "{seen:?}");
    }
}

const CASES: u64 = 400;
const CALM: Weather =
    Weather { faults: false, power_loss: false, removals: false, lives: 1, lies: None };
const POWER: Weather = Weather { power_loss: true, ..CALM };

#[test]
fn no_written_line_dies_with_the_process() {
    hold(2 * CASES, &[CALM]);
}

#[test]
fn no_durable_line_dies_with_the_machine() {
    hold(2 * CASES, &[POWER]);
}

#[test]
fn no_written_line_dies_with_the_process_on_a_failing_disk() {
    hold(2 * CASES, &[Weather { faults: true, ..CALM }]);
}

#[test]
fn no_durable_line_dies_with_the_machine_on_a_failing_disk() {
    hold(2 * CASES, &[Weather { faults: true, ..POWER }]);
}

#[test]
fn no_line_goes_into_a_segment_that_somebody_removed() {
    let removals = |weather| Weather { removals: true, ..weather };
    hold(CASES, &[removals(CALM), removals(Weather { faults: true, ..POWER })]);
}

#[test]
fn no_line_dies_later() {
    let lives = |weather| Weather { lives: 3, ..weather };
    hold(CASES / 2, &[lives(CALM), lives(Weather { faults: true, ..POWER })]);
}

/// The model is no proof if it cannot fail.
#[test]
fn a_disk_that_lies_is_found_out() {
    if number_from("LOGBOOM_SEED").is_some() {
        return;
    }
    for (kind, weather) in [
        (Kind::Write, CALM),
        (Kind::Sync, POWER),
        (Kind::SyncDirectory, POWER),
        (Kind::Truncate, Weather { faults: true, ..CALM }),
    ] {
        let found = cases(2000, &[Weather { lies: Some(kind), ..weather }]);
        eprintln!("{kind:?}: {found:?}");
        assert!(found.is_err(), "{kind:?} may be left out, and nobody notices");
    }
}
