//! GPU contexts and how they are made.

use gpu_broker_protocol::message::{
    ContextCreate, ContextDestroy, ContextParamRequest, ContextResetStats, ParamSet, ResetStats,
};
use gpu_broker_protocol::param::{
    CloneFrom, ContextParam, CreateExtension, EngineId, EngineMap, Extension, ParamValue,
    create_flag, number,
};
use gpu_broker_protocol::{ContextId, Reply, Violation, VmId};

use crate::connection::Connection;
use crate::error::Error;
use crate::execbuf::Execbuf;
use crate::proto::{Plain, answer};
use crate::vm::Vm;

/// A new context in the making. Parameters are applied in the order of the calls, all or nothing.
#[derive(Clone, Debug)]
#[must_use = "a builder makes nothing until `create` is called"]
pub struct ContextBuilder<C = Connection> {
    connection: C,
    request: ContextCreate,
}

impl<C> ContextBuilder<C> {
    pub(crate) fn new(connection: C) -> Self {
        Self { connection, request: ContextCreate::default() }
    }

    /// The context's engines, one per slot of EXECBUF.
    pub fn engines(self, engines: &[EngineId]) -> Self {
        self.engine_map(EngineMap { slots: engines.to_vec(), extensions: Vec::new() })
    }

    /// An engine map with virtual or parallel engines.
    pub fn engine_map(self, map: EngineMap) -> Self {
        self.param(ContextParam::engines(map))
    }

    /// From -1023 (last) to 1023 (first); above 0 needs a privilege.
    pub fn priority(self, priority: i32) -> Self {
        self.param(ContextParam::priority(priority.into()))
    }

    /// The address space, instead of one of its own.
    pub fn vm(self, vm: impl Into<VmId>) -> Self {
        self.param(ContextParam::scalar(number::VM, vm.into().0.into()))
    }

    /// Whether the context may run on after a hang of its own.
    pub fn recoverable(self, yes: bool) -> Self {
        self.param(ContextParam::scalar(number::RECOVERABLE, yes.into()))
    }

    /// Whether hangs may ban the context; clearing it needs a privilege.
    pub fn bannable(self, yes: bool) -> Self {
        self.param(ContextParam::scalar(number::BANNABLE, yes.into()))
    }

    /// Whether work goes on after the context is destroyed.
    pub fn persistence(self, yes: bool) -> Self {
        self.param(ContextParam::scalar(number::PERSISTENCE, yes.into()))
    }

    /// Whether hangs of this context leave no error dump.
    pub fn no_error_capture(self, yes: bool) -> Self {
        self.param(ContextParam::scalar(number::NO_ERROR_CAPTURE, yes.into()))
    }

    /// All engines of the context share one timeline.
    pub fn single_timeline(mut self) -> Self {
        self.request.flags |= create_flag::SINGLE_TIMELINE;
        self
    }

    /// Any parameter.
    pub fn param(self, param: ContextParam) -> Self {
        let body = CreateExtension::SetParam { context: ContextId::DEFAULT, param };
        self.extension(Extension::new(CreateExtension::SET_PARAM, body))
    }

    /// Takes parts of another context over; `flags` are bits of
    /// [`clone_flag`](gpu_broker_protocol::param::clone_flag).
    pub fn clone_from(self, source: impl Into<ContextId>, flags: u32) -> Self {
        let body = CreateExtension::Clone(CloneFrom { source: source.into(), flags, rsvd: 0 });
        self.extension(Extension::new(CreateExtension::CLONE, body))
    }

    fn extension(mut self, extension: Extension<CreateExtension>) -> Self {
        self.request.flags |= create_flag::USE_EXTENSIONS;
        self.request.extensions.push(extension);
        self
    }

    /// The request as it would be sent.
    #[must_use]
    pub const fn request(&self) -> &ContextCreate {
        &self.request
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn into_parts(self) -> (C, ContextCreate) {
        (self.connection, self.request)
    }
}

impl ContextBuilder {
    /// Makes the context. It stays a record in the daemon until something first needs the real
    /// one, and so costs one round trip and nothing on the device.
    ///
    /// # Errors
    /// Refused by one of the rules for its parameters, or with `context-limit` (ENOMEM).
    pub fn create(self) -> Result<Context, Error> {
        let Self { connection, request } = self;
        let reply = connection.request(Plain::ContextCreate(request))?;
        let id = answer!(reply, Reply::ContextCreate(created) => created.context)?;
        Ok(Context { connection, id, owned: true })
    }
}

/// A GPU context. Dropping it destroys it.
#[derive(Debug)]
pub struct Context {
    connection: Connection,
    id: ContextId,
    owned: bool,
}

impl Context {
    pub(crate) const fn borrowed(connection: Connection, id: ContextId) -> Self {
        Self { connection, id, owned: false }
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

    /// Sets a parameter, and gives the size field as the kernel would write it back.
    ///
    /// # Errors
    /// Refused by one of the parameter's rules. ENGINES and VM can be set only before the context
    /// is first used (`param-frozen`, EINVAL).
    pub fn set_param(&self, param: ContextParam) -> Result<ParamSet, Error> {
        let request = ContextParamRequest { context: self.id, param };
        let reply = self.connection.request(Plain::ContextSetParam(request))?;
        answer!(reply, Reply::ContextSetParam(set) => set)
    }

    /// Gets a parameter; for SSEU, `param` names the engine. Makes the context a live one.
    ///
    /// # Errors
    /// Refused with `param-unknown` (EINVAL) and by the parameter's rules.
    pub fn get(&self, param: ContextParam) -> Result<ContextParam, Error> {
        let request = ContextParamRequest { context: self.id, param };
        let reply = self.connection.request(Plain::ContextGetParam(request))?;
        answer!(reply, Reply::ContextGetParam(param) => param)
    }

    /// Gets a parameter that is a number, one of
    /// [`number`](gpu_broker_protocol::param::number). Makes the context a live one.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_param(&self, number: u64) -> Result<u64, Error> {
        let param = self.get(ContextParam::scalar(number, 0))?;
        answer!(param.value, ParamValue::Scalar(value) => value)
    }

    /// Sets the priority, from -1023 (last) to 1023 (first).
    ///
    /// # Errors
    /// Refused with `priority-range` (EINVAL) or `priority-privilege` (EPERM).
    pub fn set_priority(&self, priority: i32) -> Result<(), Error> {
        self.set_param(ContextParam::priority(priority.into())).map(drop)
    }

    /// The priority.
    ///
    /// # Errors
    /// The connection's.
    pub fn priority(&self) -> Result<i32, Error> {
        let value = self.get_param(number::PRIORITY)?.cast_signed();
        i32::try_from(value).map_err(|_| Error::Protocol(Violation::Malformed))
    }

    /// Uses another address space, before the context is first used.
    ///
    /// # Errors
    /// Refused with `param-frozen` (EINVAL) once the context is live.
    pub fn set_vm(&self, vm: impl Into<VmId>) -> Result<(), Error> {
        self.set_param(ContextParam::scalar(number::VM, vm.into().0.into())).map(drop)
    }

    /// The context's address space, under a new handle.
    ///
    /// # Errors
    /// Refused with `vm-limit` (ENOMEM).
    pub fn vm(&self) -> Result<Vm, Error> {
        let id = u32::try_from(self.get_param(number::VM)?)
            .map_err(|_| Error::Protocol(Violation::Malformed))?;
        Ok(Vm::new(self.connection.clone(), VmId(id)))
    }

    /// Uses other engines, before the context is first used.
    ///
    /// # Errors
    /// Refused with `param-frozen` (EINVAL) once the context is live, and by the rules of engine
    /// maps.
    pub fn set_engines(&self, map: EngineMap) -> Result<(), Error> {
        self.set_param(ContextParam::engines(map)).map(drop)
    }

    /// How often this context was hit by resets. Makes the context a live one.
    ///
    /// # Errors
    /// The connection's.
    pub fn reset_stats(&self) -> Result<ResetStats, Error> {
        let request = ContextResetStats { context: self.id, flags: 0, pad: 0 };
        let reply = self.connection.request(Plain::ContextResetStats(request))?;
        answer!(reply, Reply::ContextResetStats(stats) => stats)
    }

    /// Begins a submission.
    pub fn execbuf(&self) -> Execbuf<'_> {
        Execbuf::new(self, self.id)
    }

    /// Destroys the context, and says whether that worked. Without PERSISTENCE, its work ends.
    ///
    /// # Errors
    /// Refused with `no-such-context` (ENOENT) for the default context.
    pub fn destroy(mut self) -> Result<(), Error> {
        self.owned = false;
        self.request_destroy()
    }

    fn request_destroy(&self) -> Result<(), Error> {
        let request = ContextDestroy { context: self.id, pad: 0 };
        let reply = self.connection.request(Plain::ContextDestroy(request))?;
        answer!(reply, Reply::ContextDestroy => ())
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
            // Whoever wants to know calls `destroy`. A session that ended has no contexts left.
            let _ = self.request_destroy();
        }
    }
}
