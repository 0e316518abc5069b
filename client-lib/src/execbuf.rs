//! Submissions.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gpu_broker_protocol::execbuf::{
    ExecExtension, ExecFence, ExecObject, ExecPoint, ExecbufHead, ExecbufLists, Relocation, flag,
    object_flag,
};
use gpu_broker_protocol::message::ExecbufReply;
use gpu_broker_protocol::syncobj::flag::{FENCE_SIGNAL, FENCE_WAIT};
use gpu_broker_protocol::{BufferId, ContextId, SyncobjId};

use crate::context::Context;
use crate::error::Error;
use crate::fence::Fence;

/// A submission in the making.
///
/// Buffers are named with [`Self::object`] and, for the one with the commands, [`Self::batch`];
/// [`Self::write`] and its like say more about the buffer named last. A builder can be submitted
/// any number of times; doing so again allocates nothing.
///
/// Unless an object is placed with [`Self::object_at`], the daemon chooses its address, which
/// [`Submission::offsets`] tells when it differs from the address the object was given. A batch
/// that needs to know it is either written for a chosen address or [relocated](Self::relocate).
#[derive(Debug)]
#[must_use = "nothing is submitted until `submit` is called"]
pub struct Execbuf<'a, C = Context> {
    context: &'a C,
    head: ExecbufHead,
    objects: Vec<ExecObject>,
    batch: Option<ExecObject>,
    /// Whether the batch was named last.
    at_batch: bool,
    /// Relocations of the objects, in their order.
    relocations: Vec<Relocation>,
    batch_relocations: Vec<Relocation>,
    /// What to wait for and signal, once as a fence array and once as points of timelines:
    /// without any point the array is what is sent.
    fences: Vec<ExecFence>,
    points: Vec<ExecPoint>,
    timeline: bool,
    fence: Option<BorrowedFd<'a>>,
}

/// Work the daemon accepted.
#[derive(Debug)]
pub struct Submission {
    /// GPU address of each object, in the order they were listed and the batch last (first with
    /// [`Execbuf::batch_first`]); empty if every object is where the request said.
    pub offsets: Vec<u64>,
    /// Signals when the work is done; asked for with [`Execbuf::fence_out`].
    pub fence: Option<Fence>,
}

impl<'a, C> Execbuf<'a, C> {
    pub(crate) fn new(context: &'a C, id: ContextId) -> Self {
        let head = ExecbufHead {
            context: id.0,
            flags: flag::NO_RELOC | flag::HANDLE_LUT,
            ..ExecbufHead::default()
        };
        Self {
            context,
            head,
            objects: Vec::new(),
            batch: None,
            at_batch: false,
            relocations: Vec::new(),
            batch_relocations: Vec::new(),
            fences: Vec::new(),
            points: Vec::new(),
            timeline: false,
            fence: None,
        }
    }

    /// The slot of the engine map, or without a map a legacy ring: 0 or 1 render, 2 video, 3 copy,
    /// 4 video enhance.
    pub fn engine(mut self, slot: u32) -> Self {
        // A slot that the field cannot hold must not select another one.
        let slot = u64::from(slot).min(flag::RING_MASK);
        self.head.flags = (self.head.flags & !flag::RING_MASK) | slot;
        self
    }

    /// A buffer the batch uses, wherever it lies.
    pub fn object(self, buffer: impl Into<BufferId>) -> Self {
        self.object_raw(ExecObject {
            handle: buffer.into().0,
            flags: object_flag::SUPPORTS_48B,
            ..ExecObject::default()
        })
    }

    /// A buffer the batch uses, at exactly this GPU address: a multiple of 4096.
    pub fn object_at(self, buffer: impl Into<BufferId>, address: u64) -> Self {
        self.object_raw(ExecObject {
            handle: buffer.into().0,
            offset: address,
            flags: object_flag::PINNED | object_flag::SUPPORTS_48B,
            ..ExecObject::default()
        })
    }

    /// An object as it stands.
    pub fn object_raw(mut self, object: ExecObject) -> Self {
        self.objects.push(object);
        self.at_batch = false;
        self
    }

    /// The buffer that holds the commands, from its start.
    pub fn batch(self, buffer: impl Into<BufferId>) -> Self {
        self.batch_range(buffer, 0, 0)
    }

    /// The buffer that holds the commands at exactly this GPU address, a multiple of 4096.
    pub fn batch_at(mut self, buffer: impl Into<BufferId>, address: u64) -> Self {
        self = self.batch(buffer);
        if let Some(batch) = &mut self.batch {
            batch.offset = address;
            batch.flags |= object_flag::PINNED;
        }
        self
    }

    /// The buffer that holds the commands, in `length` bytes from `offset` on; both multiples of
    /// 8, and a length of 0 means up to the buffer's end.
    pub fn batch_range(mut self, buffer: impl Into<BufferId>, offset: u32, length: u32) -> Self {
        self = self.batch_bytes(offset, length);
        self.batch = Some(ExecObject {
            handle: buffer.into().0,
            flags: object_flag::SUPPORTS_48B,
            ..ExecObject::default()
        });
        self.batch_relocations.clear();
        self.at_batch = true;
        self
    }

    /// Where in its buffer the batch is, for batches listed with [`Self::object_raw`].
    pub fn batch_bytes(mut self, offset: u32, length: u32) -> Self {
        self.head.batch_start_offset = offset;
        self.head.batch_len = length;
        self
    }

    /// The batch comes first among the objects, not last. For batches listed with
    /// [`Self::object_raw`] it says that they do.
    pub fn batch_first(self) -> Self {
        self.flags(flag::BATCH_FIRST)
    }

    /// The batch writes the buffer named last: later users of it wait for that. Refused with
    /// `batch-written` (EINVAL) for the batch itself.
    pub fn write(self) -> Self {
        self.object_flags(object_flag::WRITE)
    }

    /// The buffer named last takes part without implicit order: nobody waits because of it.
    pub fn asynchronous(self) -> Self {
        self.object_flags(object_flag::ASYNC)
    }

    /// The buffer named last becomes part of error dumps.
    pub fn capture(self) -> Self {
        self.object_flags(object_flag::CAPTURE)
    }

    /// The buffer named last takes so many bytes of address space, a multiple of 4096.
    pub fn pad_to_size(mut self, bytes: u64) -> Self {
        if let Some(object) = self.last() {
            object.pad_to_size = bytes;
        }
        self.object_flags(object_flag::PAD_TO_SIZE)
    }

    /// Adds bits of [`object_flag`](gpu_broker_protocol::execbuf::object_flag) to the buffer named
    /// last.
    pub fn object_flags(mut self, flags: u64) -> Self {
        if let Some(object) = self.last() {
            object.flags |= flags;
        }
        self
    }

    /// Writes the GPU address of `target` plus `delta` into the buffer named last, `offset` bytes
    /// from its start (a multiple of 4), before the batch starts. The target must be named too.
    pub fn relocate(self, offset: u64, target: impl Into<BufferId>, delta: u32) -> Self {
        let target = target.into().0;
        // No address that was presumed right can be taken for granted: always written.
        let presumed_offset = u64::MAX;
        let mut this =
            self.relocation(Relocation { target, delta, offset, presumed_offset, ..NO_DOMAINS });
        this.head.flags &= !flag::HANDLE_LUT;
        this
    }

    /// A relocation of the buffer named last, as it stands. Its target is a position among the
    /// objects, unless [`Self::relocate`] is used too: then all targets are handles.
    pub fn relocation(mut self, relocation: Relocation) -> Self {
        if let Some(object) = self.last() {
            object.relocation_count = object.relocation_count.saturating_add(1);
            let list =
                if self.at_batch { &mut self.batch_relocations } else { &mut self.relocations };
            list.push(relocation);
            self.head.flags &= !flag::NO_RELOC;
        }
        self
    }

    fn last(&mut self) -> Option<&mut ExecObject> {
        if self.at_batch { self.batch.as_mut() } else { self.objects.last_mut() }
    }

    /// The work starts after this fence has signalled.
    pub fn fence_in(mut self, fence: &'a Fence) -> Self {
        self.head.flags |= flag::FENCE_IN;
        self.fence = Some(fence.as_fd());
        self
    }

    /// The work starts when the work behind this fence starts, to run beside it on another
    /// engine. Excludes [`Self::fence_in`].
    pub fn fence_submit(mut self, fence: &'a Fence) -> Self {
        self.head.flags |= flag::FENCE_SUBMIT;
        self.fence = Some(fence.as_fd());
        self
    }

    /// Asks for a fence that signals when the work is done.
    pub fn fence_out(mut self) -> Self {
        self.head.flags |= flag::FENCE_OUT;
        self
    }

    /// The work starts after the fence in this syncobj has signalled.
    pub fn wait_for(self, syncobj: impl Into<SyncobjId>) -> Self {
        self.sync(syncobj.into(), FENCE_WAIT, 0)
    }

    /// The work starts after this point of the syncobj's timeline.
    pub fn wait_for_point(mut self, syncobj: impl Into<SyncobjId>, point: u64) -> Self {
        self.timeline = true;
        self.sync(syncobj.into(), FENCE_WAIT, point)
    }

    /// The syncobj's fence becomes that of this work.
    pub fn signal(self, syncobj: impl Into<SyncobjId>) -> Self {
        self.sync(syncobj.into(), FENCE_SIGNAL, 0)
    }

    /// This work's fence becomes a point of the syncobj's timeline.
    pub fn signal_point(mut self, syncobj: impl Into<SyncobjId>, point: u64) -> Self {
        self.timeline = true;
        self.sync(syncobj.into(), FENCE_SIGNAL, point)
    }

    fn sync(mut self, syncobj: SyncobjId, flags: u32, point: u64) -> Self {
        self.fences.push(ExecFence { handle: syncobj.0, flags });
        self.points.push(ExecPoint { handle: syncobj.0, flags, point });
        self
    }

    /// Adds bits of [`flag`](gpu_broker_protocol::execbuf::flag).
    pub fn flags(mut self, flags: u64) -> Self {
        self.head.flags |= flags;
        self
    }

    /// The request as it is sent: the batch comes last or first, and is taken off again
    /// afterwards, so that the builder can go on.
    pub(crate) fn send_with<T>(
        &mut self,
        send: impl FnOnce(&'a C, &ExecbufHead, &ExecbufLists<'_>, Option<BorrowedFd<'a>>) -> T,
    ) -> T {
        let (objects, relocations) = (self.objects.len(), self.relocations.len());
        let first = self.head.flags & flag::BATCH_FIRST != 0;
        if let Some(batch) = self.batch {
            self.objects.insert(if first { 0 } else { objects }, batch);
            self.relocations.extend_from_slice(&self.batch_relocations);
        }
        // `extend` put the batch's relocations last, whatever they follow.
        let rotated = self.relocations.len() - relocations;
        if first {
            self.relocations.rotate_right(rotated);
        }
        let mut head = self.head;
        let extensions = self.extensions(&mut head);
        let lists = ExecbufLists {
            objects: &self.objects,
            relocations: &self.relocations,
            fences: if self.timeline { &[] } else { &self.fences },
            extensions: extensions.as_slice(),
            points: if self.timeline { &self.points } else { &[] },
        };
        let result = send(self.context, &head, &lists, self.fence);
        if first {
            self.relocations.rotate_left(rotated);
        }
        self.relocations.truncate(relocations);
        if self.batch.is_some() {
            self.objects.remove(if first { 0 } else { objects });
        }
        result
    }

    /// How the syncobjs are announced: as a fence array, or as one extension.
    fn extensions(&self, head: &mut ExecbufHead) -> Option<ExecExtension> {
        let count = u32::try_from(self.fences.len()).unwrap_or(u32::MAX);
        if self.timeline {
            head.flags |= flag::USE_EXTENSIONS;
            return Some(ExecExtension { entry_count: count, ..ExecExtension::default() });
        }
        if count > 0 {
            head.flags |= flag::FENCE_ARRAY;
            head.num_cliprects = count;
        }
        None
    }
}

/// A relocation that moves nothing between domains: this generation's caches need no help.
const NO_DOMAINS: Relocation = Relocation {
    target: 0,
    delta: 0,
    offset: 0,
    presumed_offset: 0,
    read_domains: 0,
    write_domain: 0,
};

impl Execbuf<'_> {
    /// Hands the work to the daemon, which answers as soon as it is queued.
    ///
    /// # Errors
    /// Refused by one of the rules of EXECBUF, for example with `context-banned` (EIO) or
    /// `no-such-buffer` (ENOENT). EMFILE from this side when there is no room for the fence; the
    /// work is queued all the same then.
    pub fn submit(&mut self) -> Result<Submission, Error> {
        let reply = self.send_with(|context, head, lists, fence| {
            context.connection().execbuf(head, lists, fence)
        })?;
        Ok(Submission::new(reply))
    }
}

impl Submission {
    pub(crate) fn new(reply: ExecbufReply<OwnedFd>) -> Self {
        Self { offsets: reply.offsets, fence: reply.fence.map(Fence::from) }
    }
}

#[cfg(test)]
mod tests {
    use gpu_broker_protocol::execbuf::{self, Execbuf as Decoded};

    use super::*;

    const CONTEXT: ContextId = ContextId(3);

    /// What the daemon would decode, sent twice: a builder that was used is as it was before.
    fn sent(mut work: Execbuf<'_, ()>) -> Sent {
        let mut packet = || {
            work.send_with(|(), head, lists, _| {
                let mut body = Vec::new();
                assert!(lists.agree());
                execbuf::encode(head, lists, &mut body);
                body
            })
        };
        let body = packet();
        assert_eq!(packet(), body, "the builder is not what it was");
        let decoded = Decoded::decode(&body).expect("it is well formed");
        Sent {
            head: decoded.head,
            objects: decoded.objects().collect(),
            fences: decoded.fences().collect(),
            extensions: decoded.extensions().collect(),
            points: decoded.points().collect(),
            relocations: decoded.relocations().collect(),
        }
    }

    struct Sent {
        head: ExecbufHead,
        objects: Vec<ExecObject>,
        fences: Vec<ExecFence>,
        extensions: Vec<ExecExtension>,
        points: Vec<ExecPoint>,
        relocations: Vec<Relocation>,
    }

    impl Sent {
        fn handles(&self) -> Vec<u32> {
            self.objects.iter().map(|object| object.handle).collect()
        }

        /// Where each object's relocations go, by handle.
        fn owners(&self) -> Vec<(u32, Vec<u64>)> {
            let mut rest = self.relocations.iter();
            let mut of = |object: &ExecObject| {
                let own = rest.by_ref().take(object.relocation_count as usize);
                (object.handle, own.map(|relocation| relocation.offset).collect())
            };
            self.objects.iter().map(&mut of).collect()
        }
    }

    fn relocated() -> Execbuf<'static, ()> {
        let work = Execbuf::new(&(), CONTEXT).object(BufferId(1)).relocate(0, BufferId(2), 4);
        let work = work.batch(BufferId(9)).relocate(8, BufferId(1), 0).relocate(16, BufferId(2), 0);
        work.object(BufferId(2)).relocate(24, BufferId(9), 0).relocate(32, BufferId(9), 0)
    }

    #[test]
    fn every_object_owns_its_relocations_wherever_the_batch_is() {
        let last = sent(relocated());
        assert_eq!(last.owners(), [(1, vec![0]), (2, vec![24, 32]), (9, vec![8, 16])]);
        let first = sent(relocated().batch_first());
        assert_eq!(first.owners(), [(9, vec![8, 16]), (1, vec![0]), (2, vec![24, 32])]);
        assert_eq!(first.head.flags & !last.head.flags, flag::BATCH_FIRST);
        // Targets are handles, and must be looked at.
        assert_eq!(last.head.flags & (flag::NO_RELOC | flag::HANDLE_LUT), 0);
        assert_eq!(last.relocations[0].target, 2);
        assert_eq!(last.relocations[0].delta, 4);
        // A new batch does not inherit the relocations of the one before.
        let other = sent(relocated().batch(BufferId(7)));
        assert_eq!(other.owners(), [(1, vec![0]), (2, vec![24, 32]), (7, vec![])]);
    }

    #[test]
    fn without_relocations_the_daemon_need_not_look() {
        let plain = sent(Execbuf::new(&(), CONTEXT).object(BufferId(1)).batch(BufferId(2)));
        assert_eq!(plain.head.flags, flag::NO_RELOC | flag::HANDLE_LUT);
        assert_eq!(plain.head.context, CONTEXT.0);
        assert_eq!(plain.handles(), [1, 2]);
        // A raw relocation names positions, so the table stays.
        let work = Execbuf::new(&(), CONTEXT).batch(BufferId(2));
        let raw = sent(work.relocation(Relocation { offset: 8, ..Relocation::default() }));
        assert_eq!(raw.head.flags, flag::HANDLE_LUT);
        // With no buffer named there is nothing to relocate.
        let none = sent(Execbuf::new(&(), CONTEXT).relocation(Relocation::default()).write());
        assert_eq!((none.relocations.len(), none.objects.len()), (0, 0));
    }

    #[test]
    fn syncobjs_are_a_fence_array_until_one_has_a_point() {
        let (first, second) = (SyncobjId(4), SyncobjId(5));
        let binary = Execbuf::new(&(), CONTEXT).batch(BufferId(1)).wait_for(first).signal(second);
        let timeline = Execbuf::new(&(), CONTEXT).wait_for(first).signal_point(second, 7);
        let binary = sent(binary);
        assert_eq!(binary.head.num_cliprects, 2);
        assert_ne!(binary.head.flags & flag::FENCE_ARRAY, 0);
        let entry = |handle, flags| ExecFence { handle, flags };
        assert_eq!(binary.fences, [entry(4, FENCE_WAIT), entry(5, FENCE_SIGNAL)]);
        assert!(binary.extensions.is_empty() && binary.points.is_empty());

        let timeline = sent(timeline);
        assert_eq!(timeline.head.num_cliprects, 0);
        let chosen = timeline.head.flags & (flag::FENCE_ARRAY | flag::USE_EXTENSIONS);
        assert_eq!(chosen, flag::USE_EXTENSIONS);
        assert!(timeline.fences.is_empty());
        assert_eq!(timeline.extensions, [ExecExtension { entry_count: 2, ..Default::default() }]);
        let entry = |handle, flags, point| ExecPoint { handle, flags, point };
        assert_eq!(timeline.points, [entry(4, FENCE_WAIT, 0), entry(5, FENCE_SIGNAL, 7)]);
    }

    #[test]
    fn what_is_said_of_a_buffer_is_said_of_the_one_named_last() {
        let work = Execbuf::new(&(), CONTEXT).object(BufferId(1)).write().pad_to_size(8192);
        let work = work.batch(BufferId(2)).asynchronous().capture();
        let work = sent(work.object_at(BufferId(3), 4096));
        let flags: Vec<u64> = work.objects.iter().map(|object| object.flags).collect();
        use object_flag::*;
        assert_eq!(work.handles(), [1, 3, 2]);
        assert_eq!(
            flags,
            [
                SUPPORTS_48B | WRITE | PAD_TO_SIZE,
                SUPPORTS_48B | PINNED,
                SUPPORTS_48B | ASYNC | CAPTURE
            ]
        );
        assert_eq!(work.objects[0].pad_to_size, 8192);
        // Slots that the field cannot hold do not select another one.
        assert_eq!(sent(Execbuf::new(&(), CONTEXT).engine(64)).head.flags & flag::RING_MASK, 63);
    }
}
