//! Who used the GPU for how long, and how much memory: what drm-usage-stats asks of a DRM file.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::ids::{ContextId, SessionId};

/// Asks for the accounts of a session. A peer may ask for its own user's; root and the daemon's own
/// user for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UsageQuery {
    /// 0 is the session that asks.
    pub session: SessionId,
}

/// The accounts of a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionUsage {
    /// Its number.
    pub session: SessionId,
    /// The name the client gave itself.
    pub client_name: String,
    /// Engine classes the device has, in the order of their numbers.
    pub engines: Vec<ClassUsage>,
    /// Its buffers.
    pub memory: MemoryUsage,
    /// Live contexts by id; long lists are cut.
    pub contexts: Vec<ContextUsage>,
}

/// Engines of a class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClassUsage {
    /// `I915_ENGINE_CLASS_*`.
    pub class: u16,
    /// How many engines of the class there are.
    pub capacity: u16,
    /// Nanoseconds that work of the session had them, each counted for itself: in a second up to
    /// `capacity` seconds. Never falls; what a context had stays when it is destroyed.
    pub busy_ns: u64,
}

/// A context's part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextUsage {
    /// Its id.
    pub context: ContextId,
    /// Nanoseconds, in the order of [`SessionUsage::engines`]; empty if the device does not tell: i915
    /// counts for a whole session.
    pub busy_ns: Vec<u64>,
}

/// Buffers by what became of them, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// All of them.
    pub total: u64,
    /// Those that another session has too.
    pub shared: u64,
    /// Those for which memory is allocated.
    pub resident: u64,
    /// Those in use by work that is not done.
    pub active: u64,
}

impl SessionUsage {
    /// The keys of drm-usage-stats, as `/proc/PID/fdinfo` of a DRM file has them, for a device that
    /// is bound to `driver`. System memory is the only region.
    #[must_use]
    pub fn fdinfo(&self, driver: &str) -> String {
        // What is printed line by line for machines to read must stay on its line.
        let line = |text: &str| text.replace(char::is_control, "\u{fffd}");
        let mut text = format!(
            "drm-driver:\t{}\ndrm-client-id:\t{}\ndrm-client-name:\t{}\n",
            line(driver),
            self.session.0,
            line(&self.client_name),
        );
        let mut put = |key: &str, name: &str, value: u64, unit: &str| {
            // Strings take all.
            let _ = writeln!(text, "drm-{key}-{name}:\t{value}{unit}");
        };
        for engine in &self.engines {
            let name = class_name(engine.class);
            put("engine", &name, engine.busy_ns, " ns");
            if engine.capacity > 1 {
                put("engine-capacity", &name, engine.capacity.into(), "");
            }
        }
        let MemoryUsage { total, shared, resident, active } = self.memory;
        for (key, bytes) in
            [("total", total), ("shared", shared), ("resident", resident), ("active", active)]
        {
            put(key, "system0", bytes / 1024, " KiB");
        }
        text
    }
}

/// An engine class as drm-usage-stats of i915 calls it.
#[must_use]
pub fn class_name(class: u16) -> String {
    match class {
        0 => "render".into(),
        1 => "copy".into(),
        2 => "video".into(),
        3 => "video-enhance".into(),
        4 => "compute".into(),
        other => format!("class{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_drm_usage_stats() {
        let class = |class, capacity, busy_ns| ClassUsage { class, capacity, busy_ns };
        let usage = SessionUsage {
            session: SessionId(7),
            client_name: "cube\ndrm-client-id:\t1".into(),
            engines: vec![class(0, 1, 12), class(2, 2, 34), class(3, 1, 0)],
            memory: MemoryUsage { total: 12_288, shared: 4096, resident: 8192, active: 0 },
            contexts: vec![],
        };
        let expected = "\
drm-driver:\ti915
drm-client-id:\t7
drm-client-name:\tcube\u{fffd}drm-client-id:\u{fffd}1
drm-engine-render:\t12 ns
drm-engine-video:\t34 ns
drm-engine-capacity-video:\t2
drm-engine-video-enhance:\t0 ns
drm-total-system0:\t12 KiB
drm-shared-system0:\t4 KiB
drm-resident-system0:\t8 KiB
drm-active-system0:\t0 KiB
";
        assert_eq!(usage.fdinfo("i915"), expected);
    }
}
