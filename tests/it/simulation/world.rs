//! A GPU without threads or clock: the scheduler of the software GPU on five engines, with scripts
//! instead of commands, and a time that goes on when it is told to.

use std::collections::HashMap;

use gpu_broker_core::hands::Outcome;
use gpu_broker_soft_gpu::scheduler::{
    Claim, Ended, JobKey, Limits, Next, Progress, Scheduler, Turn, WEIGHT_DEFAULT,
};

use super::random::Random;

/// Time limits, shorter than the kernel's so that an endless batch takes fewer turns.
pub(super) const LIMITS: Limits = Limits {
    timeslice_ns: 20 * MS,
    heartbeat_ns: 400 * MS,
    preempt_ns: 600 * MS,
    request_ns: 4_000 * MS,
};
pub(super) const MS: u64 = 1_000_000;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;

/// What a batch does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Script {
    /// Computes for so long, then ends.
    Work { left_ns: u64, yields: bool },
    /// Waits in memory until a moment, then ends.
    Wait { until_ns: u64, yields: bool },
    /// Never ends.
    Endless { yields: bool },
    /// Computes for so long, then executes what is no command.
    Fault { left_ns: u64 },
}

impl Script {
    pub(super) const fn is_innocent(self) -> bool {
        matches!(self, Self::Work { .. } | Self::Wait { .. })
    }
}

/// A context on the device: session and tag.
pub(super) type Owner = (usize, u64);

/// What became of a context.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct ContextRecord {
    pub(super) priority: i32,
    pub(super) recoverable: bool,
    pub(super) bannable: bool,
    pub(super) persistent: bool,
    /// The rules ended its work.
    pub(super) banned: bool,
    /// Its handle is gone.
    pub(super) closed: bool,
    /// Its work ended with it.
    pub(super) revoked: bool,
}

impl ContextRecord {
    const fn is_cancelled(&self) -> bool {
        self.banned || self.revoked
    }
}

/// A submission.
pub(super) struct Request<Memory> {
    pub(super) owner: Owner,
    pub(super) slot: u32,
    pub(super) script: Script,
    /// What it was when it was submitted, for when it starts again.
    whole: Script,
    /// Resets that hit it while it ran, innocently.
    pub(super) replays: u32,
    pub(super) outcome: Option<Outcome>,
    pub(super) fence: usize,
    engines: Vec<usize>,
    /// Memory it uses, until it is over.
    memory: Vec<Memory>,
    /// Requests not over that it waits for.
    left: usize,
    /// Requests that wait for it.
    next: Vec<usize>,
    job: Option<(usize, JobKey)>,
}

/// What a submission is made of.
pub(super) struct Parts<Memory> {
    pub(super) owner: Owner,
    pub(super) slot: u32,
    pub(super) engines: Vec<usize>,
    pub(super) memory: Vec<Memory>,
    /// Fences it waits for.
    pub(super) after: Vec<usize>,
}

struct Engine {
    scheduler: Scheduler<usize>,
    /// What runs, how far it will have come, and when.
    turn: Option<(Turn<usize>, Progress, u64)>,
    wake_at: Option<u64>,
}

impl Engine {
    fn due_at(&self) -> Option<u64> {
        self.turn.as_ref().map(|(_, _, ends_at)| *ends_at).or(self.wake_at)
    }
}

/// The device, and everything that ever ran on it.
pub(super) struct World<Memory> {
    pub(super) now: u64,
    pub(super) random: Random,
    /// What the next submission does.
    pub(super) script: Script,
    /// Calls that were made to fail.
    pub(super) failures: u32,
    /// The context that was made last.
    pub(super) made: Option<u64>,
    /// Tag of the context whose last submission was found guilty before it was answered.
    pub(super) guilty_at_once: Option<u64>,
    pub(super) contexts: HashMap<Owner, ContextRecord>,
    pub(super) requests: Vec<Request<Memory>>,
    /// A reset hits all engines, not one.
    pub(super) resets_device: bool,
    /// Contexts that were hit innocently, and the rules have not heard of it.
    pub(super) replays: Vec<Owner>,
    /// How often that was so.
    pub(super) replayed: u32,
    /// 0 or an errno once signalled.
    pub(super) fences: Vec<Option<i32>>,
    /// Ends the rules have not heard of.
    pub(super) reports: Vec<(Owner, Outcome)>,
    /// Requests in the order in which they were over.
    pub(super) over: Vec<usize>,
    /// The request of each fence that belongs to one.
    by_fence: HashMap<usize, usize>,
    /// The last request of each timeline.
    last: HashMap<(Owner, u32), usize>,
    engines: Vec<Engine>,
}

impl<Memory> World<Memory> {
    pub(super) fn new(random: Random) -> Self {
        let engine = || Engine { scheduler: Scheduler::new(LIMITS), turn: None, wake_at: None };
        Self {
            now: 0,
            random,
            script: Script::Endless { yields: true },
            failures: 0,
            made: None,
            guilty_at_once: None,
            contexts: HashMap::new(),
            requests: Vec::new(),
            resets_device: false,
            replays: Vec::new(),
            replayed: 0,
            fences: Vec::new(),
            reports: Vec::new(),
            over: Vec::new(),
            by_fence: HashMap::new(),
            last: HashMap::new(),
            engines: std::iter::repeat_with(engine).take(5).collect(),
        }
    }

    /// Whether a call fails here for no reason.
    pub(super) fn fails(&mut self) -> bool {
        let fails = self.random.one_in(40);
        self.failures += u32::from(fails);
        fails
    }

    pub(super) fn new_fence(&mut self, state: Option<i32>) -> usize {
        self.fences.push(state);
        self.fences.len() - 1
    }

    /// Queues a request. `Some` if it is over at once, and then nothing is reported.
    pub(super) fn submit(&mut self, parts: Parts<Memory>) -> (usize, Option<Outcome>) {
        let Parts { owner, slot, engines, memory, after } = parts;
        let script = self.script;
        let fence = self.new_fence(None);
        let id = self.requests.len();
        let before = after.iter().filter_map(|fence| self.by_fence.get(fence).copied());
        let before: Vec<usize> = before
            .chain(self.last.insert((owner, slot), id))
            .filter(|request| self.requests[*request].outcome.is_none())
            .collect();
        self.by_fence.insert(fence, id);
        for request in &before {
            self.requests[*request].next.push(id);
        }
        let left = before.len();
        let (outcome, next, job) = (None, Vec::new(), None);
        self.requests.push(Request {
            owner,
            slot,
            script,
            whole: script,
            replays: 0,
            outcome,
            fence,
            engines,
            memory,
            left,
            next,
            job,
        });
        let done = if self.contexts[&owner].is_cancelled() {
            Some(Outcome::Cancelled)
        } else {
            self.ends_at_once(left, script)
        };
        match done {
            Some(outcome) if left == 0 => {
                self.guilty_at_once = (outcome == Outcome::Guilty).then_some(owner.1);
                self.settle(id, outcome);
                return (fence, Some(outcome));
            }
            Some(_) | None if left == 0 => self.launch(id),
            Some(_) | None => {}
        }
        (fence, None)
    }

    /// Some batches are run where they are submitted.
    fn ends_at_once(&mut self, left: usize, script: Script) -> Option<Outcome> {
        if left > 0 || !self.random.one_in(4) {
            return None;
        }
        match script {
            Script::Work { .. } => Some(Outcome::Completed),
            Script::Fault { .. } => Some(Outcome::Guilty),
            Script::Wait { .. } | Script::Endless { .. } => None,
        }
    }

    /// Ends what a context has; what comes later ends as well.
    pub(super) fn cancel(&mut self, owner: Owner) {
        for request in self.requests.iter().filter(|request| request.owner == owner) {
            if let (None, Some((engine, key))) = (request.outcome, request.job) {
                self.engines[engine].scheduler.cancel(key);
            }
        }
    }

    pub(super) fn set_priority(&mut self, owner: Owner, priority: i32) {
        self.contexts.entry(owner).or_default().priority = priority;
        for request in self.requests.iter().filter(|request| request.owner == owner) {
            if let (None, Some((engine, key))) = (request.outcome, request.job) {
                self.engines[engine].scheduler.set_priority(key, priority);
            }
        }
    }

    /// Goes on until something is over or it is so late. False if nothing ever happens again.
    pub(super) fn step(&mut self, until: u64) -> bool {
        loop {
            while (0..self.engines.len()).fold(false, |more, index| self.dispatch(index) | more) {}
            if !self.reports.is_empty() || !self.replays.is_empty() {
                return true;
            }
            let next = self.engines.iter().filter_map(Engine::due_at).min();
            if next.is_none_or(|next| next > until) {
                self.now = self.now.max(until);
                return next.is_some();
            }
            self.now = self.now.max(next.unwrap_or(until));
            for index in 0..self.engines.len() {
                self.put_back(index);
            }
        }
    }

    /// Asks an idle engine what comes next. True if a request was over.
    fn dispatch(&mut self, index: usize) -> bool {
        if self.engines[index].turn.is_some() {
            return false;
        }
        let engine = &mut self.engines[index];
        match engine.scheduler.next(self.now) {
            Next::Run(turn) => {
                let (ran_ns, progress) = self.run(turn.payload, turn.seek);
                let ends_at = self.now + ran_ns;
                self.engines[index].turn = Some((turn, progress, ends_at));
                false
            }
            Next::Over(request, ended) => {
                self.over(request, ended, Progress::Running);
                true
            }
            Next::Sleep(at) => {
                engine.wake_at = at;
                false
            }
            Next::Busy => false,
        }
    }

    fn put_back(&mut self, index: usize) {
        let engine = &mut self.engines[index];
        let Some((turn, progress, _)) = engine.turn.take_if(|(_, _, ends_at)| *ends_at <= self.now)
        else {
            return;
        };
        if let Some((request, ended)) = engine.scheduler.put_back(self.now, turn, progress) {
            self.over(request, ended, progress);
        }
    }

    /// A turn of a script: how long it takes, and how far it comes.
    fn run(&mut self, request: usize, seek: bool) -> (u64, Progress) {
        let most = if seek { 5 * MS } else { self.random.between(1, 60) * MS };
        let going_on = |yields| if yields { Progress::Preemptible } else { Progress::Running };
        let script = &mut self.requests[request].script;
        match script {
            Script::Work { left_ns, yields } => {
                let ran_ns = most.min(*left_ns);
                *left_ns -= ran_ns;
                (ran_ns, if *left_ns == 0 { Progress::Ended } else { going_on(*yields) })
            }
            Script::Fault { left_ns } => {
                let ran_ns = most.min(*left_ns);
                *left_ns -= ran_ns;
                (ran_ns, if *left_ns == 0 { Progress::Faulted } else { Progress::Preemptible })
            }
            Script::Wait { until_ns, .. } if *until_ns <= self.now => (1_000, Progress::Ended),
            Script::Wait { yields: true, .. } => (1_000, Progress::Waiting),
            Script::Wait { yields: false, .. } => (1_000, Progress::Stalled),
            Script::Endless { yields } => (most, going_on(*yields)),
        }
    }

    fn over(&mut self, request: usize, ended: Ended, progress: Progress) {
        let outcome = match ended {
            Ended::Itself if progress == Progress::Faulted => Outcome::Guilty,
            Ended::Itself => Outcome::Completed,
            Ended::Cancelled => Outcome::Cancelled,
            Ended::Hung(_) | Ended::TimedOut(_) => Outcome::Guilty,
        };
        self.report(request, outcome);
    }

    fn report(&mut self, request: usize, outcome: Outcome) {
        if outcome == Outcome::Guilty && self.resets_device {
            self.reset(request);
        }
        self.reports.push((self.requests[request].owner, outcome));
        self.settle(request, outcome);
    }

    /// Whoever has another engine starts again from its beginning, and comes to its end all the same.
    fn reset(&mut self, guilty: usize) {
        let culprit = self.requests[guilty].job.map(|(engine, _)| engine);
        for index in (0..self.engines.len()).filter(|index| Some(*index) != culprit) {
            let engine = &mut self.engines[index];
            let hit = match &mut engine.turn {
                // A turn in which it ends is over before the reset.
                Some((_, Progress::Ended | Progress::Faulted, _)) => None,
                Some((turn, progress, _)) => {
                    *progress = Progress::Restarted;
                    Some(turn.payload)
                }
                None => engine.scheduler.active_mut().map(|request| *request),
            };
            if let Some(id) = hit {
                let request = &mut self.requests[id];
                request.script = request.whole;
                request.replays += 1;
                // As the device does: counted once, however often it is hit.
                if request.replays == 1 {
                    self.replays.push(request.owner);
                    self.replayed += 1;
                }
            }
        }
    }

    /// Ends a request, and starts what waited for it alone.
    fn settle(&mut self, id: usize, outcome: Outcome) {
        let request = &mut self.requests[id];
        assert_eq!(request.outcome.replace(outcome), None, "request {id} was over twice");
        request.memory.clear();
        let (fence, next) = (request.fence, std::mem::take(&mut request.next));
        let state = match outcome {
            Outcome::Completed if request.replays > 0 => EAGAIN,
            Outcome::Completed => 0,
            Outcome::Cancelled | Outcome::Guilty => EIO,
        };
        assert_eq!(self.fences[fence].replace(state), None, "fence {fence} signalled twice");
        self.over.push(id);
        for later in next {
            self.requests[later].left -= 1;
            if self.requests[later].left == 0 {
                self.launch(later);
            }
        }
    }

    fn launch(&mut self, id: usize) {
        let request = &self.requests[id];
        let context = self.contexts[&request.owner];
        if context.is_cancelled() {
            self.report(id, Outcome::Cancelled);
            return;
        }
        let load = |engine: &usize| self.engines[*engine].scheduler.load();
        let engine = request.engines.iter().copied().min_by_key(load).unwrap_or(0);
        let claim = Claim {
            group: request.owner.0 as u64,
            weight: WEIGHT_DEFAULT,
            session: request.owner.0 as u64,
            priority: context.priority,
        };
        let key = self.engines[engine].scheduler.submit(self.now, id, claim);
        self.requests[id].job = Some((engine, key));
    }
}
