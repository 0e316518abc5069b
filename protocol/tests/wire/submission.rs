//! An EXECBUF as the tests hold it: encoded and decoded it must be the same.

use gpu_broker_protocol::execbuf::{
    ExecExtension, ExecFence, ExecObject, ExecPoint, Execbuf, ExecbufHead, ExecbufLists, Relocation,
};
use gpu_broker_protocol::{Violation, codec};

/// The head and every list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Submission {
    pub(crate) head: ExecbufHead,
    pub(crate) objects: Vec<ExecObject>,
    pub(crate) fences: Vec<ExecFence>,
    pub(crate) extensions: Vec<ExecExtension>,
    pub(crate) points: Vec<ExecPoint>,
    pub(crate) relocations: Vec<Relocation>,
}

impl Submission {
    /// The whole message.
    pub(crate) fn encode(&self, seq: u32, out: &mut Vec<u8>) -> Result<(), Violation> {
        let lists = ExecbufLists {
            objects: &self.objects,
            fences: &self.fences,
            extensions: &self.extensions,
            points: &self.points,
            relocations: &self.relocations,
        };
        codec::encode_execbuf(seq, &self.head, &lists, out)
    }

    /// The inverse, of a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Violation> {
        let execbuf = Execbuf::decode(body)?;
        let decoded = Self {
            head: execbuf.head,
            objects: execbuf.objects().collect(),
            fences: execbuf.fences().collect(),
            extensions: execbuf.extensions().collect(),
            points: execbuf.points().collect(),
            relocations: execbuf.relocations().collect(),
        };
        assert_eq!(execbuf.object_count(), decoded.objects.len());
        assert_eq!(execbuf.context().0, decoded.head.context);
        Ok(decoded)
    }
}
