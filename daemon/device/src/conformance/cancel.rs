//! How work ends before its time: cancelled, faulted, hung.

use super::asm::Asm;
use super::rig::*;
use crate::{ContextSpec, Device, DeviceError, DeviceEvent, DeviceFile, FenceState, Outcome};

const EIO: FenceState = FenceState::Failed(5);

/// A batch that goes round for ever and can be preempted.
fn spinner<D: Device>(rig: &Rig<D>) -> Mem<D> {
    let batch = rig.mem();
    batch.fill(&Asm::new().arb_check().jump(batch.address).unended());
    batch
}

pub(crate) fn a_cancelled_context_ends_at_once<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, tag) = rig.context(&vm);
    let spinning = rig.submit_all(&context, &Job::on(RCS0), &[&spinner(rig)], &[]);
    let (data, batch) = (rig.mem(), rig.mem());
    batch.fill(&Asm::new().store(data.at(0), 1).end());
    let queued = rig.submit_all(&context, &Job::on(RCS0), &[&batch], &[data.shared()]);
    assert_eq!(rig.state(&spinning), FenceState::Pending);
    rig.file.close_context(context, true);
    assert_eq!(rig.wait(&spinning), EIO);
    assert_eq!(rig.wait(&queued), EIO);
    assert_eq!(data.get(0), 0);
    // A kernel's fence has signalled before its request is reported.
    rig.file.settle();
    let outcomes: Vec<_> = rig.events.all().into_iter().collect();
    let cancelled = DeviceEvent::Completed { tag, outcome: Outcome::Cancelled };
    assert_eq!(outcomes, [cancelled.clone(), cancelled]);
    let (next, _) = rig.context(&vm);
    rig.run(&next, &Job::on(RCS0), &Asm::new().end(), &[]);
}

pub(crate) fn cancelling_reaches_what_waits_for_dependencies<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (holder, _)) = (rig.context(&vm), rig.context(&vm));
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).end();
    let stuck = rig.submit(&holder, &Job::on(RCS0), &batch, &[gate.shared()]);
    let after = [stuck.fence.clone()];
    let batch = Asm::new().store(data.at(0), 1).end();
    let job = Job { after: &after, ..Job::on(BCS0) };
    let later = rig.submit(&context, &job, &batch, &[data.shared()]);
    rig.file.cancel_context(&context);
    gate.set(0, 1);
    assert_eq!(rig.wait(&later), EIO);
    assert_eq!(data.get(0), 0);
    rig.finish(&stuck);
}

pub(crate) fn closing_without_cancel_lets_work_finish<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).store(data.at(0), 1).end();
    let work = rig.submit(&context, &Job::on(RCS0), &batch, &[gate.shared(), data.shared()]);
    rig.file.close_context(context, false);
    drop(vm);
    gate.set(0, 1);
    rig.finish(&work);
    assert_eq!(data.get(0), 1);
}

pub(crate) fn a_closed_context_hangs_once<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, tag) = rig.context(&vm);
    let (gate, data) = (rig.mem(), rig.mem());
    let crime = Asm::new().wait(gate.at(0), 1).raw(&[u32::MAX]).end();
    let first = rig.submit(&context, &Job::on(RCS0), &crime, &[gate.shared()]);
    let store = Asm::new().store(data.at(0), 1).end();
    let second = rig.submit(&context, &Job::on(RCS0), &store, &[data.shared()]);
    rig.file.close_context(context, false);
    gate.set(0, 1);
    rig.guilty(&first, tag);
    assert_eq!(rig.wait(&second), EIO, "rule table §12: a closed context counts as banned");
    assert_eq!(data.get(0), 0);
}

pub(crate) fn a_cancelled_context_accepts_nothing<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    rig.file.cancel_context(&context);
    let data = rig.mem();
    let batch = rig.batch(&Asm::new().store(data.at(0), 1).end());
    // Either it is taken and lost, or refused with the same error.
    match rig.try_submit(&context, &Job::on(RCS0), &[&batch], &[data.shared()]) {
        Ok(work) => assert_eq!(rig.wait(&work), EIO),
        Err(error) => assert!(matches!(error, DeviceError::Os { errno: 5, .. }), "{error}"),
    }
    assert_eq!(data.get(0), 0);
}

pub(crate) fn a_fault_blames_its_context_only<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((guilty, tag), (innocent, _)) = (rig.context(&vm), rig.context(&vm));
    let data = rig.mem();
    let batch = rig.mem();
    // Client 7 does not exist.
    batch.fill(&Asm::new().raw(&[0, 7 << 29]).end());
    let faulty = rig.submit_all(&guilty, &Job::on(VCS0), &[&batch], &[]);
    let report = rig.guilty(&faulty, tag);
    assert_eq!((report.engine, report.address), (VCS0, batch.at(1)));
    assert_eq!(rig.state(&faulty), EIO);
    let store = Asm::new().store(data.at(0), 1).end();
    rig.run(&innocent, &Job::on(VCS0), &store, &[data.written()]);
    assert_eq!(data.get(0), 1);
    // A context that can recover goes on.
    let store = Asm::new().store(data.at(0), 2).end();
    rig.run(&guilty, &Job::on(VCS0), &store, &[data.written()]);
    assert_eq!(data.get(0), 2);
    // What is not mapped faults as well, and says where.
    let unmapped = 0x7fff_0000_0000;
    let (other, tag) = rig.context(&vm);
    let batch = rig.batch(&Asm::new().raw(&[0, 0]).store(unmapped, 1).end());
    let report = rig.guilty(&rig.submit_all(&other, &Job::on(VCS0), &[&batch], &[]), tag);
    assert_eq!(report.address, batch.at(2));
    assert_eq!(report.command, "MI_STORE_DATA_IMM");
    assert!(report.what.contains("7fff00000000"), "{}", report.what);
}

pub(crate) fn a_context_that_cannot_recover_is_stopped<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let spec = ContextSpec { recoverable: false, ..Rig::<D>::spec(&vm, 3000) };
    let context = rig.file.create_context(spec).unwrap();
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).raw(&[7 << 29]).end();
    let faulty = rig.submit(&context, &Job::on(RCS0), &batch, &[gate.shared()]);
    let batch = Asm::new().store(data.at(0), 1).end();
    let next = rig.submit(&context, &Job::on(RCS0), &batch, &[data.shared()]);
    gate.set(0, 1);
    assert_eq!(rig.wait(&faulty), EIO);
    assert_eq!(rig.wait(&next), EIO);
    assert_eq!(data.get(0), 0);
}

pub(crate) fn an_endless_batch_is_guilty<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((guilty, tag), (innocent, _)) = (rig.context(&vm), rig.context(&vm));
    let batch = rig.mem();
    batch.fill(&Asm::new().jump(batch.address).unended());
    let endless = rig.submit_all(&guilty, &Job::on(RCS0), &[&batch], &[]);
    let data = rig.mem();
    let store = Asm::new().store(data.at(0), 1).end();
    let waiting = rig.submit(&innocent, &Job::on(RCS0), &store, &[data.written()]);
    let report = rig.guilty(&endless, tag);
    assert_eq!((report.engine, report.batch), (RCS0, batch.address), "{report:?}");
    rig.died_at(&report, batch.address);
    rig.finish(&waiting);
    assert_eq!(data.get(0), 1);
}

pub(crate) fn an_endless_wait_without_arbitration_is_guilty<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (guilty, tag) = rig.context(&vm);
    let gate = rig.mem();
    let batch = rig.batch(&Asm::new().arbitration(false).wait(gate.at(0), 1).end());
    let endless = rig.submit_all(&guilty, &Job::on(BCS0), &[&batch], &[gate.shared()]);
    let report = rig.guilty(&endless, tag);
    assert_eq!((report.engine, report.batch), (BCS0, batch.address), "{report:?}");
    rig.died_at(&report, batch.at(1));
}

pub(crate) fn chains_of_cancelled_requests_end<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let gate = rig.mem();
    let batch = rig.batch(&Asm::new().wait(gate.at(0), 1).end());
    let stuck = rig.submit_all(&context, &Job::on(RCS0), &[&batch], &[gate.shared()]);
    // Long enough to overflow the stack of a thread that completed them by recursion.
    let chain: Vec<_> =
        (0..20_000).map(|_| rig.submit_all(&context, &Job::on(RCS0), &[&batch], &[])).collect();
    rig.file.cancel_context(&context);
    assert_eq!(rig.wait(&stuck), EIO);
    assert_eq!(rig.wait(&chain[chain.len() - 1]), EIO);
}

/// Everything a file made goes when its last user goes: the file, a context, or work in flight.
pub(crate) fn everything_is_released<D: Device>(rig: &Rig<D>) {
    let other = rig.another();
    let events = std::sync::Arc::clone(&other.events);
    let gate = rig.mem();
    {
        let vm = other.vm();
        let ((finishes, _), (cancelled, _)) = (other.context(&vm), other.context(&vm));
        let data = other.mem();
        let batch = Asm::new().wait(data.at(0), 1).end();
        let work = other.submit(&finishes, &Job::on(RCS0), &batch, &[data.written()]);
        other.submit(&finishes, &Job::on(BCS0), &batch, &[data.written()]);
        other.submit(&cancelled, &Job::on(VCS0), &batch, &[data.written()]);
        other.submit_all(&cancelled, &Job::on(VCS1), &[&spinner(&other)], &[]);
        assert!(!other.file.watch_buffer(&data.buffer, 1));
        let fence = other.file.merge_fences(&work.fence, &work.fence);
        let _fd = other.file.export_fence(&fence).unwrap();
        other.file.close_context(cancelled, true);
        other.file.close_context(finishes, false);
        data.set(0, 1);
    }
    drop(other);
    eventually("the last reference to the events is ours", || {
        std::sync::Arc::strong_count(&events) == 1
    });
    let completed = |event: &DeviceEvent| matches!(event, DeviceEvent::Completed { .. });
    assert_eq!(events.all().iter().filter(|event| completed(event)).count(), 4);
    drop(gate);
}

/// Not of the suite: what a device that is gone answers.
#[cfg(test)]
pub(crate) fn refuses_when_lost<D: Device>(rig: Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let Rig { device, file, .. } = rig;
    drop(device);
    let submission = crate::Submission {
        slot: 0,
        placement: crate::Placement::One(RCS0),
        batches: &[crate::Batch { address: 0, length: 8 }],
        objects: &[],
        after: &[],
        along: &[],
        signals: &[],
        patches: &[],
        want_fence: false,
    };
    assert_eq!(file.submit(&context, submission).err(), Some(DeviceError::Lost));
}
