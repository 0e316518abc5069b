//! Events on their way, on either side of the socket: of a reader that does not come, the oldest are
//! dropped, and counted.

use std::collections::VecDeque;

use crate::admin::AdminEvent;
use crate::hang::HangEvent;
use crate::limits::{ADMIN_EVENTS_PENDING_MAX, HANG_EVENTS_PENDING_MAX};

/// An event that says how many before it were dropped.
pub trait Lossy {
    /// As many may wait.
    const PENDING_MAX: usize;

    /// How many.
    fn lost(&mut self) -> &mut u32;
}

impl Lossy for HangEvent {
    const PENDING_MAX: usize = HANG_EVENTS_PENDING_MAX;

    fn lost(&mut self) -> &mut u32 {
        &mut self.lost
    }
}

impl Lossy for AdminEvent {
    const PENDING_MAX: usize = ADMIN_EVENTS_PENDING_MAX;

    fn lost(&mut self) -> &mut u32 {
        &mut self.lost
    }
}

/// Events that wait, the oldest first.
#[derive(Debug)]
pub struct EventQueue<E> {
    events: VecDeque<E>,
    lost: u32,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { events: VecDeque::new(), lost: 0 }
    }
}

impl<E: Lossy> EventQueue<E> {
    /// Adds one; the oldest makes room for it.
    pub fn push(&mut self, event: E) {
        if self.events.len() >= E::PENDING_MAX
            && let Some(mut dropped) = self.events.pop_front()
        {
            // What that one would have said of those before it is not lost with it.
            self.lost = self.lost.saturating_add(*dropped.lost()).saturating_add(1);
        }
        self.events.push_back(event);
    }

    /// The oldest, with the number of those lost before it. It stays until [`Self::pop`].
    pub fn front(&mut self) -> Option<&E> {
        let first = self.events.front_mut()?;
        let lost = first.lost();
        *lost = lost.saturating_add(std::mem::take(&mut self.lost));
        Some(first)
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<E> {
        let _ = self.front()?;
        self.events.pop_front()
    }

    /// Those that wait, the newest first.
    pub fn newest_first(&mut self) -> impl Iterator<Item = &mut E> {
        self.events.iter_mut().rev()
    }
}
