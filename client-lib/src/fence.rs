//! Fences: file descriptors that become readable when work is done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

pub use gpu_broker_protocol::message::FenceState;
use gpu_broker_protocol::message::{FenceMerge, FenceStatusQuery};
use gpu_broker_protocol::refusal::errno::EIO;
use gpu_broker_protocol::{Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::connection::Connection;
use crate::error::Error;
use crate::proto::answer;

/// Completion of a submission: an fd that becomes readable when the work is done or lost. Any
/// event loop can wait for it, and it can be passed to other processes.
#[derive(Debug)]
pub struct Fence {
    fd: OwnedFd,
}

impl Fence {
    /// The state now, without a round trip.
    ///
    /// The fence of a software device carries its error, a `sync_file` of a real device is asked.
    /// Of any other fd that can be polled it is only known whether it is readable.
    ///
    /// # Errors
    /// [`Error::Io`] when the fd cannot be polled.
    pub fn status(&self) -> Result<FenceState, Error> {
        let failed = |errno| Error::io("looking at a fence", errno);
        let mut word = [0; 8];
        // Peeking leaves the word for everybody else who holds the fence.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut word, flags)) {
            Ok((_, length)) => Ok(decode(&word, length)),
            Err(Errno::AGAIN) => Ok(FenceState::Pending),
            Err(Errno::CONNRESET) => Ok(FenceState::Failed(EIO)),
            Err(Errno::NOTSOCK) => {
                if let Ok(status) = crate::sync_file::status(&self.fd) {
                    return Ok(match status {
                        0 => FenceState::Pending,
                        1.. => FenceState::Signalled,
                        ..0 => FenceState::Failed(-status),
                    });
                }
                let readable = self.poll(Some(Duration::ZERO)).map_err(failed)?;
                Ok(if readable { FenceState::Signalled } else { FenceState::Pending })
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The state now, as the daemon knows it: one round trip, exact for every device.
    ///
    /// # Errors
    /// Refused with `wrong-fd-kind` (EINVAL) when the fd is no fence of that daemon.
    pub fn status_from(&self, connection: &Connection) -> Result<FenceState, Error> {
        let request = Request::FenceStatus(FenceStatusQuery { fd: self.fd.as_fd() });
        let reply = connection.request(request)?;
        answer!(reply, Reply::FenceStatus(state) => state)
    }

    /// Waits until the fence signals; `None` waits for ever. [`FenceState::Pending`] means that
    /// the time was over first.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<FenceState, Error> {
        // A timeout too long for the clock is for ever.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.poll(left) {
                Ok(true) => return self.status(),
                Ok(false) if left.is_some_and(|left| left.is_zero()) => {
                    return Ok(FenceState::Pending);
                }
                Ok(false) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("waiting for a fence", errno)),
            }
        }
    }

    /// Waits until the fence signals, on the tokio runtime this is called in.
    ///
    /// # Errors
    /// As [`Self::status`].
    #[cfg(feature = "tokio")]
    pub async fn signalled(&self) -> Result<FenceState, Error> {
        let failed = |source| Error::Io { doing: "waiting for a fence", source };
        // tokio's own AsyncFd is unsafe to register with; this wrapper of it only watches here.
        let fd = self.fd.try_clone().map_err(failed)?;
        let watched = tokio_seqpacket::UnixSeqpacket::try_from(fd).map_err(failed)?;
        loop {
            let mut ready = watched.as_async_fd().readable().await.map_err(failed)?;
            match self.status()? {
                // Readiness can be a false alarm; only the state counts.
                FenceState::Pending => ready.clear_ready(),
                state @ (FenceState::Signalled | FenceState::Failed(_)) => return Ok(state),
            }
        }
    }

    /// A fence that signals when both have, with the first error of the two.
    ///
    /// # Errors
    /// Refused with `wrong-fd-kind` (EINVAL) when one is no fence of that daemon, or with
    /// `fence-limit` (EMFILE).
    pub fn merge(&self, other: &Self, connection: &Connection) -> Result<Self, Error> {
        let request = FenceMerge { first: self.fd.as_fd(), second: other.fd.as_fd() };
        let reply = connection.request(Request::FenceMerge(request))?;
        answer!(reply, Reply::FenceMerge(merged) => merged.fd.into())
    }

    fn poll(&self, timeout: Option<Duration>) -> Result<bool, Errno> {
        // A timeout that does not fit is centuries long.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut set = [PollFd::new(&self.fd, PollFlags::IN)];
        Ok(rustix::event::poll(&mut set, timeout.as_ref())? > 0)
    }
}

/// The packet a fence carries: an errno or 0, and four bytes of 0. Its end without a packet means
/// that the daemon died before the work was done.
pub(crate) fn decode(word: &[u8; 8], length: usize) -> FenceState {
    let [a, b, c, d, ..] = *word;
    match i32::from_le_bytes([a, b, c, d]) {
        0 if length == word.len() => FenceState::Signalled,
        errno if length == word.len() => FenceState::Failed(errno),
        _ => FenceState::Failed(EIO),
    }
}

impl From<OwnedFd> for Fence {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Fence> for OwnedFd {
    fn from(fence: Fence) -> Self {
        fence.fd
    }
}

impl AsFd for Fence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, Fence) {
        let (theirs, ours) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("socketpair");
        (theirs, ours.into())
    }

    fn signal(daemon: OwnedFd, errno: i32) {
        let mut word = [0; 8];
        word[..4].copy_from_slice(&errno.to_le_bytes());
        send(&daemon, &word, SendFlags::NOSIGNAL).expect("send");
    }

    #[test]
    fn everybody_who_shares_a_fence_sees_its_state() {
        let (daemon, fence) = pair();
        let shared = Fence::from(fence.as_fd().try_clone_to_owned().expect("dup"));
        assert_eq!(fence.status().expect("socket"), FenceState::Pending);
        assert_eq!(fence.wait(Some(Duration::ZERO)).expect("socket"), FenceState::Pending);
        signal(daemon, 0);
        for holder in [&fence, &shared, &fence] {
            assert_eq!(holder.status().expect("socket"), FenceState::Signalled);
            assert_eq!(holder.wait(None).expect("socket"), FenceState::Signalled);
        }
    }

    #[test]
    fn lost_work_and_a_dead_daemon_are_failures() {
        let (daemon, fence) = pair();
        signal(daemon, 62);
        assert_eq!(fence.wait(None).expect("socket"), FenceState::Failed(62));
        let (daemon, fence) = pair();
        drop(daemon);
        assert_eq!(fence.wait(None).expect("socket"), FenceState::Failed(EIO));
    }

    #[test]
    fn a_wait_ends_when_another_thread_signals() {
        let (daemon, fence) = pair();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| fence.wait(Some(Duration::from_secs(60))));
            signal(daemon, 0);
            let state = waiter.join().expect("no panic").expect("socket");
            assert_eq!(state, FenceState::Signalled);
        });
    }

    #[test]
    fn what_is_neither_socket_nor_sync_file_is_looked_at_by_polling() {
        let (reader, writer) = rustix::pipe::pipe().expect("pipe");
        let fence = Fence::from(reader);
        assert_eq!(fence.status().expect("poll"), FenceState::Pending);
        drop(writer);
        assert_eq!(fence.status().expect("poll"), FenceState::Signalled);
    }
}
