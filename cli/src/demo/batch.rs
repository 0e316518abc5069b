//! What the painters draw with: the client library's Gen9 encoder, for surfaces with 32 bits per
//! pixel and rectangles in unsigned pixels, and a count of the commands.

use gpu_broker_client::gen9::{
    self, Depth, ROP_FILL, ROP_FILL_XOR, Rectangle, Tiling, alu, base, general_register,
};

use super::scene::Colour;

pub(crate) use gen9::Surface;

/// Pixels in X tiles.
pub(crate) const fn x_tiled(address: u64, pitch: u32) -> Surface {
    Surface { address, pitch, tiling: Tiling::X }
}

/// Pixels in Y tiles.
pub(crate) const fn y_tiled(address: u64, pitch: u32) -> Surface {
    Surface { address, pitch, tiling: Tiling::Y }
}

/// A raster operation of a fill: how the colour is combined with what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Rop {
    /// The colour alone.
    Fill = ROP_FILL,
    /// Or.
    FillOr = 0xfa,
    /// Exclusive or.
    FillXor = ROP_FILL_XOR,
}

/// A general purpose register of the render engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gpr(pub(crate) u8);

impl Gpr {
    /// Address of its low half.
    const fn register(self) -> u32 {
        general_register(base::RENDER, self.0 as u32)
    }
}

/// Instructions of MI_MATH for `result = a OPERATION b`, with an operation of [`alu`].
pub(crate) fn calculate(operation: u32, a: Gpr, b: Gpr, result: Gpr) -> [u32; 4] {
    [
        alu::load(alu::SRCA, a.0.into()),
        alu::load(alu::SRCB, b.0.into()),
        operation,
        alu::store(result.0.into(), alu::ACCU),
    ]
}

/// Commands, in order.
pub(crate) struct Batch {
    encoder: gen9::Batch,
    commands: usize,
}

impl Batch {
    /// No commands.
    pub(crate) fn new() -> Self {
        Self { encoder: gen9::Batch::new(), commands: 0 }
    }

    /// The number of commands.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    /// The commands with the end.
    pub(crate) fn finish(&mut self) -> &[u32] {
        self.encoder.end();
        self.encoder.dwords()
    }

    /// XY_COLOR_BLT of `[x0, y0, x1, y1]`, the last two not included.
    pub(crate) fn fill(&mut self, to: &Surface, area: [u32; 4], colour: Colour) {
        self.fill_rop(to, area, colour, Rop::Fill);
    }

    /// [`Self::fill`] with a raster operation.
    pub(crate) fn fill_rop(&mut self, to: &Surface, area: [u32; 4], colour: Colour, rop: Rop) {
        let [x0, y0, x1, y1] = area.map(coordinate);
        let area = Rectangle::new(x0, y0, x1, y1);
        self.encoder.color_blt_with(to, area, Depth::Bits8888, colour.0, rop as u8);
        self.commands += 1;
    }

    /// XY_SRC_COPY_BLT of `[x, y, width, height]`.
    pub(crate) fn copy(&mut self, to: &Surface, at: [u32; 2], from: &Surface, source: [u32; 4]) {
        let (area, corner) = copied(at, source);
        self.encoder.src_copy(to, area, from, corner, Depth::Bits8888);
        self.commands += 1;
    }

    /// XY_FAST_COPY_BLT of `[x, y, width, height]`.
    pub(crate) fn fast_copy(
        &mut self,
        to: &Surface,
        at: [u32; 2],
        from: &Surface,
        source: [u32; 4],
    ) {
        let (area, corner) = copied(at, source);
        self.encoder.fast_copy(to, area, from, corner, Depth::Bits8888);
        self.commands += 1;
    }

    /// MI_STORE_DATA_IMM of a dword.
    pub(crate) fn store_dword(&mut self, address: u64, value: u32) {
        self.encoder.store_dword(address, value);
        self.commands += 1;
    }

    /// MI_LOAD_REGISTER_IMM of both halves.
    pub(crate) fn load_gpr(&mut self, gpr: Gpr, value: u64) {
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let high = u32::try_from(value >> 32).unwrap_or(0);
        self.encoder.load_register(gpr.register(), low).load_register(gpr.register() + 4, high);
        self.commands += 2;
    }

    /// MI_MATH.
    pub(crate) fn math(&mut self, program: &[u32]) {
        self.encoder.math(program);
        self.commands += 1;
    }

    /// MI_STORE_REGISTER_MEM of the upper half.
    pub(crate) fn store_gpr_high(&mut self, gpr: Gpr, address: u64) {
        self.encoder.store_register(gpr.register() + 4, address);
        self.commands += 1;
    }
}

/// Everything in the picture is less than 1025.
fn coordinate(pixels: u32) -> i16 {
    i16::try_from(pixels).unwrap_or(i16::MAX)
}

fn copied([x, y]: [u32; 2], [from_x, from_y, width, height]: [u32; 4]) -> (Rectangle, (i16, i16)) {
    let [left, top, right, bottom] = [x, y, x + width, y + height].map(coordinate);
    let corner = (coordinate(from_x), coordinate(from_y));
    (Rectangle::new(left, top, right, bottom), corner)
}
