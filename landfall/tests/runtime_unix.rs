//! Unix sockets on the runtime: what holds for TCP holds for them. The numbers are those of the
//! contract.
#![cfg(unix)]

#[path = "common/mod.rs"]
mod common;
mod runtime_support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall::buffer::Buffer;
use landfall::net::{Family, Stream, UnixListener, UnixStream, is_idle_timeout};
use landfall::runtime::time::{sleep, timeout};
use landfall::runtime::{self, Runtime};

use common::Scratch;
use runtime_support::{
    LONG, bytes, on_runtime, pattern, poll_once, read_to_end, receive_exactly, run_on, wait_until,
};

/// A connection with an ordinary socket at the other end.
fn pair() -> (UnixStream, StdStream) {
    let (ours, peer) = StdStream::pair().expect("a pair");
    peer.set_read_timeout(Some(LONG)).expect("a socket");
    peer.set_write_timeout(Some(LONG)).expect("a socket");
    (UnixStream::from_std(ours).expect("associates"), peer)
}

/// A listener, and the path that it is at.
fn listening() -> (UnixListener, Scratch) {
    let path = Scratch::new();
    (UnixListener::bind(&path.0).expect("bind"), path)
}

/// Sends back what comes, until the end.
async fn echo<F: Family>(mut stream: Stream<F>) -> io::Result<()> {
    while let Some(data) = stream.receive().await? {
        stream.send(data).await?;
    }
    Ok(())
}

#[test]
fn what_is_sent_is_received_from_every_kind_of_buffer() {
    on_runtime(async {
        let (listener, path) = listening();
        let mut client = UnixStream::connect(&path.0).await.expect("connect");
        let mut server = listener.accept().await.expect("accept");
        client.send("static").await.expect("send");
        client
            .send(Bytes::from_static(b" bytes"))
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

        let (result, start) = server.read(Vec::with_capacity(6)).await;
        assert_eq!((result.expect("read"), &start[..]), (6, &b"static"[..]));
        let rest = receive_exactly(&mut server, 1000).await.expect("receive");
        assert_eq!(String::from_utf8_lossy(&rest), " bytes owned vectored zero");
        assert!(server.receive().await.expect("no error").is_none());
    });
}

#[test]
fn a_half_close_lets_the_answer_through() {
    on_runtime(async {
        let (mut stream, mut peer) = pair();
        let answering = thread::spawn(move || {
            let question = read_to_end(&mut peer).expect("read");
            peer.write_all(&question).expect("write");
        });
        stream.send("question").await.expect("send");
        stream.shutdown(Shutdown::Write).await.expect("shutdown");
        let answer = receive_exactly(&mut stream, 100).await.expect("receive");
        assert_eq!(answer, b"question");
        answering.join().expect("no panic");
    });
}

#[test]
fn megabytes_pass_both_ways_at_a_time_through_two_halves() {
    const SIZE: usize = 4 << 20;
    on_runtime(async {
        let (one, other) = UnixStream::pair().expect("a pair");
        let server = runtime::spawn(echo(other));
        let (mut read, mut write) = one.split();
        let sending = runtime::spawn(async move {
            for piece in pattern(SIZE).chunks(300_000) {
                write.send(piece.to_vec()).await?;
            }
            write.shutdown(Shutdown::Write).await?;
            Ok::<_, io::Error>(write)
        });
        let mut all = Vec::new();
        while let Some(data) = read.receive().await.expect("receive") {
            all.extend_from_slice(&data);
        }
        assert!(all == pattern(SIZE), "every byte, in order");
        let write = sending.await.expect("no panic").expect("sent");
        server.await.expect("no panic").expect("no error");
        assert!(write.local_addr().expect("open").is_unnamed());
        read.reunite(write).expect("the halves of one connection");
    });
}

#[test]
fn a_dropped_half_ends_its_direction() {
    on_runtime(async {
        let (stream, mut peer) = pair();
        let (mut read, write) = stream.split();
        drop(write);
        let text = thread::spawn(move || {
            let text = read_to_end(&mut peer).expect("an orderly end");
            peer.write_all(b"still here").expect("write");
            text
        });
        assert_eq!(bytes(read.receive().await), b"still here");
        assert!(text.join().expect("no panic").is_empty());
    });
}

#[test]
fn many_clients_are_served_at_a_time() {
    const CLIENTS: usize = 50;
    on_runtime(async {
        let (listener, path) = listening();
        let server = runtime::spawn(async move {
            let mut connections = Vec::new();
            for _ in 0..CLIENTS {
                connections.push(runtime::spawn(echo(listener.accept().await?)));
            }
            for connection in connections {
                connection.await??;
            }
            Ok::<_, io::Error>(())
        });
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let path = path.0.clone();
            clients.push(runtime::spawn(async move {
                let mut stream = UnixStream::connect(&path).await?;
                let text = pattern(1000 + number);
                stream.send(text.clone()).await?;
                let echo = receive_exactly(&mut stream, text.len()).await?;
                assert_eq!(echo, text);
                Ok::<_, io::Error>(())
            }));
        }
        for client in clients {
            client.await.expect("no panic").expect("no error");
        }
        server.await.expect("no panic").expect("no error");
    });
}

#[test]
fn contract_61_a_dropped_receive_leaves_its_bytes_to_the_next() {
    on_runtime(async {
        let (mut stream, mut peer) = pair();
        let mut receive = Box::pin(stream.receive());
        assert!(poll_once(&mut receive).await.is_pending());
        peer.write_all(b"kept").expect("write");
        sleep(Duration::from_millis(5)).await;
        drop(receive);
        assert_eq!(bytes(stream.receive().await), b"kept");
    });
}

#[test]
fn contract_63_a_dropped_accept_leaves_its_connection_to_the_next() {
    on_runtime(async {
        let (listener, path) = listening();
        let mut accept = Box::pin(listener.accept());
        assert!(poll_once(&mut accept).await.is_pending());
        let mut peer = StdStream::connect(&path.0).expect("connect");
        sleep(Duration::from_millis(5)).await;
        drop(accept);
        peer.write_all(b"it is me").expect("write");
        let mut stream = listener.accept().await.expect("accept");
        assert_eq!(bytes(stream.receive().await), b"it is me");
    });
}

#[test]
fn contract_65_a_dropped_stream_is_closed_after_its_queued_sends() {
    const SIZE: usize = 4 << 20;
    on_runtime(async {
        let (mut stream, mut peer) = pair();
        let mut send = Box::pin(stream.send(pattern(SIZE)));
        assert!(poll_once(&mut send).await.is_pending());
        drop(send);
        drop(stream);
        let reading = thread::spawn(move || read_to_end(&mut peer).expect("an orderly end"));
        wait_until("all is read", || reading.is_finished());
        assert!(reading.join().expect("no panic") == pattern(SIZE));
    });
}

#[test]
fn contract_65_a_dropped_stream_ends_at_the_deadline() {
    const SIZE: usize = 16_000_000;
    const DEADLINE: Duration = Duration::from_millis(100);
    let runtime = Runtime::builder()
        .close_deadline(DEADLINE)
        .build()
        .expect("a runtime");
    run_on(&runtime, async {
        let (mut stream, mut peer) = pair();
        let mut send = Box::pin(stream.send(vec![0; SIZE]));
        assert!(poll_once(&mut send).await.is_pending());
        drop(send);
        let start = Instant::now();
        drop(stream);
        // Nothing is read before, so this is the deadline's doing.
        wait_until("the other end is closed", || peer.write_all(b"?").is_err());
        assert!(start.elapsed() >= DEADLINE - Duration::from_millis(5));
        // Linux tells of the question marks that nobody read; once.
        let arrived = peer.read(&mut [0; 1000]);
        assert!(arrived.is_ok_and(|count| count > 0), "what had gone");
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
        assert!(rest.len() < SIZE, "the rest had not");
    });
}

#[test]
fn a_peer_that_closes_is_an_end_and_then_a_reset_to_sends() {
    on_runtime(async {
        let (mut stream, mut peer) = pair();
        peer.write_all(b"bye").expect("write");
        drop(peer);
        assert_eq!(bytes(stream.receive().await), b"bye");
        for _ in 0..2 {
            assert!(stream.receive().await.expect("no error").is_none());
        }
        for _ in 0..2 {
            let error = stream.send("late").await.expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn contract_40_a_peer_that_closes_with_bytes_unread_is_a_reset() {
    on_runtime(async {
        let (mut stream, peer) = pair();
        stream.send("unread").await.expect("send");
        let mut receive = Box::pin(stream.receive());
        assert!(poll_once(&mut receive).await.is_pending());
        drop(peer);
        let error = receive.await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = stream.receive().await.expect_err("still");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_silent_peer_is_timed_out() {
    on_runtime(async {
        let (mut stream, _peer) = pair();
        stream.set_idle_timeout(Some(Duration::from_millis(30)));
        let error = stream.receive().await.expect_err("silent");
        assert!(is_idle_timeout(&error), "{error}");
    });
}

#[test]
fn a_file_is_sent_between_other_bytes() {
    const SIZE: usize = 1 << 20;
    let scratch = Scratch::holding(&pattern(SIZE));
    on_runtime(async {
        let (mut stream, mut peer) = pair();
        let reading = thread::spawn(move || read_to_end(&mut peer).expect("an orderly end"));
        let file = landfall::fs::File::open(&scratch.0).await.expect("open");
        stream.send("<").await.expect("send");
        let sent = stream.send_file(&file, 1, u64::MAX).await.expect("sent");
        assert_eq!(sent, SIZE as u64 - 1);
        stream.send(">").await.expect("send");
        drop(stream);
        wait_until("all is read", || reading.is_finished());
        let expected = [b"<", &pattern(SIZE)[1..], b">"].concat();
        assert!(reading.join().expect("no panic") == expected);
    });
}

#[test]
fn a_stream_goes_back_to_the_standard_library_with_what_had_arrived() {
    on_runtime(async {
        let (mut stream, mut peer) = pair();
        peer.write_all(b"one").expect("write");
        assert_eq!(bytes(stream.receive().await), b"one");
        peer.write_all(b"two").expect("write");
        let (mut ours, received) = stream.into_std().await.expect("a descriptor");
        let mode = socket2::SockRef::from(&ours).nonblocking();
        assert!(!mode.expect("it is open"), "a read of it waits");
        let mut text: Vec<u8> = received.iter().flat_map(|data| data.to_vec()).collect();
        peer.write_all(b"three").expect("write");
        drop(peer);
        ours.read_to_end(&mut text).expect("it blocks");
        assert_eq!(text, b"twothree");
    });
}

#[test]
fn the_file_of_a_listener_is_the_programs() {
    on_runtime(async {
        let (listener, path) = listening();
        let address = listener.local_addr().expect("bound");
        assert_eq!(address.as_pathname(), Some(&*path.0));
        drop(listener);
        assert!(path.0.exists(), "it stays");
        let error = UnixListener::bind(&path.0).expect_err("it is in the way");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(path.0.exists(), "whoever it is of");

        std::fs::remove_file(&path.0).expect("it is there");
        let listener = UnixListener::bind(&path.0).expect("the path is free");
        let client = UnixStream::connect(&path.0).await.expect("connect");
        let server = listener.accept().await.expect("accept");
        for (near, far) in [(&client, &server), (&server, &client)] {
            let (local, peer) = (near.local_addr(), far.peer_addr());
            let (local, peer) = (local.expect("open"), peer.expect("open"));
            assert_eq!(local.as_pathname(), peer.as_pathname());
        }
        assert!(client.local_addr().expect("open").is_unnamed());
        assert!(format!("{client:?} {listener:?}").starts_with("UnixStream "));
    });
}

#[test]
fn what_cannot_be_connected_to_says_why() {
    on_runtime(async {
        let path = Scratch::new();
        let kind = |result: io::Result<UnixStream>| result.expect_err("nobody").kind();
        assert_eq!(
            kind(UnixStream::connect(&path.0).await),
            ErrorKind::NotFound
        );
        drop(StdListener::bind(&path.0).expect("bind"));
        assert_eq!(
            kind(UnixStream::connect(&path.0).await),
            ErrorKind::ConnectionRefused
        );
        let long = "x".repeat(200);
        assert_eq!(
            kind(UnixStream::connect(&long).await),
            ErrorKind::InvalidInput
        );
        assert!(UnixListener::bind(&long).is_err());
        let (peer, _other) = StdStream::pair().expect("a pair");
        let unnamed = peer.local_addr().expect("open");
        assert_eq!(
            kind(UnixStream::connect_addr(&unnamed).await),
            ErrorKind::InvalidInput
        );
    });
    let path = Scratch::new();
    UnixListener::bind(&path.0).expect_err("outside of a runtime");
    assert!(!path.0.exists(), "nothing was bound");
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_is_listened_on_and_connected_to() {
    use std::os::linux::net::SocketAddrExt;

    on_runtime(async {
        let unique = Scratch::new();
        let name = unique.0.as_os_str().as_encoded_bytes();
        let address = SocketAddr::from_abstract_name(name).expect("short");
        let listener = UnixListener::bind_addr(&address).expect("the name is free");
        let mut client = UnixStream::connect_addr(&address).await.expect("connect");
        let server = listener.accept().await.expect("accept");
        let peer = client.peer_addr().expect("open");
        assert_eq!(peer.as_abstract_name(), Some(name));
        let server = runtime::spawn(echo(server));
        client.send("abstract").await.expect("send");
        assert_eq!(bytes(client.receive().await), b"abstract");
        drop(client);
        server.await.expect("no panic").expect("no error");
    });
}

/// A listener that lets few wait, with as many waiting.
#[cfg(target_os = "linux")]
fn full(path: &Path) -> (StdListener, Vec<socket2::Socket>) {
    use socket2::{Domain, SockAddr, Socket, Type};

    let address = SockAddr::unix(path).expect("short");
    let socket = || Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let listener = socket();
    listener.bind(&address).expect("the path is free");
    listener.listen(1).expect("it is bound");
    let mut waiting = Vec::new();
    loop {
        let client = socket();
        client.set_nonblocking(true).expect("a socket");
        match client.connect(&address) {
            Ok(()) => waiting.push(client),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(waiting.len() < 10, "the system has another limit");
    }
    let listener = std::os::fd::OwnedFd::from(listener);
    (listener.into(), waiting)
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_whose_backlog_is_full_is_connected_to_when_it_has_room() {
    on_runtime(async {
        let path = Scratch::new();
        let (listener, _waiting) = full(&path.0);
        let short = timeout(Duration::from_millis(30), UnixStream::connect(&path.0));
        short.await.expect_err("there is no room");
        let mut connect = Box::pin(UnixStream::connect(&path.0));
        for _ in 0..3 {
            assert!(poll_once(&mut connect).await.is_pending());
            sleep(Duration::from_millis(2)).await;
        }
        listener.accept().expect("one waits");
        connect.await.expect("there is room");
    });
}

/// Runs `socat` with a text to say, and returns what it says.
fn socat(arguments: &[&str], text: &[u8]) -> Vec<u8> {
    let mut socat = Command::new("socat")
        .args(["-t", "5"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("socat is installed");
    let mut stdin = socat.stdin.take().expect("piped");
    let text = text.to_vec();
    let writing = thread::spawn(move || stdin.write_all(&text));
    let output = socat.wait_with_output().expect("it ends");
    writing.join().expect("no panic").expect("it reads all");
    assert!(output.status.success(), "{}", output.status);
    output.stdout
}

/// Lets a thread's work be waited for by a task.
async fn finished<T>(thread: thread::JoinHandle<T>) -> T {
    while !thread.is_finished() {
        sleep(Duration::from_millis(1)).await;
    }
    thread.join().expect("no panic")
}

#[test]
fn socat_connects_and_hears_its_echo() {
    const SIZE: usize = 1 << 20;
    on_runtime(async {
        let (listener, path) = listening();
        let address = format!("UNIX-CONNECT:{}", path.0.display());
        let talking = thread::spawn(move || socat(&["-", &address], &pattern(SIZE)));
        echo(listener.accept().await.expect("accept"))
            .await
            .expect("socat ends in order");
        assert!(finished(talking).await == pattern(SIZE));
    });
}

#[test]
fn socat_listens_and_is_heard() {
    const SIZE: usize = 1 << 20;
    on_runtime(async {
        let path = Scratch::new();
        let address = format!("UNIX-LISTEN:{}", path.0.display());
        let mut listening = Command::new("socat")
            .args(["-t", "5", &address, "EXEC:cat"])
            .spawn()
            .expect("socat is installed");
        let stream = connect_when_there(&path.0).await;
        let (mut read, mut write) = stream.split();
        let sending = runtime::spawn(async move {
            write.send(pattern(SIZE)).await?;
            write.shutdown(Shutdown::Write).await
        });
        let mut all = Vec::new();
        while let Some(data) = read.receive().await.expect("receive") {
            all.extend_from_slice(&data);
        }
        sending.await.expect("no panic").expect("sent");
        assert!(all == pattern(SIZE), "every byte, in order");
        drop(read);
        let status = finished(thread::spawn(move || listening.wait())).await;
        assert!(status.expect("a child").success());
    });
}

/// Connects as soon as there is somebody to connect to.
async fn connect_when_there(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            Err(_) => sleep(Duration::from_millis(2)).await,
        }
    }
}
