//! §5.

use gpu_broker_core::{Capabilities, SseuTopology};
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;

use super::Book;
use crate::rig::*;

const GOOD: Sseu = Sseu {
    engine: RCS,
    flags: 0,
    slice_mask: 1,
    subslice_mask: 0xff,
    min_eus_per_subslice: 8,
    max_eus_per_subslice: 8,
    rsvd: 0,
};

fn icl() -> Capabilities {
    let sseu = SseuTopology { slice_mask: 1, subslice_mask: 0xff, eus_per_subslice: 8 };
    Capabilities { graphics_version: 11, sseu, ..kbl() }
}

pub(super) fn check(book: &mut Book) {
    fields(book);
    selectors(book);
    values(book);
}

/// A proto and the live default context.
fn both(rig: &Rig) -> [u32; 2] {
    [rig.create(), 0]
}

fn fields(book: &mut Book) {
    let newer = rig_with(icl(), NOBODY);
    let gen9 = rig();
    let sized = |size| ContextParam { size, ..ContextParam::sseu(GOOD) };
    for size in [0, 31] {
        for rig in [&newer, &gen9] {
            for context in both(rig) {
                book.errno("5/size", EINVAL, rig.set(context, sized(size)));
            }
        }
    }
    for context in both(&gen9) {
        book.errno("5/version", ENODEV, gen9.set(context, ContextParam::scalar_sized(32)));
    }
    for context in both(&newer) {
        book.errno("5/payload", EFAULT, newer.set(context, ContextParam::scalar_sized(32)));
        let rsvd = Sseu { rsvd: 1, flags: 2, ..GOOD };
        book.errno("5/rsvd", EINVAL, newer.set(context, ContextParam::sseu(rsvd)));
        let flags = Sseu { flags: 2, slice_mask: 0, ..GOOD };
        book.errno("5/flags", EINVAL, newer.set(context, ContextParam::sseu(flags)));
        let set = book.errno("5/success", 0, newer.set(context, sized(100)));
        assert_eq!(set.map(|set| set.size), Some(32));
        let read = newer.get_param(context, ContextParam::sseu(Sseu { slice_mask: 0, ..GOOD }));
        book.effect("5/success", read.unwrap() == ContextParam::sseu(GOOD));
    }
}

trait ScalarSized {
    fn scalar_sized(size: u32) -> ContextParam;
}

impl ScalarSized for ContextParam {
    /// No structure where one should be.
    fn scalar_sized(size: u32) -> ContextParam {
        Self { size, ..Self::scalar(number::SSEU, 0) }
    }
}

fn selectors(book: &mut Book) {
    let rig = rig_with(icl(), NOBODY);
    let select = |engine, flags| ContextParam::sseu(Sseu { engine, flags, ..GOOD });
    let index = Sseu::ENGINE_INDEX;
    let mapped = |live| {
        let extensions = vec![balance(3, &[VCS0, VCS1])];
        let map = map_with(&[BCS, RCS, EngineId::GAP, EngineId::GAP], extensions);
        let context = rig.create_ext(vec![set_node(map)]).unwrap();
        if live {
            rig.materialise(context);
        }
        context
    };
    for (row, live, plain) in [("5/match-proto", false, rig.create()), ("5/match-live", true, 0)] {
        book.errno(row, EINVAL, rig.set(plain, select(RCS, index)));
        book.errno(row, EINVAL, rig.set(mapped(live), select(RCS, 0)));
    }
    for slot in [0, 2, 3, 4] {
        let set = rig.set(mapped(false), select(engine(0, slot), index));
        book.errno("5/index-proto", EINVAL, set);
    }
    book.errno("5/index-proto", 0, rig.set(mapped(false), select(engine(0, 1), index)));
    for slot in [2, 4] {
        let set = rig.set(mapped(true), select(engine(0, slot), index));
        book.errno("5/index-live", EINVAL, set);
    }
    book.errno("5/index-live", 0, rig.set(mapped(true), select(engine(0, 1), index)));
    for slot in [0, 3] {
        let set = rig.set(mapped(true), select(engine(0, slot), index));
        book.errno("5/class-live", ENODEV, set);
    }
    for wrong in [BCS, engine(0, 1), engine(9, 0)] {
        book.errno("5/engine-proto", EINVAL, rig.set(rig.create(), select(wrong, 0)));
    }
    for (wrong, errno) in [(BCS, ENODEV), (VCS1, ENODEV), (engine(0, 1), EINVAL)] {
        book.errno("5/engine-live", errno, rig.set(0, select(wrong, 0)));
    }
}

fn values(book: &mut Book) {
    let rig = rig_with(icl(), NOBODY);
    let bad: [(&str, Sseu); 19] = [
        ("5/zero", Sseu { slice_mask: 0, ..GOOD }),
        ("5/zero", Sseu { subslice_mask: 0, ..GOOD }),
        ("5/zero", Sseu { min_eus_per_subslice: 0, ..GOOD }),
        ("5/zero", Sseu { max_eus_per_subslice: 0, ..GOOD }),
        ("5/order", Sseu { max_eus_per_subslice: 7, ..GOOD }),
        ("5/wide", Sseu { slice_mask: 0x101, ..GOOD }),
        ("5/wide", Sseu { subslice_mask: 0x1ff, ..GOOD }),
        ("5/wide", Sseu { min_eus_per_subslice: 0x108, max_eus_per_subslice: 0x108, ..GOOD }),
        ("5/subset", Sseu { slice_mask: 2, ..GOOD }),
        ("5/subset", Sseu { slice_mask: 3, ..GOOD }),
        ("5/eus", Sseu { max_eus_per_subslice: 9, ..GOOD }),
        ("5/gen11", Sseu { subslice_mask: 0x07, ..GOOD }),
        ("5/gen11", Sseu { subslice_mask: 0x01, ..GOOD }),
        ("5/gen11", Sseu { subslice_mask: 0x1f, ..GOOD }),
        ("5/gen11", Sseu { subslice_mask: 0x3f, ..GOOD }),
        ("5/gen11", Sseu { subslice_mask: 0x7f, ..GOOD }),
        ("5/gen11-eus", Sseu { min_eus_per_subslice: 4, ..GOOD }),
        ("5/gen11-eus", Sseu { min_eus_per_subslice: 4, max_eus_per_subslice: 4, ..GOOD }),
        ("5/gen11-eus", Sseu { min_eus_per_subslice: 7, max_eus_per_subslice: 7, ..GOOD }),
    ];
    for (row, value) in bad {
        for context in both(&rig) {
            book.errno(row, EINVAL, rig.set(context, ContextParam::sseu(value)));
        }
    }
    for subslice_mask in [0x0f, 0xf0, 0xa5, 0xff] {
        for context in both(&rig) {
            let value = ContextParam::sseu(Sseu { subslice_mask, ..GOOD });
            book.errno("5/gen11", 0, rig.set(context, value));
        }
    }
}
