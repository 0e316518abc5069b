//! Work for a context.

use crate::{DeviceFile, EngineId, Outcome};

/// Work for a context.
#[derive(Debug)]
pub struct Submission<'a, F: DeviceFile + ?Sized> {
    /// Slot of the engine map, or index into the legacy map; what it resolves to is `placement`.
    pub slot: u32,
    /// The engines it may run on.
    pub placement: Placement<'a>,
    /// One batch, or `width` of them for a parallel slot.
    pub batches: &'a [Batch],
    /// Everything the batches use, batches included.
    pub objects: &'a [Object<'a, F::Buffer>],
    /// Start after these.
    pub after: &'a [F::Fence],
    /// Start together with these: once their work has started (FENCE_SUBMIT).
    pub along: &'a [F::Fence],
    /// Put the request's fence into these, at these points, also when the request is lost.
    pub signals: &'a [(F::Syncobj, u64)],
    /// Written to the objects right before the batches start (relocations).
    pub patches: &'a [Patch],
    /// Whether the caller wants [`Submitted::fence`].
    pub want_fence: bool,
}

/// Where a submission may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement<'a> {
    /// One engine.
    One(EngineId),
    /// Any of these.
    AnyOf(&'a [EngineId]),
    /// Batch i on engine i, started together.
    Parallel(&'a [EngineId]),
}

/// Where a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// GPU address of the first command.
    pub address: u64,
    /// Bytes.
    pub length: u64,
}

/// A buffer at an address.
#[derive(Debug)]
pub struct Object<'a, B> {
    /// The memory.
    pub buffer: &'a B,
    /// GPU address, page aligned, not canonical (bits 63:48 are 0).
    pub address: u64,
    /// Bytes of the buffer.
    pub size: u64,
    /// The binding is new in the address space; it replaces whatever it overlaps.
    pub fresh: bool,
    /// The GPU writes it.
    pub write: bool,
    /// No implicit ordering.
    pub asynchronous: bool,
    /// Part of error dumps.
    pub capture: bool,
}

/// A relocation to carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Position in [`Submission::objects`].
    pub object: usize,
    /// Where in the object, in bytes; the eight bytes lie inside it.
    pub offset: u64,
    /// A canonical GPU address.
    pub value: u64,
}

/// What became of a submission.
#[derive(Debug)]
pub struct Submitted<Fence> {
    /// Its completion, if wanted.
    pub fence: Option<Fence>,
    /// `Some` if it completed before `submit` returned; no event follows then.
    pub done: Option<Outcome>,
}
