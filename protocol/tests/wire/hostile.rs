//! Bytes nobody meant well: decoding ends, without a panic and within its memory.

use gpu_broker_protocol::execbuf::{self, Execbuf};
use gpu_broker_protocol::limits::BODY_BYTES_MAX;
use gpu_broker_protocol::{Header, Opcode, Reply, Request, codec};
use proptest::prelude::*;

use crate::golden;

/// Decodes `body` as everything it could be; answers how many bytes one of the decoders held at
/// most.
fn decode_as_everything(opcode: u16, body: &[u8]) -> u64 {
    let cost = |decode: &dyn Fn()| allocation_counter::measure(decode).bytes_max;
    [
        cost(&|| drop(Request::decode(opcode, body))),
        cost(&|| drop(Reply::decode(opcode, body))),
        cost(&|| drop(codec::decode_refusal(body))),
        cost(&|| drop(codec::decode_event(opcode, body))),
        cost(&|| drop(execbuf::decode_reply(body))),
        cost(&|| {
            let _ = Execbuf::decode(body).map(|execbuf| execbuf.objects().count());
        }),
    ]
    .into_iter()
    .fold(0, u64::max)
}

/// What a body may cost: a serde vector reserves up to 1 MiB on the word of its length alone,
/// grows by doubling, and its elements may be several times larger than their encoding.
const COST_BYTES_MAX: u64 = 4 << 20;

fn opcode() -> impl Strategy<Value = u16> {
    prop_oneof![
        9 => prop::sample::select(Opcode::ALL).prop_map(|opcode| opcode as u16),
        1 => any::<u16>(),
    ]
}

proptest! {
    #[test]
    fn random_bytes(opcode in opcode(), body in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode_as_everything(opcode, &body) <= COST_BYTES_MAX);
    }

    /// Real messages with a few bytes changed come further than random bytes.
    #[test]
    fn damaged_messages(
        which: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let golden = golden::entries();
        let (_, mut packet) = golden[which.index(golden.len())].clone();
        for (place, byte) in damage {
            let place = place.index(packet.len());
            packet[place] = byte;
        }
        let (header, body) = Header::split(&packet).expect("a header");
        prop_assert!(decode_as_everything(header.opcode, body) <= COST_BYTES_MAX);
    }
}

/// The attack that a limit is for: a length that promises more than memory holds.
#[test]
fn huge_lengths_allocate_little() {
    for length in [u64::MAX, i64::MAX.cast_unsigned(), 1 << 40, 1 << 32, 1 << 20, 1 << 16] {
        for (name, packet) in golden::entries() {
            let (header, body) = Header::split(&packet).expect("a header");
            for place in 0..body.len().saturating_sub(7) {
                let mut body = body.to_vec();
                body[place..place + 8].copy_from_slice(&length.to_le_bytes());
                let cost = decode_as_everything(header.opcode, &body);
                assert!(cost <= COST_BYTES_MAX, "{name}, length at {place}: {cost} bytes");
            }
        }
    }
}

/// The largest bodies that are true to their word.
#[test]
fn the_longest_bodies_stay_within_their_cost() {
    for (opcode, head) in [
        (Opcode::VmCreate, vec![0; 4]),
        (Opcode::ContextCreate, vec![0; 4]),
        (Opcode::Hello, vec![0; 14]),
    ] {
        // What fits: extensions of 24 bytes each (28 with a variant), or bytes of a name.
        for element in [1, 24, 28] {
            let count = (BODY_BYTES_MAX - head.len() - 8) / element;
            let mut body = head.clone();
            body.extend((count as u64).to_le_bytes());
            body.resize(body.len() + count * element, 0);
            let cost = decode_as_everything(opcode as u16, &body);
            assert!(cost <= COST_BYTES_MAX, "{opcode:?}: {cost} bytes");
        }
    }
}

#[test]
fn every_opcode_number_is_decoded_or_unknown() {
    for number in 0..=u16::MAX {
        let known = Opcode::from_u16(number);
        assert_eq!(known.map(|opcode| opcode as u16), known.map(|_| number));
        decode_as_everything(number, &[0; 64]);
    }
    assert!(Opcode::ALL.iter().all(|opcode| Opcode::from_u16(*opcode as u16) == Some(*opcode)));
}
