//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::{
    admin, bench, cdi, demo, doctor, generate, hang, launch, policy, run, status, top, trace,
};

/// Lend a GPU to programs that are not trusted with it.
///
/// gpu-broker starts the daemon, shows what it does, demonstrates it and measures it. Without
/// Intel hardware everything runs on a software GPU.
#[derive(Debug, Parser)]
#[command(
    name = "gpu-broker",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXIT_CODES
)]
pub(crate) struct Cli {
    /// Socket of the daemon to run or to ask [default: gpu-broker.sock in $XDG_RUNTIME_DIR]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "GPU_BROKER_SOCKET",
        hide_env_values = true,
        value_hint = ValueHint::FilePath
    )]
    pub(crate) socket: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Shown after the help, and in the manual.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 it failed, standard error says why; 2 the command line is wrong; \
3 no daemon listens on the socket.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon: own the GPU and serve clients until SIGTERM
    Daemon(launch::Args),
    // Without a comment of its own, the help says what the arguments' documentation says.
    Demo(demo::Args),
    /// Show sessions, their contexts, and how busy the engines are
    Status(status::Args),
    Top(top::Args),
    Trace(trace::Args),
    /// List and show batches that hung or faulted: who hung the GPU?
    Hang(hang::Args),
    Run(run::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Policy(policy::Args),
    Admin(admin::Args),
    Cdi(cdi::Args),
    /// Write shell completions to standard output
    Completions(generate::CompletionsArgs),
    /// Write the manual pages into a directory
    Man(generate::ManArgs),
    /// One client process of the demo
    #[command(hide = true)]
    DemoClient(demo::client::Args),
}

/// `--json`, the same for every command that prints data.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct JsonFlag {
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_the_socket_before_or_after_its_name() {
        for command in ["status", "bench", "daemon"] {
            let before = Cli::parse_from(["gpu-broker", "--socket", "/x", command]);
            let after = Cli::parse_from(["gpu-broker", command, "--socket", "/x"]);
            for cli in [before, after] {
                let of_daemon =
                    if let Command::Daemon(args) = cli.command { args.daemon.socket } else { None };
                let socket = of_daemon.or(cli.socket);
                assert_eq!(socket.as_deref(), Some(Path::new("/x")), "{command}");
            }
        }
    }

    #[test]
    fn what_prints_data_has_json() {
        let cli = Cli::command();
        for name in ["demo", "status", "top", "trace", "bench"] {
            let command = cli.find_subcommand(name).unwrap();
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some("json")), "{name}");
        }
    }

    #[test]
    fn help_hides_what_is_not_for_people() {
        let help = Cli::command().render_long_help().to_string();
        assert!(!help.contains("demo-client"));
        assert!(help.contains("Exit codes: 0"));
    }
}
