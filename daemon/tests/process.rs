//! The daemon as a process, and one client that speaks to it in packets.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the answer it expects; every other one is a failure"
)]

use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gpu_broker_protocol::codec::{self, MapFds as _};
use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, flag, object_flag};
use gpu_broker_protocol::message::{
    BufferCreate, BufferOf, BufferWait, ContextCreate, ContextDestroy, ContextParamRequest, Event,
    FenceState, FenceStatusQuery, Hello, HelloReply, Ping, Waited,
};
use gpu_broker_protocol::param::{ContextParam, number};
use gpu_broker_protocol::refusal::RefusalBody;
use gpu_broker_protocol::status::StatusQuery;
use gpu_broker_protocol::version::{MAJOR, MINOR_MAX, MINOR_MIN, feature};
use gpu_broker_protocol::{
    BufferId, ContextId, EpitaphCode, FdSlot, Header, HeaderFlags, Opcode, Reason, Reply, Request,
    SessionId,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::Signal;

/// Nothing here takes long; this only keeps a broken daemon from holding up the test run.
const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    child: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-brokerd"));
    for variable in [
        "GPU_BROKER_SOCKET",
        "GPU_BROKER_CONFIG",
        "GPU_BROKER_DEVICE",
        "GPU_BROKER_LOG",
        "RUNTIME_DIRECTORY",
        "XDG_RUNTIME_DIR",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Daemon {
    fn start(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("broker.sock");
        let file = directory.path().join("broker.toml");
        std::fs::write(&file, config).expect("writable");
        let child = command(&["--device", "soft"])
            .arg("--socket")
            .arg(&socket)
            .arg("--config")
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let daemon = Self { child, socket, _directory: directory };
        daemon.wait_for_socket();
        daemon
    }

    fn wait_for_socket(&self) {
        let start = Instant::now();
        while try_connect(&self.socket).is_err() {
            assert!(start.elapsed() < PATIENCE, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn client(&self) -> Client {
        let mut client = self.stranger();
        client.hello();
        client
    }

    /// Connected, but HELLO has not been said.
    fn stranger(&self) -> Client {
        Client { socket: try_connect(&self.socket).expect("the daemon listens"), seq: 0 }
    }

    fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("still runs");
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&mut self) -> String {
        let mut log = String::new();
        let stderr = self.child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut log).expect("text");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn try_connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(PATIENCE),
    )?;
    Ok(socket)
}

struct Client {
    socket: OwnedFd,
    seq: u32,
}

/// A message from the daemon.
#[derive(Debug)]
enum Heard {
    Reply(u32, Reply<OwnedFd>),
    Refused(u32, RefusalBody),
    Epitaph(EpitaphCode),
    End,
}

impl Client {
    fn hello(&mut self) -> HelloReply {
        let hello = Hello {
            major: MAJOR,
            minor_min: MINOR_MIN,
            minor_max: MINOR_MAX,
            features: feature::ALL | 1 << 63,
            client_name: "process test".to_owned(),
        };
        match self.ask(Request::Hello(hello)) {
            Ok(Reply::Hello(reply)) => reply,
            other => panic!("HELLO: {other:?}"),
        }
    }

    fn ask(&mut self, request: Request<FdSlot>) -> Result<Reply<OwnedFd>, RefusalBody> {
        self.ask_with(request, &[])
    }

    fn ask_with(
        &mut self,
        request: Request<FdSlot>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<OwnedFd>, RefusalBody> {
        let seq = self.say(request, fds);
        self.answer_to(seq)
    }

    fn answer_to(&mut self, asked: u32) -> Result<Reply<OwnedFd>, RefusalBody> {
        match self.hear() {
            Heard::Reply(seq, reply) if seq == asked => Ok(reply),
            Heard::Refused(seq, refusal) if seq == asked => Err(refusal),
            other => panic!("instead of the reply to {asked}: {other:?}"),
        }
    }

    fn say(&mut self, request: Request<FdSlot>, fds: &[BorrowedFd<'_>]) -> u32 {
        self.seq += 1;
        let mut bytes = Vec::new();
        codec::encode_request(self.seq, &request, &mut bytes).expect("fits");
        self.send(&bytes, fds).expect("the daemon reads");
        self.seq
    }

    fn execbuf(
        &mut self,
        flags: u64,
        objects: &[ExecObject],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<OwnedFd>, RefusalBody> {
        self.execbuf_in(ContextId::DEFAULT, flags, objects, fds)
    }

    fn execbuf_in(
        &mut self,
        context: ContextId,
        flags: u64,
        objects: &[ExecObject],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<OwnedFd>, RefusalBody> {
        self.seq += 1;
        let head = ExecbufHead { context: context.0, flags, ..ExecbufHead::default() };
        let mut bytes = Vec::new();
        codec::encode_execbuf(self.seq, &head, objects, &mut bytes).expect("fits");
        self.send(&bytes, fds).expect("the daemon reads");
        self.answer_to(self.seq)
    }

    fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [const { std::mem::MaybeUninit::uninit() }; 512];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let parts = [std::io::IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
    }

    fn hear(&mut self) -> Heard {
        let mut bytes = vec![0; 65536];
        let mut space = [const { std::mem::MaybeUninit::uninit() }; 512];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        // A receive with a timeout is not restarted when a signal comes in between.
        let message = rustix::io::retry_on_intr(|| {
            let parts = &mut [std::io::IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&self.socket, parts, &mut ancillary, flags)
        })
        .expect("the daemon answers");
        assert!(!message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC));
        if message.bytes == 0 {
            return Heard::End;
        }
        let mut fds = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let (header, body) = Header::split(&bytes[..message.bytes]).expect("a header");
        if header.flags == HeaderFlags::EVENT {
            let Event::Epitaph(epitaph) =
                codec::decode_event(header.opcode, body).expect("an event");
            return Heard::Epitaph(epitaph.code);
        }
        if header.flags & HeaderFlags::REFUSED != 0 {
            return Heard::Refused(header.seq, codec::decode_refusal(body).expect("a refusal"));
        }
        let reply = Reply::decode(header.opcode, body).expect("a reply");
        let reply = reply.map_fds(|_| fds.next().ok_or("an fd is missing")).expect("fds");
        assert!(fds.next().is_none(), "too many fds");
        Heard::Reply(header.seq, reply)
    }

    fn buffer(&mut self, size: u64) -> BufferId {
        match self.ask(Request::BufferCreate(BufferCreate { size, flags: 0 })) {
            Ok(Reply::BufferCreate(created)) => created.buffer,
            other => panic!("BUFFER_CREATE: {other:?}"),
        }
    }

    fn write(&mut self, buffer: BufferId, words: &[u32]) {
        let reply = self.ask(Request::BufferMap(BufferOf { buffer }));
        let Ok(Reply::BufferMap(mapped)) = reply else { panic!("BUFFER_MAP: {reply:?}") };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let written = rustix::io::pwrite(&mapped.fd, &bytes, mapped.offset).expect("a memfd");
        assert_eq!(written, bytes.len());
    }

    /// A context whose work ends when it is destroyed.
    fn context_without_persistence(&mut self) -> ContextId {
        let answer = self.ask(Request::ContextCreate(ContextCreate::default()));
        let Ok(Reply::ContextCreate(created)) = answer else { panic!("{answer:?}") };
        let param = ContextParam::scalar(number::PERSISTENCE, 0);
        let set = ContextParamRequest { context: created.context, param };
        self.ask(Request::ContextSetParam(set)).expect("a proto-context takes it");
        created.context
    }

    /// A batch buffer that jumps to its own start for ever, at a pinned address.
    fn endless_batch(&mut self) -> ExecObject {
        const ADDRESS: u32 = 0x10_0000;
        let batch = self.buffer(4096);
        // MI_ARB_CHECK, then MI_BATCH_BUFFER_START in the context's own address space.
        self.write(batch, &[0x05 << 23, 0x31 << 23 | 1 << 8 | 1, ADDRESS, 0]);
        ExecObject {
            handle: batch.0,
            offset: ADDRESS.into(),
            flags: object_flag::PINNED | object_flag::SUPPORTS_48B,
            ..ExecObject::default()
        }
    }

    /// Hears nothing more than how it ends.
    fn expect_end(&mut self, code: EpitaphCode) {
        match self.hear() {
            Heard::Epitaph(heard) => assert_eq!(heard, code),
            other => panic!("instead of an epitaph: {other:?}"),
        }
        assert!(matches!(self.hear(), Heard::End));
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, RefusalBody>, reason: Reason) {
    let refusal = answer.expect_err("must be refused");
    assert_eq!((refusal.code, refusal.errno), (reason as u16, reason.errno()), "{refusal:?}");
}

fn ping(client: &mut Client) {
    let answer = client.ask(Request::Ping(Ping { payload: 5, fd: None }));
    assert!(matches!(answer, Ok(Reply::Ping(Ping { payload: 5, fd: None }))), "{answer:?}");
}

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

impl Client {
    fn hear_nothing_or_epitaph(&mut self) -> Option<EpitaphCode> {
        // A request before HELLO would end the session, so the answer to HELLO decides.
        let timeout = rustix::net::sockopt::Timeout::Recv;
        let short = Some(Duration::from_millis(100));
        rustix::net::sockopt::set_socket_timeout(&self.socket, timeout, short).expect("a socket");
        let mut peek = [0; 1];
        let heard = rustix::net::recv(&self.socket, &mut peek, RecvFlags::PEEK);
        rustix::net::sockopt::set_socket_timeout(&self.socket, timeout, Some(PATIENCE))
            .expect("a socket");
        heard.ok()?;
        match self.hear() {
            Heard::Epitaph(code) => Some(code),
            other => panic!("unasked: {other:?}"),
        }
    }
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
