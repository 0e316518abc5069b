//! The audit log: who was refused what, who was turned away, whose session was taken away. Lines
//! have the target `audit`, so that a filter (`log_level = "warn,audit=off"`) or the journal
//! (`TARGET=audit`) tells them from the others. A client that is refused without end fills nothing:
//! each class has so many lines in a while.

use gpu_broker_core::Time;
use gpu_broker_protocol::{Opcode, Refusal};

use crate::classes::Class;
use crate::hands::SessionLog;
use crate::identity::Identity;
use crate::limiter::{Limiter, limited};

/// A request was refused by policy or a limit, which is what an auditor looks for; that a client
/// asked for something that does not exist is its own affair.
pub(crate) fn refused(log: &SessionLog, now: Time, opcode: u16, refusal: &Refusal) {
    if !is_policy(refusal) {
        return;
    }
    let request =
        Opcode::from_u16(opcode).map_or_else(|| "?".to_owned(), |known| format!("{known:?}"));
    limited!(
        log.class.limiter,
        now,
        (
            target: "audit",
            session = %log.session, class = log.class.name(), peer = log.peer(),
            reason = refusal.reason.name(), request,
        ),
        "audit: refused: {}",
        refusal.sentence()
    );
}

/// Whether the refusal is a decision of policy or of a limit.
fn is_policy(refusal: &Refusal) -> bool {
    use gpu_broker_protocol::Reason::{
        BannablePrivilege, BufferLimit, BufferMemoryLimit, ContextLimit, Denied, InFlightLimit,
        PriorityPrivilege, UserptrMemoryLimit, VmLimit,
    };
    matches!(
        refusal.reason,
        BannablePrivilege
            | BufferLimit
            | BufferMemoryLimit
            | ContextLimit
            | Denied
            | InFlightLimit
            | PriorityPrivilege
            | UserptrMemoryLimit
            | VmLimit
    )
}

/// A connection got no session.
pub(crate) fn turned_away(limiter: &Limiter, now: Time, peer: &dyn std::fmt::Display, why: &str) {
    limited!(limiter, now, (target: "audit", peer = %peer,), "audit: turned away: {why}");
}

/// The same, once its class is known.
pub(crate) fn denied(class: &Class, now: Time, identity: &Identity, why: &str) {
    limited!(
        class.limiter,
        now,
        (target: "audit", class = class.name(), peer = %identity,),
        "audit: turned away: {why}"
    );
}

/// An administrator took a session away. Rare, and never left out.
pub(crate) fn revoked(log: &SessionLog, by: &str) {
    tracing::warn!(
        target: "audit",
        session = %log.session, class = log.class.name(), peer = log.peer(),
        "audit: revoked (asked for by {by})"
    );
}
