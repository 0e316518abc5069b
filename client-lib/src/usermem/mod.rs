//! Application memory on the GPU, without a copy (i915's userptr, over sealed memfds).
//!
//! * [`UserMemory`] is memory to fill, and [`UserVec`] a vector in it.
//! * [`AdoptedMemory`] is memory that was there before.
//! * [`UserBuffer`] is either of them, registered with a session; [`CpuAccess`] is the right to
//!   use it while the GPU does not.
//!
//! Whoever has such memory in other shapes uses [`Connection::share_memfd`] and
//! [`Buffer::invalidate`].
//!
//! [`Connection::share_memfd`]: crate::Connection::share_memfd
//! [`Buffer::invalidate`]: crate::Buffer::invalidate

mod adopt;
mod buffer;
pub(crate) mod fork;
pub(crate) mod held;
mod hold;
mod maps;
mod memory;
mod range;
pub(crate) mod share;
#[cfg(test)]
mod tests;
mod vec;

pub use adopt::{AdoptedMemory, Writers};
pub use buffer::UserBuffer;
pub use memory::UserMemory;
pub use share::{CpuAccess, GpuAccess, Kept, Shareable};
pub use vec::UserVec;
