//! The client over tokio.

use std::os::fd::AsFd;
use std::time::Duration;

use gpu_broker_client::r#async::Connection;
use gpu_broker_client::protocol::execbuf::{Execbuf, flag};
use gpu_broker_client::protocol::message::{BufferCreated, ExecbufReply, Ping, Waited};
use gpu_broker_client::protocol::object::BufferExported;
use gpu_broker_client::protocol::syncobj::{SyncobjOf, SyncobjPoints, SyncobjWaited};
use gpu_broker_client::protocol::{
    BufferId, EpitaphCode, FdSlot, Header, Opcode, Reply, Request, SyncobjId, codec,
};
use gpu_broker_client::{Error, Fence, FenceState, SyncobjSet};
use tokio::task::spawn_blocking;

use crate::fake::{self, Fake, payload};

async fn connect() -> (Fake, Connection) {
    let (daemon, fd) = fake::pair();
    let greeted = spawn_blocking(move || {
        daemon.greet();
        daemon
    });
    let connection = Connection::from_fd(fd, "test").await.expect("it was greeted");
    (greeted.await.expect("no panic"), connection)
}

#[tokio::test]
async fn requests_of_several_tasks_go_on_side_by_side() {
    let (daemon, connection) = connect().await;
    assert_eq!(connection.session().0, 7);
    let fake = spawn_blocking(move || {
        let created = BufferCreated { buffer: BufferId(1), size: 4096 };
        daemon.reply(daemon.expect(Opcode::BufferCreate), &Reply::BufferCreate(created));
        let mut wait = None;
        let mut pings = Vec::new();
        while pings.len() < 100 || wait.is_none() {
            let (header, body) = daemon.next().expect("a request");
            if header.opcode == Opcode::BufferWait as u16 {
                wait = Some(header.seq);
            } else {
                pings.push((header.seq, payload(&body)));
            }
        }
        for (seq, number) in pings.into_iter().rev() {
            daemon.pong(seq, number);
        }
        daemon.reply(wait.expect("it came"), &Reply::BufferWait(Waited { remaining_ns: 0 }));
        daemon.reply(daemon.expect(Opcode::BufferClose), &Reply::BufferClose);
    });
    let buffer = connection.create_buffer(1).await.expect("made");
    let pings: Vec<_> = (0..100)
        .map(|number| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.ping(number).await })
        })
        .collect();
    assert!(buffer.wait(Some(Duration::from_secs(1))).await.expect("answered"));
    for (number, ping) in (0..).zip(pings) {
        assert_eq!(ping.await.expect("no panic").expect("answered"), number);
    }
    // Dropped outside of `close`: a task closes it.
    drop(buffer);
    fake.await.expect("no panic");
}

#[tokio::test]
async fn a_request_whose_future_was_dropped_harms_nobody() {
    let (daemon, connection) = connect().await;
    let (reader, writer) = rustix::pipe::pipe().expect("pipe");
    let forgotten = tokio::time::timeout(Duration::from_millis(50), connection.ping(1)).await;
    assert!(forgotten.is_err(), "nobody answered yet");
    let fake = spawn_blocking(move || {
        let seq = daemon.expect(Opcode::Ping);
        let mut packet = Header { opcode: Opcode::Ping as u16, flags: 1, seq }.to_bytes().to_vec();
        packet.extend([0; 9]);
        daemon.send(&packet, &[writer.as_fd()]);
        daemon.pong(daemon.expect(Opcode::Ping), 2);
        daemon
    });
    assert_eq!(connection.ping(2).await.expect("answered"), 2);
    let daemon = fake.await.expect("no panic");
    // The fd of the answer that nobody took is closed.
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]).expect("read"), 0);
    drop(daemon);
}

#[tokio::test]
async fn fds_go_there_and_come_back() {
    let (daemon, connection) = connect().await;
    let fake = spawn_blocking(move || {
        let seq = daemon.expect(Opcode::Ping);
        let mut packet = Vec::new();
        let fd = Some(gpu_broker_client::protocol::FdSlot);
        let reply = Reply::Ping(Ping { payload: 9, fd });
        gpu_broker_client::protocol::codec::encode_reply(seq, &reply, &mut packet).expect("fits");
        daemon.send(&packet, &[daemon.as_fd()]);
    });
    let (pipe, _writer) = rustix::pipe::pipe().expect("pipe");
    let request = Request::Ping(Ping { payload: 9, fd: Some(pipe.as_fd()) });
    let reply = connection.request(request).await.expect("answered");
    assert!(matches!(reply, Reply::Ping(Ping { payload: 9, fd: Some(_) })), "{reply:?}");
    fake.await.expect("no panic");
}

#[test]
fn a_connection_brings_no_receive_buffer_of_its_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let allocated = || {
        let (daemon, fd) = fake::pair();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                daemon.greet();
                daemon.pong(daemon.expect(Opcode::Ping), 1);
            });
            let work = async {
                let connection = Connection::from_fd(fd, "test").await.expect("greeted");
                assert_eq!(connection.ping(1).await.expect("answered"), 1);
            };
            allocation_counter::measure(|| runtime.block_on(work)).bytes_total
        })
    };
    let message = gpu_broker_client::protocol::limits::MESSAGE_BYTES_MAX as u64;
    let (first, second) = (allocated(), allocated());
    assert!(first >= message, "the measure sees the thread's buffer: {first}");
    assert!(second < message / 8, "{second} bytes for a connection");
}

#[tokio::test]
async fn an_epitaph_reaches_everybody() {
    let (daemon, connection) = connect().await;
    let pings: Vec<_> = (0..4)
        .map(|number| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.ping(number).await })
        })
        .collect();
    spawn_blocking(move || {
        for _ in 0..4 {
            daemon.expect(Opcode::Ping);
        }
        daemon.end(EpitaphCode::Revoked);
    })
    .await
    .expect("no panic");
    for ping in pings {
        let error = ping.await.expect("no panic").expect_err("revoked");
        assert!(matches!(error, Error::Ended(_)), "{error}");
    }
    let error = connection.ping(9).await.expect_err("the session is over");
    assert!(matches!(error, Error::Ended(_)), "{error}");
    let (daemon, fd) = fake::pair();
    daemon.end(EpitaphCode::Full);
    let error = Connection::from_fd(fd, "test").await.expect_err("full");
    assert!(matches!(error, Error::Ended(_)), "{error}");
}

#[tokio::test]
async fn the_socket_closes_with_the_last_clone() {
    let (daemon, connection) = connect().await;
    let clone = connection.clone();
    drop(connection);
    let served = spawn_blocking(move || {
        daemon.pong(daemon.expect(Opcode::Ping), 1);
        daemon
    });
    assert_eq!(clone.ping(1).await.expect("answered"), 1);
    let daemon = served.await.expect("no panic");
    drop(clone);
    let end = spawn_blocking(move || daemon.next()).await.expect("no panic");
    assert!(end.is_none(), "the daemon sees the end of the connection");
}

#[tokio::test]
async fn fences_can_be_awaited() {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    let (daemon, fence) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("socketpair");
    let fence = Fence::from(fence);
    let early = tokio::time::timeout(Duration::from_millis(20), fence.signalled()).await;
    assert!(early.is_err(), "not signalled yet");
    send(&daemon, &[5, 0, 0, 0, 0, 0, 0, 0], SendFlags::NOSIGNAL).expect("send");
    assert_eq!(fence.signalled().await.expect("a fence"), FenceState::Failed(5));
}

#[tokio::test]
async fn a_buffer_that_comes_back_is_closed_by_its_last_owner() {
    let (daemon, connection) = connect().await;
    let fake = spawn_blocking(move || {
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
    });
    let buffer = connection.create_buffer(1).await.expect("made");
    let fd = buffer.export().await.expect("exported");
    let again = connection.import_buffer(&fd).await.expect("imported");
    assert_eq!(again.handle(), buffer.handle());
    buffer.close().await.expect("nothing to say");
    connection.ping(1).await.expect("answered");
    // Dropped, it is closed by a task.
    drop(again);
    fake.await.expect("no panic");
}

#[tokio::test]
async fn a_submission_is_what_the_blocking_client_sends() {
    let (daemon, connection) = connect().await;
    let fake = spawn_blocking(move || {
        let made = SyncobjOf { syncobj: SyncobjId(4) };
        daemon.reply(daemon.expect(Opcode::SyncobjCreate), &Reply::SyncobjCreate(made));
        let (header, body) = daemon.next().expect("an EXECBUF");
        let sent = Execbuf::decode(&body).expect("it is well formed");
        assert_ne!(sent.head.flags & flag::USE_EXTENSIONS, 0);
        assert_eq!(sent.objects().map(|object| object.handle).collect::<Vec<_>>(), [9, 2]);
        assert_eq!(sent.relocations().map(|one| one.target).collect::<Vec<_>>(), [2]);
        assert_eq!(sent.points().map(|one| (one.handle, one.point)).collect::<Vec<_>>(), [(4, 6)]);
        let done = ExecbufReply { offsets: vec![8192, 4096], fence: None };
        daemon.reply(header.seq, &Reply::Execbuf(done));
        let waited = SyncobjWaited { first_signaled: 0 };
        daemon.reply(daemon.expect(Opcode::SyncobjWait), &Reply::SyncobjWait(waited));
        let points = SyncobjPoints { points: vec![6] };
        daemon.reply(daemon.expect(Opcode::SyncobjQuery), &Reply::SyncobjQuery(points));
        daemon.reply(daemon.expect(Opcode::SyncobjDestroy), &Reply::SyncobjDestroy);
    });
    let timeline = connection.create_syncobj(false).await.expect("made");
    let context = connection.default_context();
    let work = context.execbuf().object(BufferId(2)).batch(BufferId(9)).batch_first();
    let mut work = work.relocate(4, BufferId(2), 0).signal_point(&timeline, 6);
    assert_eq!(work.submit().await.expect("answered").offsets, [8192, 4096]);
    let set = SyncobjSet::new().with_point(&timeline, 6);
    assert_eq!(connection.wait_any(&set, None).await.expect("answered"), Some(0));
    assert_eq!(timeline.point().await.expect("answered"), 6);
    timeline.destroy().await.expect("answered");
    fake.await.expect("no panic");
}
