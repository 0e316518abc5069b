//! anv, Mesa's Vulkan driver: everything in CREATE_EXT, long object lists, timelines.

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Buffer, Connection, Context, Execbuf, SyncobjSet, Vm};
use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, ExecbufLists, flag, object_flag};
use gpu_broker_protocol::object::QueryAnswer;
use gpu_broker_protocol::param::{ContextParam, Sseu, number};
use gpu_broker_protocol::refusal::errno::{EINVAL, ENODEV, EPERM};
use gpu_broker_protocol::{BufferId, VmId};
use gpu_broker_tests::Daemon;

use super::*;

/// `anv_physical_device_try_create`.
fn physical_device(broker: &Connection) {
    mesa_device_info(broker);
    // Without one of these it gives up.
    for fatal in
        [ask::HAS_WAIT_TIMEOUT, ask::HAS_EXECBUF2, ask::HAS_EXEC_SOFTPIN, ask::HAS_EXEC_FENCE_ARRAY]
    {
        assert_eq!(param(broker, fatal), 1, "GETPARAM {fatal}");
    }
    assert_eq!(param(broker, ask::HAS_EXEC_ASYNC), 1);
    assert_eq!(param(broker, ask::HAS_EXEC_CAPTURE), 1);
    // The priority probe is on the context everybody has, and ends at the first refusal.
    let default = broker.default_context();
    let allowed = [-512, 0, 512, 1023].map(|priority| default.set_priority(priority));
    let errnos = allowed.map(|set| set.map_or_else(|error| error.errno(), |()| 0));
    assert_eq!(errnos, [0, 0, EPERM, EPERM]);
    assert_eq!(default.priority().expect("answered"), 0);
    assert_eq!(param(broker, ask::HAS_EXEC_TIMELINE_FENCES), 1);
    // Whether VMs can be chosen: any handle is a yes. The driver never gives it back.
    let leaked = default.get_param(number::VM).expect("answered");
    assert_ne!(leaked, 0);
    assert_eq!(regions(broker).len(), 1);

    let signalled = broker.create_syncobj(true).expect("there is room");
    assert!(signalled.wait(NOW).expect("answered"), "it was made signalled");
    signalled.destroy().expect("it is ours");
    let before = broker.timestamp().expect("the only register there is");
    assert!(broker.timestamp().expect("answered") >= before);
    assert_eq!(param(broker, ask::CHIPSET_ID), 0x5926);
    assert_eq!(engines(broker).len(), 5);
    // Performance queries are offered by version and refused by item.
    assert!(param(broker, ask::PERF_REVISION) > 0);
    assert_eq!(query(broker, item::PERF_CONFIG), QueryAnswer::Error(ENODEV));
    let sseu = Sseu {
        engine: RENDER,
        flags: 0,
        slice_mask: 0,
        subslice_mask: 0,
        min_eus_per_subslice: 0,
        max_eus_per_subslice: 0,
        rsvd: 0,
    };
    default.get(ContextParam::sseu(sseu)).expect("the render engine has a configuration");
}

/// One context per queue, complete from the start; then what CREATE said already, once more.
fn queue(broker: &Connection, vm: &Vm) -> Context {
    let builder = broker.context().engines(&[RENDER]).recoverable(false).vm(vm);
    let context = builder.create().expect("it is all legal");
    set(&context, number::RECOVERABLE, 0).expect("it is that already");
    context.set_priority(0).expect("medium is everyone's");
    context
}

/// The driver's own allocator: memory from a region, at an address it chose.
struct Pool<'a> {
    broker: &'a Connection,
    buffers: Vec<Buffer>,
}

impl Pool<'_> {
    const FIRST: u64 = 0x1_0000_0000;

    fn allocate(&mut self, size: u64) -> (usize, u64) {
        let buffer =
            self.broker.create_buffer_in(size, &[SYSTEM_MEMORY]).expect("the region was reported");
        self.buffers.push(buffer);
        let index = self.buffers.len() - 1;
        (index, self.address(index))
    }

    fn address(&self, index: usize) -> u64 {
        Self::FIRST + index as u64 * 0x10_0000
    }

    /// Every buffer of every pool, the batch last.
    fn submit<'c>(&self, context: &'c Context, batch: usize, commands: &Batch) -> Execbuf<'c> {
        let memory = self.buffers[batch].map().expect("fds are left");
        memory.write_dwords(0, commands.dwords()).expect("it fits");
        let mut work = context.execbuf();
        for (index, buffer) in self.buffers.iter().enumerate().filter(|(index, _)| *index != batch)
        {
            work = work.object_at(BufferId::from(buffer), self.address(index));
            work = work.object_flags(object_flag::ASYNC | object_flag::CAPTURE);
            // One that is written.
            work = if index == 0 { work.write() } else { work };
        }
        work.batch_at(BufferId::from(&self.buffers[batch]), self.address(batch)).asynchronous()
    }
}

#[test]
fn anv_from_start_up_to_results() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let physical = connect(&daemon, "anv");
    physical_device(&physical);

    // vkCreateDevice opens the node a second time.
    let broker = connect(&daemon, "anv");
    let vm = broker.create_vm().expect("there is room");
    let (graphics, companion) = (queue(&broker, &vm), queue(&broker, &vm));
    let mut pool = Pool { broker: &broker, buffers: Vec::new() };
    let (result, result_at) = pool.allocate(4096);
    for _ in 0..300 {
        pool.allocate(64 * 1024);
    }
    let (batch, _) = pool.allocate(4096);
    let (other_batch, _) = pool.allocate(4096);

    // Binary semaphores alone: a fence array. The first submit is the empty batch, eight bytes.
    let binary = broker.create_syncobj(false).expect("there is room");
    let mut empty = Batch::new();
    empty.end();
    let mut work = pool.submit(&graphics, batch, &empty).batch_bytes(0, 8).signal(&binary);
    let offsets = work.submit().expect("it is all legal").offsets;
    assert!(offsets.is_empty(), "everything is where the driver put it");
    assert!(binary.wait(LONG).expect("there is a fence now"), "the queue is stuck");
    let mut work = pool.submit(&graphics, batch, &storing(result_at, 1)).wait_for(&binary);
    let timeline = broker.create_syncobj(false).expect("there is room");
    // One point makes all of it a timeline, and the binary one point 0 of its own.
    work = work.signal_point(&timeline, 5);
    work.submit().expect("it is all legal");

    // The companion goes on from there: another context, the same address space.
    let mut copied = Batch::new();
    copied.copy_dword(result_at + 4, result_at).end();
    let work = pool.submit(&companion, other_batch, &copied);
    work.wait_for_point(&timeline, 5).signal_point(&timeline, 6).submit().expect("it is all legal");
    assert!(timeline.wait_point(6, LONG).expect("there is such a point"), "the queue is stuck");
    assert_eq!(timeline.point().expect("answered"), 6);
    assert_eq!((dword(&pool.buffers[result], 0), dword(&pool.buffers[result], 4)), (1, 1));

    performance_query(&graphics, &pool, (result, batch));
    assert_eq!(dword(&pool.buffers[result], 0), 7);
    syncobjs(&broker);
    let stats = graphics.reset_stats().expect("answered");
    assert_eq!((stats.batch_active, stats.batch_pending), (0, 0), "check_status finds nothing");

    // Waits that only look: WAIT_FOR_SUBMIT on what nobody submits.
    let never = broker.create_syncobj(false).expect("there is room");
    assert_eq!(errno(never.wait(NOW)), EINVAL);
    let set = SyncobjSet::new().with(&never).for_submit();
    assert!(!broker.wait_all(&set, NOW).expect("answered"));

    graphics.destroy().expect("it is ours");
    companion.destroy().expect("it is ours");
    vm.destroy().expect("it is ours");
    drop((binary, timeline, never, pool, physical));
    drop(broker);
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// A performance query's submit lets the kernel look at relocations, of which there are none.
fn performance_query(graphics: &Context, pool: &Pool<'_>, (result, batch): (usize, usize)) {
    let memory = pool.buffers[batch].map().expect("fds are left");
    memory.write_dwords(0, storing(pool.address(result), 7).dwords()).expect("it fits");
    let pinned = |index: usize, flags| ExecObject {
        handle: pool.buffers[index].handle().0,
        offset: pool.address(index),
        flags: object_flag::PINNED | object_flag::SUPPORTS_48B | flags,
        ..ExecObject::default()
    };
    let objects = [pinned(result, object_flag::WRITE), pinned(batch, 0)];
    let flags = flag::HANDLE_LUT | flag::FENCE_OUT;
    let head = ExecbufHead { context: graphics.id().0, flags, ..ExecbufHead::default() };
    let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
    let queried = pool.broker.execbuf(&head, &lists, None).expect("it is all legal");
    completed(&queried.fence.expect("a fence was asked for").into());
}

/// Every syncobj request of the driver (`vk_drm_syncobj`), on what it uses it for.
fn syncobjs(broker: &Connection) {
    let timeline = broker.create_syncobj(false).expect("there is room");
    timeline.signal_point(3).expect("a timeline can be signalled by the CPU");
    assert_eq!(timeline.point().expect("answered"), 3);
    // A binary payload taken from a point and put into another timeline.
    let binary = broker.create_syncobj(false).expect("there is room");
    timeline.transfer(3, &binary, 0).expect("point 3 is there");
    assert!(binary.wait(NOW).expect("there is a fence"), "point 3 has signalled");
    binary.reset().expect("it is ours");
    assert_eq!(errno(binary.wait(NOW)), EINVAL, "the fence is gone");
    binary.signal().expect("it is ours");
    // As a sync file, and back into another object.
    let fence = binary.export_fence().expect("there is a fence");
    completed(&fence);
    let imported = broker.create_syncobj(false).expect("there is room");
    imported.import_fence(&fence).expect("it is the daemon's");
    assert!(imported.wait(NOW).expect("there is a fence"));
    // As the object itself: both handles are one object from then on.
    let fd = timeline.export().expect("fds are left");
    let same = broker.import_syncobj(&fd).expect("it is the daemon's");
    same.signal_point(9).expect("it is ours");
    assert_eq!(timeline.point().expect("answered"), 9);
    // All of several, and the first of several.
    let empty = broker.create_syncobj(false).expect("there is room");
    let set = SyncobjSet::new().with(&empty).with(&binary).for_submit();
    assert_eq!(broker.wait_any(&set, NOW).expect("answered"), Some(1));
    assert!(!broker.wait_all(&set, NOW).expect("answered"), "one has nothing in it");
}

/// Without VMs to choose (`has_vm_control` false), one context has all engines. The handle that the
/// probe leaked is an ordinary one.
#[test]
fn what_anvs_probe_leaks_is_a_vm_like_any_other() {
    let daemon = Daemon::start();
    let broker = connect(&daemon, "anv");
    let leaked = broker.default_context().get_param(number::VM).expect("answered");
    let vm = VmId(u32::try_from(leaked).expect("handles have 32 bits"));
    let context = broker.context().vm(vm).create().expect("the handle is ours");
    let mut nothing = Batch::new();
    let batch = buffer_with(&broker, nothing.end());
    let fence = context.execbuf().batch(&batch).flags(flag::FENCE_OUT).submit().expect("legal");
    completed(&fence.fence.expect("a fence was asked for"));
}
