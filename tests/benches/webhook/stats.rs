//! What is said about many measurements.

use std::time::Duration;

/// Latencies of one round.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that this share of them, in thousandths, does not exceed; in milliseconds.
    pub(crate) fn at(&self, thousandth: usize) -> f64 {
        let place = (self.0.len() * thousandth).div_ceil(1000).max(1) - 1;
        self.0.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// The median of some rounds' values, with the least and the greatest.
pub(crate) fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return "-".into() };
    format!("{:.3} ({least:.3}–{most:.3})", median(&sorted))
}

/// The least, the median and the greatest.
pub(crate) fn ends(values: &[f64]) -> [f64; 3] {
    let least = values.iter().copied().fold(f64::NAN, f64::min);
    let most = values.iter().copied().fold(f64::NAN, f64::max);
    [least, median(values), most]
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}
