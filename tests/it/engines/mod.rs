//! How the engines of a real daemon are shared between sessions: turns, priorities, hangs and who
//! pays for them, and what becomes of work whose owner is gone.
//!
//! Every fence a test was given is waited for, and the daemon must hold in the end what it held
//! before: fds, mappings, contexts, batches.

mod hangs;
mod lifetimes;
mod schedule;
mod shares;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::{Buffer, Connection, Execbuf, Fence, FenceState};
use gpu_broker_protocol::param::{EngineId, class};
use gpu_broker_tests::{Daemon, PATIENCE, Witness, eventually};

const RENDER: EngineId = EngineId { class: class::RENDER, instance: 0 };
const COPY: EngineId = EngineId { class: class::COPY, instance: 0 };
const VIDEO: EngineId = EngineId { class: class::VIDEO, instance: 0 };
const VIDEO1: EngineId = EngineId { class: class::VIDEO, instance: 1 };
const ENHANCE: EngineId = EngineId { class: class::VIDEO_ENHANCE, instance: 0 };
const ENGINES: [EngineId; 5] = [RENDER, COPY, VIDEO, VIDEO1, ENHANCE];

/// Where the tests put batches, and what they write.
const BATCH: u64 = 0x10_0000;
const TARGET: u64 = 0x20_0000;
const GATE: u64 = 0x30_0000;

/// How work ends that was lost.
const LOST: FenceState = FenceState::Failed(gpu_broker_protocol::refusal::errno::EIO);

/// Runs a test against a daemon, and looks at what is left.
fn on_daemon(test: impl FnOnce(&Daemon)) {
    let mut daemon = Daemon::start();
    // What is allocated once and kept is not a leak: let the daemon have it before the count.
    Witness::start(daemon.socket()).finish();
    let before = daemon.footprint();
    test(&daemon);
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

fn connect(daemon: &Daemon, name: &str) -> Connection {
    Connection::connect(daemon.socket(), name).expect("the daemon serves")
}

/// A page of the GPU's.
fn page(broker: &Connection) -> Buffer {
    broker.create_buffer(4096).expect("there is room")
}

/// A page with these commands.
fn program(broker: &Connection, commands: &Batch) -> Buffer {
    let buffer = page(broker);
    let memory = buffer.map().expect("fds are left");
    memory.write_dwords(0, commands.dwords()).expect("it fits");
    buffer
}

/// The same memory in another session.
fn shared(buffer: &Buffer, with: &Connection) -> Buffer {
    let fd = buffer.export().expect("fds are left");
    with.import_buffer(fd).expect("it is a buffer of this daemon")
}

fn read(buffer: &Buffer, at: u64) -> u32 {
    buffer.map().expect("fds are left").load_u32(at).expect("it is inside")
}

fn write(buffer: &Buffer, at: u64, value: u32) {
    buffer.map().expect("fds are left").store_u32(at, value).expect("it is inside");
}

fn submit(work: Execbuf<'_>) -> Fence {
    let submission = work.fence_out().submit().expect("it is all legal");
    submission.fence.expect("a fence was asked for")
}

/// How the work behind a fence ended.
#[track_caller]
fn outcome(fence: &Fence) -> FenceState {
    let state = fence.wait(Some(PATIENCE)).expect("the daemon lives");
    assert_ne!(state, FenceState::Pending, "the fence never signals");
    state
}

fn state(fence: &Fence) -> FenceState {
    fence.status().expect("no round trip")
}

/// Batches that were found guilty, by engine.
fn faults(daemon: &Daemon) -> Vec<u64> {
    daemon.status().engines.iter().map(|engine| engine.faults).collect()
}

/// A process with an endless batch on one engine: `tests/src/bin/spinner.rs`.
struct Spinner {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Spinner {
    /// Starts it; its batch is submitted, though it may not have begun to run.
    fn start(daemon: &Daemon, engine: EngineId, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_spinner"))
            .arg(daemon.socket())
            .arg(format!("{}:{}", engine.class, engine.instance))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the spinner can be started");
        let commands = child.stdin.take().expect("it is a pipe");
        let output = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let (sender, answers) = channel();
        // A thread, so that a spinner that says nothing cannot hold up the test for ever.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let spinner = Self { child, commands, answers };
        assert_eq!(spinner.answer(), "submitted");
        spinner
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("the spinner answers")
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").expect("the spinner listens");
        self.answer()
    }

    fn rounds(&mut self) -> u32 {
        self.ask("rounds").parse().expect("a number")
    }

    /// Waits until its batch has made another round.
    fn goes_on(&mut self) {
        let before = self.rounds();
        eventually("the endless batch has its turns", || (self.rounds() != before).then_some(()));
    }

    /// Has the batch end itself, and waits for that.
    fn end(&mut self) {
        assert_eq!(self.ask("end"), "ended");
        assert_eq!(self.ask("wait"), "ok", "how the batch that the CPU ended ended");
    }

    /// Kills the process, as `kill -9` does.
    fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // Killed already, or the test is over.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Time that a busy machine may take between two steps of a test.
const BREATH: Duration = Duration::from_millis(50);
