//! The daemon as a process, and one client that speaks to it in packets.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the answer it expects; every other one is a failure"
)]

mod rig;

use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use gpu_broker_protocol::codec::{self};
use gpu_broker_protocol::execbuf::{ExecObject, flag};
use gpu_broker_protocol::message::{
    BufferWait, ContextCreate, ContextDestroy, FenceState, FenceStatusQuery, Hello, Ping, Waited,
};
use gpu_broker_protocol::status::StatusQuery;
use gpu_broker_protocol::version::{MAJOR, MINOR_MAX, feature};
use gpu_broker_protocol::{EpitaphCode, FdSlot, Header, Opcode, Reason, Reply, Request, SessionId};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;

use crate::rig::*;

#[test]
fn a_session_from_hello_to_the_end() {
    let daemon = Daemon::start("[session]\nfences = 3\n");
    let mut client = daemon.stranger();
    let hello = client.hello();
    assert_eq!((hello.major, hello.minor, hello.features), (MAJOR, MINOR_MAX, feature::ALL));
    assert_eq!((hello.limits.fences, hello.limits.vms), (3, 1024));
    assert_eq!(hello.device.driver, "soft");
    ping(&mut client);

    // The fd of a PING comes back, and it is the same file.
    let (reader, writer) = std::io::pipe().expect("pipe");
    let asked = Request::Ping(Ping { payload: 6, fd: Some(FdSlot) });
    let answer = client.ask_with(asked, &[writer.as_fd()]);
    let Ok(Reply::Ping(Ping { payload: 6, fd: Some(back) })) = answer else {
        panic!("{answer:?}");
    };
    drop(writer);
    rustix::io::write(&back, b"same").expect("the pipe's writer");
    drop(back);
    let mut text = String::new();
    std::io::BufReader::new(reader).read_to_string(&mut text).expect("text");
    assert_eq!(text, "same", "and the daemon has no copy left");

    let answer = client.ask(Request::ContextCreate(ContextCreate::default()));
    assert!(matches!(answer, Ok(Reply::ContextCreate(_))), "{answer:?}");

    let batch = client.buffer(100);
    client.write(batch, &[0x0a << 23, 0]);
    let object = ExecObject { handle: batch.0, ..ExecObject::default() };
    let answer = client.execbuf(flag::FENCE_OUT, &[object], &[]);
    let Ok(Reply::Execbuf(executed)) = answer else { panic!("{answer:?}") };
    let fence = executed.fence.expect("FENCE_OUT");
    let wait = BufferWait { buffer: batch, flags: 0, timeout_ns: -3 };
    let answer = client.ask(Request::BufferWait(wait));
    assert!(matches!(answer, Ok(Reply::BufferWait(Waited { remaining_ns: -3 }))), "{answer:?}");
    let query = Request::FenceStatus(FenceStatusQuery { fd: FdSlot });
    let answer = client.ask_with(query, &[fence.as_fd()]);
    assert!(matches!(answer, Ok(Reply::FenceStatus(FenceState::Signalled))), "{answer:?}");
    client.execbuf(flag::FENCE_IN, &[object], &[fence.as_fd()]).expect("a fence of ours");
}

#[test]
fn fds_of_the_wrong_kind_are_refused_and_the_session_goes_on() {
    let daemon = Daemon::start("");
    let mut client = daemon.client();
    let (_reader, writer) = std::io::pipe().expect("pipe");
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
    for fd in [writer.as_fd(), socket.as_fd(), client.socket.try_clone().expect("fds").as_fd()] {
        let query = Request::FenceStatus(FenceStatusQuery { fd: FdSlot });
        refused(client.ask_with(query, &[fd]), Reason::WrongFdKind);
        let batch = client.buffer(4096);
        let object = ExecObject { handle: batch.0, ..ExecObject::default() };
        refused(client.execbuf(flag::FENCE_IN, &[object], &[fd]), Reason::ExecInFence);
    }
    ping(&mut client);
}

#[test]
fn hello_comes_first_once_and_in_time() {
    let daemon = Daemon::start("[daemon]\nhello_timeout_ms = 50\n");
    let mut late = daemon.stranger();
    late.expect_end(EpitaphCode::Hello);

    let mut rude = daemon.stranger();
    rude.say(Request::DeviceQuery, &[]);
    rude.expect_end(EpitaphCode::Hello);

    let mut foreign = daemon.stranger();
    let hello = Hello {
        major: MAJOR + 1,
        minor_min: 0,
        minor_max: 0,
        features: 0,
        client_name: "x".to_owned(),
    };
    refused(foreign.ask(Request::Hello(hello.clone())), Reason::VersionUnsupported);
    let nameless = Hello { major: MAJOR, client_name: "\u{1b}[2J".to_owned(), ..hello };
    refused(foreign.ask(Request::Hello(nameless.clone())), Reason::ClientName);
    foreign.hello();
    foreign.say(Request::Hello(nameless), &[]);
    foreign.expect_end(EpitaphCode::Hello);
}

#[test]
fn what_breaks_the_protocol_ends_that_session_only() {
    let mut daemon = Daemon::start("");
    let mut witness = daemon.client();
    let (reader, _writer) = std::io::pipe().expect("pipe");
    let fds = |count| vec![reader.as_fd(); count];
    let header = |opcode, flags| Header { opcode, flags, seq: 1 }.to_bytes().to_vec();
    let ping_bytes = |fd: u8| {
        let mut bytes = header(Opcode::Ping as u16, 0);
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, fd]);
        bytes
    };
    let cases = [
        (vec![1, 2, 3], 0, EpitaphCode::Malformed),
        (header(0x7777, 0), 0, EpitaphCode::UnknownOpcode),
        (header(Opcode::DeviceQuery as u16, 1), 0, EpitaphCode::Malformed),
        (header(Opcode::Execbuf as u16, 0), 0, EpitaphCode::Malformed),
        (vec![0; 65537], 0, EpitaphCode::TooLong),
        (ping_bytes(2), 0, EpitaphCode::Malformed),
        (ping_bytes(0), 1, EpitaphCode::FdCount),
        (ping_bytes(1), 0, EpitaphCode::FdCount),
        (ping_bytes(1), 2, EpitaphCode::FdCount),
        (ping_bytes(1), 5, EpitaphCode::FdCount),
        (ping_bytes(1), 100, EpitaphCode::FdCount),
    ];
    for (bytes, fd_count, code) in &cases {
        let mut client = daemon.client();
        client.send(bytes, &fds(*fd_count)).expect("sent");
        client.expect_end(*code);
        ping(&mut witness);
    }
    // The epitaph is heard even by a client that has sent more than the daemon read.
    let mut eager = daemon.client();
    daemon.signal(Signal::STOP);
    eager.send(&header(0x7777, 0), &[]).expect("sent");
    for _ in 0..5 {
        eager.send(&ping_bytes(0), &[]).expect("there is room for some");
    }
    daemon.signal(Signal::CONT);
    eager.expect_end(EpitaphCode::UnknownOpcode);

    let answer = witness.ask(Request::Status(StatusQuery { after: SessionId(0) }));
    let Ok(Reply::Status(page)) = answer else { panic!("{answer:?}") };
    assert_eq!(page.daemon.violations, cases.len() as u64 + 1);
    let names: Vec<_> = page.sessions.iter().map(|session| &*session.client_name).collect();
    assert_eq!(names, ["process test"], "the others are gone");
    drop(witness);
    assert!(daemon.terminate().success());
    let log = daemon.log();
    assert!(log.contains("broke the protocol") && !log.contains("ERROR"), "{log}");
    assert!(log.contains("are left out"), "the log is limited: {log}");
}

#[test]
fn waits_end_late_or_not_at_all_and_nobody_else_waits() {
    let daemon = Daemon::start("[session]\npending_waits = 2\nfences = 1\n");
    let mut client = daemon.client();
    let batch = client.endless_batch();
    let context = client.context_without_persistence();
    let executed = client.execbuf_in(context, flag::FENCE_OUT, &[batch], &[]);
    let Ok(Reply::Execbuf(executed)) = executed else { panic!("{executed:?}") };
    let fence = executed.fence.expect("FENCE_OUT");
    let query = || Request::FenceStatus(FenceStatusQuery { fd: FdSlot });
    let answer = client.ask_with(query(), &[fence.as_fd()]);
    assert!(matches!(answer, Ok(Reply::FenceStatus(FenceState::Pending))), "{answer:?}");

    refused(client.execbuf_in(context, flag::FENCE_OUT, &[batch], &[]), Reason::FenceLimit);

    let wait = |timeout_ns| {
        Request::BufferWait(BufferWait { buffer: batch.buffer(), flags: 0, timeout_ns })
    };
    refused(client.ask(wait(0)), Reason::WaitTimeout);
    refused(client.ask(wait(1_000_000)), Reason::WaitTimeout);
    let for_ever = client.say(wait(-1), &[]);
    let an_hour = client.say(wait(3_600_000_000_000), &[]);
    refused(client.ask(wait(-1)), Reason::WaitLimit);
    ping(&mut client);
    ping(&mut daemon.client());

    // The waits end with the work, and the fence says EIO.
    let destroy = Request::ContextDestroy(ContextDestroy { context, pad: 0 });
    client.ask(destroy).expect("it is ours");
    let mut ended = Vec::new();
    for _ in 0..2 {
        match client.hear() {
            Heard::Reply(seq, Reply::BufferWait(waited)) => ended.push((seq, waited.remaining_ns)),
            other => panic!("instead of the end of a wait: {other:?}"),
        }
    }
    ended.sort_unstable();
    assert_eq!(ended[0], (for_ever, -1));
    assert_eq!(ended[1].0, an_hour);
    assert!((1..3_600_000_000_000).contains(&ended[1].1), "{ended:?}");
    let answer = client.ask_with(query(), &[fence.as_fd()]);
    assert!(matches!(answer, Ok(Reply::FenceStatus(FenceState::Failed(5)))), "{answer:?}");
    let short = client.buffer(4096);
    client.write(short, &[0x0a << 23, 0]);
    let object = ExecObject { handle: short.0, ..ExecObject::default() };
    client.execbuf(flag::FENCE_OUT, &[object], &[]).expect("a signalled fence does not count");
}

#[test]
fn a_client_that_does_not_read_stalls_itself_only() {
    let daemon = Daemon::start("");
    let mut deaf = daemon.client();
    let mut bytes = Vec::new();
    let question = Request::<FdSlot>::Ping(Ping { payload: 1, fd: None });
    codec::encode_request(7, &question, &mut bytes).expect("fits");
    rustix::io::ioctl_fionbio(&deaf.socket, true).expect("a socket");
    let mut sent = 0;
    let mut witness = daemon.client();
    // Until both directions are full; a daemon that queued replies would never get there.
    let mut quiet_rounds = 0;
    while quiet_rounds < 3 {
        quiet_rounds += 1;
        while deaf.send(&bytes, &[]).is_ok() {
            sent += 1;
            quiet_rounds = 0;
            assert!(sent < 100_000, "the daemon reads on without an end");
        }
        ping(&mut witness);
    }
    // Once the client reads, every reply is there and the session goes on.
    rustix::io::ioctl_fionbio(&deaf.socket, false).expect("a socket");
    for _ in 0..sent {
        assert!(matches!(deaf.hear(), Heard::Reply(7, Reply::Ping(_))));
    }
    ping(&mut deaf);
}

#[test]
fn more_clients_than_allowed_are_told_so() {
    let daemon = Daemon::start("[daemon]\nsessions = 3\nsessions_per_uid = 2\n");
    let mut first = daemon.client();
    let second = daemon.client();
    let mut third = daemon.stranger();
    third.expect_end(EpitaphCode::Full);
    drop(second);
    let start = Instant::now();
    // Its seat is free as soon as the daemon has noticed.
    loop {
        let mut next = daemon.stranger();
        let turned_away = match next.hear_nothing_or_epitaph() {
            Some(code) => code == EpitaphCode::Full,
            None => false,
        };
        if !turned_away {
            next.hello();
            break;
        }
        assert!(start.elapsed() < PATIENCE);
    }
    ping(&mut first);
}

#[test]
fn sigterm_ends_sessions_with_an_epitaph_even_beside_an_endless_batch() {
    let mut daemon = Daemon::start("");
    let mut idle = daemon.client();
    let mut stranger = daemon.stranger();
    let mut busy = daemon.client();
    let batch = busy.endless_batch();
    busy.execbuf(0, &[batch], &[]).expect("runs");
    assert!(daemon.terminate().success());
    for client in [&mut idle, &mut busy, &mut stranger] {
        client.expect_end(EpitaphCode::ShuttingDown);
    }
    assert!(!daemon.socket.exists(), "the socket is removed");
    let log = daemon.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_second_daemon_on_the_same_socket_says_so_and_the_first_serves_on() {
    let daemon = Daemon::start("");
    let socket = daemon.socket.to_str().expect("text");
    let second = command(&["--socket", socket]).output().expect("starts");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another gpu-brokerd already serves"), "{said}");
    ping(&mut daemon.client());
}

#[test]
fn wrong_command_lines_and_configurations_are_explained() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("broker.toml");
    let file_name = file.to_str().expect("text");
    let socket = directory.path().join("s.sock");
    let socket = socket.to_str().expect("text");
    std::fs::write(&file, "[daemon]\nsesions = 3\n").expect("writable");
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--check-config", "--config", file_name], 2, "sesions"),
        (&["--config", file_name], 2, "line 2"),
        (&["--socket", socket, "--device", "/dev/dri/renderD128"], 1, "--device soft"),
        (&[], 1, "XDG_RUNTIME_DIR"),
    ];
    for (arguments, code, sentence) in cases {
        let output = command(arguments).output().expect("starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(sentence), "{arguments:?}: {said}");
    }
    std::fs::write(&file, "[daemon]\nsessions = 3\n").expect("writable");
    let good = command(&["--check-config", "--config", file_name]).output().expect("starts");
    assert!(good.status.success());
}

/// A listening socket that a child inherits, and the child's environment for it.
fn pass_socket(child: &mut Command, path: &Path, kind: SocketType) -> OwnedFd {
    // Without CLOEXEC: other children of this test may inherit it as well, and ignore it.
    let flags = SocketFlags::empty();
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).expect("socket");
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).expect("short")).expect("free");
    rustix::net::listen(&socket, 8).expect("bound");
    let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
    child.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", number.to_string());
    socket
}

#[test]
fn systemd_passes_the_socket_and_hears_of_start_and_stop() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let socket = directory.path().join("passed.sock");
    let notify = directory.path().join("notify.sock");
    let systemd = std::os::unix::net::UnixDatagram::bind(&notify).expect("free");
    systemd.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut command = command(&["--device", "soft"]);
    let passed = pass_socket(&mut command, &socket, SocketType::SEQPACKET);
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "20000");
    let child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let mut daemon = Daemon { child, socket, _directory: directory };
    let hear = || {
        let mut bytes = [0; 64];
        let length = systemd.recv(&mut bytes).expect("the daemon notifies");
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    assert_eq!(hear(), "READY=1");
    ping(&mut daemon.client());
    assert_eq!(hear(), "WATCHDOG=1");
    assert!(daemon.terminate().success());
    assert!(daemon.socket.exists(), "the file is systemd's");
    while hear() != "STOPPING=1" {}
    drop(passed);
}

#[test]
fn a_passed_socket_of_another_type_is_refused_with_a_hint() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut command = command(&["--device", "soft"]);
    let path = directory.path().join("stream.sock");
    let _passed = pass_socket(&mut command, &path, SocketType::STREAM);
    let output = command.output().expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ListenSequentialPacket="), "{said}");
}
