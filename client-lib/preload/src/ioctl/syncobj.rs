//! Synchronisation objects.

use std::ffi::c_int;
use std::os::fd::{IntoRawFd, OwnedFd};

use gpu_broker_client::protocol::limits::SYNCOBJS_PER_REQUEST_MAX;
use gpu_broker_client::protocol::syncobj::{
    SyncobjArray, SyncobjCreate, SyncobjDestroy, SyncobjExport, SyncobjImport, SyncobjQuery,
    SyncobjTimelineSignal, SyncobjTransfer, SyncobjWait, flag,
};
use gpu_broker_client::protocol::{Reply, Request, SyncobjId};
use gpu_broker_uapi::drm::{
    drm_syncobj_array, drm_syncobj_create, drm_syncobj_destroy, drm_syncobj_handle,
    drm_syncobj_timeline_array, drm_syncobj_timeline_wait, drm_syncobj_transfer, drm_syncobj_wait,
};

use super::{ask, ask_interruptibly, done, reply};
use crate::arg::{Arg, at};
use crate::errno::{Errno, Outcome};
use crate::node::{self, Node};
use crate::user;

/// `DRM_SYNCOBJ_WAIT_FLAGS_WAIT_DEADLINE`: when the program would like to have it. A hint to clocks
/// of hardware, which are not the program's business here.
const WAIT_DEADLINE: u32 = 1 << 3;

pub(super) fn create(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type C = drm_syncobj_create;
    let request = SyncobjCreate { flags: arg.u32(at!(C, flags)) };
    let made = reply!(ask(node, Request::SyncobjCreate(request))?, Reply::SyncobjCreate(m) => m)?;
    arg.set_u32(at!(C, handle), made.syncobj.0);
    Ok(0)
}

pub(super) fn destroy(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type D = drm_syncobj_destroy;
    let syncobj = SyncobjId(arg.u32(at!(D, handle)));
    done(node, Request::SyncobjDestroy(SyncobjDestroy { syncobj, pad: arg.u32(at!(D, pad)) }))
}

pub(super) fn handle_to_fd(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type H = drm_syncobj_handle;
    if arg.u32(at!(H, pad)) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let request = SyncobjExport {
        syncobj: SyncobjId(arg.u32(at!(H, handle))),
        flags: arg.u32(at!(H, flags)),
        point: 0,
    };
    let fd = reply!(ask(node, Request::SyncobjExport(request))?, Reply::SyncobjExport(e) => e.fd)?;
    arg.set_i32(at!(H, fd), fd.into_raw_fd());
    Ok(0)
}

pub(super) fn fd_to_handle(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type H = drm_syncobj_handle;
    if arg.u32(at!(H, pad)) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let fd = node::borrow(arg.i32(at!(H, fd)))?;
    let flags = arg.u32(at!(H, flags));
    let syncobj = SyncobjId(if flags == 0 { 0 } else { arg.u32(at!(H, handle)) });
    let request = Request::SyncobjImport(SyncobjImport { syncobj, flags, point: 0, fd });
    let made = reply!(node.connection.request(request)?, Reply::SyncobjImport(made) => made)?;
    arg.set_u32(at!(H, handle), made.syncobj.0);
    Ok(0)
}

fn handles(address: u64, count: u32) -> Outcome<Vec<SyncobjId>> {
    if count as usize > SYNCOBJS_PER_REQUEST_MAX {
        return Err(Errno(libc::EINVAL));
    }
    Ok(user::u32s(address, count as usize)?.into_iter().map(SyncobjId).collect())
}

pub(super) fn wait(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type W = drm_syncobj_wait;
    let known = flag::WAIT_ALL | flag::WAIT_FOR_SUBMIT;
    let flags = wait_flags(arg.u32(at!(W, pad)), arg.u32(at!(W, flags)), known)?;
    if arg.u32(at!(W, count_handles)) == 0 {
        return Ok(0);
    }
    let request = SyncobjWait {
        syncobjs: handles(arg.u64(at!(W, handles)), arg.u32(at!(W, count_handles)))?,
        points: None,
        flags,
        deadline_ns: arg.i64(at!(W, timeout_nsec)),
    };
    let first = waited(node, request)?;
    arg.set_u32(at!(W, first_signaled), first);
    Ok(0)
}

pub(super) fn timeline_wait(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type W = drm_syncobj_timeline_wait;
    let known = flag::WAIT_ALL | flag::WAIT_FOR_SUBMIT | flag::WAIT_AVAILABLE;
    let flags = wait_flags(arg.u32(at!(W, pad)), arg.u32(at!(W, flags)), known)?;
    if arg.u32(at!(W, count_handles)) == 0 {
        return Ok(0);
    }
    let syncobjs = handles(arg.u64(at!(W, handles)), arg.u32(at!(W, count_handles)))?;
    let points = arg.u64(at!(W, points));
    // No points at all stand for 0 everywhere.
    let points =
        if points == 0 { vec![0; syncobjs.len()] } else { user::u64s(points, syncobjs.len())? };
    let request = SyncobjWait {
        syncobjs,
        points: Some(points),
        flags,
        deadline_ns: arg.i64(at!(W, timeout_nsec)),
    };
    let first = waited(node, request)?;
    arg.set_u32(at!(W, first_signaled), first);
    Ok(0)
}

/// What is asked of a wait, before anything else is looked at. A wait for nothing is over then,
/// which kernels before 6.12 call EINVAL.
fn wait_flags(pad: u32, flags: u32, known: u32) -> Outcome<u32> {
    if pad != 0 || flags & !(known | WAIT_DEADLINE) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    Ok(flags & known)
}

fn waited(node: &Node, request: SyncobjWait) -> Outcome<u32> {
    let now = monotonic_ns();
    // A deadline that has passed looks once.
    let left = u64::try_from(request.deadline_ns.saturating_sub(now)).unwrap_or(0);
    let part = |ns: u64| {
        let deadline_ns = match ns {
            0 => 0,
            ns => monotonic_ns().saturating_add(i64::try_from(ns).unwrap_or(i64::MAX)),
        };
        Request::SyncobjWait(SyncobjWait { deadline_ns, ..request.clone() })
    };
    let answer = ask_interruptibly(node, Some(left), part)?;
    reply!(answer, Reply::SyncobjWait(waited) => waited.first_signaled)
}

/// What deadlines are counted by.
fn monotonic_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

fn array(node: &Node, arg: &Arg, request: fn(SyncobjArray) -> Request<OwnedFd>) -> Outcome<c_int> {
    type A = drm_syncobj_array;
    let syncobjs = handles(arg.u64(at!(A, handles)), arg.u32(at!(A, count_handles)))?;
    done(node, request(SyncobjArray { syncobjs, pad: arg.u32(at!(A, pad)) }))
}

pub(super) fn reset(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    array(node, arg, Request::SyncobjReset)
}

pub(super) fn signal(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    array(node, arg, Request::SyncobjSignal)
}

pub(super) fn timeline_signal(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type A = drm_syncobj_timeline_array;
    let syncobjs = handles(arg.u64(at!(A, handles)), arg.u32(at!(A, count_handles)))?;
    let points = arg.u64(at!(A, points));
    let points =
        if points == 0 { vec![0; syncobjs.len()] } else { user::u64s(points, syncobjs.len())? };
    let request = SyncobjTimelineSignal { syncobjs, points, flags: arg.u32(at!(A, flags)) };
    done(node, Request::SyncobjTimelineSignal(request))
}

pub(super) fn query(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type A = drm_syncobj_timeline_array;
    let syncobjs = handles(arg.u64(at!(A, handles)), arg.u32(at!(A, count_handles)))?;
    let request = SyncobjQuery { syncobjs, flags: arg.u32(at!(A, flags)) };
    let answer = ask(node, Request::SyncobjQuery(request))?;
    let points = reply!(answer, Reply::SyncobjQuery(reply) => reply.points)?;
    let bytes: Vec<u8> = points.into_iter().flat_map(u64::to_ne_bytes).collect();
    user::write(arg.u64(at!(A, points)), &bytes)?;
    Ok(0)
}

pub(super) fn transfer(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type T = drm_syncobj_transfer;
    let request = SyncobjTransfer {
        source: SyncobjId(arg.u32(at!(T, src_handle))),
        source_point: arg.u64(at!(T, src_point)),
        target: SyncobjId(arg.u32(at!(T, dst_handle))),
        target_point: arg.u64(at!(T, dst_point)),
        flags: arg.u32(at!(T, flags)),
        pad: arg.u32(at!(T, pad)),
    };
    done(node, Request::SyncobjTransfer(request))
}
