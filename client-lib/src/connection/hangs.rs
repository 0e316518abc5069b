//! Batches that died: the events that come unasked, and what the daemon remembers.

use std::time::Duration;

use gpu_broker_protocol::hang::{HangDump, HangEvent, HangPage};

use super::Connection;
use crate::calls;
use crate::error::Error;

impl Connection {
    /// The next batch of this session that died: who, where, and in which command. Waits for one for
    /// as long as `timeout`, for ever without one; `None` when there was none.
    ///
    /// Events wait here until they are asked for; of more than a few the oldest are dropped, and the
    /// next one says how many in `lost`. While requests are made by other threads, events come with
    /// their answers; otherwise the socket is readable when there is one.
    ///
    /// In a session that several processes share, one of them gets each event.
    ///
    /// # Errors
    /// The connection's.
    pub fn next_hang(&self, timeout: Option<Duration>) -> Result<Option<HangEvent>, Error> {
        self.shared.next_event(timeout, |inbox| inbox.hangs.pop())
    }

    /// The hangs the daemon remembers and this peer may see, with numbers below `before`, the last
    /// first: one page.
    ///
    /// # Errors
    /// The connection's.
    pub fn hangs(&self, before: u64) -> Result<HangPage, Error> {
        self.call(calls::hang_list(before))
    }

    /// What the daemon keeps of a hang.
    ///
    /// # Errors
    /// Refused with `no-such-hang` (ENOENT).
    pub fn hang(&self, hang: u64) -> Result<HangDump, Error> {
        self.call(calls::hang_show(hang))
    }

    /// Bytes of a region of its dump from `offset` on, as many as one message brings; none at the
    /// end.
    ///
    /// # Errors
    /// As [`Self::hang`].
    pub fn hang_bytes(&self, hang: u64, region: u32, offset: u64) -> Result<Vec<u8>, Error> {
        self.call(calls::hang_read(hang, region, offset))
    }
}
