//! What the fuzz targets do with their input; the tests do the same with the checked-in corpus.

use gpu_broker_protocol::codec::{decode_event, decode_refusal, encode_reply, encode_request};
use gpu_broker_protocol::execbuf::Execbuf;
use gpu_broker_protocol::header::Opcode;
use gpu_broker_protocol::{Header, HeaderFlags, Reply, Request};

/// Decodes a packet in every way it can be meant. Whatever decodes must encode to the same bytes,
/// or two clients could mean different things by one message.
///
/// # Panics
/// When that does not hold.
pub fn decode(packet: &[u8]) {
    let Ok((header, body)) = Header::split(packet) else { return };
    if header.opcode == Opcode::Execbuf as u16
        && let Ok(execbuf) = Execbuf::decode(body)
    {
        let objects: Vec<_> = execbuf.objects().collect();
        let mut again = Vec::new();
        gpu_broker_protocol::execbuf::encode(&execbuf.head, &objects, &mut again);
        assert_eq!(again, body, "EXECBUF does not encode as it decoded");
    }
    if let Ok(request) = Request::decode(header.opcode, body) {
        let mut again = Vec::new();
        if encode_request(header.seq, &request, &mut again).is_ok() {
            assert_eq!(again.get(8..), Some(body), "{request:?} does not encode as it decoded");
        }
    }
    if let Ok(reply) = Reply::decode(header.opcode, body) {
        let mut again = Vec::new();
        if encode_reply(header.seq, &reply, &mut again).is_ok() {
            assert_eq!(again.get(8..), Some(body), "{reply:?} does not encode as it decoded");
        }
    }
    if header.flags & HeaderFlags::EVENT != 0 {
        let _ = decode_event(header.opcode, body);
    }
    let _ = decode_refusal(body);
}
