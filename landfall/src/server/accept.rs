//! The server's own task: accepts while it serves, then drains.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::control::{Control, Outcome, Phase};
use super::{Connection, Limits, Report, Server};
use crate::net::{TcpListener, TcpStream};
use crate::port::is_aborted;
use crate::runtime;
use crate::runtime::time::{sleep, timeout};

/// The pause after an accept that failed for want of something.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

pub(super) async fn run<H, F>(server: Server, handler: H) -> io::Result<Report>
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<()>> + Send + 'static,
{
    let Server {
        listeners,
        limits,
        control,
        ..
    } = server;
    let listeners = listeners
        .into_iter()
        .map(TcpListener::from_std)
        .collect::<io::Result<Vec<_>>>()?;
    let handler = Arc::new(handler);
    control.set_limit(limits.connections);
    while let Some(accepted) = next_connection(&listeners, &limits, &control).await {
        match accepted {
            Ok(mut stream) => {
                stream.set_idle_timeout(limits.idle);
                start(&control, &handler, stream);
            }
            Err(error) if is_aborted(&error) => return Err(error),
            Err(_) => {
                control.accept_failed();
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    let unserved = listeners.iter().map(TcpListener::close).sum();
    control.refused(unserved);
    let cut_off = drain(&limits, &control).await;
    Ok(Report {
        stats: control.stats(),
        cut_off,
    })
}

/// The next connection that may be served; nothing when the server ends.
async fn next_connection(
    listeners: &[TcpListener],
    limits: &Limits,
    control: &Control,
) -> Option<io::Result<TcpStream>> {
    let mut accepts: Vec<_> = listeners
        .iter()
        .map(|listener| Box::pin(listener.accept()))
        .collect();
    poll_fn(|cx| {
        let (phase, open) = control.look(cx);
        if phase != Phase::Serving {
            return Poll::Ready(None);
        }
        if open >= limits.connections {
            listeners.iter().for_each(TcpListener::pause);
            return Poll::Pending;
        }
        for accept in &mut accepts {
            if let Poll::Ready(accepted) = accept.as_mut().poll(cx) {
                return Poll::Ready(Some(accepted));
            }
        }
        Poll::Pending
    })
    .await
}

/// Starts the handler of a connection.
fn start<H, F>(control: &Arc<Control>, handler: &Arc<H>, stream: TcpStream)
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<()>> + Send + 'static,
{
    let number = control.admit(&stream);
    let mut ending = Ending {
        control: control.clone(),
        number,
        outcome: Outcome::Cut,
    };
    let handler = handler.clone();
    let connection = Connection(stream);
    let task = runtime::spawn(async move {
        // Reports the end also when the handler panics or is aborted.
        let result = handler(connection).await;
        ending.returned(&result);
    });
    control.started(number, task);
}

/// Reports the end of a handler when it is dropped.
struct Ending {
    control: Arc<Control>,
    number: usize,
    outcome: Outcome,
}

impl Ending {
    fn returned(&mut self, result: &crate::Result<()>) {
        self.outcome = match result {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Failed,
        };
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.outcome = Outcome::Panicked;
        }
        self.control.ended(self.number, &self.outcome);
    }
}

/// Waits for the connections to end, and cuts those that do not. Returns how many those were.
async fn drain(limits: &Limits, control: &Control) -> u64 {
    control.drain_connections();
    let ended = pin!(poll_fn(|cx| match control.look(cx) {
        (Phase::Stopped, _) | (_, 0) => Poll::Ready(()),
        _ => Poll::Pending,
    }));
    // Either way what is left is cut.
    let _ = timeout(limits.drain, ended).await;
    control.cut_connections()
}
