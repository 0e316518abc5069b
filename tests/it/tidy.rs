//! Rules about the tree itself: who may use whom, how long a file gets, where unsafe code lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use gpu_broker_tests::binaries::repository;

/// Lines of a source file, its `#[cfg(test)]` module not counted.
const FILE_LINES_MAX: usize = 600;
/// Lines of ARCHITECTURE.md.
const ARCHITECTURE_LINES_MAX: usize = 250;
/// Columns of a source line.
const COLUMNS_MAX: usize = 100;

/// Who may appear in whose `[dependencies]`: (package, its dependencies among ours). DESIGN.md
/// draws these arrows; any other is a mistake.
const ARROWS: &[(&str, &[&str])] = &[
    ("gpu-broker-protocol", &[]),
    ("gpu-broker-uapi", &[]),
    ("gpu-broker-soft-gpu", &[]),
    ("gpu-broker-core", &["gpu-broker-protocol"]),
    ("gpu-broker-device", &["gpu-broker-soft-gpu", "gpu-broker-uapi"]),
    ("gpu-brokerd", &["gpu-broker-core", "gpu-broker-device", "gpu-broker-protocol"]),
    ("gpu-broker-client", &["gpu-broker-protocol"]),
    ("gpu-broker-capi", &["gpu-broker-client"]),
    ("gpu-broker-preload", &["gpu-broker-client", "gpu-broker-uapi"]),
    ("gpu-broker", &["gpu-broker-client", "gpu-brokerd"]),
    ("gpu-broker-vm-tests", &["gpu-broker-soft-gpu", "gpu-broker-uapi"]),
];

/// The only package that may use anything, and that nothing uses.
const TESTS: &str = "gpu-broker-tests";

/// Paths that may lift the workspace's `unsafe_code = "deny"`.
fn is_unsafe_room(path: &str) -> bool {
    let device_sys = path.starts_with("daemon/device/src/") && path.ends_with("/sys.rs");
    device_sys
        || path == "client-lib/src/map.rs"
        || path == "client-lib/src/sync_file.rs"
        || path.starts_with("client-lib/src/usermem/")
        || path.starts_with("client-lib/capi/")
        || path.starts_with("client-lib/preload/")
        || path == "tests/src/bin/intruder.rs"
        || path.starts_with("tests/examples/vulkan/gpu/")
        || path == "tests/vm/src/parity/kernel.rs"
}

#[test]
fn packages_depend_on_each_other_as_designed() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        ARROWS.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let mut seen = 0;
    for (path, manifest) in manifests() {
        let Some(name) = manifest.get("package").and_then(|package| package.get("name")) else {
            continue;
        };
        let name = name.as_str().expect("a package's name is text");
        if name == TESTS || path.starts_with("tests/fuzz") {
            continue;
        }
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in ARROWS"));
        for dependency in dependencies(&manifest) {
            let ours = dependency.starts_with("gpu-broker");
            assert!(
                !ours || allowed.contains(dependency.as_str()),
                "{path}: {name} must not depend on {dependency}"
            );
        }
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} packages were found: the walk is broken");
}

/// Direct dependencies of the packages that others must be able to audit.
#[test]
fn contracts_and_rules_have_few_dependencies() {
    for (package, most) in [("protocol", 2), ("uapi", 0), ("daemon/core", 4), ("soft-gpu", 2)] {
        let path = repository().join(package).join("Cargo.toml");
        if !path.exists() {
            continue;
        }
        let direct = dependencies(&parsed(&path));
        assert!(direct.len() <= most, "{package} has more than {most} dependencies: {direct:?}");
    }
}

#[test]
fn files_stay_short() {
    for (path, text) in sources() {
        let lines = lines_without_tests(&text);
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines; split it");
    }
    let architecture =
        fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let lines = architecture.lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines; shorten it");
}

#[test]
fn lines_stay_narrow() {
    for (path, text) in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            // A literal that must not be broken (a table row, a URL) may stick out a little.
            let columns = line.chars().count();
            assert!(columns <= COLUMNS_MAX + 20, "{path}:{number} has {columns} columns");
        }
    }
}

/// Rust has one way to lift the lint, and `expect` says why; `allow` would outlive its reason.
#[test]
fn unsafe_code_has_an_address() {
    let keyword = concat!("un", "safe");
    let mut rooms = 0;
    for (path, text) in sources() {
        if path == "tests/it/tidy.rs" {
            continue;
        }
        let lifted = text.contains(&format!("{keyword}_code"))
            && !text.contains(&format!("#![forbid({keyword}_code)]"));
        let used = text.lines().map(code).any(|line| uses(line, keyword));
        assert!(!(lifted || used) || is_unsafe_room(&path), "{path} is not a room for unsafe code");
        if lifted {
            assert!(text.contains("reason = \""), "{path} does not say why it needs unsafe code");
            rooms += 1;
        }
        let blocks = text.matches(&format!("{keyword} {{")).count();
        let notes = text.matches("SAFETY:").count();
        assert!(notes >= blocks, "{path} has {blocks} blocks and {notes} SAFETY notes");
    }
    assert!(rooms > 0, "no room was found: the search is broken");
}

#[test]
fn nothing_is_a_stub_and_no_test_is_ignored() {
    // Put together here so that this file does not find itself.
    let forbidden = [
        concat!("#[ig", "nore"),
        concat!("todo", "!("),
        concat!("unimple", "mented!("),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("TO", "DO"),
    ];
    for (path, text) in sources() {
        for word in forbidden {
            assert!(!text.contains(word), "{path} contains {word}");
        }
    }
}

/// bincode is no longer maintained: one module, one place to replace it.
#[test]
fn bincode_lives_in_the_codec_alone() {
    let word = concat!("bin", "code::");
    let mut users = BTreeSet::new();
    for (path, text) in sources() {
        if text.lines().map(code).any(|line| line.contains(word)) {
            users.insert(path);
        }
    }
    assert_eq!(users, BTreeSet::from(["protocol/src/codec.rs".to_owned()]));
}

/// The rules are handed the time and never learn what an fd is.
#[test]
fn core_knows_neither_clocks_nor_fds_nor_sockets() {
    let forbidden = ["Instant::now", "SystemTime", "std::os::fd", "std::net", "tokio", "std::fs"];
    let mut files = 0;
    for (path, text) in sources() {
        if !path.starts_with("daemon/core/src/") {
            continue;
        }
        files += 1;
        for word in forbidden {
            let found = text.lines().map(code).any(|line| line.contains(word));
            assert!(!found, "{path} uses {word}");
        }
    }
    assert!(files > 3, "only {files} files of core were found: the walk is broken");
}

#[test]
fn packages_share_licence_and_lints() {
    for (path, manifest) in manifests() {
        if manifest.get("package").is_none() || path.starts_with("tests/fuzz") {
            continue;
        }
        for (table, key) in [("package", "license"), ("package", "publish"), ("lints", "workspace")]
        {
            let value = manifest.get(table).and_then(|table| table.get(key));
            assert!(value.is_some(), "{path} does not say [{table}] {key}");
        }
    }
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert!(repository().join(licence).exists(), "{licence} is missing");
    }
}

fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let Some(table) = manifest.get("dependencies").and_then(toml::Value::as_table) else {
        return Vec::new();
    };
    let package = |key: &String, value: &toml::Value| {
        let renamed = value.get("package").and_then(toml::Value::as_str);
        renamed.unwrap_or(key).to_owned()
    };
    table.iter().map(|(key, value)| package(key, value)).collect()
}

fn manifests() -> Vec<(String, toml::Table)> {
    let mut found = Vec::new();
    walk(repository(), &mut |path, relative| {
        if path.file_name().is_some_and(|name| name == "Cargo.toml") {
            found.push((relative, parsed(path)));
        }
    });
    found
}

fn parsed(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).expect("a manifest can be read");
    text.parse().unwrap_or_else(|problem| panic!("{}: {problem}", path.display()))
}

/// Every Rust source file: its path from the repository's root, and its text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(repository(), &mut |path, relative| {
        if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((relative, fs::read_to_string(path).expect("a source file is text")));
        }
    });
    assert!(found.len() > 30, "only {} source files were found: the walk is broken", found.len());
    found
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path, String)) {
    let entries = fs::read_dir(directory).expect("the repository can be read");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            walk(&path, visit);
        } else if let Ok(relative) = path.strip_prefix(repository()) {
            visit(&path, relative.display().to_string());
        }
    }
}

/// Lines up to the test module, which by our habit ends a file.
fn lines_without_tests(text: &str) -> usize {
    let mut previous = "";
    for (count, line) in text.lines().enumerate() {
        if previous.trim().starts_with("#[cfg(")
            && previous.contains("test")
            && line.starts_with("mod ")
            && line.ends_with('{')
        {
            return count.saturating_sub(1);
        }
        previous = line;
    }
    text.lines().count()
}

/// The line without its comment. Good enough for code that has no `//` inside a literal that
/// matters here.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// Whether the line has the keyword as code has it: before a block or an item, or in an attribute.
fn uses(line: &str, keyword: &str) -> bool {
    let part_of_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(keyword).any(|(at, _)| {
        let after = &line[at + keyword.len()..];
        let code = ["{", "fn ", "impl ", "extern ", "trait "];
        !line[..at].ends_with(part_of_word)
            && (after.starts_with('(')
                || code.iter().any(|next| after.trim_start().starts_with(next)))
    })
}

#[test]
fn the_test_module_does_not_count() {
    let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
    assert_eq!(lines_without_tests(text), 2);
    assert_eq!(lines_without_tests("fn a() {}\nmod tests {\n}\n"), 3);
}

#[test]
fn the_keyword_is_told_from_the_word() {
    let keyword = concat!("un", "safe");
    for used in ["let x = KEY { 1 };", "pub KEY fn f()", "KEY impl Send", "#[KEY(no_mangle)]"] {
        assert!(uses(&used.replace("KEY", keyword), keyword), "{used}");
    }
    for said in ["KEY_code = \"deny\"", "\"it is KEY because\"", "call_KEY {", "KEYty {"] {
        assert!(!uses(&said.replace("KEY", keyword), keyword), "{said}");
    }
}
