//! What is measured, and what it should come to.

use clap::ValueEnum;

/// One row of the table. The targets are those of the project's performance specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Metric {
    /// Raw blocking SEQPACKET ping-pong: what every ratio is against.
    Reference,
    /// PING.
    Ping,
    /// Connect and HELLO.
    Hello,
    /// CONTEXT_CREATE and CONTEXT_DESTROY, per request.
    CreateDestroy,
    /// CONTEXT_SETPARAM on a proto-context.
    Setparam,
    /// CONTEXT_SETPARAM on a live context.
    SetparamLive,
    /// EXECBUF of an empty batch.
    Execbuf,
    /// EXECBUF with 16 buffers.
    #[value(name = "execbuf_16")]
    Execbuf16,
    /// EXECBUF with FENCE_OUT.
    ExecbufFenced,
    /// PING with an fd each way.
    FdCall,
    /// EXECBUF of one client.
    #[value(name = "execbuf_rate_1")]
    ExecbufRate1,
    /// EXECBUF of 16 clients.
    #[value(name = "execbuf_rate_16")]
    ExecbufRate16,
    /// EXECBUF of 128 clients.
    #[value(name = "execbuf_rate_128")]
    ExecbufRate128,
    /// EXECBUF of 128 clients with a blocking thread each.
    #[value(name = "execbuf_rate_128_threads")]
    ExecbufRate128Threads,
    /// Memory of the daemon per idle client.
    IdleClientBytes,
    /// Worst latency of a quiet client with nobody beside it.
    LoneClientWorst,
    /// Worst latency of a quiet client beside a flooding one.
    FloodedNeighbourWorst,
}

/// What a metric is measured in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Requests per second.
    PerSecond,
    /// Bytes.
    Bytes,
}

/// Bounds of a metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Target {
    /// The ratio to the reference is at most this.
    RatioAtMost { must: f64, aim: f64 },
    /// The value is at most this.
    AtMost { must: f64, aim: f64 },
    /// The value is at least this.
    AtLeast { must: f64, aim: f64 },
}

impl Unit {
    /// As it is printed.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Micros => "us",
            Self::Millis => "ms",
            Self::PerSecond => "1/s",
            Self::Bytes => "B",
        }
    }
}

impl Metric {
    /// As on the command line and in JSON.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What exactly was measured, for the table.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Reference => "raw blocking SEQPACKET ping-pong of 64 B",
            Self::Ping => "PING",
            Self::Hello => "connect + HELLO",
            Self::CreateDestroy => "CONTEXT_CREATE and CONTEXT_DESTROY, each",
            Self::Setparam => "CONTEXT_SETPARAM, PRIORITY of a proto-context",
            Self::SetparamLive => "CONTEXT_SETPARAM, PRIORITY of a live context",
            Self::Execbuf => "EXECBUF, empty batch, 1 buffer",
            Self::Execbuf16 => "EXECBUF, empty batch, 16 buffers",
            Self::ExecbufFenced => "EXECBUF with FENCE_OUT, fence fd closed after",
            Self::FdCall => "PING with one fd (a memfd) each way, closed after",
            Self::ExecbufRate1 => "EXECBUF, 1 client",
            Self::ExecbufRate16 => "EXECBUF, 16 clients",
            Self::ExecbufRate128 => "EXECBUF, 128 clients",
            Self::ExecbufRate128Threads => "EXECBUF, 128 clients with a blocking thread each",
            Self::IdleClientBytes => "daemon memory (RSS) per idle client",
            Self::LoneClientWorst => "worst PING of a quiet client, nobody beside it",
            Self::FloodedNeighbourWorst => "worst PING of a quiet client beside a flooding one",
        }
    }

    /// What it is measured in.
    pub(super) const fn unit(self) -> Unit {
        match self {
            Self::Reference
            | Self::Ping
            | Self::Hello
            | Self::CreateDestroy
            | Self::Setparam
            | Self::SetparamLive
            | Self::Execbuf
            | Self::Execbuf16
            | Self::ExecbufFenced
            | Self::FdCall => Unit::Micros,
            Self::ExecbufRate1
            | Self::ExecbufRate16
            | Self::ExecbufRate128
            | Self::ExecbufRate128Threads => Unit::PerSecond,
            Self::IdleClientBytes => Unit::Bytes,
            Self::LoneClientWorst | Self::FloodedNeighbourWorst => Unit::Millis,
        }
    }

    /// What it must and should come to; `None` for rows that only help to read the others.
    pub(super) const fn target(self) -> Option<Target> {
        match self {
            Self::Reference
            | Self::Ping
            | Self::Execbuf16
            | Self::ExecbufFenced
            | Self::ExecbufRate1
            | Self::ExecbufRate16
            | Self::ExecbufRate128Threads
            | Self::LoneClientWorst => None,
            Self::Hello => Some(Target::AtMost { must: 30.0, aim: 15.0 }),
            Self::CreateDestroy | Self::Setparam | Self::SetparamLive => {
                Some(Target::RatioAtMost { must: 1.4, aim: 1.2 })
            }
            Self::Execbuf | Self::FdCall => Some(Target::RatioAtMost { must: 1.7, aim: 1.5 }),
            Self::ExecbufRate128 => Some(Target::AtLeast { must: 250_000.0, aim: 350_000.0 }),
            Self::IdleClientBytes => Some(Target::AtMost { must: 12_000.0, aim: 2_500.0 }),
            Self::FloodedNeighbourWorst => Some(Target::AtMost { must: 20.0, aim: 5.0 }),
        }
    }
}
