//! The benchmark programs of intel-gpu-tools. What they measure is not looked at.

use super::{Stage, installed};

const PROGRAMS: &str = "/usr/libexec/igt-gpu-tools/benchmarks";

/// Each with arguments that make it short.
const SHORT: &[(&str, &[&str])] = &[
    ("gem_exec_nop", &[]),
    ("gem_exec_ctx", &[]),
    ("gem_create", &["-r", "1", "-s", "4096"]),
    ("gem_busy", &["-r", "1"]),
    ("gem_exec_reloc", &[]),
    ("gem_prw", &[]),
    ("gem_set_domain", &["-r", "1"]),
    ("gem_blt", &["-r", "1"]),
];

#[test]
fn intel_gpu_tools_benchmarks_complete() {
    let mut stage = Stage::new();
    let before = stage.daemon.footprint();
    for (program, arguments) in SHORT {
        let path = format!("{PROGRAMS}/{program}");
        installed(&path, "intel-gpu-tools");
        stage.run(&path, arguments).succeeded();
    }
    stage.daemon.settles_to(&before);
    stage.daemon.assert_unharmed();
}

/// A workload that measures for twenty seconds by itself.
#[test]
fn uploads_and_blits_complete() {
    let mut stage = Stage::new();
    let path = format!("{PROGRAMS}/intel_upload_blit_small");
    installed(&path, "intel-gpu-tools");
    stage.run(&path, &[]).succeeded();
    stage.daemon.assert_unharmed();
}

/// Its message queue needs more room than a machine gives by itself, so it gets a namespace.
#[test]
fn batches_that_fault_pages_in_complete() {
    let mut stage = Stage::new();
    let path = format!("{PROGRAMS}/gem_exec_fault");
    installed(&path, "intel-gpu-tools");
    let room = "sysctl -qw kernel.msgmnb=1000000; exec \"$0\"";
    stage.run("unshare", &["-i", "sh", "-c", room, &path]).succeeded();
    stage.daemon.assert_unharmed();
}

/// Engine maps and dependencies. The program itself balances loads on Gen11 and later only.
#[test]
fn a_workload_with_an_engine_map_runs() {
    let mut stage = Stage::new();
    let path = format!("{PROGRAMS}/gem_wsim");
    installed(&path, "intel-gpu-tools");
    let workload = stage.runtime.path().join("workload");
    let steps = "M.1.RCS\n1.RCS.200-400.0.0\n2.BCS.300.-1.0\n2.BCS.100.0.1\n";
    std::fs::write(&workload, steps).expect("the directory is ours");
    let workload = workload.to_str().expect("ASCII");
    stage.run(&path, &["-w", workload, "-r", "5"]).says(&["workloads/s"]);
    stage.daemon.assert_unharmed();
}
