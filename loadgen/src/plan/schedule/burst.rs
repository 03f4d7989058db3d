//! Short bursts, now and then.

use super::ramps::{Line, Ramps};
use crate::plan::shape::Burst;

/// Bursts over their base, as one course. Where the two have budgets of their own, each is asked
/// for alone ([`Burst::base`], [`Burst::alone`]).
pub(super) fn ramps(burst: &Burst) -> Ramps {
    let Burst { base_per_s: base, rate_per_s, lasts, every, after } = *burst;
    let peak = base + rate_per_s;
    let behind = every - after - lasts;
    Ramps::repeated([
        Line::new(after, base, base),
        Line::new(lasts, peak, peak),
        Line::new(behind, base, base),
    ])
}

#[cfg(test)]
mod tests {
    use crate::plan::schedule::NANOS;
    use crate::plan::shape::Burst;

    #[test]
    fn bursts_come_on_time_and_hold_their_rate() {
        let burst: Burst = "rate=50k,for=1s,every=10s,base=0".parse().unwrap();
        let ramps = super::ramps(&burst);
        assert_eq!(ramps.due_before(5 * NANOS), 0);
        assert_eq!((ramps.due_ns(0), ramps.due_ns(1)), (5 * NANOS, 5 * NANOS + 20_000));
        assert_eq!(ramps.due_before(6 * NANOS), 50_000);
        assert_eq!(ramps.due_ns(50_000), 15 * NANOS);
        // A year of them.
        let bursts = 365 * 8640;
        assert_eq!(ramps.due_before(bursts * 10 * NANOS), bursts * 50_000);
    }

    #[test]
    fn a_burst_rides_on_its_base() {
        let burst: Burst = "rate=9k,for=1s,every=2s,base=1k,after=0s".parse().unwrap();
        let ramps = super::ramps(&burst);
        assert_eq!(ramps.due_before(NANOS), 10_000);
        assert_eq!(ramps.due_before(2 * NANOS), 11_000);
    }
}
