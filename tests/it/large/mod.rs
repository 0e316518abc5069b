//! Submissions that no message has room for: through the Rust clients, the C library and the preload,
//! and what is sent when little of them is new.

use std::path::Path;
use std::time::Duration;

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Buffer, Connection, Context, Error, Execbuf, r#async};
use gpu_broker_protocol::Violation;
use gpu_broker_protocol::execbuf::{
    ExecObject, ExecbufHead, ExecbufLists, Relocation, flag, object_flag,
};
use gpu_broker_protocol::limits::{EXECBUF_LIST_BYTES_MAX, UNPINNED_PER_EXECBUF_MAX};
use gpu_broker_tests::relay::{Traffic, relay};
use gpu_broker_tests::{Daemon, binaries};

use crate::capi;

const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));
/// Where the GPU stores.
const TARGET: u64 = 0x20_0000;
/// As many as can lie anywhere.
const MANY: usize = UNPINNED_PER_EXECBUF_MAX as usize;

/// A context, buffers that nothing is in, and a batch that stores into a target.
struct Stage {
    context: Context,
    buffers: Vec<Buffer>,
    target: Buffer,
    batch: Buffer,
}

impl Stage {
    fn new(broker: &Connection, buffers: usize) -> Self {
        let create = |_| broker.create_buffer(4096).expect("there is room");
        let context = broker.context().create().expect("there is room");
        let (buffers, target, batch) = ((0..buffers).map(create).collect(), create(0), create(0));
        Self { context, buffers, target, batch }
    }

    fn writes(&self, value: u32) {
        let mut commands = Batch::new();
        commands.store_dword(TARGET, value).end();
        let memory = self.batch.map().expect("fds are left");
        memory.write_dwords(0, commands.dwords()).expect("it fits");
    }

    /// All buffers, the target and the batch.
    fn work(&self) -> Execbuf<'_> {
        let work = self.buffers.iter().fold(self.context.execbuf(), Execbuf::object);
        work.object_at(&self.target, TARGET).write().batch(&self.batch)
    }

    fn stored(&self) -> u32 {
        assert!(self.target.wait(PATIENCE).expect("the daemon answers"), "the batch ends");
        self.target.map().expect("fds are left").load_u32(0).expect("it is inside")
    }
}

fn connect(daemon: &Daemon, name: &str) -> Connection {
    Connection::connect(daemon.socket(), name).expect("the daemon serves")
}

#[test]
fn as_many_objects_as_an_answer_has_addresses_for() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let broker = connect(&daemon, "many");
    let stage = Stage::new(&broker, MANY - 2);
    stage.writes(7);
    let mut work = stage.work().fence_out();
    let submission = work.submit().expect("it is all legal");
    let fence = submission.fence.expect("a fence was asked for");
    fence.wait(PATIENCE).expect("the daemon lives");
    assert_eq!(stage.stored(), 7);
    let mut addresses = submission.offsets;
    assert_eq!((addresses.len(), addresses[MANY - 2]), (MANY, TARGET), "one of each");
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), MANY, "all apart");

    // The same again waits for nothing that is gone, and one more must be pinned.
    stage.writes(8);
    work.submit().expect("nothing has changed");
    assert_eq!(stage.stored(), 8);
    let more = broker.create_buffer(4096).expect("there is room");
    let refused = stage.work().object(&more).submit().expect_err("no room for its address");
    let refusal = refused.refusal().expect("a refusal");
    assert_eq!((refusal.errno, refusal.name.as_str()), (22, "exec-unpinned"));
    drop(work);
    drop((fence, more, stage, broker));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// A Vulkan driver pins what it has.
#[test]
fn pinned_objects_are_as_many_as_there_are_buffers() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "pinned");
    let stage = Stage::new(&broker, 9000);
    stage.writes(9);
    let mut work = stage.context.execbuf();
    for (buffer, at) in stage.buffers.iter().zip(0_u64..) {
        work = work.object_at(buffer, (1 << 32) + at * 8192);
    }
    work = work.object_at(&stage.target, TARGET).write().batch_at(&stage.batch, 0x40_0000);
    let submission = work.submit().expect("every one is pinned");
    assert!(submission.offsets.is_empty(), "where they were told to be");
    assert_eq!(stage.stored(), 9);
    daemon.assert_unharmed();
}

#[test]
fn ten_thousand_relocations() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "relocated");
    let stage = Stage::new(&broker, 100);
    // The batch is 40 pages of nothing but addresses, behind its commands.
    let batch = broker.create_buffer(128 * 1024).expect("there is room");
    let mut commands = Batch::new();
    commands.store_dword(TARGET, 10).end();
    batch.map().expect("fds").write_dwords(0, commands.dwords()).expect("it fits");
    let mut work = stage.buffers.iter().fold(stage.context.execbuf(), Execbuf::object);
    work = work.object_at(&stage.target, TARGET).write().batch(&batch);
    for index in 0..10_000_u32 {
        let target = &stage.buffers[index as usize % stage.buffers.len()];
        work = work.relocate(4096 + u64::from(index) * 8, target, index);
    }
    let submission = work.submit().expect("it is all legal");
    assert_eq!(stage.stored(), 10);
    let memory = batch.map().expect("fds are left");
    for index in 0..10_000_u32 {
        let at = submission.offsets[index as usize % stage.buffers.len()] + u64::from(index);
        let written = memory.load_u64(4096 + u64::from(index) * 8).expect("it is inside");
        assert_eq!(written, at, "relocation {index}");
    }
    daemon.assert_unharmed();
}

#[tokio::test]
async fn the_asynchronous_client_too() {
    let daemon = Daemon::start();
    let broker = r#async::Connection::connect(daemon.socket(), "async").await.expect("it serves");
    let mut buffers = Vec::new();
    for _ in 0..3000 {
        buffers.push(broker.create_buffer(4096).await.expect("there is room"));
    }
    let batch = buffers.pop().expect("there are some");
    let mut commands = Batch::new();
    commands.end();
    let memory = batch.map().await.expect("fds are left");
    memory.write_dwords(0, commands.dwords()).expect("it fits");
    let context = broker.context().create().await.expect("there is room");
    let mut work = buffers.iter().fold(context.execbuf(), |work, buffer| work.object(buffer));
    work = work.batch(&batch);
    let first = work.submit().await.expect("it is all legal");
    assert_eq!(first.offsets.len(), 3000);
    // Given up while it is on its way, whatever had arrived: the next is right again.
    for polls in 1..6 {
        let mut cut = Box::pin(work.submit());
        for _ in 0..polls {
            let _ = futures_poll(cut.as_mut()).await;
        }
        drop(cut);
        let again = work.submit().await.expect("it is all legal");
        assert_eq!(again.offsets, first.offsets);
    }
}

/// Polls once.
async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

/// Submits so often, each time with one object asking for another address; answers what was sent.
fn traffic(daemon: &Daemon, directory: &Path, changed: u64) -> Traffic {
    let socket = directory.join(format!("relay-{changed}"));
    let relay = relay(&socket, daemon.socket(), || ());
    let broker = Connection::connect(&socket, "counted").expect("the daemon serves");
    let stage = Stage::new(&broker, 3998);
    stage.writes(3);
    let handle = |buffer: &Buffer| ExecObject {
        handle: buffer.handle().0,
        flags: object_flag::SUPPORTS_48B | object_flag::PINNED,
        ..ExecObject::default()
    };
    let mut objects: Vec<ExecObject> =
        stage.buffers.iter().chain([&stage.target, &stage.batch]).map(handle).collect();
    for (object, at) in objects.iter_mut().zip(0..) {
        object.offset = (1 << 32) + at * 8192;
    }
    objects[3998].offset = TARGET;
    let head = ExecbufHead {
        context: stage.context.id().0,
        flags: flag::NO_RELOC | flag::HANDLE_LUT,
        ..ExecbufHead::default()
    };
    for round in 0..=changed {
        objects[2000].offset = (1 << 40) + round * 4096;
        let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
        broker.execbuf(&head, &lists, None).expect("it is all legal");
    }
    assert_eq!(stage.stored(), 3);
    drop((stage, broker));
    relay.join().expect("no panic")
}

#[test]
fn of_a_submission_that_was_there_before_only_what_is_new_is_sent() {
    let mut daemon = Daemon::start();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (first, second) =
        (traffic(&daemon, directory.path(), 0), traffic(&daemon, directory.path(), 10));
    let more = |of: fn(&Traffic) -> u64| of(&second) - of(&first);
    // A header, a list's, an edit and one word: of 192 000 bytes.
    assert_eq!(more(|traffic| traffic.to_daemon), 10 * (8 + 32 + 8 + 8));
    assert_eq!(more(|traffic| traffic.to_client), 10 * (8 + 8));
    assert!(first.to_daemon > 4000 * 48, "the first time everything");
    daemon.assert_unharmed();
}

#[test]
fn five_contexts_share_four_lists_and_threads_take_turns() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "threads");
    let stages: Vec<Stage> = (0..5).map(|_| Stage::new(&broker, 500)).collect();
    std::thread::scope(|scope| {
        for (stage, value) in stages.iter().zip(100..) {
            scope.spawn(move || {
                for round in 0..20 {
                    stage.writes(value + round);
                    stage.work().submit().expect("it is all legal");
                    assert_eq!(stage.stored(), value + round);
                }
            });
        }
    });
    daemon.assert_unharmed();
}

#[test]
fn what_no_list_holds_is_not_sent() {
    let daemon = Daemon::start();
    let broker = connect(&daemon, "endless");
    let context = broker.context().create().expect("there is room");
    let objects = vec![ExecObject::default(); EXECBUF_LIST_BYTES_MAX / 48 + 1];
    let head = ExecbufHead { context: context.id().0, ..ExecbufHead::default() };
    let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
    let error = broker.execbuf(&head, &lists, None).expect_err("too long");
    assert!(matches!(error, Error::Unsendable(Violation::TooLong)), "{error}");
    // One that a list holds is refused by the rules.
    let relocations = vec![Relocation::default(); 40_000];
    let batch = ExecObject { handle: 1, relocation_count: 40_000, ..ExecObject::default() };
    let lists =
        ExecbufLists { objects: &[batch], relocations: &relocations, ..ExecbufLists::default() };
    let error = broker.execbuf(&head, &lists, None).expect_err("too many");
    assert_eq!(error.refusal().expect("a refusal").name, "relocation-invalid");
    let objects: Vec<ExecObject> =
        (1..=16_385).map(|handle| ExecObject { handle, ..ExecObject::default() }).collect();
    let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
    let error = broker.execbuf(&head, &lists, None).expect_err("too many");
    assert_eq!(error.refusal().expect("a refusal").name, "exec-count");
}

#[test]
fn from_c() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let source = binaries::repository().join("tests/it/large/many.c");
    let program = capi::compile_source(directory.path(), &source);
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let output = capi::run(&program, daemon.socket());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "8190 objects, 10000 relocations\n");
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}
