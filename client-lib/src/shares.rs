//! Which buffers have more than one owner in this process.
//!
//! A buffer that is exported and imported again in the same session has the same handle both
//! times, and the daemon does not count: closing the handle once closes it for both. So whoever
//! drops one [`crate::Buffer`] must know whether others are left.

use std::collections::HashMap;

use gpu_broker_protocol::BufferId;

/// Owners of each handle that left the session or came from outside. Handles that never did have
/// one owner and are not listed.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    owners: HashMap<BufferId, u32>,
}

impl Shares {
    /// The handle's one owner gives it away.
    pub(crate) fn export(&mut self, buffer: BufferId) {
        self.owners.entry(buffer).or_insert(1);
    }

    /// An import gave the handle one more owner.
    pub(crate) fn import(&mut self, buffer: BufferId) {
        *self.owners.entry(buffer).or_insert(0) += 1;
    }

    /// An owner lets go. Answers whether it was the last, who closes the handle.
    pub(crate) fn release(&mut self, buffer: BufferId) -> bool {
        match self.owners.get_mut(&buffer) {
            Some(owners) if *owners > 1 => {
                *owners -= 1;
                false
            }
            _ => {
                self.owners.remove(&buffer);
                true
            }
        }
    }

    /// Whether an import could give the handle again.
    pub(crate) fn contains(&self, buffer: BufferId) -> bool {
        self.owners.contains_key(&buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_owner_closes() {
        let mut shares = Shares::default();
        let [plain, shared, foreign] = [1, 2, 3].map(BufferId);
        assert!(shares.release(plain), "never shared: its one owner closes it");
        shares.export(shared);
        shares.import(shared);
        shares.export(shared);
        shares.import(foreign);
        shares.import(foreign);
        for buffer in [shared, foreign] {
            assert!(!shares.release(buffer), "one of two");
            assert!(shares.contains(buffer));
            assert!(shares.release(buffer), "the last one");
            assert!(!shares.contains(buffer));
        }
    }
}
