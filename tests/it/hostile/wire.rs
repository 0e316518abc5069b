//! Messages that are not messages.

use gpu_broker_protocol::codec::encode_body;
use gpu_broker_protocol::execbuf::{FIXED_BYTES, OBJECT_BYTES};
use gpu_broker_protocol::limits::{CLIENT_NAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use gpu_broker_protocol::message::{ContextParamRequest, Hello};
use gpu_broker_protocol::param::ContextParam;
use gpu_broker_protocol::{ContextId, EpitaphCode, Header, Opcode, Reply, Request, version};
use gpu_broker_tests::{Builder, Daemon, Message, Raw, raw, samples};

use super::attack;

/// Sends the packet in a session of its own and demands this epitaph, and then the end.
#[track_caller]
fn dies_of(daemon: &Daemon, packet: &[u8], code: EpitaphCode) {
    let client = daemon.client("violator");
    client.send(packet, &[]).expect("the daemon has not hung up yet");
    let epitaph = client.receive().epitaph();
    assert_eq!(epitaph.code, code, "{}", epitaph.text);
    assert!(!epitaph.text.is_empty(), "an epitaph has a sentence for people");
    assert!(matches!(client.receive(), Message::Closed), "after an epitaph nothing comes");
}

fn packet(opcode: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Header { opcode, flags, seq: 77 }.to_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn packets_without_a_whole_header() {
    attack(Builder::new(), |daemon| {
        for length in 1..8 {
            dies_of(daemon, &vec![0; length], EpitaphCode::Malformed);
        }
    });
}

/// To a SEQPACKET reader an empty packet looks like the end of the connection.
#[test]
fn an_empty_packet_ends_the_session() {
    attack(Builder::new(), |daemon| {
        let client = daemon.client("empty");
        client.send(&[], &[]).expect("the kernel lets an empty packet through");
        assert!(matches!(client.receive(), Message::Closed | Message::Epitaph(_)));
    });
}

#[test]
fn unknown_opcodes() {
    attack(Builder::new(), |daemon| {
        let epitaph = Opcode::Epitaph as u16;
        for opcode in [0, 0x00ff, 0x0100, 0x03ff, 0x0402, epitaph, 0x7fff, u16::MAX] {
            dies_of(daemon, &packet(opcode, 0, &[]), EpitaphCode::UnknownOpcode);
            dies_of(daemon, &packet(opcode, 0, &[1; 64]), EpitaphCode::UnknownOpcode);
        }
    });
}

#[test]
fn flags_that_only_the_daemon_sets() {
    attack(Builder::new(), |daemon| {
        for flags in [1, 2, 3, 4, 0x8000, u16::MAX] {
            dies_of(
                daemon,
                &packet(Opcode::DeviceQuery as u16, flags, &[]),
                EpitaphCode::Malformed,
            );
        }
    });
}

#[test]
fn bodies_that_are_too_short_or_too_long() {
    attack(Builder::new(), |daemon| {
        for request in samples::requests() {
            let whole = raw::encoded(77, request, &mut Vec::new());
            let mut long = whole.clone();
            long.push(0);
            dies_of(daemon, &long, EpitaphCode::Malformed);
            // Every cut between the header and the end.
            for length in 8..whole.len() {
                let cut = whole.get(..length).expect("shorter than the whole");
                dies_of(daemon, cut, EpitaphCode::Malformed);
            }
        }
    });
}

#[test]
fn values_that_their_type_does_not_have() {
    attack(Builder::new(), |daemon| {
        let ping = |option: u8| [7_u64.to_le_bytes().as_slice(), &[option]].concat();
        // An Option is 0 or 1; an enum has as many variants as it has.
        dies_of(daemon, &packet(Opcode::Ping as u16, 0, &ping(2)), EpitaphCode::Malformed);
        let mut param = encode_body(&ContextParamRequest {
            context: ContextId(0),
            param: ContextParam::priority(0),
        })
        .expect("encodes");
        // context u32, param u64, size u32, then the variant of the payload.
        param[16..20].copy_from_slice(&9_u32.to_le_bytes());
        dies_of(daemon, &packet(Opcode::ContextSetParam as u16, 0, &param), EpitaphCode::Malformed);
        // A name that is not UTF-8.
        let mut hello = encode_body(&raw::hello("abc")).expect("encodes");
        *hello.last_mut().expect("it has a name") = 0xff;
        let client = Raw::connect(daemon.socket()).expect("it listens");
        client.send(&packet(Opcode::Hello as u16, 0, &hello), &[]).expect("it listens");
        assert_eq!(client.receive().epitaph().code, EpitaphCode::Malformed);
    });
}

/// A length that promises more than the message holds must not make the daemon allocate it.
#[test]
fn lengths_that_promise_the_world() {
    attack(Builder::new(), |daemon| {
        for length in [2_u64, 1 << 16, 1 << 32, 1 << 40, u64::MAX / 64, u64::MAX] {
            let body = [[0; 4].as_slice(), &length.to_le_bytes()].concat();
            for opcode in [Opcode::ContextCreate, Opcode::VmCreate] {
                dies_of(daemon, &packet(opcode as u16, 0, &body), EpitaphCode::Malformed);
            }
        }
        for count in [1_u32, 2, 1024, u32::MAX] {
            let mut body = vec![0; FIXED_BYTES + OBJECT_BYTES * 3];
            body[4..8].copy_from_slice(&count.to_le_bytes());
            dies_of(daemon, &packet(Opcode::Execbuf as u16, 0, &body), EpitaphCode::Malformed);
        }
    });
}

#[test]
fn reserved_fields_of_execbuf() {
    attack(Builder::new(), |daemon| {
        for at in [36, 40, 44, FIXED_BYTES + 40] {
            let mut body = vec![0; FIXED_BYTES + OBJECT_BYTES];
            body[4] = 1;
            body[at] = 1;
            dies_of(daemon, &packet(Opcode::Execbuf as u16, 0, &body), EpitaphCode::Malformed);
        }
    });
}

#[test]
fn messages_above_the_limit() {
    attack(Builder::new(), |daemon| {
        for length in [MESSAGE_BYTES_MAX + 1, MESSAGE_BYTES_MAX * 2] {
            let body = vec![0; length - 8];
            dies_of(daemon, &packet(Opcode::Ping as u16, 0, &body), EpitaphCode::TooLong);
        }
        // At the limit it is read, and its content judged.
        let body = vec![0; MESSAGE_BYTES_MAX - 8];
        dies_of(daemon, &packet(Opcode::Ping as u16, 0, &body), EpitaphCode::Malformed);
    });
}

#[test]
fn versions_that_nobody_speaks() {
    attack(Builder::new(), |daemon| {
        let good = raw::hello("version");
        let newest = version::MINOR_MAX;
        for wrong in [
            Hello { major: version::MAJOR + 1, ..good.clone() },
            Hello { major: 0, ..good.clone() },
            Hello { minor_min: newest + 1, minor_max: u16::MAX, ..good.clone() },
            Hello { minor_min: newest + 1, minor_max: 0, ..good.clone() },
        ] {
            let mut client = Raw::connect(daemon.socket()).expect("it listens");
            let refusal = client.call(Request::Hello(wrong)).refusal();
            assert_eq!(refusal.name, "version-unsupported");
            assert_eq!(refusal.errno, 93, "EPROTONOSUPPORT");
        }
        // A client from the future offers what we have among more, and bits nobody knows.
        let future = Hello { minor_max: u16::MAX, features: u64::MAX, ..good };
        let mut client = Raw::connect(daemon.socket()).expect("it listens");
        let Reply::Hello(reply) = client.call(Request::Hello(future)).reply() else {
            panic!("HELLO was answered as something else")
        };
        assert_eq!(reply.minor, newest);
        assert_eq!(reply.features & !version::feature::ALL, 0, "bits that nobody knows");
    });
}

#[test]
fn hello_out_of_turn() {
    attack(Builder::new(), |daemon| {
        for request in samples::requests() {
            let mut client = Raw::connect(daemon.socket()).expect("it listens");
            assert_eq!(client.call(request).epitaph().code, EpitaphCode::Hello);
        }
        let mut twice = daemon.client("twice");
        let again = twice.call(Request::Hello(raw::hello("again")));
        assert_eq!(again.epitaph().code, EpitaphCode::Hello);
    });
}

#[test]
fn names_that_do_not_belong_in_a_log() {
    attack(Builder::new(), |daemon| {
        let long = "n".repeat(CLIENT_NAME_BYTES_MAX + 1);
        for name in [long.as_str(), "line\nfeed", "\u{1b}[31mred", "nul\0"] {
            let mut client = Raw::connect(daemon.socket()).expect("it listens");
            let refusal = client.call(Request::Hello(raw::hello(name))).refusal();
            assert_eq!(refusal.name, "client-name", "{name:?}");
        }
        assert!(!daemon.log().contains('\u{1b}'), "a client wrote an escape into the log");
        let longest = "n".repeat(CLIENT_NAME_BYTES_MAX);
        drop(daemon.client(&longest));
    });
}

/// Bytes from a generator with a printed seed, as packets of their own and as bodies of every
/// opcode: the daemon answers or hangs up, each time.
#[test]
fn noise() {
    let seed = seed();
    eprintln!("seed {seed:#x}; repeat with NOISE_SEED={seed}");
    attack(Builder::new(), |daemon| {
        let mut noise = Noise(seed);
        for round in 0..400 {
            let mut client = daemon.client("noise");
            let length = noise.below(200);
            let bytes: Vec<u8> = (0..length).map(|_| noise.byte()).collect();
            let opcode = Opcode::ALL[noise.below(Opcode::ALL.len())];
            let sent = if round % 4 == 0 {
                client.send(&bytes, &[])
            } else {
                client.send_body(opcode as u16, &bytes, &[])
            };
            sent.expect("the daemon has not hung up yet");
            let _answer = client.receive();
        }
    });
}

fn seed() -> u64 {
    let given = std::env::var("NOISE_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(now.expect("after 1970").as_nanos() & u128::from(u64::MAX)).expect("masked")
    })
}

/// SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Mostly small numbers: they get past more checks than large ones.
    fn byte(&mut self) -> u8 {
        let word = self.next();
        let byte = word.to_le_bytes()[0];
        if word & 0x300 == 0 { byte } else { byte & 1 }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).expect("64 bits")).expect("small")
    }
}
