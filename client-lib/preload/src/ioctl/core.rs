//! The ioctls of every DRM device.

use std::ffi::c_int;

use gpu_broker_uapi::drm::{drm_auth, drm_get_cap, drm_set_version, drm_unique, drm_version};

use super::{Call, both, primary, share, syncobj};
use crate::arg::{Arg, at};
use crate::errno::{Errno, Outcome};
use crate::node::Node;
use crate::user;

/// What i915 calls itself.
const NAME: &[u8] = b"i915";
const DATE: &[u8] = b"20230929";
const DESCRIPTION: &[u8] = b"Intel Graphics";
const VERSION: [i32; 3] = [1, 6, 0];
const BUS_ID: &[u8] = b"0000:00:02.0";

/// Capabilities that a driver without displays has.
const CAP_PRIME: u64 = 0x5;
const CAP_TIMESTAMP_MONOTONIC: u64 = 0x6;
const CAP_SYNCOBJ: u64 = 0x13;
const CAP_SYNCOBJ_TIMELINE: u64 = 0x14;

/// The call with a number below or above the driver's own.
pub(super) fn find(number: u32) -> Option<Call> {
    match number {
        0x00 => both(version),
        0x01 => primary(unique),
        0x02 => primary(magic),
        0x05 | 0x06 => primary(|_, _| Err(Errno(libc::EINVAL))),
        0x07 => primary(set_version),
        0x09 => both(share::gem_close),
        0x0a => primary(share::flink),
        0x0b => primary(share::open),
        0x0c => both(get_cap),
        // Without displays there is nothing that a client could be capable of.
        0x0d => primary(|_, _| Err(Errno(libc::EOPNOTSUPP))),
        0x11 | 0x1e | 0x1f => primary(|_, _| Ok(0)),
        0x2d => both(share::handle_to_fd),
        0x2e => both(share::fd_to_handle),
        0xbf => both(syncobj::create),
        0xc0 => both(syncobj::destroy),
        0xc1 => both(syncobj::handle_to_fd),
        0xc2 => both(syncobj::fd_to_handle),
        0xc3 => both(syncobj::wait),
        0xc4 => both(syncobj::reset),
        0xc5 => both(syncobj::signal),
        0xca => both(syncobj::timeline_wait),
        0xcb => both(syncobj::query),
        0xcc => both(syncobj::transfer),
        0xcd => both(syncobj::timeline_signal),
        // Mode setting, which a device without displays does not support.
        0x3a..=0x3c | 0xa0..=0xbe | 0xc6..=0xc9 | 0xce | 0xd0 => {
            primary(|_, _| Err(Errno(libc::EOPNOTSUPP)))
        }
        // SET_CLIENT_NAME: a session has the program's name already.
        0xd1 => both(|_, _| Ok(0)),
        _ => None,
    }
}

fn version(_: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let numbers = [
        at!(drm_version, version_major),
        at!(drm_version, version_minor),
        at!(drm_version, version_patchlevel),
    ];
    for (offset, value) in numbers.into_iter().zip(VERSION) {
        arg.set_i32(offset, value);
    }
    let strings = [
        (at!(drm_version, name_len), at!(drm_version, name), NAME),
        (at!(drm_version, date_len), at!(drm_version, date), DATE),
        (at!(drm_version, desc_len), at!(drm_version, desc), DESCRIPTION),
    ];
    strings.into_iter().try_for_each(|(length, pointer, text)| give(arg, length, pointer, text))?;
    Ok(0)
}

/// As much of a text as the program has room for, and how long it really is.
fn give(arg: &mut Arg, length: usize, pointer: usize, text: &[u8]) -> Outcome<()> {
    let room = usize::try_from(arg.u64(length)).unwrap_or(usize::MAX);
    let address = arg.u64(pointer);
    arg.set_u64(length, text.len() as u64);
    if address == 0 {
        return Ok(());
    }
    user::write(address, text.get(..room.min(text.len())).unwrap_or_default())
}

fn unique(_: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let room = usize::try_from(arg.u64(at!(drm_unique, unique_len))).unwrap_or(usize::MAX);
    arg.set_u64(at!(drm_unique, unique_len), BUS_ID.len() as u64);
    if room >= BUS_ID.len() {
        user::write(arg.u64(at!(drm_unique, unique)), BUS_ID)?;
    }
    Ok(0)
}

/// Any number but 0: whoever can open the node is authenticated.
fn magic(_: &Node, arg: &mut Arg) -> Outcome<c_int> {
    arg.set_u32(at!(drm_auth, magic), 1);
    Ok(0)
}

fn set_version(_: &Node, arg: &mut Arg) -> Outcome<c_int> {
    arg.set_i32(at!(drm_set_version, drm_di_major), 1);
    arg.set_i32(at!(drm_set_version, drm_di_minor), 4);
    let [major, minor, _] = VERSION;
    arg.set_i32(at!(drm_set_version, drm_dd_major), major);
    arg.set_i32(at!(drm_set_version, drm_dd_minor), minor);
    Ok(0)
}

fn get_cap(_: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let value = match arg.u64(at!(drm_get_cap, capability)) {
        CAP_PRIME => 3,
        CAP_TIMESTAMP_MONOTONIC | CAP_SYNCOBJ | CAP_SYNCOBJ_TIMELINE => 1,
        _ => return Err(Errno(libc::EOPNOTSUPP)),
    };
    arg.set_u64(at!(drm_get_cap, value), value);
    Ok(0)
}
