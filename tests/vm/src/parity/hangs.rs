//! Batches that never end: what their fences and their contexts' reset statistics say, what becomes
//! of work behind them, and when contexts and files are banned (rule table §12).

use gpu_broker_uapi::i915::*;

use crate::Cases;
use crate::contexts::{create, destroy, set, stats};
use crate::execbuf::{
    AT, LONG, MI_BATCH_BUFFER_END, MI_STORE_DWORD_IMM, PINNED, buffer, over, read, store, submit,
    wait, write,
};
use crate::fences::{info, submit_for_fence};
use crate::kernel::{Node, close};

/// MI_ARB_CHECK: others may have the engine here.
const MI_ARB_CHECK: u32 = 0x05 << 23;
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

/// What the ids of cases begin with in which a hang resets the whole device.
pub(crate) const DEVICE_RESETS: &str = "reset/device/";

/// Whether a case does so, so that others would suffer.
pub(crate) fn hang_engines(id: &str) -> bool {
    id.starts_with("reset/hang/") || id.starts_with(DEVICE_RESETS)
}

/// Words of the batch of [`innocent_elsewhere`]: where its loop begins, and where it says that it runs.
const LOOP: u64 = 4;
const RUNS: u64 = 64;

/// Commands that say that they run, and go round until the CPU writes their end into the loop; all at
/// an address below 4 GiB.
fn spinning(at: u64) -> [u32; 8] {
    let word = |index: u64| u32::try_from(at + 4 * index).expect("low");
    let (store, jump) = (MI_STORE_DWORD_IMM, MI_BATCH_BUFFER_START);
    [store, word(RUNS), 0, 42, MI_ARB_CHECK, jump, word(LOOP), 0]
}

/// Waits until the GPU has written a word.
fn until(node: &Node, address: u64, value: u32) {
    for _ in 0..60_000 {
        if node.peek(address, 1) == [value] {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("in vain for a minute: a batch on another engine than the one that hangs");
}

/// Who runs elsewhere when the device is reset is innocent: counted, run again from the beginning, and
/// its fence says so (EAGAIN). Who has nothing on an engine is not hit.
fn innocent_elsewhere(node: &mut Node) {
    let [guilty, innocent, idle] = [0; 3].map(|_| create(node, 0, 0));
    works(node, idle);
    let page = node.page();
    let mut own = drm_i915_gem_userptr { user_ptr: page, user_size: 4096, ..Default::default() };
    node.call_hiding("userptr", DRM_IOCTL_I915_GEM_USERPTR, &mut own, &[0, 1]);
    let (handle, offset) = (own.handle, AT << 1);
    let flags = PINNED;
    let batch = drm_i915_gem_exec_object2 { handle, offset, flags, ..Default::default() };
    for (place, word) in (page..).step_by(4).zip(spinning(offset)) {
        node.poke(place, word);
    }
    let mut execbuf = over(node, &[batch]);
    execbuf.rsvd1 = innocent.into();
    execbuf.flags = I915_EXEC_BSD;
    let fence = submit_for_fence(node, &mut execbuf).expect("it is legal");
    until(node, page + 4 * RUNS, 42);
    node.poke(page + 4 * RUNS, 0);
    hang(node, guilty);
    // Run again, or lost; if it still runs it has not been reset.
    node.poke(page + 4 * LOOP, MI_BATCH_BUFFER_END);
    node.poll(fence);
    info(node, fence);
    close(fence);
    let runs = node.peek(page + 4 * RUNS, 1);
    node.note(&format!("{runs:?}"));
    for context in [guilty, innocent, idle] {
        stats(node, context);
        works(node, context);
    }
}

pub(crate) fn add(cases: &mut Cases) {
    cases.add("reset/device/innocent-elsewhere", innocent_elsewhere);
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
