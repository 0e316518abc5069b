//! The painters: who paints which rows, and in which way.
//!
//! Each is a process with a session, a VM and a context of its own. All they share is
//! [`super::scene`], which tells them what lies where.

mod ghost;
mod hills;
mod quay;
mod sea;
mod sky;

use super::batch::{Batch, Surface};
use super::scene::{Span, WIDTH};
use super::studio::Studio;
use super::talk::Order;
use crate::status::MaterialisedBy;

/// A painter, by what it paints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// The upper sky: configured at creation; colours computed by MI_MATH on rcs0.
    Sky,
    /// Sun and ridges: configured by SETPARAMs; colour fills.
    Hills,
    /// The water: an engine map with a gap; tiled scratch memory, mirrored row by row.
    Sea,
    /// The tiled quay: Y-tiled and X-tiled copies, raster operations.
    Quay,
    /// Paints nothing: its context is destroyed while it is a proto-context.
    Ghost,
}

impl Role {
    /// Everyone, from top to bottom.
    pub(crate) const ALL: [Self; 5] = [Self::Sky, Self::Hills, Self::Sea, Self::Quay, Self::Ghost];

    /// As on the command line and in the client's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sky => "sky",
            Self::Hills => "hills",
            Self::Sea => "sea",
            Self::Quay => "quay",
            Self::Ghost => "ghost",
        }
    }

    /// Rows of the picture: the first, and how many.
    pub(crate) const fn rows(self) -> (u32, u32) {
        match self {
            Self::Sky => (0, 288),
            Self::Hills => (288, 160),
            Self::Sea => (448, 160),
            Self::Quay => (608, 160),
            Self::Ghost => (768, 0),
        }
    }

    /// The priority its context is given. None is above 0: that takes a privilege.
    pub(crate) const fn priority(self) -> i32 {
        match self {
            Self::Sky => 0,
            Self::Hills => -100,
            Self::Sea => -250,
            Self::Quay => -500,
            Self::Ghost => -1000,
        }
    }

    /// The request that must have materialised the context once the order was carried out.
    pub(crate) const fn materialised_after(self, order: Order) -> Option<MaterialisedBy> {
        match (self, order) {
            (Self::Ghost, _) | (_, Order::Create) => None,
            (Self::Sea, _) => Some(MaterialisedBy::ContextGetparam),
            (Self::Quay, _) => Some(MaterialisedBy::GetResetStats),
            (Self::Sky | Self::Hills, Order::Configure) => None,
            (Self::Sky | Self::Hills, Order::Paint | Order::Quit) => Some(MaterialisedBy::Execbuf),
        }
    }

    /// Makes VM and context.
    pub(crate) fn create(self, studio: &mut Studio) -> Result<(), String> {
        match self {
            Self::Sky => sky::create(studio),
            Self::Hills => hills::create(studio),
            Self::Sea => sea::create(studio),
            Self::Quay => quay::create(studio),
            Self::Ghost => ghost::create(studio),
        }
    }

    /// Configures the context, or destroys it.
    pub(crate) fn configure(self, studio: &mut Studio) -> Result<(), String> {
        match self {
            Self::Sky => sky::configure(studio),
            Self::Hills => hills::configure(studio),
            Self::Sea => sea::configure(studio),
            Self::Quay => quay::configure(studio),
            Self::Ghost => ghost::configure(studio),
        }
    }

    /// Paints the strip and gives its pixels, if it has one.
    pub(crate) fn paint(self, studio: &mut Studio) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Sky => sky::paint(studio).map(Some),
            Self::Hills => hills::paint(studio).map(Some),
            Self::Sea => sea::paint(studio).map(Some),
            Self::Quay => quay::paint(studio).map(Some),
            Self::Ghost => Ok(None),
        }
    }
}

/// Bytes of a linear strip of so many rows.
const fn strip_bytes(rows: u32) -> u64 {
    WIDTH as u64 * rows as u64 * 4
}

/// Fills spans, moved up by `first_row`; what sticks out at the sides is cut off.
fn fill_spans(batch: &mut Batch, surface: &Surface, first_row: u32, spans: &[Span]) {
    for span in spans {
        let (x0, x1) = (span.x0.max(0), span.x1.min(WIDTH.cast_signed()));
        if x0 < x1 {
            let (x0, x1) = (x0.unsigned_abs(), x1.unsigned_abs());
            batch.fill(surface, [x0, span.y - first_row, x1, span.y - first_row + 1], span.colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::HEIGHT;
    use super::*;

    #[test]
    fn strips_cover_the_picture_once() {
        let end = Role::ALL.iter().fold(0, |next, role| {
            let (first, rows) = role.rows();
            assert_eq!(first, next, "{}", role.name());
            first + rows
        });
        assert_eq!(end, HEIGHT);
    }

    #[test]
    fn priorities_differ_and_need_no_privilege() {
        let mut priorities = Role::ALL.map(Role::priority).to_vec();
        assert!(priorities.iter().all(|priority| (-1023..=0).contains(priority)));
        priorities.dedup();
        assert_eq!(priorities.len(), Role::ALL.len());
    }
}
