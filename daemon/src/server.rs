//! What all connections share, and the life of the daemon from READY to its last session.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use gpu_broker_core::{Capabilities, Registry, Resource};
use gpu_broker_device::{Device, Health};
use gpu_broker_protocol::admin::{AdminNews, kind};
use gpu_broker_protocol::status as wire;
use gpu_broker_protocol::{Epitaph, EpitaphCode, Refusal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::Doors;
use crate::args::Args;
use crate::audit;
use crate::classes::{Class, Classes, count};
use crate::clock::Clock;
use crate::config::Config;
use crate::confine::Confinement;
use crate::connection::{self, Connection, Place, Seat};
use crate::directory::{Books, Directory, Entry, Full};
use crate::hands::DeviceHands;
use crate::identity::{Credentials, Identity, Registrar, is_operator};
use crate::limiter::{Limiter, limited, warn_limited};
use crate::listeners::{Listeners, Origin, Running, Taken};
use crate::lists::LONG_AT_ONCE;

use crate::metrics::{self, Bound};
use crate::packet::{Acceptor, Socket};
use crate::policy::Asks;
use crate::socket::Listener;
use crate::systemd;

/// How long to leave the listener alone after it failed. Out of fds, it fails until one is closed;
/// trying again at once would starve every client that could close one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How often to look at a device that may be wedged or unplugged.
const DEVICE_RHYTHM: Duration = Duration::from_millis(500);

/// How often to look whether the last session has ended.
const STOP_RHYTHM: Duration = Duration::from_millis(2);

/// Administrators' connections, beside as many as there may be of clients.
const ADMINS_MAX: u32 = 16;

/// What all connections share.
pub(crate) struct Server<D: Device> {
    config: RwLock<Arc<Config>>,
    pub(crate) device: D,
    pub(crate) registry: Arc<Registry<DeviceHands<D::File>>>,
    pub(crate) directory: Directory<D>,
    pub(crate) books: Arc<Books<D>>,
    pub(crate) classes: Classes,
    pub(crate) listeners: Listeners,
    pub(crate) registrar: Registrar,
    pub(crate) clock: Clock,
    /// For peers that come back with a new session after each fault.
    limiter: Limiter,
    /// Since it serves.
    confinement: OnceLock<Confinement>,
    /// Turns of long submissions, on a device whose calls do not wait.
    pub(crate) long: Arc<Semaphore>,
    /// Nobody new is let in.
    draining: AtomicBool,
    refusals: AtomicU64,
    violations: AtomicU64,
}

/// Why a connection gets no session.
#[derive(Debug)]
pub(crate) struct TurnedAway {
    code: EpitaphCode,
    why: String,
}

impl<D: Device> Server<D> {
    pub(crate) fn new(config: Config, device: D, capabilities: Capabilities) -> Self {
        let clock = Clock::start();
        let classes = Classes::new(&config.policy, Arc::new(capabilities));
        let books = Arc::new(Books::new(clock));
        Self {
            config: RwLock::new(Arc::new(config)),
            device,
            registry: Arc::new(Registry::new()),
            directory: Directory::new(Arc::clone(&books)),
            books,
            classes,
            listeners: Listeners::default(),
            registrar: Registrar::new(),
            clock,
            limiter: Limiter::default(),
            confinement: OnceLock::new(),
            long: Arc::new(Semaphore::new(LONG_AT_ONCE)),
            draining: AtomicBool::new(false),
            refusals: AtomicU64::new(0),
            violations: AtomicU64::new(0),
        }
    }

    /// The configuration as it is now.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the daemon has given up.
    pub(crate) fn confinement(&self) -> wire::Confinement {
        let not_yet = || wire::Wall { holds: false, why: "the daemon is starting".to_owned() };
        let walls = self.confinement.get().map(Confinement::walls);
        walls.unwrap_or_else(|| wire::Confinement { system_calls: not_yet(), files: not_yet() })
    }

    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    pub(crate) fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }

    /// Whether nobody new is let in.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Lets nobody new in, or lets them in again.
    pub(crate) fn set_draining(&self, on: bool) {
        self.draining.store(on, Ordering::Relaxed);
    }

    /// A session has said HELLO.
    pub(crate) fn opened(&self, entry: &Entry<D>) {
        count(&entry.log.class.counts.sessions);
        self.books.events.tell(kind::SESSIONS, || {
            let Credentials { uid, pid, .. } = entry.identity.credentials;
            AdminNews::SessionBegan {
                session: entry.id(),
                class: entry.log.class.name().to_owned(),
                listener: entry.identity.origin.name.clone(),
                uid,
                pid,
                client_name: entry
                    .named()
                    .map_or_else(String::new, |it| it.client_name.to_string()),
            }
        });
    }

    /// A session that [`Self::opened`] is over.
    pub(crate) fn ended(&self, entry: &Entry<D>, why: Option<&str>) {
        if entry.named().is_some() {
            self.books.events.tell(kind::SESSIONS, || AdminNews::SessionEnded {
                session: entry.id(),
                why: why.unwrap_or("the client hung up").to_owned(),
            });
        }
    }

    /// A connection gets no session.
    fn turned_away(&self, peer: &dyn std::fmt::Display, why: &str) {
        self.books.events.tell(kind::SESSIONS, || AdminNews::TurnedAway {
            peer: peer.to_string(),
            why: why.to_owned(),
            count: 1,
        });
    }

    /// Counts and logs a request that was refused.
    pub(crate) fn refused(&self, entry: &Entry<D>, opcode: u16, refusal: &Refusal) {
        count(&self.refusals);
        entry.log.class.counts.refused(refusal.reason.name());
        entry.refused(refusal.reason.name());
        self.books.events.tell(kind::REFUSALS, || AdminNews::Refused {
            session: entry.id(),
            reason: refusal.reason.name().to_owned(),
            sentence: refusal.sentence(),
            count: 1,
        });
        tracing::debug!(session = %entry.id(), class = entry.log.class.name(), opcode, %refusal);
        audit::refused(&entry.log, self.clock.now(), opcode, refusal);
    }

    /// Counts and logs a breach of the protocol.
    pub(crate) fn report_violation(&self, entry: &Entry<D>, epitaph: &Epitaph) {
        count(&self.violations);
        count(&entry.log.class.counts.violations);
        let name = entry.named().map_or("", |named| &named.client_name);
        let Credentials { uid, pid, .. } = entry.identity.credentials;
        let log = &entry.log;
        // Of all sessions together: a client comes back with a new one after each fault.
        limited!(
            self.limiter,
            self.clock.now(),
            (
                target: "gpu_brokerd",
                session = %log.session, class = log.class.name(), peer = log.peer(),
            ),
            "a client broke the protocol and was cut off: {} (uid {uid}, pid {pid}, \"{name}\")",
            epitaph.text
        );
    }

    /// Serves until SIGTERM or SIGINT, then ends every session. SIGHUP reads the configuration
    /// again, as `args` name it. Everything is at hand and nobody has been let in when `confine` is
    /// called.
    ///
    /// # Errors
    /// Of the system, while starting.
    pub(crate) async fn run(
        self: &Arc<Self>,
        doors: Doors,
        args: &Args,
        confine: impl FnOnce() -> Confinement,
    ) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        for listener in doors.listeners {
            let origin = Origin::named(&listener.name);
            self.listen(listener, origin)?;
        }
        let metrics = doors.metrics.map(Bound::into_door).transpose()?;
        let metrics = async {
            match metrics {
                Some(door) => metrics::serve(Arc::clone(self), door).await,
                None => std::future::pending().await,
            }
        };
        let watching = D::MAY_BLOCK.then(|| tokio::spawn(Arc::clone(self).watch_device()));
        // This is the only call; a second would find the same.
        let _ = self.confinement.set(confine());
        systemd::ready();
        let reload = async {
            while hangup.recv().await.is_some() {
                systemd::reloading();
                self.reload(args);
                systemd::ready();
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = systemd::feed_watchdog() => {}
            () = reload => {}
            () = metrics => {}
        }
        systemd::stopping();
        self.listeners.clear();
        if let Some(watching) = watching {
            watching.abort();
        }
        self.stop().await;
        Ok(())
    }

    /// Looks at the device now and then, for as long as the daemon runs. While it is wedged the rules
    /// answer for it; when it is gone every session ends, because what it had is lost.
    async fn watch_device(self: Arc<Self>) {
        loop {
            let server = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || server.device.probe()).await;
            if looked.is_err() {
                tracing::error!("a panic while the device was looked at");
            }
            let health = self.device.health();
            self.registry.set_gone(health.is_gone());
            self.registry.set_wedged(health == Health::Wedged);
            if health.is_gone() {
                self.directory.end_all(EpitaphCode::DeviceLost);
            }
            tokio::time::sleep(DEVICE_RHYTHM).await;
        }
    }

    /// Accepts connections on one more socket.
    ///
    /// # Errors
    /// Of the system, or the name is taken.
    pub(crate) fn listen(
        self: &Arc<Self>,
        listener: Listener,
        origin: Origin,
    ) -> std::io::Result<()> {
        self.listen_as(listener, origin, false)
    }

    /// The same for a listener that an administrator makes.
    pub(crate) fn listen_made(
        self: &Arc<Self>,
        listener: Listener,
        origin: Origin,
    ) -> std::io::Result<()> {
        self.listen_as(listener, origin, true)
    }

    fn listen_as(
        self: &Arc<Self>,
        listener: Listener,
        origin: Origin,
        made: bool,
    ) -> std::io::Result<()> {
        let taken = |taken: Taken| std::io::Error::other(format!("\"{}\": {taken}", origin.name));
        self.listeners.check(&origin.name).map_err(taken)?;
        let place = listener.place();
        let (fd, file) = listener.into_parts();
        let socket = Acceptor::new(fd)?;
        tracing::info!("listening on {place} as \"{}\"", origin.name);
        let (origin, accepted) = (Arc::new(origin), Arc::<AtomicU64>::default());
        let accept = Arc::clone(self).accept(socket, Arc::clone(&origin), Arc::clone(&accepted));
        let task = tokio::spawn(accept).abort_handle();
        self.listeners.add(Running { task, _file: file, origin, made, accepted });
        Ok(())
    }

    /// Reads the configuration again. What is wrong changes nothing; sockets, device and log stay
    /// what they are.
    fn reload(&self, args: &Args) {
        let config = match Config::load(args) {
            Ok(config) => Arc::new(config),
            Err(error) => {
                tracing::warn!("the configuration stays what it was: {error}");
                let error = Some(error.to_string());
                self.books.events.tell(kind::RELOADS, || AdminNews::Reloaded { error });
                return;
            }
        };
        if let Some(why) = self.confinement.get().and_then(|it| it.hinders(&config)) {
            tracing::warn!("{why}; restart the daemon");
        }
        self.classes.apply(&config.policy);
        let limits = config.session.for_core();
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        let entries = self.directory.after(gpu_broker_protocol::SessionId(0));
        let apply = move || {
            for entry in entries {
                if let Some(session) = entry.named().and_then(|named| named.session.upgrade()) {
                    session.set_limits(limits);
                    session.hands().tell_status(|| session.sees_device_resets());
                }
            }
        };
        if D::MAY_BLOCK {
            // A session's request at the device holds its locks.
            drop(tokio::task::spawn_blocking(apply));
        } else {
            apply();
        }
        tracing::info!("the configuration was read again");
        self.books.events.tell(kind::RELOADS, || AdminNews::Reloaded { error: None });
    }

    /// Ends every session and waits for them, but not for ever.
    async fn stop(&self) {
        let sessions = self.directory.len();
        tracing::info!("stopping with {sessions} sessions open");
        self.draining.store(true, Ordering::Relaxed);
        let gone = async {
            while self.directory.len() > 0 {
                // Again and again: an identity that was looked up becomes a session only now.
                self.directory.end_all(EpitaphCode::ShuttingDown);
                tokio::time::sleep(STOP_RHYTHM).await;
            }
        };
        let limit = Duration::from_millis(self.config().daemon.stop_timeout_ms);
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!("{} sessions did not end in time", self.directory.len());
        }
    }

    /// Accepts connections for as long as the listener is there.
    async fn accept(
        self: Arc<Self>,
        listener: Acceptor,
        origin: Arc<Origin>,
        accepted: Arc<AtomicU64>,
    ) {
        loop {
            match std::future::poll_fn(|cx| listener.poll_accept(cx)).await {
                Ok(socket) => {
                    count(&accepted);
                    self.admit(socket, &origin);
                }
                Err(error) => {
                    let now = self.clock.now();
                    warn_limited!(self.limiter, now, "cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a connection its task, if there is room.
    fn admit(self: &Arc<Self>, socket: OwnedFd, origin: &Arc<Origin>) {
        let credentials = match Credentials::of(&socket) {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::error!(%error, "a connection has no credentials");
                return;
            }
        };
        match self.place(credentials, origin) {
            Ok(place) => {
                let identity = Identity::of(&socket, credentials, Arc::clone(origin));
                self.receive(socket, Arc::new(identity), place);
            }
            Err(TurnedAway { code, why }) => {
                let uid = credentials.uid;
                let now = self.clock.now();
                let peer = format_args!("uid={uid}");
                audit::turned_away(&self.limiter, now, &peer, &why);
                self.turned_away(&peer, &why);
                connection::turn_away(socket, code, &why);
            }
        }
    }

    /// A place for one more connection of a user.
    pub(crate) fn place(
        self: &Arc<Self>,
        Credentials { uid, gid, .. }: Credentials,
        origin: &Origin,
    ) -> Result<Place<D>, TurnedAway> {
        let config = self.config();
        let limits = &config.daemon;
        if origin.admin {
            let listed = config.admin.uids.contains(&uid) || config.admin.gids.contains(&gid);
            if !listed && !is_operator(uid) {
                let why = format!("uid {uid} is no administrator: admin.uids, admin.gids");
                return Err(TurnedAway { code: EpitaphCode::Denied, why });
            }
            // Beside the clients' places, or a full daemon could not be helped.
            let most = limits.sessions.saturating_add(ADMINS_MAX);
            return self.take(uid, most, most);
        }
        if self.is_draining() {
            let why = "it lets nobody in at the moment".to_owned();
            return Err(TurnedAway { code: EpitaphCode::ShuttingDown, why });
        }
        self.take(uid, limits.sessions, limits.sessions_per_uid)
    }

    fn take(self: &Arc<Self>, uid: u32, most: u32, of_user: u32) -> Result<Place<D>, TurnedAway> {
        let taken = self.directory.take_place(uid, most, of_user);
        taken
            .map_err(|full: Full| TurnedAway { code: EpitaphCode::Full, why: full.to_string() })?;
        Ok(Place { server: Arc::clone(self), uid })
    }

    /// Finds out as much of a peer as policy asks for, and seats it if it is admitted.
    fn receive(self: &Arc<Self>, socket: OwnedFd, identity: Arc<Identity>, place: Place<D>) {
        if !self.asks(&self.config(), &identity).app_id {
            return self.seat(socket, identity, place);
        }
        let server = Arc::clone(self);
        tokio::spawn(async move {
            server.registrar.find_app_id(&identity).await;
            server.seat(socket, identity, place);
        });
    }

    /// Gives an admitted peer the task that serves it.
    fn seat(self: &Arc<Self>, socket: OwnedFd, identity: Arc<Identity>, place: Place<D>) {
        let seat = match self.enrol(identity, place) {
            Ok(seat) => seat,
            Err(TurnedAway { code, why }) => {
                return connection::turn_away(socket, code, &why);
            }
        };
        match Socket::new(socket) {
            Ok(socket) => drop(tokio::spawn(Connection::new(seat, socket).serve())),
            Err(error) => tracing::error!(%error, "a connection cannot be watched"),
        }
    }

    /// What must be known of a peer to tell its class.
    fn asks(&self, config: &Config, identity: &Identity) -> Asks {
        let Credentials { uid, gid, .. } = identity.credentials;
        match &identity.origin.class {
            None => config.policy.asks(&identity.origin.name, uid, gid),
            Some(_) => Asks::default(),
        }
    }

    /// Puts a peer into its class.
    pub(crate) fn enrol(
        self: &Arc<Self>,
        identity: Arc<Identity>,
        place: Place<D>,
    ) -> Result<Seat<D>, TurnedAway> {
        let now = self.clock.now();
        let (class, denied) = self.class_of(&identity);
        let Some(class) = class else {
            let why = denied.unwrap_or_default();
            audit::turned_away(&self.limiter, now, &identity, &why);
            self.turned_away(&identity, &why);
            return Err(TurnedAway { code: EpitaphCode::Denied, why });
        };
        let refuse = |code, why: String| {
            audit::denied(&class, now, &identity, &why);
            self.turned_away(&identity, &why);
            Err(TurnedAway { code, why })
        };
        if let Some(why) = denied {
            return refuse(EpitaphCode::Denied, why);
        }
        let charge = u64::from(!identity.origin.admin);
        match class.account.hold(Resource::Sessions, charge) {
            Ok(charge) => {
                let entry = self.directory.enter(identity, class);
                Ok(Seat { server: Arc::clone(self), entry, _place: place, _charge: charge })
            }
            Err(refusal) => refuse(EpitaphCode::Full, refusal.sentence()),
        }
    }

    /// The peer's class, and why it is not admitted if it is not.
    fn class_of(&self, identity: &Identity) -> (Option<Arc<Class>>, Option<String>) {
        let config = self.config();
        let decision = match &identity.origin.class {
            None => config.policy.decide(&identity.subject(self.asks(&config, identity))),
            Some(name) => match config.policy.class(name) {
                Some(class) => {
                    class.decision(format!("listener \"{}\"", identity.origin.name), Vec::new())
                }
                None => {
                    return (None, Some(format!("the listener's class \"{name}\" is gone")));
                }
            },
        };
        (self.classes.get(&decision.class), decision.denied)
    }
}
