//! What the completions of an operation say of it, whichever driver carries it.

use crate::port::{Completion, CompletionKind, Handle, OperationId, Payload};

/// Whose operation it is, under which token, and how much has been said of it.
#[derive(Default)]
pub(crate) struct Ticket {
    /// `None`: the driver's own.
    handle: Option<Handle>,
    token: usize,
    /// Completions given out so far.
    sequence: u32,
}

impl Ticket {
    pub(crate) fn new(handle: Option<Handle>, token: usize) -> Self {
        Ticket {
            handle,
            token,
            sequence: 0,
        }
    }

    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.handle.as_ref()
    }

    /// One completion of several.
    pub(crate) fn step(
        &mut self,
        id: OperationId,
        kind: CompletionKind,
        bytes: usize,
        payload: Payload,
    ) -> Completion {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let said = Ticket {
            handle: self.handle.clone(),
            token: self.token,
            sequence,
        };
        let mut completion = said.finish(id, kind, 0, bytes, payload);
        completion.last = false;
        completion
    }

    /// The final completion.
    pub(crate) fn finish(
        self,
        id: OperationId,
        kind: CompletionKind,
        code: i32,
        bytes: usize,
        payload: Payload,
    ) -> Completion {
        Completion {
            kind,
            last: true,
            code,
            sequence: self.sequence,
            bytes,
            key: self.handle.as_ref().map_or(0, |handle| handle.key()),
            token: self.token,
            id,
            payload,
            handle: self.handle,
        }
    }
}
