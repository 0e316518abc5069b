//! What `gpu-broker status` shows of a session.

use gpu_broker_protocol::status::{ContextState, ContextStatus};

use crate::dance::Seen;
use crate::hands::Hands;
use crate::session::Session;

/// What a session has at this moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionCounts {
    /// VM handles.
    pub vms: u32,
    /// Buffers.
    pub buffers: u32,
    /// Bytes of those buffers.
    pub buffer_bytes: u64,
    /// Submissions not completed.
    pub in_flight: u32,
    /// Submissions so far.
    pub submissions: u64,
    /// Ban score; from 9 on the session can make no contexts (rule table §12).
    pub ban_score: u32,
    /// Contexts by id, at most as many as were asked for.
    pub contexts: Vec<ContextStatus>,
    /// How many contexts there are, the default one included.
    pub contexts_total: u32,
}

impl<H: Hands> Session<H> {
    /// Counts, and the first `contexts_max` contexts. Changes nothing, materialises nothing, and waits
    /// for nobody: while a request of the session is at the device, it answers what was true before.
    #[must_use]
    pub fn status(&self, contexts_max: usize) -> SessionCounts {
        let in_flight = self.in_flight.count();
        let mut seen = self.seen.lock();
        if let Some(counts) = self.try_status(contexts_max) {
            *seen = counts;
        }
        SessionCounts { in_flight, ban_score: self.score.score(), ..seen.clone() }
    }

    fn try_status(&self, contexts_max: usize) -> Option<SessionCounts> {
        let listed = self.contexts.try_list(contexts_max, |context, seen| {
            let (state, priority, user_engines, banned) = match seen {
                Seen::Proto(proto) => {
                    (ContextState::Proto, proto.priority, proto.engines.is_some(), false)
                }
                Seen::Live(live) => (
                    ContextState::Live { by: live.by },
                    live.priority(),
                    live.engines.is_some(),
                    live.hangs.is_banned(),
                ),
            };
            ContextStatus { context, state, priority, user_engines, banned }
        });
        let (contexts, contexts_total) = listed?;
        let memory = self.memory.try_lock()?;
        let (vms, buffers, buffer_bytes) = memory.counts();
        let submissions = memory.submissions;
        drop(memory);
        let (in_flight, ban_score) = Default::default();
        Some(SessionCounts {
            vms,
            buffers,
            buffer_bytes,
            in_flight,
            submissions,
            ban_score,
            contexts,
            contexts_total,
        })
    }
}
