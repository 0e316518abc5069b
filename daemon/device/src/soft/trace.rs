//! What the engines do, for whoever looks on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gpu_broker_soft_gpu::engine::Span;
use gpu_broker_soft_gpu::{ENGINES, EngineSpec};

use super::context::ContextShared;
use crate::trace::Switch;
use crate::{EngineId, Outcome, TraceEvent, TraceWhat};

/// Of one device.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    switch: Switch,
    /// What each engine executed last, and until when: a job's time without executing lies behind
    /// that if it is the same job's, and was another time if it is not.
    last: Mutex<[Option<(u64, u64)>; ENGINES.len()]>,
}

impl Tracer {
    pub(super) fn set(&self, on: bool) {
        self.switch.set(on);
    }

    /// Begins to trace a submission, if somebody looks on.
    pub(super) fn begin(&self, context: &ContextShared, engine: EngineId) -> Option<Traced> {
        let traced = self.switch.number().map(Traced)?;
        traced.tell(context, engine, Instant::now(), TraceWhat::Queued);
        Some(traced)
    }

    /// When a job has had the engine from, that executed in `span`.
    fn since(&self, Traced(submission): Traced, engine: &EngineSpec, span: Span) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ENGINES.iter().position(|spec| spec.name == engine.name);
        let Some(last) = at.and_then(|at| last.get_mut(at)) else { return span.began };
        let before = last.replace((submission, span.ended));
        match before {
            Some((same, until)) if same == submission => {
                span.began.saturating_sub(span.owed_ns).max(until).min(span.began)
            }
            Some(_) | None => span.began,
        }
    }
}

/// A submission that is traced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Traced(u64);

impl Traced {
    pub(super) fn ran(self, context: &ContextShared, engine: &EngineSpec, span: Span) {
        let device = &context.file.device;
        let began = device.tracer.since(self, engine, span);
        let time = Duration::from_nanos(span.ended.saturating_sub(began));
        let id = EngineId { class: engine.class, instance: engine.instance };
        self.tell(context, id, device.gpu.moment(began), TraceWhat::Ran(time));
    }

    pub(super) fn over(self, context: &ContextShared, engine: EngineId, outcome: &Outcome) {
        self.tell(context, engine, Instant::now(), TraceWhat::of(outcome));
    }

    pub(super) fn replayed(self, context: &ContextShared, engine: EngineId) {
        self.tell(context, engine, Instant::now(), TraceWhat::Replayed);
    }

    fn tell(self, context: &ContextShared, engine: EngineId, at: Instant, what: TraceWhat) {
        let Self(submission) = self;
        let tag = context.tag;
        context.file.events.trace(TraceEvent { tag, submission, engine, at, what });
    }
}
