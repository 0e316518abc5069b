//! The compute runtime (NEO: OpenCL, Level Zero): non-persistent contexts of low priority, engines
//! set last, completion by looking at memory.

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Buffer, Connection, Context};
use gpu_broker_protocol::execbuf::object_flag;
use gpu_broker_protocol::object::QueryAnswer;
use gpu_broker_protocol::param::{ContextParam, EngineMap, Sseu, number};
use gpu_broker_protocol::refusal::errno::{EINVAL, ENODEV, ENOSPC};
use gpu_broker_tests::{Daemon, eventually};

use super::*;

/// Bit of HAS_SCHEDULER.
const PREEMPTION: i32 = 1 << 2;
/// "Turbo boost": a parameter of Intel's own kernels, tried and forgotten about.
const PRIVATE_BOOST: u64 = 0x8000_0000;
/// What the runtime gives work of low priority.
const LOW: i32 = -1023;

fn start_up(broker: &Connection) {
    assert_eq!(param(broker, ask::CHIPSET_ID), 0x5926);
    assert_eq!(param(broker, ask::REVISION), i32::from(broker.hello().device.revision));
    assert_ne!(param(broker, ask::HAS_SCHEDULER) & PREEMPTION, 0, "mid-batch preemption");
    assert_eq!(param(broker, ask::HAS_CONTEXT_FREQ_HINT), 0, "that needs GuC submission");
    assert!(param(broker, ask::EU_TOTAL) > 0 && param(broker, ask::SUBSLICE_TOTAL) > 0);
    assert_eq!(param(broker, ask::HAS_POOLED_EU), 0);
    for clock in [ask::CS_TIMESTAMP_FREQUENCY, ask::OA_TIMESTAMP_FREQUENCY] {
        assert_eq!(param(broker, clock), 12_000_000, "GETPARAM {clock}");
    }
    assert_eq!(query(broker, item::HWCONFIG), QueryAnswer::Error(ENODEV));
    assert!(topology(broker).max_eus_per_subslice > 0);
    assert_eq!(engines(broker).len(), 5);
    assert_eq!(regions(broker).len(), 1);
    let default = broker.default_context();
    let persistence = default.get_param(number::PERSISTENCE).expect("answered");
    assert_eq!(persistence, 1, "so that non-persistent contexts are worth asking for");
    assert_eq!(default.get_param(number::GTT_SIZE).expect("answered"), 1 << 48);
    let sseu = ContextParam { param: number::SSEU, ..ContextParam::scalar(number::SSEU, 0) };
    assert_eq!(default.get(sseu).expect("it tells the size").size, Sseu::BYTES);
    assert_eq!(errno(set(&default, PRIVATE_BOOST, 1)), EINVAL, "which the runtime tolerates");
    // Host pointers, and a page of them when the device starts, cannot be had yet; the runtime
    // goes by the memory regions then.
    assert_eq!(param(broker, ask::HAS_USERPTR_PROBE), 1);
}

/// In the runtime's order: engines are set last, and it would abort if they could not be.
fn context(broker: &Connection, priority: Option<i32>) -> Context {
    let vm = broker.create_vm().expect("one per device");
    let context = broker.context().vm(&vm).create().expect("it is all legal");
    set(&context, number::PERSISTENCE, 0).expect("the device can preempt and reset engines");
    set(&context, number::RECOVERABLE, 0).expect("everyone's right");
    if let Some(priority) = priority {
        context.set_priority(priority).expect("lowering is everyone's right");
    }
    let engines = EngineMap { slots: vec![RENDER], extensions: Vec::new() };
    context.set_engines(engines).expect("the context is a proto still");
    context
}

/// Where the runtime keeps the tag that it looks at, in the last megabyte that needs no sign
/// extension, and its batches.
const TAG: u64 = 0x8000_0000_0000 - 0x10_0000;
const BATCH: u64 = 0x10_0000;

fn submit(context: &Context, tag: &Buffer, batch: &Buffer) {
    let all = object_flag::ASYNC | object_flag::CAPTURE;
    let mut work = context.execbuf().object_at(tag, TAG).write().object_flags(all);
    work = work.batch_at(batch, BATCH).object_flags(all);
    work.submit().expect("it is all legal");
}

#[test]
fn the_compute_runtime_from_start_up_to_results() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let broker = connect(&daemon, "NEO");
    start_up(&broker);
    let normal = context(&broker, None);
    let low = context(&broker, Some(LOW));

    let tag = broker.create_buffer_in(4096, &[SYSTEM_MEMORY]).expect("the region was reported");
    for (context, value) in (1..).zip([&normal, &low, &normal]).map(|(value, c)| (c, value)) {
        let batch = buffer_with(&broker, &storing(TAG, value));
        submit(context, &tag, &batch);
        // No round trip: the CPU looks until the GPU has written.
        eventually("the tag is written", || (dword(&tag, 0) == value).then_some(()));
        assert!(batch.wait(LONG).expect("answered"), "GEM_WAIT is the runtime's fallback");
    }
    assert_eq!(low.priority().expect("answered"), LOW);
    assert_eq!(low.get_param(number::PERSISTENCE).expect("answered"), 0);

    // What does not fit is refused with the errno that makes the runtime evict and try again.
    let batch = buffer_with(&broker, &storing(TAG, 9));
    let clash = normal.execbuf().object_at(&tag, TAG).batch_at(&batch, TAG).submit();
    assert_eq!(errno(clash), ENOSPC);

    // Nothing outlives a context that is not persistent, not even work that never ends.
    let mut spinner = Batch::new();
    spinner.spinner(BATCH, true);
    let forever = buffer_with(&broker, &spinner);
    normal.execbuf().batch_at(&forever, BATCH).batch_bytes(8, 0).submit().expect("legal");
    assert_ne!(forever.busy().expect("answered").busy, 0);
    normal.destroy().expect("it is ours");
    assert!(forever.wait(LONG).expect("answered"), "it went on without its context");

    drop((low, tag, batch, forever, broker));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}
