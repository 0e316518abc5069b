//! Which engines a Kaby Lake GT3 has (PCI id 8086:5926), and the clock they share.

/// What an engine executes besides the MI commands that all of them know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EngineKind {
    /// 3D, GPGPU and media state; these commands are parsed and skipped.
    Render,
    /// The 2D blitter.
    Copy,
    /// Video decoding and encoding, first instance; these commands are parsed and skipped.
    Video0,
    /// Video decoding and encoding, second instance.
    Video1,
    /// Video post-processing; these commands are parsed and skipped.
    VideoEnhance,
}

/// One engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineSpec {
    /// What it executes.
    pub kind: EngineKind,
    /// Class as the i915 interface numbers it: 0 render, 1 copy, 2 video, 3 video enhance.
    pub class: u16,
    /// Counted from 0 within the class.
    pub instance: u16,
    /// `rcs0`.
    pub name: &'static str,
    /// Where its registers start.
    pub mmio_base: u32,
}

impl EngineSpec {
    /// The engine of a kind.
    #[must_use]
    pub const fn of(kind: EngineKind) -> Self {
        let (class, instance, name, mmio_base) = match kind {
            EngineKind::Render => (0, 0, "rcs0", 0x2000),
            EngineKind::Copy => (1, 0, "bcs0", 0x2_2000),
            EngineKind::Video0 => (2, 0, "vcs0", 0x1_2000),
            EngineKind::Video1 => (2, 1, "vcs1", 0x1_c000),
            EngineKind::VideoEnhance => (3, 0, "vecs0", 0x1_a000),
        };
        Self { kind, class, instance, name, mmio_base }
    }
}

/// Every engine, by class, then instance.
pub const ENGINES: [EngineSpec; 5] = [
    EngineSpec::of(EngineKind::Render),
    EngineSpec::of(EngineKind::Copy),
    EngineSpec::of(EngineKind::Video0),
    EngineSpec::of(EngineKind::Video1),
    EngineSpec::of(EngineKind::VideoEnhance),
];

/// Ticks per second of [`Clock::ticks`]: half of the 24 MHz crystal.
pub const TIMESTAMP_HZ: u64 = 12_000_000;

/// The clock behind the timestamp registers.
pub trait Clock {
    /// Ticks of [`TIMESTAMP_HZ`] since some fixed moment; never runs backwards.
    fn ticks(&self) -> u64;
}
