//! Shares, on a clock of their own.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::scheduler::{Limits, Next, Progress, Scheduler};

const MS: u64 = 1_000_000;
const SLICE: u64 = 1_000_000;

/// A session that always has work.
#[derive(Clone, Debug)]
struct Greedy {
    /// A group with others; `None` is one of its own.
    group: Option<u64>,
    /// Of its group; sessions of one have the same.
    weight: u32,
    /// Batches it has queued at any time.
    queued: usize,
    /// Turns a batch takes, in nanoseconds; all but the last end at an arbitration point.
    turns: Vec<u64>,
}

/// A batch: whose, and the turn it is at.
#[derive(Debug)]
struct Work {
    session: u64,
    at: usize,
}

/// An engine under load.
struct Load {
    scheduler: Scheduler<Work>,
    sessions: Vec<Greedy>,
    now: u64,
    /// Nanoseconds each session had.
    had: HashMap<u64, u64>,
}

/// The number of the session that comes now and then.
const SPORADIC: u64 = 1000;

impl Load {
    fn new(sessions: Vec<Greedy>) -> Self {
        let scheduler = Scheduler::new(Limits { request_ns: u64::MAX, ..Limits::default() });
        let mut load = Self { scheduler, sessions, now: 0, had: HashMap::new() };
        for session in 0..load.sessions.len() {
            for _ in 0..load.sessions[session].queued {
                load.submit(session as u64, 0);
            }
        }
        load
    }

    fn submit(&mut self, session: u64, priority: i32) {
        let greedy = usize::try_from(session).ok().and_then(|session| self.sessions.get(session));
        let (group, weight) = greedy.map_or((session, WEIGHT_DEFAULT), |greedy| {
            (greedy.group.unwrap_or(session), greedy.weight)
        });
        let claim = Claim { group, weight, session, priority };
        self.scheduler.submit(self.now, Work { session, at: 0 }, claim);
    }

    /// One turn; answers whose, and whether its batch ended.
    fn step(&mut self) -> (u64, bool) {
        let Next::Run(mut turn) = self.scheduler.next(self.now) else { panic!("work is queued") };
        let session = turn.payload.session;
        let turns = match self.sessions.get(usize::try_from(session).unwrap()) {
            Some(greedy) => greedy.turns.as_slice(),
            None => &[10_000],
        };
        let (ns, last) = (turns[turn.payload.at], turn.payload.at + 1 == turns.len());
        turn.payload.at += 1;
        self.now += ns;
        *self.had.entry(session).or_default() += ns;
        let progress = if last { Progress::Ended } else { Progress::Preemptible };
        self.scheduler.put_back(self.now, turn, progress);
        if last && session != SPORADIC {
            self.submit(session, 0);
        }
        (session, last)
    }

    fn had(&self, session: usize) -> u64 {
        self.had.get(&(session as u64)).copied().unwrap_or(0)
    }

    /// A slice goes on until a turn ends after its time, or a batch ends that began within it.
    fn longest_slice(&self, session: usize) -> u64 {
        SLICE + self.sessions[session].turns.iter().max().unwrap()
    }
}

fn greedy() -> impl Strategy<Value = Greedy> {
    (1..=1000u32, 1..40usize, prop::collection::vec(1..MS, 1..8))
        .prop_map(|(weight, queued, turns)| Greedy { group: None, weight, queued, turns })
}

proptest! {
    /// The bound of start-time fair queuing, at every moment and from any moment on, however much
    /// a session queues and however the work of a higher priority comes in between.
    #[test]
    fn shares_follow_the_weights(
        sessions in prop::collection::vec(greedy(), 2..6),
        above in prop::collection::vec(0..200usize, 0..50),
        from in 0..300usize,
    ) {
        let mut load = Load::new(sessions);
        let count = load.sessions.len();
        let mut began = vec![0; count];
        for step in 0..600 {
            if above.contains(&step) {
                load.submit(SPORADIC, 5);
            }
            load.step();
            if step <= from {
                began = (0..count).map(|session| load.had(session)).collect();
                continue;
            }
            let share = |session: usize| {
                let had = u128::from(load.had(session) - began[session]);
                let weight = u128::from(load.sessions[session].weight);
                // The rounding of a charge is less than a nanosecond for each turn.
                let slack = u128::from(load.longest_slice(session)) * 100 / weight + 600;
                (had * 100 / weight, slack)
            };
            for (first, second) in (0..count).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let ((a, a_slack), (b, b_slack)) = (share(first), share(second));
                prop_assert!(
                    a.abs_diff(b) <= a_slack + b_slack,
                    "{first} had {a}, {second} had {b}, at most {} apart", a_slack + b_slack
                );
            }
        }
    }

    /// The same bound between groups, whatever number of sessions each has, and between the sessions
    /// of each, which are equals.
    #[test]
    fn a_group_has_one_share_and_its_sessions_equal_parts_of_it(
        groups in prop::collection::vec((1..=1000u32, prop::collection::vec(greedy(), 1..4)), 2..4),
        from in 0..300usize,
    ) {
        let mut sessions = Vec::new();
        for (group, (weight, members)) in groups.into_iter().enumerate() {
            let group = Some(500 + group as u64);
            sessions.extend(members.into_iter().map(|member| Greedy { group, weight, ..member }));
        }
        let mut load = Load::new(sessions);
        let count = load.sessions.len();
        let mut began = vec![0; count];
        for step in 0..600 {
            load.step();
            if step <= from {
                began = (0..count).map(|session| load.had(session)).collect();
                continue;
            }
            let had = |session: usize| u128::from(load.had(session) - began[session]);
            let slice = |session: usize| u128::from(load.longest_slice(session));
            let of = |session: usize| {
                let group = load.sessions[session].group;
                let weight = u128::from(load.sessions[session].weight);
                let members: Vec<usize> =
                    (0..count).filter(|at| load.sessions[*at].group == group).collect();
                let had: u128 = members.iter().map(|at| had(*at)).sum();
                let longest = members.iter().map(|at| slice(*at)).max().unwrap_or_default();
                (group, had * 100 / weight, longest * 100 / weight + 600)
            };
            for (first, second) in (0..count).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let ((group, a, a_slack), (other, b, b_slack)) = (of(first), of(second));
                let (a, b, slack) = if group == other {
                    (had(first), had(second), slice(first) + slice(second) + 600)
                } else {
                    (a, b, a_slack + b_slack)
                };
                prop_assert!(a.abs_diff(b) <= slack, "{first}: {a}, {second}: {b}, most {slack}");
            }
        }
    }

    /// Who comes with one job waits for the slice that runs and one of each other session, and for
    /// no queue; and the next time too.
    #[test]
    fn a_sporadic_session_waits_for_no_queue(
        sessions in prop::collection::vec(greedy(), 1..6),
        pauses in prop::collection::vec(1..40usize, 1..10),
    ) {
        let mut load = Load::new(sessions);
        // What it had itself the time before, the others may have too before its next turn.
        let bound = |session| load.longest_slice(session) + 10_000 * 1000 / 100;
        let bound: u64 = (0..load.sessions.len()).map(bound).sum();
        for pause in pauses {
            for _ in 0..pause {
                load.step();
            }
            let came = load.now;
            load.submit(SPORADIC, 0);
            while load.step() != (SPORADIC, true) {
                prop_assert!(load.now - came <= bound, "{} of {bound}", load.now - came);
            }
        }
    }

    /// Sessions that come and go are forgotten once they are not ahead of the others.
    #[test]
    fn the_idle_are_forgotten(crowd in 1..2000u64, together in any::<bool>()) {
        let one = Greedy { group: None, weight: 100, queued: 1, turns: vec![MS] };
        let mut load = Load::new(vec![one]);
        for session in 0..crowd {
            let session = 2000 + session;
            let group = if together { 2000 } else { session };
            let claim = Claim { group, weight: 1, session, priority: 0 };
            load.scheduler.submit(load.now, Work { session, at: 0 }, claim);
        }
        // All of the crowd has its only turn, after which each is far ahead of who goes on.
        while load.scheduler.load() > 1 {
            let Next::Run(turn) = load.scheduler.next(load.now) else { panic!("work is queued") };
            load.now += 10_000;
            let session = turn.payload.session;
            load.scheduler.put_back(load.now, turn, Progress::Ended);
            if session == 0 {
                load.submit(0, 0);
            }
        }
        let (priorities, groups, sessions) = load.scheduler.ready.remembered();
        prop_assert_eq!(priorities, 1);
        prop_assert!(groups <= LINGERING_MAX + 1, "{groups} are remembered");
        // Each alone in its group, or all in one.
        prop_assert!(sessions <= LINGERING_MAX + 1, "{sessions} are remembered");
        while load.now < 100_000 * MS && load.scheduler.ready.remembered().2 > 1 {
            load.step();
        }
        prop_assert_eq!(load.scheduler.ready.remembered(), (1, 1, 1));
    }
}

/// One session with a thousand batches, one with two endless ones and one with one: the engine is
/// in three parts, not in a thousand and three.
#[test]
fn queueing_more_does_not_get_more() {
    let endless =
        |queued| Greedy { group: None, weight: 100, queued, turns: vec![MS / 2; 1_000_000] };
    let short = Greedy { group: None, weight: 100, queued: 1000, turns: vec![20_000] };
    let mut load = Load::new(vec![short, endless(2), endless(1)]);
    while load.now < 300 * MS {
        load.step();
    }
    for session in 0..3 {
        let had = load.had(session);
        assert!((98 * MS..=102 * MS).contains(&had), "session {session} had {had} ns of 300 ms");
    }
}

/// Four sessions of one group and one of another: a half for each group.
#[test]
fn opening_more_sessions_does_not_get_more() {
    let of_group =
        |group| Greedy { group: Some(group), weight: 100, queued: 2, turns: vec![MS / 4; 100] };
    let mut load = Load::new([1, 1, 1, 1, 2].map(of_group).to_vec());
    while load.now < 800 * MS {
        load.step();
    }
    let had: Vec<u64> = (0..5).map(|session| load.had(session) / MS).collect();
    assert!(had[..4].iter().all(|had| (98..=102).contains(had)), "{had:?}");
    assert!((397..=403).contains(&had[4]), "{had:?}");
}

/// Three times the weight, three times the engine.
#[test]
fn a_weight_is_a_share() {
    let of_weight = |weight| Greedy { group: None, weight, queued: 3, turns: vec![MS / 4; 100] };
    let mut load = Load::new(vec![of_weight(100), of_weight(300), of_weight(50)]);
    while load.now < 900 * MS {
        load.step();
    }
    let had = [0, 1, 2].map(|session| load.had(session) / MS);
    assert!((197..=203).contains(&had[0]), "{had:?}");
    assert!((597..=603).contains(&had[1]), "{had:?}");
}

/// Time at one priority does not count at another: who had a higher one for long comes back as an
/// equal, and who had it for a moment does not pay for the long time others had it.
#[test]
fn priorities_have_accounts_of_their_own() {
    let greedy = |turns: Vec<u64>| Greedy { group: None, weight: 100, queued: 1, turns };
    let mut load = Load::new(vec![greedy(vec![MS / 2; 1_000_000])]);
    // Session 0 works for a long time alone at priority 0; another for long at 5.
    while load.now < 50 * MS {
        load.step();
    }
    for _ in 0..1000 {
        load.submit(SPORADIC, 5);
    }
    load.step();
    while load.had.get(&SPORADIC) != Some(&(10 * MS)) {
        assert_eq!(load.step().0, SPORADIC, "priority comes first");
    }
    // At priority 0 it begins as an equal: it waits for a slice at most.
    let came = load.now;
    load.submit(SPORADIC, 0);
    while load.step() != (SPORADIC, true) {}
    assert!(load.now - came <= 2 * MS, "{} ns", load.now - came);
}
