//! The daemon gives up what it does not need any more, before it serves anybody.
//!
//! Files go first, by Landlock, which binds the thread that asks and those it makes: so before the
//! device has threads. System calls go last, by a filter for all threads, right before the first
//! connection is accepted. What stays possible is what `files::Reach` and `calls` list.
//!
//! Two answers for what is not listed: a call that nothing in the daemon makes and that only somebody
//! who took it over would (another program, a trace, a mount, …) ends the process; anything else
//! fails with EPERM and the daemon goes on, so that a library's newest idea is no outage.

mod calls;
mod files;
mod filter;

use std::fmt;
use std::path::Path;

use files::Reach;
use filter::Plan;

use gpu_broker_protocol::limits::IDENTITY_CHARS_MAX;
use gpu_broker_protocol::status as wire;

use crate::args::Args;
use crate::config::{Config, DEFAULT_PATH};
use crate::device::DeviceChoice;

/// What the process does with which device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The software GPU: memory and threads, no device.
    Soft,
    /// A render node of the i915 driver.
    I915,
}

/// What a system call that is not on the list comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unlisted {
    /// EPERM.
    Refuse,
    /// SIGSYS, and the end of the process. For tests, and for who would rather have it start again.
    Kill,
}

/// Whether the daemon confines itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sandbox {
    /// It does.
    #[default]
    On,
    /// It does, and any call that is not listed ends it.
    Kill,
    /// It does not.
    Off,
}

impl std::str::FromStr for Sandbox {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "on" => Ok(Self::On),
            "kill" => Ok(Self::Kill),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

/// Whether a layer of the confinement holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Layer {
    /// It does.
    InForce,
    /// It was not wanted; by what.
    Waived(String),
    /// The kernel has it not, or refused; why.
    Absent(String),
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InForce => f.write_str("confined"),
            Self::Waived(why) | Self::Absent(why) => write!(f, "not confined: {why}"),
        }
    }
}

/// What of the confinement holds.
#[derive(Clone, Debug)]
pub struct Confinement {
    sandbox: Sandbox,
    /// Opening of files.
    pub files: Layer,
    /// System calls; [`Layer::Waived`] until the daemon serves.
    pub calls: Layer,
}

impl Confinement {
    /// Gives up files. `sockets` are the directories of the sockets that the daemon made and will
    /// remove. Of the device as much stays as `config` may need; [`Self::narrow`] takes it away.
    ///
    /// Must be called by the only thread of the process.
    pub fn begin<'a>(
        config: &Config,
        args: &Args,
        sockets: impl Iterator<Item = &'a Path>,
    ) -> Self {
        let sandbox = config.sandbox;
        let off = Layer::Waived("the sandbox is off".to_owned());
        let files = match app_condition(config) {
            _ if sandbox == Sandbox::Off => off.clone(),
            Some(why) => Layer::Waived(why),
            None => files::confine(&reach(config, args, sockets)),
        };
        Self { sandbox, files, calls: off }
    }

    /// Gives up the device nodes too, once it is clear that the software GPU is used.
    ///
    /// Must be called by the only thread of the process.
    pub fn narrow<'a>(
        &mut self,
        config: &Config,
        args: &Args,
        sockets: impl Iterator<Item = &'a Path>,
    ) {
        if self.files == Layer::InForce && config.device != DeviceChoice::Soft {
            let mut reach = reach(config, args, sockets);
            reach.devices.clear();
            self.files = files::confine(&reach);
        }
    }

    /// Whether everything that was wanted is in force.
    #[must_use]
    pub fn holds(&self) -> bool {
        !matches!(self.files, Layer::Absent(_)) && !matches!(self.calls, Layer::Absent(_))
    }

    /// For who asks from outside.
    pub(crate) fn walls(&self) -> wire::Confinement {
        let wall = |layer: &Layer| match layer {
            Layer::InForce => wire::Wall { holds: true, why: String::new() },
            Layer::Waived(why) | Layer::Absent(why) => {
                // A sentence of ours, but for a class's name, which has no strange letters.
                wire::Wall { holds: false, why: why.chars().take(IDENTITY_CHARS_MAX).collect() }
            }
        };
        wire::Confinement { system_calls: wall(&self.calls), files: wall(&self.files) }
    }

    /// What of a configuration that is read later cannot be had behind these walls, in words.
    pub(crate) fn hinders(&self, config: &Config) -> Option<String> {
        let asks = app_condition(config).filter(|_| self.files == Layer::InForce)?;
        Some(format!("{asks}, out of reach since the daemon confined itself without that class"))
    }

    /// Gives up system calls, for all threads, and says in the log what holds.
    pub fn complete(&mut self, role: Role) {
        let unlisted = match self.sandbox {
            Sandbox::Off => None,
            Sandbox::On => Some(Unlisted::Refuse),
            Sandbox::Kill => Some(Unlisted::Kill),
        };
        if let Some(unlisted) = unlisted {
            self.calls = match confine_calls(role, unlisted) {
                Ok(()) => Layer::InForce,
                Err(error) => Layer::Absent(format!("seccomp: {error}")),
            };
        }
        for (what, layer) in [("system calls", &self.calls), ("files", &self.files)] {
            match layer {
                Layer::InForce => tracing::debug!("{what}: confined"),
                Layer::Waived(why) => tracing::info!("{what} are not confined: {why}"),
                Layer::Absent(why) => tracing::warn!(
                    "{what} are not confined: {why}; the daemon runs with fewer walls"
                ),
            }
        }
    }
}

/// Lets all threads of the calling process make the system calls of a role, and no others, for good.
///
/// # Errors
/// The kernel has no seccomp filters, or a thread has some that the others have not.
fn confine_calls(role: Role, unlisted: Unlisted) -> Result<(), filter::Error> {
    let notifies = std::env::var_os("NOTIFY_SOCKET").is_some();
    filter::install(Plan { role, unlisted, notifies })
}

/// Landlock hides `/proc/PID/root` of all processes that it does not confine itself, which is where
/// a Flatpak application's name is.
fn app_condition(config: &Config) -> Option<String> {
    let asks = config.policy.classes().iter().find(|class| class.asks_for_app())?;
    let name = &asks.name;
    Some(format!("class \"{name}\" matches app_id, which is found out in the client's own files"))
}

fn reach<'a>(config: &Config, args: &Args, sockets: impl Iterator<Item = &'a Path>) -> Reach {
    let mut reach = Reach {
        // Who connected: /proc/PID/cgroup. What an fd is: /proc/self/fd.
        read: vec!["/proc".into()],
        remove: sockets.map(Path::to_owned).collect(),
        ..Reach::default()
    };
    reach.read_beside(args.config.as_deref().unwrap_or_else(|| Path::new(DEFAULT_PATH)));
    if config.device != DeviceChoice::Soft {
        reach.read.push("/sys".into());
        // Not /dev/dri: it goes with the last GPU that is unplugged, a rule for it goes along, and the
        // one that comes with the next GPU is another.
        reach.devices.push("/dev".into());
    }
    reach.send.push("/run/systemd/journal".into());
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        reach.send_abstract = socket.as_encoded_bytes().starts_with(b"@");
        reach.send.push(socket.into());
    }
    reach
}
