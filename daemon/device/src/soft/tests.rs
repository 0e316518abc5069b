//! The conformance suite on the software GPU, and what only the software GPU promises.

use std::time::Duration;

use super::*;
use crate::conformance::{self, Rig};

/// Impatient with endless batches.
fn device() -> SoftDevice {
    let config = Config { hang_timeout: Duration::from_millis(300), ..Config::default() };
    SoftDevice::start(config).unwrap()
}

mod suite {
    use super::device;

    crate::conformance::suite!(device);
}

#[test]
fn files_outlive_their_device_without_effect() {
    conformance::refuses_when_lost(Rig::new(device()));
}
