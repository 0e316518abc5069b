//! §2, §3, §4.1, §8, §10, §11.

use std::sync::Arc;

use gpu_broker_core::hands::Outcome;
use gpu_broker_core::{Capabilities, Session, SessionLimits, Time};
use gpu_broker_protocol::message::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::{ContextId, SessionId, VmId};

use super::Book;
use crate::fake::{Event, Fake, out_of_memory};
use crate::rig::*;

pub(super) fn check(book: &mut Book) {
    create(book);
    create_extensions(book);
    chains(book);
    get(book);
    destroy(book);
    vm_requests(book);
    vm_life(book);
    reset_stats(book);
}

fn create(book: &mut Book) {
    let bare = rig_with(Capabilities { has_logical_contexts: false, ..kbl() }, NOBODY);
    book.errno("2/1", ENODEV, bare.create_with(0xff, Vec::new()));
    let here = rig();
    for bit in 2..32 {
        book.errno("2/2", EINVAL, here.create_with(1 << bit, Vec::new()));
    }
    here.registry.set_wedged(true);
    book.errno("2/2", EINVAL, here.create_with(4, Vec::new()));
    book.errno("2/3", EIO, here.create_with(create_flag::SINGLE_TIMELINE, Vec::new()));
    here.registry.set_wedged(false);
    let old = rig_with(Capabilities { has_execlists: false, ..kbl() }, NOBODY);
    let unknown = || vec![Extension::new(9, CreateExtension::Unknown)];
    book.errno("2/6", EINVAL, old.create_with(3, unknown()));
    book.errno("2/7", EINVAL, here.create_with(3, unknown()));
    book.errno("2/ignored", 0, here.create_with(0, unknown()));
    for expected in 2..5 {
        let created = book.errno("2/9", 0, here.create_with(0, Vec::new()));
        assert_eq!(created, Some(expected));
    }
    here.destroy(3).unwrap();
    book.effect("2/9", here.create() == 3 && !here.is_live(3));
    let small = limited(kbl(), NOBODY, SessionLimits { contexts: 1, ..SessionLimits::default() });
    small.create();
    book.errno("2/5", ENOMEM, small.create_with(0, Vec::new()));
    let newer = rig_with(Capabilities { graphics_version: 13, ..kbl() }, NOBODY);
    *newer.device.fail_context.lock().unwrap() = Some(out_of_memory());
    book.errno("2/8", ENOMEM, newer.create_with(0, Vec::new()));
    book.effect("2/8", newer.create() == 1 && newer.is_live(1));
    banned(book);
}

fn banned(book: &mut Book) {
    let rig = rig();
    let buffer = rig.buffer(1);
    for second in [1100, 1200, 1300] {
        let recoverable = set_node(ContextParam::scalar(number::RECOVERABLE, 0));
        let context = book.errno("2/4", 0, rig.create_ext(vec![recoverable])).unwrap();
        rig.run(context, &[object(buffer)]).unwrap();
        let tag = rig.device.last_submission().tag;
        rig.session.handle_completion(Time::from_secs(second), tag, Outcome::Guilty);
    }
    book.errno("2/4", EIO, rig.create_with(2, Vec::new()));
}

fn create_extensions(book: &mut Book) {
    let rig = rig();
    let set = set_node;
    let vm = rig.vm();
    let with_vm = || set(ContextParam::scalar(number::VM, vm.into()));
    book.errno(
        "2/atomic",
        EINVAL,
        rig.create_ext(vec![with_vm(), set(ContextParam::priority(1024))]),
    );
    rig.vm_destroy(vm).unwrap();
    book.effect("2/atomic", rig.device.counts() == (1, 1, 0));
    let made = rig.create_ext(vec![set(ContextParam::priority(-7))]);
    let made = book.errno("2/setparam", 0, made).unwrap();
    book.effect("2/setparam", made == 1 && rig.get(made, number::PRIORITY).unwrap() as i64 == -7);
    let body =
        CreateExtension::SetParam { context: ContextId(1), param: ContextParam::priority(0) };
    book.errno("2/setparam", EINVAL, rig.create_ext(vec![Extension::new(0, body)]));
    book.errno("2/setparam", EPERM, rig.create_ext(vec![set(ContextParam::priority(1))]));
    book.errno("2/clone", 0, rig.create_ext(vec![clone_node(made, clone_flag::ALL)]));
    for name in [2, 3, u32::MAX] {
        let node = Extension::new(name, CreateExtension::Unknown);
        book.errno("2/unknown", EINVAL, rig.create_ext(vec![node]));
    }
}

fn chains(book: &mut Book) {
    let rig = rig();
    let set = || set_node(ContextParam::priority(-1));
    let long = |length: usize| (0..length).map(|_| set()).collect::<Vec<_>>();
    book.errno("3/length", 0, rig.create_ext(long(512)));
    book.errno("3/length", E2BIG, rig.create_ext(long(513)));
    book.errno("3/flags", EINVAL, rig.create_ext(vec![Extension { flags: 1, ..set() }]));
    for word in 0..4 {
        let mut node = set();
        node.rsvd[word] = 1 << 31;
        book.errno("3/rsvd", EINVAL, rig.create_ext(vec![node]));
    }
    let scalar = ContextParam { size: 8, ..ContextParam::scalar(number::ENGINES, 0) };
    book.errno("3/payload", EFAULT, rig.create_ext(vec![set_node(scalar)]));
    let unknown = || Extension::new(9, CreateExtension::Unknown);
    book.errno("3/name", EINVAL, rig.create_ext(vec![unknown()]));
    book.errno("3/name", EINVAL, rig.create_ext(vec![Extension { name: 1, ..set() }]));
    let denied = || set_node(ContextParam::priority(1));
    book.errno("3/stop", EPERM, rig.create_ext(vec![set(), denied(), unknown()]));
    book.errno("3/stop", EINVAL, rig.create_ext(vec![set(), unknown(), denied()]));
}

fn get(book: &mut Book) {
    let rig = rig_with(Capabilities { pxp: true, ..kbl() }, ROOT);
    let context = rig.create();
    let read = |number| rig.get(context, number);
    let size = book.errno("4.1/gtt-size", 0, read(number::GTT_SIZE));
    assert_eq!(size, Some(1 << 48));
    let booleans =
        [number::NO_ERROR_CAPTURE, number::BANNABLE, number::RECOVERABLE, number::PERSISTENCE];
    for (number, default) in booleans.into_iter().zip([0, 1, 1, 1]) {
        for value in [default, 1 - default, 7 * default] {
            let other = rig.create();
            rig.set(other, ContextParam::scalar(number, value)).unwrap();
            let got = book.errno("4.1/booleans", 0, rig.get(other, number));
            assert_eq!(got, Some(u64::from(value != 0)), "parameter {number:#x}");
        }
    }
    let protected = book.errno("4.1/booleans", 0, read(number::PROTECTED_CONTENT));
    assert_eq!(protected, Some(0));
    for value in [-1023, 0, 1023] {
        rig.set(context, ContextParam::priority(value)).unwrap();
        let got = book.errno("4.1/priority", 0, read(number::PRIORITY));
        assert_eq!(got, Some(value.cast_unsigned()));
    }
    let sized = |size| ContextParam { size, ..ContextParam::scalar(number::SSEU, 0) };
    let told = book.errno("4.1/sseu", 0, rig.get_param(context, sized(0)));
    assert_eq!(told.map(|param| param.size), Some(32));
    book.errno("4.1/sseu", EINVAL, rig.get_param(context, sized(31)));
    book.errno("4.1/sseu", EFAULT, rig.get_param(context, sized(32)));
    for handle in 1..=2 {
        assert_eq!(book.errno("4.1/vm", 0, read(number::VM)), Some(handle));
    }
    let old = rig_with(Capabilities { full_ppgtt: false, ..kbl() }, NOBODY);
    book.errno("4.1/vm", ENODEV, old.get(0, number::VM));
    for number in [0, 1, 2, 0xa, 0xc, 0xe, 0xf, 0x10, u64::MAX] {
        let proto = rig.create();
        book.errno("4.1/unreadable", EINVAL, rig.get(proto, number));
        book.effect("4.1/materialise", rig.is_live(proto));
    }
    book.errno("4.1/lookup", ENOENT, rig.get(999, number::PRIORITY));
    let proto = rig.create();
    *rig.device.fail_context.lock().unwrap() = Some(out_of_memory());
    book.errno("4.1/materialise", ENOMEM, rig.get(proto, number::PRIORITY));
    book.effect("4.1/materialise", !rig.is_live(proto));
}

fn destroy(book: &mut Book) {
    let rig = rig();
    let raw = |context, pad| {
        rig.session.context_destroy(&ContextDestroy { context: ContextId(context), pad })
    };
    book.errno("8/pad", EINVAL, raw(999, 1));
    book.errno("8/default", ENOENT, raw(0, 0));
    book.errno("8/unknown", ENOENT, raw(1, 0));
    let vm = rig.vm();
    let proto = rig.create();
    rig.set(proto, ContextParam::scalar(number::VM, vm.into())).unwrap();
    rig.vm_destroy(vm).unwrap();
    book.errno("8/proto", 0, raw(proto, 0));
    book.effect("8/proto", rig.device.counts() == (1, 1, 0));
    let live = rig.create();
    rig.materialise(live);
    let tag = rig.device.last_made().tag;
    book.errno("8/live", 0, raw(live, 0));
    book.effect("8/live", rig.device.take_events() == [Event::Closed { tag, cancel: false }]);
    book.effect("8/live", rig.device.counts() == (1, 1, 0));
    book.errno("8/execbuf", ENOENT, rig.run(live, &[object(rig.buffer(1))]));
    book.effect("8/live", rig.create() == live);
}

fn vm_requests(book: &mut Book) {
    let old = rig_with(Capabilities { full_ppgtt: false, ..kbl() }, NOBODY);
    let bad = VmCreate { flags: 1, extensions: Vec::new() };
    book.errno("10/ppgtt", ENODEV, old.session.vm_create(&bad));
    let rig = limited(kbl(), NOBODY, SessionLimits { vms: 2, ..SessionLimits::default() });
    let node = || Extension::new(0, ());
    let create = |flags, extensions| rig.session.vm_create(&VmCreate { flags, extensions });
    book.errno("10/flags", EINVAL, create(1 << 31, Vec::new()));
    book.errno("10/extensions", EINVAL, create(0, vec![node()]));
    book.errno("10/extensions", EINVAL, create(0, vec![Extension { flags: 1, ..node() }]));
    *rig.device.fail_vm.lock().unwrap() = Some(out_of_memory());
    book.errno("10/memory", ENOMEM, create(0, Vec::new()));
    for expected in 1..=2 {
        let vm = book.errno("10/ids", 0, create(0, Vec::new()));
        assert_eq!(vm.map(|vm| vm.vm.0), Some(expected));
    }
    book.errno("10/memory", ENOMEM, create(0, Vec::new()));
    let destroy = |vm, flags, extensions| {
        rig.session.vm_destroy(&VmDestroy { vm: VmId(vm), flags, extensions })
    };
    book.errno("10/destroy-flags", EINVAL, destroy(9, 1, Vec::new()));
    book.errno("10/destroy-flags", EINVAL, destroy(1, 0, vec![node()]));
    book.errno("10/destroy-unknown", ENOENT, destroy(0, 0, Vec::new()));
    book.errno("10/destroy-unknown", ENOENT, destroy(3, 0, Vec::new()));
    rig.vm_destroy(1).unwrap();
    book.effect("10/ids", rig.vm() == 1);
}

fn vm_life(book: &mut Book) {
    let rig = rig();
    let vm = rig.vm();
    let (one, two) = (rig.create(), rig.create());
    for context in [one, two] {
        rig.set(context, ContextParam::scalar(number::VM, vm.into())).unwrap();
        rig.materialise(context);
    }
    let made = rig.device.made.lock().unwrap().clone();
    book.effect("10/shared", made[1].vm == made[2].vm && made[0].vm != made[1].vm);
    let other = Session::open(
        NOW,
        SessionId(5),
        Fake(Arc::clone(&rig.device)),
        Arc::clone(&rig.registry),
        Arc::new(kbl()),
        NOBODY,
        SessionLimits::default(),
    )
    .unwrap();
    let handle = VmDestroy { vm: VmId(vm), flags: 0, extensions: Vec::new() };
    book.errno("10/file", ENOENT, other.vm_destroy(&handle));
    drop(other);
    rig.vm_destroy(vm).unwrap();
    rig.destroy(one).unwrap();
    book.effect("10/kept", rig.device.counts().0 == 2);
    rig.destroy(two).unwrap();
    book.effect("10/kept", rig.device.counts().0 == 1);
}

fn reset_stats(book: &mut Book) {
    for (may, count) in [(NOBODY, 0), (NICE, 0), (ADMIN, 1), (ROOT, 1)] {
        let rig = rig_with(kbl(), may);
        let context = rig.create();
        let ask = |context, flags, pad| {
            let context = ContextId(context);
            rig.session.context_reset_stats(&ContextResetStats { context, flags, pad })
        };
        book.errno("11/reserved", EINVAL, ask(context, 1, 0));
        book.errno("11/reserved", EINVAL, ask(context, 0, 1));
        book.effect("11/reserved", !rig.is_live(context));
        book.errno("11/unknown", ENOENT, ask(99, 0, 0));
        book.errno("11/materialise", 0, ask(context, 0, 0));
        book.effect("11/materialise", rig.is_live(context));
        rig.run(context, &[object(rig.buffer(1))]).unwrap();
        let tag = rig.device.last_submission().tag;
        rig.session.handle_completion(Time::from_secs(9000), tag, Outcome::Guilty);
        let stats = book.errno("11/reset-count", 0, ask(context, 0, 0)).unwrap();
        book.effect("11/reset-count", stats.reset_count == count);
        book.effect("11/active", stats.batch_active == 1);
        book.effect("11/active", rig.stats(0).unwrap().batch_active == 0);
        book.effect("11/pending", stats.batch_pending == 0);
        rig.session.handle_replay(tag);
        book.effect("11/pending", rig.stats(context).unwrap().batch_pending == 1);
        book.effect("11/pending", rig.stats(0).unwrap().batch_pending == 0);
    }
}
