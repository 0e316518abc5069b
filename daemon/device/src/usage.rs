//! Who may have how much of the device, and who had.

/// Engine classes there are: see [`crate::EngineId::class`].
pub const CLASSES: usize = 5;

/// Nanoseconds on engines, by class; work on several engines at once counts on each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassTimes(pub [u64; CLASSES]);

/// What became of a buffer's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BufferMemory {
    /// It is allocated.
    pub resident: bool,
    /// Another file has the buffer too.
    pub shared: bool,
}

/// Share of a session: one of weight 200 gets twice the time of one of weight 100 while both have
/// work of the same priority for an engine.
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
