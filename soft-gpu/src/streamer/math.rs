//! MI_MATH: a small arithmetic unit on 64-bit registers.

use crate::fault::FaultCause;
use crate::registers::Registers;
use crate::streamer::Command;

/// Executes the ALU instructions from dword 1 on. An instruction has its opcode in bits 31:20 and
/// two operands of ten bits. A flag that is stored sets all bits of the register, or none.
pub(super) fn execute(command: &Command<'_>, registers: &mut Registers) -> Result<(), FaultCause> {
    let mut alu = Alu::default();
    for index in 1..command.dwords() as usize {
        alu.step(command.dword(index), registers)?;
    }
    Ok(())
}

#[derive(Default)]
struct Alu {
    source_a: u64,
    source_b: u64,
    accumulator: u64,
    zero: bool,
    carry: bool,
}

mod opcode {
    pub(super) const NOOP: u32 = 0x000;
    pub(super) const LOAD: u32 = 0x080;
    pub(super) const LOADINV: u32 = 0x480;
    pub(super) const LOAD0: u32 = 0x081;
    pub(super) const LOAD1: u32 = 0x481;
    pub(super) const ADD: u32 = 0x100;
    pub(super) const SUB: u32 = 0x101;
    pub(super) const AND: u32 = 0x102;
    pub(super) const OR: u32 = 0x103;
    pub(super) const XOR: u32 = 0x104;
    pub(super) const STORE: u32 = 0x180;
    pub(super) const STOREINV: u32 = 0x580;
}

mod operand {
    pub(super) const SRCA: u32 = 0x20;
    pub(super) const SRCB: u32 = 0x21;
    pub(super) const ACCU: u32 = 0x31;
    pub(super) const ZF: u32 = 0x32;
    pub(super) const CF: u32 = 0x33;
}

impl Alu {
    fn step(&mut self, instruction: u32, registers: &mut Registers) -> Result<(), FaultCause> {
        let (first, second) = (instruction >> 10 & 0x3ff, instruction & 0x3ff);
        match instruction >> 20 {
            opcode::NOOP => {}
            opcode::LOAD => *self.source(first)? = self.value(second, registers)?,
            opcode::LOADINV => *self.source(first)? = !self.value(second, registers)?,
            opcode::LOAD0 => *self.source(first)? = 0,
            opcode::LOAD1 => *self.source(first)? = 1,
            opcode::ADD => self.result(self.source_a.overflowing_add(self.source_b)),
            // The carry of a subtraction is the borrow.
            opcode::SUB => self.result(self.source_a.overflowing_sub(self.source_b)),
            opcode::AND => self.result((self.source_a & self.source_b, false)),
            opcode::OR => self.result((self.source_a | self.source_b, false)),
            opcode::XOR => self.result((self.source_a ^ self.source_b, false)),
            opcode::STORE => {
                let value = self.value(second, registers)?;
                registers.set_general(general(first)?, value);
            }
            opcode::STOREINV => {
                let value = !self.value(second, registers)?;
                registers.set_general(general(first)?, value);
            }
            value => return Err(FaultCause::Invalid { field: "ALU opcode", value }),
        }
        Ok(())
    }

    fn result(&mut self, (value, carry): (u64, bool)) {
        self.accumulator = value;
        self.zero = value == 0;
        self.carry = carry;
    }

    fn source(&mut self, operand: u32) -> Result<&mut u64, FaultCause> {
        match operand {
            operand::SRCA => Ok(&mut self.source_a),
            operand::SRCB => Ok(&mut self.source_b),
            value => Err(FaultCause::Invalid { field: "ALU destination", value }),
        }
    }

    fn value(&self, operand: u32, registers: &Registers) -> Result<u64, FaultCause> {
        let flag = |set: bool| if set { u64::MAX } else { 0 };
        match operand {
            0..=15 => Ok(registers.general(operand as usize)),
            operand::SRCA => Ok(self.source_a),
            operand::SRCB => Ok(self.source_b),
            operand::ACCU => Ok(self.accumulator),
            operand::ZF => Ok(flag(self.zero)),
            operand::CF => Ok(flag(self.carry)),
            value => Err(FaultCause::Invalid { field: "ALU source", value }),
        }
    }
}

fn general(operand: u32) -> Result<usize, FaultCause> {
    match operand {
        0..=15 => Ok(operand as usize),
        value => Err(FaultCause::Invalid { field: "ALU destination", value }),
    }
}
