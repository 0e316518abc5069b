//! Random histories of one open file, each from the seed in its id.

use crate::Cases;
use crate::contexts::{create, destroy, get, set, vm};
use crate::execbuf::{buffer, empty, over, read, submit, wait, write};
use crate::kernel::Node;
use crate::syncobjs;

const HISTORIES: u64 = 50;
const STEPS: usize = 30;

/// xorshift64*, which is enough to choose steps.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from(high).expect("the upper half") % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let choice = self.below(u32::try_from(choices.len()).expect("few"));
        choices[choice as usize]
    }

    /// A small id: one that is there, was there, or never was.
    fn id(&mut self) -> u32 {
        self.below(5)
    }
}

pub(crate) fn add(cases: &mut Cases) {
    for seed in 1..=HISTORIES {
        cases.add(format!("random/seed{seed}"), move |node| {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for _ in 0..STEPS {
                step(node, &mut random);
            }
        });
    }
}

fn step(node: &mut Node, random: &mut Random) {
    let param = random.one_of(&[0x4, 0x5, 0x6, 0x8, 0x9, 0xb]);
    match random.below(16) {
        0 | 1 => _ = create(node, random.one_of(&[0, 2]), 0),
        2 => destroy(node, random.id(), 0),
        3 | 4 => {
            let value = random.one_of(&[u64::MAX, 0, 1, 2]);
            set(node, random.id(), param, 0, value);
        }
        5 => _ = get(node, random.id(), param),
        6 => _ = vm(node, true, 0, 0, 0),
        // Of the VM 0, see tests/PARITY.md.
        7 => _ = vm(node, false, 1 + random.id(), 0, 0),
        8 | 9 => {
            let batch = empty(node);
            let mut execbuf = over(node, &[batch]);
            execbuf.rsvd1 = random.id().into();
            execbuf.flags = random.below(6).into();
            submit(node, &mut execbuf);
            wait(node, batch.handle, 0, 60_000_000_000);
        }
        10 => _ = buffer(node, u64::from(random.below(3)) * 4096),
        11 => write(node, random.id(), &[random.below(9); 4]),
        12 => read(node, random.id()),
        13 => _ = syncobjs::create(node, random.below(3)),
        14 => syncobjs::query(node, random.id(), 0),
        _ => {
            let handle = random.id();
            match random.below(4) {
                0 => syncobjs::signal(node, handle),
                1 => syncobjs::reset(node, handle),
                2 => syncobjs::signal_at(node, handle, random.below(9).into(), 0),
                _ => syncobjs::wait(node, &[handle], random.below(8), 0),
            }
        }
    }
}
