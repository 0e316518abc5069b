//! Batches that keep an engine from everybody, and what they cost whom (rule table §11, §12).

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Buffer, Connection, Context, Fence, FenceState};
use gpu_broker_protocol::param::{EngineId, clone_flag};
use gpu_broker_protocol::refusal::errno::EIO;
use gpu_broker_tests::{Daemon, eventually};

use super::*;

/// A batch that never ends and never lets another have the engine.
fn stubborn() -> Batch {
    let mut commands = Batch::new();
    commands.noop().jump(BATCH);
    commands
}

/// A batch whose first command does not exist: as guilty as one that hangs, and sooner.
fn fault(broker: &Connection, context: &Context) {
    let batch = program(broker, Batch::new().raw(&[0xe000_0000, 0]).end());
    assert_eq!(outcome(&submit(context.execbuf().batch(&batch))), LOST);
}

/// Runs a batch that writes, and answers what was written.
fn works(broker: &Connection, context: &Context, value: u32) {
    let target = page(broker);
    let batch = program(broker, Batch::new().store_dword(TARGET, value).end());
    let work = context.execbuf().object_at(&target, TARGET).write();
    assert_eq!(outcome(&submit(work.batch(&batch))), FenceState::Signalled);
    assert_eq!(read(&target, 0), value);
}

fn is_banned(broker: &Connection, context: &Context) -> bool {
    let status = broker.status().expect("the daemon answers");
    let session = status.sessions.into_iter().find(|session| session.session == broker.session());
    let contexts = session.expect("we are connected").contexts;
    contexts.iter().any(|known| known.context == context.id() && known.banned)
}

/// An innocent session: work queued on an engine, in order.
struct Neighbour {
    context: Context,
    target: Buffer,
    fences: Vec<Fence>,
}

impl Neighbour {
    const BATCHES: u32 = 20;

    fn queue(daemon: &Daemon, engine: EngineId) -> Self {
        let broker = connect(daemon, "neighbour");
        let context = broker.context().engines(&[engine]).create().expect("there is room");
        let target = page(&broker);
        let queue = |value| {
            // Each writes its number only if the one before has written its own.
            let mut commands = Batch::new();
            let skip = 4 * (value % 2);
            commands.copy_dword(TARGET + 64 + u64::from(4 * value), TARGET + u64::from(4 - skip));
            commands.store_dword(TARGET + u64::from(skip), value).end();
            let batch = program(&broker, &commands);
            submit(context.execbuf().object_at(&target, TARGET).write().batch(&batch))
        };
        let fences = (1..=Self::BATCHES).map(queue).collect();
        Self { context, target, fences }
    }

    fn is_unharmed(&self) {
        for fence in &self.fences {
            assert_eq!(outcome(fence), FenceState::Signalled);
        }
        for value in 1..=Self::BATCHES {
            let found = read(&self.target, 64 + u64::from(4 * value));
            assert_eq!(found, value - 1, "what batch {value} found of the one before");
        }
        let stats = self.context.reset_stats().expect("the daemon answers");
        assert_eq!((stats.batch_active, stats.batch_pending), (0, 0));
    }
}

/// The culprit is reset and blamed; who was queued behind it, and who is elsewhere, is not.
#[test]
fn a_batch_that_never_yields_is_reset_and_its_neighbours_are_unharmed() {
    on_daemon(|daemon| {
        let mut culprit = Spinner::start(daemon, VIDEO, &["stubborn", "priority=-500"]);
        culprit.goes_on();
        let behind = Neighbour::queue(daemon, VIDEO);
        let beside = Neighbour::queue(daemon, VIDEO1);
        beside.is_unharmed();
        behind.is_unharmed();
        assert_eq!(culprit.ask("wait"), EIO.to_string());
        assert_eq!(culprit.ask("stats"), "1 0");
        let log = daemon.log();
        assert!(log.contains("a batch died on engine 2:0"), "who hung the GPU? {log}");
        assert_eq!(faults(daemon), [0, 0, 1, 0, 0]);
    });
}

/// Contexts that are not recoverable, as Mesa's: three hangs, and the session is over for good.
#[test]
fn three_hangs_ban_the_session_and_no_other() {
    on_daemon(|daemon| {
        let (broker, other) = (connect(daemon, "culprit"), connect(daemon, "other"));
        let early = broker.context().create().expect("there is room");
        works(&broker, &early, 10);
        let engines = [RENDER, COPY, VIDEO];
        let guilty = engines.map(|engine| {
            let context = broker.context().engines(&[engine]).recoverable(false);
            context.create().expect("nothing has happened yet")
        });
        // Two of each: the second must not cost the engine another time limit.
        let stubborn = program(&broker, &stubborn());
        let work = |context: &Context| submit(context.execbuf().batch_at(&stubborn, BATCH));
        let fences: Vec<_> = guilty.iter().flat_map(|one| [work(one), work(one)]).collect();
        for fence in &fences {
            assert_eq!(outcome(fence), LOST);
        }
        for context in &guilty {
            let stats = context.reset_stats().expect("the daemon answers");
            assert_eq!(stats.batch_active, 1, "only the first one ran");
            let refused = context.execbuf().batch(&page(&broker)).submit().expect_err("banned");
            assert_eq!(refused.errno(), EIO, "{refused}");
        }
        let refused = broker.context().create().expect_err("the fourth");
        let name = refused.refusal().map(|refusal| refusal.name.clone());
        assert_eq!((refused.errno(), name.as_deref()), (EIO, Some("session-banned")));
        // What it had before goes on, and so does everybody else.
        works(&broker, &early, 11);
        works(&other, &other.context().create().expect("another session"), 12);
        drop((early, guilty));
        broker.context().create().expect_err("the score does not fall");
        drop(broker);
        let log = daemon.log();
        assert!(!log.contains("wedged"), "a ban is not the GPU's end: {log}");
        let again = connect(daemon, "culprit");
        works(&again, &again.context().create().expect("a session of its own"), 13);
    });
}

/// A context that may recover is banned by its third fault, and only it is.
#[test]
fn a_banned_context_can_be_cloned_and_the_clone_runs() {
    on_daemon(|daemon| {
        let broker = connect(daemon, "phoenix");
        let source = broker.context().engines(&[ENHANCE, COPY]).priority(-3);
        let source = source.create().expect("there is room");
        let kept = page(&broker);
        let batch = program(&broker, Batch::new().store_dword(GATE, 5).end());
        let work = source.execbuf().engine(1).object_at(&kept, GATE).write();
        assert_eq!(outcome(&submit(work.batch(&batch))), FenceState::Signalled);
        for hangs in 1..=3 {
            assert!(!is_banned(&broker, &source), "after {} faults", hangs - 1);
            works(&broker, &source, 100 + hangs);
            fault(&broker, &source);
        }
        eventually("the ban", || is_banned(&broker, &source).then_some(()));
        let refused = source.execbuf().batch(&batch).submit().expect_err("it is banned");
        assert_eq!(refused.refusal().map(|refusal| refusal.name.as_str()), Some("context-banned"));

        let clone = broker.context().clone_from(&source, clone_flag::ALL);
        let clone = clone.create().expect("the score is below nine");
        works(&broker, &clone, 200);
        // It has the engines, the priority and the address space of its source: what the source
        // had bound has its place there.
        let result = page(&broker);
        let copy = program(&broker, Batch::new().copy_dword(TARGET, GATE).end());
        let work = clone.execbuf().engine(1).object(&kept).object_at(&result, TARGET).write();
        let work = work.batch(&copy);
        assert_eq!(outcome(&submit(work)), FenceState::Signalled);
        assert_eq!((read(&kept, 0), read(&result, 0)), (5, 5));
        assert_eq!(clone.priority().expect("it is live"), -3);
        assert!(!is_banned(&broker, &clone));
        assert_eq!(clone.reset_stats().expect("the daemon answers").batch_active, 0);
        let refused = source.execbuf().batch(&batch).submit().expect_err("it stays banned");
        assert_eq!(refused.errno(), EIO);
    });
}
