//! The media driver (iHD, VA-API): engine maps set after creation, bonds, parallel submission,
//! relocations, fences as fds and no syncobjs.

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Connection, Context, Vm};
use gpu_broker_protocol::object::{QueryAnswer, advice, domain};
use gpu_broker_protocol::param::{
    ContextParam, EngineExtension, EngineMap, Extension, Sseu, number,
};
use gpu_broker_protocol::refusal::errno::{EINVAL, ENODEV};
use gpu_broker_tests::Daemon;

use super::*;

/// "Boost": a parameter of Intel's own kernels, tried and forgotten about.
const PRIVATE_BOOST: u64 = 0x8000_0000;

fn start_up(broker: &Connection) {
    assert_eq!(param(broker, ask::CHIPSET_ID), 0x5926);
    assert_eq!(param(broker, ask::REVISION), i32::from(broker.hello().device.revision));
    let topology = topology(broker);
    let subslices: u32 = topology.subslice_masks.iter().map(|mask| mask.count_ones()).sum();
    assert_eq!(param(broker, ask::SUBSLICE_TOTAL).cast_unsigned(), subslices);
    assert!(param(broker, ask::EU_TOTAL) > 0);
    // Both video engines, the enhancer and the blitter are there, and no more than one of each
    // other kind.
    for there in [ask::HAS_BSD, ask::HAS_BSD2, ask::HAS_VEBOX, ask::HAS_BLT] {
        assert_eq!(param(broker, there), 1, "GETPARAM {there}");
    }
    assert!(param(broker, ask::HAS_ALIASING_PPGTT) >= 2, "full address spaces");
    assert_eq!(errno(broker.get_param(ask::HUC_STATUS)), ENODEV, "no HuC firmware");
    assert_eq!(param(broker, ask::HAS_EXECBUF2), 1, "or the driver gives up");
    for yes in [
        ask::HAS_RELAXED_FENCING,
        ask::HAS_WAIT_TIMEOUT,
        ask::HAS_LLC,
        ask::MMAP_VERSION,
        ask::HAS_EXEC_SOFTPIN,
        ask::HAS_EXEC_ASYNC,
        ask::HAS_EXEC_CAPTURE,
    ] {
        assert_eq!(param(broker, yes), 1, "GETPARAM {yes}");
    }
    assert!(param(broker, ask::NUM_FENCES_AVAIL) > 0);
    assert!(param(broker, ask::MMAP_GTT_VERSION) >= 4);
    assert_eq!(param(broker, ask::CS_TIMESTAMP_FREQUENCY), 12_000_000);
    assert!(broker.aperture().expect("answered").size > 0);
    let default = broker.default_context();
    assert_eq!(default.get_param(number::GTT_SIZE).expect("answered"), 1 << 48);
    assert_eq!(regions(broker).len(), 1);
    assert_eq!(engines(broker).len(), 5);
    assert_eq!(query(broker, item::HWCONFIG), QueryAnswer::Error(ENODEV));
    assert_eq!(errno(set(&default, PRIVATE_BOOST, 1)), EINVAL, "which the driver ignores");
    // A context is made for one question and thrown away.
    let asked = broker.context().create().expect("there is room");
    assert_eq!(asked.get_param(number::RECOVERABLE).expect("answered"), 1);
    asked.destroy().expect("it is ours");
    assert_eq!(param(broker, ask::HAS_USERPTR_PROBE), 1);
}

fn gaps(slots: usize, extensions: Vec<(u32, EngineExtension)>) -> EngineMap {
    let extensions = extensions.into_iter().map(|(name, body)| Extension::new(name, body));
    EngineMap { slots: vec![EngineId::GAP; slots], extensions: extensions.collect() }
}

fn balanced(engines: &[EngineId]) -> (u32, EngineExtension) {
    let body = EngineExtension::LoadBalance {
        engine_index: 0,
        flags: 0,
        mbz64: 0,
        engines: engines.to_vec(),
    };
    (EngineExtension::LOAD_BALANCE, body)
}

fn bond(master: EngineId, engines: &[EngineId]) -> (u32, EngineExtension) {
    let body = EngineExtension::Bond {
        master,
        virtual_index: 0,
        flags: 0,
        mbz64: [0; 4],
        engines: engines.to_vec(),
    };
    (EngineExtension::BOND, body)
}

fn parallel(width: u16, num_siblings: u16, engines: &[EngineId]) -> (u32, EngineExtension) {
    let body = EngineExtension::ParallelSubmit {
        engine_index: 0,
        width,
        num_siblings,
        mbz16: 0,
        flags: 0,
        mbz64: [0; 3],
        engines: engines.to_vec(),
    };
    (EngineExtension::PARALLEL_SUBMIT, body)
}

/// The context of an engine node: SINGLE_TIMELINE and nothing else, then the address space, then
/// the engines, of which the driver sees a virtual one even if there is only one.
fn node(broker: &Connection, vm: &Vm, siblings: &[EngineId]) -> Context {
    let context = broker.context().single_timeline().create().expect("there is room");
    context.set_vm(vm).expect("the context is a proto still");
    assert!(engines(broker).len() >= siblings.len());
    context.set_engines(gaps(1, vec![balanced(siblings)])).expect("it is a proto still");
    context
}

fn selector() -> Sseu {
    Sseu {
        engine: EngineId { class: 0, instance: 0 },
        flags: Sseu::ENGINE_INDEX,
        slice_mask: 0,
        subslice_mask: 0,
        min_eus_per_subslice: 0,
        max_eus_per_subslice: 0,
        rsvd: 0,
    }
}

/// A command buffer as the driver fills it: addresses are left out, relocations put them in.
fn relocated(broker: &Connection, context: &Context) {
    let surface = broker.create_buffer(8192).expect("there is room");
    let mut commands = Batch::new();
    commands.store_dword(0xdead_0000, 0x55).store_dword(0xdead_0000, 0x66).end();
    let batch = buffer_with(broker, &commands);
    let mut work = context.execbuf().object(&surface).write().batch(&batch).fence_out();
    // The address of MI_STORE_DATA_IMM is its second and third dword.
    work = work.relocate(4, &surface, 0).relocate(4 + 16, &surface, 4100);
    let submission = work.submit().expect("it is all legal");
    completed(submission.fence.as_ref().expect("a fence was asked for"));
    assert_eq!((dword(&surface, 0), dword(&surface, 4100)), (0x55, 0x66));
    // What was written is the address that the surface has.
    let written = u64::from(dword(&batch, 4)) | u64::from(dword(&batch, 8)) << 32;
    assert_eq!(Some(&written), submission.offsets.first(), "{submission:?}");
}

#[test]
fn ihd_from_start_up_to_results() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let broker = connect(&daemon, "iHD");
    start_up(&broker);
    let base = broker.context().create().expect("there is room");
    let vm = broker.create_vm().expect("there is room");

    let render = node(&broker, &vm, &[RENDER]);
    let shown = render.get(ContextParam::sseu(selector())).expect("one sibling is physical");
    let gpu_broker_protocol::param::ParamValue::Sseu(shown) = shown.value else {
        panic!("SSEU is a structure")
    };
    assert_ne!((shown.slice_mask, shown.subslice_mask), (0, 0));
    // Only version 11 can change it; the driver goes on with what there is.
    assert_eq!(errno(render.set_param(ContextParam::sseu(shown))), ENODEV);
    // The question has made the context a live one.
    assert_eq!(errno(render.set_vm(&vm)), EINVAL);
    relocated(&broker, &render);

    let video = node(&broker, &vm, &VIDEO);
    relocated(&broker, &video);
    let enhance = node(&broker, &vm, &[VIDEO_ENHANCE]);
    video.set_priority(-100).expect("the application asked for it");
    assert_eq!(video.priority().expect("answered"), -100);

    // Work on one node that waits for another's, as fds.
    let (surface, at) = (broker.create_buffer(4096).expect("there is room"), 0x40_0000);
    surface.set_domain(domain::GTT, domain::GTT).expect("idle");
    let decode = buffer_with(&broker, &storing(at, 1));
    let mut scaling = Batch::new();
    scaling.copy_dword(at + 4, at).end();
    let scale = buffer_with(&broker, &scaling);
    let mut work = video.execbuf().object_at(&surface, at).write().batch(&decode).fence_out();
    let decoded = work.submit().expect("it is all legal").fence.expect("a fence was asked for");
    let mut work = enhance.execbuf().object_at(&surface, at).write().batch(&scale);
    work = work.fence_in(&decoded).fence_out();
    let scaled = work.submit().expect("it is all legal").fence.expect("a fence was asked for");
    completed(&scaled);
    assert_eq!(dword(&surface, 4), 1);
    assert!(surface.wait(LONG).expect("answered"));
    assert_eq!(surface.busy().expect("answered").busy, 0);
    assert!(surface.madvise(advice::WILL_NEED).expect("answered"));
    assert_eq!(surface.set_tiling(2, 128).expect("a Y tile is 128 bytes wide").stride, 128);
    assert_eq!(surface.tiling().expect("answered").mode, 2);
    assert!(broker.timestamp().expect("answered") > 0);
    assert_eq!(video.reset_stats().expect("answered").batch_active, 0);

    drop((base, render, video, enhance, vm, surface, decode, scale, decoded, scaled, broker));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// Two batches that can only end together: each says that it runs, then waits for the other. They
/// do not let other work run meanwhile, so two engines it must be.
fn rendezvous(own: u64, other: u64) -> Batch {
    let equal = gpu_broker_client::gen9::Compare::Equal;
    let mut batch = Batch::new();
    batch.arbitration(false).store_dword(own, 1).semaphore_wait(other, equal, 1).end();
    batch
}

/// Multi-pipe decoding: a master, and a slave bonded to it that starts when it starts.
#[test]
fn ihd_bonds_two_pipes() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "iHD");
    let vm = broker.create_vm().expect("there is room");
    let master = node(&broker, &vm, &VIDEO[..1]);
    let slave = broker.context().single_timeline().create().expect("there is room");
    slave.set_vm(&vm).expect("the context is a proto still");
    // A virtual engine of one sibling is that engine, which is why BOND takes it. On this
    // generation it does; ENODEV would send the driver to PARALLEL_SUBMIT.
    let map = gaps(1, vec![balanced(&VIDEO[1..]), bond(VIDEO[0], &VIDEO[1..])]);
    slave.set_engines(map).expect("this generation bonds");
    // A virtual engine of two would not be taken.
    let other = broker.context().create().expect("there is room");
    let map = gaps(1, vec![balanced(&VIDEO), bond(VIDEO[0], &VIDEO[1..])]);
    assert_eq!(errno(other.set_engines(map)), EINVAL);

    let (shared, at) = (broker.create_buffer(4096).expect("there is room"), 0x40_0000);
    let batches = [rendezvous(at, at + 64), rendezvous(at + 64, at)];
    let batches = batches.map(|commands| buffer_with(&broker, &commands));
    let mut work = master.execbuf().object_at(&shared, at).asynchronous().batch(&batches[0]);
    work = work.fence_out();
    let first = work.submit().expect("it is all legal").fence.expect("a fence was asked for");
    let mut work = slave.execbuf().object_at(&shared, at).asynchronous().batch(&batches[1]);
    work = work.fence_submit(&first).fence_out();
    let second = work.submit().expect("it is all legal").fence.expect("a fence was asked for");
    completed(&first);
    completed(&second);
    daemon.assert_unharmed();
}

/// What the driver falls back to where engines cannot be bonded.
#[test]
fn ihd_submits_in_parallel() {
    let mut daemon = Daemon::start();
    let broker = connect(&daemon, "iHD");
    let vm = broker.create_vm().expect("there is room");
    let make = || {
        let context = broker.context().create().expect("there is room");
        context.set_vm(&vm).expect("the context is a proto still");
        context
    };
    // Without GuC submission every batch has one place to run.
    let choice = gaps(1, vec![parallel(2, 2, &[VIDEO[0], VIDEO[1], VIDEO[0], VIDEO[1]])]);
    assert_eq!(errno(make().set_engines(choice)), EINVAL);
    let context = make();
    context.set_engines(gaps(1, vec![parallel(2, 1, &VIDEO)])).expect("neighbours");

    let (shared, at) = (broker.create_buffer(4096).expect("there is room"), 0x40_0000);
    let batches = [rendezvous(at, at + 64), rendezvous(at + 64, at)];
    let batches = batches.map(|commands| buffer_with(&broker, &commands));
    // Several batches, last in the list.
    let mut work = context.execbuf().object_at(&shared, at).write().object(&batches[0]);
    work = work.batch(&batches[1]).fence_out();
    let fence = work.submit().expect("it is all legal").fence.expect("one for both");
    completed(&fence);
    assert_eq!((dword(&shared, 0), dword(&shared, 64)), (1, 1));
    // A slot of two takes two, and no start or length.
    assert_eq!(errno(context.execbuf().batch(&batches[0]).submit()), EINVAL);
    let partly = context.execbuf().object(&batches[0]).batch_range(&batches[1], 8, 0).submit();
    assert_eq!(errno(partly), EINVAL);
    daemon.assert_unharmed();
}
