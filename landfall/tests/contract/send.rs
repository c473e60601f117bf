//! Sending, shutting down and connecting: statements 43 and 44, and sends that the port finishes.
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use landfall::buffer::Buffer;
use landfall::port::{CompletionKind, CompletionPort, Operation, SocketOption, is_aborted};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{
    assert_quiet, connected, for_each_driver, listener, next, past_the_port, refusing_address,
    until_final,
};
use crate::threads::Worker;

#[test]
fn c43_the_systems_own_calls_queue_nothing_and_the_ports_do() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 43);
        past_the_port(&connection)
            .shutdown(Shutdown::Read)
            .expect("it is connected");
        assert_quiet(&port);

        connection
            .submit(Operation::Shutdown(Shutdown::Write), 3)
            .expect("submits");
        let done = next(&port);
        assert_eq!(
            (done.kind(), done.key(), done.token()),
            (CompletionKind::Shutdown, 43, 3)
        );
        assert_eq!(done.result().expect("shut down"), 0);
        assert_eq!(
            peer.read_to_end(&mut Vec::new()).expect("an orderly end"),
            0
        );
        assert_quiet(&port);
    });
}

#[test]
fn c43_a_shutdown_takes_its_turn_after_the_sends() {
    for_each_driver(|driver| {
        const SIZE: usize = 8 << 20;
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        connection
            .submit(Operation::Send(vec![1; SIZE].into()), 0)
            .expect("submits");
        connection
            .submit(Operation::Shutdown(Shutdown::Write), 1)
            .expect("submits");
        connection
            .submit(Operation::ReceiveOnce, 2)
            .expect("submits");
        assert_quiet(&port);
        let reader = Worker::start(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).expect("an orderly end");
            peer.write_all(b"thanks")
                .expect("half of the connection is open");
            all.len()
        });
        let sent = next(&port);
        assert_eq!((sent.token(), sent.result().expect("sent")), (0, SIZE));
        assert_eq!(next(&port).token(), 1);
        assert_eq!(reader.join(), SIZE);
        let answer = next(&port);
        assert_eq!(
            (answer.token(), answer.bytes()),
            (2, 6),
            "the other half goes on"
        );
        assert_quiet(&port);
    });
}

#[test]
fn c44_a_connect_completes_connected_or_refused() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (listener, address) = listener();
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");

        let connecting = port.associate(socket(), 44).expect("associates");
        connecting
            .submit(Operation::Connect(address), 1)
            .expect("submits");
        let done = next(&port);
        assert_eq!(
            (done.kind(), done.key(), done.token()),
            (CompletionKind::Connect, 44, 1)
        );
        assert_eq!(done.result().expect("connected"), 0);
        assert_eq!(connecting.peer_addr().expect("connected"), address);
        let (mut accepted, from) = listener.accept().expect("a connection");
        assert_eq!(connecting.local_addr().expect("bound by the connect"), from);
        connecting
            .submit(Operation::Send("hello".into()), 2)
            .expect("submits");
        assert_eq!(next(&port).result().expect("sent"), 5);
        let mut text = [0; 5];
        accepted.read_exact(&mut text).expect("it arrives");
        assert_eq!(&text, b"hello");

        let refused = port.associate(socket(), 45).expect("associates");
        refused
            .submit(Operation::Connect(refusing_address()), 3)
            .expect("submits");
        let failed = next(&port);
        assert_eq!((failed.key(), failed.token(), failed.bytes()), (45, 3, 0));
        let error = failed.result().expect_err("nobody listens there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_quiet(&port);
    });
}

#[test]
fn c31_what_succeeds_at_once_is_one_completion() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 31);
        peer.write_all(b"here already")
            .expect("the connection is open");
        // Loopback has delivered it when the peer's call returns.
        let at_once = [
            (Operation::WaitReadable, 0),
            (Operation::ReceiveOnce, 12),
            (Operation::Send("goes at once".into()), 12),
            (Operation::SetOption(SocketOption::NoDelay(true)), 0),
            (Operation::Shutdown(Shutdown::Write), 0),
        ];
        for (token, (operation, bytes)) in at_once.into_iter().enumerate() {
            connection.submit(operation, token).expect("submits");
            let done = next(&port);
            assert_eq!((done.key(), done.token()), (31, token));
            assert_eq!(done.result().expect("succeeds"), bytes);
            assert!(done.is_final());
            assert_quiet(&port);
        }
    });
}

#[test]
fn c32_what_fails_at_once_is_one_completion() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let socket = port.associate(socket, 1).expect("associates");
        for operation in [
            Operation::ReceiveOnce,
            Operation::ReceiveStream,
            Operation::Send("x".into()),
        ] {
            socket
                .submit(operation, 0)
                .expect("a failure is a completion");
            let failed = next(&port);
            let kind = failed.result().expect_err("not connected").kind();
            let expected = match kind {
                ErrorKind::NotConnected | ErrorKind::BrokenPipe => true,
                // Wine 8 says so of a send.
                ErrorKind::ConnectionReset => cfg!(windows),
                _ => false,
            };
            assert!(expected, "{kind}");
            assert!(failed.is_final());
            assert_quiet(&port);
        }
    });
}

/// A connection whose peer reads slowly, so that the kernel takes a little at a time.
fn slow_reader(mut peer: TcpStream) -> Worker<Vec<u8>> {
    SockRef::from(&peer)
        .set_recv_buffer_size(16 << 10)
        .expect("the size can be set");
    Worker::start(move || {
        let mut all = Vec::new();
        let mut chunk = vec![0; 256 << 10];
        loop {
            match peer.read(&mut chunk).expect("the port goes on sending") {
                0 => return all,
                count => all.extend_from_slice(&chunk[..count]),
            }
            if all.len() < 1 << 20 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    })
}

/// Bytes that are told from their neighbours wherever the stream is cut.
fn pattern(start: usize, length: usize) -> Vec<u8> {
    (start..start + length)
        .map(|i| (i % 253) as u8 ^ (i >> 13) as u8)
        .collect()
}

#[test]
fn sends_go_out_in_order_and_partial_ones_are_finished() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        let reader = slow_reader(peer);
        let sizes = [3 << 20, 1, 700_000, 0, 64, 1 << 20];
        let mut at = 0;
        for (token, size) in sizes.into_iter().enumerate() {
            let bytes = pattern(at, size);
            let operation = match token % 3 {
                0 => Operation::Send(bytes.into()),
                1 => Operation::SendZeroCopy(Bytes::from(bytes).into()),
                _ => {
                    let (left, right) = bytes.split_at(size / 3);
                    Operation::SendVectored(vec![left.to_vec().into(), right.to_vec().into()])
                }
            };
            connection.submit(operation, token).expect("submits");
            at += size;
        }
        for (token, size) in sizes.into_iter().enumerate() {
            let sent = next(&port);
            assert_eq!((sent.token(), sent.kind()), (token, CompletionKind::Send));
            assert_eq!(sent.result().expect("sent"), size, "all of it or a failure");
        }
        connection.close();
        assert!(reader.join() == pattern(0, at), "every byte, in order");
        assert_quiet(&port);
    });
}

#[test]
fn a_vectored_send_is_one_send_of_many_buffers() {
    for_each_driver(|driver| {
        const PARTS: usize = 2_000;
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        let reader = slow_reader(peer);
        // More parts than the system takes in one call (1,024), some of them empty.
        let mut at = 0;
        let parts: Vec<Buffer> = (0..PARTS)
            .map(|part| {
                let size = part % 7 * 300;
                at += size;
                pattern(at - size, size).into()
            })
            .collect();
        connection
            .submit(Operation::SendVectored(parts), 4)
            .expect("submits");
        let mut sent = next(&port);
        assert_eq!((sent.token(), sent.result().expect("sent")), (4, at));
        let back = sent.take_buffers().expect("the buffers come back");
        assert_eq!(back.len(), PARTS);
        assert!(
            back.iter()
                .map(|b| b.len())
                .eq((0..PARTS).map(|part| part % 7 * 300)),
            "whole"
        );
        connection.close();
        assert!(reader.join() == pattern(0, at), "every byte, in order");
        assert_quiet(&port);
    });
}

/// Sends each form of buffer and checks that the very same memory comes back.
fn comes_back(port: &CompletionPort, wrap: fn(Buffer) -> Operation) {
    let (connection, mut peer) = connected(port, 1);
    let vec = b"vec".to_vec();
    let bytes = Bytes::from(b"bytes".to_vec());
    let memory = [vec.as_ptr(), bytes.as_ptr()];
    let mut rest = Buffer::from(b"+++rest".to_vec());
    rest.advance(3);
    for buffer in [
        vec.into(),
        bytes.into(),
        Buffer::from("static"),
        rest,
        Buffer::default(),
    ] {
        let text = buffer.to_vec();
        connection.submit(wrap(buffer), 0).expect("submits");
        let mut sent = next(port);
        assert_eq!(sent.result().expect("sent"), text.len());
        let back = sent.take_buffer().expect("the buffer comes back");
        assert_eq!(back[..], text[..], "unchanged");
        assert!(text != b"vec" || back.as_ptr() == memory[0]);
        assert!(text != b"bytes" || back.as_ptr() == memory[1]);
        let mut arrived = vec![0; text.len()];
        peer.read_exact(&mut arrived).expect("it arrives");
        assert_eq!(arrived, text);
    }
    assert_quiet(port);
}

#[test]
fn a_sent_buffer_comes_back_unchanged() {
    for_each_driver(|driver| {
        comes_back(&driver.port(0), Operation::Send);
        comes_back(&driver.port(0), Operation::SendZeroCopy);
    });
}

#[test]
fn a_received_buffer_is_sent_on_as_it_is() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        for zero_copy in [false, true] {
            connection
                .submit(Operation::ReceiveOnce, 0)
                .expect("submits");
            peer.write_all(b"there and back")
                .expect("the connection is open");
            let mut data = next(&port).take_buffer().expect("data");
            data.advance(6);
            let echo = match zero_copy {
                true => Operation::SendZeroCopy(data),
                false => Operation::Send(data),
            };
            connection.submit(echo, 1).expect("submits");
            assert_eq!(next(&port).result().expect("sent"), 8);
            let mut text = [0; 8];
            peer.read_exact(&mut text).expect("it arrives");
            assert_eq!(&text, b"and back");
        }
        assert_quiet(&port);
    });
}

#[cfg(unix)]
#[test]
fn nothing_follows_a_send_that_failed_half_way() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let torn = || Buffer::from(Bytes::from_owner(crate::torn::Torn::new()));
        let operations = [
            Operation::Send("before".into()),
            Operation::Send(torn()),
            Operation::Send("after".into()),
            Operation::SendVectored(vec!["after".into(), "that".into()]),
            Operation::SendZeroCopy("and that".into()),
        ];
        for (token, operation) in operations.into_iter().enumerate() {
            connection.submit(operation, token).expect("submits");
        }
        let before = next(&port);
        assert_eq!((before.token(), before.result().ok()), (0, Some(6)));
        let failed = next(&port);
        let code = failed.result().expect_err("torn").raw_os_error();
        let sent = failed.bytes();
        assert_eq!(failed.token(), 1);
        assert!(
            code.is_some() && sent > 0 && sent <= crate::torn::READABLE,
            "{failed:?}"
        );
        for token in 2..5 {
            let behind = next(&port);
            assert_eq!((behind.token(), behind.bytes()), (token, 0));
            let error = behind.result().expect_err("it would follow a gap");
            assert_eq!(error.raw_os_error(), code);
        }
        // Nor does one that is submitted later go out.
        connection
            .submit(Operation::Send("later".into()), 5)
            .expect("submits");
        let later = next(&port);
        let error = later.result().expect_err("it would follow a gap");
        assert_eq!((later.token(), error.raw_os_error()), (5, code));
        // The other direction is none the worse for it, and a shutdown still goes.
        peer.write_all(b"hello").expect("the connection is open");
        connection
            .submit(Operation::ReceiveOnce, 6)
            .expect("submits");
        assert_eq!(next(&port).bytes(), 5);
        connection
            .submit(Operation::Shutdown(Shutdown::Write), 7)
            .expect("submits");
        next(&port).result().expect("shuts down");
        let mut arrived = Vec::new();
        peer.read_to_end(&mut arrived).expect("an orderly end");
        assert_eq!(arrived.len(), 6 + sent);
        assert_quiet(&port);
    });
}

#[test]
fn nothing_follows_a_send_that_was_cancelled_half_way() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let send = |buffer, token| {
            connection
                .submit(Operation::Send(buffer), token)
                .expect("submits")
        };
        let half_way = send(vec![5; 32 << 20].into(), 0);
        send("behind".into(), 1);
        send("further behind".into(), 2);
        assert_quiet(&port);
        assert!(connection.cancel(half_way));
        let cancelled = next(&port);
        let sent = cancelled.bytes();
        assert!(sent > 0, "{cancelled:?}");
        for token in 1..3 {
            let behind = next(&port);
            assert_eq!((behind.token(), behind.bytes()), (token, 0));
            let error = behind.result().expect_err("it would follow a gap");
            assert!(is_aborted(&error), "{error}");
        }
        // The program knows what has gone, and may go on from there.
        send("on".into(), 3);
        let reader = Worker::start(move || {
            let mut arrived = Vec::new();
            peer.read_to_end(&mut arrived).expect("an orderly close");
            arrived
        });
        let next_send = next(&port);
        assert_eq!((next_send.token(), next_send.result().ok()), (3, Some(2)));
        drop(next_send);
        connection.close();
        let arrived = reader.join();
        // Windows counts finished parts only: more may have gone.
        let exact = cfg!(not(windows));
        assert!(arrived.len() == sent + 2 || !exact && arrived.len() > sent);
        assert!(arrived.ends_with(b"on"));
    });
}

/// A system that may lock no memory for a send (`RLIMIT_MEMLOCK`) is handed a copy.
#[cfg(target_os = "linux")]
#[test]
fn a_zero_copy_send_that_the_system_refuses_is_copied() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    /// Puts the limit back.
    struct Restore(Rlimit);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = setrlimit(Resource::Memlock, self.0);
        }
    }

    crate::support::for_each_driver_alone(|driver| {
        // The thread is this variant's own, and so are its capabilities. A ring that is made with
        // this one is not held to the limit.
        let mut own = capabilities(None).expect("a thread has some");
        own.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, own).expect("fewer are always granted");
        let port = driver.port(1);
        let (connection, mut peer) = connected(&port, 1);
        let limit = getrlimit(Resource::Memlock);
        let none = Rlimit {
            current: Some(0),
            maximum: limit.maximum,
        };
        let _restore = Restore(limit);
        setrlimit(Resource::Memlock, none).expect("less is always granted");

        let data = vec![7; 20_000];
        connection
            .submit(Operation::SendZeroCopy(data.clone().into()), 4)
            .expect("submits");
        let mut sent = next(&port);
        assert_eq!(sent.result().expect("copied"), data.len());
        assert_eq!(sent.take_buffer().expect("it comes back")[..], data[..]);
        let mut arrived = vec![0; data.len()];
        peer.read_exact(&mut arrived).expect("it arrives");
        assert_eq!(arrived, data);
        assert_quiet(&port);
    });
}

#[test]
fn a_send_before_the_connect_does_not_break_what_follows_it() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (listener, address) = crate::support::listener();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let connection = port.associate(socket, 1).expect("associates");
        let result = |operation| {
            connection.submit(operation, 0).expect("submits");
            next(&port).result()
        };
        result(Operation::Send("too soon".into())).expect_err("there is no connection");
        result(Operation::Connect(address)).expect("somebody listens");
        let sent = result(Operation::Send("hello".into())).expect("connected");
        let (mut peer, _) = listener.accept().expect("connected");
        let mut text = [0; 5];
        peer.read_exact(&mut text).expect("it arrives");
        assert_eq!((sent, &text), (5, b"hello"));
    });
}

#[test]
fn sends_and_receives_of_one_socket_do_not_wait_for_each_other() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        connection
            .submit(Operation::Send(vec![0; 32 << 20].into()), 0)
            .expect("submits");
        connection
            .submit(Operation::ReceiveStream, 1)
            .expect("submits");
        assert_quiet(&port);
        peer.write_all(b"while it sends")
            .expect("the connection is open");
        let received = next(&port);
        assert_eq!((received.token(), received.bytes()), (1, 14));
        connection.close();
        let mut left = 2;
        while left > 0 {
            left -= usize::from(next(&port).is_final());
        }
        assert_quiet(&port);
    });
}

#[test]
fn options_are_set_on_the_socket() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        let options = [
            SocketOption::NoDelay(true),
            SocketOption::KeepAlive(Some(Duration::from_millis(41_500))),
            SocketOption::ReceiveBuffer(50_000),
            SocketOption::SendBuffer(60_000),
            SocketOption::Linger(Some(Duration::ZERO)),
        ];
        for (token, option) in options.into_iter().enumerate() {
            connection
                .submit(Operation::SetOption(option), token)
                .expect("submits");
            let done = next(&port);
            assert_eq!(
                (done.kind(), done.token()),
                (CompletionKind::SetOption, token)
            );
            done.result().expect("set");
        }
        let copy = past_the_port(&connection);
        let socket = SockRef::from(&copy);
        assert!(socket.tcp_nodelay().expect("readable"));
        assert!(socket.keepalive().expect("readable"));
        // Windows has no option to read it by.
        #[cfg(unix)]
        assert_eq!(
            socket.tcp_keepalive_time().expect("readable"),
            Duration::from_secs(42)
        );
        assert!(socket.recv_buffer_size().expect("readable") >= 50_000);
        assert!(socket.send_buffer_size().expect("readable") >= 60_000);
        assert_eq!(socket.linger().expect("readable"), Some(Duration::ZERO));

        let off = [
            SocketOption::NoDelay(false),
            SocketOption::KeepAlive(None),
            SocketOption::Linger(None),
        ];
        for option in off {
            connection
                .submit(Operation::SetOption(option), 0)
                .expect("submits");
            next(&port).result().expect("set");
        }
        assert!(!socket.tcp_nodelay().expect("readable"));
        assert!(!socket.keepalive().expect("readable"));
        assert_eq!(socket.linger().expect("readable"), None);
        drop(peer);
        assert_quiet(&port);
    });
}

#[test]
fn a_stream_goes_on_while_its_data_is_echoed() {
    for_each_driver(|driver| {
        const SIZE: usize = 3 << 20;
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        let mut reading = peer.try_clone().expect("a copy");
        let writer = Worker::start(move || {
            peer.write_all(&pattern(0, SIZE))
                .expect("the port reads it all");
            peer.shutdown(Shutdown::Write).expect("it is connected");
        });
        let reader = Worker::start(move || {
            let mut all = Vec::new();
            reading
                .read_to_end(&mut all)
                .expect("the port ends the stream");
            all
        });
        let (mut received, mut sent, mut ended) = (0, 0, false);
        while !ended || sent < received {
            let mut taken = next(&port);
            match taken.kind() {
                CompletionKind::Receive => {
                    ended = taken.is_final();
                    received += taken.result().expect("received");
                    if let Some(data) = taken.take_buffer() {
                        connection
                            .submit(Operation::Send(data), 1)
                            .expect("submits");
                    }
                }
                _ => sent += taken.result().expect("sent"),
            }
        }
        connection
            .submit(Operation::Shutdown(Shutdown::Write), 2)
            .expect("submits");
        assert!(until_final(&port).iter().all(|done| done.bytes() == 0));
        writer.join();
        assert!(reader.join() == pattern(0, SIZE), "every byte, in order");
    });
}

#[cfg(unix)]
#[test]
fn room_to_send_is_waited_for_in_turn_whoever_has_filled_the_socket() {
    for_each_driver(|driver| {
        const MORE_THAN_FITS: usize = 16 << 20;
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 5);
        let wait = |token| {
            connection
                .submit(Operation::WaitWritable, token)
                .expect("submits")
        };
        let assert_room = |token| {
            let room = next(&port);
            assert_eq!((room.key(), room.token()), (5, token));
            assert_eq!(room.result().expect("room"), 0);
        };
        wait(0);
        assert_room(0);

        let large = vec![7; MORE_THAN_FITS];
        connection
            .submit(Operation::Send(large.into()), 1)
            .expect("submits");
        wait(2);
        assert_quiet(&port);
        let received = receive_all(&peer, MORE_THAN_FITS);
        assert_eq!(next(&port).result().expect("sent"), MORE_THAN_FITS);
        assert_room(2);
        received.join();

        // Past the port, by a descriptor of the program's own that never blocks.
        let mut own = past_the_port(&connection);
        own.set_nonblocking(true).expect("a socket");
        let mut filled = 0;
        let full = loop {
            match own.write(&[7; 65_536]) {
                Ok(count) => filled += count,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        wait(3);
        assert_quiet(&port);
        let received = receive_all(&peer, filled);
        assert_room(3);
        received.join();

        // That it does not block changes nothing for the port's own sends.
        let large = vec![7; MORE_THAN_FITS];
        connection
            .submit(Operation::Send(large.into()), 4)
            .expect("submits");
        assert_quiet(&port);
        let received = receive_all(&peer, MORE_THAN_FITS);
        assert_eq!(next(&port).result().expect("sent"), MORE_THAN_FITS);
        received.join();

        crate::support::reset(peer);
        wait(5);
        assert_room(5);
        assert_quiet(&port);
    });
}

#[cfg(unix)]
fn receive_all(peer: &TcpStream, bytes: usize) -> Worker<()> {
    let mut peer = peer.try_clone().expect("a descriptor");
    Worker::start(move || {
        let mut piece = vec![0; 65_536];
        let mut left = bytes;
        while left > 0 {
            let room = left.min(piece.len());
            left -= peer.read(&mut piece[..room]).expect("receive");
        }
    })
}

#[cfg(windows)]
#[test]
fn room_to_send_is_not_waited_for_on_windows() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 5);
        let refused = connection
            .submit(Operation::WaitWritable, 0)
            .expect_err("refused");
        assert_eq!(refused.error.kind(), ErrorKind::Unsupported);
        assert_quiet(&port);
    });
}
