//! Fences as fds: one end of a socket pair, on which one packet arrives when the fence signals.
//!
//! The packet is `{errno: i32 LE (0 is success), 4 bytes 0}`; the device closes its end after it.
//! Holders poll for readability and look at the packet without taking it (MSG_PEEK), so that all of
//! them see it. An end of file without a packet means that the daemon died: EIO.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::buffer::refusal;
use super::fence::Fence;
use super::limits::{Permit, Quota};
use super::signal::{EIO, Signal, Waiter};
use crate::DeviceError;

/// Bytes of the packet.
const PACKET_BYTES: usize = 8;

/// Fence fds whose fence has not signalled, by the cookie of the client's end: a number the kernel
/// gives to one socket and never again.
#[derive(Debug, Default)]
pub(super) struct Exports {
    pending: Mutex<HashMap<u64, Arc<Signal>>>,
}

/// The device's end.
#[derive(Debug)]
pub(super) struct Export {
    socket: OwnedFd,
    cookie: u64,
    exports: Arc<Exports>,
    _permit: Permit,
}

impl Export {
    /// Sends the packet. Whoever closed the other end does not want it.
    pub(super) fn fire(self, errno: i32) {
        send(self.socket.as_fd(), errno);
        // Only now: until the packet is there, the table says what the fd is.
        self.exports.lock().remove(&self.cookie);
    }
}

impl Exports {
    /// Makes an fd of a fence.
    ///
    /// # Errors
    /// Out of fds or memory.
    pub(super) fn export(
        self: &Arc<Self>,
        fence: &Fence,
        fds: &Arc<Quota>,
    ) -> Result<OwnedFd, DeviceError> {
        let permit = fds.take()?;
        let os = |errno| refusal(errno, "making a fence");
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(os)?;
        let Some(signal) = fence.pending() else {
            send(ours.as_fd(), fence.result().unwrap_or(EIO));
            return Ok(theirs);
        };
        let cookie = sockopt::socket_cookie(&theirs).map_err(os)?;
        self.lock().insert(cookie, Arc::clone(signal));
        let export = Export { socket: ours, cookie, exports: Arc::clone(self), _permit: permit };
        if let Err(Waiter::Export(export)) = signal.wait(Waiter::Export(export)) {
            export.fire(signal.state().unwrap_or(EIO));
        }
        Ok(theirs)
    }

    /// The fence behind an fd.
    ///
    /// # Errors
    /// [`DeviceError::NotAFence`] for anything that [`Self::export`] did not make.
    pub(super) fn import(&self, fd: BorrowedFd<'_>) -> Result<Fence, DeviceError> {
        let cookie = sockopt::socket_cookie(fd).map_err(|_| DeviceError::NotAFence)?;
        if let Some(signal) = self.lock().get(&cookie) {
            return Ok(Fence::of(Arc::clone(signal)));
        }
        // It has signalled, or is not ours. A pair made here has this process on both ends.
        let peer = sockopt::socket_peercred(fd).map_err(|_| DeviceError::NotAFence)?;
        if peer.pid != rustix::process::getpid() {
            return Err(DeviceError::NotAFence);
        }
        peek(fd).map(Fence::done).ok_or(DeviceError::NotAFence)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Signal>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(socket: BorrowedFd<'_>, errno: i32) {
    let mut packet = [0; PACKET_BYTES];
    packet[..4].copy_from_slice(&errno.to_le_bytes());
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // EPIPE: nobody holds the other end. The queue of a new pair has room for one packet.
    let sent = rustix::net::send(socket, &packet, flags);
    debug_assert!(matches!(sent, Ok(PACKET_BYTES) | Err(Errno::PIPE | Errno::CONNRESET)));
}

/// The errno in the packet, if there is one and it is one of ours.
fn peek(fd: BorrowedFd<'_>) -> Option<i32> {
    // One byte more than a packet has: a longer one shows.
    let mut packet = [0u8; PACKET_BYTES + 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (len, _) = rustix::net::recv(fd, &mut packet[..], flags).ok()?;
    let (errno, zeros) = packet.get(..len)?.split_first_chunk::<4>()?;
    let errno = i32::from_le_bytes(*errno);
    (zeros == [0; 4] && (0..4096).contains(&errno)).then_some(errno)
}
