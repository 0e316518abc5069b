//! Command batches for Gen9 GPUs: a [`Batch`] is a list of dwords with one method per command.
//!
//! It only encodes: nothing is checked that the GPU would check. Addresses are GPU virtual
//! addresses; their low 48 bits are meant.
//!
//! ```
//! use gpu_broker_client::gen9::Batch;
//!
//! let mut batch = Batch::new();
//! batch.store_dword(0x10_0000, 42).end();
//! assert_eq!(batch.dwords(), [0x1000_0002, 0x0010_0000, 0, 42, 0x0500_0000, 0]);
//! ```

/// The commands of a batch. Write them to a buffer with `Mapping::write_dwords(0, batch.dwords())`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    dwords: Vec<u32>,
}

/// Where an engine's registers start.
pub mod base {
    /// rcs0.
    pub const RENDER: u32 = 0x2000;
    /// bcs0.
    pub const COPY: u32 = 0x2_2000;
    /// vcs0.
    pub const VIDEO0: u32 = 0x1_2000;
    /// vcs1.
    pub const VIDEO1: u32 = 0x1_c000;
    /// vecs0.
    pub const VIDEO_ENHANCE: u32 = 0x1_a000;
}

/// Address of the low half of general purpose register `index` (0 to 15) of the engine whose
/// registers start at `base`; the high half is 4 bytes further.
#[must_use]
pub const fn general_register(base: u32, index: u32) -> u32 {
    base + 0x600 + 8 * index
}

/// Address of the low half of an engine's timestamp, 12 MHz.
#[must_use]
pub const fn timestamp_register(base: u32) -> u32 {
    base + 0x358
}

/// The comparison of [`Batch::semaphore_wait`]; memory is on the left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Compare {
    /// `>`
    Greater = 0,
    /// `>=`
    GreaterOrEqual = 1,
    /// `<`
    Less = 2,
    /// `<=`
    LessOrEqual = 3,
    /// `==`
    Equal = 4,
    /// `!=`
    NotEqual = 5,
}

/// What [`Batch::atomic_dword`] does with memory M and operand A.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Atomic {
    /// `M & A`
    And = 1,
    /// `M | A`
    Or = 2,
    /// `M ^ A`
    Xor = 3,
    /// `A`
    Move = 4,
    /// `M + 1`
    Increment = 5,
    /// `M - 1`
    Decrement = 6,
    /// `M + A`
    Add = 7,
    /// `M - A`
    Subtract = 8,
    /// `A - M`
    ReverseSubtract = 9,
    /// The greater, as signed numbers.
    SignedMax = 10,
    /// The lesser, as signed numbers.
    SignedMin = 11,
    /// The greater, as unsigned numbers.
    UnsignedMax = 12,
    /// The lesser, as unsigned numbers.
    UnsignedMin = 13,
}

/// Instructions of [`Batch::math`].
pub mod alu {
    /// Operand: the first source.
    pub const SRCA: u32 = 0x20;
    /// Operand: the second source.
    pub const SRCB: u32 = 0x21;
    /// Operand: the result.
    pub const ACCU: u32 = 0x31;
    /// Operand: all ones if the result is zero, otherwise zero.
    pub const ZF: u32 = 0x32;
    /// Operand: all ones if there was a carry or borrow, otherwise zero.
    pub const CF: u32 = 0x33;

    /// Loads `source` (register 0 to 15) into [`SRCA`] or [`SRCB`].
    #[must_use]
    pub const fn load(destination: u32, source: u32) -> u32 {
        0x080 << 20 | destination << 10 | source
    }

    /// Stores [`ACCU`], [`ZF`] or [`CF`] in register `destination`.
    #[must_use]
    pub const fn store(destination: u32, source: u32) -> u32 {
        0x180 << 20 | destination << 10 | source
    }

    /// Stores the inverse of [`ACCU`], [`ZF`] or [`CF`] in register `destination`.
    #[must_use]
    pub const fn store_inverted(destination: u32, source: u32) -> u32 {
        0x580 << 20 | destination << 10 | source
    }

    /// [`ACCU`] = [`SRCA`] + [`SRCB`].
    pub const ADD: u32 = 0x100 << 20;
    /// [`ACCU`] = [`SRCA`] - [`SRCB`].
    pub const SUB: u32 = 0x101 << 20;
    /// [`ACCU`] = [`SRCA`] & [`SRCB`].
    pub const AND: u32 = 0x102 << 20;
    /// [`ACCU`] = [`SRCA`] | [`SRCB`].
    pub const OR: u32 = 0x103 << 20;
    /// [`ACCU`] = [`SRCA`] ^ [`SRCB`].
    pub const XOR: u32 = 0x104 << 20;
}

/// Pixel formats of the blitter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// 8 bits.
    Bits8,
    /// 16 bits, 5 6 5.
    Bits565,
    /// 16 bits, 1 5 5 5.
    Bits1555,
    /// 32 bits, 8 8 8 8: blue in the lowest byte, alpha in the highest.
    Bits8888,
}

impl Depth {
    /// Bytes of a pixel.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Bits8 => 1,
            Self::Bits565 | Self::Bits1555 => 2,
            Self::Bits8888 => 4,
        }
    }

    const fn code(self) -> u32 {
        match self {
            Self::Bits8 => 0,
            Self::Bits565 => 1,
            Self::Bits1555 => 2,
            Self::Bits8888 => 3,
        }
    }
}

/// How a surface is laid out in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tiling {
    /// Row after row.
    Linear,
    /// Tiles of 512 bytes by 8 rows.
    X,
    /// Tiles of 128 bytes by 32 rows.
    Y,
}

/// Pixels in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Surface {
    /// GPU address: a multiple of 64 if linear, of 4096 if tiled.
    pub address: u64,
    /// Bytes from row to row: less than 32 KiB if linear, less than 128 KiB and a multiple of the
    /// tile's width if tiled.
    pub pitch: u32,
    /// Layout.
    pub tiling: Tiling,
}

impl Surface {
    /// A linear surface.
    #[must_use]
    pub const fn linear(address: u64, pitch: u32) -> Self {
        Self { address, pitch, tiling: Tiling::Linear }
    }

    const fn pitch_field(&self) -> u32 {
        match self.tiling {
            Tiling::Linear => self.pitch & 0xffff,
            Tiling::X | Tiling::Y => (self.pitch / 4) & 0xffff,
        }
    }

    const fn is_tiled(&self) -> bool {
        !matches!(self.tiling, Tiling::Linear)
    }
}

/// Pixels from left and top to, but not including, right and bottom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rectangle {
    /// First column.
    pub left: i16,
    /// First row.
    pub top: i16,
    /// The column after the last.
    pub right: i16,
    /// The row after the last.
    pub bottom: i16,
}

impl Rectangle {
    /// The rectangle between two corners.
    #[must_use]
    pub const fn new(left: i16, top: i16, right: i16, bottom: i16) -> Self {
        Self { left, top, right, bottom }
    }
}

/// Raster operation: the destination becomes the source.
pub const ROP_COPY: u8 = 0xcc;
/// Raster operation: the destination becomes the colour.
pub const ROP_FILL: u8 = 0xf0;
/// Raster operation: the destination is combined with the colour by exclusive or.
pub const ROP_FILL_XOR: u8 = 0x5a;
/// Raster operation: the destination is combined with the source by exclusive or.
pub const ROP_COPY_XOR: u8 = 0x66;

/// BCS_SWCTRL: which surfaces that blits call tiled are Y tiled. A masked register.
const BLITTER_TILING: u32 = 0x2_2200;

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The commands so far.
    #[must_use]
    pub fn dwords(&self) -> &[u32] {
        &self.dwords
    }

    /// Bytes so far; also the offset of the next command.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.dwords.len() as u64 * 4
    }

    /// Appends dwords as they are.
    pub fn raw(&mut self, dwords: &[u32]) -> &mut Self {
        self.dwords.extend_from_slice(dwords);
        self
    }

    /// MI_BATCH_BUFFER_END, and an MI_NOOP if the length would not be a multiple of eight bytes.
    pub fn end(&mut self) -> &mut Self {
        self.dwords.push(0x0500_0000);
        if !self.dwords.len().is_multiple_of(2) {
            self.dwords.push(0);
        }
        self
    }

    /// MI_NOOP.
    pub fn noop(&mut self) -> &mut Self {
        self.raw(&[0])
    }

    /// MI_ARB_CHECK: the engine may run another context here.
    pub fn arbitration_check(&mut self) -> &mut Self {
        self.raw(&[0x0280_0000])
    }

    /// MI_ARB_ON_OFF: whether the engine may run another context before this batch ends.
    pub fn arbitration(&mut self, on: bool) -> &mut Self {
        self.raw(&[0x0400_0000 | u32::from(on)])
    }

    /// MI_STORE_DATA_IMM: writes a dword to a multiple of 4.
    pub fn store_dword(&mut self, address: u64, value: u32) -> &mut Self {
        self.raw(&[0x1000_0002, low(address), high(address), value])
    }

    /// MI_STORE_DATA_IMM: writes a qword to a multiple of 8.
    pub fn store_qword(&mut self, address: u64, value: u64) -> &mut Self {
        self.raw(&[0x1020_0003, low(address), high(address), low(value), high(value)])
    }

    /// MI_COPY_MEM_MEM: copies a dword.
    pub fn copy_dword(&mut self, to: u64, from: u64) -> &mut Self {
        self.raw(&[0x1700_0003, low(to), high(to), low(from), high(from)])
    }

    /// MI_LOAD_REGISTER_IMM.
    pub fn load_register(&mut self, register: u32, value: u32) -> &mut Self {
        self.raw(&[0x1100_0001, register, value])
    }

    /// MI_LOAD_REGISTER_MEM: loads a register from memory.
    pub fn load_register_from(&mut self, register: u32, address: u64) -> &mut Self {
        self.raw(&[0x1480_0002, register, low(address), high(address)])
    }

    /// MI_LOAD_REGISTER_REG.
    pub fn copy_register(&mut self, to: u32, from: u32) -> &mut Self {
        self.raw(&[0x1500_0001, from, to])
    }

    /// MI_STORE_REGISTER_MEM: writes a register to memory.
    pub fn store_register(&mut self, register: u32, address: u64) -> &mut Self {
        self.raw(&[0x1200_0002, register, low(address), high(address)])
    }

    /// MI_MATH: instructions made by [`alu`]; up to 256, none does nothing.
    pub fn math(&mut self, instructions: &[u32]) -> &mut Self {
        let Some(instructions) = instructions.get(..instructions.len().min(256)) else {
            return self;
        };
        let Some(length) = instructions.len().checked_sub(1) else { return self };
        self.dwords.push(0x0d00_0000 | u32::try_from(length).unwrap_or(0));
        self.raw(instructions)
    }

    /// MI_SEMAPHORE_WAIT, polling: goes on when the dword at `address` compares to `value`.
    pub fn semaphore_wait(&mut self, address: u64, compare: Compare, value: u32) -> &mut Self {
        let header = 0x0e00_8002 | (compare as u32) << 12;
        self.raw(&[header, value, low(address), high(address)])
    }

    /// MI_ATOMIC on a dword, with the operand inline.
    pub fn atomic_dword(&mut self, address: u64, operation: Atomic, operand: u32) -> &mut Self {
        let header = 0x1784_0009 | (operation as u32) << 8;
        self.raw(&[header, low(address), high(address), operand, 0, 0, 0, 0, 0, 0, 0])
    }

    /// MI_ATOMIC: replaces the dword at `address` by `new` if it is `expected`.
    pub fn atomic_compare_write(&mut self, address: u64, expected: u32, new: u32) -> &mut Self {
        let header = 0x1784_0009 | 0x0e << 8;
        self.raw(&[header, low(address), high(address), expected, new, 0, 0, 0, 0, 0, 0])
    }

    /// MI_BATCH_BUFFER_START: goes on at `address`.
    pub fn jump(&mut self, address: u64) -> &mut Self {
        self.raw(&[0x1880_0101, low(address), high(address)])
    }

    /// MI_BATCH_BUFFER_START, second level: executes the batch at `address`, then goes on here.
    pub fn call(&mut self, address: u64) -> &mut Self {
        self.raw(&[0x18c0_0101, low(address), high(address)])
    }

    /// MI_CONDITIONAL_BATCH_BUFFER_END: ends the batch unless the dword at `address` is greater
    /// than `value`.
    pub fn end_unless_greater(&mut self, address: u64, value: u32) -> &mut Self {
        self.raw(&[0x1b20_0002, value, low(address), high(address)])
    }

    /// MI_FLUSH_DW that writes a qword to a multiple of 8 when all before it is done.
    pub fn flush_and_store(&mut self, address: u64, value: u64) -> &mut Self {
        self.raw(&[0x1300_4003, low(address), high(address), low(value), high(value)])
    }

    /// MI_FLUSH_DW that writes the timestamp, a qword, to a multiple of 8.
    pub fn flush_and_store_timestamp(&mut self, address: u64) -> &mut Self {
        self.raw(&[0x1300_c003, low(address), high(address), 0, 0])
    }

    /// A batch that runs until the CPU writes 0 to its dword at offset 0 of the batch, whose GPU
    /// address is `address`. `preemptible` lets the engine run other contexts meanwhile. Must be
    /// the first and only thing in the batch; start it at offset 8.
    pub fn spinner(&mut self, address: u64, preemptible: bool) -> &mut Self {
        self.raw(&[0xffff_ffff, 0]);
        let start = address.wrapping_add(self.bytes());
        if preemptible {
            self.arbitration_check();
        }
        self.end_unless_greater(address, 0);
        self.jump(start);
        if !self.dwords.len().is_multiple_of(2) {
            self.noop();
        }
        self
    }

    /// XY_COLOR_BLT: fills a rectangle with a colour.
    pub fn color_blt(
        &mut self,
        to: &Surface,
        rectangle: Rectangle,
        depth: Depth,
        colour: u32,
    ) -> &mut Self {
        self.color_blt_with(to, rectangle, depth, colour, ROP_FILL)
    }

    /// XY_COLOR_BLT with a raster operation; see [`ROP_FILL`].
    pub fn color_blt_with(
        &mut self,
        to: &Surface,
        rectangle: Rectangle,
        depth: Depth,
        colour: u32,
        rop: u8,
    ) -> &mut Self {
        self.blitter_tiling(None, to);
        let header = 0x5400_0005 | write_mask(depth) | u32::from(to.is_tiled()) << 11;
        self.raw(&[header, controls(to, depth, rop)]);
        self.rectangle(rectangle);
        self.raw(&[low(to.address), high(to.address), colour]);
        self.blitter_tiling_off(None, to)
    }

    /// XY_SRC_COPY_BLT: copies what `source` (left, top) begins to a rectangle. Overlapping copies
    /// within one surface come out right.
    pub fn src_copy(
        &mut self,
        to: &Surface,
        rectangle: Rectangle,
        from: &Surface,
        source: (i16, i16),
        depth: Depth,
    ) -> &mut Self {
        self.src_copy_with(to, rectangle, from, source, depth, ROP_COPY)
    }

    /// XY_SRC_COPY_BLT with a raster operation; see [`ROP_COPY`].
    pub fn src_copy_with(
        &mut self,
        to: &Surface,
        rectangle: Rectangle,
        from: &Surface,
        source: (i16, i16),
        depth: Depth,
        rop: u8,
    ) -> &mut Self {
        self.blitter_tiling(Some(from), to);
        let tiled = u32::from(to.is_tiled()) << 11 | u32::from(from.is_tiled()) << 15;
        self.raw(&[0x54c0_0008 | write_mask(depth) | tiled, controls(to, depth, rop)]);
        self.rectangle(rectangle);
        self.raw(&[low(to.address), high(to.address), corner(source.0, source.1)]);
        self.raw(&[from.pitch_field(), low(from.address), high(from.address)]);
        self.blitter_tiling_off(Some(from), to)
    }

    /// XY_FAST_COPY_BLT: copies without raster operation. Surfaces must not overlap.
    pub fn fast_copy(
        &mut self,
        to: &Surface,
        rectangle: Rectangle,
        from: &Surface,
        source: (i16, i16),
        depth: Depth,
    ) -> &mut Self {
        let tiling = |surface: &Surface| match surface.tiling {
            Tiling::Linear => 0,
            Tiling::X => 1,
            Tiling::Y => 2,
        };
        // 16 bits have one code here: nothing is done with the colours.
        let depth = if depth.bytes() == 2 { 1 } else { depth.code() };
        let header = 0x5080_0008 | tiling(from) << 20 | tiling(to) << 13;
        self.raw(&[header, depth << 24 | to.pitch_field()]);
        self.rectangle(rectangle);
        self.raw(&[low(to.address), high(to.address), corner(source.0, source.1)]);
        self.raw(&[from.pitch_field(), low(from.address), high(from.address)])
    }

    fn rectangle(&mut self, rectangle: Rectangle) {
        self.raw(&[
            corner(rectangle.left, rectangle.top),
            corner(rectangle.right, rectangle.bottom),
        ]);
    }

    /// Says which of the two surfaces are Y tiled, if any is.
    fn blitter_tiling(&mut self, from: Option<&Surface>, to: &Surface) {
        let bits = y_tiled(from, to);
        if bits != 0 {
            self.load_register(BLITTER_TILING, 3 << 16 | bits);
        }
    }

    /// Back to X tiling, which is what every other user of the register expects.
    fn blitter_tiling_off(&mut self, from: Option<&Surface>, to: &Surface) -> &mut Self {
        if y_tiled(from, to) != 0 {
            self.load_register(BLITTER_TILING, 3 << 16);
        }
        self
    }
}

/// Bits of BCS_SWCTRL: 0 the source, 1 the destination.
fn y_tiled(from: Option<&Surface>, to: &Surface) -> u32 {
    let is_y = |surface: &Surface| u32::from(surface.tiling == Tiling::Y);
    from.map_or(0, is_y) | is_y(to) << 1
}

/// Dword 1 of an XY command.
fn controls(to: &Surface, depth: Depth, rop: u8) -> u32 {
    depth.code() << 24 | u32::from(rop) << 16 | to.pitch_field()
}

/// Both colours and alpha are written; the bits mean nothing for narrower pixels.
fn write_mask(depth: Depth) -> u32 {
    if depth == Depth::Bits8888 { 3 << 20 } else { 0 }
}

fn corner(x: i16, y: i16) -> u32 {
    u32::from(y.cast_unsigned()) << 16 | u32::from(x.cast_unsigned())
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(value: u64) -> u32 {
    value as u32
}

/// Addresses have 48 bits; values have all 64.
fn high(value: u64) -> u32 {
    low(value >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encodings that drivers and tests of the field emit.
    #[test]
    fn commands_are_encoded_as_drivers_do() {
        let mut batch = Batch::new();
        batch
            .store_dword(0x1234_5678_9000, 7)
            .store_qword(0x8000, 0x1_0000_0002)
            .semaphore_wait(0x4000, Compare::NotEqual, 9)
            .end_unless_greater(0x4000, 0)
            .load_register(general_register(base::COPY, 3), 5)
            .jump(0x9000);
        let expected: &[u32] = &[
            0x1000_0002,
            0x5678_9000,
            0x1234,
            7, // dword
            0x1020_0003,
            0x8000,
            0,
            2,
            1, // qword
            0x0e00_d002,
            9,
            0x4000,
            0, // semaphore
            0x1b20_0002,
            0,
            0x4000,
            0, // conditional end
            0x1100_0001,
            0x2_2618,
            5, // register
            0x1880_0101,
            0x9000,
            0, // jump
        ];
        assert_eq!(batch.dwords(), expected);
    }

    #[test]
    fn blits_are_encoded_as_drivers_do() {
        let to = Surface::linear(0x1_0000_0000, 256);
        let from = Surface { address: 0x2000, pitch: 512, tiling: Tiling::X };
        let area = Rectangle::new(1, 2, 3, 4);
        let mut batch = Batch::new();
        batch.color_blt(&to, area, Depth::Bits8888, 0xff00_ff00);
        let expected: &[u32] =
            &[0x5430_0005, 0x03f0_0100, 0x0002_0001, 0x0004_0003, 0, 1, 0xff00_ff00];
        assert_eq!(batch.dwords(), expected);

        let mut batch = Batch::new();
        batch.src_copy(&to, area, &from, (-1, 5), Depth::Bits8888);
        let expected: &[u32] = &[
            0x54f0_8008,
            0x03cc_0100,
            0x0002_0001,
            0x0004_0003,
            0,
            1, // to
            0x0005_ffff,
            128,
            0x2000,
            0, // from
        ];
        assert_eq!(batch.dwords(), expected);

        let mut batch = Batch::new();
        batch.fast_copy(&to, area, &from, (0, 0), Depth::Bits8888);
        assert_eq!(batch.dwords().first(), Some(&0x5090_0008));
        assert_eq!(batch.dwords().get(1), Some(&0x0300_0100));
    }

    #[test]
    fn y_tiling_is_switched_on_and_off_again() {
        let to = Surface { address: 0x1000, pitch: 128, tiling: Tiling::Y };
        let mut batch = Batch::new();
        batch.color_blt(&to, Rectangle::new(0, 0, 1, 1), Depth::Bits8, 1);
        assert_eq!(batch.dwords().get(..3), Some(&[0x1100_0001, 0x2_2200, 0x0003_0002][..]));
        assert_eq!(batch.dwords().get(10..), Some(&[0x1100_0001, 0x2_2200, 0x0003_0000][..]));
    }

    #[test]
    fn batches_end_on_a_qword() {
        for noops in 0..4 {
            let mut batch = Batch::new();
            for _ in 0..noops {
                batch.noop();
            }
            batch.end();
            assert_eq!(batch.bytes() % 8, 0, "{noops} MI_NOOP first");
        }
    }

    #[test]
    fn a_spinner_loops_behind_its_condition() {
        let mut batch = Batch::new();
        batch.spinner(0x10_0000, true);
        let expected: &[u32] = &[
            0xffff_ffff,
            0,
            0x0280_0000, // the condition, and where it starts
            0x1b20_0002,
            0,
            0x10_0000,
            0, // until the condition is 0
            0x1880_0101,
            0x10_0008,
            0, // again
        ];
        assert_eq!(batch.dwords(), expected);
        assert_eq!(batch.bytes() % 8, 0);
    }
}
