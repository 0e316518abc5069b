//! Synchronisation objects: binary and timelines.

use gpu_broker_uapi::drm::*;

use crate::Cases;
use crate::kernel::{BAD, Node, close};

pub(crate) fn create(node: &mut Node, flags: u32) -> u32 {
    let mut create = drm_syncobj_create { handle: 0, flags };
    node.call("syncobj", DRM_IOCTL_SYNCOBJ_CREATE, &mut create);
    create.handle
}

/// A wait whose time is over already.
pub(crate) fn wait(node: &mut Node, handles: &[u32], flags: u32, timeout_nsec: i64) {
    let count_handles = u32::try_from(handles.len()).expect("few");
    let handles = node.put(handles);
    let mut wait =
        drm_syncobj_wait { handles, timeout_nsec, count_handles, flags, ..Default::default() };
    node.call("wait", DRM_IOCTL_SYNCOBJ_WAIT, &mut wait);
}

fn array(node: &mut Node, name: &str, number: u32, handles: &[u32]) {
    let count_handles = u32::try_from(handles.len()).expect("few");
    let handles = node.put(handles);
    node.call(name, number, &mut drm_syncobj_array { handles, count_handles, pad: 0 });
}

pub(crate) fn signal(node: &mut Node, handle: u32) {
    array(node, "signal", DRM_IOCTL_SYNCOBJ_SIGNAL, &[handle]);
}

pub(crate) fn reset(node: &mut Node, handle: u32) {
    array(node, "reset", DRM_IOCTL_SYNCOBJ_RESET, &[handle]);
}

pub(crate) fn signal_at(node: &mut Node, handle: u32, point: u64, flags: u32) {
    let (handles, points) = (node.put(&[handle]), node.put(&[point]));
    let mut signal = drm_syncobj_timeline_array { handles, points, count_handles: 1, flags };
    node.call("signal_at", DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, &mut signal);
}

pub(crate) fn query(node: &mut Node, handle: u32, flags: u32) {
    let (handles, points) = (node.put(&[handle]), node.put(&[u64::MAX]));
    let mut query = drm_syncobj_timeline_array { handles, points, count_handles: 1, flags };
    node.call("query", DRM_IOCTL_SYNCOBJ_QUERY, &mut query);
    let point = node.peek(points, 2);
    node.note(&format!("{point:x?}"));
}

pub(crate) fn destroy(node: &mut Node, handle: u32) {
    let mut destroy = drm_syncobj_destroy { handle, pad: 0 };
    node.call("destroy", DRM_IOCTL_SYNCOBJ_DESTROY, &mut destroy);
}

pub(crate) fn add(cases: &mut Cases) {
    for flags in [0, 1, 2, 1 << 31] {
        cases.add(format!("syncobj/create/flags{flags:x}"), move |node| {
            let handle = create(node, flags);
            wait(node, &[handle], 0, 0);
            query(node, handle, 0);
            destroy(node, handle);
            destroy(node, handle);
        });
    }
    waits(cases);
    waits_since(cases);
    timelines(cases);
    for flags in [0, 1, 2] {
        for (state, created) in [("empty", 0), ("signalled", 1)] {
            cases.add(format!("syncobj/export/{state}/flags{flags}"), move |node| {
                let handle = create(node, created);
                let mut give = drm_syncobj_handle { handle, flags, fd: -1, pad: 0 };
                if node.call_hiding("export", DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &mut give, &[2]) {
                    let mut take = drm_syncobj_handle { handle, ..give };
                    node.call_hiding("import", DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, &mut take, &[2]);
                    close(give.fd);
                }
                wait(node, &[handle], 0, 0);
            });
        }
    }
}

fn waits(cases: &mut Cases) {
    for flags in [0, 1, 2, 3, 4, 7, 16, 1 << 31] {
        for (state, states) in [("00", [0, 0]), ("10", [1, 0]), ("01", [0, 1]), ("11", [1, 1])] {
            cases.add(format!("syncobj/wait/{state}/flags{flags}"), move |node| {
                let handles = states.map(|signalled| create(node, signalled));
                wait(node, &handles, flags, 0);
            });
        }
        cases.add(format!("syncobj/wait/unknown/flags{flags}"), move |node| {
            wait(node, &[9], flags, 0);
        });
        cases.add(format!("syncobj/wait/bad/flags{flags}"), move |node| {
            let mut wait =
                drm_syncobj_wait { handles: BAD, count_handles: 1, flags, ..Default::default() };
            node.call("wait", DRM_IOCTL_SYNCOBJ_WAIT, &mut wait);
        });
    }
}

/// WAIT_DEADLINE, which there is since Linux 6.6.
const WAIT_DEADLINE: u32 = 1 << 3;

fn waits_since(cases: &mut Cases) {
    for flags in [0, 1, 2, 3] {
        cases.add(format!("syncobj/wait/none/flags{flags}"), move |node| wait(node, &[], flags, 0));
        cases.add(format!("syncobj/wait/deadline/flags{flags}"), move |node| {
            let handles = [1, 1].map(|signalled| create(node, signalled));
            wait(node, &handles, flags | WAIT_DEADLINE, 0);
            wait(node, &[9], flags | WAIT_DEADLINE, 0);
        });
    }
}

fn timelines(cases: &mut Cases) {
    for point in [0, 1, 5, u64::MAX] {
        for again in [0, 1, 5, 6] {
            for flags in [0, 1] {
                let id = format!("syncobj/timeline/{point:x}/then{again}/flags{flags}");
                cases.add(id, move |node| {
                    let handle = create(node, 0);
                    signal_at(node, handle, point, flags);
                    query(node, handle, 0);
                    signal_at(node, handle, again, 0);
                    query(node, handle, flags);
                    wait(node, &[handle], 0, 0);
                });
            }
        }
        for flags in [0, 1, 2, 3, 4, 7] {
            for (state, signalled) in [("none", None), ("1", Some(1)), ("5", Some(5))] {
                cases.add(
                    format!("syncobj/timeline/wait/{state}/{point:x}/flags{flags}"),
                    move |node| {
                        let handle = create(node, 0);
                        if let Some(point) = signalled {
                            signal_at(node, handle, point, 0);
                        }
                        let (handles, points) = (node.put(&[handle]), node.put(&[point]));
                        let mut wait = drm_syncobj_timeline_wait {
                            handles,
                            points,
                            count_handles: 1,
                            flags,
                            ..Default::default()
                        };
                        node.call("wait_at", DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, &mut wait);
                    },
                );
            }
        }
        for to in [0, 1, 7] {
            for flags in [0, 1] {
                for (state, signalled) in [("binary", None), ("timeline", Some(5))] {
                    // Flags are looked at last.
                    if flags != 0 && point != signalled.unwrap_or(0) {
                        continue;
                    }
                    let id = format!("syncobj/transfer/{state}/{point:x}/to{to}/flags{flags}");
                    cases.add(id, move |node| {
                        let source = create(node, u32::from(signalled.is_none()));
                        let target = create(node, 0);
                        if let Some(point) = signalled {
                            signal_at(node, source, point, 0);
                        }
                        let mut transfer = drm_syncobj_transfer {
                            src_handle: source,
                            dst_handle: target,
                            src_point: point,
                            dst_point: to,
                            flags,
                            pad: 0,
                        };
                        node.call("transfer", DRM_IOCTL_SYNCOBJ_TRANSFER, &mut transfer);
                        query(node, target, 0);
                        wait(node, &[target], 0, 0);
                    });
                }
            }
        }
    }
}
