//! podman, with crun.

use std::path::Path;
use std::process::Command;

use gpu_broker_tests::binaries;

use super::{Guest, INSIDE, Tree, broker, cli, need, staged, told};

/// `podman run` with images, locks and containers of its own; limits that this machine can grant.
fn podman(place: &Path, cdi: Option<&Path>) -> Command {
    need("podman", "podman");
    need("crun", "crun");
    let mut command = staged(cdi);
    command.arg("podman").arg("--root").arg(place.join("storage"));
    command.arg("--runroot").arg(place.join("run"));
    usual_options(&mut command);
    command
}

fn usual_options(command: &mut Command) {
    command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
    command.args(["--runtime=crun", "run", "--rm", "-i", "--network=none"]);
    command.args(["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"]);
}

#[test]
fn a_cdi_device_is_a_socket_and_the_socket_is_the_class() {
    let (mut daemon, _batch, config) = broker();
    let place = tempfile::tempdir().expect("a temporary directory");
    let example = crate::capi::compile(place.path(), "fill");
    let tree = Tree::new(&[&binaries::cli(), &example]);
    let file = place.path().join("gpu-broker.json");
    let libraries = binaries::preload().parent().expect("in a directory").to_owned();
    let [config, libraries, file_name, socket] =
        [&config, &libraries, &file, daemon.socket()].map(|path| path.to_str().expect("text"));
    let (succeeded, said) = cli(&[
        "cdi",
        "generate",
        "--config",
        config,
        "--libraries",
        libraries,
        "--socket",
        socket,
        "-o",
        file_name,
    ]);
    assert!(succeeded, "{said}");
    let with = |device: &str| {
        let mut command = podman(place.path(), Some(&file));
        // Making a group takes more memory locked than this machine lets anybody.
        command.args(["--cgroups=disabled", "--device"]);
        command.arg(format!("gpu-broker.dev/session={device}"));
        command.args(["--rootfs", tree.path()]);
        command
    };

    let mut guest = Guest::start(&mut with("batch"));
    let identity = guest.identity(&daemon);
    assert_eq!((&*identity.class, &*identity.listener), ("batch", "slow"), "{identity:?}");
    assert!(identity.pid > 0 && identity.uid == 0, "{identity:?}");
    assert!(guest.contexts().starts_with("took 7 "), "the limit of the class");
    guest.end();
    let guest = Guest::start(&mut with("default"));
    assert_eq!(guest.identity(&daemon).class, "default");
    guest.end();

    // A C program that was linked elsewhere, with the library that comes with the device.
    let said = told(with("default").args(["/bin/sh", "-c", "exec fill \"$GPU_BROKER_SOCKET\""]));
    assert!(said.contains("stored 0x600dcafe"), "{said}");
    let status = told(with("batch").args(["/bin/gpu-broker", "status", "--json"]));
    assert!(status.contains("\"soft\""), "{status}");
    // A program that knows nothing of the broker.
    let node = ["/bin/stat", "-c", "%F", "/dev/dri/renderD128"];
    let said = told(with("default-preload").args(node));
    assert_eq!(said.trim(), "character special file");
    daemon.assert_unharmed();
}

#[test]
fn a_container_with_the_socket_alone_is_known_by_its_id() {
    let (mut daemon, ..) = broker();
    let place = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::new(&[]);
    let id = place.path().join("id");
    let mut command = podman(place.path(), None);
    // Privileged and without limits it gets a control group on this machine, too. It still sees no
    // GPU, there being none.
    command.args(["--privileged", "--pids-limit=-1", "--cidfile"]).arg(&id);
    command.arg("-v").arg(format!("{}:{INSIDE}", daemon.socket().display()));
    command.args(["-e", &format!("GPU_BROKER_SOCKET={INSIDE}"), "--rootfs", tree.path()]);
    let guest = Guest::start(&mut command);
    let identity = guest.identity(&daemon);
    let id = std::fs::read_to_string(id).expect("podman writes it");
    assert_eq!(identity.container, id.trim(), "{identity:?}");
    guest.end();
    daemon.assert_unharmed();
}

/// Podman of a user, who is root inside and nobody special to the daemon.
#[test]
fn a_rootless_container_is_its_users() {
    need("podman", "podman");
    need("crun", "crun");
    let (mut daemon, ..) = broker();
    let tree = Tree::new(&[]);
    let owned = Command::new("chown").args(["-R", "4321:4321", tree.path()]).status();
    assert!(owned.expect("coreutils").success());
    let mut command = staged(None);
    command.args(["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"]);
    command.args(["env", "HOME=/run/home", "XDG_RUNTIME_DIR=/run/user", "podman"]);
    usual_options(&mut command);
    command.arg("--cgroups=disabled");
    command.arg("-v").arg(format!("{}:{INSIDE}", daemon.socket().display()));
    command.args(["-e", &format!("GPU_BROKER_SOCKET={INSIDE}"), "--rootfs", tree.path()]);
    let guest = Guest::start(&mut command);
    let identity = guest.identity(&daemon);
    assert_eq!((identity.uid, identity.gid, &*identity.class), (4321, 4321, "default"));
    guest.end();
    daemon.assert_unharmed();
}
