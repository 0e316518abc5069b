//! Replies that come later: BUFFER_WAIT, BUFFER_SET_DOMAIN, BUFFER_ACCESS, SYNCOBJ_WAIT,
//! SYNCOBJ_TRANSFER, THROTTLE, USERPTR_INVALIDATE.
//!
//! A wait asks the session's device for a watch and ends when that fires or its time is over. Waits
//! are limited, and with them what they cost the device:
//!
//! * BUFFER_WAIT has a time limit, and a watch of a buffer cannot be taken back. So a buffer is
//!   watched once, however many waits there are for it: a client that waits for a nanosecond in a
//!   loop, on a buffer that never becomes idle, costs no more than one that waits once.
//! * BUFFER_SET_DOMAIN and BUFFER_ACCESS have no time limit: a watch each. What is left for the device
//!   to do then ([`gpu_broker_device::DeviceFile::prepare_access`]) may wait in the kernel: a thread of
//!   the pool does it, one at a time for each session.
//! * SYNCOBJ_WAIT and SYNCOBJ_TRANSFER have a watch each, too, which is taken back when their time
//!   is over and when the client is gone.
//! * USERPTR_INVALIDATE has a time limit and a watch each, which cannot be taken back: one whose wait is
//!   over counts as a wait until it fires.
//! * THROTTLE watches the oldest request that any of them waits for, then the next.
//!
//! A handle that is closed ends none of them, as in the kernel.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use gpu_broker_core::Time;
use gpu_broker_protocol::limits::SYNCOBJS_PER_SESSION_MAX;
use gpu_broker_protocol::message::{BufferWait, Waited};
use gpu_broker_protocol::syncobj::SyncobjWaited;
use gpu_broker_protocol::{BufferId, Opcode, Reason, Refusal, Reply};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Sleep;

use crate::clock::Clock;
use crate::wait::Wait;

/// Syncobjs that all waits of a session may name together.
const SYNCOBJS_MAX: usize = SYNCOBJS_PER_SESSION_MAX as usize;

/// THROTTLE waits for requests of this age (rule table §17).
const THROTTLE_NS: u64 = 20_000_000;

/// What a wait asks of the session's device.
pub(crate) trait Watch {
    /// Watches until nothing uses the buffer; true if nothing does now.
    /// See [`gpu_broker_device::DeviceFile::watch_buffer`].
    ///
    /// # Errors
    /// [`Reason::NoSuchBuffer`].
    fn watch(&self, buffer: BufferId, token: u64) -> Result<bool, Refusal>;

    /// Watches until the CPU may read the buffer, or write it; true if it may now.
    /// See [`gpu_broker_device::DeviceFile::watch_buffer_access`].
    ///
    /// # Errors
    /// [`Reason::NoSuchBuffer`].
    fn watch_access(&self, buffer: BufferId, write: bool, token: u64) -> Result<bool, Refusal>;

    /// Whether work uses the buffer in a way that the CPU has to wait for before it reads, or
    /// with `write`, before it writes.
    ///
    /// # Errors
    /// [`Reason::NoSuchBuffer`].
    fn is_busy(&self, buffer: BufferId, write: bool) -> Result<bool, Refusal>;

    /// See [`crate::throttle::Queued::watch`].
    ///
    /// # Errors
    /// The device's refusal.
    fn watch_queued(&self, until: Time, token: u64) -> Result<Option<Time>, Refusal>;

    /// Takes the watch of syncobjs or of queued requests back; no event follows.
    fn unwatch(&self, token: u64);
}

/// The answer to a wait: the number of its request, its opcode, and the rest.
pub(crate) struct Ended {
    pub(crate) seq: u32,
    pub(crate) opcode: Opcode,
    pub(crate) answer: Result<Reply<OwnedFd>, Refusal>,
}

/// `Some` if there is nothing to wait for, otherwise [`Waits::poll_finished`] tells.
pub(crate) type Begun = Result<Option<Reply<OwnedFd>>, Refusal>;

/// The waits of one session.
#[derive(Default)]
pub(crate) struct Waits {
    /// Most that may be pending.
    limit: usize,
    /// Of BUFFER_WAIT.
    watches: Vec<Watched>,
    /// Of THROTTLE.
    throttle: Option<u64>,
    /// Of USERPTR_INVALIDATE, after the wait was over.
    abandoned: Vec<u64>,
    waiting: Vec<Waiting>,
    /// Waits that have ended, with something left to do, in order.
    moves: VecDeque<(u32, Wait)>,
    /// The first of them, whose rest is being done.
    moving: Option<JoinHandle<Result<(), Refusal>>>,
    finished: VecDeque<Ended>,
    last_token: u64,
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

struct Watched {
    token: u64,
    /// `None` once the handle was closed: it may name another buffer since.
    buffer: Option<BufferId>,
}

struct Waiting {
    seq: u32,
    wait: Wait,
    needs: Needs,
    /// Nanoseconds on the daemon's clock; `None` waits for ever.
    deadline: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// This watch began when the wait did, or later: it is what the wait is for.
    Watch(u64),
    /// This watch is older than the wait, which may be for newer work; a new watch follows it.
    OneAfter(u64),
    /// Older requests to complete.
    Requests,
}

impl Waiting {
    /// It has what it waited for; `first` is what the watch said.
    fn met(self, now: Time, first: u32) -> Ended {
        let Self { seq, wait, deadline, .. } = self;
        Ended { seq, opcode: wait.opcode(), answer: wait.reply(now, deadline, first) }
    }

    fn refused(&self, refusal: impl Into<Refusal>) -> Ended {
        Ended { seq: self.seq, opcode: self.wait.opcode(), answer: Err(refusal.into()) }
    }

    /// Takes its watch back if that is possible and it is its own.
    fn unwatch(&self, device: &impl Watch) {
        if let (1.., Needs::Watch(token)) = (self.wait.syncobjs(), self.needs) {
            device.unwatch(token);
        }
    }
}

impl Waits {
    /// No waits, of which at most `limit` may be pending.
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit: limit as usize, ..Self::default() }
    }

    /// Begins a BUFFER_WAIT.
    ///
    /// # Errors
    /// [`Reason::WaitFlags`], [`Reason::NoSuchBuffer`], [`Reason::WaitTimeout`] or
    /// [`Reason::WaitLimit`] (rule table §17).
    pub(crate) fn begin(
        &mut self,
        now: Time,
        seq: u32,
        request: &BufferWait,
        device: &impl Watch,
    ) -> Begun {
        if request.flags != 0 {
            return Err(Reason::WaitFlags.into());
        }
        let (buffer, timeout_ns) = (request.buffer, request.timeout_ns);
        let at_once = || Ok(Some(Reply::BufferWait(Waited { remaining_ns: timeout_ns })));
        if !device.is_busy(buffer, true)? {
            return at_once();
        }
        if timeout_ns == 0 {
            return Err(Reason::WaitTimeout.into());
        }
        self.check_limit()?;
        let watched = self.watches.iter().find(|watch| watch.buffer == Some(buffer));
        let needs = match watched {
            Some(watch) => Needs::OneAfter(watch.token),
            None if self.watches.len() >= self.limit => return Err(Reason::WaitLimit.into()),
            None => match self.watch(buffer, device)? {
                Some(token) => Needs::Watch(token),
                None => return at_once(),
            },
        };
        let deadline = u64::try_from(timeout_ns).ok().map(|ns| now.0.saturating_add(ns));
        self.waiting.push(Waiting {
            seq,
            wait: Wait::Buffer { buffer, timeout_ns },
            needs,
            deadline,
        });
        Ok(None)
    }

    /// Begins a BUFFER_SET_DOMAIN or BUFFER_ACCESS: waits until the CPU may read, or with `write`,
    /// write.
    ///
    /// # Errors
    /// [`Reason::NoSuchBuffer`] or [`Reason::WaitLimit`].
    pub(crate) fn begin_access(
        &mut self,
        now: Time,
        seq: u32,
        wait: Wait,
        (buffer, write): (BufferId, bool),
        device: &impl Watch,
    ) -> Begun {
        // First, because a watch cannot be taken back when there turns out to be no room for it.
        if !device.is_busy(buffer, write)? {
            return self.accessible(now, seq, wait);
        }
        self.check_limit()?;
        let token = self.next_token();
        if device.watch_access(buffer, write, token)? {
            return self.accessible(now, seq, wait);
        }
        self.waiting.push(Waiting { seq, wait, needs: Needs::Watch(token), deadline: None });
        Ok(None)
    }

    /// There is nothing to wait for.
    fn accessible(&mut self, now: Time, seq: u32, wait: Wait) -> Begun {
        if let Wait::SetDomain(None) | Wait::Access(None) = wait {
            return wait.reply(now, None, 0).map(Some);
        }
        self.check_limit()?;
        self.moves.push_back((seq, wait));
        Ok(None)
    }

    /// Begins a wait for syncobjs; `watch` asks the device with the token it gets, as
    /// [`gpu_broker_device::DeviceFile::watch_syncobjs`].
    ///
    /// # Errors
    /// What `watch` says; [`Reason::SyncobjTimeout`] when the time is over already;
    /// [`Reason::WaitLimit`].
    pub(crate) fn begin_syncobjs(
        &mut self,
        now: Time,
        seq: u32,
        (wait, deadline): (Wait, Time),
        device: &impl Watch,
        watch: impl FnOnce(u64) -> Result<Option<u32>, Refusal>,
    ) -> Begun {
        let token = self.next_token();
        if let Some(first_signaled) = watch(token)? {
            // Of all, the kernel names the first that had signalled when it looked.
            if matches!(wait, Wait::Syncobjs { .. }) {
                return Ok(Some(Reply::SyncobjWait(SyncobjWaited { first_signaled })));
            }
            return wait.reply(now, None, first_signaled).map(Some);
        }
        if let Err(refusal) = self.check_syncobjs(now, &wait, deadline) {
            device.unwatch(token);
            return Err(refusal);
        }
        let needs = Needs::Watch(token);
        self.waiting.push(Waiting { seq, wait, needs, deadline: Some(deadline.0) });
        Ok(None)
    }

    fn check_syncobjs(&self, now: Time, wait: &Wait, deadline: Time) -> Result<(), Refusal> {
        if deadline <= now {
            return Err(Reason::SyncobjTimeout.into());
        }
        let named: usize = self.waiting.iter().map(|waiting| waiting.wait.syncobjs()).sum();
        if named.saturating_add(wait.syncobjs()) > SYNCOBJS_MAX {
            let refusal = Refusal::new(Reason::WaitLimit);
            return Err(refusal.with_detail("its waits name too many syncobjs"));
        }
        self.check_limit()
    }

    /// Begins a THROTTLE: waits for the requests that have been queued for 20 ms now.
    ///
    /// # Errors
    /// [`Reason::WaitLimit`], or the device's refusal.
    pub(crate) fn begin_throttle(&mut self, now: Time, seq: u32, device: &impl Watch) -> Begun {
        let Some(until) = now.0.checked_sub(THROTTLE_NS).map(Time) else {
            return Ok(Some(Reply::Throttle));
        };
        if self.throttle.is_none() {
            let token = self.next_token();
            if device.watch_queued(until, token)?.is_none() {
                return Ok(Some(Reply::Throttle));
            }
            self.throttle = Some(token);
        }
        self.check_limit()?;
        let (wait, needs) = (Wait::Throttle { until }, Needs::Requests);
        self.waiting.push(Waiting { seq, wait, needs, deadline: None });
        Ok(None)
    }

    /// Begins a USERPTR_INVALIDATE. `invalidate` does it and watches with the token it gets; true if no
    /// work uses the old pages. Without a token it only looks.
    ///
    /// # Errors
    /// [`Reason::WaitLimit`], and nothing is invalidated; what `invalidate` says; with `timeout_ns` 0,
    /// [`Reason::UserptrInUse`].
    pub(crate) fn begin_invalidate(
        &mut self,
        now: Time,
        seq: u32,
        timeout_ns: u64,
        invalidate: impl FnOnce(Option<u64>) -> Result<bool, Refusal>,
    ) -> Begun {
        self.check_limit()?;
        let token = (timeout_ns != 0).then(|| self.next_token());
        if invalidate(token)? {
            return Ok(Some(Reply::UserptrInvalidate));
        }
        let token = token.ok_or(Reason::UserptrInUse)?;
        let deadline = Some(now.0.saturating_add(timeout_ns));
        let (wait, needs) = (Wait::Invalidate, Needs::Watch(token));
        self.waiting.push(Waiting { seq, wait, needs, deadline });
        Ok(None)
    }

    /// A handle was closed. Waits go on for the work they know of, as the kernel's do.
    pub(crate) fn forget_buffer(&mut self, closed: BufferId) {
        for watch in &mut self.watches {
            if watch.buffer == Some(closed) {
                watch.buffer = None;
            }
        }
        for waiting in &mut self.waiting {
            if let (Some(buffer), Needs::OneAfter(token)) = (waiting.wait.buffer(), waiting.needs)
                && buffer == closed
            {
                waiting.needs = Needs::Watch(token);
            }
        }
    }

    /// A watch has fired, and the device cannot be asked now: ends what waited for just that.
    /// [`Self::fired`] does the rest later.
    pub(crate) fn settle_watch(&mut self, now: Time, token: u64, first: u32) {
        self.settle(now, Needs::Watch(token), first);
    }

    /// A watch has fired; `first` is which of its syncobjs has signalled.
    pub(crate) fn fired(&mut self, now: Time, token: u64, first: u32, device: &impl Watch) {
        if self.throttle == Some(token) {
            return self.throttle_on(now, device);
        }
        self.watches.retain(|watch| watch.token != token);
        self.abandoned.retain(|abandoned| *abandoned != token);
        self.settle(now, Needs::Watch(token), first);
        let mut successors =
            self.waiting.iter().filter(|waiting| waiting.needs == Needs::OneAfter(token));
        let Some(buffer) = successors.find_map(|waiting| waiting.wait.buffer()) else { return };
        match self.watch(buffer, device) {
            Ok(Some(next)) => {
                for waiting in &mut self.waiting {
                    if waiting.needs == Needs::OneAfter(token) {
                        waiting.needs = Needs::Watch(next);
                    }
                }
            }
            // Idle.
            Ok(None) | Err(_) => self.settle(now, Needs::OneAfter(token), first),
        }
    }

    /// The oldest request has completed: THROTTLE waits for the next one that is old enough.
    fn throttle_on(&mut self, now: Time, device: &impl Watch) {
        self.throttle = None;
        let latest = self.waiting.iter().filter_map(|waiting| waiting.wait.until()).max();
        let Some(latest) = latest else { return };
        let token = self.next_token();
        let oldest = device.watch_queued(latest, token);
        if let Ok(Some(_)) = oldest {
            self.throttle = Some(token);
        }
        let over = |waiting: &mut Waiting| match (waiting.wait.until(), &oldest) {
            (None, _) => false,
            (Some(until), Ok(Some(queued))) => *queued > until,
            (Some(_), Ok(None) | Err(_)) => true,
        };
        for waiting in self.waiting.extract_if(.., over) {
            self.finished.push_back(match &oldest {
                Ok(_) => waiting.met(now, 0),
                Err(refusal) => waiting.refused(refusal.clone()),
            });
        }
    }

    /// The next wait that has ended.
    pub(crate) fn poll_finished(
        &mut self,
        cx: &mut Context<'_>,
        clock: Clock,
        device: &impl Watch,
    ) -> Poll<Ended> {
        loop {
            if let Some(moved) = self.poll_moved(cx, clock) {
                return Poll::Ready(moved);
            }
            if let Some(finished) = self.finished.pop_front() {
                return Poll::Ready(finished);
            }
            let Some(earliest) = self.waiting.iter().filter_map(|wait| wait.deadline).min() else {
                self.timer = None;
                return Poll::Pending;
            };
            let now = clock.now();
            if earliest <= now.0 {
                self.expire(now, device);
                continue;
            }
            let (_, sleep) = match self.timer.take() {
                Some(timer) if timer.0 == earliest => self.timer.insert(timer),
                _ => {
                    let left = Duration::from_nanos(earliest.saturating_sub(now.0));
                    self.timer.insert((earliest, Box::pin(tokio::time::sleep(left))))
                }
            };
            match sleep.as_mut().poll(cx) {
                Poll::Ready(()) => self.timer = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next wait whose rest is done. A panic in it goes on here.
    fn poll_moved(&mut self, cx: &mut Context<'_>, clock: Clock) -> Option<Ended> {
        loop {
            if let Some(moving) = &mut self.moving {
                let Poll::Ready(joined) = Pin::new(moving).poll(cx) else { return None };
                self.moving = None;
                let moved = match joined.map_err(JoinError::try_into_panic) {
                    Ok(moved) => moved,
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    // The runtime is going, and takes this along.
                    Err(Err(_cancelled)) => return None,
                };
                let (seq, wait) = self.moves.pop_front()?;
                let opcode = wait.opcode();
                let answer = moved.and_then(|()| wait.reply(clock.now(), None, 0));
                return Some(Ended { seq, opcode, answer });
            }
            let (_, wait) = self.moves.front_mut()?;
            let then = wait.take_move()?;
            self.moving = Some(tokio::task::spawn_blocking(then));
        }
    }

    /// The client is gone: when this is over, no thread does anything for its waits any more.
    pub(crate) async fn end_moves(&mut self) {
        if let Some(moving) = self.moving.take() {
            // What came of it, even a panic, is nobody's to know.
            let _ = moving.await;
        }
    }

    /// The client is gone: takes every watch back that can be.
    pub(crate) fn cancel(&mut self, device: &impl Watch) {
        for waiting in self.waiting.drain(..) {
            waiting.unwatch(device);
        }
        self.moves.clear();
        if let Some(token) = self.throttle.take() {
            device.unwatch(token);
        }
    }

    fn check_limit(&self) -> Result<(), Refusal> {
        let ended = self.moves.len().saturating_add(self.finished.len());
        let waits = [self.waiting.len(), ended, self.abandoned.len()];
        if waits.iter().sum::<usize>() >= self.limit {
            return Err(Reason::WaitLimit.into());
        }
        Ok(())
    }

    const fn next_token(&mut self) -> u64 {
        self.last_token = self.last_token.wrapping_add(1);
        self.last_token
    }

    /// Asks the device to watch; `None` if the buffer is idle.
    fn watch(&mut self, buffer: BufferId, device: &impl Watch) -> Result<Option<u64>, Refusal> {
        let token = self.next_token();
        if device.watch(buffer, token)? {
            return Ok(None);
        }
        self.watches.push(Watched { token, buffer: Some(buffer) });
        Ok(Some(token))
    }

    /// Ends the waits that needed this.
    fn settle(&mut self, now: Time, met: Needs, first: u32) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.needs == met) {
            if let Wait::SetDomain(Some(_)) | Wait::Access(Some(_)) = waiting.wait {
                self.moves.push_back((waiting.seq, waiting.wait));
            } else {
                self.finished.push_back(waiting.met(now, first));
            }
        }
    }

    /// Ends the waits whose time is over.
    fn expire(&mut self, now: Time, device: &impl Watch) {
        let over = |waiting: &mut Waiting| waiting.deadline.is_some_and(|end| end <= now.0);
        for waiting in self.waiting.extract_if(.., over) {
            waiting.unwatch(device);
            if let (Wait::Invalidate, Needs::Watch(token)) = (&waiting.wait, waiting.needs) {
                self.abandoned.push(token);
            }
            self.finished.push_back(waiting.refused(waiting.wait.timeout()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use crate::wait::Then;

    use super::*;

    /// A device with one buffer, number 1, that is busy, and requests that were queued.
    #[derive(Default)]
    struct Fake {
        idle: Cell<bool>,
        tokens: RefCell<Vec<u64>>,
        queued: RefCell<Vec<u64>>,
        taken_back: RefCell<Vec<u64>>,
    }

    impl Fake {
        fn know(buffer: BufferId) -> Result<(), Refusal> {
            if buffer == BufferId(1) { Ok(()) } else { Err(Reason::NoSuchBuffer.into()) }
        }
    }

    impl Watch for Fake {
        fn watch(&self, buffer: BufferId, token: u64) -> Result<bool, Refusal> {
            Self::know(buffer)?;
            self.tokens.borrow_mut().push(token);
            Ok(self.idle.get())
        }

        fn watch_access(&self, buffer: BufferId, _: bool, token: u64) -> Result<bool, Refusal> {
            self.watch(buffer, token)
        }

        fn is_busy(&self, buffer: BufferId, _: bool) -> Result<bool, Refusal> {
            Self::know(buffer)?;
            Ok(!self.idle.get())
        }

        fn watch_queued(&self, until: Time, token: u64) -> Result<Option<Time>, Refusal> {
            let oldest = self.queued.borrow().first().copied().filter(|queued| *queued <= until.0);
            self.tokens.borrow_mut().extend(oldest.map(|_| token));
            Ok(oldest.map(Time))
        }

        fn unwatch(&self, token: u64) {
            self.taken_back.borrow_mut().push(token);
        }
    }

    fn request(timeout_ns: i64) -> BufferWait {
        BufferWait { buffer: BufferId(1), flags: 0, timeout_ns }
    }

    /// Nanoseconds left, first syncobj, or -9 for replies without a body.
    fn number(reply: &Reply<OwnedFd>) -> i64 {
        if let Reply::BufferWait(waited) = reply {
            waited.remaining_ns
        } else if let Reply::SyncobjWait(waited) = reply {
            waited.first_signaled.into()
        } else {
            -9
        }
    }

    /// What a wait was answered when it began; `None` for later.
    fn begun(begun: Begun) -> Result<Option<i64>, Reason> {
        begun.map(|reply| reply.as_ref().map(number)).map_err(|refusal| refusal.reason)
    }

    /// What waits were answered later, by the number of their request; `None` for refusals.
    fn finished(waits: &Waits) -> Vec<(u32, Option<i64>)> {
        let number = |ended: &Ended| ended.answer.as_ref().ok().map(number);
        waits.finished.iter().map(|ended| (ended.seq, number(ended))).collect()
    }

    fn for_any(count: usize) -> Wait {
        Wait::Syncobjs { count, all: false }
    }

    #[test]
    fn what_can_be_answered_at_once_is() {
        let (mut waits, device) = (Waits::new(4), Fake::default());
        let mut begin = |request: &BufferWait| begun(waits.begin(Time(0), 1, request, &device));
        assert_eq!(begin(&BufferWait { flags: 1, ..request(5) }), Err(Reason::WaitFlags));
        let stranger = BufferWait { buffer: BufferId(2), ..request(5) };
        assert_eq!(begin(&stranger), Err(Reason::NoSuchBuffer));
        assert_eq!(begin(&request(0)), Err(Reason::WaitTimeout));
        device.idle.set(true);
        assert_eq!(begin(&request(0)), Ok(Some(0)));
        assert_eq!(begin(&request(-7)), Ok(Some(-7)));
        let access = (BufferId(1), true);
        let answer = waits.begin_access(Time(0), 1, Wait::SetDomain(None), access, &device);
        assert_eq!(begun(answer), Ok(Some(-9)));
        let answer =
            waits.begin_access(Time(0), 1, Wait::Access(None), (BufferId(2), true), &device);
        assert_eq!(begun(answer), Err(Reason::NoSuchBuffer));
    }

    /// What is left to do is done one by one, away from the reactor, and its outcome is the answer.
    #[tokio::test]
    async fn what_is_left_to_do_is_done_in_order() {
        let (mut waits, device) = (Waits::new(4), Fake::default());
        let (done, order) = std::sync::mpsc::channel();
        let reactor = std::thread::current().id();
        let then = |number: u32, answer: Result<(), Refusal>| -> Option<Then> {
            let done = done.clone();
            Some(Box::new(move || {
                done.send((number, std::thread::current().id() != reactor))
                    .expect("somebody looks");
                answer
            }))
        };
        let access = (BufferId(1), true);
        // Nobody uses it, then somebody does.
        device.idle.set(true);
        let lost = Err(Reason::OutOfMemory.into());
        let first = Wait::SetDomain(then(1, lost));
        assert_eq!(begun(waits.begin_access(Time(0), 1, first, access, &device)), Ok(None));
        device.idle.set(false);
        for seq in 2..=4 {
            let wait = Wait::Access(then(seq, Ok(())));
            assert_eq!(begun(waits.begin_access(Time(0), seq, wait, access, &device)), Ok(None));
        }
        let fifth = waits.begin_access(Time(0), 5, Wait::Access(None), access, &device);
        assert_eq!(begun(fifth), Err(Reason::WaitLimit), "what is being done counts");
        for token in [2, 1] {
            waits.fired(Time(1), token, 0, &device);
        }
        let clock = Clock::start();
        for (seq, answer) in [(1, None), (3, Some(())), (2, Some(()))] {
            let next = std::future::poll_fn(|cx| waits.poll_finished(cx, clock, &device)).await;
            assert_eq!((next.seq, next.answer.ok().map(drop)), (seq, answer));
            assert_eq!(order.recv().expect("it was done"), (seq, true));
        }
        // The client goes: what has not begun is not done.
        waits.fired(Time(1), 3, 0, &device);
        waits.end_moves().await;
        waits.cancel(&device);
        assert!(waits.moves.is_empty() && order.try_recv().is_err());
    }

    #[test]
    fn a_later_wait_needs_a_later_watch() {
        let (mut waits, device) = (Waits::new(8), Fake::default());
        for seq in 1..=3 {
            assert_eq!(begun(waits.begin(Time(100), seq, &request(1000), &device)), Ok(None));
        }
        assert_eq!(*device.tokens.borrow(), [1], "one watch for all");
        waits.fired(Time(300), 1, 0, &device);
        assert_eq!(finished(&waits), [(1, Some(800))]);
        assert_eq!(*device.tokens.borrow(), [1, 2]);
        waits.fired(Time(2000), 2, 0, &device);
        assert_eq!(finished(&waits), [(1, Some(800)), (2, Some(0)), (3, Some(0))]);
        assert!(waits.watches.is_empty() && waits.waiting.is_empty());
    }

    #[test]
    fn waits_that_time_out_leave_one_watch_and_the_limit_holds() {
        let (mut waits, device) = (Waits::new(4), Fake::default());
        for round in 0..1000 {
            assert_eq!(begun(waits.begin(Time(round), 1, &request(1), &device)), Ok(None));
            waits.expire(Time(round + 1), &device);
            assert_eq!(finished(&waits), [(1, None)]);
            waits.finished.clear();
        }
        assert_eq!(waits.watches.len(), 1);
        for seq in 0..4 {
            assert_eq!(begun(waits.begin(Time(0), seq, &request(-1), &device)), Ok(None));
        }
        let refused = waits.begin(Time(0), 5, &request(-1), &device);
        assert_eq!(begun(refused), Err(Reason::WaitLimit));
        let watches = device.tokens.borrow().len();
        let access = (BufferId(1), true);
        let refused = waits.begin_access(Time(0), 5, Wait::Access(None), access, &device);
        assert_eq!(begun(refused), Err(Reason::WaitLimit));
        assert_eq!(device.tokens.borrow().len(), watches, "what is refused watches nothing");
    }

    #[test]
    fn a_closed_handle_does_not_lend_its_watch_to_the_next_buffer() {
        let (mut waits, device) = (Waits::new(8), Fake::default());
        assert_eq!(begun(waits.begin(Time(0), 1, &request(-1), &device)), Ok(None));
        assert_eq!(begun(waits.begin(Time(0), 2, &request(-1), &device)), Ok(None));
        waits.forget_buffer(BufferId(1));
        assert_eq!(begun(waits.begin(Time(0), 3, &request(-1), &device)), Ok(None));
        assert_eq!(*device.tokens.borrow(), [1, 2]);
        waits.fired(Time(9), 1, 0, &device);
        assert_eq!(finished(&waits), [(1, Some(-1)), (2, Some(-1))]);
    }

    #[test]
    fn syncobj_waits_take_their_watches_back() {
        let (mut waits, device) = (Waits::new(3), Fake::default());
        let mut begin = |now, seq, wait, end, found| {
            waits.begin_syncobjs(Time(now), seq, (wait, Time(end)), &device, |_| Ok(found))
        };
        assert_eq!(begun(begin(10, 1, for_any(3), 0, Some(2))), Ok(Some(2)));
        let all = Wait::Syncobjs { count: 3, all: true };
        assert_eq!(begun(begin(10, 1, all, 0, Some(2))), Ok(Some(2)), "of all, when none was left");
        assert_eq!(begun(begin(10, 2, for_any(1), 10, None)), Err(Reason::SyncobjTimeout));
        let most = for_any(SYNCOBJS_MAX + 1);
        assert_eq!(begun(begin(10, 3, most, 90, None)), Err(Reason::WaitLimit));
        assert_eq!(*device.taken_back.borrow(), [3, 4], "what was refused is not watched");
        let all = Wait::Syncobjs { count: 1, all: true };
        for (seq, wait, end) in [(5, for_any(1), 20), (6, for_any(1), 30), (7, all, u64::MAX)] {
            assert_eq!(begun(begin(10, seq, wait, end, None)), Ok(None));
        }
        assert_eq!(begun(begin(10, 8, for_any(1), 90, None)), Err(Reason::WaitLimit));
        waits.expire(Time(20), &device);
        waits.fired(Time(21), 6, 1, &device);
        assert_eq!(finished(&waits), [(5, None), (6, Some(1))]);
        assert_eq!(*device.taken_back.borrow(), [3, 4, 8, 5]);
        waits.cancel(&device);
        assert_eq!(device.taken_back.borrow().last(), Some(&7));
        assert!(waits.waiting.is_empty());
    }

    #[test]
    fn a_transfer_happens_when_there_is_a_fence_and_not_when_the_time_is_over() {
        let (mut waits, device) = (Waits::new(4), Fake::default());
        let transfers = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        for seq in 1..=2 {
            let transfers = std::sync::Arc::clone(&transfers);
            let then = Box::new(move || {
                transfers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            });
            let terms = (Wait::Transfer(then), Time(u64::from(seq) * 10));
            let later = waits.begin_syncobjs(Time(0), seq, terms, &device, |_| Ok(None));
            assert_eq!(begun(later), Ok(None));
        }
        waits.expire(Time(10), &device);
        waits.fired(Time(11), 2, 0, &device);
        assert_eq!(finished(&waits), [(1, None), (2, Some(-9))]);
        assert_eq!(transfers.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[test]
    fn throttles_wait_for_what_was_old_when_they_began() {
        let (mut waits, device) = (Waits::new(4), Fake::default());
        let old = |ns: u64| Time(ns + THROTTLE_NS);
        assert_eq!(begun(waits.begin_throttle(Time(5), 1, &device)), Ok(Some(-9)));
        device.queued.replace(vec![10, 20, 30]);
        assert_eq!(begun(waits.begin_throttle(old(9), 1, &device)), Ok(Some(-9)));
        assert_eq!(begun(waits.begin_throttle(old(10), 2, &device)), Ok(None));
        assert_eq!(begun(waits.begin_throttle(old(25), 3, &device)), Ok(None));
        assert_eq!(*device.tokens.borrow(), [2], "one watch for all");
        assert_eq!(begun(waits.begin_throttle(old(30), 4, &device)), Ok(None));
        device.queued.replace(vec![20, 30]);
        waits.fired(Time(0), 2, 0, &device);
        assert_eq!(finished(&waits), [(2, Some(-9))]);
        device.queued.replace(vec![30]);
        waits.fired(Time(0), 3, 0, &device);
        assert_eq!(finished(&waits), [(2, Some(-9)), (3, Some(-9))]);
        waits.cancel(&device);
        assert_eq!(device.taken_back.borrow().len(), 1);
    }
}
