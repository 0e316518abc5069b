//! File descriptors: too many, too few, of the wrong kind, and of too much power.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use gpu_broker_protocol::execbuf::{ExecbufHead, flag};
use gpu_broker_protocol::limits::FDS_PER_MESSAGE_MAX;
use gpu_broker_protocol::message::{
    BufferCreate, ContextCreate, FenceMerge, FenceStatusQuery, Ping,
};
use gpu_broker_protocol::{EpitaphCode, Opcode, Reply, Request};
use gpu_broker_tests::{Batch, Builder, Message, Raw, raw};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::attack;

/// Fds that are no fences, each with its name.
pub(super) fn no_fences(client: &Raw) -> Vec<(&'static str, OwnedFd)> {
    let open = |path: &str, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("it exists")
    };
    let (pipe, _) = rustix::pipe::pipe().expect("fds are left");
    let flags = rustix::event::EventfdFlags::CLOEXEC;
    let pair = |kind: SocketType| {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("fds are left").0
    };
    vec![
        ("/dev/null", open("/dev/null", OFlags::RDWR)),
        ("a directory", open("/", OFlags::RDONLY)),
        ("an O_PATH fd", open("/dev/null", OFlags::PATH)),
        ("a memfd", rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).expect("memory is left")),
        ("a pipe", pipe),
        ("an eventfd", rustix::event::eventfd(1, flags).expect("fds are left")),
        ("a dead stream socket", pair(SocketType::STREAM)),
        ("a dead packet socket", pair(SocketType::SEQPACKET)),
        ("the session's own socket", client.socket().try_clone_to_owned().expect("fds are left")),
    ]
}

#[test]
fn too_many_and_missing() {
    attack(Builder::new(), |daemon| {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).expect("it exists");
        let null = null.as_fd();
        let ping = |fd| Request::Ping(Ping { payload: 1, fd });
        let create = Request::ContextCreate(ContextCreate::default());
        let status = || Request::FenceStatus(FenceStatusQuery { fd: null });
        let merge = || Request::FenceMerge(FenceMerge { first: null, second: null });
        let cases: Vec<(Request<BorrowedFd<'_>>, usize)> = vec![
            (ping(None), 1),
            (ping(None), FDS_PER_MESSAGE_MAX),
            (ping(None), FDS_PER_MESSAGE_MAX + 1),
            (ping(None), 32),
            (ping(Some(null)), 0),
            (ping(Some(null)), 2),
            (create, 1),
            (Request::BufferCreate(BufferCreate { size: 4096, flags: 0, regions: None }), 3),
            (Request::DeviceQuery, 1),
            (status(), 0),
            (status(), 2),
            (merge(), 0),
            (merge(), 1),
            (merge(), 3),
        ];
        for (request, fds) in cases {
            let client = daemon.client("fds");
            let shown = format!("{request:?} with {fds} fds");
            let bytes = raw::encoded(5, request, &mut Vec::new());
            client.send(&bytes, &vec![null; fds]).expect("the daemon has not hung up yet");
            assert_eq!(client.receive().epitaph().code, EpitaphCode::FdCount, "{shown}");
        }
        for (flags, fds) in [(0, 1), (flag::FENCE_IN, 0), (flag::FENCE_IN, 2), (flag::FENCE_OUT, 1)]
        {
            let mut client = daemon.client("fds");
            let head = ExecbufHead { flags, ..ExecbufHead::default() };
            let answer = client.execbuf(&head, &[], &vec![null; fds]);
            assert_eq!(answer.epitaph().code, EpitaphCode::FdCount, "{flags:#x} with {fds} fds");
        }
        // Fds on a message that is wrong in another way are not kept either.
        for _ in 0..100 {
            let mut client = daemon.client("fds");
            let _ = client.send_body(Opcode::ContextCreate as u16, &[1], &[null; 4]);
            assert!(matches!(client.receive(), Message::Epitaph(_)));
        }
    });
}

#[test]
fn of_the_wrong_kind() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("kinds");
        let batch = client.create_buffer(4096);
        batch.write(0, &Batch::new().end().bytes());
        for (name, fd) in no_fences(&client) {
            let fd = fd.as_fd();
            let query = Request::FenceStatus(FenceStatusQuery { fd });
            assert_eq!(client.call(query).refusal().name, "wrong-fd-kind", "{name}");
            let merge = Request::FenceMerge(FenceMerge { first: fd, second: fd });
            assert_eq!(client.call(merge).refusal().name, "wrong-fd-kind", "{name}");
            let head = ExecbufHead { flags: flag::FENCE_IN, ..ExecbufHead::default() };
            let refusal = client.execbuf(&head, &[batch.pinned(0x10_0000)], &[fd]).refusal();
            assert_eq!((refusal.name.as_str(), refusal.errno), ("exec-in-fence", 22), "{name}");
        }
    });
}

/// A socket pair of the client's own that says "signalled" is not a fence of the daemon's.
#[test]
fn a_forged_fence() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("forger");
        let flags = SocketFlags::CLOEXEC;
        for signalled in [false, true] {
            let (mine, forged) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                    .expect("fds are left");
            if signalled {
                rustix::net::send(&mine, &[0; 8], rustix::net::SendFlags::NOSIGNAL)
                    .expect("the pair is connected");
            }
            let query = Request::FenceStatus(FenceStatusQuery { fd: forged.as_fd() });
            assert_eq!(client.call(query).refusal().name, "wrong-fd-kind");
        }
    });
}

/// Any fd comes back from PING; the daemon keeps none, not even one that leads back to itself.
#[test]
fn round_trips_keep_nothing() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("echo");
        for _ in 0..50 {
            for (name, fd) in no_fences(&client) {
                let sent = rustix::fs::fstat(&fd).expect("it is open");
                let ping = Request::Ping(Ping { payload: 3, fd: Some(fd.as_fd()) });
                let Reply::Ping(Ping { payload: 3, fd: Some(back) }) = client.call(ping).reply()
                else {
                    panic!("{name} did not come back")
                };
                let came = rustix::fs::fstat(&back).expect("it is open");
                assert_eq!((sent.st_dev, sent.st_ino), (came.st_dev, came.st_ino), "{name}");
            }
        }
        // Left unread, with the connection's own end in the queue.
        let own = client.socket().try_clone_to_owned().expect("fds are left");
        for _ in 0..5 {
            let ping = Request::Ping(Ping { payload: 4, fd: Some(own.as_fd()) });
            client.send_request(ping).expect("there is room for a few");
        }
    });
}

/// The memory behind a buffer cannot be taken from under the daemon, which has it mapped.
#[test]
fn buffers_cannot_be_truncated() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("truncate");
        let buffer = client.create_buffer(64 * 1024);
        for size in [0, 4096, 1 << 20] {
            let answer = rustix::fs::ftruncate(&buffer.memory, size);
            assert_eq!(answer, Err(rustix::io::Errno::PERM), "to {size} bytes");
        }
        let seals = rustix::fs::fcntl_get_seals(&buffer.memory).expect("it is a memfd");
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
        let more = rustix::fs::fcntl_add_seals(&buffer.memory, SealFlags::WRITE);
        assert_eq!(more, Err(rustix::io::Errno::PERM));
    });
}
