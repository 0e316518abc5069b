//! The program's memory, copied as the kernel copies it: a bad pointer is EFAULT, never a signal.

use std::ffi::c_char;
use std::os::fd::AsFd;

use crate::arg::{u32_at, u64_at};
use crate::errno::{Errno, Outcome};

const FAULT: Errno = Errno(libc::EFAULT);
/// Bytes up to the next place where a mapping may end.
const PAGE: usize = 4096;

/// Copies `into.len()` bytes from `address`.
///
/// # Errors
/// EFAULT when not all of it can be read.
pub(crate) fn read(address: u64, into: &mut [u8]) -> Outcome<()> {
    if into.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = remote(address, into.len())?;
    // SAFETY: `local` describes `into`, which is borrowed exclusively; the kernel checks `remote`.
    let copied = unsafe {
        libc::process_vm_readv(std::process::id().cast_signed(), &local, 1, &remote, 1, 0)
    };
    match usize::try_from(copied) {
        Ok(copied) if copied == into.len() => Ok(()),
        Ok(_) => Err(FAULT),
        Err(_) if is_forbidden() => through_pipe_in(address, into),
        Err(_) => Err(FAULT),
    }
}

/// Copies `bytes` to `address`.
///
/// # Errors
/// EFAULT when not all of it can be written.
pub(crate) fn write(address: u64, bytes: &[u8]) -> Outcome<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = remote(address, bytes.len())?;
    // SAFETY: `local` is only read and describes `bytes`; the kernel checks `remote`, which is
    // memory that the program asked us to write.
    let copied = unsafe {
        libc::process_vm_writev(std::process::id().cast_signed(), &local, 1, &remote, 1, 0)
    };
    match usize::try_from(copied) {
        Ok(copied) if copied == bytes.len() => Ok(()),
        Ok(_) => Err(FAULT),
        Err(_) if is_forbidden() => through_pipe_out(address, bytes),
        Err(_) => Err(FAULT),
    }
}

fn remote(address: u64, length: usize) -> Outcome<libc::iovec> {
    let start = usize::try_from(address).map_err(|_| FAULT)?;
    start.checked_add(length).ok_or(FAULT)?;
    Ok(libc::iovec { iov_base: std::ptr::without_provenance_mut(start), iov_len: length })
}

/// Whether a filter of system calls stands in the way; old container runtimes have such a one.
fn is_forbidden() -> bool {
    matches!(Errno::last(), Errno(libc::EPERM | libc::ENOSYS | libc::EACCES))
}

/// Copies between two places, each of which the kernel checks: a mapping of memory that others
/// write to meanwhile is no slice.
///
/// # Errors
/// EFAULT when not all of it can be read or written.
pub(crate) fn between(into: u64, from: u64, length: usize) -> Outcome<()> {
    let mut copied = 0;
    while copied < length {
        let local = remote(into.wrapping_add(copied as u64), length - copied)?;
        let other = remote(from.wrapping_add(copied as u64), length - copied)?;
        // SAFETY: the kernel checks both ranges and answers EFAULT; writing to the first is what
        // the caller was asked to do by whoever it belongs to.
        let count = unsafe {
            libc::process_vm_readv(std::process::id().cast_signed(), &local, 1, &other, 1, 0)
        };
        match usize::try_from(count) {
            Ok(0) => return Err(FAULT),
            Ok(count) => copied += count,
            Err(_) if is_forbidden() => return between_through_pipe(into, from, length),
            Err(_) => return Err(FAULT),
        }
    }
    Ok(())
}

fn between_through_pipe(into: u64, from: u64, length: usize) -> Outcome<()> {
    let mut chunk = [0; PAGE];
    for at in (0..length).step_by(PAGE) {
        let part = chunk.get_mut(..(length - at).min(PAGE)).unwrap_or_default();
        through_pipe_in(from.wrapping_add(at as u64), part)?;
        through_pipe_out(into.wrapping_add(at as u64), part)?;
    }
    Ok(())
}

fn through_pipe_in(address: u64, into: &mut [u8]) -> Outcome<()> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut at = address;
    for chunk in into.chunks_mut(PAGE) {
        let remote = remote(at, chunk.len())?;
        // SAFETY: the kernel checks the range and answers EFAULT.
        let sent = unsafe {
            libc::syscall(libc::SYS_write, raw(&writer), remote.iov_base, remote.iov_len)
        };
        if usize::try_from(sent) != Ok(chunk.len()) {
            return Err(FAULT);
        }
        let mut rest = chunk;
        while !rest.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut *rest))?;
            rest = rest.get_mut(count..).unwrap_or_default();
        }
        at = at.wrapping_add(PAGE as u64);
    }
    Ok(())
}

fn through_pipe_out(address: u64, bytes: &[u8]) -> Outcome<()> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut at = address;
    for chunk in bytes.chunks(PAGE) {
        // A pipe takes a page at once, so this neither waits nor comes up short.
        rustix::io::retry_on_intr(|| rustix::io::write(&writer, chunk))?;
        let remote = remote(at, chunk.len())?;
        // SAFETY: memory that the program asked us to write; the kernel checks the range.
        let got =
            unsafe { libc::syscall(libc::SYS_read, raw(&reader), remote.iov_base, remote.iov_len) };
        if usize::try_from(got) != Ok(chunk.len()) {
            return Err(FAULT);
        }
        at = at.wrapping_add(PAGE as u64);
    }
    Ok(())
}

fn raw(fd: impl AsFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_fd().as_raw_fd()
}

/// A string that ends with 0, without that; at most `PATH_MAX` bytes.
///
/// # Errors
/// EFAULT; ENAMETOOLONG.
pub(crate) fn string(pointer: *const c_char) -> Outcome<Vec<u8>> {
    let mut address = pointer.addr();
    let mut text = Vec::new();
    let mut chunk = [0; PAGE];
    while text.len() < PAGE {
        // Short at first: few paths are longer. Never beyond the page, whose end may be the end.
        let wanted = if text.is_empty() { 128 } else { PAGE };
        let length = wanted.min(PAGE - address % PAGE);
        let part = chunk.get_mut(..length).unwrap_or_default();
        read(address as u64, part)?;
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(part.get(..end).unwrap_or_default());
            return Ok(text);
        }
        text.extend_from_slice(part);
        address += length;
    }
    Err(Errno(libc::ENAMETOOLONG))
}

/// `count` records of `size` bytes each.
///
/// # Errors
/// EFAULT.
pub(crate) fn records(address: u64, count: usize, size: usize) -> Outcome<Vec<u8>> {
    let bytes = count.checked_mul(size).ok_or(Errno(libc::EINVAL))?;
    let mut all = vec![0; bytes];
    read(address, &mut all)?;
    Ok(all)
}

/// `count` numbers.
///
/// # Errors
/// EFAULT.
pub(crate) fn u32s(address: u64, count: usize) -> Outcome<Vec<u32>> {
    let bytes = records(address, count, 4)?;
    Ok(bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect())
}

/// `count` numbers.
///
/// # Errors
/// EFAULT.
pub(crate) fn u64s(address: u64, count: usize) -> Outcome<Vec<u64>> {
    let bytes = records(address, count, 8)?;
    Ok(bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}

/// Longest list of control messages that is looked through.
const CONTROL_MAX: usize = 64 * 1024;

/// The fds that a message (`struct msghdr`) is about to pass on.
///
/// # Errors
/// EFAULT.
pub(crate) fn passed_fds(message: u64) -> Outcome<Vec<i32>> {
    let header = records(message, 1, size_of::<libc::msghdr>())?;
    let control = u64_at(&header, std::mem::offset_of!(libc::msghdr, msg_control));
    let length = u64_at(&header, std::mem::offset_of!(libc::msghdr, msg_controllen));
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(CONTROL_MAX);
    let control = records(control, 1, if control == 0 { 0 } else { length })?;
    let head = size_of::<libc::cmsghdr>();
    let mut rest = control.as_slice();
    let mut fds = Vec::new();
    while rest.len() >= head {
        let length = usize::try_from(u64_at(rest, 0)).unwrap_or(usize::MAX);
        let Some(body) = rest.get(head..length) else { break };
        let of_fds = (u32_at(rest, 8), u32_at(rest, 12));
        if of_fds == (libc::SOL_SOCKET.cast_unsigned(), libc::SCM_RIGHTS.cast_unsigned()) {
            fds.extend(body.as_chunks().0.iter().map(|fd| i32::from_ne_bytes(*fd)));
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(fds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_pointers_are_efault_both_ways_and_by_both_roads() {
        let mut word = [0_u8; 4];
        for bad in [0, 1, 4096, u64::MAX, u64::MAX - 2, 1 << 47, 0xffff_8000_0000_0000] {
            assert_eq!(read(bad, &mut word), Err(FAULT), "{bad:#x}");
            assert_eq!(write(bad, &word), Err(FAULT), "{bad:#x}");
            assert_eq!(through_pipe_in(bad, &mut word), Err(FAULT), "{bad:#x}");
            assert_eq!(through_pipe_out(bad, &word), Err(FAULT), "{bad:#x}");
            let good = word.as_mut_ptr().expose_provenance() as u64;
            for (into, from) in [(bad, good), (good, bad)] {
                assert_eq!(between(into, from, 4), Err(FAULT), "{bad:#x}");
                assert_eq!(between_through_pipe(into, from, 4), Err(FAULT), "{bad:#x}");
            }
        }
        assert_eq!(write("read only".as_ptr().addr() as u64, b"x"), Err(FAULT));
    }

    #[test]
    fn what_is_there_is_copied() {
        let source: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let address = source.as_ptr().expose_provenance() as u64;
        let mut copy = vec![0; source.len()];
        read(address, &mut copy).expect("it is there");
        assert_eq!(copy, source);
        copy.fill(0);
        through_pipe_in(address, &mut copy).expect("it is there");
        assert_eq!(copy, source);
        let place = copy.as_mut_ptr().expose_provenance() as u64;
        for copy_between in [between, between_through_pipe] {
            copy.fill(0);
            copy_between(place, address, source.len()).expect("both are there");
            assert_eq!(copy, source);
        }
        write(place, &[9; 5000]).expect("it is ours");
        through_pipe_out(place + 5000, &[8; 5000]).expect("it is ours");
        assert!(copy[..5000].iter().all(|b| *b == 9) && copy[5000..].iter().all(|b| *b == 8));
        assert_eq!(u32s(place, 2), Ok(vec![0x0909_0909; 2]));
        assert_eq!(string(c"/dev/dri/card0".as_ptr()), Ok(b"/dev/dri/card0".to_vec()));
        assert_eq!(string(std::ptr::null()), Err(FAULT));
        let long = std::ffi::CString::new(vec![b'a'; 9000]).expect("no zero inside");
        assert_eq!(string(long.as_ptr()), Err(Errno(libc::ENAMETOOLONG)));
    }
}
