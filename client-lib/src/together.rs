//! One session used by several processes, as a device file is that was inherited or passed on.
//!
//! They have the same socket, and answers come to whoever reads. So once a session is shared, each
//! request and its answer are one turn, and whose turn it is a POSIX lock on the socket says: it is
//! between processes, and the kernel takes it back from one that dies. Answers to a process that
//! died are thrown away. One that is stopped in the middle of a turn keeps the others waiting until
//! it continues or dies; nobody else is affected.
//!
//! Such a lock has a trap: the kernel also takes it back when its process closes *any* fd of that
//! socket, in whatever thread. Locks of open file descriptions have no such trap, but a forked child
//! has the same description. So closing an fd that may be the session's takes a [`Quiet`], during
//! which no turn is under way, and a turn whose lock may have been lost while it was waited for is
//! begun anew. For the same reason a process must not have two connections over one socket.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gpu_broker_protocol::message::HelloReply;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::{Errno, retry_on_intr};

use crate::connection::{Connection, Shared};
use crate::error::Error;
use crate::socket;

/// How long [`Connection::share`] waits for requests that were made before it.
const SETTLING_MAX: Duration = Duration::from_secs(10);

/// Whether a session is shared, and whose turn it is in this process.
#[derive(Debug, Default)]
pub(crate) struct Together {
    shared: AtomicBool,
    turn: Mutex<()>,
    /// Held while the lock on the socket must not be lost.
    calm: Mutex<()>,
    /// How often fds have been closed; changes under `calm`.
    closed: AtomicU64,
}

/// A turn; dropping it ends it.
pub(crate) struct Mine<'a> {
    socket: &'a OwnedFd,
    _calm: MutexGuard<'a, ()>,
    _turn: MutexGuard<'a, ()>,
}

/// Between two turns of this process, while it lives: [`Connection::quiet`].
#[derive(Debug)]
pub struct Quiet<'a> {
    closed: &'a AtomicU64,
    _calm: MutexGuard<'a, ()>,
}

impl Together {
    /// One that is shared already.
    pub(crate) fn shared() -> Self {
        Self { shared: AtomicBool::new(true), ..Self::default() }
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Acquire)
    }

    /// Waits for a turn; a session that is not shared needs none.
    ///
    /// # Errors
    /// The kernel's: ENOLCK.
    pub(crate) fn enter<'a>(&'a self, socket: &'a OwnedFd) -> Result<Option<Mine<'a>>, Errno> {
        if !self.is_shared() {
            return Ok(None);
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let closed = self.closed.load(Ordering::Relaxed);
            retry_on_intr(|| fcntl_lock(socket, FlockOperation::LockExclusive))?;
            let calm = self.calm.lock().unwrap_or_else(PoisonError::into_inner);
            // Otherwise an fd was closed meanwhile, perhaps after the lock was ours.
            if self.closed.load(Ordering::Relaxed) == closed {
                return Ok(Some(Mine { socket, _calm: calm, _turn: turn }));
            }
        }
    }

    fn quiet(&self) -> Option<Quiet<'_>> {
        if !self.is_shared() {
            return None;
        }
        let calm = self.calm.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Quiet { closed: &self.closed, _calm: calm })
    }
}

impl Drop for Quiet<'_> {
    /// Counts when the fd is closed: who has counted before may have had the lock before, too.
    fn drop(&mut self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        // Of a lock that is held there is nothing to fail but the fd, which is ours.
        let _ = fcntl_lock(self.socket, FlockOperation::Unlock);
    }
}

impl Connection {
    /// Joins a session that another process began and shares ([`Self::share`]), over its socket.
    /// `hello` is what it began with, or what this daemon says to a new session of this process.
    ///
    /// # Errors
    /// [`Error::NotASocket`].
    pub fn join(fd: OwnedFd, hello: HelloReply) -> Result<Self, Error> {
        socket::check(&fd)?;
        // Numbers far from those of the others, so that an answer left over is not taken for ours.
        let first = std::process::id().wrapping_mul(0x9e37_79b1);
        Ok(Self::new(Arc::new(Shared::joined(fd, hello, first))))
    }

    /// Must be called before another process gets the session's socket. Requests are slower from
    /// then on, and one that waits keeps the others waiting.
    ///
    /// Requests that other threads have on the way are waited for, at most ten seconds: after that
    /// their answers may get lost.
    pub fn share(&self) {
        let together = &self.shared().together;
        if together.shared.swap(true, Ordering::AcqRel) {
            return;
        }
        let _turn = together.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let end = Instant::now() + SETTLING_MAX;
        while self.shared().is_waiting() && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// To be held while an fd of the session's socket is closed, if the session is shared: the
    /// kernel takes this process's turn away with any such fd. Waits for a turn that is under way.
    #[must_use]
    pub fn quiet(&self) -> Option<Quiet<'_>> {
        self.shared().together.quiet()
    }

    /// Whether other processes may use the session.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared().together.is_shared()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn turns_are_only_taken_when_the_session_is_shared() {
        let flags = SocketFlags::CLOEXEC;
        let (socket, _other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets");
        let alone = Together::default();
        assert!(alone.enter(&socket).expect("no lock").is_none());
        let together = Together::shared();
        let first = together.enter(&socket).expect("a lock");
        assert!(first.is_some());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| together.enter(&socket).expect("a lock").is_some());
            drop(first);
            assert!(second.join().expect("no panic"));
        });
    }
}
