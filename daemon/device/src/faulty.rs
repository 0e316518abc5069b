//! Any device, failing where a seed says: for tests of who uses devices.
//!
//! A method that may fail draws a number; a method that may not is passed on. The same seed and the
//! same calls give the same failures, so that a test prints the seed and is repeatable.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    BufferBusy, BufferMemory, Caching, ClassTimes, ContextSpec, ContextUpdate, Description, Device,
    DeviceError, DeviceFile, EngineUsage, EventSink, FenceState, Health, Share, Submission,
    Submitted, SyncobjWait,
};

/// A device that fails now and then.
#[derive(Debug)]
pub struct Faulty<D> {
    device: D,
    luck: Arc<Luck>,
}

/// A file of a [`Faulty`] device. Its objects are those of the file inside.
#[derive(Debug)]
pub struct FaultyFile<F> {
    file: F,
    luck: Arc<Luck>,
}

#[derive(Debug)]
struct Luck {
    /// State of a SplitMix64 generator.
    state: AtomicU64,
    one_in: u64,
    failures: AtomicU64,
}

impl<D> Faulty<D> {
    /// Makes one call in `one_in` fail, on average; 0 is never, 1 is always.
    pub fn new(device: D, seed: u64, one_in: u64) -> Self {
        let luck = Luck { state: AtomicU64::new(seed), one_in, failures: AtomicU64::new(0) };
        Self { device, luck: Arc::new(luck) }
    }

    /// Calls that were made to fail so far.
    pub fn failures(&self) -> u64 {
        self.luck.failures.load(Ordering::Relaxed)
    }
}

impl Luck {
    /// Fails with one of `errors`, if it is time to.
    fn draw(&self, errors: &[DeviceError]) -> Result<(), DeviceError> {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = mixed ^ (mixed >> 31);
        if self.one_in == 0 || !number.is_multiple_of(self.one_in) {
            return Ok(());
        }
        let choice = usize::try_from((number >> 32) % errors.len().max(1) as u64).unwrap_or(0);
        let Some(error) = errors.get(choice) else { return Ok(()) };
        self.failures.fetch_add(1, Ordering::Relaxed);
        Err(error.clone())
    }
}

const MEMORY: &[DeviceError] = &[DeviceError::OutOfMemory];
const MEMORY_OR_FDS: &[DeviceError] = &[DeviceError::OutOfMemory, DeviceError::OutOfFds];
const PAGES: &[DeviceError] =
    &[DeviceError::OutOfMemory, DeviceError::Os { errno: 14, doing: "pinning pages" }];
const ANY: &[DeviceError] = &[
    DeviceError::OutOfMemory,
    DeviceError::OutOfFds,
    DeviceError::Lost,
    DeviceError::Os { errno: 14, doing: "failing where the seed says" },
];

impl<D: Device> Device for Faulty<D> {
    const MAY_BLOCK: bool = D::MAY_BLOCK;
    const TRACES_RUNS: bool = D::TRACES_RUNS;
    const BUFFER_FENCES: bool = D::BUFFER_FENCES;

    type File = FaultyFile<D::File>;

    fn description(&self) -> Description {
        self.device.description()
    }

    fn health(&self) -> Health {
        self.device.health()
    }

    fn probe(&self) {
        self.device.probe();
    }

    fn set_tracing(&self, on: bool) {
        self.device.set_tracing(on);
    }

    fn open(&self, events: Arc<dyn EventSink>, share: Share) -> Result<Self::File, DeviceError> {
        self.luck.draw(ANY)?;
        Ok(FaultyFile { file: self.device.open(events, share)?, luck: Arc::clone(&self.luck) })
    }

    fn engine_usage(&self) -> Vec<EngineUsage> {
        self.device.engine_usage()
    }
}

impl<F: DeviceFile> DeviceFile for FaultyFile<F> {
    type Vm = F::Vm;
    type Context = F::Context;
    type Buffer = F::Buffer;
    type Fence = F::Fence;
    type Syncobj = F::Syncobj;
    type UserMemory = F::UserMemory;

    const EXPORTS_COST: bool = F::EXPORTS_COST;
    const REPORTS_FIRST: bool = F::REPORTS_FIRST;
    const PREPARES_ACCESS: bool = F::PREPARES_ACCESS;

    fn settle(&self) {
        self.file.settle();
    }

    fn create_vm(&self) -> Result<F::Vm, DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.create_vm()
    }

    fn unbind(&self, vm: &F::Vm, address: u64, size: u64) {
        self.file.unbind(vm, address, size);
    }

    fn create_context(&self, spec: ContextSpec<'_, F::Vm>) -> Result<F::Context, DeviceError> {
        self.luck.draw(ANY)?;
        self.file.create_context(spec)
    }

    fn update_context(
        &self,
        context: &F::Context,
        update: ContextUpdate,
    ) -> Result<(), DeviceError> {
        self.luck.draw(ANY)?;
        self.file.update_context(context, update)
    }

    fn close_context(&self, context: F::Context, cancel: bool) {
        self.file.close_context(context, cancel);
    }

    fn cancel_context(&self, context: &F::Context) {
        self.file.cancel_context(context);
    }

    fn engine_times(&self) -> ClassTimes {
        self.file.engine_times()
    }

    fn context_times(&self, context: &F::Context) -> Option<ClassTimes> {
        self.file.context_times(context)
    }

    fn create_buffer(&self, size: u64) -> Result<F::Buffer, DeviceError> {
        self.luck.draw(MEMORY_OR_FDS)?;
        self.file.create_buffer(size)
    }

    fn set_caching(&self, buffer: &F::Buffer, caching: Caching) -> Result<(), DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.set_caching(buffer, caching)
    }

    fn prepare_access(&self, buffer: &F::Buffer, write: bool) -> Result<(), DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.prepare_access(buffer, write)
    }

    fn share_buffer(&self, buffer: &F::Buffer) -> Result<(OwnedFd, u64), DeviceError> {
        self.luck.draw(MEMORY_OR_FDS)?;
        self.file.share_buffer(buffer)
    }

    fn buffer_memory(&self, buffer: &F::Buffer) -> BufferMemory {
        self.file.buffer_memory(buffer)
    }

    fn buffer_busy(&self, buffer: &F::Buffer) -> BufferBusy {
        self.file.buffer_busy(buffer)
    }

    fn watch_buffer(&self, buffer: &F::Buffer, token: u64) -> bool {
        self.file.watch_buffer(buffer, token)
    }

    fn submit(
        &self,
        context: &F::Context,
        submission: Submission<'_, Self>,
    ) -> Result<Submitted<F::Fence>, DeviceError> {
        self.luck.draw(ANY)?;
        let Submission { slot, placement, batches, objects, after, .. } = submission;
        let Submission { along, signals, patches, want_fence, .. } = submission;
        let inner = Submission {
            slot,
            placement,
            batches,
            objects,
            after,
            along,
            signals,
            patches,
            want_fence,
        };
        self.file.submit(context, inner)
    }

    fn export_fence(&self, fence: &F::Fence) -> Result<OwnedFd, DeviceError> {
        self.luck.draw(MEMORY_OR_FDS)?;
        self.file.export_fence(fence)
    }

    fn import_fence(&self, fd: BorrowedFd<'_>) -> Result<F::Fence, DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.import_fence(fd)
    }

    fn fence_state(&self, fence: &F::Fence) -> FenceState {
        self.file.fence_state(fence)
    }

    fn merge_fences(&self, first: &F::Fence, second: &F::Fence) -> F::Fence {
        self.file.merge_fences(first, second)
    }

    fn buffer_fence(&self, buffer: &F::Buffer, all: bool) -> Result<F::Fence, DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.buffer_fence(buffer, all)
    }

    fn add_buffer_fence(
        &self,
        buffer: &F::Buffer,
        all: bool,
        fence: &F::Fence,
    ) -> Result<(), DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.add_buffer_fence(buffer, all, fence)
    }

    fn watch_buffer_access(&self, buffer: &F::Buffer, write: bool, token: u64) -> bool {
        self.file.watch_buffer_access(buffer, write, token)
    }

    fn import_buffer(&self, fd: BorrowedFd<'_>) -> Result<(F::Buffer, u64), DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.import_buffer(fd)
    }

    fn map_user_memory(
        &self,
        memfd: OwnedFd,
        size: u64,
        writable: bool,
    ) -> Result<F::UserMemory, DeviceError> {
        self.luck.draw(MEMORY_OR_FDS)?;
        self.file.map_user_memory(memfd, size, writable)
    }

    fn create_userptr(
        &self,
        memory: &F::UserMemory,
        offset: u64,
        size: u64,
        read_only: bool,
    ) -> Result<F::Buffer, DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.create_userptr(memory, offset, size, read_only)
    }

    fn pin_userptr(&self, buffer: &F::Buffer) -> Result<(), DeviceError> {
        self.luck.draw(PAGES)?;
        self.file.pin_userptr(buffer)
    }

    fn watch_buffers(&self, buffers: &[&F::Buffer], token: u64) -> bool {
        self.file.watch_buffers(buffers, token)
    }

    fn same_buffer(&self, first: &F::Buffer, second: &F::Buffer) -> bool {
        self.file.same_buffer(first, second)
    }

    fn timestamp(&self) -> u64 {
        self.file.timestamp()
    }

    fn create_syncobj(&self, signalled: bool) -> Result<F::Syncobj, DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.create_syncobj(signalled)
    }

    fn reset_syncobj(&self, syncobj: &F::Syncobj) {
        self.file.reset_syncobj(syncobj);
    }

    fn signal_syncobj(&self, syncobj: &F::Syncobj, point: u64) -> Result<(), DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.signal_syncobj(syncobj, point)
    }

    fn put_fence(
        &self,
        syncobj: &F::Syncobj,
        point: u64,
        fence: &F::Fence,
    ) -> Result<(), DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.put_fence(syncobj, point, fence)
    }

    fn syncobj_fence(&self, syncobj: &F::Syncobj, point: u64) -> Option<F::Fence> {
        self.file.syncobj_fence(syncobj, point)
    }

    fn syncobj_point(&self, syncobj: &F::Syncobj, submitted: bool) -> u64 {
        self.file.syncobj_point(syncobj, submitted)
    }

    fn watch_syncobjs(
        &self,
        wait: &SyncobjWait<'_, F::Syncobj>,
        token: u64,
    ) -> Result<Option<u32>, DeviceError> {
        // Nothing here can fail but what the caller asks for.
        self.file.watch_syncobjs(wait, token)
    }

    fn unwatch_syncobjs(&self, token: u64) {
        self.file.unwatch_syncobjs(token);
    }

    fn export_syncobj(&self, syncobj: &F::Syncobj) -> Result<OwnedFd, DeviceError> {
        self.luck.draw(MEMORY_OR_FDS)?;
        self.file.export_syncobj(syncobj)
    }

    fn import_syncobj(&self, fd: BorrowedFd<'_>) -> Result<F::Syncobj, DeviceError> {
        self.luck.draw(MEMORY)?;
        self.file.import_syncobj(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Events;
    use crate::soft::{Config, SoftDevice};

    /// Which of 200 calls fail.
    fn failures(seed: u64, one_in: u64) -> Vec<bool> {
        let device = Faulty::new(SoftDevice::start(Config::default()).unwrap(), seed, one_in);
        let open = || device.open(Arc::new(Events::default()), Share::default());
        let failed: Vec<_> = (0..200).map(|_| open().is_err()).collect();
        assert_eq!(device.failures(), failed.iter().filter(|failed| **failed).count() as u64);
        failed
    }

    #[test]
    fn a_seed_says_what_fails() {
        let first = failures(1, 10);
        assert_eq!(first, failures(1, 10), "the same seed, the same failures");
        assert_ne!(first, failures(2, 10));
        let count = first.iter().filter(|failed| **failed).count();
        assert!((5..50).contains(&count), "{count} of 200 at one in ten");
        assert!(failures(3, 0).iter().all(|failed| !failed));
        assert!(failures(3, 1).iter().all(|failed| *failed));
    }

    mod suite {
        use crate::soft::Limits;

        /// A device that never fails passes as the one inside.
        fn harmless() -> super::Faulty<super::SoftDevice> {
            let limits =
                Limits { heartbeat_ns: 200_000_000, preempt_ns: 200_000_000, ..Limits::default() };
            let config = super::Config::uniform(limits);
            super::Faulty::new(super::SoftDevice::start(config).unwrap(), 0, 0)
        }

        crate::conformance::suite!(harmless);
    }
}
