//! What is encoded decodes to itself, and nothing shorter or longer does.

use gpu_broker_protocol::admin::AdminListen;
use gpu_broker_protocol::codec::MapFds;
use gpu_broker_protocol::execbuf::{ExecExtension, ExecPoint};
use gpu_broker_protocol::message::*;
use gpu_broker_protocol::object::{BufferExported, BufferFenceImport, BufferImport};
use gpu_broker_protocol::shared_status::SharedStatus;
use gpu_broker_protocol::syncobj::{SyncobjExported, SyncobjImport};
use gpu_broker_protocol::userptr::UserptrCreate;
use gpu_broker_protocol::{Header, HeaderFlags, Opcode, Reply, Request, Violation, codec};
use proptest::prelude::*;

use crate::strategies;
use crate::submission::Submission;

proptest! {
    #[test]
    fn requests(request in strategies::request(), seq: u32) {
        let mut packet = vec![0xaa];
        prop_assert_eq!(codec::encode_request(seq, &request, &mut packet), Ok(()));
        prop_assert_eq!(packet.remove(0), 0xaa, "encoding appends");
        let (header, body) = Header::split(&packet).expect("a header");
        prop_assert_eq!(header, Header { opcode: request.opcode() as u16, flags: 0, seq });
        prop_assert_eq!(Request::decode(header.opcode, body), Ok(request));
    }

    #[test]
    fn replies(reply in strategies::reply(), seq: u32) {
        let mut packet = Vec::new();
        prop_assert_eq!(codec::encode_reply(seq, &reply, &mut packet), Ok(()));
        let (header, body) = Header::split(&packet).expect("a header");
        let flags = HeaderFlags::REPLY;
        prop_assert_eq!(header, Header { opcode: reply.opcode() as u16, flags, seq });
        prop_assert_eq!(Reply::decode(header.opcode, body), Ok(reply));
    }

    #[test]
    fn execbufs(submission in strategies::execbuf(), seq: u32) {
        let mut packet = Vec::new();
        prop_assert_eq!(submission.encode(seq, &mut packet), Ok(()));
        let (header, body) = Header::split(&packet).expect("a header");
        prop_assert_eq!(header, Header { opcode: Opcode::Execbuf as u16, flags: 0, seq });
        prop_assert_eq!(Submission::decode(body), Ok(submission));
    }

    #[test]
    fn a_request_that_is_cut_or_lengthened_is_a_violation(
        request in strategies::request(), cut: prop::sample::Index, extra: u8,
    ) {
        let mut packet = Vec::new();
        codec::encode_request(1, &request, &mut packet).expect("it fits");
        let opcode = request.opcode() as u16;
        let mut body = packet.split_off(8);
        if !body.is_empty() {
            let cut = cut.index(body.len());
            let decoded = Request::decode(opcode, &body[..cut]);
            prop_assert_eq!(decoded, Err(Violation::Short), "cut to {} bytes", cut);
        }
        body.push(extra);
        prop_assert_eq!(Request::decode(opcode, &body), Err(Violation::Trailing));
    }

    #[test]
    fn an_execbuf_that_is_cut_or_lengthened_is_a_violation(
        submission in strategies::execbuf(), cut: prop::sample::Index, extra: u8,
    ) {
        let mut packet = Vec::new();
        submission.encode(1, &mut packet).expect("it fits");
        let mut body = packet.split_off(8);
        let cut = cut.index(body.len());
        prop_assert_eq!(Submission::decode(&body[..cut]), Err(Violation::Short));
        body.push(extra);
        prop_assert_eq!(Submission::decode(&body), Err(Violation::Trailing));
    }

    /// Fds are taken out and put back in the order of the fields, all of them, and nothing else
    /// about the message changes.
    #[test]
    fn fds_are_numbered_in_order(request in strategies::request(), reply in strategies::reply()) {
        prop_assert_eq!(renumbered(request.clone(), request_fds), Ok(request));
        prop_assert_eq!(renumbered(reply.clone(), reply_fds), Ok(reply));
    }
}

/// Numbers the fds of a message, checks that `named` finds them numbered in order, and takes them
/// out again.
fn renumbered<M>(message: M, named: impl FnOnce(&M::Over<u32>) -> Vec<u32>) -> Result<M, Violation>
where
    M: MapFds<FdSlot>,
    M::Over<u32>: MapFds<u32, Over<FdSlot> = M>,
{
    let mut count = 0;
    let numbered = message.map_fds(|FdSlot| {
        count += 1;
        Ok(count)
    })?;
    assert_eq!(named(&numbered), (1..=count).collect::<Vec<u32>>());
    let mut taken = 0;
    numbered.map_fds(|number| {
        taken += 1;
        assert_eq!(number, taken);
        Ok(FdSlot)
    })
}

/// The fds of a request, in the order WIRE.md lists the fields.
fn request_fds(request: &Request<u32>) -> Vec<u32> {
    if let Request::Ping(Ping { fd: Some(fd), .. })
    | Request::FenceStatus(FenceStatusQuery { fd })
    | Request::BufferImport(BufferImport { fd })
    | Request::BufferFenceImport(BufferFenceImport { fd, .. })
    | Request::UserptrCreate(UserptrCreate { memfd: fd, .. })
    | Request::SyncobjImport(SyncobjImport { fd, .. }) = request
    {
        vec![*fd]
    } else if let Request::FenceMerge(FenceMerge { first, second }) = request {
        vec![*first, *second]
    } else if let Request::AdminListen(AdminListen { socket, close, .. }) = request {
        vec![*socket, *close]
    } else {
        vec![]
    }
}

fn reply_fds(reply: &Reply<u32>) -> Vec<u32> {
    if let Reply::Ping(Ping { fd: Some(fd), .. })
    | Reply::BufferMap(BufferMapped { fd, .. })
    | Reply::BufferExport(BufferExported { fd })
    | Reply::SharedStatus(SharedStatus { fd })
    | Reply::Execbuf(ExecbufReply { fence: Some(fd), .. })
    | Reply::ExecbufList(ExecbufReply { fence: Some(fd), .. })
    | Reply::FenceMerge(Fence { fd })
    | Reply::BufferFenceExport(Fence { fd })
    | Reply::SyncobjExport(SyncobjExported { fd }) = reply
    {
        vec![*fd]
    } else {
        vec![]
    }
}

#[test]
fn points_that_no_extension_owns_are_not_sent() {
    let node = |entry_count| ExecExtension { entry_count, ..ExecExtension::default() };
    let submission = |extensions, points: usize| Submission {
        extensions,
        points: vec![ExecPoint::default(); points],
        ..Submission::default()
    };
    for (extensions, points, result) in [
        (vec![], 0, Ok(())),
        (vec![node(2), node(0), node(1)], 3, Ok(())),
        (vec![], 1, Err(Violation::Malformed)),
        (vec![node(2)], 1, Err(Violation::Malformed)),
        (vec![node(u32::MAX), node(2)], 1, Err(Violation::Malformed)),
    ] {
        let mut packet = vec![7];
        assert_eq!(submission(extensions, points).encode(1, &mut packet), result);
        assert_eq!(packet.len() > 1, result.is_ok(), "nothing is left in the buffer");
    }
}

#[test]
fn a_message_that_is_too_long_leaves_the_buffer_as_it_was() {
    use gpu_broker_protocol::limits::{BODY_BYTES_MAX, MESSAGE_BYTES_MAX};
    let hello = |length: usize| {
        let client_name = "x".repeat(length);
        Request::Hello(Hello { major: 1, minor_min: 0, minor_max: 0, features: 0, client_name })
    };
    // Three u16, a u64 and the name's length come before the name.
    let fits = BODY_BYTES_MAX - 6 - 8 - 8;
    let mut packet = vec![1, 2, 3];
    assert_eq!(codec::encode_request(1, &hello(fits), &mut packet), Ok(()));
    assert_eq!(packet.len(), 3 + MESSAGE_BYTES_MAX);
    packet.truncate(3);
    let result = codec::encode_request(1, &hello(fits + 1), &mut packet);
    assert!(matches!(result, Err(Violation::TooLong | Violation::Malformed)), "{result:?}");
    assert_eq!(packet, [1, 2, 3]);
}
