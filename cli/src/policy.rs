//! `gpu-broker policy`: is a configuration good, and what would it make of a client?

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};
use gpu_brokerd::config::Config;
use gpu_brokerd::policy::{Decision, Fact, Policy, Subject};
use serde::Serialize;

use crate::args::JsonFlag;
use crate::output::{BAD, Failure, GOOD, HEADING, Out, Table, styled};

/// Check the policy, or ask it about a client
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Say whether a configuration file is good, and which classes it has
    Check {
        /// The file
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,

        #[command(flatten)]
        json: JsonFlag,
    },
    /// Say which class a client would belong to, by which rule, and what it may
    Explain(Client),
}

/// A client as the daemon would see it.
#[derive(Debug, clap::Args)]
struct Client {
    /// Its user
    #[arg(long)]
    uid: u32,

    /// Its group [default: the number of the user]
    #[arg(long)]
    gid: Option<u32>,

    /// Name of the listener it comes in by
    #[arg(long, value_name = "NAME", default_value = "main")]
    listener: String,

    /// Its control group; without it, it is in none
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,

    /// Its Flatpak application; without it, it is none
    #[arg(long, value_name = "ID")]
    app_id: Option<String>,

    /// The configuration [default: /etc/gpu-broker/gpu-brokerd.toml, if there is one]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    #[command(flatten)]
    json: JsonFlag,
}

/// What `check --json` prints.
#[derive(Serialize)]
struct Checked<'a> {
    classes: Vec<&'a str>,
    default_class: &'a str,
}

/// What `explain --json` prints.
#[derive(Serialize)]
struct Explained<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    /// Keys of the class as the file has them, with their values.
    settings: std::collections::BTreeMap<String, String>,
}

/// Answers.
///
/// # Errors
/// The file is wrong; its sentence says where.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.question {
        Question::Check { file, json } => check(file, json),
        Question::Explain(client) => explain(client),
    }
}

fn load(config: Option<PathBuf>) -> Result<Policy, Failure> {
    let args = gpu_brokerd::args::Args { config, ..Default::default() };
    Config::load(&args).map(|config| config.policy).map_err(|error| Failure::new(error.to_string()))
}

fn check(file: PathBuf, json: JsonFlag) -> Result<(), Failure> {
    let policy = load(Some(file))?;
    let classes: Vec<&str> = policy.classes().iter().map(|class| &*class.name).collect();
    let default_class = &*policy.default_class().name;
    if json.json {
        return Out::new().json(&Checked { classes, default_class });
    }
    let names = classes.join(", ");
    Out::new().line(format!(
        "{}: classes {names}; whom none matches is in \"{default_class}\"",
        styled(GOOD, "the policy is good")
    ))
}

fn explain(client: Client) -> Result<(), Failure> {
    let Client { uid, gid, listener, cgroup, app_id, config, json } = client;
    let policy = load(config)?;
    let fact = |value: Option<String>| value.map_or(Fact::None, Fact::Is);
    let subject = Subject {
        listener,
        uid,
        gid: gid.unwrap_or(uid),
        cgroup: fact(cgroup),
        app_id: fact(app_id),
    };
    let decision = policy.decide(&subject);
    let settings = policy.class(&decision.class).map(|class| class.settings()).unwrap_or_default();
    if json.json {
        let settings = settings.into_iter().collect();
        return Out::new().json(&Explained { decision: &decision, settings });
    }
    Out::new().line(text(&decision, &settings))
}

fn text(decision: &Decision, settings: &[(String, String)]) -> String {
    let mut lines = vec![format!(
        "{}, by {}",
        styled(HEADING, format!("class \"{}\"", decision.class)),
        decision.rule
    )];
    for step in &decision.steps {
        if let Some(failed) = &step.failed {
            lines.push(format!("  not class \"{}\": {failed}", step.class));
        }
    }
    if let Some(denied) = &decision.denied {
        lines.push(format!("{}: {denied}", styled(BAD, "no session")));
        return lines.join("\n");
    }
    let mut table = Table::new(&["key", ">value"]);
    settings.iter().for_each(|(key, value)| table.row([key.clone(), value.clone()]));
    lines.push(table.render(2));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_reads_well() {
        let policy = Policy::default();
        let subject = Subject {
            listener: "main".to_owned(),
            uid: 1,
            gid: 1,
            cgroup: Fact::None,
            app_id: Fact::None,
        };
        let decision = policy.decide(&subject);
        let shown = text(&decision, &policy.default_class().settings());
        let shown = anstream::adapter::strip_str(&shown).to_string();
        let begin = "class \"default\", by default_class = \"default\"\n  key ";
        assert!(shown.starts_with(begin), "{shown}");
        assert!(shown.contains("rights.priority_max"), "{shown}");
    }
}
