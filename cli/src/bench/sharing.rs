//! How sessions share an engine, and what batches that wait cost the processor.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::protocol::param::{EngineId, class};
use gpu_broker_client::{Buffer, Connection, Context};

use super::failure::Failure;
use super::rig::Rig;
use super::stats::{Figure, median};
use super::work::Work;

const RENDER: EngineId = EngineId { class: class::RENDER, instance: 0 };
/// Every engine of the software device.
const ENGINES: [EngineId; 5] = [
    RENDER,
    EngineId { class: class::COPY, instance: 0 },
    EngineId { class: class::VIDEO, instance: 0 },
    EngineId { class: class::VIDEO, instance: 1 },
    EngineId { class: class::VIDEO_ENHANCE, instance: 0 },
];
/// Contexts of a crowd, and batches queued in each: a thousand.
const CONTEXTS: u32 = 200;
const BATCHES: u32 = 5;
/// Addresses.
const BATCH: u64 = 0x10_0000;
const TARGET: u64 = 0x20_0000;
/// Pause of the sporadic client between its batches.
const PAUSE: Duration = Duration::from_millis(5);
const NOTHING: Failure = Failure::Unexpected("nothing ran in the time there was");

/// A session with endless batches.
struct Endless {
    connection: Connection,
    engine: EngineId,
    _contexts: Vec<Context>,
    _buffers: [Buffer; 2],
}

/// What an endless batch does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Writes to memory.
    Writes,
    /// Nothing.
    Idle,
}

impl Endless {
    /// So many contexts with so many batches each.
    fn start(
        rig: &Rig,
        (engine, priority): (EngineId, i32),
        (contexts, batches): (u32, u32),
        round: Round,
    ) -> Result<Self, Failure> {
        let connection = rig.connect()?;
        let make = || connection.create_buffer(4096).map_err(Failure::broker("BUFFER_CREATE"));
        let (batch, target) = (make()?, make()?);
        let mut commands = Batch::new();
        commands.arbitration_check();
        if round == Round::Writes {
            (0..16).for_each(|value| _ = commands.store_dword(TARGET, value));
        }
        commands.jump(BATCH);
        let memory = batch.map().map_err(Failure::broker("mapping the batch"))?;
        memory.write_dwords(0, commands.dwords()).map_err(Failure::broker("writing the batch"))?;
        let mut made = Vec::new();
        for _ in 0..contexts {
            let context = connection.context().engines(&[engine]).priority(priority).create();
            let context = context.map_err(Failure::broker("CONTEXT_CREATE"))?;
            for _ in 0..batches {
                let work = context.execbuf().object_at(&target, TARGET).write().asynchronous();
                let submitted = work.batch_at(&batch, BATCH).submit();
                submitted.map_err(Failure::broker("EXECBUF"))?;
            }
            made.push(context);
        }
        Ok(Self { connection, engine, _contexts: made, _buffers: [batch, target] })
    }

    /// Nanoseconds it had of its engine's class.
    fn had_ns(&self) -> Result<u64, Failure> {
        let usage = self.connection.usage(None).map_err(Failure::broker("USAGE"))?;
        let of_class = usage.engines.iter().find(|engine| engine.class == self.engine.class);
        of_class.map(|engine| engine.busy_ns).ok_or(NOTHING)
    }
}

/// Seconds each of two sessions had in the time.
fn contest(first: &Endless, second: &Endless, time: Duration) -> Result<[f64; 2], Failure> {
    let times = || -> Result<[u64; 2], Failure> { Ok([first.had_ns()?, second.had_ns()?]) };
    let before = times()?;
    thread::sleep(time);
    let after = times()?;
    let had = [0, 1].map(|at| Duration::from_nanos(after[at] - before[at]).as_secs_f64());
    if had.iter().sum::<f64>() > 0.0 { Ok(had) } else { Err(NOTHING) }
}

/// How much more of an engine one of two sessions of equal priority gets, of which one has a
/// thousand batches queued and the other a single one.
///
/// # Errors
/// The daemon failed.
pub(super) fn equal_share(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let crowd = Endless::start(rig, (RENDER, 0), (CONTEXTS, BATCHES), Round::Writes)?;
    let lone = Endless::start(rig, (RENDER, 0), (1, 1), Round::Writes)?;
    let [crowd, lone] = contest(&crowd, &lone, time)?;
    Ok(Figure { value: crowd.max(lone) / crowd.min(lone), ratio: None })
}

/// Per cent of the engine that a session gets beside another of lower priority.
///
/// # Errors
/// The daemon failed.
pub(super) fn priority_share(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let low = Endless::start(rig, (RENDER, -500), (1, 1), Round::Writes)?;
    let high = Endless::start(rig, (RENDER, 0), (1, 1), Round::Writes)?;
    let [low, high] = contest(&low, &high, time)?;
    Ok(Figure { value: 100.0 * high / (low + high), ratio: None })
}

/// Milliseconds, the median, until an empty batch of a client that comes now and then is done,
/// beside a session with a thousand batches queued on the same engine.
///
/// # Errors
/// The daemon failed.
pub(super) fn sporadic_latency(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let _crowd = Endless::start(rig, (RENDER, 0), (CONTEXTS, BATCHES), Round::Writes)?;
    let work = Work::prepare(&rig.connect()?, 1)?;
    let deadline = Instant::now() + time;
    let mut millis = Vec::new();
    while millis.is_empty() || Instant::now() < deadline {
        thread::sleep(PAUSE);
        let began = Instant::now();
        let submitted = work.execbuf()?.fence_out().submit().map_err(Failure::broker("EXECBUF"))?;
        let fence = submitted.fence.ok_or(Failure::Unexpected("EXECBUF gave no fence"))?;
        fence.wait(None).map_err(Failure::broker("waiting for a fence"))?;
        millis.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Figure { value: median(&millis).ok_or(NOTHING)?, ratio: None })
}

/// Per cent of a processor that the daemon uses while ten batches go round on five engines for ever
/// and do nothing.
///
/// # Errors
/// The daemon failed.
pub(super) fn spinners_cpu(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let mut spinners = Vec::new();
    for engine in ENGINES.into_iter().chain(ENGINES) {
        spinners.push(Endless::start(rig, (engine, 0), (1, 1), Round::Idle)?);
    }
    let figure = cpu(rig, time);
    drop(spinners);
    figure
}

/// Per cent of a processor that the daemon uses while a client is connected and does nothing.
///
/// # Errors
/// The daemon failed.
pub(super) fn idle_cpu(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let _client = Work::prepare(&rig.connect()?, 1)?;
    // Until what it started with is done.
    thread::sleep(Duration::from_millis(20));
    cpu(rig, time)
}

fn cpu(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let (began, before) = (Instant::now(), cpu_ns(rig.pid())?);
    thread::sleep(time);
    let used = Duration::from_nanos(cpu_ns(rig.pid())?.saturating_sub(before));
    let value = 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
    Ok(Figure { value, ratio: None })
}

/// Nanoseconds the threads of a process had processors.
fn cpu_ns(pid: u32) -> Result<u64, Failure> {
    let failed = || Failure::io("reading the daemon's processor time");
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(failed())? {
        let path = task.map_err(failed())?.path().join("schedstat");
        let text = fs::read_to_string(path).map_err(failed())?;
        let ns = text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        sum += ns.ok_or(Failure::Unexpected("schedstat has no number"))?;
    }
    Ok(sum)
}
