//! Streams and listeners: what arrives, in which order, and what becomes of futures that are
//! dropped. The numbers are those of the contract.

mod runtime_support;

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::pin;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall::buffer::Buffer;
use landfall::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream, is_idle_timeout};
use landfall::runtime::time::{sleep, timeout};
use landfall::runtime::{self, Runtime};
use runtime_support::*;
use socket2::SockRef;

#[test]
fn what_is_sent_is_received_from_every_kind_of_buffer() {
    on_runtime(async {
        let (mut server, mut client) = connected().await;
        client.send("static").await.expect("send");
        client.send(vec![b' '; 2]).await.expect("send");
        client
            .send(Bytes::from_static(b"bytes"))
            .await
            .expect("send");
        let (result, back) = client.send_owned(String::from(" owned")).await;
        result.expect("send");
        assert_eq!(&back[..], b" owned", "the buffer comes back");
        let parts: Vec<Buffer> = vec![" vec".into(), b"tor".to_vec().into(), "ed".into()];
        client.send_vectored(parts).await.expect("send");
        let (result, back) = client.send_zero_copy(b" zero".to_vec()).await;
        result.expect("send");
        assert_eq!(&back[..], b" zero");
        client.shutdown(Shutdown::Write).await.expect("shutdown");
        let all = receive_exactly(&mut server, 1000).await.expect("receive");
        assert_eq!(
            String::from_utf8_lossy(&all),
            "static  bytes owned vectored zero"
        );
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_stream_tells_how_much_has_not_arrived() {
    const MORE_THAN_BUFFERS_HOLD: usize = 32 << 20;
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        assert_eq!(stream.unacknowledged_bytes().expect("Linux tells"), 0);
        let sent = stream.send(vec![b'x'; MORE_THAN_BUFFERS_HOLD]);
        // It is sent all the same.
        let _ = timeout(Duration::from_millis(1), sent).await;
        while stream.unacknowledged_bytes().expect("Linux tells") == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let reader = thread::spawn(move || {
            let mut all = vec![0; MORE_THAN_BUFFERS_HOLD];
            peer.read_exact(&mut all).expect("all of it");
            peer
        });
        while !reader.is_finished() || stream.unacknowledged_bytes().expect("Linux tells") > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        drop(reader.join().expect("all has come"));
    });
}

#[test]
fn a_pooled_buffer_is_sent_on_without_a_copy_of_its_own() {
    on_runtime(async {
        let (mut server, mut client) = connected().await;
        let sent = pattern(100_000);
        let echo = runtime::spawn(async move {
            while let Some(data) = server.receive().await? {
                server.send(data).await?;
            }
            Ok::<_, io::Error>(())
        });
        let mut received = Vec::new();
        for piece in sent.chunks(1000) {
            client.send(piece.to_vec()).await.expect("send");
            received.extend(
                receive_exactly(&mut client, piece.len())
                    .await
                    .expect("receive"),
            );
        }
        assert_eq!(received, sent);
        drop(client);
        echo.await.expect("no panic").expect("no error");
    });
}

#[test]
fn a_clean_close_is_none_again_and_again() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"bye").expect("write");
        drop(peer);
        assert_eq!(bytes(stream.receive().await), b"bye");
        for _ in 0..3 {
            assert!(stream.receive().await.expect("no error").is_none());
            let (result, vec) = stream.read(Vec::with_capacity(8)).await;
            assert_eq!((result.expect("no error"), vec.capacity() >= 8), (0, true));
        }
    });
}

#[test]
fn contract_40_a_reset_is_connection_reset_before_and_after_the_call() {
    on_runtime(async {
        // After the call.
        let (mut stream, peer) = pair().await;
        let mut receive = Box::pin(stream.receive());
        assert!(poll_once(&mut receive).await.is_pending());
        reset(peer);
        assert_eq!(
            receive.as_mut().await.expect_err("reset").kind(),
            ErrorKind::ConnectionReset
        );
        drop(receive);
        assert_eq!(
            stream.receive().await.expect_err("still").kind(),
            ErrorKind::ConnectionReset
        );
        // Before it.
        let (mut stream, peer) = pair().await;
        let address = peer.local_addr().expect("an address");
        reset(peer);
        wait_until("the reset is in", || open_sockets_at(address) == 0);
        assert_eq!(
            stream.receive().await.expect_err("reset").kind(),
            ErrorKind::ConnectionReset
        );
        // Seen by a send first.
        let (mut stream, peer) = pair().await;
        let address = peer.local_addr().expect("an address");
        reset(peer);
        wait_until("the reset is in", || open_sockets_at(address) == 0);
        assert_eq!(
            stream.send("x").await.expect_err("reset").kind(),
            ErrorKind::ConnectionReset
        );
        assert_eq!(
            stream.send("y").await.expect_err("still").kind(),
            ErrorKind::ConnectionReset
        );
        assert_eq!(
            stream.receive().await.expect_err("reset").kind(),
            ErrorKind::ConnectionReset
        );
        // In a read, which gives its vector back.
        let (mut stream, peer) = pair().await;
        let mut read = Box::pin(stream.read(Vec::with_capacity(100)));
        assert!(poll_once(&mut read).await.is_pending());
        reset(peer);
        let (result, vec) = read.await;
        assert_eq!(
            result.expect_err("reset").kind(),
            ErrorKind::ConnectionReset
        );
        assert_eq!(vec.capacity(), 100);
    });
}

#[test]
fn contract_61_a_dropped_receive_leaves_its_bytes_to_the_next() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        for round in 0..200_u32 {
            let mut receive = Box::pin(stream.receive());
            assert!(poll_once(&mut receive).await.is_pending());
            if round % 2 == 0 {
                drop(receive);
                peer.write_all(&round.to_be_bytes()).expect("write");
            } else {
                peer.write_all(&round.to_be_bytes()).expect("write");
                if round % 4 == 1 {
                    sleep(Duration::from_micros(u64::from(round))).await;
                }
                drop(receive);
            }
            assert_eq!(
                receive_exactly(&mut stream, 4).await.expect("receive"),
                round.to_be_bytes()
            );
        }
    });
}

#[test]
fn contract_61_nothing_is_lost_or_moved_whenever_receives_are_dropped() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        let sent = pattern(3_000_000);
        let writer = thread::spawn({
            let sent = sent.clone();
            move || {
                for (place, piece) in sent.chunks(1000).enumerate() {
                    peer.write_all(piece).expect("write");
                    if place % 4 == 0 {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
            }
        });
        let mut received = Vec::new();
        let mut dropped = 0;
        // All three ways to receive, each given up after times from nothing to 64 us.
        for round in 0_u64.. {
            let patience = Duration::from_micros(round % 17 * 4);
            let data = match round / 64 % 3 {
                0 => timeout(patience, stream.receive())
                    .await
                    .map(|data| data.map(|data| data.map(Buffer::into_vec))),
                1 => timeout(patience, stream.read(Vec::with_capacity(3000)))
                    .await
                    .map(|(result, vec)| result.map(|count| (count > 0).then_some(vec))),
                _ => {
                    // With bytes of its own before those that come.
                    let mut vec = Vec::with_capacity(777);
                    vec.extend(b"own");
                    timeout(patience, stream.read(vec))
                        .await
                        .map(|(result, vec)| {
                            assert_eq!(&vec[..3], b"own");
                            result.map(|count| (count > 0).then(|| vec[3..].to_vec()))
                        })
                }
            };
            match data {
                Err(_) => dropped += 1,
                Ok(Ok(Some(data))) => received.extend(data),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => panic!("{error}"),
            }
        }
        writer.join().expect("it wrote everything");
        assert_eq!(received.len(), sent.len());
        assert!(received == sent, "in order");
        assert!(
            dropped > 100,
            "only {dropped} futures were dropped: too few to show anything"
        );
    });
}

#[test]
fn a_vector_of_ones_own_is_filled_after_its_length() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"hello").expect("write");
        let mut vec = Vec::with_capacity(64);
        vec.extend(b"> ");
        let (result, vec) = stream.read(vec).await;
        assert_eq!((result.expect("no error"), &vec[..]), (5, &b"> hello"[..]));
        // What does not fit is for the next.
        peer.write_all(b"abcdefgh").expect("write");
        let mut all = Vec::new();
        while all.len() < 8 {
            let (result, vec) = stream.read(Vec::with_capacity(3)).await;
            assert!(result.expect("no error") <= 3);
            all.extend(vec);
        }
        assert_eq!(all, b"abcdefgh");
        let (result, vec) = stream.read(Vec::new()).await;
        assert_eq!(result.expect_err("no room").kind(), ErrorKind::InvalidInput);
        assert_eq!(vec.len(), 0);
        // Mixed with pooled receives, what was not taken stays in front.
        peer.write_all(b"12345").expect("write");
        let first = stream.receive().await.expect("no error").expect("data");
        assert_eq!(&first[..], b"12345");
        peer.write_all(b"67890").expect("write");
        let (result, vec) = stream.read(Vec::with_capacity(2)).await;
        assert_eq!((result.expect("no error"), &vec[..]), (2, &b"67"[..]));
        assert_eq!(bytes(stream.receive().await), b"890");
    });
}

#[test]
fn contract_62_a_dropped_send_is_still_sent_in_order() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        // More than the system takes at once: still on its way when it is dropped.
        let large = pattern(4_000_000);
        let mut send = Box::pin(stream.send(large.clone()));
        assert!(poll_once(&mut send).await.is_pending());
        drop(send);
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            read_to_end(&mut peer)
        });
        stream.send("end").await.expect("send");
        stream.shutdown(Shutdown::Write).await.expect("shutdown");
        let received = reader.join().expect("no panic").expect("read");
        assert_eq!(received.len(), large.len() + 3);
        assert!(received.starts_with(&large) && received.ends_with(b"end"));
    });
}

#[test]
fn contract_62_dropped_sends_are_bounded() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        let piece = pattern(30_000);
        let mut begun = 0;
        // Each is polled once and dropped; one that waits for room was not begun.
        for _ in 0..1000 {
            let mut send = Box::pin(stream.send_owned(piece.clone()));
            assert!(begun < 500, "the kernel's buffers hold some MiB");
            // Long enough to tell a system that takes no more from a slow one.
            let patience = Duration::from_millis(if cfg!(windows) { 300 } else { 50 });
            match timeout(patience, &mut send).await {
                Ok((result, _)) => {
                    result.expect("send");
                    begun += 1;
                }
                Err(_) => break,
            }
        }
        // Now the system takes no more. Polled once and dropped: two fit into 64 KiB.
        for _ in 0..100 {
            let mut send = Box::pin(stream.send(piece.clone()));
            assert!(poll_once(&mut send).await.is_pending());
        }
        let reader = thread::spawn(move || read_to_end(&mut peer));
        drop(stream);
        let received = reader.join().expect("no panic").expect("read");
        let pieces = received.len() / piece.len();
        assert_eq!(received.len() % piece.len(), 0, "whole pieces");
        assert!(
            pieces > begun && pieces <= begun + 2,
            "{pieces} arrived, {begun} had been taken"
        );
        assert!(received.chunks(piece.len()).all(|chunk| chunk == piece));
    });
}

#[test]
fn contract_63_a_dropped_accept_leaves_the_connection_to_the_next() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        for round in 0..100 {
            let mut accept = Box::pin(listener.accept());
            assert!(poll_once(&mut accept).await.is_pending());
            let peer = StdStream::connect(address).expect("connect");
            if round % 2 == 0 {
                sleep(Duration::from_micros(round * 10)).await;
            }
            drop(accept);
            let stream = listener.accept().await.expect("accept");
            assert_eq!(
                stream.peer_addr().expect("an address"),
                peer.local_addr().expect("an address")
            );
        }
    });
}

#[test]
fn contract_63_several_accepts_of_which_some_are_dropped() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        for _ in 0..50 {
            let mut accepts: Vec<_> = (0..5).map(|_| Box::pin(listener.accept())).collect();
            for accept in &mut accepts {
                assert!(poll_once(accept).await.is_pending());
            }
            let peers: Vec<_> = (0..2)
                .map(|_| StdStream::connect(address).expect("connect"))
                .collect();
            // Those that wait longest are woken, and dropped; the others get the connections.
            let rest = accepts.split_off(3);
            drop(accepts);
            let mut ports = Vec::new();
            for accept in rest {
                let stream = timeout(LONG, accept).await.expect("woken").expect("accept");
                ports.push(stream.peer_addr().expect("an address").port());
            }
            let mut expected: Vec<_> = peers
                .iter()
                .map(|peer| peer.local_addr().expect("an address").port())
                .collect();
            ports.sort_unstable();
            expected.sort_unstable();
            assert_eq!(ports, expected);
        }
    });
}

/// A listener whose backlog is full: the next connect hangs.
fn full_listener() -> (StdListener, Vec<StdStream>) {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("bind");
    socket.listen(0).expect("listen");
    let listener = StdListener::from(socket);
    let address = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(stream) = StdStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the backlog does not fill");
    }
    (listener, waiting)
}

#[test]
fn contract_64_a_dropped_connect_closes_its_socket() {
    let (listener, _waiting) = full_listener();
    let address = listener.local_addr().expect("an address");
    on_runtime(async {
        let connecting = || {
            sockets_at(address)
                .iter()
                .filter(|state| **state == 2)
                .count()
        };
        wait_until("earlier attempts are gone", || connecting() == 0);
        let mut connect = Box::pin(TcpStream::connect(address));
        assert!(poll_once(&mut connect).await.is_pending());
        wait_until("the system connects", || connecting() == 1);
        drop(connect);
        wait_until("the socket is closed", || connecting() == 0);
        // The same by a timeout.
        let start = Instant::now();
        let error = ConnectOptions::new()
            .timeout(Duration::from_millis(50))
            .connect(address)
            .await;
        assert_eq!(
            error.expect_err("nobody answers").kind(),
            ErrorKind::TimedOut
        );
        assert!(start.elapsed() < Duration::from_secs(5));
        wait_until("the socket is closed", || connecting() == 0);
    });
}

#[test]
fn contract_65_a_dropped_stream_sends_what_is_queued_and_closes() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        let large = pattern(4_000_000);
        let mut send = Box::pin(stream.send(large.clone()));
        assert!(poll_once(&mut send).await.is_pending());
        drop(send);
        drop(stream);
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            read_to_end(&mut peer)
        });
        while !reader.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(reader.join().expect("no panic").expect("a clean close") == large);
    });
}

#[test]
fn contract_65_a_dropped_stream_is_reset_at_the_deadline() {
    let runtime = Runtime::builder()
        .close_deadline(Duration::from_millis(100))
        .build()
        .expect("a runtime");
    run_on(&runtime, async {
        let (mut stream, mut peer) = pair().await;
        let address = peer.local_addr().expect("an address");
        let mut send = Box::pin(stream.send(vec![0; 16_000_000]));
        assert!(poll_once(&mut send).await.is_pending());
        drop(send);
        let start = Instant::now();
        drop(stream);
        wait_until("the socket is gone", || open_sockets_at(address) == 0);
        assert!(
            start.elapsed() >= Duration::from_millis(95),
            "after {:?}",
            start.elapsed()
        );
        let error = read_to_end(&mut peer).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_half_close_lets_the_answer_through() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        let answering = thread::spawn(move || {
            let question = read_to_end(&mut peer).expect("read");
            peer.write_all(b"re: ").expect("write");
            peer.write_all(&question).expect("write");
        });
        stream.send("question").await.expect("send");
        stream.shutdown(Shutdown::Write).await.expect("shutdown");
        assert_eq!(
            receive_exactly(&mut stream, 1000).await.expect("receive"),
            b"re: question"
        );
        let error = stream.send("more").await.expect_err("shut");
        // The standard library has no kind for WSAESHUTDOWN.
        let told = match cfg!(windows) {
            true => error.raw_os_error() == Some(10_058),
            false => error.kind() == ErrorKind::BrokenPipe,
        };
        assert!(told, "{error}");
        answering.join().expect("no panic");
    });
}

#[test]
fn sending_nothing_is_no_end() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        stream.send("").await.expect("send");
        stream.send_vectored(Vec::new()).await.expect("send");
        stream
            .send_vectored(vec!["".into(), "a".into(), "".into()])
            .await
            .expect("send");
        let (result, back) = stream.send_owned(Vec::new()).await;
        result.expect("send");
        assert!(back.is_empty());
        drop(stream);
        assert_eq!(read_to_end(&mut peer).expect("a clean close"), b"a");
    });
}

#[test]
fn a_shutdown_ends_what_waits() {
    on_runtime(async {
        for how in [Shutdown::Read, Shutdown::Both] {
            let (stream, mut peer) = pair().await;
            let (mut read, mut write) = stream.split();
            let waiting = runtime::spawn(async move { read.receive().await });
            sleep(Duration::from_millis(5)).await;
            write.shutdown(how).await.expect("shutdown");
            assert!(
                waiting
                    .await
                    .expect("no panic")
                    .expect("no error")
                    .is_none()
            );
            if how == Shutdown::Read {
                write.send("the other way").await.expect("send");
            }
            drop(write);
            let sent: &[u8] = if how == Shutdown::Read {
                b"the other way"
            } else {
                b""
            };
            assert_eq!(read_to_end(&mut peer).expect("a clean close"), sent);
        }
    });
}

#[test]
fn halves_work_at_the_same_time() {
    on_runtime(async {
        let (server, client) = connected().await;
        let sent = pattern(2_000_000);
        let mut tasks = Vec::new();
        for stream in [server, client] {
            let (mut read, mut write) = stream.split();
            let sent = sent.clone();
            let expected = sent.clone();
            tasks.push(runtime::spawn(async move {
                for piece in sent.chunks(10_000) {
                    write.send(piece.to_vec()).await.expect("send");
                }
                // Dropped, the half ends the stream for the other side.
            }));
            tasks.push(runtime::spawn(async move {
                let mut received = Vec::new();
                while let Some(data) = read.receive().await.expect("receive") {
                    received.extend_from_slice(&data);
                }
                assert!(received == expected, "{} bytes", received.len());
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
    });
}

#[test]
fn halves_are_reunited_if_they_belong_together() {
    on_runtime(async {
        let (mut one, two) = connected().await;
        let (read, write) = two.split();
        let mut two = read.reunite(write).expect("they do");
        two.send("still open").await.expect("send");
        assert_eq!(bytes(one.receive().await), b"still open");
        let (read, _write) = one.split();
        let (_read, write) = two.split();
        let error = read.reunite(write).expect_err("they do not");
        assert_eq!(
            error.to_string(),
            "the two halves are of different connections"
        );
    });
}

#[test]
fn dropped_halves_close_the_socket() {
    on_runtime(async {
        for order in 0..4 {
            let (stream, peer) = pair().await;
            let address = peer.local_addr().expect("an address");
            let (mut read, mut write) = stream.split();
            assert!(poll_once(&mut Box::pin(read.receive())).await.is_pending());
            write.send("last words").await.expect("send");
            match order {
                0 => drop((read, write)),
                1 => drop((write, read)),
                2 => {
                    drop(write);
                    sleep(Duration::from_millis(2)).await;
                    drop(read);
                }
                _ => {
                    drop(read);
                    sleep(Duration::from_millis(2)).await;
                    drop(write);
                }
            }
            let mut peer = peer;
            assert_eq!(
                read_to_end(&mut peer).expect("a clean close"),
                b"last words"
            );
            drop(peer);
            wait_until("both ends are closed", || open_sockets_at(address) == 0);
        }
    });
}

#[test]
fn a_reader_that_stops_slows_its_writer_down_and_loses_nothing() {
    on_runtime(async {
        let (mut stream, peer) = pair().await;
        // Fixed, as the system would let them grow to many MiB.
        SockRef::from(&peer)
            .set_send_buffer_size(64 * 1024)
            .expect("a socket");
        peer.set_nonblocking(true).expect("a socket");
        let sent = pattern(40_000_000);
        assert!(
            poll_once(&mut Box::pin(stream.receive()))
                .await
                .is_pending(),
            "the stream is begun"
        );
        let mut written = 0;
        let mut idle_since = Instant::now();
        while idle_since.elapsed() < Duration::from_millis(200) {
            match (&peer).write(&sent[written..]) {
                Ok(count) => {
                    written += count;
                    idle_since = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(1)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            written < 32_000_000,
            "{written} bytes went without anybody receiving them"
        );
        drop(peer);
        let received = receive_exactly(&mut stream, sent.len())
            .await
            .expect("receive");
        assert_eq!(received.len(), written);
        assert!(received == sent[..written], "in order");
    });
}

#[test]
fn options_are_set() {
    on_runtime(async {
        let (mut stream, _peer) = pair().await;
        stream.set_nodelay(true).await.expect("set");
        stream
            .set_keepalive(Some(Duration::from_secs(77)))
            .await
            .expect("set");
        stream
            .set_linger(Some(Duration::from_secs(3)))
            .await
            .expect("set");
        let (stream, received) = stream.into_std().await.expect("a descriptor");
        assert!(received.is_empty());
        assert!(stream.nodelay().expect("a socket"));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("a socket"));
        // Windows has no option to read it by.
        #[cfg(unix)]
        assert_eq!(
            socket.tcp_keepalive_time().expect("a socket"),
            Duration::from_secs(77)
        );
        assert_eq!(
            socket.linger().expect("a socket"),
            Some(Duration::from_secs(3))
        );
        let options = ListenOptions::new().nodelay(true).backlog(10);
        let listener = TcpListener::bind_with("127.0.0.1:0", options).expect("bind");
        let client = ConnectOptions::new()
            .nodelay(true)
            .connect(listener.local_addr().expect("an address"))
            .await;
        let server = listener.accept().await.expect("accept");
        for stream in [client.expect("connect"), server] {
            assert!(
                stream
                    .into_std()
                    .await
                    .expect("a descriptor")
                    .0
                    .nodelay()
                    .expect("a socket")
            );
        }
    });
}

#[test]
fn streams_go_to_std_and_come_back() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        // Begins the stream of receives, which then has data that nobody asked for.
        assert!(
            poll_once(&mut Box::pin(stream.receive()))
                .await
                .is_pending()
        );
        peer.write_all(b"early").expect("write");
        sleep(Duration::from_millis(20)).await;
        let (mut std, received) = stream.into_std().await.expect("a descriptor");
        let mut early: Vec<u8> = received.into_iter().flat_map(Buffer::into_vec).collect();
        peer.write_all(b"late").expect("write");
        std.set_read_timeout(Some(LONG)).expect("a socket");
        while early.len() < 9 {
            let mut rest = [0; 16];
            let count = std.read(&mut rest).expect("read");
            assert!(count > 0);
            early.extend_from_slice(&rest[..count]);
        }
        assert_eq!(early, b"earlylate");
        std.write_all(b"x").expect("it is still open");
        // Windows never lets a socket go from the port that it was associated with.
        #[cfg(windows)]
        let (Err(_), (mut stream, mut peer)) = (TcpStream::from_std(std), pair().await) else {
            panic!("associated a second time");
        };
        #[cfg(unix)]
        let mut stream = TcpStream::from_std(std).expect("associate");
        peer.write_all(b"again").expect("write");
        assert_eq!(
            receive_exactly(&mut stream, 5).await.expect("receive"),
            b"again"
        );
        stream.send("y").await.expect("send");
        drop(stream);
        let all = read_to_end(&mut peer).expect("a clean close");
        assert_eq!(all, if cfg!(windows) { &b"y"[..] } else { b"xy" });
        let listener = TcpListener::from_std(StdListener::bind("127.0.0.1:0").expect("bind"))
            .expect("associate");
        let _client =
            StdStream::connect(listener.local_addr().expect("an address")).expect("connect");
        listener.accept().await.expect("accept");
    });
}

#[test]
fn addresses_are_known() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let source = SocketAddr::from(([127, 0, 0, 9], 0));
        let client = ConnectOptions::new()
            .source(source)
            .connect(address)
            .await
            .expect("connect");
        let server = listener.accept().await.expect("accept");
        assert_eq!(client.local_addr().expect("an address").ip(), source.ip());
        assert_eq!(client.peer_addr().expect("an address"), address);
        assert_eq!(server.local_addr().expect("an address"), address);
        assert_eq!(
            server.peer_addr().expect("an address"),
            client.local_addr().expect("an address")
        );
        let (read, write) = client.split();
        assert_eq!(read.peer_addr().expect("an address"), address);
        assert_eq!(
            write.local_addr().expect("an address"),
            server.peer_addr().expect("an address")
        );
        // IPv6 where the machine has it.
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            let client = TcpStream::connect(listener.local_addr().expect("an address"))
                .await
                .expect("connect");
            let server = listener.accept().await.expect("accept");
            assert_eq!(
                server.peer_addr().expect("an address"),
                client.local_addr().expect("an address")
            );
        }
    });
}

/// `ECONNREFUSED`, `WSAECONNREFUSED`
const REFUSED: i32 = if cfg!(windows) { 10_061 } else { 111 };
/// `EADDRINUSE`, `WSAEADDRINUSE`
const IN_USE: i32 = if cfg!(windows) { 10_048 } else { 98 };

#[test]
fn refusals_keep_their_codes() {
    on_runtime(async {
        let free = StdListener::bind("127.0.0.1:0")
            .expect("bind")
            .local_addr()
            .expect("an address");
        let error = TcpStream::connect(free).await.expect_err("nobody listens");
        assert_eq!(
            (error.kind(), error.raw_os_error()),
            (ErrorKind::ConnectionRefused, Some(REFUSED))
        );
        let taken = StdListener::bind("127.0.0.1:0").expect("bind");
        let error = TcpListener::bind(taken.local_addr().expect("an address")).expect_err("taken");
        assert_eq!(
            (error.kind(), error.raw_os_error()),
            (ErrorKind::AddrInUse, Some(IN_USE))
        );
        let none: &[SocketAddr] = &[];
        assert_eq!(
            TcpStream::connect(none)
                .await
                .expect_err("no address")
                .kind(),
            ErrorKind::InvalidInput
        );
        // The first address fails, the second one is fine.
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addresses = [free, listener.local_addr().expect("an address")];
        TcpStream::connect(&addresses[..]).await.expect("connect");
    });
    let error = TcpListener::bind("127.0.0.1:0").expect_err("outside of a runtime");
    assert!(
        error.to_string().contains("no Landfall runtime here"),
        "{error}"
    );
}

#[test]
fn an_idle_timeout_ends_waits_and_only_those() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        // Under Wine a message may take tens of milliseconds.
        let period = Duration::from_millis(if cfg!(windows) { 300 } else { 60 });
        stream.set_idle_timeout(Some(period));
        // Traffic keeps it open for longer than the period.
        let start = Instant::now();
        while start.elapsed() < 4 * period {
            peer.write_all(b"x").expect("write");
            assert_eq!(bytes(stream.receive().await), b"x");
            sleep(period / 4).await;
        }
        // Work on something else is no waiting.
        sleep(3 * period).await;
        stream.send("still there").await.expect("send");
        let start = Instant::now();
        let error = stream.receive().await.expect_err("silence");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let waited = start.elapsed();
        assert!(
            waited >= period - Duration::from_millis(1) && waited < 5 * period,
            "waited {waited:?}"
        );
        // The stream is none the worse for it.
        stream.send("goodbye").await.expect("send");
        let (result, vec) = stream.read(Vec::with_capacity(10)).await;
        assert_eq!(
            (result.expect_err("silence").kind(), vec.capacity()),
            (ErrorKind::TimedOut, 10)
        );
        peer.write_all(b"late").expect("write");
        assert_eq!(bytes(stream.receive().await), b"late");
        // A peer that takes nothing.
        let error = stream
            .send(vec![0; 16_000_000])
            .await
            .expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(is_idle_timeout(&error));
        // A receive that was given up is not timed out later, in another one's place.
        let given_up = timeout(period / 2, stream.receive())
            .await
            .expect_err("silence");
        assert!(!is_idle_timeout(&given_up.into()));
        sleep(2 * period).await;
        stream.set_idle_timeout(None);
        assert!(
            timeout(3 * period, stream.receive()).await.is_err(),
            "no timeout any more"
        );
    });
}

#[test]
fn waiting_again_is_no_traffic() {
    on_runtime(async {
        let (mut stream, _peer) = pair().await;
        let period = Duration::from_millis(100);
        stream.set_idle_timeout(Some(period));
        // One wait after another, as beside other events, and one that is polled for no reason.
        let error = loop {
            if let Ok(received) = timeout(period / 5, stream.receive()).await {
                break received.expect_err("silence");
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let mut receive = Box::pin(stream.receive());
        let error = loop {
            if let Poll::Ready(received) = poll_once(&mut receive).await {
                break received.expect_err("silence");
            }
            sleep(period / 5).await;
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn a_panicking_task_closes_its_connection() {
    on_runtime(async {
        let (mut stream, mut peer) = pair().await;
        let task = runtime::spawn(async move {
            stream.receive().await.expect("receive");
            panic!("in a handler");
        });
        peer.write_all(b"x").expect("write");
        assert!(task.await.expect_err("it panics").is_panic());
        assert_eq!(read_to_end(&mut peer).expect("a clean close"), b"");
    });
}

#[test]
fn dropping_the_runtime_closes_everything_whatever_goes_on() {
    let (full, _waiting) = full_listener();
    let never = full.local_addr().expect("an address");
    let runtime = Runtime::new().expect("a runtime");
    let mut peers = Vec::new();
    // More than the system takes.
    let much = Bytes::from(vec![0; 16_000_000]);
    let address = run_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        for kind in 0..100 {
            peers.push(StdStream::connect(address).expect("connect"));
            let mut stream = listener.accept().await.expect("accept");
            let much = much.clone();
            drop(runtime::spawn(async move {
                match kind % 4 {
                    0 => drop(stream.receive().await),
                    1 => drop(stream.read(Vec::with_capacity(1000)).await),
                    2 => drop(stream.send(much).await),
                    _ => {
                        drop(timeout(Duration::from_millis(1), stream.send(much)).await);
                        // In the middle of a close that waits for the queue.
                        drop(stream);
                    }
                }
            }));
        }
        drop(runtime::spawn(async move {
            drop(TcpStream::connect(never).await)
        }));
        drop(runtime::spawn(async move { drop(listener.accept().await) }));
        sleep(Duration::from_millis(30)).await;
        address
    });
    let start = Instant::now();
    drop(runtime);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "took {:?}",
        start.elapsed()
    );
    for mut peer in peers {
        peer.set_read_timeout(Some(LONG)).expect("a socket");
        // Closed or reset, with or without something before; never silent.
        let mut rest = Vec::new();
        let end = peer.read_to_end(&mut rest);
        assert!(!matches!(end, Err(error) if error.kind() == ErrorKind::WouldBlock));
    }
    wait_until("all sockets are gone", || open_sockets_at(address) == 0);
}

#[test]
fn a_thousand_connections_at_once() {
    // Under Wine each takes a hundred times as long.
    const ROUNDS: u32 = if cfg!(windows) { 4 } else { 20 };
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let server = runtime::spawn(async move {
            for _ in 0..1000 {
                let mut stream = listener.accept().await?;
                drop(runtime::spawn(async move {
                    while let Some(data) = stream.receive().await? {
                        stream.send(data).await?;
                    }
                    Ok::<_, io::Error>(())
                }));
            }
            Ok::<_, io::Error>(())
        });
        let clients: Vec<_> = (0..1000_u32)
            .map(|number| {
                runtime::spawn(async move {
                    let mut stream = TcpStream::connect(address).await?;
                    for round in 0..ROUNDS {
                        let text = [number.to_be_bytes(), round.to_be_bytes()].concat();
                        stream.send(text.clone()).await?;
                        assert_eq!(receive_exactly(&mut stream, 8).await?, text);
                    }
                    Ok::<_, io::Error>(())
                })
            })
            .collect();
        for client in clients {
            client.await.expect("no panic").expect("no error");
        }
        server.await.expect("no panic").expect("no error");
        wait_until("every socket is closed", || open_sockets_at(address) == 0);
    });
}

#[test]
fn tasks_aborted_at_any_moment_leave_nothing_open() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let server = runtime::spawn(async move {
            let mut handlers = Vec::new();
            loop {
                let mut stream = listener.accept().await?;
                handlers.push(runtime::spawn(async move {
                    while let Some(data) = stream.receive().await? {
                        stream.send(data).await?;
                    }
                    Ok::<_, io::Error>(())
                }));
                if handlers.len() % 7 == 0 {
                    let index = handlers.len() / 2;
                    let mut handler = handlers.swap_remove(index);
                    handler.abort();
                    drop(handler);
                }
            }
            #[allow(unreachable_code, reason = "gives the task its type")]
            Ok::<_, io::Error>(())
        });
        for round in 0..300_u64 {
            let mut client = runtime::spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                loop {
                    stream.send(vec![0; 5000]).await?;
                    if stream.receive().await?.is_none() {
                        return Ok::<_, io::Error>(());
                    }
                }
            });
            sleep(Duration::from_micros(round * 5)).await;
            client.abort();
            // Aborted, unless the server's abort of its end came first.
            drop(client.await);
        }
        let mut server = server;
        server.abort();
        assert!(server.await.is_err());
        wait_until("every socket is closed", || open_sockets_at(address) == 0);
    });
}

#[test]
fn a_stream_works_from_a_thread_that_is_no_worker() {
    let runtime = Runtime::new().expect("a runtime");
    let other = Runtime::new().expect("another");
    let (mut server, mut client) = run_on(&runtime, connected());
    // The other runtime's tasks wait for completions of the first one's port.
    let mut server = run_on(&other, async {
        let echo = runtime::spawn(async move {
            let data = server.receive().await?.expect("data");
            server.send(data).await?;
            Ok::<_, io::Error>(server)
        });
        client.send("from abroad").await.expect("send");
        assert_eq!(bytes(client.receive().await), b"from abroad");
        echo.await.expect("no panic").expect("no error")
    });
    // Of a runtime that is gone, nothing works, and nothing hangs.
    drop(runtime);
    run_on(&other, async {
        assert!(client.receive().await.is_err());
        assert!(client.send("x").await.is_err());
        assert!(server.read(Vec::with_capacity(1)).await.0.is_err());
    });
}

#[test]
fn receives_and_sends_go_on_while_a_neighbour_blocks() {
    let runtime = Runtime::builder()
        .concurrency(1)
        .workers(2)
        .build()
        .expect("a runtime");
    run_on(&runtime, async {
        let (mut stream, mut peer) = pair().await;
        let echo = runtime::spawn(async move {
            while let Some(data) = stream.receive().await? {
                stream.send(data).await?;
            }
            Ok::<_, io::Error>(())
        });
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocker = runtime::spawn(async move { blocked.recv() });
        let started = Instant::now();
        for round in 0..100_u32 {
            echo_once(&mut peer, &round.to_be_bytes()).expect("echo");
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "took {took:?}");
        release.send(()).expect("it is blocked");
        blocker.await.expect("no panic").expect("released");
        drop(peer);
        echo.await.expect("no panic").expect("no error");
    });
}

#[test]
fn one_task_waits_for_several_things() {
    on_runtime(async {
        let (mut one, mut one_peer) = pair().await;
        let (mut two, mut two_peer) = pair().await;
        let mut got = Vec::new();
        {
            let mut first = pin!(one.receive());
            let mut second = pin!(two.receive());
            one_peer.write_all(b"1").expect("write");
            let mut done = (false, false);
            poll_fn(|cx| {
                if !done.0 {
                    if let Poll::Ready(data) = first.as_mut().poll(cx) {
                        got.extend(bytes(data));
                        done.0 = true;
                        two_peer.write_all(b"2").expect("write");
                    }
                }
                if !done.1 {
                    if let Poll::Ready(data) = second.as_mut().poll(cx) {
                        got.extend(bytes(data));
                        done.1 = true;
                    }
                }
                if done == (true, true) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        assert_eq!(got, b"12");
    });
}

#[test]
fn public_types_cross_threads() {
    fn both<T: Send + Sync>() {}
    both::<TcpStream>();
    both::<TcpListener>();
    both::<landfall::net::ReadHalf>();
    both::<landfall::net::WriteHalf>();
    both::<landfall::net::ReuniteError>();
    both::<ConnectOptions>();
    both::<ListenOptions>();
    fn send<T: Send>(_: T) {}
    fn futures(stream: &mut TcpStream, listener: &TcpListener) {
        send(stream.receive());
        send(stream.read(Vec::new()));
        send(stream.send("x"));
        send(stream.send_owned("x"));
        send(stream.send_vectored(Vec::new()));
        send(stream.shutdown(Shutdown::Both));
        send(stream.set_nodelay(true));
        send(listener.accept());
        send(TcpStream::connect("127.0.0.1:1"));
    }
    let _ = futures;
}

#[test]
fn waits_elsewhere_end_when_the_runtime_is_dropped() {
    let runtime = Runtime::new().expect("a runtime");
    let other = Runtime::new().expect("another");
    let (listener, receiving, reading, sending, _ends) = run_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ((one, end), (two, other_end), (three, third_end)) =
            (connected().await, connected().await, connected().await);
        (listener, one, two, three, [end, other_end, third_end])
    });
    let waits: Vec<runtime::JoinHandle<io::Error>> = vec![
        other.spawn(async move { listener.accept().await.expect_err("nobody comes") }),
        other.spawn(async move {
            let mut stream = receiving;
            stream.receive().await.expect_err("nothing comes")
        }),
        other.spawn(async move {
            let mut stream = reading;
            stream
                .read(Vec::with_capacity(1))
                .await
                .0
                .expect_err("nothing comes")
        }),
        other.spawn(async move {
            let mut stream = sending;
            stream
                .send(vec![0; 64_000_000])
                .await
                .expect_err("nobody takes it")
        }),
    ];
    thread::sleep(Duration::from_millis(50));
    drop(runtime);
    run_on(&other, async {
        for wait in waits {
            let error = wait.await.expect("no panic");
            assert!(
                error.to_string().ends_with("runtime has been dropped"),
                "{error}"
            );
        }
    });
}

#[test]
fn a_stream_with_an_idle_timeout_may_outlive_its_runtime() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let runtime = Runtime::new().expect("a runtime");
    let mut stream = runtime
        .block_on(TcpStream::connect(address))
        .expect("connect");
    stream.set_idle_timeout(Some(Duration::from_secs(30)));
    drop(runtime);
    stream.set_idle_timeout(Some(Duration::from_secs(1)));
}

/// Whether this machine has IPv6, which containers often lack.
fn has_ipv6() -> bool {
    let has = StdListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped: no IPv6 here");
    }
    has
}

#[test]
fn both_families_can_be_listened_on_at_one_port() {
    if !has_ipv6() {
        return;
    }
    on_runtime(async {
        let six = TcpListener::bind("[::]:0").expect("a free port");
        let port = six.local_addr().expect("an address").port();
        let four = TcpListener::bind(("0.0.0.0", port)).expect("the port is free for the other");
        for (listener, address) in [(&six, "::1"), (&four, "127.0.0.1")] {
            let client = StdStream::connect((address, port)).expect("connect");
            let accepted = listener.accept().await.expect("accept");
            let peer = accepted.peer_addr().expect("an address");
            assert_eq!(peer, client.local_addr().expect("an address"));
        }
    });
}

#[test]
fn a_listener_of_both_families_takes_clients_of_either() {
    if !has_ipv6() {
        return;
    }
    on_runtime(async {
        let options = ListenOptions::new().dual_stack(true);
        let listener = TcpListener::bind_with("[::]:0", options).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        for address in ["::1", "127.0.0.1"] {
            let _client = StdStream::connect((address, port)).expect("connect");
            let accepted = listener.accept().await.expect("accept");
            let peer = accepted.peer_addr().expect("an address");
            assert_eq!(peer.ip().to_canonical().to_string(), address);
        }
    });
}
