//! What all connections share, and the life of the daemon from READY to its last session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gpu_broker_core::{Capabilities, Registry};
use gpu_broker_device::Device;
use gpu_broker_protocol::{Epitaph, EpitaphCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use crate::clock::Clock;
use crate::config::Config;
use crate::connection::{self, Connection};
use crate::directory::{Directory, Entry};
use crate::hands::DeviceHands;
use crate::limiter::{Limiter, warn_limited};
use crate::packet::Socket;
use crate::peer::Peer;
use crate::socket::Listener;
use crate::systemd;

/// How long to leave the listener alone after it failed. Out of fds, it fails until one is closed;
/// trying again at once would starve every client that could close one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How often to look whether the last session has ended.
const STOP_RHYTHM: Duration = Duration::from_millis(2);

/// What all connections share.
pub(crate) struct Server<D: Device> {
    pub(crate) config: Config,
    pub(crate) device: D,
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) registry: Arc<Registry<DeviceHands<D::File>>>,
    pub(crate) directory: Directory<D>,
    pub(crate) clock: Clock,
    /// For peers that come back with a new session after each fault.
    limiter: Limiter,
    refusals: AtomicU64,
    violations: AtomicU64,
}

impl<D: Device> Server<D> {
    pub(crate) fn new(config: Config, device: D, capabilities: Capabilities) -> Self {
        let clock = Clock::start();
        Self {
            config,
            device,
            capabilities: Arc::new(capabilities),
            registry: Arc::new(Registry::new()),
            directory: Directory::new(clock),
            clock,
            limiter: Limiter::default(),
            refusals: AtomicU64::new(0),
            violations: AtomicU64::new(0),
        }
    }

    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    pub(crate) fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }

    pub(crate) fn count_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and logs a breach of the protocol.
    pub(crate) fn report_violation(&self, entry: &Entry<D>, epitaph: &Epitaph) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        let Peer { uid, pid, .. } = entry.peer;
        let name = entry.named().map_or("", |named| &named.client_name);
        warn_limited!(
            self.limiter,
            self.clock.now(),
            session = entry.id(),
            "a client broke the protocol and was cut off: {} (uid {uid}, pid {pid}, \"{name}\")",
            epitaph.text
        );
    }

    /// Serves until SIGTERM or SIGINT, then ends every session.
    ///
    /// # Errors
    /// Of the system, while starting.
    pub(crate) async fn run(self: &Arc<Self>, listeners: Vec<Listener>) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut accepting = JoinSet::new();
        let mut files = Vec::new();
        for listener in listeners {
            let name = listener.name();
            let (fd, file) = listener.into_parts();
            let socket = UnixSeqpacketListener::try_from(fd)?;
            tracing::info!("listening on {name}");
            accepting.spawn(Arc::clone(self).accept(socket));
            files.push(file);
        }
        systemd::ready();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = systemd::feed_watchdog() => {}
        }
        systemd::stopping();
        accepting.shutdown().await;
        drop(files);
        self.stop().await;
        Ok(())
    }

    /// Ends every session and waits for them, but not for ever.
    async fn stop(&self) {
        let sessions = self.directory.len();
        tracing::info!("stopping with {sessions} sessions open");
        self.directory.end_all(EpitaphCode::ShuttingDown);
        let gone = async {
            while self.directory.len() > 0 {
                tokio::time::sleep(STOP_RHYTHM).await;
            }
        };
        let limit = Duration::from_millis(self.config.daemon.stop_timeout_ms);
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!("{} sessions did not end in time", self.directory.len());
        }
    }

    /// Accepts connections for as long as the daemon does.
    async fn accept(self: Arc<Self>, mut listener: UnixSeqpacketListener) {
        loop {
            // The polling form, for the same reason as in `packet::poll_receive`.
            match std::future::poll_fn(|cx| listener.poll_accept(cx)).await {
                Ok(socket) => self.admit(socket),
                Err(error) => {
                    warn_limited!(
                        self.limiter,
                        self.clock.now(),
                        session = "none",
                        "cannot accept a connection: {error}"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a connection its task, if there is room.
    fn admit(self: &Arc<Self>, socket: UnixSeqpacket) {
        let peer = match Peer::of(&socket) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::error!(%error, "a connection has no credentials");
                return;
            }
        };
        let socket = match Socket::new(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, "a connection cannot be watched");
                return;
            }
        };
        let limits = &self.config.daemon;
        match self.directory.enter(peer, limits.sessions, limits.sessions_per_uid) {
            Ok(entry) => {
                let connection = Connection::new(Arc::clone(self), entry, socket);
                tokio::spawn(connection.serve());
            }
            Err(full) => {
                let uid = peer.uid;
                warn_limited!(
                    self.limiter,
                    self.clock.now(),
                    session = "none",
                    "a client of uid {uid} was turned away: {full}"
                );
                if let Some(socket) = socket.into_fd() {
                    connection::turn_away(socket);
                }
            }
        }
    }
}
