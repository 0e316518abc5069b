//! Who had an engine, and for how long.

use std::time::Duration;

use super::asm::Asm;
use super::rig::*;
use crate::{CLASSES, ClassTimes, Device, DeviceFile, Placement, Share, Weight};

/// What may be on its way between two counters.
const TOLERANCE_NS: u64 = 5_000_000;

fn sum(times: &[ClassTimes]) -> [u64; CLASSES] {
    std::array::from_fn(|class| times.iter().map(|times| times.0[class]).sum())
}

fn busy<D: Device>(device: &D) -> [u64; CLASSES] {
    let mut busy = [0; CLASSES];
    for (description, usage) in device.description().engines.iter().zip(device.engine_usage()) {
        busy[usize::from(description.engine.class)] += usage.busy_ns;
    }
    busy
}

/// A batch that takes a while, in turns.
fn long(data: u64) -> Vec<u8> {
    let mut batch = Asm::new();
    for _ in 0..200 {
        batch = batch.arb_check().increment(data);
    }
    batch.end()
}

pub(crate) fn engine_time_adds_up<D: Device>(rig: &Rig<D>) {
    let other = rig.another();
    let (vm, other_vm) = (rig.vm(), other.vm());
    let data = rig.mem();
    let ((first, _), (second, _)) = (rig.context(&vm), rig.context(&vm));
    let (third, _) = other.context(&other_vm);
    let other_data = other.mem();
    for _ in 0..20 {
        rig.run(&first, &Job::on(RCS0), &Asm::new().end(), &[]);
        rig.run(&first, &Job::on(RCS0), &long(data.at(0)), &[data.shared()]);
        rig.run(&second, &Job::on(BCS0), &long(data.at(1)), &[data.shared()]);
        other.run(&third, &Job::on(RCS0), &long(other_data.at(0)), &[other_data.shared()]);
    }
    // A batch on two engines counts on both.
    let engines = [VCS0, VCS1];
    let batches = [rig.batch(&long(data.at(2))), rig.batch(&long(data.at(3)))];
    let job = Job::at(9, Placement::Parallel(&engines));
    let parallel = rig.submit_all(&second, &job, &[&batches[0], &batches[1]], &[data.shared()]);
    rig.finish(&parallel);

    let contexts = [&first, &second].map(|context| rig.file.context_times(context).unwrap());
    const RENDER: usize = 0;
    const COPY: usize = 1;
    const VIDEO: usize = 2;
    assert!(contexts[0].0[RENDER] > 0 && contexts[0].0[COPY] == 0, "{contexts:?}");
    assert!(contexts[1].0[COPY] > 0 && contexts[1].0[VIDEO] > 0, "{contexts:?}");
    let file = rig.file.engine_times();
    assert_eq!(file.0, sum(&contexts));
    // What a context had stays when it goes.
    rig.file.close_context(first, false);
    drop(second);
    assert_eq!(rig.file.engine_times(), file);
    let files = sum(&[file, other.file.engine_times()]);
    for (class, (files, busy)) in files.into_iter().zip(busy(&*rig.device)).enumerate() {
        let apart = files.abs_diff(busy);
        assert!(apart <= TOLERANCE_NS, "class {class}: files had {files}, engines {busy}");
    }
}

/// How long an engine is kept.
const WHILE: Duration = Duration::from_millis(20);

/// A file's time is its own, and its share's also when it is gone.
pub(crate) fn a_share_has_what_its_files_had<D: Device>(rig: &Rig<D>) {
    let share = Share::default();
    let other = rig.another_with(share.clone());
    let vm = other.vm();
    let (context, _) = other.context(&vm);
    let (data, gate) = (other.mem(), other.mem());
    let time = |times: ClassTimes| times.0[usize::from(RCS0.class)];
    let mut round = 0;
    eventually("the file had the engine", || {
        round += 1;
        let batch = Asm::new().wait(gate.at(0), round).increment(data.at(0)).end();
        let uses = [gate.shared(), data.shared()];
        let work = other.submit(&context, &Job::on(RCS0), &batch, &uses);
        // A kernel counts what it has seen running.
        std::thread::sleep(WHILE);
        gate.set(0, round);
        other.finish(&work);
        time(other.file.engine_times()) > 0
    });
    let had = time(other.file.engine_times());
    rig.device.probe();
    assert!(time(share.engine_times()) >= had, "{had} of {:?}", share.engine_times());
    assert_eq!(rig.file.engine_times(), ClassTimes::default(), "another file's");
    drop((context, vm, data, gate));
    other.end();
    rig.device.probe();
    assert!(time(share.engine_times()) >= had, "{had} of {:?}", share.engine_times());
}

/// Engine time until shares are looked at.
const CONTEST_NS: u64 = 1_000_000_000;

pub(crate) fn files_share_an_engine_by_weight<D: Device>(rig: &Rig<D>) {
    let heavy = rig.another_with(Share::new(Weight::new(300)));
    // The light one has three endless batches, which gets it nothing.
    contest(&[(rig, 3), (&heavy, 1)], |had| (2.0..4.5).contains(&(had[1] / had[0])));
}

/// Two files of one share have half of the engine beside a third, not two thirds.
pub(crate) fn files_of_one_share_have_it_together<D: Device>(rig: &Rig<D>) {
    let share = Share::default();
    let members = [share.clone(), share].map(|share| rig.another_with(share));
    let fair = |had: &[f64]| (0.7..1.5).contains(&((had[1] + had[2]) / had[0]));
    contest(&[(rig, 1), (&members[0], 1), (&members[1], 1)], fair);
}

/// All files have so many endless batches, until what engine time each of them had is fair. That it is in
/// the end is what sharing promises: on a machine with other work the turn of one can be as long as
/// dozens of the others', which are made up for only then.
fn contest<D: Device>(files: &[(&Rig<D>, usize)], fair: impl Fn(&[f64]) -> bool) {
    let endless = |rig: &Rig<D>, batches: usize| {
        let vm = rig.vm();
        let contexts: Vec<_> = (0..batches).map(|_| rig.context(&vm).0).collect();
        let submit = |context| {
            let (batch, data) = (rig.mem(), rig.mem());
            let mut round = Asm::new().arb_check();
            for _ in 0..20 {
                round = round.increment(data.at(0));
            }
            batch.fill(&round.jump(batch.address).unended());
            rig.submit_all(context, &Job::on(RCS0), &[&batch], &[data.shared()])
        };
        let pending: Vec<_> = contexts.iter().map(submit).collect();
        (contexts, pending)
    };
    let time = |rig: &Rig<D>| rig.file.engine_times().0[usize::from(RCS0.class)];
    let work: Vec<_> = files.iter().map(|(rig, batches)| endless(rig, *batches)).collect();
    eventually("each had the engine", || files.iter().all(|(rig, _)| time(rig) > 0));
    let before: Vec<u64> = files.iter().map(|(rig, _)| time(rig)).collect();
    let had = || files.iter().zip(&before).map(|((rig, _), before)| time(rig) - before);
    eventually("the engine is used", || had().sum::<u64>() > CONTEST_NS);
    eventually("shares are fair", || fair(&had().map(|ns| ns as f64).collect::<Vec<_>>()));
    for ((rig, _), (contexts, pending)) in files.iter().zip(work) {
        contexts.into_iter().for_each(|context| rig.file.close_context(context, true));
        for pending in pending {
            rig.wait(&pending);
        }
    }
}
