//! Cancelling, threads that end, and exactly one completion: statements 52, 53, 54 and 57.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use landfall::port::{
    Accept, CompletionKind, CompletionPort, Handle, Operation, SocketOption, is_aborted,
};
use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};

use crate::support::{
    QUIET, assert_quiet, client, connected, for_each_driver, listener, next, post,
    refusing_address, reset, until_final,
};
use crate::threads::Worker;

#[test]
fn c52_what_a_thread_submitted_completes_after_it_ended() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let operations: [fn() -> Operation; 4] = [
            || Operation::Receive(Vec::with_capacity(16)),
            || Operation::ReceiveOnce,
            || Operation::ReceiveStream,
            || Operation::WaitReadable,
        ];
        for operation in operations {
            let (connection, mut peer) = connected(&port, 1);
            let submitting = connection.clone();
            Worker::start(move || submitting.submit(operation(), 0).expect("submits")).join();
            assert_quiet(&port);
            peer.write_all(b"later").expect("the connection is open");
            let received = next(&port);
            assert!(received.result().is_ok(), "{received:?}");
            if !received.is_final() {
                connection.cancel_all();
                until_final(&port);
            }
            assert_quiet(&port);
        }
    });
}

/// The same for one that was a worker: its operations were with the system when it ended.
#[test]
fn c52_what_a_worker_submitted_completes_after_it_ended() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (receiving, mut peer) = connected(&port, 1);
        let (streaming, mut stream_peer) = connected(&port, 2);
        let (std_listener, address) = listener();
        let accepting = port.associate(std_listener, 3).expect("associates");
        let worker = {
            let (port, receiving) = (port.clone(), receiving.clone());
            let (streaming, accepting) = (streaming.clone(), accepting.clone());
            Worker::start(move || {
                next(&port);
                receiving
                    .submit(Operation::ReceiveOnce, 0)
                    .expect("submits");
                streaming
                    .submit(Operation::ReceiveStream, 0)
                    .expect("submits");
                accepting
                    .submit(Operation::Accept(Accept::stream()), 0)
                    .expect("submits");
                assert_eq!(next(&port).token(), 1);
            })
        };
        worker.wait_until_asleep();
        post(&port, 0);
        worker.wait_until_asleep();
        post(&port, 1);
        worker.join();
        // The kernel ends what a thread submitted when it has quite gone.
        thread::sleep(QUIET);
        assert_quiet(&port);

        peer.write_all(b"later").expect("the connection is open");
        let received = next(&port);
        assert_eq!(
            (
                received.key(),
                received.result().expect("data, not an abort")
            ),
            (1, 5)
        );
        for _ in 0..3 {
            stream_peer
                .write_all(b"more")
                .expect("the connection is open");
            let received = next(&port);
            assert_eq!(
                (
                    received.key(),
                    received.result().expect("data, not an abort")
                ),
                (2, 4)
            );
            assert!(!received.is_final(), "the stream goes on");
        }
        let _clients = [client(address), client(address)];
        for _ in 0..2 {
            let accepted = next(&port);
            assert_eq!(accepted.key(), 3);
            assert!(
                accepted.result().is_ok() && !accepted.is_final(),
                "{accepted:?}"
            );
        }
        assert_quiet(&port);
    });
}

#[test]
fn c53_a_cancelled_operation_completes_once_as_aborted() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 9);
        let receive = Operation::Receive(Vec::with_capacity(64));
        let id = connection.submit(receive, 3).expect("submits");
        assert_quiet(&port);
        assert!(connection.cancel(id), "requested");
        let mut ended = next(&port);
        assert_eq!((ended.id(), ended.key(), ended.token()), (id, 9, 3));
        assert_eq!((ended.bytes(), ended.is_final()), (0, true));
        assert!(
            is_aborted(&ended.result().expect_err("aborted")),
            "{ended:?}"
        );
        assert_eq!(
            ended
                .take_buffer()
                .expect("the buffer comes back")
                .into_vec()
                .capacity(),
            64
        );
        assert_quiet(&port);
        assert!(
            !connection.cancel(id),
            "there is nothing to cancel any more"
        );
        assert_quiet(&port);

        connection
            .submit(Operation::ReceiveOnce, 4)
            .expect("submits");
        peer.write_all(b"next").expect("the connection is open");
        assert_eq!(next(&port).bytes(), 4, "the connection goes on");
    });
}

#[test]
fn c53_an_operation_that_waits_its_turn_can_be_cancelled() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let receive = |token| {
            connection
                .submit(Operation::Receive(Vec::with_capacity(4)), token)
                .expect("submits")
        };
        let ids = [0, 1, 2].map(receive);
        assert_quiet(&port);
        assert!(connection.cancel(ids[1]), "requested");
        let ended = next(&port);
        assert_eq!(ended.token(), 1, "before its turn has come");
        assert!(is_aborted(&ended.result().expect_err("aborted")));
        peer.write_all(b"onetwo").expect("the connection is open");
        assert_eq!(&next(&port).take_buffer().expect("data")[..], b"onet");
        assert_eq!(&next(&port).take_buffer().expect("data")[..], b"wo");
        assert_quiet(&port);
    });
}

#[test]
fn c53_the_operation_after_a_cancelled_one_has_its_turn() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let first = connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        connection
            .submit(Operation::ReceiveOnce, 1)
            .expect("submits");
        assert_quiet(&port);
        assert!(connection.cancel(first));
        let ended = next(&port);
        assert_eq!((ended.token(), ended.is_final()), (0, true));
        peer.write_all(b"yours").expect("the connection is open");
        let received = next(&port);
        assert_eq!((received.token(), received.bytes()), (1, 5));
        assert_quiet(&port);
    });
}

#[test]
fn c53_a_blocked_send_can_be_cancelled() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let size = 32 << 20;
        let id = connection
            .submit(Operation::Send(vec![5; size].into()), 0)
            .expect("submits");
        let queued = connection
            .submit(Operation::Send("behind".into()), 1)
            .expect("submits");
        assert_quiet(&port);
        assert!(connection.cancel(queued));
        assert_eq!(next(&port).token(), 1);
        assert!(connection.cancel(id));
        let mut ended = next(&port);
        assert!(
            is_aborted(&ended.result().expect_err("aborted")),
            "{ended:?}"
        );
        assert_eq!(
            ended.take_buffer().expect("the buffer comes back").len(),
            size
        );
        let sent = ended.bytes();
        assert!(sent > 0 && sent < size, "{sent} bytes had gone");
        drop(ended);
        assert_quiet(&port);
        connection.close();
        let mut arrived = Vec::new();
        peer.read_to_end(&mut arrived).expect("an orderly close");
        // Windows does not tell how much of the part went that it was working at.
        let told = arrived.len() == sent || cfg!(windows) && arrived.len() > sent;
        assert!(told, "{} arrive, the completion says {sent}", arrived.len());
    });
}

#[test]
fn c53_cancelling_races_with_completing() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let mut sent = 0_usize;
        let mut received = 0_usize;
        for round in 0..200 {
            let id = connection
                .submit(Operation::ReceiveOnce, round)
                .expect("submits");
            // Every third one is with the system by now, and may find a byte left over there.
            let early = if round % 3 == 0 {
                port.get(Some(Duration::ZERO)).ok()
            } else {
                None
            };
            let asked_first = round % 2 == 0 && connection.cancel(id);
            peer.write_all(&[1]).expect("the connection is open");
            sent += 1;
            let asked = connection.cancel(id) || asked_first;
            let ended = early.unwrap_or_else(|| next(&port));
            assert_eq!(
                (ended.id(), ended.token(), ended.is_final()),
                (id, round, true)
            );
            match ended.result() {
                Ok(bytes) => received += bytes,
                Err(error) => assert!(asked && is_aborted(&error), "{error}"),
            }
        }
        assert_quiet(&port);
        drop(peer);
        loop {
            connection
                .submit(Operation::ReceiveOnce, 0)
                .expect("submits");
            match next(&port).result().expect("an orderly close") {
                0 => break,
                bytes => received += bytes,
            }
        }
        assert_eq!(received, sent, "no cancel lost a byte");
        assert_quiet(&port);
    });
}

#[test]
fn c53_a_stale_identifier_cancels_nothing() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let stale = connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        peer.write_all(b"x").expect("the connection is open");
        next(&port);
        let pending = connection
            .submit(Operation::ReceiveOnce, 1)
            .expect("submits");
        assert_ne!(stale, pending);
        assert!(!connection.cancel(stale));
        assert_quiet(&port);
        assert!(connection.cancel(pending));
        assert_eq!(next(&port).token(), 1);
    });
}

#[test]
fn c54_cancel_all_reaches_what_any_thread_submitted() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        let (other, mut other_peer) = connected(&port, 2);
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        other.submit(Operation::ReceiveOnce, 0).expect("submits");
        for token in 1..3 {
            let connection = connection.clone();
            Worker::start(move || {
                connection
                    .submit(Operation::ReceiveOnce, token)
                    .expect("submits")
            })
            .join();
        }
        connection
            .submit(Operation::Send(vec![0; 32 << 20].into()), 3)
            .expect("submits");
        assert_quiet(&port);
        assert_eq!(connection.cancel_all(), 4);
        let mut tokens: Vec<_> = (0..4)
            .map(|_| {
                let ended = next(&port);
                assert_eq!(ended.key(), 1);
                assert!(
                    is_aborted(&ended.result().expect_err("aborted")),
                    "{ended:?}"
                );
                ended.token()
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [0, 1, 2, 3]);
        assert_quiet(&port);
        assert_eq!(connection.cancel_all(), 0);
        other_peer.write_all(b"x").expect("the connection is open");
        assert_eq!(
            next(&port).key(),
            2,
            "another handle's operations are left alone"
        );
    });
}

/// Every kind of operation, ended in every way: one final completion each, and nothing after it.
#[test]
fn c57_every_operation_has_exactly_one_final_completion() {
    for_each_driver(|driver| {
        let endings: [fn(&Handle, TcpStream); 6] = [
            |_, mut peer| {
                // The port may have closed its end by now.
                let _ = peer.write_all(b"data");
                let _ = peer.shutdown(Shutdown::Write);
                let _ = peer.read_to_end(&mut Vec::new());
            },
            |_, peer| reset(peer),
            |handle, peer| {
                handle.cancel_all();
                drop(peer);
            },
            |handle, peer| {
                handle.close();
                drop(peer);
            },
            |handle, peer| {
                drop(peer);
                handle.cancel_all();
                handle.close();
            },
            |handle, mut peer| {
                let _ = peer.write_all(b"data");
                handle.close();
            },
        ];
        for end in endings {
            one_completion_each(&driver.port(0), end);
        }
    });
}

fn one_completion_each(port: &CompletionPort, end: fn(&Handle, TcpStream)) {
    let operations: &[fn() -> Operation] = &[
        || Operation::Receive(Vec::with_capacity(64)),
        || Operation::ReceiveOnce,
        || Operation::ReceiveStream,
        || Operation::WaitReadable,
        #[cfg(unix)]
        || Operation::WaitWritable,
        || Operation::Send("a few bytes".into()),
        || Operation::SendVectored(vec!["some ".into(), "more".into()]),
        || Operation::SendZeroCopy("not copied".into()),
        || Operation::Shutdown(Shutdown::Write),
        || Operation::SetOption(SocketOption::NoDelay(true)),
    ];
    for (token, operation) in operations.iter().enumerate() {
        let (connection, peer) = connected(port, 57);
        let id = connection.submit(operation(), token).expect("submits");
        // The peer may wait for the end of what is sent, so the port must not wait for the peer.
        let ending = {
            let connection = connection.clone();
            Worker::start(move || end(&connection, peer))
        };
        let completions = until_final(port);
        connection.close();
        ending.join();
        let is_stream = matches!(operation(), Operation::ReceiveStream);
        assert!(is_stream || completions.len() == 1, "{completions:?}");
        for completion in completions {
            assert_eq!((completion.id(), completion.token()), (id, token));
            assert_eq!(completion.key(), 57);
        }
    }
    assert_quiet(port);
}

/// A receive that is about to be reported when another thread closes its socket and opens the next
/// one, which often gets the same number.
#[test]
fn c57_a_receive_completes_when_its_socket_is_closed_as_data_comes() {
    const THREADS: usize = 3;
    const ROUNDS: usize = 100;
    for_each_driver(|driver| {
        let port = driver.port(0);
        let begun = Arc::new(Mutex::new(VecDeque::new()));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (port, begun) = (port.clone(), begun.clone());
                Worker::start(move || {
                    let (listener, address) = listener();
                    for _ in 0..ROUNDS {
                        let connection = port.associate(client(address), 57).expect("associates");
                        let (peer, _) = listener.accept().expect("a client waits");
                        connection
                            .submit(Operation::ReceiveOnce, 0)
                            .expect("submits");
                        // Mostly one that another thread has begun.
                        let other = {
                            let mut begun = begun.lock();
                            begun.push_back((connection, peer));
                            (begun.len() > THREADS).then(|| begun.pop_front())
                        };
                        let Some((connection, mut peer)) = other.flatten() else {
                            continue;
                        };
                        peer.write_all(b"data").expect("the connection is open");
                        connection.close();
                    }
                })
            })
            .collect();
        for _ in 0..THREADS * (ROUNDS - 1) {
            assert!(next(&port).is_final());
        }
        threads.into_iter().for_each(Worker::join);
        assert_eq!(begun.lock().len(), THREADS, "the others are idle");
        assert_quiet(&port);
    });
}

#[test]
fn c57_accepts_and_connects_too_complete_exactly_once() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for close in [false, true] {
            let (std_listener, _) = listener();
            let accepting = port.associate(std_listener, 1).expect("associates");
            for accept in [Accept::once(), Accept::stream()] {
                accepting
                    .submit(Operation::Accept(accept), 0)
                    .expect("submits");
            }
            assert_quiet(&port);
            match close {
                true => accepting.close(),
                false => assert_eq!(accepting.cancel_all(), 2),
            }
            for _ in 0..2 {
                let ended = next(&port);
                assert_eq!(
                    (ended.kind(), ended.is_final()),
                    (CompletionKind::Accept, true)
                );
                assert!(
                    is_aborted(&ended.result().expect_err("aborted")),
                    "{ended:?}"
                );
            }
            assert_quiet(&port);
        }
        for _ in 0..20 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let connecting = port.associate(socket, 2).expect("associates");
            let connect = Operation::Connect(refusing_address());
            let id = connecting.submit(connect, 0).expect("submits");
            connecting.cancel(id);
            connecting.close();
            let ended = next(&port);
            assert_eq!(
                (ended.kind(), ended.is_final()),
                (CompletionKind::Connect, true)
            );
            assert!(ended.result().is_err());
        }
        assert_quiet(&port);
    });
}
