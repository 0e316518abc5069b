//! A client that can send any bytes and any fds.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gpu_broker_protocol::admin::AdminEvent;
use gpu_broker_protocol::codec::{self, MapFds};
use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, ExecbufLists, object_flag};
use gpu_broker_protocol::hang::HangEvent;
use gpu_broker_protocol::message::{
    BufferCreate, BufferOf, BufferWait, ContextCreate, ContextCreated, ContextParamRequest, Event,
    ExecbufReply, Hello, HelloReply,
};
use gpu_broker_protocol::param::{ContextParam, number};
use gpu_broker_protocol::refusal::RefusalBody;
use gpu_broker_protocol::status::{StatusPage, StatusQuery};
use gpu_broker_protocol::{
    BufferId, ContextId, Epitaph, FdSlot, Header, HeaderFlags, Reply, Request, SessionId, version,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, recvmsg, sendmsg, socket_with,
};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes as _, FileOffset, VolatileMemory as _};

use crate::PATIENCE;

/// Most fds that the tests ever put into one message.
const FDS_MAX: usize = 32;

/// One connection. Nothing it sends is checked here.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
    seq: u32,
}

/// What the daemon sent.
#[derive(Debug)]
pub enum Message {
    /// The answer to the request with this number.
    Reply(u32, Reply<OwnedFd>),
    /// A "no" to the request with this number.
    Refused(u32, RefusalBody),
    /// Why the connection ends.
    Epitaph(Epitaph),
    /// A batch of the session died.
    Hang(HangEvent),
    /// Something that an administrator asked to be told of.
    News(AdminEvent),
    /// The connection has ended.
    Closed,
}

/// A buffer with the memory behind it.
#[derive(Debug)]
pub struct RawBuffer {
    /// Its handle.
    pub id: BufferId,
    /// Bytes.
    pub size: u64,
    /// The memfd or dma-buf.
    pub memory: OwnedFd,
    /// Where in the memfd the buffer begins.
    pub offset: u64,
}

impl Raw {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket, seq: 0 })
    }

    /// A connection over a socket that is connected already.
    #[must_use]
    pub const fn over(socket: OwnedFd) -> Self {
        Self { socket, seq: 0 }
    }

    /// Connects and says HELLO.
    ///
    /// # Panics
    /// When the daemon does not answer it.
    #[must_use]
    pub fn hello(path: &Path, name: &str) -> Self {
        Self::try_hello(path, name).unwrap_or_else(|problem| panic!("HELLO of {name}: {problem}")).0
    }

    /// Connects and says HELLO.
    ///
    /// # Errors
    /// What came instead of the answer, in words.
    pub fn try_hello(path: &Path, name: &str) -> Result<(Self, HelloReply), String> {
        let mut client = Self::connect(path).map_err(|error| error.to_string())?;
        match client.call(Request::Hello(hello(name))) {
            Message::Reply(_, Reply::Hello(reply)) => Ok((client, reply)),
            other @ (Message::Reply(..)
            | Message::Refused(..)
            | Message::Epitaph(_)
            | Message::Hang(_)
            | Message::News(_)
            | Message::Closed) => Err(format!("{other:?}")),
        }
    }

    /// The socket itself.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The number the next request gets.
    pub const fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Sends one packet, waiting for room.
    ///
    /// # Errors
    /// What the kernel answers: EPIPE once the daemon has closed the connection.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, fds, SendFlags::empty())
    }

    /// Sends one packet if there is room for it now.
    ///
    /// # Errors
    /// EAGAIN when there is not, or what else the kernel answers.
    pub fn send_now(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, fds, SendFlags::DONTWAIT)
    }

    fn send_with(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], how: SendFlags) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "at most {FDS_MAX} fds");
        }
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, how | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends a header with this opcode and any body.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_body(
        &mut self,
        opcode: u16,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let header = Header { opcode, flags: 0, seq: self.next_seq() };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(body);
        self.send(&bytes, fds)
    }

    /// Sends a request and returns its number.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_request(&mut self, request: Request<BorrowedFd<'_>>) -> io::Result<u32> {
        let seq = self.next_seq();
        let mut fds = Vec::new();
        let bytes = encoded(seq, request, &mut fds);
        self.send(&bytes, &fds)?;
        Ok(seq)
    }

    /// Sends an EXECBUF and returns its number.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_execbuf(
        &mut self,
        head: &ExecbufHead,
        objects: &[ExecObject],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<u32> {
        let seq = self.next_seq();
        let mut bytes = Vec::new();
        let lists = ExecbufLists { objects, ..ExecbufLists::default() };
        codec::encode_execbuf(seq, head, &lists, &mut bytes).expect("it fits in a message");
        self.send(&bytes, fds)?;
        Ok(seq)
    }

    /// The next packet and its fds, or `None` at the end of the connection.
    ///
    /// # Panics
    /// When nothing comes for [`PATIENCE`].
    #[must_use]
    pub fn receive_bytes(&self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let mut resets = 0;
        loop {
            self.wait_readable();
            match self.receive_now() {
                Ok((bytes, _)) if bytes.is_empty() => return None,
                Ok(packet) => return Some(packet),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The kernel reports the reset once, before what the daemon sent last.
                Err(Errno::CONNRESET) if resets == 0 => resets += 1,
                Err(Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN) => return None,
                Err(other) => panic!("receiving: {other}"),
            }
        }
    }

    fn wait_readable(&self) {
        let timeout = Timespec::try_from(PATIENCE).expect("a minute is representable");
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let ready = loop {
            match poll(&mut fds, Some(&timeout)) {
                Err(Errno::INTR) => {}
                other => break other.expect("poll takes these arguments"),
            }
        };
        assert_ne!(ready, 0, "the daemon sent nothing for {PATIENCE:?}");
    }

    fn receive_now(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
        let mut bytes = vec![0; 128 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        assert!(!received.flags.intersects(cut), "the daemon sent more than a message may hold");
        bytes.truncate(received.bytes);
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        Ok((bytes, fds))
    }

    /// The next message.
    ///
    /// # Panics
    /// When nothing comes for [`PATIENCE`], or what comes breaks the protocol.
    #[must_use]
    pub fn receive(&self) -> Message {
        match self.receive_bytes() {
            None => Message::Closed,
            Some((bytes, fds)) => decoded(&bytes, fds),
        }
    }

    /// Sends a request and waits for what comes next; [`Message::Closed`] when it cannot be sent.
    pub fn call(&mut self, request: Request<BorrowedFd<'_>>) -> Message {
        // A send that fails is not the end: the epitaph may still be waiting.
        let _ = self.send_request(request);
        self.receive()
    }

    /// Submits and waits for what comes next.
    pub fn execbuf(
        &mut self,
        head: &ExecbufHead,
        objects: &[ExecObject],
        fds: &[BorrowedFd<'_>],
    ) -> Message {
        let _ = self.send_execbuf(head, objects, fds);
        self.receive()
    }

    /// A fresh context, all defaults.
    ///
    /// # Panics
    /// When it is refused.
    pub fn create_context(&mut self) -> ContextId {
        let message = self.call(Request::ContextCreate(ContextCreate::default()));
        let Reply::ContextCreate(ContextCreated { context }) = message.reply() else {
            panic!("CONTEXT_CREATE was answered as something else")
        };
        context
    }

    /// Says whether the context's work goes on when the session has ended.
    ///
    /// # Panics
    /// When it is refused.
    pub fn set_persistence(&mut self, context: ContextId, yes: bool) {
        let param = ContextParam::scalar(number::PERSISTENCE, yes.into());
        let set = Request::ContextSetParam(ContextParamRequest { context, param });
        assert!(matches!(self.call(set).reply(), Reply::ContextSetParam(_)));
    }

    /// A buffer with its memory at hand.
    ///
    /// # Panics
    /// When it is refused.
    pub fn create_buffer(&mut self, size: u64) -> RawBuffer {
        let message =
            self.call(Request::BufferCreate(BufferCreate { size, flags: 0, regions: None }));
        let Reply::BufferCreate(created) = message.reply() else {
            panic!("BUFFER_CREATE was answered as something else")
        };
        let message = self.call(Request::BufferMap(BufferOf { buffer: created.buffer }));
        let Reply::BufferMap(mapped) = message.reply() else {
            panic!("BUFFER_MAP was answered as something else")
        };
        assert_eq!(mapped.size, created.size, "BUFFER_MAP and BUFFER_CREATE disagree on the size");
        RawBuffer { id: created.buffer, size, memory: mapped.fd, offset: mapped.offset }
    }

    /// Waits for ever until nothing uses the buffer.
    pub fn wait(&mut self, buffer: BufferId) -> Message {
        self.call(Request::BufferWait(BufferWait { buffer, flags: 0, timeout_ns: -1 }))
    }

    /// All pages of STATUS as one.
    ///
    /// # Panics
    /// When it is refused.
    pub fn status(&mut self) -> StatusPage {
        let mut whole: Option<StatusPage> = None;
        let mut after = SessionId(0);
        loop {
            let Reply::Status(page) = self.call(Request::Status(StatusQuery { after })).reply()
            else {
                panic!("STATUS was answered as something else")
            };
            after = page.sessions.last().map_or(after, |last| last.session);
            let more = page.more;
            match &mut whole {
                None => whole = Some(page),
                Some(whole) => whole.sessions.extend(page.sessions),
            }
            if !more {
                return whole.expect("one page was read");
            }
        }
    }
}

impl Message {
    /// The reply.
    ///
    /// # Panics
    /// When it is something else.
    #[must_use]
    #[track_caller]
    pub fn reply(self) -> Reply<OwnedFd> {
        let Self::Reply(_, reply) = self else { panic!("not a reply: {self:?}") };
        reply
    }

    /// The refusal.
    ///
    /// # Panics
    /// When it is something else.
    #[must_use]
    #[track_caller]
    pub fn refusal(self) -> RefusalBody {
        let Self::Refused(_, refusal) = self else { panic!("not a refusal: {self:?}") };
        refusal
    }

    /// The epitaph.
    ///
    /// # Panics
    /// When it is something else.
    #[must_use]
    #[track_caller]
    pub fn epitaph(self) -> Epitaph {
        let Self::Epitaph(epitaph) = self else { panic!("not an epitaph: {self:?}") };
        epitaph
    }

    /// The reply to EXECBUF or EXECBUF_LIST.
    ///
    /// # Panics
    /// When it is something else.
    #[must_use]
    #[track_caller]
    pub fn executed(self) -> ExecbufReply<OwnedFd> {
        let reply = self.reply();
        let (Reply::Execbuf(executed) | Reply::ExecbufList(executed)) = reply else {
            panic!("not EXECBUF's reply: {reply:?}")
        };
        executed
    }
}

impl RawBuffer {
    /// Writes into the memory through a mapping: a dma-buf has no other way.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let (region, skipped) = self.mapped(at, bytes.len());
        region.as_volatile_slice().write_slice(bytes, skipped).expect("it is mapped");
    }

    /// A mapping of these bytes, and where in it they begin.
    fn mapped(&self, at: u64, length: usize) -> (MmapRegion<()>, usize) {
        const PAGE: u64 = 4096;
        let from = self.offset + at;
        let skipped = usize::try_from(from % PAGE).expect("less than a page");
        let file = self.memory.try_clone().expect("fds are left").into();
        let place = FileOffset::new(file, from - from % PAGE);
        let region = MmapRegion::from_file(place, skipped + length);
        (region.expect("mapping a buffer's memory"), skipped)
    }

    /// The dword at `at`.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn dword(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        let (region, skipped) = self.mapped(at, bytes.len());
        region.as_volatile_slice().read_slice(&mut bytes, skipped).expect("it is mapped");
        u32::from_le_bytes(bytes)
    }

    /// The buffer at this address, for EXECBUF.
    #[must_use]
    pub fn pinned(&self, address: u64) -> ExecObject {
        ExecObject {
            handle: self.id.0,
            offset: address,
            flags: object_flag::PINNED | object_flag::SUPPORTS_48B,
            ..ExecObject::default()
        }
    }

    /// The buffer at this address, written by the GPU, for EXECBUF.
    #[must_use]
    pub fn pinned_for_writing(&self, address: u64) -> ExecObject {
        let object = self.pinned(address);
        ExecObject { flags: object.flags | object_flag::WRITE, ..object }
    }
}

/// A HELLO that the daemon accepts.
#[must_use]
pub fn hello(name: &str) -> Hello {
    Hello {
        major: version::MAJOR,
        minor_min: version::MINOR_MIN,
        minor_max: version::MINOR_MAX,
        // Events come unasked; who wants them says so.
        features: version::feature::ALL & !version::feature::HANG_EVENTS,
        client_name: name.to_owned(),
    }
}

/// A request's packet; its fds are put into `fds`.
///
/// # Panics
/// When it does not fit in a message.
pub fn encoded<'a>(
    seq: u32,
    request: Request<BorrowedFd<'a>>,
    fds: &mut Vec<BorrowedFd<'a>>,
) -> Vec<u8> {
    let taken = request.map_fds(|fd| {
        fds.push(fd);
        Ok::<_, std::convert::Infallible>(FdSlot)
    });
    let Ok(request) = taken;
    let mut bytes = Vec::new();
    codec::encode_request(seq, &request, &mut bytes).expect("the request fits in a message");
    bytes
}

fn decoded(bytes: &[u8], fds: Vec<OwnedFd>) -> Message {
    let (header, body) = Header::split(bytes).expect("the daemon sends whole headers");
    let mut fds = VecDeque::from(fds);
    let message = if header.flags == HeaderFlags::EVENT {
        assert_eq!(header.seq, 0, "an event has no number");
        match codec::decode_event(header.opcode, body).expect("the daemon's event can be decoded") {
            Event::Epitaph(epitaph) => Message::Epitaph(epitaph),
            Event::Hang(hang) => Message::Hang(hang),
            Event::Admin(event) => Message::News(event),
        }
    } else if header.flags == HeaderFlags::REPLY | HeaderFlags::REFUSED {
        let refusal = codec::decode_refusal(body).expect("the daemon's refusal can be decoded");
        Message::Refused(header.seq, refusal)
    } else {
        assert_eq!(header.flags, HeaderFlags::REPLY, "neither event nor reply: {header:?}");
        let reply = Reply::decode(header.opcode, body).expect("the daemon's reply can be decoded");
        let reply = reply.map_fds(|FdSlot| fds.pop_front().ok_or("an fd of the reply is missing"));
        Message::Reply(header.seq, reply.unwrap_or_else(|problem| panic!("{problem}")))
    };
    assert!(fds.is_empty(), "the daemon sent fds that belong to no field");
    message
}
