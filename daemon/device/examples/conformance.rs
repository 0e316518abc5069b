//! The conformance suite on a real device: `conformance NODE [CASE…]`.
//!
//! For the guest of `tests/vm`, and for machines with a GPU that nobody else uses meanwhile. The
//! kernel should give up hanging batches sooner than it does by default: heartbeat_interval_ms and
//! preempt_timeout_ms of every engine.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use gpu_broker_device::conformance::{Case, cases};
use gpu_broker_device::i915::I915Device;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a GPU driven by the kernel does not do, and why that is right.
const NOT_HERE: &[(&str, &str)] = &[
    // Addresses.
    ("a_fault_blames_its_context_only", UNMAPPED),
    ("requests_keep_their_address_space", "what was unbound stays until something takes its place"),
    ("replaced_parts_of_a_binding", "what is pinned over a part of an object evicts all of it"),
    // Hangs and cancelling.
    ("a_closed_context_hangs_once", "GET_RESET_STATS knows no context that is closed"),
    ("chains_of_cancelled_requests_end", "a full ring makes EXECBUFFER2 wait, and nobody cancels"),
    ("lost_requests_signal_syncobjs", UNFAILING),
    ("a_point_fails_on_its_own", UNFAILING),
    ("starting_along_with_what_never_starts", "FENCE_SUBMIT takes the error of the other along"),
    // Engines and their time.
    ("a_virtual_engine_keeps_its_state", CHOOSES),
    ("one_context_keeps_both_video_engines_busy", CHOOSES),
    ("parallel_batches_run_together", PARALLEL),
    ("a_fault_ends_all_parallel_batches", PARALLEL),
    ("parallel_batches_start_together", PARALLEL),
    ("priorities_can_change_while_queued", "a request has the priority that its context had"),
    ("usage_is_counted", "of what ran on an engine, the kernel tells the time alone, by file"),
    ("engine_time_adds_up", "the kernel tells times of files, not of contexts"),
    ("files_share_an_engine_by_weight", "the kernel's scheduler knows no weights"),
    ("files_of_one_share_have_it_together", "the kernel shares by context, whoever has it"),
    // Memory.
    ("relocations_wait_for_whoever_uses_the_memory", "a batch that is written to is refused"),
    ("timelines_have_a_limit", "the kernel's have none; how many a session has is core's to limit"),
    ("shared_buffers_cannot_shrink", "a dma-buf has no size to change: EINVAL, not EPERM"),
];

const UNMAPPED: &str = "where nothing is mapped the kernel puts a scratch page, which is no fault";
const UNFAILING: &str = "a timeline's point is reached without the error of what was put in";
const CHOOSES: &str = "the kernel chooses the engine, and does not tell which it was";
const PARALLEL: &str = "PARALLEL_SUBMIT is for the GuC's submission, which this GPU has not";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(node) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: conformance NODE [CASE…]");
        return ExitCode::from(2);
    };
    let wanted: Vec<_> = arguments.filter_map(|name| name.into_string().ok()).collect();
    // A fd for each request in flight; the daemon asks for as many at its start.
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        eprintln!("RLIMIT_NOFILE stays as it is: {error}");
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for case in cases() {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == case.name) {
            continue;
        }
        let excuse = NOT_HERE.iter().find(|(name, _)| *name == case.name);
        match excuse {
            Some((name, why)) if wanted.is_empty() => println!("not here: {name}: {why}"),
            Some(_) | None if run(&case, &node) => passed += 1,
            Some(_) | None => failed.push(case.name),
        }
    }
    println!("{passed} passed, {} failed {failed:?}", failed.len());
    if failed.is_empty() && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the case holds.
fn run(case: &Case<I915Device>, node: &Path) -> bool {
    let begin = Instant::now();
    let device = match I915Device::open(node) {
        Ok(device) => device,
        Err(error) => {
            println!("FAILED: {}: {}: {error}", case.name, node.display());
            return false;
        }
    };
    let held = catch_unwind(std::panic::AssertUnwindSafe(|| case.run(device))).is_ok();
    let (verdict, time) = (if held { "ok" } else { "FAILED:" }, begin.elapsed().as_secs_f64());
    println!("{verdict} {} ({time:.1} s)", case.name);
    held
}
