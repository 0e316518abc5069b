//! The thread that learns of the ends of fences, for all files of a device.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::fence::Fence;
use super::limits;
use crate::{DeviceError, FenceState};

/// What is done when a fence has signalled. Runs on the poller's thread, or on whoever calls
/// [`Poller::settle`]; must not block.
pub(super) type Then = Box<dyn FnOnce(FenceState) + Send>;

/// Looks whether something is over that no fd tells of.
type Look = Box<dyn FnMut() -> bool + Send>;

/// Number of a watch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Ticket(u64);

/// Watches fences. Dropping it forgets what is watched.
pub(super) struct Poller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: OwnedFd,
    /// Readable when the thread should look up from its wait.
    bell: OwnedFd,
    stopping: AtomicBool,
    watches: Mutex<Watches>,
    /// Signalled when one of [`Watches::firing`] has gone.
    fired: Condvar,
}

#[derive(Default)]
struct Watches {
    last: u64,
    by_ticket: HashMap<u64, Watch>,
    /// Files of the watches that have been taken out and are being fired.
    firing: Vec<u64>,
    /// Looked at in a rhythm; most of the time there are none.
    looks: Vec<Look>,
}

struct Watch {
    fence: Fence,
    /// The kernel tells of its end; else it is looked at.
    told: bool,
    /// Number of the file it is for.
    file: u64,
    then: Then,
}

/// The bell's number among the watches, which count from 1.
const BELL: u64 = 0;

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl Poller {
    /// # Errors
    /// Out of memory or fds, or no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let stopping = AtomicBool::new(false);
        let (watches, fired) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { epoll, bell, stopping, watches, fired });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("i915-fences".to_owned())
                .spawn(move || shared.run())?
        };
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Calls `then` when the fence has signalled, once.
    ///
    /// # Errors
    /// The fence has no fd. (Where the kernel cannot watch one more, it is looked at in a rhythm.)
    pub(super) fn watch(&self, file: u64, fence: Fence, then: Then) -> Result<Ticket, DeviceError> {
        fence.file()?;
        let mut watches = self.shared.lock();
        watches.last = watches.last.wrapping_add(1);
        let ticket = watches.last;
        let (fence, told) = match self.shared.add(ticket, &fence) {
            // Somebody watches this very fd already.
            Err(Errno::EXIST) => match fence.export().map(Fence::new) {
                Ok(copy) => {
                    let told = self.shared.add(ticket, &copy).is_ok();
                    (copy, told)
                }
                Err(_) => (fence, false),
            },
            added => (fence, added.is_ok()),
        };
        watches.by_ticket.insert(ticket, Watch { fence: fence.clone(), told, file, then });
        drop(watches);
        if !told {
            let shared = Arc::downgrade(&self.shared);
            self.look(Box::new(move || {
                let over = fence.state() != FenceState::Pending;
                if over && let Some(shared) = shared.upgrade() {
                    shared.fire(ticket);
                }
                over
            }));
        }
        Ok(Ticket(ticket))
    }

    /// Calls `look` now and then until it answers true.
    pub(super) fn look(&self, look: Look) {
        self.shared.lock().looks.push(look);
        self.shared.ring();
    }

    /// Forgets a watch; what it would have done is not done.
    pub(super) fn forget(&self, ticket: Ticket) {
        // Bound to a name, so that it is dropped after the lock.
        let watch = self.shared.lock().take(&self.shared.epoll, ticket.0);
        drop(watch);
    }

    /// Does what is due for a file whose fences have signalled, and waits until what the thread has
    /// begun of that is done. Not from inside a [`Then`].
    pub(super) fn settle(&self, file: u64) {
        let of_file = |(ticket, watch): (&u64, &Watch)| (watch.file == file).then_some(*ticket);
        let mut tickets: Vec<_> = self.shared.lock().by_ticket.iter().filter_map(of_file).collect();
        tickets.sort_unstable();
        for ticket in tickets {
            let fence = self.shared.lock().by_ticket.get(&ticket).map(|watch| watch.fence.clone());
            if fence.is_some_and(|fence| fence.state() != FenceState::Pending) {
                self.shared.fire(ticket);
            }
        }
        // What the thread, or who settles at the same time, has begun.
        let watches = self.shared.lock();
        let firing = |watches: &mut Watches| watches.firing.contains(&file);
        drop(self.shared.fired.wait_while(watches, firing).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.ring();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there was logged there.
            let _ = thread.join();
        }
        let forgotten = std::mem::take(&mut *self.shared.lock());
        drop(forgotten);
    }
}

impl Watches {
    fn take(&mut self, epoll: &OwnedFd, ticket: u64) -> Option<Watch> {
        let watch = self.by_ticket.remove(&ticket)?;
        // Said explicitly, because a copy of the fd keeps the file open. Only if it is this watch's:
        // epoll knows fds, and another watch may be of the same one.
        if watch.told
            && let Ok(file) = watch.fence.file()
        {
            let _ = epoll::delete(epoll, file);
        }
        Some(watch)
    }
}

/// A watch is fired when this is dropped, also if that panicked.
struct Fired<'a> {
    shared: &'a Shared,
    file: u64,
}

impl Drop for Fired<'_> {
    fn drop(&mut self) {
        let mut watches = self.shared.lock();
        if let Some(at) = watches.firing.iter().position(|file| *file == self.file) {
            watches.firing.swap_remove(at);
        }
        drop(watches);
        self.shared.fired.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel tell of the fence's end.
    fn add(&self, ticket: u64, fence: &Fence) -> Result<(), Errno> {
        let file = fence.file().map_err(|_| Errno::BADF)?;
        epoll::add(&self.epoll, file, EventData::new_u64(ticket), EventFlags::IN)
    }

    fn ring(&self) {
        // EAGAIN: it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn fire(&self, ticket: u64) {
        let mut watches = self.lock();
        let Some(Watch { fence, file, then, .. }) = watches.take(&self.epoll, ticket) else {
            return;
        };
        watches.firing.push(file);
        drop(watches);
        let _fired = Fired { shared: self, file };
        then(fence.state());
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(limits::EVENTS_PER_WAIT);
        while !self.stopping.load(Ordering::Acquire) {
            events.clear();
            let rhythm = Timespec::try_from(limits::LOOK_RHYTHM).ok();
            let timeout = if self.lock().looks.is_empty() { None } else { rhythm };
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for fences failed");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            for event in &events {
                let data = event.data;
                match data.u64() {
                    BELL => {
                        let mut count = [0; 8];
                        // EAGAIN: somebody was faster.
                        let _ = rustix::io::read(self.bell.as_fd(), &mut count);
                    }
                    ticket => self.fire(ticket),
                }
            }
            self.look();
        }
    }

    /// Looks at what no fd tells of. Not under the lock: a look may fire a watch.
    fn look(&self) {
        let mut looks = std::mem::take(&mut self.lock().looks);
        if looks.is_empty() {
            return;
        }
        looks.retain_mut(|look| !look());
        self.lock().looks.append(&mut looks);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Anything that can be polled stands in for a sync_file; its state is that of a lost one.
    fn pipe() -> (Fence, OwnedFd) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (Fence::new(read), write)
    }

    #[test]
    fn a_watch_fires_once_and_can_be_forgotten() {
        let poller = Poller::start().unwrap();
        let (told, tell) = mpsc::channel();
        let watch = |fence: &Fence, number| {
            let told = told.clone();
            let then = Box::new(move |_| told.send(number).unwrap());
            poller.watch(1, fence.clone(), then).unwrap()
        };
        let ((first, first_end), (second, second_end)) = (pipe(), pipe());
        let forgotten = watch(&first, 1);
        poller.forget(forgotten);
        watch(&first, 2);
        watch(&second, 3);
        rustix::io::write(&first_end, &[0]).unwrap();
        assert_eq!(tell.recv(), Ok(2));
        rustix::io::write(&second_end, &[0]).unwrap();
        assert_eq!(tell.recv(), Ok(3));
        drop(poller);
        assert_eq!(tell.try_recv(), Err(mpsc::TryRecvError::Empty));
    }

    /// As of an application's memory: its request is watched, and a client that waits for it watches
    /// the same fence.
    #[test]
    fn one_fence_can_be_watched_twice_and_each_watch_ends_by_itself() {
        let poller = Poller::start().unwrap();
        let (told, tell) = mpsc::channel();
        let (fence, end) = pipe();
        let watch = |number| {
            let told = told.clone();
            let then = Box::new(move |_| told.send(number).unwrap());
            poller.watch(1, fence.clone(), then).unwrap()
        };
        let (_first, second, _third) = (watch(1), watch(2), watch(3));
        assert!(poller.shared.lock().looks.is_empty(), "no watch needs a rhythm");
        poller.forget(second);
        rustix::io::write(&end, &[0]).unwrap();
        let mut ended: Vec<_> = tell.iter().take(2).collect();
        ended.sort_unstable();
        assert_eq!(ended, [1, 3]);
    }

    #[test]
    fn what_no_fd_tells_of_is_looked_at_until_it_is_over() {
        let poller = Poller::start().unwrap();
        let (told, tell) = mpsc::channel();
        let mut left = 3;
        poller.look(Box::new(move || {
            left -= 1;
            told.send(left).unwrap();
            left == 0
        }));
        assert_eq!(tell.iter().collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn settling_waits_for_what_the_thread_has_begun() {
        let poller = Poller::start().unwrap();
        let ((begun, begins), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel::<()>());
        let done = Arc::new(AtomicBool::new(false));
        let (fence, end) = pipe();
        let then = {
            let done = Arc::clone(&done);
            Box::new(move |_| {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
                done.store(true, Ordering::Release);
            })
        };
        poller.watch(7, fence, then).unwrap();
        rustix::io::write(&end, &[0]).unwrap();
        begins.recv().unwrap();
        poller.settle(8);
        assert!(!done.load(Ordering::Acquire), "another file's is not waited for");
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| {
                poller.settle(7);
                done.load(Ordering::Acquire)
            });
            go_on.send(()).unwrap();
            assert!(settled.join().unwrap());
        });
    }

    #[test]
    fn settling_needs_no_thread() {
        let poller = Poller::start().unwrap();
        let (told, tell) = mpsc::channel();
        let (fence, _end) = pipe();
        let then = Box::new(move |state| told.send(state).unwrap());
        poller.watch(7, fence, then).unwrap();
        poller.settle(8);
        assert_eq!(tell.try_recv(), Err(mpsc::TryRecvError::Empty));
        poller.settle(7);
        assert_eq!(tell.try_recv(), Ok(FenceState::Failed(5)));
    }
}
