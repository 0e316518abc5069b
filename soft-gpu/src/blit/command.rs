//! The commands of the blitter.

use crate::blit::raster::Raster;
use crate::blit::surface::{Surface, Tiling};
use crate::blit::{Blitter, Job, Rectangle, Source};
use crate::decode::xy;
use crate::fault::FaultCause;
use crate::registers::Registers;
use crate::streamer::Command;

/// Linear surfaces of the XY commands start at a cache line on Gen8 and later, tiled ones at a
/// page.
const LINEAR_ALIGNMENT: u32 = 64;
const TILED_ALIGNMENT: u32 = 4096;
/// XY_FAST_COPY_BLT moves 16 bytes at a time.
const FAST_ALIGNMENT: u32 = 16;

impl Blitter {
    /// What a command draws; `None` if it only sets registers.
    ///
    /// # Errors
    /// The command is malformed, or not one this blitter knows.
    pub(super) fn decode(
        &mut self,
        opcode: u8,
        command: &Command<'_>,
        registers: &Registers,
    ) -> Result<Option<Job>, FaultCause> {
        match opcode {
            xy::SETUP_BLT => {
                command.require(10)?;
                self.clip = Rectangle::of(command, 2);
                Ok(None)
            }
            xy::SETUP_CLIP_BLT => {
                command.require(3)?;
                self.clip = Rectangle::of(command, 1);
                Ok(None)
            }
            xy::COLOR_BLT => self.colour_fill(command, registers).map(Some),
            xy::SRC_COPY_BLT => self.source_copy(command, registers).map(Some),
            xy::FAST_COPY_BLT => fast_copy(command).map(Some),
            _ if crate::decode::name(command.header).is_some() => {
                Err(FaultCause::Unsupported { what: "patterns, text and monochrome sources" })
            }
            _ => Err(FaultCause::Unknown { header: command.header }),
        }
    }

    /// XY_COLOR_BLT: 7 dwords. Raster operations that read a source find 0 there.
    fn colour_fill(
        &mut self,
        command: &Command<'_>,
        registers: &Registers,
    ) -> Result<Job, FaultCause> {
        command.require(7)?;
        let destination = destination(command, registers)?;
        self.colour = command.dword(6);
        let pixel_bytes = pixel_bytes(command);
        Ok(Job {
            destination,
            source: None,
            rectangle: self.clipped(command),
            pixel_bytes,
            raster: self.raster(command, pixel_bytes),
        })
    }

    /// XY_SRC_COPY_BLT: 10 dwords. Raster operations that read a pattern find the colour of the
    /// last XY_COLOR_BLT there.
    fn source_copy(
        &mut self,
        command: &Command<'_>,
        registers: &Registers,
    ) -> Result<Job, FaultCause> {
        command.require(10)?;
        let tiling = match (command.bit(15), registers.source_is_y_tiled()) {
            (false, _) => Tiling::Linear,
            (true, false) => Tiling::X,
            (true, true) => Tiling::Y,
        };
        let surface = surface(command, 8, command.dword(7), tiling, LINEAR_ALIGNMENT)?;
        let pixel_bytes = pixel_bytes(command);
        Ok(Job {
            destination: destination(command, registers)?,
            source: Some(source(command, surface)),
            rectangle: self.clipped(command),
            pixel_bytes,
            raster: self.raster(command, pixel_bytes),
        })
    }

    fn raster(&self, command: &Command<'_>, pixel_bytes: i64) -> Raster {
        let operation = (command.dword(1) >> 16 & 0xff) as u8;
        let mut mask = u32::MAX;
        if pixel_bytes == 4 {
            // Bit 21 enables writing alpha, bit 20 the three colours.
            let alpha = if command.bit(21) { 0xff00_0000 } else { 0 };
            let colours = if command.bit(20) { 0x00ff_ffff } else { 0 };
            mask = alpha | colours;
        }
        Raster::new(operation, self.colour, pixel_bytes, mask)
    }

    fn clipped(&self, command: &Command<'_>) -> Rectangle {
        let rectangle = Rectangle::of(command, 2);
        if command.dword(1) >> 30 & 1 == 0 { rectangle } else { rectangle.within(self.clip) }
    }
}

/// XY_FAST_COPY_BLT: 10 dwords. No raster operation, no mask, no clipping; pixels of up to 16
/// bytes.
fn fast_copy(command: &Command<'_>) -> Result<Job, FaultCause> {
    command.require(10)?;
    let controls = command.dword(1);
    let pixel_bytes = match controls >> 24 & 7 {
        0 => 1,
        1 => 2,
        3 => 4,
        4 => 8,
        5 => 16,
        value => return Err(FaultCause::Invalid { field: "colour depth", value }),
    };
    let to = fast_tiling(command.header >> 13 & 3, controls >> 30 & 1 != 0)?;
    let from = fast_tiling(command.header >> 20 & 3, controls >> 31 & 1 != 0)?;
    let from = surface(command, 8, command.dword(7), from, FAST_ALIGNMENT)?;
    Ok(Job {
        destination: surface(command, 4, controls, to, FAST_ALIGNMENT)?,
        source: Some(source(command, from)),
        rectangle: Rectangle::of(command, 2),
        pixel_bytes,
        raster: Raster::COPY,
    })
}

/// The tiling fields of XY_FAST_COPY_BLT; `standard` says that tiles are those of Gen9, Yf.
fn fast_tiling(field: u32, standard: bool) -> Result<Tiling, FaultCause> {
    match field {
        0 => Ok(Tiling::Linear),
        1 => Ok(Tiling::X),
        2 if !standard => Ok(Tiling::Y),
        _ => Err(FaultCause::Unsupported { what: "Yf and Ys tiling" }),
    }
}

/// The destination of an XY command: pitch in dword 1, address in dwords 4 and 5.
fn destination(command: &Command<'_>, registers: &Registers) -> Result<Surface, FaultCause> {
    let tiling = match (command.bit(11), registers.destination_is_y_tiled()) {
        (false, _) => Tiling::Linear,
        (true, false) => Tiling::X,
        (true, true) => Tiling::Y,
    };
    surface(command, 4, command.dword(1), tiling, LINEAR_ALIGNMENT)
}

/// A surface with its address in dwords `index` and `index + 1`. The low 16 bits of `pitch` are
/// signed: bytes, or dwords if tiled.
fn surface(
    command: &Command<'_>,
    index: usize,
    pitch: u32,
    tiling: Tiling,
    linear_alignment: u32,
) -> Result<Surface, FaultCause> {
    let field = pitch & 0xffff;
    let signed = i64::from(coordinate(field));
    let (alignment, pitch) = match tiling {
        Tiling::Linear => (linear_alignment, signed),
        Tiling::X | Tiling::Y => (TILED_ALIGNMENT, signed * 4),
    };
    if tiling != Tiling::Linear && (pitch <= 0 || pitch % tiling.width() != 0) {
        return Err(FaultCause::Invalid { field: "pitch of a tiled surface", value: field });
    }
    Ok(Surface { base: command.address(index, alignment)?, pitch, tiling })
}

/// The source of a copy: its left and top in dword 6 belong to those of the destination, before
/// clipping.
fn source(command: &Command<'_>, surface: Surface) -> Source {
    let destination = Rectangle::of(command, 2);
    let corner = command.dword(6);
    let left = coordinate(corner & 0xffff);
    let top = coordinate(corner >> 16);
    Source {
        surface,
        offset_x: i64::from(left) - i64::from(destination.left),
        offset_y: i64::from(top) - i64::from(destination.top),
    }
}

/// Bytes of a pixel of an XY command: 8, 16 (565 and 1555) or 32 bits.
fn pixel_bytes(command: &Command<'_>) -> i64 {
    match command.dword(1) >> 24 & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => 4,
    }
}

/// Coordinates and pitches are signed numbers of 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "the field has 16 bits")]
fn coordinate(field: u32) -> i32 {
    i32::from((field as u16).cast_signed())
}

impl Rectangle {
    /// Left and top in dword `index`, right and bottom in the next; x in the low halves.
    fn of(command: &Command<'_>, index: usize) -> Self {
        let (first, second) = (command.dword(index), command.dword(index + 1));
        Self {
            left: coordinate(first & 0xffff),
            top: coordinate(first >> 16),
            right: coordinate(second & 0xffff),
            bottom: coordinate(second >> 16),
        }
    }

    fn within(self, other: Self) -> Self {
        Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }
}
