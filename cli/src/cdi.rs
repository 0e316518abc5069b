//! `gpu-broker cdi`: the broker as devices that container engines hand out.
//!
//! The format is the Container Device Interface (github.com/cncf-tags/container-device-interface).
//! A device needs no device node: ours are a socket, which decides the policy class, the libraries,
//! and the variable that says where the socket is. Engines refuse a file with a field that is newer
//! than the version it names, so the version is the lowest that has what is used.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueHint};
use gpu_brokerd::config::Config;
use serde::Serialize;

use crate::output::{Failure, Out};
use crate::run::find;

/// Vendor and class of the devices: `--device gpu-broker.dev/session=NAME`.
const KIND: &str = "gpu-broker.dev/session";
/// Where the socket is in every container, whichever it is outside.
const SOCKET_INSIDE: &str = "/run/gpu-broker/gpu-broker.sock";
/// Where the socket unit puts the main socket.
const MAIN_SOCKET: &str = "/run/gpu-broker/gpu-broker.sock";
/// Appended to a device's name where programs as they are get an Intel GPU.
const PRELOAD: &str = "-preload";
/// The first version of the format, and the one since which names may begin with a digit.
const VERSION: &str = "0.3.0";
const VERSION_DIGITS: &str = "0.5.0";

/// Hand the broker to containers
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a CDI file with a device for each policy class that has a socket of its own
    ///
    /// "default" is the main socket; a class whose `match.listener` names a listener is a device of
    /// its name. Each comes again as NAME-preload, for programs that want an Intel GPU's render node.
    /// Then `podman run --device gpu-broker.dev/session=NAME …`.
    Generate(Generate),
}

#[derive(Debug, clap::Args)]
struct Generate {
    /// The daemon's configuration [default: /etc/gpu-broker/gpu-brokerd.toml, if there is one]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Directory with libgpu_broker.so and libgpu_broker_preload.so [default: where they are installed]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    libraries: Option<PathBuf>,

    /// Directory of the container that the libraries appear in; its programs must look there
    #[arg(long, value_name = "DIR", default_value = "/usr/lib")]
    libraries_inside: PathBuf,

    /// File to write, such as /etc/cdi/gpu-broker.json [default: standard output]
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
}

/// The file. Fields are named and ordered as the format has them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: &'static str,
    kind: &'static str,
    devices: Vec<Device>,
    container_edits: Edits,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Serialize, Default)]
struct Edits {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: &'static [&'static str],
}

/// A socket and the name of the device that it becomes.
#[derive(PartialEq, Eq, Debug)]
struct Door {
    name: String,
    socket: PathBuf,
}

/// Does it. `socket` is the main one, if it was named.
///
/// # Errors
/// The configuration is wrong, a class has a name that no device may have, or the file cannot be
/// written.
pub(crate) fn run(args: Args, socket: Option<PathBuf>) -> Result<(), Failure> {
    let Action::Generate(args) = args.action;
    let daemon = gpu_brokerd::args::Args { config: args.config, ..Default::default() };
    let config = Config::load(&daemon).map_err(|error| Failure::new(error.to_string()))?;
    let doors = doors(&config, socket)?;
    let client = library(&["libgpu_broker.so.0", "libgpu_broker.so"], args.libraries.as_deref());
    let preload = library(&[find::NAME], args.libraries.as_deref());
    for (found, what) in
        [(&client, "programs must bring libgpu_broker.so"), (&preload, "no NAME-preload is made")]
    {
        if found.is_none() {
            anstream::eprintln!("gpu-broker: a library is not installed: {what}");
        }
    }
    let spec = spec(doors, client.as_deref(), preload.as_deref(), &args.libraries_inside);
    match &args.output {
        None => Out::new().json(&spec),
        Some(file) => write(file, &spec)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display()))),
    }
}

fn library(names: &[&str], directory: Option<&Path>) -> Option<PathBuf> {
    let found = names.iter().find_map(|name| match directory {
        Some(directory) => Some(directory.join(name)).filter(|file| file.is_file()),
        None => find::installed(name),
    })?;
    // Engines want absolute paths without links.
    std::fs::canonicalize(found).ok()
}

/// What can be come in by.
fn doors(config: &Config, socket: Option<PathBuf>) -> Result<Vec<Door>, Failure> {
    let main = socket.or_else(|| config.socket.clone()).unwrap_or_else(|| MAIN_SOCKET.into());
    let main = std::path::absolute(main).map_err(|error| Failure::new(error.to_string()))?;
    let mut doors = vec![Door { name: "default".to_owned(), socket: main }];
    for class in config.policy.classes().iter().filter(|class| !class.deny) {
        let listeners = class.listeners();
        for listener in listeners {
            let configured = config.listeners.iter().find(|other| other.name == *listener);
            let socket = match configured {
                Some(configured) => configured.socket.clone(),
                // The main socket is "default"; what is not configured, a socket unit makes.
                None if listener == "main" => continue,
                None => Path::new("/run/gpu-broker").join(listener).join("gpu-broker.sock"),
            };
            let name = match listeners {
                [_] => class.name.clone(),
                _ => format!("{}.{listener}", class.name),
            };
            doors.push(Door { name, socket });
        }
    }
    for Door { name, .. } in &doors {
        let twice = doors.iter().filter(|door| door.name == *name).count() > 1;
        let as_preload = name.strip_suffix(PRELOAD);
        if twice || as_preload.is_some_and(|name| doors.iter().any(|door| door.name == name)) {
            return Err(Failure::new(format!(
                "two devices would be called \"{name}\"; rename one class"
            )));
        }
        if !is_device_name(name) {
            return Err(Failure::new(format!(
                "\"{name}\" is no name for a device: it must begin and end with a letter or digit; \
                 rename the class"
            )));
        }
    }
    Ok(doors)
}

/// The format's rule for names of devices; between its ends ours have letters, digits, `-_.`.
fn is_device_name(name: &str) -> bool {
    let sound = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    sound(bytes.first()) && sound(bytes.last())
}

fn spec(doors: Vec<Door>, client: Option<&Path>, preload: Option<&Path>, inside: &Path) -> Spec {
    let mut devices = Vec::new();
    for Door { name, socket } in doors {
        let device = |name: String, extra: Option<(&Path, PathBuf)>| {
            let mut edits = Edits {
                env: vec![format!("GPU_BROKER_SOCKET={SOCKET_INSIDE}")],
                // Connecting is writing, so it is not read-only.
                mounts: vec![Mount {
                    host_path: socket.clone(),
                    container_path: SOCKET_INSIDE.into(),
                    options: &["bind", "rw", "nosuid", "nodev", "noexec"],
                }],
            };
            if let Some((library, place)) = extra {
                edits.env.push(format!("LD_PRELOAD={}", place.display()));
                edits.mounts.push(read_only(library, place));
            }
            Device { name, container_edits: edits }
        };
        let preloading = preload.map(|library| (library, inside.join(find::NAME)));
        devices.push(device(name.clone(), None));
        devices.extend(preloading.map(|it| device(format!("{name}{PRELOAD}"), Some(it))));
    }
    // Programs are linked with this name.
    let client = client.map(|library| read_only(library, inside.join("libgpu_broker.so.0")));
    let digits = |device: &Device| device.name.starts_with(|first: char| first.is_ascii_digit());
    Spec {
        cdi_version: if devices.iter().any(digits) { VERSION_DIGITS } else { VERSION },
        kind: KIND,
        devices,
        container_edits: Edits { env: Vec::new(), mounts: client.into_iter().collect() },
    }
}

fn read_only(library: &Path, place: PathBuf) -> Mount {
    Mount {
        host_path: library.to_owned(),
        container_path: place,
        options: &["bind", "ro", "nosuid", "nodev"],
    }
}

/// Engines watch the directory and must not find half a file.
fn write(file: &Path, spec: &Spec) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut part = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer_pretty(&mut part, spec)?;
    writeln!(part)?;
    // Engines run as any user.
    part.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    part.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("ours");
        let config = Some(file.path().to_owned());
        Config::load(&gpu_brokerd::args::Args { config, ..Default::default() }).expect("good")
    }

    #[test]
    fn a_class_with_a_listener_of_its_own_is_a_device() {
        let config = config(
            "socket = \"/run/x.sock\"\n\
             [[listener]]\nname = \"slow\"\nsocket = \"/run/slow.sock\"\n\
             [[class]]\nname = \"batch\"\nmatch.listener = [\"slow\"]\n\
             [[class]]\nname = \"media\"\nmatch.listener = [\"a\", \"b\", \"c-*\"]\n\
             [[class]]\nname = \"users\"\nmatch.uid = [\"1000-1999\"]\n\
             [[class]]\nname = \"out\"\ndeny = true\nmatch.listener = [\"x\"]\n",
        );
        let found = doors(&config, None).expect("good names");
        let found: Vec<(&str, &str)> =
            found.iter().map(|door| (&*door.name, door.socket.to_str().expect("text"))).collect();
        let expected = [
            ("default", "/run/x.sock"),
            ("batch", "/run/slow.sock"),
            ("media.a", "/run/gpu-broker/a/gpu-broker.sock"),
            ("media.b", "/run/gpu-broker/b/gpu-broker.sock"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_name_that_no_device_may_have_is_refused_in_words() {
        for (class, said) in [
            ("name = \"_x\"", "begin and end with a letter"),
            ("name = \"x.\"", "begin and end with a letter"),
            ("name = \"default-preload\"", "two devices would be called"),
        ] {
            let config = config(&format!("[[class]]\n{class}\nmatch.listener = [\"a\"]"));
            let failure = doors(&config, None).expect_err(class);
            assert!(failure.sentence().contains(said), "{}", failure.sentence());
        }
    }

    #[test]
    fn the_version_is_the_lowest_that_has_what_is_used() {
        let version = |name: &str| {
            let door = Door { name: name.to_owned(), socket: "/s".into() };
            spec(vec![door], None, None, Path::new("/usr/lib")).cdi_version
        };
        assert_eq!((version("a1"), version("1a")), ("0.3.0", "0.5.0"));
    }
}
