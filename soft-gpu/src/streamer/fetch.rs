//! Where the streamer is in the batch, and the commands there.
//!
//! Commands are read a cache line or more at a time. What was read is forgotten on every jump, when
//! a run begins, and when the streamer itself writes to it; a write by the CPU or another engine to
//! commands that lie right ahead of the streamer shows up at the next of these, as on hardware,
//! which fetches ahead too.

use std::ops::Range;

use crate::fault::FaultCause;
use crate::streamer::bus::{ADDRESS_MASK, Bus, Space};

/// Bytes read at once. Small, since most of what is ahead of a jump is read for nothing.
const LINE: u64 = 64;
/// The longest command that is executed: MI_STORE_DATA_IMM with a length field of ten bits.
const COMMAND_BYTES_MAX: usize = 1025 * 4;

/// The position, and commands read ahead.
#[derive(Debug)]
pub(crate) struct Fetch {
    position: u64,
    space: Space,
    /// Address of the first byte of `bytes`.
    start: u64,
    /// Valid bytes; always a multiple of 4.
    valid: usize,
    bytes: Vec<u8>,
}

/// A command with all its dwords.
pub(crate) struct Command<'a> {
    pub(crate) header: u32,
    /// Address of the command.
    pub(crate) address: u64,
    bytes: &'a [u8],
}

impl Command<'_> {
    /// Dwords, the header included.
    #[expect(clippy::cast_possible_truncation, reason = "COMMAND_BYTES_MAX is small")]
    pub(crate) fn dwords(&self) -> u32 {
        (self.bytes.len() / 4) as u32
    }

    /// Dword `index`; 0 is the header. Dwords the command does not have read as 0: callers check
    /// the length first, see [`Self::require`].
    #[inline]
    pub(crate) fn dword(&self, index: usize) -> u32 {
        match self.bytes.get(index * 4..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => 0,
        }
    }

    /// The qword whose low half is dword `index`.
    #[inline]
    pub(crate) fn qword(&self, index: usize) -> u64 {
        u64::from(self.dword(index)) | u64::from(self.dword(index + 1)) << 32
    }

    /// The address in dwords `index` and `index + 1`, which must be a multiple of `alignment`.
    #[inline]
    pub(crate) fn address(&self, index: usize, alignment: u32) -> Result<u64, FaultCause> {
        let address = self.qword(index) & ADDRESS_MASK;
        if address & u64::from(alignment - 1) == 0 {
            Ok(address)
        } else {
            Err(FaultCause::Misaligned { address, alignment })
        }
    }

    /// Operands from dword `index` on.
    pub(crate) fn bytes_from(&self, index: usize) -> &[u8] {
        self.bytes.get(index * 4..).unwrap_or_default()
    }

    /// Checks that the command has as many dwords as its operands need.
    #[inline]
    pub(crate) fn require(&self, needed: u32) -> Result<(), FaultCause> {
        let dwords = self.dwords();
        if dwords < needed { Err(FaultCause::TooShort { dwords, needed }) } else { Ok(()) }
    }

    pub(crate) fn bit(&self, bit: u32) -> bool {
        self.header >> bit & 1 != 0
    }
}

impl Fetch {
    pub(crate) fn new() -> Self {
        Self { position: 0, space: Space::Context, start: 0, valid: 0, bytes: Vec::new() }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Addresses of what was read ahead.
    #[inline]
    pub(crate) fn window(&self) -> Range<u64> {
        self.start..self.start + self.valid as u64
    }

    #[inline]
    pub(crate) fn forget(&mut self) {
        self.valid = 0;
    }

    /// Goes to an address, and reads anew.
    pub(crate) fn jump(&mut self, space: Space, address: u64) {
        self.space = space;
        self.position = address & ADDRESS_MASK & !3;
        self.forget();
    }

    /// Goes past a command.
    #[inline]
    pub(crate) fn advance(&mut self, dwords: u32) {
        self.position = self.position.wrapping_add(u64::from(dwords) * 4) & ADDRESS_MASK;
    }

    /// The header at the position.
    #[inline]
    pub(crate) fn header(&mut self, bus: &Bus<'_>) -> Result<u32, FaultCause> {
        let at = self.ready(4, bus)?;
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        Ok(bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    /// The whole command at the position.
    #[inline]
    pub(crate) fn command(
        &mut self,
        header: u32,
        dwords: u32,
        bus: &Bus<'_>,
    ) -> Result<Command<'_>, FaultCause> {
        let bytes = dwords as usize * 4;
        let at = self.ready(bytes, bus)?;
        let bytes = self.bytes.get(at..at + bytes).unwrap_or_default();
        Ok(Command { header, address: self.position, bytes })
    }

    /// Sees to it that `bytes` bytes from the position on are there; answers where in `self.bytes`.
    #[inline]
    fn ready(&mut self, bytes: usize, bus: &Bus<'_>) -> Result<usize, FaultCause> {
        let at = self.position.wrapping_sub(self.start);
        if at < self.valid as u64 && bytes as u64 <= self.valid as u64 - at {
            return Ok(usize::try_from(at).unwrap_or(0));
        }
        self.read_ahead(bytes, bus)?;
        Ok(0)
    }

    #[cold]
    fn read_ahead(&mut self, bytes: usize, bus: &Bus<'_>) -> Result<(), FaultCause> {
        self.valid = 0;
        // To the end of the line, at least: it is mapped if its first byte is.
        let line_rest = usize::try_from(LINE - self.position % LINE).unwrap_or(0);
        let count = bytes.min(COMMAND_BYTES_MAX).max(line_rest);
        if self.bytes.len() < count {
            self.bytes.resize(count, 0);
        }
        let Some(into) = self.bytes.get_mut(..count) else { return Ok(()) };
        bus.read_in(self.space, self.position, into)?;
        self.start = self.position;
        self.valid = count;
        Ok(())
    }
}
