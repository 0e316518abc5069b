//! A client that has as many file descriptors open as it may have. A process of its own, because
//! the limit is the whole process's.

#[path = "client/fake.rs"]
#[expect(dead_code, reason = "the other test binary uses all of it")]
mod fake;

use std::os::fd::{AsFd, AsRawFd};

use gpu_broker_client::protocol::message::Ping;
use gpu_broker_client::protocol::{FdSlot, Opcode, Reply, Request, codec};
use gpu_broker_client::{Connection, Error, r#async};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use fake::Fake;

/// Runs `work` while nothing can be opened.
fn without_room<T>(work: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Nofile);
    // The lowest number that is free; all below it are taken.
    let lowest = std::io::stdin().as_fd().try_clone_to_owned().expect("room").as_raw_fd();
    let limit = Rlimit { current: u64::try_from(lowest).ok(), ..before };
    setrlimit(Resource::Nofile, limit).expect("it may be lowered");
    let result = work();
    setrlimit(Resource::Nofile, before).expect("it may be what it was");
    result
}

/// Answers two pings with an fd, and one without.
fn serve(daemon: &Fake) {
    for payload in 0..2 {
        let seq = daemon.expect(Opcode::Ping);
        let mut packet = Vec::new();
        let reply = Reply::Ping(Ping { payload, fd: Some(FdSlot) });
        codec::encode_reply(seq, &reply, &mut packet).expect("it fits");
        daemon.send(&packet, &[daemon.as_fd()]);
    }
    daemon.pong(daemon.expect(Opcode::Ping), 2);
}

fn assert_out_of_fds<T>(result: Result<T, Error>) {
    let error = result.err().expect("there is no room for the fd");
    assert_eq!(error.errno(), Errno::MFILE.raw_os_error(), "{error}");
    assert!(!error.is_fatal(), "{error}");
}

const PING: Request<std::os::fd::OwnedFd> = Request::Ping(Ping { payload: 0, fd: None });

#[test]
fn a_client_without_room_for_an_fd_keeps_its_session() {
    let (daemon, fd) = fake::pair();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| Connection::from_fd(fd, "test").expect("greeted"));
        daemon.greet();
        let connection = client.join().expect("no panic");
        scope.spawn(|| serve(&daemon));
        assert_out_of_fds(without_room(|| connection.request(PING)));
        let reply = connection.request(PING).expect("there is room again");
        assert!(matches!(reply, Reply::Ping(Ping { payload: 1, fd: Some(_) })), "{reply:?}");
        assert_eq!(connection.ping(2).expect("answered"), 2);
    });

    let (daemon, fd) = fake::pair();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            daemon.greet();
            serve(&daemon);
        });
        let connection = runtime.block_on(r#async::Connection::from_fd(fd, "test"));
        let connection = connection.expect("greeted");
        assert_out_of_fds(without_room(|| runtime.block_on(connection.request(PING))));
        let reply = runtime.block_on(connection.request(PING)).expect("there is room again");
        assert!(matches!(reply, Reply::Ping(Ping { payload: 1, fd: Some(_) })), "{reply:?}");
        assert_eq!(runtime.block_on(connection.ping(2)).expect("answered"), 2);
    });
}
