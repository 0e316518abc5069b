//! What EXECBUF costs in core alone: nanoseconds per submission on a live context, with a device
//! that does nothing. `cargo run --release -p gpu-broker-core --example hot_path`
#![expect(clippy::disallowed_methods, reason = "core has no clock, a measurement needs one")]

use std::sync::Arc;
use std::time::Instant;

use gpu_broker_core::hands::{
    BufferMemory, Caching, ClassTimes, ContextSpec, Outcome, Submission, Submitted, Update,
};
use gpu_broker_core::{Capabilities, Hands, Privileges, Registry, Session, SessionLimits, Time};
use gpu_broker_protocol::execbuf::{
    self, ExecObject, Execbuf, ExecbufHead, ExecbufLists, object_flag,
};
use gpu_broker_protocol::message::BufferCreate;
use gpu_broker_protocol::{Refusal, SessionId};

struct Nothing;

impl Hands for Nothing {
    type Vm = ();
    type Context = ();
    type Buffer = u64;
    type Fence = ();
    type Syncobj = ();
    type UserMemory = ();

    fn create_vm(&self) -> Result<(), Refusal> {
        Ok(())
    }
    fn unbind(&self, (): &(), _: u64, _: u64) {}
    fn create_context(&self, _: &ContextSpec<'_, ()>) -> Result<(), Refusal> {
        Ok(())
    }
    fn update_context(&self, (): &(), _: Update) -> Result<(), Refusal> {
        Ok(())
    }
    fn close_context(&self, (): (), _: bool) {}
    fn cancel_context(&self, (): &()) {}
    fn engine_times(&self) -> ClassTimes {
        ClassTimes::default()
    }
    fn context_times(&self, (): &()) -> Option<ClassTimes> {
        Some(ClassTimes::default())
    }
    fn buffer_memory(&self, _: &u64) -> BufferMemory {
        BufferMemory::default()
    }
    fn create_buffer(&self, size: u64) -> Result<u64, Refusal> {
        Ok(size)
    }
    fn set_caching(&self, _: &u64, _: Caching) -> Result<(), Refusal> {
        Ok(())
    }
    fn create_userptr(&self, (): &(), _: u64, size: u64, _: bool) -> Result<u64, Refusal> {
        Ok(size)
    }
    fn pin_userptr(&self, _: &u64) -> Result<(), Refusal> {
        Ok(())
    }
    fn is_busy(&self, _: &u64) -> bool {
        false
    }
    fn submit(&self, (): &(), s: &Submission<'_, Self>) -> Result<Submitted<()>, Refusal> {
        std::hint::black_box(s);
        Ok(Submitted { fence: None, done: Some(Outcome::Completed) })
    }
    fn is_pending(&self, (): &()) -> bool {
        false
    }
    fn same_buffer(&self, first: &u64, second: &u64) -> bool {
        std::ptr::eq(first, second)
    }
    fn create_syncobj(&self, _: bool) -> Result<(), Refusal> {
        Ok(())
    }
    fn reset_syncobj(&self, (): &()) {}
    fn signal_syncobj(&self, (): &(), _: u64) -> Result<(), Refusal> {
        Ok(())
    }
    fn put_fence(&self, (): &(), _: u64, (): &()) -> Result<(), Refusal> {
        Ok(())
    }
    fn syncobj_fence(&self, (): &(), _: u64) -> Option<()> {
        Some(())
    }
    fn syncobj_point(&self, (): &(), _: bool) -> u64 {
        0
    }
}

fn main() -> Result<(), Refusal> {
    let session = Session::open(
        Time(0),
        SessionId(1),
        Nothing,
        Arc::new(Registry::new()),
        Arc::new(Capabilities::kaby_lake_gt3()),
        Privileges::default(),
        SessionLimits::default(),
    )?;
    for count in [1_u32, 4, 16, 64] {
        let mut objects = Vec::new();
        for _ in 0..count {
            let created =
                session.buffer_create(&BufferCreate { size: 4096, flags: 0, regions: None })?;
            objects.push(ExecObject {
                handle: created.buffer.0,
                offset: (1 << 33) + u64::from(created.buffer.0) * 65536,
                flags: object_flag::PINNED | object_flag::SUPPORTS_48B,
                ..ExecObject::default()
            });
        }
        let mut body = Vec::new();
        let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
        execbuf::encode(&ExecbufHead::default(), &lists, &mut body);
        let Ok(request) = Execbuf::decode(&body) else { unreachable!("we encoded it") };
        let mut best = f64::INFINITY;
        // Short rounds, so that on a busy machine the best of them was not interrupted.
        for _ in 0..500 {
            let rounds = 500;
            let start = Instant::now();
            for _ in 0..rounds {
                let executed = session.execbuf(Time(0), std::hint::black_box(&request), None)?;
                std::hint::black_box(executed);
            }
            best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds));
        }
        println!("{count:3} objects: {best:6.0} ns");
    }
    Ok(())
}
