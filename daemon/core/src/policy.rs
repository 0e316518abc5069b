//! What one session may: privileges and quotas. The daemon decides both per peer; nothing here
//! looks anything up.

use gpu_broker_protocol::limits;

/// What the peer may beyond the ordinary (rule table §15). The default is nothing: a privileged
/// daemon never lends its own capabilities to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Privileges {
    /// May clear BANNABLE, for which the kernel asks CAP_SYS_ADMIN.
    pub clear_bannable: bool,
    /// Sees how often the device was reset, for which the kernel asks CAP_SYS_ADMIN.
    pub reset_count: bool,
    /// Lowest priority a context may have.
    pub priority_min: i16,
    /// Highest priority a context may have; above 0 the kernel asks CAP_SYS_NICE.
    pub priority_max: i16,
}

/// Priorities lie between minus this and this.
pub const PRIORITY_MAX: i16 = 1023;

impl Privileges {
    /// Nothing beyond what the kernel gives everybody.
    pub const NONE: Self = Self {
        clear_bannable: false,
        reset_count: false,
        priority_min: -PRIORITY_MAX,
        priority_max: 0,
    };
    /// Everything.
    pub const ALL: Self = Self {
        clear_bannable: true,
        reset_count: true,
        priority_min: -PRIORITY_MAX,
        priority_max: PRIORITY_MAX,
    };

    /// The priority of a context that nobody gave one: 0, or what comes nearest.
    pub(crate) fn default_priority(self) -> i32 {
        i32::from(self.priority_max.min(0).max(self.priority_min))
    }

    pub(crate) fn to_word(self) -> u64 {
        let [min_low, min_high] = self.priority_min.to_le_bytes();
        let [max_low, max_high] = self.priority_max.to_le_bytes();
        let flags = u8::from(self.clear_bannable) | u8::from(self.reset_count) << 1;
        u64::from_le_bytes([flags, 0, min_low, min_high, max_low, max_high, 0, 0])
    }

    pub(crate) fn from_word(word: u64) -> Self {
        let [flags, _, min_low, min_high, max_low, max_high, _, _] = word.to_le_bytes();
        Self {
            clear_bannable: flags & 1 != 0,
            reset_count: flags & 2 != 0,
            priority_min: i16::from_le_bytes([min_low, min_high]),
            priority_max: i16::from_le_bytes([max_low, max_high]),
        }
    }
}

impl Default for Privileges {
    fn default() -> Self {
        Self::NONE
    }
}
/// What the session may hold at once. The default is what the protocol allows at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// Contexts, proto or live, the default one not counted.
    pub contexts: u32,
    /// VM handles.
    pub vms: u32,
    /// Buffers.
    pub buffers: u32,
    /// Bytes of one buffer.
    pub buffer_bytes: u64,
    /// Bytes of all buffers together.
    pub buffer_memory_bytes: u64,
    /// Bytes of memfds that userptr buffers are over.
    pub userptr_memory_bytes: u64,
    /// Objects of one EXECBUF.
    pub objects_per_execbuf: u32,
    /// Submissions that have not completed.
    pub submissions_in_flight: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            contexts: limits::CONTEXTS_PER_SESSION_MAX,
            vms: limits::VMS_PER_SESSION_MAX,
            buffers: limits::BUFFERS_PER_SESSION_MAX,
            buffer_bytes: limits::BUFFER_BYTES_MAX,
            buffer_memory_bytes: limits::BUFFER_MEMORY_PER_SESSION_BYTES_MAX,
            userptr_memory_bytes: limits::USERPTR_MEMORY_PER_SESSION_BYTES_MAX,
            objects_per_execbuf: limits::OBJECTS_PER_EXECBUF_MAX,
            submissions_in_flight: limits::SUBMISSIONS_IN_FLIGHT_PER_SESSION_MAX,
        }
    }
}

impl SessionLimits {
    /// These limits, none of them above what the protocol allows: tags of contexts and message
    /// sizes rely on the protocol's limits, whatever a configuration says.
    pub(crate) fn clamped(self) -> Self {
        let most = Self::default();
        Self {
            contexts: self.contexts.min(most.contexts),
            vms: self.vms.min(most.vms),
            buffers: self.buffers.min(most.buffers),
            buffer_bytes: self.buffer_bytes.min(most.buffer_bytes),
            buffer_memory_bytes: self.buffer_memory_bytes.min(most.buffer_memory_bytes),
            userptr_memory_bytes: self.userptr_memory_bytes.min(most.userptr_memory_bytes),
            objects_per_execbuf: self.objects_per_execbuf.min(most.objects_per_execbuf),
            submissions_in_flight: self.submissions_in_flight.min(most.submissions_in_flight),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn privileges_come_back_from_their_word() {
        let mixed = Privileges { reset_count: false, priority_min: -7, ..Privileges::ALL };
        let low = Privileges { priority_min: -1023, priority_max: -100, ..Privileges::NONE };
        let high = Privileges { priority_min: 5, priority_max: 9, ..Privileges::NONE };
        for (privileges, default) in
            [(Privileges::NONE, 0), (Privileges::ALL, 0), (mixed, 0), (low, -100), (high, 5)]
        {
            assert_eq!(Privileges::from_word(privileges.to_word()), privileges);
            assert_eq!(privileges.default_priority(), default);
        }
    }
}
