//! Each failure, and their order.

use std::time::Duration;

use super::*;

const TIER: Tier = Tier {
    name: "high_load",
    total_logs: Some(1000),
    duration: Duration::from_secs(10),
    concurrency: 5,
};
const DEMANDS: Demands = Demands { min_rps: None, max_error_rate: 0.01 };

/// A tier in which all went well, for a case to spoil.
struct Case {
    load: Load,
    duration_ns: u64,
    verdict: summary::Verdict,
    acknowledged: u64,
    audit: Option<Audit>,
    totals: Option<Totals>,
    cut_short: bool,
    demands: Demands,
}

impl Case {
    fn new() -> Case {
        Case {
            load: Load { offered: 1000, sent: 1000, ok: 990, filtered: 10, ..Load::default() },
            duration_ns: 1_000_000_000,
            verdict: summary::Verdict::Pass,
            acknowledged: 990,
            audit: Some(Audit { stored: 990, acknowledged: 990, ..Audit::default() }),
            totals: Some(Totals { received: 1000, ok: 990, filtered: 10, ..Totals::default() }),
            cut_short: false,
            demands: DEMANDS,
        }
    }

    fn judge(&self) -> Verification {
        let summary = Summary {
            verdict: self.verdict,
            duration_ns: self.duration_ns,
            load: self.load,
            ..Summary::default()
        };
        let evidence = Evidence {
            summary: &summary,
            acknowledged: self.acknowledged,
            audit: self.audit.as_ref(),
            totals: self.totals.as_ref(),
            cut_short: self.cut_short,
        };
        judge(&TIER, &self.demands, &evidence)
    }
}

fn spoilt(spoil: impl FnOnce(&mut Case)) -> Vec<FailureKind> {
    let mut case = Case::new();
    spoil(&mut case);
    let verification = case.judge();
    assert_eq!(verification.pass, verification.failures.is_empty());
    verification.failures.iter().map(|failure| failure.kind).collect()
}

#[test]
fn a_tier_in_which_all_went_well_passes() {
    let verification = Case::new().judge();
    assert!(verification.pass, "{:?}", verification.failures);
    assert_eq!(verification.min_rps, Some(100.0), "1,000 in 10 s");
    assert_eq!(verification.achieved_per_s, 1000.0, "filtered is answered, too");
}

#[test]
fn what_is_not_assessed_neither_passes_nor_fails() {
    let none = spoilt(|case| (case.audit, case.totals) = (None, None));
    assert_eq!(none, []);
}

#[test]
fn each_failure_is_found_alone() {
    use FailureKind::*;
    let audit = |change: fn(&mut Audit)| {
        move |case: &mut Case| change(case.audit.as_mut().expect("a case has one"))
    };
    assert_eq!(spoilt(audit(|audit| audit.missing = 1)), [Missing]);
    assert_eq!(spoilt(audit(|audit| audit.duplicated = 1)), [Duplicated]);
    assert_eq!(spoilt(audit(|audit| audit.damaged = 1)), [Damaged]);
    assert_eq!(spoilt(audit(|audit| audit.unexpected = 1)), [Unexpected]);
    assert_eq!(spoilt(audit(|audit| audit.foreign = 1)), [], "others may store there, too");
    assert_eq!(spoilt(|case| case.duration_ns = 10_000_000_001), [TooSlow]);
    assert_eq!(spoilt(|case| case.duration_ns = 10_000_000_000), []);
    assert_eq!(spoilt(|case| case.demands.min_rps = Some(1001.0)), [TooSlow]);
    assert_eq!(spoilt(|case| case.verdict = summary::Verdict::Invalid), [Invalid]);
    assert_eq!(spoilt(|case| case.acknowledged = 989), [CountsDisagree]);
}

#[test]
fn more_than_the_allowed_share_of_failures_fails() {
    for (failed, expected) in [(10, &[][..]), (11, &[FailureKind::TooManyErrors])] {
        let kinds = spoilt(|case| {
            case.load.ok = 990 - failed;
            case.load.error = failed;
            case.acknowledged = case.load.ok;
            case.totals = None;
        });
        assert_eq!(kinds, expected, "{failed} of 1000 at 1 %");
    }
}

#[test]
fn the_engine_may_know_more_only_where_connections_were_lost() {
    let totals = |received, ok, filtered, error, in_flight| {
        Some(Totals { received, ok, filtered, error, in_flight })
    };
    let disagree = [FailureKind::CountsDisagree];
    for wrong in [
        totals(1001, 991, 10, 0, 0),
        totals(999, 989, 10, 0, 0),
        totals(1000, 989, 11, 0, 0),
        totals(1001, 990, 10, 0, 1),
        totals(1000, 990, 9, 0, 0),
    ] {
        assert_eq!(spoilt(|case| case.totals = wrong), disagree, "{wrong:?}");
    }
    let with_losses = |totals| {
        spoilt(|case| {
            case.load = Load { unanswered: 5, ok: 985, ..case.load };
            (case.acknowledged, case.totals) = (985, totals);
        })
    };
    assert_eq!(with_losses(totals(1000, 990, 10, 0, 0)), [], "replies were lost on the way");
    assert_eq!(with_losses(totals(995, 985, 10, 0, 0)), [], "messages were lost on the way");
    assert_eq!(with_losses(totals(994, 984, 10, 0, 0)), disagree, "a reply from nowhere");
    assert_eq!(with_losses(totals(1001, 991, 10, 0, 0)), disagree, "a message from nowhere");
}

#[test]
fn a_tier_that_was_cut_short_is_not_called_slow() {
    let kinds = spoilt(|case| {
        case.duration_ns = 100_000_000_000;
        case.cut_short = true;
    });
    assert_eq!(kinds, []);
    let nothing = |cut_short| {
        spoilt(|case| {
            case.load = Load::default();
            (case.acknowledged, case.totals, case.audit) = (0, None, None);
            (case.demands.min_rps, case.cut_short) = (Some(0.0), cut_short);
        })
    };
    assert_eq!(nothing(true), []);
    assert_eq!(nothing(false), [FailureKind::Invalid]);
}

#[test]
fn the_worst_of_several_failures_decides() {
    use FailureKind::*;
    let code = |tiers: &[&[FailureKind]], ended: &Ended| {
        let tiers: Vec<Verification> = tiers
            .iter()
            .map(|kinds| {
                let failure = |kind: &FailureKind| Failure { kind: *kind, text: String::new() };
                let failures: Vec<Failure> = kinds.iter().map(failure).collect();
                Verification { pass: failures.is_empty(), failures, ..Case::new().judge() }
            })
            .collect();
        let conclusion = conclude(tiers.iter(), ended);
        (conclusion.exit_code, conclusion.verdict)
    };
    let whole = &Ended::Whole;
    assert_eq!(code(&[&[], &[]], whole), (0, Verdict::Pass));
    assert_eq!(code(&[&[TooSlow], &[]], whole), (10, Verdict::Fail));
    assert_eq!(code(&[&[TooSlow], &[CountsDisagree]], whole), (13, Verdict::Invalid));
    assert_eq!(code(&[&[Invalid, TooSlow], &[Missing]], whole), (12, Verdict::Fail));
    assert_eq!(code(&[&[Damaged]], whole).0, 12);
    let broke = &Ended::Broke(Error::Usage("x".into()));
    assert_eq!(code(&[&[TooSlow]], broke), (2, Verdict::Broken));
    assert_eq!(code(&[&[Missing]], broke), (12, Verdict::Fail));
    assert_eq!(code(&[], &Ended::Unreachable), (15, Verdict::Unreachable));
    for (cause, expected) in [(Cause::Interrupt, 130), (Cause::Terminate, 143)] {
        let interrupted = &Ended::Interrupted(cause);
        assert_eq!(code(&[&[Missing]], interrupted), (expected, Verdict::Interrupted));
    }
}
