//! `gpu-broker cdi generate`: is what it writes a CDI file?

use std::collections::BTreeSet;
use std::path::Path;

use gpu_broker_tests::binaries;
use serde_json::Value;

use super::cli;

/// The keys of an object, all of which must be among `known`.
fn keys(value: &Value, known: &[&str]) -> BTreeSet<String> {
    let found: BTreeSet<String> = value.as_object().expect("an object").keys().cloned().collect();
    for key in &found {
        assert!(known.contains(&&**key), "engines refuse the unknown field {key}");
    }
    found
}

/// Letters and digits at the ends, and some more between.
fn is_name(name: &str, between: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric();
    name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|letter| plain(letter) || between.contains(letter))
}

fn check_edits(edits: &Value) {
    keys(edits, &["env", "mounts"]);
    for variable in edits["env"].as_array().into_iter().flatten() {
        let (name, value) = variable.as_str().expect("text").split_once('=').expect("NAME=VALUE");
        assert!(!name.is_empty() && !value.is_empty(), "{variable}");
    }
    for mount in edits["mounts"].as_array().into_iter().flatten() {
        // `type` is of version 0.4.
        keys(mount, &["hostPath", "containerPath", "options"]);
        for path in ["hostPath", "containerPath"] {
            assert!(Path::new(mount[path].as_str().expect("text")).is_absolute(), "{mount}");
        }
        assert!(mount["options"].as_array().expect("a list").iter().all(Value::is_string));
    }
}

/// The rules of the format (its SPEC.md and schema), as far as versions 0.3 and 0.5 go.
fn checked(text: &str) -> Value {
    let spec: Value = serde_json::from_str(text).expect("JSON");
    let top = keys(&spec, &["cdiVersion", "kind", "devices", "containerEdits"]);
    assert!(["cdiVersion", "kind", "devices"].iter().all(|key| top.contains(*key)));
    assert!(["0.3.0", "0.5.0"].contains(&spec["cdiVersion"].as_str().expect("text")));
    let kind = spec["kind"].as_str().expect("text");
    let (vendor, class) = kind.split_once('/').expect("vendor/class");
    assert!(is_name(vendor, "-_.") && is_name(class, "-_"), "{kind}");
    let devices = spec["devices"].as_array().expect("a list");
    assert!(!devices.is_empty(), "a file without devices is refused");
    let mut names = BTreeSet::new();
    for device in devices {
        keys(device, &["name", "containerEdits"]);
        let name = device["name"].as_str().expect("text");
        assert!(is_name(name, "-_.:") && names.insert(name.to_owned()), "{name}");
        let edits = &device["containerEdits"];
        assert!(!edits.as_object().expect("an object").is_empty(), "{name} does nothing");
        check_edits(edits);
    }
    if top.contains("containerEdits") {
        check_edits(&spec["containerEdits"]);
    }
    spec
}

/// What a device mounts to a place in the container.
fn mounted<'a>(device: &'a Value, place: &str) -> Option<&'a str> {
    let mounts = device["containerEdits"]["mounts"].as_array().into_iter().flatten();
    let mut at_place = mounts.filter(|mount| mount["containerPath"] == place);
    at_place.next().and_then(|mount| mount["hostPath"].as_str())
}

#[test]
fn every_class_with_a_socket_is_a_device_that_engines_accept() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = directory.path().join("broker.toml");
    let text = "[[class]]\nname = \"media\"\nmatch.listener = [\"media\"]\n\
                [[class]]\nname = \"4k\"\nmatch.listener = [\"big\"]\n\
                [[listener]]\nname = \"big\"\nsocket = \"/srv/big.sock\"\n";
    std::fs::write(&config, text).expect("ours");
    let config = config.to_str().expect("text");
    let libraries = binaries::output_directory();
    let libraries = libraries.to_str().expect("text");
    let _built = (binaries::preload(), binaries::c_library());
    let arguments =
        ["cdi", "generate", "--config", config, "--libraries", libraries, "--socket", "/a.sock"];
    let (succeeded, said) = cli(&arguments);
    assert!(succeeded, "{said}");
    let spec = checked(&said);
    assert_eq!(spec["cdiVersion"], "0.5.0", "for a name that begins with a digit");
    let devices = spec["devices"].as_array().expect("a list");
    let socket = |name: &str| {
        let device = devices.iter().find(|device| device["name"] == name);
        mounted(device.unwrap_or_else(|| panic!("no {name}")), super::INSIDE)
    };
    assert_eq!(devices.len(), 6);
    assert_eq!(socket("default"), Some("/a.sock"));
    assert_eq!(socket("media"), Some("/run/gpu-broker/media/gpu-broker.sock"));
    assert_eq!(socket("4k-preload"), Some("/srv/big.sock"));
    assert!(mounted(&spec, "/usr/lib/libgpu_broker.so.0").is_some());

    // Without the libraries a device is the socket.
    let nothing = directory.path().to_str().expect("text");
    let file = directory.path().join("cdi/gpu-broker.json");
    let file_name = file.to_str().expect("text");
    let (succeeded, said) = cli(&["cdi", "generate", "--libraries", nothing, "-o", file_name]);
    assert!(succeeded && said.is_empty(), "{said}");
    let spec = checked(&std::fs::read_to_string(file).expect("it was written"));
    assert_eq!(
        (&spec["cdiVersion"], spec["devices"].as_array().map(Vec::len)),
        (&"0.3.0".into(), Some(1))
    );

    let (succeeded, said) = cli(&["cdi", "generate", "--config", "/no/such/file"]);
    assert!(!succeeded && said.contains("/no/such/file"), "{said}");
}
