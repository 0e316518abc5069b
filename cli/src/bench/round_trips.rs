//! Round trips: the daemon, the reference and the client on one processor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use gpu_broker_client::{Connection, Context};
use rustix::fs::{MemfdFlags, memfd_create};

use super::echo::Echo;
use super::failure::Failure;
use super::rig::Rig;
use super::stats::{Figure, Slices};
use super::work::{Work, submit};

/// Round trips of one slice. At about 4 µs each a slice is much shorter than what the scheduler
/// gives a process at a time, so most slices are undisturbed even on a machine that is not idle.
const TRIPS_PER_SLICE: u32 = 128;
/// Connections of one slice; each takes the time of several round trips.
const CONNECTIONS_PER_SLICE: u32 = 16;
/// Slices before the clock counts, to fill caches and finish what happens once.
const WARM_UP_SLICES: u32 = 8;
/// Fewer slices make no median.
const SLICES_MIN: usize = 9;

/// What a round trip is measured with.
pub(super) struct RoundTrips<'a> {
    /// The daemon.
    pub(super) rig: &'a Rig,
    /// What it is measured beside.
    pub(super) echo: &'a mut Echo,
    /// How long to measure.
    pub(super) time: Duration,
}

impl RoundTrips<'_> {
    /// The reference beside itself: its time, and a ratio that says how much of the others is noise.
    pub(super) fn reference(self) -> Result<Figure, Failure> {
        let mut second = Echo::start().map_err(Failure::io("starting the reference"))?;
        self.slices(|| second.slice(TRIPS_PER_SLICE).map_err(reference_failed()))
    }

    /// PING.
    pub(super) fn ping(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        self.repeat(|| connection.ping(1).map(drop).map_err(Failure::broker("PING")))
    }

    /// Connecting and HELLO. The PING beside it is not timed: when it is answered, the daemon has
    /// put the previous session away, which is not part of connecting.
    pub(super) fn hello(self) -> Result<Figure, Failure> {
        let rig = self.rig;
        let other = rig.connect()?;
        self.slices(|| {
            let mut sum = Duration::ZERO;
            for _ in 0..CONNECTIONS_PER_SLICE {
                let started = Instant::now();
                let connection = rig.connect()?;
                sum += started.elapsed();
                drop(connection);
                other.ping(0).map_err(Failure::broker("PING"))?;
            }
            Ok(sum / CONNECTIONS_PER_SLICE)
        })
    }

    /// CONTEXT_CREATE and CONTEXT_DESTROY; the figure is for one of the two.
    pub(super) fn create_destroy(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let pair = self.repeat(|| {
            let context = create_context(&connection)?;
            context.destroy().map_err(Failure::broker("CONTEXT_DESTROY"))
        })?;
        Ok(Figure { value: pair.value / 2.0, ratio: pair.ratio.map(|ratio| ratio / 2.0) })
    }

    /// CONTEXT_SETPARAM of a context that stays a proto-context.
    pub(super) fn set_param(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let context = create_context(&connection)?;
        self.set_priority(&context)
    }

    /// CONTEXT_SETPARAM of a context that is on the device.
    pub(super) fn set_param_live(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let work = Work::prepare(&connection, 1)?;
        self.set_priority(work.context())
    }

    /// EXECBUF of an empty batch with this many buffers.
    pub(super) fn execbuf(self, buffers: usize) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let work = Work::prepare(&connection, buffers)?;
        let mut execbuf = work.execbuf()?;
        self.repeat(|| submit(&mut execbuf))
    }

    /// EXECBUF of an empty batch that gives a fence.
    pub(super) fn execbuf_fenced(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let work = Work::prepare(&connection, 1)?;
        let mut execbuf = work.execbuf()?.fence_out();
        self.repeat(|| submit(&mut execbuf))
    }

    /// BUFFER_BUSY of a buffer that was used and is idle.
    pub(super) fn buffer_busy(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let work = Work::prepare(&connection, 1)?;
        let failed = || Failure::broker("BUFFER_BUSY");
        let buffer = work.batch()?;
        self.repeat(|| buffer.busy().map(drop).map_err(failed()))
    }

    /// CONTEXT_RESET_STATS of a context that never hung.
    pub(super) fn reset_stats(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let work = Work::prepare(&connection, 1)?;
        let context = work.context();
        let failed = || Failure::broker("CONTEXT_RESET_STATS");
        self.repeat(|| context.reset_stats().map(drop).map_err(failed()))
    }

    /// PING with an fd each way.
    pub(super) fn fd_call(self) -> Result<Figure, Failure> {
        let connection = self.rig.connect()?;
        let file = memfd_create(c"gpu-broker bench", MemfdFlags::CLOEXEC)
            .map_err(Failure::io("making a memfd"))?;
        self.repeat(|| {
            connection
                .ping_fd(1, file.as_fd())
                .map(drop)
                .map_err(Failure::broker("PING with an fd"))
        })
    }

    fn set_priority(self, context: &Context) -> Result<Figure, Failure> {
        let mut priority = 0;
        self.repeat(|| {
            priority = -1 - priority;
            context.set_priority(priority).map_err(Failure::broker("CONTEXT_SETPARAM"))
        })
    }

    /// Repeats a call until the time is up.
    ///
    /// # Errors
    /// Those of the call; the reference failed.
    pub(super) fn repeat(
        self,
        mut call: impl FnMut() -> Result<(), Failure>,
    ) -> Result<Figure, Failure> {
        self.slices(|| {
            let started = Instant::now();
            for _ in 0..TRIPS_PER_SLICE {
                call()?;
            }
            Ok(started.elapsed() / TRIPS_PER_SLICE)
        })
    }

    /// Alternates slices with slices of the reference until the time is up. `slice` answers what
    /// one call took.
    ///
    /// # Errors
    /// Those of the slice; the reference failed.
    pub(super) fn slices(
        self,
        mut slice: impl FnMut() -> Result<Duration, Failure>,
    ) -> Result<Figure, Failure> {
        let mut reference = || self.echo.slice(TRIPS_PER_SLICE).map_err(reference_failed());
        for _ in 0..WARM_UP_SLICES {
            slice()?;
            reference()?;
        }
        let mut slices = Slices::default();
        let deadline = Instant::now() + self.time;
        let mut before = reference()?;
        while slices.len() < SLICES_MIN || Instant::now() < deadline {
            let own = slice()?;
            let after = reference()?;
            slices.push(own, (before + after) / 2);
            before = after;
        }
        slices.figure().ok_or(Failure::Unexpected("there was no slice to take the median of"))
    }
}

fn create_context(connection: &Connection) -> Result<Context, Failure> {
    connection.context().create().map_err(Failure::broker("CONTEXT_CREATE"))
}

fn reference_failed() -> impl FnOnce(std::io::Error) -> Failure {
    Failure::io("measuring the reference")
}
