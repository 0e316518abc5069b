//! The few Gen9 commands that the cross-crate tests need, written down apart from the client
//! library's encoder so that the two check each other.

/// A batch under construction.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    dwords: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Any dwords.
    #[must_use]
    pub fn raw(mut self, dwords: &[u32]) -> Self {
        self.dwords.extend_from_slice(dwords);
        self
    }

    /// MI_NOOP, `count` times.
    #[must_use]
    pub fn noops(mut self, count: usize) -> Self {
        self.dwords.resize(self.dwords.len() + count, 0);
        self
    }

    /// MI_ARB_CHECK: the batch may be preempted here.
    #[must_use]
    pub fn arbitration_point(self) -> Self {
        self.raw(&[0x0280_0000])
    }

    /// MI_STORE_DATA_IMM of one dword.
    #[must_use]
    pub fn store(self, address: u64, value: u32) -> Self {
        let (low, high) = halves(address);
        self.raw(&[0x1000_0002, low, high, value])
    }

    /// MI_COPY_MEM_MEM of one dword.
    #[must_use]
    pub fn copy(self, to: u64, from: u64) -> Self {
        let (to_low, to_high) = halves(to);
        let (from_low, from_high) = halves(from);
        self.raw(&[0x1700_0003, to_low, to_high, from_low, from_high])
    }

    /// MI_ATOMIC: adds 1 to a dword.
    #[must_use]
    pub fn increment(self, address: u64) -> Self {
        let (low, high) = halves(address);
        self.raw(&[0x1780_0501, low, high])
    }

    /// MI_LOAD_REGISTER_MEM.
    #[must_use]
    pub fn load_register(self, register: u32, from: u64) -> Self {
        let (low, high) = halves(from);
        self.raw(&[0x1480_0002, register, low, high])
    }

    /// MI_SEMAPHORE_WAIT, polling, until the dword at `address` equals `value`.
    #[must_use]
    pub fn wait_equal(self, address: u64, value: u32) -> Self {
        let (low, high) = halves(address);
        self.raw(&[0x0e00_c002, value, low, high])
    }

    /// MI_BATCH_BUFFER_START: goes on at `address`.
    #[must_use]
    pub fn jump(self, address: u64) -> Self {
        let (low, high) = halves(address);
        self.raw(&[0x1880_0101, low, high])
    }

    /// XY_COLOR_BLT of a rectangle at 32 bits per pixel; `pitch` in bytes.
    #[must_use]
    pub fn fill(self, to: u64, pitch: u16, width: u16, height: u16, colour: u32) -> Self {
        let (low, high) = halves(to);
        let corner = u32::from(height) << 16 | u32::from(width);
        self.raw(&[0x5430_0005, 0x03f0_0000 | u32::from(pitch), 0, corner, low, high, colour])
    }

    /// MI_BATCH_BUFFER_END, and MI_NOOP to a multiple of eight bytes.
    #[must_use]
    pub fn end(mut self) -> Self {
        self.dwords.push(0x0500_0000);
        if !self.dwords.len().is_multiple_of(2) {
            self.dwords.push(0);
        }
        self
    }

    /// As it goes into memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect()
    }
}

fn halves(address: u64) -> (u32, u32) {
    let low = u32::try_from(address & u64::from(u32::MAX)).expect("masked");
    let high = u32::try_from(address >> 32).expect("32 bits are left");
    (low, high)
}
