//! Joining two connections: every byte, in order, and the ends as they were.

mod runtime_support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::thread;
use std::time::{Duration, Instant};

use landfall::Server;
use landfall::net::TcpStream;
use landfall::net::relay::{PipePool, Relay, RelayEnd, Relayed, Side, Start, ZeroCopy};
use landfall::runtime::{JoinHandle, Runtime};
use runtime_support::*;

/// A relay at work, and the programs on its two sides.
struct Joined {
    client: StdStream,
    server: StdStream,
    relaying: JoinHandle<Relayed>,
}

fn join(runtime: &Runtime, relay: Relay) -> Joined {
    join_from(runtime, relay, Start::default())
}

fn join_from(runtime: &Runtime, relay: Relay, start: Start) -> Joined {
    let ((to_client, client), (to_server, server)) =
        runtime.block_on(async { (pair().await, pair().await) });
    let relaying = runtime.spawn(async move { relay.run_from(start, to_client, to_server).await });
    Joined {
        client,
        server,
        relaying,
    }
}

/// How a relay has ended, within [`LONG`].
fn end(runtime: &Runtime, relaying: JoinHandle<Relayed>) -> Relayed {
    run_on(runtime, relaying).expect("no panic")
}

/// Bytes of one block of what the tests send; no power of two, so that a piece that is lost or
/// comes twice is seen.
const BLOCK: usize = 251 * 257;

/// Sends so many bytes of the pattern.
fn send_pattern(stream: &mut StdStream, bytes: usize) {
    let block = pattern(BLOCK);
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(BLOCK);
        stream.write_all(&block[..piece]).expect("send");
        left -= piece;
    }
}

/// Receives to the end and returns how many bytes of the pattern that were.
fn receive_pattern(stream: &mut StdStream) -> usize {
    let block = pattern(BLOCK);
    let twice = [&block[..], &block[..]].concat();
    let mut piece = vec![0; BLOCK];
    let mut bytes = 0;
    loop {
        let count = stream.read(&mut piece).expect("receive");
        if count == 0 {
            return bytes;
        }
        let start = bytes % BLOCK;
        assert!(
            piece[..count] == twice[start..start + count],
            "other bytes than were sent, after {bytes}"
        );
        bytes += count;
    }
}

/// How much more than usual is to be sent.
fn scale() -> usize {
    match std::env::var("LANDFALL_TEST_SCALE") {
        Ok(scale) => scale.parse().expect("LANDFALL_TEST_SCALE is a number"),
        Err(_) => 1,
    }
}

/// A client that ends its sending and waits for word of what has arrived.
fn send_all_then_ask(runtime: &Runtime, relay: Relay, bytes: usize) -> Relayed {
    let mut joined = join(runtime, relay);
    let mut server = joined.server;
    let served = thread::spawn(move || {
        let bytes = receive_pattern(&mut server);
        server.write_all(&bytes.to_le_bytes()).expect("send");
    });
    send_pattern(&mut joined.client, bytes);
    joined.client.shutdown(Shutdown::Write).expect("shutdown");
    let answer = read_to_end(&mut joined.client).expect("an answer");
    assert_eq!(answer, bytes.to_le_bytes());
    served.join().expect("no panic");
    end(runtime, joined.relaying)
}

fn assert_finished(relayed: &Relayed) {
    assert!(matches!(relayed.end, RelayEnd::Finished), "{relayed:?}");
}

/// Every way to move bytes that there is here.
fn ways() -> &'static [ZeroCopy] {
    match cfg!(target_os = "linux") {
        true => &[ZeroCopy::Auto, ZeroCopy::On, ZeroCopy::Off],
        false => &[ZeroCopy::Auto, ZeroCopy::Off],
    }
}

#[test]
fn a_client_that_ends_its_sending_gets_its_answer_again_and_again() {
    let runtime = Runtime::new().expect("a runtime");
    for &way in ways() {
        let relay = Relay::new().zero_copy(way);
        for round in 0..20 {
            let bytes = (1_000_000 + round) * scale();
            let relayed = send_all_then_ask(&runtime, relay.clone(), bytes);
            assert_finished(&relayed);
            assert_eq!(relayed.first_end, Some(Side::Client));
            assert_eq!((relayed.to_server, relayed.to_client), (bytes as u64, 8));
        }
    }
}

#[test]
fn a_server_that_speaks_first_and_ends_first_is_heard() {
    let runtime = Runtime::new().expect("a runtime");
    let mut joined = join(&runtime, Relay::new());
    joined.server.write_all(b"220 ready").expect("send");
    let mut greeting = [0; 9];
    joined.client.read_exact(&mut greeting).expect("receive");
    assert_eq!(&greeting, b"220 ready");
    joined.server.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(joined.client.read(&mut greeting).expect("the end"), 0);
    joined.client.write_all(b"QUIT").expect("send");
    drop(joined.client);
    assert_eq!(read_to_end(&mut joined.server).expect("receive"), b"QUIT");
    let relayed = end(&runtime, joined.relaying);
    assert_finished(&relayed);
    assert_eq!(relayed.first_end, Some(Side::Server));
    assert_eq!((relayed.to_server, relayed.to_client), (4, 9));
}

#[test]
fn both_directions_move_at_once() {
    for &way in ways() {
        move_both_directions(way);
    }
}

fn move_both_directions(way: ZeroCopy) {
    let runtime = Runtime::new().expect("a runtime");
    let joined = join(&runtime, Relay::new().zero_copy(way));
    let bytes = 3_000_000 * scale();
    let ends = [joined.client, joined.server];
    let threads = ends.map(|stream| {
        let mut sender = stream.try_clone().expect("a descriptor");
        let mut receiver = stream;
        let sending = thread::spawn(move || {
            send_pattern(&mut sender, bytes);
            sender.shutdown(Shutdown::Write).expect("shutdown");
        });
        let receiving = thread::spawn(move || receive_pattern(&mut receiver));
        (sending, receiving)
    });
    for (sending, receiving) in threads {
        sending.join().expect("no panic");
        assert_eq!(receiving.join().expect("no panic"), bytes);
    }
    let relayed = end(&runtime, joined.relaying);
    assert_finished(&relayed);
    let both = (bytes as u64, bytes as u64);
    assert_eq!((relayed.to_server, relayed.to_client), both);
}

#[test]
fn what_was_received_or_given_before_goes_first() {
    let runtime = Runtime::new().expect("a runtime");
    let ((mut to_client, mut client), (to_server, mut server)) =
        runtime.block_on(async { (pair().await, pair().await) });
    client.write_all(b"headerrest of it").expect("send");
    let relaying = runtime.spawn(async move {
        let header = bytes(receive_some(&mut to_client, 6).await);
        assert_eq!(header, b"header");
        let start = Start {
            to_server: "PROXY ".into(),
            to_client: "hello ".into(),
            ..Start::default()
        };
        Relay::new().run_from(start, to_client, to_server).await
    });
    server.write_all(b"client").expect("send");
    server.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut client).expect("receive"), b"hello client");
    drop(client);
    let all = read_to_end(&mut server).expect("receive");
    assert_eq!(all, b"PROXY rest of it");
    let relayed = end(&runtime, relaying);
    assert_finished(&relayed);
    assert_eq!((relayed.to_server, relayed.to_client), (16, 12));
}

/// Receives that many bytes; what has come with them stays.
async fn receive_some(
    stream: &mut TcpStream,
    count: usize,
) -> std::io::Result<Option<landfall::buffer::Buffer>> {
    let (result, vec) = stream.read(Vec::with_capacity(count)).await;
    result.map(|_| Some(vec.into()))
}

#[test]
fn a_reset_of_one_side_is_one_for_the_other_after_what_was_received() {
    for &way in ways() {
        for side in [Side::Client, Side::Server] {
            reset_one(way, side);
        }
    }
}

/// Reads once. A ring of this thread's may interrupt it, where `read_exact` goes on by itself.
fn read(stream: &mut StdStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn reset_one(way: ZeroCopy, side: Side) {
    let runtime = Runtime::new().expect("a runtime");
    {
        let joined = join(&runtime, Relay::new().zero_copy(way));
        let (mut near, mut far) = match side {
            Side::Client => (joined.client, joined.server),
            Side::Server => (joined.server, joined.client),
        };
        near.write_all(b"last words").expect("send");
        let mut words = [0; 10];
        far.read_exact(&mut words).expect("receive");
        reset(near);
        let error = read(&mut far, &mut words).expect_err("no clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let relayed = end(&runtime, joined.relaying);
        match relayed.end {
            RelayEnd::Failed {
                side: whose,
                receiving: true,
                error,
            } => {
                assert_eq!(whose, side);
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_slow_reader_slows_its_writer_and_an_end_behind_all_that_is_kept_cuts_nothing_off() {
    for &way in ways() {
        for closes in [false, true] {
            fill_then_end(way, closes);
        }
    }
}

/// `closes`: the writer ends not only its sending but does not receive any more either.
fn fill_then_end(way: ZeroCopy, closes: bool) {
    let runtime = Runtime::new().expect("a runtime");
    let start = Start::default();
    let counters = start.counters.clone();
    let mut joined = join_from(&runtime, Relay::new().zero_copy(way), start);
    joined.client.set_nonblocking(true).expect("a socket");
    let piece = pattern(BLOCK);
    let mut sent = 0;
    let mut last = Instant::now();
    // Nobody reads: the writer must come to a stop.
    while last.elapsed() < Duration::from_millis(300) {
        match joined.client.write(&piece[sent % BLOCK..]) {
            Ok(count) => {
                sent += count;
                last = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 64 << 20, "{sent} bytes, and nobody has read one");
    }
    joined.client.shutdown(Shutdown::Write).expect("shutdown");
    if closes {
        drop(joined.client);
    }
    assert_eq!(receive_pattern(&mut joined.server), sent);
    drop(joined.server);
    assert_finished(&end(&runtime, joined.relaying));
    let wants = cfg!(target_os = "linux") && way != ZeroCopy::Off;
    assert_eq!(counters.spliced() > 0, wants, "{counters:?}");
}

#[test]
fn small_messages_after_bulk_are_passed_on_at_once_and_bulk_after_them_too() {
    let runtime = Runtime::new().expect("a runtime");
    for &way in ways() {
        let mut joined = join(&runtime, Relay::new().zero_copy(way));
        for round in 0..6 {
            let bytes = 400_000 + round;
            let mut server = joined.server.try_clone().expect("a descriptor");
            let sending = thread::spawn(move || send_pattern(&mut server, bytes));
            let mut received = vec![0; bytes];
            joined.client.read_exact(&mut received).expect("receive");
            sending.join().expect("no panic");
            let block = pattern(BLOCK);
            for piece in received.chunks(BLOCK) {
                assert!(piece == &block[..piece.len()], "other bytes than were sent");
            }
            let start = Instant::now();
            for _ in 0..20 {
                echo_through(&mut joined);
            }
            // A last piece that is held back waits 40 ms for the acknowledgement of the one before.
            assert!(start.elapsed() < Duration::from_millis(20 * 40));
        }
        drop((joined.client, joined.server));
        assert_finished(&end(&runtime, joined.relaying));
    }
}

#[test]
fn without_a_pipe_to_be_had_bulk_is_copied_and_that_is_counted() {
    let runtime = Runtime::new().expect("a runtime");
    let pipes = PipePool::new(0);
    let relay = Relay::new().pipes(&pipes);
    let relayed = send_all_then_ask(&runtime, relay, 2_000_000);
    assert_finished(&relayed);
    assert!(pipes.refusals() > 0);
}

#[test]
fn zero_copy_that_must_be_and_cannot_says_why() {
    let runtime = Runtime::new().expect("a runtime");
    let relay = Relay::new()
        .pipes(&PipePool::new(0))
        .zero_copy(ZeroCopy::On);
    let mut joined = join(&runtime, relay);
    match end(&runtime, joined.relaying).end {
        RelayEnd::NoZeroCopy { error } => {
            let text = error.to_string();
            let expected = match cfg!(target_os = "linux") {
                true => "may have 0",
                false => "Linux",
            };
            assert!(text.contains(expected), "{text}");
        }
        other => panic!("{other:?}"),
    }
    let error = read(&mut joined.client, &mut [0]).expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_pipe_goes_back_when_the_bulk_is_over_and_the_connection_is_not() {
    if cfg!(not(target_os = "linux")) {
        return;
    }
    let runtime = Runtime::new().expect("a runtime");
    let pipes = PipePool::new(2);
    let mut joined = join(&runtime, Relay::new().pipes(&pipes));
    for _ in 0..3 {
        send_pattern(&mut joined.client, 2_000_000);
        wait_until("a pipe is used", || pipes.in_use() == 1);
        let mut received = vec![0; 2_000_000];
        joined.server.read_exact(&mut received).expect("receive");
        wait_until("it is back", || pipes.in_use() == 0);
        echo_through(&mut joined);
    }
    assert_eq!(pipes.refusals(), 0);
    drop((joined.client, joined.server));
    assert_finished(&end(&runtime, joined.relaying));
}

/// Long enough for what a test does between two waits.
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_relay_in_which_nothing_moves_ends_and_traffic_puts_that_off() {
    let runtime = Runtime::new().expect("a runtime");
    let relay = Relay::new().idle_timeout(Some(SHORT));
    let mut joined = join(&runtime, relay);
    let start = Instant::now();
    let mut last = start;
    while start.elapsed() < 2 * SHORT {
        last = Instant::now();
        echo_through(&mut joined);
        thread::sleep(SHORT / 10);
    }
    let mut byte = [0];
    let error = read(&mut joined.client, &mut byte).expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = read(&mut joined.server, &mut byte).expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(last.elapsed() >= SHORT);
    let relayed = end(&runtime, joined.relaying);
    assert!(matches!(relayed.end, RelayEnd::Idle), "{relayed:?}");
}

fn echo_through(joined: &mut Joined) {
    let mut byte = [0];
    joined.client.write_all(b"?").expect("send");
    joined.server.read_exact(&mut byte).expect("receive");
    joined.server.write_all(b"!").expect("send");
    joined.client.read_exact(&mut byte).expect("receive");
}

#[test]
fn after_the_first_end_the_other_side_has_a_time_of_its_own() {
    let runtime = Runtime::new().expect("a runtime");
    let relay = Relay::new()
        .idle_timeout(Some(LONG))
        .half_close_timeout(Some(SHORT));
    let mut joined = join(&runtime, relay);
    thread::sleep(2 * SHORT);
    echo_through(&mut joined);
    joined.client.shutdown(Shutdown::Write).expect("shutdown");
    let half_closed = Instant::now();
    // Traffic of the other side puts it off.
    let mut byte = [0];
    while half_closed.elapsed() < 2 * SHORT {
        joined.server.write_all(b"!").expect("send");
        joined.client.read_exact(&mut byte).expect("receive");
        thread::sleep(SHORT / 10);
    }
    let error = read(&mut joined.client, &mut byte).expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let relayed = end(&runtime, joined.relaying);
    assert_eq!(relayed.first_end, Some(Side::Client));
    let open = match relayed.end {
        RelayEnd::HalfCloseTimeout { open } => open,
        other => panic!("{other:?}"),
    };
    assert_eq!(open, Side::Server);
}

#[test]
fn a_relay_that_is_dropped_resets_both_sides() {
    let runtime = Runtime::new().expect("a runtime");
    let mut joined = join(&runtime, Relay::new());
    echo_through(&mut joined);
    joined.relaying.abort();
    for mut stream in [joined.client, joined.server] {
        let error = read(&mut stream, &mut [0]).expect_err("no clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn counters_can_be_looked_at_meanwhile() {
    let runtime = Runtime::new().expect("a runtime");
    let start = Start::default();
    let counters = start.counters.clone();
    let mut joined = join_from(&runtime, Relay::new(), start);
    echo_through(&mut joined);
    wait_until("both bytes are counted", || {
        (counters.to_server(), counters.to_client()) == (1, 1)
    });
    drop((joined.client, joined.server));
    assert_finished(&end(&runtime, joined.relaying));
}

/// Whatever the server does, an end is passed on only where the client has made one.
#[test]
fn a_server_that_drains_makes_no_end_of_what_is_relayed() {
    let target = StdListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("an address");
    let server = Server::bind("127.0.0.1:0").expect("a free port");
    let handle = server.handle();
    let serving = thread::spawn(move || {
        server.serve(move |client| async move {
            let upstream = TcpStream::connect(address).await?;
            Relay::new().run(client.into_stream(), upstream).await;
            Ok(())
        })
    });
    let mut client = StdStream::connect(handle.local_addr()).expect("connect");
    let (mut upstream, _) = target.accept().expect("accept");
    client.write_all(b"one").expect("send");
    upstream.read_exact(&mut [0; 3]).expect("receive");
    handle.drain();
    wait_until("it accepts no more", || {
        StdStream::connect(handle.local_addr()).is_err()
    });
    let moment = Some(Duration::from_millis(100));
    upstream.set_read_timeout(moment).expect("an option");
    let early = read(&mut upstream, &mut [0]).expect_err("nothing has ended");
    assert_eq!(early.kind(), ErrorKind::WouldBlock);
    client.write_all(b"two").expect("send");
    client.shutdown(Shutdown::Write).expect("shutdown");
    upstream.set_read_timeout(None).expect("an option");
    let mut rest = String::new();
    upstream.read_to_string(&mut rest).expect("an orderly end");
    assert_eq!(rest, "two");
    drop((client, upstream));
    let report = serving.join().expect("no panic").expect("served");
    assert_eq!(report.cut_off, 0);
}

/// A Unix socket can be shut down though what was sent before had failed.
#[cfg(unix)]
#[test]
fn a_send_that_fails_last_is_told() {
    use landfall::net::UnixStream;
    use std::os::unix::net::UnixStream as StdUnixStream;

    let (client, mut near) = StdUnixStream::pair().expect("a pair");
    let (server, far) = StdUnixStream::pair().expect("a pair");
    drop(far);
    near.write_all(b"last words").expect("send");
    near.shutdown(Shutdown::Write).expect("shutdown");
    let runtime = Runtime::new().expect("a runtime");
    let relayed = runtime.block_on(async {
        let client = UnixStream::from_std(client).expect("associates");
        let server = UnixStream::from_std(server).expect("associates");
        Relay::new().run(client, server).await
    });
    let failed = matches!(
        relayed.end,
        RelayEnd::Failed {
            side: Side::Server,
            receiving: false,
            ..
        }
    );
    assert!(failed, "{relayed:?}");
}
