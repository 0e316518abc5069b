//! What happened, for people and for programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::confine::Confinement;
use super::daemon::Daemon;
use super::painters::Role;
use super::scene::{HEIGHT, WIDTH};
use super::talk::{Answer, Order, Step, StepKind};
use crate::output::{BAD, GOOD, HEADING, QUIET, Table, duration, styled};
use crate::status::{Context, MaterialisedBy, State, Status};

/// The whole demo; the shape of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Story {
    daemon_pid: u32,
    device: String,
    ready_ms: f64,
    /// Whether no client could open any GPU.
    confined: bool,
    clients: Vec<ClientStory>,
    engines: BTreeMap<String, u64>,
    /// Pixels.
    width: u32,
    height: u32,
    /// From start to the saved picture.
    pub(crate) total_ms: f64,
    /// Where it is.
    pub(crate) picture: PathBuf,
}

/// One client.
#[derive(Debug, Serialize)]
pub(crate) struct ClientStory {
    role: Role,
    pid: u32,
    session: u64,
    first_row: u32,
    rows: u32,
    confinement: Confinement,
    connect_us: f64,
    /// What was ordered, in order.
    pub(crate) acts: Vec<Act>,
}

/// An order, what the client says it did, and what the daemon says of the context afterwards.
#[derive(Debug, Serialize)]
pub(crate) struct Act {
    order: Order,
    steps: Vec<Step>,
    daemon: Option<Context>,
}

impl Act {
    /// Looks the context up in the daemon's status and compares it with what was to happen.
    ///
    /// # Errors
    /// A sentence, when the daemon's view differs.
    pub(crate) fn new(
        order: Order,
        answer: Answer,
        story: &ClientStory,
        status: &Status,
    ) -> Result<Self, String> {
        let name = story.role.name();
        let session = status.sessions.iter().find(|session| session.session == story.session);
        let session = session.ok_or_else(|| {
            format!("the daemon does not list session {} ({name})", story.session)
        })?;
        // Beside the default context there is only the client's own.
        let context = session.contexts.iter().find(|context| context.context != 0).cloned();
        if context.as_ref().map(|context| context.context) != answer.context {
            return Err(format!("client {name} and the daemon disagree about its context"));
        }
        let materialised = context.as_ref().and_then(|context| context.materialised_by);
        let due = story.role.materialised_after(order);
        if materialised != due {
            let by = |request: Option<MaterialisedBy>| {
                request.map_or("no request", MaterialisedBy::name)
            };
            return Err(format!(
                "the context of client {name} was materialised by {} instead of by {}",
                by(materialised),
                by(due)
            ));
        }
        Ok(Self { order, steps: answer.steps, daemon: context })
    }

    fn title(&self) -> &'static str {
        match self.order {
            Order::Create => "create",
            Order::Configure => "configure",
            Order::Paint => "paint",
            Order::Quit => "quit",
        }
    }

    fn daemon_line(&self) -> String {
        let Some(context) = &self.daemon else {
            return "there is no context, and the device never had one for it".to_owned();
        };
        let Context { context: id, priority, .. } = context;
        let map = if context.user_engines { ", own engine map" } else { "" };
        match (context.state, context.materialised_by) {
            (State::Live, Some(by)) => format!(
                "context {id} is {}, materialised by {}, priority {priority}{map}",
                styled(GOOD, "live"),
                by.name()
            ),
            (State::Proto, _) | (State::Live, None) => format!(
                "context {id} is {}, nothing on the device, priority {priority}{map}",
                styled(HEADING, "proto")
            ),
        }
    }
}

impl ClientStory {
    /// Connected and confined, nothing done yet.
    pub(crate) fn new(
        role: Role,
        pid: u32,
        session: u64,
        confinement: Confinement,
        connect_us: f64,
    ) -> Self {
        let ((first_row, rows), acts) = (role.rows(), Vec::new());
        Self { role, pid, session, first_row, rows, confinement, connect_us, acts }
    }

    fn tell(&self) -> String {
        let place = match self.rows {
            0 => "paints nothing".to_owned(),
            rows => format!("rows {} to {}", self.first_row, self.first_row + rows - 1),
        };
        let head = styled(HEADING, self.role.name());
        let mut lines =
            vec![format!("{head}: session {}, pid {}, {place}", self.session, self.pid)];
        for act in self.acts.iter().filter(|act| !act.steps.is_empty()) {
            let mut title = act.title();
            for step in &act.steps {
                lines.push(format!("  {title:9}  {} {}", step.what, styled(QUIET, time(step.us))));
                title = "";
            }
            lines.push(format!("  {:9}  daemon: {}", "", act.daemon_line()));
        }
        lines.join("\n")
    }

    fn time_of(&self, kinds: &[StepKind]) -> Option<f64> {
        let steps = self.acts.iter().flat_map(|act| &act.steps);
        let times: Vec<f64> =
            steps.filter(|step| kinds.contains(&step.kind)).map(|step| step.us).collect();
        (!times.is_empty()).then(|| times.iter().sum())
    }
}

impl Story {
    /// Everything but the picture's path and the total time.
    pub(crate) fn new(
        daemon: &Daemon,
        device: String,
        clients: Vec<ClientStory>,
        status: &Status,
    ) -> Self {
        Self {
            daemon_pid: daemon.pid(),
            device,
            ready_ms: daemon.ready_after.as_secs_f64() * 1e3,
            confined: clients.iter().all(|client| client.confinement.holds()),
            clients,
            engines: status.engines.iter().map(|e| (e.name.clone(), e.busy_ns)).collect(),
            width: WIDTH,
            height: HEIGHT,
            total_ms: 0.0,
            picture: PathBuf::new(),
        }
    }

    /// The story as text, without a final newline.
    pub(crate) fn tell(&self) -> String {
        let mut parts = vec![self.opening()];
        parts.extend(self.clients.iter().map(ClientStory::tell));
        parts.push(self.timings());
        let engines = self.engines.iter().filter(|(_, busy)| **busy > 0);
        let engines: Vec<String> =
            engines.map(|(name, busy)| format!("{name} {}", duration(*busy))).collect();
        parts.push(format!(
            "GPU time: {}. Everything took {:.0} ms; the daemon has ended.\n\
             Picture, {} x {}, every pixel written by the GPU: {}",
            engines.join(", "),
            self.total_ms,
            self.width,
            self.height,
            styled(HEADING, self.picture.display()),
        ));
        parts.join("\n\n")
    }

    fn opening(&self) -> String {
        let mut lines = vec![format!(
            "{}: pid {}, {}, private socket, ready after {:.1} ms",
            styled(HEADING, "gpu-brokerd"),
            self.daemon_pid,
            self.device,
            self.ready_ms
        )];
        let Some(first) = self.clients.first() else { return lines.join("\n") };
        // The clients are alike and on one machine, so they tell the same; if not, all are told.
        let alike = self.clients.iter().all(|client| client.confinement == first.confinement);
        let told = if alike { self.clients.get(..1).unwrap_or(&[]) } else { &self.clients[..] };
        for client in told {
            let who = if alike { "every client" } else { client.role.name() };
            lines.extend(confinement(who, &client.confinement));
        }
        lines.join("\n")
    }

    fn timings(&self) -> String {
        let columns: [(&str, &[StepKind]); 6] = [
            (">create", &[StepKind::Create]),
            (">configure", &[StepKind::Configure]),
            (">first EXECBUF", &[StepKind::FirstExecbuf]),
            (">more EXECBUFs", &[StepKind::Execbuf]),
            (">wait for GPU", &[StepKind::Wait]),
            (">read back", &[StepKind::Check]),
        ];
        let mut headings = vec!["timings", ">connect"];
        headings.extend(columns.iter().map(|(heading, _)| *heading));
        let mut table = Table::new(&headings);
        for client in &self.clients {
            let mut cells = vec![client.role.name().to_owned(), time(client.connect_us)];
            let times = columns.iter().map(|(_, kinds)| client.time_of(kinds));
            cells.extend(times.map(|us| us.map_or_else(|| "-".to_owned(), time)));
            table.row(cells);
        }
        table.render(0)
    }
}

fn confinement(who: &str, found: &Confinement) -> Vec<String> {
    let measures = match found.in_force.as_slice() {
        [] => styled(BAD, "nothing: this machine allows none of it"),
        measures => measures.join(", "),
    };
    let mut lines = vec![format!("{} is held in by: {measures}", styled(HEADING, who))];
    if !found.refused.is_empty() {
        lines.push(format!("  not allowed on this machine: {}", found.refused.join(", ")));
    }
    let outside = found.nodes_before.len();
    let nodes = match (outside, found.nodes_open.len()) {
        (0, 0) => styled(GOOD, "there is no GPU node on this machine"),
        (_, 0) => styled(GOOD, format!("of {outside} GPU nodes outside, none can be opened")),
        (_, open) => styled(BAD, format!("{open} GPU nodes can still be opened")),
    };
    let entries = match found.dev_entries {
        None => "/dev cannot be read".to_owned(),
        Some(0) => "/dev is empty".to_owned(),
        Some(count) => format!("/dev has {count} entries"),
    };
    lines.push(format!("  tried: {entries}, /dev/dri {}; {nodes}", found.dev_dri));
    lines
}

fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us => format!("{:.1} ms", us / 1_000.0),
    }
}
