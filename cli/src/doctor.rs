//! `gpu-broker doctor`: what is missing for programs to run on the broker.

use std::path::PathBuf;

use gpu_broker_client::protocol::status::{Confinement, Wall};
use serde::Serialize;

use crate::args::JsonFlag;
use crate::connect::connect;
use crate::output::{BAD, Failure, GOOD, Out, styled};
use crate::run::find;

/// Say what is missing for programs to run on the broker
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    json: JsonFlag,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    well: bool,
    told: String,
}

/// Looks at everything and says it.
///
/// # Errors
/// Something that programs need is missing.
pub(crate) fn run(args: &Args, socket: Option<PathBuf>) -> Result<(), Failure> {
    let findings = [daemon(socket), library(), memory(), sandbox(), nodes()];
    let mut out = Out::new();
    if args.json.json {
        out.json(&findings)?;
    } else {
        for Finding { what, well, told } in &findings {
            let mark = if *well { styled(GOOD, "ok") } else { styled(BAD, "--") };
            out.line(format!("{mark} {what}: {told}"))?;
        }
    }
    // Without bubblewrap or beside a real node programs run all the same.
    let broken = findings.iter().take(3).filter(|finding| !finding.well).count();
    if broken == 0 { Ok(()) } else { Err(Failure::new("programs cannot run on the broker yet")) }
}

fn daemon(socket: Option<PathBuf>) -> Finding {
    let what = "daemon";
    match connect(socket) {
        Ok(connection) => {
            let device = &connection.hello().device;
            let told = format!(
                "answers, with {} ({:04x}:{:04x}, driver {})",
                device.name, device.vendor_id, device.device_id, device.driver
            );
            let told = match connection.confinement() {
                Ok(Confinement { system_calls, files }) => {
                    let state = |wall: &Wall| if wall.holds { "confined" } else { "not confined" };
                    let (calls, files) = (state(&system_calls), state(&files));
                    format!("{told}; its system calls are {calls}, its files {files}")
                }
                Err(_) => told,
            };
            let wedged = "; the GPU is wedged: unload its driver and load it again, or reboot";
            let told = if device.wedged { told + wedged } else { told };
            Finding { what, well: !device.wedged, told }
        }
        Err(failure) => Finding { what, well: false, told: failure.sentence().to_owned() },
    }
}

fn library() -> Finding {
    let what = "preload library";
    let named = std::env::var_os(find::VARIABLE).map(PathBuf::from);
    match named.or_else(find::library).filter(|library| library.is_file()) {
        Some(library) => Finding { what, well: true, told: library.display().to_string() },
        None => Finding { what, well: false, told: find::MISSING.to_owned() },
    }
}

/// The preload keeps the device's files there.
fn memory() -> Finding {
    let what = "place for the device's files";
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let places = runtime.map(PathBuf::from).into_iter().chain([std::env::temp_dir()]);
    let writable = |place: &PathBuf| tempfile::tempdir_in(place).is_ok();
    match places.into_iter().find(writable) {
        Some(place) => Finding { what, well: true, told: place.display().to_string() },
        None => Finding {
            what,
            well: false,
            told: "neither $XDG_RUNTIME_DIR nor the temporary directory can be written".to_owned(),
        },
    }
}

fn sandbox() -> Finding {
    let what = "bubblewrap";
    match crate::run::bubblewrap() {
        Some(bwrap) => Finding { what, well: true, told: bwrap.display().to_string() },
        None => Finding {
            what,
            well: false,
            told: "not installed; `run --sandbox` uses namespaces of its own, which hide less"
                .to_owned(),
        },
    }
}

fn nodes() -> Finding {
    let what = "device nodes";
    let found = std::fs::read_dir("/dev/dri").is_ok_and(|mut entries| entries.next().is_some());
    let told = if found {
        "/dev/dri is here; only `run --sandbox` keeps programs from opening it past the broker"
    } else {
        "none in /dev/dri, so programs have the broker's GPU and no other"
    };
    Finding { what, well: !found, told: told.to_owned() }
}
