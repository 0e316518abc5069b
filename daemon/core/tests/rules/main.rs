//! The rules, tested through [`Session`](gpu_broker_core::Session) with a fake device. One module
//! per part of the rule table; `ops` runs random histories against a model of it.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bans;
mod buffers;
mod classes;
mod clones;
mod device;
mod engine_maps;
mod execbufs;
mod fake;
mod lifecycle;
mod ops;
mod params;
mod rig;
mod syncobjs;
mod table;
mod userptr;
