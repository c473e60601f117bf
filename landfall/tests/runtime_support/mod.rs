//! What the tests of the runtime, of `net` and of the server share.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::pin::Pin;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use landfall::buffer::Buffer;
use landfall::net::{Family, Stream, TcpListener, TcpStream};
use landfall::runtime::Runtime;
use landfall::runtime::time::timeout;
use socket2::SockRef;

/// Longer than anything here takes, on the slowest of machines.
pub const LONG: Duration = Duration::from_secs(20);

/// Runs a test on a runtime, within [`LONG`].
pub fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    run_on(&Runtime::new().expect("a runtime"), test)
}

pub fn run_on<T>(runtime: &Runtime, test: impl Future<Output = T>) -> T {
    runtime.block_on(async { timeout(LONG, test).await.expect("the test hangs") })
}

/// A connection with an ordinary socket at the other end.
pub async fn pair() -> (TcpStream, StdStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = StdStream::connect(listener.local_addr().expect("an address")).expect("connect");
    peer.set_read_timeout(Some(LONG)).expect("a socket");
    peer.set_write_timeout(Some(LONG)).expect("a socket");
    (listener.accept().await.expect("accept"), peer)
}

/// A connection of the runtime with itself.
pub async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("an address"))
        .await
        .expect("connect");
    (listener.accept().await.expect("accept"), client)
}

/// Polls a future one time.
pub async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

/// Receives exactly so many bytes; fewer only when the stream ends.
pub async fn receive_exactly<F: Family>(
    stream: &mut Stream<F>,
    count: usize,
) -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        match stream.receive().await? {
            Some(data) => all.extend_from_slice(&data),
            None => break,
        }
    }
    Ok(all)
}

/// Text that says where in the stream it stands.
pub fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|place| (place % 251) as u8 ^ (place / 251) as u8)
        .collect()
}

pub fn read_to_end(peer: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    peer.read_to_end(&mut all).map(|_| all)
}

/// Cuts a connection: the other end is sent a reset.
pub fn reset(peer: StdStream) {
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
}

pub fn echo_once(peer: &mut StdStream, text: &[u8]) -> io::Result<()> {
    peer.write_all(text)?;
    let mut echo = vec![0; text.len()];
    peer.read_exact(&mut echo)?;
    assert_eq!(echo, text);
    Ok(())
}

pub fn bytes(buffer: io::Result<Option<Buffer>>) -> Vec<u8> {
    buffer.expect("no error").expect("not the end").into_vec()
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The states of this machine's TCP sockets that a port belongs to on either side, in the numbers
/// of Linux: 1 established, 2 SYN sent, 6 waiting for stray segments (`TIME_WAIT`), 10 listening.
pub fn sockets_at(address: SocketAddr) -> Vec<u8> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = format!(":{:04X} ", address.port());
    // There may be tens of thousands of others, so only lines with the port are taken apart.
    let state = |(place, _): (usize, &str)| {
        let line = table[..place].rfind('\n').map_or(0, |end| end + 1);
        // Number, local address, remote address, state.
        let state = table[line..].split_whitespace().nth(3)?;
        u8::from_str_radix(state, 16).ok()
    };
    table.match_indices(&port).filter_map(state).collect()
}

pub fn is_listening_or_over(state: &u8) -> bool {
    matches!(state, 6 | 10)
}

/// Open sockets at a port, but for the listener's.
pub fn open_sockets_at(address: SocketAddr) -> usize {
    sockets_at(address)
        .iter()
        .filter(|state| !is_listening_or_over(state))
        .count()
}
