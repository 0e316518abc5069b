//! Address spaces, memory, and what a context remembers.

use rustix::io::Errno;

use super::asm::Asm;
use super::rig::*;
use crate::{Device, DeviceFile, EngineSlot, Placement};

/// General purpose register 0 of an engine.
const fn gpr0(base: u32) -> u32 {
    base + 0x600
}

pub(crate) fn requests_keep_their_address_space<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, old, new) = (rig.mem(), rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).store(old.at(0), 1).end();
    let work = rig.submit(&context, &Job::on(RCS0), &batch, &[gate.shared(), old.shared()]);
    rig.file.unbind(&vm, old.address, old.size);
    rig.file.unbind(&vm, gate.address, gate.size);
    let batch = Asm::new().store(old.at(0), 2).end();
    rig.run(&context, &Job::on(BCS0), &batch, &[new.shared_at(old.address)]);
    assert_eq!((old.get(0), new.get(0)), (0, 2));
    gate.set(0, 1);
    rig.finish(&work);
    assert_eq!((old.get(0), new.get(0)), (1, 2));
    // What is unbound is gone for later work.
    rig.file.unbind(&vm, old.address, old.size);
    let (other, tag) = rig.context(&vm);
    let lost = rig.submit(&other, &Job::on(BCS0), &batch, &[]);
    rig.guilty(&lost, tag);
}

pub(crate) fn replaced_parts_of_a_binding<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let big = rig.sized(3 * 4096);
    let small = rig.mem();
    let job = Job::on(RCS0);
    let third = 2 * 4096 / 4;
    let batch = Asm::new().end();
    rig.run(&context, &job, &batch, &[big.shared()]);
    let batch = Asm::new().store(big.at(0), 1).store(big.at(1024), 2).store(big.at(third), 3).end();
    rig.run(&context, &job, &batch, &[small.shared_at(big.address + 4096)]);
    assert_eq!((big.get(0), big.get(1024), big.get(third)), (1, 0, 3));
    assert_eq!(small.get(0), 2);
    rig.file.unbind(&vm, big.address, big.size);
    let (other, tag) = rig.context(&vm);
    let gone = rig.submit(&other, &job, &Asm::new().store(big.at(third), 4).end(), &[]);
    rig.guilty(&gone, tag);
}

pub(crate) fn registers_belong_to_a_slot<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let context = rig.mapped(&vm, &[0, 1].map(|_| EngineSlot::Physical(RCS0)));
    let (other, _) = rig.context(&vm);
    let data = rig.mem();
    let job = Job::on(RCS0);
    let second = Job { slot: 1, ..Job::on(RCS0) };
    let load = |value| Asm::new().load_register(gpr0(0x2000), value).end();
    let store = |index| Asm::new().store_register(gpr0(0x2000), data.at(index)).end();
    rig.run(&context, &job, &load(5), &[]);
    rig.run(&other, &job, &load(6), &[]);
    rig.run(&context, &job, &store(0), &[data.shared()]);
    rig.run(&other, &job, &store(1), &[data.shared()]);
    rig.run(&context, &second, &store(2), &[data.shared()]);
    assert_eq!([data.get(0), data.get(1), data.get(2)], [5, 6, 0]);
}

pub(crate) fn a_virtual_engine_keeps_its_state<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let data = rig.mem();
    let on = |engine| Job { slot: 0, ..Job::on(engine) };
    // The same slot on one engine, then on the other: as when the first is busy.
    rig.run(&context, &on(VCS0), &Asm::new().load_register(gpr0(0x1_2000), 5).end(), &[]);
    let store = Asm::new().store_register(gpr0(0x1_c000), data.at(0)).end();
    rig.run(&context, &on(VCS1), &store, &[data.shared()]);
    assert_eq!(data.get(0), 5);
    let any = Job::at(0, Placement::AnyOf(&[VCS0, VCS1]));
    rig.run(&context, &any, &Asm::new().store(data.at(1), 6).end(), &[data.shared()]);
    assert_eq!(data.get(1), 6);
}

pub(crate) fn memory_starts_zeroed<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let data = rig.mem();
    data.set(0, 1);
    let fresh = rig.mem();
    let batch = Asm::new().copy(data.at(0), fresh.at(0)).copy(data.at(1), fresh.at(1023)).end();
    data.set(1, 1);
    rig.run(&context, &Job::on(RCS0), &batch, &[data.shared(), fresh.shared()]);
    assert_eq!((data.get(0), data.get(1)), (0, 0));
}

pub(crate) fn shared_buffers_cannot_shrink<D: Device>(rig: &Rig<D>) {
    let buffer = rig.file.create_buffer(8192).unwrap();
    let (fd, _) = rig.file.share_buffer(&buffer).unwrap();
    assert_eq!(rustix::fs::ftruncate(&fd, 4096), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&fd, 1 << 20), Err(Errno::PERM));
}
