//! Buffers that each thread keeps for its packets, so that no request allocates one and a
//! connection costs no memory for them.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

use gpu_broker_protocol::limits::MESSAGE_BYTES_MAX;

type Home = LocalKey<Cell<Vec<u8>>>;

thread_local! {
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer on loan from the thread; dropping it gives it back.
///
/// Somebody who borrows while it is lent, or while the thread is ending, gets one of their own.
pub(crate) struct Scratch {
    home: &'static Home,
    bytes: Vec<u8>,
}

impl Scratch {
    /// An empty buffer for a packet to send.
    pub(crate) fn outgoing() -> Self {
        let mut scratch = Self::lend(&OUTGOING);
        scratch.bytes.clear();
        scratch
    }

    /// A buffer as long as any packet. What is in it is left over from an earlier one.
    pub(crate) fn incoming() -> Self {
        let mut scratch = Self::lend(&INCOMING);
        if scratch.bytes.len() < MESSAGE_BYTES_MAX {
            // Fresh memory is zero already, so pages that no packet reaches are never touched.
            scratch.bytes = vec![0; MESSAGE_BYTES_MAX];
        }
        scratch
    }

    fn lend(home: &'static Home) -> Self {
        Self { home, bytes: home.try_with(Cell::take).unwrap_or_default() }
    }
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that is ending has no more use for it.
        let _ = self.home.try_with(|home| home.set(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_two_at_once_are_two() {
        let first = Scratch::incoming();
        let place = first.as_ptr();
        let second = Scratch::incoming();
        assert_eq!((first.len(), second.len()), (MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX));
        assert_ne!(place, second.as_ptr());
        drop(second);
        drop(first);
        assert_eq!(Scratch::incoming().as_ptr(), place, "the one that came back last");
        Scratch::outgoing().push(1);
        assert!(Scratch::outgoing().is_empty());
        assert!(Scratch::outgoing().capacity() > 0, "its memory was kept");
    }

    #[test]
    fn a_thread_that_is_ending_can_still_borrow() {
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                Scratch::outgoing().push(1);
                assert_eq!(Scratch::incoming().len(), MESSAGE_BYTES_MAX);
            }
        }
        thread_local! {
            static LATE: Late = const { Late };
        }
        // Destroyed in either order; a panic there would abort the process.
        std::thread::spawn(|| {
            LATE.with(|_| ());
            drop(Scratch::incoming());
            drop(Scratch::outgoing());
        })
        .join()
        .expect("no panic");
    }
}
