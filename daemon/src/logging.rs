//! The log: the journal under systemd, stderr otherwise.
//!
//! `error` is a bug of ours, `warn` a fault of a peer, of the hardware or of the configuration,
//! `info` is normal and rare.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging at `level`, a level or a filter of tracing's.
///
/// # Errors
/// A sentence, when `level` is neither.
pub(crate) fn start(level: &str) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| format!("the log level \"{level}\" is no level and no filter: {error}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = match journal() {
        Some(journal) => registry.with(journal).try_init(),
        None => {
            use std::io::IsTerminal as _;
            let colours = std::io::stderr().is_terminal();
            let stderr = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(colours)
                .with_target(false);
            registry.with(stderr).try_init()
        }
    };
    // Somebody who runs the daemon inside a program of theirs may log already; that is fine.
    drop(started);
    log_panics();
    Ok(())
}

/// The journal, if stderr is connected to it: `JOURNAL_STREAM` holds that stream's device and
/// inode (systemd.exec(5)), and is inherited by children whose stderr is something else.
fn journal() -> Option<tracing_journald::Layer> {
    let named = std::env::var("JOURNAL_STREAM").ok()?;
    let stderr = rustix::fs::fstat(std::io::stderr()).ok()?;
    if named != format!("{}:{}", stderr.st_dev, stderr.st_ino) {
        return None;
    }
    tracing_journald::layer().ok()
}

/// A panic is a bug of ours and goes to the log like any other.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        match panic.location() {
            Some(place) => tracing::error!(%place, "panic: {what}"),
            None => tracing::error!("panic: {what}"),
        }
    }));
}
