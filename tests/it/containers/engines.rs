//! Other engines, as the examples of `config/containers.md` have them.

use super::{Guest, INSIDE, Tree, broker, need, staged};

#[test]
fn bubblewrap() {
    need("bwrap", "bubblewrap");
    let (mut daemon, batch, _config) = broker();
    let tree = Tree::new(&[]);
    let mut command = staged(None);
    command.args(["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", tree.path(), "/"]);
    command.args(["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run"]);
    command.arg("--bind").arg(&batch).args([INSIDE, "--setenv", "GPU_BROKER_SOCKET", INSIDE]);
    let guest = Guest::start(&mut command);
    assert_eq!(guest.identity(&daemon).class, "batch");
    guest.end();
    daemon.assert_unharmed();
}

#[test]
fn systemd_nspawn() {
    need("systemd-nspawn", "systemd-container");
    let (mut daemon, batch, _config) = broker();
    let tree = Tree::new(&[]);
    let mut command = staged(None);
    // Without systemd there is nobody to register with.
    command.args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe"]);
    command.args(["--private-network", "--as-pid2", "--directory", tree.path()]);
    command.arg(format!("--bind={}:{INSIDE}", batch.display()));
    command.arg(format!("--setenv=GPU_BROKER_SOCKET={INSIDE}"));
    let guest = Guest::start(&mut command);
    assert_eq!(guest.identity(&daemon).class, "batch");
    guest.end();
    daemon.assert_unharmed();
}
