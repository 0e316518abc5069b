//! The rule table as a table: [`rows::ROWS`] names every row of §2 to §6, §8, §10, §11, §13, §14
//! and §16, and this test has at least one case for each. It says how many, section by section.

mod clone;
mod context;
mod engines;
mod execbuf;
mod fences;
mod objects;
mod rows;
mod sseu;
mod userptr;

use std::collections::BTreeMap;

use gpu_broker_protocol::Refusal;

use crate::params;
use crate::rig::errno;

/// Counts cases by row.
#[derive(Default)]
pub(crate) struct Book(BTreeMap<&'static str, u32>);

impl Book {
    /// A case of the row whose answer is this errno, 0 for success. Gives what came with success.
    #[track_caller]
    pub(crate) fn errno<T: std::fmt::Debug>(
        &mut self,
        row: &'static str,
        expected: i32,
        result: Result<T, Refusal>,
    ) -> Option<T> {
        assert_eq!(errno(&result), expected, "rule {row}: {result:?}");
        self.count(row);
        result.ok()
    }

    /// A case of the row that is about what can be seen afterwards.
    #[track_caller]
    pub(crate) fn effect(&mut self, row: &'static str, holds: bool) {
        assert!(holds, "rule {row}");
        self.count(row);
    }

    #[track_caller]
    pub(crate) fn count(&mut self, row: &'static str) {
        *self.0.entry(row).or_default() += 1;
    }
}

fn section(row: &str) -> &str {
    row.split_once('/').map_or(row, |(section, _)| section)
}

#[test]
fn every_row_of_the_table_holds() {
    let mut book = Book::default();
    context::check(&mut book);
    params::enumerate(&mut book);
    sseu::check(&mut book);
    engines::check(&mut book);
    execbuf::check(&mut book);
    objects::check(&mut book);
    fences::check(&mut book);
    userptr::check(&mut book);
    clone::check(&mut book);
    let mut sections: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
    let mut without_case = Vec::new();
    for (row, sentence) in rows::ROWS {
        match book.0.remove(row) {
            Some(cases) => {
                let entry = sections.entry(section(row)).or_default();
                *entry = (entry.0 + 1, entry.1 + cases);
            }
            None => without_case.push(format!("{row}: {sentence}")),
        }
    }
    assert!(without_case.is_empty(), "rows without a case: {without_case:#?}");
    assert!(book.0.is_empty(), "cases of rows that are not in the list: {:?}", book.0);
    for (section, (rows, cases)) in &sections {
        println!("§{section}: {rows} rows, {cases} cases");
    }
    let wanted = ["2", "3", "4", "4.1", "5", "6", "8", "10", "11", "13", "14", "16"];
    assert!(wanted.iter().all(|section| sections.contains_key(section)));
}

#[test]
fn the_list_names_each_row_once() {
    let mut names: Vec<_> = rows::ROWS.iter().map(|(row, _)| row).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a row is listed twice");
    assert!(rows::ROWS.iter().all(|(_, sentence)| sentence.len() > 10));
}
