//! What can go wrong, in sentences for the person in front of the program.

use std::io;
use std::path::PathBuf;

use gpu_broker_protocol::refusal::{RefusalBody, errno};
use gpu_broker_protocol::violation::Epitaph;
use gpu_broker_protocol::{BufferId, Violation};

/// What can go wrong in a call to the broker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made.
    #[error(
        "cannot connect to the broker at {}: {source}; {}",
        path.display(),
        connect_advice(source)
    )]
    Connect {
        /// The socket that was tried.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon said no. The session goes on.
    #[error("the broker refused: {} [{}, errno {}]", .0.sentence, .0.name, .0.errno)]
    Refused(RefusalBody),
    /// The daemon ended the session and said why.
    #[error("the broker ended the session: {} [{:?}]", .0.text, .0.code)]
    Ended(Epitaph),
    /// The connection closed without a word: the daemon died or was stopped.
    #[error("the broker closed the connection; it was stopped or restarted, connect again")]
    Disconnected,
    /// Receiving failed on this side, for example with `ENOMEM`. Whose answer is lost with that is
    /// not known, so the session ends.
    #[error("receiving from the broker failed: {0}; the session is lost, connect again")]
    Lost(io::Error),
    /// The kernel refused something on this side.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon broke the protocol, so it is not a gpu-brokerd of this major version. The
    /// connection is of no further use.
    #[error(
        "the other side does not speak the broker's protocol ({0:?}); is the socket gpu-brokerd's?"
    )]
    Protocol(Violation),
    /// The request cannot be sent: it is longer than a message may be, or carries too many fds.
    #[error(
        "the request does not fit in a message ({0:?}); use fewer objects, extensions or engines"
    )]
    Unsendable(Violation),
    /// The daemon settled on a version that was not offered.
    #[error("the broker answered with protocol version {major}.{minor}, which was not offered")]
    Version {
        /// Its major.
        major: u16,
        /// Its minor.
        minor: u16,
    },
    /// The file descriptor is not a connected `SOCK_SEQPACKET` socket.
    #[error("the file descriptor is not a connected SOCK_SEQPACKET socket of a broker")]
    NotASocket,
    /// The connection is that of the parent of this process.
    #[error("the connection belongs to the parent of this process; connect again after fork")]
    Forked,
    /// A submission names a buffer that the CPU has for itself.
    #[error(
        "buffer {} is lent to the CPU; drop its CpuAccess before submitting work with it", buffer.0
    )]
    HeldByCpu {
        /// Which.
        buffer: BufferId,
    },
    /// Memory that cannot be moved behind a memfd.
    #[error("the memory at {address:#x} cannot be shared with the GPU: {why}")]
    NotAdoptable {
        /// Where it begins.
        address: u64,
        /// What is in the way.
        why: &'static str,
    },
    /// An access to a mapping beyond its end.
    #[error(
        "bytes {offset}..{} lie outside a mapping of {size} bytes",
        offset.saturating_add(*length)
    )]
    OutOfRange {
        /// First byte of the access.
        offset: u64,
        /// Bytes of the access.
        length: u64,
        /// Bytes of the mapping.
        size: u64,
    },
    /// An atomic access that is not naturally aligned.
    #[error("offset {offset:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        /// Where.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
}

impl Error {
    /// The errno an i915 client would see, positive.
    ///
    /// A refusal has the kernel's own errno; a lost connection is `ECONNRESET`, a broken protocol
    /// `EPROTO`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        const EPROTO: i32 = rustix::io::Errno::PROTO.raw_os_error();
        const ECONNRESET: i32 = rustix::io::Errno::CONNRESET.raw_os_error();
        match self {
            Self::Refused(refusal) => refusal.errno,
            Self::Connect { source, .. } | Self::Io { source, .. } | Self::Lost(source) => {
                source.raw_os_error().unwrap_or(errno::EIO)
            }
            Self::Ended(_) | Self::Disconnected => ECONNRESET,
            Self::Protocol(_) => EPROTO,
            Self::Version { .. } => errno::EPROTONOSUPPORT,
            Self::Unsendable(_) => errno::E2BIG,
            Self::Forked => errno::EPERM,
            Self::HeldByCpu { .. } => errno::EBUSY,
            Self::NotAdoptable { .. } => errno::EFAULT,
            Self::NotASocket => rustix::io::Errno::NOTSOCK.raw_os_error(),
            Self::OutOfRange { .. } | Self::Misaligned { .. } => errno::EINVAL,
        }
    }

    /// The refusal, if this is one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&RefusalBody> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }

    /// Whether the connection is of no further use, so that only a new one can help.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Ended(_)
            | Self::Disconnected
            | Self::Lost(_)
            | Self::Protocol(_)
            | Self::Version { .. }
            | Self::Forked
            | Self::NotASocket => true,
            Self::Refused(_)
            | Self::Io { .. }
            | Self::Unsendable(_)
            | Self::HeldByCpu { .. }
            | Self::NotAdoptable { .. }
            | Self::OutOfRange { .. }
            | Self::Misaligned { .. } => false,
        }
    }

    pub(crate) fn io(doing: &'static str, source: rustix::io::Errno) -> Self {
        Self::Io { doing, source: source.into() }
    }
}

fn connect_advice(source: &io::Error) -> &'static str {
    use rustix::io::Errno;
    let is = |errno: Errno| source.raw_os_error() == Some(errno.raw_os_error());
    if is(Errno::NOENT) {
        "start gpu-brokerd, or name its socket with --socket or GPU_BROKER_SOCKET"
    } else if is(Errno::CONNREFUSED) {
        "the socket is there but nobody listens: start gpu-brokerd again"
    } else if is(Errno::ACCESS) || is(Errno::PERM) {
        "the socket's owner and mode decide who may connect: join its group"
    } else if is(Errno::PROTOTYPE) {
        "that socket is another program's"
    } else if is(Errno::NAMETOOLONG) || is(Errno::INVAL) {
        "a socket's path has at most 107 bytes"
    } else {
        "check that gpu-brokerd runs"
    }
}
