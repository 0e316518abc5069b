//! Syncobjs, waits and shared memory in hostile hands: fds that are something else, handles of
//! nothing, counts beyond every limit, waits that nobody ends, exports that nobody takes.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use gpu_broker_protocol::execbuf::{
    ExecExtension, ExecFence, ExecObject, ExecPoint, ExecbufHead, ExecbufLists, FIXED_BYTES,
    Relocation, flag as exec_flag,
};
use gpu_broker_protocol::limits::{
    FENCES_PER_EXECBUF_MAX, PENDING_WAITS_PER_SESSION_MAX, SYNCOBJS_PER_REQUEST_MAX,
    SYNCOBJS_PER_SESSION_MAX,
};
use gpu_broker_protocol::message::{BufferOf, BufferWait, FenceMerge, FenceStatusQuery, Ping};
use gpu_broker_protocol::object::{
    BufferAccess, BufferCaching, BufferExport, BufferFenceExport, BufferFenceImport, BufferImport,
    BufferMadvise, BufferSetDomain, BufferSetTiling,
};
use gpu_broker_protocol::syncobj::{
    SyncobjArray, SyncobjCreate, SyncobjDestroy, SyncobjExport, SyncobjImport, SyncobjQuery,
    SyncobjTimelineSignal, SyncobjTransfer, SyncobjWait, flag,
};
use gpu_broker_protocol::{BufferId, EpitaphCode, Opcode, Reply, Request, SyncobjId, codec};
use gpu_broker_tests::{Batch, Builder, Daemon, Message, Raw, RawBuffer, eventually, raw};

use super::attack;
use super::fds::no_fences;

/// Where a batch lies, and the page it polls.
const BATCH: u64 = 0x10_0000;
const GATE: u64 = 0x20_0000;

fn syncobj(client: &mut Raw) -> SyncobjId {
    let message = client.call(Request::SyncobjCreate(SyncobjCreate { flags: 0 }));
    let Reply::SyncobjCreate(created) = message.reply() else { panic!("SYNCOBJ_CREATE") };
    created.syncobj
}

fn export(client: &mut Raw, syncobj: SyncobjId, flags: u32) -> Message {
    client.call(Request::SyncobjExport(SyncobjExport { syncobj, flags, point: 0 }))
}

fn exported(message: Message) -> OwnedFd {
    let Reply::SyncobjExport(exported) = message.reply() else { panic!("SYNCOBJ_EXPORT") };
    exported.fd
}

fn import<'a>(syncobj: SyncobjId, flags: u32, fd: BorrowedFd<'a>) -> Request<BorrowedFd<'a>> {
    Request::SyncobjImport(SyncobjImport { syncobj, flags, point: 0, fd })
}

fn wait_for<Fd>(syncobjs: Vec<SyncobjId>, flags: u32, deadline_ns: i64) -> Request<Fd> {
    Request::SyncobjWait(SyncobjWait { syncobjs, points: None, flags, deadline_ns })
}

/// Everything the daemon sends up to the answer to a PING that is asked now: what was owed before
/// and did not come is owed still.
fn before_pong(client: &mut Raw) -> Vec<Message> {
    let seq = client.send_request(Request::Ping(Ping { payload: 0, fd: None })).expect("room");
    let mut messages = Vec::new();
    loop {
        match client.receive() {
            Message::Reply(number, Reply::Ping(_)) if number == seq => return messages,
            Message::Closed => panic!("the daemon hung up"),
            other @ (Message::Reply(..)
            | Message::Refused(..)
            | Message::Epitaph(_)
            | Message::Hang(_)
            | Message::News(_)) => {
                messages.push(other);
            }
        }
    }
}

/// A batch that waits for the CPU to write 1 to a page.
struct Held {
    batch: RawBuffer,
    gate: RawBuffer,
}

impl Held {
    fn submit(client: &mut Raw, flags: u64) -> (Self, Option<OwnedFd>) {
        let (batch, gate) = (client.create_buffer(4096), client.create_buffer(4096));
        batch.write(0, &Batch::new().wait_equal(GATE, 1).end().bytes());
        let head = ExecbufHead { flags, ..ExecbufHead::default() };
        let objects = [gate.pinned_for_writing(GATE), batch.pinned(BATCH)];
        let fence = client.execbuf(&head, &objects, &[]).executed().fence;
        (Self { batch, gate }, fence)
    }

    fn release(&self) {
        self.gate.write(0, &1_u32.to_le_bytes());
    }
}

#[test]
fn fds_of_the_wrong_kind() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("kinds");
        let object = syncobj(&mut client);
        let opaque = exported(export(&mut client, object, 0));
        let (held, fence) = Held::submit(&mut client, exec_flag::FENCE_OUT);
        let fence = fence.expect("FENCE_OUT was asked for");
        held.release();
        let strange = no_fences(&client);
        let memory = &held.batch.memory;
        for _ in 0..20 {
            let strange = || strange.iter().map(|(name, fd)| (*name, fd.as_fd()));
            let cases = strange()
                .chain([("a fence", fence.as_fd()), ("a syncobj", opaque.as_fd())])
                .map(|(name, fd)| (name, Request::BufferImport(BufferImport { fd })))
                .chain(
                    strange()
                        .chain([("a fence", fence.as_fd()), ("a buffer", memory.as_fd())])
                        .map(|(name, fd)| (name, import(object, 0, fd))),
                )
                .chain(
                    strange()
                        .chain([("a syncobj", opaque.as_fd()), ("a buffer", memory.as_fd())])
                        .map(|(name, fd)| (name, import(object, flag::SYNC_FILE, fd))),
                )
                .chain(
                    strange()
                        .chain([("a syncobj", opaque.as_fd()), ("a buffer", memory.as_fd())])
                        .map(|(name, fd)| {
                            let buffer = held.batch.id;
                            let import = BufferFenceImport { buffer, flags: 2, fd };
                            (name, Request::BufferFenceImport(import))
                        }),
                )
                .chain([
                    ("a syncobj", Request::FenceStatus(FenceStatusQuery { fd: opaque.as_fd() })),
                    (
                        "two syncobjs",
                        Request::FenceMerge(FenceMerge {
                            first: opaque.as_fd(),
                            second: opaque.as_fd(),
                        }),
                    ),
                ]);
            for (name, request) in cases {
                let shown = format!("{request:?}");
                let refusal = client.call(request).refusal();
                let said = (refusal.name.as_str(), refusal.errno);
                assert_eq!(said, ("wrong-fd-kind", 22), "{name}: {shown}");
            }
        }
        for flags in [exec_flag::FENCE_IN, exec_flag::FENCE_SUBMIT] {
            for fd in [opaque.as_fd(), memory.as_fd()] {
                let head = ExecbufHead { flags, ..ExecbufHead::default() };
                let objects = [held.batch.pinned(BATCH)];
                let refusal = client.execbuf(&head, &objects, &[fd]).refusal();
                assert_eq!(refusal.name, "exec-in-fence");
            }
        }
    });
}

#[test]
fn fds_too_many_and_missing() {
    attack(Builder::new(), |daemon| {
        let null = std::fs::File::open("/dev/null").expect("it exists");
        let null = null.as_fd();
        let cases: Vec<(Request<BorrowedFd<'_>>, usize)> = vec![
            (Request::BufferImport(BufferImport { fd: null }), 0),
            (Request::BufferImport(BufferImport { fd: null }), 2),
            (Request::BufferFenceExport(BufferFenceExport { buffer: BufferId(1), flags: 1 }), 1),
            (
                Request::BufferFenceImport(BufferFenceImport {
                    buffer: BufferId(1),
                    flags: 1,
                    fd: null,
                }),
                0,
            ),
            (import(SyncobjId(1), 0, null), 0),
            (import(SyncobjId(1), flag::SYNC_FILE, null), 4),
            (Request::SyncobjCreate(SyncobjCreate { flags: 0 }), 1),
            (wait_for(vec![SyncobjId(1)], 0, 0), 1),
            (Request::Throttle, 1),
            (Request::GetAperture, 3),
        ];
        for (request, fds) in cases {
            let client = daemon.client("fds");
            let shown = format!("{request:?} with {fds} fds");
            let bytes = raw::encoded(5, request, &mut Vec::new());
            client.send(&bytes, &vec![null; fds]).expect("the daemon has not hung up yet");
            assert_eq!(client.receive().epitaph().code, EpitaphCode::FdCount, "{shown}");
        }
    });
}

#[test]
fn handles_of_nothing() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("nobody");
        for id in [0, 1, 2, 0x7fff_ffff, u32::MAX] {
            let (syncobj, buffer) = (SyncobjId(id), BufferId(id));
            let array = SyncobjArray { syncobjs: vec![syncobj], pad: 0 };
            let transfer = SyncobjTransfer {
                source: syncobj,
                source_point: 0,
                target: syncobj,
                target_point: 0,
                flags: flag::WAIT_FOR_SUBMIT,
                pad: 0,
            };
            let signal =
                SyncobjTimelineSignal { syncobjs: vec![syncobj], points: vec![1], flags: 0 };
            let sync_file = SyncobjExport { syncobj, flags: flag::SYNC_FILE, point: 0 };
            let query = SyncobjQuery { syncobjs: vec![syncobj], flags: 0 };
            let domain = BufferSetDomain { buffer, read_domains: 1, write_domain: 1 };
            let tiling = BufferSetTiling { buffer, mode: 1, stride: 512 };
            let requests = [
                (Request::SyncobjDestroy(SyncobjDestroy { syncobj, pad: 0 }), "syncobj-handle"),
                (Request::SyncobjReset(array.clone()), "no-such-syncobj"),
                (Request::SyncobjSignal(array), "no-such-syncobj"),
                (wait_for(vec![syncobj], flag::WAIT_FOR_SUBMIT, i64::MAX), "no-such-syncobj"),
                (Request::SyncobjTimelineSignal(signal), "no-such-syncobj"),
                (Request::SyncobjQuery(query), "no-such-syncobj"),
                (Request::SyncobjTransfer(transfer), "no-such-syncobj"),
                (Request::SyncobjExport(sync_file), "no-such-syncobj"),
                (Request::SyncobjExport(SyncobjExport { flags: 0, ..sync_file }), "syncobj-handle"),
                (Request::BufferSetDomain(domain), "no-such-buffer"),
                (
                    Request::BufferAccess(BufferAccess { buffer, offset: 0, size: 1, write: true }),
                    "no-such-buffer",
                ),
                (Request::BufferSetCaching(BufferCaching { buffer, caching: 1 }), "no-such-buffer"),
                (Request::BufferGetCaching(BufferOf { buffer }), "no-such-buffer"),
                (Request::BufferSetTiling(tiling), "no-such-buffer"),
                (Request::BufferGetTiling(BufferOf { buffer }), "no-such-buffer"),
                (Request::BufferMadvise(BufferMadvise { buffer, advice: 0 }), "no-such-buffer"),
                (Request::BufferExport(BufferExport { buffer, flags: 0 }), "no-such-buffer"),
                (
                    Request::BufferFenceExport(BufferFenceExport { buffer, flags: 3 }),
                    "no-such-buffer",
                ),
                (
                    Request::BufferFenceExport(BufferFenceExport { buffer, flags: 4 }),
                    "buffer-fence-flags",
                ),
            ];
            for (request, name) in requests {
                let shown = format!("{request:?}");
                assert_eq!(client.call(request).refusal().name, name, "{shown}");
            }
        }
        let range = BufferAccess { buffer: BufferId(1), offset: u64::MAX, size: 2, write: true };
        let buffer = client.create_buffer(4096);
        assert_eq!(buffer.id, range.buffer);
        assert_eq!(client.call(Request::BufferAccess(range)).refusal().name, "buffer-range");
    });
}

fn execbuf(client: &mut Raw, flags: u64, lists: &ExecbufLists<'_>) -> Message {
    let num_cliprects = u32::try_from(lists.fences.len()).expect("a test's list");
    let head = ExecbufHead { flags, num_cliprects, ..ExecbufHead::default() };
    let mut bytes = Vec::new();
    let seq = client.next_seq();
    codec::encode_execbuf(seq, &head, lists, &mut bytes).expect("it fits in a message");
    client.send(&bytes, &[]).expect("the daemon has not hung up yet");
    client.receive()
}

#[test]
fn counts_beyond_every_limit() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("counts");
        let object = syncobj(&mut client);
        let many = vec![object; SYNCOBJS_PER_REQUEST_MAX + 1];
        let array = SyncobjArray { syncobjs: many.clone(), pad: 0 };
        let none = SyncobjArray { syncobjs: Vec::new(), pad: 0 };
        let points = SyncobjTimelineSignal { syncobjs: vec![object], points: vec![1, 2], flags: 0 };
        for (request, name) in [
            (Request::SyncobjReset(array.clone()), "syncobj-count"),
            (Request::SyncobjSignal(array), "syncobj-count"),
            (Request::SyncobjSignal(none), "syncobj-count"),
            (wait_for(many, flag::WAIT_FOR_SUBMIT, i64::MAX), "syncobj-count"),
            (Request::SyncobjTimelineSignal(points), "syncobj-points"),
        ] {
            assert_eq!(client.call(request).refusal().name, name);
        }

        let batch = client.create_buffer(4096);
        batch.write(0, &Batch::new().end().bytes());
        let objects = [batch.pinned(BATCH)];
        let fence = ExecFence { handle: object.0, flags: 0 };
        let fences = vec![fence; FENCES_PER_EXECBUF_MAX + 1];
        let lists = ExecbufLists { objects: &objects, fences: &fences, ..ExecbufLists::default() };
        let refusal = execbuf(&mut client, exec_flag::FENCE_ARRAY, &lists).refusal();
        assert_eq!(refusal.name, "exec-fences");
        let point = ExecPoint { handle: object.0, flags: flag::FENCE_SIGNAL, point: 1 };
        let points = vec![point; FENCES_PER_EXECBUF_MAX + 1];
        let entry_count = u32::try_from(points.len()).expect("small");
        let extensions = [ExecExtension { entry_count, ..ExecExtension::default() }];
        let lists = ExecbufLists {
            objects: &objects,
            extensions: &extensions,
            points: &points,
            ..ExecbufLists::default()
        };
        let refusal = execbuf(&mut client, exec_flag::USE_EXTENSIONS, &lists).refusal();
        assert_eq!(refusal.name, "exec-fences");
        // As many as a message has room for; the limit is for lists.
        let relocations =
            vec![Relocation { target: batch.id.0, read_domains: 1, ..Relocation::default() }; 2044];
        let relocation_count = u32::try_from(relocations.len()).expect("small");
        let relocated = [ExecObject { relocation_count, ..objects[0] }];
        let lists = ExecbufLists {
            objects: &relocated,
            relocations: &relocations,
            ..ExecbufLists::default()
        };
        assert_eq!(execbuf(&mut client, 0, &lists).refusal().name, "relocation-invalid");
        let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
        let _executed = execbuf(&mut client, 0, &lists).executed();

        // Counts that the body does not bear out end the session before anything is reserved.
        for at in [36, 40, 44] {
            let mut client = daemon.client("counts");
            let mut body = vec![0; FIXED_BYTES];
            body[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            client.send_body(Opcode::Execbuf as u16, &body, &[]).expect("the daemon listens");
            assert_eq!(client.receive().epitaph().code, EpitaphCode::Malformed, "count at {at}");
        }
    });
}

/// Waits on an object of another session, which outlives them: what they leave behind at it would
/// stay.
#[test]
fn waits_that_nobody_ends() {
    attack(Builder::new(), |daemon| {
        let mut keeper = daemon.client("keeper");
        let kept = syncobj(&mut keeper);
        let fd = exported(export(&mut keeper, kept, 0));
        let limit = PENDING_WAITS_PER_SESSION_MAX as usize;
        for round in 0..30 {
            let mut client = daemon.client("waiter");
            let Reply::SyncobjImport(mine) =
                client.call(import(SyncobjId(0), 0, fd.as_fd())).reply()
            else {
                panic!("SYNCOBJ_IMPORT")
            };
            let submit = flag::WAIT_FOR_SUBMIT;
            // As many syncobjs as all waits together may name, then waits up to their limit.
            for _ in 0..8 {
                let all = vec![mine.syncobj; SYNCOBJS_PER_REQUEST_MAX];
                client.send_request(wait_for(all, submit, i64::MAX)).expect("there is room");
                assert!(before_pong(&mut client).is_empty(), "a wait without end has ended");
            }
            let one_more = wait_for(vec![mine.syncobj], submit, i64::MAX);
            assert_eq!(client.call(one_more.clone()).refusal().name, "wait-limit");
            let mut client = daemon.client("waiter");
            let Reply::SyncobjImport(mine) =
                client.call(import(SyncobjId(0), 0, fd.as_fd())).reply()
            else {
                panic!("SYNCOBJ_IMPORT")
            };
            for _ in 0..limit {
                let wait = wait_for(vec![mine.syncobj], submit, i64::MAX);
                client.send_request(wait).expect("there is room");
            }
            assert!(before_pong(&mut client).is_empty(), "a wait without end has ended");
            let refusal = client.call(one_more).refusal();
            assert_eq!((refusal.name.as_str(), refusal.errno), ("wait-limit", 11));
            // What is over already is a poll, and needs no place among them.
            for past in [i64::MIN, -1, 0, 1] {
                let refusal = client.call(wait_for(vec![mine.syncobj], submit, past)).refusal();
                assert_eq!((refusal.name.as_str(), refusal.errno), ("syncobj-timeout", 62));
            }
            if round == 0 {
                // A handle that is gone ends no wait; the signal ends them all.
                let destroy = SyncobjDestroy { syncobj: mine.syncobj, pad: 0 };
                let _destroyed = client.call(Request::SyncobjDestroy(destroy)).reply();
                assert!(before_pong(&mut client).is_empty(), "a closed handle has ended a wait");
                let array = SyncobjArray { syncobjs: vec![kept], pad: 0 };
                let _signalled = keeper.call(Request::SyncobjSignal(array.clone())).reply();
                for _ in 0..limit {
                    assert!(matches!(client.receive().reply(), Reply::SyncobjWait(_)));
                }
                let _reset = keeper.call(Request::SyncobjReset(array)).reply();
            }
        }
    });
}

/// One deadline for all kinds of waits: the work they wait for. None of them ends before it, all
/// of them do after it, and handles that are closed meanwhile change nothing.
#[test]
fn waits_for_work_under_way() {
    attack(Builder::new(), |daemon| {
        for leaves in [false, true] {
            let mut client = daemon.client("waiter");
            let (held, _) = Held::submit(&mut client, 0);
            let buffer = held.gate.id;
            // THROTTLE looks at what is 20 ms old.
            std::thread::sleep(Duration::from_millis(50));
            let waits = [
                Request::BufferWait(BufferWait { buffer, flags: 0, timeout_ns: -1 }),
                Request::BufferSetDomain(BufferSetDomain {
                    buffer,
                    read_domains: 1,
                    write_domain: 1,
                }),
                Request::BufferAccess(BufferAccess { buffer, offset: 0, size: 4, write: false }),
                Request::Throttle,
                Request::Throttle,
            ];
            for wait in waits.clone() {
                client.send_request(wait).expect("there is room");
            }
            let early = before_pong(&mut client);
            assert!(early.is_empty(), "before the work was done: {early:?}");
            // The batch is only read, and the page was not written yet: nothing to wait for.
            let batch = held.batch.id;
            let read = BufferAccess { buffer: batch, offset: 0, size: 4, write: false };
            assert!(matches!(
                client.call(Request::BufferAccess(read)).reply(),
                Reply::BufferAccess
            ));
            if leaves {
                continue;
            }
            let _closed = client.call(Request::BufferClose(BufferOf { buffer })).reply();
            held.release();
            let mut opcodes: Vec<Opcode> =
                waits.iter().map(|_| client.receive().reply().opcode()).collect();
            opcodes.sort_by_key(|opcode| *opcode as u16);
            let expected = [
                Opcode::Throttle,
                Opcode::Throttle,
                Opcode::BufferWait,
                Opcode::BufferSetDomain,
                Opcode::BufferAccess,
            ];
            assert_eq!(opcodes, expected);
            assert!(matches!(client.call(Request::Throttle).reply(), Reply::Throttle));
        }
    });
}

/// A transfer from an empty object waits for its fence, whatever becomes of the handles.
#[test]
fn a_transfer_that_waits() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("transfer");
        let (source, target) = (syncobj(&mut client), syncobj(&mut client));
        let fd = exported(export(&mut client, target, 0));
        let Reply::SyncobjImport(twin) = client.call(import(SyncobjId(0), 0, fd.as_fd())).reply()
        else {
            panic!("SYNCOBJ_IMPORT")
        };
        let transfer =
            SyncobjTransfer { source, source_point: 0, target, target_point: 7, flags: 0, pad: 0 };
        assert_eq!(client.call(Request::SyncobjTransfer(transfer)).refusal().name, "syncobj-empty");
        let waits = SyncobjTransfer { flags: flag::WAIT_FOR_SUBMIT, ..transfer };
        client.send_request(Request::SyncobjTransfer(waits)).expect("there is room");
        assert!(before_pong(&mut client).is_empty(), "there is nothing to transfer yet");
        let destroy = SyncobjDestroy { syncobj: target, pad: 0 };
        let _destroyed = client.call(Request::SyncobjDestroy(destroy)).reply();
        let signal = SyncobjArray { syncobjs: vec![source], pad: 0 };
        client.send_request(Request::SyncobjSignal(signal)).expect("there is room");
        let mut opcodes = [client.receive().reply().opcode(), client.receive().reply().opcode()];
        opcodes.sort_by_key(|opcode| *opcode as u16);
        assert_eq!(opcodes, [Opcode::SyncobjSignal, Opcode::SyncobjTransfer]);
        let query = SyncobjQuery { syncobjs: vec![twin.syncobj], flags: 0 };
        let Reply::SyncobjQuery(points) = client.call(Request::SyncobjQuery(query)).reply() else {
            panic!("SYNCOBJ_QUERY")
        };
        assert_eq!(points.points, [7]);
        // Left behind, waiting.
        let again = syncobj(&mut client);
        let waits = SyncobjTransfer { source: again, target: source, ..waits };
        client.send_request(Request::SyncobjTransfer(waits)).expect("there is room");
    });
}

fn fill_with_syncobjs(daemon: &Daemon) -> Raw {
    let mut client = daemon.client("hoarder");
    for _ in 0..SYNCOBJS_PER_SESSION_MAX {
        let _ = syncobj(&mut client);
    }
    client
}

#[test]
fn as_many_syncobjs_as_there_may_be() {
    attack(Builder::new(), |daemon| {
        for _ in 0..2 {
            let mut client = fill_with_syncobjs(daemon);
            let create = Request::SyncobjCreate(SyncobjCreate { flags: 0 });
            let refusal = client.call(create.clone()).refusal();
            assert_eq!((refusal.name.as_str(), refusal.errno), ("syncobj-limit", 12));
            // One back, one more; the handle is used again.
            let destroy = SyncobjDestroy { syncobj: SyncobjId(77), pad: 0 };
            let _destroyed = client.call(Request::SyncobjDestroy(destroy)).reply();
            assert_eq!(syncobj(&mut client), SyncobjId(77));
        }
    });
}

/// Exports are asked for and left in the socket, kept, and thrown away: there is an end to all of
/// it, and afterwards there is room again.
#[test]
fn a_flood_of_exports() {
    attack(Builder::new(), |daemon| {
        let fds = daemon.footprint().fds;
        let mut client = daemon.client("flood");
        let object = syncobj(&mut client);
        let buffer = client.create_buffer(4096);
        for _ in 0..2000 {
            drop(exported(export(&mut client, object, 0)));
            let ask = BufferExport { buffer: buffer.id, flags: 0 };
            let Reply::BufferExport(fd) = client.call(Request::BufferExport(ask)).reply() else {
                panic!("BUFFER_EXPORT")
            };
            let import = Request::BufferImport(BufferImport { fd: fd.fd.as_fd() });
            let Reply::BufferImport(same) = client.call(import).reply() else {
                panic!("BUFFER_IMPORT")
            };
            assert_eq!(same.buffer, buffer.id, "the same buffer has the same handle");
        }
        let mut kept = Vec::new();
        let refusal = loop {
            let message = export(&mut client, object, 0);
            if let Message::Refused(_, refusal) = message {
                break refusal;
            }
            kept.push(exported(message));
            assert!(kept.len() <= 1000, "there is no limit");
        };
        assert_eq!((refusal.name.as_str(), refusal.errno), ("daemon-fds", 24));
        drop(kept);
        drop(exported(export(&mut client, object, 0)));
        // Asked for, and never taken: the session ends with all of them on their way.
        let ask = SyncobjExport { syncobj: object, flags: 0, point: 0 };
        let ask = raw::encoded(9, Request::SyncobjExport(ask), &mut Vec::new());
        while client.send_now(&ask, &[]).is_ok() {}
        drop(client);
        // The daemon may have heard that the client is gone before the kernel had closed those. It
        // looks for them again when other sessions export.
        eventually("the fds on their way are given back", || {
            let mut other = daemon.client("sweeper");
            let object = syncobj(&mut other);
            drop(exported(export(&mut other, object, 0)));
            drop(other);
            (daemon.footprint().fds <= fds).then_some(())
        });
    });
}

/// Fences of one pending request, exported until there is no place for more.
#[test]
fn a_flood_of_pending_fences() {
    attack(Builder::new().config("[session]\nfences = 40\n"), |daemon| {
        let mut client = daemon.client("fences");
        let object = syncobj(&mut client);
        assert_eq!(export(&mut client, object, flag::SYNC_FILE).refusal().name, "syncobj-empty");
        let (held, fence) = Held::submit(&mut client, exec_flag::FENCE_OUT);
        let fence = fence.expect("FENCE_OUT was asked for");
        let put = import(object, flag::SYNC_FILE, fence.as_fd());
        assert!(matches!(client.call(put).reply(), Reply::SyncobjImport(_)));
        for _ in 0..39 {
            let _fd = exported(export(&mut client, object, flag::SYNC_FILE));
        }
        let refusal = export(&mut client, object, flag::SYNC_FILE).refusal();
        assert_eq!((refusal.name.as_str(), refusal.errno), ("fence-limit", 24));
        held.release();
        let done = wait_for(vec![object], 0, i64::MAX);
        assert!(matches!(client.call(done).reply(), Reply::SyncobjWait(_)));
        let _fd = exported(export(&mut client, object, flag::SYNC_FILE));
    });
}
