//! Hangs and bans (rule table §12), written down as plainly as can be.

use std::collections::{HashMap, HashSet};

use super::world::ContextRecord;

const SECOND: u64 = 1_000_000_000;

/// What a session has done.
#[derive(Default)]
pub(super) struct Bans {
    score: u32,
    /// When it hung last; it counts as having hung when it was opened.
    hung_at: u64,
    hangs: HashMap<u64, Vec<u64>>,
    banned: HashSet<u64>,
}

impl Bans {
    /// A batch of a context was found guilty.
    pub(super) fn hang(&mut self, now: u64, tag: u64, context: &ContextRecord) {
        // A closed context adds nothing, nor does one that cannot be banned.
        if context.closed || !context.bannable {
            return;
        }
        let hangs = self.hangs.entry(tag).or_default();
        hangs.push(now);
        let third_last = hangs.iter().rev().nth(2);
        let in_short_order = third_last.is_some_and(|first| now - first < 120 * SECOND);
        if !context.recoverable || in_short_order {
            self.banned.insert(tag);
            self.score += 3;
        }
        if now - self.hung_at < 60 * SECOND {
            self.score += 1;
        }
        self.hung_at = now;
    }

    pub(super) fn is_banned(&self, tag: u64) -> bool {
        self.banned.contains(&tag)
    }

    pub(super) const fn score(&self) -> u32 {
        self.score
    }

    /// From a score of nine on CONTEXT_CREATE is refused.
    pub(super) const fn session_is_banned(&self) -> bool {
        self.score >= 9
    }
}
