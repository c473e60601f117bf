//! Where completions of sockets go.

use std::any::{Any, TypeId};
use std::io;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use slab::Slab;

use super::Shared;
use crate::buffer::Buffer;
use crate::port::{Accepted, Association, Completion, CompletionKind, Handle, Source};

/// What sockets do with their completions.
pub(crate) trait Respond: Send + Sync {
    /// Stores what came and wakes whoever waits. Called by one worker at a time and in order, as
    /// the handle is serial. Must not block: the task that it wakes runs only afterwards.
    fn respond(&self, handle: &Handle, event: Event<'_>);

    /// The runtime has been dropped, and nothing more will come: wakes whoever still waits, which
    /// can only be code that other runtimes run.
    fn abandon(&self);

    /// Ends the stream for a reader that finds nothing, if `observer` looks at this one.
    fn drain(&self, observer: &Arc<dyn Observer>) {
        let _ = observer;
    }
}

/// Told of what happens on sockets.
pub(crate) trait Observer: Send + Sync {
    fn received(&self, bytes: usize);
    fn sent(&self, bytes: usize);
    /// Neither the program nor the port refers to it any more.
    fn closed(&self);
}

/// A completion, and what it brought, taken out of it.
pub(crate) struct Event<'a> {
    pub(crate) completion: &'a Completion,
    pub(crate) buffer: Option<Buffer>,
    pub(crate) accepted: Option<Box<Accepted>>,
}

/// Types of responders that a runtime can have.
const MOST_KINDS: usize = 8;

/// Calls the responder that a handle has as its context.
type Dispatch = fn(&(dyn Any + Send + Sync), &Handle, Event<'_>);

fn dispatch<R: Respond + 'static>(
    context: &(dyn Any + Send + Sync),
    handle: &Handle,
    event: Event<'_>,
) {
    if let Some(responder) = context.downcast_ref::<R>() {
        responder.respond(handle, event);
    }
}

/// The responders of a runtime.
pub(super) struct Responders {
    /// What their handles' keys stand for: a context is found again only by its type.
    kinds: [OnceLock<(TypeId, Dispatch)>; MOST_KINDS],
    /// Those that have not been forgotten; `None` once the runtime is dropped.
    list: Mutex<Option<Slab<Weak<dyn Respond>>>>,
}

impl Default for Responders {
    fn default() -> Self {
        Responders {
            kinds: Default::default(),
            list: Mutex::new(Some(Slab::new())),
        }
    }
}

impl Responders {
    fn key_of<R: Respond + 'static>(&self) -> usize {
        let id = TypeId::of::<R>();
        let is_own =
            |kind: &OnceLock<(TypeId, Dispatch)>| kind.get_or_init(|| (id, dispatch::<R>)).0 == id;
        self.kinds
            .iter()
            .position(is_own)
            .expect("there are fewer types of responders")
    }

    /// Hands a completion to whoever is to respond to it; does nothing if nobody is.
    pub(super) fn dispatch(&self, completion: &mut Completion) {
        let (buffer, accepted) = match completion.kind() {
            CompletionKind::Accept => (None, completion.take_boxed_accepted()),
            _ => (completion.take_buffer(), None),
        };
        let kind = self.kinds.get(completion.key()).and_then(OnceLock::get);
        let Some((handle, (_, dispatch))) = completion.handle().zip(kind) else {
            return;
        };
        if let Some(context) = handle.context() {
            let event = Event {
                completion,
                buffer,
                accepted,
            };
            dispatch(&**context, handle, event);
        }
    }

    /// Calls `visit` with each responder.
    pub(super) fn for_each(&self, visit: impl FnMut(Arc<dyn Respond>)) {
        let responders: Vec<_> = match &*self.list.lock() {
            Some(list) => list
                .iter()
                .filter_map(|(_, responder)| responder.upgrade())
                .collect(),
            None => return,
        };
        responders.into_iter().for_each(visit);
    }

    /// Responders that have not been forgotten.
    #[cfg(all(test, unix, not(loom)))]
    pub(super) fn len(&self) -> usize {
        self.list.lock().as_ref().map_or(0, Slab::len)
    }

    /// Tells all that the runtime is gone.
    pub(super) fn abandon(&self) {
        self.for_each(|responder| responder.abandon());
        let list = self.list.lock().take();
        drop(list);
    }
}

impl Shared {
    /// Associates a source with the port, so that its completions go to `responder`, in the lane of
    /// `beside` if that is given. Returns the handle and the number under which the responder is to
    /// be [forgotten](Self::forget).
    pub(crate) fn associate<R: Respond + 'static>(
        &self,
        source: impl Into<Source>,
        responder: Arc<R>,
        beside: Option<&Handle>,
    ) -> io::Result<(Handle, usize)> {
        let weak: Weak<dyn Respond> = Arc::downgrade(&responder) as _;
        let mut association = Association::new(self.responders.key_of::<R>())
            .serial(true)
            .context(responder);
        if let Some(other) = beside {
            association = association.beside(other);
        }
        let handle = self.port.associate_with(source, association)?;
        // A runtime that is being dropped has closed the port, and needs no number.
        let number = self
            .responders
            .list
            .lock()
            .as_mut()
            .map_or(0, |list| list.insert(weak));
        Ok((handle, number))
    }

    /// Takes a responder off the list. Called once, when it is dropped.
    pub(crate) fn forget(&self, number: usize) {
        if let Some(list) = &mut *self.responders.list.lock() {
            list.try_remove(number);
        }
    }

    /// Ends the streams of sockets that `observer` looks at, for readers that find nothing.
    pub(crate) fn drain(&self, observer: &Arc<dyn Observer>) {
        self.responders
            .for_each(|responder| responder.drain(observer));
    }
}
