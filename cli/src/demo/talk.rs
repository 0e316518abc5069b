//! What the demo and its client processes tell each other over the clients' standard input and
//! output: one line of JSON per message, and after [`Answer::pixels`] the pixels themselves.

use serde::{Deserialize, Serialize};

use super::confine::Confinement;

/// From the demo to a client. Each is carried out and answered before the next is sent, so that
/// the demo can look at the daemon's view between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// Create VM and context.
    Create,
    /// Configure or destroy the context.
    Configure,
    /// Paint the strip.
    Paint,
    /// Disconnect and exit.
    Quit,
}

/// From a client to the demo.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Message {
    /// Said unasked, once: confined and connected.
    Ready {
        /// The session's number.
        session: u64,
        /// What holds the client in.
        confinement: Confinement,
        /// Microseconds for connecting and HELLO.
        connect_us: f64,
    },
    /// An order was carried out.
    Done(Answer),
    /// It was not; the client exits.
    Failed {
        /// What to tell the user.
        sentence: String,
    },
}

/// How an order was carried out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The context, while it exists.
    pub(crate) context: Option<u32>,
    /// What was done, in order.
    pub(crate) steps: Vec<Step>,
    /// Bytes of pixels that follow the line.
    pub(crate) pixels: Option<usize>,
}

/// One thing a client did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// What, for people.
    pub(crate) what: String,
    /// Which timing of the summary it belongs to.
    pub(crate) kind: StepKind,
    /// Microseconds it took.
    pub(crate) us: f64,
}

/// Columns of the timing table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StepKind {
    /// CONTEXT_CREATE.
    Create,
    /// SETPARAM, GETPARAM, DESTROY.
    Configure,
    /// Buffers made and found zero.
    Prepare,
    /// The first EXECBUF, which may have to materialise the context.
    FirstExecbuf,
    /// Later EXECBUFs.
    Execbuf,
    /// Waiting for the GPU.
    Wait,
    /// Looking at the result.
    Check,
}
