//! From two samples to what is shown: the shape of `--json`, which scripts may rely on.

use std::cmp::Ordering;

use gpu_broker_client::protocol::usage::class_name;
use serde::Serialize;

use super::sample::{Daemon, Sample, Session};

/// What one frame shows.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Frame {
    /// The daemon.
    pub(super) daemon: Daemon,
    /// What the percentages are of, nanoseconds; 0 with the first sample, when there are none yet.
    pub(super) over_ns: u64,
    /// The engines.
    pub(super) engines: Vec<EngineLine>,
    /// The sessions we may see.
    pub(super) sessions: Vec<Row>,
}

/// An engine.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct EngineLine {
    pub(super) name: String,
    /// 0 to 100.
    pub(super) busy_percent: f64,
    pub(super) queued: u32,
}

/// A session.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Row {
    pub(super) session: u64,
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) client: String,
    pub(super) class: Option<String>,
    pub(super) age_ns: u64,
    pub(super) contexts: u32,
    pub(super) buffer_bytes: u64,
    pub(super) in_flight: u32,
    pub(super) submissions: u64,
    /// 100 is the whole time of one engine; who has two engines at once has 200.
    pub(super) busy_percent: f64,
    /// The same by engine class.
    pub(super) engines: Vec<Share>,
    pub(super) refusals: Option<u64>,
    pub(super) hangs: Option<u64>,
}

/// What a session had of the engines of a class.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Share {
    /// As drm-usage-stats calls it.
    pub(super) class: String,
    /// How many engines there are.
    pub(super) capacity: u16,
    /// 0 to 100 times `capacity`.
    pub(super) busy_percent: f64,
}

impl Frame {
    /// What was between two samples. An earlier one of another daemon does not count.
    pub(super) fn between(before: Option<&Sample>, after: &Sample) -> Self {
        let same = |before: &&Sample| {
            before.daemon.pid == after.daemon.pid
                && before.daemon.uptime_ns <= after.daemon.uptime_ns
        };
        let before = before.filter(same);
        let began_ns = before.map_or(after.daemon.uptime_ns, |before| before.daemon.uptime_ns);
        let over_ns = after.daemon.uptime_ns.saturating_sub(began_ns);
        let engines = after.engines.iter().map(|engine| {
            let earlier = before.and_then(|b| b.engines.iter().find(|e| e.name == engine.name));
            // An engine that was not there before has had no time that we could compare.
            let earlier_ns = earlier.map_or(engine.busy_ns, |earlier| earlier.busy_ns);
            EngineLine {
                name: engine.name.clone(),
                busy_percent: percent(engine.busy_ns.saturating_sub(earlier_ns), over_ns, 1),
                queued: engine.queued,
            }
        });
        let sessions = after.sessions.iter().map(|session| {
            let earlier = before.and_then(|before| before.find(session.session));
            Row::new(earlier, session, over_ns)
        });
        Self {
            daemon: after.daemon.clone(),
            over_ns,
            engines: engines.collect(),
            sessions: sessions.collect(),
        }
    }

    /// Puts the sessions in order.
    pub(super) fn sort(&mut self, order: Order) {
        self.sessions.sort_by(|a, b| {
            let by_column = order.column.compare(a, b);
            let by_column = if order.descending { by_column.reverse() } else { by_column };
            // Equal ones must not change places from frame to frame.
            by_column.then(a.session.cmp(&b.session))
        });
    }
}

impl Sample {
    fn find(&self, session: u64) -> Option<&Session> {
        let at = self.sessions.binary_search_by_key(&session, |session| session.session);
        at.ok().and_then(|at| self.sessions.get(at))
    }
}

impl Row {
    fn new(earlier: Option<&Session>, now: &Session, over_ns: u64) -> Self {
        let engines = now.engines.iter().map(|usage| {
            let known = earlier.and_then(|e| e.engines.iter().find(|e| e.class == usage.class));
            let earlier_ns = match known {
                Some(known) => known.busy_ns,
                // It began in between: all it had, it had in that time.
                None if now.age_ns <= over_ns => 0,
                // We could not see it before.
                None => usage.busy_ns,
            };
            let busy_ns = usage.busy_ns.saturating_sub(earlier_ns);
            Share {
                class: class_name(usage.class),
                capacity: usage.capacity,
                busy_percent: percent(busy_ns, over_ns, usage.capacity),
            }
        });
        let engines: Vec<_> = engines.collect();
        Self {
            session: now.session,
            pid: now.pid,
            uid: now.uid,
            client: now.client.clone(),
            class: now.class.clone(),
            age_ns: now.age_ns,
            contexts: now.contexts,
            buffer_bytes: now.buffer_bytes,
            in_flight: now.in_flight,
            submissions: now.submissions,
            busy_percent: tenths(engines.iter().map(|share| share.busy_percent).sum()),
            engines,
            refusals: now.refusals,
            hangs: now.hangs,
        }
    }
}

/// Per cent of the time of one engine, at most of `capacity` ones: times and accounts are not read
/// at the same instant.
fn percent(busy_ns: u64, over_ns: u64, capacity: u16) -> f64 {
    if over_ns == 0 {
        return 0.0;
    }
    let most = u128::from(capacity) * 1000;
    let tenths = (u128::from(busy_ns) * 1000 / u128::from(over_ns)).min(most);
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

/// A sum of tenths is one again.
fn tenths(sum: f64) -> f64 {
    (sum * 10.0).round() / 10.0
}

/// A column of the sessions' table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Column {
    /// Number of the session
    Session,
    /// Process
    Pid,
    /// User
    Uid,
    /// The name the client gave itself
    Name,
    /// Class of the policy
    Class,
    /// Contexts
    Contexts,
    /// Memory of its buffers
    Memory,
    /// Submissions that are not done
    Flight,
    /// Engine time
    Busy,
    /// Refused requests
    Refusals,
    /// Batches that died
    Hangs,
}

impl Column {
    /// All, from left to right.
    pub(super) const ALL: [Self; 11] = [
        Self::Session,
        Self::Pid,
        Self::Uid,
        Self::Name,
        Self::Class,
        Self::Contexts,
        Self::Memory,
        Self::Flight,
        Self::Busy,
        Self::Refusals,
        Self::Hangs,
    ];

    /// Its heading. The capital letter is the key that sorts by it.
    pub(super) const fn heading(self) -> &'static str {
        match self {
            Self::Session => "Sess",
            Self::Pid => "Pid",
            Self::Uid => "Uid",
            Self::Name => "Name",
            Self::Class => "cLass",
            Self::Contexts => "Ctx",
            Self::Memory => "Memory",
            Self::Flight => "Fly",
            Self::Busy => "Busy%",
            Self::Refusals => "Ref",
            Self::Hangs => "Hung",
        }
    }

    /// The key that sorts by it.
    pub(super) fn key(self) -> char {
        let letter = self.heading().chars().find(char::is_ascii_uppercase);
        letter.unwrap_or_default().to_ascii_lowercase()
    }

    /// Whether it is a quantity, whose greatest are looked for.
    pub(super) const fn is_number(self) -> bool {
        !matches!(self, Self::Name | Self::Class)
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        match self {
            Self::Session => a.session.cmp(&b.session),
            Self::Pid => a.pid.cmp(&b.pid),
            Self::Uid => a.uid.cmp(&b.uid),
            Self::Name => a.client.cmp(&b.client),
            Self::Class => a.class.cmp(&b.class),
            Self::Contexts => a.contexts.cmp(&b.contexts),
            Self::Memory => a.buffer_bytes.cmp(&b.buffer_bytes),
            Self::Flight => a.in_flight.cmp(&b.in_flight),
            Self::Busy => a.busy_percent.total_cmp(&b.busy_percent),
            Self::Refusals => a.refusals.cmp(&b.refusals),
            Self::Hangs => a.hangs.cmp(&b.hangs),
        }
    }
}

/// How sessions are ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) column: Column,
    pub(super) descending: bool,
}

impl Order {
    /// The order in which one looks at a column first.
    pub(super) fn by(column: Column) -> Self {
        let descending =
            column.is_number() && !matches!(column, Column::Session | Column::Pid | Column::Uid);
        Self { column, descending }
    }
}
