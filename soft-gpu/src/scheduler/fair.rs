//! The order in which ready jobs have an engine.
//!
//! Priority first. Jobs of one priority share the engine by *session*, so that nobody gets more of
//! it by queueing more, or by making more contexts: start-time fair queuing (Goyal, Vin and Cheng,
//! 1996). Each session has a tag per priority, the time it had divided by its weight; the smallest
//! tag runs next, and a session that comes back starts at the tag of whoever runs, or at its own
//! where that is greater: idling earns nothing, and coming back costs nothing. Within a session,
//! jobs run in order.
//!
//! Two things follow, however much time higher priorities take away. Of two sessions that both have
//! work, the times they get, each divided by its weight, never differ by more than one slice of
//! each, divided by its weight. And whoever comes with a single job waits for the slice that runs
//! and at most one of each other session, never for a queue. A tag per priority and not one for
//! all: time at a high priority, where others compete, must not count against a session at a low
//! one, or the other way round.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Weight of a session that was given none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Greatest weight; the least is 1.
pub const WEIGHT_MAX: u32 = 10_000;
/// Sessions of one priority that are remembered although they have no work. Beyond it, those that
/// are least ahead of the others are forgotten: each gains a part of a slice.
const LINGERING_MAX: usize = 256;

/// On whose account a job runs, and how urgent it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Tells sessions apart.
    pub session: u64,
    /// Share of the session among those of equal priority, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// The greater the sooner.
    pub priority: i32,
}

/// Ready jobs, by number; an order among them is the caller's.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those in which a job is ready or running.
    levels: BTreeMap<Reverse<i32>, Level>,
    /// Whose job has the engine.
    running: Option<Claim>,
    ready: usize,
    turns: u64,
}

/// The sessions of one priority.
#[derive(Debug, Default)]
struct Level {
    /// Tag of the session whose slice began last; never falls.
    virtual_time: u64,
    flows: HashMap<u64, Flow>,
    /// Flows with ready jobs: tag, since when it has it, session.
    backlogged: BTreeSet<(u64, u64, u64)>,
    /// Flows without jobs that are ahead of `virtual_time`: tag, session.
    lingering: BTreeSet<(u64, u64)>,
}

/// One session at one priority.
#[derive(Debug)]
struct Flow {
    /// Nanoseconds had, at the default weight.
    tag: u64,
    /// Orders flows of equal tags: who had its turn last comes last.
    turn: u64,
    jobs: BTreeSet<(u64, usize)>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.ready == 0
    }

    pub(super) fn insert(&mut self, claim: Claim, order: u64, index: usize) {
        self.turns += 1;
        let level = self.levels.entry(Reverse(claim.priority)).or_default();
        level.enter(claim.session, self.turns);
        let Some(flow) = level.flows.get_mut(&claim.session) else { return };
        if flow.jobs.is_empty() {
            flow.turn = self.turns;
            level.backlogged.insert((flow.tag, flow.turn, claim.session));
        }
        self.ready += usize::from(flow.jobs.insert((order, index)));
    }

    /// True if it was there.
    pub(super) fn remove(&mut self, claim: Claim, order: u64, index: usize) -> bool {
        let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) else { return false };
        let Some(flow) = level.flows.get_mut(&claim.session) else { return false };
        if !flow.jobs.remove(&(order, index)) {
            return false;
        }
        self.ready -= 1;
        if flow.jobs.is_empty() {
            level.backlogged.remove(&(flow.tag, flow.turn, claim.session));
            if !self.running.is_some_and(|running| same_flow(running, claim)) {
                level.linger(claim.session);
            }
        }
        self.settle(claim.priority);
        true
    }

    /// The job that runs next; its slice begins. Nobody may be running.
    pub(super) fn pop_first(&mut self) -> Option<usize> {
        debug_assert!(self.running.is_none(), "one job at a time");
        let (Reverse(priority), level) = self.levels.iter_mut().next()?;
        let (tag, turn, session) = level.backlogged.first().copied()?;
        let flow = level.flows.get_mut(&session)?;
        let (_, index) = flow.jobs.pop_first()?;
        if flow.jobs.is_empty() {
            level.backlogged.remove(&(tag, turn, session));
        }
        level.reach(tag);
        self.ready -= 1;
        // The weight is in what `charge` is told.
        self.running = Some(Claim { session, weight: WEIGHT_DEFAULT, priority: *priority });
        Some(index)
    }

    /// A job that is not in the queue has the engine now.
    pub(super) fn run(&mut self, claim: Claim) {
        self.leave();
        self.turns += 1;
        let level = self.levels.entry(Reverse(claim.priority)).or_default();
        level.enter(claim.session, self.turns);
        self.running = Some(claim);
    }

    /// Nobody has the engine now.
    pub(super) fn leave(&mut self) {
        let Some(claim) = self.running.take() else { return };
        if let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) {
            if level.flows.get(&claim.session).is_some_and(|flow| flow.jobs.is_empty()) {
                level.linger(claim.session);
            }
            self.settle(claim.priority);
        }
    }

    /// Whoever has the engine had it for so long.
    pub(super) fn charge(&mut self, ns: u64, weight: u32) {
        let Some(claim) = self.running else { return };
        self.turns += 1;
        let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) else { return };
        let Some(flow) = level.flows.get_mut(&claim.session) else { return };
        let before = (flow.tag, flow.turn, claim.session);
        let weight = u64::from(weight.clamp(1, WEIGHT_MAX));
        let cost = ns.saturating_mul(WEIGHT_DEFAULT.into()).div_ceil(weight);
        flow.tag = flow.tag.saturating_add(cost);
        flow.turn = self.turns;
        if level.backlogged.remove(&before) {
            level.backlogged.insert((flow.tag, flow.turn, claim.session));
        }
    }

    /// Whoever has the engine begins another slice.
    pub(super) fn renew(&mut self) {
        let Some(claim) = self.running else { return };
        let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) else { return };
        if let Some(tag) = level.flows.get(&claim.session).map(|flow| flow.tag) {
            level.reach(tag);
        }
    }

    /// Whether somebody else should have the engine.
    pub(super) fn rival(&self, slice_over: bool) -> bool {
        let Some(claim) = self.running else { return false };
        let Some((Reverse(priority), level)) = self.levels.iter().next() else { return false };
        if *priority != claim.priority {
            return *priority > claim.priority;
        }
        let own = level.flows.get(&claim.session).map_or(u64::MAX, |flow| flow.tag);
        slice_over && level.backlogged.first().is_some_and(|(tag, _, _)| *tag <= own)
    }

    /// Forgets a priority at which nothing is to be done: all its sessions are equal again.
    fn settle(&mut self, priority: i32) {
        let is_running = self.running.is_some_and(|running| running.priority == priority);
        let key = Reverse(priority);
        if !is_running && self.levels.get(&key).is_some_and(|level| level.backlogged.is_empty()) {
            self.levels.remove(&key);
        }
    }

    #[cfg(test)]
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        let flows = self.levels.values().flat_map(|level| level.flows.values());
        flows.flat_map(|flow| flow.jobs.iter().map(|(_, index)| *index))
    }

    /// Priorities and sessions remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.levels.len(), self.levels.values().map(|level| level.flows.len()).sum())
    }
}

impl Level {
    /// The session has a job here.
    fn enter(&mut self, session: u64, turn: u64) {
        let tag = self.virtual_time;
        let flow =
            self.flows.entry(session).or_insert_with(|| Flow { tag, turn, jobs: BTreeSet::new() });
        if flow.jobs.is_empty() {
            self.lingering.remove(&(flow.tag, session));
            flow.tag = flow.tag.max(tag);
        }
    }

    /// The session has no job here any more: it is remembered while it is ahead of the others.
    fn linger(&mut self, session: u64) {
        let Some(tag) = self.flows.get(&session).map(|flow| flow.tag) else { return };
        self.lingering.insert((tag, session));
        self.forget();
    }

    /// A slice begins at that tag.
    fn reach(&mut self, tag: u64) {
        self.virtual_time = self.virtual_time.max(tag);
        self.forget();
    }

    fn forget(&mut self) {
        while let Some(&(tag, session)) = self.lingering.first() {
            if tag > self.virtual_time && self.lingering.len() <= LINGERING_MAX {
                return;
            }
            self.lingering.pop_first();
            self.flows.remove(&session);
        }
    }
}

fn same_flow(first: Claim, second: Claim) -> bool {
    first.priority == second.priority && first.session == second.session
}

#[cfg(test)]
#[path = "fair_tests.rs"]
mod tests;
