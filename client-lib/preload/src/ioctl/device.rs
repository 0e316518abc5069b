//! What programs ask of the device itself.

use std::collections::HashMap;
use std::ffi::c_int;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use gpu_broker_client::protocol::object::{GetParam, RegRead};
use gpu_broker_client::protocol::{Reply, Request};
use gpu_broker_uapi::i915::{drm_i915_gem_get_aperture, drm_i915_getparam, drm_i915_reg_read};

use super::{ask, done, reply};
use crate::arg::{Arg, at};
use crate::errno::{Errno, Outcome};
use crate::node::Node;
use crate::user;

/// Parameters never change while the device is there, and programs ask all the time.
static PARAMETERS: Mutex<Option<HashMap<i32, Outcome<i32>>>> = Mutex::new(None);

pub(super) fn get_param(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let value = parameter(node, arg.i32(at!(drm_i915_getparam, param)))?;
    user::write(arg.u64(at!(drm_i915_getparam, value)), &value.to_ne_bytes())?;
    Ok(0)
}

fn parameter(node: &Node, param: i32) -> Outcome<i32> {
    let cache = || PARAMETERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(answer) = cache().get_or_insert_default().get(&param) {
        return *answer;
    }
    let answer = match node.connection.request(Request::<OwnedFd>::GetParam(GetParam { param })) {
        Ok(answer) => reply!(answer, Reply::GetParam(answer) => answer.value),
        Err(error) if error.refusal().is_some() => Err(error.into()),
        Err(error) => return Err(error.into()),
    };
    // Numbers that mean nothing are not worth remembering; there are too many of them.
    if answer != Err(Errno(libc::EINVAL)) {
        cache().get_or_insert_default().insert(param, answer);
    }
    answer
}

pub(super) fn aperture(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let aperture = reply!(ask(node, Request::GetAperture)?, Reply::GetAperture(a) => a)?;
    arg.set_u64(at!(drm_i915_gem_get_aperture, aper_size), aperture.size);
    arg.set_u64(at!(drm_i915_gem_get_aperture, aper_available_size), aperture.available);
    Ok(0)
}

pub(super) fn throttle(node: &Node, _: &mut Arg) -> Outcome<c_int> {
    done(node, Request::Throttle)
}

pub(super) fn reg_read(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let offset = arg.u64(at!(drm_i915_reg_read, offset));
    let answer = ask(node, Request::RegRead(RegRead { offset }))?;
    let register = reply!(answer, Reply::RegRead(register) => register)?;
    arg.set_u64(at!(drm_i915_reg_read, val), register.value);
    Ok(0)
}
