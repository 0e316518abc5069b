//! Answers that need no message: what programs poll, concluded from a page that the daemon keeps true.
//!
//! WIRE.md (*The shared status page*) has the rules and why they hold. Here is what they need beside the page:
//! which buffers this connection made and nobody else has, which submission named each last, and what was
//! answered before. Handles that are not among those buffers are asked about, so an errno is always the
//! daemon's; and so is everything once other processes use the session.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use gpu_broker_protocol::execbuf::ExecObject;
use gpu_broker_protocol::limits::BUFFERS_PER_SESSION_MAX;
use gpu_broker_protocol::message::{BufferWait, Busy, ResetStats, Waited};
use gpu_broker_protocol::shared_status::{flag, word};
use gpu_broker_protocol::version::feature;
use gpu_broker_protocol::{BufferId, ContextId, Reply, Request};

use crate::connection::Connection;
use crate::map::Words;
use crate::proto::Plain;

/// Questions before the page is asked for: who asks once is answered sooner without.
const ASKED_BEFORE: u32 = 2;

/// What a connection knows beside what the page says.
#[derive(Default)]
pub(crate) struct SharedStatus {
    /// EXECBUFs that were answered, and are noted.
    answered: AtomicU64,
    asked: AtomicU32,
    notes: RwLock<Notes>,
    resets: Mutex<HashMap<ContextId, Answered>>,
}

#[derive(Default)]
struct Notes {
    page: Option<Words>,
    /// Submissions before there was a page, which are noted nowhere.
    before: u64,
    /// By handle: [`UNKNOWN`], or one more than the last submission that named the buffer.
    buffers: Vec<AtomicU64>,
}

/// Not made here, or given away, or closed.
const UNKNOWN: u64 = 0;

/// An answer, and the word that was read before the question.
type Answered = (u64, ResetStats);

/// What is polled.
#[derive(Clone, Copy)]
enum Question {
    Busy(BufferId),
    Wait(BufferId, i64),
    Resets(ContextId),
}

/// What must be remembered of a request until it is answered.
pub(crate) enum Pending {
    Nothing,
    /// The word, read before.
    Resets(ContextId, u64),
}

/// The page at one moment; the fields are read in this order.
struct Moment {
    answered: u64,
    flags: u64,
    retired: u64,
    submitted: u64,
}

impl Moment {
    /// Everything that was submitted is over.
    const fn is_over(&self) -> bool {
        self.retired == self.submitted && self.answered <= self.submitted
    }

    /// Everything that was submitted is noted.
    const fn is_noted(&self) -> bool {
        self.answered == self.submitted
    }
}

impl Question {
    fn of<F>(request: &Request<F>) -> Option<Self> {
        if let Request::BufferBusy(of) = request {
            Some(Self::Busy(of.buffer))
        } else if let Request::BufferWait(BufferWait { buffer, flags: 0, timeout_ns }) = request {
            Some(Self::Wait(*buffer, *timeout_ns))
        } else if let Request::ContextResetStats(asked) = request
            && (asked.flags, asked.pad) == (0, 0)
        {
            Some(Self::Resets(asked.context))
        } else {
            None
        }
    }
}

impl Notes {
    fn note(&self, buffer: BufferId) -> Option<&AtomicU64> {
        self.buffers.get(buffer.0 as usize)
    }

    fn forget(&self, buffer: BufferId) {
        if let Some(note) = self.note(buffer) {
            note.store(UNKNOWN, Ordering::Relaxed);
        }
    }

    fn moment(&self, page: &Words, answered: u64) -> Moment {
        let flags = page.load(word::FLAGS);
        let retired = page.load(word::RETIRED);
        Moment { answered, flags, retired, submitted: page.load(word::SUBMITTED) }
    }
}

impl SharedStatus {
    fn notes(&self) -> RwLockReadGuard<'_, Notes> {
        // Nothing panics while it is written but the allocator, and then nothing has changed.
        self.notes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn resets(&self) -> MutexGuard<'_, HashMap<ContextId, Answered>> {
        self.resets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if it is known.
    fn answer(&self, question: Question) -> Option<Reply<OwnedFd>> {
        // First: whatever was noted by then counts.
        let answered = self.answered.load(Ordering::Acquire);
        let notes = self.notes();
        let page = notes.page.as_ref()?;
        let moment = notes.moment(page, answered);
        match question {
            Question::Busy(buffer) => {
                notes.is_idle(&moment, buffer).then_some(Reply::BufferBusy(Busy { busy: 0 }))
            }
            Question::Wait(buffer, timeout_ns) => notes
                .is_idle(&moment, buffer)
                .then_some(Reply::BufferWait(Waited { remaining_ns: timeout_ns })),
            Question::Resets(context) => {
                let counted = moment.flags & flag::RESETS != 0;
                let first = moment.flags & flag::RESETS_FIRST != 0;
                let settled = moment.is_over() || (first && moment.is_noted());
                let now = page.load(word::RESETS);
                let (then, stats) = *self.resets().get(&context)?;
                (counted && settled && then == now).then_some(Reply::ContextResetStats(stats))
            }
        }
    }

    /// A request is about to be sent.
    pub(crate) fn sends<F>(&self, request: &Request<F>) -> Pending {
        if let Request::BufferClose(of) = request {
            self.notes().forget(of.buffer);
        } else if let Request::BufferExport(export) = request {
            // Before others can have it.
            self.notes().forget(export.buffer);
        } else if let Request::BufferFenceImport(import) = request {
            // It may wait for what others do.
            self.notes().forget(import.buffer);
        } else if let Request::ContextDestroy(destroy) = request {
            self.resets().remove(&destroy.context);
        } else if let Request::ContextResetStats(asked) = request
            && let Some(page) = &self.notes().page
        {
            return Pending::Resets(asked.context, page.load(word::RESETS));
        }
        Pending::Nothing
    }

    /// It was answered.
    pub(crate) fn hears(&self, pending: &Pending, reply: &Reply<OwnedFd>) {
        if let Reply::BufferCreate(made) | Reply::UserptrCreate(made) = reply {
            self.made(made.buffer);
        } else if let Reply::ContextResetStats(stats) = reply
            && let Pending::Resets(context, before) = pending
        {
            self.resets().insert(*context, (*before, *stats));
        }
    }

    fn made(&self, buffer: BufferId) {
        if buffer.0 > BUFFERS_PER_SESSION_MAX {
            return;
        }
        let unused = UNKNOWN + 1;
        if let Some(note) = self.notes().note(buffer) {
            return note.store(unused, Ordering::Relaxed);
        }
        let mut notes = self.notes.write().unwrap_or_else(PoisonError::into_inner);
        let room = (buffer.0 as usize + 1).next_power_of_two().max(notes.buffers.len());
        notes.buffers.resize_with(room, AtomicU64::default);
        if let Some(note) = notes.note(buffer) {
            note.store(unused, Ordering::Relaxed);
        }
    }

    /// An EXECBUF of these was answered, and not refused.
    pub(crate) fn submitted(&self, objects: &[ExecObject]) {
        let notes = self.notes();
        if let Some(page) = &notes.page {
            // Its own number or a later one.
            let last = page.load(word::SUBMITTED).saturating_add(1);
            for object in objects {
                if let Some(note) = notes.note(BufferId(object.handle)) {
                    let later = |old| (old != UNKNOWN && old < last).then_some(last);
                    // What another thread has closed meanwhile stays unknown.
                    let _ = note.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
                }
            }
        }
        self.answered.fetch_add(1, Ordering::Release);
    }

    /// The page has come. Submissions whose answer was heard before are not noted, those whose answer
    /// is heard later are.
    fn keep(&self, page: Words) {
        let mut notes = self.notes.write().unwrap_or_else(PoisonError::into_inner);
        notes.before = page.load(word::SUBMITTED);
        notes.page = Some(page);
    }
}

impl Notes {
    fn is_idle(&self, moment: &Moment, buffer: BufferId) -> bool {
        let note = self.note(buffer).map_or(UNKNOWN, |note| note.load(Ordering::Relaxed));
        if note == UNKNOWN || moment.flags & flag::BUFFERS == 0 {
            return false;
        }
        let last = (note - 1).max(self.before);
        moment.is_over() || (moment.is_noted() && last <= moment.retired)
    }
}

impl Connection {
    /// The answer to a request, if it is known without asking. Not in a child of `fork`.
    pub(crate) fn known<F>(&self, request: &Request<F>) -> Option<Reply<OwnedFd>> {
        let question = Question::of(request)?;
        if self.hello().features & feature::SHARED_STATUS == 0 || self.is_shared() {
            return None;
        }
        let status = &self.shared().status;
        if status.asked.load(Ordering::Relaxed) < ASKED_BEFORE {
            // Whoever counts up to it asks, once; nobody does if the broker has no page to give.
            if status.asked.fetch_add(1, Ordering::Relaxed).saturating_add(1) == ASKED_BEFORE {
                self.ask_for_page();
            }
        }
        let answer = status.answer(question)?;
        // The page of a broker that is gone stays as it was.
        (!self.shared().has_ended()).then_some(answer)
    }

    fn ask_for_page(&self) {
        if let Ok(Reply::SharedStatus(shared)) = self.request(Plain::SharedStatus)
            && let Ok(page) = Words::map(&shared.fd)
        {
            self.shared().status.keep(page);
        }
    }
}
