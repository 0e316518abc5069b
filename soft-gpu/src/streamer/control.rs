//! Which MI command is executed by what, and the commands that steer the batch.

use crate::decode::mi;
use crate::fault::FaultCause;
use crate::ring::Interrupt;
use crate::streamer::{Bus, Command, Flow, Space, State, atomic, math};

impl State {
    /// Executes an MI command.
    #[inline]
    pub(super) fn execute_mi(
        &mut self,
        opcode: u8,
        command: &Command<'_>,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        match opcode {
            mi::NOOP => Ok(Flow::Next),
            mi::ARB_CHECK => Ok(Flow::Arbitrate),
            mi::BATCH_BUFFER_END => Ok(Flow::End),
            mi::BATCH_BUFFER_START => self.batch_buffer_start(command),
            mi::STORE_DATA_IMM => self.store_data_imm(command, bus),
            mi::LOAD_REGISTER_IMM => self.load_register_imm(command, bus),
            mi::LOAD_REGISTER_REG => self.load_register_reg(command, bus),
            mi::LOAD_REGISTER_MEM => self.load_register_mem(command, bus),
            mi::STORE_REGISTER_MEM => self.store_register_mem(command, bus),
            mi::COPY_MEM_MEM => self.copy_mem_mem(command, bus),
            mi::MATH => math::execute(command, &mut self.registers).map(|()| Flow::Next),
            mi::ATOMIC => {
                if let Some(space) = self.reach(command.bit(22)) {
                    atomic::execute(command, &mut self.registers, space, bus)?;
                }
                Ok(Flow::Next)
            }
            mi::SEMAPHORE_WAIT => self.semaphore_wait(command, bus),
            mi::CONDITIONAL_BATCH_BUFFER_END => self.conditional_end(command, bus),
            mi::FLUSH_DW => self.flush_dw(command, bus),
            mi::PREDICATE => self.predicate(command),
            mi::SET_PREDICATE => self.set_predicate(command),
            mi::ARB_ON_OFF => {
                self.arbitration = command.bit(0);
                Ok(Flow::Arbitrate)
            }
            mi::USER_INTERRUPT => {
                self.interrupt(Interrupt::User, bus);
                Ok(Flow::Next)
            }
            // Wakes waiters in signal mode; ours poll.
            mi::SEMAPHORE_SIGNAL => Ok(Flow::Next),
            mi::STORE_DATA_INDEX => self.store_data_index(command, bus),
            _ => self.execute_rare(opcode, command),
        }
    }

    /// Commands without an effect on what a client can see.
    fn execute_rare(&mut self, opcode: u8, command: &Command<'_>) -> Result<Flow, FaultCause> {
        match opcode {
            // MI_RS_CONTROL, MI_REPORT_HEAD, MI_URB_ATOMIC_ALLOC, MI_SUSPEND_FLUSH,
            // MI_TOPOLOGY_FILTER, MI_SET_APPID, MI_RS_CONTEXT: they set up units that are not
            // there, or write to the status page.
            0x06 | 0x07 | 0x09 | 0x0b | 0x0d..=0x0f => Ok(Flow::Next),
            // MI_WAIT_FOR_EVENT, MI_LOAD_SCAN_LINES_*, MI_DISPLAY_FLIP, MI_SET_CONTEXT,
            // MI_FORCE_WAKEUP, MI_UPDATE_GTT: the display's or the kernel's.
            0x03 | 0x12..=0x14 | 0x18 | 0x1d | 0x23 => {
                self.filter(true);
                Ok(Flow::Next)
            }
            // MI_CLFLUSH, MI_REPORT_PERF_COUNT, MI_RS_STORE_DATA_IMM, MI_LOAD_URB_MEM,
            // MI_STORE_URB_MEM: parts of the render engine that draw or count.
            0x27 | 0x28 | 0x2b..=0x2d => Ok(Flow::Skip),
            _ => Err(FaultCause::Unknown { header: command.header }),
        }
    }

    /// MI_BATCH_BUFFER_START. Bit 22 calls a second level, which returns here at its end; in the
    /// second level it jumps, for there is no third. Without bit 22 it jumps, and leaves the second
    /// level for good if it was there. Bit 15: only if MI_PREDICATE_RESULT_1 is set. Bit 8 makes a
    /// batch that a ring starts one of a client, in the PPGTT; in a batch it makes no difference.
    fn batch_buffer_start(&mut self, command: &Command<'_>) -> Result<Flow, FaultCause> {
        command.require(3)?;
        if command.bit(15) && self.registers.predicate().result_1 & 1 == 0 {
            return Ok(Flow::Next);
        }
        let target = command.address(1, 4)?;
        let next = command.address.wrapping_add(u64::from(command.dwords()) * 4);
        if let Some(ring) = self.ring.as_mut().filter(|ring| ring.is_current()) {
            ring.leave_to_batch(next);
            self.space = if command.bit(8) { Space::Context } else { Space::Global };
            self.return_to = None;
        } else if !command.bit(22) {
            self.return_to = None;
        } else if self.return_to.is_none() {
            self.return_to = Some(next);
        }
        Ok(Flow::Jump(target))
    }

    /// MI_CONDITIONAL_BATCH_BUFFER_END: the batch goes on while memory is greater than the value in
    /// the command; otherwise all levels of it end. Bit 21 enables the comparison, bit 19 takes
    /// memory as a mask and a value to be masked.
    fn conditional_end(
        &mut self,
        command: &Command<'_>,
        bus: &Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(4)?;
        if !command.bit(21) {
            return Ok(Flow::Next);
        }
        let Some(space) = self.reach(command.bit(22)) else { return Ok(Flow::Next) };
        let memory = if command.bit(19) {
            let pair = bus.read_u64(space, command.address(2, 8)?)?;
            (pair & pair >> 32) & 0xffff_ffff
        } else {
            bus.read_u32(space, command.address(2, 4)?)?.into()
        };
        if memory > u64::from(command.dword(1)) {
            return Ok(Flow::Next);
        }
        self.return_to = None;
        Ok(Flow::End)
    }

    /// MI_PREDICATE: compares (bits 1:0: true, false, sources equal, difference equals data),
    /// combines with what was before (bits 4:3: set, and, or, xor) and loads the outcome, or its
    /// inverse, into MI_PREDICATE_RESULT (bits 7:6: keep, -, load, load inverted).
    fn predicate(&mut self, command: &Command<'_>) -> Result<Flow, FaultCause> {
        let before = self.predicate_state;
        let predicate = self.registers.predicate();
        let difference = predicate.source0.wrapping_sub(predicate.source1);
        let compared = match command.header & 3 {
            0 => true,
            1 => false,
            2 => difference == 0,
            _ => difference == predicate.data,
        };
        let combined = match command.header >> 3 & 3 {
            0 => compared,
            1 => before & compared,
            2 => before | compared,
            _ => before ^ compared,
        };
        match command.header >> 6 & 3 {
            0 => {}
            2 => predicate.result = combined.into(),
            3 => predicate.result = (!combined).into(),
            value => return Err(FaultCause::Invalid { field: "load operation", value }),
        }
        self.predicate_state = combined;
        Ok(Flow::Next)
    }

    /// MI_SET_PREDICATE: from here on commands do nothing, by the state of MI_PREDICATE_RESULT_2
    /// (1: if clear, 2: if set) or MI_PREDICATE_RESULT (3: if clear, 4: if set), or always (15).
    /// Only MI_SET_PREDICATE itself and MI_BATCH_BUFFER_END are executed then.
    fn set_predicate(&mut self, command: &Command<'_>) -> Result<Flow, FaultCause> {
        let predicate = self.registers.predicate();
        self.inhibited = match command.header & 0xf {
            0 => false,
            1 => predicate.result_2 & 1 == 0,
            2 => predicate.result_2 & 1 != 0,
            3 => predicate.result & 1 == 0,
            4 => predicate.result & 1 != 0,
            0xf => true,
            value => return Err(FaultCause::Invalid { field: "predicate enable", value }),
        };
        Ok(Flow::Next)
    }

    /// The page tables a command means. The global GTT is for privileged batches only: `None` then,
    /// because the hardware turns such a command of a client into MI_NOOP.
    pub(super) fn reach(&mut self, global: bool) -> Option<Space> {
        match (global, self.is_privileged()) {
            (false, _) => Some(Space::Context),
            (true, true) => Some(Space::Global),
            (true, false) => {
                self.filtered += 1;
                None
            }
        }
    }

    /// Rings, and the batches that they start in the global GTT.
    pub(super) fn is_privileged(&self) -> bool {
        self.space == Space::Global
    }

    pub(super) fn interrupt(&mut self, what: Interrupt, bus: &Bus<'_>) {
        self.interrupts += 1;
        bus.interrupt(what);
    }

    /// Counts what was filtered out.
    pub(super) fn filter(&mut self, filtered: bool) -> bool {
        self.filtered += u64::from(filtered);
        filtered
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "halves of test values are meant")]

    use crate::testing::{BATCH, D, DATA, render};

    #[test]
    fn batches_jump_and_call() {
        let mut bench = render();
        let (second, third) = (BATCH as u32 + 0x1000, BATCH as u32 + 0x2000);
        // The second level stores 1, chains with bit 22 (still the second level), and returns.
        bench.memory.put(second.into(), &[0x1000_0002, D, 0, 1, 0x18c0_0101, third, 0]);
        bench.memory.put(third.into(), &[0x1000_0002, D + 4, 0, 2, 0x0500_0000]);
        bench.complete(&[0x18c0_0101, second, 0, 0x1000_0002, D + 8, 0, 3]);
        assert_eq!([0, 4, 8].map(|i| bench.memory.dword(DATA + i)), [1, 2, 3]);
        // Without bit 22 there is no way back.
        bench.memory.put(DATA, &[0, 0, 0]);
        bench.complete(&[0x1880_0001, second, 0, 0x1000_0002, D + 8, 0, 3]);
        assert_eq!([0, 8].map(|i| bench.memory.dword(DATA + i)), [1, 3 - 3]);
    }

    #[test]
    fn a_jump_out_of_the_second_level_is_for_good() {
        let mut bench = render();
        let (second, third) = (BATCH as u32 + 0x1000, BATCH as u32 + 0x2000);
        bench.memory.put(second.into(), &[0x1880_0101, third, 0]);
        bench.memory.put(third.into(), &[0x0500_0000]);
        bench.complete(&[0x18c0_0101, second, 0, 0x1000_0002, D, 0, 3]);
        assert_eq!(bench.memory.dword(DATA), 0);
    }

    #[test]
    fn jumps_can_be_predicated() {
        for (result, expected) in [(0, 7), (1, 0)] {
            let mut bench = render();
            let target = BATCH as u32 + 0x1000;
            bench.memory.put(target.into(), &[0x0500_0000]);
            bench.complete(&[
                0x1100_0001,
                0x241c,
                result,
                0x1880_8101,
                target,
                0,
                0x1000_0002,
                D,
                0,
                7,
            ]);
            assert_eq!(bench.memory.dword(DATA), expected, "result {result}");
        }
    }

    #[test]
    fn conditional_end_goes_on_while_memory_is_greater() {
        for (memory, stored) in [(6, 1), (5, 0), (4, 0)] {
            let mut bench = render();
            bench.memory.put(DATA, &[memory]);
            bench.complete(&[0x1b20_0002, 5, D, 0, 0x1000_0002, D + 4, 0, 1]);
            assert_eq!(bench.memory.dword(DATA + 4), stored, "memory {memory}");
        }
        // With a mask in the low dword; without bit 21 there is no comparison.
        for (header, stored) in [(0x1b28_0002, 0), (0x1b20_0002, 1), (0x1b00_0002, 1)] {
            let mut bench = render();
            bench.memory.put(DATA, &[0x0f, 0xf0]);
            bench.complete(&[header, 0, D, 0, 0x1000_0002, D + 8, 0, 1]);
            assert_eq!(bench.memory.dword(DATA + 8), stored, "{header:#x}");
        }
    }

    #[test]
    fn predicates_combine() {
        // Sources equal, then a false one combined by and, or, xor; loaded inverted.
        let load = |equal: bool| [0x1100_0003, 0x2400, 5, 0x2408, if equal { 5 } else { 6 }];
        for (second, inverted, expected) in
            [(0, 0, 0), (1 << 3, 0, 0), (2 << 3, 0, 1), (3 << 3, 0, 1), (1 << 3, 1 << 6, 1)]
        {
            let mut bench = render();
            let mut batch = load(true).to_vec();
            batch.push(0x0600_0000 | 2);
            batch.extend(load(false));
            batch.push(0x0600_0000 | 2 << 6 | inverted | second | 2);
            // A predicated store, and the register itself.
            batch.extend([0x1220_0002, 0x2400, D, 0, 0x1200_0002, 0x2418, D + 4, 0]);
            bench.complete(&batch);
            let found = [0, 4].map(|i| bench.memory.dword(DATA + i));
            assert_eq!(
                found,
                [5 * expected, expected],
                "second {second:#x} inverted {inverted:#x}"
            );
        }
    }

    #[test]
    fn set_predicate_inhibits_until_it_is_taken_back() {
        let store = |value: u32| [0x1000_0002, D, 0, value];
        for (mode, result_2, stored) in [(0, 0, 1), (1, 0, 9), (1, 1, 1), (2, 1, 9), (15, 0, 9)] {
            let mut bench = render();
            bench.memory.put(DATA, &[9]);
            let mut batch = vec![0x1100_0001, 0x23bc, result_2, 0x0080_0000 | mode];
            batch.extend(store(1));
            bench.complete(&batch);
            assert_eq!(bench.memory.dword(DATA), stored, "mode {mode}, result {result_2}");
            batch.push(0x0080_0000);
            batch.extend(store(2));
            bench.complete(&batch);
            assert_eq!(bench.memory.dword(DATA), 2, "mode {mode}, result {result_2}");
        }
    }

    #[test]
    fn what_names_the_global_gtt_is_filtered() {
        let mut bench = render();
        bench.memory.put(DATA, &[9, 9]);
        bench.complete(&[
            0x1040_0002,
            D,
            0,
            1, // MI_STORE_DATA_IMM
            0x17c0_0501,
            D,
            0, // MI_ATOMIC
            0x1240_0002,
            0x2600,
            D,
            0, // MI_STORE_REGISTER_MEM
            0x1720_0003,
            D,
            0,
            D + 4,
            0, // MI_COPY_MEM_MEM, destination
            0x0e40_c002,
            1,
            D,
            0, // MI_SEMAPHORE_WAIT
            0x1300_4002,
            D | 4,
            0,
            1, // MI_FLUSH_DW
            0x7a00_0004,
            1 << 14 | 1 << 24,
            D,
            0,
            1,
            1, // PIPE_CONTROL
            0x1080_0001,
            0x100,
            1, // MI_STORE_DATA_INDEX
        ]);
        assert_eq!([0, 4].map(|i| bench.memory.dword(DATA + i)), [9, 9]);
        assert_eq!(bench.streamer.counters().filtered, 8);
    }
}
