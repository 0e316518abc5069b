//! How requests start: on which engine, together with what, and with which relocations.

use std::os::fd::AsFd;

use super::asm::Asm;
use super::fences::stuck;
use super::rig::*;
use super::schedule::occupy;
use crate::soft::sys::Mapping;
use crate::{Device, DeviceError, DeviceFile, FenceState, Patch, Placement};

pub(crate) fn one_context_keeps_both_video_engines_busy<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let gate = rig.mem();
    let siblings = [VCS0, VCS1];
    let batch = |index| Asm::new().store(gate.at(index), 1).wait(gate.at(0), 1).end();
    let submit = |slot: u32| {
        let job = Job::at(slot, Placement::AnyOf(&siblings));
        rig.submit(&context, &job, &batch(u64::from(slot)), &[gate.shared()])
    };
    let pending: Vec<_> = (1..=4).map(submit).collect();
    eventually("all four run", || (1..=4).all(|index| gate.get(index) == 1));
    let queued = rig.device.engine_usage().iter().map(|usage| usage.queued).collect::<Vec<_>>();
    assert_eq!(queued, [0, 0, 2, 2, 0], "two on each video engine");
    gate.set(0, 1);
    pending.iter().for_each(|pending| rig.finish(pending));
    let usage = rig.device.engine_usage();
    assert_eq!((usage[2].completed, usage[3].completed), (2, 2));
    assert!(usage[2].busy_ns > 0 && usage[3].busy_ns > 0);
}

pub(crate) fn parallel_batches_start_together<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (other, _)) = (rig.context(&vm), rig.context(&vm));
    let (gate, data) = (rig.mem(), rig.mem());
    let occupied = occupy(rig, VCS1, &gate);
    let batches = [0, 1].map(|index| rig.batch(&Asm::new().store(data.at(index), 1).end()));
    let job = Job::at(0, Placement::Parallel(&[VCS0, VCS1]));
    let [first, second] = &batches;
    let work = rig.submit_all(&context, &job, &[first, second], &[data.shared()]);
    // The first batch had its turn on the idle engine before this one has.
    rig.run(&other, &Job::on(VCS0), &Asm::new().store(data.at(2), 1).end(), &[data.shared()]);
    assert_eq!([0, 1, 2].map(|index| data.get(index)), [0, 0, 1]);
    assert_eq!(rig.state(&work), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&work);
    rig.finish(&occupied);
    assert_eq!([0, 1].map(|index| data.get(index)), [1, 1]);
}

pub(crate) fn requests_start_along_with_others<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (other, _)) = (rig.context(&vm), rig.context(&vm));
    let (gate, busy, data) = (rig.mem(), rig.mem(), rig.mem());
    // It is queued behind something else, so that it has not started.
    let occupied = occupy(rig, RCS0, &busy);
    let first = stuck(rig, &context, &Job::on(RCS0), &gate);
    let along = [first.fence.clone()];
    let job = Job { along: &along, ..Job::on(BCS0) };
    let batch = Asm::new().store(data.at(0), 1).end();
    let second = rig.submit(&other, &job, &batch, &[data.shared()]);
    rig.run(&context, &Job::on(BCS0), &Asm::new().end(), &[]);
    assert_eq!((rig.state(&second), data.get(0)), (FenceState::Pending, 0));
    busy.set(0, 1);
    rig.finish(&second);
    assert_eq!((rig.state(&first), data.get(0)), (FenceState::Pending, 1), "started, not ended");
    gate.set(0, 1);
    rig.finish(&first);
    rig.finish(&occupied);
}

pub(crate) fn starting_along_is_starting_not_ending<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (other, _)) = (rig.context(&vm), rig.context(&vm));
    let data = rig.mem();
    // The first cannot end before the second ran.
    let batch = Asm::new().wait(data.at(0), 1).end();
    let first = rig.submit(&context, &Job::on(RCS0), &batch, &[data.shared()]);
    let along = [first.fence.clone()];
    let job = Job { along: &along, ..Job::on(BCS0) };
    let batch = Asm::new().store(data.at(0), 1).end();
    let second = rig.submit(&other, &job, &batch, &[data.shared()]);
    rig.finish(&second);
    rig.finish(&first);
    // What ended has started.
    rig.run(&other, &job, &Asm::new().end(), &[]);
}

pub(crate) fn starting_along_with_what_never_starts<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((lost, _), (other, _)) = (rig.context(&vm), rig.context(&vm));
    let (busy, data) = (rig.mem(), rig.mem());
    let occupied = occupy(rig, RCS0, &busy);
    let first = rig.submit(&lost, &Job::on(RCS0), &Asm::new().end(), &[]);
    let along = [first.fence.clone()];
    let job = Job { along: &along, ..Job::on(BCS0) };
    let batch = Asm::new().store(data.at(0), 1).end();
    let second = rig.submit(&other, &job, &batch, &[data.shared()]);
    assert_eq!(rig.state(&second), FenceState::Pending);
    rig.file.cancel_context(&lost);
    assert_eq!(rig.wait(&first), FenceState::Failed(5));
    rig.finish(&second);
    assert_eq!(data.get(0), 1);
    busy.set(0, 1);
    rig.finish(&occupied);
}

pub(crate) fn merged_fences_start_with_the_last<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let contexts: [_; 3] = std::array::from_fn(|_| rig.context(&vm).0);
    let (gate, busy, data) = (rig.mem(), rig.mem(), rig.mem());
    let runs = stuck(rig, &contexts[0], &Job::on(VCS0), &gate);
    let occupied = occupy(rig, RCS0, &busy);
    let queued = stuck(rig, &contexts[1], &Job::on(RCS0), &gate);
    let along = [rig.file.merge_fences(&runs.fence, &queued.fence)];
    let job = Job { along: &along, ..Job::on(BCS0) };
    let batch = Asm::new().store(data.at(0), 1).end();
    let last = rig.submit(&contexts[2], &job, &batch, &[data.shared()]);
    assert_eq!(rig.state(&last), FenceState::Pending);
    busy.set(0, 1);
    rig.finish(&last);
    assert_eq!(rig.state(&runs), FenceState::Pending);
    assert_eq!(rig.state(&queued), FenceState::Pending);
    gate.set(0, 1);
    [runs, queued, occupied].iter().for_each(|pending| rig.finish(pending));
}

pub(crate) fn the_timestamp_is_the_engines<D: Device>(rig: &Rig<D>) {
    const TIMESTAMP: u32 = 0x2358;
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let data = rig.mem();
    let before = rig.file.timestamp();
    let batch = Asm::new().store_register(TIMESTAMP, data.at(0)).end();
    rig.run(&context, &Job::on(RCS0), &batch, &[data.shared()]);
    let after = rig.file.timestamp();
    let ticks = u64::from(data.get(0));
    assert!(before <= ticks && ticks <= after, "{before} {ticks} {after}");
}

pub(crate) fn what_runs_outlives_its_handles<D: Device>(rig: &Rig<D>) {
    let gate = rig.mem();
    let (work, fd) = {
        let vm = rig.vm();
        let (context, _) = rig.context(&vm);
        let data = rig.mem();
        let batch = Asm::new().wait(gate.at(0), 1).store(data.at(3), 9).end();
        let work = rig.submit(&context, &Job::on(RCS0), &batch, &[gate.shared(), data.written()]);
        let fd = rig.file.share_buffer(&data.buffer).unwrap().0;
        rig.file.close_context(context, false);
        (work, fd)
    };
    assert_eq!(rig.state(&work), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&work);
    let mut bytes = [0; 4];
    Mapping::new(fd.as_fd(), 4096).unwrap().read(12, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 9);
}

/// A batch that stores the value of its dword 3 at the address in its dwords 1 and 2.
fn relocated(value: u32) -> Vec<u8> {
    Asm::new().store(0, value).end()
}

const fn at_address(object: usize, value: u64) -> Patch {
    Patch { object, offset: 4, value }
}

pub(crate) fn relocations_are_written_before_the_batch<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (data, batch) = (rig.mem(), rig.batch(&relocated(6)));
    // Object 0 is the data, object 1 the batch. In order: the last one counts.
    let patches = [at_address(1, data.at(1)), at_address(1, data.at(2))];
    let job = Job { patches: &patches, ..Job::on(RCS0) };
    rig.finish(&rig.submit_all(&context, &job, &[&batch], &[data.written()]));
    assert_eq!(data.get(2), 6);
    assert_eq!(u64::from(batch.get(1)) | u64::from(batch.get(2)) << 32, data.at(2));
}

pub(crate) fn relocations_wait_for_whoever_uses_the_memory<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (other, _)) = (rig.context(&vm), rig.context(&vm));
    let (gate, data, batch) = (rig.mem(), rig.mem(), rig.batch(&relocated(6)));
    // Somebody reads the batch; and the object is asynchronous, which is for other uses of it.
    let reader = Asm::new().wait(gate.at(0), 1).copy(data.at(0), batch.at(1)).end();
    let uses = [gate.shared(), data.shared(), batch.read()];
    let reader = rig.submit(&other, &Job::on(BCS0), &reader, &uses);
    let patches = [at_address(1, data.at(2))];
    let job = Job { patches: &patches, ..Job::on(RCS0) };
    let work = rig.submit_all(&context, &job, &[], &[data.shared(), batch.shared()]);
    assert_eq!((rig.state(&work), batch.get(1)), (FenceState::Pending, 0));
    // And who reads it later gets to see them.
    let later = Asm::new().copy(data.at(1), batch.at(1)).end();
    let later = rig.submit(&other, &Job::on(VCS0), &later, &[data.shared(), batch.read()]);
    assert_eq!(rig.state(&later), FenceState::Pending);
    gate.set(0, 1);
    [&reader, &work, &later].into_iter().for_each(|pending| rig.finish(pending));
    let low = u32::try_from(data.at(2) & 0xffff_ffff).unwrap();
    assert_eq!([0, 1, 2].map(|index| data.get(index)), [0, low, 6]);
}

pub(crate) fn relocations_outside_their_object_are_refused<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let batch = rig.batch(&Asm::new().end());
    for (object, offset) in [(0, 4089), (0, u64::MAX - 3), (1, 0)] {
        let patches = [Patch { object, offset, value: 0 }];
        let job = Job { patches: &patches, ..Job::on(RCS0) };
        let refused = rig.try_submit(&context, &job, &[&batch], &[]).err();
        assert!(
            matches!(refused, Some(DeviceError::Os { errno: 22, .. })),
            "{object} {offset}: {refused:?}"
        );
    }
}
