//! A process that connected, as `/proc` shows it.

use std::os::fd::OwnedFd;

use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::cgroup;
use crate::policy::Fact;

/// Bytes read of a file in `/proc`: a machine may have some thousand mounts.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes read at a time.
const STEP_BYTES: usize = 16 * 1024;

/// The process that connected, by a handle that no other process can come by.
#[derive(Debug)]
pub(super) struct Whose {
    pid: Pid,
    pidfd: OwnedFd,
}

/// The directory of a process in `/proc`. It names that process for ever: reads fail once it is
/// gone, whatever its pid names then.
#[derive(Debug)]
pub(super) struct Process {
    directory: OwnedFd,
}

impl Whose {
    /// The process that connected.
    ///
    /// # Errors
    /// Why it cannot be told, in words.
    pub(super) fn of(socket: &OwnedFd, pid: u32) -> Result<Self, String> {
        let gone = || "the process that connected is gone".to_owned();
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or("the process is outside of the daemon's pid namespace")?;
        // Without SO_PEERPIDFD (before Linux 6.5) the pid may have been used again between connect
        // and this moment; there is nothing better.
        let pidfd = match getsockopt(socket, PeerPidfd) {
            Ok(pidfd) => pidfd,
            Err(nix::errno::Errno::ENOPROTOOPT) => {
                pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
                    Errno::SRCH => gone(),
                    other => format!("no pidfd: {other}"),
                })?
            }
            Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL) => return Err(gone()),
            Err(error) => return Err(format!("no pidfd: {error}")),
        };
        Ok(Self { pid, pidfd })
    }

    /// Its directory, if it still lives.
    ///
    /// # Errors
    /// Why it cannot be told, in words.
    pub(super) fn process(&self) -> Result<Process, String> {
        let path = format!("/proc/{}", self.pid.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open(&path, flags, Mode::empty());
        // After the directory was opened: a process that lives now had this pid all along.
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut asked = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut asked, Some(&now)) {
            Ok(0) => {}
            Ok(_) => return Err("the process that connected is gone".to_owned()),
            Err(error) => return Err(format!("its pidfd cannot be asked: {error}")),
        }
        match directory {
            Ok(directory) => Ok(Process { directory }),
            Err(error) => Err(format!("{path} cannot be opened: {error}")),
        }
    }
}

impl Process {
    /// Its control group.
    pub(super) fn cgroup(&self) -> Fact {
        match self.read("cgroup") {
            Ok(text) => cgroup::path(&text).map_or(Fact::None, |path| Fact::Is(path.to_owned())),
            Err(error) => Fact::Unknown(format!("/proc/PID/cgroup cannot be read: {error}")),
        }
    }

    /// A file of the kernel's, up to a size.
    pub(super) fn read(&self, name: &str) -> Result<String, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::empty())?;
        read_text(&file, FILE_BYTES_MAX)
    }

    /// Its root directory, looked at but not opened.
    ///
    /// # Errors
    /// EACCES without the right to look into the process (ptrace(2), PTRACE_MODE_READ_FSCREDS).
    pub(super) fn root(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.directory, "root", flags, Mode::empty())
    }
}

/// The text of a file that is not longer than `most`.
pub(super) fn read_text(file: &OwnedFd, most: usize) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(STEP_BYTES);
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return String::from_utf8(bytes).map_err(|_| Errno::ILSEQ),
            Ok(_) if bytes.len() > most => return Err(Errno::FBIG),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A pid that names somebody else by now is what a reused pid looks like.
    #[test]
    fn a_pid_that_was_used_again_is_not_taken_for_the_process_that_connected() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("our child");
        let mut whose = Whose { pid, pidfd };
        let here = whose.process().expect("it lives");
        let command = here.read("comm").expect("it lives");
        assert!(!command.is_empty());
        child.kill().expect("ours");
        child.wait().expect("ours");
        whose.pid = rustix::process::getpid();
        let why = whose.process().expect_err("our pid, but not our pidfd");
        assert!(why.contains("is gone"), "{why}");
        assert!(here.read("comm").is_err(), "the directory does not follow the pid");
        assert!(matches!(here.cgroup(), Fact::Unknown(_)));
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let file: OwnedFd = std::fs::File::open("/dev/zero").expect("there").into();
        assert_eq!(read_text(&file, 4096), Err(Errno::FBIG));
    }
}
