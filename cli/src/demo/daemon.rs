//! A daemon of our own: a real `gpu-brokerd` process with a private socket, ended with the demo.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gpu_broker_client::Connection;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a daemon may take to answer its first client, on a slow machine with a real GPU.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a daemon may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running daemon. Dropping it ends the process and removes its directory.
pub(crate) struct Daemon {
    child: Child,
    directory: TempDir,
    /// From start to the first answer.
    pub(crate) ready_after: Duration,
}

impl Daemon {
    /// Starts `gpu-broker daemon` from our own executable, and waits until
    /// it answers. `options` are the daemon's.
    ///
    /// # Errors
    /// A sentence with what the daemon said, when it does not come up.
    pub(crate) fn start(options: &[&str]) -> Result<(Self, Connection), String> {
        let directory = private_directory()
            .map_err(|e| format!("cannot make a private directory for the socket: {e}"))?;
        remove_on_signal(directory.path());
        let begin = Instant::now();
        let child = spawn(directory.path(), options)
            .map_err(|e| format!("cannot start the daemon from this executable: {e}"))?;
        let mut daemon = Self { child, directory, ready_after: Duration::ZERO };
        loop {
            match Connection::connect(daemon.socket(), "gpu-broker") {
                Ok(connection) => {
                    daemon.ready_after = begin.elapsed();
                    return Ok((daemon, connection));
                }
                Err(error) => daemon.check_start(begin, &error)?,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where clients connect.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("gpu-broker.sock")
    }

    /// The end of what the daemon wrote to its log, for error messages.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What the daemon complained about in its log.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let serious = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
        self.log().lines().filter(serious).map(str::to_owned).collect()
    }

    /// Ends the daemon by SIGTERM and waits for it.
    ///
    /// # Errors
    /// A sentence, when it did not exit with 0 in time.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        match self.end() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the daemon ended with {status}:\n{}", self.log())),
            None => Err(format!("the daemon did not end within {STOP_TIMEOUT:?} of SIGTERM")),
        }
    }

    fn check_start(&mut self, begin: Instant, error: &dyn std::fmt::Display) -> Result<(), String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("the daemon ended at once with {status}:\n{}", self.log()));
        }
        if begin.elapsed() > START_TIMEOUT {
            let log = self.log();
            return Err(format!("the daemon is not ready after {START_TIMEOUT:?}: {error}\n{log}"));
        }
        Ok(())
    }

    /// SIGTERM, and SIGKILL (answering `None`) if that does not help.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        let begin = Instant::now();
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        while begin.elapsed() < STOP_TIMEOUT {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        directories().remove(self.directory.path());
    }
}

/// Directories of the daemons that are running.
static DIRECTORIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn directories() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ctrl-C ends us without unwinding, so the handler removes what `drop` would have removed. The
/// daemon and the clients notice by themselves that we are gone.
fn remove_on_signal(directory: &Path) {
    const INTERRUPTED: i32 = 130;
    directories().insert(directory.to_owned());
    // A second daemon finds the handler in place. Without one only a directory would be left.
    let _ = ctrlc::try_set_handler(|| {
        for directory in directories().iter() {
            let _ = fs::remove_dir_all(directory);
        }
        std::process::exit(INTERRUPTED);
    });
}

/// In the user's runtime directory if there is one, because a socket's path must be short.
fn private_directory() -> io::Result<TempDir> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_dir());
    let parent = runtime.unwrap_or_else(std::env::temp_dir);
    let mut builder = tempfile::Builder::new();
    builder.prefix("gpu-broker-private-").permissions(fs::Permissions::from_mode(0o700));
    builder.tempdir_in(parent)
}

fn spawn(directory: &Path, options: &[&str]) -> io::Result<Child> {
    // Neither a configuration file nor an environment of the user's own may change what the demo
    // shows, so an empty file is given explicitly and our variables are taken out.
    let config = directory.join("gpu-brokerd.toml");
    fs::write(&config, "")?;
    let log = File::create(directory.join("log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GPU_BROKER_") {
            command.env_remove(name);
        }
    }
    command
        .arg("daemon")
        .arg("--exit-with-parent")
        .arg(std::process::id().to_string())
        .args(options)
        .arg("--config")
        .arg(config)
        .arg("--socket")
        .arg(directory.join("gpu-broker.sock"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
