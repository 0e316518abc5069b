//! Medians over short slices.

use std::time::Duration;

/// What a measurement came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Figure {
    /// In the unit of its metric.
    pub(super) value: f64,
    /// Against the reference measured beside it, where that makes sense.
    pub(super) ratio: Option<f64>,
}

/// Slices of one round-trip measurement, each with the reference slice measured beside it.
#[derive(Default, Debug)]
pub(super) struct Slices {
    micros: Vec<f64>,
    ratios: Vec<f64>,
}

impl Slices {
    /// Adds a slice: what one operation took in it, and what one took in the reference around it.
    pub(super) fn push(&mut self, own: Duration, reference: Duration) {
        self.micros.push(own.as_secs_f64() * 1e6);
        self.ratios.push(own.as_secs_f64() / reference.as_secs_f64());
    }

    /// How many slices there are.
    pub(super) fn len(&self) -> usize {
        self.micros.len()
    }

    /// Median microseconds and median ratio; the two need not come from the same slice. `None`
    /// without slices.
    pub(super) fn figure(&self) -> Option<Figure> {
        Some(Figure { value: median(&self.micros)?, ratio: median(&self.ratios) })
    }
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn one_disturbed_slice_does_not_move_the_figure() {
        let mut slices = Slices::default();
        for _ in 0..4 {
            slices.push(Duration::from_micros(6), Duration::from_micros(3));
        }
        slices.push(Duration::from_millis(50), Duration::from_micros(3));
        assert_eq!(slices.len(), 5);
        let figure = slices.figure().expect("there are slices");
        assert!((figure.value - 6.0).abs() < 1e-6, "{figure:?}");
        assert!((figure.ratio.expect("a ratio") - 2.0).abs() < 1e-6, "{figure:?}");
    }
}
