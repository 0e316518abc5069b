//! §13.2.

use gpu_broker_core::Capabilities;
use gpu_broker_protocol::execbuf::*;
use gpu_broker_protocol::refusal::errno::*;

use super::Book;
use super::execbuf::{HEAD, with};
use crate::rig::*;

pub(super) fn check(book: &mut Book) {
    one_object(book);
    batches(book);
}

fn one_object(book: &mut Book) {
    let rig = rig();
    let (a, batch) = (rig.buffer(4096), object(rig.buffer(4096)));
    let with_batch = |object: ExecObject| rig.run(0, &[object, batch]);
    for handle in [0, 99, u32::MAX] {
        let object = ExecObject { flags: u64::MAX, ..object(handle) };
        book.errno("13.2/handle", ENOENT, with_batch(object));
    }
    let flagged = |flags| ExecObject { flags, ..object(a) };
    for bit in (8..64).chain([1]) {
        book.errno("13.2/flags", EINVAL, with_batch(flagged(1 << bit)));
    }
    for bit in [0, 2, 3, 6, 7] {
        book.errno("13.2/flags", 0, with_batch(flagged(1 << bit)));
    }
    let old = rig_with(Capabilities { full_ppgtt: false, ..kbl() }, NOBODY);
    let gtt = ExecObject { handle: old.buffer(1), ..flagged(object_flag::NEEDS_GTT) };
    book.errno("13.2/flags", 0, old.run(0, &[gtt]));
    for alignment in [3, 4097, u64::MAX] {
        let object = ExecObject { alignment, ..object(a) };
        book.errno("13.2/alignment", EINVAL, with_batch(object));
    }
    for alignment in [0, 1, 4096, 1 << 30] {
        let object = ExecObject { alignment, ..object(a) };
        book.errno("13.2/alignment", 0, with_batch(object));
        book.effect(
            "13.2/alignment",
            rig.device.last_submission().addresses[0].is_multiple_of(alignment.max(1)),
        );
    }
    for offset in [1, 4097, 1 << 47, 1 << 63, 0xffff_0000_0000_0000] {
        book.errno("13.2/pinned", EINVAL, with_batch(pinned(a, offset)));
    }
    for offset in [0, 1 << 40, 0xffff_8000_0000_0000, 0xffff_ffff_ffff_f000] {
        book.errno("13.2/pinned", 0, with_batch(pinned(a, offset)));
        let address = rig.device.last_submission().addresses[0];
        book.effect("13.2/pinned", address == offset & ((1 << 48) - 1));
    }
    let padded = |flags, pad_to_size| ExecObject { pad_to_size, ..flagged(flags) };
    book.errno("13.2/pad", EINVAL, with_batch(padded(object_flag::PAD_TO_SIZE, 4097)));
    book.errno("13.2/pad", 0, with_batch(padded(object_flag::PAD_TO_SIZE, 8192)));
    book.errno("13.2/pad", 0, with_batch(padded(0, 4097)));
    book.errno("13.2/low", 0, with_batch(flagged(0)));
    book.effect("13.2/low", rig.device.last_submission().addresses[0] < (1 << 32) - 4096);
    let high = ExecObject { flags: object_flag::PINNED, ..pinned(a, 1 << 32) };
    book.errno("13.2/low", EINVAL, with_batch(high));
    let tgl = rig_with(Capabilities { has_relocations: false, ..kbl() }, NOBODY);
    let relocated = ExecObject { relocation_count: 1, ..object(tgl.buffer(1)) };
    book.errno("13.2/relocations", EINVAL, tgl.submit(with(flag::NO_RELOC), &[relocated]));
}

fn batches(book: &mut Book) {
    let rig = rig();
    let (a, b) = (object(rig.buffer(8192)), object(rig.buffer(4096)));
    let written =
        |object: ExecObject| ExecObject { flags: object.flags | object_flag::WRITE, ..object };
    book.errno("13.2/written", EINVAL, rig.run(0, &[a, written(b)]));
    book.errno("13.2/written", 0, rig.run(0, &[written(a), b]));
    let first = with(flag::BATCH_FIRST);
    book.errno("13.2/written", EINVAL, rig.submit(first, &[written(a), b]));
    let at = |batch_start_offset, batch_len| ExecbufHead { batch_start_offset, batch_len, ..first };
    for (start, length) in [(8192, 0), (8184, 16), (0, 8200), (!7, !7), (16, !7)] {
        book.errno("13.2/range", EINVAL, rig.submit(at(start, length), &[a, b]));
    }
    for (start, length, bytes) in [(0, 0, 8192), (4096, 0, 4096), (8184, 8, 8)] {
        book.errno("13.2/range", 0, rig.submit(at(start, length), &[a, b]));
        let seen = rig.device.last_submission();
        let batch = (seen.addresses[0] + u64::from(start), bytes);
        book.effect("13.2/batch", seen.batches == [batch]);
    }
    rig.submit(HEAD, &[a, b]).unwrap();
    let seen = rig.device.last_submission();
    book.effect("13.2/batch", seen.batches == [(seen.addresses[1], 4096)]);
}
