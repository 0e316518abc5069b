//! A hash for ids. The daemon hands ids out itself, lowest free first, so nobody can choose keys
//! that collide, and one multiplication per word does what SipHash takes twenty nanoseconds for.

use std::hash::{BuildHasherDefault, Hasher};

/// For maps whose keys are ids.
pub(crate) type BuildIdHasher = BuildHasherDefault<IdHasher>;

/// 2^64 divided by the golden ratio: spreads neighbouring numbers evenly.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The maps take their bucket from the low bits, where a product is weakest.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(SPREAD);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    #[test]
    fn neighbouring_ids_spread() {
        let build = BuildIdHasher::default();
        let hashes: HashSet<u64> = (0..64u64)
            .flat_map(|a| (0..64u32).map(move |b| (a, b)))
            .map(|k| build.hash_one(k))
            .collect();
        assert_eq!(hashes.len(), 64 * 64);
        let buckets: HashSet<u64> = hashes.iter().map(|hash| hash % 4096).collect();
        assert!(buckets.len() > 2000, "only {} of 4096 buckets used", buckets.len());
    }
}
