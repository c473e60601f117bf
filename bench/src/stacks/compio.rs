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

use super::{POOLED_BUFFERS, RECEIVE_SIZE};
use crate::protocol::attend;

pub fn serve(listener: TcpListener) -> Result<()> {
    runtime()?.block_on(accept(listener))
}

fn runtime() -> io::Result<Runtime> {
    let mut proactor = ProactorBuilder::new();
    proactor
        .single_issuer(true)
        .defer_taskrun(true)
        .taskrun_flag(true)
        .buffer_pool_size(NonZero::new(POOLED_BUFFERS).expect("not zero"))
        .buffer_pool_buffer_len(RECEIVE_SIZE);
    RuntimeBuilder::new().with_proactor(proactor).build()
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
