//! PCI configuration space.

/// Bytes.
pub const SIZE: usize = 256;

/// Vendor-specific register of ours: which faults are switched on, [`crate::faults`]. The guest
/// reaches it through `/sys/bus/pci/devices/…/config`.
pub const FAULTS: usize = 0xe0;

/// Offset of the MSI capability, and of the power management capability behind it.
const MSI: u8 = 0xac;
const POWER: u8 = 0xd0;

/// (offset, bytes) of what is not zero.
const CONTENTS: &[(usize, &[u8])] = &[
    (0x00, &[0x86, 0x80, 0x26, 0x59]), // Intel, Kaby Lake GT3
    (0x06, &[0x10, 0x00]),             // there is a list of capabilities
    (0x08, &[0x06]),                   // revision
    // Display controller that is not VGA: the kernel's early quirks and the emulator's own
    // treatment of Intel graphics stay away, i915's id table takes any class 03.
    (0x09, &[0x00, 0x80, 0x03]),
    (0x10, &[0x04]), // BAR 0: 64 bits
    (0x18, &[0x0c]), // BAR 2: 64 bits, prefetchable
    (0x2c, &[0x86, 0x80, 0x68, 0x20]),
    (0x34, &[MSI]),
    (0x3d, &[0x01]),                            // INTA
    (0x50, &[0xc0, 0x00]),                      // GGC: 8 MiB of GTT, no stolen memory
    (MSI as usize, &[0x05, POWER, 0x00, 0x00]), // one vector, 32-bit address
    (POWER as usize, &[0x01, 0x00, 0x22, 0x00]),
];

/// The configuration space after a reset.
#[must_use]
pub fn initial() -> [u8; SIZE] {
    let mut space = [0; SIZE];
    for (offset, bytes) in CONTENTS {
        if let Some(into) = space.get_mut(*offset..offset + bytes.len()) {
            into.copy_from_slice(bytes);
        }
    }
    space
}

/// Whether a byte keeps its value whatever is written.
#[must_use]
pub const fn is_read_only(offset: usize) -> bool {
    // Identification, class, subsystem, the capabilities' headers, GGC.
    matches!(offset, 0x00..=0x03 | 0x06..=0x0b | 0x2c..=0x2f | 0x34 | 0x3d | 0x50..=0x51)
        || matches!(offset, 0xac..=0xad | 0xd0..=0xd3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_form_a_list_that_ends() {
        let space = initial();
        assert_ne!(space[0x06] & 0x10, 0, "the status register says so");
        let mut at = usize::from(space[0x34]);
        let mut ids = Vec::new();
        while at != 0 {
            ids.push(space[at]);
            at = space[at + 1].into();
            assert!(ids.len() < 8, "the list is a circle: {ids:?}");
        }
        assert_eq!(ids, [0x05, 0x01], "MSI, power management");
    }

    #[test]
    fn our_own_register_is_in_nobodys_way() {
        assert!(CONTENTS.iter().all(|(offset, bytes)| offset + bytes.len() <= FAULTS));
        assert!(!is_read_only(FAULTS));
    }
}
