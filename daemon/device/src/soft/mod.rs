//! The back end that runs everywhere: a software GPU in threads of the daemon.
//!
//! * [`Buffer`]s are sealed memfds, made when somebody first needs the memory.
//! * An address space is a persistent map; each request keeps a snapshot of it.
//! * A request waits for its dependencies without a thread, then runs on its engine's thread. One
//!   that has none, is short and finds its engine idle runs where it is submitted: most do.
//! * A dependency that failed counts as met, as a fence with an error does in the kernel: an error
//!   is reported to who waits for that fence, and does not spread to work queued behind it.
//!
//! # Locks
//! In this order: `FileShared::order`, a context, a request, then any one of address space,
//! buffer, signal, fence table, engine. [`EventSink::report`] is called with none held, and never
//! from inside a call of [`DeviceFile`]: events only come from the threads of the engines.
//!
//! Start reading at [`SoftFile::submit`](DeviceFile::submit), which `submit.rs` implements.

mod buffer;
mod context;
mod fault;
mod fence_fd;
mod limits;
mod reaper;
mod request;
mod signal;
mod space;
mod submit;
mod sys;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_soft_gpu::gpu::{Gpu, Threads};
use gpu_broker_soft_gpu::{ENGINES, TIMESTAMP_HZ};

use self::buffer::Quotas;
use self::context::ContextShared;
use self::fence_fd::Exports;
use self::signal::Watch;
use self::space::Space;
use crate::{
    BufferBusy, ContextSpec, ContextUpdate, Description, Device, DeviceError, DeviceFile,
    EngineDescription, EngineId, EngineUsage, EventSink, FenceState, Submission, Submitted,
};

pub use self::buffer::Buffer;
pub use self::context::Context;
pub use self::signal::Fence;
pub use gpu_broker_soft_gpu::gpu::Config;

/// `I915_VIDEO_CLASS_CAPABILITY_HEVC`.
const CAPABILITY_HEVC: u64 = 1 << 0;
/// `I915_VIDEO_AND_ENHANCE_CLASS_CAPABILITY_SFC`.
const CAPABILITY_SFC: u64 = 1 << 1;

/// A software GPU: a Kaby Lake GT3 in name and commands. Dropping it cancels all work of all files
/// and waits until it is over; files that are still open answer [`DeviceError::Lost`] then.
#[derive(Debug)]
pub struct SoftDevice {
    threads: Threads,
    shared: Arc<DeviceShared>,
}

/// What all files of a device share.
#[derive(Debug)]
pub(crate) struct DeviceShared {
    gpu: Gpu,
    quotas: Arc<Quotas>,
    exports: Arc<Exports>,
    timelines: AtomicU64,
}

/// What one session has of the device.
#[derive(Debug)]
pub struct SoftFile(Arc<FileShared>);

/// A session's part. Its contexts and requests hold on to it.
pub(crate) struct FileShared {
    device: Arc<DeviceShared>,
    events: Arc<dyn EventSink>,
    /// Held while a request is entered into what it uses: two requests that share several buffers
    /// must be in the same order on all of them.
    order: Mutex<()>,
}

impl std::fmt::Debug for FileShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileShared").finish_non_exhaustive()
    }
}

/// An address space.
#[derive(Clone, Debug)]
pub struct Vm(Arc<Mutex<Space>>);

impl Vm {
    fn lock(&self) -> MutexGuard<'_, Space> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SoftDevice {
    /// Starts a GPU. Limits on fds are taken from the process as it is now: raise
    /// `RLIMIT_NOFILE` first.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(config: Config) -> std::io::Result<Self> {
        let threads = Gpu::start(config)?;
        let shared = Arc::new(DeviceShared {
            gpu: threads.gpu().clone(),
            quotas: Quotas::new()?,
            exports: Arc::default(),
            timelines: AtomicU64::new(0),
        });
        Ok(Self { threads, shared })
    }
}

impl DeviceShared {
    /// A number no other timeline has; never 0.
    fn next_timeline(&self) -> u64 {
        self.timelines.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl FileShared {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for SoftDevice {
    type File = SoftFile;

    fn description(&self) -> Description {
        let mut logical = [0; 4];
        let engines = ENGINES.iter().map(|spec| {
            let next = &mut logical[usize::from(spec.class)];
            let logical_instance = *next;
            *next += 1;
            EngineDescription {
                engine: EngineId { class: spec.class, instance: spec.instance },
                name: spec.name.to_owned(),
                logical_instance,
                capabilities: match spec.name {
                    "vcs0" => CAPABILITY_HEVC | CAPABILITY_SFC,
                    "vecs0" => CAPABILITY_SFC,
                    _ => 0,
                },
            }
        });
        Description {
            driver: "soft",
            name: "Software GPU (Kaby Lake GT3)".to_owned(),
            vendor_id: 0x8086,
            device_id: 0x5926,
            revision: 6,
            graphics_version: 9,
            gtt_bytes: 1 << 48,
            timestamp_hz: TIMESTAMP_HZ,
            wedged: false,
            engines: engines.collect(),
        }
    }

    fn open(&self, events: Arc<dyn EventSink>) -> Result<SoftFile, DeviceError> {
        let device = Arc::clone(&self.shared);
        Ok(SoftFile(Arc::new(FileShared { device, events, order: Mutex::new(()) })))
    }

    fn engine_usage(&self) -> Vec<EngineUsage> {
        let usage = |engine: &gpu_broker_soft_gpu::engine::Engine| {
            let usage = engine.usage();
            EngineUsage {
                busy_ns: usage.busy_ns,
                queued: usage.queued,
                completed: usage.completed,
                faults: usage.faults,
            }
        };
        self.threads.gpu().engines().iter().map(usage).collect()
    }
}

impl DeviceFile for SoftFile {
    type Vm = Vm;
    type Context = Context;
    type Buffer = Buffer;
    type Fence = Fence;

    fn create_vm(&self) -> Result<Vm, DeviceError> {
        Ok(Vm(Arc::default()))
    }

    fn unbind(&self, vm: &Vm, address: u64, size: u64) {
        vm.lock().unbind(address, size);
    }

    fn create_context(&self, spec: ContextSpec<'_, Vm>) -> Result<Context, DeviceError> {
        Ok(Context(ContextShared::new(Arc::clone(&self.0), &spec)))
    }

    fn update_context(&self, context: &Context, update: ContextUpdate) -> Result<(), DeviceError> {
        context.0.update(update);
        Ok(())
    }

    fn close_context(&self, context: Context, cancel: bool) {
        if cancel {
            context.0.cancel();
        }
    }

    fn cancel_context(&self, context: &Context) {
        context.0.cancel();
    }

    fn create_buffer(&self, size: u64) -> Result<Buffer, DeviceError> {
        Ok(Buffer::new(size, Arc::clone(&self.0.device.quotas)))
    }

    fn share_buffer(&self, buffer: &Buffer) -> Result<(OwnedFd, u64), DeviceError> {
        Ok((buffer.share()?, 0))
    }

    fn buffer_busy(&self, buffer: &Buffer) -> BufferBusy {
        buffer.busy()
    }

    fn watch_buffer(&self, buffer: &Buffer, token: u64) -> bool {
        let _order = self.0.lock();
        let signals = buffer.with_users(|users| users.all().cloned().collect::<Vec<_>>());
        match signals {
            None => true,
            Some(signals) => !Watch::start(&signals, token, Arc::clone(&self.0.events)),
        }
    }

    fn submit(
        &self,
        context: &Context,
        submission: Submission<'_, Self>,
    ) -> Result<Submitted<Fence>, DeviceError> {
        submit::submit(&self.0, &context.0, &submission)
    }

    fn export_fence(&self, fence: &Fence) -> Result<OwnedFd, DeviceError> {
        let device = &self.0.device;
        device.exports.export(fence, &device.quotas.fds)
    }

    fn import_fence(&self, fd: BorrowedFd<'_>) -> Result<Fence, DeviceError> {
        self.0.device.exports.import(fd)
    }

    fn fence_state(&self, fence: &Fence) -> FenceState {
        fence.state()
    }

    fn merge_fences(&self, first: &Fence, second: &Fence) -> Fence {
        Fence::merge(first, second)
    }
}

#[cfg(test)]
mod tests;
