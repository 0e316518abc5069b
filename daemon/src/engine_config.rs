//! Time limits of the engines, as the administrator writes them.

use gpu_broker_device::soft::{self, Limits, ResetScope};
use gpu_broker_protocol::param::class;
use serde::Deserialize;

/// Longest limit, in milliseconds: an hour. None can be switched off, because the batches are those
/// of strangers.
const LIMIT_MS_MAX: u64 = 3_600_000;

/// The section `[engines]`: when a batch is taken for hung, and what happens then. Defaults are the
/// kernel's (rule table §12).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Milliseconds a batch may run without an arbitration point before it is asked for one, also if
    /// nobody else wants the engine.
    pub heartbeat_interval_ms: u64,
    /// Milliseconds it has to get to one when it is asked, by the heartbeat or by another batch.
    pub preempt_timeout_ms: u64,
    /// Milliseconds of a turn among batches of equal priority.
    pub timeslice_ms: u64,
    /// Milliseconds a batch may run and wait in all, the time of others not counted.
    pub request_timeout_ms: u64,
    /// How much is reset when a batch dies.
    pub reset: Reset,
    /// Other limits for engines of a class.
    pub render: ClassLimits,
    /// As above.
    pub copy: ClassLimits,
    /// As above.
    pub video: ClassLimits,
    /// As above.
    pub video_enhance: ClassLimits,
}

/// What a class of engines has of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassLimits {
    /// See [`EngineConfig`].
    pub heartbeat_interval_ms: Option<u64>,
    /// See [`EngineConfig`].
    pub preempt_timeout_ms: Option<u64>,
    /// See [`EngineConfig`].
    pub timeslice_ms: Option<u64>,
    /// See [`EngineConfig`].
    pub request_timeout_ms: Option<u64>,
}

/// How much is reset when a batch dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reset {
    /// The engine it ran on.
    #[default]
    Engine,
    /// All engines; innocent work on the others runs again from its beginning.
    Device,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            heartbeat_interval_ms: limits.heartbeat_ns / NS_PER_MS,
            preempt_timeout_ms: limits.preempt_ns / NS_PER_MS,
            timeslice_ms: limits.timeslice_ns / NS_PER_MS,
            request_timeout_ms: limits.request_ns / NS_PER_MS,
            reset: Reset::default(),
            render: ClassLimits::default(),
            copy: ClassLimits::default(),
            video: ClassLimits::default(),
            video_enhance: ClassLimits::default(),
        }
    }
}

const NS_PER_MS: u64 = 1_000_000;

impl EngineConfig {
    /// Every key with its value, for checks.
    fn values(&self) -> Vec<(String, u64)> {
        let own = [
            ("heartbeat_interval_ms", Some(self.heartbeat_interval_ms)),
            ("preempt_timeout_ms", Some(self.preempt_timeout_ms)),
            ("timeslice_ms", Some(self.timeslice_ms)),
            ("request_timeout_ms", Some(self.request_timeout_ms)),
        ];
        let mut values: Vec<_> =
            own.into_iter().filter_map(|(key, is)| Some((key.to_owned(), is?))).collect();
        for (class, limits) in [
            ("render", self.render),
            ("copy", self.copy),
            ("video", self.video),
            ("video_enhance", self.video_enhance),
        ] {
            let keys = [
                ("heartbeat_interval_ms", limits.heartbeat_interval_ms),
                ("preempt_timeout_ms", limits.preempt_timeout_ms),
                ("timeslice_ms", limits.timeslice_ms),
                ("request_timeout_ms", limits.request_timeout_ms),
            ];
            let named = |(key, is): (&str, Option<u64>)| Some((format!("{class}.{key}"), is?));
            values.extend(keys.into_iter().filter_map(named));
        }
        values
    }

    /// The first value out of range: its key below `engines`, what it must be, and what it is.
    pub(crate) fn out_of_range(&self) -> Option<(String, String, u64)> {
        let wrong = self.values().into_iter().find(|(_, is)| !(1..=LIMIT_MS_MAX).contains(is))?;
        Some((wrong.0, format!("lie in 1..={LIMIT_MS_MAX}"), wrong.1))
    }

    /// For the software device.
    pub(crate) fn for_soft(&self) -> soft::Config {
        let reset = match self.reset {
            Reset::Engine => ResetScope::Engine,
            Reset::Device => ResetScope::Device,
        };
        soft::Config::by_class(reset, |class| self.limits(class))
    }

    fn limits(&self, class: u16) -> Limits {
        let own = match class {
            class::RENDER => self.render,
            class::COPY => self.copy,
            class::VIDEO => self.video,
            class::VIDEO_ENHANCE => self.video_enhance,
            _ => ClassLimits::default(),
        };
        let ns = |own: Option<u64>, all| own.unwrap_or(all).saturating_mul(NS_PER_MS);
        Limits {
            timeslice_ns: ns(own.timeslice_ms, self.timeslice_ms),
            heartbeat_ns: ns(own.heartbeat_interval_ms, self.heartbeat_interval_ms),
            preempt_ns: ns(own.preempt_timeout_ms, self.preempt_timeout_ms),
            request_ns: ns(own.request_timeout_ms, self.request_timeout_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_devices() {
        assert_eq!(EngineConfig::default().for_soft(), soft::Config::default());
    }

    #[test]
    fn a_class_has_its_own_limits_and_the_rest_in_common() {
        let text = "preempt_timeout_ms = 100\nreset = \"device\"\n[copy]\npreempt_timeout_ms = 7";
        let config: EngineConfig = toml::from_str(text).expect("good");
        let soft = config.for_soft();
        let preempt: Vec<_> = soft.engines.iter().map(|limits| limits.preempt_ns).collect();
        assert_eq!(preempt, [100, 7, 100, 100, 100].map(|ms| ms * NS_PER_MS));
        assert_eq!(soft.engines[1].heartbeat_ns, 2_500_000_000);
        assert_eq!(soft.reset, ResetScope::Device);
    }

    #[test]
    fn what_would_switch_a_limit_off_is_out_of_range() {
        for (text, key) in [
            ("heartbeat_interval_ms = 0", "heartbeat_interval_ms"),
            ("[video]\ntimeslice_ms = 3600001", "video.timeslice_ms"),
        ] {
            let config: EngineConfig = toml::from_str(text).expect("well-formed");
            let (wrong, _, _) = config.out_of_range().expect(text);
            assert_eq!(wrong, key);
        }
        assert_eq!(EngineConfig::default().out_of_range(), None);
    }
}
