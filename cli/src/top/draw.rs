//! The state as lines of a screen of any size.

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::model::{Column, EngineLine, Frame, Row};
use super::state::State;
use super::text::{cell, header};
use crate::output::{BAD, GOOD, HEADING, QUIET};

/// A line of the screen: text with its styles, never wider than the screen.
pub(super) type Line = Vec<(Style, String)>;

/// Least width of an engine's bar with its name and figures.
const ENGINE_WIDTH_MIN: usize = 38;

/// The columns that go first where there is no room, then the next.
const LESS_NEEDED: [Column; 8] = [
    Column::Refusals,
    Column::Contexts,
    Column::Uid,
    Column::Class,
    Column::Hangs,
    Column::Flight,
    Column::Pid,
    Column::Memory,
];

const ASKED: Style = AnsiColor::Yellow.on_default().bold();
const CHOSEN: Style = AnsiColor::Cyan.on_default().bold();
const HEADINGS: Style = Style::new().invert();

/// Every line of the screen.
pub(super) fn draw(state: &State, (width, height): (usize, usize)) -> Vec<Line> {
    let (style, words) = footer(state);
    let foot = wrapped(words, width, (height / 3).max(1));
    let mut lines = Vec::new();
    if let Some(frame) = &state.frame {
        lines.push(vec![(HEADING, fit(&header(frame), width, false))]);
        // The sessions are what a small screen is for: bars get a third of it.
        lines.extend(engine_bars(frame, width).into_iter().take(height / 3));
        let room = height.saturating_sub(lines.len() + foot.len());
        lines.extend(sessions(state, width, room));
    }
    lines.resize(height.saturating_sub(foot.len()), Line::new());
    lines.extend(foot.into_iter().map(|line| vec![(style, line)]));
    lines.truncate(height);
    lines.into_iter().map(|line| clip(line, width)).collect()
}

/// Cuts what is beyond the right edge.
fn clip(line: Line, mut width: usize) -> Line {
    let mut clipped = Line::new();
    for (style, part) in line {
        let part = fit(&part, part.width().min(width), false);
        width = width.saturating_sub(part.width());
        clipped.push((style, part));
    }
    clipped
}

/// The bottom: what is asked, what went wrong, what was done, or else the keys.
fn footer(state: &State) -> (Style, &str) {
    const KEYS: &str = "q quit  k kill  left/right or capital letter: sort  i invert  up/down move";
    let asking = state.asking.as_ref().map(|asking| (ASKED, &*asking.text));
    let trouble = state.trouble.as_deref().map(|trouble| (BAD, trouble));
    let said = state.said.as_deref().map(|said| (Style::new(), said));
    asking.or(trouble).or(said).unwrap_or((QUIET, KEYS))
}

/// Words in lines of at most `width`, of which there are at most `most`.
fn wrapped(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let taken = lines.last().map_or(0, |line| line.width());
        if taken > 0 && taken + word.trim_end().width() > width && lines.len() < most {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines.iter().map(|line| fit(line, width, false).trim_end().to_owned()).collect()
}

/// Text of exactly `width` cells: cut, or filled up with spaces.
fn fit(text: &str, width: usize, right: bool) -> String {
    let mut taken = 0;
    let fits = |c: &char| {
        taken += c.width().unwrap_or(0);
        taken <= width
    };
    let text: String = text.chars().take_while(fits).collect();
    let space = " ".repeat(width.saturating_sub(text.width()));
    if right { space + &text } else { text + &space }
}

fn engine_bars(frame: &Frame, width: usize) -> Vec<Line> {
    let abreast = (width / ENGINE_WIDTH_MIN).max(1);
    let each = (width.saturating_sub(abreast - 1)) / abreast;
    let line = |engines: &[EngineLine]| {
        let mut line = Line::new();
        for engine in engines {
            if !line.is_empty() {
                line.push((Style::new(), " ".to_owned()));
            }
            line.extend(engine_bar(engine, each));
        }
        line
    };
    frame.engines.chunks(abreast).map(line).collect()
}

/// `rcs0   [|||||       ]  41.7 %    2 queued`
fn engine_bar(engine: &EngineLine, width: usize) -> Line {
    let name = fit(&engine.name, 6, false);
    let figures = format!(" {:>5.1} % {:>4} queued", engine.busy_percent, engine.queued);
    let Some(bar) = width.checked_sub(name.width() + figures.len() + 3).filter(|bar| *bar > 0)
    else {
        return vec![(Style::new(), fit(&format!("{name}{figures}"), width, false))];
    };
    let full = (1..=bar).filter(|cell| middle(*cell, bar) <= engine.busy_percent).count();
    let style = if engine.busy_percent > 90.0 { BAD } else { GOOD };
    vec![
        (Style::new(), format!("{name} [")),
        (style, "|".repeat(full)),
        (Style::new(), format!("{}]{figures}", " ".repeat(bar.saturating_sub(full)))),
    ]
}

/// The percentage from which on a cell of a bar is full: the middle of what it stands for.
fn middle(cell: usize, cells: usize) -> f64 {
    let number = |of: usize| f64::from(u32::try_from(of).unwrap_or(u32::MAX));
    (number(cell) - 0.5) * 100.0 / number(cells.max(1))
}

/// The table: its headings, and as many sessions around the cursor as there is room for.
fn sessions(state: &State, width: usize, room: usize) -> Vec<Line> {
    let columns = columns(width);
    let mut headings = Line::new();
    for (column, size) in &columns {
        let chosen = *column == state.order.column;
        let style = if chosen { HEADINGS.bold().underline() } else { HEADINGS };
        if !headings.is_empty() {
            headings.push((HEADINGS, " ".to_owned()));
        }
        headings.push((style, fit(column.heading(), *size, column.is_number())));
    }
    let place = state.place().unwrap_or_default();
    let below = room.saturating_sub(1);
    let above = (place + 1).saturating_sub(below);
    let line = |(number, row): (usize, &Row)| {
        let cells = columns.iter().map(|(of, size)| fit(&cell(row, *of), *size, of.is_number()));
        let style = if number == place { CHOSEN } else { Style::new() };
        vec![(style, fit(&cells.collect::<Vec<_>>().join(" "), width, false))]
    };
    let rows = state.rows().iter().enumerate().skip(above).take(below).map(line);
    std::iter::once(headings).chain(rows).take(room).collect()
}

/// The columns for which there is room, with their widths; the name takes what is left.
fn columns(width: usize) -> Vec<(Column, usize)> {
    let mut columns = Column::ALL.map(|column| (column, least(column))).to_vec();
    let taken = |columns: &[(Column, usize)]| {
        let sizes: usize = columns.iter().map(|(_, size)| size + 1).sum();
        sizes.saturating_sub(1)
    };
    for needless in LESS_NEEDED {
        if taken(&columns) > width {
            columns.retain(|(column, _)| *column != needless);
        }
    }
    let left = width.saturating_sub(taken(&columns));
    for (column, size) in &mut columns {
        if *column == Column::Name {
            *size += left;
        }
    }
    columns
}

const fn least(column: Column) -> usize {
    match column {
        Column::Name => 10,
        Column::Class | Column::Memory => 9,
        Column::Pid => 7,
        Column::Session | Column::Busy => 6,
        Column::Uid | Column::Flight | Column::Refusals => 5,
        Column::Contexts | Column::Hangs => 4,
    }
}
