//! The generic walker of extension chains (rule table §3).

use gpu_broker_protocol::limits::EXTENSIONS_PER_CHAIN_MAX;
use gpu_broker_protocol::param::Extension;
use gpu_broker_protocol::{Reason, Refusal};

/// Runs `handler` over the nodes in order and stops at the first error. Effects of earlier nodes
/// stay: the caller discards the whole object.
///
/// # Errors
/// Per node, in this order: E2BIG for node 513, EINVAL for flags or reserved words that are not 0,
/// and what the handler says.
pub(crate) fn walk<Body>(
    nodes: &[Extension<Body>],
    mut handler: impl FnMut(u32, &Body) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    for (position, node) in nodes.iter().enumerate() {
        check_node(position, node.flags, node.rsvd)?;
        handler(node.name, &node.body)?;
    }
    Ok(())
}

/// What every node is checked for before its name.
///
/// # Errors
/// E2BIG for node 513, EINVAL for flags or reserved words that are not 0.
pub(crate) fn check_node(position: usize, flags: u32, rsvd: [u32; 4]) -> Result<(), Refusal> {
    if position >= EXTENSIONS_PER_CHAIN_MAX {
        return Err(Reason::ExtensionChainTooLong.into());
    }
    if flags != 0 || rsvd != [0; 4] {
        return Err(Reason::ReservedNotZero.into());
    }
    Ok(())
}

/// The refusal for a name without a handler, or with a body of another kind.
pub(crate) fn unknown(name: u32) -> Refusal {
    Refusal::new(Reason::ExtensionUnknown).with_detail(format!("name {name}"))
}
