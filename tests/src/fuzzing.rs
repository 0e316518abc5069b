//! What the fuzz targets do with their input; the tests do the same with the checked-in corpus.

use std::cell::RefCell;

use gpu_broker_protocol::codec::{decode_event, decode_refusal, encode_reply, encode_request};
use gpu_broker_protocol::execbuf::{Execbuf, ExecbufLists};
use gpu_broker_protocol::execlist::{ExecbufList, NOTHING};
use gpu_broker_protocol::header::Opcode;
use gpu_broker_protocol::{Header, HeaderFlags, Reply, Request};
use gpu_broker_soft_gpu::{Clock, ENGINES, Memory, MemoryFault, Stop, Streamer};

/// Decodes a packet in every way it can be meant. Whatever decodes must encode to the same bytes,
/// or two clients could mean different things by one message.
///
/// # Panics
/// When that does not hold.
pub fn decode(packet: &[u8]) {
    let Ok((header, body)) = Header::split(packet) else { return };
    if header.opcode == Opcode::Execbuf as u16
        && let Ok(execbuf) = Execbuf::decode(body)
    {
        let lists = ExecbufLists {
            objects: &execbuf.objects().collect::<Vec<_>>(),
            fences: &execbuf.fences().collect::<Vec<_>>(),
            extensions: &execbuf.extensions().collect::<Vec<_>>(),
            points: &execbuf.points().collect::<Vec<_>>(),
            relocations: &execbuf.relocations().collect::<Vec<_>>(),
        };
        let mut again = Vec::new();
        gpu_broker_protocol::execbuf::encode(&execbuf.head, &lists, &mut again);
        assert_eq!(again, body, "EXECBUF does not encode as it decoded");
    }
    if header.opcode == Opcode::ExecbufList as u16
        && let Ok(change) = ExecbufList::decode(body)
    {
        let mut again = Vec::new();
        change.encode(&mut again);
        assert_eq!(again, body, "EXECBUF_LIST does not encode as it decoded");
        let mut list = vec![0; body.len()];
        let begins = if change.head.base == NOTHING { 0 } else { list.len() };
        let fits = change.fits(begins);
        change.apply(&mut list);
        let length = change.head.length as usize;
        assert!(!fits || list.len() == length, "{} bytes, not {length}", list.len());
    }
    if let Ok(request) = Request::decode(header.opcode, body) {
        let mut again = Vec::new();
        if encode_request(header.seq, &request, &mut again).is_ok() {
            assert_eq!(again.get(8..), Some(body), "{request:?} does not encode as it decoded");
        }
    }
    if let Ok(reply) = Reply::decode(header.opcode, body) {
        let mut again = Vec::new();
        if encode_reply(header.seq, &reply, &mut again).is_ok() {
            assert_eq!(again.get(8..), Some(body), "{reply:?} does not encode as it decoded");
        }
    }
    if header.flags & HeaderFlags::EVENT != 0 {
        let _ = decode_event(header.opcode, body);
    }
    let _ = decode_refusal(body);
}

/// Bytes of memory at address 0 that a fuzzed batch lies in and may use; everything else is not
/// mapped.
const MAPPED_BYTES: usize = 64 * 1024;

/// Executes a batch: the first byte chooses the engine, the rest is at address 0. Whatever it is,
/// the streamer comes back, again and again if need be.
///
/// # Panics
/// When the streamer does, or when it goes on after the end.
pub fn execute(input: &[u8]) {
    let Some((engine, batch)) = input.split_first() else { return };
    let engine = &ENGINES[usize::from(*engine) % ENGINES.len()];
    let mut bytes = vec![0; MAPPED_BYTES];
    let length = batch.len().min(MAPPED_BYTES);
    bytes[..length].copy_from_slice(&batch[..length]);
    let memory = Page(RefCell::new(bytes));
    let mut streamer = Streamer::new(engine);
    streamer.start(0, u64::try_from(length).expect("64 KiB at most"));
    for _ in 0..64 {
        match streamer.run(&memory, &StoppedClock, 256) {
            Stop::Budget { .. } => {}
            Stop::Waiting(_) | Stop::Spinning { .. } | Stop::Done => return,
            Stop::Fault(fault) => {
                assert!(!fault.to_string().is_empty(), "a fault says what was wrong");
                return;
            }
        }
    }
}

struct Page(RefCell<Vec<u8>>);

struct StoppedClock;

impl Clock for StoppedClock {
    fn ticks(&self) -> u64 {
        12_345
    }
}

impl Page {
    fn range(&self, address: u64, length: usize, write: bool) -> Result<usize, MemoryFault> {
        assert_eq!(address >> 48, 0, "the streamer clears bits 63:48");
        let fault = MemoryFault { address, write };
        let start = usize::try_from(address).map_err(|_| fault)?;
        let end = start.checked_add(length).ok_or(fault)?;
        if end <= MAPPED_BYTES { Ok(start) } else { Err(fault) }
    }

    fn array<const N: usize>(&self, address: u64) -> Result<(usize, [u8; N]), MemoryFault> {
        assert!(address.is_multiple_of(N as u64), "atomics are naturally aligned");
        let start = self.range(address, N, true)?;
        let bytes = self.0.borrow();
        let mut array = [0; N];
        array.copy_from_slice(&bytes[start..start + N]);
        Ok((start, array))
    }

    fn replace(&self, start: usize, bytes: &[u8]) {
        self.0.borrow_mut()[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

impl Memory for Page {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        let start = self.range(address, into.len(), false)?;
        into.copy_from_slice(&self.0.borrow()[start..start + into.len()]);
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        let start = self.range(address, from.len(), true)?;
        self.replace(start, from);
        Ok(())
    }

    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Result<u32, MemoryFault> {
        let (start, bytes) = self.array(address)?;
        let old = u32::from_le_bytes(bytes);
        self.replace(start, &op(old).to_le_bytes());
        Ok(old)
    }

    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Result<u64, MemoryFault> {
        let (start, bytes) = self.array(address)?;
        let old = u64::from_le_bytes(bytes);
        self.replace(start, &op(old).to_le_bytes());
        Ok(old)
    }
}
