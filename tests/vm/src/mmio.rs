//! The register file: which register is of which kind, and what it holds after a reset.
//!
//! A register that is in no table is plain memory, zero at reset; that is most of them. The tables
//! hold what i915 was seen to depend on, on kernels 6.1 to 7.2.

use std::sync::atomic::{AtomicU32, Ordering};

use gpu_broker_soft_gpu::ENGINES;

/// Bytes of the register space. BAR 0 has 8 MiB for it; the driver uses two.
pub const SIZE: u32 = 2 << 20;

/// What reads and writes of a register do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Holds what was written.
    Plain,
    /// Bits 31:16 of what is written say which of bits 15:0 are meant; bits 31:16 read as 0.
    Masked,
    /// Writing ones clears those bits.
    WriteClears,
    /// Writes do nothing.
    Constant,
    /// The device does something: [`crate::gpu`].
    Hook(Hook),
}

/// Registers that do something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Keeps a part of the GPU awake; acknowledged in another register.
    Forcewake,
    /// Resets engines.
    DomainReset,
    /// The mailbox of the power controller.
    Mailbox,
    /// Asks for display power wells.
    PowerWell,
    /// Enables all interrupts, and says who has some.
    MasterInterrupt,
    /// ISR, IMR, IIR and IER of the engines' interrupts.
    Interrupts,
    /// A register of an engine, which is an index into [`ENGINES`].
    Engine(u8, EngineHook),
}

/// Registers of an engine that do something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineHook {
    /// RING_TAIL, RING_HEAD, RING_START, ACTHD: where the running context is.
    Tail,
    /// See [`Self::Tail`].
    Head,
    /// See [`Self::Tail`].
    Start,
    /// See [`Self::Tail`].
    ActiveHead,
    /// See [`Self::Tail`].
    ActiveHeadHigh,
    /// RING_MI_MODE: stops the engine, and says whether it is idle.
    Mode,
    /// RING_EIR: errors, until they are acknowledged.
    Errors,
    /// RING_RESET_CTL: asks the engine to get ready for a reset.
    ResetControl,
    /// RING_ELSP: the submission port.
    SubmissionPort,
    /// RING_EXECLIST_STATUS, low half.
    ExeclistStatus,
    /// Its high half.
    ExeclistContext,
    /// RING_TIMESTAMP, low half.
    Timestamp,
    /// Its high half.
    TimestampHigh,
    /// RING_CONTEXT_STATUS_PTR: where the next event goes.
    StatusPointer,
}

/// Addresses that other modules name.
pub mod address {
    /// Acknowledged in [`FORCEWAKE_RENDER_ACK`].
    pub const FORCEWAKE_RENDER: u32 = 0xa278;
    /// See [`FORCEWAKE_RENDER`].
    pub const FORCEWAKE_RENDER_ACK: u32 = 0xd84;
    /// Acknowledged in [`FORCEWAKE_GT_ACK`].
    pub const FORCEWAKE_GT: u32 = 0xa188;
    /// See [`FORCEWAKE_GT`].
    pub const FORCEWAKE_GT_ACK: u32 = 0x13_0044;
    /// Acknowledged in [`FORCEWAKE_MEDIA_ACK`].
    pub const FORCEWAKE_MEDIA: u32 = 0xa270;
    /// See [`FORCEWAKE_MEDIA`].
    pub const FORCEWAKE_MEDIA_ACK: u32 = 0xd88;
    /// Reset requests: bit 0 everything, others an engine each.
    pub const DOMAIN_RESET: u32 = 0x941c;
    /// Mailbox of the power controller: command, bit 31 while it runs.
    pub const MAILBOX: u32 = 0x13_8124;
    /// Its argument and result.
    pub const MAILBOX_DATA: u32 = 0x13_8128;
    /// The four requesters of display power wells.
    pub const POWER_WELLS: [u32; 4] = [0x4_5400, 0x4_5404, 0x4_5408, 0x4_540c];
    /// Bit 31 enables interrupts.
    pub const MASTER_INTERRUPT: u32 = 0x4_4200;
    /// ISR, IMR, IIR, IER of the first of four interrupt groups, 16 bytes apart.
    pub const INTERRUPTS: u32 = 0x4_4300;
}

/// Offsets from an engine's base.
pub mod engine {
    /// Offset of the first command that is not there.
    pub const TAIL: u32 = 0x30;
    /// Offset of the next command.
    pub const HEAD: u32 = 0x34;
    /// Where the ring is.
    pub const START: u32 = 0x38;
    /// Size of the ring, and whether it is on.
    pub const CONTROL: u32 = 0x3c;
    /// Low half of the address of the next command.
    pub const ACTIVE_HEAD: u32 = 0x74;
    /// Its high half.
    pub const ACTIVE_HEAD_HIGH: u32 = 0x5c;
    /// First dword of the last command, for error states.
    pub const LAST_HEADER: u32 = 0x68;
    /// GGTT address of the status page.
    pub const STATUS_PAGE: u32 = 0x80;
    /// Stops the engine.
    pub const MODE: u32 = 0x9c;
    /// Interrupts that are masked, at the engine's bits of the GT's registers.
    pub const INTERRUPT_MASK: u32 = 0xa8;
    /// Errors that were not acknowledged.
    pub const ERRORS: u32 = 0xb0;
    /// Errors that are masked.
    pub const ERROR_MASK: u32 = 0xb4;
    /// Errors that persist.
    pub const ERROR_STATUS: u32 = 0xb8;
    /// INSTPM.
    pub const INSTRUCTION_MODE: u32 = 0xc0;
    /// Asks for a reset.
    pub const RESET_CONTROL: u32 = 0xd0;
    /// The submission port.
    pub const SUBMISSION_PORT: u32 = 0x230;
    /// Which port runs.
    pub const EXECLIST_STATUS: u32 = 0x234;
    /// Which context runs.
    pub const EXECLIST_CONTEXT: u32 = 0x238;
    /// CTX_CONTROL.
    pub const CONTEXT_CONTROL: u32 = 0x244;
    /// GFX_MODE.
    pub const GRAPHICS_MODE: u32 = 0x29c;
    /// Counts at 12 MHz.
    pub const TIMESTAMP: u32 = 0x358;
    /// Its high half.
    pub const TIMESTAMP_HIGH: u32 = 0x35c;
    /// Where the next event goes.
    pub const STATUS_POINTER: u32 = 0x3a0;
    /// Twelve registers that name others which clients may write.
    pub const NON_PRIVILEGED: u32 = 0x4d0;
    /// How many of these.
    pub const NON_PRIVILEGED_COUNT: u32 = 12;
    /// Bytes of an engine's register block.
    pub const BLOCK: u32 = 0x800;
}

/// Registers of one kind: (first address, how many, kind, value after a reset).
type Row = (u32, u32, Kind, u32);

use Kind::{Constant, Hook as Does, Masked, Plain, WriteClears};

const GT: &[Row] = &[
    (address::FORCEWAKE_RENDER, 1, Does(Hook::Forcewake), 0),
    (address::FORCEWAKE_GT, 1, Does(Hook::Forcewake), 0),
    (address::FORCEWAKE_MEDIA, 1, Does(Hook::Forcewake), 0),
    (address::FORCEWAKE_RENDER_ACK, 1, Constant, 0),
    (address::FORCEWAKE_GT_ACK, 1, Constant, 0),
    (address::FORCEWAKE_MEDIA_ACK, 1, Constant, 0),
    (address::DOMAIN_RESET, 1, Does(Hook::DomainReset), 0),
    (address::MAILBOX, 1, Does(Hook::Mailbox), 0),
    (address::MASTER_INTERRUPT, 1, Does(Hook::MasterInterrupt), 0),
    (address::INTERRUPTS, 16, Does(Hook::Interrupts), 0),
    // TLB invalidations, GFX_FLSH_CNTL, FPGA_DBG, GEN8 RING_FAULT, EDRAM_CAP, PVINFO: done, none.
    (0x4260, 5, Constant, 0),
    (0x10_1008, 1, Constant, 0),
    (0x4_2300, 1, Constant, 0),
    (0x4094, 1, Constant, 0),
    (0x12_0010, 1, Constant, 0),
    (0x7_8000, 2, Constant, 0),
    // GUC_STATUS: the microcontroller is held in reset.
    (0xc000, 1, Constant, 1),
    // FUSE2: two slices of three subslices; no execution unit is disabled.
    (0x9120, 1, Constant, 3 << 25 | 8 << 20),
    (0x9134, 3, Constant, 0),
    // CTC_MODE: a crystal of 24 MHz, halved. RP_STATE_CAP, in units of 50 MHz.
    (0xa26c, 1, Constant, 4),
    (0x14_5998, 1, Constant, 0x0006_0617),
    // SKL_DFSM: all pipes are fused off, so that there is no display to drive. SKL_FUSE_STATUS.
    (0x5_1000, 1, Constant, 1 << 30 | 1 << 28 | 1 << 21),
    (0x4_2000, 1, Constant, 0x8f00_0000),
    (0x4_5400, 4, Does(Hook::PowerWell), 0),
    // IIRs of the display and the PCH.
    (0x4_4400, 64, WriteClears, 0),
    (0xc_4008, 1, WriteClears, 0),
    // Registers of the 3D pipeline that take a mask.
    (0x7000, 7, Masked, 0),
    (0x7300, 2, Masked, 0),
    (0x731c, 1, Masked, 0),
    (0x83a4, 1, Masked, 0),
    (0xe100, 38, Masked, 0),
    (0xe48c, 1, Masked, 0),
    (0xe4f0, 2, Masked, 0),
];

/// Registers of every engine; offsets from its base.
const ENGINE: &[(u32, Result<EngineHook, Kind>)] = &[
    (engine::TAIL, Ok(EngineHook::Tail)),
    (engine::HEAD, Ok(EngineHook::Head)),
    (engine::START, Ok(EngineHook::Start)),
    (engine::ACTIVE_HEAD, Ok(EngineHook::ActiveHead)),
    (engine::ACTIVE_HEAD_HIGH, Ok(EngineHook::ActiveHeadHigh)),
    (engine::MODE, Ok(EngineHook::Mode)),
    (engine::ERRORS, Ok(EngineHook::Errors)),
    (engine::ERROR_STATUS, Err(Constant)),
    (engine::RESET_CONTROL, Ok(EngineHook::ResetControl)),
    (engine::SUBMISSION_PORT, Ok(EngineHook::SubmissionPort)),
    (engine::EXECLIST_STATUS, Ok(EngineHook::ExeclistStatus)),
    (engine::EXECLIST_CONTEXT, Ok(EngineHook::ExeclistContext)),
    (engine::TIMESTAMP, Ok(EngineHook::Timestamp)),
    (engine::TIMESTAMP_HIGH, Ok(EngineHook::TimestampHigh)),
    (engine::STATUS_POINTER, Ok(EngineHook::StatusPointer)),
    (engine::GRAPHICS_MODE, Err(Masked)),
    (engine::INSTRUCTION_MODE, Err(Masked)),
    (engine::CONTEXT_CONTROL, Err(Masked)),
    (0x50, Err(Masked)),
    (0x1d0, Err(Masked)),
    (0xe0, Err(Masked)),
    (0xe4, Err(Masked)),
    (0xec, Err(Masked)),
    (0x580, Err(Masked)),
];

/// Values and kinds of all registers.
#[derive(Debug)]
pub struct Registers {
    values: Box<[AtomicU32]>,
    kinds: Box<[Kind]>,
    resets: Vec<(u32, u32)>,
}

impl Default for Registers {
    fn default() -> Self {
        let mut kinds = vec![Plain; SIZE as usize / 4];
        let mut set = |address: u32, kind: Kind| {
            if let Some(slot) = kinds.get_mut(address as usize / 4) {
                *slot = kind;
            }
        };
        let mut resets = Vec::new();
        for &(first, count, kind, reset) in GT {
            for index in 0..count {
                set(first + 4 * index, kind);
            }
            resets.push((first, reset));
        }
        for (number, spec) in (0u8..).zip(ENGINES) {
            for &(offset, kind) in ENGINE {
                let hook = |hook| Kind::Hook(Hook::Engine(number, hook));
                set(spec.mmio_base + offset, kind.map_or_else(|kind| kind, hook));
            }
        }
        let values = (0..SIZE / 4).map(|_| AtomicU32::new(0)).collect();
        let file = Self { values, kinds: kinds.into(), resets };
        file.reset();
        file
    }
}

impl Registers {
    /// Everything as after power-on.
    pub fn reset(&self) {
        for value in &self.values {
            value.store(0, Ordering::Relaxed);
        }
        for &(address, value) in &self.resets {
            self.set(address, value);
        }
    }

    /// What kind of register is there.
    #[must_use]
    pub fn kind(&self, address: u32) -> Kind {
        self.kinds.get(address as usize / 4).copied().unwrap_or(Constant)
    }

    /// What it holds.
    pub fn get(&self, address: u32) -> u32 {
        self.values.get(address as usize / 4).map_or(0, |value| value.load(Ordering::Acquire))
    }

    /// Sets what it holds, whatever its kind.
    pub fn set(&self, address: u32, value: u32) {
        if let Some(register) = self.values.get(address as usize / 4) {
            register.store(value, Ordering::Release);
        }
    }

    /// Writes as a masked register takes it; answers what it holds now.
    pub fn set_masked(&self, address: u32, value: u32) -> u32 {
        let (mask, bits) = (value >> 16, value & 0xffff);
        let new = self.get(address) & !mask & 0xffff | bits & mask;
        self.set(address, new);
        new
    }

    /// Writes a register that is not a hook.
    pub fn write(&self, address: u32, value: u32) {
        match self.kind(address) {
            Plain => self.set(address, value),
            Masked => {
                self.set_masked(address, value);
            }
            WriteClears => self.set(address, self.get(address) & !value),
            Constant | Does(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_register_is_in_two_rows() {
        let gt = GT.iter().flat_map(|&(first, count, ..)| (0..count).map(move |i| first + 4 * i));
        let engines = ENGINES
            .iter()
            .flat_map(|spec| ENGINE.iter().map(|(offset, _)| spec.mmio_base + offset));
        let mut all: Vec<u32> = gt.chain(engines).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(all.iter().all(|address| address % 4 == 0 && *address < SIZE));
    }

    #[test]
    fn kinds_of_registers_do_what_they_say() {
        let file = Registers::default();
        file.write(0x4000, 0x1234);
        assert_eq!(file.get(0x4000), 0x1234, "plain");
        file.write(0x7000, 0x0003_0003);
        file.write(0x7000, 0x0001_0000);
        assert_eq!(file.get(0x7000), 2, "masked");
        file.set(0xc_4008, 0xf);
        file.write(0xc_4008, 0x3);
        assert_eq!(file.get(0xc_4008), 0xc, "cleared by ones");
        file.write(0xc000, 0);
        assert_eq!(file.get(0xc000), 1, "constant");
    }

    #[test]
    fn a_reset_brings_back_constants_and_clears_the_rest() {
        let file = Registers::default();
        file.write(0x4000, 1);
        file.set(0xa26c, 9);
        file.reset();
        assert_eq!([file.get(0x4000), file.get(0xa26c)], [0, 4]);
    }

    #[test]
    fn what_is_outside_reads_as_zero() {
        let file = Registers::default();
        file.write(SIZE, 7);
        assert_eq!(file.get(SIZE), 0);
    }
}
