//! All interleavings of the dance, run by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p gpu-broker-core --release --lib`.
//!
//! Protos and live contexts count themselves, so each model also shows that nothing leaks and
//! nothing is made twice.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use loom::thread;

use super::*;

/// What exists now, and how many live contexts were ever made. Plain atomics: loom runs one thread
/// at a time, and these are the test's books, not part of what is tested.
#[derive(Default)]
struct Books {
    protos: AtomicU32,
    lives: AtomicU32,
    made: AtomicU32,
}

type Shared = std::sync::Arc<Books>;

struct Proto {
    books: Shared,
    parameter: u32,
}

struct Live {
    books: Shared,
    parameter: loom::sync::atomic::AtomicU32,
}

impl Drop for Proto {
    fn drop(&mut self) {
        self.books.protos.fetch_sub(1, Relaxed);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.books.lives.fetch_sub(1, Relaxed);
    }
}

#[derive(Clone)]
struct Model {
    books: Shared,
    dance: std::sync::Arc<Dance<Proto, Live>>,
}

const FIRST: ContextId = ContextId(1);

impl Model {
    fn new() -> Self {
        let live = std::sync::Arc::new(LiveTable::new());
        let dance = std::sync::Arc::new(Dance::new(SessionId(1), live, 10));
        Self { books: Shared::default(), dance }
    }

    /// A proto with this parameter.
    fn create(&self, parameter: u32) -> ContextId {
        self.books.protos.fetch_add(1, Relaxed);
        self.dance.insert(Proto { books: self.books.clone(), parameter }).unwrap()
    }

    fn lookup(&self, id: ContextId) -> Result<Found<Live>, Refusal> {
        self.dance.lookup(id, |proto| {
            self.books.lives.fetch_add(1, Relaxed);
            self.books.made.fetch_add(1, Relaxed);
            let parameter = loom::sync::atomic::AtomicU32::new(proto.parameter);
            Ok(Live { books: self.books.clone(), parameter })
        })
    }

    fn set(&self, id: ContextId, parameter: u32) -> Result<(), Refusal> {
        let set = |proto: &mut Proto| {
            proto.parameter = parameter;
            Ok(())
        };
        self.dance.with(id, set, |live| {
            live.parameter.store(parameter, Relaxed);
            Ok(())
        })
    }

    /// Under the lock every id is in exactly one table; gives the ids.
    fn observe(&self) -> Vec<u32> {
        let protos = self.dance.protos.lock();
        let (seen, total) = self.dance.list(&protos, 10, |id, seen| {
            let published = self.dance.live(id).is_some();
            match seen {
                Seen::Proto(_) => assert!(!published, "{id} is in both tables"),
                Seen::Live(_) => assert!(published),
            }
            id.0
        });
        assert_eq!(seen.len(), total as usize, "an id is in neither table");
        seen
    }

    /// Everything is released, and `made` live contexts were made.
    fn settle(self, made: std::ops::RangeInclusive<u32>) {
        drop(self.dance.close());
        assert_eq!(self.books.protos.load(Relaxed), 0, "a proto leaked");
        assert_eq!(self.books.lives.load(Relaxed), 0, "a live context leaked");
        let count = self.books.made.load(Relaxed);
        assert!(made.contains(&count), "{count} live contexts were made");
    }
}

fn spawn<T: 'static>(model: &Model, f: impl FnOnce(Model) -> T + 'static) -> thread::JoinHandle<T> {
    let model = model.clone();
    thread::spawn(move || f(model))
}

#[test]
fn two_lookups_make_one_context() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let other = spawn(&model, |model| model.lookup(FIRST).unwrap());
        let mine = model.lookup(FIRST).unwrap();
        let other = other.join().unwrap();
        assert!(Arc::ptr_eq(&mine.live, &other.live));
        assert!(mine.materialised != other.materialised, "exactly one of them made it");
        assert_eq!(model.books.protos.load(Relaxed), 0);
        drop((mine, other));
        model.settle(1..=1);
    });
}

#[test]
fn an_observer_finds_the_id_in_exactly_one_table() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let looker = spawn(&model, |model| drop(model.lookup(FIRST).unwrap()));
        assert_eq!(model.observe(), [1]);
        looker.join().unwrap();
        assert_eq!(model.observe(), [1]);
        model.settle(1..=1);
    });
}

#[test]
fn lookup_and_destroy() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let looker = spawn(&model, |model| {
            // Held beyond the destroy: the final put is here then.
            model.lookup(FIRST).map(|found| found.live.parameter.load(Relaxed))
        });
        let removed = model.dance.remove(FIRST).unwrap();
        assert_eq!(model.observe(), [0_u32; 0]);
        drop(removed);
        match looker.join().unwrap() {
            Ok(parameter) => assert_eq!(parameter, 7),
            Err(refusal) => assert_eq!(refusal.reason, Reason::NoSuchContext),
        }
        assert!(model.lookup(FIRST).is_err(), "it came back");
        model.settle(0..=1);
    });
}

#[test]
fn what_is_set_while_it_materialises_is_not_lost() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let setter = spawn(&model, |model| model.set(FIRST, 8).unwrap());
        let found = model.lookup(FIRST).unwrap();
        setter.join().unwrap();
        assert_eq!(found.live.parameter.load(Relaxed), 8);
        drop(found);
        model.settle(1..=1);
    });
}

#[test]
fn set_and_destroy() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let setter = spawn(&model, |model| model.set(FIRST, 8));
        match model.dance.remove(FIRST).unwrap() {
            Removed::Proto(proto) => assert!(proto.parameter == 7 || proto.parameter == 8),
            Removed::Live(_) => panic!("setting made it live"),
        }
        if let Err(refusal) = setter.join().unwrap() {
            assert_eq!(refusal.reason, Reason::NoSuchContext);
        }
        assert_eq!(model.observe(), [0_u32; 0]);
        assert!(model.set(FIRST, 9).is_err(), "it came back");
        model.settle(0..=0);
    });
}

#[test]
fn set_and_destroy_of_a_live_context() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let held = model.lookup(FIRST).unwrap().live;
        let setter = spawn(&model, |model| model.set(FIRST, 8));
        drop(model.dance.remove(FIRST).unwrap());
        match setter.join().unwrap() {
            Ok(()) => assert_eq!(held.parameter.load(Relaxed), 8, "what was set is lost"),
            Err(refusal) => {
                assert_eq!(refusal.reason, Reason::NoSuchContext);
                assert_eq!(held.parameter.load(Relaxed), 7);
            }
        }
        drop(held);
        model.settle(1..=1);
    });
}

#[test]
fn an_id_that_is_used_again_never_names_the_old_context() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let recreator = spawn(&model, |model| {
            drop(model.dance.remove(FIRST).unwrap());
            assert_eq!(model.create(9), FIRST);
        });
        let found = model.lookup(FIRST).map(|found| found.live.parameter.load(Relaxed));
        if let Ok(parameter) = found {
            assert!(parameter == 7 || parameter == 9);
        }
        recreator.join().unwrap();
        assert_eq!(model.observe(), [1]);
        let now = model.lookup(FIRST).unwrap();
        assert_eq!(now.live.parameter.load(Relaxed), 9, "the old context came back");
        drop(now);
        model.settle(1..=2);
    });
}

#[test]
fn a_new_context_is_never_the_one_that_is_being_destroyed() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        drop(model.lookup(FIRST).unwrap());
        let destroyer = spawn(&model, |model| drop(model.dance.remove(FIRST).unwrap()));
        let created = model.create(9);
        let found = model.lookup(created).unwrap();
        assert_eq!(found.live.parameter.load(Relaxed), 9, "the id still named the old context");
        destroyer.join().unwrap();
        assert_eq!(model.observe(), [created.0]);
        drop(found);
        model.settle(2..=2);
    });
}

#[test]
fn two_destroys_and_a_create() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        drop(model.lookup(FIRST).unwrap());
        let destroyer = spawn(&model, |model| model.dance.remove(FIRST).is_ok());
        let created = model.create(9);
        let destroyed = model.dance.remove(FIRST).is_ok();
        let destroyed = u32::from(destroyed) + u32::from(destroyer.join().unwrap());
        // The new one has id 2 if it came before the destroys, id 1 if it came between them.
        let left = model.observe();
        match (created, destroyed) {
            (ContextId(1), 2) => assert_eq!(left, [0_u32; 0]),
            (ContextId(1), 1) => assert_eq!(left, [1]),
            (ContextId(2), 1) => assert_eq!(left, [2]),
            other => panic!("{other:?}"),
        }
        model.settle(1..=1);
    });
}

#[test]
fn a_failed_materialisation_leaves_the_proto_to_the_next() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let failing = spawn(&model, |model| {
            let failed = model.dance.lookup(FIRST, |_| Err(Reason::OutOfMemory.into()));
            failed.map(|found| found.materialised)
        });
        let found = model.lookup(FIRST).unwrap();
        match failing.join().unwrap() {
            Ok(materialised) => assert!(!materialised),
            Err(refusal) => assert_eq!(refusal.reason, Reason::OutOfMemory),
        }
        assert!(found.materialised);
        drop(found);
        model.settle(1..=1);
    });
}

#[test]
fn lookup_and_the_end_of_the_session() {
    loom::model(|| {
        let model = Model::new();
        model.create(7);
        let looker = spawn(&model, |model| drop(model.lookup(FIRST)));
        drop(model.dance.close());
        assert!(model.dance.insert_live(|_| panic!("made in a closed session")).is_err());
        looker.join().unwrap();
        assert!(model.dance.live(FIRST).is_none());
        model.settle(0..=1);
    });
}
