//! The rules of gpu-broker, pure: no fds, no clock, no sockets, no device.
//!
//! A [`Session`] is what an open DRM file is to the kernel. The daemon decodes a request, calls the
//! session's method for it, and sends what comes back. What the rules need done on a device they
//! ask of [`Hands`], which the daemon implements with `gpu-broker-device` and tests with a fake.
//!
//! Start reading at [`session`], then `context` (the life of a context and the lookup dance).
#![forbid(unsafe_code)]

pub mod hands;
pub mod session;
