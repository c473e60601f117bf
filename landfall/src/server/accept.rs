//! The server's own task: accepts while it serves, then drains.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::control::{Control, Phase};
use super::handler::Serving;
use super::{Connection, Limits, Report, Server};
use crate::net::{TcpListener, TcpStream};
use crate::port::is_aborted;
use crate::runtime::time::{sleep, timeout};
use crate::runtime::{self, Observer, Shared};

/// The pause after an accept that failed for want of something.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

pub(super) async fn run<H, F>(server: Server, handler: H) -> io::Result<Report>
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<()>> + Send + 'static,
{
    let shared = runtime::current_or_error()?;
    let Server {
        listeners,
        limits,
        control,
        ..
    } = server;
    let mut listeners = listeners
        .into_iter()
        .map(TcpListener::from_std)
        .collect::<io::Result<Vec<_>>>()?;
    for listener in &mut listeners {
        listener.observe(control.clone());
    }
    control.set_limit(limits.connections);
    accept_all(&listeners, limits, &control, Arc::new(handler)).await?;
    control.refused(listeners.iter().map(TcpListener::close).sum());
    let cut_off = drain(&shared, limits, &control).await;
    Ok(Report {
        stats: control.stats(),
        cut_off,
    })
}

/// Accepts, and starts handlers, until the server is to end.
async fn accept_all<H, F>(
    listeners: &[TcpListener],
    limits: Limits,
    control: &Arc<Control>,
    handler: Arc<H>,
) -> io::Result<()>
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<()>> + Send + 'static,
{
    while let Some(accepted) = next_connection(listeners, control).await {
        match accepted {
            Ok(mut stream) => {
                stream.set_idle_timeout(limits.idle);
                control.started();
                drop(runtime::spawn(Serving::new(
                    control.clone(),
                    handler.clone(),
                    Connection(stream),
                )));
            }
            Err(error) if is_aborted(&error) => return Err(error),
            Err(_) => {
                control.accept_failed();
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
    Ok(())
}

/// The next connection that may be served; nothing when the server is to end.
async fn next_connection(
    listeners: &[TcpListener],
    control: &Control,
) -> Option<io::Result<TcpStream>> {
    let mut accepts: Vec<_> = listeners
        .iter()
        .map(|listener| Box::pin(listener.accept()))
        .collect();
    poll_fn(|cx| {
        let (phase, room, _) = control.look(cx);
        if phase != Phase::Serving {
            return Poll::Ready(None);
        }
        if room == 0 {
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

/// Waits for the connections to end, and cuts those that do not. Returns how many those were.
async fn drain(shared: &Shared, limits: Limits, control: &Arc<Control>) -> u64 {
    let observer: Arc<dyn Observer> = control.clone();
    shared.drain(&observer);
    let mut left = 0;
    let ended = poll_fn(|cx| {
        let (phase, _, now) = control.look(cx);
        left = now;
        if phase == Phase::Stopped || left == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    if timeout(limits.drain, ended).await.is_err() || left > 0 {
        control.cut();
        shared.wake_all_tasks();
    }
    left
}
