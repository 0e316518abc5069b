//! The back end for Intel GPUs: the kernel's i915 driver, by a DRM file for each session.
//!
//! What a session may do was decided before; what comes here is typed, and goes to the kernel in
//! structures made for it (`sys.rs`). Nothing of a client's bytes does.
//!
//! * A context is one CONTEXT_CREATE_EXT with everything recorded; a submission one EXECBUFFER2
//!   whose objects are pinned where core put them.
//! * Fences are sync_files, syncobjs the kernel's, buffers are shared as dma-bufs, so that they mean
//!   the same to programs that have the device themselves. One thread of the device learns of the
//!   ends of fences (`poller.rs`).
//! * EXECBUFFER2 and what closes objects can block in the kernel ([`Device::MAY_BLOCK`]); the daemon
//!   calls those where it may. The methods that begin waits, and those that look, do not block.
//!
//! Start reading at [`I915File::submit`](DeviceFile::submit), which `exec.rs` implements.
//!
//! # Locks
//! Each is held for a few instructions or one ioctl, and none while another of this back end is
//! taken, but for that of the table of waits, under which a wait's own is. [`EventSink::report`] is
//! called with none held.

mod buffer;
mod card;
mod context;
mod describe;
mod exec;
mod fds;
mod fence;
mod ioctls;
mod limits;
mod platform;
mod poller;
mod syncobj;
mod sys;
mod usage;
mod waits;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use gpu_broker_uapi::i915::I915_PARAM_HAS_LLC;
use rustix::io::Errno;

use self::buffer::Handles;
use self::card::Card;
use self::fence::Fence;
use self::poller::{Poller, Then, Ticket};
use self::usage::{Busy, Usage};
use self::waits::Waits;
use crate::soft::limits::Quota;
use crate::trace::Switch;
use crate::{
    BufferBusy, BufferMemory, Caching, ClassTimes, ContextSpec, ContextUpdate, Description, Device,
    DeviceError, DeviceEvent, DeviceFile, EngineUsage, EventSink, FenceState, Health, Share,
    Submission, Submitted, SyncobjWait,
};

pub use self::buffer::{Buffer, UserMemory};
pub use self::card::{Node, nodes};
pub use self::context::{Context, Vm};
pub use self::fence::Fence as I915Fence;
pub use self::ioctls::IOCTLS;
pub use self::syncobj::Syncobj;

/// RCS_TIMESTAMP, with the flag that asks for all of its bits in one read.
const TIMESTAMP_REGISTER: u64 = 0x2358 | 1;

/// A GPU driven by i915.
#[derive(Debug)]
pub struct I915Device(Arc<Shared>);

/// What all files share.
#[derive(Debug)]
struct Shared {
    node: Node,
    description: Description,
    poller: Poller,
    tracing: Switch,
    usage: Usage,
    /// CPU and GPU share a cache.
    coherent: bool,
    /// For fences that are watched.
    fds: Arc<Quota>,
    health: AtomicU8,
    next_file: AtomicU64,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// Has no work, so that it can be asked whether the device is wedged. `None` while it is gone.
    control: Option<Card>,
    open: Vec<Weak<FileShared>>,
    /// Since when it answers as if it were wedged, and how often it did.
    suspected: Option<(Instant, u32)>,
    /// What the closed ones did.
    past: Busy,
}

/// What one session has of the device.
#[derive(Debug)]
pub struct I915File(Arc<FileShared>);

/// A session's DRM file. Its objects and its requests in flight hold on to it.
struct FileShared {
    card: Card,
    device: Arc<Shared>,
    events: Arc<dyn EventSink>,
    number: u64,
    handles: Handles,
    waits: Waits,
    share: Share,
    /// Engine time that its share knows of.
    counted: Mutex<Busy>,
}

impl Files {
    /// How the device is: what the kernel answers to a file without work. `None` if none is open.
    fn ask(&self) -> Option<Result<(), Errno>> {
        self.control.as_ref().map(|card| sys::gem_throttle(card.as_fd()))
    }
}

/// What the matter is with a device.
enum Trouble {
    /// Nothing.
    None,
    Gone,
    Wedged,
}

impl std::fmt::Debug for FileShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileShared").field("number", &self.number).finish_non_exhaustive()
    }
}

/// An errno of the kernel as a device's refusal.
fn os(errno: Errno, doing: &'static str) -> DeviceError {
    match errno {
        Errno::NOMEM => DeviceError::OutOfMemory,
        Errno::MFILE | Errno::NFILE => DeviceError::OutOfFds,
        errno => DeviceError::Os { errno: errno.raw_os_error(), doing },
    }
}

impl I915Device {
    /// Opens the device at a render node. Limits on fds are taken from the process as it is now:
    /// raise `RLIMIT_NOFILE` first.
    ///
    /// # Errors
    /// The node is not there or not i915's, may not be opened, or is of a device too old for this
    /// back end (before version 8).
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let node = Node::at(path)?;
        let control = node.open()?;
        let description = describe::describe(&control, &node).map_err(std::io::Error::other)?;
        let engines = description.engines.iter().map(|description| description.engine);
        let usage = Usage::new(engines);
        let coherent = sys::getparam(control.as_fd(), I915_PARAM_HAS_LLC).is_ok_and(|llc| llc != 0);
        let files = Files { control: Some(control), ..Files::default() };
        Ok(Self(Arc::new(Shared {
            node,
            description,
            poller: Poller::start()?,
            tracing: Switch::default(),
            usage,
            coherent,
            fds: Quota::fds(),
            health: AtomicU8::new(Health::Good as u8),
            next_file: AtomicU64::new(1),
            files: Mutex::new(files),
        })))
    }
}

impl Shared {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            good if good == Health::Good as u8 => Health::Good,
            wedged if wedged == Health::Wedged as u8 => Health::Wedged,
            unbound if unbound == Health::Unbound as u8 => Health::Unbound,
            _ => Health::Unplugged,
        }
    }

    fn set_health(&self, health: Health) {
        let before = self.health.swap(health as u8, Ordering::Relaxed);
        if before != health as u8 {
            let path = self.node.path.display();
            match health {
                Health::Good => tracing::info!("{path} works again"),
                Health::Wedged => tracing::warn!("{path} is wedged: the kernel gave it up"),
                Health::Unplugged => tracing::warn!("{path} is gone: it was unplugged"),
                Health::Unbound => {
                    tracing::warn!("{path} is gone: its driver was unloaded, or unbound from it");
                }
            }
        }
    }

    /// The device may have come back under another number.
    fn find_again(&self) -> Option<Node> {
        let same = |node: &Node| {
            node.pci_slot == self.node.pci_slot && node.device_id == self.node.device_id
        };
        if self.node.pci_slot.is_empty() {
            return Some(self.node.clone());
        }
        nodes().into_iter().find(same)
    }

    fn open(&self) -> Result<Card, Errno> {
        match self.node.open() {
            Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
                self.find_again().ok_or(Errno::NODEV)?.open()
            }
            done => done,
        }
    }

    fn probe(&self) {
        let mut files = self.files();
        let asked = files.ask();
        if asked != Some(Err(Errno::IO)) {
            files.suspected = None;
        }
        let health = match asked {
            Some(Ok(()) | Err(Errno::INTR | Errno::AGAIN)) => Health::Good,
            Some(Err(Errno::IO)) => {
                let (since, answers) = files.suspected.get_or_insert_with(|| (Instant::now(), 0));
                *answers = answers.saturating_add(1);
                let sure =
                    *answers >= limits::WEDGED_ANSWERS && since.elapsed() >= limits::WEDGED_AFTER;
                if sure { Health::Wedged } else { self.health() }
            }
            Some(Err(_)) | None => {
                // What is gone is let go of, so that the driver can be unloaded, and looked for the
                // next time: in between the files that were open before are seen to have lost it.
                if files.control.take().is_none()
                    && let Ok(card) = self.open()
                {
                    files.control = Some(card);
                    drop(files);
                    return self.set_health(Health::Good);
                }
                drop(files);
                let health = self.node.how_gone();
                files = self.files();
                health
            }
        };
        files.open.retain(|file| file.strong_count() > 0);
        let open: Vec<_> = files.open.iter().filter_map(Weak::upgrade).collect();
        let mut busy = files.past;
        drop(files);
        self.set_health(health);
        for file in open {
            usage::add(&mut busy, &file.account());
        }
        self.usage.set_busy(&busy);
    }
}

impl FileShared {
    /// What EIO means that the kernel answered to one who wanted to use the device. Waits while that is
    /// being unplugged, or reset.
    fn trouble(&self) -> Trouble {
        let begun = Instant::now();
        loop {
            let asked = self.device.files().ask();
            match asked {
                Some(Ok(()) | Err(Errno::INTR | Errno::AGAIN)) => return Trouble::None,
                Some(Err(Errno::IO)) => {}
                // Who opens the node again is the probe.
                Some(Err(_)) | None => return Trouble::Gone,
            }
            if self.device.health() != Health::Good || begun.elapsed() >= limits::WEDGED_AFTER {
                return Trouble::Wedged;
            }
            std::thread::sleep(limits::WEDGED_RHYTHM);
        }
    }

    /// An errno of this file as a refusal. That the device is gone is said once it is known how:
    /// [`Shared::probe`] finds out.
    fn error(&self, errno: Errno, doing: &'static str) -> DeviceError {
        match errno {
            Errno::NODEV | Errno::NXIO => DeviceError::Lost,
            errno => os(errno, doing),
        }
    }

    /// How long the engines were busy with it, of which its share is told what is new.
    fn account(&self) -> Busy {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *counted;
        // While the kernel takes a closed context's part over, it has it in neither place.
        for (known, now) in counted.iter_mut().zip(usage::busy_of(self.card.as_fd())) {
            *known = now.max(*known);
        }
        for (class, (now, before)) in counted.iter().zip(before).enumerate() {
            self.share.meter().add(class, now.saturating_sub(before));
        }
        *counted
    }

    /// Has the poller call `then`; takes one of the fds that may be watched.
    fn watch(&self, fence: Fence, then: Then) -> Result<Ticket, DeviceError> {
        let permit = self.device.fds.take()?;
        let then = Box::new(move |state| {
            drop(permit);
            then(state);
        });
        self.device.poller.watch(self.number, fence, then)
    }
}

impl Drop for FileShared {
    fn drop(&mut self) {
        let busy = self.account();
        usage::add(&mut self.device.files().past, &busy);
    }
}

impl Drop for I915File {
    /// Waits of a session that is gone end here; requests go on.
    fn drop(&mut self) {
        waits::unwatch_all(&self.0);
    }
}

impl Device for I915Device {
    const MAY_BLOCK: bool = true;
    const TRACES_RUNS: bool = false;

    type File = I915File;

    fn description(&self) -> Description {
        let wedged = self.0.health() != Health::Good;
        Description { wedged, ..self.0.description.clone() }
    }

    fn health(&self) -> Health {
        self.0.health()
    }

    fn probe(&self) {
        self.0.probe();
    }

    fn set_tracing(&self, on: bool) {
        self.0.tracing.set(on);
    }

    /// The kernel's scheduler knows priorities, but no weights: a share is counted, not kept to.
    fn open(&self, events: Arc<dyn EventSink>, share: Share) -> Result<I915File, DeviceError> {
        let card = self.0.open().map_err(|errno| match errno {
            Errno::NODEV | Errno::NXIO | Errno::NOENT => DeviceError::Lost,
            errno => os(errno, "opening the render node"),
        })?;
        let file = Arc::new(FileShared {
            card,
            device: Arc::clone(&self.0),
            events,
            number: self.0.next_file.fetch_add(1, Ordering::Relaxed),
            handles: Handles::default(),
            waits: Waits::default(),
            share,
            counted: Mutex::default(),
        });
        self.0.files().open.push(Arc::downgrade(&file));
        Ok(I915File(file))
    }

    fn engine_usage(&self) -> Vec<EngineUsage> {
        self.0.usage.all()
    }
}

impl DeviceFile for I915File {
    type Vm = Vm;
    type Context = Context;
    type Buffer = Buffer;
    type Fence = Fence;
    type Syncobj = Syncobj;
    type UserMemory = UserMemory;

    /// It is the kernel's; the client has an fd of its own.
    const EXPORTS_COST: bool = false;
    const REPORTS_FIRST: bool = false;
    const PREPARES_ACCESS: bool = true;

    fn settle(&self) {
        self.0.device.poller.settle(self.0.number);
    }

    fn engine_times(&self) -> ClassTimes {
        ClassTimes(self.0.account())
    }

    /// The kernel tells times of files, not of contexts; those in a context's image are the GPU's.
    fn context_times(&self, _context: &Context) -> Option<ClassTimes> {
        None
    }

    fn buffer_memory(&self, buffer: &Buffer) -> BufferMemory {
        buffer.memory()
    }

    fn create_vm(&self) -> Result<Vm, DeviceError> {
        Vm::create(&self.0)
    }

    /// What is bound in the kernel stays until something takes its place: see `exec.rs`.
    fn unbind(&self, _vm: &Vm, _address: u64, _size: u64) {}

    fn create_context(&self, spec: ContextSpec<'_, Vm>) -> Result<Context, DeviceError> {
        Context::create(&self.0, &spec)
    }

    fn update_context(&self, context: &Context, update: ContextUpdate) -> Result<(), DeviceError> {
        context.0.update(update)
    }

    fn close_context(&self, context: Context, cancel: bool) {
        context.0.close(cancel);
    }

    fn cancel_context(&self, context: &Context) {
        context.0.close(true);
    }

    fn create_buffer(&self, size: u64) -> Result<Buffer, DeviceError> {
        Buffer::create(&self.0, size)
    }

    fn share_buffer(&self, buffer: &Buffer) -> Result<(OwnedFd, u64), DeviceError> {
        buffer.lend()?;
        Ok((buffer.export()?, 0))
    }

    fn set_caching(&self, buffer: &Buffer, caching: Caching) -> Result<(), DeviceError> {
        buffer.set_caching(caching)
    }

    fn prepare_access(&self, buffer: &Buffer, write: bool) -> Result<(), DeviceError> {
        buffer.prepare_access(write)
    }

    fn buffer_busy(&self, buffer: &Buffer) -> BufferBusy {
        buffer.busy()
    }

    fn watch_buffer(&self, buffer: &Buffer, token: u64) -> bool {
        buffer.watch(true, token)
    }

    fn submit(
        &self,
        context: &Context,
        submission: Submission<'_, Self>,
    ) -> Result<Submitted<Fence>, DeviceError> {
        exec::submit(&context.0, &submission)
    }

    fn export_fence(&self, fence: &Fence) -> Result<OwnedFd, DeviceError> {
        fence.export()
    }

    fn reserve_fence(&self) -> Result<Option<OwnedFd>, DeviceError> {
        fence::reserve().map(Some)
    }

    fn export_fence_to(
        &self,
        place: Option<OwnedFd>,
        fence: &Fence,
    ) -> Result<OwnedFd, DeviceError> {
        match place {
            Some(place) => fence.export_to(place),
            None => fence.export(),
        }
    }

    fn import_fence(&self, fd: BorrowedFd<'_>) -> Result<Fence, DeviceError> {
        Fence::import(fd)
    }

    fn fence_state(&self, fence: &Fence) -> FenceState {
        fence.state()
    }

    fn merge_fences(&self, first: &Fence, second: &Fence) -> Fence {
        Fence::merge(first, second)
    }

    fn watch_buffer_access(&self, buffer: &Buffer, write: bool, token: u64) -> bool {
        buffer.watch(write, token)
    }

    fn import_buffer(&self, fd: BorrowedFd<'_>) -> Result<(Buffer, u64), DeviceError> {
        Buffer::import(&self.0, fd)
    }

    fn map_user_memory(
        &self,
        memfd: OwnedFd,
        size: u64,
        writable: bool,
    ) -> Result<UserMemory, DeviceError> {
        UserMemory::map(&memfd, size, writable)
    }

    fn create_userptr(
        &self,
        memory: &UserMemory,
        offset: u64,
        size: u64,
        read_only: bool,
    ) -> Result<Buffer, DeviceError> {
        Buffer::of_user(&self.0, memory, (offset, size), read_only)
    }

    /// EXECBUFFER2 pins by itself, and its notifier sees the client's changes.
    fn pin_userptr(&self, _buffer: &Buffer) -> Result<(), DeviceError> {
        Ok(())
    }

    fn watch_buffers(&self, buffers: &[&Buffer], token: u64) -> bool {
        let event = move |lost| DeviceEvent::BuffersIdle { token, lost };
        buffer::watch(&self.0, buffers, true, event)
    }

    fn same_buffer(&self, first: &Buffer, second: &Buffer) -> bool {
        first.is_same(second)
    }

    fn timestamp(&self) -> u64 {
        // A device that is gone has no time.
        sys::reg_read(self.0.card.as_fd(), TIMESTAMP_REGISTER).unwrap_or(0)
    }

    fn create_syncobj(&self, signalled: bool) -> Result<Syncobj, DeviceError> {
        Syncobj::create(&self.0, signalled)
    }

    fn reset_syncobj(&self, syncobj: &Syncobj) {
        syncobj.reset();
    }

    fn signal_syncobj(&self, syncobj: &Syncobj, point: u64) -> Result<(), DeviceError> {
        syncobj.signal(point)
    }

    fn put_fence(&self, syncobj: &Syncobj, point: u64, fence: &Fence) -> Result<(), DeviceError> {
        syncobj.put(point, fence)
    }

    fn syncobj_fence(&self, syncobj: &Syncobj, point: u64) -> Option<Fence> {
        syncobj.fence(point)
    }

    fn syncobj_point(&self, syncobj: &Syncobj, submitted: bool) -> u64 {
        syncobj.point(submitted)
    }

    fn watch_syncobjs(
        &self,
        wait: &SyncobjWait<'_, Syncobj>,
        token: u64,
    ) -> Result<Option<u32>, DeviceError> {
        waits::watch(&self.0, wait, token)
    }

    fn unwatch_syncobjs(&self, token: u64) {
        waits::unwatch(&self.0, token);
    }

    fn export_syncobj(&self, syncobj: &Syncobj) -> Result<OwnedFd, DeviceError> {
        syncobj.export()
    }

    fn import_syncobj(&self, fd: BorrowedFd<'_>) -> Result<Syncobj, DeviceError> {
        Syncobj::import(&self.0, fd)
    }
}
