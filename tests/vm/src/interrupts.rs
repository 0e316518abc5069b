//! The GT's interrupt unit: four groups of ISR, IMR, IIR and IER, a master enable, one message to
//! the CPU.

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;

use gpu_broker_soft_gpu::EngineKind;

use crate::lock;

/// Bits of an engine's interrupts, in its half of a group.
pub mod bit {
    /// MI_USER_INTERRUPT.
    pub const USER: u32 = 0;
    /// A command could not be executed.
    pub const ERROR: u32 = 3;
    /// A flush that was told to notify.
    pub const FLUSH: u32 = 4;
    /// There is a context-switch event.
    pub const SWITCH: u32 = 8;
    /// MI_SEMAPHORE_WAIT waits.
    pub const SEMAPHORE: u32 = 11;
}

/// Bit of the master register that enables all.
const MASTER: u32 = 1 << 31;

/// Group, and shift of its half, of an engine.
#[must_use]
pub const fn place(engine: EngineKind) -> (usize, u32) {
    match engine {
        EngineKind::Render => (0, 0),
        EngineKind::Copy => (0, 16),
        EngineKind::Video0 => (1, 0),
        EngineKind::Video1 => (1, 16),
        EngineKind::VideoEnhance => (3, 0),
    }
}

/// Four registers, by their order in the register space.
#[derive(Clone, Copy, Default, Debug)]
struct Group {
    status: u32,
    mask: u32,
    identity: u32,
    enable: u32,
}

#[derive(Debug, Default)]
struct State {
    groups: [Group; 4],
    enabled: bool,
    /// The message was sent and nothing has withdrawn what it says since.
    level: bool,
    message: Option<File>,
    sent: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Interrupts(Mutex<State>);

impl Interrupts {
    /// Where messages go: an eventfd, or nowhere.
    pub fn connect(&self, message: Option<File>) {
        lock(&self.0).message = message;
    }

    /// Everything as after power-on; messages go where they went.
    pub fn reset(&self) {
        let mut state = lock(&self.0);
        let (message, sent) = (state.message.take(), state.sent);
        *state = State { message, sent, ..State::default() };
    }

    /// An engine has something to say, a bit of [`bit`]. `masked` is its RING_IMR, whose bits are
    /// those of the group: i915 writes it shifted by 16 for bcs0 and vcs1.
    pub fn raise(&self, engine: EngineKind, bit: u32, masked: u32) {
        let (group, shift) = place(engine);
        let bit = 1 << (bit + shift);
        let mut state = lock(&self.0);
        if let Some(group) = state.groups.get_mut(group)
            && masked & bit == 0
            && group.mask & bit == 0
        {
            group.identity |= bit;
        }
        state.update();
    }

    /// Reads register `offset` (bytes) of the groups.
    pub fn read(&self, offset: u32) -> u32 {
        let state = lock(&self.0);
        let Some(group) = state.groups.get(offset as usize / 16) else { return 0 };
        match offset % 16 / 4 {
            0 => group.status,
            1 => group.mask,
            2 => group.identity,
            _ => group.enable,
        }
    }

    /// Writes register `offset` (bytes) of the groups.
    pub fn write(&self, offset: u32, value: u32) {
        let mut state = lock(&self.0);
        let Some(group) = state.groups.get_mut(offset as usize / 16) else { return };
        match offset % 16 / 4 {
            0 => {}
            1 => group.mask = value,
            2 => group.identity &= !value,
            _ => group.enable = value,
        }
        state.update();
    }

    /// The master register: who has something pending, enabled or not.
    pub fn read_master(&self) -> u32 {
        let state = lock(&self.0);
        state.pending() | if state.enabled { MASTER } else { 0 }
    }

    /// Only the enable bit of the master register can be written.
    pub fn write_master(&self, value: u32) {
        let mut state = lock(&self.0);
        state.enabled = value & MASTER != 0;
        state.update();
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        lock(&self.0).sent
    }
}

impl State {
    /// Bits of the master register: rcs, bcs, vcs0, vcs1, power management, GuC, vecs.
    fn pending(&self) -> u32 {
        let [first, second, third, fourth] = self.groups.map(|group| group.identity & group.enable);
        let halves = [
            first & 0xffff,
            first >> 16,
            second & 0xffff,
            second >> 16,
            third & 0xffff,
            third >> 16,
            fourth & 0xffff,
        ];
        halves.iter().zip(0..).fold(0, |bits, (half, bit)| bits | u32::from(*half != 0) << bit)
    }

    /// A message is an edge: the driver disables the master bit while it looks, and what is pending
    /// when it enables it again is a new edge.
    fn update(&mut self) {
        let level = self.enabled && self.pending() != 0;
        if level && !self.level {
            self.sent += 1;
            if let Some(mut message) = self.message.as_ref() {
                // The emulator is gone if this fails; the server notices.
                let _ = message.write_all(&1u64.to_ne_bytes());
            }
        }
        self.level = level;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u32 = 1 << bit::USER;

    /// Everything unmasked and enabled.
    fn unit() -> Interrupts {
        let unit = Interrupts::default();
        for group in 0..4 {
            unit.write(group * 16 + 12, u32::MAX);
        }
        unit.write_master(MASTER);
        unit
    }

    #[test]
    fn a_message_is_an_edge() {
        let unit = unit();
        unit.raise(EngineKind::Render, bit::USER, 0);
        unit.raise(EngineKind::Render, bit::SWITCH, 0);
        assert_eq!(unit.sent(), 1, "nobody has looked at the first yet");
        unit.write_master(0);
        unit.write(8, USER);
        unit.write_master(MASTER);
        assert_eq!(unit.sent(), 2, "something was left");
        unit.write_master(0);
        unit.write(8, 1 << bit::SWITCH);
        unit.write_master(MASTER);
        assert_eq!(unit.sent(), 2, "nothing was left");
    }

    #[test]
    fn engines_have_their_places() {
        for (engine, group, value, master) in [
            (EngineKind::Render, 0, USER, 1),
            (EngineKind::Copy, 0, USER << 16, 2),
            (EngineKind::Video0, 1, USER, 4),
            (EngineKind::Video1, 1, USER << 16, 8),
            (EngineKind::VideoEnhance, 3, USER, 0x40),
        ] {
            let unit = unit();
            unit.raise(engine, bit::USER, 0);
            assert_eq!(unit.read(group * 16 + 8), value, "{engine:?}");
            assert_eq!(unit.read_master(), master | MASTER, "{engine:?}");
        }
    }

    #[test]
    fn both_masks_mask_at_the_bits_of_the_group() {
        for (ring_mask, group_mask, expected) in [
            (0xf6f7_ffff, 0, 0),
            (0xf6f6_ffff, 0, USER << 16),
            (0, USER << 16, 0),
            (USER, USER, USER << 16),
        ] {
            let unit = unit();
            unit.write(4, group_mask);
            unit.raise(EngineKind::Copy, bit::USER, ring_mask);
            assert_eq!(unit.read(8), expected, "{ring_mask:#x} {group_mask:#x}");
        }
    }

    #[test]
    fn pending_is_seen_while_the_master_bit_is_off() {
        let unit = unit();
        unit.write_master(0);
        unit.raise(EngineKind::Video0, bit::USER, 0);
        assert_eq!((unit.read_master(), unit.sent()), (4, 0));
        unit.write_master(MASTER);
        assert_eq!(unit.sent(), 1);
    }

    #[test]
    fn enabling_a_pending_source_sends() {
        let unit = Interrupts::default();
        unit.write_master(MASTER);
        unit.raise(EngineKind::Render, bit::USER, 0);
        assert_eq!(unit.sent(), 0);
        unit.write(12, USER);
        assert_eq!(unit.sent(), 1);
    }
}
