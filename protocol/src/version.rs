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
    /// The daemon may send HANG events.
    pub const HANG_EVENTS: u64 = 1 << 2;
    /// USERPTR_CREATE and USERPTR_INVALIDATE.
    pub const USERPTR: u64 = 1 << 3;
    /// EXECBUF_LIST.
    pub const EXECBUF_LISTS: u64 = 1 << 4;
    /// SHARED_STATUS.
    pub const SHARED_STATUS: u64 = 1 << 5;
    /// BUFFER_FENCE_EXPORT and BUFFER_FENCE_IMPORT.
    pub const BUFFER_FENCES: u64 = 1 << 6;
    /// Everything this crate knows.
    pub const ALL: u64 = FENCE_FDS
        | CONTEXT_CLONE
        | HANG_EVENTS
        | USERPTR
        | EXECBUF_LISTS
        | SHARED_STATUS
        | BUFFER_FENCES;
}

/// The newest minor that the client's range and ours contain, or `None`.
#[must_use]
pub const fn negotiate(major: u16, minor_min: u16, minor_max: u16) -> Option<u16> {
    if major != MAJOR {
        return None;
    }
    newest_common((MINOR_MIN, MINOR_MAX), (minor_min, minor_max))
}

/// The newest number both ranges (oldest, newest) contain; a range that is upside down is empty.
const fn newest_common(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = if ours.1 < theirs.1 { ours.1 } else { theirs.1 };
    if newest < ours.0 || newest < theirs.0 { None } else { Some(newest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_minor_is_chosen() {
        assert_eq!(newest_common((1, 3), (2, 9)), Some(3));
        assert_eq!(newest_common((1, 3), (0, 2)), Some(2));
        assert_eq!(newest_common((1, 3), (3, 3)), Some(3));
        assert_eq!(newest_common((1, 3), (4, 9)), None);
        assert_eq!(newest_common((1, 3), (0, 0)), None);
        assert_eq!(newest_common((1, 3), (3, 2)), None);
    }

    #[test]
    fn another_major_is_another_protocol() {
        assert_eq!(negotiate(MAJOR, MINOR_MIN, MINOR_MAX), Some(MINOR_MAX));
        assert_eq!(negotiate(MAJOR + 1, MINOR_MIN, MINOR_MAX), None);
    }
}
