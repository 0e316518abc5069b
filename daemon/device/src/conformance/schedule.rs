//! Engines: semaphores, turns, priorities, virtual and parallel slots, and many contexts.

use super::asm::Asm;
use super::rig::*;
use crate::{
    ContextSpec, ContextUpdate, Device, DeviceFile, EngineId, EngineSlot, FenceState, Placement,
};

pub(crate) fn a_semaphore_is_signalled_by_another_engine<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).store(data.at(0), 1).end();
    let waits = rig.submit(&context, &Job::on(RCS0), &batch, &[gate.shared(), data.shared()]);
    assert_eq!(rig.state(&waits), FenceState::Pending);
    let batch = Asm::new().store(gate.at(0), 1).end();
    rig.run(&context, &Job::on(VECS0), &batch, &[gate.shared()]);
    rig.finish(&waits);
    assert_eq!(data.get(0), 1);
}

pub(crate) fn a_semaphore_is_signalled_by_the_cpu<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (other, _)) = (rig.context(&vm), rig.context(&vm));
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = Asm::new().wait(gate.at(0), 1).store(data.at(0), 1).end();
    let waits = rig.submit(&context, &Job::on(RCS0), &batch, &[gate.shared(), data.shared()]);
    // A waiting batch does not keep others from the engine.
    rig.run(&other, &Job::on(RCS0), &Asm::new().end(), &[]);
    assert_eq!(rig.state(&waits), FenceState::Pending);
    gate.set(0, 2);
    rig.finish(&waits);
    assert_eq!(data.get(0), 1);
}

pub(crate) fn batches_take_turns<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((endless, _), (short, _)) = (rig.context(&vm), rig.context(&vm));
    let batch = rig.mem();
    let data = rig.mem();
    // A long loop in which only one command can be preempted.
    let mut round = Asm::new().arb_check();
    for _ in 0..100 {
        round = round.increment(data.at(0));
    }
    batch.fill(&round.jump(batch.address).unended());
    let spinning = rig.submit_all(&endless, &Job::on(RCS0), &[&batch], &[data.shared()]);
    for index in 1..20 {
        let store = Asm::new().store(data.at(index), 1).end();
        rig.run(&short, &Job::on(RCS0), &store, &[data.shared()]);
        assert_eq!(rig.state(&spinning), FenceState::Pending);
    }
    let (before, after) = (data.get(0), || data.get(0));
    eventually("the endless batch has its turns", || after() > before);
    rig.file.close_context(endless, true);
    assert_eq!(rig.wait(&spinning), FenceState::Failed(5));
}

/// A batch that occupies its engine until dword 0 of `gate` is 1, and says in dword 1 that it does.
pub(super) fn occupy<D: Device>(rig: &Rig<D>, engine: EngineId, gate: &Mem<D>) -> Pending<D> {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let batch = Asm::new().arbitration(false).store(gate.at(1), 1).wait(gate.at(0), 1).end();
    let pending = rig.submit(&context, &Job::on(engine), &batch, &[gate.shared()]);
    eventually("the batch has the engine", || gate.get(1) == 1);
    pending
}

pub(crate) fn a_virtual_engine_avoids_busy_siblings<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let siblings = [VCS0, VCS1];
    for busy in siblings {
        let context = rig.mapped(&vm, &[EngineSlot::Balanced(siblings.to_vec())]);
        let (gate, data) = (rig.mem(), rig.mem());
        let occupied = occupy(rig, busy, &gate);
        let job = Job::at(0, Placement::AnyOf(&siblings));
        let batch = Asm::new().store(data.at(0), 1).end();
        rig.run(&context, &job, &batch, &[data.shared()]);
        assert_eq!(rig.state(&occupied), FenceState::Pending);
        gate.set(0, 1);
        rig.finish(&occupied);
    }
}

pub(crate) fn parallel_batches_run_together<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, tag) = rig.context(&vm);
    let data = rig.mem();
    // Each waits for the other.
    let first = Asm::new().store(data.at(0), 1).wait(data.at(1), 1).end();
    let second = Asm::new().store(data.at(1), 1).wait(data.at(0), 1).end();
    let job = Job::at(0, Placement::Parallel(&[VCS0, VCS1]));
    for _ in 0..3 {
        data.fill(&[0; 8]);
        let batches = [rig.batch(&first), rig.batch(&second)];
        let work = rig.submit_all(&context, &job, &[&batches[0], &batches[1]], &[data.shared()]);
        rig.finish(&work);
    }
    let completed = |event: &crate::DeviceEvent| match event {
        crate::DeviceEvent::Completed { tag: of, .. } => *of == tag,
        crate::DeviceEvent::Replayed { .. }
        | crate::DeviceEvent::BufferIdle { .. }
        | crate::DeviceEvent::BuffersIdle { .. }
        | crate::DeviceEvent::SyncobjsReady { .. } => false,
    };
    eventually("one completion for each request", || {
        rig.events.all().iter().filter(|event| completed(event)).count() == 3
    });
}

pub(crate) fn a_fault_ends_all_parallel_batches<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, tag) = rig.context(&vm);
    let gate = rig.mem();
    let stuck = rig.batch(&Asm::new().wait(gate.at(0), 1).end());
    let faulty = rig.batch(&Asm::new().raw(&[7 << 29]).end());
    let job = Job::at(0, Placement::Parallel(&[VCS0, VCS1]));
    let work = rig.submit_all(&context, &job, &[&stuck, &faulty], &[gate.shared()]);
    assert_eq!(rig.guilty(&work, tag).engine, VCS1);
    assert_eq!(rig.wait(&work), FenceState::Failed(5));
}

/// Queues two contexts behind a busy engine and answers which number each drew: 0 came first.
fn race<D: Device>(
    rig: &Rig<D>,
    priorities: [i32; 2],
    meanwhile: impl FnOnce(&[Context<D>; 2]),
) -> [u32; 2] {
    let vm = rig.vm();
    let (gate, data) = (rig.mem(), rig.mem());
    let occupied = occupy(rig, RCS0, &gate);
    let contexts = priorities.map(|priority| {
        let spec = ContextSpec { priority, ..Rig::<D>::spec(&vm, 4000) };
        rig.file.create_context(spec).unwrap()
    });
    let queued: Vec<_> = (1..)
        .zip(&contexts)
        .map(|(index, context)| {
            let batch = Asm::new().copy(data.at(index), data.at(0)).increment(data.at(0)).end();
            rig.submit(context, &Job::on(RCS0), &batch, &[data.shared()])
        })
        .collect();
    meanwhile(&contexts);
    assert!(queued.iter().all(|pending| rig.state(pending) == FenceState::Pending));
    gate.set(0, 1);
    queued.iter().for_each(|pending| rig.finish(pending));
    rig.finish(&occupied);
    [data.get(1), data.get(2)]
}

pub(crate) fn higher_priority_goes_first<D: Device>(rig: &Rig<D>) {
    assert_eq!(race(rig, [0, 0], |_| ()), [0, 1], "equals in the order they came");
    assert_eq!(race(rig, [-1, 0], |_| ()), [1, 0]);
    assert_eq!(race(rig, [-1023, 0], |_| ()), [1, 0]);
}

pub(crate) fn priorities_can_change_while_queued<D: Device>(rig: &Rig<D>) {
    let raise = |contexts: &[Context<D>; 2]| {
        rig.file.update_context(&contexts[1], ContextUpdate::Priority(10)).unwrap();
    };
    assert_eq!(race(rig, [0, 0], raise), [1, 0]);
}

pub(crate) fn two_hundred_contexts<D: Device>(rig: &Rig<D>) {
    const CONTEXTS: u32 = 200;
    const ROUNDS: u32 = 5;
    let engines = [RCS0, BCS0, VCS0, VCS1, VECS0];
    let (gate, data) = (rig.mem(), rig.mem());
    let batch = rig.batch(&Asm::new().wait(gate.at(0), 1).increment(data.at(0)).end());
    let mut all = Vec::new();
    for index in 0..CONTEXTS {
        let vm = rig.vm();
        let (context, _) = rig.context(&vm);
        for _ in 0..ROUNDS {
            let job = Job::on(engines[index as usize % engines.len()]);
            let uses = [gate.shared(), data.shared()];
            all.push(rig.submit_all(&context, &job, &[&batch], &uses));
        }
    }
    gate.set(0, 1);
    all.iter().for_each(|pending| rig.finish(pending));
    assert_eq!(data.get(0), CONTEXTS * ROUNDS);
}

pub(crate) fn usage_is_counted<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let gate = rig.mem();
    let usage = |engine: usize| rig.device.engine_usage()[engine];
    for _ in 0..3 {
        rig.run(&context, &Job::on(BCS0), &Asm::new().end(), &[]);
    }
    rig.wait(&rig.submit(&context, &Job::on(BCS0), &Asm::new().raw(&[7 << 29]).end(), &[]));
    let batch = Asm::new().wait(gate.at(0), 1).end();
    let stuck = rig.submit(&context, &Job::on(BCS0), &batch, &[gate.shared()]);
    assert_eq!((usage(1).completed, usage(1).faults, usage(1).queued), (4, 1, 1));
    assert!(usage(1).busy_ns > 0);
    gate.set(0, 1);
    rig.finish(&stuck);
    assert_eq!((usage(1).completed, usage(1).queued), (5, 0));
    assert_eq!((usage(0).completed, usage(0).busy_ns), (0, 0));
}
