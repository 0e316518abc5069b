//! Any message about hangs.

use gpu_broker_protocol::hang::*;

use super::*;

pub(super) fn request() -> impl Strategy<Value = Request<FdSlot>> {
    prop_oneof![
        any::<u64>().prop_map(|before| Request::HangList(HangQuery { before })),
        any::<u64>().prop_map(|hang| Request::HangShow(HangOf { hang })),
        any::<(u64, u32, u64)>().prop_map(|(hang, region, offset)| {
            Request::HangRead(HangRead { hang, region, offset })
        }),
    ]
}

fn event() -> impl Strategy<Value = HangEvent> {
    use HangCause::*;
    let cause = prop_oneof![Just(Fault), Just(Hung), Just(TimedOut), Just(Device)];
    (any::<([u64; 3], [u32; 2], bool)>(), engine(), cause, text(), text()).prop_map(
        |((wide, n, dumped), engine, cause, command, what)| HangEvent {
            hang: wide[0],
            context: ContextId(n[0]),
            engine,
            cause,
            batch: wide[1],
            address: wide[2],
            command,
            what,
            dumped,
            lost: n[1],
        },
    )
}

fn record() -> impl Strategy<Value = HangRecord> {
    (any::<([u64; 3], [u32; 2])>(), text(), event()).prop_map(|((wide, n), client_name, event)| {
        HangRecord {
            session: SessionId(wide[0]),
            client_name,
            pid: n[0],
            uid: n[1],
            age_ns: wide[1],
            dump_bytes: wide[2],
            event,
        }
    })
}

fn dump() -> impl Strategy<Value = Dump> {
    use DumpRegionKind::*;
    let register = || (text(), any::<u64>()).prop_map(|(name, value)| Register { name, value });
    let dwords = vec(any::<u32>(), 0..5);
    let command = (any::<(u64, bool)>(), dwords, text(), vec(register(), 0..3)).prop_map(
        |((address, failed), dwords, name, fields)| DumpCommand {
            address,
            dwords,
            name,
            fields,
            failed,
        },
    );
    let kind = prop_oneof![Just(Batch), Just(Commands), Just(Object)];
    let region = (kind, any::<[u64; 4]>()).prop_map(|(kind, [address, size, offset, kept])| {
        DumpRegion { kind, address, size, offset, kept }
    });
    let commands = vec(command.boxed(), 0..3).boxed();
    (vec(register(), 0..3), commands.clone(), commands, vec(region, 0..3)).prop_map(
        |(registers, commands, listing, regions)| Dump { registers, commands, listing, regions },
    )
}

pub(super) fn reply() -> impl Strategy<Value = Reply<FdSlot>> {
    prop_oneof![
        (vec(record(), 0..3), any::<bool>())
            .prop_map(|(hangs, more)| Reply::HangList(HangPage { hangs, more })),
        (record(), option::of(dump()))
            .prop_map(|(record, dump)| Reply::HangShow(Box::new(HangDump { record, dump }))),
        vec(any::<u8>(), 0..99).prop_map(|bytes| Reply::HangRead(HangBytes { bytes })),
    ]
}
