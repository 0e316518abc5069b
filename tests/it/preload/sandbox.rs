//! `gpu-broker run`: the same programs as an ordinary user in a sandbox, with a daemon of another.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use gpu_broker_tests::{Daemon, binaries};
use tempfile::TempDir;

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

/// What the sandbox is made of.
#[derive(Clone, Copy, Debug)]
enum By {
    Bubblewrap,
    /// There is no bubblewrap where programs are looked for.
    Namespaces,
}

/// A command in the sandbox, as `nobody` when we are root, and the directory it needs.
fn command(stage: &Stage, by: By, arguments: &[&str]) -> (Command, TempDir) {
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
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.arg("--socket").arg(stage.daemon.socket());
    command.args(["run", "--sandbox", "--library"]).arg(library).arg("--").args(arguments);
    command.current_dir("/").env_remove("XDG_RUNTIME_DIR").env_remove("LD_PRELOAD");
    command.env("HOME", "/tmp").env("XDG_CACHE_HOME", "/tmp");
    if let By::Namespaces = by {
        command.env("PATH", copies.path());
    }
    (command, copies)
}

fn sandboxed(stage: &Stage, arguments: &[&str]) -> Said {
    sandboxed_by(stage, By::Bubblewrap, arguments)
}

fn sandboxed_by(stage: &Stage, by: By, arguments: &[&str]) -> Said {
    let (mut command, _copies) = command(stage, by, arguments);
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
fn without_bubblewrap_namespaces_do() {
    let stage = open_to_all();
    let by = By::Namespaces;
    let inside = "import os; print(os.getuid(), os.path.lexists('/dev/dri/card0'), \
                  sorted(os.listdir('/tmp')))";
    let told = sandboxed_by(&stage, by, &["/usr/bin/python3", "-c", inside]);
    let uid = match rustix::process::geteuid() {
        root if root.is_root() => NOBODY.to_owned(),
        user => user.as_raw().to_string(),
    };
    // What the sandbox and the library put there, and nothing of the machine's.
    let tmp = format!("['.gpu-broker', 'gpu-broker-preload-{uid}']");
    assert_eq!(told.succeeded().trim(), format!("{uid} True {tmp}"));
    // Without the library, what is really there.
    let real = ["/usr/bin/env", "-u", "LD_PRELOAD", "/bin/ls", "/dev"];
    let told = sandboxed_by(&stage, by, &real);
    assert_eq!(told.succeeded().trim(), "full\nnull\nrandom\nshm\ntty\nurandom\nzero");
    let alone = ["/bin/sh", "-c", "/usr/bin/tail -n +3 /proc/self/net/dev; exit 7"];
    let told = sandboxed_by(&stage, by, &alone);
    assert_eq!(told.output.status.code(), Some(7), "{}", told.text);
    let others = told.text.lines().filter(|line| !line.trim().starts_with("lo:"));
    assert_eq!(others.count(), 0, "{}", told.text);
    // The program has become our process, so its signal is seen as it is.
    let killed = sandboxed_by(&stage, by, &["/bin/sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.output.status.signal(), Some(15), "{}", killed.text);
    sandboxed_by(&stage, by, &["/usr/bin/vulkaninfo", "--summary"]).says(&["KBL GT3"]);
}

#[test]
fn signals_reach_the_program_in_the_sandbox() {
    let stage = open_to_all();
    // Blocked before it says so: the signal cannot come too early.
    let waits = "import signal, sys; signal.alarm(300); every = [signal.SIGTERM, signal.SIGUSR1]; \
                 signal.pthread_sigmask(signal.SIG_BLOCK, every); print('ready', flush=True); \
                 sys.exit(40 + signal.sigwait(every))";
    for by in [By::Bubblewrap, By::Namespaces] {
        for (name, number) in [("TERM", 15), ("USR1", 10)] {
            let (mut command, _copies) = command(&stage, by, &["/usr/bin/python3", "-c", waits]);
            let mut child = command.stdout(Stdio::piped()).spawn().expect("setpriv(1) starts");
            let mut ready = String::new();
            let told = child.stdout.take().expect("it is a pipe");
            BufReader::new(told).read_line(&mut ready).expect("the pipe can be read");
            assert_eq!(ready, "ready\n", "{by:?}");
            let pid = child.id().to_string();
            // With namespaces the program is the process, and has said that it is ready.
            if let By::Bubblewrap = by {
                holds_back(&pid, number);
            }
            let kill = Command::new("kill").args(["-s", name, &pid]).status();
            assert!(kill.expect("kill(1) starts").success());
            let status = child.wait().expect("it is our child");
            assert_eq!(status.code(), Some(40 + number), "SIG{name}, {by:?}: {status}");
        }
    }
}

/// Waits until a process has blocked a signal: `run` does so just after it has started bubblewrap.
fn holds_back(pid: &str, number: i32) {
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let mask = mask.expect("Linux tells what is blocked").trim();
        if u64::from_str_radix(mask, 16).expect("it is a number") >> (number - 1) & 1 == 1 {
            return;
        }
        std::thread::yield_now();
    }
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
