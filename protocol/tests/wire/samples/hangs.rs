//! Hangs: the third round.

use gpu_broker_protocol::hang::*;

use super::*;

pub(super) fn round() -> Round {
    Round {
        requests: vec![
            ("HANG_LIST", Request::HangList(HangQuery { before: u64::MAX })),
            ("HANG_SHOW", Request::HangShow(HangOf { hang: 7 })),
            ("HANG_READ", Request::HangRead(HangRead { hang: 7, region: 1, offset: 32_768 })),
        ],
        execbufs: vec![],
        lists: vec![],
        replies: vec![
            ("HANG_LIST", Reply::HangList(HangPage { hangs: vec![record()], more: true })),
            (
                "HANG_SHOW",
                Reply::HangShow(Box::new(HangDump { record: record(), dump: Some(dump()) })),
            ),
            (
                "HANG_SHOW without a dump",
                Reply::HangShow(Box::new(HangDump { record: record(), dump: None })),
            ),
            ("HANG_READ", Reply::HangRead(HangBytes { bytes: vec![0, 0, 0, 5] })),
        ],
        refusals: vec![],
        epitaphs: vec![],
        hangs: hang_events(),
        news: vec![],
    }
}

/// One of each cause.
pub(crate) fn hang_events() -> Vec<HangEvent> {
    use HangCause::*;
    [Fault, Hung, TimedOut, Device].map(event).into()
}

fn event(cause: HangCause) -> HangEvent {
    HangEvent {
        hang: 7,
        context: ContextId(3),
        engine: VCS1,
        cause,
        batch: 0x10_0000,
        address: 0x10_0010,
        command: "MI_STORE_DATA_IMM".into(),
        what: "write to 0x0, which is not mapped".into(),
        dumped: true,
        lost: 2,
    }
}

fn record() -> HangRecord {
    HangRecord {
        session: SessionId(1),
        client_name: "cube".into(),
        pid: 4321,
        uid: 1000,
        age_ns: 5_000_000_000,
        dump_bytes: 4100,
        event: HangEvent { lost: 0, ..event(HangCause::Hung) },
    }
}

fn command(fields: Vec<Register>, failed: bool) -> DumpCommand {
    let name = "MI_STORE_DATA_IMM".into();
    DumpCommand { address: 0x10_0010, dwords: vec![0x1000_0002, 0, 0, 5], name, fields, failed }
}

fn dump() -> Dump {
    let region = |kind, kept| DumpRegion { kind, address: 0x10_0000, size: 8192, offset: 4, kept };
    Dump {
        registers: vec![Register { name: "ACTHD".into(), value: 0x10_0010 }],
        commands: vec![command(vec![], false)],
        listing: vec![command(vec![Register { name: "data".into(), value: 5 }], true)],
        regions: vec![
            region(DumpRegionKind::Batch, 4),
            region(DumpRegionKind::Commands, 4096),
            region(DumpRegionKind::Object, 0),
        ],
    }
}
