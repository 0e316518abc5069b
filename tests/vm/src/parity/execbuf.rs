//! EXECBUFFER2: what it checks (rule table §13), what a batch leaves in memory, waits for it.

use gpu_broker_uapi::drm::{DRM_IOCTL_GEM_CLOSE, drm_gem_close};
use gpu_broker_uapi::i915::*;

use crate::Cases;
use crate::contexts::create;
use crate::kernel::{BAD, Node};
use crate::syncobjs;

pub(crate) const MI_BATCH_BUFFER_END: u32 = 0x0500_0000;
/// MI_STORE_DWORD_IMM with a 48-bit address: four words.
pub(crate) const MI_STORE_DWORD_IMM: u32 = 0x1000_0002;
pub(crate) const PINNED: u64 = EXEC_OBJECT_PINNED | EXEC_OBJECT_SUPPORTS_48B_ADDRESS;
/// Where things are pinned.
pub(crate) const AT: u64 = 0x20_0000;
/// Nanoseconds in which everything is over.
pub(crate) const LONG: i64 = 60_000_000_000;

pub(crate) fn buffer(node: &mut Node, size: u64) -> u32 {
    let mut create = drm_i915_gem_create { size, ..Default::default() };
    node.call("buffer", DRM_IOCTL_I915_GEM_CREATE, &mut create);
    create.handle
}

pub(crate) fn write(node: &mut Node, handle: u32, words: &[u32]) {
    let data_ptr = node.put(words);
    let size = size_of_val(words) as u64;
    let mut write = drm_i915_gem_pwrite { handle, size, data_ptr, ..Default::default() };
    node.call("pwrite", DRM_IOCTL_I915_GEM_PWRITE, &mut write);
}

/// The first words of a buffer, written down.
pub(crate) fn read(node: &mut Node, handle: u32) {
    let data_ptr = node.put(&[0_u32; 4]);
    let mut read = drm_i915_gem_pread { handle, size: 16, data_ptr, ..Default::default() };
    node.call("pread", DRM_IOCTL_I915_GEM_PREAD, &mut read);
    let words = node.peek(data_ptr, 4);
    node.note(&format!("{words:x?}"));
}

pub(crate) fn wait(node: &mut Node, bo_handle: u32, flags: u32, timeout_ns: i64) {
    let mut wait = drm_i915_gem_wait { bo_handle, flags, timeout_ns };
    // What is left of the time is not the same twice.
    node.call_hiding("wait", DRM_IOCTL_I915_GEM_WAIT, &mut wait, &[2, 3]);
}

/// A batch that ends at once, wherever it begins.
pub(crate) fn empty(node: &mut Node) -> drm_i915_gem_exec_object2 {
    let handle = buffer(node, 4096);
    write(node, handle, &[MI_BATCH_BUFFER_END; 1024]);
    drm_i915_gem_exec_object2 { handle, offset: AT, flags: PINNED, ..Default::default() }
}

pub(crate) fn submit(node: &mut Node, execbuf: &mut drm_i915_gem_execbuffer2) -> bool {
    node.call("execbuf", DRM_IOCTL_I915_GEM_EXECBUFFER2_WR, execbuf)
}

/// An EXECBUF of a batch that writes a word to the beginning of a buffer.
pub(crate) fn store(node: &mut Node, handle: u32, value: u32) -> drm_i915_gem_execbuffer2 {
    let flags = PINNED | EXEC_OBJECT_WRITE;
    let target = drm_i915_gem_exec_object2 { handle, offset: AT << 1, flags, ..Default::default() };
    let batch = empty(node);
    let place = u32::try_from(target.offset).expect("low");
    write(node, batch.handle, &[MI_STORE_DWORD_IMM, place, 0, value, MI_BATCH_BUFFER_END, 0]);
    over(node, &[target, batch])
}

/// An EXECBUF of these objects.
pub(crate) fn over(
    node: &mut Node,
    objects: &[drm_i915_gem_exec_object2],
) -> drm_i915_gem_execbuffer2 {
    let buffers_ptr = node.put(objects);
    let buffer_count = u32::try_from(objects.len()).expect("few");
    drm_i915_gem_execbuffer2 { buffers_ptr, buffer_count, ..Default::default() }
}

pub(crate) type Change = fn(&mut drm_i915_gem_execbuffer2);
type ObjectChange = fn(&mut drm_i915_gem_exec_object2);

pub(crate) fn add(cases: &mut Cases) {
    fields(cases);
    objects(cases);
    fences(cases);
    stores(cases);
    waits(cases);
    for bit in 0..64 {
        for with in [0, I915_EXEC_BLT] {
            // From bit 22 on there is nothing.
            if with != 0 && bit > 22 {
                continue;
            }
            cases.add(format!("execbuf/flag{bit}/ring{with}"), move |node| {
                let batch = empty(node);
                let mut execbuf = over(node, &[batch]);
                execbuf.flags = 1 << bit | with;
                // A fence that is given out is a descriptor.
                let name = "execbuf";
                let done =
                    node.call_hiding(name, DRM_IOCTL_I915_GEM_EXECBUFFER2_WR, &mut execbuf, &[15]);
                if done && execbuf.flags & I915_EXEC_FENCE_OUT != 0 {
                    crate::kernel::close((execbuf.rsvd2 >> 32) as i32);
                }
                wait(node, batch.handle, 0, LONG);
            });
        }
    }
    for ring in (0..8).chain([15, 16, 31, 32, 62, 63]) {
        cases.add(format!("execbuf/ring{ring}"), move |node| {
            let batch = empty(node);
            let mut execbuf = over(node, &[batch]);
            execbuf.flags = ring;
            submit(node, &mut execbuf);
            wait(node, batch.handle, 0, LONG);
        });
    }
}

fn fields(cases: &mut Cases) {
    let changes: [(&str, Change); 22] = [
        ("good", |_| ()),
        ("count0", |e| e.buffer_count = 0),
        ("count-huge", |e| e.buffer_count = u32::MAX),
        ("count2", |e| e.buffer_count = 2),
        ("bad", |e| e.buffers_ptr = BAD),
        ("start4", |e| e.batch_start_offset = 4),
        ("start8", |e| e.batch_start_offset = 8),
        ("start-end", |e| e.batch_start_offset = 4096),
        ("start-past", |e| e.batch_start_offset = 8192),
        ("len4", |e| e.batch_len = 4),
        ("len8", |e| e.batch_len = 8),
        ("len-past", |e| e.batch_len = 8192),
        ("len-wraps", |e| (e.batch_start_offset, e.batch_len) = (8, u32::MAX - 7)),
        ("dr1", |e| e.DR1 = 1),
        ("dr4", |e| e.DR4 = 1),
        ("dr4-all", |e| e.DR4 = u32::MAX),
        ("cliprects", |e| e.num_cliprects = 1),
        ("cliprects-ptr", |e| e.cliprects_ptr = BAD),
        ("context-unknown", |e| e.rsvd1 = 77),
        ("context-high", |e| e.rsvd1 = 1 << 32),
        ("rsvd2", |e| e.rsvd2 = u64::MAX),
        ("fence-in-bad", |e| (e.flags, e.rsvd2) = (I915_EXEC_FENCE_IN, 0xffff)),
    ];
    for (class, change) in changes {
        for context in ["default", "proto"] {
            cases.add(format!("execbuf/field/{context}/{class}"), move |node| {
                let batch = empty(node);
                let mut execbuf = over(node, &[batch]);
                if context == "proto" {
                    execbuf.rsvd1 = create(node, 0, 0).into();
                }
                change(&mut execbuf);
                submit(node, &mut execbuf);
                wait(node, batch.handle, 0, LONG);
            });
        }
    }
}

fn objects(cases: &mut Cases) {
    let changes: [(&str, ObjectChange); 18] = [
        ("good", |_| ()),
        ("handle0", |o| o.handle = 0),
        ("handle-unknown", |o| o.handle = 99),
        ("twice", |o| o.handle = 1),
        ("relocs-bad", |o| (o.relocation_count, o.relocs_ptr) = (1, BAD)),
        ("align3", |o| o.alignment = 3),
        ("align4096", |o| o.alignment = 4096),
        ("align-huge", |o| o.alignment = 1 << 63),
        ("pinned-odd", |o| o.offset = 0x30_0001),
        ("pinned-over", |o| o.offset = AT),
        ("pinned-0", |o| o.offset = 0),
        ("pinned-4g", |o| o.offset = 1 << 32),
        ("pinned-47", |o| o.offset = 1 << 47),
        ("pinned-high", |o| o.offset = 0xffff_8000_0000_0000),
        ("pinned-last", |o| o.offset = 0xffff_ffff_ffff_f000),
        ("rsvd1", |o| o.rsvd1 = 1),
        ("rsvd2", |o| o.rsvd2 = 1),
        ("pad-odd", |o| (o.flags, o.rsvd1) = (PINNED | EXEC_OBJECT_PAD_TO_SIZE, 5)),
    ];
    for (class, change) in changes {
        for first in [false, true] {
            cases.add(format!("execbuf/object/{class}/first{first}"), move |node| {
                let batch = empty(node);
                let handle = buffer(node, 4096);
                let mut other = drm_i915_gem_exec_object2 { handle, offset: 0x30_0000, ..batch };
                change(&mut other);
                let list = if first { [batch, other] } else { [other, batch] };
                let mut execbuf = over(node, &list);
                execbuf.flags = if first { I915_EXEC_BATCH_FIRST } else { 0 };
                submit(node, &mut execbuf);
            });
        }
    }
    // From bit 8 on there is nothing.
    for bit in (0..12).chain([31, 32, 47, 63]) {
        for batch in [false, true] {
            let what = if batch { "batch" } else { "other" };
            cases.add(format!("execbuf/object/{what}/flag{bit}"), move |node| {
                let mut batch_object = empty(node);
                let handle = buffer(node, 4096);
                let mut other =
                    drm_i915_gem_exec_object2 { handle, offset: 0x30_0000, ..batch_object };
                (if batch { &mut batch_object } else { &mut other }).flags |= 1 << bit;
                let mut execbuf = over(node, &[other, batch_object]);
                submit(node, &mut execbuf);
            });
        }
    }
}

fn fences(cases: &mut Cases) {
    for signalled in [false, true] {
        for flags in [0, 1, 2, 3, 4, 8, 1 << 31] {
            for handle in [0_u32, 1, 9] {
                for count in [0_u32, 1, u32::MAX] {
                    if (count > 1 || handle == 0) && (flags, handle) != (0, 1) {
                        continue;
                    }
                    let id = format!(
                        "execbuf/fence/{signalled}/flags{flags:x}/handle{handle}/count{count}"
                    );
                    cases.add(id, move |node| {
                        let syncobj = syncobjs::create(node, u32::from(signalled));
                        let batch = empty(node);
                        let mut execbuf = over(node, &[batch]);
                        execbuf.flags = I915_EXEC_FENCE_ARRAY;
                        execbuf.num_cliprects = count;
                        execbuf.cliprects_ptr =
                            node.put(&[drm_i915_gem_exec_fence { handle, flags }]);
                        let done = submit(node, &mut execbuf);
                        if done {
                            wait(node, batch.handle, 0, LONG);
                            syncobjs::wait(node, &[syncobj], 0, 0);
                        }
                    });
                }
            }
        }
    }
}

fn stores(cases: &mut Cases) {
    for ring in [I915_EXEC_RENDER, I915_EXEC_BLT, I915_EXEC_BSD, I915_EXEC_VEBOX] {
        for value in [1_u32, 0x600d_cafe, u32::MAX] {
            for relocated in [false, true] {
                let id = format!("execbuf/store/ring{ring}/{value:x}/relocated{relocated}");
                cases.add(id, move |node| {
                    let target = buffer(node, 4096);
                    let place = 0x40_0000;
                    let mut other = empty(node);
                    (other.handle, other.offset) = (target, place);
                    other.flags |= EXEC_OBJECT_WRITE;
                    let mut batch = empty(node);
                    let address = if relocated { 0 } else { u32::try_from(place).expect("low") };
                    let words = [MI_STORE_DWORD_IMM, address + 4, 0, value, MI_BATCH_BUFFER_END, 0];
                    write(node, batch.handle, &words);
                    if relocated {
                        let entry = drm_i915_gem_relocation_entry {
                            target_handle: target,
                            delta: 4,
                            offset: 4,
                            presumed_offset: u64::MAX,
                            ..Default::default()
                        };
                        (batch.relocation_count, batch.relocs_ptr) = (1, node.put(&[entry]));
                    }
                    let mut execbuf = over(node, &[other, batch]);
                    execbuf.flags = ring;
                    submit(node, &mut execbuf);
                    wait(node, target, 0, LONG);
                    read(node, target);
                });
            }
        }
    }
    let entry = drm_i915_gem_relocation_entry { target_handle: 1, ..Default::default() };
    let changed = [
        ("good", entry),
        ("target", drm_i915_gem_relocation_entry { target_handle: 9, ..entry }),
        ("odd", drm_i915_gem_relocation_entry { offset: 2, ..entry }),
        ("end", drm_i915_gem_relocation_entry { offset: 4092, ..entry }),
        ("past", drm_i915_gem_relocation_entry { offset: 4096, ..entry }),
        ("domains", drm_i915_gem_relocation_entry { write_domain: 6, ..entry }),
        ("cpu", drm_i915_gem_relocation_entry { read_domains: 1, ..entry }),
        ("gpu", drm_i915_gem_relocation_entry { read_domains: 2, write_domain: 2, ..entry }),
    ];
    for (class, entry) in changed {
        for count in [0, 1, u32::MAX] {
            cases.add(format!("execbuf/reloc/{class}/count{count}"), move |node| {
                let mut batch = empty(node);
                batch.relocs_ptr = node.put(&[entry]);
                batch.relocation_count = count;
                let mut execbuf = over(node, &[batch]);
                submit(node, &mut execbuf);
            });
        }
    }
}

fn waits(cases: &mut Cases) {
    for busy in [false, true] {
        for (class, timeout) in [("0", 0), ("1", 1), ("long", LONG), ("ever", -1)] {
            for (which, handle, flags) in [("good", 1, 0), ("unknown", 9, 0), ("flags", 1, 1)] {
                cases.add(format!("wait/{busy}/{class}/{which}"), move |node| {
                    let batch = empty(node);
                    if busy {
                        let mut execbuf = over(node, &[batch]);
                        submit(node, &mut execbuf);
                        // Afterwards it is idle, for a wait without any patience too.
                        wait(node, batch.handle, 0, LONG);
                    }
                    wait(node, handle, flags, timeout);
                    let mut busy = drm_i915_gem_busy { handle, busy: 7 };
                    node.call("busy", DRM_IOCTL_I915_GEM_BUSY, &mut busy);
                });
            }
        }
    }
    for handle in [0, 1, 9] {
        cases.add(format!("buffer/close/{handle}"), move |node| {
            buffer(node, 4096);
            let mut close = drm_gem_close { handle, pad: 0 };
            node.call("close", DRM_IOCTL_GEM_CLOSE, &mut close);
            buffer(node, 4096);
        });
    }
    for size in [0, 1, 4096, 4097, u64::MAX] {
        cases.add(format!("buffer/create/{size:x}"), move |node| {
            let mut create = drm_i915_gem_create { size, ..Default::default() };
            node.call("buffer", DRM_IOCTL_I915_GEM_CREATE, &mut create);
        });
    }
}
