//! An engine: its submission port, the context that runs, and the thread that runs it.
//!
//! The thread holds the engine's lock for a turn of `TURN_BUDGET` at a time, so that a reset by
//! the driver is a change of state between two turns: once the register write has returned, the
//! engine touches memory no more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gpu_broker_soft_gpu::ring::{Host, Interrupt};
use gpu_broker_soft_gpu::{Clock, EngineSpec, Memory, Stop, Streamer};

use crate::execlist::{Accepted, Descriptor, Event, EventRing, Execlist};
use crate::faults::Fault;
use crate::gpu::Shared;
use crate::image::{Image, Saved};
use crate::interrupts::bit;
use crate::lock;
use crate::memory::View;
use crate::mmio::engine as offset;

/// Cost units of a turn: tens of microseconds of simple commands, up to half a millisecond of
/// blits. Registers of the engine answer between turns.
const TURN_BUDGET: u32 = 256;
/// Turns of nothing but simple commands after which a context counts as spinning.
const SPINNING_TURNS: u32 = 20;
/// A spinning or waiting context pauses between turns, so that the guest's processors, which may
/// have to do with two of the host's, make progress. The pause grows from the first to the second;
/// whatever the driver does to the engine ends it.
const NAP_MIN: Duration = Duration::from_micros(50);
/// See [`NAP_MIN`].
const NAP_MAX: Duration = Duration::from_millis(1);

/// RING_MI_MODE: the engine stands still.
const STOP_RING: u32 = 1 << 8;
/// RING_MI_MODE: it is idle.
const MODE_IDLE: u32 = 1 << 9;
/// Error registers: a command could not be executed.
const INSTRUCTION_ERROR: u32 = 1;

/// An engine of the device.
#[derive(Debug)]
pub struct Engine {
    /// What it is.
    pub spec: EngineSpec,
    shared: Arc<Shared>,
    state: Mutex<State>,
    changed: Condvar,
    /// Threads that want the lock while a turn holds it.
    contenders: AtomicUsize,
}

#[derive(Debug)]
struct State {
    execlist: Execlist,
    events: EventRing,
    streamer: Box<Streamer>,
    /// The context in the streamer, and its topmost page table.
    loaded: Option<(Descriptor, u64)>,
    /// A command could not be executed; only a reset helps.
    halted: bool,
    /// The last command was an arbitration point.
    preemptible: bool,
    /// The interrupt about the semaphore that is waited for was raised.
    semaphore_raised: bool,
    spinning: u32,
    nap: Duration,
    stopping: bool,
}

/// What a turn came to.
enum Turn {
    /// Something was done.
    Ran,
    /// Something was done that leads nowhere soon.
    Nap(Duration),
    /// There is nothing to do until something changes.
    Idle,
}

impl Engine {
    /// An idle engine, without its thread.
    #[must_use]
    pub fn new(spec: EngineSpec, shared: Arc<Shared>) -> Self {
        Self {
            spec,
            shared,
            state: Mutex::new(State::new(&spec)),
            changed: Condvar::new(),
            contenders: AtomicUsize::new(0),
        }
    }

    /// The engine's thread; returns after [`Self::stop`].
    pub fn run(&self) {
        let mut state = lock(&self.state);
        while !state.stopping {
            let turn = self.turn(&mut state);
            state = match turn {
                Turn::Ran => {
                    drop(state);
                    while self.contenders.load(Ordering::Acquire) > 0 {
                        std::thread::yield_now();
                    }
                    lock(&self.state)
                }
                Turn::Nap(pause) => {
                    let woken = self.changed.wait_timeout(state, pause);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                Turn::Idle => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.with(|state| state.stopping = true);
    }

    /// A write to the submission port.
    pub fn submit(&self, value: u32) {
        self.with(|state| state.execlist.write(value));
    }

    /// RING_MI_MODE was written: the engine may have to stop or go on.
    pub fn mode_changed(&self) {
        self.with(|_| ());
    }

    /// Whether nothing runs, or the engine was stopped.
    #[must_use]
    pub fn mode(&self) -> u32 {
        let mode = self.register(offset::MODE) & !MODE_IDLE;
        let idle = mode & STOP_RING != 0 || self.peek(|state| state.execlist.running().is_none());
        if idle { mode | MODE_IDLE } else { mode }
    }

    /// The driver said which event counts as the last, and where it has read up to.
    pub fn set_status_pointer(&self, value: u32) {
        let (mask, bits) = (value >> 16, value & 0xffff);
        if mask & 7 != 0 {
            self.with(|state| state.events.set_last((bits & 7) as u8));
        }
        self.shared.registers.set_masked(self.spec.mmio_base + offset::STATUS_POINTER, value);
    }

    /// RING_CONTEXT_STATUS_PTR.
    #[must_use]
    pub fn status_pointer(&self) -> u32 {
        let last = self.peek(|state| state.events.last());
        self.register(offset::STATUS_POINTER) & !7 | u32::from(last)
    }

    /// Offset in the ring, and address, of the next command.
    #[must_use]
    pub fn heads(&self) -> (u32, u64) {
        self.peek(|state| (state.streamer.ring_position().head, state.streamer.position()))
    }

    /// RING_EXECLIST_STATUS: which ports are valid, and the id of the context that runs.
    #[must_use]
    pub fn execlist_status(&self) -> (u32, u32) {
        self.peek(|state| {
            let (first, second) = (state.execlist.running(), state.execlist.second());
            // Bits 4:3 say which port is valid, bits 15:14 which one is active.
            let valid = u32::from(first.is_some()) << 3 | u32::from(second.is_some()) << 4;
            let active = if first.is_some() { 1 << 14 } else { 0 };
            (valid | active, first.map_or(0, |running| running.id))
        })
    }

    /// The driver acknowledged errors; those that persist show up again.
    pub fn acknowledge_errors(&self, value: u32) {
        let base = self.spec.mmio_base;
        let registers = &self.shared.registers;
        let left = registers.get(base + offset::ERRORS) & !value;
        let persisting =
            registers.get(base + offset::ERROR_STATUS) & !registers.get(base + offset::ERROR_MASK);
        registers.set(base + offset::ERRORS, left | persisting);
    }

    /// Forgets everything that ran or was to run.
    pub fn reset(&self) {
        let stopping = self.peek(|state| state.stopping);
        self.with(|state| *state = State { stopping, ..State::new(&self.spec) });
        for register in [
            offset::CONTROL,
            offset::HEAD,
            offset::TAIL,
            offset::START,
            offset::MODE,
            offset::GRAPHICS_MODE,
            offset::INSTRUCTION_MODE,
            offset::CONTEXT_CONTROL,
            offset::ERRORS,
            offset::ERROR_STATUS,
        ] {
            self.shared.registers.set(self.spec.mmio_base + register, 0);
        }
    }

    fn register(&self, register: u32) -> u32 {
        self.shared.registers.get(self.spec.mmio_base + register)
    }

    /// Takes the lock from the turns, once.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.contenders.fetch_add(1, Ordering::AcqRel);
        let state = lock(&self.state);
        self.contenders.fetch_sub(1, Ordering::AcqRel);
        state
    }

    fn peek<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.locked())
    }

    /// Changes the state and lets the thread look at it.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.locked();
        state.nap = NAP_MIN;
        let result = change(&mut state);
        drop(state);
        self.changed.notify_one();
        result
    }

    fn turn(&self, state: &mut State) -> Turn {
        if self.register(offset::MODE) & STOP_RING != 0
            || state.halted
            || self.shared.faults.is_on(Fault::Unplugged)
        {
            return Turn::Idle;
        }
        let blocks = self.shared.guest.snapshot();
        let global = View::global(&blocks, &self.shared.ggtt);
        if let Some((accepted, event)) = state.execlist.accept(state.preemptible) {
            self.carry_out(state, accepted, &global);
            self.emit(state, event, &global);
        }
        let Some((running, root)) = state.loaded else { return Turn::Idle };
        state.streamer.set_yielding(state.execlist.wants_preemption());
        let context = View::context(&blocks, root);
        let port = Port { engine: self, global: &global, status_page: running.image() };
        let before = state.streamer.counters().commands;
        let stop = state.streamer.run_ring(&context, &port, &self.shared.clock, TURN_BUDGET);
        let commands = state.streamer.counters().commands - before;
        self.shared.registers.set(
            self.spec.mmio_base + offset::ACTIVE_HEAD,
            u32::try_from(state.streamer.position() & 0xffff_ffff).unwrap_or(0),
        );
        self.after(state, stop, commands, &global)
    }

    fn after(&self, state: &mut State, stop: Stop, commands: u64, global: &View<'_>) -> Turn {
        state.preemptible = false;
        match stop {
            Stop::Done => {
                state.settle();
                self.save(state, global);
                let Some((next, event)) = state.execlist.complete() else { return Turn::Idle };
                if let Some(next) = next {
                    self.load(state, next, global);
                }
                self.emit(state, Some(event), global);
                Turn::Ran
            }
            Stop::Budget { arbitration } => {
                state.preemptible = arbitration;
                state.semaphore_raised = false;
                if commands < u64::from(TURN_BUDGET) / 2 {
                    state.settle();
                    return Turn::Ran;
                }
                state.spinning = state.spinning.saturating_add(1);
                if state.spinning < SPINNING_TURNS { Turn::Ran } else { state.nap() }
            }
            Stop::Spinning { arbitration } => {
                state.preemptible = arbitration;
                state.semaphore_raised = false;
                if arbitration && state.execlist.wants_preemption() {
                    return Turn::Ran;
                }
                state.nap()
            }
            Stop::Waiting(wait) => {
                state.preemptible = wait.preemptible;
                if !std::mem::replace(&mut state.semaphore_raised, true) {
                    self.raise(bit::SEMAPHORE);
                }
                if state.preemptible && state.execlist.wants_preemption() {
                    return Turn::Ran;
                }
                state.nap()
            }
            Stop::Fault(fault) => {
                eprintln!("{}: {fault}", self.spec.name);
                state.halted = true;
                let (base, registers) = (self.spec.mmio_base, &self.shared.registers);
                registers.set(base + offset::ERROR_STATUS, INSTRUCTION_ERROR);
                self.acknowledge_errors(0);
                if registers.get(base + offset::ERRORS) != 0 {
                    self.raise(bit::ERROR);
                }
                Turn::Idle
            }
        }
    }

    fn carry_out(&self, state: &mut State, accepted: Accepted, global: &View<'_>) {
        state.settle();
        match accepted {
            Accepted::Load(next) => self.load(state, next, global),
            Accepted::Switch(next) => {
                self.save(state, global);
                if let Some(next) = next {
                    self.load(state, next, global);
                }
            }
            Accepted::Continue(running) => match Image::read_tail(global, running.image()) {
                Ok(tail) => {
                    self.shared.registers.set(self.spec.mmio_base + offset::TAIL, tail);
                    state.streamer.set_ring_tail(tail);
                }
                Err(fault) => self.lose(state, &fault),
            },
            Accepted::Nothing => {}
        }
    }

    fn load(&self, state: &mut State, next: Descriptor, global: &View<'_>) {
        let image = match Image::read(global, next.image()) {
            Ok(image) => image,
            Err(fault) => return self.lose(state, &fault),
        };
        let base = self.spec.mmio_base;
        let registers = &self.shared.registers;
        state.preemptible = false;
        state.semaphore_raised = false;
        state.streamer.restore_registers(if image.is_new() { &[] } else { image.streamer() });
        state.streamer.registers_mut().set_context_timestamp(image.timestamp());
        if !image.is_new() {
            image.restore_listed(base, registers);
        }
        let ring = image.ring();
        state.streamer.start_ring(ring, image.position());
        registers.set(base + offset::TAIL, ring.tail);
        registers.set(base + offset::START, u32::try_from(ring.start).unwrap_or(0));
        registers.set(base + offset::CONTROL, image.ring_control());
        state.loaded = Some((next, image.root()));
    }

    fn save(&self, state: &mut State, global: &View<'_>) {
        let Some((running, _)) = state.loaded.take() else { return };
        let saved = Saved {
            position: state.streamer.ring_position(),
            timestamp: state.streamer.registers().context_timestamp(),
            registers: &self.shared.registers,
            streamer: state.streamer.save_registers(),
        };
        let image = Image::read(global, running.image());
        let written = image.and_then(|image| image.save(global, self.spec.mmio_base, &saved));
        if let Err(fault) = written {
            self.lose(state, &fault);
        }
    }

    /// The driver took a context's image away: only a reset helps.
    fn lose(&self, state: &mut State, fault: &gpu_broker_soft_gpu::MemoryFault) {
        eprintln!("{}: the image of a context: {fault}", self.spec.name);
        state.halted = true;
    }

    /// Tells the driver: the event first, then that it is there, then the interrupt.
    fn emit(&self, state: &mut State, event: Option<Event>, global: &View<'_>) {
        let Some(Event { status, id }) = event else { return };
        if self.shared.faults.take(Fault::Event) {
            eprintln!("{}: event {status:#x} of context {id:#x} is lost", self.spec.name);
            return;
        }
        let page = u64::from(self.register(offset::STATUS_PAGE) & !0xfff);
        let entry = state.events.advance();
        let at = page + (EventRing::FIRST_DWORD + 2 * u64::from(entry)) * 4;
        let pointer = page + EventRing::POINTER_DWORD * 4;
        let written = global
            .write(at + 4, &id.to_le_bytes())
            .and_then(|()| global.write(at, &status.to_le_bytes()))
            .and_then(|()| global.write(pointer, &u32::from(entry).to_le_bytes()));
        if let Err(fault) = written {
            eprintln!("{}: the status page: {fault}", self.spec.name);
        }
        self.raise(bit::SWITCH);
    }

    fn raise(&self, bit: u32) {
        if !self.shared.faults.is_on(Fault::Interrupt) {
            let masked = self.register(offset::INTERRUPT_MASK);
            self.shared.interrupts.raise(self.spec.kind, bit, masked);
        }
    }
}

impl State {
    fn new(spec: &EngineSpec) -> Self {
        Self {
            execlist: Execlist::default(),
            events: EventRing::default(),
            streamer: Box::new(Streamer::new(spec)),
            loaded: None,
            halted: false,
            preemptible: false,
            semaphore_raised: false,
            spinning: 0,
            nap: NAP_MIN,
            stopping: false,
        }
    }

    /// Whatever runs now does not spin yet.
    fn settle(&mut self) {
        self.spinning = 0;
        self.nap = NAP_MIN;
    }

    fn nap(&mut self) -> Turn {
        let pause = self.nap;
        self.nap = (pause * 2).min(NAP_MAX);
        Turn::Nap(pause)
    }
}

/// What the commands of a ring reach.
struct Port<'a> {
    engine: &'a Engine,
    global: &'a View<'a>,
    status_page: u64,
}

impl Host for Port<'_> {
    fn global(&self) -> &dyn Memory {
        self.global
    }

    fn status_page(&self) -> u64 {
        self.status_page
    }

    fn read_register(&self, address: u32) -> u32 {
        self.engine.shared.registers.get(address)
    }

    fn write_register(&self, address: u32, value: u32, privileged: bool) -> bool {
        let registers = &self.engine.shared.registers;
        let first = self.engine.spec.mmio_base + offset::NON_PRIVILEGED;
        let allowed = privileged
            || (0..offset::NON_PRIVILEGED_COUNT)
                .any(|slot| registers.get(first + 4 * slot) & 0x3ff_fffc == address);
        if allowed {
            registers.write(address, value);
        }
        allowed
    }

    fn interrupt(&self, what: Interrupt) {
        self.engine.raise(match what {
            Interrupt::User => bit::USER,
            Interrupt::Flush => bit::FLUSH,
        });
    }
}

/// The device's clock, for registers that are read by the CPU.
#[must_use]
pub fn timestamp(clock: &dyn Clock, high: bool) -> u32 {
    let ticks = clock.ticks() & 0xf_ffff_ffff;
    u32::try_from(if high { ticks >> 32 } else { ticks & 0xffff_ffff }).unwrap_or(0)
}
