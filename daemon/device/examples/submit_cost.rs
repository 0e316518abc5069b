//! What a submission to the software GPU costs: `cargo run --release -p gpu-broker-device --example
//! submit_cost`. Pin it to one core (`taskset -c 0`) for numbers that can be compared.

use std::sync::Arc;
use std::time::Instant;

use gpu_broker_device::soft::{Config, SoftDevice, SoftFile};
use gpu_broker_device::{
    Batch, ContextSpec, Device, DeviceEvent, DeviceFile, EngineId, EventSink, Object, Placement,
    Share, Submission,
};

const ROUNDS: u32 = 200_000;
const MI_BATCH_BUFFER_END: u32 = 0x0a << 23;
const RCS0: EngineId = EngineId { class: 0, instance: 0 };

struct Ignore;

impl EventSink for Ignore {
    fn report(&self, _event: DeviceEvent) {}
}

type Buffer = <SoftFile as DeviceFile>::Buffer;
type Context = <SoftFile as DeviceFile>::Context;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = SoftDevice::start(Config::default())?;
    let file = device.open(Arc::new(Ignore), Share::default())?;
    let vm = file.create_vm()?;
    let context = file.create_context(ContextSpec {
        tag: 1,
        vm: &vm,
        engines: None,
        priority: 0,
        recoverable: true,
        bannable: true,
        persistent: true,
        error_capture: true,
        single_timeline: false,
        low_latency: false,
        sseu: &[],
    })?;
    // To the end of the page, which is not executed.
    let store = [0x20 << 23 | 2, 0x1_0ffc, 0, 7];
    for stores in [0, 1, 8, 30] {
        let mut dwords = store.repeat(stores);
        dwords.push(MI_BATCH_BUFFER_END);
        let bytes: Vec<u8> = dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect();
        for count in [1, 16] {
            let buffers: Vec<Buffer> =
                (0..count).map(|_| file.create_buffer(4096)).collect::<Result<_, _>>()?;
            let (fd, offset) = file.share_buffer(&buffers[0])?;
            rustix::io::pwrite(&fd, &bytes, offset)?;
            let ns = measure(&file, &context, &buffers)?;
            println!("{stores:>3} MI_STORE_DATA_IMM, {count:>2} objects: {ns:>7.1} ns");
        }
    }
    cpu_time(&file, &context)
}

/// CPU time of the process per second: idle, and while a batch waits for a semaphore.
fn cpu_time(file: &SoftFile, context: &Context) -> Result<(), Box<dyn std::error::Error>> {
    let used = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let second = |what| {
        let before = used();
        std::thread::sleep(std::time::Duration::from_secs(1));
        let after = used();
        let ns = (after.tv_sec - before.tv_sec) * 1_000_000_000 + after.tv_nsec - before.tv_nsec;
        println!("{what}: {} us of CPU per second", ns / 1000);
    };
    second("idle");
    let buffer = file.create_buffer(4096)?;
    let (fd, offset) = file.share_buffer(&buffer)?;
    // MI_SEMAPHORE_WAIT until the last dword of the page is 1.
    let wait = [0x1c << 23 | 1 << 15 | 1 << 12 | 2, 1, 0x20_0ffc, 0, MI_BATCH_BUFFER_END, 0];
    let bytes: Vec<u8> = wait.iter().flat_map(|dword: &u32| dword.to_le_bytes()).collect();
    rustix::io::pwrite(&fd, &bytes, offset)?;
    let object = Object {
        buffer: &buffer,
        address: 0x20_0000,
        size: 4096,
        fresh: true,
        write: false,
        asynchronous: false,
        capture: false,
    };
    let submission = Submission {
        slot: 0,
        placement: Placement::One(RCS0),
        batches: &[Batch { address: 0x20_0000, length: 4096 }],
        objects: &[object],
        after: &[],
        along: &[],
        signals: &[],
        patches: &[],
        want_fence: false,
    };
    file.submit(context, submission)?;
    second("a batch waits for a semaphore");
    Ok(())
}

/// Nanoseconds per submission: the median of 21 runs.
fn measure(
    file: &SoftFile,
    context: &Context,
    buffers: &[Buffer],
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut runs = Vec::new();
    for run in 0..21 {
        let start = Instant::now();
        for round in 0..ROUNDS / 20 {
            let fresh = run == 0 && round == 0;
            let objects: Vec<_> = (1u64..)
                .zip(buffers)
                .map(|(index, buffer)| Object {
                    buffer,
                    address: 0x1_0000 * index,
                    size: 4096,
                    fresh,
                    write: index > 1,
                    asynchronous: false,
                    capture: false,
                })
                .collect();
            let submission = Submission {
                slot: 0,
                placement: Placement::One(RCS0),
                batches: &[Batch { address: 0x1_0000, length: 4096 }],
                objects: &objects,
                after: &[],
                along: &[],
                signals: &[],
                patches: &[],
                want_fence: false,
            };
            if file.submit(context, submission)?.done.is_none() && round > 100 {
                return Err("a short batch did not complete on the spot".into());
            }
        }
        runs.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS / 20));
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs[runs.len() / 2])
}
