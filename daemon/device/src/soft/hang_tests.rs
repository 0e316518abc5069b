//! What is kept of batches that die, and what a reset does to those that are innocent.

use super::tests::impatient;
use super::*;
use crate::conformance::{Asm, BCS0, Job, Mem, Pending, RCS0, Rig, VCS0, eventually};
use crate::{Batch, Capture, DeviceEvent, FaultKind, Object, Placement, RegionKind};

type SoftMem = Mem<SoftDevice>;

/// General purpose register 0 of the first video engine.
const VCS0_GPR0: u32 = 0x1_2600;

fn rig(config: Config) -> Rig<SoftDevice> {
    Rig::new(SoftDevice::start(config).unwrap())
}

/// Submits a batch with objects of which some are flagged for capture.
fn submit_flagged(
    rig: &Rig<SoftDevice>,
    context: &Context,
    batch: &SoftMem,
    length: u64,
    others: &[(&SoftMem, bool)],
) -> Pending<SoftDevice> {
    let objects: Vec<_> = others
        .iter()
        .copied()
        .chain([(batch, false)])
        .map(|(mem, capture)| Object {
            buffer: &mem.buffer,
            address: mem.address,
            size: mem.size,
            fresh: true,
            write: false,
            asynchronous: true,
            capture,
        })
        .collect();
    let submission = Submission {
        slot: 0,
        placement: Placement::One(BCS0),
        batches: &[Batch { address: batch.address, length }],
        objects: &objects,
        after: &[],
        along: &[],
        signals: &[],
        patches: &[],
        want_fence: true,
    };
    let submitted = rig.file.submit(context, submission).unwrap();
    Pending { fence: submitted.fence.unwrap(), done: submitted.done }
}

fn register(capture: &Capture, name: &str) -> u64 {
    capture.registers.iter().find(|(known, _)| known == name).expect(name).1
}

#[test]
fn a_capture_has_registers_commands_and_flagged_memory() {
    let rig = rig(Config::default());
    let vm = rig.vm();
    let (context, tag) = rig.context(&vm);
    let (flagged, plain, batch) = (rig.mem(), rig.mem(), rig.mem());
    flagged.set(3, 0xabcd);
    batch.fill(&Asm::new().load_register(0x2_2600, 77).raw(&[0, 0xe000_0000]).unended());
    let lost = submit_flagged(&rig, &context, &batch, 20, &[(&flagged, true), (&plain, false)]);
    let report = rig.guilty(&lost, tag);
    let failed_at = batch.address + 16;
    assert_eq!((report.tag, report.engine, report.kind), (tag, BCS0, FaultKind::Fault));
    assert_eq!((report.batch, report.address), (batch.address, failed_at));
    let capture = report.capture.expect("nobody said NO_ERROR_CAPTURE");
    assert_eq!(register(&capture, "CS_GPR0"), 77);
    assert_eq!(register(&capture, "ACTHD"), failed_at);
    assert_eq!(register(&capture, "IPEHR"), 0xe000_0000);
    let executed: Vec<_> = capture.commands.iter().map(|one| (one.address, one.name)).collect();
    let expected = [(batch.address, "MI_LOAD_REGISTER_IMM"), (batch.address + 12, "MI_NOOP")];
    assert_eq!(executed, expected, "what was executed, and not what was not");
    let listed: Vec<_> = capture.listing.iter().map(|one| (one.address, one.failed)).collect();
    let offsets = [(0, false), (12, false), (16, true)];
    assert_eq!(listed, offsets.map(|(offset, failed)| (batch.address + offset, failed)));
    assert_eq!(capture.listing[0].fields, [("register", 0x2_2600), ("value", 77)]);
    let kinds: Vec<_> = capture.regions.iter().map(|region| region.kind).collect();
    assert_eq!(kinds, [RegionKind::Batch, RegionKind::Object]);
    let [code, object] = &capture.regions[..] else { panic!("two regions") };
    assert_eq!((code.size, code.bytes.len()), (20, 20));
    assert_eq!((object.address, object.bytes.len()), (flagged.address, 4096));
    assert_eq!(object.bytes[12..16], 0xabcd_u32.to_le_bytes());
    rig.end();
}

#[test]
fn a_context_without_error_capture_leaves_none() {
    let rig = rig(Config::default());
    let vm = rig.vm();
    let bad = Asm::new().raw(&[0xe000_0000]).unended();
    for (made, updated, expected) in [
        (true, None, true),
        (false, None, false),
        (true, Some(false), false),
        (false, Some(true), true),
    ] {
        let tag = 1000 + u64::from(expected) + 10 * u64::from(made);
        let spec = ContextSpec { error_capture: made, ..Rig::<SoftDevice>::spec(&vm, tag) };
        let context = rig.file.create_context(spec).unwrap();
        if let Some(value) = updated {
            rig.file.update_context(&context, ContextUpdate::ErrorCapture(value)).unwrap();
        }
        let report = rig.guilty(&rig.submit(&context, &Job::on(RCS0), &bad, &[]), tag);
        assert_eq!(report.capture.is_some(), expected, "{made} then {updated:?}");
    }
    rig.end();
}

/// However much is flagged, a capture has its limits, and unmapped memory ends a region.
#[test]
fn captures_are_bounded() {
    let rig = rig(Config::default());
    let vm = rig.vm();
    let (context, tag) = rig.context(&vm);
    let objects: Vec<_> = (0..40).map(|_| rig.sized(128 << 10)).collect();
    let flagged: Vec<_> = objects.iter().map(|mem| (mem, true)).collect();
    let batch = rig.sized(256 << 10);
    let mut bytes = vec![0; 256 << 10];
    bytes[200 << 10..(200 << 10) + 4].copy_from_slice(&0xe000_0000_u32.to_le_bytes());
    batch.fill(&bytes);
    let lost = submit_flagged(&rig, &context, &batch, batch.size, &flagged);
    let report = rig.guilty(&lost, tag);
    let failed_at = batch.address + (200 << 10);
    assert_eq!(report.address, failed_at);
    let capture = report.capture.expect("captured");
    let kept: usize = capture.regions.iter().map(|region| region.bytes.len()).sum();
    assert_eq!(kept, 256 << 10);
    let code = &capture.regions[0];
    assert_eq!(code.bytes.len(), 32 << 10);
    let start = code.address + code.offset;
    assert!((start..start + code.bytes.len() as u64).contains(&failed_at));
    let at = usize::try_from(failed_at - start).unwrap();
    assert_eq!(code.bytes[at..at + 4], 0xe000_0000_u32.to_le_bytes());
    rig.end();
}

/// An endless batch outside of what was submitted: the page it spins in is kept as well.
#[test]
fn commands_outside_the_batch_are_kept() {
    let rig = rig(impatient());
    let vm = rig.vm();
    let (context, tag) = rig.context(&vm);
    let (spin, batch) = (rig.mem(), rig.mem());
    spin.fill(&Asm::new().raw(&[0]).jump(spin.address).unended());
    batch.fill(&Asm::new().jump(spin.address).unended());
    let lost = submit_flagged(&rig, &context, &batch, 16, &[(&spin, false)]);
    let report = rig.guilty(&lost, tag);
    assert_eq!(report.kind, FaultKind::Hung);
    assert!(["MI_NOOP", "MI_BATCH_BUFFER_START"].contains(&&*report.command), "{report:?}");
    let capture = report.capture.expect("captured");
    let kinds: Vec<_> = capture.regions.iter().map(|region| region.kind).collect();
    assert_eq!(kinds, [RegionKind::Batch, RegionKind::Commands]);
    assert_eq!(capture.regions[1].address, spin.address);
    assert_eq!(capture.commands.len(), gpu_broker_soft_gpu::streamer::TRACE_COMMANDS);
    rig.end();
}

/// With resets of the whole device, who runs on another engine starts again: its registers are
/// those it began with, it is counted once, and its fence says so. Who waits in a queue is not hit.
#[test]
fn a_reset_of_the_device_replays_who_is_active_and_innocent() {
    let rig = rig(Config { reset: ResetScope::Device, ..Config::default() });
    let vm = rig.vm();
    let (innocent, tag) = rig.context(&vm);
    let (queued, queued_tag) = rig.context(&vm);
    let (data, gate, behind) = (rig.mem(), rig.mem(), rig.mem());
    let seven = Asm::new().load_register(VCS0_GPR0, 7).end();
    rig.run(&innocent, &Job::on(VCS0), &seven, &[]);
    // Stores what it found in the register, leaves something else there, counts its beginnings, and
    // holds the engine.
    let batch = Asm::new()
        .store_register(VCS0_GPR0, data.at(0))
        .load_register(VCS0_GPR0, 9)
        .increment(data.at(1))
        .arbitration(false)
        .wait(gate.at(0), 1)
        .end();
    let work = rig.submit(&innocent, &Job::on(VCS0), &batch, &[data.shared(), gate.shared()]);
    let store = Asm::new().store(behind.at(0), 1).end();
    let waits = rig.submit(&queued, &Job::on(VCS0), &store, &[behind.shared()]);
    eventually("it has begun", || data.get(1) == 1);
    data.set(0, 0);
    let (culprit, culprit_tag) = rig.context(&vm);
    let bad = Asm::new().raw(&[0xe000_0000]).unended();
    let lost = rig.submit(&culprit, &Job::on(RCS0), &bad, &[]);
    rig.guilty(&lost, culprit_tag);
    eventually("it has begun again", || data.get(1) == 2);
    assert_eq!(data.get(0), 7, "what it found the second time");
    gate.set(0, 1);
    rig.device.shared.gpu.memory_changed();
    assert_eq!(rig.wait(&work), FenceState::Failed(11), "EAGAIN");
    rig.finish(&waits);
    assert_eq!(behind.get(0), 1);
    let replayed = |of| {
        let hit =
            |event: &DeviceEvent| matches!(event, DeviceEvent::Replayed { tag } if *tag == of);
        rig.events.all().iter().filter(|event| hit(event)).count()
    };
    assert_eq!((replayed(tag), replayed(queued_tag), replayed(culprit_tag)), (1, 0, 0));
    rig.end();
}

/// A reset of one engine, the usual kind, is nothing to the others.
#[test]
fn a_reset_of_an_engine_hits_nobody_else() {
    let rig = rig(Config::default());
    let vm = rig.vm();
    let (innocent, _) = rig.context(&vm);
    let (data, gate) = (rig.mem(), rig.mem());
    let batch = Asm::new().increment(data.at(1)).arbitration(false).wait(gate.at(0), 1).end();
    let work = rig.submit(&innocent, &Job::on(VCS0), &batch, &[data.shared(), gate.shared()]);
    eventually("it has begun", || data.get(1) == 1);
    let (culprit, tag) = rig.context(&vm);
    let bad = Asm::new().raw(&[0xe000_0000]).unended();
    rig.guilty(&rig.submit(&culprit, &Job::on(RCS0), &bad, &[]), tag);
    gate.set(0, 1);
    rig.device.shared.gpu.memory_changed();
    rig.finish(&work);
    assert_eq!(data.get(1), 1);
    let replayed = |event: &DeviceEvent| matches!(event, DeviceEvent::Replayed { .. });
    assert!(!rig.events.all().iter().any(replayed));
    rig.end();
}
