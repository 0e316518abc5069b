//! What people and programs see: standard output, failures, and how quantities are written.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// Headings.
pub(crate) const HEADING: Style = Style::new().bold();
/// What is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What is not.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// What matters less.
pub(crate) const QUIET: Style = Style::new().dimmed();

/// Text in a style.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Why a command failed: one sentence for standard error and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    sentence: String,
    code: u8,
}

impl Failure {
    /// Exit code 1.
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 1 }
    }

    /// Exit code 3: nobody listens.
    pub(crate) fn no_daemon(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 3 }
    }

    /// The sentence.
    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// Prints the sentence and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        anstream::eprintln!("{}: {}", styled(BAD, "gpu-broker"), self.sentence);
        ExitCode::from(self.code)
    }
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self::new(sentence)
    }
}

/// Standard output. Colours are left out unless it is a terminal and NO_COLOR is not set; a reader
/// that has gone away (`| head`) is no failure.
pub(crate) struct Out(anstream::AutoStream<io::StdoutLock<'static>>);

impl Out {
    /// Locks standard output.
    pub(crate) fn new() -> Self {
        Self(anstream::AutoStream::auto(io::stdout().lock()))
    }

    /// One or more lines; a newline is added.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        let result = writeln!(self.0, "{text}").and_then(|()| self.0.flush());
        Self::written(result)
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let result = self.0.write_all(bytes).and_then(|()| self.0.flush());
        Self::written(result)
    }

    /// A value as indented JSON.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(format!("cannot write JSON: {error}")))?;
        self.line(text)
    }

    fn written(result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::new(format!("cannot write to standard output: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// Text that a stranger chose, made harmless to a terminal: nothing but what is printed as itself.
pub(crate) fn harmless(text: &str) -> String {
    let shown = |c: char| {
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if hidden { '\u{fffd}' } else { c }
    };
    text.chars().map(shown).collect()
}

/// A number with its noun: `1 buffer`, `2 buffers`.
pub(crate) fn count(number: impl Into<u64>, noun: &str) -> String {
    match number.into() {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// Bytes with a binary unit: `0`, `4 KiB`, `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, unit) in units {
        if count >= size {
            let tenths = count / (size / 10).max(1);
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 || whole >= 100 {
                format!("{} {unit}", count / size)
            } else {
                format!("{whole}.{tenth} {unit}")
            };
        }
    }
    if count == 0 { "0".to_owned() } else { format!("{count} B") }
}

/// Nanoseconds as people say them: `850 ns`, `12.3 µs`, `4.5 ms`, `12.0 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn duration(ns: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", ns / unit, ns % unit / (unit / 10));
    const SECOND: u64 = 1_000_000_000;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", tenths(1_000)),
        1_000_000..SECOND => format!("{} ms", tenths(1_000_000)),
        _ if ns < 120 * SECOND => format!("{} s", tenths(SECOND)),
        _ if ns < 7_200 * SECOND => format!("{} min", ns / (60 * SECOND)),
        _ if ns < 172_800 * SECOND => format!("{} h", ns / (3_600 * SECOND)),
        _ => format!("{} d", ns / (86_400 * SECOND)),
    }
}

/// `part` of `whole` in per cent with one decimal; more than all of it is all of it (two clocks
/// were read).
pub(crate) fn per_cent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = (u128::from(part) * 1000 / u128::from(whole)).min(1000);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Rows in columns as wide as their widest cell, two spaces between; the first row is a heading.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// Headings; one that starts with `>` aligns its column to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let row = headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![row], right: headings.iter().map(|h| h.starts_with('>')).collect() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table with each line indented by `indent` spaces, without a final newline.
    pub(crate) fn render(&self, indent: usize) -> String {
        let cell_width = |row: &Vec<String>, i: usize| row.get(i).map_or(0, |c| c.chars().count());
        let widths: Vec<usize> = (0..self.right.len())
            .map(|i| self.rows.iter().map(|row| cell_width(row, i)).max().unwrap_or(0))
            .collect();
        let mut lines = Vec::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).zip(&self.right);
            let cells = cells.map(|((cell, width), right)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            let line = format!("{:indent$}{}", "", line.trim_end());
            lines.push(if number == 0 { styled(QUIET, line) } else { line });
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        let sizes = [0, 17, 4096, 1536, 5 << 20, 3 << 40, (1 << 30) - 1, 200 << 10];
        assert_eq!(
            sizes.map(bytes),
            ["0", "17 B", "4 KiB", "1.5 KiB", "5 MiB", "3 TiB", "1023 MiB", "200 KiB"]
        );
        let times = [999, 12_345, 4_500_000, 12_000_000_000, 300_000_000_000, 180_000_000_000_000];
        assert_eq!(times.map(duration), ["999 ns", "12.3 µs", "4.5 ms", "12.0 s", "5 min", "2 d"]);
        assert_eq!([0_u32, 1, 2].map(|n| count(n, "VM")), ["0 VMs", "1 VM", "2 VMs"]);
        assert_eq!(per_cent(1, 3), "33.3 %");
        assert_eq!(per_cent(7, 5), "100.0 %");
        assert_eq!(per_cent(7, 0), "-");
    }

    #[test]
    fn a_strangers_name_cannot_drive_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\u{202e}c\nd é"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d é");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">size"]);
        table.row(["ab".to_owned(), "12345".to_owned()]);
        table.row(["abcdéf".to_owned(), "1".to_owned()]);
        let text = anstream::adapter::strip_str(&table.render(2)).to_string();
        assert_eq!(text, "  name     size\n  ab      12345\n  abcdéf      1");
    }
}
