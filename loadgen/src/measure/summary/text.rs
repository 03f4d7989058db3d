//! The summary as text: the verdict first, then one sentence, then tables.
//!
//! Owns how figures are written for people, everywhere in this crate. Leaves which may be said to
//! [`super::latency`].

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::{
    Interval, Intervals, LagCause, LatencySummaries, LatencySummary, Lines, Load, Rate, Section,
    Statuses, StepSection, Summary, Verdict,
};
use crate::measure::resources::Resources;
use crate::measure::tally::Malformed;

impl Summary {
    /// The summary as text: verdict, one sentence, tables. Lines end in `\n`.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a string does not fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        self.write_invalid(out)?;
        self.write_headline(out)?;
        self.write_load(out)?;
        if self.verdict != Verdict::Invalid {
            self.write_latency(out)?;
            write_sections(out, "flow", &self.flows)?;
            write_sections(out, "stage", &self.stages)?;
            write_steps(out, &self.steps)?;
        }
        self.write_notes(out)
    }

    /// What speaks against the run comes before anything that it says.
    fn write_invalid(&self, out: &mut String) -> fmt::Result {
        let Some(validity) = self.validity.as_ref().filter(|validity| !validity.is_valid) else {
            return Ok(());
        };
        writeln!(out, "INVALID: this run cannot vouch for its figures:")?;
        for signal in validity.bad() {
            writeln!(out, "  {:<13} {}", signal.name, signal.detail)?;
        }
        writeln!(out)
    }

    /// Each SLO, and what else is known about the run's validity.
    fn write_judgement(&self, out: &mut String) -> fmt::Result {
        for slo in &self.slos {
            writeln!(out, "  slo        {}", slo.line())?;
        }
        if let Some(validity) = &self.validity {
            for line in validity.lines() {
                writeln!(out, "  validity   {line}")?;
            }
        }
        Ok(())
    }

    fn write_headline(&self, out: &mut String) -> fmt::Result {
        let Load { offered, ok, unacknowledged, .. } = self.load;
        let duration = time(self.duration_ns);
        if self.verdict == Verdict::Invalid {
            return writeln!(
                out,
                "{}: {} of {} messages ok in {duration}; rates and times are withheld (STRICT)",
                self.verdict,
                thousands(ok),
                thousands(offered),
            );
        }
        let achieved = rate_cell(self.rate.achieved_per_s);
        let response = &self.latency.response;
        let interval = within(response.p99_ns, response.ci95.p99_ns, " to ");
        if unacknowledged > 0 {
            writeln!(
                out,
                "{}: {} of {} messages sent in {duration}, {achieved} a second; \
                 UDP has no replies: how many arrived, only the target knows",
                self.verdict,
                thousands(unacknowledged),
                thousands(offered),
            )
        } else {
            writeln!(
                out,
                "{}: {} of {} messages ok in {duration}, {achieved} a second, response p99 {}{}",
                self.verdict,
                thousands(ok),
                thousands(offered),
                response.cell("p99_ns", response.p99_ns),
                if interval.is_empty() { interval } else { format!(" ({interval})") },
            )
        }
    }

    fn write_load(&self, out: &mut String) -> fmt::Result {
        let Load { offered, sent, ok, filtered, error, unanswered, unsent, .. } = self.load;
        let names = ["offered", "sent", "ok", "filtered", "error", "unanswered", "unsent"];
        let counts = [offered, sent, ok, filtered, error, unanswered, unsent];
        let Rate { offered_per_s, achieved_per_s } = self.rate;
        writeln!(out)?;
        row(out, "", NAME_WIDTH, names)?;
        row(out, "messages", NAME_WIDTH, counts.map(thousands))?;
        if self.verdict == Verdict::Invalid {
            return Ok(());
        }
        let rates = [rate_cell(offered_per_s), String::new(), rate_cell(achieved_per_s)];
        row(out, "a second", NAME_WIDTH, rates)
    }

    fn write_latency(&self, out: &mut String) -> fmt::Result {
        writeln!(out)?;
        row(out, "", NAME_WIDTH, ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"])?;
        let LatencySummaries { response, service, lag } = &self.latency;
        for (name, latency) in [("response", response), ("service", service), ("lag", lag)] {
            let cells = [
                latency.cell("p50_ns", latency.p50_ns),
                latency.cell("p90_ns", latency.p90_ns),
                latency.cell("p95_ns", latency.p95_ns),
                latency.cell("p99_ns", latency.p99_ns),
                latency.cell("p999_ns", latency.p999_ns),
                latency.cell("p9999_ns", latency.p9999_ns),
                latency.cell("max_ns", latency.max_ns),
            ];
            row(out, name, NAME_WIDTH, cells)?;
            let Intervals { p50_ns, p90_ns, p95_ns, p99_ns, p999_ns, p9999_ns } = latency.ci95;
            let intervals = [
                (latency.p50_ns, p50_ns),
                (latency.p90_ns, p90_ns),
                (latency.p95_ns, p95_ns),
                (latency.p99_ns, p99_ns),
                (latency.p999_ns, p999_ns),
                (latency.p9999_ns, p9999_ns),
            ];
            let cells = intervals.map(|(value, interval)| within(value, interval, "–"));
            if cells.iter().any(|cell| !cell.is_empty()) {
                row(out, "  95 % in", NAME_WIDTH, cells)?;
            }
        }
        Ok(())
    }

    fn write_notes(&self, out: &mut String) -> fmt::Result {
        writeln!(out)?;
        if self.warmup_ns > 0 {
            writeln!(out, "  warm-up    {} before, in no figure", time(self.warmup_ns))?;
        }
        if let Some(causes) = &self.latency.lag.causes {
            let mut causes: Vec<_> =
                causes.named().into_iter().filter(|(_, cause)| cause.share >= 0.005).collect();
            causes.sort_by(|(_, one), (_, other)| other.share.total_cmp(&one.share));
            let causes: Vec<String> = causes
                .into_iter()
                .map(|(name, LagCause { max_ns, share, .. })| {
                    format!("{name} {:.0} % (up to {})", share * 100.0, time(max_ns))
                })
                .collect();
            if !causes.is_empty() {
                writeln!(out, "  lag from   {}", causes.join(", "))?;
            }
        }
        if !self.errors.is_empty() {
            let errors = self.errors.iter();
            let errors: Vec<String> =
                errors.map(|(code, &count)| format!("{code} {}", thousands(count))).collect();
            writeln!(out, "  errors     {}", errors.join(", "))?;
        }
        if let Some(http) = &self.http {
            writeln!(out, "  responses  {}", responses(http))?;
        }
        let Malformed { sent, rejected, accepted } = self.load.malformed;
        if sent > 0 {
            let [sent, rejected] = [sent, rejected].map(thousands);
            write!(out, "  malformed  {sent} sent, ")?;
            match accepted {
                0 if self.load.unacknowledged > 0 => {
                    writeln!(out, "in datagrams: what became of them only the target knows")?;
                }
                0 => writeln!(out, "{rejected} rejected as they should be")?,
                _ => writeln!(
                    out,
                    "{rejected} rejected as they should be, {} taken: errors",
                    thousands(accepted)
                )?,
            }
        }
        if let Some(Lines { mean_bytes, max_bytes }) = self.lines {
            let max = thousands(max_bytes);
            writeln!(out, "  lines      {mean_bytes:.0} bytes on average, the longest {max}")?;
        }
        for (name, rows) in self.ended_by_feeder() {
            writeln!(out, "  feeder     {name} ended with the last row, of {}", thousands(rows))?;
        }
        if self.latency.response.censored > 0 {
            writeln!(
                out,
                "  censored   {} messages count as \"at least t\"; > marks what they could move",
                thousands(self.latency.response.censored)
            )?;
        }
        let Resources { cpu_user_s, cpu_system_s, rss_peak_bytes } = self.resources;
        writeln!(
            out,
            "  cost       {:.3} CPU-seconds ({cpu_user_s:.3} user, {cpu_system_s:.3} system), \
             {:.1} MiB",
            cpu_user_s + cpu_system_s,
            rss_peak_bytes as f64 / f64::from(1 << 20)
        )?;
        if let Some(pacing) = &self.pacing {
            let ran = Duration::from_nanos(self.warmup_ns.saturating_add(self.duration_ns));
            writeln!(out, "  pacing     {}", pacing.told(ran))?;
        }
        self.recordings.iter().try_for_each(|recording| recording.write_text(out))?;
        self.write_judgement(out)
    }
}

/// `2xx 1,234 (200 1,230, 204 4), 4xx 5 (404)`
fn responses(Statuses { classes, statuses }: &Statuses) -> String {
    let class = |(class, &count): (&String, &u64)| {
        let its: Vec<_> = statuses.iter().filter(|(it, _)| it[..1] == class[..1]).collect();
        let its: Vec<String> = match its[..] {
            [(only, _)] => vec![only.clone()],
            _ => its.iter().map(|(it, n)| format!("{it} {}", thousands(**n))).collect(),
        };
        format!("{class} {} ({})", thousands(count), its.join(", "))
    };
    classes.iter().map(class).collect::<Vec<_>>().join(", ")
}

impl Summary {
    /// The flows whose load ended because a feeder had no more rows, and how many it had.
    fn ended_by_feeder(&self) -> Vec<(String, u64)> {
        let flows = self.config.get("flows").and_then(|flows| flows.as_array());
        let ended = flows.into_iter().flatten().filter_map(|flow| {
            let name = flow.get("name")?.as_str()?.to_owned();
            let rows = flow.get("feeder_rows")?.as_u64()?;
            let section = self.flows.iter().find(|section| section.name == name);
            let offered = section.map_or(self.load.offered, |section| section.load.offered);
            (offered >= rows).then_some((name, rows))
        });
        ended.collect()
    }
}

/// Columns of a table's first cell and of each other one.
const NAME_WIDTH: usize = 9;
const CELL_WIDTH: usize = 11;
/// Columns that the name of a flow or a stage may take.
const SECTION_NAME_WIDTH_MAX: usize = 24;

/// One line of a table, without spaces at its end.
fn row<C: fmt::Display>(
    out: &mut String,
    name: &str,
    name_width: usize,
    cells: impl IntoIterator<Item = C>,
) -> fmt::Result {
    write!(out, "  {name:<name_width$}")?;
    for cell in cells {
        write!(out, " {cell:>CELL_WIDTH$}")?;
    }
    out.truncate(out.trim_end().len());
    writeln!(out)
}

/// A line for each flow or stage.
fn write_sections(out: &mut String, what: &str, sections: &[Section]) -> fmt::Result {
    if sections.is_empty() {
        return Ok(());
    }
    let name = |section: &Section| match &section.flow {
        Some(flow) => format!("{flow}/{}", section.name),
        None => section.name.clone(),
    };
    let widths = sections.iter().map(|section| name(section).chars().count());
    let width = widths.max().unwrap_or(0).clamp(NAME_WIDTH, SECTION_NAME_WIDTH_MAX);
    writeln!(out)?;
    let titles = ["from", "offered/s", "ok/s", "failed", "p50", "p99", "p99.9", "max"];
    row(out, what, width, titles)?;
    for section in sections {
        let Section { load, rate: Rate { offered_per_s, achieved_per_s }, .. } = section;
        let response = &section.latency.response;
        let cells = [
            time(section.begin_ns),
            rate_cell(*offered_per_s),
            rate_cell(*achieved_per_s),
            thousands(load.error + load.unanswered + load.unsent),
            response.cell("p50_ns", response.p50_ns),
            response.cell("p99_ns", response.p99_ns),
            response.cell("p999_ns", response.p999_ns),
            response.cell("max_ns", response.max_ns),
        ];
        row(out, &name(section), width, cells)?;
    }
    Ok(())
}

/// A line for each step of a journey.
fn write_steps(out: &mut String, steps: &[StepSection]) -> fmt::Result {
    if steps.is_empty() {
        return Ok(());
    }
    let name = |step: &StepSection| match &step.flow {
        Some(flow) => format!("{flow}/{}", step.name),
        None => format!("{} {}", step.step, step.name),
    };
    let widths = steps.iter().map(|step| name(step).chars().count());
    let width = widths.max().unwrap_or(0).clamp(NAME_WIDTH, SECTION_NAME_WIDTH_MAX);
    writeln!(out)?;
    row(out, "step", width, ["requests", "ok", "failed", "p50", "p99", "p99.9", "max"])?;
    for step in steps {
        let service = &step.service;
        let cells = [
            thousands(step.count),
            thousands(step.ok),
            thousands(step.count - step.ok),
            service.cell("p50_ns", service.p50_ns),
            service.cell("p99_ns", service.p99_ns),
            service.cell("p999_ns", service.p999_ns),
            service.cell("max_ns", service.max_ns),
        ];
        row(out, &name(step), width, cells)?;
    }
    Ok(())
}

impl LatencySummary {
    /// `412 µs`, `> 1.00 s`, or `-` where the sample does not support it.
    fn cell(&self, field: &str, value: Option<u64>) -> String {
        match value {
            None => "-".to_owned(),
            Some(ns) if self.is_lower_bound(field) => format!("> {}", time(ns)),
            Some(ns) => time(ns),
        }
    }
}

/// A rate, or `-` where it is withheld.
fn rate_cell(per_s: Option<f64>) -> String {
    per_s.map_or("-".to_owned(), rate)
}

/// `1.10–1.41`, in the unit of the value beside it; `> 1.10` where the upper end is open.
fn within(value: Option<u64>, interval: Option<Interval>, to: &str) -> String {
    let Some((value, [lower, upper])) = value.zip(interval) else { return String::new() };
    let (divisor, _) = scale(value);
    let [lower, upper] = [lower, upper].map(|end| end.map(|ns| digits(ns as f64 / divisor)));
    match (lower, upper) {
        (Some(lower), Some(upper)) => format!("{lower}{to}{upper}"),
        (Some(lower), None) => format!("> {lower}"),
        (None, Some(upper)) => format!("< {upper}"),
        (None, None) => String::new(),
    }
}

/// Three significant digits with a unit: `0.95 µs` would be `950 ns`.
pub fn time(ns: u64) -> String {
    match scale(ns) {
        (_, "ns") => format!("{ns} ns"),
        (divisor, unit) => format!("{} {unit}", digits(ns as f64 / divisor)),
    }
}

/// How many nanoseconds the unit has in which a time is told.
fn scale(ns: u64) -> (f64, &'static str) {
    match ns {
        0..1_000 => (1.0, "ns"),
        1_000..1_000_000 => (1e3, "µs"),
        1_000_000..1_000_000_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    }
}

fn digits(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// `1,234,567`.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate: whole from a hundred up.
pub fn rate(per_s: f64) -> String {
    if per_s < 99.95 {
        return format!("{per_s:.1}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    thousands(per_s.round() as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::confidence::Batch;
    use crate::measure::environment::Environment;
    use crate::measure::latencies::Latency;
    use crate::measure::progress::Sum;
    use crate::measure::summary::{SCHEMA_VERSION, Tool, Verdict};
    use crate::measure::tally::{Cause, Causes, Counts};

    #[test]
    fn an_interval_is_in_the_unit_of_its_value_and_may_be_open() {
        let within = |value, interval| within(Some(value), Some(interval), "–");
        assert_eq!(within(1_234_567, [Some(1_100_000), Some(1_414_000)]), "1.10–1.41");
        assert_eq!(within(1_234_567, [Some(950_000), Some(12_300_000)]), "0.95–12.3");
        assert_eq!(within(1_234_567, [Some(950_000), None]), "> 0.95");
        assert_eq!(within(500, [None, Some(700)]), "< 700");
        assert_eq!(within(500, [None, None]), "");
        assert_eq!(super::within(None, Some([Some(1), Some(2)]), "–"), "");
    }

    #[test]
    fn times_have_three_digits() {
        let texts =
            [0, 999, 1_000, 12_345, 999_499, 1_234_567, 99_960_000, 61_000_000_000].map(time);
        let expected =
            ["0 ns", "999 ns", "1.00 µs", "12.3 µs", "999 µs", "1.23 ms", "100 ms", "61.0 s"];
        assert_eq!(texts, expected);
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
        assert_eq!((rate(12.34), rate(1234.5)), ("12.3".to_owned(), "1,235".to_owned()));
    }

    fn summary() -> Summary {
        let mut sum = Sum { offered: 2000, ..Sum::default() };
        for ns in 1..=1980 {
            sum.latencies.response.values.saturating_record(ns * 1_000);
            sum.latencies.service.values.saturating_record(ns * 500);
            sum.latencies.lag.values.saturating_record(ns * 500);
        }
        for _ in 0..20 {
            sum.latencies.response.censored.saturating_record(3_000_000_000);
            sum.latencies.lag.censored.saturating_record(3_000_000_000);
        }
        let cause = |sum_ns, max_ns| Cause { sum_ns, max_ns };
        sum.tally.causes = Causes {
            window_full: cause(780_000_000, 950_000),
            reader: Cause::default(),
            shard_busy: cause(210_000_000, 40_000),
            connecting: cause(1_000_000, 3_000),
            socket: cause(9_000_000, 500),
        };
        let errors = BTreeMap::from([("overloaded".into(), 10), ("reset".into(), 5)]);
        (sum.tally.settled_moments, sum.tally.sent_moments) = (500, 500);
        for part in 0..20 {
            let mut latency = Latency::default();
            (0..100).for_each(|n| latency.values.saturating_record((20 * n + part) * 1_000));
            let batch = || Batch::new(&latency);
            sum.batches.iter_mut().for_each(|batches| batches.push(batch()));
        }
        sum.tally.counts = Counts { sent: 1995, ok: 1980, errors, unsent: 5, ..Counts::default() };
        Summary {
            lines: Some(Lines { mean_bytes: 191.7, max_bytes: 1234 }),
            schema_version: SCHEMA_VERSION,
            tool: Tool { name: "logboom-loadgen".into(), version: "0.1.0".into() },
            verdict: Verdict::Pass,
            config: serde_json::Value::Null,
            seed: 1,
            environment: Environment { build: "release".into(), ..Environment::default() },
            started_at: "2026-11-21T03:53:57Z".into(),
            warmup_ns: 0,
            duration_ns: 2_000_000_000,
            load: Load::new(&sum),
            rate: Rate { offered_per_s: Some(1000.0), achieved_per_s: Some(990.0) },
            latency: LatencySummaries::new(&sum),
            errors: sum.tally.counts.errors,
            http: None,
            flows: Vec::new(),
            stages: Vec::new(),
            steps: Vec::new(),
            slos: Vec::new(),
            validity: None,
            recordings: Vec::new(),
            pacing: None,
            resources: Resources { cpu_user_s: 0.25, cpu_system_s: 0.5, rss_peak_bytes: 30 << 20 },
            series: Vec::new(),
        }
    }

    #[test]
    fn the_text_says_the_verdict_first_and_marks_lower_bounds() {
        let expected = "\
PASS: 1,980 of 2,000 messages ok in 2.00 s, 990 a second, response p99 1.98 ms (> 1.96)

                offered        sent          ok    filtered       error  unanswered      unsent
  messages        2,000       1,995       1,980           0          15           0           5
  a second        1,000                     990

                    p50         p90         p95         p99       p99.9      p99.99         max
  response      1.00 ms     1.80 ms     1.90 ms     1.98 ms           -           -    > 3.00 s
    95 % in   0.91–1.09   1.74–1.86   1.86–1.94      > 1.96
  service        495 µs      891 µs      941 µs      981 µs           -           -      990 µs
    95 % in     450–541     862–919     919–961     969–990
  lag            500 µs      900 µs      950 µs      990 µs           -           -    > 3.00 s
    95 % in     469–532     881–919     936–964       > 983

  lag from   window full 78 % (up to 950 µs), shard busy 21 % (up to 40.0 µs), socket full 1 % (up to 500 ns)
  errors     overloaded 10, reset 5
  lines      192 bytes on average, the longest 1,234
  censored   20 messages count as \"at least t\"; > marks what they could move
  cost       0.750 CPU-seconds (0.250 user, 0.500 system), 30.0 MiB
";
        let summary = summary();
        assert_eq!(summary.text(), expected);
        let json = serde_json::to_string(&summary).expect("plain data");
        assert_eq!(serde_json::from_str::<Summary>(&json).expect("the same data"), summary);
    }
    #[test]
    fn several_stages_have_a_table_and_a_warm_up_a_line() {
        let mut summary = summary();
        summary.warmup_ns = 2_000_000_000;
        let section = |name: &str, begin_s: u64| Section {
            name: name.into(),
            begin_ns: begin_s * 1_000_000_000,
            load: summary.load,
            rate: summary.rate,
            latency: summary.latency.clone(),
            ..Section::default()
        };
        summary.stages = vec![section("ramp-to-1000", 2), section("hold", 32)];
        let text = summary.text();
        let table = "
  stage               from   offered/s        ok/s      failed         p50         p99       p99.9         max
  ramp-to-1000      2.00 s       1,000         990          20     1.00 ms     1.98 ms           -    > 3.00 s
  hold              32.0 s       1,000         990          20     1.00 ms     1.98 ms           -    > 3.00 s

  warm-up    2.00 s before, in no figure
";
        assert!(text.contains(table), "{text}");
        let json = serde_json::to_string(&summary).expect("plain data");
        assert_eq!(serde_json::from_str::<Summary>(&json).expect("the same data"), summary);
    }

    #[test]
    fn responses_are_told_by_class_and_status() {
        let count = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let http = Statuses {
            classes: count(&[("2xx", 1234), ("4xx", 5)]),
            statuses: count(&[("200", 1230), ("204", 4), ("404", 5)]),
        };
        assert_eq!(responses(&http), "2xx 1,234 (200 1,230, 204 4), 4xx 5 (404)");
    }
}
