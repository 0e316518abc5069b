//! A page that this process writes and others read.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

use crate::DeviceError;
use crate::soft::refusal;
use crate::soft::sys::{self, Mapping};

/// A page of words of 64 bits, zero at first. It costs this process the page and a mapping, but no fd.
#[derive(Debug)]
pub struct SharedPage(Mapping);

impl SharedPage {
    /// Bytes of it.
    pub const BYTES: usize = 4096;

    /// Makes one, and an fd for those who read it: it can be mapped, but not for writing, nor be written,
    /// punched or resized.
    ///
    /// # Errors
    /// Out of memory or fds; ENOSYS or EINVAL of a kernel that does not know memfds or F_SEAL_FUTURE_WRITE (5.1).
    pub fn new() -> Result<(Self, OwnedFd), DeviceError> {
        Self::make().map_err(|errno| refusal(errno, "making a shared page"))
    }

    fn make() -> Result<(Self, OwnedFd), Errno> {
        // A device that maps no memory of clients has not.
        sys::survive_lost_pages()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know the second flag, and need not be told.
        let file = match memfd_create("gpu-broker-status", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => memfd_create("gpu-broker-status", flags),
            made => made,
        }?;
        ftruncate(&file, Self::BYTES as u64)?;
        let mapping = Mapping::new(file.as_fd(), Self::BYTES)?;
        // A page that the kernel cannot give is missed here, and not when there are readers.
        mapping.write(0, &0_u64.to_ne_bytes()).map_err(|_| Errno::NOMEM)?;
        let size = SealFlags::SHRINK | SealFlags::GROW;
        fcntl_add_seals(&file, size | SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
        Ok((Self(mapping), file))
    }

    /// Writes the word at an offset in bytes; what was written before is seen by who sees it. Should the
    /// kernel take the page away, which it does only when it has no memory to bring it back, readers see
    /// it as it was for ever.
    pub fn store(&self, offset: u64, word: u64) {
        let stored = self.0.write(offset, &word.to_ne_bytes());
        debug_assert!(stored.is_ok() || self.0.is_lost(), "a word of the page");
    }

    /// Adds one to the word at an offset in bytes.
    pub fn increment(&self, offset: u64) {
        let added = self.0.update_u64(offset, &mut |word| word.wrapping_add(1));
        debug_assert!(added.is_ok() || self.0.is_lost(), "a word of the page");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FallocateFlags, fallocate, fcntl_get_seals};
    use rustix::io::pwrite;

    #[test]
    fn who_has_the_fd_reads_what_is_written_and_can_change_nothing() {
        let (page, file) = SharedPage::new().unwrap();
        page.store(16, 7);
        page.increment(16);
        let readable = Mapping::of_client(file.as_fd(), SharedPage::BYTES, false).unwrap();
        let mut word = [0; 8];
        readable.read(16, &mut word).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 8);
        let writable = Mapping::of_client(file.as_fd(), SharedPage::BYTES, true);
        assert_eq!(writable.err(), Some(Errno::PERM), "mapped for writing");
        assert_eq!(pwrite(&file, &[1], 16), Err(Errno::PERM));
        assert_eq!(ftruncate(&file, 0), Err(Errno::PERM));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(fallocate(&file, punch, 0, 4096), Err(Errno::PERM));
        assert_eq!(
            fcntl_add_seals(&file, SealFlags::WRITE),
            Err(Errno::PERM),
            "{:?}",
            fcntl_get_seals(&file)
        );
        page.store(16, 9);
        readable.read(16, &mut word).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 9);
    }
}
