//! How a kernel driver runs a context: by a ring of commands in the global GTT, which may do what
//! batches of clients may not, and which starts those batches. The soft device has no such driver
//! and calls [`Streamer::run`] alone; the device that the real driver runs on (tests/vm) uses this.

use crate::Streamer;
use crate::memory::Memory;

/// What the commands of a ring reach beyond the memory of their context.
pub trait Host {
    /// The global GTT.
    fn global(&self) -> &dyn Memory;

    /// Where the context's status page is in the global GTT: commands with an index write there.
    fn status_page(&self) -> u64;

    /// Reads a register that is not in the context's own set ([`crate::registers`]).
    fn read_register(&self, address: u32) -> u32;

    /// Writes such a register; false, without an effect, if it may not be written. `privileged` is
    /// false for the batch of a client.
    fn write_register(&self, address: u32, value: u32, privileged: bool) -> bool;

    /// A command wants the CPU's attention.
    fn interrupt(&self, what: Interrupt);
}

/// What an interrupt says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// MI_USER_INTERRUPT was executed.
    User,
    /// PIPE_CONTROL or MI_FLUSH_DW is done and was told to notify.
    Flush,
}

/// A ring buffer. It ends where the driver lets it end: no command straddles the wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ring {
    /// Address in the global GTT.
    pub start: u64,
    /// Bytes.
    pub size: u32,
    /// Offset of the first command that is not there yet.
    pub tail: u32,
}

/// Where a context is, as its image records it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Offset in the ring of the next command, or of the one after the batch.
    pub head: u32,
    /// In a batch: the next command of its first level.
    pub batch: Option<u64>,
    /// In a second-level batch: its next command.
    pub second: Option<u64>,
    /// The batch is one of a client, in the PPGTT. Means nothing outside a batch.
    pub client: bool,
}

/// Dwords of [`Streamer::save_registers`].
pub const REGISTER_IMAGE_DWORDS: usize = crate::registers::IMAGE_DWORDS + 1;

impl Streamer {
    /// The registers that belong to the context, for [`Self::restore_registers`] on this or another
    /// streamer of the same engine class. The layout is nobody else's business.
    #[must_use]
    pub fn save_registers(&self) -> [u32; REGISTER_IMAGE_DWORDS] {
        let mut image = [0; REGISTER_IMAGE_DWORDS];
        if let Some((last, rest)) = image.split_last_mut() {
            self.state.registers.save(rest);
            *last = self.state.predicate_state.into();
        }
        image
    }

    /// Puts back what [`Self::save_registers`] gave; dwords that are missing are 0.
    pub fn restore_registers(&mut self, image: &[u32]) {
        self.state.registers.restore(image);
        let last = image.get(REGISTER_IMAGE_DWORDS - 1);
        self.state.predicate_state = last.is_some_and(|state| *state != 0);
    }
}
