//! Policy: which class a connection belongs to, and what its class may.
//!
//! [`Policy::decide`] is a function of what is known of a peer; it looks nothing up. Classes are
//! tried in the order of the file, the first whose conditions all hold counts. A condition on
//! something that could not be found out about the peer is neither true nor false: the peer is
//! refused, because the next class might be a more generous one that it was not meant for.
//!
//! `file` is the shape of the TOML, with its checks.

pub(crate) mod file;
mod pattern;

use gpu_broker_core::{ClassLimits, Privileges, Resource};
use gpu_broker_protocol::message::EngineInfo;
use serde::Serialize;

use pattern::{Numbers, Patterns};

/// Name of the class that refuses everybody; it need not be in the file.
pub const DENY: &str = "deny";
/// Name of the class of those whom no other class matches, unless the file says otherwise.
pub const DEFAULT: &str = "default";
/// Weight of a class that the file gives none, as systemd's CPUWeight=.
pub(crate) const WEIGHT_DEFAULT: u32 = 100;

/// What is known of a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Subject {
    /// Name of the listener it came in by.
    pub listener: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its control group, as a path from the root of the hierarchy.
    pub cgroup: Fact,
    /// Its Flatpak application, if it is one.
    pub app_id: Fact,
}

/// What deciding about a peer takes besides its user, its group and how it came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asks {
    pub(crate) cgroup: bool,
    pub(crate) app_id: bool,
}

/// Something that may be known, known not to be, or not known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// It is this.
    Is(String),
    /// There is none.
    None,
    /// It could not be found out; why.
    Unknown(String),
}

impl Fact {
    /// What is known.
    #[must_use]
    pub fn known(&self) -> Option<&str> {
        match self {
            Self::Is(value) => Some(value),
            Self::None | Self::Unknown(_) => None,
        }
    }
}

/// The classes, checked.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) classes: Vec<ClassRule>,
    /// Position of the class for those whom none matches.
    default: usize,
}

/// One class of the file.
#[derive(Clone, Debug)]
pub struct ClassRule {
    /// Its name.
    pub name: String,
    conditions: Conditions,
    /// Nobody of this class gets a session.
    pub deny: bool,
    /// What its sessions may hold together.
    pub limits: ClassLimits,
    /// Requests of all its sessions in a second; 0 is no limit.
    pub requests_per_second: u32,
    /// Share of engine time, against the other classes' weights.
    pub weight: u32,
    /// What each of its sessions may.
    pub privileges: Privileges,
    /// The engines it may use, `rcs0` or all of `vcs`; empty is all.
    pub engines: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Conditions {
    listener: Option<Patterns>,
    uid: Option<Numbers>,
    gid: Option<Numbers>,
    cgroup: Option<Patterns>,
    app_id: Option<Patterns>,
}

/// Where a peer belongs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Decision {
    /// Name of the class.
    pub class: String,
    /// The rule in words, for refusals and for `policy explain`.
    pub rule: String,
    /// Why it gets no session; `None` if it does.
    pub denied: Option<String>,
    /// What was found of each class that was looked at.
    pub steps: Vec<Step>,
}

/// What came of one class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// Its name.
    pub class: String,
    /// What did not hold; `None` if all did.
    pub failed: Option<String>,
}

/// How the conditions of a class come out.
enum Outcome {
    Matches,
    Fails(String),
    Unknown(String),
}

impl Default for Policy {
    /// Everybody is in the class "default", which has no limits and no privileges.
    fn default() -> Self {
        Self { classes: vec![ClassRule::named(DEFAULT), ClassRule::denying()], default: 0 }
    }
}

impl Policy {
    /// Classes in order.
    #[must_use]
    pub fn classes(&self) -> &[ClassRule] {
        &self.classes
    }

    /// The class with this name.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<&ClassRule> {
        self.classes.iter().find(|class| class.name == name)
    }

    /// The class of those whom no class matches.
    #[must_use]
    pub fn default_class(&self) -> &ClassRule {
        &self.classes[self.default]
    }

    /// What [`Self::decide`] looks at for such a peer, whatever comes out of it.
    pub(crate) fn asks(&self, listener: &str, uid: u32, gid: u32) -> Asks {
        let mut asks = Asks::default();
        for conditions in self.classes.iter().map(|class| &class.conditions) {
            if conditions.is_empty() || conditions.certain(listener, uid, gid).is_err() {
                continue;
            }
            asks.cgroup |= conditions.cgroup.is_some();
            asks.app_id |= conditions.app_id.is_some();
            if conditions.cgroup.is_none() && conditions.app_id.is_none() {
                // Nobody gets past it.
                break;
            }
        }
        asks
    }

    /// The class of a peer, and by what rule.
    #[must_use]
    pub fn decide(&self, subject: &Subject) -> Decision {
        let mut steps = Vec::new();
        for class in &self.classes {
            let failed = match class.conditions.judge(subject) {
                // A class without conditions is chosen by name: as default, or by a listener.
                Outcome::Matches if class.conditions.is_empty() => continue,
                Outcome::Matches => {
                    steps.push(Step { class: class.name.clone(), failed: None });
                    return class.decision(format!("class \"{}\"", class.name), steps);
                }
                Outcome::Fails(what) => what,
                Outcome::Unknown(what) => {
                    let rule = format!("class \"{}\"", class.name);
                    let denied = format!("{rule} asks for {what}, so nobody is let past it");
                    steps.push(Step { class: class.name.clone(), failed: Some(what) });
                    let class = class.name.clone();
                    return Decision { class, rule, denied: Some(denied), steps };
                }
            };
            steps.push(Step { class: class.name.clone(), failed: Some(failed) });
        }
        let class = self.default_class();
        class.decision(format!("default_class = \"{}\"", class.name), steps)
    }
}

impl ClassRule {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            conditions: Conditions::default(),
            deny: false,
            limits: ClassLimits::NONE,
            requests_per_second: 0,
            weight: WEIGHT_DEFAULT,
            privileges: Privileges::NONE,
            engines: Vec::new(),
        }
    }

    fn denying() -> Self {
        Self { deny: true, ..Self::named(DENY) }
    }

    /// Listeners that the class names, those apart that only a glob matches.
    #[must_use]
    pub fn listeners(&self) -> &[String] {
        self.conditions.listener.as_ref().map_or(&[], Patterns::names)
    }

    /// Whether a peer's application decides whether it is in this class.
    pub(crate) fn asks_for_app(&self) -> bool {
        self.conditions.app_id.is_some()
    }

    /// What follows for a peer that is in this class by `rule`.
    pub(crate) fn decision(&self, rule: String, steps: Vec<Step>) -> Decision {
        let denied = self.deny.then(|| format!("{rule} denies"));
        Decision { class: self.name.clone(), rule, denied, steps }
    }

    /// Whether the class may use the engine.
    #[must_use]
    pub fn allows(&self, engine: &EngineInfo) -> bool {
        let kind = engine.name.trim_end_matches(|digit: char| digit.is_ascii_digit());
        self.engines.is_empty()
            || self.engines.iter().any(|allowed| *allowed == engine.name || allowed == kind)
    }

    /// Every setting with its value, as text: what `policy explain` shows.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, String)> {
        let number =
            |value: u64| if value == u64::MAX { "none".to_owned() } else { value.to_string() };
        let mut all: Vec<(String, String)> = Resource::ALL
            .iter()
            .map(|kind| (format!("limits.{}", kind.key()), number(self.limits.get(*kind))))
            .collect();
        let rate = self.requests_per_second;
        let rate = if rate == 0 { "none".to_owned() } else { rate.to_string() };
        let engines =
            if self.engines.is_empty() { "all".to_owned() } else { self.engines.join(", ") };
        let rights = self.privileges;
        let rest = [
            ("limits.requests_per_second", rate),
            ("weight", self.weight.to_string()),
            ("rights.priority_min", rights.priority_min.to_string()),
            ("rights.priority_max", rights.priority_max.to_string()),
            ("rights.clear_bannable", rights.clear_bannable.to_string()),
            ("rights.reset_count", rights.reset_count.to_string()),
            ("rights.engines", engines),
        ];
        all.extend(rest.map(|(key, value)| (key.to_owned(), value)));
        all
    }
}

impl Conditions {
    fn is_empty(&self) -> bool {
        let Self { listener, uid, gid, cgroup, app_id } = self;
        listener.is_none() && uid.is_none() && gid.is_none() && cgroup.is_none() && app_id.is_none()
    }

    /// The conditions on what the kernel recorded.
    ///
    /// # Errors
    /// What does not hold.
    fn certain(&self, listener: &str, uid: u32, gid: u32) -> Result<(), String> {
        if self.listener.as_ref().is_some_and(|names| !names.contain(listener)) {
            return Err(format!("listener is \"{listener}\""));
        }
        if self.uid.as_ref().is_some_and(|uids| !uids.contain(uid)) {
            return Err(format!("uid is {uid}"));
        }
        if self.gid.as_ref().is_some_and(|gids| !gids.contain(gid)) {
            return Err(format!("gid is {gid}"));
        }
        Ok(())
    }

    /// What is certain is asked first: a peer that fails it is not refused for the rest.
    fn judge(&self, subject: &Subject) -> Outcome {
        let Subject { listener, uid, gid, cgroup, app_id } = subject;
        if let Err(what) = self.certain(listener, *uid, *gid) {
            return Outcome::Fails(what);
        }
        let facts = [("cgroup", &self.cgroup, cgroup), ("app_id", &self.app_id, app_id)];
        let mut unknown = None;
        for (name, patterns, fact) in facts {
            let Some(patterns) = patterns else { continue };
            match fact {
                Fact::Is(value) if patterns.contain(value) => {}
                Fact::Is(value) => return Outcome::Fails(format!("{name} is \"{value}\"")),
                Fact::None => return Outcome::Fails(format!("there is no {name}")),
                Fact::Unknown(why) => {
                    unknown.get_or_insert_with(|| format!("the {name}, which is not known: {why}"));
                }
            }
        }
        unknown.map_or(Outcome::Matches, Outcome::Unknown)
    }
}

#[cfg(test)]
mod tests;
