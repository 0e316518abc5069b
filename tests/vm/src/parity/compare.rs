//! Joins what three ways to the driver's rules said, and holds the differences against the list in
//! `tests/PARITY.md`.

use std::collections::{BTreeMap, BTreeSet};

/// A row of the list: `` | `PATTERN`, … | WAY | KERNEL | WHY | ``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Ids; `*` is anything.
    patterns: Vec<String>,
    /// Through which devices of the daemon it differs: `i915`, `soft` or `both`.
    ways: &'static [&'static str],
    /// `all`, or the one on which it does.
    kernel: String,
}

impl Listed {
    fn new(row: &str) -> Self {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let &[_, patterns, ways, kernel, why, _] = &*cells else {
            panic!("not cases, device, kernel, why: {row}")
        };
        assert!(!why.is_empty(), "no reason: {row}");
        let ways = match ways {
            "i915" => &["i915"][..],
            "soft" => &["soft"],
            "both" => &["i915", "soft"],
            _ => panic!("not a device: {row}"),
        };
        let patterns = patterns.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Self { patterns, ways, kernel: kernel.to_owned() }
    }

    fn is_for(&self, way: &str, kernel: &str) -> bool {
        self.ways.contains(&way) && (self.kernel == "all" || self.kernel == kernel)
    }
}

/// The rows of the list in a Markdown text.
///
/// # Panics
/// When a row is not as it should be.
pub(crate) fn listed(text: &str) -> Vec<Listed> {
    text.lines().filter(|line| line.starts_with("| `")).map(Listed::new).collect()
}

/// Whether a pattern's `*` can be filled in to give `id`.
fn matches(pattern: &str, id: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == id,
        Some((head, tail)) => id.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| &rest[at..])
                .chain([""])
                .any(|rest| matches(tail, rest))
        }),
    }
}

/// Outcomes by id.
///
/// # Panics
/// When a line has no tab, or an id comes twice.
pub(crate) fn outcomes(text: &str) -> BTreeMap<&str, &str> {
    let mut outcomes = BTreeMap::new();
    for line in text.lines() {
        let (id, outcome) = line.split_once('\t').expect("a line is id, tab, outcome");
        assert!(outcomes.insert(id, outcome).is_none(), "{id} comes twice");
    }
    outcomes
}

/// What is wrong, line by line, and how many cases of each area there are and differ as listed.
pub(crate) struct Report {
    pub(crate) wrong: Vec<String>,
    pub(crate) areas: BTreeMap<String, (usize, usize)>,
}

/// Compares the kernel's own outcomes with those through the daemon's two devices: what differs is
/// listed, and what is listed differs.
pub(crate) fn compare(
    list: &[Listed],
    kernel: &str,
    direct: &str,
    i915: &str,
    soft: &str,
) -> Report {
    let direct = outcomes(direct);
    let mut report = Report { wrong: Vec::new(), areas: BTreeMap::new() };
    let mut differing = BTreeSet::new();
    for (way, text) in [("i915", i915), ("soft", soft)] {
        let broker = outcomes(text);
        let strangers = broker.keys().filter(|id| !direct.contains_key(**id));
        report.wrong.extend(strangers.map(|id| format!("{id}: not done on the driver itself")));
        let patterns = list.iter().filter(|row| row.is_for(way, kernel));
        let patterns: Vec<_> = patterns.flat_map(|row| &row.patterns).collect();
        let mut used = vec![false; patterns.len()];
        for (id, kernels) in &direct {
            let ours = broker.get(id).copied().unwrap_or("was not done");
            let by: Vec<_> = (0..patterns.len()).filter(|at| matches(patterns[*at], id)).collect();
            by.iter().for_each(|at| used[*at] = true);
            match (ours == *kernels, by.is_empty()) {
                (true, true) => {}
                (true, false) => report.wrong.push(format!("{id}: listed for {way}, agrees")),
                (false, true) => {
                    report.wrong.push(format!("{id}\n  kernel {kernels}\n  {way:<6} {ours}"));
                }
                (false, false) => _ = differing.insert(*id),
            }
        }
        let unused = patterns.iter().zip(used).filter(|(_, used)| !used);
        report.wrong.extend(unused.map(|(pattern, _)| format!("{pattern}: listed, is no case")));
    }
    for id in direct.keys() {
        let area = id.split('/').next().unwrap_or(id).to_owned();
        let (cases, listed) = report.areas.entry(area).or_default();
        *cases += 1;
        *listed += usize::from(differing.contains(id));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "| cases | device | kernel | why |\n\
        | `a/*/x` | both | all | a quirk |\n| `c`, `d` | soft | new | another |\n";

    #[track_caller]
    fn wrong(direct: &str, i915: &str, soft: &str) -> Vec<String> {
        compare(&listed(LIST), "old", direct, i915, soft).wrong
    }

    #[test]
    fn what_differs_is_listed_and_what_is_listed_differs() {
        let (direct, ours) = ("a/1/x\tok\nb\tok\n", "a/1/x\tno\nb\tok\n");
        assert_eq!(wrong(direct, ours, ours), [""; 0]);
        let unlisted = wrong(direct, "a/1/x\tno\nb\tno\n", ours);
        assert_eq!(unlisted, ["b\n  kernel ok\n  i915   no"]);
        assert_eq!(wrong(direct, ours, direct), ["a/1/x: listed for soft, agrees"]);
        let none = ["a/*/x: listed, is no case"; 2];
        assert_eq!(wrong("b\tok\n", "b\tok\n", "b\tok\n"), none);
        let strange = wrong(direct, "a/1/x\tno\n", "a/1/x\tno\nb\tok\ne\tok\n");
        assert_eq!(
            strange,
            ["b\n  kernel ok\n  i915   was not done", "e: not done on the driver itself"]
        );
    }

    #[test]
    fn a_row_counts_for_its_device_and_its_kernel() {
        let list = listed(LIST);
        let (direct, ours) = ("a/1/x\tok\nc\tok\nd\tok\n", "a/1/x\tno\nc\tno\nd\tno\n");
        let on = |kernel, i915, soft| compare(&list, kernel, direct, i915, soft).wrong.len();
        let i915 = "a/1/x\tno\nc\tok\nd\tok\n";
        assert_eq!(on("new", i915, ours), 0);
        assert_eq!(on("new", ours, ours), 2, "the i915 device differs, and is not listed");
        assert_eq!(on("old", i915, ours), 2, "on this kernel it is not listed");
        let areas = compare(&list, "new", direct, i915, ours).areas;
        assert_eq!(areas.into_values().collect::<Vec<_>>(), [(1, 1), (1, 1), (1, 1)]);
    }

    #[test]
    fn stars_match_anything() {
        assert!(matches("a/*/b*", "a/x/y/b") && matches("*", "") && matches("a", "a"));
        assert!(!matches("a/*/b", "a/x/bc") && !matches("a*b*c", "acb"));
    }
}
