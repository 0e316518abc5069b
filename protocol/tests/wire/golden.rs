//! The bytes of every message, as clients built years ago send and expect them.
//!
//! `golden.hex` may grow. An entry that changes breaks every client there is: that needs a new
//! major version.

use std::collections::HashSet;
use std::fmt::Write;

use gpu_broker_protocol::message::Event;
use gpu_broker_protocol::{Header, HeaderFlags, Opcode, Reply, Request, codec};

use crate::lists::Change;
use crate::samples::{self, Sample};
use crate::submission::Submission;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/golden.hex");

fn print(samples: &[Sample]) -> String {
    let mut text = String::from(
        "# The bytes of every message; see golden.rs. Two dumps a line: 16 bytes, 8 by 8.\n\
         # To add entries: GPU_BROKER_BLESS=1 cargo test -p gpu-broker-protocol\n",
    );
    for Sample { name, bytes } in samples {
        writeln!(text, "\n{name}").expect("strings take all");
        for line in bytes.chunks(16) {
            let halves: Vec<String> = line
                .chunks(8)
                .map(|half| half.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "))
                .collect();
            writeln!(text, "  {}", halves.join("  ")).expect("strings take all");
        }
    }
    text
}

/// `golden.hex` as names and bytes.
pub(crate) fn entries() -> Vec<(String, Vec<u8>)> {
    let text = std::fs::read_to_string(PATH).expect("golden.hex is checked in");
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(hex) = line.strip_prefix("  ") {
            let (_, bytes) = entries.last_mut().expect("a name comes first");
            bytes.extend(hex.split_whitespace().map(|b| u8::from_str_radix(b, 16).expect("hex")));
        } else {
            entries.push((line.to_owned(), Vec::new()));
        }
    }
    entries
}

#[test]
fn every_message_has_the_bytes_it_always_had() {
    let samples = samples::all();
    if std::env::var_os("GPU_BROKER_BLESS").is_some() {
        std::fs::write(PATH, print(&samples)).expect("write golden.hex");
    }
    let golden = entries();
    let names: HashSet<&str> = samples.iter().map(|sample| sample.name).collect();
    assert_eq!(names.len(), samples.len(), "names are unique");
    for (name, _) in &golden {
        assert!(names.contains(name.as_str()), "{name}: golden, but no sample makes it");
    }
    for Sample { name, bytes } in &samples {
        let (_, expected) = golden
            .iter()
            .find(|(golden, _)| golden == name)
            .unwrap_or_else(|| panic!("{name}: not in golden.hex"));
        assert_eq!(bytes, expected, "{name}: the bytes changed");
    }
}

#[test]
fn every_opcode_is_among_the_samples_in_every_role_it_has() {
    let roles: HashSet<(u16, u16)> = entries()
        .iter()
        .map(|(_, bytes)| Header::split(bytes).expect("whole messages").0)
        .map(|header| (header.opcode, header.flags))
        .collect();
    for opcode in Opcode::ALL {
        let number = *opcode as u16;
        if matches!(opcode, Opcode::Epitaph | Opcode::Hang | Opcode::AdminEvent) {
            assert!(roles.contains(&(number, HeaderFlags::EVENT)));
        } else {
            assert!(roles.contains(&(number, 0)), "{opcode:?} request");
            assert!(roles.contains(&(number, HeaderFlags::REPLY)), "{opcode:?} reply");
        }
    }
}

#[test]
fn the_golden_bytes_decode_to_what_was_encoded() {
    let golden = entries();
    let body = |name: String| {
        let (_, bytes) = golden.iter().find(|(golden, _)| *golden == name).expect("golden");
        let (header, body) = Header::split(bytes).expect("a header");
        (header, body.to_vec())
    };
    for (name, request) in samples::requests() {
        let (header, body) = body(format!("{name} request"));
        assert_eq!(Request::decode(header.opcode, &body), Ok(request));
    }
    for (name, reply) in samples::replies() {
        let (header, body) = body(format!("{name} reply"));
        assert_eq!(Reply::decode(header.opcode, &body), Ok(reply));
    }
    for epitaph in samples::epitaphs() {
        let (header, body) = body(format!("EPITAPH event {:?}", epitaph.code));
        let event = codec::decode_event(header.opcode, &body);
        assert_eq!(event, Ok(Event::Epitaph(epitaph)));
    }
    for hang in samples::hang_events() {
        let (header, body) = body(format!("HANG event {:?}", hang.cause));
        assert_eq!(codec::decode_event(header.opcode, &body), Ok(Event::Hang(hang)));
    }
    for event in samples::news() {
        let (header, body) = body(samples::news_name(&event));
        assert_eq!(codec::decode_event(header.opcode, &body), Ok(Event::Admin(event)));
    }
    for (name, submission) in samples::execbufs() {
        let (_, body) = body(format!("{name} request"));
        assert_eq!(Submission::decode(&body), Ok(submission));
    }
    for (name, change) in samples::lists() {
        let (_, body) = body(format!("{name} request"));
        assert_eq!(Change::decode(&body), Ok(change));
    }
}
