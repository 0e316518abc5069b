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

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "halves of test values are meant")]

    use crate::FaultCause;
    use crate::testing::{D, DATA, fault, render};

    #[test]
    fn math_computes() {
        let load = |to: u32, from: u32| 0x080 << 20 | to << 10 | from;
        let store = |to: u32, from: u32| 0x180 << 20 | to << 10 | from;
        let run = |a: u64, b: u64, opcode: u32| {
            let mut bench = render();
            bench.memory.put(DATA, &[a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]);
            bench.complete(&[
                0x1480_0002,
                0x2600,
                D,
                0,
                0x1480_0002,
                0x2604,
                D + 4,
                0, //
                0x1480_0002,
                0x2608,
                D + 8,
                0,
                0x1480_0002,
                0x260c,
                D + 12,
                0, //
                0x0d00_0005,
                load(0x20, 0),
                load(0x21, 1),
                opcode << 20, //
                store(2, 0x31),
                store(3, 0x32),
                store(4, 0x33),
            ]);
            [2, 3, 4].map(|index| bench.general(index))
        };
        let (yes, no) = (u64::MAX, 0);
        let minus_one = u64::MAX;
        for (a, b, opcode, expected) in [
            (40, 2, 0x100, [42, no, no]),
            (minus_one, 1, 0x100, [0, yes, yes]),
            (1 << 32, minus_one, 0x100, [(1 << 32) - 1, no, yes]),
            (40, 2, 0x101, [38, no, no]),
            (2, 40, 0x101, [2u64.wrapping_sub(40), no, yes]),
            (7, 7, 0x101, [0, yes, no]),
            (0b1100, 0b1010, 0x102, [0b1000, no, no]),
            (0b1100, 0b0011, 0x102, [0, yes, no]),
            (0b1100, 0b1010, 0x103, [0b1110, no, no]),
            (0b1100, 0b1010, 0x104, [0b0110, no, no]),
        ] {
            assert_eq!(run(a, b, opcode), expected, "{a:#x} {opcode:#x} {b:#x}");
        }
    }

    #[test]
    fn math_loads_constants_and_inverses() {
        let mut bench = render();
        let word = |opcode: u32, first: u32, second: u32| opcode << 20 | first << 10 | second;
        bench.complete(&[
            0x1100_0001,
            0x2600,
            5, //
            0x0d00_0009,
            word(0x480, 0x20, 0),
            word(0x081, 0x21, 0),
            word(0x100, 0, 0),    //
            word(0x180, 1, 0x31), // R1 = !R0 + 0
            word(0x081, 0x20, 0),
            word(0x481, 0x21, 0),
            word(0x100, 0, 0), //
            word(0x580, 2, 0x31),
            word(0x180, 3, 0x21),
            word(0, 0, 0), // R2 = !1, R3 = SRCB
        ]);
        assert_eq!([1, 2, 3].map(|i| bench.general(i)), [!5, !1, 1]);
        let stop = bench.run(&[0x0d00_0000, word(0x777, 0, 0)]);
        assert_eq!(fault(stop).what, FaultCause::Invalid { field: "ALU opcode", value: 0x777 });
    }
}
