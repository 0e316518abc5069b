//! A client process for tests to kill: it keeps a daemon busy in every way it knows, says
//! "at work", and goes on for ever.

use std::path::Path;

use gpu_broker_protocol::Request;
use gpu_broker_protocol::execbuf::{ExecbufHead, flag};
use gpu_broker_protocol::message::{BufferWait, Ping, VmCreate};
use gpu_broker_tests::{Batch, Raw};

fn main() {
    let socket = std::env::args_os().nth(1).expect("usage: hostile-client SOCKET");
    let mut client = Raw::hello(Path::new(&socket), "hostile");
    let mut fences = Vec::new();
    for ring in 1..=4 {
        let context = client.create_context();
        // What is left running is to end with the process, not at its time limit.
        client.set_persistence(context, false);
        let (batch, waiting) = (client.create_buffer(4096), client.create_buffer(4096));
        let (loop_at, wait_at) = (0x10_0000, 0x20_0000);
        batch.write(0, &Batch::new().arbitration_point().jump(loop_at).bytes());
        waiting.write(0, &Batch::new().wait_equal(wait_at + 2048, 1).end().bytes());
        for (buffer, address) in [(&batch, loop_at), (&waiting, wait_at)] {
            let flags = ring | flag::FENCE_OUT;
            let head = ExecbufHead { context: context.0, flags, ..ExecbufHead::default() };
            fences.push(client.execbuf(&head, &[buffer.pinned(address)], &[]).executed().fence);
            let wait = BufferWait { buffer: buffer.id, flags: 0, timeout_ns: -1 };
            client.send_request(Request::BufferWait(wait)).expect("the daemon is there");
        }
        let _vm = client.send_request(Request::VmCreate(VmCreate::default()));
        let _reply = client.receive();
    }
    println!("at work");
    for payload in 0.. {
        // Nobody reads the replies, so this ends up blocked in the middle of a send.
        if client.send_request(Request::Ping(Ping { payload, fd: None })).is_err() {
            return;
        }
    }
}
