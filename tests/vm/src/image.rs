//! A context's image in memory: what the engine loads when a context runs and saves when another
//! one does. The status page comes first, then the page with the registers.

use gpu_broker_soft_gpu::ring::{Position, REGISTER_IMAGE_DWORDS, Ring};
use gpu_broker_soft_gpu::{Memory, MemoryFault};

use crate::memory::PAGE;
use crate::mmio::{Kind, Registers};

/// Dwords of the register page.
const DWORDS: usize = 1024;

/// Dwords of the register page that have a fixed place.
mod dword {
    pub(super) const CONTROL: usize = 0x03;
    pub(super) const HEAD: usize = 0x05;
    pub(super) const TAIL: usize = 0x07;
    pub(super) const START: usize = 0x09;
    pub(super) const RING_CONTROL: usize = 0x0b;
    pub(super) const BATCH_HIGH: usize = 0x0d;
    pub(super) const BATCH_LOW: usize = 0x0f;
    pub(super) const BATCH_STATE: usize = 0x11;
    pub(super) const SECOND_HIGH: usize = 0x13;
    pub(super) const SECOND_LOW: usize = 0x15;
    pub(super) const TIMESTAMP: usize = 0x23;
    pub(super) const ROOT_HIGH: usize = 0x31;
    pub(super) const ROOT_LOW: usize = 0x33;
    /// The context's registers that the streamer holds. The driver writes nothing there, and copies
    /// it with the rest when it makes new contexts like the first.
    pub(super) const STREAMER: usize = 0x300;
}

/// CTX_CONTROL: the registers in the image mean nothing yet.
const RESTORE_INHIBIT: u32 = 1;
/// Of a batch address: there is one.
const VALID: u32 = 1;
/// BB_STATE: the batch is in the PPGTT.
const STATE_CLIENT: u32 = 1 << 5;

/// MI_LOAD_REGISTER_IMM with the bit that all lists of registers have set.
const LIST: u32 = 0x1100_0000 | 1 << 12;
const LIST_MASK: u32 = 0x1f80_0000 | 1 << 12;
const BATCH_END: u32 = 0x0500_0000;

/// Offsets from an engine's base of listed registers that have a place of their own, are the
/// streamer's, or must not be restored: RING_HEAD and its like, batch addresses, the page table
/// roots, timestamps, workaround batches.
const UNLISTED: &[(u32, u32)] = &[
    (0x30, 0x3c),
    (0x9c, 0x9c),
    (0xc8, 0xc8),
    (0x110, 0x11c),
    (0x140, 0x140),
    (0x168, 0x168),
    (0x1c0, 0x1c8),
    (0x244, 0x244),
    (0x270, 0x28c),
    (0x358, 0x35c),
    (0x3a8, 0x3a8),
    (0x400, 0x41c),
    (0x600, 0x67c),
];

/// The register page of a context, copied.
#[derive(Debug)]
pub struct Image {
    /// GGTT address of the status page.
    address: u64,
    dwords: Vec<u32>,
}

impl Image {
    /// Reads the image at a GGTT address.
    ///
    /// # Errors
    /// It is not mapped.
    pub fn read(global: &dyn Memory, address: u64) -> Result<Self, MemoryFault> {
        let mut bytes = vec![0; DWORDS * 4];
        global.read(address + PAGE, &mut bytes)?;
        let dwords = bytes.as_chunks::<4>().0.iter().map(|dword| u32::from_le_bytes(*dword));
        Ok(Self { address, dwords: dwords.collect() })
    }

    /// The tail alone: all that the driver changes while a context runs.
    ///
    /// # Errors
    /// The image is not mapped.
    pub fn read_tail(global: &dyn Memory, address: u64) -> Result<u32, MemoryFault> {
        let mut bytes = [0; 4];
        global.read(address + PAGE + dword::TAIL as u64 * 4, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes) & 0x1f_fff8)
    }

    fn get(&self, index: usize) -> u32 {
        self.dwords.get(index).copied().unwrap_or(0)
    }

    fn wide(&self, high: usize, low: usize) -> u64 {
        u64::from(self.get(high) & 0xffff) << 32 | u64::from(self.get(low))
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> Ring {
        Ring {
            start: (self.get(dword::START) & !0xfff).into(),
            size: (self.get(dword::RING_CONTROL) & 0x1f_f000) + 4096,
            tail: self.get(dword::TAIL) & 0x1f_fff8,
        }
    }

    /// RING_CTL.
    #[must_use]
    pub fn ring_control(&self) -> u32 {
        self.get(dword::RING_CONTROL)
    }

    /// Guest-physical address of the topmost page table.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.wide(dword::ROOT_HIGH, dword::ROOT_LOW)
    }

    /// Where the context is. One whose registers mean nothing is never in a batch.
    #[must_use]
    pub fn position(&self) -> Position {
        let batch = |high, low| {
            let address = self.wide(high, low);
            (!self.is_new() && address & 1 != 0).then_some(address & !3)
        };
        let first = batch(dword::BATCH_HIGH, dword::BATCH_LOW);
        Position {
            head: self.get(dword::HEAD) & 0x1f_fffc,
            batch: first,
            second: first.and_then(|_| batch(dword::SECOND_HIGH, dword::SECOND_LOW)),
            client: self.get(dword::BATCH_STATE) & STATE_CLIENT != 0,
        }
    }

    /// The context has never run: its registers are not to be restored.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.get(dword::CONTROL) & RESTORE_INHIBIT != 0
    }

    /// CTX_TIMESTAMP.
    #[must_use]
    pub fn timestamp(&self) -> u32 {
        self.get(dword::TIMESTAMP)
    }

    /// What the streamer holds.
    #[must_use]
    pub fn streamer(&self) -> &[u32] {
        self.dwords.get(dword::STREAMER..).unwrap_or_default()
    }

    /// (register, index of its value) of all lists in the page that are to be restored. `base` is
    /// the engine's.
    pub fn listed(&self, base: u32) -> Vec<(u32, usize)> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(&header) = self.dwords.get(at) {
            if header == BATCH_END {
                break;
            }
            if header & LIST_MASK != LIST {
                at += 1;
                continue;
            }
            let pairs = (header as usize & 0xff).div_ceil(2);
            for pair in 0..pairs {
                let index = at + 1 + 2 * pair;
                let register = self.get(index) & 0x7f_fffc;
                let own = register.wrapping_sub(base);
                if !UNLISTED.iter().any(|&(first, last)| (first..=last).contains(&own)) {
                    found.push((register, index + 1));
                }
            }
            at += 1 + 2 * pairs;
        }
        found
    }

    /// Loads the listed registers.
    pub fn restore_listed(&self, base: u32, registers: &Registers) {
        for (register, index) in self.listed(base) {
            registers.write(register, self.get(index));
        }
    }

    /// Writes a context that was set aside back to memory: its position, its registers, and that
    /// they mean something. Never its tail, which is the driver's.
    ///
    /// # Errors
    /// The image is not mapped.
    pub fn save(
        mut self,
        global: &dyn Memory,
        base: u32,
        saved: &Saved<'_>,
    ) -> Result<(), MemoryFault> {
        let control = self.get(dword::CONTROL) & !RESTORE_INHIBIT;
        let Position { head, batch, second, client } = saved.position;
        let [batch_high, batch_low] = address(batch);
        let [second_high, second_low] = address(second);
        let mut changes = vec![
            (dword::CONTROL, control),
            (dword::HEAD, head),
            (dword::BATCH_HIGH, batch_high),
            (dword::BATCH_LOW, batch_low),
            (dword::BATCH_STATE, if client { STATE_CLIENT } else { 0 }),
            (dword::SECOND_HIGH, second_high),
            (dword::SECOND_LOW, second_low),
            (dword::TIMESTAMP, saved.timestamp),
        ];
        for (register, index) in self.listed(base) {
            let mask = if saved.registers.kind(register) == Kind::Masked { 0xffff_0000 } else { 0 };
            changes.push((index, saved.registers.get(register) | mask));
        }
        changes.extend((dword::STREAMER..).zip(saved.streamer));
        let registers = self.address + PAGE;
        for (index, value) in changes {
            if self.get(index) != value {
                global.write(registers + index as u64 * 4, &value.to_le_bytes())?;
                if let Some(dword) = self.dwords.get_mut(index) {
                    *dword = value;
                }
            }
        }
        Ok(())
    }
}

/// What an image gets when its context is set aside.
#[derive(Debug)]
pub struct Saved<'a> {
    /// Where it is.
    pub position: Position,
    /// CTX_TIMESTAMP.
    pub timestamp: u32,
    /// The registers that its lists name.
    pub registers: &'a Registers,
    /// What the streamer holds.
    pub streamer: [u32; REGISTER_IMAGE_DWORDS],
}

/// High and low dword of a batch's address, or of none.
fn address(batch: Option<u64>) -> [u32; 2] {
    let Some(address) = batch else { return [0, 0] };
    let high = u32::try_from(address >> 32 & 0xffff).unwrap_or(0);
    [high, u32::try_from(address & 0xffff_fffc).unwrap_or(0) | VALID]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Blocks, Ggtt, View};
    use crate::testing::{RAM, get, guest, map_global, put};

    const BASE: u32 = 0x2_2000;
    /// Of the register page, in RAM.
    const PAGE_IN_RAM: u64 = RAM + PAGE;

    fn place(blocks: &Blocks, at: usize, dwords: &[u32]) {
        put(blocks, PAGE_IN_RAM + at as u64 * 4, dwords);
    }

    fn dword(blocks: &Blocks, at: usize) -> u32 {
        get(blocks, PAGE_IN_RAM + at as u64 * 4)
    }

    /// The global GTT is RAM from [`RAM`] on.
    fn ggtt() -> Ggtt {
        let ggtt = Ggtt::default();
        map_global(&ggtt, 0, RAM, 4);
        ggtt
    }

    #[test]
    fn positions_survive_being_saved_and_loaded() {
        let (guest, ggtt) = (guest(), ggtt());
        let blocks = guest.snapshot();
        let view = View::global(&blocks, &ggtt);
        place(&blocks, dword::TAIL, &[0x770]);
        for (batch, second, client) in [
            (None, None, false),
            (Some(0x1234_5678_9abc), None, true),
            (Some(0x9000), Some(0xffff_0000_0004), true),
            (Some(0x9000), None, false),
        ] {
            place(&blocks, dword::CONTROL, &[0x9 | RESTORE_INHIBIT]);
            let image = Image::read(&view, 0).unwrap();
            assert!(image.is_new());
            let position = Position { head: 0x340, batch, second, client };
            let saved = Saved {
                position,
                timestamp: 77,
                registers: &Registers::default(),
                streamer: std::array::from_fn(|index| u32::try_from(index).unwrap() + 1),
            };
            image.save(&view, BASE, &saved).unwrap();
            let image = Image::read(&view, 0).unwrap();
            assert!(!image.is_new());
            assert_eq!(image.position(), position);
            assert_eq!((image.timestamp(), &image.streamer()[..3]), (77, &[1, 2, 3][..]));
            assert_eq!(image.ring().tail, 0x770, "the tail is the driver's");
        }
    }

    #[test]
    fn listed_registers_are_saved_and_restored_but_for_those_with_a_place_of_their_own() {
        let (guest, ggtt) = (guest(), ggtt());
        let blocks = guest.snapshot();
        let view = View::global(&blocks, &ggtt);
        // Two lists with padding between them; RING_HEAD, and a timestamp, must stay as they are.
        let list = [LIST | 5, BASE + 0xc0, 1, BASE + 0x34, 2, BASE + 0x178, 3, 0, 0];
        place(&blocks, 1, &list);
        place(
            &blocks,
            10,
            &[LIST | 3, BASE + 0x358, 4, BASE + 0x170, 5, BATCH_END, LIST | 1, 0x9000, 6],
        );
        let image = Image::read(&view, 0).unwrap();
        let names: Vec<u32> = image.listed(BASE).iter().map(|(register, _)| *register).collect();
        assert_eq!(names, [BASE + 0xc0, BASE + 0x178, BASE + 0x170]);
        let registers = Registers::default();
        registers.set(BASE + 0xc0, 0x41);
        registers.set(BASE + 0x178, 0x42);
        let saved = Saved {
            position: Position::default(),
            timestamp: 0,
            registers: &registers,
            streamer: [0; REGISTER_IMAGE_DWORDS],
        };
        image.save(&view, BASE, &saved).unwrap();
        assert_eq!(dword(&blocks, 3), 0xffff_0041, "a masked register, all of it");
        assert_eq!(dword(&blocks, 7), 0x42);
        assert_eq!(dword(&blocks, 12), 4, "the timestamp");
        let other = Registers::default();
        Image::read(&view, 0).unwrap().restore_listed(BASE, &other);
        assert_eq!([other.get(BASE + 0xc0), other.get(BASE + 0x178)], [0x41, 0x42]);
    }
}
