//! Unix sockets: what holds for TCP, where the system goes another way about it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall::port::{
    Accept, BufferPolicy, Completion, CompletionKind, CompletionPort, Handle, Operation, is_aborted,
};

use crate::common::Scratch;
use crate::files::pattern;
use crate::support::{
    PATIENCE, assert_quiet, eventually, for_each_driver, next, post, until_final,
};
use crate::threads::Worker;

/// A listener of a port, and its path.
fn listening(port: &CompletionPort, key: usize) -> (Handle, Scratch) {
    let path = Scratch::new();
    let listener = UnixListener::bind(&path.0).expect("the path is free");
    (port.associate(listener, key).expect("associates"), path)
}

/// A plain client that gives up rather than hang.
fn client(path: &Path) -> UnixStream {
    patient(UnixStream::connect(path).expect("somebody listens"))
}

fn patient(peer: UnixStream) -> UnixStream {
    peer.set_read_timeout(Some(PATIENCE))
        .and_then(|()| peer.set_write_timeout(Some(PATIENCE)))
        .expect("a timeout above zero");
    peer
}

/// A connection of a port, and its peer.
fn connected(port: &CompletionPort, key: usize) -> (Handle, UnixStream) {
    let (ours, peer) = UnixStream::pair().expect("a pair");
    (
        port.associate(ours, key).expect("associates"),
        patient(peer),
    )
}

/// The connection that a completion brings, associated.
#[track_caller]
fn accepted(port: &CompletionPort, mut completion: Completion, key: usize) -> Handle {
    assert_eq!(completion.kind(), CompletionKind::Accept);
    let accepted = completion.take_accepted().expect("a connection");
    port.associate(accepted, key).expect("associates")
}

#[track_caller]
fn assert_echoes(port: &CompletionPort, connection: &Handle, peer: &mut UnixStream) {
    peer.write_all(b"hello").expect("the connection is open");
    connection
        .submit(Operation::ReceiveOnce, 0)
        .expect("submits");
    let data = next(port).take_buffer().expect("data");
    connection
        .submit(Operation::Send(data), 0)
        .expect("submits");
    assert_eq!(next(port).result().expect("sent"), 5);
    let mut echo = [0; 5];
    peer.read_exact(&mut echo).expect("it arrives");
    assert_eq!(&echo, b"hello");
}

#[track_caller]
fn assert_end(peer: &mut UnixStream) {
    assert_eq!(peer.read(&mut [0; 1]).expect("an orderly end"), 0);
}

#[test]
fn c46_a_unix_listener_accepts_one_connection_or_a_stream_of_them() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for accept in [Accept::once(), Accept::stream()] {
            let (listener, path) = listening(&port, 46);
            listener
                .submit(Operation::Accept(accept), 7)
                .expect("submits");
            assert_quiet(&port);
            for _ in 0..if accept == Accept::once() { 1 } else { 3 } {
                let mut peer = client(&path.0);
                let completion = next(&port);
                assert_eq!((completion.key(), completion.token()), (46, 7));
                assert_eq!(completion.result().expect("accepted"), 0, "no bytes");
                let connection = accepted(&port, completion, 1);
                assert_echoes(&port, &connection, &mut peer);
                drop(connection);
                assert_end(&mut peer);
            }
            assert_quiet(&port);
        }
    });
}

#[test]
fn a_burst_of_clients_of_a_unix_listener_is_accepted_each_once() {
    for_each_driver(|driver| {
        const CLIENTS: usize = 100;
        let port = driver.port(0);
        let (listener, path) = listening(&port, 0);
        let stream = listener
            .submit(Operation::Accept(Accept::stream()), 0)
            .expect("submits");
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut client = client(&path.0);
                client.write_all(&[number as u8]).expect("it is open");
                client
            })
            .collect();
        let connections: Vec<_> = (0..CLIENTS)
            .map(|_| accepted(&port, next(&port), 1))
            .collect();
        let mut numbers = Vec::new();
        for connection in &connections {
            connection
                .submit(Operation::ReceiveOnce, 0)
                .expect("submits");
            numbers.push(next(&port).take_buffer().expect("its number")[0]);
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..CLIENTS as u8));

        assert!(listener.cancel(stream));
        let last = next(&port);
        assert!(last.is_final() && is_aborted(&last.result().expect_err("aborted")));
        drop(clients);
        assert_quiet(&port);
    });
}

#[test]
fn c46_with_first_data_a_unix_client_is_seen_when_it_speaks_or_not_at_all() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for accept in [Accept::once(), Accept::stream()] {
            let (listener, path) = listening(&port, 46);
            let accept = accept.first_data(Duration::from_millis(60));
            listener
                .submit(Operation::Accept(accept), 0)
                .expect("submits");
            let mut silent = client(&path.0);
            let worker = {
                let port = port.clone();
                Worker::start(move || {
                    let mut completion = next(&port);
                    let mut accepted = completion.take_accepted().expect("a connection");
                    accepted.first_data().expect("the first data").into_vec()
                })
            };
            assert_end(&mut silent);
            assert!(!worker.is_finished(), "told of one that never spoke");
            let mut talking = client(&path.0);
            talking.write_all(b"quick").expect("it is open");
            assert_eq!(worker.join(), b"quick");
            listener.close();
            if accept != Accept::once().first_data(Duration::from_millis(60)) {
                assert!(next(&port).is_final());
            }
            assert_quiet(&port);
        }
    });
}

#[test]
fn c51_closing_a_unix_listener_aborts_its_accept_and_leaves_the_file() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for accept in [Accept::once(), Accept::stream()] {
            let (listener, path) = listening(&port, 51);
            listener
                .submit(Operation::Accept(accept), 0)
                .expect("submits");
            assert_quiet(&port);
            listener.close();
            let last = next(&port);
            assert!(last.is_final() && is_aborted(&last.result().expect_err("aborted")));
            drop(last);
            eventually("nobody listens", || {
                // What the system does with the descriptor it does when somebody comes by.
                post(&port, 0);
                next(&port);
                let refused = UnixStream::connect(&path.0).map(drop);
                refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            });
            assert!(path.0.exists(), "it is the program's");
            assert_quiet(&port);
        }
    });
}

#[test]
fn c39_a_unix_stream_ends_half_by_half() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 39);
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        peer.write_all(b"question").expect("it is open");
        assert_eq!(&next(&port).take_buffer().expect("data")[..], b"question");
        peer.shutdown(Shutdown::Write).expect("it is open");
        let end = next(&port);
        assert_eq!((end.result().expect("an end"), end.is_final()), (0, true));

        connection
            .submit(Operation::Send("answer".into()), 1)
            .expect("submits");
        connection
            .submit(Operation::Shutdown(Shutdown::Write), 2)
            .expect("submits");
        for token in [1, 2] {
            let done = next(&port);
            assert_eq!((done.token(), done.result().is_ok()), (token, true));
        }
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).expect("an orderly end");
        assert_eq!(answer, b"answer");
        assert_quiet(&port);
    });
}

/// Reads slowly, so that the kernel takes a little at a time.
fn slow_reader(mut peer: UnixStream) -> Worker<Vec<u8>> {
    Worker::start(move || {
        let mut all = Vec::new();
        let mut chunk = vec![0; 100_000];
        loop {
            match peer.read(&mut chunk).expect("an orderly end") {
                0 => return all,
                count => all.extend_from_slice(&chunk[..count]),
            }
            if all.len() < 1 << 20 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    })
}

#[test]
fn sends_of_every_kind_on_a_unix_socket_arrive_whole_and_in_order() {
    for_each_driver(|driver| {
        const SIZE: usize = 2 << 20;
        let file = Scratch::holding(&pattern(2 * SIZE, SIZE));
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 0);
        let third = pattern(3 * SIZE, SIZE);
        let (front, back) = third.split_at(SIZE / 3);
        let operations = [
            Operation::Send(pattern(0, SIZE).into()),
            Operation::SendZeroCopy(pattern(SIZE, SIZE).into()),
            Operation::SendFile {
                file: Arc::new(file.open()),
                offset: 0,
                length: u64::MAX,
            },
            Operation::SendVectored(vec![front.to_vec().into(), back.to_vec().into()]),
        ];
        for (token, operation) in operations.into_iter().enumerate() {
            connection.submit(operation, token).expect("submits");
        }
        connection
            .submit(Operation::Shutdown(Shutdown::Write), 4)
            .expect("submits");
        assert_quiet(&port);
        let reader = slow_reader(peer);
        for token in 0..4 {
            let sent = next(&port);
            assert_eq!((sent.token(), sent.result().expect("sent")), (token, SIZE));
        }
        assert_eq!(next(&port).token(), 4);
        assert!(reader.join() == pattern(0, 4 * SIZE), "every byte");
        assert_quiet(&port);
    });
}

#[test]
fn c38_a_stream_of_receives_on_a_unix_socket_brings_every_byte() {
    for_each_driver(|driver| {
        const SIZE: usize = 2 << 20;
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 0);
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        let writer = Worker::start(move || {
            for piece in pattern(0, SIZE).chunks(70_001) {
                peer.write_all(piece).expect("somebody receives");
            }
        });
        let mut all: Vec<u8> = Vec::new();
        for (number, mut data) in until_final(&port).into_iter().enumerate() {
            assert_eq!(data.sequence(), number as u32);
            all.extend(data.take_buffer().unwrap_or_default().iter());
        }
        writer.join();
        assert!(all == pattern(0, SIZE), "every byte, in order");
        assert_quiet(&port);
    });
}

#[test]
fn c53_receives_and_blocked_sends_of_a_unix_socket_can_be_cancelled() {
    for_each_driver(|driver| {
        const SIZE: usize = 8 << 20;
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 0);
        let receive = connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        let send = connection
            .submit(Operation::Send(vec![5; SIZE].into()), 1)
            .expect("submits");
        assert_quiet(&port);
        for (id, token) in [(receive, 0), (send, 1)] {
            assert!(connection.cancel(id));
            let ended = next(&port);
            assert_eq!((ended.token(), ended.is_final()), (token, true));
            assert!(is_aborted(&ended.result().expect_err("aborted")));
            assert!(!connection.cancel(id), "it is over");
            if token == 1 {
                let sent = ended.bytes();
                assert!(sent > 0 && sent < SIZE, "{sent} bytes had gone");
                let mut arrived = vec![0; sent];
                peer.read_exact(&mut arrived).expect("they arrive");
            }
        }
        assert_quiet(&port);
        assert_echoes(&port, &connection, &mut peer);
        connection.close();
        assert_end(&mut peer);
    });
}

#[test]
fn c40_a_unix_peer_that_closes_ends_the_stream_and_breaks_the_sends() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 0);
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        assert_quiet(&port);
        drop(peer);
        assert_eq!(next(&port).result().expect("an orderly end"), 0);
        for token in [1, 2] {
            connection
                .submit(Operation::Send("late".into()), token)
                .expect("submits");
            let failed = next(&port);
            assert_eq!((failed.token(), failed.bytes()), (token, 0));
            let error = failed.result().expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        assert_quiet(&port);
    });
}

/// Other systems tell of an orderly end.
#[cfg(target_os = "linux")]
#[test]
fn c40_a_unix_peer_that_closes_with_bytes_unread_resets() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for receive in [
            Operation::ReceiveStream,
            Operation::ReceiveOnce,
            Operation::Receive(Vec::with_capacity(8)),
        ] {
            let (connection, peer) = connected(&port, 0);
            connection
                .submit(Operation::Send("unread".into()), 0)
                .expect("submits");
            assert_eq!(next(&port).result().expect("sent"), 6);
            connection.submit(receive, 1).expect("submits");
            assert_quiet(&port);
            drop(peer);
            let reset = next(&port);
            assert_eq!((reset.token(), reset.is_final()), (1, true));
            let error = reset.result().expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert_quiet(&port);
        }
    });
}

#[test]
fn c56_closing_a_unix_socket_aborts_what_is_pending() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 0);
        for token in [0, 1] {
            connection
                .submit(Operation::ReceiveOnce, token)
                .expect("submits");
        }
        connection
            .submit(Operation::Send(vec![1; 8 << 20].into()), 2)
            .expect("submits");
        assert_quiet(&port);
        connection.close();
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let ended = next(&port);
            assert!(is_aborted(&ended.result().expect_err("aborted")));
            tokens.push(ended.token());
        }
        tokens.sort_unstable();
        assert_eq!(tokens, [0, 1, 2]);
        assert_quiet(&port);
        peer.read_to_end(&mut Vec::new()).expect("an orderly end");
    });
}

#[test]
fn a_unix_socket_has_a_path_for_an_address() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (listener, path) = listening(&port, 0);
        listener
            .submit(Operation::Accept(Accept::once()), 0)
            .expect("submits");
        let mut peer = client(&path.0);
        let mut completion = next(&port);
        let taken = completion.take_accepted().expect("a connection");
        for internet in [taken.peer_addr(), taken.local_addr()] {
            let error = internet.expect_err("it has none");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        let connection = port.associate(taken, 1).expect("associates");
        for handle in [&listener, &connection] {
            let local = handle.unix_local_addr().expect("bound");
            assert_eq!(local.as_pathname(), Some(&*path.0));
            let error = handle.local_addr().expect_err("it has none");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
        assert!(connection.unix_peer_addr().expect("open").is_unnamed());
        let error = listener.unix_peer_addr().expect_err("it has none");
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert_echoes(&port, &connection, &mut peer);

        let (internet, _address) = crate::support::listener();
        let internet = port.associate(internet, 2).expect("associates");
        let error = internet.unix_local_addr().expect_err("it has none");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_unix_socket_may_have_an_abstract_name() {
    use std::os::linux::net::SocketAddrExt;

    for_each_driver(|driver| {
        let port = driver.port(0);
        let unique = Scratch::new();
        let name = unique.0.as_os_str().as_encoded_bytes();
        let address = SocketAddr::from_abstract_name(name).expect("short");
        let listener = UnixListener::bind_addr(&address).expect("the name is free");
        let listener = port.associate(listener, 0).expect("associates");
        listener
            .submit(Operation::Accept(Accept::stream()), 0)
            .expect("submits");
        let peer = UnixStream::connect_addr(&address).expect("somebody listens");
        let connection = accepted(&port, next(&port), 1);
        let local = connection.unix_local_addr().expect("bound");
        assert_eq!(local.as_abstract_name(), Some(name));
        assert_echoes(&port, &connection, &mut patient(peer));
        assert!(!unique.0.exists(), "there is no file");
    });
}

#[test]
fn unix_datagrams_keep_their_bounds_and_are_cut_to_the_buffer() {
    for_each_driver(|driver| {
        let ten = BufferPolicy { size: 10, count: 4 };
        let port = driver
            .builder(0)
            .buffers(ten)
            .build()
            .expect("the driver can be set up");
        let (ours, peer) = UnixDatagram::pair().expect("a pair");
        let socket = port.associate(ours, 45).expect("associates");
        let receives: [fn() -> Operation; 2] = [
            || Operation::ReceiveOnce,
            || Operation::Receive(Vec::with_capacity(10)),
        ];
        for receive in receives {
            for text in ["one", "longer than ten", "two"] {
                assert_eq!(peer.send(text.as_bytes()).expect("sent"), text.len());
            }
            for (token, expected) in ["one", "longer tha", "two"].into_iter().enumerate() {
                socket.submit(receive(), token).expect("submits");
                let mut received = next(&port);
                assert_eq!(
                    (received.token(), received.bytes()),
                    (token, expected.len())
                );
                assert_eq!(received.result().is_ok(), expected.len() == 3);
                let data = received.take_buffer().expect("data");
                assert_eq!(&data[..], expected.as_bytes());
            }
        }
        socket
            .submit(Operation::Send("back".into()), 9)
            .expect("submits");
        assert_eq!(next(&port).result().expect("sent"), 4);
        let mut back = [0; 8];
        assert_eq!(peer.recv(&mut back).expect("it is there"), 4);
        let refused = socket.submit(Operation::ReceiveStream, 0);
        refused.expect_err("streams only");
        assert_quiet(&port);
    });
}
