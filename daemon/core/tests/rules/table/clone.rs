//! §16.

use std::sync::Arc;

use gpu_broker_core::hands::Slot;
use gpu_broker_core::{Capabilities, Session, SessionLimits, SseuTopology};
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::{ContextId, SessionId};

use super::Book;
use crate::fake::{Fake, Made};
use crate::rig::*;

pub(super) fn check(book: &mut Book) {
    nodes(book);
    each_bit(book);
    sources(book);
    sseu(book);
}

/// A context with something of everything.
fn rich(rig: &Rig) -> u32 {
    let vm = rig.vm();
    let map = map_with(&[RCS, EngineId::GAP, EngineId::GAP], vec![balance(1, &[VCS0, VCS1])]);
    let nodes = vec![
        set_node(map),
        set_node(ContextParam::priority(-5)),
        set_node(ContextParam::scalar(number::RECOVERABLE, 0)),
        set_node(ContextParam::scalar(number::VM, vm.into())),
    ];
    let flags = create_flag::USE_EXTENSIONS | create_flag::SINGLE_TIMELINE;
    rig.create_with(flags, nodes).unwrap()
}

fn made(rig: &Rig, source: u32, flags: u32) -> Made {
    let copy = rig.create_ext(vec![clone_node(source, flags)]).unwrap();
    rig.materialise(copy);
    rig.device.last_made()
}

fn nodes(book: &mut Book) {
    let rig = rig();
    let clone = |source, flags, rsvd| {
        let node = CloneFrom { source: ContextId(source), flags, rsvd };
        let body = CreateExtension::Clone(node);
        rig.create_ext(vec![Extension::new(CreateExtension::CLONE, body)])
    };
    for bit in 6..32 {
        book.errno("16/flags", EINVAL, clone(99, 1 << bit, 1));
    }
    book.errno("16/rsvd", EINVAL, clone(99, 0x3f, 1));
    for source in [99, 1] {
        book.errno("16/source", ENOENT, clone(source, 0, 0));
    }
    let created = book.errno("16/source", 0, clone(0, 0x3f, 0));
    assert_eq!(created, Some(1), "a refused CREATE took an id");
    let other = Session::open(
        NOW,
        SessionId(7),
        Fake(Arc::clone(&rig.device)),
        Arc::clone(&rig.registry),
        Arc::new(kbl()),
        NOBODY,
        SessionLimits::default(),
    );
    let other =
        Rig { device: Arc::clone(&rig.device), registry: Arc::default(), session: other.unwrap() };
    book.errno("16/file", ENOENT, other.create_ext(vec![clone_node(1, 0)]));
}

fn each_bit(book: &mut Book) {
    let rig = rig_with(kbl(), ADMIN);
    let source = rich(&rig);
    let plain = made(&rig, source, 0);
    let slots = vec![Slot::Physical(RCS), Slot::Balanced(vec![VCS0, VCS1]), Slot::Gap];
    book.effect("16/engines", made(&rig, source, clone_flag::ENGINES).engines == Some(slots));
    book.effect("16/engines", plain.engines.is_none());
    let flags = made(&rig, source, clone_flag::FLAGS);
    book.effect("16/flags-bit", !flags.recoverable && flags.bannable && plain.recoverable);
    let unbannable = rig.create();
    rig.set(unbannable, ContextParam::scalar(number::BANNABLE, 0)).unwrap();
    book.effect("16/flags-bit", !made(&rig, unbannable, clone_flag::FLAGS).bannable);
    book.effect("16/schedattr", made(&rig, source, clone_flag::SCHEDATTR).priority == -5);
    book.effect("16/schedattr", plain.priority == 0);
    let timeline = made(&rig, source, clone_flag::TIMELINE);
    book.effect("16/timeline", timeline.single_timeline && !plain.single_timeline);
    book.effect("16/timeline", !made(&rig, 0, clone_flag::TIMELINE).single_timeline);
    let (one, two) = (made(&rig, source, clone_flag::VM), made(&rig, source, clone_flag::VM));
    book.effect("16/vm", one.vm == two.vm && one.vm != plain.vm);
    let proto = rig.create();
    let (one, two) = (made(&rig, proto, clone_flag::VM), made(&rig, proto, clone_flag::VM));
    book.effect("16/vm", one.vm != two.vm);
    let set = || set_node(ContextParam::priority(-9));
    for (chain, priority) in [
        (vec![clone_node(source, clone_flag::ALL), set()], -9_i64),
        (vec![set(), clone_node(source, clone_flag::ALL)], -5),
        (vec![clone_node(source, clone_flag::ALL), clone_node(0, clone_flag::SCHEDATTR)], 0),
    ] {
        let context = book.errno("16/chain", 0, rig.create_ext(chain)).unwrap();
        let read = rig.get(context, number::PRIORITY).unwrap();
        book.effect("16/chain", read == priority.cast_unsigned());
    }
    let replace = vec![clone_node(source, clone_flag::ENGINES), set_node(map(&[BCS]))];
    book.errno("16/chain", 0, rig.create_ext(replace));
}

fn sources(book: &mut Book) {
    for live in [false, true] {
        let rig = rig();
        let source = rich(&rig);
        if live {
            rig.materialise(source);
        }
        let copy = rig.create_ext(vec![clone_node(source, clone_flag::ALL)]);
        let copy = book.errno("16/everything", 0, copy).unwrap();
        book.effect("16/everything", rig.is_live(source) == live);
        rig.materialise(source);
        rig.materialise(copy);
        let made = rig.device.made.lock().unwrap().clone();
        let tag = made[1].tag;
        book.effect("16/everything", Made { tag, ..made[2].clone() } == made[1]);
    }
}

fn sseu(book: &mut Book) {
    let hardware = SseuTopology { slice_mask: 1, subslice_mask: 0xff, eus_per_subslice: 8 };
    let rig = rig_with(Capabilities { graphics_version: 11, sseu: hardware, ..kbl() }, NOBODY);
    let source = rig.create_ext(vec![set_node(map(&[BCS, RCS]))]).unwrap();
    let half = ContextParam::sseu(Sseu {
        engine: engine(0, 1),
        flags: Sseu::ENGINE_INDEX,
        slice_mask: 1,
        subslice_mask: 0x0f,
        min_eus_per_subslice: 8,
        max_eus_per_subslice: 8,
        rsvd: 0,
    });
    rig.set(source, half.clone()).unwrap();
    let clone = |flags| clone_node(source, flags);
    book.errno("16/sseu", EINVAL, rig.create_ext(vec![clone(clone_flag::SSEU)]));
    for slots in [&[BCS][..], &[RCS, BCS], &[BCS, RCS, RCS]] {
        let chain = vec![set_node(map(slots)), clone(clone_flag::SSEU)];
        book.errno("16/sseu", EINVAL, rig.create_ext(chain));
    }
    // ENGINES applies before SSEU, and so makes room for it, also when SSEU fails alone.
    let both = clone(clone_flag::SSEU | clone_flag::ENGINES);
    for (row, chain) in [
        ("16/sseu", vec![set_node(map(&[BCS, RCS])), clone(clone_flag::SSEU)]),
        ("16/order", vec![both]),
    ] {
        let copy = book.errno(row, 0, rig.create_ext(chain)).unwrap();
        book.effect(row, rig.get_param(copy, half.clone()).unwrap() == half);
    }
}
