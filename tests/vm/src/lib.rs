//! A Kaby Lake GT3 as a PCI device: the software GPU (`gpu-broker-soft-gpu`) behind registers,
//! execlists, page tables and interrupts, so that the real, unmodified i915 driver runs on it in a
//! virtual machine. `tests/vm/run` starts such a machine.
//!
//! Everything a register does is in [`mmio`] (what kind of register it is) and [`gpu`] (the few
//! that do something); [`engine`] runs contexts as [`execlist`] says, with [`image`] between them;
//! [`memory`] is what the GPU sees of the guest. [`server`] is the only module that knows vfio-user.
//!
//! There is no display, no 3D, no GuC, no performance counters; what i915 needs to probe cleanly
//! without them is in the tables.

pub mod config;
pub mod engine;
pub mod execlist;
pub mod faults;
pub mod gpu;
pub mod image;
pub mod interrupts;
pub mod memory;
pub mod mmio;
pub mod server;

#[cfg(test)]
mod testing;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing here leaves state half changed when it panics, so poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
