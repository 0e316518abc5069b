//! Control messages as bytes: bincode with fixed-width little-endian integers.
//!
//! bincode is no longer maintained, so it is used here and nowhere else, always with a limit on
//! what it may allocate; a test compares its bytes with another implementation of the format.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::execbuf;
use crate::header::{Header, HeaderFlags, Opcode};
use crate::limits::BODY_BYTES_MAX;
use crate::message::*;
use crate::object::*;
use crate::refusal::{Refusal, RefusalBody};
use crate::syncobj::*;
use crate::userptr::UserptrCreate;
use crate::violation::Violation;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<BODY_BYTES_MAX>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<BODY_BYTES_MAX>();

fn put<T: Serialize>(body: &T, out: &mut Vec<u8>) -> Result<(), Violation> {
    bincode::serde::encode_into_std_write(body, out, CONFIG)
        .map(|_| ())
        .map_err(|_| Violation::Malformed)
}

fn get<T: DeserializeOwned>(body: &[u8]) -> Result<T, Violation> {
    use bincode::error::DecodeError;
    match bincode::serde::decode_from_slice::<T, _>(body, CONFIG) {
        Ok((value, used)) if used == body.len() => Ok(value),
        Ok(_) => Err(Violation::Trailing),
        Err(DecodeError::UnexpectedEnd { .. }) => Err(Violation::Short),
        Err(_) => Err(Violation::Malformed),
    }
}

/// Bytes of a control message's body, for tools and tests that work on bodies alone.
///
/// # Errors
/// [`Violation::Malformed`] when the value cannot be encoded (it cannot be, for our own types).
pub fn encode_body<T: Serialize>(body: &T) -> Result<Vec<u8>, Violation> {
    let mut out = Vec::new();
    put(body, &mut out)?;
    Ok(out)
}

/// The inverse of [`encode_body`].
///
/// # Errors
/// [`Violation::Short`], [`Violation::Trailing`] or [`Violation::Malformed`].
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Violation> {
    get(body)
}

/// Appends a message with its header; `fill` writes the body. The length is checked.
fn message(
    out: &mut Vec<u8>,
    header: Header,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Violation>,
) -> Result<(), Violation> {
    let start = out.len();
    out.extend_from_slice(&header.to_bytes());
    let result = fill(out);
    let result = match result {
        Ok(()) if out.len() - start > crate::limits::MESSAGE_BYTES_MAX => Err(Violation::TooLong),
        other => other,
    };
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Names the pairing of opcode, request and reply once, for all four directions.
macro_rules! control_messages {
    ($($name:ident: $request:tt -> $reply:tt;)*) => {
        impl<Fd> Request<Fd> {
            /// The opcode that goes with this request.
            #[must_use]
            pub const fn opcode(&self) -> Opcode {
                match self { $(control_messages!(@pattern $name $request) => Opcode::$name,)* }
            }
        }

        impl<Fd: Serialize> Request<Fd> {
            fn put(&self, out: &mut Vec<u8>) -> Result<(), Violation> {
                match self {$(
                    control_messages!(@bind $name $request body) =>
                        control_messages!(@put $request body out),
                )*}
            }
        }

        impl Request<FdSlot> {
            /// Decodes the body of a control request.
            ///
            /// # Errors
            /// [`Violation::UnknownOpcode`] for EXECBUF (see [`crate::execbuf`]), events and
            /// numbers without a meaning; [`Violation::Short`], [`Violation::Trailing`] or
            /// [`Violation::Malformed`] for bodies that are not exactly what the opcode says.
            pub fn decode(opcode: u16, body: &[u8]) -> Result<Self, Violation> {
                match Opcode::from_u16(opcode) {
                    $(Some(Opcode::$name) => control_messages!(@get Request $name $request body),)*
                    Some(Opcode::Execbuf | Opcode::Epitaph | Opcode::Hang) | None =>
                        Err(Violation::UnknownOpcode),
                }
            }
        }

        impl<Fd> Reply<Fd> {
            /// The opcode that goes with this reply.
            #[must_use]
            pub const fn opcode(&self) -> Opcode {
                match self {
                    $(control_messages!(@reply_pattern $name $reply) => Opcode::$name,)*
                    Reply::Execbuf(_) => Opcode::Execbuf,
                }
            }
        }

        impl<Fd: Serialize> Reply<Fd> {
            fn put(&self, out: &mut Vec<u8>) -> Result<(), Violation> {
                match self {
                    $(control_messages!(@reply_bind $name $reply body) =>
                        control_messages!(@put $reply body out),)*
                    Reply::Execbuf(reply) => { execbuf::encode_reply(reply, out); Ok(()) }
                }
            }
        }

        impl Reply<FdSlot> {
            /// Decodes the body of a reply that is not a refusal.
            ///
            /// # Errors
            /// As [`Request::decode`].
            pub fn decode(opcode: u16, body: &[u8]) -> Result<Self, Violation> {
                match Opcode::from_u16(opcode) {
                    $(Some(Opcode::$name) => control_messages!(@get Reply $name $reply body),)*
                    Some(Opcode::Execbuf) => execbuf::decode_reply(body).map(Reply::Execbuf),
                    Some(Opcode::Epitaph | Opcode::Hang) | None => Err(Violation::UnknownOpcode),
                }
            }
        }
    };
    (@pattern $name:ident none) => { Request::$name };
    (@pattern $name:ident body) => { Request::$name(_) };
    (@bind $name:ident none $b:ident) => { Request::$name };
    (@bind $name:ident body $b:ident) => { Request::$name($b) };
    (@reply_pattern $name:ident none) => { Reply::$name };
    (@reply_pattern $name:ident body) => { Reply::$name(_) };
    (@reply_bind $name:ident none $b:ident) => { Reply::$name };
    (@reply_bind $name:ident body $b:ident) => { Reply::$name($b) };
    (@put none $b:ident $out:ident) => { Ok(()) };
    (@put body $b:ident $out:ident) => { put($b, $out) };
    (@get $kind:ident $name:ident none $b:ident) => { get::<()>($b).map(|()| $kind::$name) };
    (@get $kind:ident $name:ident body $b:ident) => { get($b).map($kind::$name) };
}

control_messages! {
    Hello: body -> body;
    Ping: body -> body;
    DeviceQuery: none -> body;
    Status: body -> body;
    Confinement: none -> body;
    Usage: body -> body;
    Identity: body -> body;
    AdminDrain: body -> body;
    AdminRevoke: body -> none;
    AdminLimit: body -> body;
    AdminClasses: none -> body;
    ContextCreate: body -> body;
    ContextDestroy: body -> none;
    ContextSetParam: body -> body;
    ContextGetParam: body -> body;
    ContextResetStats: body -> body;
    VmCreate: body -> body;
    VmDestroy: body -> none;
    BufferCreate: body -> body;
    BufferMap: body -> body;
    BufferClose: body -> none;
    BufferBusy: body -> body;
    BufferWait: body -> body;
    FenceStatus: body -> body;
    FenceMerge: body -> body;
    GetParam: body -> body;
    Query: body -> body;
    GetAperture: none -> body;
    Throttle: none -> none;
    RegRead: body -> body;
    BufferSetDomain: body -> none;
    BufferAccess: body -> none;
    BufferSetCaching: body -> none;
    BufferGetCaching: body -> body;
    BufferSetTiling: body -> body;
    BufferGetTiling: body -> body;
    BufferMadvise: body -> body;
    BufferExport: body -> body;
    BufferImport: body -> body;
    UserptrCreate: body -> body;
    UserptrInvalidate: body -> none;
    SyncobjCreate: body -> body;
    SyncobjDestroy: body -> none;
    SyncobjReset: body -> none;
    SyncobjSignal: body -> none;
    SyncobjWait: body -> body;
    SyncobjTimelineSignal: body -> none;
    SyncobjQuery: body -> body;
    SyncobjTransfer: body -> none;
    SyncobjExport: body -> body;
    SyncobjImport: body -> body;
    HangList: body -> body;
    HangShow: body -> body;
    HangRead: body -> body;
}

/// Appends a request as a whole message.
///
/// # Errors
/// [`Violation::TooLong`] when it does not fit in a message.
pub fn encode_request(
    seq: u32,
    request: &Request<FdSlot>,
    out: &mut Vec<u8>,
) -> Result<(), Violation> {
    let header = Header { opcode: request.opcode() as u16, flags: 0, seq };
    message(out, header, |out| request.put(out))
}

/// Appends an EXECBUF as a whole message.
///
/// # Errors
/// [`Violation::TooLong`] when it does not fit in a message; [`Violation::Malformed`] when the
/// extensions own another number of points than there are, which no daemon could take apart.
pub fn encode_execbuf(
    seq: u32,
    head: &execbuf::ExecbufHead,
    lists: &execbuf::ExecbufLists<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Violation> {
    let header = Header { opcode: Opcode::Execbuf as u16, flags: 0, seq };
    if !lists.agree() {
        return Err(Violation::Malformed);
    }
    message(out, header, |out| {
        execbuf::encode(head, lists, out);
        Ok(())
    })
}

/// Appends a reply as a whole message.
///
/// # Errors
/// [`Violation::TooLong`] when it does not fit in a message.
pub fn encode_reply(seq: u32, reply: &Reply<FdSlot>, out: &mut Vec<u8>) -> Result<(), Violation> {
    let header = Header { opcode: reply.opcode() as u16, flags: HeaderFlags::REPLY, seq };
    message(out, header, |out| reply.put(out))
}

/// Appends a refusal of the request with this opcode as a whole message.
///
/// # Errors
/// [`Violation::TooLong`] when it does not fit in a message.
pub fn encode_refusal(
    opcode: u16,
    seq: u32,
    refusal: &Refusal,
    out: &mut Vec<u8>,
) -> Result<(), Violation> {
    let header = Header { opcode, flags: HeaderFlags::REPLY | HeaderFlags::REFUSED, seq };
    message(out, header, |out| put(&refusal.to_body(), out))
}

/// Decodes the body of a refusal.
///
/// # Errors
/// As [`Request::decode`].
pub fn decode_refusal(body: &[u8]) -> Result<RefusalBody, Violation> {
    get(body)
}

/// Appends an event as a whole message.
///
/// # Errors
/// [`Violation::TooLong`] when it does not fit in a message.
pub fn encode_event(event: &Event, out: &mut Vec<u8>) -> Result<(), Violation> {
    let event_header = |opcode| Header { opcode: opcode as u16, flags: HeaderFlags::EVENT, seq: 0 };
    match event {
        Event::Epitaph(epitaph) => {
            message(out, event_header(Opcode::Epitaph), |out| put(epitaph, out))
        }
        Event::Hang(hang) => message(out, event_header(Opcode::Hang), |out| put(hang, out)),
    }
}

/// Decodes an event's body.
///
/// # Errors
/// As [`Request::decode`].
pub fn decode_event(opcode: u16, body: &[u8]) -> Result<Event, Violation> {
    match Opcode::from_u16(opcode) {
        Some(Opcode::Epitaph) => get(body).map(Event::Epitaph),
        Some(Opcode::Hang) => get(body).map(Event::Hang),
        Some(_) | None => Err(Violation::UnknownOpcode),
    }
}

/// Replaces the fds of a message by other values, in the order of the fields; the way fds are
/// taken out before encoding and put in after decoding.
pub trait MapFds<From> {
    /// The same message over another fd type.
    type Over<To>;

    /// Maps every fd; the first error ends it.
    ///
    /// # Errors
    /// Whatever `f` answers.
    fn map_fds<To, E>(self, f: impl FnMut(From) -> Result<To, E>) -> Result<Self::Over<To>, E>;
}

impl<Fd> MapFds<Fd> for Request<Fd> {
    type Over<To> = Request<To>;

    fn map_fds<To, E>(self, mut f: impl FnMut(Fd) -> Result<To, E>) -> Result<Request<To>, E> {
        Ok(match self {
            Self::Hello(body) => Request::Hello(body),
            Self::Ping(Ping { payload, fd }) => {
                Request::Ping(Ping { payload, fd: fd.map(&mut f).transpose()? })
            }
            Self::DeviceQuery => Request::DeviceQuery,
            Self::Status(body) => Request::Status(body),
            Self::Confinement => Request::Confinement,
            Self::Usage(body) => Request::Usage(body),
            Self::Identity(body) => Request::Identity(body),
            Self::AdminDrain(body) => Request::AdminDrain(body),
            Self::AdminRevoke(body) => Request::AdminRevoke(body),
            Self::AdminLimit(body) => Request::AdminLimit(body),
            Self::AdminClasses => Request::AdminClasses,
            Self::ContextCreate(body) => Request::ContextCreate(body),
            Self::ContextDestroy(body) => Request::ContextDestroy(body),
            Self::ContextSetParam(body) => Request::ContextSetParam(body),
            Self::ContextGetParam(body) => Request::ContextGetParam(body),
            Self::ContextResetStats(body) => Request::ContextResetStats(body),
            Self::VmCreate(body) => Request::VmCreate(body),
            Self::VmDestroy(body) => Request::VmDestroy(body),
            Self::BufferCreate(body) => Request::BufferCreate(body),
            Self::BufferMap(body) => Request::BufferMap(body),
            Self::BufferClose(body) => Request::BufferClose(body),
            Self::BufferBusy(body) => Request::BufferBusy(body),
            Self::BufferWait(body) => Request::BufferWait(body),
            Self::FenceStatus(FenceStatusQuery { fd }) => {
                Request::FenceStatus(FenceStatusQuery { fd: f(fd)? })
            }
            Self::FenceMerge(FenceMerge { first, second }) => {
                Request::FenceMerge(FenceMerge { first: f(first)?, second: f(second)? })
            }
            Self::GetParam(body) => Request::GetParam(body),
            Self::Query(body) => Request::Query(body),
            Self::GetAperture => Request::GetAperture,
            Self::Throttle => Request::Throttle,
            Self::RegRead(body) => Request::RegRead(body),
            Self::BufferSetDomain(body) => Request::BufferSetDomain(body),
            Self::BufferAccess(body) => Request::BufferAccess(body),
            Self::BufferSetCaching(body) => Request::BufferSetCaching(body),
            Self::BufferGetCaching(body) => Request::BufferGetCaching(body),
            Self::BufferSetTiling(body) => Request::BufferSetTiling(body),
            Self::BufferGetTiling(body) => Request::BufferGetTiling(body),
            Self::BufferMadvise(body) => Request::BufferMadvise(body),
            Self::BufferExport(body) => Request::BufferExport(body),
            Self::BufferImport(BufferImport { fd }) => {
                Request::BufferImport(BufferImport { fd: f(fd)? })
            }
            Self::UserptrCreate(UserptrCreate { memfd, offset, length, flags }) => {
                Request::UserptrCreate(UserptrCreate { memfd: f(memfd)?, offset, length, flags })
            }
            Self::UserptrInvalidate(body) => Request::UserptrInvalidate(body),
            Self::SyncobjCreate(body) => Request::SyncobjCreate(body),
            Self::SyncobjDestroy(body) => Request::SyncobjDestroy(body),
            Self::SyncobjReset(body) => Request::SyncobjReset(body),
            Self::SyncobjSignal(body) => Request::SyncobjSignal(body),
            Self::SyncobjWait(body) => Request::SyncobjWait(body),
            Self::SyncobjTimelineSignal(body) => Request::SyncobjTimelineSignal(body),
            Self::SyncobjQuery(body) => Request::SyncobjQuery(body),
            Self::SyncobjTransfer(body) => Request::SyncobjTransfer(body),
            Self::SyncobjExport(body) => Request::SyncobjExport(body),
            Self::SyncobjImport(SyncobjImport { syncobj, flags, point, fd }) => {
                Request::SyncobjImport(SyncobjImport { syncobj, flags, point, fd: f(fd)? })
            }
            Self::HangList(body) => Request::HangList(body),
            Self::HangShow(body) => Request::HangShow(body),
            Self::HangRead(body) => Request::HangRead(body),
        })
    }
}

impl<Fd> MapFds<Fd> for Reply<Fd> {
    type Over<To> = Reply<To>;

    fn map_fds<To, E>(self, mut f: impl FnMut(Fd) -> Result<To, E>) -> Result<Reply<To>, E> {
        Ok(match self {
            Self::Hello(body) => Reply::Hello(body),
            Self::Ping(Ping { payload, fd }) => {
                Reply::Ping(Ping { payload, fd: fd.map(&mut f).transpose()? })
            }
            Self::DeviceQuery(body) => Reply::DeviceQuery(body),
            Self::Status(body) => Reply::Status(body),
            Self::Confinement(body) => Reply::Confinement(body),
            Self::Usage(body) => Reply::Usage(body),
            Self::Identity(body) => Reply::Identity(body),
            Self::AdminDrain(body) => Reply::AdminDrain(body),
            Self::AdminRevoke => Reply::AdminRevoke,
            Self::AdminLimit(body) => Reply::AdminLimit(body),
            Self::AdminClasses(body) => Reply::AdminClasses(body),
            Self::ContextCreate(body) => Reply::ContextCreate(body),
            Self::ContextDestroy => Reply::ContextDestroy,
            Self::ContextSetParam(body) => Reply::ContextSetParam(body),
            Self::ContextGetParam(body) => Reply::ContextGetParam(body),
            Self::ContextResetStats(body) => Reply::ContextResetStats(body),
            Self::VmCreate(body) => Reply::VmCreate(body),
            Self::VmDestroy => Reply::VmDestroy,
            Self::BufferCreate(body) => Reply::BufferCreate(body),
            Self::BufferMap(BufferMapped { offset, size, fd }) => {
                Reply::BufferMap(BufferMapped { offset, size, fd: f(fd)? })
            }
            Self::BufferClose => Reply::BufferClose,
            Self::BufferBusy(body) => Reply::BufferBusy(body),
            Self::BufferWait(body) => Reply::BufferWait(body),
            Self::Execbuf(ExecbufReply { offsets, fence }) => {
                Reply::Execbuf(ExecbufReply { offsets, fence: fence.map(&mut f).transpose()? })
            }
            Self::FenceStatus(body) => Reply::FenceStatus(body),
            Self::FenceMerge(Fence { fd }) => Reply::FenceMerge(Fence { fd: f(fd)? }),
            Self::GetParam(body) => Reply::GetParam(body),
            Self::Query(body) => Reply::Query(body),
            Self::GetAperture(body) => Reply::GetAperture(body),
            Self::Throttle => Reply::Throttle,
            Self::RegRead(body) => Reply::RegRead(body),
            Self::BufferSetDomain => Reply::BufferSetDomain,
            Self::BufferAccess => Reply::BufferAccess,
            Self::BufferSetCaching => Reply::BufferSetCaching,
            Self::BufferGetCaching(body) => Reply::BufferGetCaching(body),
            Self::BufferSetTiling(body) => Reply::BufferSetTiling(body),
            Self::BufferGetTiling(body) => Reply::BufferGetTiling(body),
            Self::BufferMadvise(body) => Reply::BufferMadvise(body),
            Self::BufferExport(BufferExported { fd }) => {
                Reply::BufferExport(BufferExported { fd: f(fd)? })
            }
            Self::BufferImport(body) => Reply::BufferImport(body),
            Self::UserptrCreate(body) => Reply::UserptrCreate(body),
            Self::UserptrInvalidate => Reply::UserptrInvalidate,
            Self::SyncobjCreate(body) => Reply::SyncobjCreate(body),
            Self::SyncobjDestroy => Reply::SyncobjDestroy,
            Self::SyncobjReset => Reply::SyncobjReset,
            Self::SyncobjSignal => Reply::SyncobjSignal,
            Self::SyncobjWait(body) => Reply::SyncobjWait(body),
            Self::SyncobjTimelineSignal => Reply::SyncobjTimelineSignal,
            Self::SyncobjQuery(body) => Reply::SyncobjQuery(body),
            Self::SyncobjTransfer => Reply::SyncobjTransfer,
            Self::SyncobjExport(SyncobjExported { fd }) => {
                Reply::SyncobjExport(SyncobjExported { fd: f(fd)? })
            }
            Self::SyncobjImport(body) => Reply::SyncobjImport(body),
            Self::HangList(body) => Reply::HangList(body),
            Self::HangShow(body) => Reply::HangShow(body),
            Self::HangRead(body) => Reply::HangRead(body),
        })
    }
}
