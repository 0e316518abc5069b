//! Chains of `struct i915_user_extension` in the program's memory (rule table §3).

use gpu_broker_client::protocol::limits::EXTENSIONS_PER_CHAIN_MAX;
use gpu_broker_client::protocol::param::Extension;
use gpu_broker_uapi::i915::i915_user_extension;

use crate::arg::{at, u32_at, u64_at};
use crate::errno::{Errno, Outcome};
use crate::user;

/// Walks a chain; `body` gets each node's address and name and says what it stands for.
///
/// The broker checks flags and reserved fields, in the chain's order.
///
/// # Errors
/// E2BIG for more than 512 nodes, so also for a chain that bites its tail; EFAULT for a node that
/// cannot be read; what `body` says.
pub(crate) fn walk<T>(
    first: u64,
    mut body: impl FnMut(u64, u32) -> Outcome<T>,
) -> Outcome<Vec<Extension<T>>> {
    let mut nodes = Vec::new();
    let mut next = first;
    while next != 0 {
        if nodes.len() == EXTENSIONS_PER_CHAIN_MAX {
            return Err(Errno(libc::E2BIG));
        }
        let node = user::records(next, 1, size_of::<i915_user_extension>())?;
        let name = u32_at(&node, at!(i915_user_extension, name));
        let flags = u32_at(&node, at!(i915_user_extension, flags));
        let reserved = at!(i915_user_extension, rsvd);
        let rsvd = [0, 4, 8, 12].map(|offset| u32_at(&node, reserved + offset));
        if flags != 0 || rsvd != [0; 4] {
            // Before the node's own payload is looked at, which need not be there.
            return Err(Errno(libc::EINVAL));
        }
        nodes.push(Extension { name, flags, rsvd, body: body(next, name)? });
        next = u64_at(&node, at!(i915_user_extension, next_extension));
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arg::put;

    #[test]
    fn a_chain_that_bites_its_tail_ends() {
        let mut node = [0_u8; 32];
        let address = node.as_mut_ptr().expose_provenance() as u64;
        assert_eq!(walk(address, |_, _| Ok(())).map(|nodes| nodes.len()), Ok(1));
        put(&mut node, 0, &address.to_ne_bytes());
        assert_eq!(walk(address, |_, _| Ok(())), Err(Errno(libc::E2BIG)));
        put(&mut node, 0, &8_u64.to_ne_bytes());
        assert_eq!(walk(address, |_, _| Ok(())), Err(Errno(libc::EFAULT)));
        put(&mut node, 12, &1_u32.to_ne_bytes());
        assert_eq!(walk(address, |_, _| Ok(())), Err(Errno(libc::EINVAL)));
        assert_eq!(walk(0, |_, _| Ok(())), Ok(Vec::new()));
    }
}
