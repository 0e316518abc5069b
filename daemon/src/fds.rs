//! Getting rid of fds that came from clients.
//!
//! Closing an fd can block: a file of a FUSE file system until its server has answered, a TCP
//! socket with SO_LINGER until its peer has. A client chooses what it sends, so the thread that
//! serves the others closes only what it knows to close at once.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use rustix::fs::{AtFlags, MemfdFlags, StatxFlags};

use crate::packet::Fds;

/// Fds that wait for one closing thread.
const QUEUE_MAX: usize = 64;
/// Closing threads, each of which a client may have made wait.
const THREADS_MAX: usize = 16;

/// Closes the fds, on another thread if it might block.
pub(crate) fn dispose(fds: Fds) {
    for fd in fds {
        if closes_at_once(&fd) {
            drop(fd);
        } else {
            hand_over(fd);
        }
    }
}

/// Whether the fd lives on a file system of the kernel's own whose files close without waiting
/// for anybody: memfds, pipes, and anonymous inodes such as eventfds. Asks nobody but the kernel.
fn closes_at_once(fd: &OwnedFd) -> bool {
    device_of(fd).is_some_and(|device| harmless_devices().contains(&Some(device)))
}

fn device_of(fd: &OwnedFd) -> Option<(u32, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd.as_fd(), c"", flags, StatxFlags::INO).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor))
}

/// The file systems of a memfd, a pipe and an eventfd of our own. Sockets have theirs too, but may
/// linger.
fn harmless_devices() -> &'static [Option<(u32, u32)>; 3] {
    static DEVICES: OnceLock<[Option<(u32, u32)>; 3]> = OnceLock::new();
    DEVICES.get_or_init(|| {
        use rustix::event::{EventfdFlags, eventfd};
        use rustix::fs::memfd_create;
        use rustix::pipe::{PipeFlags, pipe_with};
        [
            memfd_create(c"gpu-brokerd", MemfdFlags::CLOEXEC).ok().as_ref().and_then(device_of),
            pipe_with(PipeFlags::CLOEXEC).ok().and_then(|(end, _)| device_of(&end)),
            eventfd(0, EventfdFlags::CLOEXEC).ok().as_ref().and_then(device_of),
        ]
    })
}

/// Gives the fd to a thread that has time. When all are stuck, the fd is kept open for good:
/// whoever filled the queues has made us wait sixteen times already.
fn hand_over(fd: OwnedFd) {
    static CLOSERS: [OnceLock<Option<SyncSender<OwnedFd>>>; THREADS_MAX] =
        [const { OnceLock::new() }; THREADS_MAX];
    let mut fd = fd;
    for closer in &CLOSERS {
        let Some(sender) = closer.get_or_init(start_closer) else { continue };
        match sender.try_send(fd) {
            Ok(()) => return,
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => fd = back,
        }
    }
    tracing::warn!("all threads that close file descriptors are stuck; one stays open");
    std::mem::forget(fd);
}

fn start_closer() -> Option<SyncSender<OwnedFd>> {
    let (sender, receiver) = sync_channel::<OwnedFd>(QUEUE_MAX);
    let run = move || receiver.into_iter().for_each(drop);
    let started =
        std::thread::Builder::new().name("close".to_owned()).stack_size(64 * 1024).spawn(run);
    match started {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::warn!(%error, "cannot start a thread to close file descriptors");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn memfds_and_pipes_close_at_once_and_sockets_elsewhere() {
        let memfd = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC).expect("memfd");
        assert!(closes_at_once(&memfd));
        let (reader, writer) = std::io::pipe().expect("pipe");
        assert!(closes_at_once(&reader.into()) && closes_at_once(&writer.into()));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        assert!(!closes_at_once(&socket.into()));
        assert!(!closes_at_once(&std::fs::File::open("/proc/self/exe").expect("file").into()));
    }

    #[test]
    fn what_is_disposed_of_is_closed() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let (mut end, socket) = std::os::unix::net::UnixStream::pair().expect("sockets");
        end.write_all(b"x").expect("room");
        dispose(Fds::from_iter([OwnedFd::from(writer), OwnedFd::from(socket)]));
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest).expect("end of file"), 0);
        // The socket was closed with a byte unread, which its peer learns.
        assert!(matches!(end.read(&mut [0; 4]), Ok(0) | Err(_)));
    }
}
