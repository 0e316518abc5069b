//! Fds that stand for the device, and the session behind each.
//!
//! Behind an fd is the session's own socket, so that duplicating it, closing it, inheriting it and
//! passing it on are the kernel's business, and the session lives as long as an open file would.
//! Every open is a session; fds that are duplicates of each other share one. A child of `fork`, and
//! a process that was sent such an fd, use the session together with the others
//! ([`Connection::share`]).

mod fork;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gpu_broker_client::protocol::limits::CLIENT_NAME_BYTES_MAX;
use gpu_broker_client::{Connection, default_socket_path};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::errno::{Errno, Outcome};
use crate::mapping::Buffers;
use crate::userptr;

/// Names a session in this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileId(u64);

/// An open device file, as the table has it.
pub(crate) struct File {
    pub(crate) minor: u32,
    connection: Connection,
    /// Fds of this process that are open on it.
    fds: usize,
    pub(crate) buffers: Buffers,
}

/// What a call needs of an open device file.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: FileId,
    pub(crate) minor: u32,
    pub(crate) connection: Connection,
}

#[derive(Default)]
struct Table {
    fds: HashMap<RawFd, FileId>,
    files: BTreeMap<FileId, File>,
    next: u64,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

fn table() -> MutexGuard<'static, Option<Table>> {
    // Every change of the table is one step; a panic leaves nothing half done.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the device anew: a session of its own.
///
/// # Errors
/// ENODEV when no broker answers; EMFILE.
pub(crate) fn open(minor: u32, cloexec: bool) -> Outcome<RawFd> {
    let connection = connect()?;
    let fd = rustix::io::fcntl_dupfd_cloexec(&connection, 0)?;
    if !cloexec {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
    }
    fork::watch();
    let fd = fd.into_raw_fd();
    let mut table = table();
    let table = table.get_or_insert_default();
    let id = table.insert(minor, connection);
    table.attach(fd, id);
    Ok(fd)
}

/// An fd that came from another process, or through `exec`: a session of the broker's, if it is
/// one, is used from now on together with whoever else has it.
pub(crate) fn adopt(fd: RawFd) -> Option<Node> {
    let borrowed = borrow(fd).ok()?;
    if rustix::net::sockopt::socket_type(borrowed) != Ok(SocketType::SEQPACKET) {
        return None;
    }
    if same_socket(borrowed, fd) {
        return of(fd);
    }
    let theirs = rustix::net::sockopt::socket_peercred(borrowed).ok()?;
    // Fences are such sockets too; sessions are connected to where the broker listens.
    let known = connect().ok()?;
    let listener = rustix::net::getpeername(&known).ok()??;
    if rustix::net::getpeername(borrowed).ok()? != Some(listener) {
        return None;
    }
    let broker = rustix::net::sockopt::socket_peercred(&known).ok()?;
    if (theirs.pid, theirs.uid) != (broker.pid, broker.uid) {
        return None;
    }
    let joined = || {
        // Straight to its place: another thread may have a turn on the socket by now, which closing
        // a first copy would end.
        let least = OWN_FDS.iter();
        let copy = |least: &RawFd| rustix::io::fcntl_dupfd_cloexec(borrowed, *least).ok();
        Connection::join(least.chain([&0]).find_map(copy)?, known.hello().clone()).ok()
    };
    fork::watch();
    {
        let mut table = table();
        if let Some(id) = table.as_ref().and_then(|table| table.over(borrowed)) {
            table.as_mut()?.attach(fd, id);
            drop(table);
            return of(fd);
        }
        let connection = joined()?;
        let table = table.get_or_insert_default();
        // The primary node's fds can do all that the others can.
        let id = table.insert(crate::tree::PRIMARY, connection);
        table.attach(fd, id);
    }
    of(fd)
}

/// Whether the fd is another one of a session that this process has; from now on it stands for it.
/// Two connections over one socket could not keep their turns apart.
fn same_socket(socket: BorrowedFd<'_>, fd: RawFd) -> bool {
    let mut table = table();
    let Some(table) = table.as_mut() else { return false };
    let Some(id) = table.over(socket) else { return false };
    table.attach(fd, id);
    true
}

/// Whether closing the fd may take away a turn of this process (see [`Connection::quiet`]).
pub(crate) fn may_be_shared(fd: RawFd) -> bool {
    let any = table().as_ref().is_some_and(|table| table.shared().next().is_some());
    any && borrow(fd)
        .is_ok_and(|fd| rustix::net::sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET))
}

/// Closes fds of sessions that other processes have too, between turns.
pub(crate) fn quietly<T>(close: impl FnOnce() -> T) -> T {
    let shared: Vec<Connection> =
        table().as_ref().map(|table| table.shared().cloned().collect()).unwrap_or_default();
    let _quiet: Vec<_> = shared.iter().filter_map(Connection::quiet).collect();
    close()
}

/// The fd is about to be sent to another process.
pub(crate) fn sent(fd: RawFd) {
    if let Some(node) = of(fd) {
        node.connection.share();
    }
}

/// Our own fds lie above those that programs expect to get, as far as the limit lets them.
const OWN_FDS: [RawFd; 3] = [4096, 512, 64];

/// A session, over a socket out of the program's way.
///
/// # Errors
/// ENODEV when no broker answers; EMFILE.
pub(crate) fn connect() -> Outcome<Connection> {
    let gone = |_| Errno(libc::ENODEV);
    let address = SocketAddrUnix::new(default_socket_path()).map_err(gone)?;
    let flags = SocketFlags::CLOEXEC;
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = rustix::net::socket_with(kind.0, kind.1, flags, None)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(gone)?;
    let socket = out_of_the_way(socket);
    Connection::from_fd(socket, &client_name()).map_err(|_| Errno(libc::ENODEV))
}

/// Moves an fd of ours up.
pub(crate) fn out_of_the_way(fd: OwnedFd) -> OwnedFd {
    OWN_FDS.iter().find_map(|least| rustix::io::fcntl_dupfd_cloexec(&fd, *least).ok()).unwrap_or(fd)
}

impl File {
    /// Fds of ours that belong to it.
    fn own_fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.buffers.own_fds().chain([self.connection.as_fd().as_raw_fd()])
    }
}

/// Whether an fd is one of ours that the program knows nothing of, so must not close.
pub(crate) fn is_own(fd: RawFd) -> bool {
    let [.., least] = OWN_FDS;
    if fd < least {
        return false;
    }
    let in_file = |table: &Table| table.files.values().flat_map(File::own_fds).any(|own| own == fd);
    table().as_ref().is_some_and(in_file) || userptr::watch::own_fds().any(|own| own == fd)
}

/// All fds of that kind, in order.
pub(crate) fn own() -> Vec<RawFd> {
    let table = table();
    let files = table.iter().flat_map(|table| table.files.values());
    let mut own: Vec<RawFd> = files.flat_map(File::own_fds).collect();
    own.extend(userptr::watch::own_fds());
    own.sort_unstable();
    own
}

/// What to call the program in logs and status.
pub(crate) fn client_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    name.chars().filter(char::is_ascii_graphic).take(CLIENT_NAME_BYTES_MAX).collect()
}

/// The session behind an fd.
pub(crate) fn of(fd: RawFd) -> Option<Node> {
    let table = table();
    let table = table.as_ref()?;
    let id = *table.fds.get(&fd)?;
    let file = table.files.get(&id)?;
    Some(Node { id, minor: file.minor, connection: file.connection.clone() })
}

/// The minor of the node an fd stands for.
pub(crate) fn minor_of(fd: RawFd) -> Option<u32> {
    let table = table();
    let table = table.as_ref()?;
    table.files.get(table.fds.get(&fd)?).map(|file| file.minor)
}

/// An open file by its name.
pub(crate) fn by_id(id: FileId) -> Option<Node> {
    let table = table();
    let file = table.as_ref()?.files.get(&id)?;
    Some(Node { id, minor: file.minor, connection: file.connection.clone() })
}

/// Any session; fences and buffers are the same to all.
pub(crate) fn any() -> Option<Node> {
    let table = table();
    let (id, file) = table.as_ref()?.files.iter().next()?;
    Some(Node { id: *id, minor: file.minor, connection: file.connection.clone() })
}

/// Runs with the buffers of an open file.
///
/// # Errors
/// EBADF when another thread has closed it meanwhile.
pub(crate) fn with_buffers<T>(id: FileId, run: impl FnOnce(&mut Buffers) -> T) -> Outcome<T> {
    let mut table = table();
    let file = table.as_mut().and_then(|table| table.files.get_mut(&id));
    file.map(|file| run(&mut file.buffers)).ok_or(Errno(libc::EBADF))
}

/// `new` is a duplicate of `old`, or took its place.
pub(crate) fn duplicated(old: RawFd, new: RawFd) {
    closed(new);
    let mut table = table();
    if let Some(table) = table.as_mut()
        && let Some(id) = table.fds.get(&old).copied()
    {
        table.attach(new, id);
    }
}

/// The fd is closed. With its last fd the session goes.
pub(crate) fn closed(fd: RawFd) {
    let gone = table().as_mut().and_then(|table| table.detach(fd));
    // Outside the lock: hanging up may take a moment.
    if let Some((id, file)) = gone {
        drop(file);
        userptr::file_closed(id);
    }
}

/// All fds in a range are closed.
pub(crate) fn closed_range(first: RawFd, last: RawFd) {
    let fds: Vec<RawFd> = match table().as_ref() {
        Some(table) => table.fds.keys().copied().filter(|fd| (first..=last).contains(fd)).collect(),
        None => return,
    };
    fds.into_iter().for_each(closed);
}

impl Table {
    fn insert(&mut self, minor: u32, connection: Connection) -> FileId {
        self.next += 1;
        let id = FileId(self.next);
        self.files.insert(id, File { minor, connection, fds: 0, buffers: Buffers::default() });
        id
    }

    /// Sessions that other processes have too.
    fn shared(&self) -> impl Iterator<Item = &Connection> {
        self.files.values().map(|file| &file.connection).filter(|one| one.is_shared())
    }

    /// The open file whose session is over this socket.
    fn over(&self, socket: BorrowedFd<'_>) -> Option<FileId> {
        let inode = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let wanted = rustix::fs::fstat(socket).map(inode).ok()?;
        let own = |file: &File| rustix::fs::fstat(&file.connection).map(inode).ok();
        self.files.iter().find(|(_, file)| own(file) == Some(wanted)).map(|(id, _)| *id)
    }

    fn attach(&mut self, fd: RawFd, id: FileId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.fds += 1;
            self.fds.insert(fd, id);
        }
    }

    fn detach(&mut self, fd: RawFd) -> Option<(FileId, File)> {
        let id = self.fds.remove(&fd)?;
        let file = self.files.get_mut(&id)?;
        file.fds -= 1;
        if file.fds == 0 { Some((id, self.files.remove(&id)?)) } else { None }
    }
}

/// An fd of the program, for as long as a call takes.
pub(crate) fn borrow<'a>(fd: RawFd) -> Outcome<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(Errno(libc::EBADF));
    }
    // SAFETY: a call that names an fd uses it for as long as it takes; a program that closes it
    // meanwhile in another thread gets EBADF or another file, as from the kernel.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_getfd(borrowed)?;
    Ok(borrowed)
}
