//! The contract with the kernel: the structures and ioctl numbers of the drm and i915 interfaces
//! that gpu-broker uses, under the kernel's own names.
//!
//! Every structure states its size and the offset of its last field, and every ioctl its number,
//! as constant assertions; `uapi/tests/headers.rs` compiles the C headers and compares all offsets.
//! Nothing here is sent to clients: what is laid out is here, what is encoded is in
//! `gpu-broker-protocol`, and no type is both.
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    reason = "names and meaning are the kernel's"
)]

pub mod drm;
pub mod i915;
pub mod ioctl;
pub mod sync;
