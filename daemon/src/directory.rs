//! Every connection of the daemon, for STATUS, for limits and for stopping them all.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use gpu_broker_core::hands::Outcome;
use gpu_broker_core::{InFlight, Session, Time};
use gpu_broker_device::{Device, DeviceEvent, EventSink, FaultReport, TraceEvent};
use gpu_broker_protocol::admin::{AdminEvent, AdminNews, kind};
use gpu_broker_protocol::message::Event;
use gpu_broker_protocol::{EpitaphCode, SessionId};

use crate::classes::{Class, count};
use crate::clock::Clock;
use crate::events::Events;
use crate::hands::{DeviceHands, HangSink, SessionLog, outcome_of};
use crate::hangs::{Culprit, HangBook};
use crate::identity::Identity;
use crate::limiter::session_warn;
use crate::lists::ListBook;
use crate::outbox::Outbox;
use crate::trace::TraceBook;

/// The rules' view of one session of this device.
pub(crate) type SessionOf<D> = Session<DeviceHands<<D as Device>::File>>;

/// One connection, as others than its own task reach it.
pub(crate) struct Entry<D: Device> {
    pub(crate) log: Arc<SessionLog>,
    pub(crate) identity: Arc<Identity>,
    books: Arc<Books<D>>,
    named: OnceLock<Named<D>>,
    mail: Mutex<Mail>,
    /// Whether there is mail; saves the task the lock.
    posted: AtomicBool,
    /// Events not sent; most sessions never have one.
    outbox: Mutex<Option<Box<Outbox>>>,
    /// Whether there are any.
    has_events: AtomicBool,
    /// What went wrong; nothing does in most sessions.
    tally: Mutex<Option<Box<Tally>>>,
}

/// Where what sessions do is written down.
pub(crate) struct Books<D: Device> {
    pub(crate) clock: Clock,
    pub(crate) hangs: HangBook,
    pub(crate) events: Events<D>,
    pub(crate) trace: TraceBook,
    pub(crate) lists: Arc<ListBook>,
}

impl<D: Device> Books<D> {
    pub(crate) fn new(clock: Clock) -> Self {
        let (hangs, events, trace) =
            (HangBook::default(), Events::new(clock), TraceBook::default());
        Self { clock, hangs, events, trace, lists: ListBook::new() }
    }
}

/// What went wrong in a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Refused requests by the name of the reason, of which there is a table.
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    pub(crate) hangs: u32,
}

/// What is known from HELLO on.
pub(crate) struct Named<D: Device> {
    pub(crate) client_name: Box<str>,
    pub(crate) since: Time,
    /// It wants HANG events.
    pub(crate) hang_events: bool,
    /// Weak, because the session's device file holds this entry as its event sink.
    pub(crate) session: Weak<SessionOf<D>>,
    /// For completions after the session has ended.
    pub(crate) in_flight: Arc<InFlight>,
}

/// A watch of the device that has fired.
#[derive(Clone, Copy)]
pub(crate) struct Fired {
    /// As given to the device.
    pub(crate) token: u64,
    /// Position of the syncobj that signalled first; 0 for a buffer.
    pub(crate) first: u32,
}

/// What others tell the connection's task.
#[derive(Default)]
pub(crate) struct Mail {
    /// The session must end, with this epitaph.
    pub(crate) end: Option<EpitaphCode>,
    /// Watches of the device that have fired.
    pub(crate) fired: Vec<Fired>,
    waker: Option<Waker>,
}

impl<D: Device> Entry<D> {
    pub(crate) fn id(&self) -> SessionId {
        self.log.session
    }

    pub(crate) fn named(&self) -> Option<&Named<D>> {
        self.named.get()
    }

    /// Records what HELLO settled; the first one counts.
    pub(crate) fn set_named(&self, named: Named<D>) {
        let _ = self.named.set(named);
    }

    /// Whom to wake when there is mail.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.mail().waker = Some(waker);
    }

    /// Takes the mail, if there is some.
    pub(crate) fn take_mail(&self) -> Option<(Option<EpitaphCode>, Vec<Fired>)> {
        if !self.posted.load(Ordering::Acquire) {
            return None;
        }
        let mut mail = self.mail();
        self.posted.store(false, Ordering::Relaxed);
        Some((mail.end, std::mem::take(&mut mail.fired)))
    }

    /// Ends the session with an epitaph, soon.
    pub(crate) fn end(&self, code: EpitaphCode) {
        self.post(|mail| mail.end = Some(code));
    }

    fn fired(&self, fired: Fired) {
        self.post(|mail| mail.fired.push(fired));
    }

    /// Puts an event into the outbox, for an administrator.
    pub(crate) fn tell_news(&self, event: AdminEvent) {
        self.tell(|outbox| outbox.push_news(event));
    }

    fn tell(&self, put: impl FnOnce(&mut Outbox)) {
        put(self.outbox().get_or_insert_default());
        self.has_events.store(true, Ordering::Release);
        self.post(|_| {});
    }

    /// Hands `send` the events that were not sent, until there are none or it answers false.
    pub(crate) fn send_events(&self, send: impl FnMut(Event) -> bool) {
        if !self.has_events.load(Ordering::Acquire) {
            return;
        }
        let mut outbox = self.outbox();
        let Some(events) = &mut *outbox else { return };
        if events.send(send) {
            self.has_events.store(false, Ordering::Relaxed);
            *outbox = None;
        }
    }

    /// One more refused request.
    pub(crate) fn refused(&self, reason: &'static str) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let count = tally.get_or_insert_default().refusals.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    /// What went wrong so far.
    pub(crate) fn tally(&self) -> Tally {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.as_deref().cloned().unwrap_or_default()
    }

    fn count_hang(&self) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = &mut tally.get_or_insert_default().hangs;
        *hangs = hangs.saturating_add(1);
    }

    fn outbox(&self) -> MutexGuard<'_, Option<Box<Outbox>>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, write: impl FnOnce(&mut Mail)) {
        let waker = {
            let mut mail = self.mail();
            write(&mut mail);
            self.posted.store(true, Ordering::Release);
            mail.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<D: Device> HangSink for Entry<D> {
    fn hung(&self, now: Time, report: FaultReport) {
        let named = self.named();
        let client_name = named.map_or_else(Box::default, |named| named.client_name.clone());
        let culprit = Culprit { session: self.id(), client_name, peer: self.identity.credentials };
        let event = self.books.hangs.record(now, culprit.clone(), report);
        count(&self.log.class.counts.hangs);
        self.count_hang();
        let (session, hang) = (self.id(), &event);
        self.books.events.tell(kind::HANGS, || AdminNews::Hang { session, hang: hang.clone() });
        session_warn!(
            self.log,
            now,
            "a batch died on engine {}:{} at {:#x}, {}: {} (hang {}, context {}, batch at {:#x}, \"{}\")",
            event.engine.class,
            event.engine.instance,
            event.address,
            event.command,
            event.what,
            event.hang,
            event.context,
            event.batch,
            culprit.client_name,
        );
        if named.is_some_and(|named| named.hang_events) {
            self.tell(|outbox| outbox.push_hang(event));
        }
    }
}

impl<D: Device> EventSink for Entry<D> {
    fn report(&self, event: DeviceEvent) {
        match event {
            DeviceEvent::Completed { tag, outcome } => {
                let now = self.books.clock.now();
                let outcome = outcome_of(self, now, outcome);
                let Some(named) = self.named.get() else { return };
                match named.session.upgrade() {
                    Some(session) => {
                        session.handle_completion(now, tag, outcome);
                        if outcome == Outcome::Guilty {
                            session.hands().resets_changed();
                        }
                    }
                    None => named.in_flight.release(),
                }
            }
            DeviceEvent::Replayed { tag } => {
                let session = self.named.get().and_then(|named| named.session.upgrade());
                if let Some(session) = session {
                    session.handle_replay(tag);
                    session.hands().resets_changed();
                }
                let session = self.id();
                self.books.events.tell(kind::HANGS, || AdminNews::Replayed { session });
            }
            DeviceEvent::BufferIdle { token } => self.fired(Fired { token, first: 0 }),
            DeviceEvent::BuffersIdle { token, lost } => {
                self.fired(Fired { token, first: lost.into() });
            }
            DeviceEvent::SyncobjsReady { token, first } => self.fired(Fired { token, first }),
        }
    }

    fn signalled(&self) {
        if let Some(session) = self.named().and_then(|named| named.session.upgrade()) {
            session.hands().signalled();
        }
    }

    fn trace(&self, event: TraceEvent) {
        self.books.trace.record(self.books.clock, self.id(), event);
    }
}

/// All connections.
pub(crate) struct Directory<D: Device> {
    entries: Mutex<BTreeMap<SessionId, Arc<Entry<D>>>>,
    places: Mutex<Places>,
    books: Arc<Books<D>>,
    opened: AtomicU64,
}

/// Connections that have been let in, those whose identity is not known yet included.
#[derive(Debug, Default)]
struct Places {
    all: u32,
    /// Users with none have no entry.
    by_uid: HashMap<u32, u32>,
}

/// Why a connection is turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Full {
    #[error("the daemon has as many sessions as it may (daemon.sessions)")]
    Sessions,
    #[error("that user has as many sessions as it may (daemon.sessions_per_uid)")]
    SessionsOfUser,
}

impl<D: Device> Directory<D> {
    pub(crate) fn new(books: Arc<Books<D>>) -> Self {
        let (entries, places, opened) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { entries, places, books, opened }
    }

    /// A place for a connection, unless there are `most` already, or `most_per_uid` of its user.
    /// To be given back by [`Self::give_place`].
    pub(crate) fn take_place(&self, uid: u32, most: u32, most_per_uid: u32) -> Result<(), Full> {
        let mut places = self.places();
        if places.all >= most {
            return Err(Full::Sessions);
        }
        let of_user = places.by_uid.get(&uid).copied().unwrap_or(0);
        if of_user >= most_per_uid {
            return Err(Full::SessionsOfUser);
        }
        places.all = places.all.saturating_add(1);
        places.by_uid.insert(uid, of_user.saturating_add(1));
        Ok(())
    }

    pub(crate) fn give_place(&self, uid: u32) {
        let mut places = self.places();
        places.all = places.all.saturating_sub(1);
        if let Some(of_user) = places.by_uid.get_mut(&uid) {
            *of_user = of_user.saturating_sub(1);
            if *of_user == 0 {
                places.by_uid.remove(&uid);
            }
        }
    }

    /// Takes a connection in that has a place.
    pub(crate) fn enter(&self, identity: Arc<Identity>, class: Arc<Class>) -> Arc<Entry<D>> {
        let session = SessionId(self.opened.fetch_add(1, Ordering::Relaxed).saturating_add(1));
        let log = SessionLog::new(session, class, Arc::clone(&identity));
        let entry = Arc::new(Entry {
            log: Arc::new(log),
            identity,
            books: Arc::clone(&self.books),
            named: OnceLock::new(),
            mail: Mutex::default(),
            posted: AtomicBool::new(false),
            outbox: Mutex::default(),
            has_events: AtomicBool::new(false),
            tally: Mutex::default(),
        });
        self.entries().insert(session, Arc::clone(&entry));
        entry
    }

    pub(crate) fn leave(&self, session: SessionId) {
        self.entries().remove(&session);
    }

    /// Connections now.
    pub(crate) fn len(&self) -> usize {
        self.places().all as usize
    }

    /// Connections ever.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// The connection with this number.
    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<Entry<D>>> {
        self.entries().get(&session).cloned()
    }

    /// The connections with a number above `after`, by number, as they are now.
    pub(crate) fn after(&self, after: SessionId) -> Vec<Arc<Entry<D>>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let entries = self.entries();
        entries.range((Excluded(after), Unbounded)).map(|(_, entry)| Arc::clone(entry)).collect()
    }

    /// Ends every session.
    pub(crate) fn end_all(&self, code: EpitaphCode) {
        for entry in self.after(SessionId(0)) {
            entry.end(code);
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<Entry<D>>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
