#![expect(clippy::cast_possible_truncation, reason = "addresses and halves of test values fit")]

use proptest::prelude::*;

use crate::testing::{BATCH, Bench, D, DATA, TestClock, TestMemory, fault, render};
use crate::{ENGINES, EngineKind, EngineSpec, FaultCause, Memory, MemoryFault, Stop, Streamer};

#[test]
fn an_empty_batch_ends_and_stays_ended() {
    let mut bench = render();
    assert_eq!(bench.run(&[]), Stop::Done);
    assert_eq!(bench.resume(10), Stop::Done);
    assert_eq!(bench.streamer.counters().commands, 1);
}

#[test]
fn every_engine_executes_mi_commands() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine.kind);
        bench.complete(&[0x1000_0002, D, 0, 0x600d]);
        assert_eq!(bench.memory.dword(DATA), 0x600d, "{}", engine.name);
    }
}

#[test]
fn a_batch_can_rewrite_itself() {
    let mut bench = render();
    let victim = BATCH as u32 + 20;
    // The MI_STORE_DATA_IMM at the victim's place becomes MI_NOOPs before it is executed.
    let mut batch = vec![0x1020_0003, victim + 4, 0, 0, 0, 0];
    batch[1] = BATCH as u32 + 24;
    batch.extend([0x1000_0002, D, 0, 1]);
    batch[5] = 0;
    bench.complete(&batch);
    assert_eq!(bench.memory.dword(DATA), 0);
}

#[test]
fn what_the_cpu_writes_ahead_shows_up_in_the_next_run() {
    let mut bench = render();
    bench.memory.put(BATCH, &[0; 64]);
    bench.streamer.start(BATCH, 0);
    assert_eq!(bench.resume(2), Stop::Budget { arbitration: false });
    bench.memory.put(BATCH + 8, &[0x0500_0000]);
    assert_eq!(bench.resume(1), Stop::Done);
}

/// Memory that shows up a second time, 16 MiB higher.
struct Aliased(TestMemory);

const ALIAS: u64 = 0x100_0000;

impl Memory for Aliased {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        self.0.read(address & !ALIAS, into)
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        self.0.write(address & !ALIAS, from)
    }

    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Result<u32, MemoryFault> {
        self.0.update_u32(address & !ALIAS, op)
    }

    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Result<u64, MemoryFault> {
        self.0.update_u64(address & !ALIAS, op)
    }
}

#[test]
fn jumps_read_anew() {
    let memory = Aliased(TestMemory::new(BATCH, 0x1000));
    // The first command becomes MI_BATCH_BUFFER_END through the other address; then back to it.
    let (here, there) = (BATCH as u32, (BATCH | ALIAS) as u32);
    memory.0.put(BATCH, &[0, 0x1000_0002, there, 0, 0x0500_0000, 0x1880_0101, here, 0]);
    let mut streamer = Streamer::new(&EngineSpec::of(EngineKind::Render));
    streamer.start(BATCH, 0);
    assert_eq!(streamer.run(&memory, &TestClock::default(), 100), Stop::Done);
}

#[test]
fn pipeline_commands_are_skipped_by_length() {
    let mut bench = render();
    // The operands would be faults if they were taken for commands.
    bench.complete(&[
        0x6904_0003, // PIPELINE_SELECT, one dword
        0x6101_0002,
        0xffff_ffff,
        0xffff_ffff,
        0xffff_ffff, // STATE_BASE_ADDRESS
        0x7000_0001,
        0xffff_ffff,
        0xffff_ffff, // MEDIA_VFE_STATE
        0x7b00_0001,
        0xffff_ffff,
        0xffff_ffff, // 3DPRIMITIVE
    ]);
    assert_eq!(bench.streamer.counters().skipped, 4);
    assert_eq!(bench.streamer.counters().commands, 5);
}

#[test]
fn commands_belong_to_engines() {
    for (kind, header, engine) in [
        (EngineKind::Render, 0x5430_0005, "rcs0"),
        (EngineKind::Copy, 0x7a00_0004, "bcs0"),
        (EngineKind::Video0, 0x7b00_0005, "vcs0"),
    ] {
        let fault = fault(Bench::new(kind).run(&[header, 0, 0, 0, 0, 0, 0]));
        assert_eq!(fault.what, FaultCause::WrongEngine { engine });
    }
    Bench::new(EngineKind::Video0).complete(&[0x7000_0000, 0xffff_ffff]);
}

#[test]
fn faults_say_what_where_and_why() {
    let check = |batch: &[u32], text: &str| {
        let fault = fault(render().run(batch));
        assert_eq!(fault.to_string(), text);
    };
    check(
        &[0, 0x1000_0002, 0x7000, 0, 1],
        "MI_STORE_DATA_IMM at 0x100004: write to 0x7000, which is not mapped",
    );
    check(
        &[0x1000_0001, D, 0],
        "MI_STORE_DATA_IMM at 0x100000: its length is 3 dwords, its operands need 4",
    );
    check(
        &[0x1020_0003, D + 4, 0, 0, 0],
        "MI_STORE_DATA_IMM at 0x100000: address 0x110004 is not a multiple of 8",
    );
    check(&[0x1f80_0000], "unknown MI command at 0x100000: no command starts with 0x1f800000");
    check(&[0xe000_0000], "unknown command at 0x100000: no command starts with 0xe0000000");
    check(
        &[0x0e00_e002, 0, D, 0],
        "MI_SEMAPHORE_WAIT at 0x100000: compare operation cannot be 0x6",
    );
    check(
        &[0x1790_0501, D, 0],
        "MI_ATOMIC at 0x100000: the software GPU does not know atomics of sixteen bytes",
    );
}

#[test]
fn a_batch_without_end_is_explained() {
    let mut bench = render();
    bench.memory.put(BATCH, &[0, 0, 0xffff_ffff]);
    bench.streamer.start(BATCH, 8);
    let found = fault(bench.resume(100));
    assert_eq!(found.what, FaultCause::PastEnd { length: 8 });
    assert_eq!(found.address, BATCH + 8);
    // Into memory that is not mapped, with no length known.
    bench.streamer.start(BATCH + 0x2_0000 - 4, 0);
    let found = fault(bench.resume(100));
    assert_eq!(found.address, BATCH + 0x2_0000);
    let unmapped = MemoryFault { address: BATCH + 0x2_0000, write: false };
    assert_eq!(found.what, FaultCause::Unmapped(unmapped));
    assert_eq!(bench.resume(100), Stop::Done);
}

#[test]
fn endless_loops_use_up_their_budget() {
    let mut bench = render();
    let stop = bench.run(&[0x1000_0002, D, 0, 1, 0x1880_0101, BATCH as u32, 0]);
    assert_eq!(stop, Stop::Budget { arbitration: false });
    let before = bench.streamer.counters().commands;
    assert_eq!(bench.resume(7), Stop::Budget { arbitration: false });
    assert_eq!(bench.streamer.counters().commands, before + 7);
    assert_eq!(bench.resume(0), Stop::Budget { arbitration: false });
    assert_eq!(bench.streamer.counters().commands, before + 8);
}

#[test]
fn the_cpu_ends_a_spinner() {
    for end in [true, false] {
        let mut bench = render();
        let looped = BATCH as u32 + 8;
        bench.memory.put(BATCH, &[0xffff_ffff, 0, 0x0280_0000]);
        bench.memory.put(BATCH + 12, &[0x1b20_0002, 0, BATCH as u32, 0, 0x1880_0101, looped, 0]);
        bench.streamer.start(BATCH + 8, 0);
        for _ in 0..3 {
            assert_eq!(bench.resume(1000), Stop::Spinning { arbitration: true });
        }
        // By its condition, or by an MI_BATCH_BUFFER_END over its first command.
        bench.memory.put(if end { BATCH } else { BATCH + 8 }, &[if end { 0 } else { 0x0500_0000 }]);
        assert_eq!(bench.resume(1000), Stop::Done);
    }
}

/// A loop may nap if nothing in it does anything, and be set aside then if it has an arbitration
/// point that counts.
#[test]
fn only_a_loop_that_changes_nothing_spins() {
    let jump = [0x1880_0101, BATCH as u32, 0];
    let spinning = |arbitration| Stop::Spinning { arbitration };
    let budget = |arbitration| Stop::Budget { arbitration };
    for (round, expected) in [
        (&[][..], spinning(false)),
        (&[0; 40], spinning(false)),
        (&[0, 0x0280_0000, 0], spinning(true)),
        // MI_SEMAPHORE_WAIT that is met, a point of arbitration too.
        (&[0x0e00_c002, 0, D, 0], spinning(true)),
        (&[0x1b20_0002, 0, BATCH as u32, 0, 0x0280_0000], spinning(true)),
        // Commands that write: memory, registers, the state of the engine.
        (&[0x0280_0000, 0x1000_0002, D, 0, 1], budget(false)),
        (&[0x1100_0001, 0x2600, 1], budget(false)),
        (&[0x1480_0002, 0x2600, D, 0], budget(false)),
        (&[0x0400_0000, 0x0280_0000], budget(false)),
    ] {
        let mut bench = render();
        let stop = bench.run(&[round, &jump].concat());
        assert_eq!(std::mem::discriminant(&stop), std::mem::discriminant(&expected), "{round:x?}");
        if matches!(expected, Stop::Spinning { .. }) {
            assert_eq!(stop, expected, "{round:x?}");
            let before = bench.streamer.counters().commands;
            assert_eq!(bench.resume(1000), expected);
            let executed = bench.streamer.counters().commands - before;
            assert!(executed <= 41, "{executed} commands for one round");
        }
    }
}

#[test]
fn arbitration_points_yield_if_they_may() {
    let mut bench = render();
    bench.streamer.set_yielding(true);
    let batch = [0, 0, 0x0280_0000, 0x0400_0000, 0x0280_0000, 0x0400_0001, 0];
    assert_eq!(bench.run(&batch), Stop::Budget { arbitration: true });
    assert_eq!(bench.streamer.position(), BATCH + 12);
    // Off at 12, so the check at 16 does not count; on again at 20 does.
    assert_eq!(bench.resume(100), Stop::Budget { arbitration: true });
    assert_eq!(bench.streamer.position(), BATCH + 24);
    assert_eq!(bench.resume(100), Stop::Done);
    // A used-up budget says whether the last command was a point.
    bench.streamer.set_yielding(false);
    bench.run(&[]);
    bench.memory.put(BATCH, &[0x0280_0000, 0]);
    bench.streamer.start(BATCH, 0);
    assert_eq!(bench.resume(1), Stop::Budget { arbitration: true });
    assert_eq!(bench.resume(1), Stop::Budget { arbitration: false });
}

/// Dwords that look like commands often enough to get somewhere.
fn command_like() -> impl Strategy<Value = u32> {
    let headers = vec![
        0x1000_0002,
        0x1020_0003,
        0x1000_03ff,
        0x1100_0001,
        0x1100_00ff,
        0x1480_0002,
        0x1200_0002,
        0x1500_0001,
        0x0d00_0003,
        0x0e00_c002,
        0x1780_0501,
        0x1784_0709,
        0x17ac_2e09,
        0x1700_0003,
        0x1880_0101,
        0x18c0_0101,
        0x1b20_0002,
        0x1300_4003,
        0x7a00_0004,
        0x5430_0005,
        0x54f0_0008,
        0x5430_0805,
        0x54f0_8808,
        0x5080_0008,
        0x5090_2008,
        0x40c0_0001,
        0x0280_0000,
        0x0500_0000,
        0x0600_0082,
        0x0080_0001,
        0x0400_0000,
        0x0400_0001,
        0x6904_0000,
        0x7105_000d,
    ];
    prop_oneof![
        4 => proptest::sample::select(headers),
        2 => (0u32..0x2_0000).prop_map(|offset| BATCH as u32 + (offset & !0x3f)),
        2 => 0u32..64,
        2 => (0u32..0x7f, 0u32..0x7f).prop_map(|(y, x)| y << 16 | x),
        1 => (0x2_2000u32..0x2_2800).prop_map(|register| register & !3),
        1 => (0u32..0x8000).prop_map(|low| 0x03cc_0000 | low),
        1 => any::<u32>(),
    ]
}

proptest! {
    /// Whatever is in memory, every run comes back, nothing panics, and no run executes much more
    /// than its budget.
    #[test]
    fn any_memory_is_survived(
        engine in 0usize..5,
        dwords in proptest::collection::vec(command_like(), 0x400),
        budgets in proptest::collection::vec(0u32..400, 12),
    ) {
        let memory = TestMemory::new(BATCH, 0x2_0000);
        memory.put(BATCH, &dwords);
        memory.put(BATCH + 0x8000, &dwords);
        let clock = TestClock::default();
        let mut streamer = Streamer::new(&EngineSpec::of(ENGINES[engine].kind));
        streamer.start(BATCH, 0x1000);
        for budget in budgets {
            let before = streamer.counters().commands;
            let stop = streamer.run(&memory, &clock, budget);
            let commands = streamer.counters().commands - before;
            prop_assert!(commands <= u64::from(budget) + 1, "{commands} for {budget}");
            if matches!(stop, Stop::Done | Stop::Fault(_)) {
                streamer.start(BATCH + u64::from(budget) * 8, 0);
            }
        }
    }
}
