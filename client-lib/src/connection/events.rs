//! Events, which come unasked.

use std::time::{Duration, Instant};

use gpu_broker_protocol::admin::AdminEvent;

use super::{Connection, Inbox, Shared, Turn};
use crate::error::Error;
use crate::scratch::Scratch;
use crate::socket;

/// How often a session that several processes share is looked at for events.
const SHARED_RHYTHM: Duration = Duration::from_millis(10);

impl Connection {
    /// The next event; waits for one for as long as `timeout`, for ever without one. Of more than a
    /// few that were not asked for, the oldest are dropped, and the next one says how many in `lost`.
    ///
    /// # Errors
    /// The connection's.
    pub fn admin_next_event(&self, timeout: Option<Duration>) -> Result<Option<AdminEvent>, Error> {
        self.shared.next_event(timeout, |inbox| inbox.news.pop())
    }
}

impl Shared {
    /// Waits for an event that `pop` finds, reading for everybody if nobody else does.
    pub(super) fn next_event<E>(
        &self,
        timeout: Option<Duration>,
        pop: impl Fn(&mut Inbox) -> Option<E>,
    ) -> Result<Option<E>, Error> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if !self.generation.is_current() {
            return Err(Error::Forked);
        }
        loop {
            if self.together.is_shared() {
                return self.next_event_shared(until, pop);
            }
            let mut inbox = self.inbox();
            if let Some(event) = pop(&mut inbox) {
                return Ok(Some(event));
            }
            if let Some(ending) = inbox.ledger.ended().cloned() {
                return Err(ending.into());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if inbox.reading {
                if left == Some(Duration::ZERO) {
                    return Ok(None);
                }
                inbox.event_waiters.push(std::thread::current());
                drop(inbox);
                match left {
                    Some(left) => std::thread::park_timeout(left),
                    None => std::thread::park(),
                }
                let own = std::thread::current().id();
                self.inbox().event_waiters.retain(|waiter| waiter.id() != own);
                continue;
            }
            inbox.reading = true;
            drop(inbox);
            let mut turn = Turn { shared: self, buffer: Scratch::incoming() };
            match socket::readable(&self.socket, left) {
                // Another thread may have read it before, and then there is nothing to read.
                Ok(true) => turn.read_for_others(),
                Ok(false) => return Ok(None),
                Err(errno) => return Err(Error::io("waiting for the broker", errno)),
            }
        }
    }

    /// The same where other processes read the socket too: only in a turn, so that no answer of
    /// theirs is taken, and without keeping it.
    fn next_event_shared<E>(
        &self,
        until: Option<Instant>,
        pop: impl Fn(&mut Inbox) -> Option<E>,
    ) -> Result<Option<E>, Error> {
        loop {
            {
                let failed = |errno| Error::io("waiting for a turn on the session", errno);
                let _turn = self.together.enter(&self.socket).map_err(failed)?;
                let ready = socket::readable(&self.socket, Some(Duration::ZERO));
                if ready.map_err(|errno| Error::io("waiting for the broker", errno))? {
                    let mut turn = Turn { shared: self, buffer: Scratch::incoming() };
                    turn.read_for_others();
                }
            }
            let mut inbox = self.inbox();
            if let Some(event) = pop(&mut inbox) {
                return Ok(Some(event));
            }
            if let Some(ending) = inbox.ledger.ended().cloned() {
                return Err(ending.into());
            }
            drop(inbox);
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            std::thread::sleep(left.unwrap_or(SHARED_RHYTHM).min(SHARED_RHYTHM));
        }
    }
}
