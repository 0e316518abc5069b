//! The sandbox without bubblewrap: this process enters namespaces of its own and becomes the
//! program. Less than bubblewrap does: file systems mounted below `/` stay as writable as they are.

use std::fs::{self, File};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{INSIDE, Plan};
use crate::output::Failure;

/// Nodes that programs cannot do without.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Becomes the program in namespaces of its own.
pub(super) fn run(plan: &Plan<'_>) -> Failure {
    match confine(plan) {
        Ok(()) => plan.exec(
            Path::new(&format!("{INSIDE}/preload.so")),
            Path::new(&format!("{INSIDE}/broker.sock")),
        ),
        Err(error) => Failure::new(format!(
            "this machine does not let you make a sandbox ({error}); install bubblewrap"
        )),
    }
}

fn confine(plan: &Plan<'_>) -> std::io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut apart = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    if !plan.network {
        apart |= CloneFlags::CLONE_NEWNET;
    }
    let here = std::env::current_dir()?;
    unshare(apart)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    // Made where it will not be seen, because what goes into it lies in what it hides.
    let files = Path::new("/proc/self/fd");
    let keep = [open_path(&plan.library)?, open_path(&plan.socket)?];
    let nodes = NODES.map(|name| (name, open_path(&Path::new("/dev").join(name))));
    let here_again = open_path(&here)?;
    tmpfs("/tmp", "mode=1777")?;
    fs::create_dir(INSIDE)?;
    for (file, name) in keep.iter().zip(["preload.so", "broker.sock"]) {
        bind(&files.join(number(file)), &Path::new(INSIDE).join(name), false)?;
    }
    if here.starts_with("/tmp") {
        fs::create_dir_all(&here)?;
        bind(&files.join(number(&here_again)), &here, true)?;
    }
    tmpfs("/dev", "mode=755,size=64k")?;
    for (name, node) in &nodes {
        if let Ok(node) = node {
            bind(&files.join(number(node)), &Path::new("/dev").join(name), false)?;
        }
    }
    fs::create_dir("/dev/shm")?;
    std::env::set_current_dir(here)
}

fn open_path(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    Ok(File::from(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?))
}

fn number(file: &File) -> String {
    use std::os::fd::AsRawFd as _;
    file.as_raw_fd().to_string()
}

fn tmpfs(place: &str, options: &str) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(options))
}

fn bind(from: &Path, to: &Path, directory: bool) -> std::io::Result<()> {
    if !directory {
        File::create(to)?;
    }
    let nothing = None::<&str>;
    Ok(mount(Some(from), to, nothing, MsFlags::MS_BIND, nothing)?)
}
