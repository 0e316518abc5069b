//! Shell completions and manual pages, both made from the command line's definition so that they
//! cannot differ from it.

use std::io;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, ValueHint};
use clap_complete::Shell;

use crate::args::Cli;
use crate::output::{Failure, Out};

/// Arguments of `gpu-broker completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to complete for
    shell: Shell,
}

/// Arguments of `gpu-broker man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages; made if it does not exist
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

/// Prints the completions.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "gpu-broker", &mut script);
    Out::new().bytes(&script)
}

/// Writes `gpu-broker.1` and a page per command, and `gpu-brokerd.1`.
///
/// # Errors
/// The directory or a page cannot be written.
pub(crate) fn man_pages(args: &ManArgs) -> Result<(), Failure> {
    let directory = &args.directory;
    write_pages(directory).map_err(|error| {
        Failure::new(format!("cannot write manual pages to {}: {error}", directory.display()))
    })
}

fn write_pages(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut cli = command();
    cli.build();
    write_page(directory, &cli)?;
    write_page(directory, &gpu_brokerd::args::Args::command())
}

fn write_page(directory: &Path, command: &clap::Command) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(&name).render(&mut page)?;
    std::fs::write(directory.join(format!("{name}.1")), page)?;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        write_page(directory, below)?;
    }
    Ok(())
}

/// The command line without what is hidden: the generators would show it.
fn command() -> clap::Command {
    let cli = Cli::command();
    let visible: Vec<clap::Command> =
        cli.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let mut bare = clap::Command::new("gpu-broker")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .after_help(crate::args::EXIT_CODES)
        .args(cli.get_arguments().cloned())
        .subcommands(visible);
    if let Some(about) = cli.get_about() {
        bare = bare.about(about.clone());
    }
    if let Some(about) = cli.get_long_about() {
        bare = bare.long_about(about.clone());
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_the_commands_and_no_hidden_one() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "gpu-broker", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("status"), "{shell}");
            assert!(!script.contains("demo-client"), "{shell}");
        }
    }

    #[test]
    fn there_is_a_page_per_command() {
        let directory = tempfile::tempdir().unwrap();
        write_pages(directory.path()).unwrap();
        let mut pages: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        pages.sort();
        let visible = command();
        let mut expected = vec!["gpu-broker.1".to_owned(), "gpu-brokerd.1".to_owned()];
        let below =
            visible.get_subcommands().map(|below| format!("gpu-broker-{}.1", below.get_name()));
        expected.extend(below);
        for page in &expected {
            assert!(pages.contains(page), "{page} is missing");
        }
        assert!(expected.len() > 7, "only {} commands were found", expected.len());
        assert!(!pages.iter().any(|page| page.contains("demo-client")));
        let main = std::fs::read_to_string(directory.path().join("gpu-broker.1")).unwrap();
        assert!(main.contains("Exit codes"));
    }
}
