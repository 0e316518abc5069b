//! The order in which requests are entered into what they use.
//!
//! A request waits for those that were entered before it into a buffer they share. It looks at all
//! its buffers first and is entered into all of them then (or runs at once), and nobody may come
//! between: two requests that look at the same time would both see nobody, and if a request were
//! entered buffer by buffer, two could wait for each other. So it is done under locks:
//!
//! * always its file's;
//! * then the device's as well, if one of its buffers is used by several files.
//!
//! Two requests with a buffer in common hold a lock in common: both are of one file, or the buffer
//! is in several files and both hold the device's. A buffer comes into another file
//! ([`super::buffer::Buffer::import`]) under the lock of its first file, so that no request of that
//! file is being entered without the device's lock when the other file's first one is. Take for
//! each request a moment in which it held all its locks: whoever it waits for had that moment
//! earlier, so nobody waits in a circle, through however many files and buffers.
//!
//! Locks are always taken in that order, and an import holds no other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::buffer::Body;

/// The order of a file's requests, or of the device's.
#[derive(Debug, Default)]
pub(super) struct Order(Mutex<()>);

/// Whoever holds it may enter requests that use certain buffers.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _file: MutexGuard<'a, ()>,
    _device: Option<MutexGuard<'a, ()>>,
}

impl Order {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Turn<'a> {
    /// To enter what uses `buffers`, which are of the file that `file` orders.
    pub(super) fn take<'b>(
        file: &'a Order,
        device: &'a Order,
        mut buffers: impl Iterator<Item = &'b Body>,
    ) -> Self {
        let file = file.lock();
        let device = buffers.any(Body::is_in_several_files).then(|| device.lock());
        Self { _file: file, _device: device }
    }
}
