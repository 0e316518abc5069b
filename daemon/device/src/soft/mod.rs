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
//! In this order: the order of a file, that of the device (`order.rs`), a context, a request, then
//! any one of address space, buffer, syncobj, fence table, engine; and last signals, from one to
//! what was merged of it. [`EventSink::report`] is called with none held. Completions are reported
//! from the threads of the engines only, never from inside a call of [`DeviceFile`]; the end of a
//! wait for syncobjs also from inside the call that puts the fence in. [`EventSink::trace`] is called
//! with any of them held.
//!
//! Start reading at [`SoftFile::submit`](DeviceFile::submit), which `submit.rs` implements.

mod buffer;
mod capture;
mod context;
mod fault;
mod fence;
mod fence_fd;
mod inherit;
pub(crate) mod limits;
mod order;
mod reaper;
mod request;
mod shared;
mod signal;
mod space;
mod submit;
mod syncobj;
mod syncobj_fd;
pub(crate) mod sys;
mod trace;
mod userptr;
mod watch;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_soft_gpu::gpu::{Gpu, Threads};
use gpu_broker_soft_gpu::{ENGINES, TIMESTAMP_HZ};

use self::buffer::{Quotas, Users};
use self::context::{ContextShared, NO_SSEU};
use self::fence_fd::Exports;
use self::limits::Quota;
use self::order::{Order, Turn};
use self::shared::SharedBuffers;
use self::signal::Signal;
use self::space::Space;
use self::syncobj_fd::SyncobjExports;
use self::trace::Tracer;
use self::userptr::Userptr;
use self::watch::{Report, Waits, Watch};
use crate::usage::Meter;
use crate::{
    BufferBusy, BufferMemory, Caching, ClassTimes, ContextSpec, ContextUpdate, Description, Device,
    DeviceError, DeviceEvent, DeviceFile, EngineDescription, EngineId, EngineUsage, EventSink,
    FenceState, Health, Share, Submission, Submitted, SyncobjWait,
};

pub use self::buffer::Buffer;
pub(crate) use self::buffer::refusal;
pub use self::context::Context;
pub use self::fence::Fence;
pub use self::syncobj::Syncobj;
pub use self::sys::return_large_blocks;
pub use self::userptr::UserMemory;
pub use gpu_broker_soft_gpu::gpu::{Config, ResetScope};
pub use gpu_broker_soft_gpu::scheduler::Limits;

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
    syncobj_exports: SyncobjExports,
    shared_buffers: Arc<SharedBuffers>,
    /// See [`order`].
    order: Order,
    timelines: AtomicU64,
    files: AtomicU64,
    tracer: Tracer,
}

/// What one session has of the device.
#[derive(Debug)]
pub struct SoftFile(Arc<FileShared>);

/// A session's part. Its contexts and requests hold on to it.
pub(crate) struct FileShared {
    device: Arc<DeviceShared>,
    events: Arc<dyn EventSink>,
    waits: Arc<Waits>,
    syncobj_fds: Arc<Quota>,
    /// Of a submission in flight an object each.
    uses: Arc<Quota>,
    /// See [`order`].
    order: Arc<Order>,
    /// No other file of the device has the same.
    number: u64,
    share: Share,
    meter: Meter,
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
        sys::survive_lost_pages()?;
        let threads = Gpu::start(config)?;
        let shared = Arc::new(DeviceShared {
            gpu: threads.gpu().clone(),
            quotas: Quotas::new()?,
            exports: Arc::default(),
            syncobj_exports: SyncobjExports::default(),
            shared_buffers: Arc::default(),
            order: Order::default(),
            timelines: AtomicU64::new(0),
            files: AtomicU64::new(0),
            tracer: Tracer::default(),
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
    /// Reports when `signals`, chosen of the users of some buffers, have fired; true if they have.
    fn watch(
        &self,
        buffers: &[&Buffer],
        choose: impl Fn(&Users) -> Vec<Arc<Signal>>,
        (token, report): (u64, Report),
    ) -> bool {
        let bodies = || buffers.iter().map(|buffer| &*buffer.0);
        let _turn = Turn::take(&self.order, &self.device.order, bodies());
        let mut signals: Vec<_> =
            bodies().filter_map(|body| body.with_users(&choose)).flatten().collect();
        // A request that uses many of them is watched once.
        signals.sort_unstable_by_key(Arc::as_ptr);
        signals.dedup_by(|one, other| Arc::ptr_eq(one, other));
        signals.is_empty() || !Watch::start(&signals, (token, report), Arc::clone(&self.events))
    }
}

/// What the watch of one buffer reports.
fn buffer_idle(token: u64, _lost: bool) -> DeviceEvent {
    DeviceEvent::BufferIdle { token }
}

impl Drop for SoftFile {
    /// Waits of a session that is gone end here; requests go on.
    fn drop(&mut self) {
        self.0.waits.unwatch_all();
        self.0.device.syncobj_exports.file_closed(&self.0.syncobj_fds);
    }
}

impl Device for SoftDevice {
    const MAY_BLOCK: bool = false;
    const BUFFER_FENCES: bool = true;
    const TRACES_RUNS: bool = true;

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
            kernel: None,
        }
    }

    fn health(&self) -> Health {
        Health::Good
    }

    fn probe(&self) {}

    fn set_tracing(&self, on: bool) {
        self.shared.tracer.set(on);
    }

    fn open(&self, events: Arc<dyn EventSink>, share: Share) -> Result<SoftFile, DeviceError> {
        let device = Arc::clone(&self.shared);
        let waits = Waits::new(Arc::clone(&events));
        let (syncobj_fds, uses) = (Quota::syncobj_fds_of_file(), Quota::uses_of_file());
        let order = Arc::default();
        let number = device.files.fetch_add(1, Ordering::Relaxed);
        let meter = Meter::default();
        Ok(SoftFile(Arc::new(FileShared {
            device,
            events,
            waits,
            syncobj_fds,
            uses,
            order,
            number,
            share,
            meter,
        })))
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
    type Syncobj = Syncobj;
    type UserMemory = UserMemory;

    /// The other end of a socket.
    const EXPORTS_COST: bool = true;
    const REPORTS_FIRST: bool = true;
    const PREPARES_ACCESS: bool = false;

    /// Requests are reported before their fences signal.
    fn settle(&self) {}

    fn create_vm(&self) -> Result<Vm, DeviceError> {
        Ok(Vm(Arc::default()))
    }

    fn unbind(&self, vm: &Vm, address: u64, size: u64) {
        vm.lock().unbind(address, size);
    }

    fn create_context(&self, spec: ContextSpec<'_, Vm>) -> Result<Context, DeviceError> {
        if !spec.sseu.is_empty() {
            return Err(NO_SSEU);
        }
        Ok(Context(ContextShared::new(Arc::clone(&self.0), &spec)))
    }

    fn update_context(&self, context: &Context, update: ContextUpdate) -> Result<(), DeviceError> {
        context.0.update(update)
    }

    fn close_context(&self, context: Context, cancel: bool) {
        if cancel {
            context.0.cancel();
        }
    }

    fn cancel_context(&self, context: &Context) {
        context.0.cancel();
    }

    fn engine_times(&self) -> ClassTimes {
        self.0.meter.read()
    }

    fn context_times(&self, context: &Context) -> Option<ClassTimes> {
        Some(context.0.times())
    }

    fn create_buffer(&self, size: u64) -> Result<Buffer, DeviceError> {
        let FileShared { device, order, .. } = &*self.0;
        Ok(Buffer::new(size, &device.quotas, order, &device.shared_buffers))
    }

    /// Both sides use the CPU's caches.
    fn set_caching(&self, _buffer: &Buffer, _caching: Caching) -> Result<(), DeviceError> {
        Ok(())
    }

    fn prepare_access(&self, _buffer: &Buffer, _write: bool) -> Result<(), DeviceError> {
        Ok(())
    }

    fn share_buffer(&self, buffer: &Buffer) -> Result<(OwnedFd, u64), DeviceError> {
        Ok((buffer.share()?, 0))
    }

    fn buffer_memory(&self, buffer: &Buffer) -> BufferMemory {
        let Buffer(body) = buffer;
        BufferMemory { resident: body.is_resident(), shared: body.is_in_several_files() }
    }

    fn buffer_busy(&self, buffer: &Buffer) -> BufferBusy {
        buffer.0.busy()
    }

    fn watch_buffer(&self, buffer: &Buffer, token: u64) -> bool {
        self.0.watch(&[buffer], |users| users.all().cloned().collect(), (token, buffer_idle))
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

    fn buffer_fence(&self, buffer: &Buffer, all: bool) -> Result<Fence, DeviceError> {
        Ok(buffer.0.fence(all))
    }

    fn add_buffer_fence(
        &self,
        buffer: &Buffer,
        all: bool,
        fence: &Fence,
    ) -> Result<(), DeviceError> {
        fence.pending().map_or(Ok(()), |signal| buffer.0.add(signal, all))
    }

    fn watch_buffer_access(&self, buffer: &Buffer, write: bool, token: u64) -> bool {
        let choose = |users: &Users| users.before(write).cloned().collect();
        self.0.watch(&[buffer], choose, (token, buffer_idle))
    }

    fn import_buffer(&self, fd: BorrowedFd<'_>) -> Result<(Buffer, u64), DeviceError> {
        let buffer = Buffer::import(&self.0.device.shared_buffers, fd, &self.0.order)?;
        let size = buffer.0.size();
        Ok((buffer, size))
    }

    fn map_user_memory(
        &self,
        memfd: OwnedFd,
        size: u64,
        writable: bool,
    ) -> Result<UserMemory, DeviceError> {
        UserMemory::map(memfd, size, writable, &self.0.device.quotas)
    }

    fn create_userptr(
        &self,
        memory: &UserMemory,
        offset: u64,
        size: u64,
        read_only: bool,
    ) -> Result<Buffer, DeviceError> {
        let user = Userptr::new(memory.clone(), offset, read_only);
        let FileShared { device, order, .. } = &*self.0;
        Ok(Buffer::over(size, user, &device.quotas, order, &device.shared_buffers))
    }

    fn pin_userptr(&self, buffer: &Buffer) -> Result<(), DeviceError> {
        buffer.0.pin()
    }

    fn watch_buffers(&self, buffers: &[&Buffer], token: u64) -> bool {
        let report: Report = |token, lost| DeviceEvent::BuffersIdle { token, lost };
        self.0.watch(buffers, |users| users.all().cloned().collect(), (token, report))
    }

    fn same_buffer(&self, first: &Buffer, second: &Buffer) -> bool {
        Arc::ptr_eq(&first.0, &second.0)
    }

    fn timestamp(&self) -> u64 {
        self.0.device.gpu.ticks()
    }

    fn create_syncobj(&self, signalled: bool) -> Result<Syncobj, DeviceError> {
        Ok(Syncobj::new(signalled))
    }

    fn reset_syncobj(&self, syncobj: &Syncobj) {
        syncobj.reset();
    }

    fn signal_syncobj(&self, syncobj: &Syncobj, point: u64) -> Result<(), DeviceError> {
        self.put_fence(syncobj, point, &Fence::done(0))
    }

    fn put_fence(&self, syncobj: &Syncobj, point: u64, fence: &Fence) -> Result<(), DeviceError> {
        syncobj.check_room(point)?;
        syncobj.put(point, fence);
        Ok(())
    }

    fn syncobj_fence(&self, syncobj: &Syncobj, point: u64) -> Option<Fence> {
        syncobj.fence(point)
    }

    fn syncobj_point(&self, syncobj: &Syncobj, submitted: bool) -> u64 {
        syncobj.value(submitted)
    }

    fn watch_syncobjs(
        &self,
        wait: &SyncobjWait<'_, Syncobj>,
        token: u64,
    ) -> Result<Option<u32>, DeviceError> {
        self.0.waits.watch(wait, token)
    }

    fn unwatch_syncobjs(&self, token: u64) {
        self.0.waits.unwatch(token);
    }

    fn export_syncobj(&self, syncobj: &Syncobj) -> Result<OwnedFd, DeviceError> {
        let FileShared { device, syncobj_fds, .. } = &*self.0;
        device.syncobj_exports.export(syncobj, syncobj_fds, &device.quotas)
    }

    fn import_syncobj(&self, fd: BorrowedFd<'_>) -> Result<Syncobj, DeviceError> {
        self.0.device.syncobj_exports.import(fd)
    }
}

#[cfg(test)]
mod hang_tests;
#[cfg(test)]
mod tests;
