//! Unmodified programs on the broker, through the preload library (`client-lib/preload`).
//!
//! The programs are Debian's; `tests/run tools` installs them.

mod large;
mod polls;
mod programs;
mod sandbox;
mod strange;
mod userptr;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gpu_broker_tests::{Daemon, binaries};
use tempfile::TempDir;

/// Seconds after which a program is taken to hang. The slowest needs a minute on a busy machine.
const PATIENCE_S: &str = "600";

/// Mesa's Intel driver, as the Vulkan loader is told of it.
const VULKAN_DRIVER: &str = "/usr/share/vulkan/icd.d/intel_icd.x86_64.json";

/// A daemon, and a place of its own for the device's files.
struct Stage {
    daemon: Daemon,
    runtime: TempDir,
}

/// What a program said.
struct Said {
    output: Output,
    text: String,
}

impl Stage {
    fn new() -> Self {
        Self::with(Daemon::start())
    }

    fn with(daemon: Daemon) -> Self {
        let runtime = tempfile::tempdir().expect("a temporary directory can be made");
        Self { daemon, runtime }
    }

    /// A program that sees the broker's GPU, and is ended when it hangs.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // `timeout` comes first, so it is `env` that gives the program the library.
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", PATIENCE_S, "env"]);
        let library = binaries::preload();
        command.arg(format!("LD_PRELOAD={}", library.display())).arg(program.as_ref());
        command.env("GPU_BROKER_SOCKET", self.daemon.socket());
        command.env("XDG_RUNTIME_DIR", self.runtime.path()).env_remove("DISPLAY");
        command.env_remove("WAYLAND_DISPLAY").current_dir(self.runtime.path());
        // Mesa keeps shaders in the user's cache, and would find those of another test.
        command.env("XDG_CACHE_HOME", self.runtime.path());
        command.env("VK_ICD_FILENAMES", VULKAN_DRIVER);
        command
    }

    /// Compiles one of the C programs beside this file, whose first lines say what it does.
    #[track_caller]
    fn compile(&self, name: &str, libraries: &[&str]) -> PathBuf {
        let source = binaries::repository().join("tests/it/preload").join(name).with_extension("c");
        let program = self.runtime.path().join(name);
        let output = Command::new("cc")
            .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-I/usr/include/libdrm"])
            .arg("-o")
            .args([&program, &source])
            .args(libraries)
            .output()
            .expect("a C compiler is installed (Debian: apt-get install gcc libc6-dev)");
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tests/run tools installs headers:\n{complained}");
        program
    }

    fn run(&self, program: impl AsRef<OsStr>, arguments: &[impl AsRef<OsStr>]) -> Said {
        said(self.command(program).args(arguments))
    }
}

fn said(command: &mut Command) -> Said {
    let output = command.output().expect("timeout(1) can be started");
    let text = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part)).concat();
    Said { output, text }
}

impl Said {
    #[track_caller]
    fn succeeded(&self) -> &str {
        assert!(self.output.status.success(), "{}:\n{}", self.output.status, self.text);
        &self.text
    }

    #[track_caller]
    fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.text.contains(word), "{word:?} is missing in:\n{}", self.text);
        }
    }
}

#[track_caller]
fn installed(program: &str, package: &str) {
    let there = Path::new(program).exists()
        || ["/usr/bin", "/usr/sbin"].iter().any(|bin| Path::new(bin).join(program).exists());
    assert!(there, "{program} is missing: install {package} (tests/run tools does)");
}
