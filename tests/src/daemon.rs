//! A real `gpu-brokerd` in a process of its own.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use gpu_broker_protocol::status::StatusPage;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use crate::raw::Raw;
use crate::{PATIENCE, binaries};

/// How a daemon is started.
#[derive(Debug)]
pub struct Builder {
    config: String,
    arguments: Vec<String>,
    activation: Option<OwnedFd>,
    directory: TempDir,
}

/// A running daemon. Dropping it ends the process; a panicking test gets to see its log.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    /// Connected from the start to the end, so that it works when no more sessions fit and counts
    /// the same before and after.
    monitor: Mutex<Option<Raw>>,
    _directory: TempDir,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// All defaults, on the software GPU, or on the device that `GPU_BROKER_TEST_DEVICE` names: the
    /// guest of `tests/vm` runs some of the tests on the real driver.
    ///
    /// # Panics
    /// When there is no room for a temporary directory.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("gpu-broker-test-").tempdir();
        Self {
            config: String::new(),
            arguments: Vec::new(),
            activation: None,
            directory: directory.expect("a temporary directory can be made"),
        }
    }

    /// Lines of TOML for the configuration file.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Passes a listening socket as systemd would (LISTEN_FDS) instead of `--socket`; it must be
    /// bound to [`Self::socket`].
    #[must_use]
    pub fn activated_by(mut self, listener: OwnedFd) -> Self {
        self.activation = Some(listener);
        self
    }

    /// Where the socket will be.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("broker.sock")
    }

    /// Starts it and returns at once.
    ///
    /// # Panics
    /// When the process cannot be started.
    #[must_use]
    pub fn spawn(mut self) -> Daemon {
        let socket = self.socket();
        let log = self.directory.path().join("log");
        let config = self.directory.path().join("config.toml");
        fs::write(&config, &self.config).expect("the configuration can be written");
        let mut command = self.command();
        let device = std::env::var_os("GPU_BROKER_TEST_DEVICE").unwrap_or_else(|| "soft".into());
        command.arg("--config").arg(config).arg("--device").arg(device).args(&self.arguments);
        let output = File::create(&log).expect("the log can be created");
        command.stdout(output.try_clone().expect("the log can be shared")).stderr(output);
        let child = command.spawn().expect("gpu-brokerd can be started");
        let monitor = Mutex::new(None);
        Daemon { child, socket, log, monitor, _directory: self.directory }
    }

    fn command(&mut self) -> Command {
        let program = binaries::daemon();
        let mut command = match self.activation.take() {
            None => {
                let mut command = Command::new(program);
                command.arg("--socket").arg(self.socket()).stdin(Stdio::null());
                command
            }
            // The number of an inherited fd and LISTEN_PID can only be set from inside the new
            // process, so a shell stands in for systemd.
            Some(listener) => {
                let mut command = Command::new("bash");
                command.arg("-c");
                command.arg("exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"");
                command.arg("activation").arg(program).stdin(listener);
                command
            }
        };
        // Nothing of the machine's own broker or session manager may leak into a test.
        for name in ["GPU_BROKER_SOCKET", "NOTIFY_SOCKET", "LISTEN_FDS", "JOURNAL_STREAM"] {
            command.env_remove(name);
        }
        command.env_remove("RUNTIME_DIRECTORY");
        // A system call that its list lacks is a failure, in whatever test it happens.
        command.env("GPU_BROKER_SANDBOX", "kill");
        command
    }

    /// Starts it and waits until it answers HELLO.
    ///
    /// # Panics
    /// When it ends or does not answer.
    #[must_use]
    pub fn start(self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.wait_ready();
        daemon
    }
}

impl Daemon {
    /// A daemon with all defaults that answers.
    ///
    /// # Panics
    /// When it ends or does not answer.
    #[must_use]
    pub fn start() -> Self {
        Builder::new().start()
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let monitor = loop {
            match Raw::try_hello(&self.socket, "monitor") {
                Ok((monitor, _)) => break monitor,
                Err(problem) => {
                    let ended = self.child.try_wait().expect("our own child can be asked");
                    assert!(
                        ended.is_none() && Instant::now() < deadline,
                        "gpu-brokerd does not serve: {problem}; exit {ended:?}{}; log:\n{}",
                        self.forbidden_call(),
                        self.log()
                    );
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        };
        *self.monitor() = Some(monitor);
    }

    fn monitor(&self) -> MutexGuard<'_, Option<Raw>> {
        self.monitor.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client that has said HELLO.
    ///
    /// # Panics
    /// When the daemon does not answer it.
    #[must_use]
    pub fn client(&self, name: &str) -> Raw {
        Raw::hello(&self.socket, name)
    }

    /// Its process id.
    ///
    /// # Panics
    /// Never: a child has a positive id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// STATUS as the monitor sees it; the monitor is one of the sessions.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[must_use]
    pub fn status(&self) -> StatusPage {
        self.monitor().as_mut().expect("the daemon was started with `start`").status()
    }

    /// Whether its device is the software GPU.
    #[must_use]
    pub fn is_soft(&self) -> bool {
        self.status().daemon.driver == "soft"
    }

    /// Lowers how many fds the daemon may have, while it runs.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn limit_fds(&self, fds: u64) {
        let limit = Rlimit { current: Some(fds), maximum: Some(fds) };
        prlimit(Some(self.pid()), Resource::Nofile, limit).expect("a limit can be lowered");
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the daemon is still there");
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// When it has not after [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        crate::eventually("gpu-brokerd ends", || {
            child.try_wait().expect("our own child can be asked")
        })
    }

    /// Asks it to end, and waits.
    ///
    /// # Panics
    /// When it has not ended after [`PATIENCE`].
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Fails when the process has ended, or has logged a panic or an error: what a client does is
    /// never the daemon's bug.
    ///
    /// # Panics
    /// Then, with the log.
    pub fn assert_unharmed(&mut self) {
        let ended = self.child.try_wait().expect("our own child can be asked");
        let log = self.log();
        let forbidden = self.forbidden_call();
        assert!(ended.is_none(), "gpu-brokerd ended: {ended:?}{forbidden}; log:\n{log}");
        assert!(!log.contains("panicked at"), "gpu-brokerd panicked; log:\n{log}");
        assert!(!log.contains("ERROR"), "gpu-brokerd logged an error of its own:\n{log}");
    }
}

impl Daemon {
    /// In words, if its sandbox ended it: the kernel's log has the number of the call.
    fn forbidden_call(&mut self) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.child.try_wait().ok().flatten();
        if status.and_then(|status| status.signal()) != Some(Signal::SYS.as_raw()) {
            return String::new();
        }
        let log = Command::new("dmesg").output().map(|output| output.stdout).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let pid = format!(" pid={} ", self.child.id());
        let line = log.lines().rfind(|line| line.contains("type=1326") && line.contains(&pid));
        let line = line.unwrap_or("the kernel's log does not say which; strace -f does");
        format!(
            ", because it made a system call that is not in daemon/src/confine/calls.rs: {line}"
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let forbidden = self.forbidden_call();
            if !forbidden.is_empty() {
                eprintln!("the daemon ended{forbidden}");
            }
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(50);
            eprintln!("the daemon's log ends with:\n{}", lines[tail..].join("\n"));
        }
        // Whether it drains is a test of its own; here it must only be gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
