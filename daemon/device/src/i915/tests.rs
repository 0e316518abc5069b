//! The conformance suite on a real device, in the guest of `tests/vm`.
//!
//! Cases about what only our own GPU does are not here: faults at an address (hardware reads a
//! scratch page), which engine a virtual one took, bindings that are gone at once, points of a
//! timeline that fail (the kernel's are reached without the error of the fence behind them).

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::I915Device;

fn device() -> I915Device {
    // A fd for each request in flight; the daemon asks for as many at its start.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    I915Device::open(Path::new("/dev/dri/renderD128")).unwrap()
}

crate::conformance::suite!(device;
    every_engine_executes, requests_of_a_slot_run_in_order, readers_wait_for_the_writer,
    asynchronous_objects_do_not_wait, a_writer_waits_for_readers_and_they_not_for_each_other,
    a_single_timeline_orders_all_slots, requests_start_after_fences_of_any_file,
    a_failed_fence_lets_its_dependents_run,
    a_cancelled_context_ends_at_once, cancelling_reaches_what_waits_for_dependencies,
    closing_without_cancel_lets_work_finish, a_cancelled_context_accepts_nothing,
    fences_become_readable, fences_come_back_from_their_fds, other_fds_are_no_fences,
    merged_fences_wait_for_both, errors_show_in_fences, buffers_report_when_idle,
    everything_is_released, memory_starts_zeroed,
    a_semaphore_is_signalled_by_another_engine, a_semaphore_is_signalled_by_the_cpu,
    two_hundred_contexts,
    requests_start_along_with_others, starting_along_is_starting_not_ending,
    the_timestamp_is_the_engines, what_runs_outlives_its_handles,
    relocations_are_written_before_the_batch, relocations_outside_their_object_are_refused,
    a_binary_syncobj_holds_one_fence, points_are_reached_in_order,
    points_out_of_order_fold_into_the_chain,
    requests_signal_syncobjs, requests_wait_for_points,
    syncobjs_pass_between_files, other_fds_are_no_syncobjs,
    waiting_for_any_and_all, waiting_needs_a_fence, waiting_for_fences_to_come,
    waiting_for_points_to_come, waits_outlive_resets, waits_can_be_given_up,
    waits_end_from_many_threads,
    buffers_pass_between_files, work_of_two_files_is_ordered_on_a_buffer,
    two_files_take_turns_on_their_buffers, other_fds_are_no_buffers,
    buffers_report_when_accessible,
);
