//! Lengths and names of commands.
//!
//! A command's first dword, its header, names the client it is for in bits 31:29: 0 the command
//! streamer itself (MI), 2 the blitter, 3 the render and media pipelines. The clients differ in
//! where the opcode is and in how many bits the length has.

mod listing;
mod names;

pub use listing::{LISTED_DWORDS_MAX, Listed, listing};

/// Who executes a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// The command streamer; opcode in bits 28:23.
    Mi(u8),
    /// The blitter; opcode in bits 28:22.
    Blitter(u8),
    /// A 3D, GPGPU or media pipeline; bits 31:16 identify the command.
    Pipeline(u16),
    /// Clients 1 and 4 to 7 do not exist.
    Reserved,
}

impl Client {
    /// The client a header addresses.
    #[inline]
    #[must_use]
    pub const fn of(header: u32) -> Self {
        match header >> 29 {
            0 => Self::Mi((header >> 23 & 0x3f) as u8),
            2 => Self::Blitter((header >> 22 & 0x7f) as u8),
            3 => Self::Pipeline((header >> 16) as u16),
            _ => Self::Reserved,
        }
    }

    /// Dwords of a command with this header, the header included; `None` for clients that do not
    /// exist.
    ///
    /// MI commands below opcode 0x10 are one dword. MI_FLUSH_DW has a length of six bits (bit 7 is
    /// a flag), MI_STORE_DATA_IMM one of ten, every other MI and blitter command one of eight.
    /// Pipeline commands of subtype 1 are one dword; media commands (subtype 2) have sixteen bits.
    #[inline]
    #[must_use]
    pub const fn dwords(self, header: u32) -> Option<u32> {
        Some(match self {
            Self::Mi(opcode) if opcode < 0x10 => 1,
            Self::Mi(mi::FLUSH_DW) => (header & 0x3f) + 2,
            Self::Mi(mi::STORE_DATA_IMM) => (header & 0x3ff) + 2,
            Self::Mi(_) | Self::Blitter(_) => (header & 0xff) + 2,
            Self::Pipeline(id) => match id >> 11 & 3 {
                1 => 1,
                2 => (header & 0xffff) + 2,
                _ => (header & 0xff) + 2,
            },
            Self::Reserved => return None,
        })
    }
}

/// The hardware's name of the command with this header; `None` if it is not known.
#[must_use]
pub fn name(header: u32) -> Option<&'static str> {
    match Client::of(header) {
        Client::Mi(opcode) => names::look_up(names::MI, opcode.into()),
        Client::Blitter(opcode) => names::look_up(names::BLITTER, opcode.into()),
        Client::Pipeline(id) => names::look_up(names::PIPELINE, id),
        Client::Reserved => None,
    }
}

/// What to call the command with this header, known or not.
#[must_use]
pub fn name_or_kind(header: u32) -> &'static str {
    name(header).unwrap_or_else(|| match Client::of(header) {
        Client::Mi(_) => "unknown MI command",
        Client::Blitter(_) => "unknown blitter command",
        Client::Pipeline(_) => "unknown pipeline command",
        Client::Reserved => "unknown command",
    })
}

/// Opcodes of MI commands, bits 28:23 of the header.
#[expect(
    missing_docs,
    reason = "the names are the hardware's, each is MI_ and the constant's name"
)]
pub mod mi {
    pub const NOOP: u8 = 0x00;
    pub const SET_PREDICATE: u8 = 0x01;
    pub const USER_INTERRUPT: u8 = 0x02;
    pub const ARB_CHECK: u8 = 0x05;
    pub const ARB_ON_OFF: u8 = 0x08;
    pub const BATCH_BUFFER_END: u8 = 0x0a;
    pub const PREDICATE: u8 = 0x0c;
    pub const MATH: u8 = 0x1a;
    pub const SEMAPHORE_SIGNAL: u8 = 0x1b;
    pub const SEMAPHORE_WAIT: u8 = 0x1c;
    pub const STORE_DATA_IMM: u8 = 0x20;
    pub const STORE_DATA_INDEX: u8 = 0x21;
    pub const LOAD_REGISTER_IMM: u8 = 0x22;
    pub const STORE_REGISTER_MEM: u8 = 0x24;
    pub const FLUSH_DW: u8 = 0x26;
    pub const LOAD_REGISTER_MEM: u8 = 0x29;
    pub const LOAD_REGISTER_REG: u8 = 0x2a;
    pub const COPY_MEM_MEM: u8 = 0x2e;
    pub const ATOMIC: u8 = 0x2f;
    pub const BATCH_BUFFER_START: u8 = 0x31;
    pub const CONDITIONAL_BATCH_BUFFER_END: u8 = 0x36;
}

/// Opcodes of blitter commands, bits 28:22 of the header.
#[expect(
    missing_docs,
    reason = "the names are the hardware's, each is XY_ and the constant's name"
)]
pub mod xy {
    pub const SETUP_BLT: u8 = 0x01;
    pub const SETUP_CLIP_BLT: u8 = 0x03;
    pub const FAST_COPY_BLT: u8 = 0x42;
    pub const COLOR_BLT: u8 = 0x50;
    pub const SRC_COPY_BLT: u8 = 0x53;
}

/// Pipeline commands that mean more here than a length, bits 31:16 of the header.
pub mod pipeline {
    /// Flushes, and writes a value afterwards.
    pub const PIPE_CONTROL: u16 = 0x7a00;
    /// An arbitration point.
    pub const PRIMITIVE: u16 = 0x7b00;
    /// An arbitration point.
    pub const GPGPU_WALKER: u16 = 0x7105;
    /// An arbitration point.
    pub const MEDIA_STATE_FLUSH: u16 = 0x7004;
}
