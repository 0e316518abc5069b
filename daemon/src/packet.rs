//! Packets in and out of a socket, with the fds they carry.
//!
//! A connection has no buffers of its own: readiness comes first, then one scratch buffer per
//! thread is used for as long as it takes to answer. That keeps an idle client at some hundred
//! bytes and costs nothing (`performance.md`, "Idle client memory").

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use gpu_broker_protocol::limits::{FDS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX};
use gpu_broker_protocol::{Header, Reason, Refusal, Violation, codec};
use smallvec::SmallVec;
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage};

/// The fds of one packet.
pub(crate) type Fds = SmallVec<[OwnedFd; FDS_PER_MESSAGE_MAX]>;

/// Most fds the kernel passes with one packet (`SCM_MAX_FD`). There is room for all of them: those
/// it has no room for, it closes in our thread, and a close can block (see [`crate::fds`]).
const FDS_PER_PACKET_MAX: usize = 253;

/// Bytes of `cmsghdr`, then the fds.
const CONTROL_BYTES: usize = (16 + 4 * FDS_PER_PACKET_MAX).next_multiple_of(8);

/// `cmsghdr` wants its alignment.
#[repr(align(8))]
pub(crate) struct Control([u8; CONTROL_BYTES]);

/// Buffers that the connections of one thread share.
pub(crate) struct Scratch {
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Vec<u8>,
}

/// Where a packet is received.
pub(crate) struct Inbound {
    bytes: Box<[u8]>,
    control: Control,
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
            control: Control([0; CONTROL_BYTES]),
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

/// Receives one packet. Uses tokio's polling form, which takes part in its cooperative budget:
/// the `async` one does not, and lets one flooding client hold the thread.
pub(crate) fn poll_receive(
    socket: &UnixSeqpacket,
    cx: &mut Context<'_>,
    into: &mut Inbound,
) -> Poll<std::io::Result<Received>> {
    let (info, ancillary) =
        ready!(socket.poll_recv_with_ancillary(cx, &mut into.bytes, &mut into.control.0))?;
    let mut fds = Fds::new();
    if !ancillary.is_empty() {
        for message in ancillary.into_messages() {
            if let OwnedAncillaryMessage::FileDescriptors(received) = message {
                fds.extend(received);
            }
        }
    }
    let received = if info.bytes_read() == 0 {
        Received::End(fds)
    } else if info.truncated() {
        Received::Violation(Violation::TooLong, fds)
    } else if info.ancillary_truncated() {
        Received::Starved(info.bytes_read(), fds)
    } else if fds.len() > FDS_PER_MESSAGE_MAX {
        Received::Violation(Violation::FdCount, fds)
    } else {
        Received::Packet(info.bytes_read(), fds)
    };
    Poll::Ready(Ok(received))
}

/// Bytes of the control message of as many fds as a reply may carry.
const SEND_CONTROL_BYTES: usize = (16 + 4 * FDS_PER_MESSAGE_MAX).next_multiple_of(8);

#[repr(align(8))]
struct SendControl([u8; SEND_CONTROL_BYTES]);

/// A packet the socket had no room for yet.
pub(crate) struct Unsent {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) fds: Fds,
}

/// Sends one packet, whole or not at all.
pub(crate) fn poll_send(
    socket: &UnixSeqpacket,
    cx: &mut Context<'_>,
    bytes: &[u8],
    fds: &[OwnedFd],
) -> Poll<std::io::Result<()>> {
    if fds.is_empty() {
        return socket.poll_send(cx, bytes).map_ok(|_| ());
    }
    let mut control = SendControl([0; SEND_CONTROL_BYTES]);
    let mut ancillary = AncillaryMessageWriter::new(&mut control.0);
    ancillary.add_fds(fds.iter())?;
    let sent = ready!(socket.poll_send_vectored_with_ancillary(
        cx,
        &[IoSlice::new(bytes)],
        &mut ancillary
    ));
    match sent {
        // The kernel counts fds that were sent and not received, per user; clients that leave
        // theirs lying have used up the daemon's share. The request is refused then.
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error()) =>
        {
            match refused(bytes) {
                Some(refusal) => socket.poll_send(cx, &refusal).map_ok(|_| ()),
                None => Poll::Ready(Err(error)),
            }
        }
        other => Poll::Ready(other.map(|_| ())),
    }
}

/// A refusal in place of the given reply.
fn refused(reply: &[u8]) -> Option<Vec<u8>> {
    let (header, _) = Header::split(reply).ok()?;
    let mut bytes = Vec::new();
    let refusal = Refusal::new(Reason::DaemonFds);
    codec::encode_refusal(header.opcode, header.seq, &refusal, &mut bytes).ok()?;
    Some(bytes)
}
