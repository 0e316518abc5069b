//! Why a batch died.

use std::fmt;

use crate::memory::MemoryFault;

/// A command that cannot be executed. The context is guilty: nothing but its own batch can cause
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where the command is.
    pub address: u64,
    /// `MI_STORE_DATA_IMM`, or what stands in its place.
    pub command: &'static str,
    /// What was wrong.
    pub what: FaultCause,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at 0x{:x}: {}", self.command, self.address, self.what)
    }
}

impl std::error::Error for Fault {}

/// What was wrong with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultCause {
    /// It, or an operand of it, is in memory that is not mapped.
    Unmapped(MemoryFault),
    /// The hardware has no such command.
    Unknown {
        /// Its first dword.
        header: u32,
    },
    /// The hardware has the command, but not on this engine.
    WrongEngine {
        /// `rcs0`.
        engine: &'static str,
    },
    /// The hardware knows this, the software GPU does not.
    Unsupported {
        /// What it does not know.
        what: &'static str,
    },
    /// Its length field leaves no room for its operands.
    TooShort {
        /// Dwords it has.
        dwords: u32,
        /// Dwords it needs.
        needed: u32,
    },
    /// An address must be a multiple of something and is not.
    Misaligned {
        /// The address.
        address: u64,
        /// Bytes.
        alignment: u32,
    },
    /// A field holds a value that means nothing.
    Invalid {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// What was executed lies behind the end of the batch: MI_BATCH_BUFFER_END is missing.
    PastEnd {
        /// Bytes of the batch.
        length: u64,
    },
}

impl fmt::Display for FaultCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmapped(fault) => fault.fmt(f),
            Self::Unknown { header } => write!(f, "no command starts with 0x{header:08x}"),
            Self::WrongEngine { engine } => write!(f, "{engine} has no such command"),
            Self::Unsupported { what } => write!(f, "the software GPU does not know {what}"),
            Self::TooShort { dwords, needed } => {
                write!(f, "its length is {dwords} dwords, its operands need {needed}")
            }
            Self::Misaligned { address, alignment } => {
                write!(f, "address 0x{address:x} is not a multiple of {alignment}")
            }
            Self::Invalid { field, value } => write!(f, "{field} cannot be 0x{value:x}"),
            Self::PastEnd { length } => {
                write!(f, "no MI_BATCH_BUFFER_END within the {length} bytes of the batch")
            }
        }
    }
}

impl From<MemoryFault> for FaultCause {
    fn from(fault: MemoryFault) -> Self {
        Self::Unmapped(fault)
    }
}
