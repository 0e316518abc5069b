//! Syncobjs: handles, checks in the kernel's order, and what is put where.

use gpu_broker_core::Exported;
use gpu_broker_protocol::limits::{SYNCOBJS_PER_REQUEST_MAX, SYNCOBJS_PER_SESSION_MAX};
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::syncobj::*;
use gpu_broker_protocol::{Refusal, SyncobjId};

use crate::refused;
use crate::rig::*;

fn ids(handles: &[u32]) -> Vec<SyncobjId> {
    handles.iter().copied().map(SyncobjId).collect()
}

fn array(handles: &[u32], pad: u32) -> SyncobjArray {
    SyncobjArray { syncobjs: ids(handles), pad }
}

fn query(rig: &Rig, handles: &[u32], flags: u32) -> Result<Vec<u64>, Refusal> {
    let request = SyncobjQuery { syncobjs: ids(handles), flags };
    rig.session.syncobj_query(&request).map(|answer| answer.points)
}

fn destroy(rig: &Rig, handle: u32, pad: u32) -> Result<(), Refusal> {
    rig.session.syncobj_destroy(&SyncobjDestroy { syncobj: SyncobjId(handle), pad })
}

#[test]
fn handles() {
    let rig = rig();
    for flags in [2, 1 << 31] {
        refused!(SyncobjFlags, rig.session.syncobj_create(&SyncobjCreate { flags }));
    }
    assert_eq!([rig.syncobj(false), rig.syncobj(true), rig.syncobj(false)], [1, 2, 3]);
    refused!(ReservedNotZero, destroy(&rig, 99, 1));
    refused!(SyncobjHandle, destroy(&rig, 99, 0));
    assert_eq!(errno(&destroy(&rig, 0, 0)), EINVAL);
    destroy(&rig, 2, 0).unwrap();
    refused!(NoSuchSyncobj, rig.session.syncobj(SyncobjId(2)));
    assert_eq!(rig.syncobj(false), 2);
    // An import gives a handle of its own each time.
    let object = rig.session.syncobj(SyncobjId(1)).unwrap();
    for handle in [4, 5] {
        assert_eq!(rig.session.syncobj_insert(object.clone()).unwrap().0, handle);
    }
    assert_eq!(rig.serial_of(4), rig.serial_of(1));
    drop(object);
    for handle in 1..=5 {
        destroy(&rig, handle, 0).unwrap();
    }
    assert_eq!(rig.device.syncobjs(), 0);
}

#[test]
fn the_limit_and_the_end_of_the_session() {
    let rig = rig();
    for _ in 0..SYNCOBJS_PER_SESSION_MAX {
        rig.syncobj(false);
    }
    refused!(SyncobjLimit, rig.session.syncobj_create(&SyncobjCreate { flags: 0 }));
    let object = rig.session.syncobj(SyncobjId(1)).unwrap();
    refused!(SyncobjLimit, rig.session.syncobj_insert(object));
    rig.session.close();
    assert_eq!(rig.device.syncobjs(), 0);
    refused!(SyncobjLimit, rig.session.syncobj_create(&SyncobjCreate { flags: 0 }));
}

#[test]
fn reset_and_signal() {
    let rig = rig();
    let (a, b) = (rig.syncobj(false), rig.syncobj(true));
    for change in [
        |rig: &Rig, request: &SyncobjArray| rig.session.syncobj_reset(request),
        |rig: &Rig, request: &SyncobjArray| rig.session.syncobj_signal(request),
    ] {
        let before = [rig.fence_in(a, 0), rig.fence_in(b, 0)];
        refused!(ReservedNotZero, change(&rig, &array(&[], 1)));
        refused!(SyncobjCount, change(&rig, &array(&[], 0)));
        refused!(SyncobjCount, change(&rig, &array(&vec![a; SYNCOBJS_PER_REQUEST_MAX + 1], 0)));
        refused!(NoSuchSyncobj, change(&rig, &array(&[a, b, 99], 0)));
        assert_eq!([rig.fence_in(a, 0), rig.fence_in(b, 0)], before, "a refused request did it");
    }
    rig.session.syncobj_reset(&array(&[a, b, b], 0)).unwrap();
    assert_eq!([rig.fence_in(a, 0), rig.fence_in(b, 0)], [None, None]);
    rig.session.syncobj_signal(&array(&[a], 0)).unwrap();
    assert!(rig.fence_in(a, 0).is_some() && rig.fence_in(b, 0).is_none());
}

#[test]
fn timelines() {
    let rig = rig();
    let (a, b) = (rig.syncobj(false), rig.syncobj(true));
    let signal = |handles: &[u32], points: &[u64], flags| {
        let (syncobjs, points) = (ids(handles), points.to_vec());
        rig.session.syncobj_timeline_signal(&SyncobjTimelineSignal { syncobjs, points, flags })
    };
    refused!(SyncobjFlags, signal(&[], &[], 1));
    refused!(SyncobjCount, signal(&[], &[], 0));
    refused!(SyncobjPoints, signal(&[99], &[1, 2], 0));
    refused!(NoSuchSyncobj, signal(&[a, 99], &[1, 2], 0));
    assert_eq!(rig.fence_in(a, 0), None);
    signal(&[a, b], &[7, 0], 0).unwrap();
    refused!(SyncobjFlags, query(&rig, &[], 2));
    refused!(SyncobjCount, query(&rig, &[], 0));
    refused!(NoSuchSyncobj, query(&rig, &[a, 99], 0));
    assert_eq!(query(&rig, &[a, b, a], 0).unwrap(), [7, 0, 7]);
    // A point that a submission will signal was submitted, not reached.
    let object = rig.session.syncobj(SyncobjId(a)).unwrap();
    use gpu_broker_core::Hands as _;
    rig.session.hands().put_fence(&object, 9, &12345).unwrap();
    assert_eq!(query(&rig, &[a], 0).unwrap(), [7]);
    assert_eq!(query(&rig, &[a], flag::QUERY_LAST_SUBMITTED).unwrap(), [9]);
    rig.device.signal(12345);
    assert_eq!(query(&rig, &[a], 0).unwrap(), [9]);
}

#[test]
fn transfers() {
    let rig = rig();
    let (full, empty) = (rig.syncobj(true), rig.syncobj(false));
    let target = rig.syncobj(false);
    let base = SyncobjTransfer {
        source: SyncobjId(full),
        source_point: 0,
        target: SyncobjId(target),
        target_point: 0,
        flags: 0,
        pad: 0,
    };
    let transfer = |request: SyncobjTransfer| rig.session.syncobj_transfer(&request);
    let nobody = SyncobjId(99);
    // One fault after the other is taken away.
    let worst = SyncobjTransfer { source: nobody, target: nobody, flags: 4, pad: 1, ..base };
    refused!(ReservedNotZero, transfer(worst));
    refused!(NoSuchSyncobj, transfer(SyncobjTransfer { pad: 0, ..worst }));
    refused!(SyncobjFlags, transfer(SyncobjTransfer { pad: 0, target: base.target, ..worst }));
    refused!(NoSuchSyncobj, transfer(SyncobjTransfer { source: nobody, ..base }));
    refused!(SyncobjEmpty, transfer(SyncobjTransfer { source: SyncobjId(empty), ..base }));
    refused!(SyncobjEmpty, transfer(SyncobjTransfer { source_point: 1, ..base }));
    let later = SyncobjTransfer {
        source: SyncobjId(empty),
        source_point: 3,
        flags: flag::WAIT_FOR_SUBMIT,
        ..base
    };
    assert!(!transfer(later).unwrap(), "there is no fence yet");
    let (object, point) = rig.session.syncobj_transfer_source(&later).unwrap();
    assert_eq!((object.object.serial, point), (rig.serial_of(empty), 3));
    rig.signal(empty, 4);
    assert!(transfer(later).unwrap());
    assert_eq!(rig.fence_in(target, 0), rig.fence_in(empty, 4));
    assert!(transfer(SyncobjTransfer { target_point: 8, ..base }).unwrap());
    assert_eq!(rig.fence_in(target, 8), rig.fence_in(full, 0));
    assert_eq!(query(&rig, &[target], 0).unwrap(), [8]);
}

#[test]
fn exports_and_imports() {
    let rig = rig();
    let (full, empty) = (rig.syncobj(true), rig.syncobj(false));
    let timeline = rig.syncobj(false);
    rig.signal(timeline, 2);
    rig.signal(timeline, 4);
    let export = |handle, flags, point| {
        let request = SyncobjExport { syncobj: SyncobjId(handle), flags, point };
        rig.session.syncobj_export(&request)
    };
    let fence = |exported| match exported {
        Ok(Exported::Fence(fence)) => fence,
        Ok(Exported::Object(_)) => panic!("the object itself"),
        Err(refusal) => panic!("{refusal}"),
    };
    refused!(SyncobjFlags, export(99, 4, 1));
    refused!(SyncobjPoint, export(99, 0, 1));
    refused!(SyncobjPoint, export(99, flag::TIMELINE, 1));
    // The kernel says EINVAL here and ENOENT there.
    refused!(SyncobjHandle, export(99, 0, 0));
    refused!(NoSuchSyncobj, export(99, flag::SYNC_FILE, 0));
    refused!(SyncobjEmpty, export(empty, flag::SYNC_FILE, 0));
    let all = flag::SYNC_FILE | flag::TIMELINE;
    refused!(SyncobjEmpty, export(timeline, all, 5));
    let Ok(Exported::Object(object)) = export(full, 0, 0) else { panic!("not the object") };
    assert_eq!(object.object.serial, rig.serial_of(full));
    assert_eq!(fence(export(timeline, all, 1)), rig.fence_in(timeline, 2).unwrap());
    // Without TIMELINE nobody looks at the point.
    assert_eq!(fence(export(timeline, flag::SYNC_FILE, 1)), rig.fence_in(timeline, 4).unwrap());
    refused!(SyncobjFlags, rig.session.syncobj_import_is_fence(4, 1));
    refused!(SyncobjPoint, rig.session.syncobj_import_is_fence(0, 1));
    assert!(!rig.session.syncobj_import_is_fence(0, 0).unwrap());
    assert!(rig.session.syncobj_import_is_fence(all, 1).unwrap());
    let import = |handle, flags, point| {
        rig.session.syncobj_import_fence(SyncobjId(handle), flags, point, &777)
    };
    refused!(NoSuchSyncobj, import(99, flag::SYNC_FILE, 0));
    import(timeline, all, 6).unwrap();
    assert_eq!([rig.fence_in(timeline, 3), rig.fence_in(timeline, 6)][1], Some(777));
    assert_ne!(rig.fence_in(timeline, 3), Some(777));
    import(timeline, flag::SYNC_FILE, 6).unwrap();
    assert_eq!(rig.fence_in(timeline, 6), None, "a binary object has no points");
    assert_eq!(rig.fence_in(timeline, 0), Some(777));
}

#[test]
fn what_a_wait_waits_for() {
    let rig = rig();
    let (a, b) = (rig.syncobj(false), rig.syncobj(false));
    let wait = |handles: &[u32], points: Option<Vec<u64>>, flags| {
        let request = SyncobjWait { syncobjs: ids(handles), points, flags, deadline_ns: 0 };
        let set = rig.session.syncobj_wait_set(&request)?;
        Ok::<Vec<_>, Refusal>(set.into_iter().map(|(it, at)| (it.object.serial, at)).collect())
    };
    let binary = flag::WAIT_ALL | flag::WAIT_FOR_SUBMIT;
    refused!(SyncobjFlags, wait(&[], None, 8));
    // Only timelines can be waited for to be submitted.
    refused!(SyncobjFlags, wait(&[a], None, flag::WAIT_AVAILABLE));
    let too_many = vec![a; SYNCOBJS_PER_REQUEST_MAX + 1];
    refused!(SyncobjCount, wait(&too_many, None, 0));
    refused!(SyncobjPoints, wait(&[99], Some(vec![1, 2]), 0));
    refused!(SyncobjPoints, wait(&[99], Some(Vec::new()), 0));
    refused!(NoSuchSyncobj, wait(&[a, 99], None, 0));
    assert_eq!(wait(&[], None, binary).unwrap(), []);
    let serials = [rig.serial_of(b), rig.serial_of(a)];
    let expected = serials.map(|serial| (serial, 0));
    assert_eq!(wait(&[b, a], None, binary).unwrap(), expected);
    let timeline = wait(&[b, a], Some(vec![3, 4]), binary | flag::WAIT_AVAILABLE);
    assert_eq!(timeline.unwrap(), [(serials[0], 3), (serials[1], 4)]);
}
