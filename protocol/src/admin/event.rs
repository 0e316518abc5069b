//! What administrators are told as it happens.

use serde::{Deserialize, Serialize};

use crate::hang::HangEvent;
use crate::ids::SessionId;

/// Asks for events, in place of what this connection asked for before. None are kept from before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminEvents {
    /// Bits of [`kind`]; those that this daemon does not know are ignored, 0 ends it.
    pub kinds: u64,
}

/// Kinds of events, for [`AdminEvents`].
pub mod kind {
    /// Sessions begin, end, or are not let in.
    pub const SESSIONS: u64 = 1 << 0;
    /// Requests that are refused.
    pub const REFUSALS: u64 = 1 << 1;
    /// Batches that die, and who is hit by a reset that followed.
    pub const HANGS: u64 = 1 << 2;
    /// What administrators do: revoke, drain, limit, and listeners that come and go.
    pub const ADMIN: u64 = 1 << 3;
    /// The configuration is read again.
    pub const RELOADS: u64 = 1 << 4;
    /// All of them.
    pub const ALL: u64 = SESSIONS | REFUSALS | HANGS | ADMIN | RELOADS;
}

/// Something happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminEvent {
    /// Nanoseconds since the daemon started.
    pub at_ns: u64,
    /// Events for this connection that were dropped right before this one, because it did not read.
    pub lost: u32,
    /// What it was.
    pub what: AdminNews,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AdminNews {
    /// A session said HELLO.
    SessionBegan {
        /// Its number.
        session: SessionId,
        /// Its class.
        class: String,
        /// The listener it came in by.
        listener: String,
        /// User.
        uid: u32,
        /// Process.
        pid: u32,
        /// The name it gave itself.
        client_name: String,
    },
    /// A session is over.
    SessionEnded {
        /// Its number.
        session: SessionId,
        /// How it ended, in words.
        why: String,
    },
    /// Connections got no session.
    TurnedAway {
        /// Who it was, in words.
        peer: String,
        /// Why.
        why: String,
        /// How many in a row.
        count: u32,
    },
    /// Requests were refused.
    Refused {
        /// Whose.
        session: SessionId,
        /// Name of the reason.
        reason: String,
        /// The sentence that the first was answered with.
        sentence: String,
        /// How many, of this session and for this reason, since the event was made.
        count: u32,
    },
    /// A batch died. Its engine was reset.
    Hang {
        /// Whose.
        session: SessionId,
        /// Where and how; `lost` is 0.
        hang: HangEvent,
    },
    /// A reset that another session caused hit a batch of this one, which runs again.
    Replayed {
        /// Whose.
        session: SessionId,
    },
    /// A session is taken away.
    Revoked {
        /// Which.
        session: SessionId,
        /// Who asked for it, in words.
        by: String,
    },
    /// The configuration was read again.
    Reloaded {
        /// Why it stays what it was, if it does.
        error: Option<String>,
    },
    /// Nobody new is let in, or they are again.
    Drained {
        /// Whether nobody is.
        on: bool,
        /// Who asked for it.
        by: String,
    },
    /// A limit of a class was changed.
    Limited {
        /// The class.
        class: String,
        /// The key below `limits`.
        key: String,
        /// The new limit; `None` is no limit.
        value: Option<u64>,
        /// Who asked for it.
        by: String,
    },
    /// A listener was made at run time.
    ListenerMade {
        /// Its name.
        listener: String,
        /// Who asked for it.
        by: String,
    },
    /// A listener that was made at run time is gone: its owner has closed its end.
    ListenerGone {
        /// Its name.
        listener: String,
    },
}

impl AdminNews {
    /// The bit of [`kind`] that asks for it.
    #[must_use]
    pub const fn kind(&self) -> u64 {
        match self {
            Self::SessionBegan { .. } | Self::SessionEnded { .. } | Self::TurnedAway { .. } => {
                kind::SESSIONS
            }
            Self::Refused { .. } => kind::REFUSALS,
            Self::Hang { .. } | Self::Replayed { .. } => kind::HANGS,
            Self::Revoked { .. }
            | Self::Drained { .. }
            | Self::Limited { .. }
            | Self::ListenerMade { .. }
            | Self::ListenerGone { .. } => kind::ADMIN,
            Self::Reloaded { .. } => kind::RELOADS,
        }
    }
}
