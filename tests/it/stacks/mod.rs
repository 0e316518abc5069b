//! What the four Intel user-space stacks do from the first request to the first result, step by
//! step, through the client library (`intel-clients.md` is where the sequences come from).
//!
//! One file per stack, plus [`stories`]: what only shows when several objects are in play. Where a
//! stack asks the DRM core and not i915 (VERSION, GET_CAP, opening nodes), nothing is sent: that
//! is the preload library's to answer.
//!
//! GEM_USERPTR is in every list and in none of these tests, which are about what needs no memory of the
//! application's: `it/userptr.rs` has it.

mod anv;
mod ihd;
mod iris;
mod neo;
mod stories;

use std::fmt::Debug;
use std::time::Duration;

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Buffer, Connection, Context, Error, Fence, FenceState};
use gpu_broker_protocol::object::{MemoryRegion, QueriedEngine, QueryAnswer, QueryItem, Topology};
use gpu_broker_protocol::param::{ContextParam, EngineId, class, number};
use gpu_broker_protocol::refusal::errno::ENODEV;
use gpu_broker_tests::Daemon;

pub(crate) const RENDER: EngineId = EngineId { class: class::RENDER, instance: 0 };
pub(crate) const COPY: EngineId = EngineId { class: class::COPY, instance: 0 };
pub(crate) const VIDEO: [EngineId; 2] =
    [EngineId { class: class::VIDEO, instance: 0 }, EngineId { class: class::VIDEO, instance: 1 }];
pub(crate) const VIDEO_ENHANCE: EngineId = EngineId { class: class::VIDEO_ENHANCE, instance: 0 };
/// The one memory region of an integrated device.
pub(crate) const SYSTEM_MEMORY: EngineId = EngineId { class: 0, instance: 0 };

/// How long work may take before a test says that it hangs.
pub(crate) const LONG: Option<Duration> = Some(gpu_broker_tests::PATIENCE);
/// Only looks.
pub(crate) const NOW: Option<Duration> = Some(Duration::ZERO);

/// Where nothing is mapped: a batch that writes there hangs.
pub(crate) const NOWHERE: u64 = 0x7fff_0000_0000;

/// Numbers of GETPARAM that the stacks ask for.
pub(crate) mod ask {
    pub(crate) const CHIPSET_ID: i32 = 4;
    pub(crate) const NUM_FENCES_AVAIL: i32 = 6;
    pub(crate) const HAS_EXECBUF2: i32 = 9;
    pub(crate) const HAS_BSD: i32 = 10;
    pub(crate) const HAS_BLT: i32 = 11;
    pub(crate) const HAS_RELAXED_FENCING: i32 = 12;
    pub(crate) const HAS_LLC: i32 = 17;
    pub(crate) const HAS_ALIASING_PPGTT: i32 = 18;
    pub(crate) const HAS_WAIT_TIMEOUT: i32 = 19;
    pub(crate) const HAS_VEBOX: i32 = 22;
    pub(crate) const MMAP_VERSION: i32 = 30;
    pub(crate) const HAS_BSD2: i32 = 31;
    pub(crate) const REVISION: i32 = 32;
    pub(crate) const SUBSLICE_TOTAL: i32 = 33;
    pub(crate) const EU_TOTAL: i32 = 34;
    pub(crate) const HAS_EXEC_SOFTPIN: i32 = 37;
    pub(crate) const HAS_POOLED_EU: i32 = 38;
    pub(crate) const MMAP_GTT_VERSION: i32 = 40;
    pub(crate) const HAS_SCHEDULER: i32 = 41;
    pub(crate) const HUC_STATUS: i32 = 42;
    pub(crate) const HAS_EXEC_ASYNC: i32 = 43;
    pub(crate) const HAS_EXEC_CAPTURE: i32 = 45;
    pub(crate) const SLICE_MASK: i32 = 46;
    pub(crate) const SUBSLICE_MASK: i32 = 47;
    pub(crate) const HAS_EXEC_FENCE_ARRAY: i32 = 49;
    pub(crate) const HAS_CONTEXT_ISOLATION: i32 = 50;
    pub(crate) const CS_TIMESTAMP_FREQUENCY: i32 = 51;
    pub(crate) const PERF_REVISION: i32 = 54;
    pub(crate) const HAS_EXEC_TIMELINE_FENCES: i32 = 55;
    pub(crate) const HAS_USERPTR_PROBE: i32 = 56;
    pub(crate) const OA_TIMESTAMP_FREQUENCY: i32 = 57;
    pub(crate) const PXP_STATUS: i32 = 58;
    pub(crate) const HAS_CONTEXT_FREQ_HINT: i32 = 59;
}

/// Items of QUERY.
pub(crate) mod item {
    pub(crate) const TOPOLOGY: u64 = 1;
    pub(crate) const ENGINES: u64 = 2;
    pub(crate) const PERF_CONFIG: u64 = 3;
    pub(crate) const MEMORY_REGIONS: u64 = 4;
    pub(crate) const HWCONFIG: u64 = 5;
    pub(crate) const GUC_VERSION: u64 = 7;
}

pub(crate) fn connect(daemon: &Daemon, name: &str) -> Connection {
    Connection::connect(daemon.socket(), name).expect("the daemon serves")
}

/// The errno of a refusal; the session must go on.
#[track_caller]
pub(crate) fn errno<T: Debug>(result: Result<T, Error>) -> i32 {
    let error = result.expect_err("this is refused");
    assert!(!error.is_fatal(), "{error}");
    error.errno()
}

/// GETPARAM that must be answered.
#[track_caller]
pub(crate) fn param(broker: &Connection, number: i32) -> i32 {
    broker.get_param(number).unwrap_or_else(|error| panic!("GETPARAM {number}: {error}"))
}

/// QUERY of one item.
pub(crate) fn query(broker: &Connection, id: u64) -> QueryAnswer {
    let mut answers = broker.query(&[QueryItem { id, flags: 0 }]).expect("QUERY works as a whole");
    answers.remove(0)
}

pub(crate) fn engines(broker: &Connection) -> Vec<QueriedEngine> {
    let answer = query(broker, item::ENGINES);
    let QueryAnswer::Engines(engines) = answer else { panic!("ENGINE_INFO: {answer:?}") };
    engines
}

pub(crate) fn topology(broker: &Connection) -> Topology {
    let answer = query(broker, item::TOPOLOGY);
    let QueryAnswer::Topology(topology) = answer else { panic!("TOPOLOGY_INFO: {answer:?}") };
    topology
}

pub(crate) fn regions(broker: &Connection) -> Vec<MemoryRegion> {
    let answer = query(broker, item::MEMORY_REGIONS);
    let QueryAnswer::Regions(regions) = answer else { panic!("MEMORY_REGIONS: {answer:?}") };
    regions
}

/// What Mesa's drivers find out first (`intel-clients.md` B), in their order.
pub(crate) fn mesa_device_info(broker: &Connection) {
    assert_eq!(param(broker, ask::CS_TIMESTAMP_FREQUENCY), 12_000_000);
    assert_eq!(param(broker, ask::REVISION), i32::from(broker.hello().device.revision));
    let topology = topology(broker);
    let eus: u32 = topology.eu_masks.iter().map(|mask| mask.count_ones()).sum();
    assert_eq!(topology.slice_mask, 3, "a GT3: {topology:?}");
    // Only parts from 12.5 on have a description of themselves.
    assert_eq!(query(broker, item::HWCONFIG), QueryAnswer::Error(ENODEV));
    let regions = regions(broker);
    let [region] = regions[..] else { panic!("an integrated part has one region: {regions:?}") };
    assert_eq!((region.class, region.instance), (SYSTEM_MEMORY.class, SYSTEM_MEMORY.instance));
    assert!(region.probed_bytes > 0 && region.unallocated_bytes <= region.probed_bytes);
    let aperture = broker.aperture().expect("answered");
    assert!(aperture.size >= 1 << 31 && aperture.available <= aperture.size, "{aperture:?}");
    let gtt = broker.default_context().get_param(number::GTT_SIZE).expect("answered");
    assert_eq!(gtt, 1 << 48);
    // Whether tiling can be asked for at all.
    let probe = broker.create_buffer(4096).expect("there is room");
    assert_eq!(probe.tiling().expect("answered").mode, 0);
    probe.close().expect("it is ours");
    assert!(param(broker, ask::MMAP_GTT_VERSION) >= 4, "or MMAP_OFFSET is not tried");
    assert_eq!(param(broker, ask::HAS_USERPTR_PROBE), 1);
    assert_ne!(param(broker, ask::HAS_CONTEXT_ISOLATION), 0, "or both drivers refuse the device");
    // The old way to the topology must not disagree with the new one.
    assert_eq!(u64::from(param(broker, ask::SLICE_MASK).cast_unsigned()), topology.slice_mask);
    let subslices = param(broker, ask::SUBSLICE_MASK).cast_unsigned();
    assert_eq!(topology.subslice_masks.first(), Some(&subslices.into()), "those of slice 0");
    assert_eq!(param(broker, ask::EU_TOTAL), i32::try_from(eus).expect("a few dozen"));
    // The common update.
    let classes: Vec<EngineId> = engines(broker).iter().map(|engine| engine.engine).collect();
    assert_eq!(classes, [RENDER, COPY, VIDEO[0], VIDEO[1], VIDEO_ENHANCE]);
    assert_eq!(query(broker, item::GUC_VERSION), QueryAnswer::Error(ENODEV), "no GuC submission");
}

/// A buffer with commands in it.
pub(crate) fn buffer_with(broker: &Connection, commands: &Batch) -> Buffer {
    let buffer = broker.create_buffer(commands.bytes().max(8)).expect("there is room");
    buffer.map().expect("fds are left").write_dwords(0, commands.dwords()).expect("it fits");
    buffer
}

/// A batch that stores one dword.
pub(crate) fn storing(address: u64, value: u32) -> Batch {
    let mut batch = Batch::new();
    batch.store_dword(address, value).end();
    batch
}

#[track_caller]
pub(crate) fn dword(buffer: &Buffer, offset: u64) -> u32 {
    buffer.map().expect("fds are left").load_u32(offset).expect("it is inside")
}

/// Waits for work, which must not have been lost.
#[track_caller]
pub(crate) fn completed(fence: &Fence) {
    assert_eq!(fence.wait(LONG).expect("the daemon lives"), FenceState::Signalled);
}

/// SETPARAM of a number.
pub(crate) fn set(context: &Context, number: u64, value: u64) -> Result<(), Error> {
    context.set_param(ContextParam::scalar(number, value)).map(drop)
}
