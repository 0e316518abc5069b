//! The blocking client.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gpu_broker_client::protocol::message::{BufferCreated, ContextCreated, ExecbufReply, Waited};
use gpu_broker_client::protocol::object::BufferExported;
use gpu_broker_client::protocol::syncobj::{SyncobjOf, SyncobjWaited};
use gpu_broker_client::protocol::{
    BufferId, ContextId, EpitaphCode, FdSlot, Header, Opcode, Reason, Refusal, Reply, SyncobjId,
    Violation, codec, limits,
};
use gpu_broker_client::{Connection, Error, SyncobjSet};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::fake::{self, Fake, payload};

/// A connection and the fake daemon behind it.
fn connect() -> (Fake, Connection) {
    let (daemon, fd) = fake::pair();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| Connection::from_fd(fd, "test"));
        daemon.greet();
        let connection = client.join().expect("no panic").expect("it was greeted");
        (daemon, connection)
    })
}

#[test]
fn a_long_wait_in_one_thread_delays_no_other() {
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        let buffer = {
            let made = scope.spawn(|| connection.create_buffer(4096));
            let seq = daemon.expect(Opcode::BufferCreate);
            let created = BufferCreated { buffer: BufferId(1), size: 4096 };
            daemon.reply(seq, &Reply::BufferCreate(created));
            made.join().expect("no panic").expect("made")
        };
        let waiting = scope.spawn(move || (buffer.wait(None), buffer));
        let wait = daemon.expect(Opcode::BufferWait);
        // The waiting thread reads the socket now; others must get their answers all the same.
        for number in 0..100 {
            let connection = &connection;
            let ping = scope.spawn(move || connection.ping(number));
            let seq = daemon.expect(Opcode::Ping);
            daemon.pong(seq, number);
            assert_eq!(ping.join().expect("no panic").expect("answered"), number);
        }
        assert!(!waiting.is_finished());
        daemon.reply(wait, &Reply::BufferWait(Waited { remaining_ns: 0 }));
        let (idle, buffer) = waiting.join().expect("no panic");
        assert!(idle.expect("answered"));
        // Dropping the buffer closes it, which nobody answers any more.
        drop(daemon);
        drop(buffer);
    });
}

#[test]
fn the_one_who_reads_passes_the_right_on() {
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| connection.ping(1));
        let first_seq = daemon.expect(Opcode::Ping);
        let second = scope.spawn(|| connection.ping(2));
        let second_seq = daemon.expect(Opcode::Ping);
        daemon.pong(first_seq, 1);
        assert_eq!(first.join().expect("no panic").expect("answered"), 1);
        // Whoever read is gone with its answer; the other one must be reading now, or never will.
        daemon.pong(second_seq, 2);
        assert_eq!(second.join().expect("no panic").expect("answered"), 2);
    });
}

/// Eight threads, a daemon that answers in an order of its own.
#[test]
fn every_thread_gets_its_own_answers() {
    const THREADS: u64 = 8;
    const PINGS: u64 = 500;
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("SEED={seed}");
    let (daemon, connection) = connect();
    let served = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (connection, served) = (&connection, &served);
            scope.spawn(move || {
                for ping in 0..PINGS {
                    let number = thread * PINGS + ping;
                    assert_eq!(connection.ping(number).expect("answered"), number);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = seed;
        let mut held: Vec<(u32, u64)> = Vec::new();
        let mut answered = 0;
        while answered < THREADS * PINGS {
            // Takes what has come; answers any of what it holds when nothing has.
            if held.is_empty() || is_readable(&daemon) {
                let (header, body) = daemon.next().expect("a ping");
                held.push((header.seq, payload(&body)));
                continue;
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = (random >> 33) as usize % held.len();
            let (seq, number) = held.swap_remove(pick);
            daemon.pong(seq, number);
            answered += 1;
        }
    });
    assert_eq!(served.into_inner(), THREADS * PINGS);
}

#[test]
fn an_epitaph_reaches_everybody_who_waits_and_whoever_comes_later() {
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let c = &connection;
                    move || c.ping(n)
                })
            })
            .collect();
        for _ in &waiting {
            daemon.expect(Opcode::Ping);
        }
        daemon.end(EpitaphCode::ShuttingDown);
        for thread in waiting {
            let error = thread.join().expect("no panic").expect_err("the daemon stopped");
            assert!(is_epitaph(&error, EpitaphCode::ShuttingDown), "{error}");
        }
    });
    let error = connection.ping(9).expect_err("the session is over");
    assert!(is_epitaph(&error, EpitaphCode::ShuttingDown), "{error}");
    assert!(error.is_fatal());
}

fn is_epitaph(error: &Error, code: EpitaphCode) -> bool {
    matches!(error, Error::Ended(epitaph) if epitaph.code == code)
}

#[test]
fn the_last_words_are_read_although_the_daemon_never_read_the_request() {
    // At HELLO: the daemon is full.
    let (daemon, fd) = fake::pair();
    daemon.end(EpitaphCode::Full);
    let error = Connection::from_fd(fd, "test").expect_err("full");
    assert!(is_epitaph(&error, EpitaphCode::Full), "{error}");
    // Later: a request is on its way, unread, when the daemon closes.
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| connection.ping(1));
        wait_until_readable(&daemon);
        daemon.end(EpitaphCode::Revoked);
        let error = ping.join().expect("no panic").expect_err("revoked");
        assert!(is_epitaph(&error, EpitaphCode::Revoked), "{error}");
    });
}

fn wait_until_readable(daemon: &Fake) {
    let mut set = [PollFd::new(daemon, PollFlags::IN)];
    rustix::event::poll(&mut set, None).expect("poll");
}

fn is_readable(daemon: &Fake) -> bool {
    let mut set = [PollFd::new(daemon, PollFlags::IN)];
    rustix::event::poll(&mut set, Some(&Timespec::default())).expect("poll") > 0
}

#[test]
fn a_daemon_that_dies_is_a_disconnect() {
    let (daemon, connection) = connect();
    drop(daemon);
    let error = connection.ping(1).expect_err("nobody there");
    assert!(matches!(error, Error::Disconnected), "{error}");
    let (daemon, fd) = fake::pair();
    drop(daemon);
    let error = Connection::from_fd(fd, "test").expect_err("nobody there");
    assert!(matches!(error, Error::Disconnected), "{error}");
}

/// The ways a wrong daemon can answer a ping.
#[test]
fn what_no_broker_says_ends_the_connection() {
    type Answer = fn(&Fake, u32);
    let wrong: &[(&str, Answer)] = &[
        ("an unknown number", |daemon, seq| daemon.pong(seq + 1, 0)),
        ("another opcode", |daemon, seq| daemon.reply(seq, &Reply::VmDestroy)),
        ("a request", |daemon, seq| {
            let header = Header { opcode: Opcode::Ping as u16, flags: 0, seq };
            daemon.send(&header.to_bytes(), &[]);
        }),
        ("less than a header", |daemon, _| daemon.send(&[1, 2, 3], &[])),
        ("a body that is cut", |daemon, seq| {
            let header = Header { opcode: Opcode::Ping as u16, flags: 1, seq };
            daemon.send(&header.to_bytes(), &[]);
        }),
        ("too much", |daemon, _| daemon.send(&[0; 70_000], &[])),
        ("an fd too many", |daemon, seq| {
            let mut packet =
                Header { opcode: Opcode::Ping as u16, flags: 1, seq }.to_bytes().to_vec();
            packet.extend([0; 9]);
            daemon.send(&packet, &[daemon.as_fd()]);
        }),
        ("more fds than a message has", |daemon, seq| {
            let mut packet =
                Header { opcode: Opcode::Ping as u16, flags: 1, seq }.to_bytes().to_vec();
            packet.extend([0; 9]);
            daemon.send(&packet, &[daemon.as_fd(); 6]);
        }),
    ];
    for (what, answer) in wrong {
        let (daemon, connection) = connect();
        std::thread::scope(|scope| {
            let ping = scope.spawn(|| connection.ping(1));
            answer(&daemon, daemon.expect(Opcode::Ping));
            let error = ping.join().expect("no panic").expect_err(what);
            assert!(matches!(error, Error::Protocol(_)), "{what}: {error}");
        });
        let error = connection.ping(2).expect_err("the connection is of no use any more");
        assert!(matches!(error, Error::Protocol(_)), "{what}, again: {error}");
    }
}

#[test]
fn fds_that_nobody_asked_for_are_closed() {
    let (daemon, connection) = connect();
    let (reader, writer) = rustix::pipe::pipe().expect("pipe");
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| connection.ping(1));
        let seq = daemon.expect(Opcode::Ping);
        let mut packet = Header { opcode: Opcode::Ping as u16, flags: 1, seq }.to_bytes().to_vec();
        packet.extend([0; 9]);
        daemon.send(&packet, &[writer.as_fd()]);
        ping.join().expect("no panic").expect_err("an fd too many");
    });
    drop(writer);
    // The end of the file shows that no copy of the writing end is left in this process.
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]).expect("read"), 0);
}

#[test]
fn a_refusal_leaves_the_connection_as_it_was() {
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        let create = scope.spawn(|| connection.context().priority(2000).create().map(drop));
        let seq = daemon.expect(Opcode::ContextCreate);
        let mut packet = Vec::new();
        let refusal = Refusal::new(Reason::PriorityRange);
        codec::encode_refusal(Opcode::ContextCreate as u16, seq, &refusal, &mut packet)
            .expect("it fits");
        daemon.send(&packet, &[]);
        let error = create.join().expect("no panic").expect_err("refused");
        assert_eq!(error.errno(), 22);
        assert_eq!(error.refusal().map(|refusal| refusal.name.as_str()), Some("priority-range"));
        assert!(!error.is_fatal());
        let ping = scope.spawn(|| connection.ping(3));
        daemon.pong(daemon.expect(Opcode::Ping), 3);
        assert_eq!(ping.join().expect("no panic").expect("answered"), 3);
    });
}

#[test]
fn a_request_that_is_too_long_is_not_sent() {
    use gpu_broker_client::protocol::param::EngineId;
    let (daemon, connection) = connect();
    let engines = vec![EngineId::GAP; 20_000];
    let error = connection.context().engines(&engines).create().expect_err("80 KB");
    assert!(matches!(error, Error::Unsendable(_)), "{error}");
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| connection.ping(3));
        daemon.pong(daemon.expect(Opcode::Ping), 3);
        assert_eq!(ping.join().expect("no panic").expect("answered"), 3);
    });
}

#[test]
fn only_a_connected_seqpacket_socket_will_do() {
    let (stream, _peer) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .expect("socketpair");
    let lone =
        rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("socket");
    let pipe: OwnedFd = rustix::pipe::pipe().expect("pipe").0;
    for fd in [stream, lone, pipe] {
        let error = Connection::from_fd(fd, "test").expect_err("no broker there");
        assert!(matches!(error, Error::NotASocket), "{error}");
    }
}

#[test]
fn connecting_to_nothing_says_where_and_what_to_do() {
    let error = Connection::connect("/nonexistent/gpu.sock", "test").expect_err("nothing there");
    assert_eq!(error.errno(), 2);
    let said = error.to_string();
    assert!(said.contains("/nonexistent/gpu.sock") && said.contains("gpu-brokerd"), "{said}");
    let error = Connection::connect("x".repeat(200), "test").expect_err("too long");
    assert!(error.to_string().contains("107 bytes"), "{error}");
}

#[test]
fn objects_are_released_when_they_are_dropped() {
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            drop(connection.context().create().expect("made"));
            drop(connection.default_context());
            connection.ping(5).expect("answered")
        });
        let seq = daemon.expect(Opcode::ContextCreate);
        daemon.reply(seq, &Reply::ContextCreate(ContextCreated { context: ContextId(4) }));
        let (header, body) = daemon.next().expect("the drop");
        assert_eq!(header.opcode, Opcode::ContextDestroy as u16);
        assert_eq!(body, [4, 0, 0, 0, 0, 0, 0, 0]);
        daemon.reply(header.seq, &Reply::ContextDestroy);
        // The default context is nobody's to destroy.
        daemon.pong(daemon.expect(Opcode::Ping), 5);
        assert_eq!(client.join().expect("no panic"), 5);
    });
}

#[test]
fn submitting_again_allocates_nothing() {
    let (daemon, connection) = connect();
    const ROUNDS: usize = 50;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = Reply::Execbuf(ExecbufReply { offsets: vec![], fence: None });
            let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
            for _ in 0..ROUNDS + 1 {
                let (header, body) = daemon.next().expect("an EXECBUF");
                assert_eq!(header.opcode, Opcode::Execbuf as u16);
                *seen.entry(body).or_default() += 1;
                daemon.reply(header.seq, &answer);
            }
            assert_eq!(seen.len(), 1, "a builder that is used again sends the same");
        });
        let context = connection.default_context();
        let mut work =
            context.execbuf().engine(1).object_raw(Default::default()).batch(BufferId(6));
        work.submit().expect("answered");
        let info = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                work.submit().expect("answered");
            }
        });
        assert_eq!(info.count_total, 0, "{info:?}");
    });
}

#[test]
fn a_thread_needs_one_receive_buffer_for_all_its_connections() {
    let serve = |daemon: Fake| {
        daemon.greet();
        daemon.pong(daemon.expect(Opcode::Ping), 1);
        // Keeps the socket until the client is done with it.
        daemon.next()
    };
    let allocated = || {
        let (daemon, fd) = fake::pair();
        std::thread::scope(|scope| {
            scope.spawn(move || serve(daemon));
            let work = || {
                let connection = Connection::from_fd(fd, "test").expect("greeted");
                assert_eq!(connection.ping(1).expect("answered"), 1);
            };
            allocation_counter::measure(work).bytes_total
        })
    };
    let message = limits::MESSAGE_BYTES_MAX as u64;
    let (first, second) = (allocated(), allocated());
    assert!(first >= message, "the measure sees the buffer: {first}");
    assert!(second < message / 16, "{second} bytes for a connection");
}

/// A socket that somebody made non-blocking is waited for.
#[test]
fn a_non_blocking_socket_is_no_trouble() {
    let (daemon, connection) = connect();
    rustix::io::ioctl_fionbio(&connection, true).expect("it is a socket");
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| connection.ping(3));
        let seq = daemon.expect(Opcode::Ping);
        std::thread::sleep(Duration::from_millis(20));
        daemon.pong(seq, 3);
        let asked = Instant::now();
        assert_eq!(ping.join().expect("no panic").expect("answered"), 3);
        assert!(asked.elapsed() < Duration::from_secs(60));
    });
}

#[test]
fn a_version_that_was_not_offered_is_refused_here() {
    let (daemon, fd) = fake::pair();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| Connection::from_fd(fd, "test").map(drop));
        let seq = daemon.expect(Opcode::Hello);
        let hello = fake::hello();
        daemon.reply(
            seq,
            &Reply::Hello(gpu_broker_client::protocol::message::HelloReply { minor: 9, ..hello }),
        );
        let error = client.join().expect("no panic").expect_err("1.9 was not offered");
        assert!(matches!(error, Error::Version { major: 1, minor: 9 }), "{error}");
        assert!(!matches!(error, Error::Protocol(Violation::Malformed)));
    });
}

/// The daemon's handles are not counted, so the library counts who has one.
#[test]
fn a_buffer_that_comes_back_is_closed_by_its_last_owner() {
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let made = || BufferCreated { buffer: BufferId(3), size: 4096 };
            daemon.reply(daemon.expect(Opcode::BufferCreate), &Reply::BufferCreate(made()));
            let seq = daemon.expect(Opcode::BufferExport);
            let mut packet = Vec::new();
            let exported = Reply::BufferExport(BufferExported { fd: FdSlot });
            codec::encode_reply(seq, &exported, &mut packet).expect("it fits");
            daemon.send(&packet, &[daemon.as_fd()]);
            daemon.reply(daemon.expect(Opcode::BufferImport), &Reply::BufferImport(made()));
            // The first of the two owners goes without a word.
            daemon.pong(daemon.expect(Opcode::Ping), 1);
            daemon.reply(daemon.expect(Opcode::BufferClose), &Reply::BufferClose);
            daemon.pong(daemon.expect(Opcode::Ping), 2);
        });
        let buffer = connection.create_buffer(1).expect("made");
        let fd = buffer.export().expect("exported");
        let again = connection.import_buffer(&fd).expect("imported");
        assert_eq!((again.handle(), again.size()), (buffer.handle(), 4096));
        drop(buffer);
        connection.ping(1).expect("answered");
        again.close().expect("closed");
        connection.ping(2).expect("answered");
    });
}

#[test]
fn a_wait_that_took_too_long_is_an_answer() {
    let (daemon, connection) = connect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let made = SyncobjOf { syncobj: SyncobjId(1) };
            daemon.reply(daemon.expect(Opcode::SyncobjCreate), &Reply::SyncobjCreate(made));
            let seq = daemon.expect(Opcode::SyncobjWait);
            let mut packet = Vec::new();
            let late = Refusal::new(Reason::SyncobjTimeout);
            codec::encode_refusal(Opcode::SyncobjWait as u16, seq, &late, &mut packet)
                .expect("it fits");
            daemon.send(&packet, &[]);
            let waited = SyncobjWaited { first_signaled: 1 };
            daemon.reply(daemon.expect(Opcode::SyncobjWait), &Reply::SyncobjWait(waited));
            // A position that was not in the set: no broker says that.
            daemon.reply(daemon.expect(Opcode::SyncobjWait), &Reply::SyncobjWait(waited));
            daemon.reply(daemon.expect(Opcode::SyncobjDestroy), &Reply::SyncobjDestroy);
        });
        let syncobj = connection.create_syncobj(false).expect("made");
        assert!(!syncobj.wait(Some(Duration::ZERO)).expect("answered"), "it was too late");
        let two = SyncobjSet::new().with(&syncobj).with_point(&syncobj, 2);
        assert_eq!(connection.wait_any(&two, None).expect("answered"), Some(1));
        let one = SyncobjSet::new().with(&syncobj);
        let error = connection.wait_any(&one, None).expect_err("no such position");
        assert!(matches!(error, Error::Protocol(_)), "{error}");
    });
}
