//! Faults of the hardware that a test can switch on: in the guest by writing a byte to
//! configuration space ([`crate::config::FAULTS`]), on the host with `--fault`.

use std::sync::atomic::{AtomicU8, Ordering};

use clap::ValueEnum;

/// A way in which hardware fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[repr(u8)]
pub enum Fault {
    /// Forcewake requests are not acknowledged.
    Forcewake = 1 << 0,
    /// Resets are not carried out: their request bits stay set.
    Reset = 1 << 1,
    /// The next context-switch event is lost, with its interrupt; then the fault is over.
    Event = 1 << 2,
    /// The device is gone: every read answers all ones, writes do nothing, engines stand still.
    /// Only configuration space still works, so that the fault can be switched off.
    Unplugged = 1 << 3,
    /// Interrupts of the engines are lost.
    Interrupt = 1 << 4,
}

/// Which faults are on.
#[derive(Debug, Default)]
pub struct Faults(AtomicU8);

impl Faults {
    /// Those, and no others.
    #[must_use]
    pub fn new(faults: &[Fault]) -> Self {
        Self(AtomicU8::new(faults.iter().fold(0, |bits, fault| bits | *fault as u8)))
    }

    /// Whether a fault is on.
    pub fn is_on(&self, fault: Fault) -> bool {
        self.0.load(Ordering::Relaxed) & fault as u8 != 0
    }

    /// Whether a fault was on; it is off afterwards.
    pub fn take(&self, fault: Fault) -> bool {
        self.is_on(fault) && self.0.fetch_and(!(fault as u8), Ordering::Relaxed) & fault as u8 != 0
    }

    /// The bits, as the guest reads them.
    pub fn bits(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// What the guest wrote.
    pub fn set_bits(&self, bits: u8) {
        self.0.store(bits, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_happens_once_happens_once() {
        let faults = Faults::new(&[Fault::Event, Fault::Reset]);
        assert!(faults.take(Fault::Event) && !faults.take(Fault::Event));
        assert_eq!(faults.bits(), Fault::Reset as u8);
    }
}
