//! Receiving from streams: statements 38 to 42.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use landfall::port::{BufferPolicy, Completion, CompletionKind, CompletionPort, Handle, Operation};
use socket2::Socket;
#[cfg(unix)]
use socket2::{Domain, Type};

use crate::support::{
    QUIET, Variant, assert_quiet, connected, for_each_driver, next, pair, reset, until_final,
};
use crate::threads::Worker;

/// The three ways to receive bytes.
const RECEIVES: [fn() -> Operation; 3] = [
    || Operation::Receive(Vec::with_capacity(4096)),
    || Operation::ReceiveOnce,
    || Operation::ReceiveStream,
];

/// Ends what may still be pending on a handle, and takes its completions.
fn finish(port: &CompletionPort, handle: &Handle, last: Completion) {
    if !last.is_final() {
        handle.cancel_all();
        until_final(port);
    }
    assert_quiet(port);
}

#[test]
fn c38_a_receive_completes_with_the_bytes_that_are_there() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for receive in RECEIVES {
            let (connection, mut peer) = connected(&port, 38);
            connection.submit(receive(), 5).expect("submits");
            peer.write_all(b"fewer than it could")
                .expect("the connection is open");
            let mut received = next(&port);
            assert_eq!(
                (received.kind(), received.key()),
                (CompletionKind::Receive, 38)
            );
            assert_eq!(
                (received.token(), received.result().expect("received")),
                (5, 19)
            );
            assert_eq!(
                &received.take_buffer().expect("data")[..],
                b"fewer than it could"
            );
            assert!(received.take_buffer().is_none(), "taken once");
            finish(&port, &connection, received);
        }
    });
}

#[test]
fn c38_a_receive_fills_no_more_than_its_buffer() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        peer.write_all(b"abcdefgh").expect("the connection is open");
        let mut buffer = Vec::with_capacity(5);
        buffer.extend_from_slice(b"> ");
        let room = buffer.capacity() - 2;
        connection
            .submit(Operation::Receive(buffer), 0)
            .expect("submits");
        let mut received = next(&port);
        assert_eq!(received.bytes(), room);
        let buffer = received.take_buffer().expect("data").into_vec();
        assert_eq!(buffer, [b"> ", &b"abcdefgh"[..room]].concat());
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        assert_eq!(
            &next(&port).take_buffer().expect("data")[..],
            &b"abcdefgh"[room..]
        );
        assert_quiet(&port);
    });
}

#[test]
fn c38_a_stream_brings_every_byte_once_and_in_order() {
    for_each_driver(|driver| {
        const SIZE: usize = 4 << 20;
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        let writer = Worker::start(move || {
            let bytes: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8).collect();
            peer.write_all(&bytes).expect("the port reads it all");
        });
        let mut at = 0;
        for (step, mut received) in until_final(&port).into_iter().enumerate() {
            assert_eq!(received.sequence() as usize, step);
            let Some(data) = received.take_buffer() else {
                continue;
            };
            assert_eq!(data.len(), received.bytes());
            assert!(
                data.iter()
                    .zip(at..)
                    .all(|(byte, i)| *byte == (i % 251) as u8),
                "at {at}"
            );
            at += data.len();
        }
        assert_eq!(at, SIZE);
        writer.join();
        assert_quiet(&port);
    });
}

#[test]
fn c39_a_clean_close_is_a_success_of_no_bytes() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for receive in RECEIVES {
            for pending in [false, true] {
                let (connection, peer) = connected(&port, 39);
                if pending {
                    connection.submit(receive(), 0).expect("submits");
                    assert_quiet(&port);
                }
                peer.shutdown(Shutdown::Write).expect("it is connected");
                if !pending {
                    connection.submit(receive(), 0).expect("submits");
                }
                let ended = next(&port);
                assert_eq!((ended.key(), ended.result().expect("a success")), (39, 0));
                assert!(ended.is_final());
                assert_quiet(&port);
                connection.submit(receive(), 1).expect("submits");
                assert_eq!(next(&port).result().expect("the end stays the end"), 0);
                assert_quiet(&port);
            }
        }
    });
}

#[test]
fn c39_data_before_the_close_comes_first() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        peer.write_all(b"last words")
            .expect("the connection is open");
        drop(peer);
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        let taken = until_final(&port);
        let bytes: Vec<_> = taken.iter().map(Completion::bytes).collect();
        assert_eq!(bytes.iter().sum::<usize>(), 10);
        assert_eq!(bytes.last(), Some(&0));
        assert_quiet(&port);
    });
}

/// Whatever the data fills of the last buffer, and whether the system says that nothing follows or
/// not: the end is found, before the receive was submitted and after.
#[test]
fn c39_the_end_is_found_behind_data_of_any_length() {
    const ROOM: usize = 512;
    for_each_driver(|driver| {
        let buffers = BufferPolicy {
            size: ROOM,
            count: 2,
        };
        let port = driver.builder(0).buffers(buffers).build().expect("a port");
        for socket_pair in SOCKET_PAIRS {
            for length in [1, ROOM - 1, ROOM, ROOM + 1, 4 * ROOM, 4 * ROOM + 1] {
                for early in [true, false] {
                    let (socket, mut peer) = socket_pair();
                    let connection = port.associate(socket, 0).expect("a stream");
                    let mut write = || {
                        peer.write_all(&vec![39; length]).expect("open");
                        peer.shutdown(Shutdown::Write).expect("open");
                    };
                    if early {
                        write();
                    }
                    connection
                        .submit(Operation::ReceiveStream, 0)
                        .expect("submits");
                    if !early {
                        write();
                    }
                    let bytes: Vec<_> = until_final(&port).iter().map(Completion::bytes).collect();
                    assert_eq!(bytes.iter().sum::<usize>(), length, "{bytes:?}");
                    assert_eq!(bytes.last(), Some(&0));
                }
            }
        }
        assert_quiet(&port);
    });
}

/// A receive that leaves room has not always taken all: records stay apart, and urgent data stops it.
#[cfg(target_os = "linux")]
#[test]
fn c38_what_stops_a_receive_short_does_not_end_the_stream_of_them() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let records = || Socket::pair(Domain::UNIX, Type::SEQPACKET, None).expect("a pair");
        for early in [true, false] {
            for (socket_pair, urgent) in [
                (&records as &dyn Fn() -> (Socket, Socket), false),
                (&SOCKET_PAIRS[0], true),
            ] {
                let (socket, peer) = socket_pair();
                let connection = port.associate(socket, 0).expect("a stream");
                let write = || {
                    assert_eq!(peer.send(b"one").expect("open"), 3);
                    if urgent {
                        peer.send_out_of_band(b"!").expect("open");
                    }
                    assert_eq!(peer.send(b"two").expect("open"), 3);
                };
                if early {
                    write();
                }
                connection
                    .submit(Operation::ReceiveStream, 0)
                    .expect("submits");
                if !early {
                    write();
                }
                let mut text: Vec<u8> = Vec::new();
                while text.len() < 6 {
                    text.extend(next(&port).take_buffer().expect("data").iter());
                }
                assert_eq!(text, b"onetwo");
                connection.cancel_all();
                until_final(&port);
            }
        }
        assert_quiet(&port);
    });
}

/// A stream of each sort: systems do not say of every one what is left in it.
const SOCKET_PAIRS: &[fn() -> (Socket, Socket)] = &[
    || {
        let (socket, peer) = pair();
        (socket.into(), peer.into())
    },
    #[cfg(unix)]
    || Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair"),
];

#[test]
fn c40_a_reset_before_the_call_is_a_completion() {
    for_each_driver(|driver| {
        meets_a_reset(driver, |_, connection, peer, receive| {
            // Loopback delivers the reset before the peer's close returns.
            reset(peer);
            connection
                .submit(receive, 6)
                .expect("a failure is a completion");
        });
    });
}

#[test]
fn c40_a_reset_after_the_call_looks_the_same() {
    for_each_driver(|driver| {
        meets_a_reset(driver, |port, connection, peer, receive| {
            connection.submit(receive, 6).expect("submits");
            assert_quiet(port);
            reset(peer);
        });
    });
}

/// Checks what becomes of every form of receive that meets a reset.
fn meets_a_reset(driver: &Variant, meet: fn(&CompletionPort, &Handle, TcpStream, Operation)) {
    let port = driver.port(0);
    for receive in RECEIVES {
        let (connection, peer) = connected(&port, 40);
        meet(&port, &connection, peer, receive());
        let failed = next(&port);
        assert_eq!((failed.key(), failed.token(), failed.bytes()), (40, 6, 0));
        let error = failed.result().expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        assert!(error.raw_os_error().is_some(), "the system's code is kept");
        assert!(failed.is_final());
        assert_quiet(&port);
    }
}

#[test]
fn c40_a_reset_fails_a_pending_send_too() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        connection
            .submit(Operation::Send(vec![0; 32 << 20].into()), 0)
            .expect("submits");
        connection
            .submit(Operation::Send("behind".into()), 1)
            .expect("submits");
        assert_quiet(&port);
        reset(peer);
        for token in 0..2 {
            let mut failed = next(&port);
            assert_eq!(failed.token(), token);
            let kind = failed.result().expect_err("reset").kind();
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
            assert!(matches!(kind, ConnectionReset | BrokenPipe), "{kind}");
            assert!(
                failed.take_buffer().is_some(),
                "the buffer comes back from a failure"
            );
        }
        assert_quiet(&port);
    });
}

#[test]
fn c41_a_wait_completes_with_data_and_consumes_nothing() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 41);
        connection
            .submit(Operation::WaitReadable, 7)
            .expect("submits");
        assert_quiet(&port);
        peer.write_all(b"untouched")
            .expect("the connection is open");
        let ready = next(&port);
        assert_eq!((ready.key(), ready.token()), (41, 7));
        assert_eq!(ready.result().expect("readable"), 0);
        connection
            .submit(Operation::WaitReadable, 8)
            .expect("submits");
        assert_eq!(next(&port).token(), 8, "as long as data is there");
        connection
            .submit(Operation::ReceiveOnce, 9)
            .expect("submits");
        assert_eq!(&next(&port).take_buffer().expect("data")[..], b"untouched");
        connection
            .submit(Operation::WaitReadable, 10)
            .expect("submits");
        assert_quiet(&port);
        drop(peer);
        assert_eq!(next(&port).result().expect("readable: the end is there"), 0);
        assert_quiet(&port);
    });
}

#[test]
fn c42_receives_fill_in_the_order_they_were_submitted() {
    for_each_driver(|driver| {
        const RECEIVES: usize = 8;
        let port = driver.port(0);
        for round in 0..20 {
            let (connection, mut peer) = connected(&port, 42);
            let mut sizes = Vec::new();
            for token in 0..RECEIVES {
                let buffer = Vec::with_capacity(4);
                sizes.push(buffer.capacity());
                connection
                    .submit(Operation::Receive(buffer), token)
                    .expect("submits");
            }
            let bytes: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|i| i as u8).collect();
            if round % 4 == 0 {
                // Armed in the system, where a ring would fill several in reverse.
                assert_quiet(&port);
            }
            peer.write_all(&bytes).expect("the connection is open");
            let mut at = 0;
            for (token, size) in sizes.into_iter().enumerate() {
                let mut received = next(&port);
                assert_eq!(received.token(), token, "one consumer sees them in order");
                let data = received.take_buffer().expect("data");
                assert_eq!(data[..], bytes[at..at + size]);
                at += size;
            }
        }
        assert_quiet(&port);
    });
}

#[test]
fn c42_receives_of_different_kinds_keep_their_order() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let mut buffer = Vec::new();
        buffer.reserve_exact(2);
        let room = buffer.capacity();
        connection
            .submit(Operation::WaitReadable, 0)
            .expect("submits");
        connection
            .submit(Operation::Receive(buffer), 1)
            .expect("submits");
        connection
            .submit(Operation::ReceiveOnce, 2)
            .expect("submits");
        connection
            .submit(Operation::ReceiveStream, 3)
            .expect("submits");
        assert_quiet(&port);
        peer.write_all(b"abcdef").expect("the connection is open");
        assert_eq!(next(&port).token(), 0);
        let mut received = next(&port);
        assert_eq!(received.token(), 1);
        assert_eq!(received.take_buffer().expect("data")[..], b"abcdef"[..room]);
        let mut received = next(&port);
        assert_eq!(received.token(), 2);
        assert_eq!(received.take_buffer().expect("data")[..], b"abcdef"[room..]);
        peer.write_all(b"the rest").expect("the connection is open");
        drop(peer);
        let rest = until_final(&port);
        assert!(rest.iter().all(|completion| completion.token() == 3));
        assert_eq!(rest.iter().map(Completion::bytes).sum::<usize>(), 8);
        assert_quiet(&port);
    });
}

#[test]
fn c37_a_completion_may_be_handled_before_its_submission_returns() {
    for_each_driver(|driver| {
        const ROUNDS: usize = 300;
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let count = Arc::new(AtomicUsize::new(0));
        let consumers: Vec<_> = (0..2)
            .map(|_| {
                let (port, count) = (port.clone(), count.clone());
                Worker::start(move || {
                    let mut own = Vec::new();
                    while count.load(Ordering::Acquire) < ROUNDS {
                        let Ok(mut taken) = port.get(Some(QUIET)) else {
                            continue;
                        };
                        let data = taken.take_buffer().expect("the buffer comes back");
                        own.push((taken.token(), taken.id(), data.len()));
                        count.fetch_add(1, Ordering::AcqRel);
                    }
                    own
                })
            })
            .collect();
        peer.write_all(&[1; ROUNDS])
            .expect("the connection is open");
        let mut submitted = Vec::new();
        for token in 0..ROUNDS {
            let mut buffer = Vec::new();
            buffer.reserve_exact(1);
            submitted.push(
                connection
                    .submit(Operation::Receive(buffer), token)
                    .expect("submits"),
            );
        }
        let mut taken: Vec<_> = consumers.into_iter().flat_map(Worker::join).collect();
        taken.sort_unstable_by_key(|(token, _, _)| *token);
        let expected = submitted.into_iter().enumerate();
        assert!(
            taken
                .into_iter()
                .eq(expected.map(|(token, id)| (token, id, 1)))
        );
    });
}
