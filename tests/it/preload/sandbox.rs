//! `gpu-broker run`: the same programs as an ordinary user in a sandbox, with a daemon of another.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use gpu_broker_tests::{Daemon, binaries};
use tempfile::TempDir;

use super::{PATIENCE_S, Said, Stage, VULKAN_DRIVER, installed, said};

/// Debian's `nobody`; root may become it, and nobody else can change users.
const NOBODY: &str = "65534";

/// A daemon that everybody may connect to.
pub(super) fn open_to_all() -> Stage {
    let daemon = Daemon::start();
    let directory = daemon.socket().parent().expect("the socket lies in a directory");
    for (path, mode) in [(directory, 0o755), (daemon.socket(), 0o666)] {
        let open = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, open).expect("it is ours");
    }
    let stage = Stage::with(daemon);
    let entered = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(stage.runtime.path(), entered).expect("it is ours");
    stage
}

/// What the sandbox is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Bubblewrap,
    /// There is no bubblewrap where programs are looked for.
    Namespaces,
}

/// A command in the sandbox, as `nobody` when we are root, and the directory it needs.
fn command(stage: &Stage, by: By, arguments: &[&str]) -> (Command, TempDir) {
    let (words, copies) = words(stage, arguments);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    prepare(&mut command, by, &copies);
    command.current_dir("/");
    (command, copies)
}

/// What comes before, and the command in the sandbox.
fn words(stage: &Stage, arguments: &[impl AsRef<OsStr>]) -> (Vec<OsString>, TempDir) {
    installed("bwrap", "bubblewrap");
    // Others cannot enter root's directories, so what the sandbox needs is copied out.
    let copies = tempfile::Builder::new().prefix("gpu-broker-run-").tempdir().expect("a directory");
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(copies.path(), readable).expect("the directory is ours");
    let copy = |from: &Path, name: &str| {
        let to = copies.path().join(name);
        std::fs::copy(from, &to).expect("a copy can be made");
        to.into_os_string()
    };
    let program = copy(&binaries::cli(), "gpu-broker");
    let library = copy(&binaries::preload(), "libgpu_broker_preload.so");
    let mut words: Vec<OsString> = Vec::new();
    if rustix::process::geteuid().is_root() {
        let nobody = ["/usr/bin/setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
        words.extend(nobody.map(OsString::from));
    }
    words.extend([program, "--socket".into(), stage.daemon.socket().into()]);
    words.extend(["run", "--sandbox", "--library"].map(OsString::from));
    words.extend([library, "--".into()]);
    words.extend(arguments.iter().map(|word| word.as_ref().to_owned()));
    (words, copies)
}

fn prepare(command: &mut Command, by: By, copies: &TempDir) {
    for name in ["XDG_RUNTIME_DIR", "LD_PRELOAD", "DISPLAY", "WAYLAND_DISPLAY"] {
        command.env_remove(name);
    }
    command.env("HOME", "/tmp").env("XDG_CACHE_HOME", "/tmp").env("LC_ALL", "C");
    command.env("VK_ICD_FILENAMES", VULKAN_DRIVER);
    if let By::Namespaces = by {
        command.env("PATH", copies.path());
    }
}

/// A machine that has a GPU, as far as names go: a `/dev` of our own, in whose `dri` there are nodes.
/// What comes after the directory is run there.
const WITH_NODES: &str = r#"
set -e
mount -t tmpfs -o mode=755 dev "$1"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fd "$1"
mkdir "$1/dri" "$1/pts" "$1/shm"
mknod -m 666 "$1/dri/card0" c 226 0
mknod -m 666 "$1/dri/renderD128" c 226 128
mount --rbind "$1" /dev
test -c /dev/dri/card0
shift
exec "$@"
"#;

/// Without the library, looks for nodes; with it, becomes the command.
const NONE_IN_SIGHT: &str = r#"
env -u LD_PRELOAD ls -d /dev/dri && exit 99
exec "$@"
"#;

/// Runs a command in the stage's directory, in a sandbox on a machine with nodes. There are none in
/// the very sandbox in which the command runs.
#[track_caller]
pub(super) fn without_a_node(stage: &Stage, arguments: &[String]) -> Said {
    let inside = ["sh", "-c", NONE_IN_SIGHT, "sh"].map(str::to_owned);
    let (words, copies) = words(stage, &[&inside[..], arguments].concat());
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE_S]);
    // Only root can make a /dev.
    if rustix::process::geteuid().is_root() {
        let dev = copies.path().join("dev");
        std::fs::create_dir(&dev).expect("the directory is ours");
        command.args(["unshare", "-m", "sh", "-c", WITH_NODES, "sh"]).arg(dev);
    }
    command.args(words);
    prepare(&mut command, By::Bubblewrap, &copies);
    let told = said(command.current_dir(stage.runtime.path()));
    told.says(&["cannot access '/dev/dri': No such file or directory"]);
    told
}

fn sandboxed(stage: &Stage, arguments: &[&str]) -> Said {
    sandboxed_by(stage, By::Bubblewrap, arguments)
}

fn sandboxed_by(stage: &Stage, by: By, arguments: &[&str]) -> Said {
    let (mut command, _copies) = command(stage, by, arguments);
    said(&mut command)
}

#[test]
fn the_library_shows_nodes_that_are_not_there() {
    let mut stage = open_to_all();
    let nodes = "import os; print(os.path.lexists('/dev/dri/card0'), os.listdir('/dev/dri'))";
    let told = sandboxed(&stage, &["python3", "-c", nodes]);
    assert!(told.succeeded().starts_with("True ["), "{}", told.text);
    // Without the library, what is really there.
    let real = ["env", "-u", "LD_PRELOAD", "ls", "/dev/dri"];
    let told = sandboxed(&stage, &real);
    assert!(!told.output.status.success(), "{}", told.text);
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
