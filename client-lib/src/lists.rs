//! Long submissions: the daemon keeps them, and only what changed is sent.
//!
//! Without a socket, like [`crate::proto`]; both clients drive it. A [`Slot`] has what the daemon has:
//! encode the submission with [`Slot::fill`], then send what [`Slot::prepare`] makes ready until it was
//! a RUN, and tell [`Slot::answered`] of each answer. A slot whose request was sent and not answered
//! knows nothing any more, and the next submission is sent whole.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use gpu_broker_protocol::execbuf::{self, ExecbufHead, ExecbufLists};
use gpu_broker_protocol::execlist::{
    EDIT_BYTES, ExecbufList, FIXED_BYTES, ListHead, NOTHING, RUN, edit,
};
use gpu_broker_protocol::limits::{
    BODY_BYTES_MAX, EXECBUF_LIST_BYTES_MAX, EXECBUF_LISTS_PER_SESSION_MAX,
};
use gpu_broker_protocol::message::HelloReply;
use gpu_broker_protocol::version::feature;
use gpu_broker_protocol::{Reason, Violation, codec};

use crate::error::Error;

/// Bytes of the body from which on a submission is kept by the daemon: from here on finding what
/// changed costs less than sending everything does.
const KEPT_FROM_BYTES: usize = 16 * 1024;
/// How often everything is sent because the daemon does not have the list any more.
const ATTEMPTS: u32 = 8;
/// What is compared at a time. All parts of a body are multiples of it.
const WORD: usize = 8;
/// Bytes that did not change and are sent nevertheless, because another edit costs as much.
const GAP_BYTES: usize = 2 * EDIT_BYTES;

/// Whether the daemon keeps lists, and this submission is one for it.
pub(crate) fn is_for(hello: &HelloReply, lists: &ExecbufLists<'_>) -> bool {
    hello.features & feature::EXECBUF_LISTS != 0 && lists.body_bytes() >= KEPT_FROM_BYTES
}

/// The lists of a connection; `M` is the lock around each.
pub(crate) struct Lists<M> {
    slots: [M; EXECBUF_LISTS_PER_SESSION_MAX],
    /// Which context used each last, and when.
    owners: Mutex<[(u32, u64); EXECBUF_LISTS_PER_SESSION_MAX]>,
    now: AtomicU64,
    generation: AtomicU64,
}

impl<M: Default> Default for Lists<M> {
    fn default() -> Self {
        Self {
            slots: Default::default(),
            owners: Mutex::default(),
            now: AtomicU64::new(0),
            // Other processes may use the same session, and so the same lists; the same number must
            // not mean two things.
            generation: AtomicU64::new(random()),
        }
    }
}

impl<M> Lists<M> {
    /// Where a submission of this context goes: where the last one went, or where none was for the
    /// longest time. The number of the list, and its slot.
    pub(crate) fn slot(&self, context: u32) -> Option<(u32, &M)> {
        let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let own = owners.iter().position(|(owner, used)| *owner == context && *used != 0);
        let oldest = || owners.iter().zip(0..).min_by_key(|((_, used), _)| *used).map(|(_, at)| at);
        let at = own.or_else(oldest)?;
        *owners.get_mut(at)? = (context, now);
        Some((u32::try_from(at).ok()?, self.slots.get(at)?))
    }

    /// A number that no list had before.
    pub(crate) fn generation(&self) -> u64 {
        match self.generation.fetch_add(1, Ordering::Relaxed) {
            NOTHING => self.generation(),
            generation => generation,
        }
    }
}

fn random() -> u64 {
    let random = RandomState::new();
    // In a child of fork the keys are those of the parent.
    let mut own = Vec::new();
    std::process::id().hash(&mut Collect(&mut own));
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    own.extend(since.unwrap_or_default().as_nanos().to_ne_bytes());
    random.hash_one(own)
}

/// Bytes that are hashed later.
struct Collect<'a>(&'a mut Vec<u8>);

impl std::hash::Hasher for Collect<'_> {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// What the daemon has under one number, and what is on the way there.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Of `known`; [`NOTHING`] if what the daemon has is not known.
    generation: u64,
    known: Vec<u8>,
    /// What it shall have.
    body: Vec<u8>,
    way: Way,
    /// The request that is ready to be sent.
    head: ListHead,
    edits: Vec<[u8; EDIT_BYTES]>,
    bytes: Vec<u8>,
}

/// How far a submission is.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// What the daemon has now.
    base: u64,
    /// Bytes of the body that are there.
    at: usize,
    /// Bytes of `known` that the daemon still has, where they may be the same.
    common: usize,
    /// How long its list is.
    end: usize,
    attempts: u32,
}

/// What to do after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// There is something to send.
    Send,
    /// That was all: the answer is the submission's.
    Over,
}

impl Slot {
    /// Takes a submission.
    ///
    /// # Errors
    /// [`Error::Unsendable`] when it is longer than any list, or no daemon could take it apart.
    pub(crate) fn fill(
        &mut self,
        head: &ExecbufHead,
        lists: &ExecbufLists<'_>,
    ) -> Result<(), Error> {
        if lists.body_bytes() > EXECBUF_LIST_BYTES_MAX {
            return Err(Error::Unsendable(Violation::TooLong));
        }
        if !lists.agree() {
            return Err(Error::Unsendable(Violation::Malformed));
        }
        self.body.clear();
        execbuf::encode(head, lists, &mut self.body);
        let common = if self.generation == NOTHING { 0 } else { self.known.len() };
        let common = common.min(self.body.len());
        self.way = Way { base: self.generation, at: 0, common, end: common, attempts: 0 };
        Ok(())
    }

    /// Makes the next request ready, which is called `generation`; true if it runs the list.
    pub(crate) fn prepare(&mut self, list: u32, generation: u64) -> bool {
        self.edits.clear();
        self.bytes.clear();
        let mut room = BODY_BYTES_MAX - FIXED_BYTES;
        let mut way = self.way;
        loop {
            way.at = self.difference(way.at);
            if way.at >= self.body.len() || room <= EDIT_BYTES {
                break;
            }
            let stop = self.sameness(way.at).min(way.at + room - EDIT_BYTES);
            let changed = self.body.get(way.at..stop).unwrap_or_default();
            self.edits.push(edit(short(way.at), short(changed.len())));
            self.bytes.extend_from_slice(changed);
            room -= EDIT_BYTES + changed.len();
            way.at = stop;
            way.end = way.end.max(stop);
        }
        let runs = way.at >= self.body.len();
        let flags = if runs { RUN } else { 0 };
        let length = short(way.end);
        self.head = ListHead { list, flags, base: way.base, next: generation, length };
        self.way = way;
        // Until the answer comes.
        self.generation = NOTHING;
        runs
    }

    /// The first byte from `at` on that is not known to be the same, at a word; the body's end if
    /// there is none.
    fn difference(&self, mut at: usize) -> usize {
        const STRIDE: usize = 16 * WORD;
        let same = |at: usize, bytes: usize| {
            at + bytes <= self.way.common
                && self.known.get(at..at + bytes) == self.body.get(at..at + bytes)
        };
        while same(at, STRIDE) {
            at += STRIDE;
        }
        while same(at, WORD) {
            at += WORD;
        }
        at.min(self.body.len())
    }

    /// Where what differs from `at` on ends: where enough is the same again to be worth an edit.
    fn sameness(&self, mut at: usize) -> usize {
        loop {
            at += WORD;
            if at >= self.way.common {
                return self.body.len();
            }
            let next = self.difference(at);
            if next - at > GAP_BYTES || next >= self.body.len() {
                return at.min(self.body.len());
            }
            at = next;
        }
    }

    /// Appends the request that is ready, as a whole message.
    ///
    /// # Errors
    /// It always fits.
    pub(crate) fn encode(&self, seq: u32, out: &mut Vec<u8>) -> Result<(), Violation> {
        let request = ExecbufList::new(self.head, &self.edits, &self.bytes);
        codec::encode_execbuf_list(seq, &request, out)
    }

    /// The request that was ready has been answered.
    pub(crate) fn answered<T>(&mut self, answer: &Result<T, Error>) -> Next {
        let refused = answer.as_ref().err().map(|error| error.refusal().map(|no| no.code));
        match refused {
            // What the daemon needed the room for, or another process changed.
            Some(Some(code)) if code == Reason::ExecListStale as u16 => {
                let attempts = self.way.attempts + 1;
                self.way = Way { attempts, ..Way::default() };
                if attempts < ATTEMPTS { Next::Send } else { Next::Over }
            }
            // The list was not changed, or what became of it nobody knows.
            Some(None) => Next::Over,
            Some(Some(code))
                if [Reason::ExecListRange, Reason::ExecListMemory, Reason::DaemonFds]
                    .iter()
                    .any(|reason| *reason as u16 == code) =>
            {
                Next::Over
            }
            // Sent, and, if it was run, perhaps refused: the list is what it is.
            None | Some(Some(_)) => {
                if self.head.runs() {
                    std::mem::swap(&mut self.known, &mut self.body);
                    self.generation = self.head.next;
                    return Next::Over;
                }
                self.way.base = self.head.next;
                Next::Send
            }
        }
    }
}

/// Lists are shorter.
fn short(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use gpu_broker_protocol::Header;
    use gpu_broker_protocol::execbuf::{ExecFence, ExecObject, Execbuf};
    use gpu_broker_protocol::refusal::{Refusal, RefusalBody};
    use proptest::prelude::*;

    use super::*;

    /// A daemon's list.
    #[derive(Default)]
    struct Kept {
        generation: u64,
        bytes: Vec<u8>,
        packets: usize,
        sent: usize,
    }

    fn refusal(reason: Reason) -> Error {
        let refusal = Refusal::new(reason).to_body();
        let RefusalBody { .. } = &refusal;
        Error::Refused(refusal)
    }

    impl Kept {
        fn receive(&mut self, slot: &Slot) -> Result<(), Error> {
            let mut packet = Vec::new();
            slot.encode(1, &mut packet).expect("it fits");
            self.packets += 1;
            self.sent += packet.len();
            let (_, body) = Header::split(&packet).expect("a header");
            let request = ExecbufList::decode(body).expect("it is one");
            if request.head.base != NOTHING && request.head.base != self.generation {
                return Err(refusal(Reason::ExecListStale));
            }
            let before = if request.head.base == NOTHING { 0 } else { self.bytes.len() };
            assert!(request.fits(before), "{before} bytes, {:?}", request.head);
            request.apply(&mut self.bytes);
            self.generation = request.head.next;
            Ok(())
        }

        /// Submits; answers packets and bytes it took.
        fn submit(
            &mut self,
            lists: &Lists<()>,
            slot: &mut Slot,
            objects: &[ExecObject],
        ) -> (usize, usize) {
            let fences = [ExecFence { handle: 7, flags: 1 }];
            let sent = ExecbufLists { objects, fences: &fences, ..ExecbufLists::default() };
            slot.fill(&ExecbufHead::default(), &sent).expect("short enough");
            (self.packets, self.sent) = (0, 0);
            loop {
                let runs = slot.prepare(0, lists.generation());
                let answer = self.receive(slot);
                let next = slot.answered(&answer);
                if next == Next::Over {
                    assert!(runs && answer.is_ok());
                    break;
                }
            }
            let execbuf = Execbuf::decode(&self.bytes).expect("a body");
            assert!(execbuf.objects().eq(objects.iter().copied()), "other objects arrived");
            assert_eq!(execbuf.fences().len(), 1);
            (self.packets, self.sent)
        }
    }

    fn objects(count: u32) -> Vec<ExecObject> {
        let object = |handle| ExecObject { handle, offset: 4096, ..ExecObject::default() };
        (1..=count).map(object).collect()
    }

    #[test]
    fn what_did_not_change_is_not_sent() {
        let (lists, mut slot, mut kept) =
            (Lists::<()>::default(), Slot::default(), Kept::default());
        let mut list = objects(8190);
        let (packets, bytes) = kept.submit(&lists, &mut slot, &list);
        assert_eq!((packets, bytes / 1000), (7, 393), "all of it");
        assert_eq!(kept.submit(&lists, &mut slot, &list), (1, 40), "nothing");
        list[4000].offset = 8192;
        assert_eq!(kept.submit(&lists, &mut slot, &list), (1, 40 + 8 + 8), "one word");
        list[8000].handle = 1 << 20;
        list[4000].offset = 4096;
        assert_eq!(kept.submit(&lists, &mut slot, &list), (1, 40 + 2 * 16), "two words");
        list.push(ExecObject { handle: 9000, ..ExecObject::default() });
        let (packets, bytes) = kept.submit(&lists, &mut slot, &list);
        assert!(packets == 1 && bytes < 200, "one more object: {bytes} bytes");
        list.truncate(10);
        let (packets, bytes) = kept.submit(&lists, &mut slot, &list);
        assert!(packets == 1 && bytes < 200, "cut: {bytes} bytes");
    }

    #[test]
    fn what_the_daemon_lost_is_sent_again() {
        let (lists, mut slot, mut kept) =
            (Lists::<()>::default(), Slot::default(), Kept::default());
        let list = objects(2000);
        let whole = kept.submit(&lists, &mut slot, &list);
        kept.generation = 1;
        let again = kept.submit(&lists, &mut slot, &list);
        assert_eq!(again, (whole.0 + 1, whole.1 + 40), "one request that was refused, and all");
        // Nobody knows whether a request without an answer arrived.
        slot.prepare(0, lists.generation());
        assert_eq!(kept.submit(&lists, &mut slot, &list), whole);
        // Between two parts of the whole.
        slot.generation = NOTHING;
        let sent = ExecbufLists { objects: &list, ..ExecbufLists::default() };
        slot.fill(&ExecbufHead::default(), &sent).expect("short enough");
        assert!(!slot.prepare(0, lists.generation()));
        let answer = kept.receive(&slot);
        assert_eq!(slot.answered(&answer), Next::Send);
        let mut refused = 0;
        loop {
            kept.generation = 1;
            slot.prepare(0, lists.generation());
            let answer = kept.receive(&slot);
            refused += u32::from(answer.is_err());
            if slot.answered(&answer) == Next::Over {
                break;
            }
        }
        assert_eq!(refused, ATTEMPTS, "a daemon that never keeps anything is given up");
    }

    #[test]
    fn a_submission_that_is_refused_was_received() {
        let (lists, mut slot, mut kept) =
            (Lists::<()>::default(), Slot::default(), Kept::default());
        let list = objects(1000);
        kept.submit(&lists, &mut slot, &list);
        for (reason, known) in [
            (Reason::ContextBanned, true),
            (Reason::UserptrInvalidated, true),
            (Reason::ExecListMemory, false),
            (Reason::ExecListRange, false),
            (Reason::DaemonFds, false),
        ] {
            slot.generation = 5;
            let sent = ExecbufLists { objects: &list, ..ExecbufLists::default() };
            slot.fill(&ExecbufHead::default(), &sent).expect("short enough");
            assert!(slot.prepare(0, 6));
            assert_eq!(slot.answered::<()>(&Err(refusal(reason))), Next::Over);
            assert_eq!(slot.generation, if known { 6 } else { NOTHING }, "{reason:?}");
        }
    }

    #[test]
    fn a_context_keeps_its_list_and_a_fifth_takes_the_oldest() {
        let lists = Lists::<()>::default();
        let of = |context| lists.slot(context).expect("there are some").0;
        let first: Vec<u32> = (0..4).map(of).collect();
        assert_eq!(first, [0, 1, 2, 3]);
        assert_eq!([of(0), of(2), of(1)], [0, 2, 1]);
        assert_eq!(of(9), 3, "unused for the longest time");
        assert_eq!([of(9), of(0), of(3)], [3, 0, 2]);
        let other = Lists::<()>::default();
        assert_ne!(lists.generation(), other.generation());
    }

    proptest! {
        #[test]
        fn any_list_after_any_other(
            lists in prop::collection::vec(
                prop::collection::vec((0..4_u32, any::<bool>(), 0..3_u64), 0..60), 1..6),
            lost in any::<u8>(),
        ) {
            let (all, mut slot, mut kept) =
                (Lists::<()>::default(), Slot::default(), Kept::default());
            for (round, list) in lists.iter().enumerate() {
                let objects: Vec<ExecObject> = list
                    .iter()
                    .map(|(handle, shifts, offset)| ExecObject {
                        handle: *handle,
                        relocation_count: u32::from(*shifts),
                        offset: *offset,
                        ..ExecObject::default()
                    })
                    .collect();
                if lost & (1 << round) != 0 {
                    kept.generation = 1;
                }
                kept.submit(&all, &mut slot, &objects);
            }
        }
    }
}
