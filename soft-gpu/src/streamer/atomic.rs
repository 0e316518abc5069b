//! MI_ATOMIC.

use crate::fault::FaultCause;
use crate::registers::Registers;
use crate::streamer::{Bus, Command, Space};

/// What to do, bits 12:8 of the header for dwords; qwords have 0x20 added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    And,
    Or,
    Xor,
    Move,
    Increment,
    Decrement,
    Add,
    Subtract,
    ReverseSubtract,
    SignedMax,
    SignedMin,
    UnsignedMax,
    UnsignedMin,
    CompareWrite,
}

/// Width of the memory operand.
const SIZE_QWORD: u32 = 1;
const SIZE_DWORD: u32 = 0;

/// Executes MI_ATOMIC on dwords and qwords. Operands are inline or in R0 (the first) and R2 (the
/// second, the new value of a compare-and-write); with return data, the old value goes to R4.
pub(super) fn execute(
    command: &Command<'_>,
    registers: &mut Registers,
    space: Space,
    bus: &mut Bus<'_>,
) -> Result<(), FaultCause> {
    let size = command.header >> 19 & 3;
    let opcode = command.header >> 8 & 0xff;
    let inline = command.bit(18);
    let wide = size == SIZE_QWORD;
    match size {
        SIZE_DWORD | SIZE_QWORD => {}
        // Sixteen bytes: the memory of a software GPU has no such atomic access.
        2 => return Err(FaultCause::Unsupported { what: "atomics of sixteen bytes" }),
        value => return Err(FaultCause::Invalid { field: "data size", value }),
    }
    let operation = operation(opcode, wide)?;
    // Inline operands are interleaved by dword: first low, second low, first high, second high.
    let (first, second) = if inline {
        command.require(if wide { 7 } else { 5 })?;
        let pair = |low: usize, high: usize| {
            u64::from(command.dword(low)) | u64::from(command.dword(high)) << 32
        };
        (pair(3, 5), pair(4, 6))
    } else {
        command.require(3)?;
        (registers.general(0), registers.general(2))
    };
    let old = if wide {
        let address = command.address(1, 8)?;
        bus.update_u64(space, address, &mut |old| operation.apply_u64(old, first, second))?
    } else {
        let address = command.address(1, 4)?;
        let (first, second) = (low(first), low(second));
        bus.update_u32(space, address, &mut |old| operation.apply_u32(old, first, second))?.into()
    };
    if command.bit(16) {
        let kept = if wide { 0 } else { registers.general(4) >> 32 << 32 };
        registers.set_general(4, kept | old);
    }
    Ok(())
}

fn operation(opcode: u32, wide: bool) -> Result<Operation, FaultCause> {
    let base = if wide { 0x20 } else { 0 };
    Ok(match opcode.wrapping_sub(base) {
        0x01 => Operation::And,
        0x02 => Operation::Or,
        0x03 => Operation::Xor,
        0x04 => Operation::Move,
        0x05 => Operation::Increment,
        0x06 => Operation::Decrement,
        0x07 => Operation::Add,
        0x08 => Operation::Subtract,
        0x09 => Operation::ReverseSubtract,
        0x0a => Operation::SignedMax,
        0x0b => Operation::SignedMin,
        0x0c => Operation::UnsignedMax,
        0x0d => Operation::UnsignedMin,
        0x0e => Operation::CompareWrite,
        _ => return Err(FaultCause::Invalid { field: "atomic opcode", value: opcode }),
    })
}

impl Operation {
    fn apply_u32(self, old: u32, first: u32, second: u32) -> u32 {
        match self {
            Self::SignedMax => old.cast_signed().max(first.cast_signed()).cast_unsigned(),
            Self::SignedMin => old.cast_signed().min(first.cast_signed()).cast_unsigned(),
            // The other operations have the same low half at any width: the operands are
            // zero-extended, so that maxima and comparisons agree as well.
            Self::And
            | Self::Or
            | Self::Xor
            | Self::Move
            | Self::Increment
            | Self::Decrement
            | Self::Add
            | Self::Subtract
            | Self::ReverseSubtract
            | Self::UnsignedMax
            | Self::UnsignedMin
            | Self::CompareWrite => low(self.apply_u64(old.into(), first.into(), second.into())),
        }
    }

    fn apply_u64(self, old: u64, first: u64, second: u64) -> u64 {
        match self {
            Self::And => old & first,
            Self::Or => old | first,
            Self::Xor => old ^ first,
            Self::Move => first,
            Self::Increment => old.wrapping_add(1),
            Self::Decrement => old.wrapping_sub(1),
            Self::Add => old.wrapping_add(first),
            Self::Subtract => old.wrapping_sub(first),
            Self::ReverseSubtract => first.wrapping_sub(old),
            Self::SignedMax => old.cast_signed().max(first.cast_signed()).cast_unsigned(),
            Self::SignedMin => old.cast_signed().min(first.cast_signed()).cast_unsigned(),
            Self::UnsignedMax => old.max(first),
            Self::UnsignedMin => old.min(first),
            Self::CompareWrite => {
                if old == first {
                    second
                } else {
                    old
                }
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "halves of test values are meant")]

    use crate::testing::{D, DATA, render};

    #[test]
    fn atomics_compute() {
        let cases: [(u32, u64, u64, u64); 17] = [
            (1, 0b1100, 0b1010, 0b1000),
            (2, 0b1100, 0b1010, 0b1110),
            (3, 0b1100, 0b1010, 0b0110),
            (4, 1, 2, 2),
            (5, 1, 0, 2),
            (6, 1, 0, 0),
            (7, 40, 2, 42),
            (8, 40, 2, 38),
            (9, 40, 42, 2),
            (10, 1, 2, 2),
            (11, 1, 2, 1),
            (12, 3, 2, 3),
            (13, 3, 2, 2),
            (14, 7, 7, 99),
            (14, 7, 8, 7),
            (6, 0, 0, u64::MAX),
            (10, u64::MAX, 2, 2),
        ];
        for (opcode, memory, operand, expected) in cases {
            for wide in [false, true] {
                for inline in [false, true] {
                    let mut bench = render();
                    let (low, high) = (memory as u32, (memory >> 32) as u32);
                    bench.memory.put(DATA, &[low, if wide { high } else { 0x5555 }]);
                    let code = opcode + if wide { 0x20 } else { 0 };
                    let header = 0x1781_0000 | code << 8 | u32::from(wide) << 19;
                    let (first, second) = (operand as u32, 99);
                    if inline {
                        let inline = [header | 1 << 18 | 9, D, 0, first, second, 0, 0, 0, 0, 0, 0];
                        bench.complete(&inline);
                    } else {
                        bench.complete(&[
                            0x1100_0003,
                            0x2600,
                            first,
                            0x2610,
                            second,
                            header | 1,
                            D,
                            0,
                        ]);
                    }
                    let case = format!("opcode {code:#x}, inline {inline}, memory {memory:#x}");
                    if wide {
                        assert_eq!(bench.memory.qword(DATA), expected, "{case}");
                        assert_eq!(bench.general(4), memory, "{case}");
                    } else {
                        let result = [bench.memory.dword(DATA), bench.memory.dword(DATA + 4)];
                        assert_eq!(result, [expected as u32, 0x5555], "{case}");
                        assert_eq!(bench.general(4), u64::from(low), "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_short_atomic_of_drivers_increments() {
        let mut bench = render();
        bench.memory.put(DATA, &[u32::MAX]);
        bench.complete(&[0x1780_0501, D, 0]);
        assert_eq!(bench.memory.dword(DATA), 0);
    }
}
