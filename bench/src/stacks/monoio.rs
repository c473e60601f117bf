//! monoio: one runtime a thread. It has neither multishot nor pooled receives (version 0.2.4), so
//! each connection owns a buffer, whose pages are touched only as far as messages reach.

use std::io;
use std::net::TcpListener;

use anyhow::Result;
use io_uring_of_monoio::IoUring;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::{IoUringDriver, RuntimeBuilder};

use super::{Expected, RECEIVE_SIZE};
use crate::protocol::attend;

/// Submission queue entries: a round of messages of 1,000 connections without a forced submit.
const ENTRIES: u32 = 4096;

pub fn serve(listener: TcpListener, _: Expected) -> Result<()> {
    let mut ring = IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(ENTRIES)
        .build()?
        .block_on(accept(listener))
}

async fn accept(listener: TcpListener) -> Result<()> {
    let listener = monoio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        monoio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(RECEIVE_SIZE);
    loop {
        let (received, message) = stream.read(buffer).await;
        if received? == 0 {
            return Ok(());
        }
        attend(&message);
        let (sent, message) = stream.write_all(message).await;
        sent?;
        buffer = message;
        buffer.clear();
    }
}
