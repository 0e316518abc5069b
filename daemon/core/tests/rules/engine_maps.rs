//! Engine maps (rule table §6) and what is found only at materialisation (§7).

use gpu_broker_core::Capabilities;
use gpu_broker_core::hands::Slot;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;

use crate::refused;
use crate::rig::*;

const GAP: EngineId = EngineId::GAP;

#[test]
fn sizes_and_slots() {
    let rig = rig();
    let sized = |size| ContextParam { size, ..map(&[RCS, BCS]) };
    for size in [0, 7, 9, 10, 15] {
        refused!(ParamSize, rig.set(rig.create(), sized(size)));
    }
    refused!(ParamPayload, rig.set(rig.create(), sized(20)));
    refused!(TooManyEngines, rig.set(rig.create(), map(&[RCS; 65])));
    rig.set(rig.create(), map(&[RCS; 64])).unwrap();
    refused!(NoSuchEngine, rig.set(rig.create(), map(&[RCS, engine(2, 2)])));
    // The kernel takes 0x100 for 0; we do not (rule table §0.9).
    refused!(NoSuchEngine, rig.set(rig.create(), map(&[engine(0x100, 0)])));
    refused!(NoSuchEngine, rig.set(rig.create(), map(&[engine(0, 0x100)])));
    refused!(NoSuchEngine, rig.set(rig.create(), map(&[engine(0xffff, 0)])));
}

#[test]
fn a_map_is_set_once_and_a_failed_one_can_be_retried() {
    let rig = rig();
    let context = rig.create();
    refused!(NoSuchEngine, rig.set(context, map(&[engine(7, 0)])));
    rig.set(context, map(&[BCS])).unwrap();
    refused!(EnginesAlreadySet, rig.set(context, map(&[BCS])));
    rig.materialise(context);
    assert_eq!(rig.device.last_made().engines, Some(vec![Slot::Physical(BCS)]));
}

#[test]
fn an_empty_map_runs_nothing() {
    let rig = rig();
    let context = rig.create();
    rig.set(context, map(&[])).unwrap();
    let buffer = rig.buffer(1);
    refused!(ExecEngine, rig.run(context, &[object(buffer)]));
}

#[test]
fn load_balance() {
    let rig = rig();
    let set = |slots: &[EngineId], extensions| rig.set(rig.create(), map_with(slots, extensions));
    let both = [VCS0, VCS1];
    refused!(EngineSlotRange, set(&[GAP], vec![balance(1, &both)]));
    refused!(EngineSlotOccupied, set(&[RCS], vec![balance(0, &both)]));
    assert_eq!(errno(&set(&[RCS], vec![balance(0, &both)])), EEXIST);
    refused!(SiblingUnknown, set(&[GAP], vec![balance(0, &[VCS0, engine(2, 7)])]));
    // Slot before reserved fields, reserved fields before siblings.
    let reserved = |index, mbz64| {
        let engines = vec![engine(9, 9)];
        let body = EngineExtension::LoadBalance { engine_index: index, flags: 0, mbz64, engines };
        Extension::new(EngineExtension::LOAD_BALANCE, body)
    };
    refused!(EngineSlotOccupied, set(&[RCS], vec![reserved(0, 1)]));
    refused!(ReservedNotZero, set(&[GAP], vec![reserved(0, 1)]));
    let old = rig_with(Capabilities { has_execlists: false, ..kbl() }, NOBODY);
    refused!(BalancingUnsupported, old.set(old.create(), map_with(&[], vec![balance(9, &both)])));

    let context = rig.create();
    let extensions = vec![balance(0, &both), balance(1, &[VCS1]), balance(2, &[])];
    rig.set(context, map_with(&[GAP; 3], extensions)).unwrap();
    rig.materialise(context);
    let slots = vec![Slot::Balanced(both.to_vec()), Slot::Physical(VCS1), Slot::Gap];
    assert_eq!(rig.device.last_made().engines, Some(slots));
}

#[test]
fn impossible_siblings_are_found_at_materialisation_and_leave_the_proto() {
    let rig = rig();
    for siblings in [[VCS0, VCS0], [VCS0, BCS]] {
        let context = rig.create();
        rig.set(context, map_with(&[GAP], vec![balance(0, &siblings)])).unwrap();
        for _ in 0..2 {
            refused!(SiblingsInvalid, rig.get(context, number::PRIORITY));
            assert!(!rig.is_live(context));
        }
        rig.set(context, ContextParam::priority(-1)).unwrap();
        rig.destroy(context).unwrap();
    }
    assert_eq!(rig.device.counts(), (1, 1, 0), "a failed materialisation left something behind");
}

fn bond(
    index: u16,
    master: EngineId,
    flags: u64,
    engines: &[EngineId],
) -> Extension<EngineExtension> {
    let body = EngineExtension::Bond {
        master,
        virtual_index: index,
        flags,
        mbz64: [0; 4],
        engines: engines.to_vec(),
    };
    Extension::new(EngineExtension::BOND, body)
}

#[test]
fn bonds_are_checked_and_ignored() {
    let rig = rig();
    let set = |rig: &Rig, slots: &[EngineId], extension| {
        rig.set(rig.create(), map_with(slots, vec![extension]))
    };
    refused!(EngineSlotRange, set(&rig, &[VCS0], bond(1, RCS, 0, &[])));
    refused!(BondSlot, set(&rig, &[GAP], bond(0, RCS, 1, &[])));
    refused!(ReservedNotZero, set(&rig, &[VCS0], bond(0, engine(9, 9), 1, &[])));
    refused!(SiblingUnknown, set(&rig, &[VCS0], bond(0, engine(9, 9), 0, &[])));
    refused!(SiblingUnknown, set(&rig, &[VCS0], bond(0, RCS, 0, &[engine(9, 9)])));
    let virtual_slot = vec![balance(0, &[VCS0, VCS1]), bond(0, RCS, 0, &[])];
    refused!(BondSlot, rig.set(rig.create(), map_with(&[GAP], virtual_slot)));
    let context = rig.create();
    rig.set(context, map_with(&[VCS0], vec![bond(0, RCS, 0, &[VCS1])])).unwrap();
    rig.materialise(context);
    assert_eq!(rig.device.last_made().engines, Some(vec![Slot::Physical(VCS0)]));
    // The media driver falls back to PARALLEL_SUBMIT on ENODEV and on nothing else.
    let newer = rig_with(Capabilities { has_bonds: false, ..kbl() }, NOBODY);
    assert_eq!(errno(&set(&newer, &[VCS0], bond(7, engine(9, 9), 1, &[]))), ENODEV);
    let guc = rig_with(Capabilities { guc: true, ..kbl() }, NOBODY);
    refused!(SiblingUnknown, set(&guc, &[VCS0], bond(0, engine(9, 9), 0, &[])));
    assert_eq!(errno(&set(&guc, &[VCS0], bond(0, RCS, 0, &[engine(9, 9)]))), ENODEV);
}

#[test]
fn parallel_submit() {
    let rig = rig();
    let set =
        |slots: &[EngineId], extension| rig.set(rig.create(), map_with(slots, vec![extension]));
    let both = [VCS0, VCS1];
    refused!(ParallelShape, set(&[GAP], parallel(9, 2, 2, &both)));
    refused!(EngineSlotRange, set(&[GAP], parallel(1, 2, 1, &both)));
    refused!(ParallelSlotOccupied, set(&[VCS0], parallel(0, 2, 1, &both)));
    assert_eq!(errno(&set(&[VCS0], parallel(0, 2, 1, &both))), EINVAL);
    refused!(ParallelShape, set(&[GAP], parallel(0, 1, 1, &both)));
    refused!(ParamPayload, set(&[GAP], parallel(0, 3, 1, &both)));
    refused!(SiblingUnknown, set(&[GAP], parallel(0, 2, 1, &[VCS0, engine(2, 2)])));
    refused!(ParallelEngine, set(&[GAP], parallel(0, 2, 1, &[RCS, RCS])));
    refused!(ParallelEngine, set(&[GAP], parallel(0, 2, 1, &[VCS0, BCS])));
    refused!(ParallelEngine, set(&[GAP], parallel(0, 2, 1, &[VCS1, VCS0])));
    refused!(ParallelEngine, set(&[GAP], parallel(0, 2, 1, &[VCS0, VCS0])));
    let context = rig.create();
    rig.set(context, map_with(&[GAP], vec![parallel(0, 2, 1, &both)])).unwrap();
    rig.materialise(context);
    let slot = Slot::Parallel { width: 2, engines: both.to_vec() };
    assert_eq!(rig.device.last_made().engines, Some(vec![slot]));
    let single = rig.create_with(create_flag::SINGLE_TIMELINE, Vec::new()).unwrap();
    refused!(
        ParallelSingleTimeline,
        rig.set(single, map_with(&[GAP], vec![parallel(0, 2, 1, &both)]))
    );
}

#[test]
fn names_and_bodies_must_agree() {
    let rig = rig();
    let set = |extension| rig.set(rig.create(), map_with(&[GAP], vec![extension]));
    refused!(ExtensionUnknown, set(Extension::new(3, EngineExtension::Unknown)));
    refused!(ExtensionUnknown, set(Extension::new(2, balance(0, &[]).body)));
    refused!(ReservedNotZero, set(Extension { flags: 1, ..balance(0, &[]) }));
    refused!(ReservedNotZero, set(Extension { rsvd: [0, 0, 0, 1], ..balance(0, &[]) }));
}
