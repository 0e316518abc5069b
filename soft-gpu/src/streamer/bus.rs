//! How commands reach memory.

use std::ops::Range;

use crate::fault::FaultCause;
use crate::hardware::Clock;
use crate::memory::Memory;

/// Addresses have 48 bits; clients sign-extend them.
pub(crate) const ADDRESS_MASK: u64 = (1 << 48) - 1;

/// Memory and clock for the length of a run.
pub(crate) struct Bus<'a> {
    memory: &'a dyn Memory,
    pub(crate) clock: &'a dyn Clock,
    written: Range<u64>,
}

impl<'a> Bus<'a> {
    pub(crate) fn new(memory: &'a dyn Memory, clock: &'a dyn Clock) -> Self {
        Self { memory, clock, written: 0..0 }
    }

    pub(crate) fn read(&self, address: u64, into: &mut [u8]) -> Result<(), FaultCause> {
        Ok(self.memory.read(address & ADDRESS_MASK, into)?)
    }

    pub(crate) fn write(&mut self, address: u64, from: &[u8]) -> Result<(), FaultCause> {
        let address = address & ADDRESS_MASK;
        self.note(address, from.len() as u64);
        Ok(self.memory.write(address, from)?)
    }

    pub(crate) fn read_u32(&self, address: u64) -> Result<u32, FaultCause> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn read_u64(&self, address: u64) -> Result<u64, FaultCause> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn write_u32(&mut self, address: u64, value: u32) -> Result<(), FaultCause> {
        self.write(address, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, address: u64, value: u64) -> Result<(), FaultCause> {
        self.write(address, &value.to_le_bytes())
    }

    pub(crate) fn update_u32(
        &mut self,
        address: u64,
        op: &mut dyn FnMut(u32) -> u32,
    ) -> Result<u32, FaultCause> {
        let address = address & ADDRESS_MASK;
        self.note(address, 4);
        Ok(self.memory.update_u32(address, op)?)
    }

    pub(crate) fn update_u64(
        &mut self,
        address: u64,
        op: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, FaultCause> {
        let address = address & ADDRESS_MASK;
        self.note(address, 8);
        Ok(self.memory.update_u64(address, op)?)
    }

    /// Whether anything in `window` was written since the last call.
    #[inline]
    pub(crate) fn take_stale(&mut self, window: Range<u64>) -> bool {
        if self.written.is_empty() {
            return false;
        }
        let stale = self.written.start < window.end && window.start < self.written.end;
        self.written = 0..0;
        stale
    }

    fn note(&mut self, address: u64, bytes: u64) {
        let end = address.saturating_add(bytes);
        self.written = if self.written.is_empty() {
            address..end
        } else {
            self.written.start.min(address)..self.written.end.max(end)
        };
    }
}
