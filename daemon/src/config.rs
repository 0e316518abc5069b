//! What the administrator decides: a TOML file, with the command line on top of it.
//!
//! `config/gpu-brokerd.toml` is the file that gets installed. It names every key with its default;
//! a test below keeps it true.

use std::path::{Path, PathBuf};

use gpu_broker_core::SessionLimits;
use gpu_broker_protocol::limits;
use serde::Deserialize;

use crate::args::Args;
use crate::confine::Sandbox;
use crate::device::DeviceChoice;
use crate::engine_config::EngineConfig;
use crate::policy::file::{ClassFile, NAME_RULE, Wrong, is_name};
use crate::policy::{self, Policy};

mod sockets;

pub use sockets::{AdminConfig, ListenerConfig, MetricsAddress};
use sockets::{AdminFile, ListenerFile, MetricsFile};

/// Where the configuration is looked for when nobody says where.
pub const DEFAULT_PATH: &str = "/etc/gpu-broker/gpu-brokerd.toml";

/// Everything that can be configured, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Socket to listen on, unless systemd passes one; `None` is the default place.
    pub socket: Option<PathBuf>,
    /// Permission bits of the socket file.
    pub socket_mode: u32,
    /// Which GPU.
    pub device: DeviceChoice,
    /// Whether the daemon confines itself.
    pub sandbox: Sandbox,
    /// Level or filter of the log.
    pub log_level: String,
    /// Limits of the daemon as a whole.
    pub daemon: DaemonLimits,
    /// Limits of one session.
    pub session: SessionConfig,
    /// Time limits of the engines.
    pub engines: EngineConfig,
    /// Sockets beside `socket`.
    pub listeners: Vec<ListenerConfig>,
    /// Which class a client belongs to, and what that may.
    pub policy: Policy,
    /// The administrators' socket.
    pub admin: AdminConfig,
    /// Where metrics are served; `None` is nowhere.
    pub metrics: Option<MetricsAddress>,
}

impl Default for Config {
    fn default() -> Self {
        let file = File::default();
        Self {
            socket: None,
            socket_mode: DEFAULT_SOCKET_MODE,
            device: DeviceChoice::Auto,
            sandbox: Sandbox::On,
            log_level: DEFAULT_LOG_LEVEL.to_owned(),
            daemon: file.daemon,
            session: file.session,
            engines: file.engines,
            listeners: Vec::new(),
            policy: Policy::default(),
            admin: AdminConfig::default(),
            metrics: None,
        }
    }
}

const DEFAULT_SOCKET_MODE: u32 = 0o660;
const DEFAULT_LOG_LEVEL: &str = "info";

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    socket: Option<PathBuf>,
    socket_mode: Option<String>,
    device: Option<String>,
    sandbox: Option<String>,
    log_level: Option<String>,
    daemon: DaemonLimits,
    session: SessionConfig,
    engines: EngineConfig,
    listener: Vec<ListenerFile>,
    default_class: Option<String>,
    class: Vec<ClassFile>,
    admin: AdminFile,
    metrics: MetricsFile,
}

/// Limits of the daemon as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DaemonLimits {
    /// Connections served at once.
    pub sessions: u32,
    /// Connections of one user served at once.
    pub sessions_per_uid: u32,
    /// Milliseconds a connection may take to say HELLO.
    pub hello_timeout_ms: u64,
    /// Milliseconds that sessions get to end when the daemon stops.
    pub stop_timeout_ms: u64,
}

impl Default for DaemonLimits {
    fn default() -> Self {
        Self {
            sessions: limits::SESSIONS_MAX_DEFAULT,
            sessions_per_uid: limits::SESSIONS_MAX_DEFAULT / 2,
            hello_timeout_ms: limits::HELLO_TIMEOUT_MS,
            stop_timeout_ms: 2_000,
        }
    }
}

/// Limits of one session; none may exceed the protocol's (`gpu_broker_protocol::limits`).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// Contexts, the default one not counted.
    pub contexts: u32,
    /// VM handles.
    pub vms: u32,
    /// Buffers.
    pub buffers: u32,
    /// Bytes of one buffer.
    pub buffer_bytes: u64,
    /// Bytes of all buffers together.
    pub buffer_memory_bytes: u64,
    /// Bytes of application memory (userptr), each memfd whole and once.
    pub userptr_memory_bytes: u64,
    /// Objects of one EXECBUF.
    pub objects_per_execbuf: u32,
    /// Submissions not completed.
    pub submissions_in_flight: u32,
    /// Waits not ended.
    pub pending_waits: u32,
    /// Out-fences not signalled.
    pub fences: u32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            contexts: limits::CONTEXTS_PER_SESSION_MAX,
            vms: limits::VMS_PER_SESSION_MAX,
            buffers: limits::BUFFERS_PER_SESSION_MAX,
            buffer_bytes: limits::BUFFER_BYTES_MAX,
            buffer_memory_bytes: limits::BUFFER_MEMORY_PER_SESSION_BYTES_MAX,
            userptr_memory_bytes: limits::USERPTR_MEMORY_PER_SESSION_BYTES_MAX,
            objects_per_execbuf: limits::OBJECTS_PER_EXECBUF_MAX,
            submissions_in_flight: limits::SUBMISSIONS_IN_FLIGHT_PER_SESSION_MAX,
            pending_waits: limits::PENDING_WAITS_PER_SESSION_MAX,
            fences: limits::FENCES_PER_SESSION_MAX,
        }
    }
}

impl SessionConfig {
    /// What the rules enforce; waits and fences are the daemon's own to count.
    #[must_use]
    pub fn for_core(&self) -> SessionLimits {
        SessionLimits {
            contexts: self.contexts,
            vms: self.vms,
            buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
            buffer_memory_bytes: self.buffer_memory_bytes,
            userptr_memory_bytes: self.userptr_memory_bytes,
            objects_per_execbuf: self.objects_per_execbuf,
            submissions_in_flight: self.submissions_in_flight,
        }
    }

    /// What HELLO tells the client.
    #[must_use]
    pub fn for_hello(&self) -> gpu_broker_protocol::message::Limits {
        gpu_broker_protocol::message::Limits {
            message_bytes: u32::try_from(limits::MESSAGE_BYTES_MAX).unwrap_or(u32::MAX),
            fds_per_message: u32::try_from(limits::FDS_PER_MESSAGE_MAX).unwrap_or(u32::MAX),
            contexts: self.contexts,
            vms: self.vms,
            buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
            buffer_memory_bytes: self.buffer_memory_bytes,
            objects_per_execbuf: self.objects_per_execbuf,
            submissions_in_flight: self.submissions_in_flight,
            pending_waits: self.pending_waits,
            fences: self.fences,
        }
    }

    /// Every key with its value and the most it may be.
    fn ceilings(&self) -> [(&'static str, u64, u64); 10] {
        let most = Self::default();
        [
            ("contexts", self.contexts.into(), most.contexts.into()),
            ("vms", self.vms.into(), most.vms.into()),
            ("buffers", self.buffers.into(), most.buffers.into()),
            ("buffer_bytes", self.buffer_bytes, most.buffer_bytes),
            ("buffer_memory_bytes", self.buffer_memory_bytes, most.buffer_memory_bytes),
            ("userptr_memory_bytes", self.userptr_memory_bytes, most.userptr_memory_bytes),
            (
                "objects_per_execbuf",
                self.objects_per_execbuf.into(),
                most.objects_per_execbuf.into(),
            ),
            (
                "submissions_in_flight",
                self.submissions_in_flight.into(),
                most.submissions_in_flight.into(),
            ),
            ("pending_waits", self.pending_waits.into(), most.pending_waits.into()),
            ("fences", self.fences.into(), most.fences.into()),
        ]
    }
}

/// Why a configuration is no good.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML or has keys or types that do not exist; names line and key.
    #[error("the configuration {path} is wrong: {source}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("the configuration's {key} must {must}, but it is {is}")]
    Value {
        /// Full name of the key.
        key: String,
        /// The rule.
        must: String,
        /// What was found.
        is: String,
    },
}

impl Config {
    /// Reads the file the arguments name (or the default one, if it exists), and puts the
    /// arguments on top.
    ///
    /// # Errors
    /// [`ConfigError`], with a sentence that says which key to mend.
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => match read(Path::new(DEFAULT_PATH)) {
                Err(ConfigError::Read { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    File::default()
                }
                other => other?,
            },
        };
        Self::check(file, args)
    }

    fn check(file: File, args: &Args) -> Result<Self, ConfigError> {
        let socket_mode = sockets::mode("socket_mode", file.socket_mode.as_deref())?;
        for (key, is, most) in file.session.ceilings() {
            if is == 0 || is > most {
                return Err(value(&format!("session.{key}"), &format!("lie in 1..={most}"), &is));
            }
        }
        let daemon = &file.daemon;
        for (key, is) in [
            ("sessions", u64::from(daemon.sessions)),
            ("sessions_per_uid", daemon.sessions_per_uid.into()),
            ("hello_timeout_ms", daemon.hello_timeout_ms),
            ("stop_timeout_ms", daemon.stop_timeout_ms),
        ] {
            if is == 0 || is > DAEMON_LIMIT_MAX {
                let must = format!("lie in 1..={DAEMON_LIMIT_MAX}");
                return Err(value(&format!("daemon.{key}"), &must, &is));
            }
        }
        if let Some((key, must, is)) = file.engines.out_of_range() {
            return Err(value(&format!("engines.{key}"), &must, &is));
        }
        let device = args.device.as_deref().or(file.device.as_deref()).unwrap_or("auto");
        let sandbox = args.sandbox.as_deref().or(file.sandbox.as_deref()).unwrap_or("on");
        let sandbox = if args.no_sandbox { "off" } else { sandbox };
        let log_level = args.log_level.as_deref().or(file.log_level.as_deref());
        Ok(Self {
            socket: args.socket.clone().or(file.socket),
            socket_mode,
            device: device
                .parse()
                .map_err(|()| value("device", "be auto, soft or a path below /dev/dri", &device))?,
            sandbox: sandbox
                .parse()
                .map_err(|()| value("sandbox", "be on, off or kill", &sandbox))?,
            log_level: log_level.unwrap_or(DEFAULT_LOG_LEVEL).to_owned(),
            daemon: file.daemon,
            session: file.session,
            engines: file.engines,
            listeners: sockets::listeners(file.listener)?,
            policy: policy::file::policy(file.class, file.default_class.as_deref())?,
            admin: file.admin.checked()?,
            metrics: file.metrics.checked()?,
        })
    }
}

/// Sessions, and milliseconds of a timeout: more of either is a slip of the pen.
const DAEMON_LIMIT_MAX: u64 = 1_000_000;

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

impl From<Wrong> for ConfigError {
    fn from(Wrong { key, must, is }: Wrong) -> Self {
        Self::Value { key, must, is }
    }
}

fn value(key: &str, must: &str, is: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), must: must.to_owned(), is: is.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("broker.toml");
        std::fs::write(&path, text).expect("writable");
        Config::load(&Args { config: Some(path), ..Args::default() })
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shipped = include_str!("../../config/gpu-brokerd.toml");
        let (config, default) =
            (load(shipped).expect("the shipped file is good"), Config::default());
        assert_eq!(format!("{config:?}"), format!("{default:?}"));
        // Every key is there, so that nobody needs to look elsewhere for its name.
        let table: toml::Table = shipped.parse().expect("TOML");
        for (key, _, _) in SessionConfig::default().ceilings() {
            assert!(table["session"].get(key).is_some(), "session.{key} is not in the file");
        }
        for key in ["sessions", "sessions_per_uid", "hello_timeout_ms", "stop_timeout_ms"] {
            assert!(table["daemon"].get(key).is_some(), "daemon.{key} is not in the file");
        }
        for key in [
            "heartbeat_interval_ms",
            "preempt_timeout_ms",
            "timeslice_ms",
            "request_timeout_ms",
            "reset",
        ] {
            assert!(table["engines"].get(key).is_some(), "engines.{key} is not in the file");
        }
        for class in ["render", "copy", "video", "video_enhance"] {
            assert!(shipped.contains(&format!("#[engines.{class}]")), "{class}");
        }
        for key in ["socket_mode", "device", "log_level", "default_class"] {
            assert!(table.get(key).is_some(), "{key} is not in the file");
        }
        // What has no fixed default is shown in a comment.
        for key in ["socket = ", "[[listener]]", "[[class]]", "[admin]", "listen = "] {
            assert!(shipped.contains(&format!("#{key}")), "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = load("device = \"soft\"\n\n[session]\ncontext = 3\n").expect_err("unknown key");
        let sentence = error.to_string();
        assert!(sentence.contains("line 4"), "{sentence}");
        assert!(sentence.contains("context"), "{sentence}");
        assert!(sentence.contains("broker.toml"), "{sentence}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (text, key) in [
            ("[session]\nvms = 0", "session.vms"),
            ("[session]\nfences = 1025", "session.fences"),
            ("[daemon]\nsessions = 0", "daemon.sessions"),
            ("[engines]\ntimeslice_ms = 0", "engines.timeslice_ms"),
            ("socket_mode = \"rw\"", "socket_mode"),
            ("socket_mode = \"4755\"", "socket_mode"),
            ("device = \"voodoo\"", "device"),
            ("[[listener]]\nname = \"a/b\"\nsocket = \"/run/a\"", "listener.name"),
            ("[[listener]]\nname = \"main\"\nsocket = \"/run/a\"", "listener.name"),
            ("[[class]]\nname = \"a\"\nweight = 0", "weight"),
            ("[admin]\nsocket_mode = \"9\"", "admin.socket_mode"),
            ("[metrics]\nlisten = \"0.0.0.0:9100\"", "metrics.listen"),
        ] {
            let sentence = load(text).expect_err(text).to_string();
            assert!(sentence.contains(key), "{text}: {sentence}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("broker.toml");
        std::fs::write(&path, "socket = \"/run/a\"\nlog_level = \"warn\"\ndevice = \"auto\"")
            .expect("writable");
        let config = Config::load(&Args {
            config: Some(path),
            socket: Some("/run/b".into()),
            device: Some("soft".into()),
            ..Args::default()
        })
        .expect("good");
        assert_eq!(config.socket.as_deref(), Some(Path::new("/run/b")));
        assert_eq!(config.device, DeviceChoice::Soft);
        assert_eq!(config.log_level, "warn");
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let args = Args { config: Some("/nonexistent/broker.toml".into()), ..Args::default() };
        assert!(matches!(Config::load(&args), Err(ConfigError::Read { .. })));
    }
}
