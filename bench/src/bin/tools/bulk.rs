//! Many bytes on a few connections, each of which is checked where it arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

const PIECE: usize = 256 * 1024;
/// Without a byte moving.
const PATIENCE: Duration = Duration::from_secs(30);

/// A prime, so that a piece that is lost or repeated shifts what follows.
const PERIOD: usize = 65_537;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9E37_79B9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
    period
        .iter()
        .copied()
        .cycle()
        .take(PERIOD + PIECE)
        .collect()
});

/// What the sender of `bytes` at `position` would send.
fn expected(position: u64, length: usize) -> &'static [u8] {
    let start = (position % PERIOD as u64) as usize;
    &PATTERN[start..start + length]
}

/// Sends `bytes` on each of `connections` through a relay to a listener of ours, closes that side, and
/// waits for the answer that says that all have arrived.
pub fn send(relay: SocketAddr, target: &TcpListener, connections: usize, bytes: u64) -> Result<()> {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..connections {
            threads.push(scope.spawn(move || send_one(relay, bytes)));
            let stream = accept_sender(target)?;
            threads.push(scope.spawn(move || receive_one(stream, bytes)));
        }
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

/// Passes over those that only wanted to know whether a relay listens yet.
fn accept_sender(target: &TcpListener) -> Result<TcpStream> {
    loop {
        let (stream, _) = target.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        if stream.peek(&mut [0])? > 0 {
            return Ok(stream);
        }
    }
}

fn send_one(relay: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = TcpStream::connect(relay).context("cannot connect to the relay")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut sent = 0;
    while sent < bytes {
        let length = PIECE.min((bytes - sent) as usize);
        stream.write_all(expected(sent, length))?;
        sent += length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    stream
        .read_exact(&mut answer)
        .context("no answer came back")?;
    ensure!(u64::from_le_bytes(answer) == bytes, "the answer differs");
    Ok(())
}

fn receive_one(mut stream: TcpStream, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut received = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        ensure!(
            buffer[..count] == *expected(received, count),
            "what arrived after {received} bytes differs"
        );
        received += count as u64;
    }
    ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    Ok(stream.write_all(&received.to_le_bytes())?)
}
