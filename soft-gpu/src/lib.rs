//! The software GPU of gpu-broker: it executes the command batches of a Gen9 GPU, a Kaby Lake GT3
//! (PCI id 8086:5926), as the hardware does.
//!
//! [`Streamer`] is one context on one engine: it fetches commands from [`Memory`], executes the MI
//! commands (stores, registers, arithmetic, semaphores, jumps), hands blits to the blitter and
//! skips 3D, GPGPU and media commands by their length; nothing is drawn or decoded. Memory, clock
//! and scheduling are the caller's: the streamer has no threads, no files and no time of its own,
//! and one call of [`Streamer::run`] is bounded in time whatever the batch holds.
//!
//! Batches come from clients that are not trusted. There is none that can make this crate panic,
//! run on for ever or touch memory that was not mapped for it: it ends in a [`Fault`] that says
//! which command was wrong, and why.
//!
//! Batches run as those of an unprivileged client do on hardware. A command that only a privileged
//! batch may use (anything that names the global GTT, registers outside the short list of
//! [`registers`]) does nothing and is counted in [`Counters::filtered`]. What a kernel driver adds
//! to that, rings and the global GTT, is in [`ring`].
//!
//! Start reading at [`Streamer::run`]; `blit/` is the blitter, [`decode`] knows commands by name.

pub mod decode;
pub mod engine;
pub mod fault;
pub mod gpu;
pub mod hardware;
pub mod memory;
pub mod registers;
pub mod ring;
pub mod scheduler;
pub mod streamer;

mod blit;
#[cfg(test)]
mod testing;

pub use fault::{Fault, FaultCause};
pub use hardware::{Clock, ENGINES, EngineKind, EngineSpec, TIMESTAMP_HZ};
pub use memory::{Memory, MemoryFault};
pub use streamer::{Compare, Counters, Executed, SemaphoreWait, Stop, Streamer};
