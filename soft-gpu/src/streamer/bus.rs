//! How commands reach memory.

use std::ops::Range;

use crate::fault::FaultCause;
use crate::hardware::Clock;
use crate::memory::Memory;
use crate::ring::{Host, Interrupt};

/// Addresses have 48 bits; clients sign-extend them.
pub(crate) const ADDRESS_MASK: u64 = (1 << 48) - 1;

/// Which page tables translate an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    /// Those of the context, the PPGTT.
    Context,
    /// Those of the driver, the global GTT.
    Global,
}

/// Memory and clock for the length of a run.
pub(crate) struct Bus<'a> {
    memory: &'a dyn Memory,
    host: Option<&'a dyn Host>,
    pub(crate) clock: &'a dyn Clock,
    written: Range<u64>,
}

impl<'a> Bus<'a> {
    pub(crate) fn new(
        memory: &'a dyn Memory,
        host: Option<&'a dyn Host>,
        clock: &'a dyn Clock,
    ) -> Self {
        Self { memory, host, clock, written: 0..0 }
    }

    /// A register that is not the context's own; 0 where there is none.
    pub(crate) fn read_register(&self, address: u32) -> u32 {
        self.host.map_or(0, |host| host.read_register(address))
    }

    /// Writes a register that is not the context's own; false if that is not allowed.
    pub(crate) fn write_register(&self, address: u32, value: u32, privileged: bool) -> bool {
        self.host.is_some_and(|host| host.write_register(address, value, privileged))
    }

    pub(crate) fn interrupt(&self, what: Interrupt) {
        if let Some(host) = self.host {
            host.interrupt(what);
        }
    }

    /// Where the context's status page is in the global GTT.
    pub(crate) fn status_page(&self) -> u64 {
        self.host.map_or(0, Host::status_page)
    }

    fn memory(&self, space: Space) -> &'a dyn Memory {
        match (space, self.host) {
            (Space::Global, Some(host)) => host.global(),
            (Space::Global, None) | (Space::Context, _) => self.memory,
        }
    }

    pub(crate) fn read(&self, address: u64, into: &mut [u8]) -> Result<(), FaultCause> {
        self.read_in(Space::Context, address, into)
    }

    pub(crate) fn read_in(
        &self,
        space: Space,
        address: u64,
        into: &mut [u8],
    ) -> Result<(), FaultCause> {
        Ok(self.memory(space).read(address & ADDRESS_MASK, into)?)
    }

    pub(crate) fn write(&mut self, address: u64, from: &[u8]) -> Result<(), FaultCause> {
        self.write_in(Space::Context, address, from)
    }

    pub(crate) fn write_in(
        &mut self,
        space: Space,
        address: u64,
        from: &[u8],
    ) -> Result<(), FaultCause> {
        let address = address & ADDRESS_MASK;
        self.note(address, from.len() as u64);
        Ok(self.memory(space).write(address, from)?)
    }

    pub(crate) fn read_u32(&self, space: Space, address: u64) -> Result<u32, FaultCause> {
        let mut bytes = [0; 4];
        self.read_in(space, address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn read_u64(&self, space: Space, address: u64) -> Result<u64, FaultCause> {
        let mut bytes = [0; 8];
        self.read_in(space, address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn write_u32(
        &mut self,
        space: Space,
        address: u64,
        value: u32,
    ) -> Result<(), FaultCause> {
        self.write_in(space, address, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(
        &mut self,
        space: Space,
        address: u64,
        value: u64,
    ) -> Result<(), FaultCause> {
        self.write_in(space, address, &value.to_le_bytes())
    }

    pub(crate) fn update_u32(
        &mut self,
        space: Space,
        address: u64,
        op: &mut dyn FnMut(u32) -> u32,
    ) -> Result<u32, FaultCause> {
        let address = address & ADDRESS_MASK;
        self.note(address, 4);
        Ok(self.memory(space).update_u32(address, op)?)
    }

    pub(crate) fn update_u64(
        &mut self,
        space: Space,
        address: u64,
        op: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, FaultCause> {
        let address = address & ADDRESS_MASK;
        self.note(address, 8);
        Ok(self.memory(space).update_u64(address, op)?)
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
