//! A client in another language, written from `protocol/WIRE.md` alone.

use std::process::Command;

use gpu_broker_tests::{Daemon, binaries};

#[test]
fn the_example_client_works() {
    let mut daemon = Daemon::start();
    let before = daemon.footprint();
    let output = Command::new("python3")
        .arg(binaries::repository().join("protocol/examples/client.py"))
        .arg(daemon.socket())
        .env("GPU_BROKER_SOCKET", daemon.socket())
        .output()
        .expect("python3 is installed (Debian: apt-get install python3)");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    assert!(!said.trim().is_empty(), "it says what it did");
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}
