//! Writes seeds for the `decode` fuzz target: one of every control request, an EXECBUF, an
//! EXECBUF_LIST and a HELLO. Run it after a change of the wire format.

use std::path::Path;

use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, ExecbufLists};
use gpu_broker_protocol::execlist::{ExecbufList, ListHead, RUN, edit};
use gpu_broker_protocol::{FdSlot, Request, codec};
use gpu_broker_tests::{raw, samples};

fn main() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode");
    std::fs::create_dir_all(&directory)?;
    let mut requests: Vec<Request<FdSlot>> = samples::requests();
    requests.push(Request::Hello(raw::hello("seed")));
    for request in requests {
        let mut bytes = Vec::new();
        codec::encode_request(1, &request, &mut bytes).expect("a sample fits in a message");
        std::fs::write(directory.join(format!("{:04x}", request.opcode() as u16)), bytes)?;
    }
    let mut bytes = Vec::new();
    let objects = [ExecObject::default(); 2];
    let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
    codec::encode_execbuf(1, &ExecbufHead::default(), &lists, &mut bytes)
        .expect("two objects fit in a message");
    std::fs::write(directory.join("execbuf"), bytes)?;
    let mut bytes = Vec::new();
    let head = ListHead { flags: RUN, next: 1, length: 3, ..ListHead::default() };
    codec::encode_execbuf_list(1, &ExecbufList::new(head, &[edit(0, 3)], &[1, 2, 3]), &mut bytes)
        .expect("three bytes fit in a message");
    std::fs::write(directory.join("execbuf-list"), bytes)
}
