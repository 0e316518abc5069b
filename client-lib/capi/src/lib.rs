//! `libgpu_broker`: the client library for C.
//!
//! Each module holds the functions of one kind of object; `include/gpu_broker.h` is generated from
//! them and checked in. `boundary` is the only way in: every exported function runs inside
//! `boundary::call`, which turns errors into negative errnos and panics into `-EIO`, so the
//! calling program never unwinds or dies of us.
//!
//! Not here: anything that a C program can do with a file descriptor itself. Fences are fds.
#![expect(unsafe_code, reason = "a C interface takes and gives raw pointers")]

mod boundary;
mod buffer;
mod connection;
mod context;
mod execbuf;
mod fence;
mod hang;
mod memory;
mod syncobj;

pub use boundary::gpu_broker_last_error;
pub use buffer::*;
pub use connection::*;
pub use context::*;
pub use execbuf::*;
pub use fence::*;
pub use hang::*;
pub use memory::*;
pub use syncobj::*;
