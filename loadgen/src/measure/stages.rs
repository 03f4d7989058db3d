//! What a run is divided into: flows side by side, each of stages one after the other.
//!
//! Owns the names and times that every figure is filed under; a shard's recorder knows stages by
//! their index only. Leaves what happens in a stage to the plan.
//! Invariant: the stages of a flow touch, ascend in time, and only the first may be a warm-up.

use serde::{Deserialize, Serialize};

/// A flow, as far as figures are concerned: its name and stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPlan {
    /// Unique in its run.
    pub name: String,
    /// At least one.
    pub stages: Vec<Stage>,
}

/// A stretch of a flow's schedule. A message belongs to the stage in which it is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Unique in its flow.
    pub name: String,
    /// When it begins, ns since the start of the run.
    pub begin_ns: u64,
    /// When the next one begins, or load ends; `None` where only the run's end tells.
    pub end_ns: Option<u64>,
    /// Not measured: counted in no load, latency or rate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_warmup: bool,
}

impl FlowPlan {
    /// One whose only stage is all of it.
    pub fn of_one_stage(name: &str, end_ns: Option<u64>) -> FlowPlan {
        let stage = Stage { name: name.to_owned(), begin_ns: 0, end_ns, is_warmup: false };
        FlowPlan { name: name.to_owned(), stages: vec![stage] }
    }

    /// The stage in which a message that is due at `at_ns` belongs.
    pub fn stage_at(&self, at_ns: u64) -> usize {
        self.stages.partition_point(|stage| stage.begin_ns <= at_ns).saturating_sub(1)
    }

    /// When the warm-up ends; 0 without one.
    pub fn warmup_ns(&self) -> u64 {
        let warmup = self.stages.first().filter(|stage| stage.is_warmup);
        warmup.and_then(|stage| stage.end_ns).unwrap_or(0)
    }

    /// When its load ends, where the schedule tells.
    pub fn end_ns(&self) -> Option<u64> {
        self.stages.last().and_then(|stage| stage.end_ns)
    }

    /// How many stages there are beside a warm-up.
    pub fn measured(&self) -> usize {
        self.stages.iter().filter(|stage| !stage.is_warmup).count()
    }

    /// # Panics
    /// When the module's invariant does not hold.
    pub fn check(&self) {
        assert!(!self.stages.is_empty(), "flow {} has no stage", self.name);
        for (index, stage) in self.stages.iter().enumerate() {
            assert!(index == 0 || !stage.is_warmup, "only the first stage is a warm-up");
            let next = self.stages.get(index + 1);
            assert!(
                next.is_none_or(|next| stage.end_ns == Some(next.begin_ns)),
                "stage {} of flow {} does not touch the next one",
                stage.name,
                self.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_belongs_to_the_stage_in_which_it_is_due() {
        let stage = |name: &str, begin_ns, end_ns, is_warmup| Stage {
            name: name.into(),
            begin_ns,
            end_ns,
            is_warmup,
        };
        let stages = vec![
            stage("warmup", 0, Some(10), true),
            stage("a", 10, Some(20), false),
            stage("b", 20, None, false),
        ];
        let flow = FlowPlan { name: "main".into(), stages };
        flow.check();
        assert_eq!([0, 9, 10, 19, 20, 1000].map(|at_ns| flow.stage_at(at_ns)), [0, 0, 1, 1, 2, 2]);
        assert_eq!((flow.warmup_ns(), flow.end_ns()), (10, None));
        let flow = FlowPlan::of_one_stage("main", Some(7));
        assert_eq!((flow.stage_at(9), flow.warmup_ns(), flow.end_ns()), (0, 0, Some(7)));
    }
}
