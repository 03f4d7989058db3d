//! Response, service and lag as histograms, in nanoseconds with three significant digits.
//!
//! Owns their bounds, and adding them: histograms are added, never averaged. Leaves what is recorded
//! to [`super::recorder`], percentiles to [`super::summary`].
//! Invariant: all histograms have the same bounds, so that any can be added to any.

use hdrhistogram::Histogram;

/// The longest time that a histogram tells apart, one hour; longer ones are counted there.
pub(super) const TRACKABLE_NS_MAX: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// The values of one kind of latency.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// Answered messages.
    pub values: Histogram<u64>,
    /// Messages of which only "at least t" is known, at t.
    pub censored: Histogram<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { values: histogram(), censored: histogram() }
    }
}

impl Latency {
    /// Adds the values of another shard, stage or interval.
    pub fn add(&mut self, other: &Latency) {
        add(&mut self.values, &other.values);
        add(&mut self.censored, &other.censored);
    }

    /// Forgets all values.
    fn reset(&mut self) {
        for histogram in [&mut self.values, &mut self.censored] {
            if !histogram.is_empty() {
                histogram.reset();
            }
        }
    }

    /// Nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.censored.is_empty()
    }
}

/// The three kinds of latency.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// done − due.
    pub response: Latency,
    /// done − sent.
    pub service: Latency,
    /// sent − due.
    pub lag: Latency,
}

impl Latencies {
    /// Adds the values of another shard, stage or interval.
    pub fn add(&mut self, other: &Latencies) {
        self.response.add(&other.response);
        self.service.add(&other.service);
        self.lag.add(&other.lag);
    }

    /// Forgets all values, so that it can serve again.
    pub fn reset(&mut self) {
        self.response.reset();
        self.service.reset();
        self.lag.reset();
    }

    /// Nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.response.is_empty() && self.service.is_empty() && self.lag.is_empty()
    }
}

/// An empty histogram of times in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TRACKABLE_NS_MAX, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants that fit")
}

/// Adds `other` to `sum`.
pub fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("all histograms have the same bounds");
}
