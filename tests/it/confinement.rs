//! What the daemon has given up once it serves. That it has kept what it needs, all other tests show:
//! the rig starts it so that a system call that is not on its list ends it.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use gpu_broker_tests::{Builder, Daemon, Raw, binaries, eventually};
use libc::c_long;
use rustix::process::{Pid, Signal};

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Made,
    Refused(i32),
    Killed,
}

const EPERM: Outcome = Outcome::Refused(libc::EPERM);
const EACCES: Outcome = Outcome::Refused(libc::EACCES);

/// A place with what the daemon needs of files.
fn place() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("config.toml"), "").expect("ours");
    fs::create_dir(directory.path().join("sockets")).expect("ours");
    directory
}

fn intrude(place: &Path, sandbox: &str, role: &str, call: &str, arguments: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_intruder"))
        .args([sandbox, role])
        .arg(place)
        .arg(call)
        .args(arguments)
        .output()
        .expect("intruder can be started");
    if output.status.signal() == Some(Signal::SYS.as_raw()) {
        return Outcome::Killed;
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{:?}: {}", output, String::from_utf8_lossy(&output.stderr));
    match &*said {
        "ok" => Outcome::Made,
        errno => Outcome::Refused(errno.parse().expect("an errno")),
    }
}

/// In the daemon's place, as on the software GPU and as on a real one.
fn try_all(calls: &[(c_long, &[&str])], on: Outcome, kill: Outcome) {
    let place = place();
    for (number, arguments) in calls {
        for role in ["soft", "i915"] {
            for (sandbox, expected) in [("on", on), ("kill", kill)] {
                let number = number.to_string();
                let outcome = intrude(place.path(), sandbox, role, &number, arguments);
                assert_eq!(outcome, expected, "{sandbox} {role} {number} {arguments:?}");
            }
        }
    }
}

/// Other programs, other processes, other places, other powers.
#[test]
fn what_only_an_intruder_does_ends_the_process() {
    let calls: &[(c_long, &[&str])] = &[
        (libc::SYS_execve, &["/bin/true"]),
        (libc::SYS_execveat, &["-100", "/bin/true"]),
        (libc::SYS_ptrace, &["16", "other"]),
        (libc::SYS_process_vm_readv, &["other"]),
        (libc::SYS_mount, &["/", "/", "/", "4096"]),
        (libc::SYS_setns, &["0"]),
        (libc::SYS_unshare, &["268435456"]),
        (libc::SYS_chroot, &["/"]),
        (libc::SYS_bpf, &[]),
        (libc::SYS_io_uring_setup, &["8", "code"]),
        (libc::SYS_userfaultfd, &[]),
        (libc::SYS_perf_event_open, &["code"]),
        (libc::SYS_init_module, &[]),
        (libc::SYS_setuid, &["0"]),
        (libc::SYS_keyctl, &[]),
    ];
    try_all(calls, Outcome::Killed, Outcome::Killed);
    #[cfg(target_arch = "x86_64")]
    try_all(&[(libc::SYS_fork, &[]), (libc::SYS_vfork, &[])], Outcome::Killed, Outcome::Killed);
}

/// Calls that the daemon makes too, with other arguments, and calls that it does not make.
#[test]
fn what_the_daemon_has_no_use_for_is_refused() {
    const PROT_READ_EXEC: &str = "5";
    let calls: &[(c_long, &[&str])] = &[
        // AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK
        (libc::SYS_socket, &["2", "1"]),
        (libc::SYS_socket, &["10", "1"]),
        (libc::SYS_socket, &["16", "3"]),
        (libc::SYS_socket, &["17", "3"]),
        (libc::SYS_socket, &["40", "1"]),
        (libc::SYS_connect, &["0"]),
        // A process (SIGCHLD), and one in a user namespace of its own
        (libc::SYS_clone, &["17"]),
        (libc::SYS_clone, &["268435456"]),
        (libc::SYS_bind, &["0"]),
        (libc::SYS_listen, &["0"]),
        (libc::SYS_mmap, &["0", "4096", PROT_READ_EXEC, "34", "-1"]),
        (libc::SYS_mprotect, &["code", "4096", PROT_READ_EXEC]),
        (libc::SYS_pkey_mprotect, &["code", "4096", PROT_READ_EXEC, "-1"]),
        // O_WRONLY; O_WRONLY | O_CREAT; O_RDONLY | O_CREAT
        (libc::SYS_openat, &["-100", "/etc/passwd", "1"]),
        (libc::SYS_openat, &["-100", "/etc/new", "65"]),
        (libc::SYS_openat, &["-100", "/etc/new", "64"]),
        (libc::SYS_fchmodat, &["-100", "/etc/passwd", "438"]),
        (libc::SYS_renameat2, &["-100", "/etc/passwd", "-100", "/etc/shadow"]),
        (libc::SYS_linkat, &["-100", "/etc/passwd", "-100", "/etc/new"]),
        (libc::SYS_symlinkat, &["/etc/passwd", "-100", "/etc/new"]),
        (libc::SYS_mkdirat, &["-100", "/etc/new"]),
        (libc::SYS_mknodat, &["-100", "/etc/new", "8192"]),
        (libc::SYS_kill, &["other", "0"]),
        (libc::SYS_tgkill, &["other", "other", "0"]),
        (libc::SYS_pidfd_send_signal, &["0"]),
        (libc::SYS_prlimit64, &["0", "7", "code"]),
        (libc::SYS_setpriority, &[]),
        (libc::SYS_prctl, &["4", "1"]),
        (libc::SYS_seccomp, &["1"]),
        (libc::SYS_shmget, &["0", "4096", "512"]),
        // TIOCSTI, TCGETS, DRM_IOCTL_GEM_FLINK, DRM_IOCTL_SET_MASTER
        (libc::SYS_ioctl, &["0", "21522", "code"]),
        (libc::SYS_ioctl, &["0", "21505", "code"]),
        (libc::SYS_ioctl, &["0", "3221775370", "code"]),
        (libc::SYS_ioctl, &["0", "25630"]),
    ];
    try_all(calls, EPERM, Outcome::Killed);
}

#[test]
fn what_the_daemon_needs_stays() {
    let calls: &[(c_long, &[&str])] = &[
        (libc::SYS_getpid, &[]),
        (libc::SYS_socket, &["1", "5"]),
        (libc::SYS_mmap, &["0", "4096", "3", "34", "-1"]),
        (libc::SYS_memfd_create, &["/x", "0"]),
        (libc::SYS_tgkill, &["self", "self", "0"]),
        (libc::SYS_prctl, &["15", "/name"]),
        (libc::SYS_openat, &["-100", "/proc/self/status", "0"]),
    ];
    try_all(calls, Outcome::Made, Outcome::Made);
    let place = place();
    assert_eq!(intrude(place.path(), "kill", "soft", "thread", &[]), Outcome::Made);
    // What libc tries first, and has another way for.
    let absent = Outcome::Refused(libc::ENOSYS);
    try_all(&[(libc::SYS_clone3, &["code", "64"])], absent, absent);
}

/// The ioctls of a GPU are for who has one.
#[test]
fn the_role_decides_which_ioctls_are_left() {
    let place = place();
    // DRM_IOCTL_I915_GEM_BUSY, of no open file.
    let busy = ["-1", "3221775447", "code"];
    let call = libc::SYS_ioctl.to_string();
    let outcome = |role| intrude(place.path(), "on", role, &call, &busy);
    assert_eq!(outcome("soft"), EPERM);
    assert_eq!(outcome("i915"), Outcome::Refused(libc::EBADF), "the kernel is asked");
}

#[test]
fn files_are_out_of_reach() {
    let place = place();
    let path = |name: &str| place.path().join(name).to_str().expect("text").to_owned();
    for name in ["sockets/a.sock", "config.toml", "private"] {
        fs::write(path(name), "").expect("ours");
    }
    let (open, unlink) = (libc::SYS_openat.to_string(), libc::SYS_unlinkat.to_string());
    let elsewhere = tempfile::NamedTempFile::new().expect("a temporary file");
    let elsewhere = elsewhere.path().to_str().expect("text").to_owned();
    for role in ["soft", "i915"] {
        let try_to = |call: &str, path: &str, flags: &str| {
            intrude(place.path(), "on", role, call, &["-100", path, flags])
        };
        assert_eq!(try_to(&open, "/etc/passwd", "0"), EACCES);
        assert_eq!(try_to(&open, &elsewhere, "0"), EACCES);
        assert_eq!(try_to(&open, "/", "65536"), EACCES, "O_DIRECTORY");
        assert_eq!(try_to(&unlink, &elsewhere, "0"), EACCES);
        assert_eq!(try_to(&unlink, &path("config.toml"), "0"), EACCES);
        assert_eq!(try_to(&open, &path("config.toml"), "0"), Outcome::Made, "for a reload");
        // O_RDWR is for GPUs: Landlock says so where the filter does not.
        let written = try_to(&open, &path("config.toml"), "2");
        assert_eq!(written, if role == "soft" { EPERM } else { EACCES });
        let of_gpu = try_to(&open, "/sys/kernel/profiling", "0");
        assert_eq!(of_gpu == EACCES, role == "soft", "sysfs is for who has a GPU: {of_gpu:?}");
        assert_eq!(try_to(&unlink, &path("sockets/a.sock"), "0"), Outcome::Made, "when it ends");
        fs::write(path("sockets/a.sock"), "").expect("ours");
    }
}

/// The lines of `/proc/PID/task/*/status` with this key, of all threads.
fn of_threads(daemon: &Daemon, key: &str) -> Vec<String> {
    let tasks = format!("/proc/{}/task", daemon.pid().as_raw_nonzero());
    let tasks = fs::read_dir(tasks).expect("it runs").map(|task| task.expect("it runs").path());
    let status = tasks.filter_map(|task| fs::read_to_string(task.join("status")).ok());
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
    };
    status.map(value).collect()
}

#[test]
fn every_thread_of_a_serving_daemon_is_confined() {
    let mut daemon = Daemon::start();
    // Threads made later are confined as well: a look-up of an identity takes one.
    let clients: Vec<_> = (0..8).map(|_| daemon.client("guest")).collect();
    let threads = of_threads(&daemon, "Seccomp");
    assert!(threads.len() > 5, "the engines have threads: {threads:?}");
    assert!(threads.iter().all(|mode| mode == "2"), "not all are filtered: {threads:?}");
    let privileges = of_threads(&daemon, "NoNewPrivs");
    assert!(privileges.iter().all(|set| set == "1"), "{privileges:?}");
    let capabilities = of_threads(&daemon, "CapPrm");
    assert!(capabilities.iter().all(|set| set.trim_start_matches('0').is_empty()));
    drop(clients);
    daemon.assert_unharmed();
}

/// What `gpu-broker status` and `doctor` say of it.
fn told(daemon: &Daemon, command: &str) -> String {
    let output = Command::new(binaries::cli())
        .args([command, "--socket"])
        .arg(daemon.socket())
        .output()
        .expect("gpu-broker can be started");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn people_are_told_what_holds() {
    let daemon = Daemon::start();
    assert!(told(&daemon, "status").contains("\nsystem calls confined, files confined\n"));
    let doctor = told(&daemon, "doctor");
    assert!(doctor.contains("its system calls are confined, its files confined"), "{doctor}");
    let daemon = Builder::new().argument("--sandbox=off").start();
    let status = told(&daemon, "status");
    let off = "not confined (the sandbox is off)";
    assert!(status.contains(&format!("\nsystem calls {off}, files {off}\n")), "{status}");
}

/// On a kernel without Landlock and without seccomp filters, as strace can make this one look.
#[test]
fn a_kernel_that_cannot_is_served_on_and_told_of() {
    let place = place();
    let socket = place.path().join("broker.sock");
    let log = place.path().join("log");
    let output = fs::File::create(&log).expect("ours");
    let mut tracer = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null"])
        .args(["-e", "trace=landlock_create_ruleset,seccomp"])
        .args(["-e", "inject=landlock_create_ruleset:error=ENOSYS"])
        .args(["-e", "inject=seccomp:error=EINVAL"])
        .arg(binaries::daemon())
        .args(["--device", "soft", "--sandbox", "on", "--config"])
        .arg(place.path().join("config.toml"))
        .arg("--socket")
        .arg(&socket)
        .stdout(output.try_clone().expect("ours"))
        .stderr(output)
        .spawn()
        .expect("strace is installed (Debian: apt-get install strace)");
    let (mut client, _) = eventually("it serves", || Raw::try_hello(&socket, "guest").ok());
    let daemon = client.status().daemon.pid;
    let log = fs::read_to_string(log).expect("ours");
    let pid = Pid::from_raw(daemon.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
    tracer.wait().expect("ours");
    for what in [
        "WARN system calls are not confined: seccomp: ",
        "WARN files are not confined: this kernel has no Landlock",
    ] {
        assert!(log.contains(what), "{log}");
    }
}

/// A wall that stands cannot be taken down by a reload, which therefore says what it hides.
#[test]
fn a_class_that_comes_too_late_for_its_application_to_be_found_out_is_told_of() {
    let builder = Builder::new();
    let file = builder.socket().with_file_name("config.toml");
    let mut daemon = builder.start();
    let class = "[[class]]\nname = \"games\"\nmatch.listener = [\"none\"]\n\
                 match.app_id = [\"org.games.*\"]";
    fs::write(file, class).expect("ours");
    daemon.signal(Signal::HUP);
    let log = eventually("the daemon reads it", || {
        Some(daemon.log()).filter(|log| log.contains("was read again"))
    });
    assert!(log.contains("class \"games\" matches app_id") && log.contains("restart"), "{log}");
    daemon.assert_unharmed();
}

#[test]
fn the_sandbox_can_be_switched_off() {
    let daemon = Builder::new().argument("--sandbox=off").start();
    let threads = of_threads(&daemon, "Seccomp");
    assert!(threads.iter().all(|mode| mode == "0"), "{threads:?}");
    let log = daemon.log();
    for what in ["system calls are not confined: ", "files are not confined: "] {
        assert!(log.contains(what), "{log}");
    }
}

/// Landlock would hide the client's root, and with it the application's name.
#[test]
fn a_class_that_asks_for_an_application_costs_the_wall_around_files_and_says_so() {
    let config = "[[class]]\nname = \"games\"\nmatch.listener = [\"none\"]\n\
                  match.app_id = [\"org.games.*\"]";
    let mut daemon = Builder::new().config(config).start();
    let log = daemon.log();
    assert!(log.contains("files are not confined: class \"games\" matches app_id"), "{log}");
    let threads = of_threads(&daemon, "Seccomp");
    assert!(threads.iter().all(|mode| mode == "2"), "{threads:?}");
    daemon.assert_unharmed();
}
