//! Names and numbers that are well-formed and wrong. All of it is refused, and the session goes on.

use gpu_broker_protocol::execbuf::{ExecObject, ExecbufHead, flag, object_flag};
use gpu_broker_protocol::limits::BUFFER_BYTES_MAX;
use gpu_broker_protocol::message::{
    BufferCreate, BufferOf, BufferWait, ContextCreate, ContextDestroy, ContextParamRequest,
    ContextResetStats, VmCreate, VmDestroy,
};
use gpu_broker_protocol::param::{
    CloneFrom, ContextParam, CreateExtension, Extension, clone_flag, create_flag, number,
};
use gpu_broker_protocol::{BufferId, ContextId, Reply, Request, VmId};
use gpu_broker_tests::{Batch, Builder, Daemon, Raw, RawBuffer};

use super::attack;

const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;

#[test]
fn ids_of_another_session() {
    attack(Builder::new(), |daemon| {
        let mut owner = daemon.client("owner");
        let contexts: Vec<ContextId> = (0..3).map(|_| owner.create_context()).collect();
        let buffer = owner.create_buffer(4096);
        buffer.write(0, &Batch::new().end().bytes());
        let Reply::VmCreate(vm) = owner.call(Request::VmCreate(VmCreate::default())).reply() else {
            panic!("VM_CREATE was answered as something else")
        };

        let mut thief = daemon.client("thief");
        let own = thief.create_buffer(4096);
        assert_eq!(own.id, buffer.id, "ids are per session, so this one is the thief's own");
        let close = Request::BufferClose(BufferOf { buffer: own.id });
        assert!(matches!(thief.call(close).reply(), Reply::BufferClose));
        for context in contexts.clone() {
            let priority = ContextParamRequest { context, param: ContextParam::priority(-5) };
            let clone = Extension::new(
                CreateExtension::CLONE,
                CreateExtension::Clone(CloneFrom {
                    source: context,
                    flags: clone_flag::VM,
                    rsvd: 0,
                }),
            );
            for request in [
                Request::ContextSetParam(priority.clone()),
                Request::ContextGetParam(priority),
                Request::ContextResetStats(ContextResetStats { context, flags: 0, pad: 0 }),
                Request::ContextDestroy(ContextDestroy { context, pad: 0 }),
                Request::ContextCreate(ContextCreate {
                    flags: create_flag::USE_EXTENSIONS,
                    extensions: vec![clone],
                }),
            ] {
                let refusal = thief.call(request).refusal();
                assert_eq!(refusal.errno, ENOENT, "{}", refusal.sentence);
            }
            let head = ExecbufHead { context: context.0, ..ExecbufHead::default() };
            let refusal = thief.execbuf(&head, &[buffer.pinned(0x10_0000)], &[]).refusal();
            assert_eq!((refusal.name.as_str(), refusal.errno), ("no-such-context", ENOENT));
        }
        let buffer_of = BufferOf { buffer: buffer.id };
        let set_vm = ContextParam::scalar(number::VM, vm.vm.0.into());
        for request in [
            Request::VmDestroy(VmDestroy { vm: vm.vm, flags: 0, extensions: Vec::new() }),
            Request::ContextSetParam(ContextParamRequest { context: ContextId(0), param: set_vm }),
            Request::BufferMap(buffer_of.clone()),
            Request::BufferBusy(buffer_of.clone()),
            Request::BufferClose(buffer_of),
            Request::BufferWait(BufferWait { buffer: buffer.id, flags: 0, timeout_ns: 0 }),
        ] {
            // SETPARAM of VM on the live default context is EINVAL before any id is looked up.
            let refusal = thief.call(request).refusal();
            assert!([ENOENT, EINVAL].contains(&refusal.errno), "{}", refusal.sentence);
        }
        let refusal = thief.execbuf(&head(0), &[buffer.pinned(0x10_0000)], &[]).refusal();
        assert_eq!(refusal.errno, ENOENT);

        // The owner has lost nothing.
        for context in contexts {
            let objects = [buffer.pinned(0x10_0000)];
            let _executed = owner.execbuf(&head(context.0), &objects, &[]).executed();
        }
        let destroy = VmDestroy { vm: vm.vm, flags: 0, extensions: Vec::new() };
        assert!(matches!(owner.call(Request::VmDestroy(destroy)).reply(), Reply::VmDestroy));
    });
}

fn head(context: u32) -> ExecbufHead {
    ExecbufHead { context, ..ExecbufHead::default() }
}

#[test]
fn names_that_nothing_has() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("nobody");
        for id in [1, 2, 4096, 0x7fff_ffff, u32::MAX] {
            let (context, vm, buffer) = (ContextId(id), VmId(id), BufferId(id));
            let priority = ContextParamRequest { context, param: ContextParam::priority(0) };
            for request in [
                Request::ContextDestroy(ContextDestroy { context, pad: 0 }),
                Request::ContextSetParam(priority.clone()),
                Request::ContextGetParam(priority),
                Request::ContextResetStats(ContextResetStats { context, flags: 0, pad: 0 }),
                Request::VmDestroy(VmDestroy { vm, flags: 0, extensions: Vec::new() }),
                Request::BufferMap(BufferOf { buffer }),
                Request::BufferBusy(BufferOf { buffer }),
                Request::BufferWait(BufferWait { buffer, flags: 0, timeout_ns: -1 }),
                Request::BufferClose(BufferOf { buffer }),
            ] {
                let shown = format!("{request:?}");
                assert_eq!(client.call(request).refusal().errno, ENOENT, "{shown}");
            }
        }
        // Twice is once too often.
        let context = client.create_context();
        let destroy = Request::ContextDestroy(ContextDestroy { context, pad: 0 });
        let _destroyed = client.call(destroy.clone()).reply();
        assert_eq!(client.call(destroy).refusal().errno, ENOENT);
    });
}

#[test]
fn zero_and_huge_sizes() {
    attack(Builder::new(), |daemon| {
        let mut client = daemon.client("sizes");
        for (size, flags, errno) in [
            (0, 0, EINVAL),
            (4096, 1, EINVAL),
            (4096, u32::MAX, EINVAL),
            (BUFFER_BYTES_MAX + 1, 0, E2BIG),
            (1 << 62, 0, E2BIG),
            (u64::MAX - 4095, 0, E2BIG),
            // The kernel rounds up before it compares.
            (u64::MAX - 4094, 0, EINVAL),
            (u64::MAX, 0, EINVAL),
        ] {
            let create = Request::BufferCreate(BufferCreate { size, flags, regions: None });
            assert_eq!(client.call(create).refusal().errno, errno, "{size} bytes, {flags:#x}");
        }
        for (size, rounded) in [(1, 4096), (4095, 4096), (4097, 8192)] {
            let create = Request::BufferCreate(BufferCreate { size, flags: 0, regions: None });
            let Reply::BufferCreate(created) = client.call(create).reply() else {
                panic!("BUFFER_CREATE was answered as something else")
            };
            assert_eq!(created.size, rounded);
        }
        // As much as a session may have, none of which is memory until it is used.
        let mut refused = false;
        for _ in 0..8 {
            let create = Request::BufferCreate(BufferCreate {
                size: BUFFER_BYTES_MAX,
                flags: 0,
                regions: None,
            });
            let message = client.call(create);
            if let gpu_broker_tests::Message::Refused(_, refusal) = message {
                assert_eq!(refusal.errno, ENOMEM, "{}", refusal.sentence);
                refused = true;
            }
        }
        assert!(refused, "eight times the largest buffer is more than a session may have");
    });
}

/// Each case changes one thing of a submission that works.
#[test]
fn submissions_with_impossible_numbers() {
    attack(Builder::new(), |daemon| {
        let (mut client, batch) = client_with_batch(daemon);
        let good = batch.pinned(0x10_0000);
        let plain = ExecbufHead::default();
        let heads = [
            ("misaligned start", ExecbufHead { batch_start_offset: 4, ..plain }),
            ("odd start", ExecbufHead { batch_start_offset: 1, ..plain }),
            ("misaligned length", ExecbufHead { batch_len: 12, ..plain }),
            ("start behind the buffer", ExecbufHead { batch_start_offset: 8192, ..plain }),
            ("huge start", ExecbufHead { batch_start_offset: 0xffff_fff8, ..plain }),
            ("length behind the buffer", ExecbufHead { batch_len: 8200, ..plain }),
            (
                "sum behind the buffer",
                ExecbufHead { batch_start_offset: 4096, batch_len: 4104, ..plain },
            ),
            (
                "sum that overflows",
                ExecbufHead { batch_start_offset: 8, batch_len: 0xffff_fff8, ..plain },
            ),
            ("unknown flag", ExecbufHead { flags: 1 << 22, ..plain }),
            ("all flags", ExecbufHead { flags: flag::UNKNOWN, ..plain }),
            ("no such ring", ExecbufHead { flags: 63, ..plain }),
            ("DR1", ExecbufHead { dr1: 1, ..plain }),
            ("DR4", ExecbufHead { dr4: 1, ..plain }),
            ("cliprects", ExecbufHead { num_cliprects: 1, ..plain }),
        ];
        for (name, head) in heads {
            let refusal = client.execbuf(&head, &[good], &[]).refusal();
            assert_eq!(refusal.errno, EINVAL, "{name}: {}", refusal.sentence);
        }
        // After all that the one that works still works.
        let _executed = client.execbuf(&plain, &[good], &[]).executed();
    });
}

/// As above, for the objects.
#[test]
fn submissions_with_impossible_objects() {
    attack(Builder::new(), |daemon| {
        let (mut client, batch) = client_with_batch(daemon);
        let other = client.create_buffer(4096);
        let good = batch.pinned(0x10_0000);
        let plain = ExecbufHead::default();
        let page = 4096;
        let objects: Vec<(&str, Vec<ExecObject>)> = vec![
            ("no object", vec![]),
            ("misaligned address", vec![ExecObject { offset: 0x10_0008, ..good }]),
            ("odd address", vec![ExecObject { offset: 0x10_0001, ..good }]),
            ("non-canonical address", vec![ExecObject { offset: 1 << 52, ..good }]),
            ("highest address", vec![ExecObject { offset: u64::MAX, ..good }]),
            ("alignment that is none", vec![ExecObject { alignment: 12_288, ..good }]),
            ("odd alignment", vec![ExecObject { alignment: 3, ..good }]),
            (
                "pad that is no page",
                vec![ExecObject {
                    pad_to_size: 100,
                    flags: good.flags | object_flag::PAD_TO_SIZE,
                    ..good
                }],
            ),
            ("unknown object flag", vec![ExecObject { flags: 1 << 40, ..good }]),
            ("twice the same buffer", vec![good, good]),
            ("a batch that is written", vec![batch.pinned_for_writing(0x10_0000)]),
        ];
        for (name, objects) in objects {
            let refusal = client.execbuf(&plain, &objects, &[]).refusal();
            assert_eq!(refusal.errno, EINVAL, "{name}: {}", refusal.sentence);
        }
        // As many as a message has room for.
        let many = vec![good; 1364];
        assert_eq!(client.execbuf(&plain, &many, &[]).refusal().name, "object-duplicate");
        // Relocations from nowhere: to the kernel an array that it cannot read.
        let nowhere = [ExecObject { relocation_count: 7, ..good }];
        assert_eq!(client.execbuf(&plain, &nowhere, &[]).refusal().errno, EFAULT);
        // Behind the end of the address space, and over each other.
        for objects in [
            vec![batch.pinned((1 << 48) - page)],
            vec![other.pinned(0x10_1000), batch.pinned(0x10_0000)],
        ] {
            let refusal = client.execbuf(&plain, &objects, &[]).refusal();
            assert!([EINVAL, 28].contains(&refusal.errno), "{}", refusal.sentence);
        }
        let nothing = vec![ExecObject { handle: 4711, ..good }];
        assert_eq!(client.execbuf(&plain, &nothing, &[]).refusal().errno, ENOENT);
        // After all that the one that works still works.
        let _executed = client.execbuf(&plain, &[good], &[]).executed();
    });
}

/// A session with a batch of two pages that does nothing.
fn client_with_batch(daemon: &Daemon) -> (Raw, RawBuffer) {
    let mut client = daemon.client("numbers");
    let batch = client.create_buffer(8192);
    batch.write(0, &Batch::new().end().bytes());
    (client, batch)
}
