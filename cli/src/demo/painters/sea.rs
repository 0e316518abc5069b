//! The water: what stands above the horizon is painted once more, darker, into X-tiled scratch
//! memory, and copied from there row by row, mirrored and swaying. Waves and glitter follow.
//!
//! The context has an engine map with a gap, and exists on the device since a GETPARAM.

use gpu_broker_client::protocol::param::{EngineId, EngineMap, class};

use super::super::batch::{Batch, Rop, Surface, x_tiled};
use super::super::scene::{self, Colour, HORIZON, RIDGES, SUN, Span, WIDTH};
use super::super::studio::{Expected, Studio};
use super::{Role, fill_spans, strip_bytes};

const ROWS: u32 = Role::Sea.rows().1;
/// First row of the picture that is mirrored.
const MIRRORED: u32 = HORIZON - ROWS;
/// rcs0, nothing, bcs0.
const ENGINE_MAP: [EngineId; 3] = [
    EngineId { class: class::RENDER, instance: 0 },
    EngineId::GAP,
    EngineId { class: class::COPY, instance: 0 },
];
const GAP_SLOT: u32 = 1;
const BLIT_SLOT: u32 = 2;
const WATER: Colour = Colour(0x1a_2c5e);
/// Mast of the boat and row of its water line in the strip.
const BOAT: (i32, u32) = (286, 66);

pub(super) fn create(studio: &mut Studio) -> Result<(), String> {
    studio.make_vm()?;
    studio.make_context()
}

pub(super) fn configure(studio: &mut Studio) -> Result<(), String> {
    const EINVAL: i32 = 22;
    studio.set_vm_and_priority(Role::Sea.priority())?;
    let map = || EngineMap { slots: ENGINE_MAP.to_vec(), extensions: Vec::new() };
    studio.configure("SETPARAM ENGINES rcs0, gap, bcs0", |s| {
        s.context()?.set_engines(map()).map_err(|e| e.to_string())
    })?;
    let priority = studio.configure("GETPARAM PRIORITY, which materialises", |s| {
        s.context()?.priority().map_err(|e| e.to_string())
    })?;
    if priority != Role::Sea.priority() {
        return Err(format!("the priority is {priority}, which was never set"));
    }
    let late = "SETPARAM ENGINES on the live context";
    studio.refused(late, EINVAL, |context| context.set_engines(map()))
}

pub(super) fn paint(studio: &mut Studio) -> Result<Vec<u8>, String> {
    let [strip, scratch] = studio.pixels([strip_bytes(ROWS); 2])?;
    studio.submit_to_gap(GAP_SLOT)?;
    let uses = [(&strip, true), (&scratch, true)];
    let tiled = x_tiled(scratch.address(), WIDTH * 4);
    let blits = water(&strip.surface(), &tiled);
    let done = studio.submit(BLIT_SLOT, "bcs0", blits, &uses, None)?;
    studio.wait(&done)?;
    let colour = below(HORIZON - 1, scene::ridge_colour(RIDGES - 1, HORIZON - 1));
    let shore = |x| Expected { x, y: 0, colour, part: "mirrored shore" };
    studio.read_back(&strip, ROWS, &[shore(0), shore(500), shore(1023)])
}

/// What a colour of a row above the horizon looks like in the water.
fn below(row: u32, colour: Colour) -> Colour {
    colour.mix(WATER, 60 + (HORIZON - row) * 110 / ROWS)
}

fn water(surface: &Surface, tiled: &Surface) -> Batch {
    let mut batch = Batch::new();
    for y in MIRRORED..HORIZON {
        let ground = Span { y, x0: 0, x1: WIDTH.cast_signed(), colour: scene::sky(y) };
        let mut spans = vec![ground];
        spans.extend(scene::sun_spans(y));
        spans.extend((0..RIDGES).flat_map(|ridge| scene::ridge_spans(ridge, y)));
        spans.iter_mut().for_each(|span| span.colour = below(y, span.colour));
        fill_spans(&mut batch, tiled, MIRRORED, &spans);
    }
    for row in 0..ROWS {
        mirror_row(&mut batch, surface, tiled, row);
    }
    waves(&mut batch, surface);
    for row in 2..ROWS {
        fill_spans(&mut batch, surface, 0, &glitter(row));
    }
    fill_spans(&mut batch, surface, 0, &boat());
    batch
}

/// Copies one row, swaying the more the nearer it is. What the sway uncovers at a side keeps its
/// unmoved copy.
fn mirror_row(batch: &mut Batch, surface: &Surface, tiled: &Surface, row: u32) {
    let from = ROWS - 1 - row;
    let phase = (row * row / 24 + row * 3) % 28;
    let sway = phase.min(28 - phase).cast_signed() - 7;
    let sway = sway * (row / 10).cast_signed() / 7;
    let width = WIDTH - sway.unsigned_abs();
    let (to_x, from_x) = if sway > 0 { (sway.unsigned_abs(), 0) } else { (0, sway.unsigned_abs()) };
    batch.copy(surface, [0, row], tiled, [0, from, WIDTH, 1]);
    if sway != 0 {
        batch.copy(surface, [to_x, row], tiled, [from_x, from, width, 1]);
    }
}

/// Crests, made by setting a few bits of what is there.
fn waves(batch: &mut Batch, surface: &Surface) {
    for row in (3..ROWS).step_by(2) {
        for wave in 0..10 {
            let seed = scene::scatter(row, wave);
            let length = 20 + seed % (24 + row);
            let x = scene::scatter(seed, 5) % WIDTH;
            let end = (x + length).min(WIDTH);
            batch.fill_rop(surface, [x, row, end, row + 1], Colour(0x18_1420), Rop::FillOr);
        }
    }
}

/// The sun's path on the water.
fn glitter(row: u32) -> Vec<Span> {
    let reach = (26 + row / 2).cast_signed();
    let spark = |number: u32| {
        let seed = scene::scatter(row * 31, number);
        let x = SUN.0 - reach + (seed % (2 * reach.unsigned_abs())).cast_signed();
        let half = (2 + scene::scatter(seed, 7) % (3 + row / 8)).cast_signed();
        let faint = (x - SUN.0).unsigned_abs() * 160 / reach.unsigned_abs();
        let colour = Colour(0xff_ecba).mix(Colour(0xe8_8a6c), faint + row / 4);
        Span { y: row, x0: x - half, x1: x + half, colour }
    };
    (0..7 - row / 32)
        .filter(|n| !scene::scatter(row, n + 50).is_multiple_of(3))
        .map(spark)
        .collect()
}

fn boat() -> Vec<Span> {
    let (mast, line) = BOAT;
    let span = |y, x0, x1, colour| Span { y, x0: mast + x0, x1: mast + x1, colour };
    let mut spans: Vec<Span> = (0..9)
        .map(|down: i32| span(line - 9 + down.unsigned_abs(), -30 + down, 32 - 2 * down, HULL))
        .collect();
    spans.extend((0..58).map(|up: i32| span(line - 9 - up.unsigned_abs(), -1, 1, HULL)));
    let (main, jib) = (Colour(0xff_f0d4), Colour(0xf3_c79c));
    spans.extend(
        (0..46).map(|up: i32| span(line - 13 - up.unsigned_abs(), 2, 2 + (46 - up) * 5 / 8, main)),
    );
    spans.extend(
        (0..40).map(|up: i32| span(line - 13 - up.unsigned_abs(), -3 - (40 - up) / 2, -3, jib)),
    );
    // Its reflection, broken by the waves.
    spans.extend((0..12).map(|down: i32| {
        let shake = (scene::scatter(down.unsigned_abs(), 9) % 9).cast_signed() - 4;
        let colour = below(HORIZON - 60, HULL);
        span(line + down.unsigned_abs(), -24 + down + shake, 26 - 2 * down + shake, colour)
    }));
    spans.extend((14..52).step_by(2).map(|down: i32| {
        let shake = (scene::scatter(down.unsigned_abs(), 10) % 11).cast_signed() - 5;
        let colour = below(HORIZON - 90, Colour(0xf0_d0b0));
        span(line + down.unsigned_abs(), shake, shake + (56 - down) / 2, colour)
    }));
    spans
}

const HULL: Colour = Colour(0x24_1434);
