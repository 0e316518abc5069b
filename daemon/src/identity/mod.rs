//! Who is at the other end of a connection: bound to its process once, when it is accepted.
//!
//! The kernel recorded uid, gid and pid of whoever connected, and holds a pidfd for it
//! (SO_PEERPIDFD). Everything else is in `/proc/PID`, and a pid may name another process by the time
//! it is looked at: so `/proc/PID` is opened first and the pidfd asked afterwards whether its process
//! still lives. If it does, the directory is that process's, and stays bound to it (`process`).
//!
//! The pidfd is taken at accept. What policy asks for is looked up then, the rest when somebody wants
//! to see it: most sessions end before anybody does, and a look-up costs more than all else that a
//! connection does. Each fact is looked up once.
//!
//! What is found there is a claim of different worth. A control group is the kernel's word. An
//! application id is what the process's root says: a sandbox cannot change it, but a process outside
//! of any sandbox can build one that says what it likes, as it can for the portals of the desktop.

mod app;
mod cgroup;
mod process;

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::sync::Semaphore;

use crate::listeners::Origin;
use crate::policy::{Asks, Fact, Subject};
use process::{Process, Whose};

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

/// Everything that is known of a peer, or can be found out.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) credentials: Credentials,
    /// How it came in.
    pub(crate) origin: Arc<Origin>,
    /// The process that connected, or why it cannot be told.
    whose: Result<Whose, String>,
    cgroup: OnceLock<Fact>,
    app_id: OnceLock<Fact>,
}

impl Credentials {
    /// # Errors
    /// The socket is not connected.
    pub(crate) fn of(socket: &OwnedFd) -> std::io::Result<Self> {
        let credentials = getsockopt(socket, PeerCredentials)?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: u32::try_from(credentials.pid()).unwrap_or(0),
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
        if let Some(app) = self.app_id().known() {
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
    /// Binds a peer to the process that connected; looks nothing else up.
    pub(crate) fn of(socket: &OwnedFd, credentials: Credentials, origin: Arc<Origin>) -> Self {
        let whose = Whose::of(socket, credentials.pid);
        let (cgroup, app_id) = (OnceLock::new(), OnceLock::new());
        Self { credentials, origin, whose, cgroup, app_id }
    }

    /// Control group, from the root of its hierarchy. The kernel's word, which it gives at once.
    pub(crate) fn cgroup(&self) -> &Fact {
        self.cgroup.get_or_init(|| self.look(Process::cgroup))
    }

    /// Application id: what a sandbox engine said of the listener, or Flatpak of the process.
    pub(crate) fn app_id(&self) -> &Fact {
        self.app_id.get_or_init(|| match &self.origin.app_id {
            Some(said) => Fact::Is(said.clone()),
            None => self.look(app::of),
        })
    }

    fn look(&self, fact: impl FnOnce(&Process) -> Fact) -> Fact {
        let process = self.whose.as_ref().map_err(String::clone).and_then(Whose::process);
        process.map_or_else(Fact::Unknown, |process| fact(&process))
    }

    /// What policy judges: what it asks for is looked up, unless it was before.
    pub(crate) fn subject(&self, asks: Asks) -> Subject {
        let unasked = || Fact::Unknown("nothing asked for it".to_owned());
        Subject {
            listener: self.origin.name.clone(),
            uid: self.credentials.uid,
            gid: self.credentials.gid,
            cgroup: if asks.cgroup { self.cgroup().clone() } else { unasked() },
            app_id: if asks.app_id { self.app_id().clone() } else { unasked() },
        }
    }

    /// Whether STATUS shows this peer the sessions of `other`.
    pub(crate) fn may_see(&self, other: &Self) -> bool {
        self.origin.admin || self.credentials.may_see(other.credentials)
    }

    /// The innermost systemd unit; empty if there is none.
    pub(crate) fn unit(&self) -> &str {
        self.cgroup().known().and_then(cgroup::unit).unwrap_or_default()
    }

    /// The container; empty if it is in none that is known.
    pub(crate) fn container(&self) -> &str {
        self.cgroup().known().and_then(cgroup::container).unwrap_or_default()
    }
}

/// Looks up what may take longer than a client's request may, off the thread that serves them.
#[derive(Debug)]
pub(crate) struct Registrar {
    places: Arc<Semaphore>,
}

impl Registrar {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// Finds the application id out. If that is not possible in time, it is not known.
    pub(crate) async fn find_app_id(&self, identity: &Arc<Identity>) {
        let places = Arc::clone(&self.places);
        let process = Arc::clone(identity);
        let found = tokio::time::timeout(PATIENCE, async move {
            let place = places.acquire_owned().await.ok()?;
            // Not into `app_id` at once: who comes then would wait for this thread.
            let look = move || {
                let found = process.look(app::of);
                drop(place);
                found
            };
            tokio::task::spawn_blocking(look).await.ok()
        });
        let late = || Fact::Unknown("it took too long to find out".to_owned());
        // Whoever was first, the fact stays what it was found to be.
        let _ = identity.app_id.set(found.await.ok().flatten().unwrap_or_else(late));
    }
}

#[cfg(test)]
mod tests {
    use tokio_seqpacket::UnixSeqpacket;

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

    fn of(socket: UnixSeqpacket, origin: Origin) -> Arc<Identity> {
        let socket = &OwnedFd::from(socket);
        let credentials = Credentials::of(socket).expect("connected");
        Arc::new(Identity::of(socket, credentials, Arc::new(origin)))
    }

    #[tokio::test]
    async fn we_can_tell_who_we_are() {
        let (ours, _theirs) = UnixSeqpacket::pair().expect("sockets");
        let identity = of(ours, Origin::named("main"));
        assert_eq!(identity.credentials.pid, std::process::id());
        assert!(matches!(identity.cgroup(), Fact::Is(path) if path.starts_with('/')));
        Registrar::new().find_app_id(&identity).await;
        assert_eq!(identity.app_id.get(), Some(&Fact::None));
        assert_eq!(identity.subject(Asks::default()).listener, "main");
    }

    #[tokio::test]
    async fn only_what_is_asked_for_is_looked_up_and_only_once() {
        let (ours, _theirs) = UnixSeqpacket::pair().expect("sockets");
        let identity = of(ours, Origin::named("main"));
        let subject = identity.subject(Asks { cgroup: true, app_id: false });
        assert_eq!(Some(&subject.cgroup), identity.cgroup.get());
        assert!(matches!(subject.app_id, Fact::Unknown(_)) && identity.app_id.get().is_none());
        identity.app_id.set(Fact::Is("org.once".to_owned())).expect("it was not looked up");
        Registrar::new().find_app_id(&identity).await;
        let subject = identity.subject(Asks { cgroup: false, app_id: true });
        assert_eq!(subject.app_id, Fact::Is("org.once".to_owned()));
    }

    #[tokio::test]
    async fn what_a_sandbox_engine_said_counts_before_what_the_process_shows() {
        let (ours, _theirs) = UnixSeqpacket::pair().expect("sockets");
        let said = Some("org.said".to_owned());
        let identity = of(ours, Origin { app_id: said, ..Origin::named("run") });
        assert_eq!(identity.app_id().known(), Some("org.said"));
    }
}
