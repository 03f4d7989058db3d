//! Which cpus the engine gets, and which the generator.
//!
//! Pure. Invariant: with two cpus or more the two sets are disjoint, none is empty, and together
//! they are all that is allowed.

use serde::{Deserialize, Serialize};

/// The cpus of the two sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cores {
    pub engine: Vec<usize>,
    pub generator: Vec<usize>,
}

impl Cores {
    /// The first half of `allowed` for the engine, the rest for the generator; a single cpu is
    /// shared. The engine has the smaller half: it costs less per message than its generator.
    pub fn split(allowed: &[usize]) -> Cores {
        assert!(!allowed.is_empty(), "this thread runs somewhere");
        if let [only] = allowed {
            return Cores { engine: vec![*only], generator: vec![*only] };
        }
        let (engine, generator) = allowed.split_at(allowed.len() / 2);
        Cores { engine: engine.to_vec(), generator: generator.to_vec() }
    }

    /// The engine is elsewhere: the generator may have all that is allowed.
    pub fn all_for_the_generator(allowed: &[usize]) -> Cores {
        Cores { engine: Vec::new(), generator: allowed.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_disjoint_and_complete() {
        for count in 2..9 {
            let allowed: Vec<usize> = (0..count).map(|cpu| cpu * 3 + 1).collect();
            let Cores { engine, generator } = Cores::split(&allowed);
            assert!(!engine.is_empty() && engine.len() <= generator.len());
            assert_eq!([engine, generator].concat(), allowed);
        }
    }

    #[test]
    fn a_single_cpu_is_shared() {
        assert_eq!(Cores::split(&[5]), Cores { engine: vec![5], generator: vec![5] });
    }
}
