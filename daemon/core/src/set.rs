//! SETPARAM on protos and on live contexts (rule table §4).

use std::sync::Arc;

use gpu_broker_protocol::param::{ContextParam, ParamValue, number};
use gpu_broker_protocol::{Reason, Refusal, VmId};

use crate::capabilities::Capabilities;
use crate::class::Class;
use crate::context::{Live, Proto, UserEngines};
use crate::engines;
use crate::hands::{Hands, Update};
use crate::memory::Vm;
use crate::policy::Privileges;
use crate::sseu::{self, SseuConfigs};

const PRIORITY_MAX: i64 = crate::policy::PRIORITY_MAX as i64;

/// What a parameter is judged by, beside the context.
pub(crate) struct Rules<'a> {
    pub(crate) caps: &'a Capabilities,
    pub(crate) privileges: Privileges,
    /// Named in refusals.
    pub(crate) class: &'a Class,
}

/// The value of a scalar parameter.
///
/// # Errors
/// EFAULT when a structure came instead. Asked for where the kernel reads the value, so that the
/// order of errors stays the kernel's.
fn scalar(param: &ContextParam) -> Result<u64, Refusal> {
    match param.value {
        ParamValue::Scalar(value) => Ok(value),
        ParamValue::Sseu(_) | ParamValue::Engines(_) => Err(Reason::ParamPayload.into()),
    }
}

/// The value of a scalar parameter whose size must be 0.
fn sized_scalar(param: &ContextParam) -> Result<u64, Refusal> {
    if param.size != 0 {
        let detail = format!("{} bytes, not 0", param.size);
        return Err(Refusal::new(Reason::ParamSize).with_detail(detail));
    }
    scalar(param)
}

fn unknown(param: u64) -> Refusal {
    Refusal::new(Reason::ParamUnknown).with_detail(format!("parameter {param:#x}"))
}

/// The policy allows it, but the kernel would ask the daemon for a capability that it gave up.
/// Refused here, and not when the context is made with everything that was set before.
fn beyond_the_daemon(reason: Reason, capability: &str) -> Refusal {
    Refusal::new(reason)
        .with_detail(format!("the policy allows it, but the daemon runs without {capability}"))
}

impl Rules<'_> {
    /// BANNABLE: EINVAL for a size; EPERM to clear it without the privilege, or at all on a
    /// protected context.
    fn bannable(&self, param: &ContextParam, protected: bool) -> Result<bool, Refusal> {
        let on = sized_scalar(param)? != 0;
        if !on {
            self.may_clear_bannable()?;
        }
        if !on && self.caps.kernel.is_some() {
            return Err(beyond_the_daemon(Reason::BannablePrivilege, "CAP_SYS_ADMIN"));
        }
        if !on && protected {
            return Err(Reason::ProtectedPermission.into());
        }
        Ok(on)
    }

    /// RECOVERABLE: EINVAL for a size; EPERM to set it on a protected context.
    fn recoverable(param: &ContextParam, protected: bool) -> Result<bool, Refusal> {
        let on = sized_scalar(param)? != 0;
        if on && protected { Err(Reason::ProtectedPermission.into()) } else { Ok(on) }
    }

    /// PRIORITY: EINVAL for a size, ENODEV without priorities, EINVAL out of range, EPERM above 0
    /// without the privilege.
    fn priority(&self, param: &ContextParam) -> Result<i32, Refusal> {
        let value = sized_scalar(param)?.cast_signed();
        if !self.caps.has_priority {
            return Err(Reason::PriorityUnsupported.into());
        }
        let in_range = (-PRIORITY_MAX..=PRIORITY_MAX).contains(&value);
        let Some(priority) = i32::try_from(value).ok().filter(|_| in_range) else {
            return Err(Refusal::new(Reason::PriorityRange).with_detail(value.to_string()));
        };
        self.may_have_priority(priority)?;
        Ok(priority)
    }

    /// EPERM outside what the class may have, which is up to 0 unless it was given more.
    pub(crate) fn may_have_priority(&self, priority: i32) -> Result<(), Refusal> {
        let Privileges { priority_min, priority_max, .. } = self.privileges;
        let refuse = |key, value| Err(self.class.refuse(Reason::PriorityPrivilege, key, value));
        if priority > priority_max.into() {
            return refuse("priority_max", priority_max);
        }
        if priority < priority_min.into() {
            return refuse("priority_min", priority_min);
        }
        if priority > 0 && self.caps.kernel.is_some() {
            return Err(beyond_the_daemon(Reason::PriorityPrivilege, "CAP_SYS_NICE"));
        }
        Ok(())
    }

    /// EPERM without the privilege.
    pub(crate) fn may_clear_bannable(&self) -> Result<(), Refusal> {
        if self.privileges.clear_bannable {
            return Ok(());
        }
        Err(self.class.refuse(Reason::BannablePrivilege, "clear_bannable", false))
    }

    /// PERSISTENCE: EINVAL to ask for it without hang checking; ENODEV to do without it on a device
    /// that can neither preempt nor reset single engines.
    fn persistence(&self, persistent: bool) -> Result<(), Refusal> {
        if persistent && !self.caps.hangcheck {
            return Err(Reason::PersistenceNeedsHangcheck.into());
        }
        let can_revoke = self.caps.has_preemption && self.caps.has_engine_reset;
        if !persistent && !can_revoke {
            return Err(Reason::PersistenceUnsupported.into());
        }
        Ok(())
    }

    /// SETPARAM on a proto. Leaves it as it was on error. `vm` finds a VM by its handle.
    ///
    /// # Errors
    /// Rule table §4, column "on P".
    pub(crate) fn set_on_proto<H: Hands>(
        &self,
        proto: &mut Proto<H>,
        param: &ContextParam,
        vm: impl FnOnce(VmId) -> Result<Arc<Vm<H>>, Refusal>,
    ) -> Result<(), Refusal> {
        match param.param {
            number::NO_ERROR_CAPTURE => proto.flags.no_error_capture = sized_scalar(param)? != 0,
            number::BANNABLE => proto.flags.bannable = self.bannable(param, proto.protected)?,
            number::RECOVERABLE => {
                proto.flags.recoverable = Self::recoverable(param, proto.protected)?;
            }
            number::PRIORITY => proto.priority = self.priority(param)?,
            number::SSEU => {
                let payload = sseu::payload(self.caps, param)?;
                let slot = sseu::proto_slot(proto.slots(), payload)?;
                proto.sseu.set(sseu::config(self.caps, slot, payload)?);
            }
            number::VM => proto.vm = Some(self.vm(param, vm)?),
            number::ENGINES => self.set_engines(proto, param)?,
            number::PERSISTENCE => {
                let persistent = sized_scalar(param)? != 0;
                self.persistence(persistent)?;
                proto.flags.persistent = persistent;
            }
            number::PROTECTED_CONTENT => self.set_protected(proto, param)?,
            // Neither size nor value is looked at: asking for it switches it on, whatever the
            // value, and nothing switches it off (rule table §0.5). A client that writes 0 to be
            // sure gets what the kernel would give it.
            number::LOW_LATENCY if self.caps.low_latency => proto.low_latency = true,
            number::LOW_LATENCY => return Err(Reason::LowLatencyUnsupported.into()),
            other => return Err(unknown(other)),
        }
        Ok(())
    }

    /// VM: EINVAL for a size, ENODEV without separate address spaces, ENOENT for an unknown id or
    /// for one that does not fit in 32 bits.
    fn vm<H: Hands>(
        &self,
        param: &ContextParam,
        vm: impl FnOnce(VmId) -> Result<Arc<Vm<H>>, Refusal>,
    ) -> Result<Arc<Vm<H>>, Refusal> {
        let value = sized_scalar(param)?;
        if !self.caps.full_ppgtt {
            return Err(Reason::VmUnsupported.into());
        }
        vm(VmId(u32::try_from(value).map_err(|_| Reason::NoSuchVm)?))
    }

    /// ENGINES. A map can be set once; one that CLONE brought does not count, so that a SETPARAM
    /// node after a CLONE node overrides it (rule table §16). What was configured for slots of the
    /// map before goes with it.
    fn set_engines<H: Hands>(
        &self,
        proto: &mut Proto<H>,
        param: &ContextParam,
    ) -> Result<(), Refusal> {
        if proto.engines.as_ref().is_some_and(|engines| !engines.cloned) {
            return Err(Reason::EnginesAlreadySet.into());
        }
        let ParamValue::Engines(map) = &param.value else {
            return Err(Reason::ParamPayload.into());
        };
        let slots = engines::build(self.caps, map, param.size, proto.timeline.is_some())?;
        proto.engines = Some(UserEngines { slots: slots.into(), cloned: false });
        proto.sseu = SseuConfigs::default();
        Ok(())
    }

    /// PROTECTED_CONTENT: ENODEV without PXP; EPERM unless bannable and not recoverable.
    fn set_protected<H: Hands>(
        &self,
        proto: &mut Proto<H>,
        param: &ContextParam,
    ) -> Result<(), Refusal> {
        let on = scalar(param)? != 0;
        if on && !self.caps.pxp {
            return Err(Reason::ProtectedUnsupported.into());
        }
        if on && (proto.flags.recoverable || !proto.flags.bannable) {
            return Err(Reason::ProtectedPermission.into());
        }
        proto.protected = on;
        Ok(())
    }

    /// SETPARAM on a live context. The device is told first; if it refuses, the record stays.
    ///
    /// # Errors
    /// Rule table §4, column "on L", or the device's refusal.
    pub(crate) fn set_on_live<H: Hands>(
        &self,
        live: &Live<H>,
        param: &ContextParam,
    ) -> Result<(), Refusal> {
        let tell = |update| live.on_device(|hands, context| hands.update_context(context, update));
        match param.param {
            number::NO_ERROR_CAPTURE => {
                let off = sized_scalar(param)? != 0;
                tell(Update::ErrorCapture(!off))?;
                live.change_flags(|flags| flags.no_error_capture = off);
            }
            number::BANNABLE => {
                let on = self.bannable(param, live.protected)?;
                tell(Update::Bannable(on))?;
                live.change_flags(|flags| flags.bannable = on);
            }
            number::RECOVERABLE => {
                let on = Self::recoverable(param, live.protected)?;
                tell(Update::Recoverable(on))?;
                live.change_flags(|flags| flags.recoverable = on);
            }
            number::PRIORITY => {
                let priority = self.priority(param)?;
                tell(Update::Priority(priority))?;
                live.set_priority(priority);
            }
            number::PERSISTENCE => {
                let persistent = sized_scalar(param)? != 0;
                // What is so already needs no capability, unlike on a proto (rule table §0.7).
                if live.flags().persistent != persistent {
                    self.persistence(persistent)?;
                    tell(Update::Persistent(persistent))?;
                    live.change_flags(|flags| flags.persistent = persistent);
                }
            }
            number::SSEU => self.set_live_sseu(live, param)?,
            number::VM | number::ENGINES | number::PROTECTED_CONTENT | number::LOW_LATENCY => {
                return Err(Reason::ParamFrozen.into());
            }
            other => return Err(unknown(other)),
        }
        Ok(())
    }

    /// SSEU on a live context: an engine that is known but not a render engine is ENODEV here,
    /// EINVAL on a proto.
    fn set_live_sseu<H: Hands>(&self, live: &Live<H>, param: &ContextParam) -> Result<(), Refusal> {
        let payload = sseu::payload(self.caps, param)?;
        let (slot, class) = sseu::live_slot(self.caps, live.engines.as_deref(), payload)?;
        if class != gpu_broker_protocol::param::class::RENDER {
            return Err(Reason::SseuUnsupported.into());
        }
        let config = sseu::config(self.caps, slot, payload)?;
        let update = Update::Sseu(config);
        live.on_device(|hands, context| hands.update_context(context, update))?;
        live.sseu.lock().set(config);
        Ok(())
    }
}
