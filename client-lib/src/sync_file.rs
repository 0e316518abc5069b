//! What a fence of a real device, a `sync_file`, says of itself (`linux/sync_file.h`).
#![expect(unsafe_code, reason = "SYNC_IOC_FILE_INFO has no safe wrapper in rustix")]

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `struct sync_file_info`; without room for the fences one by one.
#[repr(C)]
#[derive(Default)]
struct SyncFileInfo {
    name: [u8; 32],
    /// 1 when signalled, 0 when not, a negative errno when the work was lost.
    status: i32,
    flags: u32,
    num_fences: u32,
    pad: u32,
    sync_fence_info: u64,
}

const _: () = assert!(size_of::<SyncFileInfo>() == 56);
const FILE_INFO: Opcode = opcode::read_write::<SyncFileInfo>(b'>', 4);

/// The status of a sync_file: 1 when signalled, 0 when not, a negative errno when the work was lost.
///
/// # Errors
/// ENOTTY as a rule, when it is no sync_file.
pub(crate) fn status(fd: impl AsFd) -> Result<i32, Errno> {
    let mut info = SyncFileInfo::default();
    // SAFETY: the number is that of SYNC_IOC_FILE_INFO, which the kernel answers for sync_files
    // alone and which reads and writes a `struct sync_file_info`: the layout above, whose size the
    // number names. With num_fences 0 it follows no pointer.
    let request = unsafe { Updater::<FILE_INFO, SyncFileInfo>::new(&mut info) };
    // SAFETY: `request` describes the ioctl, as argued above.
    unsafe { ioctl(fd, request) }?;
    Ok(info.status)
}
