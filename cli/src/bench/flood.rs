//! A client that never stops sending.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gpu_broker_client::Connection;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::failure::Failure;
use super::rig::Rig;
use super::work::Work;

/// Replies are read into this; a longer one would only be cut, and is not looked at anyway.
const REPLY_BYTES: usize = 256;
/// How long to wait for the socket before looking whether to stop.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// A thread that keeps its connection's queues full in both directions: it sends EXECBUFs without
/// waiting for replies, and reads replies only to be able to send more. (A client that does not
/// read at all is no burden: the daemon stops reading from it.)
pub(super) struct Flood {
    thread: JoinHandle<Result<(), Failure>>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    /// Connects, starts to flood, and returns once requests are under way.
    ///
    /// # Errors
    /// The daemon refused, or no thread could be started.
    pub(super) fn start(rig: &Rig) -> Result<Self, Failure> {
        let work = Work::prepare(&rig.connect()?, 1)?;
        let mut packet = Vec::new();
        work.encode(1, &mut packet)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .spawn(move || {
                let result = flood(work.connection(), &packet, &stopped);
                // The queues are full: what `work` says when it is dropped must fail, not wait.
                let _hung_up = shutdown(work.connection(), Shutdown::Both);
                result
            })
            .map_err(Failure::io("starting the flooding client"))?;
        thread::sleep(Duration::from_millis(20));
        Ok(Self { thread, stop })
    }

    /// Stops it.
    ///
    /// # Errors
    /// Why the flood had ended before: then it was none.
    pub(super) fn end(self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or(Err(Failure::Unexpected("the flooding client's thread panicked")))
    }
}

fn flood(connection: &Connection, packet: &[u8], stop: &AtomicBool) -> Result<(), Failure> {
    let failed = || Failure::io("flooding the daemon");
    let mut reply = [0; REPLY_BYTES];
    while !stop.load(Ordering::Relaxed) {
        while may_go_on(send(connection, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
            .map_err(failed())?
        {}
        while may_go_on(recv(connection, &mut reply[..], RecvFlags::DONTWAIT).map(|(_, n)| n))
            .map_err(failed())?
        {}
        let mut ready =
            [PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN | PollFlags::OUT)];
        match poll(&mut ready, Some(&POLL)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed()(errno)),
        }
    }
    Ok(())
}

/// Whether a call on the socket went through, so that another may; false when it would block.
fn may_go_on(result: Result<usize, Errno>) -> Result<bool, Errno> {
    match result {
        Ok(0) => Err(Errno::PIPE),
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}
