//! Memory, a clock and a runner for tests.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Mutex;

use crate::{Clock, EngineKind, EngineSpec, Fault, Memory, MemoryFault, Stop, Streamer};

/// One mapped range; everything else faults.
pub(crate) struct TestMemory {
    base: u64,
    bytes: Mutex<Vec<u8>>,
}

impl TestMemory {
    pub(crate) fn new(base: u64, size: usize) -> Self {
        Self { base, bytes: Mutex::new(vec![0; size]) }
    }

    pub(crate) fn of(base: u64, bytes: Vec<u8>) -> Self {
        Self { base, bytes: Mutex::new(bytes) }
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    pub(crate) fn put(&self, address: u64, dwords: &[u32]) {
        let bytes: Vec<u8> = dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect();
        self.write(address, &bytes).unwrap();
    }

    pub(crate) fn dword(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn qword(&self, address: u64) -> u64 {
        u64::from(self.dword(address)) | u64::from(self.dword(address + 4)) << 32
    }

    fn range(&self, address: u64, len: usize, write: bool) -> Result<Range<usize>, MemoryFault> {
        assert!(address < 1 << 48, "the streamer takes bits 47:0");
        let fault = MemoryFault { address, write };
        let size = self.bytes.lock().unwrap().len();
        let start = address.checked_sub(self.base).ok_or(fault)?;
        let start = usize::try_from(start).map_err(|_| fault)?;
        let end = start.checked_add(len).filter(|end| *end <= size).ok_or(fault)?;
        Ok(start..end)
    }
}

impl Memory for TestMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        let range = self.range(address, into.len(), false)?;
        into.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        let range = self.range(address, from.len(), true)?;
        self.bytes.lock().unwrap()[range].copy_from_slice(from);
        Ok(())
    }

    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Result<u32, MemoryFault> {
        assert_eq!(address % 4, 0, "the streamer aligns atomics");
        let range = self.range(address, 4, true)?;
        let mut bytes = self.bytes.lock().unwrap();
        let old = u32::from_le_bytes(bytes[range.clone()].try_into().unwrap());
        bytes[range].copy_from_slice(&op(old).to_le_bytes());
        Ok(old)
    }

    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Result<u64, MemoryFault> {
        assert_eq!(address % 8, 0, "the streamer aligns atomics");
        let range = self.range(address, 8, true)?;
        let mut bytes = self.bytes.lock().unwrap();
        let old = u64::from_le_bytes(bytes[range.clone()].try_into().unwrap());
        bytes[range].copy_from_slice(&op(old).to_le_bytes());
        Ok(old)
    }
}

/// A clock that moves on by one tick whenever somebody looks.
#[derive(Default)]
pub(crate) struct TestClock(pub(crate) Cell<u64>);

impl Clock for TestClock {
    fn ticks(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// Where batches of [`Bench::run`] start, and the memory that they can use.
pub(crate) const BATCH: u64 = 0x10_0000;
pub(crate) const DATA: u64 = 0x11_0000;
/// [`DATA`] as an operand.
pub(crate) const D: u32 = 0x11_0000;

/// An engine with memory from [`BATCH`] on.
pub(crate) struct Bench {
    pub(crate) memory: TestMemory,
    pub(crate) clock: TestClock,
    pub(crate) streamer: Streamer,
}

impl Bench {
    pub(crate) fn new(kind: EngineKind) -> Self {
        Self {
            memory: TestMemory::new(BATCH, 0x2_0000),
            clock: TestClock::default(),
            streamer: Streamer::new(&EngineSpec::of(kind)),
        }
    }

    /// Runs a batch, to which MI_BATCH_BUFFER_END is added, with a generous budget.
    pub(crate) fn run(&mut self, dwords: &[u32]) -> Stop {
        let mut batch = dwords.to_vec();
        batch.push(0x0500_0000);
        self.memory.put(BATCH, &batch);
        self.streamer.start(BATCH, batch.len() as u64 * 4);
        self.resume(100_000)
    }

    pub(crate) fn resume(&mut self, budget: u32) -> Stop {
        self.streamer.run(&self.memory, &self.clock, budget)
    }

    /// Runs a batch to its end.
    pub(crate) fn complete(&mut self, dwords: &[u32]) {
        assert_eq!(self.run(dwords), Stop::Done);
    }

    pub(crate) fn general(&self, index: usize) -> u64 {
        self.streamer.registers().general(index)
    }
}

/// A render engine.
pub(crate) fn render() -> Bench {
    Bench::new(EngineKind::Render)
}

/// The fault that ended a run.
pub(crate) fn fault(stop: Stop) -> Fault {
    match stop {
        Stop::Fault(fault) => fault,
        Stop::Budget { .. } | Stop::Done | Stop::Waiting(_) | Stop::Spinning { .. } => {
            panic!("no fault but {stop:?}")
        }
    }
}
