//! Engine time, by who had it.

use std::sync::atomic::{AtomicU64, Ordering};

use gpu_broker_soft_gpu::EngineSpec;

use crate::{CLASSES, ClassTimes};

/// Counts engine time by class. Adding is one relaxed addition: it is done for every batch.
#[derive(Debug, Default)]
pub(super) struct Meter([AtomicU64; CLASSES]);

impl Meter {
    pub(super) fn add(&self, engine: &EngineSpec, ns: u64) {
        if let Some(counter) = self.0.get(usize::from(engine.class)) {
            counter.fetch_add(ns, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> ClassTimes {
        let mut times = ClassTimes::default();
        for (time, counter) in times.0.iter_mut().zip(&self.0) {
            *time = counter.load(Ordering::Relaxed);
        }
        times
    }
}
