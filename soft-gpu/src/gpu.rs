//! The software GPU: five engines, each with its own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::engine::{Engine, Shared, Time};
use crate::hardware::{Clock as _, ENGINES};
use crate::scheduler::Limits;

/// How the GPU schedules. The default is what the kernel does (rule table §12).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Time limits of each engine, in the order of [`ENGINES`].
    pub engines: [Limits; ENGINES.len()],
    /// What a batch that dies takes with it.
    pub reset: ResetScope,
}

/// How much is reset when a batch dies; what the kernel's module parameter `reset` chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ResetScope {
    /// The engine it ran on. Nobody else notices.
    #[default]
    Engine,
    /// All engines: what runs on the others, innocent, starts again from its beginning.
    Device,
}

impl Config {
    /// The same limits for all engines.
    #[must_use]
    pub const fn uniform(limits: Limits) -> Self {
        Self { engines: [limits; ENGINES.len()], reset: ResetScope::Engine }
    }
}

impl Config {
    /// Limits that depend on the class of the engine.
    pub fn by_class(reset: ResetScope, limits: impl Fn(u16) -> Limits) -> Self {
        Self { engines: ENGINES.map(|spec| limits(spec.class)), reset }
    }
}

/// The engines of a GPU. Dropping the last clone does not stop the threads: see [`Gpu::stop`].
#[derive(Clone, Debug)]
pub struct Gpu {
    engines: Arc<[Engine]>,
    scope: ResetScope,
    shared: Arc<Shared>,
}

/// The threads of a GPU; dropping it cancels all jobs, waits until they are over and ends the
/// threads. It must not be dropped on one of them.
#[derive(Debug)]
pub struct Threads {
    gpu: Gpu,
    threads: Vec<JoinHandle<()>>,
}

impl Gpu {
    /// Starts the engines, in the order of [`ENGINES`].
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(config: Config) -> std::io::Result<Threads> {
        let shared = Arc::new(Shared {
            time: Time(Instant::now()),
            waiters: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
        });
        let engines = (0u32..)
            .zip(ENGINES)
            .zip(config.engines)
            .map(|((bit, spec), limits)| Engine::new(spec, bit, Arc::clone(&shared), limits));
        let gpu = Self { engines: engines.collect(), scope: config.reset, shared };
        let mut threads = Threads { gpu: gpu.clone(), threads: Vec::with_capacity(ENGINES.len()) };
        for index in 0..gpu.engines.len() {
            let engines = Arc::clone(&gpu.engines);
            let name = format!("gpu-{}", engines[index].spec().name);
            let thread = thread::Builder::new().name(name).spawn(move || engines[index].run())?;
            threads.threads.push(thread);
        }
        Ok(threads)
    }

    /// The engines, in the order of [`ENGINES`].
    #[must_use]
    pub fn engines(&self) -> &[Engine] {
        &self.engines
    }

    /// Ticks of the timestamp clock.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.shared.time.ticks()
    }

    /// A moment on the clock of [`Span`](crate::engine::Span).
    #[must_use]
    pub fn moment(&self, ns: u64) -> Instant {
        self.shared.time.0 + std::time::Duration::from_nanos(ns)
    }

    /// The CPU or a batch changed memory that waiting batches may look at: polls them soon.
    pub fn memory_changed(&self) {
        let waiters = self.shared.waiters.load(Ordering::Relaxed);
        if waiters != 0 {
            for (index, engine) in self.engines.iter().enumerate() {
                if waiters & (1 << index) != 0 {
                    engine.hasten();
                }
            }
        }
    }

    /// The batch that had engine `guilty` died: resets what [`Config::reset`] says. The engine
    /// itself is free already; whoever has another one hears of it by
    /// [`Work::reset`](crate::engine::Work::reset). Call it without locks.
    pub fn reset(&self, guilty: usize) {
        if self.scope == ResetScope::Device {
            let others = self.engines.iter().enumerate().filter(|(index, _)| *index != guilty);
            others.for_each(|(_, engine)| engine.reset());
        }
    }

    /// Whether [`Self::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// Cancels all jobs. Jobs that come later are handed back. The threads end once everything is
    /// over.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        for engine in self.engines.iter() {
            engine.stop();
        }
    }
}

impl Threads {
    /// What the threads run.
    #[must_use]
    pub const fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.gpu.stop();
        for thread in self.threads.drain(..) {
            // An engine's thread does not panic; if it did, the message is out already.
            let _ = thread.join();
        }
    }
}
