//! Nodes that are good by their own expectation and far below their fleet: an expectation is a table's, or a link's rate, and a fleet that
//! does better than it says so.

/// Fewer values than this say nothing of what is usual.
const FEWEST: usize = 8;
/// Nearer to the median than this is no finding, however alike the others are.
const NEAR: f64 = 0.9;
/// So many standard deviations below the median: of a thousand fleets of good nodes one has a false finding, at the most (test).
const DEVIATIONS: f64 = 5.0;
/// From the median absolute deviation to the standard deviation of a normal distribution.
const NORMAL: f64 = 1.4826;

/// What is usual among values, measured so that a few bad ones do not move it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    /// Median.
    pub median: f64,
    /// Standard deviation, by the median absolute deviation.
    pub deviation: f64,
}

impl Usual {
    /// Of values of any unit, all finite; `None` where they are too few.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.len() < FEWEST {
            return None;
        }
        let median = median(values.to_vec())?;
        let deviation = NORMAL * median_of_distances(values, median)?;
        Some(Self { median, deviation })
    }

    /// Whether a value is far below the others: by a share that matters and by a distance that is no accident.
    pub fn leaves_behind(self, value: f64) -> bool {
        value < self.median * NEAR && value < self.median - DEVIATIONS * self.deviation
    }
}

fn median_of_distances(values: &[f64], from: f64) -> Option<f64> {
    median(values.iter().map(|value| (value - from).abs()).collect())
}

/// The upper one of two in the middle.
pub fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in 0..1, always the same.
    struct Dice(u64);

    impl Dice {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are kept on purpose")]
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Normal, by the sum of twelve.
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.next()).sum::<f64>() - 6.0
        }
    }

    #[test]
    fn few_values_say_nothing_and_a_narrow_fleet_has_no_findings_near_its_median() {
        assert_eq!(Usual::of(&[47.0; 7]), None);
        let usual = Usual::of(&[47.0; 8]).unwrap();
        assert!(!usual.leaves_behind(45.0), "the others are all alike, and it is near");
        assert!(usual.leaves_behind(40.0));
        // As many bad ones as may be do not move what is usual.
        let mixed = [47.0, 46.5, 47.2, 46.8, 47.1, 30.0, 30.0, 30.0];
        let usual = Usual::of(&mixed).unwrap();
        assert!(usual.leaves_behind(30.0) && mixed[..5].iter().all(|value| !usual.leaves_behind(*value)), "{usual:?}");
    }

    #[test]
    fn a_wide_fleet_has_no_finding_where_a_narrow_one_has() {
        let narrow: Vec<f64> = (0..16).map(|place| 47.0 + f64::from(place % 4) * 0.1).collect();
        let wide: Vec<f64> = (0..16).map(|place| 40.0 + f64::from(place % 8) * 2.0).collect();
        assert!(Usual::of(&narrow).unwrap().leaves_behind(38.0));
        assert!(!Usual::of(&wide).unwrap().leaves_behind(38.0));
    }

    /// What the bounds are worth: fleets of good nodes with this spread, and one node among them that lost a quarter.
    #[test]
    fn false_findings_are_rare_and_a_node_that_lost_a_quarter_is_found() {
        let mut dice = Dice(7);
        for (nodes, spread, fewest_found) in [(8, 0.02, 950), (64, 0.02, 999), (64, 0.04, 800), (1000, 0.03, 990)] {
            let (fleets, mut false_fleets, mut found) = (1000, 0, 0);
            for _ in 0..fleets {
                let mut fleet: Vec<f64> = (0..nodes).map(|_| 47.0 * (1.0 + spread * dice.normal())).collect();
                fleet[0] *= 0.75;
                let usual = Usual::of(&fleet).unwrap();
                found += u32::from(usual.leaves_behind(fleet[0]));
                false_fleets += u32::from(fleet[1..].iter().any(|value| usual.leaves_behind(*value)));
            }
            println!("{nodes} nodes, spread {spread}: {found} of {fleets} found, {false_fleets} with a false finding");
            assert!(found >= fewest_found, "{nodes} {spread}: {found}");
            assert!(false_fleets <= 1, "{nodes} {spread}: {false_fleets}");
        }
    }
}
