//! Semaphores and flushes.

use crate::fault::FaultCause;
use crate::ring::Interrupt;
use crate::streamer::{Bus, Command, Flow, Space, State};

/// What MI_SEMAPHORE_WAIT waits for: that the dword at `address` compares to `data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SemaphoreWait {
    /// The semaphore.
    pub address: u64,
    /// Memory on the left, `data` on the right.
    pub compare: Compare,
    /// The value in the command.
    pub data: u32,
    /// MI_ARB_ON_OFF allows the engine to run another context meanwhile.
    pub preemptible: bool,
}

/// A comparison of unsigned numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

impl Compare {
    /// Whether `memory` compares to `data`.
    #[must_use]
    pub fn holds(self, memory: u32, data: u32) -> bool {
        match self {
            Self::Greater => memory > data,
            Self::GreaterOrEqual => memory >= data,
            Self::Less => memory < data,
            Self::LessOrEqual => memory <= data,
            Self::Equal => memory == data,
            Self::NotEqual => memory != data,
        }
    }

    fn from_bits(bits: u32) -> Result<Self, FaultCause> {
        Ok(match bits {
            0 => Self::Greater,
            1 => Self::GreaterOrEqual,
            2 => Self::Less,
            3 => Self::LessOrEqual,
            4 => Self::Equal,
            5 => Self::NotEqual,
            value => return Err(FaultCause::Invalid { field: "compare operation", value }),
        })
    }
}

/// What a flush writes when it is done.
mod post_sync {
    pub(super) const NOTHING: u32 = 0;
    pub(super) const IMMEDIATE: u32 = 1;
    pub(super) const DEPTH_COUNT: u32 = 2;
    pub(super) const TIMESTAMP: u32 = 3;
}

impl State {
    /// MI_SEMAPHORE_WAIT. Signal mode (bit 15 clear) waits for an MI_SEMAPHORE_SIGNAL before it
    /// looks at memory again; looking more often cannot be told apart, so both modes poll.
    pub(super) fn semaphore_wait(
        &mut self,
        command: &Command<'_>,
        bus: &Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(4)?;
        let Some(space) = self.reach(command.bit(22)) else { return Ok(Flow::Next) };
        let compare = Compare::from_bits(command.header >> 12 & 7)?;
        let data = command.dword(1);
        let address = command.address(2, 4)?;
        if compare.holds(bus.read_u32(space, address)?, data) {
            return Ok(Flow::Arbitrate);
        }
        Ok(Flow::Wait(SemaphoreWait { address, compare, data, preemptible: self.arbitration }))
    }

    /// MI_FLUSH_DW: nothing to flush here, but the post-sync operation writes. Four dwords write a
    /// dword, five a qword.
    pub(super) fn flush_dw(
        &mut self,
        command: &Command<'_>,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        if command.bit(8) {
            self.interrupt(Interrupt::Flush, bus);
        }
        let operation = command.header >> 14 & 3;
        let value = match operation {
            post_sync::NOTHING => return Ok(Flow::Next),
            post_sync::IMMEDIATE => {
                command.require(4)?;
                command.qword(3)
            }
            post_sync::TIMESTAMP => {
                command.require(3)?;
                bus.clock.ticks()
            }
            value => return Err(FaultCause::Invalid { field: "post-sync operation", value }),
        };
        // Bit 2 of the address names the global GTT, bit 21 of the header the status page.
        let operand = command.qword(1);
        let Some((space, address)) = self.target(operand & 4 != 0, command.bit(21), operand, bus)
        else {
            return Ok(Flow::Next);
        };
        if operation == post_sync::IMMEDIATE && command.dwords() < 5 {
            bus.write_u32(space, address, command.dword(3))?;
        } else {
            bus.write_u64(space, address, value)?;
        }
        Ok(Flow::Next)
    }

    /// PIPE_CONTROL: as MI_FLUSH_DW, on rcs0. The depth count is always 0, because nothing is
    /// drawn.
    pub(super) fn pipe_control(
        &mut self,
        command: &Command<'_>,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(2)?;
        let flags = command.dword(1);
        if flags >> 8 & 1 != 0 {
            self.interrupt(Interrupt::Flush, bus);
        }
        let value = match flags >> 14 & 3 {
            post_sync::IMMEDIATE => {
                command.require(6)?;
                command.qword(4)
            }
            post_sync::DEPTH_COUNT => 0,
            post_sync::TIMESTAMP => bus.clock.ticks(),
            _ => return Ok(Flow::Next),
        };
        command.require(4)?;
        let (global, index) = (flags >> 24 & 1 != 0, flags >> 21 & 1 != 0);
        let Some((space, address)) = self.target(global, index, command.qword(2), bus) else {
            return Ok(Flow::Next);
        };
        bus.write_u64(space, address, value)?;
        Ok(Flow::Next)
    }

    /// Where a flush writes: at an address, whose bits 2:0 are flags, or with `index` at an offset
    /// into the status page. `None` if the batch may not.
    fn target(
        &mut self,
        global: bool,
        index: bool,
        operand: u64,
        bus: &Bus<'_>,
    ) -> Option<(Space, u64)> {
        let space = self.reach(global || index)?;
        Some((space, if index { bus.status_page() + (operand & 0xff8) } else { operand & !7 }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Compare, SemaphoreWait};
    use crate::testing::{Bench, D, DATA, render};
    use crate::{EngineKind, Stop};

    #[test]
    fn semaphores_compare_memory_with_data() {
        for (operation, memory, data, goes_on) in [
            (0, 5, 4, true),
            (0, 5, 5, false),
            (0, 0x8000_0000, 1, true),
            (1, 5, 5, true),
            (1, 4, 5, false),
            (2, 4, 5, true),
            (2, 5, 5, false),
            (3, 5, 5, true),
            (3, 6, 5, false),
            (4, 5, 5, true),
            (4, 4, 5, false),
            (5, 4, 5, true),
            (5, 5, 5, false),
        ] {
            let mut bench = render();
            bench.memory.put(DATA, &[memory]);
            let stop = bench.run(&[0x0e00_8002 | operation << 12, data, D, 0]);
            let case = format!("operation {operation}, memory {memory}, data {data}");
            assert_eq!(stop == Stop::Done, goes_on, "{case}");
            assert_eq!(matches!(stop, Stop::Waiting(_)), !goes_on, "{case}");
        }
    }

    #[test]
    fn a_waiting_semaphore_sees_what_others_write() {
        let mut bench = render();
        let wait =
            SemaphoreWait { address: DATA, compare: Compare::Equal, data: 3, preemptible: true };
        assert_eq!(bench.run(&[0x0e00_c002, 3, D, 0]), Stop::Waiting(wait));
        assert_eq!(bench.resume(10), Stop::Waiting(wait));
        bench.memory.put(DATA, &[3]);
        assert_eq!(bench.resume(10), Stop::Done);
        // Arbitration off: the engine is held.
        let stop = bench.run(&[0x0400_0000, 0x0e00_c002, 4, D, 0]);
        assert_eq!(stop, Stop::Waiting(SemaphoreWait { data: 4, preemptible: false, ..wait }));
    }

    #[test]
    fn flushes_write_afterwards() {
        let mut bench = Bench::new(EngineKind::VideoEnhance);
        bench.memory.put(DATA, &[9, 9, 9, 9, 9, 9]);
        bench.complete(&[
            0x1300_4002,
            D,
            0,
            1, // a dword
            0x1300_4003,
            D + 8,
            0,
            2,
            3, // a qword
            0x1300_c183,
            D + 16,
            0,
            0,
            0, // the timestamp; a flag in bit 7, an interrupt
            0x1300_0001,
            0,
            0, // nothing
        ]);
        assert_eq!([0, 4, 8, 12].map(|i| bench.memory.dword(DATA + i)), [1, 9, 2, 3]);
        assert_eq!(bench.memory.qword(DATA + 16), 1);
        assert_eq!(bench.streamer.counters().interrupts, 1);

        let mut bench = render();
        bench.memory.put(DATA, &[9; 6]);
        bench.complete(&[
            0x7a00_0004,
            1 << 14,
            D,
            0,
            4,
            5, //
            0x7a00_0004,
            3 << 14,
            D + 8,
            0,
            0,
            0, //
            0x7a00_0004,
            2 << 14,
            D + 16,
            0,
            6,
            6,
        ]);
        let written = [0, 8, 16].map(|i| bench.memory.qword(DATA + i));
        assert_eq!(written, [0x5_0000_0004, 1, 0]);
    }
}
