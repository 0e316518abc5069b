//! The device: what reads and writes of its BARs do.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use gpu_broker_soft_gpu::{Clock, ENGINES, EngineKind, Memory, TIMESTAMP_HZ};

use crate::engine::{self, Engine};
use crate::faults::{Fault, Faults};
use crate::interrupts::Interrupts;
use crate::memory::{Ggtt, Guest, View};
use crate::mmio::{EngineHook, Hook, Kind, Registers, address};

/// Where the global GTT's table starts in BAR 0.
const GGTT_START: u64 = 8 << 20;

/// What the engines and the registers share.
#[derive(Debug)]
pub struct Shared {
    /// The guest's RAM.
    pub guest: Guest,
    /// The global GTT's table.
    pub ggtt: Ggtt,
    /// The register file.
    pub registers: Registers,
    /// The interrupt unit.
    pub interrupts: Interrupts,
    /// Faults that are on.
    pub faults: Faults,
    /// The clock.
    pub clock: SinceStart,
}

/// Time since the device was made.
#[derive(Debug)]
pub struct SinceStart(Instant);

impl Clock for SinceStart {
    fn ticks(&self) -> u64 {
        let ticks = self.0.elapsed().as_nanos() * u128::from(TIMESTAMP_HZ) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// The device. Dropping it ends its engines.
#[derive(Debug)]
pub struct Gpu {
    shared: Arc<Shared>,
    engines: Vec<Arc<Engine>>,
    threads: Vec<JoinHandle<()>>,
}

/// Which bit of the reset register is which engine; bit 0 is everything.
const RESET_BITS: [(u32, EngineKind); 5] = [
    (1, EngineKind::Render),
    (2, EngineKind::Video0),
    (3, EngineKind::Copy),
    (4, EngineKind::VideoEnhance),
    (7, EngineKind::Video1),
];

/// Of the power controller's mailbox: a command runs.
const MAILBOX_BUSY: u32 = 1 << 31;

impl Gpu {
    /// Starts the engines.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(faults: Faults) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            guest: Guest::default(),
            ggtt: Ggtt::default(),
            registers: Registers::default(),
            interrupts: Interrupts::default(),
            faults,
            clock: SinceStart(Instant::now()),
        });
        let new = |spec| Arc::new(Engine::new(spec, Arc::clone(&shared)));
        let engines: Vec<_> = ENGINES.into_iter().map(new).collect();
        let mut gpu = Self { shared: Arc::clone(&shared), engines, threads: Vec::new() };
        for engine in &gpu.engines {
            let engine = Arc::clone(engine);
            let thread = std::thread::Builder::new().name(engine.spec.name.to_owned());
            gpu.threads.push(thread.spawn(move || engine.run())?);
        }
        Ok(gpu)
    }

    /// What the engines and the registers share.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Everything as after power-on, but for faults and guest memory.
    pub fn reset(&self) {
        self.reset_engines(1);
        self.shared.registers.reset();
        self.shared.ggtt.clear();
        self.shared.interrupts.reset();
    }

    /// Reads a dword of BAR 0.
    #[must_use]
    pub fn read(&self, at: u64) -> u32 {
        if self.shared.faults.is_on(Fault::Unplugged) {
            return u32::MAX;
        }
        let Some(register) = register_at(at) else { return self.shared.ggtt.load(at - GGTT_START) };
        match self.shared.registers.kind(register) {
            Kind::Hook(hook) => self.read_hook(hook, register),
            Kind::Plain | Kind::Masked | Kind::WriteClears | Kind::Constant => {
                self.shared.registers.get(register)
            }
        }
    }

    /// Writes a dword of BAR 0.
    pub fn write(&self, at: u64, value: u32) {
        if self.shared.faults.is_on(Fault::Unplugged) {
            return;
        }
        let Some(register) = register_at(at) else {
            return self.shared.ggtt.store(at - GGTT_START, value);
        };
        match self.shared.registers.kind(register) {
            Kind::Hook(hook) => self.write_hook(hook, register, value),
            Kind::Plain | Kind::Masked | Kind::WriteClears | Kind::Constant => {
                self.shared.registers.write(register, value);
            }
        }
    }

    /// Reads BAR 2, which shows memory through the global GTT.
    pub fn read_aperture(&self, at: u64, into: &mut [u8]) {
        let blocks = self.shared.guest.snapshot();
        let view = View::global(&blocks, &self.shared.ggtt);
        let gone = self.shared.faults.is_on(Fault::Unplugged);
        if gone || view.read(at, into).is_err() {
            into.fill(if gone { 0xff } else { 0 });
        }
    }

    /// Writes BAR 2.
    pub fn write_aperture(&self, at: u64, from: &[u8]) {
        if !self.shared.faults.is_on(Fault::Unplugged) {
            let blocks = self.shared.guest.snapshot();
            // What is not mapped goes to a scratch page on hardware, which nobody reads.
            let _ = View::global(&blocks, &self.shared.ggtt).write(at, from);
        }
    }

    /// The guest changed which faults are on.
    pub fn set_faults(&self, bits: u8) {
        self.shared.faults.set_bits(bits);
        for engine in &self.engines {
            engine.mode_changed();
        }
    }

    fn read_hook(&self, hook: Hook, register: u32) -> u32 {
        match hook {
            Hook::Forcewake | Hook::Mailbox | Hook::DomainReset => {
                self.shared.registers.get(register)
            }
            Hook::PowerWell => self.power_wells(register),
            Hook::MasterInterrupt => self.shared.interrupts.read_master(),
            Hook::Interrupts => self.shared.interrupts.read(register - address::INTERRUPTS),
            Hook::Engine(number, hook) => self.read_engine(number, hook, register),
        }
    }

    fn read_engine(&self, number: u8, hook: EngineHook, register: u32) -> u32 {
        let Some(engine) = self.engines.get(usize::from(number)) else { return 0 };
        let stored = || self.shared.registers.get(register);
        match hook {
            EngineHook::Tail | EngineHook::Start | EngineHook::Errors => stored(),
            EngineHook::Head => engine.heads().0,
            EngineHook::ActiveHead => low(engine.heads().1),
            EngineHook::ActiveHeadHigh => low(engine.heads().1 >> 32),
            EngineHook::Mode => engine.mode(),
            // Ready as soon as it was asked to be.
            EngineHook::ResetControl => stored() & 1 | (stored() & 1) << 1,
            EngineHook::SubmissionPort => 0,
            EngineHook::ExeclistStatus => engine.execlist_status().0,
            EngineHook::ExeclistContext => engine.execlist_status().1,
            EngineHook::Timestamp => engine::timestamp(&self.shared.clock, false),
            EngineHook::TimestampHigh => engine::timestamp(&self.shared.clock, true),
            EngineHook::StatusPointer => engine.status_pointer(),
        }
    }

    fn write_hook(&self, hook: Hook, register: u32, value: u32) {
        let registers = &self.shared.registers;
        match hook {
            Hook::Forcewake => {
                let awake = registers.set_masked(register, value);
                let acknowledged = match register {
                    address::FORCEWAKE_RENDER => address::FORCEWAKE_RENDER_ACK,
                    address::FORCEWAKE_MEDIA => address::FORCEWAKE_MEDIA_ACK,
                    _ => address::FORCEWAKE_GT_ACK,
                };
                if !self.shared.faults.is_on(Fault::Forcewake) {
                    registers.set(acknowledged, awake);
                }
            }
            Hook::DomainReset => {
                if self.shared.faults.is_on(Fault::Reset) {
                    registers.set(register, value);
                } else {
                    registers.set(register, 0);
                    self.reset_engines(value);
                }
            }
            Hook::Mailbox => self.mail(value),
            Hook::PowerWell => registers.set(register, value),
            Hook::MasterInterrupt => self.shared.interrupts.write_master(value),
            Hook::Interrupts => {
                self.shared.interrupts.write(register - address::INTERRUPTS, value);
            }
            Hook::Engine(number, hook) => self.write_engine(number, hook, register, value),
        }
    }

    fn write_engine(&self, number: u8, hook: EngineHook, register: u32, value: u32) {
        let Some(engine) = self.engines.get(usize::from(number)) else { return };
        let registers = &self.shared.registers;
        match hook {
            EngineHook::Tail | EngineHook::Start => registers.set(register, value),
            EngineHook::Mode => {
                registers.set_masked(register, value);
                engine.mode_changed();
            }
            EngineHook::Errors => engine.acknowledge_errors(value),
            EngineHook::ResetControl => {
                registers.set_masked(register, value);
            }
            EngineHook::SubmissionPort => engine.submit(value),
            EngineHook::StatusPointer => engine.set_status_pointer(value),
            EngineHook::Head
            | EngineHook::ActiveHead
            | EngineHook::ActiveHeadHigh
            | EngineHook::ExeclistStatus
            | EngineHook::ExeclistContext
            | EngineHook::Timestamp
            | EngineHook::TimestampHigh => {}
        }
    }

    fn reset_engines(&self, bits: u32) {
        for (bit, kind) in RESET_BITS {
            if bits & (1 << bit | 1) == 0 {
                continue;
            }
            if let Some(engine) = self.engines.iter().find(|engine| engine.spec.kind == kind) {
                engine.reset();
            }
        }
    }

    /// The power controller answers at once. What it is asked for by number, and says, does not
    /// matter here but for two: the frequency it likes best, and that it is ready for a change.
    fn mail(&self, command: u32) {
        let registers = &self.shared.registers;
        // Neither busy nor an error.
        registers.set(address::MAILBOX, 0);
        if command & MAILBOX_BUSY == 0 {
            return;
        }
        match command & 0xff {
            0x1a => registers.set(address::MAILBOX_DATA, 6 << 8),
            0x07 | 0x21 => registers.set(address::MAILBOX_DATA, 1),
            _ => {}
        }
    }

    /// A requester's own bits, and as the state beside each bit what any of them requests.
    fn power_wells(&self, register: u32) -> u32 {
        let requested = |register| self.shared.registers.get(register) & 0xaaaa_aaaa;
        let all = address::POWER_WELLS.into_iter().fold(0, |all, one| all | requested(one));
        requested(register) | all >> 1
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        for engine in &self.engines {
            engine.stop();
        }
        for thread in self.threads.drain(..) {
            // A panic has told the panic hook.
            let _ = thread.join();
        }
    }
}

/// The register at an offset of BAR 0, unless the GTT is there.
fn register_at(at: u64) -> Option<u32> {
    if at < GGTT_START { u32::try_from(at & !3).ok() } else { None }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
#[path = "gpu_tests.rs"]
mod tests;
