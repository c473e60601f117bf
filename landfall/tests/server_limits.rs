//! The server: what it counts, its limits, its end.

mod runtime_support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use landfall::runtime::{self, Runtime};
use landfall::server::{Connection, Report, Server, ServerHandle, Stats};
use runtime_support::*;

type Running = JoinHandle<io::Result<Report>>;

async fn echo(mut connection: Connection) -> io::Result<()> {
    while let Some(data) = connection.receive().await? {
        connection.send(data).await?;
    }
    Ok(())
}

fn server() -> Server {
    Server::bind("127.0.0.1:0")
        .expect("bind")
        .drain_timeout(LONG)
}

fn start_echo(server: Server) -> (ServerHandle, Running) {
    (server.handle(), thread::spawn(move || server.serve(echo)))
}

fn connect(handle: &ServerHandle) -> StdStream {
    let stream = StdStream::connect(handle.local_addr()).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("a socket");
    stream
}

fn end(running: Running) -> Report {
    wait_until("the server has ended", || running.is_finished());
    running.join().expect("no panic").expect("no error")
}

#[test]
fn it_serves_and_counts() {
    let (handle, running) = start_echo(server());
    let mut clients: Vec<_> = (0..20).map(|_| connect(&handle)).collect();
    for client in &mut clients {
        echo_once(client, b"0123456789").expect("echo");
    }
    // A client may have its echo before the server hears that it was sent.
    wait_until("all is counted", || handle.stats().sent_bytes == 200);
    let stats = handle.stats();
    assert_eq!(
        (stats.accepted, stats.active, stats.received_bytes),
        (20, 20, 200)
    );
    drop(clients);
    wait_until("all have left", || handle.stats().active == 0);
    handle.drain();
    let report = end(running);
    assert_eq!(report.cut_off, 0);
    let Stats {
        accepted,
        active,
        refused,
        failed,
        panicked,
        accept_errors,
        ..
    } = report.stats;
    assert_eq!(
        (accepted, active, refused, failed, panicked, accept_errors),
        (20, 0, 0, 0, 0, 0)
    );
    wait_until("nothing is left", || {
        open_sockets_at(handle.local_addr()) == 0
    });
}

#[test]
fn handlers_that_fail_or_panic_end_their_own_connection_only() {
    let server = server();
    let handle = server.handle();
    let running = thread::spawn(move || {
        server.serve(|mut connection| async move {
            while let Some(data) = connection.receive().await? {
                match &data[..] {
                    b"fail" => return Err(io::Error::other("as asked")),
                    b"panic" => panic!("as asked"),
                    _ => connection.send(data).await?,
                }
            }
            Ok(())
        })
    });
    let mut bystander = connect(&handle);
    echo_once(&mut bystander, b"hello").expect("echo");
    for _ in 0..10 {
        for text in [&b"fail"[..], b"panic"] {
            let mut client = connect(&handle);
            client.write_all(text).expect("write");
            assert_eq!(read_to_end(&mut client).expect("closed"), b"");
        }
        echo_once(&mut bystander, b"still").expect("echo");
    }
    // The last one is counted as failed before it is counted off.
    wait_until("they are counted", || {
        let stats = handle.stats();
        (stats.failed, stats.panicked, stats.active) == (10, 10, 1)
    });
    drop(bystander);
    handle.drain();
    assert_eq!(end(running).stats.accepted, 21);
}

#[test]
fn a_burst_of_clients_never_has_more_handlers_than_connections_allowed() {
    const LIMIT: usize = 4;
    const CLIENTS: usize = 200;
    let server = server().max_connections(LIMIT);
    let handle = server.handle();
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let count = (now.clone(), most.clone());
    let running = thread::spawn(move || {
        server.serve(move |mut connection| {
            let (now, most) = count.clone();
            async move {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                while let Some(data) = connection.receive().await? {
                    connection.send(data).await?;
                }
                now.fetch_sub(1, SeqCst);
                Ok(())
            }
        })
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = connect(&handle);
            thread::spawn(move || echo_once(&mut client, b"served"))
        })
        .collect();
    let mut most_active = 0;
    wait_until("all are served", || {
        most_active = most_active.max(handle.stats().active);
        clients.iter().all(JoinHandle::is_finished)
    });
    for client in clients {
        client.join().expect("no panic").expect("echo");
    }
    assert!(most_active <= LIMIT as u64, "{most_active} were open");
    assert!(most.load(SeqCst) <= LIMIT, "{most:?} handlers ran");
    handle.drain();
    assert_eq!(end(running).stats.accepted, CLIENTS as u64);
}

#[test]
fn more_connections_than_allowed_wait_until_one_ends() {
    let (handle, running) = start_echo(server().max_connections(3));
    let mut served: Vec<_> = (0..3).map(|_| connect(&handle)).collect();
    for client in &mut served {
        echo_once(client, b"in").expect("echo");
    }
    // Connected, as the system sees it, but not served.
    let mut waiting: Vec<_> = (0..20).map(|_| connect(&handle)).collect();
    for client in &mut waiting {
        client.write_all(b"waiting").expect("write");
        client
            .set_read_timeout(Some(Duration::from_millis(10)))
            .expect("a socket");
        let error = client.read(&mut [0; 8]).expect_err("not served");
        // Windows says the second.
        let timed_out = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(timed_out, "{error}");
        client.set_read_timeout(Some(LONG)).expect("a socket");
    }
    assert_eq!((handle.stats().accepted, handle.stats().active), (3, 3));
    // Each that leaves lets one in; in which order is up to the system.
    drop(served);
    let clients: Vec<_> = waiting
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                let mut echo = [0; 7];
                client.read_exact(&mut echo).expect("served in the end");
                assert_eq!(&echo, b"waiting");
            })
        })
        .collect();
    let most = wait_for_all(&handle, clients);
    assert!(most <= 3, "{most} at a time");
    handle.drain();
    assert_eq!(end(running).stats.accepted, 23);
}

/// Waits for threads, and returns the most connections seen meanwhile.
fn wait_for_all(handle: &ServerHandle, threads: Vec<JoinHandle<()>>) -> u64 {
    let mut most = 0;
    wait_until("all clients have ended", || {
        most = most.max(handle.stats().active);
        threads.iter().all(JoinHandle::is_finished)
    });
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    most
}

#[test]
fn silent_connections_are_ended_and_busy_ones_are_not() {
    let (handle, running) = start_echo(server().idle_timeout(Duration::from_millis(150)));
    let mut silent = connect(&handle);
    let mut busy = connect(&handle);
    let start = Instant::now();
    let talking = thread::spawn(move || {
        while start.elapsed() < Duration::from_millis(600) {
            echo_once(&mut busy, b"tick").expect("not ended");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(read_to_end(&mut busy).expect("ended once silent"), b"");
    });
    assert_eq!(read_to_end(&mut silent).expect("ended"), b"");
    assert!(
        start.elapsed() >= Duration::from_millis(149),
        "after {:?}",
        start.elapsed()
    );
    talking.join().expect("no panic");
    wait_until("they are counted", || handle.stats().timed_out == 2);
    assert_eq!(handle.stats().failed, 0, "being silent is no error");
    handle.drain();
    end(running);
}

#[test]
fn draining_ends_idle_connections_and_lets_others_finish() {
    let server = server();
    let handle = server.handle();
    let running = thread::spawn(move || {
        server.serve(|mut connection| async move {
            while let Some(data) = connection.receive().await? {
                runtime::time::sleep(Duration::from_millis(200)).await;
                connection.send(data).await?;
            }
            Ok(())
        })
    });
    let mut idle = connect(&handle);
    let mut working = connect(&handle);
    working.write_all(b"work").expect("write");
    wait_until("it is at work", || {
        handle.stats().received_bytes == 4 && handle.stats().active == 2
    });
    handle.drain();
    assert_eq!(read_to_end(&mut idle).expect("a clean close"), b"");
    assert_eq!(read_to_end(&mut working).expect("a clean close"), b"work");
    let report = end(running);
    assert_eq!((report.cut_off, report.stats.failed), (0, 0));
    assert_eq!(
        StdStream::connect(handle.local_addr())
            .expect_err("closed")
            .kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn draining_sends_what_is_queued() {
    let much = Bytes::from(pattern(8_000_000));
    let expected = much.clone();
    let server = server();
    let handle = server.handle();
    let running = thread::spawn(move || {
        server.serve(move |mut connection| {
            let much = much.clone();
            async move {
                connection.receive().await?;
                let late = runtime::time::timeout(Duration::from_millis(1), connection.send(much));
                assert!(late.await.is_err(), "the client does not read yet");
                Ok(())
            }
        })
    });
    let mut client = connect(&handle);
    client.write_all(b"x").expect("write");
    thread::sleep(Duration::from_millis(100));
    handle.drain();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(
        handle.stats().active,
        1,
        "the stream was dropped, and has not been sent"
    );
    assert!(read_to_end(&mut client).expect("a clean close") == expected);
    assert_eq!(end(running).cut_off, 0);
}

#[test]
fn a_drain_has_a_deadline_and_a_stop_has_none() {
    for stop in [false, true] {
        let server = server().drain_timeout(if stop {
            LONG
        } else {
            Duration::from_millis(100)
        });
        let handle = server.handle();
        let running = thread::spawn(move || {
            server.serve(|connection| async move {
                // Heeds nothing.
                std::future::pending::<()>().await;
                drop(connection);
                Ok(())
            })
        });
        let mut clients: Vec<_> = (0..5).map(|_| connect(&handle)).collect();
        wait_until("all are served", || handle.stats().active == 5);
        let start = Instant::now();
        if stop {
            handle.stop()
        } else {
            handle.drain()
        }
        assert_eq!(end(running).cut_off, 5);
        assert!(stop || start.elapsed() >= Duration::from_millis(99));
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "took {:?}",
            start.elapsed()
        );
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0, "closed");
        }
        drop(clients);
        wait_until("nothing is left", || {
            open_sockets_at(handle.local_addr()) == 0
        });
    }
}

#[test]
fn it_can_be_drained_before_it_serves() {
    let server = server();
    server.handle().drain();
    let report = server.serve(echo).expect("serves nobody");
    assert_eq!(report.stats, Stats::default());
}

#[test]
fn handlers_that_block_stop_nobody() {
    let server = server().concurrency(1).workers(2);
    let handle = server.handle();
    let running = thread::spawn(move || {
        server.serve(|mut connection| async move {
            while let Some(data) = connection.receive().await? {
                if &data[..] == b"block" {
                    thread::sleep(Duration::from_millis(300));
                }
                connection.send(data).await?;
            }
            Ok(())
        })
    });
    let blockers: Vec<_> = (0..5)
        .map(|_| {
            let mut client = connect(&handle);
            thread::spawn(move || echo_once(&mut client, b"block").expect("echo"))
        })
        .collect();
    let mut other = connect(&handle);
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    for _ in 0..10 {
        echo_once(&mut other, b"quick").expect("echo");
    }
    let took = start.elapsed();
    assert!(took < Duration::from_millis(200), "took {took:?}");
    blockers
        .into_iter()
        .for_each(|blocker| blocker.join().expect("no panic"));
    drop(other);
    handle.drain();
    end(running);
}

#[test]
fn several_addresses_and_a_runtime_of_the_program() {
    let runtime = Runtime::new().expect("a runtime");
    let server = server().and_bind("127.0.0.1:0").expect("bind");
    let addresses = server.local_addrs();
    assert_eq!((addresses.len(), addresses[0]), (2, server.local_addr()));
    let handle = server.handle();
    let draining = handle.clone();
    let clients = thread::spawn(move || {
        for address in addresses {
            for _ in 0..5 {
                let mut client = StdStream::connect(address).expect("connect");
                client.set_read_timeout(Some(LONG)).expect("a socket");
                echo_once(&mut client, b"both").expect("echo");
            }
        }
        draining.drain();
    });
    let report = server.serve_on(&runtime, echo).expect("serves");
    assert_eq!(report.stats.accepted, 10);
    clients.join().expect("no panic");
    // The runtime is still good.
    assert_eq!(
        runtime.block_on(runtime.spawn(async { 1 })).expect("ends"),
        1
    );
}

#[test]
fn connections_come_and_go_in_parallel() {
    let (handle, running) = start_echo(server());
    let failures = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (handle, failures) = (handle.clone(), failures.clone());
            thread::spawn(move || {
                for round in 0..250 {
                    let mut client = connect(&handle);
                    let result = echo_once(&mut client, b"hello");
                    if result.is_err() {
                        failures.fetch_add(1, SeqCst);
                    }
                    if (round + number) % 3 == 0 {
                        // In the middle of a message that nobody will receive.
                        let _ = client.write_all(&[0; 5000]);
                        reset(client);
                    }
                }
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().expect("no panic"));
    assert_eq!(failures.load(SeqCst), 0);
    wait_until("all have left", || handle.stats().active == 0);
    assert_eq!(handle.stats().accepted, 2000);
    handle.drain();
    end(running);
}

#[test]
fn public_types_cross_threads() {
    fn both<T: Send + Sync>() {}
    both::<Server>();
    both::<ServerHandle>();
    both::<Connection>();
    both::<Stats>();
    both::<Report>();
}
