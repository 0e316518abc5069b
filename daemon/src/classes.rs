//! The classes as they run: what their sessions hold, may and did.
//!
//! A session stays in the class it was admitted to. When the configuration is read again, classes
//! keep their counts and change what they allow; one that is no longer in the file keeps its last
//! limits until its sessions are gone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_core::{Capabilities, Class as Account, Resource};
use gpu_broker_device::{Share, Weight};

use crate::histogram::Histogram;
use crate::limiter::Limiter;
use crate::policy::{ClassRule, Policy};
use crate::rate::Rate;

/// One class.
#[derive(Debug)]
pub(crate) struct Class {
    /// What the rules charge.
    pub(crate) account: Arc<Account>,
    pub(crate) rate: Rate,
    pub(crate) counts: Counts,
    /// For its lines in the audit log.
    pub(crate) limiter: Limiter,
    /// Of engine time, against other classes; its sessions have it together.
    share: Share,
    /// The device as its sessions see it: with the engines that they may use.
    capabilities: Mutex<Arc<Capabilities>>,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sessions: AtomicU64,
    pub(crate) violations: AtomicU64,
    pub(crate) revocations: AtomicU64,
    pub(crate) hangs: AtomicU64,
    /// Requests that made their session wait for its turn.
    pub(crate) delays: AtomicU64,
    /// Refused requests by the name of the reason.
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// From a request's arrival until its reply has left.
    pub(crate) execbuf: Histogram,
    pub(crate) other: Histogram,
}

impl Counts {
    pub(crate) fn refused(&self, reason: &'static str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refusals.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One more of something.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Class {
    fn new(rule: &ClassRule, device: &Arc<Capabilities>) -> Self {
        let class = Self {
            account: Arc::new(Account::new(&rule.name, rule.limits, rule.privileges)),
            rate: Rate::default(),
            counts: Counts::default(),
            limiter: Limiter::default(),
            share: Share::new(Weight::new(rule.weight)),
            capabilities: Mutex::new(Arc::clone(device)),
        };
        class.apply(rule, device);
        class
    }

    pub(crate) fn name(&self) -> &str {
        self.account.name()
    }

    /// Worth of its sessions' share of engine time, against other classes.
    pub(crate) fn weight(&self) -> u32 {
        self.share.weight().get()
    }

    /// What its sessions have of the device together.
    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    /// The device for a session that opens now.
    pub(crate) fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what the file says; what is held stays charged.
    fn apply(&self, rule: &ClassRule, device: &Arc<Capabilities>) {
        for resource in Resource::ALL {
            self.account.set_limit(resource, rule.limits.get(resource));
        }
        self.account.set_privileges(rule.privileges);
        self.rate.set(rule.requests_per_second);
        self.share.set_weight(Weight::new(rule.weight));
        let visible = if rule.engines.is_empty() {
            Arc::clone(device)
        } else {
            let mut visible = Capabilities::clone(device);
            visible.engines.retain(|engine| rule.allows(engine));
            Arc::new(visible)
        };
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = visible;
    }
}

/// All classes there are.
#[derive(Debug)]
pub(crate) struct Classes {
    device: Arc<Capabilities>,
    by_name: Mutex<BTreeMap<String, Arc<Class>>>,
}

impl Classes {
    pub(crate) fn new(policy: &Policy, device: Arc<Capabilities>) -> Self {
        let classes = Self { device, by_name: Mutex::default() };
        classes.apply(policy);
        classes
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Class>> {
        self.by_name().get(name).cloned()
    }

    /// By name.
    pub(crate) fn all(&self) -> Vec<Arc<Class>> {
        self.by_name().values().cloned().collect()
    }

    /// The policy has changed.
    pub(crate) fn apply(&self, policy: &Policy) {
        let mut by_name = self.by_name();
        by_name.retain(|name, class| {
            policy.class(name).is_some() || class.account.held(Resource::Sessions) > 0
        });
        for rule in policy.classes() {
            match by_name.get(&rule.name) {
                Some(class) => class.apply(rule, &self.device),
                None => {
                    let class = Arc::new(Class::new(rule, &self.device));
                    by_name.insert(rule.name.clone(), class);
                }
            }
        }
    }

    fn by_name(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Class>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
