//! The libc functions that are interposed.

/// Declares functions for C under names of libc. (Test programs keep their own libc.)
macro_rules! interpose {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As for the libc function of that name.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? $body
    )*};
}

mod fds;
mod files;
mod memory;
mod stat;

pub use fds::*;
pub use files::*;
pub use memory::*;
pub use stat::*;
