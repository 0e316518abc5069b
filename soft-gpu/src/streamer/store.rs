//! Commands that move data between memory, registers and the batch.

use crate::fault::FaultCause;
use crate::streamer::{Bus, Command, Flow, State};

impl State {
    /// MI_STORE_DATA_IMM: dwords, or qwords with bit 21, as many as the command is long.
    pub(super) fn store_data_imm(
        &mut self,
        command: &Command<'_>,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        let wide = command.bit(21);
        command.require(if wide { 5 } else { 4 })?;
        let Some(space) = self.reach(command.bit(22)) else { return Ok(Flow::Next) };
        let address = command.address(1, if wide { 8 } else { 4 })?;
        match (wide, command.dwords()) {
            (false, 4) => bus.write_u32(space, address, command.dword(3))?,
            (true, 5) => bus.write_u64(space, address, command.qword(3))?,
            // Half a qword at the end is not stored.
            (true, dwords) => {
                let bytes = command.bytes_from(3);
                let whole = ((dwords - 3) / 2 * 8) as usize;
                bus.write_in(space, address, bytes.get(..whole).unwrap_or(bytes))?;
            }
            (false, _) => bus.write_in(space, address, command.bytes_from(3))?,
        }
        Ok(Flow::Next)
    }

    /// MI_COPY_MEM_MEM: one dword.
    pub(super) fn copy_mem_mem(
        &mut self,
        command: &Command<'_>,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(5)?;
        // Either address may name the global GTT.
        let (Some(source), Some(destination)) =
            (self.reach(command.bit(22)), self.reach(command.bit(21)))
        else {
            return Ok(Flow::Next);
        };
        let (to, from) = (command.address(1, 4)?, command.address(3, 4)?);
        let value = bus.read_u32(source, from)?;
        bus.write_u32(destination, to, value)?;
        Ok(Flow::Next)
    }

    /// MI_LOAD_REGISTER_IMM: pairs of a register and a value. Bits 11:8 of the header disable the
    /// bytes of all values.
    pub(super) fn load_register_imm(
        &mut self,
        command: &Command<'_>,
        bus: &Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(3)?;
        let disabled = command.header >> 8 & 0xf;
        for index in (1..command.dwords() as usize - 1).step_by(2) {
            let register = self.register(command.dword(index), command.bit(RELATIVE));
            let mut value = command.dword(index + 1);
            if disabled != 0 {
                let mask = byte_mask(disabled);
                let old = self.read_register(register, bus);
                value = old & mask | value & !mask;
            }
            self.write_register(register, value, bus);
        }
        Ok(Flow::Next)
    }

    /// MI_LOAD_REGISTER_REG.
    pub(super) fn load_register_reg(
        &mut self,
        command: &Command<'_>,
        bus: &Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(3)?;
        let from = self.register(command.dword(1), command.bit(SOURCE_RELATIVE));
        let to = self.register(command.dword(2), command.bit(RELATIVE));
        let value = self.read_register(from, bus);
        self.write_register(to, value, bus);
        Ok(Flow::Next)
    }

    /// MI_LOAD_REGISTER_MEM.
    pub(super) fn load_register_mem(
        &mut self,
        command: &Command<'_>,
        bus: &Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(4)?;
        let Some(space) = self.reach(command.bit(22)) else { return Ok(Flow::Next) };
        let value = bus.read_u32(space, command.address(2, 4)?)?;
        let register = self.register(command.dword(1), command.bit(RELATIVE));
        self.write_register(register, value, bus);
        Ok(Flow::Next)
    }

    /// MI_STORE_REGISTER_MEM. Bit 21: only if MI_PREDICATE_RESULT is set.
    pub(super) fn store_register_mem(
        &mut self,
        command: &Command<'_>,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(4)?;
        let predicated_out = command.bit(21) && self.registers.predicate().result & 1 == 0;
        if predicated_out {
            return Ok(Flow::Next);
        }
        let Some(space) = self.reach(command.bit(22)) else { return Ok(Flow::Next) };
        let address = command.address(2, 4)?;
        let register = self.register(command.dword(1), command.bit(RELATIVE));
        let value = self.read_register(register, bus);
        bus.write_u32(space, address, value)?;
        Ok(Flow::Next)
    }

    /// The register that an operand names.
    fn register(&self, operand: u32, relative: bool) -> u32 {
        let address = operand & ADDRESS;
        if relative { self.registers.absolute(address) } else { address }
    }

    fn read_register(&mut self, register: u32, bus: &Bus<'_>) -> u32 {
        match self.registers.read(register, bus.clock) {
            Some(value) => value,
            None => bus.read_register(register),
        }
    }

    fn write_register(&mut self, register: u32, value: u32, bus: &Bus<'_>) {
        let written = self.registers.write(register, value)
            || bus.write_register(register, value, self.is_privileged());
        self.filter(!written);
    }

    /// MI_STORE_DATA_INDEX: a dword, or with five dwords a qword, into the status page.
    pub(super) fn store_data_index(
        &mut self,
        command: &Command<'_>,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(3)?;
        let Some(space) = self.reach(true) else { return Ok(Flow::Next) };
        let address = bus.status_page() + u64::from(command.dword(1) & 0xffc);
        if command.dwords() < 4 {
            bus.write_u32(space, address, command.dword(2))?;
        } else {
            bus.write_u64(space, address, command.qword(2))?;
        }
        Ok(Flow::Next)
    }
}

/// Bits of an operand that are the register's address.
const ADDRESS: u32 = 0x7f_fffc;
/// Bit of the header that makes an operand relative to the engine, of two the destination.
const RELATIVE: u32 = 19;
/// The same of the source.
const SOURCE_RELATIVE: u32 = 18;

/// The bits of the bytes that `bytes` names.
fn byte_mask(bytes: u32) -> u32 {
    (0..4).filter(|byte| bytes >> byte & 1 != 0).fold(0, |mask, byte| mask | 0xff << (byte * 8))
}

#[cfg(test)]
mod tests {
    use crate::EngineKind;
    use crate::testing::{Bench, D, DATA, render};

    #[test]
    fn store_data_imm_stores_dwords_qwords_and_rows_of_them() {
        let mut bench = render();
        bench.complete(&[0x1020_0003, D, 0, 2, 1]);
        assert_eq!(bench.memory.qword(DATA), 0x1_0000_0002);
        // Three dwords, then two qwords, and half a qword that is not stored.
        bench.complete(&[0x1000_0004, D + 0x10, 0, 7, 8, 9]);
        assert_eq!([0, 4, 8, 12].map(|i| bench.memory.dword(DATA + 0x10 + i)), [7, 8, 9, 0]);
        bench.complete(&[0x1020_0006, D + 0x20, 0, 1, 2, 3, 4, 5]);
        assert_eq!(bench.memory.qword(DATA + 0x20), 0x2_0000_0001);
        assert_eq!(bench.memory.qword(DATA + 0x28), 0x4_0000_0003);
        assert_eq!(bench.memory.dword(DATA + 0x30), 0);
    }

    #[test]
    fn the_longest_command_is_executed() {
        let mut bench = render();
        let mut batch = vec![0x1000_03ff, D, 0];
        batch.extend(1..=1022);
        bench.complete(&batch);
        assert_eq!(bench.memory.dword(DATA), 1);
        assert_eq!(bench.memory.dword(DATA + 1021 * 4), 1022);
    }

    #[test]
    fn addresses_are_taken_without_their_sign() {
        let mut bench = render();
        bench.complete(&[0x1000_0002, D, 0xffff_0000, 5]);
        assert_eq!(bench.memory.dword(DATA), 5);
    }

    #[test]
    fn copy_mem_mem_copies_a_dword() {
        let mut bench = render();
        bench.memory.put(DATA, &[11, 12]);
        bench.complete(&[0x1700_0003, D + 8, 0, D + 4, 0]);
        assert_eq!([0, 4, 8].map(|i| bench.memory.dword(DATA + i)), [11, 12, 12]);
    }

    #[test]
    fn registers_move_between_batch_memory_and_each_other() {
        for (kind, base) in [(EngineKind::Render, 0x2000), (EngineKind::Copy, 0x2_2000)] {
            let mut bench = Bench::new(kind);
            bench.memory.put(DATA, &[0xabcd]);
            bench.complete(&[
                0x1100_0003,
                base + 0x600,
                1,
                base + 0x604,
                2, // R0 = 2:1
                0x1500_0001,
                base + 0x600,
                base + 0x60c, // R1 high = R0 low
                0x1480_0002,
                base + 0x608,
                D,
                0, // R1 low from memory
                0x1200_0002,
                base + 0x60c,
                D + 4,
                0, // R1 high to memory
            ]);
            assert_eq!(bench.general(0), 0x2_0000_0001);
            assert_eq!(bench.general(1), 0x1_0000_abcd);
            assert_eq!(bench.memory.dword(DATA + 4), 1);
        }
    }

    /// A program that is told it has a Gen11 (IGT: INTEL_DEVID_OVERRIDE) need not know where it runs.
    #[test]
    fn registers_can_be_relative_to_the_engine() {
        for kind in [EngineKind::Render, EngineKind::Copy, EngineKind::Video1] {
            let mut bench = Bench::new(kind);
            bench.memory.put(DATA, &[0xabcd]);
            bench.complete(&[
                0x1108_0001,
                0x600,
                7, // R0
                0x150c_0001,
                0x600,
                0x608, // R1 = R0
                0x1488_0002,
                0x610,
                D,
                0, // R2 from memory
                0x1208_0002,
                0x610,
                D + 4,
                0, // R2 to memory
            ]);
            assert_eq!([0, 1, 2].map(|i| bench.general(i)), [7, 7, 0xabcd], "{kind:?}");
            assert_eq!(bench.memory.dword(DATA + 4), 0xabcd);
        }
        // What Gen9 ignores the bit of: an address that is whole, and one without the bit.
        let mut bench = render();
        bench.complete(&[0x1108_0001, 0x2600, 9, 0x1100_0001, 0x608, 9]);
        assert_eq!([0, 1].map(|i| bench.general(i)), [9, 0]);
    }

    #[test]
    fn registers_outlive_the_batch() {
        let mut bench = render();
        bench.complete(&[0x1100_0001, 0x2678, 9]);
        bench.complete(&[]);
        assert_eq!(bench.general(15), 9);
    }

    #[test]
    fn register_bytes_can_be_disabled() {
        let mut bench = render();
        bench.complete(&[0x1100_0001, 0x2600, 0x1122_3344, 0x1100_0501, 0x2600, 0xaabb_ccdd]);
        assert_eq!(bench.general(0), 0xaa22_cc44);
    }

    #[test]
    fn registers_a_client_may_not_write_are_filtered() {
        let mut bench = Bench::new(EngineKind::Copy);
        // RING_MI_MODE, the timestamp, a register of another engine.
        bench.complete(&[0x1100_0005, 0x2_209c, 1, 0x2_2358, 1, 0x2600, 1]);
        assert_eq!(bench.streamer.counters().filtered, 3);
        bench.complete(&[0x1200_0002, 0x2_209c, D, 0]);
        assert_eq!(bench.memory.dword(DATA), 0);
    }

    #[test]
    fn masked_registers_keep_what_the_mask_leaves_out() {
        let mut bench = Bench::new(EngineKind::Copy);
        bench.complete(&[
            0x1100_0003,
            0x2_2200,
            0x0003_0003,
            0x2_2200,
            0x0001_0000, //
            0x1200_0002,
            0x2_2200,
            D,
            0,
        ]);
        assert_eq!(bench.memory.dword(DATA), 2);
    }

    #[test]
    fn timestamps_come_from_the_clock() {
        let mut bench = Bench::new(EngineKind::Video1);
        bench.clock.0.set(0xff_1234_5677);
        bench.complete(&[0x1200_0002, 0x1_c358, D, 0, 0x1200_0002, 0x1_c35c, D + 4, 0]);
        // 36 bits.
        assert_eq!([0, 4].map(|i| bench.memory.dword(DATA + i)), [0x1234_5678, 0xf]);
    }

    #[test]
    fn context_timestamps_stand_still_between_runs() {
        let mut bench = render();
        let read = |to: u32| [0x1200_0002, 0x23a8, to, 0];
        bench.complete(&read(D));
        bench.clock.0.set(1_000_000);
        bench.complete(&read(D + 4));
        let ticks = [0, 4].map(|i| bench.memory.dword(DATA + i));
        assert!(ticks[1] > ticks[0] && ticks[1] < 100, "{ticks:?}");
    }
}
