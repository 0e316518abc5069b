//! Any EXECBUF whose lists agree.

use gpu_broker_protocol::execbuf::{
    ExecExtension, ExecFence, ExecObject, ExecPoint, ExecbufHead, Relocation,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::submission::Submission;

fn head() -> impl Strategy<Value = ExecbufHead> {
    any::<([u32; 6], u64)>().prop_map(|(n, flags)| ExecbufHead {
        context: n[0],
        flags,
        batch_start_offset: n[1],
        batch_len: n[2],
        dr1: n[3],
        dr4: n[4],
        num_cliprects: n[5],
    })
}

fn object() -> impl Strategy<Value = ExecObject> {
    any::<(u32, u32, [u64; 4])>().prop_map(|(handle, relocation_count, n)| ExecObject {
        handle,
        relocation_count,
        alignment: n[0],
        offset: n[1],
        flags: n[2],
        pad_to_size: n[3],
    })
}

/// A node and its points.
fn extension() -> impl Strategy<Value = (ExecExtension, Vec<ExecPoint>)> {
    let point = any::<(u32, u32, u64)>().prop_map(|(handle, flags, point)| ExecPoint {
        handle,
        flags,
        point,
    });
    (any::<(u32, u32, [u32; 4], u64)>(), vec(point, 0..5)).prop_map(|(n, points)| {
        let entry_count = u32::try_from(points.len()).expect("a handful");
        let (name, flags, rsvd, fence_flags) = n;
        (ExecExtension { name, flags, rsvd, fence_flags, entry_count }, points)
    })
}

fn relocation() -> impl Strategy<Value = Relocation> {
    any::<([u32; 4], [u64; 2])>().prop_map(|(n, wide)| Relocation {
        target: n[0],
        delta: n[1],
        offset: wide[0],
        presumed_offset: wide[1],
        read_domains: n[2],
        write_domain: n[3],
    })
}

/// Any EXECBUF whose lists agree.
pub(crate) fn execbuf() -> impl Strategy<Value = Submission> {
    let fence = any::<(u32, u32)>().prop_map(|(handle, flags)| ExecFence { handle, flags });
    let chain = vec(extension(), 0..4);
    (head(), vec(object(), 0..20), vec(fence, 0..5), chain, vec(relocation(), 0..8)).prop_map(
        |(head, objects, fences, chain, relocations)| {
            let (extensions, points): (Vec<_>, Vec<_>) = chain.into_iter().unzip();
            let points = points.concat();
            Submission { head, objects, fences, extensions, points, relocations }
        },
    )
}
