#![expect(clippy::cast_possible_truncation, reason = "addresses and coordinates of tests fit")]

use std::sync::LazyLock;

use proptest::prelude::*;

use super::surface::{Surface, Tiling};
use crate::testing::{Bench, TestClock, TestMemory};
use crate::{EngineKind, EngineSpec, FaultCause, Stop, Streamer};

/// Memory for blits, and where surfaces are in it: room on both sides for negative coordinates.
const MEMORY: u64 = 0x40_0000;
const BYTES: usize = 0x20_0000;
const TO: u64 = 0x48_0000;
const FROM: u64 = 0x58_0000;
const BATCH: u64 = MEMORY;

/// A blit as the commands describe it.
#[derive(Clone, Copy, Debug)]
struct Case {
    command: Kind,
    /// Bytes of a pixel.
    pixel: i64,
    rop: u8,
    /// Colours, alpha.
    mask: (bool, bool),
    colour: u32,
    to: Side,
    from: Side,
    /// Left, top, width, height of the destination, left and top of the source.
    area: [i64; 6],
    clip: Option<[i64; 4]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Color,
    SrcCopy,
    FastCopy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Side {
    base: u64,
    pitch: i64,
    tiling: Tiling,
}

fn corner(x: i64, y: i64) -> u32 {
    ((y as u32) & 0xffff) << 16 | (x as u32) & 0xffff
}

impl Case {
    fn encode(&self) -> Vec<u32> {
        let field = |side: &Side| {
            let pitch = if side.tiling == Tiling::Linear { side.pitch } else { side.pitch / 4 };
            (pitch as u32) & 0xffff
        };
        let [x, y, width, height, from_x, from_y] = self.area;
        let y_tiled = |side: &Side| u32::from(side.tiling == Tiling::Y);
        let tiled = |side: &Side| u32::from(side.tiling != Tiling::Linear);
        let mut batch =
            vec![0x1100_0001, 0x2_2200, 3 << 16 | y_tiled(&self.from) | y_tiled(&self.to) << 1];
        if let Some([left, top, right, bottom]) = self.clip {
            batch.extend([0x40c0_0001, corner(left, top), corner(right, bottom)]);
        }
        let header = match self.command {
            Kind::Color => 0x5400_0005,
            Kind::SrcCopy => 0x54c0_0008 | tiled(&self.from) << 15,
            Kind::FastCopy => 0x5080_0008,
        };
        let fast = |side: &Side| match side.tiling {
            Tiling::Linear => 0,
            Tiling::X => 1,
            Tiling::Y => 2,
        };
        if self.command == Kind::FastCopy {
            let depth = match self.pixel {
                1 => 0,
                2 => 1,
                4 => 3,
                8 => 4,
                _ => 5,
            };
            batch.push(header | fast(&self.from) << 20 | fast(&self.to) << 13);
            batch.push(depth << 24 | field(&self.to));
        } else {
            let mask = u32::from(self.mask.0) << 20 | u32::from(self.mask.1) << 21;
            let depth = match self.pixel {
                1 => 0,
                2 => 1 + u32::from(self.rop & 1),
                _ => 3,
            };
            let clip = u32::from(self.clip.is_some()) << 30;
            batch.push(header | mask | tiled(&self.to) << 11);
            batch.push(clip | depth << 24 | u32::from(self.rop) << 16 | field(&self.to));
        }
        batch.extend([corner(x, y), corner(x + width, y + height), self.to.base as u32, 0]);
        if self.command == Kind::Color {
            batch.push(self.colour);
        } else {
            batch.extend([corner(from_x, from_y), field(&self.from), self.from.base as u32, 0]);
        }
        batch.push(0x0500_0000);
        batch
    }

    /// The naive model: pixel by pixel, bit by bit, every source pixel as it was before.
    fn model(&self, before: &[u8]) -> Vec<u8> {
        let mut after = before.to_vec();
        let [x, y, width, height, from_x, from_y] = self.area;
        for row in 0..height {
            for column in 0..width {
                let (to_x, to_y) = (x + column, y + row);
                if let Some([left, top, right, bottom]) = self.clip
                    && (to_x < left || to_x >= right || to_y < top || to_y >= bottom)
                {
                    continue;
                }
                for byte in 0..self.pixel {
                    let at = self.to.offset(to_x * self.pixel + byte, to_y);
                    let source = if self.command == Kind::Color {
                        0
                    } else {
                        let x = (from_x + column) * self.pixel + byte;
                        before[self.from.offset(x, from_y + row)]
                    };
                    after[at] = self.result(byte, source, before[at]);
                }
            }
        }
        after
    }

    fn result(&self, byte: i64, source: u8, destination: u8) -> u8 {
        if self.command == Kind::FastCopy {
            return source;
        }
        if self.pixel == 4 && !(if byte == 3 { self.mask.1 } else { self.mask.0 }) {
            return destination;
        }
        // No case copies after a fill, so the pattern of a copy is that of a new context.
        let colour = if self.command == Kind::Color { self.colour } else { 0 };
        let pattern = colour.to_le_bytes()[byte as usize];
        (0..8).fold(0, |result, bit| {
            let of = |value: u8| value >> bit & 1;
            let index = of(pattern) << 2 | of(source) << 1 | of(destination);
            result | (self.rop >> index & 1) << bit
        })
    }
}

impl Side {
    /// Where a byte is in memory, by walking tiles rather than by a formula for whole surfaces.
    fn offset(&self, x: i64, y: i64) -> usize {
        let (width, height) = match self.tiling {
            Tiling::Linear => return self.at(y * self.pitch + x),
            Tiling::X => (512, 8),
            Tiling::Y => (128, 32),
        };
        let (tile_x, tile_y) = (x.div_euclid(width), y.div_euclid(height));
        let (x, y) = (x - tile_x * width, y - tile_y * height);
        let tile = tile_y * (self.pitch / width) + tile_x;
        let inside = match self.tiling {
            // Address bits: yyy xxxxxxxxx.
            Tiling::X => y << 9 | x,
            // Address bits: xxx yyyyy xxxx.
            Tiling::Y | Tiling::Linear => (x >> 4) << 9 | y << 4 | x & 15,
        };
        self.at(tile * 4096 + inside)
    }

    fn at(&self, offset: i64) -> usize {
        usize::try_from(self.base as i64 + offset - MEMORY as i64).unwrap()
    }
}

/// Bytes that differ from their neighbours, so that a pixel in the wrong place is noticed.
fn noise() -> Vec<u8> {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..BYTES).map(|_| next()).collect()
    });
    NOISE.clone()
}

/// Executes a case in runs of `budget`; answers memory behind the batch, and the model's.
fn both(case: &Case, budget: u32) -> (Vec<u8>, Vec<u8>) {
    let memory = TestMemory::of(MEMORY, noise());
    memory.put(BATCH, &case.encode());
    let before = memory.image();
    let mut streamer = Streamer::new(&EngineSpec::of(EngineKind::Copy));
    streamer.start(BATCH, 0);
    loop {
        match streamer.run(&memory, &TestClock::default(), budget) {
            Stop::Budget { .. } => {}
            Stop::Done => break,
            stop @ (Stop::Waiting(_) | Stop::Spinning { .. } | Stop::Fault(_)) => {
                panic!("{stop:?}")
            }
        }
    }
    (memory.image(), case.model(&before))
}

fn side(base: u64) -> impl Strategy<Value = Side> {
    prop_oneof![
        (0i64..40, any::<bool>()).prop_map(move |(step, up)| {
            let pitch = 600 + step * 4;
            Side { base, pitch: if up { pitch } else { -pitch }, tiling: Tiling::Linear }
        }),
        (1i64..4).prop_map(move |n| Side { base, pitch: n * 512, tiling: Tiling::X }),
        (1i64..10).prop_map(move |n| Side { base, pitch: n * 128, tiling: Tiling::Y }),
    ]
}

prop_compose! {
    fn case()(
        command in prop_oneof![Just(Kind::Color), Just(Kind::SrcCopy), Just(Kind::FastCopy)],
        pixel in proptest::sample::select(vec![1i64, 2, 4, 8, 16]),
        rop in prop_oneof![Just(0xcc), Just(0xf0), any::<u8>()],
        mask in prop_oneof![Just((true, true)), any::<(bool, bool)>()],
        colour in any::<u32>(),
        to in side(TO),
        from in side(FROM),
        one_surface in any::<bool>(),
        (x, y, width, height) in (-40i64..100, -40i64..60, 0i64..150, 0i64..90),
        (from_x, from_y) in (-40i64..100, -40i64..60),
        clip in proptest::option::of((-20i64..60, -20i64..40, 0i64..120, 0i64..80)),
    ) -> Case {
        let pixel = if command == Kind::FastCopy { pixel } else { pixel.min(4) };
        let from = if one_surface { to } else { from };
        let clip = clip
            .filter(|_| command != Kind::FastCopy)
            .map(|(left, top, width, height)| [left, top, left + width, top + height]);
        let area = [x, y, width, height, from_x, from_y];
        // Blits wider than a linear pitch or a row of tiles wrap into the next row, where the
        // order of writes would matter.
        let room = to.pitch.abs().min(from.pitch.abs()) / pixel;
        let mut case = Case { command, pixel, rop, mask, colour, to, from, area, clip };
        let first = x.min(from_x).min(0);
        let last = x.max(from_x);
        case.area[2] = width.min(room - last + first).max(0);
        case
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Memory after a blit is what the naive model makes of it, byte for byte and everywhere.
    #[test]
    fn blits_agree_with_the_model(
        case in case(),
        budget in proptest::sample::select(vec![1u32, 1 << 20]),
    ) {
        let (found, expected) = both(&case, budget);
        let first = (0..BYTES).find(|&at| found[at] != expected[at]);
        prop_assert_eq!(first, None, "first difference");
    }
}

fn linear(base: u64, pitch: i64) -> Side {
    Side { base, pitch, tiling: Tiling::Linear }
}

fn copy(to: Side, from: Side, area: [i64; 6]) -> Case {
    let (mask, colour) = ((true, true), 0);
    Case { command: Kind::SrcCopy, pixel: 4, rop: 0xcc, mask, colour, to, from, area, clip: None }
}

#[test]
fn every_raster_operation_agrees_with_the_model() {
    for rop in 0..=255 {
        for (command, pixel) in [(Kind::Color, 1), (Kind::Color, 4), (Kind::SrcCopy, 2)] {
            let (to, from) = (linear(TO, 100), linear(FROM, 128));
            let mut case = copy(to, from, [1, 1, 11, 3, 2, 2]);
            case = Case { command, pixel, rop, colour: 0x1234_5678, ..case };
            let (found, expected) = both(&case, 1000);
            assert!(found == expected, "{command:?}, rop {rop:#x}, {pixel} bytes");
        }
    }
}

#[test]
fn blits_larger_than_blocks_agree_with_the_model() {
    for (to, from) in [
        (linear(TO, 24_000), linear(FROM, 20_004)),
        (Side { base: TO, pitch: 8192, tiling: Tiling::X }, linear(FROM, 20_004)),
        (linear(TO, 24_000), Side { base: FROM, pitch: 8192, tiling: Tiling::Y }),
    ] {
        let mut case = copy(to, from, [3, 1, 2000, 20, 5, 2]);
        for rop in [0xcc, 0x66] {
            case.rop = rop;
            let (found, expected) = both(&case, 100);
            assert!(found == expected, "{case:?}");
        }
    }
}

#[test]
fn overlapping_copies_read_before_they_write() {
    // One surface, blocks in both directions; then two views of one buffer, rows apart.
    let tiled = Side { base: TO, pitch: 4096, tiling: Tiling::Y };
    for (to, from) in [
        (linear(TO, 20_480), linear(TO, 20_480)),
        (tiled, tiled),
        (linear(TO + 20_480 * 3 + 64, 20_480), linear(TO, 20_480)),
        (linear(TO, 20_480), linear(TO + 20_480 * 3 + 64, 20_480)),
    ] {
        for (x, y) in [(0, 0), (0, 9), (9, 0), (9, 9), (5, 3)] {
            for width in [900, 4600] {
                let width = if to.tiling == Tiling::Y { 900 } else { width };
                let case = copy(to, from, [x, y, width, 12, 9 - x, 9 - y]);
                let (found, expected) = both(&case, 1000);
                assert!(found == expected, "{case:?}");
            }
        }
    }
}

#[test]
fn tiles_are_laid_out_as_the_manual_draws_them() {
    let x = Surface { base: 0x1_0000, pitch: 1024, tiling: Tiling::X };
    let y = Surface { base: 0x1_0000, pitch: 256, tiling: Tiling::Y };
    for (surface, at, expected) in [
        (&x, (0, 0), 0x1_0000),
        (&x, (511, 0), 0x1_01ff),
        (&x, (0, 1), 0x1_0200),
        (&x, (512, 0), 0x1_1000),
        (&x, (0, 8), 0x1_2000),
        (&x, (517, 9), 0x1_3205),
        (&x, (-1, -1), 0x1_0000 - 0x2000 - 1 + 0x1000 - 0x1000),
        (&y, (0, 0), 0x1_0000),
        (&y, (15, 0), 0x1_000f),
        (&y, (16, 0), 0x1_0200),
        (&y, (0, 1), 0x1_0010),
        (&y, (127, 31), 0x1_0fff),
        (&y, (128, 0), 0x1_1000),
        (&y, (0, 32), 0x1_2000),
        (&y, (145, 33), 0x1_3211),
    ] {
        assert_eq!(surface.address(at.0, at.1), expected, "{:?} {at:?}", surface.tiling);
    }
}

#[test]
fn nothing_is_drawn_where_there_is_nothing_to_draw() {
    let (to, from) = (linear(TO, 256), linear(FROM, 256));
    let clip = Some([5, 5, 5, 9]);
    for case in [
        copy(to, from, [5, 5, 0, 3, 0, 0]),
        copy(to, from, [5, 5, -3, 3, 0, 0]),
        Case { clip, ..copy(to, from, [5, 5, 3, 3, 0, 0]) },
        Case { rop: 0xaa, ..copy(to, from, [5, 5, 3, 3, 0, 0]) },
        Case { mask: (false, false), ..copy(to, from, [5, 5, 3, 3, 0, 0]) },
    ] {
        let memory = TestMemory::of(MEMORY, noise());
        memory.put(BATCH, &case.encode());
        let before = memory.image();
        let mut streamer = Streamer::new(&EngineSpec::of(EngineKind::Copy));
        streamer.start(BATCH, 0);
        assert_eq!(streamer.run(&memory, &TestClock::default(), 100), Stop::Done, "{case:?}");
        assert!(memory.image() == before, "{case:?}");
        assert_eq!(streamer.counters().blits, 0);
    }
}

#[test]
fn a_copy_uses_the_colour_of_the_last_fill_as_pattern() {
    let mut bench = Bench::new(EngineKind::Copy);
    bench.memory.put(0x11_0100, &[0x0f0f_0f0f]);
    bench.complete(&[
        0x5430_0005,
        0x03f0_0100,
        0,
        0x0001_0001,
        0x11_0000,
        0,
        0x3333_3333, //
        // D = P & S
        0x54f0_0008,
        0x03c0_0100,
        0,
        0x0001_0001,
        0x11_0200,
        0,
        0,
        0x100,
        0x11_0100,
        0,
    ]);
    assert_eq!(bench.memory.dword(0x11_0200), 0x0303_0303);
    assert_eq!(bench.streamer.counters().blits, 2);
}

#[test]
fn a_setup_sets_the_clip_rectangle() {
    let mut bench = Bench::new(EngineKind::Copy);
    bench.complete(&[
        0x4040_0008,
        0x03f0_0000,
        0,
        0x0001_0002,
        0x11_0000,
        0,
        0,
        0,
        0,
        0, //
        0x5430_0005,
        0x43f0_0100,
        0,
        0x0004_0004,
        0x11_0000,
        0,
        7,
    ]);
    let row = |y: u64| [0, 4, 8].map(|x| bench.memory.dword(0x11_0000 + y * 0x100 + x));
    assert_eq!([row(0), row(1)], [[7, 7, 0], [0, 0, 0]]);
}

#[test]
fn a_blit_stops_between_blocks_and_dies_where_memory_ends() {
    let mut bench = Bench::new(EngineKind::Copy);
    // 128 KiB and more of a buffer that ends before.
    let fill = [0x5430_0005, 0x03f0_0400, 0, 0x0100_0100, 0x11_0000, 0, 7];
    bench.run(&[]);
    bench.memory.put(0x10_0000, &fill);
    bench.streamer.start(0x10_0000, 0);
    assert_eq!(bench.resume(1), Stop::Budget { arbitration: false });
    assert_eq!(bench.memory.dword(0x11_0000 + 0x3ffc), 7, "the first block is done");
    assert_eq!(bench.memory.dword(0x11_0000 + 0x4000), 0, "the second is not");
    let Stop::Fault(fault) = bench.resume(1_000_000) else { panic!("it found memory") };
    assert_eq!((fault.command, fault.address), ("XY_COLOR_BLT", 0x10_0000));
    assert!(matches!(fault.what, FaultCause::Unmapped(what) if what.write));
    assert_eq!(bench.resume(10), Stop::Done);
    // A new batch does not go on with the blit of another.
    bench.memory.put(0x10_0000, &fill);
    bench.memory.put(0x11_4000, &[0]);
    bench.streamer.start(0x10_0000, 0);
    assert_eq!(bench.resume(1), Stop::Budget { arbitration: false });
    bench.complete(&[0x1000_0002, 0x11_0000, 0, 1]);
    assert_eq!(bench.memory.dword(0x11_4000), 0);
}

#[test]
fn malformed_blits_fault() {
    let what = |batch: &[u32]| match Bench::new(EngineKind::Copy).run(batch) {
        Stop::Fault(fault) => fault.what,
        stop @ (Stop::Done | Stop::Budget { .. } | Stop::Waiting(_) | Stop::Spinning { .. }) => {
            panic!("{stop:?}")
        }
    };
    let xy = [0, 0x0001_0001];
    let fill = |header: u32, controls: u32, address: u32| {
        what(&[header, controls, xy[0], xy[1], address, 0, 0])
    };
    assert_eq!(
        fill(0x5430_0005, 0x03f0_0100, 0x11_0004),
        FaultCause::Misaligned { address: 0x11_0004, alignment: 64 }
    );
    assert_eq!(
        fill(0x5430_0805, 0x03f0_0080, 0x11_0040),
        FaultCause::Misaligned { address: 0x11_0040, alignment: 4096 }
    );
    let pitch = |value| FaultCause::Invalid { field: "pitch of a tiled surface", value };
    assert_eq!(fill(0x5430_0805, 0x03f0_0081, 0x11_0000), pitch(0x81));
    assert_eq!(fill(0x5430_0805, 0x03f0_ff80, 0x11_0000), pitch(0xff80));
    assert_eq!(
        fill(0x5430_0004, 0x03f0_0100, 0x11_0000),
        FaultCause::TooShort { dwords: 6, needed: 7 }
    );
    let fast = |header: u32, controls: u32| {
        what(&[header, controls, xy[0], xy[1], 0x11_0000, 0, 0, 0x80, 0x11_0000, 0])
    };
    let gen9 = FaultCause::Unsupported { what: "Yf and Ys tiling" };
    assert_eq!(fast(0x5080_6008, 0x0300_0080), gen9);
    assert_eq!(fast(0x50a0_0008, 0x8300_0080), gen9);
    assert_eq!(
        fast(0x5080_0008, 0x0200_0080),
        FaultCause::Invalid { field: "colour depth", value: 2 }
    );
    assert!(matches!(what(&[0x5440_0000, 0]), FaultCause::Unsupported { .. }));
    assert!(matches!(what(&[0x5f80_0000, 0]), FaultCause::Unknown { .. }));
}

#[test]
fn narrow_blits_stop_as_often_as_wide_ones() {
    let memory = TestMemory::new(MEMORY, BYTES);
    // One pixel wide, 10 000 rows high.
    memory.put(BATCH, &[0x5430_0005, 0x03f0_0040, 0, 10_000 << 16 | 1, TO as u32, 0, 7]);
    let mut streamer = Streamer::new(&EngineSpec::of(EngineKind::Copy));
    streamer.start(BATCH, 0);
    let stop = streamer.run(&memory, &TestClock::default(), 1);
    assert_eq!(stop, Stop::Budget { arbitration: false });
    let rows = (0..10_000).filter(|row| memory.dword(TO + row * 0x40) == 7).count();
    assert!((1..=64).contains(&rows), "{rows} rows in one step");
}

#[test]
fn each_fill_has_its_own_colour() {
    let mut bench = Bench::new(EngineKind::Copy);
    let fill = |at: u32, colour: u32| [0x5430_0005, 0x03f0_0040, 0, 0x0001_0002, at, 0, colour];
    let mut batch = fill(0x11_0000, 1).to_vec();
    batch.extend(fill(0x11_0040, 2));
    // A copy in between uses the same room.
    batch.extend([0x54f0_0008, 0x03cc_0040, 0, 0x0001_0001, 0x11_0080, 0, 0, 0x40, 0x11_0000, 0]);
    batch.extend(fill(0x11_00c0, 2));
    bench.complete(&batch);
    let dwords = [0, 4, 0x40, 0x44, 0x80, 0xc0].map(|at| bench.memory.dword(0x11_0000 + at));
    assert_eq!(dwords, [1, 1, 2, 2, 1, 2]);
}
