//! Lists of EXECBUF_LIST: what is kept of long submissions, so that only what changes is sent.
//!
//! A list may be dropped at any time: its client is told at its next use, and sends it again. So
//! their memory is bounded without anybody being refused: when all lists together reach the limit,
//! the user who has most loses those of the session that used them longest ago.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use gpu_broker_core::Time;
use gpu_broker_device::Device;
use gpu_broker_protocol::execbuf::Execbuf;
use gpu_broker_protocol::execlist::{ExecbufList, NOTHING};
use gpu_broker_protocol::limits::{
    BODY_BYTES_MAX, EXECBUF_LISTS_BYTES_MAX, EXECBUF_LISTS_PER_SESSION_MAX,
};
use gpu_broker_protocol::message::ExecbufReply;
use gpu_broker_protocol::{Header, Opcode, Reason, Refusal, Violation};

use crate::directory::Entry;
use crate::packet::Fds;
use crate::requests::{Fault, Open};
use crate::server::Server;

/// Long submissions at once, on a device whose calls do not wait. They take a processor's time, which
/// the reactor must not run short of.
pub(crate) const LONG_AT_ONCE: usize = 1;

/// Whether a request submits more than fits in a message: too long for the reactor.
pub(crate) fn is_long(header: Header, body: &[u8]) -> bool {
    header.opcode == Opcode::ExecbufList as u16
        && ExecbufList::length_run(body).is_some_and(|length| length > BODY_BYTES_MAX)
}

/// The lists of all sessions.
#[derive(Debug)]
pub(crate) struct ListBook {
    most: usize,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// Bytes of all lists.
    bytes: usize,
    /// Sessions that have had a list, by number.
    shelves: HashMap<u64, Weak<Shelf>>,
    next: u64,
}

/// The lists of one session.
#[derive(Debug)]
pub(crate) struct Shelf {
    book: Arc<ListBook>,
    number: u64,
    uid: u32,
    lists: Mutex<[List; EXECBUF_LISTS_PER_SESSION_MAX]>,
    /// Bytes of them. Changed with the book locked.
    bytes: AtomicUsize,
    /// When they were used last, by the book's count.
    used: AtomicU64,
}

#[derive(Debug, Default)]
struct List {
    generation: u64,
    bytes: Vec<u8>,
}

/// A list that was changed, and is not while this is held.
struct Kept<'a> {
    lists: MutexGuard<'a, [List; EXECBUF_LISTS_PER_SESSION_MAX]>,
    list: usize,
}

impl Kept<'_> {
    fn bytes(&self) -> &[u8] {
        self.lists.get(self.list).map_or(&[], |list| &list.bytes)
    }
}

/// Users and the sessions that may lose their lists, those used longest ago last.
#[derive(Default)]
struct User {
    bytes: usize,
    shelves: Vec<Arc<Shelf>>,
}

impl ListBook {
    pub(crate) fn new() -> Arc<Self> {
        Self::of(EXECBUF_LISTS_BYTES_MAX)
    }

    fn of(most: usize) -> Arc<Self> {
        Arc::new(Self { most, book: Mutex::default() })
    }

    /// Where a session of this user can put lists.
    fn shelf(self: &Arc<Self>, uid: u32) -> Arc<Shelf> {
        let mut book = self.lock();
        book.next += 1;
        let number = book.next;
        let shelf = Arc::new(Shelf {
            book: Arc::clone(self),
            number,
            uid,
            lists: Mutex::default(),
            bytes: AtomicUsize::new(0),
            used: AtomicU64::new(number),
        });
        book.shelves.insert(number, Arc::downgrade(&shelf));
        shelf
    }

    /// Counts `more` bytes of `shelf`, whose lists are locked by the caller.
    ///
    /// # Errors
    /// ENOMEM when all others are in use at this moment, which takes very many at once.
    fn charge(&self, shelf: &Shelf, more: usize) -> Result<(), Refusal> {
        // Both are let go of when the book is unlocked: a session that has ended meanwhile locks it.
        let mut users: HashMap<u32, User> = HashMap::new();
        let mut gone = Vec::new();
        let mut book = self.lock();
        book.next += 1;
        shelf.used.store(book.next, Ordering::Relaxed);
        if book.bytes.saturating_add(more) > self.most {
            book.sort_into(&mut users, shelf);
            // Somewhat more than is needed, so that not every packet has to look for room.
            let most = self.most - self.most / 16;
            while book.bytes.saturating_add(more) > most {
                let biggest = users.values_mut().filter(|user| !user.shelves.is_empty());
                let Some(user) = biggest.max_by_key(|user| user.bytes) else { break };
                if let Some(victim) = user.shelves.pop() {
                    let freed = victim.clear();
                    user.bytes = user.bytes.saturating_sub(freed);
                    book.bytes = book.bytes.saturating_sub(freed);
                    gone.push(victim);
                }
            }
            if book.bytes.saturating_add(more) > self.most {
                return Err(Reason::ExecListMemory.into());
            }
        }
        book.bytes = book.bytes.saturating_add(more);
        shelf.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, shelf: &Shelf, bytes: usize) {
        let mut book = self.lock();
        book.bytes = book.bytes.saturating_sub(bytes);
        shelf.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn sort_into(&self, users: &mut HashMap<u32, User>, own: &Shelf) {
        for shelf in self.shelves.values().filter_map(Weak::upgrade) {
            let user = users.entry(shelf.uid).or_default();
            let bytes = shelf.bytes.load(Ordering::Relaxed);
            user.bytes = user.bytes.saturating_add(bytes);
            if shelf.number != own.number && bytes > 0 {
                user.shelves.push(shelf);
            }
        }
        for user in users.values_mut() {
            let used = |shelf: &Arc<Shelf>| shelf.used.load(Ordering::Relaxed);
            user.shelves.sort_unstable_by_key(|shelf| std::cmp::Reverse(used(shelf)));
        }
    }
}

impl Shelf {
    /// Changes a list.
    ///
    /// # Errors
    /// EINVAL when there is no such list or it cannot be changed like this, EAGAIN when it is not of
    /// the request's base; ENOMEM. It stays as it was.
    fn change(&self, request: &ExecbufList<'_>) -> Result<Kept<'_>, Refusal> {
        let head = &request.head;
        let number = head.list as usize;
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(list) = lists.get_mut(number) else {
            return Err(Refusal::new(Reason::ExecListRange).with_detail(format!("list {number}")));
        };
        let anew = head.base == NOTHING;
        if !anew && list.generation != head.base {
            return Err(Reason::ExecListStale.into());
        }
        if !request.fits(if anew { 0 } else { list.bytes.len() }) {
            let detail = format!("{} bytes become {}", list.bytes.len(), head.length);
            return Err(Refusal::new(Reason::ExecListRange).with_detail(detail));
        }
        let (length, before) = (head.length as usize, list.bytes.capacity());
        self.book.charge(self, length.saturating_sub(before))?;
        list.bytes.reserve_exact(length.saturating_sub(list.bytes.len()));
        request.apply(&mut list.bytes);
        list.generation = head.next;
        // Far more than it needs now.
        if list.bytes.capacity() / 4 > length {
            list.bytes.shrink_to_fit();
        }
        self.book.give_back(self, before.max(length).saturating_sub(list.bytes.capacity()));
        Ok(Kept { lists, list: number })
    }

    /// Drops the lists, unless they are in use; answers their bytes. With the book locked.
    fn clear(&self) -> usize {
        let mut lists = match self.lists.try_lock() {
            Ok(lists) => lists,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return 0,
        };
        *lists = Default::default();
        self.bytes.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let mut book = self.book.lock();
        book.shelves.remove(&self.number);
        book.bytes = book.bytes.saturating_sub(*self.bytes.get_mut());
    }
}

impl<D: Device> Open<D> {
    /// EXECBUF_LIST.
    ///
    /// # Errors
    /// As [`Shelf::change`], and those of EXECBUF.
    pub(crate) fn execbuf_list(
        &mut self,
        server: &Server<D>,
        entry: &Entry<D>,
        now: Time,
        body: &[u8],
        fds: &mut Fds,
    ) -> Result<ExecbufReply<OwnedFd>, Fault> {
        let request = ExecbufList::decode(body)?;
        let uid = entry.identity.credentials.uid;
        let shelf = self.lists.get_or_insert_with(|| server.books.lists.shelf(uid));
        let shelf = Arc::clone(shelf);
        let kept = shelf.change(&request)?;
        if !request.head.runs() {
            if !fds.is_empty() {
                return Err(Violation::FdCount.into());
            }
            return Ok(ExecbufReply { offsets: Vec::new(), fence: None });
        }
        let execbuf = Execbuf::decode(kept.bytes())?;
        if fds.len() != execbuf.fd_count() {
            return Err(Violation::FdCount.into());
        }
        Ok(self.execbuf(now, &execbuf, fds)?)
    }
}

#[cfg(test)]
mod tests {
    use gpu_broker_protocol::execlist::{ListHead, edit};

    use super::*;

    /// Puts so many bytes, all of one value, in place of a list; answers the generation.
    fn put(shelf: &Shelf, list: u32, length: usize, value: u8) -> Result<(), Refusal> {
        let next = u64::from(value);
        send(shelf, list, (NOTHING, next), length, &[(0, &vec![value; length])])
    }

    fn send(
        shelf: &Shelf,
        list: u32,
        (base, next): (u64, u64),
        length: usize,
        edits: &[(u32, &[u8])],
    ) -> Result<(), Refusal> {
        let length = u32::try_from(length).expect("short");
        let encoded: Vec<_> = edits
            .iter()
            .map(|(offset, bytes)| edit(*offset, u32::try_from(bytes.len()).expect("short")))
            .collect();
        let bytes: Vec<u8> = edits.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        let head = ListHead { list, flags: 0, base, next, length };
        shelf.change(&ExecbufList::new(head, &encoded, &bytes)).map(drop)
    }

    fn reason(result: Result<(), Refusal>) -> Option<Reason> {
        result.err().map(|refusal| refusal.reason)
    }

    fn content(shelf: &Shelf, list: usize) -> Vec<u8> {
        shelf.lists.lock().expect("no panic")[list].bytes.clone()
    }

    /// What the book counts is what there is.
    fn check(book: &ListBook, shelves: &[&Shelf]) {
        let held = |shelf: &Shelf| {
            let lists = shelf.lists.lock().expect("no panic");
            let bytes = lists.iter().map(|list| list.bytes.capacity()).sum::<usize>();
            assert_eq!(shelf.bytes.load(Ordering::Relaxed), bytes);
            bytes
        };
        let sum = shelves.iter().map(|shelf| held(shelf)).sum::<usize>();
        assert_eq!(book.lock().bytes, sum);
        assert!(sum <= book.most, "{sum} of {}", book.most);
    }

    #[test]
    fn a_refused_change_leaves_the_list_as_it_was() {
        let book = ListBook::of(1 << 20);
        let shelf = book.shelf(1000);
        put(&shelf, 1, 10, 7).expect("room");
        for (list, base, length, edits, expected) in [
            (1, 6, 10, vec![(0, &[1][..])], Reason::ExecListStale),
            (0, 7, 10, vec![(0, &[1][..])], Reason::ExecListStale),
            (4, NOTHING, 1, vec![(0, &[1][..])], Reason::ExecListRange),
            (1, 7, 10, vec![(10, &[1][..])], Reason::ExecListRange),
            (1, 7, 12, vec![(11, &[1][..])], Reason::ExecListRange),
            (1, 7, 10, vec![(u32::MAX, &[1][..])], Reason::ExecListRange),
            (1, 7, 11, vec![], Reason::ExecListRange),
            (1, NOTHING, 3, vec![(0, &[1, 2][..])], Reason::ExecListRange),
        ] {
            let result = send(&shelf, list, (base, 8), length, &edits);
            assert_eq!(reason(result), Some(expected), "{list} {base} {length} {edits:?}");
            assert_eq!(content(&shelf, 1), [7; 10]);
        }
        send(&shelf, 1, (7, 8), 4, &[(1, &[9]), (3, &[9])]).expect("it is of that base");
        assert_eq!(content(&shelf, 1), [7, 9, 7, 9]);
        assert_eq!(reason(send(&shelf, 1, (7, 9), 4, &[])), Some(Reason::ExecListStale), "once");
        check(&book, &[&shelf]);
    }

    #[test]
    fn the_user_who_has_most_loses_what_was_used_longest_ago() {
        let book = ListBook::of(16 * 100);
        let modest = book.shelf(1);
        put(&modest, 0, 300, 1).expect("room");
        let greedy: Vec<_> = (0..4).map(|_| book.shelf(2)).collect();
        for shelf in &greedy {
            put(shelf, 0, 300, 1).expect("room");
        }
        // The first is used again, so the second is the oldest.
        send(&greedy[0], 0, (1, 2), 300, &[]).expect("it is there");
        put(&book.shelf(3), 0, 300, 1).expect("room is made");
        let there = |shelf: &Shelf| !content(shelf, 0).is_empty();
        assert!(there(&modest), "who has little keeps it");
        assert_eq!([0, 1, 2, 3].map(|at| there(&greedy[at])), [true, false, true, true]);
        let stale = send(&greedy[1], 0, (1, 2), 300, &[]);
        assert_eq!(reason(stale), Some(Reason::ExecListStale), "and its client is told");
        let shelves: Vec<&Shelf> = greedy.iter().chain([&modest]).map(|shelf| &**shelf).collect();
        check(&book, &shelves);
    }

    #[test]
    fn lists_that_are_in_use_stay_and_what_finds_no_room_is_refused() {
        let book = ListBook::of(1000);
        let (busy, other) = (book.shelf(1), book.shelf(1));
        put(&busy, 0, 600, 1).expect("room");
        let in_use = busy.lists.lock().expect("no panic");
        assert_eq!(reason(put(&other, 0, 600, 1)), Some(Reason::ExecListMemory));
        drop(in_use);
        put(&other, 0, 600, 1).expect("the other is free to go");
        check(&book, &[&busy, &other]);
    }

    #[test]
    fn memory_is_given_back_by_lists_that_shrink_and_sessions_that_end() {
        let book = ListBook::of(1 << 20);
        let shelf = book.shelf(1);
        for list in 0..4 {
            put(&shelf, list, 1000, 1).expect("room");
        }
        assert_eq!(book.lock().bytes, 4000);
        put(&shelf, 0, 10, 2).expect("room");
        send(&shelf, 1, (1, 2), 0, &[]).expect("room");
        assert_eq!(book.lock().bytes, 2010);
        check(&book, &[&shelf]);
        drop(shelf);
        let book = book.lock();
        assert_eq!((book.bytes, book.shelves.len()), (0, 0));
    }
}
