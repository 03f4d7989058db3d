//! The report as people read it: tables, verdict, and one sentence.
//!
//! Owns the layout. Columns are aligned by hand: a table crate would bring its own ideas of width
//! and borders for the forty lines here. Pure.

use loadgen::summary::LatencySummary;

use super::{Report, TierReport, TierResources};
use crate::figures::{quantity, rate, short_rate, thousands, time};
use crate::judge::Verdict;
use crate::observe::Resources;
use crate::observe::caps::Caps;

/// The whole text, but what broke the run: that is an error, and told as one. Lines end in `\n`.
pub fn render(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    if !report.tiers.is_empty() {
        out += &counts(report).render();
        out.push('\n');
        out += &latencies(report).render();
        out.push('\n');
        out += &resources(report).render();
        out.push('\n');
        if let Some(caps) = caps(report) {
            out += &caps.render();
            out.push('\n');
        }
    }
    for tier in &report.tiers {
        for remark in &tier.remarks {
            out += &format!("note     {}: {remark}\n", tier.name);
        }
    }
    if report.tool.build == "debug" {
        out += "note     this is a debug build: its figures say little\n";
    }
    for tier in &report.tiers {
        for failure in &tier.verification.failures {
            out += &format!("problem  {}: {}\n", tier.name, failure.text);
        }
    }
    let (word, paint) = match report.verdict {
        Verdict::Pass => ("PASS", "32"),
        Verdict::Fail => ("FAIL", "31"),
        Verdict::Invalid => ("INVALID", "33"),
        Verdict::Interrupted => ("INTERRUPTED", "33"),
        Verdict::Unreachable => ("UNREACHABLE", "31"),
        Verdict::Broken => ("BROKEN", "31"),
    };
    let word = if colour { format!("\x1b[1;{paint}m{word}\x1b[0m") } else { word.to_owned() };
    out += &format!("{word}  {}\n", report.sentence);
    out
}

/// The result to quote.
pub fn sentence(report: &Report) -> String {
    let tiers = match report.tiers.len() {
        1 => "1 tier is".to_owned(),
        count => format!("{count} tiers are"),
    };
    match report.verdict {
        Verdict::Pass => best(report),
        Verdict::Fail | Verdict::Invalid => {
            let Some(tier) = decisive(report) else { return best(report) };
            let reasons: Vec<&str> =
                tier.verification.failures.iter().map(|failure| &*failure.text).collect();
            let what =
                if report.verdict == Verdict::Fail { "failed" } else { "was not measured in" };
            format!("{} {what} {}: {}.", who(report), tier.name, reasons.join("; "))
        }
        Verdict::Interrupted => {
            format!("The run was interrupted; {tiers} in its report.")
        }
        Verdict::Unreachable => "The engine could not be reached.".to_owned(),
        Verdict::Broken => format!("The run broke; {tiers} in its report."),
    }
}

/// The first tier whose failure gave the exit code.
fn decisive(report: &Report) -> Option<&TierReport> {
    report.tiers.iter().find(|tier| {
        let mut failures = tier.verification.failures.iter();
        failures.any(|failure| failure.kind.exit_code() == report.exit_code)
    })
}

fn who(report: &Report) -> &str {
    report.config.target.as_deref().unwrap_or("Logboom")
}

fn best(report: &Report) -> String {
    let Some(tier) = report.tiers.iter().max_by_key(|tier| tier.summary.load.ok) else {
        return "Nothing was run.".to_owned();
    };
    let summary = &tier.summary;
    let p99 = match summary.latency.response.p99_ns {
        Some(ns) => format!(", p99 {}", time(ns)),
        None => String::new(),
    };
    let cores = report.host.cores.engine.len();
    let place = match &report.config.target {
        Some(_) => String::new(),
        None => {
            let noun = if cores == 1 { "core" } else { "cores" };
            let shared = report.host.cores.engine == report.host.cores.generator;
            let shared = if shared { ", shared with the generator" } else { "" };
            format!(" on {cores} engine {noun}{shared}")
        }
    };
    let kept = match report.tiers.iter().all(|tier| tier.verification.audit.is_some()) {
        true => "every acknowledged line was found on disk",
        false => "what is on disk was not assessed",
    };
    format!(
        "{} took {} lines in {} ({}/s{p99}){place}; {kept}.",
        who(report),
        quantity(summary.load.ok as f64),
        time(summary.duration_ns),
        short_rate(tier.verification.achieved_per_s),
    )
}

fn counts(report: &Report) -> Table {
    let mut table = Table::new(
        "tier",
        &["messages", "ok", "failed", "time", "rate/s", "asked/s", "on disk", "missing", "verdict"],
    );
    for tier in &report.tiers {
        let TierReport { summary, verification, .. } = tier;
        let audit = verification.audit.as_ref();
        let not_assessed = || "-".to_owned();
        table.row(
            &tier.name,
            vec![
                thousands(summary.load.offered),
                thousands(summary.load.ok),
                format!("{:.2} %", verification.error_rate * 100.0),
                time(summary.duration_ns),
                rate(verification.achieved_per_s),
                verification.min_rps.map_or_else(not_assessed, rate),
                audit.map_or_else(not_assessed, |audit| thousands(audit.stored)),
                audit.map_or_else(not_assessed, |audit| thousands(audit.missing)),
                if verification.pass { "pass".to_owned() } else { "FAIL".to_owned() },
            ],
        );
    }
    table
}

fn latencies(report: &Report) -> Table {
    let mut table =
        Table::new("latency", &["", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"]);
    for tier in &report.tiers {
        let latency = &tier.summary.latency;
        let kinds =
            [("response", &latency.response), ("service", &latency.service), ("lag", &latency.lag)];
        for (index, (kind, latency)) in kinds.into_iter().enumerate() {
            let mut cells = vec![kind.to_owned()];
            cells.extend(percentiles(latency));
            table.row(if index == 0 { &tier.name } else { "" }, cells);
        }
    }
    table
}

fn percentiles(latency: &LatencySummary) -> [String; 7] {
    [
        ("p50_ns", latency.p50_ns),
        ("p90_ns", latency.p90_ns),
        ("p95_ns", latency.p95_ns),
        ("p99_ns", latency.p99_ns),
        ("p999_ns", latency.p999_ns),
        ("p9999_ns", latency.p9999_ns),
        ("max_ns", latency.max_ns),
    ]
    .map(|(field, value)| match value {
        None => "-".to_owned(),
        Some(ns) if latency.is_lower_bound(field) => format!("> {}", time(ns)),
        Some(ns) => time(ns),
    })
}

fn resources(report: &Report) -> Table {
    let mut table = Table::new(
        "cost",
        &["", "cpu mean", "cpu peak", "cpu-s", "cpu-s/million", "memory mean", "memory peak"],
    );
    for tier in &report.tiers {
        let sides = [("engine", tier.resources.engine.as_ref())]
            .into_iter()
            .chain([("generator", Some(&tier.resources.generator))]);
        for (index, (side, resources)) in sides.enumerate() {
            let mut cells = vec![side.to_owned()];
            cells.extend(resources.map_or_else(|| [const { String::new() }; 6], cost));
            table.row(if index == 0 { &tier.name } else { "" }, cells);
        }
    }
    table
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// What cgroups allowed both sides, and how close they came; None where nothing is capped.
fn caps(report: &Report) -> Option<Table> {
    let sides = |tier: &TierReport| {
        let TierResources { engine, generator } = tier.resources.clone();
        [("engine", engine), ("generator", Some(generator))]
    };
    let capped = report
        .tiers
        .iter()
        .flat_map(sides)
        .any(|(_, side)| side.is_some_and(|side| side.caps.is_capped()));
    let mut table = Table::new(
        "caps",
        &["", "on cpus", "quota", "throttled", "for", "memory max", "used", "most", "reached"],
    );
    for tier in &report.tiers {
        for (index, (side, resources)) in sides(tier).into_iter().enumerate() {
            let mut cells = vec![side.to_owned()];
            cells.extend(resources.map_or_else(Default::default, |side| allowed(&side.caps)));
            table.row(if index == 0 { &tier.name } else { "" }, cells);
        }
    }
    capped.then_some(table)
}

fn allowed(caps: &Caps) -> [String; 8] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let cpus: Vec<String> = caps.cpus.iter().map(usize::to_string).collect();
    let share = |bytes: u64| {
        let share = bytes as f64 / caps.memory_bytes_max.unwrap_or(u64::MAX).max(1) as f64;
        format!("{} ({:.0} %)", mib(bytes), share * 100.0)
    };
    let throttled = caps.throttled_periods.zip(caps.periods);
    [
        if cpus.is_empty() { "-".to_owned() } else { cpus.join(",") },
        or_none(caps.cpu_quota.map(|quota| format!("{quota:.2}"))),
        or_none(throttled.map(|(throttled, periods)| format!("{throttled} of {periods}"))),
        or_none(caps.throttled_s.map(|seconds| format!("{seconds:.3} s"))),
        or_none(caps.memory_bytes_max.map(mib)),
        or_none(caps.memory_bytes.map(share)),
        or_none(caps.memory_peak_bytes.map(share)),
        or_none(caps.memory_reached.map(|times| format!("{times} times"))),
    ]
}

fn cost(resources: &Resources) -> [String; 6] {
    [
        format!("{:.0} %", resources.cpu_mean_percent),
        format!("{:.0} %", resources.cpu_peak_percent),
        format!("{:.3}", resources.cpu_seconds),
        resources.cpu_seconds_per_million.map_or("-".to_owned(), |cost| format!("{cost:.2}")),
        mib(resources.rss_mean_bytes),
        mib(resources.rss_peak_bytes),
    ]
}

/// Rows of cells; the first column stands left, the others right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(name: &str, columns: &[&str]) -> Table {
        let mut table = Table { rows: Vec::new() };
        table.row(name, columns.iter().map(|column| (*column).to_owned()).collect());
        table
    }

    fn row(&mut self, name: &str, cells: Vec<String>) {
        self.rows.push([vec![name.to_owned()], cells].concat());
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => line += &format!("{cell:<width$}"),
                    _ => line += &format!("  {cell:>width$}"),
                }
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests;
