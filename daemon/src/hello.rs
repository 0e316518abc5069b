//! HELLO: version, features, a name, and a session.

use std::sync::Arc;

use gpu_broker_core::{Session, Time};
use gpu_broker_device::{Device, EventSink};
use gpu_broker_protocol::limits::CLIENT_NAME_BYTES_MAX;
use gpu_broker_protocol::message::{Hello, HelloReply};
use gpu_broker_protocol::version::{self, feature};
use gpu_broker_protocol::{Header, Opcode, Reason, Refusal, Request, Violation};

use crate::directory::{Entry, Named};
use crate::hands::{DeviceHands, refusal_of};
use crate::packet::Fds;
use crate::requests::{Fault, Open};
use crate::server::Server;
use crate::status::device_info;

/// Opens the session. A refusal leaves the connection where it was: the client may try again with
/// another version until its time is over.
pub(crate) fn open<D: Device>(
    server: &Arc<Server<D>>,
    entry: &Arc<Entry<D>>,
    now: Time,
    header: Header,
    body: &[u8],
    fds: &Fds,
) -> Result<(Open<D>, HelloReply), Fault> {
    if header.opcode != Opcode::Hello as u16 {
        return Err(Violation::HelloExpected.into());
    }
    let Request::Hello(hello) = Request::decode(header.opcode, body)? else {
        return Err(Violation::HelloExpected.into());
    };
    if !fds.is_empty() {
        return Err(Violation::FdCount.into());
    }
    let minor = negotiate(&hello)?;
    check_name(&hello.client_name)?;
    let config = server.config();
    let class = &entry.log.class;
    let capabilities = class.capabilities();
    let events: Arc<dyn EventSink> = Arc::clone(entry) as _;
    let file =
        server.device.open(events, class.share().clone()).map_err(|error| refusal_of(&error))?;
    let hands = DeviceHands::new(file, Arc::clone(entry) as _, server.clock);
    let session = Arc::new(Session::open(
        now,
        entry.id(),
        hands,
        Arc::clone(&server.registry),
        Arc::clone(&capabilities),
        Arc::clone(&class.account),
        config.session.for_core(),
    )?);
    entry.set_named(Named {
        client_name: hello.client_name.into(),
        since: now,
        hang_events: hello.features & feature::HANG_EVENTS != 0,
        session: Arc::downgrade(&session),
        in_flight: session.in_flight(),
    });
    let reply = HelloReply {
        major: version::MAJOR,
        minor,
        features: hello.features & features::<D>(),
        session: entry.id(),
        limits: config.session.for_hello(),
        device: device_info(&server.device.description(), &capabilities),
    };
    server.opened(entry);
    Ok((Open::new(session, capabilities, &config.session), reply))
}

/// What there is with this device.
const fn features<D: Device>() -> u64 {
    if D::BUFFER_FENCES { feature::ALL } else { feature::ALL & !feature::BUFFER_FENCES }
}

fn negotiate(hello: &Hello) -> Result<u16, Refusal> {
    version::negotiate(hello.major, hello.minor_min, hello.minor_max).ok_or_else(|| {
        Refusal::new(Reason::VersionUnsupported).with_detail(format!(
            "the daemon speaks {major}.{} to {major}.{}, the client {}.{} to {}.{}",
            version::MINOR_MIN,
            version::MINOR_MAX,
            hello.major,
            hello.minor_min,
            hello.major,
            hello.minor_max,
            major = version::MAJOR,
        ))
    })
}

/// Names go to logs and terminals, so nothing passes that would not print as itself.
fn check_name(name: &str) -> Result<(), Refusal> {
    let plain = name.replace(['\\', '"', '\''], "");
    let printable = plain.escape_debug().eq(plain.chars());
    if name.len() > CLIENT_NAME_BYTES_MAX || !printable {
        return Err(Reason::ClientName.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_print_as_themselves_are_refused() {
        for good in ["", "vkcube", "Mesa's \"iris\" \\o/", "Пример 例", "a\u{301}"] {
            check_name(good).expect(good);
        }
        let long = "x".repeat(CLIENT_NAME_BYTES_MAX + 1);
        for bad in ["a\nb", "\u{1b}[31m", "a\u{202e}b", "\0", "zero\u{200b}width", &long] {
            assert_eq!(check_name(bad).map_err(|refusal| refusal.reason), Err(Reason::ClientName));
        }
    }

    #[test]
    fn a_version_that_is_not_spoken_is_refused_with_the_range() {
        let hello = |major, minor_min, minor_max| Hello {
            major,
            minor_min,
            minor_max,
            features: 0,
            client_name: String::new(),
        };
        assert_eq!(negotiate(&hello(version::MAJOR, 0, 9)), Ok(version::MINOR_MAX));
        for (major, min, max) in [(version::MAJOR + 1, 0, 0), (version::MAJOR, 7, 9)] {
            let refusal = negotiate(&hello(major, min, max)).expect_err("not spoken");
            assert_eq!(refusal.reason, Reason::VersionUnsupported);
            assert!(refusal.sentence().contains("speaks 1.0 to 1.0"), "{}", refusal.sentence());
        }
    }
}
