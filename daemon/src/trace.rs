//! What the engines did lately, for administrators who trace. The device tells nothing, and nothing
//! is kept, unless one of them wants it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gpu_broker_core::id_of_tag;
use gpu_broker_device::{EngineId as DeviceEngine, TraceEvent, TraceWhat as Did};
use gpu_broker_protocol::SessionId;
use gpu_broker_protocol::admin::{AdminTracePage, TraceRecord, TraceWhat};
use gpu_broker_protocol::limits::{TRACE_RECORDS_MAX, TRACE_RECORDS_PER_READ_MAX};
use gpu_broker_protocol::param::EngineId;

use crate::clock::Clock;

/// Nanoseconds between two turns of a batch that nobody else had the engine in: the scheduler's own
/// time. Such turns are one record.
const GAP_NS: u64 = 100_000;

/// The last records, and who wants them.
#[derive(Debug, Default)]
pub(crate) struct TraceBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    wanted_by: BTreeSet<SessionId>,
    records: VecDeque<TraceRecord>,
    /// Number of the first record that is kept.
    first: u64,
    /// Number of the first record that nobody has read.
    unread: u64,
    /// The last record of each engine that says that a batch ran.
    running: HashMap<DeviceEngine, u64>,
}

impl TraceBook {
    /// A connection wants records, or does not any more. Answers whether anybody does.
    pub(crate) fn want(&self, session: SessionId, on: bool) -> bool {
        let mut book = self.book();
        if on {
            book.wanted_by.insert(session);
        } else {
            book.wanted_by.remove(&session);
        }
        let wanted = !book.wanted_by.is_empty();
        if !wanted {
            book.first = book.next();
            book.records = VecDeque::new();
            book.running = HashMap::new();
        }
        wanted
    }

    /// Whether a connection wanted records that goes now, and if so whether anybody else does.
    pub(crate) fn leave(&self, session: SessionId) -> Option<bool> {
        let wanted = self.book().wanted_by.contains(&session);
        wanted.then(|| self.want(session, false))
    }

    /// Number of the next record.
    pub(crate) fn next(&self) -> u64 {
        self.book().next()
    }

    pub(crate) fn record(&self, clock: Clock, session: SessionId, event: TraceEvent) {
        let TraceEvent { tag, submission, engine, at, what } = event;
        let at_ns = clock.at(at).0;
        let mut book = self.book();
        // Those that were under way when the last one lost interest.
        if book.wanted_by.is_empty() {
            return;
        }
        if let Did::Ran(time) = what {
            let ns = nanoseconds(time);
            if book.extend(engine, (session, submission), at_ns, ns) {
                return;
            }
            let next = book.next();
            book.running.insert(engine, next);
        }
        let DeviceEngine { class, instance } = engine;
        book.push(TraceRecord {
            at_ns,
            session,
            context: id_of_tag(tag),
            submission,
            engine: EngineId { class, instance },
            what: match what {
                Did::Queued => TraceWhat::Queued,
                Did::Ran(time) => TraceWhat::Ran { ns: nanoseconds(time) },
                Did::Done => TraceWhat::Done,
                Did::Cancelled => TraceWhat::Cancelled,
                Did::Died => TraceWhat::Died,
                Did::Replayed => TraceWhat::Replayed,
            },
        });
    }

    /// Records from a number on.
    pub(crate) fn read(&self, from: u64) -> AdminTracePage {
        let mut book = self.book();
        let first = from.clamp(book.first, book.next());
        let skip = usize::try_from(first.saturating_sub(book.first)).unwrap_or(usize::MAX);
        let records: Vec<_> =
            book.records.iter().skip(skip).take(TRACE_RECORDS_PER_READ_MAX).copied().collect();
        let read = first.saturating_add(records.len() as u64);
        book.unread = book.unread.max(read);
        AdminTracePage { first, records, more: read < book.next() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn next(&self) -> u64 {
        self.first.saturating_add(self.records.len() as u64)
    }

    fn push(&mut self, record: TraceRecord) {
        if self.records.len() >= TRACE_RECORDS_MAX {
            self.records.pop_front();
            self.first = self.first.saturating_add(1);
        }
        self.records.push_back(record);
    }

    /// Makes the last record of an engine longer, if the same batch goes on and nobody has read it.
    fn extend(
        &mut self,
        engine: DeviceEngine,
        batch: (SessionId, u64),
        at_ns: u64,
        ns: u64,
    ) -> bool {
        let Some(number) = self.running.get(&engine).copied() else { return false };
        if number < self.unread.max(self.first) {
            return false;
        }
        let place = usize::try_from(number.saturating_sub(self.first)).ok();
        let record = place.and_then(|place| self.records.get_mut(place));
        let Some(TraceRecord { at_ns: began, session, submission, what, .. }) = record else {
            return false;
        };
        let TraceWhat::Ran { ns: ran } = what else { return false };
        let gap = at_ns.saturating_sub(began.saturating_add(*ran));
        if (*session, *submission) != batch || gap > GAP_NS {
            return false;
        }
        *ran = at_ns.saturating_add(ns).saturating_sub(*began);
        true
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const ENGINE: DeviceEngine = DeviceEngine { class: 1, instance: 0 };

    fn ran(submission: u64, at: Instant, us: u64) -> TraceEvent {
        let what = Did::Ran(Duration::from_micros(us));
        TraceEvent { tag: 5, submission, engine: ENGINE, at, what }
    }

    #[test]
    fn turns_of_a_batch_are_one_record_until_it_is_read_or_another_runs() {
        let (book, clock, session) = (TraceBook::default(), Clock::start(), SessionId(1));
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        book.record(clock, session, ran(1, at(0), 10));
        assert_eq!(book.next(), 0, "nobody wants it");
        assert!(book.want(SessionId(9), true));
        book.record(clock, session, ran(1, at(0), 10));
        book.record(clock, session, ran(1, at(12), 10));
        book.record(clock, session, ran(2, at(30), 10));
        book.record(clock, session, ran(1, at(45), 5));
        let lengths = |page: &AdminTracePage| {
            let ns = |record: &TraceRecord| {
                if let TraceWhat::Ran { ns } = record.what { ns } else { 0 }
            };
            page.records.iter().map(ns).collect::<Vec<_>>()
        };
        let page = book.read(0);
        assert_eq!(lengths(&page), [22_000, 10_000, 5_000]);
        // What was read is not changed any more; after a pause it is another record in any case.
        book.record(clock, session, ran(1, at(52), 5));
        book.record(clock, session, ran(1, at(1000), 5));
        assert_eq!(lengths(&book.read(3)), [5_000, 5_000]);
        assert_eq!(book.leave(SessionId(8)), None);
        assert_eq!(book.leave(SessionId(9)), Some(false));
        assert_eq!((book.read(0).records.len(), book.next()), (0, 5), "numbers go on");
    }

    #[test]
    fn the_oldest_records_are_dropped_and_the_reader_can_tell() {
        let (book, clock) = (TraceBook::default(), Clock::start());
        book.want(SessionId(9), true);
        let at = Instant::now();
        for submission in 0..TRACE_RECORDS_MAX as u64 + 7 {
            let what = Did::Queued;
            let event = TraceEvent { tag: 5, submission, engine: ENGINE, at, what };
            book.record(clock, SessionId(1), event);
        }
        let page = book.read(0);
        assert_eq!((page.first, page.records.len()), (7, TRACE_RECORDS_PER_READ_MAX));
        assert!(page.more && page.records[0].submission == 7);
        assert!(!book.read(u64::MAX).more);
    }
}
