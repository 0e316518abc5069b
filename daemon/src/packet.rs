//! Packets in and out of a socket, with the fds they carry.
//!
//! A connection has no buffers of its own: readiness comes first, then one scratch buffer per
//! thread is used for as long as it takes to answer. That keeps an idle client at some hundred
//! bytes and costs nothing (`performance.md`, "Idle client memory").

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use gpu_broker_protocol::limits::{FDS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX};
use gpu_broker_protocol::{Header, Reason, Refusal, Violation, codec};
use rustix::cmsg_space;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags,
};
use smallvec::SmallVec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The fds of one packet.
pub(crate) type Fds = SmallVec<[OwnedFd; FDS_PER_MESSAGE_MAX]>;

/// Most fds the kernel passes with one packet (`SCM_MAX_FD`). There is room for all of them: those
/// it has no room for, it closes in our thread, and a close can block (see [`crate::fds`]).
const FDS_PER_PACKET_MAX: usize = 253;

/// Bytes of their control message.
const CONTROL_BYTES: usize = cmsg_space!(ScmRights(FDS_PER_PACKET_MAX));

/// Buffers that the connections of one thread share.
pub(crate) struct Scratch {
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Vec<u8>,
}

/// Where a packet is received.
pub(crate) struct Inbound {
    bytes: Box<[u8]>,
    control: Box<[MaybeUninit<u8>]>,
}

impl Inbound {
    /// The first bytes of the packet received last.
    pub(crate) fn bytes(&self, length: usize) -> &[u8] {
        self.bytes.get(..length).unwrap_or_default()
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        inbound: Inbound {
            bytes: vec![0; MESSAGE_BYTES_MAX].into(),
            control: vec![MaybeUninit::uninit(); CONTROL_BYTES].into(),
        },
        outbound: Vec::with_capacity(MESSAGE_BYTES_MAX),
    });
}

/// Lends this thread's buffers. `f` must not call this again.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(f)
}

/// What a receive brought. Its fds are for [`crate::fds::dispose`] in the end.
pub(crate) enum Received {
    /// The peer has hung up (or sent an empty packet, which looks the same).
    End(Fds),
    /// So many bytes, and these fds.
    Packet(usize, Fds),
    /// A packet whose fds this process had no room for.
    Starved(usize, Fds),
    /// A packet that breaks the protocol by its size or its number of fds.
    Violation(Violation, Fds),
}

/// A packet the socket had no room for yet.
pub(crate) struct Unsent {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) fds: Fds,
}

/// A socket that clients connect to.
///
/// Not tokio-seqpacket's: what that accepts it watches for packets and for room, which would have to be
/// changed for each connection (see [`Socket`]).
pub(crate) struct Acceptor(AsyncFd<OwnedFd>);

impl Acceptor {
    /// Takes over a socket that listens and does not block.
    ///
    /// # Errors
    /// The kernel cannot watch it (ENOMEM, ENOSPC).
    pub(crate) fn new(listening: OwnedFd) -> io::Result<Self> {
        watch(listening, Interest::READABLE).map(Self)
    }

    /// Accepts one connection. Takes part in tokio's cooperative budget.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(self.0.get_ref(), flags) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                accepted => return Poll::Ready(accepted.map_err(io::Error::from)),
            }
        }
    }
}

/// A client's socket.
///
/// It is watched for packets only. Watched for room as well, it would wake the daemon for every reply
/// a client reads, which is a fifth of what a small request costs. Room is watched for while a reply
/// waits for it.
pub(crate) struct Socket {
    /// `None` when it could not be watched any more.
    fd: Option<AsyncFd<OwnedFd>>,
    watches_room: bool,
    /// The kernel said that there is a packet, and none was received since.
    announced: Cell<bool>,
    /// The last look behind a packet found another. Who takes turns with us on one processor has
    /// sent the next request by then; of many clients hardly one has.
    expects_more: Cell<bool>,
    /// Nothing was received yet. A client's first packet comes close behind its connection, and the
    /// kernel has not said so when it is looked for.
    fresh: Cell<bool>,
}

impl Socket {
    /// Takes over a connection.
    ///
    /// # Errors
    /// The kernel cannot watch it (ENOMEM, ENOSPC).
    pub(crate) fn new(accepted: OwnedFd) -> io::Result<Self> {
        let fd = watch(accepted, Interest::READABLE)?;
        let (announced, expects_more, fresh) = (Cell::new(true), Cell::new(true), Cell::new(true));
        Ok(Self { fd: Some(fd), watches_room: false, announced, expects_more, fresh })
    }

    /// Gives the socket up to be closed; `None` if it is closed.
    pub(crate) fn into_fd(self) -> Option<OwnedFd> {
        self.fd.map(AsyncFd::into_inner)
    }

    fn watched(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        self.fd.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn watch_room(&mut self, room: bool) -> io::Result<()> {
        if self.watches_room != room {
            let interest =
                if room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let fd = self.fd.take().ok_or(io::ErrorKind::NotConnected)?.into_inner();
            self.fd = Some(watch(fd, interest)?);
            self.watches_room = room;
        }
        Ok(())
    }

    /// Receives one packet. Takes part in tokio's cooperative budget, as every readiness does, so
    /// that one flooding client cannot hold the thread.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        into: &mut Inbound,
    ) -> Poll<io::Result<Received>> {
        let watched = self.watched()?;
        if self.fresh.replace(false)
            && let Ok(received) = receive(watched.get_ref().as_fd(), into)
        {
            return Poll::Ready(Ok(received));
        }
        loop {
            let Poll::Ready(ready) = watched.poll_read_ready(cx) else {
                self.announced.set(true);
                return Poll::Pending;
            };
            let mut ready = ready?;
            let announced = self.announced.get();
            if !announced && !self.expects_more.get() && is_empty(watched.get_ref()) {
                ready.clear_ready();
                continue;
            }
            match receive(watched.get_ref().as_fd(), into) {
                Err(Errno::AGAIN) => {
                    self.expects_more.set(announced && self.expects_more.get());
                    ready.clear_ready();
                }
                Err(Errno::INTR) => {}
                result => {
                    self.expects_more.set(!announced || self.expects_more.get());
                    self.announced.set(false);
                    return Poll::Ready(result.map_err(io::Error::from));
                }
            }
        }
    }

    /// Sends one packet, whole or not at all.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        fds: &[OwnedFd],
    ) -> Poll<io::Result<()>> {
        loop {
            match send(self.watched()?.get_ref().as_fd(), bytes, fds) {
                Err(Errno::AGAIN) => {
                    self.watch_room(true)?;
                    // What is cleared was known before; room made since then is news, and wakes.
                    ready!(self.watched()?.poll_write_ready(cx))?.clear_ready();
                }
                Err(Errno::INTR) => {}
                // The kernel counts fds that were sent and not received, per user; clients that
                // leave theirs lying have used up the daemon's share. The request is refused then.
                Err(Errno::TOOMANYREFS) if !fds.is_empty() => {
                    return match refused(bytes) {
                        Some(refusal) => self.poll_send(cx, &refusal, &[]),
                        None => Poll::Ready(Err(Errno::TOOMANYREFS.into())),
                    };
                }
                Err(errno) => return Poll::Ready(Err(errno.into())),
                Ok(_) => return Poll::Ready(self.watch_room(false)),
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe because a type may answer another fd each time; OwnedFd does not"
)]
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// Whether nothing is queued: a third of what it costs to find out by receiving nothing. A packet
/// that comes after the answer is a new edge, and wakes. An empty packet, which ends a session,
/// does not count, and goes unseen until the next packet or the hang-up.
fn is_empty(socket: &OwnedFd) -> bool {
    ioctl_fionread(socket).is_ok_and(|bytes| bytes == 0)
}

fn receive(socket: BorrowedFd<'_>, into: &mut Inbound) -> Result<Received, Errno> {
    let mut control = RecvAncillaryBuffer::new(&mut into.control);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut into.bytes)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Fds::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    Ok(if message.bytes == 0 {
        Received::End(fds)
    } else if message.flags.contains(ReturnFlags::TRUNC) {
        Received::Violation(Violation::TooLong, fds)
    } else if message.flags.contains(ReturnFlags::CTRUNC) {
        Received::Starved(message.bytes, fds)
    } else if fds.len() > FDS_PER_MESSAGE_MAX {
        Received::Violation(Violation::FdCount, fds)
    } else {
        Received::Packet(message.bytes, fds)
    })
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> Result<usize, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if fds.is_empty() {
        return rustix::net::send(socket, bytes, flags);
    }
    let fds: SmallVec<[BorrowedFd<'_>; FDS_PER_MESSAGE_MAX]> =
        fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::TOOBIG);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// A refusal in place of the given reply.
fn refused(reply: &[u8]) -> Option<Vec<u8>> {
    let (header, _) = Header::split(reply).ok()?;
    let mut bytes = Vec::new();
    let refusal = Refusal::new(Reason::DaemonFds);
    codec::encode_refusal(header.opcode, header.seq, &refusal, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio_seqpacket::UnixSeqpacket;

    use super::*;

    #[tokio::test]
    async fn a_reply_waits_for_room_and_leaves_when_the_client_reads() {
        let (ours, theirs) = UnixSeqpacket::pair().expect("sockets");
        let mut ours = Socket::new(ours.into()).expect("it can be watched");
        let packet = [7; 4096];
        let sent = poll_fn(|cx| {
            let mut sent = 0;
            while ours.poll_send(cx, &packet, &[]).is_ready() {
                sent += 1;
            }
            Poll::Ready(sent)
        })
        .await;
        assert!(sent > 0 && ours.watches_room, "{sent} packets fit");
        let reader = tokio::spawn(async move {
            let mut bytes = [0; 8192];
            for _ in 0..=sent {
                let info = theirs.recv(&mut bytes).await.expect("a packet");
                assert_eq!(info.bytes_read(), packet.len());
            }
        });
        let last = poll_fn(|cx| ours.poll_send(cx, &packet, &[]));
        tokio::time::timeout(Duration::from_secs(30), last).await.expect("woken").expect("sent");
        assert!(!ours.watches_room, "room is of no interest any more");
        reader.await.expect("every packet arrived");
    }

    #[tokio::test]
    async fn packets_that_came_before_the_socket_was_watched_are_received() {
        let (ours, theirs) = UnixSeqpacket::pair().expect("sockets");
        theirs.send(&[1; 8]).await.expect("room");
        theirs.send(&[2; 16]).await.expect("room");
        let mut ours = Socket::new(ours.into()).expect("it can be watched");
        for length in [8, 16] {
            let received =
                poll_fn(|cx| with_scratch(|scratch| ours.poll_receive(cx, &mut scratch.inbound)))
                    .await
                    .expect("a packet");
            assert!(matches!(received, Received::Packet(bytes, _) if bytes == length));
            // Changing what is watched loses nothing that is queued.
            ours.watch_room(true).expect("it can be watched");
        }
        drop(theirs);
        let end = poll_fn(|cx| with_scratch(|scratch| ours.poll_receive(cx, &mut scratch.inbound)));
        assert!(matches!(end.await, Ok(Received::End(_))));
    }
}
