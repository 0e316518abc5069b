//! EXECBUF in the model (rule table §13).

use gpu_broker_protocol::execbuf::*;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::syncobj::flag::{FENCE_SIGNAL, FENCE_WAIT};

use super::history::{Map, Run};
use super::syncobjs::{fence_of, put};
use super::*;

/// What a submission waits for, and the syncobjs it signals.
type ModelFences = (Vec<ModelFence>, Vec<(ModelSyncobj, u64)>);

const RELOCATED_AT: u64 = 16;

impl World {
    pub(super) fn run(&mut self, who: usize, run: &Run) {
        let submissions = self.device.submissions.lock().unwrap().len();
        let got = self.submit(who, run);
        let named: Vec<_> = std::iter::once(run.first).chain(run.second).collect();
        let expected = self.expect_run(who, run, &named);
        assert_eq!(got, expected.as_ref().err().copied().unwrap_or(0));
        let submitted = self.device.submissions.lock().unwrap().len() - submissions;
        assert_eq!(submitted, usize::from(expected.is_ok()));
        if let Ok((after, signals)) = expected {
            self.submitted(who, run, &named, &after, &signals);
        }
    }

    fn submit(&self, who: usize, run: &Run) -> i32 {
        let object = |(handle, pin): (u32, Option<u64>)| match pin {
            Some(page) => pinned(handle, page * 4096),
            None => object(handle),
        };
        let mut objects: Vec<_> =
            std::iter::once(run.first).chain(run.second).map(object).collect();
        let relocations: Vec<_> = run
            .relocation
            .iter()
            .map(|(target, page)| Relocation {
                target: *target,
                offset: RELOCATED_AT,
                presumed_offset: page * 4096,
                ..Relocation::default()
            })
            .collect();
        objects[0].relocation_count = u32::try_from(relocations.len()).unwrap();
        let points: Vec<_> = run
            .fences
            .iter()
            .map(|(handle, flags, point)| ExecPoint {
                handle: *handle,
                flags: *flags,
                point: *point,
            })
            .collect();
        let fences: Vec<_> = points
            .iter()
            .map(|point| ExecFence { handle: point.handle, flags: point.flags })
            .collect();
        let count = u32::try_from(points.len()).unwrap();
        let node = ExecExtension { entry_count: count, ..ExecExtension::default() };
        let mut lists = ExecbufLists {
            objects: &objects,
            relocations: &relocations,
            ..ExecbufLists::default()
        };
        let mut head = ExecbufHead { context: run.context, ..ExecbufHead::default() };
        let nodes = [node];
        if run.timeline {
            head.flags = flag::USE_EXTENSIONS;
            (lists.extensions, lists.points) = (&nodes, &points);
        } else {
            (head.flags, head.num_cliprects) = (flag::FENCE_ARRAY, count);
            lists.fences = &fences;
        }
        let mut body = Vec::new();
        encode(&head, &lists, &mut body);
        errno(&self.sessions[who].execbuf(NOW, &Execbuf::decode(&body).unwrap(), None))
    }

    fn expect_run(
        &mut self,
        who: usize,
        run: &Run,
        named: &[(u32, Option<u64>)],
    ) -> Result<ModelFences, i32> {
        let fences = self.expect_fences(who, run)?;
        let materialised = self.materialise(who, run.context);
        if materialised != 0 {
            return Err(materialised);
        }
        let model = &self.models[who];
        let context = &model.contexts[&run.context];
        match context.map {
            Some(Map::Empty) => return Err(EINVAL),
            Some(Map::Parallel) if named.len() < 2 => return Err(EINVAL),
            _ if self.wedged => return Err(EIO),
            _ => {}
        }
        for (index, (handle, _)) in named.iter().enumerate() {
            if !model.buffers.contains_key(handle) {
                return Err(ENOENT);
            }
            if named[..index].iter().any(|(earlier, _)| earlier == handle) {
                return Err(EINVAL);
            }
        }
        if context.banned {
            return Err(EIO);
        }
        if let [(first, Some(a)), (second, Some(b))] = named
            && *a < b + model.buffers[second].pages
            && *b < a + model.buffers[first].pages
        {
            return Err(ENOSPC);
        }
        let target_known =
            |(target, _): &(u32, u64)| named.iter().any(|(handle, _)| handle == target);
        if run.relocation.as_ref().is_some_and(|relocation| !target_known(relocation)) {
            return Err(ENOENT);
        }
        Ok(fences)
    }

    /// Rule table §13.3 in the model.
    fn expect_fences(&self, who: usize, run: &Run) -> Result<ModelFences, i32> {
        let (mut after, mut signals) = (Vec::new(), Vec::new());
        for (handle, flags, point) in &run.fences {
            let point = if run.timeline { *point } else { 0 };
            if flags & !3 != 0 {
                return Err(EINVAL);
            }
            let syncobj = self.models[who].syncobjs.get(handle).ok_or(ENOENT)?;
            let (wait, signal) = (flags & FENCE_WAIT != 0, flags & FENCE_SIGNAL != 0);
            let fence = fence_of(syncobj, point);
            let refused = if run.timeline {
                let nothing_asked = *flags == 0 && syncobj.borrow().is_empty();
                (!signal && fence.is_none() && !nothing_asked) || (signal && wait && point != 0)
            } else {
                wait && fence.is_none()
            };
            if refused {
                return Err(EINVAL);
            }
            if wait {
                after.extend(fence);
            }
            if signal {
                signals.push((Rc::clone(syncobj), point));
            }
        }
        Ok((after, signals))
    }

    /// What the device saw, and what it changes.
    fn submitted(
        &mut self,
        who: usize,
        run: &Run,
        named: &[(u32, Option<u64>)],
        after: &[ModelFence],
        signals: &[(ModelSyncobj, u64)],
    ) {
        let seen = self.device.last_submission();
        for ((_, pin), address) in named.iter().zip(&seen.addresses) {
            assert!(pin.is_none_or(|page| page * 4096 == *address), "a pin was not honoured");
        }
        let wide = self.models[who].contexts[&run.context].map == Some(Map::Parallel);
        assert_eq!(seen.batches.len(), if wide { 2 } else { 1 });
        let patches = run.relocation.iter().filter_map(|(target, presumed)| {
            let index = named.iter().position(|(handle, _)| handle == target).unwrap();
            let address = seen.addresses[index];
            (address != presumed * 4096).then_some((0, RELOCATED_AT, canonical(address)))
        });
        assert_eq!(seen.patches, patches.collect::<Vec<_>>());
        let timeline = self.models[who].contexts[&run.context].timeline.clone();
        let last = timeline.as_ref().and_then(|timeline| *timeline.borrow());
        let expected: Vec<_> = after.iter().copied().chain(last.map(ModelFence::Of)).collect();
        assert_eq!(seen.after.len(), expected.len());
        for (serial, fence) in seen.after.iter().zip(expected) {
            match fence {
                ModelFence::Of(expected) => assert_eq!(*serial, expected),
                ModelFence::Signalled => assert!(self.device.has_signalled(*serial)),
            }
        }
        let points: Vec<_> = seen.signals.iter().map(|(_, point)| *point).collect();
        assert_eq!(points, signals.iter().map(|(_, point)| *point).collect::<Vec<_>>());
        for (syncobj, point) in signals {
            put(syncobj, *point, ModelFence::Of(seen.fence));
        }
        if let Some(timeline) = timeline {
            *timeline.borrow_mut() = Some(seen.fence);
        }
        let model = &mut self.models[who];
        let birth = model.contexts[&run.context].birth;
        let (tag, context, fence) = (seen.tag, run.context, seen.fence);
        model.in_flight.push(InFlight { tag, context, birth, fence });
    }
}
