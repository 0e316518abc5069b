//! Simulations with a clock of their own.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

/// What a job does, turn by turn: how long, and how the turn ends.
#[derive(Debug)]
struct Script {
    name: u32,
    turns: VecDeque<(u64, Progress)>,
    /// What it does when the script is over.
    forever: Option<(u64, Progress)>,
}

impl Script {
    fn new(name: u32, turns: &[(u64, Progress)]) -> Self {
        Self { name, turns: turns.iter().copied().collect(), forever: None }
    }

    fn forever(name: u32, turn: (u64, Progress)) -> Self {
        Self { name, turns: VecDeque::new(), forever: Some(turn) }
    }

    fn turn(&mut self) -> (u64, Progress) {
        self.turns.pop_front().or(self.forever).unwrap_or((1, Progress::Ended))
    }
}

/// Of a session of the default weight.
fn claim(session: u64, priority: i32) -> Claim {
    Claim { group: session, weight: WEIGHT_DEFAULT, session, priority }
}

/// A scheduler, its clock, and what happened.
struct Sim {
    scheduler: Scheduler<Script>,
    now: u64,
    /// Who had which turn.
    turns: Vec<(u64, u32)>,
    seeks: Vec<u32>,
    over: Vec<(u32, Ended)>,
}

impl Sim {
    fn new() -> Self {
        let scheduler = Scheduler::new(Limits::default());
        Self { scheduler, now: 0, turns: vec![], seeks: vec![], over: vec![] }
    }

    fn submit(&mut self, script: Script, priority: i32) -> JobKey {
        self.submit_as(script, claim(1, priority))
    }

    fn submit_as(&mut self, script: Script, claim: Claim) -> JobKey {
        self.scheduler.submit(self.now, script, claim)
    }

    /// One thing that `next` says; false if it said to sleep for ever.
    fn step(&mut self) -> bool {
        match self.scheduler.next(self.now) {
            Next::Run(mut turn) => {
                let name = turn.payload.name;
                self.turns.push((self.now, name));
                if turn.seek {
                    self.seeks.push(name);
                }
                let (ns, progress) = turn.payload.turn();
                self.now += ns;
                if let Some((script, ended)) = self.scheduler.put_back(self.now, turn, progress) {
                    self.over.push((script.name, ended));
                }
            }
            Next::Over(script, ended) => self.over.push((script.name, ended)),
            Next::Sleep(Some(until)) => self.now = self.now.max(until),
            Next::Sleep(None) => return false,
            Next::Busy => panic!("nobody else runs jobs here"),
        }
        true
    }

    fn run(&mut self) {
        while self.step() {}
    }

    fn run_until(&mut self, time: u64) {
        while self.now < time && self.step() {}
    }

    fn names(&self) -> Vec<u32> {
        self.turns.iter().map(|(_, name)| *name).collect()
    }
}

use Progress::{
    Ended as End, Faulted, Held, Preemptible, Restarted, Running, Spinning, Stalled, Waiting,
};

#[test]
fn jobs_run_by_priority_then_in_order() {
    let mut sim = Sim::new();
    for (name, priority) in [(1, 0), (2, 5), (3, 0), (4, -5), (5, 5)] {
        sim.submit(Script::new(name, &[(10, End)]), priority);
    }
    sim.run();
    assert_eq!(sim.names(), [2, 5, 1, 3, 4]);
    assert_eq!(sim.scheduler.usage(), Usage { busy_ns: 50, queued: 0, completed: 5, faults: 0 });
}

#[test]
fn equals_take_turns_of_a_timeslice_at_arbitration_points() {
    let mut sim = Sim::new();
    let long = [(MS / 2, Preemptible); 6];
    sim.submit(Script::new(1, &long), 0);
    sim.submit(Script::new(2, &long), 0);
    sim.submit(Script::new(3, &long), -1);
    sim.run();
    // Two turns make a slice; the seventh turn of each is the one in which it ends.
    assert_eq!(sim.names(), [1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2, 1, 2, 3, 3, 3, 3, 3, 3, 3]);
}

#[test]
fn a_job_keeps_the_engine_until_an_arbitration_point_and_is_asked_to_find_one() {
    let mut sim = Sim::new();
    let turns = [(MS, Running), (MS, Running), (MS, Preemptible), (MS, End)];
    sim.submit(Script::new(1, &turns), 0);
    sim.step();
    sim.submit(Script::new(2, &[(1, End)]), 7);
    sim.run();
    assert_eq!(sim.names(), [1, 1, 1, 2, 1]);
    assert_eq!(sim.seeks, [1, 1]);
}

#[test]
fn who_is_preempted_keeps_its_place_among_its_equals() {
    let mut sim = Sim::new();
    sim.submit(Script::new(1, &[(10, Preemptible), (10, End)]), 0);
    sim.submit(Script::new(2, &[(10, End)]), 0);
    // Of higher priority, while 1 runs.
    let Next::Run(turn) = sim.scheduler.next(0) else { panic!("1 is ready") };
    sim.submit(Script::new(3, &[(10, End)]), 1);
    assert!(sim.scheduler.put_back(10, turn, Preemptible).is_none());
    sim.now = 10;
    sim.run();
    assert_eq!(sim.names(), [3, 1, 1, 2]);
}

#[test]
fn a_waiting_job_leaves_the_engine_and_is_polled_ever_more_rarely() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (0, Waiting)), 0);
    sim.submit(Script::new(2, &[(10, End)]), 0);
    sim.run_until(5 * MS);
    assert_eq!(sim.names()[..2], [1, 2]);
    let polls: Vec<_> = sim.turns.iter().filter(|(_, name)| *name == 1).collect();
    let gaps: Vec<_> = polls.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert_eq!(gaps[..6], [50_000, 100_000, 200_000, 400_000, 800_000, MS]);
    // A hint that memory changed brings the next poll forward, but not beyond the shortest gap.
    let last = sim.turns[sim.turns.len() - 1].0;
    assert_eq!(sim.scheduler.hasten(), Some(last + POLL_MIN_NS));
}

#[test]
fn polling_does_not_occupy_the_engine_however_many_wait() {
    let mut sim = Sim::new();
    for name in 0..4096 {
        sim.submit(Script::forever(name, (100, Waiting)), 0);
    }
    sim.run_until(500 * MS);
    let before = sim.turns.len();
    sim.run_until(1000 * MS);
    let polls = sim.turns.len() - before;
    assert!((10_000..50_000).contains(&polls), "{polls} polls in half a second");
}

#[test]
fn a_stalled_job_holds_the_engine() {
    let mut sim = Sim::new();
    sim.submit(Script::new(1, &[(0, Stalled), (0, Stalled), (0, End)]), 0);
    sim.submit(Script::new(2, &[(10, End)]), 1023);
    let Next::Run(turn) = sim.scheduler.next(0) else { panic!("ready") };
    assert_eq!(turn.payload.name, 2, "priority counts before it begins");
    sim.scheduler.put_back(0, turn, End);
    sim.step();
    sim.submit(Script::new(3, &[(10, End)]), 1023);
    assert!(sim.scheduler.is_waiting());
    sim.run();
    assert_eq!(sim.names(), [1, 1, 1, 3]);
    assert_eq!(sim.turns[2].0, 150_000);
    assert_eq!(sim.scheduler.usage().busy_ns, 150_010, "stalling occupies the engine");
}

#[test]
fn a_job_without_arbitration_points_hangs() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (MS, Running)), 0);
    sim.submit(Script::new(2, &[(10, End)]), 0);
    sim.run();
    // From the end of its slice on somebody else wants the engine.
    assert_eq!(sim.over, [(1, Ended::Hung(641 * MS)), (2, Ended::Itself)]);
    assert_eq!(sim.now, 641 * MS + 10);
    assert_eq!(sim.scheduler.usage().faults, 1);
}

#[test]
fn a_job_alone_is_asked_for_an_arbitration_point_before_it_hangs() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (MS, Running)), 0);
    sim.run();
    assert_eq!(sim.seeks.len(), 640, "from the heartbeat on");
    assert_eq!(sim.over, [(1, Ended::Hung(3140 * MS))]);
}

#[test]
fn a_stalled_job_hangs_too() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (0, Stalled)), 0);
    sim.run();
    let [(1, Ended::Hung(ns))] = sim.over[..] else { panic!("{:?}", sim.over) };
    assert!((3140 * MS..3143 * MS).contains(&ns), "{ns}");
}

/// What a rival that goes away again has pressed for is forgotten.
#[test]
fn only_who_is_still_wanted_elsewhere_is_pressed() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (MS, Running)), 0);
    sim.run_until(100 * MS);
    for _ in 0..3 {
        let rival = sim.submit(Script::new(2, &[(10, End)]), 7);
        sim.run_until(sim.now + 600 * MS);
        sim.scheduler.cancel(rival);
        sim.run_until(sim.now + 2 * MS);
    }
    let ended: Vec<_> = sim.over.iter().map(|(name, _)| *name).collect();
    assert_eq!(ended, [2, 2, 2], "1 had less than 640 ms each time");
    sim.submit(Script::new(3, &[(10, End)]), 7);
    sim.run();
    assert!(matches!(sim.over[3..], [(1, Ended::Hung(_)), (3, Ended::Itself)]), "{:?}", sim.over);
}

#[test]
fn a_job_that_yields_times_out_by_its_own_time() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (MS / 2, Preemptible)), 0);
    sim.submit(Script::forever(2, (MS / 2, Preemptible)), 0);
    sim.run();
    let limit = Limits::default().request_ns;
    assert_eq!(sim.over, [(1, Ended::TimedOut(limit)), (2, Ended::TimedOut(limit))]);
    assert!(sim.now >= 2 * limit, "what the other ran does not count");
}

/// What a reset threw away does not count against who was hit.
#[test]
fn the_time_of_a_restarted_job_begins_anew() {
    let mut sim = Sim::new();
    let limit = Limits::default();
    let most = limit.request_ns - MS;
    let turns = [(most, Preemptible), (MS / 2, Restarted), (most, Preemptible), (MS, End)];
    sim.submit(Script::new(1, &turns), 0);
    sim.run();
    assert_eq!(sim.over, [(1, Ended::Itself)]);
    let hold = limit.heartbeat_ns + limit.preempt_ns - MS;
    let turns = [(hold, Running), (MS / 2, Restarted), (hold, Running), (MS / 2, End)];
    sim.submit(Script::new(2, &turns), 0);
    sim.run();
    assert_eq!(sim.over[1..], [(2, Ended::Itself)]);
}

#[test]
fn waiting_counts_towards_the_time_limit() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (0, Waiting)), 0);
    sim.run();
    let limit = Limits::default().request_ns;
    let [(1, Ended::TimedOut(ns))] = sim.over[..] else { panic!("{:?}", sim.over) };
    assert!((limit..limit + 2 * MS).contains(&ns), "{ns}");
    assert_eq!(sim.scheduler.usage().faults, 1);
}

#[test]
fn a_held_job_leaves_the_engine_and_the_time_is_not_its_own() {
    let mut sim = Sim::new();
    let held = vec![(0, Held); 30_000];
    sim.submit(Script::new(1, &held), 0);
    sim.submit(Script::new(2, &[]), -1);
    sim.run();
    assert_eq!(sim.over, [(2, Ended::Itself), (1, Ended::Itself)]);
    assert!(sim.now > Limits::default().request_ns, "{} ns", sim.now);
}

#[test]
fn cancelling_ends_jobs_wherever_they_are() {
    let mut sim = Sim::new();
    let waiting = sim.submit(Script::forever(1, (0, Waiting)), 3);
    let stalled = sim.submit(Script::forever(2, (0, Stalled)), 2);
    let queued = sim.submit(Script::new(3, &[]), 1);
    sim.step();
    sim.step();
    for key in [waiting, stalled, queued] {
        assert!(sim.scheduler.cancel(key), "it is to be reaped");
        assert!(!sim.scheduler.cancel(key), "once");
    }
    let running = sim.submit(Script::forever(4, (10, Running)), 0);
    for _ in 0..3 {
        sim.step();
    }
    let Next::Run(turn) = sim.scheduler.next(sim.now) else { panic!("4 is ready") };
    assert!(!sim.scheduler.cancel(running), "its turn goes on");
    let over = sim.scheduler.put_back(sim.now + 5, turn, Running);
    assert!(matches!(over, Some((Script { name: 4, .. }, Ended::Cancelled))));
    sim.over.sort_by_key(|(name, _)| *name);
    assert_eq!(sim.over, [1, 2, 3].map(|name| (name, Ended::Cancelled)));
    assert_eq!(sim.scheduler.usage().completed, 4);
    assert!(!sim.scheduler.is_waiting());
}

#[test]
fn a_job_that_ends_in_the_turn_it_is_cancelled_in_has_ended_itself() {
    let mut sim = Sim::new();
    let key = sim.submit(Script::new(1, &[]), 0);
    let Next::Run(turn) = sim.scheduler.next(0) else { panic!("ready") };
    sim.scheduler.cancel(key);
    let over = sim.scheduler.put_back(1, turn, Faulted);
    assert!(matches!(over, Some((_, Ended::Itself))));
    assert_eq!(sim.scheduler.usage().faults, 1);
}

#[test]
fn keys_are_not_used_twice() {
    let mut sim = Sim::new();
    let old = sim.submit(Script::new(1, &[]), 0);
    sim.run();
    let new = sim.submit(Script::new(2, &[]), 0);
    assert_eq!(old.index, new.index, "the place is");
    assert!(!sim.scheduler.cancel(old));
    sim.scheduler.set_priority(old, 7);
    sim.run();
    assert_eq!(sim.over, [(1, Ended::Itself), (2, Ended::Itself)]);
}

#[test]
fn a_reservation_needs_an_idle_engine_and_says_who_asked_meanwhile() {
    let mut sim = Sim::new();
    assert!(sim.scheduler.reserve());
    assert!(!sim.scheduler.reserve());
    assert_eq!(sim.scheduler.load(), 1);
    assert!(!sim.scheduler.release(5, false), "nobody asked");
    assert!(sim.scheduler.reserve());
    assert!(matches!(sim.scheduler.next(0), Next::Busy));
    assert!(sim.scheduler.release(5, true), "somebody asked");
    assert_eq!(sim.scheduler.usage(), Usage { busy_ns: 10, queued: 0, completed: 2, faults: 1 });
    sim.submit(Script::new(1, &[]), 0);
    assert!(!sim.scheduler.reserve(), "a job is ready");
}

#[test]
fn an_adopted_job_holds_the_engine_as_it_did() {
    let mut sim = Sim::new();
    assert!(sim.scheduler.reserve());
    sim.submit(Script::new(2, &[]), 1023);
    sim.scheduler.adopt(
        100,
        Script::new(1, &[(10, Running), (10, End)]),
        claim(1, 0),
        100,
        Running,
    );
    sim.now = 100;
    sim.run();
    assert_eq!(sim.names(), [1, 1, 2]);
    assert_eq!(sim.scheduler.usage().busy_ns, 121);
    assert!(sim.scheduler.reserve());
    sim.scheduler.adopt(sim.now, Script::forever(3, (0, Waiting)), claim(1, 0), 1, Waiting);
    assert!(sim.scheduler.is_waiting());
    assert!(sim.scheduler.reserve(), "who waits does not hold the engine");
}

/// What may be done to a scheduler.
#[derive(Clone, Debug)]
enum Op {
    Submit { session: u64, priority: i32, turns: Vec<(u64, u8)> },
    Cancel(usize),
    Priority(usize, i32),
    Step,
    Hasten,
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let turn = (0..3 * MS, 0..8u8);
    prop_oneof![
        (0..3u64, -2..3, prop::collection::vec(turn, 0..6))
            .prop_map(|(session, priority, turns)| Op::Submit { session, priority, turns }),
        (0..20usize).prop_map(Op::Cancel),
        (0..20usize, -2..3).prop_map(|(job, priority)| Op::Priority(job, priority)),
        Just(Op::Step),
        Just(Op::Step),
        Just(Op::Step),
        Just(Op::Hasten),
        (0..2 * MS).prop_map(Op::Pass),
    ]
}

fn check_invariants<J>(scheduler: &Scheduler<J>) {
    let mut listed: Vec<_> = scheduler.ready.indices().collect();
    listed.extend(scheduler.waiting.iter().map(|(_, index)| *index));
    listed.extend(scheduler.current);
    listed.extend(&scheduler.reap);
    listed.sort_unstable();
    let jobs: Vec<_> = scheduler.jobs.iter().map(|(index, _)| index).collect();
    assert_eq!(listed, jobs, "every job is in one place");
}

proptest! {
    /// Whatever happens, every job is over exactly once, and never lost on the way.
    #[test]
    fn every_job_is_over_once(ops in prop::collection::vec(op(), 0..120)) {
        let mut sim = Sim::new();
        let mut keys = Vec::new();
        for op in ops {
            match op {
                Op::Submit { session, priority, turns } => {
                    let progress =
                        [Running, Preemptible, Waiting, Stalled, Held, Spinning, End, Faulted];
                    let turns: Vec<_> = turns
                        .into_iter()
                        .map(|(ns, kind)| (ns, progress[usize::from(kind)]))
                        .collect();
                    let name = u32::try_from(keys.len()).unwrap();
                    keys.push(sim.submit_as(Script::new(name, &turns), claim(session, priority)));
                }
                Op::Cancel(job) => {
                    if let Some(key) = keys.get(job) {
                        sim.scheduler.cancel(*key);
                    }
                }
                Op::Priority(job, priority) => {
                    if let Some(key) = keys.get(job) {
                        sim.scheduler.set_priority(*key, priority);
                    }
                }
                Op::Step => {
                    sim.step();
                }
                Op::Hasten => {
                    sim.scheduler.hasten();
                }
                Op::Pass(ns) => sim.now += ns,
            }
            check_invariants(&sim.scheduler);
        }
        sim.run();
        check_invariants(&sim.scheduler);
        let mut over: Vec<_> = sim.over.iter().map(|(name, _)| *name).collect();
        over.sort_unstable();
        let all: Vec<_> = (0..u32::try_from(keys.len()).unwrap()).collect();
        prop_assert_eq!(over, all);
        prop_assert_eq!(sim.scheduler.usage().completed, keys.len() as u64);
        prop_assert_eq!(sim.scheduler.load(), 0);
        prop_assert_eq!(sim.scheduler.ready.remembered(), (0, 0, 0), "nothing is to be done");
    }
}

#[test]
fn a_spinner_naps_on_its_engine_until_somebody_comes() {
    let mut sim = Sim::new();
    sim.submit(Script::forever(1, (100, Spinning)), 0);
    sim.run_until(5 * MS);
    let gaps: Vec<_> = sim.turns.windows(2).map(|pair| pair[1].0 - pair[0].0 - 100).collect();
    assert_eq!(gaps[..6], [50_000, 100_000, 200_000, 400_000, 800_000, MS]);
    assert!(!sim.scheduler.is_waiting(), "no hint shortens a nap");
    assert!(!sim.scheduler.reserve(), "it has the engine");
    // In the middle of a nap: a higher priority has the engine at once, a lower one never.
    sim.now += MS / 10;
    sim.submit(Script::new(2, &[(10, End)]), -1);
    let came = sim.now;
    sim.submit(Script::new(3, &[(10, End)]), 1);
    sim.step();
    assert_eq!(sim.turns.last(), Some(&(came, 3)));
    sim.run_until(50 * MS);
    assert_eq!(sim.over, [(3, Ended::Itself)]);
}

#[test]
fn spinners_share_their_engine_by_slices() {
    let mut sim = Sim::new();
    for session in 1..=2 {
        sim.submit_as(Script::forever(session, (1000, Spinning)), claim(session.into(), 0));
    }
    sim.run_until(100 * MS);
    let mut slices = vec![];
    for (at, name) in &sim.turns {
        if slices.last().is_none_or(|(_, last)| last != name) {
            slices.push((*at, *name));
        }
    }
    for pair in slices.windows(2) {
        let ns = pair[1].0 - pair[0].0;
        assert!((MS..MS + 10_000).contains(&ns), "a slice of {ns} ns");
    }
    assert!(sim.turns.len() < 130, "{} turns in 100 ms", sim.turns.len());
    // Work comes: a third of the engine each, and no nap is waited for.
    sim.submit_as(Script::forever(3, (MS / 2, Preemptible)), claim(3, 0));
    let before = sim.now;
    sim.run_until(before + 300 * MS);
    let worked = sim.turns.iter().filter(|(_, name)| *name == 3).count() as u64 * MS / 2;
    assert!((95 * MS..105 * MS).contains(&worked), "{worked} ns of 300 ms");
}

#[test]
fn a_spinner_ends_by_its_own_doing_and_its_time_is_counted() {
    let mut sim = Sim::new();
    sim.submit(Script::new(1, &[(1000, Spinning), (1000, Spinning), (1000, End)]), 0);
    sim.run();
    assert_eq!(sim.over, [(1, Ended::Itself)]);
    assert_eq!(sim.scheduler.usage().busy_ns, 150_000 + 3000, "naps are time on the engine");
    sim.submit(Script::forever(2, (1000, Spinning)), 0);
    sim.run();
    assert!(matches!(sim.over[..], [_, (2, Ended::TimedOut(_))]), "nor do they last for ever");
}
