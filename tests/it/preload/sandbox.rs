//! `gpu-broker run`: the same programs as an ordinary user in a sandbox, with a daemon of another.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use gpu_broker_tests::{Daemon, binaries};

use super::{Said, Stage, installed, said};

/// Debian's `nobody`; root may become it, and nobody else can change users.
const NOBODY: &str = "65534";

/// A daemon that everybody may connect to.
fn open_to_all() -> Stage {
    let daemon = Daemon::start();
    let directory = daemon.socket().parent().expect("the socket lies in a directory");
    for (path, mode) in [(directory, 0o755), (daemon.socket(), 0o666)] {
        let open = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, open).expect("it is ours");
    }
    Stage::with(daemon)
}

/// A command in the sandbox, as `nobody` when we are root.
fn sandboxed(stage: &Stage, arguments: &[&str]) -> Said {
    installed("bwrap", "bubblewrap");
    // Others cannot enter root's directories, so what the sandbox needs is copied out.
    let copies = tempfile::Builder::new().prefix("gpu-broker-run-").tempdir().expect("a directory");
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(copies.path(), readable).expect("the directory is ours");
    let copy = |from: &Path, name: &str| {
        let to = copies.path().join(name);
        std::fs::copy(from, &to).expect("a copy can be made");
        to
    };
    let program = copy(&binaries::cli(), "gpu-broker");
    let library = copy(&binaries::preload(), "libgpu_broker_preload.so");
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.arg("--socket").arg(stage.daemon.socket());
    command.args(["run", "--sandbox", "--library"]).arg(library).arg("--").args(arguments);
    command.current_dir("/").env_remove("XDG_RUNTIME_DIR").env_remove("LD_PRELOAD");
    command.env("HOME", "/tmp").env("XDG_CACHE_HOME", "/tmp");
    said(&mut command)
}

#[test]
fn programs_run_without_any_device_node() {
    let mut stage = open_to_all();
    let nodes = "import os; print(os.path.lexists('/dev/dri/card0'), os.listdir('/dev/dri'))";
    let told = sandboxed(&stage, &["python3", "-c", nodes]);
    assert!(told.succeeded().starts_with("True ["), "{}", told.text);
    // Without the library, what is really there.
    let real = ["env", "-u", "LD_PRELOAD", "ls", "/dev/dri"];
    let told = sandboxed(&stage, &real);
    assert!(!told.output.status.success(), "{}", told.text);
    let benchmark = "/usr/libexec/igt-gpu-tools/benchmarks/gem_exec_nop";
    sandboxed(&stage, &["vulkaninfo", "--summary"]).says(&["KBL GT3"]);
    let vainfo = ["vainfo", "--display", "drm", "--device", "/dev/dri/renderD128"];
    sandboxed(&stage, &vainfo).says(&["VAProfileH264Main"]);
    sandboxed(&stage, &[benchmark]).succeeded();
    stage.daemon.assert_unharmed();
}

#[test]
fn there_is_no_network_and_the_exit_status_comes_through() {
    let stage = open_to_all();
    let interfaces = sandboxed(&stage, &["sh", "-c", "tail -n +3 /proc/net/dev; exit 7"]);
    assert_eq!(interfaces.output.status.code(), Some(7), "{}", interfaces.text);
    let others = interfaces.text.lines().filter(|line| !line.trim().starts_with("lo:"));
    assert_eq!(others.count(), 0, "{}", interfaces.text);
    let killed = sandboxed(&stage, &["sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.output.status.code(), Some(128 + 15), "{}", killed.text);
}

#[test]
fn the_doctor_says_what_is_missing() {
    let stage = Stage::new();
    let doctor = |socket: &Path, library: &Path| {
        let mut command = Command::new(binaries::cli());
        command.arg("--socket").arg(socket).arg("doctor").env("GPU_BROKER_PRELOAD", library);
        said(&mut command)
    };
    let library = binaries::preload();
    doctor(stage.daemon.socket(), &library).succeeded();
    let missing = doctor(Path::new("/nonexistent.sock"), Path::new("/nonexistent.so"));
    assert_eq!(missing.output.status.code(), Some(1), "{}", missing.text);
    missing.says(&[
        "no daemon listens on /nonexistent.sock",
        "libgpu_broker_preload.so was not found",
    ]);
}
