//! One wait: what it is for, and how it is answered.

use std::os::fd::OwnedFd;

use gpu_broker_core::Time;
use gpu_broker_protocol::message::Waited;
use gpu_broker_protocol::syncobj::SyncobjWaited;
use gpu_broker_protocol::{BufferId, Opcode, Reason, Refusal, Reply};

/// What is left to do when a wait has ended in time.
pub(crate) type Then = Box<dyn FnOnce() -> Result<(), Refusal> + Send>;

/// A wait by the request that began it.
pub(crate) enum Wait {
    /// BUFFER_WAIT.
    Buffer { buffer: BufferId, timeout_ns: i64 },
    /// BUFFER_SET_DOMAIN, and what the device does then.
    SetDomain(Option<Then>),
    /// BUFFER_ACCESS, and what the device does then.
    Access(Option<Then>),
    /// SYNCOBJ_WAIT for so many syncobjs; for all, or any.
    Syncobjs { count: usize, all: bool },
    /// SYNCOBJ_TRANSFER from a source that holds no fence yet; then the transfer.
    Transfer(Then),
    /// THROTTLE: for what was queued until then.
    Throttle { until: Time },
    /// USERPTR_INVALIDATE.
    Invalidate,
}

impl Wait {
    /// The opcode of the request.
    pub(crate) const fn opcode(&self) -> Opcode {
        match self {
            Self::Buffer { .. } => Opcode::BufferWait,
            Self::SetDomain(_) => Opcode::BufferSetDomain,
            Self::Access(_) => Opcode::BufferAccess,
            Self::Syncobjs { .. } => Opcode::SyncobjWait,
            Self::Transfer(_) => Opcode::SyncobjTransfer,
            Self::Throttle { .. } => Opcode::Throttle,
            Self::Invalidate => Opcode::UserptrInvalidate,
        }
    }

    /// How many syncobjs it waits for.
    pub(crate) const fn syncobjs(&self) -> usize {
        match self {
            Self::Syncobjs { count, .. } => *count,
            Self::Transfer(_) => 1,
            Self::Buffer { .. }
            | Self::SetDomain(_)
            | Self::Access(_)
            | Self::Throttle { .. }
            | Self::Invalidate => 0,
        }
    }

    /// The buffer of a BUFFER_WAIT.
    pub(crate) const fn buffer(&self) -> Option<BufferId> {
        if let Self::Buffer { buffer, .. } = self { Some(*buffer) } else { None }
    }

    /// The moment of a THROTTLE.
    pub(crate) const fn until(&self) -> Option<Time> {
        if let Self::Throttle { until } = self { Some(*until) } else { None }
    }

    /// What is left to do where it may wait for the kernel.
    pub(crate) const fn take_move(&mut self) -> Option<Then> {
        if let Self::SetDomain(then) | Self::Access(then) = self { then.take() } else { None }
    }

    /// The answer when it ended in time; `first` is what the watch said, such as which syncobj signalled
    /// first.
    ///
    /// # Errors
    /// What is left to do may be refused.
    pub(crate) fn reply(
        self,
        now: Time,
        deadline: Option<u64>,
        first: u32,
    ) -> Result<Reply<OwnedFd>, Refusal> {
        Ok(match self {
            Self::Buffer { timeout_ns, .. } => {
                let remaining_ns = match deadline {
                    None => timeout_ns,
                    Some(end) => i64::try_from(end.saturating_sub(now.0)).unwrap_or(i64::MAX),
                };
                Reply::BufferWait(Waited { remaining_ns })
            }
            Self::SetDomain(_) => Reply::BufferSetDomain,
            Self::Access(_) => Reply::BufferAccess,
            Self::Syncobjs { all, .. } => {
                let first_signaled = if all { u32::MAX } else { first };
                Reply::SyncobjWait(SyncobjWaited { first_signaled })
            }
            Self::Transfer(then) => {
                then()?;
                Reply::SyncobjTransfer
            }
            Self::Throttle { .. } => Reply::Throttle,
            // The watch says 1 if some of the work was lost.
            Self::Invalidate if first != 0 => return Err(Reason::UserptrLost.into()),
            Self::Invalidate => Reply::UserptrInvalidate,
        })
    }

    /// Why it ended when the time is over.
    pub(crate) const fn timeout(&self) -> Reason {
        match self {
            Self::Syncobjs { .. } | Self::Transfer(_) => Reason::SyncobjTimeout,
            Self::Invalidate => Reason::UserptrInUse,
            Self::Buffer { .. } | Self::SetDomain(_) | Self::Access(_) | Self::Throttle { .. } => {
                Reason::WaitTimeout
            }
        }
    }
}
