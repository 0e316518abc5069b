//! How many requests per second many clients get through together.
//!
//! [`execbuf_rate`] keeps one request of each client under way from a single thread, so that what
//! is measured is the daemon. [`execbuf_rate_of_threads`] has a blocking thread per client: there
//! the processor of the clients is soon busy with nothing but switching between them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use gpu_broker_client::protocol::{Header, HeaderFlags, Reply};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::failure::Failure;
use super::rig::Rig;
use super::stats::{Figure, median};
use super::work::{Work, submit};

/// Windows a measurement is divided into; the figure is the median of their rates.
const WINDOWS: u32 = 15;
const NO_WINDOW: Failure = Failure::Unexpected("there was no window to count in");
/// Bytes a reply is read into: an EXECBUF's with a few offsets, or a refusal.
const REPLY_BYTES: usize = 512;
/// Bytes of a client's stack: it only submits.
const STACK_BYTES: usize = 128 * 1024;

/// What the clients and the one who counts share.
#[derive(Default)]
struct Shared {
    submissions: AtomicU64,
    stop: AtomicBool,
}

type Client<'scope> = ScopedJoinHandle<'scope, Result<(), Failure>>;

/// EXECBUFs of an empty batch per second with one request under way in each of `clients` sessions,
/// all driven by the calling thread.
///
/// # Errors
/// The daemon failed or refused.
pub(super) fn execbuf_rate(rig: &Rig, clients: usize, time: Duration) -> Result<Figure, Failure> {
    let mut clients = prepare(rig, clients)?.into_iter().map(RawClient::new).collect::<Vec<_>>();
    let window = time / (WINDOWS + 1);
    let mut rates = Vec::new();
    for _ in 0..=WINDOWS {
        let began = Instant::now();
        let mut submitted = 0_u32;
        while began.elapsed() < window {
            for client in &mut clients {
                client.send()?;
            }
            for client in &mut clients {
                client.receive()?;
                submitted += 1;
            }
        }
        rates.push(f64::from(submitted) / began.elapsed().as_secs_f64());
    }
    // The first window fills caches, and does not count.
    let value = rates.get(1..).and_then(median).ok_or(NO_WINDOW)?;
    Ok(Figure { value, ratio: None })
}

/// A client that sends and receives in two steps, which the client library does not offer.
struct RawClient {
    work: Work,
    seq: u32,
    packet: Vec<u8>,
}

impl RawClient {
    const fn new(work: Work) -> Self {
        Self { work, seq: 1 << 31, packet: Vec::new() }
    }

    fn send(&mut self) -> Result<(), Failure> {
        self.seq = self.seq.wrapping_add(1);
        self.work.encode(self.seq, &mut self.packet)?;
        send(self.work.connection(), &self.packet, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(Failure::io("sending EXECBUF"))
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let mut packet = [0; REPLY_BYTES];
        let (_, bytes) = recv(self.work.connection(), &mut packet[..], RecvFlags::empty())
            .map_err(Failure::io("receiving a reply to EXECBUF"))?;
        let (header, body) = Header::split(packet.get(..bytes).unwrap_or_default())
            .map_err(|_| Failure::Unexpected("the daemon sent no message"))?;
        if header.flags != HeaderFlags::REPLY || header.seq != self.seq {
            return Err(Failure::Unexpected("the daemon refused an EXECBUF"));
        }
        match Reply::decode(header.opcode, body) {
            Ok(Reply::Execbuf(_)) => Ok(()),
            _ => Err(Failure::Unexpected("the reply to an EXECBUF is another message")),
        }
    }
}

fn prepare(rig: &Rig, clients: usize) -> Result<Vec<Work>, Failure> {
    (0..clients).map(|_| Work::prepare(&rig.connect()?, 1)).collect()
}

/// EXECBUFs of an empty batch per second with `clients` blocking clients, one thread and one
/// session each, on the processor of the calling thread.
///
/// # Errors
/// A client failed.
pub(super) fn execbuf_rate_of_threads(
    rig: &Rig,
    clients: usize,
    time: Duration,
) -> Result<Figure, Failure> {
    let works = prepare(rig, clients)?;
    let shared = Shared::default();
    let rates = thread::scope(|scope| {
        let started: Result<Vec<_>, _> =
            works.iter().map(|work| start_client(scope, work, &shared)).collect();
        let rates = if started.is_ok() { count(&shared, time) } else { Vec::new() };
        // Also when a thread could not be started: those that were must end before the scope does.
        shared.stop.store(true, Ordering::Relaxed);
        started?.into_iter().try_for_each(join)?;
        Ok::<_, Failure>(rates)
    })?;
    let value = median(&rates).ok_or(NO_WINDOW)?;
    Ok(Figure { value, ratio: None })
}

fn start_client<'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: &'scope Work,
    shared: &'scope Shared,
) -> Result<Client<'scope>, Failure> {
    thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn_scoped(scope, || submit_until_stopped(work, shared))
        .map_err(Failure::io("starting a client's thread"))
}

fn join(client: Client<'_>) -> Result<(), Failure> {
    client.join().unwrap_or(Err(Failure::Unexpected("a client's thread panicked")))
}

fn submit_until_stopped(work: &Work, shared: &Shared) -> Result<(), Failure> {
    let mut execbuf = work.execbuf()?;
    while !shared.stop.load(Ordering::Relaxed) {
        submit(&mut execbuf)?;
        shared.submissions.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Submissions per second in each window.
fn count(shared: &Shared, time: Duration) -> Vec<f64> {
    let window = time / (WINDOWS + 1);
    // The first window is the clients' start, and does not count.
    thread::sleep(window);
    let mut last = shared.submissions.load(Ordering::Relaxed);
    let mut began = Instant::now();
    let mut rates = Vec::new();
    for _ in 0..WINDOWS {
        thread::sleep(window);
        let now = Instant::now();
        let sum = shared.submissions.load(Ordering::Relaxed);
        let submitted = u32::try_from(sum - last).unwrap_or(u32::MAX);
        rates.push(f64::from(submitted) / (now - began).as_secs_f64());
        (last, began) = (sum, now);
    }
    rates
}
