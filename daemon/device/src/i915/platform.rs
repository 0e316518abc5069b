//! Which generation a PCI device id is: the only thing that neither GETPARAM nor QUERY tells.

/// A family of devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Platform {
    pub(super) name: &'static str,
    pub(super) version: u16,
    pub(super) release: u16,
    /// See the rule table §6.1.
    pub(super) has_bonds: bool,
    /// See the rule table §13.2.
    pub(super) has_relocations: bool,
}

/// Families by the upper bits of the id: mask, value, name, version, release. The first that fits
/// counts.
const FAMILIES: &[(u16, u16, &str, u16, u16)] = &[
    (0xff00, 0x1600, "Broadwell", 8, 0),
    (0xfff0, 0x22b0, "Cherryview", 8, 0),
    (0xff00, 0x1900, "Skylake", 9, 0),
    (0xffff, 0x0a84, "Broxton", 9, 0),
    (0xfff0, 0x1a80, "Broxton", 9, 0),
    (0xfff0, 0x5a80, "Broxton", 9, 0),
    (0xff00, 0x5900, "Kaby Lake", 9, 0),
    (0xffff, 0x87c0, "Kaby Lake", 9, 0),
    (0xffff, 0x87ca, "Coffee Lake", 9, 0),
    (0xfff0, 0x3180, "Gemini Lake", 9, 0),
    (0xff00, 0x3e00, "Coffee Lake", 9, 0),
    (0xff00, 0x9b00, "Comet Lake", 9, 0),
    (0xff00, 0x8a00, "Ice Lake", 11, 0),
    (0xff00, 0x4500, "Elkhart Lake", 11, 0),
    (0xff00, 0x4e00, "Jasper Lake", 11, 0),
    (0xff00, 0x9a00, TIGER_LAKE, 12, 0),
    (0xff00, 0x4c00, ROCKET_LAKE, 12, 0),
    (0xffe0, 0x4680, ALDER_LAKE_S, 12, 0),
    (0xff00, 0x4600, "Alder Lake-P", 12, 0),
    (0xfff0, 0xa780, ALDER_LAKE_S, 12, 0),
    (0xff00, 0xa700, "Raptor Lake-P", 12, 0),
    (0xff00, 0x4900, "DG1", 12, 10),
    (0xff00, 0x5600, "DG2", 12, 55),
    (0xff00, 0x7d00, "Meteor Lake", 12, 70),
];

const TIGER_LAKE: &str = "Tiger Lake";
const ROCKET_LAKE: &str = "Rocket Lake";
/// Raptor Lake-S is the same to the driver.
const ALDER_LAKE_S: &str = "Alder Lake-S";

/// The family of a device id; `None` for one without execution lists, or that is not i915's.
pub(super) fn of(device_id: u16) -> Option<Platform> {
    let fits = |family: &&(u16, u16, &str, u16, u16)| device_id & family.0 == family.1;
    let &(_, _, name, version, release) = FAMILIES.iter().find(fits)?;
    let older = version < 12;
    Some(Platform {
        name,
        version,
        release,
        has_bonds: older || [TIGER_LAKE, ROCKET_LAKE, ALDER_LAKE_S].contains(&name),
        has_relocations: older || name == TIGER_LAKE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_belong_to_families() {
        let family = |id| of(id).map(|platform| (platform.name, platform.version));
        assert_eq!(family(0x5927), Some(("Kaby Lake", 9)));
        assert_eq!(family(0x191b), Some(("Skylake", 9)));
        assert_eq!(family(0x9a49), Some((TIGER_LAKE, 12)));
        assert_eq!(family(0x4692), Some((ALDER_LAKE_S, 12)));
        assert_eq!(family(0x46a6), Some(("Alder Lake-P", 12)));
        assert_eq!(family(0x0166), None, "Ivy Bridge");
        assert_eq!(family(0x6420), None, "Lunar Lake is xe's");
    }

    #[test]
    fn what_version_12_lost_is_lost() {
        let of = |id| of(id).unwrap();
        assert!(of(0x5927).has_bonds && of(0x5927).has_relocations);
        assert!(of(0x9a49).has_bonds && of(0x9a49).has_relocations);
        assert!(of(0x4680).has_bonds && !of(0x4680).has_relocations);
        assert!(!of(0x56a0).has_bonds && !of(0x56a0).has_relocations);
        assert_eq!(of(0x7d55).release, 70);
    }
}
