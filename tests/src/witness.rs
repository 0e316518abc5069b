//! A well-behaved session that works while a test misbehaves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use gpu_broker_protocol::execbuf::{ExecbufHead, flag};
use gpu_broker_protocol::message::{ContextDestroy, ContextParamRequest};
use gpu_broker_protocol::param::{ContextParam, number};
use gpu_broker_protocol::{Reply, Request};

use crate::batch::Batch;
use crate::raw::Raw;

/// Where the witness keeps its batch and its target.
const BATCH: u64 = 0x10_0000;
const TARGET: u64 = 0x20_0000;

/// Legacy rings: render, video, copy, video enhance.
const RINGS: [u64; 4] = [1, 2, 3, 4];

/// A session that submits batch after batch, on one engine after the other, and checks each
/// result. It panics, and with it [`Self::finish`], at the first thing that is not right.
#[derive(Debug)]
pub struct Witness {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Witness {
    /// Connects and begins.
    #[must_use]
    pub fn start(socket: &Path) -> Self {
        let rounds = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (rounds, stop, socket) = (rounds.clone(), stop.clone(), socket.to_owned());
            move || work(&socket, &rounds, &stop)
        });
        let witness = Self { rounds, stop, thread };
        witness.goes_on();
        witness
    }

    /// Waits until it has done several more rounds on every engine.
    ///
    /// # Panics
    /// When it does not get on.
    pub fn goes_on(&self) {
        let goal = self.rounds.load(Ordering::Relaxed) + 2 * RINGS.len() as u64;
        crate::eventually("the witness gets its work done", || {
            assert!(!self.thread.is_finished(), "the witness's session went wrong");
            (self.rounds.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Ends it.
    ///
    /// # Panics
    /// When anything went wrong since [`Self::start`].
    pub fn finish(self) {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn work(socket: &Path, rounds: &AtomicU64, stop: &AtomicBool) {
    let mut client = Raw::hello(socket, "witness");
    let batch = client.create_buffer(4096);
    let target = client.create_buffer(4096);
    let mut value = 0;
    while !stop.load(Ordering::Relaxed) {
        let context = client.create_context();
        let recoverable = ContextParam::scalar(number::RECOVERABLE, 1);
        let set = Request::ContextSetParam(ContextParamRequest { context, param: recoverable });
        assert!(matches!(client.call(set).reply(), Reply::ContextSetParam(_)));
        for ring in RINGS {
            value += 1;
            batch.write(0, &Batch::new().store(TARGET, value).end().bytes());
            let head = ExecbufHead {
                context: context.0,
                flags: ring | flag::NO_RELOC,
                ..ExecbufHead::default()
            };
            let objects = [target.pinned_for_writing(TARGET), batch.pinned(BATCH)];
            let _offsets = client.execbuf(&head, &objects, &[]).executed();
            assert!(matches!(client.wait(target.id).reply(), Reply::BufferWait(_)));
            // The target alone says that the result is there; the batch may be written again only
            // when it is no longer read.
            assert!(matches!(client.wait(batch.id).reply(), Reply::BufferWait(_)));
            assert_eq!(target.dword(0), value, "the witness's result on ring {ring}");
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        let destroy = Request::ContextDestroy(ContextDestroy { context, pad: 0 });
        assert!(matches!(client.call(destroy).reply(), Reply::ContextDestroy));
    }
}
