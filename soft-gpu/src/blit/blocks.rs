//! In which pieces, and in which order, a blit is done.

use crate::blit::surface::{Area, Surface, Tiling};
use crate::blit::{Job, Source};

/// Bytes of a block, at most.
pub(super) const BLOCK_BYTES: usize = 16 * 1024;
/// Bytes and rows of a block if a surface is tiled: four Y tiles side by side, or four X tiles one
/// below the other.
const TILED: (i64, i64) = (512, 32);
/// Rows of a block otherwise: each is an access of its own, however short, and a block is what a
/// run cannot stop in.
const LINEAR_ROWS_MAX: i64 = 64;

/// The blocks of a job, in the order they are done.
///
/// Where source and destination overlap, each pixel is read before it is written, as with memmove:
/// if they share a layout, blocks are done starting at the end that the copy moves towards.
/// Surfaces that overlap with different pitches or tilings give results that depend on the block
/// size; hardware gives no better promise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    left: i64,
    top: i64,
    right: i64,
    bottom: i64,
    /// A corner of the grid that blocks lie in, and the size of its cells.
    anchor: (i64, i64),
    cell: (i64, i64),
    columns: i64,
    count: i64,
    done: i64,
    reverse_x: bool,
    reverse_y: bool,
}

impl Blocks {
    /// Of a job that is not empty.
    pub(super) fn of(job: &Job) -> Self {
        let (left, top) = (i64::from(job.rectangle.left) * job.pixel_bytes, job.rectangle.top);
        let right = i64::from(job.rectangle.right) * job.pixel_bytes;
        let (top, bottom) = (i64::from(top), i64::from(job.rectangle.bottom));
        let linear = |surface: &Surface| surface.tiling == Tiling::Linear;
        let all_linear =
            linear(&job.destination) && job.source.is_none_or(|source| linear(&source.surface));
        let (anchor, cell) = if all_linear {
            let bytes = BLOCK_BYTES as i64;
            let width = (right - left).clamp(1, bytes);
            ((left, top), (width, (bytes / width).clamp(1, LINEAR_ROWS_MAX)))
        } else {
            ((0, 0), TILED)
        };
        let cells =
            |from: i64, to: i64, cell: i64| (to - 1).div_euclid(cell) - from.div_euclid(cell) + 1;
        let columns = cells(left - anchor.0, right - anchor.0, cell.0);
        let rows = cells(top - anchor.1, bottom - anchor.1, cell.1);
        let (reverse_x, reverse_y) = job.source.map_or((false, false), |source| {
            reversed(&job.destination, &source, (left, top), job.pixel_bytes)
        });
        Self {
            left,
            top,
            right,
            bottom,
            anchor,
            cell,
            columns,
            count: columns * rows,
            done: 0,
            reverse_x,
            reverse_y,
        }
    }

    /// The next block.
    fn next_area(&mut self) -> Option<Area> {
        if self.done >= self.count {
            return None;
        }
        let (mut column, mut row) = (self.done % self.columns, self.done / self.columns);
        if self.reverse_x {
            column = self.columns - 1 - column;
        }
        if self.reverse_y {
            row = self.count / self.columns - 1 - row;
        }
        self.done += 1;
        let span = |from: i64, to: i64, anchor: i64, cell: i64, index: i64| {
            let start = anchor + ((from - anchor).div_euclid(cell) + index) * cell;
            (start.max(from), (start + cell).min(to))
        };
        let (x, end_x) = span(self.left, self.right, self.anchor.0, self.cell.0, column);
        let (y, end_y) = span(self.top, self.bottom, self.anchor.1, self.cell.1, row);
        Some(Area {
            x,
            y,
            width: usize::try_from(end_x - x).unwrap_or(0),
            height: usize::try_from(end_y - y).unwrap_or(0),
        })
    }
}

impl Iterator for Blocks {
    type Item = Area;

    fn next(&mut self) -> Option<Area> {
        self.next_area()
    }
}

/// Whether blocks are done from right to left, and from the bottom up.
fn reversed(
    destination: &Surface,
    source: &Source,
    (left, top): (i64, i64),
    pixel_bytes: i64,
) -> (bool, bool) {
    if destination == &source.surface {
        // The copy moves by minus the offset.
        return (source.offset_x < 0, source.offset_y < 0);
    }
    let both_linear =
        destination.tiling == Tiling::Linear && source.surface.tiling == Tiling::Linear;
    if !both_linear || destination.pitch != source.surface.pitch {
        return (false, false);
    }
    // Two views of what may be one buffer: all that counts is which way bytes move.
    let to = destination.address(left, top);
    let from = source.surface.address(left + source.offset_x * pixel_bytes, top + source.offset_y);
    let up = to > from;
    (up, up == (destination.pitch >= 0))
}
