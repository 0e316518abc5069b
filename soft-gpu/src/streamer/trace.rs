//! The last commands of a batch, for whoever has to explain what it died of.

/// How many commands are remembered: a power of two.
pub const TRACE_COMMANDS: usize = 32;

/// A command that was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Executed {
    /// Where it is.
    pub address: u64,
    /// Its first dword, as it was then.
    pub header: u32,
}

/// A ring of them.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    ring: [Executed; TRACE_COMMANDS],
    /// Commands ever pushed since the ring was cleared.
    count: usize,
}

impl Trace {
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    #[inline]
    pub(crate) fn push(&mut self, address: u64, header: u32) {
        if let Some(place) = self.ring.get_mut(self.count % TRACE_COMMANDS) {
            *place = Executed { address, header };
        }
        self.count = self.count.wrapping_add(1);
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Executed> + '_ {
        let kept = self.count.min(TRACE_COMMANDS);
        (self.count - kept..self.count).filter_map(|at| self.ring.get(at % TRACE_COMMANDS).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_commands_are_kept_in_order() {
        let mut trace = Trace::default();
        assert_eq!(trace.iter().count(), 0);
        for address in 0..TRACE_COMMANDS as u64 + 5 {
            trace.push(address, 7);
        }
        let addresses: Vec<u64> = trace.iter().map(|executed| executed.address).collect();
        assert_eq!(addresses, (5..TRACE_COMMANDS as u64 + 5).collect::<Vec<_>>());
        trace.clear();
        trace.push(1, 2);
        assert_eq!(trace.iter().collect::<Vec<_>>(), [Executed { address: 1, header: 2 }]);
    }
}
