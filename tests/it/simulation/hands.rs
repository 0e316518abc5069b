//! What a session has of the [`World`].

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_core::Hands;
use gpu_broker_core::hands::{
    BufferMemory, Caching, ClassTimes, ContextSpec, Placement, Submission, Submitted, Update,
};
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::{Reason, Refusal};

use super::world::{ContextRecord, Parts};

pub(super) type World = super::world::World<Memory>;

/// Objects that exist.
#[derive(Default)]
pub(super) struct Census([AtomicI64; 4]);

/// Counts itself.
pub(super) struct Counted(Arc<Census>, usize);

impl Census {
    pub(super) const KINDS: [&str; 4] = ["VMs", "contexts", "buffers", "syncobjs"];

    /// Of each of [`Self::KINDS`].
    pub(super) fn counts(&self) -> [i64; 4] {
        std::array::from_fn(|kind| self.0[kind].load(Ordering::Relaxed))
    }

    fn one(self: &Arc<Self>, kind: usize) -> Counted {
        self.0[kind].fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self), kind)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0[self.1].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory that sessions may share, and who uses it.
pub(super) type Memory = Arc<Body>;

pub(super) struct Body {
    users: Mutex<Users>,
    _counted: Counted,
}

/// Fences of who wrote last, and of who has read since.
#[derive(Default)]
struct Users {
    writer: Option<usize>,
    readers: Vec<usize>,
}

pub(super) struct Context {
    tag: u64,
    _counted: Counted,
}

/// A binary syncobj: the fence in it.
pub(super) struct Syncobj {
    fence: Mutex<Option<usize>>,
    _counted: Counted,
}

/// One session's device.
#[derive(Clone)]
pub(super) struct SimHands {
    pub(super) session: usize,
    pub(super) world: Arc<Mutex<World>>,
    pub(super) census: Arc<Census>,
}

impl SimHands {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// # Errors
    /// Now and then.
    fn made(&self, kind: usize) -> Result<Counted, Refusal> {
        self.luck()?;
        Ok(self.census.one(kind))
    }

    fn luck(&self) -> Result<(), Refusal> {
        if self.world().fails() { Err(Reason::OutOfMemory.into()) } else { Ok(()) }
    }
}

impl Hands for SimHands {
    type Vm = Counted;
    type Context = Context;
    type Buffer = Memory;
    type Fence = usize;
    type Syncobj = Arc<Syncobj>;
    type UserMemory = ();

    fn create_vm(&self) -> Result<Counted, Refusal> {
        self.made(0)
    }

    fn unbind(&self, _vm: &Counted, _address: u64, _size: u64) {}

    fn create_context(&self, spec: &ContextSpec<'_, Counted>) -> Result<Context, Refusal> {
        let _counted = self.made(1)?;
        let record = ContextRecord {
            priority: spec.priority,
            recoverable: spec.recoverable,
            bannable: spec.bannable,
            persistent: spec.persistent,
            ..ContextRecord::default()
        };
        let mut world = self.world();
        let known = world.contexts.insert((self.session, spec.tag), record);
        assert!(known.is_none(), "the tag {} was used twice", spec.tag);
        world.made = Some(spec.tag);
        Ok(Context { tag: spec.tag, _counted })
    }

    fn update_context(&self, context: &Context, update: Update) -> Result<(), Refusal> {
        self.luck()?;
        let mut world = self.world();
        let owner = (self.session, context.tag);
        let record = world.contexts.entry(owner).or_default();
        match update {
            Update::Priority(priority) => world.set_priority(owner, priority),
            Update::Recoverable(value) => record.recoverable = value,
            Update::Bannable(value) => record.bannable = value,
            Update::Persistent(value) => record.persistent = value,
            Update::ErrorCapture(_) | Update::Sseu(_) => {}
        }
        Ok(())
    }

    fn close_context(&self, context: Context, cancel: bool) {
        let mut world = self.world();
        let owner = (self.session, context.tag);
        let record = world.contexts.entry(owner).or_default();
        assert!(!record.closed, "closed twice");
        assert_eq!(cancel, !record.persistent, "what is not persistent is revoked, and only that");
        (record.closed, record.revoked) = (true, cancel);
        if cancel {
            world.cancel(owner);
        }
    }

    fn cancel_context(&self, context: &Context) {
        let mut world = self.world();
        let owner = (self.session, context.tag);
        world.contexts.entry(owner).or_default().banned = true;
        world.cancel(owner);
    }

    fn engine_times(&self) -> ClassTimes {
        ClassTimes::default()
    }

    fn context_times(&self, _context: &Context) -> Option<ClassTimes> {
        Some(ClassTimes::default())
    }

    fn buffer_memory(&self, _buffer: &Memory) -> BufferMemory {
        BufferMemory::default()
    }

    fn create_buffer(&self, _size: u64) -> Result<Memory, Refusal> {
        let _counted = self.made(2)?;
        Ok(Arc::new(Body { users: Mutex::default(), _counted }))
    }

    fn set_caching(&self, _buffer: &Memory, _caching: Caching) -> Result<(), Refusal> {
        self.luck()
    }

    fn create_userptr(
        &self,
        (): &(),
        _offset: u64,
        size: u64,
        _read_only: bool,
    ) -> Result<Memory, Refusal> {
        self.create_buffer(size)
    }

    fn pin_userptr(&self, _buffer: &Memory) -> Result<(), Refusal> {
        self.luck()
    }

    fn is_busy(&self, _buffer: &Memory) -> bool {
        false
    }

    fn submit(
        &self,
        context: &Context,
        submission: &Submission<'_, Self>,
    ) -> Result<Submitted<usize>, Refusal> {
        self.luck()?;
        assert!(submission.along.is_empty() && submission.patches.is_empty(), "nobody asked");
        let mut after = submission.after.to_vec();
        for object in submission.objects {
            let users = lock(&object.buffer.users);
            after.extend(users.writer);
            after.extend(users.readers.iter().filter(|_| object.write));
        }
        let engines = match submission.placement {
            Placement::One(engine) => vec![index_of(engine)],
            Placement::AnyOf(engines) | Placement::Parallel(engines) => {
                engines.iter().copied().map(index_of).collect()
            }
        };
        let memory = submission.objects.iter().map(|object| Arc::clone(object.buffer)).collect();
        let owner = (self.session, context.tag);
        let parts = Parts { owner, slot: submission.slot, engines, memory, after };
        let (fence, done) = self.world().submit(parts);
        for object in submission.objects {
            let mut users = lock(&object.buffer.users);
            if object.write {
                *users = Users { writer: Some(fence), readers: Vec::new() };
            } else {
                users.readers.push(fence);
            }
        }
        for (syncobj, _) in submission.signals {
            *lock(&syncobj.fence) = Some(fence);
        }
        Ok(Submitted { fence: submission.want_fence.then_some(fence), done })
    }

    fn is_pending(&self, fence: &usize) -> bool {
        self.world().fences[*fence].is_none()
    }

    fn same_buffer(&self, first: &Memory, second: &Memory) -> bool {
        Arc::ptr_eq(first, second)
    }

    fn create_syncobj(&self, signalled: bool) -> Result<Arc<Syncobj>, Refusal> {
        let _counted = self.made(3)?;
        let fence = signalled.then(|| self.world().new_fence(Some(0)));
        Ok(Arc::new(Syncobj { fence: Mutex::new(fence), _counted }))
    }

    fn reset_syncobj(&self, syncobj: &Arc<Syncobj>) {
        *lock(&syncobj.fence) = None;
    }

    fn signal_syncobj(&self, syncobj: &Arc<Syncobj>, point: u64) -> Result<(), Refusal> {
        let fence = self.world().new_fence(Some(0));
        self.put_fence(syncobj, point, &fence)
    }

    fn put_fence(&self, syncobj: &Arc<Syncobj>, point: u64, fence: &usize) -> Result<(), Refusal> {
        assert_eq!(point, 0, "only binary objects are simulated");
        *lock(&syncobj.fence) = Some(*fence);
        Ok(())
    }

    fn syncobj_fence(&self, syncobj: &Arc<Syncobj>, _point: u64) -> Option<usize> {
        *lock(&syncobj.fence)
    }

    fn syncobj_point(&self, _syncobj: &Arc<Syncobj>, _submitted: bool) -> u64 {
        0
    }
}

/// Position among the engines of a Kaby Lake GT3.
fn index_of(engine: EngineId) -> usize {
    match (engine.class, engine.instance) {
        (0, 0) => 0,
        (1, 0) => 1,
        (2, 0) => 2,
        (2, 1) => 3,
        (3, 0) => 4,
        _ => panic!("there is no engine {engine:?}"),
    }
}

/// A test that failed with a lock held has said so; what it says next is worth hearing too.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
