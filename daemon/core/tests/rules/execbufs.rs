//! EXECBUF: order of checks, engine selection, objects and addresses (rule table §13).

use gpu_broker_core::hands::Outcome;
use gpu_broker_core::{Capabilities, SessionLimits};
use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, flag, object_flag};
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;

use crate::fake::{Event, out_of_memory};
use crate::refused;
use crate::rig::*;

const HEAD: ExecbufHead = ExecbufHead {
    context: 0,
    flags: 0,
    batch_start_offset: 0,
    batch_len: 0,
    dr1: 0,
    dr4: 0,
    num_cliprects: 0,
};

fn flags(flags: u64) -> ExecbufHead {
    ExecbufHead { flags, ..HEAD }
}

#[test]
fn each_check_comes_before_the_next() {
    let rig = limited(
        kbl(),
        NOBODY,
        SessionLimits {
            objects_per_execbuf: 2,
            submissions_in_flight: 1,
            ..SessionLimits::default()
        },
    );
    let good = rig.buffer(8192);
    let bad = ExecObject { handle: 99, ..object(99) };
    // Everything is wrong with this one; one fault after the other is taken away.
    let mut head = ExecbufHead {
        context: 77,
        flags: flag::UNKNOWN
            | flag::SECURE
            | flag::FENCE_IN
            | flag::FENCE_SUBMIT
            | flag::FENCE_ARRAY,
        batch_start_offset: 4,
        batch_len: 0,
        dr1: 1,
        dr4: 1,
        num_cliprects: 0,
    };
    refused!(ExecCount, rig.submit(head, &[]));
    refused!(ExecCount, rig.submit(head, &[bad, bad, bad]));
    refused!(ExecFlags, rig.submit(head, &[bad]));
    head.flags &= !flag::UNKNOWN;
    for obsolete in [1 << 6, 1 << 7, flag::RESOURCE_STREAMER] {
        refused!(
            ExecFlags,
            rig.submit(ExecbufHead { flags: head.flags | obsolete, ..head }, &[bad])
        );
    }
    let no_array = ExecbufHead { flags: head.flags & !flag::FENCE_ARRAY, num_cliprects: 1, ..head };
    refused!(ExecCliprects, rig.submit(no_array, &[bad]));
    refused!(ExecDr, rig.submit(head, &[bad]));
    head.dr1 = 0;
    refused!(ExecDr, rig.submit(head, &[bad]));
    head.dr4 = u32::MAX;
    refused!(ExecBatchAlignment, rig.submit(head, &[bad]));
    head.batch_start_offset = 8192;
    refused!(ExecSecure, rig.submit(head, &[bad]));
    head.flags &= !flag::SECURE;
    refused!(ExecTwoInFences, rig.submit(head, &[bad]));
    for alone in [flag::FENCE_SUBMIT, flag::FENCE_IN] {
        refused!(ExecInFence, rig.submit(ExecbufHead { flags: alone, ..head }, &[bad]));
    }
    head.flags = flag::FENCE_IN | 5;
    refused!(ExecInFence, rig.submit(head, &[bad]));
    let submit = |head, objects: &[ExecObject]| rig.submit_after(head, objects, Some(1));
    refused!(NoSuchContext, submit(head, &[bad]));
    head.context = 0;
    refused!(ExecEngine, submit(head, &[bad]));
    head.flags = flag::FENCE_IN;
    rig.registry.set_wedged(true);
    refused!(DeviceWedged, submit(head, &[bad]));
    rig.registry.set_wedged(false);
    refused!(NoSuchBuffer, submit(head, &[bad]));
    refused!(BatchRange, submit(head, &[object(good)]));
    head.batch_start_offset = 8;
    submit(head, &[object(good)]).unwrap();
    assert_eq!(rig.device.last_submission().after, [1]);
    refused!(InFlightLimit, submit(head, &[pinned(good, (1 << 47) - 4096)]));
}

#[test]
fn secure_is_gone_from_version_11_on() {
    let rig = rig_with(Capabilities { graphics_version: 11, ..kbl() }, ROOT);
    let buffer = rig.buffer(1);
    assert_eq!(errno(&rig.submit(flags(flag::SECURE), &[object(buffer)])), ENODEV);
}

#[test]
fn legacy_rings() {
    let rig = rig();
    let buffer = rig.buffer(1);
    let ran = |ring: u64| {
        rig.submit(flags(ring), &[object(buffer)]).map(|_| {
            let seen = rig.device.last_submission();
            (seen.slot, seen.placement)
        })
    };
    let expected = [(0, 0, "0:0"), (1, 0, "0:0"), (2, 2, "2:0"), (3, 1, "1:0"), (4, 4, "3:0")];
    for (ring, slot, engine) in expected {
        assert_eq!(ran(ring).unwrap(), (slot, engine.to_owned()), "ring {ring}");
    }
    assert_eq!(ran(2 | 1 << 13).unwrap().1, "2:0");
    assert_eq!(ran(2 | 2 << 13).unwrap().1, "2:1");
    for ring in [5, 63, 2 | 3 << 13, 1 | 1 << 13, 2 << 13, 3 | 3 << 13] {
        refused!(ExecEngine, ran(ring));
    }
    let mut caps = kbl();
    caps.engines.retain(|info| info.engine != VCS1 && info.engine.class != 3);
    let small = rig_with(caps, NOBODY);
    let buffer = small.buffer(1);
    let run = |ring| small.submit(flags(ring), &[object(buffer)]);
    refused!(ExecEngine, run(4));
    // With one video engine nobody looks at the BSD field.
    run(2 | 3 << 13).unwrap();
    assert_eq!(small.device.last_submission().placement, "2:0");
}

#[test]
fn user_maps() {
    let rig = rig();
    let extensions = vec![balance(1, &[VCS0, VCS1])];
    let slots = [BCS, EngineId::GAP, EngineId::GAP];
    let context = rig.create_ext(vec![set_node(map_with(&slots, extensions))]).unwrap();
    let buffer = rig.buffer(1);
    let run = |slot| rig.submit(ExecbufHead { context, ..flags(slot) }, &[object(buffer)]);
    // The BSD field means nothing to a map.
    run(3 << 13).unwrap();
    assert_eq!(rig.device.last_submission().placement, "1:0");
    run(1).unwrap();
    assert_eq!(rig.device.last_submission().placement, "any of 2");
    for slot in [2, 3, 63] {
        refused!(ExecEngine, run(slot));
    }
}

#[test]
fn parallel_slots_take_a_batch_each() {
    let rig = rig();
    let extensions = vec![parallel(0, 2, 1, &[VCS0, VCS1])];
    let map = map_with(&[EngineId::GAP], extensions);
    let context = rig.create_ext(vec![set_node(map)]).unwrap();
    let head = ExecbufHead { context, ..HEAD };
    let objects = [object(rig.buffer(1)), object(rig.buffer(8192)), object(rig.buffer(1))];
    refused!(ParallelBatches, rig.submit(head, &objects[..1]));
    refused!(ParallelBatches, rig.submit(ExecbufHead { batch_len: 8, ..head }, &objects));
    refused!(ParallelBatches, rig.submit(ExecbufHead { batch_start_offset: 8, ..head }, &objects));
    rig.submit(head, &objects).unwrap();
    let seen = rig.device.last_submission();
    assert_eq!(seen.placement, "parallel on 2");
    assert_eq!(seen.batches, [(seen.addresses[1], 8192), (seen.addresses[2], 4096)]);
    rig.submit(ExecbufHead { flags: flag::BATCH_FIRST, ..head }, &objects).unwrap();
    let seen = rig.device.last_submission();
    assert_eq!(seen.batches, [(seen.addresses[0], 4096), (seen.addresses[1], 8192)]);
    let written =
        |object: ExecObject| ExecObject { flags: object.flags | object_flag::WRITE, ..object };
    refused!(BatchWritten, rig.submit(head, &[objects[0], written(objects[1]), objects[2]]));
    rig.submit(head, &[written(objects[0]), objects[1], objects[2]]).unwrap();
}

#[test]
fn object_rules() {
    let rig = rig();
    let (a, batch) = (rig.buffer(4096), object(rig.buffer(4096)));
    let try_one = |object: ExecObject| rig.run(0, &[object, batch]);
    let with = |flags| ExecObject { flags, ..object(a) };
    refused!(ObjectFlags, try_one(with(1 << 8)));
    refused!(ObjectFlags, try_one(with(object_flag::NEEDS_GTT)));
    try_one(with(object_flag::NEEDS_FENCE)).unwrap();
    refused!(ObjectAlignment, try_one(ExecObject { alignment: 3, ..object(a) }));
    refused!(ObjectAlignment, try_one(ExecObject { alignment: 4096 * 3, ..object(a) }));
    refused!(ObjectAddress, try_one(pinned(a, 4097)));
    refused!(ObjectAddress, try_one(pinned(a, 1 << 47)));
    try_one(pinned(a, 0xffff_8000_0000_0000)).unwrap();
    refused!(
        ObjectPad,
        try_one(ExecObject { pad_to_size: 4097, ..with(object_flag::PAD_TO_SIZE) })
    );
    try_one(ExecObject { pad_to_size: 4097, ..object(a) }).unwrap();
    refused!(RelocationsMissing, try_one(ExecObject { relocation_count: 1, ..object(a) }));
    refused!(ObjectDuplicate, rig.run(0, &[object(a), object(a), batch]));
    refused!(NoSuchBuffer, try_one(ExecObject { flags: u64::MAX, ..object(77) }));
    refused!(NoSuchBuffer, try_one(object(0)));
    // The first object at fault decides, in array order.
    refused!(ObjectAlignment, rig.run(0, &[ExecObject { alignment: 3, ..object(a) }, object(99)]));
    let tgl = rig_with(Capabilities { has_relocations: false, ..kbl() }, NOBODY);
    let buffer = tgl.buffer(1);
    let relocated = ExecObject { relocation_count: 1, flags: u64::MAX, ..object(buffer) };
    refused!(RelocationInvalid, tgl.submit(flags(flag::NO_RELOC), &[relocated]));
    // Without separate address spaces NEEDS_GTT is fine.
    let old = rig_with(Capabilities { full_ppgtt: false, ..kbl() }, NOBODY);
    let buffer = old.buffer(1);
    old.run(0, &[ExecObject { flags: object_flag::NEEDS_GTT, ..object(buffer) }]).unwrap();
}

#[test]
fn batch_ranges() {
    let rig = rig();
    let buffer = object(rig.buffer(8192));
    let run = |batch_start_offset, batch_len| {
        let head = ExecbufHead { batch_start_offset, batch_len, ..HEAD };
        rig.submit(head, &[buffer]).map(|_| {
            let seen = rig.device.last_submission();
            (seen.batches[0].0 - seen.addresses[0], seen.batches[0].1)
        })
    };
    assert_eq!(run(0, 0).unwrap(), (0, 8192));
    assert_eq!(run(4096, 0).unwrap(), (4096, 4096));
    assert_eq!(run(8, 16).unwrap(), (8, 16));
    assert_eq!(run(8184, 8).unwrap(), (8184, 8));
    for (start, length) in [(8192, 0), (8184, 16), (0, 8200), (8192, 8), (!7, !7), (16, !7)] {
        refused!(BatchRange, run(start, length));
    }
}

#[test]
fn no_reloc_is_held_to_its_promise() {
    let rig = rig();
    let buffer = rig.buffer(1);
    let head = flags(flag::NO_RELOC);
    let relocated = ExecObject { relocation_count: 3, ..object(buffer) };
    refused!(RelocationsMissing, rig.submit(head, &[relocated]));
    let there = rig.run(0, &[object(buffer)]).unwrap()[0];
    rig.submit(head, &[ExecObject { offset: there, ..relocated }]).unwrap();
}

#[test]
fn objects_stay_where_they_are_and_only_news_is_told() {
    let rig = rig();
    let objects = [object(rig.buffer(4096)), object(rig.buffer(65536))];
    let first = rig.run(0, &objects).unwrap();
    assert!(first.iter().all(|address| *address >= 1 << 32), "{first:x?}");
    assert_eq!(rig.device.last_submission().fresh, [true, true]);
    // The same again: nothing is fresh; the client still expects 0 and is told.
    assert_eq!(rig.run(0, &objects).unwrap(), first);
    assert_eq!(rig.device.last_submission().fresh, [false, false]);
    let told = [
        ExecObject { offset: first[0], ..objects[0] },
        ExecObject { offset: first[1], ..objects[1] },
    ];
    assert_eq!(rig.run(0, &told).unwrap(), []);
    // A wish does not move what is bound.
    let wish = [ExecObject { offset: 1 << 40, ..objects[0] }, told[1]];
    assert_eq!(rig.run(0, &wish).unwrap(), first);
    // Another address space knows nothing of it.
    let other = rig.create();
    rig.run(other, &objects).unwrap();
    assert_eq!(rig.device.last_submission().fresh, [true, true]);
}

#[test]
fn wishes_pins_zones_and_alignments() {
    let rig = rig();
    let low = |handle| ExecObject { handle, ..ExecObject::default() };
    let run = |object: ExecObject| {
        rig.run(0, &[object]).map(|_| rig.device.last_submission().addresses[0])
    };
    let new = || rig.buffer(4096);
    assert_eq!(run(ExecObject { offset: 1 << 40, ..object(new()) }).unwrap(), 1 << 40);
    // Taken: somewhere else. In the page: the page. Zero: no wish.
    assert_ne!(run(ExecObject { offset: 1 << 40, ..object(new()) }).unwrap(), 1 << 40);
    assert_eq!(run(ExecObject { offset: (1 << 41) + 5, ..object(new()) }).unwrap(), 1 << 41);
    assert!(run(low(new())).unwrap() >= 65536);
    assert!(run(low(new())).unwrap() < 1 << 32);
    assert!(run(ExecObject { offset: 1 << 40, ..low(new()) }).unwrap() < 1 << 32);
    let aligned = run(ExecObject { alignment: 1 << 21, ..object(new()) }).unwrap();
    assert!(aligned.is_multiple_of(1 << 21));
    assert_eq!(run(pinned(new(), 0)).unwrap(), 0);
    let top = canonical_top();
    assert_eq!(run(pinned(new(), top)).unwrap(), (1 << 48) - 4096);
    // A pinned object leaves an earlier place and frees it.
    let moving = new();
    let before = run(object(moving)).unwrap();
    rig.device.take_events();
    assert_eq!(run(pinned(moving, 1 << 33)).unwrap(), 1 << 33);
    assert_eq!(rig.device.take_events(), [Event::Unbound { address: before, size: 4096 }]);
    assert_eq!(run(pinned(new(), before)).unwrap(), before);
    // Above 4 GiB without the flag, and misaligned against itself.
    let high = ExecObject { flags: object_flag::PINNED, ..pinned(new(), 1 << 32) };
    refused!(ObjectAddress, run(high));
    refused!(ObjectAddress, run(ExecObject { offset: (1 << 32) - 4096, ..high }));
    run(ExecObject { offset: (1 << 32) - 8192, ..high }).unwrap();
    refused!(ObjectAddress, run(ExecObject { alignment: 8192, ..pinned(new(), 4096 * 9) }));
    refused!(ObjectAddress, rig.run(0, &[pinned(rig.buffer(8192), top)]));
}

fn canonical_top() -> u64 {
    0u64.wrapping_sub(4096)
}

#[test]
fn what_lies_badly_for_a_new_flag_moves() {
    let rig = rig();
    let buffer = rig.buffer(4096);
    let address = || rig.device.last_submission().addresses[0];
    // Bound high and at an odd page; then it may lie low only, then aligned only.
    rig.run(0, &[pinned(buffer, (1 << 33) + 4096)]).unwrap();
    rig.run(0, &[ExecObject { handle: buffer, ..ExecObject::default() }]).unwrap();
    assert!(address() < 1 << 32);
    rig.run(0, &[pinned(buffer, (1 << 33) + 4096)]).unwrap();
    rig.run(0, &[ExecObject { alignment: 8192, ..object(buffer) }]).unwrap();
    assert!(address().is_multiple_of(8192));
    assert_eq!(rig.device.last_submission().fresh, [true]);
}

#[test]
fn padding_takes_address_space() {
    let rig = rig();
    let (a, b) = (rig.buffer(4096), rig.buffer(4096));
    let padded = |handle, pad_to_size| {
        let flags = object_flag::PAD_TO_SIZE | object_flag::SUPPORTS_48B;
        ExecObject { handle, flags, pad_to_size, ..ExecObject::default() }
    };
    rig.run(0, &[padded(a, 1 << 20), object(b)]).unwrap();
    let addresses = rig.device.last_submission().addresses;
    assert!(addresses[1] >= addresses[0] + (1 << 20) || addresses[1] < addresses[0]);
    // More padding than there was: it moves.
    rig.run(0, &[padded(a, 1 << 21)]).unwrap();
    assert_eq!(rig.device.last_submission().fresh, [true]);
    refused!(ExecNoSpace, rig.run(0, &[padded(a, 1 << 49)]));
    refused!(ExecNoSpace, rig.run(0, &[padded(a, !4095)]));
    refused!(
        ExecNoSpace,
        rig.run(0, &[ExecObject { alignment: 1 << 63, ..object(rig.buffer(1)) }])
    );
}

#[test]
fn pinned_objects_clash_within_a_submission_and_evict_others() {
    let rig = rig();
    let (a, b, c) = (rig.buffer(8192), rig.buffer(4096), rig.buffer(4096));
    let at = 1 << 34;
    rig.run(0, &[pinned(a, at)]).unwrap();
    refused!(ExecNoSpace, rig.run(0, &[pinned(a, at), pinned(b, at + 4096)]));
    rig.run(0, &[pinned(a, at)]).unwrap();
    rig.device.take_events();
    rig.run(0, &[pinned(b, at + 4096)]).unwrap();
    assert_eq!(rig.device.take_events(), [Event::Unbound { address: at, size: 8192 }]);
    // One that is not pinned makes way for one that is.
    rig.run(0, &[object(c)]).unwrap();
    let place = rig.device.last_submission().addresses[0];
    rig.run(0, &[object(c), pinned(b, place)]).unwrap();
    let seen = rig.device.last_submission();
    assert_eq!(seen.addresses[1], place);
    assert_ne!(seen.addresses[0], place);
}

#[test]
fn a_full_low_zone_evicts_what_is_not_used_and_then_gives_up() {
    let rig = rig();
    let gib = 1 << 30;
    let low = |handle| ExecObject { handle, ..ExecObject::default() };
    let big: Vec<_> = (0..4).map(|_| rig.buffer(gib)).collect();
    for buffer in &big {
        rig.run(0, &[low(*buffer)]).unwrap();
    }
    // Four of a GiB do not fit below 4 GiB less a few pages.
    refused!(ExecNoSpace, rig.run(0, &[low(big[0]), low(big[1]), low(big[2]), low(big[3])]));
    // Three do, also when the others lie in the way in pieces.
    rig.run(0, &[low(big[0]), low(big[2]), low(big[3])]).unwrap();
    let three = rig.buffer(3 * gib);
    rig.run(0, &[low(three)]).unwrap();
    rig.run(0, &[low(big[1]), low(big[2])]).unwrap();
}

#[test]
fn closing_a_buffer_takes_it_out_of_every_address_space() {
    let rig = rig();
    let other = rig.create();
    let buffer = rig.buffer(4096);
    for context in [0, other] {
        rig.run(context, &[pinned(buffer, 1 << 35)]).unwrap();
    }
    rig.device.take_events();
    rig.close_buffer(buffer).unwrap();
    let gone = Event::Unbound { address: 1 << 35, size: 4096 };
    assert_eq!(rig.device.take_events(), [gone.clone(), gone]);
    // A new buffer of the same handle is not where the old one was.
    assert_eq!(rig.buffer(4096), buffer);
    rig.run(0, &[object(buffer)]).unwrap();
    assert_eq!(rig.device.last_submission().fresh, [true]);
}

#[test]
fn what_the_device_refused_is_told_again() {
    let rig = rig();
    let buffer = rig.buffer(4096);
    *rig.device.fail_submit.lock().unwrap() = Some(out_of_memory());
    refused!(OutOfMemory, rig.run(0, &[object(buffer)]));
    assert_eq!(rig.session.status(0).in_flight, 0);
    rig.run(0, &[object(buffer)]).unwrap();
    assert_eq!(rig.device.last_submission().fresh, [true]);
    // One that never reached the device needs no unbinding.
    let other = rig.buffer(4096);
    *rig.device.fail_submit.lock().unwrap() = Some(out_of_memory());
    refused!(OutOfMemory, rig.run(0, &[object(other)]));
    rig.device.take_events();
    rig.close_buffer(other).unwrap();
    assert_eq!(rig.device.take_events(), []);
}

#[test]
fn fences_and_counts() {
    let rig = rig();
    let buffer = object(rig.buffer(1));
    assert_eq!(rig.submit(HEAD, &[buffer]).unwrap().fence, None);
    let out = rig.submit(flags(flag::FENCE_OUT), &[buffer]).unwrap();
    assert!(out.fence.is_some() && rig.device.last_submission().want_fence);
    assert!(!out.materialised);
    // A fence that came without the flag is not looked at.
    rig.submit_after(HEAD, &[buffer], Some(9)).unwrap();
    assert_eq!(rig.device.last_submission().after, []);
    let context = rig.create();
    assert!(rig.submit(ExecbufHead { context, ..HEAD }, &[buffer]).unwrap().materialised);
    let status = rig.session.status(0);
    assert_eq!((status.in_flight, status.submissions), (4, 4));
    *rig.device.done.lock().unwrap() = Some(Outcome::Completed);
    rig.submit(HEAD, &[buffer]).unwrap();
    assert_eq!(rig.session.status(0).in_flight, 4);
    let tag = rig.device.last_submission().tag;
    for left in [3, 2, 1, 0, 0] {
        rig.session.handle_completion(NOW, tag, Outcome::Completed);
        assert_eq!(rig.session.status(0).in_flight, left);
    }
}

#[test]
fn a_timeline_keeps_no_fence_that_has_ended() {
    let rig = rig();
    let buffer = object(rig.buffer(1));
    let context = rig.create_with(create_flag::SINGLE_TIMELINE, Vec::new()).unwrap();
    let head = ExecbufHead { context, ..HEAD };
    let end = |fence: u64| {
        rig.device.signal(fence);
        let tag = rig.device.last_submission().tag;
        rig.session.handle_completion(NOW, tag, Outcome::Completed);
    };
    rig.submit(head, &[buffer]).unwrap();
    let first = rig.device.last_fence();
    rig.submit(head, &[buffer]).unwrap();
    let second = rig.device.last_submission();
    assert_eq!(second.after, [first]);
    end(first);
    rig.submit(head, &[buffer]).unwrap();
    assert_eq!(
        rig.device.last_submission().after,
        [second.fence],
        "the last, not the one that ended"
    );
    end(second.fence);
    end(rig.device.last_fence());
    rig.submit(head, &[buffer]).unwrap();
    assert_eq!(rig.device.last_submission().after, []);
}

#[test]
fn capture_and_sol_reset() {
    let captured = |handle| ExecObject { flags: object_flag::CAPTURE, ..object(handle) };
    let rig = rig();
    let buffer = rig.buffer(1);
    rig.run(0, &[captured(buffer)]).unwrap();
    refused!(ExecFlags, rig.submit(flags(flag::GEN7_SOL_RESET), &[object(buffer)]));
    for caps in [
        Capabilities { discrete: true, ..kbl() },
        Capabilities { graphics_version: 12, graphics_release: 70, ..kbl() },
    ] {
        let rig = rig_with(caps, NOBODY);
        let buffer = rig.buffer(1);
        refused!(CaptureRecoverable, rig.run(0, &[captured(buffer)]));
        rig.set(0, ContextParam::scalar(number::RECOVERABLE, 0)).unwrap();
        rig.run(0, &[captured(buffer)]).unwrap();
    }
    let plain_12 = rig_with(Capabilities { graphics_version: 12, ..kbl() }, NOBODY);
    let buffer = plain_12.buffer(1);
    plain_12.run(0, &[captured(buffer)]).unwrap();
}
