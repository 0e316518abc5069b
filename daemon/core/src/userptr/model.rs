//! All interleavings of submissions and invalidations, run by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p gpu-broker-core --release --lib`.
//!
//! The memory has a generation, which is what its pages are; an invalidation makes the next one. What
//! a request uses is what was pinned for it, and must be the generation that is there when the device
//! gets it. An invalidation is acknowledged when no request in flight uses an older one, and from then
//! on none may.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use loom::sync::Arc;
use loom::thread;

use super::*;

/// What the session has of it: the pages and the lock that done, submit and invalidate share.
struct Model {
    pages: Pages,
    /// The notifier lock; guards nothing but the order of things.
    order: Mutex<()>,
    books: Books,
}

/// Plain atomics: loom runs one thread at a time, and these are the client's and the device's books,
/// not part of what is tested.
#[derive(Default)]
struct Books {
    /// The generation of the memory.
    now: AtomicU32,
    /// That of which the device has hold.
    pinned: AtomicU32,
    /// Requests in flight by the generation they use.
    in_flight: [AtomicU32; 4],
    /// Older ones may be used no more.
    acknowledged: AtomicU32,
}

impl Model {
    fn new() -> Arc<Self> {
        let (pages, order) = (Pages::new(), Mutex::new(()));
        Arc::new(Self { pages, order, books: Books::default() })
    }

    /// The way of one EXECBUF; false if it was told to try again.
    fn execbuf(&self) -> bool {
        let books = &self.books;
        let pin = || {
            // In two steps, so that a pin that is overtaken would be noticed.
            let found = books.now.load(Relaxed);
            thread::yield_now();
            books.pinned.store(found, Relaxed);
            Ok(())
        };
        let Ok(held) = self.pages.submit_init(pin) else { return false };
        let uses = {
            let _order = self.order.lock();
            if !self.pages.is_current() {
                return false;
            }
            let uses = books.pinned.load(Relaxed);
            assert_eq!(uses, books.now.load(Relaxed), "submitted with pages that were invalidated");
            books.in_flight[uses as usize].fetch_add(1, Relaxed);
            uses
        };
        drop(held);
        thread::yield_now();
        assert!(uses >= books.acknowledged.load(Relaxed), "acknowledged while a request runs");
        books.in_flight[uses as usize].fetch_sub(1, Relaxed);
        true
    }

    /// An INVALIDATE, acknowledged at once or never.
    fn invalidate(&self) {
        let books = &self.books;
        let generation = {
            let _order = self.order.lock();
            self.pages.invalidate();
            books.now.fetch_add(1, Relaxed) + 1
        };
        thread::yield_now();
        let older = books.in_flight.iter().take(generation as usize);
        if older.map(|requests| requests.load(Relaxed)).sum::<u32>() == 0 {
            books.acknowledged.fetch_max(generation, Relaxed);
        }
    }

    fn settle(&self) {
        assert!(self.execbuf(), "alone, a submission is never told to try again");
        assert!(self.books.in_flight.iter().all(|requests| requests.load(Relaxed) == 0));
    }
}

/// Runs these at once, then one more submission, which nothing disturbs.
fn run(submitters: usize, invalidators: usize) {
    loom::model(move || {
        let model = Model::new();
        let start = |work: fn(&Model)| {
            let model = Arc::clone(&model);
            thread::spawn(move || work(&model))
        };
        let mut threads = Vec::new();
        threads.extend((0..submitters).map(|_| start(|model| _ = model.execbuf())));
        threads.extend((1..invalidators).map(|_| start(Model::invalidate)));
        model.invalidate();
        for thread in threads {
            thread.join().unwrap();
        }
        model.settle();
    });
}

#[test]
fn one_submission_and_an_invalidation() {
    run(1, 1);
}

#[test]
fn two_submissions_and_an_invalidation() {
    run(2, 1);
}

#[test]
fn a_submission_and_two_invalidations() {
    run(1, 2);
}

/// Two submissions one after the other, against an invalidation that may come anywhere.
#[test]
fn submissions_in_a_row_and_an_invalidation() {
    loom::model(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        let submitter = thread::spawn(move || {
            let first = other.execbuf();
            let second = other.execbuf();
            // One invalidation disturbs one of them.
            assert!(first || second);
        });
        model.invalidate();
        submitter.join().unwrap();
        model.settle();
    });
}
