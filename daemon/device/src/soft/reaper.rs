//! A thread that gives large memory back.
//!
//! The kernel frees the pages of a memfd when its last user goes, some tens of milliseconds for a
//! gibibyte, in the thread that let go of it: that of a client's request, or an engine's. Neither
//! may be held up that long.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Memory of at least this many bytes goes to the thread.
const LARGE_BYTES: u64 = 1 << 20;

/// Where memory goes that nobody needs any more. The thread ends with it.
#[derive(Debug)]
pub(super) struct Reaper<T> {
    queue: Sender<T>,
}

impl<T: Send + 'static> Reaper<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// It could not be started.
    pub(super) fn start() -> std::io::Result<Self> {
        let (queue, things): (_, Receiver<T>) = channel();
        thread::Builder::new()
            .name("gpu-reaper".to_owned())
            .spawn(move || things.iter().for_each(drop))?;
        Ok(Self { queue })
    }

    /// Drops `thing`, of `bytes` bytes, here or there. The queue needs no limit of its own: what
    /// is in it still counts against the quotas it was taken from.
    pub(super) fn take(&self, thing: T, bytes: u64) {
        if bytes >= LARGE_BYTES {
            // The thread lives as long as `self`; if it did not, the thing is dropped here.
            let _ = self.queue.send(thing);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    /// Says on which thread it was dropped.
    struct Witness(std::sync::mpsc::SyncSender<ThreadId>);

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[test]
    fn only_large_things_are_dropped_elsewhere() {
        let reaper = Reaper::start().unwrap();
        let (dropped, seen) = sync_channel(1);
        let patience = Duration::from_secs(60);
        reaper.take(Witness(dropped.clone()), LARGE_BYTES - 1);
        assert_eq!(seen.recv_timeout(patience), Ok(thread::current().id()));
        reaper.take(Witness(dropped), LARGE_BYTES);
        assert_ne!(seen.recv_timeout(patience).unwrap(), thread::current().id());
    }
}
