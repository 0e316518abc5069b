//! EXECBUF_LIST: submissions that are longer than a message, or nearly the same as the one before.
//!
//! The daemon keeps up to [`EXECBUF_LISTS_PER_SESSION_MAX`] numbered lists for a session. A list is a string
//! of bytes, in the end the body of an EXECBUF. A request changes it, and says from which
//! *generation* of it to which: numbers that the client chooses and that mean nothing to the daemon.
//! If the list is not of the base generation the request is refused without effect, and the client
//! sends everything, from nothing. With [`RUN`] the list as it then is is an EXECBUF.
//!
//! ```text
//! body := fixed · edit × edit_count · bytes, those of the edits in their order
//! fixed := list u32 · flags u32 · base u64 · next u64 · length u32 · edit_count u32     (32 bytes)
//! edit := offset u32 · count u32                                                        (8 bytes)
//! ```
//! First the list is cut to `length` bytes if it is longer; then each edit puts `count` bytes at
//! `offset`, which is at most where the list ends; then it must be `length` bytes long. Everything
//! is little-endian. Fds come with [`RUN`] and go with its reply as those of an EXECBUF, whose reply
//! has the layout of this one's; without [`RUN`] it has no addresses and no fence.

use crate::execbuf::{u32_at, u64_at};
use crate::limits::{EXECBUF_LIST_BYTES_MAX, EXECBUF_LISTS_PER_SESSION_MAX};
use crate::violation::Violation;

/// Bytes before the edits.
pub const FIXED_BYTES: usize = 32;
/// Bytes of one edit, without what it puts in.
pub const EDIT_BYTES: usize = 8;
/// The flag of a request: the list is submitted.
pub const RUN: u32 = 1 << 0;
/// As a base: from nothing, whatever the list is. As the next generation: forget it.
pub const NOTHING: u64 = 0;

/// Everything but the edits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListHead {
    /// Which list, from 0 on.
    pub list: u32,
    /// [`RUN`] or 0.
    pub flags: u32,
    /// The generation that is changed, or [`NOTHING`].
    pub base: u64,
    /// What it is called then.
    pub next: u64,
    /// Bytes it has then.
    pub length: u32,
}

impl ListHead {
    /// Whether the list is submitted.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.flags & RUN != 0
    }
}

/// An EXECBUF_LIST, borrowing what it puts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExecbufList<'a> {
    /// Everything but the edits.
    pub head: ListHead,
    edits: &'a [[u8; EDIT_BYTES]],
    bytes: &'a [u8],
}

impl<'a> ExecbufList<'a> {
    /// A request of edits that were encoded with [`edit`], and what they put in, in their order.
    #[must_use]
    pub const fn new(head: ListHead, edits: &'a [[u8; EDIT_BYTES]], bytes: &'a [u8]) -> Self {
        Self { head, edits, bytes }
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`Violation::Short`] or [`Violation::Trailing`] when the length is not what the counts say,
    /// [`Violation::Malformed`] for a flag that does not exist.
    pub fn decode(body: &'a [u8]) -> Result<Self, Violation> {
        let Some((fixed, rest)) = body.split_first_chunk::<FIXED_BYTES>() else {
            return Err(Violation::Short);
        };
        let head = ListHead {
            list: u32_at(fixed, 0),
            flags: u32_at(fixed, 4),
            base: u64_at(fixed, 8),
            next: u64_at(fixed, 16),
            length: u32_at(fixed, 24),
        };
        if head.flags & !RUN != 0 {
            return Err(Violation::Malformed);
        }
        let edits_bytes = (u32_at(fixed, 28) as usize).checked_mul(EDIT_BYTES);
        let (edits, bytes) = edits_bytes
            .and_then(|edits_bytes| rest.split_at_checked(edits_bytes))
            .ok_or(Violation::Short)?;
        let request = Self { head, edits: edits.as_chunks::<EDIT_BYTES>().0, bytes };
        let counts = request.edits().map(|(_, count)| u64::from(count)).sum::<u64>();
        match counts.cmp(&(bytes.len() as u64)) {
            std::cmp::Ordering::Equal => Ok(request),
            std::cmp::Ordering::Greater => Err(Violation::Short),
            std::cmp::Ordering::Less => Err(Violation::Trailing),
        }
    }

    /// The length a body says its list has when it is run; `None` if it does not run one, or is none.
    #[must_use]
    pub fn length_run(body: &[u8]) -> Option<usize> {
        let fixed = body.first_chunk::<FIXED_BYTES>()?;
        (u32_at(fixed, 4) & RUN != 0).then(|| u32_at(fixed, 24) as usize)
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let head = &self.head;
        let count = u32::try_from(self.edits.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&head.list.to_le_bytes());
        out.extend_from_slice(&head.flags.to_le_bytes());
        out.extend_from_slice(&head.base.to_le_bytes());
        out.extend_from_slice(&head.next.to_le_bytes());
        out.extend_from_slice(&head.length.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(self.edits.as_flattened());
        out.extend_from_slice(self.bytes);
    }

    /// Offset and count of each edit.
    pub fn edits(&self) -> impl ExactSizeIterator<Item = (u32, u32)> + use<'a> {
        self.edits.iter().map(|edit| (u32_at(edit, 0), u32_at(edit, 4)))
    }

    /// Whether there is such a list, and the edits can be made to one of `before` bytes (0 if it
    /// begins from nothing), within the limits.
    #[must_use]
    pub fn fits(&self, before: usize) -> bool {
        let length = self.head.length as usize;
        if self.head.list as usize >= EXECBUF_LISTS_PER_SESSION_MAX
            || length > EXECBUF_LIST_BYTES_MAX
        {
            return false;
        }
        let mut end = before.min(length);
        for (offset, count) in self.edits() {
            let (offset, count) = (offset as usize, count as usize);
            if offset > end || count > length - offset {
                return false;
            }
            end = end.max(offset + count);
        }
        end == length
    }

    /// Changes the list; one that it does not [fit](Self::fits) stays as it is. Never longer than
    /// `length`, and what is added came with the request: the cost is in its bytes.
    pub fn apply(&self, list: &mut Vec<u8>) {
        if self.head.base == NOTHING {
            list.clear();
        }
        if !self.fits(list.len()) {
            return;
        }
        list.truncate(self.head.length as usize);
        let mut bytes = self.bytes;
        for (offset, count) in self.edits() {
            let Some((put, rest)) = bytes.split_at_checked(count as usize) else { return };
            bytes = rest;
            let (over, beyond) =
                put.split_at(put.len().min(list.len().saturating_sub(offset as usize)));
            if let Some(place) = list.get_mut(offset as usize..offset as usize + over.len()) {
                place.copy_from_slice(over);
            }
            list.extend_from_slice(beyond);
        }
    }
}

/// One edit as it is sent.
#[must_use]
pub fn edit(offset: u32, count: u32) -> [u8; EDIT_BYTES] {
    let mut bytes = [0; EDIT_BYTES];
    bytes[..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4..].copy_from_slice(&count.to_le_bytes());
    bytes
}
