//! What a batch ended with, in the words of the device interface.

use gpu_broker_soft_gpu::engine::Ending;
use gpu_broker_soft_gpu::{Memory, Streamer, decode};

use super::capture::{self, Flagged};
use super::context::ContextShared;
use crate::{Batch, EngineId, FaultKind, FaultReport, Outcome};

/// What there is to say of a batch that is over.
pub(super) struct Remains<'a> {
    pub(super) context: &'a ContextShared,
    pub(super) streamer: &'a Streamer,
    pub(super) memory: &'a dyn Memory,
    pub(super) batch: Batch,
    /// Objects flagged for error dumps.
    pub(super) flagged: &'a [Flagged],
}

/// The outcome of a batch that ended.
pub(super) fn outcome_of(ending: Ending, remains: &Remains<'_>) -> Outcome {
    let Remains { context, streamer, memory, batch, flagged } = *remains;
    let spec = streamer.engine();
    let (kind, address, command, what) = match ending {
        Ending::Done => return Outcome::Completed,
        Ending::Cancelled => return Outcome::Cancelled,
        Ending::Fault(fault) => {
            (FaultKind::Fault, fault.address, fault.command, fault.what.to_string())
        }
        Ending::Hung { ran_ns, address } => {
            let what = format!("ran for {} ms without an arbitration point", ran_ns / 1_000_000);
            (FaultKind::Hung, address, name_at(memory, address), what)
        }
        Ending::TimedOut { active_ns, address } => {
            let what = format!("not done after {} ms", active_ns / 1_000_000);
            (FaultKind::TimedOut, address, name_at(memory, address), what)
        }
        Ending::Panicked(message) => {
            tracing::error!(engine = spec.name, message, "the software GPU panicked");
            (FaultKind::Device, 0, "unknown", format!("the software GPU failed: {message}"))
        }
    };
    let capture = context
        .captures_errors()
        .then(|| Box::new(capture::capture(streamer, memory, batch, flagged)));
    Outcome::Guilty(FaultReport {
        tag: context.tag,
        engine: EngineId { class: spec.class, instance: spec.instance },
        kind,
        batch: batch.address,
        address,
        command: command.to_owned(),
        what,
        capture,
    })
}

/// The command that an endless batch was about to execute.
fn name_at(memory: &dyn Memory, address: u64) -> &'static str {
    decode::name_or_kind(capture::dword(memory, address))
}
