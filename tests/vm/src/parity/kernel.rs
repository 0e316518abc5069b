//! One open file of the device, and every ioctl on it written down: what it answered and which
//! words of its argument it changed.
#![allow(unsafe_code, reason = "calls ioctl() and mmap(), and reads what the kernel wrote")]

use std::ffi::c_void;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use gpu_broker_uapi::drm::*;
use gpu_broker_uapi::i915::*;

/// Bytes that a case has for what its arguments point at.
const ARENA_BYTES: usize = 1 << 18;
/// No process has memory there.
pub(crate) const BAD: u64 = 0x1000;

/// An open file, memory for arguments, and the record of what a case did. When a case is over, the
/// file is as it was when it was opened, but for what cannot be undone (a parameter of the default
/// context, a ban).
pub(crate) struct Node {
    file: File,
    arena: *mut u8,
    used: usize,
    record: String,
    made: Vec<Made>,
}

/// What an ioctl made, in the order in which it is undone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Made {
    Context(u32),
    Vm(u32),
    Buffer(u32),
    Syncobj(u32),
}

impl Made {
    /// What an ioctl made that ended well, from the words of its argument.
    fn by(number: u32, words: &[u32]) -> Option<Self> {
        let id = |at: usize| words[at];
        match number {
            DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT => Some(Self::Context(id(0))),
            DRM_IOCTL_I915_GEM_VM_CREATE => Some(Self::Vm(id(3))),
            // Each answer is a handle of its own.
            DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM if words[2] == 9 => Some(Self::Vm(id(4))),
            DRM_IOCTL_I915_GEM_CREATE => Some(Self::Buffer(id(2))),
            DRM_IOCTL_I915_GEM_USERPTR => Some(Self::Buffer(id(5))),
            DRM_IOCTL_SYNCOBJ_CREATE | DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE => Some(Self::Syncobj(id(0))),
            _ => None,
        }
    }
}

impl Node {
    /// # Errors
    /// As `open` and `mmap`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no other memory.
        let arena =
            unsafe { libc::mmap(std::ptr::null_mut(), ARENA_BYTES, protection, flags, -1, 0) };
        if arena == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file, arena: arena.cast(), used: 0, record: String::new(), made: Vec::new() })
    }

    /// An ioctl; its answer and the words it changed are written down under `name`, but for the
    /// `hidden` ones, which may differ (file descriptors, addresses).
    pub(crate) fn call_hiding<T: Copy>(
        &mut self,
        name: &str,
        number: u32,
        argument: &mut T,
        hidden: &[usize],
    ) -> bool {
        self.call_on(self.file.as_raw_fd(), name, number, argument, hidden)
    }

    /// As [`Self::call_hiding`], on another file.
    pub(crate) fn call_on<T: Copy>(
        &mut self,
        fd: RawFd,
        name: &str,
        number: u32,
        argument: &mut T,
        hidden: &[usize],
    ) -> bool {
        assert_eq!(
            (number >> 16) & 0x3fff,
            u32::try_from(size_of::<T>()).expect("small"),
            "{name}"
        );
        let before = words(argument).to_vec();
        // SAFETY: the number says how much of the argument the kernel uses, which is all of it (see
        // above). What the argument points at is the arena, the memory of a mapping that lives as
        // long as the process, or not there, and the kernel or the preload says EFAULT.
        let answer = unsafe {
            let argument = std::ptr::from_mut(argument).cast::<c_void>();
            libc::ioctl(fd, number.into(), argument)
        };
        let error = (answer < 0).then(io::Error::last_os_error);
        self.note(&format!("{name}={}", outcome(answer, error.as_ref())));
        for (index, (after, before)) in words(argument).iter().zip(before).enumerate() {
            if *after != before && !hidden.contains(&index) {
                let _ = write!(self.record, ",{index}:{after:x}");
            }
        }
        if answer >= 0 {
            self.made.extend(Made::by(number, words(argument)));
        }
        answer >= 0
    }

    /// As [`Self::call_hiding`], hiding nothing.
    pub(crate) fn call<T: Copy>(&mut self, name: &str, number: u32, argument: &mut T) -> bool {
        self.call_hiding(name, number, argument, &[])
    }

    /// Adds to the record.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.record.is_empty() {
            self.record.push(' ');
        }
        self.record.push_str(text);
    }

    /// Copies values to where the kernel can read and write them; their address.
    pub(crate) fn put<T: Copy>(&mut self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        assert!(align_of::<T>() <= 8 && self.used + bytes <= ARENA_BYTES, "the arena is too small");
        // SAFETY: the assertion keeps this within the mapping.
        let place = unsafe { self.arena.add(self.used) };
        // SAFETY: as many bytes as the values have, to a place that has as many (see above); the
        // mapping is nobody's but this object's, so the values are not in it.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), place, bytes) };
        self.used = (self.used + bytes).next_multiple_of(8);
        place as u64
    }

    /// A whole page of the arena: its address.
    pub(crate) fn page(&mut self) -> u64 {
        self.used = (self.used + 0x1fff) & !0xfff;
        assert!(self.used <= ARENA_BYTES, "the arena is too small");
        // SAFETY: within the mapping, as just asserted; whole pages before it belong to the case.
        unsafe { self.arena.add(self.used - 0x1000) as u64 }
    }

    /// Words of the arena, as they are now.
    pub(crate) fn peek(&self, address: u64, count: usize) -> Vec<u32> {
        let offset = usize::try_from(address - self.arena as u64).expect("within the arena");
        assert!(offset % 4 == 0 && offset + 4 * count <= ARENA_BYTES, "not in the arena");
        let read = |index: usize| {
            // SAFETY: the assertion keeps this within the mapping.
            let place = unsafe { self.arena.add(offset + 4 * index) }.cast::<u32>();
            // SAFETY: aligned, because the mapping and the offset are; any bits are a `u32`.
            unsafe { place.read_volatile() }
        };
        (0..count).map(read).collect()
    }

    /// Writes a word of the arena while the GPU may look at it.
    pub(crate) fn poke(&mut self, address: u64, value: u32) {
        let offset = usize::try_from(address - self.arena as u64).expect("within the arena");
        assert!(offset % 4 == 0 && offset + 4 <= ARENA_BYTES, "not in the arena");
        // SAFETY: the assertion keeps this within the mapping.
        let place = unsafe { self.arena.add(offset) }.cast::<u32>();
        // SAFETY: aligned, because the mapping and the offset are; no reference is to the arena.
        unsafe { place.write_volatile(value) };
    }

    /// Writes down the first words of a buffer, mapped at an offset that MMAP_OFFSET gave.
    pub(crate) fn note_mapped(&mut self, offset: u64, count: usize) {
        let length = 4 * count;
        let offset = i64::try_from(offset).expect("an offset of mmap");
        let (nowhere, fd) = (std::ptr::null_mut(), self.file.as_raw_fd());
        // SAFETY: a mapping at an address of the kernel's choice touches no other memory.
        let mapped =
            unsafe { libc::mmap(nowhere, length, libc::PROT_READ, libc::MAP_SHARED, fd, offset) };
        if mapped == libc::MAP_FAILED {
            self.note(&format!("mmap={}", outcome(-1, Some(&io::Error::last_os_error()))));
            return;
        }
        let read = |index| {
            // SAFETY: within the mapping, which begins with a page.
            let place = unsafe { mapped.cast::<u32>().add(index) };
            // SAFETY: aligned, and any bits are a `u32`.
            unsafe { place.read_volatile() }
        };
        let words: Vec<_> = (0..count).map(read).collect();
        self.note(&format!("mapped {words:x?}"));
        // SAFETY: nothing of the mapping is used any more.
        unsafe { libc::munmap(mapped, length) };
    }

    /// Waits until a descriptor is readable, which a fence is when it has signalled.
    pub(crate) fn poll(&mut self, fd: RawFd) {
        let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, as said.
        let ready = unsafe { libc::poll(&raw mut polled, 1, 60_000) };
        self.note(if ready == 1 { "signalled" } else { "pending" });
    }

    /// The record of a case after which the file is closed.
    pub(crate) fn into_record(mut self) -> String {
        std::mem::take(&mut self.record)
    }

    /// Ends a case: its record.
    pub(crate) fn end(&mut self) -> String {
        let record = std::mem::take(&mut self.record);
        let mut made = std::mem::take(&mut self.made);
        made.sort_unstable();
        for one in made {
            // What the case has undone itself is refused.
            match one {
                Made::Context(ctx_id) => {
                    let mut destroy = drm_i915_gem_context_destroy { ctx_id, pad: 0 };
                    self.call("", DRM_IOCTL_I915_GEM_CONTEXT_DESTROY, &mut destroy)
                }
                Made::Vm(vm_id) => {
                    let mut vm = drm_i915_gem_vm_control { vm_id, ..Default::default() };
                    self.call("", DRM_IOCTL_I915_GEM_VM_DESTROY, &mut vm)
                }
                Made::Buffer(handle) => {
                    let mut close = drm_gem_close { handle, pad: 0 };
                    self.call("", DRM_IOCTL_GEM_CLOSE, &mut close)
                }
                Made::Syncobj(handle) => {
                    let mut destroy = drm_syncobj_destroy { handle, pad: 0 };
                    self.call("", DRM_IOCTL_SYNCOBJ_DESTROY, &mut destroy)
                }
            };
        }
        // SAFETY: within the mapping, of which nothing is used any more.
        unsafe { self.arena.write_bytes(0, self.used) };
        self.used = 0;
        self.record.clear();
        record
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own, and nothing of it is used any more.
        unsafe { libc::munmap(self.arena.cast(), ARENA_BYTES) };
    }
}

/// The 32-bit words of an argument.
fn words<T: Copy>(argument: &T) -> &[u32] {
    let words = size_of::<T>() / 4;
    // SAFETY: the structures of the uapi are made of whole words and aligned as such; they were
    // zeroed or given, so that each is initialised; they are borrowed for as long as the slice is.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(argument).cast::<u32>(), words) }
}

/// Closes a descriptor that an ioctl gave.
pub(crate) fn close(fd: i32) {
    // SAFETY: the descriptor came from an ioctl a moment ago, and nobody else knows it.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
}

/// What a call answered: its value or the errno's name.
fn outcome(answer: i32, error: Option<&io::Error>) -> String {
    let Some(number) = error.and_then(io::Error::raw_os_error) else {
        return if answer == 0 { "ok".into() } else { answer.to_string() };
    };
    let name = match number {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENOTTY => "ENOTTY",
        libc::ENOSPC => "ENOSPC",
        libc::ENXIO => "ENXIO",
        libc::ETIME => "ETIME",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ERANGE => "ERANGE",
        libc::EOVERFLOW => "EOVERFLOW",
        _ => return format!("errno {number}"),
    };
    name.into()
}
