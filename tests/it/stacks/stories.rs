//! What only shows when several objects are in play: order of destruction, recovery, balancing,
//! timelines across contexts, memory shared by sessions.

use std::collections::BTreeMap;

use gpu_broker_client::gen9::{Batch, Compare, Depth, Rectangle, Surface};
use gpu_broker_client::{Buffer, Context, FenceState, SyncobjSet};
use gpu_broker_protocol::object::domain;
use gpu_broker_protocol::param::{
    ContextParam, EngineExtension, EngineMap, Extension, clone_flag, number,
};
use gpu_broker_protocol::refusal::errno::{EINVAL, EIO, ENOENT};
use gpu_broker_tests::{Daemon, eventually};

use super::*;

const GATE: u64 = 0x10_0000;
const RESULT: u64 = 0x20_0000;

/// Waits until the gate is 1, and lets others run meanwhile.
fn gated() -> Batch {
    let mut batch = Batch::new();
    batch.semaphore_wait(GATE, Compare::Equal, 1);
    batch
}

fn open(gate: &Buffer) {
    gate.map().expect("fds are left").store_u32(0, 1).expect("it is inside");
}

/// The handles go while the batch runs; its writes land all the same, and then everything is
/// given back, once.
#[test]
fn a_batch_outlives_its_context_and_its_address_space() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let broker = connect(&daemon, "outlived");
    // Again and again: what is given back twice, or not at all, adds up.
    for round in 1..=20 {
        let gate = broker.create_buffer(4096).expect("there is room");
        let result = broker.create_buffer(1 << 20).expect("there is room");
        let memory = result.map().expect("fds are left");
        let mut commands = gated();
        commands.store_dword(RESULT, round).end();
        let batch = buffer_with(&broker, &commands);
        let vm = broker.create_vm().expect("there is room");
        let context = broker.context().vm(&vm).engines(&[RENDER]).create().expect("legal");
        let mut work = context.execbuf().object_at(&gate, GATE).object_at(&result, RESULT);
        work = work.write().batch(&batch).fence_out();
        let fence = work.submit().expect("legal").fence.expect("a fence was asked for");
        let id = context.id();
        vm.destroy().expect("it is ours");
        drop(work);
        context.destroy().expect("it is ours");
        batch.close().expect("it is ours");
        result.close().expect("it is ours");
        assert_eq!(fence.status().expect("no round trip"), FenceState::Pending);
        let gone = broker.request::<std::os::fd::OwnedFd>(
            gpu_broker_protocol::Request::ContextResetStats(
                gpu_broker_protocol::message::ContextResetStats { context: id, flags: 0, pad: 0 },
            ),
        );
        assert_eq!(errno(gone), ENOENT, "the handle is gone");
        open(&gate);
        completed(&fence);
        assert_eq!(memory.load_u32(0).expect("inside"), round);
    }
    drop(broker);
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// What CLONE was made for.
#[test]
fn a_banned_context_is_cloned_into_one_that_runs() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "recovery");
    let vm = broker.create_vm().expect("there is room");
    let map = EngineMap { slots: vec![EngineId::GAP, COPY, RENDER], extensions: Vec::new() };
    let builder = broker.context().vm(&vm).engine_map(map).priority(-5).recoverable(false);
    let first = builder.create().expect("it is all legal");
    let result = broker.create_buffer(4096).expect("there is room");
    let good = buffer_with(&broker, &storing(RESULT, 0x77));
    let bad = buffer_with(&broker, &storing(NOWHERE, 1));
    let run = |context: &Context, batch: &Buffer| {
        let work = context.execbuf().engine(2).object_at(&result, RESULT).write();
        work.batch(batch).fence_out().submit().map(|submission| submission.fence)
    };
    let fence = run(&first, &bad).expect("nothing is wrong with the request").expect("asked for");
    assert_eq!(fence.wait(LONG).expect("the daemon lives"), FenceState::Failed(EIO));
    let banned = eventually("the context is banned", || run(&first, &good).err());
    assert_eq!(banned.refusal().map(|refusal| refusal.name.as_str()), Some("context-banned"));

    let second = broker.context().clone_from(&first, clone_flag::ALL).create().expect("legal");
    first.destroy().expect("it is ours");
    completed(&run(&second, &good).expect("it is a new context").expect("asked for"));
    assert_eq!(dword(&result, 0), 0x77);
    // It is what the first one was, engines and all, and has no hang to its name.
    assert_eq!(second.priority().expect("answered"), -5);
    assert_eq!(second.get_param(number::RECOVERABLE).expect("answered"), 0);
    assert_eq!(errno(second.execbuf().engine(0).batch(&good).submit()), EINVAL, "slot 0 is a gap");
    assert_eq!(second.reset_stats().expect("answered").batch_active, 0);
    daemon.assert_unharmed();
}

/// Slots of one context, each a virtual engine over both video engines.
#[test]
fn a_virtual_engine_keeps_both_video_engines_busy() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "balancer");
    let balance = |slot| {
        let body = EngineExtension::LoadBalance {
            engine_index: slot,
            flags: 0,
            mbz64: 0,
            engines: VIDEO.to_vec(),
        };
        Extension::new(EngineExtension::LOAD_BALANCE, body)
    };
    let map = EngineMap { slots: vec![EngineId::GAP; 2], extensions: vec![balance(0), balance(1)] };
    let context = broker.context().engine_map(map).create().expect("it is all legal");
    let shared = broker.create_buffer(4096).expect("there is room");
    let completed_batches = || -> BTreeMap<String, u64> {
        let engines = broker.status().expect("answered").engines;
        engines.into_iter().map(|engine| (engine.name, engine.completed)).collect()
    };
    let before = completed_batches();
    for round in 1..=10_u32 {
        // Each waits for the other and lets nothing else run: both engines or none.
        let meet = |own: u64, other: u64| {
            let mut batch = Batch::new();
            batch.arbitration(false).store_dword(RESULT + own, round);
            batch.semaphore_wait(RESULT + other, Compare::Equal, round).end();
            buffer_with(&broker, &batch)
        };
        let batches = [meet(0, 64), meet(64, 0)];
        let fences = (0..).zip(&batches).map(|(slot, batch)| {
            let work = context.execbuf().engine(slot).object_at(&shared, RESULT).asynchronous();
            let mut work = work.batch(batch).fence_out();
            work.submit().expect("it is all legal").fence.expect("a fence was asked for")
        });
        let fences: Vec<_> = fences.collect();
        fences.iter().for_each(completed);
    }
    let after = completed_batches();
    for engine in ["vcs0", "vcs1"] {
        assert_eq!(after[engine] - before[engine], 10, "{engine} did half of it: {after:?}");
    }
    daemon.assert_unharmed();
}

/// Three contexts, three engines, one timeline: each waits for the point before its own.
#[test]
fn a_timeline_orders_work_across_contexts() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "timeline");
    let timeline = broker.create_syncobj(false).expect("there is room");
    let (gate, result) =
        (broker.create_buffer(4096).expect("room"), broker.create_buffer(4096).expect("room"));
    let contexts = [RENDER, COPY, VIDEO[0]]
        .map(|engine| broker.context().engines(&[engine]).create().expect("there is room"));
    let mut first = gated();
    first.store_dword(RESULT, 1).end();
    let mut batches = vec![buffer_with(&broker, &first)];
    for step in 1..3 {
        let mut next = Batch::new();
        next.copy_dword(RESULT + 4 * step, RESULT + 4 * (step - 1)).end();
        batches.push(buffer_with(&broker, &next));
    }
    // A point that nobody has submitted cannot be waited for by work…
    let early = contexts[1].execbuf().batch(&batches[1]).wait_for_point(&timeline, 1).submit();
    assert_eq!(errno(early), EINVAL);
    let last = SyncobjSet::new().with_point(&timeline, 3).for_submit();
    std::thread::scope(|scope| {
        // …but by a thread.
        let waiting = scope.spawn(|| broker.wait_all(&last, LONG));
        for (step, (context, batch)) in (0..).zip(contexts.iter().zip(&batches)) {
            // No implicit order: only the timeline holds them back.
            let work = context.execbuf().object_at(&gate, GATE).asynchronous();
            let mut work = work.object_at(&result, RESULT).asynchronous().batch(batch);
            work = work.asynchronous().signal_point(&timeline, step + 1);
            if step > 0 {
                work = work.wait_for_point(&timeline, step);
            }
            work.submit().expect("it is all legal");
        }
        assert_eq!(timeline.last_submitted_point().expect("answered"), 3);
        assert_eq!(timeline.point().expect("answered"), 0, "the gate is closed");
        assert!(!timeline.wait_point(1, NOW).expect("it was submitted"));
        open(&gate);
        assert!(waiting.join().expect("no panic").expect("answered"), "the timeline is stuck");
    });
    assert_eq!(timeline.point().expect("answered"), 3);
    let results = [0, 4, 8].map(|offset| dword(&result, offset));
    assert_eq!(results, [1, 1, 1], "one ran before the one it waited for");
    daemon.assert_unharmed();
}

/// A buffer made here, drawn into there: implicit order holds across sessions.
#[test]
fn a_buffer_is_drawn_into_by_another_session() {
    const SIDE: u16 = 64;
    const COLOUR: u32 = 0xff20_8040;
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let (here, there) = (connect(&daemon, "here"), connect(&daemon, "there"));
    let picture = here.create_buffer(u64::from(SIDE) * u64::from(SIDE) * 4).expect("room");
    let fd = picture.export().expect("fds are left");
    let imported = there.import_buffer(&fd).expect("it is the daemon's");
    drop(fd);
    assert_eq!(imported.size(), picture.size());
    assert_eq!(errno(there.import_buffer(here.default_context().connection())), EINVAL);

    let gate = there.create_buffer(4096).expect("there is room");
    let mut drawing = gated();
    let surface = Surface::linear(RESULT, u32::from(SIDE) * 4);
    let all = Rectangle { left: 0, top: 0, right: SIDE.cast_signed(), bottom: SIDE.cast_signed() };
    drawing.color_blt(&surface, all, Depth::Bits8888, COLOUR).end();
    let batch = buffer_with(&there, &drawing);
    let context = there.context().engines(&[COPY]).create().expect("there is room");
    let mut work = context.execbuf().object_at(&gate, GATE).object_at(&imported, RESULT).write();
    work = work.batch(&batch).fence_out();
    let drawn = work.submit().expect("it is all legal").fence.expect("a fence was asked for");

    // Here it is busy, and work that reads it comes after the drawing there.
    assert_ne!(picture.busy().expect("answered").busy, 0);
    assert!(!picture.wait(NOW).expect("answered"));
    let result = here.create_buffer(4096).expect("there is room");
    let mut reading = Batch::new();
    reading.copy_dword(GATE, RESULT + 4 * 77).end();
    let reader = buffer_with(&here, &reading);
    let context_here = here.context().engines(&[RENDER]).create().expect("there is room");
    let work_here = context_here.execbuf().object_at(&picture, RESULT).object_at(&result, GATE);
    let mut work_here = work_here.write().batch(&reader).fence_out();
    let read = work_here.submit().expect("legal").fence.expect("a fence was asked for");
    assert_eq!(read.status().expect("no round trip"), FenceState::Pending);
    // The session that draws may go meanwhile, handle and all.
    imported.close().expect("it is there's");
    open(&gate);
    completed(&drawn);
    completed(&read);
    assert_eq!(dword(&result, 0), COLOUR);
    let mut pixels = vec![0; usize::from(SIDE) * usize::from(SIDE) * 4];
    picture.read(0, &mut pixels).expect("PREAD waits for the writer");
    let (pixels, _) = pixels.as_chunks::<4>();
    assert!(pixels.iter().all(|pixel| u32::from_le_bytes(*pixel) == COLOUR));

    drop((work, work_here));
    drop((context, context_here, gate, batch, reader, result, picture, drawn, read, here, there));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// SET_DOMAIN, PREAD and PWRITE are answered when the GPU is done, and hold up nobody else.
#[test]
fn the_cpu_looks_when_the_gpu_is_done() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "coherent");
    let (gate, result) =
        (broker.create_buffer(4096).expect("room"), broker.create_buffer(4096).expect("room"));
    let mut commands = gated();
    commands.store_dword(RESULT, 0x99).end();
    let batch = buffer_with(&broker, &commands);
    let context = broker.context().create().expect("there is room");
    let work = context.execbuf().object_at(&gate, GATE).object_at(&result, RESULT).write();
    work.batch(&batch).submit().expect("it is all legal");
    let seen = || {
        let mut bytes = [0; 4];
        result.read(0, &mut bytes).map(|()| u32::from_le_bytes(bytes))
    };
    // The batch itself is only read: to look at it, there is nothing to wait for.
    batch.set_domain(domain::CPU, 0).expect("nobody writes it");
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| result.set_domain(domain::CPU, 0).map(|()| dword(&result, 0)));
        let read = scope.spawn(seen);
        let written = scope.spawn(|| batch.write(0, &[0; 4]));
        for payload in 0..1000 {
            assert_eq!(broker.ping(payload).expect("answered"), payload);
        }
        let early = moved.is_finished() || read.is_finished() || written.is_finished();
        assert!(!early, "the GPU has not begun");
        open(&gate);
        assert_eq!(moved.join().expect("no panic").expect("answered"), 0x99);
        assert_eq!(read.join().expect("no panic").expect("answered"), 0x99);
        written.join().expect("no panic").expect("answered");
    });
    assert_eq!(dword(&batch, 0), 0);
    // Throttled work is old work; there is none left.
    broker.throttle().expect("answered");
    assert_eq!(errno(result.read(4093, &mut [0; 4])), EINVAL);
    assert_eq!(errno(result.set_domain(2, 0)), EINVAL, "a domain of the GPU");
    daemon.assert_unharmed();
}

/// Parameters that are set one by one, on the proto, are what the live context has.
#[test]
fn what_was_set_on_the_proto_is_there_when_it_is_live() {
    let daemon = Daemon::start();
    let broker = connect(&daemon, "settings");
    let context = broker.context().create().expect("there is room");
    let wanted = [
        (number::NO_ERROR_CAPTURE, 1),
        (number::RECOVERABLE, 0),
        (number::PERSISTENCE, 0),
        (number::PRIORITY, (-17_i64).cast_unsigned()),
    ];
    for (param, value) in wanted {
        context.set_param(ContextParam::scalar(param, value)).expect("everyone's right");
    }
    for (param, value) in wanted {
        assert_eq!(context.get_param(param).expect("answered"), value, "parameter {param:#x}");
    }
}
