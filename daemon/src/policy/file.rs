//! The policy as it is written: `default_class` and `[[class]]` of the configuration file.

use gpu_broker_core::{ClassLimits, PRIORITY_MAX, Privileges, Resource};
use serde::Deserialize;

use super::pattern::{Numbers, Patterns};
use super::{ClassRule, Conditions, DEFAULT, DENY, Policy, WEIGHT_DEFAULT};

/// Classes of one file.
const CLASSES_MAX: usize = 64;
/// Values of one condition.
const VALUES_MAX: usize = 256;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 32;
/// As systemd's CPUWeight=.
const WEIGHT_MAX: u32 = 10_000;
/// Kinds of engines, as i915 names them.
const ENGINE_KINDS: [&str; 5] = ["rcs", "bcs", "vcs", "vecs", "ccs"];

/// One `[[class]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassFile {
    name: String,
    #[serde(default, rename = "match")]
    conditions: MatchFile,
    #[serde(default)]
    deny: bool,
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    rights: RightsFile,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MatchFile {
    listener: Option<Vec<String>>,
    uid: Option<Vec<Number>>,
    gid: Option<Vec<Number>>,
    cgroup: Option<Vec<String>>,
    app_id: Option<Vec<String>>,
}

/// `1000`, or `"1000-1999"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    One(u32),
    Range(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsFile {
    sessions: Option<u64>,
    contexts: Option<u64>,
    vms: Option<u64>,
    buffers: Option<u64>,
    buffer_memory_bytes: Option<u64>,
    userptr_memory_bytes: Option<u64>,
    submissions_in_flight: Option<u64>,
    requests_per_second: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RightsFile {
    priority_min: i16,
    priority_max: i16,
    clear_bannable: bool,
    reset_count: bool,
    engines: Vec<String>,
}

impl Default for RightsFile {
    fn default() -> Self {
        let Privileges { priority_min, priority_max, clear_bannable, reset_count } =
            Privileges::NONE;
        Self { priority_min, priority_max, clear_bannable, reset_count, engines: Vec::new() }
    }
}

/// A key of the policy, the rule it breaks, and what it is.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) key: String,
    pub(crate) must: String,
    pub(crate) is: String,
}

fn wrong(key: impl Into<String>, must: impl Into<String>, is: impl std::fmt::Display) -> Wrong {
    Wrong { key: key.into(), must: must.into(), is: is.to_string() }
}

/// Whether a class, a listener or an admin's choice can be called that: names go to logs, metrics
/// and file names.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// The rule for names, in words.
pub(crate) const NAME_RULE: &str = "be 1 to 32 letters, digits, -, _ and ., not beginning with .";

/// Checks the classes and puts them together.
///
/// # Errors
/// The first key that is wrong.
pub(crate) fn policy(classes: Vec<ClassFile>, default: Option<&str>) -> Result<Policy, Wrong> {
    if classes.len() > CLASSES_MAX {
        return Err(wrong("class", format!("be at most {CLASSES_MAX}"), classes.len()));
    }
    let mut rules: Vec<ClassRule> = Vec::new();
    for class in classes {
        if rules.iter().any(|rule| rule.name == class.name) {
            return Err(wrong("class.name", "be different for each class", class.name));
        }
        rules.push(rule(class)?);
    }
    if !rules.iter().any(|rule| rule.name == DEFAULT) {
        rules.push(ClassRule::named(DEFAULT));
    }
    rules.push(ClassRule::denying());
    let name = default.unwrap_or(DEFAULT);
    match rules.iter().position(|rule| rule.name == name) {
        Some(default) => Ok(Policy { classes: rules, default }),
        None => {
            Err(wrong("default_class", "name a class of the file, \"default\" or \"deny\"", name))
        }
    }
}

fn rule(class: ClassFile) -> Result<ClassRule, Wrong> {
    let ClassFile { name, conditions, deny, weight, limits, rights } = class;
    if name == DENY {
        return Err(wrong("class.name", "not be \"deny\", which is the class that refuses", name));
    }
    if !is_name(&name) {
        return Err(wrong("class.name", NAME_RULE, name));
    }
    let key = |part: &str| format!("class \"{name}\": {part}");
    let weight = weight.unwrap_or(WEIGHT_DEFAULT);
    if !(1..=WEIGHT_MAX).contains(&weight) {
        return Err(wrong(key("weight"), format!("lie in 1..={WEIGHT_MAX}"), weight));
    }
    let requests_per_second = limits.requests_per_second.unwrap_or(0);
    if limits.requests_per_second == Some(0) {
        return Err(wrong(key("limits.requests_per_second"), "be at least 1", 0));
    }
    Ok(ClassRule {
        conditions: conditions.checked(&key)?,
        deny,
        limits: limits.checked(),
        requests_per_second,
        weight,
        privileges: rights.checked(&key)?,
        engines: rights.engines,
        name,
    })
}

impl MatchFile {
    fn checked(self, key: &dyn Fn(&str) -> String) -> Result<Conditions, Wrong> {
        let globs = |part: &str, globs: Option<Vec<String>>| match globs {
            None => Ok(None),
            Some(globs) => {
                few(&key(part), globs.len())?;
                let set = Patterns::new(&globs);
                set.map(Some)
                    .map_err(|why| wrong(key(part), format!("be globs ({why})"), globs.join(", ")))
            }
        };
        let numbers = |part: &str, numbers: Option<Vec<Number>>| match numbers {
            None => Ok(None),
            Some(numbers) => {
                few(&key(part), numbers.len())?;
                let ranges: Result<_, _> =
                    numbers.into_iter().map(|number| number.range(&key(part))).collect();
                ranges.map(Numbers::new).map(Some)
            }
        };
        Ok(Conditions {
            listener: globs("match.listener", self.listener)?,
            uid: numbers("match.uid", self.uid)?,
            gid: numbers("match.gid", self.gid)?,
            cgroup: globs("match.cgroup", self.cgroup)?,
            app_id: globs("match.app_id", self.app_id)?,
        })
    }
}

fn few(key: &str, count: usize) -> Result<(), Wrong> {
    if (1..=VALUES_MAX).contains(&count) {
        return Ok(());
    }
    Err(wrong(key, format!("have 1 to {VALUES_MAX} values"), count))
}

impl Number {
    fn range(self, key: &str) -> Result<(u32, u32), Wrong> {
        match self {
            Self::One(number) => Ok((number, number)),
            Self::Range(text) => {
                let ends = text.split_once('-').and_then(|(first, last)| {
                    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
                });
                ends.filter(|(first, last)| first <= last)
                    .ok_or_else(|| wrong(key, "be a number or a range such as \"1000-1999\"", text))
            }
        }
    }
}

impl LimitsFile {
    fn checked(&self) -> ClassLimits {
        let mut limits = ClassLimits::NONE;
        for (resource, most) in [
            (Resource::Sessions, self.sessions),
            (Resource::Contexts, self.contexts),
            (Resource::Vms, self.vms),
            (Resource::Buffers, self.buffers),
            (Resource::BufferMemory, self.buffer_memory_bytes),
            (Resource::UserptrMemory, self.userptr_memory_bytes),
            (Resource::Submissions, self.submissions_in_flight),
        ] {
            limits.set(resource, most.unwrap_or(u64::MAX));
        }
        limits
    }
}

impl RightsFile {
    fn checked(&self, key: &dyn Fn(&str) -> String) -> Result<Privileges, Wrong> {
        let Self { priority_min, priority_max, clear_bannable, reset_count, ref engines } = *self;
        let bounds = -PRIORITY_MAX..=PRIORITY_MAX;
        for (part, value) in
            [("rights.priority_min", priority_min), ("rights.priority_max", priority_max)]
        {
            if !bounds.contains(&value) {
                let must = format!("lie in -{PRIORITY_MAX}..={PRIORITY_MAX}");
                return Err(wrong(key(part), must, value));
            }
        }
        if priority_min > priority_max {
            let must = format!("not be above priority_max, {priority_max}");
            return Err(wrong(key("rights.priority_min"), must, priority_min));
        }
        for engine in engines {
            let kind = engine.trim_end_matches(|digit: char| digit.is_ascii_digit());
            if !ENGINE_KINDS.contains(&kind) {
                let must = "be engines such as \"rcs0\", or all of a kind such as \"vcs\"";
                return Err(wrong(key("rights.engines"), must, engine));
            }
        }
        Ok(Privileges { clear_bannable, reset_count, priority_min, priority_max })
    }
}
