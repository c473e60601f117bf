//! compio: one runtime a thread, multishot accept, multishot receive into its buffer pool.

use std::io;
use std::net::TcpListener;
use std::num::NonZero;

use anyhow::Result;
use compio::BufResult;
use compio::driver::ProactorBuilder;
use compio::io::{AsyncReadMulti, AsyncWriteExt};
use compio::net::TcpStream;
use compio::runtime::{Runtime, RuntimeBuilder};
use futures_util::StreamExt;

use super::{Expected, RECEIVE_SIZE};
use crate::protocol::attend;

/// Tasks to run before the ring is looked at again. The default, 61, cuts a batch of 1,000 ready
/// connections into pieces, and costs a tenth there.
const EVENT_INTERVAL: usize = 1024;

pub fn serve(listener: TcpListener, expected: Expected) -> Result<()> {
    runtime(expected)?.block_on(accept(listener))
}

fn runtime(expected: Expected) -> io::Result<Runtime> {
    // An empty pool ends a receive and costs it a new submission, so there are plenty.
    let buffers = (2 * expected.connections).next_power_of_two().min(1 << 15) as u16;
    let mut proactor = ProactorBuilder::new();
    // Without `taskrun_flag`, on which version 0.19.2 spins now and then while nothing happens.
    proactor
        .single_issuer(true)
        .defer_taskrun(true)
        .buffer_pool_size(NonZero::new(buffers).expect("a power of two"))
        .buffer_pool_buffer_len(RECEIVE_SIZE);
    RuntimeBuilder::new()
        .with_proactor(proactor)
        .event_interval(EVENT_INTERVAL)
        .build()
}

async fn accept(listener: TcpListener) -> Result<()> {
    let listener = compio::net::TcpListener::from_std(listener)?;
    let mut incoming = listener.incoming();
    while let Some(stream) = incoming.next().await {
        compio::runtime::spawn(echo(stream?)).detach();
    }
    Ok(())
}

async fn echo(stream: TcpStream) -> io::Result<()> {
    let (mut receiver, mut sender) = (&stream, &stream);
    loop {
        let mut messages = receiver.read_multi(0);
        let error = loop {
            match messages.next().await {
                None => return Ok(()),
                Some(Err(error)) => break error,
                Some(Ok(message)) => {
                    attend(&message);
                    let BufResult(result, _) = sender.write_all(message).await;
                    result?;
                }
            }
        };
        // The pool was empty, which ends the stream of receives: begin a new one.
        if error.kind() != io::ErrorKind::ResourceBusy {
            return Err(error);
        }
    }
}
