//! One blocking thread a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

use super::RECEIVE_SIZE;
use crate::protocol::attend;

/// The handler is shallow; the default of 2 MiB would only be address space, but 18,000 times that.
const STACK_SIZE: usize = 64 * 1024;

pub fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // A connection that is reset ends its own thread, and nothing else.
        thread::Builder::new()
            .stack_size(STACK_SIZE)
            .spawn(move || echo(stream))?;
    }
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; RECEIVE_SIZE];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                attend(&buffer[..length]);
                stream.write_all(&buffer[..length])?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
