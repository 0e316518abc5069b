//! The quay in front: one motif drawn into linear memory, copied to Y-tiled memory, laid out in
//! X-tiled memory, and copied from there to the strip. Its counterpart is the same motif with the
//! two colours exchanged by one raster operation.
//!
//! The context exists on the device since a GET_RESET_STATS.

use super::super::batch::{Batch, Rop, Surface, x_tiled, y_tiled};
use super::super::scene::{Colour, Span, WIDTH, half_chord, runs};
use super::super::studio::{Expected, Studio};
use super::{Role, strip_bytes};

const ROWS: u32 = Role::Quay.rows().1;
const BLIT_RING: u32 = 3;
/// Rows of stone above the tiles.
const STONE: u32 = 32;
/// Side of a tile, in pixels.
const TILE: u32 = 64;
const TILE_BYTES: u64 = TILE as u64 * TILE as u64 * 4;
const TILE_PITCH: u32 = TILE * 4;
const WHITE: Colour = Colour(0xf4_eddc);
const BLUE: Colour = Colour(0x1d_4a9a);
const YELLOW: Colour = Colour(0xec_b94a);
const JOINT: Colour = Colour(0xb9_ac94);

pub(super) fn create(studio: &mut Studio) -> Result<(), String> {
    studio.make_vm()?;
    studio.make_context()
}

pub(super) fn configure(studio: &mut Studio) -> Result<(), String> {
    studio.set_vm_and_priority(Role::Quay.priority())?;
    let stats = studio.configure("GET_RESET_STATS, which materialises", |s| {
        s.context()?.reset_stats().map_err(|e| e.to_string())
    })?;
    match stats.batch_active {
        0 => Ok(()),
        hangs => Err(format!("a new context is blamed for {hangs} hangs")),
    }
}

pub(super) fn paint(studio: &mut Studio) -> Result<Vec<u8>, String> {
    let sizes =
        [strip_bytes(ROWS), TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, strip_bytes(2 * TILE)];
    let placed = studio.pixels(sizes)?;
    let [strip, motif, inverse, y_motif, y_inverse, layout] = &placed;
    let linear = [motif, inverse].map(|tile| Surface::linear(tile.address(), TILE_PITCH));
    let tiled = [y_motif, y_inverse].map(|tile| y_tiled(tile.address(), TILE_PITCH));
    let layout = x_tiled(layout.address(), WIDTH * 4);
    let batch = quay(&strip.surface(), &linear, &tiled, &layout);
    let uses = placed.each_ref().map(|buffer| (buffer, true));
    let done = studio.submit(BLIT_RING, "bcs0", batch, &uses, None)?;
    studio.wait(&done)?;
    let middle = TILE / 2;
    let at = |x, y, colour, part| Expected { x, y: STONE + y, colour, part };
    let known = [
        at(middle, middle, YELLOW, "heart of a tile"),
        at(TILE + middle, middle, YELLOW, "heart of its counterpart"),
        at(2, middle, motif_at(2, middle), "edge of a tile"),
        at(TILE + 2, middle, exchanged(motif_at(2, middle)), "edge of its counterpart"),
        at(TILE + 2, TILE + middle, motif_at(2, middle), "edge of a tile below"),
    ];
    studio.read_back(strip, ROWS, &known)
}

/// The motif in its two colours, in fours times the same.
fn motif_at(x: u32, y: u32) -> Colour {
    // Distances from the middle in half pixels: 1 to 63.
    let (u, v) = ((2 * x + 1).abs_diff(TILE), (2 * y + 1).abs_diff(TILE));
    let (from_middle, from_corner) = (u * u + v * v, (64 - u).pow(2) + (64 - v).pow(2));
    let petal = u.abs_diff(v) * 3 < 34_u32.saturating_sub((u + v).abs_diff(40));
    let arm = u.min(v) * 4 < 40_u32.saturating_sub(u.max(v)) && u.max(v) > 14;
    let blue = from_middle < 12 * 12
        || petal
        || arm
        || (38 * 38..44 * 44).contains(&from_corner)
        || (48 * 48..51 * 51).contains(&from_corner)
        || from_corner < 24 * 24 && from_corner > 13 * 13;
    if blue { BLUE } else { WHITE }
}

/// What the raster operation makes of the motif's colours.
fn exchanged(colour: Colour) -> Colour {
    Colour(colour.0 ^ WHITE.0 ^ BLUE.0)
}

fn quay(surface: &Surface, linear: &[Surface; 2], tiled: &[Surface; 2], layout: &Surface) -> Batch {
    let mut batch = Batch::new();
    draw_tiles(&mut batch, linear);
    for (from, to) in linear.iter().zip(tiled) {
        batch.fast_copy(to, [0, 0], from, [0, 0, TILE, TILE]);
    }
    lay_out(&mut batch, layout, tiled);
    finish(&mut batch, surface, layout);
    batch
}

fn draw_tiles(batch: &mut Batch, [motif, inverse]: &[Surface; 2]) {
    for y in 0..TILE {
        let inside = |x: i32| (x.unsigned_abs() < TILE).then(|| motif_at(x.unsigned_abs(), y));
        for Span { x0, x1, colour, .. } in runs(y, inside) {
            batch.fill(motif, [x0.unsigned_abs(), y, x1.unsigned_abs(), y + 1], colour);
        }
    }
    batch.copy(inverse, [0, 0], motif, [0, 0, TILE, TILE]);
    batch.fill_rop(inverse, [0, 0, TILE, TILE], exchanged(Colour(0)), Rop::FillXor);
    for tile in [motif, inverse] {
        for dy in -5..5_i32 {
            let half = half_chord(11, 2 * dy + 1).unwrap_or(0).unsigned_abs().div_ceil(2);
            let (middle, y) = (TILE / 2, (TILE / 2).saturating_add_signed(dy));
            batch.fill(tile, [middle - half, y, middle + half, y + 1], YELLOW);
        }
    }
}

/// Motif and counterpart in turn, like a chessboard.
fn lay_out(batch: &mut Batch, layout: &Surface, tiles: &[Surface; 2]) {
    for row in 0..2 {
        for column in 0..WIDTH / TILE {
            let [even, odd] = tiles;
            let tile = if (row + column) % 2 == 0 { even } else { odd };
            batch.fast_copy(layout, [column * TILE, row * TILE], tile, [0, 0, TILE, TILE]);
        }
    }
}

/// The tiles in their place, with joints, and the stone edge above them.
fn finish(batch: &mut Batch, surface: &Surface, layout: &Surface) {
    batch.copy(surface, [0, STONE], layout, [0, 0, WIDTH, 2 * TILE]);
    for x in (0..WIDTH).step_by(TILE as usize) {
        batch.fill(surface, [x, STONE, x + 1, ROWS], JOINT);
    }
    batch.fill(surface, [0, STONE + TILE, WIDTH, STONE + TILE + 1], JOINT);
    for y in 0..STONE {
        let colour = match y {
            0..2 => Colour(0xff_e2b4),
            2..24 => Colour(0xc9_a183).mix(Colour(0x7a_5a60), (y - 2) * 11),
            _ => Colour(0x2e_1e38).mix(Colour(0x6a_5a70), (y - 24) * 24),
        };
        batch.fill(surface, [0, y, WIDTH, y + 1], colour);
    }
    for x in (40..WIDTH).step_by(128) {
        batch.fill(surface, [x, 2, x + 2, 24], Colour(0x6b_4c56));
    }
}
