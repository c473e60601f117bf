//! Closing ports and sockets: statements 29, 30 and 56, and in which order things may be dropped.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall::port::{
    Accept, CompletionKind, CompletionPort, GetError, Handle, Operation, SubmitError, is_aborted,
};

use crate::common::Counted;
use crate::support::{
    PATIENCE, assert_quiet, client, connected, for_each_driver, listener, next, packet, post,
    until_final,
};
use crate::threads::Worker;

/// The port closed its end in an orderly way.
#[track_caller]
fn assert_end(peer: &mut TcpStream) {
    let end = peer
        .read_exact(&mut [0; 1])
        .expect_err("nothing was sent")
        .kind();
    assert_eq!(end, ErrorKind::UnexpectedEof);
}

#[test]
fn c29_closing_the_port_wakes_every_waiter() {
    for_each_driver(|driver| {
        let port = driver.port(2);
        let one = |timeout| {
            let port = port.clone();
            Worker::start(move || port.get(timeout).map(drop))
        };
        let many = |timeout| {
            let port = port.clone();
            Worker::start(move || port.get_many(&mut Vec::new(), 4, timeout).map(drop))
        };
        let waiters = [
            one(None),
            many(None),
            one(Some(Duration::MAX)),
            many(Some(PATIENCE)),
        ];
        waiters.iter().for_each(Worker::wait_until_asleep);
        port.close();
        for waiter in waiters {
            assert_eq!(waiter.join(), Err(GetError::Abandoned));
        }
    });
}

#[test]
fn c29_a_worker_may_close_the_port() {
    for_each_driver(|driver| {
        let port = driver.port(1);
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let port = port.clone();
                Worker::start(move || {
                    if port.get(None).is_ok() {
                        port.close();
                    }
                })
            })
            .collect();
        workers.iter().for_each(Worker::wait_until_asleep);
        post(&port, 0);
        workers.into_iter().for_each(Worker::join);
    });
}

#[test]
fn c30_a_closed_port_takes_and_gives_nothing() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        post(&port, 1);
        port.close();
        port.close();
        assert_eq!(port.get(None).expect_err("closed"), GetError::Closed);
        assert_eq!(
            port.get(Some(Duration::ZERO)).expect_err("closed"),
            GetError::Closed
        );
        assert_eq!(
            port.get_many(&mut Vec::new(), 1, None),
            Err(GetError::Closed)
        );
        let refused = port.post(packet(5)).expect_err("closed");
        assert_eq!(refused.packet, packet(5));
        let refused = port.post_later(packet(6)).expect_err("closed");
        assert_eq!(refused.packet, packet(6));
        port.timer(Instant::now(), 0, 0).expect_err("closed");
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect_err("closed");
        let (listener, address) = listener();
        let refused = port.associate(listener, 0).expect_err("closed");
        let elsewhere = CompletionPort::new(1).expect("another port");
        let listener = elsewhere
            .associate(refused.source, 0)
            .expect("it came back open");
        assert_eq!(listener.local_addr().expect("an address"), address);
    });
}

/// A receive of each kind on a fresh connection each.
fn pending_receives(port: &CompletionPort) -> Vec<(Handle, TcpStream)> {
    let receives = [
        Operation::Receive(Vec::with_capacity(16)),
        Operation::ReceiveOnce,
        Operation::ReceiveStream,
        Operation::WaitReadable,
    ];
    let pend = |(token, receive)| {
        let (connection, peer) = connected(port, 56);
        connection.submit(receive, token).expect("submits");
        (connection, peer)
    };
    receives.into_iter().enumerate().map(pend).collect()
}

#[test]
fn c56_closing_a_socket_aborts_its_pending_receive() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let connections = pending_receives(&port);
        assert_quiet(&port);
        for (token, (connection, mut peer)) in connections.into_iter().enumerate() {
            connection.close();
            let ended = next(&port);
            assert_eq!((ended.kind(), ended.key()), (CompletionKind::Receive, 56));
            assert_eq!((ended.token(), ended.bytes()), (token, 0));
            assert!(
                is_aborted(&ended.result().expect_err("aborted")),
                "{ended:?}"
            );
            assert!(ended.is_final());
            assert_quiet(&port);
            connection
                .submit(Operation::ReceiveOnce, 0)
                .expect_err("the handle is closed");
            assert_end(&mut peer);
        }
    });
}

#[test]
fn c56_the_buffer_of_an_aborted_receive_comes_back() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        let mut buffer = Vec::with_capacity(100);
        buffer.extend_from_slice(b"kept");
        let memory = buffer.as_ptr();
        connection
            .submit(Operation::Receive(buffer), 0)
            .expect("submits");
        connection.close();
        let back = next(&port).take_buffer().expect("the buffer").into_vec();
        assert_eq!((back.as_ptr(), &back[..]), (memory, &b"kept"[..]));
    });
}

#[test]
fn c56_closing_a_socket_aborts_what_waits_its_turn() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        for token in 0..5 {
            connection
                .submit(Operation::Receive(Vec::with_capacity(8)), token)
                .expect("submits");
        }
        assert_quiet(&port);
        connection.close();
        let mut tokens: Vec<_> = (0..5)
            .map(|_| {
                let ended = next(&port);
                assert!(is_aborted(&ended.result().expect_err("aborted")));
                ended.token()
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [0, 1, 2, 3, 4]);
        assert_quiet(&port);
    });
}

#[test]
fn an_operation_keeps_its_socket_open_until_it_completes() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        drop(connection);
        assert_quiet(&port);
        peer.write_all(b"x").expect("the socket is open");
        let received = next(&port);
        assert_eq!(received.bytes(), 1);
        drop(received);
        assert_end(&mut peer);
        assert_quiet(&port);
    });
}

#[test]
fn a_closed_handle_gives_every_operation_back() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        connection.close();
        let refuse = |operation| {
            connection
                .submit(operation, 0)
                .expect_err("the handle is closed")
        };

        let buffer = vec![7; 1000];
        let memory = buffer.as_ptr();
        let SubmitError { error, operation } = refuse(Operation::Send(buffer.into()));
        assert!(!error.to_string().is_empty());
        let Operation::Send(back) = operation else {
            panic!("got {operation:?} back")
        };
        let back = back.into_vec();
        assert_eq!(back.as_ptr(), memory);

        let buffers = vec!["one".into(), vec![2; 20].into()];
        let operation = refuse(Operation::SendVectored(buffers)).operation;
        let Operation::SendVectored(back) = operation else {
            panic!("got {operation:?} back")
        };
        assert_eq!(
            back.iter().map(|buffer| buffer.len()).collect::<Vec<_>>(),
            [3, 20]
        );

        let operation = refuse(Operation::SendZeroCopy("zero".into())).operation;
        let Operation::SendZeroCopy(back) = operation else {
            panic!("got {operation:?} back")
        };
        assert_eq!(&back[..], b"zero");

        let buffer = Vec::with_capacity(10);
        let memory = buffer.as_ptr();
        let operation = refuse(Operation::Receive(buffer)).operation;
        let Operation::Receive(back) = operation else {
            panic!("got {operation:?} back")
        };
        assert_eq!(back.as_ptr(), memory);

        for operation in [
            Operation::ReceiveStream,
            Operation::ReceiveOnce,
            Operation::WaitReadable,
            Operation::Shutdown(Shutdown::Both),
            Operation::Accept(Accept::stream()),
        ] {
            refuse(operation);
        }
        assert_quiet(&port);
    });
}

#[test]
fn a_receive_into_a_full_vector_is_refused() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let full = vec![1, 2, 3].into_boxed_slice().into_vec();
        let refused = connection
            .submit(Operation::Receive(full), 0)
            .expect_err("no room");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        let Operation::Receive(mut buffer) = refused.operation else {
            panic!("not the same")
        };
        assert_eq!(buffer, [1, 2, 3]);
        buffer.reserve(8);
        connection
            .submit(Operation::Receive(buffer), 0)
            .expect("now there is room");
        peer.write_all(&[4]).expect("the connection is open");
        assert_eq!(
            &next(&port).take_buffer().expect("the buffer")[..],
            [1, 2, 3, 4]
        );
    });
}

/// Pends one of everything that can be pending, and returns what keeps it so.
fn pend_everything(port: &CompletionPort, freed: &Arc<AtomicUsize>) -> Vec<Box<dyn Send>> {
    let mut kept: Vec<Box<dyn Send>> = Vec::new();
    for accept in [
        Accept::stream(),
        Accept::once(),
        Accept::stream().first_data(PATIENCE),
    ] {
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 0).expect("associates");
        listener
            .submit(Operation::Accept(accept), 0)
            .expect("submits");
        kept.push(Box::new((listener, client(address))));
    }
    kept.push(Box::new(pending_receives(port)));
    let (queued, peer) = connected(port, 0);
    for _ in 0..3 {
        queued.submit(Operation::ReceiveOnce, 0).expect("submits");
    }
    kept.push(Box::new((queued, peer)));
    // Far more than the kernel's buffers take while nobody reads.
    let (sending, unread) = connected(port, 0);
    for _ in 0..4 {
        let counted = Counted(freed.clone(), vec![0; 8 << 20]);
        let buffer = Bytes::from_owner(counted);
        sending
            .submit(Operation::Send(buffer.into()), 0)
            .expect("submits");
    }
    let counted = Bytes::from_owner(Counted(freed.clone(), vec![0; 100]));
    sending
        .submit(Operation::SendZeroCopy(counted.into()), 0)
        .expect("submits");
    sending
        .submit(Operation::Shutdown(Shutdown::Write), 0)
        .expect("submits");
    kept.push(Box::new((sending, unread)));
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let udp = port.associate(udp, 0).expect("associates");
    udp.submit(Operation::Receive(Vec::with_capacity(100)), 0)
        .expect("submits");
    kept.push(Box::new(udp));
    port.timer(Instant::now() + PATIENCE, 0, 0)
        .expect("the port is open");
    kept
}

#[test]
fn closing_the_port_with_everything_pending_frees_everything() {
    for_each_driver(|driver| {
        let freed = Arc::new(AtomicUsize::new(0));
        let port = driver.port(0);
        let kept = pend_everything(&port, &freed);
        while port.get(Some(Duration::from_millis(5))).is_ok() {}
        (0..10).for_each(|token| post(&port, token));
        let start = Instant::now();
        port.close();
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "took {:?}",
            start.elapsed()
        );
        assert_eq!(
            freed.load(Ordering::SeqCst),
            5,
            "buffers freed by the close"
        );
        assert_eq!(port.get(None).expect_err("closed"), GetError::Closed);
        drop(kept);
    });
}

#[test]
fn c08_dropping_the_port_before_its_handles_frees_everything() {
    for_each_driver(|driver| {
        let freed = Arc::new(AtomicUsize::new(0));
        let port = driver.port(0);
        let kept = pend_everything(&port, &freed);
        drop(port);
        assert_eq!(freed.load(Ordering::SeqCst), 5, "buffers freed by the drop");
        drop(kept);
    });
}

#[test]
fn dropping_the_handles_before_their_port_frees_everything() {
    for_each_driver(|driver| {
        let freed = Arc::new(AtomicUsize::new(0));
        let port = driver.port(0);
        drop(pend_everything(&port, &freed));
        drop(port);
        assert_eq!(freed.load(Ordering::SeqCst), 5, "buffers freed by the drop");
    });
}

#[test]
fn a_port_dropped_unused_leaves_at_once() {
    for_each_driver(|driver| {
        let start = Instant::now();
        (0..3).for_each(|_| drop(driver.port(0)));
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "took {:?}",
            start.elapsed()
        );
    });
}

#[test]
fn c08_what_was_taken_from_the_port_outlives_it() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 0).expect("associates");
        listener
            .submit(Operation::Accept(Accept::once()), 0)
            .expect("submits");
        let mut accepted_peer = client(address);
        let accept = next(&port);
        let (connection, mut peer) = connected(&port, 1);
        peer.write_all(b"first, second")
            .expect("the connection is open");
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        let mut received = next(&port);
        let buffer = received.take_buffer().expect("data");
        drop((listener, connection, port));

        assert_eq!(&buffer[..], b"first, second");
        assert_eq!((received.key(), received.bytes()), (1, 13));
        let handle = received.handle().expect("a completion keeps its handle");
        handle
            .submit(Operation::ReceiveOnce, 0)
            .expect_err("the port is gone");
        drop(received);
        drop(accept);
        assert_eq!(
            &buffer[..],
            b"first, second",
            "the buffer outlives the last handle"
        );
        let end = accepted_peer
            .read_exact(&mut [0; 1])
            .expect_err("nothing was sent")
            .kind();
        assert!(
            matches!(end, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
            "{end}"
        );
    });
}

#[test]
fn closing_the_port_races_with_everything_else() {
    for_each_driver(|driver| {
        for round in 0..6 {
            let port = driver.port(2);
            let (connection, peer) = connected(&port, 0);
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let (port, connection) = (port.clone(), connection.clone());
                    Worker::start(move || {
                        while let Ok(taken) = port.get(None) {
                            let _ = connection.submit(Operation::Send("x".into()), 0);
                            let _ = port.post(packet(taken.token()));
                        }
                    })
                })
                .collect();
            let outside = {
                let (port, connection) = (port.clone(), connection.clone());
                Worker::start(move || {
                    while port.post(packet(0)).is_ok() {
                        let _ = connection.submit(Operation::ReceiveOnce, 0);
                        thread::sleep(Duration::from_micros(50));
                    }
                })
            };
            thread::sleep(Duration::from_micros(300 * round));
            port.close();
            workers.into_iter().for_each(Worker::join);
            outside.join();
            drop(peer);
        }
    });
}

#[test]
fn closing_a_socket_ends_a_stream_with_one_final_completion() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        peer.write_all(b"something")
            .expect("the connection is open");
        assert_eq!(next(&port).bytes(), 9);
        connection.close();
        let end = until_final(&port);
        let last = end.last().expect("a final completion");
        assert!(is_aborted(&last.result().expect_err("aborted")));
        assert_quiet(&port);
    });
}
