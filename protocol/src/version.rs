//! Version range and feature bits, settled by HELLO.
//!
//! Versions within a major only add opcodes and feature bits. A daemon that shares no minor with
//! the client answers with [`crate::Reason::VersionUnsupported`] and its own range in the sentence.

/// Major version spoken by this crate. Another major is another protocol.
pub const MAJOR: u16 = 1;
/// Oldest minor this crate can speak.
pub const MINOR_MIN: u16 = 0;
/// Newest minor this crate can speak.
pub const MINOR_MAX: u16 = 0;

/// Feature bits. HELLO answers with the bits both sides know and the device can do.
pub mod feature {
    /// EXECBUF can take and give fence fds (FENCE_IN, FENCE_OUT).
    pub const FENCE_FDS: u64 = 1 << 0;
    /// CREATE accepts the CLONE extension.
    pub const CONTEXT_CLONE: u64 = 1 << 1;
    /// Everything this crate knows.
    pub const ALL: u64 = FENCE_FDS | CONTEXT_CLONE;
}

/// The newest minor both ranges contain, or `None`.
#[must_use]
pub const fn negotiate(major: u16, minor_min: u16, minor_max: u16) -> Option<u16> {
    if major != MAJOR || minor_min > minor_max {
        return None;
    }
    let newest = if minor_max < MINOR_MAX { minor_max } else { MINOR_MAX };
    if newest < minor_min || newest < MINOR_MIN { None } else { Some(newest) }
}
