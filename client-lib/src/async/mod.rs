//! The client over tokio: the same sessions, objects and errors, with `async` methods.
//!
//! A task reads the socket, and every request waits for its own answer, so requests of several
//! tasks go on side by side. Dropping the future of a request is safe for the connection; whether
//! the daemon carried the request out is then unknown.
//!
//! ```no_run
//! use gpu_broker_client::{FenceState, r#async::Connection};
//!
//! # async fn example() -> Result<(), gpu_broker_client::Error> {
//! let broker = Connection::open("example").await?;
//! let context = broker.context().priority(-10).create().await?;
//! let batch = broker.create_buffer(4096).await?;
//! batch.map().await?.write_dwords(0, &[0x0500_0000, 0])?;
//! let submission = context.execbuf().batch(&batch).fence_out().submit().await?;
//! if let Some(fence) = submission.fence {
//!     assert_eq!(fence.signalled().await?, FenceState::Signalled);
//! }
//! # Ok(())
//! # }
//! ```

mod buffer;
mod connection;
mod execbuf;
mod objects;
mod syncobj;
mod usermem;

pub use buffer::Buffer;
pub use connection::Connection;
pub use objects::{Context, Vm};
pub use syncobj::Syncobj;
pub use usermem::UserBuffer;
