//! Fences of submissions: given out and taken in as descriptors, and points of timelines.

use std::os::fd::RawFd;

use gpu_broker_uapi::drm::*;
use gpu_broker_uapi::i915::*;
use gpu_broker_uapi::sync::*;

use crate::Cases;
use crate::execbuf::{Change, LONG, buffer, empty, over, read, store, submit, wait};
use crate::kernel::{BAD, Node, close};
use crate::syncobjs;

/// EXECBUF with an out-fence, whose descriptor may be any.
pub(crate) fn submit_for_fence(
    node: &mut Node,
    execbuf: &mut drm_i915_gem_execbuffer2,
) -> Option<RawFd> {
    execbuf.flags |= I915_EXEC_FENCE_OUT;
    let (name, number) = ("execbuf", DRM_IOCTL_I915_GEM_EXECBUFFER2_WR);
    let done = node.call_hiding(name, number, execbuf, &[15]);
    done.then(|| RawFd::try_from(execbuf.rsvd2 >> 32).expect("a descriptor"))
}

/// What a fence says of itself.
pub(crate) fn info(node: &mut Node, fence: RawFd) {
    let mut info = sync_file_info::default();
    // Its name, and where nothing is written because there is no room for it.
    let names = [0, 1, 2, 3, 4, 5, 6, 7];
    node.call_on(fence, "info", SYNC_IOC_FILE_INFO, &mut info, &names);
}

pub(crate) fn add(cases: &mut Cases) {
    out(cases);
    within(cases);
    timelines(cases);
    mapped(cases);
}

fn out(cases: &mut Cases) {
    for ring in [I915_EXEC_RENDER, I915_EXEC_BLT, I915_EXEC_BSD, I915_EXEC_VEBOX] {
        cases.add(format!("execbuf/out-fence/ring{ring}"), move |node| {
            let batch = empty(node);
            let mut execbuf = over(node, &[batch]);
            execbuf.flags = ring;
            let Some(fence) = submit_for_fence(node, &mut execbuf) else { return };
            node.poll(fence);
            info(node, fence);
            // Into a syncobj and out of it again.
            let handle = syncobjs::create(node, 0);
            let flags = DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE;
            let mut import = drm_syncobj_handle { handle, flags, fd: fence, pad: 0 };
            node.call("import", DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, &mut import);
            syncobjs::wait(node, &[handle], 0, 0);
            let mut export = drm_syncobj_handle { fd: -1, ..import };
            if node.call_hiding("export", DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &mut export, &[2]) {
                info(node, export.fd);
                close(export.fd);
            }
            close(fence);
        });
    }
    cases.add("execbuf/out-fence/merged", |node| {
        let mut fences = Vec::new();
        for ring in [I915_EXEC_RENDER, I915_EXEC_BLT] {
            let batch = empty(node);
            let mut execbuf = over(node, &[batch]);
            execbuf.flags = ring;
            fences.extend(submit_for_fence(node, &mut execbuf));
        }
        for (class, fd2, flags, pad) in [
            ("good", fences[1], 0, 0),
            ("bad", -1, 0, 0),
            ("flags", fences[1], 1, 0),
            ("pad", fences[1], 0, 1),
        ] {
            let mut merge = sync_merge_data { fd2, flags, pad, ..Default::default() };
            if node.call_on(fences[0], class, SYNC_IOC_MERGE, &mut merge, &[9]) {
                node.poll(merge.fence);
                // How many of its fences are still there is a matter of when it was made.
                let mut info = sync_file_info::default();
                let hidden = [0, 1, 2, 3, 4, 5, 6, 7, 10];
                node.call_on(merge.fence, "info", SYNC_IOC_FILE_INFO, &mut info, &hidden);
                close(merge.fence);
            }
        }
        fences.into_iter().for_each(close);
    });
}

/// In-fences: of an earlier submission, and what is none.
fn within(cases: &mut Cases) {
    let kinds = [
        ("in", I915_EXEC_FENCE_IN),
        ("submit", I915_EXEC_FENCE_SUBMIT),
        ("both", I915_EXEC_FENCE_IN | I915_EXEC_FENCE_SUBMIT),
    ];
    for (kind, flags) in kinds {
        for first in [I915_EXEC_RENDER, I915_EXEC_BLT] {
            for second in [I915_EXEC_RENDER, I915_EXEC_BLT] {
                cases.add(
                    format!("execbuf/in-fence/{kind}/ring{first}/ring{second}"),
                    move |node| {
                        let (target, before) = (buffer(node, 4096), buffer(node, 4096));
                        let mut execbuf = store(node, before, 1);
                        execbuf.flags = first;
                        let Some(fence) = submit_for_fence(node, &mut execbuf) else { return };
                        let mut execbuf = store(node, target, 2);
                        execbuf.flags = second | flags;
                        execbuf.rsvd2 = u64::try_from(fence).expect("a descriptor");
                        submit(node, &mut execbuf);
                        wait(node, target, 0, LONG);
                        read(node, target);
                        close(fence);
                    },
                );
            }
        }
        for (class, fd) in [("closed", 0x7fff_u64), ("none", u32::MAX.into()), ("stdin", 0)] {
            cases.add(format!("execbuf/in-fence/{kind}/{class}"), move |node| {
                let batch = empty(node);
                let mut execbuf = over(node, &[batch]);
                (execbuf.flags, execbuf.rsvd2) = (flags, fd);
                submit(node, &mut execbuf);
                wait(node, batch.handle, 0, LONG);
            });
        }
    }
}

/// TIMELINE_FENCES: what each entry may be, by what the syncobj holds.
fn timelines(cases: &mut Cases) {
    for (state, point) in [("empty", None), ("binary", Some(0)), ("5", Some(5))] {
        for flags in [0, 1, 2, 3, 4, 1 << 31] {
            for value in [0, 3, 5, 9] {
                for handle in [1, 9] {
                    if handle == 9 && (flags, value) != (1, 3) {
                        continue;
                    }
                    let id =
                        format!("execbuf/timeline/{state}/flags{flags:x}/{value}/handle{handle}");
                    cases.add(id, move |node| {
                        let syncobj = syncobjs::create(node, u32::from(point == Some(0)));
                        if let Some(point @ 1..) = point {
                            syncobjs::signal_at(node, syncobj, point, 0);
                        }
                        let handles_ptr = node.put(&[drm_i915_gem_exec_fence { handle, flags }]);
                        let values_ptr = node.put(&[value]);
                        chained(node, 1, [handles_ptr, values_ptr], |_| ());
                        syncobjs::query(node, syncobj, 0);
                        syncobjs::wait(node, &[syncobj], 0, 0);
                    });
                }
            }
        }
    }
    let changes: [(&str, u64, Change); 5] = [
        ("none", 0, |_| ()),
        ("too-many", u64::MAX, |_| ()),
        ("with-array", 1, |execbuf| execbuf.flags |= I915_EXEC_FENCE_ARRAY),
        ("with-cliprects", 1, |execbuf| execbuf.num_cliprects = 1),
        ("bad-chain", 1, |execbuf| execbuf.cliprects_ptr = BAD),
    ];
    for (class, count, change) in changes {
        cases.add(format!("execbuf/timeline/list/{class}"), move |node| {
            syncobjs::create(node, 0);
            let fence = drm_i915_gem_exec_fence { handle: 1, flags: I915_EXEC_FENCE_SIGNAL };
            let pointers = [node.put(&[fence]), node.put(&[1_u64])];
            chained(node, count, pointers, change);
            syncobjs::query(node, 1, 0);
        });
    }
    for (class, good) in [("handles", [false, true]), ("values", [true, false])] {
        cases.add(format!("execbuf/timeline/list/bad-{class}"), move |node| {
            syncobjs::create(node, 0);
            let fence = drm_i915_gem_exec_fence { handle: 1, flags: I915_EXEC_FENCE_SIGNAL };
            let pointers = [node.put(&[fence]), node.put(&[1_u64])];
            let pointer = |at: usize| if good[at] { pointers[at] } else { BAD };
            chained(node, 1, [pointer(0), pointer(1)], |_| ());
            syncobjs::query(node, 1, 0);
        });
    }
}

/// A submission with one extension of `fence_count` entries.
fn chained(node: &mut Node, fence_count: u64, [handles_ptr, values_ptr]: [u64; 2], change: Change) {
    let extension = drm_i915_gem_execbuffer_ext_timeline_fences {
        base: i915_user_extension {
            name: DRM_I915_GEM_EXECBUFFER_EXT_TIMELINE_FENCES,
            ..Default::default()
        },
        fence_count,
        handles_ptr,
        values_ptr,
    };
    let batch = empty(node);
    let mut execbuf = over(node, &[batch]);
    execbuf.flags = I915_EXEC_USE_EXTENSIONS;
    execbuf.cliprects_ptr = node.put(&[extension]);
    change(&mut execbuf);
    if submit(node, &mut execbuf) {
        wait(node, batch.handle, 0, LONG);
    }
}

/// What a batch wrote, seen through a mapping of the buffer.
fn mapped(cases: &mut Cases) {
    for flags in 0..=5 {
        for extensions in [0, BAD] {
            cases.add(format!("buffer/mmap/flags{flags}/extensions{extensions:x}"), move |node| {
                let target = buffer(node, 4096);
                let mut map = drm_i915_gem_mmap_offset {
                    handle: target,
                    flags,
                    extensions,
                    ..Default::default()
                };
                let number = DRM_IOCTL_I915_GEM_MMAP_OFFSET;
                let given = node.call_hiding("mmap_offset", number, &mut map, &[2, 3]);
                let mut execbuf = store(node, target, 0x600d_cafe);
                submit(node, &mut execbuf);
                wait(node, target, 0, LONG);
                // The test device has no aperture to map it through.
                if given && flags != I915_MMAP_OFFSET_GTT {
                    node.note_mapped(map.offset, 4);
                }
            });
        }
    }
    for handle in [0, 9] {
        cases.add(format!("buffer/mmap/handle{handle}"), move |node| {
            let flags = I915_MMAP_OFFSET_WB;
            let mut map = drm_i915_gem_mmap_offset { handle, flags, ..Default::default() };
            node.call("mmap_offset", DRM_IOCTL_I915_GEM_MMAP_OFFSET, &mut map);
        });
    }
}
