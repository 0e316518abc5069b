//! A client locks itself up before it connects, as far as the machine allows.
//!
//! What a container or sandbox does to its programs, done by the program itself: a mount namespace
//! in which /dev is empty, no network, no way to new privileges, no capabilities, and Landlock
//! where the kernel has it. Afterwards the client tries to open every GPU device node there is,
//! and reports what happened instead of what was meant to happen.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::PathBuf;

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetStatus};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

/// What holds a client in, as found out by trying.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Confinement {
    /// Measures in force.
    pub(crate) in_force: Vec<String>,
    /// Measures this machine refused, with its reason.
    pub(crate) refused: Vec<String>,
    /// Device nodes of GPUs that existed before.
    pub(crate) nodes_before: Vec<PathBuf>,
    /// Device nodes of GPUs that could still be opened. Empty unless nothing at all was allowed.
    pub(crate) nodes_open: Vec<PathBuf>,
    /// What opening /dev/dri answers now.
    pub(crate) dev_dri: String,
    /// Names left in /dev, counted before Landlock forbade to look; `None` if it could not be read.
    pub(crate) dev_entries: Option<usize>,
}

impl Confinement {
    /// Whether no GPU can be reached.
    pub(crate) fn holds(&self) -> bool {
        self.nodes_open.is_empty()
    }

    fn note(&mut self, measure: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.in_force.push(measure.to_owned()),
            Err(why) => self.refused.push(format!("{measure} ({why})")),
        }
    }
}

/// Confines this process for good. Must run before the process has a second thread: the kernel
/// gives a user namespace to single-threaded processes only.
pub(crate) fn confine() -> Confinement {
    let mut found = Confinement {
        in_force: Vec::new(),
        refused: Vec::new(),
        nodes_before: gpu_nodes(),
        nodes_open: Vec::new(),
        dev_dri: String::new(),
        dev_entries: None,
    };
    enter_namespaces(&mut found);
    found.dev_entries = fs::read_dir("/dev").ok().map(Iterator::count);
    let no_new_privs = rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string());
    found.note("no_new_privs", no_new_privs);
    found.note("Landlock without any file access", landlock_everything());
    found.note("no capabilities", drop_capabilities());
    probe(&mut found);
    found
}

/// Nodes through which a GPU could be driven.
fn gpu_nodes() -> Vec<PathBuf> {
    let directories = ["/dev/dri", "/dev"].into_iter().filter_map(|d| fs::read_dir(d).ok());
    let paths = directories.flatten().filter_map(Result::ok).map(|entry| entry.path());
    let is_gpu = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        ["card", "render", "nvidia", "kfd"].iter().any(|prefix| name.starts_with(prefix))
            && !path.is_dir()
    };
    paths.filter(is_gpu).collect::<BTreeSet<_>>().into_iter().collect()
}

fn enter_namespaces(found: &mut Confinement) {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let others = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    let with_user = unshare(CloneFlags::CLONE_NEWUSER | others).map_err(|e| e.to_string());
    let user = with_user.and_then(|()| map_own_ids(uid, gid).map_err(|e| e.to_string()));
    let inside = user.is_ok();
    found.note("user namespace", user);
    // Root in a container may do without a user namespace what everybody else needs one for.
    let entered = if inside { Ok(()) } else { unshare(others).map_err(|e| e.to_string()) };
    let emptied = entered.clone().and_then(|()| empty_dev().map_err(|e| e.to_string()));
    found.note("network and IPC namespaces", entered);
    found.note("mount namespace with an empty /dev", emptied);
}

/// The process keeps its ids in its user namespace. Without a map the daemon would still see the
/// real ones, but the process itself could create nothing.
fn map_own_ids(uid: u32, gid: u32) -> std::io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

fn empty_dev() -> nix::Result<()> {
    let nothing = None::<&str>;
    // First of all no mount may travel back to where we came from.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), flags, Some("mode=755,size=4k"))
}

/// Files opened before (the pipes to the parent) keep working, and a socket can still be
/// connected to.
fn landlock_everything() -> Result<(), String> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .map_err(|e| e.to_string())?;
    let status = ruleset.restrict_self().map_err(|e| e.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err("this kernel has it switched off".to_owned()),
    }
}

/// A new user namespace comes with every capability over itself, enough to take the empty /dev
/// away again.
fn drop_capabilities() -> Result<(), String> {
    for capability in CapabilitySet::all().iter() {
        // Bits this kernel does not know, or a bounding set we may not change: harmless, because
        // no_new_privs keeps exec from giving back what the next line takes.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(|e| e.to_string())
}

fn probe(found: &mut Confinement) {
    let open = |path: &PathBuf| OpenOptions::new().read(true).open(path).is_ok();
    found.nodes_open = found.nodes_before.iter().cloned().chain(gpu_nodes()).filter(open).collect();
    found.nodes_open.dedup();
    found.dev_dri = match fs::read_dir("/dev/dri") {
        Ok(_) => "opens".to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "does not exist".to_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => "is denied".to_owned(),
        Err(error) => error.to_string(),
    };
}
