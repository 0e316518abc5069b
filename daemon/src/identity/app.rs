//! The Flatpak application a process belongs to: `name` in `/.flatpak-info` of its root.
//!
//! That root belongs to the client. It may be a FUSE file system whose server never answers, have
//! symbolic links, devices and FIFOs in it, and files without an end. Flatpak's is a tmpfs, and so is
//! the file in it, which nothing can delay. So the kinds of both file systems are read from the
//! kernel's list of mounts, by the mount's number, and nothing else is touched: no name is looked up
//! in a root that is not a tmpfs, and no file is opened that is not a small regular one in a tmpfs.

use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, open, openat2, statx,
};
use rustix::io::Errno;

use super::process::{Process, read_text};
use crate::policy::Fact;

/// Bytes of the file; Flatpak's have some hundred.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// The application of `process`.
pub(super) fn of(process: &Process) -> Fact {
    match look(process) {
        Ok(Some(name)) => Fact::Is(name),
        Ok(None) => Fact::None,
        Err(why) => Fact::Unknown(why),
    }
}

fn look(process: &Process) -> Result<Option<String>, String> {
    let root = process.root().map_err(|error| match error {
        Errno::ACCESS | Errno::PERM => {
            "the daemon may not look into the process: it needs its user or CAP_SYS_PTRACE".into()
        }
        other => format!("/proc/PID/root: {other}"),
    })?;
    let found = stat(&root)?;
    if found.stx_dev_major != 0 {
        // On a disk, which most roots are and no tmpfs is: no need to read the list of mounts.
        return Ok(None);
    }
    let mounts = process.read("mountinfo").map_err(|error| format!("its mounts: {error}"))?;
    if !is_on_tmpfs(&mounts, &found) {
        return Ok(None);
    }
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat2(&root, ".flatpak-info", flags, Mode::empty(), how) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(format!("/.flatpak-info: {error}")),
    };
    let found = stat(&file)?;
    let kind = FileType::from_raw_mode(found.stx_mode.into());
    let plain = kind == FileType::RegularFile && found.stx_size < FILE_BYTES_MAX as u64;
    if !plain || !is_on_tmpfs(&mounts, &found) {
        return Err("/.flatpak-info is not what Flatpak makes".to_owned());
    }
    let text = reopen(&file).and_then(|file| read_text(&file, FILE_BYTES_MAX));
    let text = text.map_err(|error| format!("/.flatpak-info: {error}"))?;
    name(&text).map(|name| Some(name.to_owned()))
}

/// Opens what was only looked at: this very file, whatever its name means by now.
fn reopen(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// What the kernel knows without asking a file system's server.
fn stat(file: &OwnedFd) -> Result<Statx, String> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::SIZE | StatxFlags::MNT_ID;
    let found = statx(file, "", flags, wanted).map_err(|error| format!("its root: {error}"))?;
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err("the kernel does not tell mounts apart (it is older than 5.8)".to_owned());
    }
    Ok(found)
}

/// Whether the mount of a file is a tmpfs, by `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn is_on_tmpfs(mounts: &str, file: &Statx) -> bool {
    let id = file.stx_mnt_id.to_string();
    mounts.lines().any(|line| {
        line.split(' ').next() == Some(&id)
            && line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next()) == Some("tmpfs")
    })
}

/// `name` of the group `[Application]`, or of `[Runtime]` for a shell in a bare runtime.
///
/// # Errors
/// There is none, or it is no application id.
fn name(text: &str) -> Result<&str, String> {
    let mut group = "";
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            group = header;
        } else if let ("Application" | "Runtime", Some((key, value))) =
            (group, line.split_once('='))
            && key.trim() == "name"
        {
            let value = value.trim();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let good = (1..=255).contains(&value.len()) && value.bytes().all(plain);
            return if good { Ok(value) } else { Err("its name is no application id".to_owned()) };
        }
    }
    Err("/.flatpak-info has no name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_application() {
        let text =
            "[Context]\nname=no\n\n[Application]\nruntime=x\nname = org.games.Pong\nname=b\n";
        assert_eq!(name(text), Ok("org.games.Pong"));
        assert_eq!(name("[Runtime]\nname=org.freedesktop.Sdk\n"), Ok("org.freedesktop.Sdk"));
        for bad in ["", "[Application]\n", "[Application]\nname=\n", "[Application]\nname=a/b\n"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_kind_of_a_mount_is_that_of_its_number() {
        let tmp: OwnedFd = std::fs::File::open("/").expect("there").into();
        let mut file = stat(&tmp).expect("a mount");
        file.stx_mnt_id = 42;
        for (line, tmpfs) in [
            ("42 30 0:5 / /x rw shared:1 - tmpfs tmpfs rw", true),
            ("42 30 0:5 / /x rw - fuse.sshfs tmpfs rw", false),
            ("142 30 0:5 / /x rw - tmpfs tmpfs rw", false),
            ("42 30 0:5 /-\\040tmpfs /x rw - fuse a rw", false),
            ("", false),
        ] {
            assert_eq!(is_on_tmpfs(line, &file), tmpfs, "{line}");
        }
    }
}
