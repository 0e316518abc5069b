//! Replays what the fuzzers found and what seeds them, so that it stays fixed.

use std::fs;
use std::path::Path;

use gpu_broker_tests::fuzzing;

fn replay(target: &str, body: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&directory).expect("the corpus is checked in") {
        let path = entry.expect("it can be read").path();
        eprintln!("{}", path.display());
        body(&fs::read(&path).expect("it can be read"));
        inputs += 1;
    }
    assert!(inputs >= 10, "only {inputs} inputs in {}", directory.display());
}

#[test]
fn decode() {
    replay("decode", fuzzing::decode);
}

#[test]
fn execute() {
    replay("execute", fuzzing::execute);
}

/// The corpus is only worth replaying while it reaches the code it is meant for.
#[test]
fn seeds_are_still_valid_messages() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode");
    let mut decoded = 0;
    for entry in fs::read_dir(directory).expect("the corpus is checked in").flatten() {
        let bytes = fs::read(entry.path()).expect("it can be read");
        let Ok((header, body)) = gpu_broker_protocol::Header::split(&bytes) else { continue };
        decoded += usize::from(gpu_broker_protocol::Request::decode(header.opcode, body).is_ok());
    }
    assert!(decoded >= 10, "only {decoded} seeds decode; write new ones after a format change");
}
