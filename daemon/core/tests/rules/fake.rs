//! A device that does nothing but keep count, and that checks what core tells it: at any time it
//! knows which buffer lies where, and a submission that disagrees fails the test.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gpu_broker_core::Hands;
use gpu_broker_core::hands::{
    BufferMemory, Caching, ClassTimes, ContextSpec, Object, Outcome, Placement, Slot, SlotSseu,
    Submission, Submitted, Update,
};
use gpu_broker_protocol::{Reason, Refusal};

/// What the device is told beside submissions.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Event {
    Updated { tag: u64, update: Update },
    Closed { tag: u64, cancel: bool },
    Cancelled { tag: u64 },
    Unbound { address: u64, size: u64 },
    Caching { buffer: u64, caching: Caching },
}

/// A submission as the device saw it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    pub(crate) tag: u64,
    pub(crate) slot: u32,
    pub(crate) placement: String,
    pub(crate) batches: Vec<(u64, u64)>,
    pub(crate) addresses: Vec<u64>,
    pub(crate) fresh: Vec<bool>,
    pub(crate) write: Vec<bool>,
    pub(crate) asynchronous: Vec<bool>,
    pub(crate) after: Vec<u64>,
    pub(crate) along: Vec<u64>,
    /// Serials of the syncobjs, and points.
    pub(crate) signals: Vec<(u64, u64)>,
    pub(crate) patches: Vec<(usize, u64, u64)>,
    pub(crate) want_fence: bool,
    pub(crate) fence: u64,
}

/// A context as the device saw it being made.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Made {
    pub(crate) tag: u64,
    pub(crate) engines: Option<Vec<Slot>>,
    pub(crate) priority: i32,
    pub(crate) recoverable: bool,
    pub(crate) bannable: bool,
    pub(crate) persistent: bool,
    pub(crate) error_capture: bool,
    pub(crate) single_timeline: bool,
    pub(crate) low_latency: bool,
    pub(crate) sseu: Vec<SlotSseu>,
    pub(crate) vm: u64,
}

#[derive(Default)]
pub(crate) struct Device {
    serial: AtomicU64,
    /// Objects that exist.
    pub(crate) vms: AtomicI64,
    pub(crate) contexts: AtomicI64,
    pub(crate) buffers: AtomicI64,
    pub(crate) syncobjs: AtomicI64,
    pub(crate) mappings: AtomicI64,
    /// Fences that have signalled.
    pub(crate) signalled: Mutex<HashSet<u64>>,
    pub(crate) events: Mutex<Vec<Event>>,
    pub(crate) submissions: Mutex<Vec<Seen>>,
    pub(crate) made: Mutex<Vec<Made>>,
    /// The next calls of these fail.
    pub(crate) fail_context: Mutex<Option<Refusal>>,
    pub(crate) fail_submit: Mutex<Option<Refusal>>,
    pub(crate) fail_vm: Mutex<Option<Refusal>>,
    pub(crate) fail_update: Mutex<Option<Refusal>>,
    pub(crate) fail_caching: Mutex<Option<Refusal>>,
    /// It does not tell the engine time of contexts.
    pub(crate) blind: AtomicBool,
    /// What a submission becomes at once; `None`: it stays in flight.
    pub(crate) done: Mutex<Option<Outcome>>,
    pub(crate) user: Mutex<UserBooks>,
}

/// Pages of every memory.
pub(crate) const USER_PAGES: usize = 8;

/// Application memory: the generation of a page says which page it is; the next one is another.
#[derive(Default)]
pub(crate) struct UserBooks {
    /// Of each memory.
    pub(crate) generations: HashMap<u64, [u64; USER_PAGES]>,
    /// Userptr buffers by serial.
    pub(crate) buffers: HashMap<u64, UserBuffer>,
    /// How often pages were taken hold of.
    pub(crate) pins: u64,
    /// Buffers that work in flight uses.
    pub(crate) busy: HashSet<u64>,
    /// The next pin fails.
    pub(crate) fail_pin: Option<Refusal>,
    /// Called during the next pin.
    pub(crate) on_pin: Option<Box<dyn FnOnce() + Send>>,
}

/// A range of a memory, and the pages the device has hold of.
pub(crate) struct UserBuffer {
    pub(crate) memory: u64,
    range: Range<usize>,
    pinned: Option<Vec<u64>>,
}

impl UserBooks {
    fn pages(&self, memory: u64, range: Range<usize>) -> Vec<u64> {
        self.generations.get(&memory).copied().unwrap_or_default()[range].to_vec()
    }

    /// Some pages become others.
    pub(crate) fn replace(&mut self, memory: u64, range: Range<usize>) {
        for page in &mut self.generations.entry(memory).or_default()[range] {
            *page += 1;
        }
    }
}

/// The memfds of a client that are mapped: number of the memory.
#[derive(Clone)]
pub(crate) struct FakeMemory {
    pub(crate) memory: u64,
    _mapping: Arc<Counted>,
}

impl FakeMemory {
    pub(crate) fn new(device: &Arc<Device>, memory: u64) -> Self {
        Self { memory, _mapping: Arc::new(Counted::new(device, |device| &device.mappings)) }
    }
}

impl Device {
    fn next(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn log(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    pub(crate) fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    pub(crate) fn last_submission(&self) -> Seen {
        self.submissions.lock().unwrap().last().cloned().expect("nothing was submitted")
    }

    pub(crate) fn last_made(&self) -> Made {
        self.made.lock().unwrap().last().cloned().expect("no context was made")
    }

    /// Syncobjs that exist.
    pub(crate) fn syncobjs(&self) -> i64 {
        self.syncobjs.load(Ordering::Relaxed)
    }

    /// Mappings of application memory.
    pub(crate) fn mappings(&self) -> i64 {
        self.mappings.load(Ordering::Relaxed)
    }

    /// The fence of the last submission.
    pub(crate) fn last_fence(&self) -> u64 {
        self.last_submission().fence
    }

    pub(crate) fn signal(&self, fence: u64) {
        self.signalled.lock().unwrap().insert(fence);
    }

    pub(crate) fn has_signalled(&self, fence: u64) -> bool {
        self.signalled.lock().unwrap().contains(&fence)
    }

    /// VMs, contexts and buffers that exist.
    pub(crate) fn counts(&self) -> (i64, i64, i64) {
        let get = |count: &AtomicI64| count.load(Ordering::Relaxed);
        (get(&self.vms), get(&self.contexts), get(&self.buffers))
    }
}

/// Counts itself.
pub(crate) struct Counted {
    pub(crate) serial: u64,
    device: Arc<Device>,
    which: fn(&Device) -> &AtomicI64,
}

impl Counted {
    fn new(device: &Arc<Device>, which: fn(&Device) -> &AtomicI64) -> Self {
        which(device).fetch_add(1, Ordering::Relaxed);
        Self { serial: device.next(), device: Arc::clone(device), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.device).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Address → (size, serial of the buffer).
type Bindings = BTreeMap<u64, (u64, u64)>;

pub(crate) struct FakeVm {
    object: Counted,
    bindings: Arc<Mutex<Bindings>>,
}

pub(crate) struct FakeContext {
    tag: u64,
    bindings: Arc<Mutex<Bindings>>,
    _object: Counted,
}

/// Memory that sessions may share.
pub(crate) type FakeBuffer = Arc<Counted>;

/// Points and fences, rising; one entry with point 0 is a binary object.
pub(crate) struct FakeSyncobj {
    pub(crate) object: Counted,
    entries: Mutex<Vec<(u64, u64)>>,
}

impl FakeSyncobj {
    fn put(&self, point: u64, fence: u64) {
        let mut entries = self.entries.lock().unwrap();
        if point == 0 {
            entries.clear();
        }
        if entries.last().is_none_or(|(last, _)| *last < point) {
            entries.push((point, fence));
        }
    }

    fn fence(&self, point: u64) -> Option<u64> {
        let entries = self.entries.lock().unwrap();
        let found = match point {
            0 => entries.last(),
            _ => entries.iter().find(|(at, _)| *at >= point),
        };
        found.map(|(_, fence)| *fence)
    }
}

/// A clone shares the device, as two sessions do.
#[derive(Clone, Default)]
pub(crate) struct Fake(pub(crate) Arc<Device>);

impl Hands for Fake {
    type Vm = FakeVm;
    type Context = FakeContext;
    type Buffer = FakeBuffer;
    type Fence = u64;
    type Syncobj = Arc<FakeSyncobj>;
    type UserMemory = FakeMemory;

    fn create_vm(&self) -> Result<FakeVm, Refusal> {
        if let Some(refusal) = self.0.fail_vm.lock().unwrap().take() {
            return Err(refusal);
        }
        let object = Counted::new(&self.0, |device| &device.vms);
        Ok(FakeVm { object, bindings: Arc::default() })
    }

    fn unbind(&self, vm: &FakeVm, address: u64, size: u64) {
        let mut bindings = vm.bindings.lock().unwrap();
        assert!(bindings.remove(&address).is_some(), "unbound {address:#x}, where nothing lay");
        drop(bindings);
        self.0.log(Event::Unbound { address, size });
    }

    fn create_context(&self, spec: &ContextSpec<'_, FakeVm>) -> Result<FakeContext, Refusal> {
        if let Some(refusal) = self.0.fail_context.lock().unwrap().take() {
            return Err(refusal);
        }
        self.0.made.lock().unwrap().push(Made {
            tag: spec.tag,
            engines: spec.engines.map(<[Slot]>::to_vec),
            priority: spec.priority,
            recoverable: spec.recoverable,
            bannable: spec.bannable,
            persistent: spec.persistent,
            error_capture: spec.error_capture,
            single_timeline: spec.single_timeline,
            low_latency: spec.low_latency,
            sseu: spec.sseu.to_vec(),
            vm: spec.vm.object.serial,
        });
        let _object = Counted::new(&self.0, |device| &device.contexts);
        Ok(FakeContext { tag: spec.tag, bindings: Arc::clone(&spec.vm.bindings), _object })
    }

    fn update_context(&self, context: &FakeContext, update: Update) -> Result<(), Refusal> {
        if let Some(refusal) = self.0.fail_update.lock().unwrap().take() {
            return Err(refusal);
        }
        self.0.log(Event::Updated { tag: context.tag, update });
        Ok(())
    }

    fn close_context(&self, context: FakeContext, cancel: bool) {
        self.0.log(Event::Closed { tag: context.tag, cancel });
    }

    fn cancel_context(&self, context: &FakeContext) {
        self.0.log(Event::Cancelled { tag: context.tag });
    }

    fn engine_times(&self) -> ClassTimes {
        ClassTimes([1000, 100, 0, 7, 0])
    }

    fn context_times(&self, context: &FakeContext) -> Option<ClassTimes> {
        let blind = self.0.blind.load(Ordering::Relaxed);
        (!blind).then_some(ClassTimes([context.tag, 10, 0, 0, 0]))
    }

    fn buffer_memory(&self, buffer: &FakeBuffer) -> BufferMemory {
        let odd = buffer.serial % 2 == 1;
        BufferMemory { resident: true, shared: odd, active: !odd }
    }

    fn create_buffer(&self, size: u64) -> Result<FakeBuffer, Refusal> {
        assert!(size > 0 && size.is_multiple_of(4096), "a buffer of {size} bytes");
        Ok(Arc::new(Counted::new(&self.0, |device| &device.buffers)))
    }

    fn set_caching(&self, buffer: &FakeBuffer, caching: Caching) -> Result<(), Refusal> {
        if let Some(refusal) = self.0.fail_caching.lock().unwrap().take() {
            return Err(refusal);
        }
        self.0.log(Event::Caching { buffer: buffer.serial, caching });
        Ok(())
    }

    fn create_userptr(
        &self,
        memory: &FakeMemory,
        offset: u64,
        size: u64,
        _read_only: bool,
    ) -> Result<FakeBuffer, Refusal> {
        assert!(size > 0 && (offset | size).is_multiple_of(4096), "{size} bytes at {offset}");
        let buffer = Counted::new(&self.0, |device| &device.buffers);
        let page = |bytes: u64| usize::try_from(bytes / 4096).unwrap();
        let range = page(offset)..page(offset + size);
        let user = UserBuffer { memory: memory.memory, range, pinned: None };
        self.0.user.lock().unwrap().buffers.insert(buffer.serial, user);
        Ok(Arc::new(buffer))
    }

    fn pin_userptr(&self, buffer: &FakeBuffer) -> Result<(), Refusal> {
        let mut user = self.0.user.lock().unwrap();
        if let Some(refusal) = user.fail_pin.take() {
            return Err(refusal);
        }
        user.pins += 1;
        let UserBuffer { memory, range, .. } = &user.buffers[&buffer.serial];
        let pages = user.pages(*memory, range.clone());
        user.buffers.get_mut(&buffer.serial).expect("a userptr buffer").pinned = Some(pages);
        let on_pin = user.on_pin.take();
        drop(user);
        if let Some(on_pin) = on_pin {
            on_pin();
        }
        Ok(())
    }

    fn is_busy(&self, buffer: &FakeBuffer) -> bool {
        self.0.user.lock().unwrap().busy.contains(&buffer.serial)
    }

    fn submit(
        &self,
        context: &FakeContext,
        submission: &Submission<'_, Self>,
    ) -> Result<Submitted<u64>, Refusal> {
        check_pages(&self.0.user.lock().unwrap(), submission.objects);
        if let Some(refusal) = self.0.fail_submit.lock().unwrap().take() {
            return Err(refusal);
        }
        bind(&mut context.bindings.lock().unwrap(), submission.objects);
        assert!(!submission.batches.is_empty());
        for (address, length) in submission.batches {
            let inside = submission.objects.iter().any(|object| {
                object.address <= *address && address + length <= object.address + object.size
            });
            assert!(inside && *length > 0, "batch {address:#x} + {length} is in no object");
        }
        let placement = match submission.placement {
            Placement::One(engine) => format!("{}:{}", engine.class, engine.instance),
            Placement::AnyOf(engines) => format!("any of {}", engines.len()),
            Placement::Parallel(engines) => format!("parallel on {}", engines.len()),
        };
        let fence = self.0.next();
        self.0.submissions.lock().unwrap().push(Seen {
            fence,
            tag: context.tag,
            slot: submission.slot,
            placement,
            batches: submission.batches.to_vec(),
            addresses: submission.objects.iter().map(|object| object.address).collect(),
            fresh: submission.objects.iter().map(|object| object.fresh).collect(),
            write: submission.objects.iter().map(|object| object.write).collect(),
            asynchronous: submission.objects.iter().map(|object| object.asynchronous).collect(),
            after: submission.after.to_vec(),
            along: submission.along.to_vec(),
            signals: submission.signals.iter().map(|(it, at)| (it.object.serial, *at)).collect(),
            patches: submission.patches.to_vec(),
            want_fence: submission.want_fence,
        });
        for (object, offset, _) in submission.patches {
            let inside = offset + 8 <= submission.objects[*object].size;
            assert!(inside, "a patch at {offset:#x} of object {object}");
        }
        let done = *self.0.done.lock().unwrap();
        if done.is_some() {
            self.0.signal(fence);
        }
        for (syncobj, point) in submission.signals {
            syncobj.put(*point, fence);
        }
        Ok(Submitted { fence: submission.want_fence.then_some(fence), done })
    }

    fn is_pending(&self, fence: &u64) -> bool {
        !self.0.has_signalled(*fence)
    }

    fn same_buffer(&self, first: &FakeBuffer, second: &FakeBuffer) -> bool {
        Arc::ptr_eq(first, second)
    }

    fn create_syncobj(&self, signalled: bool) -> Result<Arc<FakeSyncobj>, Refusal> {
        let object = Counted::new(&self.0, |device| &device.syncobjs);
        let syncobj = Arc::new(FakeSyncobj { object, entries: Mutex::default() });
        if signalled {
            self.signal_syncobj(&syncobj, 0)?;
        }
        Ok(syncobj)
    }

    fn reset_syncobj(&self, syncobj: &Arc<FakeSyncobj>) {
        syncobj.entries.lock().unwrap().clear();
    }

    fn signal_syncobj(&self, syncobj: &Arc<FakeSyncobj>, point: u64) -> Result<(), Refusal> {
        let fence = self.0.next();
        self.0.signal(fence);
        self.put_fence(syncobj, point, &fence)
    }

    fn put_fence(
        &self,
        syncobj: &Arc<FakeSyncobj>,
        point: u64,
        fence: &u64,
    ) -> Result<(), Refusal> {
        syncobj.put(point, *fence);
        Ok(())
    }

    fn syncobj_fence(&self, syncobj: &Arc<FakeSyncobj>, point: u64) -> Option<u64> {
        syncobj.fence(point)
    }

    fn syncobj_point(&self, syncobj: &Arc<FakeSyncobj>, submitted: bool) -> u64 {
        let entries = syncobj.entries.lock().unwrap();
        let mut reached = 0;
        for (point, fence) in entries.iter() {
            if !submitted && !self.0.has_signalled(*fence) {
                break;
            }
            reached = *point;
        }
        reached
    }
}

/// No submission comes with pages that were invalidated.
fn check_pages(user: &UserBooks, objects: &[Object<'_, FakeBuffer>]) {
    for object in objects {
        if let Some(UserBuffer { memory, range, pinned }) = user.buffers.get(&object.buffer.serial)
        {
            let now = user.pages(*memory, range.clone());
            assert_eq!(*pinned, Some(now), "stale pages of memory {memory}");
        }
    }
}

/// What a device does with the objects of a submission.
fn bind(bindings: &mut Bindings, objects: &[Object<'_, FakeBuffer>]) {
    let mut ends: Vec<_> = objects.iter().map(|o| (o.address, o.address + o.size)).collect();
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "objects overlap: {ends:x?}");
    for object in objects {
        let (start, end) = (object.address, object.address + object.size);
        assert!(start.is_multiple_of(4096) && end <= 1 << 48, "an object at {start:#x}");
        if object.fresh {
            bindings.retain(|at, (size, _)| at + *size <= start || end <= *at);
            bindings.insert(start, (object.size, object.buffer.serial));
        }
        let bound = bindings.get(&start);
        assert_eq!(bound, Some(&(object.size, object.buffer.serial)), "device: at {start:#x}");
    }
}

/// The refusal of a device that has no memory left.
pub(crate) fn out_of_memory() -> Refusal {
    Refusal::new(Reason::OutOfMemory)
}
