//! What a context is: a record of parameters while it is a proto, an object of the device with a
//! few things that may still change once it is live.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use gpu_broker_protocol::status::MaterialisedBy;
use gpu_broker_protocol::{ContextId, Refusal, limits};

use crate::ban::HangHistory;
use crate::capabilities::Capabilities;
use crate::hands::{Hands, Slot};
use crate::memory::Vm;
use crate::sseu::SseuConfigs;
use crate::sync::Mutex;

/// Bits of a tag that hold the context's id; the rest is a serial number. So a completion finds its
/// context without a table of tags, and does not take a new context for an old one of the same id.
const TAG_ID_BITS: u32 = 16;
const _: () = assert!(limits::CONTEXTS_PER_SESSION_MAX < 1 << TAG_ID_BITS);

pub(crate) const fn tag(id: ContextId, serial: u64) -> u64 {
    serial << TAG_ID_BITS | id.0 as u64
}

/// The id that the context had when it was materialised.
#[must_use]
pub const fn id_of_tag(tag: u64) -> ContextId {
    ContextId((tag & ((1 << TAG_ID_BITS) - 1)) as u32)
}

/// The boolean parameters that CLONE calls FLAGS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UserFlags {
    pub(crate) no_error_capture: bool,
    pub(crate) bannable: bool,
    pub(crate) recoverable: bool,
    pub(crate) persistent: bool,
}

impl UserFlags {
    const fn to_bits(self) -> u8 {
        self.no_error_capture as u8
            | (self.bannable as u8) << 1
            | (self.recoverable as u8) << 2
            | (self.persistent as u8) << 3
    }

    const fn from_bits(bits: u8) -> Self {
        Self {
            no_error_capture: bits & 1 != 0,
            bannable: bits & 2 != 0,
            recoverable: bits & 4 != 0,
            persistent: bits & 8 != 0,
        }
    }
}

/// The fence every submission of a SINGLE_TIMELINE context waits for and replaces. CLONE shares it
/// between contexts, which is why it is kept here and not left to the device (rule table §16).
pub(crate) struct Timeline<H: Hands> {
    pub(crate) last: Mutex<Option<H::Fence>>,
}

impl<H: Hands> Timeline<H> {
    /// Lets go of a fence that nobody has to wait for any more: to a device it may be an fd.
    pub(crate) fn forget_ended(&self, hands: &H) {
        // Whoever holds it submits, and replaces the fence.
        let Some(mut last) = self.last.try_lock() else { return };
        let ended = last.take_if(|fence| !hands.is_pending(fence));
        drop(last);
        drop(ended);
    }
}

/// An engine map, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct UserEngines {
    pub(crate) slots: Arc<[Slot]>,
    /// CLONE put it there: SETPARAM may still replace it, once.
    pub(crate) cloned: bool,
}

/// A proto-context: everything a context can be told before it exists.
pub(crate) struct Proto<H: Hands> {
    /// `None`: a private one is made on materialisation.
    pub(crate) vm: Option<Arc<Vm<H>>>,
    /// `None`: the legacy map.
    pub(crate) engines: Option<UserEngines>,
    pub(crate) sseu: SseuConfigs,
    pub(crate) flags: UserFlags,
    pub(crate) priority: i32,
    pub(crate) timeline: Option<Arc<Timeline<H>>>,
    pub(crate) protected: bool,
    pub(crate) low_latency: bool,
}

impl<H: Hands> Clone for Proto<H> {
    fn clone(&self) -> Self {
        Self {
            vm: self.vm.clone(),
            engines: self.engines.clone(),
            sseu: self.sseu.clone(),
            flags: self.flags,
            priority: self.priority,
            timeline: self.timeline.clone(),
            protected: self.protected,
            low_latency: self.low_latency,
        }
    }
}

impl<H: Hands> Proto<H> {
    /// Defaults of rule table §1.
    pub(crate) fn new(caps: &Capabilities, single_timeline: bool) -> Self {
        Self {
            vm: None,
            engines: None,
            sseu: SseuConfigs::default(),
            flags: UserFlags {
                no_error_capture: false,
                bannable: true,
                recoverable: true,
                persistent: caps.hangcheck,
            },
            priority: 0,
            timeline: single_timeline.then(|| Arc::new(Timeline { last: Mutex::new(None) })),
            protected: false,
            low_latency: false,
        }
    }

    pub(crate) fn slots(&self) -> Option<&[Slot]> {
        self.engines.as_ref().map(|engines| &*engines.slots)
    }
}

/// A live context. Whoever looked it up holds it; the device's object is closed when the last of
/// them lets go, so a submission never races the close.
pub(crate) struct Live<H: Hands> {
    pub(crate) tag: u64,
    pub(crate) by: MaterialisedBy,
    pub(crate) engines: Option<Arc<[Slot]>>,
    pub(crate) timeline: Option<Arc<Timeline<H>>>,
    pub(crate) protected: bool,
    pub(crate) low_latency: bool,
    pub(crate) sseu: Mutex<SseuConfigs>,
    pub(crate) hangs: HangHistory,
    flags: AtomicU8,
    priority: AtomicI32,
    /// `None` only while it is being dropped.
    device: Option<H::Context>,
    hands: Arc<H>,
    /// After `device`: the address space outlives the context on the device.
    pub(crate) vm: Arc<Vm<H>>,
}

/// What a live context is made of.
pub(crate) struct Parts<'a, H: Hands> {
    pub(crate) tag: u64,
    pub(crate) by: MaterialisedBy,
    pub(crate) proto: &'a Proto<H>,
    pub(crate) vm: Arc<Vm<H>>,
    pub(crate) device: H::Context,
    pub(crate) hands: Arc<H>,
}

impl<H: Hands> Live<H> {
    pub(crate) fn new(parts: Parts<'_, H>) -> Self {
        let Parts { tag, by, proto, vm, device, hands } = parts;
        Self {
            tag,
            by,
            engines: proto.engines.as_ref().map(|engines| Arc::clone(&engines.slots)),
            timeline: proto.timeline.clone(),
            protected: proto.protected,
            low_latency: proto.low_latency,
            sseu: Mutex::new(proto.sseu.clone()),
            hangs: HangHistory::new(),
            flags: AtomicU8::new(proto.flags.to_bits()),
            priority: AtomicI32::new(proto.priority),
            device: Some(device),
            hands,
            vm,
        }
    }

    pub(crate) fn flags(&self) -> UserFlags {
        UserFlags::from_bits(self.flags.load(Ordering::Relaxed))
    }

    /// Changes the flags in one step.
    pub(crate) fn change_flags(&self, change: impl Fn(&mut UserFlags)) {
        let changed = |bits| {
            let mut flags = UserFlags::from_bits(bits);
            change(&mut flags);
            Some(flags.to_bits())
        };
        // The closure always answers `Some`, so there is no error to look at.
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority.load(Ordering::Relaxed)
    }

    pub(crate) fn set_priority(&self, priority: i32) {
        self.priority.store(priority, Ordering::Relaxed);
    }

    /// Asks something of the device with the context's object there.
    ///
    /// # Errors
    /// What `f` says.
    pub(crate) fn on_device<T>(
        &self,
        f: impl FnOnce(&H, &H::Context) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        match &self.device {
            Some(device) => f(&self.hands, device),
            // Nobody can hold a context that is being dropped.
            None => Err(gpu_broker_protocol::Reason::NoSuchContext.into()),
        }
    }

    /// The parameters as a proto would have them, for CLONE.
    pub(crate) fn to_proto(&self) -> Proto<H> {
        let engines = self.engines.as_ref();
        Proto {
            vm: Some(Arc::clone(&self.vm)),
            engines: engines.map(|slots| UserEngines { slots: Arc::clone(slots), cloned: false }),
            sseu: self.sseu.lock().clone(),
            flags: self.flags(),
            priority: self.priority(),
            timeline: self.timeline.clone(),
            protected: self.protected,
            low_latency: self.low_latency,
        }
    }
}

impl<H: Hands> Drop for Live<H> {
    /// Rule table §9: persistent work runs to completion, all else is revoked. That nothing persists
    /// where hangs are not looked for needs no test here: it cannot be set there.
    fn drop(&mut self) {
        let cancel = !self.flags().persistent;
        if let Some(device) = self.device.take() {
            self.hands.close_context(device, cancel);
        }
    }
}
