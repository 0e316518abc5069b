//! What becomes of work whose context or session is gone (rule table §9).

use gpu_broker_client::gen9::{Batch, Compare};
use gpu_broker_client::{Buffer, Connection, Fence, FenceState};
use gpu_broker_protocol::param::{ContextParam, number};
use gpu_broker_tests::{Daemon, Witness, eventually};

use super::*;

/// Clients that are killed while their batches run: nothing of theirs stays, whatever they left
/// running, and however much of it.
#[test]
fn a_killed_client_leaves_nothing_running() {
    on_daemon(|daemon| {
        let witness = Witness::start(daemon.socket());
        let mut clients = [
            // Ends when the session does.
            Spinner::start(daemon, RENDER, &["revoked", "behind=8"]),
            Spinner::start(daemon, COPY, &["revoked", "stubborn", "behind=8"]),
            // Runs on, until it is found to hang; its queue must not take a time limit each.
            Spinner::start(daemon, VIDEO, &["stubborn", "behind=8"]),
            // Is starved by nobody but the time limit of the one before.
            Spinner::start(daemon, VIDEO, &["revoked", "priority=-500"]),
        ];
        for client in &mut clients[..3] {
            client.goes_on();
        }
        let before = faults(daemon);
        clients.iter_mut().for_each(Spinner::kill);
        witness.goes_on();
        witness.finish();
        let is_idle = || daemon.status().engines.iter().all(|engine| engine.queued == 0);
        eventually("the engines are idle", || is_idle().then_some(()));
        // The persistent one hangs, the eight behind it are ended with it. One more of each may
        // have hung in the moment in which the clients were killed.
        let more = faults(daemon).into_iter().zip(before).map(|(after, before)| after - before);
        let hung: Vec<_> = more.collect();
        let within = hung.iter().zip([0, 1, 2, 0, 0]).all(|(hung, most)| *hung <= most);
        // Who hangs after its session is not counted by i915: its file is closed.
        let counted = hung[2] > 0 || !daemon.is_soft();
        assert!(within && counted, "batches of dead clients that hung, by engine: {hung:?}");
    });
}

/// Clients that are killed while the GPU writes memory of theirs, which goes with them, unannounced:
/// the work goes on harming nobody until it is ended, and then the pages are nobody's.
#[test]
fn a_killed_client_takes_its_own_memory_along() {
    on_daemon(|daemon| {
        let witness = Witness::start(daemon.socket());
        for _ in 0..3 {
            let mut clients = [
                Spinner::start(daemon, RENDER, &["revoked", "own", "behind=4"]),
                Spinner::start(daemon, VIDEO, &["stubborn", "own"]),
            ];
            for client in &mut clients {
                client.goes_on();
            }
            clients.iter_mut().for_each(Spinner::kill);
            witness.goes_on();
            let is_idle = || daemon.status().engines.iter().all(|engine| engine.queued == 0);
            eventually("the engines are idle", || is_idle().then_some(()));
        }
        witness.finish();
    });
}

/// A session with work that waits for its gate to be opened, on memory of somebody who stays.
struct Waiting {
    gate: Buffer,
    result: Buffer,
    fence: Fence,
}

/// The ring of the copy engine in the legacy map.
const LEGACY_COPY: u32 = 3;

impl Waiting {
    /// `owner` keeps the memory; `how` submits and gives everything else up.
    fn new(
        daemon: &Daemon,
        owner: &Connection,
        how: impl FnOnce(Connection, [&Buffer; 3]) -> Fence,
    ) -> Self {
        let (gate, result) = (page(owner), page(owner));
        let broker = connect(daemon, "waiting");
        let imported = [shared(&gate, &broker), shared(&result, &broker)];
        let mut commands = Batch::new();
        commands.semaphore_wait(GATE, Compare::Equal, 1).store_dword(TARGET, 9).end();
        let batch = program(&broker, &commands);
        let fence = how(broker, [&imported[0], &imported[1], &batch]);
        Self { gate, result, fence }
    }

    /// Opens the gate, and answers how the work ended and what it wrote.
    fn open(&self) -> (FenceState, u32) {
        write(&self.gate, 0, 1);
        (outcome(&self.fence), read(&self.result, 0))
    }
}

/// Submits to a context and destroys it.
fn destroyed(persistent: bool) -> impl FnOnce(Connection, [&Buffer; 3]) -> Fence {
    move |broker, [gate, result, batch]| {
        let context = broker.context().engines(&[COPY]).persistence(persistent);
        let context = context.create().expect("there is room");
        let work = context.execbuf().object_at(gate, GATE).object_at(result, TARGET).write();
        let fence = submit(work.batch(batch));
        context.destroy().expect("it is ours");
        broker.ping(1).expect("the session goes on");
        fence
    }
}

/// Submits to the default context, which only goes with the session, and leaves.
fn left(persistent: bool) -> impl FnOnce(Connection, [&Buffer; 3]) -> Fence {
    move |broker, [gate, result, batch]| {
        let context = broker.default_context();
        let param = ContextParam::scalar(number::PERSISTENCE, persistent.into());
        context.set_param(param).expect("it can be set on a live context");
        let work = context.execbuf().engine(LEGACY_COPY);
        let work = work.object_at(gate, GATE).object_at(result, TARGET).write();
        submit(work.batch(batch))
    }
}

/// Persistent work outlives its context and its session; it completes, and says so.
#[test]
fn persistent_work_runs_to_its_end() {
    on_daemon(|daemon| {
        let owner = connect(daemon, "owner");
        let work = [
            Waiting::new(daemon, &owner, destroyed(true)),
            Waiting::new(daemon, &owner, left(true)),
        ];
        std::thread::sleep(BREATH);
        for waiting in &work {
            assert_eq!(state(&waiting.fence), FenceState::Pending, "it goes on waiting");
        }
        for waiting in &work {
            assert_eq!(waiting.open(), (FenceState::Signalled, 9));
        }
    });
}

/// Work that is not persistent ends with its context or session: its fence says so, and what it
/// would have written is never written.
#[test]
fn work_that_is_not_persistent_is_revoked() {
    on_daemon(|daemon| {
        let owner = connect(daemon, "owner");
        let work = [
            Waiting::new(daemon, &owner, destroyed(false)),
            Waiting::new(daemon, &owner, left(false)),
        ];
        for waiting in &work {
            assert_eq!(outcome(&waiting.fence), LOST, "before anybody opened its gate");
            assert_eq!(faults(daemon), [0; 5], "it ended at its time limit instead");
            assert_eq!(waiting.open(), (LOST, 0));
        }
        // Whatever still ran would have run before this, which is on the same engine.
        let context = owner.context().engines(&[COPY]).create().expect("there is room");
        let batch = program(&owner, Batch::new().end());
        assert_eq!(outcome(&submit(context.execbuf().batch(&batch))), FenceState::Signalled);
        for waiting in &work {
            assert_eq!(read(&waiting.result, 0), 0, "revoked work ran on");
        }
    });
}

/// A buffer that revoked work used is free for who waits for it, in another session.
#[test]
fn who_waits_for_revoked_work_goes_on() {
    on_daemon(|daemon| {
        let owner = connect(daemon, "owner");
        let revoked = |broker: Connection, buffers: [&Buffer; 3]| {
            let submitted = destroyed(false)(broker, buffers);
            assert_eq!(outcome(&submitted), LOST);
            submitted
        };
        let waiting = Waiting::new(daemon, &owner, revoked);
        let context = owner.context().engines(&[RENDER]).create().expect("there is room");
        let batch = program(&owner, Batch::new().store_dword(TARGET, 21).end());
        let work = context.execbuf().fence_in(&waiting.fence);
        let work = work.object_at(&waiting.result, TARGET).write();
        assert_eq!(outcome(&submit(work.batch(&batch))), FenceState::Signalled);
        assert_eq!(read(&waiting.result, 0), 21);
    });
}
