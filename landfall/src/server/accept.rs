//! The server's own task, which drains in the end, and those of its listeners, which accept.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::control::{Admission, Control, Phase};
use super::handler::Serving;
use super::listeners::{Added, ListeningSocket};
use super::{Connection, Report, Server, Tell};
use crate::net::{TcpListener, TcpStream};
use crate::port::{Accepted, is_aborted};
use crate::runtime;
use crate::runtime::time::{sleep, timeout};

/// The pause after an accept that failed for want of something.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

pub(super) async fn run<H, F>(server: Server, handler: H) -> io::Result<Report>
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = crate::Result<()>> + Send + 'static,
{
    let runtime = runtime::current_or_error()?;
    let Server {
        limits,
        tell,
        control,
        end: _end,
        ..
    } = server;
    control.begin(&runtime);
    let handler = Arc::new(handler);
    let ready = |socket: ListeningSocket| {
        let mut listener = socket.associate(&runtime)?;
        listener.observe(control.clone());
        Ok(listener)
    };
    while let Some(added) = control.added(&ready).await {
        match added {
            Ok(added) => {
                for added in added {
                    let door = Door::new(added, &control);
                    let accepting = door.accept_all(limits.idle, tell.clone(), handler.clone());
                    drop(runtime::spawn(accepting));
                }
            }
            // Whoever has been let in by others hears of it as of a stop.
            Err(error) => control.fail(error),
        }
    }
    let cut_off = drain(limits.drain, &control).await;
    match control.take_failure() {
        Some(error) => Err(error),
        None => Ok(Report {
            stats: control.stats(),
            cut_off,
        }),
    }
}

/// Waits for the connections to end, and cuts those that do not. Returns how many those were.
async fn drain(time: Duration, control: &Arc<Control>) -> u64 {
    // Whoever was let in last is to hear of the drain as well.
    control
        .until(|remains| (remains.accepting == 0).then_some(()))
        .await;
    control.end_receives();
    let mut left = 0;
    let ended = control.until(|remains| {
        left = remains.left;
        (remains.phase != Phase::Draining || left == 0).then_some(())
    });
    if timeout(time, ended).await.is_err() || left > 0 {
        control.cut();
    }
    left
}

/// Tells of an accept that failed. A panic is the program's, as a handler's is, and not the listener's
/// end: printing panics when nobody reads any more, for one.
fn call(tell: &Tell, address: SocketAddr, error: &io::Error) {
    drop(catch_unwind(AssertUnwindSafe(|| tell(address, error))));
}

/// A listener of the server, as long as it accepts.
struct Door {
    control: Arc<Control>,
    number: u64,
    address: Arc<SocketAddr>,
    listener: Arc<TcpListener>,
    /// A connection that there was no room for when it had come.
    waiting: Option<Accepted>,
}

impl Door {
    fn new(added: Added, control: &Arc<Control>) -> Self {
        Door {
            control: control.clone(),
            number: added.number,
            address: Arc::new(added.address),
            listener: added.listener,
            waiting: None,
        }
    }

    /// Accepts, and starts handlers, until the listener is removed or the server is to end.
    async fn accept_all<H, F>(mut self, idle: Option<Duration>, tell: Option<Tell>, handler: Arc<H>)
    where
        H: Fn(Connection) -> F + Send + Sync + 'static,
        F: Future<Output = crate::Result<()>> + Send + 'static,
    {
        let mut has_failed = false;
        while let Some(accepted) = self.next_connection().await {
            let had_failed = std::mem::replace(&mut has_failed, accepted.is_err());
            match accepted {
                Ok(mut stream) => {
                    stream.set_idle_timeout(idle);
                    self.control.started();
                    drop(runtime::spawn(Serving::new(
                        self.control.clone(),
                        handler.clone(),
                        Connection {
                            stream,
                            listener: self.address.clone(),
                        },
                    )));
                }
                // It was closed when it was removed.
                Err(_) if !self.control.has(self.number) => return,
                Err(error) if is_aborted(&error) => return self.control.fail(error),
                Err(error) => {
                    self.control.accept_failed();
                    if let Some(tell) = tell.as_ref().filter(|_| !had_failed) {
                        call(tell, *self.address, &error);
                    }
                    sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    /// The next connection that is let in; nothing when the listener is to close.
    async fn next_connection(&mut self) -> Option<io::Result<TcpStream>> {
        let Door {
            control,
            number,
            listener,
            waiting,
            ..
        } = self;
        let mut next = listener.next();
        poll_fn(|cx| {
            loop {
                match control.admission(*number, cx) {
                    Admission::Open => {}
                    Admission::Full => {
                        listener.pause();
                        return Poll::Pending;
                    }
                    Admission::Closed => return Poll::Ready(None),
                }
                if waiting.is_none() {
                    match Pin::new(&mut next).poll(cx) {
                        Poll::Ready(Ok(accepted)) => *waiting = Some(accepted),
                        other => {
                            control.pass(*number);
                            return other.map(|failed| failed.err().map(Err));
                        }
                    }
                }
                // Others may have taken the last place meanwhile.
                if control.admit(*number) {
                    let accepted = waiting.take();
                    return Poll::Ready(accepted.map(|accepted| listener.open(accepted)));
                }
            }
        })
        .await
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let refused = self.listener.close() + usize::from(self.waiting.is_some());
        self.control.left(refused as u64);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::resume_unwind;

    use super::*;

    #[test]
    fn whom_it_tells_may_panic() {
        let tell: Tell = Arc::new(|_, _| resume_unwind(Box::new("as planned")));
        call(
            &tell,
            ([127, 0, 0, 1], 1).into(),
            &io::Error::other("no descriptors"),
        );
    }
}
