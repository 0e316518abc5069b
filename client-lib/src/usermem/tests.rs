//! Memory that is shared, grown, adopted, given back, and what forks make of it. With daemons:
//! `tests/it/userptr`.
#![expect(unsafe_code, reason = "adopts mappings, and forks")]

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{SealFlags, fcntl_get_seals, ftruncate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::share::sealed::{INSIDE, Sealed as _};
use super::*;
use crate::Error;

const PAGE: usize = 4096;

/// A private mapping, as `malloc` makes for large blocks.
struct Private {
    start: *mut c_void,
    size: usize,
}

// SAFETY: it is memory, and the tests access it through atomics.
unsafe impl Sync for Private {}

impl Private {
    fn new(pages: usize) -> Self {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint: nothing in use is touched.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), pages * PAGE, both, MapFlags::PRIVATE) };
        Self { start: start.expect("memory"), size: pages * PAGE }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.size / 8);
        // SAFETY: inside of the mapping, as just checked.
        let place = unsafe { self.start.cast::<AtomicU64>().add(index) };
        // SAFETY: aligned, mapped while `self` lives, and only accessed through atomics.
        unsafe { &*place }
    }

    fn fill(&self) {
        for index in 0..self.size / 8 {
            self.word(index).store(index as u64 * 7, Ordering::Relaxed);
        }
    }

    fn assert_filled(&self) {
        for index in 0..self.size / 8 {
            assert_eq!(self.word(index).load(Ordering::Relaxed), index as u64 * 7, "{index}");
        }
    }

    fn adopt(&self, writers: Writers) -> Result<AdoptedMemory, Error> {
        // SAFETY: the mapping is ours and outlives what the tests make of it.
        unsafe { AdoptedMemory::adopt(self.start, self.size, writers) }
    }

    /// The permissions and the name that the kernel has for the first page.
    fn seen_as(&self) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        let address = self.start.addr();
        let number = |text: &str| usize::from_str_radix(text, 16).expect("an address");
        let covers = |line: &&str| {
            let (start, rest) = line.split_once('-').expect("a range");
            let (end, _) = rest.split_once(' ').expect("a range");
            (number(start)..number(end)).contains(&address)
        };
        let line = maps.lines().find(covers).expect("it is mapped");
        let fields: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", fields[1], fields.get(5).copied().unwrap_or_default())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and adoption is over.
        unsafe { munmap(self.start, self.size) }.expect("munmap");
    }
}

#[test]
fn memory_is_zero_sealed_and_fit_for_huge_pages() {
    let large = UserMemory::new((3 << 20) + 1).expect("memory");
    assert_eq!(large.size(), (3 << 20) + 4096);
    assert!(large.as_slice::<u64>().iter().all(|word| *word == 0));
    let start = large.as_slice::<u8>().as_ptr();
    assert!(start.addr().is_multiple_of(2 << 20), "{start:?}");
    let fd = large.fd(INSIDE);
    let seals = fcntl_get_seals(fd).expect("a memfd");
    assert!(seals.contains(SealFlags::SHRINK), "{seals:?}");
    assert_eq!(ftruncate(fd, 4096), Err(Errno::PERM), "nobody cuts it off");
    let error = UserMemory::new(0).expect_err("none");
    assert_eq!(error.errno(), 22, "{error}");
    let error = UserMemory::new(u64::MAX).expect_err("more than there is");
    assert_eq!(error.errno(), 12, "{error}");
}

#[test]
fn growing_keeps_the_contents_and_adds_zeroes() {
    let mut memory = UserMemory::new(4096).expect("memory");
    memory.as_mut_slice::<u32>().fill(3);
    // Past the size from which on memory is aligned to huge pages, then within it.
    for size in [8192, (2 << 20) + 4096, 5 << 20] {
        memory.grow(size).expect("memory");
        assert_eq!(memory.size(), size);
        let values = memory.as_slice::<u32>();
        assert!(values[..1024].iter().all(|value| *value == 3));
        assert!(values[1024..].iter().all(|value| *value == 0));
    }
    assert!(memory.as_slice::<u8>().as_ptr().addr().is_multiple_of(2 << 20));
    memory.grow(1).expect("it is larger already");
    assert_eq!(memory.size(), 5 << 20);
}

#[test]
fn slices_leave_out_what_is_no_whole_value() {
    let memory = UserMemory::new(4096).expect("memory");
    assert_eq!(memory.as_slice::<[u8; 3]>().len(), 1365);
    assert_eq!(memory.as_slice::<[u64; 1024]>().len(), 0);
    assert_eq!(memory.as_slice::<()>().len(), 0);
}

#[test]
fn a_user_vec_does_what_a_vec_does() {
    let seed = std::process::id();
    println!("seed {seed}");
    let mut random = seed;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 8
    };
    let (mut ours, mut theirs) = (UserVec::<u32>::new(), Vec::<u32>::new());
    for _ in 0..2000 {
        let value = next();
        match value % 5 {
            0 | 1 => {
                ours.push(value).expect("memory");
                theirs.push(value);
            }
            2 => {
                let values: Vec<u32> = (0..value % 700).collect();
                ours.extend_from_slice(&values).expect("memory");
                theirs.extend_from_slice(&values);
            }
            3 => {
                let length = theirs.len() + (value % 300) as usize;
                ours.resize(length, value).expect("memory");
                theirs.resize(length, value);
            }
            _ => {
                ours.truncate(theirs.len() / 2 + 100);
                theirs.truncate(theirs.len() / 2 + 100);
            }
        }
        assert!(ours.capacity() >= ours.len());
        assert_eq!(*ours, *theirs);
    }
    let length = ours.len();
    let memory = ours.into_memory().expect("it had some");
    let error = UserVec::<u64>::from_memory(UserMemory::new(1).expect("memory"), 513);
    assert!(matches!(error, Err(Error::OutOfRange { .. })));
    assert_eq!(*UserVec::<u32>::from_memory(memory, length).expect("as long"), *theirs);
}

#[test]
fn adopted_memory_stays_where_it_is_and_comes_back() {
    let memory = Private::new(600);
    memory.fill();
    assert_eq!(memory.seen_as(), "rw-p ");
    let adopted = memory.adopt(Writers::None).expect("it is ordinary memory");
    assert!(memory.seen_as().starts_with("rw-s /memfd:gpu-broker"), "{}", memory.seen_as());
    memory.assert_filled();
    assert_eq!((adopted.as_ptr(), adopted.size()), (memory.start, 600 * 4096));

    // Both ways: what others write is seen, what is written others see.
    rustix::io::pwrite(&adopted, &99_u64.to_ne_bytes(), 8).expect("a memfd");
    assert_eq!(memory.word(1).load(Ordering::Relaxed), 99);
    memory.word(1).store(7, Ordering::Relaxed);
    let mut bytes = [0; 8];
    rustix::io::pread(&adopted, &mut bytes, 8).expect("a memfd");
    assert_eq!(u64::from_ne_bytes(bytes), 7);

    let fd = std::os::fd::AsFd::as_fd(&adopted).try_clone_to_owned().expect("fds are left");
    adopted.restore().expect("memory");
    assert_eq!(memory.seen_as(), "rw-p ");
    memory.assert_filled();
    rustix::io::pwrite(&fd, &1_u64.to_ne_bytes(), 8).expect("a memfd");
    memory.assert_filled();

    drop(memory.adopt(Writers::None).expect("again"));
    assert_eq!(memory.seen_as(), "rw-p ", "dropping gives it back too");
    memory.assert_filled();
}

#[test]
fn detached_memory_keeps_its_contents_and_nothing_else_arrives() {
    let memory = Private::new(3);
    memory.fill();
    let mut adopted = memory.adopt(Writers::None).expect("it is ordinary memory");
    let mut own = UserMemory::new(8192).expect("memory");
    own.as_mut_slice::<u64>().fill(5);
    let old = [
        std::os::fd::AsFd::as_fd(&adopted).try_clone_to_owned().expect("fds are left"),
        own.fd(INSIDE).try_clone_to_owned().expect("fds are left"),
    ];
    adopted.detach().expect("memory");
    own.detach(INSIDE).expect("memory");
    for fd in old {
        rustix::io::pwrite(&fd, &[0xff; 8192], 0).expect("a memfd");
    }
    memory.assert_filled();
    assert!(own.as_slice::<u64>().iter().all(|word| *word == 5));
    drop(adopted);
    memory.assert_filled();
}

#[test]
fn read_only_memory_stays_read_only() {
    let memory = Private::new(2);
    memory.fill();
    // SAFETY: nobody writes to it while it is protected.
    unsafe { mprotect(memory.start, memory.size, MprotectFlags::READ) }.expect("mprotect");
    let adopted = memory.adopt(Writers::None).expect("it is ordinary memory");
    assert!(!adopted.is_writable());
    assert!(memory.seen_as().starts_with("r--s /memfd:"), "{}", memory.seen_as());
    let error = GpuAccess::ReadWrite.check(&adopted).expect_err("not even the program may");
    assert_eq!(error.errno(), 14, "{error}");
    GpuAccess::ReadOnly.check(&adopted).expect("as the program may");
    drop(adopted);
    assert_eq!(memory.seen_as(), "r--p ");
    memory.assert_filled();
}

#[test]
fn what_cannot_be_adopted_is_refused_and_stays() {
    let memory = Private::new(4);
    memory.fill();
    let try_adopt = |offset: usize, size: usize| {
        // SAFETY: the mapping is ours; what is not ours is refused, or the test fails.
        unsafe { AdoptedMemory::adopt(memory.start.wrapping_byte_add(offset), size, Writers::None) }
            .expect_err("it must be refused")
            .errno()
    };
    assert_eq!(try_adopt(0, 0), 22);
    assert_eq!(try_adopt(8, PAGE), 22);
    assert_eq!(try_adopt(0, 100), 22);
    assert_eq!(try_adopt(0, usize::MAX - 4095), 22);
    // SAFETY: a page of our own that nobody uses meanwhile.
    unsafe { mprotect(memory.start.wrapping_byte_add(PAGE), PAGE, MprotectFlags::empty()) }
        .expect("mprotect");
    assert_eq!(try_adopt(0, 2 * PAGE), 14, "not readable");
    // SAFETY: as above.
    unsafe { mprotect(memory.start.wrapping_byte_add(PAGE), PAGE, MprotectFlags::READ) }
        .expect("mprotect");
    assert_eq!(try_adopt(0, 2 * PAGE), 14, "not one protection");
    let both = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: as above.
    unsafe { mprotect(memory.start, memory.size, both) }.expect("mprotect");
    let adopted = memory.adopt(Writers::None).expect("it is ordinary memory");
    let again = memory.adopt(Writers::None).expect_err("it is shared already");
    assert!(again.to_string().contains("shared already"), "{again}");
    drop(adopted);
    memory.assert_filled();
}

#[test]
fn readers_find_the_contents_at_every_moment() {
    let memory = Private::new(64);
    memory.fill();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0_u64;
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                memory.assert_filled();
                rounds += 1;
            }
        });
        for _ in 0..300 {
            drop(memory.adopt(Writers::None).expect("it is ordinary memory"));
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("it always found them");
    });
}

/// Threads count in the memory while it is adopted and given back; answers how often they did, and
/// what they find.
fn count_meanwhile(writers: Writers) -> Result<(u64, u64), Error> {
    let memory = Private::new(64);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counters: Vec<_> = [0, 63 * PAGE / 8]
            .map(|index| {
                let (memory, stop) = (&memory, &stop);
                scope.spawn(move || {
                    let mut counted = 0_u64;
                    while !stop.load(Ordering::Relaxed) || counted == 0 {
                        memory.word(index).fetch_add(1, Ordering::Relaxed);
                        counted += 1;
                    }
                    (counted, memory.word(index).load(Ordering::Relaxed))
                })
            })
            .into();
        let result = (0..100).try_for_each(|_| memory.adopt(writers)?.restore());
        stop.store(true, Ordering::Relaxed);
        let counts = counters.into_iter().map(|counter| counter.join().expect("no panic"));
        let sums = counts.fold((0, 0), |sums, (counted, found)| (sums.0 + counted, sums.1 + found));
        result.map(|()| sums)
    })
}

#[test]
fn writers_that_are_held_lose_nothing() {
    match count_meanwhile(Writers::Held) {
        Ok((counted, found)) => assert_eq!(counted, found),
        // In containers whose seccomp filter forbids userfaultfd, the error must say so.
        Err(error) => {
            assert!(error.to_string().contains("userfaultfd"), "{error}");
            assert!([1, 22, 38].contains(&error.errno()), "{error}");
        }
    }
}

/// What the contract forbids and programs may do nevertheless: writes may be lost, and that is all.
#[test]
fn writers_that_are_not_held_may_lose_writes_and_nothing_else() {
    let (counted, found) = count_meanwhile(Writers::None).expect("it is ordinary memory");
    println!("{} of {counted} writes were lost", counted - found);
    assert!(found <= counted && found > 0, "{found} of {counted}");
}

/// Runs a function in the child of a fork; answers its result, a byte. The child must neither
/// allocate nor panic: other threads of the tests may have held locks.
fn in_child(function: impl FnOnce() -> u8) -> Child {
    // SAFETY: the child calls only what the caller gave, which keeps to that, and `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            let status = function();
            // SAFETY: ends the process, without handlers.
            unsafe { libc::_exit(status.into()) }
        }
        child => Child(child),
    }
}

struct Child(libc::pid_t);

impl Child {
    fn result(self) -> u8 {
        let pid = rustix::process::Pid::from_raw(self.0).expect("fork");
        let options = rustix::process::WaitOptions::empty();
        let (_, status) =
            rustix::process::waitpid(Some(pid), options).expect("our child").expect("it ended");
        let status = status.exit_status().expect("it was not killed");
        u8::try_from(status).expect("a byte")
    }
}

#[test]
fn a_child_has_a_private_copy_of_adopted_memory() {
    let memory = Private::new(300);
    memory.fill();
    let mut adopted = Some(memory.adopt(Writers::None).expect("it is ordinary memory"));
    let (go, may_go) = rustix::pipe::pipe().expect("fds are left");
    let child = in_child(|| {
        // Until the parent has written what the child must not see.
        let _ = rustix::io::read(&go, &mut [0]);
        for index in 0..memory.size / 8 {
            if memory.word(index).load(Ordering::Relaxed) != index as u64 * 7 {
                return 1;
            }
            memory.word(index).store(1, Ordering::Relaxed);
        }
        // What the parent would do on dropping must not be done here.
        adopted = None;
        if memory.word(5).load(Ordering::Relaxed) == 1 { 0 } else { 2 }
    });
    for index in 0..memory.size / 8 {
        memory.word(index).store(2, Ordering::Relaxed);
    }
    rustix::io::write(&may_go, &[1]).expect("the child reads");
    assert_eq!(child.result(), 0);
    assert!(adopted.is_some());
    assert!((0..memory.size / 8).all(|index| memory.word(index).load(Ordering::Relaxed) == 2));
    assert!(memory.seen_as().starts_with("rw-s"), "here it stays adopted");
}

#[test]
fn a_child_has_none_of_the_memory_the_library_made() {
    let mut memory = Some(UserMemory::new(3 << 20).expect("memory"));
    let slice = memory.as_ref().map(UserMemory::as_slice::<u8>).expect("just made");
    let start = NonNull::from(slice).cast::<c_void>();
    let child = in_child(|| {
        // SAFETY: msync changes nothing; it fails with ENOMEM where nothing is mapped.
        let there =
            unsafe { rustix::mm::msync(start.as_ptr(), 4096, rustix::mm::MsyncFlags::ASYNC) };
        // Must not unmap what may lie there by now: something does.
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: never replaces a mapping.
        let other = unsafe { mmap_anonymous(start.as_ptr(), 4096, both, flags) };
        memory = None;
        // SAFETY: as above.
        let kept =
            unsafe { rustix::mm::msync(start.as_ptr(), 4096, rustix::mm::MsyncFlags::ASYNC) };
        match (there, other, kept) {
            (Err(Errno::NOMEM), Ok(_), Ok(())) => 0,
            (Ok(()), _, _) => 1,
            (_, Err(_), _) => 2,
            _ => 3,
        }
    });
    assert_eq!(child.result(), 0);
    assert!(memory.is_some());
}

/// Answers HELLO, a BUFFER_CREATE, and a PING; anything else fails. Nothing may come in between.
fn serve(socket: &std::os::fd::OwnedFd) {
    use gpu_broker_protocol::message::{BufferCreated, Ping};
    use gpu_broker_protocol::{BufferId, FdSlot, Header, Opcode, Reply, codec};
    let replies: [(Opcode, Reply<FdSlot>); 3] = [
        (Opcode::Hello, Reply::Hello(crate::proto::tests::sample_hello())),
        (Opcode::BufferCreate, Reply::BufferCreate(BufferCreated { buffer: BufferId(7), size: 1 })),
        (Opcode::Ping, Reply::Ping(Ping { payload: 3, fd: None })),
    ];
    let mut packet = [0; 256];
    for (opcode, reply) in replies {
        let flags = rustix::net::RecvFlags::empty();
        let (_, length) = rustix::net::recv(socket, &mut packet[..], flags).expect("a request");
        let (header, _) = Header::split(&packet[..length]).expect("a header");
        assert_eq!(header.opcode, opcode as u16);
        let mut out = Vec::new();
        codec::encode_reply(header.seq, &reply, &mut out).expect("it fits");
        rustix::net::send(socket, &out, rustix::net::SendFlags::empty()).expect("the client reads");
    }
}

#[test]
fn a_child_says_nothing_in_its_parents_session() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (ours, theirs) = socketpair(family, kind, SocketFlags::CLOEXEC, None).expect("sockets");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&theirs));
        let broker = crate::Connection::from_fd(ours, "parent").expect("welcome");
        let mut buffer = Some(broker.create_buffer(1).expect("it is answered"));
        let child = in_child(|| {
            buffer = None;
            match broker.ping(1) {
                Err(Error::Forked) => 0,
                _ => 1,
            }
        });
        assert_eq!(child.result(), 0);
        assert_eq!(broker.ping(3).expect("the session goes on here"), 3);
        server.join().expect("only what the parent said came");
        // Nobody would answer the closing.
        std::mem::forget(buffer);
    });
}
