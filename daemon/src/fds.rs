//! Getting rid of fds that came from clients.
//!
//! Closing an fd can block: a file of a FUSE file system until its server has answered, a TCP
//! socket with SO_LINGER until its peer has. A client chooses what it sends, so the thread that
//! serves the others closes only what it knows to close at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{AtFlags, MemfdFlags, StatxFlags};
use rustix::net::RecvFlags;

use crate::packet::Fds;

/// Of so many blocks of 512 bytes, a mebibyte, a file in memory is large.
const LARGE_BLOCKS: i64 = 2048;
/// What may wait for a closing thread.
const QUEUE_MAX: usize = 8192;
/// Closing threads, all but one of which a client may have made wait before others notice.
const THREADS_MAX: usize = 16;

/// Closes the fds, on another thread if it might block.
pub(crate) fn dispose(fds: Fds) {
    for fd in fds {
        if closes_at_once(&fd) {
            drop(fd);
        } else {
            CLOSERS.hand_over(Job::Close(fd));
        }
    }
}

/// Hangs up on a client, on another thread: what the client has sent and we have not read is
/// closed with the socket.
pub(crate) fn dispose_connection(socket: OwnedFd) {
    CLOSERS.hand_over(Job::HangUp(socket));
}

/// Whether the fd lives on a file system of the kernel's own whose files close without waiting
/// for anybody: memfds, pipes, and anonymous inodes such as eventfds. Asks nobody but the kernel.
fn closes_at_once(fd: &OwnedFd) -> bool {
    // Only files in memory have seals, and those are what clients send most. This costs a third of
    // what the other question does. The last one to close such a file frees its pages, which of a large
    // one takes long.
    if rustix::fs::fcntl_get_seals(fd).is_ok() {
        return !is_large(fd);
    }
    device_of(fd).is_some_and(|device| harmless_devices().contains(&Some(device)))
}

/// Whether a file in memory has many pages; also if it does not say.
fn is_large(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).map_or(true, |stat| stat.st_blocks >= LARGE_BLOCKS)
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

enum Job {
    Close(OwnedFd),
    HangUp(OwnedFd),
}

impl Job {
    fn run(self) {
        match self {
            Self::Close(fd) => drop(fd),
            Self::HangUp(socket) => {
                // A socket closed with packets unread gives its peer ECONNRESET before the
                // epitaph. It was shut down or its peer is gone, so this comes to an end.
                let mut byte = [0u8];
                while let Ok((1.., _)) = rustix::net::recv(&socket, &mut byte, RecvFlags::DONTWAIT)
                {
                }
            }
        }
    }
}

/// Threads that close what may block, started as they are needed.
static CLOSERS: Closers = Closers { queue: Mutex::new(Queue::new()), filled: Condvar::new() };

struct Closers {
    queue: Mutex<Queue>,
    filled: Condvar,
}

struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
}

impl Queue {
    const fn new() -> Self {
        Self { jobs: VecDeque::new(), threads: 0, idle: 0 }
    }
}

impl Closers {
    fn hand_over(&'static self, job: Job) {
        let mut queue = self.lock();
        if queue.jobs.len() >= QUEUE_MAX {
            drop(queue);
            tracing::warn!("all threads that close file descriptors are stuck; one stays open");
            return std::mem::forget(job);
        }
        queue.jobs.push_back(job);
        if queue.idle < queue.jobs.len() && queue.threads < THREADS_MAX {
            queue.threads += 1;
            drop(queue);
            self.start_thread();
        } else {
            drop(queue);
        }
        self.filled.notify_one();
    }

    fn start_thread(&'static self) {
        let thread = std::thread::Builder::new().name("close".to_owned()).stack_size(64 * 1024);
        if let Err(error) = thread.spawn(|| self.work()) {
            tracing::warn!(%error, "cannot start a thread to close file descriptors");
            self.lock().threads -= 1;
        }
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job.run();
                queue = self.lock();
            } else {
                queue.idle += 1;
                queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn memfds_with_many_pages_close_elsewhere() {
        let memfd = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&memfd, 1 << 40).expect("sparse");
        assert!(closes_at_once(&memfd), "no pages, however long it is");
        rustix::io::pwrite(&memfd, &vec![1; 2 << 20], 0).expect("memory");
        assert!(!closes_at_once(&memfd));
    }

    #[test]
    fn what_is_disposed_of_is_closed() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let (mut end, socket) = std::os::unix::net::UnixStream::pair().expect("sockets");
        dispose(Fds::from_iter([OwnedFd::from(writer), OwnedFd::from(socket)]));
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest).expect("end of file"), 0);
        assert_eq!(end.read(&mut [0; 4]).expect("end of file"), 0);
    }

    #[test]
    fn a_close_that_blocks_holds_nobody_up() {
        let (stuck, peer) = lingering_socket();
        for fd in stuck {
            dispose(Fds::from_iter([fd]));
        }
        let (mut end, socket) = std::os::unix::net::UnixStream::pair().expect("sockets");
        dispose(Fds::from_iter([OwnedFd::from(socket)]));
        assert_eq!(end.read(&mut [0; 4]).expect("end of file"), 0);
        drop(peer);
    }

    /// TCP sockets whose close waits an hour, or until the peer reads or goes away.
    fn lingering_socket() -> (Vec<OwnedFd>, Vec<std::net::TcpStream>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let pair = |_| {
            let socket = std::net::TcpStream::connect(address).expect("listening");
            let (peer, _) = listener.accept().expect("connected");
            let hour = Some(std::time::Duration::from_secs(3600));
            rustix::net::sockopt::set_socket_linger(&socket, hour).expect("TCP");
            socket.set_nonblocking(true).expect("socket");
            while (&socket).write(&[0; 65536]).is_ok() {}
            (OwnedFd::from(socket), peer)
        };
        (0..4).map(pair).unzip()
    }
}
