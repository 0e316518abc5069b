//! Whose call it is, and the one place that turns that into what libc returns.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::errno::{self, Errno, Outcome};

/// Whose call it is.
pub(crate) enum Verdict<T> {
    /// Ours, and this is the answer.
    Ours(T),
    /// None of our business: the real function answers.
    NotOurs,
    /// Ours, and it fails.
    Refused(Errno),
}

impl<T> From<Outcome<T>> for Verdict<T> {
    fn from(outcome: Outcome<T>) -> Self {
        match outcome {
            Ok(value) => Self::Ours(value),
            Err(errno) => Self::Refused(errno),
        }
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is busy with a call of ours; what that calls in turn is not ours.
pub(crate) struct Inside;

impl Inside {
    pub(crate) fn enter() -> Option<Self> {
        // A thread that is ending has no thread-local values, and no business with the device.
        let entered = INSIDE.try_with(|inside| !inside.replace(true)).unwrap_or(false);
        // Lazily: one that is made and dropped would say that we are not inside.
        entered.then(|| Self)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }
}

/// Decides a call and answers it: `failed` is what the function returns beside an errno.
pub(crate) fn decide<T>(
    failed: T,
    ours: impl FnOnce() -> Verdict<T>,
    real: impl FnOnce() -> T,
) -> T {
    let verdict = match Inside::enter() {
        None => Verdict::NotOurs,
        // What a panic may have left half done is behind a lock that the next call takes over.
        Some(_inside) => {
            catch_unwind(AssertUnwindSafe(ours)).unwrap_or(Verdict::Refused(Errno(libc::EIO)))
        }
    };
    match verdict {
        Verdict::Ours(value) => value,
        Verdict::NotOurs => real(),
        Verdict::Refused(errno) => {
            errno::set(errno);
            failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_eio_and_a_call_within_a_call_is_not_ours() {
        let panicked = decide(-1, || panic!("on purpose"), || 7);
        assert_eq!((panicked, Errno::last()), (-1, Errno(libc::EIO)));
        let nested = decide(-1, || Verdict::Ours(decide(-1, || Verdict::Ours(1), || 2)), || 3);
        assert_eq!(nested, 2, "the inner call goes to libc");
        assert_eq!(decide(-1, || Verdict::Refused(Errno(libc::EPERM)), || 0), -1);
        assert_eq!(Errno::last(), Errno(libc::EPERM));
        assert_eq!(decide(-1, || Verdict::NotOurs, || 5), 5, "the guard was given back");
    }
}
