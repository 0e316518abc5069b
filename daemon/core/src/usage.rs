//! The accounts of a session: engine time and memory (rule table §18).

use std::sync::Arc;

use gpu_broker_protocol::ContextId;
use gpu_broker_protocol::usage::{ClassUsage, ContextUsage, MemoryUsage};

use crate::capabilities::Capabilities;
use crate::dance::Seen;
use crate::hands::{ClassTimes, Hands};
use crate::session::Session;

/// What a session has used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accounts {
    /// Engine classes the device has, in the order of their numbers.
    pub engines: Vec<ClassUsage>,
    /// Its buffers.
    pub memory: MemoryUsage,
    /// Live contexts by id, of at most as many contexts as were asked for.
    pub contexts: Vec<ContextUsage>,
}

impl<H: Hands> Session<H> {
    /// Engine time and memory; of the first `contexts_max` contexts, those that are live. Changes
    /// nothing, materialises nothing, and waits for nobody: while a request of the session is at the
    /// device, it answers what was true before.
    #[must_use]
    pub fn accounts(&self, contexts_max: usize) -> Accounts {
        let mut last = self.accounted.lock();
        if let Some(accounts) = self.try_accounts(contexts_max) {
            *last = accounts;
        }
        last.clone()
    }

    fn try_accounts(&self, contexts_max: usize) -> Option<Accounts> {
        let classes = classes(&self.caps);
        let (contexts, _) = self.contexts.try_list(contexts_max, |context, seen| match seen {
            Seen::Proto(_) => None,
            Seen::Live(live) => {
                let times = live.on_device(|hands, device| Ok(hands.context_times(device)));
                Some((context, times.ok().flatten()))
            }
        })?;
        // The session's own after its contexts', so that these are never more.
        let times = self.hands.engine_times();
        // Nothing, not zeroes, of what the device does not tell.
        let of_context = |(context, times): (ContextId, Option<ClassTimes>)| ContextUsage {
            context,
            busy_ns: times
                .iter()
                .flat_map(|times| classes.iter().map(|(class, _)| times.of(*class)))
                .collect(),
        };
        Some(Accounts {
            contexts: contexts.into_iter().flatten().map(of_context).collect(),
            memory: self.memory_usage()?,
            engines: classes
                .iter()
                .map(|&(class, capacity)| ClassUsage { class, capacity, busy_ns: times.of(class) })
                .collect(),
        })
    }

    fn memory_usage(&self) -> Option<MemoryUsage> {
        // The device is asked after the lock.
        let buffers: Vec<_> = self.memory.try_lock()?.all_buffers().map(Arc::clone).collect();
        let mut usage = MemoryUsage::default();
        for buffer in buffers {
            let state = self.hands.buffer_memory(&buffer.device);
            let counted = |is: bool| if is { buffer.size } else { 0 };
            usage.total += buffer.size;
            usage.shared += counted(state.shared);
            usage.resident += counted(state.resident);
            usage.active += counted(state.active);
        }
        Some(usage)
    }
}

/// Classes and how many engines each has.
fn classes(caps: &Capabilities) -> Vec<(u16, u16)> {
    let mut classes: Vec<(u16, u16)> = Vec::new();
    for info in &caps.engines {
        match classes.iter_mut().find(|(class, _)| *class == info.engine.class) {
            Some((_, capacity)) => *capacity = capacity.saturating_add(1),
            None => classes.push((info.engine.class, 1)),
        }
    }
    classes.sort_unstable();
    classes
}
