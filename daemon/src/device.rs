//! Which GPU the daemon serves.

use std::path::PathBuf;
use std::str::FromStr;

/// What the administrator asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceChoice {
    /// The best there is.
    Auto,
    /// The software GPU.
    Soft,
    /// A render node.
    Node(PathBuf),
}

impl FromStr for DeviceChoice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "soft" => Ok(Self::Soft),
            path if path.starts_with("/dev/dri/") => Ok(Self::Node(path.into())),
            _ => Err(()),
        }
    }
}

/// A device this version cannot drive.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "cannot use {path}: this version of gpu-brokerd has only the software device; \
     start it with --device soft"
)]
pub(crate) struct Unsupported {
    path: PathBuf,
}

impl DeviceChoice {
    /// Settles on the software device, the only one there is.
    pub(crate) fn resolve(&self) -> Result<(), Unsupported> {
        match self {
            Self::Auto => {
                tracing::info!(
                    "device auto: using the software GPU, the only one this version has"
                );
                Ok(())
            }
            Self::Soft => Ok(()),
            Self::Node(path) => Err(Unsupported { path: path.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_render_node_is_refused_with_a_sentence() {
        let choice: DeviceChoice = "/dev/dri/renderD128".parse().expect("a path");
        let sentence = choice.resolve().expect_err("unsupported").to_string();
        assert!(sentence.contains("/dev/dri/renderD128") && sentence.contains("--device soft"));
        assert!("renderD128".parse::<DeviceChoice>().is_err());
    }
}
