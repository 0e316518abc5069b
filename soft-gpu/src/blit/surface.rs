//! Surfaces and how they are laid out in memory.
//!
//! A linear surface has its rows one pitch apart. A tiled one is cut into tiles of 4 KiB, rows of
//! tiles one after the other. An X tile is 512 bytes wide and 8 rows high, row after row. A Y tile
//! is 128 bytes wide and 32 rows high: eight columns of 16 bytes, each column row after row. Gen8
//! and later swizzle no address bits on top of that.

use crate::fault::FaultCause;
use crate::streamer::MemoryBus;

/// How a surface is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tiling {
    Linear,
    X,
    Y,
}

/// Bytes of a tile of either kind.
const TILE: i64 = 4096;
const X_WIDTH: i64 = 512;
const X_HEIGHT: i64 = 8;
const Y_WIDTH: i64 = 128;
const Y_HEIGHT: i64 = 32;
/// Width of a column of a Y tile.
const COLUMN: usize = 16;
/// Bytes of a column of a Y tile.
const COLUMN_BYTES: usize = COLUMN * 32;
const _: () = assert!(COLUMN_BYTES as i64 * Y_WIDTH == TILE * COLUMN as i64);

/// Pixels in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Surface {
    pub(super) base: u64,
    /// Bytes from row to row; negative only if linear.
    pub(super) pitch: i64,
    pub(super) tiling: Tiling,
}

/// A rectangle of bytes: columns are bytes, not pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Area {
    pub(super) x: i64,
    pub(super) y: i64,
    /// Bytes.
    pub(super) width: usize,
    /// Rows.
    pub(super) height: usize,
}

impl Tiling {
    /// Bytes a row of tiles is a multiple of.
    pub(super) fn width(self) -> i64 {
        match self {
            Self::Linear => 1,
            Self::X => X_WIDTH,
            Self::Y => Y_WIDTH,
        }
    }
}

impl Surface {
    /// GPU address of a byte.
    pub(super) fn address(&self, x: i64, y: i64) -> u64 {
        let offset = match self.tiling {
            Tiling::Linear => y * self.pitch + x,
            Tiling::X => {
                y.div_euclid(X_HEIGHT) * X_HEIGHT * self.pitch
                    + x.div_euclid(X_WIDTH) * TILE
                    + y.rem_euclid(X_HEIGHT) * X_WIDTH
                    + x.rem_euclid(X_WIDTH)
            }
            Tiling::Y => {
                let column = COLUMN as i64;
                y.div_euclid(Y_HEIGHT) * Y_HEIGHT * self.pitch
                    + x.div_euclid(Y_WIDTH) * TILE
                    + x.rem_euclid(Y_WIDTH) / column * COLUMN_BYTES as i64
                    + y.rem_euclid(Y_HEIGHT) * column
                    + x.rem_euclid(column)
            }
        };
        self.base.wrapping_add_signed(offset)
    }

    /// Copies an area into `block`, row after row without gaps.
    pub(super) fn read(
        &self,
        bus: &MemoryBus<'_>,
        area: Area,
        block: &mut [u8],
    ) -> Result<(), FaultCause> {
        if self.tiling != Tiling::Y {
            return self.each_run(area, |address, at, bytes| match block.get_mut(at..at + bytes) {
                Some(into) => bus.read(address, into),
                None => Ok(()),
            });
        }
        let mut column = [0; COLUMN_BYTES];
        self.each_column(area, |part| {
            // Whole rows of the column are read even where the area ends inside of it: a tile is a
            // page, and so mapped as a whole.
            let rows = column.get_mut(..part.rows * COLUMN).unwrap_or_default();
            bus.read(part.address - part.skip as u64, rows)?;
            let mut at = part.at;
            for row in rows.chunks_exact(COLUMN) {
                if let (Some(into), Some(from)) =
                    (block.get_mut(at..at + part.bytes), row.get(part.skip..part.skip + part.bytes))
                {
                    into.copy_from_slice(from);
                }
                at += area.width;
            }
            Ok(())
        })
    }

    /// Copies `block` to an area.
    pub(super) fn write(
        &self,
        bus: &mut MemoryBus<'_>,
        area: Area,
        block: &[u8],
    ) -> Result<(), FaultCause> {
        if self.tiling != Tiling::Y {
            return self.each_run(area, |address, at, bytes| match block.get(at..at + bytes) {
                Some(from) => bus.write(address, from),
                None => Ok(()),
            });
        }
        let mut column = [0; COLUMN_BYTES];
        self.each_column(area, |part| {
            let sources = (0..part.rows).filter_map(|row| {
                let at = part.at + row * area.width;
                block.get(at..at + part.bytes)
            });
            if part.bytes < COLUMN {
                // What lies beside the area in the column is somebody else's.
                for (address, from) in (part.address..).step_by(COLUMN).zip(sources) {
                    bus.write(address, from)?;
                }
                return Ok(());
            }
            for (into, from) in column.chunks_exact_mut(COLUMN).zip(sources) {
                into.copy_from_slice(from);
            }
            bus.write(part.address, column.get(..part.rows * COLUMN).unwrap_or_default())
        })
    }

    /// Calls `each` with address, offset in the block and bytes of every stretch of memory that
    /// holds a part of one row of the area. Linear or X tiled.
    fn each_run(
        &self,
        area: Area,
        mut each: impl FnMut(u64, usize, usize) -> Result<(), FaultCause>,
    ) -> Result<(), FaultCause> {
        if self.tiling == Tiling::Linear {
            if usize::try_from(self.pitch) == Ok(area.width) {
                return each(self.address(area.x, area.y), 0, area.width * area.height);
            }
            for (row, y) in (0..area.height).zip(area.y..) {
                each(self.address(area.x, y), row * area.width, area.width)?;
            }
            return Ok(());
        }
        for (row, y) in (0..area.height).zip(area.y..) {
            let mut done = 0;
            while done < area.width {
                let x = area.x + done as i64;
                let bytes = left_in(x, X_WIDTH).min(area.width - done);
                each(self.address(x, y), row * area.width + done, bytes)?;
                done += bytes;
            }
        }
        Ok(())
    }

    /// Calls `each` with every part of a column of a Y tile that the area covers.
    fn each_column(
        &self,
        area: Area,
        mut each: impl FnMut(ColumnPart) -> Result<(), FaultCause>,
    ) -> Result<(), FaultCause> {
        let mut row = 0;
        while row < area.height {
            let y = area.y + row as i64;
            let rows = left_in(y, Y_HEIGHT).min(area.height - row);
            let mut done = 0;
            while done < area.width {
                let x = area.x + done as i64;
                let left = left_in(x, COLUMN as i64);
                let bytes = left.min(area.width - done);
                each(ColumnPart {
                    address: self.address(x, y),
                    skip: COLUMN - left,
                    bytes,
                    rows,
                    at: row * area.width + done,
                })?;
                done += bytes;
            }
            row += rows;
        }
        Ok(())
    }
}

/// Some rows of a column of a Y tile. They follow each other in memory, `COLUMN` bytes apart.
#[derive(Clone, Copy)]
struct ColumnPart {
    /// Of the first byte.
    address: u64,
    /// Bytes of the column before it.
    skip: usize,
    /// Bytes of each row.
    bytes: usize,
    rows: usize,
    /// Where the first row is in the block.
    at: usize,
}

/// How far it is from `position` to the next multiple of `unit`, at least 1.
fn left_in(position: i64, unit: i64) -> usize {
    usize::try_from(unit - position.rem_euclid(unit)).unwrap_or(1)
}
