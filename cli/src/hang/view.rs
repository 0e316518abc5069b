//! Hangs as they are shown: the shape of `--json`, which scripts may rely on.

use gpu_broker_client::Connection;
use gpu_broker_client::protocol::hang as wire;
use serde::Serialize;

use crate::output::{Failure, harmless};

/// A batch that died.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Hang {
    pub(crate) hang: u64,
    pub(crate) age_ns: u64,
    pub(crate) session: u64,
    pub(crate) client: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) context: u32,
    pub(crate) engine: String,
    pub(crate) cause: Cause,
    pub(crate) batch: u64,
    pub(crate) address: u64,
    pub(crate) command: String,
    pub(crate) what: String,
    pub(crate) dumped: bool,
    pub(crate) dump_bytes: u64,
}

/// How it came to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    Fault,
    Hung,
    TimedOut,
    Device,
}

impl Cause {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Hung => "hung",
            Self::TimedOut => "timed out",
            Self::Device => "device",
        }
    }
}

impl Hang {
    pub(crate) fn new(record: &wire::HangRecord) -> Self {
        let event = &record.event;
        let class = match event.engine.class {
            0 => "rcs",
            1 => "bcs",
            2 => "vcs",
            3 => "vecs",
            4 => "ccs",
            _ => "engine",
        };
        Self {
            hang: event.hang,
            age_ns: record.age_ns,
            session: record.session.0,
            client: harmless(&record.client_name),
            pid: record.pid,
            uid: record.uid,
            context: event.context.0,
            engine: format!("{class}{}", event.engine.instance),
            cause: match event.cause {
                wire::HangCause::Fault => Cause::Fault,
                wire::HangCause::Hung => Cause::Hung,
                wire::HangCause::TimedOut => Cause::TimedOut,
                wire::HangCause::Device => Cause::Device,
            },
            batch: event.batch,
            address: event.address,
            command: harmless(&event.command),
            what: harmless(&event.what),
            dumped: event.dumped,
            dump_bytes: record.dump_bytes,
        }
    }
}

/// What is kept of a hang.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Dump {
    #[serde(flatten)]
    pub(crate) hang: Hang,
    /// Registers of the engine, in the order of the dump.
    pub(crate) registers: Vec<Named>,
    /// The last commands executed, oldest first.
    pub(crate) executed: Vec<Command>,
    /// Commands in memory around the one that failed.
    pub(crate) listing: Vec<Command>,
    pub(crate) memory: Vec<Region>,
}

/// A register, or a field of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) value: u64,
}

/// A command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Command {
    pub(crate) address: u64,
    pub(crate) dwords: Vec<u32>,
    pub(crate) name: String,
    pub(crate) fields: Vec<Named>,
    pub(crate) failed: bool,
}

/// Memory that was kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Region {
    pub(crate) kind: RegionKind,
    /// Of the whole.
    pub(crate) address: u64,
    /// Of the whole.
    pub(crate) size: u64,
    /// Where in it the bytes begin.
    pub(crate) offset: u64,
    /// As hexadecimal digits, two for each byte, in the order of memory.
    #[serde(serialize_with = "hexadecimal")]
    pub(crate) bytes: Vec<u8>,
}

/// What memory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RegionKind {
    Batch,
    Commands,
    Object,
}

fn hexadecimal<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    serializer.serialize_str(&text)
}

impl Dump {
    /// Fetches a hang, or the last one, with the memory in its dump.
    ///
    /// # Errors
    /// There is no such hang.
    pub(crate) fn fetch(connection: &Connection, hang: Option<u64>) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("the daemon did not show the hang: {error}"));
        let hang = match hang {
            Some(hang) => hang,
            None => match connection.hangs(u64::MAX).map_err(failed)?.hangs.first() {
                Some(last) => last.event.hang,
                None => return Err(Failure::new("the daemon remembers no hang")),
            },
        };
        let shown = connection.hang(hang).map_err(failed)?;
        let mut dump = Self::new(&shown);
        for (index, region) in (0..).zip(&mut dump.memory) {
            loop {
                let offset = region.bytes.len() as u64;
                let piece = connection.hang_bytes(hang, index, offset).map_err(failed)?;
                // A dump is small; more would be a daemon at fault.
                if piece.is_empty() || offset > region.size {
                    break;
                }
                region.bytes.extend(piece);
            }
        }
        Ok(dump)
    }

    /// Without the bytes.
    fn new(shown: &wire::HangDump) -> Self {
        let named = |register: &wire::Register| Named {
            name: harmless(&register.name),
            value: register.value,
        };
        let command = |command: &wire::DumpCommand| Command {
            address: command.address,
            dwords: command.dwords.clone(),
            name: harmless(&command.name),
            fields: command.fields.iter().map(named).collect(),
            failed: command.failed,
        };
        let region = |region: &wire::DumpRegion| Region {
            kind: match region.kind {
                wire::DumpRegionKind::Batch => RegionKind::Batch,
                wire::DumpRegionKind::Commands => RegionKind::Commands,
                wire::DumpRegionKind::Object => RegionKind::Object,
            },
            address: region.address,
            size: region.size,
            offset: region.offset,
            bytes: Vec::new(),
        };
        let dump = shown.dump.as_ref();
        Self {
            hang: Hang::new(&shown.record),
            registers: dump.iter().flat_map(|dump| &dump.registers).map(named).collect(),
            executed: dump.iter().flat_map(|dump| &dump.commands).map(command).collect(),
            listing: dump.iter().flat_map(|dump| &dump.listing).map(command).collect(),
            memory: dump.iter().flat_map(|dump| &dump.regions).map(region).collect(),
        }
    }
}
