//! Whether the broker answers as the kernel does, case by case.
//!
//! `gpu-broker-parity run` performs generated cases as real ioctls, each on an open file in which
//! nothing else is, and prints a line for each: id, tab, outcome. It knows nothing of the broker:
//! through the preload library the same program asks a daemon instead. `gpu-broker-parity compare`
//! joins what was said. `tests/vm/parity.sh` does both.

mod compare;
mod contexts;
mod engines;
mod execbuf;
mod fences;
mod hangs;
mod kernel;
mod random;
mod syncobjs;
mod userptr;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use kernel::Node;

/// The same ioctls on the driver and through the broker.
#[derive(Debug, Parser)]
enum Options {
    /// Performs the cases and prints an outcome for each.
    Run {
        /// The device's node.
        #[arg(long, default_value = "/dev/dri/renderD128")]
        node: PathBuf,
        /// Which cases: those whose outcome depends on privileges, as root; or all of them.
        #[arg(long = "as", value_enum)]
        identity: Identity,
        /// Only the cases in which a hang resets the whole device, and not one engine. The device must
        /// have been told to do so (the i915 module's `reset=1`, the daemon's `reset = "device"`).
        #[arg(long)]
        device_resets: bool,
        /// Only cases whose id has this in it.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Compares files of outcomes; fails on a difference that is not listed, and on a listed one
    /// that does not happen.
    #[command(flatten)]
    Compare(Compare),
}

#[derive(Debug, Subcommand)]
enum Compare {
    Compare {
        /// The list of differences.
        #[arg(long)]
        list: PathBuf,
        /// Name of the kernel on which it ran.
        #[arg(long)]
        kernel: String,
        /// Of the driver, through the daemon on the driver, through the daemon on the software GPU.
        #[arg(num_args = 3)]
        outcomes: Vec<PathBuf>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Identity {
    Root,
    User,
}

/// A case that takes longer is worth a word.
const SLOW: Duration = Duration::from_secs(10);

/// What is done on one open file.
type Act = Box<dyn Fn(&mut Node) + Send + Sync>;
/// A case: its id, and what is done.
type Case = (String, Act);

/// The cases so far.
#[derive(Default)]
pub(crate) struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, id: impl Into<String>, act: impl Fn(&mut Node) + Send + Sync + 'static) {
        self.0.push((id.into(), Box::new(act)));
    }
}

/// Performs cases, two at a time but for those that hang an engine, under which others would suffer;
/// their records, in order.
fn perform(node: &Path, cases: &[Case]) -> io::Result<Vec<String>> {
    let records = Mutex::new(vec![String::new(); cases.len()]);
    let (hanging, others): (Vec<_>, Vec<_>) =
        (0..cases.len()).partition(|at| hangs::hang_engines(&cases[*at].0));
    let take_turns = |turns: &[usize]| {
        let next = AtomicUsize::new(0);
        let worker = || -> io::Result<()> {
            let mut shared = None;
            while let Some(at) = turns.get(next.fetch_add(1, Ordering::Relaxed)) {
                let record = one(node, &cases[*at], &mut shared)?;
                records.lock().expect("nobody panics with it")[*at] = record;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let second = scope.spawn(worker);
            let first = worker();
            second.join().expect("a worker does not panic").and(first)
        })
    };
    take_turns(&others)?;
    for at in hanging {
        take_turns(&[at])?;
    }
    Ok(records.into_inner().expect("nobody panics with it"))
}

/// Performs a case on a file that several may share, or on one of its own.
fn one(node: &Path, (id, act): &Case, shared: &mut Option<Node>) -> io::Result<String> {
    let begun = Instant::now();
    let record = if stays(id) {
        let mut file = Node::open(node)?;
        act(&mut file);
        file.into_record()
    } else {
        let mut file = shared.take().map_or_else(|| Node::open(node), Ok)?;
        act(&mut file);
        let record = file.end();
        *shared = Some(file);
        record
    };
    if begun.elapsed() > SLOW {
        eprintln!("{id} took {} s", begun.elapsed().as_secs());
    }
    Ok(record)
}

/// Whether something of a case stays in the open file, which is then of no use to others: what was
/// set in the default context, a ban, the VM 0 (see `tests/PARITY.md`).
fn stays(id: &str) -> bool {
    id.contains("/default/")
        || hangs::hang_engines(id)
        || ["random/", "vm/destroy/"].iter().any(|area| id.starts_with(area))
}

/// The id under which an outcome is printed: in its area, root's are apart.
fn named(identity: Identity, id: &str) -> String {
    match (identity, id.split_once('/')) {
        (Identity::Root, Some((area, rest))) => format!("{area}/root/{rest}"),
        _ => id.to_owned(),
    }
}

/// Every case, or those in which it matters who is asking (rule table §15).
fn cases(identity: Identity) -> Vec<Case> {
    let mut cases = Cases::default();
    contexts::add(&mut cases);
    if identity == Identity::Root {
        let privileged =
            ["context/set/5/", "context/set/6/", "context/create/setparam/5/", "reset/"];
        cases.0.retain(|(id, _)| privileged.iter().any(|start| id.starts_with(start)));
        return cases.0;
    }
    engines::add(&mut cases);
    execbuf::add(&mut cases);
    fences::add(&mut cases);
    syncobjs::add(&mut cases);
    userptr::add(&mut cases);
    random::add(&mut cases);
    // Last: what was hung is slow to forget.
    hangs::add(&mut cases);
    cases.0
}

fn main() -> ExitCode {
    match Options::parse() {
        Options::Run { node, identity, device_resets, filter } => {
            let mut cases = cases(identity);
            cases.retain(|(id, _)| id.starts_with(hangs::DEVICE_RESETS) == device_resets);
            cases.retain(|(id, _)| id.contains(&filter));
            match perform(&node, &cases) {
                Ok(records) => {
                    for ((id, _), record) in cases.iter().zip(records) {
                        println!("{}\t{record}", named(identity, id));
                    }
                    ExitCode::SUCCESS
                }
                Err(problem) => {
                    eprintln!("{}: {problem}", node.display());
                    ExitCode::FAILURE
                }
            }
        }
        Options::Compare(Compare::Compare { list, kernel, outcomes }) => {
            let read = |path: &PathBuf| {
                std::fs::read_to_string(path)
                    .unwrap_or_else(|problem| panic!("{}: {problem}", path.display()))
            };
            let list = compare::listed(&read(&list));
            let [direct, i915, soft] = [0, 1, 2].map(|at| read(&outcomes[at]));
            let report = compare::compare(&list, &kernel, &direct, &i915, &soft);
            for wrong in &report.wrong {
                println!("{wrong}");
            }
            for (area, (cases, listed)) in &report.areas {
                println!("{area}: {cases} cases, {listed} differ as listed");
            }
            let all: usize = report.areas.values().map(|(cases, _)| cases).sum();
            if report.wrong.is_empty() {
                println!("ok parity on {kernel}: {all} cases, the driver and both devices agree");
                return ExitCode::SUCCESS;
            }
            println!("parity on {kernel}: {} of {all} wrong", report.wrong.len());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn there_are_a_thousand_cases_of_every_kind_with_names_of_their_own() {
        let cases = cases(Identity::User);
        let ids: BTreeSet<_> = cases.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids.len(), cases.len(), "two cases have one name");
        assert!(ids.iter().all(|id| !id.contains(['\t', '\n', '|', '`', '*'])), "cannot be listed");
        assert!(ids.len() >= 1000, "only {} cases", ids.len());
        let mut areas = BTreeMap::new();
        for id in &ids {
            *areas.entry(id.split('/').next().expect("an area")).or_insert(0) += 1;
        }
        let least = [
            ("buffer", 10),
            ("context", 250),
            ("engines", 200),
            ("execbuf", 300),
            ("random", 50),
            ("reset", 15),
            ("syncobj", 150),
            ("userptr", 100),
            ("vm", 25),
            ("wait", 20),
        ];
        assert_eq!(areas.keys().copied().collect::<Vec<_>>(), least.map(|(area, _)| area));
        for (area, least) in least {
            assert!(areas[area] >= least, "only {} cases of {area}", areas[area]);
        }
    }

    #[test]
    fn root_is_asked_again_what_privileges_decide() {
        let all: BTreeSet<_> = cases(Identity::User).into_iter().map(|(id, _)| id).collect();
        let root: BTreeSet<_> = cases(Identity::Root).into_iter().map(|(id, _)| id).collect();
        assert!(root.is_subset(&all));
        for id in ["context/set/5/proto/0/size0", "context/set/6/live/1/size0"] {
            assert!(root.contains(id), "{id}");
        }
    }

    /// The list is read where a mistake in it is cheap: each pattern names cases.
    #[test]
    fn the_list_of_differences_names_cases() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../PARITY.md");
        let list = compare::listed(&std::fs::read_to_string(path).expect("tests/PARITY.md"));
        let of = |identity| cases(identity).into_iter().map(move |(id, _)| named(identity, &id));
        let ids: Vec<_> = of(Identity::User).chain(of(Identity::Root)).collect();
        let everything: String = ids.iter().map(|id| format!("{id}\tok\n")).collect();
        let unknown: Vec<_> = ["bookworm", "trixie"]
            .iter()
            .flat_map(|kernel| {
                compare::compare(&list, kernel, &everything, &everything, &everything).wrong
            })
            .filter(|wrong| wrong.ends_with("is no case"))
            .collect();
        assert_eq!(unknown, [""; 0]);
    }
}
