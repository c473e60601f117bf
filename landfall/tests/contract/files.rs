//! Files on the port: reads and writes at an offset, storing, closing, cancelling.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use landfall::buffer::Buffer;
use landfall::port::{
    Association, Completion, CompletionKind, CompletionPort, Handle, Operation, is_aborted,
};

use crate::common::{Counted, Scratch};
use crate::support::{assert_quiet, connected, for_each_driver, next};
use crate::threads::Worker;

/// What is read from it is gone: it could not be read again when a socket has taken only a part.
#[cfg(unix)]
#[test]
fn a_file_without_offsets_is_refused() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    for_each_driver(|driver| {
        let port = driver.port(0);
        let file = || {
            let (end, _) = UnixStream::pair().expect("a pair");
            File::from(OwnedFd::from(end))
        };
        let refused = port.associate(file(), 0).expect_err("no offsets");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        let (connection, _peer) = connected(&port, 0);
        let send = Operation::SendFile {
            file: Arc::new(file()),
            offset: 0,
            length: 1,
        };
        let refused = connection.submit(send, 0).expect_err("no offsets");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        assert!(matches!(refused.operation, Operation::SendFile { .. }));
        assert_quiet(&port);
    });
}

/// Bytes that tell their places.
pub fn pattern(start: usize, length: usize) -> Vec<u8> {
    (start..start + length)
        .map(|place| (place % 251) as u8 ^ (place >> 8) as u8)
        .collect()
}

fn read_at(offset: u64, room: usize) -> Operation {
    Operation::ReadAt {
        offset,
        buffer: Vec::with_capacity(room),
    }
}

fn write_at(offset: u64, bytes: impl Into<Buffer>) -> Operation {
    let buffer = bytes.into();
    Operation::WriteAt { offset, buffer }
}

/// Submits one operation and returns its completion.
#[track_caller]
fn done(port: &CompletionPort, file: &Handle, operation: Operation) -> Completion {
    let id = file.submit(operation, 5).expect("submits");
    let completion = next(port);
    assert_eq!((completion.id(), completion.token()), (id, 5));
    assert_eq!(completion.key(), file.key());
    assert!(completion.is_final());
    completion
}

/// The bytes of a read that succeeded.
#[track_caller]
fn contents(mut read: Completion) -> Vec<u8> {
    let bytes = read.result().expect("read");
    assert_eq!(read.kind(), CompletionKind::Read);
    let buffer = read.take_buffer().expect("its buffer").into_vec();
    assert_eq!(buffer.len(), bytes);
    buffer
}

#[test]
fn what_is_written_at_an_offset_is_read_there() {
    for_each_driver(|driver| {
        let scratch = Scratch::new();
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 77).expect("associates");
        let mut wrote = done(&port, &file, write_at(5, b"hello world"));
        assert_eq!(wrote.kind(), CompletionKind::Write);
        assert_eq!(wrote.result().expect("written"), 11);
        let buffer = wrote.take_buffer().expect("it comes back");
        assert_eq!(&buffer[..], b"hello world");
        assert_eq!(scratch.bytes(), b"\0\0\0\0\0hello world");

        let read = done(&port, &file, read_at(11, 5));
        assert_eq!(contents(read), b"world");
        // After what is in the vector already.
        let mut vec = Vec::with_capacity(8);
        vec.extend_from_slice(b"oh ");
        vec.reserve_exact(5);
        let mut read = done(
            &port,
            &file,
            Operation::ReadAt {
                offset: 5,
                buffer: vec,
            },
        );
        let bytes = read.result().expect("read");
        let vec = read.take_buffer().expect("its buffer").into_vec();
        assert_eq!(vec.len(), 3 + bytes);
        assert!(vec.starts_with(b"oh hello"));
        assert_quiet(&port);
    });
}

#[test]
fn a_read_at_the_end_of_a_file_is_short_and_past_it_empty() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"0123456789");
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 1).expect("associates");
        assert_eq!(contents(done(&port, &file, read_at(7, 100))), b"789");
        assert_eq!(contents(done(&port, &file, read_at(10, 100))), b"");
        assert_eq!(contents(done(&port, &file, read_at(1 << 40, 100))), b"");
        let past_all = i64::MAX as u64 - 100;
        assert_eq!(contents(done(&port, &file, read_at(past_all, 100))), b"");
        // Nothing written is no change.
        let wrote = done(&port, &file, write_at(1 << 40, b""));
        assert_eq!(wrote.result().expect("written"), 0);
        assert_eq!(scratch.bytes().len(), 10);
        assert_quiet(&port);
    });
}

#[test]
fn a_file_may_be_larger_than_4_gib() {
    for_each_driver(|driver| {
        const FAR: u64 = (5 << 30) + 3;
        let scratch = Scratch::sparse(6 << 30);
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 1).expect("associates");
        let wrote = done(&port, &file, write_at(FAR, b"far"));
        assert_eq!(wrote.result().expect("written"), 3);
        assert_eq!(
            contents(done(&port, &file, read_at(FAR - 1, 5))),
            b"\0far\0"
        );
        let low = FAR % (1 << 32);
        assert_eq!(contents(done(&port, &file, read_at(low, 3))), b"\0\0\0");
    });
}

#[test]
fn any_number_of_operations_on_one_file_are_under_way_at_once() {
    for_each_driver(|driver| {
        const COUNT: usize = 100;
        const SIZE: usize = 10_000;
        let scratch = Scratch::new();
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 1).expect("associates");
        let all = |operation: fn(usize) -> Operation| -> Vec<Completion> {
            for block in 0..COUNT {
                file.submit(operation(block), block).expect("submits");
            }
            let completions: Vec<_> = (0..COUNT).map(|_| next(&port)).collect();
            let tokens: HashSet<_> = completions.iter().map(Completion::token).collect();
            assert_eq!(tokens.len(), COUNT, "one completion each");
            completions
        };
        for wrote in all(|block| write_at((block * SIZE) as u64, pattern(block * SIZE, SIZE))) {
            assert_eq!(wrote.result().expect("written"), SIZE);
        }
        assert!(scratch.bytes() == pattern(0, COUNT * SIZE));
        for read in all(|block| read_at((block * SIZE) as u64, SIZE)) {
            let block = read.token();
            assert!(
                contents(read) == pattern(block * SIZE, SIZE),
                "block {block}"
            );
        }
        assert_quiet(&port);
    });
}

#[test]
fn threads_share_a_file() {
    for_each_driver(|driver| {
        const SIZE: usize = 4096;
        let scratch = Scratch::new();
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 1).expect("associates");
        // The threads are gone by the time that their writes complete.
        for block in 0..20 {
            let file = file.clone();
            let write = move || {
                let write = write_at((block * SIZE) as u64, pattern(block * SIZE, SIZE));
                file.submit(write, block).expect("submits");
            };
            Worker::start(write).join();
        }
        for _ in 0..20 {
            assert_eq!(next(&port).result().expect("written"), SIZE);
        }
        assert!(scratch.bytes() == pattern(0, 20 * SIZE));
        assert_quiet(&port);
    });
}

#[test]
fn a_file_is_stored() {
    for_each_driver(|driver| {
        let scratch = Scratch::new();
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 1).expect("associates");
        done(&port, &file, write_at(0, "kept"))
            .result()
            .expect("written");
        for operation in [Operation::SyncData, Operation::SyncAll] {
            let stored = done(&port, &file, operation);
            assert_eq!(stored.kind(), CompletionKind::Sync);
            assert_eq!(stored.result().expect("stored"), 0);
        }
        assert_quiet(&port);
    });
}

#[test]
fn what_does_not_fit_is_refused_and_comes_back() {
    for_each_driver(|driver| {
        let scratch = Scratch::new();
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 1).expect("associates");
        let (socket, _peer) = connected(&port, 2);
        let refused = |handle: &Handle, operation: Operation| {
            let before = format!("{operation:?}");
            let refused = handle.submit(operation, 0).expect_err("refused");
            assert_eq!(refused.error.kind(), ErrorKind::InvalidInput, "{refused}");
            assert_eq!(format!("{:?}", refused.operation), before);
        };
        refused(&file, read_at(0, 0));
        refused(&file, read_at(i64::MAX as u64 - 9, 10_000));
        refused(&file, read_at(u64::MAX, 1));
        refused(&file, write_at(i64::MAX as u64, "x"));
        refused(&file, write_at(u64::MAX, "x"));
        refused(&file, Operation::ReceiveOnce);
        refused(&file, Operation::Send("x".into()));
        refused(&file, Operation::Accept(landfall::port::Accept::stream()));
        refused(&socket, read_at(0, 10));
        refused(&socket, write_at(0, "x"));
        refused(&socket, Operation::SyncAll);
        refused(&socket, Operation::SyncData);
        assert_quiet(&port);
    });
}

#[test]
fn a_failure_is_a_completion_and_gives_the_buffer_back() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"0123456789");
        let port = driver.port(0);
        let file = scratch.opened_for_writing_only();
        let file = port.associate(file, 1).expect("associates");
        let mut failed = done(&port, &file, read_at(0, 123));
        let error = failed.result().expect_err("it cannot be read");
        assert!(error.raw_os_error().is_some() && !is_aborted(&error));
        assert_eq!((failed.kind(), failed.bytes()), (CompletionKind::Read, 0));
        let vec = failed.take_buffer().expect("its buffer").into_vec();
        assert_eq!((vec.len(), vec.capacity() >= 123), (0, true));
        assert_quiet(&port);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_fails_the_write() {
    use landfall::fs::options;

    for_each_driver(|driver| {
        let port = driver.port(0);
        let full = options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it");
        let file = port.associate(full, 1).expect("associates");
        let failed = done(&port, &file, write_at(0, vec![1; 100_000]));
        let error = failed.result().expect_err("there is no room");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(failed.bytes(), 0);
    });
}

#[test]
fn c09_closing_an_idle_file_queues_nothing() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"x");
        let port = driver.port(0);
        let closed = port.associate(scratch.open(), 1).expect("associates");
        closed.close();
        closed.close();
        let refused = closed.submit(read_at(0, 10), 0).expect_err("closed");
        assert_eq!(refused.error.kind(), ErrorKind::NotConnected);
        let dropped = port.associate(scratch.open(), 2).expect("associates");
        drop(dropped);
        assert_quiet(&port);
    });
}

#[test]
fn c53_a_cancelled_operation_completes_exactly_once() {
    for_each_driver(|driver| {
        const SIZE: usize = 1 << 20;
        let scratch = Scratch::holding(&vec![7; SIZE]);
        let port = driver.port(0);
        let file = port.associate(scratch.open(), 1).expect("associates");
        let mut ids = Vec::new();
        for token in 0..30 {
            let operation = match token % 3 {
                0 => read_at(0, SIZE),
                1 => write_at(0, vec![7; SIZE]),
                _ => Operation::SyncAll,
            };
            let id = file.submit(operation, token).expect("submits");
            file.cancel(id);
            ids.push(id);
        }
        let mut left: HashSet<_> = ids.iter().copied().collect();
        for _ in 0..30 {
            let mut ended = next(&port);
            assert!(left.remove(&ended.id()), "once each");
            match ended.result() {
                Ok(bytes) => assert_eq!(bytes, if ended.token() % 3 == 2 { 0 } else { SIZE }),
                Err(error) => assert!(is_aborted(&error), "{error}"),
            }
            assert_eq!(ended.take_buffer().is_some(), ended.token() % 3 != 2);
        }
        assert_quiet(&port);
        for id in ids {
            assert!(!file.cancel(id), "it has completed");
        }
        assert_eq!(file.cancel_all(), 0);
    });
}

#[test]
fn c56_closing_a_file_ends_what_is_pending_once() {
    for_each_driver(|driver| {
        const SIZE: usize = 1 << 20;
        let scratch = Scratch::holding(&vec![7; SIZE]);
        let port = driver.port(0);
        for round in 0..2 {
            let file = port.associate(scratch.open(), round).expect("associates");
            for token in 0..10 {
                file.submit(read_at(0, SIZE), token).expect("submits");
            }
            match round {
                0 => file.close(),
                // What is pending keeps the file open.
                _ => drop(file),
            }
            for _ in 0..10 {
                let mut ended = next(&port);
                assert_eq!(ended.key(), round);
                match ended.result() {
                    Ok(bytes) => assert_eq!(bytes, SIZE),
                    Err(error) => assert!(round == 0 && is_aborted(&error), "{error}"),
                }
                assert!(ended.take_buffer().is_some());
            }
            assert_quiet(&port);
        }
    });
}

#[test]
fn a_file_may_be_shared_with_the_program() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"0123456789");
        let shared = Arc::new(scratch.open());
        let port = driver.port(0);
        let file = port.associate(shared.clone(), 1).expect("associates");
        assert_eq!(contents(done(&port, &file, read_at(0, 4))), b"0123");
        file.close();
        assert_eq!(shared.metadata().expect("open").len(), 10);
        drop(file);
        drop(port);
        assert_eq!(Arc::strong_count(&shared), 1);
    });
}

#[test]
fn a_refused_file_comes_back() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"0123456789");
        let port = driver.port(0);
        port.close();
        let refused = port.associate(scratch.open(), 1).expect_err("closed");
        let file = refused.source.into_file().expect("the same");
        assert_eq!(file.metadata().expect("open").len(), 10);
    });
}

#[cfg(windows)]
#[test]
fn c03_a_file_not_opened_for_overlapped_operations_is_refused() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"0123456789");
        let port = driver.port(0);
        let plain = File::open(&scratch.0).expect("is there");
        let refused = port.associate(plain, 1).expect_err("it would block");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidInput);
        assert!(refused.error.to_string().contains("FILE_FLAG_OVERLAPPED"));
        assert!(refused.source.into_file().is_some());
    });
}

#[test]
fn a_serial_file_gives_one_completion_at_a_time() {
    for_each_driver(|driver| {
        let scratch = Scratch::holding(b"0123456789");
        let port = driver.port(0);
        let association = Association::new(1).serial(true);
        let file = port.associate_with(scratch.open(), association);
        let file = file.expect("associates");
        for token in 0..5 {
            file.submit(read_at(token as u64, 1), token)
                .expect("submits");
        }
        let mut tokens = HashSet::new();
        for _ in 0..5 {
            let read = next(&port);
            assert_quiet(&port);
            tokens.insert(read.token());
        }
        assert_eq!(tokens.len(), 5);
        assert_quiet(&port);
    });
}

#[test]
fn closing_the_port_frees_what_files_had_pending() {
    for_each_driver(|driver| {
        const COUNT: usize = 20;
        let scratch = Scratch::new();
        let shared = Arc::new(scratch.open());
        let freed = Arc::new(AtomicUsize::new(0));
        let port = driver.port(0);
        let file = port.associate(shared.clone(), 1).expect("associates");
        for block in 0..COUNT {
            let bytes = Bytes::from_owner(Counted(freed.clone(), vec![1; 100_000]));
            let write = write_at((block * 100_000) as u64, bytes);
            file.submit(write, block).expect("submits");
        }
        port.close();
        assert_eq!(freed.load(Ordering::SeqCst), COUNT);
        let refused = file.submit(read_at(0, 10), 0).expect_err("closed");
        assert_eq!(refused.error.kind(), ErrorKind::NotConnected);
        drop(file);
        drop(port);
        assert_eq!(Arc::strong_count(&shared), 1);
    });
}
