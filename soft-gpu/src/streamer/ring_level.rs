//! The level below batches: the ring they were started from.

use crate::hardware::Clock;
use crate::memory::Memory;
use crate::ring::{Host, Position, Ring};
use crate::streamer::bus::Space;
use crate::streamer::{Stop, Streamer};

/// A ring, and whether its commands are executed or those of a batch.
#[derive(Debug)]
pub(crate) struct RingLevel {
    ring: Ring,
    /// Where the ring goes on, while a batch runs.
    resume_at: Option<u64>,
}

impl RingLevel {
    pub(super) fn is_current(&self) -> bool {
        self.resume_at.is_none()
    }

    /// Commands of a batch come next; the ring goes on at `address` after it.
    pub(super) fn leave_to_batch(&mut self, address: u64) {
        self.resume_at = Some(self.wrap(address));
    }

    /// Everything the driver wrote was executed.
    pub(super) fn is_empty_at(&self, position: u64) -> bool {
        self.is_current() && position == self.wrap(self.ring.start + u64::from(self.ring.tail))
    }

    /// The ring's start, if its commands are executed and the position is the ring's end.
    pub(super) fn wrapped(&self, position: u64) -> Option<u64> {
        (self.is_current() && self.wrap(position) != position).then_some(self.ring.start)
    }

    fn end(&self) -> u64 {
        self.ring.start + u64::from(self.ring.size)
    }

    fn wrap(&self, address: u64) -> u64 {
        if address >= self.end() { self.ring.start } else { address }
    }

    fn offset(&self, address: u64) -> u32 {
        u32::try_from(address.saturating_sub(self.ring.start)).unwrap_or(0)
    }
}

impl Streamer {
    /// Goes on with a context where its image says it was.
    pub fn start_ring(&mut self, ring: Ring, position: Position) {
        self.start(0, 0);
        let head = ring.start + u64::from(position.head);
        let mut level = RingLevel { ring, resume_at: None };
        let (space, address) = match position.batch {
            Some(batch) => {
                level.leave_to_batch(head);
                self.state.return_to = position.second.is_some().then_some(batch);
                let space = if position.client { Space::Context } else { Space::Global };
                (space, position.second.unwrap_or(batch))
            }
            None => (Space::Global, level.wrap(head)),
        };
        self.state.ring = Some(level);
        self.state.space = space;
        self.fetch.jump(space, address);
    }

    /// The driver added commands to the ring.
    pub fn set_ring_tail(&mut self, tail: u32) {
        if let Some(level) = &mut self.state.ring {
            level.ring.tail = tail;
            self.batch.running = true;
        }
    }

    /// Where the context is, to go on there later.
    #[must_use]
    pub fn ring_position(&self) -> Position {
        let Some(level) = &self.state.ring else { return Position::default() };
        let here = self.fetch.position();
        match level.resume_at {
            None => Position { head: level.offset(here), ..Position::default() },
            Some(address) => Position {
                head: level.offset(address),
                batch: Some(self.state.return_to.unwrap_or(here)),
                second: self.state.return_to.map(|_| here),
                client: self.state.space == Space::Context,
            },
        }
    }

    /// Executes the ring and its batches as [`Self::run`] does a batch. [`Stop::Done`] means that
    /// the ring is empty; [`Self::set_ring_tail`] makes it go on.
    pub fn run_ring(
        &mut self,
        memory: &dyn Memory,
        host: &dyn Host,
        clock: &dyn Clock,
        budget: u32,
    ) -> Stop {
        self.run_with(memory, Some(host), clock, budget)
    }

    /// A batch ended, or the ring has a command that ends batches, which means nothing there.
    pub(super) fn return_to_ring(&mut self, dwords: u32) {
        self.state.inhibited = false;
        match self.state.ring.as_mut().and_then(|level| level.resume_at.take()) {
            Some(address) => {
                self.state.space = Space::Global;
                self.fetch.jump(Space::Global, address);
            }
            None => self.fetch.advance(dwords),
        }
    }
}
