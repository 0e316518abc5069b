//! `libgpu_broker_preload.so`: unmodified i915 programs on the broker.
//!
//! Preloaded into a program (`LD_PRELOAD`, or `gpu-broker run`), it shows that program an Intel
//! GPU in `/dev/dri` and `/sys` whether or not the machine has one, and turns the ioctls on it
//! into requests to `gpu-brokerd`.
//!
//! * `symbols` has the libc functions that are interposed. Each asks for a *verdict*: ours, not
//!   ours (then the real function runs), or refused with an errno. `verdict` is the one place that
//!   turns one into a return value, keeps us out of our own way, and stops panics.
//! * `paths` and `tree` are the device as files: a private directory tree of real files, so that
//!   listing, `openat` and `fstat` in it need no help.
//! * `node` is the table of fds that stand for the device, each with a session.
//! * `userptr` gives the GPU memory that the program has already.
//! * `signals` lets signals end waits, as they end the kernel's.
//! * `ioctl` translates; `user` copies from and to the program's memory as the kernel would.
//!
//! Out of reach: static and setuid programs, 32-bit programs, io_uring, and system calls that are
//! made without libc.
#![expect(unsafe_code, reason = "stands between a C program and its C library")]

mod arg;
mod chain;
mod errno;
mod ioctl;
mod mapping;
mod node;
mod paths;
mod real;
mod signals;
mod symbols;
mod tree;
mod user;
mod userptr;
mod verdict;

pub use symbols::*;
