//! Where completions of sockets go.

use std::any::Any;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use slab::Slab;

use super::Shared;
use crate::buffer::Buffer;
use crate::port::{Accepted, Association, Completion, CompletionKind, Handle, OperationId, Source};

/// What sockets do with their completions. A handle whose context is an `Arc<dyn Respond>` has its
/// completions dispatched to it.
pub(crate) trait Respond: Send + Sync {
    /// Stores what came and wakes whoever waits. Called by one worker at a time and in order, as
    /// the handle is serial. Must not block: the task that it wakes runs only afterwards.
    fn respond(&self, handle: &Handle, event: Event);

    /// The runtime has been dropped, and nothing more will come: wakes whoever still waits, which
    /// can only be code that other runtimes run.
    fn abandon(&self);
}

/// A completion, taken apart.
pub(crate) struct Event {
    pub(crate) kind: CompletionKind,
    pub(crate) token: usize,
    pub(crate) id: OperationId,
    pub(crate) is_final: bool,
    pub(crate) bytes: usize,
    pub(crate) result: io::Result<usize>,
    pub(crate) buffer: Option<Buffer>,
    pub(crate) accepted: Option<Accepted>,
}

impl Event {
    pub(super) fn take_from(completion: &mut Completion) -> Self {
        Event {
            kind: completion.kind(),
            token: completion.token(),
            id: completion.id(),
            is_final: completion.is_final(),
            bytes: completion.bytes(),
            result: completion.result(),
            buffer: completion.take_buffer(),
            accepted: completion.take_accepted(),
        }
    }
}

/// What responds, of sockets that have not been forgotten; `None` once the runtime is dropped.
pub(super) struct Responders(Mutex<Option<Slab<Weak<dyn Respond>>>>);

impl Default for Responders {
    fn default() -> Self {
        Responders(Mutex::new(Some(Slab::new())))
    }
}

impl Responders {
    /// Tells all that the runtime is gone.
    pub(super) fn abandon(&self) {
        let responders = self.0.lock().take();
        for (_, responder) in responders.into_iter().flatten() {
            if let Some(responder) = responder.upgrade() {
                responder.abandon();
            }
        }
    }
}

impl Shared {
    /// Associates a source with the port, so that its completions go to `responder`. Returns the
    /// handle and the number under which the responder is to be [forgotten](Self::forget).
    pub(crate) fn associate(
        &self,
        source: impl Into<Source>,
        responder: Arc<dyn Respond>,
    ) -> io::Result<(Handle, usize)> {
        let weak = Arc::downgrade(&responder);
        // A context is found again by its type, and so has one: the trait object in an `Arc`.
        let context: Arc<dyn Any + Send + Sync> = Arc::new(responder);
        let association = Association::new(0).serial(true).context(context);
        let handle = self.port.associate_with(source, association)?;
        // A runtime that is being dropped has closed the port, and needs no number.
        let number = self
            .responders
            .0
            .lock()
            .as_mut()
            .map_or(0, |responders| responders.insert(weak));
        Ok((handle, number))
    }

    /// Takes a responder off the list. Called once, when it is dropped.
    pub(crate) fn forget(&self, number: usize) {
        if let Some(responders) = &mut *self.responders.0.lock() {
            responders.try_remove(number);
        }
    }
}
