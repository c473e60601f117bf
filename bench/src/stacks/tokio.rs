//! tokio: the current-thread scheduler for one worker, the work-stealing one for more.
//!
//! All connections of a thread share one buffer: it stays in the cache, and an idle connection holds
//! none. `poll_read` rather than `try_read`, because it learns from a short read that the socket is
//! empty and saves the read that would say so.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use super::{Expected, RECEIVE_SIZE};
use crate::protocol::attend;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; RECEIVE_SIZE]);
}

pub fn serve(listener: TcpListener, expected: Expected) -> Result<()> {
    let runtime = match expected.workers {
        1 => Builder::new_current_thread().enable_io().build()?,
        workers => Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_io()
            .build()?,
    };
    // Spawned, so that accepting is a worker's task like any other.
    runtime.block_on(runtime.spawn(accept(listener)))?
}

async fn accept(listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    while let Some(unsent) = poll_fn(|cx| poll_echo(&mut stream, cx)).await? {
        if !unsent.is_empty() {
            stream.write_all(&unsent).await?;
        }
    }
    Ok(())
}

/// Echoes what one read gives. Returns what the socket would not take at once (nothing, as a rule),
/// or `None` at the end of the stream.
fn poll_echo(
    stream: &mut TcpStream,
    cx: &mut std::task::Context<'_>,
) -> Poll<io::Result<Option<Vec<u8>>>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut data = ReadBuf::new(buffer);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut data))?;
        if data.filled().is_empty() {
            return Poll::Ready(Ok(None));
        }
        attend(data.filled());
        let sent = match stream.try_write(data.filled()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        Poll::Ready(Ok(Some(data.filled()[sent..].to_vec())))
    })
}
