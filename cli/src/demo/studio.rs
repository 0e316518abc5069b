//! What every painter works with: a session, its context, and a log of what was done.

use std::fmt::Display;
use std::time::{Duration, Instant};

use gpu_broker_client::protocol::status::ContextState;
use gpu_broker_client::{
    Buffer, Connection, Context, ContextBuilder, Error, Fence, FenceState, Vm,
};

use super::batch::{Batch, Surface};
use super::scene::{Colour, WIDTH};
use super::talk::{Step, StepKind};

/// How long the GPU may take for a strip before the demo gives up on it.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// GPU address of the first buffer; the others follow. Any address will do in a VM of one's own.
const FIRST_ADDRESS: u64 = 0x0100_0000;

/// Runs something and says how many microseconds it took.
pub(crate) fn micros<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let result = work();
    (result, begin.elapsed().as_secs_f64() * 1e6)
}

/// A buffer at its address.
pub(crate) struct Placed {
    buffer: Buffer,
    address: u64,
}

impl Placed {
    /// The buffer as a linear surface of the picture's width.
    pub(crate) fn surface(&self) -> Surface {
        Surface::linear(self.address, WIDTH * 4)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

/// A pixel that is known in advance: column and row of the strip.
pub(crate) struct Expected {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) colour: Colour,
    /// What it is part of, for the message when it is wrong.
    pub(crate) part: &'static str,
}

/// One client's session.
pub(crate) struct Studio {
    connection: Connection,
    vm: Option<Vm>,
    context: Option<Context>,
    next_address: u64,
    executed: bool,
    steps: Vec<Step>,
}

impl Studio {
    /// Nothing made yet.
    pub(crate) fn new(connection: Connection) -> Self {
        let (vm, context, steps) = (None, None, Vec::new());
        Self { connection, vm, context, next_address: FIRST_ADDRESS, executed: false, steps }
    }

    /// Takes the log.
    pub(crate) fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    /// The context's id, while there is one.
    pub(crate) fn context_id(&self) -> Option<u32> {
        self.context.as_ref().map(|context| context.id().0)
    }

    /// Does something and logs it with the time it took.
    pub(crate) fn step<T, E: Display>(
        &mut self,
        kind: StepKind,
        what: impl Into<String>,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, String> {
        let what = what.into();
        let (result, us) = micros(|| work(self));
        match result {
            Ok(value) => {
                self.steps.push(Step { what, kind, us });
                Ok(value)
            }
            Err(error) => Err(format!("{what}: {error}")),
        }
    }

    /// Does something that must be refused with this errno, and logs the daemon's sentence.
    pub(crate) fn refused<T>(
        &mut self,
        what: &str,
        errno: i32,
        work: impl FnOnce(&Context) -> Result<T, Error>,
    ) -> Result<(), String> {
        let context = self.context()?;
        let (result, us) = micros(|| work(context));
        match result {
            Err(Error::Refused(refusal)) if refusal.errno == errno => {
                let what = format!("{what}: refused, {} (errno {errno})", refusal.sentence);
                self.steps.push(Step { what, kind: StepKind::Configure, us });
                Ok(())
            }
            Err(error) => Err(format!("{what}: expected errno {errno}, got: {error}")),
            Ok(_) => Err(format!("{what}: expected errno {errno}, but it was granted")),
        }
    }

    /// An address space of the session's own.
    pub(crate) fn make_vm(&mut self) -> Result<(), String> {
        let vm = self.step(StepKind::Create, "VM_CREATE", |s| s.connection.create_vm())?;
        self.vm = Some(vm);
        Ok(())
    }

    /// A context with everything default.
    pub(crate) fn make_context(&mut self) -> Result<(), String> {
        let context = self.step(StepKind::Create, "CONTEXT_CREATE without extensions", |s| {
            s.connection.context().create()
        })?;
        self.context = Some(context);
        Ok(())
    }

    /// A context that is configured as it is created: with the VM, a priority, and `more`.
    pub(crate) fn make_configured(
        &mut self,
        priority: i32,
        more: &str,
        configure: impl FnOnce(ContextBuilder) -> ContextBuilder,
    ) -> Result<(), String> {
        let what = format!("CONTEXT_CREATE with SETPARAM extensions VM, PRIORITY {priority}{more}");
        let context = self.step(StepKind::Create, what, |s| {
            let vm = s.vm.as_ref().ok_or("there is no VM")?;
            let builder = s.connection.context().vm(vm).priority(priority);
            configure(builder).create().map_err(|e| e.to_string())
        })?;
        self.context = Some(context);
        Ok(())
    }

    /// SETPARAM VM and PRIORITY.
    pub(crate) fn set_vm_and_priority(&mut self, priority: i32) -> Result<(), String> {
        self.configure("SETPARAM VM", |s| match &s.vm {
            Some(vm) => s.context()?.set_vm(vm).map_err(|e| e.to_string()),
            None => Err("there is no VM".to_owned()),
        })?;
        self.configure(format!("SETPARAM PRIORITY {priority}"), |s| {
            s.context()?.set_priority(priority).map_err(|e| e.to_string())
        })
    }

    /// One step of configuring.
    pub(crate) fn configure<T, E: Display>(
        &mut self,
        what: impl Into<String>,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, String> {
        self.step(StepKind::Configure, what, work)
    }

    /// The painter's context.
    pub(crate) fn context(&self) -> Result<&Context, String> {
        self.context.as_ref().ok_or_else(|| "there is no context".to_owned())
    }

    /// Whether the daemon lists the context as a proto-context.
    pub(crate) fn is_proto(&self) -> Result<bool, String> {
        let id = self.context()?.id();
        let page = self.connection.status().map_err(|e| e.to_string())?;
        let own = page.sessions.iter().find(|s| s.session == self.connection.session());
        let context = own.and_then(|own| own.contexts.iter().find(|c| c.context == id));
        Ok(context.is_some_and(|context| context.state == ContextState::Proto))
    }

    /// Gives the context away, to be destroyed.
    pub(crate) fn take_context(&mut self) -> Result<Context, String> {
        self.context.take().ok_or_else(|| "there is no context".to_owned())
    }

    /// Buffers for pixels: found to be all zero through the CPU's mapping.
    pub(crate) fn pixels<const N: usize>(
        &mut self,
        sizes: [u64; N],
    ) -> Result<[Placed; N], String> {
        let noun = if N == 1 { "buffer" } else { "buffers" };
        let kib = sizes.iter().sum::<u64>() / 1024;
        self.step(StepKind::Prepare, format!("{N} {noun}, {kib} KiB, every byte 0"), |s| {
            let placed: Vec<Placed> = sizes
                .into_iter()
                .map(|bytes| {
                    let placed = s.place(bytes)?;
                    match read(&placed, bytes)?.iter().position(|byte| *byte != 0) {
                        None => Ok(placed),
                        Some(at) => Err(format!("a new buffer is not zero at byte {at}")),
                    }
                })
                .collect::<Result<_, String>>()?;
            <[Placed; N]>::try_from(placed).map_err(|_| "buffers are missing".to_owned())
        })
    }

    /// Writes a batch into a buffer of its own and submits it with what it uses, pinned.
    pub(crate) fn submit(
        &mut self,
        slot: u32,
        what: &str,
        mut batch: Batch,
        uses: &[(&Placed, bool)],
        after: Option<&Fence>,
    ) -> Result<Fence, String> {
        let commands = batch.commands();
        let dwords = batch.finish();
        let bytes = dwords.len() * 4;
        let holder = self.place(bytes as u64)?;
        let mapping = holder.buffer.map().map_err(|e| e.to_string())?;
        mapping.write_dwords(0, dwords).map_err(|e| e.to_string())?;
        let kind = if self.executed { StepKind::Execbuf } else { StepKind::FirstExecbuf };
        self.executed = true;
        let what = format!("EXECBUF on {what}: {commands} commands, {} KiB", bytes / 1024);
        let submission = self.step(kind, what, |studio| {
            let context = studio.context()?;
            let mut execbuf = context.execbuf().engine(slot);
            for (placed, write) in uses {
                execbuf = execbuf.object_at(&placed.buffer, placed.address);
                execbuf = if *write { execbuf.write() } else { execbuf };
            }
            if let Some(fence) = after {
                execbuf = execbuf.fence_in(fence);
            }
            let mut execbuf = execbuf.batch_at(&holder.buffer, holder.address).fence_out();
            execbuf.submit().map_err(|e| e.to_string())
        })?;
        submission.fence.ok_or_else(|| "the daemon gave no out-fence".to_owned())
    }

    /// Submits an empty batch to a slot that has no engine, which must be refused.
    pub(crate) fn submit_to_gap(&mut self, slot: u32) -> Result<(), String> {
        const EINVAL: i32 = 22;
        let holder = self.place(4096)?;
        self.refused(&format!("EXECBUF on slot {slot}, the gap"), EINVAL, |context| {
            context.execbuf().engine(slot).batch_at(&holder.buffer, holder.address).submit()
        })
    }

    /// Waits until the GPU has done it.
    pub(crate) fn wait(&mut self, fence: &Fence) -> Result<(), String> {
        let state = self
            .step(StepKind::Wait, "waited for the out-fence", |_| fence.wait(Some(WAIT_TIMEOUT)))?;
        match state {
            FenceState::Signalled => Ok(()),
            FenceState::Failed(errno) => {
                Err(format!("the GPU gave up on the batch, errno {errno}"))
            }
            FenceState::Pending => Err(format!("the GPU is not done after {WAIT_TIMEOUT:?}")),
        }
    }

    /// Reads the strip back and compares the pixels that are known.
    pub(crate) fn read_back(
        &mut self,
        strip: &Placed,
        rows: u32,
        expected: &[Expected],
    ) -> Result<Vec<u8>, String> {
        let what = format!("read {rows} rows back, compared {} pixels", expected.len());
        self.step(StepKind::Check, what, |_| {
            let pixels = read(strip, u64::from(WIDTH) * u64::from(rows) * 4)?;
            for Expected { x, y, colour, part } in expected {
                let at = (*y as usize * WIDTH as usize + *x as usize) * 4;
                let found = pixels.get(at..at + 3).unwrap_or(&[]);
                let [red, green, blue] = colour.channels();
                if found != [blue, green, red] {
                    return Err(format!(
                        "the pixel at column {x}, row {y} ({part}) is {found:02x?} (blue, green, \
                         red) instead of {:02x?}",
                        [blue, green, red]
                    ));
                }
            }
            Ok(pixels)
        })
    }

    fn place(&mut self, bytes: u64) -> Result<Placed, String> {
        let buffer = self.connection.create_buffer(bytes).map_err(|e| e.to_string())?;
        let address = self.next_address;
        // A page stays free between buffers, so that running over an end is noticed.
        self.next_address += buffer.size().next_multiple_of(0x1_0000) + 0x1_0000;
        Ok(Placed { buffer, address })
    }
}

fn read(placed: &Placed, bytes: u64) -> Result<Vec<u8>, String> {
    let length = usize::try_from(bytes).map_err(|e| e.to_string())?;
    let mapping = placed.buffer.map().map_err(|e| e.to_string())?;
    mapping.read_vec(0, length).map_err(|e| e.to_string())
}
