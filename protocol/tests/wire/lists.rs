//! EXECBUF_LIST: what is encoded decodes to itself, and a list is what the edits make of it.

use gpu_broker_protocol::execlist::{ExecbufList, FIXED_BYTES, ListHead, NOTHING, RUN, edit};
use gpu_broker_protocol::limits::{EXECBUF_LIST_BYTES_MAX, EXECBUF_LISTS_PER_SESSION_MAX};
use gpu_broker_protocol::{Header, Opcode, Violation, codec};
use proptest::collection::vec;
use proptest::prelude::*;

/// A change of a list as the tests hold it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) head: ListHead,
    pub(crate) edits: Vec<(u32, Vec<u8>)>,
}

impl Change {
    /// The whole message.
    pub(crate) fn encode(&self, seq: u32, out: &mut Vec<u8>) -> Result<(), Violation> {
        let count = |bytes: &Vec<u8>| u32::try_from(bytes.len()).expect("short");
        let edits: Vec<_> = self.edits.iter().map(|(at, put)| edit(*at, count(put))).collect();
        let bytes = self.edits.iter().flat_map(|(_, put)| put.clone()).collect::<Vec<_>>();
        codec::encode_execbuf_list(seq, &ExecbufList::new(self.head, &edits, &bytes), out)
    }

    /// Its body.
    fn body(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        self.encode(1, &mut packet).expect("it fits");
        packet.split_off(8)
    }

    /// The inverse.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Violation> {
        let change = ExecbufList::decode(body)?;
        let mut rest = &body[FIXED_BYTES + 8 * change.edits().len()..];
        let mut edits = Vec::new();
        for (offset, count) in change.edits() {
            let (put, after) = rest.split_at(count as usize);
            edits.push((offset, put.to_vec()));
            rest = after;
        }
        Ok(Self { head: change.head, edits })
    }
}

fn change() -> impl Strategy<Value = Change> {
    let edits = vec((0..40_u32, vec(any::<u8>(), 0..20)), 0..5);
    (0..6_u32, any::<bool>(), 0..3_u64, any::<u64>(), 0..50_u32, edits).prop_map(
        |(list, runs, base, next, length, edits)| {
            let flags = if runs { RUN } else { 0 };
            Change { head: ListHead { list, flags, base, next, length }, edits }
        },
    )
}

/// A change that can be made to a list of so many bytes.
fn possible(before: usize) -> impl Strategy<Value = Change> {
    let edits = vec((any::<prop::sample::Index>(), vec(any::<u8>(), 0..20)), 0..5);
    (any::<prop::sample::Index>(), edits).prop_map(move |(cut, edits)| {
        let cut = cut.index(before + 1);
        let mut end = cut;
        let mut made = Vec::new();
        for (place, put) in edits {
            let offset = place.index(end + 1);
            end = end.max(offset + put.len());
            made.push((u32::try_from(offset).expect("short"), put));
        }
        let length = u32::try_from(end).expect("short");
        // Cut shorter than where an edit begins, it could not be made.
        let head = ListHead { list: 0, flags: 0, base: 1, next: 2, length };
        Change { head, edits: made }
    })
}

/// What the description of the format says, byte by byte.
fn model(change: &Change, list: &[u8]) -> Option<Vec<u8>> {
    let mut list = if change.head.base == NOTHING { Vec::new() } else { list.to_vec() };
    list.truncate(change.head.length as usize);
    for (offset, put) in &change.edits {
        if *offset as usize > list.len() {
            return None;
        }
        for (at, byte) in (*offset as usize..).zip(put) {
            if at == list.len() {
                list.push(*byte);
            } else {
                list[at] = *byte;
            }
        }
        if list.len() > change.head.length as usize {
            return None;
        }
    }
    let exists = (change.head.list as usize) < EXECBUF_LISTS_PER_SESSION_MAX;
    (list.len() == change.head.length as usize && exists).then_some(list)
}

fn check(change: &Change, list: &[u8]) {
    let body = change.body();
    let decoded = ExecbufList::decode(&body).expect("it is one");
    let before = if change.head.base == NOTHING { 0 } else { list.len() };
    let expected = model(change, list);
    assert_eq!(decoded.fits(before), expected.is_some(), "{change:?}");
    if let Some(expected) = expected {
        let mut changed = list.to_vec();
        decoded.apply(&mut changed);
        assert_eq!(changed, expected, "{change:?}");
    }
}

proptest! {
    #[test]
    fn changes(change in change(), seq: u32) {
        let mut packet = Vec::new();
        prop_assert_eq!(change.encode(seq, &mut packet), Ok(()));
        let (header, body) = Header::split(&packet).expect("a header");
        prop_assert_eq!(header, Header { opcode: Opcode::ExecbufList as u16, flags: 0, seq });
        let run = (change.head.flags == RUN).then_some(change.head.length as usize);
        prop_assert_eq!(ExecbufList::length_run(body), run);
        prop_assert_eq!(Change::decode(body), Ok(change));
    }

    #[test]
    fn a_change_that_is_cut_or_lengthened_is_a_violation(
        change in change(), cut: prop::sample::Index, extra: u8,
    ) {
        let mut body = change.body();
        let cut = cut.index(body.len());
        prop_assert_eq!(Change::decode(&body[..cut]), Err(Violation::Short));
        body.push(extra);
        prop_assert_eq!(Change::decode(&body), Err(Violation::Trailing));
    }

    /// Whether it can be made, and what it makes.
    #[test]
    fn any_change_of_any_list(change in change(), list in vec(any::<u8>(), 0..50)) {
        check(&change, &list);
    }

    #[test]
    fn a_change_that_can_be_made(
        (list, change) in vec(any::<u8>(), 0..50).prop_flat_map(|list| {
            let change = possible(list.len());
            (Just(list), change)
        }),
    ) {
        check(&change, &list);
    }
}

/// The layout once more, by hand.
#[test]
fn the_layout_is_what_the_page_says() {
    let head = ListHead { list: 3, flags: RUN, base: 0x0102, next: 0x0304, length: 9 };
    let body = Change { head, edits: vec![(7, vec![0xaa, 0xbb])] }.body();
    let words = [3, 1, 0x0102, 0, 0x0304, 0, 9, 1, 7, 2];
    let expected: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    assert_eq!(body, [expected.as_slice(), &[0xaa, 0xbb]].concat());
}

#[test]
fn flags_that_do_not_exist_and_counts_that_overflow_are_violations() {
    let mut body = vec![0; FIXED_BYTES];
    body[4] = 2;
    assert_eq!(ExecbufList::decode(&body), Err(Violation::Malformed));
    let mut body = vec![0; FIXED_BYTES];
    body[28..32].fill(0xff);
    assert_eq!(ExecbufList::decode(&body), Err(Violation::Short));
    // Two counts whose sum would be none if it wrapped around.
    let edits = [edit(0, 1 << 31), edit(0, 1 << 31)];
    let mut body = Vec::new();
    ExecbufList::new(ListHead::default(), &edits, &[]).encode(&mut body);
    assert_eq!(ExecbufList::decode(&body), Err(Violation::Short));
}

#[test]
fn a_list_has_a_number_and_a_length_within_the_limits() {
    let fits = |list: usize, length: usize, before: usize| {
        let list = u32::try_from(list).expect("small");
        let length = u32::try_from(length).expect("small");
        let head = ListHead { list, length, base: 1, ..ListHead::default() };
        ExecbufList::new(head, &[], &[]).fits(before)
    };
    assert!(fits(EXECBUF_LISTS_PER_SESSION_MAX - 1, 1, 2));
    assert!(!fits(EXECBUF_LISTS_PER_SESSION_MAX, 1, 2));
    assert!(fits(0, EXECBUF_LIST_BYTES_MAX, EXECBUF_LIST_BYTES_MAX));
    assert!(!fits(0, EXECBUF_LIST_BYTES_MAX + 1, EXECBUF_LIST_BYTES_MAX + 1));
    assert!(!fits(0, 3, 2), "nothing fills the gap");
}
