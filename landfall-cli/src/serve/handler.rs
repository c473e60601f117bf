//! What is done for one connection.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use landfall::net::is_idle_timeout;
use landfall::server::Connection;

use crate::output::Log;
use crate::system::process::thread_cpu_time;
use crate::units::{Share, grouped};

/// How much of what a client said first is shown with `-v`.
const SHOWN_BYTES: usize = 48;

/// What every connection is treated to.
#[derive(Debug)]
pub struct Service {
    /// Whether to answer.
    pub echo: bool,
    /// What slow connections do on every message.
    pub delay: Option<Delay>,
    /// Which connections are slow.
    pub slow: Share,
    /// Where to say who came.
    pub log: Log,
    /// How many connections have come.
    pub begun: AtomicU64,
}

/// What a slow handler does.
#[derive(Clone, Copy, Debug)]
pub enum Delay {
    /// Computes: uses the processor.
    Busy(Duration),
    /// Sleeps: blocks its thread.
    Sleep(Duration),
}

impl Service {
    /// Serves one connection to its end.
    ///
    /// Not an `async fn`, which would keep its arguments twice, and nothing is kept that can be
    /// asked for again: this future is most of what an idle connection costs.
    pub fn serve(
        self: Arc<Self>,
        mut connection: Connection,
    ) -> impl Future<Output = io::Result<()>> + Send {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let is_slow = self.slow.includes(number);
        self.log.detail(format_args!("{} came", Peer(&connection)));
        let mut received = 0;
        async move {
            let result = loop {
                let data = match connection.receive().await {
                    Ok(Some(data)) => data,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                };
                self.listen(&connection, &data, received == 0, is_slow);
                received += data.len() as u64;
                if !self.echo {
                    continue;
                }
                if let Err(error) = connection.send(data).await {
                    break Err(error);
                }
            };
            self.say_farewell(&connection, received, &result);
            result
        }
    }

    /// Shows what a client says first, and takes as long over it as a slow handler does.
    fn listen(&self, connection: &Connection, data: &[u8], is_first: bool, is_slow: bool) {
        if is_first {
            let peer = Peer(connection);
            self.log
                .detail(format_args!("{peer} says {}", Excerpt(data)));
        }
        if is_slow && let Some(delay) = self.delay {
            delay.take();
        }
    }

    fn say_farewell(&self, connection: &Connection, received: u64, result: &io::Result<()>) {
        let (peer, received) = (Peer(connection), grouped(received));
        match result {
            Ok(()) => self
                .log
                .detail(format_args!("{peer} left after {received} bytes")),
            Err(error) if is_idle_timeout(error) => self.log.detail(format_args!(
                "{peer} was closed after {received} bytes: it was idle for too long"
            )),
            Err(error) => {
                self.log.detail(format_args!(
                    "{peer} failed after {received} bytes: {error}"
                ));
            }
        }
    }
}

impl Delay {
    /// Does it, on the calling thread: this is what a handler that computes or blocks looks like to
    /// the port.
    fn take(self) {
        match self {
            Self::Sleep(time) => thread::sleep(time),
            Self::Busy(time) => {
                let end = thread_cpu_time() + time;
                while thread_cpu_time() < end {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// Who is at the other end, to be shown.
struct Peer<'a>(&'a Connection);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.peer_addr() {
            Ok(address) => address.fmt(f),
            Err(_) => f.write_str("someone who has left already"),
        }
    }
}

/// The start of some bytes, with everything that could disturb a terminal made visible.
struct Excerpt<'a>(&'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {} more bytes", grouped(more as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_was_said_is_shown_safely_and_in_short() {
        assert_eq!(
            Excerpt(b"hello\r\n\x1b[2J").to_string(),
            r#""hello\r\n\x1b[2J""#
        );
        let long = [b'x'; 1048];
        assert_eq!(
            Excerpt(&long).to_string(),
            format!("\"{}\" and 1,000 more bytes", "x".repeat(SHOWN_BYTES))
        );
    }

    #[test]
    fn a_busy_handler_uses_the_processor_and_a_sleeping_one_does_not() {
        let time = Duration::from_millis(20);
        let cpu_of = |delay: Delay| {
            let (cpu, began) = (thread_cpu_time(), Instant::now());
            delay.take();
            assert!(began.elapsed() >= time);
            thread_cpu_time() - cpu
        };
        assert!(cpu_of(Delay::Busy(time)) >= time);
        assert!(cpu_of(Delay::Sleep(time)) < time / 2);
    }
}
