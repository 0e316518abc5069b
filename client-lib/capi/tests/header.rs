//! The checked-in header is what the source says, and C and C++ accept it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generate() -> String {
    let dir = crate_dir();
    let config = cbindgen::Config::from_file(dir.join("cbindgen.toml")).expect("cbindgen.toml");
    // In the order a reader wants them.
    let modules =
        ["boundary", "connection", "context", "buffer", "memory", "syncobj", "execbuf", "fence"];
    let mut builder = cbindgen::Builder::new().with_config(config);
    for module in modules {
        builder = builder.with_src(dir.join("src").join(module).with_extension("rs"));
    }
    let mut text = Vec::new();
    builder.generate().expect("cbindgen").write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    // The contracts in Rust's form say nothing that C programmers do not know.
    let mut lines: Vec<&str> = Vec::new();
    let mut in_safety = false;
    for line in text.lines() {
        in_safety = line == "// # Safety" || (in_safety && line.starts_with("//"));
        if in_safety {
            if lines.last() == Some(&"//") {
                lines.pop();
            }
        } else {
            lines.push(line);
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_checked_in_header_is_generated_from_the_source() {
    let path = crate_dir().join("include/gpu_broker.h");
    let generated = generate();
    if std::env::var_os("GPU_BROKER_BLESS").is_some() {
        std::fs::write(&path, &generated).expect("write the header");
    }
    let checked_in = std::fs::read_to_string(&path).expect("the header is checked in");
    assert!(
        generated == checked_in,
        "include/gpu_broker.h is out of date; write it again with\n  \
         GPU_BROKER_BLESS=1 cargo test -p gpu-broker-capi --test header"
    );
}

/// Runs a compiler, which must have nothing to say.
fn compile(compiler: &str, arguments: &[&str], source: &Path) {
    let output = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(crate_dir().join("include"))
        .args(arguments)
        .arg(source)
        .output()
        .unwrap_or_else(|error| panic!("{compiler} must be installed for this test: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{compiler} {arguments:?}:\n{said}");
}

#[test]
fn c_and_cxx_accept_the_header_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    for (compiler, standard, name) in [
        ("cc", "-std=c99", "alone.c"),
        ("cc", "-std=c17", "alone.c"),
        ("c++", "-std=c++11", "alone.cc"),
    ] {
        let source = dir.path().join(name);
        std::fs::write(&source, "#include <gpu_broker.h>\n#include <gpu_broker.h>\n")
            .expect("write the source");
        compile(compiler, &[standard, "-fsyntax-only"], &source);
    }
}

#[test]
fn the_examples_compile_without_a_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    for example in ["fill", "share", "own_memory"] {
        let object = dir.path().join(example).with_extension("o");
        let object = object.to_str().expect("UTF-8");
        let source = crate_dir().join("examples").join(example).with_extension("c");
        compile("cc", &["-std=c11", "-O2", "-c", "-o", object], &source);
    }
}
