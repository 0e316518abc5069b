//! WIRE.md tells the truth: numbers, names and example bytes are those of the code.

use gpu_broker_protocol::execbuf::{flag, object_flag};
use gpu_broker_protocol::param::number;
use gpu_broker_protocol::version::feature;
use gpu_broker_protocol::{
    EpitaphCode, HeaderFlags, Opcode, Reason, limits, syncobj, userptr, version,
};

use crate::{golden, samples};

const WIRE: &str = include_str!("../../WIRE.md");

#[track_caller]
fn says(needle: &str) {
    assert!(WIRE.contains(needle), "WIRE.md must say: {needle}");
}

/// `ContextCreate` as `CONTEXT_CREATE`.
fn screaming(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

#[test]
fn every_opcode() {
    for opcode in Opcode::ALL {
        says(&format!("**0x{:04x} {}**", *opcode as u16, screaming(&format!("{opcode:?}"))));
    }
    let listed = WIRE.matches("**0x").count();
    assert_eq!(listed, Opcode::ALL.len(), "WIRE.md lists an opcode that does not exist");
}

/// The rows of the table of refusals, from the code.
fn refusal_rows() -> String {
    let row = |reason: &Reason| {
        let errno = errno_name(reason.errno());
        let (code, name) = (*reason as u16, reason.name());
        format!("| {code} | `{name}` | {errno} | {} |\n", reason.sentence())
    };
    Reason::ALL.iter().map(row).collect()
}

/// The table says what the code says; GPU_BROKER_BLESS=1 writes it.
#[test]
fn every_refusal() {
    let head = "| Code | Name | Errno | Sentence |\n|---|---|---|---|\n";
    let (before, table) = WIRE.split_once(head).expect("section 9 has a table");
    let (rows, after) = table.split_once("\n\n").expect("it ends");
    let expected = refusal_rows();
    if std::env::var_os("GPU_BROKER_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/WIRE.md");
        let text = format!("{before}{head}{expected}\n{after}");
        std::fs::write(path, text).expect("write WIRE.md");
        return;
    }
    let mut rows = rows.lines();
    for row in expected.lines() {
        assert_eq!(rows.next(), Some(row), "GPU_BROKER_BLESS=1 writes the table");
    }
    assert_eq!(rows.next(), None, "a refusal that does not exist");
}

/// The name of an errno, as the code's own table has it.
fn errno_name(number: i32) -> &'static str {
    let source = include_str!("../../src/refusal.rs");
    let (before, _) = source.split_once(&format!(": i32 = {number};")).expect("in the table");
    before.rsplit(' ').next().expect("a name")
}

#[test]
fn every_epitaph_code() {
    for (number, epitaph) in samples::epitaphs().iter().enumerate() {
        let code: EpitaphCode = epitaph.code;
        says(&format!("| {number} | {code:?} |"));
    }
}

/// Checks names and values, and that the list is all there is in the source.
macro_rules! every {
    ($format:literal, $source:literal, $prefix:literal, $module:path => $($name:ident)*) => {{
        use $module::*;
        $(says(&format!($format, stringify!($name), $name));)*
        let listed = [$(stringify!($name)),*];
        let source = include_str!($source);
        for line in source.lines() {
            if let Some(rest) = line.strip_prefix($prefix) {
                let name = rest.split(':').next().expect("a constant has a type");
                assert!(listed.contains(&name), "add {name} to this test and to WIRE.md");
            }
        }
    }};
}

#[test]
fn every_limit() {
    every!("| `{}` | {} |", "../../src/limits.rs", "pub const ", limits =>
        HEADER_BYTES MESSAGE_BYTES_MAX BODY_BYTES_MAX FDS_PER_MESSAGE_MAX CLIENT_NAME_BYTES_MAX
        EXTENSIONS_PER_CHAIN_MAX ENGINE_SLOTS_MAX CONTEXTS_PER_SESSION_MAX VMS_PER_SESSION_MAX
        BUFFERS_PER_SESSION_MAX BUFFER_BYTES_MAX BUFFER_MEMORY_PER_SESSION_BYTES_MAX
        USERPTR_MEMORY_PER_SESSION_BYTES_MAX USERPTR_MEMFDS_PER_SESSION_MAX USERPTR_MEMFD_BYTES_MAX
        USERPTR_INVALIDATE_MS_MAX
        OBJECTS_PER_EXECBUF_MAX UNPINNED_PER_EXECBUF_MAX EXECBUF_LISTS_PER_SESSION_MAX
        EXECBUF_LIST_BYTES_MAX EXECBUF_LISTS_BYTES_MAX SUBMISSIONS_IN_FLIGHT_PER_SESSION_MAX
        SYNCOBJS_PER_SESSION_MAX SYNCOBJS_PER_REQUEST_MAX TIMELINE_POINTS_PENDING_MAX
        SYNCOBJ_EXPORTS_PER_SESSION_MAX QUERY_ITEMS_MAX FENCES_PER_EXECBUF_MAX
        RELOCATIONS_PER_EXECBUF_MAX PENDING_WAITS_PER_SESSION_MAX FENCES_PER_SESSION_MAX HANG_EVENTS_PENDING_MAX
        HANG_READ_BYTES_MAX HANGS_PER_SESSION_MAX HANGS_MAX HANG_DUMPS_PER_SESSION_MAX
        HANG_DUMP_BYTES_PER_SESSION_MAX HANG_DUMP_BYTES_MAX IDENTITY_CHARS_MAX
        SHARED_STATUS_PAGES_PER_SESSION_MAX
        ADMIN_EVENTS_PENDING_MAX LISTENERS_MADE_MAX TRACE_RECORDS_MAX TRACE_RECORDS_PER_READ_MAX
        SESSIONS_MAX_DEFAULT
        HELLO_TIMEOUT_MS PAGE_BYTES);
}

#[test]
fn every_flag() {
    for (name, value) in [
        ("REPLY", HeaderFlags::REPLY),
        ("REFUSED", HeaderFlags::REFUSED),
        ("EVENT", HeaderFlags::EVENT),
    ] {
        says(&format!("| `{name}` | 0x{value:04x} |"));
    }
    for (name, value) in [
        ("FENCE_FDS", feature::FENCE_FDS),
        ("CONTEXT_CLONE", feature::CONTEXT_CLONE),
        ("HANG_EVENTS", feature::HANG_EVENTS),
        ("USERPTR", feature::USERPTR),
        ("EXECBUF_LISTS", feature::EXECBUF_LISTS),
        ("SHARED_STATUS", feature::SHARED_STATUS),
        ("BUFFER_FENCES", feature::BUFFER_FENCES),
        ("RUN", u64::from(gpu_broker_protocol::execlist::RUN)),
        ("RING_MASK", flag::RING_MASK),
        ("SECURE", flag::SECURE),
        ("NO_RELOC", flag::NO_RELOC),
        ("HANDLE_LUT", flag::HANDLE_LUT),
        ("BSD_MASK", flag::BSD_MASK),
        ("FENCE_IN", flag::FENCE_IN),
        ("FENCE_OUT", flag::FENCE_OUT),
        ("BATCH_FIRST", flag::BATCH_FIRST),
        ("FENCE_ARRAY", flag::FENCE_ARRAY),
        ("FENCE_SUBMIT", flag::FENCE_SUBMIT),
        ("USE_EXTENSIONS", flag::USE_EXTENSIONS),
        ("WRITE", object_flag::WRITE),
        ("SUPPORTS_48B", object_flag::SUPPORTS_48B),
        ("PINNED", object_flag::PINNED),
        ("PAD_TO_SIZE", object_flag::PAD_TO_SIZE),
        ("ASYNC", object_flag::ASYNC),
        ("CAPTURE", object_flag::CAPTURE),
    ] {
        says(&format!("| `{name}` | {value:#x} |"));
    }
    every!("`{}` | {:#x} |", "../../src/syncobj.rs", "    pub const ", syncobj::flag =>
        CREATE_SIGNALED WAIT_ALL WAIT_FOR_SUBMIT WAIT_AVAILABLE QUERY_LAST_SUBMITTED SYNC_FILE
        TIMELINE FENCE_WAIT FENCE_SIGNAL);
    for (name, value) in [
        ("GTT_SIZE", number::GTT_SIZE),
        ("NO_ERROR_CAPTURE", number::NO_ERROR_CAPTURE),
        ("BANNABLE", number::BANNABLE),
        ("PRIORITY", number::PRIORITY),
        ("SSEU", number::SSEU),
        ("RECOVERABLE", number::RECOVERABLE),
        ("VM", number::VM),
        ("ENGINES", number::ENGINES),
        ("PERSISTENCE", number::PERSISTENCE),
    ] {
        says(&format!("{value:#x} {name}"));
    }
    every!("`{}` | {:#x} |", "../../src/userptr.rs", "    pub const ", userptr::flag =>
        READ_ONLY PROBE UNSYNCHRONIZED UNKNOWN);
    let all = feature::FENCE_FDS
        | feature::CONTEXT_CLONE
        | feature::HANG_EVENTS
        | feature::USERPTR
        | feature::EXECBUF_LISTS
        | feature::SHARED_STATUS
        | feature::BUFFER_FENCES;
    assert_eq!(feature::ALL, all, "a new feature bit");
}

#[test]
fn the_version() {
    says(&format!("This is version {}.{}.", version::MAJOR, version::MINOR_MAX));
}

#[test]
fn the_annotated_bytes() {
    let golden = golden::entries();
    let mut compared = 0;
    for part in WIRE.split("<!-- golden: ").skip(1) {
        let (name, rest) = part.split_once(" -->").expect("the marker ends");
        let block = rest.split("```hex\n").nth(1).and_then(|block| block.split("```").next());
        let mut bytes = Vec::new();
        for line in block.expect("a block follows").lines() {
            let hex = line.split(';').next().unwrap_or_default();
            bytes.extend(hex.split_whitespace().map(|b| u8::from_str_radix(b, 16).expect("hex")));
        }
        let (_, expected) = golden.iter().find(|(golden, _)| golden == name).expect("golden");
        assert_eq!(&bytes, expected, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 3, "HELLO, CONTEXT_CREATE and EXECBUF are annotated");
}
