//! §13.3, and rows 9 and 10 of §13.

use gpu_broker_protocol::Refusal;
use gpu_broker_protocol::execbuf::*;
use gpu_broker_protocol::param::create_flag;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::syncobj::flag::{FENCE_SIGNAL, FENCE_WAIT};

use super::Book;
use super::execbuf::{HEAD, with};
use crate::fake::Seen;
use crate::rig::*;

const NODE: ExecExtension =
    ExecExtension { name: 0, flags: 0, rsvd: [0; 4], fence_flags: 0, entry_count: 0 };

pub(super) fn check(book: &mut Book) {
    array(book);
    chain(book);
    points(book);
    points_that_are_there(book);
    single_timeline(book);
}

/// Submits on the default context with buffer 1 as the batch.
fn submit_array(rig: &Rig, entries: &[(u32, u32)]) -> Result<Seen, Refusal> {
    let fences: Vec<_> = entries
        .iter()
        .map(|(handle, flags)| ExecFence { handle: *handle, flags: *flags })
        .collect();
    let num_cliprects = u32::try_from(fences.len()).unwrap();
    let head = ExecbufHead { num_cliprects, ..with(flag::FENCE_ARRAY) };
    let lists = ExecbufLists { objects: &[object(1)], fences: &fences, ..ExecbufLists::default() };
    rig.submit_lists(head, lists, None).map(|_| rig.device.last_submission())
}

fn submit_chain(
    rig: &Rig,
    nodes: &[ExecExtension],
    entries: &[(u32, u32, u64)],
) -> Result<Seen, Refusal> {
    let point = |&(handle, flags, point): &(u32, u32, u64)| ExecPoint { handle, flags, point };
    let points: Vec<_> = entries.iter().map(point).collect();
    let lists = ExecbufLists {
        objects: &[object(1)],
        extensions: nodes,
        points: &points,
        ..ExecbufLists::default()
    };
    rig.submit_lists(with(flag::USE_EXTENSIONS), lists, None).map(|_| rig.device.last_submission())
}

fn submit_points(rig: &Rig, entries: &[(u32, u32, u64)]) -> Result<Seen, Refusal> {
    let entry_count = u32::try_from(entries.len()).unwrap();
    submit_chain(rig, &[ExecExtension { entry_count, ..NODE }], entries)
}

fn with_batch() -> Rig {
    let rig = rig();
    assert_eq!(rig.buffer(1), 1);
    rig
}

fn array(book: &mut Book) {
    let rig = with_batch();
    let (full, empty) = (rig.syncobj(true), rig.syncobj(false));
    let fence = rig.fence_in(full, 0).unwrap();
    let few = ExecbufHead { num_cliprects: 1, ..with(flag::FENCE_ARRAY) };
    book.errno("13/10", EINVAL, rig.submit(few, &[object(1)]));
    book.errno("13/10", EINVAL, submit_array(&rig, &vec![(full, 0); 1025]));
    book.errno("13/10", 0, submit_array(&rig, &vec![(full, 0); 1024]));
    for bit in 2..32 {
        book.errno("13.3/array-flags", EINVAL, submit_array(&rig, &[(99, 1 << bit)]));
    }
    for handle in [0, 99] {
        book.errno("13.3/array-handle", ENOENT, submit_array(&rig, &[(full, 1), (handle, 0)]));
    }
    for flags in [FENCE_WAIT, FENCE_WAIT | FENCE_SIGNAL] {
        book.errno("13.3/array-empty", EINVAL, submit_array(&rig, &[(empty, flags)]));
    }
    let seen = book.errno("13.3/array-none", 0, submit_array(&rig, &[])).unwrap();
    book.effect("13.3/array-none", seen.after.is_empty() && seen.signals.is_empty());
    let entries = [(full, FENCE_WAIT), (empty, FENCE_SIGNAL), (full, 0)];
    let seen = book.errno("13.3/array-effect", 0, submit_array(&rig, &entries)).unwrap();
    book.effect("13.3/array-effect", seen.after == [fence]);
    book.effect("13.3/array-effect", seen.signals == [(rig.serial_of(empty), 0)]);
    let both = [(full, FENCE_WAIT | FENCE_SIGNAL)];
    let seen = book.errno("13.3/array-effect", 0, submit_array(&rig, &both)).unwrap();
    book.effect("13.3/array-effect", seen.after == [fence] && seen.signals.len() == 1);
    book.effect("13.3/array-effect", rig.fence_in(full, 0) != Some(fence));
}

fn chain(book: &mut Book) {
    let rig = with_batch();
    book.errno("13/9", 0, submit_chain(&rig, &vec![NODE; 512], &[]));
    book.errno("13/9", E2BIG, submit_chain(&rig, &vec![NODE; 513], &[]));
    book.errno("13/9", EINVAL, submit_chain(&rig, &[ExecExtension { flags: 1, ..NODE }], &[]));
    for word in 0..4 {
        let mut node = NODE;
        node.rsvd[word] = 1;
        book.errno("13/9", EINVAL, submit_chain(&rig, &[node], &[]));
    }
    for name in [1, u32::MAX] {
        book.errno("13/9", EINVAL, submit_chain(&rig, &[ExecExtension { name, ..NODE }], &[]));
    }
    // Nodes go in order: the entry of the first is at fault before the name of the second.
    let nodes = [ExecExtension { entry_count: 1, ..NODE }, ExecExtension { name: 1, ..NODE }];
    book.errno("13/9", ENOENT, submit_chain(&rig, &nodes, &[(99, 0, 0)]));
    let flagged = ExecExtension { fence_flags: 1, entry_count: 1, ..NODE };
    book.errno("13.3/points-flags", EINVAL, submit_chain(&rig, &[flagged], &[(99, 0, 0)]));
}

fn points(book: &mut Book) {
    let rig = with_batch();
    let (timeline, empty) = (rig.syncobj(false), rig.syncobj(false));
    rig.signal(timeline, 5);
    for bit in 2..32 {
        book.errno("13.3/points-flags", EINVAL, submit_points(&rig, &[(99, 1 << bit, 0)]));
    }
    book.errno("13.3/points-handle", ENOENT, submit_points(&rig, &[(99, FENCE_WAIT, 0)]));
    for point in [0, 1] {
        let row = "13.3/points-empty";
        book.errno(row, EINVAL, submit_points(&rig, &[(empty, FENCE_WAIT, point)]));
        book.errno(row, 0, submit_points(&rig, &[(empty, 0, point)]));
    }
    for flags in [FENCE_WAIT, 0] {
        book.errno("13.3/points-missing", EINVAL, submit_points(&rig, &[(timeline, flags, 6)]));
    }
    let binary = rig.syncobj(true);
    book.errno("13.3/points-missing", EINVAL, submit_points(&rig, &[(binary, FENCE_WAIT, 1)]));
    let both = FENCE_WAIT | FENCE_SIGNAL;
    for point in [3, 6] {
        book.errno("13.3/points-both", EINVAL, submit_points(&rig, &[(timeline, both, point)]));
    }
    book.errno("13.3/points-both", 0, submit_points(&rig, &[(binary, both, 0)]));
    let seen = book.errno("13.3/points-both", 0, submit_points(&rig, &[(empty, both, 0)])).unwrap();
    book.effect("13.3/points-both", seen.after.is_empty() && seen.signals.len() == 1);
}

fn points_that_are_there(book: &mut Book) {
    let rig = with_batch();
    let (timeline, other) = (rig.syncobj(false), rig.syncobj(false));
    rig.signal(timeline, 5);
    let five = rig.fence_in(timeline, 5).unwrap();
    for point in [0, 1, 5] {
        let entries = [(timeline, FENCE_WAIT, point)];
        let seen = book.errno("13.3/points-past", 0, submit_points(&rig, &entries)).unwrap();
        book.effect("13.3/points-past", seen.after == [five]);
    }
    let entries = [(timeline, FENCE_SIGNAL, 9), (other, FENCE_SIGNAL, 4)];
    let nodes =
        [ExecExtension { entry_count: 1, ..NODE }, NODE, ExecExtension { entry_count: 1, ..NODE }];
    let seen = submit_chain(&rig, &nodes, &entries);
    let seen = book.errno("13.3/points-several", 0, seen).unwrap();
    let expected = [(rig.serial_of(timeline), 9), (rig.serial_of(other), 4)];
    book.effect("13.3/points-several", seen.signals == expected);
    book.effect("13.3/points-effect", seen.after.is_empty());
    let nine = rig.fence_in(timeline, 9).unwrap();
    let entries = [(timeline, FENCE_WAIT, 9), (timeline, FENCE_SIGNAL, 10)];
    let seen = book.errno("13.3/points-effect", 0, submit_points(&rig, &entries)).unwrap();
    book.effect("13.3/points-effect", seen.after == [nine]);
    book.effect("13.3/points-effect", rig.fence_in(timeline, 10).is_some_and(|ten| ten != nine));
}

fn single_timeline(book: &mut Book) {
    let rig = with_batch();
    let context = rig.create_with(create_flag::SINGLE_TIMELINE, Vec::new()).unwrap();
    let head = ExecbufHead { context, ..HEAD };
    let mut last = Vec::new();
    for _ in 0..3 {
        book.errno("13.3/single-timeline", 0, rig.submit(head, &[object(1)]));
        let seen = rig.device.last_submission();
        book.effect("13.3/single-timeline", seen.after == last && seen.want_fence);
        last = vec![rig.device.last_fence()];
    }
}
