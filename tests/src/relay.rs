//! Stands between a client and a daemon, passes packets and fds on, and counts bytes.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use gpu_broker_protocol::limits::{FDS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, listen, recvmsg, sendmsg, shutdown, socket_with,
};

/// What went over a connection until both sides had closed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of the client's packets.
    pub to_daemon: u64,
    /// Bytes of the daemon's packets.
    pub to_client: u64,
}

/// Listens on `path`, connects one client to the daemon at `daemon`, and answers what went over
/// the connection when it is closed. `look` is called after each packet of the daemon.
///
/// # Panics
/// When a socket cannot be made.
pub fn relay(
    path: &Path,
    daemon: &Path,
    look: impl FnMut() + Send + 'static,
) -> thread::JoinHandle<Traffic> {
    let seqpacket = || {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket")
    };
    let address = |path: &Path| SocketAddrUnix::new(path).expect("a short path");
    let listener = seqpacket();
    bind(&listener, &address(path)).expect("the path is free");
    listen(&listener, 1).expect("a bound socket");
    let (server, daemon) = (seqpacket(), address(daemon));
    thread::spawn(move || {
        let client = accept_with(&listener, SocketFlags::CLOEXEC).expect("a client");
        connect(&server, &daemon).expect("the daemon listens");
        thread::scope(|scope| {
            let up = scope.spawn(|| pass_on(&client, &server, || ()));
            let to_client = pass_on(&server, &client, look);
            Traffic { to_daemon: up.join().expect("no panic"), to_client }
        })
    })
}

/// Passes packets on until the sender closes; answers their bytes.
fn pass_on(from: &OwnedFd, to: &OwnedFd, mut look: impl FnMut()) -> u64 {
    let mut packet = vec![0; MESSAGE_BYTES_MAX];
    let mut sum = 0;
    while let Some((bytes, fds)) = receive(from, &mut packet) {
        look();
        sum += bytes as u64;
        if send(to, &packet[..bytes], &fds).is_none() {
            break;
        }
    }
    // The other direction ends too, as soon as the other side sees it.
    let _ = shutdown(to, Shutdown::Write);
    sum
}

fn receive(from: &OwnedFd, packet: &mut [u8]) -> Option<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(from, &mut [IoSliceMut::new(packet)], &mut control, flags).ok()?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    (got.bytes != 0).then_some((got.bytes, fds))
}

fn send(to: &OwnedFd, packet: &[u8], fds: &[OwnedFd]) -> Option<()> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)), "few fds");
    sendmsg(to, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).ok().map(drop)
}
