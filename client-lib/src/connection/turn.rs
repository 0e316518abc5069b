//! Reading the socket for everybody.

use std::thread::Thread;

use gpu_broker_protocol::Violation;

use super::Shared;
use crate::error::Error;
use crate::proto::{self, Answer, Arrival, Ending, Fds};
use crate::scratch::Scratch;
use crate::socket::{self, Received};

/// The right to read the socket. Dropping it passes the right on.
pub(super) struct Turn<'a> {
    pub(super) shared: &'a Shared,
    pub(super) buffer: Scratch,
}

impl Turn<'_> {
    /// Reads until the answer to `seq` comes; other answers go to those who wait for them.
    /// `None` when the connection ended instead.
    pub(super) fn read_until<T>(
        &mut self,
        seq: u32,
        decode: impl FnOnce(Answer<'_>, Fds) -> Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        loop {
            let (length, fds) = self.receive()?;
            let packet = self.buffer.get(..length).unwrap_or_default();
            match proto::sort(packet) {
                Ok(Arrival::Answer(answer)) if answer.seq == seq => {
                    let mut inbox = self.shared.inbox();
                    let known = inbox.ledger.position(&answer);
                    inbox.ledger.close(seq);
                    drop(inbox);
                    return Some(match known {
                        Ok(_) => decode(answer, fds),
                        Err(violation) => Err(Error::Protocol(violation)),
                    });
                }
                other => self.pass_on(other, packet, fds)?,
            }
        }
    }

    /// Reads one packet, which nobody here waits for.
    pub(super) fn read_for_others(&mut self) {
        if let Some((length, fds)) = self.receive() {
            let packet = self.buffer.get(..length).unwrap_or_default();
            // `None` has recorded the end.
            let _ = self.pass_on(proto::sort(packet), packet, fds);
        }
    }

    /// Receives one packet; `None` when the connection ended instead.
    fn receive(&mut self) -> Option<(usize, Fds)> {
        let ending = match socket::receive(&self.shared.socket, &mut self.buffer) {
            Ok(Received::Packet(length, fds)) => return Some((length, fds)),
            Ok(Received::Closed) => Ending::Closed,
            Ok(Received::Violation(violation)) => Ending::Violation(violation),
            // The packet may be gone, and whose answer it was nobody knows.
            Err(errno) => Ending::Lost(errno),
        };
        self.shared.end(ending);
        None
    }

    /// Gives what was read to whom it belongs; `None` when it was the end of the connection.
    fn pass_on(
        &self,
        arrival: Result<Arrival<'_>, Violation>,
        packet: &[u8],
        fds: Fds,
    ) -> Option<()> {
        let ending = match arrival {
            // The answer to a process that died before it came.
            Ok(Arrival::Answer(_)) if self.shared.together.is_shared() => return Some(()),
            // A statement of its own: `end` takes the lock that `inbox` holds.
            Ok(Arrival::Answer(answer)) => {
                let delivered = self.shared.inbox().deliver(&answer, packet, fds);
                let Err(violation) = delivered else { return Some(()) };
                Ending::Violation(violation)
            }
            Ok(Arrival::Hang(event)) => {
                self.shared.inbox().hung(event);
                return Some(());
            }
            Ok(Arrival::Admin(event)) => {
                self.shared.inbox().told(event);
                return Some(());
            }
            Ok(Arrival::Epitaph(epitaph)) => Ending::Epitaph(epitaph),
            Err(violation) => Ending::Violation(violation),
        };
        self.shared.end(ending);
        None
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inbox = self.shared.inbox();
        inbox.reading = false;
        // One sleeper whose answer has not come must read now. A thread that comes in between
        // may take the right first; it passes it on in turn.
        let sleepers = inbox.ledger.waiters().filter(|waiter| waiter.packet.is_none());
        let woken = sleepers.filter_map(|waiter| waiter.thread.as_ref()).next().map(Thread::unpark);
        if woken.is_none() {
            inbox.event_waiters.drain(..).for_each(|waiter| waiter.unpark());
        }
    }
}
