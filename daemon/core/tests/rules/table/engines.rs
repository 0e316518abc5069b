//! §6.

use gpu_broker_core::Capabilities;
use gpu_broker_core::hands::Slot;
use gpu_broker_protocol::Refusal;
use gpu_broker_protocol::message::ParamSet;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;

use super::Book;
use crate::rig::*;

const GAP: EngineId = EngineId::GAP;
const NOWHERE: EngineId = EngineId { class: 9, instance: 9 };

type Node = Extension<EngineExtension>;

fn set(rig: &Rig, slots: &[EngineId], nodes: Vec<Node>) -> Result<ParamSet, Refusal> {
    rig.set(rig.create(), map_with(slots, nodes))
}

/// The map that the device gets.
fn made(rig: &Rig, slots: &[EngineId], nodes: Vec<Node>) -> Vec<Slot> {
    let context = rig.create();
    rig.set(context, map_with(slots, nodes)).unwrap();
    rig.materialise(context);
    rig.device.last_made().engines.unwrap()
}

pub(super) fn check(book: &mut Book) {
    maps(book);
    load_balance(book);
    bond(book);
    bond_on_other_devices(book);
    parallel_submit(book);
    parallel_engines(book);
}

fn maps(book: &mut Book) {
    let rig = rig();
    let sized = |size| ContextParam { size, ..map(&[RCS, BCS]) };
    for size in [0, 4, 7, 9, 10, 11] {
        book.errno("6/size", EINVAL, rig.set(rig.create(), sized(size)));
    }
    book.errno("6/count", 0, rig.set(rig.create(), map(&[RCS; 64])));
    book.errno("6/count", EINVAL, rig.set(rig.create(), map(&[NOWHERE; 65])));
    book.errno("6/payload", EFAULT, rig.set(rig.create(), sized(20)));
    book.effect("6/gap", made(&rig, &[GAP, BCS], Vec::new()) == [Slot::Gap, Slot::Physical(BCS)]);
    for wrong in [NOWHERE, engine(2, 2), engine(0xffff, 0), engine(0, 0xffff), engine(0x100, 0)] {
        book.errno("6/unknown", ENOENT, rig.set(rig.create(), map(&[RCS, wrong])));
    }
    let context = rig.create();
    book.errno("6/retry", ENOENT, rig.set(context, map(&[NOWHERE])));
    book.errno("6/retry", EINVAL, rig.set(context, map_with(&[RCS], vec![balance(7, &[])])));
    book.errno("6/retry", 0, rig.set(context, map(&[])));
    book.errno("6/set", EINVAL, rig.set(context, map(&[RCS])));
    for name in [3, 4, u32::MAX] {
        let node = Extension::new(name, EngineExtension::Unknown);
        book.errno("6/names", EINVAL, set(&rig, &[GAP], vec![node]));
    }
    book.errno("6/names", EINVAL, set(&rig, &[GAP], vec![Node { name: 1, ..balance(0, &[]) }]));
}

fn load_balance(book: &mut Book) {
    let rig = rig();
    let old = rig_with(Capabilities { has_execlists: false, ..kbl() }, NOBODY);
    let both = [VCS0, VCS1];
    book.errno("6.0/execlists", ENODEV, set(&old, &[], vec![balance(9, &both)]));
    book.errno("6.0/index", EINVAL, set(&rig, &[GAP], vec![balance(1, &both)]));
    book.errno("6.0/occupied", EEXIST, set(&rig, &[RCS], vec![balance(0, &[NOWHERE])]));
    let twice = vec![balance(0, &both), balance(0, &both)];
    book.errno("6.0/occupied", EEXIST, set(&rig, &[GAP], twice));
    for (flags, mbz64) in [(1, 0), (0, 1)] {
        let body = |engine_index| {
            let engines = vec![NOWHERE];
            let body = EngineExtension::LoadBalance { engine_index, flags, mbz64, engines };
            vec![Extension::new(EngineExtension::LOAD_BALANCE, body)]
        };
        book.errno("6.0/reserved", EINVAL, set(&rig, &[GAP], body(0)));
        book.errno("6.0/occupied", EEXIST, set(&rig, &[RCS], body(0)));
    }
    book.errno("6.0/siblings", EINVAL, set(&rig, &[GAP], vec![balance(0, &[VCS0, NOWHERE])]));
    let nodes = vec![balance(0, &[]), balance(1, &[VCS1]), balance(2, &both)];
    let slots = [Slot::Gap, Slot::Physical(VCS1), Slot::Balanced(both.to_vec())];
    book.effect("6.0/count", made(&rig, &[GAP; 3], nodes) == slots);
    for siblings in [[VCS0, VCS0], [VCS0, BCS]] {
        let context = rig.create();
        let map = map_with(&[GAP], vec![balance(0, &siblings)]);
        book.errno("6.0/late", 0, rig.set(context, map));
        book.errno("6.0/late", EINVAL, rig.stats(context));
        book.effect("6.0/late", !rig.is_live(context));
    }
}

fn bond_node(index: u16, master: EngineId, reserved: u64, engines: &[EngineId]) -> Vec<Node> {
    let body = EngineExtension::Bond {
        master,
        virtual_index: index,
        flags: reserved & 1,
        mbz64: [0, 0, 0, reserved & 2],
        engines: engines.to_vec(),
    };
    vec![Extension::new(EngineExtension::BOND, body)]
}

fn bond(book: &mut Book) {
    let rig = rig();
    book.errno("6.1/index", EINVAL, set(&rig, &[VCS0], bond_node(1, RCS, 0, &[])));
    book.errno("6.1/slot", EINVAL, set(&rig, &[GAP], bond_node(0, RCS, 0, &[])));
    let mut nodes = vec![balance(0, &[VCS0, VCS1])];
    nodes.extend(bond_node(0, RCS, 0, &[]));
    book.errno("6.1/slot", EINVAL, set(&rig, &[GAP], nodes));
    for reserved in [1, 2] {
        let node = bond_node(0, NOWHERE, reserved, &[]);
        book.errno("6.1/reserved", EINVAL, set(&rig, &[VCS0], node));
    }
    book.errno("6.1/master", EINVAL, set(&rig, &[VCS0], bond_node(0, NOWHERE, 0, &[])));
    book.errno("6.1/bonds", EINVAL, set(&rig, &[VCS0], bond_node(0, RCS, 0, &[VCS1, NOWHERE])));
    // As the media driver does: one sibling makes it physical, and then it can be bonded.
    let mut nodes = vec![balance(0, &[VCS1])];
    nodes.extend(bond_node(0, VCS0, 0, &[VCS1]));
    book.effect("6.1/ignored", made(&rig, &[GAP], nodes) == [Slot::Physical(VCS1)]);
}

fn bond_on_other_devices(book: &mut Book) {
    let newer = rig_with(Capabilities { has_bonds: false, ..kbl() }, NOBODY);
    book.errno("6.1/version", ENODEV, set(&newer, &[], bond_node(7, NOWHERE, 3, &[])));
    let guc = rig_with(Capabilities { guc: true, ..kbl() }, NOBODY);
    book.errno("6.1/master", EINVAL, set(&guc, &[VCS0], bond_node(0, NOWHERE, 0, &[])));
    book.errno("6.1/guc", ENODEV, set(&guc, &[VCS0], bond_node(0, RCS, 0, &[NOWHERE])));
}

fn parallel_submit(book: &mut Book) {
    let rig = rig();
    let both = [VCS0, VCS1];
    book.errno("6.2/siblings", EINVAL, set(&rig, &[GAP], vec![parallel(9, 2, 2, &both)]));
    book.errno("6.2/index", EINVAL, set(&rig, &[GAP], vec![parallel(1, 2, 1, &both)]));
    book.errno("6.2/occupied", EINVAL, set(&rig, &[RCS], vec![parallel(0, 2, 1, &both)]));
    for (flags, mbz64) in [(1, 0), (0, 1)] {
        let body = EngineExtension::ParallelSubmit {
            engine_index: 0,
            width: 2,
            num_siblings: 1,
            mbz16: 0,
            flags,
            mbz64: [0, 0, mbz64],
            engines: both.to_vec(),
        };
        let node = Extension::new(EngineExtension::PARALLEL_SUBMIT, body);
        book.errno("6.2/reserved", EINVAL, set(&rig, &[GAP], vec![node]));
    }
    for width in [0, 1] {
        book.errno("6.2/width", EINVAL, set(&rig, &[GAP], vec![parallel(0, width, 1, &[VCS0])]));
    }
    book.errno("6.2/payload", EFAULT, set(&rig, &[GAP], vec![parallel(0, 3, 1, &both)]));
    let single = rig.create_with(create_flag::SINGLE_TIMELINE, Vec::new()).unwrap();
    let map = map_with(&[GAP], vec![parallel(0, 2, 1, &both)]);
    book.errno("6.2/timeline", EINVAL, rig.set(single, map));
    let guc = rig_with(Capabilities { guc: true, ..kbl() }, NOBODY);
    book.errno("6.2/siblings", EINVAL, set(&guc, &[GAP], vec![parallel(0, 2, 0, &[])]));
}

fn parallel_engines(book: &mut Book) {
    let rig = rig();
    let both = [VCS0, VCS1];
    let refused = |engines: &[EngineId]| set(&rig, &[GAP], vec![parallel(0, 2, 1, engines)]);
    book.errno("6.2/engines", EINVAL, refused(&[VCS0, engine(2, 2)]));
    book.errno("6.2/class", EINVAL, refused(&[RCS, RCS]));
    book.errno("6.2/class", EINVAL, refused(&[VCS0, BCS]));
    book.errno("6.2/neighbours", EINVAL, refused(&[VCS1, VCS0]));
    book.errno("6.2/neighbours", EINVAL, refused(&[VCS0, VCS0]));
    let slots = made(&rig, &[GAP], vec![parallel(0, 2, 1, &both)]);
    book.effect("6.2/neighbours", slots == [Slot::Parallel { width: 2, engines: both.to_vec() }]);
}
