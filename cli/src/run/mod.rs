//! `gpu-broker run`: a program on the broker, with the preload library and, if wanted, in a sandbox.

mod bubblewrap;
pub(crate) mod find;
mod namespaces;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::connect::connect;
use crate::output::Failure;

/// Run a program on the broker, as if it had an Intel GPU in /dev/dri
///
/// The program is started with libgpu_broker_preload.so, which shows it the broker's GPU. Static,
/// setuid and 32-bit programs cannot be helped: they see the machine as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Give the program nothing but the broker: an empty /dev, a private /tmp, no network, files
    /// read-only outside the current directory
    #[arg(long)]
    sandbox: bool,

    /// Leave the network to a program in the sandbox
    #[arg(long, requires = "sandbox")]
    network: bool,

    /// The preload library [default: beside gpu-broker, in ../lib, or where it is installed]
    #[arg(long, value_name = "FILE", env = find::VARIABLE, hide_env_values = true)]
    library: Option<PathBuf>,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXIT_CODES: &str = "\
Exit codes: the program's own; 1 it could not be started; 3 no daemon listens on the socket.";

/// bubblewrap, if it is installed.
pub(crate) fn bubblewrap() -> Option<PathBuf> {
    bubblewrap::find()
}

/// What a program is started with.
pub(crate) struct Plan<'a> {
    command: &'a [OsString],
    library: PathBuf,
    socket: PathBuf,
    network: bool,
}

/// Where the library and the socket are inside a sandbox.
const INSIDE: &str = "/tmp/.gpu-broker";

/// Runs the program; comes back only if it runs under bubblewrap, or not at all.
pub(crate) fn run(args: &Args, socket: Option<PathBuf>) -> ExitCode {
    let result = plan(args, socket).and_then(|plan| match (args.sandbox, bubblewrap::find()) {
        (false, _) => Err(plan.exec(&plan.library, &plan.socket)),
        (true, Some(bwrap)) => bubblewrap::run(&bwrap, &plan),
        (true, None) => Err(namespaces::run(&plan)),
    });
    result.unwrap_or_else(|failure| failure.report())
}

fn plan(args: &Args, socket: Option<PathBuf>) -> Result<Plan<'_>, Failure> {
    let socket = socket.unwrap_or_else(gpu_broker_client::default_socket_path);
    // Now, so that it is said here and not by a program that finds no GPU.
    drop(connect(Some(socket.clone()))?);
    let library = match &args.library {
        Some(library) => library.clone(),
        None => find::library().ok_or_else(|| Failure::new(find::MISSING))?,
    };
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    };
    let (library, socket) = (absolute(&library)?, absolute(&socket)?);
    if !library.is_file() {
        return Err(Failure::new(format!("there is no library {}", library.display())));
    }
    Ok(Plan { command: &args.command, library, socket, network: args.network })
}

impl Plan<'_> {
    /// Becomes the program.
    fn exec(&self, library: &Path, socket: &Path) -> Failure {
        let Some((program, arguments)) = self.command.split_first() else {
            return Failure::new("no program was named");
        };
        let mut command = Command::new(program);
        command.args(arguments);
        for (name, value) in environment(library, socket) {
            command.env(name, value);
        }
        let error = command.exec();
        Failure::new(format!("{} cannot be started: {error}", Path::new(program).display()))
    }
}

/// Variables a program on the broker is started with.
fn environment(library: &Path, socket: &Path) -> [(&'static str, OsString); 2] {
    let mut preload = OsString::from(library);
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(OsStr::new(":"));
        preload.push(others);
    }
    [("LD_PRELOAD", preload), ("GPU_BROKER_SOCKET", socket.into())]
}
