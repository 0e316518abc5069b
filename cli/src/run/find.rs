//! Where the preload library is.

use std::path::{Path, PathBuf};

/// The library's name.
pub(crate) const NAME: &str = "libgpu_broker_preload.so";
/// Says where it is, instead of looking.
pub(crate) const VARIABLE: &str = "GPU_BROKER_PRELOAD";
/// What to do when it is nowhere.
pub(crate) const MISSING: &str = "libgpu_broker_preload.so was not found; install \
    libgpu-broker-preload, build it with `cargo build -p gpu-broker-preload`, or name it with \
    --library";

/// The preload library beside this program, or where it is installed.
pub(crate) fn library() -> Option<PathBuf> {
    installed(NAME)
}

/// The library of this name beside this program, or where it is installed.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(Path::to_owned);
    let beside = beside.iter().flat_map(|directory| {
        let lib = directory.join("../lib");
        [directory.clone(), lib.clone(), lib.join(triplet())]
    });
    let installed = [PathBuf::from("/usr/local/lib"), Path::new("/usr/lib").join(triplet())];
    let usual = installed.into_iter().chain([PathBuf::from("/usr/lib")]);
    beside.chain(usual).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Debian's directory for this machine.
fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}
