//! The shared status page: what is polled costs no message, and nothing that it says is wrong.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gpu_broker_client::gen9::{Batch, Compare};
use gpu_broker_client::protocol::message::{BufferOf, BufferWait, ContextResetStats};
use gpu_broker_client::protocol::object::BufferFenceImport;
use gpu_broker_client::protocol::shared_status::{BYTES, VERSION, flag, word};
use gpu_broker_client::protocol::version::feature;
use gpu_broker_client::protocol::{BufferId, ContextId, Reply, Request};
use gpu_broker_client::{Buffer, Connection, Context, Fence, FenceState, Mapping};
use gpu_broker_protocol::execbuf::{ExecbufHead, flag as exec_flag};
use gpu_broker_protocol::message::ContextDestroy;
use gpu_broker_protocol::param::{EngineId, class};
use gpu_broker_protocol::status::{ContextState, MaterialisedBy};
use gpu_broker_tests::relay::{self, Traffic};
use gpu_broker_tests::{Builder, Daemon, Message, PATIENCE, Raw, eventually};
use rustix::process::Signal;
use vm_memory::{FileOffset, MmapRegion};

const BATCH: u64 = 0x10_0000;
/// Begins no command.
const NO_COMMAND: u32 = 0xe000_0000;
const LOST: FenceState = FenceState::Failed(5);

/// A connection whose answers are counted.
struct Counted {
    broker: Option<Connection>,
    answers: Arc<AtomicU64>,
    relay: Option<JoinHandle<Traffic>>,
    _directory: tempfile::TempDir,
}

impl Counted {
    fn connect(daemon: &Daemon, name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let socket = directory.path().join("relay.sock");
        let answers = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&answers);
        let relay = relay::relay(&socket, daemon.socket(), move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let broker = Some(Connection::connect(&socket, name).expect("the daemon serves"));
        Self { broker, answers, relay: Some(relay), _directory: directory }
    }

    fn broker(&self) -> &Connection {
        self.broker.as_ref().expect("it is connected")
    }

    /// Messages that the daemon answers while `poll` runs.
    fn answers(&self, poll: impl FnOnce()) -> u64 {
        let before = self.answers.load(Ordering::SeqCst);
        poll();
        self.answers.load(Ordering::SeqCst) - before
    }

    /// Polls until that costs nothing: the page may come a moment after the fence.
    fn becomes_silent(&self, what: &str, poll: impl Fn()) {
        eventually(what, || (self.answers(&poll) == 0).then_some(()));
        assert_eq!(self.answers(|| (0..1000).for_each(|_| poll())), 0, "{what}");
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.broker = None;
        let relayed = self.relay.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || relayed.is_some_and(|relayed| relayed.is_ok()));
    }
}

fn buffer(broker: &Connection) -> Buffer {
    broker.create_buffer(4096).expect("there is room")
}

fn program(broker: &Connection, commands: &Batch) -> Buffer {
    let made = buffer(broker);
    made.map().expect("fds are left").write_dwords(0, commands.dwords()).expect("it fits");
    made
}

/// An address of its own: the kernel waits before it puts something in the place of what is in use.
fn place(buffer: &Buffer) -> u64 {
    BATCH + u64::from(buffer.handle().0) * 0x1_0000
}

fn busy(buffer: &Buffer) -> u32 {
    buffer.busy().expect("the daemon answers").busy
}

fn hangs(context: &Context) -> u32 {
    context.reset_stats().expect("the daemon answers").batch_active
}

/// A submission that goes on until the CPU opens its gate.
struct Gated {
    gate: Mapping,
    fence: Fence,
    /// What it uses, beside the buffers that were given.
    own: [Buffer; 2],
}

impl Gated {
    /// With `dies`, it ends with what is no command.
    fn submit(context: &Context, buffers: &[&Buffer], dies: bool) -> Self {
        let broker = context.connection();
        let gate = buffer(broker);
        let mut commands = Batch::new();
        commands.semaphore_wait(place(&gate), Compare::Equal, 1);
        if dies {
            commands.raw(&[NO_COMMAND]);
        }
        let own = [gate, program(broker, commands.end())];
        let mut work = context.execbuf().object_at(&own[0], place(&own[0]));
        for buffer in buffers {
            work = work.object_at(*buffer, place(buffer)).write();
        }
        let done =
            work.batch_at(&own[1], place(&own[1])).fence_out().submit().expect("it is legal");
        let gate = own[0].map().expect("fds are left");
        Self { gate, fence: done.fence.expect("a fence was asked for"), own }
    }

    fn open(&self) {
        self.gate.store_u32(0, 1).expect("it is inside");
    }

    fn ends(&self) -> FenceState {
        self.open();
        self.fence.wait(Some(PATIENCE)).expect("the daemon lives")
    }
}

#[test]
fn what_is_polled_of_idle_buffers_and_contexts_that_never_hung_costs_no_message() {
    let mut daemon = Daemon::start();
    let counted = Counted::connect(&daemon, "polls");
    let broker = counted.broker();
    let [context, other] = [(); 2].map(|()| broker.context().create().expect("there is room"));
    let (used, unused) = (buffer(broker), buffer(broker));
    let poll = || {
        assert_eq!((busy(&used), busy(&unused)), (0, 0));
        assert!(used.wait(Some(Duration::ZERO)).expect("the daemon answers"));
        assert_eq!(hangs(&context), 0);
    };
    counted.becomes_silent("nothing was submitted", poll);
    // Whether a context is there must be asked once, and makes it real.
    assert_eq!(counted.answers(|| assert_eq!(hangs(&other), 0)), 1);
    let seen = broker.status().expect("the daemon answers");
    let mine = seen.sessions.iter().find(|session| session.client_name == "polls");
    let mut contexts = mine.expect("we are connected").contexts.iter();
    let state = contexts.find(|one| one.context == other.id()).map(|one| one.state);
    assert_eq!(state, Some(ContextState::Live { by: MaterialisedBy::ResetStats }));

    let batch = program(broker, Batch::new().noop().end());
    for _ in 0..10 {
        let work = context.execbuf().object_at(&used, place(&used)).write();
        work.batch_at(&batch, place(&batch)).submit().expect("it is legal");
        counted.becomes_silent("what was submitted is over", poll);
    }
    // One buffer is in use: it is asked for, and others are idle all the same, whenever they were used.
    let gated = Gated::submit(&other, &[&used], false);
    assert_eq!(counted.answers(|| assert_ne!(busy(&used), 0)), 1, "the daemon says by whom");
    counted.becomes_silent("others are idle", || {
        assert_eq!((busy(&unused), busy(&batch)), (0, 0));
        // Of the kernel's fences a client may know before the daemon does.
        if broker.hello().device.driver == "soft" {
            assert_eq!(hangs(&context), 0);
        }
    });
    assert_eq!(gated.ends(), FenceState::Signalled);
    assert_eq!(busy(&used), 0, "who has seen the fence knows that");
    counted.becomes_silent("it is over", poll);
    drop((used, unused, batch, gated, context, other));
    drop(counted);
    daemon.assert_unharmed();
}

/// What the daemon must be asked: buffers that others may use, handles that are closed, contexts that
/// are destroyed, and everything once the session is shared.
#[test]
fn what_others_can_change_is_asked_and_errnos_are_the_daemons() {
    let daemon = Daemon::start();
    let counted = Counted::connect(&daemon, "asks");
    let broker = counted.broker();
    let context = broker.context().create().expect("there is room");
    let (mine, given) = (buffer(broker), buffer(broker));
    counted.becomes_silent("nothing was submitted", || {
        assert_eq!((busy(&mine), busy(&given), hangs(&context)), (0, 0, 0));
    });
    let other = Connection::connect(daemon.socket(), "other").expect("the daemon serves");
    let theirs = other.import_buffer(given.export().expect("fds are left")).expect("it is one");
    let gated = Gated::submit(&other.default_context(), &[&theirs], false);
    assert_ne!(busy(&given), 0, "the other session uses it");
    let taken = broker.import_buffer(gated.own[0].export().expect("fds")).expect("it is one");
    assert_ne!(busy(&taken), 0, "the other session uses it");
    assert_eq!(gated.ends(), FenceState::Signalled);
    for shared in [&given, &taken] {
        assert_eq!(counted.answers(|| assert_eq!(busy(shared), 0)), 1);
    }

    let errno =
        |request: Request<OwnedFd>| broker.request(request).err().map(|error| error.errno());
    let is_busy = |buffer| errno(Request::BufferBusy(BufferOf { buffer }));
    let wait =
        |buffer, flags| errno(Request::BufferWait(BufferWait { buffer, flags, timeout_ns: 0 }));
    let stats = |context, flags| {
        errno(Request::ContextResetStats(ContextResetStats { context, flags, pad: 0 }))
    };
    if broker.hello().features & feature::BUFFER_FENCES != 0 {
        let fenced = buffer(broker);
        let handle = fenced.handle();
        counted.becomes_silent("it is new", || assert_eq!(wait(handle, 0), None));
        let gated = Gated::submit(&other.default_context(), &[], false);
        let fd = gated.fence.as_fd().try_clone_to_owned().expect("fds are left");
        let import = BufferFenceImport { buffer: handle, flags: 2, fd };
        assert_eq!(errno(Request::BufferFenceImport(import)), None);
        assert_eq!(wait(handle, 0), Some(62), "it waits for what the other session does");
        assert_eq!(gated.ends(), FenceState::Signalled);
        eventually("its fence is over", || wait(handle, 0).is_none().then_some(()));
    }
    let (handle, id) = (mine.handle(), context.id());
    assert_eq!((is_busy(handle), wait(handle, 0), wait(handle, 1)), (None, None, Some(22)));
    assert_eq!((stats(id, 0), stats(id, 1)), (None, Some(22)));
    mine.close().expect("it is ours");
    context.destroy().expect("it is ours");
    assert_eq!((is_busy(handle), wait(handle, 0)), (Some(2), Some(2)));
    assert_eq!(stats(id, 0), Some(2));
    assert_eq!((is_busy(BufferId(77)), is_busy(BufferId(u32::MAX))), (Some(2), Some(2)));
    assert_eq!(stats(ContextId(77), 0), Some(2));

    let mine = buffer(broker);
    counted.becomes_silent("it is new", || assert_eq!(busy(&mine), 0));
    broker.share();
    assert_eq!(counted.answers(|| (0..10).for_each(|_| assert_eq!(busy(&mine), 0))), 10);
    let default = broker.default_context();
    assert_eq!(counted.answers(|| (0..10).for_each(|_| assert_eq!(hangs(&default), 0))), 10);
    drop((mine, given, theirs, taken, gated));
}

/// Who has seen the fence of a batch that died is told of it, however often it was told of none before.
#[test]
fn a_hang_is_told_to_who_has_seen_its_fence() {
    let mut daemon = Daemon::start();
    // A real engine's reset takes a second.
    let rounds = if daemon.status().daemon.driver == "soft" { 20 } else { 2 };
    for round in 0..rounds {
        let counted = Counted::connect(&daemon, "hangs");
        let broker = counted.broker();
        let class = [class::RENDER, class::VIDEO][round % 2];
        let slot = EngineId { class, instance: 0 };
        let contexts = [(); 4].map(|()| broker.context().engines(&[slot]).create().expect("room"));
        let bystander = broker.context().create().expect("there is room");
        let poll = || contexts.iter().for_each(|context| assert_eq!(hangs(context), 0));
        counted.becomes_silent("nothing hung", poll);
        for (context, dead) in contexts.iter().zip(0..) {
            // Where it is submitted, and later on the engine.
            if dead % 2 == 0 {
                let bad = program(broker, Batch::new().raw(&[NO_COMMAND, 0]).end());
                let done = context.execbuf().batch_at(&bad, place(&bad)).fence_out().submit();
                let fence = done.expect("it is legal").fence.expect("it was asked for");
                assert_eq!(fence.wait(Some(PATIENCE)).expect("the daemon lives"), LOST);
            } else {
                let gated = Gated::submit(context, &[], true);
                assert_eq!(hangs(context), 0, "it waits");
                assert_eq!(gated.ends(), LOST);
            }
            assert_eq!(hangs(context), 1, "round {round}, context {dead}");
            assert_eq!(hangs(&bystander), 0);
        }
        counted.becomes_silent("all is over", || {
            contexts.iter().for_each(|context| assert_eq!(hangs(context), 1));
        });
    }
    daemon.assert_unharmed();
}

/// The words of a page, read as a client in another language might.
fn read(page: &OwnedFd, word: u64) -> u64 {
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::pread(page, &mut bytes, word), Ok(8));
    u64::from_ne_bytes(bytes)
}

fn share(client: &mut Raw) -> OwnedFd {
    let Reply::SharedStatus(shared) = client.call(Request::SharedStatus).reply() else {
        panic!("SHARED_STATUS was answered as something else")
    };
    shared.fd
}

#[test]
fn a_session_has_one_page_that_it_cannot_write_and_that_ends_with_it() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let mut client = daemon.client("greedy");
    let page = share(&mut client);
    for _ in 0..1000 {
        let refusal = client.call(Request::SharedStatus).refusal();
        assert_eq!((refusal.name.as_str(), refusal.errno), ("shared-status-given", 16));
    }
    let with = daemon.footprint();
    let modest = daemon.client("modest");
    assert_eq!(daemon.footprint().fds - with.fds, with.fds - before.fds, "none is for the page");
    drop(modest);

    let all = flag::BUFFERS | flag::RESETS | flag::RESETS_FIRST;
    assert_eq!((read(&page, word::VERSION), read(&page, word::FLAGS)), (VERSION, all));
    assert!(BYTES <= rustix::fs::fstat(&page).map_or(0, |stat| stat.st_size.unsigned_abs()));
    let again = File::from(page.try_clone().expect("fds are left"));
    let mapped = MmapRegion::<()>::from_file(FileOffset::new(again, 0), 4096);
    assert!(mapped.is_err(), "readable and writable");
    assert!(rustix::io::pwrite(&page, &[1], word::FLAGS).is_err());
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&page));
    let reopened = File::options().read(true).write(true).open(own).expect("it is ours to open");
    assert!(rustix::io::pwrite(&reopened, &[1], word::FLAGS).is_err());
    let mapped = MmapRegion::<()>::from_file(FileOffset::new(reopened, 0), 4096);
    assert!(mapped.is_err(), "readable and writable");

    // What is refused does not count, and what is done where it is submitted is over with the answer.
    let batch = client.create_buffer(4096);
    batch.write(0, &gpu_broker_tests::Batch::new().end().bytes());
    let mut head = ExecbufHead { flags: exec_flag::NO_RELOC, ..ExecbufHead::default() };
    for count in 1..=3 {
        drop(client.execbuf(&head, &[batch.pinned(BATCH)], &[]).executed());
        let counts = (read(&page, word::RETIRED), read(&page, word::SUBMITTED));
        assert_eq!(counts, (count, count));
        head.context = 99;
        let _ = client.execbuf(&head, &[batch.pinned(BATCH)], &[]).refusal();
        head.context = 0;
        assert_eq!(read(&page, word::SUBMITTED), count);
    }
    // A context that is gone has no answer any more.
    let context = client.create_context();
    let resets = read(&page, word::RESETS);
    drop(client.call(Request::ContextDestroy(ContextDestroy { context, pad: 0 })).reply());
    assert_ne!(read(&page, word::RESETS), resets);

    drop((client, batch));
    eventually("the session is gone", || (read(&page, word::FLAGS) == 0).then_some(()));
    daemon.settles_to(&before);
    // Others are told before they hear of it.
    let mut client = daemon.client("told");
    let page = share(&mut client);
    daemon.terminate();
    let Message::Epitaph(_) = client.receive() else { panic!("it is told") };
    assert_eq!(read(&page, word::FLAGS), 0);
}

/// The privilege to see the resets of others comes and goes with the configuration.
#[test]
fn who_sees_the_devices_resets_asks() {
    let builder = Builder::new();
    let config = builder.socket().with_file_name("config.toml");
    let daemon = builder.start();
    let mut client = daemon.client("sees");
    let page = share(&mut client);
    let reload = |sees: bool| {
        let text = format!("[[class]]\nname = \"default\"\nrights.reset_count = {sees}\n");
        std::fs::write(&config, text).expect("ours");
        daemon.signal(Signal::HUP);
        eventually("it is read", || {
            let flags = read(&page, word::FLAGS);
            assert_ne!(flags & flag::BUFFERS, 0, "that stays");
            ((flags & flag::RESETS == 0) == sees).then_some(())
        });
    };
    reload(true);
    let flags = read(&{ share(&mut daemon.client("began later")) }, word::FLAGS);
    assert_eq!(flags & flag::RESETS, 0);
    reload(false);
    reload(true);
}

/// A buffer and the fences of all submissions that named it, those of the other session too.
struct Modelled {
    buffer: Buffer,
    theirs: Option<Buffer>,
    fences: Vec<Fence>,
}

impl Modelled {
    fn is_idle(&self) -> bool {
        let over = |fence: &Fence| fence.status().expect("ours") != FenceState::Pending;
        self.fences.iter().all(over)
    }
}

struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with SHARED_STATUS_SEED={}", self.0);
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("SHARED_STATUS_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(now.expect("after 1970").as_nanos() & u128::from(u64::MAX)).expect("masked")
    })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((word >> 33) % end as u64).expect("less than an end")
    }
}

/// A session at work, another beside it, and what both did.
struct World<'a> {
    counted: &'a Counted,
    other: Connection,
    contexts: [Context; 3],
    /// The fences of batches that die, by context.
    deaths: [Vec<Fence>; 3],
    buffers: Vec<Modelled>,
    gated: Vec<Gated>,
    quick: Buffer,
    /// Answers without a message: about buffers, and about contexts.
    silent: [u64; 2],
}

impl<'a> World<'a> {
    fn new(daemon: &Daemon, counted: &'a Counted) -> Self {
        let broker = counted.broker();
        // Not the copy engine: the kernel parses its commands, and would refuse a bad one.
        let engines = [class::RENDER, class::VIDEO, class::VIDEO_ENHANCE];
        let slots = engines.map(|class| EngineId { class, instance: 0 });
        Self {
            counted,
            other: Connection::connect(daemon.socket(), "other").expect("the daemon serves"),
            contexts: slots.map(|slot| broker.context().engines(&[slot]).create().expect("room")),
            deaths: Default::default(),
            buffers: Vec::new(),
            gated: Vec::new(),
            quick: program(broker, Batch::new().noop().end()),
            silent: [0, 0],
        }
    }

    fn step(&mut self, random: &mut Random) {
        const DEATHS: usize = 2;
        let dup = |fence: &Fence| Fence::from(fence.as_fd().try_clone_to_owned().expect("fds"));
        let count = self.buffers.len();
        let at = random.below(count.max(1));
        let which = random.below(self.contexts.len());
        let (context, some) = (&self.contexts[which], self.buffers.get_mut(at));
        match (random.below(16), some) {
            (0 | 1, _) if count < 20 => {
                let buffer = buffer(self.counted.broker());
                self.buffers.push(Modelled { buffer, theirs: None, fences: Vec::new() });
            }
            (2, Some(_)) => drop(self.buffers.swap_remove(at)),
            (3, Some(one)) if random.below(4) == 0 => {
                let exported = one.buffer.export().expect("fds are left");
                one.theirs = Some(self.other.import_buffer(exported).expect("it is one"));
            }
            (4..=6, Some(one)) if self.gated.len() < 6 => {
                let dies = random.below(8) == 0 && self.deaths[which].len() < DEATHS;
                let work = Gated::submit(context, &[&one.buffer], dies);
                one.fences.push(dup(&work.fence));
                if dies {
                    self.deaths[which].push(dup(&work.fence));
                }
                self.gated.push(work);
            }
            (7, Some(Modelled { theirs: Some(theirs), fences, .. })) if self.gated.len() < 6 => {
                let work = Gated::submit(&self.other.default_context(), &[theirs], false);
                fences.push(dup(&work.fence));
                self.gated.push(work);
            }
            (8, Some(one)) => {
                let work = context.execbuf().object_at(&one.buffer, place(&one.buffer)).write();
                let done = work.batch_at(&self.quick, place(&self.quick)).fence_out().submit();
                one.fences.push(done.expect("legal").fence.expect("it was asked for"));
            }
            (9 | 10, _) if !self.gated.is_empty() => {
                let done = self.gated.swap_remove(random.below(self.gated.len()));
                done.open();
                if random.below(2) == 0 {
                    done.fence.wait(Some(Duration::from_millis(1))).expect("the daemon lives");
                }
            }
            (_, _) => {}
        }
    }

    fn check(&mut self) {
        for one in &mut self.buffers {
            let before = one.is_idle();
            let mut said = 0;
            self.silent[0] += u64::from(self.counted.answers(|| said = busy(&one.buffer)) == 0);
            if before {
                assert_eq!(said, 0, "all have signalled");
            }
            if said == 0 {
                // An fd may tell it a moment later; of what waits at a closed gate it never would.
                for fence in one.fences.drain(..) {
                    let state = fence.wait(Some(PATIENCE)).expect("the daemon lives");
                    assert_ne!(state, FenceState::Pending, "it is said to be idle");
                }
            }
        }
        for (context, deaths) in self.contexts.iter().zip(&self.deaths) {
            let known = deaths.iter().filter(|fence| fence.status().expect("ours") == LOST).count();
            let mut said = 0;
            self.silent[1] += u64::from(self.counted.answers(|| said = hangs(context)) == 0);
            assert!((known..=deaths.len()).contains(&(said as usize)), "{said}, not {known}");
        }
    }
}

/// Several engines, buffers that come, go and are given away, another session, batches that die: what
/// is said of a buffer is what the fences of those who named it say, and what is said of a context is
/// what the fences of its batches say.
#[test]
fn whatever_is_said_the_fences_agree() {
    let seed = Seed(seed());
    let mut random = Random(seed.0);
    let daemon = Daemon::start();
    let counted = Counted::connect(&daemon, "random");
    let mut world = World::new(&daemon, &counted);
    for _ in 0..1000 {
        world.step(&mut random);
        world.check();
    }
    let silent = world.silent;
    assert!(silent.iter().all(|count| *count > 500), "it was hardly tried: {silent:?}");
    world.gated.iter().for_each(Gated::open);
}
