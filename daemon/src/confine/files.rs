//! Which files the process may open (landlock(7)).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::Layer;
use crate::socket::directory_of;

/// The newest rules known here; an older kernel enforces those it knows.
const NEWEST: ABI = ABI::V9;

/// What stays within reach. Directories stand for what is in them, now and later: a file is replaced
/// by another of its name, and a GPU that is unplugged and plugged in has a new node.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Files are read.
    pub(super) read: Vec<PathBuf>,
    /// The daemon's own sockets are removed.
    pub(super) remove: Vec<PathBuf>,
    /// Nodes of GPUs.
    pub(super) devices: Vec<PathBuf>,
    /// Sockets are sent to.
    pub(super) send: Vec<PathBuf>,
    /// A socket without a path is sent to.
    pub(super) send_abstract: bool,
}

impl Reach {
    /// Files beside this one, and beside what it is a link to, can be read.
    pub(super) fn read_beside(&mut self, file: &Path) {
        self.read.push(directory_of(file).to_owned());
        let target = std::fs::canonicalize(file).ok();
        self.read.extend(target.map(|target| directory_of(&target).to_owned()));
    }
}

/// Confines the calling thread and those it will make, for good.
pub(super) fn confine(reach: &Reach) -> Layer {
    match restrict(reach) {
        Ok(layer) => layer,
        Err(error) => Layer::Absent(format!("Landlock: {error}")),
    }
}

fn restrict(reach: &Reach) -> Result<Layer, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut scopes = BitFlags::from(Scope::Signal);
    if !reach.send_abstract {
        scopes |= Scope::AbstractUnixSocket;
    }
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // Metrics on loopback listen before this.
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .scope(scopes)?
        .create()?
        .add_rules(path_beneath_rules(&reach.read, read))?
        .add_rules(path_beneath_rules(&reach.remove, AccessFs::RemoveFile))?
        .add_rules(path_beneath_rules(
            &reach.devices,
            read | AccessFs::WriteFile | AccessFs::IoctlDev,
        ))?
        .add_rules(path_beneath_rules(&reach.send, AccessFs::ResolveUnix))?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotImplemented) => {
            Layer::Absent("this kernel has no Landlock (Linux 5.13)".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => {
            Layer::Absent("Landlock is switched off in this kernel (its option lsm=)".to_owned())
        }
        (RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced, _) => Layer::InForce,
    })
}
