//! The other end of a connection, driven by hand.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gpu_broker_client::protocol::message::{DeviceInfo, Event, HelloReply, Limits, Ping};
use gpu_broker_client::protocol::violation::Epitaph;
use gpu_broker_client::protocol::{
    EpitaphCode, FdSlot, Header, Opcode, Reply, SessionId, codec, limits,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The daemon's end.
pub(crate) struct Fake {
    socket: OwnedFd,
}

/// A fake daemon and the client's end of its socket.
pub(crate) fn pair() -> (Fake, OwnedFd) {
    let (socket, client) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("socketpair");
    (Fake { socket }, client)
}

impl Fake {
    /// The next request's header and body; `None` when the client is gone.
    pub(crate) fn next(&self) -> Option<(Header, Vec<u8>)> {
        let mut packet = vec![0; limits::MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut packet)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .ok()?;
        packet.truncate(got.bytes);
        let (header, body) = Header::split(&packet).ok()?;
        Some((header, body.to_vec()))
    }

    /// The next request, which must have this opcode; its number.
    #[track_caller]
    pub(crate) fn expect(&self, opcode: Opcode) -> u32 {
        let (header, _) = self.next().expect("a request");
        assert_eq!(header.opcode, opcode as u16);
        assert_eq!(header.flags, 0);
        header.seq
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&self.socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)
            .expect("the client is there");
    }

    pub(crate) fn reply(&self, seq: u32, reply: &Reply<FdSlot>) {
        let mut packet = Vec::new();
        codec::encode_reply(seq, reply, &mut packet).expect("it fits");
        self.send(&packet, &[]);
    }

    pub(crate) fn pong(&self, seq: u32, payload: u64) {
        self.reply(seq, &Reply::Ping(Ping { payload, fd: None }));
    }

    /// Answers HELLO.
    pub(crate) fn greet(&self) {
        let seq = self.expect(Opcode::Hello);
        self.reply(seq, &Reply::Hello(hello()));
    }

    /// Says why, and closes.
    pub(crate) fn end(self, code: EpitaphCode) {
        let mut packet = Vec::new();
        let epitaph = Epitaph { code, text: "on purpose".into() };
        codec::encode_event(&Event::Epitaph(epitaph), &mut packet).expect("it fits");
        self.send(&packet, &[]);
    }
}

impl AsFd for Fake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The number a ping carries.
pub(crate) fn payload(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().expect("eight bytes"))
}

pub(crate) fn hello() -> HelloReply {
    let limits = Limits {
        message_bytes: 65_536,
        fds_per_message: 4,
        contexts: 1,
        vms: 1,
        buffers: 1,
        buffer_bytes: 1,
        buffer_memory_bytes: 1,
        objects_per_execbuf: 1,
        submissions_in_flight: 1,
        pending_waits: 1,
        fences: 1,
    };
    let device = DeviceInfo {
        driver: "fake".into(),
        name: "fake".into(),
        vendor_id: 0,
        device_id: 0,
        revision: 0,
        graphics_version: 9,
        gtt_bytes: 1 << 48,
        timestamp_hz: 1,
        wedged: false,
        engines: vec![],
    };
    HelloReply { major: 1, minor: 0, features: 3, session: SessionId(7), limits, device }
}
