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

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "addresses of test values fit")]

    use std::cell::RefCell;

    use crate::ring::{Host, Interrupt, Position, Ring};
    use crate::testing::{BATCH, D, DATA, TestClock, TestMemory};
    use crate::{EngineKind, EngineSpec, Memory, Stop, Streamer};

    const RING: u64 = 0x4000;
    const SIZE: u32 = 0x1000;
    const PAGE: u64 = 0x6000;
    const END: u32 = 0x0500_0000;

    /// The global GTT has the ring, the status page and a batch; the context has [`BATCH`] on.
    struct Rig {
        global: TestMemory,
        memory: TestMemory,
        clock: TestClock,
        streamer: Streamer,
        interrupts: RefCell<Vec<Interrupt>>,
        registers: RefCell<Vec<(u32, u32, bool)>>,
    }

    impl Host for Rig {
        fn global(&self) -> &dyn Memory {
            &self.global
        }

        fn status_page(&self) -> u64 {
            PAGE
        }

        fn read_register(&self, address: u32) -> u32 {
            address | 1
        }

        fn write_register(&self, address: u32, value: u32, privileged: bool) -> bool {
            self.registers.borrow_mut().push((address, value, privileged));
            privileged
        }

        fn interrupt(&self, what: Interrupt) {
            self.interrupts.borrow_mut().push(what);
        }
    }

    impl Rig {
        fn new(kind: EngineKind) -> Self {
            Self {
                global: TestMemory::new(RING, 0x8000),
                memory: TestMemory::new(BATCH, 0x2_0000),
                clock: TestClock::default(),
                streamer: Streamer::new(&EngineSpec::of(kind)),
                interrupts: RefCell::default(),
                registers: RefCell::default(),
            }
        }

        /// Runs a ring that holds these commands from `head` on.
        fn run(&mut self, head: u32, commands: &[u32]) -> Stop {
            for (at, dword) in (0..).zip(commands) {
                self.global.put(RING + u64::from((head + 4 * at) % SIZE), &[*dword]);
            }
            let tail = (head + 4 * commands.len() as u32) % SIZE;
            let ring = Ring { start: RING, size: SIZE, tail };
            self.streamer.start_ring(ring, Position { head, ..Position::default() });
            self.go_on(10_000)
        }

        fn go_on(&mut self, budget: u32) -> Stop {
            let spec = *self.streamer.engine();
            let mut streamer = std::mem::replace(&mut self.streamer, Streamer::new(&spec));
            let stop = streamer.run_ring(&self.memory, self, &self.clock, budget);
            self.streamer = streamer;
            stop
        }
    }

    #[test]
    fn a_ring_wraps_and_waits_for_its_tail() {
        let mut rig = Rig::new(EngineKind::Copy);
        let head = SIZE - 16;
        let stop =
            rig.run(head, &[0x1040_0002, PAGE as u32, 0, 1, 0x1040_0002, PAGE as u32 + 4, 0, 2]);
        assert_eq!(stop, Stop::Done);
        assert_eq!([0, 4].map(|at| rig.global.dword(PAGE + at)), [1, 2]);
        assert_eq!(rig.streamer.ring_position(), Position { head: 16, ..Position::default() });
        assert_eq!(rig.go_on(10), Stop::Done, "nothing was added");
        rig.global.put(RING + 16, &[0x1040_0002, PAGE as u32 + 8, 0, 3]);
        rig.streamer.set_ring_tail(32);
        assert_eq!(rig.go_on(10), Stop::Done);
        assert_eq!(rig.global.dword(PAGE + 8), 3);
    }

    #[test]
    fn a_ring_is_privileged_and_its_clients_batches_are_not() {
        let mut rig = Rig::new(EngineKind::Copy);
        rig.memory.put(
            BATCH,
            &[0x1040_0002, PAGE as u32, 0, 9, 0x1100_0001, 0x2_20c0, 9, 0x1000_0002, D, 0, 7, END],
        );
        let stop =
            rig.run(0, &[0x1880_0101, BATCH as u32, 0, 0x1100_0001, 0x2_20c0, 5, 0x0100_0000]);
        assert_eq!(stop, Stop::Done);
        assert_eq!(rig.global.dword(PAGE), 0, "the batch names the global GTT in vain");
        assert_eq!(rig.memory.dword(DATA), 7);
        assert_eq!(*rig.registers.borrow(), [(0x2_20c0, 9, false), (0x2_20c0, 5, true)]);
        assert_eq!(*rig.interrupts.borrow(), [Interrupt::User]);
        assert_eq!(rig.streamer.counters().filtered, 2);
    }

    #[test]
    fn a_batch_of_the_drivers_own_is_in_the_global_gtt() {
        let mut rig = Rig::new(EngineKind::Render);
        let batch = RING + 0x4000;
        rig.global.put(batch, &[0x1040_0002, PAGE as u32, 0, 9, END]);
        assert_eq!(rig.run(0, &[0x1880_0001, batch as u32, 0]), Stop::Done);
        assert_eq!(rig.global.dword(PAGE), 9);
    }

    #[test]
    fn flushes_write_to_the_global_gtt_and_the_status_page() {
        let mut rig = Rig::new(EngineKind::Copy);
        rig.run(
            0,
            &[0x1300_4002, PAGE as u32 | 4, 0, 11, 0x1320_4102, 0x40, 0, 12, 0x1080_0001, 0x80, 13],
        );
        assert_eq!([0, 0x40, 0x80].map(|at| rig.global.dword(PAGE + at)), [11, 12, 13]);
        assert_eq!(*rig.interrupts.borrow(), [Interrupt::Flush]);
        let mut rig = Rig::new(EngineKind::Render);
        let flags = 1 << 14 | 1 << 24;
        rig.run(
            0,
            &[
                0x7a00_0004,
                flags,
                PAGE as u32,
                0,
                21,
                22,
                0x7a00_0004,
                1 << 14 | 1 << 21,
                0x40,
                0,
                23,
                0,
            ],
        );
        assert_eq!([0, 4, 0x40].map(|at| rig.global.dword(PAGE + at)), [21, 22, 23]);
    }

    #[test]
    fn a_position_is_taken_up_where_it_was_left() {
        let (second, store) =
            (BATCH as u32 + 0x1000, |value: u32| [0x1000_0002, D + 4 * value, 0, value + 1]);
        let place = |rig: &Rig| {
            let mut first = vec![0x18c0_0101, second, 0];
            first.extend(store(1));
            first.push(END);
            rig.memory.put(BATCH, &first);
            let mut called = store(0).to_vec();
            called.push(END);
            rig.memory.put(second.into(), &called);
            rig.global.put(RING, &[0x1880_0101, BATCH as u32, 0, 0x1040_0002, PAGE as u32, 0, 5]);
        };
        let ring = Ring { start: RING, size: SIZE, tail: 28 };
        for steps in 1..6 {
            let mut rig = Rig::new(EngineKind::Render);
            place(&rig);
            rig.streamer.start_ring(ring, Position::default());
            for _ in 0..steps {
                assert_eq!(rig.go_on(1), Stop::Budget { arbitration: false });
            }
            let position = rig.streamer.ring_position();
            let registers = rig.streamer.save_registers();
            rig.streamer = Streamer::new(&EngineSpec::of(EngineKind::Render));
            rig.streamer.restore_registers(&registers);
            rig.streamer.start_ring(ring, position);
            assert_eq!(rig.streamer.ring_position(), position);
            assert_eq!(rig.go_on(100), Stop::Done, "after {steps}: {position:?}");
            assert_eq!([0, 4].map(|at| rig.memory.dword(DATA + at)), [1, 2], "after {steps}");
            assert_eq!(rig.global.dword(PAGE), 5, "after {steps}");
        }
    }

    #[test]
    fn registers_come_back_and_those_of_a_new_context_are_zero() {
        let mut rig = Rig::new(EngineKind::Render);
        let write = [0x1100_0007, 0x2600, 1, 0x267c, 2, 0x2400, 3, 0x2310, 4];
        rig.run(0, &write);
        let image = rig.streamer.save_registers();
        let read = |register, to| [0x1240_0002, register, PAGE as u32 + to, 0];
        let all: Vec<u32> =
            [read(0x2600, 0), read(0x267c, 4), read(0x2400, 8), read(0x2310, 12)].concat();
        for (image, expected) in [(&image[..], [1, 2, 3, 4]), (&[], [0; 4])] {
            rig.streamer.restore_registers(image);
            rig.run(0, &all);
            assert_eq!([0, 4, 8, 12].map(|at| rig.global.dword(PAGE + at)), expected);
        }
    }
}
