//! How fast the streamer and the blitter are, on memory that costs next to nothing:
//! `cargo run --release -p gpu-broker-soft-gpu --example speed`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use gpu_broker_soft_gpu::{
    Clock, EngineKind, EngineSpec, Memory, MemoryFault, Stop, Streamer, TIMESTAMP_HZ,
};

const BYTES: usize = 32 << 20;
const FROM: u32 = 16 << 20;
const TO: u32 = 1 << 20;

/// Memory from address 0 on.
struct Flat(Mutex<Vec<u8>>);

impl Flat {
    fn with<T>(
        &self,
        address: u64,
        len: usize,
        write: bool,
        then: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, MemoryFault> {
        let fault = MemoryFault { address, write };
        let start = usize::try_from(address).map_err(|_| fault)?;
        let mut bytes = self.0.lock().map_err(|_| fault)?;
        bytes.get_mut(start..start.saturating_add(len)).map(then).ok_or(fault)
    }
}

impl Memory for Flat {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        self.with(address, into.len(), false, |bytes| into.copy_from_slice(bytes))
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        self.with(address, from.len(), true, |bytes| bytes.copy_from_slice(from))
    }

    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Result<u32, MemoryFault> {
        self.with(address, 4, true, |bytes| {
            let mut word = [0; 4];
            word.copy_from_slice(bytes);
            let old = u32::from_le_bytes(word);
            bytes.copy_from_slice(&op(old).to_le_bytes());
            old
        })
    }

    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Result<u64, MemoryFault> {
        self.with(address, 8, true, |bytes| {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            let old = u64::from_le_bytes(word);
            bytes.copy_from_slice(&op(old).to_le_bytes());
            old
        })
    }
}

struct Wall(Instant);

impl Clock for Wall {
    fn ticks(&self) -> u64 {
        let ticks = self.0.elapsed().as_nanos() * u128::from(TIMESTAMP_HZ) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// The fastest of many repetitions for about half a second.
fn measure(memory: &Flat, batch: &[u32]) -> Duration {
    let bytes: Vec<u8> = batch.iter().flat_map(|dword| dword.to_le_bytes()).collect();
    let written = memory.write(0, &bytes);
    assert!(written.is_ok(), "the batch fits");
    let clock = Wall(Instant::now());
    let mut streamer = Streamer::new(&EngineSpec::of(EngineKind::Copy));
    let mut best = Duration::MAX;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        // Small batches many times, so that looking at the clock does not count.
        for _ in 0..16 {
            streamer.start(0, 0);
            let stop = streamer.run(memory, &clock, u32::MAX);
            assert_eq!(stop, Stop::Done);
        }
        best = best.min(start.elapsed() / 16);
    }
    best
}

fn commands(memory: &Flat, name: &str, command: &[u32]) {
    const COUNT: u32 = 1000;
    let mut batch: Vec<u32> = Vec::new();
    for _ in 0..COUNT {
        batch.extend(command);
    }
    batch.push(0x0500_0000);
    let each = measure(memory, &batch) / COUNT;
    println!("{name:<42} {:>7} ns each", each.as_nanos());
}

/// A blit of 1024 × 1024 pixels of 32 bits.
fn blit(memory: &Flat, name: &str, controls: &[u32], blit: &[u32]) {
    let mut batch = controls.to_vec();
    batch.extend(blit);
    batch.push(0x0500_0000);
    let each = measure(memory, &batch);
    let rate = f64::from(4u32 << 20) / each.as_secs_f64() / 1e6;
    println!("{name:<42} {rate:>7.0} MB/s");
}

fn main() {
    let memory = Flat(Mutex::new(vec![0; BYTES]));
    println!("{:<42} {:>7} ns", "empty batch", measure(&memory, &[0x0500_0000]).as_nanos());
    commands(&memory, "MI_NOOP", &[0]);
    commands(&memory, "MI_STORE_DATA_IMM, dword", &[0x1000_0002, TO, 0, 1]);
    commands(&memory, "MI_LOAD_REGISTER_IMM", &[0x1100_0001, 0x2_2600, 1]);
    commands(&memory, "MI_ATOMIC, increment", &[0x1780_0501, TO, 0]);
    commands(&memory, "MI_SEMAPHORE_WAIT, met", &[0x0e00_9002, 0, TO, 0]);
    commands(
        &memory,
        "MI_MATH, 4 instructions",
        &[0x0d00_0003, 0x0800_8000, 0x0800_8401, 0x1000_0000, 0x1800_0831],
    );
    let size = 0x0400_0400;
    let fill = |header: u32, controls: u32| [header, controls, 0, size, TO, 0, 0xdead_beef];
    let copy = |header: u32, controls: u32, pitch: u32| {
        [header, controls, 0, size, TO, 0, 0, pitch, FROM, 0]
    };
    let y_tiles = [0x1100_0001, 0x2_2200, 0x0003_0003];
    blit(&memory, "XY_COLOR_BLT, linear", &[], &fill(0x5430_0005, 0x03f0_1000));
    blit(&memory, "XY_COLOR_BLT, linear, wider pitch", &[], &fill(0x5430_0005, 0x03f0_1100));
    blit(&memory, "XY_COLOR_BLT, linear, xor", &[], &fill(0x5430_0005, 0x035a_1000));
    blit(&memory, "XY_COLOR_BLT, X tiled", &[], &fill(0x5430_0805, 0x03f0_0400));
    blit(&memory, "XY_COLOR_BLT, Y tiled", &y_tiles, &fill(0x5430_0805, 0x03f0_0400));
    blit(&memory, "XY_SRC_COPY_BLT, linear", &[], &copy(0x54f0_0008, 0x03cc_1000, 0x1000));
    blit(&memory, "XY_SRC_COPY_BLT, linear, xor", &[], &copy(0x54f0_0008, 0x0366_1000, 0x1000));
    blit(&memory, "XY_SRC_COPY_BLT, X tiled", &[], &copy(0x54f0_8808, 0x03cc_0400, 0x400));
    blit(&memory, "XY_SRC_COPY_BLT, Y tiled", &y_tiles, &copy(0x54f0_8808, 0x03cc_0400, 0x400));
    let to_y = copy(0x5080_4008, 0x0300_0400, 0x1000);
    blit(&memory, "XY_FAST_COPY_BLT, linear to Y tiled", &[], &to_y);
}
