//! Requests that may have to wait: checked by the rules, then left to [`crate::waits`].

use std::os::fd::OwnedFd;
use std::sync::Arc;

use gpu_broker_core::hands::Hands as _;
use gpu_broker_core::{Session, Time};
use gpu_broker_device::{self as device, Device, DeviceFile};
use gpu_broker_protocol::message::BufferWait;
use gpu_broker_protocol::object::{BufferAccess, BufferSetDomain};
use gpu_broker_protocol::syncobj::{SyncobjTransfer, SyncobjWait, SyncobjWaited, flag};
use gpu_broker_protocol::{BufferId, Reason, Refusal, Reply};

use crate::hands::{DeviceHands, refusal_of};
use crate::requests::{Answer, Open};
use crate::server::Server;
use crate::wait::{Then, Wait};
use crate::waits::{Begun, Waits, Watch};

/// How long a transfer with WAIT_FOR_SUBMIT waits for a fence, as in the kernel: five seconds.
const TRANSFER_NS: u64 = 5_000_000_000;

impl<F: DeviceFile> Watch for Session<DeviceHands<F>> {
    fn watch(&self, buffer: BufferId, token: u64) -> Result<bool, Refusal> {
        self.with_buffer(buffer, |buffer, _| self.hands().file.watch_buffer(buffer, token))
    }

    fn watch_access(&self, buffer: BufferId, write: bool, token: u64) -> Result<bool, Refusal> {
        self.with_buffer(buffer, |buffer, _| {
            self.hands().file.watch_buffer_access(buffer, write, token)
        })
    }

    fn is_busy(&self, buffer: BufferId, write: bool) -> Result<bool, Refusal> {
        self.with_buffer(buffer, |buffer, _| {
            let busy = self.hands().file.buffer_busy(buffer);
            busy.writer.is_some() || (write && busy.readers != 0)
        })
    }

    fn watch_queued(&self, until: Time, token: u64) -> Result<Option<Time>, Refusal> {
        self.hands().watch_queued(until, token)
    }

    fn unwatch(&self, token: u64) {
        self.hands().file.unwatch_syncobjs(token);
    }
}

/// See [`DeviceFile::watch_syncobjs`].
fn watch_syncobjs<F: DeviceFile>(
    session: &Session<DeviceHands<F>>,
    wait: &device::SyncobjWait<'_, F::Syncobj>,
    token: u64,
) -> Result<Option<u32>, Refusal> {
    session.hands().file.watch_syncobjs(wait, token).map_err(|error| refusal_of(&error))
}

/// What the device does when a buffer's users have been waited for. The buffer is looked up once: a
/// handle that is closed meanwhile does not matter.
fn prepare<F: DeviceFile>(
    session: &Arc<Session<DeviceHands<F>>>,
    (buffer, write): (BufferId, bool),
) -> Result<Option<Then>, Refusal> {
    if !F::PREPARES_ACCESS {
        return Ok(None);
    }
    let (session, held) = (Arc::clone(session), session.hold_buffer(buffer)?);
    Ok(Some(Box::new(move || {
        let prepared = session.hands().file.prepare_access(held.device(), write);
        prepared.map_err(|error| refusal_of(&error))
    })))
}

/// What to do about a wait that was begun.
pub(crate) fn answer(begun: Begun) -> Result<Answer, Refusal> {
    begun.map(|reply| reply.map_or(Answer::Later, Answer::Now))
}

fn at_once(reply: Reply<OwnedFd>) -> Result<Answer, Refusal> {
    Ok(Answer::Now(reply))
}

impl<D: Device> Open<D> {
    pub(crate) fn buffer_wait(
        &mut self,
        now: Time,
        seq: u32,
        request: &BufferWait,
    ) -> Result<Answer, Refusal> {
        let session = &*self.session;
        answer(waits(&mut self.waits, self.waits_max).begin(now, seq, request, session))
    }

    pub(crate) fn buffer_set_domain(
        &mut self,
        now: Time,
        seq: u32,
        request: &BufferSetDomain,
    ) -> Result<Answer, Refusal> {
        let session = &self.session;
        let Some(write) = session.buffer_set_domain(request)? else {
            return at_once(Reply::BufferSetDomain);
        };
        let access = (request.buffer, write);
        let wait = Wait::SetDomain(prepare(session, access)?);
        answer(
            waits(&mut self.waits, self.waits_max).begin_access(now, seq, wait, access, &**session),
        )
    }

    pub(crate) fn buffer_access(
        &mut self,
        now: Time,
        seq: u32,
        request: &BufferAccess,
    ) -> Result<Answer, Refusal> {
        let session = &self.session;
        let Some(write) = session.buffer_access(request)? else {
            return at_once(Reply::BufferAccess);
        };
        let access = (request.buffer, write);
        let wait = Wait::Access(prepare(session, access)?);
        answer(
            waits(&mut self.waits, self.waits_max).begin_access(now, seq, wait, access, &**session),
        )
    }

    pub(crate) fn syncobj_wait(
        &mut self,
        server: &Server<D>,
        now: Time,
        seq: u32,
        request: &SyncobjWait,
    ) -> Result<Answer, Refusal> {
        let session = &*self.session;
        let objects = session.syncobj_wait_set(request)?;
        if objects.is_empty() {
            return at_once(Reply::SyncobjWait(SyncobjWaited { first_signaled: u32::MAX }));
        }
        let asked = device::SyncobjWait {
            objects: &objects,
            all: request.flags & flag::WAIT_ALL != 0,
            for_submit: request.flags & flag::WAIT_FOR_SUBMIT != 0,
            available: request.flags & flag::WAIT_AVAILABLE != 0,
        };
        let wait = Wait::Syncobjs { count: objects.len(), all: asked.all };
        let terms = (wait, server.clock.moment(request.deadline_ns));
        let watch = |token| watch_syncobjs(session, &asked, token);
        let waits = waits(&mut self.waits, self.waits_max);
        answer(waits.begin_syncobjs(now, seq, terms, session, watch))
    }

    /// Objects are looked up once: handles that are closed meanwhile do not matter.
    pub(crate) fn syncobj_transfer(
        &mut self,
        now: Time,
        seq: u32,
        request: &SyncobjTransfer,
    ) -> Result<Answer, Refusal> {
        let session = &self.session;
        if session.syncobj_transfer(request)? {
            return at_once(Reply::SyncobjTransfer);
        }
        let objects = [session.syncobj_transfer_source(request)?];
        let asked =
            device::SyncobjWait { objects: &objects, all: true, for_submit: true, available: true };
        let watch = |token| watch_syncobjs(session, &asked, token);
        let (source, target) = (objects[0].clone(), session.syncobj(request.target)?);
        let target_point = request.target_point;
        let then = {
            let session = Arc::clone(session);
            move || {
                let ((source, point), hands) = (&source, session.hands());
                // It may have been taken out again since.
                let fence = hands.syncobj_fence(source, *point).ok_or(Reason::SyncobjEmpty)?;
                hands.put_fence(&target, target_point, &fence)
            }
        };
        let terms = (Wait::Transfer(Box::new(then)), Time(now.0.saturating_add(TRANSFER_NS)));
        answer(
            waits(&mut self.waits, self.waits_max)
                .begin_syncobjs(now, seq, terms, &**session, watch),
        )
    }

    pub(crate) fn throttle(
        &mut self,
        server: &Server<D>,
        now: Time,
        seq: u32,
    ) -> Result<Answer, Refusal> {
        server.registry.check_device()?;
        let session = &*self.session;
        answer(waits(&mut self.waits, self.waits_max).begin_throttle(now, seq, session))
    }
}

/// The session's waits; most clients never need them.
pub(crate) fn waits(waits: &mut Option<Box<Waits>>, limit: u32) -> &mut Waits {
    waits.get_or_insert_with(|| Box::new(Waits::new(limit)))
}
