//! The contract between `gpu-brokerd` and its clients.
//!
//! One packet of a `SOCK_SEQPACKET` socket carries one message: a fixed [`Header`], a body, and at
//! most [`limits::FDS_PER_MESSAGE_MAX`] file descriptors. Control messages are encoded by
//! [`codec`] (bincode, fixed-width little-endian integers); EXECBUF has a fixed layout of its own
//! in [`execbuf`]. `protocol/WIRE.md` describes both for people who write a client in another
//! language.
//!
//! This crate is deliberately not: a transport (no sockets, no file descriptors: an fd is the type
//! parameter `Fd` of [`Request`] and [`Reply`]), a rule book (which request is legal when is
//! decided by `gpu-broker-core`), or a kernel interface (`repr(C)` structures live in
//! `gpu-broker-uapi`).
//!
//! Start reading at [`message`], then [`refusal`], then [`codec`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod codec;
pub mod execbuf;
pub mod execlist;
pub mod fence;
pub mod hang;
pub mod header;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod message;
pub mod object;
pub mod param;
pub mod queue;
pub mod refusal;
pub mod shared_status;
pub mod status;
pub mod syncobj;
pub mod usage;
pub mod userptr;
pub mod version;
pub mod violation;

pub use header::{Header, HeaderFlags, Opcode};
pub use ids::{BufferId, ContextId, SessionId, SyncobjId, VmId};
pub use message::{FdSlot, Reply, Request};
pub use refusal::{Reason, Refusal};
pub use violation::{Epitaph, EpitaphCode, Violation};
