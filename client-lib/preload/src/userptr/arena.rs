//! A memfd behind a part of the address space: the page at an address lies at the address's distance
//! from the arena's base, so that all userptr buffers over a page share it.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use gpu_broker_client::protocol::limits::USERPTR_MEMFD_BYTES_MAX;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::maps::{self, Area, FileName};
use super::watch;
use crate::errno::{Errno, Outcome};
use crate::node;

const PAGE: usize = 4096;
/// Arenas begin and end at multiples of this, so that neighbours share one. The broker counts them
/// whole, though of the empty part there is no memory.
const GRAIN: usize = 64 << 20;
/// How far below a range its arena may begin, for the sake of neighbours.
const BELOW_MAX: usize = 256 << 20;
/// Bytes that are moved at once: what another thread writes meanwhile, some microseconds, is lost.
const STEP: usize = 64 << 10;
/// Whether memory may be moved that the stack of the thread lies in that moves it.
pub(super) const MOVES_OWN_STACK: bool = cfg!(target_arch = "x86_64");

/// Some addresses and the memfd that is theirs.
#[derive(Debug)]
pub(super) struct Arena {
    fd: OwnedFd,
    file: FileName,
    range: Range<usize>,
    /// Userptr buffers in it.
    pub(super) handles: usize,
    /// Memory in it could not be given back, so it is kept.
    pub(super) stuck: bool,
}

/// Whether two ranges have addresses in common.
pub(super) fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

fn pointer(address: usize) -> *mut std::ffi::c_void {
    std::ptr::with_exposed_provenance_mut(address)
}

impl Arena {
    /// One with room for a range, in the slot of that number.
    ///
    /// # Errors
    /// The kernel's: EMFILE; ENOENT and its like when procfs is not there.
    pub(super) fn new(range: &Range<usize>, slot: usize) -> Outcome<Self> {
        let mut lowest = range.start;
        maps::pieces(range.start..range.start + 1, |_, area| {
            lowest = area.map_or(lowest, |area| area.start);
            Ok(())
        })?;
        let lowest = lowest.max(range.start.saturating_sub(BELOW_MAX));
        let base = lowest - lowest % GRAIN;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(c"gpu-broker-userptr", flags)?;
        let fd = node::out_of_the_way(fd);
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK)?;
        let stat = rustix::fs::fstat(&fd)?;
        let file = FileName {
            major: rustix::fs::major(stat.st_dev),
            minor: rustix::fs::minor(stat.st_dev),
            inode: stat.st_ino,
        };
        let mut arena = Self { fd, file, range: base..base, handles: 0, stuck: false };
        arena.reach(range.end, slot)?;
        Ok(arena)
    }

    /// Makes it end behind an address.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn reach(&mut self, end: usize, slot: usize) -> Outcome<()> {
        if end > self.range.end {
            let end = end.next_multiple_of(GRAIN).min(self.range.start.saturating_add(limit()));
            rustix::fs::ftruncate(&self.fd, (end - self.range.start) as u64)?;
            self.range.end = end;
            watch::publish(slot, &self.range, self.fd.as_raw_fd());
        }
        Ok(())
    }

    /// Whether a range lies in it.
    pub(super) fn has(&self, range: &Range<usize>) -> bool {
        self.range.start <= range.start && range.end <= self.range.end
    }

    /// Whether it could be made to have a range.
    pub(super) fn could_have(&self, range: &Range<usize>) -> bool {
        let most = self.range.start.saturating_add(limit());
        self.range.start <= range.start && range.end <= most
    }

    /// Where in the memfd an address lies that is in the arena.
    pub(super) fn offset(&self, address: usize) -> u64 {
        (address - self.range.start) as u64
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether what is mapped at an address, in an area, is the memfd's page for it.
    pub(super) fn is_at(&self, address: usize, area: &Area) -> bool {
        area.file == self.file
            && self.range.contains(&address)
            && area.offset_of(address) == self.offset(address)
    }

    /// Moves private memory behind the memfd, at the same address. A thread that reads finds the
    /// contents at every moment; what another one writes between the copy of its page and the
    /// replacement is lost. This thread's stack may be there: it writes nothing in between.
    ///
    /// # Errors
    /// EFAULT, ENOMEM. What was moved until then stays so, with its contents.
    pub(super) fn take(&self, range: &Range<usize>, protection: ProtFlags) -> Outcome<()> {
        let _quiet = Quiet::begin();
        let last = range.end - PAGE;
        let mut at = range.start;
        while at < range.end {
            // The first and the last page are those that others may have things on.
            let end =
                if at == range.start { at + PAGE } else { (at + STEP).min(last.max(at + PAGE)) };
            self.step(at, end.min(range.end) - at, protection)?;
            at = end;
        }
        keep_apart(range);
        Ok(())
    }

    /// Copies memory into the memfd and maps that in its place, and writes no memory in between.
    #[cfg(target_arch = "x86_64")]
    fn step(&self, start: usize, bytes: usize, protection: ProtFlags) -> Outcome<()> {
        let fd = i64::from(self.fd.as_raw_fd());
        let result: i64;
        // SAFETY: pwrite64, whose memory the kernel checks and only reads, and when that has copied
        // all, mmap. What is replaced is memory of the program by a mapping with the same contents.
        unsafe {
            std::arch::asm!(
                "syscall",
                "cmp rax, rdx",
                "jne 2f",
                "mov rdi, rsi",
                "mov rsi, rdx",
                "mov rdx, r13",
                "mov r10, r14",
                "mov eax, r12d",
                "syscall",
                "2:",
                inout("rax") libc::SYS_pwrite64 => result,
                inout("rdi") fd => _,
                inout("rsi") start => _,
                inout("rdx") bytes => _,
                inout("r10") self.offset(start) => _,
                in("r8") fd,
                in("r9") self.offset(start),
                in("r12") libc::SYS_mmap,
                in("r13") u64::from(protection.bits()),
                in("r14") i64::from(libc::MAP_SHARED | libc::MAP_FIXED),
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        let refused = |errno| if errno == libc::ENOSPC { libc::ENOMEM } else { errno };
        match usize::try_from(result) {
            Ok(place) if place == start => Ok(()),
            // Copied in part: the rest is not there.
            Ok(_) => Err(Errno(libc::EFAULT)),
            Err(_) => Err(Errno(i32::try_from(-result).map_or(libc::EIO, refused))),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn step(&self, start: usize, bytes: usize, protection: ProtFlags) -> Outcome<()> {
        let place = i64::try_from(self.offset(start)).map_err(|_| Errno(libc::EFAULT))?;
        // SAFETY: the kernel checks the memory, and only reads it.
        let copied = unsafe { libc::pwrite(self.fd.as_raw_fd(), pointer(start), bytes, place) };
        match usize::try_from(copied) {
            Ok(copied) if copied == bytes => {
                self.replace(start..start + bytes, protection, MapFlags::SHARED)
            }
            Ok(_) => Err(Errno(libc::EFAULT)),
            Err(_) => Err(Errno::last()),
        }
    }

    fn replace(&self, range: Range<usize>, how: ProtFlags, kind: MapFlags) -> Outcome<()> {
        let (length, offset) = (range.end - range.start, self.offset(range.start));
        let flags = kind | MapFlags::FIXED;
        // SAFETY: what is replaced is memory of the program by a mapping with the same contents:
        // the program asked for it to be the GPU's too, or no longer. It goes on using it through
        // its own pointers.
        unsafe { rustix::mm::mmap(pointer(range.start), length, how, flags, &self.fd, offset) }?;
        Ok(())
    }

    /// Makes pages of the memfd private to the process again, with their contents: nothing that any
    /// thread writes is lost, because the pages stay until the process has copied them by writing.
    ///
    /// # Errors
    /// ENOMEM: they are as they were.
    pub(super) fn give_back(&self, range: &Range<usize>, protection: ProtFlags) -> Outcome<()> {
        self.replace(range.clone(), protection, MapFlags::PRIVATE)?;
        let (start, length) = (pointer(range.start), range.end - range.start);
        // SAFETY: the contents stay as they are.
        let copied = unsafe { rustix::mm::madvise(start, length, Advice::LinuxPopulateWrite) };
        keep_apart(range);
        // Memory that cannot be written goes on lying in the memfd.
        if copied.is_ok() {
            self.punch(range);
        }
        Ok(())
    }

    /// Gives the memfd's pages back.
    pub(super) fn punch(&self, range: &Range<usize>) {
        watch::punch(self.fd(), self.offset(range.start), (range.end - range.start) as u64);
    }
}

/// This thread handles no signals: a handler writes, too.
struct Quiet(libc::sigset_t);

impl Quiet {
    fn begin() -> Self {
        let mut all = MaybeUninit::uninit();
        // SAFETY: fills the set.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        let mut before = MaybeUninit::uninit();
        // SAFETY: the one set was filled above, the other is filled by the call, which cannot fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: as above.
        Self(unsafe { before.assume_init() })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: the set that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// Sees to it that a range is more than one mapping to the kernel. The C library enlarges memory by
/// mremap(2), past this library; of a file that would give what lies behind in the file. Of more
/// than one mapping it fails, and the C library copies.
fn keep_apart(range: &Range<usize>) {
    if range.end - range.start > PAGE {
        // Memory without a disk behind it is not read ahead, so the advice does nothing else.
        // SAFETY: advice changes no contents.
        let _ = unsafe { rustix::mm::madvise(pointer(range.end - PAGE), PAGE, Advice::Random) };
    }
}

/// Bytes of the largest memfd that the broker takes.
fn limit() -> usize {
    usize::try_from(USERPTR_MEMFD_BYTES_MAX).unwrap_or(usize::MAX)
}
