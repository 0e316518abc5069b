//! What a random history is made of.

use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Map {
    Render,
    Empty,
    Balanced,
    /// Two times the same engine: accepted, impossible to materialise.
    Doubled,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create {
        single_timeline: bool,
    },
    Clone {
        source: u32,
        flags: u32,
    },
    SetPriority {
        context: u32,
        value: i32,
    },
    SetRecoverable {
        context: u32,
        on: bool,
    },
    SetVm {
        context: u32,
        vm: u32,
    },
    SetEngines {
        context: u32,
        map: Map,
    },
    GetPriority {
        context: u32,
    },
    GetVm {
        context: u32,
    },
    Stats {
        context: u32,
    },
    Destroy {
        context: u32,
    },
    VmCreate,
    VmDestroy {
        vm: u32,
    },
    BufferCreate {
        pages: u64,
    },
    BufferClose {
        buffer: u32,
    },
    /// `pin` in pages; two buffers at most.
    Exec {
        context: u32,
        first: (u32, Option<u64>),
        second: Option<(u32, Option<u64>)>,
    },
    /// A submission in flight ends.
    End {
        which: usize,
        guilty: bool,
    },
    /// The next context cannot be made on the device.
    FailNextContext,
    Pass {
        seconds: u64,
    },
}

/// Something that one of two sessions does. Ids are drawn from a little more than can exist.
pub(crate) fn op() -> impl Strategy<Value = (usize, Op)> {
    let context = || 0..8_u32;
    let vm = || 0..6_u32;
    let object = || (0..7_u32, proptest::option::of(0..6_u64));
    let map =
        prop_oneof![Just(Map::Render), Just(Map::Empty), Just(Map::Balanced), Just(Map::Doubled)];
    let op = prop_oneof![
        4 => any::<bool>().prop_map(|single_timeline| Op::Create { single_timeline }),
        3 => (context(), 0..0x48_u32).prop_map(|(source, flags)| Op::Clone { source, flags }),
        2 => (context(), -1100..1100).prop_map(|(context, value)| Op::SetPriority { context, value }),
        2 => (context(), any::<bool>()).prop_map(|(context, on)| Op::SetRecoverable { context, on }),
        3 => (context(), vm()).prop_map(|(context, vm)| Op::SetVm { context, vm }),
        3 => (context(), map).prop_map(|(context, map)| Op::SetEngines { context, map }),
        2 => context().prop_map(|context| Op::GetPriority { context }),
        1 => context().prop_map(|context| Op::GetVm { context }),
        1 => context().prop_map(|context| Op::Stats { context }),
        3 => context().prop_map(|context| Op::Destroy { context }),
        3 => Just(Op::VmCreate),
        2 => vm().prop_map(|vm| Op::VmDestroy { vm }),
        3 => (1..4_u64).prop_map(|pages| Op::BufferCreate { pages }),
        1 => (0..7_u32).prop_map(|buffer| Op::BufferClose { buffer }),
        6 => (context(), object(), proptest::option::of(object()))
            .prop_map(|(context, first, second)| Op::Exec { context, first, second }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, guilty)| Op::End { which, guilty }),
        1 => Just(Op::FailNextContext),
        1 => (0..90_u64).prop_map(|seconds| Op::Pass { seconds }),
    ];
    (0..2_usize, op)
}
