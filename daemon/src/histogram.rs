//! Times by powers of two: two relaxed additions for each.

use std::sync::atomic::{AtomicU64, Ordering};

/// The first bucket ends here: about a microsecond.
const FIRST_SHIFT: u32 = 10;
/// Buckets; the last ends at about a second, and what is longer counts in none but the total.
const BUCKETS: usize = 21;

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(crate) fn record(&self, ns: u64) {
        let bits = u64::BITS - (ns >> FIRST_SHIFT).leading_zeros();
        if let Some(count) = self.counts.get((bits as usize).min(BUCKETS)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many times there are.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Their sum, in seconds.
    pub(crate) fn sum(&self) -> f64 {
        seconds(self.sum_ns.load(Ordering::Relaxed))
    }

    /// Upper bound of each bucket in seconds, and how many times lie in it alone.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = (0..BUCKETS).map(|bucket| seconds(1 << (FIRST_SHIFT as usize + bucket)));
        let bounds = bounds.chain([f64::INFINITY]);
        bounds.zip(&self.counts).map(|(end, count)| (end, count.load(Ordering::Relaxed))).collect()
    }
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_that_it_does_not_exceed() {
        let histogram = Histogram::default();
        for ns in [0, 1023, 1024, 2047, 2048, 1 << 30, u64::from(u32::MAX)] {
            histogram.record(ns);
        }
        let buckets = histogram.buckets();
        assert_eq!(buckets.len(), BUCKETS + 1);
        assert_eq!((buckets[0].1, buckets[1].1, buckets[2].1), (2, 2, 1));
        assert_eq!(buckets[BUCKETS].1, 2, "above a second");
        assert!((buckets[0].0 - 1.024e-6).abs() < 1e-12);
        assert_eq!(histogram.count(), 7);
        assert!((histogram.sum() - 5.368_715_261).abs() < 1e-6, "{}", histogram.sum());
    }
}
