//! What the engines have done, as far as the daemon's own requests go.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::{CLASSES, EngineId, EngineUsage, Outcome};

/// Engine classes, and what fdinfo calls them (rule table §18).
const NAMES: [(u16, &str); CLASSES] =
    [(0, "render"), (1, "copy"), (2, "video"), (3, "video-enhance"), (4, "compute")];

/// Nanoseconds that each class was busy, by class.
pub(super) type Busy = [u64; CLASSES];

/// How long the engines were busy with an open DRM file; zeroes where the kernel does not tell.
pub(super) fn busy_of(card: BorrowedFd<'_>) -> Busy {
    let path = format!("/proc/self/fdinfo/{}", card.as_raw_fd());
    std::fs::read_to_string(path).map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &str) -> Busy {
    let mut busy = Busy::default();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("drm-engine-") else { continue };
        let Some((name, value)) = rest.split_once(':') else { continue };
        let Some(place) = NAMES.iter().position(|(_, class)| *class == name) else { continue };
        let nanoseconds = value.trim().strip_suffix(" ns").and_then(|value| value.parse().ok());
        if let (Some(slot), Some(nanoseconds)) = (busy.get_mut(place), nanoseconds) {
            *slot = nanoseconds;
        }
    }
    busy
}

/// Adds one to the other.
pub(super) fn add(sum: &mut Busy, more: &Busy) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// A number for each engine.
#[derive(Debug)]
pub(super) struct Usage(Mutex<Vec<(EngineId, EngineUsage)>>);

impl Usage {
    pub(super) fn new(engines: impl Iterator<Item = EngineId>) -> Self {
        Self(Mutex::new(engines.map(|engine| (engine, EngineUsage::default())).collect()))
    }

    fn change(&self, engine: EngineId, change: impl FnOnce(&mut EngineUsage)) {
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, usage)) = engines.iter_mut().find(|(known, _)| *known == engine) {
            change(usage);
        }
    }

    pub(super) fn queued(&self, engine: EngineId) {
        self.change(engine, |usage| usage.queued = usage.queued.saturating_add(1));
    }

    pub(super) fn ended(&self, engine: EngineId, outcome: &Outcome) {
        self.change(engine, |usage| {
            usage.queued = usage.queued.saturating_sub(1);
            usage.completed = usage.completed.saturating_add(1);
            let faults = u64::from(matches!(outcome, Outcome::Guilty(_)));
            usage.faults = usage.faults.saturating_add(faults);
        });
    }

    /// Time spent executing, by class as the kernel counts it; the engines of a class get equal
    /// parts.
    pub(super) fn set_busy(&self, busy: &Busy) {
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((class, _), busy_ns) in NAMES.iter().zip(busy) {
            let of_class = |engine: &EngineId| engine.class == *class;
            let count = engines.iter().filter(|(engine, _)| of_class(engine)).count() as u64;
            let share = busy_ns.checked_div(count).unwrap_or(0);
            for (_, usage) in engines.iter_mut().filter(|(engine, _)| of_class(engine)) {
                usage.busy_ns = share;
            }
        }
    }

    pub(super) fn all(&self) -> Vec<EngineUsage> {
        let engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        engines.iter().map(|(_, usage)| *usage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_is_read_by_class() {
        let text = "pos:\t0\ndrm-driver:\ti915\ndrm-engine-render:\t25 ns\n\
                    drm-engine-video:\t6 ns\ndrm-engine-capacity-video:\t2\n\
                    drm-engine-video-enhance:\tnonsense\n";
        assert_eq!(parse(text), [25, 0, 6, 0, 0]);
        let engine = |class, instance| EngineId { class, instance };
        let usage = Usage::new([engine(0, 0), engine(2, 0), engine(2, 1)].into_iter());
        usage.set_busy(&parse(text));
        let busy: Vec<_> = usage.all().iter().map(|usage| usage.busy_ns).collect();
        assert_eq!(busy, [25, 3, 3]);
    }
}
