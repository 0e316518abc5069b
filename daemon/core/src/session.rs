//! Sessions: what an open DRM file is to the kernel.
//!
//! A [`Session`] owns its contexts, VMs, buffers and ban score; ids mean nothing outside it. The
//! daemon calls one method per request, from any thread, and [`Session::handle_completion`] for
//! each submission that the device had not answered as done. Nothing here waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use gpu_broker_protocol::limits::SYNCOBJS_PER_SESSION_MAX;
use gpu_broker_protocol::message::{
    ContextCreate, ContextCreated, ContextDestroy, ContextParamRequest, ParamSet,
};
use gpu_broker_protocol::param::{CloneFrom, CreateExtension, Extension, create_flag};
use gpu_broker_protocol::status::MaterialisedBy;
use gpu_broker_protocol::{ContextId, Reason, Refusal, SessionId};

use crate::ban::{BanScore, Verdict};
use crate::capabilities::Capabilities;
use crate::class::{Class, InFlight, Resource};
use crate::context::{self, Live, Parts, Proto};
use crate::dance::{Dance, Found};
use crate::hands::{ContextSpec, Hands, Outcome};
use crate::memory::Memory;
use crate::policy::SessionLimits;
use crate::registry::Registry;
use crate::set::Rules;
use crate::status::SessionCounts;
use crate::sync::Mutex;
use crate::syncobj::Syncobjs;
use crate::time::Time;
use crate::usage::Accounts;
use crate::userptrs::Userptrs;
use crate::{chain, clone, engines};

/// Above this graphics version the kernel makes a context live in CREATE itself (rule table §0.2).
const EAGER_ABOVE_VERSION: u16 = 12;

/// One client's contexts, VMs and buffers.
pub struct Session<H: Hands> {
    pub(crate) hands: Arc<H>,
    pub(crate) registry: Arc<Registry<H>>,
    pub(crate) caps: Arc<Capabilities>,
    pub(crate) class: Arc<Class>,
    /// Objects of one EXECBUF. Fixed, because HELLO told it and drivers build on it.
    pub(crate) objects_per_execbuf: u32,
    /// Bytes of one buffer; fixed for the same reason.
    pub(crate) buffer_bytes: u64,
    pub(crate) in_flight_limit: AtomicU32,
    pub(crate) contexts: Dance<Proto<H>, Live<H>>,
    pub(crate) memory: Mutex<Memory<H>>,
    pub(crate) userptrs: Userptrs<H>,
    pub(crate) syncobjs: Mutex<Syncobjs<H>>,
    pub(crate) score: BanScore,
    pub(crate) in_flight: Arc<InFlight>,
    /// Serial number of the next live context.
    next_serial: AtomicU64,
    /// What STATUS saw last.
    pub(crate) seen: Mutex<SessionCounts>,
    /// Its accounts when they could be looked at last.
    pub(crate) accounted: Mutex<Accounts>,
    /// Video engine of legacy submissions that leave the choice open.
    pub(crate) video: u16,
}

impl<H: Hands> Session<H> {
    /// Opens a session and makes its default context, which is live from the start. Limits above
    /// the protocol's are brought down to those.
    ///
    /// # Errors
    /// What the device says when the default context cannot be made; nothing is left behind then.
    pub fn open(
        now: Time,
        id: SessionId,
        hands: H,
        registry: Arc<Registry<H>>,
        caps: Arc<Capabilities>,
        class: impl Into<Arc<Class>>,
        limits: SessionLimits,
    ) -> Result<Self, Refusal> {
        let (limits, class) = (limits.clamped(), class.into());
        let session = Self {
            hands: Arc::new(hands),
            contexts: Dance::new(id, Arc::clone(&registry.live), limits.contexts),
            registry,
            objects_per_execbuf: limits.objects_per_execbuf,
            buffer_bytes: limits.buffer_bytes,
            in_flight_limit: AtomicU32::new(limits.submissions_in_flight),
            memory: Mutex::new(Memory::new(limits, Arc::clone(&class))),
            userptrs: Userptrs::new(),
            syncobjs: Mutex::new(Syncobjs::new(SYNCOBJS_PER_SESSION_MAX)),
            score: BanScore::new(now),
            in_flight: Arc::new(InFlight::new(Arc::clone(&class))),
            class,
            next_serial: AtomicU64::new(0),
            seen: Mutex::new(SessionCounts::default()),
            accounted: Mutex::new(Accounts::default()),
            video: u16::from(id.0 % 2 == 1 && caps.has_engine(SECOND_VIDEO)),
            caps,
        };
        let proto = session.new_proto(false);
        let live = session.materialise(ContextId::DEFAULT, &proto, MaterialisedBy::Open)?;
        session.contexts.insert_default(live);
        Ok(session)
    }

    /// What the session does its work with.
    #[must_use]
    pub fn hands(&self) -> &H {
        &self.hands
    }

    /// i915 CONTEXT_CREATE and CONTEXT_CREATE_EXT (rule table §2): all or nothing.
    ///
    /// # Errors
    /// In this order: ENODEV without logical contexts; EINVAL for unknown flags; EIO when the
    /// device is wedged or the session is banned; EINVAL for SINGLE_TIMELINE without execution
    /// lists; what the extensions say; ENOMEM at the limit of contexts.
    pub fn context_create(
        &self,
        _now: Time,
        request: &ContextCreate,
    ) -> Result<ContextCreated, Refusal> {
        if !self.caps.has_logical_contexts {
            return Err(Reason::ContextsUnsupported.into());
        }
        if request.flags & !(create_flag::USE_EXTENSIONS | create_flag::SINGLE_TIMELINE) != 0 {
            return Err(Reason::ContextFlags.into());
        }
        self.registry.check_device()?;
        if self.score.is_banned() {
            return Err(Reason::SessionBanned.into());
        }
        let single_timeline = request.flags & create_flag::SINGLE_TIMELINE != 0;
        if single_timeline && !self.caps.has_execlists {
            return Err(Reason::SingleTimelineUnsupported.into());
        }
        let mut proto = self.new_proto(single_timeline);
        if request.flags & create_flag::USE_EXTENSIONS != 0 {
            self.extend(&mut proto, &request.extensions)?;
        }
        let room = self.class.hold(Resource::Contexts, 1)?;
        let context = if self.caps.graphics_version > EAGER_ABOVE_VERSION {
            self.contexts.insert_live(|id| self.materialise(id, &proto, MaterialisedBy::Create))?
        } else {
            self.contexts.insert(proto)?
        };
        room.keep();
        Ok(ContextCreated { context })
    }

    fn extend(
        &self,
        proto: &mut Proto<H>,
        chain: &[Extension<CreateExtension>],
    ) -> Result<(), Refusal> {
        let rules = self.rules();
        chain::walk(chain, |name, body| match (name, body) {
            (CreateExtension::SET_PARAM, CreateExtension::SetParam { context, param }) => {
                if context.0 != 0 {
                    return Err(Reason::ExtensionContextId.into());
                }
                rules.set_on_proto(proto, param, |vm| self.memory.lock().vm(vm))
            }
            (CreateExtension::CLONE, CreateExtension::Clone(node)) => {
                clone::check(node)?;
                rules.clone_into(proto, &self.clone_source(node)?, node.flags)
            }
            (_, _) => Err(chain::unknown(name)),
        })
    }

    /// A copy of the source's record, taken in one step; the source stays what it is.
    fn clone_source(&self, node: &CloneFrom) -> Result<Proto<H>, Refusal> {
        let copy =
            self.contexts.with(node.source, |proto| Ok(proto.clone()), |live| Ok(live.to_proto()));
        copy.map_err(|_| Reason::CloneSource.into())
    }

    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules { caps: &self.caps, privileges: self.class.privileges(), class: &self.class }
    }

    /// Defaults of rule table §1, as far as the class may have them.
    fn new_proto(&self, single_timeline: bool) -> Proto<H> {
        let mut proto = Proto::new(&self.caps, single_timeline);
        proto.priority = self.class.privileges().default_priority();
        proto
    }

    /// i915 CONTEXT_DESTROY (rule table §8): the id is free at once, work in flight ends as §9 says.
    ///
    /// # Errors
    /// EINVAL for pad; ENOENT for the default context and for unknown ones.
    pub fn context_destroy(&self, request: &ContextDestroy) -> Result<(), Refusal> {
        if request.pad != 0 {
            return Err(Reason::ReservedNotZero.into());
        }
        let removed = self.contexts.remove(request.context)?;
        self.class.release(Resource::Contexts, 1);
        drop(removed);
        Ok(())
    }

    /// i915 CONTEXT_SETPARAM (rule table §4). Never materialises.
    ///
    /// # Errors
    /// ENOENT for an unknown context, then what the parameter's rule says.
    pub fn context_set_param(&self, request: &ContextParamRequest) -> Result<ParamSet, Refusal> {
        let rules = self.rules();
        let param = &request.param;
        self.contexts.with(
            request.context,
            |proto| rules.set_on_proto(proto, param, |vm| self.memory.lock().vm(vm)),
            |live| rules.set_on_live(live, param),
        )?;
        let size = match param.param {
            gpu_broker_protocol::param::number::SSEU => gpu_broker_protocol::param::Sseu::BYTES,
            _ => param.size,
        };
        Ok(ParamSet { size })
    }

    /// The live context of that id, made from the proto if need be.
    pub(crate) fn lookup(
        &self,
        id: ContextId,
        by: MaterialisedBy,
    ) -> Result<Found<Live<H>>, Refusal> {
        self.contexts.lookup(id, |proto| self.materialise(id, proto, by))
    }

    /// Makes the real context in one step (rule table §7). On error nothing is left of it.
    fn materialise(
        &self,
        id: ContextId,
        proto: &Proto<H>,
        by: MaterialisedBy,
    ) -> Result<Live<H>, Refusal> {
        let vm = match &proto.vm {
            Some(vm) => Arc::clone(vm),
            None => self.memory.lock().new_vm(&self.hands, &self.caps)?,
        };
        if let Some(slots) = proto.slots() {
            engines::check_siblings(slots)?;
        }
        let tag = context::tag(id, self.next_serial.fetch_add(1, Ordering::Relaxed));
        let device = self.hands.create_context(&ContextSpec {
            tag,
            vm: &vm.device,
            engines: proto.slots(),
            priority: proto.priority,
            recoverable: proto.flags.recoverable,
            bannable: proto.flags.bannable,
            persistent: proto.flags.persistent,
            error_capture: !proto.flags.no_error_capture,
            single_timeline: proto.timeline.is_some(),
            low_latency: proto.low_latency,
            sseu: proto.sseu.all(),
        })?;
        let hands = Arc::clone(&self.hands);
        Ok(Live::new(Parts { tag, by, proto, vm, device, hands }))
    }

    /// A submission has ended that the device had not answered as done; `tag` is that of its
    /// context. Call it once per submission, from any thread, also from inside a method of
    /// [`Hands`]: it takes no lock that is held around those. It may itself call
    /// [`Hands::cancel_context`] and, when it lets go of a context that was destroyed meanwhile,
    /// [`Hands::close_context`]; so a device must not report while it holds a lock that those need.
    pub fn handle_completion(&self, now: Time, tag: u64, outcome: Outcome) {
        self.in_flight.release();
        let live = self.contexts.live(context::id_of_tag(tag)).filter(|live| live.tag == tag);
        if let Some(timeline) = live.as_ref().and_then(|live| live.timeline.as_ref()) {
            timeline.forget_ended(&*self.hands);
        }
        match outcome {
            Outcome::Completed | Outcome::Cancelled => {}
            Outcome::Guilty => {
                self.registry.count_reset();
                // A closed context counts as banned already, and adds no score (§12).
                if let Some(live) = live {
                    self.hang(now, &live);
                }
            }
        }
    }

    /// A reset hit work of a context that was running, innocently; the device runs it again (rule
    /// table §12). Call it as [`Self::handle_completion`], which still follows.
    pub fn handle_replay(&self, tag: u64) {
        let live = self.contexts.live(context::id_of_tag(tag));
        if let Some(live) = live.filter(|live| live.tag == tag) {
            live.hangs.record_innocent();
        }
    }

    /// Rule table §12: what a hang does to its context and to the session.
    pub(crate) fn hang(&self, now: Time, live: &Live<H>) {
        let flags = live.flags();
        let verdict = live.hangs.record(now, flags.bannable, flags.recoverable);
        self.score.record(now, verdict);
        match verdict {
            Verdict::Spared | Verdict::Counted => {}
            Verdict::Banned => self.cancel(live),
        }
    }

    /// Ends what a banned context still has queued.
    pub(crate) fn cancel(&self, live: &Live<H>) {
        let cancelled = live.on_device(|hands, context| {
            hands.cancel_context(context);
            Ok(())
        });
        debug_assert!(cancelled.is_ok(), "a context that is held is on the device");
    }

    /// The submissions that have not completed, for whoever hears of completions after the session
    /// has ended: [`InFlight::release`] is then all there is to do.
    #[must_use]
    pub fn in_flight(&self) -> Arc<InFlight> {
        Arc::clone(&self.in_flight)
    }

    /// Changes the limits for what is made from now on. What one message may hold
    /// (`objects_per_execbuf`, `buffer_bytes`) stays as HELLO told it.
    pub fn set_limits(&self, limits: SessionLimits) {
        let limits = limits.clamped();
        self.contexts.set_limit(limits.contexts);
        self.memory.lock().set_limits(limits);
        self.in_flight_limit.store(limits.submissions_in_flight, Ordering::Relaxed);
    }

    /// As [`Self::close`], and work in flight ends now, that of persistent contexts too.
    pub fn revoke(&self) {
        self.contexts.for_each_live(|live| live.change_flags(|flags| flags.persistent = false));
        self.close();
    }

    /// The client is gone: protos are freed, live contexts closed as rule table §9 says, VMs and
    /// buffers given up. Nothing can be made in the session afterwards: its limits are zero.
    /// May be called twice; [`Drop`] calls it too.
    pub fn close(&self) {
        let (contexts, count) = self.contexts.close();
        self.class.release(Resource::Contexts, count.into());
        let nothing = SessionLimits {
            contexts: 0,
            vms: 0,
            buffers: 0,
            buffer_bytes: 0,
            buffer_memory_bytes: 0,
            userptr_memory_bytes: 0,
            objects_per_execbuf: 0,
            submissions_in_flight: 0,
        };
        let none = Memory::new(nothing, Arc::clone(&self.class));
        let memory = std::mem::replace(&mut *self.memory.lock(), none);
        let userptrs = self.userptrs.clear();
        let syncobjs = std::mem::replace(&mut *self.syncobjs.lock(), Syncobjs::new(0));
        // In this order, and after the locks: contexts before what they use.
        drop(contexts);
        drop(memory);
        drop(userptrs);
        drop(syncobjs);
    }
}

impl<H: Hands> Drop for Session<H> {
    fn drop(&mut self) {
        self.close();
    }
}

const SECOND_VIDEO: gpu_broker_protocol::param::EngineId = gpu_broker_protocol::param::EngineId {
    class: gpu_broker_protocol::param::class::VIDEO,
    instance: 1,
};
