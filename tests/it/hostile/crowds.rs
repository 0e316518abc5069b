//! More of everything than there may be: connections, silence, fds, quotas.

use std::os::fd::AsFd as _;

use gpu_broker_protocol::execbuf::{ExecbufHead, flag};
use gpu_broker_protocol::message::{
    BufferCreate, BufferOf, BufferWait, ContextCreate, ContextDestroy, FenceState,
    FenceStatusQuery, VmCreate,
};
use gpu_broker_protocol::{EpitaphCode, Reply, Request};
use gpu_broker_tests::{Batch, Builder, Message, Raw, eventually, raw};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::attack;

/// Raises this process's own limit of fds, and says how many more it can open.
fn own_fds() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a process may raise its soft limit");
    let most = limit.maximum.unwrap_or(1 << 20);
    // Other tests run beside this one in the same process.
    usize::try_from(most).expect("64 bits").saturating_sub(500)
}

#[test]
fn ten_thousand_connections_against_a_cap_of_one_hundred() {
    let crowd = 10_000;
    let keep = own_fds().min(crowd);
    let builder = Builder::new().config("[daemon]\nsessions = 100");
    attack(builder, |daemon| {
        let mut served = 0;
        let mut refused = 0;
        let mut connections = Vec::new();
        for _ in 0..crowd {
            let mut client = Raw::connect(daemon.socket()).expect("connecting is not refused");
            match client.call(Request::Hello(raw::hello("crowd"))) {
                Message::Reply(_, Reply::Hello(_)) => {
                    served += 1;
                    connections.insert(0, client);
                }
                Message::Epitaph(epitaph) => {
                    assert_eq!(epitaph.code, EpitaphCode::Full, "{}", epitaph.text);
                    refused += 1;
                    // Refused ones hold their end open too, as long as we have fds for it.
                    connections.push(client);
                    connections.truncate(keep);
                }
                other @ (Message::Reply(..)
                | Message::Refused(..)
                | Message::Hang(_)
                | Message::News(_)
                | Message::Closed) => {
                    panic!("HELLO was answered with {other:?}")
                }
            }
        }
        // The monitor and the witness have two of the hundred.
        assert_eq!((served, refused), (98, crowd - 98));
        assert_eq!(daemon.status().daemon.sessions, 100);
        drop(connections);
        eventually("the daemon serves again", || Raw::try_hello(daemon.socket(), "next").ok());
    });
}

#[test]
fn connections_that_never_say_hello() {
    let builder = Builder::new().config("[daemon]\nsessions = 60\nhello_timeout_ms = 300");
    attack(builder, |daemon| {
        let silent: Vec<Raw> = (0..50)
            .map(|_| Raw::connect(daemon.socket()).expect("connecting is not refused"))
            .collect();
        for client in &silent {
            assert_eq!(client.receive().epitaph().code, EpitaphCode::Hello);
            assert!(matches!(client.receive(), Message::Closed));
        }
        // Their places are free although their ends are still open.
        let talkers: Vec<Raw> = (0..50).map(|_| daemon.client("talker")).collect();
        drop((silent, talkers));
    });
}

#[test]
fn clients_that_connect_and_vanish() {
    attack(Builder::new(), |daemon| {
        for round in 0..2_000 {
            let mut client = Raw::connect(daemon.socket()).expect("connecting is not refused");
            if round % 2 == 0 {
                client.send_request(Request::Hello(raw::hello("gone"))).expect("there is room");
            }
            if round % 4 == 0 {
                client.send_request(Request::DeviceQuery).expect("there is room");
                client.send_body(0x0101, &[0; 3], &[]).expect("there is room");
            }
        }
    });
}

/// At EMFILE new connections wait and new buffers are refused; whoever is there goes on, and
/// afterwards everything works again.
#[test]
fn no_file_descriptors_left() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("hog");
        daemon.limit_fds(daemon.footprint().fds as u64 + 16);
        let mut refusal = None;
        let mut buffers = Vec::new();
        for _ in 0..100 {
            let create =
                Request::BufferCreate(BufferCreate { size: 4096, flags: 0, regions: None });
            let Reply::BufferCreate(created) = client.call(create).reply() else {
                panic!("BUFFER_CREATE was answered as something else")
            };
            let message = client.call(Request::BufferMap(BufferOf { buffer: created.buffer }));
            if !matches!(message, Message::Reply(..)) {
                refusal = Some(message.refusal());
                break;
            }
            buffers.push(message);
        }
        let refusal = refusal.expect("16 fds are not enough for 100 buffers");
        assert_eq!((refusal.name.as_str(), refusal.errno), ("daemon-fds", 24));
        // Nobody can be accepted now; the newcomer waits in the kernel's queue.
        let mut waiting = Raw::connect(daemon.socket()).expect("the queue has room");
        waiting.send_request(Request::Hello(raw::hello("waiting"))).expect("there is room");
        drop((client, buffers));
        assert!(matches!(waiting.receive().reply(), Reply::Hello(_)));
        let lines = daemon.log().lines().count();
        assert!(lines < 1000, "running out of fds filled the log with {lines} lines");
    });
}

#[test]
fn quotas() {
    let builder = Builder::new().config(
        "[session]\ncontexts = 5\nvms = 5\nbuffers = 5\nbuffer_bytes = 1048576\n\
         buffer_memory_bytes = 2097152\nobjects_per_execbuf = 3\n",
    );
    attack(builder, |daemon| {
        let mut client = daemon.client("greedy");
        for (request, name) in [
            (Request::ContextCreate(ContextCreate::default()), "context-limit"),
            (Request::VmCreate(VmCreate::default()), "vm-limit"),
            (
                Request::BufferCreate(BufferCreate { size: 4096, flags: 0, regions: None }),
                "buffer-limit",
            ),
        ] {
            for _ in 0..5 {
                let _created = client.call(request.clone()).reply();
            }
            let refusal = client.call(request.clone()).refusal();
            assert_eq!((refusal.name.as_str(), refusal.errno), (name, 12));
        }
        // One back, one more.
        let destroy = ContextDestroy { context: gpu_broker_protocol::ContextId(3), pad: 0 };
        let _destroyed = client.call(Request::ContextDestroy(destroy)).reply();
        assert_eq!(client.create_context().0, 3);

        let mut client = daemon.client("greedy");
        let megabyte =
            Request::BufferCreate(BufferCreate { size: 1 << 20, flags: 0, regions: None });
        let larger =
            Request::BufferCreate(BufferCreate { size: (1 << 20) + 1, flags: 0, regions: None });
        assert_eq!(client.call(larger).refusal().name, "buffer-too-large");
        for _ in 0..2 {
            let _created = client.call(megabyte.clone()).reply();
        }
        assert_eq!(client.call(megabyte).refusal().name, "buffer-memory-limit");

        let mut client = daemon.client("greedy");
        let objects: Vec<_> =
            (0..4).map(|n| client.create_buffer(4096).pinned(0x10_0000 + n * 4096)).collect();
        let refusal = client.execbuf(&ExecbufHead::default(), &objects, &[]).refusal();
        assert_eq!(refusal.name, "exec-count");
    });
}

/// Work that cannot finish until the test lets it, piled up to every limit.
#[test]
fn work_that_piles_up() {
    let builder = Builder::new()
        .config("[session]\nsubmissions_in_flight = 8\npending_waits = 4\nfences = 3\n");
    attack(builder, |daemon| {
        let mut client = daemon.client("piler");
        let (go, batch) = (client.create_buffer(4096), client.create_buffer(4096));
        batch.write(0, &Batch::new().wait_equal(0x20_0000, 1).end().bytes());
        let objects = [go.pinned(0x20_0000), batch.pinned(0x10_0000)];

        let fenced = ExecbufHead { flags: flag::FENCE_OUT, ..ExecbufHead::default() };
        let mut fences = Vec::new();
        for _ in 0..3 {
            fences.extend(client.execbuf(&fenced, &objects, &[]).executed().fence);
        }
        assert_eq!(fences.len(), 3);
        let refusal = client.execbuf(&fenced, &objects, &[]).refusal();
        assert_eq!((refusal.name.as_str(), refusal.errno), ("fence-limit", 24));

        let plain = ExecbufHead::default();
        for _ in 3..8 {
            let _executed = client.execbuf(&plain, &objects, &[]).executed();
        }
        let refusal = client.execbuf(&plain, &objects, &[]).refusal();
        assert_eq!((refusal.name.as_str(), refusal.errno), ("in-flight-limit", 11));

        let wait = BufferWait { buffer: batch.id, flags: 0, timeout_ns: -1 };
        for _ in 0..4 {
            client.send_request(Request::BufferWait(wait.clone())).expect("there is room");
        }
        let refusal = client.call(Request::BufferWait(wait)).refusal();
        assert_eq!((refusal.name.as_str(), refusal.errno), ("wait-limit", 11));

        go.write(0, &1_u32.to_le_bytes());
        for _ in 0..4 {
            assert!(matches!(client.receive().reply(), Reply::BufferWait(_)));
        }
        for fence in &fences {
            let query = FenceStatusQuery { fd: fence.as_fd() };
            eventually("the fence signals", || {
                let state = client.call(Request::FenceStatus(query.clone())).reply();
                matches!(state, Reply::FenceStatus(FenceState::Signalled)).then_some(())
            });
        }
        assert!(client.execbuf(&fenced, &objects, &[]).executed().fence.is_some());
    });
}
