//! CREATE, DESTROY, VMs, materialisation and the end of a session (rule table §1, §2, §7 to §11).

use std::sync::Arc;

use gpu_broker_core::{Capabilities, Session, SessionLimits};
use gpu_broker_protocol::message::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::status::{ContextState, MaterialisedBy};
use gpu_broker_protocol::usage::{ClassUsage, MemoryUsage};
use gpu_broker_protocol::{BufferId, ContextId, SessionId, VmId};

use crate::fake::{Event, Fake, out_of_memory};
use crate::refused;
use crate::rig::*;

#[test]
fn create_checks_in_the_kernels_order() {
    let none = rig_with(Capabilities { has_logical_contexts: false, ..kbl() }, NOBODY);
    refused!(ContextsUnsupported, none.create_with(u32::MAX, Vec::new()));
    let rig = rig_with(Capabilities { has_execlists: false, ..kbl() }, NOBODY);
    refused!(ContextFlags, rig.create_with(4 | create_flag::SINGLE_TIMELINE, Vec::new()));
    let bad = vec![Extension::new(9, CreateExtension::Unknown)];
    refused!(SingleTimelineUnsupported, rig.create_with(3, bad.clone()));
    refused!(ExtensionUnknown, rig.create_with(1, bad));
}

#[test]
fn ids_are_the_lowest_free_and_the_default_context_stays() {
    let rig = rig();
    assert_eq!([rig.create(), rig.create(), rig.create()], [1, 2, 3]);
    rig.materialise(2);
    rig.destroy(2).unwrap();
    rig.destroy(1).unwrap();
    assert_eq!([rig.create(), rig.create(), rig.create()], [1, 2, 4]);
    refused!(NoSuchContext, rig.destroy(0));
    refused!(NoSuchContext, rig.destroy(5));
    refused!(
        ReservedNotZero,
        rig.session.context_destroy(&ContextDestroy { context: ContextId(77), pad: 1 })
    );
    assert!(rig.is_live(0));
}

#[test]
fn lookups_materialise_and_nothing_else_does() {
    let rig = rig();
    let by = |context| match rig.context(context).unwrap().state {
        ContextState::Live { by } => Some(by),
        ContextState::Proto => None,
    };
    let context = rig.create();
    rig.set(context, ContextParam::priority(-1)).unwrap();
    rig.create_ext(vec![clone_node(context, clone_flag::ALL)]).unwrap();
    assert_eq!((by(0), by(context)), (Some(MaterialisedBy::Open), None));
    rig.get(context, number::PRIORITY).unwrap();
    assert_eq!(by(context), Some(MaterialisedBy::GetParam));
    let context = rig.create();
    let stats = |flags, pad| ContextResetStats { context: ContextId(context), flags, pad };
    refused!(ReservedNotZero, rig.session.context_reset_stats(&stats(1, 0)));
    refused!(ReservedNotZero, rig.session.context_reset_stats(&stats(0, 1)));
    assert_eq!(by(context), None);
    rig.session.context_reset_stats(&stats(0, 0)).unwrap();
    assert_eq!(by(context), Some(MaterialisedBy::ResetStats));
    let context = rig.create();
    rig.run(context, &[object(rig.buffer(1))]).unwrap();
    assert_eq!(by(context), Some(MaterialisedBy::Execbuf));
}

#[test]
fn newer_devices_materialise_in_create() {
    let rig = rig_with(Capabilities { graphics_version: 13, ..kbl() }, NOBODY);
    let context = rig.create();
    assert!(rig.is_live(context));
    *rig.device.fail_context.lock().unwrap() = Some(out_of_memory());
    refused!(OutOfMemory, rig.create_with(0, Vec::new()));
    assert_eq!(rig.create(), context + 1, "a refused CREATE took an id");
}

#[test]
fn a_failed_materialisation_leaves_the_proto() {
    let rig = rig();
    let context = rig.create();
    rig.set(context, ContextParam::priority(-3)).unwrap();
    *rig.device.fail_vm.lock().unwrap() = Some(out_of_memory());
    refused!(OutOfMemory, rig.get(context, number::PRIORITY));
    *rig.device.fail_context.lock().unwrap() = Some(out_of_memory());
    refused!(OutOfMemory, rig.get(context, number::PRIORITY));
    assert!(!rig.is_live(context));
    assert_eq!(rig.device.counts(), (1, 1, 0));
    rig.set(context, map(&[RCS])).unwrap();
    assert_eq!(rig.get(context, number::PRIORITY).unwrap().cast_signed(), -3);
    *rig.device.fail_context.lock().unwrap() = Some(out_of_memory());
    let other = rig.create();
    refused!(OutOfMemory, rig.stats(other));
    rig.destroy(other).unwrap();
}

#[test]
fn a_session_without_a_default_context_is_not_opened() {
    let hands = Fake::default();
    let device = Arc::clone(&hands.0);
    *device.fail_context.lock().unwrap() = Some(out_of_memory());
    let opened = Session::open(
        NOW,
        SessionId(1),
        hands,
        Arc::default(),
        Arc::new(kbl()),
        NOBODY,
        SessionLimits::default(),
    );
    refused!(OutOfMemory, opened);
    assert_eq!(device.counts(), (0, 0, 0));
}

#[test]
fn close_policy() {
    // hangcheck, persistent, cancelled
    for (hangcheck, persistent, cancel) in
        [(true, true, false), (true, false, true), (false, false, true)]
    {
        let rig = rig_with(Capabilities { hangcheck, ..kbl() }, NOBODY);
        let context = rig.create();
        let value = u64::from(persistent);
        rig.set(context, ContextParam::scalar(number::PERSISTENCE, value)).unwrap();
        rig.materialise(context);
        let tag = rig.device.last_made().tag;
        rig.destroy(context).unwrap();
        assert_eq!(rig.device.take_events(), [Event::Closed { tag, cancel }]);
    }
}

#[test]
fn vm_requests() {
    let rig = rig();
    let node = Extension::new(0, ());
    let create = |flags, extensions| rig.session.vm_create(&VmCreate { flags, extensions });
    refused!(VmFlags, create(1, vec![node.clone()]));
    refused!(ExtensionUnknown, create(0, vec![node.clone()]));
    refused!(ReservedNotZero, create(0, vec![Extension { flags: 1, ..node.clone() }]));
    assert_eq!([rig.vm(), rig.vm()], [1, 2]);
    let destroy = |vm, flags, extensions| {
        rig.session.vm_destroy(&VmDestroy { vm: VmId(vm), flags, extensions })
    };
    refused!(VmFlags, destroy(9, 1, Vec::new()));
    refused!(VmFlags, destroy(9, 0, vec![node]));
    refused!(NoSuchVm, destroy(9, 0, Vec::new()));
    refused!(NoSuchVm, destroy(0, 0, Vec::new()));
    rig.vm_destroy(1).unwrap();
    refused!(NoSuchVm, rig.vm_destroy(1));
    assert_eq!(rig.vm(), 1);
    let old = rig_with(Capabilities { full_ppgtt: false, ..kbl() }, NOBODY);
    refused!(VmUnsupported, old.session.vm_create(&VmCreate { flags: 1, extensions: Vec::new() }));
    refused!(VmUnsupported, old.get(0, number::VM));
}

#[test]
fn a_vm_lives_as_long_as_something_refers_to_it() {
    let rig = rig();
    let vms = || rig.device.counts().0;
    let vm = rig.vm();
    let (proto, live) = (rig.create(), rig.create());
    for context in [proto, live] {
        rig.set(context, ContextParam::scalar(number::VM, vm.into())).unwrap();
    }
    rig.materialise(live);
    rig.vm_destroy(vm).unwrap();
    assert_eq!(vms(), 2);
    rig.destroy(proto).unwrap();
    assert_eq!(vms(), 2);
    rig.destroy(live).unwrap();
    assert_eq!(vms(), 1, "the last context is gone");
}

#[test]
fn limits() {
    let limits = SessionLimits {
        contexts: 2,
        vms: 2,
        buffers: 3,
        buffer_bytes: 8192,
        buffer_memory_bytes: 16384,
        ..SessionLimits::default()
    };
    let rig = limited(kbl(), NOBODY, limits);
    let context = rig.create();
    rig.materialise(rig.create());
    refused!(ContextLimit, rig.create_with(0, Vec::new()));
    rig.destroy(context).unwrap();
    rig.create();
    rig.vm();
    rig.vm();
    refused!(VmLimit, rig.session.vm_create(&VmCreate::default()));
    refused!(VmLimit, rig.get(0, number::VM));
    let create = |size| rig.session.buffer_create(&BufferCreate { size, flags: 0, regions: None });
    refused!(BufferSize, create(0));
    refused!(BufferTooLarge, create(8193));
    refused!(BufferTooLarge, create(u64::MAX - 4095));
    // Rounded up to pages, it is none.
    refused!(BufferSize, create(u64::MAX));
    assert_eq!(create(1).unwrap().size, 4096);
    assert_eq!(create(8192).unwrap().size, 8192);
    refused!(BufferMemoryLimit, create(4097));
    assert_eq!(create(4096).unwrap().buffer, BufferId(3));
    refused!(BufferLimit, create(1));
    rig.close_buffer(2).unwrap();
    assert_eq!(create(8192).unwrap().buffer, BufferId(2));
    let refused_flags =
        rig.session.buffer_create(&BufferCreate { size: 1, flags: 1, regions: None });
    refused!(BufferSize, refused_flags);
    // A configuration cannot go above the protocol.
    let most = SessionLimits { contexts: u32::MAX, ..SessionLimits::default() };
    let rig = limited(kbl(), NOBODY, most);
    for _ in 0..gpu_broker_protocol::limits::CONTEXTS_PER_SESSION_MAX {
        rig.create();
    }
    refused!(ContextLimit, rig.create_with(0, Vec::new()));
}

#[test]
fn buffers_by_handle() {
    let rig = rig();
    let buffer = rig.buffer(5000);
    assert_eq!(rig.session.with_buffer(BufferId(buffer), |_, size| size).unwrap(), 8192);
    rig.close_buffer(buffer).unwrap();
    refused!(NoSuchBuffer, rig.close_buffer(buffer));
    refused!(NoSuchBuffer, rig.session.with_buffer(BufferId(buffer), |_, size| size));
    refused!(NoSuchBuffer, rig.close_buffer(0));
    assert_eq!(rig.device.counts().2, 0);
}

#[test]
fn a_closed_session_is_empty_and_stays_so() {
    let rig = rig();
    let vm = rig.vm();
    let proto = rig.create();
    rig.set(proto, ContextParam::scalar(number::VM, vm.into())).unwrap();
    let live = rig.create();
    rig.run(live, &[object(rig.buffer(1))]).unwrap();
    for _ in 0..2 {
        rig.session.close();
        assert_eq!(rig.device.counts(), (0, 0, 0));
        assert_eq!(rig.registry.live_contexts(), 0);
    }
    for context in [0, proto, live] {
        refused!(NoSuchContext, rig.stats(context));
    }
    refused!(ContextLimit, rig.create_with(0, Vec::new()));
    refused!(VmLimit, rig.session.vm_create(&VmCreate::default()));
    refused!(
        BufferLimit,
        rig.session.buffer_create(&BufferCreate { size: 1, flags: 0, regions: None })
    );
    let status = rig.session.status(10);
    assert_eq!((status.contexts_total, status.vms, status.buffers), (0, 0, 0));
    // The work that was in flight still ends.
    let tag = rig.device.last_submission().tag;
    rig.session.handle_completion(NOW, tag, gpu_broker_core::hands::Outcome::Cancelled);
    assert_eq!(rig.session.status(0).in_flight, 0);
}

#[test]
fn ids_mean_nothing_in_another_session() {
    let first = rig();
    let second = Session::open(
        NOW,
        SessionId(3),
        Fake(Arc::clone(&first.device)),
        Arc::clone(&first.registry),
        Arc::new(kbl()),
        NOBODY,
        SessionLimits::default(),
    )
    .unwrap();
    let (context, vm, buffer) = (first.create(), first.vm(), first.buffer(1));
    first.materialise(context);
    let second =
        Rig { device: Arc::clone(&first.device), registry: Arc::default(), session: second };
    refused!(NoSuchContext, second.stats(context));
    refused!(NoSuchContext, second.destroy(context));
    refused!(CloneSource, second.create_ext(vec![clone_node(context, 0)]));
    refused!(NoSuchVm, second.vm_destroy(vm));
    refused!(NoSuchBuffer, second.run(0, &[object(buffer)]));
    drop(second);
    assert!(first.is_live(context));
    assert_eq!(first.registry.live_contexts(), 2);
}

#[test]
fn status_lists_contexts_by_id_and_cuts() {
    let rig = rig();
    for _ in 0..5 {
        rig.create();
    }
    rig.set(3, map(&[RCS])).unwrap();
    rig.materialise(3);
    rig.set(3, ContextParam::priority(-2)).unwrap();
    let status = rig.session.status(4);
    assert_eq!((status.contexts.len(), status.contexts_total), (4, 6));
    let ids: Vec<_> = status.contexts.iter().map(|context| context.context.0).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    let third = &status.contexts[3];
    assert_eq!((third.priority, third.user_engines, third.banned), (-2, true, false));
}

/// Engine time is the device's; memory is counted by what became of it, each handle once.
#[test]
fn accounts_say_what_a_session_used() {
    let rig = rig();
    for pages in [1, 2, 4] {
        rig.buffer(pages * 4096);
    }
    let proto = rig.create();
    let accounts = rig.session.accounts(10);
    let class = |class, capacity, busy_ns| ClassUsage { class, capacity, busy_ns };
    let expected = [class(0, 1, 1000), class(1, 1, 100), class(2, 2, 0), class(3, 1, 7)];
    assert_eq!(accounts.engines, expected);
    let MemoryUsage { total, shared, resident, active } = accounts.memory;
    assert_eq!((total, resident), (7 * 4096, 7 * 4096));
    // The fake shares every other buffer, and the rest are busy.
    assert_eq!(shared + active, total);
    assert!(shared > 0 && active > 0, "{shared} and {active}");
    let live: Vec<_> = accounts.contexts.iter().map(|known| known.context).collect();
    assert_eq!(live, [ContextId::DEFAULT], "a proto-context has used nothing");
    rig.materialise(proto);
    let contexts = rig.session.accounts(10).contexts;
    assert_eq!(contexts.len(), 2);
    assert_eq!(contexts[1].busy_ns[1..], [10, 0, 0]);
    assert_ne!(contexts[0].busy_ns[0], contexts[1].busy_ns[0], "each has its own");
    assert_eq!(rig.session.accounts(1).contexts.len(), 1);
    // What a device does not tell is nothing, not zero.
    rig.device.blind.store(true, std::sync::atomic::Ordering::Relaxed);
    let contexts = rig.session.accounts(10).contexts;
    assert!(contexts.len() == 2 && contexts.iter().all(|context| context.busy_ns.is_empty()));
}
