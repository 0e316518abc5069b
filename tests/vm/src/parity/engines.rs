//! Engine maps: ENGINES and its extensions (rule table §6).

use gpu_broker_uapi::i915::*;

use crate::Cases;
use crate::contexts::{create, get, set};
use crate::execbuf::{empty, over, submit};
use crate::kernel::{BAD, Node};

type Engine = i915_engine_class_instance;

const fn engine(engine_class: u16, engine_instance: u16) -> Engine {
    Engine { engine_class, engine_instance }
}

const GAP: Engine = engine(u16::MAX, u16::MAX);
/// What may be in a slot: what is there on every device, and what is not.
const SLOTS: [(&str, Engine); 8] = [
    ("rcs", engine(0, 0)),
    ("bcs", engine(1, 0)),
    ("vcs", engine(2, 0)),
    ("gap", GAP),
    ("rcs1", engine(0, 1)),
    ("halfgap", engine(u16::MAX, 0)),
    ("class9", engine(9, 0)),
    ("wide", engine(0x100, 0)),
];

/// Those of them that no device has.
const NOT_THERE: [&str; 3] = ["rcs1", "halfgap", "class9"];

/// Sets a map of a new context, and submits to its first slot.
fn map(node: &mut Node, words: &[u32], size: u32) {
    let value = node.put(words);
    let context = create(node, 0, 0);
    if set(node, context, I915_CONTEXT_PARAM_ENGINES, size, value) {
        set(node, context, I915_CONTEXT_PARAM_ENGINES, size, value);
    }
    get(node, context, I915_CONTEXT_PARAM_RECOVERABLE);
    let batch = empty(node);
    let mut execbuf = over(node, &[batch]);
    execbuf.rsvd1 = context.into();
    submit(node, &mut execbuf);
    execbuf.flags = 1;
    submit(node, &mut execbuf);
}

fn word(engine: Engine) -> u32 {
    u32::from(engine.engine_class) | u32::from(engine.engine_instance) << 16
}

/// A word of 64 bits as two.
fn halves(word: u64) -> [u32; 2] {
    [word & u64::from(u32::MAX), word >> 32].map(|half| u32::try_from(half).expect("masked"))
}

/// A map of two slots with an extension.
fn extended(node: &mut Node, slots: [Engine; 2], extension: u64) {
    let [low, high] = halves(extension);
    let words = [low, high, word(slots[0]), word(slots[1])];
    map(node, &words, 16);
}

pub(crate) fn add(cases: &mut Cases) {
    for size in [0, 1, 7, 8, 9, 12, 16, 8 + 64 * 4, 8 + 65 * 4, u32::MAX - 3] {
        cases.add(format!("engines/size{size}"), move |node| {
            map(node, &[0; 80], size);
        });
    }
    for (first, one) in SLOTS {
        for (second, two) in SLOTS {
            if [first, second].contains(&"wide")
                && NOT_THERE.iter().any(|slot| [first, second].contains(slot))
            {
                continue;
            }
            cases.add(format!("engines/map/{first}/{second}"), move |node| {
                extended(node, [one, two], 0);
            });
        }
    }
    cases.add("engines/bad", |node| extended(node, [GAP, GAP], BAD));
    for name in [3, 4, u32::MAX] {
        cases.add(format!("engines/extension{name}"), move |node| {
            let base = i915_user_extension { name, ..Default::default() };
            let extension = node.put(&[base]);
            extended(node, [GAP, GAP], extension);
        });
    }
    balanced(cases);
    bonded(cases);
    parallel(cases);
}

fn balanced(cases: &mut Cases) {
    for index in [0, 1, 2, u16::MAX] {
        for siblings in [0, 1, 2, 3] {
            if index > 1 && siblings > 1 {
                continue;
            }
            for (class, flags, mbz64) in [("good", 0, 0), ("flags", 1, 0), ("mbz", 0, 1)] {
                for (name, sibling) in SLOTS {
                    if (class != "good" || index > 1) && name != "rcs" {
                        continue;
                    }
                    let id = format!("engines/balance/{index}/{siblings}{name}/{class}");
                    cases.add(id, move |node| {
                        let balance = i915_context_engines_load_balance {
                            engine_index: index,
                            num_siblings: siblings,
                            flags,
                            mbz64,
                            ..Default::default()
                        };
                        let extension = node.put(&[balance]);
                        node.put(&[sibling; 4]);
                        extended(node, [GAP, SLOTS[0].1], extension);
                    });
                }
            }
        }
    }
}

fn bonded(cases: &mut Cases) {
    for index in [0, 1, 2] {
        for (name, master) in SLOTS {
            for bonds in [0, 1] {
                for (class, flags) in [("good", 0), ("flags", 1)] {
                    if class != "good" && name != "rcs" {
                        continue;
                    }
                    cases.add(
                        format!("engines/bond/{index}/{name}/{bonds}/{class}"),
                        move |node| {
                            let base = i915_user_extension {
                                name: I915_CONTEXT_ENGINES_EXT_BOND,
                                ..Default::default()
                            };
                            let bond = i915_context_engines_bond {
                                base,
                                master,
                                virtual_index: index,
                                num_bonds: bonds,
                                flags,
                                ..Default::default()
                            };
                            let extension = node.put(&[bond]);
                            node.put(&[SLOTS[1].1; 2]);
                            extended(node, [SLOTS[0].1, GAP], extension);
                        },
                    );
                }
            }
        }
    }
}

fn parallel(cases: &mut Cases) {
    for index in [0, 1, 2] {
        for width in [0, 1, 2, 3] {
            for siblings in [0, 1, 2] {
                for (name, engine) in &SLOTS[..4] {
                    if index > 0 && *name != "vcs" {
                        continue;
                    }
                    let id = format!("engines/parallel/{index}/{width}x{siblings}{name}");
                    let engine = *engine;
                    cases.add(id, move |node| {
                        let base = i915_user_extension {
                            name: I915_CONTEXT_ENGINES_EXT_PARALLEL_SUBMIT,
                            ..Default::default()
                        };
                        let parallel = i915_context_engines_parallel_submit {
                            base,
                            engine_index: index,
                            width,
                            num_siblings: siblings,
                            ..Default::default()
                        };
                        let extension = node.put(&[parallel]);
                        node.put(&[engine; 8]);
                        extended(node, [GAP, SLOTS[0].1], extension);
                    });
                }
            }
        }
    }
}
