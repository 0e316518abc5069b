//! On what and how it was measured, in words.

use super::cores::Cores;

/// A few lines above the table.
pub(super) fn notes(cores: &Cores) -> String {
    format!("{}\n{}\n", machine(), wrapped_method(cores).join("\n"))
}

/// `tests/BENCHMARKS.md`.
pub(super) fn page(cores: &Cores, seconds: u32, table: &str) -> String {
    format!(
        "# Benchmarks\n\n\
         Written by `cargo run --release -- bench --seconds {seconds} --markdown > tests/BENCHMARKS.md`; \
         never edited by hand.\n\
         One row alone is measured by `cargo run --release -- bench --only NAME`, as in the last column.\n\n\
         Machine: {}.\n\n{}\n\n{table}",
        machine(),
        wrapped_method(cores).join("\n"),
    )
}

fn wrapped_method(cores: &Cores) -> Vec<String> {
    let Cores { server, clients } = cores;
    vec![
        format!("Round trips: daemon, client and reference are pinned to processor {server}."),
        "Medians over slices of 128 calls; a ratio is a slice divided by the reference slices around it.".to_owned(),
        format!("Rates and neighbours: the daemon on processor {server}, all clients on processor {clients}, blocking, one thread each."),
    ]
}

/// Processor, number of processors and kernel.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let model = first_value("/proc/cpuinfo", "model name");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "an unoptimised build" } else { "release build" };
    format!(
        "{}, {processors} processors, Linux {}, {profile}",
        model.as_deref().unwrap_or("unknown processor"),
        kernel.trim(),
    )
}

/// The value of the first `key : value` line with this key.
fn first_value(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}
