//! Datagrams: statement 45.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use landfall::port::{BufferPolicy, CompletionKind, CompletionPort, Handle, Operation, is_aborted};

use crate::support::{PATIENCE, assert_quiet, connected, for_each_driver, next};

/// `EMSGSIZE`
#[cfg(target_os = "linux")]
const TOO_LONG: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();
/// `WSAEMSGSIZE`
#[cfg(windows)]
const TOO_LONG: i32 = 10_040;

/// A datagram socket of a port, where to send to it, and one to send with.
fn receiver(port: &CompletionPort) -> (Handle, SocketAddr, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("an address");
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    (
        port.associate(socket, 45).expect("associates"),
        address,
        sender,
    )
}

/// Two datagrams come to receives with room for ten bytes; the first is longer.
fn cuts_the_first(port: &CompletionPort, receive: fn() -> Operation) {
    let (socket, address, sender) = receiver(port);
    sender
        .send_to(b"a datagram of thirty characters", address)
        .expect("sends");
    sender.send_to(b"the next", address).expect("sends");
    for token in 0..2 {
        socket.submit(receive(), token).expect("submits");
    }
    let mut cut = next(port);
    assert_eq!((cut.key(), cut.token()), (45, 0));
    let error = cut.result().expect_err("the datagram did not fit");
    assert_eq!(error.raw_os_error(), Some(TOO_LONG), "{error}");
    assert_eq!(cut.bytes(), 10, "the count is still meaningful");
    assert_eq!(&cut.take_buffer().expect("the buffer")[..], b"a datagram");
    let mut whole = next(port);
    assert_eq!(whole.result().expect("received"), 8);
    assert_eq!(&whole.take_buffer().expect("the buffer")[..], b"the next");
    assert_quiet(port);
}

#[test]
fn c45_a_datagram_larger_than_the_buffer_fills_it_and_the_rest_is_lost() {
    for_each_driver(|driver| {
        cuts_the_first(&driver.port(0), || {
            Operation::Receive(Vec::with_capacity(10))
        });
    });
}

#[test]
fn c45_a_datagram_larger_than_a_pooled_buffer_is_told_of_too() {
    for_each_driver(|driver| {
        let ten = BufferPolicy { size: 10, count: 4 };
        let port = driver
            .builder(0)
            .buffers(ten)
            .build()
            .expect("the driver can be set up");
        cuts_the_first(&port, || Operation::ReceiveOnce);
    });
}

/// Datagrams of two senders come to receives that ask for them, one by IPv4 and one by IPv6.
#[test]
fn a_datagram_tells_its_sender_who_can_be_answered() {
    for_each_driver(|driver| {
        for (key, at) in [(4, "127.0.0.1:0"), (6, "[::1]:0")] {
            let port = driver.port(0);
            let socket = match UdpSocket::bind(at) {
                // There is no IPv6 here.
                Err(_) if key == 6 => continue,
                socket => socket.expect("a free port"),
            };
            let address = socket.local_addr().expect("an address");
            let socket = port.associate(socket, key).expect("associates");
            let senders = [(); 2].map(|()| UdpSocket::bind(at).expect("a free port"));
            for (token, sender) in senders.iter().enumerate() {
                let from = Some(sender.local_addr().expect("an address"));
                // Nothing stands before it, and as much as fits is received after it.
                let mut vec = Vec::with_capacity(64);
                vec.extend_from_slice(b"before ");
                let receive = Operation::ReceiveFrom(vec);
                socket.submit(receive, token).expect("submits");
                sender.send_to(b"a question", address).expect("sends");
                let mut asked = next(&port);
                assert_eq!((asked.key(), asked.token()), (key, token));
                assert_eq!(asked.kind(), CompletionKind::Receive);
                assert_eq!((asked.result().ok(), asked.peer()), (Some(10), from));
                let question = asked.take_buffer().expect("the vector");
                assert_eq!(&question[..], b"before a question");
                assert_eq!(asked.peer(), from, "also when the vector has been taken");
                assert!(asked.take_buffer().is_none(), "there is one vector");
            }
            for (token, sender) in senders.iter().enumerate() {
                let address = sender.local_addr().expect("an address");
                let buffer = vec![token as u8; 9_000].into();
                let answer = Operation::SendTo { address, buffer };
                socket.submit(answer, token).expect("submits");
            }
            for _ in &senders {
                let mut sent = next(&port);
                assert_eq!(sent.kind(), CompletionKind::Send);
                assert_eq!((sent.result().ok(), sent.peer()), (Some(9_000), None));
                let buffer = sent.take_buffer().expect("what was sent");
                assert_eq!(buffer[0] as usize, sent.token());
            }
            for (token, sender) in senders.iter().enumerate() {
                sender.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let mut answer = [9; 10_000];
                assert_eq!(
                    sender.recv_from(&mut answer).expect("it comes"),
                    (9_000, address)
                );
                assert_eq!(answer[8_999] as usize, token);
            }
            assert_quiet(&port);
        }
    });
}

#[test]
fn a_datagram_without_bytes_has_a_sender_and_can_be_sent() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (socket, address, peer) = receiver(&port);
        let from = peer.local_addr().expect("an address");
        let receive = Operation::ReceiveFrom(Vec::with_capacity(1));
        socket.submit(receive, 0).expect("submits");
        peer.send_to(b"", address).expect("sends");
        let mut received = next(&port);
        assert_eq!(
            (received.result().ok(), received.peer()),
            (Some(0), Some(from))
        );
        assert!(received.take_buffer().expect("the vector").is_empty());
        let answer = Operation::SendTo {
            address: from,
            buffer: "".into(),
        };
        socket.submit(answer, 1).expect("submits");
        assert_eq!(next(&port).result().expect("sent"), 0);
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(peer.recv_from(&mut [0]).expect("it comes"), (0, address));
        assert_quiet(&port);
    });
}

#[test]
fn c45_a_datagram_larger_than_the_buffer_tells_its_sender_all_the_same() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        // One is there when it is asked for, and one comes later.
        for waits in [false, true] {
            let (socket, address, sender) = receiver(&port);
            let from = sender.local_addr().expect("an address");
            let send = || sender.send_to(&[7; 30], address).expect("sends");
            let receive = Operation::ReceiveFrom(Vec::with_capacity(10));
            if !waits {
                send();
            }
            socket.submit(receive, 0).expect("submits");
            if waits {
                assert_quiet(&port);
                send();
            }
            let mut cut = next(&port);
            let error = cut.result().expect_err("the datagram did not fit");
            assert_eq!(error.raw_os_error(), Some(TOO_LONG), "{error}");
            assert_eq!((cut.bytes(), cut.peer()), (10, Some(from)));
            assert_eq!(&cut.take_buffer().expect("the vector")[..], [7; 10]);
        }
        assert_quiet(&port);
    });
}

#[test]
fn a_receive_with_the_sender_that_is_cancelled_gives_its_vector_back() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (socket, address, sender) = receiver(&port);
        for token in 0..2 {
            let receive = Operation::ReceiveFrom(Vec::with_capacity(10));
            socket.submit(receive, token).expect("submits");
        }
        assert_quiet(&port);
        assert_eq!(socket.cancel_all(), 2);
        for _ in 0..2 {
            let mut cancelled = next(&port);
            assert!(is_aborted(&cancelled.result().expect_err("cancelled")));
            assert_eq!((cancelled.bytes(), cancelled.peer()), (0, None));
            let vec = cancelled.take_buffer().expect("the vector").into_vec();
            assert_eq!((vec.len(), vec.capacity()), (0, 10));
        }
        // It is usable as before.
        let receive = Operation::ReceiveFrom(Vec::with_capacity(10));
        socket.submit(receive, 3).expect("submits");
        sender.send_to(b"data", address).expect("sends");
        assert_eq!(next(&port).result().expect("received"), 4);
        assert_quiet(&port);
    });
}

#[test]
fn datagrams_with_addresses_are_refused_to_streams_with_what_they_bring() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (stream, _peer) = connected(&port, 1);
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let buffer = "lost?".into();
        let refused = stream
            .submit(Operation::SendTo { address, buffer }, 0)
            .expect_err("not a datagram socket");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        let Operation::SendTo { buffer, .. } = refused.operation else {
            panic!("it comes back as it was");
        };
        assert_eq!(&buffer[..], b"lost?");
        let refused = stream
            .submit(Operation::ReceiveFrom(Vec::with_capacity(10)), 0)
            .expect_err("not a datagram socket");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        let (socket, ..) = receiver(&port);
        let refused = socket
            .submit(Operation::ReceiveFrom(Vec::new()), 0)
            .expect_err("no room");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        assert_quiet(&port);
    });
}

/// Too long, to an address of another family, to nobody: each fails or is lost by itself.
#[test]
fn a_datagram_that_cannot_be_sent_leaves_the_socket_as_it_was() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (socket, _, peer) = receiver(&port);
        let to = peer.local_addr().expect("an address");
        let send_to = |address, buffer: Vec<u8>| {
            let buffer = buffer.into();
            let operation = Operation::SendTo { address, buffer };
            socket.submit(operation, 0).expect("submits");
            next(&port).result()
        };
        for size in [65_508, (1 << 20) + 1] {
            let error = send_to(to, vec![0; size]).expect_err("too long");
            assert_eq!(error.raw_os_error(), Some(TOO_LONG), "{error}");
        }
        send_to("[::1]:9".parse().expect("an address"), vec![1]).expect_err("another family");
        for _ in 0..3 {
            assert_eq!(send_to(refusing_datagrams(), vec![1]).expect("goes"), 1);
        }
        assert_eq!(send_to(to, vec![1; 65_507]).expect("fits"), 65_507);
        // What came of those to nobody is not an error of a receive.
        let receive = Operation::ReceiveFrom(Vec::with_capacity(10));
        socket.submit(receive, 1).expect("submits");
        assert_quiet(&port);
    });
}

/// As many waits as receives that fail at once: what the system still reports of each must not be
/// taken for the next one's.
#[test]
fn many_waits_for_one_datagram_all_see_it() {
    for_each_driver(|driver| {
        const WAITS: usize = 200;
        let port = driver.port(0);
        let (socket, address, sender) = receiver(&port);
        sender
            .send_to(b"longer than a byte", address)
            .expect("sends");
        for token in 0..WAITS {
            socket
                .submit(Operation::WaitReadable, token)
                .expect("submits");
        }
        for token in 0..WAITS {
            let waited = next(&port);
            assert_eq!((waited.token(), waited.result().ok()), (token, Some(0)));
        }
        socket
            .submit(Operation::Receive(Vec::with_capacity(100)), 0)
            .expect("submits");
        let data = next(&port).take_buffer().expect("the buffer");
        assert_eq!(&data[..], b"longer than a byte");
        assert_quiet(&port);
    });
}

#[test]
fn c45_a_datagram_is_received_and_sent_whole() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (socket, address, sender) = receiver(&port);
        let from = sender.local_addr().expect("an address");
        for size in [0, 1, 1_000, 9_000] {
            sender.send_to(&vec![3; size], address).expect("sends");
            socket
                .submit(Operation::Receive(Vec::with_capacity(10_000)), size)
                .expect("submits");
            let received = next(&port);
            assert_eq!(
                (received.token(), received.result().expect("received")),
                (size, size)
            );
        }
        socket.submit(Operation::Connect(from), 0).expect("submits");
        next(&port)
            .result()
            .expect("a datagram socket connects at once");
        socket
            .submit(Operation::Send("an answer".into()), 1)
            .expect("submits");
        assert_eq!(next(&port).result().expect("sent"), 9);
        let mut answer = [0; 32];
        assert_eq!(sender.recv(&mut answer).expect("it arrives"), 9);
        assert_quiet(&port);
    });
}

/// What the system may still report of each is not to be taken for another's either.
#[test]
fn datagrams_too_long_to_be_sent_fail_and_keep_nothing_waiting() {
    for_each_driver(|driver| {
        const ATTEMPTS: usize = 100;
        let port = driver.port(0);
        let (socket, address, peer) = receiver(&port);
        let to = peer.local_addr().expect("an address");
        socket.submit(Operation::Connect(to), 0).expect("submits");
        next(&port).result().expect("connects at once");
        // More than a datagram of IPv4 can have, and more than one call is given at most.
        for size in [65_508, (1 << 20) + 1] {
            for token in 0..ATTEMPTS {
                let long = Operation::Send(vec![0; size].into());
                socket.submit(long, token).expect("submits");
                let failed = next(&port);
                let error = failed.result().expect_err("too long");
                assert_eq!((failed.token(), failed.bytes()), (token, 0));
                assert_eq!(error.raw_os_error(), Some(TOO_LONG), "{error}");
            }
        }
        socket
            .submit(Operation::Send("short".into()), 1)
            .expect("submits");
        assert_eq!(next(&port).result().expect("sent"), 5);
        peer.send_to(b"an answer", address).expect("sends");
        socket
            .submit(Operation::Receive(Vec::with_capacity(32)), 2)
            .expect("submits");
        assert_eq!(next(&port).result().expect("received"), 9);
        assert_quiet(&port);
    });
}

/// What a poll reports without end, as nobody takes it: a message in the socket's error queue. A
/// receive waits there for data all the same, without working, and can be cancelled.
#[cfg(target_os = "linux")]
#[test]
fn a_receive_waits_for_data_behind_what_the_system_keeps_of_errors() {
    use std::time::Duration;

    use landfall::port::GetError;
    use nix::sys::socket::{setsockopt, sockopt::Ipv4RecvErr};

    use crate::support::{eventually, for_each_driver_alone};

    /// How long it waits, and how long it may compute meanwhile.
    const WAIT: Duration = Duration::from_millis(200);
    const MOST_COMPUTED: Duration = Duration::from_millis(50);

    for_each_driver_alone(|driver| {
        let port = driver.port(0);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        setsockopt(&socket, Ipv4RecvErr, &true).expect("an option of Linux");
        let own = socket.try_clone().expect("a descriptor");
        let address = own.local_addr().expect("an address");
        let socket = port.associate(socket, 1).expect("associates");
        // The port unreachable that answers is the error of the next receive, and stays queued.
        own.send_to(b"nobody is there", refusing_datagrams())
            .expect("sends");
        eventually("an error is reported", || {
            own.take_error().expect("a socket").is_some()
        });

        socket.submit(Operation::ReceiveOnce, 1).expect("submits");
        let before = processor_time();
        assert_eq!(port.get(Some(WAIT)).err(), Some(GetError::TimedOut));
        let computed = processor_time() - before;
        assert!(computed < MOST_COMPUTED, "{computed:?}");
        own.send_to(b"data", address).expect("sends");
        let mut received = next(&port);
        assert_eq!((received.token(), received.result().ok()), (1, Some(4)));
        assert_eq!(&received.take_buffer().expect("the buffer")[..], b"data");

        let waits = socket.submit(Operation::ReceiveOnce, 2).expect("submits");
        assert_quiet(&port);
        assert!(socket.cancel(waits));
        let cancelled = next(&port);
        assert!(is_aborted(&cancelled.result().expect_err("cancelled")));

        socket.submit(Operation::ReceiveOnce, 3).expect("submits");
        assert_quiet(&port);
        socket.close();
        let closed = next(&port);
        assert!(is_aborted(&closed.result().expect_err("closed")));
        assert_quiet(&port);
    });
}

/// An address of loopback where no datagrams are taken.
fn refusing_datagrams() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("an address")
}

/// What all threads of this process have computed.
#[cfg(target_os = "linux")]
fn processor_time() -> std::time::Duration {
    use rustix::time::{ClockId, clock_gettime};

    let time = clock_gettime(ClockId::ProcessCPUTime);
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
