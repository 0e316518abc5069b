//! Submissions of thousands of objects, as a driver makes them that names all it has each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gpu_broker_client::Connection;
use gpu_broker_client::protocol::execbuf::{
    ExecObject, ExecbufHead, ExecbufLists, flag, object_flag,
};

use super::failure::Failure;
use super::neighbours::worst_ping;
use super::rig::Rig;
use super::round_trips::RoundTrips;
use super::stats::Figure;
use super::work::Work;

/// Submissions of one slice.
const SUBMISSIONS_PER_SLICE: u32 = 8;
/// Objects of the one that others wait beside: as many as can lie anywhere.
const LONG: usize = 8190;

/// Objects that know where they are, the last of which is an empty batch.
struct Large {
    _work: Work,
    connection: Connection,
    head: ExecbufHead,
    objects: Vec<ExecObject>,
}

impl Large {
    fn prepare(connection: &Connection, objects: usize) -> Result<Self, Failure> {
        let work = Work::prepare(connection, objects)?;
        let head = ExecbufHead {
            context: work.context().id().0,
            flags: flag::NO_RELOC | flag::HANDLE_LUT,
            ..ExecbufHead::default()
        };
        let object = |handle| ExecObject {
            handle,
            flags: object_flag::SUPPORTS_48B,
            ..ExecObject::default()
        };
        let objects = work.handles().map(object).collect();
        let mut large = Self { _work: work, connection: connection.clone(), head, objects };
        let addresses = large.submit()?;
        for (object, address) in large.objects.iter_mut().zip(addresses) {
            object.offset = address;
        }
        Ok(large)
    }

    fn submit(&self) -> Result<Vec<u64>, Failure> {
        let lists = ExecbufLists { objects: &self.objects, ..ExecbufLists::default() };
        let reply = self.connection.execbuf(&self.head, &lists, None);
        Ok(reply.map_err(Failure::broker("EXECBUF"))?.offsets)
    }

    /// Something about the object in the middle is new.
    fn change(&mut self) {
        let middle = self.objects.len() / 2;
        self.objects.get_mut(middle).into_iter().for_each(|one| one.flags ^= object_flag::ASYNC);
    }
}

/// EXECBUF of an empty batch with so many objects; with `changes`, one of them is new each time.
///
/// # Errors
/// The daemon refused.
pub(super) fn execbuf(
    trips: RoundTrips<'_>,
    objects: usize,
    changes: bool,
) -> Result<Figure, Failure> {
    let mut large = Large::prepare(&trips.rig.connect()?, objects)?;
    trips.slices(|| {
        let started = Instant::now();
        for _ in 0..SUBMISSIONS_PER_SLICE {
            if changes {
                large.change();
            }
            large.submit()?;
        }
        Ok(started.elapsed() / SUBMISSIONS_PER_SLICE)
    })
}

/// Milliseconds of the slowest PING of a client that calls once in a while, beside one that submits
/// thousands of objects again and again.
///
/// # Errors
/// The daemon failed.
pub(super) fn neighbour_worst(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let mut large = Large::prepare(&rig.connect()?, LONG)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let submitting = move || {
        while !stopped.load(Ordering::Relaxed) {
            large.change();
            large.submit()?;
        }
        Ok(())
    };
    let thread = thread::Builder::new().spawn(submitting);
    let thread = thread.map_err(Failure::io("starting the other client"))?;
    let figure = worst_ping(&rig.connect()?, time);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap_or(Err(Failure::Unexpected("the other client's thread panicked")))?;
    figure
}
