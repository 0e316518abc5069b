#![expect(clippy::cast_possible_truncation, reason = "addresses and halves of test values fit")]

use proptest::prelude::*;

use super::{Compare, SemaphoreWait, Stop};
use crate::testing::{BATCH, Bench, DATA, TestClock, TestMemory};
use crate::{ENGINES, EngineKind, EngineSpec, Fault, FaultCause, MemoryFault, Streamer};

const D: u32 = 0x11_0000;

fn render() -> Bench {
    Bench::new(EngineKind::Render)
}

fn fault(stop: Stop) -> Fault {
    match stop {
        Stop::Fault(fault) => fault,
        Stop::Budget { .. } | Stop::Done | Stop::Waiting(_) => panic!("no fault but {stop:?}"),
    }
}

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
fn store_data_imm_stores_dwords_qwords_and_rows_of_them() {
    let mut bench = render();
    bench.complete(&[0x1020_0003, D, 0, 2, 1]);
    assert_eq!(bench.memory.qword(DATA), 0x1_0000_0002);
    // Three dwords, then two qwords, and half a qword that is not stored.
    bench.complete(&[0x1000_0004, D + 0x10, 0, 7, 8, 9]);
    assert_eq!([0, 4, 8, 12].map(|i| bench.memory.dword(DATA + 0x10 + i)), [7, 8, 9, 0]);
    bench.complete(&[0x1020_0006, D + 0x20, 0, 1, 2, 3, 4, 5]);
    assert_eq!(bench.memory.qword(DATA + 0x20), 0x2_0000_0001);
    assert_eq!(bench.memory.qword(DATA + 0x28), 0x4_0000_0003);
    assert_eq!(bench.memory.dword(DATA + 0x30), 0);
}

#[test]
fn the_longest_command_is_executed() {
    let mut bench = render();
    let mut batch = vec![0x1000_03ff, D, 0];
    batch.extend(1..=1022);
    bench.complete(&batch);
    assert_eq!(bench.memory.dword(DATA), 1);
    assert_eq!(bench.memory.dword(DATA + 1021 * 4), 1022);
}

#[test]
fn addresses_are_taken_without_their_sign() {
    let mut bench = render();
    bench.complete(&[0x1000_0002, D, 0xffff_0000, 5]);
    assert_eq!(bench.memory.dword(DATA), 5);
}

#[test]
fn copy_mem_mem_copies_a_dword() {
    let mut bench = render();
    bench.memory.put(DATA, &[11, 12]);
    bench.complete(&[0x1700_0003, D + 8, 0, D + 4, 0]);
    assert_eq!([0, 4, 8].map(|i| bench.memory.dword(DATA + i)), [11, 12, 12]);
}

#[test]
fn registers_move_between_batch_memory_and_each_other() {
    for (kind, base) in [(EngineKind::Render, 0x2000), (EngineKind::Copy, 0x2_2000)] {
        let mut bench = Bench::new(kind);
        bench.memory.put(DATA, &[0xabcd]);
        bench.complete(&[
            0x1100_0003,
            base + 0x600,
            1,
            base + 0x604,
            2, // R0 = 2:1
            0x1500_0001,
            base + 0x600,
            base + 0x60c, // R1 high = R0 low
            0x1480_0002,
            base + 0x608,
            D,
            0, // R1 low from memory
            0x1200_0002,
            base + 0x60c,
            D + 4,
            0, // R1 high to memory
        ]);
        assert_eq!(bench.general(0), 0x2_0000_0001);
        assert_eq!(bench.general(1), 0x1_0000_abcd);
        assert_eq!(bench.memory.dword(DATA + 4), 1);
    }
}

#[test]
fn registers_outlive_the_batch() {
    let mut bench = render();
    bench.complete(&[0x1100_0001, 0x2678, 9]);
    bench.complete(&[]);
    assert_eq!(bench.general(15), 9);
}

#[test]
fn register_bytes_can_be_disabled() {
    let mut bench = render();
    bench.complete(&[0x1100_0001, 0x2600, 0x1122_3344, 0x1100_0501, 0x2600, 0xaabb_ccdd]);
    assert_eq!(bench.general(0), 0xaa22_cc44);
}

#[test]
fn registers_a_client_may_not_write_are_filtered() {
    let mut bench = Bench::new(EngineKind::Copy);
    // RING_MI_MODE, the timestamp, a register of another engine.
    bench.complete(&[0x1100_0005, 0x2_209c, 1, 0x2_2358, 1, 0x2600, 1]);
    assert_eq!(bench.streamer.counters().filtered, 3);
    bench.complete(&[0x1200_0002, 0x2_209c, D, 0]);
    assert_eq!(bench.memory.dword(DATA), 0);
}

#[test]
fn timestamps_come_from_the_clock() {
    let mut bench = Bench::new(EngineKind::Video1);
    bench.clock.0.set(0xff_1234_5677);
    bench.complete(&[0x1200_0002, 0x1_c358, D, 0, 0x1200_0002, 0x1_c35c, D + 4, 0]);
    // 36 bits.
    assert_eq!([0, 4].map(|i| bench.memory.dword(DATA + i)), [0x1234_5678, 0xf]);
}

#[test]
fn context_timestamps_stand_still_between_runs() {
    let mut bench = render();
    let read = |to: u32| [0x1200_0002, 0x23a8, to, 0];
    bench.complete(&read(D));
    bench.clock.0.set(1_000_000);
    bench.complete(&read(D + 4));
    let ticks = [0, 4].map(|i| bench.memory.dword(DATA + i));
    assert!(ticks[1] > ticks[0] && ticks[1] < 100, "{ticks:?}");
}

#[test]
fn math_computes() {
    let load = |to: u32, from: u32| 0x080 << 20 | to << 10 | from;
    let store = |to: u32, from: u32| 0x180 << 20 | to << 10 | from;
    let run = |a: u64, b: u64, opcode: u32| {
        let mut bench = render();
        bench.memory.put(DATA, &[a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]);
        bench.complete(&[
            0x1480_0002,
            0x2600,
            D,
            0,
            0x1480_0002,
            0x2604,
            D + 4,
            0, //
            0x1480_0002,
            0x2608,
            D + 8,
            0,
            0x1480_0002,
            0x260c,
            D + 12,
            0, //
            0x0d00_0005,
            load(0x20, 0),
            load(0x21, 1),
            opcode << 20, //
            store(2, 0x31),
            store(3, 0x32),
            store(4, 0x33),
        ]);
        [2, 3, 4].map(|index| bench.general(index))
    };
    let (yes, no) = (u64::MAX, 0);
    let minus_one = u64::MAX;
    for (a, b, opcode, expected) in [
        (40, 2, 0x100, [42, no, no]),
        (minus_one, 1, 0x100, [0, yes, yes]),
        (1 << 32, minus_one, 0x100, [(1 << 32) - 1, no, yes]),
        (40, 2, 0x101, [38, no, no]),
        (2, 40, 0x101, [2u64.wrapping_sub(40), no, yes]),
        (7, 7, 0x101, [0, yes, no]),
        (0b1100, 0b1010, 0x102, [0b1000, no, no]),
        (0b1100, 0b0011, 0x102, [0, yes, no]),
        (0b1100, 0b1010, 0x103, [0b1110, no, no]),
        (0b1100, 0b1010, 0x104, [0b0110, no, no]),
    ] {
        assert_eq!(run(a, b, opcode), expected, "{a:#x} {opcode:#x} {b:#x}");
    }
}

#[test]
fn math_loads_constants_and_inverses() {
    let mut bench = render();
    let word = |opcode: u32, first: u32, second: u32| opcode << 20 | first << 10 | second;
    bench.complete(&[
        0x1100_0001,
        0x2600,
        5, //
        0x0d00_0009,
        word(0x480, 0x20, 0),
        word(0x081, 0x21, 0),
        word(0x100, 0, 0),    //
        word(0x180, 1, 0x31), // R1 = !R0 + 0
        word(0x081, 0x20, 0),
        word(0x481, 0x21, 0),
        word(0x100, 0, 0), //
        word(0x580, 2, 0x31),
        word(0x180, 3, 0x21),
        word(0, 0, 0), // R2 = !1, R3 = SRCB
    ]);
    assert_eq!([1, 2, 3].map(|i| bench.general(i)), [!5, !1, 1]);
    let stop = bench.run(&[0x0d00_0000, word(0x777, 0, 0)]);
    assert_eq!(fault(stop).what, FaultCause::Invalid { field: "ALU opcode", value: 0x777 });
}

#[test]
fn semaphores_compare_memory_with_data() {
    for (operation, memory, data, goes_on) in [
        (0, 5, 4, true),
        (0, 5, 5, false),
        (0, 0x8000_0000, 1, true),
        (1, 5, 5, true),
        (1, 4, 5, false),
        (2, 4, 5, true),
        (2, 5, 5, false),
        (3, 5, 5, true),
        (3, 6, 5, false),
        (4, 5, 5, true),
        (4, 4, 5, false),
        (5, 4, 5, true),
        (5, 5, 5, false),
    ] {
        let mut bench = render();
        bench.memory.put(DATA, &[memory]);
        let stop = bench.run(&[0x0e00_8002 | operation << 12, data, D, 0]);
        let case = format!("operation {operation}, memory {memory}, data {data}");
        assert_eq!(stop == Stop::Done, goes_on, "{case}");
        assert_eq!(matches!(stop, Stop::Waiting(_)), !goes_on, "{case}");
    }
}

#[test]
fn a_waiting_semaphore_sees_what_others_write() {
    let mut bench = render();
    let wait = SemaphoreWait { address: DATA, compare: Compare::Equal, data: 3, preemptible: true };
    assert_eq!(bench.run(&[0x0e00_c002, 3, D, 0]), Stop::Waiting(wait));
    assert_eq!(bench.resume(10), Stop::Waiting(wait));
    bench.memory.put(DATA, &[3]);
    assert_eq!(bench.resume(10), Stop::Done);
    // Arbitration off: the engine is held.
    let stop = bench.run(&[0x0400_0000, 0x0e00_c002, 4, D, 0]);
    assert_eq!(stop, Stop::Waiting(SemaphoreWait { data: 4, preemptible: false, ..wait }));
}

#[test]
fn atomics_compute() {
    let cases: [(u32, u64, u64, u64); 17] = [
        (1, 0b1100, 0b1010, 0b1000),
        (2, 0b1100, 0b1010, 0b1110),
        (3, 0b1100, 0b1010, 0b0110),
        (4, 1, 2, 2),
        (5, 1, 0, 2),
        (6, 1, 0, 0),
        (7, 40, 2, 42),
        (8, 40, 2, 38),
        (9, 40, 42, 2),
        (10, 1, 2, 2),
        (11, 1, 2, 1),
        (12, 3, 2, 3),
        (13, 3, 2, 2),
        (14, 7, 7, 99),
        (14, 7, 8, 7),
        (6, 0, 0, u64::MAX),
        (10, u64::MAX, 2, 2),
    ];
    for (opcode, memory, operand, expected) in cases {
        for wide in [false, true] {
            for inline in [false, true] {
                let mut bench = render();
                let (low, high) = (memory as u32, (memory >> 32) as u32);
                bench.memory.put(DATA, &[low, if wide { high } else { 0x5555 }]);
                let code = opcode + if wide { 0x20 } else { 0 };
                let header = 0x1781_0000 | code << 8 | u32::from(wide) << 19;
                let (first, second) = (operand as u32, 99);
                if inline {
                    let inline = [header | 1 << 18 | 9, D, 0, first, second, 0, 0, 0, 0, 0, 0];
                    bench.complete(&inline);
                } else {
                    bench.complete(&[0x1100_0003, 0x2600, first, 0x2610, second, header | 1, D, 0]);
                }
                let case = format!("opcode {code:#x}, inline {inline}, memory {memory:#x}");
                if wide {
                    assert_eq!(bench.memory.qword(DATA), expected, "{case}");
                    assert_eq!(bench.general(4), memory, "{case}");
                } else {
                    let result = [bench.memory.dword(DATA), bench.memory.dword(DATA + 4)];
                    assert_eq!(result, [expected as u32, 0x5555], "{case}");
                    assert_eq!(bench.general(4), u64::from(low), "{case}");
                }
            }
        }
    }
}

#[test]
fn the_short_atomic_of_drivers_increments() {
    let mut bench = render();
    bench.memory.put(DATA, &[u32::MAX]);
    bench.complete(&[0x1780_0501, D, 0]);
    assert_eq!(bench.memory.dword(DATA), 0);
}

#[test]
fn batches_jump_and_call() {
    let mut bench = render();
    let (second, third) = (BATCH as u32 + 0x1000, BATCH as u32 + 0x2000);
    // The second level stores 1, chains with bit 22 (still the second level), and returns.
    bench.memory.put(second.into(), &[0x1000_0002, D, 0, 1, 0x18c0_0101, third, 0]);
    bench.memory.put(third.into(), &[0x1000_0002, D + 4, 0, 2, 0x0500_0000]);
    bench.complete(&[0x18c0_0101, second, 0, 0x1000_0002, D + 8, 0, 3]);
    assert_eq!([0, 4, 8].map(|i| bench.memory.dword(DATA + i)), [1, 2, 3]);
    // Without bit 22 there is no way back.
    bench.memory.put(DATA, &[0, 0, 0]);
    bench.complete(&[0x1880_0001, second, 0, 0x1000_0002, D + 8, 0, 3]);
    assert_eq!([0, 8].map(|i| bench.memory.dword(DATA + i)), [1, 3 - 3]);
}

#[test]
fn a_jump_out_of_the_second_level_is_for_good() {
    let mut bench = render();
    let (second, third) = (BATCH as u32 + 0x1000, BATCH as u32 + 0x2000);
    bench.memory.put(second.into(), &[0x1880_0101, third, 0]);
    bench.memory.put(third.into(), &[0x0500_0000]);
    bench.complete(&[0x18c0_0101, second, 0, 0x1000_0002, D, 0, 3]);
    assert_eq!(bench.memory.dword(DATA), 0);
}

#[test]
fn jumps_can_be_predicated() {
    for (result, expected) in [(0, 7), (1, 0)] {
        let mut bench = render();
        let target = BATCH as u32 + 0x1000;
        bench.memory.put(target.into(), &[0x0500_0000]);
        bench.complete(&[
            0x1100_0001,
            0x241c,
            result,
            0x1880_8101,
            target,
            0,
            0x1000_0002,
            D,
            0,
            7,
        ]);
        assert_eq!(bench.memory.dword(DATA), expected, "result {result}");
    }
}

#[test]
fn conditional_end_goes_on_while_memory_is_greater() {
    for (memory, stored) in [(6, 1), (5, 0), (4, 0)] {
        let mut bench = render();
        bench.memory.put(DATA, &[memory]);
        bench.complete(&[0x1b20_0002, 5, D, 0, 0x1000_0002, D + 4, 0, 1]);
        assert_eq!(bench.memory.dword(DATA + 4), stored, "memory {memory}");
    }
    // With a mask in the low dword; without bit 21 there is no comparison.
    for (header, stored) in [(0x1b28_0002, 0), (0x1b20_0002, 1), (0x1b00_0002, 1)] {
        let mut bench = render();
        bench.memory.put(DATA, &[0x0f, 0xf0]);
        bench.complete(&[header, 0, D, 0, 0x1000_0002, D + 8, 0, 1]);
        assert_eq!(bench.memory.dword(DATA + 8), stored, "{header:#x}");
    }
}

#[test]
fn flushes_write_afterwards() {
    let mut bench = Bench::new(EngineKind::VideoEnhance);
    bench.memory.put(DATA, &[9, 9, 9, 9, 9, 9]);
    bench.complete(&[
        0x1300_4002,
        D,
        0,
        1, // a dword
        0x1300_4003,
        D + 8,
        0,
        2,
        3, // a qword
        0x1300_c183,
        D + 16,
        0,
        0,
        0, // the timestamp; a flag in bit 7, an interrupt
        0x1300_0001,
        0,
        0, // nothing
    ]);
    assert_eq!([0, 4, 8, 12].map(|i| bench.memory.dword(DATA + i)), [1, 9, 2, 3]);
    assert_eq!(bench.memory.qword(DATA + 16), 1);
    assert_eq!(bench.streamer.counters().interrupts, 1);

    let mut bench = render();
    bench.memory.put(DATA, &[9; 6]);
    bench.complete(&[
        0x7a00_0004,
        1 << 14,
        D,
        0,
        4,
        5, //
        0x7a00_0004,
        3 << 14,
        D + 8,
        0,
        0,
        0, //
        0x7a00_0004,
        2 << 14,
        D + 16,
        0,
        6,
        6,
    ]);
    let written = [0, 8, 16].map(|i| bench.memory.qword(DATA + i));
    assert_eq!(written, [0x5_0000_0004, 1, 0]);
}

#[test]
fn predicates_combine() {
    // Sources equal, then a false one combined by and, or, xor; loaded inverted.
    let load = |equal: bool| [0x1100_0003, 0x2400, 5, 0x2408, if equal { 5 } else { 6 }];
    for (second, inverted, expected) in
        [(0, 0, 0), (1 << 3, 0, 0), (2 << 3, 0, 1), (3 << 3, 0, 1), (1 << 3, 1 << 6, 1)]
    {
        let mut bench = render();
        let mut batch = load(true).to_vec();
        batch.push(0x0600_0000 | 2);
        batch.extend(load(false));
        batch.push(0x0600_0000 | 2 << 6 | inverted | second | 2);
        // A predicated store, and the register itself.
        batch.extend([0x1220_0002, 0x2400, D, 0, 0x1200_0002, 0x2418, D + 4, 0]);
        bench.complete(&batch);
        let found = [0, 4].map(|i| bench.memory.dword(DATA + i));
        assert_eq!(found, [5 * expected, expected], "second {second:#x} inverted {inverted:#x}");
    }
}

#[test]
fn set_predicate_inhibits_until_it_is_taken_back() {
    let store = |value: u32| [0x1000_0002, D, 0, value];
    for (mode, result_2, stored) in [(0, 0, 1), (1, 0, 9), (1, 1, 1), (2, 1, 9), (15, 0, 9)] {
        let mut bench = render();
        bench.memory.put(DATA, &[9]);
        let mut batch = vec![0x1100_0001, 0x23bc, result_2, 0x0080_0000 | mode];
        batch.extend(store(1));
        bench.complete(&batch);
        assert_eq!(bench.memory.dword(DATA), stored, "mode {mode}, result {result_2}");
        batch.push(0x0080_0000);
        batch.extend(store(2));
        bench.complete(&batch);
        assert_eq!(bench.memory.dword(DATA), 2, "mode {mode}, result {result_2}");
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
fn what_names_the_global_gtt_is_filtered() {
    let mut bench = render();
    bench.memory.put(DATA, &[9, 9]);
    bench.complete(&[
        0x1040_0002,
        D,
        0,
        1, // MI_STORE_DATA_IMM
        0x17c0_0501,
        D,
        0, // MI_ATOMIC
        0x1240_0002,
        0x2600,
        D,
        0, // MI_STORE_REGISTER_MEM
        0x1720_0003,
        D,
        0,
        D + 4,
        0, // MI_COPY_MEM_MEM, destination
        0x0e40_c002,
        1,
        D,
        0, // MI_SEMAPHORE_WAIT
        0x1300_4002,
        D | 4,
        0,
        1, // MI_FLUSH_DW
        0x7a00_0004,
        1 << 14 | 1 << 24,
        D,
        0,
        1,
        1, // PIPE_CONTROL
        0x1080_0001,
        0x100,
        1, // MI_STORE_DATA_INDEX
    ]);
    assert_eq!([0, 4].map(|i| bench.memory.dword(DATA + i)), [9, 9]);
    assert_eq!(bench.streamer.counters().filtered, 8);
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
    let stop = bench.run(&[0x1880_0101, BATCH as u32, 0]);
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
        assert_eq!(bench.resume(1000), Stop::Budget { arbitration: true });
        // By its condition, or by an MI_BATCH_BUFFER_END over its first command.
        bench.memory.put(if end { BATCH } else { BATCH + 8 }, &[if end { 0 } else { 0x0500_0000 }]);
        assert_eq!(bench.resume(1000), Stop::Done);
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
