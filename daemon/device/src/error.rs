//! Errors of a device.

/// Why a device could not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// Out of memory.
    OutOfMemory,
    /// The process is out of fds.
    OutOfFds,
    /// The fd is not a fence of this device.
    NotAFence,
    /// The fd is not a buffer of this device.
    NotABuffer,
    /// The fd is not a syncobj of this device.
    NotASyncobj,
    /// A syncobj holds no fence.
    NoFence,
    /// The device is gone.
    Lost,
    /// The pages of a userptr buffer were lost: pin it again (EAGAIN).
    PagesGone,
    /// The device works, but not for this context, or this file: it hung it too often (EIO).
    Banned,
    /// Too much in flight: wait for some of it (EAGAIN).
    InFlight,
    /// Too much that is not done uses the buffer (ENOMEM).
    ManyUsers,
    /// Anything else: a positive errno and what was being done.
    Os {
        /// Positive errno.
        errno: i32,
        /// What was being done.
        doing: &'static str,
    },
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::OutOfFds => f.write_str("out of file descriptors"),
            Self::NotAFence => f.write_str("not a fence of this device"),
            Self::NotABuffer => f.write_str("not a buffer of this device"),
            Self::NotASyncobj => f.write_str("not a syncobj of this device"),
            Self::NoFence => f.write_str("a syncobj holds no fence"),
            Self::Lost => f.write_str("the device is gone"),
            Self::PagesGone => f.write_str("the pages of a client's memory were lost"),
            Self::Banned => f.write_str("banned for hangs"),
            Self::InFlight => f.write_str("too much in flight"),
            Self::ManyUsers => f.write_str("too much uses the buffer"),
            Self::Os { errno, doing } => write!(f, "{doing}: errno {errno}"),
        }
    }
}

impl std::error::Error for DeviceError {}
