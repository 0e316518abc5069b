//! SETPARAM and GETPARAM: every parameter × proto or live × size × value × privilege × device,
//! against the errno that the rule table states (written down a second time, from the table alone).

use gpu_broker_core::{Capabilities, Privileges};
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;

use crate::fake::Event;
use crate::refused;
use crate::rig::*;
use crate::table::Book;

use gpu_broker_core::hands::{SlotSseu, Update};
use gpu_broker_protocol::Reason;

/// A context's flags before the call.
#[derive(Clone, Copy, Debug)]
struct Before {
    live: bool,
    protected: bool,
    recoverable: bool,
}

fn boolean_size(size: u32) -> Result<(), i32> {
    if size == 0 { Ok(()) } else { Err(EINVAL) }
}

#[expect(clippy::or_fun_call, reason = "the table reads better, and every call is cheap")]
/// Rule table §4, read row by row: the row, and the errno or 0.
fn table(
    number: u64,
    before: Before,
    size: u32,
    value: u64,
    caps: &Capabilities,
    may: Privileges,
) -> (&'static str, i32) {
    let frozen = |section, answer: Result<(), i32>| {
        (section, if before.live { EINVAL } else { answer.err().unwrap_or(0) })
    };
    let any = |section, answer: Result<(), i32>| (section, answer.err().unwrap_or(0));
    let need = |condition: bool, errno: i32| if condition { Ok(()) } else { Err(errno) };
    match number {
        0x4 => any("4/0x4", boolean_size(size)),
        0x5 => any(
            "4/0x5",
            boolean_size(size)
                .and(need(value != 0 || may.clear_bannable, EPERM))
                .and(need(value != 0 || !before.protected, EPERM)),
        ),
        0x6 => any(
            "4/0x6",
            boolean_size(size)
                .and(need(caps.has_priority, ENODEV))
                .and(need((-1023..=1023).contains(&(value as i64)), EINVAL))
                .and(need((value as i64) <= 0 || may.priority_max > 0, EPERM)),
        ),
        // A scalar payload: nothing to read where the structure should be.
        0x7 => any(
            "4/0x7",
            need(size >= 32, EINVAL)
                .and(need(caps.graphics_version == 11, ENODEV))
                .and(Err(EFAULT)),
        ),
        0x8 => any("4/0x8", boolean_size(size).and(need(value == 0 || !before.protected, EPERM))),
        // No VM was made: every id is unknown.
        0x9 => {
            frozen("4/0x9", boolean_size(size).and(need(caps.full_ppgtt, ENODEV)).and(Err(ENOENT)))
        }
        0xa => frozen("4/0xa", Err(EFAULT)),
        // Persistent is what it is already, where hangs are looked for.
        0xb if before.live && (value != 0) == caps.hangcheck => any("4/0xb", boolean_size(size)),
        0xb if value != 0 => any("4/0xb", boolean_size(size).and(need(caps.hangcheck, EINVAL))),
        0xb => any(
            "4/0xb",
            boolean_size(size).and(need(caps.has_preemption && caps.has_engine_reset, ENODEV)),
        ),
        0xd if value == 0 => frozen("4/0xd", Ok(())),
        0xd => frozen("4/0xd", need(caps.pxp, ENODEV).and(need(!before.recoverable, EPERM))),
        0xe => frozen("4/0xe", need(caps.low_latency, EINVAL)),
        0x1 => ("4/0x1", EINVAL),
        0x2 => ("4/0x2", EINVAL),
        0x3 => ("4/0x3", EINVAL),
        0xc => ("4/0xc", EINVAL),
        0xf => ("4/0xf", EINVAL),
        _ => ("4/other", EINVAL),
    }
}

fn devices() -> Vec<(&'static str, Capabilities)> {
    vec![
        ("Kaby Lake", kbl()),
        ("Gen11", Capabilities { graphics_version: 11, ..kbl() }),
        ("GuC", Capabilities { guc: true, low_latency: true, ..kbl() }),
        ("PXP", Capabilities { pxp: true, ..kbl() }),
        ("no priorities", Capabilities { has_priority: false, ..kbl() }),
        ("no preemption", Capabilities { has_preemption: false, ..kbl() }),
        ("no engine reset", Capabilities { has_engine_reset: false, ..kbl() }),
        ("no hangcheck", Capabilities { hangcheck: false, ..kbl() }),
        (
            "neither hangcheck nor preemption",
            Capabilities { hangcheck: false, has_preemption: false, ..kbl() },
        ),
        ("no full ppGTT", Capabilities { full_ppgtt: false, ..kbl() }),
    ]
}

fn befores(pxp: bool) -> Vec<Before> {
    let mut befores = Vec::new();
    for live in [false, true] {
        befores.push(Before { live, protected: false, recoverable: true });
        befores.push(Before { live, protected: false, recoverable: false });
        if pxp {
            befores.push(Before { live, protected: true, recoverable: false });
        }
    }
    befores
}

fn context(rig: &Rig, before: Before) -> u32 {
    let context = rig.create();
    if !before.recoverable {
        rig.set(context, ContextParam::scalar(number::RECOVERABLE, 0)).unwrap();
    }
    if before.protected {
        rig.set(context, ContextParam::scalar(number::PROTECTED_CONTENT, 1)).unwrap();
    }
    if before.live {
        rig.materialise(context);
    }
    context
}

/// What GETPARAM tells of a parameter that can be read and written, before anything was set.
fn initial(number: u64, before: Before, caps: &Capabilities) -> Option<u64> {
    match number {
        number::NO_ERROR_CAPTURE | number::PRIORITY => Some(0),
        number::BANNABLE => Some(1),
        number::RECOVERABLE => Some(before.recoverable.into()),
        number::PERSISTENCE => Some(caps.hangcheck.into()),
        number::PROTECTED_CONTENT => Some(before.protected.into()),
        _ => None,
    }
}

/// Every parameter × state × size × value × privilege × device: errno and effect.
pub(crate) fn enumerate(book: &mut Book) {
    let sizes = [0, 4, 8, 31, 32, 1024, u32::MAX];
    let values = [
        0,
        1,
        2,
        1023,
        1024,
        (-1023_i64) as u64,
        (-1024_i64) as u64,
        1 << 32,
        i64::MIN as u64,
        u64::MAX,
    ];
    for (device, caps) in devices() {
        for may in [NOBODY, ADMIN, NICE, ROOT] {
            let rig = rig_with(caps.clone(), may);
            book.errno("4/lookup", ENOENT, rig.set(77, ContextParam::priority(0)));
            for before in befores(caps.pxp) {
                for number in (0..=0x10).chain([0x100, u64::MAX]) {
                    for (size, value) in
                        sizes.iter().flat_map(|size| values.map(|value| (*size, value)))
                    {
                        let value_of = ParamValue::Scalar(value);
                        let param = ContextParam { param: number, size, value: value_of };
                        let what = format!("{device}: {param:?} {before:?} {may:?}");
                        one(book, &rig, before, param, (&caps, may, &what));
                    }
                }
            }
        }
    }
}

fn one(
    book: &mut Book,
    rig: &Rig,
    before: Before,
    param: ContextParam,
    (caps, may, what): (&Capabilities, Privileges, &str),
) {
    let ContextParam { param: number, size, value: ParamValue::Scalar(value) } = param else {
        panic!("{param:?}")
    };
    let context = context(rig, before);
    let result = rig.set(context, param);
    let (row, expected) = table(number, before, size, value, caps, may);
    assert_eq!(errno(&result), expected, "{what}: {result:?}");
    book.count(row);
    assert_eq!(rig.is_live(context), before.live, "SETPARAM materialised: {what}");
    book.count("4/lookup");
    if let Some(initial) = initial(number, before, caps) {
        let set = if number == number::PRIORITY { value } else { u64::from(value != 0) };
        let now = if expected == 0 { set } else { initial };
        assert_eq!(rig.get(context, number).unwrap(), now, "{what}: the effect");
        book.count(row);
    }
    rig.destroy(context).unwrap();
}

#[test]
fn what_was_set_is_what_is_read_and_what_the_device_got() {
    let rig = rig_with(Capabilities { pxp: true, ..kbl() }, ROOT);
    let context = rig.create();
    let set = [
        (number::NO_ERROR_CAPTURE, 1),
        (number::PRIORITY, (-7_i64) as u64),
        (number::RECOVERABLE, 0),
        (number::PERSISTENCE, 0),
        (number::PROTECTED_CONTENT, 1),
    ];
    for (number, value) in set {
        rig.set(context, ContextParam::scalar(number, value)).unwrap();
    }
    for (number, value) in set {
        assert_eq!(rig.get(context, number).unwrap(), value, "parameter {number:#x}");
    }
    assert_eq!(rig.get(context, number::BANNABLE).unwrap(), 1);
    let made = rig.device.last_made();
    assert_eq!((made.priority, made.recoverable, made.persistent), (-7, false, false));
    assert_eq!((made.bannable, made.error_capture), (true, false));
}

#[test]
fn defaults_are_those_of_the_table() {
    let rig = rig();
    for context in [0, rig.create()] {
        let get = |number| rig.get(context, number).unwrap();
        let booleans = [number::BANNABLE, number::RECOVERABLE, number::PERSISTENCE];
        assert_eq!(booleans.map(get), [1, 1, 1]);
        let clear = [number::NO_ERROR_CAPTURE, number::PRIORITY, number::PROTECTED_CONTENT];
        assert_eq!(clear.map(get), [0, 0, 0]);
        assert_eq!(get(number::GTT_SIZE), 1 << 48);
    }
    let off = rig_with(Capabilities { hangcheck: false, ..kbl() }, NOBODY);
    assert_eq!(off.get(0, number::PERSISTENCE).unwrap(), 0);
}

#[test]
fn a_live_context_tells_the_device_what_changes() {
    let rig = rig_with(kbl(), ROOT);
    let context = rig.create();
    rig.materialise(context);
    let tag = rig.device.last_made().tag;
    let sets = [
        (ContextParam::priority(5), Update::Priority(5)),
        (ContextParam::scalar(number::BANNABLE, 0), Update::Bannable(false)),
        (ContextParam::scalar(number::RECOVERABLE, 0), Update::Recoverable(false)),
        (ContextParam::scalar(number::PERSISTENCE, 0), Update::Persistent(false)),
        (ContextParam::scalar(number::NO_ERROR_CAPTURE, 1), Update::ErrorCapture(false)),
    ];
    for (param, update) in sets {
        rig.set(context, param).unwrap();
        assert_eq!(rig.device.take_events(), [Event::Updated { tag, update }]);
    }
    // Unchanged persistence asks nothing of anybody.
    rig.set(context, ContextParam::scalar(number::PERSISTENCE, 0)).unwrap();
    assert_eq!(rig.device.take_events(), []);
    assert_eq!(rig.get(context, number::PRIORITY).unwrap(), 5);
    assert_eq!(rig.get(context, number::BANNABLE).unwrap(), 0);
}

#[test]
fn what_cannot_be_read_materialises_and_is_refused() {
    let rig = rig();
    let unreadable = [
        number::ENGINES,
        number::LOW_LATENCY,
        number::BAN_PERIOD,
        number::NO_ZEROMAP,
        number::RINGSIZE,
        number::CONTEXT_IMAGE,
        0,
        0x10,
    ];
    for number in unreadable {
        let context = rig.create();
        refused!(ParamUnknown, rig.get(context, number));
        assert!(rig.is_live(context), "GETPARAM {number:#x} did not materialise");
    }
    refused!(NoSuchContext, rig.get(9999, number::PRIORITY));
}

#[test]
fn vm_and_engines_are_frozen_once_the_context_is_live() {
    let rig = rig();
    let vm = rig.vm();
    let context = rig.create();
    rig.get(context, number::PRIORITY).unwrap();
    refused!(ParamFrozen, rig.set(context, ContextParam::scalar(number::VM, vm.into())));
    refused!(ParamFrozen, rig.set(context, map(&[RCS])));
    refused!(ParamFrozen, rig.set(0, map(&[RCS])));
}

#[test]
fn set_vm_replaces_and_get_vm_makes_a_handle_each_time() {
    let rig = rig();
    let (first, second) = (rig.vm(), rig.vm());
    let context = rig.create();
    for vm in [first, second] {
        rig.set(context, ContextParam::scalar(number::VM, vm.into())).unwrap();
    }
    rig.vm_destroy(first).unwrap();
    // The default context's, the second one: the first has no reference left.
    assert_eq!(rig.device.counts().0, 2);
    rig.vm_destroy(second).unwrap();
    assert_eq!(rig.get(context, number::VM).unwrap(), 1);
    assert_eq!(rig.get(context, number::VM).unwrap(), 2);
    // The new handle is good for another context, which then has the same address space.
    let other = rig.create();
    rig.set(other, ContextParam::scalar(number::VM, 1)).unwrap();
    rig.materialise(other);
    let made = rig.device.made.lock().unwrap().clone();
    assert_eq!(made[1].vm, made[2].vm);
    refused!(NoSuchVm, rig.set(rig.create(), ContextParam::scalar(number::VM, 1 << 32 | 1)));
    refused!(NoSuchVm, rig.set(rig.create(), ContextParam::scalar(number::VM, 0)));
}

fn icl() -> Capabilities {
    let sseu =
        gpu_broker_core::SseuTopology { slice_mask: 1, subslice_mask: 0xff, eus_per_subslice: 8 };
    Capabilities { graphics_version: 11, sseu, ..kbl() }
}

fn sseu(engine: EngineId, flags: u32, masks: (u64, u64), eus: (u16, u16)) -> Sseu {
    Sseu {
        engine,
        flags,
        slice_mask: masks.0,
        subslice_mask: masks.1,
        min_eus_per_subslice: eus.0,
        max_eus_per_subslice: eus.1,
        rsvd: 0,
    }
}

#[test]
fn sseu_values() {
    let all = (1, 0xff);
    let good = [all, (1, 0x0f), (1, 0xaa)];
    for masks in good {
        let rig = rig_with(icl(), NOBODY);
        for (context, live) in [(rig.create(), false), (0, true)] {
            let value = sseu(RCS, 0, masks, (8, 8));
            assert_eq!(rig.set(context, ContextParam::sseu(value)).unwrap().size, 32);
            assert_eq!(rig.is_live(context), live);
            let read = rig.get_param(context, ContextParam::sseu(sseu(RCS, 0, (0, 0), (0, 0))));
            assert_eq!(read.unwrap(), ContextParam::sseu(value), "live: {live}");
        }
    }
    let bad = [
        sseu(RCS, 0, (0, 0xff), (8, 8)),
        sseu(RCS, 0, (1, 0), (8, 8)),
        sseu(RCS, 0, all, (0, 8)),
        sseu(RCS, 0, all, (8, 0)),
        sseu(RCS, 0, all, (8, 7)),
        sseu(RCS, 0, all, (8, 9)),
        sseu(RCS, 0, all, (4, 8)),
        sseu(RCS, 0, all, (4, 4)),
        sseu(RCS, 0, (2, 0xff), (8, 8)),
        sseu(RCS, 0, (1, 0x1ff), (8, 8)),
        sseu(RCS, 0, (0x101, 0xff), (8, 8)),
        sseu(RCS, 0, (1, 0x07), (8, 8)),
        sseu(RCS, 0, (1, 0x1f), (8, 8)),
        sseu(RCS, 0, (1, 0x3f), (8, 8)),
        sseu(RCS, 0, all, (0x108, 0x108)),
    ];
    let rig = rig_with(icl(), NOBODY);
    for value in bad {
        for context in [rig.create(), 0] {
            refused!(SseuValue, rig.set(context, ContextParam::sseu(value)));
        }
    }
    let two_slices = gpu_broker_core::SseuTopology { slice_mask: 3, ..icl().sseu };
    let rig = rig_with(Capabilities { sseu: two_slices, ..icl() }, NOBODY);
    rig.set(0, ContextParam::sseu(sseu(RCS, 0, (3, 0xff), (8, 8)))).unwrap();
    rig.set(0, ContextParam::sseu(sseu(RCS, 0, (2, 0x0f), (8, 8)))).unwrap();
    refused!(SseuValue, rig.set(0, ContextParam::sseu(sseu(RCS, 0, (3, 0x0f), (8, 8)))));
    // More than four subslices cannot be counted unless they are even.
    let seven = gpu_broker_core::SseuTopology { subslice_mask: 0x7f, ..icl().sseu };
    let rig = rig_with(Capabilities { sseu: seven, ..icl() }, NOBODY);
    refused!(SseuValue, rig.set(0, ContextParam::sseu(sseu(RCS, 0, (1, 0x7f), (8, 8)))));
    rig.set(0, ContextParam::sseu(sseu(RCS, 0, (1, 0x07), (8, 8)))).unwrap();
}

#[test]
fn sseu_engine_selectors_differ_between_proto_and_live() {
    let rig = rig_with(icl(), NOBODY);
    let good = ((1, 0xff), (8, 8));
    let select = |engine, flags| ContextParam::sseu(sseu(engine, flags, good.0, good.1));
    let index = Sseu::ENGINE_INDEX;
    let mapped = || rig.create_ext(vec![set_node(map(&[BCS, RCS, EngineId::GAP]))]).unwrap();
    let plain = rig.create();
    refused!(SseuEngine, rig.set(plain, select(RCS, index)));
    refused!(SseuEngine, rig.set(plain, select(BCS, 0)));
    refused!(SseuEngine, rig.set(mapped(), select(RCS, 0)));
    refused!(SseuEngine, rig.set(mapped(), select(engine(0, 0), index)));
    refused!(SseuEngine, rig.set(mapped(), select(engine(0, 2), index)));
    refused!(SseuEngine, rig.set(mapped(), select(engine(0, 3), index)));
    rig.set(mapped(), select(engine(0, 1), index)).unwrap();

    let live = mapped();
    rig.materialise(live);
    refused!(SseuEngine, rig.set(live, select(RCS, 0)));
    refused!(SseuUnsupported, rig.set(live, select(engine(0, 0), index)));
    refused!(SseuEngine, rig.set(live, select(engine(0, 2), index)));
    rig.set(live, select(engine(0, 1), index)).unwrap();
    refused!(SseuUnsupported, rig.set(0, select(BCS, 0)));
    refused!(SseuEngine, rig.set(0, select(engine(0, 1), 0)));
    // Each slot keeps its own (rule table §0.10).
    let two = rig.create_ext(vec![set_node(map(&[RCS, RCS]))]).unwrap();
    let half = sseu(engine(0, 1), index, (1, 0x0f), (8, 8));
    rig.set(two, ContextParam::sseu(half)).unwrap();
    for (slot, mask) in [(0, 0xff), (1, 0x0f)] {
        let read = rig.get_param(two, select(engine(0, slot), index)).unwrap();
        let ParamValue::Sseu(read) = read.value else { panic!("{read:?}") };
        assert_eq!(read.subslice_mask, mask, "slot {slot}");
    }
}

#[test]
fn sseu_reaches_the_device() {
    let rig = rig_with(icl(), NOBODY);
    let index = Sseu::ENGINE_INDEX;
    let config = |slot, subslice_mask| SlotSseu {
        slot,
        slice_mask: 1,
        subslice_mask,
        min_eus: 8,
        max_eus: 8,
    };
    let set = |context, slot, mask| {
        let value = sseu(engine(0, slot), index, (1, mask), (8, 8));
        rig.set(context, ContextParam::sseu(value))
    };
    // With the context when it is made: the last value of each slot.
    let context = rig.create_ext(vec![set_node(map(&[RCS, RCS, BCS]))]).unwrap();
    for (slot, mask) in [(1, 0xff), (0, 0xff), (1, 0x0f)] {
        set(context, slot, mask).unwrap();
    }
    rig.materialise(context);
    let made = rig.device.last_made();
    assert_eq!(made.sseu, [config(0, 0xff), config(1, 0x0f)]);
    assert!(!made.low_latency);
    // Then one by one; what the device refuses is not remembered.
    rig.device.take_events();
    set(context, 0, 0x0f).unwrap();
    let update = Update::Sseu(config(0, 0x0f));
    assert_eq!(rig.device.take_events(), [Event::Updated { tag: made.tag, update }]);
    let refusal = gpu_broker_protocol::Refusal::new(Reason::DeviceError).with_errno(4);
    *rig.device.fail_update.lock().unwrap() = Some(refusal);
    assert_eq!(set(context, 0, 0xff).unwrap_err().errno(), 4);
    let selector = sseu(engine(0, 0), index, (0, 0), (0, 0));
    let read = rig.get_param(context, ContextParam::sseu(selector)).unwrap();
    let ParamValue::Sseu(read) = read.value else { panic!("{read:?}") };
    assert_eq!(read.subslice_mask, 0x0f);
}

#[test]
fn low_latency_reaches_the_device() {
    let rig = rig_with(Capabilities { guc: true, low_latency: true, ..kbl() }, NOBODY);
    let context = rig.create();
    rig.set(context, ContextParam::scalar(number::LOW_LATENCY, 0)).unwrap();
    rig.materialise(context);
    assert!(rig.device.last_made().low_latency, "whatever the value is");
    // A kernel that does not know it says so.
    let older = rig_with(Capabilities { guc: true, ..kbl() }, NOBODY);
    let context = older.create();
    refused!(
        LowLatencyUnsupported,
        older.set(context, ContextParam::scalar(number::LOW_LATENCY, 1))
    );
}

#[test]
fn sseu_reserved_fields_and_sizes() {
    let rig = rig_with(icl(), NOBODY);
    let good = sseu(RCS, 0, (1, 0xff), (8, 8));
    refused!(ReservedNotZero, rig.set(0, ContextParam::sseu(Sseu { rsvd: 1, flags: 2, ..good })));
    refused!(SseuFlags, rig.set(0, ContextParam::sseu(Sseu { flags: 2, ..good })));
    let sized = |size| ContextParam { size, ..ContextParam::sseu(good) };
    refused!(ParamSize, rig.set(0, sized(31)));
    assert_eq!(rig.set(0, sized(64)).unwrap().size, 32);
    let asked = ContextParam::scalar(number::SSEU, 0);
    assert_eq!(rig.get_param(0, asked).unwrap().size, 32);
    refused!(ParamSize, rig.get_param(0, sized(31)));
    refused!(SseuFlags, rig.get_param(0, ContextParam::sseu(Sseu { flags: 2, ..good })));
    // Reading works on every generation; engines other than render have nothing.
    let kaby = crate::rig::rig();
    let read = |engine| {
        let param = kaby.get_param(0, ContextParam::sseu(Sseu { engine, ..good })).unwrap();
        let ParamValue::Sseu(read) = param.value else { panic!("{param:?}") };
        (read.slice_mask, read.subslice_mask, read.max_eus_per_subslice)
    };
    assert_eq!((read(RCS), read(BCS)), ((0b11, 0b111, 8), (0, 0, 0)));
}
