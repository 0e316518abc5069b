//! Batches that never end: what their fences and their contexts' reset statistics say, what becomes
//! of work behind them, and when contexts and files are banned (rule table §12).

use gpu_broker_uapi::i915::*;

use crate::Cases;
use crate::contexts::{create, destroy, set, stats};
use crate::execbuf::{AT, LONG, PINNED, buffer, over, read, store, submit, wait, write};
use crate::fences::{info, submit_for_fence};
use crate::kernel::{Node, close};

/// MI_BATCH_BUFFER_START of a 48-bit address in the context's own space: three words.
const MI_BATCH_BUFFER_START: u32 = 0x31 << 23 | 1 << 8 | 1;

/// A batch that jumps to itself: it neither ends nor lets others in between.
fn endless(node: &mut Node) -> drm_i915_gem_exec_object2 {
    let handle = buffer(node, 4096);
    write(node, handle, &[MI_BATCH_BUFFER_START, u32::try_from(AT).expect("low"), 0, 0]);
    drm_i915_gem_exec_object2 { handle, offset: AT, flags: PINNED, ..Default::default() }
}

/// Hangs a context and waits until that was noticed. False if it was refused.
fn hang(node: &mut Node, context: u32) -> bool {
    let batch = endless(node);
    let mut execbuf = over(node, &[batch]);
    execbuf.rsvd1 = context.into();
    let Some(fence) = submit_for_fence(node, &mut execbuf) else { return false };
    wait(node, batch.handle, 0, LONG);
    node.poll(fence);
    info(node, fence);
    close(fence);
    true
}

fn works(node: &mut Node, context: u32) {
    let target = buffer(node, 4096);
    let mut execbuf = store(node, target, 0x600d_cafe);
    execbuf.rsvd1 = context.into();
    submit(node, &mut execbuf);
    wait(node, target, 0, LONG);
    read(node, target);
}

pub(crate) fn add(cases: &mut Cases) {
    cases.add("reset/hang/default", |node| {
        hang(node, 0);
        stats(node, 0);
        works(node, 0);
    });
    cases.add("reset/hang/guilty-and-bystander", |node| {
        let (guilty, bystander) = (create(node, 0, 0), create(node, 0, 0));
        let target = buffer(node, 4096);
        works(node, bystander);
        let batch = endless(node);
        let mut execbuf = over(node, &[batch]);
        execbuf.rsvd1 = guilty.into();
        let fence = submit_for_fence(node, &mut execbuf);
        let mut execbuf = store(node, target, 7);
        execbuf.rsvd1 = bystander.into();
        submit(node, &mut execbuf);
        wait(node, target, 0, LONG);
        read(node, target);
        if let Some(fence) = fence {
            node.poll(fence);
            info(node, fence);
            close(fence);
        }
        stats(node, guilty);
        stats(node, bystander);
        works(node, guilty);
    });
    cases.add("reset/hang/third-bans", |node| {
        let context = create(node, 0, 0);
        while hang(node, context) {
            stats(node, context);
        }
        stats(node, context);
        let context = create(node, 0, 0);
        works(node, context);
    });
    cases.add("reset/hang/not-recoverable", |node| {
        let context = create(node, 0, 0);
        set(node, context, I915_CONTEXT_PARAM_RECOVERABLE, 0, 0);
        hang(node, context);
        stats(node, context);
        works(node, context);
        destroy(node, context, 0);
        works(node, 0);
    });
    cases.add("reset/hang/third-bans-the-file", |node| {
        for _ in 0..4 {
            let context = create(node, 0, 0);
            if context == 0 {
                break;
            }
            set(node, context, I915_CONTEXT_PARAM_RECOVERABLE, 0, 0);
            hang(node, context);
            destroy(node, context, 0);
        }
        works(node, 0);
    });
}
