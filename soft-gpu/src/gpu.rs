//! The software GPU: five engines, each with its own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Shared, Time};
use crate::hardware::{Clock as _, ENGINES};
use crate::scheduler::Limits;

/// How the GPU schedules. The default is what the kernel does (rule table §12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Turn of a batch among batches of equal priority.
    pub timeslice: Duration,
    /// Running time of a batch without an arbitration point.
    pub hang_timeout: Duration,
    /// Running and waiting time of a batch.
    pub request_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            timeslice: Duration::from_nanos(limits.timeslice_ns),
            hang_timeout: Duration::from_nanos(limits.hang_ns),
            request_timeout: Duration::from_nanos(limits.request_ns),
        }
    }
}

impl From<Config> for Limits {
    fn from(config: Config) -> Self {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            timeslice_ns: ns(config.timeslice),
            hang_ns: ns(config.hang_timeout),
            request_ns: ns(config.request_timeout),
        }
    }
}

/// The engines of a GPU. Dropping the last clone does not stop the threads: see [`Gpu::stop`].
#[derive(Clone, Debug)]
pub struct Gpu {
    engines: Arc<[Engine]>,
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
            .map(|(bit, spec)| Engine::new(spec, bit, Arc::clone(&shared), config.into()));
        let gpu = Self { engines: engines.collect(), shared };
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
