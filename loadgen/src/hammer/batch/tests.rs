//! Against a recorder and a ledger, message by message.

use super::*;
use crate::allocations;
use crate::hammer::Broken;
use crate::hammer::claim::Dues;
use crate::hammer::replies::ReplyLines;
use crate::measure::ledger::LedgerConnection;
use crate::measure::recorder::StageInterval;
use crate::measure::tally::Cause;
use crate::plan::payloads::{Author, Payloads, Wanted};

struct Rig {
    clock: Clock,
    kit: Kit,
    recorder: RefCell<Recorder>,
    identity: Identity,
    progress_ns: Cell<u64>,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            clock: Clock::start(),
            kit: Kit::new(Payloads::new(1, "r", 0)),
            recorder: RefCell::default(),
            identity: Identity::new(3, true),
            progress_ns: Cell::new(0),
        }
    }

    fn begin<'a>(&'a mut self, claim: &'a Claim) -> (&'a Kit, Batch<'a>) {
        let Rig { clock, kit, recorder, identity, progress_ns } = self;
        (kit, Batch::begin(claim, clock.now_ns(), *clock, recorder, identity, progress_ns))
    }

    fn totals(self) -> (StageInterval, LedgerConnection) {
        (only(&mut self.recorder.into_inner()), self.identity.ledger)
    }
}

fn only(recorder: &mut Recorder) -> StageInterval {
    recorder.close_interval().stages.pop().expect("something has happened")
}

fn write_all(kit: &Kit, batch: &mut Batch<'_>, out: &mut Vec<u8>) {
    out.clear();
    while batch.unencoded() > 0 {
        batch.encode(kit, out, out.len() + 64 * 1024);
        batch.before_write();
        batch.wrote(batch.unwritten());
    }
}

fn closed(count: u64) -> Claim {
    let dues = Dues::Same(0);
    Claim { count, stage: 0, dues, recorded: None, free_ns: 0, claimed_ns: 0 }
}

fn open(count: u64) -> Claim {
    let dues = Dues::Each((0..count).map(|n| n * 1000).collect());
    Claim { dues, ..closed(count) }
}

#[test]
fn a_batch_from_payload_to_histogram_allocates_nothing() {
    for claim in [closed(2000), open(2000)] {
        let mut rig = Rig::new();
        let mut out = Vec::with_capacity(1 << 20);
        let chunk = proto::reply::OK_LINE.repeat(1000);
        let mut replies = ReplyLines::default();
        let mut run = |rig: &mut Rig| {
            let (kit, mut batch) = rig.begin(&claim);
            write_all(kit, &mut batch, &mut out);
            for _ in 0..2 {
                batch.after_read();
                for run in replies.feed(&chunk).unwrap() {
                    batch.answered(Answer::Ok, run.count);
                }
            }
            batch.close();
        };
        run(&mut rig);
        // A new second is rendered with some allocations; one of three batches is within one.
        let fewest = (0..3).map(|_| allocations::during(|| run(&mut rig))).min();
        assert_eq!(fewest, Some(0), "{claim:?}");
        let (totals, ledger) = rig.totals();
        assert_eq!(totals.tally.counts.ok, 8000);
        assert_eq!(ledger.ok, [(0, 8000)]);
        assert_eq!(totals.latencies.response.values.len(), 8000);
        assert_eq!(totals.latencies.lag.values.len(), 8000);
    }
}

#[test]
fn the_lines_of_a_batch_follow_those_of_the_one_before() {
    let mut rig = Rig::new();
    let mut lines = Vec::new();
    for count in [3, 2] {
        let claim = closed(count);
        let (kit, mut batch) = rig.begin(&claim);
        let mut out = Vec::new();
        write_all(kit, &mut batch, &mut out);
        batch.answered(Answer::Filtered, count);
        batch.close();
        lines.extend(String::from_utf8(out).unwrap().lines().map(str::to_owned));
    }
    for (seq, line) in lines.iter().enumerate() {
        assert!(line.ends_with(&format!("\"conn\":3,\"seq\":{seq}}}")), "{line}");
    }
    let (totals, ledger) = rig.totals();
    assert_eq!((totals.tally.counts.filtered, ledger.sent, ledger.ok.len()), (5, 5, 0));
}

#[test]
fn a_message_that_is_broken_on_purpose_is_no_error_unless_it_is_taken() {
    let wanted = Wanted { malformed: 0.25, ..Wanted::default() };
    let payloads = Payloads::open(&wanted, 1, "r").unwrap();
    let malformed = payloads.malformed().unwrap();
    let claim = open(400);
    let broken: Vec<bool> = (0..400).map(|seq| malformed.has(&Author::new(3), seq)).collect();
    let expected = broken.iter().filter(|it| **it).count() as u64;
    assert!((50..150).contains(&expected));
    // As a target says it, in one run; one after the other; from the last to the first.
    for way in 0..3 {
        let mut rig = Rig::new();
        rig.kit = Kit::new(payloads.clone());
        let (kit, mut batch) = rig.begin(&claim);
        write_all(kit, &mut batch, &mut Vec::new());
        batch.after_read();
        match way {
            // A sink that takes everything, and then one that takes nothing.
            0 => {
                batch.answered(Answer::Ok, 200);
                batch.rejected("invalid_json", 100);
                batch.rejected("overloaded", 100);
            }
            1 => {
                for &is_broken in &broken {
                    match is_broken {
                        true => batch.rejected("invalid_json", 1),
                        false => batch.answered(Answer::Ok, 1),
                    }
                }
            }
            _ => {
                for (index, &is_broken) in broken.iter().enumerate().rev() {
                    let index = index as u64;
                    match is_broken {
                        true => batch.rejected_at(index, 1, "http_422"),
                        false => batch.answered_at(index, 1, Answer::Ok),
                    }
                }
            }
        }
        batch.close();
        let (totals, ledger) = rig.totals();
        let counts = totals.tally.counts;
        assert_eq!((counts.sent, counts.in_flight()), (400, 0));
        assert_eq!(counts.malformed.sent, expected);
        let lines = totals.tally.lines;
        assert_eq!(lines.count, 400);
        assert!(lines.bytes_max * 400 > lines.bytes && lines.bytes > 400 * 100);
        let among =
            |range: std::ops::Range<usize>| broken[range].iter().filter(|it| **it).count() as u64;
        if way > 0 {
            assert_eq!((counts.ok, counts.error()), (400 - expected, 0));
            assert_eq!(counts.malformed.rejected, expected);
            assert_eq!(totals.latencies.response.values.len(), 400);
            assert_eq!(ledger.acknowledged(), 400 - expected);
            let ok = |seq: u64| ledger.ok.iter().any(|it| (it.0..it.0 + it.1).contains(&seq));
            assert!((0u64..).zip(&broken).all(|(seq, is_broken)| ok(seq) != *is_broken));
            continue;
        }
        assert_eq!(counts.malformed.accepted, among(0..200));
        assert_eq!(counts.errors["malformed_accepted"], among(0..200));
        assert_eq!(counts.ok, 200 - among(0..200));
        assert_eq!(counts.malformed.rejected, among(200..300));
        assert_eq!(counts.errors["invalid_json"], 100 - among(200..300));
        assert_eq!(counts.errors["overloaded"], 100);
    }
}

#[test]
fn a_broken_batch_settles_each_message_once() {
    let mut rig = Rig::new();
    let claim = closed(2000);
    let (kit, mut batch) = rig.begin(&claim);
    let mut out = Vec::new();
    batch.encode(kit, &mut out, 64 * 1024);
    batch.before_write();
    batch.wrote(100);
    batch.answered(Answer::Ok, 30);
    batch.rejected("overloaded", 20);
    batch.fail(Broken::Reset.code());
    batch.close();
    let (totals, ledger) = rig.totals();
    let counts = totals.tally.counts;
    assert_eq!((counts.sent, counts.ok, counts.in_flight()), (2000, 30, 0));
    assert_eq!((counts.errors["overloaded"], counts.errors["reset"]), (20, 1950));
    let latencies = totals.latencies;
    assert_eq!(latencies.response.values.len(), 30);
    assert_eq!(latencies.response.censored.len(), 1970);
    // 100 were written: 30 answered, 70 watched from their write on.
    assert_eq!(latencies.service.censored.len(), 70);
    assert_eq!((latencies.lag.values.len(), latencies.lag.censored.len()), (100, 1900));
    assert_eq!((ledger.sent, &ledger.ok[..]), (2000, &[(0, 30)][..]));
}

#[test]
fn messages_that_are_answered_in_any_order_are_settled_once_each() {
    for claim in [closed(100), open(100)] {
        let mut rig = Rig::new();
        let (kit, mut batch) = rig.begin(&claim);
        // Written in runs of ten, each at a time of its own.
        for _ in 0..10 {
            for _ in 0..10 {
                batch.encode(kit, &mut Vec::new(), 0);
            }
            batch.before_write();
            batch.wrote(10);
        }
        batch.after_read();
        for first in (0..25).rev().map(|quarter: u64| quarter * 4) {
            batch.answered_at(first + 2, 2, Answer::Ok);
            batch.rejected_at(first, 1, "http_500");
            batch.answered_at(first + 1, 1, Answer::Filtered);
        }
        assert!(batch.is_settled() && batch.unanswered() == 0);
        batch.close();
        let (totals, ledger) = rig.totals();
        let counts = &totals.tally.counts;
        assert_eq!((counts.ok, counts.filtered, counts.errors["http_500"]), (50, 25, 25));
        assert_eq!(counts.in_flight(), 0);
        let latencies = totals.latencies;
        assert_eq!((latencies.service.values.len(), latencies.service.censored.len()), (75, 25));
        assert_eq!(latencies.response.values.len(), 75);
        assert_eq!((ledger.acknowledged(), ledger.ok[0], ledger.ok.len()), (50, (2, 2), 25));
    }
}

#[test]
fn a_batch_that_breaks_with_gaps_settles_what_is_in_them() {
    let mut rig = Rig::new();
    let claim = closed(30);
    let (kit, mut batch) = rig.begin(&claim);
    for _ in 0..20 {
        batch.encode(kit, &mut Vec::new(), 0);
        batch.before_write();
        batch.wrote(1);
    }
    batch.after_read();
    batch.answered_at(0, 1, Answer::Ok);
    batch.answered_at(5, 3, Answer::Ok);
    batch.rejected_at(19, 1, "no");
    assert_eq!(batch.unanswered(), 15);
    batch.fail("reset");
    batch.close();
    let (totals, ledger) = rig.totals();
    let counts = totals.tally.counts;
    assert_eq!((counts.ok, counts.errors["no"], counts.errors["reset"]), (4, 1, 25));
    assert_eq!((counts.sent, counts.in_flight()), (30, 0));
    let latencies = totals.latencies;
    assert_eq!((latencies.response.values.len(), latencies.response.censored.len()), (4, 26));
    assert_eq!((latencies.service.values.len(), latencies.service.censored.len()), (4, 16));
    assert_eq!((ledger.sent, &ledger.ok[..]), (30, &[(0, 1), (5, 3)][..]));
}

#[test]
fn a_response_settles_by_its_status_and_allocates_nothing() {
    let mut rig = Rig::new();
    let mut run = |statuses: [u16; 4]| {
        let claim = closed(4);
        let (_, mut batch) = rig.begin(&claim);
        batch.own(4);
        batch.before_write();
        batch.wrote(4);
        batch.after_read();
        statuses.into_iter().for_each(|status| batch.replied(status, 1));
        batch.close();
    };
    let statuses = [200, 404, 204, 599];
    run(statuses);
    assert_eq!(allocations::during(|| run(statuses)), 0);
    let counts = rig.totals().0.tally.counts;
    assert_eq!((counts.ok, counts.errors["http_404"], counts.errors["http_599"]), (4, 2, 2));
    assert_eq!(counts.statuses, [(200, 2), (204, 2), (404, 2), (599, 2)].into());
}

#[test]
fn a_withdrawn_batch_leaves_no_trace() {
    let mut rig = Rig::new();
    let claim = closed(10);
    let (_, batch) = rig.begin(&claim);
    batch.withdraw();
    let (totals, ledger) = rig.totals();
    assert_eq!((totals.tally.counts.sent, ledger.sent), (0, 0));
}

#[test]
fn a_full_socket_is_told_from_a_busy_shard() {
    let mut rig = Rig::new();
    let claim = closed(2000);
    let (kit, mut batch) = rig.begin(&claim);
    let mut out = Vec::new();
    batch.encode(kit, &mut out, 1 << 20);
    batch.before_write();
    batch.wrote(1);
    batch.blocked();
    let pause = std::time::Duration::from_millis(20);
    std::thread::sleep(pause);
    batch.before_write();
    batch.wrote(1999);
    batch.answered(Answer::Ok, 2000);
    batch.close();
    let causes = rig.totals().0.tally.causes;
    let pause_ns = pause.as_nanos();
    assert!(causes.socket.sum_ns >= 1999 * pause_ns, "{causes:?}");
    assert_eq!(causes.socket.sum_ns, 1999 * u128::from(causes.socket.max_ns));
    assert_eq!(
        (causes.window_full, causes.connecting.max_ns > 1_000_000_000),
        (Cause::default(), false)
    );
}
