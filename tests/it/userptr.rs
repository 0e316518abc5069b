//! An application's own memory on the GPU, from the client library to the pages.

use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gpu_broker_client::gen9::{Batch, Compare};
use gpu_broker_client::{
    Buffer, Connection, Context, Error, GpuAccess, UserMemory, UserVec, r#async,
};
use gpu_broker_tests::{Daemon, binaries, relay};

const MIB: u64 = 1 << 20;
/// GPU addresses: of the memory, of a flag that batches wait for, and of nothing.
const MEMORY: u64 = 0x1000_0000;
const FLAG: u64 = 0x0800_0000;
const NOTHING: u64 = 0x7000_0000;

fn connect(daemon: &Daemon) -> Connection {
    Connection::connect(daemon.socket(), "userptr").expect("the daemon serves")
}

fn buffer_of(broker: &Connection, commands: &Batch) -> Buffer {
    let batch = broker.create_buffer(commands.bytes()).expect("there is room");
    batch.map().expect("fds are left").write_dwords(0, commands.dwords()).expect("it fits");
    batch
}

/// The whole story, across processes: 64 MiB of a client's memory, changed in place by blits and
/// MI_MATH, and looked at by the client.
///
/// That nothing copies them shows in four places. The socket carries some kilobytes (counted by a
/// relay in the middle). The client and the daemon move no such amount by system calls (rchar and
/// wchar of /proc/PID/io, which count pread, pwrite and copies through pipes too). And the daemon's
/// own memory stays flat, looked at after each of its replies: that is RssAnon, memory that belongs
/// to the daemon alone. Its RSS as a whole does grow while the GPU works, because pages of the
/// client that the software GPU touches are mapped there too (RssShmem), once, not again.
#[test]
fn a_client_and_the_gpu_share_64_mib_without_a_copy() {
    let program = binaries::example("own_memory");
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let status = daemon.status_file();
    let anonymous = status.kib("RssAnon:");
    let moved = daemon.system_call_bytes();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let socket = directory.path().join("relay.sock");
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    let relay = relay::relay(&socket, daemon.socket(), move || {
        seen.fetch_max(status.kib("RssAnon:"), Ordering::Relaxed);
    });
    let output = Command::new(program).arg(&socket).output().expect("it was just built");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("64 MiB changed in place, every pixel is right"), "{said}");

    let traffic = relay.join().expect("no panic");
    assert!(traffic.to_daemon + traffic.to_client < MIB / 8, "{traffic:?}");
    let last = said.lines().last().expect("it said something");
    let numbers: Vec<u64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [read, written] = numbers[..] else { panic!("two numbers are in: {last}") };
    assert!(read + written < MIB, "by the client: {last}");
    let moved = daemon.system_call_bytes() - moved;
    assert!(moved < MIB, "{moved} bytes by the daemon");
    let most = most.load(Ordering::Relaxed);
    assert!(most < anonymous + 8 * 1024, "RssAnon was {anonymous} KiB, and rose to {most} KiB");
    println!(
        "{traffic:?}; client: {last}; daemon: {moved} bytes, RssAnon {anonymous} to {most} KiB"
    );

    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// What the tests below work with: a session, a context, and a batch that waits for a flag.
struct Rig {
    broker: Connection,
    context: Context,
    flag: Buffer,
}

impl Rig {
    fn new(daemon: &Daemon) -> Self {
        let broker = connect(daemon);
        let context = broker.context().create().expect("there is room");
        let flag = broker.create_buffer(4096).expect("there is room");
        Self { broker, context, flag }
    }

    /// Submits work that uses the memory, writes 42 to its first dword once the flag is set, and
    /// then does what `last` says.
    fn submit_waiting(
        &self,
        memory: impl Into<gpu_broker_client::protocol::BufferId>,
        last: impl FnOnce(&mut Batch),
    ) {
        let mut commands = Batch::new();
        commands.semaphore_wait(FLAG, Compare::Equal, 1).store_dword(MEMORY, 42);
        last(&mut commands);
        let batch = buffer_of(&self.broker, commands.end());
        let work = self.context.execbuf().object_at(memory, MEMORY).write();
        work.object_at(&self.flag, FLAG).batch(&batch).submit().expect("it is all legal");
    }

    fn raise_flag(&self) {
        self.flag.map().expect("fds are left").store_u32(0, 1).expect("inside");
    }
}

#[test]
fn the_cpu_waits_for_the_gpu_and_then_keeps_it_away() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let rig = Rig::new(&daemon);
    let mut vector = UserVec::with_capacity(1024).expect("memory");
    vector.extend_from_slice(&[7_u32; 1000]).expect("memory");
    let memory = vector.into_memory().expect("it has some");
    let mut buffer = memory.register(&rig.broker, GpuAccess::ReadWrite).expect("it is legal");
    assert_eq!(buffer.size(), 4096);
    rig.submit_waiting(&buffer, |_| ());

    // In use, and it says so; looking through atomics is always possible.
    let error = buffer.cpu(Some(Duration::ZERO)).expect_err("the GPU uses it");
    assert_eq!((error.errno(), name(&error)), (62, "userptr-in-use"), "{error}");
    let kept = buffer.unregister(Some(Duration::ZERO)).expect_err("the GPU uses it");
    assert_eq!(kept.error.errno(), 62);
    buffer = kept.kept;
    assert_eq!(buffer.shared().load_u32(0).expect("inside"), 7);
    rig.raise_flag();

    let mut access = buffer.cpu(None).expect("the GPU comes to an end");
    assert_eq!(access.as_slice::<u32>()[..2], [42, 7]);
    access.as_mut_slice::<u32>()[1] = 8;
    let mut commands = Batch::new();
    commands.copy_dword(MEMORY + 8, MEMORY + 4).end();
    let batch = buffer_of(&rig.broker, &commands);
    drop(access);
    let submit =
        |id| rig.context.execbuf().object_at(id, MEMORY).write().batch(&batch).submit().map(drop);
    let id = buffer.handle();
    let access = buffer.cpu(None).expect("the GPU is idle");
    let error = submit(id).expect_err("the CPU has it");
    assert!(matches!(error, Error::HeldByCpu { buffer } if buffer == id), "{error}");
    drop(access);
    submit(id).expect("the CPU has let go");
    let memory = buffer.unregister(None).expect("the GPU comes to an end");
    assert_eq!(memory.as_slice::<u32>()[..4], [42, 8, 8, 7]);
    let error = submit(id).expect_err("it is closed");
    assert_eq!(error.errno(), 2, "{error}");

    // It can be grown and registered again, and comes back when that fails.
    let mut memory = memory;
    memory.grow(3 * MIB).expect("memory");
    let mut buffer = memory.register(&rig.broker, GpuAccess::ReadWrite).expect("it is legal");
    submit(buffer.handle()).expect("it is all legal");
    assert_eq!(buffer.cpu(None).expect("the GPU ends").as_slice::<u32>().len(), 3 << 18);
    drop((buffer, batch, rig));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

fn name(error: &Error) -> &str {
    error.refusal().map_or("", |refusal| refusal.name.as_str())
}

#[test]
fn memory_the_gpu_may_only_read_is_not_written() {
    let daemon = Daemon::start();
    let rig = Rig::new(&daemon);
    let mut memory = UserMemory::new(4096).expect("memory");
    memory.as_mut_slice::<u32>().fill(7);
    let buffer = memory.register(&rig.broker, GpuAccess::ReadOnly).expect("it is legal");
    rig.raise_flag();
    rig.submit_waiting(&buffer, |_| ());
    // The fault is the context's own; whether the wait hears of it depends on who comes first.
    let memory = match buffer.unregister(None) {
        Ok(memory) => memory,
        Err(kept) => kept.kept.unregister(None).expect("a second look finds it unused"),
    };
    assert!(memory.as_slice::<u32>().iter().all(|value| *value == 7));
}

/// Memory that is taken back while the GPU uses it: what it writes later arrives nowhere.
#[test]
fn detached_memory_is_the_clients_alone() {
    let mut daemon = Daemon::start();
    let rig = Rig::new(&daemon);
    let mut memory = UserMemory::new(4096).expect("memory");
    memory.as_mut_slice::<u32>().fill(7);
    let buffer = memory.register(&rig.broker, GpuAccess::ReadWrite).expect("it is legal");
    rig.submit_waiting(&buffer, |_| ());
    let memory = buffer.detach().expect("memory");
    rig.raise_flag();
    rig.flag.wait(None).expect("the daemon answers");
    assert!(memory.as_slice::<u32>().iter().all(|value| *value == 7));
    daemon.assert_unharmed();
}

#[test]
fn a_broker_that_is_gone_leaves_the_memory() {
    let mut daemon = Daemon::start();
    let rig = Rig::new(&daemon);
    let mut memory = UserMemory::new(4096).expect("memory");
    memory.as_mut_slice::<u32>().fill(7);
    let mut buffer = memory.register(&rig.broker, GpuAccess::ReadWrite).expect("it is legal");
    daemon.terminate();
    let error = buffer.cpu(None).expect_err("nobody answers");
    assert!(error.is_fatal(), "{error}");
    let kept = buffer.unregister(None).expect_err("nobody answers");
    assert!(kept.error.is_fatal(), "{kept}");
    let memory = kept.kept.detach().expect("memory");
    assert!(memory.as_slice::<u32>().iter().all(|value| *value == 7));
}

/// INVALIDATE tells a client that work failed while it waited, and that the pages are free.
#[tokio::test]
async fn work_that_fails_meanwhile_is_an_error_and_not_a_wait() {
    let mut daemon = Daemon::start();
    let rig = Rig::new(&daemon);
    let broker = r#async::Connection::connect(daemon.socket(), "async").await.expect("it serves");
    let context = broker.context().create().await.expect("there is room");
    let mut commands = Batch::new();
    commands.semaphore_wait(FLAG, Compare::Equal, 1);
    commands.store_dword(MEMORY, 42).store_dword(NOTHING, 1).end();
    let batch = broker.create_buffer(4096).await.expect("there is room");
    let mapped = batch.map().await.expect("fds are left");
    mapped.write_dwords(0, commands.dwords()).expect("it fits");
    let flag = rig.flag.export().expect("fds are left");
    let flag = broker.import_buffer(flag.as_fd()).await.expect("it is the daemon's");

    let memory = UserMemory::new(MIB).expect("memory");
    let registered = r#async::UserBuffer::register(memory, &broker, GpuAccess::ReadWrite).await;
    let mut buffer = registered.expect("it is legal");
    let work = context.execbuf().object_at(&buffer, MEMORY).write().object_at(&flag, FLAG);
    work.batch(&batch).submit().await.expect("it is all legal");
    let error = buffer.cpu(Some(Duration::ZERO)).await.expect_err("the GPU uses it");
    assert_eq!(name(&error), "userptr-in-use", "{error}");

    // The PING goes out behind the INVALIDATE, so its answer says that the daemon waits by then.
    let then_fail = async {
        broker.ping(1).await.expect("the daemon answers");
        rig.raise_flag();
    };
    let (waited, ()) = tokio::join!(buffer.cpu(None), then_fail);
    let error = waited.expect_err("the batch wrote where nothing is");
    assert_eq!((error.errno(), name(&error)), (5, "userptr-lost"), "{error}");
    let access = buffer.cpu(None).await.expect("nothing uses it any more");
    assert_eq!(access.as_slice::<u32>()[..2], [42, 0]);
    drop(access);
    let memory = buffer.unregister(None).await.expect("nothing uses it");
    assert_eq!(memory.as_slice::<u32>()[0], 42);
    daemon.assert_unharmed();
}

/// Threads submit while another takes the memory for itself again and again: never does it find a
/// value change under its hands, and never is a submission lost.
#[test]
fn access_of_the_cpu_and_submissions_never_overlap() {
    let mut daemon = Daemon::start();
    let rig = Rig::new(&daemon);
    let memory = UserMemory::new(4096).expect("memory");
    let mut buffer = memory.register(&rig.broker, GpuAccess::ReadWrite).expect("it is legal");
    let id = buffer.handle();
    let mut commands = Batch::new();
    for _ in 0..64 {
        commands.atomic_dword(MEMORY, gpu_broker_client::gen9::Atomic::Increment, 0);
    }
    let batch = buffer_of(&rig.broker, commands.end());
    let all_accepted = AtomicU64::new(0);
    let submitters = std::thread::scope(|scope| {
        let submit = || {
            let context = rig.broker.context().create().expect("there is room");
            let (mut accepted, mut held) = (0_u32, 0_u32);
            while accepted < 150 {
                match context.execbuf().object_at(id, MEMORY).write().batch(&batch).submit() {
                    Ok(_) => {
                        accepted += 1;
                        all_accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(Error::HeldByCpu { .. }) => held += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            held
        };
        let threads = [scope.spawn(submit), scope.spawn(submit)];
        while threads.iter().any(|thread| !thread.is_finished()) {
            let access = buffer.cpu(None).expect("the GPU comes to an end");
            let first = access.as_slice::<u32>()[0];
            assert!(first.is_multiple_of(64), "in the middle of a batch: {first}");
            std::thread::yield_now();
            assert_eq!(std::hint::black_box(access.as_slice::<u32>())[0], first);
            let so_far = all_accepted.load(Ordering::Relaxed);
            drop(access);
            // Let somebody in.
            while all_accepted.load(Ordering::Relaxed) == so_far
                && threads.iter().any(|thread| !thread.is_finished())
            {
                std::thread::yield_now();
            }
        }
        threads.map(|thread| thread.join().expect("no panic"))
    });
    println!("submissions refused meanwhile: {submitters:?}");
    let memory = buffer.unregister(None).expect("the GPU comes to an end");
    assert_eq!(memory.as_slice::<u32>()[0], 2 * 150 * 64);
    daemon.assert_unharmed();
}
