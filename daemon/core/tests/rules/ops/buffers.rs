//! Buffers in the model (rule table §17).

use std::sync::Arc;

use gpu_broker_protocol::BufferId;
use gpu_broker_protocol::message::BufferCreate;
use gpu_broker_protocol::object::*;
use gpu_broker_protocol::refusal::errno::*;

use super::history::Op;
use super::*;

impl World {
    pub(super) fn apply_buffer(&mut self, who: usize, op: Op) {
        match op {
            Op::BufferCreate { pages } => {
                let request = BufferCreate { size: pages * 4096 - 1, flags: 0, regions: None };
                let result = self.sessions[who].buffer_create(&request);
                let got = result.map(|it| it.buffer.0).map_err(|refusal| refusal.errno());
                let memory = Rc::new(());
                self.memories_ever.push(Rc::downgrade(&memory));
                let buffer = ModelBuffer { pages, memory, caching: 1, tiling: (0, 0) };
                assert_eq!(got, self.give_buffer(who, buffer));
            }
            Op::BufferClose { buffer } => {
                let got = errno(&self.sessions[who].buffer_close(BufferId(buffer)));
                let known = self.models[who].buffers.remove(&buffer).is_some();
                assert_eq!(got, if known { 0 } else { ENOENT });
            }
            Op::BufferShare { buffer } => {
                let request = BufferExport { buffer: BufferId(buffer), flags: 2 };
                let got = errno(&self.sessions[who].buffer_export(&request));
                let Some(model) = self.models[who].buffers.get(&buffer).cloned() else {
                    return assert_eq!(got, ENOENT);
                };
                assert_eq!(got, 0);
                let share = |memory: &crate::fake::FakeBuffer, size| (Arc::clone(memory), size);
                let shared = self.sessions[who].with_buffer(BufferId(buffer), share);
                let (memory, size) = shared.unwrap();
                let other = 1 - who;
                let imported = self.sessions[other].buffer_insert(memory, size);
                let got = imported.map(|it| it.buffer.0).map_err(|refusal| refusal.errno());
                assert_eq!(got, self.import_buffer(other, model));
            }
            other => panic!("{other:?} makes and ends no buffer"),
        }
    }

    fn give_buffer(&mut self, who: usize, buffer: ModelBuffer) -> Result<u32, i32> {
        let buffers = &mut self.models[who].buffers;
        if buffers.len() == BUFFERS_MAX as usize {
            return Err(ENOMEM);
        }
        let id = lowest_free(buffers);
        buffers.insert(id, buffer);
        Ok(id)
    }

    /// The same memory has the same handle again.
    fn import_buffer(&mut self, who: usize, buffer: ModelBuffer) -> Result<u32, i32> {
        let same = |known: &ModelBuffer| Rc::ptr_eq(&known.memory, &buffer.memory);
        let known = self.models[who].buffers.iter().find(|(_, known)| same(known));
        if let Some((id, _)) = known {
            return Ok(*id);
        }
        self.give_buffer(who, ModelBuffer { caching: 1, tiling: (0, 0), ..buffer })
    }

    pub(super) fn apply_modes(&mut self, who: usize, op: Op) {
        let session = &self.sessions[who];
        let buffers = &mut self.models[who].buffers;
        match op {
            Op::SetCaching { buffer: id, mode } => {
                let buffer = BufferId(id);
                let got =
                    errno(&session.buffer_set_caching(&BufferCaching { buffer, caching: mode }));
                let expected = match buffers.get_mut(&id) {
                    _ if mode > 2 => EINVAL,
                    None => ENOENT,
                    Some(model) => {
                        model.caching = u32::from(mode == 1);
                        0
                    }
                };
                assert_eq!(got, expected);
                if let Some(model) = buffers.get(&id) {
                    assert_eq!(session.buffer_get_caching(buffer).unwrap().caching, model.caching);
                }
            }
            Op::SetTiling { buffer: id, mode, stride } => {
                let buffer = BufferId(id);
                let request = BufferSetTiling { buffer, mode, stride };
                let got = errno(&session.buffer_set_tiling(&request));
                let row = if mode == 1 { 512 } else { 128 };
                let fits = stride > 0 && stride % row == 0 && stride / 128 <= 2048;
                let expected = match buffers.get_mut(&id) {
                    None => ENOENT,
                    Some(_) if mode > 2 || (mode != 0 && !fits) => EINVAL,
                    Some(model) => {
                        model.tiling = if mode == 0 { (0, 0) } else { (mode, stride) };
                        0
                    }
                };
                assert_eq!(got, expected);
                if let Some(model) = buffers.get(&id) {
                    let read = session.buffer_get_tiling(buffer).unwrap();
                    assert_eq!((read.mode, read.stride), model.tiling);
                }
            }
            Op::Madvise { buffer, advice } => {
                let request = BufferMadvise { buffer: BufferId(buffer), advice };
                let got = session.buffer_madvise(&request).map(|it| it.retained);
                let expected = match buffers.contains_key(&buffer) {
                    _ if advice > 1 => Err(EINVAL),
                    false => Err(ENOENT),
                    true => Ok(1),
                };
                assert_eq!(got.map_err(|it| it.errno()), expected);
            }
            other => panic!("{other:?} asks nothing of a buffer"),
        }
    }

    pub(super) fn apply_accesses(&self, who: usize, op: Op) {
        let (session, buffers) = (&self.sessions[who], &self.models[who].buffers);
        match op {
            Op::SetDomain { buffer, read, write } => {
                let request = BufferSetDomain {
                    buffer: BufferId(buffer),
                    read_domains: read,
                    write_domain: write,
                };
                let got = session.buffer_set_domain(&request).map_err(|it| it.errno());
                let expected = match buffers.contains_key(&buffer) {
                    _ if (read | write) & 0x3e != 0 => Err(EINVAL),
                    _ if write != 0 && read != write => Err(EINVAL),
                    _ if read == 0 => Ok(None),
                    false => Err(ENOENT),
                    true => Ok(Some(write != 0)),
                };
                assert_eq!(got, expected);
            }
            Op::Access { buffer, offset, size, write } => {
                let request = BufferAccess { buffer: BufferId(buffer), offset, size, write };
                let got = session.buffer_access(&request).map_err(|it| it.errno());
                let expected = match buffers.get(&buffer) {
                    _ if size == 0 => Ok(None),
                    None => Err(ENOENT),
                    Some(model) if offset + size > model.pages * 4096 => Err(EINVAL),
                    Some(_) => Ok(Some(write)),
                };
                assert_eq!(got, expected);
            }
            other => panic!("{other:?} accesses nothing"),
        }
    }
}
