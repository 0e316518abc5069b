//! One `SOCK_SEQPACKET` socket: packets out and in, with their file descriptors.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpu_broker_protocol::Violation;
use gpu_broker_protocol::limits::FDS_PER_MESSAGE_MAX;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::Error;
use crate::proto::Fds;

/// Where the broker listens when nobody says otherwise: `$GPU_BROKER_SOCKET`, else
/// `gpu-broker.sock` in `$XDG_RUNTIME_DIR`, else `/run/gpu-broker/gpu-broker.sock`.
#[must_use]
pub fn default_socket_path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = variable("GPU_BROKER_SOCKET") {
        return path.into();
    }
    match variable("XDG_RUNTIME_DIR") {
        Some(directory) => Path::new(&directory).join("gpu-broker.sock"),
        None => "/run/gpu-broker/gpu-broker.sock".into(),
    }
}

/// Connects to the socket at `path`.
///
/// # Errors
/// [`Error::Connect`].
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, Error> {
    let attempt = || {
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        Ok(socket)
    };
    attempt().map_err(|errno: Errno| Error::Connect { path: path.to_owned(), source: errno.into() })
}

/// Checks that an fd from elsewhere is a connected `SOCK_SEQPACKET` socket.
///
/// # Errors
/// [`Error::NotASocket`].
pub(crate) fn check(fd: &OwnedFd) -> Result<(), Error> {
    let is_seqpacket = rustix::net::sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET);
    if is_seqpacket && rustix::net::getpeername(fd).is_ok() {
        Ok(())
    } else {
        Err(Error::NotASocket)
    }
}

/// Sends one packet. `EAGAIN` (someone made the socket non-blocking) waits for room.
///
/// # Errors
/// The kernel's errno; `EPIPE` or `ECONNRESET` when the daemon is gone, whose last words may
/// still be there to read.
pub(crate) fn send(socket: &OwnedFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    loop {
        let result = if fds.is_empty() {
            rustix::net::send(socket, packet, SendFlags::NOSIGNAL)
        } else {
            send_with_fds(socket, packet, fds)
        };
        match result {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(socket, PollFlags::OUT)?,
            Err(errno) => return Err(errno),
        }
    }
}

fn send_with_fds(socket: &OwnedFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)
}

/// What [`receive`] brought.
#[derive(Debug)]
pub(crate) enum Received {
    /// A packet of so many bytes, and its fds.
    Packet(usize, Fds),
    /// The daemon closed the connection.
    Closed,
    /// The packet or its fds did not fit: the other side is no broker.
    Violation(Violation),
}

/// Whether something can be received within a time, `None` being for ever.
///
/// # Errors
/// Of the system.
pub(crate) fn readable(socket: &OwnedFd, within: Option<Duration>) -> Result<bool, Errno> {
    // A time that the kernel cannot count is as good as for ever.
    let timeout = within.and_then(|within| Timespec::try_from(within).ok());
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            // The caller knows how much time is left, and comes back.
            Err(Errno::INTR) if timeout.is_none() => {}
            Err(Errno::INTR) => return Ok(false),
            other => return other.map(|ready| ready > 0),
        }
    }
}

thread_local! {
    static INTERRUPTIONS: Cell<u64> = const { Cell::new(0) };
    static WAITS_BY: Cell<Option<fn(BorrowedFd<'_>)>> = const { Cell::new(None) };
}

/// How often handlers of signals have interrupted this thread while it waited for an answer. Those
/// that were installed with SA_RESTART do not, as with any call that the kernel begins anew. A
/// thread for which another one reads the socket is not interrupted.
#[must_use]
pub fn interruptions() -> u64 {
    INTERRUPTIONS.with(Cell::get)
}

/// What this thread calls from now on to wait for an answer when it reads the socket, instead of
/// leaving that to the kernel, for example with another signal mask. It returns when there may be
/// something to receive, or when it likes: as long as nothing is there, it is called again.
pub fn wait_by(wait: Option<fn(BorrowedFd<'_>)>) {
    WAITS_BY.with(|place| place.set(wait));
}

/// Receives one packet, waiting for it. Every fd is owned, close-on-exec, from the first moment.
///
/// # Errors
/// The kernel's errno.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut resets = 0;
    let waits_by = WAITS_BY.with(Cell::get);
    let flags = if waits_by.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
    loop {
        if let Some(wait) = waits_by {
            wait(socket.as_fd());
        }
        match receive_once(socket, buffer, flags) {
            Err(Errno::AGAIN) if waits_by.is_some() => {}
            Err(Errno::INTR) => INTERRUPTIONS.with(|count| count.set(count.get() + 1)),
            Err(Errno::AGAIN) => wait_for(socket, PollFlags::IN)?,
            // The kernel reports the reset once, before what is still queued: the epitaph.
            Err(Errno::CONNRESET) if resets == 0 => resets += 1,
            Err(Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN) => return Ok(Received::Closed),
            other => return other,
        }
    }
}

fn receive_once(socket: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> Result<Received, Errno> {
    // Room for one fd too many, so that an excess is seen as such. Truncation without an excess
    // then means that this process could not take the fds: it has too many open already.
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Fds::default();
    let mut excess = false;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            for fd in received {
                excess |= fds.push(fd).is_err();
            }
        }
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Received::Violation(Violation::TooLong));
    }
    if excess {
        return Ok(Received::Violation(Violation::FdCount));
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        fds.cut_short();
    }
    if message.bytes == 0 {
        return Ok(Received::Closed);
    }
    Ok(Received::Packet(message.bytes, fds))
}

fn wait_for(socket: &OwnedFd, what: PollFlags) -> Result<(), Errno> {
    let mut set = [PollFd::from_borrowed_fd(socket.as_fd(), what)];
    match rustix::event::poll(&mut set, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
