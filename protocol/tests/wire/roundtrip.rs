//! What is encoded decodes to itself, and nothing shorter or longer does.

use gpu_broker_protocol::execbuf::Execbuf;
use gpu_broker_protocol::{Header, HeaderFlags, Opcode, Reply, Request, Violation, codec};
use proptest::prelude::*;

use crate::strategies;

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
    fn execbufs((head, objects) in strategies::execbuf(), seq: u32) {
        let mut packet = Vec::new();
        prop_assert_eq!(codec::encode_execbuf(seq, &head, &objects, &mut packet), Ok(()));
        let (header, body) = Header::split(&packet).expect("a header");
        prop_assert_eq!(header, Header { opcode: Opcode::Execbuf as u16, flags: 0, seq });
        let decoded = Execbuf::decode(body).expect("whole");
        prop_assert_eq!(decoded.head, head);
        prop_assert_eq!(decoded.objects().collect::<Vec<_>>(), objects);
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
        (head, objects) in strategies::execbuf(), cut: prop::sample::Index, extra: u8,
    ) {
        let mut packet = Vec::new();
        codec::encode_execbuf(1, &head, &objects, &mut packet).expect("it fits");
        let mut body = packet.split_off(8);
        let cut = cut.index(body.len());
        prop_assert_eq!(Execbuf::decode(&body[..cut]).err(), Some(Violation::Short));
        body.push(extra);
        prop_assert_eq!(Execbuf::decode(&body).err(), Some(Violation::Trailing));
    }
}

#[test]
fn a_message_that_is_too_long_leaves_the_buffer_as_it_was() {
    use gpu_broker_protocol::limits::{BODY_BYTES_MAX, MESSAGE_BYTES_MAX};
    use gpu_broker_protocol::message::Hello;
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
