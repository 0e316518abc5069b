//! Batches of Gen9 MI commands.

/// Commands.
#[derive(Clone, Default)]
pub(crate) struct Asm(Vec<u32>);

fn low(address: u64) -> u32 {
    u32::try_from(address & 0xffff_ffff).unwrap()
}

fn high(address: u64) -> u32 {
    u32::try_from(address >> 32).unwrap()
}

/// `MI_SEMAPHORE_WAIT` comparisons: memory on the left.
pub(crate) const GREATER_OR_EQUAL: u32 = 1;

impl Asm {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, dwords: &[u32]) -> Self {
        self.0.extend_from_slice(dwords);
        self
    }

    /// MI_STORE_DATA_IMM of a dword.
    pub(crate) fn store(self, address: u64, value: u32) -> Self {
        self.raw(&[0x20 << 23 | 2, low(address), high(address), value])
    }

    /// MI_COPY_MEM_MEM of a dword.
    pub(crate) fn copy(self, to: u64, from: u64) -> Self {
        self.raw(&[0x2e << 23 | 3, low(to), high(to), low(from), high(from)])
    }

    /// MI_ATOMIC, increment of a dword.
    pub(crate) fn increment(self, address: u64) -> Self {
        self.raw(&[0x2f << 23 | 0x05 << 8 | 1, low(address), high(address)])
    }

    /// MI_SEMAPHORE_WAIT until the dword is at least `value`.
    pub(crate) fn wait(self, address: u64, value: u32) -> Self {
        let poll = 1 << 15;
        self.raw(&[
            0x1c << 23 | poll | GREATER_OR_EQUAL << 12 | 2,
            value,
            low(address),
            high(address),
        ])
    }

    /// MI_ARB_ON_OFF.
    pub(crate) fn arbitration(self, on: bool) -> Self {
        self.raw(&[0x08 << 23 | u32::from(on)])
    }

    /// MI_ARB_CHECK.
    pub(crate) fn arb_check(self) -> Self {
        self.raw(&[0x05 << 23])
    }

    /// MI_LOAD_REGISTER_IMM.
    pub(crate) fn load_register(self, register: u32, value: u32) -> Self {
        self.raw(&[0x22 << 23 | 1, register, value])
    }

    /// MI_STORE_REGISTER_MEM.
    pub(crate) fn store_register(self, register: u32, address: u64) -> Self {
        self.raw(&[0x24 << 23 | 2, register, low(address), high(address)])
    }

    /// MI_BATCH_BUFFER_START in the same address space.
    pub(crate) fn jump(self, address: u64) -> Self {
        self.raw(&[0x31 << 23 | 1 << 8 | 1, low(address), high(address)])
    }

    /// MI_BATCH_BUFFER_END, and padding to a qword.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.push(0x0a << 23);
        self.unended()
    }

    /// What there is, padded to a qword.
    pub(crate) fn unended(mut self) -> Vec<u8> {
        if !self.0.len().is_multiple_of(2) {
            self.0.push(0);
        }
        self.0.iter().flat_map(|dword| dword.to_le_bytes()).collect()
    }
}
