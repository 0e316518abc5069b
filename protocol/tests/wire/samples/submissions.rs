//! EXECBUFs: a plain one, and one with every list.

use gpu_broker_protocol::FdSlot;
use gpu_broker_protocol::execbuf::{
    ExecExtension, ExecFence, ExecObject, ExecPoint, ExecbufHead, Relocation, flag, object_flag,
};
use gpu_broker_protocol::execlist::{ListHead, NOTHING, RUN};
use gpu_broker_protocol::message::{ExecbufReply, Reply};
use gpu_broker_protocol::syncobj::flag::{FENCE_SIGNAL, FENCE_WAIT};

use crate::lists::Change;
use crate::samples::Round;
use crate::submission::Submission;

/// A target, pinned and written, and a batch.
pub(super) fn plain() -> Submission {
    let head = ExecbufHead {
        context: 3,
        flags: 1 | flag::NO_RELOC | flag::HANDLE_LUT | flag::FENCE_OUT,
        batch_len: 24,
        ..ExecbufHead::default()
    };
    let target = ExecObject {
        handle: 5,
        offset: 0x10_0000,
        flags: object_flag::PINNED | object_flag::WRITE | object_flag::SUPPORTS_48B,
        ..ExecObject::default()
    };
    let batch = ExecObject { handle: 6, flags: object_flag::SUPPORTS_48B, ..ExecObject::default() };
    Submission { head, objects: vec![target, batch], ..Submission::default() }
}

/// Lists of different lengths, so that swapped counts show. (No daemon takes a fence array and
/// extensions in one request; the layout does.)
pub(super) fn with_every_list() -> Submission {
    let head = ExecbufHead {
        context: 3,
        flags: flag::FENCE_ARRAY | flag::USE_EXTENSIONS,
        num_cliprects: 3,
        ..ExecbufHead::default()
    };
    let batch = ExecObject { handle: 6, relocation_count: 4, ..ExecObject::default() };
    let fence = |handle, flags| ExecFence { handle, flags };
    let node = |entry_count| ExecExtension { entry_count, ..ExecExtension::default() };
    let odd =
        ExecExtension { name: 7, flags: 8, rsvd: [9, 10, 11, 12], fence_flags: 13, ..node(1) };
    let point = |handle, flags, point| ExecPoint { handle, flags, point };
    let relocation = |offset: u64| Relocation {
        target: 1,
        delta: 64,
        offset,
        presumed_offset: 0x20_0000,
        read_domains: 2,
        write_domain: 2,
    };
    Submission {
        head,
        objects: vec![batch],
        fences: vec![fence(1, FENCE_WAIT), fence(2, FENCE_SIGNAL), fence(3, FENCE_WAIT)],
        extensions: vec![node(2), odd],
        points: vec![
            point(4, FENCE_WAIT, 20),
            point(5, FENCE_SIGNAL, 21),
            point(6, FENCE_WAIT | FENCE_SIGNAL, u64::MAX),
        ],
        relocations: [16, 32, 48, 64].map(relocation).into(),
    }
}

/// Lists: one begun from nothing, and one that is changed in two places, cut, and run.
pub(super) fn lists() -> Round {
    let begun =
        ListHead { list: 2, flags: 0, base: NOTHING, next: 0x1122_3344_5566_7788, length: 5 };
    let run = ListHead { flags: RUN, base: begun.next, next: begun.next + 1, length: 4, ..begun };
    let reply = |offsets: Vec<u64>, fence| Reply::ExecbufList(ExecbufReply { offsets, fence });
    Round {
        requests: vec![],
        execbufs: vec![],
        lists: vec![
            ("EXECBUF_LIST", Change { head: begun, edits: vec![(0, vec![1, 2, 3, 4, 5])] }),
            (
                "EXECBUF_LIST with RUN",
                Change { head: run, edits: vec![(0, vec![7]), (2, vec![8, 9])] },
            ),
        ],
        replies: vec![
            ("EXECBUF_LIST", reply(vec![], None)),
            ("EXECBUF_LIST with RUN", reply(vec![0x10_0000], Some(FdSlot))),
        ],
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    }
}
