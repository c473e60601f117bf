//! Sending a range of a file: its place among the sends, its ends, and what becomes of the others
//! when it fails.

use std::fs::File;
#[cfg(unix)]
use std::io::Write;
use std::io::{ErrorKind, Read};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
#[cfg(unix)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

#[cfg(unix)]
use landfall::port::Packet;
use landfall::port::{CompletionKind, Handle, Operation, is_aborted};

use crate::common::Scratch;
use crate::files::pattern;
#[cfg(unix)]
use crate::support::{Variant, for_each_driver_alone};
use crate::support::{assert_quiet, connected, for_each_driver, next, reset};
use crate::threads::Worker;

const TO_THE_END: u64 = u64::MAX;

fn send_file(file: &Arc<File>, offset: u64, length: u64) -> Operation {
    Operation::SendFile {
        file: file.clone(),
        offset,
        length,
    }
}

/// What arrives until the end of the stream.
fn arrivals(mut peer: TcpStream) -> Worker<Vec<u8>> {
    Worker::start(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).expect("an orderly end");
        all
    })
}

fn submit(connection: &Handle, operations: Vec<Operation>) {
    for (token, operation) in operations.into_iter().enumerate() {
        connection.submit(operation, token).expect("submits");
    }
}

#[test]
fn a_range_of_a_file_arrives_in_its_turn_among_the_sends() {
    for_each_driver(|driver| {
        const SIZE: usize = 300_000;
        let scratch = Scratch::holding(&pattern(0, SIZE));
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 9);
        let arrived = arrivals(peer);
        let operations = vec![
            Operation::Send("head".into()),
            send_file(&file, 10, 200_001),
            Operation::Send("between".into()),
            send_file(&file, 250_000, 7),
            Operation::Shutdown(std::net::Shutdown::Write),
        ];
        let expected = [
            (CompletionKind::Send, 4),
            (CompletionKind::Send, 200_001),
            (CompletionKind::Send, 7),
            (CompletionKind::Send, 7),
            (CompletionKind::Shutdown, 0),
        ];
        submit(&connection, operations);
        for (token, (kind, bytes)) in expected.into_iter().enumerate() {
            let sent = next(&port);
            assert_eq!((sent.kind(), sent.key(), sent.token()), (kind, 9, token));
            assert_eq!(sent.result().expect("sent"), bytes);
            assert!(sent.is_final());
        }
        let mut all = b"head".to_vec();
        all.extend(pattern(10, 200_001));
        all.extend(b"between");
        all.extend(pattern(250_000, 7));
        assert!(arrived.join() == all, "every byte, in order");
        assert_quiet(&port);
        assert_eq!(Arc::strong_count(&file), 1);
    });
}

#[test]
fn c58_a_file_is_sent_to_its_end_and_no_bytes_are_none() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(&pattern(0, 100_000));
        let empty = Scratch::holding(b"");
        let (file, empty) = (Arc::new(scratch.open()), Arc::new(empty.open()));
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        let arrived = arrivals(peer);
        let ranges = [
            (&file, 0, 0, 0),
            (&file, 99_990, TO_THE_END, 10),
            (&file, 99_990, 11, 10),
            (&file, 100_000, TO_THE_END, 0),
            (&file, 1 << 40, 5, 0),
            (&file, i64::MAX as u64, TO_THE_END, 0),
            (&empty, 0, TO_THE_END, 0),
            (&file, 0, TO_THE_END, 100_000),
        ];
        let mut all = Vec::new();
        for (file, offset, length, there) in ranges {
            connection
                .submit(send_file(file, offset, length), 0)
                .expect("submits");
            let sent = next(&port);
            assert_eq!(sent.result().expect("sent"), there, "{offset} {length}");
            all.extend(pattern(offset as usize, there));
        }
        // The connection is none the worse for any of it.
        connection
            .submit(Operation::Send("tail".into()), 0)
            .expect("submits");
        assert_eq!(next(&port).result().expect("sent"), 4);
        connection.close();
        all.extend(b"tail");
        assert!(arrived.join() == all);
        assert_quiet(&port);
    });
}

#[test]
fn c58_what_lies_beyond_4_gib_is_sent() {
    for_each_driver(|driver| {
        const FAR: u64 = (5 << 30) + 3;
        let scratch = Scratch::sparse(FAR + 70_000);
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let writing = port.associate(scratch.open(), 2).expect("associates");
        let write = Operation::WriteAt {
            offset: FAR,
            buffer: pattern(0, 60_000).into(),
        };
        writing.submit(write, 0).expect("submits");
        next(&port).result().expect("written");
        let (connection, peer) = connected(&port, 1);
        let arrived = arrivals(peer);
        submit(&connection, vec![send_file(&file, FAR, TO_THE_END)]);
        assert_eq!(next(&port).result().expect("sent"), 70_000);
        connection.close();
        let arrived = arrived.join();
        assert!(arrived[..60_000] == pattern(0, 60_000));
        assert!(arrived[60_000..] == [0; 10_000]);
    });
}

#[test]
fn a_slow_peer_gets_every_byte() {
    for_each_driver(|driver| {
        const SIZE: usize = 12 << 20;
        let scratch = Scratch::holding(&pattern(0, SIZE));
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        submit(
            &connection,
            vec![
                send_file(&file, 0, TO_THE_END),
                Operation::Send("end".into()),
            ],
        );
        assert_quiet(&port);
        let reader = Worker::start(move || {
            let (mut all, mut piece) = (Vec::new(), vec![0; 100_000]);
            loop {
                match peer.read(&mut piece).expect("connected") {
                    0 => return all,
                    bytes => all.extend_from_slice(&piece[..bytes]),
                }
                if all.len() % 7 == 0 {
                    thread::sleep(Duration::from_micros(300));
                }
            }
        });
        assert_eq!(next(&port).result().expect("sent"), SIZE);
        assert_eq!(next(&port).result().expect("sent"), 3);
        connection.close();
        let arrived = reader.join();
        assert!(arrived[..SIZE] == pattern(0, SIZE) && arrived[SIZE..] == *b"end");
    });
}

#[test]
fn sends_share_a_file() {
    for_each_driver(|driver| {
        const SIZE: usize = 1 << 20;
        let scratch = Scratch::holding(&pattern(0, SIZE));
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let connections: Vec<_> = (0..8).map(|key| connected(&port, key)).collect();
        let mut readers = Vec::new();
        let mut handles = Vec::new();
        for (key, (connection, peer)) in connections.into_iter().enumerate() {
            let send = send_file(&file, (key * 1000) as u64, TO_THE_END);
            connection.submit(send, key).expect("submits");
            readers.push(arrivals(peer));
            handles.push(connection);
        }
        for _ in 0..8 {
            let sent = next(&port);
            assert_eq!(sent.result().expect("sent"), SIZE - sent.key() * 1000);
            handles[sent.key()].close();
        }
        for (key, reader) in readers.into_iter().enumerate() {
            assert!(reader.join() == pattern(key * 1000, SIZE - key * 1000));
        }
        assert_quiet(&port);
    });
}

#[test]
fn nothing_follows_a_file_whose_peer_is_gone() {
    for_each_driver(|driver| {
        const SIZE: usize = 32 << 20;
        let scratch = Scratch::sparse(SIZE as u64);
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, mut peer) = connected(&port, 1);
        submit(
            &connection,
            vec![
                send_file(&file, 0, TO_THE_END),
                Operation::Send("behind".into()),
                send_file(&file, 0, 10),
            ],
        );
        // Half way, while the port goes on.
        let leaves = Worker::start(move || {
            peer.read_exact(&mut [0; 100_000]).expect("connected");
            reset(peer);
        });
        let failed = next(&port);
        let error = failed.result().expect_err("the peer is gone");
        assert!(!is_aborted(&error) && error.raw_os_error().is_some());
        assert_eq!(failed.token(), 0);
        assert!(failed.bytes() < SIZE);
        leaves.join();
        connection
            .submit(send_file(&file, 0, 10), 3)
            .expect("a failure is a completion");
        for token in 1..4 {
            let behind = next(&port);
            assert_eq!((behind.token(), behind.bytes()), (token, 0));
            let other = behind.result().expect_err("it would follow a gap");
            assert_eq!(other.raw_os_error(), error.raw_os_error());
        }
        assert_quiet(&port);
    });
}

#[test]
fn nothing_follows_a_file_that_cannot_be_read() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(&[1; 1000]);
        let file = Arc::new(scratch.opened_for_writing_only());
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        submit(
            &connection,
            vec![
                Operation::Send("before".into()),
                send_file(&file, 0, TO_THE_END),
                Operation::Send("behind".into()),
            ],
        );
        assert_eq!(next(&port).result().expect("sent"), 6);
        let failed = next(&port);
        let error = failed.result().expect_err("it cannot be read");
        assert_eq!((failed.token(), failed.bytes()), (1, 0));
        let behind = next(&port);
        let other = behind.result().expect_err("it would follow a gap");
        assert_eq!(other.raw_os_error(), error.raw_os_error());
        connection.close();
        assert_eq!(arrivals(peer).join(), b"before");
        assert_quiet(&port);
    });
}

#[test]
fn nothing_follows_a_file_that_was_cancelled_half_way() {
    for_each_driver(|driver| {
        let scratch = Scratch::sparse(1 << 30);
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        let half_way = connection.submit(send_file(&file, 0, TO_THE_END), 0);
        let half_way = half_way.expect("submits");
        let behind = Operation::Send("behind".into());
        connection.submit(behind, 1).expect("submits");
        assert_quiet(&port);
        assert!(connection.cancel(half_way));
        let cancelled = next(&port);
        let error = cancelled.result().expect_err("cancelled");
        assert!(is_aborted(&error), "{error}");
        let sent = cancelled.bytes();
        assert!(sent > 0 || cfg!(windows), "{cancelled:?}");
        let behind = next(&port);
        assert_eq!((behind.token(), behind.bytes()), (1, 0));
        assert!(is_aborted(&behind.result().expect_err("behind a gap")));
        // The program knows what has gone, and may go on from there.
        let reader = arrivals(peer);
        let on = Operation::Send("on".into());
        connection.submit(on, 2).expect("submits");
        assert_eq!(next(&port).result().expect("sent"), 2);
        connection.close();
        let arrived = reader.join();
        // Windows counts finished parts only: more may have gone.
        let exact = cfg!(not(windows));
        assert!(arrived.len() == sent + 2 || !exact && arrived.len() > sent);
        assert!(arrived.ends_with(b"on"));
        assert_quiet(&port);
        assert_eq!(Arc::strong_count(&file), 1);
    });
}

#[test]
fn closing_ends_a_file_that_is_being_sent() {
    for_each_driver(|driver| {
        let scratch = Scratch::sparse(1 << 30);
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        submit(
            &connection,
            vec![
                send_file(&file, 0, TO_THE_END),
                send_file(&file, 0, TO_THE_END),
            ],
        );
        assert_quiet(&port);
        connection.close();
        for _ in 0..2 {
            let ended = next(&port);
            assert!(is_aborted(&ended.result().expect_err("closed")));
        }
        assert_quiet(&port);
        let (connection, _peer) = connected(&port, 1);
        submit(&connection, vec![send_file(&file, 0, TO_THE_END)]);
        assert_quiet(&port);
        port.close();
        assert_eq!(Arc::strong_count(&file), 1, "the port has let go of it");
    });
}

/// The driver must not borrow the mode of a socket that the program shares, be it for a moment.
#[cfg(target_os = "linux")]
#[test]
fn a_descriptor_of_the_programs_own_blocks_while_a_file_is_sent() {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{OFlags, fcntl_getfl};

    use crate::support::past_the_port;

    for_each_driver(|driver| {
        let scratch = Scratch::sparse(64 << 20);
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, peer) = connected(&port, 1);
        let own = past_the_port(&connection);
        let reader = arrivals(peer);
        let ended = Arc::new(AtomicBool::new(false));
        let watcher = Worker::start({
            let ended = ended.clone();
            move || {
                let mut always = true;
                while !ended.load(Ordering::Acquire) {
                    let mode = fcntl_getfl(&own).expect("it is open");
                    always &= !mode.contains(OFlags::NONBLOCK);
                }
                always
            }
        });
        submit(&connection, vec![send_file(&file, 0, TO_THE_END)]);
        next(&port).result().expect("sent");
        ended.store(true, Ordering::Release);
        assert!(watcher.join(), "it did not block for a moment");
        connection.close();
        reader.join();
    });
}

/// In a program that is not Rust's, nobody ignores the signal.
#[cfg(target_os = "linux")]
#[test]
fn a_file_for_a_peer_that_is_gone_raises_no_signal() {
    use std::fs::read_to_string;

    use nix::sys::signal::{SigSet, Signal};

    use crate::support::past_the_port;

    for_each_driver(|driver| {
        // Kept for this thread, ignored as it is, where it can be seen.
        SigSet::from(Signal::SIGPIPE)
            .thread_block()
            .expect("a signal that can be blocked");
        let scratch = Scratch::holding(&[1; 1000]);
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        let own = past_the_port(&connection);
        own.shutdown(std::net::Shutdown::Write).expect("connected");
        submit(&connection, vec![send_file(&file, 0, TO_THE_END)]);
        let error = next(&port).result().expect_err("nothing can be sent");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
        let status = read_to_string("/proc/thread-self/status").expect("Linux has it");
        let none = status
            .lines()
            .filter(|line| line.starts_with("SigPnd:") || line.starts_with("ShdPnd:"))
            .map(|line| line.split_whitespace().nth(1).expect("a set of signals"))
            .all(|set| set.bytes().all(|digit| digit == b'0'));
        assert!(none, "{status}");
    });
}

#[test]
fn what_cannot_be_sent_is_refused_and_comes_back() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"0123456789");
        let file = Arc::new(scratch.open());
        let port = driver.port(0);
        let (connection, _peer) = connected(&port, 1);
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let datagrams = port.associate(datagrams, 2).expect("associates");
        let writing = port.associate(scratch.open(), 3).expect("associates");
        let too_far = i64::MAX as u64 + 1;
        for (handle, offset) in [(&connection, too_far), (&datagrams, 0), (&writing, 0)] {
            let refused = handle.submit(send_file(&file, offset, 1), 0);
            let refused = refused.expect_err("refused");
            assert_eq!(refused.error.kind(), ErrorKind::InvalidInput, "{refused}");
            assert!(matches!(refused.operation, Operation::SendFile { .. }));
        }
        assert_quiet(&port);
    });
}

/// Files from a source that always has more, and is slower than the sockets.
#[cfg(unix)]
#[test]
fn files_that_never_end_leave_their_turn_to_a_neighbour() {
    for_each_driver_alone(|driver| {
        const FILES: usize = 4;
        const PING: usize = 50;
        const PINGS: usize = 5;
        const BYTES: usize = 256 << 20;
        let port = driver
            .builder(1)
            .lanes(1)
            .build()
            .expect("the driver can be set up");
        let (neighbour, mut pinging) = connected(&port, 0);
        neighbour
            .submit(Operation::ReceiveStream, PING)
            .expect("submits");
        let worker = {
            let port = port.clone();
            Worker::start(move || {
                while let Ok(mut completion) = port.get(None) {
                    let data = completion.take_buffer();
                    if let Some(data) = data.filter(|_| completion.token() == PING) {
                        let handle = completion.handle().expect("a receive has a handle");
                        handle.submit(Operation::Send(data), 0).expect("submits");
                    }
                }
            })
        };
        let random = Arc::new(File::open("/dev/urandom").expect("is there"));
        let taken = Arc::new(AtomicUsize::new(0));
        let readers: Vec<_> = (0..FILES)
            .map(|_| {
                let (connection, mut peer) = connected(&port, 1);
                connection
                    .submit(send_file(&random, 0, TO_THE_END), 0)
                    .expect("submits");
                let taken = taken.clone();
                let reader = Worker::start(move || {
                    let mut piece = vec![0; 1 << 20];
                    while taken.load(Ordering::Acquire) < BYTES {
                        let read = peer.read(&mut piece).expect("it goes on");
                        taken.fetch_add(read, Ordering::AcqRel);
                    }
                });
                (connection, reader)
            })
            .collect();
        for _ in 0..PINGS {
            pinging.write_all(b"ping").expect("the connection is open");
            pinging.read_exact(&mut [0; 4]).expect("it is answered");
        }
        let meanwhile = taken.fetch_add(BYTES, Ordering::AcqRel);
        for (connection, reader) in readers {
            reader.join();
            drop(connection);
        }
        port.close();
        worker.join();
        assert!(
            meanwhile < BYTES,
            "{PINGS} pings took as long as {meanwhile} bytes of files"
        );
    });
}

/// On readiness a file is read by the thread that takes completions.
#[cfg(unix)]
#[test]
fn a_packet_that_was_taken_does_not_wait_for_a_file() {
    for_each_driver_alone(|driver| {
        if driver.driver() != "poll" {
            return;
        }
        // At every other `get` it is packets' turn first.
        let arrived_before = [0, 1].map(|turns| bytes_sent_before_a_packet(driver, turns));
        assert!(
            arrived_before.contains(&0),
            "{arrived_before:?} bytes arrived before the packet was handed out"
        );
    });
}

#[cfg(unix)]
fn bytes_sent_before_a_packet(driver: &Variant, turns: usize) -> usize {
    const SIZE: usize = 4 << 20;
    let scratch = Scratch::holding(&pattern(0, SIZE));
    let builder = driver.builder(1).lanes(1);
    let port = builder.build().expect("the driver can be set up");
    let (connection, mut peer) = connected(&port, 1);
    peer.set_nonblocking(true).expect("an open socket");
    for _ in 0..turns {
        port.post(Packet::default()).expect("posts");
        assert_eq!(next(&port).kind(), CompletionKind::Packet);
    }
    assert_quiet(&port);
    port.post(Packet::default()).expect("posts");
    connection
        .submit(send_file(&Arc::new(scratch.open()), 0, TO_THE_END), 0)
        .expect("submits");
    let packet = next(&port);
    assert_eq!(packet.kind(), CompletionKind::Packet);
    peer.read(&mut vec![0; SIZE]).unwrap_or(0)
}
