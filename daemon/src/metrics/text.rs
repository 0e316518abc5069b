//! The names and the numbers.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gpu_broker_core::Resource;
use gpu_broker_device::{CLASSES, Device};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::classes::Class;
use crate::histogram::Histogram;
use crate::server::Server;

/// Classes of engines, in the order of their numbers and as drm-usage-stats has them.
const ENGINE_CLASSES: [&str; CLASSES] = ["render", "copy", "video", "video-enhance", "compute"];

/// Everything, as it is now.
pub(super) fn render<D: Device>(server: &Server<D>) -> Result<String, Error> {
    let names = server.device.description().engines.into_iter().map(|engine| engine.name);
    let engines = names.zip(server.device.engine_usage());
    let snapshot = Snapshot {
        classes: server.classes.all(),
        engines: engines
            .map(|(name, usage)| Engine {
                name,
                busy: Duration::from_nanos(usage.busy_ns).as_secs_f64(),
                completed: usage.completed,
                faults: usage.faults,
            })
            .collect(),
        sessions: server.directory.len(),
        resets: u64::from(server.registry.resets()),
        draining: u32::from(server.is_draining()),
    };
    let mut registry = Registry::with_prefix("gpu_broker");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    classes: Vec<Arc<Class>>,
    engines: Vec<Engine>,
    sessions: usize,
    resets: u64,
    draining: u32,
}

#[derive(Debug)]
struct Engine {
    name: String,
    busy: f64,
    completed: u64,
    faults: u64,
}

impl Collector for Snapshot {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.device(&mut out)?;
        self.holdings(&mut out)?;
        self.counts(&mut out)?;
        self.refusals(&mut out)?;
        self.latencies(&mut out)
    }
}

/// A counter with labels: its name, what it counts, and the values.
fn counter<S: EncodeLabelSet>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (S, f64)>,
) -> Result<(), Error> {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 may be off by one")]
fn number(counter: u64) -> f64 {
    counter as f64
}

impl Snapshot {
    fn device(&self, out: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut gauge = |name, help, value: u64| {
            out.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        gauge("connections", "Connections now", self.sessions as u64)?;
        gauge("draining", "1 while nobody new is let in", self.draining.into())?;
        let all = || self.engines.iter().map(|engine| ([("engine", &*engine.name)], engine));
        let busy = all().map(|(labels, engine)| (labels, engine.busy));
        counter(out, "engine_busy_seconds", "Time spent executing", busy)?;
        let done = all().map(|(labels, engine)| (labels, number(engine.completed)));
        counter(out, "engine_batches", "Batches that ended", done)?;
        let faults = all().map(|(labels, engine)| (labels, number(engine.faults)));
        counter(out, "engine_faults", "Batches that hung or faulted", faults)?;
        let resets = [([("scope", "engine")], number(self.resets))].into_iter();
        counter(out, "resets", "Resets because of a hang", resets)
    }

    fn holdings(&self, out: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        type Value = fn(&Class, Resource) -> u64;
        let held: Value = |class, resource| class.account.held(resource);
        let limit: Value = |class, resource| class.account.limit(resource);
        for (name, help, value) in [
            ("class_held", "What the sessions of a class hold", held),
            ("class_limit", "What they may hold together, where that is limited", limit),
        ] {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for class in &self.classes {
                for resource in Resource::ALL {
                    let value = value(class, resource);
                    if value != u64::MAX {
                        let labels = [("class", class.name()), ("resource", resource.key())];
                        family.encode_family(&labels)?.encode_gauge(&value)?;
                    }
                }
            }
        }
        let help = "Share of engine time of its sessions together, against other classes";
        let mut family = out.encode_descriptor("class_weight", help, None, MetricType::Gauge)?;
        for class in &self.classes {
            let labels = [("class", class.name())];
            family.encode_family(&labels)?.encode_gauge(&class.weight())?;
        }
        let had = self.classes.iter().flat_map(|class| {
            let times = class.share().engine_times().0;
            ENGINE_CLASSES.iter().zip(times).map(|(engine, ns)| {
                let labels = [("class", class.name()), ("engine", *engine)];
                (labels, Duration::from_nanos(ns).as_secs_f64())
            })
        });
        let help = "Engine time of the sessions of a class, by class of engine";
        counter(out, "class_engine_seconds", help, had)
    }

    fn counts(&self, out: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        type Which = fn(&Class) -> &AtomicU64;
        let all: [(&str, &str, Which); 5] = [
            ("sessions", "Sessions opened", |class| &class.counts.sessions),
            ("violations", "Sessions ended by a breach of the protocol", |class| {
                &class.counts.violations
            }),
            ("revocations", "Sessions that administrators took away", |class| {
                &class.counts.revocations
            }),
            ("hangs", "Batches that hung or faulted", |class| &class.counts.hangs),
            ("delays", "Requests that made their session wait for its rate", |class| {
                &class.counts.delays
            }),
        ];
        for (name, help, which) in all {
            let values = self.classes.iter().map(|class| {
                let value = which(class).load(Ordering::Relaxed);
                ([("class", class.name())], number(value))
            });
            counter(out, name, help, values)?;
        }
        Ok(())
    }

    fn refusals(&self, out: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let refusals = self.classes.iter().flat_map(|class| {
            class.counts.refusals().into_iter().map(move |(reason, count)| {
                ([("class", class.name().to_owned()), ("reason", reason.to_owned())], number(count))
            })
        });
        counter(out, "refusals", "Requests that were refused", refusals)
    }

    fn latencies(&self, out: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "From a request's arrival until its reply has left";
        let name = "request_seconds";
        let mut family = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for class in &self.classes {
            let kinds: [(&str, &Histogram); 2] =
                [("execbuf", &class.counts.execbuf), ("other", &class.counts.other)];
            for (kind, histogram) in kinds {
                let labels = [("class", class.name()), ("request", kind)];
                let (sum, count) = (histogram.sum(), histogram.count());
                let buckets = histogram.buckets();
                let mut one = family.encode_family(&labels)?;
                one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
