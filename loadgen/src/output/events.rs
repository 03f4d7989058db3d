//! `--events ndjson`: what happens, for programs, a JSON object a line on stdout.
//!
//! Every line has `event`, `run_id` and `elapsed_ns` (since the start; 0 before it):
//!
//! - `started`: `manifest`, as in the folder's manifest.json;
//! - `stage`: `flow`, `stage`, `number` (from 1), `of`, `warmup`: one that began at `elapsed_ns`, told
//!   with the second in which it did; not of flows that have only one;
//! - `second`: `second`, a row of the summary's series; `errors` and `error_rate` since the start;
//! - `warning`: `text`;
//! - `ended`, always the last: `verdict` (`null` if it never began, then `error` says why),
//!   `exit_code`, `remarks`, and `summary`, whole but for its series, which has been told.
//!
//! A line is written in one piece, when it happens. Invariant: a reader that goes away ends the
//! events, not the load; it is said, and makes the exit code 1.

use std::io::Write;
use std::sync::Arc;

use loadgen::measure::progress::Second;
use loadgen::summary::Verdict;
use loadgen::{Manifest, Summary};
use serde::Serialize;

use super::seen::Running;
use super::sink::{Crier, Ending, Place, Told};

/// The stream of events.
#[derive(Debug)]
pub(crate) struct Events<W> {
    out: W,
    crier: Crier,
    run_id: Option<String>,
    elapsed_ns: u64,
    stages: Vec<Running>,
    trouble: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    run_id: Option<&'a str>,
    elapsed_ns: u64,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Started {
        manifest: &'a Manifest,
    },
    Stage {
        flow: &'a str,
        stage: &'a str,
        number: usize,
        of: usize,
        warmup: bool,
    },
    Second {
        second: &'a Second,
        open_loop: bool,
        errors: u64,
        error_rate: f64,
    },
    Warning {
        text: &'a str,
    },
    Ended {
        verdict: Option<Verdict>,
        exit_code: u8,
        remarks: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        summary: Option<Box<Summary>>,
    },
}

impl Events<std::io::Stdout> {
    /// On stdout.
    pub(crate) fn stdout(crier: Crier) -> Self {
        Events::new(std::io::stdout(), crier)
    }
}

impl<W: Write> Events<W> {
    fn new(out: W, crier: Crier) -> Events<W> {
        Events { out, crier, run_id: None, elapsed_ns: 0, stages: Vec::new(), trouble: None }
    }

    fn write(&mut self, event: &'static str, what: What<'_>) {
        if self.trouble.is_some() {
            return;
        }
        let run_id = self.run_id.as_deref();
        let line = Line { event, run_id, elapsed_ns: self.elapsed_ns, what };
        let mut text = serde_json::to_vec(&line).expect("an event is plain data");
        text.push(b'\n');
        if let Err(error) = self.out.write_all(&text).and_then(|()| self.out.flush()) {
            let text = format!("cannot write events to stdout (EVENTS): {error}");
            self.crier.warn(&format!("{text}; the load goes on"));
            self.trouble = Some(text);
        }
    }

    /// Tells those that have begun.
    fn stages(&mut self, stages: &[Running]) {
        for running in stages {
            if self.stages.contains(running) {
                continue;
            }
            let Running { flow, stage, number, of, begin_ns, is_warmup } = running;
            self.elapsed_ns = self.elapsed_ns.max(*begin_ns);
            let what = What::Stage { flow, stage, number: *number, of: *of, warmup: *is_warmup };
            self.write("stage", what);
        }
        self.stages = stages.to_vec();
    }

    fn end(&mut self, ending: &Arc<Ending>) {
        let outcome = ending.outcome.as_ref();
        if let Some(outcome) = outcome {
            self.elapsed_ns = outcome.summary.duration_ns.max(self.elapsed_ns);
        }
        let summary = outcome
            .map(|outcome| Box::new(Summary { series: Vec::new(), ..outcome.summary.clone() }));
        let what = What::Ended {
            verdict: outcome.map(|outcome| outcome.summary.verdict),
            exit_code: ending.exit_code,
            remarks: outcome.map_or(&[], |outcome| &outcome.remarks),
            error: ending.error.as_deref(),
            summary,
        };
        self.write("ended", what);
    }
}

impl<W: Write + Send + 'static> Place for Events<W> {
    fn tell(&mut self, told: &Told) {
        match told {
            Told::Started(manifest) => {
                self.run_id = Some(manifest.run_id.clone());
                self.write("started", What::Started { manifest });
            }
            Told::Second(seen) => {
                self.stages(&seen.stages);
                self.elapsed_ns = u64::try_from(seen.elapsed.as_nanos()).unwrap_or(u64::MAX);
                let what = What::Second {
                    second: &seen.second,
                    open_loop: seen.is_open_loop,
                    errors: seen.errors,
                    error_rate: seen.error_rate,
                };
                self.write("second", what);
            }
            Told::Warning(text) => self.write("warning", What::Warning { text }),
            Told::Ended(ending) => self.end(ending),
        }
    }

    fn close(self) -> Result<(), String> {
        self.trouble.map_or(Ok(()), Err)
    }
}
