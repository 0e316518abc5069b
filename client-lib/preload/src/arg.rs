//! The structure an ioctl points at, as bytes; fields are read and written at the offsets that
//! `gpu-broker-uapi` states.

use crate::errno::Outcome;
use crate::user;

/// Longer than any structure here.
const BYTES: usize = 128;

/// Offset of a field.
macro_rules! at {
    ($structure:ty, $field:ident) => {
        core::mem::offset_of!($structure, $field)
    };
}
pub(crate) use at;

/// One structure.
pub(crate) struct Arg {
    bytes: [u8; BYTES],
}

impl Arg {
    /// The first `length` bytes from `address`, and zeros: what older programs leave out is 0.
    pub(crate) fn copy(address: u64, length: usize) -> Outcome<Self> {
        let mut bytes = [0; BYTES];
        user::read(address, bytes.get_mut(..length.min(BYTES)).unwrap_or_default())?;
        Ok(Self { bytes })
    }

    pub(crate) fn zeroed() -> Self {
        Self { bytes: [0; BYTES] }
    }

    pub(crate) fn write_back(&self, address: u64, length: usize) -> Outcome<()> {
        user::write(address, self.bytes.get(..length.min(BYTES)).unwrap_or_default())
    }

    pub(crate) fn u32(&self, offset: usize) -> u32 {
        u32_at(&self.bytes, offset)
    }

    pub(crate) fn i32(&self, offset: usize) -> i32 {
        self.u32(offset).cast_signed()
    }

    pub(crate) fn u64(&self, offset: usize) -> u64 {
        u64_at(&self.bytes, offset)
    }

    pub(crate) fn i64(&self, offset: usize) -> i64 {
        self.u64(offset).cast_signed()
    }

    pub(crate) fn set_u32(&mut self, offset: usize, value: u32) {
        put(&mut self.bytes, offset, &value.to_ne_bytes());
    }

    pub(crate) fn set_i32(&mut self, offset: usize, value: i32) {
        self.set_u32(offset, value.cast_unsigned());
    }

    pub(crate) fn set_u64(&mut self, offset: usize, value: u64) {
        put(&mut self.bytes, offset, &value.to_ne_bytes());
    }
}

/// A number in a record; 0 beyond its end.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(word(bytes, offset))
}

/// As [`u16_at`].
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(word(bytes, offset))
}

/// As [`u16_at`].
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(word(bytes, offset))
}

fn word<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Writes a field of a record.
pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}
