//! The rules of gpu-broker, pure: no fds, no clock, no sockets, no device.
//!
//! A [`Session`] is what an open DRM file is to the kernel. The daemon decodes a request, calls the
//! session's method for it, and sends what comes back. What the rules need done on a device they
//! ask of [`Hands`], which the daemon implements with `gpu-broker-device` and tests with a fake.
//!
//! A context is a proto-context, a record of parameters, until EXECBUF, GETPARAM or
//! GET_RESET_STATS first needs the real one. `dance` moves it from one table to the other,
//! `context` says what it is on either side, `set` and `get` what may be asked of it, `execbuf`
//! what may be run on it. "Rule table §n" in a comment is a section of the project's table of i915
//! behaviour; where the kernel has a quirk, the place that decides says which way we went and why.
//!
//! What a client can cause is a [`Refusal`](gpu_broker_protocol::Refusal), never a panic. Locks are
//! taken in this order: proto table, memory, address space, timeline; the hang history, the table of
//! live contexts and that of syncobjs are leaves. [`Session::handle_completion`] takes leaves only,
//! and a timeline that is free, so that a device may report from inside any method of [`Hands`].
//!
//! Start reading at [`session`], then `dance` (the life of a context and the lookup).
#![forbid(unsafe_code)]

mod ban;
mod buffer;
mod capabilities;
mod chain;
mod class;
mod clone;
mod context;
mod dance;
mod device;
mod engines;
mod execbuf;
mod fences;
mod get;
pub mod hands;
mod hash;
mod memory;
mod objects;
mod policy;
mod registry;
mod relocate;
mod select;
pub mod session;
mod set;
mod space;
mod sseu;
mod status;
mod sync;
mod syncobj;
mod table;
mod time;
mod usage;
mod userptr;
mod userptrs;

pub use buffer::HeldBuffer;
pub use capabilities::{Capabilities, KernelAnswers, SseuTopology};
pub use class::{Class, ClassLimits, Hold, InFlight, Resource};
pub use context::id_of_tag;
pub use execbuf::Executed;
pub use hands::Hands;
pub use policy::{PRIORITY_MAX, Privileges, SessionLimits};
pub use registry::Registry;
pub use session::Session;
pub use status::SessionCounts;
pub use syncobj::Exported;
pub use time::Time;
pub use usage::Accounts;
pub use userptrs::{FileKey, Memfd};
