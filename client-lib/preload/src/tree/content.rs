//! What is in the tree: the files that libdrm, Mesa's loaders, udev and intel-gpu-tools look at.

use std::path::Path;

use gpu_broker_client::protocol::message::{DeviceInfo, EngineInfo, HelloReply};

/// One file of the tree.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Entry {
    Directory,
    File(Vec<u8>),
    Link(String),
}

const SLOT: &str = "0000:00:02.0";
const PCI: &str = "/sys/devices/pci0000:00/0000:00:02.0";
/// VGA controller.
const PCI_CLASS: u32 = 0x3_0000;
/// Engine properties with i915's defaults.
const PROPERTIES: [(&str, &str); 5] = [
    ("heartbeat_interval_ms", "2500"),
    ("preempt_timeout_ms", "640"),
    ("timeslice_duration_ms", "1"),
    ("stop_timeout_ms", "100"),
    ("max_busywait_duration_ns", "8000"),
];
/// Module parameters that programs look at.
const PARAMETERS: [(&str, &str); 8] = [
    ("reset", "2"),
    ("enable_hangcheck", "Y"),
    ("enable_guc", "0"),
    ("enable_fbc", "0"),
    ("enable_psr", "0"),
    ("enable_ppgtt", "3"),
    ("prefault_disable", "N"),
    ("mmio_debug", "0"),
];

struct Writer {
    entries: Vec<(String, Entry)>,
}

impl Writer {
    fn file(&mut self, path: impl Into<String>, content: impl AsRef<[u8]>) {
        self.entries.push((path.into(), Entry::File(content.as_ref().to_vec())));
    }

    fn line(&mut self, path: impl Into<String>, content: impl std::fmt::Display) {
        self.file(path, format!("{content}\n"));
    }

    fn link(&mut self, path: impl Into<String>, target: impl Into<String>) {
        self.entries.push((path.into(), Entry::Link(target.into())));
    }

    fn directory(&mut self, path: impl Into<String>) {
        self.entries.push((path.into(), Entry::Directory));
    }

    /// What the machine itself has in a directory, so that it is still there; not `except`.
    fn overlay(&mut self, directory: &str, except: &[&str]) {
        let Ok(found) = std::fs::read_dir(Path::new(directory)) else { return };
        let mut names: Vec<_> =
            found.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        for name in names.iter().filter(|name| !except.contains(&name.as_str())) {
            self.link(format!("{directory}/{name}"), format!("{directory}/{name}"));
        }
    }
}

/// All of it, for the device behind the broker.
pub(crate) fn of(hello: &HelloReply) -> Vec<(String, Entry)> {
    let device = &hello.device;
    let mut w = Writer { entries: Vec::new() };
    nodes(&mut w);
    pci(&mut w, device);
    for (name, minor) in [("card0", 0), ("renderD128", 128)] {
        drm(&mut w, name, minor);
    }
    engines(&mut w, &device.engines);
    module(&mut w);
    debugfs(&mut w, device);
    w.overlay("/sys/class", &["drm"]);
    w.overlay("/sys/bus/pci", &["devices", "drivers"]);
    w.overlay("/sys/bus/pci/devices", &[SLOT]);
    w.overlay("/sys/devices/pci0000:00", &[SLOT]);
    w.entries
}

fn nodes(w: &mut Writer) {
    w.file("/dev/dri/card0", "");
    w.file("/dev/dri/renderD128", "");
    w.link(format!("/dev/dri/by-path/pci-{SLOT}-card"), "../card0");
    w.link(format!("/dev/dri/by-path/pci-{SLOT}-render"), "../renderD128");
}

fn pci(w: &mut Writer, device: &DeviceInfo) {
    let DeviceInfo { vendor_id: vendor, device_id: id, revision, .. } = *device;
    // The subsystem of a board that has the device on it: Intel's own.
    let (sub_vendor, sub_device) = (vendor, 0x2212_u16);
    for (name, value) in [
        ("vendor", vendor),
        ("device", id),
        ("subsystem_vendor", sub_vendor),
        ("subsystem_device", sub_device),
    ] {
        w.line(format!("{PCI}/{name}"), format_args!("{value:#06x}"));
    }
    w.line(format!("{PCI}/revision"), format_args!("{revision:#04x}"));
    w.line(format!("{PCI}/class"), format_args!("{PCI_CLASS:#08x}"));
    for (name, value) in
        [("irq", "0"), ("enable", "1"), ("boot_vga", "0"), ("numa_node", "-1"), ("local_cpus", "1")]
    {
        w.line(format!("{PCI}/{name}"), value);
    }
    w.file(
        format!("{PCI}/resource"),
        "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".repeat(7),
    );
    let modalias =
        format!("pci:v{vendor:08X}d{id:08X}sv{sub_vendor:08X}sd{sub_device:08X}bc03sc00i00");
    w.line(format!("{PCI}/modalias"), &modalias);
    w.file(
        format!("{PCI}/uevent"),
        format!(
            "DRIVER=i915\nPCI_CLASS={PCI_CLASS:X}\nPCI_ID={vendor:04X}:{id:04X}\n\
             PCI_SUBSYS_ID={sub_vendor:04X}:{sub_device:04X}\nPCI_SLOT_NAME={SLOT}\n\
             MODALIAS={modalias}\n"
        ),
    );
    let mut config = [0_u8; 256];
    for (at, value) in [(0x00, vendor), (0x02, id), (0x2c, sub_vendor), (0x2e, sub_device)] {
        crate::arg::put(&mut config, at, &value.to_le_bytes());
    }
    let class = PCI_CLASS << 8 | u32::from(revision & 0xff);
    crate::arg::put(&mut config, 0x08, &class.to_le_bytes());
    w.file(format!("{PCI}/config"), config);
    w.link(format!("{PCI}/subsystem"), "../../../bus/pci");
    w.link(format!("{PCI}/driver"), "../../../bus/pci/drivers/i915");
    w.link(format!("/sys/bus/pci/devices/{SLOT}"), format!("../../../devices/pci0000:00/{SLOT}"));
    w.link(
        format!("/sys/bus/pci/drivers/i915/{SLOT}"),
        format!("../../../../devices/pci0000:00/{SLOT}"),
    );
    w.link("/sys/bus/pci/drivers/i915/module", "../../../../module/i915");
}

fn drm(w: &mut Writer, name: &str, minor: u32) {
    let path = format!("{PCI}/drm/{name}");
    w.line(format!("{path}/dev"), format_args!("226:{minor}"));
    w.file(
        format!("{path}/uevent"),
        format!("MAJOR=226\nMINOR={minor}\nDEVNAME=dri/{name}\nDEVTYPE=drm_minor\n"),
    );
    w.link(format!("{path}/device"), format!("../../../{SLOT}"));
    w.link(format!("{path}/subsystem"), "../../../../../class/drm");
    let below = format!("devices/pci0000:00/{SLOT}/drm/{name}");
    w.link(format!("/sys/class/drm/{name}"), format!("../../{below}"));
    w.link(format!("/sys/dev/char/226:{minor}"), format!("../../{below}"));
    if minor == 0 {
        w.line("/sys/class/drm/version", "drm 1.1.0 20060810");
        for (name, mhz) in [
            ("gt_act_freq_mhz", 300),
            ("gt_cur_freq_mhz", 300),
            ("gt_min_freq_mhz", 300),
            ("gt_max_freq_mhz", 1050),
            ("gt_boost_freq_mhz", 1050),
            ("gt_RP0_freq_mhz", 1050),
            ("gt_RP1_freq_mhz", 300),
            ("gt_RPn_freq_mhz", 300),
        ] {
            w.line(format!("{path}/{name}"), mhz);
        }
        w.directory(format!("{path}/power"));
    }
}

fn engines(w: &mut Writer, engines: &[EngineInfo]) {
    for engine in engines {
        let path = format!("{PCI}/drm/card0/engine/{}", engine.name);
        w.line(format!("{path}/name"), &engine.name);
        w.line(format!("{path}/class"), engine.engine.class);
        w.line(format!("{path}/instance"), engine.engine.instance);
        let base: u32 = match (engine.engine.class, engine.engine.instance) {
            (0, _) => 0x2000,
            (1, _) => 0x2_2000,
            (2, 0) => 0x1_2000,
            (2, _) => 0x1_c000,
            _ => 0x1_a000,
        };
        w.line(format!("{path}/mmio_base"), format_args!("{base:#x}"));
        let video = if engine.engine.class == 2 { "hevc sfc" } else { "" };
        w.line(format!("{path}/capabilities"), "");
        w.line(format!("{path}/known_capabilities"), video);
        for (name, value) in PROPERTIES {
            w.line(format!("{path}/{name}"), value);
            w.line(format!("{path}/.defaults/{name}"), value);
        }
    }
}

fn module(w: &mut Writer) {
    for (name, value) in PARAMETERS {
        w.line(format!("/sys/module/i915/parameters/{name}"), value);
    }
    w.line("/sys/module/i915/refcnt", 1);
    w.line("/sys/module/i915/initstate", "live");
    w.directory("/sys/module/i915/holders");
}

fn debugfs(w: &mut Writer, device: &DeviceInfo) {
    let name = format!("i915 dev={SLOT} unique={SLOT}");
    for minor in [0, 128] {
        let path = format!("/sys/kernel/debug/dri/{minor}");
        w.line(format!("{path}/name"), &name);
        w.file(format!("{path}/i915_gem_drop_caches"), "0x00000000\n");
        w.line(format!("{path}/i915_wedged"), 0);
        w.line(format!("{path}/i915_forcewake_user"), 0);
        w.file(
            format!("{path}/i915_capabilities"),
            format!(
                "graphics version: {}\nvendor: {:#x}\ndevice: {:#x}\n",
                device.graphics_version, device.vendor_id, device.device_id
            ),
        );
        for (name, value) in PARAMETERS {
            w.line(format!("{path}/i915_params/{name}"), value);
        }
        w.directory(format!("{path}/clients"));
    }
}
