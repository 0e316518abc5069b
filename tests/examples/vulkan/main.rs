//! A Vulkan program: a device of the Intel driver, memory, submissions, fences, events, timelines,
//! and memory that is exported and imported. `tests/it/preload` runs it on the broker.
//!
//! What shaders would draw is not looked at: shading needs hardware. So a buffer that is filled is
//! only waited for; what is looked at is what the command streamer itself writes, and what the
//! program writes through its mappings.

mod gpu;

use std::io::Result;

use gpu::{Gpu, Kind, Step, Wait};

const BYTES: u64 = 65536;
const LAST: usize = 65536 / 4 - 1;
/// Submissions one after the other.
const ROUNDS: u64 = 200;
/// Submissions that wait for the program at the same time.
const HELD: u64 = 64;
/// Nanoseconds after which what must happen did not. The machine may be busy.
const LONG: u64 = 300_000_000_000;

fn main() -> Result<()> {
    // Twice: what the first device had is gone when the second begins.
    for _ in 0..2 {
        let gpu = Gpu::open();
        println!("{}", gpu.name());
        one_after_the_other(&gpu);
        behind_the_host(&gpu);
        the_host_waits_in_vain(&gpu);
        for kind in [Kind::Opaque, Kind::DmaBuf] {
            shared_memory(&gpu, kind)?;
        }
    }
    println!("done");
    Ok(())
}

/// Each waits for the one before, on a timeline that the queue waits for and signals.
fn one_after_the_other(gpu: &Gpu) {
    let (from, to) = (gpu.memory(BYTES, None), gpu.memory(BYTES, None));
    from.at(LAST).store(0x5a5a_5a5a, std::sync::atomic::Ordering::SeqCst);
    let (fence, timeline) = (gpu.fence(), gpu.timeline());
    for round in 1..=ROUNDS {
        let event = gpu.event();
        assert!(!gpu.is_set(event));
        let fill = u32::try_from(round).expect("it is small");
        let steps = [Step::Fill(&to, fill), Step::Copy(&from, &to), Step::Set(event)];
        let wait = [Wait(timeline, round - 1)];
        gpu.submit(&steps, &wait, &[Wait(timeline, round)], Some(fence));
        assert!(gpu.wait(Wait(timeline, round), LONG), "round {round}");
        assert!(gpu.wait_for_fence(fence, LONG), "round {round}");
        assert_eq!(gpu.reached(timeline), round);
        // The command streamer has written it.
        assert!(gpu.is_set(event), "round {round}");
    }
    assert_eq!(from.at(LAST).load(std::sync::atomic::Ordering::SeqCst), 0x5a5a_5a5a);
    gpu.idle();
}

/// Submissions whose turn comes when the host says so.
fn behind_the_host(gpu: &Gpu) {
    let (host, queue) = (gpu.timeline(), gpu.timeline());
    let memory = gpu.memory(BYTES, None);
    let events: Vec<_> = (0..HELD).map(|_| gpu.event()).collect();
    for (turn, event) in (1..).zip(&events) {
        let steps = [Step::Fill(&memory, 1), Step::Set(*event)];
        gpu.submit(&steps, &[Wait(host, turn)], &[Wait(queue, turn)], None);
    }
    for (turn, event) in (1..).zip(&events) {
        assert_eq!(gpu.reached(queue), turn - 1, "it did not wait for the host");
        assert!(!gpu.is_set(*event));
        gpu.signal(Wait(host, turn));
        assert!(gpu.wait(Wait(queue, turn), LONG), "turn {turn}");
        assert!(gpu.is_set(*event), "turn {turn}");
    }
    gpu.idle();
}

fn the_host_waits_in_vain(gpu: &Gpu) {
    let (timeline, fence) = (gpu.timeline(), gpu.fence());
    let late = Wait(timeline, 1000);
    assert!(!gpu.wait(late, 1_000_000), "nobody signals it");
    assert!(!gpu.wait_for_fence(fence, 1_000_000), "nothing was submitted with it");
    gpu.signal(late);
    assert!(gpu.wait(late, LONG));
    assert_eq!(gpu.reached(timeline), 1000);
}

/// Memory that leaves as an fd and comes back as other memory is the same memory.
fn shared_memory(gpu: &Gpu, kind: Kind) -> Result<()> {
    assert!(gpu.offers(kind), "Mesa's Intel driver exports {kind:?}");
    let exported = gpu.memory(BYTES, Some(kind));
    exported.at(LAST).store(1, std::sync::atomic::Ordering::SeqCst);
    let fd = gpu.export(&exported, kind);
    let imported = gpu.import(fd.try_clone()?, BYTES, kind);
    assert_eq!(imported.at(LAST).load(std::sync::atomic::Ordering::SeqCst), 1);
    imported.at(LAST).store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(exported.at(LAST).load(std::sync::atomic::Ordering::SeqCst), 2);
    let timeline = gpu.timeline();
    let steps = [Step::Fill(&imported, 7), Step::Copy(&imported, &exported)];
    gpu.submit(&steps, &[], &[Wait(timeline, 1)], None);
    assert!(gpu.wait(Wait(timeline, 1), LONG));
    Ok(())
}
