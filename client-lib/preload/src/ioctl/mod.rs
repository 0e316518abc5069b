//! ioctls on the device's nodes, on fences and on buffers, turned into requests.
//!
//! As in the kernel, a number alone says what is asked; sizes and directions only say how much of
//! the structure is copied in and out. What a program leaves out is 0.

mod buffer;
mod context;
mod core;
mod device;
mod execbuf;
mod foreign;
mod query;
mod share;
mod syncobj;
mod userptr;
mod wait;

use std::ffi::c_int;
use std::os::fd::{OwnedFd, RawFd};

use gpu_broker_client::protocol::{Reply, Request};
use gpu_broker_uapi::ioctl::{DRM_COMMAND_BASE, DRM_IOCTL_BASE};

use crate::arg::Arg;
use crate::errno::{Errno, Outcome};
use crate::node::{self, Node};
use crate::tree::RENDER;
use crate::verdict::Verdict;

pub(crate) use buffer::is_idle;
pub(crate) use share::close;
pub(crate) use wait::ask_patiently;
use wait::{ask_for_access, ask_interruptibly};

/// The kernel reads the structure.
const WRITE: u32 = 1;
/// The kernel writes it.
const READ: u32 = 2;
/// Takes a reply apart; any other reply is the broker's fault.
macro_rules! reply {
    ($reply:expr, $pattern:pat => $value:expr) => {
        if let $pattern = $reply { Ok($value) } else { Err(crate::errno::Errno(libc::EIO)) }
    };
}
pub(crate) use reply;

/// Makes a request that carries no fd.
pub(crate) fn ask(node: &Node, request: Request<OwnedFd>) -> Outcome<Reply<OwnedFd>> {
    Ok(node.connection.request(request)?)
}

/// A request whose reply says nothing but that it was done.
pub(crate) fn done(node: &Node, request: Request<OwnedFd>) -> Outcome<c_int> {
    ask(node, request).map(|_| 0)
}

/// Whether the number is of a kind that is worth a look.
pub(crate) fn may_be_ours(request: u32) -> bool {
    matches!(request >> 8 & 0xff, DRM_IOCTL_BASE | foreign::SYNC_FILE | foreign::DMA_BUF)
}

/// Decides an ioctl.
pub(crate) fn handle(fd: RawFd, request: u32, argument: u64) -> Verdict<c_int> {
    let kind = request >> 8 & 0xff;
    if kind == foreign::SYNC_FILE || kind == foreign::DMA_BUF {
        return foreign::handle(fd, request, argument);
    }
    let Some(node) = node::of(fd).or_else(|| node::adopt(fd)) else { return Verdict::NotOurs };
    if kind != DRM_IOCTL_BASE {
        return Verdict::Refused(Errno(libc::ENOTTY));
    }
    on_node(&node, request, argument).into()
}

fn on_node(node: &Node, request: u32, argument: u64) -> Outcome<c_int> {
    let number = request & 0xff;
    let size = (request >> 16 & 0x3fff) as usize;
    let direction = request >> 30;
    let table = if (DRM_COMMAND_BASE..0xa0).contains(&number) {
        driver(number - DRM_COMMAND_BASE)
    } else {
        core::find(number)
    };
    let Some(Call { run, render }) = table else { return Err(Errno(libc::EINVAL)) };
    if !render && node.minor == RENDER {
        return Err(Errno(libc::EACCES));
    }
    let mut arg = if direction & WRITE != 0 { Arg::copy(argument, size)? } else { Arg::zeroed() };
    let result = run(node, &mut arg);
    if direction & READ != 0 {
        arg.write_back(argument, size)?;
    }
    result
}

type Run = fn(&Node, &mut Arg) -> Outcome<c_int>;

/// What answers a number.
#[derive(Clone, Copy)]
struct Call {
    run: Run,
    /// Whether a render node has it.
    render: bool,
}

const fn both(run: Run) -> Option<Call> {
    Some(Call { run, render: true })
}

const fn primary(run: Run) -> Option<Call> {
    Some(Call { run, render: false })
}

/// The i915 driver's own numbers.
fn driver(number: u32) -> Option<Call> {
    match number {
        0x06 => both(device::get_param),
        // SETPARAM and the virtual terminal calls do nothing since mode setting is the kernel's.
        0x07 | 0x19 | 0x1a => primary(|_, _| Ok(0)),
        0x15 | 0x16 => primary(|_, _| Err(Errno(libc::ENODEV))),
        0x17 => both(buffer::busy),
        0x18 => both(device::throttle),
        0x1b => both(buffer::create),
        0x1c => both(buffer::pread),
        0x1d => both(buffer::pwrite),
        0x1e => both(buffer::mmap),
        0x1f => both(buffer::set_domain),
        0x20 => both(buffer::sw_finish),
        0x21 => both(buffer::set_tiling),
        0x22 => both(buffer::get_tiling),
        0x23 => both(device::aperture),
        0x24 => both(buffer::mmap_offset),
        0x25 => both(|_, _| Err(Errno(libc::ENOENT))),
        0x26 => both(buffer::madvise),
        0x27 | 0x28 | 0x2a | 0x2b => primary(|_, _| Err(Errno(libc::ENODEV))),
        0x29 => both(execbuf::execbuffer2),
        0x2c => both(buffer::wait),
        0x2d => both(context::create),
        0x2e => both(context::destroy),
        0x2f => both(buffer::set_caching),
        0x30 => both(buffer::get_caching),
        0x31 => both(device::reg_read),
        0x32 => both(context::reset_stats),
        0x33 => both(userptr::create),
        0x34 => both(context::get_param),
        0x35 => both(context::set_param),
        // No performance counters.
        0x36..=0x38 => both(|_, _| Err(Errno(libc::EOPNOTSUPP))),
        0x39 => both(query::query),
        0x3a => both(context::vm_create),
        0x3b => both(context::vm_destroy),
        0x3c => both(buffer::create_ext),
        _ => None,
    }
}
