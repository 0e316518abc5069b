//! The life of a context: a proto in one table, then live in the other, under one id.
//!
//! ```text
//!              insert                lookup                     remove
//!   (no id) ───────────▶  proto  ───────────────▶  live  ───────────────▶ (id is free again)
//!                           │  SETPARAM changes it   │  held by whoever looked it up until they
//!                           │                        │  let go of it: "the final put"
//!                           └──────── remove ────────┴─▶
//! ```
//! A lookup reads the live table without the session's proto lock. On a miss it takes the lock,
//! looks again (another lookup may have been faster), makes the live context, publishes it, and
//! drops the proto last. Everything that touches a proto or frees an id holds the same lock, so
//! whoever holds it sees an id in exactly one of the tables. When making the live context fails,
//! the proto stays and the lookup can be tried again (rule table §7).
//!
//! Nothing here knows what a context is, so that loom can run all interleavings of it.

#[cfg(all(test, loom))]
mod model;

use std::collections::HashMap;

use gpu_broker_protocol::{ContextId, Reason, Refusal, SessionId};

use crate::hash::BuildIdHasher;
use crate::sync::{Arc, ContextKey, LiveTable, Mutex};
use crate::table::IdPool;

/// One session's contexts.
#[derive(Debug)]
pub(crate) struct Dance<P, L> {
    session: SessionId,
    live: std::sync::Arc<LiveTable<L>>,
    protos: Mutex<Protos<P>>,
}

#[derive(Debug)]
struct Protos<P> {
    /// Ids of protos and live contexts together; the default context's 0 is not among them.
    ids: IdPool,
    by_id: HashMap<ContextId, P, BuildIdHasher>,
    limit: u32,
}

/// What a lookup found.
#[derive(Debug)]
pub(crate) struct Found<L> {
    pub(crate) live: Arc<L>,
    /// It was a proto until now.
    pub(crate) materialised: bool,
}

/// What was taken out of the tables. Dropping it is what releases it, so the caller does that when
/// it holds no lock.
#[derive(Debug)]
pub(crate) enum Removed<P, L> {
    Proto(P),
    Live(#[expect(dead_code, reason = "held to be dropped")] Arc<L>),
}

/// A context as the holder of the lock sees it.
#[derive(Debug)]
pub(crate) enum Seen<'a, P, L> {
    Proto(&'a P),
    Live(&'a L),
}

impl<P, L> Dance<P, L> {
    /// No contexts yet; at most `limit` beside the default one.
    pub(crate) fn new(session: SessionId, live: std::sync::Arc<LiveTable<L>>, limit: u32) -> Self {
        let protos = Protos { ids: IdPool::default(), by_id: HashMap::default(), limit };
        Self { session, live, protos: Mutex::new(protos) }
    }

    const fn key(&self, id: ContextId) -> ContextKey {
        (self.session, id)
    }

    /// Publishes the default context.
    pub(crate) fn insert_default(&self, live: L) {
        self.live.insert(self.key(ContextId::DEFAULT), Arc::new(live));
    }

    /// Registers a proto under the lowest free id.
    pub(crate) fn insert(&self, proto: P) -> Result<ContextId, Refusal> {
        let mut protos = self.protos.lock();
        let id = protos.take_id()?;
        protos.by_id.insert(id, proto);
        Ok(id)
    }

    /// Registers a context that is live at once (devices of graphics version above 12).
    pub(crate) fn insert_live(
        &self,
        make: impl FnOnce(ContextId) -> Result<L, Refusal>,
    ) -> Result<ContextId, Refusal> {
        let mut protos = self.protos.lock();
        let id = protos.take_id()?;
        match make(id) {
            Ok(live) => {
                self.live.insert(self.key(id), Arc::new(live));
                Ok(id)
            }
            Err(refusal) => {
                protos.ids.give(id.0);
                Err(refusal)
            }
        }
    }

    /// The live context; made from the proto now, if that is what the id still names.
    pub(crate) fn lookup(
        &self,
        id: ContextId,
        materialise: impl FnOnce(&P) -> Result<L, Refusal>,
    ) -> Result<Found<L>, Refusal> {
        if let Some(live) = self.live.get(self.key(id)) {
            return Ok(Found { live, materialised: false });
        }
        let mut protos = self.protos.lock();
        // Between the miss and the lock another lookup may have materialised it.
        if let Some(live) = self.live.get(self.key(id)) {
            return Ok(Found { live, materialised: false });
        }
        let proto = protos.by_id.get(&id).ok_or(Reason::NoSuchContext)?;
        let live = Arc::new(materialise(proto)?);
        // Published before the proto goes, and both under the lock: nobody who holds it finds the
        // id in both tables or in neither, and should publishing panic the proto is still there.
        self.live.insert(self.key(id), Arc::clone(&live));
        let proto = protos.by_id.remove(&id);
        drop(protos);
        drop(proto);
        Ok(Found { live, materialised: true })
    }

    /// The live context, if it is one. Materialises nothing.
    pub(crate) fn live(&self, id: ContextId) -> Option<Arc<L>> {
        self.live.get(self.key(id))
    }

    /// Does one thing to a proto, another to a live context. Materialises nothing; the proto
    /// cannot be looked up or removed meanwhile.
    pub(crate) fn with<T>(
        &self,
        id: ContextId,
        on_proto: impl FnOnce(&mut P) -> Result<T, Refusal>,
        on_live: impl FnOnce(&L) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        if let Some(live) = self.live.get(self.key(id)) {
            return on_live(&live);
        }
        let mut protos = self.protos.lock();
        if let Some(live) = self.live.get(self.key(id)) {
            drop(protos);
            return on_live(&live);
        }
        on_proto(protos.by_id.get_mut(&id).ok_or(Reason::NoSuchContext)?)
    }

    /// Takes a context out of both tables and frees its id.
    pub(crate) fn remove(&self, id: ContextId) -> Result<Removed<P, L>, Refusal> {
        if id == ContextId::DEFAULT {
            return Err(Reason::NoSuchContext.into());
        }
        let mut protos = self.protos.lock();
        let removed = if let Some(proto) = protos.by_id.remove(&id) {
            Removed::Proto(proto)
        } else if let Some(live) = self.live.remove(self.key(id)) {
            Removed::Live(live)
        } else {
            return Err(Reason::NoSuchContext.into());
        };
        // Freed last: until then no CREATE can put something else under the id.
        protos.ids.give(id.0);
        Ok(removed)
    }

    /// Changes how many contexts there may be, beside the default one; a closed dance stays closed.
    pub(crate) fn set_limit(&self, limit: u32) {
        let mut protos = self.protos.lock();
        if protos.limit != 0 {
            protos.limit = limit;
        }
    }

    /// Every context that is live now.
    pub(crate) fn for_each_live(&self, mut visit: impl FnMut(&L)) {
        let protos = self.protos.lock();
        let all = [ContextId::DEFAULT].into_iter().chain(protos.ids.iter().map(ContextId));
        all.filter_map(|id| self.live.get(self.key(id))).for_each(|live| visit(&live));
    }

    /// Takes everything out, the default context too, and lets nothing in any more. Says how many
    /// there were, the default one not counted.
    pub(crate) fn close(&self) -> (Vec<Removed<P, L>>, u32) {
        let mut protos = self.protos.lock();
        protos.limit = 0;
        let ids = std::mem::take(&mut protos.ids);
        let mut removed: Vec<_> =
            protos.by_id.drain().map(|(_, proto)| Removed::Proto(proto)).collect();
        let all = ids.iter().map(ContextId).chain([ContextId::DEFAULT]);
        removed.extend(all.filter_map(|id| self.live.remove(self.key(id))).map(Removed::Live));
        (removed, ids.len())
    }

    /// The first `most` contexts by id, and how many there are; the default one counts. `None`
    /// while one is being made on the device, which may take its time.
    pub(crate) fn try_list<T>(
        &self,
        most: usize,
        describe: impl FnMut(ContextId, Seen<'_, P, L>) -> T,
    ) -> Option<(Vec<T>, u32)> {
        Some(self.list(&*self.protos.try_lock()?, most, describe))
    }

    fn list<T>(
        &self,
        protos: &Protos<P>,
        most: usize,
        mut describe: impl FnMut(ContextId, Seen<'_, P, L>) -> T,
    ) -> (Vec<T>, u32) {
        let default = self.live.get(self.key(ContextId::DEFAULT));
        let total = protos.ids.len() + u32::from(default.is_some());
        let all = [ContextId::DEFAULT].into_iter().chain(protos.ids.iter().map(ContextId));
        let described = all.filter_map(|id| match protos.by_id.get(&id) {
            Some(proto) => Some(describe(id, Seen::Proto(proto))),
            None => self.live.get(self.key(id)).map(|live| describe(id, Seen::Live(&live))),
        });
        (described.take(most).collect(), total)
    }
}

impl<P> Protos<P> {
    fn take_id(&mut self) -> Result<ContextId, Refusal> {
        let limit = self.limit;
        let full = || {
            Refusal::new(Reason::ContextLimit).with_detail(format!("session.contexts = {limit}"))
        };
        self.ids.take(limit).map(ContextId).ok_or_else(full)
    }
}
