//! The order in which ready jobs have an engine.
//!
//! Priority first. Jobs of one priority share the engine by *group* and, within a group, by *session*,
//! so that nobody gets more of it by queueing more, by making more contexts, or by opening more
//! sessions: hierarchical start-time fair queuing (Goyal, Vin and Cheng, 1996). Each group has a tag
//! per priority, the time its sessions had divided by its weight; the smallest tag runs next, and a
//! group that comes back starts at the tag of whoever runs, or at its own where that is greater:
//! idling earns nothing, and coming back costs nothing. Which of a group's sessions runs is found in
//! the same way among them alone; they are equals. Within a session, jobs run in order.
//!
//! Two things follow, however much time higher priorities take away. Of two groups that both have
//! work, or two such sessions of a group, the times they get, each divided by its weight, never
//! differ by more than one slice of each, divided by its weight. And whoever comes with a single job
//! waits for the slice that runs and at most one of each other group, and of each other session of
//! its own as its group's turns come, never for a queue. A tag per priority and not one for all: time
//! at a high priority, where others compete, must not count against a session at a low one, or the
//! other way round.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Weight of a group that was given none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Greatest weight; the least is 1.
pub const WEIGHT_MAX: u32 = 10_000;
/// Groups of one priority, and sessions of one group, that are remembered although they have no
/// work. Beyond it, those that are least ahead of the others are forgotten: each gains a part of a
/// slice.
const LINGERING_MAX: usize = 256;

/// On whose account a job runs, and how urgent it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Tells groups of sessions apart.
    pub group: u64,
    /// Share of the group among those with jobs of equal priority, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Tells sessions of a group apart.
    pub session: u64,
    /// The greater the sooner.
    pub priority: i32,
}

/// Ready jobs, by number; an order among them is the caller's.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those in which a job is ready or running, and how their groups share an engine.
    levels: BTreeMap<Reverse<i32>, Sharing<Group>>,
    /// Whose job has the engine.
    running: Option<Claim>,
    ready: usize,
    turns: u64,
}

/// How the sessions of a group share its time.
type Group = Sharing<Jobs>;

/// The ready jobs of a session.
type Jobs = BTreeSet<(u64, usize)>;

/// A place in line: tag, since when it has it, number.
type Place = (u64, u64, u64);

/// Those who share something, by number.
#[derive(Debug)]
struct Sharing<T> {
    /// Tag of whoever's slice began last; never falls.
    virtual_time: u64,
    flows: HashMap<u64, Flow<T>>,
    /// Flows with ready jobs.
    backlogged: BTreeSet<Place>,
    /// Flows without jobs that are ahead of `virtual_time`: tag, number.
    lingering: BTreeSet<(u64, u64)>,
}

/// One of those who share.
#[derive(Debug)]
struct Flow<T> {
    /// Nanoseconds had, at the default weight.
    tag: u64,
    /// Orders flows of equal tags: who had its turn last comes last.
    turn: u64,
    ready: T,
}

/// Jobs that are ready, or what they are in.
trait Ready: Default {
    fn is_empty(&self) -> bool;
}

impl Ready for Jobs {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

impl Ready for Group {
    fn is_empty(&self) -> bool {
        self.backlogged.is_empty()
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.ready == 0
    }

    pub(super) fn insert(&mut self, claim: Claim, order: u64, index: usize) {
        self.turns += 1;
        let turn = self.turns;
        let level = self.levels.entry(Reverse(claim.priority)).or_default();
        level.enter(claim.group, turn);
        let is_new = level.change(claim.group, turn, |group| {
            group.enter(claim.session, turn);
            group.change(claim.session, turn, |jobs| jobs.insert((order, index)))
        });
        self.ready += usize::from(is_new.flatten().unwrap_or_default());
    }

    /// True if it was there.
    pub(super) fn remove(&mut self, claim: Claim, order: u64, index: usize) -> bool {
        let turn = self.turns;
        let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) else { return false };
        let removed = level.change(claim.group, turn, |group| {
            group.change(claim.session, turn, |jobs| jobs.remove(&(order, index)))
        });
        if removed.flatten() != Some(true) {
            return false;
        }
        self.ready -= 1;
        self.idle(claim);
        true
    }

    /// The job that runs next; its slice begins. Nobody may be running.
    pub(super) fn pop_first(&mut self) -> Option<usize> {
        debug_assert!(self.running.is_none(), "one job at a time");
        let (Reverse(priority), level) = self.levels.iter_mut().next()?;
        let ((tag, turn, group), session) = level.first()?;
        let index = level.change(group, turn, |sessions| {
            let (tag, turn, _) = session;
            sessions.reach(tag);
            sessions.change(session.2, turn, BTreeSet::pop_first).flatten()
        });
        level.reach(tag);
        self.ready -= 1;
        // The weight is in what `charge` is told.
        let (session, weight, priority) = (session.2, WEIGHT_DEFAULT, *priority);
        self.running = Some(Claim { group, weight, session, priority });
        index.flatten().map(|(_, index)| index)
    }

    /// A job that is not in the queue has the engine now.
    pub(super) fn run(&mut self, claim: Claim) {
        self.leave();
        self.turns += 1;
        let turn = self.turns;
        let level = self.levels.entry(Reverse(claim.priority)).or_default();
        level.enter(claim.group, turn);
        level.change(claim.group, turn, |group| group.enter(claim.session, turn));
        self.running = Some(claim);
    }

    /// Nobody has the engine now.
    pub(super) fn leave(&mut self) {
        if let Some(claim) = self.running.take() {
            self.idle(claim);
        }
    }

    /// Whoever has the engine had it for so long.
    pub(super) fn charge(&mut self, ns: u64, weight: u32) {
        let Some(claim) = self.running else { return };
        self.turns += 1;
        let turn = self.turns;
        let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) else { return };
        let weight = u64::from(weight.clamp(1, WEIGHT_MAX));
        let cost = ns.saturating_mul(WEIGHT_DEFAULT.into()).div_ceil(weight);
        level.charge(claim.group, cost, turn);
        level.change(claim.group, turn, |group| group.charge(claim.session, ns, turn));
    }

    /// Whoever has the engine begins another slice.
    pub(super) fn renew(&mut self) {
        let Some(claim) = self.running else { return };
        let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) else { return };
        level.reach_tag_of(claim.group);
        let turn = self.turns;
        level.change(claim.group, turn, |group| group.reach_tag_of(claim.session));
    }

    /// Whether somebody else should have the engine.
    pub(super) fn rival(&self, slice_over: bool) -> bool {
        let Some(claim) = self.running else { return false };
        let Some((Reverse(priority), level)) = self.levels.iter().next() else { return false };
        if *priority != claim.priority {
            return *priority > claim.priority;
        }
        if !slice_over {
            return false;
        }
        let Some(own) = level.flows.get(&claim.group) else { return true };
        match level.backlogged.first() {
            None => false,
            Some((tag, _, group)) if *group != claim.group => *tag <= own.tag,
            Some(_) => {
                let tag = own.ready.flows.get(&claim.session).map_or(u64::MAX, |flow| flow.tag);
                own.ready.backlogged.first().is_some_and(|(first, _, _)| *first <= tag)
            }
        }
    }

    /// Remembers who has no job any more while it is ahead of the others.
    fn idle(&mut self, claim: Claim) {
        let running = self.running.filter(|running| running.priority == claim.priority);
        let running = running.map(|running| (running.group, running.session));
        if let Some(level) = self.levels.get_mut(&Reverse(claim.priority)) {
            if let Some(group) = level.flows.get_mut(&claim.group)
                && running != Some((claim.group, claim.session))
            {
                group.ready.linger(claim.session);
            }
            if running.is_none_or(|(group, _)| group != claim.group) {
                level.linger(claim.group);
            }
        }
        self.settle(claim.priority);
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
        let groups = self.levels.values().flat_map(|level| level.flows.values());
        let sessions = groups.flat_map(|group| group.ready.flows.values());
        sessions.flat_map(|session| session.ready.iter().map(|(_, index)| *index))
    }

    /// Priorities, groups and sessions remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize, usize) {
        let groups = || self.levels.values().flat_map(|level| level.flows.values());
        let sessions = groups().map(|group| group.ready.flows.len()).sum();
        (self.levels.len(), groups().count(), sessions)
    }
}

impl<T> Default for Sharing<T> {
    fn default() -> Self {
        Self {
            virtual_time: 0,
            flows: HashMap::new(),
            backlogged: BTreeSet::new(),
            lingering: BTreeSet::new(),
        }
    }
}

impl Sharing<Group> {
    /// Whose turn it is: group and session.
    fn first(&self) -> Option<(Place, Place)> {
        let group = self.backlogged.first().copied()?;
        let session = self.flows.get(&group.2)?.ready.backlogged.first().copied()?;
        Some((group, session))
    }
}

impl<T: Ready> Sharing<T> {
    /// It has a job here.
    fn enter(&mut self, number: u64, turn: u64) {
        let tag = self.virtual_time;
        let new = || Flow { tag, turn, ready: T::default() };
        let flow = self.flows.entry(number).or_insert_with(new);
        if flow.ready.is_empty() {
            self.lingering.remove(&(flow.tag, number));
            flow.tag = flow.tag.max(tag);
        }
    }

    /// Changes what is ready of it; what was empty before is in line since `turn`.
    fn change<R>(&mut self, number: u64, turn: u64, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let flow = self.flows.get_mut(&number)?;
        let before = flow.ready.is_empty();
        let result = change(&mut flow.ready);
        match (before, flow.ready.is_empty()) {
            (true, false) => {
                flow.turn = turn;
                self.backlogged.insert((flow.tag, flow.turn, number));
            }
            (false, true) => {
                self.backlogged.remove(&(flow.tag, flow.turn, number));
            }
            (true, true) | (false, false) => {}
        }
        Some(result)
    }

    fn charge(&mut self, number: u64, cost: u64, turn: u64) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let before = (flow.tag, flow.turn, number);
        flow.tag = flow.tag.saturating_add(cost);
        flow.turn = turn;
        if self.backlogged.remove(&before) {
            self.backlogged.insert((flow.tag, flow.turn, number));
        }
    }

    /// It does not run: without a job it is remembered while it is ahead of the others.
    fn linger(&mut self, number: u64) {
        let Some(flow) = self.flows.get(&number) else { return };
        if flow.ready.is_empty() {
            self.lingering.insert((flow.tag, number));
            self.forget();
        }
    }

    /// A slice begins at that tag.
    fn reach(&mut self, tag: u64) {
        self.virtual_time = self.virtual_time.max(tag);
        self.forget();
    }

    fn reach_tag_of(&mut self, number: u64) {
        if let Some(tag) = self.flows.get(&number).map(|flow| flow.tag) {
            self.reach(tag);
        }
    }

    fn forget(&mut self) {
        while let Some(&(tag, number)) = self.lingering.first() {
            if tag > self.virtual_time && self.lingering.len() <= LINGERING_MAX {
                return;
            }
            self.lingering.pop_first();
            self.flows.remove(&number);
        }
    }
}

#[cfg(test)]
#[path = "fair_tests.rs"]
mod tests;
