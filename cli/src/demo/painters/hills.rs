//! The lower sky with the sun, the ridges before it and the trees on the nearest one, by colour
//! fills only. The context is configured by SETPARAMs after its creation.

use super::super::batch::{Batch, Surface};
use super::super::scene::{self, Colour, HORIZON, RIDGES, Span, WIDTH};
use super::super::studio::{Expected, Studio};
use super::{Role, fill_spans, strip_bytes};

const FIRST: u32 = Role::Hills.rows().0;
const ROWS: u32 = Role::Hills.rows().1;
const BLIT_RING: u32 = 3;
const TREES: u32 = 120;
const TREE_COLOUR: Colour = Colour(0x1c_1030);

pub(super) fn create(studio: &mut Studio) -> Result<(), String> {
    studio.make_vm()?;
    studio.make_context()
}

pub(super) fn configure(studio: &mut Studio) -> Result<(), String> {
    studio.set_vm_and_priority(Role::Hills.priority())
}

pub(super) fn paint(studio: &mut Studio) -> Result<Vec<u8>, String> {
    let [strip] = studio.pixels([strip_bytes(ROWS)])?;
    let done =
        studio.submit(BLIT_RING, "bcs0", scenery(&strip.surface()), &[(&strip, true)], None)?;
    studio.wait(&done)?;
    let sky = Expected { x: 0, y: 0, colour: scene::sky(FIRST), part: "seam with the sky" };
    let bottom = scene::ridge_colour(RIDGES - 1, HORIZON - 1);
    let ridge = |x| Expected { x, y: ROWS - 1, colour: bottom, part: "nearest ridge" };
    studio.read_back(&strip, ROWS, &[sky, ridge(0), ridge(777)])
}

fn scenery(surface: &Surface) -> Batch {
    let mut batch = Batch::new();
    for y in FIRST..FIRST + ROWS {
        batch.fill(surface, [0, y - FIRST, WIDTH, y - FIRST + 1], scene::sky(y));
        fill_spans(&mut batch, surface, FIRST, &scene::sun_spans(y));
        for ridge in 0..RIDGES {
            fill_spans(&mut batch, surface, FIRST, &scene::ridge_spans(ridge, y));
        }
    }
    for tree in 0..TREES {
        fill_spans(&mut batch, surface, FIRST, &tree_spans(tree));
    }
    batch
}

/// A fir on the nearest ridge: tiers that widen downwards.
fn tree_spans(tree: u32) -> Vec<Span> {
    let x = (scene::scatter(tree, 11) % WIDTH).cast_signed();
    let height = 7 + scene::scatter(tree, 12) % 9;
    let foot = scene::ridge_top(RIDGES - 1, x) + 2;
    let row = |down: u32| {
        let half = (down % 5 + down / 3).cast_signed() / 2;
        Span { y: foot - height + down, x0: x - half, x1: x + half + 1, colour: TREE_COLOUR }
    };
    (0..height).filter(|down| foot - height + down < HORIZON - 1).map(row).collect()
}
