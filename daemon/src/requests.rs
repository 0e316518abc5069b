//! What each request does: decoded here, decided by the rules, done by the device.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use gpu_broker_core::{Capabilities, Time};
use gpu_broker_device::{Device, DeviceError, DeviceFile};
use gpu_broker_protocol::codec::MapFds as _;
use gpu_broker_protocol::execbuf::{Execbuf, flag};
use gpu_broker_protocol::limits::RELOCATIONS_PER_EXECBUF_MAX;
use gpu_broker_protocol::message::{
    BufferOf, Busy, ContextDestroy, DeviceInfo, ExecbufReply, Ping,
};
use gpu_broker_protocol::shared_status::SharedStatus;
use gpu_broker_protocol::{Header, Opcode, Reason, Refusal, Reply, Request, Violation};

use crate::admin;
use crate::clock::Clock;
use crate::config::SessionConfig;
use crate::directory::{Entry, Fired, SessionOf};
use crate::fences::FenceBook;
use crate::hands::refusal_of;
use crate::hangs::Viewer;
use crate::lists::Shelf;
use crate::packet::Fds;
use crate::server::Server;
use crate::status;
use crate::waits::{Ended, Waits};

/// A session from HELLO on, as its connection has it.
pub(crate) struct Open<D: Device> {
    pub(crate) session: Arc<SessionOf<D>>,
    pub(crate) fences: FenceBook<D::File>,
    /// Most clients never wait.
    pub(crate) waits: Option<Box<Waits>>,
    /// The device as this session sees it.
    pub(crate) capabilities: Arc<Capabilities>,
    /// As HELLO told it.
    pub(crate) fences_max: u32,
    pub(crate) waits_max: u32,
    /// What fired while a request was at the device, whose locks must not be waited for.
    late: Vec<Fired>,
    /// Most clients have none.
    pub(crate) lists: Option<Arc<Shelf>>,
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

impl<D: Device> Open<D> {
    pub(crate) fn new(
        session: Arc<SessionOf<D>>,
        capabilities: Arc<Capabilities>,
        limits: &SessionConfig,
    ) -> Self {
        Self {
            session,
            fences: FenceBook::default(),
            waits: None,
            late: Vec::new(),
            lists: None,
            capabilities,
            fences_max: limits.fences,
            waits_max: limits.pending_waits,
        }
    }

    /// The next wait that has ended.
    pub(crate) fn poll_waits(&mut self, cx: &mut Context<'_>, clock: Clock) -> Poll<Ended> {
        match &mut self.waits {
            None => Poll::Pending,
            Some(waits) => waits.poll_finished(cx, clock, &*self.session),
        }
    }

    /// What a request at the device needs; [`Self::take_back`] ends it. Waits stay here.
    pub(crate) fn lend(&mut self) -> Self {
        let fences = std::mem::take(&mut self.fences);
        Self {
            session: Arc::clone(&self.session),
            fences,
            waits: None,
            late: Vec::new(),
            lists: self.lists.clone(),
            capabilities: Arc::clone(&self.capabilities),
            ..*self
        }
    }

    /// The request is done; its fences are ours again, and what fired meanwhile is looked at.
    pub(crate) fn take_back(&mut self, lent: Self, now: Time) {
        self.fences = lent.fences;
        self.lists = lent.lists;
        let late = std::mem::take(&mut self.late);
        self.watches_fired(now, &late);
    }

    /// Watches of the device have fired while a request is at the device.
    pub(crate) fn watches_fired_meanwhile(&mut self, now: Time, fired: &[Fired]) {
        if let Some(waits) = &mut self.waits {
            for fired in fired {
                waits.settle_watch(now, fired.token, fired.first);
                self.late.push(*fired);
            }
        }
    }

    /// A handle was closed while its waits stayed here.
    pub(crate) fn buffer_closed(&mut self, body: &[u8]) {
        if let (Some(waits), Ok(Request::BufferClose(closed))) =
            (&mut self.waits, Request::decode(Opcode::BufferClose as u16, body))
        {
            waits.forget_buffer(closed.buffer);
        }
    }

    /// Watches of the device have fired.
    pub(crate) fn watches_fired(&mut self, now: Time, fired: &[Fired]) {
        if let Some(waits) = &mut self.waits {
            for Fired { token, first } in fired {
                waits.fired(now, *token, *first, &*self.session);
            }
        }
    }

    /// The client is gone: nothing of it is waited for or kept. `revoked`: its work ends at once,
    /// otherwise that of persistent contexts goes on.
    pub(crate) fn close(&mut self, revoked: bool) {
        if let Some(waits) = &mut self.waits {
            waits.cancel(&*self.session);
        }
        if revoked { self.session.revoke() } else { self.session.close() }
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
            let reply = self.execbuf(now, &request, fds)?;
            return Ok(Answer::Now(Reply::Execbuf(reply)));
        }
        if header.opcode == Opcode::ExecbufList as u16 {
            let reply = self.execbuf_list(server, entry, now, body, fds)?;
            return Ok(Answer::Now(Reply::ExecbufList(reply)));
        }
        let request = Request::decode(header.opcode, body)?;
        let mut positions = 0..fds.len();
        let request = request.map_fds(|_| positions.next().ok_or(Violation::FdCount))?;
        if !positions.is_empty() {
            return Err(Violation::FdCount.into());
        }
        self.control(server, entry, now, header.seq, request, fds)
    }

    /// Everything but EXECBUF; an fd in the request is its position in `fds`.
    fn control(
        &mut self,
        server: &Arc<Server<D>>,
        entry: &Arc<Entry<D>>,
        now: Time,
        seq: u32,
        request: Request<usize>,
        fds: &mut Fds,
    ) -> Result<Answer, Fault> {
        // Short, so that this is a table.
        use {Reply as R, Request as Q};
        let s = &*self.session;
        let (hangs, viewer) = (&server.books.hangs, || Viewer::of(&entry.identity));
        Ok(Answer::Now(match request {
            Q::Hello(_) => return Err(Violation::HelloRepeated.into()),
            // The only fd of the message, if there is one: it goes back as it came.
            Q::Ping(b) => R::Ping(Ping { payload: b.payload, fd: b.fd.and_then(|_| fds.pop()) }),
            Q::DeviceQuery => R::DeviceQuery(self.device_info(server)),
            Q::Status(b) => R::Status(status::page(server, entry, now, &b)),
            Q::Confinement => R::Confinement(server.confinement()),
            Q::Usage(b) => R::Usage(status::usage(server, entry, &b)?),
            Q::Identity(b) => R::Identity(status::identity_for(server, entry, &b)?),
            Q::AdminDrain(b) => R::AdminDrain(admin::drain(server, entry, b)?),
            Q::AdminRevoke(b) => done(admin::revoke(server, entry, b), R::AdminRevoke)?,
            Q::AdminLimit(b) => R::AdminLimit(admin::limit(server, entry, &b)?),
            Q::AdminClasses => R::AdminClasses(admin::classes(server, entry)?),
            Q::AdminList(b) => R::AdminList(admin::list(server, entry, now, b)?),
            Q::AdminInspect(b) => R::AdminInspect(admin::inspect(server, entry, now, b)?),
            Q::AdminEvents(b) => done(admin::subscribe(server, entry, b), R::AdminEvents)?,
            Q::AdminListen(b) => done(admin::listen(server, entry, b, fds), R::AdminListen)?,
            Q::AdminListeners => R::AdminListeners(admin::listeners(server, entry)?),
            Q::AdminTrace(b) => R::AdminTrace(admin::trace(server, entry, b)?),
            Q::AdminTraceRead(b) => R::AdminTraceRead(admin::trace_read(server, entry, b)?),
            Q::GetParam(b) => R::GetParam(s.get_param(&b)?),
            Q::Query(b) => R::Query(s.query(&b)?),
            Q::GetAperture => R::GetAperture(s.aperture()),
            Q::Throttle => return Ok(self.throttle(server, now, seq)?),
            Q::RegRead(b) => R::RegRead(s.reg_read(&b, s.hands().file.timestamp())?),
            Q::ContextCreate(b) => R::ContextCreate(s.context_create(now, &b)?),
            Q::ContextDestroy(b) => done(self.context_destroy(&b), R::ContextDestroy)?,
            Q::ContextSetParam(b) => R::ContextSetParam(s.context_set_param(&b)?),
            Q::ContextGetParam(b) => R::ContextGetParam(s.context_get_param(&b)?),
            Q::ContextResetStats(b) => R::ContextResetStats(s.context_reset_stats(&b)?),
            Q::VmCreate(b) => R::VmCreate(s.vm_create(&b)?),
            Q::VmDestroy(b) => done(s.vm_destroy(&b), R::VmDestroy)?,
            Q::BufferCreate(b) => R::BufferCreate(s.buffer_create(&b)?),
            Q::BufferMap(b) => R::BufferMap(self.buffer_map(&b)?),
            Q::BufferClose(b) => done(self.buffer_close(&b), R::BufferClose)?,
            Q::BufferBusy(b) => R::BufferBusy(self.buffer_busy(&b)?),
            Q::BufferWait(b) => return Ok(self.buffer_wait(now, seq, &b)?),
            Q::BufferSetDomain(b) => return Ok(self.buffer_set_domain(now, seq, &b)?),
            Q::BufferAccess(b) => return Ok(self.buffer_access(now, seq, &b)?),
            Q::BufferSetCaching(b) => done(s.buffer_set_caching(&b), R::BufferSetCaching)?,
            Q::BufferGetCaching(b) => R::BufferGetCaching(s.buffer_get_caching(b.buffer)?),
            Q::BufferSetTiling(b) => R::BufferSetTiling(s.buffer_set_tiling(&b)?),
            Q::BufferGetTiling(b) => R::BufferGetTiling(s.buffer_get_tiling(b.buffer)?),
            Q::BufferMadvise(b) => R::BufferMadvise(s.buffer_madvise(&b)?),
            Q::BufferExport(b) => R::BufferExport(self.buffer_export(&b)?),
            Q::BufferImport(b) => R::BufferImport(self.buffer_import(&b, fds)?),
            Q::BufferFenceExport(b) => R::BufferFenceExport(self.buffer_fence_export(&b)?),
            Q::BufferFenceImport(b) => self.buffer_fence_import(&b, fds)?,
            Q::UserptrCreate(b) => R::UserptrCreate(self.userptr_create(&b, fds)?),
            Q::UserptrInvalidate(b) => return Ok(self.userptr_invalidate(now, seq, &b)?),
            Q::SharedStatus => R::SharedStatus(self.shared_status()?),
            Q::FenceStatus(b) => R::FenceStatus(self.fence_status(&b, fds)?),
            Q::FenceMerge(b) => R::FenceMerge(self.fence_merge(&b, fds)?),
            Q::SyncobjCreate(b) => R::SyncobjCreate(s.syncobj_create(&b)?),
            Q::SyncobjDestroy(b) => done(s.syncobj_destroy(&b), R::SyncobjDestroy)?,
            Q::SyncobjReset(b) => done(s.syncobj_reset(&b), R::SyncobjReset)?,
            Q::SyncobjSignal(b) => done(s.syncobj_signal(&b), R::SyncobjSignal)?,
            Q::SyncobjWait(b) => return Ok(self.syncobj_wait(server, now, seq, &b)?),
            Q::SyncobjTimelineSignal(b) => self.syncobj_timeline_signal(&b)?,
            Q::SyncobjQuery(b) => R::SyncobjQuery(s.syncobj_query(&b)?),
            Q::SyncobjTransfer(b) => return Ok(self.syncobj_transfer(now, seq, &b)?),
            Q::SyncobjExport(b) => R::SyncobjExport(self.syncobj_export(&b)?),
            Q::SyncobjImport(b) => R::SyncobjImport(self.syncobj_import(&b, fds)?),
            Q::HangList(b) => R::HangList(hangs.page(viewer(), now, &b)),
            Q::HangShow(b) => R::HangShow(Box::new(hangs.show(viewer(), now, b)?)),
            Q::HangRead(b) => R::HangRead(hangs.read(viewer(), b)?),
        }))
    }

    pub(crate) fn execbuf(
        &mut self,
        now: Time,
        request: &Execbuf<'_>,
        fds: &mut Fds,
    ) -> Result<ExecbufReply<OwnedFd>, Refusal> {
        // The other lists have limits among the rules; for this one the kernel has none.
        let relocations = request.relocations().len();
        if relocations > RELOCATIONS_PER_EXECBUF_MAX {
            let detail = format!("{relocations} of at most {RELOCATIONS_PER_EXECBUF_MAX}");
            return Err(Refusal::new(Reason::RelocationInvalid).with_detail(detail));
        }
        let file = &self.session.hands().file;
        let fence = match fds.first() {
            None => None,
            Some(fd) => match file.import_fence(fd.as_fd()) {
                Ok(fence) => Some(fence),
                // The rules refuse that in its turn, after what is wrong with the request itself.
                Err(DeviceError::NotAFence) => None,
                Err(error) => return Err(refusal_of(&error)),
            },
        };
        // A fence of ours closes at once.
        fds.clear();
        let mut place = None;
        if request.head.flags & flag::FENCE_OUT != 0 {
            self.fences.reserve(file, self.fences_max)?;
            place = file.reserve_fence().map_err(|error| refusal_of(&error))?;
        }
        let executed = self.session.execbuf(now, request, fence)?;
        let fence = match executed.fence {
            None => None,
            Some(fence) => {
                let fd = file.export_fence_to(place, &fence);
                self.fences.record(file, fence);
                Some(fd.map_err(|error| refusal_of(&error))?)
            }
        };
        Ok(ExecbufReply { offsets: executed.offsets, fence })
    }

    fn device_info(&self, server: &Server<D>) -> DeviceInfo {
        status::device_info(&server.device.description(), &self.capabilities)
    }

    fn context_destroy(&self, request: &ContextDestroy) -> Result<(), Refusal> {
        self.session.context_destroy(request)?;
        // Its id is unknown from now on.
        self.session.hands().resets_changed();
        Ok(())
    }

    fn shared_status(&self) -> Result<SharedStatus<OwnedFd>, Refusal> {
        let sees_device = || self.session.sees_device_resets();
        Ok(SharedStatus { fd: self.session.hands().share_status(sees_device)? })
    }

    fn buffer_close(&mut self, request: &BufferOf) -> Result<(), Refusal> {
        self.session.buffer_close(request.buffer)?;
        if let Some(waits) = &mut self.waits {
            waits.forget_buffer(request.buffer);
        }
        Ok(())
    }

    fn buffer_busy(&self, request: &BufferOf) -> Result<Busy, Refusal> {
        let file = &self.session.hands().file;
        let busy =
            self.session.with_buffer(request.buffer, |buffer, _| file.buffer_busy(buffer))?;
        let writer = busy.writer.map_or(0, |class| u32::from(class).saturating_add(1));
        Ok(Busy { busy: u32::from(busy.readers) << 16 | writer })
    }
}

/// A reply without a body.
fn done(result: Result<(), Refusal>, reply: Reply<OwnedFd>) -> Result<Reply<OwnedFd>, Refusal> {
    result.map(|()| reply)
}
