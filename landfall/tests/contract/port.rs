//! The port itself, association and keys: statements 1, 2, 4, 7 and 9.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use landfall::buffer::{Buffer, PooledBuffer};
use landfall::port::{
    Accept, Accepted, AssociateError, Association, BufferPolicy, Completion, CompletionKind,
    CompletionPort, GetError, Handle, Operation, PostError, SocketOption, SubmitError,
};
use socket2::{Domain, Socket, Type};

use crate::support::{
    assert_quiet, client, compute_for, connected, for_each_driver, for_each_driver_alone, listener,
    next, pair, past_the_port, post,
};
use crate::threads::Worker;

#[test]
fn c01_zero_means_as_many_as_processors() {
    for_each_driver(|driver| {
        let processors = thread::available_parallelism().expect("known").get();
        assert_eq!(driver.port(0).concurrency(), processors);
        assert_eq!(driver.port(3).concurrency(), 3);
    });
}

/// Sixteen packets whose handlers compute, eight workers, and a count of those in a handler.
fn most_running_at_once(port: &CompletionPort) -> usize {
    const PACKETS: usize = 16;
    let inside = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let left = Arc::new(AtomicUsize::new(PACKETS));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (port, inside, most, left) =
                (port.clone(), inside.clone(), most.clone(), left.clone());
            Worker::start(move || {
                while port.get(None).is_ok() {
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    compute_for(Duration::from_millis(4));
                    inside.fetch_sub(1, Ordering::SeqCst);
                    if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                        port.close();
                    }
                }
            })
        })
        .collect();
    workers.iter().for_each(Worker::wait_until_asleep);
    (0..PACKETS).for_each(|token| post(port, token));
    workers.into_iter().for_each(Worker::join);
    assert_eq!(left.load(Ordering::SeqCst), 0, "every packet was handled");
    most.load(Ordering::SeqCst)
}

#[test]
fn c01_no_more_than_the_value_run_at_once() {
    for_each_driver_alone(|driver| {
        for value in 1..=3 {
            let most = most_running_at_once(&driver.port(value));
            assert!(most <= value, "{most} ran at once with value {value}");
        }
        assert_eq!(
            most_running_at_once(&driver.port(2)),
            2,
            "the value is also made use of"
        );
    });
}

#[test]
fn c02_a_connection_stays_with_the_port_that_accepted_it() {
    for_each_driver(|driver| {
        let (port, other) = (driver.port(0), driver.port(0));
        let (listener, address) = listener();
        let listener = port.associate(listener, 1).expect("associates");
        listener
            .submit(Operation::Accept(Accept::once()), 0)
            .expect("submits");
        let mut peer = client(address);
        let accepted = next(&port).take_accepted().expect("a connection");

        let refused = other
            .associate(accepted, 2)
            .expect_err("it belongs to the first port");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);

        let connection = port
            .associate(refused.source, 3)
            .expect("it came back unharmed");
        connection
            .submit(Operation::ReceiveOnce, 4)
            .expect("submits");
        peer.write_all(b"still here")
            .expect("the connection is open");
        let mut received = next(&port);
        assert_eq!((received.key(), received.token()), (3, 4));
        assert_eq!(&received.take_buffer().expect("data")[..], b"still here");
        assert_quiet(&port);
        assert_quiet(&other);
    });
}

#[test]
fn c04_the_key_comes_back_with_every_completion() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port
            .associate(std_listener, usize::MAX)
            .expect("associates");
        listener
            .submit(Operation::Accept(Accept::once()), 11)
            .expect("submits");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let connecting = port.associate(socket, 0).expect("associates");
        connecting
            .submit(Operation::Connect(address), 12)
            .expect("submits");

        let mut seen: Vec<_> = (0..2).map(|_| next(&port)).collect();
        seen.sort_by_key(|completion| completion.token());
        let accepted = seen[0].take_accepted().expect("a connection");
        assert_eq!(
            (seen[0].kind(), seen[0].key()),
            (CompletionKind::Accept, usize::MAX)
        );
        assert_eq!(
            (seen[1].kind(), seen[1].key()),
            (CompletionKind::Connect, 0)
        );

        let connection = port.associate(accepted, 77).expect("associates");
        let steps = [
            (
                Operation::SetOption(SocketOption::NoDelay(true)),
                CompletionKind::SetOption,
            ),
            (Operation::Send("hello".into()), CompletionKind::Send),
            (
                Operation::SendVectored(vec!["a".into(), "b".into()]),
                CompletionKind::Send,
            ),
            (
                Operation::Shutdown(Shutdown::Both),
                CompletionKind::Shutdown,
            ),
            (
                Operation::Receive(Vec::with_capacity(8)),
                CompletionKind::Receive,
            ),
        ];
        for (token, (operation, kind)) in steps.into_iter().enumerate() {
            let id = connection.submit(operation, token).expect("submits");
            let done = next(&port);
            assert_eq!((done.kind(), done.key(), done.token()), (kind, 77, token));
            assert_eq!(done.id(), id);
            assert_eq!(done.handle().expect("a handle").key(), 77);
            assert!(done.result().is_ok(), "{done:?}");
        }
        assert_quiet(&port);
    });
}

#[test]
fn c04_the_context_is_found_from_the_completion() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (ours, mut peer) = pair();
        let association = Association::new(5).context(Arc::new("the guest's name".to_owned()));
        let connection = port.associate_with(ours, association).expect("associates");
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        drop(connection);
        peer.write_all(b"x")
            .expect("the pending receive keeps the connection open");
        let received = next(&port);
        let context = received
            .handle()
            .and_then(|handle| handle.context())
            .expect("a context");
        let name = context
            .downcast_ref::<String>()
            .expect("the type that went in");
        assert_eq!(name, "the guest's name");
    });
}

#[test]
fn c07_a_clone_completes_with_the_original_key() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 21);
        let clone = connection.clone();
        clone.submit(Operation::ReceiveOnce, 1).expect("submits");
        drop(connection);
        peer.write_all(b"to the clone")
            .expect("a clone keeps the connection open");
        let received = next(&port);
        assert_eq!(
            (received.key(), received.token(), received.bytes()),
            (21, 1, 12)
        );
        assert_quiet(&port);
    });
}

#[test]
fn c09_closing_an_idle_handle_queues_nothing() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (closed, _peer) = connected(&port, 1);
        closed.close();
        let (dropped, _peer) = connected(&port, 2);
        drop(dropped);
        let (listener, _) = listener();
        drop(port.associate(listener, 3).expect("associates"));
        assert_quiet(&port);
    });
}

#[test]
fn c03_sockets_of_the_standard_library_are_associated_as_they_are() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for nonblocking in [false, true] {
            let (ours, mut peer) = pair();
            ours.set_nonblocking(nonblocking).expect("a valid socket");
            let address = ours.local_addr().expect("a bound socket has an address");
            let connection = port.associate(ours, 1).expect("associates");
            assert_eq!(connection.local_addr().expect("an address"), address);
            let peer_address = peer.local_addr().expect("an address");
            assert_eq!(connection.peer_addr().expect("an address"), peer_address);

            connection
                .submit(Operation::Receive(Vec::with_capacity(16)), 0)
                .expect("submits");
            assert_quiet(&port);
            peer.write_all(b"late").expect("the connection is open");
            let received = next(&port);
            assert_eq!(
                received.result().expect("received"),
                4,
                "non-blocking: {nonblocking}"
            );
        }
    });
}

#[test]
fn c03_a_non_blocking_listener_and_a_udp_socket_are_associated_as_they_are() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        std_listener.set_nonblocking(true).expect("a valid socket");
        let listener = port.associate(std_listener, 1).expect("associates");
        listener
            .submit(Operation::Accept(Accept::once()), 0)
            .expect("submits");
        assert_quiet(&port);
        let _peer = client(address);
        assert!(next(&port).take_accepted().is_some());

        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        udp.set_nonblocking(true).expect("a valid socket");
        let address = udp.local_addr().expect("an address");
        let udp = port.associate(udp, 2).expect("associates");
        udp.submit(Operation::Receive(Vec::with_capacity(16)), 0)
            .expect("submits");
        assert_quiet(&port);
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        sender
            .send_to(b"datagram", address)
            .expect("sends over loopback");
        assert_eq!(next(&port).result().expect("received"), 8);
    });
}

#[test]
fn a_handle_gives_a_descriptor_of_its_own() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        let mut ours = past_the_port(&connection);
        drop(connection);
        ours.write_all(b"past the port")
            .expect("the socket is open");
        let mut text = [0; 13];
        std::io::Read::read_exact(&mut peer, &mut text).expect("it arrives");
        assert_eq!(&text, b"past the port");
        assert_quiet(&port);
    });
}

#[test]
fn a_handle_finds_its_port() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        post(&connection.port().expect("the port is there"), 9);
        assert_eq!(next(&port).token(), 9);
        drop(port);
        assert!(
            connection.port().is_err(),
            "every clone of the port is gone"
        );
    });
}

#[test]
fn a_port_says_which_driver_runs_and_why() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        assert_eq!(port.driver(), driver.driver());
        assert!(!port.driver_reason().is_empty());
        assert!(format!("{port:?}").contains("concurrency"));
    });
}

#[test]
fn what_belongs_to_a_port_may_go_to_any_thread() {
    fn any_thread<T: Send + Sync>() {}
    any_thread::<CompletionPort>();
    any_thread::<Handle>();
    any_thread::<Completion>();
    any_thread::<Accepted>();
    any_thread::<Operation>();
    any_thread::<SubmitError>();
    any_thread::<AssociateError>();
    any_thread::<PostError>();
    any_thread::<GetError>();
    any_thread::<Buffer>();
    any_thread::<PooledBuffer>();
}

#[test]
fn a_port_says_how_many_sockets_it_holds() {
    for_each_driver(|driver| {
        let one = driver.builder(1).lanes(1).build().expect("a port");
        let two = driver.builder(1).lanes(2).build().expect("a port");
        let (capacity, doubled) = (one.socket_capacity(), two.socket_capacity());
        assert!(capacity > 0);
        // Tables of the lanes' own add up; the process's is shared.
        assert!(capacity.checked_mul(2) == Some(doubled) || doubled == capacity);
    });
}

/// Takes completions until the sockets of all these handles have echoed what their peers said.
fn echo_all(port: &CompletionPort, handles: &[(Handle, TcpStream)]) {
    for (token, (handle, peer)) in handles.iter().enumerate() {
        handle
            .submit(Operation::ReceiveOnce, token)
            .expect("submits");
        (&mut &*peer).write_all(b"x").expect("connected");
    }
    let mut left = 2 * handles.len();
    while left > 0 {
        let mut completion = next(port);
        assert_eq!(completion.result().expect("no error"), 1);
        if completion.kind() == CompletionKind::Receive {
            let data = completion.take_buffer().expect("a byte");
            let token = completion.token();
            handles[token]
                .0
                .submit(Operation::Send(data), token)
                .expect("submits");
        }
        left -= 1;
    }
}

#[test]
fn one_thread_serves_two_ports_of_as_many_lanes_as_there_are() {
    for_each_driver(|driver| {
        let small = BufferPolicy { size: 64, count: 1 };
        let build = || {
            let builder = driver.builder(1).lanes(1000).buffers(small);
            builder.build().expect("a port")
        };
        let ports = [build(), build()];
        // More than there are lanes, so that each has some.
        let handles = ports
            .each_ref()
            .map(|port| (0..100).map(|key| connected(port, key)).collect::<Vec<_>>());
        for _ in 0..2 {
            for (port, handles) in ports.iter().zip(&handles) {
                echo_all(port, handles);
                assert_quiet(port);
            }
        }
    });
}
