//! What a client's own memory costs on the GPU, beside a buffer of the daemon's.

use std::time::{Duration, Instant};

use gpu_broker_client::{Connection, GpuAccess, UserBuffer, UserMemory};

use super::failure::Failure;
use super::round_trips::RoundTrips;
use super::stats::Figure;
use super::work::{Work, submit};

/// MiB of the memory that is registered.
const MIB: u32 = 64;
const BYTES: u64 = (MIB as u64) << 20;
/// Registrations of one slice.
const REGISTRATIONS_PER_SLICE: u32 = 4;

/// Whose memory an EXECBUF names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A buffer that the daemon made.
    Buffer,
    /// The client's.
    Userptr,
}

/// EXECBUF of an empty batch and one more object.
///
/// # Errors
/// The daemon refused.
pub(super) fn execbuf(trips: RoundTrips<'_>, kind: Kind) -> Result<Figure, Failure> {
    let connection = trips.rig.connect()?;
    let work = Work::prepare(&connection, 1)?;
    match kind {
        Kind::Buffer => {
            let buffer =
                connection.create_buffer(BYTES).map_err(Failure::broker("BUFFER_CREATE"))?;
            // As touched as the client's memory is.
            buffer.map().map_err(Failure::broker("mapping a buffer"))?.fill(1);
            let mut execbuf = work.execbuf_with(buffer.handle())?;
            trips.repeat(|| submit(&mut execbuf))
        }
        Kind::Userptr => {
            let memory = register_memory(&connection, filled()?)?;
            let mut execbuf = work.execbuf_with(memory.handle())?;
            trips.repeat(|| submit(&mut execbuf))
        }
    }
}

/// INVALIDATE while the GPU is idle.
///
/// # Errors
/// The daemon refused.
pub(super) fn invalidate(trips: RoundTrips<'_>) -> Result<Figure, Failure> {
    let connection = trips.rig.connect()?;
    let work = Work::prepare(&connection, 1)?;
    let memory = register_memory(&connection, filled()?)?;
    submit(&mut work.execbuf_with(memory.handle())?)?;
    trips.repeat(|| invalidate_all(&memory))
}

/// INVALIDATE, then EXECBUF, which needs the pages anew.
///
/// # Errors
/// The daemon refused.
pub(super) fn repin(trips: RoundTrips<'_>) -> Result<Figure, Failure> {
    let connection = trips.rig.connect()?;
    let work = Work::prepare(&connection, 1)?;
    let memory = register_memory(&connection, filled()?)?;
    let mut execbuf = work.execbuf_with(memory.handle())?;
    trips.repeat(|| {
        invalidate_all(&memory)?;
        submit(&mut execbuf)
    })
}

/// Registering memory and naming it in an EXECBUF for the first time, per MiB. Taking it back is
/// not timed.
///
/// # Errors
/// The daemon refused.
pub(super) fn register(trips: RoundTrips<'_>) -> Result<Figure, Failure> {
    let connection = trips.rig.connect()?;
    let work = Work::prepare(&connection, 1)?;
    let mut memory = Some(filled()?);
    trips.slices(|| {
        let mut sum = Duration::ZERO;
        for _ in 0..REGISTRATIONS_PER_SLICE {
            let own = memory.take().ok_or(Failure::Unexpected("the memory is gone"))?;
            let started = Instant::now();
            let buffer = register_memory(&connection, own)?;
            submit(&mut work.execbuf_with(buffer.handle())?)?;
            sum += started.elapsed();
            let own = buffer.unregister(None);
            memory = Some(own.map_err(|kept| Failure::broker("USERPTR_INVALIDATE")(kept.error))?);
        }
        Ok(sum / (REGISTRATIONS_PER_SLICE * MIB))
    })
}

/// Memory of which every page is there.
fn filled() -> Result<UserMemory, Failure> {
    let mut memory = UserMemory::new(BYTES).map_err(Failure::broker("making memory"))?;
    memory.as_mut_slice::<u8>().fill(1);
    Ok(memory)
}

fn register_memory(connection: &Connection, memory: UserMemory) -> Result<UserBuffer, Failure> {
    let registered = memory.register(connection, GpuAccess::ReadWrite);
    registered.map_err(|kept| Failure::broker("USERPTR_CREATE")(kept.error))
}

fn invalidate_all(memory: &UserBuffer) -> Result<(), Failure> {
    let buffer = memory.buffer();
    buffer.invalidate(0, BYTES, None).map_err(Failure::broker("USERPTR_INVALIDATE"))
}
