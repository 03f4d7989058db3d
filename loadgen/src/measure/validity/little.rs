//! Little's law: the mean number in flight is throughput times mean time in flight, whatever the
//! distribution (Little 1961). Where that does not hold, times or counts are wrong.
//!
//! The two sides come from different sources: counters looked at now and then, and the histogram.
//! The looks are exponentially spaced, so that they see what is there on the mean and don't beat
//! with a schedule (arrivals at random see time averages, Wolff 1982).
//! Invariant: nothing here knows a single message.

/// Looks at the messages in flight on one shard, or on all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Looks {
    count: u64,
    /// How often there was anything.
    hits: u64,
    sum: f64,
    sum_of_squares: f64,
}

impl Looks {
    /// So many were in flight.
    pub fn saw(&mut self, in_flight: u64) {
        let in_flight = in_flight as f64;
        self.count += 1;
        self.hits += u64::from(in_flight > 0.0);
        self.sum += in_flight;
        self.sum_of_squares += in_flight * in_flight;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// Square of the mean's standard error.
    fn variance_of_mean(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let count = self.count as f64;
        let variance = (self.sum_of_squares - self.sum * self.sum / count) / (count - 1.0);
        variance.max(0.0) / count
    }
}

/// Both sides of Little's law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InFlight {
    /// By the looks.
    pub sampled_mean: f64,
    /// Throughput × mean time in flight.
    pub expected_mean: f64,
    /// Standard error of `sampled_mean`.
    pub error: f64,
}

/// Fewer looks than this say nothing.
const LOOKS_MIN: u64 = 30;
/// Nor do fewer messages.
const MESSAGES_MIN: u64 = 100;
/// Where there is next to nothing in flight, something has to be seen as often as this.
const HITS_MIN: u64 = 10;
/// More censored messages than this make the mean time a guess.
const CENSORED_MAX: f64 = 0.01;

/// What the messages of a run did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flights {
    /// Messages that left.
    pub count: u64,
    /// Of them, those of which the time is not known.
    pub censored: u64,
    /// Mean time from being taken up until settled, ns.
    pub mean_ns: f64,
}

impl InFlight {
    /// Compares what `shards` saw, each with the time over which it looked (ns), with the messages'
    /// own times.
    ///
    /// # Errors
    /// Why it cannot be compared.
    pub fn new(shards: &[(Looks, u64)], flights: Flights) -> Result<InFlight, String> {
        let looks = shards.iter().map(|(looks, _)| looks.count).sum::<u64>();
        if looks < LOOKS_MIN {
            return Err("the run was too short to look often enough".to_owned());
        }
        if flights.count < MESSAGES_MIN {
            return Err("too few messages".to_owned());
        }
        if flights.censored as f64 > flights.count as f64 * CENSORED_MAX {
            return Err("of too many messages only \"at least t\" is known".to_owned());
        }
        let elapsed_ns = shards.iter().map(|(_, ns)| *ns).max().unwrap_or(0).max(1) as f64;
        // A shard that ended early has nothing in flight for the rest.
        let weighted = shards.iter().map(|(looks, ns)| (looks, *ns as f64 / elapsed_ns));
        let sampled_mean = weighted.clone().map(|(looks, share)| looks.mean() * share).sum();
        let variance: f64 =
            weighted.map(|(looks, share)| looks.variance_of_mean() * share * share).sum();
        let expected_mean = flights.count as f64 * flights.mean_ns / elapsed_ns;
        let hits = shards.iter().map(|(looks, _)| looks.hits).sum::<u64>();
        if expected_mean < 1.0 && hits < HITS_MIN {
            return Err("messages were too seldom in flight to be seen".to_owned());
        }
        Ok(InFlight { sampled_mean, expected_mean, error: variance.sqrt() })
    }

    /// 1.0 where the law holds.
    pub fn ratio(&self) -> f64 {
        if self.expected_mean > 0.0 { self.sampled_mean / self.expected_mean } else { 1.0 }
    }

    /// The standard error of the ratio.
    pub fn relative_error(&self) -> f64 {
        if self.expected_mean > 0.0 { self.error / self.expected_mean } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::random::Random;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn what_is_missing_is_said() {
        let mut looks = Looks::default();
        let flights = Flights { count: 1000, censored: 0, mean_ns: 1e6 };
        let error = |looks, flights| InFlight::new(&[(looks, SECOND_NS)], flights).unwrap_err();
        assert!(error(looks, flights).contains("too short"));
        (0..100).for_each(|_| looks.saw(1));
        assert!(error(looks, Flights { count: 99, ..flights }).contains("too few"));
        assert!(error(looks, Flights { censored: 11, ..flights }).contains("at least t"));
        let told = InFlight::new(&[(looks, SECOND_NS)], flights).unwrap();
        assert_eq!((told.sampled_mean, told.expected_mean, told.error), (1.0, 1.0, 0.0));
    }

    #[test]
    fn what_is_hardly_ever_in_flight_is_not_judged_by_a_few_looks() {
        let looks = |hits| {
            let mut looks = Looks::default();
            (0..200).for_each(|n| looks.saw(u64::from(n < hits)));
            [(looks, SECOND_NS)]
        };
        let seldom = Flights { count: 1000, censored: 0, mean_ns: 50_000.0 };
        assert!(InFlight::new(&looks(9), seldom).unwrap_err().contains("too seldom"));
        assert!(InFlight::new(&looks(10), seldom).is_ok());
        // Fifty are in flight by the histogram, and nobody ever saw one.
        let often = Flights { mean_ns: 50e6, ..seldom };
        assert_eq!(InFlight::new(&looks(0), often).unwrap().ratio(), 0.0);
    }

    #[test]
    fn shards_add_up_each_for_its_time() {
        let saw = |n| {
            let mut looks = Looks::default();
            (0..50).for_each(|_| looks.saw(n));
            looks
        };
        let shards = [(saw(4), SECOND_NS), (saw(8), SECOND_NS / 2)];
        let flights = Flights { count: 800, censored: 0, mean_ns: 10e6 };
        let told = InFlight::new(&shards, flights).unwrap();
        assert_eq!((told.sampled_mean, told.expected_mean), (8.0, 8.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Messages at random with random times: looks at random see what the law says, within
        /// five standard errors and a half; and four messages missing in ten are seen.
        #[test]
        fn looks_at_random_find_the_law_to_hold(seed in any::<u64>()) {
            let mut random = Random::new(seed);
            let span_ns = 10 * SECOND_NS;
            let flights: Vec<(u64, u64)> = (0..2000)
                .map(|_| (random.below(span_ns), random.below(60_000_000)))
                .map(|(begin, length)| (begin, (begin + length).min(span_ns)))
                .collect();
            let mut looks = Looks::default();
            for _ in 0..400 {
                let at_ns = random.below(span_ns);
                let in_flight = flights.iter().filter(|(begin, end)| (*begin..*end).contains(&at_ns));
                looks.saw(in_flight.count() as u64);
            }
            let total: u64 = flights.iter().map(|(begin, end)| end - begin).sum();
            let count = flights.len() as u64;
            let flights = Flights { count, censored: 0, mean_ns: total as f64 / count as f64 };
            let told = InFlight::new(&[(looks, span_ns)], flights).unwrap();
            prop_assert!((told.ratio() - 1.0).abs() <= 5.5 * told.relative_error(), "{told:?}");
            let lossy = Flights { count: count * 6 / 10, ..flights };
            let told = InFlight::new(&[(looks, span_ns)], lossy).unwrap();
            prop_assert!(told.ratio() > 1.3, "{told:?}");
        }
    }
}
