//! Application memory on the GPU: memfds that are none, that change under the GPU's feet, and too many.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use gpu_broker_protocol::execbuf::ExecbufHead;
use gpu_broker_protocol::message::{BufferOf, ContextDestroy, ContextResetStats};
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::userptr::{UserptrCreate, UserptrInvalidate, flag};
use gpu_broker_protocol::{BufferId, ContextId, Reply, Request};
use gpu_broker_tests::{Batch, Builder, Message, Raw, RawBuffer};
use proptest::prelude::*;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate};
use rustix::io::Errno;

use super::attack;

const PAGE: u64 = 4096;
/// Where the tests put the application's memory, their batch and their results.
const USER: u64 = 0x100_0000;
const BATCH: u64 = 0x10_0000;
const RESULT: u64 = 0x20_0000;
/// The engine that has blits.
const COPY_RING: u64 = 3;

/// Memory of an application, which it looks at through the file: nothing here is mapped.
struct Memory(OwnedFd);

impl Memory {
    fn with_seals(pages: u64, seals: SealFlags) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("application", flags).expect("memory is left");
        rustix::fs::ftruncate(&fd, pages * PAGE).expect("sparse");
        rustix::fs::fcntl_add_seals(&fd, seals).expect("not sealed yet");
        Self(fd)
    }

    fn new(pages: u64) -> Self {
        Self::with_seals(pages, SealFlags::SHRINK)
    }

    fn set(&self, at: u64, value: u32) {
        let written = rustix::io::pwrite(&self.0, &value.to_le_bytes(), at).expect("a memfd");
        assert_eq!(written, 4);
    }

    fn get(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        assert_eq!(rustix::io::pread(&self.0, &mut bytes, at).expect("a memfd"), 4);
        u32::from_le_bytes(bytes)
    }

    fn punch(&self, page: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.0, flags, page * PAGE, PAGE)
    }
}

fn share(
    client: &mut Raw,
    fd: BorrowedFd<'_>,
    (offset, length): (u64, u64),
    flags: u32,
) -> Message {
    client.call(Request::UserptrCreate(UserptrCreate { memfd: fd, offset, length, flags }))
}

fn shared(client: &mut Raw, memory: &Memory, range: (u64, u64), flags: u32) -> BufferId {
    let reply = share(client, memory.0.as_fd(), range, flags).reply();
    let Reply::UserptrCreate(made) = reply else { panic!("not of USERPTR_CREATE: {reply:?}") };
    made.buffer
}

fn invalidation(buffer: BufferId, timeout_ns: i64) -> Request<BorrowedFd<'static>> {
    Request::UserptrInvalidate(UserptrInvalidate {
        buffer,
        offset: 0,
        length: u64::MAX,
        timeout_ns,
    })
}

/// A session with a batch and a place for results.
struct Rig {
    client: Raw,
    batch: RawBuffer,
    result: RawBuffer,
}

impl Rig {
    fn new(mut client: Raw) -> Self {
        let (batch, result) = (client.create_buffer(PAGE), client.create_buffer(PAGE));
        Self { client, batch, result }
    }

    /// Submits a batch that uses userptr buffers, the first at [`USER`], each right after the other
    /// 16 MiB further.
    fn submit(&mut self, context: ContextId, users: &[BufferId], batch: Batch) -> Message {
        self.batch.write(0, &batch.end().bytes());
        let at = |(index, id): (u64, &BufferId)| {
            let mut object = self.batch.pinned_for_writing(USER + index * USER);
            object.handle = id.0;
            object
        };
        let mut objects: Vec<_> = (0..).zip(users).map(at).collect();
        objects.push(self.result.pinned_for_writing(RESULT));
        objects.push(self.batch.pinned(BATCH));
        let head = ExecbufHead { context: context.0, flags: COPY_RING, ..ExecbufHead::default() };
        self.client.execbuf(&head, &objects, &[])
    }

    fn run(&mut self, users: &[BufferId], batch: Batch) {
        let _executed = self.submit(ContextId(0), users, batch).executed();
        self.wait();
    }

    fn wait(&mut self) {
        assert!(matches!(self.client.wait(self.batch.id).reply(), Reply::BufferWait(_)));
    }
}

#[test]
fn fds_that_cannot_be_shared() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("fds");
        let open = |path: &str, flags: OFlags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("it exists")
        };
        let (pipe, _writer) = rustix::pipe::pipe().expect("fds are left");
        // Not a temporary one: on a tmpfs it would be memory, though without the seals.
        let regular = std::env::current_exe().expect("procfs is there");
        let regular = std::fs::File::open(regular).expect("it runs");
        let memory = Memory::new(1);
        let again = |flags| {
            use std::os::fd::AsRawFd as _;
            open(&format!("/proc/self/fd/{}", memory.0.as_raw_fd()), flags)
        };
        let unsealable =
            rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).expect("memory is left");
        let huge = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        let huge = rustix::fs::memfd_create("x", huge).expect("no page is taken yet");
        rustix::fs::fcntl_add_seals(&huge, SealFlags::SHRINK).expect("not sealed yet");
        let sealed = |seals| Memory::with_seals(1, seals).0;
        let cases: Vec<(&str, OwnedFd, &str, i32)> = vec![
            ("a regular file", regular.into(), "userptr-not-memfd", EINVAL),
            ("a pipe", pipe, "userptr-not-memfd", EINVAL),
            ("/dev/zero", open("/dev/zero", OFlags::RDWR), "userptr-not-memfd", EINVAL),
            ("a directory", open("/", OFlags::RDONLY), "userptr-not-memfd", EINVAL),
            ("an O_PATH fd", again(OFlags::PATH), "userptr-not-memfd", EINVAL),
            ("without seals", unsealable, "userptr-seals", EINVAL),
            ("not sealed", sealed(SealFlags::empty()), "userptr-seals", EINVAL),
            ("sealed otherwise", sealed(SealFlags::GROW), "userptr-seals", EINVAL),
            ("huge pages", huge, "userptr-hugetlb", EINVAL),
            ("for reading", again(OFlags::RDONLY), "userptr-access", EACCES),
            (
                "sealed against writing",
                sealed(SealFlags::SHRINK | SealFlags::WRITE),
                "userptr-seals",
                EINVAL,
            ),
        ];
        for (name, fd, reason, errno) in cases {
            let refusal = share(&mut client, fd.as_fd(), (0, PAGE), 0).refusal();
            assert_eq!((refusal.name.as_str(), refusal.errno), (reason, errno), "{name}");
        }
        for fd in [
            again(OFlags::RDONLY),
            sealed(SealFlags::SHRINK | SealFlags::WRITE),
            sealed(SealFlags::SHRINK | SealFlags::FUTURE_WRITE),
        ] {
            let _made = share(&mut client, fd.as_fd(), (0, PAGE), flag::READ_ONLY).reply();
        }
        for (range, errno) in [
            ((0, 2 * PAGE), EFAULT),
            ((PAGE, PAGE), EFAULT),
            ((!(PAGE - 1), PAGE), EFAULT),
            ((1, PAGE), EINVAL),
            ((0, 0), EINVAL),
            ((0, u64::MAX), E2BIG),
        ] {
            let refusal = share(&mut client, memory.0.as_fd(), range, 0).refusal();
            assert_eq!(refusal.errno, errno, "{range:?}");
        }
        let far = Memory::new(1 << 40);
        let refusal = share(&mut client, far.0.as_fd(), (0, PAGE), 0).refusal();
        assert_eq!(refusal.name, "userptr-file-too-large");
        let refusal = client.call(invalidation(BufferId(99), 0)).refusal();
        assert_eq!(refusal.errno, ENOENT);
        let own = client.create_buffer(PAGE);
        assert_eq!(client.call(invalidation(own.id, 0)).refusal().name, "userptr-expected");
    });
}

/// The client closes its fd at once and takes pages away while the GPU works on them.
#[test]
fn holes_under_the_gpus_feet() {
    attack(Builder::new(), |daemon| {
        let mut rig = Rig::new(daemon.client("puncher"));
        let memory = Memory::new(64);
        let buffer = shared(&mut rig.client, &memory, (0, 64 * PAGE), 0);
        assert_eq!(rustix::fs::ftruncate(&memory.0, PAGE), Err(Errno::PERM), "the seal holds");
        let stop = AtomicBool::new(false);
        /// Also when the test fails: the thread would go on for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                for page in (0..64).cycle() {
                    memory.punch(page).expect("a memfd");
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            for colour in 1..40 {
                // 64 rows of a page each.
                rig.run(&[buffer], Batch::new().fill(USER, 4096, 1024, 64, colour));
            }
        });
        rig.run(&[buffer], Batch::new().fill(USER, 4096, 1024, 64, 7));
        assert_eq!((memory.get(0), memory.get(63 * PAGE)), (7, 7), "the pages that are there now");
        drop(memory);
        // Nobody else has it any more.
        rig.run(&[buffer], Batch::new().increment(USER).copy(RESULT, USER));
        assert_eq!(rig.result.dword(0), 8);
    });
}

#[test]
fn one_memfd_ten_thousand_times_and_ranges_that_overlap() {
    attack(Builder::new(), |daemon| {
        let mut rig = Rig::new(daemon.client("hoarder"));
        let memory = Memory::new(16);
        let before = daemon.footprint();
        let buffers: Vec<_> = (0..10_000)
            .map(|round| shared(&mut rig.client, &memory, (round % 8 * PAGE, 8 * PAGE), 0))
            .collect();
        let after = daemon.footprint();
        assert_eq!(after.buffer_mappings, before.buffer_mappings + 1, "one mapping for all");
        assert!(after.fds <= before.fds + 1, "one fd for all");
        // The second page through one buffer is the first through another.
        let overlapping = &buffers[..2];
        rig.run(overlapping, Batch::new().store(USER + PAGE, 77).copy(RESULT, 2 * USER));
        assert_eq!((rig.result.dword(0), memory.get(PAGE)), (77, 77));
        assert!(matches!(
            rig.client.call(invalidation(buffers[5000], -1)).reply(),
            Reply::UserptrInvalidate
        ));
    });
}

#[test]
fn more_memory_than_the_session_may_share() {
    attack(Builder::new().config("[session]\nuserptr_memory_bytes = 8192\n"), |daemon| {
        let mut client = daemon.client("greedy");
        let (first, second) = (Memory::new(2), Memory::new(1));
        let one = shared(&mut client, &first, (0, PAGE), 0);
        let _two = shared(&mut client, &first, (0, 2 * PAGE), 0);
        let refusal = share(&mut client, second.0.as_fd(), (0, PAGE), 0).refusal();
        assert_eq!((refusal.name.as_str(), refusal.errno), ("userptr-memory-limit", ENOMEM));
        let too_large = Memory::new(3);
        let refusal = share(&mut client, too_large.0.as_fd(), (0, PAGE), 0).refusal();
        assert_eq!(refusal.name, "userptr-memory-limit");
        for buffer in [one, _two] {
            let _closed = client.call(Request::BufferClose(BufferOf { buffer })).reply();
        }
        let _three = shared(&mut client, &second, (0, PAGE), 0);
    });
}

/// INVALIDATE is answered when the GPU is done with the old pages; or is not, in time; or lost its work.
#[test]
fn invalidation_waits_for_the_gpu() {
    attack(Builder::new(), |daemon| {
        let mut rig = Rig::new(daemon.client("waits"));
        let memory = Memory::new(1);
        let buffer = shared(&mut rig.client, &memory, (0, PAGE), 0);
        let context = rig.client.create_context();
        rig.client.set_persistence(context, false);
        let stuck = || Batch::new().wait_equal(USER, 1).store(USER + 8, 5);
        let _executed = rig.submit(context, &[buffer], stuck()).executed();
        for timeout_ns in [0, 1, 1_000_000] {
            let refusal = rig.client.call(invalidation(buffer, timeout_ns)).refusal();
            assert_eq!((refusal.name.as_str(), refusal.errno), ("userptr-in-use", ETIME));
        }
        let _seq = rig.client.send_request(invalidation(buffer, -1)).expect("connected");
        memory.set(0, 1);
        assert!(matches!(rig.client.receive().reply(), Reply::UserptrInvalidate));
        assert_eq!(memory.get(8), 5, "it had run to its end");
        // The next one never ends: its context is closed, and with it its work.
        memory.set(0, 0);
        let _executed = rig.submit(context, &[buffer], stuck()).executed();
        let _seq = rig.client.send_request(invalidation(buffer, -1)).expect("connected");
        let destroy = Request::ContextDestroy(ContextDestroy { context, pad: 0 });
        rig.client.send_request(destroy).expect("connected");
        let answers = [rig.client.receive(), rig.client.receive()];
        let lost = answers.into_iter().find_map(|answer| match answer {
            Message::Refused(_, refusal) => Some(refusal),
            Message::Reply(..)
            | Message::Hang(_)
            | Message::News(_)
            | Message::Epitaph(_)
            | Message::Closed => None,
        });
        let lost = lost.expect("the invalidation is answered");
        assert_eq!((lost.name.as_str(), lost.errno), ("userptr-lost", EIO));
        // A client that gives up again and again costs no more than its waits.
        let other = rig.client.create_context();
        rig.client.set_persistence(other, false);
        let _executed = rig.submit(other, &[buffer], stuck()).executed();
        let names: Vec<_> =
            (0..1000).map(|_| rig.client.call(invalidation(buffer, 1)).refusal().name).collect();
        assert!(names.iter().any(|name| name == "wait-limit"), "it is limited");
        assert!(names.iter().all(|name| name == "wait-limit" || name == "userptr-in-use"));
    });
}

/// The client is gone while the GPU works on its memory, which nothing ends but the daemon.
#[test]
fn gone_in_the_middle() {
    attack(Builder::new(), |daemon| {
        for _ in 0..20 {
            let mut rig = Rig::new(daemon.client("gone"));
            let memory = Memory::new(4);
            let buffer = shared(&mut rig.client, &memory, (0, 4 * PAGE), 0);
            let context = rig.client.create_context();
            rig.client.set_persistence(context, false);
            let spin = Batch::new().wait_equal(USER, 1);
            let _executed = rig.submit(context, &[buffer], spin).executed();
            let _seq = rig.client.send_request(invalidation(buffer, -1)).expect("connected");
        }
    });
}

#[test]
fn memory_for_reading_is_not_written() {
    attack(Builder::new(), |daemon| {
        let mut rig = Rig::new(daemon.client("reader"));
        let memory = Memory::new(1);
        memory.set(0, 42);
        rustix::fs::fcntl_add_seals(&memory.0, SealFlags::WRITE).expect("nobody maps it");
        let buffer = shared(&mut rig.client, &memory, (0, PAGE), flag::READ_ONLY);
        rig.run(&[buffer], Batch::new().copy(RESULT, USER));
        assert_eq!(rig.result.dword(0), 42);
        for batch in [
            Batch::new().store(USER, 1),
            Batch::new().increment(USER),
            Batch::new().fill(USER, 4096, 16, 1, 9),
        ] {
            let context = rig.client.create_context();
            let _executed = rig.submit(context, &[buffer], batch).executed();
            rig.wait();
            let stats = Request::ContextResetStats(ContextResetStats { context, flags: 0, pad: 0 });
            let Reply::ContextResetStats(stats) = rig.client.call(stats).reply() else {
                panic!("answered as something else")
            };
            // A real GPU drops the write, and goes on.
            let guilty = u32::from(daemon.is_soft());
            let found = (stats.batch_active, memory.get(0));
            assert_eq!(found, (guilty, 42), "guilty, and nothing written");
        }
    });
}

#[derive(Clone, Debug)]
enum Op {
    /// Reads a page, at once or when the gate opens.
    Read { page: u64, gated: bool },
    /// Invalidates, waits, and makes the page another.
    Replace { page: u64, value: u32, punch: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..4u64, any::<bool>()).prop_map(|(page, gated)| Op::Read { page, gated }),
        (0..4u64, 1..100u32, any::<bool>()).prop_map(|(page, value, punch)| Op::Replace {
            page,
            value,
            punch
        }),
    ]
}

/// By content: what a batch reads is what the page was when it was submitted, whatever becomes of the
/// page afterwards.
#[test]
fn no_stale_page_is_ever_used() {
    attack(Builder::new(), |daemon| {
        // An emulated GPU takes a second for each.
        let cases = if daemon.is_soft() { 24 } else { 6 };
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
        let histories = proptest::collection::vec(op(), 1..24);
        let result = runner.run(&histories, |ops| {
            let mut rig = Rig::new(daemon.client("pages"));
            let memory = Memory::new(5);
            let buffer = shared(&mut rig.client, &memory, (0, 5 * PAGE), 0);
            let mut pages = [0; 4];
            let mut pending = None;
            let gate = 4 * PAGE;
            for op in ops {
                match op {
                    Op::Read { page, gated } => {
                        finish(&mut rig, &memory, buffer, pending.take());
                        memory.set(gate, u32::from(!gated));
                        let batch = Batch::new()
                            .wait_equal(USER + gate, 1)
                            .copy(RESULT, USER + page * PAGE);
                        let _executed = rig.submit(ContextId(0), &[buffer], batch).executed();
                        pending = Some((pages[usize::try_from(page).expect("small")], gated));
                    }
                    Op::Replace { page, value, punch } => {
                        finish(&mut rig, &memory, buffer, pending.take());
                        if punch {
                            memory.punch(page).expect("a memfd");
                        } else {
                            memory.set(page * PAGE, value);
                        }
                        pages[usize::try_from(page).expect("small")] =
                            if punch { 0 } else { value };
                    }
                }
            }
            finish(&mut rig, &memory, buffer, pending);
            Ok(())
        });
        result.expect("no stale page");
    });
}

/// Invalidates, which waits for a read that is still to come, and looks at what was read.
fn finish(rig: &mut Rig, memory: &Memory, buffer: BufferId, pending: Option<(u32, bool)>) {
    if let Some((_, true)) = pending {
        let refusal = rig.client.call(invalidation(buffer, 0)).refusal();
        assert_eq!(refusal.name, "userptr-in-use", "the old pages are in use");
    }
    let _seq = rig.client.send_request(invalidation(buffer, -1)).expect("connected");
    memory.set(4 * PAGE, 1);
    assert!(matches!(rig.client.receive().reply(), Reply::UserptrInvalidate));
    if let Some((expected, _)) = pending {
        assert_eq!(rig.result.dword(0), expected);
    }
}
