//! The reference: a process that answers every packet with itself, and nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socketpair,
};

/// Bytes of a packet each way.
const PACKET_BYTES: usize = 64;

/// Answers packets on standard input until the other side hangs up: the child's side of [`Echo`].
///
/// # Errors
/// Standard input is not a socket, or the socket failed.
pub(super) fn serve() -> io::Result<()> {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    let mut packet = [0; PACKET_BYTES];
    loop {
        let (_, bytes) = recv(socket, &mut packet[..], RecvFlags::empty())?;
        if bytes == 0 {
            return Ok(());
        }
        send(socket, packet.get(..bytes).unwrap_or_default(), SendFlags::NOSIGNAL)?;
    }
}

/// A running reference process. Ends when dropped.
#[derive(Debug)]
pub(super) struct Echo {
    process: Child,
    socket: OwnedFd,
}

impl Echo {
    /// Starts the process, on the processor of the calling thread.
    ///
    /// # Errors
    /// No socket pair or no process could be made.
    pub(super) fn start() -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let process = Command::new(std::env::current_exe()?)
            .args(["bench", "--echo"])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { process, socket })
    }

    /// Plays `trips` rounds and answers what one took.
    ///
    /// # Errors
    /// The socket failed or the process is gone.
    pub(super) fn slice(&mut self, trips: u32) -> io::Result<Duration> {
        let mut packet = [0; PACKET_BYTES];
        let started = Instant::now();
        for _ in 0..trips {
            send(&self.socket, &packet, SendFlags::NOSIGNAL)?;
            let (_, bytes) = recv(&self.socket, &mut packet[..], RecvFlags::empty())?;
            if bytes != PACKET_BYTES {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(started.elapsed() / trips.max(1))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and none leaves more behind than a process
        // that ends with this one, when the socket closes.
        let _hung_up = shutdown(&self.socket, Shutdown::Both);
        let _status = self.process.wait();
    }
}
