//! Raster operations: which bits a blit leaves in the destination.
//!
//! A raster operation is a byte. Each bit of the result comes from three bits, of the pattern (P),
//! the source (S) and the destination (D): they form the number PSD, and that bit of the byte is
//! the result. 0xcc is S, a copy; 0xf0 is P, a fill; 0xaa is D.

/// What is done with each pixel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raster {
    operation: u8,
    /// The pattern, repeated to eight bytes.
    pattern: u64,
    /// Bits that may be written, repeated to eight bytes.
    mask: u64,
}

impl Raster {
    /// A copy of every byte.
    pub(super) const COPY: Self = Self { operation: 0xcc, pattern: 0, mask: u64::MAX };

    /// `colour` is the pattern, its low bits if pixels are narrower than four bytes; `mask` the
    /// bits of a pixel of four bytes that are written, all of them for other widths.
    pub(super) fn new(operation: u8, colour: u32, pixel_bytes: i64, mask: u32) -> Self {
        let colour = u64::from(colour);
        let pattern = match pixel_bytes {
            1 => (colour & 0xff) * 0x0101_0101_0101_0101,
            2 => (colour & 0xffff) * 0x0001_0001_0001_0001,
            _ => colour | colour << 32,
        };
        let mask = u64::from(mask);
        Self { operation, pattern, mask: mask | mask << 32 }
    }

    /// Whether the result depends on the source.
    pub(super) fn reads_source(self) -> bool {
        (self.operation >> 2 ^ self.operation) & 0x33 != 0
    }

    /// Whether what is written depends on what was there.
    pub(super) fn reads_destination(self) -> bool {
        self.mask != u64::MAX || (self.operation >> 1 ^ self.operation) & 0x55 != 0
    }

    /// Whether it leaves every destination as it is.
    pub(super) fn writes_nothing(self) -> bool {
        self.mask == 0 || self.operation == 0xaa
    }

    /// Whether it is a plain copy.
    pub(super) fn is_copy(self) -> bool {
        self.operation == 0xcc && self.mask == u64::MAX
    }

    /// The colour that fills a rectangle when neither source nor destination matter.
    pub(super) fn fill(self) -> [u8; 8] {
        self.combine(0, 0).to_le_bytes()
    }

    /// Replaces `destination` by the result. Blocks start at a pixel.
    pub(super) fn apply(self, source: &[u8], destination: &mut [u8]) {
        let mut sources = source.chunks_exact(8);
        let mut destinations = destination.chunks_exact_mut(8);
        for (from, into) in sources.by_ref().zip(destinations.by_ref()) {
            into.copy_from_slice(&self.combine(qword(from), qword(into)).to_le_bytes());
        }
        let (from, into) = (sources.remainder(), destinations.into_remainder());
        let result = self.combine(qword(from), qword(into)).to_le_bytes();
        into.copy_from_slice(result.get(..into.len()).unwrap_or_default());
    }

    /// As [`Self::apply`], without a source.
    pub(super) fn apply_pattern(self, destination: &mut [u8]) {
        for into in destination.chunks_mut(8) {
            let result = self.combine(0, qword(into)).to_le_bytes();
            into.copy_from_slice(result.get(..into.len()).unwrap_or_default());
        }
    }

    #[inline]
    fn combine(self, source: u64, destination: u64) -> u64 {
        let select = |by: u64, if_set: u64, if_clear: u64| by & if_set | !by & if_clear;
        let bit = |index: u32| u64::from(self.operation >> index & 1).wrapping_neg();
        let by_destination = |low: u32| select(destination, bit(low + 1), bit(low));
        let by_source = |low: u32| select(source, by_destination(low + 2), by_destination(low));
        select(self.mask, select(self.pattern, by_source(4), by_source(0)), destination)
    }
}

/// Up to eight bytes as a number, the missing ones 0.
#[inline]
fn qword(bytes: &[u8]) -> u64 {
    if let Some(whole) = bytes.first_chunk() {
        return u64::from_le_bytes(*whole);
    }
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
