//! §14, and row 27 of §13.

use gpu_broker_core::{Capabilities, SessionLimits};
use gpu_broker_protocol::execbuf::{ExecObject, object_flag};
use gpu_broker_protocol::object::*;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::userptr::flag;
use gpu_broker_protocol::{BufferId, Reason};

use super::Book;
use crate::fake::{Event, out_of_memory};
use crate::rig::*;
use crate::userptr::{Share, memory};

pub(super) fn check(book: &mut Book) {
    create(book);
    limits(book);
    order(book);
    init(book);
    collisions(book);
    invalidation(book);
    restrictions(book);
}

fn create(book: &mut Book) {
    let none = rig_with(Capabilities { has_llc_or_snoop: false, ..kbl() }, NOBODY);
    book.errno("14/device", ENODEV, none.share(Share { flags: !0, ..memory(1) }));
    let rig = rig();
    for bit in 2..31 {
        book.errno("14/flags", EINVAL, rig.share(Share { flags: 1 << bit, ..memory(1) }));
    }
    for length in [(1 << 34) + 4096, 1 << 60, u64::MAX] {
        book.errno("14/too-big", E2BIG, rig.share(Share { length, ..memory(1) }));
    }
    book.errno("14/size", EINVAL, rig.share(Share { length: 0, ..memory(1) }));
    for (offset, length) in [(1, 4096), (0, 1), (4095, 4096), (0, 4097)] {
        book.errno("14/aligned", EINVAL, rig.share(Share { offset, length, ..memory(1) }));
    }
    for reason in [Reason::UserptrNotMemfd, Reason::UserptrSeals, Reason::UserptrSecret] {
        book.errno("14/fd", EINVAL, rig.share(Share { fd: Err(reason), ..memory(1) }));
    }
    for reason in [Reason::UserptrAccess, Reason::UserptrSeals] {
        let sealed = Share { write: Err(reason), ..memory(1) };
        book.errno("14/fd", reason.errno(), rig.share(sealed));
        book.errno("14/fd", 0, rig.share(Share { flags: flag::READ_ONLY, ..sealed }));
    }
    for (offset, length) in [(0, 9 * 4096), (8 * 4096, 4096), (!4095, 4096), (!4095, 8192)] {
        for flags in [0, flag::PROBE] {
            let outside = Share { offset, length, flags, ..memory(1) };
            book.errno("14/space", EFAULT, rig.share(outside));
        }
    }
    let unsynchronized = Share { flags: flag::UNSYNCHRONIZED, ..memory(1) };
    book.errno("14/unsynchronized", ENODEV, rig.share(unsynchronized));
    let old = rig_with(Capabilities { has_read_only_pages: false, ..kbl() }, NOBODY);
    for flags in [flag::READ_ONLY, flag::READ_ONLY | flag::PROBE] {
        book.errno("14/read-only", ENODEV, old.share(Share { flags, ..memory(1) }));
        book.errno("14/read-only", 0, rig.share(Share { flags, ..memory(1) }));
    }
    for flags in [0, flag::PROBE] {
        book.errno("14/probe", 0, rig.share(Share { flags, ..memory(1) }));
    }
    book.effect("14/probe", rig.device.user.lock().unwrap().pins == 0);
}

fn limits(book: &mut Book) {
    let few = SessionLimits {
        buffers: 2,
        userptr_memory_bytes: 10 * 4096,
        buffer_memory_bytes: 0,
        ..SessionLimits::default()
    };
    let rig = limited(kbl(), NOBODY, few);
    book.errno("14/memory", 0, rig.share(memory(1)));
    book.errno("14/memory", ENOMEM, rig.share(memory(2)));
    // The same memory counts once, and not as the daemon's.
    book.errno("14/memory", 0, rig.share(memory(1)));
    book.errno("14/memory", ENOMEM, rig.share(memory(1)));
    rig.close_buffer(1).unwrap();
    rig.close_buffer(2).unwrap();
    book.effect("14/memory", rig.device.mappings() == 0);
    book.errno("14/memory", 0, rig.share(memory(2)));
    let failing = limited(kbl(), NOBODY, SessionLimits::default());
    book.errno("14/memory", ENOMEM, failing.share(Share { map: false, ..memory(1) }));
    book.effect("14/memory", failing.device.mappings() == 0);
}

/// Everything is wrong, and is put right from the first check to the last.
fn order(book: &mut Book) {
    let none = Capabilities { has_llc_or_snoop: false, has_read_only_pages: false, ..kbl() };
    let some = Capabilities { has_llc_or_snoop: true, ..none.clone() };
    let all = Share {
        fd: Err(Reason::UserptrNotMemfd),
        flags: !0,
        length: u64::MAX,
        offset: 8 * 4096,
        ..memory(1)
    };
    book.errno("14/order", ENODEV, rig_with(none, NOBODY).share(all));
    let rig = rig_with(some, NOBODY);
    book.errno("14/order", EINVAL, rig.share(all));
    let all = Share { flags: flag::UNSYNCHRONIZED | flag::READ_ONLY, ..all };
    book.errno("14/order", E2BIG, rig.share(all));
    let all = Share { length: 0, ..all };
    book.errno("14/order", EINVAL, rig.share(all));
    let all = Share { length: 4096, ..all };
    book.errno("14/order", EINVAL, rig.share(all));
    let all = Share { fd: Ok(()), ..all };
    book.errno("14/order", EFAULT, rig.share(all));
    let all = Share { offset: 0, ..all };
    book.errno("14/order", ENODEV, rig.share(all));
    let all = Share { flags: flag::READ_ONLY, ..all };
    book.errno("14/order", ENODEV, rig.share(all));
    book.errno("14/order", 0, rig.share(Share { flags: 0, ..all }));
}

fn init(book: &mut Book) {
    let rig = rig();
    let (a, batch) = (object(rig.share(memory(1)).unwrap()), object(rig.buffer(4096)));
    let pins = || rig.device.user.lock().unwrap().pins;
    for _ in 0..3 {
        book.errno("14/init-once", 0, rig.run(0, &[a, batch]));
    }
    book.effect("14/init-once", pins() == 1 && !rig.device.last_submission().fresh[0]);
    // In two address spaces.
    let other = rig.create();
    book.errno("14/init-once", 0, rig.run(other, &[a, batch]));
    book.effect("14/init-once", pins() == 1 && rig.device.last_submission().fresh[0]);
    let address = rig.device.last_submission().addresses[0];
    rig.replace(a.handle, 0, 1).unwrap();
    rig.device.take_events();
    book.errno("14/init-unbinds", 0, rig.run(0, &[a, batch]));
    let unbound = |event: &Event| matches!(event, Event::Unbound { .. });
    let unbound = rig.device.take_events().iter().filter(|event| unbound(event)).count();
    book.effect("14/init-unbinds", unbound == 2 && pins() == 2);
    let seen = rig.device.last_submission();
    book.effect("14/init-unbinds", seen.fresh[0] && seen.addresses[0] == address);
    book.errno("14/init-unbinds", 0, rig.run(other, &[a, batch]));
    book.effect("14/init-unbinds", rig.device.last_submission().fresh[0]);
    rig.replace(a.handle, 0, 1).unwrap();
    for refusal in [out_of_memory(), Reason::UserptrPages.into()] {
        let errno = refusal.errno();
        rig.device.user.lock().unwrap().fail_pin = Some(refusal);
        book.errno("14/init-errors", errno, rig.run(0, &[a, batch]));
    }
    book.errno("14/init-errors", 0, rig.run(0, &[a, batch]));
    book.errno("14/fini", ENOENT, rig.run(0, &[a, object(99), batch]));
    rig.replace(a.handle, 0, 1).unwrap();
    book.errno("14/fini", 0, rig.run(0, &[a, batch]));
}

fn collisions(book: &mut Book) {
    let rig = std::sync::Arc::new(rig());
    let (a, b) = (rig.share(memory(1)).unwrap(), rig.share(memory(2)).unwrap());
    let objects = [object(a), object(b), object(rig.buffer(4096))];
    rig.run(0, &objects).unwrap();
    // While the pages of the first are taken hold of; and of the second, when the first's are held.
    for (row, handle) in [("14/init-again", a), ("14/done", b), ("13/27", b)] {
        rig.replace(handle, 0, 1).unwrap();
        let submissions = rig.device.submissions.lock().unwrap().len();
        let colliding = std::sync::Arc::clone(&rig);
        let collide = Box::new(move || colliding.replace(a, 0, 1).unwrap());
        rig.device.user.lock().unwrap().on_pin = Some(collide);
        book.errno(row, EAGAIN, rig.run(0, &objects));
        book.effect(row, rig.device.submissions.lock().unwrap().len() == submissions);
        book.errno(row, 0, rig.run(0, &objects));
    }
    // Pages that the device lost by itself.
    let pins = || rig.device.user.lock().unwrap().pins;
    let before = pins();
    *rig.device.fail_submit.lock().unwrap() = Some(Reason::UserptrInvalidated.into());
    book.errno("13/27", EAGAIN, rig.run(0, &objects));
    book.errno("13/27", 0, rig.run(0, &objects));
    book.effect("13/27", pins() == before + 2);
}

fn invalidation(book: &mut Book) {
    let rig = rig();
    let at = |offset: u64, length: u64| {
        rig.share(Share { offset: offset * 4096, length: length * 4096, ..memory(1) }).unwrap()
    };
    let (low, middle, high) = (at(0, 2), at(1, 4), at(5, 3));
    let elsewhere = rig.share(memory(2)).unwrap();
    let found = |buffer, offset, length| rig.invalidate(buffer, offset, length);
    for (offset, length, expected) in [
        (0, 0, 0),
        (0, 1, 1),
        (4096, 1, 2),
        (8191, 1, 2),
        (8192, 4096, 1),
        (5 * 4096 - 1, 2, 2),
        (0, u64::MAX, 3),
        (8 * 4096, u64::MAX, 0),
        (u64::MAX, u64::MAX, 0),
    ] {
        for buffer in [low, middle, high] {
            let count = book.errno("14/invalidate", 0, found(buffer, offset, length));
            book.effect("14/invalidate", count == Some(expected));
        }
    }
    book.effect("14/invalidate", found(elsewhere, 0, u64::MAX) == Ok(1));
    book.errno("14/invalidate", ENOENT, found(99, 0, 1));
    book.errno("14/invalidate", EINVAL, found(rig.buffer(4096), 0, 1));
    // A handle that is given up while work uses the buffer still counts, until it does not.
    rig.set_busy(high);
    rig.close_buffer(high).unwrap();
    book.effect("14/invalidate", found(low, 7 * 4096, 1) == Ok(1));
    rig.device.user.lock().unwrap().busy.clear();
    book.effect("14/invalidate", found(low, 7 * 4096, 1) == Ok(0));
}

fn restrictions(book: &mut Book) {
    let rig = rig();
    let buffer = rig.share(Share { flags: flag::READ_ONLY, ..memory(1) }).unwrap();
    let id = BufferId(buffer);
    let session = &rig.session;
    book.errno("14/mmap", ENODEV, session.buffer_map(id, |_, _| ()));
    for write in [false, true] {
        let access = BufferAccess { buffer: id, offset: 0, size: 8, write };
        book.errno("14/pread", EINVAL, session.buffer_access(&access));
        book.errno("14/pread", 0, session.buffer_access(&BufferAccess { size: 0, ..access }));
    }
    book.errno("14/export", EINVAL, session.buffer_export(&BufferExport { buffer: id, flags: 0 }));
    for (mode, stride) in [(0, 0), (1, 512), (2, 128), (9, 9)] {
        let tiling = BufferSetTiling { buffer: id, mode, stride };
        book.errno("14/tiling", ENXIO, session.buffer_set_tiling(&tiling));
    }
    book.effect("14/tiling", session.buffer_get_tiling(id).unwrap().mode == 0);
    for (caching, errno) in [(0, ENXIO), (1, 0), (2, ENXIO), (3, EINVAL)] {
        let request = BufferCaching { buffer: id, caching };
        book.errno("14/caching", errno, session.buffer_set_caching(&request));
    }
    let domain = |read_domains| {
        session.buffer_set_domain(&BufferSetDomain { buffer: id, read_domains, write_domain: 0 })
    };
    book.errno("14/validate", 0, domain(0));
    book.effect("14/validate", rig.device.user.lock().unwrap().pins == 0);
    book.errno("14/validate", 0, domain(1));
    book.effect("14/validate", rig.device.user.lock().unwrap().pins == 1);
    rig.replace(buffer, 0, 1).unwrap();
    rig.device.user.lock().unwrap().fail_pin = Some(Reason::UserptrPages.into());
    book.errno("14/validate", EFAULT, domain(1));
    let written = ExecObject { flags: object_flag::WRITE, ..object(buffer) };
    book.errno("14/write-flag", 0, rig.run(0, &[written, object(rig.buffer(4096))]));
    // But the daemon itself does not write it.
    let relocated = ExecObject { relocation_count: 1, ..object(buffer) };
    let batch = object(rig.buffer(4096));
    let patched = rig.relocate(&[relocated, batch]);
    book.errno("14/write-flag", EINVAL, patched);
}
