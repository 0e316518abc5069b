//! A connection to the broker, shared by any number of threads.

mod events;
mod hangs;
mod turn;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::Thread;

use gpu_broker_protocol::admin::AdminEvent;
use gpu_broker_protocol::execbuf::{ExecbufHead, ExecbufLists};
use gpu_broker_protocol::hang::HangEvent;
use gpu_broker_protocol::limits::FDS_PER_MESSAGE_MAX;
use gpu_broker_protocol::message::{DeviceInfo, ExecbufReply, HelloReply, Ping, VmCreate};
use gpu_broker_protocol::object::{Aperture, QueryAnswer, QueryItem};
use gpu_broker_protocol::queue::EventQueue;
use gpu_broker_protocol::status::{Confinement, StatusPage, StatusQuery};
use gpu_broker_protocol::usage::{SessionUsage, UsageQuery};
use gpu_broker_protocol::{
    BufferId, ContextId, FdSlot, Opcode, Reply, Request, SessionId, Violation, codec,
};
use rustix::io::Errno;

use crate::calls::{self, Call};
use crate::context::{Context, ContextBuilder};
use crate::error::Error;
use crate::lists::{self, Lists, Next, Slot};
use crate::proto::{self, Answer, Arrival, Asked, Ending, Fds, Ledger, Plain, answer};
use crate::scratch::Scratch;
use crate::shared_status::SharedStatus;
use crate::shares::Shares;
use crate::socket::{self, Received};
use crate::together::Together;
use crate::usermem::fork::Generation;
use crate::usermem::held::{Held, Hold};
use crate::vm::Vm;

use turn::Turn;

/// A connection to the broker: one session, with contexts, VMs and buffers of its own.
///
/// Cloning is cheap and gives the same session. Any number of threads may make requests at once;
/// whichever waits first reads the socket for all, so a long wait in one thread never delays
/// another. The session, and everything in it, ends when the last clone and the last object made
/// from it are gone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    socket: OwnedFd,
    hello: HelloReply,
    inbox: Mutex<Inbox>,
    shares: Mutex<Shares>,
    held: Held,
    /// Read by EXECBUFs that have looked at `held`, until they are answered.
    passing: RwLock<()>,
    generation: Generation,
    pub(crate) together: Together,
    lists: Lists<Mutex<Slot>>,
    pub(crate) status: SharedStatus,
}

/// Requests waiting for answers, and the right to read the socket.
#[derive(Default)]
struct Inbox {
    ledger: Ledger<Waiter>,
    /// Whether a thread reads; then no other may.
    reading: bool,
    hangs: EventQueue<HangEvent>,
    news: EventQueue<AdminEvent>,
    /// Threads that wait for an event while another reads.
    event_waiters: Vec<Thread>,
}

/// A thread that waits for an answer.
#[derive(Default)]
struct Waiter {
    /// Known once the thread sleeps; a thread that reads for itself need not be woken.
    thread: Option<Thread>,
    /// The packet that another thread read for this one.
    packet: Option<(Vec<u8>, Fds)>,
}

impl Connection {
    /// Connects to the broker at its usual place, see [`crate::default_socket_path`].
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn open(client_name: &str) -> Result<Self, Error> {
        Self::connect(socket::default_socket_path(), client_name)
    }

    /// Connects to the socket at `path`. The name, at most 64 bytes, is for logs and status.
    ///
    /// # Errors
    /// [`Error::Connect`]; what HELLO is answered with: [`Error::Refused`] (version, name),
    /// [`Error::Ended`] (the daemon is full or stopping), [`Error::Protocol`].
    pub fn connect(path: impl AsRef<Path>, client_name: &str) -> Result<Self, Error> {
        Self::greet(socket::connect(path.as_ref())?, client_name)
    }

    /// Takes over an fd that is connected already: in containers, or passed on by a parent.
    ///
    /// # Errors
    /// [`Error::NotASocket`], and as [`Self::connect`].
    pub fn from_fd(fd: OwnedFd, client_name: &str) -> Result<Self, Error> {
        socket::check(&fd)?;
        Self::greet(fd, client_name)
    }

    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn greet(fd: OwnedFd, client_name: &str) -> Result<Self, Error> {
        let hello = say_hello(&fd, client_name)?;
        Ok(Self { shared: Arc::new(Shared::new(fd, hello)) })
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
    pub fn ping(&self, payload: u64) -> Result<u64, Error> {
        let reply = self.request(Plain::Ping(Ping { payload, fd: None }))?;
        answer!(reply, Reply::Ping(Ping { payload, .. }) => payload)
    }

    /// One round trip that carries an fd there and back.
    ///
    /// # Errors
    /// The connection's.
    pub fn ping_fd(&self, payload: u64, fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        let reply = self.request(Request::Ping(Ping { payload, fd: Some(fd) }))?;
        answer!(reply, Reply::Ping(Ping { fd: Some(fd), .. }) => fd)
    }

    /// The device as it is now; [`Self::hello`] has it as it was.
    ///
    /// # Errors
    /// The connection's.
    pub fn device(&self) -> Result<DeviceInfo, Error> {
        let reply = self.request(Plain::DeviceQuery)?;
        answer!(reply, Reply::DeviceQuery(device) => device)
    }

    /// The daemon, its engines, and the sessions this peer may see: all pages as one.
    ///
    /// # Errors
    /// The connection's.
    pub fn status(&self) -> Result<StatusPage, Error> {
        let mut whole = self.status_page(SessionId(0))?;
        while whole.more {
            let Some(last) = whole.sessions.last().map(|session| session.session) else { break };
            let page = self.status_page(last)?;
            // A page must get ahead, or a daemon at fault could keep us here for ever.
            let progress = page.sessions.iter().all(|session| session.session > last);
            whole.more = page.more && progress && !page.sessions.is_empty();
            whole.daemon = page.daemon;
            whole.engines = page.engines;
            if progress {
                whole.sessions.extend(page.sessions);
            }
        }
        Ok(whole)
    }

    /// Engine time and memory of a session, as drm-usage-stats has them; `None` is this one.
    ///
    /// # Errors
    /// ENOENT if there is no such session, or if it is another user's and we are not privileged.
    pub fn usage(&self, session: Option<SessionId>) -> Result<SessionUsage, Error> {
        let query = UsageQuery { session: session.unwrap_or(SessionId(0)) };
        let reply = self.request(Plain::Usage(query))?;
        answer!(reply, Reply::Usage(usage) => usage)
    }

    /// What the daemon has given up.
    ///
    /// # Errors
    /// A daemon that is older than this request closes the connection.
    pub fn confinement(&self) -> Result<Confinement, Error> {
        let reply = self.request(Plain::Confinement)?;
        answer!(reply, Reply::Confinement(confinement) => confinement)
    }

    fn status_page(&self, after: SessionId) -> Result<StatusPage, Error> {
        let reply = self.request(Plain::Status(StatusQuery { after }))?;
        answer!(reply, Reply::Status(page) => page)
    }

    /// Begins a new context.
    pub fn context(&self) -> ContextBuilder {
        ContextBuilder::new(self.clone())
    }

    /// The context every session has from the start. It is not destroyed on drop.
    #[must_use]
    pub fn default_context(&self) -> Context {
        Context::borrowed(self.clone(), ContextId::DEFAULT)
    }

    /// Makes an empty address space.
    ///
    /// # Errors
    /// Refused with `vm-limit` (ENOMEM) or `vm-unsupported` (ENODEV).
    pub fn create_vm(&self) -> Result<Vm, Error> {
        let reply = self.request(Plain::VmCreate(VmCreate::default()))?;
        answer!(reply, Reply::VmCreate(created) => Vm::new(self.clone(), created.vm))
    }

    /// i915's GETPARAM: what the device and the daemon can do.
    ///
    /// # Errors
    /// EINVAL for unknown parameters, ENODEV for those that exist no more.
    pub fn get_param(&self, param: i32) -> Result<i32, Error> {
        self.call(calls::get_param(param))
    }

    /// i915's QUERY. Each item has an answer, which may be an errno of its own.
    ///
    /// # Errors
    /// Refused when there are too many items.
    pub fn query(&self, items: &[QueryItem]) -> Result<Vec<QueryAnswer>, Error> {
        calls::as_many(self.call(calls::query(items))?, items.len())
    }

    /// Bytes of the global address space.
    ///
    /// # Errors
    /// The connection's.
    pub fn aperture(&self) -> Result<Aperture, Error> {
        self.call(calls::aperture())
    }

    /// Waits until the session's submissions that are older than 20 ms are done, so that a
    /// program does not run far ahead of the GPU.
    ///
    /// # Errors
    /// Refused with `device-wedged` (EIO) and `wait-limit` (EAGAIN).
    pub fn throttle(&self) -> Result<(), Error> {
        self.call(calls::throttle())
    }

    /// The render engine's timestamp, in ticks of `timestamp_hz` ([`DeviceInfo`]).
    ///
    /// # Errors
    /// The connection's.
    pub fn timestamp(&self) -> Result<u64, Error> {
        self.reg_read(calls::TIMESTAMP_REGISTER)
    }

    /// i915's REG_READ.
    ///
    /// # Errors
    /// EINVAL for everything but the render engine's timestamp.
    pub fn reg_read(&self, offset: u64) -> Result<u64, Error> {
        self.call(calls::reg_read(offset))
    }

    /// Makes any request but EXECBUF; for tools and tests, and for what has no method. Whether a buffer is
    /// idle, and how often a context was reset, is mostly known without a message.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Unsendable`] when the request is too long; the connection's.
    pub fn request<F: AsFd>(&self, request: Request<F>) -> Result<Reply<OwnedFd>, Error> {
        use codec::MapFds;
        self.check_process()?;
        if let Some(reply) = self.known(&request) {
            return Ok(reply);
        }
        let pending = self.shared.status.sends(&request);
        let mut owned: [Option<F>; FDS_PER_MESSAGE_MAX] = [const { None }; FDS_PER_MESSAGE_MAX];
        let mut count = 0;
        let request = request
            .map_fds(|fd| {
                let slot = owned.get_mut(count).ok_or(Violation::FdCount)?;
                *slot = Some(fd);
                count += 1;
                Ok(FdSlot)
            })
            .map_err(Error::Unsendable)?;
        let mut borrowed = [self.shared.socket.as_fd(); FDS_PER_MESSAGE_MAX];
        for (place, fd) in borrowed.iter_mut().zip(owned.iter().flatten()) {
            *place = fd.as_fd();
        }
        let opcode = request.opcode();
        let fill = |seq, out: &mut Vec<u8>| codec::encode_request(seq, &request, out);
        let fds = borrowed.get(..count).unwrap_or_default();
        let reply = self.shared.call(opcode, fill, fds, |answer, fds| answer.reply(fds))?;
        self.shared.status.hears(&pending, &reply);
        Ok(reply)
    }

    /// A request, and its reply taken apart.
    pub(crate) fn call<T, F: AsFd>(&self, call: Call<T, F>) -> Result<T, Error> {
        (call.answer)(self.request(call.request)?)
    }

    /// Keeps submissions from naming a buffer. When this returns, all that did are on their way.
    pub(crate) fn hold(&self, buffer: BufferId) -> Hold<'_> {
        let hold = self.shared.held.enter(buffer);
        drop(self.shared.passing.write().unwrap_or_else(PoisonError::into_inner));
        hold
    }

    /// # Errors
    /// [`Error::Forked`] in a child of the process that connected.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        if self.shared.generation.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    pub(crate) fn shares(&self) -> MutexGuard<'_, Shares> {
        // Nothing panics while the lock is held; if it did, the counts would still be right.
        self.shared.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an EXECBUF as it stands; [`Context::execbuf`] is the comfortable way. The fence goes
    /// with FENCE_IN or FENCE_SUBMIT.
    ///
    /// # Errors
    /// As [`Self::request`], and [`Error::HeldByCpu`].
    pub fn execbuf(
        &self,
        head: &ExecbufHead,
        lists: &ExecbufLists<'_>,
        in_fence: Option<BorrowedFd<'_>>,
    ) -> Result<ExecbufReply<OwnedFd>, Error> {
        let fill = |seq, out: &mut Vec<u8>| codec::encode_execbuf(seq, head, lists, out);
        let asked = Asked::by(head, lists);
        // Before any lock is taken: in the child of a fork it may be locked for ever.
        self.check_process()?;
        let submit = || {
            let _passing = self.shared.passing.read().unwrap_or_else(PoisonError::into_inner);
            self.shared.held.check(lists.objects)?;
            if lists::is_for(&self.shared.hello, lists) {
                return self.execbuf_kept(head, lists, in_fence);
            }
            let decode = |answer: Answer<'_>, fds| answer.execbuf(asked, fds);
            self.shared.call(Opcode::Execbuf, fill, in_fence.as_slice(), decode)
        };
        let mut result = submit();
        for _ in 1..calls::EXECBUF_ATTEMPTS {
            match &result {
                Err(error) if calls::is_invalidated(error) => result = submit(),
                _ => break,
            }
        }
        result.inspect(|_| self.shared.status.submitted(lists.objects))
    }

    /// An EXECBUF that the daemon keeps, and is sent what is new of.
    fn execbuf_kept(
        &self,
        head: &ExecbufHead,
        lists: &ExecbufLists<'_>,
        in_fence: Option<BorrowedFd<'_>>,
    ) -> Result<ExecbufReply<OwnedFd>, Error> {
        let all = &self.shared.lists;
        let (list, slot) = all.slot(head.context).ok_or(Error::Unsendable(Violation::TooLong))?;
        // Nothing panics while the lock is held but the allocator; then nothing is known.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.fill(head, lists)?;
        loop {
            let runs = slot.prepare(list, all.generation());
            let fds = if runs { in_fence.as_slice() } else { &[] };
            let asked = if runs { Asked::by(head, lists) } else { Asked::NOTHING };
            let fill = |seq, out: &mut Vec<u8>| slot.encode(seq, out);
            let decode = |answer: Answer<'_>, fds| answer.execbuf(asked, fds);
            let answer = self.shared.call(Opcode::ExecbufList, fill, fds, decode);
            if slot.answered(&answer) == Next::Over {
                return answer;
            }
        }
    }
}

impl AsFd for Connection {
    /// The socket, to hand it to another process before it is used or to look at its peer.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.socket.as_fd()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("session", &self.session()).finish_non_exhaustive()
    }
}

fn say_hello(fd: &OwnedFd, client_name: &str) -> Result<HelloReply, Error> {
    const SEQ: u32 = 1;
    let mut packet = Scratch::outgoing();
    codec::encode_request(SEQ, &Request::Hello(proto::hello(client_name)), &mut packet)
        .map_err(Error::Unsendable)?;
    match socket::send(fd, &packet, &[]) {
        // The daemon may have closed at once, for example because it is full: it said why.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(errno) => return Err(Error::io("sending HELLO to the broker", errno)),
    }
    let mut buffer = Scratch::incoming();
    let received = socket::receive(fd, &mut buffer)
        .map_err(|errno| Error::io("receiving the answer to HELLO", errno))?;
    match received {
        Received::Closed => Err(Error::Disconnected),
        Received::Violation(violation) => Err(Error::Protocol(violation)),
        Received::Packet(length, fds) => {
            let packet = buffer.get(..length).unwrap_or_default();
            match proto::sort(packet).map_err(Error::Protocol)? {
                Arrival::Epitaph(epitaph) => Err(Error::Ended(epitaph)),
                Arrival::Answer(answer) if answer.seq == SEQ => {
                    proto::check_hello(answer!(answer.reply(fds)?, Reply::Hello(reply) => reply)?)
                }
                Arrival::Answer(_) | Arrival::Hang(_) | Arrival::Admin(_) => {
                    Err(Error::Protocol(Violation::Malformed))
                }
            }
        }
    }
}

impl Shared {
    fn new(socket: OwnedFd, hello: HelloReply) -> Self {
        Self {
            socket,
            hello,
            inbox: Mutex::default(),
            shares: Mutex::default(),
            held: Held::default(),
            passing: RwLock::default(),
            generation: Generation::current(),
            together: Together::default(),
            lists: Lists::default(),
            status: SharedStatus::default(),
        }
    }

    /// A session that others use too, whose requests are numbered from `first` on.
    pub(crate) fn joined(socket: OwnedFd, hello: HelloReply, first: u32) -> Self {
        let inbox = Mutex::new(Inbox { ledger: Ledger::starting_at(first), ..Inbox::default() });
        Self { inbox, together: Together::shared(), ..Self::new(socket, hello) }
    }

    /// Whether a thread waits for an answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.inbox().ledger.waiters().next().is_some()
    }

    /// Whether it is known that no request will be answered any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.inbox().ledger.ended().is_some()
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing panics while the lock is held; if it did, the inbox would still be consistent.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request and its answer.
    fn call<T>(
        &self,
        opcode: Opcode,
        fill: impl FnOnce(u32, &mut Vec<u8>) -> Result<(), Violation>,
        fds: &[BorrowedFd<'_>],
        decode: impl FnOnce(Answer<'_>, Fds) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Before any lock is taken, as in `Connection::execbuf`.
        if !self.generation.is_current() {
            return Err(Error::Forked);
        }
        let turn = self.together.enter(&self.socket);
        let _turn = turn.map_err(|errno| Error::io("waiting for a turn on the session", errno))?;
        let seq = self.inbox().ledger.open(opcode, Waiter::default())?;
        let mut packet = Scratch::outgoing();
        let filled = fill(seq, &mut packet).map_err(Error::Unsendable);
        let sent = filled.and_then(|()| match socket::send(&self.socket, &packet, fds) {
            // The daemon closed, and its last words can still be read: wait for them.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(Error::io("sending a request to the broker", errno)),
        });
        drop(packet);
        if let Err(error) = sent {
            self.inbox().ledger.close(seq);
            return Err(error);
        }
        let result = self.wait(seq, decode);
        if let Err(Error::Protocol(violation)) = &result {
            self.end(Ending::Violation(*violation));
        }
        result
    }

    /// Waits for the answer to `seq`, reading for everybody if nobody else does.
    fn wait<T>(
        &self,
        seq: u32,
        decode: impl FnOnce(Answer<'_>, Fds) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            let mut inbox = self.inbox();
            let Some(waiter) = inbox.ledger.get_mut(seq) else {
                return Err(Error::Protocol(Violation::Malformed));
            };
            if let Some((packet, fds)) = waiter.packet.take() {
                inbox.ledger.close(seq);
                drop(inbox);
                return match proto::sort(&packet) {
                    Ok(Arrival::Answer(answer)) => decode(answer, fds),
                    Ok(Arrival::Epitaph(epitaph)) => Err(Error::Ended(epitaph)),
                    // Only answers are put there.
                    Ok(Arrival::Hang(_) | Arrival::Admin(_)) => {
                        Err(Error::Protocol(Violation::Malformed))
                    }
                    Err(violation) => Err(Error::Protocol(violation)),
                };
            }
            if let Some(ending) = inbox.ledger.ended().cloned() {
                inbox.ledger.close(seq);
                return Err(ending.into());
            }
            if !inbox.reading {
                inbox.reading = true;
                drop(inbox);
                let mut turn = Turn { shared: self, buffer: Scratch::incoming() };
                if let Some(result) = turn.read_until(seq, decode) {
                    return result;
                }
                // The connection ended; the next round says why.
                return self.ended(seq);
            }
            if let Some(waiter) = inbox.ledger.get_mut(seq) {
                waiter.thread = Some(std::thread::current());
            }
            drop(inbox);
            std::thread::park();
        }
    }

    fn ended<T>(&self, seq: u32) -> Result<T, Error> {
        let mut inbox = self.inbox();
        inbox.ledger.close(seq);
        Err(inbox.ledger.ended().cloned().unwrap_or(Ending::Closed).into())
    }

    fn end(&self, ending: Ending) {
        let mut inbox = self.inbox();
        inbox.ledger.end(ending);
        for waiter in inbox.ledger.waiters() {
            waiter.thread.take().inspect(Thread::unpark);
        }
        inbox.event_waiters.drain(..).for_each(|waiter| waiter.unpark());
    }
}

impl Inbox {
    fn hung(&mut self, event: HangEvent) {
        self.hangs.push(event);
        self.event_waiters.drain(..).for_each(|waiter| waiter.unpark());
    }

    fn told(&mut self, event: AdminEvent) {
        self.news.push(event);
        self.event_waiters.drain(..).for_each(|waiter| waiter.unpark());
    }

    fn deliver(&mut self, answer: &Answer<'_>, packet: &[u8], fds: Fds) -> Result<(), Violation> {
        let position = self.ledger.position(answer)?;
        let waiter = self.ledger.at(position).ok_or(Violation::Malformed)?;
        if waiter.packet.is_some() {
            // A request has one answer; which of two would be the right one nobody knows.
            return Err(Violation::Malformed);
        }
        waiter.packet = Some((packet.to_vec(), fds));
        waiter.thread.take().inspect(Thread::unpark);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use gpu_broker_protocol::Header;
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
    };

    use super::*;
    use crate::proto::tests::sample_hello;

    /// A daemon that welcomes the client and then answers a number that nobody asked under.
    fn confused_daemon(socket: &OwnedFd) {
        let mut packet = [0; 256];
        let mut out = Vec::new();
        for seq in [1, 77] {
            let (_, length) = recv(socket, &mut packet[..], RecvFlags::empty()).expect("a request");
            let (header, _) = Header::split(&packet[..length]).expect("a header");
            let reply = match header.opcode {
                opcode if opcode == Opcode::Hello as u16 => Reply::Hello(sample_hello()),
                _ => Reply::Ping(Ping { payload: 0, fd: None }),
            };
            out.clear();
            codec::encode_reply(seq, &reply, &mut out).expect("it fits");
            send(socket, &out, SendFlags::empty()).expect("the client reads");
        }
    }

    #[test]
    fn an_answer_nobody_waits_for_ends_the_connection_and_not_the_thread() {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets");
        std::thread::spawn(move || confused_daemon(&theirs));
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || {
            let connection = Connection::from_fd(ours, "test").expect("welcome");
            let results = [connection.ping(1), connection.ping(2)];
            done.send(results).expect("the test waits");
        });
        let results = result.recv_timeout(Duration::from_secs(30)).expect("no deadlock");
        for result in results {
            assert!(matches!(result, Err(Error::Protocol(Violation::Malformed))), "{result:?}");
        }
    }

    #[test]
    fn a_second_answer_does_not_replace_the_first() {
        let mut inbox = Inbox::default();
        let seq = inbox.ledger.open(Opcode::Ping, Waiter::default()).expect("open");
        let answer = Answer { seq, opcode: Opcode::Ping as u16, refused: false, body: &[] };
        inbox.deliver(&answer, b"first", Fds::default()).expect("somebody waits");
        let second = inbox.deliver(&answer, b"second", Fds::default());
        assert_eq!(second, Err(Violation::Malformed));
        let waiter = inbox.ledger.close(seq).expect("it is open");
        assert_eq!(waiter.packet.expect("delivered").0, b"first");
    }

    #[test]
    fn everybody_learns_that_receiving_failed() {
        use rustix::event::{EventfdFlags, eventfd};
        // No socket, so that receiving fails with an errno that is not the daemon's doing.
        let socket = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let shared = Shared::new(socket, sample_hello());
        let open = || shared.inbox().ledger.open(Opcode::Ping, Waiter::default());
        for seq in [open().expect("open"), open().expect("open")] {
            let error = shared.wait(seq, |_, _| Ok(())).expect_err("nothing can be received");
            assert!(matches!(error, Error::Lost(_)) && error.is_fatal(), "{error}");
            assert_eq!(error.errno(), Errno::NOTSOCK.raw_os_error());
        }
        assert!(matches!(open(), Err(Ending::Lost(Errno::NOTSOCK))));
    }
}
