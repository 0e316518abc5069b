//! What a device keeps of a batch that died.

/// What there was to see when a batch died (rule table §4: NO_ERROR_CAPTURE prevents it). Bounded
/// by the device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capture {
    /// Registers of the engine by the hardware's names.
    pub registers: Vec<(String, u64)>,
    /// The last commands executed, oldest first: their first dwords, as they were then.
    pub commands: Vec<Command>,
    /// The commands in memory around the one that failed, which [`Command::failed`] marks.
    pub listing: Vec<Command>,
    /// Memory: the batch, what was executed elsewhere, and the objects flagged for it.
    pub regions: Vec<Region>,
}

/// A command in a [`Capture`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Where it is.
    pub address: u64,
    /// It, header first; long ones are cut.
    pub dwords: Vec<u32>,
    /// The hardware's name.
    pub name: &'static str,
    /// What the dwords mean, in their order.
    pub fields: Vec<(&'static str, u64)>,
    /// The batch died in it.
    pub failed: bool,
}

/// A piece of memory in a [`Capture`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// What it is.
    pub kind: RegionKind,
    /// GPU address of the whole.
    pub address: u64,
    /// Bytes of the whole.
    pub size: u64,
    /// How far into the whole the bytes that were kept begin.
    pub offset: u64,
    /// Those bytes.
    pub bytes: Vec<u8>,
}

/// What a [`Region`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// The batch as it was submitted.
    Batch,
    /// Commands outside of it, around the one that failed.
    Commands,
    /// An object with [`Object::capture`](crate::Object::capture).
    Object,
}
