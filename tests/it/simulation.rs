//! Ten thousand little histories of a GPU and its sessions, in which everything may go wrong that
//! can: batches that never end, calls that fail, contexts and sessions that end under their work.
//!
//! The rules are those of the daemon (`gpu-broker-core`), the scheduler is that of the software GPU;
//! between them is a device without threads or clock (`world`), so that a seed says what happens.
//! What must hold, whatever happens: every fence signals, once; what was made is released; work
//! fails only if it is itself to blame, or if its context was banned or closed; and bans are those
//! of the rule table (§12), which `model` has written down once more.

mod hands;
mod model;
mod random;
mod world;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gpu_broker_core::hands::Outcome;
use gpu_broker_core::{Capabilities, Privileges, Registry, Session, SessionLimits, Time};
use gpu_broker_protocol::execbuf::{
    self, ExecFence, ExecObject, Execbuf, ExecbufHead, ExecbufLists, flag, object_flag,
};
use gpu_broker_protocol::message::{
    BufferCreate, ContextCreate, ContextDestroy, ContextParamRequest, ContextResetStats,
};
use gpu_broker_protocol::param::{
    CloneFrom, ContextParam, CreateExtension, Extension, clone_flag, create_flag, number,
};
use gpu_broker_protocol::syncobj::SyncobjCreate;
use gpu_broker_protocol::syncobj::flag::{FENCE_SIGNAL, FENCE_WAIT};
use gpu_broker_protocol::{BufferId, ContextId, Reason, Refusal, SessionId, SyncobjId};

use self::hands::{Census, SimHands, World, lock};
use self::model::Bans;
use self::random::Random;
use self::world::{MS, Script};

/// Scenarios of one run.
const SCENARIOS: u64 = 10_000;
/// Steps that the work left in the end may take: far more than its time limits allow.
const STEPS_MAX: u32 = 200_000;
/// The legacy rings of EXECBUF: default, render, video, copy, video enhance.
const RINGS: u64 = 5;

#[test]
fn whatever_happens_fences_signal_and_nobody_pays_for_others() {
    let given = std::env::var("SIMULATION_SEED").ok();
    if let Some(seed) = given.map(|text| text.parse().expect("SIMULATION_SEED is a number")) {
        scenario(seed);
        return;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = now.expect("after 1970").as_secs() << 20;
    let next = AtomicU64::new(first);
    let seen = Mutex::new(Seen::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + SCENARIOS {
                        return;
                    }
                    lock(&seen).add(scenario(seed));
                }
            });
        }
    });
    let seen = lock(&seen);
    let often = [seen.completed, seen.guilty, seen.cancelled].into_iter().min();
    let rarely =
        [seen.banned, seen.sessions_banned, seen.failures, seen.replayed].into_iter().min();
    assert!(often > Some(SCENARIOS), "too little happened: {seen:?}");
    assert!(rarely > Some(SCENARIOS / 20), "too little happened: {seen:?}");
}

/// How often what happened, so that a change cannot make the simulation harmless unnoticed.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    completed: u64,
    guilty: u64,
    cancelled: u64,
    /// Contexts banned.
    banned: u64,
    sessions_banned: u64,
    /// Calls of the device that failed.
    failures: u64,
    /// Innocent work that a reset hit.
    replayed: u64,
}

impl Seen {
    const fn add(&mut self, more: Self) {
        self.completed += more.completed;
        self.guilty += more.guilty;
        self.cancelled += more.cancelled;
        self.banned += more.banned;
        self.sessions_banned += more.sessions_banned;
        self.failures += more.failures;
        self.replayed += more.replayed;
    }
}

/// Says which scenario it was that failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat this scenario with SIMULATION_SEED={}", self.0);
        }
    }
}

fn scenario(seed: u64) -> Seen {
    let _seed = Seed(seed);
    let mut random = Random(seed);
    let world = Arc::new(Mutex::new(World::new(Random(random.next()))));
    let census = Arc::new(Census::default());
    let registry = Arc::new(Registry::new());
    let caps = Arc::new(Capabilities::kaby_lake_gt3());
    lock(&world).resets_device = random.one_in(3);
    let mut scene = Scene { random, world, census, clients: Vec::new() };
    for session in 0..scene.random.between(2, 3) {
        let index = usize::try_from(session).expect("few");
        let device = (&scene.world, &scene.census);
        scene.clients.extend(Client::open(index, &mut scene.random, device, &registry, &caps));
    }
    for _ in 0..scene.random.between(20, 160) {
        scene.act();
    }
    scene.finish()
}

/// One session, and what its client remembers.
struct Client {
    index: usize,
    session: Session<SimHands>,
    opened: bool,
    /// Its batches misbehave.
    naughty: bool,
    contexts: Vec<Known>,
    buffers: Vec<BufferId>,
    syncobjs: Vec<SyncobjId>,
    fences: Vec<usize>,
    bans: Bans,
    /// Times innocent work of a context was hit, by tag.
    pending: HashMap<u64, u32>,
}

/// A context as its client knows it: the tag once it is live.
#[derive(Clone, Copy)]
struct Known {
    id: ContextId,
    tag: Option<u64>,
}

struct Scene {
    random: Random,
    world: Arc<Mutex<World>>,
    census: Arc<Census>,
    clients: Vec<Client>,
}

impl Client {
    /// `None` when the device failed.
    fn open(
        index: usize,
        random: &mut Random,
        (world, census): (&Arc<Mutex<World>>, &Arc<Census>),
        registry: &Arc<Registry<SimHands>>,
        caps: &Arc<Capabilities>,
    ) -> Option<Self> {
        let hands =
            SimHands { session: index, world: Arc::clone(world), census: Arc::clone(census) };
        let admin = random.one_in(4);
        let priority_max = if random.one_in(4) { 1023 } else { 0 };
        let privileges = Privileges {
            clear_bannable: admin,
            reset_count: admin,
            priority_max,
            ..Privileges::NONE
        };
        let id = SessionId(index as u64 + 1);
        let session = Session::open(
            Time(0),
            id,
            hands,
            Arc::clone(registry),
            Arc::clone(caps),
            privileges,
            SessionLimits::default(),
        )
        .ok()?;
        let default = Known { id: ContextId::DEFAULT, tag: lock(world).made.take() };
        Some(Self {
            index,
            session,
            opened: true,
            // The second session never does anything wrong.
            naughty: index != 1 && (index == 0 || random.one_in(2)),
            contexts: vec![default],
            buffers: Vec::new(),
            syncobjs: Vec::new(),
            fences: Vec::new(),
            bans: Bans::default(),
            pending: HashMap::new(),
        })
    }

    /// A context, its parameters by chance.
    fn create_context(&mut self, random: &mut Random) {
        let mut params = vec![
            ContextParam::priority(random.below(3).cast_signed() * 100 - 200),
            ContextParam::scalar(number::RECOVERABLE, random.below(2)),
            ContextParam::scalar(number::PERSISTENCE, random.below(2)),
        ];
        params.truncate(usize::try_from(random.below(4)).expect("small"));
        let set = |param| {
            let body = CreateExtension::SetParam { context: ContextId::DEFAULT, param };
            Extension::new(CreateExtension::SET_PARAM, body)
        };
        let mut extensions: Vec<_> = params.into_iter().map(set).collect();
        if let Some(source) = random.choose(&self.contexts).filter(|_| random.one_in(3)) {
            let body = CloneFrom { source: source.id, flags: clone_flag::ALL, rsvd: 0 };
            extensions
                .insert(0, Extension::new(CreateExtension::CLONE, CreateExtension::Clone(body)));
        }
        let mut flags = create_flag::USE_EXTENSIONS;
        flags |= if random.one_in(5) { create_flag::SINGLE_TIMELINE } else { 0 };
        let request = ContextCreate { flags, extensions };
        match self.session.context_create(self.now(), &request) {
            Ok(created) => {
                assert!(!self.bans.session_is_banned(), "a banned session made a context");
                self.contexts.push(Known { id: created.context, tag: None });
            }
            Err(refusal) => {
                let banned = refusal.reason == Reason::SessionBanned;
                assert!(banned && self.bans.session_is_banned(), "CREATE: {refusal}");
            }
        }
    }

    fn destroy_context(&mut self, random: &mut Random) {
        if self.contexts.len() < 2 {
            return;
        }
        let place = usize::try_from(random.between(1, self.contexts.len() as u64 - 1));
        let context = self.contexts.swap_remove(place.expect("few")).id;
        let destroyed = self.session.context_destroy(&ContextDestroy { context, pad: 0 });
        destroyed.expect("it is its own");
    }

    fn set_param(&self, random: &mut Random) {
        let numbers = [number::RECOVERABLE, number::PERSISTENCE, number::BANNABLE];
        let chosen = random.choose(&self.contexts).zip(random.choose(&numbers));
        let Some((Known { id: context, .. }, number)) = chosen else { return };
        let param = ContextParam::scalar(number, random.below(2));
        // Refused for want of a privilege or of luck; both are legal.
        let _ = self.session.context_set_param(&ContextParamRequest { context, param });
    }

    fn create_object(&mut self, random: &mut Random) {
        // The device may fail.
        if random.one_in(3) {
            let made = self.session.syncobj_create(&SyncobjCreate { flags: 0 });
            self.syncobjs.extend(made.map(|made| made.syncobj));
        } else {
            let request = BufferCreate { size: 4096, flags: 0, regions: None };
            self.buffers.extend(self.session.buffer_create(&request).map(|made| made.buffer));
        }
    }

    fn close_buffer(&mut self, random: &mut Random) {
        if let Some(buffer) = random.choose(&self.buffers) {
            self.buffers.retain(|other| *other != buffer);
            self.session.buffer_close(buffer).expect("it is its own");
        }
    }

    /// What a batch does: of a client that misbehaves, anything.
    fn script(&self, random: &mut Random) -> Script {
        let yields = !random.one_in(3);
        match random.below(if self.naughty { 6 } else { 3 }) {
            0 | 1 => {
                // What does not yield must not be taken for hung.
                let longest = if yields { 2_000 } else { 300 };
                Script::Work { left_ns: random.between(1, longest) * MS, yields }
            }
            2 => {
                // Waiting is polling, and polling is slow to simulate.
                let longest = if random.one_in(50) { 500 } else { 20 };
                Script::Wait { until_ns: random.below(longest) * MS, yields }
            }
            3 => Script::Endless { yields },
            _ => Script::Fault { left_ns: random.between(1, 300) * MS },
        }
    }

    fn submit(&mut self, random: &mut Random) {
        let Some(context) = random.choose(&self.contexts).filter(|_| !self.buffers.is_empty())
        else {
            return;
        };
        let mut buffers = self.buffers.clone();
        while buffers.len() > 1 && !random.one_in(3) {
            buffers.swap_remove(usize::try_from(random.below(buffers.len() as u64)).expect("few"));
        }
        let mut objects: Vec<_> = buffers.iter().map(|buffer| object(*buffer, random)).collect();
        // The last one holds the batch, which cannot be written.
        if let Some(batch) = objects.last_mut() {
            batch.flags &= !object_flag::WRITE;
        }
        let mut head = ExecbufHead {
            context: context.id.0,
            flags: random.below(RINGS) | flag::NO_RELOC,
            ..ExecbufHead::default()
        };
        head.flags |= if random.one_in(2) { flag::FENCE_OUT } else { 0 };
        let fence = random.choose(&self.fences).filter(|_| random.one_in(4));
        head.flags |= if fence.is_some() { flag::FENCE_IN } else { 0 };
        let syncobj = random.choose(&self.syncobjs).filter(|_| random.one_in(3));
        let fences = syncobj.map(|syncobj| self.syncobj_entry(syncobj, random));
        if fences.is_some() {
            head.flags |= flag::FENCE_ARRAY;
            head.num_cliprects = 1;
        }
        let lists = ExecbufLists {
            objects: &objects,
            fences: fences.as_slice(),
            ..ExecbufLists::default()
        };
        let mut body = Vec::new();
        execbuf::encode(&head, &lists, &mut body);
        let request = Execbuf::decode(&body).expect("it is well-formed");
        let failures = self.prepare(self.script(random));
        let result = self.session.execbuf(self.now(), &request, fence);
        self.after_submit(context, failures, result.map(|executed| executed.fence));
    }

    /// Waits only for what holds a fence: the rest would be refused.
    fn syncobj_entry(&self, syncobj: SyncobjId, random: &mut Random) -> ExecFence {
        let held = self.session.syncobj(syncobj).expect("it is its own");
        let full = gpu_broker_core::Hands::syncobj_fence(self.session.hands(), &held, 0).is_some();
        let waits = full && random.one_in(2);
        ExecFence { handle: syncobj.0, flags: if waits { FENCE_WAIT } else { FENCE_SIGNAL } }
    }

    /// Tells the device what comes next; answers how often it has failed so far.
    fn prepare(&self, script: Script) -> u32 {
        let mut world = self.session.hands().world();
        let now = world.now;
        (world.made, world.guilty_at_once) = (None, None);
        world.script = match script {
            Script::Wait { until_ns, yields } => Script::Wait { until_ns: now + until_ns, yields },
            Script::Work { .. } | Script::Endless { .. } | Script::Fault { .. } => script,
        };
        world.failures
    }

    fn after_submit(
        &mut self,
        context: Known,
        failures: u32,
        result: Result<Option<usize>, Refusal>,
    ) {
        let (made, failed) = {
            let mut world = self.session.hands().world();
            (world.made.take(), world.failures != failures)
        };
        let tag = context.tag.or(made);
        for known in self.contexts.iter_mut().filter(|known| known.id == context.id) {
            known.tag = tag;
        }
        let banned = tag.is_some_and(|tag| self.bans.is_banned(tag));
        match result {
            Ok(fence) => {
                assert!(!banned, "a banned context ran a batch");
                self.fences.extend(fence);
                // Found guilty while it was submitted: nobody reports that.
                let guilty = self.session.hands().world().guilty_at_once.take();
                if let Some(tag) = guilty {
                    self.blame(tag);
                }
            }
            Err(refusal) if refusal.reason == Reason::ContextBanned => {
                assert!(banned, "{refusal}, but it has not hung often enough");
            }
            Err(refusal) => assert!(failed, "EXECBUF: {refusal}, and nothing had failed"),
        }
        self.compare();
    }

    /// A batch of the context was found guilty.
    fn blame(&mut self, tag: u64) {
        let (now, record) = {
            let world = self.session.hands().world();
            (world.now, world.contexts[&(self.index, tag)])
        };
        self.bans.hang(now, tag, &record);
    }

    /// A reset hit innocent work of the context.
    fn replay(&mut self, tag: u64) {
        let closed = self.session.hands().world().contexts[&(self.index, tag)].closed;
        if !closed {
            *self.pending.entry(tag).or_default() += 1;
        }
        self.session.handle_replay(tag);
    }

    /// GET_RESET_STATS counts what the device did.
    fn compare_pending(&self) {
        for known in self.contexts.iter().filter(|known| known.tag.is_some()) {
            let request = ContextResetStats { context: known.id, flags: 0, pad: 0 };
            let stats = self.session.context_reset_stats(&request).expect("it is live");
            let expected = known.tag.and_then(|tag| self.pending.get(&tag)).copied();
            assert_eq!(stats.batch_pending, expected.unwrap_or(0), "{:?}", known.id);
        }
    }

    /// The rules and the model agree on who is banned.
    fn compare(&self) {
        let status = self.session.status(usize::MAX);
        assert_eq!(status.ban_score, self.bans.score(), "the score of session {}", self.index);
        for known in &self.contexts {
            let found = status.contexts.iter().find(|context| context.context == known.id);
            let banned = found.expect("it is there").banned;
            let expected = known.tag.is_some_and(|tag| self.bans.is_banned(tag));
            assert_eq!(banned, expected, "context {:?} of session {}", known.id, self.index);
        }
    }

    /// Of those that the rules banned, the model knows why.
    fn was_banned_for_a_reason(&self) {
        let world = self.session.hands().world();
        let own = world.contexts.iter().filter(|((session, _), _)| *session == self.index);
        for ((_, tag), context) in own {
            assert!(!context.banned || self.bans.is_banned(*tag), "{context:?}");
        }
        assert!(self.naughty || self.bans.score() == 0, "session {}", self.index);
    }

    fn close(&mut self) {
        self.compare_pending();
        self.opened = false;
        self.contexts.clear();
        self.buffers.clear();
        self.session.close();
    }

    fn now(&self) -> Time {
        Time(self.session.hands().world().now)
    }
}

fn object(buffer: BufferId, random: &mut Random) -> ExecObject {
    let write = if random.one_in(2) { object_flag::WRITE } else { 0 };
    let flags = object_flag::SUPPORTS_48B | write;
    ExecObject { handle: buffer.0, flags, ..ExecObject::default() }
}

impl Scene {
    /// Something happens.
    fn act(&mut self) {
        let choice = self.random.below(24);
        if choice < 5 {
            let most = if self.random.one_in(16) { 90_000 } else { 200 };
            let ns = self.random.below(most) * MS;
            return self.pass(ns);
        }
        if choice == 5 {
            return self.share();
        }
        let open: Vec<_> =
            (0..self.clients.len()).filter(|index| self.clients[*index].opened).collect();
        let Some(index) = self.random.choose(&open) else { return };
        let (random, client) = (&mut self.random, &mut self.clients[index]);
        match choice {
            6 | 7 => client.create_context(random),
            8 => client.destroy_context(random),
            9 => client.set_param(random),
            10 | 11 => client.create_object(random),
            12 if random.one_in(2) => client.close_buffer(random),
            13 if random.one_in(8) => client.close(),
            _ => client.submit(random),
        }
    }

    /// A session gets a buffer of another.
    fn share(&mut self) {
        let places: Vec<_> = (0..self.clients.len()).collect();
        let Some((from, to)) = self.random.choose(&places).zip(self.random.choose(&places)) else {
            return;
        };
        let Some(buffer) = self.random.choose(&self.clients[from].buffers) else { return };
        let found = self.clients[from].session.with_buffer(buffer, |memory, _| Arc::clone(memory));
        let (Ok(memory), true) = (found, self.clients[to].opened) else { return };
        let inserted = self.clients[to].session.buffer_insert(memory, 4096);
        let handle = inserted.expect("far from any limit").buffer;
        if !self.clients[to].buffers.contains(&handle) {
            self.clients[to].buffers.push(handle);
        }
    }

    /// Time goes by. False if nothing is left that could happen.
    fn pass(&mut self, ns: u64) {
        let until = lock(&self.world).now + ns;
        for _ in 0..STEPS_MAX {
            let more = lock(&self.world).step(until);
            self.deliver();
            if !more || lock(&self.world).now >= until {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    /// The rules hear of what is over.
    fn deliver(&mut self) {
        let (reports, replays) = {
            let mut world = lock(&self.world);
            (std::mem::take(&mut world.reports), std::mem::take(&mut world.replays))
        };
        // Before the ends: work that is hit ends later than the reset.
        for (session, tag) in replays {
            let client = self.clients.iter_mut().find(|client| client.index == session);
            client.expect("sessions that were opened are kept").replay(tag);
        }
        for ((session, tag), outcome) in reports {
            let client = self.clients.iter_mut().find(|client| client.index == session);
            let client = client.expect("sessions that were opened are kept");
            if outcome == Outcome::Guilty {
                client.blame(tag);
            }
            client.session.handle_completion(client.now(), tag, outcome);
            client.compare();
        }
    }

    /// All sessions end; what they leave behind comes to its end too, and everybody got what was
    /// theirs.
    fn finish(mut self) -> Seen {
        self.clients.iter_mut().for_each(Client::close);
        self.pass(3_600_000 * MS);
        for client in &self.clients {
            assert_eq!(client.session.status(0).in_flight, 0, "session {}", client.index);
            client.was_banned_for_a_reason();
        }
        let sessions_banned = self.clients.iter().filter(|client| client.bans.session_is_banned());
        let sessions_banned = sessions_banned.count() as u64;
        self.clients.clear();
        let counts = self.census.counts();
        assert_eq!(counts, [0; 4], "left: {:?}", Census::KINDS);
        let seen = lock(&self.world).verdict();
        Seen { sessions_banned, ..seen }
    }
}

impl World {
    /// Every fence has signalled, every timeline was in order, and work that was lost was lost for
    /// a reason.
    fn verdict(&self) -> Seen {
        assert!(self.fences.iter().all(Option::is_some), "a fence never signalled");
        let mut last = HashMap::new();
        for id in &self.over {
            let request = &self.requests[*id];
            let before = last.insert((request.owner, request.slot), *id);
            assert!(before < Some(*id), "request {id} was over before one that was queued first");
        }
        for (id, request) in self.requests.iter().enumerate() {
            let context = self.contexts[&request.owner];
            let legal = match request.outcome {
                Some(Outcome::Completed) => request.script.is_innocent(),
                Some(Outcome::Guilty) => !request.script.is_innocent(),
                Some(Outcome::Cancelled) => context.banned || context.revoked,
                None => false,
            };
            assert!(legal, "request {id} of {context:?}: {:?}", request.outcome);
        }
        let outcomes = |wanted: Outcome| {
            let found = self.requests.iter().filter(|request| request.outcome == Some(wanted));
            found.count() as u64
        };
        Seen {
            completed: outcomes(Outcome::Completed),
            guilty: outcomes(Outcome::Guilty),
            cancelled: outcomes(Outcome::Cancelled),
            banned: self.contexts.values().filter(|context| context.banned).count() as u64,
            failures: self.failures.into(),
            replayed: self.replayed.into(),
            ..Seen::default()
        }
    }
}
