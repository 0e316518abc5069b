//! Synchronisation objects.

use std::ffi::c_int;
use std::os::fd::{IntoRawFd, OwnedFd};

use gpu_broker_client::SyncobjSet;
use gpu_broker_client::protocol::refusal::errno::ETIME;
use gpu_broker_client::protocol::syncobj::flag;

use crate::boundary::{self, Failure, borrow, borrow_array, call, not_null, store};
use crate::buffer::timeout;
use crate::connection::Connection;
use crate::fence::{duplicate, duplicate_fd};

/// The object holds a signalled fence from the start.
pub const GPU_BROKER_SYNCOBJ_SIGNALED: u32 = 1 << 0;
/// Wait for all of the objects, not for one.
pub const GPU_BROKER_SYNCOBJ_WAIT_ALL: u32 = 1 << 0;
/// Wait also for fences that are not there yet.
pub const GPU_BROKER_SYNCOBJ_WAIT_FOR_SUBMIT: u32 = 1 << 1;
/// With points: wait only until the fences are there, signalled or not.
pub const GPU_BROKER_SYNCOBJ_WAIT_AVAILABLE: u32 = 1 << 2;

const _: () = assert!(GPU_BROKER_SYNCOBJ_SIGNALED == flag::CREATE_SIGNALED);
const _: () = assert!(GPU_BROKER_SYNCOBJ_WAIT_ALL == flag::WAIT_ALL);
const _: () = assert!(GPU_BROKER_SYNCOBJ_WAIT_FOR_SUBMIT == flag::WAIT_FOR_SUBMIT);
const _: () = assert!(GPU_BROKER_SYNCOBJ_WAIT_AVAILABLE == flag::WAIT_AVAILABLE);

/// A container of a fence (binary), or of a timeline of fences, that submissions wait for and
/// signal.
pub struct Syncobj(pub(crate) gpu_broker_client::Syncobj);

/// Makes a syncobj; `flags` is 0 or GPU_BROKER_SYNCOBJ_SIGNALED. Release it with
/// gpu_broker_syncobj_destroy().
///
/// # Safety
/// `connection` is NULL or a live connection; `syncobj` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_create(
    connection: *const Connection,
    flags: u32,
    syncobj: *mut *mut Syncobj,
) -> c_int {
    call(|| {
        not_null(syncobj, "syncobj")?;
        if flags & !GPU_BROKER_SYNCOBJ_SIGNALED != 0 {
            return Err(Failure::Argument("GPU_BROKER_SYNCOBJ_SIGNALED is the only flag"));
        }
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        let made = Syncobj(connection.0.create_syncobj(flags != 0)?);
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(syncobj, Box::into_raw(Box::new(made))) };
        Ok(0)
    })
}

/// Gives the object's handle up; NULL does nothing. Work in flight keeps the object.
///
/// # Safety
/// `syncobj` is NULL or came from this library and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_destroy(syncobj: *mut Syncobj) {
    // SAFETY: this function's contract is `release`'s.
    unsafe { boundary::release(syncobj) }
}

/// The object's handle in its session; 0 for NULL.
///
/// # Safety
/// `syncobj` is NULL or a live syncobj.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_handle(syncobj: *const Syncobj) -> u32 {
    // SAFETY: this function's contract is `borrow`'s.
    let syncobj = unsafe { borrow(syncobj, "syncobj") };
    syncobj.map_or(0, |syncobj| syncobj.0.id().0)
}

/// Takes the fence out.
///
/// # Safety
/// `syncobj` is NULL or a live syncobj.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_reset(syncobj: *const Syncobj) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        unsafe { borrow(syncobj, "syncobj") }?.0.reset()?;
        Ok(0)
    })
}

/// Puts a signalled fence in; with `point` other than 0, adds a signalled point to the timeline.
///
/// # Safety
/// `syncobj` is NULL or a live syncobj.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_signal(syncobj: *const Syncobj, point: u64) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let syncobj = unsafe { borrow(syncobj, "syncobj") }?;
        if point == 0 {
            syncobj.0.signal()?
        } else {
            syncobj.0.signal_point(point)?
        }
        Ok(0)
    })
}

/// The last point of the timeline that was signalled.
///
/// # Safety
/// `syncobj` is NULL or a live syncobj; `point` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_query(
    syncobj: *const Syncobj,
    point: *mut u64,
) -> c_int {
    call(|| {
        not_null(point, "point")?;
        // SAFETY: this function's contract is `borrow`'s.
        let found = unsafe { borrow(syncobj, "syncobj") }?.0.point()?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(point, found) };
        Ok(0)
    })
}

/// Waits until one of the objects signals, or with GPU_BROKER_SYNCOBJ_WAIT_ALL all of them, at most
/// `timeout_ns` nanoseconds; negative waits for ever. `points` is NULL, or has a point of each
/// object's timeline. Returns the position of the one that signalled, 0 after waiting for all.
///
/// Errors: -ETIME when the time was over first; -EINVAL while an object has no fence, without
/// GPU_BROKER_SYNCOBJ_WAIT_FOR_SUBMIT.
///
/// # Safety
/// `connection` is NULL or a live connection; `syncobjs` points to `count` live syncobjs or NULLs;
/// `points` is NULL or points to `count` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_wait(
    connection: *const Connection,
    syncobjs: *const *const Syncobj,
    points: *const u64,
    count: usize,
    flags: u32,
    timeout_ns: i64,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        // SAFETY: this function's contract is `borrow_array`'s.
        let syncobjs = unsafe { borrow_array(syncobjs, count, "syncobjs") }?;
        let points = if points.is_null() {
            None
        } else {
            // SAFETY: not null, and this function's contract is `borrow_array`'s.
            Some(unsafe { borrow_array(points, count, "points") }?)
        };
        let mut set = wait_set(flags)?;
        for (index, syncobj) in syncobjs.iter().enumerate() {
            // SAFETY: a live syncobj or null, by this function's contract.
            let syncobj = unsafe { borrow(*syncobj, "syncobjs[]") }?;
            set = match points.and_then(|points| points.get(index)) {
                Some(point) => set.with_point(&syncobj.0, *point),
                None => set.with(&syncobj.0),
            };
        }
        let timeout = timeout(timeout_ns);
        let first = if flags & GPU_BROKER_SYNCOBJ_WAIT_ALL != 0 {
            connection.0.wait_all(&set, timeout)?.then_some(0)
        } else {
            connection.0.wait_any(&set, timeout)?
        };
        let first =
            first.ok_or(Failure::Errno(ETIME, "nothing had signalled when the time was over"))?;
        c_int::try_from(first).map_err(|_| Failure::Argument("there are too many syncobjs"))
    })
}

fn wait_set(flags: u32) -> Result<SyncobjSet, Failure> {
    const KNOWN: u32 = GPU_BROKER_SYNCOBJ_WAIT_ALL
        | GPU_BROKER_SYNCOBJ_WAIT_FOR_SUBMIT
        | GPU_BROKER_SYNCOBJ_WAIT_AVAILABLE;
    if flags & !KNOWN != 0 {
        return Err(Failure::Argument("the flags are GPU_BROKER_SYNCOBJ_WAIT_*"));
    }
    let mut set = SyncobjSet::new();
    if flags & GPU_BROKER_SYNCOBJ_WAIT_FOR_SUBMIT != 0 {
        set = set.for_submit();
    }
    if flags & GPU_BROKER_SYNCOBJ_WAIT_AVAILABLE != 0 {
        set = set.available();
    }
    Ok(set)
}

/// Puts the fence of an object, or of a point of its timeline, into another object or point; 0 is
/// the fence of a binary object.
///
/// # Safety
/// Both are NULL or live syncobjs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_transfer(
    source: *const Syncobj,
    source_point: u64,
    target: *const Syncobj,
    target_point: u64,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let source = unsafe { borrow(source, "source") }?;
        // SAFETY: this function's contract is `borrow`'s.
        let target = unsafe { borrow(target, "target") }?;
        source.0.transfer(source_point, &target.0, target_point)?;
        Ok(0)
    })
}

/// A new file descriptor that stands for the object, for gpu_broker_syncobj_import() in any
/// session; close(2) it.
///
/// # Safety
/// `syncobj` is NULL or a live syncobj.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_export(syncobj: *const Syncobj) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let syncobj = unsafe { borrow(syncobj, "syncobj") }?;
        Ok(syncobj.0.export()?.into_raw_fd())
    })
}

/// The object behind a file descriptor of gpu_broker_syncobj_export(), which stays the caller's.
/// Release the object with gpu_broker_syncobj_destroy().
///
/// # Safety
/// `connection` is NULL or a live connection; `fd` is negative or open; `syncobj` can be written
/// to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_import(
    connection: *const Connection,
    fd: c_int,
    syncobj: *mut *mut Syncobj,
) -> c_int {
    call(|| {
        not_null(syncobj, "syncobj")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        // SAFETY: this function's contract is `duplicate_fd`'s.
        let fd = unsafe { duplicate_fd(fd) }?;
        let made = Syncobj(connection.0.import_syncobj(&fd)?);
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(syncobj, Box::into_raw(Box::new(made))) };
        Ok(0)
    })
}

/// A new fence: the one in the object, or with `point` other than 0 that of a point of its
/// timeline; close(2) it.
///
/// # Safety
/// `syncobj` is NULL or a live syncobj.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_export_fence(
    syncobj: *const Syncobj,
    point: u64,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let syncobj = unsafe { borrow(syncobj, "syncobj") }?;
        let fence = match point {
            0 => syncobj.0.export_fence()?,
            point => syncobj.0.export_fence_of(point)?,
        };
        Ok(OwnedFd::from(fence).into_raw_fd())
    })
}

/// Puts a fence into the object, or with `point` other than 0 adds it to the timeline. The fence
/// stays the caller's.
///
/// # Safety
/// `syncobj` is NULL or a live syncobj; `fence` is negative or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_syncobj_import_fence(
    syncobj: *const Syncobj,
    point: u64,
    fence: c_int,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let syncobj = unsafe { borrow(syncobj, "syncobj") }?;
        // SAFETY: this function's contract is `duplicate`'s.
        let fence = unsafe { duplicate(fence) }?;
        match point {
            0 => syncobj.0.import_fence(&fence)?,
            point => syncobj.0.import_fence_at(point, &fence)?,
        }
        Ok(0)
    })
}
