//! A client process that takes as much as it is told to, for tests of limits that several processes
//! share.
//!
//! `hoarder SOCKET` says `session` and its number, or `refused` and the epitaph. Then, for each line
//! of its standard input:
//!
//! * `take RESOURCE COUNT` takes that many, one by one, and answers `took N`, followed by the name
//!   and the sentence of the refusal if there was one; resources are `contexts`, `vms`, `buffers`
//!   (of a page), `mebibytes` (buffers of one), `userptr_mebibytes` (memory of its own) and
//!   `submissions` (that never end);
//! * `give RESOURCE` gives back what was taken of it, and answers `gave N`.
//!
//! It ends with its standard input.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the answer it expects; every other one is a failure"
)]

use std::collections::HashMap;
use std::io::stdin;
use std::os::fd::AsFd as _;
use std::path::Path;

use gpu_broker_protocol::execbuf::ExecbufHead;
use gpu_broker_protocol::message::{
    BufferCreate, BufferOf, ContextCreate, ContextDestroy, VmCreate, VmDestroy,
};
use gpu_broker_protocol::userptr::UserptrCreate;
use gpu_broker_protocol::{Reply, Request};
use gpu_broker_tests::{Batch, Message, Raw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

fn main() {
    let socket = std::env::args_os().nth(1).expect("usage: hoarder SOCKET");
    let mut client = match Raw::try_hello(Path::new(&socket), "hoarder") {
        Ok((client, hello)) => {
            println!("session {}", hello.session.0);
            client
        }
        Err(problem) => return println!("refused {problem}"),
    };
    let mut taken: HashMap<String, Vec<Request<_>>> = HashMap::new();
    for line in stdin().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["take", resource, count] => {
                let count = count.parse().expect("a number");
                let things = taken.entry(resource.to_owned()).or_default();
                println!("{}", take(&mut client, resource, count, things));
            }
            ["give", resource] => {
                let things = taken.remove(resource).unwrap_or_default();
                let count = things.len();
                for thing in things {
                    let _reply = client.call(thing).reply();
                }
                println!("gave {count}");
            }
            _ => panic!("what is \"{line}\"?"),
        }
    }
}

type Ask = Request<std::os::fd::BorrowedFd<'static>>;

fn take(client: &mut Raw, resource: &str, count: u32, things: &mut Vec<Ask>) -> String {
    for taken in 0..count {
        let answer = match resource {
            "userptr_mebibytes" => share(client),
            "contexts" => client.call(Request::ContextCreate(ContextCreate::default())),
            "vms" => client.call(Request::VmCreate(VmCreate::default())),
            "buffers" => client.call(buffer(4096)),
            "mebibytes" => client.call(buffer(1 << 20)),
            "submissions" => submit(client),
            other => panic!("what is {other}?"),
        };
        match answer {
            Message::Refused(_, refusal) => {
                return format!("took {taken} {} {}", refusal.name, refusal.sentence);
            }
            other => things.extend(giving_back(other.reply())),
        }
    }
    format!("took {count}")
}

fn buffer(size: u64) -> Ask {
    Request::BufferCreate(BufferCreate { size, flags: 0, regions: None })
}

fn share(client: &mut Raw) -> Message {
    let memfd =
        memfd_create(c"hoarder", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    ftruncate(&memfd, 1 << 20).expect("ours");
    fcntl_add_seals(&memfd, SealFlags::SHRINK).expect("ours");
    let create = UserptrCreate { memfd: memfd.as_fd(), offset: 0, length: 1 << 20, flags: 0 };
    client.call(Request::UserptrCreate(create))
}

fn submit(client: &mut Raw) -> Message {
    const ADDRESS: u64 = 0x10_0000;
    let batch = client.create_buffer(4096);
    batch.write(0, &Batch::new().arbitration_point().jump(ADDRESS).bytes());
    let context = client.create_context();
    client.set_persistence(context, false);
    let head = ExecbufHead { context: context.0, flags: 1, ..ExecbufHead::default() };
    client.execbuf(&head, &[batch.pinned(ADDRESS)], &[])
}

fn giving_back(reply: Reply<std::os::fd::OwnedFd>) -> Option<Ask> {
    Some(match reply {
        Reply::ContextCreate(made) => {
            Request::ContextDestroy(ContextDestroy { context: made.context, pad: 0 })
        }
        Reply::VmCreate(made) => {
            Request::VmDestroy(VmDestroy { vm: made.vm, flags: 0, extensions: vec![] })
        }
        Reply::BufferCreate(made) => Request::BufferClose(BufferOf { buffer: made.buffer }),
        Reply::UserptrCreate(made) => Request::BufferClose(BufferOf { buffer: made.buffer }),
        Reply::Execbuf(_) => return None,
        other => panic!("{other:?}"),
    })
}
