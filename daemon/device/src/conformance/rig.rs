//! A device, one file of it, and shorthand.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::soft::sys::Mapping;
use crate::{
    Batch, ContextSpec, Device, DeviceError, DeviceEvent, DeviceFile, EngineId, EngineSlot,
    EventSink, FaultReport, FenceState, Object, Outcome, Patch, Placement, Share, Submission,
};

/// How long a case waits for something that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const RCS0: EngineId = EngineId { class: 0, instance: 0 };
pub(crate) const BCS0: EngineId = EngineId { class: 1, instance: 0 };
pub(crate) const VCS0: EngineId = EngineId { class: 2, instance: 0 };
pub(crate) const VCS1: EngineId = EngineId { class: 2, instance: 1 };
pub(crate) const VECS0: EngineId = EngineId { class: 3, instance: 0 };

pub(crate) type File<D> = <D as Device>::File;
pub(crate) type Context<D> = <File<D> as DeviceFile>::Context;
pub(crate) type Vm<D> = <File<D> as DeviceFile>::Vm;
pub(crate) type Fence<D> = <File<D> as DeviceFile>::Fence;
pub(crate) type Syncobj<D> = <File<D> as DeviceFile>::Syncobj;

/// What the device reported.
#[derive(Default)]
pub(crate) struct Events {
    list: Mutex<Vec<DeviceEvent>>,
    changed: Condvar,
}

impl EventSink for Events {
    fn report(&self, event: DeviceEvent) {
        self.list.lock().unwrap().push(event);
        self.changed.notify_all();
    }
}

impl Events {
    pub(crate) fn all(&self) -> Vec<DeviceEvent> {
        self.list.lock().unwrap().clone()
    }

    /// Waits for an event that `f` makes something of.
    pub(crate) fn wait<T>(&self, f: impl Fn(&DeviceEvent) -> Option<T>) -> T {
        let list = self.list.lock().unwrap();
        let (list, timeout) = self
            .changed
            .wait_timeout_while(list, PATIENCE, |list| !list.iter().any(|event| f(event).is_some()))
            .unwrap();
        assert!(!timeout.timed_out(), "no such event among {list:?}");
        list.iter().find_map(f).unwrap()
    }

    /// Waits for the completion of the only request of a tag.
    pub(crate) fn outcome(&self, tag: u64) -> Outcome {
        self.wait(|event| match event {
            DeviceEvent::Completed { tag: of, outcome } if *of == tag => Some(outcome.clone()),
            DeviceEvent::Completed { .. }
            | DeviceEvent::Replayed { .. }
            | DeviceEvent::BufferIdle { .. }
            | DeviceEvent::BuffersIdle { .. }
            | DeviceEvent::SyncobjsReady { .. } => None,
        })
    }
}

/// A device and a file.
pub(crate) struct Rig<D: Device> {
    pub(crate) device: Arc<D>,
    pub(crate) file: File<D>,
    pub(crate) events: Arc<Events>,
    next: AtomicU64,
}

/// A buffer at an address, and the CPU's access to it.
pub(crate) struct Mem<D: Device> {
    pub(crate) buffer: <File<D> as DeviceFile>::Buffer,
    pub(crate) address: u64,
    pub(crate) size: u64,
    map: Arc<Mapping>,
}

/// How a submission uses a [`Mem`].
pub(crate) struct Use<'a, D: Device> {
    mem: &'a Mem<D>,
    write: bool,
    asynchronous: bool,
    address: u64,
}

impl<D: Device> Mem<D> {
    /// Where dword `index` is.
    pub(crate) fn at(&self, index: u64) -> u64 {
        self.address + 4 * index
    }

    pub(crate) fn set(&self, index: u64, value: u32) {
        self.map.write(4 * index, &value.to_le_bytes()).unwrap();
    }

    pub(crate) fn get(&self, index: u64) -> u32 {
        let mut bytes = [0; 4];
        self.map.read(4 * index, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn fill(&self, bytes: &[u8]) {
        self.map.write(0, bytes).unwrap();
    }

    /// The same memory by another handle.
    pub(crate) fn again(&self, buffer: <File<D> as DeviceFile>::Buffer) -> Self {
        Self { buffer, address: self.address, size: self.size, map: Arc::clone(&self.map) }
    }

    /// As an object that is read.
    pub(crate) fn object(&self) -> Object<'_, <File<D> as DeviceFile>::Buffer> {
        Object {
            buffer: &self.buffer,
            address: self.address,
            size: self.size,
            fresh: true,
            write: false,
            asynchronous: false,
            capture: false,
        }
    }

    fn used(&self, write: bool, asynchronous: bool) -> Use<'_, D> {
        Use { mem: self, write, asynchronous, address: self.address }
    }

    pub(crate) fn read(&self) -> Use<'_, D> {
        self.used(false, false)
    }

    pub(crate) fn written(&self) -> Use<'_, D> {
        self.used(true, false)
    }

    /// Used without implicit ordering.
    pub(crate) fn shared(&self) -> Use<'_, D> {
        self.used(true, true)
    }

    /// Somewhere else than where it belongs.
    pub(crate) fn shared_at(&self, address: u64) -> Use<'_, D> {
        Use { address, ..self.shared() }
    }
}

/// Where and how to submit.
pub(crate) struct Job<'a, D: Device> {
    pub(crate) slot: u32,
    pub(crate) placement: Placement<'a>,
    pub(crate) after: &'a [Fence<D>],
    pub(crate) along: &'a [Fence<D>],
    pub(crate) signals: &'a [(Syncobj<D>, u64)],
    pub(crate) patches: &'a [Patch],
}

impl<'a, D: Device> Job<'a, D> {
    pub(crate) fn on(engine: EngineId) -> Self {
        Self::at(u32::from(engine.class), Placement::One(engine))
    }

    pub(crate) fn at(slot: u32, placement: Placement<'a>) -> Self {
        Self { slot, placement, after: &[], along: &[], signals: &[], patches: &[] }
    }
}

impl<D: Device> Rig<D> {
    pub(crate) fn new(device: D) -> Self {
        let events = Arc::new(Events::default());
        let file = device.open(Arc::<Events>::clone(&events), Share::default()).unwrap();
        Self { device: Arc::new(device), file, events, next: AtomicU64::new(1) }
    }

    /// Another file of the same device, with events of its own.
    pub(crate) fn another(&self) -> Self {
        self.another_with(Share::default())
    }

    pub(crate) fn another_with(&self, share: Share) -> Self {
        let events = Arc::new(Events::default());
        let file = self.device.open(Arc::<Events>::clone(&events), share).unwrap();
        // Its addresses are not those of this one: memory of one can be bound beside the other's.
        let next = AtomicU64::new(self.number() << 16);
        Self { device: Arc::clone(&self.device), file, events, next }
    }

    /// Drops everything; a device that stops by itself has to come to an end.
    pub(crate) fn end(self) {
        drop(self.file);
        drop(self.device);
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A context with its own address space and the default parameters, and its tag.
    pub(crate) fn context(&self, vm: &Vm<D>) -> (Context<D>, u64) {
        let tag = self.number();
        (self.file.create_context(Self::spec(vm, tag)).unwrap(), tag)
    }

    /// A context with an engine map.
    pub(crate) fn mapped(&self, vm: &Vm<D>, engines: &[EngineSlot]) -> Context<D> {
        let spec = ContextSpec { engines: Some(engines), ..Self::spec(vm, self.number()) };
        self.file.create_context(spec).unwrap()
    }

    pub(crate) fn spec(vm: &Vm<D>, tag: u64) -> ContextSpec<'_, Vm<D>> {
        ContextSpec {
            tag,
            vm,
            engines: None::<&[EngineSlot]>,
            priority: 0,
            recoverable: true,
            bannable: true,
            persistent: true,
            error_capture: true,
            single_timeline: false,
            low_latency: false,
            sseu: &[],
        }
    }

    pub(crate) fn vm(&self) -> Vm<D> {
        self.file.create_vm().unwrap()
    }

    /// A page of memory at an address of its own.
    pub(crate) fn mem(&self) -> Mem<D> {
        self.sized(4096)
    }

    /// Memory of some size at an address of its own.
    pub(crate) fn sized(&self, size: u64) -> Mem<D> {
        self.mapping_of(self.file.create_buffer(size).unwrap(), size)
    }

    /// A page that is not mapped yet.
    pub(crate) fn mapping(&self, page: <File<D> as DeviceFile>::Buffer) -> Mem<D> {
        self.mapping_of(page, 4096)
    }

    fn mapping_of(&self, buffer: <File<D> as DeviceFile>::Buffer, size: u64) -> Mem<D> {
        let (fd, offset) = self.file.share_buffer(&buffer).unwrap();
        assert_eq!(offset, 0, "the suite reads from the start of the fd");
        let map = Arc::new(Mapping::new(fd.as_fd(), size.try_into().unwrap()).unwrap());
        Mem { buffer, address: 0x1_0000_0000 + 0x10_0000 * self.number(), size, map }
    }

    /// The same memory by another handle of this file.
    pub(crate) fn mem_again(&self, mem: &Mem<D>) -> Mem<D> {
        let (fd, _) = self.file.share_buffer(&mem.buffer).unwrap();
        mem.again(self.file.import_buffer(fd.as_fd()).unwrap().0)
    }

    /// A page with a batch in it.
    pub(crate) fn batch(&self, bytes: &[u8]) -> Mem<D> {
        let mem = self.mem();
        mem.fill(bytes);
        mem
    }

    /// Submits a batch that uses memory.
    pub(crate) fn submit(
        &self,
        context: &Context<D>,
        job: &Job<'_, D>,
        batch: &[u8],
        uses: &[Use<'_, D>],
    ) -> Pending<D> {
        self.submit_all(context, job, &[&self.batch(batch)], uses)
    }

    /// Submits batches that are in memory; if there are none, the last object is the batch.
    pub(crate) fn submit_all(
        &self,
        context: &Context<D>,
        job: &Job<'_, D>,
        batches: &[&Mem<D>],
        uses: &[Use<'_, D>],
    ) -> Pending<D> {
        self.try_submit(context, job, batches, uses).unwrap()
    }

    /// The same, if it may be refused.
    pub(crate) fn try_submit(
        &self,
        context: &Context<D>,
        job: &Job<'_, D>,
        batches: &[&Mem<D>],
        uses: &[Use<'_, D>],
    ) -> Result<Pending<D>, DeviceError> {
        let batch_uses: Vec<_> = batches.iter().map(|mem| mem.read()).collect();
        let objects: Vec<_> = uses
            .iter()
            .chain(&batch_uses)
            .map(|used| Object {
                address: used.address,
                write: used.write,
                asynchronous: used.asynchronous,
                ..used.mem.object()
            })
            .collect();
        let last = if batches.is_empty() { uses.last().map(|used| used.mem) } else { None };
        let batches: Vec<_> = batches
            .iter()
            .copied()
            .chain(last)
            .map(|mem| Batch { address: mem.address, length: mem.size })
            .collect();
        let submission = Submission {
            slot: job.slot,
            placement: job.placement,
            batches: &batches,
            objects: &objects,
            after: job.after,
            along: job.along,
            signals: job.signals,
            patches: job.patches,
            want_fence: true,
        };
        let submitted = self.file.submit(context, submission)?;
        Ok(Pending { fence: submitted.fence.unwrap(), done: submitted.done })
    }

    /// State of a submission's fence.
    pub(crate) fn state(&self, pending: &Pending<D>) -> FenceState {
        self.file.fence_state(&pending.fence)
    }

    /// Waits until a submission has completed; answers the state of its fence.
    pub(crate) fn wait(&self, pending: &Pending<D>) -> FenceState {
        let fd = self.file.export_fence(&pending.fence).unwrap();
        wait_readable(&fd);
        let state = self.state(pending);
        assert_ne!(state, FenceState::Pending, "the fd of a pending fence was readable");
        state
    }

    /// Waits until a submission has completed as it should.
    pub(crate) fn finish(&self, pending: &Pending<D>) {
        assert_eq!(self.wait(pending), FenceState::Signalled);
    }

    /// Runs a batch to its end.
    pub(crate) fn run(
        &self,
        context: &Context<D>,
        job: &Job<'_, D>,
        batch: &[u8],
        uses: &[Use<'_, D>],
    ) {
        self.finish(&self.submit(context, job, batch, uses));
    }

    /// The outcome of a submission that is the only one of its tag.
    pub(crate) fn outcome(&self, pending: &Pending<D>, tag: u64) -> Outcome {
        pending.done.clone().unwrap_or_else(|| self.events.outcome(tag))
    }

    /// Where a batch died, if the device tells: a kernel keeps that for root.
    pub(crate) fn died_at(&self, report: &FaultReport, address: u64) {
        let told = self.device.description().kernel.is_none();
        assert_eq!(report.address, if told { address } else { 0 }, "{report:?}");
    }

    /// The report of a submission that has to be guilty.
    pub(crate) fn guilty(&self, pending: &Pending<D>, tag: u64) -> FaultReport {
        match self.outcome(pending, tag) {
            Outcome::Guilty(report) => report,
            other @ (Outcome::Completed | Outcome::Cancelled) => panic!("not guilty: {other:?}"),
        }
    }
}

/// A submission.
pub(crate) struct Pending<D: Device> {
    pub(crate) fence: Fence<D>,
    pub(crate) done: Option<Outcome>,
}

pub(crate) fn wait_readable(fd: &impl AsFd) {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "not readable in time");
}

pub(crate) fn is_readable(fd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

/// Waits until something is so that no event announces.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
