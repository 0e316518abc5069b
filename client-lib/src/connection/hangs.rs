//! Batches that died: the events that come unasked, and what the daemon remembers.

use std::time::{Duration, Instant};

use gpu_broker_protocol::hang::{HangDump, HangEvent, HangPage};

use super::{Connection, Shared, Turn};
use crate::calls;
use crate::error::Error;
use crate::scratch::Scratch;
use crate::socket;

/// How often a session that several processes share is looked at for events.
const SHARED_RHYTHM: Duration = Duration::from_millis(10);

impl Connection {
    /// The next batch of this session that died: who, where, and in which command. Waits for one for
    /// as long as `timeout`, for ever without one; `None` when there was none.
    ///
    /// Events wait here until they are asked for; of more than a few the oldest are dropped, and the
    /// next one says how many in `lost`. While requests are made by other threads, events come with
    /// their answers; otherwise the socket is readable when there is one.
    ///
    /// In a session that several processes share, one of them gets each event.
    ///
    /// # Errors
    /// The connection's.
    pub fn next_hang(&self, timeout: Option<Duration>) -> Result<Option<HangEvent>, Error> {
        self.shared.next_hang(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// The hangs the daemon remembers and this peer may see, with numbers below `before`, the last
    /// first: one page.
    ///
    /// # Errors
    /// The connection's.
    pub fn hangs(&self, before: u64) -> Result<HangPage, Error> {
        self.call(calls::hang_list(before))
    }

    /// What the daemon keeps of a hang.
    ///
    /// # Errors
    /// Refused with `no-such-hang` (ENOENT).
    pub fn hang(&self, hang: u64) -> Result<HangDump, Error> {
        self.call(calls::hang_show(hang))
    }

    /// Bytes of a region of its dump from `offset` on, as many as one message brings; none at the
    /// end.
    ///
    /// # Errors
    /// As [`Self::hang`].
    pub fn hang_bytes(&self, hang: u64, region: u32, offset: u64) -> Result<Vec<u8>, Error> {
        self.call(calls::hang_read(hang, region, offset))
    }
}

impl Shared {
    /// Waits for a hang event until a moment, reading for everybody if nobody else does.
    fn next_hang(&self, until: Option<Instant>) -> Result<Option<HangEvent>, Error> {
        if !self.generation.is_current() {
            return Err(Error::Forked);
        }
        loop {
            if self.together.is_shared() {
                return self.next_hang_shared(until);
            }
            let mut inbox = self.inbox();
            if let Some(event) = inbox.hangs.pop() {
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
                inbox.hang_waiters.push(std::thread::current());
                drop(inbox);
                match left {
                    Some(left) => std::thread::park_timeout(left),
                    None => std::thread::park(),
                }
                let own = std::thread::current().id();
                self.inbox().hang_waiters.retain(|waiter| waiter.id() != own);
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
    fn next_hang_shared(&self, until: Option<Instant>) -> Result<Option<HangEvent>, Error> {
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
            if let Some(event) = inbox.hangs.pop() {
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
