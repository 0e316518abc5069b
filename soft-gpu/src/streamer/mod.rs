//! The command streamer: fetch, decode, execute.

mod atomic;
mod bus;
mod control;
mod fetch;
mod math;
mod ring_level;
mod store;
mod sync;
mod trace;

#[cfg(test)]
mod tests;

use crate::blit::Blitter;
use crate::decode::{self, Client, mi, pipeline};
pub use crate::fault::{Fault, FaultCause};
use crate::hardware::{Clock, EngineKind, EngineSpec};
use crate::memory::Memory;
use crate::registers::Registers;
use crate::ring::Host;
use bus::{Bus, Space};
use fetch::Fetch;
use ring_level::RingLevel;
use trace::Trace;

pub use sync::{Compare, SemaphoreWait};
pub use trace::{Executed, TRACE_COMMANDS};

pub(crate) use bus::Bus as MemoryBus;
pub(crate) use fetch::Command;

/// One context on one engine: registers, position, the blit under way. Plain data; whoever owns it
/// decides when it runs.
#[derive(Debug)]
pub struct Streamer {
    fetch: Fetch,
    pub(crate) state: State,
    blitter: Option<Box<Blitter>>,
    counters: Counters,
    batch: Batch,
    /// What the batch found when it began.
    before: Before,
    trace: Trace,
    yielding: bool,
    /// The last command executed was an arbitration point.
    at_arbitration: bool,
    round: Round,
}

/// What happened since the last jump, to find out whether a loop changes anything.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Where the jump led.
    head: u64,
    /// Nothing was executed since but commands that do nothing, look at memory or jump.
    idle: bool,
    /// Another context might have had the engine since.
    arbitration: bool,
}

/// Why [`Streamer::run`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The budget is used up, or an arbitration point was met and
    /// [`Streamer::set_yielding`] is on. Run again to go on.
    Budget {
        /// The last command was an arbitration point and MI_ARB_ON_OFF allows preemption: the
        /// engine may run another context now. Otherwise the batch holds the engine.
        arbitration: bool,
    },
    /// The batch ended.
    Done,
    /// MI_SEMAPHORE_WAIT waits for memory to change. Run again to look again.
    Waiting(SemaphoreWait),
    /// The batch goes round in a loop that changes nothing: only somebody else can end it, by
    /// writing to the loop or to what it looks at. Run again to go round once more.
    Spinning {
        /// As in [`Self::Budget`]: the loop has an arbitration point.
        arbitration: bool,
    },
    /// A command could not be executed. The batch is over.
    Fault(Fault),
}

/// What a context has executed on an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Commands executed, those below included.
    pub commands: u64,
    /// 3D, GPGPU, media and display commands: parsed and skipped.
    pub skipped: u64,
    /// Commands, or register writes, that only a privileged batch may use: without effect.
    pub filtered: u64,
    /// MI_USER_INTERRUPT, and notifications of flushes.
    pub interrupts: u64,
    /// Blits finished.
    pub blits: u64,
}

/// What commands change.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) engine: EngineSpec,
    pub(crate) registers: Registers,
    /// MI_ARB_ON_OFF.
    pub(crate) arbitration: bool,
    /// MI_SET_PREDICATE: commands do nothing.
    pub(crate) inhibited: bool,
    /// Combined result of MI_PREDICATE so far.
    pub(crate) predicate_state: bool,
    /// Where the first level goes on, in the second.
    pub(crate) return_to: Option<u64>,
    /// Page tables of the commands themselves.
    pub(crate) space: Space,
    /// What batches return to, if a driver runs the context by a ring.
    pub(crate) ring: Option<RingLevel>,
    pub(crate) filtered: u64,
    pub(crate) interrupts: u64,
}

/// The batch as it was submitted, for messages.
#[derive(Clone, Copy, Debug)]
struct Batch {
    start: u64,
    length: u64,
    jumped: bool,
    running: bool,
}

/// What a batch that has to start again must find once more.
#[derive(Debug)]
struct Before {
    registers: Registers,
    predicate_state: bool,
}

/// Where a command leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// To the next one.
    Next,
    /// To the next one, and the engine may switch contexts.
    Arbitrate,
    /// To the next one; it was parsed and skipped.
    Skip,
    /// Somewhere else.
    Jump(u64),
    /// To the same command later.
    Wait(SemaphoreWait),
    /// To the next one once the blitter is done.
    Blit,
    /// Out of the batch.
    End,
}

impl Streamer {
    /// A new context: all registers zero, nothing to run.
    #[must_use]
    pub fn new(engine: &EngineSpec) -> Self {
        Self {
            fetch: Fetch::new(),
            state: State {
                engine: *engine,
                registers: Registers::new(engine),
                arbitration: true,
                inhibited: false,
                predicate_state: false,
                return_to: None,
                space: Space::Context,
                ring: None,
                filtered: 0,
                interrupts: 0,
            },
            blitter: None,
            counters: Counters::default(),
            batch: Batch { start: 0, length: 0, jumped: false, running: false },
            before: Before { registers: Registers::new(engine), predicate_state: false },
            trace: Trace::default(),
            yielding: false,
            at_arbitration: false,
            round: Round { head: 0, idle: false, arbitration: false },
        }
    }

    /// Begins a batch at GPU address `batch` (bits 63:48 are ignored). Registers keep what earlier
    /// batches of the context left in them; arbitration is on and nothing is inhibited, because the
    /// kernel sees to both before each batch. What was running is forgotten.
    ///
    /// `length`, in bytes, only serves to explain a batch that runs past its end; 0 if unknown.
    pub fn start(&mut self, batch: u64, length: u64) {
        self.before.registers.clone_from(&self.state.registers);
        self.before.predicate_state = self.state.predicate_state;
        self.begin(batch, length);
    }

    /// Begins the batch again, with the registers as they were when it began first: what the kernel
    /// does with who is innocent of a reset. What it wrote to memory stays written.
    pub fn restart(&mut self) {
        self.state.registers.clone_from(&self.before.registers);
        self.state.predicate_state = self.before.predicate_state;
        self.begin(self.batch.start, self.batch.length);
    }

    fn begin(&mut self, batch: u64, length: u64) {
        self.trace.clear();
        self.state.space = Space::Context;
        self.state.ring = None;
        self.fetch.jump(Space::Context, batch);
        self.state.arbitration = true;
        self.state.inhibited = false;
        self.state.return_to = None;
        if let Some(blitter) = &mut self.blitter {
            blitter.cancel();
        }
        self.batch = Batch { start: self.fetch.position(), length, jumped: false, running: true };
        self.at_arbitration = false;
        self.round.idle = false;
    }

    /// Makes [`Self::run`] return at the next arbitration point, because another context wants the
    /// engine. Stays on until it is set off.
    pub fn set_yielding(&mut self, yielding: bool) {
        self.yielding = yielding;
    }

    /// Executes commands until the batch ends, waits or faults, or `budget` is used up. A simple
    /// command costs 1 and some tens of nanoseconds; long ones cost 1 more per 16 dwords, blits 16
    /// per KiB and 1 per row of a block. A run may exceed its budget by what one command, or one
    /// block of a blit (16 KiB), costs. A budget of 0 counts as 1.
    ///
    /// Once it has returned [`Stop::Done`] or [`Stop::Fault`], it returns `Done` until
    /// [`Self::start`].
    pub fn run(&mut self, memory: &dyn Memory, clock: &dyn Clock, budget: u32) -> Stop {
        self.run_with(memory, None, clock, budget)
    }

    fn run_with(
        &mut self,
        memory: &dyn Memory,
        host: Option<&dyn Host>,
        clock: &dyn Clock,
        budget: u32,
    ) -> Stop {
        if !self.batch.running {
            return Stop::Done;
        }
        self.state.registers.run_begins(clock);
        // What the CPU wrote since the last run has to show up.
        self.fetch.forget();
        let mut bus = Bus::new(memory, host, clock);
        let mut left = i64::from(budget.max(1));
        let stop = loop {
            if let Some(stop) = self.step(&mut bus, &mut left) {
                break stop;
            }
        };
        self.state.registers.run_ends(clock);
        if matches!(stop, Stop::Done | Stop::Fault(_)) {
            self.batch.running = false;
        }
        stop
    }

    /// What was executed so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            filtered: self.state.filtered,
            interrupts: self.state.interrupts,
            ..self.counters
        }
    }

    /// The registers.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.state.registers
    }

    /// The registers, to be changed.
    pub fn registers_mut(&mut self) -> &mut Registers {
        &mut self.state.registers
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &EngineSpec {
        &self.state.engine
    }

    /// Moves the context to another engine of its class, as a virtual engine does between batches:
    /// what its registers hold comes along.
    pub fn set_engine(&mut self, engine: &EngineSpec) {
        debug_assert_eq!(self.state.engine.class, engine.class, "siblings are of one class");
        self.state.engine = *engine;
        self.state.registers.set_engine(engine);
    }

    /// Address of the next command, or of the one that waits or faulted.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.fetch.position()
    }

    /// Where the batch began.
    #[must_use]
    pub const fn batch(&self) -> u64 {
        self.batch.start
    }

    /// The last commands that the batch executed, at most [`TRACE_COMMANDS`], oldest first.
    pub fn trace(&self) -> impl Iterator<Item = Executed> + '_ {
        self.trace.iter()
    }

    /// One command, or a part of a blit; `Some` if it ended the run.
    fn step(&mut self, bus: &mut Bus<'_>, left: &mut i64) -> Option<Stop> {
        if let Some(blitter) = &mut self.blitter
            && blitter.is_busy()
        {
            return self.step_blit(bus, left);
        }
        if self.state.ring.as_ref().is_some_and(|ring| ring.is_empty_at(self.fetch.position())) {
            return Some(Stop::Done);
        }
        if *left <= 0 {
            return Some(Stop::Budget { arbitration: self.at_arbitration });
        }
        let header = match self.fetch.header(bus) {
            Ok(header) => header,
            Err(what) => return Some(self.fault_fetching(what)),
        };
        self.round.idle &= is_idle(header);
        let result = self.execute(header, bus);
        if bus.take_stale(self.fetch.window()) {
            self.fetch.forget();
        }
        match result {
            Ok((flow, dwords)) => {
                // A command that waits has not been executed.
                if !matches!(flow, Flow::Wait(_)) {
                    self.trace.push(self.fetch.position(), header);
                }
                self.follow(flow, dwords, left)
            }
            Err(what) => Some(self.fault(header, what)),
        }
    }

    fn step_blit(&mut self, bus: &mut Bus<'_>, left: &mut i64) -> Option<Stop> {
        let blitter = self.blitter.as_mut()?;
        while blitter.is_busy() {
            if *left <= 0 {
                return Some(Stop::Budget { arbitration: false });
            }
            match blitter.advance(bus) {
                Ok(cost) => *left -= i64::from(cost),
                Err(what) => {
                    blitter.cancel();
                    let header = self.fetch.header(bus).unwrap_or(0);
                    return Some(self.fault(header, what));
                }
            }
        }
        self.counters.blits += 1;
        let dwords = blitter.command_dwords();
        // The blit may have painted over the commands that follow.
        self.fetch.forget();
        self.follow(Flow::Next, dwords, left)
    }

    /// Moves on after a command.
    fn follow(&mut self, flow: Flow, dwords: u32, left: &mut i64) -> Option<Stop> {
        self.at_arbitration = false;
        if flow == Flow::Blit {
            // It counts, and costs, when the blitter is done.
            return None;
        }
        *left -= 1 + i64::from(dwords / 16);
        self.counters.commands += 1;
        match flow {
            Flow::Next | Flow::Blit => self.fetch.advance(dwords),
            Flow::Skip => {
                self.counters.skipped += 1;
                self.fetch.advance(dwords);
            }
            Flow::Arbitrate => {
                self.fetch.advance(dwords);
                self.at_arbitration = self.state.arbitration;
                self.round.arbitration |= self.at_arbitration;
                if self.yielding && self.at_arbitration {
                    return Some(Stop::Budget { arbitration: true });
                }
            }
            Flow::Jump(target) => {
                self.batch.jumped = true;
                self.fetch.jump(self.state.space, target);
                let head = self.fetch.position();
                let Round { idle, arbitration, .. } = self.round;
                let again = idle && self.round.head == head;
                self.round = Round { head, idle: true, arbitration: false };
                if again {
                    return Some(Stop::Spinning { arbitration });
                }
            }
            Flow::Wait(wait) => {
                // It is not executed yet.
                self.counters.commands -= 1;
                return Some(Stop::Waiting(wait));
            }
            Flow::End => match self.state.return_to.take() {
                Some(address) => self.fetch.jump(self.state.space, address),
                None if self.state.ring.is_some() => self.return_to_ring(dwords),
                None => return Some(Stop::Done),
            },
        }
        if let Some(ring) = &self.state.ring
            && let Some(start) = ring.wrapped(self.fetch.position())
        {
            self.fetch.jump(Space::Global, start);
        }
        None
    }

    fn execute(&mut self, header: u32, bus: &mut Bus<'_>) -> Result<(Flow, u32), FaultCause> {
        let client = Client::of(header);
        let dwords = client.dwords(header).ok_or(FaultCause::Unknown { header })?;
        if self.state.inhibited
            && !matches!(client, Client::Mi(mi::SET_PREDICATE | mi::BATCH_BUFFER_END))
        {
            return Ok((Flow::Next, dwords));
        }
        let flow = match client {
            Client::Mi(opcode) => {
                let command = self.fetch.command(header, dwords, bus)?;
                self.state.execute_mi(opcode, &command, bus)?
            }
            Client::Blitter(opcode) => {
                self.require_engine(self.state.engine.kind == EngineKind::Copy)?;
                let command = self.fetch.command(header, dwords, bus)?;
                let blitter = self.blitter.get_or_insert_default();
                if blitter.begin(opcode, &command, &self.state.registers)? {
                    Flow::Blit
                } else {
                    Flow::Next
                }
            }
            Client::Pipeline(id) => self.execute_pipeline(id, header, dwords, bus)?,
            Client::Reserved => return Err(FaultCause::Unknown { header }),
        };
        Ok((flow, dwords))
    }

    /// 3D and media commands are not read beyond their header, so they cost nothing.
    fn execute_pipeline(
        &mut self,
        id: u16,
        header: u32,
        dwords: u32,
        bus: &mut Bus<'_>,
    ) -> Result<Flow, FaultCause> {
        let media = id >> 11 & 3 == 2;
        self.require_engine(match self.state.engine.kind {
            EngineKind::Render => true,
            EngineKind::Copy => false,
            EngineKind::Video0 | EngineKind::Video1 | EngineKind::VideoEnhance => media,
        })?;
        match id {
            pipeline::PIPE_CONTROL => {
                let command = self.fetch.command(header, dwords, bus)?;
                self.state.pipe_control(&command, bus)
            }
            pipeline::PRIMITIVE | pipeline::GPGPU_WALKER | pipeline::MEDIA_STATE_FLUSH => {
                self.counters.skipped += 1;
                Ok(Flow::Arbitrate)
            }
            _ => Ok(Flow::Skip),
        }
    }

    fn require_engine(&self, suitable: bool) -> Result<(), FaultCause> {
        if suitable {
            Ok(())
        } else {
            Err(FaultCause::WrongEngine { engine: self.state.engine.name })
        }
    }

    fn fault(&self, header: u32, what: FaultCause) -> Stop {
        let what = match what {
            FaultCause::Unknown { .. } | FaultCause::Unmapped(_) => self.past_end().unwrap_or(what),
            FaultCause::WrongEngine { .. }
            | FaultCause::Unsupported { .. }
            | FaultCause::TooShort { .. }
            | FaultCause::Misaligned { .. }
            | FaultCause::Invalid { .. }
            | FaultCause::PastEnd { .. } => what,
        };
        let command = decode::name_or_kind(header);
        Stop::Fault(Fault { address: self.fetch.position(), command, what })
    }

    fn fault_fetching(&self, what: FaultCause) -> Stop {
        let what = self.past_end().unwrap_or(what);
        let address = self.fetch.position();
        Stop::Fault(Fault { address, command: "command fetch", what })
    }

    /// The better explanation for garbage behind the batch.
    fn past_end(&self) -> Option<FaultCause> {
        let Batch { start, length, jumped, .. } = self.batch;
        let past = self.fetch.position().wrapping_sub(start) >= length;
        (length != 0 && !jumped && past).then_some(FaultCause::PastEnd { length })
    }
}

/// Whether a command only looks at memory, steers the batch or lets others have the engine.
const fn is_idle(header: u32) -> bool {
    matches!(
        Client::of(header),
        Client::Mi(
            mi::NOOP
                | mi::ARB_CHECK
                | mi::BATCH_BUFFER_START
                | mi::CONDITIONAL_BATCH_BUFFER_END
                | mi::SEMAPHORE_WAIT
        )
    )
}
