//! Against slow oracles that keep every message.

use proptest::prelude::*;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;

/// One second of one flow in one stage, in plain numbers.
#[derive(Clone, Debug, Default)]
struct Part {
    flow: &'static str,
    stage: &'static str,
    offered: u64,
    errors: u64,
    unsent: u64,
    /// Response times of what was answered.
    values: Vec<u64>,
    /// At least so much.
    censored: Vec<u64>,
}

impl Part {
    fn of(values: Vec<u64>) -> Part {
        let offered = values.len() as u64;
        Part { flow: "main", stage: "main", offered, values, ..Part::default() }
    }

    fn latencies(&self) -> Latencies {
        let mut latencies = Latencies::default();
        for &value in &self.values {
            latencies.response.values.saturating_record(value);
            latencies.service.values.saturating_record(value / 2);
            latencies.lag.values.saturating_record(value - value / 2);
        }
        self.censored.iter().for_each(|&t| latencies.response.censored.saturating_record(t));
        latencies
    }
}

fn portions<'a>(index: u64, parts: &'a [Part], latencies: &'a [Latencies]) -> Vec<Portion<'a>> {
    let each = parts.iter().zip(latencies);
    each.map(|(part, latencies)| Portion {
        flow: part.flow,
        stage: part.stage,
        begin_ns: index * SECOND_NS,
        end_ns: (index + 1) * SECOND_NS,
        offered: part.offered,
        answered: part.values.len() as u64,
        errors: part.errors,
        unanswered: 0,
        unsent: part.unsent,
        latencies: Some(latencies),
    })
    .collect()
}

fn slos(texts: &[&str]) -> Vec<Slo> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Judges whole seconds; gives the results and when the run would have been ended.
fn run(
    texts: &[&str],
    planned: Planned,
    seconds: &[Vec<Part>],
) -> (Vec<SloResult>, Option<(u64, String)>) {
    let mut judge = Judge::new(&slos(texts), planned);
    let mut aborted = None;
    for (index, parts) in seconds.iter().enumerate() {
        let latencies: Vec<Latencies> = parts.iter().map(Part::latencies).collect();
        let index = index as u64;
        let reason = judge.second(index, &portions(index, parts, &latencies));
        aborted = aborted.or(reason.map(|reason| (index, reason)));
    }
    let so_far = judge.results();
    let latencies: Vec<Vec<Latencies>> =
        seconds.iter().map(|parts| parts.iter().map(Part::latencies).collect()).collect();
    let each = seconds.iter().zip(&latencies).enumerate();
    let whole: Vec<Portion<'_>> = each
        .flat_map(|(index, (parts, latencies))| portions(index as u64, parts, latencies))
        .collect();
    let results = judge.finish(&whole);
    assert_eq!(results, so_far, "second by second it is the same as in one");
    (results, aborted)
}

fn states(texts: &[&str], seconds: &[Vec<Part>]) -> Vec<SloState> {
    let (results, _) = run(texts, Planned::default(), seconds);
    results.into_iter().map(|result| result.state).collect()
}

use SloState::{Failed, Held, NotAssessed};

#[test]
fn counts_and_shares_are_compared_with_what_was_offered() {
    let part = Part { offered: 1000, errors: 3, unsent: 2, ..Part::of(vec![10; 995]) };
    let texts = [
        "loss==0",
        "loss<=5",
        "loss<5",
        "errors==3",
        "errors<0.3%",
        "errors<=0.3%",
        "unsent<0.5%",
        "unanswered==0",
        "achieved>=99%",
        "achieved>99.5%",
        "achieved>=99.5%",
        "throughput>=995",
        "throughput>995",
        "throughput<1k",
    ];
    let expected = [
        Failed, Held, Failed, Held, Failed, Held, Held, Held, Held, Failed, Held, Held, Failed,
        Held,
    ];
    assert_eq!(states(&texts, &[vec![part]]), expected);
}

#[test]
fn times_are_compared_by_kind_and_statistic() {
    let part = Part::of((1..=2000).collect());
    let texts = [
        "p50<=1us",
        "p50<1us",
        "p99<2us",
        "p99>1.9us",
        "service.p50<=0.5us",
        "lag.max<=1us",
        "mean<1.1us",
        "min<=0.001us",
        "max<2us",
        "max<=2us",
    ];
    let expected = [Held, Failed, Held, Held, Held, Held, Held, Held, Failed, Held];
    assert_eq!(states(&texts, &[vec![part]]), expected);
}

#[test]
fn a_percentile_without_its_sample_is_not_assessed_but_may_fail() {
    let slow_tail = |n: usize| vec![vec![Part::of([vec![1; 500 - n], vec![2000; n]].concat())]];
    // p99 of 500 messages: 5 beyond it. Ten slow ones show that p98 is past the limit already.
    assert_eq!(states(&["p99<1us"], &slow_tail(0)), [NotAssessed]);
    assert_eq!(states(&["p99<1us"], &slow_tail(9)), [NotAssessed]);
    assert_eq!(states(&["p99<1us"], &slow_tail(10)), [Failed]);
    let (results, _) = run(&["p99<1us"], Planned::default(), &slow_tail(0));
    assert!(results[0].detail.contains("needs 1,000 messages, there were 500"), "{results:?}");
    assert_eq!(results[0].observed, None);
    assert_eq!(states(&["p99<1us", "loss==0", "mean<1s"], &[]), [NotAssessed; 3]);
}

#[test]
fn a_lower_bound_fails_and_does_not_prove() {
    let with = |t: u64| {
        let censored = vec![t; 20];
        vec![vec![Part { offered: 1000, errors: 20, censored, ..Part::of(vec![100; 980]) }]]
    };
    let texts = ["p50<1us", "p99<1us", "mean<1us", "max<1us", "p99>0.05us"];
    // Watched for 2 µs: p99 is more than that. The median is known whatever became of them.
    assert_eq!(states(&texts, &with(2000)), [Held, Failed, NotAssessed, Failed, Held]);
    // Watched for 500 ns only: nobody knows.
    assert_eq!(states(&texts, &with(500)), [Held, NotAssessed, NotAssessed, NotAssessed, Held]);
    let (results, _) = run(&["p99<1us"], Planned::default(), &with(500));
    assert_eq!(results[0].observed, None);
    assert!(results[0].detail.starts_with("at least 500 ns"), "{results:?}");
    assert!(results[0].detail.contains("of 20 of 1,000 messages only that is known"));
}

#[test]
fn a_scope_takes_only_its_messages() {
    let part = |flow, stage, value| Part { flow, stage, ..Part::of(vec![value; 1000]) };
    let second = vec![part("base", "steady", 10), part("burst", "peak", 2000)];
    let texts = [
        "p99<1us",
        "p99{stage=steady}<1us",
        "p99{stage=peak}<1us",
        "p99{flow=base}<1us",
        "p99{stage=peak,flow=base}<1us",
        "throughput{flow=base}<=1k",
        "throughput>=2k",
    ];
    let expected = [Failed, Held, Failed, Held, NotAssessed, Held, Held];
    assert_eq!(states(&texts, &[second]), expected);
}

#[test]
fn windows_are_judged_one_by_one_and_the_rest_is_left_out() {
    let second = |value: u64| vec![Part::of(vec![value; 1000])];
    let good = || second(10);
    let bad = || second(2000);
    let five = [good(), good(), bad(), good(), bad()];
    // Two windows of two seconds, and a second that is in none of them.
    let (results, _) = run(&["p99<1us over 2s"], Planned::default(), &five);
    assert_eq!(
        (results[0].state, results[0].observed, &*results[0].unit),
        (Failed, Some(0.5), "share")
    );
    assert!(results[0].detail.contains("1 of 2 windows of 2 s held, 1 failed"), "{results:?}");
    assert!(
        results[0].detail.contains("window 2 is the worst: 2.00 µs, limit 1.00 µs"),
        "{results:?}"
    );
    assert_eq!(states(&["p99<1us over 2s for 50%", "p99<1us over 6s"], &five), [Held, NotAssessed]);
    // 19 of 20 are 95 %.
    let twenty: Vec<_> = (0..20).map(|n| if n == 7 { bad() } else { good() }).collect();
    assert_eq!(
        states(&["p99<1us over 1s for 95%", "p99<1us over 1s for 96%"], &twenty),
        [Held, Failed]
    );
}

#[test]
fn windows_that_say_too_little_decide_only_if_the_others_do() {
    let second = |n: usize, value: u64| vec![Part::of(vec![value; n])];
    let seconds = [second(1000, 10), second(10, 10), second(1000, 10), second(1000, 2000)];
    let texts = ["p99<1us over 1s for 50%", "p99<1us over 1s for 75%", "p99<1us over 1s for 80%"];
    let (results, _) = run(&texts, Planned::default(), &seconds);
    let states: Vec<_> = results.iter().map(|result| result.state).collect();
    assert_eq!(states, [Held, NotAssessed, Failed]);
    assert!(results[1].detail.contains("1 could not be assessed"), "{results:?}");
    // Seconds in which a stage has nothing to do are none of its windows; silence of all is one.
    let idle =
        [second(1000, 10), vec![Part { stage: "later", ..Part::of(vec![10; 1000]) }], vec![]];
    assert_eq!(
        super::tests::states(&["p99{stage=main}<1us over 1s", "p99<1us over 1s"], &idle),
        [Held, NotAssessed]
    );
}

#[test]
fn windows_begin_with_the_first_measured_second() {
    let second = |value: u64| vec![Part::of(vec![value; 1000])];
    let mut judge = Judge::new(&slos(&["p99<1us over 2s"]), Planned::default());
    // A warm-up of three seconds.
    for index in 0..3 {
        assert_eq!(judge.second(index, &[]), None);
    }
    for (index, value) in [(3, 10), (4, 10), (5, 2000), (6, 10)] {
        let parts = second(value);
        let latencies: Vec<_> = parts.iter().map(Part::latencies).collect();
        judge.second(index, &portions(index, &parts, &latencies));
    }
    let results = judge.results();
    assert!(results[0].detail.starts_with("1 of 2 windows"), "{results:?}");
}

#[test]
fn abort_ends_the_run_when_nothing_can_save_the_slo() {
    let second =
        |good: usize, bad: usize| vec![Part::of([vec![10; good], vec![2000; bad]].concat())];
    let ten: Vec<_> = (0..10).map(|_| second(990, 10)).collect();
    let planned = |messages| Planned { messages: Some(messages), duration_ns: None };
    let when = |text: &str, planned, seconds: &[Vec<Part>]| {
        run(&[text], planned, seconds).1.map(|(second, _)| second)
    };
    // p99 of 5,000 messages breaks with the 51st slow one, in the sixth second.
    assert_eq!(when("p99<1us abort", planned(5000), &ten), Some(5));
    assert_eq!(when("p99<1us abort", planned(20_000), &ten), None);
    assert_eq!(when("p99<1us", planned(5000), &ten), None, "only who asks is ended");
    // A count or a maximum that is past its limit stays so.
    assert_eq!(when("max<1us abort", Planned::default(), &ten), Some(0));
    let failing: Vec<_> = (0..10)
        .map(|_| vec![Part { offered: 110, errors: 10, ..Part::of(vec![10; 100]) }])
        .collect();
    assert_eq!(when("loss==0 abort", Planned::default(), &failing), Some(0));
    assert_eq!(when("errors<=45 abort", Planned::default(), &failing), Some(4));
    assert_eq!(when("errors<5% abort", planned(1100), &failing), Some(5));
    assert_eq!(when("errors<5% abort", planned(2000), &failing), Some(9));
    // Without a plan it takes five seconds, a thousand messages and a hundred beyond p99.
    let bad: Vec<_> = (0..12).map(|_| second(0, 1000)).collect();
    assert_eq!(when("p99<1us abort", Planned::default(), &bad), Some(9));
    assert_eq!(when("p50<1us abort", Planned::default(), &bad), Some(4));
    assert_eq!(when("mean<1us abort", planned(1_000_000), &bad), Some(4));
    assert_eq!(when("throughput>2k abort", Planned::default(), &bad), Some(4));
    // 10 windows, of which one may fail: the second failure ends it.
    let windows = Planned { messages: None, duration_ns: Some(10 * SECOND_NS) };
    let mut some = vec![second(1000, 0); 10];
    some[2] = second(0, 1000);
    some[6] = second(0, 1000);
    assert_eq!(when("p99<1us over 1s for 90% abort", windows, &some), Some(6));
    assert_eq!(when("p99<1us over 1s abort", windows, &some), Some(2));
    assert_eq!(when("p99<1us over 1s for 80% abort", windows, &some), None);
    assert_eq!(when("p99<1us over 1s abort", Planned::default(), &some), Some(9));
    let (_, aborted) = run(&["max<1us abort"], Planned::default(), &ten);
    let (_, reason) = aborted.unwrap();
    assert_eq!(reason, "SLO max<1us abort cannot hold any more: 2.00 µs so far");
}

fn truth_of_rank(mut truth: Vec<u64>, percentile: u64) -> u64 {
    truth.sort_unstable();
    truth[usize::try_from(rank(truth.len() as u64, percentile)).unwrap() - 1]
}

fn holds(comparison: Comparison, value: u64, limit: f64) -> bool {
    let value = value as f64;
    match comparison {
        Comparison::Below => value < limit,
        Comparison::AtMost => value <= limit,
        Comparison::Equal => value == limit,
        Comparison::AtLeast => value >= limit,
        Comparison::Above => value > limit,
    }
}

proptest! {
    // Each case makes histograms of 33,000 counters, unoptimised.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever became of the censored messages: what is held holds, what failed does not. Values
    /// are below 2,048 ns, which a histogram of three digits tells apart.
    #[test]
    fn a_verdict_is_true_whatever_the_censored_messages_took(
        values in prop::collection::vec(0u64..2000, 0..150),
        censored in prop::collection::vec((0u64..2000, prop::option::of(0u64..3000)), 0..30),
        limit in 0u32..2000,
        sign in 0usize..5,
    ) {
        let (sign, comparison) = COMPARISONS[sign];
        let told = Part { censored: censored.iter().map(|&(t, _)| t).collect(), ..Part::of(values.clone()) };
        let mut truth = values;
        truth.extend(censored.iter().map(|&(t, more)| more.map_or(u64::MAX / 2, |more| t + more)));
        for (name, percentile) in [("p50", 5_000), ("p90", 9_000), ("p99", 9_900)] {
            let text = format!("{name}{sign}{}us", f64::from(limit) / 1000.0);
            let slos = slos(&[&text]);
            let limit = slos[0].limit.value();
            let state = states(&[&text], &[vec![told.clone()]])[0];
            if truth.is_empty() {
                prop_assert_eq!(state, NotAssessed);
                continue;
            }
            let is_held = holds(comparison, truth_of_rank(truth.clone(), percentile), limit);
            prop_assert!(state == NotAssessed || (state == Held) == is_held, "{text} {state}");
            let is_supported = truth.len() as u64 * (WHOLE - percentile) >= BEYOND_MIN * WHOLE;
            if censored.is_empty() && is_supported {
                prop_assert!(state != NotAssessed, "{text}: nothing is hidden");
            }
        }
    }

    /// One by one, from the raw messages.
    #[test]
    fn windows_are_what_a_slow_count_says(
        seconds in prop::collection::vec(prop::collection::vec(0u64..2000, 20..40), 0..9),
        length in 1usize..4,
        percent in 0u32..=100,
    ) {
        let text = format!("p50<1us over {length}s for {percent}%");
        let parts: Vec<Vec<Part>> = seconds.iter().map(|it| vec![Part::of(it.clone())]).collect();
        let state = states(&[&text], &parts)[0];
        let windows: Vec<bool> = seconds
            .chunks_exact(length)
            .map(|window| truth_of_rank(window.concat(), 5_000) < 1000)
            .collect();
        let held = windows.iter().filter(|held| **held).count();
        let expected = match windows.len() {
            0 => NotAssessed,
            count if held * 100 >= count * percent as usize => Held,
            _ => Failed,
        };
        prop_assert_eq!(state, expected, "{}", text);
    }

    /// `abort` never ends a run whose SLO would have held in the end.
    #[test]
    fn abort_is_never_wrong_where_the_plan_is_known(
        seconds in prop::collection::vec(prop::collection::vec(0u64..2000, 20..40), 1..8),
        limit in 1u32..2000,
        share in 0u32..=100,
    ) {
        let parts: Vec<Vec<Part>> = seconds.iter().map(|it| vec![Part::of(it.clone())]).collect();
        let planned = Planned {
            messages: Some(seconds.iter().map(|it| it.len() as u64).sum()),
            duration_ns: Some(seconds.len() as u64 * SECOND_NS),
        };
        let limit = f64::from(limit) / 1000.0;
        for text in [
            format!("p50<{limit}us abort"),
            format!("p90<={limit}us abort"),
            format!("max<{limit}us abort"),
            format!("min>{limit}us abort"),
            format!("p50<{limit}us over 1s for {share}% abort"),
        ] {
            let (results, aborted) = run(&[&text], planned, &parts);
            if aborted.is_some() {
                prop_assert_eq!(results[0].state, Failed, "{}", text);
            }
        }
    }
}

const COMPARISONS: [(&str, Comparison); 5] = [
    ("<", Comparison::Below),
    ("<=", Comparison::AtMost),
    ("==", Comparison::Equal),
    (">=", Comparison::AtLeast),
    (">", Comparison::Above),
];
