//! Classes of sessions: what all sessions of one class may hold together, and what each of them may.
//!
//! A container is a class, not a process: its limits count what every session in it has. So the
//! counts are shared, atomic, and given back on every path: what a session has made is released by
//! the table that held it, work in flight by [`InFlight`], everything else by a [`Hold`].
//!
//! Limits and privileges may change at any time, from any thread. What was charged before stays
//! charged: a class above its new limit makes nothing more until enough was given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use gpu_broker_protocol::{Reason, Refusal};

use crate::policy::Privileges;

/// What a class is limited in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resource {
    /// Connections.
    Sessions,
    /// Contexts, proto or live, default ones not counted.
    Contexts,
    /// VM handles.
    Vms,
    /// Buffers.
    Buffers,
    /// Bytes of buffers.
    BufferMemory,
    /// Bytes of application memory lent to the GPU.
    UserptrMemory,
    /// Submissions that have not completed, those of closed sessions included.
    Submissions,
}

impl Resource {
    /// All of them; the position is the index into [`ClassLimits`].
    pub const ALL: [Self; 7] = [
        Self::Sessions,
        Self::Contexts,
        Self::Vms,
        Self::Buffers,
        Self::BufferMemory,
        Self::UserptrMemory,
        Self::Submissions,
    ];

    /// The key in the configuration, in refusals and in metrics.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Contexts => "contexts",
            Self::Vms => "vms",
            Self::Buffers => "buffers",
            Self::BufferMemory => "buffer_memory_bytes",
            Self::UserptrMemory => "userptr_memory_bytes",
            Self::Submissions => "submissions_in_flight",
        }
    }

    /// The resource with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.key() == key)
    }

    /// Why a client is refused more of it.
    const fn reason(self) -> Reason {
        match self {
            Self::Sessions => Reason::Denied,
            Self::Contexts => Reason::ContextLimit,
            Self::Vms => Reason::VmLimit,
            Self::Buffers => Reason::BufferLimit,
            Self::BufferMemory => Reason::BufferMemoryLimit,
            Self::UserptrMemory => Reason::UserptrMemoryLimit,
            Self::Submissions => Reason::InFlightLimit,
        }
    }
}

/// The most that the sessions of a class may hold together, by resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassLimits([u64; Resource::ALL.len()]);

impl ClassLimits {
    /// No limit but those of each session.
    pub const NONE: Self = Self([u64::MAX; Resource::ALL.len()]);

    /// The limit; `u64::MAX` is none.
    #[must_use]
    pub const fn get(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    /// Changes one.
    pub const fn set(&mut self, resource: Resource, most: u64) {
        self.0[resource as usize] = most;
    }
}

/// A class: its name, what its sessions hold, and what they may.
#[derive(Debug)]
pub struct Class {
    name: Box<str>,
    held: [AtomicU64; Resource::ALL.len()],
    most: [AtomicU64; Resource::ALL.len()],
    /// [`Privileges`] in one word, so that they change in one step.
    privileges: AtomicU64,
}

impl Class {
    /// An empty class.
    #[must_use]
    pub fn new(name: &str, limits: ClassLimits, privileges: Privileges) -> Self {
        Self {
            name: name.into(),
            held: Default::default(),
            most: limits.0.map(AtomicU64::new),
            privileges: AtomicU64::new(privileges.to_word()),
        }
    }

    /// As the configuration calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What all sessions of the class hold.
    #[must_use]
    pub fn held(&self, resource: Resource) -> u64 {
        self.held[resource as usize].load(Ordering::Relaxed)
    }

    /// What they may hold together; `u64::MAX` is no limit.
    #[must_use]
    pub fn limit(&self, resource: Resource) -> u64 {
        self.most[resource as usize].load(Ordering::Relaxed)
    }

    /// Changes one limit, for what is made from now on.
    pub fn set_limit(&self, resource: Resource, most: u64) {
        self.most[resource as usize].store(most, Ordering::Relaxed);
    }

    /// What each session of the class may.
    #[must_use]
    pub fn privileges(&self) -> Privileges {
        Privileges::from_word(self.privileges.load(Ordering::Relaxed))
    }

    /// Changes what each session may, for parameters set from now on.
    pub fn set_privileges(&self, privileges: Privileges) {
        self.privileges.store(privileges.to_word(), Ordering::Relaxed);
    }

    /// Charges the class.
    ///
    /// # Errors
    /// The resource's reason, with the class and the key in the sentence.
    pub fn charge(&self, resource: Resource, amount: u64) -> Result<(), Refusal> {
        let most = self.limit(resource);
        let more = |held: u64| held.checked_add(amount).filter(|total| *total <= most);
        let held = &self.held[resource as usize];
        match held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(held) => {
                let detail = format!(
                    "class \"{}\" holds {held} of limits.{} = {most}",
                    self.name,
                    resource.key()
                );
                Err(Refusal::new(resource.reason()).with_detail(detail))
            }
        }
    }

    /// Gives back what was charged.
    pub fn release(&self, resource: Resource, amount: u64) {
        let before = self.held[resource as usize].fetch_sub(amount, Ordering::Relaxed);
        debug_assert!(before >= amount, "{} were released twice", resource.key());
    }

    /// Charges the class until the answer is dropped.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn hold(self: &Arc<Self>, resource: Resource, amount: u64) -> Result<Hold, Refusal> {
        self.charge(resource, amount)?;
        Ok(Hold { class: Arc::clone(self), resource, amount })
    }

    /// A refusal that names the class and the key of the rule.
    pub(crate) fn refuse(
        &self,
        reason: Reason,
        key: &str,
        value: impl std::fmt::Display,
    ) -> Refusal {
        let detail = format!("class \"{}\" has rights.{key} = {value}", self.name);
        Refusal::new(reason).with_detail(detail)
    }
}

impl From<Privileges> for Arc<Class> {
    /// A class of its own, without limits.
    fn from(privileges: Privileges) -> Self {
        Self::new(Class::new("default", ClassLimits::NONE, privileges))
    }
}

/// A charge, given back when it is dropped.
#[derive(Debug)]
pub struct Hold {
    class: Arc<Class>,
    resource: Resource,
    amount: u64,
}

impl Hold {
    /// Somebody else gives it back.
    pub(crate) fn keep(mut self) {
        self.amount = 0;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.class.release(self.resource, self.amount);
    }
}

/// The submissions of one session that have not completed. Shared with whoever hears of
/// completions, because work of a persistent context outlives its session; what the device never
/// reports is given back when the last of them lets go.
#[derive(Debug)]
pub struct InFlight {
    count: AtomicU32,
    class: Arc<Class>,
}

impl InFlight {
    pub(crate) fn new(class: Arc<Class>) -> Self {
        Self { count: AtomicU32::new(0), class }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// One more, if session and class have room.
    pub(crate) fn reserve(&self, limit: u32) -> Result<(), Refusal> {
        let more = |count: u32| (count < limit).then_some(count.saturating_add(1));
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            let detail = format!("session.submissions_in_flight = {limit}");
            return Err(Refusal::new(Reason::InFlightLimit).with_detail(detail));
        }
        self.class.charge(Resource::Submissions, 1).inspect_err(|_| {
            self.count.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// One less. Stops at 0 if a device reports one twice.
    pub fn release(&self) {
        let less = |count: u32| count.checked_sub(1);
        if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            self.class.release(Resource::Submissions, 1);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.class.release(Resource::Submissions, self.count().into());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn class(resource: Resource, most: u64) -> Arc<Class> {
        let mut limits = ClassLimits::NONE;
        limits.set(resource, most);
        Arc::new(Class::new("batch", limits, Privileges::NONE))
    }

    #[test]
    fn the_last_one_fits_and_the_next_is_refused_by_name() {
        for resource in Resource::ALL {
            let class = class(resource, 10);
            let first = class.hold(resource, 9).expect("room");
            let last = class.hold(resource, 1).expect("the last one fits");
            let refusal = class.hold(resource, 1).expect_err("full");
            let rule = format!("class \"batch\" holds 10 of limits.{} = 10", resource.key());
            assert!(refusal.sentence().contains(&rule), "{refusal}");
            drop(last);
            assert!(class.hold(resource, 2).is_err());
            drop(first);
            assert_eq!(class.held(resource), 0);
            assert!(class.hold(resource, u64::MAX).is_err(), "sums do not wrap");
            assert_eq!(Resource::from_key(resource.key()), Some(resource));
        }
    }

    #[test]
    fn a_class_above_a_new_limit_makes_nothing_until_enough_was_given_back() {
        let class = class(Resource::Buffers, 10);
        class.charge(Resource::Buffers, 8).expect("room");
        class.set_limit(Resource::Buffers, 3);
        assert!(class.charge(Resource::Buffers, 1).is_err());
        class.release(Resource::Buffers, 6);
        class.charge(Resource::Buffers, 1).expect("2 of 3");
        assert!(class.charge(Resource::Buffers, 1).is_err());
    }

    #[test]
    fn work_in_flight_is_charged_once_and_given_back_once() {
        let class = class(Resource::Submissions, 3);
        let [a, b] = [(), ()].map(|()| InFlight::new(Arc::clone(&class)));
        a.reserve(2).expect("room");
        a.reserve(2).expect("room");
        assert!(a.reserve(2).is_err_and(|refusal| refusal.sentence().contains("session.sub")));
        b.reserve(2).expect("the class has room for one");
        assert!(b.reserve(2).is_err_and(|refusal| refusal.sentence().contains("\"batch\"")));
        assert_eq!((b.count(), class.held(Resource::Submissions)), (1, 3));
        for _ in 0..5 {
            b.release();
        }
        assert_eq!(class.held(Resource::Submissions), 2, "what is reported twice counts once");
        drop(a);
        assert_eq!(
            class.held(Resource::Submissions),
            0,
            "nothing is left of what is never reported"
        );
    }
}
