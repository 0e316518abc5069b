//! What the picture shows: an evening over the sea, as pure functions of a position.
//!
//! The painters never look at each other's memory, so what continues across the seams (the sky's
//! gradient, the sun and its glow, the ridges and their reflection) is decided here, once. These
//! functions choose the operands of GPU commands and tell what a pixel must be afterwards; no
//! pixel is ever written with them.

/// Width of the picture and of every painter's strip, in pixels.
pub(crate) const WIDTH: u32 = 1024;
/// Height of the picture, in pixels.
pub(crate) const HEIGHT: u32 = 768;
/// First row of the water, in pixels.
pub(crate) const HORIZON: u32 = 448;
/// Centre of the sun, in pixels.
pub(crate) const SUN: (i32, i32) = (648, 304);
/// Radius of the sun's disc, in pixels.
pub(crate) const SUN_RADIUS: i32 = 88;
/// Rings of glow around the sun, from the outermost (0) inwards.
pub(crate) const GLOW_RINGS: i32 = 26;
/// Bits behind the point of the gradient's channels.
pub(crate) const FRACTION_BITS: u32 = 24;

/// A colour as the GPU stores it: 0x00RRGGBB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Colour(pub(crate) u32);

impl Colour {
    /// Red, green and blue, 0 to 255.
    pub(crate) const fn channels(self) -> [u8; 3] {
        let [_, red, green, blue] = self.0.to_be_bytes();
        [red, green, blue]
    }

    const fn from_channels([red, green, blue]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, red, green, blue]))
    }

    /// This colour with `parts` of 256 of another one.
    pub(crate) fn mix(self, other: Self, parts: u32) -> Self {
        let parts = parts.min(256);
        let blend = |a: u8, b: u8| {
            let sum = u32::from(a) * (256 - parts) + u32::from(b) * parts;
            u8::try_from(sum / 256).unwrap_or(u8::MAX)
        };
        let ([r, g, b], [or, og, ob]) = (self.channels(), other.channels());
        Self::from_channels([blend(r, or), blend(g, og), blend(b, ob)])
    }
}

/// Where the sky's colour is fixed: row and colour, from the zenith to the horizon.
const SKY: [(u32, Colour); 6] = [
    (0, Colour(0x0b_1033)),
    (120, Colour(0x2a_2a6c)),
    (215, Colour(0x75_3f8b)),
    (305, Colour(0xd8_627a)),
    (385, Colour(0xf7_985e)),
    (HORIZON, Colour(0xff_d684)),
];

/// A stretch of the sky in which each channel changes by the same amount from row to row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    /// First row, in pixels of the picture.
    pub(crate) first: u32,
    /// Rows.
    pub(crate) rows: u32,
    /// Red, green and blue of the first row, with [`FRACTION_BITS`] bits behind the point.
    pub(crate) start: [u64; 3],
    /// What is added from row to row; two's complement.
    pub(crate) step: [u64; 3],
}

/// The sky's gradient, from the zenith to the horizon.
pub(crate) fn sky_segments() -> impl Iterator<Item = Segment> {
    SKY.windows(2).filter_map(|pair| {
        let &[(first, from), (end, to)] = pair else { return None };
        let rows = end - first;
        let (from, to) = (from.channels(), to.channels());
        let fixed = |channel: u8| u64::from(channel) << FRACTION_BITS;
        let step = |a: u8, b: u8| {
            let whole = (i64::from(b) - i64::from(a)) << FRACTION_BITS;
            (whole / i64::from(rows)).cast_unsigned()
        };
        Some(Segment {
            first,
            rows,
            start: from.map(fixed),
            step: std::array::from_fn(|i| step(from[i], to[i])),
        })
    })
}

/// The sky's colour in a row of the picture, the arithmetic of the GPU's MI_MATH repeated.
pub(crate) fn sky(row: u32) -> Colour {
    let row = row.min(HORIZON - 1);
    let segment = sky_segments().find(|s| (s.first..s.first + s.rows).contains(&row));
    segment.map_or(Colour(0), |s| {
        let channel = |i: usize| {
            let sum = s.start[i].wrapping_add(s.step[i].wrapping_mul(u64::from(row - s.first)));
            u8::try_from((sum >> FRACTION_BITS) & 0xff).unwrap_or(u8::MAX)
        };
        Colour::from_channels([channel(0), channel(1), channel(2)])
    })
}

/// A horizontal stretch of one colour: from `x0` up to but not including `x1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Row of the picture.
    pub(crate) y: u32,
    /// First column.
    pub(crate) x0: i32,
    /// Column after the last.
    pub(crate) x1: i32,
    /// Its colour.
    pub(crate) colour: Colour,
}

/// Half the width of a circle in a row `dy` from its centre, or `None` outside.
pub(crate) fn half_chord(radius: i32, dy: i32) -> Option<i32> {
    let square = i64::from(radius).pow(2) - i64::from(dy).pow(2);
    u64::try_from(square).ok().map(|s| i32::try_from(s.isqrt()).unwrap_or(i32::MAX))
}

/// The sun and its glow in one row, outermost ring first, to be painted over each other.
pub(crate) fn sun_spans(y: u32) -> Vec<Span> {
    let dy = y.cast_signed() - SUN.1;
    let ground = sky(y);
    let glow = Colour(0xff_e2a8);
    let mut spans: Vec<Span> = (0..GLOW_RINGS)
        .filter_map(|ring| {
            let radius = SUN_RADIUS + (GLOW_RINGS - ring) * 6;
            let half = half_chord(radius, dy)?;
            let parts = (ring * ring / 6 + ring).unsigned_abs();
            Some(Span { y, x0: SUN.0 - half, x1: SUN.0 + half, colour: ground.mix(glow, parts) })
        })
        .collect();
    if let Some(half) = half_chord(SUN_RADIUS, dy) {
        let down = (dy + SUN_RADIUS).unsigned_abs() * 256 / (2 * SUN_RADIUS.unsigned_abs());
        let colour = Colour(0xff_f6d2).mix(Colour(0xff_a860), down);
        spans.push(Span { y, x0: SUN.0 - half, x1: SUN.0 + half, colour });
    }
    spans
}

/// How many ridges stand before the sun.
pub(crate) const RIDGES: usize = 3;

/// Row in which the given ridge begins in a column, in pixels of the picture. Ridge 0 is farthest.
pub(crate) fn ridge_top(ridge: usize, x: i32) -> u32 {
    // Heights are sums of triangle waves: integers only, so every machine draws the same line.
    let wave = |period: i32, shift: i32, height: i32| {
        let phase = (x + shift).rem_euclid(period);
        let rise = phase.min(period - phase);
        rise * 2 * height / period
    };
    let height = match ridge {
        0 => 26 + wave(412, 90, 44) + wave(97, 13, 12) + wave(31, 5, 4),
        1 => 16 + wave(305, 260, 34) + wave(71, 40, 9) + wave(23, 2, 3),
        _ => 5 + wave(530, 420, 30) + wave(117, 77, 7) + wave(13, 0, 2),
    };
    HORIZON - height.unsigned_abs()
}

/// Colour of a ridge in a row: darker the nearer, and paler towards the water.
pub(crate) fn ridge_colour(ridge: usize, y: u32) -> Colour {
    let (rock, haze) = match ridge {
        0 => (Colour(0x8e_4a7c), Colour(0xe0_8a78)),
        1 => (Colour(0x5b_3068), Colour(0xa8_5c72)),
        _ => (Colour(0x2a_1a44), Colour(0x4c_2a58)),
    };
    let depth = HORIZON.saturating_sub(y);
    rock.mix(haze, 256_u32.saturating_sub(depth * (4 + 2 * u32::try_from(ridge).unwrap_or(0))))
}

/// The stretches of a row that a ridge covers.
pub(crate) fn ridge_spans(ridge: usize, y: u32) -> Vec<Span> {
    runs(y, |x| (ridge_top(ridge, x) <= y).then(|| ridge_colour(ridge, y)))
}

/// The stretches of equal colour in a row of the picture; `None` is left alone.
pub(crate) fn runs(y: u32, colour_at: impl Fn(i32) -> Option<Colour>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for x in 0..WIDTH.cast_signed() {
        let Some(colour) = colour_at(x) else { continue };
        match spans.last_mut() {
            Some(last) if last.x1 == x && last.colour == colour => last.x1 = x + 1,
            _ => spans.push(Span { y, x0: x, x1: x + 1, colour }),
        }
    }
    spans
}

/// A number without apparent order for each pair; the same on every machine.
pub(crate) fn scatter(a: u32, b: u32) -> u32 {
    let mut n = a.wrapping_mul(0x9e37_79b1) ^ b.wrapping_mul(0x85eb_ca77);
    n ^= n >> 15;
    n = n.wrapping_mul(0x2c1b_3c6d);
    n ^ (n >> 13)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sky_meets_its_fixed_colours() {
        for (row, colour) in SKY.iter().take(5) {
            assert_eq!(sky(*row), *colour, "row {row}");
        }
    }

    #[test]
    fn the_sky_never_jumps() {
        for row in 1..HORIZON {
            let (above, here) = (sky(row - 1).channels(), sky(row).channels());
            for (a, b) in above.iter().zip(here) {
                assert!(a.abs_diff(b) <= 2, "row {row}: {above:?} {here:?}");
            }
        }
    }

    #[test]
    fn ridges_stand_between_sun_and_water() {
        for x in 0..WIDTH.cast_signed() {
            for ridge in 0..RIDGES {
                let top = ridge_top(ridge, x);
                assert!((340..HORIZON).contains(&top), "ridge {ridge} column {x} row {top}");
            }
        }
    }

    #[test]
    fn runs_cover_each_column_once() {
        let spans = runs(7, |x| (x % 10 != 0).then(|| Colour(u32::from(x > 500))));
        let columns: i32 = spans.iter().map(|s| s.x1 - s.x0).sum();
        assert_eq!(columns, 921, "1024 columns without the 103 multiples of ten");
        assert!(spans.windows(2).all(|w| w[0].x1 <= w[1].x0));
    }

    #[test]
    fn mixing_reaches_both_ends() {
        let (a, b) = (Colour(0x10_2030), Colour(0xff_8001));
        assert_eq!((a.mix(b, 0), a.mix(b, 256), a.mix(b, 999)), (a, b, b));
    }
}
