//! Timelines against the kernel's data structure, and what they leave behind.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::signal::Signal;
use super::*;

/// `dma-fence-chain` as it is described, with indices for pointers: nodes are never moved, and a
/// walk takes signalled ones out.
#[derive(Default)]
struct Kernel {
    nodes: Vec<Node>,
    holds: Option<usize>,
    contexts: usize,
}

struct Node {
    before: Option<usize>,
    fence: usize,
    /// Context, number and the number before: of a node of a chain.
    chain: Option<(usize, u64, u64)>,
}

impl Kernel {
    fn put(&mut self, point: u64, fence: usize) {
        let old = self.holds.filter(|_| point != 0);
        let chain = (point != 0).then(|| match old.and_then(|old| self.nodes[old].chain) {
            Some((context, number, _)) if point > number => (context, point, number),
            other => {
                self.contexts += 1;
                (self.contexts, other.map_or(point, |(_, number, _)| number), 0)
            }
        });
        self.holds = Some(self.nodes.len());
        self.nodes.push(Node { before: old, fence, chain });
    }

    /// The next node of a walk.
    fn walk(&mut self, node: usize, fired: &[bool]) -> Option<usize> {
        while let Some(before) = self.nodes[node].before {
            if !fired[self.nodes[before].fence] {
                return Some(before);
            }
            self.nodes[node].before = self.nodes[before].before;
        }
        None
    }

    fn is_signalled(&mut self, node: usize, fired: &[bool]) -> bool {
        let mut at = Some(node);
        while let Some(node) = at {
            if !fired[self.nodes[node].fence] {
                return false;
            }
            at = self.walk(node, fired);
        }
        true
    }

    /// Whether the fence of a point has signalled; `None` if there is none.
    fn find(&mut self, point: u64, fired: &[bool]) -> Option<bool> {
        let head = self.holds?;
        if point == 0 {
            return Some(self.is_signalled(head, fired));
        }
        let (context, _, _) = self.nodes[head].chain.filter(|(_, number, _)| *number >= point)?;
        let mut at = head;
        loop {
            match self.nodes[at].chain {
                Some((same, _, before)) if same == context && before >= point => {}
                _ => return Some(self.is_signalled(at, fired)),
            }
            let Some(next) = self.walk(at, fired) else { return Some(true) };
            at = next;
        }
    }

    fn value(&mut self, submitted: bool, fired: &[bool]) -> u64 {
        let Some(head) = self.holds else { return 0 };
        let Some((context, number, _)) = self.nodes[head].chain else { return 0 };
        if submitted {
            return number;
        }
        let mut last = (head, number, self.nodes[head].chain.map_or(0, |(_, _, before)| before));
        let mut at = self.walk(head, fired);
        while let Some(node) = at {
            let Some((_, number, before)) =
                self.nodes[node].chain.filter(|(same, _, _)| *same == context)
            else {
                break;
            };
            last = (node, number, before);
            at = self.walk(node, fired);
        }
        if self.is_signalled(last.0, fired) { last.1 } else { last.2 }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Put { point: u64, fence: usize },
    Reset,
    Fire { fence: usize },
}

const FENCES: usize = 8;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..12u64, 0..FENCES).prop_map(|(point, fence)| Op::Put { point, fence }),
        1 => Just(Op::Reset),
        4 => (0..FENCES).prop_map(|fence| Op::Fire { fence }),
    ]
}

/// Fences of two timelines: requests of one end in order.
fn signals() -> Vec<Arc<Signal>> {
    (0..FENCES as u64).map(|index| Signal::new(1 + index % 2, index, 1)).collect()
}

proptest! {
    /// A syncobj answers what the kernel's would, whatever is put in and signals when. Fences of
    /// one request timeline signal in order.
    #[test]
    fn a_timeline_is_the_kernels_chain(ops in prop::collection::vec(op(), 1..40)) {
        let signals = signals();
        let mut fired = [false; FENCES];
        let (syncobj, mut kernel) = (Syncobj::new(false), Kernel::default());
        for op in ops {
            match op {
                Op::Put { point, fence } => {
                    syncobj.put(point, &Fence::of(Arc::clone(&signals[fence])));
                    kernel.put(point, fence);
                }
                Op::Reset => {
                    syncobj.reset();
                    kernel.holds = None;
                }
                Op::Fire { fence } => {
                    for earlier in (fence % 2..=fence).step_by(2) {
                        if !std::mem::replace(&mut fired[earlier], true) {
                            signals[earlier].fire(0, &mut Vec::new());
                        }
                    }
                }
            }
            for point in 0..14 {
                let found = syncobj.fence(point).map(|fence| fence.result().is_some());
                prop_assert_eq!(found, kernel.find(point, &fired), "{:?}: point {}", op, point);
            }
            for submitted in [false, true] {
                let expected = kernel.value(submitted, &fired);
                prop_assert_eq!(syncobj.value(submitted), expected, "{:?} {}", op, submitted);
            }
        }
    }
}

#[test]
fn a_timeline_advanced_for_long_stays_small() {
    let syncobj = Syncobj::new(false);
    for point in 1..=200_000 {
        let signal = Signal::new(0, 0, 1);
        syncobj.put(point, &Fence::of(Arc::clone(&signal)));
        if point % 3 == 0 {
            syncobj.put(point, &Fence::done(0));
        }
        signal.fire(0, &mut Vec::new());
    }
    assert_eq!(syncobj.value(false), 200_000);
    assert!(syncobj.lock().points.len() <= 3);
}

#[test]
fn only_points_that_are_pending_count_towards_the_limit() {
    let syncobj = Syncobj::new(false);
    let pending = Signal::new(0, 0, 1);
    syncobj.put(1, &Fence::of(Arc::clone(&pending)));
    for point in 2..3 * TIMELINE_POINTS_PENDING_MAX as u64 {
        assert_eq!(syncobj.check_room(point), Ok(()));
        syncobj.put(point, &Fence::done(0));
    }
    assert!(syncobj.lock().points.len() <= TIMELINE_POINTS_PENDING_MAX);
    assert_eq!(syncobj.value(false), 0);
    pending.fire(0, &mut Vec::new());
    assert_eq!(syncobj.value(false), 3 * TIMELINE_POINTS_PENDING_MAX as u64 - 1);
}

#[test]
fn points_given_up_leave_nothing_behind_in_pending_fences() {
    // Distinct timelines, so that every point has to be merged with the one before.
    let pending: Vec<_> = (1..=5).map(|timeline| Signal::new(timeline, 0, 1)).collect();
    let (syncobj, copy) = (Syncobj::new(false), Syncobj::new(false));
    for round in 0..20_000u64 {
        for (point, signal) in (1..).zip(pending.iter().cycle().take(11)) {
            syncobj.put(point, &Fence::of(Arc::clone(signal)));
        }
        copy.put(0, &syncobj.fence(7).unwrap());
        if round % 2 == 0 {
            syncobj.reset();
        } else {
            syncobj.put(0, &Fence::of(Arc::clone(&pending[0])));
        }
    }
    for signal in &pending {
        assert!(signal.waiters() < 1000, "{}", signal.waiters());
    }
    // What is still wanted was kept.
    let last = copy.fence(0).unwrap();
    for signal in &pending {
        assert_eq!(last.result(), None);
        signal.fire(0, &mut Vec::new());
    }
    assert_eq!(last.result(), Some(0));
}

#[test]
fn the_longest_chain_of_merges_ends() {
    let pending: Vec<_> = (1..=10_000).map(|timeline| Signal::new(timeline, 0, 1)).collect();
    for keep in [true, false] {
        let chain = pending
            .iter()
            .fold(Fence::done(0), |before, signal| Fence::of(Arc::clone(signal)).behind(&before));
        let kept = keep.then_some(chain);
        // Looks through the waiters of the first, from which all others can be reached.
        for _ in 0..200 {
            let _given_up = Fence::merge(
                &Fence::of(Arc::clone(&pending[0])),
                &Fence::of(Arc::clone(&pending[1])),
            );
        }
        assert_eq!(kept.map(|fence| fence.result()), keep.then_some(None));
        assert!(pending[0].waiters() < 200);
    }
    let last = pending
        .iter()
        .fold(Fence::done(0), |before, signal| Fence::of(Arc::clone(signal)).behind(&before));
    pending.iter().rev().for_each(|signal| signal.fire(0, &mut Vec::new()));
    assert_eq!(last.result(), Some(0));
}
