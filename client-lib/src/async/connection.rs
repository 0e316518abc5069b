//! A connection whose answers are read by a task.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

use gpu_broker_protocol::execbuf::{ExecbufHead, ExecbufLists};
use gpu_broker_protocol::hang::{HangDump, HangEvent, HangPage};
use gpu_broker_protocol::limits::FDS_PER_MESSAGE_MAX;
use gpu_broker_protocol::message::{DeviceInfo, ExecbufReply, HelloReply, Ping, VmCreate};
use gpu_broker_protocol::object::{Aperture, QueryAnswer, QueryItem};
use gpu_broker_protocol::queue::EventQueue;
use gpu_broker_protocol::{
    BufferId, ContextId, FdSlot, Opcode, Reply, Request, SessionId, Violation, codec,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio_seqpacket::ancillary::{
    AncillaryMessageReader, AncillaryMessageWriter, OwnedAncillaryMessage,
};
use tokio_seqpacket::{MessageInfo, UnixSeqpacket};

use super::objects::{Context, Vm};
use crate::calls::{self, Call};
use crate::context::ContextBuilder;
use crate::error::Error;
use crate::lists::{self, Lists, Next, Slot};
use crate::proto::{self, Answer, Arrival, Asked, Ending, Fds, Ledger, Plain, answer};
use crate::scratch::Scratch;
use crate::shares::Shares;
use crate::socket;
use crate::usermem::fork::Generation;
use crate::usermem::held::{Held, Hold};

/// Bytes of control messages: more than four fds and their header take, with room for alignment.
const CONTROL_BYTES: usize = 128;

/// A connection to the broker on a tokio runtime; see [`crate::Connection`]. The task that reads
/// for it ends with its last clone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    link: Arc<Link>,
    hello: HelloReply,
    reader: AbortHandle,
    shares: tokio::sync::Mutex<Shares>,
    held: Held,
    /// Read by EXECBUFs that have looked at `held`, until they are answered.
    passing: tokio::sync::RwLock<()>,
    lists: Lists<tokio::sync::Mutex<Slot>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// What requests and the reading task share.
struct Link {
    socket: UnixSeqpacket,
    ledger: Mutex<Ledger<oneshot::Sender<Packet>>>,
    generation: Generation,
    hangs: Mutex<EventQueue<HangEvent>>,
    /// There is a hang, or the connection ended.
    news: Notify,
}

type Packet = (Vec<u8>, Fds);

impl Connection {
    /// Connects to the broker at its usual place, see [`crate::default_socket_path`].
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn open(client_name: &str) -> Result<Self, Error> {
        Self::connect(socket::default_socket_path(), client_name).await
    }

    /// Connects to the socket at `path`. The name, at most 64 bytes, is for logs and status.
    ///
    /// # Errors
    /// As [`crate::Connection::connect`].
    pub async fn connect(path: impl AsRef<Path>, client_name: &str) -> Result<Self, Error> {
        let path = path.as_ref();
        let socket = UnixSeqpacket::connect(path)
            .await
            .map_err(|source| Error::Connect { path: path.to_owned(), source })?;
        Self::greet(socket, client_name).await
    }

    /// Takes over an fd that is connected already, and makes it non-blocking.
    ///
    /// # Errors
    /// As [`crate::Connection::from_fd`].
    pub async fn from_fd(fd: OwnedFd, client_name: &str) -> Result<Self, Error> {
        socket::check(&fd)?;
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(|errno| Error::io("making the socket non-blocking", errno))?;
        let socket = UnixSeqpacket::try_from(fd).map_err(failed("registering the socket"))?;
        Self::greet(socket, client_name).await
    }

    async fn greet(socket: UnixSeqpacket, client_name: &str) -> Result<Self, Error> {
        let link = Arc::new(Link::new(socket));
        let reader = tokio::spawn(read(Arc::clone(&link))).abort_handle();
        let hello = Request::Hello(proto::hello(client_name));
        let fill = |seq, out: &mut Vec<u8>| codec::encode_request(seq, &hello, out);
        let reply = link.call(Opcode::Hello, fill, &[], |answer, fds| answer.reply(fds)).await;
        let hello = reply
            .and_then(|reply| answer!(reply, Reply::Hello(hello) => hello))
            .and_then(proto::check_hello)
            .inspect_err(|_| reader.abort())?;
        let (shares, held, passing, lists) = Default::default();
        Ok(Self { shared: Arc::new(Shared { link, hello, reader, shares, held, passing, lists }) })
    }

    /// What was settled when the session began: version, features, limits, device.
    #[must_use]
    pub fn hello(&self) -> &HelloReply {
        &self.shared.hello
    }

    /// The session's number in status output and logs.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.shared.hello.session
    }

    /// One round trip.
    ///
    /// # Errors
    /// The connection's.
    pub async fn ping(&self, payload: u64) -> Result<u64, Error> {
        let reply = self.request(Plain::Ping(Ping { payload, fd: None })).await?;
        answer!(reply, Reply::Ping(ping) => ping.payload)
    }

    /// The device as it is now.
    ///
    /// # Errors
    /// The connection's.
    pub async fn device(&self) -> Result<DeviceInfo, Error> {
        let reply = self.request(Plain::DeviceQuery).await?;
        answer!(reply, Reply::DeviceQuery(device) => device)
    }

    /// Begins a new context.
    pub fn context(&self) -> ContextBuilder<Self> {
        ContextBuilder::new(self.clone())
    }

    /// The context every session has from the start. It is not destroyed on drop.
    #[must_use]
    pub fn default_context(&self) -> Context {
        Context::new(self.clone(), ContextId::DEFAULT, false)
    }

    /// Makes an empty address space.
    ///
    /// # Errors
    /// As [`crate::Connection::create_vm`].
    pub async fn create_vm(&self) -> Result<Vm, Error> {
        let reply = self.request(Plain::VmCreate(VmCreate::default())).await?;
        answer!(reply, Reply::VmCreate(created) => Vm::new(self.clone(), created.vm))
    }

    /// i915's GETPARAM: what the device and the daemon can do.
    ///
    /// # Errors
    /// As [`crate::Connection::get_param`].
    pub async fn get_param(&self, param: i32) -> Result<i32, Error> {
        self.call(calls::get_param(param)).await
    }

    /// i915's QUERY.
    ///
    /// # Errors
    /// As [`crate::Connection::query`].
    pub async fn query(&self, items: &[QueryItem]) -> Result<Vec<QueryAnswer>, Error> {
        calls::as_many(self.call(calls::query(items)).await?, items.len())
    }

    /// Bytes of the global address space.
    ///
    /// # Errors
    /// The connection's.
    pub async fn aperture(&self) -> Result<Aperture, Error> {
        self.call(calls::aperture()).await
    }

    /// Waits until the session's submissions that are older than 20 ms are done.
    ///
    /// # Errors
    /// As [`crate::Connection::throttle`].
    pub async fn throttle(&self) -> Result<(), Error> {
        self.call(calls::throttle()).await
    }

    /// The render engine's timestamp, in ticks of `timestamp_hz` ([`DeviceInfo`]).
    ///
    /// # Errors
    /// The connection's.
    pub async fn timestamp(&self) -> Result<u64, Error> {
        self.reg_read(calls::TIMESTAMP_REGISTER).await
    }

    /// i915's REG_READ.
    ///
    /// # Errors
    /// As [`crate::Connection::reg_read`].
    pub async fn reg_read(&self, offset: u64) -> Result<u64, Error> {
        self.call(calls::reg_read(offset)).await
    }

    /// The next batch of this session that died; see [`crate::Connection::next_hang`].
    ///
    /// # Errors
    /// The connection's.
    pub async fn next_hang(&self) -> Result<HangEvent, Error> {
        self.shared.link.next_hang().await
    }

    /// The hangs the daemon remembers and this peer may see; see [`crate::Connection::hangs`].
    ///
    /// # Errors
    /// The connection's.
    pub async fn hangs(&self, before: u64) -> Result<HangPage, Error> {
        self.call(calls::hang_list(before)).await
    }

    /// What is kept of one; see [`crate::Connection::hang`].
    ///
    /// # Errors
    /// As there.
    pub async fn hang(&self, hang: u64) -> Result<HangDump, Error> {
        self.call(calls::hang_show(hang)).await
    }

    /// Bytes of its dump; see [`crate::Connection::hang_bytes`].
    ///
    /// # Errors
    /// As there.
    pub async fn hang_bytes(&self, hang: u64, region: u32, offset: u64) -> Result<Vec<u8>, Error> {
        self.call(calls::hang_read(hang, region, offset)).await
    }

    /// A request, and its reply taken apart.
    pub(super) async fn call<T, F: AsFd>(&self, call: Call<T, F>) -> Result<T, Error> {
        (call.answer)(self.request(call.request).await?)
    }

    /// Keeps submissions from naming a buffer. When this returns, all that did are on their way.
    pub(super) async fn hold(&self, buffer: BufferId) -> Hold<'_> {
        let hold = self.shared.held.enter(buffer);
        drop(self.shared.passing.write().await);
        hold
    }

    pub(super) fn shares(&self) -> &tokio::sync::Mutex<Shares> {
        &self.shared.shares
    }

    /// Makes any request but EXECBUF.
    ///
    /// # Errors
    /// As [`crate::Connection::request`].
    pub async fn request<F: AsFd>(&self, request: Request<F>) -> Result<Reply<OwnedFd>, Error> {
        use codec::MapFds;
        let mut owned: Vec<F> = Vec::new();
        let request = request.map_fds(|fd| {
            owned.push(fd);
            Ok::<_, Error>(FdSlot)
        })?;
        let fds: Vec<BorrowedFd<'_>> = owned.iter().map(AsFd::as_fd).collect();
        let fill = |seq, out: &mut Vec<u8>| codec::encode_request(seq, &request, out);
        let decode = |answer: Answer<'_>, fds| answer.reply(fds);
        self.shared.link.call(request.opcode(), fill, &fds, decode).await
    }

    /// Makes an EXECBUF as it stands; [`Context::execbuf`] is the comfortable way.
    ///
    /// # Errors
    /// As [`crate::Connection::execbuf`].
    pub async fn execbuf(
        &self,
        head: &ExecbufHead,
        lists: &ExecbufLists<'_>,
        in_fence: Option<BorrowedFd<'_>>,
    ) -> Result<ExecbufReply<OwnedFd>, Error> {
        let fill = |seq, out: &mut Vec<u8>| codec::encode_execbuf(seq, head, lists, out);
        let asked = Asked::by(head, lists);
        let submit = async || {
            let _passing = self.shared.passing.read().await;
            self.shared.held.check(lists.objects)?;
            if lists::is_for(&self.shared.hello, lists) {
                return self.execbuf_kept(head, lists, in_fence).await;
            }
            let decode = |answer: Answer<'_>, fds| answer.execbuf(asked, fds);
            self.shared.link.call(Opcode::Execbuf, fill, in_fence.as_slice(), decode).await
        };
        for _ in 1..calls::EXECBUF_ATTEMPTS {
            match submit().await {
                Err(error) if calls::is_invalidated(&error) => {}
                other => return other,
            }
        }
        submit().await
    }

    /// An EXECBUF that the daemon keeps, and is sent what is new of.
    async fn execbuf_kept(
        &self,
        head: &ExecbufHead,
        lists: &ExecbufLists<'_>,
        in_fence: Option<BorrowedFd<'_>>,
    ) -> Result<ExecbufReply<OwnedFd>, Error> {
        let all = &self.shared.lists;
        let (list, slot) = all.slot(head.context).ok_or(Error::Unsendable(Violation::TooLong))?;
        let mut slot = slot.lock().await;
        slot.fill(head, lists)?;
        loop {
            let runs = slot.prepare(list, all.generation());
            let fds = if runs { in_fence.as_slice() } else { &[] };
            let asked = if runs { Asked::by(head, lists) } else { Asked::NOTHING };
            let fill = |seq, out: &mut Vec<u8>| slot.encode(seq, out);
            let decode = |answer: Answer<'_>, fds| answer.execbuf(asked, fds);
            let answer = self.shared.link.call(Opcode::ExecbufList, fill, fds, decode).await;
            if slot.answered(&answer) == Next::Over {
                return answer;
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("session", &self.session()).finish_non_exhaustive()
    }
}

/// Closes a request that was not sent when its future is dropped. One that was sent stays open:
/// its answer will come, and must find somebody it belongs to.
struct Unsent<'a> {
    link: &'a Link,
    seq: Option<u32>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(seq) = self.seq {
            self.link.ledger().close(seq);
        }
    }
}

impl Link {
    fn new(socket: UnixSeqpacket) -> Self {
        Self {
            socket,
            ledger: Mutex::default(),
            hangs: Mutex::default(),
            news: Notify::new(),
            generation: Generation::current(),
        }
    }

    async fn next_hang(&self) -> Result<HangEvent, Error> {
        loop {
            // From here on news wakes, also what comes before the await.
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if let Some(event) = self.hangs().pop() {
                return Ok(event);
            }
            if let Some(ending) = self.ledger().ended().cloned() {
                return Err(ending.into());
            }
            news.await;
        }
    }

    fn hangs(&self) -> MutexGuard<'_, EventQueue<HangEvent>> {
        // As for the ledger.
        self.hangs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger<oneshot::Sender<Packet>>> {
        // Nothing panics while the lock is held; if it did, the ledger would still be consistent.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request and its answer.
    async fn call<T>(
        &self,
        opcode: Opcode,
        fill: impl FnOnce(u32, &mut Vec<u8>) -> Result<(), Violation>,
        fds: &[BorrowedFd<'_>],
        decode: impl FnOnce(Answer<'_>, Fds) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if !self.generation.is_current() {
            return Err(Error::Forked);
        }
        let (sender, receiver) = oneshot::channel();
        let seq = self.ledger().open(opcode, sender)?;
        let mut unsent = Unsent { link: self, seq: Some(seq) };
        let mut packet = Vec::new();
        fill(seq, &mut packet).map_err(Error::Unsendable)?;
        match self.send(&packet, fds).await {
            // The daemon closed; what it said last tells why.
            Err(error) if is_closed(&error) => {}
            other => other.map_err(failed("sending a request to the broker"))?,
        }
        unsent.seq = None;
        let Ok((packet, fds)) = receiver.await else {
            return Err(self.ledger().ended().cloned().unwrap_or(Ending::Closed).into());
        };
        let result = match proto::sort(&packet) {
            Ok(Arrival::Answer(answer)) => decode(answer, fds),
            Ok(Arrival::Epitaph(epitaph)) => Err(Error::Ended(epitaph)),
            // Only answers are sent there.
            Ok(Arrival::Hang(_) | Arrival::Admin(_)) => Err(Error::Protocol(Violation::Malformed)),
            Err(violation) => Err(Error::Protocol(violation)),
        };
        if let Err(Error::Protocol(violation)) = &result {
            self.ledger().end(Ending::Violation(*violation));
        }
        result
    }

    async fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.is_empty() {
            return self.socket.send(packet).await.map(drop);
        }
        let mut space = [0; CONTROL_BYTES];
        let mut control = AncillaryMessageWriter::new(&mut space);
        if fds.len() > FDS_PER_MESSAGE_MAX || control.add_fds(fds).is_err() {
            return Err(rustix::io::Errno::TOOBIG.into());
        }
        self.socket.send_with_ancillary(packet, &mut control).await.map(drop)
    }

    /// Receives one packet.
    async fn receive(&self) -> Result<Packet, Ending> {
        match self.receive_once().await {
            // The kernel reports a reset once, before what is still queued: the epitaph.
            Err(error) if is_closed(&error) => self.receive_once().await,
            other => other,
        }
        .unwrap_or_else(|error| Err(ending(&error)))
    }

    async fn receive_once(&self) -> io::Result<Result<Packet, Ending>> {
        // The thread's buffer is borrowed for one look at the socket only: a task that waits holds
        // none, and may go on in another thread.
        poll_fn(|context| {
            let mut buffer = Scratch::incoming();
            let mut space = [0; CONTROL_BYTES];
            let polled = self.socket.poll_recv_with_ancillary(context, &mut buffer, &mut space);
            let (info, control) = ready!(polled)?;
            Poll::Ready(Ok(unpack(info, control, &buffer)))
        })
        .await
    }

    fn deliver(&self, (packet, fds): Packet) -> Result<(), Ending> {
        match proto::sort(&packet).map_err(Ending::Violation)? {
            Arrival::Epitaph(epitaph) => Err(Ending::Epitaph(epitaph)),
            Arrival::Hang(event) => {
                self.hangs().push(event);
                self.news.notify_waiters();
                Ok(())
            }
            // Asked for by the blocking client alone.
            Arrival::Admin(_) => Ok(()),
            Arrival::Answer(answer) => {
                let mut ledger = self.ledger();
                ledger.position(&answer).map_err(Ending::Violation)?;
                let waiter = ledger.close(answer.seq);
                drop(ledger);
                // Nobody waits any more when the future was dropped: the answer goes, with its fds.
                let _ = waiter.map(|waiter| waiter.send((packet, fds)));
                Ok(())
            }
        }
    }
}

/// What was received, taken out of the buffers it was received into.
fn unpack(
    info: MessageInfo,
    control: AncillaryMessageReader<'_>,
    buffer: &[u8],
) -> Result<Packet, Ending> {
    let mut fds = Fds::default();
    if control.is_truncated() || info.ancillary_truncated() {
        // The space is larger than a message's fds, so it is this process that has no room.
        fds.cut_short();
    }
    let mut excess = false;
    for part in control.into_messages() {
        if let OwnedAncillaryMessage::FileDescriptors(received) = part {
            for fd in received {
                excess |= fds.push(fd).is_err();
            }
        }
    }
    if info.truncated() {
        Err(Ending::Violation(Violation::TooLong))
    } else if excess {
        Err(Ending::Violation(Violation::FdCount))
    } else if info.bytes_read() == 0 {
        Err(Ending::Closed)
    } else {
        Ok((buffer.get(..info.bytes_read()).unwrap_or_default().to_vec(), fds))
    }
}

/// Reads for everybody until the connection ends.
async fn read(link: Arc<Link>) {
    let ending = loop {
        if let Err(ending) = link.receive().await.and_then(|packet| link.deliver(packet)) {
            break ending;
        }
    };
    let mut ledger = link.ledger();
    ledger.end(ending);
    ledger.close_all();
    drop(ledger);
    link.news.notify_waiters();
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Why nothing more can be received.
fn ending(error: &io::Error) -> Ending {
    let errno = rustix::io::Errno::from_io_error(error);
    match errno.filter(|_| !is_closed(error)) {
        Some(errno) if errno != rustix::io::Errno::NOTCONN => Ending::Lost(errno),
        _ => Ending::Closed,
    }
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { doing, source }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::Errno;

    use super::*;

    #[tokio::test]
    async fn everybody_learns_that_receiving_failed() {
        // No socket, so that receiving fails with an errno that is not the daemon's doing.
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let socket = UnixSeqpacket::try_from(eventfd(1, flags).expect("eventfd")).expect("polled");
        let link = Arc::new(Link::new(socket));
        let (sender, receiver) = oneshot::channel();
        link.ledger().open(Opcode::Ping, sender).expect("open");
        read(Arc::clone(&link)).await;
        assert!(receiver.await.is_err(), "nobody waits any more");
        let (sender, _receiver) = oneshot::channel();
        let later = link.ledger().open(Opcode::Ping, sender);
        assert!(matches!(later, Err(Ending::Lost(Errno::NOTSOCK))), "{later:?}");
    }
}
