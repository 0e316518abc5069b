//! Random histories of two sessions on one device, against a model written from the rule table.
//!
//! After every step: each id is a proto or live exactly as the model says, a VM, a buffer's memory
//! or a syncobj exists as long as something refers to it, nothing else exists on the device, and
//! what was created less what was released is what is there. proptest prints the shortest history
//! that fails and its seed. The second session is privileged.
#![expect(clippy::wildcard_enum_match_arm, reason = "each function is handed its operations only")]

mod buffers;
mod contexts;
mod exec;
mod history;
mod syncobjs;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use gpu_broker_core::{Class, Resource, Session, SessionLimits, Time};
use gpu_broker_protocol::SessionId;
use gpu_broker_protocol::status::ContextState;
use proptest::prelude::*;

use crate::fake::{Device, Fake, out_of_memory};
use crate::rig::*;
use history::{Map, Op, op};

const CONTEXTS_MAX: u32 = 6;
const VMS_MAX: u32 = 4;
const BUFFERS_MAX: u32 = 5;

/// An address space of the model: exists as long as something holds it.
type ModelVm = Rc<()>;
/// The fence of the last submission of a single timeline, which contexts may share.
type ModelTimeline = Rc<RefCell<Option<u64>>>;
/// Points and fences, rising; one entry with point 0 is a binary object.
type ModelEntries = RefCell<Vec<(u64, ModelFence)>>;
type ModelSyncobj = Rc<ModelEntries>;

/// A fence of a submission by what the device called it, or one that had signalled from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ModelFence {
    Signalled,
    Of(u64),
}

#[derive(Clone)]
struct ModelContext {
    live: bool,
    vm: Option<ModelVm>,
    map: Option<Map>,
    map_cloned: bool,
    priority: i32,
    /// By [`history::Flag`].
    flags: [bool; 4],
    timeline: Option<ModelTimeline>,
    guilty: u32,
    hangs: Vec<u64>,
    banned: bool,
    /// Tells contexts apart that had the same id.
    birth: u64,
}

#[derive(Clone)]
struct ModelBuffer {
    pages: u64,
    memory: Rc<()>,
    caching: u32,
    tiling: (u32, u32),
}

struct InFlight {
    tag: u64,
    context: u32,
    birth: u64,
    fence: u64,
}

struct ModelSession {
    contexts: BTreeMap<u32, ModelContext>,
    vms: BTreeMap<u32, ModelVm>,
    buffers: BTreeMap<u32, ModelBuffer>,
    syncobjs: BTreeMap<u32, ModelSyncobj>,
    score: u32,
    last_hang: u64,
    in_flight: Vec<InFlight>,
    privileged: bool,
}

struct World {
    device: Arc<Device>,
    registry: Arc<gpu_broker_core::Registry<Fake>>,
    classes: Vec<Arc<Class>>,
    sessions: Vec<Session<Fake>>,
    models: Vec<ModelSession>,
    vms_ever: Vec<Weak<()>>,
    memories_ever: Vec<Weak<()>>,
    syncobjs_ever: Vec<Weak<ModelEntries>>,
    signalled: Vec<u64>,
    resets: u32,
    births: u64,
    now: u64,
    fail_next: bool,
    wedged: bool,
}

fn lowest_free<T>(taken: &BTreeMap<u32, T>) -> u32 {
    (1..).find(|id| !taken.contains_key(id)).unwrap()
}

fn alive<T>(ever: &[Weak<T>]) -> i64 {
    i64::try_from(ever.iter().filter(|it| it.strong_count() > 0).count()).unwrap()
}

impl World {
    fn new() -> Self {
        let hands = Fake::default();
        let registry = Arc::default();
        let mut world = Self {
            device: Arc::clone(&hands.0),
            registry: Arc::clone(&registry),
            sessions: Vec::new(),
            classes: Vec::new(),
            models: Vec::new(),
            vms_ever: Vec::new(),
            memories_ever: Vec::new(),
            syncobjs_ever: Vec::new(),
            signalled: Vec::new(),
            resets: 0,
            births: 0,
            now: 1000,
            fail_next: false,
            wedged: false,
        };
        let limits = SessionLimits {
            contexts: CONTEXTS_MAX,
            vms: VMS_MAX,
            buffers: BUFFERS_MAX,
            ..SessionLimits::default()
        };
        for (id, may) in [(0, NOBODY), (1, ROOT)] {
            let (hands, registry) = (hands.clone(), Arc::clone(&registry));
            let (class, caps) = (Arc::<Class>::from(may), Arc::new(kbl()));
            world.classes.push(Arc::clone(&class));
            let session = Session::open(NOW, SessionId(id), hands, registry, caps, class, limits);
            world.sessions.push(session.unwrap());
            let vm = Some(world.new_vm());
            let default = ModelContext { live: true, vm, ..world.new_context() };
            world.models.push(ModelSession {
                contexts: BTreeMap::from([(0, default)]),
                vms: BTreeMap::new(),
                buffers: BTreeMap::new(),
                syncobjs: BTreeMap::new(),
                score: 0,
                last_hang: 1000,
                in_flight: Vec::new(),
                privileged: may == ROOT,
            });
        }
        world
    }

    fn new_vm(&mut self) -> ModelVm {
        let vm = Rc::new(());
        self.vms_ever.push(Rc::downgrade(&vm));
        vm
    }

    fn apply(&mut self, who: usize, op: Op) {
        match op {
            Op::VmCreate
            | Op::VmDestroy { .. }
            | Op::Create { .. }
            | Op::Clone { .. }
            | Op::Destroy { .. } => self.apply_life(who, op),
            Op::SetPriority { .. }
            | Op::SetFlag { .. }
            | Op::SetVm { .. }
            | Op::SetEngines { .. } => self.apply_set(who, op),
            Op::GetPriority { .. } | Op::GetFlag { .. } | Op::GetVm { .. } | Op::Stats { .. } => {
                self.apply_get(who, op);
            }
            Op::BufferCreate { .. } | Op::BufferClose { .. } | Op::BufferShare { .. } => {
                self.apply_buffer(who, op);
            }
            Op::SetCaching { .. } | Op::SetTiling { .. } | Op::Madvise { .. } => {
                self.apply_modes(who, op);
            }
            Op::SetDomain { .. } | Op::Access { .. } => self.apply_accesses(who, op),
            Op::Run(run) => self.run(who, &run),
            Op::End { which, guilty } => self.end(who, which, guilty),
            Op::FailNextContext => {
                *self.device.fail_context.lock().unwrap() = Some(out_of_memory());
                self.fail_next = true;
            }
            Op::Wedge { on } => {
                self.registry.set_wedged(on);
                self.wedged = on;
            }
            Op::Pass { seconds } => self.now += seconds,
            other => self.apply_syncobj(who, other),
        }
    }

    fn check(&self) {
        let mut live = 0;
        for ((session, class), model) in self.sessions.iter().zip(&self.classes).zip(&self.models) {
            let status = session.status(usize::MAX);
            let seen: Vec<_> = status
                .contexts
                .iter()
                .map(|it| {
                    let live = it.state != ContextState::Proto;
                    (it.context.0, live, it.priority, it.user_engines, it.banned)
                })
                .collect();
            let expected: Vec<_> = model
                .contexts
                .iter()
                .map(|(id, it)| (*id, it.live, it.priority, it.map.is_some(), it.banned))
                .collect();
            assert_eq!(seen, expected);
            assert_eq!(status.contexts_total as usize, expected.len());
            assert_eq!(status.vms as usize, model.vms.len());
            assert_eq!(status.buffers as usize, model.buffers.len());
            let pages: u64 = model.buffers.values().map(|buffer| buffer.pages).sum();
            assert_eq!(status.buffer_bytes, pages * 4096);
            assert_eq!(status.in_flight as usize, model.in_flight.len());
            assert_eq!(status.ban_score, model.score);
            let charged = Resource::ALL.map(|resource| class.held(resource));
            let (contexts, vms) = (expected.len() as u64 - 1, status.vms.into());
            let (buffers, work) = (status.buffers.into(), status.in_flight.into());
            let expected = [0, contexts, vms, buffers, status.buffer_bytes, 0, work];
            assert_eq!(charged, expected, "what the class is charged");
            live += model.contexts.values().filter(|context| context.live).count();
        }
        let expected =
            [alive(&self.vms_ever), i64::try_from(live).unwrap(), alive(&self.memories_ever)];
        assert_eq!(<[i64; 3]>::from(self.device.counts()), expected, "VMs, contexts, memory");
        assert_eq!(self.device.syncobjs(), alive(&self.syncobjs_ever), "syncobjs");
        assert_eq!(self.registry.live_contexts(), live);
        assert_eq!(self.registry.resets(), self.resets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_history_goes_as_the_table_says_and_nothing_outlives_its_session(
        ops in proptest::collection::vec(op(), 1..160)
    ) {
        let mut world = World::new();
        for (who, op) in ops {
            world.apply(who, op);
            world.check();
        }
        world.sessions.clear();
        for class in &world.classes {
            let charged = Resource::ALL.map(|resource| class.held(resource));
            assert_eq!(charged, [0; 7], "a class is charged for what is gone");
        }
        assert_eq!(world.device.counts(), (0, 0, 0), "something outlived its session");
        assert_eq!((world.device.syncobjs(), world.registry.live_contexts()), (0, 0));
    }
}

/// Seconds of the world's clock.
fn at(seconds: u64) -> Time {
    Time::from_secs(seconds)
}
