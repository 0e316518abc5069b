//! EXECBUF's fixed layout: decoded in place, without allocation, from bytes the daemon has copied.
//!
//! ```text
//! body       := fixed · object × buffer_count · fence × fence_count · extension × extension_count
//!             · point × (sum of the extensions' entry_count) · relocation × relocation_count
//! fixed      := context u32 · buffer_count u32 · flags u64 · batch_start_offset u32
//!             · batch_len u32 · dr1 u32 · dr4 u32 · num_cliprects u32 · fence_count u32
//!             · extension_count u32 · relocation_count u32                          (48 bytes)
//! object     := handle u32 · relocation_count u32 · alignment u64 · offset u64 · flags u64
//!             · pad_to_size u64 · rsvd u64 (must be 0)                              (48 bytes)
//! fence      := handle u32 · flags u32                                               (8 bytes)
//! extension  := name u32 · flags u32 · rsvd u32 × 4 · fence_flags u64 · entry_count u32
//!             · rsvd u32 (must be 0)                                                (40 bytes)
//! point      := handle u32 · flags u32 · point u64                                  (16 bytes)
//! relocation := target u32 · delta u32 · offset u64 · presumed_offset u64 · read_domains u32
//!             · write_domain u32                                                    (32 bytes)
//! reply      := offset_count u32 · has_fence u32 · offset u64 × offset_count
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
/// Bytes of one entry of a fence array.
pub const FENCE_BYTES: usize = 8;
/// Bytes of one extension node.
pub const EXTENSION_BYTES: usize = 40;
/// Bytes of one timeline point.
pub const POINT_BYTES: usize = 16;
/// Bytes of one relocation.
pub const RELOCATION_BYTES: usize = 32;

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

/// One entry of a fence array (`struct drm_i915_gem_exec_fence`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExecFence {
    /// The syncobj.
    pub handle: u32,
    /// Bits FENCE_* of [`crate::syncobj::flag`].
    pub flags: u32,
}

/// One node of the extension chain, without its points.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExecExtension {
    /// 0 is TIMELINE_FENCES; others EINVAL.
    pub name: u32,
    /// Must be 0.
    pub flags: u32,
    /// Must be 0.
    pub rsvd: [u32; 4],
    /// The extension's own flags; must be 0.
    pub fence_flags: u64,
    /// How many of the points belong to this node.
    pub entry_count: u32,
}

/// One point of a timeline to wait for or signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExecPoint {
    /// The syncobj.
    pub handle: u32,
    /// Bits FENCE_* of [`crate::syncobj::flag`].
    pub flags: u32,
    /// The point; 0 for a binary object.
    pub point: u64,
}

/// `struct drm_i915_gem_relocation_entry`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Relocation {
    /// Handle of the object pointed at, or with HANDLE_LUT its position in the list.
    pub target: u32,
    /// Added to the target's address.
    pub delta: u32,
    /// Where in its object the address goes, in bytes.
    pub offset: u64,
    /// The address of the target that is written there already.
    pub presumed_offset: u64,
    /// GPU domains.
    pub read_domains: u32,
    /// One GPU domain, or 0.
    pub write_domain: u32,
}

/// The lists of an EXECBUF, for [`encode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExecbufLists<'a> {
    /// Everything the batches use.
    pub objects: &'a [ExecObject],
    /// With FENCE_ARRAY.
    pub fences: &'a [ExecFence],
    /// With USE_EXTENSIONS.
    pub extensions: &'a [ExecExtension],
    /// The extensions' points, in their order.
    pub points: &'a [ExecPoint],
    /// The objects' relocations, in their order.
    pub relocations: &'a [Relocation],
}

impl ExecbufLists<'_> {
    /// Bytes of the body they make with a head.
    #[must_use]
    pub const fn body_bytes(&self) -> usize {
        let wide = self.objects.len() * OBJECT_BYTES + self.relocations.len() * RELOCATION_BYTES;
        let fences = self.fences.len() * FENCE_BYTES + self.points.len() * POINT_BYTES;
        FIXED_BYTES + wide + fences + self.extensions.len() * EXTENSION_BYTES
    }

    /// Whether the extensions own exactly the points there are. Nothing could take lists apart
    /// that do not agree.
    #[must_use]
    pub fn agree(&self) -> bool {
        let owned = self.extensions.iter().map(|extension| u64::from(extension.entry_count));
        owned.sum::<u64>() == self.points.len() as u64
    }
}

/// A decoded EXECBUF, borrowing the copied body.
#[derive(Clone, Copy, Debug)]
pub struct Execbuf<'a> {
    /// Everything but the lists.
    pub head: ExecbufHead,
    objects: &'a [[u8; OBJECT_BYTES]],
    fences: &'a [[u8; FENCE_BYTES]],
    extensions: &'a [[u8; EXTENSION_BYTES]],
    points: &'a [[u8; POINT_BYTES]],
    relocations: &'a [[u8; RELOCATION_BYTES]],
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
        let (objects, rest) = take::<OBJECT_BYTES>(rest, u32_at(fixed, 4))?;
        for object in objects {
            ExecObject::from_bytes(object)?;
        }
        let (fences, rest) = take::<FENCE_BYTES>(rest, u32_at(fixed, 36))?;
        let (extensions, rest) = take::<EXTENSION_BYTES>(rest, u32_at(fixed, 40))?;
        let mut point_count = 0_u32;
        for extension in extensions {
            if u32_at(extension, 36) != 0 {
                return Err(Violation::Malformed);
            }
            point_count = point_count.checked_add(u32_at(extension, 32)).ok_or(Violation::Short)?;
        }
        let (points, rest) = take::<POINT_BYTES>(rest, point_count)?;
        let (relocations, rest) = take::<RELOCATION_BYTES>(rest, u32_at(fixed, 44))?;
        if !rest.is_empty() {
            return Err(Violation::Trailing);
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
        Ok(Self { head, objects, fences, extensions, points, relocations })
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

    /// Entries of the fence array, in order.
    pub fn fences(&self) -> impl ExactSizeIterator<Item = ExecFence> + Clone + use<'a> {
        self.fences.iter().map(|b| ExecFence { handle: u32_at(b, 0), flags: u32_at(b, 4) })
    }

    /// Extension nodes, in order.
    pub fn extensions(&self) -> impl ExactSizeIterator<Item = ExecExtension> + Clone + use<'a> {
        self.extensions.iter().map(|b| ExecExtension {
            name: u32_at(b, 0),
            flags: u32_at(b, 4),
            rsvd: [u32_at(b, 8), u32_at(b, 12), u32_at(b, 16), u32_at(b, 20)],
            fence_flags: u64_at(b, 24),
            entry_count: u32_at(b, 32),
        })
    }

    /// The extensions' points, in their order.
    pub fn points(&self) -> impl ExactSizeIterator<Item = ExecPoint> + Clone + use<'a> {
        self.points.iter().map(|b| ExecPoint {
            handle: u32_at(b, 0),
            flags: u32_at(b, 4),
            point: u64_at(b, 8),
        })
    }

    /// The objects' relocations, in their order: each object owns the next `relocation_count` of
    /// them. That the objects' counts add up to this list is the caller's to check; it is a rule
    /// that is refused, not a breach of the layout.
    pub fn relocations(&self) -> impl ExactSizeIterator<Item = Relocation> + Clone + use<'a> {
        self.relocations.iter().map(|b| Relocation {
            target: u32_at(b, 0),
            delta: u32_at(b, 4),
            offset: u64_at(b, 8),
            presumed_offset: u64_at(b, 16),
            read_domains: u32_at(b, 24),
            write_domain: u32_at(b, 28),
        })
    }

    /// How many fds the request must carry.
    #[must_use]
    pub const fn fd_count(&self) -> usize {
        if self.head.flags & (flag::FENCE_IN | flag::FENCE_SUBMIT) != 0 { 1 } else { 0 }
    }
}

/// The first `count` records of `N` bytes, and what follows them.
fn take<const N: usize>(bytes: &[u8], count: u32) -> Result<(&[[u8; N]], &[u8]), Violation> {
    let length = (count as usize).checked_mul(N).ok_or(Violation::Short)?;
    let (records, rest) = bytes.split_at_checked(length).ok_or(Violation::Short)?;
    Ok((records.as_chunks::<N>().0, rest))
}

fn count_of<T>(list: &[T]) -> [u8; 4] {
    u32::try_from(list.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// Appends a request's body. The lists are written as they stand; see [`ExecbufLists::agree`].
pub fn encode(head: &ExecbufHead, lists: &ExecbufLists<'_>, out: &mut Vec<u8>) {
    let mut fixed = [0; FIXED_BYTES];
    fixed[0..4].copy_from_slice(&head.context.to_le_bytes());
    fixed[4..8].copy_from_slice(&count_of(lists.objects));
    fixed[8..16].copy_from_slice(&head.flags.to_le_bytes());
    fixed[16..20].copy_from_slice(&head.batch_start_offset.to_le_bytes());
    fixed[20..24].copy_from_slice(&head.batch_len.to_le_bytes());
    fixed[24..28].copy_from_slice(&head.dr1.to_le_bytes());
    fixed[28..32].copy_from_slice(&head.dr4.to_le_bytes());
    fixed[32..36].copy_from_slice(&head.num_cliprects.to_le_bytes());
    fixed[36..40].copy_from_slice(&count_of(lists.fences));
    fixed[40..44].copy_from_slice(&count_of(lists.extensions));
    fixed[44..48].copy_from_slice(&count_of(lists.relocations));
    out.extend_from_slice(&fixed);
    for object in lists.objects {
        out.extend_from_slice(&object.to_bytes());
    }
    for fence in lists.fences {
        put_u32s(out, &[fence.handle, fence.flags]);
    }
    for extension in lists.extensions {
        put_u32s(out, &[extension.name, extension.flags]);
        put_u32s(out, &extension.rsvd);
        out.extend_from_slice(&extension.fence_flags.to_le_bytes());
        put_u32s(out, &[extension.entry_count, 0]);
    }
    for point in lists.points {
        put_u32s(out, &[point.handle, point.flags]);
        out.extend_from_slice(&point.point.to_le_bytes());
    }
    for relocation in lists.relocations {
        put_u32s(out, &[relocation.target, relocation.delta]);
        out.extend_from_slice(&relocation.offset.to_le_bytes());
        out.extend_from_slice(&relocation.presumed_offset.to_le_bytes());
        put_u32s(out, &[relocation.read_domains, relocation.write_domain]);
    }
}

fn put_u32s(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
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

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
