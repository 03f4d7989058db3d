//! What one function costs, and what the whole programs do. The benchmarks are the `*.rs` files
//! beside this one; what those share that run whole programs is in [`rig`] and here.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]

pub mod rig;

/// The upper median.
///
/// # Panics
/// There is no value.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let values = sorted(values);
    values[values.len() / 2]
}

/// `median (least to most)`.
///
/// # Panics
/// There is no value.
pub fn spread(digits: usize, values: impl Iterator<Item = f64>) -> String {
    let values = sorted(values);
    let [median, least, most] = [values[values.len() / 2], values[0], values[values.len() - 1]];
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}
