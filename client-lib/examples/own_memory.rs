//! 64 MiB of the program's own memory, changed by the GPU where it lies.
//!
//!     cargo run --release -p gpu-broker-client --example own_memory -- [SOCKET]
//!
//! Fills an image of 4096 by 4096 pixels, lets the blitter copy its left half over the right one and
//! invert the upper left quarter, and the render engine compute running sums of the last row with
//! MI_MATH; then looks at every pixel. Nothing copies the image: the last line says how many bytes
//! this process read and wrote by system calls.

use std::error::Error;
use std::time::Duration;

use gpu_broker_client::gen9::{
    Batch, Depth, ROP_FILL_XOR, Rectangle, Surface, alu, base, general_register,
};
use gpu_broker_client::protocol::param::{EngineId, class};
use gpu_broker_client::{Connection, GpuAccess, UserVec, default_socket_path};

/// Pixels of 4 bytes in a row, and rows.
const SIDE: u32 = 4096;
const PIXELS: usize = SIDE as usize * SIDE as usize;
const PITCH: u32 = 4 * SIDE;
/// Where the image lies for the GPU: it is our address space, so we choose.
const ADDRESS: u64 = 0x1000_0000;
const BLITTER: EngineId = EngineId { class: class::COPY, instance: 0 };
const RENDER: EngineId = EngineId { class: class::RENDER, instance: 0 };

fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::args_os().nth(1).map_or_else(default_socket_path, Into::into);
    let broker = Connection::connect(socket, "own_memory")?;
    let context = broker.context().engines(&[BLITTER, RENDER]).create()?;

    let mut image = UserVec::<u32>::with_capacity(PIXELS)?;
    image.resize(PIXELS, 0)?;
    for (pixel, value) in (0..).zip(image.iter_mut()) {
        *value = original(pixel);
    }
    let length = image.len();
    let memory = image.into_memory().ok_or("an image has memory")?;
    let mut buffer = memory.register(&broker, GpuAccess::ReadWrite)?;

    // Both use the image, so the second waits for the first.
    for (slot, commands) in [(0, blits()), (1, sums())] {
        let batch = broker.create_buffer(commands.bytes())?;
        batch.map()?.write_dwords(0, commands.dwords())?;
        let work = context.execbuf().engine(slot).object_at(&buffer, ADDRESS).write();
        work.batch(&batch).submit()?;
    }

    // Waits for both, and keeps the GPU away while we look. The pixels are where they were.
    let pixels = buffer.cpu(Some(Duration::from_secs(60)))?;
    check(pixels.as_slice())?;
    drop(pixels);
    let image = UserVec::<u32>::from_memory(buffer.unregister(None)?, length)?;
    println!("{} MiB changed in place, every pixel is right", (image.len() * 4) >> 20);
    let (read, written) = system_call_bytes()?;
    println!("this process read {read} and wrote {written} bytes by system calls");
    Ok(())
}

/// What pixel `index` is at first.
fn original(index: u32) -> u32 {
    index.wrapping_mul(0x9e37_79b1)
}

fn blits() -> Batch {
    let image = Surface::linear(ADDRESS, PITCH);
    let mut batch = Batch::new();
    let right_half = Rectangle::new(2048, 0, 4096, 4096);
    batch.src_copy(&image, right_half, &image, (0, 0), Depth::Bits8888);
    let quarter = Rectangle::new(0, 0, 2048, 2048);
    batch.color_blt_with(&image, quarter, Depth::Bits8888, u32::MAX, ROP_FILL_XOR);
    batch.end();
    batch
}

/// Each pixel of the last row becomes the sum of itself and all before it.
fn sums() -> Batch {
    let [sum, pixel] = [0, 1];
    let register = |index| general_register(base::RENDER, index);
    let add = [
        alu::load(alu::SRCA, sum),
        alu::load(alu::SRCB, pixel),
        alu::ADD,
        alu::store(sum, alu::ACCU),
    ];
    let mut batch = Batch::new();
    for half in [register(sum), register(sum) + 4, register(pixel) + 4] {
        batch.load_register(half, 0);
    }
    for column in 0..SIDE {
        let place = ADDRESS + u64::from((SIDE - 1) * SIDE + column) * 4;
        batch.load_register_from(register(pixel), place).math(&add);
        batch.store_register(register(sum), place);
    }
    batch.end();
    batch
}

fn check(pixels: &[u32]) -> Result<(), String> {
    let mut sum = 0_u32;
    for (index, found) in (0..).zip(pixels) {
        let (row, column) = (index / SIDE, index % SIDE);
        // The right half is a copy of the left one as it was.
        let copied = original(row * SIDE + column % 2048);
        let expected = match (row, column) {
            (0..2048, 0..2048) => !copied,
            (4095, _) => {
                sum = sum.wrapping_add(copied);
                sum
            }
            _ => copied,
        };
        if *found != expected {
            return Err(format!("pixel {column}, {row} is {found:#x}, not {expected:#x}"));
        }
    }
    Ok(())
}

/// What `read(2)` and `write(2)` and their like have moved so far, both ways.
fn system_call_bytes() -> Result<(u64, u64), Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let number = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|number| number.trim().parse().ok()).ok_or("/proc/self/io is incomplete")
    };
    Ok((number("rchar:")?, number("wchar:")?))
}
