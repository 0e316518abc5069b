//! `gpu-broker bench`: what the broker costs, measured beside a raw SEQPACKET echo in the same run.
//!
//! Absolute times say little on another machine, so every round trip is measured in short slices
//! that alternate with slices of a ping-pong between two processes that do nothing else
//! ([`echo`]), and is reported as a median and as a ratio to that reference. Targets are in
//! [`metric`]. Start reading at [`run`].

mod cores;
mod echo;
mod failure;
mod flood;
mod large;
mod machine;
mod metric;
mod neighbours;
mod own_memory;
mod programs;
mod report;
mod rig;
mod round_trips;
mod sharing;
mod stats;
mod throughput;
mod work;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum as _;

use cores::Cores;
use echo::Echo;
use failure::Failure;
use metric::Metric;
use own_memory::Kind;
use programs::Program;
use report::{Row, Verdict};
use rig::Rig;
use round_trips::RoundTrips;
use stats::Figure;

/// Seconds of `--quick`.
const QUICK_SECONDS: u32 = 4;

/// Measure a daemon of its own beside a raw SEQPACKET echo, and compare with the targets
///
/// Starts a daemon process with the software device on a private socket, so nothing needs to be
/// installed or running. Exits with 0 when everything could be measured, whatever it came to;
/// with --check, with 1 if a figure is not what it must be.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Print an array of {name, value, unit, ratio}; what cannot be measured has {missing}
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Print a page with the machine, the method and the table
    #[arg(long)]
    markdown: bool,

    /// How long to measure, all metrics together
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,

    /// Measure for a few seconds only; coarser
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,

    /// Measure only these metrics
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Metric>,

    /// Exit with 1 if a figure is not what it must be
    #[arg(long)]
    check: bool,

    /// Measure a daemon that does not confine itself, to see what that costs
    #[arg(long)]
    no_sandbox: bool,

    /// Be the reference process, on standard input
    #[arg(long, hide = true)]
    echo: bool,
}

/// Runs the command. The socket of `--socket` plays no part: the daemon under test has its own.
pub(crate) fn run(args: Args, _socket: Option<PathBuf>) -> ExitCode {
    let result = if args.echo {
        echo::serve().map(|()| ExitCode::SUCCESS).map_err(Failure::io("echoing"))
    } else {
        bench(&args)
    };
    result.unwrap_or_else(|failure| {
        eprintln!("gpu-broker bench: {failure}");
        ExitCode::FAILURE
    })
}

fn bench(args: &Args) -> Result<ExitCode, Failure> {
    let metrics = if args.only.is_empty() { Metric::value_variants() } else { &args.only };
    let seconds = if args.quick { QUICK_SECONDS } else { args.seconds };
    let count = u32::try_from(metrics.len()).unwrap_or(u32::MAX).max(1);
    let bench = Bench {
        cores: Cores::find().map_err(Failure::io("finding the processors"))?,
        time: Duration::from_secs(seconds.into()) / count,
        sandbox: !args.no_sandbox,
    };
    raise_fd_limit().map_err(Failure::io("raising the limit of open files"))?;
    let mut rows = Vec::with_capacity(metrics.len());
    for metric in metrics {
        let figure = match bench.measure(*metric) {
            Err(Failure::Missing(what)) => Err(what),
            measured => Ok(measured?),
        };
        rows.push(Row { metric: *metric, figure });
    }
    let text = if args.json {
        report::json(&rows).map_err(|_| Failure::Unexpected("a figure is not a number"))?
    } else if args.markdown {
        machine::page(&bench.cores, seconds, &report::markdown_table(&rows))
    } else {
        format!("{}\n{}", machine::notes(&bench.cores), report::table(&rows))
    };
    writeln!(io::stdout(), "{}", text.trim_end()).map_err(Failure::io("printing the table"))?;
    let missed = rows.iter().any(|row| row.verdict() == Verdict::Missed);
    Ok(if args.check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How everything is measured.
struct Bench {
    cores: Cores,
    /// For each metric.
    time: Duration,
    /// The daemon confines itself.
    sandbox: bool,
}

impl Bench {
    /// Measures one metric, with a daemon of its own, so that none sees what another left behind.
    fn measure(&self, metric: Metric) -> Result<Figure, Failure> {
        pin(self.cores.server)?;
        let rig = Rig::start(self.sandbox)?;
        let mut echo = Echo::start().map_err(Failure::io("starting the reference"))?;
        let trips = RoundTrips { rig: &rig, echo: &mut echo, time: self.time };
        match metric {
            Metric::Reference => trips.reference(),
            Metric::Ping => trips.ping(),
            Metric::Hello => trips.hello(),
            Metric::CreateDestroy => trips.create_destroy(),
            Metric::Setparam => trips.set_param(),
            Metric::SetparamLive => trips.set_param_live(),
            Metric::Execbuf => trips.execbuf(1),
            Metric::Execbuf16 => trips.execbuf(16),
            Metric::Execbuf1024 => large::execbuf(trips, 1024, false),
            Metric::Execbuf4000 => large::execbuf(trips, 4000, false),
            Metric::Execbuf4000Changed => large::execbuf(trips, 4000, true),
            Metric::Execbuf8190 => large::execbuf(trips, 8190, false),
            Metric::ExecbufFenced => trips.execbuf_fenced(),
            Metric::FdCall => trips.fd_call(),
            Metric::BufferBusy => trips.buffer_busy(),
            Metric::ResetStats => trips.reset_stats(),
            Metric::Execbuf2 => own_memory::execbuf(trips, Kind::Buffer),
            Metric::ExecbufUserptr => own_memory::execbuf(trips, Kind::Userptr),
            Metric::UserptrInvalidate => own_memory::invalidate(trips),
            Metric::UserptrRepin => own_memory::repin(trips),
            Metric::UserptrRegisterPerMib => own_memory::register(trips),
            Metric::GemExecNop => programs::measure(trips, Program::ExecNop),
            Metric::GemCreate => programs::measure(trips, Program::Create),
            Metric::ExecbufRate1 => self.execbuf_rate(&rig, 1),
            Metric::ExecbufRate16 => self.execbuf_rate(&rig, 16),
            Metric::ExecbufRate128 => self.execbuf_rate(&rig, 128),
            Metric::ExecbufRate128Threads => {
                pin(self.cores.clients)?;
                throughput::execbuf_rate_of_threads(&rig, 128, self.time)
            }
            Metric::IdleClientBytes => neighbours::idle_client_bytes(&rig),
            Metric::LoneClientWorst => {
                pin(self.cores.clients)?;
                neighbours::lone_client_worst(&rig, self.time)
            }
            Metric::FloodedNeighbourWorst => {
                pin(self.cores.clients)?;
                neighbours::flooded_neighbour_worst(&rig, self.time)
            }
            Metric::LongNeighbourWorst => {
                pin(self.cores.clients)?;
                large::neighbour_worst(&rig, self.time)
            }
            Metric::ShareEqual => sharing::equal_share(&rig, self.time),
            Metric::SharePriority => sharing::priority_share(&rig, self.time),
            Metric::SporadicLatency => {
                pin(self.cores.clients)?;
                sharing::sporadic_latency(&rig, self.time)
            }
            Metric::SpinnersCpu => sharing::spinners_cpu(&rig, self.time),
            Metric::IdleCpu => sharing::idle_cpu(&rig, self.time),
        }
    }

    fn execbuf_rate(&self, rig: &Rig, clients: usize) -> Result<Figure, Failure> {
        pin(self.cores.clients)?;
        throughput::execbuf_rate(rig, clients, self.time)
    }
}

fn pin(cpu: usize) -> Result<(), Failure> {
    Cores::pin(cpu).map_err(Failure::io("pinning to a processor"))
}

/// Idle clients take an fd each on this side, more than the usual soft limit.
fn raise_fd_limit() -> io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
