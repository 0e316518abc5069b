//! Batches as text: commands with their names and fields.

use super::{Client, mi, name_or_kind, pipeline, xy};

/// Dwords of a command that are shown; the rest of a long one is data.
pub const LISTED_DWORDS_MAX: usize = 16;

/// A command in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Where it is.
    pub address: u64,
    /// It, header first; at most [`LISTED_DWORDS_MAX`].
    pub dwords: Vec<u32>,
    /// The hardware's name.
    pub name: &'static str,
    /// What its dwords mean, in their order.
    pub fields: Vec<(&'static str, u64)>,
}

/// The commands in `bytes`, which lie at `address`, one after the other: jumps are not followed. A
/// dword that begins no command is listed by itself.
pub fn listing(bytes: &[u8], address: u64) -> impl Iterator<Item = Listed> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        let header = dword(rest, 0)?;
        let length = Client::of(header).dwords(header).unwrap_or(1).max(1) as usize;
        let dwords: Vec<u32> =
            (0..length.min(LISTED_DWORDS_MAX)).map_while(|index| dword(rest, index)).collect();
        let here = address.wrapping_add(at as u64);
        at += length * 4;
        Some(Listed {
            address: here,
            name: name_or_kind(header),
            fields: fields(header, &dwords),
            dwords,
        })
    })
}

fn dword(bytes: &[u8], index: usize) -> Option<u32> {
    bytes.get(index * 4..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Named fields of the commands that the software GPU executes; none for others.
fn fields(header: u32, dwords: &[u32]) -> Vec<(&'static str, u64)> {
    let take = Operands { dwords };
    let mut fields = match Client::of(header) {
        Client::Mi(opcode) => mi_fields(opcode, header, &take),
        Client::Blitter(opcode) => blit_fields(opcode, &take),
        Client::Pipeline(pipeline::PIPE_CONTROL) => {
            vec![("flags", take.dword(1)), ("address", take.qword(2)), ("data", take.qword(4))]
        }
        Client::Pipeline(_) | Client::Reserved => Vec::new(),
    };
    // A command that is cut off has no more fields than dwords.
    fields.truncate(dwords.len() * 2);
    fields
}

/// Dwords of a command; what is not there is 0.
struct Operands<'a> {
    dwords: &'a [u32],
}

impl Operands<'_> {
    fn dword(&self, index: usize) -> u64 {
        self.dwords.get(index).copied().unwrap_or(0).into()
    }

    fn qword(&self, index: usize) -> u64 {
        self.dword(index) | self.dword(index + 1) << 32
    }

    fn low(&self, index: usize) -> u64 {
        self.dword(index) & 0xffff
    }

    fn high(&self, index: usize) -> u64 {
        self.dword(index) >> 16
    }
}

fn mi_fields(opcode: u8, header: u32, take: &Operands<'_>) -> Vec<(&'static str, u64)> {
    let bits = |from: u32, count: u32| u64::from(header >> from & ((1 << count) - 1));
    match opcode {
        mi::SET_PREDICATE => vec![("mode", bits(0, 4))],
        mi::ARB_ON_OFF => vec![("enable", bits(0, 1))],
        mi::PREDICATE => {
            vec![("load", bits(6, 2)), ("combine", bits(3, 2)), ("compare", bits(0, 2))]
        }
        mi::MATH => vec![("instructions", bits(0, 8) + 1)],
        mi::SEMAPHORE_WAIT => vec![
            ("polling", bits(15, 1)),
            ("compare", bits(12, 3)),
            ("value", take.dword(1)),
            ("address", take.qword(2)),
        ],
        mi::STORE_DATA_IMM if bits(21, 1) == 1 => {
            vec![("address", take.qword(1)), ("data", take.qword(3))]
        }
        mi::STORE_DATA_IMM => vec![("address", take.qword(1)), ("data", take.dword(3))],
        mi::LOAD_REGISTER_IMM => (1..take.dwords.len().saturating_sub(1))
            .step_by(2)
            .flat_map(|at| [("register", take.dword(at)), ("value", take.dword(at + 1))])
            .collect(),
        mi::STORE_REGISTER_MEM | mi::LOAD_REGISTER_MEM => {
            vec![("register", take.dword(1)), ("address", take.qword(2))]
        }
        mi::LOAD_REGISTER_REG => vec![("source", take.dword(1)), ("destination", take.dword(2))],
        mi::FLUSH_DW => vec![
            ("post_sync", bits(14, 2)),
            ("address", take.qword(1) & !7),
            ("data", take.qword(3)),
        ],
        mi::COPY_MEM_MEM => vec![("destination", take.qword(1)), ("source", take.qword(3))],
        mi::ATOMIC => vec![("operation", bits(8, 8)), ("address", take.qword(1))],
        mi::BATCH_BUFFER_START => vec![("second_level", bits(22, 1)), ("address", take.qword(1))],
        mi::CONDITIONAL_BATCH_BUFFER_END => {
            vec![("value", take.dword(1)), ("address", take.qword(2))]
        }
        _ => Vec::new(),
    }
}

fn blit_fields(opcode: u8, take: &Operands<'_>) -> Vec<(&'static str, u64)> {
    let mut fields = vec![
        ("pitch", take.low(1)),
        ("rop", take.dword(1) >> 16 & 0xff),
        ("x1", take.low(2)),
        ("y1", take.high(2)),
        ("x2", take.low(3)),
        ("y2", take.high(3)),
        ("destination", take.qword(4)),
    ];
    match opcode {
        xy::COLOR_BLT => fields.push(("color", take.dword(6))),
        xy::SRC_COPY_BLT | xy::FAST_COPY_BLT => fields.extend([
            ("source_x1", take.low(6)),
            ("source_y1", take.high(6)),
            ("source_pitch", take.low(7)),
            ("source", take.qword(8)),
        ]),
        _ => fields.clear(),
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(dwords: &[u32]) -> Vec<u8> {
        dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect()
    }

    #[test]
    fn commands_are_listed_with_names_and_fields() {
        let batch = bytes(&[
            0x1000_0002,
            0x2000,
            1,
            42, // MI_STORE_DATA_IMM
            0x1108_1001 & 0xff80_00ff | 1,
            0x2600,
            7,           // MI_LOAD_REGISTER_IMM
            0xe000_0000, // no command
            0x0500_0000, // MI_BATCH_BUFFER_END
        ]);
        let listed: Vec<_> = listing(&batch, 0x1000).collect();
        let names: Vec<_> = listed.iter().map(|listed| (listed.address, listed.name)).collect();
        assert_eq!(
            names,
            [
                (0x1000, "MI_STORE_DATA_IMM"),
                (0x1010, "MI_LOAD_REGISTER_IMM"),
                (0x101c, "unknown command"),
                (0x1020, "MI_BATCH_BUFFER_END"),
            ]
        );
        assert_eq!(listed[0].fields, [("address", 0x1_0000_2000), ("data", 42)]);
        assert_eq!(listed[1].fields, [("register", 0x2600), ("value", 7)]);
        assert_eq!(listed[2].dwords, [0xe000_0000]);
    }

    /// Whatever is in memory: the listing ends, and no command has more than it may.
    #[test]
    fn a_listing_of_anything_ends() {
        for header in (0..=u32::MAX).step_by(0x0010_0003) {
            let memory = bytes(&[header, 1, 2, 3, header.rotate_left(7), 5]);
            for cut in [0, 3, 4, 24] {
                for listed in listing(&memory[..cut], u64::MAX - 8) {
                    assert!((1..=LISTED_DWORDS_MAX).contains(&listed.dwords.len()));
                    assert!(listed.fields.len() <= 2 * LISTED_DWORDS_MAX);
                }
            }
        }
    }
}
