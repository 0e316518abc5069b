//! Control messages as bytes: bincode with fixed-width little-endian integers.
//!
//! bincode is no longer maintained, so it is used here and nowhere else, always with a limit on
//! what it may allocate; a test compares its bytes with another implementation of the format.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::AdminListen;
use crate::execbuf;
use crate::execlist::ExecbufList;
use crate::header::{Header, HeaderFlags, Opcode};
use crate::limits::BODY_BYTES_MAX;
use crate::message::*;
use crate::object::*;
use crate::refusal::{Refusal, RefusalBody};
use crate::shared_status::SharedStatus;
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
            /// [`Violation::UnknownOpcode`] for EXECBUF and EXECBUF_LIST (see [`crate::execbuf`] and
            /// [`crate::execlist`]), events and numbers without a meaning; [`Violation::Short`],
            /// [`Violation::Trailing`] or [`Violation::Malformed`] for bodies that are not exactly
            /// what the opcode says.
            pub fn decode(opcode: u16, body: &[u8]) -> Result<Self, Violation> {
                match Opcode::from_u16(opcode) {
                    $(Some(Opcode::$name) => control_messages!(@get Request $name $request body),)*
                    Some(
                        Opcode::Execbuf
                        | Opcode::ExecbufList
                        | Opcode::Epitaph
                        | Opcode::Hang
                        | Opcode::AdminEvent,
                    )
                    | None => Err(Violation::UnknownOpcode),
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
                    Reply::ExecbufList(_) => Opcode::ExecbufList,
                }
            }
        }

        impl<Fd: Serialize> Reply<Fd> {
            fn put(&self, out: &mut Vec<u8>) -> Result<(), Violation> {
                match self {
                    $(control_messages!(@reply_bind $name $reply body) =>
                        control_messages!(@put $reply body out),)*
                    Reply::Execbuf(reply) | Reply::ExecbufList(reply) => {
                        execbuf::encode_reply(reply, out);
                        Ok(())
                    }
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
                    Some(Opcode::ExecbufList) =>
                        execbuf::decode_reply(body).map(Reply::ExecbufList),
                    Some(Opcode::Epitaph | Opcode::Hang | Opcode::AdminEvent) | None =>
                        Err(Violation::UnknownOpcode),
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
    AdminList: body -> body;
    AdminInspect: body -> body;
    AdminEvents: body -> none;
    AdminListen: body -> none;
    AdminListeners: none -> body;
    AdminTrace: body -> body;
    AdminTraceRead: body -> body;
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
    SharedStatus: none -> body;
    FenceStatus: body -> body;
    FenceMerge: body -> body;
    BufferFenceExport: body -> body;
    BufferFenceImport: body -> none;
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

/// Appends an EXECBUF_LIST as a whole message.
///
/// # Errors
/// [`Violation::TooLong`] when it does not fit in a message.
pub fn encode_execbuf_list(
    seq: u32,
    request: &ExecbufList<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Violation> {
    let header = Header { opcode: Opcode::ExecbufList as u16, flags: 0, seq };
    message(out, header, |out| {
        request.encode(out);
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
        Event::Admin(event) => {
            message(out, event_header(Opcode::AdminEvent), |out| put(event, out))
        }
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
        Some(Opcode::AdminEvent) => get(body).map(Event::Admin),
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

/// A message over another fd type: those that have a body without fds, those that have none, and an
/// arm for each of the others.
macro_rules! over {
    ($message:expr => $to:ident; bodies $($body:ident)*; empty $($empty:ident)*;
     $($pattern:pat => $mapped:expr),* $(,)?) => {
        Ok(match $message {
            $(Self::$body(body) => $to::$body(body),)*
            $(Self::$empty => $to::$empty,)*
            $($pattern => $mapped,)*
        })
    };
}

impl<Fd> MapFds<Fd> for Request<Fd> {
    type Over<To> = Request<To>;

    fn map_fds<To, E>(self, mut f: impl FnMut(Fd) -> Result<To, E>) -> Result<Request<To>, E> {
        over!(self => Request;
            bodies
            Hello Status Usage Identity AdminDrain AdminRevoke AdminLimit AdminList AdminInspect
            AdminEvents AdminTrace AdminTraceRead ContextCreate ContextDestroy ContextSetParam
            ContextGetParam ContextResetStats VmCreate VmDestroy BufferCreate BufferMap
            BufferClose BufferBusy BufferWait GetParam Query RegRead BufferSetDomain BufferAccess
            BufferSetCaching BufferGetCaching BufferSetTiling BufferGetTiling BufferMadvise
            BufferExport BufferFenceExport UserptrInvalidate SyncobjCreate SyncobjDestroy SyncobjReset
            SyncobjSignal SyncobjWait SyncobjTimelineSignal SyncobjQuery SyncobjTransfer
            SyncobjExport HangList HangShow HangRead;
            empty
            DeviceQuery Confinement AdminClasses AdminListeners SharedStatus GetAperture Throttle;
            Self::Ping(Ping { payload, fd }) => {
                Request::Ping(Ping { payload, fd: fd.map(&mut f).transpose()? })
            },
            Self::AdminListen(AdminListen { socket, close, name, class, app_id, instance_id }) => {
                let (socket, close) = (f(socket)?, f(close)?);
                let listen = AdminListen { socket, close, name, class, app_id, instance_id };
                Request::AdminListen(listen)
            },
            Self::FenceStatus(FenceStatusQuery { fd }) => {
                Request::FenceStatus(FenceStatusQuery { fd: f(fd)? })
            },
            Self::FenceMerge(FenceMerge { first, second }) => {
                Request::FenceMerge(FenceMerge { first: f(first)?, second: f(second)? })
            },
            Self::BufferFenceImport(BufferFenceImport { buffer, flags, fd }) => {
                Request::BufferFenceImport(BufferFenceImport { buffer, flags, fd: f(fd)? })
            },
            Self::BufferImport(BufferImport { fd }) => {
                Request::BufferImport(BufferImport { fd: f(fd)? })
            },
            Self::UserptrCreate(UserptrCreate { memfd, offset, length, flags }) => {
                Request::UserptrCreate(UserptrCreate { memfd: f(memfd)?, offset, length, flags })
            },
            Self::SyncobjImport(SyncobjImport { syncobj, flags, point, fd }) => {
                Request::SyncobjImport(SyncobjImport { syncobj, flags, point, fd: f(fd)? })
            }
        )
    }
}

impl<Fd> MapFds<Fd> for Reply<Fd> {
    type Over<To> = Reply<To>;

    fn map_fds<To, E>(self, mut f: impl FnMut(Fd) -> Result<To, E>) -> Result<Reply<To>, E> {
        over!(self => Reply;
            bodies
            Hello DeviceQuery Status Confinement Usage Identity AdminDrain AdminLimit
            AdminClasses AdminList AdminInspect AdminListeners AdminTrace AdminTraceRead
            ContextCreate ContextSetParam ContextGetParam ContextResetStats VmCreate BufferCreate
            BufferBusy BufferWait FenceStatus GetParam Query GetAperture RegRead BufferGetCaching
            BufferSetTiling BufferGetTiling BufferMadvise BufferImport UserptrCreate
            SyncobjCreate SyncobjWait SyncobjQuery SyncobjImport HangList HangShow HangRead;
            empty
            AdminRevoke AdminEvents AdminListen ContextDestroy VmDestroy BufferClose Throttle
            BufferSetDomain BufferAccess BufferSetCaching BufferFenceImport UserptrInvalidate SyncobjDestroy
            SyncobjReset SyncobjSignal SyncobjTimelineSignal SyncobjTransfer;
            Self::Ping(Ping { payload, fd }) => {
                Reply::Ping(Ping { payload, fd: fd.map(&mut f).transpose()? })
            },
            Self::BufferMap(BufferMapped { offset, size, fd }) => {
                Reply::BufferMap(BufferMapped { offset, size, fd: f(fd)? })
            },
            Self::Execbuf(ExecbufReply { offsets, fence }) => {
                Reply::Execbuf(ExecbufReply { offsets, fence: fence.map(&mut f).transpose()? })
            },
            Self::ExecbufList(ExecbufReply { offsets, fence }) => {
                Reply::ExecbufList(ExecbufReply { offsets, fence: fence.map(&mut f).transpose()? })
            },
            Self::SharedStatus(SharedStatus { fd }) => {
                Reply::SharedStatus(SharedStatus { fd: f(fd)? })
            },
            Self::FenceMerge(Fence { fd }) => Reply::FenceMerge(Fence { fd: f(fd)? }),
            Self::BufferFenceExport(Fence { fd }) => {
                Reply::BufferFenceExport(Fence { fd: f(fd)? })
            },
            Self::BufferExport(BufferExported { fd }) => {
                Reply::BufferExport(BufferExported { fd: f(fd)? })
            },
            Self::SyncobjExport(SyncobjExported { fd }) => {
                Reply::SyncobjExport(SyncobjExported { fd: f(fd)? })
            }
        )
    }
}
