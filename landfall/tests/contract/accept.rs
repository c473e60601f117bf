//! Accepting: statements 46, 47, 50 and 51.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use landfall::port::{
    Accept, Accepted, Association, CompletionKind, CompletionPort, Operation, SocketOption,
    is_aborted,
};

use crate::support::{
    PATIENCE, assert_quiet, client, connected, for_each_driver, for_each_driver_alone, listener,
    next, reset, until_final,
};
use crate::threads::{Worker, open_descriptors};

/// A connection's peer, seen from its other end: it was closed.
#[track_caller]
fn assert_closed(mut peer: TcpStream) {
    // Read as `read_exact` does, past interruptions: what a ring completes for this thread ends a
    // read that has a timeout.
    let end = peer
        .read_exact(&mut [0; 1])
        .expect_err("nothing was sent")
        .kind();
    assert!(
        matches!(end, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        "{end}"
    );
}

/// The next completion's connection.
#[track_caller]
fn next_accepted(port: &CompletionPort) -> Accepted {
    let mut taken = next(port);
    assert_eq!(taken.kind(), CompletionKind::Accept);
    taken
        .take_accepted()
        .unwrap_or_else(|| panic!("no connection came with {taken:?}"))
}

#[test]
fn c46_without_first_data_an_accept_completes_on_connection() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        for accept in [Accept::once(), Accept::stream()] {
            listener
                .submit(Operation::Accept(accept), 0)
                .expect("submits");
            assert_quiet(&port);
            let peer = client(address);
            let mut accept = next(&port);
            assert_eq!(accept.result().expect("accepted"), 0, "no bytes");
            let mut accepted = accept.take_accepted().expect("a connection");
            assert!(accepted.first_data().is_none());
            assert_eq!(
                accepted.peer_addr().expect("an address"),
                peer.local_addr().expect("bound")
            );
            assert_eq!(accepted.local_addr().expect("an address"), address);
            drop(accepted);
            assert_closed(peer);
        }
    });
}

#[test]
fn c46_with_first_data_an_accept_waits_for_a_byte() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 46).expect("associates");
        for accept in [Accept::once(), Accept::stream()] {
            let accept = accept.first_data(PATIENCE);
            listener
                .submit(Operation::Accept(accept), 2)
                .expect("submits");
            let mut peer = client(address);
            assert_quiet(&port);
            peer.write_all(b"hello").expect("the connection is open");
            let mut completion = next(&port);
            assert_eq!((completion.key(), completion.token()), (46, 2));
            assert_eq!(completion.result().expect("accepted"), 5);
            let mut accepted = completion.take_accepted().expect("a connection");
            assert_eq!(
                &accepted.first_data().expect("the first data")[..],
                b"hello"
            );
            assert_eq!(
                accepted.peer_addr().expect("an address"),
                peer.local_addr().expect("bound")
            );

            let connection = port.associate(accepted, 3).expect("associates");
            connection
                .submit(Operation::ReceiveOnce, 4)
                .expect("submits");
            peer.write_all(b"and more").expect("the connection is open");
            assert_eq!(&next(&port).take_buffer().expect("data")[..], b"and more");
            assert_quiet(&port);
        }
    });
}

#[test]
fn c46_with_first_data_a_client_that_closes_completes_with_no_bytes() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        let accept = Accept::stream().first_data(PATIENCE);
        listener
            .submit(Operation::Accept(accept), 0)
            .expect("submits");
        let peer = client(address);
        assert_quiet(&port);
        drop(peer);
        let accepted = next(&port);
        assert_eq!(
            accepted
                .result()
                .expect("a success, as the end of a stream is one"),
            0
        );
        assert_quiet(&port);
    });
}

#[test]
fn c46_a_silent_client_is_closed_at_the_deadline_and_never_seen() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for accept in [Accept::once(), Accept::stream()] {
            let (std_listener, address) = listener();
            let listener = port.associate(std_listener, 1).expect("associates");
            let accept = accept.first_data(Duration::from_millis(60));
            listener
                .submit(Operation::Accept(accept), 0)
                .expect("submits");
            let silent = client(address);
            let worker = {
                let port = port.clone();
                Worker::start(move || next(&port).bytes())
            };
            assert_closed(silent);
            assert!(
                !worker.is_finished(),
                "the port told of a client that never spoke"
            );
            let mut talking = client(address);
            talking
                .write_all(b"quick")
                .expect("its place is free again");
            assert_eq!(worker.join(), 5);
            listener.close();
            if let Ok(end) = port.get(Some(PATIENCE / 200)) {
                assert!(end.is_final() && is_aborted(&end.result().expect_err("aborted")));
            }
            assert_quiet(&port);
        }
    });
}

/// One thread waits; another sees the client come, and is not seen again: the first must learn of
/// the deadline.
#[test]
fn c46_a_silent_client_is_closed_whoever_saw_it_come() {
    for_each_driver_alone(|driver| {
        let port = driver.port(2);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        let accept = Accept::stream().first_data(Duration::from_millis(10));
        listener
            .submit(Operation::Accept(accept), 0)
            .expect("submits");
        let waiter = {
            let port = port.clone();
            Worker::start(move || port.get(None).map(|completion| completion.bytes()).ok())
        };
        waiter.wait_until_asleep();
        let (go, gone) = mpsc::channel::<usize>();
        let passer_by = {
            let port = port.clone();
            Worker::start(move || {
                for looks in gone {
                    for _ in 0..looks {
                        port.get(Some(Duration::ZERO)).expect_err("nobody speaks");
                    }
                }
            })
        };
        for round in 0..40 {
            go.send(1 + round % 20).expect("it waits for that");
            assert_closed(client(address));
        }
        drop(go);
        passer_by.join();
        port.close();
        assert_eq!(waiter.join(), None);
    });
}

#[test]
fn c46_silent_clients_do_not_keep_others_out() {
    for_each_driver(|driver| {
        const SILENT: usize = 200;
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        let accept = Accept::stream().first_data(PATIENCE);
        listener
            .submit(Operation::Accept(accept), 0)
            .expect("submits");
        // A port that nobody asks takes no connections off the backlog, so clients come meanwhile.
        let clients = Worker::start(move || {
            let silent: Vec<_> = (0..SILENT).map(|_| client(address)).collect();
            let mut talking = client(address);
            talking.write_all(b"!").expect("the connection is open");
            (silent, talking)
        });
        assert_eq!(next(&port).bytes(), 1);
        let (silent, _talking) = clients.join();
        listener.close();
        assert!(next(&port).is_final());
        assert_quiet(&port);
        silent.into_iter().for_each(assert_closed);
    });
}

#[test]
fn c47_an_accept_completes_with_the_listeners_key_and_token() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 125).expect("associates");
        let id = listener
            .submit(Operation::Accept(Accept::stream()), 236)
            .expect("submits");
        let mut peers = Vec::new();
        for key in 0..3 {
            let mut peer = client(address);
            let mut accept = next(&port);
            assert_eq!((accept.key(), accept.token(), accept.id()), (125, 236, id));
            assert_eq!(accept.handle().expect("a handle").key(), 125);
            assert!(!accept.is_final());
            let accepted = accept.take_accepted().expect("a connection");
            let connection = port.associate(accepted, key).expect("associates");
            connection
                .submit(Operation::ReceiveOnce, 9)
                .expect("submits");
            peer.write_all(b"x").expect("the connection is open");
            assert_eq!((next(&port).key(), connection.key()), (key, key));
            peers.push((peer, connection));
        }
        assert_quiet(&port);
    });
}

#[test]
fn c50_an_accepted_connection_can_be_used_at_once() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 0).expect("associates");
        listener
            .submit(Operation::Accept(Accept::once()), 0)
            .expect("submits");
        let mut peer = client(address);
        let connection = port.associate(next_accepted(&port), 1).expect("associates");
        assert_eq!(connection.local_addr().expect("an address"), address);
        let peer_address = peer.local_addr().expect("bound");
        assert_eq!(connection.peer_addr().expect("an address"), peer_address);
        let uses = [
            Operation::SetOption(SocketOption::NoDelay(true)),
            Operation::Send("all of it".into()),
            Operation::Shutdown(Shutdown::Write),
        ];
        for operation in uses {
            connection.submit(operation, 0).expect("submits");
            next(&port).result().expect("nothing else has to be done");
        }
        let mut text = String::new();
        peer.read_to_string(&mut text).expect("all, and the end");
        assert_eq!(text, "all of it");
    });
}

#[test]
fn c51_closing_the_listener_aborts_its_accepts() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let accepts = [
            Accept::once(),
            Accept::stream(),
            Accept::once().first_data(PATIENCE),
            Accept::stream().first_data(PATIENCE),
        ];
        for accept in accepts {
            let (std_listener, address) = listener();
            let listener = port.associate(std_listener, 51).expect("associates");
            let clone = listener.clone();
            let id = listener
                .submit(Operation::Accept(accept), 7)
                .expect("submits");
            drop(listener);
            assert_quiet(&port);
            clone.close();
            let ended = next(&port);
            assert_eq!((ended.id(), ended.key(), ended.token()), (id, 51, 7));
            assert!(
                is_aborted(&ended.result().expect_err("aborted")),
                "{ended:?}"
            );
            assert!(ended.is_final());
            drop(ended);
            assert_quiet(&port);
            clone
                .submit(Operation::Accept(Accept::once()), 0)
                .expect_err("the handle is closed");
            assert!(
                TcpStream::connect(address).is_err(),
                "nobody listens any more"
            );
        }
    });
}

/// A connection that was made but had not spoken when the listener was closed.
#[test]
fn c51_closing_the_listener_closes_those_who_had_not_spoken() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        let accept = Accept::stream().first_data(PATIENCE);
        listener
            .submit(Operation::Accept(accept), 0)
            .expect("submits");
        assert_quiet(&port);
        let silent = client(address);
        assert_quiet(&port);
        listener.close();
        let ended = next(&port);
        assert!(ended.is_final() && is_aborted(&ended.result().expect_err("aborted")));
        assert_closed(silent);
        assert_quiet(&port);
    });
}

#[test]
fn c51_a_stream_of_accepts_can_be_cancelled_and_submitted_again() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        for round in 0..3 {
            let id = listener
                .submit(Operation::Accept(Accept::stream()), round)
                .expect("submits");
            let _peer = client(address);
            assert_eq!(next(&port).token(), round);
            assert!(listener.cancel(id), "requested");
            let ended = until_final(&port);
            let last = ended.last().expect("a final one");
            assert!(is_aborted(&last.result().expect_err("aborted")), "{last:?}");
            assert!(!listener.cancel(id), "nothing to cancel any more");
            assert_quiet(&port);
        }
        let _waiting = client(address);
        listener
            .submit(Operation::Accept(Accept::once()), 9)
            .expect("submits");
        assert_eq!(next(&port).token(), 9, "the backlog was kept");
    });
}

/// A cancel that arrives while connections do: every stream still ends.
#[test]
fn c51_ending_streams_of_accepts_races_with_clients() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for round in 0..20 {
            let (std_listener, address) = listener();
            let listener = port.associate(std_listener, 1).expect("associates");
            for token in 0..2 {
                listener
                    .submit(Operation::Accept(Accept::stream()), token)
                    .expect("submits");
            }
            let clients = Worker::start(move || {
                (0..20)
                    .filter_map(|_| TcpStream::connect(address).ok())
                    .collect::<Vec<_>>()
            });
            (0..round % 5).for_each(|_| drop(next_accepted(&port)));
            match round % 2 {
                0 => listener.close(),
                _ => assert_eq!(listener.cancel_all(), 2),
            }
            let mut ended = 0;
            while ended < 2 {
                let completion = next(&port);
                ended += usize::from(completion.is_final());
                assert_eq!(
                    completion.result().is_err(),
                    completion.is_final(),
                    "{completion:?}"
                );
            }
            drop(clients.join());
            assert_quiet(&port);
        }
    });
}

#[test]
fn several_streams_of_one_listener_share_its_connections() {
    for_each_driver(|driver| {
        const CLIENTS: usize = 40;
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        for token in 0..2 {
            listener
                .submit(Operation::Accept(Accept::stream()), token)
                .expect("submits");
        }
        let clients: Vec<_> = (0..CLIENTS).map(|_| client(address)).collect();
        let mut peers: Vec<_> = (0..CLIENTS)
            .map(|_| next_accepted(&port).peer_addr().expect("an address"))
            .collect();
        peers.sort_unstable();
        let mut expected: Vec<_> = clients
            .iter()
            .map(|c| c.local_addr().expect("bound"))
            .collect();
        expected.sort_unstable();
        assert_eq!(
            peers, expected,
            "each connection once, with its own address"
        );
        assert_eq!(listener.cancel_all(), 2);
        let mut ended: Vec<_> = (0..2).map(|_| next(&port).token()).collect();
        ended.sort_unstable();
        assert_eq!(ended, [0, 1]);
        assert_quiet(&port);
    });
}

#[test]
fn an_accept_on_a_connection_is_refused() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        let accept = Operation::Accept(Accept::stream());
        let refused = connection
            .submit(accept, 0)
            .expect_err("it does not listen");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        assert!(matches!(refused.operation, Operation::Accept(_)));
        assert_quiet(&port);
    });
}

#[test]
fn a_burst_of_clients_is_accepted_to_the_last() {
    for_each_driver(|driver| {
        // More than the port keeps accepts posted (32), fewer than the listener's backlog (128).
        const CLIENTS: usize = 120;
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        listener
            .submit(Operation::Accept(Accept::stream()), 0)
            .expect("submits");
        let clients = Worker::start(move || {
            let clients: Vec<_> = (0..CLIENTS).map(|_| client(address)).collect();
            clients
                .iter()
                .for_each(|mut client| client.write_all(b"here").expect("open"));
            clients
        });
        let mut connections = Vec::new();
        let mut spoken = 0;
        while spoken < CLIENTS {
            let mut taken = next(&port);
            if let Some(accepted) = taken.take_accepted() {
                let connection = port
                    .associate(accepted, connections.len())
                    .expect("associates");
                connection
                    .submit(Operation::ReceiveOnce, 0)
                    .expect("submits");
                connections.push(connection);
            } else {
                assert_eq!(taken.bytes(), 4);
                spoken += 1;
            }
        }
        drop(clients.join());
        assert_eq!(connections.len(), CLIENTS);
        assert_quiet(&port);
    });
}

/// Clients that come, speak or not, and go in every way, many times over.
#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    for_each_driver_alone(|driver| {
        const CYCLES: usize = 1_500;
        let port = driver.port(0);
        let (std_listener, address) = listener();
        let listener = port.associate(std_listener, 1).expect("associates");
        listener
            .submit(Operation::Accept(Accept::stream()), 0)
            .expect("submits");
        let before = open_descriptors();
        let clients = Worker::start(move || {
            for cycle in 0..CYCLES {
                let mut peer = client(address);
                match cycle % 4 {
                    0 => assert_closed(peer),
                    1 => {
                        peer.write_all(b"hello").expect("the connection is open");
                        assert_closed(peer);
                    }
                    2 => drop(peer),
                    _ => reset(peer),
                }
            }
        });
        serve_cycles(&port, CYCLES);
        clients.join();
        assert_quiet(&port);
        let Some(before) = before else {
            return;
        };
        let after = open_descriptors().expect("as before");
        assert!(
            after <= before + 2,
            "{after} descriptors instead of {before}"
        );
        drop((listener, port));
        assert!(
            open_descriptors().expect("as before") < before,
            "the port's own descriptors are gone too"
        );
    });
}

/// Accepts so many connections; one is dropped, one closed by its handle, one when it has received.
fn serve_cycles(port: &CompletionPort, cycles: usize) {
    let mut accepted_so_far = 0;
    let mut receiving = 0;
    while accepted_so_far < cycles || receiving > 0 {
        let mut taken = next(port);
        let Some(accepted) = taken.take_accepted() else {
            assert_eq!(taken.kind(), CompletionKind::Receive, "{taken:?}");
            receiving -= 1;
            continue;
        };
        accepted_so_far += 1;
        match accepted_so_far % 3 {
            0 => drop(accepted),
            1 => port.associate(accepted, 2).expect("associates").close(),
            _ => {
                let association = Association::new(3).serial(accepted_so_far % 2 == 0);
                let connection = port
                    .associate_with(accepted, association)
                    .expect("associates");
                connection
                    .submit(Operation::ReceiveOnce, 0)
                    .expect("submits");
                receiving += 1;
                let closing = accepted_so_far % 5 != 0;
                if closing {
                    thread::spawn(move || connection.close())
                        .join()
                        .expect("closes");
                } else {
                    connection.cancel_all();
                }
            }
        }
    }
}
