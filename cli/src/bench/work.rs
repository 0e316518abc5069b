//! The smallest work a client can submit.

use gpu_broker_client::protocol::execbuf::{ExecObject, ExecbufHead, ExecbufLists, flag};
use gpu_broker_client::protocol::{BufferId, codec};
use gpu_broker_client::{Buffer, Connection, Context, Execbuf};

use super::failure::Failure;

/// `MI_BATCH_BUFFER_END`.
const BATCH_END: u32 = 0x0500_0000;
const NO_BUFFER: Failure = Failure::Unexpected("there is no buffer to submit");
/// Bytes of every buffer.
const BUFFER_BYTES: u64 = 4096;

/// A context and buffers, the last of which holds an empty batch.
pub(super) struct Work {
    connection: Connection,
    context: Context,
    buffers: Vec<Buffer>,
}

impl Work {
    /// Makes a context and `count` buffers, at least one, and submits once.
    ///
    /// # Errors
    /// The daemon refused.
    pub(super) fn prepare(connection: &Connection, count: usize) -> Result<Self, Failure> {
        let context = connection.context().create().map_err(Failure::broker("CONTEXT_CREATE"))?;
        let buffers = (0..count.max(1))
            .map(|_| connection.create_buffer(BUFFER_BYTES))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Failure::broker("BUFFER_CREATE"))?;
        let work = Self { connection: connection.clone(), context, buffers };
        let mapping = work.batch()?.map().map_err(Failure::broker("mapping the batch"))?;
        mapping.store_u32(0, BATCH_END).map_err(Failure::broker("writing the batch"))?;
        // The context goes live and the buffers get their addresses before anything is measured.
        submit(&mut work.execbuf()?)?;
        Ok(work)
    }

    /// The session it belongs to.
    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The buffers' handles, the batch's last.
    pub(super) fn handles(&self) -> impl Iterator<Item = u32> {
        self.buffers.iter().map(|buffer| buffer.handle().0)
    }

    /// The context.
    pub(super) const fn context(&self) -> &Context {
        &self.context
    }

    /// An EXECBUF with all buffers, to be submitted any number of times.
    ///
    /// # Errors
    /// There is no buffer.
    pub(super) fn execbuf(&self) -> Result<Execbuf<'_>, Failure> {
        let (batch, others) = self.buffers.split_last().ok_or(NO_BUFFER)?;
        let execbuf = others.iter().fold(self.context.execbuf(), Execbuf::object);
        Ok(execbuf.batch(batch))
    }

    /// An EXECBUF with this buffer and the batch.
    ///
    /// # Errors
    /// There is no buffer.
    pub(super) fn execbuf_with(&self, buffer: BufferId) -> Result<Execbuf<'_>, Failure> {
        Ok(self.context.execbuf().object(buffer).batch(self.batch()?))
    }

    /// The packet of one EXECBUF with the batch alone, for those who send it themselves.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub(super) fn encode(&self, seq: u32, packet: &mut Vec<u8>) -> Result<(), Failure> {
        packet.clear();
        let head = ExecbufHead {
            context: self.context.id().0,
            flags: flag::NO_RELOC,
            ..ExecbufHead::default()
        };
        let batch = ExecObject { handle: self.batch()?.handle().0, ..ExecObject::default() };
        let lists = ExecbufLists { objects: &[batch], ..ExecbufLists::default() };
        codec::encode_execbuf(seq, &head, &lists, packet)
            .map_err(|_| Failure::Unexpected("an EXECBUF could not be encoded"))
    }

    pub(super) fn batch(&self) -> Result<&Buffer, Failure> {
        self.buffers.last().ok_or(NO_BUFFER)
    }
}

/// Submits once.
///
/// # Errors
/// The daemon refused.
pub(super) fn submit(execbuf: &mut Execbuf<'_>) -> Result<(), Failure> {
    execbuf.submit().map(drop).map_err(Failure::broker("EXECBUF"))
}
