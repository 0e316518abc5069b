//! The status as it is shown: the shape of `--json`, which scripts may rely on.

use gpu_broker_client::protocol::identity::SessionIdentity;
use gpu_broker_client::protocol::status as wire;
use gpu_broker_client::protocol::usage::{ClassUsage, MemoryUsage, SessionUsage, class_name};
use serde::Serialize;

use crate::hang::Hang;
use crate::output::harmless;

/// Everything `gpu-broker status` knows.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Status {
    /// The daemon.
    pub(crate) daemon: Daemon,
    /// What `busy_percent` of the engines is measured over.
    pub(crate) busy_over: BusyOver,
    /// The engines, by class then instance.
    pub(crate) engines: Vec<Engine>,
    /// The sessions we may see, by number.
    pub(crate) sessions: Vec<Session>,
    /// Batches that hung or faulted, the last first: who hung the GPU.
    pub(crate) last_hangs: Vec<Hang>,
}

/// The time over which engines were watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct BusyOver {
    /// Whether that is since the daemon started.
    pub(crate) since_start: bool,
    /// Nanoseconds.
    pub(crate) ns: u64,
}

/// The daemon.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Daemon {
    pub(crate) version: String,
    pub(crate) driver: String,
    pub(crate) pid: u32,
    pub(crate) uptime_ns: u64,
    pub(crate) sessions: u32,
    pub(crate) sessions_total: u64,
    pub(crate) sessions_max: u32,
    pub(crate) refusals: u64,
    pub(crate) violations: u64,
    /// What it has given up; `None` if it did not say.
    pub(crate) confinement: Option<Confinement>,
    /// The GPU takes no work: it is wedged.
    pub(crate) wedged: bool,
}

/// What the daemon has given up.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Confinement {
    pub(crate) system_calls: Wall,
    pub(crate) files: Wall,
}

/// Part of that.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Wall {
    pub(crate) holds: bool,
    /// Why it does not; empty if it does.
    pub(crate) why: String,
}

impl Confinement {
    pub(crate) fn new(told: &wire::Confinement) -> Self {
        let wall = |wall: &wire::Wall| Wall { holds: wall.holds, why: harmless(&wall.why) };
        Self { system_calls: wall(&told.system_calls), files: wall(&told.files) }
    }
}

/// One engine.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) class: u16,
    pub(crate) instance: u16,
    /// Since the daemon started.
    pub(crate) busy_ns: u64,
    /// Within `busy_over`, nanoseconds.
    pub(crate) busy_in_time_ns: u64,
    /// 0 to 100.
    pub(crate) busy_percent: f64,
    pub(crate) queued: u32,
    pub(crate) completed: u64,
    pub(crate) faults: u64,
}

/// One session.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Session {
    pub(crate) session: u64,
    pub(crate) client: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Who it belongs to; `None` if it ended while we asked.
    pub(crate) identity: Option<Identity>,
    pub(crate) age_ns: u64,
    pub(crate) vms: u32,
    pub(crate) buffers: u32,
    pub(crate) buffer_bytes: u64,
    pub(crate) in_flight: u32,
    pub(crate) submissions: u64,
    /// What it had of each engine class.
    pub(crate) engines: Vec<EngineTime>,
    /// What became of its buffers.
    pub(crate) memory: SessionMemory,
    /// How many there are; the daemon cuts long lists.
    pub(crate) contexts_total: u32,
    pub(crate) contexts: Vec<Context>,
}

/// What a session had of the engines of a class.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct EngineTime {
    /// As in drm-usage-stats.
    pub(crate) class: String,
    /// Engines of the class.
    pub(crate) capacity: u16,
    /// In all, on each engine counted for itself.
    pub(crate) busy_ns: u64,
    /// Within `busy_over`, nanoseconds.
    pub(crate) busy_in_time_ns: u64,
}

/// Buffers of a session by what became of them, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(crate) struct SessionMemory {
    pub(crate) total: u64,
    pub(crate) shared: u64,
    pub(crate) resident: u64,
    pub(crate) active: u64,
}

/// Who a session belongs to. What is not known is empty.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Identity {
    pub(crate) class: String,
    pub(crate) listener: String,
    pub(crate) cgroup: String,
    pub(crate) unit: String,
    pub(crate) container: String,
    pub(crate) app_id: String,
}

impl Identity {
    pub(crate) fn new(identity: &SessionIdentity) -> Self {
        Self {
            class: harmless(&identity.class),
            listener: harmless(&identity.listener),
            cgroup: harmless(&identity.cgroup),
            unit: harmless(&identity.unit),
            container: harmless(&identity.container),
            app_id: harmless(&identity.app_id),
        }
    }
}

/// One context.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Context {
    pub(crate) context: u32,
    pub(crate) state: State,
    /// The request that materialised it; `null` for a proto-context.
    pub(crate) materialised_by: Option<MaterialisedBy>,
    pub(crate) priority: i32,
    pub(crate) user_engines: bool,
    pub(crate) banned: bool,
    /// Time on each class of the session's `engines`, in their order; empty for a proto-context, and
    /// where it is not known: i915 counts for a whole session.
    pub(crate) busy_ns: Vec<u64>,
}

/// Where a context is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// A record in the daemon.
    Proto,
    /// On the device.
    Live,
}

/// A request that materialises contexts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum MaterialisedBy {
    Hello,
    Execbuf,
    ContextGetparam,
    GetResetStats,
    ContextCreate,
}

impl MaterialisedBy {
    /// As the request is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::Execbuf => "EXECBUF",
            Self::ContextGetparam => "CONTEXT_GETPARAM",
            Self::GetResetStats => "GET_RESET_STATS",
            Self::ContextCreate => "CONTEXT_CREATE",
        }
    }
}

impl Status {
    /// Engines' business since the daemon started.
    pub(crate) fn since_start(page: &wire::StatusPage) -> Self {
        Self::new(page, BusyOver { since_start: true, ns: page.daemon.uptime_ns }, &[])
    }

    /// Engines' business between two samples; the rest is of the second.
    pub(crate) fn between(before: &wire::StatusPage, after: &wire::StatusPage) -> Self {
        // Both times are the daemon's, so what lies between is what the engines had.
        let ns = after.daemon.uptime_ns.saturating_sub(before.daemon.uptime_ns);
        Self::new(after, BusyOver { since_start: false, ns }, &before.engines)
    }

    /// Adds what sessions used; without an earlier account, all of it is new.
    pub(crate) fn with_usage(mut self, before: &[SessionUsage], after: &[SessionUsage]) -> Self {
        for session in &mut self.sessions {
            let of = |usages: &'_ [SessionUsage]| {
                usages.iter().position(|usage| usage.session.0 == session.session)
            };
            if let Some(usage) = of(after).and_then(|at| after.get(at)) {
                let earlier = of(before).and_then(|at| before.get(at));
                session.account(earlier.map_or(&[], |earlier| &earlier.engines), usage);
            }
        }
        self
    }

    fn new(page: &wire::StatusPage, busy_over: BusyOver, before: &[wire::EngineStatus]) -> Self {
        let engine = |engine: &wire::EngineStatus| {
            let earlier = before.iter().find(|b| b.engine == engine.engine);
            Engine::new(engine, earlier.map_or(0, |e| e.busy_ns), busy_over.ns)
        };
        Self {
            daemon: Daemon::new(&page.daemon),
            busy_over,
            engines: page.engines.iter().map(engine).collect(),
            sessions: page.sessions.iter().map(Session::new).collect(),
            last_hangs: Vec::new(),
        }
    }
}

impl Daemon {
    fn new(daemon: &wire::DaemonStatus) -> Self {
        Self {
            version: harmless(&daemon.version),
            driver: harmless(&daemon.driver),
            pid: daemon.pid,
            uptime_ns: daemon.uptime_ns,
            sessions: daemon.sessions,
            sessions_total: daemon.sessions_total,
            sessions_max: daemon.sessions_max,
            refusals: daemon.refusals,
            violations: daemon.violations,
            wedged: false,
            confinement: None,
        }
    }
}

impl Engine {
    fn new(engine: &wire::EngineStatus, busy_before_ns: u64, time_ns: u64) -> Self {
        let busy = engine.busy_ns.saturating_sub(busy_before_ns);
        // The engine's time and the daemon's are not read at the same instant.
        let tenths = u128::from(busy) * 1000 / u128::from(time_ns.max(1));
        Self {
            name: harmless(&engine.name),
            class: engine.engine.class,
            instance: engine.engine.instance,
            busy_ns: engine.busy_ns,
            busy_in_time_ns: busy,
            busy_percent: f64::from(u16::try_from(tenths.min(1000)).unwrap_or(1000)) / 10.0,
            queued: engine.queued,
            completed: engine.completed,
            faults: engine.faults,
        }
    }
}

impl Session {
    fn new(session: &wire::SessionStatus) -> Self {
        Self {
            session: session.session.0,
            client: harmless(&session.client_name),
            pid: session.pid,
            uid: session.uid,
            gid: session.gid,
            identity: None,
            age_ns: session.age_ns,
            vms: session.vms,
            buffers: session.buffers,
            buffer_bytes: session.buffer_bytes,
            in_flight: session.in_flight,
            submissions: session.submissions,
            engines: Vec::new(),
            memory: SessionMemory::default(),
            contexts_total: session.contexts_total,
            contexts: session.contexts.iter().map(Context::new).collect(),
        }
    }
}

impl Session {
    fn account(&mut self, before: &[ClassUsage], usage: &SessionUsage) {
        let time = |now: &ClassUsage| {
            let earlier = before.iter().find(|earlier| earlier.class == now.class);
            EngineTime {
                class: class_name(now.class),
                capacity: now.capacity,
                busy_ns: now.busy_ns,
                busy_in_time_ns: now.busy_ns.saturating_sub(earlier.map_or(0, |e| e.busy_ns)),
            }
        };
        self.engines = usage.engines.iter().map(time).collect();
        let MemoryUsage { total, shared, resident, active } = usage.memory;
        self.memory = SessionMemory { total, shared, resident, active };
        for known in &usage.contexts {
            let context = self.contexts.iter_mut().find(|c| c.context == known.context.0);
            if let Some(context) = context {
                context.busy_ns.clone_from(&known.busy_ns);
            }
        }
    }
}

impl Context {
    fn new(context: &wire::ContextStatus) -> Self {
        let by = match context.state {
            wire::ContextState::Proto => None,
            wire::ContextState::Live { by } => Some(match by {
                wire::MaterialisedBy::Open => MaterialisedBy::Hello,
                wire::MaterialisedBy::Execbuf => MaterialisedBy::Execbuf,
                wire::MaterialisedBy::GetParam => MaterialisedBy::ContextGetparam,
                wire::MaterialisedBy::ResetStats => MaterialisedBy::GetResetStats,
                wire::MaterialisedBy::Create => MaterialisedBy::ContextCreate,
            }),
        };
        Self {
            context: context.context.0,
            state: if by.is_some() { State::Live } else { State::Proto },
            materialised_by: by,
            priority: context.priority,
            user_engines: context.user_engines,
            banned: context.banned,
            busy_ns: Vec::new(),
        }
    }
}
