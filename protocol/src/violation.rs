//! What ends a session: breaches of the protocol itself, and the epitaph that names them.

use serde::{Deserialize, Serialize};

/// A breach of the protocol. The daemon sends an [`Epitaph`] and closes the connection; every
/// other session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// The packet is shorter than a header, or the body ends before its last field.
    Short,
    /// Bytes are left over after the body's last field.
    Trailing,
    /// A field holds a value that its type does not have.
    Malformed,
    /// The packet is larger than [`crate::limits::MESSAGE_BYTES_MAX`] or was truncated.
    TooLong,
    /// No request has this opcode.
    UnknownOpcode,
    /// A request has flag bits set.
    UnknownFlags,
    /// More or fewer fds than the request takes, or more than a message may carry.
    FdCount,
    /// The first message was not HELLO.
    HelloExpected,
    /// HELLO came twice.
    HelloRepeated,
}

impl Violation {
    /// The code and the sentence that tell the client's author what to mend.
    #[must_use]
    pub fn epitaph(self) -> Epitaph {
        let (code, text) = match self {
            Self::Short => (EpitaphCode::Malformed, "the message ends before its last field"),
            Self::Trailing => {
                (EpitaphCode::Malformed, "the message has bytes after its last field")
            }
            Self::Malformed => {
                (EpitaphCode::Malformed, "a field of the message holds no value of its type")
            }
            Self::TooLong => {
                (EpitaphCode::TooLong, "the message is longer than the limit in HELLO")
            }
            Self::UnknownOpcode => (
                EpitaphCode::UnknownOpcode,
                "no such request in this version; check the minor version and features of HELLO",
            ),
            Self::UnknownFlags => (EpitaphCode::Malformed, "a request's header flags must be 0"),
            Self::FdCount => {
                (EpitaphCode::FdCount, "the message carries another number of fds than it must")
            }
            Self::HelloExpected => (EpitaphCode::Hello, "the first message must be HELLO"),
            Self::HelloRepeated => (EpitaphCode::Hello, "HELLO may be sent once only"),
        };
        Epitaph { code, text: text.to_owned() }
    }
}

/// Last message of a connection: why it ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Epitaph {
    /// For programs.
    pub code: EpitaphCode,
    /// For people.
    pub text: String,
}

/// Kind of an [`Epitaph`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EpitaphCode {
    /// A message could not be decoded.
    Malformed,
    /// A message was too long.
    TooLong,
    /// An opcode is not known.
    UnknownOpcode,
    /// A message had the wrong number of fds.
    FdCount,
    /// HELLO is missing, late or repeated.
    Hello,
    /// The daemon is full; try again later.
    Full,
    /// The daemon is stopping.
    ShuttingDown,
    /// An administrator revoked the session.
    Revoked,
    /// The device is gone.
    DeviceLost,
    /// The daemon failed; its log says why.
    Internal,
    /// The policy does not admit the client.
    Denied,
}
