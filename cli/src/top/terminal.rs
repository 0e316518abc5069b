//! The terminal, taken and given back.

use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anstyle::Style;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::draw::Line;
use super::keys::{Key, keys};

/// How the terminal was before us. A panic and a signal need it too.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard input and output, as a screen with a keyboard until this is dropped.
pub(super) struct Terminal {
    /// What is on the screen.
    shown: Vec<Line>,
    size: (usize, usize),
    colours: bool,
}

impl Terminal {
    /// Takes it.
    ///
    /// # Errors
    /// The kernel's, where it is none.
    pub(super) fn take() -> io::Result<Self> {
        let modes = tcgetattr(io::stdin())?;
        let mut raw = modes.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        *before() = Some(modes);
        let inner = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            inner(panic);
        }));
        let terminal = Self {
            shown: Vec::new(),
            size: (0, 0),
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        // The other screen, without a cursor.
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(terminal)
    }

    /// Columns and lines, as they are now; 80 and 24 where the terminal does not say.
    pub(super) fn size() -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => (80, 24),
        }
    }

    /// Shows lines in place of what is there; only those that changed are written.
    ///
    /// # Errors
    /// The terminal's.
    pub(super) fn show(&mut self, size: (usize, usize), lines: Vec<Line>) -> io::Result<()> {
        let mut text = String::new();
        if size != self.size {
            self.shown.clear();
            self.size = size;
            text.push_str("\x1b[2J");
        }
        for (number, line) in lines.iter().enumerate() {
            if self.shown.get(number) != Some(line) {
                // Erased first: after the last column the cursor is still on it.
                text.push_str(&format!("\x1b[{};1H\x1b[2K", number + 1));
                line.iter().for_each(|(style, part)| self.put(&mut text, *style, part));
            }
        }
        self.shown = lines;
        write(&text)
    }

    fn put(&self, text: &mut String, style: Style, part: &str) {
        let style = if self.colours { style } else { style.fg_color(None) };
        text.push_str(&crate::output::styled(style, part));
    }

    /// Keys that were pressed within `time`; `None`: the terminal is gone.
    ///
    /// # Errors
    /// The terminal's.
    pub(super) fn keys(time: Duration) -> io::Result<Option<Vec<Key>>> {
        let input = io::stdin();
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Some(Vec::new())),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; 256];
        match rustix::io::read(&input, &mut bytes) {
            Ok(0) | Err(rustix::io::Errno::IO) => Ok(None),
            Ok(length) => Ok(Some(keys(bytes.get(..length).unwrap_or_default()))),
            Err(rustix::io::Errno::INTR) => Ok(Some(Vec::new())),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Leaves the terminal as it was, if it is taken.
pub(super) fn give_back() {
    if let Some(modes) = before().take() {
        // A terminal that is gone needs nothing.
        let _ = write("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &modes);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
