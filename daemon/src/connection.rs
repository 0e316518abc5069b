//! One connection: packets in, requests handled in place, packets out.
//!
//! A connection's task reads a request only after the reply before it has left, so a client that
//! does not read stalls itself and nothing queues up here. Waits ([`crate::waits`]) are the only
//! replies that come later; they are bounded and go out one by one, when the socket has room.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use gpu_broker_core::{Hold, Time};
use gpu_broker_device::{Device, Health};
use gpu_broker_protocol::codec::{self, MapFds as _};
use gpu_broker_protocol::message::Event;
use gpu_broker_protocol::{
    Epitaph, EpitaphCode, FdSlot, Header, Opcode, Reason, Refusal, Reply, Violation,
};
use tokio::time::Sleep;

use crate::classes::count;
use crate::directory::Entry;
use crate::fds;
use crate::lane::{self, Done, Lane, Panicked};
use crate::limiter::session_error;
use crate::lists;
use crate::packet::{self, Fds, Received, Scratch, Socket, Unsent};
use crate::requests::{Answer, Fault, Open};
use crate::server::Server;
use crate::waits::Ended;

/// Nanoseconds of requests that one connection may have handled before the others get their turn.
/// tokio's own budget counts requests, and a request can be a thousand objects long.
const SLICE_NS: u64 = 200_000;

/// Stands in for the header of a packet that has none.
const NO_HEADER: Header = Header { opcode: 0, flags: 0, seq: 0 };

/// One connection and all there is of its session.
pub(crate) struct Connection<D: Device> {
    server: Arc<Server<D>>,
    entry: Arc<Entry<D>>,
    seat: Seat<D>,
    socket: Socket,
    /// As given to the entry; every poll of a tokio task brings an equivalent one.
    waker: Option<Waker>,
    unsent: Option<Box<Unsent>>,
    state: State<D>,
    /// The request handled last, until its reply has left.
    handled: Option<Handled>,
    /// The class is over its rate: no request is read before this timer ends.
    pause: Option<Pin<Box<Sleep>>>,
    /// The request that is at a device whose calls may wait, or that takes long.
    lane: Option<Box<Lane<D>>>,
    /// The body of that request, if it closes a buffer.
    closing: Option<Box<[u8]>>,
}

/// A request whose time is being taken.
struct Handled {
    came: Time,
    opcode: u16,
}

enum State<D: Device> {
    /// HELLO has not come; it must before this timer ends, which is set when there is nothing to
    /// read: a timer that ends before all others costs the reactor a round.
    Hello(Option<Pin<Box<Sleep>>>),
    Open(Open<D>),
}

/// Why a connection ends.
pub(crate) enum End {
    /// The client hung up, or cannot be reached any more.
    Gone,
    /// The client broke the protocol.
    Violation(Violation),
    /// HELLO did not come in time.
    HelloTimeout,
    /// Somebody asked for it.
    Asked(EpitaphCode),
    /// A bug of ours.
    Internal,
}

impl<D: Device> Connection<D> {
    pub(crate) fn new(seat: Seat<D>, socket: Socket) -> Self {
        let (server, entry) = (Arc::clone(&seat.server), Arc::clone(&seat.entry));
        let state = State::Hello(None);
        let (waker, unsent, handled, pause) = (None, None, None, None);
        let (lane, closing) = (None, None);
        Self { server, entry, seat, socket, waker, unsent, state, handled, pause, lane, closing }
    }

    /// Serves the client until one of the two ends it. A panic ends this session only.
    pub(crate) async fn serve(mut self) {
        let end = std::future::poll_fn(|cx| {
            let poll = std::panic::AssertUnwindSafe(|| self.poll(cx));
            std::panic::catch_unwind(poll).unwrap_or_else(|_| {
                session_error!(self.entry.log, "a panic ended this session");
                Poll::Ready(End::Internal)
            })
        })
        .await;
        if D::MAY_BLOCK || self.lane.is_some() {
            self.finish_at_device(&end).await;
        } else {
            self.finish(&end);
        }
    }

    /// As [`Self::finish`], while a request may be at the device: hangs up at once, and gives the seat
    /// back when the device has let go of everything.
    async fn finish_at_device(mut self, end: &End) {
        self.discard_unsent();
        self.end_status();
        let epitaph = self.epitaph(end);
        self.server.ended(&self.entry, epitaph.as_ref().map(|epitaph| &*epitaph.text));
        if let Some(socket) = self.socket.into_fd() {
            farewell(socket, epitaph);
        }
        let mut state = self.state;
        if let Some(mut lane) = self.lane {
            let done = std::future::poll_fn(|cx| lane.poll_done(cx)).await;
            if let Ok(Done { opened, fds, .. }) = done {
                fds::dispose(fds);
                if let Some(open) = opened {
                    state = State::Open(open);
                }
            }
        }
        if let State::Open(Open { waits: Some(waits), .. }) = &mut state {
            waits.end_moves().await;
        }
        let revoked = matches!(end, End::Asked(EpitaphCode::Revoked));
        let close = tokio::task::spawn_blocking(move || {
            if let State::Open(mut open) = state {
                open.close(revoked);
            }
        });
        if close.await.is_err() {
            session_error!(self.entry.log, "a panic while the session was closed");
        }
        drop(self.seat);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.attend(cx.waker());
        packet::with_scratch(|scratch| {
            let mut slice_end = None;
            loop {
                if let Some(end) = self.read_mail() {
                    return Poll::Ready(end);
                }
                if let Some(unsent) = &self.unsent {
                    if ready!(self.socket.poll_send(cx, &unsent.bytes, &unsent.fds)).is_err() {
                        return Poll::Ready(End::Gone);
                    }
                    self.discard_unsent();
                }
                if let Some(end) = self.send_events(cx, scratch) {
                    return Poll::Ready(end);
                }
                if let Some(end) = ready!(self.poll_turn(cx, scratch, &mut slice_end)) {
                    return Poll::Ready(end);
                }
            }
        })
    }

    /// Sends events as far as the socket has room. They wait for it, replies do not wait for
    /// them.
    fn send_events(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Option<End> {
        let Self { entry, socket, .. } = self;
        let out = &mut scratch.outbound;
        let mut end = None;
        entry.send_events(|event| {
            out.clear();
            if codec::encode_event(&event, out).is_err() {
                tracing::error!(session = %entry.id(), "an event does not fit in a message");
                end = Some(End::Internal);
                return false;
            }
            match socket.poll_send(cx, out, &[]) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => {
                    end = Some(End::Gone);
                    false
                }
                Poll::Pending => false,
            }
        });
        end
    }

    /// One packet out: the end of a wait, or the reply to a request.
    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        slice_end: &mut Option<u64>,
    ) -> Poll<Option<End>> {
        match &mut self.state {
            State::Open(open) => {
                if let Poll::Ready(ended) = open.poll_waits(cx, self.server.clock) {
                    let Ended { seq, opcode, answer } = ended;
                    let header = Header { opcode: opcode as u16, flags: 0, seq };
                    return Poll::Ready(self.answer(cx, scratch, header, answer.map(Answer::Now)));
                }
            }
            State::Hello(Some(timer)) => {
                if self.lane.is_none() && timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(End::HelloTimeout));
                }
            }
            State::Hello(None) => {}
        }
        if let Some(lane) = &mut self.lane {
            let done = ready!(lane.poll_done(cx));
            return Poll::Ready(self.lane_done(cx, scratch, done));
        }
        if let Some(end) = *slice_end {
            let now = self.server.clock.now();
            self.record(now);
            if now.0 >= end {
                // Wakes this task after the others had their turn and the sockets were looked at.
                let turn = std::pin::pin!(tokio::task::yield_now());
                ready!(turn.poll(cx));
            }
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let received = match self.socket.poll_receive(cx, &mut scratch.inbound) {
            Poll::Ready(Ok(received)) => received,
            Poll::Ready(Err(_)) => return Poll::Ready(Some(End::Gone)),
            Poll::Pending => return self.poll_hello_timer(cx),
        };
        let now = self.server.clock.now();
        slice_end.get_or_insert(now.0.saturating_add(SLICE_NS));
        if let Some(until) = self.entry.log.class.rate.charge(now) {
            count(&self.entry.log.class.counts.delays);
            let pause = Duration::from_nanos(until.0.saturating_sub(now.0));
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        Poll::Ready(self.receive(cx, scratch, now, received))
    }

    /// Nothing has come. Who has not said HELLO has a time to say it in, from now on.
    fn poll_hello_timer(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let State::Hello(timer) = &mut self.state else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| {
            let timeout = self.server.config().daemon.hello_timeout_ms;
            Box::pin(tokio::time::sleep(Duration::from_millis(timeout)))
        });
        timer.as_mut().poll(cx).map(|()| Some(End::HelloTimeout))
    }

    /// The reply to the request before has left, or waits for something else than us.
    fn record(&mut self, now: Time) {
        if let Some(Handled { came, opcode }) = self.handled.take() {
            let counts = &self.entry.log.class.counts;
            let execbuf = [Opcode::Execbuf as u16, Opcode::ExecbufList as u16].contains(&opcode);
            let histogram = if execbuf { &counts.execbuf } else { &counts.other };
            histogram.record(now.0.saturating_sub(came.0));
        }
    }

    /// Handles what came; `Some` ends the connection.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        now: Time,
        received: Received,
    ) -> Option<End> {
        let (length, mut fds, starved) = match received {
            Received::End(fds) => {
                fds::dispose(fds);
                return Some(End::Gone);
            }
            Received::Violation(violation, fds) => {
                fds::dispose(fds);
                return Some(End::Violation(violation));
            }
            Received::Packet(length, fds) => (length, fds, false),
            Received::Starved(length, fds) => (length, fds, true),
        };
        let (header, answer) = match Header::split(scratch.inbound.bytes(length)) {
            Err(violation) => (NO_HEADER, Err(violation.into())),
            Ok((header, _)) if header.flags != 0 => (header, Err(Violation::UnknownFlags.into())),
            Ok((header, _)) if starved => (header, Err(Refusal::new(Reason::DaemonFds).into())),
            Ok((header, body)) if self.takes_long(header, body) => {
                self.begin_lane(now, header, body, fds);
                return None;
            }
            Ok((header, body)) => (header, self.request(now, header, body, &mut fds)),
        };
        fds::dispose(fds);
        self.handled = Some(Handled { came: now, opcode: header.opcode });
        self.conclude(cx, scratch, header, answer)
    }

    /// Whether a request goes to a thread of its own.
    fn takes_long(&self, header: Header, body: &[u8]) -> bool {
        let is_open = matches!(self.state, State::Open(_));
        if D::MAY_BLOCK {
            return !is_open || lane::may_block(header.opcode);
        }
        is_open && lists::is_long(header, body)
    }

    fn begin_lane(&mut self, now: Time, header: Header, body: &[u8], fds: Fds) {
        let (server, entry) = (&self.server, &self.entry);
        self.closing = (header.opcode == Opcode::BufferClose as u16).then(|| body.into());
        self.lane = Some(Box::new(match &mut self.state {
            State::Hello(_) => Lane::hello(server, entry, now, header, body, fds),
            State::Open(open) => {
                Lane::request(server, entry, now, header, body, (open.lend(), fds))
            }
        }));
    }

    /// The request at the device is done; `Some` ends the connection.
    fn lane_done(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        done: Result<Done<D>, Panicked>,
    ) -> Option<End> {
        self.lane = None;
        let Ok(Done { came, header, result, fds, opened, lent }) = done else {
            session_error!(self.entry.log, "a panic ended this session");
            return Some(End::Internal);
        };
        fds::dispose(fds);
        self.handled = Some(Handled { came, opcode: header.opcode });
        if let Some(open) = opened {
            self.state = State::Open(open);
        }
        let closing = self.closing.take().filter(|_| result.is_ok());
        if let State::Open(open) = &mut self.state {
            if let Some(body) = closing {
                open.buffer_closed(&body);
            }
            if let Some(lent) = lent {
                open.take_back(lent, self.server.clock.now());
            }
        }
        self.conclude(cx, scratch, header, result)
    }

    fn conclude(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        header: Header,
        answer: Result<Answer, Fault>,
    ) -> Option<End> {
        match answer {
            Err(Fault::Violated(violation)) => Some(End::Violation(violation)),
            Err(Fault::Refused(refusal)) => self.answer(cx, scratch, header, Err(refusal)),
            Ok(answer) => self.answer(cx, scratch, header, Ok(answer)),
        }
    }

    fn request(
        &mut self,
        now: Time,
        header: Header,
        body: &[u8],
        fds: &mut Fds,
    ) -> Result<Answer, Fault> {
        match &mut self.state {
            State::Open(open) => open.handle(&self.server, &self.entry, now, header, body, fds),
            State::Hello(_) => {
                let (open, reply) =
                    crate::hello::open(&self.server, &self.entry, now, header, body, fds)?;
                self.state = State::Open(open);
                Ok(Answer::Now(Reply::Hello(reply)))
            }
        }
    }

    /// Encodes the answer and sends it, or keeps it until the socket has room.
    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        header: Header,
        answer: Result<Answer, Refusal>,
    ) -> Option<End> {
        let out = &mut scratch.outbound;
        out.clear();
        let mut fds = Fds::new();
        let encoded = match answer {
            Ok(Answer::Later) => return None,
            Ok(Answer::Now(reply)) => {
                let reply = reply.map_fds(|fd| {
                    fds.push(fd);
                    Ok::<_, std::convert::Infallible>(FdSlot)
                });
                let Ok(reply) = reply;
                codec::encode_reply(header.seq, &reply, out)
            }
            Err(refusal) => {
                self.server.refused(&self.entry, header.opcode, &refusal);
                codec::encode_refusal(header.opcode, header.seq, &refusal, out)
            }
        };
        if encoded.is_err() {
            session_error!(
                self.entry.log,
                "a reply to opcode {:#x} does not fit in a message",
                header.opcode
            );
            return Some(End::Internal);
        }
        match self.socket.poll_send(cx, out, &fds) {
            // Only PING answers with an fd of the client's; all others are our own memfds and
            // fences, whose close waits for nobody.
            Poll::Ready(Ok(())) if header.opcode != Opcode::Ping as u16 => drop(fds),
            Poll::Ready(Ok(())) => fds::dispose(fds),
            Poll::Ready(Err(_)) => {
                fds::dispose(fds);
                return Some(End::Gone);
            }
            Poll::Pending => {
                self.unsent = Some(Box::new(Unsent { bytes: out.as_slice().into(), fds }));
            }
        }
        None
    }

    fn attend(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
            self.entry.set_waker(waker.clone());
        }
    }

    fn read_mail(&mut self) -> Option<End> {
        let (end, fired) = self.entry.take_mail()?;
        if let State::Open(open) = &mut self.state {
            let now = self.server.clock.now();
            match self.lane {
                None => open.watches_fired(now, &fired),
                Some(_) => open.watches_fired_meanwhile(now, &fired),
            }
        }
        end.map(End::Asked)
    }

    fn discard_unsent(&mut self) {
        if let Some(unsent) = self.unsent.take() {
            fds::dispose(unsent.fds);
        }
    }

    /// Who looks at the shared status page learns before the epitaph comes that it must ask.
    fn end_status(&self) {
        if let State::Open(open) = &self.state {
            open.session.hands().end_status();
        }
    }

    /// Says why, releases everything, and hangs up.
    fn finish(mut self, end: &End) {
        self.discard_unsent();
        self.end_status();
        let epitaph = self.epitaph(end);
        self.server.ended(&self.entry, epitaph.as_ref().map(|epitaph| &*epitaph.text));
        if let State::Open(open) = &mut self.state {
            let session = Arc::clone(&open.session);
            // What the session has on the GPU ends with it if somebody takes it away.
            let revoked = matches!(end, End::Asked(EpitaphCode::Revoked));
            let close = std::panic::AssertUnwindSafe(|| open.close(revoked));
            if std::panic::catch_unwind(close).is_err() {
                session_error!(self.entry.log, "a panic while the session was closed");
                // Dropping it would close it again, and a panic during that would end the daemon.
                std::mem::forget(session);
            }
        }
        // First, so that a client that comes back at once finds its seat free.
        drop(self.seat);
        if let Some(socket) = self.socket.into_fd() {
            farewell(socket, epitaph);
        }
    }

    fn epitaph(&self, end: &End) -> Option<Epitaph> {
        let sentence = |code, text: &str| Some(Epitaph { code, text: text.to_owned() });
        match end {
            End::Gone => None,
            End::Violation(violation) => {
                let epitaph = violation.epitaph();
                self.server.report_violation(&self.entry, &epitaph);
                Some(epitaph)
            }
            End::HelloTimeout => {
                tracing::debug!(session = %self.entry.id(), "no HELLO in time");
                sentence(EpitaphCode::Hello, "HELLO did not come in time")
            }
            End::Asked(code @ EpitaphCode::DeviceLost) => {
                sentence(*code, device_lost(self.server.device.health()))
            }
            End::Asked(code) => sentence(*code, asked(*code)),
            End::Internal => sentence(EpitaphCode::Internal, "the daemon failed; its log says how"),
        }
    }
}

/// A connection's entry in the directory, its place there, and what its class is charged for it;
/// all given back however the connection ends.
pub(crate) struct Seat<D: Device> {
    pub(crate) server: Arc<Server<D>>,
    pub(crate) entry: Arc<Entry<D>>,
    pub(crate) _place: Place<D>,
    pub(crate) _charge: Hold,
}

impl<D: Device> Drop for Seat<D> {
    fn drop(&mut self) {
        let session = self.entry.id();
        self.server.directory.leave(session);
        self.server.books.events.leave(session);
        if self.entry.identity.origin.admin
            && let Some(wanted) = self.server.books.trace.leave(session)
        {
            self.server.device.set_tracing(wanted);
        }
    }
}

/// One of the connections that the daemon may have.
pub(crate) struct Place<D: Device> {
    pub(crate) server: Arc<Server<D>>,
    pub(crate) uid: u32,
}

impl<D: Device> Drop for Place<D> {
    fn drop(&mut self) {
        self.server.directory.give_place(self.uid);
    }
}

/// The sentence for a session whose device is lost.
const fn device_lost(health: Health) -> &'static str {
    match health {
        Health::Unplugged => "the GPU was unplugged; connect again when it is back",
        Health::Unbound => {
            "the GPU's driver was unloaded, or unbound from it; connect again when it is back"
        }
        Health::Good | Health::Wedged => {
            "the GPU was gone for a moment, and what the session had there with it; connect again"
        }
    }
}

/// The sentence for a session that somebody else ends.
fn asked(code: EpitaphCode) -> &'static str {
    match code {
        EpitaphCode::Full => "the daemon serves as many clients as it may; try again later",
        EpitaphCode::ShuttingDown => "the daemon is stopping; connect again when it is back",
        EpitaphCode::Revoked => "an administrator ended this session",
        EpitaphCode::DeviceLost => "the GPU is gone",
        EpitaphCode::Denied => "the policy admits nobody like this client",
        EpitaphCode::Malformed
        | EpitaphCode::TooLong
        | EpitaphCode::UnknownOpcode
        | EpitaphCode::FdCount
        | EpitaphCode::Hello
        | EpitaphCode::Internal => "the session was ended",
    }
}

/// Turns a connection away; `why` is added to the sentence.
pub(crate) fn turn_away(socket: OwnedFd, code: EpitaphCode, why: &str) {
    let text = format!("{} ({why})", asked(code));
    farewell(socket, Some(Epitaph { code, text }));
}

/// Hangs up, after the epitaph if the socket takes it at once.
fn farewell(socket: OwnedFd, epitaph: Option<Epitaph>) {
    use rustix::net::{SendFlags, Shutdown};
    let Some(epitaph) = epitaph else {
        return fds::dispose_connection(socket);
    };
    let mut bytes = Vec::new();
    if codec::encode_event(&Event::Epitaph(epitaph), &mut bytes).is_ok() {
        // A client that does not read its socket misses its epitaph; it is not waited for.
        let _ = rustix::net::send(&socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
    // From here on a client's send fails, and what it has sent is thrown away in bounded time.
    let _ = rustix::net::shutdown(&socket, Shutdown::Read);
    fds::dispose_connection(socket);
}

#[cfg(test)]
mod tests {
    use gpu_broker_core::Capabilities;
    use gpu_broker_device::soft::SoftFile;
    use gpu_broker_device::{Description, DeviceError, EngineUsage, EventSink, Share};
    use gpu_broker_protocol::message::Hello;
    use gpu_broker_protocol::{Request, version};

    use super::*;
    use crate::config::Config;
    use crate::identity::{Credentials, Identity};
    use crate::listeners::Origin;

    /// A device with a bug.
    struct Buggy;

    impl Device for Buggy {
        const MAY_BLOCK: bool = false;
        const TRACES_RUNS: bool = false;

        type File = SoftFile;

        fn description(&self) -> Description {
            panic!("not reached")
        }

        fn open(
            &self,
            _events: Arc<dyn EventSink>,
            _share: Share,
        ) -> Result<SoftFile, DeviceError> {
            panic!("the bug")
        }

        fn health(&self) -> Health {
            panic!("not reached")
        }

        fn probe(&self) {}

        fn set_tracing(&self, _on: bool) {}

        fn engine_usage(&self) -> Vec<EngineUsage> {
            panic!("not reached")
        }
    }

    #[tokio::test]
    async fn a_panic_ends_one_session_with_an_epitaph() {
        let capabilities = Capabilities::kaby_lake_gt3();
        let server = Arc::new(Server::new(Config::default(), Buggy, capabilities));
        let (ours, theirs) = tokio_seqpacket::UnixSeqpacket::pair().expect("sockets");
        let ours = OwnedFd::from(ours);
        let credentials = Credentials::of(&ours).expect("credentials");
        let origin = Arc::new(Origin::named("main"));
        let place = server.place(credentials, &origin).expect("room");
        let identity = Identity::of(&ours, credentials, origin);
        let seat = server.enrol(Arc::new(identity), place).expect("the default class");
        let connection = Connection::new(seat, Socket::new(ours).expect("room"));
        let task = tokio::spawn(connection.serve());

        let hello = Request::Hello(Hello {
            major: version::MAJOR,
            minor_min: 0,
            minor_max: 0,
            features: 0,
            client_name: String::new(),
        });
        let mut packet = Vec::new();
        codec::encode_request(1, &hello, &mut packet).expect("fits");
        theirs.send(&packet).await.expect("room");
        let mut answer = [0; 1024];
        let info = theirs.recv(&mut answer).await.expect("an answer");
        let (header, body) = Header::split(&answer[..info.bytes_read()]).expect("a header");
        let event = codec::decode_event(header.opcode, body).expect("an event");
        let Event::Epitaph(epitaph) = event else { panic!("not an epitaph: {event:?}") };
        assert_eq!(epitaph.code, EpitaphCode::Internal);
        task.await.expect("the panic stays inside");
        assert_eq!(server.directory.len(), 0, "the seat is free");
    }
}
