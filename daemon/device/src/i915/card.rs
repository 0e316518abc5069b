//! Render nodes: which there are, and an open one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::limits;
use crate::Health;

/// The driver this back end speaks to.
const DRIVER: &str = "i915";
const SYSFS: &str = "/sys/class/drm";
const PCI: &str = "/sys/bus/pci/devices";
const DEVICES: &str = "/dev/dri";

/// A render node of the i915 driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// `/dev/dri/renderD128`.
    pub path: PathBuf,
    /// `0000:00:02.0`; empty when sysfs does not tell.
    pub pci_slot: String,
    /// PCI vendor.
    pub vendor_id: u16,
    /// PCI device.
    pub device_id: u16,
}

/// Every render node of the driver, by name.
#[must_use]
pub fn nodes() -> Vec<Node> {
    nodes_in(Path::new(SYSFS))
}

fn nodes_in(sysfs: &Path) -> Vec<Node> {
    let Ok(entries) = fs::read_dir(sysfs) else { return Vec::new() };
    let mut found: Vec<_> = entries.flatten().filter_map(|entry| node(&entry.path())).collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The node that a directory of sysfs stands for, if it is one of ours.
fn node(directory: &Path) -> Option<Node> {
    let name = directory.file_name()?.to_str().filter(|name| name.starts_with("renderD"))?;
    let device = directory.join("device");
    let driver = fs::read_link(device.join("driver")).ok()?;
    if driver.file_name()? != DRIVER {
        return None;
    }
    let number = |file: &str| {
        let text = fs::read_to_string(device.join(file)).ok()?;
        u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let slot = fs::canonicalize(&device).ok()?;
    Some(Node {
        path: Path::new(DEVICES).join(name),
        pci_slot: slot.file_name()?.to_str()?.to_owned(),
        vendor_id: number("vendor")?,
        device_id: number("device")?,
    })
}

impl Node {
    /// The node at a path, which may be a link (`/dev/dri/by-path/pci-0000:00:02.0-render`).
    ///
    /// # Errors
    /// It is not there, or may not be opened; ENODEV for a node of another driver.
    pub fn at(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        if let Some(known) = nodes().into_iter().find(|node| node.path == path) {
            return Ok(known);
        }
        // A sandbox may hide sysfs; the node itself knows its driver.
        let (vendor_id, device_id) = (0x8086, 0);
        let node = Self { path, pci_slot: String::new(), vendor_id, device_id };
        node.open()?;
        Ok(node)
    }

    /// How a device whose files are dead went. Waits while the kernel is about it.
    pub(super) fn how_gone(&self) -> Health {
        let begun = Instant::now();
        loop {
            let health = self.how_gone_in(Path::new(PCI));
            // An unplug unbinds first.
            if health == Some(Health::Unplugged) || begun.elapsed() >= limits::GOING {
                return health.unwrap_or(Health::Unbound);
            }
            std::thread::sleep(limits::WEDGED_RHYTHM);
        }
    }

    /// `None` while a driver has it.
    fn how_gone_in(&self, pci: &Path) -> Option<Health> {
        let device = pci.join(&self.pci_slot);
        if !self.pci_slot.is_empty() && pci.exists() && !device.exists() {
            return Some(Health::Unplugged);
        }
        (!device.join("driver").exists()).then_some(Health::Unbound)
    }

    /// Opens it: a DRM file of its own each time.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub(super) fn open(&self) -> Result<Card, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let card = Card(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let driver = drm::Device::get_driver(&card).map_err(|error| errno(&error))?;
        if driver.name() != DRIVER {
            return Err(Errno::NODEV);
        }
        Ok(card)
    }
}

/// An open DRM file.
#[derive(Debug)]
pub(super) struct Card(OwnedFd);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for Card {}
impl drm::control::Device for Card {}

/// The errno of an error of drm-rs.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(sysfs: &Path, name: &str, slot: &str, driver: &str) {
        let device = sysfs.join("devices").join(slot);
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("vendor"), "0x8086\n").unwrap();
        fs::write(device.join("device"), "0x5927\n").unwrap();
        std::os::unix::fs::symlink(format!("../drivers/{driver}"), device.join("driver")).unwrap();
        let directory = sysfs.join("drm").join(name);
        fs::create_dir_all(&directory).unwrap();
        std::os::unix::fs::symlink(&device, directory.join("device")).unwrap();
    }

    #[test]
    fn a_device_without_a_driver_is_told_from_none() {
        let pci = std::env::temp_dir().join(format!("gpu-broker-pci-{}", std::process::id()));
        let device = pci.join("0000:00:02.0");
        let driver = device.join("driver");
        let node = Node {
            path: "/dev/dri/renderD128".into(),
            pci_slot: "0000:00:02.0".to_owned(),
            vendor_id: 0x8086,
            device_id: 0x5927,
        };
        fs::create_dir_all(&driver).unwrap();
        assert_eq!(node.how_gone_in(&pci), None);
        fs::remove_dir(&driver).unwrap();
        assert_eq!(node.how_gone_in(&pci), Some(Health::Unbound));
        fs::remove_dir(&device).unwrap();
        assert_eq!(node.how_gone_in(&pci), Some(Health::Unplugged));
        fs::remove_dir(&pci).unwrap();
    }

    #[test]
    fn render_nodes_of_the_driver_are_found_in_order() {
        let sysfs = std::env::temp_dir().join(format!("gpu-broker-sysfs-{}", std::process::id()));
        for (name, slot, driver) in [
            ("renderD129", "0000:03:00.0", "i915"),
            ("renderD128", "0000:00:02.0", "i915"),
            ("card0", "0000:00:02.0-card", "i915"),
            ("renderD130", "0000:04:00.0", "amdgpu"),
        ] {
            device(&sysfs, name, slot, driver);
        }
        let found = nodes_in(&sysfs.join("drm"));
        fs::remove_dir_all(&sysfs).unwrap();
        let names: Vec<_> =
            found.iter().map(|node| (node.path.to_str().unwrap(), &*node.pci_slot)).collect();
        let expected =
            [("/dev/dri/renderD128", "0000:00:02.0"), ("/dev/dri/renderD129", "0000:03:00.0")];
        assert_eq!(names, expected);
        assert_eq!((found[0].vendor_id, found[0].device_id), (0x8086, 0x5927));
        assert_eq!(nodes_in(Path::new("/nonexistent")), []);
    }
}
