//! A client process as the demo sees it: orders in, answers out, all within a time.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::painters::Role;
use super::talk::{Answer, Message, Order};

/// How long a client may take for one order.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest line a client may say, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A client process. Dropping it ends the process.
pub(crate) struct Client {
    /// What it paints.
    pub(crate) role: Role,
    child: Child,
    orders: ChildStdin,
    answers: ChildStdout,
    /// Read, and not yet taken.
    buffer: Vec<u8>,
}

impl Client {
    /// Starts a client from our own executable.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn start(role: Role, socket: &Path) -> Result<Self, String> {
        let start = || -> io::Result<Self> {
            let mut child = Command::new(std::env::current_exe()?)
                .arg("--socket")
                .arg(socket)
                .arg("demo-client")
                .arg(role.name())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (orders, answers) = (child.stdin.take(), child.stdout.take());
            let (Some(orders), Some(answers)) = (orders, answers) else {
                return Err(io::Error::other("the pipes are missing"));
            };
            Ok(Self { role, child, orders, answers, buffer: Vec::new() })
        };
        start().map_err(|error| format!("cannot start client {}: {error}", role.name()))
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order; the answer is fetched with [`Self::answer`].
    ///
    /// # Errors
    /// A sentence, when the client is gone.
    pub(crate) fn order(&mut self, order: Order) -> Result<(), String> {
        let mut line = serde_json::to_vec(&order).map_err(|error| error.to_string())?;
        line.push(b'\n');
        match self.orders.write_all(&line) {
            Ok(()) => Ok(()),
            // It has ended, and its last message says why.
            Err(error) => match self.message() {
                Err(sentence) => Err(sentence),
                Ok(_) => Err(self.complaint(&error.to_string())),
            },
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// A sentence: the client's own when it failed.
    pub(crate) fn message(&mut self) -> Result<Message, String> {
        let line = self.line().map_err(|error| self.complaint(&error.to_string()))?;
        match serde_json::from_slice(&line) {
            Ok(Message::Failed { sentence }) => Err(sentence),
            Ok(message) => Ok(message),
            Err(error) => Err(self.complaint(&format!("it says nonsense: {error}"))),
        }
    }

    /// The answer to the last order, and the pixels that came with it.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub(crate) fn answer(&mut self) -> Result<(Answer, Option<Vec<u8>>), String> {
        let answer = match self.message()? {
            Message::Done(answer) => answer,
            Message::Ready { .. } | Message::Failed { .. } => {
                return Err(self.complaint("it answers something else"));
            }
        };
        let pixels = match answer.pixels {
            Some(length) => {
                let pixels = self.take(length);
                Some(pixels.map_err(|error| self.complaint(&error.to_string()))?)
            }
            None => None,
        };
        Ok((answer, pixels))
    }

    fn complaint(&self, what: &str) -> String {
        format!("client {} (pid {}): {what}", self.role.name(), self.pid())
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX {
                return Err(io::Error::other("it says too much"));
            }
            self.fill(deadline)?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while self.buffer.len() < length {
            self.fill(deadline)?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Reads what there is, waiting for something until the deadline.
    fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.answers, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(io::Error::other(format!("no answer in {ANSWER_TIMEOUT:?}"))),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let mut chunk = [0; 64 * 1024];
        match self.answers.read(&mut chunk)? {
            0 => Err(io::Error::other("it ended without a word")),
            length => {
                self.buffer.extend_from_slice(chunk.get(..length).unwrap_or(&[]));
                Ok(())
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A client that was told to quit is gone or about to go; one that was not must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
