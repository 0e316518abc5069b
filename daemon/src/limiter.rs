//! Keeps a peer from filling the log.

use std::sync::{Mutex, PoisonError};

use gpu_broker_core::Time;

/// Lines one source may log per [`WINDOW_NS`].
const LINES_PER_WINDOW: u32 = 10;
const WINDOW_NS: u64 = 10_000_000_000;

/// Counts the log lines of one source. The last line that passes says that more are kept back.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    start: u64,
    lines: u32,
}

/// What to do with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Log it.
    Log,
    /// Log it and say that similar lines are left out for a while.
    LogAsLast,
    /// Leave it out.
    Drop,
}

impl Limiter {
    pub(crate) fn judge(&self, now: Time) -> Verdict {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0.saturating_sub(window.start) >= WINDOW_NS {
            *window = Window { start: now.0, lines: 0 };
        }
        window.lines = window.lines.saturating_add(1);
        match window.lines.cmp(&LINES_PER_WINDOW) {
            std::cmp::Ordering::Less => Verdict::Log,
            std::cmp::Ordering::Equal => Verdict::LogAsLast,
            std::cmp::Ordering::Greater => Verdict::Drop,
        }
    }
}

/// Logs at `warn` what belongs to no session, unless the limiter says no.
macro_rules! warn_limited {
    ($limiter:expr, $now:expr, $($message:tt)+) => {
        $crate::limiter::limited!($limiter, $now, (target: "gpu_brokerd", ), $($message)+)
    };
}

/// The same with fields, for a target.
macro_rules! limited {
    ($limiter:expr, $now:expr, (target: $target:expr, $($fields:tt)*), $($message:tt)+) => {
        match $limiter.judge($now) {
            $crate::limiter::Verdict::Log => {
                tracing::warn!(target: $target, $($fields)* $($message)+);
            }
            $crate::limiter::Verdict::LogAsLast => {
                tracing::warn!(target: $target, $($fields)* $($message)+);
                tracing::warn!(
                    target: $target, $($fields)* "more lines of this kind are left out for some seconds"
                );
            }
            $crate::limiter::Verdict::Drop => {}
        }
    };
}

/// Logs at `warn` what belongs to a session, with its number, class and peer, unless its limiter
/// says no.
macro_rules! session_warn {
    ($log:expr, $now:expr, $($message:tt)+) => {{
        let log = &$log;
        $crate::limiter::limited!(
            log.limiter,
            $now,
            (
                target: "gpu_brokerd",
                session = %log.session, class = log.class.name(), peer = log.peer(),
            ),
            $($message)+
        )
    }};
}

/// Logs at `error` a bug of ours that hit a session.
macro_rules! session_error {
    ($log:expr, $($message:tt)+) => {{
        let log = &$log;
        tracing::error!(
            session = %log.session, class = log.class.name(), peer = log.peer(), $($message)+
        )
    }};
}
pub(crate) use {limited, session_error, session_warn, warn_limited};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_lets_ten_lines_through_and_the_next_window_ten_more() {
        let limiter = Limiter::default();
        for window in 1..3 {
            let verdicts: Vec<_> =
                (0..50).map(|i| limiter.judge(Time(window * WINDOW_NS + i))).collect();
            assert_eq!(verdicts.iter().filter(|v| **v == Verdict::Log).count(), 9);
            assert_eq!(verdicts[9], Verdict::LogAsLast);
            assert!(verdicts[10..].iter().all(|v| *v == Verdict::Drop));
        }
    }
}
