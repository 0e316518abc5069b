//! Submissions.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, flag, object_flag};
use gpu_broker_protocol::message::ExecbufReply;
use gpu_broker_protocol::{BufferId, ContextId};

use crate::context::Context;
use crate::error::Error;
use crate::fence::Fence;

/// A submission in the making.
///
/// Objects are listed with [`Self::object`] and, last or first, [`Self::batch`]. A builder can be
/// submitted any number of times; doing so again allocates nothing.
///
/// Unless an object is placed with [`Self::object_at`], the daemon chooses its address, which
/// [`Submission::offsets`] tells when it differs from the address the object was given.
#[derive(Debug)]
#[must_use = "nothing is submitted until `submit` is called"]
pub struct Execbuf<'a, C = Context> {
    context: &'a C,
    head: ExecbufHead,
    objects: Vec<ExecObject>,
    batch: Option<ExecObject>,
    fence: Option<BorrowedFd<'a>>,
}

/// Work the daemon accepted.
#[derive(Debug)]
pub struct Submission {
    /// GPU address of each object, in the order they were listed and the batch last; empty if
    /// every object is where the request said.
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
        Self { context, head, objects: Vec::new(), batch: None, fence: None }
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
        self
    }

    /// The batch writes the object listed last: later users of the buffer wait for it.
    pub fn write(mut self) -> Self {
        if let Some(object) = self.objects.last_mut() {
            object.flags |= object_flag::WRITE;
        }
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
        self
    }

    /// Where in its buffer the batch is, for batches listed with [`Self::object_raw`].
    pub fn batch_bytes(mut self, offset: u32, length: u32) -> Self {
        self.head.batch_start_offset = offset;
        self.head.batch_len = length;
        self
    }

    /// The work starts after this fence has signalled.
    pub fn fence_in(mut self, fence: &'a Fence) -> Self {
        self.head.flags |= flag::FENCE_IN;
        self.fence = Some(fence.as_fd());
        self
    }

    /// Asks for a fence that signals when the work is done.
    pub fn fence_out(mut self) -> Self {
        self.head.flags |= flag::FENCE_OUT;
        self
    }

    /// Adds bits of [`flag`](gpu_broker_protocol::execbuf::flag).
    pub fn flags(mut self, flags: u64) -> Self {
        self.head.flags |= flags;
        self
    }

    /// The request as it is sent: the batch comes last, and is taken off again afterwards, so that
    /// the builder can go on.
    pub(crate) fn send_with<T>(
        &mut self,
        send: impl FnOnce(&'a C, &ExecbufHead, &[ExecObject], Option<BorrowedFd<'a>>) -> T,
    ) -> T {
        let listed = self.objects.len();
        self.objects.extend(self.batch);
        let result = send(self.context, &self.head, &self.objects, self.fence);
        self.objects.truncate(listed);
        result
    }
}

impl Execbuf<'_> {
    /// Hands the work to the daemon, which answers as soon as it is queued.
    ///
    /// # Errors
    /// Refused by one of the rules of EXECBUF, for example with `context-banned` (EIO) or
    /// `no-such-buffer` (ENOENT).
    pub fn submit(&mut self) -> Result<Submission, Error> {
        let reply = self.send_with(|context, head, objects, fence| {
            context.connection().execbuf(head, objects, fence)
        })?;
        Ok(Submission::new(reply))
    }
}

impl Submission {
    pub(crate) fn new(reply: ExecbufReply<OwnedFd>) -> Self {
        Self { offsets: reply.offsets, fence: reply.fence.map(Fence::from) }
    }
}
