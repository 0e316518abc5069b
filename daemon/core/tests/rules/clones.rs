//! CLONE (rule table §16), and the order of nodes in a chain.

use gpu_broker_core::Capabilities;
use gpu_broker_core::hands::Slot;
use gpu_broker_protocol::ContextId;
use gpu_broker_protocol::limits::EXTENSIONS_PER_CHAIN_MAX;
use gpu_broker_protocol::param::*;

use crate::refused;
use crate::rig::*;

/// A context with something of everything.
fn rich(rig: &Rig) -> u32 {
    let vm = rig.vm();
    rig.create_with(
        create_flag::USE_EXTENSIONS | create_flag::SINGLE_TIMELINE,
        vec![
            set_node(map_with(&[RCS, EngineId::GAP], vec![balance(1, &[VCS0, VCS1])])),
            set_node(ContextParam::priority(-5)),
            set_node(ContextParam::scalar(number::RECOVERABLE, 0)),
            set_node(ContextParam::scalar(number::NO_ERROR_CAPTURE, 1)),
            set_node(ContextParam::scalar(number::VM, vm.into())),
        ],
    )
    .unwrap()
}

#[test]
fn everything_is_copied_from_proto_and_from_live() {
    for live in [false, true] {
        let rig = rig();
        let source = rich(&rig);
        if live {
            rig.materialise(source);
        }
        let copy = rig.create_ext(vec![clone_node(source, clone_flag::ALL)]).unwrap();
        assert_eq!(rig.is_live(source), live, "CLONE changed its source");
        rig.materialise(source);
        rig.materialise(copy);
        let made = rig.device.made.lock().unwrap().clone();
        let (of_source, of_copy) = (&made[1], &made[2]);
        let tag = of_source.tag;
        assert_ne!(of_copy.tag, tag);
        assert_eq!(crate::fake::Made { tag, ..of_copy.clone() }, of_source.clone());
        assert!(of_copy.single_timeline && !of_copy.recoverable && !of_copy.error_capture);
        assert_eq!(of_copy.priority, -5);
    }
}

#[test]
fn each_bit_copies_its_part_alone() {
    let rig = rig();
    let source = rich(&rig);
    let made = |flags| {
        let copy = rig.create_ext(vec![clone_node(source, flags)]).unwrap();
        rig.materialise(copy);
        rig.device.last_made()
    };
    let plain = made(0);
    assert_eq!((plain.priority, plain.recoverable, plain.single_timeline), (0, true, false));
    assert_eq!(plain.engines, None);
    assert!(made(clone_flag::ENGINES).engines.is_some_and(|slots| slots.len() == 2));
    assert!(!made(clone_flag::FLAGS).recoverable);
    assert_eq!(made(clone_flag::SCHEDATTR).priority, -5);
    assert!(made(clone_flag::TIMELINE).single_timeline);
    assert_eq!(made(clone_flag::VM).vm, made(clone_flag::VM).vm);
    assert_ne!(made(0).vm, made(clone_flag::VM).vm);
}

#[test]
fn refusals() {
    let rig = rig();
    let clone = |node: CloneFrom| {
        let body = CreateExtension::Clone(node);
        rig.create_ext(vec![Extension::new(CreateExtension::CLONE, body)])
    };
    let unknown = CloneFrom { source: ContextId(77), flags: 0x40, rsvd: 1 };
    refused!(CloneFlags, clone(unknown));
    refused!(ReservedNotZero, clone(CloneFrom { flags: 0x3f, ..unknown }));
    refused!(CloneSource, clone(CloneFrom { flags: 0x3f, rsvd: 0, ..unknown }));
    // The context that is being made has no id yet: the next one to be given is no source.
    refused!(CloneSource, clone(CloneFrom { source: ContextId(1), flags: 0, rsvd: 0 }));
    assert_eq!(rig.create(), 1, "a refused CREATE took an id");
    rig.create_ext(vec![clone_node(0, clone_flag::ALL)]).unwrap();
}

#[test]
fn a_private_vm_of_a_proto_is_not_shared_that_of_a_live_context_is() {
    let rig = rig();
    let source = rig.create();
    let from_proto = rig.create_ext(vec![clone_node(source, clone_flag::VM)]).unwrap();
    rig.materialise(source);
    let from_live = rig.create_ext(vec![clone_node(source, clone_flag::VM)]).unwrap();
    rig.materialise(from_proto);
    rig.materialise(from_live);
    let made = rig.device.made.lock().unwrap().clone();
    let [_, source, from_proto, from_live] = &made[..] else { panic!("{made:?}") };
    assert_eq!(source.vm, from_live.vm);
    assert_ne!(source.vm, from_proto.vm);
}

#[test]
fn chain_order_decides() {
    let rig = rig();
    let source = rich(&rig);
    let priority = |extensions| {
        let context = rig.create_ext(extensions).unwrap();
        rig.get(context, number::PRIORITY).unwrap().cast_signed()
    };
    let set = || set_node(ContextParam::priority(-9));
    let clone = || clone_node(source, clone_flag::SCHEDATTR);
    assert_eq!(priority(vec![clone(), set()]), -9);
    assert_eq!(priority(vec![set(), clone()]), -5);
    // A cloned map gives way to one that is set, once, and replaces one that was set before.
    let engines = || clone_node(source, clone_flag::ENGINES);
    let context = rig.create_ext(vec![engines(), set_node(map(&[BCS]))]).unwrap();
    refused!(EnginesAlreadySet, rig.set(context, map(&[RCS])));
    rig.materialise(context);
    assert_eq!(rig.device.last_made().engines, Some(vec![Slot::Physical(BCS)]));
    let context = rig.create_ext(vec![set_node(map(&[BCS])), engines()]).unwrap();
    rig.materialise(context);
    assert_eq!(rig.device.last_made().engines.map(|slots| slots.len()), Some(2));
}

#[test]
fn sseu_needs_equal_maps() {
    let sseu =
        gpu_broker_core::SseuTopology { slice_mask: 1, subslice_mask: 0xff, eus_per_subslice: 8 };
    let rig = rig_with(Capabilities { graphics_version: 11, sseu, ..kbl() }, NOBODY);
    let source = rig.create_ext(vec![set_node(map(&[BCS, RCS]))]).unwrap();
    let half = Sseu {
        engine: engine(0, 1),
        flags: Sseu::ENGINE_INDEX,
        slice_mask: 1,
        subslice_mask: 0x0f,
        min_eus_per_subslice: 8,
        max_eus_per_subslice: 8,
        rsvd: 0,
    };
    rig.set(source, ContextParam::sseu(half)).unwrap();
    refused!(CloneEngines, rig.create_ext(vec![clone_node(source, clone_flag::SSEU)]));
    for slots in [&[BCS][..], &[RCS, RCS], &[BCS, RCS, RCS]] {
        let chain = vec![set_node(map(slots)), clone_node(source, clone_flag::SSEU)];
        refused!(CloneEngines, rig.create_ext(chain));
    }
    for chain in [
        vec![set_node(map(&[BCS, RCS])), clone_node(source, clone_flag::SSEU)],
        vec![clone_node(source, clone_flag::SSEU | clone_flag::ENGINES)],
    ] {
        let copy = rig.create_ext(chain).unwrap();
        assert_eq!(
            rig.get_param(copy, ContextParam::sseu(half)).unwrap(),
            ContextParam::sseu(half)
        );
    }
}

#[test]
fn what_the_destination_cannot_have_is_not_cloned() {
    // That CLONE itself asks for the privilege is tested in src/clone.rs: through a session one
    // cannot get at a source that has what the session may not set.
    let caps = Capabilities { pxp: true, ..kbl() };
    let rig = rig_with(caps, ROOT);
    let unbannable = rig.create();
    rig.set(unbannable, ContextParam::scalar(number::BANNABLE, 0)).unwrap();
    let copy = rig.create_ext(vec![clone_node(unbannable, clone_flag::FLAGS)]).unwrap();
    assert_eq!(rig.get(copy, number::BANNABLE).unwrap(), 0);
    let protected = || {
        vec![
            set_node(ContextParam::scalar(number::RECOVERABLE, 0)),
            set_node(ContextParam::scalar(number::PROTECTED_CONTENT, 1)),
        ]
    };
    for source in [unbannable, 0] {
        let mut chain = protected();
        chain.push(clone_node(source, clone_flag::FLAGS));
        refused!(ProtectedPermission, rig.create_ext(chain));
    }
}

#[test]
fn a_parallel_slot_and_a_single_timeline_do_not_meet() {
    let rig = rig();
    let extensions = vec![parallel(0, 2, 1, &[VCS0, VCS1])];
    let wide = rig.create_ext(vec![set_node(map_with(&[EngineId::GAP], extensions))]).unwrap();
    let single = rig.create_with(create_flag::SINGLE_TIMELINE, Vec::new()).unwrap();
    let both = create_flag::USE_EXTENSIONS | create_flag::SINGLE_TIMELINE;
    let engines = clone_node(wide, clone_flag::ENGINES);
    refused!(ParallelSingleTimeline, rig.create_with(both, vec![engines.clone()]));
    let timeline = clone_node(single, clone_flag::TIMELINE);
    refused!(ParallelSingleTimeline, rig.create_ext(vec![engines, timeline]));
}

#[test]
fn a_cloned_timeline_orders_both_contexts() {
    let rig = rig();
    let source = rig.create_with(create_flag::SINGLE_TIMELINE, Vec::new()).unwrap();
    let copy = rig.create_ext(vec![clone_node(source, clone_flag::TIMELINE)]).unwrap();
    let other = rig.create();
    let (a, b, c) = (rig.buffer(1), rig.buffer(1), rig.buffer(1));
    rig.run(source, &[object(a)]).unwrap();
    assert_eq!(rig.device.last_submission().after, []);
    assert!(rig.device.last_submission().want_fence);
    rig.run(copy, &[object(b)]).unwrap();
    let after = rig.device.last_submission().after;
    assert_eq!(after.len(), 1, "the copy does not wait for the source");
    rig.run(source, &[object(a)]).unwrap();
    assert_ne!(rig.device.last_submission().after, after);
    assert_eq!(rig.device.last_submission().after.len(), 1);
    rig.run(other, &[object(c)]).unwrap();
    assert_eq!(rig.device.last_submission().after, []);
}

#[test]
fn chains() {
    let rig = rig();
    let set = || set_node(ContextParam::priority(-1));
    let chain = |length: usize| (0..length).map(|_| set()).collect::<Vec<_>>();
    rig.create_ext(chain(EXTENSIONS_PER_CHAIN_MAX)).unwrap();
    refused!(ExtensionChainTooLong, rig.create_ext(chain(EXTENSIONS_PER_CHAIN_MAX + 1)));
    // An error earlier in the chain comes before its length.
    let mut bad = chain(EXTENSIONS_PER_CHAIN_MAX + 1);
    bad[3].flags = 1;
    refused!(ReservedNotZero, rig.create_ext(bad));
    refused!(ReservedNotZero, rig.create_ext(vec![Extension { rsvd: [1, 0, 0, 0], ..set() }]));
    refused!(ExtensionUnknown, rig.create_ext(vec![Extension::new(2, CreateExtension::Unknown)]));
    refused!(ExtensionUnknown, rig.create_ext(vec![Extension { name: 1, ..set() }]));
    let body =
        CreateExtension::SetParam { context: ContextId(1), param: ContextParam::priority(0) };
    refused!(ExtensionContextId, rig.create_ext(vec![Extension::new(0, body)]));
    // Without the flag nobody looks at the chain.
    rig.create_with(0, vec![Extension::new(9, CreateExtension::Unknown)]).unwrap();
    // All or nothing: what came before the error is gone.
    let before = rig.device.counts();
    let next = rig.create();
    rig.destroy(next).unwrap();
    let vm = rig.vm();
    let chain = vec![
        set_node(ContextParam::scalar(number::VM, vm.into())),
        set_node(ContextParam::priority(5000)),
    ];
    refused!(PriorityRange, rig.create_ext(chain));
    rig.vm_destroy(vm).unwrap();
    assert_eq!((rig.device.counts(), rig.create()), (before, next));
}
