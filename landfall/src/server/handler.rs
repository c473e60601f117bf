//! One connection's handler, or a task of the server's, from its start to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::Connection;
use super::control::{Control, Outcome};
use crate::net::is_idle_timeout;

pin_project! {
    /// Runs a handler, unless the server cuts its connections. However it ends, it is counted.
    pub(super) struct Serving<H, F> {
        // Dropped before the end is counted.
        #[pin]
        stage: Stage<H, F>,
        ending: Ending,
    }
}

pin_project! {
    #[project = Staged]
    enum Stage<H, F> {
        // To be called by the connection's own task: it may block or panic.
        New { handler: Arc<H>, connection: Option<Connection> },
        Running {
            #[pin]
            future: F,
        },
    }
}

/// Counts the end of a handler when it is dropped.
struct Ending {
    control: Arc<Control>,
    outcome: Outcome,
}

impl<H, F> Serving<H, F> {
    pub(super) fn new(control: Arc<Control>, handler: Arc<H>, connection: Connection) -> Self {
        Serving {
            stage: Stage::New {
                handler,
                connection: Some(connection),
            },
            ending: Ending {
                control,
                outcome: Outcome::Cut,
            },
        }
    }
}

impl<H, F> Future for Serving<H, F>
where
    H: Fn(Connection) -> F,
    F: Future<Output = crate::Result<()>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.ending.control.is_cut() {
            return Poll::Ready(());
        }
        // Left so by a panic.
        this.ending.outcome = Outcome::Panicked;
        if let Staged::New {
            handler,
            connection,
        } = this.stage.as_mut().project()
        {
            if let Some(connection) = connection.take() {
                let future = handler(connection);
                this.stage.set(Stage::Running { future });
            }
        }
        let Staged::Running { future } = this.stage.project() else {
            return Poll::Ready(());
        };
        let polled = future.poll(cx);
        this.ending.outcome = match &polled {
            Poll::Pending => Outcome::Cut,
            Poll::Ready(Ok(())) => Outcome::Done,
            Poll::Ready(Err(error)) if is_idle_timeout(error) => Outcome::TimedOut,
            Poll::Ready(Err(_)) => Outcome::Failed,
        };
        polled.map(drop)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.control.ended(self.outcome);
    }
}

pin_project! {
    /// Runs a task that the server counts, unless it is cut.
    pub(super) struct Counted<F> {
        // Dropped before the end is counted.
        #[pin]
        task: F,
        ending: TaskEnding,
    }
}

/// Counts the end of a task when it is dropped.
struct TaskEnding(Arc<Control>);

impl<F> Counted<F> {
    /// Nothing if the server is over.
    pub(super) fn new(control: &Arc<Control>, task: F) -> Option<Self> {
        control.task_started().then(|| Counted {
            task,
            ending: TaskEnding(control.clone()),
        })
    }
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.ending.0.is_cut() {
            true => Poll::Ready(()),
            false => this.task.poll(cx),
        }
    }
}

impl Drop for TaskEnding {
    fn drop(&mut self) {
        self.0.task_ended();
    }
}
