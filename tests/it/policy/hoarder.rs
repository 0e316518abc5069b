//! The test's end of a `hoarder` process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A client process that takes what it is told to.
pub(super) struct Hoarder {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Hoarder {
    /// Starts it; the answer is its first line.
    pub(super) fn start(socket: &Path) -> (Self, String) {
        Self::start_as(Path::new(env!("CARGO_BIN_EXE_hoarder")), socket, |_| {})
    }

    /// The same with a copy of it, and with changes to how it is started.
    pub(super) fn start_as(
        program: &Path,
        socket: &Path,
        change: impl FnOnce(&mut Command),
    ) -> (Self, String) {
        let mut command = Command::new(program);
        command.arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().expect("hoarder can be started");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = (input.expect("piped"), BufReader::new(output.expect("piped")));
        let mut hoarder = Self { child, input, output };
        let line = hoarder.line();
        (hoarder, line)
    }

    /// Has it do something, and returns its answer.
    pub(super) fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("hoarder lives");
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }
}

impl Drop for Hoarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
