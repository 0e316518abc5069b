//! What a condition is compared with: globs for names, ranges for numbers.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Globs; `*` and `?` stop at a `/`, `**` does not.
#[derive(Clone, Debug)]
pub(super) struct Patterns {
    set: GlobSet,
    /// Those that are names: no glob in them.
    names: Vec<String>,
}

impl Patterns {
    /// # Errors
    /// What is wrong with the first bad one.
    pub(super) fn new(globs: &[String]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let built =
                GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build();
            set.add(built.map_err(|error| error.to_string())?);
        }
        let plain = |glob: &&String| !glob.contains(['*', '?', '[', '{', '\\']);
        let names = globs.iter().filter(plain).cloned().collect();
        let set = set.build().map_err(|error| error.to_string())?;
        Ok(Self { set, names })
    }

    pub(super) fn contain(&self, text: &str) -> bool {
        self.set.is_match(text)
    }

    /// Those that match one name only.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

/// Numbers and ranges of them, both ends included.
#[derive(Clone, Debug)]
pub(super) struct Numbers(Vec<(u32, u32)>);

impl Numbers {
    pub(super) fn new(ranges: Vec<(u32, u32)>) -> Self {
        Self(ranges)
    }

    pub(super) fn contain(&self, number: u32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }
}
