//! The measured table: for people, for Markdown, for programs.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::metric::{Metric, Target, Unit};
use super::stats::Figure;

/// One measured metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Row {
    /// What was measured.
    pub(super) metric: Metric,
    /// What it came to, or what is missing to measure it.
    pub(super) figure: Result<Figure, &'static str>,
}

/// How a figure compares with its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// There is no target.
    NoTarget,
    /// What it should be.
    Aim,
    /// What it must be.
    Must,
    /// Neither.
    Missed,
    /// Something is missing.
    NotMeasured,
}

/// A row of `--json`.
#[derive(Serialize)]
struct JsonRow {
    name: String,
    value: Option<f64>,
    unit: &'static str,
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<&'static str>,
}

impl Row {
    /// How the figure compares with its target.
    pub(super) fn verdict(&self) -> Verdict {
        let Ok(figure) = &self.figure else { return Verdict::NotMeasured };
        let (must, aim) = match self.metric.target() {
            None => return Verdict::NoTarget,
            Some(Target::RatioAtMost { must, aim }) => match figure.ratio {
                Some(ratio) => (ratio <= must, ratio <= aim),
                None => (false, false),
            },
            Some(Target::AtMost { must, aim }) => (figure.value <= must, figure.value <= aim),
            Some(Target::AtLeast { must, aim }) => (figure.value >= must, figure.value >= aim),
        };
        match (must, aim) {
            (_, true) => Verdict::Aim,
            (true, false) => Verdict::Must,
            (false, false) => Verdict::Missed,
        }
    }

    fn cells(&self) -> [String; 8] {
        let (must, aim) = self.metric.target().map_or_else(Default::default, bounds);
        let (metric, unit) = (self.metric, self.metric.unit());
        let (value, unit, ratio) = self.figure.map_or_else(
            |_| (String::new(), String::new(), None),
            |figure| (amount(figure.value, unit), unit.name().to_owned(), figure.ratio),
        );
        let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let what = match self.figure {
            Ok(_) => metric.description().to_owned(),
            Err(missing) => format!("{}: {missing}", metric.description()),
        };
        [metric.name(), value, unit, ratio, must, aim, self.verdict().to_string(), what]
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTarget => "",
            Self::Aim => "aim holds",
            Self::Must => "must holds",
            Self::Missed => "MISSED",
            Self::NotMeasured => "not measured",
        })
    }
}

const HEADINGS: [&str; 8] = ["name", "value", "unit", "ratio", "must", "aim", "verdict", "what"];
const RIGHT_ALIGNED: [bool; 8] = [false, true, false, true, true, true, false, false];

/// Aligned columns, one line per row after the headings.
pub(super) fn table(rows: &[Row]) -> String {
    let lines: Vec<_> =
        std::iter::once(HEADINGS.map(str::to_owned)).chain(rows.iter().map(Row::cells)).collect();
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for ((cell, width), right) in line.iter().zip(widths).zip(RIGHT_ALIGNED) {
            let cell =
                if right { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            text.push_str(&cell);
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// The same as a Markdown table, with the command that measures each row alone.
pub(super) fn markdown_table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| what | value | × reference | must | aim | verdict | `gpu-broker bench --only …` |\n\
         |---|--:|--:|--:|--:|---|---|\n",
    );
    for row in rows {
        let [name, value, unit, ratio, must, aim, verdict, what] = row.cells();
        out.push_str(&format!(
            "| {what} | {value} {unit} | {ratio} | {must} | {aim} | {verdict} | `{name}` |\n"
        ));
    }
    out
}

/// An array of `{name, value, unit, ratio}`; where something is missing, `value` is null and
/// `missing` says what.
///
/// # Errors
/// A figure is not a finite number.
pub(super) fn json(rows: &[Row]) -> serde_json::Result<String> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| JsonRow {
            name: row.metric.name(),
            value: row.figure.ok().map(|figure| figure.value),
            unit: row.metric.unit().name(),
            ratio: row.figure.ok().and_then(|figure| figure.ratio),
            missing: row.figure.err(),
        })
        .collect();
    serde_json::to_string_pretty(&rows)
}

fn bounds(target: Target) -> (String, String) {
    let (sign, mark, must, aim) = match target {
        Target::RatioAtMost { must, aim } => ("≤", "x", must, aim),
        Target::AtMost { must, aim } => ("≤", "", must, aim),
        Target::AtLeast { must, aim } => ("≥", "", must, aim),
    };
    (format!("{sign} {must}{mark}"), format!("{sign} {aim}{mark}"))
}

fn amount(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Micros | Unit::Millis | Unit::Times | Unit::PerCent => format!("{value:.2}"),
        Unit::PerSecond | Unit::Bytes => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: Metric, value: f64, ratio: Option<f64>) -> Row {
        Row { metric, figure: Ok(Figure { value, ratio }) }
    }

    #[test]
    fn a_verdict_looks_at_the_ratio_or_at_the_value_as_the_target_says() {
        let cases = [
            (row(Metric::Execbuf, 99.0, Some(1.5)), Verdict::Aim),
            (row(Metric::Execbuf, 1.0, Some(1.7)), Verdict::Must),
            (row(Metric::Execbuf, 1.0, Some(1.71)), Verdict::Missed),
            (row(Metric::Execbuf, 1.0, None), Verdict::Missed),
            (row(Metric::Hello, 15.0, Some(5.0)), Verdict::Aim),
            (row(Metric::Hello, 30.1, Some(1.0)), Verdict::Missed),
            (row(Metric::ExecbufRate128, 350_000.0, None), Verdict::Aim),
            (row(Metric::ExecbufRate128, 349_999.0, None), Verdict::Must),
            (row(Metric::ExecbufRate128, 249_999.0, None), Verdict::Missed),
            (row(Metric::Reference, 3.0, Some(1.0)), Verdict::NoTarget),
        ];
        for (row, verdict) in cases {
            assert_eq!(row.verdict(), verdict, "{row:?}");
        }
    }

    #[test]
    fn tables_are_aligned_and_complete() {
        let rows = [
            row(Metric::Execbuf, 4.449, Some(1.4532)),
            row(Metric::ExecbufRate128, 361_234.4, None),
        ];
        let expected = "\
name               value  unit  ratio      must       aim  verdict    what
execbuf             4.45  us     1.45    ≤ 1.7x    ≤ 1.5x  aim holds  EXECBUF, empty batch, 1 buffer
execbuf_rate_128  361234  1/s          ≥ 250000  ≥ 350000  aim holds  EXECBUF, 128 clients
";
        assert_eq!(table(&rows), expected);
        let markdown = markdown_table(&rows);
        assert_eq!(markdown.lines().count(), 4);
        assert!(
            markdown.contains(
                "| EXECBUF, 128 clients | 361234 1/s |  | ≥ 250000 | ≥ 350000 | aim holds | `execbuf_rate_128` |"
            ),
            "{markdown}"
        );
    }

    #[test]
    fn a_row_that_cannot_be_measured_says_what_is_missing() {
        let rows = [Row { metric: Metric::GemCreate, figure: Err("it is not installed") }];
        assert_eq!(rows[0].verdict(), Verdict::NotMeasured);
        assert!(table(&rows).contains("not measured"));
        let markdown = markdown_table(&rows);
        assert!(markdown.contains("each: it is not installed |"), "{markdown}");
        assert!(markdown.contains("| not measured | `gem_create` |"), "{markdown}");
        let value: serde_json::Value =
            serde_json::from_str(&json(&rows).expect("finite")).expect("it is JSON");
        assert_eq!(value[0]["value"], serde_json::Value::Null);
        assert_eq!(value[0]["missing"], "it is not installed");
    }

    #[test]
    fn json_has_the_four_fields_and_null_where_there_is_no_ratio() {
        let text = json(&[row(Metric::IdleClientBytes, 2048.5, None)]).expect("finite");
        let value: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(
            value,
            serde_json::json!([
                {"name": "idle_client_bytes", "value": 2048.5, "unit": "B", "ratio": null}
            ])
        );
    }
}
