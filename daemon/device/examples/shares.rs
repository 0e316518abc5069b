//! How sessions of unequal weight share an engine: each has three endless batches of the same
//! priority, and what each got is printed.
//!
//! `cargo run --release -p gpu-broker-device --example shares`

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gpu_broker_device::soft::{Config, SoftDevice};
use gpu_broker_device::{
    Batch, ContextSpec, Device, DeviceEvent, DeviceFile, EngineId, EventSink, Object, Placement,
    Share, Submission, Weight,
};

const WEIGHTS: [u32; 4] = [50, 100, 200, 400];
const TIME: Duration = Duration::from_secs(3);
const RCS0: EngineId = EngineId { class: 0, instance: 0 };
const BATCH: u32 = 0x1_0000;

struct Ignore;

impl EventSink for Ignore {
    fn report(&self, _event: DeviceEvent) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = SoftDevice::start(Config::default())?;
    // MI_ARB_CHECK, MI_STORE_DATA_IMM to the end of the page, MI_BATCH_BUFFER_START.
    let store = [0x1000_0002, BATCH + 0xffc, 0, 7];
    let commands = [&[0x0280_0000][..], &store.repeat(16), &[0x1880_0101, BATCH, 0]].concat();
    let bytes: Vec<u8> = commands.iter().flat_map(|dword: &u32| dword.to_le_bytes()).collect();
    let mut files = Vec::new();
    for weight in WEIGHTS {
        let file = device.open(Arc::new(Ignore), Share::new(Weight::new(weight)))?;
        let vm = file.create_vm()?;
        let buffer = file.create_buffer(4096)?;
        let (fd, offset) = file.share_buffer(&buffer)?;
        rustix::io::pwrite(&fd, &bytes, offset)?;
        let mut contexts = Vec::new();
        for tag in 0..3 {
            let context = file.create_context(ContextSpec {
                tag,
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
            let object = Object {
                buffer: &buffer,
                address: BATCH.into(),
                size: 4096,
                fresh: tag == 0,
                write: true,
                asynchronous: true,
                capture: false,
            };
            let submission = Submission {
                slot: 0,
                placement: Placement::One(RCS0),
                batches: &[Batch { address: BATCH.into(), length: 4096 }],
                objects: &[object],
                after: &[],
                along: &[],
                signals: &[],
                patches: &[],
                want_fence: false,
            };
            file.submit(&context, submission)?;
            contexts.push(context);
        }
        files.push((weight, file, contexts));
    }
    let times = || -> Vec<u64> { files.iter().map(|(_, f, _)| f.engine_times().0[0]).collect() };
    let before = times();
    thread::sleep(TIME);
    let had: Vec<u64> = times().iter().zip(before).map(|(now, before)| now - before).collect();
    let (all, weights): (u64, u32) = (had.iter().sum(), WEIGHTS.iter().sum());
    for ((weight, ..), had) in files.iter().zip(had) {
        let share = 100.0 * had as f64 / all as f64;
        let due = 100.0 * f64::from(*weight) / f64::from(weights);
        println!("weight {weight:>3}: {share:>5.1} % of the engine, {due:>5.1} % are due");
    }
    Ok(())
}
