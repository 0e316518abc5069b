//! Who hung the GPU: the last hangs, what they left, and the events that tell their owners.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_core::{Time, id_of_tag};
use gpu_broker_device::{self as device, Capture, FaultKind, FaultReport, RegionKind};
use gpu_broker_protocol::hang::{
    Dump, DumpCommand, DumpRegion, DumpRegionKind, HangBytes, HangCause, HangDump, HangEvent,
    HangOf, HangPage, HangQuery, HangRead, HangRecord, Register,
};
use gpu_broker_protocol::limits::{
    HANG_DUMP_BYTES_MAX, HANG_DUMP_BYTES_PER_SESSION_MAX, HANG_DUMPS_PER_SESSION_MAX,
    HANG_READ_BYTES_MAX, HANGS_MAX, HANGS_PER_SESSION_MAX,
};
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::{Reason, Refusal, SessionId};

use crate::identity::{Credentials, Identity};

/// Hangs of one page of HANG_LIST: far less than fits in a message.
const HANGS_PER_PAGE_MAX: usize = 64;

/// Characters of the sentence that says what was wrong.
const WHAT_CHARS_MAX: usize = 200;

/// Whose a hang is.
#[derive(Clone, Debug)]
pub(crate) struct Culprit {
    pub(crate) session: SessionId,
    pub(crate) client_name: Box<str>,
    pub(crate) peer: Credentials,
}

/// Who asks for hangs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Viewer {
    credentials: Credentials,
    /// Came in by the administrators' socket.
    admin: bool,
}

impl Viewer {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self { credentials: identity.credentials, admin: identity.origin.admin }
    }

    fn may_see(self, hang: &Hang) -> bool {
        self.admin || self.credentials.may_see(hang.culprit.peer)
    }
}

/// The last hangs of all sessions, also of those that are gone. Nobody can fill it at the cost of
/// other users: what has to go is the oldest of whoever has most.
#[derive(Debug, Default)]
pub(crate) struct HangBook {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    last: u64,
    /// By number.
    hangs: VecDeque<Hang>,
}

#[derive(Debug)]
struct Hang {
    culprit: Culprit,
    at: Time,
    event: HangEvent,
    dump: Option<Arc<Capture>>,
}

impl Hang {
    fn dump_bytes(&self) -> usize {
        let regions = self.dump.iter().flat_map(|dump| &dump.regions);
        regions.map(|region| region.bytes.len()).sum()
    }

    fn uid(&self) -> u32 {
        self.culprit.peer.uid
    }

    fn record(&self, now: Time) -> HangRecord {
        HangRecord {
            session: self.culprit.session,
            client_name: self.culprit.client_name.to_string(),
            pid: self.culprit.peer.pid,
            uid: self.uid(),
            age_ns: now.0.saturating_sub(self.at.0),
            dump_bytes: self.dump_bytes() as u64,
            event: HangEvent { dumped: self.dump.is_some(), ..self.event.clone() },
        }
    }
}

impl HangBook {
    /// Takes note of a hang; answers what its owner is told.
    pub(crate) fn record(&self, now: Time, culprit: Culprit, report: FaultReport) -> HangEvent {
        let mut book = self.book();
        book.last += 1;
        let dump = report.capture.map(Arc::from);
        let event = HangEvent {
            hang: book.last,
            context: id_of_tag(report.tag),
            engine: engine(report.engine),
            cause: cause(report.kind),
            batch: report.batch,
            address: report.address,
            command: report.command,
            // A panic's message, for one, can be of any length.
            what: report.what.chars().take(WHAT_CHARS_MAX).collect(),
            dumped: dump.is_some(),
            lost: 0,
        };
        book.hangs.push_back(Hang { culprit, at: now, event: event.clone(), dump });
        book.make_room();
        event
    }

    /// Those that `viewer` may see, the last first.
    pub(crate) fn page(&self, viewer: Viewer, now: Time, query: &HangQuery) -> HangPage {
        let book = self.book();
        let shown = |hang: &&Hang| hang.event.hang < query.before && viewer.may_see(hang);
        let mut hangs: Vec<_> = book
            .hangs
            .iter()
            .rev()
            .filter(shown)
            .take(HANGS_PER_PAGE_MAX + 1)
            .map(|hang| hang.record(now))
            .collect();
        let more = hangs.len() > HANGS_PER_PAGE_MAX;
        hangs.truncate(HANGS_PER_PAGE_MAX);
        HangPage { hangs, more }
    }

    /// What is kept of one.
    ///
    /// # Errors
    /// ENOENT when there is none that `viewer` may see.
    pub(crate) fn show(&self, viewer: Viewer, now: Time, of: HangOf) -> Result<HangDump, Refusal> {
        self.find(viewer, of.hang, |hang| HangDump {
            record: hang.record(now),
            dump: hang.dump.as_deref().map(dump),
        })
    }

    /// Bytes of a dump.
    ///
    /// # Errors
    /// ENOENT when there is no such hang that `viewer` may see, or no such region.
    pub(crate) fn read(&self, viewer: Viewer, request: HangRead) -> Result<HangBytes, Refusal> {
        let dump = self.find(viewer, request.hang, |hang| hang.dump.clone())?;
        let region = usize::try_from(request.region).ok();
        let region = dump.as_ref().zip(region).and_then(|(dump, at)| dump.regions.get(at));
        let bytes = &region.ok_or(Reason::NoSuchHang)?.bytes;
        let start = usize::try_from(request.offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(HANG_READ_BYTES_MAX).min(bytes.len());
        Ok(HangBytes { bytes: bytes.get(start..end).unwrap_or_default().to_vec() })
    }

    fn find<T>(
        &self,
        viewer: Viewer,
        number: u64,
        f: impl FnOnce(&Hang) -> T,
    ) -> Result<T, Refusal> {
        let book = self.book();
        let found = book.hangs.iter().find(|hang| hang.event.hang == number);
        let found = found.filter(|hang| viewer.may_see(hang));
        Ok(f(found.ok_or(Reason::NoSuchHang)?))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Keeps the limits, the last hang being new.
    fn make_room(&mut self) {
        let Some(newest) = self.hangs.back() else { return };
        let session = newest.culprit.session;
        let own = |hang: &Hang| hang.culprit.session == session;
        while self.count(own) > HANGS_PER_SESSION_MAX {
            self.forget(own);
        }
        let dumped = |hang: &Hang| own(hang) && hang.dump.is_some();
        while self.count(dumped) > HANG_DUMPS_PER_SESSION_MAX
            || self.bytes(own) > HANG_DUMP_BYTES_PER_SESSION_MAX
        {
            self.strip(own);
        }
        while self.hangs.len() > HANGS_MAX {
            let uid = self.biggest(|_| 1);
            self.forget(|hang| hang.uid() == uid);
        }
        while self.bytes(|_| true) > HANG_DUMP_BYTES_MAX {
            let uid = self.biggest(Hang::dump_bytes);
            self.strip(|hang| hang.uid() == uid);
        }
    }

    fn count(&self, which: impl Fn(&Hang) -> bool) -> usize {
        self.hangs.iter().filter(|hang| which(hang)).count()
    }

    fn bytes(&self, which: impl Fn(&Hang) -> bool) -> usize {
        self.hangs.iter().filter(|hang| which(hang)).map(Hang::dump_bytes).sum()
    }

    /// The user who has most.
    fn biggest(&self, size: impl Fn(&Hang) -> usize) -> u32 {
        let of_user = |uid| self.hangs.iter().filter(|h| h.uid() == uid).map(&size).sum::<usize>();
        let mut uids: Vec<u32> = self.hangs.iter().map(Hang::uid).collect();
        uids.sort_unstable();
        uids.dedup();
        uids.into_iter().max_by_key(|uid| of_user(*uid)).unwrap_or(0)
    }

    /// Removes the oldest.
    fn forget(&mut self, which: impl Fn(&Hang) -> bool) {
        let oldest = self.hangs.iter().position(which);
        oldest.into_iter().for_each(|at| drop(self.hangs.remove(at)));
    }

    /// Drops the oldest dump.
    fn strip(&mut self, which: impl Fn(&Hang) -> bool) {
        let oldest = self.hangs.iter_mut().find(|hang| hang.dump.is_some() && which(hang));
        oldest.into_iter().for_each(|hang| hang.dump = None);
    }
}

fn engine(id: device::EngineId) -> EngineId {
    EngineId { class: id.class, instance: id.instance }
}

const fn cause(kind: FaultKind) -> HangCause {
    match kind {
        FaultKind::Fault => HangCause::Fault,
        FaultKind::Hung => HangCause::Hung,
        FaultKind::TimedOut => HangCause::TimedOut,
        FaultKind::Device => HangCause::Device,
    }
}

fn dump(capture: &Capture) -> Dump {
    let register = |(name, value): &(String, u64)| Register { name: name.clone(), value: *value };
    let command = |command: &device::Command| DumpCommand {
        address: command.address,
        dwords: command.dwords.clone(),
        name: command.name.to_owned(),
        fields: command
            .fields
            .iter()
            .map(|(name, value)| Register { name: (*name).to_owned(), value: *value })
            .collect(),
        failed: command.failed,
    };
    let region = |region: &device::Region| DumpRegion {
        kind: match region.kind {
            RegionKind::Batch => DumpRegionKind::Batch,
            RegionKind::Commands => DumpRegionKind::Commands,
            RegionKind::Object => DumpRegionKind::Object,
        },
        address: region.address,
        size: region.size,
        offset: region.offset,
        kept: region.bytes.len() as u64,
    };
    Dump {
        registers: capture.registers.iter().map(register).collect(),
        commands: capture.commands.iter().map(command).collect(),
        listing: capture.listing.iter().map(command).collect(),
        regions: capture.regions.iter().map(region).collect(),
    }
}

#[cfg(test)]
mod tests {
    use gpu_broker_device::Region;

    use super::*;

    fn culprit(session: u64, uid: u32) -> Culprit {
        let peer = Credentials { uid, gid: uid, pid: 1 };
        Culprit { session: SessionId(session), client_name: "x".into(), peer }
    }

    fn report(bytes: Option<usize>) -> FaultReport {
        let region = |bytes| Region {
            kind: RegionKind::Batch,
            address: 0,
            size: 0,
            offset: 0,
            bytes: vec![7; bytes],
        };
        FaultReport {
            tag: 5,
            engine: device::EngineId { class: 1, instance: 0 },
            kind: FaultKind::Fault,
            batch: 0x1000,
            address: 0x1008,
            command: "MI_NOOP".to_owned(),
            what: "no".to_owned(),
            capture: bytes.map(|bytes| {
                Box::new(Capture {
                    registers: Vec::new(),
                    commands: Vec::new(),
                    listing: Vec::new(),
                    regions: vec![region(bytes)],
                })
            }),
        }
    }

    fn viewer(peer: Credentials) -> Viewer {
        Viewer { credentials: peer, admin: false }
    }

    fn listed(book: &HangBook, peer: Credentials) -> Vec<HangRecord> {
        let mut all = Vec::new();
        let mut before = u64::MAX;
        loop {
            let page = book.page(viewer(peer), Time(9), &HangQuery { before });
            all.extend(page.hangs);
            if !page.more {
                return all;
            }
            before = all.last().expect("more than none").event.hang;
        }
    }

    const KIB: usize = 1 << 10;

    #[test]
    fn a_flood_of_one_session_costs_only_itself() {
        let book = HangBook::default();
        let (victim, flooder) = (culprit(1, 1000), culprit(2, 1001));
        book.record(Time(1), victim.clone(), report(Some(200 * KIB)));
        for _ in 0..1000 {
            book.record(Time(2), flooder.clone(), report(Some(256 * KIB)));
        }
        let own = listed(&book, flooder.peer);
        assert_eq!(own.len(), HANGS_PER_SESSION_MAX);
        assert_eq!(own.iter().filter(|record| record.event.dumped).count(), 4);
        assert!(own[..4].iter().all(|record| record.event.dumped), "the last ones have dumps");
        let theirs = listed(&book, victim.peer);
        assert_eq!((theirs.len(), theirs[0].dump_bytes), (1, 200 * KIB as u64));
        assert_eq!((theirs[0].event.hang, theirs[0].event.context.0), (1, 5));
    }

    /// Sessions are cheap: a user who opens many gets no more than the book has, and pays first.
    #[test]
    fn a_flood_of_one_user_costs_only_itself() {
        let book = HangBook::default();
        let victim = culprit(1, 1000);
        for _ in 0..3 {
            book.record(Time(1), victim.clone(), report(Some(100 * KIB)));
        }
        for session in 2..3000 {
            book.record(Time(2), culprit(session, 1001), report(Some(256 * KIB)));
        }
        let theirs = listed(&book, victim.peer);
        assert!(theirs.len() == 3 && theirs.iter().all(|record| record.event.dumped));
        let own = listed(&book, culprit(0, 1001).peer);
        assert_eq!(own.len(), HANGS_MAX - 3);
        let bytes: u64 = own.iter().chain(&theirs).map(|record| record.dump_bytes).sum();
        assert!(bytes <= HANG_DUMP_BYTES_MAX as u64, "{bytes}");
        assert!(bytes > HANG_DUMP_BYTES_MAX as u64 / 2, "{bytes}");
    }

    #[test]
    fn a_dump_is_read_in_pieces_by_those_who_may() {
        let book = HangBook::default();
        let owner = culprit(1, 70_000);
        let bytes = 2 * HANG_READ_BYTES_MAX + 5;
        let hang = book.record(Time(1), owner.clone(), report(Some(bytes))).hang;
        let read = |peer, region, offset| {
            book.read(viewer(peer), HangRead { hang, region, offset })
                .map(|piece| piece.bytes.len())
        };
        let size = HANG_READ_BYTES_MAX as u64;
        assert_eq!(read(owner.peer, 0, 0), Ok(HANG_READ_BYTES_MAX));
        assert_eq!(read(owner.peer, 0, 2 * size), Ok(5));
        for end in [2 * size + 5, u64::MAX] {
            assert_eq!(read(owner.peer, 0, end), Ok(0));
        }
        assert!(read(owner.peer, 1, 0).is_err());
        let stranger = Credentials { uid: 70_001, gid: 0, pid: 1 };
        let refused = read(stranger, 0, 0).expect_err("another user's");
        assert_eq!(refused.reason, Reason::NoSuchHang);
        assert!(book.show(viewer(stranger), Time(2), HangOf { hang }).is_err());
        assert!(listed(&book, stranger).is_empty());
        let root = Credentials { uid: 0, gid: 0, pid: 1 };
        assert!(
            book.show(viewer(root), Time(2), HangOf { hang })
                .is_ok_and(|shown| shown.dump.is_some())
        );
        let bare = book.record(Time(3), owner.clone(), report(None)).hang;
        let shown =
            book.show(viewer(owner.peer), Time(4), HangOf { hang: bare }).expect("it is there");
        assert_eq!((shown.dump, shown.record.age_ns), (None, 1));
    }
}
