//! Syncobjs as fds: one end of a socket pair, which says nothing and is known by its cookie.
//!
//! The device keeps the other end, and with it the object, until the kernel says that no process
//! holds the fd any more. It looks now and then, not all the time: at most as many are left over as
//! are in use, or [`SWEEP_MIN`], and each file that is closed has [`SWEEP_PART`] of them looked at.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use super::buffer::{Quotas, refusal};
use super::limits::{Permit, Quota};
use super::syncobj::Syncobj;
use crate::DeviceError;

/// Fds in the table before the first look for some that nobody holds.
const SWEEP_MIN: usize = 64;
/// Fds that are looked at when a file is closed, whoever exported them: a poll of microseconds.
const SWEEP_PART: usize = 256;

/// Exported syncobjs, by the cookie of the client's end: a number the kernel gives to one socket
/// and never again.
#[derive(Debug, Default)]
pub(super) struct SyncobjExports(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_cookie: BTreeMap<u64, Export>,
    /// Length at which it is next looked through.
    sweep_at: usize,
    /// Where the next look at a part of it begins.
    part_at: u64,
}

#[derive(Debug)]
struct Export {
    ours: OwnedFd,
    syncobj: Syncobj,
    /// Of the file that exported it, of all files, and of all fds.
    permits: [Permit; 3],
}

impl SyncobjExports {
    /// Makes an fd of a syncobj for a file with its own quota `of_file`.
    ///
    /// # Errors
    /// Out of fds.
    pub(super) fn export(
        &self,
        syncobj: &Syncobj,
        of_file: &Arc<Quota>,
        quotas: &Quotas,
    ) -> Result<OwnedFd, DeviceError> {
        let permits = self.permits(of_file, quotas)?;
        let os = |errno| refusal(errno, "making an fd of a syncobj");
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(os)?;
        // Nobody reads what holders might send.
        rustix::net::shutdown(&ours, Shutdown::Read).map_err(os)?;
        let cookie = sockopt::socket_cookie(&theirs).map_err(os)?;
        let export = Export { ours, syncobj: syncobj.clone(), permits };
        let mut table = self.lock();
        if table.by_cookie.len() >= table.sweep_at.max(SWEEP_MIN) {
            table.sweep(|_| true);
            table.sweep_at = 2 * table.by_cookie.len();
        }
        table.by_cookie.insert(cookie, export);
        Ok(theirs)
    }

    /// The syncobj behind an fd.
    ///
    /// # Errors
    /// [`DeviceError::NotASyncobj`] for anything that [`Self::export`] did not make.
    pub(super) fn import(&self, fd: BorrowedFd<'_>) -> Result<Syncobj, DeviceError> {
        let cookie = sockopt::socket_cookie(fd).map_err(|_| DeviceError::NotASyncobj)?;
        let table = self.lock();
        let export = table.by_cookie.get(&cookie).ok_or(DeviceError::NotASyncobj)?;
        Ok(export.syncobj.clone())
    }

    /// A file is closed: drops what it exported and nobody holds any more, and looks at a part of
    /// what earlier files left. A process that ends may have closed its session before its fds, so
    /// those are found only when another file is closed, also one that exported nothing.
    pub(super) fn file_closed(&self, of_file: &Arc<Quota>) {
        let mut table = self.lock();
        // Each export holds a permit, and the permit the quota.
        if Arc::strong_count(of_file) > 1 {
            table.sweep(|export| export.permits[0].is_of(of_file));
        }
        table.sweep_part();
    }

    /// Room for one more, if need be made by looking for fds that nobody holds.
    fn permits(&self, of_file: &Arc<Quota>, quotas: &Quotas) -> Result<[Permit; 3], DeviceError> {
        // A file that is at its limit makes nobody else's fds be looked through.
        let own = of_file.take().or_else(|_| {
            self.lock().sweep(|export| export.permits[0].is_of(of_file));
            of_file.take()
        })?;
        let take = || Ok((quotas.syncobj_fds.take()?, quotas.fds.take()?));
        let (of_all, fd) = take().or_else(|_: DeviceError| {
            self.lock().sweep(|_| true);
            take()
        })?;
        Ok([own, of_all, fd])
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Drops those of `which` that no process holds any more.
    fn sweep(&mut self, which: impl Fn(&Export) -> bool) {
        let which = self.by_cookie.iter().filter(|(_, export)| which(export));
        let cookies: Vec<u64> = which.map(|(cookie, _)| *cookie).collect();
        self.drop_closed(&cookies);
    }

    /// Does the same with the next [`SWEEP_PART`], in turn.
    fn sweep_part(&mut self) {
        let part = self.by_cookie.range(self.part_at..).take(SWEEP_PART);
        let cookies: Vec<u64> = part.map(|(cookie, _)| *cookie).collect();
        let last = cookies.last().filter(|_| cookies.len() == SWEEP_PART);
        self.part_at = last.map_or(0, |last| last + 1);
        self.drop_closed(&cookies);
    }

    /// Drops those that no process holds any more: the kernel hangs up on our end then.
    fn drop_closed(&mut self, cookies: &[u64]) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ends: Vec<_> = cookies.iter().filter_map(|c| self.by_cookie.get_key_value(c)).collect();
        let mut fds: Vec<_> =
            ends.iter().map(|(_, end)| PollFd::new(&end.ours, PollFlags::empty())).collect();
        // More fds than the process may have open cannot be in the table; if poll fails
        // nevertheless, nothing is dropped this time.
        if poll(&mut fds, Some(&now)).is_err() {
            return;
        }
        let closed = fds.iter().map(|fd| fd.revents().contains(PollFlags::HUP));
        let closed: Vec<u64> = closed
            .zip(&ends)
            .filter_map(|(is_closed, (cookie, _))| is_closed.then_some(**cookie))
            .collect();
        for cookie in closed {
            self.by_cookie.remove(&cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    // A process that another test is starting has a copy of every fd for a moment.
    use crate::conformance::eventually;

    #[test]
    fn fds_that_nobody_holds_are_given_back() {
        let (exports, quotas) = (SyncobjExports::default(), Quotas::new().unwrap());
        let file = || Quota::of(u64::MAX, DeviceError::OutOfFds);
        let syncobj = Syncobj::new(true);
        let held = exports.export(&syncobj, &file(), &quotas).unwrap();
        for _ in 0..1000 {
            exports.export(&Syncobj::new(false), &file(), &quotas).unwrap();
        }
        let left = exports.lock().by_cookie.len();
        assert!(left <= 2 * SWEEP_MIN, "{left}");
        drop(syncobj);
        let back = exports.import(held.as_fd()).unwrap();
        assert!(back.fence(0).is_some(), "what somebody holds stays");
        // A copy in another table of fds counts as well: the description is what is held.
        let copy = held.try_clone().unwrap();
        drop(held);
        let swept_to = |left| {
            exports.lock().sweep(|_| true);
            exports.lock().by_cookie.len() == left
        };
        eventually("all but the copied one is gone", || swept_to(1));
        drop(copy);
        eventually("the copied one is gone", || swept_to(0));
    }

    /// Two parts of the table, and their file is closed while somebody holds them all.
    #[test]
    fn what_a_closed_file_left_goes_when_others_are_closed() {
        let (exports, quotas) = (SyncobjExports::default(), Quotas::new().unwrap());
        let file = Quota::of(u64::MAX, DeviceError::OutOfFds);
        let syncobj = Syncobj::new(false);
        let export = |_| exports.export(&syncobj, &file, &quotas).unwrap();
        let mut held: Vec<_> = (0..SWEEP_PART + 10).map(export).collect();
        exports.file_closed(&file);
        assert_eq!(exports.lock().by_cookie.len(), held.len());
        let kept = held.pop().unwrap();
        drop(held);
        let closed_to = |left| {
            exports.file_closed(&Quota::of(1, DeviceError::OutOfFds));
            exports.lock().by_cookie.len() == left
        };
        eventually("all but what is held is gone", || closed_to(1));
        drop(kept);
        // The turn begins anew.
        eventually("what was held is gone", || closed_to(0));
    }

    #[test]
    fn limits_make_room_before_they_refuse() {
        for (of_file, of_all) in [(3, 100), (100, 3)] {
            let exports = SyncobjExports::default();
            let quotas = Quotas::with_syncobj_fds(of_all);
            let file = Quota::of(of_file, DeviceError::OutOfFds);
            let syncobj = Syncobj::new(false);
            let export = || exports.export(&syncobj, &file, &quotas);
            let mut held: Vec<_> = (0..3).map(|_| export().unwrap()).collect();
            assert_eq!(export().unwrap_err(), DeviceError::OutOfFds);
            held.pop();
            held.push(export().unwrap());
            let other = Quota::of(1, DeviceError::OutOfFds);
            let others = exports.export(&syncobj, &other, &quotas);
            assert_eq!(others.is_ok(), of_all > 3, "a file's limit is its own");
        }
    }

    #[test]
    fn holders_cannot_fill_the_devices_end() {
        let (exports, quotas) = (SyncobjExports::default(), Quotas::new().unwrap());
        let file = Quota::syncobj_fds_of_file();
        let fd = exports.export(&Syncobj::new(false), &file, &quotas).unwrap();
        let sent = rustix::net::send(&fd, &[0; 64], rustix::net::SendFlags::NOSIGNAL);
        assert_eq!(sent, Err(rustix::io::Errno::PIPE));
    }
}
