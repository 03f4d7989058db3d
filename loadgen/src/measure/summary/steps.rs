//! The steps of journeys, as the summary has them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LatencySummary;
use crate::measure::tally::StepTally;

/// One step of a journey.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepSection {
    /// Of which flow, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// Its number in the journey, from 1, as in the error codes.
    pub step: u64,
    /// Its name.
    pub name: String,
    /// Journeys that came to it: `ok` + Σ `errors`.
    pub count: u64,
    /// Of these it ended as it should.
    pub ok: u64,
    /// Of these it ended the journey, by code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// From the request to the end of the response, without the rests between steps.
    pub service: LatencySummary,
}

impl StepSection {
    /// Sums up `tally`.
    pub fn new(flow: Option<String>, step: u64, name: String, tally: &StepTally) -> StepSection {
        let count = tally.ok + tally.errors.values().sum::<u64>();
        StepSection {
            flow,
            step,
            name,
            count,
            ok: tally.ok,
            errors: tally.errors.clone(),
            // Each request is a moment of its own.
            service: LatencySummary::new(&tally.service, 0, |_| count),
        }
    }
}
