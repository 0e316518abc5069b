//! Command batches: what the painters draw with, in the words of the Gen9 encoder of the client
//! library.
//!
//! Surfaces have 32 bits per pixel. Rectangles are `[x0, y0, x1, y1]` for fills (the last two not
//! included) and `[x, y, width, height]` for sources of copies, in pixels.

use super::scene::Colour;

/// First register of the render engine's 16 general purpose registers.
const RENDER_GPR: u32 = 0x2600;

/// How pixels lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tiling {
    Linear,
    X,
    Y,
}

/// Pixels somewhere in the GPU's address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Surface {
    address: u64,
    /// Bytes from row to row.
    pitch: u32,
    tiling: Tiling,
}

impl Surface {
    /// Row after row.
    pub(crate) const fn linear(address: u64, pitch: u32) -> Self {
        Self { address, pitch, tiling: Tiling::Linear }
    }

    /// Tiles of 512 bytes by 8 rows.
    pub(crate) const fn x_tiled(address: u64, pitch: u32) -> Self {
        Self { address, pitch, tiling: Tiling::X }
    }

    /// Tiles of 128 bytes by 32 rows.
    pub(crate) const fn y_tiled(address: u64, pitch: u32) -> Self {
        Self { address, pitch, tiling: Tiling::Y }
    }

    /// As commands take it: bytes, or dwords when tiled.
    const fn pitch_field(&self) -> u32 {
        match self.tiling {
            Tiling::Linear => self.pitch,
            Tiling::X | Tiling::Y => self.pitch / 4,
        }
    }

    const fn is_tiled(&self) -> u32 {
        match self.tiling {
            Tiling::Linear => 0,
            Tiling::X | Tiling::Y => 1,
        }
    }

    const fn fast_copy_tiling(&self) -> u32 {
        match self.tiling {
            Tiling::Linear => 0,
            Tiling::X => 1,
            Tiling::Y => 2,
        }
    }
}

/// A raster operation of a fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rop {
    /// The colour.
    Pattern = 0xf0,
    /// What is there or the colour.
    PatternOr = 0xfa,
    /// What is there exclusive-or the colour.
    PatternXor = 0x5a,
}

/// A general purpose register of the render engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gpr(pub(crate) u8);

/// An operation of MI_MATH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alu {
    Add = 0x100,
    And = 0x102,
    Or = 0x103,
}

impl Alu {
    /// Appends `result = a OP b`.
    pub(crate) fn append(self, program: &mut Vec<u32>, a: Gpr, b: Gpr, result: Gpr) {
        const LOAD: u32 = 0x080;
        const STORE: u32 = 0x180;
        const SRCA: u32 = 0x20;
        const SRCB: u32 = 0x21;
        const ACCU: u32 = 0x31;
        let word = |operation: u32, first: u32, second: u32| operation << 20 | first << 10 | second;
        program.extend([
            word(LOAD, SRCA, a.0.into()),
            word(LOAD, SRCB, b.0.into()),
            word(self as u32, 0, 0),
            word(STORE, result.0.into(), ACCU),
        ]);
    }
}

/// Commands, in order.
pub(crate) struct Batch {
    dwords: Vec<u32>,
    commands: usize,
}

impl Batch {
    /// No commands.
    pub(crate) const fn new() -> Self {
        Self { dwords: Vec::new(), commands: 0 }
    }

    /// The number of commands and the dwords, with the end.
    pub(crate) fn finish(mut self) -> (usize, Vec<u32>) {
        self.put([0x0500_0000]);
        if self.dwords.len() % 2 == 1 {
            self.dwords.push(0);
        }
        (self.commands, self.dwords)
    }

    /// XY_COLOR_BLT.
    pub(crate) fn fill(&mut self, to: &Surface, rectangle: [u32; 4], colour: Colour) {
        self.fill_rop(to, rectangle, colour, Rop::Pattern);
    }

    /// XY_COLOR_BLT with a raster operation.
    pub(crate) fn fill_rop(
        &mut self,
        to: &Surface,
        [x0, y0, x1, y1]: [u32; 4],
        colour: Colour,
        rop: Rop,
    ) {
        let [low, high] = halves(to.address);
        self.put([
            0x5430_0005 | to.is_tiled() << 11,
            3 << 24 | (rop as u32) << 16 | to.pitch_field(),
            y0 << 16 | x0,
            y1 << 16 | x1,
            low,
            high,
            colour.0,
        ]);
    }

    /// XY_SRC_COPY_BLT.
    pub(crate) fn copy(&mut self, to: &Surface, at: [u32; 2], from: &Surface, source: [u32; 4]) {
        let ([to_low, to_high], [from_low, from_high]) = (halves(to.address), halves(from.address));
        let ([x, y], [from_x, from_y, width, height]) = (at, source);
        self.put([
            0x54f0_0008 | from.is_tiled() << 15 | to.is_tiled() << 11,
            0x03cc_0000 | to.pitch_field(),
            y << 16 | x,
            (y + height) << 16 | (x + width),
            to_low,
            to_high,
            from_y << 16 | from_x,
            from.pitch_field(),
            from_low,
            from_high,
        ]);
    }

    /// XY_FAST_COPY_BLT, which knows Y tiling.
    pub(crate) fn fast_copy(
        &mut self,
        to: &Surface,
        at: [u32; 2],
        from: &Surface,
        source: [u32; 4],
    ) {
        let ([to_low, to_high], [from_low, from_high]) = (halves(to.address), halves(from.address));
        let ([x, y], [from_x, from_y, width, height]) = (at, source);
        self.put([
            0x5080_0008 | from.fast_copy_tiling() << 20 | to.fast_copy_tiling() << 13,
            3 << 24 | to.pitch_field(),
            y << 16 | x,
            (y + height) << 16 | (x + width),
            to_low,
            to_high,
            from_y << 16 | from_x,
            from.pitch_field(),
            from_low,
            from_high,
        ]);
    }

    /// MI_STORE_DATA_IMM of a dword.
    pub(crate) fn store_dword(&mut self, address: u64, value: u32) {
        let [low, high] = halves(address);
        self.put([0x1000_0002, low, high, value]);
    }

    /// MI_LOAD_REGISTER_IMM of both halves of a render register.
    pub(crate) fn load_gpr(&mut self, gpr: Gpr, value: u64) {
        let [low, high] = halves(value);
        let register = RENDER_GPR + 8 * u32::from(gpr.0);
        self.put([0x1100_0003, register, low, register + 4, high]);
    }

    /// MI_MATH.
    pub(crate) fn math(&mut self, program: &[u32]) {
        let words = u32::try_from(program.len()).unwrap_or(u32::MAX);
        self.dwords.push(0x0d00_0000 | words.wrapping_sub(1) & 0xff);
        self.dwords.extend_from_slice(program);
        self.commands += 1;
    }

    /// MI_STORE_REGISTER_MEM of the upper half of a render register.
    pub(crate) fn store_gpr_high(&mut self, gpr: Gpr, address: u64) {
        let [low, high] = halves(address);
        self.put([0x1200_0002, RENDER_GPR + 8 * u32::from(gpr.0) + 4, low, high]);
    }

    fn put<const N: usize>(&mut self, dwords: [u32; N]) {
        self.dwords.extend(dwords);
        self.commands += 1;
    }
}

/// Low and high dword.
#[expect(clippy::cast_possible_truncation, reason = "the halves are taken on purpose")]
const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}
