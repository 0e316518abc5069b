//! ADMIN_LISTEN: a sandbox engine makes a listener for one sandbox, and says who comes in by it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use gpu_broker_device::Device;
use gpu_broker_protocol::admin::{AdminListen, AdminListenerList, AdminNews, kind};
use gpu_broker_protocol::limits::IDENTITY_CHARS_MAX;
use gpu_broker_protocol::{Reason, Refusal};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::{check, tell};
use crate::directory::Entry;
use crate::fds::dispose;
use crate::identity::printable;
use crate::listeners::{Origin, Taken};
use crate::packet::Fds;
use crate::policy::file::is_name;
use crate::server::Server;
use crate::socket::Listener;

/// Serves a socket that the peer has made, until the other end of `close` is gone.
///
/// # Errors
/// EACCES where the peer may not administer; EINVAL for a name or text that is none, or fds that are
/// not a listening socket of the right type and a pipe or socket; ENOENT for an unknown class; EEXIST
/// for a name that is taken; ENOMEM if there are as many listeners as there may be.
pub(crate) fn listen<D: Device>(
    server: &Arc<Server<D>>,
    entry: &Entry<D>,
    request: AdminListen<usize>,
    fds: &mut Fds,
) -> Result<(), Refusal> {
    check(entry)?;
    let (socket, close) = take_fds(&request, fds)?;
    let AdminListen { name, class, app_id, instance_id, .. } = request;
    let said = [&app_id, &instance_id];
    // What is shown as it was said; the administrators' name would make administrators.
    let prints = |text: &String| !text.is_empty() && printable(text, IDENTITY_CHARS_MAX) == *text;
    if !is_name(&name) || Origin::named(&name).admin || !said.into_iter().flatten().all(prints) {
        return Err(Reason::ListenerText.into());
    }
    if let Some(class) = &class
        && server.classes.get(class).is_none()
    {
        return Err(Refusal::new(Reason::NoSuchClass).with_detail(class.clone()));
    }
    let unfit = |why: String| Refusal::new(Reason::ListenerSocket).with_detail(why);
    let listener =
        Listener::over(name.clone(), socket).map_err(|error| unfit(error.to_string()))?;
    let close = Close::over(close).map_err(|error| unfit(format!("its end: {error}")))?;
    let origin = Origin { name: name.clone(), class, app_id, instance_id, admin: false };
    server.listeners.check_made(&name).map_err(|taken| match taken {
        Taken::Name => Reason::ListenerName,
        Taken::Full => Reason::ListenerLimit,
    })?;
    server.listen_made(listener, origin).map_err(|error| unfit(error.to_string()))?;
    let listener = name.clone();
    tell(server, entry, |by| AdminNews::ListenerMade { listener, by });
    let server = Arc::clone(server);
    tokio::spawn(async move {
        close.hangs_up().await;
        server.listeners.remove(&name);
        tracing::info!("listener \"{name}\" is gone: its owner has hung up");
        server.books.events.tell(kind::ADMIN, || AdminNews::ListenerGone { listener: name });
    });
    Ok(())
}

/// # Errors
/// EACCES where the peer may not administer.
pub(crate) fn listeners<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
) -> Result<AdminListenerList, Refusal> {
    check(entry)?;
    Ok(AdminListenerList { listeners: server.listeners.list() })
}

/// The two fds of the message.
fn take_fds(request: &AdminListen<usize>, fds: &mut Fds) -> Result<(OwnedFd, OwnedFd), Refusal> {
    // Positions are in the order of the fields, and there are as many fds as positions.
    debug_assert_eq!((request.socket, request.close), (0, 1));
    let (close, socket) = (fds.pop(), fds.pop());
    socket.zip(close).ok_or_else(|| Reason::ListenerSocket.into())
}

/// What says when its other end is gone.
enum Close {
    Pipe(pipe::Receiver),
    Socket(UnixStream),
}

impl Close {
    /// # Errors
    /// It is neither the reading end of a pipe nor a connected stream socket.
    fn over(fd: OwnedFd) -> std::io::Result<Self> {
        use rustix::fs::FileType;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if kind == FileType::Fifo {
            return pipe::Receiver::from_owned_fd(fd).map(Self::Pipe);
        }
        if kind == FileType::Socket {
            let socket = std::os::unix::net::UnixStream::from(fd);
            // Tells it from sockets of other kinds, whose names are no Unix addresses.
            let _ = socket.peer_addr()?;
            socket.set_nonblocking(true)?;
            return UnixStream::from_std(socket).map(Self::Socket);
        }
        dispose(std::iter::once(fd).collect());
        Err(std::io::Error::other("it is neither a pipe nor a socket"))
    }

    /// Waits until there is nobody at the other end. What is written to it means nothing.
    async fn hangs_up(&self) {
        let mut nothing = [0; 64];
        loop {
            let read = match self {
                Self::Pipe(pipe) => match pipe.readable().await {
                    Ok(()) => pipe.try_read(&mut nothing),
                    Err(error) => Err(error),
                },
                Self::Socket(socket) => match socket.readable().await {
                    Ok(()) => socket.try_read(&mut nothing),
                    Err(error) => Err(error),
                },
            };
            match read {
                Ok(0) => return,
                Ok(_) => tokio::task::yield_now().await,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
