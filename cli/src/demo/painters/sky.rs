//! The upper sky. The render engine computes the colour of every row with MI_MATH, the blitter
//! spreads the column over the strip, and both are ordered by a fence.

use gpu_broker_client::gen9::alu;

use super::super::batch::{Batch, Gpr, Surface, calculate};
use super::super::scene::{self, Colour, SUN, Span, WIDTH};
use super::super::studio::{Expected, Studio};
use super::{Role, fill_spans, strip_bytes};

const ROWS: u32 = Role::Sky.rows().1;
/// Rings of the legacy engine map (I915_EXEC_RENDER and I915_EXEC_BLT).
const RENDER_RING: u32 = 1;
const BLIT_RING: u32 = 3;
const STARS: u32 = 170;
/// Centre, half the width, half the height, and strength of 256.
const CLOUDS: [(i32, i32, i32, i32, u32); 9] = [
    (180, 176, 210, 5, 70),
    (250, 184, 150, 4, 96),
    (420, 206, 120, 3, 80),
    (880, 150, 190, 5, 60),
    (800, 158, 120, 3, 84),
    (90, 236, 150, 5, 96),
    (210, 244, 170, 4, 110),
    (960, 226, 140, 5, 90),
    (330, 262, 200, 4, 96),
];

pub(super) fn create(studio: &mut Studio) -> Result<(), String> {
    studio.make_vm()?;
    let more = ", RECOVERABLE 0, BANNABLE 1";
    studio.make_configured(Role::Sky.priority(), more, |builder| {
        builder.recoverable(false).bannable(true)
    })
}

pub(super) fn configure(studio: &mut Studio) -> Result<(), String> {
    const EPERM: i32 = 1;
    studio.refused("SETPARAM PRIORITY 500", EPERM, |context| context.set_priority(500))
}

pub(super) fn paint(studio: &mut Studio) -> Result<Vec<u8>, String> {
    let [strip] = studio.pixels([strip_bytes(ROWS)])?;
    let uses = [(&strip, true)];
    let computed =
        studio.submit(RENDER_RING, "rcs0", gradient_column(&strip.surface()), &uses, None)?;
    let blits = spread_and_decorate(&strip.surface());
    let done = studio.submit(BLIT_RING, "bcs0 after that fence", blits, &uses, Some(&computed))?;
    studio.wait(&done)?;
    let row = |x: u32, y: u32| Expected { x, y, colour: scene::sky(y), part: "gradient" };
    let sun = scene::sun_spans(ROWS - 1).last().map_or(Colour(0), |span| span.colour);
    let sun = Expected { x: SUN.0.unsigned_abs(), y: ROWS - 1, colour: sun, part: "sun" };
    studio.read_back(&strip, ROWS, &[row(0, 0), row(1023, 119), row(1, 214), row(1000, 287), sun])
}

/// Leftmost pixel of each row: three fixed-point accumulators, masked and joined.
fn gradient_column(surface: &Surface) -> Batch {
    let mut batch = Batch::new();
    // The pixel is read from the upper half of a register, so that blue has its fraction below it.
    let shift = [48, 40, 32].map(|at| at - scene::FRACTION_BITS);
    let [sums, steps, masks] = [[0, 1, 2], [3, 4, 5], [6, 7, 8]].map(|set: [u8; 3]| set.map(Gpr));
    let (pixel, part) = (Gpr(9), Gpr(10));
    for (mask, at) in masks.iter().zip([48, 40, 32]) {
        batch.load_gpr(*mask, 0xff << at);
    }
    for segment in scene::sky_segments().filter(|segment| segment.first < ROWS) {
        for channel in 0..3 {
            batch.load_gpr(sums[channel], segment.start[channel] << shift[channel]);
            batch.load_gpr(steps[channel], segment.step[channel] << shift[channel]);
        }
        for row in segment.first..(segment.first + segment.rows).min(ROWS) {
            let program = [
                calculate(alu::AND, sums[0], masks[0], pixel),
                calculate(alu::AND, sums[1], masks[1], part),
                calculate(alu::OR, pixel, part, pixel),
                calculate(alu::AND, sums[2], masks[2], part),
                calculate(alu::OR, pixel, part, pixel),
                calculate(alu::ADD, sums[0], steps[0], sums[0]),
                calculate(alu::ADD, sums[1], steps[1], sums[1]),
                calculate(alu::ADD, sums[2], steps[2], sums[2]),
            ];
            batch.math(program.as_flattened());
            batch.store_gpr_high(pixel, surface.address + u64::from(row * WIDTH) * 4);
        }
    }
    batch
}

fn spread_and_decorate(surface: &Surface) -> Batch {
    let mut batch = Batch::new();
    let mut width = 1;
    while width < WIDTH {
        batch.copy(surface, [width, 0], surface, [0, 0, width, ROWS]);
        width *= 2;
    }
    for star in 0..STARS {
        let (x, y) = (scene::scatter(star, 1) % (WIDTH - 2), scene::scatter(star, 2) % 200);
        let brightness = 220_u32.saturating_sub(y) * (64 + scene::scatter(star, 3) % 192) / 220;
        let colour = scene::sky(y).mix(Colour(0xff_f8e8), brightness);
        let size = 1 + u32::from(star % 9 == 0 && y < 120);
        for (dx, dy) in (0..size).flat_map(|dx| (0..size).map(move |dy| (dx, dy))) {
            let pixel = u64::from((y + dy) * WIDTH + x + dx) * 4;
            batch.store_dword(surface.address + pixel, colour.0);
        }
    }
    for y in 0..ROWS {
        fill_spans(&mut batch, surface, 0, &scene::sun_spans(y));
        fill_spans(&mut batch, surface, 0, &cloud_spans(y));
    }
    batch
}

/// Thin clouds, lit from below.
fn cloud_spans(y: u32) -> Vec<Span> {
    let span = |&(x, centre, half_width, half_height, parts): &(i32, i32, i32, i32, u32)| {
        let dy = y.cast_signed() - centre;
        let chord = scene::half_chord(half_height * 16, dy * 16)?;
        let half = half_width * chord / (half_height * 16);
        let lit = if dy > 0 { Colour(0xff_b890) } else { Colour(0xd8_7a98) };
        let ragged = (scene::scatter(y, x.unsigned_abs()) % 24).cast_signed();
        let colour = scene::sky(y).mix(lit, parts);
        Some(Span { y, x0: x - half + ragged, x1: x + half - 24 + ragged, colour })
    };
    CLOUDS.iter().filter_map(span).collect()
}
