//! The device as the driver uses it, by its registers and by memory.

use std::fs::File;
use std::time::{Duration, Instant};

use gpu_broker_soft_gpu::{ENGINES, EngineKind, EngineSpec};

use super::*;
use crate::mmio::engine as offset;
use crate::testing::{RAM, fill, get, map_global, put, put_u64};

/// GGTT addresses, which are RAM from [`RAM`] on: the status page of the engine, two contexts'
/// images of two pages, their rings.
const STATUS: u32 = 0x1_0000;
const IMAGES: [u32; 2] = [0x2_0000, 0x3_0000];
const RINGS: [u32; 2] = [0x4_0000, 0x5_0000];
/// GGTT address that breadcrumbs are written to.
const SEQNO: u32 = 0x6_0000;
const PAGES: u64 = 0x80;
/// PPGTT of both contexts: its tables, and the RAM of the batch at address 0x20_0000.
const TABLES: u64 = RAM + 0x10_0000;
const BATCH_RAM: u64 = RAM + 0x11_0000;
const BATCH: u32 = 0x20_0000;

struct Rig {
    gpu: Gpu,
    spec: EngineSpec,
    tails: [u32; 2],
}

impl Rig {
    /// An engine set up as the driver does, everything unmasked.
    fn new(kind: EngineKind) -> Self {
        let gpu = Gpu::start(Faults::default()).unwrap();
        fill(&gpu.shared().guest);
        map_global(&gpu.shared().ggtt, 0, RAM, PAGES);
        let spec = EngineSpec::of(kind);
        let rig = Self { gpu, spec, tails: [0; 2] };
        let blocks = rig.gpu.shared().guest.snapshot();
        for (from, to) in [(0, 1), (1, 2)] {
            put_u64(&blocks, TABLES + from * 4096, (TABLES + to * 4096) | 3);
        }
        put_u64(&blocks, TABLES + 2 * 4096 + 8, (TABLES + 3 * 4096) | 3);
        put_u64(&blocks, TABLES + 3 * 4096, BATCH_RAM | 3);
        for (image, ring) in IMAGES.into_iter().zip(RINGS) {
            let registers = RAM + u64::from(image) + 4096;
            put(&blocks, registers + 0x03 * 4, &[1]);
            put(&blocks, registers + 0x09 * 4, &[ring]);
            put(&blocks, registers + 0x33 * 4, &[u32::try_from(TABLES).unwrap()]);
        }
        for group in 0..4 {
            rig.gpu.write(u64::from(address::INTERRUPTS + group * 16 + 12), u32::MAX);
        }
        rig.gpu.write(u64::from(address::MASTER_INTERRUPT), 1 << 31);
        rig.write(offset::STATUS_PAGE, STATUS);
        rig
    }

    fn write(&self, register: u32, value: u32) {
        self.gpu.write(u64::from(self.spec.mmio_base + register), value);
    }

    fn read(&self, register: u32) -> u32 {
        self.gpu.read(u64::from(self.spec.mmio_base + register))
    }

    /// Adds commands to a context's ring.
    fn add(&mut self, context: usize, commands: &[u32]) {
        let blocks = self.gpu.shared().guest.snapshot();
        let at = self.tails[context];
        put(&blocks, RAM + u64::from(RINGS[context] + at), commands);
        self.tails[context] = at + u32::try_from(commands.len() * 4).unwrap();
        let tail = RAM + u64::from(IMAGES[context]) + 4096 + 0x07 * 4;
        put(&blocks, tail, &[self.tails[context]]);
    }

    /// MI_STORE_DATA_IMM to dword `index` at [`SEQNO`], then MI_USER_INTERRUPT.
    fn add_breadcrumb(&mut self, context: usize, index: u32, value: u32) {
        self.add(context, &[0x1040_0002, SEQNO + 4 * index, 0, value, 0x0100_0000, 0]);
    }

    fn start_batch(&mut self, context: usize, batch: &[u32]) {
        put(&self.gpu.shared().guest.snapshot(), BATCH_RAM, batch);
        self.add(context, &[0x1880_0101, BATCH, 0, 0]);
    }

    /// Submits contexts by number; the id of each is its number + 1.
    fn submit(&self, contexts: &[usize]) {
        for port in [1, 0] {
            let context = contexts.get(port);
            let high = context.map_or(0, |&context| u32::try_from(context).unwrap() + 1);
            let low = context.map_or(0, |&context| IMAGES[context] | 1);
            self.write(offset::SUBMISSION_PORT, high);
            self.write(offset::SUBMISSION_PORT, low);
        }
    }

    fn global(&self, at: u32) -> u32 {
        get(&self.gpu.shared().guest.snapshot(), RAM + u64::from(at))
    }

    /// Waits until the status page has `count` events since the reset, and answers them.
    fn events(&self, count: u32) -> Vec<(u32, u32)> {
        let pointer = STATUS + 0x1f * 4;
        wait(|| {
            self.global(pointer) == count - 1 && self.global(STATUS + 0x40 + 8 * (count - 1)) != 0
        });
        let event = |index| {
            let at = STATUS + 0x40 + 8 * index;
            (self.global(at), self.global(at + 4))
        };
        (0..count).map(event).collect()
    }
}

/// Waits, for as long as no machine takes.
fn wait(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn two_contexts_run_on_every_engine() {
    for spec in ENGINES {
        let mut rig = Rig::new(spec.kind);
        rig.add_breadcrumb(0, 0, 0xa);
        rig.add_breadcrumb(1, 1, 0xb);
        rig.submit(&[0, 1]);
        assert_eq!(rig.events(3), [(0x1, 1), (0x14, 1), (0x18, 2)], "{}", spec.name);
        assert_eq!([rig.global(SEQNO), rig.global(SEQNO + 4)], [0xa, 0xb], "{}", spec.name);
        // The image says how far the context came; the tail in it is the driver's.
        assert_eq!(rig.global(IMAGES[0] + 4096 + 5 * 4), rig.tails[0]);
        assert_ne!(rig.read(offset::MODE) & 1 << 9, 0, "idle");
        let (group, shift) = crate::interrupts::place(spec.kind);
        let identity = u64::from(address::INTERRUPTS) + group as u64 * 16 + 8;
        assert_eq!(rig.gpu.read(identity), 0x101 << shift, "user interrupt and context switch");
        assert!(rig.gpu.shared().interrupts.sent() > 0);
    }
}

#[test]
fn a_context_that_is_resubmitted_goes_on() {
    let mut rig = Rig::new(EngineKind::Render);
    // Held by a semaphore until the second submission has been accepted.
    rig.add(0, &[0x0e40_4000 | 1 << 15 | 2, 1, SEQNO + 0x40, 0]);
    rig.submit(&[0]);
    rig.events(1);
    rig.add_breadcrumb(0, 0, 7);
    rig.submit(&[0, 1]);
    assert_eq!(rig.events(2)[1].0, 0x8002);
    put(&rig.gpu.shared().guest.snapshot(), RAM + u64::from(SEQNO) + 0x40, &[1]);
    assert_eq!(rig.events(4)[2..], [(0x14, 1), (0x18, 2)]);
    assert_eq!(rig.global(SEQNO), 7);
}

#[test]
fn a_loop_with_an_arbitration_point_is_set_aside_and_taken_up_again() {
    let mut rig = Rig::new(EngineKind::Copy);
    // MI_ARB_CHECK, then MI_CONDITIONAL_BATCH_BUFFER_END on a dword of the batch, then again.
    let flag = BATCH + 0x100;
    put(&rig.gpu.shared().guest.snapshot(), BATCH_RAM + 0x100, &[1]);
    rig.start_batch(0, &[0x0280_0000, 0x1b20_0002, 0, flag, 0, 0x1880_0101, BATCH, 0]);
    rig.add_breadcrumb(0, 0, 1);
    rig.submit(&[0]);
    rig.events(1);
    rig.add_breadcrumb(1, 1, 2);
    rig.submit(&[1, 0]);
    assert_eq!(rig.events(3)[1..], [(0x2, 1), (0x14, 2)]);
    assert_eq!([rig.global(SEQNO), rig.global(SEQNO + 4)], [0, 2]);
    put(&rig.gpu.shared().guest.snapshot(), BATCH_RAM + 0x100, &[0]);
    assert_eq!(rig.events(4)[3], (0x18, 1));
    assert_eq!(rig.global(SEQNO), 1);
}

#[test]
fn a_loop_without_one_holds_the_engine_until_it_is_reset() {
    let mut rig = Rig::new(EngineKind::Video1);
    // Counts its rounds by MI_ATOMIC.
    let counter = BATCH + 0x200;
    rig.start_batch(0, &[0x1780_0501, counter, 0, 0x1880_0101, BATCH, 0]);
    rig.submit(&[0]);
    rig.events(1);
    rig.add_breadcrumb(1, 1, 2);
    rig.submit(&[1]);
    // Many turns of the engine later nothing has happened to it.
    let rounds = || get(&rig.gpu.shared().guest.snapshot(), BATCH_RAM + 0x200);
    let before = rounds();
    wait(|| rounds().wrapping_sub(before) > 5_000);
    rig.write(offset::MODE, 0x0100_0100);
    assert_ne!(rig.read(offset::MODE) & 1 << 9, 0, "stopped counts as idle");
    assert_eq!(rig.global(STATUS + 0x1f * 4), 0, "no second event");
    rig.write(offset::RESET_CONTROL, 0x0001_0001);
    assert_eq!(rig.read(offset::RESET_CONTROL) & 2, 2, "ready");
    rig.gpu.write(u64::from(address::DOMAIN_RESET), 1 << 7);
    assert_eq!(rig.gpu.read(u64::from(address::DOMAIN_RESET)), 0);
    assert_eq!(rig.read(offset::MODE), 1 << 9, "idle, and no longer stopped");
    // What was submitted before is forgotten; what comes now runs, and events start anew.
    put(&rig.gpu.shared().guest.snapshot(), RAM + u64::from(STATUS) + 0x40, &[0; 12]);
    rig.submit(&[1]);
    assert_eq!(rig.events(2), [(0x1, 2), (0x18, 2)]);
    assert_eq!(rig.global(SEQNO + 4), 2);
}

#[test]
fn a_command_that_does_not_exist_is_an_error_until_the_reset() {
    let mut rig = Rig::new(EngineKind::Render);
    rig.write(offset::ERROR_MASK, !1);
    rig.start_batch(0, &[0x1f80_0000]);
    rig.submit(&[0]);
    wait(|| rig.read(offset::ERRORS) == 1);
    let identity = u64::from(address::INTERRUPTS) + 8;
    wait(|| rig.gpu.read(identity) & 1 << 3 != 0);
    rig.write(offset::ERRORS, 1);
    assert_eq!(rig.read(offset::ERRORS), 1, "it persists");
    rig.gpu.write(u64::from(address::DOMAIN_RESET), 1 << 1);
    assert_eq!([rig.read(offset::ERRORS), rig.read(offset::ERROR_STATUS)], [0, 0]);
}

#[test]
fn faults_do_what_they_say() {
    let mut rig = Rig::new(EngineKind::Render);
    let awake = |rig: &Rig, value| {
        rig.gpu.write(u64::from(address::FORCEWAKE_RENDER), value);
        rig.gpu.read(u64::from(address::FORCEWAKE_RENDER_ACK))
    };
    assert_eq!([awake(&rig, 0x0001_0001), awake(&rig, 0x0001_0000)], [1, 0]);
    rig.gpu.set_faults(Fault::Forcewake as u8 | Fault::Reset as u8);
    assert_eq!(awake(&rig, 0x0001_0001), 0);
    rig.gpu.write(u64::from(address::DOMAIN_RESET), 2);
    assert_eq!(rig.gpu.read(u64::from(address::DOMAIN_RESET)), 2, "not carried out");
    rig.gpu.set_faults(Fault::Event as u8);
    rig.add_breadcrumb(0, 0, 9);
    rig.submit(&[0]);
    // The first event is lost, the second comes first.
    assert_eq!(rig.events(1), [(0x18, 1)]);
    assert_eq!(rig.gpu.shared().faults.bits(), 0);
    rig.gpu.set_faults(Fault::Unplugged as u8);
    assert_eq!(rig.read(offset::TAIL), u32::MAX);
    rig.write(offset::STATUS_PAGE, 5);
    rig.gpu.set_faults(0);
    assert_eq!(rig.read(offset::STATUS_PAGE), STATUS);
}

#[test]
fn the_power_controller_answers() {
    let rig = Rig::new(EngineKind::Render);
    let mail = |command: u32| {
        rig.gpu.write(u64::from(address::MAILBOX), 1 << 31 | command);
        [address::MAILBOX, address::MAILBOX_DATA].map(|register| rig.gpu.read(register.into()))
    };
    assert_eq!(mail(0x1a), [0, 0x600]);
    assert_eq!(mail(0x07), [0, 1]);
    // Who asks for a power well sees it on, and so do the other requesters.
    rig.gpu.write(u64::from(address::POWER_WELLS[1]), 0b10);
    let wells = address::POWER_WELLS.map(|register| rig.gpu.read(register.into()));
    assert_eq!(wells, [0b01, 0b11, 0b01, 0b01]);
}

#[test]
fn the_aperture_shows_memory_through_the_global_gtt() {
    let rig = Rig::new(EngineKind::Render);
    rig.gpu.write_aperture(u64::from(SEQNO), &7u32.to_le_bytes());
    assert_eq!(rig.global(SEQNO), 7);
    let mut bytes = [1; 4];
    rig.gpu.read_aperture(u64::from(SEQNO), &mut bytes);
    assert_eq!(bytes, 7u32.to_le_bytes());
    rig.gpu.read_aperture(PAGES * 4096, &mut bytes);
    assert_eq!(bytes, [0; 4], "not mapped");
}

#[test]
fn a_message_is_a_write_to_the_eventfd() {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let mut rig = Rig::new(EngineKind::VideoEnhance);
    let message = File::from(event);
    rig.gpu.shared().interrupts.connect(Some(message.try_clone().unwrap()));
    rig.add_breadcrumb(0, 0, 1);
    rig.submit(&[0]);
    let mut count = [0; 8];
    std::io::Read::read_exact(&mut &message, &mut count).unwrap();
    assert!(u64::from_ne_bytes(count) >= 1);
}
