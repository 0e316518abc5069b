//! What administrators ask, on the administrators' socket alone. On any other, these are refused.

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;

/// Lets nobody new in, or lets them in again. Sessions that are open go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminDrain {
    /// Whether nobody new is let in.
    pub on: bool,
}

/// How many are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminDrained {
    /// Connections open now.
    pub connections: u32,
}

/// Takes a session away: its client gets an epitaph, its work ends at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminRevoke {
    /// Which.
    pub session: SessionId,
}

/// Changes a limit of a class until the configuration is read again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminLimit {
    /// The class.
    pub class: String,
    /// The key below `limits`.
    pub key: String,
    /// The new limit; `None` is no limit.
    pub value: Option<u64>,
}

/// What it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminLimited {
    /// The limit before.
    pub before: Option<u64>,
}

/// Every class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminClassList {
    /// By name.
    pub classes: Vec<ClassStatus>,
}

/// One class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Share of engine time, against the other classes.
    pub weight: u32,
    /// What its sessions hold and may hold.
    pub limits: Vec<LimitStatus>,
}

/// One limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Its key.
    pub key: String,
    /// What all sessions of the class hold.
    pub held: u64,
    /// What they may; `None` is no limit.
    pub most: Option<u64>,
}
