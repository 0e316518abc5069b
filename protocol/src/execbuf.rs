//! EXECBUF's fixed layout: decoded in place, without allocation, from bytes the daemon has copied.
//!
//! ```text
//! body    := fixed (48 bytes) · object (48 bytes) × buffer_count
//! fixed   := context u32 · buffer_count u32 · flags u64 · batch_start_offset u32 · batch_len u32
//!          · dr1 u32 · dr4 u32 · num_cliprects u32 · rsvd u32 × 3 (must be 0)
//! object  := handle u32 · relocation_count u32 · alignment u64 · offset u64 · flags u64
//!          · pad_to_size u64 · rsvd u64 (must be 0)
//! reply   := offset_count u32 · has_fence u32 · offset u64 × offset_count
//! ```
//! Everything is little-endian. With FENCE_IN one fd travels with the request, with FENCE_OUT one
//! with the reply.

use crate::ids::{BufferId, ContextId};
use crate::message::{ExecbufReply, FdSlot};
use crate::violation::Violation;

/// Bytes before the objects.
pub const FIXED_BYTES: usize = 48;
/// Bytes of one object.
pub const OBJECT_BYTES: usize = 48;

/// Bits of [`ExecbufHead::flags`] (`I915_EXEC_*`).
pub mod flag {
    /// Slot of the engine map, or a legacy ring.
    pub const RING_MASK: u64 = 0x3f;
    /// Obsolete constants mode.
    pub const CONSTANTS_MASK: u64 = 3 << 6;
    /// Gen7 only.
    pub const GEN7_SOL_RESET: u64 = 1 << 8;
    /// Privileged batch.
    pub const SECURE: u64 = 1 << 9;
    /// Accepted, without effect.
    pub const IS_PINNED: u64 = 1 << 10;
    /// Offsets are right: skip relocations.
    pub const NO_RELOC: u64 = 1 << 11;
    /// Relocations name list positions, not handles.
    pub const HANDLE_LUT: u64 = 1 << 12;
    /// Selects a video engine.
    pub const BSD_MASK: u64 = 3 << 13;
    /// Obsolete.
    pub const RESOURCE_STREAMER: u64 = 1 << 15;
    /// Wait for the fence fd that came along.
    pub const FENCE_IN: u64 = 1 << 16;
    /// Give a fence fd.
    pub const FENCE_OUT: u64 = 1 << 17;
    /// The batch is the first object, not the last.
    pub const BATCH_FIRST: u64 = 1 << 18;
    /// An array of syncobjs to wait for and signal.
    pub const FENCE_ARRAY: u64 = 1 << 19;
    /// Start together with the fence's work.
    pub const FENCE_SUBMIT: u64 = 1 << 20;
    /// An extension chain instead of cliprects.
    pub const USE_EXTENSIONS: u64 = 1 << 21;
    /// First bit that does not exist.
    pub const UNKNOWN: u64 = !((1 << 22) - 1);
}

/// Bits of [`ExecObject::flags`] (`EXEC_OBJECT_*`).
pub mod object_flag {
    /// Needs a fence register (tiling).
    pub const NEEDS_FENCE: u64 = 1 << 0;
    /// Needs the global GTT.
    pub const NEEDS_GTT: u64 = 1 << 1;
    /// The GPU writes the object.
    pub const WRITE: u64 = 1 << 2;
    /// May lie above 4 GiB.
    pub const SUPPORTS_48B: u64 = 1 << 3;
    /// Lies exactly at `offset`.
    pub const PINNED: u64 = 1 << 4;
    /// `pad_to_size` counts.
    pub const PAD_TO_SIZE: u64 = 1 << 5;
    /// No implicit synchronisation.
    pub const ASYNC: u64 = 1 << 6;
    /// Part of error dumps.
    pub const CAPTURE: u64 = 1 << 7;
    /// First bit that does not exist.
    pub const UNKNOWN: u64 = !((1 << 8) - 1);
}

/// Everything but the objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExecbufHead {
    /// Which context.
    pub context: u32,
    /// Bits of [`flag`].
    pub flags: u64,
    /// Where in the batch buffer the batch starts, in bytes.
    pub batch_start_offset: u32,
    /// Bytes of the batch; 0 = the rest of the buffer.
    pub batch_len: u32,
    /// Must be 0.
    pub dr1: u32,
    /// Must be 0 or 0xffffffff.
    pub dr4: u32,
    /// Must be 0 without FENCE_ARRAY.
    pub num_cliprects: u32,
}

/// One object of a submission (`struct drm_i915_gem_exec_object2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExecObject {
    /// The buffer.
    pub handle: u32,
    /// Relocations of this object.
    pub relocation_count: u32,
    /// Power of two, or 0.
    pub alignment: u64,
    /// GPU address: demanded with PINNED, else where it was or is wished.
    pub offset: u64,
    /// Bits of [`object_flag`].
    pub flags: u64,
    /// With PAD_TO_SIZE: bytes of address space to take.
    pub pad_to_size: u64,
}

impl ExecObject {
    /// The buffer's handle as a typed id.
    #[must_use]
    pub const fn buffer(&self) -> BufferId {
        BufferId(self.handle)
    }

    fn to_bytes(self) -> [u8; OBJECT_BYTES] {
        let mut bytes = [0; OBJECT_BYTES];
        bytes[0..4].copy_from_slice(&self.handle.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.relocation_count.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.alignment.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.flags.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.pad_to_size.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; OBJECT_BYTES]) -> Result<Self, Violation> {
        if u64_at(bytes, 40) != 0 {
            return Err(Violation::Malformed);
        }
        Ok(Self {
            handle: u32_at(bytes, 0),
            relocation_count: u32_at(bytes, 4),
            alignment: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            flags: u64_at(bytes, 24),
            pad_to_size: u64_at(bytes, 32),
        })
    }
}

/// A decoded EXECBUF, borrowing the copied body.
#[derive(Clone, Copy, Debug)]
pub struct Execbuf<'a> {
    /// Everything but the objects.
    pub head: ExecbufHead,
    objects: &'a [[u8; OBJECT_BYTES]],
}

impl<'a> Execbuf<'a> {
    /// Decodes a body.
    ///
    /// # Errors
    /// [`Violation::Short`] or [`Violation::Trailing`] when the length is not what the counts say,
    /// [`Violation::Malformed`] when a reserved field is not 0.
    pub fn decode(body: &'a [u8]) -> Result<Self, Violation> {
        let Some((fixed, rest)) = body.split_first_chunk::<FIXED_BYTES>() else {
            return Err(Violation::Short);
        };
        if fixed[36..48].iter().any(|byte| *byte != 0) {
            return Err(Violation::Malformed);
        }
        let (objects, tail) = rest.as_chunks::<OBJECT_BYTES>();
        let count = u32_at(fixed, 4) as usize;
        if objects.len() < count {
            return Err(Violation::Short);
        }
        if objects.len() > count || !tail.is_empty() {
            return Err(Violation::Trailing);
        }
        for object in objects {
            ExecObject::from_bytes(object)?;
        }
        let head = ExecbufHead {
            context: u32_at(fixed, 0),
            flags: u64_at(fixed, 8),
            batch_start_offset: u32_at(fixed, 16),
            batch_len: u32_at(fixed, 20),
            dr1: u32_at(fixed, 24),
            dr4: u32_at(fixed, 28),
            num_cliprects: u32_at(fixed, 32),
        };
        Ok(Self { head, objects })
    }

    /// The context as a typed id.
    #[must_use]
    pub const fn context(&self) -> ContextId {
        ContextId(self.head.context)
    }

    /// Number of objects.
    #[must_use]
    pub const fn object_count(&self) -> usize {
        self.objects.len()
    }

    /// The objects, in order.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = ExecObject> + Clone + use<'a> {
        // `decode` has been through every object, so the reserved field cannot be at fault here.
        self.objects.iter().map(|bytes| ExecObject::from_bytes(bytes).unwrap_or_default())
    }

    /// How many fds the request must carry.
    #[must_use]
    pub const fn fd_count(&self) -> usize {
        if self.head.flags & (flag::FENCE_IN | flag::FENCE_SUBMIT) != 0 { 1 } else { 0 }
    }
}

/// Appends a request's body.
pub fn encode(head: &ExecbufHead, objects: &[ExecObject], out: &mut Vec<u8>) {
    let count = u32::try_from(objects.len()).unwrap_or(u32::MAX);
    let mut fixed = [0; FIXED_BYTES];
    fixed[0..4].copy_from_slice(&head.context.to_le_bytes());
    fixed[4..8].copy_from_slice(&count.to_le_bytes());
    fixed[8..16].copy_from_slice(&head.flags.to_le_bytes());
    fixed[16..20].copy_from_slice(&head.batch_start_offset.to_le_bytes());
    fixed[20..24].copy_from_slice(&head.batch_len.to_le_bytes());
    fixed[24..28].copy_from_slice(&head.dr1.to_le_bytes());
    fixed[28..32].copy_from_slice(&head.dr4.to_le_bytes());
    fixed[32..36].copy_from_slice(&head.num_cliprects.to_le_bytes());
    out.extend_from_slice(&fixed);
    for object in objects {
        out.extend_from_slice(&object.to_bytes());
    }
}

/// Appends a reply's body.
pub fn encode_reply<Fd>(reply: &ExecbufReply<Fd>, out: &mut Vec<u8>) {
    let count = u32::try_from(reply.offsets.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&u32::from(reply.fence.is_some()).to_le_bytes());
    for offset in &reply.offsets {
        out.extend_from_slice(&offset.to_le_bytes());
    }
}

/// Decodes a reply's body.
///
/// # Errors
/// As [`Execbuf::decode`].
pub fn decode_reply(body: &[u8]) -> Result<ExecbufReply<FdSlot>, Violation> {
    let Some((fixed, rest)) = body.split_first_chunk::<8>() else {
        return Err(Violation::Short);
    };
    let (offsets, tail) = rest.as_chunks::<8>();
    let count = u32_at(fixed, 0) as usize;
    if offsets.len() < count {
        return Err(Violation::Short);
    }
    if offsets.len() > count || !tail.is_empty() {
        return Err(Violation::Trailing);
    }
    let fence = match u32_at(fixed, 4) {
        0 => None,
        1 => Some(FdSlot),
        _ => return Err(Violation::Malformed),
    };
    Ok(ExecbufReply { offsets: offsets.iter().map(|b| u64::from_le_bytes(*b)).collect(), fence })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
