//! Hangs: the event that tells a client of its own, and what the daemon remembers of the last ones.
//!
//! A hang is a batch that the device ended: it executed what is no command, did not yield its
//! engine, or took too long (rule table §12).

use serde::{Deserialize, Serialize};

use crate::ids::{ContextId, SessionId};
use crate::param::EngineId;

/// A batch of this session died. Sent to clients that asked for
/// [`crate::version::feature::HANG_EVENTS`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangEvent {
    /// The daemon's number of it, for HANG_SHOW.
    pub hang: u64,
    /// The context it belonged to, as it was called when it was made live.
    pub context: ContextId,
    /// Where it ran.
    pub engine: EngineId,
    /// What kind of death it was.
    pub cause: HangCause,
    /// GPU address of the batch, as it was submitted.
    pub batch: u64,
    /// GPU address of the command it died in; 0 where the kernel keeps that for root.
    pub address: u64,
    /// That command's name, `MI_STORE_DATA_IMM`; empty where the address is 0.
    pub command: String,
    /// What was wrong, in words.
    pub what: String,
    /// Whether HANG_SHOW has a dump of it.
    pub dumped: bool,
    /// Events of this session that were dropped right before this one, because it did not read.
    pub lost: u32,
}

/// How a batch came to be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HangCause {
    /// A command could not be executed.
    Fault,
    /// It did not yield the engine when the heartbeat or another batch asked for it.
    Hung,
    /// It ran and waited for too long.
    TimedOut,
    /// The device failed.
    Device,
}

/// Asks for the hangs before a given one, the last first. A peer sees those of its own user; root
/// and the daemon's own user see all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangQuery {
    /// Hangs with a smaller number are listed; `u64::MAX` for the first page.
    pub before: u64,
}

/// One page of hangs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangPage {
    /// The last first.
    pub hangs: Vec<HangRecord>,
    /// Ask again with `before` = the last one listed.
    pub more: bool,
}

/// Who hung the GPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangRecord {
    /// The session; it may be gone.
    pub session: SessionId,
    /// The name its client gave itself.
    pub client_name: String,
    /// Its process id.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Nanoseconds ago.
    pub age_ns: u64,
    /// Bytes of memory in its dump.
    pub dump_bytes: u64,
    /// What its client was told, or would have been; `lost` is 0.
    pub event: HangEvent,
}

/// Names a hang.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangOf {
    /// Its number.
    pub hang: u64,
}

/// What is kept of a hang.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangDump {
    /// Who, where and why.
    pub record: HangRecord,
    /// `None` when its context had NO_ERROR_CAPTURE, or the dump made room for others.
    pub dump: Option<Dump>,
}

/// The state a batch left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dump {
    /// Registers of the engine: the hardware's names, and values.
    pub registers: Vec<Register>,
    /// The last commands executed, oldest first, with their first dwords as they were then; the one
    /// it died in is not among them.
    pub commands: Vec<DumpCommand>,
    /// The commands in memory around the one it died in, which is marked, with their fields.
    pub listing: Vec<DumpCommand>,
    /// Memory; HANG_READ has the bytes.
    pub regions: Vec<DumpRegion>,
}

/// A register, or a field of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Register {
    /// `ACTHD`.
    pub name: String,
    /// What it held.
    pub value: u64,
}

/// A command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DumpCommand {
    /// Where.
    pub address: u64,
    /// It, header first; long ones are cut.
    pub dwords: Vec<u32>,
    /// The hardware's name.
    pub name: String,
    /// What the dwords mean.
    pub fields: Vec<Register>,
    /// The batch died in it.
    pub failed: bool,
}

/// A piece of memory that was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DumpRegion {
    /// What it is.
    pub kind: DumpRegionKind,
    /// GPU address of the whole.
    pub address: u64,
    /// Bytes of the whole.
    pub size: u64,
    /// How far into the whole what was kept begins.
    pub offset: u64,
    /// Bytes that were kept.
    pub kept: u64,
}

/// What a [`DumpRegion`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DumpRegionKind {
    /// The batch.
    Batch,
    /// Commands elsewhere, around the one it died in.
    Commands,
    /// An object with CAPTURE.
    Object,
}

/// Asks for bytes of a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangRead {
    /// Which hang.
    pub hang: u64,
    /// Position in [`Dump::regions`].
    pub region: u32,
    /// How far into what was kept.
    pub offset: u64,
}

/// A piece of a dump.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HangBytes {
    /// At most [`crate::limits::HANG_READ_BYTES_MAX`]; none at the end.
    pub bytes: Vec<u8>,
}
