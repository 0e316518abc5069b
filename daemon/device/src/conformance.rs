//! What every back end has to do, as tests over any [`Device`]: see `suite!`.
//!
//! A case is a function over a `Rig`. Batches are Gen9 MI commands, which all engines know. No
//! case depends on how fast anything is; where the device decides when, a case waits up to
//! `PATIENCE` and then fails.

#![expect(clippy::unwrap_used, reason = "a case fails by a panic")]

use crate::Device;

mod asm;
mod cancel;
mod fences;
mod order;
mod params;
mod rig;
mod schedule;
mod sharing;
mod start;
mod state;
mod syncobjs;
mod usage;
mod waits;

#[cfg(test)]
pub(crate) use asm::Asm;
pub(crate) use cancel::*;
pub(crate) use fences::*;
pub(crate) use order::*;
pub(crate) use params::*;
pub(crate) use rig::*;
pub(crate) use schedule::*;
pub(crate) use sharing::*;
pub(crate) use start::*;
pub(crate) use state::*;
pub(crate) use syncobjs::*;
pub(crate) use usage::*;
pub(crate) use waits::*;

/// Calls a macro, whose path is in brackets, with what follows there and the names of all cases.
macro_rules! with_every_case {
    ([$($then:tt)+] $($arguments:tt)*) => {
        $($then)+! { $($arguments)*
            every_engine_executes, requests_of_a_slot_run_in_order, readers_wait_for_the_writer,
            asynchronous_objects_do_not_wait,
            a_writer_waits_for_readers_and_they_not_for_each_other,
            a_single_timeline_orders_all_slots, slots_are_independent,
            requests_start_after_fences_of_any_file, a_failed_fence_lets_its_dependents_run,
            a_cancelled_context_ends_at_once, cancelling_reaches_what_waits_for_dependencies,
            closing_without_cancel_lets_work_finish, a_closed_context_hangs_once,
            a_cancelled_context_accepts_nothing, a_fault_blames_its_context_only,
            a_context_that_cannot_recover_is_stopped, an_endless_batch_is_guilty,
            an_endless_wait_without_arbitration_is_guilty, chains_of_cancelled_requests_end,
            fences_become_readable, fences_come_back_from_their_fds, other_fds_are_no_fences,
            merged_fences_wait_for_both, buffers_give_fences, buffers_take_fences,
            errors_show_in_fences, buffers_report_when_idle,
            requests_keep_their_address_space, replaced_parts_of_a_binding,
            everything_is_released, registers_belong_to_a_slot, a_virtual_engine_keeps_its_state,
            memory_starts_zeroed, shared_buffers_cannot_shrink,
            a_semaphore_is_signalled_by_another_engine, a_semaphore_is_signalled_by_the_cpu,
            batches_take_turns, a_virtual_engine_avoids_busy_siblings,
            parallel_batches_run_together, a_fault_ends_all_parallel_batches,
            higher_priority_goes_first, priorities_can_change_while_queued, two_hundred_contexts,
            usage_is_counted, one_context_keeps_both_video_engines_busy,
            parallel_batches_start_together, requests_start_along_with_others,
            starting_along_is_starting_not_ending, starting_along_with_what_never_starts,
            merged_fences_start_with_the_last, the_timestamp_is_the_engines,
            what_runs_outlives_its_handles, relocations_are_written_before_the_batch,
            relocations_wait_for_whoever_uses_the_memory,
            relocations_outside_their_object_are_refused, a_binary_syncobj_holds_one_fence,
            points_are_reached_in_order, points_out_of_order_fold_into_the_chain,
            a_point_fails_on_its_own, requests_signal_syncobjs, lost_requests_signal_syncobjs,
            requests_wait_for_points, timelines_have_a_limit, syncobjs_pass_between_files,
            other_fds_are_no_syncobjs, waiting_for_any_and_all, waiting_needs_a_fence,
            waiting_for_fences_to_come, waiting_for_points_to_come, waits_outlive_resets,
            waits_can_be_given_up, waits_end_from_many_threads, buffers_pass_between_files,
            work_of_two_files_is_ordered_on_a_buffer, two_files_take_turns_on_their_buffers,
            other_fds_are_no_buffers, buffers_report_when_accessible, engine_time_adds_up,
            files_share_an_engine_by_weight, files_of_one_share_have_it_together,
            a_share_has_what_its_files_had, sseu_is_for_version_11, memory_is_coherent_however_it_is_cached,
        }
    };
}
#[cfg(test)]
pub(crate) use with_every_case;

/// A case on a real device: see [`cases`].
pub struct Case<D: Device> {
    /// What it is called.
    pub name: &'static str,
    run: fn(&Rig<D>),
}

impl<D: Device> Case<D> {
    /// Runs it on a device that nobody else uses. Panics if the device does not do what it has to.
    pub fn run(&self, device: D) {
        let rig = Rig::new(device);
        (self.run)(&rig);
        rig.end();
    }
}

/// Every case of the suite.
#[must_use]
pub fn cases<D: Device>() -> Vec<Case<D>> {
    macro_rules! list {
        ($($case:ident),* $(,)?) => {
            vec![$(Case { name: stringify!($case), run: $case::<D> }),*]
        };
    }
    with_every_case!([list])
}

/// Makes a test of every case. The factory makes a device whose limit on batches without an
/// arbitration point is short (a few hundred milliseconds).
#[cfg(test)]
macro_rules! suite {
    ($factory:expr) => {
        $crate::conformance::with_every_case!([$crate::conformance::suite] $factory;);
    };
    ($factory:expr; $($case:ident),* $(,)?) => {$(
        #[test]
        fn $case() {
            let rig = $crate::conformance::Rig::new($factory());
            $crate::conformance::$case(&rig);
            rig.end();
        }
    )*};
}
#[cfg(test)]
pub(crate) use suite;
