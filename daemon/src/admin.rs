//! What administrators may ask, by their own socket.
//!
//! That socket is a listener like others, whose clients may ask for more: they have a session too,
//! but neither a full nor a draining daemon keeps them out. Its file's permissions say who reaches
//! it; whoever does must besides be root, the daemon's user, or listed.

mod listen;
mod sessions;

use std::sync::Arc;

use gpu_broker_core::Resource;
use gpu_broker_device::Device;
use gpu_broker_protocol::admin::{
    AdminClassList, AdminDrain, AdminDrained, AdminEvents, AdminLimit, AdminLimited, AdminNews,
    AdminRevoke, AdminTrace, AdminTracePage, AdminTraceRead, AdminTracing, ClassStatus,
    LimitStatus, kind,
};
use gpu_broker_protocol::{EpitaphCode, Reason, Refusal};

pub(crate) use self::listen::{listen, listeners};
pub(crate) use self::sessions::{inspect, list};
use crate::audit;
use crate::classes::count;
use crate::directory::Entry;
use crate::server::Server;

/// Lets only administrators on.
///
/// # Errors
/// EACCES on every other socket.
fn check<D: Device>(entry: &Entry<D>) -> Result<(), Refusal> {
    if entry.identity.origin.admin {
        return Ok(());
    }
    Err(Refusal::new(Reason::Denied).with_detail("this is for the administrators' socket"))
}

pub(crate) fn drain<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
    request: AdminDrain,
) -> Result<AdminDrained, Refusal> {
    check(entry)?;
    server.set_draining(request.on);
    tracing::info!("draining: {} (asked for by {})", request.on, entry.log.peer());
    tell(server, entry, |by| AdminNews::Drained { on: request.on, by });
    Ok(AdminDrained { connections: u32::try_from(server.directory.len()).unwrap_or(u32::MAX) })
}

pub(crate) fn revoke<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
    request: AdminRevoke,
) -> Result<(), Refusal> {
    check(entry)?;
    let victim = server.directory.get(request.session).ok_or(Reason::NoSuchSession)?;
    count(&victim.log.class.counts.revocations);
    audit::revoked(&victim.log, entry.log.peer());
    tell(server, entry, |by| AdminNews::Revoked { session: request.session, by });
    victim.end(EpitaphCode::Revoked);
    Ok(())
}

pub(crate) fn limit<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
    request: &AdminLimit,
) -> Result<AdminLimited, Refusal> {
    check(entry)?;
    let AdminLimit { class: name, key, value } = request;
    let unknown = |what: &str| Refusal::new(Reason::NoSuchClass).with_detail(what);
    let class = server.classes.get(name).ok_or_else(|| unknown(name))?;
    let resource = Resource::from_key(key).ok_or_else(|| unknown(key))?;
    let before = class.account.limit(resource);
    class.account.set_limit(resource, value.unwrap_or(u64::MAX));
    tracing::info!(
        class = name,
        "limits.{key} is {value:?} until the configuration is read again (asked for by {})",
        entry.log.peer()
    );
    let (class, key, value) = (name.clone(), key.clone(), *value);
    tell(server, entry, |by| AdminNews::Limited { class, key, value, by });
    Ok(AdminLimited { before: limited(before) })
}

pub(crate) fn classes<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
) -> Result<AdminClassList, Refusal> {
    check(entry)?;
    let classes = server.classes.all().into_iter().map(|class| ClassStatus {
        name: class.name().to_owned(),
        weight: class.weight(),
        limits: Resource::ALL
            .map(|resource| LimitStatus {
                key: resource.key().to_owned(),
                held: class.account.held(resource),
                most: limited(class.account.limit(resource)),
            })
            .into(),
    });
    Ok(AdminClassList { classes: classes.collect() })
}

/// Which events this connection gets from now on.
pub(crate) fn subscribe<D: Device>(
    server: &Server<D>,
    entry: &Arc<Entry<D>>,
    request: AdminEvents,
) -> Result<(), Refusal> {
    check(entry)?;
    server.books.events.subscribe(entry, request.kinds);
    Ok(())
}

pub(crate) fn trace<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
    request: AdminTrace,
) -> Result<AdminTracing, Refusal> {
    check(entry)?;
    let book = &server.books.trace;
    server.device.set_tracing(book.want(entry.id(), request.on));
    Ok(AdminTracing { now_ns: server.clock.now().0, next: book.next(), runs: D::TRACES_RUNS })
}

pub(crate) fn trace_read<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
    request: AdminTraceRead,
) -> Result<AdminTracePage, Refusal> {
    check(entry)?;
    Ok(server.books.trace.read(request.from))
}

/// Tells those who asked what an administrator did.
fn tell<D: Device>(server: &Server<D>, by: &Entry<D>, news: impl FnOnce(String) -> AdminNews) {
    server.books.events.tell(kind::ADMIN, || news(by.log.peer().to_owned()));
}

fn limited(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}
