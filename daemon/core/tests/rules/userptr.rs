//! Userptr (rule table §14): random histories; the fake device fails the test when a submission comes
//! with pages that were invalidated.

use std::ops::Range;
use std::sync::Arc;

use gpu_broker_core::{FileKey, Memfd, SessionLimits};
use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, ExecbufLists, Relocation};
use gpu_broker_protocol::message::BufferCreated;
use gpu_broker_protocol::object::BufferSetDomain;
use gpu_broker_protocol::userptr::{UserptrCreate, UserptrInvalidate};
use gpu_broker_protocol::{BufferId, Reason, Refusal};
use proptest::prelude::*;

use crate::fake::{FakeMemory, USER_PAGES, out_of_memory};
use crate::rig::*;

/// A USERPTR_CREATE, and what the daemon finds out about the fd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) memory: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) flags: u32,
    pub(crate) fd: Result<(), Reason>,
    pub(crate) write: Result<(), Reason>,
    /// Mapping succeeds.
    pub(crate) map: bool,
}

/// All of a memory.
pub(crate) fn memory(memory: u64) -> Share {
    let length = USER_PAGES as u64 * 4096;
    Share { memory, offset: 0, length, flags: 0, fd: Ok(()), write: Ok(()), map: true }
}

impl Rig {
    pub(crate) fn share(&self, share: Share) -> Result<u32, Refusal> {
        let Share { offset, length, flags, .. } = share;
        let memfd = Memfd {
            file: FileKey(1, share.memory),
            bytes: USER_PAGES as u64 * 4096,
            write: share.write,
        };
        let memfd = share.fd.map(|()| memfd).map_err(Refusal::new);
        let map = |bytes, _writable| {
            assert_eq!(bytes, USER_PAGES as u64 * 4096);
            let mapped = FakeMemory::new(&self.device, share.memory);
            if share.map { Ok(mapped) } else { Err(out_of_memory()) }
        };
        let request = UserptrCreate { memfd: (), offset, length, flags };
        let made = self.session.userptr_create(&request, memfd, map)?;
        assert_eq!(made, BufferCreated { buffer: made.buffer, size: length });
        Ok(made.buffer.0)
    }

    /// How many buffers it concerned.
    pub(crate) fn invalidate(
        &self,
        buffer: u32,
        offset: u64,
        length: u64,
    ) -> Result<usize, Refusal> {
        let buffer = BufferId(buffer);
        let request = UserptrInvalidate { buffer, offset, length, timeout_ns: -1 };
        self.session.userptr_invalidate(&request, |buffers| buffers.len())
    }

    /// The client replaces some pages of a buffer's memory, as it should: the invalidation comes first.
    pub(crate) fn replace(&self, buffer: u32, page: usize, pages: usize) -> Result<(), Refusal> {
        let (offset, length) = (page as u64 * 4096, pages as u64 * 4096);
        let buffer = BufferId(buffer);
        let request = UserptrInvalidate { buffer, offset, length, timeout_ns: -1 };
        self.session.userptr_invalidate(&request, |buffers| {
            let mut user = self.device.user.lock().unwrap();
            // Pages that no buffer has are nobody's concern.
            let memory = buffers.first().map(|buffer| user.buffers[&buffer.serial].memory);
            if let Some(memory) = memory {
                user.replace(memory, page..page + pages);
            }
        })
    }

    pub(crate) fn set_busy(&self, buffer: u32) {
        let serial = self.session.with_buffer(BufferId(buffer), |buffer, _| buffer.serial).unwrap();
        self.device.user.lock().unwrap().busy.insert(serial);
    }

    /// Submits with a relocation at the start of the first object.
    pub(crate) fn relocate(&self, objects: &[ExecObject]) -> Result<(), Refusal> {
        let relocation = Relocation { target: objects[0].handle, ..Relocation::default() };
        let relocations = &[Relocation { presumed_offset: 1, ..relocation }];
        let lists = ExecbufLists { objects, relocations, ..ExecbufLists::default() };
        self.submit_lists(ExecbufHead::default(), lists, None).map(drop)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Share {
        memory: u64,
        pages: Range<usize>,
        flags: u32,
    },
    Close(usize),
    /// Of some buffers; during the pin of one of them, pages of another are replaced.
    Submit {
        context: usize,
        buffers: Vec<usize>,
        collide: Option<(usize, usize)>,
    },
    Replace {
        buffer: usize,
        pages: Range<usize>,
    },
    SetDomain(usize),
    FailPin,
    Busy(usize),
}

fn pages() -> impl Strategy<Value = Range<usize>> {
    (0..USER_PAGES, 1..=USER_PAGES)
        .prop_map(|(start, count)| start..(start + count).min(USER_PAGES))
}

fn op() -> impl Strategy<Value = Op> {
    let some = || 0..6usize;
    let collide = proptest::option::weighted(0.3, (some(), 0..USER_PAGES));
    let submit = (0..2usize, proptest::collection::vec(some(), 1..4), collide);
    prop_oneof![
        3 => (1..4u64, pages(), 0..3u32)
            .prop_map(|(memory, pages, flags)| Op::Share { memory, pages, flags }),
        1 => some().prop_map(Op::Close),
        6 => submit
            .prop_map(|(context, buffers, collide)| Op::Submit { context, buffers, collide }),
        4 => (some(), pages()).prop_map(|(buffer, pages)| Op::Replace { buffer, pages }),
        1 => some().prop_map(Op::SetDomain),
        1 => Just(Op::FailPin),
        1 => some().prop_map(Op::Busy),
    ]
}

struct History {
    rig: Arc<Rig>,
    contexts: [u32; 2],
    batch: u32,
    open: Vec<u32>,
}

impl History {
    fn new() -> Self {
        let rig = Arc::new(rig());
        let (contexts, batch) = ([0, rig.create()], rig.buffer(4096));
        Self { rig, contexts, batch, open: Vec::new() }
    }

    fn pick(&self, index: usize) -> Option<u32> {
        self.open.get(index).copied()
    }

    fn apply(&mut self, op: Op) {
        let rig = &self.rig;
        match op {
            Op::Share { memory: number, pages, flags } => {
                let (offset, length) = (pages.start as u64 * 4096, pages.len() as u64 * 4096);
                let share = Share { offset, length, flags, ..memory(number) };
                self.open.push(rig.share(share).unwrap());
            }
            Op::Close(index) if index < self.open.len() => {
                rig.close_buffer(self.open.swap_remove(index)).unwrap();
            }
            Op::Submit { context, mut buffers, collide } => {
                buffers.sort_unstable();
                buffers.dedup();
                let mut objects: Vec<_> =
                    buffers.iter().filter_map(|index| self.pick(*index)).map(object).collect();
                objects.push(object(self.batch));
                if let Some((buffer, page)) = collide.and_then(|(i, p)| Some((self.pick(i)?, p))) {
                    let rig = Arc::clone(rig);
                    let collide = move || rig.replace(buffer, page, 1).unwrap();
                    self.rig.device.user.lock().unwrap().on_pin = Some(Box::new(collide));
                }
                self.submit(self.contexts[context], &objects);
                // If nothing was pinned it never came.
                self.rig.device.user.lock().unwrap().on_pin = None;
            }
            Op::Replace { buffer, pages } => {
                if let Some(buffer) = self.pick(buffer) {
                    rig.replace(buffer, pages.start, pages.len()).unwrap();
                }
            }
            Op::SetDomain(index) => {
                if let Some(buffer) = self.pick(index) {
                    // A pin that is to fail may be pending; nothing else can be wrong.
                    let _ = rig.session.buffer_set_domain(&BufferSetDomain {
                        buffer: BufferId(buffer),
                        read_domains: 1,
                        write_domain: 0,
                    });
                }
            }
            Op::FailPin => rig.device.user.lock().unwrap().fail_pin = Some(out_of_memory()),
            Op::Busy(index) => self.pick(index).into_iter().for_each(|buffer| rig.set_busy(buffer)),
            Op::Close(_) => {}
        }
    }

    /// As a client does: again when it is told so. A collision and a pin that fails come once each.
    fn submit(&self, context: u32, objects: &[ExecObject]) {
        for _ in 0..3 {
            match self.rig.run(context, objects).map_err(|refusal| refusal.reason) {
                Ok(_) => return,
                Err(Reason::UserptrInvalidated | Reason::OutOfMemory) => {}
                Err(reason) => panic!("{reason:?}"),
            }
        }
        panic!("a client would try for ever");
    }

    /// Everything is given back.
    fn end(self) {
        let device = Arc::clone(&self.rig.device);
        device.user.lock().unwrap().busy.clear();
        for buffer in &self.open {
            self.rig.close_buffer(*buffer).unwrap();
        }
        // A buffer that was closed while it was busy is let go when the next is.
        let last = self.rig.share(memory(4)).unwrap();
        self.rig.close_buffer(last).unwrap();
        assert_eq!(device.mappings(), 0, "no buffer is over them");
        drop(self);
        assert_eq!(device.counts(), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_stale_page_is_ever_used(ops in proptest::collection::vec(op(), 1..60)) {
        let mut history = History::new();
        for op in ops {
            history.apply(op);
        }
        history.end();
    }
}

/// A mapping that is for reading, or too short, is not used for what needs more.
#[test]
fn a_memfd_is_mapped_once_for_each_use() {
    let rig = rig();
    let read_only = Share { flags: 1, ..memory(1) };
    rig.share(read_only).unwrap();
    rig.share(read_only).unwrap();
    assert_eq!(rig.device.mappings(), 1);
    for _ in 0..10 {
        rig.share(memory(1)).unwrap();
        rig.share(read_only).unwrap();
    }
    assert_eq!(rig.device.mappings(), 2, "one for reading, one for both");
    rig.session.close();
    assert_eq!(rig.device.mappings(), 0);
}

#[test]
fn ten_thousand_buffers_over_one_memfd_are_one_mapping() {
    let rig = limited(kbl(), NOBODY, SessionLimits { buffers: 10_000, ..SessionLimits::default() });
    for _ in 0..10_000 {
        rig.share(memory(1)).unwrap();
    }
    assert_eq!(rig.share(memory(1)).unwrap_err().reason, Reason::BufferLimit);
    assert_eq!((rig.device.mappings(), rig.invalidate(1, 0, 1).unwrap()), (1, 10_000));
    for buffer in 1..=10_000 {
        rig.close_buffer(buffer).unwrap();
    }
    assert_eq!(rig.device.mappings(), 0);
}
