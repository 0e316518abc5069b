//! Programs that give the GPU memory they have: each story is a mode of `userptr.c`.

use super::Stage;

#[track_caller]
fn holds(story: &str) {
    let mut stage = Stage::new();
    let before = stage.daemon.footprint();
    let program = stage.compile("userptr", &["-pthread"]);
    let told = stage.run(program, &[story]);
    assert!(told.succeeded().ends_with("done\n"), "{}", told.text);
    stage.daemon.settles_to(&before);
    stage.daemon.assert_unharmed();
}

#[test]
fn program_and_gpu_see_what_the_other_writes_in_ordinary_memory() {
    holds("contents");
}

#[test]
fn buffers_over_the_same_pages_share_them() {
    holds("overlaps");
}

#[test]
fn what_the_kernel_refuses_is_refused_with_its_errno() {
    holds("refusals");
}

#[test]
fn memory_that_is_unmapped_replaced_moved_or_given_up_is_what_it_is_now() {
    holds("changes");
}

#[test]
fn a_child_has_memory_of_its_own() {
    holds("forks");
}

#[test]
fn threads_make_use_and_close_buffers_at_once() {
    holds("threads");
}

#[test]
fn work_reaches_memory_whose_buffer_was_closed_before() {
    holds("closes");
}

#[test]
fn work_on_memory_that_is_gone_does_not_reach_what_comes_after_it() {
    holds("waits");
}

#[test]
fn memory_on_a_stack_is_memory() {
    holds("stacks");
}

#[test]
fn what_may_be_done_with_memory_is_looked_at_again_when_it_changes() {
    holds("protects");
}

#[test]
fn there_are_as_many_memfds_as_there_may_be() {
    holds("scattered");
}

#[test]
fn a_number_that_another_process_uses_anew_is_the_new_buffer() {
    holds("numbers");
}
