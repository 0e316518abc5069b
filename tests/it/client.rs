//! The client library against a real daemon.

use std::os::fd::AsFd as _;
use std::time::Duration;

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Connection, Error};
use gpu_broker_protocol::EpitaphCode;
use gpu_broker_protocol::message::FenceState;
use gpu_broker_protocol::param::{EngineId, EngineMap, class};
use gpu_broker_protocol::status::{ContextState, MaterialisedBy};
use gpu_broker_tests::Daemon;

const RENDER: EngineId = EngineId { class: class::RENDER, instance: 0 };
const COPY: EngineId = EngineId { class: class::COPY, instance: 0 };
const TARGET: u64 = 0x20_0000;

fn connect(daemon: &Daemon, name: &str) -> Connection {
    Connection::connect(daemon.socket(), name).expect("the daemon serves")
}

/// From HELLO to a result in memory, with every object the library has.
#[test]
fn a_program_from_beginning_to_end() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let broker = connect(&daemon, "program");
    let device = broker.device().expect("the daemon answers");
    assert_eq!((device.vendor_id, device.device_id), (0x8086, 0x5926), "{device:?}");
    assert_eq!(device.engines.len(), 5);

    let vm = broker.create_vm().expect("there is room");
    let map = EngineMap { slots: vec![EngineId::GAP, COPY, RENDER], extensions: Vec::new() };
    let context =
        broker.context().vm(&vm).engine_map(map).priority(-3).create().expect("it is all legal");
    let target = broker.create_buffer(4096).expect("there is room");
    let batch = broker.create_buffer(4096).expect("there is room");
    let memory = batch.map().expect("fds are left");
    let mut commands = Batch::new();
    commands.store_dword(TARGET, 0x1234_5678).end();
    memory.write_dwords(0, commands.dwords()).expect("it fits");

    let mut work =
        context.execbuf().engine(2).object_at(&target, TARGET).write().batch(&batch).fence_out();
    let submission = work.submit().expect("it is all legal");
    let fence = submission.fence.expect("a fence was asked for");
    let state = fence.wait(Some(Duration::from_secs(60))).expect("the daemon lives");
    assert_eq!(state, FenceState::Signalled);
    assert_eq!(fence.status_from(&broker).expect("it is the daemon's"), FenceState::Signalled);
    let result = target.map().expect("fds are left").load_u32(0).expect("it is inside");
    assert_eq!(result, 0x1234_5678);
    assert!(target.wait(Some(Duration::ZERO)).expect("the daemon answers"), "idle by now");

    // Slot 0 is a gap.
    let gap = context.execbuf().engine(0).batch(&batch).submit().expect_err("no engine there");
    assert_eq!(gap.errno(), 22, "{gap}");
    assert_eq!(context.priority().expect("it is live"), -3);
    drop(work);
    drop((fence, context, vm, memory, target, batch, broker));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// The daemon's own view of a context's life: a record until something needs the real one.
#[test]
fn a_context_stays_proto_until_it_is_needed() {
    let daemon = Daemon::start();
    let broker = connect(&daemon, "life");
    let state = |id: u32| {
        let status = broker.status().expect("the daemon answers");
        let mine = status.sessions.into_iter().find(|session| session.client_name == "life");
        let contexts = mine.expect("we are connected").contexts;
        contexts.into_iter().find(|context| context.context.0 == id).map(|context| context.state)
    };
    assert_eq!(state(0), Some(ContextState::Live { by: MaterialisedBy::Open }));
    let [used, asked, counted, never] =
        std::array::from_fn(|_| broker.context().create().expect("there is room"));
    for context in [&used, &asked, &counted, &never] {
        context.set_priority(-7).expect("lowering is everyone's right");
        context.set_engines(EngineMap { slots: vec![COPY], extensions: Vec::new() }).expect("fine");
        assert_eq!(state(context.id().0), Some(ContextState::Proto), "SETPARAM does not need it");
    }
    let batch = broker.create_buffer(4096).expect("there is room");
    let mut commands = Batch::new();
    batch.map().expect("fds are left").write_dwords(0, commands.end().dwords()).expect("fits");
    used.execbuf().batch(&batch).submit().expect("slot 0 is the blitter");
    assert_eq!(state(used.id().0), Some(ContextState::Live { by: MaterialisedBy::Execbuf }));
    assert_eq!(asked.priority().expect("it answers"), -7);
    assert_eq!(state(asked.id().0), Some(ContextState::Live { by: MaterialisedBy::GetParam }));
    counted.reset_stats().expect("it answers");
    assert_eq!(state(counted.id().0), Some(ContextState::Live { by: MaterialisedBy::ResetStats }));
    // What is immutable on a live context is refused there, and only there.
    let late = used.set_engines(EngineMap::default()).expect_err("ENGINES is frozen");
    assert_eq!(late.refusal().map(|refusal| refusal.name.as_str()), Some("param-frozen"));
    let id = never.id().0;
    never.destroy().expect("it is ours");
    assert_eq!(state(id), None, "destroyed while still proto");
}

/// Threads share a connection: one waits for the GPU, the others go on.
#[test]
fn a_wait_in_one_thread_does_not_hold_up_another() {
    let daemon = Daemon::start();
    let broker = connect(&daemon, "threads");
    let context = broker.context().create().expect("there is room");
    let batch = broker.create_buffer(4096).expect("there is room");
    let memory = batch.map().expect("fds are left");
    let mut spinner = Batch::new();
    spinner.spinner(TARGET, true);
    memory.write_dwords(0, spinner.dwords()).expect("it fits");
    // It spins until the dword at its beginning is 0, and starts behind that.
    let length = u32::try_from(spinner.bytes()).expect("a few commands") - 8;
    let work = context.execbuf().batch_at(&batch, TARGET);
    work.batch_bytes(8, length).submit().expect("it is all legal");
    let busy = broker.create_buffer(4096).expect("there is room");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| batch.wait(Some(Duration::from_secs(60))));
        for payload in 0..1000 {
            assert_eq!(broker.ping(payload).expect("the daemon answers"), payload);
            assert!(busy.wait(Some(Duration::ZERO)).expect("the daemon answers"));
        }
        assert!(!waiting.is_finished(), "the spinner ended by itself");
        memory.store_u32(0, 0).expect("it is inside");
        assert!(waiting.join().expect("no panic").expect("the daemon answers"), "timed out");
    });
}

/// Work behind a fence starts after it, across contexts and engines, and merged fences are one.
#[test]
fn fences_order_work_and_can_be_merged() {
    let daemon = Daemon::start();
    let broker = connect(&daemon, "fences");
    let gate = broker.create_buffer(4096).expect("there is room");
    let result = broker.create_buffer(4096).expect("there is room");
    let (gate_at, result_at) = (0x30_0000, 0x40_0000);
    let buffer_with = |commands: &Batch| {
        let buffer = broker.create_buffer(4096).expect("there is room");
        buffer.map().expect("fds").write_dwords(0, commands.dwords()).expect("it fits");
        buffer
    };
    let mut first = Batch::new();
    let equal = gpu_broker_client::gen9::Compare::Equal;
    first.semaphore_wait(gate_at, equal, 1).store_dword(result_at, 1).end();
    let mut second = Batch::new();
    second.copy_dword(result_at + 4, result_at).end();
    let (first, second) = (buffer_with(&first), buffer_with(&second));
    let contexts = [RENDER, COPY]
        .map(|engine| broker.context().engines(&[engine]).create().expect("there is room"));
    let submit = |context: usize, batch, after: Option<&gpu_broker_client::Fence>| {
        // Without implicit order between the two: only the fence holds the second back.
        let asynchronous = gpu_broker_protocol::execbuf::object_flag::ASYNC;
        let raw = |buffer: &gpu_broker_client::Buffer, address| {
            use gpu_broker_protocol::execbuf::object_flag::{PINNED, SUPPORTS_48B, WRITE};
            gpu_broker_protocol::execbuf::ExecObject {
                handle: buffer.handle().0,
                offset: address,
                flags: asynchronous | PINNED | SUPPORTS_48B | WRITE,
                ..Default::default()
            }
        };
        let work = contexts[context].execbuf();
        let work = work.object_raw(raw(&gate, gate_at)).object_raw(raw(&result, result_at));
        let mut work = work.batch(batch).fence_out();
        if let Some(fence) = after {
            work = work.fence_in(fence);
        }
        work.submit().expect("it is all legal").fence.expect("a fence was asked for")
    };
    let one = submit(0, &first, None);
    let two = submit(1, &second, Some(&one));
    let both = one.merge(&two, &broker).expect("both are the daemon's");
    for fence in [&one, &two, &both] {
        assert_eq!(fence.status().expect("no round trip"), FenceState::Pending);
    }
    gate.map().expect("fds").store_u32(0, 1).expect("it is inside");
    let state = both.wait(Some(Duration::from_secs(60))).expect("the daemon lives");
    assert_eq!(state, FenceState::Signalled);
    let memory = result.map().expect("fds");
    assert_eq!(memory.load_u32(4).expect("inside"), 1, "the second ran before the first");
}

/// Errors are sentences with what to do, and the epitaph arrives even behind unread replies.
#[test]
fn errors_help() {
    let daemon = Daemon::start();
    let missing = daemon.socket().with_file_name("nothing.sock");
    let error = Connection::connect(&missing, "x").expect_err("nobody listens there");
    assert!(error.to_string().contains("nothing.sock"), "{error}");
    let error = Connection::connect(daemon.socket(), &"n".repeat(65)).expect_err("too long");
    assert!(error.to_string().contains("64"), "{error}");

    let broker = connect(&daemon, "errors");
    let error = broker.create_buffer(0).expect_err("nothing to create");
    assert_eq!(error.errno(), 22, "{error}");
    let priority = broker.default_context().set_priority(1000).expect_err("not everyone's right");
    assert_eq!(priority.errno(), 1, "{priority}");
    let null = std::fs::File::open("/dev/null").expect("it exists");
    let echoed = broker.ping_fd(9, null.as_fd()).expect("the session goes on");
    drop(echoed);

    daemon.signal(rustix::process::Signal::TERM);
    let error = gpu_broker_tests::eventually("the session ends", || broker.ping(1).err());
    let Error::Ended(epitaph) = error else { panic!("the epitaph was lost: {error}") };
    assert_eq!(epitaph.code, EpitaphCode::ShuttingDown);
}
