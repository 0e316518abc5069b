//! Errnos as the program sees them.

use gpu_broker_client::Error;

/// A positive errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) i32);

pub(crate) type Outcome<T> = Result<T, Errno>;

impl From<Error> for Errno {
    /// A session that is lost looks like a device that is wedged: programs know what to do then.
    fn from(error: Error) -> Self {
        let errno = error.errno();
        Self(if error.is_fatal() || errno <= 0 { libc::EIO } else { errno })
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl Errno {
    /// What the last libc call of this thread failed with.
    pub(crate) fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Sets the thread's `errno`.
pub(crate) fn set(errno: Errno) {
    // SAFETY: the location of the calling thread's errno, valid while the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else writes this thread's errno.
    unsafe { *place = errno.0 };
}
