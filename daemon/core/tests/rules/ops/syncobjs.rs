//! Syncobjs in the model.

use gpu_broker_protocol::SyncobjId;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::syncobj::*;

use super::history::Op;
use super::*;

fn ids(handles: &[u32]) -> Vec<SyncobjId> {
    handles.iter().copied().map(SyncobjId).collect()
}

pub(super) fn put(syncobj: &ModelSyncobj, point: u64, fence: ModelFence) {
    let mut entries = syncobj.borrow_mut();
    if point == 0 {
        entries.clear();
    }
    if entries.last().is_none_or(|(last, _)| *last < point) {
        entries.push((point, fence));
    }
}

pub(super) fn fence_of(syncobj: &ModelSyncobj, point: u64) -> Option<ModelFence> {
    let entries = syncobj.borrow();
    let at = |(it, _): &&(u64, ModelFence)| *it >= point;
    let found = if point == 0 { entries.last() } else { entries.iter().find(at) };
    found.map(|(_, fence)| *fence)
}

impl World {
    fn is_signalled(&self, fence: ModelFence) -> bool {
        match fence {
            ModelFence::Signalled => true,
            ModelFence::Of(serial) => self.signalled.contains(&serial),
        }
    }

    /// The objects of a list, or the errno: EINVAL for none, ENOENT for an unknown one.
    fn listed(&self, who: usize, handles: &[u32]) -> Result<Vec<ModelSyncobj>, i32> {
        if handles.is_empty() {
            return Err(EINVAL);
        }
        let find = |handle| self.models[who].syncobjs.get(handle).cloned().ok_or(ENOENT);
        handles.iter().map(find).collect()
    }

    pub(super) fn apply_syncobj(&mut self, who: usize, op: Op) {
        match op {
            Op::SyncobjCreate { signalled } => {
                let request = SyncobjCreate { flags: signalled.into() };
                let got = self.sessions[who].syncobj_create(&request).unwrap().syncobj.0;
                let model = ModelSyncobj::default();
                self.syncobjs_ever.push(Rc::downgrade(&model));
                if signalled {
                    put(&model, 0, ModelFence::Signalled);
                }
                assert_eq!(got, self.give_syncobj(who, model));
            }
            Op::SyncobjDestroy { syncobj } => {
                let request = SyncobjDestroy { syncobj: SyncobjId(syncobj), pad: 0 };
                let got = errno(&self.sessions[who].syncobj_destroy(&request));
                let known = self.models[who].syncobjs.remove(&syncobj).is_some();
                assert_eq!(got, if known { 0 } else { EINVAL });
            }
            Op::SyncobjShare { syncobj } => {
                let found = self.sessions[who].syncobj(SyncobjId(syncobj));
                let Some(model) = self.models[who].syncobjs.get(&syncobj).cloned() else {
                    return assert_eq!(errno(&found), ENOENT);
                };
                let handle = self.sessions[1 - who].syncobj_insert(found.unwrap()).unwrap();
                assert_eq!(handle.0, self.give_syncobj(1 - who, model));
            }
            Op::SyncobjTransfer { source, target, wait } => {
                self.transfer(who, source, target, wait);
            }
            Op::SyncobjQuery { syncobjs, submitted } => {
                let request =
                    SyncobjQuery { syncobjs: ids(&syncobjs), flags: u32::from(submitted) };
                let got = self.sessions[who].syncobj_query(&request);
                let expected = self.listed(who, &syncobjs).map(|syncobjs| {
                    syncobjs.iter().map(|it| self.reached(it, submitted)).collect::<Vec<_>>()
                });
                assert_eq!(got.map(|it| it.points).map_err(|it| it.errno()), expected);
            }
            Op::SyncobjWait { syncobjs, points, flags } => {
                self.wait_set(who, &syncobjs, points, flags);
            }
            other => self.change_syncobjs(who, other),
        }
    }

    fn give_syncobj(&mut self, who: usize, syncobj: ModelSyncobj) -> u32 {
        let id = lowest_free(&self.models[who].syncobjs);
        self.models[who].syncobjs.insert(id, syncobj);
        id
    }

    fn reached(&self, syncobj: &ModelSyncobj, submitted: bool) -> u64 {
        let entries = syncobj.borrow();
        let counts = |(_, fence): &&(u64, ModelFence)| submitted || self.is_signalled(*fence);
        entries.iter().take_while(counts).last().map_or(0, |(point, _)| *point)
    }

    fn change_syncobjs(&mut self, who: usize, op: Op) {
        let session = &self.sessions[who];
        let (handles, got) = match &op {
            Op::SyncobjReset { syncobjs } => {
                let request = SyncobjArray { syncobjs: ids(syncobjs), pad: 0 };
                (syncobjs.clone(), session.syncobj_reset(&request))
            }
            Op::SyncobjSignal { syncobjs } => {
                let request = SyncobjArray { syncobjs: ids(syncobjs), pad: 0 };
                (syncobjs.clone(), session.syncobj_signal(&request))
            }
            Op::SyncobjPoint { syncobj, point } => {
                let syncobjs = ids(&[*syncobj]);
                let request = SyncobjTimelineSignal { syncobjs, points: vec![*point], flags: 0 };
                (vec![*syncobj], session.syncobj_timeline_signal(&request))
            }
            other => panic!("{other:?} changes no syncobj"),
        };
        let listed = self.listed(who, &handles);
        assert_eq!(errno(&got), listed.as_ref().err().copied().unwrap_or(0));
        for syncobj in listed.unwrap_or_default() {
            match op {
                Op::SyncobjReset { .. } => syncobj.borrow_mut().clear(),
                Op::SyncobjPoint { point, .. } => put(&syncobj, point, ModelFence::Signalled),
                _ => put(&syncobj, 0, ModelFence::Signalled),
            }
        }
    }

    fn transfer(&mut self, who: usize, source: (u32, u64), target: (u32, u64), wait: bool) {
        let request = SyncobjTransfer {
            source: SyncobjId(source.0),
            source_point: source.1,
            target: SyncobjId(target.0),
            target_point: target.1,
            flags: if wait { flag::WAIT_FOR_SUBMIT } else { 0 },
            pad: 0,
        };
        let got = self.sessions[who].syncobj_transfer(&request).map_err(|it| it.errno());
        let syncobjs = &self.models[who].syncobjs;
        let expected = match (syncobjs.get(&target.0), syncobjs.get(&source.0)) {
            (None, _) | (_, None) => Err(ENOENT),
            (Some(to), Some(from)) => match fence_of(from, source.1) {
                Some(fence) => {
                    put(to, target.1, fence);
                    Ok(true)
                }
                None if wait => Ok(false),
                None => Err(EINVAL),
            },
        };
        assert_eq!(got, expected);
    }

    fn wait_set(&mut self, who: usize, handles: &[u32], points: Option<Vec<u64>>, flags: u32) {
        let request =
            SyncobjWait { syncobjs: ids(handles), points: points.clone(), flags, deadline_ns: 0 };
        let got = self.sessions[who].syncobj_wait_set(&request);
        let got = got.map(|set| set.iter().map(|(_, point)| *point).collect::<Vec<_>>());
        let known = if points.is_some() { 7 } else { 3 };
        let expected = if flags & !known != 0 {
            Err(EINVAL)
        } else if handles.is_empty() {
            Ok(Vec::new())
        } else if points.as_ref().is_some_and(|points| points.len() != handles.len()) {
            Err(EINVAL)
        } else {
            let listed = self.listed(who, handles);
            listed.map(|listed| points.unwrap_or_else(|| vec![0; listed.len()]))
        };
        assert_eq!(got.map_err(|it| it.errno()), expected);
    }
}
