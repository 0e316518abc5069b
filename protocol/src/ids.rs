//! Names of things. Except for [`SessionId`], an id means nothing outside the session that made it.

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A connection, unique for the life of the daemon. Appears in status output and logs only;
    /// no request takes one to act on another session's objects.
    SessionId(u64);
    /// A GPU context. 0 is the default context, which every session has from HELLO on.
    ContextId(u32);
    /// A GPU address space. Valid ids start at 1; 0 means "no VM".
    VmId(u32);
    /// A buffer object (a GEM handle in i915's words). Valid handles start at 1.
    BufferId(u32);
    /// A synchronisation object. Valid handles start at 1.
    SyncobjId(u32);
}

impl ContextId {
    /// The context that exists from HELLO on and cannot be destroyed (rule table §0.3).
    pub const DEFAULT: Self = Self(0);
}
