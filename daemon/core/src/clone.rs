//! CLONE, which kernels dropped in 5.14 and we keep (rule table §16): copies recorded parameters
//! from another context of the same session, proto or live.
//!
//! Two things differ from the old kernels, both because this daemon faces clients it does not
//! trust. Privilege is checked again: FLAGS with BANNABLE clear and SCHEDATTR above 0 need what
//! SETPARAM would need. And what could not be set cannot be cloned either: a protected context does
//! not become recoverable, a SINGLE_TIMELINE context does not get a parallel slot.

use std::sync::Arc;

use gpu_broker_protocol::param::{CloneFrom, clone_flag};
use gpu_broker_protocol::{Reason, Refusal};

use crate::context::{Proto, UserEngines};
use crate::engines::{has_parallel, slot_class};
use crate::hands::Hands;
use crate::set::Rules;

/// Checks what does not depend on the source.
///
/// # Errors
/// EINVAL for unknown bits, EINVAL for a reserved field that is not 0.
pub(crate) fn check(node: &CloneFrom) -> Result<(), Refusal> {
    if node.flags & !clone_flag::ALL != 0 {
        return Err(Reason::CloneFlags.into());
    }
    if node.rsvd != 0 {
        return Err(Reason::ReservedNotZero.into());
    }
    Ok(())
}

impl Rules<'_> {
    /// Copies what the bits name, lowest bit first; stops at the first error, and the caller
    /// discards the destination then.
    ///
    /// # Errors
    /// EPERM for FLAGS or SCHEDATTR that the session may not set; EINVAL for SSEU between maps that
    /// differ, and for a parallel slot that would meet a single timeline.
    pub(crate) fn clone_into<H: Hands>(
        &self,
        to: &mut Proto<H>,
        from: &Proto<H>,
        flags: u32,
    ) -> Result<(), Refusal> {
        if flags & clone_flag::ENGINES != 0 {
            let copy = |engines: &UserEngines| UserEngines {
                slots: Arc::clone(&engines.slots),
                cloned: true,
            };
            to.engines = from.engines.as_ref().map(copy);
            to.sseu = crate::sseu::SseuConfigs::default();
            check_timeline(to)?;
        }
        if flags & clone_flag::FLAGS != 0 {
            self.clone_flags(to, from)?;
        }
        if flags & clone_flag::SCHEDATTR != 0 {
            self.may_have_priority(from.priority)?;
            to.priority = from.priority;
        }
        if flags & clone_flag::SSEU != 0 {
            if !same_classes(to, from) {
                return Err(Reason::CloneEngines.into());
            }
            to.sseu = from.sseu.clone();
        }
        if flags & clone_flag::TIMELINE != 0 && from.timeline.is_some() {
            to.timeline.clone_from(&from.timeline);
            check_timeline(to)?;
        }
        if flags & clone_flag::VM != 0 && from.vm.is_some() {
            to.vm.clone_from(&from.vm);
        }
        Ok(())
    }

    fn clone_flags<H: Hands>(&self, to: &mut Proto<H>, from: &Proto<H>) -> Result<(), Refusal> {
        if !from.flags.bannable {
            self.may_clear_bannable()?;
        }
        if to.protected && (from.flags.recoverable || !from.flags.bannable) {
            return Err(Reason::ProtectedPermission.into());
        }
        to.flags = from.flags;
        Ok(())
    }
}

fn check_timeline<H: Hands>(proto: &Proto<H>) -> Result<(), Refusal> {
    if proto.timeline.is_some() && proto.slots().is_some_and(has_parallel) {
        return Err(Reason::ParallelSingleTimeline.into());
    }
    Ok(())
}

/// Equal length and equal class per slot; the legacy map equals itself.
fn same_classes<H: Hands>(a: &Proto<H>, b: &Proto<H>) -> bool {
    match (a.slots(), b.slots()) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().map(slot_class).eq(b.iter().map(slot_class)),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::hands::{
        BufferMemory, Caching, ClassTimes, ContextSpec, Submission, Submitted, Update,
    };
    use crate::policy::Privileges;

    /// Never asked for anything: CLONE is all records.
    struct Idle;

    impl Hands for Idle {
        type Vm = ();
        type Context = ();
        type Buffer = ();
        type Fence = ();
        type Syncobj = ();
        type UserMemory = ();

        fn create_vm(&self) -> Result<(), Refusal> {
            unreachable!()
        }
        fn unbind(&self, (): &(), _: u64, _: u64) {}
        fn create_context(&self, _: &ContextSpec<'_, ()>) -> Result<(), Refusal> {
            unreachable!()
        }
        fn update_context(&self, (): &(), _: Update) -> Result<(), Refusal> {
            unreachable!()
        }
        fn close_context(&self, (): (), _: bool) {}
        fn cancel_context(&self, (): &()) {}
        fn engine_times(&self) -> ClassTimes {
            ClassTimes::default()
        }
        fn context_times(&self, (): &()) -> Option<ClassTimes> {
            Some(ClassTimes::default())
        }
        fn buffer_memory(&self, (): &()) -> BufferMemory {
            BufferMemory::default()
        }
        fn create_buffer(&self, _: u64) -> Result<(), Refusal> {
            unreachable!()
        }
        fn is_pending(&self, (): &()) -> bool {
            unreachable!()
        }
        fn set_caching(&self, (): &(), _: Caching) -> Result<(), Refusal> {
            unreachable!()
        }
        fn create_userptr(&self, (): &(), _: u64, _: u64, _: bool) -> Result<(), Refusal> {
            unreachable!()
        }
        fn pin_userptr(&self, (): &()) -> Result<(), Refusal> {
            unreachable!()
        }
        fn is_busy(&self, (): &()) -> bool {
            false
        }
        fn submit(&self, (): &(), _: &Submission<'_, Self>) -> Result<Submitted<()>, Refusal> {
            unreachable!()
        }
        fn same_buffer(&self, (): &(), (): &()) -> bool {
            true
        }
        fn create_syncobj(&self, _: bool) -> Result<(), Refusal> {
            unreachable!()
        }
        fn reset_syncobj(&self, (): &()) {}
        fn signal_syncobj(&self, (): &(), _: u64) -> Result<(), Refusal> {
            unreachable!()
        }
        fn put_fence(&self, (): &(), _: u64, (): &()) -> Result<(), Refusal> {
            unreachable!()
        }
        fn syncobj_fence(&self, (): &(), _: u64) -> Option<()> {
            None
        }
        fn syncobj_point(&self, (): &(), _: bool) -> u64 {
            0
        }
    }

    /// The privileges of a class change while its contexts live.
    #[test]
    fn what_may_not_be_set_may_not_be_cloned() {
        let caps = Capabilities::kaby_lake_gt3();
        let mut source = Proto::<Idle>::new(&caps, false);
        source.flags.bannable = false;
        source.priority = 1;
        let clone = |privileges, flags| {
            let mut to = Proto::<Idle>::new(&caps, false);
            let class = std::sync::Arc::<crate::class::Class>::from(privileges);
            let rules = Rules { caps: &caps, privileges, class: &class };
            rules.clone_into(&mut to, &source, flags).map_err(|refusal| refusal.reason)
        };
        let nobody = Privileges::NONE;
        let admin = Privileges { clear_bannable: true, ..nobody };
        let nice = Privileges { priority_max: 1, ..nobody };
        assert_eq!(clone(nobody, clone_flag::FLAGS), Err(Reason::BannablePrivilege));
        assert_eq!(clone(admin, clone_flag::FLAGS), Ok(()));
        assert_eq!(clone(admin, clone_flag::SCHEDATTR), Err(Reason::PriorityPrivilege));
        assert_eq!(clone(nice, clone_flag::SCHEDATTR), Ok(()));
    }
}
