//! What came with hangs.

use super::*;

mirror! {
    pub(super) struct HangEvent {
        hang: u64,
        context: ContextId,
        engine: EngineId,
        cause: HangCause,
        batch: u64,
        address: u64,
        command: String,
        what: String,
        dumped: bool,
        lost: u32,
    }
    pub(super) enum HangCause { Fault, Hung, TimedOut, Device }
    pub(super) struct HangQuery { before: u64 }
    pub(super) struct HangPage { hangs: Vec<HangRecord>, more: bool }
    pub(super) struct HangRecord {
        session: SessionId,
        client_name: String,
        pid: u32,
        uid: u32,
        age_ns: u64,
        dump_bytes: u64,
        event: HangEvent,
    }
    pub(super) struct HangOf { hang: u64 }
    pub(super) struct HangDump { record: HangRecord, dump: Option<Dump> }
    pub(super) struct Dump {
        registers: Vec<Register>,
        commands: Vec<DumpCommand>,
        listing: Vec<DumpCommand>,
        regions: Vec<DumpRegion>,
    }
    pub(super) struct Register { name: String, value: u64 }
    pub(super) struct DumpCommand {
        address: u64,
        dwords: Vec<u32>,
        name: String,
        fields: Vec<Register>,
        failed: bool,
    }
    pub(super) struct DumpRegion { kind: DumpRegionKind, address: u64, size: u64, offset: u64, kept: u64 }
    pub(super) enum DumpRegionKind { Batch, Commands, Object }
    pub(super) struct HangRead { hang: u64, region: u32, offset: u64 }
    pub(super) struct HangBytes { bytes: Vec<u8> }
}
