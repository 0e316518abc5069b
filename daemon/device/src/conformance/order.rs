//! What runs before what.

use super::asm::Asm;
use super::rig::*;
use crate::{Device, DeviceFile, EngineSlot, FenceState};

pub(crate) fn every_engine_executes<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let engines = [RCS0, BCS0, VCS0, VCS1, VECS0];
    let described: Vec<_> = rig.device.description().engines.iter().map(|e| e.engine).collect();
    assert_eq!(described, engines);
    for (engine, value) in engines.into_iter().zip(1..) {
        let data = rig.mem();
        let batch = Asm::new().store(data.at(5), value).end();
        rig.run(&context, &Job::on(engine), &batch, &[data.written()]);
        assert_eq!((data.get(4), data.get(5), data.get(6)), (0, value, 0), "{engine:?}");
    }
}

pub(crate) fn requests_of_a_slot_run_in_order<D: Device>(rig: &Rig<D>) {
    // A kernel's rings are short, and it waits for room in them.
    let count: u32 = if D::MAY_BLOCK { 20 } else { 100 };
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (data, gate) = (rig.mem(), rig.mem());
    let job = Job::on(RCS0);
    let first = Asm::new().wait(gate.at(0), 1).store(data.at(0), 0).end();
    let mut all = vec![rig.submit(&context, &job, &first, &[gate.shared(), data.shared()])];
    for index in 0..count {
        // Each leaves its number behind if it finds that of the one before.
        let batch = Asm::new()
            .wait(data.at(0), index)
            .copy(data.at(u64::from(index) + 1), data.at(0))
            .store(data.at(0), index + 1)
            .end();
        all.push(rig.submit(&context, &job, &batch, &[data.shared()]));
    }
    assert!(all.iter().all(|pending| rig.state(pending) == FenceState::Pending));
    gate.set(0, 1);
    all.iter().for_each(|pending| rig.finish(pending));
    for index in 0..count {
        assert_eq!(data.get(u64::from(index) + 1), index);
    }
}

/// A writer that is stuck until `gate` is 1, then stores 7.
pub(crate) fn stuck_writer<D: Device>(
    rig: &Rig<D>,
    context: &Context<D>,
    gate: &Mem<D>,
    data: &Mem<D>,
) -> Pending<D> {
    let batch = Asm::new().wait(gate.at(0), 1).store(data.at(0), 7).end();
    rig.submit(context, &Job::on(BCS0), &batch, &[gate.shared(), data.written()])
}

pub(crate) fn readers_wait_for_the_writer<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, data, out) = (rig.mem(), rig.mem(), rig.mem());
    let writer = stuck_writer(rig, &context, &gate, &data);
    let batch = Asm::new().copy(out.at(0), data.at(0)).end();
    let uses = [data.read(), out.written()];
    let reader = rig.submit(&context, &Job::on(RCS0), &batch, &uses);
    assert_eq!(rig.state(&reader), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&reader);
    assert_eq!(rig.state(&writer), FenceState::Signalled);
    assert_eq!(out.get(0), 7);
}

pub(crate) fn asynchronous_objects_do_not_wait<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, data, out) = (rig.mem(), rig.mem(), rig.mem());
    data.set(0, 3);
    let writer = stuck_writer(rig, &context, &gate, &data);
    let batch = Asm::new().copy(out.at(0), data.at(0)).end();
    rig.run(&context, &Job::on(RCS0), &batch, &[data.shared(), out.written()]);
    assert_eq!(out.get(0), 3);
    // An asynchronous writer does not stand for those it did not wait for: whoever comes later
    // waits for all.
    let second_gate = rig.mem();
    let batch = Asm::new().wait(second_gate.at(0), 1).end();
    let uses = [second_gate.shared(), data.shared()];
    let asynchronous = rig.submit(&context, &Job::on(VCS0), &batch, &uses);
    let batch = Asm::new().copy(out.at(1), data.at(0)).end();
    let reader = rig.submit(&context, &Job::on(RCS0), &batch, &[data.read(), out.written()]);
    second_gate.set(0, 1);
    rig.finish(&asynchronous);
    assert_eq!(rig.state(&reader), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&reader);
    rig.finish(&writer);
    assert_eq!(out.get(1), 7);
}

pub(crate) fn a_writer_waits_for_readers_and_they_not_for_each_other<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, data, out) = (rig.mem(), rig.mem(), rig.mem());
    data.set(0, 1);
    let batch = Asm::new().wait(gate.at(0), 1).copy(out.at(0), data.at(0)).end();
    let stuck =
        rig.submit(&context, &Job::on(BCS0), &batch, &[gate.shared(), data.read(), out.shared()]);
    let batch = Asm::new().copy(out.at(1), data.at(0)).end();
    rig.run(&context, &Job::on(RCS0), &batch, &[data.read(), out.shared()]);
    assert_eq!(out.get(1), 1);
    let batch = Asm::new().store(data.at(0), 2).end();
    let writer = rig.submit(&context, &Job::on(VCS0), &batch, &[data.written()]);
    assert_eq!(rig.state(&writer), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&writer);
    rig.finish(&stuck);
    assert_eq!((out.get(0), data.get(0)), (1, 2));
}

pub(crate) fn a_single_timeline_orders_all_slots<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let spec = crate::ContextSpec { single_timeline: true, ..Rig::<D>::spec(&vm, 1000) };
    let context = rig.file.create_context(spec).unwrap();
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).store(data.at(0), 1).end();
    let first = rig.submit(&context, &Job::on(BCS0), &batch, &[gate.shared(), data.shared()]);
    let batch = Asm::new().copy(data.at(1), data.at(0)).end();
    let second = rig.submit(&context, &Job::on(RCS0), &batch, &[data.shared()]);
    assert_eq!(rig.state(&second), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&second);
    assert_eq!(rig.state(&first), FenceState::Signalled);
    assert_eq!(data.get(1), 1);
}

pub(crate) fn slots_are_independent<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let context = rig.mapped(&vm, &[0, 1].map(|_| EngineSlot::Physical(RCS0)));
    let (gate, data) = (rig.mem(), rig.mem());
    let slot = |slot| Job { slot, ..Job::on(RCS0) };
    let batch = Asm::new().wait(gate.at(0), 1).end();
    let stuck = rig.submit(&context, &slot(0), &batch, &[gate.shared()]);
    let batch = Asm::new().store(data.at(0), 1).end();
    rig.run(&context, &slot(1), &batch, &[data.shared()]);
    assert_eq!(rig.state(&stuck), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&stuck);
}

pub(crate) fn requests_start_after_fences_of_any_file<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let other = rig.another();
    let other_vm = other.vm();
    let (other_context, _) = other.context(&other_vm);
    let (gate, data) = (rig.mem(), other.mem());
    let batch = Asm::new().wait(gate.at(0), 1).end();
    let stuck = rig.submit(&context, &Job::on(RCS0), &batch, &[gate.shared()]);
    let fd = rig.file.export_fence(&stuck.fence).unwrap();
    let after = [other.file.import_fence(std::os::fd::AsFd::as_fd(&fd)).unwrap()];
    let batch = Asm::new().store(data.at(0), 1).end();
    let job = Job { after: &after, ..Job::on(BCS0) };
    let later = other.submit(&other_context, &job, &batch, &[data.shared()]);
    assert_eq!(other.state(&later), FenceState::Pending);
    assert_eq!(data.get(0), 0);
    gate.set(0, 1);
    other.finish(&later);
    assert_eq!(data.get(0), 1);
}

pub(crate) fn a_failed_fence_lets_its_dependents_run<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (cancelled, _) = rig.context(&vm);
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).end();
    let stuck = rig.submit(&cancelled, &Job::on(RCS0), &batch, &[gate.shared()]);
    let after = [stuck.fence.clone()];
    let batch = Asm::new().store(data.at(0), 1).end();
    let job = Job { after: &after, ..Job::on(BCS0) };
    let later = rig.submit(&context, &job, &batch, &[data.shared()]);
    rig.file.close_context(cancelled, true);
    rig.finish(&later);
    assert_eq!(rig.state(&stuck), FenceState::Failed(5));
    assert_eq!(data.get(0), 1);
}
