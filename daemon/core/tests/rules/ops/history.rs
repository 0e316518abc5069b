//! What a random history is made of.

use proptest::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Map {
    Render,
    Empty,
    Balanced,
    /// Two batches at once.
    Parallel,
    /// Two times the same engine: accepted, impossible to materialise.
    Doubled,
}

/// A parameter that reads back what was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flag {
    NoErrorCapture,
    Bannable,
    Recoverable,
    Persistence,
}

/// A submission of one or two buffers.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) context: u32,
    /// Handle, and where it is pinned, in pages.
    pub(super) first: (u32, Option<u64>),
    pub(super) second: Option<(u32, Option<u64>)>,
    /// Handle, flags, point.
    pub(super) fences: Vec<(u32, u32, u64)>,
    /// The fences are points of timelines, and not an array.
    pub(super) timeline: bool,
    /// Target of a relocation in the first buffer, and the page it is presumed at.
    pub(super) relocation: Option<(u32, u64)>,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
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
    SetFlag {
        context: u32,
        flag: Flag,
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
    GetFlag {
        context: u32,
        flag: Flag,
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
    /// The other session imports it.
    BufferShare {
        buffer: u32,
    },
    SetCaching {
        buffer: u32,
        mode: u32,
    },
    SetTiling {
        buffer: u32,
        mode: u32,
        stride: u32,
    },
    SetDomain {
        buffer: u32,
        read: u32,
        write: u32,
    },
    Access {
        buffer: u32,
        offset: u64,
        size: u64,
        write: bool,
    },
    Madvise {
        buffer: u32,
        advice: u32,
    },
    SyncobjCreate {
        signalled: bool,
    },
    SyncobjDestroy {
        syncobj: u32,
    },
    SyncobjReset {
        syncobjs: Vec<u32>,
    },
    SyncobjSignal {
        syncobjs: Vec<u32>,
    },
    SyncobjPoint {
        syncobj: u32,
        point: u64,
    },
    SyncobjQuery {
        syncobjs: Vec<u32>,
        submitted: bool,
    },
    SyncobjTransfer {
        source: (u32, u64),
        target: (u32, u64),
        wait: bool,
    },
    /// The other session imports it.
    SyncobjShare {
        syncobj: u32,
    },
    SyncobjWait {
        syncobjs: Vec<u32>,
        points: Option<Vec<u64>>,
        flags: u32,
    },
    Run(Run),
    /// A submission in flight ends.
    End {
        which: usize,
        guilty: bool,
    },
    /// The next context cannot be made on the device.
    FailNextContext,
    /// The device is wedged, or no longer.
    Wedge {
        on: bool,
    },
    Pass {
        seconds: u64,
    },
}

/// Something that one of two sessions does. Ids are drawn from a little more than can exist.
pub(super) fn op() -> impl Strategy<Value = (usize, Op)> {
    let op = prop_oneof![
        20 => contexts(),
        6 => vms(),
        14 => buffers(),
        14 => syncobjs(),
        12 => run().prop_map(Op::Run),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, guilty)| Op::End { which, guilty }),
        1 => Just(Op::FailNextContext),
        1 => prop_oneof![1 => Just(true), 3 => Just(false)].prop_map(|on| Op::Wedge { on }),
        1 => (0..90_u64).prop_map(|seconds| Op::Pass { seconds }),
    ];
    (0..2_usize, op)
}

fn context() -> impl Strategy<Value = u32> {
    0..8_u32
}

fn contexts() -> impl Strategy<Value = Op> {
    let map = prop_oneof![
        Just(Map::Render),
        Just(Map::Empty),
        Just(Map::Balanced),
        Just(Map::Parallel),
        Just(Map::Doubled)
    ];
    let flag = || {
        prop_oneof![
            Just(Flag::NoErrorCapture),
            Just(Flag::Bannable),
            Just(Flag::Recoverable),
            Just(Flag::Persistence)
        ]
    };
    prop_oneof![
        4 => any::<bool>().prop_map(|single_timeline| Op::Create { single_timeline }),
        3 => (context(), 0..0x48_u32).prop_map(|(source, flags)| Op::Clone { source, flags }),
        2 => (context(), -1100..1100).prop_map(|(context, value)| Op::SetPriority { context, value }),
        3 => (context(), flag(), any::<bool>())
            .prop_map(|(context, flag, on)| Op::SetFlag { context, flag, on }),
        3 => (context(), 0..6_u32).prop_map(|(context, vm)| Op::SetVm { context, vm }),
        3 => (context(), map).prop_map(|(context, map)| Op::SetEngines { context, map }),
        1 => context().prop_map(|context| Op::GetPriority { context }),
        2 => (context(), flag()).prop_map(|(context, flag)| Op::GetFlag { context, flag }),
        1 => context().prop_map(|context| Op::GetVm { context }),
        1 => context().prop_map(|context| Op::Stats { context }),
        3 => context().prop_map(|context| Op::Destroy { context }),
    ]
}

fn vms() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::VmCreate),
        2 => (0..6_u32).prop_map(|vm| Op::VmDestroy { vm }),
    ]
}

fn buffer() -> impl Strategy<Value = u32> {
    0..7_u32
}

fn buffers() -> impl Strategy<Value = Op> {
    let domain = || prop_oneof![Just(0_u32), Just(1), Just(0x40), Just(2)];
    let stride = prop_oneof![Just(0_u32), Just(128), Just(512), Just(600), Just(1 << 20)];
    prop_oneof![
        6 => (1..4_u64).prop_map(|pages| Op::BufferCreate { pages }),
        3 => buffer().prop_map(|buffer| Op::BufferClose { buffer }),
        4 => buffer().prop_map(|buffer| Op::BufferShare { buffer }),
        1 => (buffer(), 0..4_u32).prop_map(|(buffer, mode)| Op::SetCaching { buffer, mode }),
        1 => (buffer(), 0..4_u32, stride)
            .prop_map(|(buffer, mode, stride)| Op::SetTiling { buffer, mode, stride }),
        1 => (buffer(), domain(), domain())
            .prop_map(|(buffer, read, write)| Op::SetDomain { buffer, read, write }),
        1 => (buffer(), 0..10_000_u64, 0..10_000_u64, any::<bool>())
            .prop_map(|(buffer, offset, size, write)| Op::Access { buffer, offset, size, write }),
        1 => (buffer(), 0..3_u32).prop_map(|(buffer, advice)| Op::Madvise { buffer, advice }),
    ]
}

fn syncobj() -> impl Strategy<Value = u32> {
    0..6_u32
}

fn syncobjs() -> impl Strategy<Value = Op> {
    let several = || proptest::collection::vec(syncobj(), 0..3);
    let point = || 0..5_u64;
    let points = proptest::option::of(proptest::collection::vec(point(), 0..3));
    prop_oneof![
        5 => any::<bool>().prop_map(|signalled| Op::SyncobjCreate { signalled }),
        1 => syncobj().prop_map(|syncobj| Op::SyncobjDestroy { syncobj }),
        1 => several().prop_map(|syncobjs| Op::SyncobjReset { syncobjs }),
        1 => several().prop_map(|syncobjs| Op::SyncobjSignal { syncobjs }),
        3 => (syncobj(), point()).prop_map(|(syncobj, point)| Op::SyncobjPoint { syncobj, point }),
        2 => (several(), any::<bool>())
            .prop_map(|(syncobjs, submitted)| Op::SyncobjQuery { syncobjs, submitted }),
        3 => ((syncobj(), point()), (syncobj(), point()), any::<bool>())
            .prop_map(|(source, target, wait)| Op::SyncobjTransfer { source, target, wait }),
        2 => syncobj().prop_map(|syncobj| Op::SyncobjShare { syncobj }),
        2 => (several(), points, 0..9_u32)
            .prop_map(|(syncobjs, points, flags)| Op::SyncobjWait { syncobjs, points, flags }),
    ]
}

fn run() -> impl Strategy<Value = Run> {
    let object = || (buffer(), proptest::option::of(0..6_u64));
    // One in twenty has a flag that does not exist.
    let flags = prop_oneof![19 => 0..4_u32, 1 => Just(4)];
    let fences = proptest::collection::vec((syncobj(), flags, 0..5_u64), 0..3);
    let fences = prop_oneof![1 => Just(Vec::new()), 1 => fences];
    let relocation = proptest::option::weighted(0.3, (buffer(), 0..6_u64));
    (context(), object(), proptest::option::of(object()), fences, any::<bool>(), relocation)
        .prop_map(|(context, first, second, fences, timeline, relocation)| Run {
            context,
            first,
            second,
            fences,
            timeline,
            relocation,
        })
}
