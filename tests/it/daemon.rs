//! The daemon as a process: how it starts, who may start, how it ends.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;

use gpu_broker_protocol::execbuf::ExecbufHead;
use gpu_broker_protocol::message::BufferCreate;
use gpu_broker_protocol::{EpitaphCode, Reply, Request};
use gpu_broker_tests::{Batch, Builder, Daemon, Message, Raw, Witness, binaries, eventually};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen};
use rustix::process::Signal;

fn listener(builder: &Builder, kind: SocketType) -> OwnedFd {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .expect("fds are left");
    let address = SocketAddrUnix::new(builder.socket()).expect("the path is short");
    bind(&socket, &address).expect("the directory is ours");
    listen(&socket, 16).expect("it is bound");
    socket
}

#[test]
fn serves_and_ends_at_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start();
        let client = daemon.client("bystander");
        daemon.signal(signal);
        assert_eq!(client.receive().epitaph().code, EpitaphCode::ShuttingDown);
        assert!(matches!(client.receive(), Message::Closed));
        let status = daemon.wait();
        assert!(status.success(), "{status}; log:\n{}", daemon.log());
        assert!(!daemon.socket().exists(), "the socket stays behind");
    }
}

/// Batches without an end on every engine, and clients in the middle of everything, do not keep
/// the daemon from ending well.
#[test]
fn drains_while_endless_batches_run() {
    let mut daemon = Daemon::start();
    let mut clients = Vec::new();
    for ring in 1..=4 {
        let mut client = daemon.client("endless");
        let batch = client.create_buffer(4096);
        batch.write(0, &Batch::new().arbitration_point().jump(0x10_0000).bytes());
        let head = ExecbufHead { flags: ring, ..ExecbufHead::default() };
        for _ in 0..3 {
            let _executed = client.execbuf(&head, &[batch.pinned(0x10_0000)], &[]).executed();
        }
        clients.push((client, batch));
    }
    let status = daemon.terminate();
    assert!(status.success(), "{status}; log:\n{}", daemon.log());
    for (client, _) in clients {
        assert_eq!(client.receive().epitaph().code, EpitaphCode::ShuttingDown);
    }
}

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let mut daemon = Daemon::start();
    let witness = Witness::start(daemon.socket());
    let output = Command::new(binaries::daemon())
        .args(["--device", "soft", "--socket"])
        .arg(daemon.socket())
        .output()
        .expect("gpu-brokerd can be started");
    assert!(!output.status.success(), "two daemons on one socket");
    let said = String::from_utf8_lossy(&output.stderr);
    let path = daemon.socket().display().to_string();
    assert!(said.contains(&path), "which socket? it said: {said}");
    witness.finish();
    drop(daemon.client("later"));
    daemon.assert_unharmed();
}

#[test]
fn the_socket_of_a_killed_daemon_is_replaced() {
    let builder = Builder::new();
    drop(listener(&builder, SocketType::SEQPACKET));
    assert!(builder.socket().exists(), "a socket file outlives its listener");
    let daemon = builder.start();
    drop(daemon.client("after"));
}

/// kill -9 takes the daemon; the next one takes its place, and clients of the first know.
#[test]
fn a_killed_daemon_leaves_nothing_that_the_next_minds() {
    let mut daemon = Daemon::start();
    let mut client = daemon.client("orphan");
    daemon.signal(Signal::KILL);
    let _killed = daemon.wait();
    assert!(matches!(client.call(Request::DeviceQuery), Message::Closed));
    assert!(daemon.socket().exists(), "nobody was left to remove it");
    let output = Command::new(binaries::daemon())
        .args(["--device", "soft", "--check-config", "--socket"])
        .arg(daemon.socket())
        .output()
        .expect("gpu-brokerd can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut second = Command::new(binaries::daemon())
        .args(["--device", "soft", "--log-level", "error", "--socket"])
        .arg(daemon.socket())
        .spawn()
        .expect("gpu-brokerd can be started");
    let next =
        eventually("the second daemon serves", || Raw::try_hello(daemon.socket(), "next").ok());
    drop(next);
    second.kill().expect("it is ours");
    second.wait().expect("it is ours");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let builder = Builder::new();
    fs::write(builder.socket(), "precious").expect("the directory is ours");
    let mut daemon = builder.spawn();
    assert!(!daemon.wait().success());
    let kept = fs::read_to_string(daemon.socket()).expect("it is still there");
    assert_eq!(kept, "precious");
    assert!(daemon.log().contains("not a socket"), "{}", daemon.log());
}

#[test]
fn systemd_can_pass_the_socket() {
    let builder = Builder::new();
    let socket = listener(&builder, SocketType::SEQPACKET);
    let mut daemon = builder.activated_by(socket).start();
    Witness::start(daemon.socket()).finish();
    let status = daemon.terminate();
    assert!(status.success(), "{status}");
    assert!(daemon.socket().exists(), "the socket belongs to systemd, not to the daemon");
}

#[test]
fn systemd_must_pass_a_socket_of_the_right_kind() {
    let builder = Builder::new();
    let socket = listener(&builder, SocketType::STREAM);
    let mut daemon = builder.activated_by(socket).spawn();
    assert!(!daemon.wait().success(), "a stream socket was accepted");
    let log = daemon.log();
    assert!(log.contains("ListenSequentialPacket"), "no word on how to mend it: {log}");
}

#[test]
fn a_world_writable_directory_is_no_place_for_the_socket() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    fs::set_permissions(directory.path(), permissions).expect("it is ours");
    let output = Command::new(binaries::daemon())
        .args(["--device", "soft", "--socket"])
        .arg(directory.path().join("broker.sock"))
        .output()
        .expect("gpu-brokerd can be started");
    assert!(!output.status.success());
    assert!(!directory.path().join("broker.sock").exists());
}

#[test]
fn a_wrong_configuration_is_named_by_line() {
    let mut daemon = Builder::new().config("\n[session]\nvmz = 3").spawn();
    assert!(!daemon.wait().success());
    let log = daemon.log();
    assert!(log.contains("vmz") && log.contains("line 3"), "{log}");
}

#[test]
fn a_device_that_is_not_there_is_an_error_with_a_sentence() {
    let mut daemon = Builder::new().argument("--device=/dev/dri/renderD128").spawn();
    assert!(!daemon.wait().success());
    let log = daemon.log();
    assert!(log.contains("/dev/dri/renderD128") || log.contains("--device"), "{log}");
}

/// A thousand sessions, each with memory that was really used, come and go.
#[test]
fn sessions_leave_no_memory_behind() {
    let mut daemon = Daemon::start();
    let size: u64 = 1 << 20;
    let page = vec![7; usize::try_from(size).expect("64 bits")];
    let session = |daemon: &Daemon| {
        let mut client = daemon.client("visitor");
        let batch = client.create_buffer(4096);
        let buffers: Vec<_> = (0..4).map(|_| client.create_buffer(size)).collect();
        let mut objects = Vec::new();
        for (buffer, place) in buffers.iter().zip(1..) {
            buffer.write(0, &page);
            objects.push(buffer.pinned_for_writing(0x1000_0000 * place));
        }
        batch.write(0, &Batch::new().store(0x1000_0000, 1).store(0x4000_0000, 2).end().bytes());
        objects.push(batch.pinned(0x10_0000));
        for _ in 0..4 {
            let context = client.create_context().0;
            let head = ExecbufHead { context, ..ExecbufHead::default() };
            let _executed = client.execbuf(&head, &objects, &[]).executed();
        }
        let _waited = client.wait(batch.id).reply();
        assert_eq!((buffers[0].dword(0), buffers[3].dword(0)), (1, 2));
    };
    for _ in 0..20 {
        session(&daemon);
    }
    let before = daemon.footprint();
    for _ in 0..300 {
        session(&daemon);
    }
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// Buffers are memory only once they are used.
#[test]
fn large_buffers_cost_nothing_until_they_are_used() {
    let daemon = Daemon::start();
    let mut client = daemon.client("dreamer");
    let before = daemon.footprint();
    for _ in 0..64 {
        let create = Request::BufferCreate(BufferCreate { size: 1 << 30, flags: 0, regions: None });
        assert!(matches!(client.call(create).reply(), Reply::BufferCreate(_)));
    }
    daemon.settles_to(&before);
}
