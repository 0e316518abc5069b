//! Requests that wait: for as long as the program likes, and never keeping others waiting.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use gpu_broker_client::interruptions;
use gpu_broker_client::protocol::{Reply, Request};

use super::ask;
use crate::errno::{Errno, Outcome};
use crate::node::Node;
use crate::signals::Heeded;

/// Longest time that the broker is asked to wait at once: after so long, a signal is noticed.
const PART_MAX: Duration = Duration::from_millis(50);
/// Longest time between two looks at what is waited for.
const PAUSE_MAX: Duration = Duration::from_millis(1);

/// Makes a request that may wait, without keeping other processes waiting that have the session
/// too: then `poll` asks whether the wait would be over, until it is. No signal ends it.
pub(crate) fn ask_patiently(
    node: &Node,
    poll: impl Fn() -> Request<OwnedFd>,
    last: Request<OwnedFd>,
) -> Outcome<Reply<OwnedFd>> {
    if node.connection.is_shared() {
        in_parts(node, None, || None, |_| poll())?;
    }
    // What was waited for is there, so this does not wait.
    ask(node, last)
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
    in_parts(node, timeout_ns, || Some(Heeded::begin()), part)
}

/// Asks once, and then again and again, until the answer is another than ETIME or the time is over:
/// for parts of the time, or, where others have the session too, for nothing and with pauses.
/// `heed` begins to heed signals, if they are to be.
fn in_parts(
    node: &Node,
    timeout_ns: Option<u64>,
    heed: impl FnOnce() -> Option<Heeded>,
    part: impl Fn(u64) -> Request<OwnedFd>,
) -> Outcome<Reply<OwnedFd>> {
    let end = timeout_ns.and_then(|ns| Instant::now().checked_add(Duration::from_nanos(ns)));
    let before = interruptions();
    let first = ask(node, part(0));
    if !matches!(first, Err(Errno(libc::ETIME))) || timeout_ns == Some(0) {
        return first;
    }
    let heeded = heed();
    if heeded.is_some() && interruptions() != before {
        return Err(Errno(libc::EINTR));
    }
    let mut pause = Duration::from_micros(10);
    loop {
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        let shared = node.connection.is_shared();
        let (sleep, now) = if shared {
            (pause.min(left), Duration::ZERO)
        } else {
            (Duration::ZERO, left.min(PART_MAX))
        };
        match &heeded {
            Some(heeded) if heeded.sleep(sleep) => return Err(Errno(libc::EINTR)),
            Some(_) => {}
            None => std::thread::sleep(sleep),
        }
        let asked = ask(node, part(u64::try_from(now.as_nanos()).unwrap_or(0)));
        if !matches!(asked, Err(Errno(libc::ETIME))) || left <= now {
            return asked;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
