//! The sockets the daemon listens on: passed by systemd, or made here.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::listeners::MAIN;
use crate::policy::file::is_name;

/// File name of the socket in whatever directory it goes to.
const FILE_NAME: &str = "gpu-broker.sock";

/// Connections the kernel keeps until the daemon accepts them.
const BACKLOG: i32 = 1024;

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No path was given and there is no default.
    #[error(
        "there is no default place for the socket: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR \
         is set; say where with --socket PATH"
    )]
    NoPlace,
    /// Anybody could replace the socket.
    #[error(
        "the socket must not be in {0}, which everybody can write to: another user could put a \
         socket of theirs in its place; choose a directory of your own"
    )]
    WorldWritable(PathBuf),
    /// Another daemon serves the socket.
    #[error("another gpu-brokerd already serves {0}; stop it first or choose another --socket")]
    InUse(PathBuf),
    /// Something that is not a socket is there.
    #[error("{0} exists and is not a socket; remove it or choose another --socket")]
    NotASocket(PathBuf),
    /// systemd passed something else than a listening SEQPACKET socket.
    #[error(
        "a file descriptor that was passed is no listening sequential-packet socket ({0}); \
         a socket unit must use ListenSequentialPacket="
    )]
    Activation(String),
    /// The system said no.
    #[error("cannot {doing} {path}: {source}")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A socket that listens, and what must be cleaned up after it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// What policy calls it.
    pub(crate) name: String,
    fd: OwnedFd,
    /// Only for sockets made here: systemd removes its own.
    file: Option<SocketFile>,
}

/// A socket file that belongs to this process. Removed on drop, unless somebody else has put
/// another in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    lock: OwnedFd,
}

/// The sockets systemd passed (sd_listen_fds(3)); none if it passed none.
pub(crate) fn activated() -> Result<Vec<Listener>, SocketError> {
    // Read before the crate takes the variables away.
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let family = i32::from(AddressFamily::UNIX.as_raw());
        let kind = SocketType::SEQPACKET.as_raw().cast_signed();
        let fd = passed
            .take_custom::<OwnedFd>(index, family, kind, "unix sequential-packet socket")
            .map_err(|error| SocketError::Activation(error.to_string()))?;
        let name = activated_name(names.next().unwrap_or_default());
        let Some(fd) = fd else { continue };
        listeners.push(Listener::over(name, fd)?);
    }
    Ok(listeners)
}

/// FileDescriptorName= if the unit has one that is a name to us; without it systemd passes the name
/// of the socket unit.
fn activated_name(name: &str) -> String {
    if is_name(name) && !name.ends_with(".socket") && name != "unknown" {
        name.to_owned()
    } else {
        MAIN.to_owned()
    }
}

/// A file of systemd's runtime directory, if it gave us one.
pub(crate) fn in_runtime_directory(
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    file: &str,
) -> Option<PathBuf> {
    let list = variable("RUNTIME_DIRECTORY")?;
    // systemd lists every RuntimeDirectory=, with colons between.
    let first = list.as_bytes().split(|byte| *byte == b':').next()?;
    let directory = PathBuf::from(std::ffi::OsStr::from_bytes(first));
    directory.is_absolute().then(|| directory.join(file))
}

/// Where the socket goes unless somebody says otherwise.
pub(crate) fn default_path(
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<PathBuf, SocketError> {
    let of_user = || {
        let directory = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        Some(directory.filter(|directory| directory.is_absolute())?.join(FILE_NAME))
    };
    in_runtime_directory(&variable, FILE_NAME).or_else(of_user).ok_or(SocketError::NoPlace)
}

impl Listener {
    /// Listens at `path` with the permission bits `mode`, in place of a socket that a dead daemon
    /// left there. A lock file beside it decides between daemons that start at the same time.
    pub(crate) fn bind(name: &str, path: &Path, mode: u32) -> Result<Self, SocketError> {
        let (fd, file) = bind_at(path, mode, SocketType::SEQPACKET)?;
        Ok(Self { name: name.to_owned(), fd, file: Some(file) })
    }

    /// A socket that somebody else made.
    ///
    /// # Errors
    /// It is not a listening sequential-packet socket.
    pub(crate) fn over(name: String, fd: OwnedFd) -> Result<Self, SocketError> {
        let refuse = |why: &str| Err(SocketError::Activation(why.to_owned()));
        let sockopt = |fits: rustix::io::Result<bool>| fits.unwrap_or(false);
        use rustix::net::sockopt;
        if !sockopt(sockopt::socket_type(&fd).map(|kind| kind == SocketType::SEQPACKET))
            || !sockopt(sockopt::socket_domain(&fd).map(|family| family == AddressFamily::UNIX))
        {
            return refuse("it is no Unix socket of that type");
        }
        if !sockopt(sockopt::socket_acceptconn(&fd)) {
            return refuse("it does not listen");
        }
        rustix::io::ioctl_fionbio(&fd, true).map_err(|error| {
            SocketError::Activation(format!("it cannot be made non-blocking: {error}"))
        })?;
        Ok(Self { name, fd, file: None })
    }

    /// The socket, and what to drop when it is no longer listened on.
    pub(crate) fn into_parts(self) -> (OwnedFd, Option<SocketFile>) {
        (self.fd, self.file)
    }

    /// Where its file will be removed from, if it has one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.file.as_ref().map(SocketFile::directory)
    }

    /// Where it is, for the log.
    pub(crate) fn place(&self) -> String {
        match &self.file {
            Some(file) => file.path.display().to_string(),
            None => "a socket that was passed".to_owned(),
        }
    }
}

/// Listens at `path`, as [`Listener::bind`] does, with any type of socket.
pub(crate) fn bind_at(
    path: &Path,
    mode: u32,
    kind: SocketType,
) -> Result<(OwnedFd, SocketFile), SocketError> {
    check_directory(path)?;
    let lock = lock(path)?;
    clear_place(path)?;
    let fail = |doing| move |error: Errno| os(doing, path, error);
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(fail("make a socket for"))?;
    let address = SocketAddrUnix::new(path).map_err(fail("use the path"))?;
    rustix::net::bind(&fd, &address).map_err(fail("bind the socket to"))?;
    let inode = inode_of(path).map_err(fail("look at"))?;
    let file = SocketFile { path: path.to_owned(), inode, lock };
    // Nobody can connect before `listen`, so nobody gets in under the old mode.
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(fail("set the permissions of"))?;
    rustix::net::listen(&fd, BACKLOG).map_err(fail("listen on"))?;
    Ok((fd, file))
}

impl SocketFile {
    /// Where it is in.
    pub(crate) fn directory(&self) -> &Path {
        directory_of(&self.path)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode_of(&self.path) == Ok(self.inode) {
            // What is left behind, the next daemon clears away; there is nobody to tell.
            let _ = rustix::fs::unlink(&self.path);
        }
        let lock_path = lock_path(&self.path);
        if inode_of(&lock_path) == inode_of_fd(&self.lock) {
            let _ = rustix::fs::unlink(&lock_path);
        }
    }
}

fn os(doing: &'static str, path: &Path, error: Errno) -> SocketError {
    SocketError::Os { doing, path: path.to_owned(), source: error.into() }
}

fn inode_of(path: &Path) -> Result<(u64, u64), Errno> {
    rustix::fs::lstat(path).map(|stat| (stat.st_dev, stat.st_ino))
}

fn inode_of_fd(fd: &OwnedFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(fd.as_fd()).map(|stat| (stat.st_dev, stat.st_ino))
}

/// The directory that a file is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new("."))
}

fn check_directory(path: &Path) -> Result<(), SocketError> {
    let directory = directory_of(path);
    let stat = rustix::fs::stat(directory)
        .map_err(|error| os("look at the socket's directory", directory, error))?;
    if Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH) {
        return Err(SocketError::WorldWritable(directory.to_owned()));
    }
    Ok(())
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Takes the lock beside the socket for as long as the process lives.
fn lock(path: &Path) -> Result<OwnedFd, SocketError> {
    let lock_path = lock_path(path);
    loop {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(&lock_path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| os("open the lock file", &lock_path, error))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SocketError::InUse(path.to_owned())),
            Err(error) => return Err(os("lock", &lock_path, error)),
        }
        // The daemon that held the lock before may have removed the file just now; a lock on a
        // file without a name keeps nobody out.
        if inode_of(&lock_path) == inode_of_fd(&fd) {
            return Ok(fd);
        }
    }
}

/// Removes a socket nobody listens on any more.
fn clear_place(path: &Path) -> Result<(), SocketError> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(os("look at", path, error)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    // The lock does not keep out sockets that systemd made, or other programs.
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|error| os("make a socket for", path, error))?;
    let address = SocketAddrUnix::new(path).map_err(|error| os("use the path", path, error))?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => {
            rustix::fs::unlink(path).map_err(|error| os("remove the stale socket", path, error))
        }
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("s.sock");
        (directory, path)
    }

    #[test]
    fn a_second_daemon_is_refused_and_the_first_goes_on() {
        let (_directory, path) = place();
        let first = Listener::bind(MAIN, &path, 0o600).expect("free");
        assert!(matches!(Listener::bind(MAIN, &path, 0o600), Err(SocketError::InUse(_))));
        assert!(path.exists(), "the refused daemon must not remove the socket");
        drop(first);
        assert!(!path.exists() && !lock_path(&path).exists(), "nothing is left behind");
        drop(Listener::bind(MAIN, &path, 0o600).expect("free again"));
    }

    #[test]
    fn a_socket_without_our_lock_is_in_use_as_long_as_somebody_listens() {
        let (_directory, path) = place();
        // Connecting to a stream socket in our way fails, which is no proof of its death.
        let other = std::os::unix::net::UnixListener::bind(&path).expect("free");
        assert!(matches!(Listener::bind(MAIN, &path, 0o600), Err(SocketError::InUse(_))));
        assert!(path.exists());
        drop(other);
        assert!(path.exists(), "nobody removed the file, as after a crash");
        Listener::bind(MAIN, &path, 0o600).map(drop).expect("the dead socket is replaced");
    }

    #[test]
    fn a_socket_that_took_our_place_is_left_alone() {
        let (_directory, path) = place();
        let listener = Listener::bind(MAIN, &path, 0o600).expect("free");
        std::fs::remove_file(&path).expect("ours");
        let _other = std::os::unix::net::UnixListener::bind(&path).expect("free");
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn the_mode_is_what_was_asked_for() {
        let (_directory, path) = place();
        let _listener = Listener::bind(MAIN, &path, 0o622).expect("free");
        let mode = std::fs::metadata(&path).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o622);
    }

    #[test]
    fn a_file_of_another_kind_is_left_alone() {
        let (_directory, path) = place();
        std::fs::write(&path, "precious").expect("writable");
        assert!(matches!(Listener::bind(MAIN, &path, 0o600), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    }

    #[test]
    fn a_directory_everybody_can_write_to_is_refused() {
        let (directory, path) = place();
        let everybody = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(directory.path(), everybody).expect("ours");
        assert!(matches!(Listener::bind(MAIN, &path, 0o600), Err(SocketError::WorldWritable(_))));
        assert!(!path.exists());
    }

    #[test]
    fn the_default_place_is_systemds_then_the_users_then_none() {
        let both = |name: &str| match name {
            "RUNTIME_DIRECTORY" => Some("/run/gpu-broker:/run/other".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".into()),
            _ => None,
        };
        assert_eq!(default_path(both).expect("set"), Path::new("/run/gpu-broker/gpu-broker.sock"));
        let user = |name: &str| both(name).filter(|_| name == "XDG_RUNTIME_DIR");
        assert_eq!(default_path(user).expect("set"), Path::new("/run/user/1000/gpu-broker.sock"));
        assert!(matches!(default_path(|_| None), Err(SocketError::NoPlace)));
        assert!(matches!(default_path(|_| Some("".into())), Err(SocketError::NoPlace)));
    }

    #[test]
    fn a_socket_unit_names_its_socket_only_if_it_says_so() {
        for (passed, name) in [("desktop", "desktop"), ("admin", "admin"), ("a.b-c", "a.b-c")] {
            assert_eq!(activated_name(passed), name);
        }
        for other in ["gpu-broker.socket", "unknown", "", "a b", "../x"] {
            assert_eq!(activated_name(other), MAIN, "{other}");
        }
    }
}
