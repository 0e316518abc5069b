//! Who is at the other end of a connection: found out once, when it is accepted.
//!
//! The kernel recorded uid, gid and pid of whoever connected, and holds a pidfd for it
//! (SO_PEERPIDFD). Everything else is in `/proc/PID`, and a pid may name another process by the time
//! it is looked at: so `/proc/PID` is opened first and the pidfd asked afterwards whether its process
//! still lives. If it does, the directory is that process's, and stays bound to it (`process`).
//!
//! What is found there is a claim of different worth. A control group is the kernel's word. An
//! application id is what the process's root says: a sandbox cannot change it, but a process outside
//! of any sandbox can build one that says what it likes, as it can for the portals of the desktop.

mod app;
mod cgroup;
mod process;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_seqpacket::UnixSeqpacket;

use crate::listeners::Origin;
use crate::policy::{Fact, Subject};
use process::Process;

/// Connections whose identity is looked up at once. Nothing in a look-up waits for a process
/// (`app`); should one, it keeps a place and a thread, and this bounds how many.
pub(crate) const LOOKUPS_MAX: usize = 16;

/// After which the look-up is given up and what it was for is not known.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the kernel recorded of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// 0 when the process is not visible in the daemon's pid namespace.
    pub(crate) pid: u32,
}

/// Everything that is known of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) credentials: Credentials,
    /// How it came in.
    pub(crate) origin: Arc<Origin>,
    /// Control group, from the root of its hierarchy.
    pub(crate) cgroup: Fact,
    /// Application id: what a sandbox engine said of the listener, or Flatpak of the process.
    pub(crate) app_id: Fact,
}

impl Credentials {
    /// # Errors
    /// The socket is not connected.
    pub(crate) fn of(socket: &UnixSeqpacket) -> std::io::Result<Self> {
        let credentials = socket.peer_cred()?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        })
    }

    /// Whether STATUS shows this peer the sessions of `other`.
    pub(crate) fn may_see(self, other: Self) -> bool {
        self.uid == other.uid || is_operator(self.uid)
    }
}

/// Root, or the user whom the daemon runs as.
pub(crate) fn is_operator(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

impl std::fmt::Display for Identity {
    /// For the log: what is known, shortest first.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Credentials { uid, gid, pid } = self.credentials;
        write!(f, "uid={uid} gid={gid} pid={pid} listener={}", self.origin.name)?;
        if let Some(app) = self.app_id.known() {
            write!(f, " app={app}")?;
        }
        let container = self.container();
        if !container.is_empty() {
            // As container engines show it.
            write!(f, " container={}", printable(container, 12))?;
        }
        let unit = self.unit();
        if !unit.is_empty() {
            write!(f, " unit={}", printable(unit, 80))?;
        }
        Ok(())
    }
}

/// At most so many characters, none of which drives a terminal: control groups have names that
/// their users choose.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let plain = |letter: char| if letter.is_control() || letter == ' ' { '?' } else { letter };
    text.chars().take(most).map(plain).collect()
}

impl Identity {
    /// What policy judges.
    pub(crate) fn subject(&self) -> Subject {
        Subject {
            listener: self.origin.name.clone(),
            uid: self.credentials.uid,
            gid: self.credentials.gid,
            cgroup: self.cgroup.clone(),
            app_id: self.app_id.clone(),
        }
    }

    /// Whether STATUS shows this peer the sessions of `other`.
    pub(crate) fn may_see(&self, other: &Self) -> bool {
        self.origin.admin || self.credentials.may_see(other.credentials)
    }

    /// The innermost systemd unit; empty if there is none.
    pub(crate) fn unit(&self) -> &str {
        self.cgroup.known().and_then(cgroup::unit).unwrap_or_default()
    }

    /// The container; empty if it is in none that is known.
    pub(crate) fn container(&self) -> &str {
        self.cgroup.known().and_then(cgroup::container).unwrap_or_default()
    }
}

/// Looks identities up, off the thread that serves the clients.
#[derive(Debug)]
pub(crate) struct Registrar {
    places: Arc<Semaphore>,
}

impl Registrar {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// Who is at the other end. What cannot be found out in time is not known.
    pub(crate) async fn identify(
        &self,
        socket: &UnixSeqpacket,
        credentials: Credentials,
        origin: Arc<Origin>,
    ) -> Identity {
        let process = Process::of(socket, credentials.pid);
        let (cgroup, app_id) = match process {
            Err(why) => (Fact::Unknown(why.clone()), Fact::Unknown(why)),
            Ok(process) => self.look_up(process).await,
        };
        let app_id = origin.app_id.clone().map_or(app_id, Fact::Is);
        Identity { credentials, origin, cgroup, app_id }
    }

    async fn look_up(&self, process: Process) -> (Fact, Fact) {
        let places = Arc::clone(&self.places);
        let found = tokio::time::timeout(PATIENCE, async move {
            let place = places.acquire_owned().await.ok()?;
            let look = move || {
                let found = (process.cgroup(), app::of(&process));
                drop(place);
                found
            };
            tokio::task::spawn_blocking(look).await.ok()
        });
        let late = || Fact::Unknown("it took too long to find out".to_owned());
        found.await.ok().flatten().unwrap_or_else(|| (late(), late()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Credentials {
        Credentials { uid, gid: uid, pid: 1 }
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

    #[tokio::test]
    async fn we_can_tell_who_we_are() {
        let (ours, _theirs) = UnixSeqpacket::pair().expect("sockets");
        let credentials = Credentials::of(&ours).expect("connected");
        let origin = Arc::new(Origin::named("main"));
        let identity = Registrar::new().identify(&ours, credentials, origin).await;
        assert_eq!(identity.credentials.pid, std::process::id());
        assert!(
            matches!(&identity.cgroup, Fact::Is(path) if path.starts_with('/')),
            "{identity:?}"
        );
        assert_eq!(identity.app_id, Fact::None);
        assert_eq!(identity.subject().listener, "main");
    }
}
