//! The protocol without a socket: which request an incoming packet answers, and what it says.
//!
//! Both clients, the blocking one and the asynchronous one, drive this. For each request: take a
//! number with [`Ledger::open`], send the packet, and when a packet arrives look at it with
//! [`sort`], find whose it is with [`Ledger::position`], and decode it with [`Answer::reply`] or
//! [`Answer::execbuf`]. After [`Ledger::end`] every `open` answers with the reason.

use std::os::fd::OwnedFd;

use gpu_broker_protocol::admin::AdminEvent;
use gpu_broker_protocol::execbuf::{self, ExecbufHead, ExecbufLists, flag};
use gpu_broker_protocol::hang::HangEvent;
use gpu_broker_protocol::limits::FDS_PER_MESSAGE_MAX;
use gpu_broker_protocol::message::{Event, ExecbufReply, Hello, HelloReply};
use gpu_broker_protocol::violation::Epitaph;
use gpu_broker_protocol::{
    FdSlot, Header, HeaderFlags, Opcode, Reply, Request, Violation, codec, version,
};
use rustix::io::Errno;

use crate::error::Error;

/// Takes a reply apart that must be of one kind. [`Ledger::position`] compares opcodes, so another
/// kind would be a bug; it is reported, not panicked over.
macro_rules! answer {
    ($reply:expr, $pattern:pat => $value:expr) => {
        if let $pattern = $reply {
            Ok($value)
        } else {
            Err($crate::Error::Protocol(gpu_broker_protocol::Violation::Malformed))
        }
    };
}
pub(crate) use answer;

/// A request that carries no fds.
pub(crate) type Plain = Request<OwnedFd>;

/// The file descriptors of one packet, in order. Holds them without allocating.
#[derive(Debug)]
pub(crate) struct Fds<Fd = OwnedFd> {
    slots: [Option<Fd>; FDS_PER_MESSAGE_MAX],
    taken: usize,
    count: usize,
    cut_short: bool,
}

impl<Fd> Default for Fds<Fd> {
    fn default() -> Self {
        Self { slots: [const { None }; FDS_PER_MESSAGE_MAX], taken: 0, count: 0, cut_short: false }
    }
}

impl<Fd> Fds<Fd> {
    /// Adds one; more than a message may carry is a violation (the fd is closed then).
    pub(crate) fn push(&mut self, fd: Fd) -> Result<(), Violation> {
        let slot = self.slots.get_mut(self.count).ok_or(Violation::FdCount)?;
        *slot = Some(fd);
        self.count += 1;
        Ok(())
    }

    /// Notes that some could not be received: this process has as many open as it may have.
    pub(crate) const fn cut_short(&mut self) {
        self.cut_short = true;
    }

    /// # Errors
    /// EMFILE when some are missing through no fault of the daemon's.
    fn complete(&self) -> Result<(), Error> {
        if self.cut_short {
            return Err(Error::io("receiving a file descriptor from the broker", Errno::MFILE));
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Fd, Violation> {
        let fd = self.slots.get_mut(self.taken).and_then(Option::take);
        self.taken += 1;
        fd.ok_or(Violation::FdCount)
    }

    fn finish(self) -> Result<(), Violation> {
        if self.taken == self.count { Ok(()) } else { Err(Violation::FdCount) }
    }
}

/// Why no further request can be answered.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// The daemon said why.
    Epitaph(Epitaph),
    /// The connection closed.
    Closed,
    /// The daemon broke the protocol.
    Violation(Violation),
    /// Receiving failed; which packet is lost with that is not known.
    Lost(Errno),
}

impl From<Ending> for Error {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Epitaph(epitaph) => Self::Ended(epitaph),
            Ending::Closed => Self::Disconnected,
            Ending::Violation(violation) => Self::Protocol(violation),
            Ending::Lost(errno) => Self::Lost(errno.into()),
        }
    }
}

/// What a packet is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival<'p> {
    /// An answer to the request with this number.
    Answer(Answer<'p>),
    /// The daemon's last words.
    Epitaph(Epitaph),
    /// A batch of ours died.
    Hang(HangEvent),
    /// Something that an administrator asked to be told of.
    Admin(AdminEvent),
}

/// An answer that is not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer<'p> {
    pub(crate) seq: u32,
    pub(crate) opcode: u16,
    pub(crate) refused: bool,
    pub(crate) body: &'p [u8],
}

/// Looks at a packet's header.
///
/// # Errors
/// The violation, when the packet is no message of the daemon's.
pub(crate) fn sort(packet: &[u8]) -> Result<Arrival<'_>, Violation> {
    let (header, body) = Header::split(packet)?;
    let answer =
        |refused| Arrival::Answer(Answer { seq: header.seq, opcode: header.opcode, refused, body });
    match header.flags {
        HeaderFlags::REPLY => Ok(answer(false)),
        flags if flags == HeaderFlags::REPLY | HeaderFlags::REFUSED => Ok(answer(true)),
        HeaderFlags::EVENT => Ok(match codec::decode_event(header.opcode, body)? {
            Event::Epitaph(epitaph) => Arrival::Epitaph(epitaph),
            Event::Hang(hang) => Arrival::Hang(hang),
            Event::Admin(event) => Arrival::Admin(event),
        }),
        _ => Err(Violation::UnknownFlags),
    }
}

/// What an EXECBUF asked for, as far as its answer depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    objects: usize,
    fence: bool,
}

impl Asked {
    /// What only changes a list has neither addresses nor a fence.
    pub(crate) const NOTHING: Self = Self { objects: 0, fence: false };

    pub(crate) const fn by(head: &ExecbufHead, lists: &ExecbufLists<'_>) -> Self {
        Self { objects: lists.objects.len(), fence: head.flags & flag::FENCE_OUT != 0 }
    }
}

impl Answer<'_> {
    /// The typed reply, with its fds put in.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Protocol`] when body or fds are not what the opcode says; EMFILE
    /// when this process could not receive the fds.
    pub(crate) fn reply<Fd>(&self, mut fds: Fds<Fd>) -> Result<Reply<Fd>, Error> {
        use codec::MapFds;
        self.refusal()?;
        let reply = Reply::decode(self.opcode, self.body).map_err(Error::Protocol)?;
        fds.complete()?;
        let reply = reply.map_fds(|FdSlot| fds.take()).map_err(Error::Protocol)?;
        fds.finish().map_err(Error::Protocol)?;
        Ok(reply)
    }

    /// The answer to an EXECBUF, held against the request.
    ///
    /// # Errors
    /// As [`Self::reply`]; [`Error::Protocol`] also when there is an address too few or too many, or
    /// a fence although none was asked for, or none although one was.
    pub(crate) fn execbuf<Fd>(
        &self,
        asked: Asked,
        mut fds: Fds<Fd>,
    ) -> Result<ExecbufReply<Fd>, Error> {
        self.refusal()?;
        let reply = execbuf::decode_reply(self.body).map_err(Error::Protocol)?;
        let addresses = reply.offsets.len();
        if (addresses != 0 && addresses != asked.objects) || reply.fence.is_some() != asked.fence {
            return Err(Error::Protocol(Violation::Malformed));
        }
        fds.complete()?;
        let fence = reply.fence.map(|FdSlot| fds.take()).transpose().map_err(Error::Protocol)?;
        fds.finish().map_err(Error::Protocol)?;
        Ok(ExecbufReply { offsets: reply.offsets, fence })
    }

    fn refusal(&self) -> Result<(), Error> {
        if !self.refused {
            return Ok(());
        }
        Err(match codec::decode_refusal(self.body) {
            Ok(refusal) => Error::Refused(refusal),
            Err(violation) => Error::Protocol(violation),
        })
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Open<W> {
    pub(crate) seq: u32,
    pub(crate) opcode: u16,
    pub(crate) waiter: W,
}

/// Requests that wait for their answers. Few at a time, so a list is the fastest map.
#[derive(Debug)]
pub(crate) struct Ledger<W> {
    next: u32,
    open: Vec<Open<W>>,
    ended: Option<Ending>,
}

impl<W> Default for Ledger<W> {
    fn default() -> Self {
        Self { next: 0, open: Vec::new(), ended: None }
    }
}

impl<W> Ledger<W> {
    /// One whose numbers begin after `next`.
    pub(crate) const fn starting_at(next: u32) -> Self {
        Self { next, open: Vec::new(), ended: None }
    }

    /// Takes a number for a request. Numbers start at 1 and wrap around; 0 belongs to events.
    ///
    /// # Errors
    /// Why the connection ended, if it did.
    pub(crate) fn open(&mut self, opcode: Opcode, waiter: W) -> Result<u32, Ending> {
        if let Some(ending) = &self.ended {
            return Err(ending.clone());
        }
        loop {
            self.next = self.next.wrapping_add(1);
            if self.next != 0 && self.open.iter().all(|open| open.seq != self.next) {
                break;
            }
        }
        self.open.push(Open { seq: self.next, opcode: opcode as u16, waiter });
        Ok(self.next)
    }

    /// Where the request stands that `answer` answers.
    ///
    /// # Errors
    /// [`Violation::Malformed`] when no such request is open, or it has another opcode.
    pub(crate) fn position(&self, answer: &Answer<'_>) -> Result<usize, Violation> {
        self.open
            .iter()
            .position(|open| open.seq == answer.seq && open.opcode == answer.opcode)
            .ok_or(Violation::Malformed)
    }

    /// The request with this number, unless it was closed.
    pub(crate) fn get_mut(&mut self, seq: u32) -> Option<&mut W> {
        self.open.iter_mut().find(|open| open.seq == seq).map(|open| &mut open.waiter)
    }

    /// The waiter at a [`Self::position`].
    pub(crate) fn at(&mut self, position: usize) -> Option<&mut W> {
        self.open.get_mut(position).map(|open| &mut open.waiter)
    }

    /// Closes a request; its answer may not come any more.
    pub(crate) fn close(&mut self, seq: u32) -> Option<W> {
        let position = self.open.iter().position(|open| open.seq == seq)?;
        Some(self.open.swap_remove(position).waiter)
    }

    /// Everybody who waits.
    pub(crate) fn waiters(&mut self) -> impl Iterator<Item = &mut W> {
        self.open.iter_mut().map(|open| &mut open.waiter)
    }

    /// Closes everything, so that nobody waits for what will not come.
    #[cfg(feature = "tokio")]
    pub(crate) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Records the end; the first reason stays.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ended.get_or_insert(ending);
    }

    /// Why the connection ended.
    pub(crate) const fn ended(&self) -> Option<&Ending> {
        self.ended.as_ref()
    }
}

/// What this library says first. A name longer than the limit is the daemon's to refuse.
pub(crate) fn hello(client_name: &str) -> Hello {
    Hello {
        major: version::MAJOR,
        minor_min: version::MINOR_MIN,
        minor_max: version::MINOR_MAX,
        features: version::feature::ALL,
        client_name: client_name.to_owned(),
    }
}

/// Checks what was settled.
///
/// # Errors
/// [`Error::Version`] when the daemon chose what was not offered.
pub(crate) fn check_hello(reply: HelloReply) -> Result<HelloReply, Error> {
    let offered = version::MINOR_MIN..=version::MINOR_MAX;
    if reply.major == version::MAJOR && offered.contains(&reply.minor) {
        Ok(reply)
    } else {
        Err(Error::Version { major: reply.major, minor: reply.minor })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use gpu_broker_protocol::message::Ping;
    use gpu_broker_protocol::refusal::Reason;
    use gpu_broker_protocol::{EpitaphCode, Refusal};

    use super::*;

    fn pong(seq: u32, fd: Option<FdSlot>) -> Vec<u8> {
        let mut packet = Vec::new();
        codec::encode_reply(seq, &Reply::Ping(Ping { payload: 7, fd }), &mut packet)
            .expect("a ping fits");
        packet
    }

    fn answer(packet: &[u8]) -> Answer<'_> {
        let Ok(Arrival::Answer(answer)) = sort(packet) else { panic!("not an answer: {packet:?}") };
        answer
    }

    fn fds(numbers: impl IntoIterator<Item = u32>) -> Fds<u32> {
        let mut fds = Fds::default();
        for number in numbers {
            fds.push(number).expect("few enough");
        }
        fds
    }

    #[test]
    fn every_fd_of_a_reply_must_be_there_and_be_used() {
        let with = pong(1, Some(FdSlot));
        let reply = answer(&with).reply(fds([5])).expect("one fd for one slot");
        assert_eq!(reply, Reply::Ping(Ping { payload: 7, fd: Some(5) }));
        let missing = answer(&with).reply(fds([])).expect_err("no fd for one slot");
        assert!(matches!(missing, Error::Protocol(Violation::FdCount)), "{missing}");
        let without = pong(1, None);
        let extra = answer(&without).reply(fds([5])).expect_err("one fd for no slot");
        assert!(matches!(extra, Error::Protocol(Violation::FdCount)), "{extra}");
        let mut full = fds(0..4);
        assert_eq!(full.push(4), Err(Violation::FdCount));
    }

    #[test]
    fn fds_that_could_not_be_received_are_not_the_daemons_fault() {
        let with = pong(1, Some(FdSlot));
        let mut none = fds([]);
        none.cut_short();
        let error = answer(&with).reply(none).expect_err("the fd is missing");
        assert_eq!(error.errno(), Errno::MFILE.raw_os_error());
        assert!(!error.is_fatal());
    }

    #[test]
    fn an_execbufs_answer_is_held_against_the_request() {
        let answered = |flags, objects: usize, offsets: usize, fence: bool| {
            let head = ExecbufHead { flags, ..ExecbufHead::default() };
            let objects = vec![execbuf::ExecObject::default(); objects];
            let asked = Asked::by(&head, &ExecbufLists { objects: &objects, ..Default::default() });
            let reply =
                ExecbufReply { offsets: vec![4096; offsets], fence: fence.then_some(FdSlot) };
            let mut body = Vec::new();
            execbuf::encode_reply(&reply, &mut body);
            let opcode = Opcode::Execbuf as u16;
            let answer = Answer { seq: 1, opcode, refused: false, body: &body };
            match answer.execbuf(asked, fds(fence.then_some(5))) {
                Ok(reply) => Ok((reply.offsets.len(), reply.fence)),
                Err(Error::Protocol(violation)) => Err(violation),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(answered(0, 2, 0, false), Ok((0, None)));
        assert_eq!(answered(0, 2, 2, false), Ok((2, None)));
        assert_eq!(answered(flag::FENCE_OUT, 2, 0, true), Ok((0, Some(5))));
        assert_eq!(answered(0, 2, 1, false), Err(Violation::Malformed));
        assert_eq!(answered(0, 2, 3, false), Err(Violation::Malformed));
        assert_eq!(answered(flag::FENCE_OUT, 2, 2, false), Err(Violation::Malformed));
        assert_eq!(answered(0, 2, 2, true), Err(Violation::Malformed));
    }

    #[test]
    fn numbers_skip_zero_and_those_in_use() {
        let mut ledger = Ledger { next: u32::MAX - 1, ..Ledger::default() };
        assert_eq!(ledger.open(Opcode::Ping, ()).expect("open"), u32::MAX);
        assert_eq!(ledger.open(Opcode::Ping, ()).expect("open"), 1);
        ledger.next = u32::MAX - 1;
        assert_eq!(ledger.open(Opcode::Ping, ()).expect("open"), 2);
    }

    #[test]
    fn an_answer_belongs_to_the_request_with_its_number_and_opcode() {
        let mut ledger = Ledger::default();
        let status = ledger.open(Opcode::Status, 'a').expect("open");
        let ping = ledger.open(Opcode::Ping, 'b').expect("open");
        let packet = pong(ping, None);
        let position = ledger.position(&answer(&packet)).expect("it is open");
        assert_eq!(ledger.at(position), Some(&mut 'b'));
        let wrong_opcode = pong(status, None);
        assert_eq!(ledger.position(&answer(&wrong_opcode)), Err(Violation::Malformed));
        assert_eq!(ledger.close(ping), Some('b'));
        assert_eq!(ledger.position(&answer(&packet)), Err(Violation::Malformed));
    }

    #[test]
    fn a_refusal_keeps_the_daemons_words() {
        let refusal = Refusal::new(Reason::PriorityRange).with_detail("2000");
        let mut packet = Vec::new();
        codec::encode_refusal(Opcode::Ping as u16, 3, &refusal, &mut packet).expect("it fits");
        let error = answer(&packet).reply(fds([])).expect_err("refused");
        assert_eq!(error.errno(), refusal.errno());
        assert_eq!(error.refusal(), Some(&refusal.to_body()));
        assert!(error.to_string().contains("(2000)"), "{error}");
    }

    #[test]
    fn after_the_epitaph_nothing_opens() {
        let epitaph = Epitaph { code: EpitaphCode::ShuttingDown, text: "stopping".into() };
        let mut packet = Vec::new();
        codec::encode_event(&Event::Epitaph(epitaph.clone()), &mut packet).expect("it fits");
        assert_eq!(sort(&packet), Ok(Arrival::Epitaph(epitaph.clone())));
        let mut ledger = Ledger::default();
        ledger.end(Ending::Epitaph(epitaph.clone()));
        ledger.end(Ending::Closed);
        let refused = ledger.open(Opcode::Ping, ());
        assert!(matches!(refused, Err(Ending::Epitaph(first)) if first == epitaph));
    }

    #[test]
    fn requests_and_unknown_flags_are_no_messages_of_the_daemon() {
        let mut packet = Vec::new();
        codec::encode_request(1, &Request::DeviceQuery, &mut packet).expect("it fits");
        assert_eq!(sort(&packet), Err(Violation::UnknownFlags));
        packet[2] = 0x80;
        assert_eq!(sort(&packet), Err(Violation::UnknownFlags));
        assert_eq!(sort(&packet[..7]), Err(Violation::Short));
    }

    #[test]
    fn a_version_that_was_not_offered_is_an_error() {
        let settled = |major, minor| {
            check_hello(HelloReply { major, minor, ..sample_hello() }).map(|reply| reply.minor)
        };
        assert_eq!(settled(version::MAJOR, version::MINOR_MAX).expect("offered"), 0);
        assert!(matches!(
            settled(version::MAJOR, version::MINOR_MAX + 1),
            Err(Error::Version { major: 1, minor: 1 })
        ));
        assert!(settled(version::MAJOR + 1, 0).is_err());
    }

    /// A welcome, for tests that play the daemon.
    pub(crate) fn sample_hello() -> HelloReply {
        use gpu_broker_protocol::SessionId;
        use gpu_broker_protocol::message::{DeviceInfo, Limits};
        HelloReply {
            major: 1,
            minor: 0,
            features: 0,
            session: SessionId(1),
            limits: Limits {
                message_bytes: 0,
                fds_per_message: 0,
                contexts: 0,
                vms: 0,
                buffers: 0,
                buffer_bytes: 0,
                buffer_memory_bytes: 0,
                objects_per_execbuf: 0,
                submissions_in_flight: 0,
                pending_waits: 0,
                fences: 0,
            },
            device: DeviceInfo {
                driver: String::new(),
                name: String::new(),
                vendor_id: 0,
                device_id: 0,
                revision: 0,
                graphics_version: 9,
                gtt_bytes: 0,
                timestamp_hz: 0,
                wedged: false,
                engines: Vec::new(),
            },
        }
    }
}
