//! Requests and what their answers mean, once for both clients.
//!
//! A [`Call`] is a request together with the function that takes its reply apart. The blocking
//! client and the asynchronous one differ only in how they carry it out.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use gpu_broker_protocol::hang::{HangDump, HangOf, HangPage, HangQuery, HangRead};
use gpu_broker_protocol::message::{BufferCreate, BufferCreated, BufferOf, HelloReply};
use gpu_broker_protocol::object::*;
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::refusal::errno::ETIME;
use gpu_broker_protocol::syncobj::*;
use gpu_broker_protocol::userptr::{UserptrCreate, UserptrInvalidate};
use gpu_broker_protocol::version::feature;
use gpu_broker_protocol::{BufferId, Reason, Reply, Request, SyncobjId, Violation};
use rustix::time::{ClockId, Timespec};

use crate::error::Error;
use crate::fence::Fence;
use crate::proto::answer;
use crate::usermem::share::Acknowledged;

/// A request, and what to make of its reply.
#[derive(Debug)]
pub(crate) struct Call<T, Fd = OwnedFd> {
    pub(crate) request: Request<Fd>,
    pub(crate) answer: fn(Reply<OwnedFd>) -> Result<T, Error>,
}

const fn call<T>(
    request: Request<OwnedFd>,
    answer: fn(Reply<OwnedFd>) -> Result<T, Error>,
) -> Call<T> {
    Call { request, answer }
}

/// A wait that took too long is an answer too: `None`.
pub(crate) fn in_time<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused(refusal)) if refusal.errno == ETIME => Ok(None),
        Err(error) => Err(error),
    }
}

/// The moment a timeout from now ends, in nanoseconds of CLOCK_MONOTONIC. `None`, and what does
/// not fit, is for ever.
pub(crate) fn deadline_ns(timeout: Option<Duration>) -> i64 {
    let Some(timeout) = timeout else { return i64::MAX };
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let left = Timespec::try_from(timeout).ok();
    let end = left.and_then(|left| now.checked_add(left));
    end.and_then(|end| end.tv_sec.checked_mul(1_000_000_000)?.checked_add(end.tv_nsec))
        .unwrap_or(i64::MAX)
}

pub(crate) const fn get_param(param: i32) -> Call<i32> {
    call(
        Request::GetParam(GetParam { param }),
        |reply| answer!(reply, Reply::GetParam(answer) => answer.value),
    )
}

pub(crate) fn query(items: &[QueryItem]) -> Call<Vec<QueryAnswer>> {
    call(
        Request::Query(Query { flags: 0, items: items.to_vec() }),
        |reply| answer!(reply, Reply::Query(reply) => reply.answers),
    )
}

/// Answers that are as many as the questions.
pub(crate) fn as_many<T>(answers: Vec<T>, questions: usize) -> Result<Vec<T>, Error> {
    if answers.len() == questions {
        Ok(answers)
    } else {
        Err(Error::Protocol(Violation::Malformed))
    }
}

pub(crate) const fn aperture() -> Call<Aperture> {
    call(Request::GetAperture, |reply| answer!(reply, Reply::GetAperture(aperture) => aperture))
}

pub(crate) const fn throttle() -> Call<()> {
    call(Request::Throttle, |reply| answer!(reply, Reply::Throttle => ()))
}

pub(crate) const fn reg_read(offset: u64) -> Call<u64> {
    call(
        Request::RegRead(RegRead { offset }),
        |reply| answer!(reply, Reply::RegRead(register) => register.value),
    )
}

/// The render engine's timestamp, all of it (the offset's low bit asks for eight bytes).
pub(crate) const TIMESTAMP_REGISTER: u64 = 0x2358 | 1;

pub(crate) fn create_buffer(size: u64, regions: Option<&[EngineId]>) -> Call<BufferCreated> {
    let regions = regions.map(<[EngineId]>::to_vec);
    call(
        Request::BufferCreate(BufferCreate { size, flags: 0, regions }),
        |reply| answer!(reply, Reply::BufferCreate(made) => made),
    )
}

pub(crate) const fn set_domain(buffer: BufferId, read: u32, write: u32) -> Call<()> {
    let body = BufferSetDomain { buffer, read_domains: read, write_domain: write };
    call(Request::BufferSetDomain(body), |reply| answer!(reply, Reply::BufferSetDomain => ()))
}

pub(crate) const fn access(buffer: BufferId, offset: u64, bytes: usize, write: bool) -> Call<()> {
    let body = BufferAccess { buffer, offset, size: bytes as u64, write };
    call(Request::BufferAccess(body), |reply| answer!(reply, Reply::BufferAccess => ()))
}

pub(crate) const fn set_caching(buffer: BufferId, caching: u32) -> Call<()> {
    let body = BufferCaching { buffer, caching };
    call(Request::BufferSetCaching(body), |reply| answer!(reply, Reply::BufferSetCaching => ()))
}

pub(crate) const fn get_caching(buffer: BufferId) -> Call<u32> {
    call(
        Request::BufferGetCaching(BufferOf { buffer }),
        |reply| answer!(reply, Reply::BufferGetCaching(caching) => caching.caching),
    )
}

pub(crate) const fn set_tiling(buffer: BufferId, mode: u32, stride: u32) -> Call<Tiling> {
    call(
        Request::BufferSetTiling(BufferSetTiling { buffer, mode, stride }),
        |reply| answer!(reply, Reply::BufferSetTiling(tiling) => tiling),
    )
}

pub(crate) const fn get_tiling(buffer: BufferId) -> Call<Tiling> {
    call(
        Request::BufferGetTiling(BufferOf { buffer }),
        |reply| answer!(reply, Reply::BufferGetTiling(tiling) => tiling),
    )
}

pub(crate) const fn madvise(buffer: BufferId, advice: u32) -> Call<bool> {
    call(
        Request::BufferMadvise(BufferMadvise { buffer, advice }),
        |reply| answer!(reply, Reply::BufferMadvise(answer) => answer.retained != 0),
    )
}

pub(crate) const fn export_buffer(buffer: BufferId) -> Call<OwnedFd> {
    let flags = export_flag::CLOEXEC | export_flag::RDWR;
    call(
        Request::BufferExport(BufferExport { buffer, flags }),
        |reply| answer!(reply, Reply::BufferExport(exported) => exported.fd),
    )
}

pub(crate) fn import_buffer(fd: BorrowedFd<'_>) -> Call<BufferCreated, BorrowedFd<'_>> {
    Call {
        request: Request::BufferImport(BufferImport { fd }),
        answer: |reply| answer!(reply, Reply::BufferImport(made) => made),
    }
}

/// # Errors
/// ENODEV when the broker does not know the request: it would end the session.
pub(crate) fn create_userptr<'a>(
    hello: &HelloReply,
    memfd: BorrowedFd<'a>,
    offset: u64,
    length: u64,
    flags: u32,
) -> Result<Call<BufferCreated, BorrowedFd<'a>>, Error> {
    if hello.features & feature::USERPTR == 0 {
        let doing = "giving memory to the GPU, which this broker does not offer";
        return Err(Error::io(doing, rustix::io::Errno::NODEV));
    }
    Ok(Call {
        request: Request::UserptrCreate(UserptrCreate { memfd, offset, length, flags }),
        answer: |reply| answer!(reply, Reply::UserptrCreate(made) => made),
    })
}

pub(crate) const fn invalidate(request: UserptrInvalidate) -> Call<Acknowledged> {
    call(
        Request::UserptrInvalidate(request),
        |reply| answer!(reply, Reply::UserptrInvalidate => Acknowledged::by_reply()),
    )
}

/// INVALIDATE of all the memory behind a buffer.
pub(crate) fn invalidate_all(buffer: BufferId, timeout: Option<Duration>) -> Call<Acknowledged> {
    let timeout_ns = timeout_ns(timeout);
    invalidate(UserptrInvalidate { buffer, offset: 0, length: u64::MAX, timeout_ns })
}

/// How often an EXECBUF is sent that collides with INVALIDATEs of other threads.
pub(crate) const EXECBUF_ATTEMPTS: u32 = 100;

/// Whether an EXECBUF collided with an INVALIDATE, so that it is sent again, as i915's clients do.
pub(crate) fn is_invalidated(error: &Error) -> bool {
    let code = Reason::UserptrInvalidated as u16;
    error.refusal().is_some_and(|refusal| refusal.code == code)
}

/// A timeout from now in nanoseconds. What does not fit in 63 bits is for ever: -1.
pub(crate) fn timeout_ns(timeout: Option<Duration>) -> i64 {
    timeout.and_then(|timeout| i64::try_from(timeout.as_nanos()).ok()).unwrap_or(-1)
}

pub(crate) const fn create_syncobj(signalled: bool) -> Call<SyncobjId> {
    let flags = if signalled { flag::CREATE_SIGNALED } else { 0 };
    call(
        Request::SyncobjCreate(SyncobjCreate { flags }),
        |reply| answer!(reply, Reply::SyncobjCreate(made) => made.syncobj),
    )
}

pub(crate) const fn destroy_syncobj(syncobj: SyncobjId) -> Call<()> {
    let body = SyncobjDestroy { syncobj, pad: 0 };
    call(Request::SyncobjDestroy(body), |reply| answer!(reply, Reply::SyncobjDestroy => ()))
}

pub(crate) fn reset_syncobj(syncobj: SyncobjId) -> Call<()> {
    let body = SyncobjArray { syncobjs: vec![syncobj], pad: 0 };
    call(Request::SyncobjReset(body), |reply| answer!(reply, Reply::SyncobjReset => ()))
}

pub(crate) fn signal_syncobj(syncobj: SyncobjId) -> Call<()> {
    let body = SyncobjArray { syncobjs: vec![syncobj], pad: 0 };
    call(Request::SyncobjSignal(body), |reply| answer!(reply, Reply::SyncobjSignal => ()))
}

pub(crate) fn signal_point(syncobj: SyncobjId, point: u64) -> Call<()> {
    let body = SyncobjTimelineSignal { syncobjs: vec![syncobj], points: vec![point], flags: 0 };
    call(
        Request::SyncobjTimelineSignal(body),
        |reply| answer!(reply, Reply::SyncobjTimelineSignal => ()),
    )
}

/// Answers with the position of the first that signalled, without meaning after waiting for all.
pub(crate) const fn wait_syncobjs(wait: SyncobjWait) -> Call<u32> {
    call(
        Request::SyncobjWait(wait),
        |reply| answer!(reply, Reply::SyncobjWait(waited) => waited.first_signaled),
    )
}

/// Answers with one point, as was asked for one syncobj.
pub(crate) fn query_point(syncobj: SyncobjId, flags: u32) -> Call<u64> {
    call(Request::SyncobjQuery(SyncobjQuery { syncobjs: vec![syncobj], flags }), |reply| {
        let points = answer!(reply, Reply::SyncobjQuery(reply) => reply.points)?;
        answer!(points.as_slice(), [point] => *point)
    })
}

pub(crate) const fn transfer(
    (source, source_point): (SyncobjId, u64),
    (target, target_point): (SyncobjId, u64),
    flags: u32,
) -> Call<()> {
    let body = SyncobjTransfer { source, source_point, target, target_point, flags, pad: 0 };
    call(Request::SyncobjTransfer(body), |reply| answer!(reply, Reply::SyncobjTransfer => ()))
}

pub(crate) const fn export_syncobj(syncobj: SyncobjId) -> Call<OwnedFd> {
    call(
        Request::SyncobjExport(SyncobjExport { syncobj, flags: 0, point: 0 }),
        |reply| answer!(reply, Reply::SyncobjExport(exported) => exported.fd),
    )
}

/// The fence of a binary object, or of a point of its timeline.
pub(crate) const fn export_fence(syncobj: SyncobjId, point: Option<u64>) -> Call<Fence> {
    let (flags, point) = fence_of(point);
    call(
        Request::SyncobjExport(SyncobjExport { syncobj, flags, point }),
        |reply| answer!(reply, Reply::SyncobjExport(exported) => exported.fd.into()),
    )
}

pub(crate) fn import_syncobj(fd: BorrowedFd<'_>) -> Call<SyncobjId, BorrowedFd<'_>> {
    let body = SyncobjImport { syncobj: SyncobjId(0), flags: 0, point: 0, fd };
    Call {
        request: Request::SyncobjImport(body),
        answer: |reply| answer!(reply, Reply::SyncobjImport(made) => made.syncobj),
    }
}

pub(crate) fn import_fence(
    syncobj: SyncobjId,
    point: Option<u64>,
    fd: BorrowedFd<'_>,
) -> Call<(), BorrowedFd<'_>> {
    let (flags, point) = fence_of(point);
    Call {
        request: Request::SyncobjImport(SyncobjImport { syncobj, flags, point, fd }),
        answer: |reply| answer!(reply, Reply::SyncobjImport(_) => ()),
    }
}

pub(crate) const fn hang_list(before: u64) -> Call<HangPage> {
    call(
        Request::HangList(HangQuery { before }),
        |reply| answer!(reply, Reply::HangList(page) => page),
    )
}

pub(crate) const fn hang_show(hang: u64) -> Call<HangDump> {
    call(Request::HangShow(HangOf { hang }), |reply| answer!(reply, Reply::HangShow(dump) => *dump))
}

pub(crate) const fn hang_read(hang: u64, region: u32, offset: u64) -> Call<Vec<u8>> {
    call(
        Request::HangRead(HangRead { hang, region, offset }),
        |reply| answer!(reply, Reply::HangRead(piece) => piece.bytes),
    )
}

const fn fence_of(point: Option<u64>) -> (u32, u64) {
    match point {
        None => (flag::SYNC_FILE, 0),
        Some(point) => (flag::SYNC_FILE | flag::TIMELINE, point),
    }
}

#[cfg(test)]
mod tests {
    use gpu_broker_protocol::Refusal;

    use super::*;

    #[test]
    fn deadlines_are_later_than_now_and_never_overflow() {
        let now = deadline_ns(Some(Duration::ZERO));
        let soon = deadline_ns(Some(Duration::from_secs(1)));
        assert!(now > 0 && soon >= now + 1_000_000_000, "{now} {soon}");
        assert_eq!(deadline_ns(None), i64::MAX);
        for long in [Duration::from_secs(u64::MAX), Duration::from_secs(300 * 365 * 86_400)] {
            assert_eq!(deadline_ns(Some(long)), i64::MAX, "{long:?} is for ever");
        }
    }

    #[test]
    fn a_timeout_is_an_answer_and_other_refusals_are_not() {
        let refused = |reason| Err::<(), _>(Error::Refused(Refusal::new(reason).to_body()));
        assert_eq!(in_time(refused(Reason::WaitTimeout)).expect("an answer"), None);
        let error = in_time(refused(Reason::WaitLimit)).expect_err("no answer");
        assert_eq!(error.errno(), 11);
        assert_eq!(in_time(Ok(3)).expect("an answer"), Some(3));
    }

    #[test]
    fn a_query_of_one_point_has_one_answer() {
        let answers = |points: &[u64]| {
            let reply = Reply::SyncobjQuery(SyncobjPoints { points: points.to_vec() });
            (query_point(SyncobjId(1), 0).answer)(reply)
        };
        assert_eq!(answers(&[7]).expect("one"), 7);
        for wrong in [&[][..], &[1, 2]] {
            let error = answers(wrong).expect_err("none or two");
            assert!(matches!(error, Error::Protocol(Violation::Malformed)), "{error}");
        }
        assert!(as_many(vec![1], 2).is_err() && as_many(vec![1, 2], 2).is_ok());
    }
}
