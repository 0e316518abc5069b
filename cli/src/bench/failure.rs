//! Why a benchmark could not be finished.

use std::fmt::{self, Display, Formatter};
use std::io;

/// What went wrong, while doing what.
#[derive(Debug)]
pub(super) enum Failure {
    /// The operating system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The daemon refused or is gone.
    Broker {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: gpu_broker_client::Error,
    },
    /// The daemon under test did not come up; the sentence says why.
    Start(String),
    /// What it is measured with is not installed; the row says so.
    Missing(&'static str),
    /// A measurement came to nothing.
    Unexpected(&'static str),
}

impl Failure {
    /// For `map_err` on what the operating system answers.
    pub(super) fn io<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, source: source.into() }
    }

    /// For `map_err` on what the client library answers.
    pub(super) fn broker(doing: &'static str) -> impl FnOnce(gpu_broker_client::Error) -> Self {
        move |source| Self::Broker { doing, source }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "{doing}: {source}"),
            Self::Broker { doing, source } => write!(f, "{doing}: {source}"),
            Self::Start(sentence) => f.write_str(sentence),
            Self::Unexpected(what) | Self::Missing(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Broker { source, .. } => Some(source),
            Self::Start(_) | Self::Unexpected(_) | Self::Missing(_) => None,
        }
    }
}
