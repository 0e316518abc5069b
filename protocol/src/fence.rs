//! Fences, as fds.

use serde::{Deserialize, Serialize};

/// Asks for the state of a fence fd.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FenceStatusQuery<Fd> {
    /// The fence.
    pub fd: Fd,
}

/// State of a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FenceState {
    /// Not signalled.
    Pending,
    /// The work completed.
    Signalled,
    /// The work was lost; a positive errno, EIO for a hang.
    Failed(i32),
}

/// Asks for a fence of two.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FenceMerge<Fd> {
    /// One.
    pub first: Fd,
    /// The other.
    pub second: Fd,
}

/// A fence: becomes readable when it is signalled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fence<Fd> {
    /// The fence.
    pub fd: Fd,
}
