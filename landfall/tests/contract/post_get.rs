//! Posting and taking: statements 10 to 13, 15 to 18 and 20.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use landfall::port::{CompletionKind, GetError, Operation, Packet};
use socket2::{Domain, Socket, Type};

use crate::support::{
    PATIENCE, QUIET, assert_quiet, connected, eventually, for_each_driver, for_each_driver_alone,
    next, packet, post, refusing_address,
};
use crate::threads::Worker;

#[test]
fn c10_a_packet_is_delivered_verbatim() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let packets = [
            Packet {
                bytes: 0,
                key: 0,
                token: 0,
            },
            Packet {
                bytes: usize::MAX,
                key: usize::MAX,
                token: usize::MAX,
            },
            Packet {
                bytes: 1 << 40,
                key: usize::MAX - 1,
                token: 1 << 63,
            },
        ];
        for packet in packets {
            port.post(packet).expect("the port is open");
        }
        for packet in packets {
            let taken = next(&port);
            assert_eq!(taken.kind(), CompletionKind::Packet);
            assert_eq!((taken.bytes(), taken.key()), (packet.bytes, packet.key));
            assert_eq!(taken.token(), packet.token);
            assert_eq!(taken.result().expect("a packet never fails"), packet.bytes);
            assert!(taken.is_final() && taken.handle().is_none());
        }
        assert_quiet(&port);
    });
}

#[test]
fn c11_one_consumer_takes_packets_first_in_first_out() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let many = 10_000;
        (0..many).for_each(|token| post(&port, token));
        let mut taken = Vec::new();
        while taken.len() < many {
            let before = taken.len();
            let count = port
                .get_many(&mut taken, 1 + before % 7, Some(PATIENCE))
                .expect("packets");
            assert_eq!(taken.len(), before + count);
        }
        let tokens: Vec<_> = taken.iter().map(|packet| packet.token()).collect();
        assert!(tokens.is_sorted(), "out of order");
        assert_quiet(&port);
    });
}

#[test]
fn c11_posting_for_later_keeps_the_same_order() {
    for_each_driver(|driver| {
        let port = driver.port(1);
        post(&port, 0);
        next(&port);
        for token in 1..100 {
            match token % 2 {
                0 => post(&port, token),
                _ => port.post_later(packet(token)).expect("the port is open"),
            }
        }
        (1..100).for_each(|token| assert_eq!(next(&port).token(), token));
        assert_quiet(&port);
    });
}

#[test]
fn c12_a_look_at_an_empty_port_returns_at_once() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(
                port.get(Some(Duration::ZERO)).expect_err("empty"),
                GetError::TimedOut
            );
        }
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "took {:?}",
            start.elapsed()
        );
        post(&port, 7);
        assert_eq!(port.get(Some(Duration::ZERO)).expect("a packet").token(), 7);
    });
}

#[test]
fn c12_one_who_only_looks_and_never_waits_finds_what_completes() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        connection
            .submit(Operation::ReceiveOnce, 3)
            .expect("submits");
        drop(peer);
        let mut found = None;
        eventually("the end of the stream is found", || {
            found = port.get(Some(Duration::ZERO)).ok();
            found.is_some()
        });
        assert_eq!(found.map(|completion| completion.token()), Some(3));
    });
}

#[test]
fn c13_a_failed_operation_is_a_completion_and_an_empty_port_is_not() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let socket = port.associate(socket, 44).expect("associates");
        let id = socket
            .submit(Operation::Connect(refusing_address()), 5)
            .expect("submits");
        let failed = next(&port);
        assert_eq!((failed.kind(), failed.key()), (CompletionKind::Connect, 44));
        assert_eq!((failed.token(), failed.id(), failed.bytes()), (5, id, 0));
        let error = failed.result().expect_err("nobody listens there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(error.raw_os_error().is_some(), "the system's code is kept");
        assert!(failed.is_final());

        assert_eq!(
            port.get(Some(Duration::ZERO)).expect_err("empty"),
            GetError::TimedOut
        );
        post(&port, 0);
        assert!(
            next(&port).handle().is_none(),
            "a packet of the program's own has no handle"
        );
    });
}

#[test]
fn c15_waiting_without_a_limit_outlasts_everything_but_a_completion() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let for_ever = [
            None,
            Some(Duration::MAX),
            Some(Duration::from_secs(1 << 40)),
        ];
        let waiters: Vec<_> = for_ever
            .map(|timeout| {
                let port = port.clone();
                Worker::start(move || port.get(timeout).map(|packet| packet.token()))
            })
            .into();
        waiters.iter().for_each(Worker::wait_until_asleep);
        // Wake-ups of many kinds, none of which completes anything.
        let connections: Vec<_> = (0..20).map(|key| connected(&port, key)).collect();
        for (connection, _) in &connections {
            connection
                .submit(Operation::WaitReadable, 0)
                .expect("submits");
            let timer = port
                .timer(Instant::now() + PATIENCE, 0, 0)
                .expect("the port is open");
            assert!(port.cancel_timer(timer));
        }
        waiters.iter().for_each(Worker::wait_until_asleep);
        (0..waiters.len()).for_each(|token| post(&port, token));
        let mut tokens: Vec<_> = waiters
            .into_iter()
            .map(|waiter| waiter.join().expect("a packet"))
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [0, 1, 2]);
    });
}

#[test]
fn c15_a_limit_is_kept_and_never_cut_short() {
    for_each_driver_alone(|driver| {
        let port = driver.port(0);
        for micros in [0, 1, 300, 999, 1_001, 5_000, 30_000] {
            let limit = Duration::from_micros(micros);
            let start = Instant::now();
            assert_eq!(
                port.get(Some(limit)).expect_err("empty"),
                GetError::TimedOut
            );
            let taken = start.elapsed();
            assert!(taken >= limit, "{taken:?} instead of {limit:?}");
            assert!(
                taken < limit + Duration::from_millis(100),
                "{taken:?} instead of {limit:?}"
            );
        }
    });
}

#[test]
fn c16_a_batch_takes_what_is_there_and_no_more_than_asked() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let mut taken = Vec::new();
        (0..2).for_each(|token| post(&port, token));
        assert_eq!(
            port.get_many(&mut taken, 1, Some(PATIENCE)),
            Ok(1),
            "one of two"
        );
        assert_eq!(
            port.get_many(&mut taken, 2, Some(PATIENCE)),
            Ok(1),
            "the other one"
        );
        (2..4).for_each(|token| post(&port, token));
        assert_eq!(
            port.get_many(&mut taken, 2, Some(PATIENCE)),
            Ok(2),
            "two of two"
        );
        (4..9).for_each(|token| post(&port, token));
        assert_eq!(
            port.get_many(&mut taken, 3, Some(PATIENCE)),
            Ok(3),
            "three of five"
        );
        assert_eq!(
            port.get_many(&mut taken, 64, Some(PATIENCE)),
            Ok(2),
            "does not wait to fill"
        );
        let tokens: Vec<_> = taken.iter().map(|packet| packet.token()).collect();
        assert_eq!(tokens, (0..9).collect::<Vec<_>>());
        assert_quiet(&port);
    });
}

#[test]
fn c16_a_waiting_batch_returns_with_the_first_completion() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let waiter = {
            let port = port.clone();
            Worker::start(move || port.get_many(&mut Vec::new(), 64, Some(PATIENCE)))
        };
        waiter.wait_until_asleep();
        post(&port, 0);
        assert_eq!(waiter.join(), Ok(1));
    });
}

#[test]
fn c17_each_entry_of_a_batch_has_its_own_result() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let (works, _peer) = connected(&port, 1);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let fails = port.associate(socket, 2).expect("associates");
        works
            .submit(Operation::Send("fine".into()), 0)
            .expect("submits");
        fails
            .submit(Operation::Connect(refusing_address()), 0)
            .expect("submits");
        post(&port, 0);
        let mut taken = Vec::new();
        while taken.len() < 3 {
            port.get_many(&mut taken, 3, Some(PATIENCE))
                .expect("three completions come");
        }
        for completion in taken {
            assert_eq!(
                completion.result().is_err(),
                completion.key() == 2,
                "{completion:?}"
            );
        }
        assert_quiet(&port);
    });
}

#[test]
fn c18_a_batch_that_times_out_adds_nothing() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        post(&port, 1);
        let mut taken = vec![next(&port)];
        let result = port.get_many(&mut taken, 4, Some(Duration::from_millis(1)));
        assert_eq!(result, Err(GetError::TimedOut));
        assert_eq!(taken.len(), 1, "what was there before is left alone");
    });
}

#[test]
fn c20_a_packet_is_given_to_one_thread_only() {
    for_each_driver(|driver| {
        let port = driver.port(4);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let port = port.clone();
                Worker::start(move || port.get_many(&mut Vec::new(), 8, Some(PATIENCE)))
            })
            .collect();
        waiters.iter().for_each(Worker::wait_until_asleep);
        let finished = || waiters.iter().filter(|waiter| waiter.is_finished()).count();
        post(&port, 0);
        eventually("one thread has it", || finished() == 1);
        waiters
            .iter()
            .filter(|w| !w.is_finished())
            .for_each(Worker::wait_until_asleep);
        assert_eq!(finished(), 1);
        post(&port, 1);
        for waiter in waiters {
            assert_eq!(waiter.join(), Ok(1));
        }
    });
}

#[test]
fn c20_racing_threads_share_every_packet_out_once() {
    for_each_driver(|driver| {
        const EACH: usize = 4_000;
        let port = driver.port(4);
        let taken = Arc::new(AtomicUsize::new(0));
        let consumers: Vec<_> = (1..=5)
            .map(|max| {
                let (port, taken) = (port.clone(), taken.clone());
                Worker::start(move || {
                    let mut own = Vec::new();
                    while taken.load(Ordering::Acquire) < 2 * EACH {
                        if let Ok(count) = port.get_many(&mut own, max, Some(QUIET)) {
                            taken.fetch_add(count, Ordering::AcqRel);
                        }
                    }
                    own.iter()
                        .map(|packet| (packet.key(), packet.token()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let producers: Vec<_> = (0..2)
            .map(|key| {
                let port = port.clone();
                Worker::start(move || {
                    for token in 0..EACH {
                        port.post(Packet {
                            bytes: 0,
                            key,
                            token,
                        })
                        .expect("the port is open");
                    }
                })
            })
            .collect();
        producers.into_iter().for_each(Worker::join);
        let mut all = Vec::new();
        for consumer in consumers {
            let own = consumer.join();
            for key in 0..2 {
                let tokens = own
                    .iter()
                    .filter(|packet| packet.0 == key)
                    .map(|packet| packet.1);
                assert!(
                    tokens.is_sorted(),
                    "one consumer sees one producer's packets in order"
                );
            }
            all.extend(own);
        }
        assert_quiet(&port);
        all.sort_unstable();
        let posted: Vec<_> = (0..2)
            .flat_map(|key| (0..EACH).map(move |t| (key, t)))
            .collect();
        assert_eq!(all, posted);
    });
}
