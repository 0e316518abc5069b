//! What each request does: decoded here, decided by the rules, done by the device.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use gpu_broker_core::Time;
use gpu_broker_device::{Device, DeviceError, DeviceFile, FenceState as DeviceFence};
use gpu_broker_protocol::codec::MapFds as _;
use gpu_broker_protocol::execbuf::{Execbuf, flag};
use gpu_broker_protocol::message::{
    BufferMapped, BufferOf, BufferWait, Busy, ExecbufReply, Fence, FenceMerge, FenceState,
    FenceStatusQuery, Ping,
};
use gpu_broker_protocol::{BufferId, Header, Opcode, Reason, Refusal, Reply, Request, Violation};

use crate::clock::Clock;
use crate::directory::{Entry, SessionOf};
use crate::fences::FenceBook;
use crate::hands::{DeviceHands, refusal_of};
use crate::packet::Fds;
use crate::server::Server;
use crate::status;
use crate::waits::{Ended, Waits, Watch};

/// A session from HELLO on, as its connection has it.
pub(crate) struct Open<D: Device> {
    pub(crate) session: Arc<SessionOf<D>>,
    fences: FenceBook<D::File>,
    /// Most clients never wait.
    waits: Option<Box<Waits>>,
}

/// The answer to a request that was not refused.
pub(crate) enum Answer {
    Now(Reply<OwnedFd>),
    /// [`Open::poll_waits`] has it when it is time.
    Later,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The client is told no, and the session goes on.
    Refused(Refusal),
    /// The session ends.
    Violated(Violation),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        Self::Violated(violation)
    }
}

impl<F: DeviceFile> Watch for gpu_broker_core::Session<DeviceHands<F>> {
    fn watch(&self, buffer: BufferId, token: u64) -> Result<bool, Refusal> {
        self.with_buffer(buffer, |buffer, _| self.hands().file.watch_buffer(buffer, token))
    }

    fn is_busy(&self, buffer: BufferId) -> Result<bool, Refusal> {
        self.with_buffer(buffer, |buffer, _| {
            let busy = self.hands().file.buffer_busy(buffer);
            busy.readers != 0 || busy.writer.is_some()
        })
    }
}

impl<D: Device> Open<D> {
    pub(crate) fn new(session: Arc<SessionOf<D>>) -> Self {
        Self { session, fences: FenceBook::default(), waits: None }
    }

    /// The next wait that has ended.
    pub(crate) fn poll_waits(&mut self, cx: &mut Context<'_>, clock: Clock) -> Poll<(u32, Ended)> {
        match &mut self.waits {
            None => Poll::Pending,
            Some(waits) => waits.poll_finished(cx, clock),
        }
    }

    /// Watches of the device have fired.
    pub(crate) fn watches_fired(&mut self, now: Time, tokens: &[u64]) {
        if let Some(waits) = &mut self.waits {
            for token in tokens {
                waits.fired(now, *token, &*self.session);
            }
        }
    }

    /// Does what one message asks.
    ///
    /// # Errors
    /// A refusal of the rules or of the device; a violation when the message is not what its
    /// opcode says, or carries another number of fds.
    pub(crate) fn handle(
        &mut self,
        server: &Arc<Server<D>>,
        entry: &Arc<Entry<D>>,
        now: Time,
        header: Header,
        body: &[u8],
        fds: &mut Fds,
    ) -> Result<Answer, Fault> {
        if header.opcode == Opcode::Execbuf as u16 {
            let request = Execbuf::decode(body)?;
            if fds.len() != request.fd_count() {
                return Err(Violation::FdCount.into());
            }
            let reply = self.execbuf(server, now, &request, fds)?;
            return Ok(Answer::Now(Reply::Execbuf(reply)));
        }
        let request = Request::decode(header.opcode, body)?;
        let mut positions = 0..fds.len();
        let request = request.map_fds(|_| positions.next().ok_or(Violation::FdCount))?;
        if !positions.is_empty() {
            return Err(Violation::FdCount.into());
        }
        if let Request::BufferWait(wait) = &request {
            return self.buffer_wait(server, now, header.seq, wait);
        }
        self.control(server, entry, now, request, fds).map(Answer::Now)
    }

    /// Everything that is answered at once; an fd in the request is its position in `fds`.
    fn control(
        &mut self,
        server: &Arc<Server<D>>,
        entry: &Arc<Entry<D>>,
        now: Time,
        request: Request<usize>,
        fds: &mut Fds,
    ) -> Result<Reply<OwnedFd>, Fault> {
        let session = &self.session;
        Ok(match request {
            Request::Hello(_) => return Err(Violation::HelloRepeated.into()),
            Request::Ping(Ping { payload, fd }) => {
                // The only fd of the message, if there is one: it goes back as it came.
                Reply::Ping(Ping { payload, fd: fd.and_then(|_| fds.pop()) })
            }
            Request::DeviceQuery => {
                Reply::DeviceQuery(status::device_info(&server.device.description()))
            }
            Request::Status(query) => Reply::Status(status::page(server, entry.peer, now, &query)),
            Request::ContextCreate(body) => {
                Reply::ContextCreate(session.context_create(now, &body)?)
            }
            Request::ContextDestroy(body) => {
                session.context_destroy(&body)?;
                Reply::ContextDestroy
            }
            Request::ContextSetParam(body) => {
                Reply::ContextSetParam(session.context_set_param(&body)?)
            }
            Request::ContextGetParam(body) => {
                Reply::ContextGetParam(session.context_get_param(&body)?)
            }
            Request::ContextResetStats(body) => {
                Reply::ContextResetStats(session.context_reset_stats(&body)?)
            }
            Request::VmCreate(body) => Reply::VmCreate(session.vm_create(&body)?),
            Request::VmDestroy(body) => {
                session.vm_destroy(&body)?;
                Reply::VmDestroy
            }
            Request::BufferCreate(body) => Reply::BufferCreate(session.buffer_create(&body)?),
            Request::BufferMap(body) => Reply::BufferMap(self.buffer_map(&body)?),
            Request::BufferClose(body) => {
                session.buffer_close(body.buffer)?;
                if let Some(waits) = &mut self.waits {
                    waits.forget_buffer(body.buffer);
                }
                Reply::BufferClose
            }
            Request::BufferBusy(body) => Reply::BufferBusy(self.buffer_busy(&body)?),
            Request::FenceStatus(query) => Reply::FenceStatus(self.fence_status(&query, fds)?),
            Request::FenceMerge(merge) => Reply::FenceMerge(self.fence_merge(server, &merge, fds)?),
            Request::BufferWait(_) => return Err(Violation::UnknownOpcode.into()),
        })
    }

    fn execbuf(
        &mut self,
        server: &Server<D>,
        now: Time,
        request: &Execbuf<'_>,
        fds: &mut Fds,
    ) -> Result<ExecbufReply<OwnedFd>, Refusal> {
        let file = &self.session.hands().file;
        let in_fence = match fds.first() {
            None => None,
            Some(fd) => Some(file.import_fence(fd.as_fd()).map_err(|error| match error {
                DeviceError::NotAFence => Reason::ExecInFence.into(),
                DeviceError::OutOfMemory
                | DeviceError::OutOfFds
                | DeviceError::Lost
                | DeviceError::Os { .. } => refusal_of(&error),
            })?),
        };
        // A fence of ours closes at once.
        fds.clear();
        if request.head.flags & flag::FENCE_OUT != 0 {
            self.fences.reserve(file, server.config.session.fences)?;
        }
        let executed = self.session.execbuf(now, request, in_fence)?;
        let fence = match executed.fence {
            None => None,
            Some(fence) => {
                let fd = file.export_fence(&fence).map_err(|error| refusal_of(&error))?;
                self.fences.record(file, fence);
                Some(fd)
            }
        };
        Ok(ExecbufReply { offsets: executed.offsets, fence })
    }

    fn buffer_wait(
        &mut self,
        server: &Server<D>,
        now: Time,
        seq: u32,
        request: &BufferWait,
    ) -> Result<Answer, Fault> {
        let limit = server.config.session.pending_waits;
        let waits = self.waits.get_or_insert_default();
        Ok(match waits.begin(now, seq, request, limit, &*self.session)? {
            Some(waited) => Answer::Now(Reply::BufferWait(waited)),
            None => Answer::Later,
        })
    }

    fn buffer_map(&self, request: &BufferOf) -> Result<BufferMapped<OwnedFd>, Refusal> {
        let file = &self.session.hands().file;
        self.session.with_buffer(request.buffer, |buffer, size| {
            let (fd, offset) = file.share_buffer(buffer).map_err(|error| refusal_of(&error))?;
            Ok(BufferMapped { offset, size, fd })
        })?
    }

    fn buffer_busy(&self, request: &BufferOf) -> Result<Busy, Refusal> {
        let file = &self.session.hands().file;
        let busy =
            self.session.with_buffer(request.buffer, |buffer, _| file.buffer_busy(buffer))?;
        let writer = busy.writer.map_or(0, |class| u32::from(class).saturating_add(1));
        Ok(Busy { busy: u32::from(busy.readers) << 16 | writer })
    }

    fn fence_status(
        &self,
        query: &FenceStatusQuery<usize>,
        fds: &mut Fds,
    ) -> Result<FenceState, Fault> {
        let file = &self.session.hands().file;
        let fence = self.import(fds, query.fd)?;
        fds.clear();
        Ok(match file.fence_state(&fence) {
            DeviceFence::Pending => FenceState::Pending,
            DeviceFence::Signalled => FenceState::Signalled,
            DeviceFence::Failed(errno) => FenceState::Failed(errno),
        })
    }

    fn fence_merge(
        &mut self,
        server: &Server<D>,
        merge: &FenceMerge<usize>,
        fds: &mut Fds,
    ) -> Result<Fence<OwnedFd>, Fault> {
        let first = self.import(fds, merge.first)?;
        let second = self.import(fds, merge.second)?;
        fds.clear();
        let file = &self.session.hands().file;
        self.fences.reserve(file, server.config.session.fences)?;
        let merged = file.merge_fences(&first, &second);
        let fd = file.export_fence(&merged).map_err(|error| refusal_of(&error))?;
        self.fences.record(file, merged);
        Ok(Fence { fd })
    }

    fn import(&self, fds: &Fds, position: usize) -> Result<<D::File as DeviceFile>::Fence, Fault> {
        let fd = fds.get(position).ok_or(Violation::FdCount)?;
        let file = &self.session.hands().file;
        file.import_fence(fd.as_fd()).map_err(|error| refusal_of(&error).into())
    }
}
