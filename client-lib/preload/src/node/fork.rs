//! What `fork` does to the table: child and parent share each open device file.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{MutexGuard, Once};

use gpu_broker_client::Connection;

use super::{Table, table};
use crate::userptr;
use crate::verdict::Inside;

/// The table, held from before a fork to after it, so that the child finds it whole.
struct Held {
    userptr: Option<userptr::fork::Held>,
    table: MutexGuard<'static, Option<Table>>,
    _inside: Option<Inside>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Watches forks from now on.
pub(super) fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handlers are functions of this library, which is never unloaded.
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    });
}

extern "C" fn prepare() {
    let inside = Inside::enter();
    // Before the table is held: requests on the way need it to end.
    let connections: Vec<Connection> = {
        let table = table();
        let files = table.iter().flat_map(|table| table.files.values());
        files.map(|file| file.connection.clone()).collect()
    };
    connections.iter().for_each(Connection::share);
    let userptr = userptr::fork::prepare();
    let held = Held { userptr, table: table(), _inside: inside };
    let _ = HELD.try_with(|place| place.replace(Some(held)));
}

extern "C" fn parent() {
    let Ok(Some(held)) = HELD.try_with(RefCell::take) else { return };
    if let Some(userptr) = held.userptr {
        userptr.parent();
    }
}

extern "C" fn child() {
    let Ok(Some(mut held)) = HELD.try_with(RefCell::take) else { return };
    if let Some(userptr) = held.userptr.take() {
        userptr.child();
    }
    let Some(table) = held.table.as_mut() else { return };
    for file in table.files.values_mut() {
        let number = file.connection.as_fd().as_raw_fd();
        let hello = file.connection.hello().clone();
        // SAFETY: the child's copy of the parent's fd; the connection that owned it is forgotten
        // below, and so never closes it.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        let Ok(joined) = Connection::join(socket, hello) else { continue };
        // Other threads may have held its locks, and they are not here to give them back.
        std::mem::forget(std::mem::replace(&mut file.connection, joined));
    }
}
