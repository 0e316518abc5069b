//! Who a session belongs to.

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;

/// Asks for a session's identity. A peer may ask for the sessions that STATUS shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdentityQuery {
    /// Which; 0 is the one that asks.
    pub session: SessionId,
}

/// What the daemon found out when the session's connection was accepted. Texts have at most
/// [`crate::limits::IDENTITY_CHARS_MAX`] characters, none of which is a control character.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionIdentity {
    /// Its number.
    pub session: SessionId,
    /// Peer's user.
    pub uid: u32,
    /// Peer's group.
    pub gid: u32,
    /// Peer's process id, at the time it connected; 0 if the daemon cannot see it.
    pub pid: u32,
    /// Class of the policy.
    pub class: String,
    /// Name of the listener it came in by.
    pub listener: String,
    /// Control group; empty if it is not known.
    pub cgroup: String,
    /// The innermost systemd unit of that; empty if there is none.
    pub unit: String,
    /// Container; empty if there is none.
    pub container: String,
    /// Application; empty if there is none.
    pub app_id: String,
}
