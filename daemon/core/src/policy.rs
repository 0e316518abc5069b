//! What one session may: privileges and quotas. The daemon decides both per peer; nothing here
//! looks anything up.

use gpu_broker_protocol::limits;

/// What the peer may beyond the ordinary (rule table §15). The default is nothing: a privileged
/// daemon never lends its own capabilities to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Privileges {
    /// Stands for CAP_SYS_ADMIN: may clear BANNABLE and see the device's reset count.
    pub admin: bool,
    /// Stands for CAP_SYS_NICE: may set a priority above 0.
    pub nice: bool,
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
            objects_per_execbuf: self.objects_per_execbuf.min(most.objects_per_execbuf),
            submissions_in_flight: self.submissions_in_flight.min(most.submissions_in_flight),
        }
    }
}
