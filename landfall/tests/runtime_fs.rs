//! Files on the runtime, and sending them on a connection.

mod common;
mod runtime_support;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Counted, Scratch};
use landfall::fs::{File, options};
use landfall::net::TcpStream;
use landfall::runtime::{self, Runtime};
use runtime_support::*;
use socket2::SockRef;

/// The file of a test, on the runtime.
fn open(scratch: &Scratch) -> File {
    File::from_std(scratch.open()).expect("associates")
}

#[test]
fn a_file_is_written_stored_and_read() {
    let scratch = Scratch::new();
    on_runtime(async {
        let file = File::create(&scratch.0).await.expect("creates");
        let (written, buffer) = file.write_at("hello world", 3).await;
        written.expect("written");
        assert_eq!(&buffer[..], b"hello world");
        file.sync_data().await.expect("stored");
        file.sync_all().await.expect("stored");
        assert_eq!(file.metadata().expect("open").len(), 14);

        let file = File::open(&scratch.0).await.expect("opens");
        let (read, vec) = file.read_at(Vec::with_capacity(5), 9).await;
        assert_eq!((read.expect("read"), &vec[..]), (5, &b"world"[..]));
        let (read, vec) = file.read_at(vec, 3).await;
        assert_eq!(read.expect_err("full").kind(), ErrorKind::InvalidInput);
        assert_eq!(vec, b"world", "it comes back");
        let (read, vec) = file.read_at(Vec::with_capacity(5), 14).await;
        assert_eq!((read.expect("the end"), vec.len()), (0, 0));
        let (refused, buffer) = file.write_at("no", 0).await;
        refused.expect_err("opened for reading");
        assert_eq!(&buffer[..], b"no");

        let missing = File::open(scratch.0.with_extension("missing")).await;
        assert_eq!(missing.expect_err("missing").kind(), ErrorKind::NotFound);
    });
}

#[test]
fn tasks_share_a_file() {
    const SIZE: usize = 50_000;
    let scratch = Scratch::holding(&[]);
    on_runtime(async {
        let file = Arc::new(open(&scratch));
        let tasks: Vec<_> = (0..20)
            .map(|block| {
                let file = file.clone();
                runtime::spawn(async move {
                    let offset = (block * SIZE) as u64;
                    let (written, buffer) = file.write_at(vec![block as u8; SIZE], offset).await;
                    written.expect("written");
                    let (read, vec) = file.read_at(Vec::with_capacity(SIZE), offset).await;
                    assert_eq!(read.expect("read"), SIZE);
                    assert_eq!(&vec[..], &buffer[..]);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    assert_eq!(scratch.bytes().len(), 20 * SIZE);
}

#[test]
fn dropped_operations_leak_nothing_and_a_dropped_write_goes_on() {
    const SIZE: usize = 100_000;
    let scratch = Scratch::holding(&[1; SIZE]);
    let freed = Arc::new(AtomicUsize::new(0));
    on_runtime(async {
        let file = open(&scratch);
        for block in 0..50 {
            let bytes = Bytes::from_owner(Counted(freed.clone(), vec![2; SIZE]));
            let mut write = Box::pin(file.write_at(bytes, block * SIZE as u64));
            assert!(poll_once(&mut write).await.is_pending());
            let mut read = Box::pin(file.read_at(Vec::with_capacity(SIZE), 0));
            assert!(poll_once(&mut read).await.is_pending());
            drop((write, read));
            // Never polled.
            drop(file.write_at(Bytes::from_owner(Counted(freed.clone(), vec![])), 0));
        }
        drop(file);
        wait_until("every buffer is freed", || {
            freed.load(Ordering::SeqCst) == 100
        });
    });
    assert!(scratch.bytes() == [2; 50 * SIZE], "every write was done");
}

#[test]
fn a_file_outlives_its_runtime_without_harm() {
    let scratch = Scratch::holding(b"0123456789");
    let runtime = Runtime::new().expect("a runtime");
    let file = run_on(&runtime, async { open(&scratch) });
    drop(runtime);
    let other = Runtime::new().expect("a runtime");
    let (read, vec) = run_on(&other, file.read_at(Vec::with_capacity(7), 0));
    assert_eq!(read.expect_err("gone").kind(), ErrorKind::NotConnected);
    assert_eq!(vec.capacity(), 7, "it comes back");
    assert_eq!(file.metadata().expect("open").len(), 10);
}

#[test]
fn a_file_needs_a_runtime() {
    let scratch = Scratch::holding(b"x");
    let file = options().read(true).open(&scratch.0).expect("is there");
    File::from_std(file).expect_err("there is no runtime here");
}

#[test]
fn a_file_is_sent_between_other_sends() {
    let bytes = pattern(1_000_000);
    let scratch = Scratch::holding(&bytes);
    on_runtime(async {
        let file = open(&scratch);
        let (mut stream, mut peer) = pair().await;
        let reader = thread::spawn(move || read_to_end(&mut peer));
        stream.send("head").await.expect("sent");
        let sent = stream.send_file(&file, 0, u64::MAX).await;
        assert_eq!(sent.expect("sent"), 1_000_000);
        let sent = stream.send_file(&file, 10, 5).await;
        assert_eq!(sent.expect("sent"), 5);
        let sent = stream.send_file(&file, 999_999, 5).await;
        assert_eq!(sent.expect("the file ends"), 1);
        let sent = stream.send_file(&file, 0, 0).await;
        assert_eq!(sent.expect("nothing to send"), 0);
        // One of the standard library will do.
        let plain = fs::File::open(&scratch.0).expect("is there");
        let sent = stream.send_file(plain, 0, 1).await;
        assert_eq!(sent.expect("sent"), 1);
        let (read_half, mut write_half) = stream.split();
        let sent = write_half.send_file(&file, 1, 1).await;
        assert_eq!(sent.expect("sent"), 1);
        drop((read_half, write_half));
        let received = reader.join().expect("no panic").expect("an orderly end");
        let mut expected = b"head".to_vec();
        expected.extend(&bytes);
        expected.extend(&bytes[10..15]);
        expected.extend(&bytes[999_999..]);
        expected.extend(&bytes[..2]);
        assert!(received == expected);
    });
}

/// The system makes such a file up as it is read, and says that it has no bytes.
#[cfg(target_os = "linux")]
#[test]
fn a_file_whose_length_is_not_told_is_sent_with_an_idle_timeout_as_without() {
    let expected = fs::read("/proc/version").expect("/proc is mounted");
    on_runtime(async move {
        for idle in [None, Some(LONG)] {
            let (mut stream, mut peer) = pair().await;
            stream.set_idle_timeout(idle);
            let file = fs::File::open("/proc/version").expect("/proc is mounted");
            let sent = stream.send_file(file, 0, u64::MAX).await;
            assert_eq!(sent.expect("sent"), expected.len() as u64, "{idle:?}");
            drop(stream);
            assert_eq!(read_to_end(&mut peer).expect("an orderly end"), expected);
        }
    });
}

/// A file that is on its way when its future is dropped.
async fn dropped_half_way(stream: &mut TcpStream, file: &File) {
    let mut send = Box::pin(stream.send_file(file, 0, u64::MAX));
    assert!(poll_once(&mut send).await.is_pending());
}

#[test]
fn contract_62_a_dropped_file_is_still_sent_in_order() {
    let bytes = pattern(6_000_000);
    let scratch = Scratch::holding(&bytes);
    on_runtime(async {
        for idle in [None, Some(LONG)] {
            let file = open(&scratch);
            let (mut stream, mut peer) = pair().await;
            stream.set_idle_timeout(idle);
            dropped_half_way(&mut stream, &file).await;
            drop(file);
            let reader = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                read_to_end(&mut peer)
            });
            stream.send("end").await.expect("sent");
            stream.shutdown(Shutdown::Write).await.expect("shut down");
            let received = reader.join().expect("no panic").expect("an orderly end");
            assert_eq!(received.len(), bytes.len() + 3);
            assert!(received.starts_with(&bytes) && received.ends_with(b"end"));
        }
    });
}

#[test]
fn contract_65_a_dropped_stream_sends_its_file_and_closes() {
    let bytes = pattern(6_000_000);
    let scratch = Scratch::holding(&bytes);
    on_runtime(async {
        let file = open(&scratch);
        for (with_more, idle) in [(false, None), (true, None), (false, Some(LONG))] {
            let (mut stream, mut peer) = pair().await;
            stream.set_idle_timeout(idle);
            dropped_half_way(&mut stream, &file).await;
            if with_more {
                let mut send = Box::pin(stream.send(vec![7; 60_000]));
                assert!(poll_once(&mut send).await.is_pending());
            }
            drop(stream);
            let reader = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                read_to_end(&mut peer)
            });
            let received = reader.join().expect("no panic").expect("an orderly end");
            assert!(received.starts_with(&bytes));
            let more = received.len() - bytes.len();
            assert_eq!(more, if with_more { 60_000 } else { 0 });
        }
    });
}

#[test]
fn nothing_follows_a_file_whose_peer_is_gone() {
    let scratch = Scratch::holding(&pattern(6_000_000));
    on_runtime(async {
        let file = open(&scratch);
        let (mut stream, peer) = pair().await;
        let mut send = Box::pin(stream.send_file(&file, 0, u64::MAX));
        assert!(poll_once(&mut send).await.is_pending());
        reset(peer);
        let error = send.await.expect_err("the peer is gone");
        // Wine 8 asks for the peer's name first.
        let of_wine = cfg!(windows) && error.kind() == ErrorKind::NotConnected;
        assert!(
            of_wine || error.kind() == ErrorKind::ConnectionReset,
            "{error}"
        );
        let again = stream.send_file(&file, 0, 1).await.expect_err("as before");
        assert_eq!(again.kind(), error.kind());
        stream.send("x").await.expect_err("as before");
    });
}

/// A slow peer is not an idle one.
#[test]
fn a_file_that_a_slow_peer_takes_is_traffic_all_the_time() {
    const SIZE: usize = 24 << 20;
    let scratch = Scratch::holding(&pattern(SIZE));
    on_runtime(async {
        let file = open(&scratch);
        let (mut stream, mut peer) = pair().await;
        let period = Duration::from_millis(400);
        stream.set_idle_timeout(Some(period));
        SockRef::from(&peer)
            .set_recv_buffer_size(64 * 1024)
            .expect("a socket");
        let reader = thread::spawn(move || {
            let (start, mut all) = (Instant::now(), Vec::new());
            let mut piece = vec![0; SIZE / 240];
            loop {
                let read = peer.read(&mut piece).expect("connected");
                all.extend_from_slice(&piece[..read]);
                if read == 0 {
                    return (all, start.elapsed());
                }
                // As long as four periods for all of it.
                let due = 4 * period * all.len() as u32 / SIZE as u32;
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
        });
        let sent = stream.send_file(&file, 0, u64::MAX).await;
        assert_eq!(sent.expect("it goes on"), SIZE as u64);
        stream.shutdown(Shutdown::Write).await.expect("shut down");
        let (received, took) = reader.join().expect("no panic");
        assert!(received == pattern(SIZE), "every byte, in order");
        assert!(took > 3 * period, "{took:?}: the peer was not slow");
    });
}

#[test]
fn a_file_that_nobody_takes_times_out_and_is_sent_later() {
    const SIZE: usize = 24 << 20;
    let scratch = Scratch::holding(&pattern(SIZE));
    on_runtime(async {
        let file = open(&scratch);
        let (mut stream, mut peer) = pair().await;
        stream.set_idle_timeout(Some(Duration::from_millis(60)));
        let error = stream.send_file(&file, 0, u64::MAX).await;
        assert_eq!(error.expect_err("idle").kind(), ErrorKind::TimedOut);
        stream.set_idle_timeout(None);
        let reader = thread::spawn(move || read_to_end(&mut peer));
        stream.send("end").await.expect("sent");
        drop(stream);
        let received = reader.join().expect("no panic").expect("an orderly end");
        assert_eq!(received.len(), SIZE + 3);
        assert!(received.starts_with(&pattern(SIZE)) && received.ends_with(b"end"));
    });
}

/// A runtime on each driver that may hold a socket in another way.
#[cfg(target_os = "linux")]
fn runtimes() -> impl Iterator<Item = Runtime> {
    use landfall::port::{Builder, DriverChoice, Facilities};

    let mut ordinary = Facilities::default();
    ordinary.direct_descriptors = false;
    let ports = [
        Builder::new(),
        Builder::new().facilities(ordinary),
        Builder::new().driver(DriverChoice::Poll),
    ];
    let build = |port| Runtime::builder().port(port).build().expect("a runtime");
    ports.into_iter().map(build)
}

/// A head that waits for more to come would wait for 200 ms each time.
#[cfg(target_os = "linux")]
#[test]
fn a_head_that_no_file_follows_is_not_held_back() {
    let scratch = Scratch::holding(b"short");
    for runtime in runtimes() {
        run_on(&runtime, async {
            let file = Arc::new(scratch.open());
            let (mut stream, mut peer) = pair().await;
            for (offset, length) in [(0, 0), (5, 7)] {
                let times = (0..5).map(|_| {
                    let began = std::time::Instant::now();
                    let sent = stream.try_send_file(b"head", &file, offset, length);
                    assert_eq!(sent.expect("there is room"), 4);
                    peer.read_exact(&mut [0; 4]).expect("it comes");
                    began.elapsed()
                });
                let quickest = times.min().expect("five");
                assert!(quickest < Duration::from_millis(100), "{quickest:?}");
            }
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_goes_at_once_as_far_as_the_system_takes_it() {
    const SIZE: usize = 24 << 20;
    let scratch = Scratch::holding(&pattern(SIZE));
    for runtime in runtimes() {
        run_on(&runtime, async {
            let file = Arc::new(scratch.open());
            let (mut stream, mut peer) = pair().await;
            let sent = stream.try_send_file(b"head", &file, 0, 1_000);
            assert_eq!(sent.expect("there is room"), 1_004);
            let (mut offset, mut waits) = (1_000, 0);
            // Nobody takes anything, and nothing waits for that.
            let full = loop {
                match stream.try_send_file(b"", &file, offset, u64::MAX) {
                    Ok(sent) => offset += sent,
                    Err(error) => break error,
                }
            };
            assert_eq!(full.kind(), ErrorKind::WouldBlock);
            assert!(offset > 0 && offset < SIZE as u64, "{offset}");
            let reader = thread::spawn(move || read_to_end(&mut peer));
            loop {
                match stream.try_send_file(b"", &file, offset, u64::MAX) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        waits += 1;
                        stream.writable().await.expect("there is room at last");
                    }
                    Ok(0) => break,
                    sent => offset += sent.expect("sent"),
                }
            }
            assert_eq!(offset, SIZE as u64);
            assert!(waits > 0);
            let sent = stream.try_send_file(b"more", &file, offset, 7);
            assert_eq!(sent.expect("the head alone"), 4);
            // As ever: it waits until the peer has taken most of it.
            stream.send(pattern(SIZE)).await.expect("sent");
            drop(stream);
            let received = reader.join().expect("no panic").expect("an orderly end");
            let file = pattern(SIZE);
            let expected = [b"head", &file[..], b"more", &file].concat();
            assert!(received == expected, "every byte, in order");
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_file_goes_at_once_before_what_is_queued_nor_to_a_peer_that_is_gone() {
    let scratch = Scratch::holding(&pattern(6_000_000));
    for runtime in runtimes() {
        run_on(&runtime, async {
            let file = open(&scratch);
            let (mut stream, peer) = pair().await;
            dropped_half_way(&mut stream, &file).await;
            let early = stream
                .try_send_file(b"", file.as_std(), 0, 1)
                .expect_err("queued");
            assert_eq!(early.kind(), ErrorKind::WouldBlock);
            reset(peer);

            let (mut stream, peer) = pair().await;
            reset(peer);
            wait_until("the reset has come", || {
                stream.try_send_file(b"", file.as_std(), 0, 1).is_err()
            });
            let gone = stream
                .try_send_file(b"", file.as_std(), 0, 1)
                .expect_err("gone");
            assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
            let error = stream.receive().await.expect_err("of both directions");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);

            let (mut stream, peer) = pair().await;
            stream.shutdown(Shutdown::Write).await.expect("shutdown");
            let shut = stream
                .try_send_file(b"", file.as_std(), 0, 1)
                .expect_err("shut");
            assert_eq!(shut.kind(), ErrorKind::BrokenPipe);
            drop(peer);
            let end = stream.receive().await.expect("that was no reset");
            assert!(end.is_none());
        });
    }
}
