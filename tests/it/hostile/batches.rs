//! Batches that reach for what is not theirs, or never end. Each is its context's own fault: the
//! fence says EIO, the reset statistics say guilty, and everyone else's work comes out right.

use std::os::fd::AsFd as _;

use gpu_broker_protocol::execbuf::{ExecbufHead, flag};
use gpu_broker_protocol::message::{
    BufferOf, ContextResetStats, FenceState, FenceStatusQuery, ResetStats,
};
use gpu_broker_protocol::{ContextId, Reply, Request};
use gpu_broker_tests::{Batch, Builder, Daemon, Message, PATIENCE, Raw, RawBuffer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::attack;

/// Where batches lie, and where a page of theirs lies that they may write.
const BATCH: u64 = 0x10_0000;
const OWN: u64 = 0x20_0000;
/// Where nothing of the session's lies.
const NOWHERE: u64 = 0x7000_0000;
/// Legacy rings: render, and copy (the blitter).
const RENDER: u64 = 1;
const COPY: u64 = 3;

/// A session with a context of its own, a batch buffer and a page.
struct Culprit {
    client: Raw,
    context: ContextId,
    batch: RawBuffer,
    own: RawBuffer,
}

impl Culprit {
    fn new(daemon: &Daemon) -> Self {
        let mut client = daemon.client("culprit");
        let context = client.create_context();
        let (batch, own) = (client.create_buffer(8192), client.create_buffer(4096));
        Self { client, context, batch, own }
    }

    fn submit(&mut self, ring: u64, batch: &Batch) -> Message {
        self.batch.write(0, &batch.bytes());
        let flags = ring | flag::FENCE_OUT;
        let head = ExecbufHead { context: self.context.0, flags, ..ExecbufHead::default() };
        let objects = [self.own.pinned_for_writing(OWN), self.batch.pinned(BATCH)];
        self.client.execbuf(&head, &objects, &[])
    }

    /// Submits, waits for the fence, and says how it ended.
    fn outcome(&mut self, ring: u64, batch: &Batch) -> FenceState {
        let fence = self.submit(ring, batch).executed().fence.expect("FENCE_OUT was asked for");
        let timeout = Timespec::try_from(PATIENCE).expect("a minute is representable");
        let mut fds = [PollFd::new(&fence, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1), "the fence never signals");
        let query = Request::FenceStatus(FenceStatusQuery { fd: fence.as_fd() });
        let Reply::FenceStatus(state) = self.client.call(query).reply() else {
            panic!("FENCE_STATUS was answered as something else")
        };
        state
    }

    fn reset_stats(&mut self) -> ResetStats {
        let query = ContextResetStats { context: self.context, flags: 0, pad: 0 };
        let message = self.client.call(Request::ContextResetStats(query));
        let Reply::ContextResetStats(stats) = message.reply() else {
            panic!("GET_RESET_STATS was answered as something else")
        };
        stats
    }
}

/// One context per batch: each must be found guilty of exactly this.
fn guilty(daemon: &Daemon, cases: Vec<(&str, u64, Batch)>) {
    for (name, ring, batch) in cases {
        let mut culprit = Culprit::new(daemon);
        assert_eq!(culprit.outcome(ring, &batch), FenceState::Failed(5), "{name}");
        let stats = culprit.reset_stats();
        assert_eq!((stats.batch_active, stats.batch_pending), (1, 0), "{name}");
        // The session goes on, with a context that has done nothing wrong.
        culprit.context = culprit.client.create_context();
        let good = Batch::new().store(OWN, 77).end();
        assert_eq!(culprit.outcome(ring, &good), FenceState::Signalled, "after {name}");
        assert_eq!(culprit.own.dword(0), 77, "after {name}");
    }
}

#[test]
fn reads_and_writes_outside_the_vm() {
    attack(Builder::new(), |daemon| {
        let gpr = 0x2600;
        let last_page = 0xffff_ffff_f000;
        guilty(
            daemon,
            vec![
                ("a write to nowhere", RENDER, Batch::new().store(NOWHERE, 1).end()),
                ("a write to page 0", RENDER, Batch::new().store(0, 1).end()),
                ("a write to the last page", RENDER, Batch::new().store(last_page, 1).end()),
                ("a write just behind", RENDER, Batch::new().store(OWN + 4096, 1).end()),
                ("a write just before", RENDER, Batch::new().store(OWN - 4, 1).end()),
                ("a read from nowhere", RENDER, Batch::new().copy(OWN, NOWHERE).end()),
                ("a load from nowhere", RENDER, Batch::new().load_register(gpr, NOWHERE).end()),
                ("a wait for nowhere", RENDER, Batch::new().wait_equal(NOWHERE, 1).end()),
                ("a jump to nowhere", RENDER, Batch::new().jump(NOWHERE)),
                ("a fill of nowhere", COPY, Batch::new().fill(NOWHERE, 64, 4, 4, 9).end()),
                ("a fill that runs over", COPY, Batch::new().fill(OWN, 4096, 8, 3, 9).end()),
                ("a fill of everything", COPY, Batch::new().fill(OWN, 32_767, 9999, 9999, 9).end()),
            ],
        );
    });
}

#[test]
fn commands_that_do_not_exist() {
    attack(Builder::new(), |daemon| {
        guilty(
            daemon,
            vec![
                ("an unknown MI command", RENDER, Batch::new().raw(&[0x1f80_0000, 0]).end()),
                ("a reserved client", RENDER, Batch::new().raw(&[0xe000_0000, 0]).end()),
                ("all bits", RENDER, Batch::new().raw(&[u32::MAX; 8])),
                ("a command cut by the buffer's end", RENDER, {
                    Batch::new().noops(2047).raw(&[0x1000_0002])
                }),
            ],
        );
    });
}

/// The victim has memory at the very address the culprit writes: addresses mean nothing outside
/// their VM.
#[test]
fn another_sessions_memory() {
    attack(Builder::new(), |daemon| {
        let mut victim = daemon.client("victim");
        let (memory, batch) = (victim.create_buffer(4096), victim.create_buffer(4096));
        memory.write(0, &0x600d_cafe_u32.to_le_bytes());
        batch.write(0, &Batch::new().store(NOWHERE + 64, 5).end().bytes());
        let objects = [memory.pinned_for_writing(NOWHERE), batch.pinned(BATCH)];
        let _executed = victim.execbuf(&ExecbufHead::default(), &objects, &[]).executed();
        let _waited = victim.wait(memory.id).reply();
        guilty(daemon, vec![("a theft", RENDER, Batch::new().store(NOWHERE, 1).end())]);
        guilty(daemon, vec![("a peek", RENDER, Batch::new().copy(OWN, NOWHERE).end())]);
        assert_eq!((memory.dword(0), memory.dword(64)), (0x600d_cafe, 5));
    });
}

#[test]
fn a_batch_without_an_end() {
    attack(Builder::new(), |daemon| {
        // Runs off its buffer into nothing.
        guilty(daemon, vec![("no end", RENDER, Batch::new().noops(2048))]);
    });
}

#[test]
fn jumps_to_itself() {
    attack(Builder::new(), |daemon| {
        guilty(
            daemon,
            vec![
                ("a jump to itself", RENDER, Batch::new().jump(BATCH)),
                ("a jump to itself on the blitter", COPY, Batch::new().jump(BATCH)),
            ],
        );
    });
}

#[test]
fn a_loop_that_can_be_preempted_keeps_nobody_waiting() {
    attack(Builder::new(), |daemon| {
        let mut culprit = Culprit::new(daemon);
        let endless = Batch::new().arbitration_point().noops(64).jump(BATCH);
        let _fence = culprit.submit(RENDER, &endless).executed();
        let mut neighbour = Culprit::new(daemon);
        let good = Batch::new().store(OWN, 1).end();
        for _ in 0..20 {
            assert_eq!(neighbour.outcome(RENDER, &good), FenceState::Signalled);
        }
    });
}

/// A session that hangs the device again and again is not let in any more; its neighbours are.
#[test]
fn a_repeat_offender_is_banned() {
    attack(Builder::new(), |daemon| {
        let mut culprit = Culprit::new(daemon);
        let crime = Batch::new().store(NOWHERE, 1).end();
        let mut banned = None;
        for _ in 0..20 {
            let message = culprit.submit(RENDER, &crime);
            if !matches!(message, Message::Reply(..)) {
                banned = Some(message.refusal());
                break;
            }
            // The crime is known only once the batch has run.
            let _waited = culprit.client.wait(culprit.batch.id).reply();
        }
        let banned = banned.expect("twenty hangs are enough");
        assert_eq!((banned.name.as_str(), banned.errno), ("context-banned", 5));
    });
}

/// Sessions that leave while their batches run, wait, and queue: nothing of theirs stays.
#[test]
fn sessions_that_leave_with_work_under_way() {
    attack(Builder::new(), |daemon| {
        for round in 0..20 {
            let endless = if round % 2 == 0 {
                Batch::new().arbitration_point().jump(BATCH)
            } else {
                Batch::new().wait_equal(OWN, 1).end()
            };
            let ring = if round % 4 < 2 { RENDER } else { COPY };
            let mut culprit = Culprit::new(daemon);
            // The last ones go on until they are found to have no end, twenty seconds later.
            culprit.client.set_persistence(culprit.context, round >= 16);
            for _ in 0..10 {
                let _fence = culprit.submit(ring, &endless).executed();
            }
            // The handle goes, the memory stays for as long as the engine reads it.
            let close = Request::BufferClose(BufferOf { buffer: culprit.batch.id });
            let _closed = culprit.client.call(close).reply();
        }
    });
}

/// The CPU rewrites the batch while the engine executes it: whatever the engine reads, it reads
/// once and judges then.
#[test]
fn a_batch_rewritten_while_it_runs() {
    attack(Builder::new(), |daemon| {
        let commands: [u32; 8] = [
            0,
            0x1000_0002,
            0x1880_0101,
            0x0280_0000,
            0x7fff_ffff,
            0x1020_0003,
            0x0e00_c002,
            0x0d00_00ff,
        ];
        let endless = Batch::new().noops(1000).arbitration_point().jump(BATCH);
        for round in 0..8_u64 {
            let mut culprit = Culprit::new(daemon);
            culprit.client.set_persistence(culprit.context, false);
            let _fence = culprit.submit(RENDER, &endless).executed();
            for step in 0..2000_u64 {
                // A prime stride visits every dword, in no order that a batch would have.
                let at = ((step + round) * 397 % 1000) * 4;
                let command = commands[usize::try_from(step % 8).expect("small")];
                culprit.batch.write(at, &command.to_le_bytes());
                culprit.batch.write(at, &0_u32.to_le_bytes());
            }
        }
    });
}
