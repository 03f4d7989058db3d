//! What a recording held, for the summary.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reader::Told;
use crate::measure::progress::Totals;
use crate::measure::summary::{Figures, rate, thousands, time};
use crate::plan::replay::Replay;
use crate::plan::replay::screen::{Layout, Screened};

/// A recording that was sent again, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recording {
    /// The index of its flow.
    pub flow: usize,
    /// REPLAY.
    pub path: String,
    /// `ndjson`, `common` or `combined`.
    pub format: String,
    /// Where an NDJSON line's time stands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub timestamp_field: String,
    /// REPLAY_SPEED.
    pub speed: String,
    /// How often something of it was sent.
    pub rounds: u64,
    /// What became of its lines, all rounds together.
    pub lines: Screened,
    /// The first and the latest message that is sent, UTC; `null` where there is none.
    pub from: Option<String>,
    /// The latest.
    pub to: Option<String>,
    /// How long it lasted when it was recorded, all rounds together.
    pub duration_ns: u64,
    /// Messages a second when it was recorded; `null` where it took no time.
    pub rate_per_s: Option<f64>,
    /// How long it took when it was replayed; 0 while it is not known.
    pub replayed_duration_ns: u64,
    /// Messages a second when it was replayed.
    pub replayed_rate_per_s: Option<f64>,
    /// Over HTTP, requests by the status that was recorded and the one that came now; `-` where the
    /// log has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub statuses: BTreeMap<String, BTreeMap<String, u64>>,
    /// Requests that were answered with the status that was recorded; `null` where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_status: Option<u64>,
    /// What kept a file from being read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

impl Recording {
    pub(super) fn new(flow: usize, replay: &Replay, layout: &Layout, told: Told) -> Recording {
        let Told { screened, span_ns, lasted_ns, rounds, broken } = told;
        let utc = |ns: i64| {
            jiff::Timestamp::from_nanosecond(i128::from(ns))
                .map_or(String::new(), |it| it.to_string())
        };
        let seconds = lasted_ns as f64 / 1e9;
        Recording {
            flow,
            path: replay.path.display().to_string(),
            format: layout.format.to_string(),
            timestamp_field: layout.timestamp_field.clone(),
            speed: replay.speed.to_string(),
            rounds,
            lines: screened,
            from: span_ns.map(|(first, _)| utc(first)),
            to: span_ns.map(|(_, last)| utc(last)),
            duration_ns: lasted_ns,
            rate_per_s: (lasted_ns > 0).then(|| screened.messages as f64 / seconds),
            replayed_duration_ns: 0,
            replayed_rate_per_s: None,
            statuses: BTreeMap::new(),
            same_status: None,
            broken,
        }
    }

    /// Puts beside it what became of it.
    pub(crate) fn compare(&mut self, figures: &Figures, totals: &Totals) {
        for (&(recorded, replayed), &count) in
            totals.flows.get(self.flow).into_iter().flat_map(|flow| &flow.all.tally.counts.repeated)
        {
            let word = |status: u16| if status == 0 { "-".to_owned() } else { status.to_string() };
            let row = self.statuses.entry(word(recorded)).or_default();
            *row.entry(word(replayed)).or_default() += count;
            *self.same_status.get_or_insert(0) += if recorded == replayed { count } else { 0 };
        }
        let (duration_ns, sent) = match figures.flows.get(self.flow) {
            Some(flow) => (flow.end_ns.saturating_sub(flow.begin_ns), flow.load.sent),
            None => (figures.duration_ns, figures.load.sent),
        };
        self.replayed_duration_ns = duration_ns;
        self.replayed_rate_per_s =
            (duration_ns > 0).then(|| sent as f64 / (duration_ns as f64 / 1e9));
    }

    /// The same for people, below the tables of a summary.
    pub(crate) fn write_text(&self, out: &mut String) -> fmt::Result {
        let Screened { lines, messages, outside, below, backwards, .. } = self.lines;
        let rounds =
            if self.rounds > 1 { format!(", {} rounds", self.rounds) } else { String::new() };
        writeln!(
            out,
            "  replay     {} messages of {} lines of {} ({}) at {}{rounds}",
            thousands(messages),
            thousands(lines),
            self.path,
            self.format,
            self.speed,
        )?;
        let per_s = |per_s: Option<f64>| per_s.map_or("-".to_owned(), rate);
        writeln!(
            out,
            "             recorded in {}, {} a second; replayed in {}, {} a second",
            time(self.duration_ns),
            per_s(self.rate_per_s),
            time(self.replayed_duration_ns),
            per_s(self.replayed_rate_per_s),
        )?;
        let skipped = self.lines.bads().into_iter().chain([
            ("outside of REPLAY_FROM and REPLAY_TO", outside),
            ("below REPLAY_LEVEL", below),
        ]);
        let skipped: Vec<String> = skipped
            .filter(|(_, count)| *count > 0)
            .map(|(why, count)| format!("{} {why}", thousands(count)))
            .collect();
        if !skipped.is_empty() {
            writeln!(out, "             not sent: {}", skipped.join(", "))?;
        }
        if backwards > 0 {
            writeln!(out, "             {} behind a later one: due with it", thousands(backwards))?;
        }
        self.write_statuses(out)?;
        if let Some(broken) = &self.broken {
            writeln!(out, "             not read to its end: {broken}")?;
        }
        Ok(())
    }

    /// `recorded 200: 200 1,230, 404 5`
    fn write_statuses(&self, out: &mut String) -> fmt::Result {
        let Some(same) = self.same_status else { return Ok(()) };
        let all: u64 = self.statuses.values().flat_map(BTreeMap::values).sum();
        let (same, all) = (thousands(same), thousands(all));
        writeln!(out, "             the status was as recorded for {same} of {all} requests")?;
        for (recorded, row) in &self.statuses {
            let now: Vec<String> = row
                .iter()
                .map(|(status, count)| format!("{status} {}", thousands(*count)))
                .collect();
            writeln!(out, "               recorded {recorded:>3}, now {}", now.join(", "))?;
        }
        Ok(())
    }
}
