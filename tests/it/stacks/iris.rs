//! iris, Mesa's OpenGL driver: parameters on the proto-context, batch first, recovery by
//! replacement.

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Buffer, Connection, Context, Execbuf, Syncobj, SyncobjSet};
use gpu_broker_protocol::VmId;
use gpu_broker_protocol::execbuf::flag;
use gpu_broker_protocol::object::{advice, caching, domain};
use gpu_broker_protocol::param::number;
use gpu_broker_protocol::refusal::errno::{EINVAL, EIO, ENODEV};
use gpu_broker_protocol::status::ContextState;
use gpu_broker_tests::Daemon;

use super::*;

/// The address space every context of the screen will use.
fn screen(broker: &Connection) -> VmId {
    mesa_device_info(broker);
    let vm = broker.default_context().get_param(number::VM).expect("VMs can be chosen");
    let first = allocate(broker);
    first.close().expect("it is ours");
    // Whether waits for fences to come are known: must time out, not fail.
    let probe = broker.create_syncobj(false).expect("there is room");
    let set = SyncobjSet::new().with(&probe).for_submit();
    assert!(!broker.wait_all(&set, NOW).expect("ETIME is what the driver looks for"));
    probe.destroy().expect("it is ours");
    assert_eq!(errno(broker.get_param(ask::PXP_STATUS)), ENODEV, "no protected content");
    VmId(u32::try_from(vm).expect("handles have 32 bits"))
}

/// Every integrated allocation is moved to the CPU's domain at once.
fn allocate(broker: &Connection) -> Buffer {
    let buffer = broker.create_buffer_in(4096, &[SYSTEM_MEMORY]).expect("there is room");
    buffer.set_domain(domain::CPU, 0).expect("nobody uses it yet");
    buffer
}

/// Created, then changed while it is still a proto-context.
fn context(broker: &Connection, vm: VmId) -> Context {
    assert!(engines(broker).len() >= 2);
    let builder = broker.context().engines(&[RENDER, COPY]).recoverable(false);
    let context = builder.create().expect("it is all legal");
    set(&context, number::RECOVERABLE, 0).expect("it is that already");
    context.set_vm(vm).expect("legal, because the context is a proto still");
    context.set_priority(0).expect("medium is everyone's");
    context
}

/// Batch first, and its fence in a syncobj of its own.
fn batch<'c>(context: &'c Context, slot: u32, commands: &Buffer, done: &Syncobj) -> Execbuf<'c> {
    context.execbuf().engine(slot).batch_range(commands, 0, 64).batch_first().signal(done)
}

fn padded(mut commands: Batch) -> Batch {
    while commands.bytes() < 64 {
        commands.noop();
    }
    commands
}

fn is_proto(broker: &Connection, context: &Context) -> bool {
    let status = broker.status().expect("answered");
    let contexts = status.sessions.into_iter().flat_map(|session| session.contexts);
    let mut mine = contexts.filter(|status| status.context == context.id());
    mine.next_back().is_some_and(|status| status.state == ContextState::Proto)
}

#[test]
fn iris_from_start_up_to_recovery() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let broker = connect(&daemon, "iris");
    let vm = screen(&broker);
    let first = context(&broker, vm);
    assert!(is_proto(&broker, &first), "nothing so far needed the real one");

    // Two batches on two engines; the second waits for the first one's syncobj.
    let (result, result_at) = (allocate(&broker), 0x20_0000);
    let done = [false, false].map(|signalled| broker.create_syncobj(signalled).expect("room"));
    let render = buffer_with(&broker, &padded(storing(result_at, 0x1234)));
    let mut copying = Batch::new();
    copying.copy_dword(result_at + 8, result_at).end();
    let copy = buffer_with(&broker, &padded(copying));
    let mut work = batch(&first, 0, &render, &done[0]);
    work = work.object_at(&result, result_at).write().asynchronous();
    let moved = work.submit().expect("it is all legal");
    assert!(moved.offsets.len() <= 2, "{moved:?}");
    let mut work = batch(&first, 1, &copy, &done[1]).wait_for(&done[0]);
    work = work.object_at(&result, result_at).write().asynchronous();
    work.submit().expect("it is all legal");
    assert!(!is_proto(&broker, &first));
    let both = SyncobjSet::new().with(&done[0]).with(&done[1]);
    assert!(broker.wait_all(&both, LONG).expect("both have fences"), "the batches are stuck");
    assert_eq!(dword(&result, 8), 0x1234);
    // Now it is too late for what was legal before.
    assert_eq!(errno(first.set_vm(vm)), EINVAL);
    buffers(&broker, &result);
    let fence = done[1].export_fence().expect("there is a fence");
    completed(&fence.merge(&done[0].export_fence().expect("there is one"), &broker).expect("ours"));

    // A hang: EIO, a look at the statistics, a new context in place of the old one.
    let hanging = buffer_with(&broker, &padded(storing(NOWHERE, 1)));
    batch(&first, 0, &hanging, &done[0]).submit().expect("nothing is wrong with the request");
    assert!(done[0].wait(LONG).expect("there is a fence"), "lost work signals too");
    let retry = || batch(&first, 0, &render, &done[1]).object_at(&result, result_at).submit();
    let lost = gpu_broker_tests::eventually("the context is banned", || retry().err());
    assert_eq!(lost.errno(), EIO, "{lost}");
    let stats = first.reset_stats().expect("answered");
    assert_eq!(stats.batch_active, 1, "guilty: {stats:?}");
    let second = context(&broker, vm);
    first.destroy().expect("it is ours");
    result.map().expect("fds").store_u32(0, 0).expect("inside");
    let mut work = batch(&second, 0, &render, &done[1]);
    work = work.object_at(&result, result_at).write().flags(flag::FENCE_OUT);
    let submission = work.submit().expect("it is a new context");
    completed(&submission.fence.expect("a fence was asked for"));
    assert_eq!(dword(&result, 0), 0x1234);

    drop(work);
    drop((second, done, render, copy, hanging, result, broker));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// What the buffer manager asks of buffers.
fn buffers(broker: &Connection, result: &Buffer) {
    assert!(result.wait(LONG).expect("answered"));
    assert_eq!(result.busy().expect("answered").busy, 0);
    // Into the cache of buffers and out of it again: what was retained can be used.
    assert!(result.madvise(advice::DONT_NEED).expect("answered"));
    assert!(result.madvise(advice::WILL_NEED).expect("answered"));
    let coherent = allocate(broker);
    coherent.set_caching(caching::CACHED).expect("the mode exists");
    assert_eq!(coherent.caching().expect("answered"), caching::CACHED);
    // Shared with a window system, tiled, and back: the size comes from seeking to the fd's end.
    coherent.set_tiling(1, 512).expect("an X tile is 512 bytes wide");
    let fd = coherent.export().expect("fds are left");
    let end = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).expect("buffers can be sought");
    assert_eq!(end, coherent.size());
    let again = broker.import_buffer(&fd).expect("it is the daemon's");
    assert_eq!(again.handle(), coherent.handle());
    assert_eq!(again.tiling().expect("answered").stride, 512);
}
