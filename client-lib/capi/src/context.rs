//! Contexts.

use std::ffi::c_int;

use gpu_broker_client::protocol::param::{ContextParam, EngineId, EngineMap, number};

use crate::boundary::{self, Failure, borrow, borrow_array, call, not_null, store};
use crate::connection::{Connection, Engine, Vm};

/// From -1023 (last) to 1023 (first); above 0 needs a privilege. Two's complement.
pub const GPU_BROKER_PARAM_PRIORITY: u64 = 0x6;
/// Boolean: the context may run on after a hang of its own.
pub const GPU_BROKER_PARAM_RECOVERABLE: u64 = 0x8;
/// Boolean: hangs may ban the context.
pub const GPU_BROKER_PARAM_BANNABLE: u64 = 0x5;
/// Boolean: work goes on after the context is destroyed.
pub const GPU_BROKER_PARAM_PERSISTENCE: u64 = 0xb;
/// Boolean: hangs of this context leave no error dump.
pub const GPU_BROKER_PARAM_NO_ERROR_CAPTURE: u64 = 0x4;
/// Bytes of the context's address space; read-only.
pub const GPU_BROKER_PARAM_GTT_SIZE: u64 = 0x3;

const _: () = assert!(GPU_BROKER_PARAM_PRIORITY == number::PRIORITY);
const _: () = assert!(GPU_BROKER_PARAM_RECOVERABLE == number::RECOVERABLE);
const _: () = assert!(GPU_BROKER_PARAM_BANNABLE == number::BANNABLE);
const _: () = assert!(GPU_BROKER_PARAM_PERSISTENCE == number::PERSISTENCE);
const _: () = assert!(GPU_BROKER_PARAM_NO_ERROR_CAPTURE == number::NO_ERROR_CAPTURE);
const _: () = assert!(GPU_BROKER_PARAM_GTT_SIZE == number::GTT_SIZE);

/// A GPU context.
pub struct Context(pub(crate) gpu_broker_client::Context);

/// How often a context was hit by resets of the device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ResetStats {
    /// Resets of the device; 0 without the privilege to know.
    pub reset_count: u32,
    /// Times a batch of this context was found guilty.
    pub batch_active: u32,
    /// Times a batch of this context was running, innocently.
    pub batch_pending: u32,
}

/// Makes a context. It stays a record in the daemon, with everything still to be set, until it is
/// first used. Release it with gpu_broker_context_destroy().
///
/// # Safety
/// `connection` is NULL or a live connection; `context` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_create(
    connection: *const Connection,
    context: *mut *mut Context,
) -> c_int {
    call(|| {
        not_null(context, "context")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        let made = Context(connection.0.context().create()?);
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(context, Box::into_raw(Box::new(made))) };
        Ok(0)
    })
}

/// Destroys the context; NULL does nothing. Without PERSISTENCE, its work ends.
///
/// # Safety
/// `context` is NULL or came from this library and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_destroy(context: *mut Context) {
    // SAFETY: this function's contract is `release`'s.
    unsafe { boundary::release(context) }
}

/// The context's id in its session; 0 for NULL.
///
/// # Safety
/// `context` is NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_id(context: *const Context) -> u32 {
    // SAFETY: this function's contract is `borrow`'s.
    let context = unsafe { borrow(context, "context") };
    context.map_or(0, |context| context.0.id().0)
}

/// Sets the context's engines, one per slot of gpu_broker_submit(). Only before the context is
/// first used: -EINVAL afterwards.
///
/// # Safety
/// `context` is NULL or a live context; `engines` points to `engine_count` engines.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_set_engines(
    context: *const Context,
    engines: *const Engine,
    engine_count: usize,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let context = unsafe { borrow(context, "context") }?;
        // SAFETY: this function's contract is `borrow_array`'s.
        let engines = unsafe { borrow_array(engines, engine_count, "engines") }?;
        let slot = |engine: &Engine| EngineId {
            class: engine.engine_class,
            instance: engine.engine_instance,
        };
        let slots = engines.iter().map(slot).collect();
        context.0.set_engines(EngineMap { slots, extensions: Vec::new() })?;
        Ok(0)
    })
}

/// Sets the context's address space. Only before the context is first used: -EINVAL afterwards.
///
/// # Safety
/// `context` is NULL or a live context, `vm` NULL or a live address space.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_set_vm(
    context: *const Context,
    vm: *const Vm,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let context = unsafe { borrow(context, "context") }?;
        // SAFETY: this function's contract is `borrow`'s.
        let vm = unsafe { borrow(vm, "vm") }?;
        context.0.set_vm(&vm.0)?;
        Ok(0)
    })
}

/// Sets a parameter that is a number: one of GPU_BROKER_PARAM_*, or any other of i915's.
///
/// # Safety
/// `context` is NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_set_param(
    context: *const Context,
    param: u64,
    value: u64,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let context = unsafe { borrow(context, "context") }?;
        context.0.set_param(ContextParam::scalar(param, value))?;
        Ok(0)
    })
}

/// Gets a parameter that is a number. This is a use: engines and address space are fixed then.
///
/// # Safety
/// `context` is NULL or a live context; `value` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_get_param(
    context: *const Context,
    param: u64,
    value: *mut u64,
) -> c_int {
    call(|| {
        not_null(value, "value")?;
        // A parameter with a structure would come back as something this function cannot give.
        if matches!(param, number::SSEU | number::ENGINES) {
            return Err(Failure::Argument("this parameter is a structure, not a number"));
        }
        // SAFETY: this function's contract is `borrow`'s.
        let context = unsafe { borrow(context, "context") }?;
        let found = context.0.get_param(param)?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(value, found) };
        Ok(0)
    })
}

/// How often the context was hit by resets. This is a use, as for gpu_broker_context_get_param().
///
/// # Safety
/// `context` is NULL or a live context; `stats` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_context_get_reset_stats(
    context: *const Context,
    stats: *mut ResetStats,
) -> c_int {
    call(|| {
        not_null(stats, "stats")?;
        // SAFETY: this function's contract is `borrow`'s.
        let context = unsafe { borrow(context, "context") }?;
        let found = context.0.reset_stats()?;
        let found = ResetStats {
            reset_count: found.reset_count,
            batch_active: found.batch_active,
            batch_pending: found.batch_pending,
        };
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(stats, found) };
        Ok(0)
    })
}
