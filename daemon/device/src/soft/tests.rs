//! The conformance suite on the software GPU, and what only the software GPU promises.

use std::time::Duration;

use super::signal::EIO;
use super::*;
use crate::conformance::{self, Rig};

/// Impatient with endless batches.
pub(super) fn impatient() -> Config {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
    Config::uniform(Limits {
        heartbeat_ns: ns(Duration::from_millis(200)),
        preempt_ns: ns(Duration::from_millis(200)),
        ..Limits::default()
    })
}

fn device() -> SoftDevice {
    SoftDevice::start(impatient()).unwrap()
}

mod suite {
    use super::device;

    crate::conformance::suite!(device);
}

#[test]
fn files_outlive_their_device_without_effect() {
    conformance::refuses_when_lost(Rig::new(device()));
}

/// The space of a context and its memory go once, and not before the work that uses them is over.
#[test]
fn memory_is_given_back_once_after_the_last_request() {
    let rig = Rig::new(device());
    let quotas = Arc::clone(&rig.device.shared.quotas);
    let left = || (quotas.mappings.left(), quotas.fds.left());
    let gate = rig.mem();
    let before = left();
    let work = {
        let vm = rig.vm();
        let (context, _) = rig.context(&vm);
        let data = rig.mem();
        let work = conformance::stuck_writer(&rig, &context, &gate, &data);
        rig.file.close_context(context, false);
        work
    };
    assert_eq!(left(), (before.0 - 2, before.1 - 2), "the data and the batch");
    gate.set(0, 1);
    rig.finish(&work);
    conformance::eventually("all is given back", || left() == before);
    rig.end();
}

/// Cancelling comes to one request after another, and the first one's end launches the next.
#[test]
fn nothing_begins_once_cancelling_has_begun() {
    let rig = Rig::new(device());
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, data, second) = (rig.mem(), rig.mem(), rig.mem());
    let running = conformance::stuck_writer(&rig, &context, &gate, &second);
    let queued = conformance::stuck_writer(&rig, &context, &gate, &data);
    context.0.start_nothing();
    gate.set(0, 1);
    rig.finish(&running);
    assert_eq!(rig.wait(&queued), FenceState::Failed(EIO));
    assert_eq!(data.get(0), 0);
    rig.end();
}

/// Neither the table of shared buffers nor syncobjs remember what is over.
#[test]
fn tables_forget_what_is_gone() {
    let rig = Rig::new(device());
    let table = Arc::clone(&rig.device.shared.shared_buffers);
    let mem = rig.mem();
    let again = rig.mem_again(&mem);
    assert_eq!(table.len(), 1);
    drop(mem);
    assert_eq!(table.len(), 1);
    drop(again);
    assert_eq!(table.len(), 0);

    let objects = [(rig.syncobj(), 1), (rig.syncobj(), 1)];
    let wait = SyncobjWait { objects: &objects, all: false, for_submit: true, available: false };
    let parked = || objects.each_ref().map(|(syncobj, _)| syncobj.parked());
    rig.file.watch_syncobjs(&wait, 1).unwrap();
    rig.file.watch_syncobjs(&wait, 2).unwrap();
    assert_eq!(parked(), [2, 2]);
    rig.file.unwatch_syncobjs(2);
    assert_eq!(parked(), [1, 1]);
    rig.file.signal_syncobj(&objects[0].0, 1).unwrap();
    assert_eq!(parked(), [0, 0]);
    rig.end();
}
