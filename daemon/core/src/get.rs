//! GETPARAM (rule table §4.1) and GET_RESET_STATS (§11): both make a proto live first.

use std::sync::Arc;

use gpu_broker_protocol::message::{ContextParamRequest, ContextResetStats, ResetStats};
use gpu_broker_protocol::param::{ContextParam, ParamValue, Sseu, number};
use gpu_broker_protocol::status::MaterialisedBy;
use gpu_broker_protocol::{Reason, Refusal};

use crate::context::Live;
use crate::hands::Hands;
use crate::session::Session;
use crate::sseu;

impl<H: Hands> Session<H> {
    /// i915 CONTEXT_GETPARAM. Materialises the context, even for a parameter that does not exist:
    /// the kernel looks the context up before it looks at the parameter (rule table §0.1).
    ///
    /// # Errors
    /// ENOENT for an unknown context; what materialisation says; EINVAL for a parameter that cannot
    /// be read; VM: ENODEV without separate address spaces, ENOMEM at the limit of VM handles;
    /// SSEU: EINVAL for a size between 1 and 31 or a selector that names no engine.
    pub fn context_get_param(
        &self,
        request: &ContextParamRequest,
    ) -> Result<ContextParam, Refusal> {
        let live = self.lookup(request.context, MaterialisedBy::GetParam)?.live;
        let flags = live.flags();
        let value = match request.param.param {
            number::GTT_SIZE => self.caps.gtt_bytes,
            number::NO_ERROR_CAPTURE => flags.no_error_capture.into(),
            number::BANNABLE => flags.bannable.into(),
            number::RECOVERABLE => flags.recoverable.into(),
            number::PERSISTENCE => flags.persistent.into(),
            number::PROTECTED_CONTENT => live.protected.into(),
            number::PRIORITY => i64::from(live.priority()).cast_unsigned(),
            number::SSEU => return self.get_sseu(&live, &request.param),
            number::VM => self.get_vm(&live)?,
            other => {
                let detail = format!("parameter {other:#x} cannot be read");
                return Err(Refusal::new(Reason::ParamUnknown).with_detail(detail));
            }
        };
        Ok(ContextParam::scalar(request.param.param, value))
    }

    /// A new handle each time, which the caller has to destroy.
    fn get_vm(&self, live: &Live<H>) -> Result<u64, Refusal> {
        if !self.caps.full_ppgtt {
            return Err(Reason::VmUnsupported.into());
        }
        let id = self.memory.lock().insert_vm(Arc::clone(&live.vm))?;
        Ok(id.0.into())
    }

    fn get_sseu(&self, live: &Live<H>, param: &ContextParam) -> Result<ContextParam, Refusal> {
        if param.size == 0 {
            let value = ParamValue::Scalar(0);
            return Ok(ContextParam { param: number::SSEU, size: Sseu::BYTES, value });
        }
        if param.size < Sseu::BYTES {
            return Err(Reason::ParamSize.into());
        }
        let selector = sseu::fields(param)?;
        let (slot, class) = sseu::live_slot(&self.caps, live.engines.as_deref(), selector)?;
        let set = live.sseu.lock().get(slot);
        Ok(ContextParam::sseu(sseu::describe(&self.caps, class, set, selector)))
    }

    /// i915 GET_RESET_STATS.
    ///
    /// `batch_pending` counts innocent work that a reset hit while it ran, and that ran again. A
    /// device that resets one engine at a time hits nobody but the guilty, so it stays 0 there.
    ///
    /// # Errors
    /// EINVAL for flags or pad; ENOENT for an unknown context; what materialisation says.
    pub fn context_reset_stats(&self, request: &ContextResetStats) -> Result<ResetStats, Refusal> {
        if request.flags != 0 || request.pad != 0 {
            return Err(Reason::ReservedNotZero.into());
        }
        let live = self.lookup(request.context, MaterialisedBy::ResetStats)?.live;
        let reset_count = if self.sees_device_resets() { self.registry.resets() } else { 0 };
        Ok(ResetStats {
            reset_count,
            batch_active: live.hangs.guilty(),
            batch_pending: live.hangs.innocent(),
        })
    }

    /// Whether GET_RESET_STATS tells how often the device was reset. How often others hang it is not for
    /// everybody to know (rule table §15).
    #[must_use]
    pub fn sees_device_resets(&self) -> bool {
        self.class.privileges().reset_count
    }
}
