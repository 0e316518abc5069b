//! Bytes nobody meant well: decoding ends, without a panic and within its memory.

use gpu_broker_protocol::execbuf::{
    self, EXTENSION_BYTES, Execbuf, FENCE_BYTES, FIXED_BYTES, OBJECT_BYTES, POINT_BYTES,
    RELOCATION_BYTES,
};
use gpu_broker_protocol::execlist::ExecbufList;
use gpu_broker_protocol::limits::BODY_BYTES_MAX;
use gpu_broker_protocol::{Header, Opcode, Reply, Request, Violation, codec};
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
            let _ = Execbuf::decode(body).map(walk);
        }),
        cost(&|| {
            let _ = ExecbufList::decode(body).map(|change| change.fits(body.len()));
        }),
    ]
    .into_iter()
    .fold(0, u64::max)
}

/// Looks at everything a decoded EXECBUF has.
fn walk(execbuf: Execbuf<'_>) -> usize {
    assert!(execbuf.fd_count() <= 1);
    execbuf.objects().count()
        + execbuf.fences().count()
        + execbuf.extensions().count()
        + execbuf.points().count()
        + execbuf.relocations().count()
}

/// What a body may cost: a serde vector reserves up to 1 MiB on the word of its length alone,
/// grows by doubling, and its elements may be several times larger than their encoding.
const COST_BYTES_MAX: u64 = 4 << 20;

/// A body of EXECBUF whose counts are what they are, perhaps with the bytes that they ask for.
fn execbuf_body() -> impl Strategy<Value = Vec<u8>> {
    let count = || {
        prop_oneof![
            4 => 0..4_u32,
            2 => prop::sample::select([1024, 1 << 16, 1 << 27, 1 << 28, 1 << 29, 1 << 31].as_slice()),
            1 => any::<u32>(),
            1 => Just(u32::MAX),
        ]
    };
    let counts = [count(), count(), count(), count()];
    let nodes = prop::collection::vec(count(), 3);
    (counts, nodes, any::<bool>(), 0..4096_usize).prop_map(|(counts, nodes, honest, tail)| {
        let few = |count: u32| if honest { count % 4 } else { count };
        let mut body = vec![0; FIXED_BYTES];
        for (place, count) in [4, 36, 40, 44].into_iter().zip(counts) {
            body[place..place + 4].copy_from_slice(&few(count).to_le_bytes());
        }
        let [objects, fences, extensions, _] = counts.map(|count| count as usize % 4);
        body.resize(FIXED_BYTES + objects * OBJECT_BYTES + fences * FENCE_BYTES, 0);
        for entries in nodes.into_iter().take(extensions) {
            let mut node = [0; EXTENSION_BYTES];
            node[32..36].copy_from_slice(&few(entries).to_le_bytes());
            body.extend(node);
        }
        body.resize(body.len() + tail, 0);
        body
    })
}

fn word(body: &[u8], at: usize) -> Option<u32> {
    let bytes = body.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// How long the body must be, or `None` when it ends before it says so. In u128, where nothing
/// overflows.
fn length_by_its_own_word(body: &[u8]) -> Option<u128> {
    let word = |at| word(body, at).map(u128::from);
    let before_nodes =
        FIXED_BYTES as u128 + word(4)? * OBJECT_BYTES as u128 + word(36)? * FENCE_BYTES as u128;
    let extensions = word(40)?;
    let nodes_end = before_nodes + extensions * EXTENSION_BYTES as u128;
    if nodes_end > body.len() as u128 {
        return None;
    }
    let mut points = 0;
    for node in 0..extensions {
        let at = before_nodes + node * EXTENSION_BYTES as u128 + 32;
        points += word(usize::try_from(at).ok()?)?;
    }
    Some(nodes_end + points * POINT_BYTES as u128 + word(44)? * RELOCATION_BYTES as u128)
}

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

    /// A body is taken apart if, and only if, it is exactly as long as its counts say.
    #[test]
    fn counts_of_an_execbuf(body in execbuf_body(), cut: bool) {
        let mut body = body;
        let expected = length_by_its_own_word(&body);
        if let (true, Some(length)) = (cut, expected) {
            body.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        let decoded = Execbuf::decode(&body);
        match expected {
            Some(length) if length == body.len() as u128 => {
                let execbuf = decoded.expect("it is as long as it says");
                let said = |at| word(&body, at).expect("decoded") as usize;
                prop_assert_eq!(execbuf.objects().count(), said(4));
                prop_assert_eq!(execbuf.fences().count(), said(36));
                prop_assert_eq!(execbuf.extensions().count(), said(40));
                prop_assert_eq!(execbuf.relocations().count(), said(44));
                let owned: u32 = execbuf.extensions().map(|node| node.entry_count).sum();
                prop_assert_eq!(execbuf.points().count(), owned as usize);
            }
            Some(length) if length < body.len() as u128 => {
                prop_assert_eq!(decoded.err(), Some(Violation::Trailing));
            }
            _ => prop_assert_eq!(decoded.err(), Some(Violation::Short)),
        }
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

#[test]
fn reserved_words_of_an_execbuf_are_zero() {
    for (count_at, record, reserved) in [(4, OBJECT_BYTES, 40..48), (40, EXTENSION_BYTES, 36..40)] {
        let mut body = vec![0; FIXED_BYTES + record];
        body[count_at] = 1;
        assert!(Execbuf::decode(&body).is_ok());
        for place in reserved {
            let mut body = body.clone();
            body[FIXED_BYTES + place] = 1;
            assert_eq!(Execbuf::decode(&body).err(), Some(Violation::Malformed), "byte {place}");
        }
    }
}

/// Two nodes whose points would be none if their number wrapped around.
#[test]
fn points_beyond_counting_are_not_there() {
    let mut body = vec![0; FIXED_BYTES];
    body[40] = 2;
    for entries in [1 << 31; 2] {
        let mut node = [0; EXTENSION_BYTES];
        node[32..36].copy_from_slice(&u32::to_le_bytes(entries));
        body.extend(node);
    }
    assert_eq!(Execbuf::decode(&body).err(), Some(Violation::Short));
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
        (Opcode::BufferCreate, [[0; 12].as_slice(), &[1]].concat()),
        (Opcode::Query, vec![0; 4]),
        (Opcode::SyncobjReset, vec![]),
        (Opcode::SyncobjWait, vec![]),
        (Opcode::SyncobjTimelineSignal, vec![]),
        (Opcode::SyncobjQuery, vec![]),
    ] {
        // What fits: bytes of a name, names of syncobjs or regions, points, items of a query,
        // extensions of 24 bytes each (28 with a variant).
        for element in [1, 4, 8, 12, 24, 28] {
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
