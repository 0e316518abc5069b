//! Requests of a device whose calls may wait in the kernel ([`Device::MAY_BLOCK`]), and of others
//! those that take long ([`crate::lists::is_long`]), which take turns: the reactor needs a processor.
//!
//! They run on a thread of the runtime's pool, one at a time for each connection, which reads its
//! next request when this one is answered: as for a thread that is inside an ioctl. So one client
//! that is stuck delays itself; its waits that began before go on ending. What only looks, or begins
//! a wait, stays on the reactor.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use gpu_broker_core::Time;
use gpu_broker_device::{Device, DeviceFile as _};
use gpu_broker_protocol::message::HelloReply;
use gpu_broker_protocol::{Header, Opcode};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};

use crate::directory::Entry;
use crate::packet::Fds;
use crate::requests::{Answer, Fault, Open};
use crate::server::Server;

/// Whether a request may reach the device in a way that waits.
pub(crate) fn may_block(opcode: u16) -> bool {
    const INLINE: &[Opcode] = &[
        Opcode::Ping,
        Opcode::DeviceQuery,
        Opcode::Status,
        Opcode::GetParam,
        Opcode::Query,
        Opcode::GetAperture,
        Opcode::RegRead,
        // Waits: they begin with a look.
        Opcode::Throttle,
        Opcode::BufferBusy,
        Opcode::BufferWait,
        Opcode::BufferSetDomain,
        Opcode::BufferAccess,
        Opcode::SyncobjWait,
        Opcode::SyncobjTransfer,
        Opcode::UserptrInvalidate,
    ];
    !INLINE.iter().any(|inline| *inline as u16 == opcode)
}

/// Does something on a thread of the pool when its turn comes. A panic goes on here.
async fn in_turn<T: Send + 'static>(
    turns: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let _turn = turns.acquire_owned().await;
    match tokio::task::spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is going, and takes this along.
        Err(Err(_cancelled)) => std::future::pending().await,
    }
}

/// A request that is being done.
pub(crate) struct Lane<D: Device> {
    came: Time,
    header: Header,
    work: Work<D>,
}

type Opened<D> = Result<(Open<D>, HelloReply), Fault>;

enum Work<D: Device> {
    Hello(JoinHandle<(Opened<D>, Fds)>),
    Request(JoinHandle<(Open<D>, Result<Answer, Fault>, Fds)>),
}

/// What came of it.
pub(crate) struct Done<D: Device> {
    /// When the request came.
    pub(crate) came: Time,
    pub(crate) header: Header,
    pub(crate) result: Result<Answer, Fault>,
    /// To be disposed of.
    pub(crate) fds: Fds,
    /// The session, if it has just been opened.
    pub(crate) opened: Option<Open<D>>,
    /// What [`Open::lend`] gave.
    pub(crate) lent: Option<Open<D>>,
}

/// The thread panicked: a bug of ours.
#[derive(Debug)]
pub(crate) struct Panicked;

impl<D: Device> Lane<D> {
    /// Opens a session.
    pub(crate) fn hello(
        server: &Arc<Server<D>>,
        entry: &Arc<Entry<D>>,
        now: Time,
        header: Header,
        body: &[u8],
        fds: Fds,
    ) -> Self {
        let (server, entry, body) = (Arc::clone(server), Arc::clone(entry), Box::from(body));
        let open = move || {
            let body: Box<[u8]> = body;
            (crate::hello::open(&server, &entry, now, header, &body, &fds), fds)
        };
        Self { came: now, header, work: Work::Hello(tokio::task::spawn_blocking(open)) }
    }

    /// Does a request with what the session lends.
    pub(crate) fn request(
        server: &Arc<Server<D>>,
        entry: &Arc<Entry<D>>,
        now: Time,
        header: Header,
        body: &[u8],
        (mut lent, mut fds): (Open<D>, Fds),
    ) -> Self {
        let turns = Arc::clone(&server.long);
        let (server, entry, body) = (Arc::clone(server), Arc::clone(entry), Box::from(body));
        let handle = move || {
            let body: Box<[u8]> = body;
            // A client that knows of a hang must not be answered as if there had been none; and who is to
            // blame for it, the device can tell only while the context is there.
            let settles =
                [Opcode::ContextCreate, Opcode::ContextResetStats, Opcode::ContextDestroy];
            if settles.iter().any(|opcode| *opcode as u16 == header.opcode) {
                lent.session.hands().file.settle();
            }
            let result = lent.handle(&server, &entry, now, header, &body, &mut fds);
            (lent, result, fds)
        };
        let work = if D::MAY_BLOCK {
            tokio::task::spawn_blocking(handle)
        } else {
            tokio::spawn(in_turn(turns, handle))
        };
        Self { came: now, header, work: Work::Request(work) }
    }

    /// The request's end.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Result<Done<D>, Panicked>> {
        let (came, header) = (self.came, self.header);
        Poll::Ready(match &mut self.work {
            Work::Hello(handle) => match ready!(Pin::new(handle).poll(cx)) {
                Err(_) => Err(Panicked),
                Ok((result, fds)) => {
                    let (opened, result) = match result {
                        Ok((open, reply)) => {
                            (Some(open), Ok(Answer::Now(gpu_broker_protocol::Reply::Hello(reply))))
                        }
                        Err(fault) => (None, Err(fault)),
                    };
                    Ok(Done { came, header, result, fds, opened, lent: None })
                }
            },
            Work::Request(handle) => match ready!(Pin::new(handle).poll(cx)) {
                Err(_) => Err(Panicked),
                Ok((lent, result, fds)) => {
                    Ok(Done { came, header, result, fds, opened: None, lent: Some(lent) })
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_or_waits_stays_on_the_reactor() {
        assert!(!may_block(Opcode::Ping as u16) && !may_block(Opcode::SyncobjWait as u16));
        for opcode in [Opcode::Execbuf, Opcode::BufferClose, Opcode::ContextDestroy] {
            assert!(may_block(opcode as u16), "{opcode:?}");
        }
        // An opcode that is not known ends the session, wherever that is found out.
        assert!(may_block(0xffff));
    }
}
