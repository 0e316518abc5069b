//! Compiles the C headers of libdrm and of the kernel and compares every size, offset and
//! number with ours.

use std::path::Path;
use std::process::Command;

use gpu_broker_uapi::{drm, i915, sync};

const HEADERS: &str = "/usr/include/libdrm";

/// Flags and other numbers.
fn constants() -> Vec<(&'static str, u64)> {
    let flags = drm::FLAGS.iter().chain(sync::FLAGS).chain(i915::NAMES);
    let flags = flags.map(|(name, value)| (*name, (*value).into()));
    let params = i915::PARAMS.iter().map(|(name, value)| (*name, (*value).unsigned_abs().into()));
    let classes = i915::CLASSES.iter().map(|(name, value)| (*name, (*value).into()));
    let numbers = drm::CAPS.iter().chain(i915::NUMBERS).copied();
    flags.chain(params).chain(classes).chain(numbers).collect()
}

/// One line per fact, in the words both sides use.
fn ours() -> String {
    let mut facts = String::new();
    for (name, size, fields) in drm::STRUCTS.iter().chain(i915::STRUCTS).chain(sync::STRUCTS) {
        facts += &format!("{name} {size}\n");
        for (field, offset) in *fields {
            facts += &format!("{name}.{} {offset}\n", field.trim_start_matches("r#"));
        }
    }
    for (name, number) in drm::IOCTLS.iter().chain(i915::IOCTLS).chain(sync::IOCTLS) {
        facts += &format!("{name} {number:#010x}\n");
    }
    for (name, number) in constants() {
        facts += &format!("{name} {number}\n");
    }
    facts
}

/// A C program that prints the same lines from the headers.
fn program() -> String {
    let mut c = String::from(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <i915_drm.h>\n\
         #include <fcntl.h>\n#include <linux/sync_file.h>\n#include <linux/dma-buf.h>\n\
         int main(void) {\n",
    );
    for (name, _, fields) in drm::STRUCTS.iter().chain(i915::STRUCTS).chain(sync::STRUCTS) {
        c += &format!("printf(\"{name} %zu\\n\", sizeof(struct {name}));\n");
        for (field, _) in *fields {
            let field = field.trim_start_matches("r#");
            c += &format!("printf(\"{name}.{field} %zu\\n\", offsetof(struct {name}, {field}));\n");
        }
    }
    for (name, _) in drm::IOCTLS.iter().chain(i915::IOCTLS).chain(sync::IOCTLS) {
        c += &format!("printf(\"{name} 0x%08x\\n\", (unsigned){name});\n");
    }
    for (name, _) in constants() {
        c += &format!("printf(\"{name} %llu\\n\", (unsigned long long){name});\n");
    }
    c + "return 0; }\n"
}

#[test]
fn layouts_and_numbers_are_those_of_the_c_headers() {
    assert!(
        Path::new(HEADERS).join("i915_drm.h").exists(),
        "{HEADERS}/i915_drm.h is missing: install libdrm-dev (tests/run does)"
    );
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (dir.join("headers.c"), dir.join("headers"));
    std::fs::write(&source, program()).unwrap();
    let cc = Command::new("cc")
        .args(["-w", "-I", HEADERS, "-o"])
        .args([&binary, &source])
        .output()
        .expect("cc is needed: install gcc (tests/run does)");
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    let output = Command::new(&binary).output().unwrap();
    let theirs = String::from_utf8(output.stdout).unwrap();
    assert!(theirs.lines().count() > 300, "the program printed too little:\n{theirs}");
    for (ours, theirs) in ours().lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours().lines().count(), theirs.lines().count());
}
