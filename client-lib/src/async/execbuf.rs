//! Submissions on a tokio runtime.

use std::os::fd::BorrowedFd;

use gpu_broker_protocol::execbuf::{
    ExecExtension, ExecFence, ExecObject, ExecPoint, ExecbufHead, ExecbufLists, Relocation,
};

use super::Context;
use crate::error::Error;
use crate::execbuf::{Execbuf, Submission};

/// A request that stays as it is while its future is polled.
struct Request<'a> {
    context: &'a Context,
    head: ExecbufHead,
    objects: Vec<ExecObject>,
    fences: Vec<ExecFence>,
    extensions: Vec<ExecExtension>,
    points: Vec<ExecPoint>,
    relocations: Vec<Relocation>,
    fence: Option<BorrowedFd<'a>>,
}

impl<'a> Execbuf<'a, Context> {
    /// Hands the work to the daemon, which answers as soon as it is queued.
    ///
    /// # Errors
    /// As [`Execbuf::<crate::Context>::submit`].
    pub async fn submit(&mut self) -> Result<Submission, Error> {
        let copy =
            |context: &'a Context, head: &ExecbufHead, lists: &ExecbufLists<'_>, fence| Request {
                context,
                head: *head,
                objects: lists.objects.to_vec(),
                fences: lists.fences.to_vec(),
                extensions: lists.extensions.to_vec(),
                points: lists.points.to_vec(),
                relocations: lists.relocations.to_vec(),
                fence,
            };
        let request = self.send_with(copy);
        let lists = ExecbufLists {
            objects: &request.objects,
            fences: &request.fences,
            extensions: &request.extensions,
            points: &request.points,
            relocations: &request.relocations,
        };
        let connection = request.context.connection();
        let reply = connection.execbuf(&request.head, &lists, request.fence).await?;
        Ok(Submission::new(reply))
    }
}
