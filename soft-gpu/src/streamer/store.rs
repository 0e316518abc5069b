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
        if self.is_privileged(command) {
            return Ok(Flow::Next);
        }
        let address = command.address(1, if wide { 8 } else { 4 })?;
        match (wide, command.dwords()) {
            (false, 4) => bus.write_u32(address, command.dword(3))?,
            (true, 5) => bus.write_u64(address, command.qword(3))?,
            // Half a qword at the end is not stored.
            (true, dwords) => {
                let bytes = command.bytes_from(3);
                let whole = ((dwords - 3) / 2 * 8) as usize;
                bus.write(address, bytes.get(..whole).unwrap_or(bytes))?;
            }
            (false, _) => bus.write(address, command.bytes_from(3))?,
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
        if self.is_privileged(command) || self.filter(command.bit(21)) {
            return Ok(Flow::Next);
        }
        let (to, from) = (command.address(1, 4)?, command.address(3, 4)?);
        let value = bus.read_u32(from)?;
        bus.write_u32(to, value)?;
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
            let register = register(command.dword(index));
            let mut value = command.dword(index + 1);
            if disabled != 0 {
                let mask = byte_mask(disabled);
                let old = self.registers.read(register, bus.clock).unwrap_or(0);
                value = old & mask | value & !mask;
            }
            self.write_register(register, value);
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
        let (from, to) = (register(command.dword(1)), register(command.dword(2)));
        let value = self.registers.read(from, bus.clock).unwrap_or(0);
        self.write_register(to, value);
        Ok(Flow::Next)
    }

    /// MI_LOAD_REGISTER_MEM.
    pub(super) fn load_register_mem(
        &mut self,
        command: &Command<'_>,
        bus: &Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        command.require(4)?;
        if self.is_privileged(command) {
            return Ok(Flow::Next);
        }
        let value = bus.read_u32(command.address(2, 4)?)?;
        self.write_register(register(command.dword(1)), value);
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
        if predicated_out || self.is_privileged(command) {
            return Ok(Flow::Next);
        }
        let address = command.address(2, 4)?;
        let value = self.registers.read(register(command.dword(1)), bus.clock).unwrap_or(0);
        bus.write_u32(address, value)?;
        Ok(Flow::Next)
    }

    fn write_register(&mut self, register: u32, value: u32) {
        let written = self.registers.write(register, value);
        self.filter(!written);
    }
}

/// Bits 22:2 of an operand are the register's address.
fn register(operand: u32) -> u32 {
    operand & 0x7f_fffc
}

/// The bits of the bytes that `bytes` names.
fn byte_mask(bytes: u32) -> u32 {
    (0..4).filter(|byte| bytes >> byte & 1 != 0).fold(0, |mask, byte| mask | 0xff << (byte * 8))
}
