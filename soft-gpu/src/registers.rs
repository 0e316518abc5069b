//! The registers of one engine that batches of clients can see.
//!
//! The hardware lets a batch that is not privileged write a short list of registers and turns other
//! writes into nothing; so do we, and count them. Reading is harmless: a register that is not
//! modelled reads as 0. Each context has its own set, as the context image has on hardware.

use crate::hardware::{Clock, ENGINES, EngineKind, EngineSpec};

/// Offsets from the engine's base.
mod offset {
    pub(super) const SWCTRL: u32 = 0x200;
    pub(super) const TIMESTAMP: u32 = 0x358;
    pub(super) const TIMESTAMP_UDW: u32 = 0x35c;
    pub(super) const CTX_TIMESTAMP: u32 = 0x3a8;
    pub(super) const PREDICATE_RESULT_2: u32 = 0x3bc;
    pub(super) const PREDICATE_SRC0: u32 = 0x400;
    pub(super) const PREDICATE_SRC0_UDW: u32 = PREDICATE_SRC0 + 4;
    pub(super) const PREDICATE_SRC1: u32 = 0x408;
    pub(super) const PREDICATE_SRC1_UDW: u32 = PREDICATE_SRC1 + 4;
    pub(super) const PREDICATE_DATA: u32 = 0x410;
    pub(super) const PREDICATE_DATA_UDW: u32 = PREDICATE_DATA + 4;
    pub(super) const PREDICATE_RESULT: u32 = 0x418;
    pub(super) const PREDICATE_RESULT_1: u32 = 0x41c;
    pub(super) const GPR: u32 = 0x600;
    pub(super) const GPR_END: u32 = GPR + 16 * 8;
}

/// Registers of rcs0 that only hold what was written: (first address, registers). Statistics
/// counters, the operands of indirect draws and dispatches, stream-out counters. Nothing here
/// counts, because nothing is drawn.
const RENDER_STORED: [(u32, u32); 6] =
    [(0x2310, 18), (0x2420, 9), (0x2500, 3), (0x5200, 8), (0x5240, 8), (0x5280, 4)];
const RENDER_STORED_COUNT: usize = 18 + 9 + 3 + 8 + 8 + 4;

/// Dwords of [`Registers::save`]: general purpose registers, predicates, tiling, the stored ones.
pub(crate) const IMAGE_DWORDS: usize = 32 + 9 + 1 + RENDER_STORED_COUNT;

/// The timestamp has 36 bits.
const TIMESTAMP_MASK: u64 = (1 << 36) - 1;

/// Registers of one context on one engine.
#[derive(Clone, Debug)]
pub struct Registers {
    engine: EngineSpec,
    general: [u64; 16],
    predicate: Predicate,
    tiling_control: u16,
    stored: Box<[u32]>,
    /// Ticks the context has run, not counting the run under way; `None` until somebody looks.
    run_ticks: Option<u64>,
    run_started: u64,
}

/// Operands and results of MI_PREDICATE.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Predicate {
    pub(crate) source0: u64,
    pub(crate) source1: u64,
    pub(crate) data: u64,
    pub(crate) result: u32,
    pub(crate) result_1: u32,
    pub(crate) result_2: u32,
}

/// Which register an address is.
enum Slot {
    General { index: usize, high: bool },
    Timestamp { high: bool },
    ContextTimestamp,
    Source0 { high: bool },
    Source1 { high: bool },
    Data { high: bool },
    Result,
    Result1,
    Result2,
    TilingControl,
    Stored(usize),
}

impl Registers {
    /// All zero.
    #[must_use]
    pub fn new(engine: &EngineSpec) -> Self {
        let stored = match engine.kind {
            EngineKind::Render => RENDER_STORED_COUNT,
            EngineKind::Copy
            | EngineKind::Video0
            | EngineKind::Video1
            | EngineKind::VideoEnhance => 0,
        };
        Self {
            engine: *engine,
            general: [0; 16],
            predicate: Predicate::default(),
            tiling_control: 0,
            stored: vec![0; stored].into_boxed_slice(),
            run_ticks: None,
            run_started: 0,
        }
    }

    /// Writes what the context image holds, [`IMAGE_DWORDS`] dwords; those of an engine that has
    /// fewer are left alone. CTX_TIMESTAMP is apart: see [`Self::set_context_timestamp`].
    pub(crate) fn save(&self, image: &mut [u32]) {
        let Predicate { source0, source1, data, result, result_1, result_2 } = self.predicate;
        let wide = self.general.iter().copied().chain([source0, source1, data]);
        let dwords = wide
            .flat_map(|value| [half(value, false), half(value, true)])
            .chain([result, result_1, result_2, self.tiling_control.into()])
            .chain(self.stored.iter().copied());
        for (into, dword) in image.iter_mut().zip(dwords) {
            *into = dword;
        }
    }

    /// Reads what [`Self::save`] wrote; dwords that are missing are 0.
    pub(crate) fn restore(&mut self, image: &[u32]) {
        let mut dwords = image.iter().copied().chain(std::iter::repeat(0));
        let mut dword = || dwords.next().unwrap_or(0);
        let mut qword = || u64::from(dword()) | u64::from(dword()) << 32;
        for register in &mut self.general {
            *register = qword();
        }
        self.predicate.source0 = qword();
        self.predicate.source1 = qword();
        self.predicate.data = qword();
        self.predicate.result = dword();
        self.predicate.result_1 = dword();
        self.predicate.result_2 = dword();
        self.tiling_control = (dword() & 0xffff) as u16;
        for register in &mut self.stored {
            *register = dword();
        }
    }

    /// Ticks the context has run, modulo 2^32, while it does not run.
    #[must_use]
    pub fn context_timestamp(&self) -> u32 {
        half(self.run_ticks.unwrap_or(0), false)
    }

    /// Sets CTX_TIMESTAMP of a context that does not run, and makes it count.
    pub fn set_context_timestamp(&mut self, ticks: u32) {
        self.run_ticks = Some(ticks.into());
    }

    /// The address of a register that a batch names relative to its engine. Gen11 has such
    /// commands; Gen9 ignores the bit that says so, and has no register of an engine below the first
    /// engine's. So an address from there on is whole, and one below can only be of a program that
    /// takes this for Gen11, which its balanced batches (that cannot know their engine) rely on.
    pub(crate) fn absolute(&self, address: u32) -> u32 {
        let first = ENGINES[0].mmio_base;
        if address < first { address + self.engine.mmio_base } else { address }
    }

    pub(crate) fn set_engine(&mut self, engine: &EngineSpec) {
        self.engine = *engine;
    }

    /// General purpose register `index`, 0 to 15; others read as 0.
    #[must_use]
    pub fn general(&self, index: usize) -> u64 {
        self.general.get(index).copied().unwrap_or(0)
    }

    /// What a batch can see of them, by the hardware's names; for error dumps.
    #[must_use]
    pub fn named(&self) -> Vec<(String, u64)> {
        let Predicate { source0, source1, data, result, result_1, result_2 } = self.predicate;
        let mut named: Vec<(String, u64)> =
            (0..).zip(self.general).map(|(i, value)| (format!("CS_GPR{i}"), value)).collect();
        named.extend([
            ("MI_PREDICATE_SRC0".to_owned(), source0),
            ("MI_PREDICATE_SRC1".to_owned(), source1),
            ("MI_PREDICATE_DATA".to_owned(), data),
            ("MI_PREDICATE_RESULT".to_owned(), result.into()),
            ("MI_PREDICATE_RESULT_1".to_owned(), result_1.into()),
            ("MI_PREDICATE_RESULT_2".to_owned(), result_2.into()),
        ]);
        if self.engine.kind == EngineKind::Copy {
            named.push(("BCS_SWCTRL".to_owned(), self.tiling_control.into()));
        }
        named
    }

    pub(crate) fn set_general(&mut self, index: usize, value: u64) {
        if let Some(register) = self.general.get_mut(index) {
            *register = value;
        }
    }

    pub(crate) fn predicate(&mut self) -> &mut Predicate {
        &mut self.predicate
    }

    /// BCS_SWCTRL bit 0: what blits call a tiled source is Y tiled.
    pub(crate) fn source_is_y_tiled(&self) -> bool {
        self.tiling_control & 1 != 0
    }

    /// BCS_SWCTRL bit 1: the same of destinations.
    pub(crate) fn destination_is_y_tiled(&self) -> bool {
        self.tiling_control & 2 != 0
    }

    /// The register at an address; `None` if there is none. The address is that of the MMIO space,
    /// as in the commands.
    pub(crate) fn read(&mut self, address: u32, clock: &dyn Clock) -> Option<u32> {
        Some(match self.slot(address)? {
            Slot::General { index, high } => half(self.general(index), high),
            Slot::Timestamp { high } => half(clock.ticks() & TIMESTAMP_MASK, high),
            Slot::ContextTimestamp => half(self.context_ticks(clock), false),
            Slot::Source0 { high } => half(self.predicate.source0, high),
            Slot::Source1 { high } => half(self.predicate.source1, high),
            Slot::Data { high } => half(self.predicate.data, high),
            Slot::Result => self.predicate.result,
            Slot::Result1 => self.predicate.result_1,
            Slot::Result2 => self.predicate.result_2,
            Slot::TilingControl => self.tiling_control.into(),
            Slot::Stored(index) => self.stored.get(index).copied().unwrap_or(0),
        })
    }

    /// Writes the register at an address; false if a batch of a client cannot write it.
    pub(crate) fn write(&mut self, address: u32, value: u32) -> bool {
        let Some(slot) = self.slot(address) else { return false };
        match slot {
            Slot::General { index, high } => {
                if let Some(register) = self.general.get_mut(index) {
                    set_half(register, high, value);
                }
            }
            Slot::Timestamp { .. } | Slot::ContextTimestamp => return false,
            Slot::Source0 { high } => set_half(&mut self.predicate.source0, high, value),
            Slot::Source1 { high } => set_half(&mut self.predicate.source1, high, value),
            Slot::Data { high } => set_half(&mut self.predicate.data, high, value),
            Slot::Result => self.predicate.result = value & 1,
            Slot::Result1 => self.predicate.result_1 = value & 1,
            Slot::Result2 => self.predicate.result_2 = value & 1,
            Slot::TilingControl => {
                // A masked register: bits 31:16 say which of bits 15:0 are meant.
                let (mask, bits) = ((value >> 16) as u16, (value & 0xffff) as u16);
                self.tiling_control = self.tiling_control & !mask | bits & mask;
            }
            Slot::Stored(index) => {
                if let Some(register) = self.stored.get_mut(index) {
                    *register = value;
                }
            }
        }
        true
    }

    /// The context starts to run. Costs a look at the clock only in contexts that have read
    /// CTX_TIMESTAMP.
    pub(crate) fn run_begins(&mut self, clock: &dyn Clock) {
        if self.run_ticks.is_some() {
            self.run_started = clock.ticks();
        }
    }

    /// The context is switched out.
    pub(crate) fn run_ends(&mut self, clock: &dyn Clock) {
        if let Some(ticks) = &mut self.run_ticks {
            *ticks = ticks.wrapping_add(clock.ticks().wrapping_sub(self.run_started));
        }
    }

    /// Ticks the context has run since it first asked.
    fn context_ticks(&mut self, clock: &dyn Clock) -> u64 {
        let now = clock.ticks();
        if self.run_ticks.is_none() {
            self.run_ticks = Some(0);
            self.run_started = now;
        }
        self.run_ticks.unwrap_or(0).wrapping_add(now.wrapping_sub(self.run_started))
    }

    fn slot(&self, address: u32) -> Option<Slot> {
        let own = address.wrapping_sub(self.engine.mmio_base);
        if let offset::GPR..offset::GPR_END = own {
            let index = (own - offset::GPR) / 8;
            return Some(Slot::General { index: index as usize, high: own & 4 != 0 });
        }
        Some(match own {
            offset::SWCTRL if self.engine.kind == EngineKind::Copy => Slot::TilingControl,
            offset::TIMESTAMP => Slot::Timestamp { high: false },
            offset::TIMESTAMP_UDW => Slot::Timestamp { high: true },
            offset::CTX_TIMESTAMP => Slot::ContextTimestamp,
            offset::PREDICATE_SRC0 => Slot::Source0 { high: false },
            offset::PREDICATE_SRC0_UDW => Slot::Source0 { high: true },
            offset::PREDICATE_SRC1 => Slot::Source1 { high: false },
            offset::PREDICATE_SRC1_UDW => Slot::Source1 { high: true },
            offset::PREDICATE_DATA => Slot::Data { high: false },
            offset::PREDICATE_DATA_UDW => Slot::Data { high: true },
            offset::PREDICATE_RESULT => Slot::Result,
            offset::PREDICATE_RESULT_1 => Slot::Result1,
            offset::PREDICATE_RESULT_2 => Slot::Result2,
            _ => return self.shared_slot(address),
        })
    }

    /// What is not relative to the engine's own base.
    fn shared_slot(&self, address: u32) -> Option<Slot> {
        // The engines share one timestamp counter and may read it through each other's register.
        for engine in &ENGINES {
            match address.wrapping_sub(engine.mmio_base) {
                offset::TIMESTAMP => return Some(Slot::Timestamp { high: false }),
                offset::TIMESTAMP_UDW => return Some(Slot::Timestamp { high: true }),
                _ => {}
            }
        }
        if self.engine.kind != EngineKind::Render || address & 3 != 0 {
            return None;
        }
        let mut before = 0;
        for (first, count) in RENDER_STORED {
            let index = address.wrapping_sub(first) / 4;
            if address >= first && index < count {
                return Some(Slot::Stored((before + index) as usize));
            }
            before += count;
        }
        None
    }
}

#[expect(clippy::cast_possible_truncation, reason = "half of it is the point")]
fn half(value: u64, high: bool) -> u32 {
    if high { (value >> 32) as u32 } else { value as u32 }
}

fn set_half(register: &mut u64, high: bool, value: u32) {
    let value = u64::from(value);
    *register =
        if high { *register & 0xffff_ffff | value << 32 } else { *register >> 32 << 32 | value };
}
