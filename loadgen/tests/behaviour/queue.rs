//! What theory says of the queue M/D/1: messages come independently of each other (Poisson), one
//! server takes the same time for each, in order.
//!
//! Pure. The exact distribution of the waiting time is Erlang's of 1909,
//! `P(W ≤ t) = (1−ρ) Σ (−λ(t−kD))^k/k! · e^{λ(t−kD)}`, whose terms cancel each other until nothing
//! is left of a double's digits. Computed here in Crommelin's form (1932; so in Tijms, "A First
//! Course in Stochastic Models", 9.6.2), in which every term is positive:
//! for `(k−1)D ≤ t < kD`,
//! `P(W ≤ t) = Σ_{j=0}^{k−1} Q_{k−1−j} · e^{−λ(kD−t)} (λ(kD−t))^j/j!`,
//! where `Q_n` is the probability that at most n messages wait, besides the one in service.
//! Erlang's formula, where it is exact enough, and a simulation are its oracles.

/// A queue; times are in units of the service time, which is 1.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    /// Arrivals in a service time, below 1: the share of time that the server is busy.
    load: f64,
    /// `Q_n`, as far as it differs from 1.
    waiting_at_most: Vec<f64>,
}

impl Queue {
    pub(crate) fn new(load: f64) -> Queue {
        assert!(0.0 < load && load < 1.0, "a queue that does not grow for ever");
        Queue { load, waiting_at_most: waiting_at_most(load) }
    }

    /// The probability that a message waits at most `t` before its service begins.
    pub(crate) fn waits_at_most(&self, t: f64) -> f64 {
        if t < 0.0 {
            return 0.0;
        }
        let k = t.floor() + 1.0;
        let mean = self.load * (k - t);
        let mut term = (-mean).exp();
        let mut sum = 0.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small k")]
        for j in 0..k as usize {
            let n = k as usize - 1 - j;
            sum += term * self.waiting_at_most.get(n).copied().unwrap_or(1.0);
            term *= mean / (j as f64 + 1.0);
        }
        sum
    }

    /// The quantile `q` of the response time, waiting and service.
    pub(crate) fn response(&self, q: f64) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        if self.waits_at_most(0.0) >= q {
            return 1.0;
        }
        while self.waits_at_most(high) < q {
            high *= 2.0;
        }
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if self.waits_at_most(middle) < q { low = middle } else { high = middle }
        }
        high + 1.0
    }

    /// The mean waiting time (Pollaczek and Khinchine): ρ ÷ 2(1−ρ).
    pub(crate) fn mean_wait(&self) -> f64 {
        self.load / (2.0 * (1.0 - self.load))
    }
}

/// `Q_n` for n = 0, 1, …, from the probabilities π_n that n messages are in the system:
/// `π_0 = 1−ρ` and, since as many step up over n as down, with A arrivals in a service time,
/// `π_{n+1}·P(A=0) = π_0·P(A>n) + Σ_{i=1}^{n} π_i·P(A>n+1−i)`.
fn waiting_at_most(load: f64) -> Vec<f64> {
    let none = (-load).exp();
    // P(A > n), from the small terms up: beyond A = 40 nothing is left (1/40! ≈ 10⁻⁴⁸).
    let mut more_than = [0.0; 41];
    let mut term = none;
    for n in 1..more_than.len() {
        term *= load / n as f64;
        more_than[n - 1] = term;
    }
    for n in (0..more_than.len() - 1).rev() {
        more_than[n] += more_than[n + 1];
    }
    let more_than = |n: usize| more_than.get(n).copied().unwrap_or(0.0);
    let mut states = vec![1.0 - load];
    let mut sum = states[0];
    let mut waiting = Vec::new();
    // At a load of 0.95 the states fall by a factor of 0.9 each.
    while waiting.len() < 2000 {
        let n = states.len() - 1;
        let up: f64 = (1..=n).map(|i| states[i] * more_than(n + 1 - i)).sum();
        let next = (states[0] * more_than(n) + up) / none;
        states.push(next);
        sum += next;
        waiting.push(sum);
        if next < 1e-15 {
            break;
        }
    }
    waiting
}

/// Lindley: the response times of messages that arrive at `arrivals` (in order), if each is served
/// for `service` and none before those that came earlier. Same unit as the arguments.
pub(crate) fn responses(arrivals: &[u64], service: u64) -> Vec<u64> {
    let mut free = 0;
    let serve = |&arrival: &u64| {
        free = free.max(arrival) + service;
        free - arrival
    };
    arrivals.iter().map(serve).collect()
}

/// The value at quantile `q` of what is sorted: the smallest that at least a share q reaches.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank of the slice")]
pub(crate) fn quantile(sorted: &[u64], q: f64) -> u64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadgen::plan::random::Random;

    /// Erlang's sum as it stands.
    fn erlang(load: f64, t: f64) -> f64 {
        let mut sum = 0.0;
        let mut factorial = 1.0;
        let mut k = 0.0;
        while k <= t {
            let x = load * (t - k);
            sum += (-x).powf(k) / factorial * x.exp();
            k += 1.0;
            factorial *= k;
        }
        (1.0 - load) * sum
    }

    #[test]
    fn both_formulas_agree_where_doubles_allow_it() {
        for load in [0.1, 0.5, 0.8, 0.95] {
            let queue = Queue::new(load);
            for step in 0..40 {
                let t = f64::from(step) / 4.0;
                let (crommelin, erlang) = (queue.waits_at_most(t), erlang(load, t));
                assert!((crommelin - erlang).abs() < 1e-7, "{load} {t}: {crommelin} {erlang}");
            }
        }
    }

    #[test]
    fn the_distribution_grows_to_one_and_its_mean_is_pollaczek_and_khinchines() {
        for load in [0.3, 0.8, 0.9] {
            let queue = Queue::new(load);
            assert!((queue.waits_at_most(0.0) - (1.0 - load)).abs() < 1e-12);
            let step = 0.01;
            let (mut mean, mut before) = (0.0, queue.waits_at_most(0.0));
            for n in 1..20_000 {
                let share = queue.waits_at_most(f64::from(n) * step);
                assert!((before - 1e-12..=1.0 + 1e-9).contains(&share), "{load} {n}: {share}");
                mean += (1.0 - f64::midpoint(before, share)) * step;
                before = share;
            }
            assert!((before - 1.0).abs() < 1e-9);
            assert!((mean - queue.mean_wait()).abs() < 2e-3 * queue.mean_wait(), "{load}: {mean}");
        }
    }

    #[test]
    fn a_simulation_of_a_million_messages_agrees() {
        let (load, service) = (0.8, 1_000_000u64);
        let mut random = Random::new(20_261_121);
        let mut now = 0.0;
        let arrivals: Vec<u64> = (0..1_000_000)
            .map(|_| {
                let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                now -= (1.0 - uniform).ln() / load * service as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a time"
                )]
                let arrival = now as u64;
                arrival
            })
            .collect();
        let mut responses = responses(&arrivals, service);
        responses.sort_unstable();
        let queue = Queue::new(load);
        // The messages depend on each other: a million of them are worth some ten thousand.
        for (q, tolerance) in [(0.5, 0.02), (0.9, 0.03), (0.99, 0.05), (0.999, 0.12)] {
            let (theory, seen) = (queue.response(q), quantile(&responses, q) as f64 / 1e6);
            assert!((seen / theory - 1.0).abs() < tolerance, "{q}: {theory} {seen}");
        }
    }
}
