//! A client process with one endless batch, for tests that need a client to share an engine with,
//! to blame or to kill.
//!
//! `spinner SOCKET CLASS:INSTANCE [priority=N] [stubborn] [idle] [revoked] [own] [behind=N]` submits
//! a batch that counts its rounds for ever, and says "submitted". With `stubborn` nothing in it lets
//! another batch have the engine; with `idle` it does not count, and so changes nothing; with
//! `revoked` its context is not persistent; with `own` it counts in memory of this process; with
//! `behind` so many more of it are queued behind it.
//! Then it does what it reads from its standard input, line by line:
//!
//! * `rounds` answers how many rounds were made;
//! * `end` writes MI_BATCH_BUFFER_END into the loop, as the CPU, and answers `ended`;
//! * `wait` waits for the fences of all its batches and answers how each ended, `ok` or an errno;
//! * `stats` answers how often its context was found guilty, and innocent.

use std::io::stdin;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use gpu_broker_protocol::execbuf::{ExecbufHead, flag};
use gpu_broker_protocol::message::{
    ContextCreate, ContextResetStats, FenceState, FenceStatusQuery, ResetStats,
};
use gpu_broker_protocol::param::{
    ContextParam, CreateExtension, EngineId, EngineMap, Extension, create_flag, number,
};
use gpu_broker_protocol::userptr::UserptrCreate;
use gpu_broker_protocol::{ContextId, Reply, Request};
use gpu_broker_tests::{Batch, Raw, RawBuffer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags};

const BATCH: u64 = 0x10_0000;
const COUNTER: u64 = 0x20_0000;

/// What was asked for on the command line.
struct Wish {
    engine: EngineId,
    priority: i64,
    stubborn: bool,
    idle: bool,
    persistent: bool,
    own: bool,
    behind: u32,
}

struct Spinner {
    client: Raw,
    context: ContextId,
    batch: RawBuffer,
    counter: RawBuffer,
    fences: Vec<OwnedFd>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().expect("the first argument is the socket");
    let wish = Wish::of(arguments);
    let client = Raw::hello(Path::new(&socket), "spinner");
    let mut spinner = Spinner::start(client, &wish);
    println!("submitted");
    for line in stdin().lines() {
        match line.expect("the test writes text").as_str() {
            "rounds" => println!("{}", spinner.counter.dword(0)),
            "end" => {
                spinner.batch.write(0, &Batch::new().end().bytes());
                println!("ended");
            }
            "wait" => println!("{}", spinner.outcomes().join(" ")),
            "stats" => {
                let stats = spinner.stats();
                println!("{} {}", stats.batch_active, stats.batch_pending);
            }
            other => panic!("no such command: {other}"),
        }
    }
}

impl Wish {
    fn of(mut arguments: impl Iterator<Item = String>) -> Self {
        let engine = arguments.next().expect("the second argument is the engine");
        let (class, instance) = engine.split_once(':').expect("CLASS:INSTANCE");
        let number = |text: &str| text.parse().expect("a number");
        let engine = EngineId { class: number(class), instance: number(instance) };
        let mut wish = Self {
            engine,
            priority: 0,
            stubborn: false,
            idle: false,
            persistent: true,
            own: false,
            behind: 0,
        };
        for argument in arguments {
            match argument.split_once('=') {
                None if argument == "stubborn" => wish.stubborn = true,
                None if argument == "idle" => wish.idle = true,
                None if argument == "revoked" => wish.persistent = false,
                None if argument == "own" => wish.own = true,
                Some(("priority", value)) => wish.priority = value.parse().expect("a number"),
                Some(("behind", value)) => wish.behind = value.parse().expect("a number"),
                Some(_) | None => panic!("no such argument: {argument}"),
            }
        }
        wish
    }

    fn context(&self) -> ContextCreate {
        let map = EngineMap { slots: vec![self.engine], extensions: Vec::new() };
        let params = [
            ContextParam::engines(map),
            ContextParam::priority(self.priority),
            ContextParam::scalar(number::PERSISTENCE, self.persistent.into()),
        ];
        let extensions = params.map(|param| {
            let body = CreateExtension::SetParam { context: ContextId::DEFAULT, param };
            Extension::new(CreateExtension::SET_PARAM, body)
        });
        ContextCreate { flags: create_flag::USE_EXTENSIONS, extensions: extensions.into() }
    }
}

impl Spinner {
    fn start(mut client: Raw, wish: &Wish) -> Self {
        let Reply::ContextCreate(created) =
            client.call(Request::ContextCreate(wish.context())).reply()
        else {
            panic!("CONTEXT_CREATE was answered as something else")
        };
        let batch = client.create_buffer(4096);
        let counter = if wish.own { own_memory(&mut client) } else { client.create_buffer(4096) };
        let head = if wish.stubborn { Batch::new().noops(2) } else { yielding() };
        let round = if wish.idle { head } else { head.increment(COUNTER) };
        batch.write(0, &round.jump(BATCH).bytes());
        let mut spinner =
            Self { client, context: created.context, batch, counter, fences: Vec::new() };
        for _ in 0..=wish.behind {
            spinner.submit();
        }
        spinner
    }

    fn submit(&mut self) {
        let head = ExecbufHead {
            context: self.context.0,
            flags: flag::FENCE_OUT | flag::NO_RELOC,
            ..ExecbufHead::default()
        };
        let objects = [self.counter.pinned_for_writing(COUNTER), self.batch.pinned(BATCH)];
        let executed = self.client.execbuf(&head, &objects, &[]).executed();
        self.fences.push(executed.fence.expect("FENCE_OUT was asked for"));
    }

    fn outcomes(&mut self) -> Vec<String> {
        let mut outcomes = Vec::new();
        for fence in &self.fences {
            // Without a limit: the test that asked has one.
            let ready = poll(&mut [PollFd::new(fence, PollFlags::IN)], None);
            assert_eq!(ready, Ok(1), "polling a fence");
            let query = Request::FenceStatus(FenceStatusQuery { fd: fence.as_fd() });
            let Reply::FenceStatus(state) = self.client.call(query).reply() else {
                panic!("FENCE_STATUS was answered as something else")
            };
            outcomes.push(match state {
                FenceState::Pending => "pending".to_owned(),
                FenceState::Signalled => "ok".to_owned(),
                FenceState::Failed(errno) => errno.to_string(),
            });
        }
        outcomes
    }

    fn stats(&mut self) -> ResetStats {
        let query = ContextResetStats { context: self.context, flags: 0, pad: 0 };
        let message = self.client.call(Request::ContextResetStats(query));
        let Reply::ContextResetStats(stats) = message.reply() else {
            panic!("GET_RESET_STATS was answered as something else")
        };
        stats
    }
}

/// A page of this process, as a buffer.
fn own_memory(client: &mut Raw) -> RawBuffer {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("spinner", flags).expect("memory is left");
    rustix::fs::ftruncate(&memory, 4096).expect("a memfd");
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).expect("not sealed yet");
    let create = UserptrCreate { memfd: memory.as_fd(), offset: 0, length: 4096, flags: 0 };
    let Reply::UserptrCreate(made) = client.call(Request::UserptrCreate(create)).reply() else {
        panic!("USERPTR_CREATE was answered as something else")
    };
    RawBuffer { id: made.buffer, size: 4096, memory, offset: 0 }
}

/// The beginning of a round in which another batch may have the engine.
fn yielding() -> Batch {
    Batch::new().arbitration_point().noops(1)
}
