//! Lists of EXECBUF_LIST: every wrong change, and more of them than the daemon has room for.

use std::os::fd::AsFd as _;

use gpu_broker_protocol::execbuf::{self, ExecObject, ExecbufHead, ExecbufLists, Relocation};
use gpu_broker_protocol::execlist::{ExecbufList, ListHead, NOTHING, RUN, edit};
use gpu_broker_protocol::limits::{
    EXECBUF_LIST_BYTES_MAX, EXECBUF_LISTS_BYTES_MAX, EXECBUF_LISTS_PER_SESSION_MAX,
    OBJECTS_PER_EXECBUF_MAX, RELOCATIONS_PER_EXECBUF_MAX, UNPINNED_PER_EXECBUF_MAX,
};
use gpu_broker_protocol::{EpitaphCode, Opcode, Reply};
use gpu_broker_tests::batch::Batch;
use gpu_broker_tests::raw::{Message, Raw};
use gpu_broker_tests::{Builder, Daemon};

use super::attack;

/// Bytes that a change puts in at most: some less than a message has room for.
const PART_BYTES: usize = 60_000;
const EINVAL: i32 = 22;
const EAGAIN: i32 = 11;

fn short(number: usize) -> u32 {
    u32::try_from(number).expect("small")
}

/// Changes a list.
fn change(client: &mut Raw, head: ListHead, edits: &[(u32, &[u8])]) -> Message {
    let encoded: Vec<_> =
        edits.iter().map(|(offset, bytes)| edit(*offset, short(bytes.len()))).collect();
    let bytes = edits.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>().concat();
    let mut body = Vec::new();
    ExecbufList::new(head, &encoded, &bytes).encode(&mut body);
    let _ = client.send_body(Opcode::ExecbufList as u16, &body, &[]);
    client.receive()
}

/// Puts all of a list there, and runs it or not.
fn put(client: &mut Raw, list: u32, body: &[u8], flags: u32) -> Message {
    let parts = body.chunks(PART_BYTES).count();
    let mut base = NOTHING;
    for (at, part) in body.chunks(PART_BYTES).enumerate() {
        let (offset, next) = (at * PART_BYTES, 1 + at as u64);
        let flags = if at + 1 == parts { flags } else { 0 };
        let length = short(offset + part.len());
        let head = ListHead { list, flags, base, next, length };
        let answer = change(client, head, &[(short(offset), part)]);
        if at + 1 == parts {
            return answer;
        }
        assert!(matches!(answer.reply(), Reply::ExecbufList(_)));
        base = next;
    }
    panic!("an empty list")
}

fn body(objects: &[ExecObject], relocations: &[Relocation]) -> Vec<u8> {
    let mut body = Vec::new();
    let lists = ExecbufLists { objects, relocations, ..ExecbufLists::default() };
    execbuf::encode(&ExecbufHead::default(), &lists, &mut body);
    body
}

#[test]
fn changes_that_cannot_be_made_are_refused_and_change_nothing() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("changes");
        let batch = client.create_buffer(4096);
        batch.write(0, &Batch::new().end().bytes());
        let good = body(&[batch.pinned(0x10_0000)], &[]);
        assert!(matches!(put(&mut client, 1, &good, RUN).reply(), Reply::ExecbufList(_)));
        let head = ListHead { list: 1, flags: RUN, base: 1, next: 2, length: short(good.len()) };
        let too_long = short(EXECBUF_LIST_BYTES_MAX + 1);
        for (what, head, edits, errno, name) in [
            ("another base", ListHead { base: 7, ..head }, vec![], EAGAIN, "exec-list-stale"),
            ("never used", ListHead { list: 0, ..head }, vec![], EAGAIN, "exec-list-stale"),
            ("no such list", ListHead { list: 4, ..head }, vec![], EINVAL, "exec-list-range"),
            ("another", ListHead { list: u32::MAX, ..head }, vec![], EINVAL, "exec-list-range"),
            ("beyond", head, vec![(head.length, &[1_u8][..])], EINVAL, "exec-list-range"),
            ("far beyond", head, vec![(u32::MAX, &[1_u8][..])], EINVAL, "exec-list-range"),
            (
                "a gap",
                ListHead { length: head.length + 2, ..head },
                vec![(head.length + 1, &[1_u8][..])],
                EINVAL,
                "exec-list-range",
            ),
            (
                "longer",
                ListHead { length: head.length + 1, ..head },
                vec![],
                EINVAL,
                "exec-list-range",
            ),
            ("too long", ListHead { length: too_long, ..head }, vec![], EINVAL, "exec-list-range"),
            (
                "from nothing, but not whole",
                ListHead { base: NOTHING, ..head },
                vec![(0, &[1_u8][..])],
                EINVAL,
                "exec-list-range",
            ),
        ] {
            let refusal = change(&mut client, head, &edits).refusal();
            assert_eq!((refusal.errno, refusal.name.as_str()), (errno, name), "{what}");
        }
        // It is as it was, and runs.
        assert!(matches!(change(&mut client, head, &[]).reply(), Reply::ExecbufList(_)));
        let refusal = change(&mut client, head, &[]).refusal();
        assert_eq!(refusal.name, "exec-list-stale", "a generation is changed once");
    });
}

#[test]
fn lists_that_are_no_submission_end_the_session() {
    attack(Builder::new(), |daemon| {
        let head = ListHead { list: 0, flags: RUN, base: NOTHING, next: 1, length: 0 };
        let junk = [0xff; 100];
        for (what, head, edits) in [
            ("empty", head, vec![]),
            ("cut", ListHead { length: 47, ..head }, vec![(0, &junk[..47])]),
            ("counts", ListHead { length: 100, ..head }, vec![(0, &junk[..])]),
            ("a flag", ListHead { flags: 2, ..head }, vec![]),
        ] {
            let mut client = daemon.client("no submission");
            let epitaph = change(&mut client, head, &edits).epitaph();
            assert_eq!(epitaph.code, EpitaphCode::Malformed, "{what}");
        }
        // Counts of edits that the body does not bear out.
        for (at, fill) in [(28..32, 0xff), (28..29, 1)] {
            let mut client = daemon.client("counts");
            let mut body = vec![0; 32];
            body[at].fill(fill);
            let _ = client.send_body(Opcode::ExecbufList as u16, &body, &[]);
            assert_eq!(client.receive().epitaph().code, EpitaphCode::Malformed);
        }
        // A descriptor that nobody asked for.
        let mut client = daemon.client("descriptors");
        let mut body = Vec::new();
        ExecbufList::new(ListHead { flags: 0, ..head }, &[], &[]).encode(&mut body);
        let stray = std::fs::File::open("/dev/null").expect("there is one");
        let _ = client.send_body(Opcode::ExecbufList as u16, &body, &[stray.as_fd()]);
        assert_eq!(client.receive().epitaph().code, EpitaphCode::FdCount);
    });
}

#[test]
fn one_too_many_is_refused_by_name() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("counts");
        let objects = |count: u32| {
            let object = |handle| ExecObject { handle, ..ExecObject::default() };
            (1..=count).map(object).collect::<Vec<_>>()
        };
        let relocations = vec![Relocation::default(); RELOCATIONS_PER_EXECBUF_MAX + 1];
        let mut relocated = objects(1);
        relocated[0].relocation_count = short(relocations.len());
        for (body, name) in [
            (body(&objects(OBJECTS_PER_EXECBUF_MAX + 1), &[]), "exec-count"),
            (body(&objects(UNPINNED_PER_EXECBUF_MAX + 1), &[]), "exec-unpinned"),
            (body(&objects(UNPINNED_PER_EXECBUF_MAX), &[]), "no-such-buffer"),
            (body(&relocated, &relocations), "relocation-invalid"),
            (body(&relocated, &relocations[1..]), "no-such-buffer"),
        ] {
            let refusal = put(&mut client, 0, &body, RUN).refusal();
            assert_eq!(refusal.name, name);
        }
    });
}

/// All lists of so many sessions that they would take half as much again as there may be, and none is
/// ever run. Who is beside them works, and when they go so does the memory.
#[test]
fn lists_that_nobody_runs_take_no_more_than_their_room() {
    attack(Builder::new(), |daemon| {
        let full = vec![0x55; EXECBUF_LIST_BYTES_MAX];
        let of_session = EXECBUF_LISTS_PER_SESSION_MAX * EXECBUF_LIST_BYTES_MAX;
        let mut clients: Vec<Raw> = Vec::new();
        for _ in 0..EXECBUF_LISTS_BYTES_MAX / of_session * 3 / 2 {
            let mut client = daemon.client("hoarder");
            for list in 0..EXECBUF_LISTS_PER_SESSION_MAX {
                let answer = put(&mut client, short(list), &full, 0).reply();
                assert!(matches!(answer, Reply::ExecbufList(_)));
            }
            clients.push(client);
        }
        let resident = daemon.status_file().kib("VmRSS:");
        let most = (EXECBUF_LISTS_BYTES_MAX as u64 >> 10) + 64 * 1024;
        assert!(resident <= most, "{resident} KiB of at most {most}");
        // The first has lost its lists and is told so, the last has them.
        let parts = EXECBUF_LIST_BYTES_MAX.div_ceil(PART_BYTES) as u64;
        let same =
            ListHead { list: 0, flags: 0, base: parts, next: parts + 1, length: short(full.len()) };
        let (first, last) = (0, clients.len() - 1);
        let refusal = change(&mut clients[first], same, &[]).refusal();
        assert_eq!(refusal.name, "exec-list-stale");
        assert!(matches!(change(&mut clients[last], same, &[]).reply(), Reply::ExecbufList(_)));
    });
}

/// Sessions that end while a long submission of theirs waits for its turn or runs.
#[test]
fn clients_that_go_in_the_middle_of_a_long_submission_leave_nothing() {
    attack(Builder::new(), |daemon: &Daemon| {
        let mut clients: Vec<Raw> = Vec::new();
        for _ in 0..12 {
            let mut client = daemon.client("gone");
            let batch = client.create_buffer(4096);
            batch.write(0, &Batch::new().end().bytes());
            let relocation = Relocation { offset: 2048, ..Relocation::default() };
            let relocations = vec![relocation; 20_000];
            let mut object = batch.pinned(0x10_0000);
            object.relocation_count = 20_000;
            let body = body(&[object], &relocations);
            assert!(matches!(put(&mut client, 0, &body, 0).reply(), Reply::ExecbufList(_)));
            let parts = body.len().div_ceil(PART_BYTES) as u64;
            let head =
                ListHead { list: 0, flags: RUN, base: parts, next: 99, length: short(body.len()) };
            let mut request = Vec::new();
            ExecbufList::new(head, &[], &[]).encode(&mut request);
            client.send_body(Opcode::ExecbufList as u16, &request, &[]).expect("it is read");
            clients.push(client);
        }
        drop(clients);
    });
}
