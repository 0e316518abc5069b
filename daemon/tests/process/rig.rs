//! A daemon of the test's own, and a client that speaks to it in packets.

use std::io::Read as _;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gpu_broker_protocol::codec::{self, MapFds as _};
use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, ExecbufLists, object_flag};
use gpu_broker_protocol::message::{
    BufferCreate, BufferOf, ContextCreate, ContextParamRequest, Event, Hello, HelloReply, Ping,
};
use gpu_broker_protocol::param::{ContextParam, number};
use gpu_broker_protocol::refusal::RefusalBody;
use gpu_broker_protocol::version::{MAJOR, MINOR_MAX, MINOR_MIN, feature};
use gpu_broker_protocol::{
    BufferId, ContextId, EpitaphCode, FdSlot, Header, HeaderFlags, Reason, Reply, Request,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::Signal;

/// Nothing here takes long; this only keeps a broken daemon from holding up the test run.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
    pub(crate) _directory: tempfile::TempDir,
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-brokerd"));
    for variable in [
        "GPU_BROKER_SOCKET",
        "GPU_BROKER_CONFIG",
        "GPU_BROKER_DEVICE",
        "GPU_BROKER_LOG",
        "GPU_BROKER_SANDBOX",
        "RUNTIME_DIRECTORY",
        "XDG_RUNTIME_DIR",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(variable);
    }
    command.env("GPU_BROKER_SANDBOX", "kill");
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Daemon {
    pub(crate) fn start(config: &str) -> Self {
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

    pub(crate) fn wait_for_socket(&self) {
        let start = Instant::now();
        while try_connect(&self.socket).is_err() {
            assert!(start.elapsed() < PATIENCE, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn client(&self) -> Client {
        let mut client = self.stranger();
        client.hello();
        client
    }

    /// Connected, but HELLO has not been said.
    pub(crate) fn stranger(&self) -> Client {
        Client { socket: try_connect(&self.socket).expect("the daemon listens"), seq: 0 }
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("still runs");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn log(&mut self) -> String {
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

pub(crate) fn try_connect(path: &Path) -> rustix::io::Result<OwnedFd> {
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

pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) seq: u32,
}

/// A message from the daemon.
#[derive(Debug)]
pub(crate) enum Heard {
    Reply(u32, Reply<OwnedFd>),
    Refused(u32, RefusalBody),
    Epitaph(EpitaphCode),
    End,
}

impl Client {
    pub(crate) fn hello(&mut self) -> HelloReply {
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

    pub(crate) fn ask(&mut self, request: Request<FdSlot>) -> Result<Reply<OwnedFd>, RefusalBody> {
        self.ask_with(request, &[])
    }

    pub(crate) fn ask_with(
        &mut self,
        request: Request<FdSlot>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<OwnedFd>, RefusalBody> {
        let seq = self.say(request, fds);
        self.answer_to(seq)
    }

    pub(crate) fn answer_to(&mut self, asked: u32) -> Result<Reply<OwnedFd>, RefusalBody> {
        match self.hear() {
            Heard::Reply(seq, reply) if seq == asked => Ok(reply),
            Heard::Refused(seq, refusal) if seq == asked => Err(refusal),
            other => panic!("instead of the reply to {asked}: {other:?}"),
        }
    }

    pub(crate) fn say(&mut self, request: Request<FdSlot>, fds: &[BorrowedFd<'_>]) -> u32 {
        self.seq += 1;
        let mut bytes = Vec::new();
        codec::encode_request(self.seq, &request, &mut bytes).expect("fits");
        self.send(&bytes, fds).expect("the daemon reads");
        self.seq
    }

    pub(crate) fn execbuf(
        &mut self,
        flags: u64,
        objects: &[ExecObject],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<OwnedFd>, RefusalBody> {
        self.execbuf_in(ContextId::DEFAULT, flags, objects, fds)
    }

    pub(crate) fn execbuf_in(
        &mut self,
        context: ContextId,
        flags: u64,
        objects: &[ExecObject],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<OwnedFd>, RefusalBody> {
        self.seq += 1;
        let head = ExecbufHead { context: context.0, flags, ..ExecbufHead::default() };
        let mut bytes = Vec::new();
        let lists = ExecbufLists { objects, ..ExecbufLists::default() };
        codec::encode_execbuf(self.seq, &head, &lists, &mut bytes).expect("fits");
        self.send(&bytes, fds).expect("the daemon reads");
        self.answer_to(self.seq)
    }

    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [const { std::mem::MaybeUninit::uninit() }; 512];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let parts = [std::io::IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
    }

    pub(crate) fn hear(&mut self) -> Heard {
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
            let event = codec::decode_event(header.opcode, body).expect("an event");
            let Event::Epitaph(epitaph) = event else { panic!("not asked for: {event:?}") };
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

    pub(crate) fn buffer(&mut self, size: u64) -> BufferId {
        match self.ask(Request::BufferCreate(BufferCreate { size, flags: 0, regions: None })) {
            Ok(Reply::BufferCreate(created)) => created.buffer,
            other => panic!("BUFFER_CREATE: {other:?}"),
        }
    }

    pub(crate) fn write(&mut self, buffer: BufferId, words: &[u32]) {
        let reply = self.ask(Request::BufferMap(BufferOf { buffer }));
        let Ok(Reply::BufferMap(mapped)) = reply else { panic!("BUFFER_MAP: {reply:?}") };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let written = rustix::io::pwrite(&mapped.fd, &bytes, mapped.offset).expect("a memfd");
        assert_eq!(written, bytes.len());
    }

    /// A context whose work ends when it is destroyed.
    pub(crate) fn context_without_persistence(&mut self) -> ContextId {
        let answer = self.ask(Request::ContextCreate(ContextCreate::default()));
        let Ok(Reply::ContextCreate(created)) = answer else { panic!("{answer:?}") };
        let param = ContextParam::scalar(number::PERSISTENCE, 0);
        let set = ContextParamRequest { context: created.context, param };
        self.ask(Request::ContextSetParam(set)).expect("a proto-context takes it");
        created.context
    }

    /// A batch buffer that jumps to its own start for ever, at a pinned address.
    pub(crate) fn endless_batch(&mut self) -> ExecObject {
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
    pub(crate) fn expect_end(&mut self, code: EpitaphCode) {
        match self.hear() {
            Heard::Epitaph(heard) => assert_eq!(heard, code),
            other => panic!("instead of an epitaph: {other:?}"),
        }
        assert!(matches!(self.hear(), Heard::End));
    }
}

pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, RefusalBody>, reason: Reason) {
    let refusal = answer.expect_err("must be refused");
    assert_eq!((refusal.code, refusal.errno), (reason as u16, reason.errno()), "{refusal:?}");
}

pub(crate) fn ping(client: &mut Client) {
    let answer = client.ask(Request::Ping(Ping { payload: 5, fd: None }));
    assert!(matches!(answer, Ok(Reply::Ping(Ping { payload: 5, fd: None }))), "{answer:?}");
}

impl Client {
    pub(crate) fn hear_nothing_or_epitaph(&mut self) -> Option<EpitaphCode> {
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
