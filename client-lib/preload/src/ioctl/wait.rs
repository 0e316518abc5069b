//! Requests that wait: for as long as the program likes, and never keeping others waiting.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use gpu_broker_client::interruptions;
use gpu_broker_client::protocol::message::{BufferOf, BufferWait};
use gpu_broker_client::protocol::{BufferId, Reply, Request};

use super::{ask, reply};
use crate::errno::{Errno, Outcome};
use crate::node::Node;
use crate::signals::Heeded;

/// Longest time that the broker is asked to wait at once: after so long, a signal is noticed.
const PART_MAX: Duration = Duration::from_millis(50);
/// Longest time between two looks at what is waited for.
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// What of GEM_BUSY's answer says who writes.
const BUSY_WRITER: u32 = 0xffff;

/// How long to wait, and how.
#[derive(Clone, Copy)]
struct Patience {
    /// `None` is for ever.
    timeout_ns: Option<u64>,
    /// Whether signals end it.
    heeds: bool,
    /// Whether the broker can be asked to wait for a part of the time, or only to look.
    parts: bool,
}

/// Makes a request that may wait, without keeping other threads and processes waiting that have the
/// session too: then `poll` asks whether the wait would be over, until it is. No signal ends it.
pub(crate) fn ask_patiently(
    node: &Node,
    poll: impl Fn() -> Request<OwnedFd>,
    last: Request<OwnedFd>,
) -> Outcome<Reply<OwnedFd>> {
    let patience = Patience { timeout_ns: None, heeds: false, parts: false };
    in_parts(node, patience, |_| ask(node, poll()))?;
    // What was waited for is there, so this does not wait.
    ask(node, last)
}

/// Makes a request that waits until the CPU may read a buffer, or with `write`, write it. A signal
/// ends the wait as in [`ask_interruptibly`].
pub(crate) fn ask_for_access(
    node: &Node,
    buffer: BufferId,
    write: bool,
    last: Request<OwnedFd>,
) -> Outcome<Reply<OwnedFd>> {
    let patience = Patience { timeout_ns: None, heeds: true, parts: write };
    let waited = in_parts(node, patience, |ns| {
        if write {
            let timeout_ns = i64::try_from(ns).unwrap_or(i64::MAX);
            let wait = BufferWait { buffer, flags: 0, timeout_ns };
            return ask(node, Request::BufferWait(wait)).map(drop);
        }
        let busy = ask(node, Request::BufferBusy(BufferOf { buffer }))?;
        let writers = reply!(busy, Reply::BufferBusy(busy) => busy.busy & BUSY_WRITER)?;
        if writers == 0 { Ok(()) } else { Err(Errno(libc::ETIME)) }
    });
    match waited {
        Err(Errno(libc::EINTR)) => Err(Errno(libc::EINTR)),
        // What else is wrong, the request itself is told.
        _ => ask(node, last),
    }
}

/// Makes a request that waits for at most `timeout_ns`, if that is a time, and that a signal ends as
/// it ends the kernel's: EINTR, if a handler ran that was not installed with SA_RESTART. `part` asks
/// to wait so many nanoseconds, and is asked again until the time is over.
///
/// A signal that comes while the broker is asked for the first time is as one that came before the
/// call, though most of those end it, too.
pub(crate) fn ask_interruptibly(
    node: &Node,
    timeout_ns: Option<u64>,
    part: impl Fn(u64) -> Request<OwnedFd>,
) -> Outcome<Reply<OwnedFd>> {
    let patience = Patience { timeout_ns, heeds: true, parts: true };
    in_parts(node, patience, |ns| ask(node, part(ns)))
}

/// Asks once, and then again and again, until the answer is another than ETIME or the time is over:
/// for parts of the time, or, where that cannot be asked or others have the session too, for nothing
/// and with pauses. No single request takes longer than a part: a fork waits for it.
fn in_parts<T>(node: &Node, patience: Patience, part: impl Fn(u64) -> Outcome<T>) -> Outcome<T> {
    let Patience { timeout_ns, heeds, parts } = patience;
    let end = timeout_ns.and_then(|ns| Instant::now().checked_add(Duration::from_nanos(ns)));
    let before = interruptions();
    let first = part(0);
    if !matches!(first, Err(Errno(libc::ETIME))) || timeout_ns == Some(0) {
        return first;
    }
    if heeds && interruptions() != before {
        return Err(Errno(libc::EINTR));
    }
    let heeded = heeds.then(Heeded::begin);
    let mut pause = Duration::from_micros(10);
    loop {
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        let (sleep, now) = if parts && !node.connection.is_shared() {
            (Duration::ZERO, left.min(PART_MAX))
        } else {
            (pause.min(left), Duration::ZERO)
        };
        match &heeded {
            Some(heeded) if heeded.sleep(sleep) => return Err(Errno(libc::EINTR)),
            Some(_) => {}
            None => std::thread::sleep(sleep),
        }
        let asked = part(u64::try_from(now.as_nanos()).unwrap_or(0));
        if !matches!(asked, Err(Errno(libc::ETIME))) || left <= now {
            return asked;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
