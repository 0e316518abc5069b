//! Turns and priorities.

use gpu_broker_client::gen9::{Batch, Compare};
use gpu_broker_client::{Buffer, Connection, Fence, FenceState};
use gpu_broker_protocol::param::EngineId;
use gpu_broker_tests::Daemon;

use super::*;

/// Two batches without an end get on side by side, and the CPU can end one of them. Not on the copy
/// engine: i915 runs a copy of the batches there, which it has read before (generation 9).
#[test]
fn two_endless_batches_take_turns() {
    on_daemon(|daemon| {
        let mut first = Spinner::start(daemon, VIDEO, &[]);
        let mut second = Spinner::start(daemon, VIDEO, &[]);
        for _ in 0..3 {
            first.goes_on();
            second.goes_on();
        }
        first.end();
        let rounds = first.rounds();
        second.goes_on();
        second.goes_on();
        assert_eq!(first.rounds(), rounds, "a batch ran on after it had ended");
        second.end();
        for spinner in [&mut first, &mut second] {
            assert_eq!(spinner.ask("stats"), "0 0", "neither did anything wrong");
        }
    });
}

/// The lower priority is set aside for as long as there is something higher, and no longer.
#[test]
fn an_endless_batch_of_lower_priority_gives_way() {
    on_daemon(|daemon| {
        let mut low = Spinner::start(daemon, RENDER, &["priority=-500"]);
        low.goes_on();
        // Short ones come in between, one after the other.
        let broker = connect(daemon, "short");
        let context = broker.context().engines(&[RENDER]).create().expect("there is room");
        let target = page(&broker);
        for value in 1..=20 {
            let batch = program(&broker, Batch::new().store_dword(TARGET, value).end());
            let work = context.execbuf().object_at(&target, TARGET).write();
            assert_eq!(outcome(&submit(work.batch(&batch))), FenceState::Signalled);
            assert_eq!(read(&target, 0), value);
        }
        low.goes_on();
        // An endless one keeps the engine.
        let mut high = Spinner::start(daemon, RENDER, &[]);
        high.goes_on();
        let rounds = low.rounds();
        for _ in 0..3 {
            high.goes_on();
        }
        assert_eq!(low.rounds(), rounds, "the lower priority ran beside the higher");
        high.end();
        low.goes_on();
        low.end();
    });
}

/// A batch of the lowest priority on an engine that another keeps busy, and what it writes to.
struct Starved {
    broker: Connection,
    target: Buffer,
    fence: Fence,
}

impl Starved {
    fn new(daemon: &Daemon, engine: EngineId) -> Self {
        let broker = connect(daemon, "low");
        let context = broker.context().engines(&[engine]).priority(-500);
        let context = context.create().expect("there is room");
        let target = page(&broker);
        let batch = program(&broker, Batch::new().store_dword(TARGET, 7).end());
        let work = context.execbuf().object_at(&target, TARGET).write();
        let fence = submit(work.batch(&batch));
        Self { broker, target, fence }
    }
}

/// Who waits for a batch of low priority lends it its own: otherwise whatever lies between the two
/// would keep both from running.
#[test]
fn priority_is_inherited_by_what_is_waited_for() {
    on_daemon(|daemon| {
        let mut middle = Spinner::start(daemon, VIDEO, &["priority=-100"]);
        middle.goes_on();
        let [by_buffer, by_fence, merged, nobodys] =
            std::array::from_fn(|_| Starved::new(daemon, VIDEO));
        let broker = connect(daemon, "high");
        let context = broker.context().engines(&[RENDER]).create().expect("there is room");
        let result = page(&broker);
        let copy = program(&broker, Batch::new().copy_dword(TARGET, GATE).end());
        for starved in [&by_buffer, &by_fence, &merged, &nobodys] {
            assert_eq!(state(&starved.fence), FenceState::Pending, "the engine is taken");
        }

        let wanted = shared(&by_buffer.target, &broker);
        let work = context.execbuf().object_at(&wanted, GATE).object_at(&result, TARGET).write();
        assert_eq!(outcome(&submit(work.batch(&copy))), FenceState::Signalled);
        assert_eq!(read(&result, 0), 7, "the reader ran before the writer");
        assert_eq!(outcome(&by_buffer.fence), FenceState::Signalled);

        // Through a fence of two, one of which has to wait for a third.
        let empty = program(&by_fence.broker, Batch::new().end());
        let context_of_last = by_fence.broker.context().engines(&[VIDEO]).priority(-1023);
        let context_of_last = context_of_last.create().expect("there is room");
        let reads = context_of_last.execbuf().object_at(&by_fence.target, TARGET);
        let last = submit(reads.batch(&empty));
        let both = last.merge(&by_buffer.fence, &broker).expect("both are the daemon's");
        let both = both.merge(&merged.fence, &broker).expect("both are the daemon's");
        let empty = program(&broker, Batch::new().end());
        let work = context.execbuf().fence_in(&both).batch(&empty);
        assert_eq!(outcome(&submit(work)), FenceState::Signalled);
        assert_eq!((read(&by_fence.target, 0), read(&merged.target, 0)), (7, 7));
        assert_eq!(outcome(&last), FenceState::Signalled);

        assert_eq!(middle.ask("stats"), "0 0", "it had to be ended for the others to run");
        middle.goes_on();
        assert_eq!(state(&nobodys.fence), FenceState::Pending, "nobody lent it anything");
        middle.end();
        assert_eq!(outcome(&nobodys.fence), FenceState::Signalled);
    });
}

/// Contexts in [`a_chain_of_semaphores`]; an emulated GPU changes between contexts slowly.
fn links(daemon: &Daemon) -> u32 {
    if daemon.is_soft() { 200 } else { 50 }
}

/// Many contexts of five sessions on all engines, each waiting in memory for the one before.
#[test]
fn a_chain_of_semaphores() {
    on_daemon(|daemon| {
        let links = links(daemon);
        let brokers: [Connection; 5] =
            std::array::from_fn(|index| connect(daemon, &format!("links-{index}")));
        let board = page(&brokers[0]);
        let boards: Vec<_> = brokers.iter().map(|broker| shared(&board, broker)).collect();
        let result_of = |link: u32| u64::from(2048 + 4 * link);
        let mut contexts = Vec::new();
        let mut fences = Vec::new();
        // The last first, so that all of them wait.
        for link in (0..links).rev() {
            // Neighbours in the chain are of different sessions and on different engines.
            let (session, engine) = (link as usize % 5, ENGINES[(link / 2) as usize % 5]);
            let broker = &brokers[session];
            let at = |link: u32| GATE + u64::from(4 * link);
            let mut commands = Batch::new();
            commands.semaphore_wait(at(link), Compare::Equal, 1);
            commands.copy_dword(GATE + result_of(link), at(link));
            commands.store_dword(at(link + 1), 1).end();
            let context = broker.context().engines(&[engine]).create().expect("there is room");
            let batch = program(broker, &commands);
            let work = context.execbuf().object_at(&boards[session], GATE).write().asynchronous();
            fences.push(submit(work.batch(&batch)));
            contexts.push(context);
        }
        std::thread::sleep(BREATH);
        for fence in &fences {
            assert_eq!(state(fence), FenceState::Pending, "nothing has let the first one go");
        }
        write(&board, 0, 1);
        for fence in &fences {
            assert_eq!(outcome(fence), FenceState::Signalled);
        }
        for link in 0..links {
            assert_eq!(read(&board, result_of(link)), 1, "link {link}");
        }
        for context in contexts {
            let stats = context.reset_stats().expect("the daemon answers");
            assert_eq!((stats.batch_active, stats.batch_pending), (0, 0));
        }
    });
}
