//! Connections, the device behind them, and address spaces.

use std::ffi::{OsStr, c_char, c_int};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use gpu_broker_client::protocol::param::class;

use crate::boundary::{self, Failure, borrow, call, call_quietly, not_null, store, text};

/// 3D and compute.
pub const GPU_BROKER_CLASS_RENDER: u16 = 0;
/// Blitter.
pub const GPU_BROKER_CLASS_COPY: u16 = 1;
/// Video decode and encode.
pub const GPU_BROKER_CLASS_VIDEO: u16 = 2;
/// Video post-processing.
pub const GPU_BROKER_CLASS_VIDEO_ENHANCE: u16 = 3;
/// Compute only.
pub const GPU_BROKER_CLASS_COMPUTE: u16 = 4;

const _: () = assert!(GPU_BROKER_CLASS_RENDER == class::RENDER);
const _: () = assert!(GPU_BROKER_CLASS_COPY == class::COPY);
const _: () = assert!(GPU_BROKER_CLASS_VIDEO == class::VIDEO);
const _: () = assert!(GPU_BROKER_CLASS_VIDEO_ENHANCE == class::VIDEO_ENHANCE);
const _: () = assert!(GPU_BROKER_CLASS_COMPUTE == class::COMPUTE);

/// A session with the daemon.
pub struct Connection(pub(crate) gpu_broker_client::Connection);

/// A GPU address space that several contexts can share.
pub struct Vm(pub(crate) gpu_broker_client::Vm);

/// An engine of the device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// One of GPU_BROKER_CLASS_*.
    pub engine_class: u16,
    /// Counted from 0 within the class.
    pub engine_instance: u16,
}

/// The device behind the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// PCI vendor id.
    pub vendor_id: u16,
    /// PCI device id.
    pub device_id: u16,
    /// PCI revision.
    pub revision: u16,
    /// 9 for Gen9.
    pub graphics_version: u16,
    /// Number of engines; gpu_broker_engine() has each.
    pub engine_count: u32,
    /// 1 if the device could not be recovered from a hang.
    pub wedged: u32,
    /// Bytes of a context's address space.
    pub gtt_bytes: u64,
    /// Ticks per second of the timestamp registers.
    pub timestamp_hz: u64,
}

/// Connects to the daemon and begins a session. `path` is its socket; NULL means
/// $GPU_BROKER_SOCKET, or else the usual place. `client_name`, at most 64 bytes of UTF-8, is for
/// logs and status. Release the connection with gpu_broker_close().
///
/// Errors: what connect(2) gives; -ECONNRESET (the daemon is full or stopping);
/// -EPROTONOSUPPORT (another version); -EPROTO (not a broker).
///
/// # Safety
/// The strings end with a zero; `connection` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_connect(
    path: *const c_char,
    client_name: *const c_char,
    connection: *mut *mut Connection,
) -> c_int {
    call(|| {
        not_null(connection, "connection")?;
        // SAFETY: a string, by this function's contract.
        let name = unsafe { utf8(client_name, "client_name") }?;
        let made = if path.is_null() {
            gpu_broker_client::Connection::open(name)?
        } else {
            // SAFETY: a string, by this function's contract.
            let path = unsafe { text(path, "path") }?;
            gpu_broker_client::Connection::connect(OsStr::from_bytes(path.to_bytes()), name)?
        };
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(connection, Box::into_raw(Box::new(Connection(made)))) };
        Ok(0)
    })
}

/// Begins a session over a socket that is connected already. The library owns `fd` from now on,
/// also when this fails.
///
/// Errors: -EINVAL for a negative fd, -ENOTSOCK for an fd that is no connected SOCK_SEQPACKET
/// socket, and those of gpu_broker_connect().
///
/// # Safety
/// `fd` is open and nobody else's; the string ends with a zero; `connection` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_connect_fd(
    fd: c_int,
    client_name: *const c_char,
    connection: *mut *mut Connection,
) -> c_int {
    call(|| {
        if fd < 0 {
            return Err(Failure::Argument("the file descriptor is negative"));
        }
        // SAFETY: by this function's contract the fd is open and given to us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        not_null(connection, "connection")?;
        // SAFETY: a string, by this function's contract.
        let name = unsafe { utf8(client_name, "client_name") }?;
        let made = gpu_broker_client::Connection::from_fd(fd, name)?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(connection, Box::into_raw(Box::new(Connection(made)))) };
        Ok(0)
    })
}

/// Releases a connection; NULL does nothing. The session ends once its contexts, address spaces
/// and buffers are released too.
///
/// # Safety
/// `connection` is NULL or came from this library and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_close(connection: *mut Connection) {
    // SAFETY: this function's contract is `release`'s.
    unsafe { boundary::release(connection) }
}

/// The session's number in logs and status; 0 for NULL.
///
/// # Safety
/// `connection` is NULL or a live connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_session(connection: *const Connection) -> u64 {
    // SAFETY: this function's contract is `borrow`'s.
    let connection = unsafe { borrow(connection, "connection") };
    connection.map_or(0, |connection| connection.0.session().0)
}

/// One round trip to the daemon.
///
/// # Safety
/// `connection` is NULL or a live connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_ping(connection: *const Connection) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        connection.0.ping(0)?;
        Ok(0)
    })
}

/// The device as it is now.
///
/// # Safety
/// `connection` is NULL or a live connection; `device` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_device(
    connection: *const Connection,
    device: *mut Device,
) -> c_int {
    call(|| {
        not_null(device, "device")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        let info = connection.0.device()?;
        let description = Device {
            vendor_id: info.vendor_id,
            device_id: info.device_id,
            revision: info.revision,
            graphics_version: info.graphics_version,
            engine_count: u32::try_from(info.engines.len()).unwrap_or(u32::MAX),
            wedged: info.wedged.into(),
            gtt_bytes: info.gtt_bytes,
            timestamp_hz: info.timestamp_hz,
        };
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(device, description) };
        Ok(0)
    })
}

/// The device's engine with this index. -EINVAL beyond the last.
///
/// # Safety
/// `connection` is NULL or a live connection; `engine` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_engine(
    connection: *const Connection,
    index: u32,
    engine: *mut Engine,
) -> c_int {
    call(|| {
        not_null(engine, "engine")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        let engines = &connection.0.hello().device.engines;
        let found = usize::try_from(index).ok().and_then(|index| engines.get(index));
        let found = found.ok_or(Failure::Argument("the device has no engine with that index"))?;
        let found =
            Engine { engine_class: found.engine.class, engine_instance: found.engine.instance };
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(engine, found) };
        Ok(0)
    })
}

/// i915's GETPARAM: what the device and the daemon can do, by I915_PARAM_* number. -EINVAL for
/// unknown ones.
///
/// # Safety
/// `connection` is NULL or a live connection; `value` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_get_param(
    connection: *const Connection,
    param: i32,
    value: *mut i32,
) -> c_int {
    call(|| {
        not_null(value, "value")?;
        // SAFETY: this function's contract is `borrow`'s.
        let found = unsafe { borrow(connection, "connection") }?.0.get_param(param)?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(value, found) };
        Ok(0)
    })
}

/// The render engine's timestamp, in ticks of `timestamp_hz` of gpu_broker_device().
///
/// # Safety
/// `connection` is NULL or a live connection; `ticks` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_timestamp(
    connection: *const Connection,
    ticks: *mut u64,
) -> c_int {
    call(|| {
        not_null(ticks, "ticks")?;
        // SAFETY: this function's contract is `borrow`'s.
        let found = unsafe { borrow(connection, "connection") }?.0.timestamp()?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(ticks, found) };
        Ok(0)
    })
}

/// Waits until the session's work that is older than 20 ms is done. -EIO when the device is
/// wedged.
///
/// # Safety
/// `connection` is NULL or a live connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_throttle(connection: *const Connection) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        unsafe { borrow(connection, "connection") }?.0.throttle()?;
        Ok(0)
    })
}

/// Makes an empty address space. Release it with gpu_broker_vm_destroy().
///
/// # Safety
/// `connection` is NULL or a live connection; `vm` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_vm_create(
    connection: *const Connection,
    vm: *mut *mut Vm,
) -> c_int {
    call(|| {
        not_null(vm, "vm")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        let made = Vm(connection.0.create_vm()?);
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(vm, Box::into_raw(Box::new(made))) };
        Ok(0)
    })
}

/// Gives the address space's handle up; NULL does nothing. Contexts that use it keep it.
///
/// # Safety
/// `vm` is NULL or came from this library and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_vm_destroy(vm: *mut Vm) {
    // SAFETY: this function's contract is `release`'s.
    unsafe { boundary::release(vm) }
}

/// The address space's id in its session; 0 for NULL.
///
/// # Safety
/// `vm` is NULL or a live address space.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_vm_id(vm: *const Vm) -> u32 {
    // SAFETY: this function's contract is `borrow`'s.
    let vm = unsafe { borrow(vm, "vm") };
    call_quietly(0, || vm.map_or(0, |vm| vm.0.id().0))
}

/// # Safety
/// As [`text`].
unsafe fn utf8<'a>(pointer: *const c_char, argument: &'static str) -> Result<&'a str, Failure> {
    // SAFETY: this function's contract is `text`'s.
    let text = unsafe { text(pointer, argument) }?;
    text.to_str().map_err(|_| Failure::Argument("the client name is not UTF-8"))
}
