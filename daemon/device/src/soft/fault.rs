//! What a batch ended with, in the words of the device interface.

use gpu_broker_soft_gpu::EngineSpec;
use gpu_broker_soft_gpu::engine::Ending;

use crate::{EngineId, FaultReport, Outcome};

/// The outcome of a batch that ended on an engine.
pub(super) fn outcome_of(engine: &EngineSpec, ending: Ending) -> Outcome {
    let (address, command, what) = match ending {
        Ending::Done => return Outcome::Completed,
        Ending::Cancelled => return Outcome::Cancelled,
        Ending::Fault(fault) => (fault.address, fault.command.to_owned(), fault.what.to_string()),
        Ending::Hung { ran_ns, address } => {
            let what = format!("ran for {} ms without an arbitration point", ran_ns / 1_000_000);
            (address, "endless batch".to_owned(), what)
        }
        Ending::TimedOut { active_ns, address } => {
            let what = format!("not done after {} ms", active_ns / 1_000_000);
            (address, "endless batch".to_owned(), what)
        }
        Ending::Panicked(message) => {
            tracing::error!(engine = engine.name, message, "the software GPU panicked");
            (0, "unknown".to_owned(), format!("the software GPU failed: {message}"))
        }
    };
    let engine = EngineId { class: engine.class, instance: engine.instance };
    Outcome::Guilty(FaultReport { engine, address, command, what })
}
