//! The shared status page: what clients poll, in memory that the daemon writes and they read.
//!
//! A session has one page, of words of 64 bits in the machine's byte order, each written as a whole.
//! WIRE.md says what may be concluded from them, and in which order they are to be read.

use serde::{Deserialize, Serialize};

/// Bytes of the page that mean something.
pub const BYTES: u64 = 40;
/// What [`word::VERSION`] holds. Later versions only add words and flags.
pub const VERSION: u64 = 1;

/// The page, answered once per session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharedStatus<Fd> {
    /// A memfd of [`crate::limits::PAGE_BYTES`] bytes that can be mapped for reading alone.
    pub fd: Fd,
}

/// Where each word is, in bytes.
pub mod word {
    /// [`VERSION`](super::VERSION), and greater in later versions.
    pub const VERSION: u64 = 0;
    /// Bits of [`flag`](super::flag). Changes.
    pub const FLAGS: u64 = 8;
    /// Changes whenever CONTEXT_RESET_STATS may have another answer for a context of the session.
    pub const RESETS: u64 = 16;
    /// Submissions that were accepted so far, and the one that is being looked at.
    pub const SUBMITTED: u64 = 24;
    /// All submissions up to this one are over, and their fences have signalled.
    pub const RETIRED: u64 = 32;
}

/// What the page tells.
pub mod flag {
    /// [`SUBMITTED`](super::word::SUBMITTED) and [`RETIRED`](super::word::RETIRED) count.
    pub const BUFFERS: u64 = 0x1;
    /// [`RESETS`](super::word::RESETS) counts.
    pub const RESETS: u64 = 0x2;
    /// [`RESETS`](super::word::RESETS) changes before the fence of work that hung signals.
    pub const RESETS_FIRST: u64 = 0x4;
}
