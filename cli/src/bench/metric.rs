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
    /// EXECBUF with 1024 buffers.
    #[value(name = "execbuf_1024")]
    Execbuf1024,
    /// EXECBUF with 4000 buffers, the same as before.
    #[value(name = "execbuf_4000")]
    Execbuf4000,
    /// EXECBUF with 4000 buffers, something about one being new.
    #[value(name = "execbuf_4000_changed")]
    Execbuf4000Changed,
    /// EXECBUF with 8190 buffers, the same as before.
    #[value(name = "execbuf_8190")]
    Execbuf8190,
    /// EXECBUF with FENCE_OUT.
    ExecbufFenced,
    /// PING with an fd each way.
    FdCall,
    /// BUFFER_BUSY of an idle buffer.
    BufferBusy,
    /// CONTEXT_RESET_STATS of a context that never hung.
    ResetStats,
    /// EXECBUF with one buffer beside the batch.
    #[value(name = "execbuf_2")]
    Execbuf2,
    /// EXECBUF with registered memory beside the batch.
    ExecbufUserptr,
    /// INVALIDATE of memory that the GPU does not use.
    UserptrInvalidate,
    /// INVALIDATE, and the EXECBUF that looks for the pages again.
    UserptrRepin,
    /// USERPTR_CREATE.
    UserptrRegisterPerMib,
    /// EXECBUFFER2 of an unmodified program.
    GemExecNop,
    /// GEM_CREATE, SET_DOMAIN and GEM_CLOSE of an unmodified program.
    GemCreate,
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
    /// Worst latency of a quiet client beside one whose submissions are long.
    LongNeighbourWorst,
    /// Shares of two sessions of equal priority, one with a thousand batches queued.
    ShareEqual,
    /// Share of a session beside one of lower priority.
    SharePriority,
    /// Latency of a client that comes now and then beside a thousand queued batches.
    SporadicLatency,
    /// Processor time of the daemon with ten endless batches that do nothing.
    SpinnersCpu,
    /// Processor time of the daemon with nothing to do.
    IdleCpu,
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
    /// One of two in terms of the other.
    Times,
    /// Per cent.
    PerCent,
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
            Self::Times => "x",
            Self::PerCent => "%",
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
            Self::Execbuf1024 => "EXECBUF, empty batch, 1024 buffers, the same as before",
            Self::Execbuf4000 => "EXECBUF, empty batch, 4000 buffers, the same as before",
            Self::Execbuf4000Changed => "EXECBUF, empty batch, 4000 buffers, one changed",
            Self::Execbuf8190 => "EXECBUF, empty batch, 8190 buffers, the same as before",
            Self::ExecbufFenced => "EXECBUF with FENCE_OUT, fence fd closed after",
            Self::FdCall => "PING with one fd (a memfd) each way, closed after",
            Self::BufferBusy => "BUFFER_BUSY of an idle buffer, asked before",
            Self::ResetStats => "CONTEXT_RESET_STATS of a context that never hung, asked before",
            Self::Execbuf2 => "EXECBUF, empty batch, and a buffer of 64 MiB",
            Self::ExecbufUserptr => "EXECBUF, empty batch, and 64 MiB of the client's memory",
            Self::UserptrInvalidate => "USERPTR_INVALIDATE of 64 MiB that the GPU does not use",
            Self::UserptrRepin => {
                "USERPTR_INVALIDATE of 64 MiB and EXECBUF that names them, together"
            }
            Self::UserptrRegisterPerMib => {
                "USERPTR_CREATE of 64 MiB and the first EXECBUF, per MiB"
            }
            Self::GemExecNop => {
                "`gem_exec_nop` (intel-gpu-tools) through the preload: EXECBUFFER2, 2 buffers"
            }
            Self::GemCreate => {
                "`gem_create` (the same): GEM_CREATE, SET_DOMAIN and GEM_CLOSE, each"
            }
            Self::ExecbufRate1 => "EXECBUF, 1 client",
            Self::ExecbufRate16 => "EXECBUF, 16 clients",
            Self::ExecbufRate128 => "EXECBUF, 128 clients",
            Self::ExecbufRate128Threads => "EXECBUF, 128 clients with a blocking thread each",
            Self::IdleClientBytes => "daemon memory (RSS) per idle client",
            Self::LoneClientWorst => "worst PING of a quiet client, nobody beside it",
            Self::FloodedNeighbourWorst => "worst PING of a quiet client beside a flooding one",
            Self::LongNeighbourWorst => {
                "worst PING of a quiet client beside one that submits 8190 buffers, one changed"
            }
            Self::ShareEqual => {
                "engine time of two sessions, 1000 endless batches and 1: the more by the less"
            }
            Self::SharePriority => "engine time of a session beside one of lower priority",
            Self::SporadicLatency => "empty batch to its fence beside 1000 queued endless batches",
            Self::SpinnersCpu => "daemon's processor time, 10 endless idle batches on 5 engines",
            Self::IdleCpu => "daemon's processor time, one client that does nothing",
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
            | Self::Execbuf1024
            | Self::Execbuf4000
            | Self::Execbuf4000Changed
            | Self::Execbuf8190
            | Self::ExecbufFenced
            | Self::FdCall
            | Self::BufferBusy
            | Self::ResetStats
            | Self::Execbuf2
            | Self::ExecbufUserptr
            | Self::UserptrInvalidate
            | Self::UserptrRepin
            | Self::UserptrRegisterPerMib
            | Self::GemExecNop
            | Self::GemCreate => Unit::Micros,
            Self::ExecbufRate1
            | Self::ExecbufRate16
            | Self::ExecbufRate128
            | Self::ExecbufRate128Threads => Unit::PerSecond,
            Self::IdleClientBytes => Unit::Bytes,
            Self::LoneClientWorst
            | Self::FloodedNeighbourWorst
            | Self::LongNeighbourWorst
            | Self::SporadicLatency => Unit::Millis,
            Self::ShareEqual => Unit::Times,
            Self::SharePriority | Self::SpinnersCpu | Self::IdleCpu => Unit::PerCent,
        }
    }

    /// What it must and should come to; `None` for rows that only help to read the others.
    pub(super) const fn target(self) -> Option<Target> {
        match self {
            Self::Reference
            | Self::Ping
            | Self::Execbuf16
            | Self::Execbuf1024
            | Self::Execbuf4000
            | Self::Execbuf4000Changed
            | Self::Execbuf8190
            | Self::ExecbufFenced
            | Self::Execbuf2
            | Self::ExecbufUserptr
            | Self::UserptrInvalidate
            | Self::UserptrRepin
            | Self::UserptrRegisterPerMib
            | Self::GemExecNop
            | Self::GemCreate
            | Self::ExecbufRate1
            | Self::ExecbufRate16
            | Self::ExecbufRate128Threads
            | Self::LoneClientWorst => None,
            Self::Hello => Some(Target::AtMost { must: 30.0, aim: 15.0 }),
            Self::CreateDestroy | Self::Setparam | Self::SetparamLive => {
                Some(Target::RatioAtMost { must: 1.4, aim: 1.2 })
            }
            // No message: what is left is a look at a page.
            Self::BufferBusy | Self::ResetStats => {
                Some(Target::RatioAtMost { must: 0.2, aim: 0.05 })
            }
            Self::Execbuf | Self::FdCall => Some(Target::RatioAtMost { must: 1.7, aim: 1.5 }),
            Self::ExecbufRate128 => Some(Target::AtLeast { must: 250_000.0, aim: 350_000.0 }),
            Self::IdleClientBytes => Some(Target::AtMost { must: 12_000.0, aim: 2_500.0 }),
            Self::FloodedNeighbourWorst | Self::LongNeighbourWorst => {
                Some(Target::AtMost { must: 20.0, aim: 5.0 })
            }
            Self::ShareEqual => Some(Target::AtMost { must: 1.25, aim: 1.05 }),
            Self::SharePriority => Some(Target::AtLeast { must: 95.0, aim: 99.0 }),
            Self::SporadicLatency => Some(Target::AtMost { must: 5.0, aim: 2.0 }),
            Self::SpinnersCpu => Some(Target::AtMost { must: 25.0, aim: 10.0 }),
            Self::IdleCpu => Some(Target::AtMost { must: 0.1, aim: 0.01 }),
        }
    }
}
