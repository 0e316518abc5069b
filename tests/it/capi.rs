//! The C library, from C.

use std::path::Path;
use std::process::{Command, Output};

use gpu_broker_tests::{Daemon, binaries};

/// Builds an example of the C library into a directory.
pub(crate) fn compile(directory: &Path, example: &str) -> std::path::PathBuf {
    let examples = binaries::repository().join("client-lib/capi/examples");
    compile_source(directory, &examples.join(example).with_extension("c"))
}

/// Builds a program with the C library into a directory.
pub(crate) fn compile_source(directory: &Path, source: &Path) -> std::path::PathBuf {
    let library = binaries::c_library();
    let capi = binaries::repository().join("client-lib/capi");
    let program = directory.join(source.file_stem().expect("it has a name"));
    let output = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .arg("-I")
        .arg(capi.join("include"))
        .arg(&library)
        .output()
        .expect("a C compiler is installed (Debian: apt-get install gcc libc6-dev)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The library is linked by its SONAME, so the loader looks for that name.
    let soname = soname(&program);
    if !directory.join(&soname).exists() {
        std::os::unix::fs::symlink(&library, directory.join(&soname)).expect("it is ours");
    }
    program
}

/// The name under which the program asks for the library.
fn soname(program: &Path) -> String {
    let bytes = std::fs::read(program).expect("it was just built");
    let name = b"libgpu_broker.so";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("it is linked");
    let end = bytes[at..].iter().position(|byte| *byte == 0).expect("strings end");
    String::from_utf8(bytes[at..at + end].to_vec()).expect("ASCII")
}

/// Runs a compiled program against a socket.
pub(crate) fn run(program: &Path, socket: &Path) -> Output {
    let directory = program.parent().expect("it lies in a directory");
    Command::new(program)
        .arg(socket)
        .env("LD_LIBRARY_PATH", directory)
        .output()
        .expect("it was just built")
}

/// What an example says to a daemon of its own, which it leaves as it was.
fn said_by(directory: &Path, example: &str) -> String {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let output = run(&compile(directory, example), daemon.socket());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
    said
}

#[test]
fn the_example_compiles_and_fills() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let said = said_by(directory.path(), "fill");
    assert!(said.contains("stored 0x600dcafe"), "{said}");

    // Without a daemon it says what is wrong, and fails.
    let output = run(&directory.path().join("fill"), &directory.path().join("nothing.sock"));
    assert!(!output.status.success());
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(complained.contains("nothing.sock"), "{complained}");
}

#[test]
fn memory_of_malloc_is_changed_where_it_is() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let said = said_by(directory.path(), "own_memory");
    assert_eq!(said, "inverted 65536 pixels where malloc put them\n");
}

#[test]
fn two_sessions_share_a_buffer_and_a_timeline() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let said = said_by(directory.path(), "share");
    assert_eq!(said, "read 0x600dcafe through point 2\n");
}
