//! The command line, shared by `gpu-brokerd` and `gpu-broker daemon`.

use std::path::PathBuf;

use clap::Parser;

/// Owns the GPU and lends it to programs that are not trusted with it.
///
/// What is given here wins over the environment, the environment over the configuration file, and
/// the file over the defaults.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "gpu-brokerd", version)]
pub struct Args {
    /// Socket to listen on [default: gpu-broker.sock in $RUNTIME_DIRECTORY or $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", env = "GPU_BROKER_SOCKET")]
    pub socket: Option<PathBuf>,

    /// Configuration file [default: /etc/gpu-broker/gpu-brokerd.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "GPU_BROKER_CONFIG")]
    pub config: Option<PathBuf>,

    /// GPU to use: auto, soft, or a render node such as /dev/dri/renderD128 [default: auto]
    #[arg(long, value_name = "DEVICE", env = "GPU_BROKER_DEVICE")]
    pub device: Option<String>,

    /// What to log: error, warn, info, debug, trace, or a tracing filter [default: info]
    #[arg(long, value_name = "LEVEL", env = "GPU_BROKER_LOG")]
    pub log_level: Option<String>,

    /// Whether the daemon confines itself: on, off, or kill (it ends at the first system call that is
    /// not on its list) [default: on]
    #[arg(long, value_name = "MODE", env = "GPU_BROKER_SANDBOX")]
    pub sandbox: Option<String>,

    /// The same as --sandbox off, for debugging
    #[arg(long, conflicts_with = "sandbox")]
    pub no_sandbox: bool,

    /// Read the configuration, say whether it is good, and exit
    #[arg(long)]
    pub check_config: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
