//! The blitter of bcs0: rectangles filled with a colour or copied, through a raster operation.
//!
//! A blit is cut into blocks of at most 16 KiB. Each block is read, combined and written as a
//! whole, so that tiling matters only while bytes move between memory and the block, and so that a
//! blit of gigabytes can stop between blocks.

mod blocks;
mod command;
mod raster;
mod surface;

#[cfg(test)]
mod tests;

use crate::fault::FaultCause;
use crate::registers::Registers;
use crate::streamer::{Command, MemoryBus};
use blocks::{BLOCK_BYTES, Blocks};
use raster::Raster;
use surface::{Area, Surface};

/// Cost units per byte of a block, as a shift: 16 per KiB.
const COST_SHIFT: u32 = 6;

/// The blitter's registers, and the blit under way.
#[derive(Debug, Default)]
pub(crate) struct Blitter {
    clip: Rectangle,
    /// BR16: what the last colour fill used; the pattern of raster operations that copy.
    colour: u32,
    job: Option<(Job, Blocks)>,
    command_dwords: u32,
    source: Vec<u8>,
    target: Vec<u8>,
    /// Bytes at the start of `source` that hold the colour of the fill under way.
    painted: usize,
}

/// Pixels from left and top to, but not including, right and bottom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rectangle {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
}

/// A blit, decoded and checked.
#[derive(Clone, Copy, Debug)]
struct Job {
    destination: Surface,
    source: Option<Source>,
    rectangle: Rectangle,
    pixel_bytes: i64,
    raster: Raster,
}

/// Where a copy comes from.
#[derive(Clone, Copy, Debug)]
struct Source {
    surface: Surface,
    /// Pixels to add to a destination coordinate.
    offset_x: i64,
    offset_y: i64,
}

impl Blitter {
    /// Begins a command; false if there is nothing to draw.
    pub(crate) fn begin(
        &mut self,
        opcode: u8,
        command: &Command<'_>,
        registers: &Registers,
    ) -> Result<bool, FaultCause> {
        self.command_dwords = command.dwords();
        let Some(job) = self.decode(opcode, command, registers)? else { return Ok(false) };
        if job.rectangle.is_empty() || job.raster.writes_nothing() {
            return Ok(false);
        }
        self.painted = 0;
        self.job = Some((job, Blocks::of(&job)));
        Ok(true)
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    /// Dwords of the command that began last.
    pub(crate) fn command_dwords(&self) -> u32 {
        self.command_dwords
    }

    /// Forgets the blit under way.
    pub(crate) fn cancel(&mut self) {
        self.job = None;
    }

    /// Does one block; answers its cost.
    pub(crate) fn advance(&mut self, bus: &mut MemoryBus<'_>) -> Result<u32, FaultCause> {
        let Some((job, blocks)) = &mut self.job else { return Ok(0) };
        let Some(area) = blocks.next() else {
            self.job = None;
            return Ok(0);
        };
        let job = *job;
        let bytes = area.width * area.height;
        match job.source {
            Some(source) if job.raster.reads_source() => self.copy(&job, source, area, bus)?,
            _ if job.raster.reads_destination() => {
                let target = sized(&mut self.target, bytes);
                job.destination.read(bus, area, target)?;
                job.raster.apply_pattern(target);
                job.destination.write(bus, area, target)?;
            }
            _ => self.fill(&job, area, bus)?,
        }
        Ok(u32::try_from(area.height + (bytes >> COST_SHIFT)).unwrap_or(u32::MAX))
    }

    fn copy(
        &mut self,
        job: &Job,
        from: Source,
        area: Area,
        bus: &mut MemoryBus<'_>,
    ) -> Result<(), FaultCause> {
        let bytes = area.width * area.height;
        let there =
            Area { x: area.x + from.offset_x * job.pixel_bytes, y: area.y + from.offset_y, ..area };
        let source = sized(&mut self.source, bytes);
        from.surface.read(bus, there, source)?;
        if job.raster.is_copy() {
            return job.destination.write(bus, area, source);
        }
        let target = sized(&mut self.target, bytes);
        if job.raster.reads_destination() {
            job.destination.read(bus, area, target)?;
        }
        job.raster.apply(source, target);
        job.destination.write(bus, area, target)
    }

    fn fill(&mut self, job: &Job, area: Area, bus: &mut MemoryBus<'_>) -> Result<(), FaultCause> {
        let bytes = area.width * area.height;
        let paint = sized(&mut self.source, bytes);
        if self.painted < bytes {
            // Every block starts at a pixel, so the paint of one serves all.
            let colour = job.raster.fill();
            for into in paint.chunks_mut(colour.len()) {
                into.copy_from_slice(colour.get(..into.len()).unwrap_or_default());
            }
            self.painted = bytes;
        }
        job.destination.write(bus, area, paint)
    }
}

/// The first `bytes` bytes of a buffer that grows to a block at most.
fn sized(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    let bytes = bytes.min(BLOCK_BYTES);
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    buffer.get_mut(..bytes).unwrap_or_default()
}
