//! The client library of gpu-broker: GPU contexts for programs that may not open `/dev/dri`.
//!
//! A [`Connection`] is a session with the daemon. From it come [`Context`]s, address spaces
//! ([`Vm`]), [`Buffer`]s and [`Syncobj`]s; a context's [`Execbuf`] submits batches, and a [`Fence`]
//! tells when they are done. Objects are released when they are dropped, and whatever is left when the
//! connection closes.
//!
//! ```no_run
//! use gpu_broker_client::{Connection, FenceState, protocol::param::{EngineId, class}};
//!
//! # fn main() -> Result<(), gpu_broker_client::Error> {
//! let broker = Connection::open("example")?;
//! let copy = EngineId { class: class::COPY, instance: 0 };
//! let context = broker.context().engines(&[copy]).priority(-10).create()?;
//!
//! // MI_STORE_DATA_IMM of 42 to GPU address 0x10_0000, then MI_BATCH_BUFFER_END.
//! let target = broker.create_buffer(4096)?;
//! let batch = broker.create_buffer(4096)?;
//! batch.map()?.write_dwords(0, &[0x1000_0002, 0x0010_0000, 0, 42, 0x0500_0000, 0])?;
//!
//! let submission = context
//!     .execbuf()
//!     .object_at(&target, 0x10_0000)
//!     .write()
//!     .batch(&batch)
//!     .fence_out()
//!     .submit()?;
//! if let Some(fence) = submission.fence {
//!     assert_eq!(fence.wait(None)?, FenceState::Signalled);
//! }
//! assert_eq!(target.map()?.load_u32(0)?, 42);
//! # Ok(())
//! # }
//! ```
//!
//! This crate is deliberately not: a driver (it knows no 3D), a rule book (the daemon decides what
//! is legal; a refusal says which rule), or a second protocol ([`protocol`] is the daemon's own).
//!
//! [`UserMemory`] is memory of the program's own that the GPU uses without a copy, and
//! [`AdoptedMemory`] makes that of memory it has already.
//!
//! A child of `fork` has no part in its parent's sessions: every call there answers
//! [`Error::Forked`], and dropping objects does nothing. It connects again.
//!
//! The blocking [`Connection`] may be used by many threads at once. With the feature `tokio`, the
//! module `async` has the same for programs that run on tokio.

mod admin;
#[cfg(feature = "tokio")]
pub mod r#async;
mod buffer;
mod calls;
mod connection;
mod context;
mod error;
mod execbuf;
mod fence;
pub mod gen9;
mod identity;
mod lists;
mod map;
mod proto;
mod scratch;
mod shared_status;
mod shares;
mod socket;
mod sync_file;
mod syncobj;
mod together;
mod usermem;
mod vm;

pub use gpu_broker_protocol as protocol;

pub use buffer::Buffer;
pub use connection::Connection;
pub use context::{Context, ContextBuilder};
pub use error::Error;
pub use execbuf::{Execbuf, Submission};
pub use fence::{Fence, FenceState};
pub use map::{Mapping, SharedBytes};
pub use socket::{default_socket_path, interruptions, wait_by};
pub use syncobj::{Syncobj, SyncobjSet};
pub use together::Quiet;
pub use usermem::{
    AdoptedMemory, CpuAccess, GpuAccess, Kept, Shareable, UserBuffer, UserMemory, UserVec, Writers,
};
pub use vm::Vm;

/// The example in the README, compiled so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
