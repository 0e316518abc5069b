//! On what and how it was measured, in words.

use super::cores::Cores;

/// The lines above the table.
pub(super) fn notes(cores: &Cores) -> String {
    let Cores { server, clients } = cores;
    let machine = machine();
    format!(
        "{machine}
Round trips: daemon, client and reference pinned to processor {server}; blocking client library.
Rates: daemon on processor {server}; one thread on processor {clients} keeps one request of each \
client under way.
Neighbours: daemon on processor {server}, clients on processor {clients}.
Values are medians over short slices (\"worst\": the maximum); a ratio is a slice against the \
reference slices around it.
"
    )
}

/// `tests/BENCHMARKS.md`.
pub(super) fn page(cores: &Cores, seconds: u32, table: &str) -> String {
    let Cores { server, clients } = cores;
    let machine = machine();
    format!(
        "# Benchmarks

Written by the program, never by hand:

    cargo build --release --workspace
    target/release/gpu-broker bench --seconds {seconds} --markdown > tests/BENCHMARKS.md
    tests/vm/run cost >> tests/BENCHMARKS.md

`gpu-broker bench --only NAME` measures one row alone; its name is in the last column.

Machine: {machine}.

- The daemon is a process of its own with the software device, and a new one for every row.
- Round trips: daemon, client and reference are pinned to processor {server}. The client is the blocking
  client library, its encoding and decoding included.
- Rates: the daemon is on processor {server}; on processor {clients} one thread keeps one EXECBUF of each client
  under way, except where the row says a thread for each.
- Programs of intel-gpu-tools run through the preload library, pinned to processor {server} too, for two seconds
  at a time. They measure in a child that they fork, so every request also takes and returns the lock that
  says whose turn it is in a session of several processes.
- Neighbours: the daemon is on processor {server}, the clients are on processor {clients}. The flooding client sends
  EXECBUFs as fast as the socket takes them and reads replies only to make room.
- Sharing and processor time: engine time is what USAGE says, processor time that of all threads of the
  daemon (`/proc/PID/task/*/schedstat`), one processor being 100 %. Sessions of unequal weight:
  `cargo run --release -p gpu-broker-device --example shares`.
- Values are medians over short slices, and a ratio is a slice divided by the reference slices measured
  before and after it, so it holds on a busy or slower machine, where the absolute values do not.
  \"Worst\" is the maximum and says how the machine behaved as well: compare the two rows.
- Targets in microseconds and per second are of a machine whose reference takes 3.06 us and are not scaled
  to this one: there 30 us are 9.8 references, and 250000/s are 0.77 in the time of one.

{table}"
    )
}

/// Processor, number of processors, kernel, and how busy it was: other programs do not move a ratio
/// much, but they do move rates and worst cases.
fn machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let priority = if is_real_time() { " (run with chrt, ahead of it)" } else { "" };
    let processors = count_processors();
    let model = first_value("/proc/cpuinfo", "model name");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "an unoptimised build" } else { "release build" };
    format!(
        "{}, {processors} processors, Linux {}, {profile}, load average {load}{priority}",
        model.as_deref().unwrap_or("unknown processor"),
        kernel.trim(),
    )
}

/// Whether this process runs ahead of ordinary ones: field 41 of its stat line is SCHED_FIFO or
/// SCHED_RR.
fn is_real_time() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name, which may contain anything but ends with the last ')'.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    matches!(fields.split_whitespace().nth(41 - 3), Some("1" | "2"))
}

/// Those of the machine; this process is pinned by the time it asks.
fn count_processors() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count().max(1)
}

/// The value of the first `key : value` line with this key.
fn first_value(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}
