//! Programs that fork, pass the device on, open it often, die, or throw nonsense at it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use gpu_broker_tests::binaries;

use super::Stage;

/// Seconds of nonsense. `GPU_BROKER_FUZZ_SECONDS` makes it longer.
const FUZZ_S: &str = "60";

/// The daemon gives back all that the program had.
#[track_caller]
fn behaves_and_leaves_nothing(arguments: &[&str]) {
    let mut stage = Stage::new();
    let before = stage.daemon.footprint();
    let told = stage.run(stage.compile("strange", &[]), arguments);
    assert!(told.succeeded().ends_with("done\n"), "{}", told.text);
    // A process that ends closes fds of syncobjs after its sessions; they are found when others end.
    for _ in 0..32 {
        drop(stage.daemon.client("passer-by"));
    }
    stage.daemon.settles_to(&before);
    stage.daemon.assert_unharmed();
}

#[test]
fn parent_and_child_share_the_open_file() {
    behaves_and_leaves_nothing(&["forks"]);
}

#[test]
fn a_process_that_is_sent_the_fd_has_the_open_file() {
    behaves_and_leaves_nothing(&["passes"]);
}

#[test]
fn closing_fds_takes_nobodys_turn_away() {
    behaves_and_leaves_nothing(&["closed"]);
}

#[test]
fn a_process_that_is_sent_its_own_fd_has_one_open_file() {
    behaves_and_leaves_nothing(&["itself"]);
}

#[test]
fn sharers_may_be_stopped_and_killed() {
    let seed = std::process::id().to_string();
    eprintln!("seed {seed}");
    behaves_and_leaves_nothing(&["struck", &seed]);
}

#[test]
fn signals_end_waits_as_they_end_the_kernels() {
    let seed = std::process::id().to_string();
    eprintln!("seed {seed}");
    behaves_and_leaves_nothing(&["interrupted", &seed]);
    behaves_and_leaves_nothing(&["interrupted-together", &seed]);
}

#[test]
fn a_fork_does_not_wait_for_what_other_threads_wait_for() {
    behaves_and_leaves_nothing(&["forks-waiting"]);
}

#[test]
fn an_exported_buffer_gives_and_takes_fences() {
    behaves_and_leaves_nothing(&["fences"]);
}

#[test]
fn an_exported_buffer_has_its_length() {
    behaves_and_leaves_nothing(&["exported"]);
}

#[test]
fn two_hundred_opens_are_two_hundred_sessions() {
    behaves_and_leaves_nothing(&["many"]);
}

#[test]
fn nonsense_gets_errnos_and_never_a_signal() {
    let seconds = std::env::var("GPU_BROKER_FUZZ_SECONDS").unwrap_or_else(|_| FUZZ_S.to_owned());
    let seed = std::process::id().wrapping_mul(2_654_435_761).to_string();
    eprintln!("seed {seed}");
    behaves_and_leaves_nothing(&["fuzz", &seconds, &seed]);
}

#[test]
fn a_program_killed_while_its_batch_runs_leaves_nothing() {
    let mut stage = Stage::new();
    let before = stage.daemon.footprint();
    // Without `timeout` between, which would be killed in its place.
    let mut child = Command::new(stage.compile("strange", &[]))
        .arg("hangs")
        .env("LD_PRELOAD", binaries::preload())
        .env("GPU_BROKER_SOCKET", stage.daemon.socket())
        .env("XDG_RUNTIME_DIR", stage.runtime.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was just built");
    let mut line = String::new();
    let output = child.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut line).expect("it is text");
    assert_eq!(line, "running\n");
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    stage.daemon.settles_to(&before);
    stage.daemon.assert_unharmed();
}
