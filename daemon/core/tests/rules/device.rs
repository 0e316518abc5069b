//! GETPARAM, QUERY, aperture and timestamp (rule table §17; values as the stacks expect them of a
//! Kaby Lake GT3).

use gpu_broker_core::{Capabilities, SseuTopology};
use gpu_broker_protocol::object::*;
use gpu_broker_protocol::refusal::errno::*;

use crate::refused;
use crate::rig::*;

fn param(rig: &Rig, param: i32) -> Result<i32, i32> {
    let answer = rig.session.get_param(&GetParam { param });
    answer.map(|answer| answer.value).map_err(|refusal| refusal.errno())
}

#[test]
fn parameters_of_the_software_device() {
    let rig = rig();
    let ones =
        [5, 8, 9, 12, 13, 15, 16, 19, 21, 24, 25, 26, 29, 37, 43, 44, 45, 48, 49, 52, 53, 55, 56];
    for number in ones {
        assert_eq!(param(&rig, number), Ok(1), "parameter {number}");
    }
    for number in [7, 20, 23, 27, 28, 36, 38, 39, 59] {
        assert_eq!(param(&rig, number), Ok(0), "parameter {number}");
    }
    let values = [
        (4, 0x5926),
        (6, 32),
        (10, 1),
        (11, 1),
        (17, 1),
        (18, 3),
        (22, 1),
        (30, 1),
        (31, 1),
        (32, 6),
        (33, 6),
        (34, 48),
        (35, 2),
        (40, 4),
        (41, 7),
        (46, 0b11),
        (47, 0b111),
        (50, 0b1111),
        (51, 12_000_000),
        (54, 7),
        (57, 12_000_000),
    ];
    for (number, value) in values {
        assert_eq!(param(&rig, number), Ok(value), "parameter {number}");
    }
    for number in [1, 2, 3, 14, 42, 58] {
        assert_eq!(param(&rig, number), Err(ENODEV), "parameter {number}");
    }
    for number in [0, -1, 60, 1000, i32::MAX, i32::MIN] {
        assert_eq!(param(&rig, number), Err(EINVAL), "parameter {number}");
    }
    // Every number up to the last is one of these.
    assert_eq!(ones.len() + 9 + values.len() + 6, 59);
}

#[test]
fn parameters_follow_the_device() {
    let off = Capabilities { hangcheck: false, has_preemption: false, guc: true, ..kbl() };
    let rig = rig_with(Capabilities { pxp: true, full_ppgtt: false, ..off }, NOBODY);
    for (number, value) in [(35, 0), (41, 3), (59, 1), (58, 1), (18, 1)] {
        assert_eq!(param(&rig, number), Ok(value), "parameter {number}");
    }
    let mut caps = Capabilities { has_engine_reset: false, discrete: true, ..kbl() };
    caps.engines.truncate(1);
    let rig = rig_with(caps, NOBODY);
    for (number, value) in [(10, 0), (11, 0), (22, 0), (31, 0), (50, 1), (35, 1), (17, 0)] {
        assert_eq!(param(&rig, number), Ok(value), "parameter {number}");
    }
}

fn ask(rig: &Rig, id: u64, flags: u32) -> QueryAnswer {
    let query = Query { flags: 0, items: vec![QueryItem { id, flags }] };
    rig.session.query(&query).unwrap().answers.remove(0)
}

#[test]
fn queries() {
    let rig = rig();
    let item = |id| QueryItem { id, flags: 0 };
    let query = |flags, items: &[u64]| {
        let items = items.iter().copied().map(item).collect();
        rig.session.query(&Query { flags, items })
    };
    refused!(QueryFlags, query(1, &[2]));
    refused!(QueryFlags, query(0, &[2, 0]));
    assert_eq!(query(0, &[]).unwrap().answers, []);
    assert_eq!(query(0, &[8, 3, u64::MAX]).unwrap().answers.len(), 3);
    for id in [8, 9, u64::MAX] {
        assert_eq!(ask(&rig, id, 0), QueryAnswer::Error(EINVAL));
    }
    for id in [3, 5, 6, 7] {
        assert_eq!(ask(&rig, id, 0), QueryAnswer::Error(ENODEV), "item {id}");
    }
    for id in [1, 2, 4] {
        assert_eq!(ask(&rig, id, 1), QueryAnswer::Error(EINVAL), "item {id} has no flags");
    }
    let QueryAnswer::Engines(engines) = ask(&rig, 2, 0) else { panic!("no engines") };
    assert_eq!(engines.iter().map(|it| it.engine).collect::<Vec<_>>()[2..4], [VCS0, VCS1]);
    assert_eq!((engines.len(), engines[3].logical_instance, engines[3].flags), (5, 1, 1));
    let QueryAnswer::Regions(regions) = ask(&rig, 4, 0) else { panic!("no regions") };
    let [system] = &regions[..] else { panic!("{regions:?}") };
    assert_eq!((system.class, system.instance), (0, 0));
    assert!(system.probed_bytes > 0 && system.unallocated_bytes == system.probed_bytes);
}

#[test]
fn topology() {
    let told = |caps| {
        let answer = ask(&rig_with(caps, NOBODY), 1, 0);
        let QueryAnswer::Topology(topology) = answer else { panic!("{answer:?}") };
        topology
    };
    let kaby = Topology {
        max_slices: 2,
        max_subslices: 3,
        max_eus_per_subslice: 8,
        slice_mask: 0b11,
        subslice_masks: vec![0b111; 2],
        eu_masks: vec![0xff; 6],
    };
    assert_eq!(told(kbl()), kaby);
    // A slice and a subslice that are fused off leave holes.
    let sseu = SseuTopology { slice_mask: 0b101, subslice_mask: 0b110, eus_per_subslice: 4 };
    let holes = told(Capabilities { sseu, ..kbl() });
    assert_eq!((holes.max_slices, holes.max_subslices), (3, 3));
    assert_eq!(holes.subslice_masks, [0b110, 0, 0b110]);
    assert_eq!(holes.eu_masks, [0, 15, 15, 0, 0, 0, 0, 15, 15]);
}

#[test]
fn aperture_and_timestamp() {
    let rig = rig();
    let aperture = rig.session.aperture();
    assert_eq!((aperture.size, aperture.available), (1 << 32, 1 << 32));
    let read = |offset, now| rig.session.reg_read(&RegRead { offset }, now).map(|it| it.value);
    for offset in [0x2358, 0x2359] {
        assert_eq!(read(offset, 77).unwrap(), 77);
        assert_eq!(read(offset, (1 << 36) + 5).unwrap(), 5, "the register has 36 bits");
    }
    for offset in [0, 0x2357, 0x235a, 0x235c, 0x2358 | 1 << 32, u64::MAX] {
        refused!(RegisterUnknown, read(offset, 77));
    }
}
