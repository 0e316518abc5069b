//! BUFFER_WAIT: replies that come when a buffer is idle, or the time is over.
//!
//! The device is asked to watch a buffer once, however many waits there are for it, and both waits
//! and watches are limited: a client that waits for a nanosecond in a loop, on a buffer that never
//! becomes idle, costs no more than one that waits once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use gpu_broker_core::Time;
use gpu_broker_protocol::message::{BufferWait, Waited};
use gpu_broker_protocol::{BufferId, Reason, Refusal};
use tokio::time::Sleep;

use crate::clock::Clock;

/// What a wait asks of the session's device.
pub(crate) trait Watch {
    /// See [`gpu_broker_device::DeviceFile::watch_buffer`].
    ///
    /// # Errors
    /// [`Reason::NoSuchBuffer`].
    fn watch(&self, buffer: BufferId, token: u64) -> Result<bool, Refusal>;

    /// Whether work uses the buffer.
    ///
    /// # Errors
    /// [`Reason::NoSuchBuffer`].
    fn is_busy(&self, buffer: BufferId) -> Result<bool, Refusal>;
}

/// How a wait ended.
pub(crate) type Ended = Result<Waited, Refusal>;

/// The waits of one session.
#[derive(Default)]
pub(crate) struct Waits {
    watches: Vec<Watched>,
    waiting: Vec<Waiting>,
    finished: VecDeque<(u32, Ended)>,
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
    buffer: BufferId,
    needs: Needs,
    timeout_ns: i64,
    /// Nanoseconds on the daemon's clock; `None` waits for ever.
    deadline: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// This watch began when the wait did, or later: it is what the wait is for.
    Watch(u64),
    /// This watch is older than the wait, which may be for newer work; a new watch follows it.
    OneAfter(u64),
}

impl Waits {
    /// Begins a wait: `Some` if it ends at once, otherwise [`Self::poll_finished`] tells.
    ///
    /// # Errors
    /// [`Reason::WaitFlags`], [`Reason::NoSuchBuffer`], [`Reason::WaitTimeout`] or
    /// [`Reason::WaitLimit`] (rule table §17).
    pub(crate) fn begin(
        &mut self,
        now: Time,
        seq: u32,
        request: &BufferWait,
        limit: u32,
        device: &impl Watch,
    ) -> Result<Option<Waited>, Refusal> {
        if request.flags != 0 {
            return Err(Reason::WaitFlags.into());
        }
        if !device.is_busy(request.buffer)? {
            return Ok(Some(Waited { remaining_ns: request.timeout_ns }));
        }
        if request.timeout_ns == 0 {
            return Err(Reason::WaitTimeout.into());
        }
        let limit = limit as usize;
        if self.waiting.len().saturating_add(self.finished.len()) >= limit {
            return Err(Reason::WaitLimit.into());
        }
        let watched = self.watches.iter().find(|watch| watch.buffer == Some(request.buffer));
        let needs = match watched {
            Some(watch) => Needs::OneAfter(watch.token),
            None if self.watches.len() >= limit => return Err(Reason::WaitLimit.into()),
            None => match self.watch(request.buffer, device)? {
                Some(token) => Needs::Watch(token),
                None => return Ok(Some(Waited { remaining_ns: request.timeout_ns })),
            },
        };
        let deadline = u64::try_from(request.timeout_ns).ok().map(|ns| now.0.saturating_add(ns));
        self.waiting.push(Waiting {
            seq,
            buffer: request.buffer,
            needs,
            timeout_ns: request.timeout_ns,
            deadline,
        });
        Ok(None)
    }

    /// A handle was closed. Waits go on for the work they know of, as the kernel's do.
    pub(crate) fn forget_buffer(&mut self, buffer: BufferId) {
        for watch in &mut self.watches {
            if watch.buffer == Some(buffer) {
                watch.buffer = None;
            }
        }
        for wait in &mut self.waiting {
            if let (true, Needs::OneAfter(token)) = (wait.buffer == buffer, wait.needs) {
                wait.needs = Needs::Watch(token);
            }
        }
    }

    /// A watch has fired.
    pub(crate) fn fired(&mut self, now: Time, token: u64, device: &impl Watch) {
        self.watches.retain(|watch| watch.token != token);
        self.settle(now, Needs::Watch(token));
        let successor = self.waiting.iter().find(|wait| wait.needs == Needs::OneAfter(token));
        let Some(buffer) = successor.map(|wait| wait.buffer) else { return };
        match self.watch(buffer, device) {
            Ok(Some(next)) => {
                for wait in &mut self.waiting {
                    if wait.needs == Needs::OneAfter(token) {
                        wait.needs = Needs::Watch(next);
                    }
                }
            }
            // Idle.
            Ok(None) | Err(_) => self.settle(now, Needs::OneAfter(token)),
        }
    }

    /// The next wait that has ended, with the sequence number of its request.
    pub(crate) fn poll_finished(
        &mut self,
        cx: &mut Context<'_>,
        clock: Clock,
    ) -> Poll<(u32, Ended)> {
        loop {
            if let Some(finished) = self.finished.pop_front() {
                return Poll::Ready(finished);
            }
            let Some(earliest) = self.waiting.iter().filter_map(|wait| wait.deadline).min() else {
                self.timer = None;
                return Poll::Pending;
            };
            let now = clock.now();
            if earliest <= now.0 {
                self.expire(now);
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

    /// Asks the device to watch; `None` if the buffer is idle.
    fn watch(&mut self, buffer: BufferId, device: &impl Watch) -> Result<Option<u64>, Refusal> {
        let token = self.last_token.wrapping_add(1);
        self.last_token = token;
        if device.watch(buffer, token)? {
            return Ok(None);
        }
        self.watches.push(Watched { token, buffer: Some(buffer) });
        Ok(Some(token))
    }

    /// Ends the waits that needed this.
    fn settle(&mut self, now: Time, met: Needs) {
        let finished = &mut self.finished;
        self.waiting.retain(|wait| {
            if wait.needs == met {
                let remaining_ns = match wait.deadline {
                    None => wait.timeout_ns,
                    Some(end) => i64::try_from(end.saturating_sub(now.0)).unwrap_or(i64::MAX),
                };
                finished.push_back((wait.seq, Ok(Waited { remaining_ns })));
            }
            wait.needs != met
        });
    }

    /// Ends the waits whose time is over.
    fn expire(&mut self, now: Time) {
        let finished = &mut self.finished;
        self.waiting.retain(|wait| {
            let over = wait.deadline.is_some_and(|deadline| deadline <= now.0);
            if over {
                finished.push_back((wait.seq, Err(Reason::WaitTimeout.into())));
            }
            !over
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A device with one busy buffer, number 1.
    #[derive(Default)]
    struct Fake {
        idle: Cell<bool>,
        tokens: RefCell<Vec<u64>>,
    }

    impl Watch for Fake {
        fn watch(&self, buffer: BufferId, token: u64) -> Result<bool, Refusal> {
            if buffer != BufferId(1) {
                return Err(Reason::NoSuchBuffer.into());
            }
            self.tokens.borrow_mut().push(token);
            Ok(self.idle.get())
        }

        fn is_busy(&self, buffer: BufferId) -> Result<bool, Refusal> {
            if buffer != BufferId(1) {
                return Err(Reason::NoSuchBuffer.into());
            }
            Ok(!self.idle.get())
        }
    }

    fn request(timeout_ns: i64) -> BufferWait {
        BufferWait { buffer: BufferId(1), flags: 0, timeout_ns }
    }

    fn finished(waits: &Waits) -> Vec<(u32, Option<i64>)> {
        waits
            .finished
            .iter()
            .map(|(seq, end)| (*seq, end.as_ref().ok().map(|waited| waited.remaining_ns)))
            .collect()
    }

    #[test]
    fn what_can_be_answered_at_once_is() {
        let (mut waits, device) = (Waits::default(), Fake::default());
        let mut begin = |request: &BufferWait| waits.begin(Time(0), 1, request, 4, &device);
        let reason = |answer: Result<_, Refusal>| answer.map_err(|refusal| refusal.reason);
        assert_eq!(reason(begin(&BufferWait { flags: 1, ..request(5) })), Err(Reason::WaitFlags));
        let stranger = BufferWait { buffer: BufferId(2), ..request(5) };
        assert_eq!(reason(begin(&stranger)), Err(Reason::NoSuchBuffer));
        assert_eq!(reason(begin(&request(0))), Err(Reason::WaitTimeout));
        device.idle.set(true);
        assert_eq!(reason(begin(&request(0))), Ok(Some(Waited { remaining_ns: 0 })));
        assert_eq!(reason(begin(&request(-7))), Ok(Some(Waited { remaining_ns: -7 })));
    }

    #[test]
    fn a_later_wait_needs_a_later_watch() {
        let (mut waits, device) = (Waits::default(), Fake::default());
        for seq in 1..=3 {
            assert_eq!(waits.begin(Time(100), seq, &request(1000), 8, &device), Ok(None));
        }
        assert_eq!(*device.tokens.borrow(), [1], "one watch for all");
        waits.fired(Time(300), 1, &device);
        assert_eq!(finished(&waits), [(1, Some(800))]);
        assert_eq!(*device.tokens.borrow(), [1, 2]);
        waits.fired(Time(2000), 2, &device);
        assert_eq!(finished(&waits), [(1, Some(800)), (2, Some(0)), (3, Some(0))]);
        assert!(waits.watches.is_empty() && waits.waiting.is_empty());
    }

    #[test]
    fn waits_that_time_out_leave_one_watch_and_the_limit_holds() {
        let (mut waits, device) = (Waits::default(), Fake::default());
        for round in 0..1000 {
            assert_eq!(waits.begin(Time(round), 1, &request(1), 4, &device), Ok(None));
            waits.expire(Time(round + 1));
            assert_eq!(finished(&waits), [(1, None)]);
            waits.finished.clear();
        }
        assert_eq!(waits.watches.len(), 1);
        for seq in 0..4 {
            assert_eq!(waits.begin(Time(0), seq, &request(-1), 4, &device), Ok(None));
        }
        let refused = waits.begin(Time(0), 5, &request(-1), 4, &device);
        assert_eq!(refused.map_err(|refusal| refusal.reason), Err(Reason::WaitLimit));
    }

    #[test]
    fn a_closed_handle_does_not_lend_its_watch_to_the_next_buffer() {
        let (mut waits, device) = (Waits::default(), Fake::default());
        assert_eq!(waits.begin(Time(0), 1, &request(-1), 8, &device), Ok(None));
        assert_eq!(waits.begin(Time(0), 2, &request(-1), 8, &device), Ok(None));
        waits.forget_buffer(BufferId(1));
        assert_eq!(waits.begin(Time(0), 3, &request(-1), 8, &device), Ok(None));
        assert_eq!(*device.tokens.borrow(), [1, 2]);
        waits.fired(Time(9), 1, &device);
        assert_eq!(finished(&waits), [(1, Some(-1)), (2, Some(-1))]);
    }
}
