//! Clients that do not read, and clients that are killed while they work.

use std::io::{BufRead as _, BufReader, ErrorKind};
use std::process::{Command, Stdio};

use gpu_broker_protocol::message::{BufferOf, BufferWait, Ping};
use gpu_broker_protocol::{Reply, Request};
use gpu_broker_tests::{Batch, Builder, Message, Raw, raw};

use super::attack;

/// Sends until the socket is full; says how many messages that were.
fn stuff(client: &Raw, mut request: impl FnMut(u32) -> Vec<u8>) -> u32 {
    // Full for a moment is not full: the daemon may be about to read.
    let mut full = 0;
    let mut sent = 0;
    while full < 200 {
        match client.send_now(&request(sent), &[]) {
            Ok(()) => {
                sent += 1;
                full = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                full += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(error) => panic!("the daemon hung up on a client that is merely slow: {error}"),
        }
        assert!(sent < 100_000, "the daemon reads on although nobody reads its replies");
    }
    sent
}

#[test]
fn a_reply_queue_that_is_never_read() {
    attack(Builder::new(), |daemon| {
        let mut lazy = Vec::new();
        for _ in 0..8 {
            let client = daemon.client("lazy");
            let query = |n| raw::encoded(n, Request::DeviceQuery, &mut Vec::new());
            let sent = stuff(&client, query);
            assert!(sent > 1, "not even two requests fit");
            lazy.push((client, sent));
        }
        // One of them wakes up: nothing was lost, and everything is in order.
        let (client, sent) = lazy.pop().expect("there are eight");
        for expected in 0..sent {
            let Message::Reply(seq, Reply::DeviceQuery(_)) = client.receive() else {
                panic!("DEVICE_QUERY {expected} was answered as something else")
            };
            assert_eq!(seq, expected);
        }
    });
}

/// Replies that carry fds: what lies unread in the socket is held by the kernel for the daemon.
#[test]
fn fds_that_are_never_read() {
    attack(Builder::new(), |daemon| {
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = daemon.client("fd-hoarder");
            let buffer = client.create_buffer(4096).id;
            stuff(&client, |n| {
                raw::encoded(n, Request::BufferMap(BufferOf { buffer }), &mut Vec::new())
            });
            clients.push(client);
        }
    });
}

/// Deferred replies that become due while nobody reads.
#[test]
fn waits_that_end_while_nobody_reads() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("sleeper");
        let (go, batch) = (client.create_buffer(4096), client.create_buffer(4096));
        batch.write(0, &Batch::new().wait_equal(0x20_0000, 1).end().bytes());
        let objects = [go.pinned(0x20_0000), batch.pinned(0x10_0000)];
        let head = gpu_broker_protocol::execbuf::ExecbufHead::default();
        let _executed = client.execbuf(&head, &objects, &[]).executed();
        let waits = 100;
        for _ in 0..waits {
            let wait = BufferWait { buffer: batch.id, flags: 0, timeout_ns: -1 };
            client.send_request(Request::BufferWait(wait)).expect("the daemon reads waits");
        }
        go.write(0, &1_u32.to_le_bytes());
        let pings = stuff(&client, |n| {
            let ping = Request::Ping(Ping { payload: n.into(), fd: None });
            raw::encoded(1_000_000 + n, ping, &mut Vec::new())
        });
        let (mut waited, mut next_ping) = (0, 0);
        while waited < waits || next_ping < pings {
            let Message::Reply(seq, reply) = client.receive() else { panic!("not a reply") };
            if matches!(reply, Reply::BufferWait(_)) {
                waited += 1;
            } else {
                assert_eq!(seq, 1_000_000 + next_ping, "pings are answered in order");
                next_ping += 1;
            }
        }
    });
}

/// A process that is killed with requests sent, replies unread, waits pending, and batches
/// running and queued.
#[test]
fn a_client_killed_mid_message() {
    attack(Builder::new(), |daemon| {
        for _ in 0..5 {
            let mut child = Command::new(env!("CARGO_BIN_EXE_hostile-client"))
                .arg(daemon.socket())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the client starts");
            let output = child.stdout.take().expect("it is piped");
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).expect("it says that it is at work");
            assert_eq!(line, "at work\n");
            child.kill().expect("SIGKILL");
            child.wait().expect("our own child");
        }
    });
}
