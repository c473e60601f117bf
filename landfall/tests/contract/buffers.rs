//! Pooled buffers: running out of them, and where they end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use landfall::buffer::Buffer;
use landfall::port::{BufferPolicy, CompletionKind, CompletionPort, Handle, Operation, is_aborted};

use crate::support::{
    PATIENCE, Variant, assert_quiet, connected, for_each_driver, next, post, until_final,
};
use crate::threads::Worker;

/// A port with two small buffers a lane.
fn port_with_few_buffers(driver: &Variant) -> CompletionPort {
    let few = BufferPolicy {
        size: 512,
        count: 2,
    };
    driver
        .builder(0)
        .buffers(few)
        .build()
        .expect("the driver can be set up")
}

fn connections(port: &CompletionPort, count: usize) -> Vec<(Handle, TcpStream)> {
    (0..count).map(|key| connected(port, key)).collect()
}

#[test]
fn nobody_starves_while_the_program_holds_every_buffer() {
    for_each_driver(|driver| {
        const ROUNDS: usize = 10;
        let port = port_with_few_buffers(driver);
        let mut connections = connections(&port, 8);
        for (connection, _) in &connections {
            connection
                .submit(Operation::ReceiveStream, 0)
                .expect("submits");
        }
        let mut held: Vec<Buffer> = Vec::new();
        for round in 0..ROUNDS {
            for (connection, peer) in &mut connections {
                peer.write_all(&[round as u8, connection.key() as u8])
                    .expect("open");
            }
            let mut heard = vec![0; connections.len()];
            while heard.iter().any(|bytes| *bytes < 2) {
                let mut received = next(&port);
                assert_eq!(received.kind(), CompletionKind::Receive);
                assert!(
                    !received.is_final(),
                    "the program never sees a pool run out"
                );
                heard[received.key()] += received.result().expect("received");
                let data = received.take_buffer().expect("data");
                assert_eq!(data[data.len() - 1], received.key() as u8);
                held.push(data);
            }
        }
        assert_eq!(
            held.iter().map(|data| data.len()).sum::<usize>(),
            8 * ROUNDS * 2
        );
        drop(held);
        assert_quiet(&port);
    });
}

#[test]
fn single_receives_do_not_starve_either() {
    for_each_driver(|driver| {
        let port = port_with_few_buffers(driver);
        let mut connections = connections(&port, 8);
        let mut held = Vec::new();
        for _ in 0..3 {
            for (connection, peer) in &mut connections {
                connection
                    .submit(Operation::ReceiveOnce, 5)
                    .expect("submits");
                peer.write_all(b"data").expect("open");
            }
            for _ in 0..connections.len() {
                let mut received = next(&port);
                assert_eq!(received.result().expect("received"), 4);
                held.push(received.take_buffer().expect("data"));
            }
        }
        assert!(held.iter().all(|data| data[..] == *b"data"));
        assert_quiet(&port);
    });
}

/// A lane that always has something else to do lets nobody wait for the buffers that the program
/// keeps.
#[test]
fn nobody_starves_beside_a_busy_neighbour() {
    for_each_driver(|driver| {
        let port = port_with_few_buffers(driver);
        let mut connections = connections(&port, 8);
        for (connection, peer) in &mut connections {
            connection
                .submit(Operation::ReceiveStream, 0)
                .expect("submits");
            peer.write_all(b"data").expect("open");
        }
        let mut held = Vec::new();
        // Each packet is followed by the next, so that no `get` waits.
        post(&port, 0);
        for taken in 0.. {
            assert!(taken < 1_000_000, "{} of 8 heard", held.len());
            let mut completion = next(&port);
            match completion.kind() {
                CompletionKind::Packet => post(&port, 0),
                _ => held.extend(completion.take_buffer()),
            }
            if held.len() == connections.len() {
                break;
            }
        }
        assert!(held.iter().all(|data| data[..] == *b"data"));
    });
}

#[test]
fn a_receive_without_a_buffer_can_be_cancelled() {
    for_each_driver(|driver| {
        let port = port_with_few_buffers(driver);
        let mut held = Vec::new();
        for (connection, mut peer) in connections(&port, 6) {
            connection
                .submit(Operation::ReceiveStream, 0)
                .expect("submits");
            peer.write_all(b"data").expect("open");
            // They may hear of the data before their end; the last ones have no buffer for it.
            if held.len() < 2 {
                held.extend(next(&port).take_buffer());
            }
            connection.cancel_all();
            let completions = until_final(&port);
            let last = completions.last().expect("a final one");
            assert!(last.result().is_err_and(|error| is_aborted(&error)));
        }
        assert_quiet(&port);
    });
}

/// The thread that submitted it does not come back to the port; another one waits there already.
#[test]
fn a_receive_without_a_buffer_is_taken_by_whoever_waits() {
    for_each_driver(|driver| {
        let few = BufferPolicy {
            size: 512,
            count: 2,
        };
        let port = driver.builder(2).buffers(few).build().expect("set up");
        let mut connections = connections(&port, 8);
        let mut held = Vec::new();
        for (connection, peer) in &mut connections {
            connection
                .submit(Operation::ReceiveOnce, 0)
                .expect("submits");
            peer.write_all(b"kept").expect("open");
            held.extend(next(&port).take_buffer());
        }
        let (tell, told) = mpsc::channel();
        let waiter = {
            let port = port.clone();
            Worker::start(move || {
                while let Ok(completion) = port.get(None) {
                    let _ = tell.send(completion.bytes());
                }
            })
        };
        for round in 0..40 {
            waiter.wait_until_asleep();
            let (connection, peer) = &mut connections[round % 8];
            connection
                .submit(Operation::ReceiveOnce, 0)
                .expect("submits");
            peer.write_all(b"data").expect("open");
            let bytes = match port.get(Some(Duration::ZERO)) {
                Ok(received) => received.bytes(),
                Err(_) => told.recv_timeout(PATIENCE).expect("whoever waits takes it"),
            };
            assert_eq!(bytes, 4, "in round {round}");
        }
        port.close();
        waiter.join();
    });
}

#[test]
fn buffers_go_back_to_their_pool_and_are_used_again() {
    for_each_driver(|driver| {
        let port = port_with_few_buffers(driver);
        let (connection, mut peer) = connected(&port, 1);
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        for round in 0..200_u8 {
            peer.write_all(&[round; 100]).expect("open");
            let mut got = 0;
            while got < 100 {
                let mut received = next(&port);
                let data = received.take_buffer().expect("data");
                assert!(
                    data.iter().all(|byte| *byte == round),
                    "another round's bytes"
                );
                got += data.len();
                // Anywhere but here, as a program would.
                if round % 3 == 0 {
                    Worker::start(move || drop(data)).join();
                }
            }
        }
        connection.cancel_all();
        until_final(&port);
        assert_quiet(&port);
    });
}

/// A flood into a pool of two: every byte arrives, in order, however the pool fares.
#[test]
fn a_flood_through_a_tiny_pool_loses_nothing() {
    for_each_driver(|driver| {
        const SIZE: usize = 1 << 20;
        let port = port_with_few_buffers(driver);
        let connections: Vec<_> = connections(&port, 3);
        let (handles, peers): (Vec<_>, Vec<_>) = connections.into_iter().unzip();
        for connection in &handles {
            connection
                .submit(Operation::ReceiveStream, 0)
                .expect("submits");
        }
        let writers: Vec<_> = peers
            .into_iter()
            .map(|mut peer| {
                Worker::start(move || {
                    let bytes: Vec<u8> = (0..SIZE).map(|i| (i % 241) as u8).collect();
                    peer.write_all(&bytes).expect("the port reads it all");
                })
            })
            .collect();
        let mut at = vec![0; handles.len()];
        let mut held = std::collections::VecDeque::new();
        let mut ended = 0;
        while ended < handles.len() {
            let mut received = next(&port);
            ended += usize::from(received.is_final());
            assert!(received.result().is_ok(), "{received:?}");
            let Some(data) = received.take_buffer() else {
                continue;
            };
            let at = &mut at[received.key()];
            assert!(
                data.iter()
                    .zip(*at..)
                    .all(|(byte, i)| *byte == (i % 241) as u8),
                "at {at}"
            );
            *at += data.len();
            held.push_back(data);
            if held.len() > 4 {
                held.pop_front();
            }
        }
        assert!(at.iter().all(|at| *at == SIZE), "{at:?} of {SIZE}");
        writers.into_iter().for_each(Worker::join);
    });
}

#[test]
fn a_pooled_buffer_is_changed_and_sent_by_another_connection() {
    for_each_driver(|driver| {
        let port = port_with_few_buffers(driver);
        let (from, mut source) = connected(&port, 1);
        let (to, mut sink) = connected(&port, 2);
        for _ in 0..20 {
            from.submit(Operation::ReceiveOnce, 0).expect("submits");
            source.write_all(b"lower case").expect("open");
            let mut data = next(&port).take_buffer().expect("data");
            if let Buffer::Pooled(pooled) = &mut data {
                pooled.make_ascii_uppercase();
            }
            data.truncate(5);
            let expected = data.to_vec();
            to.submit(Operation::Send(data), 0).expect("submits");
            assert_eq!(next(&port).result().expect("sent"), 5);
            let mut text = [0; 5];
            sink.read_exact(&mut text).expect("it arrives");
            assert_eq!(text[..], expected[..]);
        }
    });
}

/// Room of a single receive: at most a pooled buffer's size comes at a time.
#[test]
fn one_receive_brings_at_most_one_buffer_full() {
    for_each_driver(|driver| {
        let port = port_with_few_buffers(driver);
        let (connection, mut peer) = connected(&port, 1);
        peer.write_all(&[7; 1500]).expect("open");
        let mut got = 0;
        while got < 1500 {
            connection
                .submit(Operation::ReceiveOnce, 0)
                .expect("submits");
            let received = next(&port);
            assert!(
                received.bytes() <= 512,
                "{} bytes in a buffer of 512",
                received.bytes()
            );
            got += received.bytes();
        }
        assert_eq!(got, 1500);
        assert_quiet(&port);
    });
}
