//! Keys, from what a terminal sends for them.

/// A key that means something here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl-C: in raw mode it is a key.
    Interrupt,
    /// Any other: it answers no question with yes.
    Other,
}

/// What was pressed, from bytes that arrived together.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((key, rest)) = key(bytes) {
        keys.push(key);
        bytes = rest;
    }
    keys
}

fn key(bytes: &[u8]) -> Option<(Key, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    match (first, rest) {
        (3, _) => Some((Key::Interrupt, rest)),
        (0x1b, [b'[' | b'O', sequence @ ..]) => {
            let last = sequence.iter().position(|byte| (0x40..=0x7e).contains(byte));
            // One that is cut off is no key.
            let (sequence, rest) = sequence.split_at(last.map_or(sequence.len(), |last| last + 1));
            Some((named(sequence), rest))
        }
        (0x20..=0x7e, _) => Some((Key::Char(char::from(*first)), rest)),
        _ => Some((Key::Other, rest)),
    }
}

/// As xterm, the Linux console and screen call them.
fn named(sequence: &[u8]) -> Key {
    match sequence {
        b"A" => Key::Up,
        b"B" => Key::Down,
        b"C" => Key::Right,
        b"D" => Key::Left,
        b"H" | b"1~" | b"7~" => Key::Home,
        b"F" | b"4~" | b"8~" => Key::End,
        b"5~" => Key::PageUp,
        b"6~" => Key::PageDown,
        _ => Key::Other,
    }
}
