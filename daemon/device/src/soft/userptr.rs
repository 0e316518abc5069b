//! A client's memory: its memfd, mapped once, and ranges of it as buffers.
//!
//! Requests work on the pages themselves, through the mapping. Which pages those are is the kernel's
//! business: when the client punches a hole, the next access finds a new page of zeros. If the kernel
//! has none to give, the access fails, and with it the mapping ([`super::sys`]): what runs on it
//! faults, and the next pin maps the memfd again.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffer::{Backing, Part, Quotas};
use crate::DeviceError;

/// A client's memfd. Clones are the same mapping.
#[derive(Clone, Debug)]
pub struct UserMemory(Arc<Memory>);

#[derive(Debug)]
struct Memory {
    writable: bool,
    current: Mutex<Arc<Backing>>,
}

impl UserMemory {
    /// See [`crate::DeviceFile::map_user_memory`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn map(
        memfd: OwnedFd,
        size: u64,
        writable: bool,
        quotas: &Arc<Quotas>,
    ) -> Result<Self, DeviceError> {
        let current = Mutex::new(Backing::of_client(memfd, (size, writable), quotas)?);
        Ok(Self(Arc::new(Memory { writable, current })))
    }

    /// The mapping; a new one if the last one was lost.
    fn pin(&self) -> Result<Arc<Backing>, DeviceError> {
        let mut current = lock(&self.0.current);
        if current.is_lost() {
            *current = current.again(self.0.writable)?;
        }
        Ok(Arc::clone(&current))
    }
}

/// A range of a client's memory, as a buffer has it.
#[derive(Debug)]
pub(super) struct Userptr {
    memory: UserMemory,
    offset: u64,
    read_only: bool,
    /// What requests use.
    pinned: Mutex<Option<Arc<Backing>>>,
}

impl Userptr {
    pub(super) fn new(memory: UserMemory, offset: u64, read_only: bool) -> Self {
        let read_only = read_only || !memory.0.writable;
        Self { memory, offset, read_only, pinned: Mutex::default() }
    }

    /// See [`crate::DeviceFile::pin_userptr`].
    ///
    /// # Errors
    /// As there.
    pub(super) fn pin(&self) -> Result<(), DeviceError> {
        let backing = self.memory.pin()?;
        *lock(&self.pinned) = Some(backing);
        Ok(())
    }

    /// What is bound.
    ///
    /// # Errors
    /// [`DeviceError::PagesGone`] if nothing is pinned, or it was lost.
    pub(super) fn part(&self) -> Result<Part, DeviceError> {
        let pinned = lock(&self.pinned).clone().filter(|backing| !backing.is_lost());
        let backing = pinned.ok_or(DeviceError::PagesGone)?;
        Ok(Part { backing, offset: self.offset, read_only: self.read_only })
    }

    pub(super) const fn is_read_only(&self) -> bool {
        self.read_only
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
