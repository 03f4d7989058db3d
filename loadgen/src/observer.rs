//! Who watches a run from outside.
//!
//! Owns the trait and what is told at the start. Leaves files, screens and programs to whoever
//! implements it. Everything is told on the thread that called [`crate::run`]: an observer that
//! takes its time delays what it is told next, never the load.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::measure::environment::Environment;
use crate::measure::progress::Progress;
use crate::measure::summary::Tool;
use crate::measure::validity::Validity;

/// Watches a run. A closure over [`Progress`] is one.
pub trait Observer {
    /// Everything is resolved and ready, nothing has been sent. The load begins when this returns.
    fn started(&mut self, manifest: &Manifest) {
        let _ = manifest;
    }

    /// A second is over.
    fn second(&mut self, progress: &Progress<'_>);

    /// Whether [`Observer::judged`] is to follow this second: the percentiles of the whole run so
    /// far are computed for it.
    fn wants_judgement(&self) -> bool {
        false
    }

    /// Whether the run can be believed up to the second that is over; signals that only its end can
    /// give are not assessed.
    fn judged(&mut self, so_far: &Validity) {
        let _ = so_far;
    }
}

impl<F: FnMut(&Progress<'_>)> Observer for F {
    fn second(&mut self, progress: &Progress<'_>) {
        self(progress);
    }
}

/// What is known of a run before it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`crate::summary::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who measures.
    pub tool: Tool,
    /// The `run` in every message.
    pub run_id: String,
    /// What fixes payloads and jitter.
    pub seed: u64,
    /// Every knob as it was resolved.
    pub config: Config,
    /// Where it runs; what the target grants is not known yet.
    pub environment: Environment,
    /// When, UTC; the load begins once this has been told.
    pub started_at: String,
}
