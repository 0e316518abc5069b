//! What administrators may ask, by their own socket.
//!
//! That socket is a listener like others, whose clients may ask for more: they have a session too,
//! but neither a full nor a draining daemon keeps them out. Its file's permissions say who reaches
//! it; whoever does must besides be root, the daemon's user, or listed.

use gpu_broker_core::Resource;
use gpu_broker_device::Device;
use gpu_broker_protocol::admin::{
    AdminClassList, AdminDrain, AdminDrained, AdminLimit, AdminLimited, AdminRevoke, ClassStatus,
    LimitStatus,
};
use gpu_broker_protocol::{EpitaphCode, Reason, Refusal};

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

fn limited(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}
