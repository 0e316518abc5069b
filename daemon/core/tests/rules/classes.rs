//! Limits of a class: what its sessions hold together.

use std::sync::Arc;

use gpu_broker_core::hands::Outcome;
use gpu_broker_core::{Class, ClassLimits, Privileges, Resource, Session, SessionLimits};
use gpu_broker_protocol::message::{BufferCreate, VmCreate};
use gpu_broker_protocol::param::ContextParam;
use gpu_broker_protocol::{Reason, Refusal, SessionId};

use crate::fake::{Event, Fake, USER_PAGES};
use crate::refused;
use crate::rig::*;
use crate::userptr::{Share, memory};

fn class(limits: &[(Resource, u64)], privileges: Privileges) -> Arc<Class> {
    let mut most = ClassLimits::NONE;
    limits.iter().for_each(|(resource, amount)| most.set(*resource, *amount));
    Arc::new(Class::new("tenant", most, privileges))
}

fn member(class: &Arc<Class>, number: u64) -> Rig {
    let (registry, hands) = (Arc::default(), Fake::default());
    let device = Arc::clone(&hands.0);
    let (caps, limits) = (Arc::new(kbl()), SessionLimits::default());
    let class = Arc::clone(class);
    let id = SessionId(number);
    let session = Session::open(NOW, id, hands, Arc::clone(&registry), caps, class, limits);
    Rig { device, registry, session: session.unwrap() }
}

fn buffer(rig: &Rig, pages: u64) -> Result<u32, Refusal> {
    let request = BufferCreate { size: pages * 4096, flags: 0, regions: None };
    rig.session.buffer_create(&request).map(|created| created.buffer.0)
}

fn held(class: &Class) -> [u64; 7] {
    Resource::ALL.map(|resource| class.held(resource))
}

/// A mapping is charged once, however many buffers are over it, and until the last is gone.
#[test]
fn memory_of_the_clients_is_charged_to_the_class_as_it_is_mapped() {
    const BYTES: u64 = USER_PAGES as u64 * 4096;
    let tenant = class(&[(Resource::UserptrMemory, 2 * BYTES)], Privileges::NONE);
    let (a, b) = (member(&tenant, 1), member(&tenant, 2));
    let held = || tenant.held(Resource::UserptrMemory);
    let first = a.share(memory(1)).unwrap();
    let again = a.share(memory(1)).unwrap();
    assert_eq!(held(), BYTES);
    refused!(OutOfMemory, b.share(Share { map: false, ..memory(2) }));
    assert_eq!(held(), BYTES, "what could not be mapped holds nothing");
    b.share(memory(1)).unwrap();
    for rig in [&a, &b] {
        let refusal = rig.share(memory(3)).unwrap_err();
        assert_eq!(refusal.reason, Reason::UserptrMemoryLimit);
        assert!(refusal.sentence().contains("class \"tenant\" holds"), "{refusal}");
        rig.share(memory(1)).expect("it is mapped already");
    }
    a.close_buffer(first).unwrap();
    refused!(UserptrMemoryLimit, b.share(memory(3)));
    a.close_buffer(again).unwrap();
    assert_eq!(held(), 2 * BYTES, "a has a third");
    a.session.close();
    assert_eq!(held(), BYTES);
    b.share(memory(3)).unwrap();
    drop(b);
    assert_eq!(held(), 0);
}

#[test]
fn sessions_of_a_class_share_its_limits_and_others_do_not() {
    use Resource::{BufferMemory, Buffers, Contexts, Vms};
    let limits = [(Contexts, 2), (Vms, 2), (Buffers, 3), (BufferMemory, 5 * 4096)];
    let tenant = class(&limits, Privileges::NONE);
    let (a, b) = (member(&tenant, 1), member(&tenant, 2));
    let stranger = member(&class(&limits, Privileges::NONE), 3);
    let (first, vm) = (a.create(), a.vm());
    b.create();
    b.vm();
    let big = buffer(&a, 4).unwrap();
    buffer(&b, 1).unwrap();
    let rule = |refusal: Refusal| {
        let sentence = refusal.sentence();
        assert!(sentence.contains("class \"tenant\" holds"), "{sentence}");
    };
    for rig in [&a, &b] {
        rule(rig.create_ext(vec![]).unwrap_err());
        rule(rig.session.vm_create(&VmCreate::default()).unwrap_err());
        rule(buffer(rig, 1).unwrap_err());
    }
    assert_eq!(held(&tenant), [0, 2, 2, 2, 5 * 4096, 0, 0], "what was refused holds nothing");
    // Whose class is another's has room.
    stranger.create();
    stranger.vm();
    buffer(&stranger, 5).unwrap();
    // What one gives back, the other may have: by destroying it, and by ending.
    a.destroy(first).unwrap();
    a.vm_destroy(vm).unwrap();
    a.close_buffer(big).unwrap();
    b.create();
    b.vm();
    buffer(&a, 1).unwrap();
    buffer(&b, 3).unwrap();
    refused!(BufferLimit, buffer(&b, 0x1));
    drop(a);
    buffer(&b, 1).unwrap();
    b.session.close();
    b.session.close();
    assert_eq!(held(&tenant), [0; 7]);
}

#[test]
fn work_in_flight_counts_until_it_completes_whoever_is_left() {
    let tenant = class(&[(Resource::Submissions, 2)], Privileges::NONE);
    let (a, b) = (member(&tenant, 1), member(&tenant, 2));
    let submit = |rig: &Rig| {
        let batch = rig.buffer(1);
        rig.run(0, &[object(batch)])
    };
    submit(&a).unwrap();
    submit(&b).unwrap();
    let refusal = submit(&a).unwrap_err();
    assert!(refusal.sentence().contains("limits.submissions_in_flight = 2"), "{refusal}");
    let in_flight = a.session.in_flight();
    drop(a);
    assert!(submit(&b).is_err(), "the work of a session that ended still runs");
    in_flight.release();
    submit(&b).unwrap();
    b.session.handle_completion(NOW, 0, Outcome::Completed);
    assert_eq!(tenant.held(Resource::Submissions), 1);
    drop(in_flight);
    drop(b);
    assert_eq!(held(&tenant), [0; 7]);
}

#[test]
fn a_failed_device_is_charged_nothing() {
    let tenant = class(&[], Privileges::NONE);
    let a = member(&tenant, 1);
    *a.device.fail_vm.lock().unwrap() = Some(Reason::OutOfMemory.into());
    a.session.vm_create(&VmCreate::default()).unwrap_err();
    assert_eq!(held(&tenant), [0; 7]);
}

#[test]
fn priorities_follow_the_class_and_its_changes() {
    let low = Privileges { priority_min: -500, priority_max: -100, ..Privileges::NONE };
    let tenant = class(&[], low);
    let a = member(&tenant, 1);
    let context = a.create();
    let set = |priority| a.set(context, ContextParam::priority(priority));
    let contexts = a.session.status(9).contexts;
    assert!(contexts.iter().all(|context| context.priority == -100), "{contexts:?}");
    for (priority, key) in [(-99, "rights.priority_max = -100"), (-501, "rights.priority_min")] {
        let refusal = set(priority).unwrap_err();
        assert_eq!(refusal.errno(), gpu_broker_protocol::refusal::errno::EPERM);
        assert!(refusal.sentence().contains(key), "{refusal}");
    }
    set(-500).unwrap();
    tenant.set_privileges(Privileges::ALL);
    set(1023).unwrap();
}

#[test]
fn limits_of_a_session_change_while_it_lives_but_not_what_hello_told_of_a_message() {
    let a = member(&class(&[], Privileges::NONE), 1);
    a.create();
    a.create();
    a.buffer(1);
    let fewer = SessionLimits {
        contexts: 1,
        buffers: 1,
        vms: 1,
        buffer_bytes: 4096,
        ..SessionLimits::default()
    };
    a.session.set_limits(fewer);
    assert!(a.create_ext(vec![]).is_err() && buffer(&a, 1).is_err());
    a.session.set_limits(SessionLimits { buffers: 2, ..fewer });
    buffer(&a, 2).unwrap();
    a.session.close();
    a.session.set_limits(SessionLimits::default());
    assert!(a.create_ext(vec![]).is_err() && buffer(&a, 1).is_err(), "closed for good");
}

#[test]
fn revoking_ends_the_work_of_persistent_contexts_too() {
    let a = member(&class(&[], Privileges::NONE), 1);
    let context = a.create();
    a.materialise(context);
    a.session.revoke();
    let events = a.device.take_events();
    let ended = events.iter().filter(|event| matches!(event, Event::Closed { cancel: true, .. }));
    assert_eq!(ended.count(), 2, "the default context and ours: {events:?}");
}
