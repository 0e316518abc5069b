//! `gpu-broker`: the operator's tool. It starts the daemon, shows what it does, demonstrates it
//! and measures it.
//!
//! It speaks the protocol like any other client, through `gpu-broker-client`; the daemon is linked
//! in only so that `gpu-broker demo` and `gpu-broker bench` need nothing installed. Only `admin` acts
//! on other people's sessions, through a socket of its own.
//!
//! Start reading at [`args`], then the module of the command.
#![forbid(unsafe_code)]

mod admin;
mod args;
mod bench;
mod cdi;
mod connect;
mod demo;
mod doctor;
mod generate;
mod hang;
mod launch;
mod output;
mod policy;
mod run;
mod status;
mod top;
mod trace;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};

fn main() -> ExitCode {
    let Cli { socket, command } = Cli::parse();
    let result = match command {
        Command::Daemon(args) => return launch::run(args, socket),
        Command::Bench(args) => return bench::run(args, socket),
        Command::Run(args) => return run::run(&args, socket),
        Command::Doctor(args) => doctor::run(&args, socket),
        Command::Demo(args) => demo::run(&args),
        Command::DemoClient(args) => return demo::client::run(&args, socket),
        Command::Status(args) => status::run(&args, socket),
        Command::Top(args) => top::run(args, socket),
        Command::Trace(args) => trace::run(&args),
        Command::Policy(args) => policy::run(args),
        Command::Admin(args) => admin::run(args),
        Command::Cdi(args) => cdi::run(args, socket),
        Command::Hang(args) => hang::run(&args, socket),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man_pages(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
