//! Contexts and address spaces on a tokio runtime.
//!
//! Dropping an object cannot wait, so it hands the release to a task of the runtime; outside of a
//! runtime the object lives until its connection ends.

use gpu_broker_protocol::message::{
    ContextDestroy, ContextParamRequest, ContextResetStats, ParamSet, ResetStats, VmDestroy,
};
use gpu_broker_protocol::param::{ContextParam, EngineMap, ParamValue, number};
use gpu_broker_protocol::{ContextId, Reply, VmId};

use super::Connection;
use crate::context::ContextBuilder;
use crate::error::Error;
use crate::execbuf::Execbuf;
use crate::proto::{Plain, answer};

/// Sends a release that nobody waits for.
pub(super) fn release_later(connection: &Connection, request: Plain) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let connection = connection.clone();
        runtime.spawn(async move { connection.request(request).await.map(drop) });
    }
}

impl ContextBuilder<Connection> {
    /// Makes the context.
    ///
    /// # Errors
    /// As [`ContextBuilder::<crate::Connection>::create`].
    pub async fn create(self) -> Result<Context, Error> {
        let (connection, request) = self.into_parts();
        let reply = connection.request(Plain::ContextCreate(request)).await?;
        let id = answer!(reply, Reply::ContextCreate(created) => created.context)?;
        Ok(Context::new(connection, id, true))
    }
}

/// A GPU context; see [`crate::Context`].
#[derive(Debug)]
pub struct Context {
    connection: Connection,
    id: ContextId,
    owned: bool,
}

impl Context {
    pub(crate) const fn new(connection: Connection, id: ContextId, owned: bool) -> Self {
        Self { connection, id, owned }
    }

    /// Its id in this session.
    #[must_use]
    pub const fn id(&self) -> ContextId {
        self.id
    }

    /// The session it belongs to.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sets a parameter.
    ///
    /// # Errors
    /// As [`crate::Context::set_param`].
    pub async fn set_param(&self, param: ContextParam) -> Result<ParamSet, Error> {
        let request = ContextParamRequest { context: self.id, param };
        let reply = self.connection.request(Plain::ContextSetParam(request)).await?;
        answer!(reply, Reply::ContextSetParam(set) => set)
    }

    /// Gets a parameter. Makes the context a live one.
    ///
    /// # Errors
    /// As [`crate::Context::get`].
    pub async fn get(&self, param: ContextParam) -> Result<ContextParam, Error> {
        let request = ContextParamRequest { context: self.id, param };
        let reply = self.connection.request(Plain::ContextGetParam(request)).await?;
        answer!(reply, Reply::ContextGetParam(param) => param)
    }

    /// Gets a parameter that is a number. Makes the context a live one.
    ///
    /// # Errors
    /// As [`crate::Context::get`].
    pub async fn get_param(&self, number: u64) -> Result<u64, Error> {
        let param = self.get(ContextParam::scalar(number, 0)).await?;
        answer!(param.value, ParamValue::Scalar(value) => value)
    }

    /// Sets the priority, from -1023 (last) to 1023 (first).
    ///
    /// # Errors
    /// As [`crate::Context::set_priority`].
    pub async fn set_priority(&self, priority: i32) -> Result<(), Error> {
        self.set_param(ContextParam::priority(priority.into())).await.map(drop)
    }

    /// Uses another address space, before the context is first used.
    ///
    /// # Errors
    /// As [`crate::Context::set_vm`].
    pub async fn set_vm(&self, vm: impl Into<VmId>) -> Result<(), Error> {
        self.set_param(ContextParam::scalar(number::VM, vm.into().0.into())).await.map(drop)
    }

    /// Uses other engines, before the context is first used.
    ///
    /// # Errors
    /// As [`crate::Context::set_engines`].
    pub async fn set_engines(&self, map: EngineMap) -> Result<(), Error> {
        self.set_param(ContextParam::engines(map)).await.map(drop)
    }

    /// How often this context was hit by resets. Makes the context a live one.
    ///
    /// # Errors
    /// The connection's.
    pub async fn reset_stats(&self) -> Result<ResetStats, Error> {
        let request = ContextResetStats { context: self.id, flags: 0, pad: 0 };
        let reply = self.connection.request(Plain::ContextResetStats(request)).await?;
        answer!(reply, Reply::ContextResetStats(stats) => stats)
    }

    /// Begins a submission.
    pub fn execbuf(&self) -> Execbuf<'_, Self> {
        Execbuf::new(self, self.id)
    }

    /// Destroys the context, and says whether that worked.
    ///
    /// # Errors
    /// As [`crate::Context::destroy`].
    pub async fn destroy(mut self) -> Result<(), Error> {
        self.owned = false;
        let reply = self.connection.request(self.destroy_request()).await?;
        answer!(reply, Reply::ContextDestroy => ())
    }

    const fn destroy_request(&self) -> Plain {
        Plain::ContextDestroy(ContextDestroy { context: self.id, pad: 0 })
    }
}

impl From<&Context> for ContextId {
    fn from(context: &Context) -> Self {
        context.id
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.owned {
            release_later(&self.connection, self.destroy_request());
        }
    }
}

/// A GPU address space; see [`crate::Vm`].
#[derive(Debug)]
pub struct Vm {
    connection: Connection,
    id: VmId,
    open: bool,
}

impl Vm {
    pub(crate) const fn new(connection: Connection, id: VmId) -> Self {
        Self { connection, id, open: true }
    }

    /// Its id in this session.
    #[must_use]
    pub const fn id(&self) -> VmId {
        self.id
    }

    /// Gives the handle up, and says whether that worked.
    ///
    /// # Errors
    /// The connection's.
    pub async fn destroy(mut self) -> Result<(), Error> {
        self.open = false;
        let reply = self.connection.request(self.destroy_request()).await?;
        answer!(reply, Reply::VmDestroy => ())
    }

    const fn destroy_request(&self) -> Plain {
        Plain::VmDestroy(VmDestroy { vm: self.id, flags: 0, extensions: Vec::new() })
    }
}

impl From<&Vm> for VmId {
    fn from(vm: &Vm) -> Self {
        vm.id
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.open {
            release_later(&self.connection, self.destroy_request());
        }
    }
}
