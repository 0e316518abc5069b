//! Who may have how much of the device, and who had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Engine classes there are: see [`crate::EngineId::class`].
pub const CLASSES: usize = 5;

/// Nanoseconds on engines, by class; work on several engines at once counts on each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassTimes(pub [u64; CLASSES]);

/// Counts engine time by class. Adding is one relaxed addition: it is done for every batch.
#[derive(Debug, Default)]
pub(crate) struct Meter([AtomicU64; CLASSES]);

impl Meter {
    pub(crate) fn add(&self, class: impl Into<usize>, ns: u64) {
        if let Some(counter) = self.0.get(class.into()) {
            counter.fetch_add(ns, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> ClassTimes {
        let mut times = ClassTimes::default();
        for (time, counter) in times.0.iter_mut().zip(&self.0) {
            *time = counter.load(Ordering::Relaxed);
        }
        times
    }
}

/// What became of a buffer's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BufferMemory {
    /// It is allocated.
    pub resident: bool,
    /// Another file has the buffer too.
    pub shared: bool,
}

/// What a share is worth: one of weight 200 gets twice the time of one of weight 100 while both
/// have work of the same priority for an engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Weight(u32);

impl Weight {
    /// Greatest weight; the least is 1.
    pub const MAX: Self = Self(10_000);

    /// That weight, or the nearest there is.
    #[must_use]
    pub fn new(weight: u32) -> Self {
        Self(weight.clamp(1, Self::MAX.0))
    }

    /// As a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    /// 100.
    fn default() -> Self {
        Self(100)
    }
}

/// A share of every engine's time. The files that were opened with one, or with clones of it, have
/// it together, in equal parts: opening more files gets nobody more.
#[derive(Clone, Debug)]
pub struct Share(Arc<Account>);

#[derive(Debug)]
struct Account {
    number: u64,
    weight: AtomicU32,
    meter: Meter,
}

impl Share {
    /// A share of its own.
    #[must_use]
    pub fn new(weight: Weight) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let weight = AtomicU32::new(weight.get());
        Self(Arc::new(Account { number, weight, meter: Meter::default() }))
    }

    /// What it is worth; work that was submitted before keeps what it was submitted with.
    pub fn set_weight(&self, weight: Weight) {
        self.0.weight.store(weight.get(), Ordering::Relaxed);
    }

    /// What it is worth now.
    #[must_use]
    pub fn weight(&self) -> Weight {
        Weight(self.0.weight.load(Ordering::Relaxed))
    }

    /// Engine time that its files had, those that are closed included; as of the last
    /// [`crate::Device::probe`] where a kernel counts.
    #[must_use]
    pub fn engine_times(&self) -> ClassTimes {
        self.0.meter.read()
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// Tells it from all others.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }
}

impl Default for Share {
    /// One of its own, of the default weight.
    fn default() -> Self {
        Self::new(Weight::default())
    }
}
