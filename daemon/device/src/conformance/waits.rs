//! Waiting for syncobjs.

use std::os::fd::AsFd;

use super::rig::*;
use super::syncobjs::Gates;
use crate::{Device, DeviceError, DeviceEvent, DeviceFile, SyncobjWait};

/// A wait for any, of fences that are there.
fn any<T>(objects: &[(T, u64)]) -> SyncobjWait<'_, T> {
    SyncobjWait { objects, all: false, for_submit: false, available: false }
}

fn all<T>(objects: &[(T, u64)]) -> SyncobjWait<'_, T> {
    SyncobjWait { all: true, ..any(objects) }
}

/// What waits were told, in order.
fn told<D: Device>(rig: &Rig<D>) -> Vec<(u64, u32)> {
    let told = |event| match event {
        DeviceEvent::SyncobjsReady { token, first } => Some((token, first)),
        DeviceEvent::Completed { .. }
        | DeviceEvent::Replayed { .. }
        | DeviceEvent::BufferIdle { .. }
        | DeviceEvent::BuffersIdle { .. } => None,
    };
    rig.events.all().into_iter().filter_map(told).collect()
}

/// Waits until that is what waits were told, in whatever order.
fn all_told<D: Device>(rig: &Rig<D>, expected: &[(u64, u32)], what: &str) {
    let sorted = |mut list: Vec<_>| {
        list.sort_unstable();
        list
    };
    let expected = sorted(expected.to_vec());
    eventually(what, || told(rig).len() >= expected.len());
    assert_eq!(sorted(told(rig)), expected, "{what}");
}

fn wait_told<D: Device>(rig: &Rig<D>, token: u64) -> u32 {
    rig.events.wait(|event| match event {
        DeviceEvent::SyncobjsReady { token: of, first } if *of == token => Some(*first),
        DeviceEvent::SyncobjsReady { .. }
        | DeviceEvent::Completed { .. }
        | DeviceEvent::Replayed { .. }
        | DeviceEvent::BufferIdle { .. }
        | DeviceEvent::BuffersIdle { .. } => None,
    })
}

/// One pending fence in each of some syncobjs.
fn pending<D: Device>(rig: &Rig<D>, gates: &Gates<D>) -> Vec<(Syncobj<D>, u64)> {
    let put = |pending: &Pending<D>| {
        let syncobj = rig.syncobj();
        rig.put(&syncobj, 0, &pending.fence);
        (syncobj, 0)
    };
    gates.pending.iter().map(put).collect()
}

pub(crate) fn waiting_for_any_and_all<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 3);
    let objects = pending(rig, &gates);
    assert_eq!(rig.file.watch_syncobjs(&any(&objects), 1), Ok(None));
    assert_eq!(rig.file.watch_syncobjs(&all(&objects), 2), Ok(None));
    gates.open(rig, 1);
    assert_eq!(wait_told(rig, 1), 1);
    assert_eq!(rig.file.watch_syncobjs(&any(&objects), 3), Ok(Some(1)), "at once");
    gates.open(rig, 0);
    assert_eq!(rig.file.watch_syncobjs(&all(&objects), 4), Ok(None));
    assert_eq!(told(rig), [(1, 1)]);
    gates.open(rig, 2);
    assert_eq!((wait_told(rig, 2), wait_told(rig, 4)), (0, 0));
    assert_eq!(rig.file.watch_syncobjs(&all(&objects), 5), Ok(Some(0)));
    assert_eq!(told(rig).len(), 3, "each is told once, and nobody who was answered");
    // The same object twice counts twice.
    let gates = Gates::new(rig, 1);
    let mut twice = pending(rig, &gates);
    twice.extend(twice.clone());
    assert_eq!(rig.file.watch_syncobjs(&all(&twice), 6), Ok(None));
    gates.open(rig, 0);
    assert_eq!(wait_told(rig, 6), 0);
}

pub(crate) fn waiting_needs_a_fence<D: Device>(rig: &Rig<D>) {
    let ready = (rig.file.create_syncobj(true).unwrap(), 0);
    let objects = [ready.clone(), (rig.syncobj(), 0)];
    let refused = Err(DeviceError::NoFence);
    assert_eq!(rig.file.watch_syncobjs(&any(&objects), 1), refused, "even if another is ready");
    assert_eq!(rig.file.watch_syncobjs(&all(&objects), 1), refused);
    let later = [(ready.0, 1)];
    assert_eq!(rig.file.watch_syncobjs(&any(&later), 1), refused, "not a timeline");
    let wait = SyncobjWait { for_submit: true, ..any(&objects) };
    assert_eq!(rig.file.watch_syncobjs(&wait, 1), Ok(Some(0)));
}

pub(crate) fn waiting_for_fences_to_come<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 1);
    let objects = [(rig.syncobj(), 0), (rig.syncobj(), 0)];
    let submitted = SyncobjWait { for_submit: true, ..all(&objects) };
    let available = SyncobjWait { available: true, ..all(&objects) };
    assert_eq!(rig.file.watch_syncobjs(&submitted, 1), Ok(None));
    assert_eq!(rig.file.watch_syncobjs(&available, 2), Ok(None));
    let first = SyncobjWait { all: false, ..available };
    assert_eq!(rig.file.watch_syncobjs(&first, 3), Ok(None));
    rig.put(&objects[1].0, 0, gates.fence(0));
    all_told(rig, &[(3, 1)], "a fence is there for one");
    rig.file.signal_syncobj(&objects[0].0, 0).unwrap();
    all_told(rig, &[(3, 1), (2, 0)], "and for both");
    assert_eq!(rig.file.watch_syncobjs(&available, 4), Ok(Some(0)));
    gates.open(rig, 0);
    assert_eq!(wait_told(rig, 1), 0);
    assert_eq!(told(rig).len(), 3);
}

pub(crate) fn waiting_for_points_to_come<D: Device>(rig: &Rig<D>) {
    let timeline = rig.syncobj();
    for point in 1..=4 {
        let objects = [(timeline.clone(), point)];
        let wait = SyncobjWait { for_submit: true, ..any(&objects) };
        assert_eq!(rig.file.watch_syncobjs(&wait, point), Ok(None));
    }
    rig.file.signal_syncobj(&timeline, 0).unwrap();
    assert_eq!(told(rig), [], "a binary fence is no point");
    rig.file.signal_syncobj(&timeline, 2).unwrap();
    all_told(rig, &[(1, 0), (2, 0)], "1 and 2 are reached");
    rig.file.signal_syncobj(&timeline, 3).unwrap();
    rig.file.signal_syncobj(&timeline, 3).unwrap();
    all_told(rig, &[(1, 0), (2, 0), (3, 0)], "3 is reached");
    rig.file.unwatch_syncobjs(4);
}

pub(crate) fn waits_outlive_resets<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 2);
    let objects = pending(rig, &gates);
    assert_eq!(rig.file.watch_syncobjs(&any(&objects[..1]), 1), Ok(None));
    rig.file.reset_syncobj(&objects[0].0);
    assert_eq!(rig.file.watch_syncobjs(&any(&objects[..1]), 2), Err(DeviceError::NoFence));
    rig.put(&objects[0].0, 0, gates.fence(1));
    gates.open(rig, 0);
    assert_eq!(wait_told(rig, 1), 0, "it waited for what was there");
    gates.open(rig, 1);
    assert_eq!(told(rig), [(1, 0)]);
}

pub(crate) fn waits_can_be_given_up<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 1);
    let mut objects = pending(rig, &gates);
    objects.push((rig.syncobj(), 0));
    let wait = SyncobjWait { for_submit: true, ..any(&objects) };
    let other = rig.another();
    let pass = |(syncobj, point): &(Syncobj<D>, u64)| {
        let fd = rig.file.export_syncobj(syncobj).unwrap();
        (other.file.import_syncobj(fd.as_fd()).unwrap(), *point)
    };
    let passed: Vec<_> = objects.iter().map(pass).collect();
    let theirs = SyncobjWait { objects: &passed, ..wait };
    assert_eq!(rig.file.watch_syncobjs(&wait, 1), Ok(None));
    assert_eq!(rig.file.watch_syncobjs(&wait, 2), Ok(None));
    assert_eq!(other.file.watch_syncobjs(&theirs, 1), Ok(None), "tokens are a file's own");
    rig.file.unwatch_syncobjs(1);
    rig.file.unwatch_syncobjs(7);
    drop(passed);
    let Rig { file, events, .. } = other;
    drop(file);
    gates.open(rig, 0);
    assert_eq!(wait_told(rig, 2), 0);
    rig.file.signal_syncobj(&objects[1].0, 0).unwrap();
    assert_eq!(told(rig), [(2, 0)]);
    assert_eq!(events.all(), [], "the file is gone");
    let left = || std::sync::Arc::strong_count(&events);
    eventually("nothing of the file is left", || left() == 1);
}

pub(crate) fn waits_end_from_many_threads<D: Device>(rig: &Rig<D>) {
    const THREADS: usize = 4;
    const ROUNDS: u64 = 500;
    for round in 0..ROUNDS {
        let objects: Vec<_> = (0..THREADS).map(|_| (rig.syncobj(), 1)).collect();
        let wait = SyncobjWait { for_submit: true, ..all(&objects) };
        let started = std::sync::Barrier::new(THREADS + 1);
        let answer = std::thread::scope(|scope| {
            for (syncobj, point) in &objects {
                let signal = || {
                    started.wait();
                    rig.file.signal_syncobj(syncobj, *point).unwrap();
                };
                scope.spawn(signal);
            }
            started.wait();
            rig.file.watch_syncobjs(&wait, round).unwrap()
        });
        // Either way it is over, and told exactly once.
        if answer.is_none() {
            wait_told(rig, round);
        }
        let events = told(rig).iter().filter(|(token, _)| *token == round).count();
        assert_eq!(events + usize::from(answer.is_some()), 1, "round {round}: {answer:?}");
    }
}
