//! Contexts: parameters, proto and live, by value and size; creation, destruction; address spaces;
//! reset statistics.

use gpu_broker_uapi::i915::*;

use crate::Cases;
use crate::kernel::{BAD, Node};

/// A context's state when it is asked.
const STATES: [&str; 4] = ["proto", "live", "default", "unknown"];
const UNKNOWN: u32 = 77;

pub(crate) fn create(node: &mut Node, flags: u32, extensions: u64) -> u32 {
    let mut create = drm_i915_gem_context_create_ext { ctx_id: 0, flags, extensions };
    node.call("create", DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT, &mut create);
    create.ctx_id
}

pub(crate) fn get(node: &mut Node, ctx_id: u32, param: u64) -> u64 {
    let mut get = drm_i915_gem_context_param { ctx_id, size: 0, param, value: 0 };
    node.call("get", DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM, &mut get);
    get.value
}

pub(crate) fn set(node: &mut Node, ctx_id: u32, param: u64, size: u32, value: u64) -> bool {
    let mut set = drm_i915_gem_context_param { ctx_id, size, param, value };
    node.call("set", DRM_IOCTL_I915_GEM_CONTEXT_SETPARAM, &mut set)
}

pub(crate) fn destroy(node: &mut Node, ctx_id: u32, pad: u32) {
    let mut destroy = drm_i915_gem_context_destroy { ctx_id, pad };
    node.call("destroy", DRM_IOCTL_I915_GEM_CONTEXT_DESTROY, &mut destroy);
}

/// A node of a chain that sets a parameter.
pub(crate) fn setparam(
    next: u64,
    param: u64,
    size: u32,
    value: u64,
) -> drm_i915_gem_context_create_ext_setparam {
    let base = i915_user_extension { next_extension: next, ..Default::default() };
    let param = drm_i915_gem_context_param { ctx_id: 0, size, param, value };
    drm_i915_gem_context_create_ext_setparam { base, param }
}

pub(crate) fn vm(node: &mut Node, create: bool, vm_id: u32, flags: u32, extensions: u64) -> u32 {
    let mut vm = drm_i915_gem_vm_control { extensions, flags, vm_id };
    if create {
        node.call("vm_create", DRM_IOCTL_I915_GEM_VM_CREATE, &mut vm);
    } else {
        node.call("vm_destroy", DRM_IOCTL_I915_GEM_VM_DESTROY, &mut vm);
    }
    vm.vm_id
}

/// The context in a state: its id.
fn context(node: &mut Node, state: &str) -> u32 {
    match state {
        "default" => 0,
        "unknown" => UNKNOWN,
        _ => {
            let id = create(node, 0, 0);
            if state == "live" {
                get(node, id, I915_CONTEXT_PARAM_RECOVERABLE);
            }
            id
        }
    }
}

pub(crate) fn add(cases: &mut Cases) {
    params(cases);
    creations(cases);
    add_stats(cases);
    vms(cases);
}

/// Ranges are the priority's, what there is not has no values, and a live context and the default one
/// have the same rules.
fn is_worth_asking(param: u64, state: &str, class: &str) -> bool {
    let priority = param == I915_CONTEXT_PARAM_PRIORITY;
    match state {
        "unknown" => [4, 6, 9, 10].contains(&param) && class == "1",
        "default" => priority || ((4..=0xd).contains(&param) && ["0", "1"].contains(&class)),
        _ if !(4..=0xe).contains(&param) => ["0", "1"].contains(&class),
        "live" if !priority => ["0", "1", "high"].contains(&class),
        _ => priority || !class.contains("102"),
    }
}

fn params(cases: &mut Cases) {
    let values: [(&str, u64); 10] = [
        ("0", 0),
        ("1", 1),
        ("2", 2),
        ("-1", u64::MAX),
        ("1023", 1023),
        ("1024", 1024),
        ("-1023", -1023_i64 as u64),
        ("-1024", -1024_i64 as u64),
        ("high", 1 << 32),
        ("bad", BAD),
    ];
    for param in (0..=0x10).chain([0x1_0000_0006, u64::MAX]) {
        for state in STATES {
            for (class, value) in values {
                if !is_worth_asking(param, state, class) {
                    continue;
                }
                for size in [0, 8] {
                    if size != 0 && !["0", "1"].contains(&class) {
                        continue;
                    }
                    let id = format!("context/set/{param:x}/{state}/{class}/size{size}");
                    cases.add(id, move |node| {
                        let context = context(node, state);
                        set(node, context, param, size, value);
                        get(node, context, param);
                    });
                }
            }
            for size in [0, 8, 31, 32] {
                if state == "unknown" && param > 6 {
                    continue;
                }
                // Only this one has a size.
                if size != 0 && param != I915_CONTEXT_PARAM_SSEU && (size, state) != (8, "live") {
                    continue;
                }
                cases.add(format!("context/get/{param:x}/{state}/size{size}"), move |node| {
                    let ctx_id = context(node, state);
                    let value = node.put(&[0_u64; 8]);
                    let value = if param == I915_CONTEXT_PARAM_SSEU { value } else { 5 };
                    let mut get = drm_i915_gem_context_param { ctx_id, size, param, value };
                    // A context's size in bytes is the driver's to choose.
                    node.call("get", DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM, &mut get);
                });
            }
        }
    }
}

fn creations(cases: &mut Cases) {
    for flags in [0, 1, 2, 3, 4, 5, 8, 1 << 31] {
        cases.add(format!("context/create/flags{flags:x}"), move |node| {
            let id = create(node, flags, 0);
            get(node, id, I915_CONTEXT_PARAM_PERSISTENCE);
        });
        cases.add(format!("context/create/flags{flags:x}/bad"), move |node| {
            create(node, flags, BAD);
            create(node, 0, 0);
        });
    }
    chains(cases);
    for state in STATES {
        for pad in [0, 1] {
            cases.add(format!("context/destroy/{state}/pad{pad}"), move |node| {
                let id = context(node, state);
                destroy(node, id, pad);
                destroy(node, id, 0);
                create(node, 0, 0);
            });
        }
    }
}

fn chains(cases: &mut Cases) {
    // One node of a chain, wrong in one place.
    for (class, change) in [
        ("good", 0),
        ("name1", 1),
        ("name2", 2),
        ("flags", 3),
        ("rsvd", 4),
        ("ctx_id", 5),
        ("next", 6),
    ] {
        cases.add(format!("context/create/chain/{class}"), move |node| {
            let mut only = setparam(0, I915_CONTEXT_PARAM_PRIORITY, 0, -5_i64 as u64);
            match change {
                1 | 2 => only.base.name = change,
                3 => only.base.flags = 1,
                4 => only.base.rsvd[3] = 1,
                5 => only.param.ctx_id = 1,
                6 => only.base.next_extension = BAD,
                _ => {}
            }
            let chain = node.put(&[only]);
            let id = create(node, 1, chain);
            get(node, id, I915_CONTEXT_PARAM_PRIORITY);
        });
    }
    for count in [2_usize, 511, 512, 513] {
        cases.add(format!("context/create/chain/{count}nodes"), move |node| {
            let mut next = 0;
            for at in 0..count {
                let priority = -(at as i64) as u64;
                next = node.put(&[setparam(next, I915_CONTEXT_PARAM_PRIORITY, 0, priority)]);
            }
            let id = create(node, 1, next);
            get(node, id, I915_CONTEXT_PARAM_PRIORITY);
        });
    }
    for param in 0..=0x10 {
        for (class, value) in [("0", 0), ("1", 1), ("bad", BAD)] {
            for size in [0, 8] {
                if size != 0 && class != "1" {
                    continue;
                }
                let id = format!("context/create/setparam/{param:x}/{class}/size{size}");
                cases.add(id, move |node| {
                    let chain = node.put(&[setparam(0, param, size, value)]);
                    let id = create(node, 1, chain);
                    get(node, id, param);
                    create(node, 0, 0);
                });
            }
        }
    }
}

fn ask_stats(node: &mut Node, ctx_id: u32, flags: u32, pad: u32) {
    let mut stats = drm_i915_reset_stats { ctx_id, flags, pad, ..Default::default() };
    // How often the whole device was reset is its history, not this case's.
    node.call_hiding("stats", DRM_IOCTL_I915_GET_RESET_STATS, &mut stats, &[2]);
}

pub(crate) fn stats(node: &mut Node, context: u32) {
    ask_stats(node, context, 0, 0);
}

fn add_stats(cases: &mut Cases) {
    for state in STATES {
        for (class, flags, pad) in [("good", 0, 0), ("flags", 1, 0), ("pad", 0, 1)] {
            cases.add(format!("reset/stats/{state}/{class}"), move |node| {
                let ctx_id = context(node, state);
                ask_stats(node, ctx_id, flags, pad);
                // It made a proto-context live.
                set(node, ctx_id, I915_CONTEXT_PARAM_ENGINES, 0, 0);
            });
        }
    }
}

fn vms(cases: &mut Cases) {
    for flags in [0, 1, 1 << 31] {
        for (class, extension) in
            [("none", Ok(0)), ("name0", Err(0)), ("name9", Err(9)), ("bad", Ok(BAD))]
        {
            cases.add(format!("vm/create/flags{flags:x}/{class}"), move |node| {
                let extensions = extension.unwrap_or_else(|name| {
                    node.put(&[i915_user_extension { name, ..Default::default() }])
                });
                let id = vm(node, true, 0, flags, extensions);
                vm(node, false, id, 0, 0);
            });
        }
    }
    for (class, id, flags, extensions) in [
        ("good", 1, 0, 0),
        ("zero", 0, 0, 0),
        ("unknown", 9, 0, 0),
        ("flags", 1, 1, 0),
        ("ext", 1, 0, BAD),
    ] {
        cases.add(format!("vm/destroy/{class}"), move |node| {
            vm(node, true, 0, 0, 0);
            vm(node, false, id, flags, extensions);
            vm(node, false, 1, 0, 0);
            vm(node, true, 0, 0, 0);
        });
    }
    for state in STATES {
        for (class, high, size) in [("good", 0, 0), ("high", 1_u64 << 32, 0), ("size", 0, 8)] {
            cases.add(format!("vm/set/{state}/{class}"), move |node| {
                let id = vm(node, true, 0, 0, 0);
                let context = context(node, state);
                set(node, context, I915_CONTEXT_PARAM_VM, size, u64::from(id) | high);
                vm(node, false, id, 0, 0);
                get(node, context, I915_CONTEXT_PARAM_VM);
                get(node, context, I915_CONTEXT_PARAM_VM);
            });
        }
    }
}
