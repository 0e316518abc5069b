//! §13 rows 1 to 28, and §13.1.

use gpu_broker_core::hands::Outcome;
use gpu_broker_core::{Capabilities, SessionLimits};
use gpu_broker_protocol::Violation;
use gpu_broker_protocol::execbuf::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;

use super::Book;
use crate::fake::out_of_memory;
use crate::rig::*;

pub(super) const HEAD: ExecbufHead = ExecbufHead {
    context: 0,
    flags: 0,
    batch_start_offset: 0,
    batch_len: 0,
    dr1: 0,
    dr4: 0,
    num_cliprects: 0,
};

pub(super) fn with(flags: u64) -> ExecbufHead {
    ExecbufHead { flags, ..HEAD }
}

pub(super) fn check(book: &mut Book) {
    request(book);
    fds(book);
    lookups(book);
    late(book);
    relocations(book);
    relocations_that_are_skipped(book);
    rings(book);
    parallel_slots(book);
}

/// The request's own fields; every one of these also names a buffer that does not exist.
fn request(book: &mut Book) {
    let limits = SessionLimits { objects_per_execbuf: 2, ..SessionLimits::default() };
    let rig = limited(kbl(), NOBODY, limits);
    let bad = object(99);
    book.errno("13/1", EINVAL, rig.submit(HEAD, &[]));
    book.errno("13/1", EINVAL, rig.submit(HEAD, &[bad; 3]));
    for bit in (22..64).chain([6, 7, 15]) {
        book.errno("13/2", EINVAL, rig.submit(with(1 << bit), &[bad]));
    }
    book.errno("13/3", EINVAL, rig.submit(ExecbufHead { num_cliprects: 1, ..HEAD }, &[bad]));
    let (objects, fences) = (&[bad][..], &[ExecFence::default()][..]);
    let stray = ExecbufLists { objects, fences, ..ExecbufLists::default() };
    book.errno("13/3", EINVAL, rig.submit_lists(HEAD, stray, None));
    let extensions = &[ExecExtension::default()][..];
    let stray = ExecbufLists { objects, extensions, ..ExecbufLists::default() };
    book.errno("13/3", EINVAL, rig.submit_lists(HEAD, stray, None));
    for (dr1, dr4, errno) in
        [(1, 0, EINVAL), (0, 1, EINVAL), (u32::MAX, 0, EINVAL), (0, u32::MAX, ENOENT)]
    {
        book.errno("13/4", errno, rig.submit(ExecbufHead { dr1, dr4, ..HEAD }, &[bad]));
    }
    for (batch_start_offset, batch_len) in [(4, 0), (0, 4), (1, 7), (0, u32::MAX)] {
        let head = ExecbufHead { batch_start_offset, batch_len, ..HEAD };
        book.errno("13/5", EINVAL, rig.submit(head, &[bad]));
    }
    let mut body = Vec::new();
    encode(&HEAD, &ExecbufLists { objects, ..ExecbufLists::default() }, &mut body);
    body.pop();
    book.effect("13/6", Execbuf::decode(&body).err() == Some(Violation::Short));
    for may in [NOBODY, ROOT] {
        for (version, errno) in [(5, EPERM), (9, EPERM), (10, EPERM), (11, ENODEV), (12, ENODEV)] {
            let caps = Capabilities { graphics_version: version, ..kbl() };
            let secure = with(flag::SECURE | flag::FENCE_IN | flag::FENCE_SUBMIT);
            book.errno("13/7", errno, rig_with(caps, may).submit(secure, &[bad]));
        }
    }
    let chain = with(flag::USE_EXTENSIONS | flag::FENCE_ARRAY);
    book.errno("13/8", EINVAL, rig.submit(chain, &[bad]));
    let both = ExecbufHead { num_cliprects: 1, ..with(flag::USE_EXTENSIONS) };
    book.errno("13/8", EINVAL, rig.submit(both, &[bad]));
}

fn fds(book: &mut Book) {
    let rig = rig();
    let bad = &[object(99)];
    let both = with(flag::FENCE_IN | flag::FENCE_SUBMIT);
    book.errno("13/11", EINVAL, rig.submit_after(both, bad, Some(1)));
    for bit in [flag::FENCE_IN, flag::FENCE_SUBMIT] {
        book.errno("13/12", EINVAL, rig.submit_after(with(bit), bad, None));
        book.errno("13/12", ENOENT, rig.submit_after(with(bit), bad, Some(1)));
    }
    let batch = &[object(rig.buffer(1))];
    rig.submit_after(with(flag::FENCE_IN), batch, Some(7)).unwrap();
    let seen = rig.device.last_submission();
    book.effect("13/12", seen.after == [7] && seen.along.is_empty());
    rig.submit_after(with(flag::FENCE_SUBMIT), batch, Some(8)).unwrap();
    let seen = rig.device.last_submission();
    book.effect("13/12", seen.along == [8] && seen.after.is_empty());
    rig.submit_after(HEAD, batch, Some(9)).unwrap();
    let seen = rig.device.last_submission();
    book.effect("13/12", seen.along.is_empty() && seen.after.is_empty());
    let done = book.errno("13/13", 0, rig.submit(with(flag::FENCE_OUT), batch)).unwrap();
    book.effect("13/13", done.fence.is_some());
    book.effect("13/13", rig.submit(HEAD, batch).unwrap().fence.is_none());
}

fn lookups(book: &mut Book) {
    let limits = SessionLimits { submissions_in_flight: 1, ..SessionLimits::default() };
    let rig = limited(kbl(), NOBODY, limits);
    let bad = [object(99)];
    book.errno("13/15", ENOENT, rig.run(5, &bad));
    let proto = rig.create();
    *rig.device.fail_context.lock().unwrap() = Some(out_of_memory());
    book.errno("13/15", ENOMEM, rig.run(proto, &bad));
    book.errno("13/16", EINVAL, rig.submit(with(5), &bad));
    book.effect("13/15", !rig.is_live(proto));
    rig.registry.set_wedged(true);
    book.errno("13/17", EIO, rig.run(proto, &bad));
    book.effect("13/15", rig.is_live(proto));
    rig.registry.set_wedged(false);
    let buffer = rig.buffer(4096);
    let vm = rig.vm();
    let context = rig.create();
    rig.set(context, ContextParam::scalar(number::VM, vm.into())).unwrap();
    rig.vm_destroy(vm).unwrap();
    book.errno("13/18", 0, rig.run(context, &[object(buffer)]));
    book.errno("13/14", EAGAIN, rig.run(context, &[object(buffer)]));
    book.errno("13/19", ENOENT, rig.run(0, &[object(buffer), object(98)]));
    let odd = ExecObject { alignment: 3, ..object(buffer) };
    book.errno("13/19", EINVAL, rig.run(0, &[odd, object(98)]));
    rig.destroy(context).unwrap();
    book.errno("13/28", ENOENT, rig.run(context, &[object(buffer)]));
}

fn late(book: &mut Book) {
    let rig = rig();
    let buffer = rig.buffer(8192);
    let batch = &[object(buffer)];
    *rig.device.fail_submit.lock().unwrap() = Some(out_of_memory());
    book.errno("13/25", ENOMEM, rig.run(0, batch));
    book.effect("13/25", rig.session.status(0).in_flight == 0);
    book.errno("13/26", EINVAL, rig.submit(with(flag::GEN7_SOL_RESET), batch));
    for ring in 0..5 {
        book.errno("13/23", 0, rig.submit(with(ring), batch));
    }
    let other = rig.buffer(4096);
    let overlapping = [pinned(buffer, 1 << 33), pinned(other, (1 << 33) + 4096)];
    book.errno("13/21", ENOSPC, rig.run(0, &overlapping));
    let captured = ExecObject { flags: object_flag::CAPTURE, ..object(buffer) };
    book.errno("13/24", 0, rig.run(0, &[captured]));
    for (version, release, discrete, errno) in
        [(12, 0, false, 0), (12, 70, false, EINVAL), (12, 0, true, EINVAL), (13, 0, false, EINVAL)]
    {
        let caps = Capabilities {
            graphics_version: version,
            graphics_release: release,
            discrete,
            ..kbl()
        };
        let rig = rig_with(caps, NOBODY);
        let captured = ExecObject { handle: rig.buffer(1), ..captured };
        book.errno("13/24", errno, rig.run(0, &[captured]));
        rig.set(0, ContextParam::scalar(number::RECOVERABLE, 0)).unwrap();
        book.errno("13/24", 0, rig.run(0, &[captured]));
    }
    rig.set(0, ContextParam::scalar(number::RECOVERABLE, 0)).unwrap();
    let tag = rig.device.last_submission().tag;
    rig.session.handle_completion(NOW, tag, Outcome::Guilty);
    book.errno("13/20", EIO, rig.run(0, batch));
    book.errno("13/20", ENOENT, rig.run(0, &[object(99)]));
}

const FROM: usize = 0;
const TO: usize = 1;

/// Two buffers of a page at known places, the first with relocations to the second.
fn relocate(
    rig: &Rig,
    flags: u64,
    list: &[Relocation],
) -> Result<crate::fake::Seen, gpu_broker_protocol::Refusal> {
    let count = u32::try_from(list.len()).unwrap();
    relocate_counted(rig, flags, list, count)
}

fn relocate_counted(
    rig: &Rig,
    flags: u64,
    relocations: &[Relocation],
    relocation_count: u32,
) -> Result<crate::fake::Seen, gpu_broker_protocol::Refusal> {
    let asynchronous = object_flag::ASYNC;
    let from = pinned(1, AT);
    let objects = [
        ExecObject { relocation_count, flags: from.flags | asynchronous, ..from },
        ExecObject { flags: from.flags | asynchronous, ..pinned(2, TARGET_AT) },
        pinned(3, AT + (1 << 20)),
    ];
    let lists = ExecbufLists { objects: &objects, relocations, ..ExecbufLists::default() };
    rig.submit_lists(with(flags), lists, None).map(|_| rig.device.last_submission())
}

const AT: u64 = 1 << 34;
/// In the upper half, so that its canonical form differs.
const TARGET_AT: u64 = 0xffff_8000_0010_0000;

fn three_buffers() -> Rig {
    let rig = rig();
    for handle in 1..=3 {
        assert_eq!(rig.buffer(4096), handle);
    }
    rig
}

fn relocations(book: &mut Book) {
    let rig = three_buffers();
    let good = Relocation { target: 2, offset: 8, ..Relocation::default() };
    let seen = book.errno("13/22-offset", 0, relocate(&rig, 0, &[good])).unwrap();
    book.effect("13/22-offset", seen.patches == [(FROM, 8, TARGET_AT)]);
    book.effect("13/22-offset", seen.asynchronous == [false, true, false]);
    for target in [0, 4, u32::MAX] {
        // The target comes before everything else.
        let bad = Relocation { target, write_domain: 6, offset: 4095, ..good };
        book.errno("13/22-target", ENOENT, relocate(&rig, 0, &[bad]));
    }
    let lut = Relocation { target: u32::try_from(TO).unwrap(), ..good };
    let seen = book.errno("13/22-target", 0, relocate(&rig, flag::HANDLE_LUT, &[lut])).unwrap();
    book.effect("13/22-target", seen.patches == [(FROM, 8, TARGET_AT)]);
    for target in [3, u32::MAX] {
        let bad = Relocation { target, ..good };
        book.errno("13/22-target", ENOENT, relocate(&rig, flag::HANDLE_LUT, &[bad]));
    }
    for (read_domains, write_domain) in [(1, 0), (0x40, 0), (0x80, 0), (0, 6), (0, 1), (0, 0x40)] {
        let bad = Relocation { read_domains, write_domain, presumed_offset: TARGET_AT, ..good };
        book.errno("13/22-domains", EINVAL, relocate(&rig, 0, &[bad]));
    }
    let written = Relocation { read_domains: 0x3e, write_domain: 2, ..good };
    let seen = book.errno("13/22-domains", 0, relocate(&rig, 0, &[written])).unwrap();
    book.effect("13/22-domains", seen.write == [false, true, false]);
    for offset in [4089, 4092, 4096, u64::MAX, 1, 2, 3, 10] {
        let bad = Relocation { offset, ..good };
        book.errno("13/22-offset", EINVAL, relocate(&rig, 0, &[bad]));
    }
    for (offset, delta, value) in [
        (4088, 0x10, TARGET_AT + 0x10),
        (4, u32::MAX, TARGET_AT - 1),
        (0, 1 << 31, TARGET_AT - (1 << 31)),
    ] {
        let seen = relocate(&rig, 0, &[Relocation { offset, delta, ..good }]);
        let seen = book.errno("13/22-offset", 0, seen).unwrap();
        let expected = crate::rig::canonical(value);
        book.effect("13/22-offset", seen.patches == [(FROM, offset, expected)]);
    }
    for count in [2, u32::MAX] {
        book.errno("13/22-payload", EFAULT, relocate_counted(&rig, 0, &[good], count));
    }
}

fn relocations_that_are_skipped(book: &mut Book) {
    let rig = three_buffers();
    let right = Relocation { target: 2, presumed_offset: TARGET_AT, ..Relocation::default() };
    let unfit = Relocation { offset: 4095, write_domain: 2, ..right };
    let seen = book.errno("13/22-skip", 0, relocate(&rig, 0, &[right, unfit])).unwrap();
    book.effect("13/22-skip", seen.patches.is_empty() && seen.asynchronous[FROM]);
    book.effect("13/22-skip", seen.write[TO]);
    // Everything lies where it was expected: nobody looks at the list, or for it.
    let wrong = Relocation { target: 77, ..right };
    let seen = book.errno("13/22-skip", 0, relocate(&rig, flag::NO_RELOC, &[wrong])).unwrap();
    book.effect("13/22-skip", seen.patches.is_empty());
    book.errno("13/22-skip", 0, relocate_counted(&rig, flag::NO_RELOC, &[], 9));
    // The second object is not pinned and not where the client thinks.
    let objects = [
        ExecObject { relocation_count: 1, ..pinned(1, AT) },
        ExecObject { offset: 4096, ..object(2) },
    ];
    let submit = |relocations: &[Relocation]| {
        let lists = ExecbufLists { objects: &objects, relocations, ..ExecbufLists::default() };
        rig.submit_lists(with(flag::NO_RELOC), lists, None).map(|_| rig.device.last_submission())
    };
    let guess = Relocation { target: 2, presumed_offset: 4096, ..Relocation::default() };
    let seen = book.errno("13/22-skip", 0, submit(&[guess])).unwrap();
    book.effect("13/22-skip", seen.patches == [(FROM, 0, TARGET_AT)]);
    book.errno("13/22-skip", ENOENT, submit(&[wrong]));
}

fn rings(book: &mut Book) {
    let rig = rig();
    let batch = &[object(rig.buffer(1))];
    let ran = |rig: &Rig, flags| {
        rig.submit(with(flags), batch).map(|_| rig.device.last_submission().placement)
    };
    for (ring, engine) in [(0, "0:0"), (1, "0:0"), (2, "2:0"), (3, "1:0"), (4, "3:0")] {
        let placement = book.errno("13.1/legacy", 0, ran(&rig, ring));
        assert_eq!(placement.as_deref(), Some(engine), "ring {ring}");
    }
    for ring in 5..64 {
        book.errno("13.1/legacy", EINVAL, ran(&rig, ring));
    }
    for (bsd, engine) in [(1, "2:0"), (2, "2:1")] {
        let placement = book.errno("13.1/bsd", 0, ran(&rig, 2 | bsd << 13));
        assert_eq!(placement.as_deref(), Some(engine));
    }
    book.errno("13.1/bsd", EINVAL, ran(&rig, 2 | 3 << 13));
    for ring in [0, 1, 3, 4] {
        for bsd in 1..4 {
            book.errno("13.1/bsd", EINVAL, ran(&rig, ring | bsd << 13));
        }
    }
    let mut caps = kbl();
    caps.engines.retain(|info| info.engine.class < 2);
    let small = rig_with(caps, NOBODY);
    small.buffer(1);
    for ring in [2, 4] {
        book.errno("13.1/absent", EINVAL, ran(&small, ring));
    }
    let slots = [BCS, EngineId::GAP, EngineId::GAP];
    let map = map_with(&slots, vec![balance(1, &[VCS0, VCS1])]);
    let context = rig.create_ext(vec![set_node(map)]).unwrap();
    let on = |slot| rig.submit(ExecbufHead { context, ..with(slot) }, batch);
    for slot in [0, 1, 1 | 3 << 13] {
        book.errno("13.1/map", 0, on(slot));
    }
    for slot in [2, 3, 63] {
        book.errno("13.1/map", EINVAL, on(slot));
    }
}

fn parallel_slots(book: &mut Book) {
    let rig = rig();
    let map = map_with(&[EngineId::GAP], vec![parallel(0, 2, 1, &[VCS0, VCS1])]);
    let context = rig.create_ext(vec![set_node(map)]).unwrap();
    let head = ExecbufHead { context, ..HEAD };
    let objects = [object(rig.buffer(1)), object(rig.buffer(8192)), object(rig.buffer(1))];
    let row = "13.1/parallel";
    book.errno(row, EINVAL, rig.submit(head, &objects[..1]));
    book.errno(row, EINVAL, rig.submit(ExecbufHead { batch_len: 8, ..head }, &objects));
    book.errno(row, EINVAL, rig.submit(ExecbufHead { batch_start_offset: 8, ..head }, &objects));
    for (flags, batches) in [(0, [1, 2]), (flag::BATCH_FIRST, [0, 1])] {
        book.errno(row, 0, rig.submit(ExecbufHead { flags, ..head }, &objects));
        let seen = rig.device.last_submission();
        let at: Vec<_> = seen.batches.iter().map(|(address, _)| *address).collect();
        book.effect(row, at == batches.map(|index| seen.addresses[index]));
    }
}
