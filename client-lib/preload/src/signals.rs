//! Signals that end waits, as they end those of the kernel.
//!
//! A handler that was installed without SA_RESTART ends a call that waits, wherever in it the signal
//! comes. So from the moment a call is known to wait, such signals are let in only while the thread
//! sleeps, in `ppoll`, which says whether one came. The others are let in always but then: `ppoll`
//! is ended by any, and which one it was it does not say. What has no handler stays as it is.

use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use gpu_broker_client::wait_by;

/// How long a signal that does not end the wait is kept out at most.
const RESTART_PAUSE: Duration = Duration::from_millis(1);
/// How often it is looked at what the program does with each signal, which takes 15 µs. It may change
/// that in another thread.
const SORTED_FOR: Duration = Duration::from_millis(50);
/// The last signal that there is.
const LAST: c_int = 64;
/// What the thread does itself is never kept out: the kernel would end the process.
const OWN_DOING: [c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

thread_local! {
    static ASLEEP: Cell<Option<Asleep>> = const { Cell::new(None) };
    static CAME: Cell<bool> = const { Cell::new(false) };
}

/// How a thread sleeps.
#[derive(Clone, Copy)]
struct Asleep {
    mask: libc::sigset_t,
    /// Whether signals are kept out that must not be for long.
    brief: bool,
}

/// While it lives, signals end this thread's waits, and nothing else notices them.
pub(crate) struct Heeded {
    before: libc::sigset_t,
    sorted: Cell<Instant>,
    /// The mask is the thread's.
    _not_send: PhantomData<*const ()>,
}

impl Heeded {
    pub(crate) fn begin() -> Self {
        let before = masked(libc::SIG_BLOCK, &none());
        CAME.with(|came| came.set(false));
        wait_by(Some(wait));
        let heeded = Self { before, sorted: Cell::new(Instant::now()), _not_send: PhantomData };
        heeded.sort();
        heeded
    }

    /// Looks which signals end a wait, and keeps those out.
    fn sort(&self) {
        let (mut awake, mut asleep, mut brief) = (self.before, self.before, false);
        let theirs = (1..=LAST).filter(|n| !OWN_DOING.contains(n) && !has(&self.before, *n));
        for signal in theirs {
            match restarts(signal) {
                Some(false) => add(&mut awake, signal),
                Some(true) => {
                    add(&mut asleep, signal);
                    brief = true;
                }
                None => {}
            }
        }
        ASLEEP.with(|place| place.set(Some(Asleep { mask: asleep, brief })));
        masked(libc::SIG_SETMASK, &awake);
    }

    /// Sleeps; whether a signal has come, now or while an answer was waited for.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        if self.sorted.get().elapsed() > SORTED_FOR {
            self.sort();
            self.sorted.set(Instant::now());
        }
        if !CAME.with(Cell::get) {
            asleep(None, time.min(RESTART_PAUSE));
        }
        CAME.with(Cell::get)
    }
}

impl Drop for Heeded {
    fn drop(&mut self) {
        wait_by(None);
        masked(libc::SIG_SETMASK, &self.before);
    }
}

/// Waits until there is something to receive, or for a while.
fn wait(socket: BorrowedFd<'_>) {
    let brief = ASLEEP.with(Cell::get).is_some_and(|asleep| asleep.brief);
    asleep(Some(socket), if brief { RESTART_PAUSE } else { SORTED_FOR });
}

/// Sleeps until there is something to read, the time is over, or a signal comes that ends waits.
fn asleep(until: Option<BorrowedFd<'_>>, time: Duration) {
    let Some(Asleep { mask, .. }) = ASLEEP.with(Cell::get) else { return };
    let nanoseconds = time.subsec_nanos().into();
    let time = libc::timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: nanoseconds,
    };
    let fd = until.map_or(-1, |fd| fd.as_raw_fd());
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, a time and a mask, all of which live until the call returns.
    let ready = unsafe { libc::ppoll(&raw mut one, 1, &raw const time, &raw const mask) };
    if ready < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
        CAME.with(|came| came.set(true));
    }
}

/// Whether calls are begun anew after a signal; `None` if it has no handler.
fn restarts(signal: c_int) -> Option<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: it only writes the structure.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: zeroes are a value of it, and so is what libc has written.
    let action = unsafe { action.assume_init() };
    let handled = !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
    handled.then_some(action.sa_flags & libc::SA_RESTART != 0)
}

fn none() -> libc::sigset_t {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: it writes the set, all of it.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: as above.
    unsafe { set.assume_init() }
}

fn add(set: &mut libc::sigset_t, signal: c_int) {
    // SAFETY: the set is one; a number that is no signal is EINVAL.
    unsafe { libc::sigaddset(set, signal) };
}

fn has(set: &libc::sigset_t, signal: c_int) -> bool {
    // SAFETY: as in `add`.
    unsafe { libc::sigismember(set, signal) == 1 }
}

/// Changes this thread's mask; what it was.
fn masked(how: c_int, set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = none();
    // SAFETY: both sets are sets; keeping signals out for a while is what the callers undo.
    unsafe { libc::pthread_sigmask(how, set, &raw mut before) };
    before
}
