//! Finds the project's own programs and libraries, building them first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Where the running test's profile puts its output: `target/debug` as a rule.
///
/// # Panics
/// When the test was not started from a cargo target directory.
#[must_use]
pub fn output_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a file");
    // <target>/<profile>/deps/it-<hash>
    let deps = test.parent().expect("the test lies in a directory");
    assert!(deps.ends_with("deps"), "{} is not a cargo deps directory", deps.display());
    deps.parent().expect("deps lies in the profile's directory").to_owned()
}

/// `gpu-brokerd`, fresh.
#[must_use]
pub fn daemon() -> PathBuf {
    built("gpu-brokerd")
}

/// `gpu-broker`, fresh.
#[must_use]
pub fn cli() -> PathBuf {
    built("gpu-broker")
}

/// `libgpu_broker.so`, fresh.
#[must_use]
pub fn c_library() -> PathBuf {
    built("libgpu_broker.so")
}

/// An example program of a package, fresh.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"))
}

/// `libgpu_broker_preload.so`, fresh.
#[must_use]
pub fn preload() -> PathBuf {
    built("libgpu_broker_preload.so")
}

/// What the workspace builds under a name, after a build that runs once per test process: cargo does
/// not build another package's programs for a test, and a stale daemon would pass tests that the
/// sources fail.
fn built(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    let path = output_directory().join(name);
    assert!(path.exists(), "cargo built no {}", path.display());
    path
}

/// Builds the workspace with its tests, as `cargo test --workspace` does: a selection of packages
/// would select other features of the dependencies, and compile all of them once more.
fn build() {
    let output = output_directory();
    let target = output.parent().expect("the profile's directory lies in the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--quiet", "--workspace", "--all-targets"]);
    command.arg("--target-dir").arg(target);
    if output.ends_with("release") {
        command.arg("--release");
    }
    let status = command.current_dir(repository()).status().expect("cargo can be started");
    assert!(status.success(), "building the workspace failed: {status}");
}
