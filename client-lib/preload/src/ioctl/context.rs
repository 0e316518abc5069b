//! Contexts and address spaces.

use std::ffi::c_int;

use gpu_broker_client::protocol::message::{
    ContextCreate, ContextDestroy, ContextParamRequest, ContextResetStats, VmCreate, VmDestroy,
};
use gpu_broker_client::protocol::param::{
    ContextParam, CreateExtension, EngineExtension, EngineId, EngineMap, ParamValue, Sseu,
    create_flag, number,
};
use gpu_broker_client::protocol::{ContextId, Reply, Request, VmId};
use gpu_broker_uapi::i915::{
    drm_i915_gem_context_create_ext, drm_i915_gem_context_create_ext_setparam,
    drm_i915_gem_context_destroy, drm_i915_gem_context_param, drm_i915_gem_context_param_sseu,
    drm_i915_gem_vm_control, drm_i915_reset_stats, i915_context_engines_bond,
    i915_context_engines_load_balance, i915_context_engines_parallel_submit,
    i915_context_param_engines, i915_user_extension,
};

use super::{ask, done, reply};
use crate::arg::{Arg, at, put, u16_at, u32_at, u64_at};
use crate::chain;
use crate::errno::{Errno, Outcome};
use crate::node::Node;
use crate::user;

/// Bytes of `struct i915_engine_class_instance`.
const ENGINE_BYTES: usize = 4;
/// More engines than any extension can name without being refused.
const ENGINES_MAX: usize = 64 * 64;

pub(super) fn create(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type C = drm_i915_gem_context_create_ext;
    let flags = arg.u32(at!(C, flags));
    if flags & !(create_flag::USE_EXTENSIONS | create_flag::SINGLE_TIMELINE) != 0 {
        // Before the chain is looked at.
        return Err(Errno(libc::EINVAL));
    }
    let extensions = if flags & create_flag::USE_EXTENSIONS != 0 {
        chain::walk(arg.u64(at!(C, extensions)), create_extension)?
    } else {
        Vec::new()
    };
    let answer = ask(node, Request::ContextCreate(ContextCreate { flags, extensions }))?;
    let made = reply!(answer, Reply::ContextCreate(made) => made)?;
    arg.set_u32(at!(C, ctx_id), made.context.0);
    Ok(0)
}

fn create_extension(address: u64, name: u32) -> Outcome<CreateExtension> {
    type E = drm_i915_gem_context_create_ext_setparam;
    if name != CreateExtension::SET_PARAM {
        // CLONE is a number that kernels refuse, and so do programs expect.
        return Ok(CreateExtension::Unknown);
    }
    let node = user::records(address, 1, size_of::<E>())?;
    let param = node.get(at!(E, param)..).unwrap_or_default();
    let context = u32_at(param, at!(drm_i915_gem_context_param, ctx_id));
    Ok(CreateExtension::SetParam { context: ContextId(context), param: context_param(param)? })
}

/// A parameter to set, with what its pointer points at.
fn context_param(bytes: &[u8]) -> Outcome<ContextParam> {
    type P = drm_i915_gem_context_param;
    let (param, size) = (u64_at(bytes, at!(P, param)), u32_at(bytes, at!(P, size)));
    let value = u64_at(bytes, at!(P, value));
    let value = match param {
        number::SSEU if size >= Sseu::BYTES => ParamValue::Sseu(sseu(value)?),
        number::ENGINES => engine_map(value, size)?,
        _ => ParamValue::Scalar(value),
    };
    Ok(ContextParam { param, size, value })
}

fn sseu(address: u64) -> Outcome<Sseu> {
    type S = drm_i915_gem_context_param_sseu;
    let bytes = user::records(address, 1, size_of::<S>())?;
    Ok(Sseu {
        engine: engine(&bytes, at!(S, engine)),
        flags: u32_at(&bytes, at!(S, flags)),
        slice_mask: u64_at(&bytes, at!(S, slice_mask)),
        subslice_mask: u64_at(&bytes, at!(S, subslice_mask)),
        min_eus_per_subslice: u16_at(&bytes, at!(S, min_eus_per_subslice)),
        max_eus_per_subslice: u16_at(&bytes, at!(S, max_eus_per_subslice)),
        rsvd: u32_at(&bytes, at!(S, rsvd)),
    })
}

fn engine(bytes: &[u8], offset: usize) -> EngineId {
    EngineId { class: u16_at(bytes, offset), instance: u16_at(bytes, offset + 2) }
}

fn engine_map(address: u64, size: u32) -> Outcome<ParamValue> {
    let header = size_of::<i915_context_param_engines>();
    let slots = (size as usize).checked_sub(header).filter(|rest| rest % ENGINE_BYTES == 0);
    let Some(bytes) = slots.filter(|bytes| *bytes <= 64 * ENGINE_BYTES) else {
        return Err(Errno(libc::EINVAL));
    };
    let slots = engines(address.wrapping_add(header as u64), bytes / ENGINE_BYTES)?;
    let first = u64_at(&user::records(address, 1, header)?, 0);
    let extensions = chain::walk(first, engine_extension)?;
    Ok(ParamValue::Engines(EngineMap { slots, extensions }))
}

fn engines(address: u64, count: usize) -> Outcome<Vec<EngineId>> {
    let bytes = user::records(address, count, ENGINE_BYTES)?;
    Ok(bytes.chunks_exact(ENGINE_BYTES).map(|one| engine(one, 0)).collect())
}

fn engine_extension(address: u64, name: u32) -> Outcome<EngineExtension> {
    match name {
        EngineExtension::LOAD_BALANCE => load_balance(address),
        EngineExtension::BOND => bond(address),
        EngineExtension::PARALLEL_SUBMIT => parallel_submit(address),
        _ => Ok(EngineExtension::Unknown),
    }
}

fn load_balance(address: u64) -> Outcome<EngineExtension> {
    type L = i915_context_engines_load_balance;
    let node = user::records(address, 1, size_of::<L>())?;
    let count = u16_at(&node, at!(L, num_siblings)).into();
    Ok(EngineExtension::LoadBalance {
        engine_index: u16_at(&node, at!(L, engine_index)),
        flags: u32_at(&node, at!(L, flags)),
        mbz64: u64_at(&node, at!(L, mbz64)),
        engines: listed(address, size_of::<L>(), count)?,
    })
}

fn bond(address: u64) -> Outcome<EngineExtension> {
    type B = i915_context_engines_bond;
    let node = user::records(address, 1, size_of::<B>())?;
    let count = u16_at(&node, at!(B, num_bonds)).into();
    Ok(EngineExtension::Bond {
        master: engine(&node, at!(B, master)),
        virtual_index: u16_at(&node, at!(B, virtual_index)),
        flags: u64_at(&node, at!(B, flags)),
        mbz64: [0, 8, 16, 24].map(|at| u64_at(&node, at!(B, mbz64) + at)),
        engines: listed(address, size_of::<B>(), count)?,
    })
}

fn parallel_submit(address: u64) -> Outcome<EngineExtension> {
    type P = i915_context_engines_parallel_submit;
    let node = user::records(address, 1, size_of::<P>())?;
    let (width, siblings) = (u16_at(&node, at!(P, width)), u16_at(&node, at!(P, num_siblings)));
    Ok(EngineExtension::ParallelSubmit {
        engine_index: u16_at(&node, at!(P, engine_index)),
        width,
        num_siblings: siblings,
        mbz16: u16_at(&node, at!(P, mbz16)),
        flags: u64_at(&node, at!(P, flags)),
        mbz64: [0, 8, 16].map(|at| u64_at(&node, at!(P, mbz64) + at)),
        engines: listed(address, size_of::<P>(), usize::from(width) * usize::from(siblings))?,
    })
}

/// The engines behind an extension.
fn listed(address: u64, after: usize, count: usize) -> Outcome<Vec<EngineId>> {
    if count > ENGINES_MAX {
        return Err(Errno(libc::EINVAL));
    }
    engines(address.wrapping_add(after as u64), count)
}

pub(super) fn destroy(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type D = drm_i915_gem_context_destroy;
    let request =
        ContextDestroy { context: ContextId(arg.u32(at!(D, ctx_id))), pad: arg.u32(at!(D, pad)) };
    done(node, Request::ContextDestroy(request))
}

pub(super) fn set_param(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type P = drm_i915_gem_context_param;
    let context = ContextId(arg.u32(at!(P, ctx_id)));
    let mut bytes = [0; size_of::<P>()];
    put(&mut bytes, at!(P, size), &arg.u32(at!(P, size)).to_ne_bytes());
    put(&mut bytes, at!(P, param), &arg.u64(at!(P, param)).to_ne_bytes());
    put(&mut bytes, at!(P, value), &arg.u64(at!(P, value)).to_ne_bytes());
    let set = |param| {
        let request = Request::ContextSetParam(ContextParamRequest { context, param });
        reply!(ask(node, request)?, Reply::ContextSetParam(set) => set)
    };
    let set = match context_param(&bytes) {
        Ok(param) => set(param)?,
        // The context is looked at before what the pointer points at, and the broker says EFAULT
        // when it gets to where a structure should be.
        Err(errno) => {
            let value = ParamValue::Scalar(0);
            let (param, size) = (arg.u64(at!(P, param)), arg.u32(at!(P, size)));
            return match set(ContextParam { param, size, value }) {
                Ok(_) | Err(Errno(libc::EFAULT)) => Err(errno),
                Err(earlier) => Err(earlier),
            };
        }
    };
    arg.set_u32(at!(P, size), set.size);
    Ok(0)
}

pub(super) fn get_param(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type P = drm_i915_gem_context_param;
    let context = ContextId(arg.u32(at!(P, ctx_id)));
    let (number, size) = (arg.u64(at!(P, param)), arg.u32(at!(P, size)));
    let address = arg.u64(at!(P, value));
    let value = if number == number::SSEU && size >= Sseu::BYTES {
        ParamValue::Sseu(sseu(address)?)
    } else {
        ParamValue::Scalar(0)
    };
    let request =
        ContextParamRequest { context, param: ContextParam { param: number, size, value } };
    let param =
        reply!(ask(node, Request::ContextGetParam(request))?, Reply::ContextGetParam(p) => p)?;
    arg.set_u32(at!(P, size), param.size);
    match param.value {
        ParamValue::Scalar(value) if number != number::SSEU => arg.set_u64(at!(P, value), value),
        ParamValue::Sseu(sseu) => user::write(address, &sseu_bytes(&sseu))?,
        ParamValue::Scalar(_) | ParamValue::Engines(_) => {}
    }
    Ok(0)
}

fn sseu_bytes(sseu: &Sseu) -> [u8; size_of::<drm_i915_gem_context_param_sseu>()] {
    type S = drm_i915_gem_context_param_sseu;
    let mut bytes = [0; size_of::<S>()];
    put(&mut bytes, at!(S, engine), &sseu.engine.class.to_ne_bytes());
    put(&mut bytes, at!(S, engine) + 2, &sseu.engine.instance.to_ne_bytes());
    put(&mut bytes, at!(S, flags), &sseu.flags.to_ne_bytes());
    put(&mut bytes, at!(S, slice_mask), &sseu.slice_mask.to_ne_bytes());
    put(&mut bytes, at!(S, subslice_mask), &sseu.subslice_mask.to_ne_bytes());
    put(&mut bytes, at!(S, min_eus_per_subslice), &sseu.min_eus_per_subslice.to_ne_bytes());
    put(&mut bytes, at!(S, max_eus_per_subslice), &sseu.max_eus_per_subslice.to_ne_bytes());
    bytes
}

pub(super) fn reset_stats(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type R = drm_i915_reset_stats;
    let request = ContextResetStats {
        context: ContextId(arg.u32(at!(R, ctx_id))),
        flags: arg.u32(at!(R, flags)),
        pad: arg.u32(at!(R, pad)),
    };
    let answer = ask(node, Request::ContextResetStats(request))?;
    let stats = reply!(answer, Reply::ContextResetStats(stats) => stats)?;
    arg.set_u32(at!(R, reset_count), stats.reset_count);
    arg.set_u32(at!(R, batch_active), stats.batch_active);
    arg.set_u32(at!(R, batch_pending), stats.batch_pending);
    Ok(0)
}

pub(super) fn vm_create(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type V = drm_i915_gem_vm_control;
    let flags = arg.u32(at!(V, flags));
    if flags != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let extensions = chain::walk(arg.u64(at!(V, extensions)), |_, _| Ok(()))?;
    let answer = ask(node, Request::VmCreate(VmCreate { flags, extensions }))?;
    let made = reply!(answer, Reply::VmCreate(made) => made)?;
    arg.set_u32(at!(V, vm_id), made.vm.0);
    Ok(0)
}

pub(super) fn vm_destroy(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type V = drm_i915_gem_vm_control;
    // Not looked at, only refused: the rule is about the pointer.
    if arg.u64(at!(V, extensions)) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let request = VmDestroy {
        vm: VmId(arg.u32(at!(V, vm_id))),
        flags: arg.u32(at!(V, flags)),
        extensions: Vec::new(),
    };
    done(node, Request::VmDestroy(request))
}

const _: () = assert!(
    at!(drm_i915_gem_context_create_ext_setparam, param) == size_of::<i915_user_extension>()
);
