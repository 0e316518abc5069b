//! Who is at the other end of a connection, and what that entitles it to.

use gpu_broker_core::Privileges;
use tokio_seqpacket::UnixSeqpacket;

use crate::config::PrivilegeConfig;

/// The process that connected, as the kernel recorded it then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// 0 when the process is not visible in the daemon's pid namespace.
    pub(crate) pid: u32,
}

impl Peer {
    pub(crate) fn of(socket: &UnixSeqpacket) -> std::io::Result<Self> {
        let credentials = socket.peer_cred()?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        })
    }

    /// What the configuration entitles the peer to. Nothing follows from the uid alone: root's
    /// programs are clients like any other.
    pub(crate) fn privileges(self, config: &PrivilegeConfig) -> Privileges {
        Privileges {
            admin: config.admin_uids.contains(&self.uid),
            nice: config.nice_uids.contains(&self.uid),
        }
    }

    /// Whether STATUS shows this peer the sessions of `other`.
    pub(crate) fn may_see(self, other: Self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.uid == other.uid || self.uid == 0 || self.uid == own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer { uid, gid: uid, pid: 1 }
    }

    #[test]
    fn root_is_entitled_to_nothing_unless_listed() {
        let config = PrivilegeConfig { admin_uids: vec![7], nice_uids: vec![0, 7] };
        let none = peer(0).privileges(&PrivilegeConfig::default());
        assert!(!none.admin && !none.nice);
        let nice = peer(0).privileges(&config);
        assert!(!nice.admin && nice.nice);
        let both = peer(7).privileges(&config);
        assert!(both.admin && both.nice);
    }

    #[test]
    fn a_peer_sees_its_own_user_and_root_sees_all() {
        let own = rustix::process::geteuid().as_raw();
        let stranger = own + 4001;
        assert!(peer(stranger).may_see(peer(stranger)));
        assert!(!peer(stranger).may_see(peer(stranger + 1)));
        assert!(!peer(stranger).may_see(peer(0)));
        assert!(peer(0).may_see(peer(stranger)));
        assert!(peer(own).may_see(peer(stranger)));
    }
}
