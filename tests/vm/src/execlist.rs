//! Execlists as Gen8 to Gen10 have them: a submission port of two contexts, and events about what
//! became of them. A state machine; [`crate::engine`] carries out what it says.

use std::collections::VecDeque;

/// A context, as the submission port names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    low: u32,
    /// The context's id, which comes back in events.
    pub id: u32,
}

/// What happened, as the status of an event says it.
pub mod event {
    /// The engine was idle and runs the first context of what was submitted.
    pub const IDLE_ACTIVE: u32 = 1 << 0;
    /// What ran was set aside for what was submitted.
    pub const PREEMPTED: u32 = 1 << 1;
    /// The second context runs.
    pub const ELEMENT_SWITCH: u32 = 1 << 2;
    /// Nothing runs any more.
    pub const ACTIVE_IDLE: u32 = 1 << 3;
    /// The context that ran has nothing left to do.
    pub const COMPLETE: u32 = 1 << 4;
    /// What was submitted begins with the context that runs: it only went on.
    pub const LITE_RESTORE: u32 = 1 << 15;
}

/// Status and context id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Bits of [`event`].
    pub status: u32,
    /// The context that ran before.
    pub id: u32,
}

/// What the engine has to do for a submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// Load this context; nothing ran.
    Load(Descriptor),
    /// Save what runs, then load this one, if any.
    Switch(Option<Descriptor>),
    /// Go on; the ring's tail has moved.
    Continue(Descriptor),
    /// Nothing ran and nothing is to run.
    Nothing,
}

/// Submissions that were written and not accepted yet. The driver waits for one to be accepted
/// before it writes another; the room beyond is for one that does not.
const QUEUE_MAX: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct Execlist {
    written: Vec<u32>,
    queue: VecDeque<[Option<Descriptor>; 2]>,
    ports: [Option<Descriptor>; 2],
}

impl Descriptor {
    /// What was written to the submission port; `None` if it names no context.
    #[must_use]
    pub const fn new(low: u32, high: u32) -> Option<Self> {
        if low & 1 == 0 { None } else { Some(Self { low, id: high }) }
    }

    /// GGTT address of the context's image.
    #[must_use]
    pub fn image(self) -> u64 {
        u64::from(self.low & !0xfff)
    }

    /// The driver wants the context saved and loaded again even if it runs.
    const fn forces_restore(self) -> bool {
        self.low & 1 << 2 != 0
    }

    fn is_same_context(self, other: Self) -> bool {
        self.image() == other.image() && self.id == other.id
    }
}

impl Execlist {
    /// A write to the submission port; true if it is the fourth, which submits.
    pub fn write(&mut self, value: u32) -> bool {
        self.written.push(value);
        let &[second_high, second_low, first_high, first_low] = self.written.as_slice() else {
            return false;
        };
        self.written.clear();
        let first = Descriptor::new(first_low, first_high);
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back([first, Descriptor::new(second_low, second_high)]);
        }
        true
    }

    /// The context that runs.
    #[must_use]
    pub fn running(&self) -> Option<Descriptor> {
        self.ports.first().copied().flatten()
    }

    /// The context that runs next.
    #[must_use]
    pub fn second(&self) -> Option<Descriptor> {
        self.ports.last().copied().flatten()
    }

    /// A submission waits that needs the running context to be set aside.
    #[must_use]
    pub fn wants_preemption(&self) -> bool {
        match (self.queue.front(), self.running()) {
            (Some(pair), Some(running)) => !continues(running, pair[0]),
            (Some(_) | None, _) => false,
        }
    }

    /// Takes up the next submission, if one waits and the running context may be set aside or can
    /// go on.
    pub fn accept(&mut self, preemptible: bool) -> Option<(Accepted, Option<Event>)> {
        let &[first, second] = self.queue.front()?;
        let running = self.running();
        let (accepted, event) = match running {
            None => match first {
                Some(first) => (
                    Accepted::Load(first),
                    Some(Event { status: event::IDLE_ACTIVE, id: first.id }),
                ),
                None => (Accepted::Nothing, None),
            },
            Some(running) if continues(running, first) => {
                let status = event::LITE_RESTORE | event::PREEMPTED;
                (Accepted::Continue(running), Some(Event { status, id: running.id }))
            }
            Some(running) if preemptible => {
                let status = match first {
                    Some(_) => event::PREEMPTED,
                    None => event::PREEMPTED | event::ACTIVE_IDLE,
                };
                (Accepted::Switch(first), Some(Event { status, id: running.id }))
            }
            Some(_) => return None,
        };
        self.queue.pop_front();
        self.ports = [first, second];
        Some((accepted, event))
    }

    /// The running context has nothing left to do. Answers what runs next, and the event.
    pub fn complete(&mut self) -> Option<(Option<Descriptor>, Event)> {
        let [running, next] = self.ports;
        let running = running?;
        self.ports = [next, None];
        let how = if next.is_some() { event::ELEMENT_SWITCH } else { event::ACTIVE_IDLE };
        Some((next, Event { status: event::COMPLETE | how, id: running.id }))
    }

    /// Everything is forgotten.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Whether a submission only lets the running context go on.
fn continues(running: Descriptor, first: Option<Descriptor>) -> bool {
    first.is_some_and(|first| first.is_same_context(running) && !first.forces_restore())
}

/// Where events go in the status page: a circle of six.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventRing {
    last: u8,
}

impl Default for EventRing {
    fn default() -> Self {
        Self { last: Self::ENTRIES - 1 }
    }
}

impl EventRing {
    /// Events in the circle.
    pub const ENTRIES: u8 = 6;
    /// Dword of the status page where they start; each is a status and a context id.
    pub const FIRST_DWORD: u64 = 0x10;
    /// Dword of the status page that says which was written last.
    pub const POINTER_DWORD: u64 = 0x1f;

    /// The entry for the next event.
    pub fn advance(&mut self) -> u8 {
        self.last = (self.last + 1) % Self::ENTRIES;
        self.last
    }

    /// The entry written last.
    #[must_use]
    pub const fn last(self) -> u8 {
        self.last
    }

    /// The driver said which entry counts as the last.
    pub fn set_last(&mut self, last: u8) {
        self.last = last % Self::ENTRIES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: u32 = 0x1_0001;
    const B: u32 = 0x2_0001;
    const C: u32 = 0x3_0001;

    fn context(low: u32) -> Descriptor {
        Descriptor::new(low, low >> 16).unwrap()
    }

    fn submit(list: &mut Execlist, first: u32, second: u32) {
        let writes = [second >> 16, second, first >> 16, first];
        let submitted = writes.map(|value| list.write(value));
        assert_eq!(submitted, [false, false, false, true]);
    }

    fn status(event: Option<Event>) -> u32 {
        event.unwrap().status
    }

    #[test]
    fn two_contexts_run_one_after_the_other() {
        let mut list = Execlist::default();
        submit(&mut list, A, B);
        let (accepted, event) = list.accept(false).unwrap();
        assert_eq!((accepted, status(event)), (Accepted::Load(context(A)), 0x1));
        assert_eq!(list.complete().unwrap(), (Some(context(B)), Event { status: 0x14, id: 1 }));
        assert_eq!(list.complete().unwrap(), (None, Event { status: 0x18, id: 2 }));
        assert_eq!(list.complete(), None);
    }

    #[test]
    fn the_same_context_goes_on_wherever_it_is() {
        let mut list = Execlist::default();
        submit(&mut list, A, 0);
        list.accept(false);
        submit(&mut list, A, B);
        assert!(!list.wants_preemption());
        let (accepted, event) = list.accept(false).unwrap();
        assert_eq!((accepted, status(event)), (Accepted::Continue(context(A)), 0x8002));
        assert_eq!(list.second(), Some(context(B)));
    }

    #[test]
    fn another_context_waits_for_an_arbitration_point() {
        let mut list = Execlist::default();
        submit(&mut list, A, B);
        list.accept(false);
        submit(&mut list, C, A);
        assert!(list.wants_preemption());
        assert_eq!(list.accept(false), None);
        let (accepted, event) = list.accept(true).unwrap();
        assert_eq!((accepted, status(event)), (Accepted::Switch(Some(context(C))), 0x2));
        assert_eq!([list.running(), list.second()], [Some(context(C)), Some(context(A))]);
    }

    #[test]
    fn what_ends_before_it_is_set_aside_ends_first() {
        let mut list = Execlist::default();
        submit(&mut list, A, 0);
        list.accept(false);
        submit(&mut list, B, 0);
        assert_eq!(list.complete().unwrap().1.status, 0x18);
        assert_eq!(status(list.accept(false).unwrap().1), 0x1);
    }

    #[test]
    fn a_forced_restore_is_a_preemption() {
        let mut list = Execlist::default();
        submit(&mut list, A, 0);
        list.accept(false);
        submit(&mut list, A | 1 << 2, 0);
        assert_eq!(list.accept(false), None);
        assert_eq!(status(list.accept(true).unwrap().1), 0x2);
    }

    #[test]
    fn events_go_round_in_a_circle_of_six() {
        let mut ring = EventRing::default();
        let entries: Vec<u8> = (0..8).map(|_| ring.advance()).collect();
        assert_eq!(entries, [0, 1, 2, 3, 4, 5, 0, 1]);
        ring.set_last(5);
        assert_eq!((ring.advance(), ring.last()), (0, 0));
    }

    proptest! {
        /// What the driver relies on: exactly one event per submission that runs something and one
        /// per context that ends, and it only takes 0x1 and 0x2 for "the new pair runs".
        #[test]
        fn there_is_one_event_per_submission_and_per_end(
            steps in prop::collection::vec((0u32..4, 0u32..4, 0u8..3), 1..60)
        ) {
            let mut list = Execlist::default();
            let mut outstanding = false;
            for (first, second, action) in steps {
                let name = |n: u32| if n == 0 { 0 } else { n << 16 | 1 };
                match action {
                    0 if !outstanding && first != 0 => {
                        let second = if second == first { 0 } else { second };
                        submit(&mut list, name(first), name(second));
                        outstanding = true;
                    }
                    0 | 1 => {
                        if let Some((_, event)) = list.accept(true) {
                            prop_assert!(outstanding);
                            prop_assert!(status(event) & 3 != 0);
                            outstanding = false;
                        }
                    }
                    _ => {
                        let before = list.second();
                        if let Some((next, event)) = list.complete() {
                            prop_assert_eq!(next, before);
                            prop_assert_eq!(event.status & 3, 0);
                        }
                    }
                }
            }
        }
    }
}
