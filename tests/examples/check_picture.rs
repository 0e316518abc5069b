//! Says whether the demo's picture is one: `check_picture FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: check_picture FILE");
        return ExitCode::from(2);
    };
    match gpu_broker_tests::picture::check(path.as_ref()) {
        Ok(picture) => {
            println!("{}: {picture:?}", path.display());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{}: {problem}", path.display());
            ExitCode::FAILURE
        }
    }
}
