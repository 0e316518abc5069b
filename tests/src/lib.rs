//! The rig of the cross-crate tests: real processes, hostile clients, and a look at what is left
//! when they are gone.
//!
//! A [`Daemon`] is a real `gpu-brokerd` on a socket in a directory of its own. A [`Raw`] is a
//! client that can send any bytes and any fds, and knows the wire from `gpu-broker-protocol` alone,
//! so that a mistake of the client library cannot hide one of the daemon. A [`Witness`] is a
//! well-behaved session that keeps submitting work and checks every result: it stands for everyone
//! else while a test misbehaves. A [`Footprint`] is what the daemon holds: fds, threads, mappings,
//! memory, sessions; [`Daemon::settles_to`] waits until it is what it was.
//!
//! Nothing here measures time; deadlines exist so that a hung test ends with a message.
//!
//! Start reading at [`Daemon::start`], then look at `it/hostile/`.
#![forbid(unsafe_code)]

pub mod batch;
pub mod binaries;
pub mod daemon;
pub mod footprint;
pub mod fuzzing;
pub mod picture;
pub mod raw;
pub mod relay;
pub mod samples;
pub mod witness;

pub use batch::Batch;
pub use daemon::{Builder, Daemon};
pub use footprint::Footprint;
pub use raw::{Message, Raw, RawBuffer};
pub use witness::Witness;

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up and says so.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until `probe` answers `Some`, for at most [`PATIENCE`].
///
/// # Panics
/// When the time is over; `what` says what was waited for.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
