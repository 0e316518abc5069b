//! Who among the administrators is told of what happens. While nobody asks, a relaxed load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gpu_broker_device::Device;
use gpu_broker_protocol::SessionId;
use gpu_broker_protocol::admin::{AdminEvent, AdminNews, kind};

use crate::clock::Clock;
use crate::directory::Entry;

/// All who asked. They are connections of administrators, so there are few.
pub(crate) struct Events<D: Device> {
    clock: Clock,
    /// Kinds that anybody asked for.
    wanted: AtomicU64,
    readers: Mutex<Vec<Reader<D>>>,
}

struct Reader<D: Device> {
    session: SessionId,
    entry: Weak<Entry<D>>,
    kinds: u64,
}

impl<D: Device> Events<D> {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, wanted: AtomicU64::new(0), readers: Mutex::default() }
    }

    /// Tells those who asked for this kind of event; `news` is called if there are any.
    pub(crate) fn tell(&self, kind: u64, news: impl FnOnce() -> AdminNews) {
        if self.wanted.load(Ordering::Relaxed) & kind == 0 {
            return;
        }
        let what = news();
        debug_assert_eq!(what.kind(), kind);
        let event = AdminEvent { at_ns: self.clock.now().0, lost: 0, what };
        for reader in self.readers().iter().filter(|reader| reader.kinds & kind != 0) {
            if let Some(entry) = reader.entry.upgrade() {
                entry.tell_news(event.clone());
            }
        }
    }

    /// Tells `entry` these kinds from now on, and no others.
    pub(crate) fn subscribe(&self, entry: &Arc<Entry<D>>, kinds: u64) {
        let session = entry.id();
        let mut readers = self.readers();
        readers.retain(|reader| reader.session != session);
        let kinds = kinds & kind::ALL;
        if kinds != 0 {
            readers.push(Reader { session, entry: Arc::downgrade(entry), kinds });
        }
        self.note(&readers);
    }

    /// The connection is gone.
    pub(crate) fn leave(&self, session: SessionId) {
        if self.wanted.load(Ordering::Relaxed) != 0 {
            let mut readers = self.readers();
            readers.retain(|reader| reader.session != session);
            self.note(&readers);
        }
    }

    fn note(&self, readers: &[Reader<D>]) {
        let wanted = readers.iter().fold(0, |all, reader| all | reader.kinds);
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    fn readers(&self) -> MutexGuard<'_, Vec<Reader<D>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
