//! What a server listens on, which changes while it serves; and what its end waits for.

mod runtime_support;

use std::future::pending;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use landfall::net::TcpListener;
use landfall::port::{BufferPolicy, CompletionPort};
use landfall::runtime::{self, Runtime};
use landfall::server::{Connection, Report, Server, ServerHandle};
use runtime_support::*;

const LOOPBACK: &str = "127.0.0.1:0";

async fn echo(mut connection: Connection) -> io::Result<()> {
    while let Some(data) = connection.receive().await? {
        connection.send(data).await?;
    }
    Ok(())
}

/// Tells each client by which address it came, and then echoes.
async fn tell(mut connection: Connection) -> io::Result<()> {
    let by = connection.listener().to_string();
    connection.send(by + "\n").await?;
    echo(connection).await
}

/// A server on a thread of its own.
struct Running {
    handle: ServerHandle,
    thread: JoinHandle<io::Result<Report>>,
}

impl Running {
    fn new<F>(server: Server, handler: fn(Connection) -> F) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        Running {
            handle: server.handle(),
            thread: thread::spawn(move || server.serve(handler)),
        }
    }

    fn end(self) -> Report {
        self.handle.drain();
        self.join()
    }

    fn join(self) -> Report {
        wait_until("the server has ended", || self.thread.is_finished());
        self.thread.join().expect("no panic").expect("no error")
    }
}

fn server() -> Server {
    Server::new().drain_timeout(LONG)
}

fn connect(address: SocketAddr) -> StdStream {
    let stream = StdStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("a socket");
    stream
}

/// Connects to a server that tells, and returns what it told.
fn ask(address: SocketAddr) -> (StdStream, SocketAddr) {
    let mut client = connect(address);
    let mut told = String::new();
    let mut byte = [0];
    while client.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        told.push(char::from(byte[0]));
    }
    (client, told.parse().expect("an address"))
}

/// Waits for the end of a connection, be it a reset.
#[track_caller]
fn expect_end(client: &mut StdStream) {
    match client.read(&mut [0]).map_err(|error| error.kind()) {
        Ok(0) | Err(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => {}
        other => panic!("it goes on: {other:?}"),
    }
}

/// Whether nothing comes of a connection: refused, reset or closed.
fn is_shut_out(address: SocketAddr) -> bool {
    StdStream::connect(address).is_err()
}

#[test]
fn listeners_of_the_standard_library_are_served_together() {
    let listeners = [(); 2].map(|()| StdListener::bind(LOOPBACK).unwrap());
    let addresses = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap());
    let [first, second] = listeners;
    let server = Server::from_std(first).unwrap().and_std(second).unwrap();
    assert_eq!(server.local_addrs(), addresses);
    let running = Running::new(server, tell);
    for address in addresses {
        let mut client = StdStream::connect(address).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).unwrap();
        assert_eq!(told, format!("{address}\n"));
    }
    assert_eq!(running.end().stats.accepted, 2);
}

#[test]
fn a_server_without_listeners_gets_some_while_it_serves() {
    let running = Running::new(server(), tell);
    let handle = running.handle.clone();
    assert_eq!(handle.local_addrs(), []);
    let addresses: Vec<_> = (0..3)
        .map(|_| handle.bind(LOOPBACK).expect("a free port"))
        .collect();
    assert_eq!(handle.local_addrs(), addresses);
    assert_eq!(handle.local_addr(), addresses[0]);
    for address in &addresses {
        let (mut client, told) = ask(*address);
        assert_eq!(told, *address);
        echo_once(&mut client, b"hello").expect("echo");
    }
    let report = running.end();
    assert_eq!((report.stats.accepted, report.cut_off), (3, 0));
    assert_eq!(handle.local_addrs(), []);
    assert!(addresses.into_iter().all(is_shut_out));
}

#[test]
fn listeners_come_and_go_before_it_serves() {
    let server = server().and_bind(LOOPBACK).expect("a free port");
    let handle = server.handle();
    let added = handle.bind(LOOPBACK).expect("a free port");
    let removed = handle.bind(LOOPBACK).expect("a free port");
    assert!(handle.remove(removed));
    assert!(!handle.remove(removed), "it is gone already");
    StdListener::bind(removed).expect("free again at once");
    assert_eq!(server.local_addrs(), [server.local_addr(), added]);
    let running = Running::new(server, tell);
    assert_eq!(ask(added).1, added);
    assert_eq!(running.end().stats.accepted, 1);
}

#[test]
fn a_removed_listener_takes_nobody_in_and_keeps_whom_it_has() {
    let running = Running::new(server().and_bind(LOOPBACK).expect("a free port"), tell);
    let handle = running.handle.clone();
    let (mut other, first) = ask(handle.local_addr());
    let removed = handle.bind(LOOPBACK).expect("a free port");
    let (mut live, _) = ask(removed);
    assert!(handle.remove(removed));
    assert_eq!(handle.local_addrs(), [first]);
    wait_until("nobody is let in", || is_shut_out(removed));
    echo_once(&mut live, b"still here").expect("echo");
    echo_once(&mut other, b"here too").expect("echo");
    assert_eq!(ask(first).1, first);
    drop((live, other));
    assert_eq!(running.end().stats.accepted, 3);
}

#[test]
fn an_address_is_free_as_soon_as_its_listener_is_removed() {
    let running = Running::new(server(), tell);
    let handle = running.handle.clone();
    let address = handle.bind(LOOPBACK).expect("a free port");
    for _ in 0..50 {
        let client = ask(address);
        assert!(handle.remove(address));
        let is_free = || StdListener::bind(address).is_ok();
        match cfg!(target_os = "linux") {
            true => assert!(is_free() && is_shut_out(address)),
            false => wait_until("it is free", is_free),
        }
        handle.bind(address).expect("it is free");
        drop(client);
    }
    let (client, _) = ask(address);
    handle.drain();
    wait_until("it is free", || StdListener::bind(address).is_ok());
    drop(client);
    running.join();
}

// Windows has duplicates of a socket share what is associated with it.
#[cfg(unix)]
#[test]
fn a_listener_that_others_have_as_well_is_left_to_them() {
    let shared = StdListener::bind(LOOPBACK).expect("a free port");
    let own = shared.try_clone().expect("a descriptor");
    let running = Running::new(Server::from_std(own).expect("an address"), tell);
    let address = running.handle.local_addr();
    drop(ask(address));
    assert!(running.handle.remove(address));
    // An accept that was under way may take the first ones.
    wait_until("it has a client", || {
        drop(connect(address));
        shared.set_nonblocking(true).expect("a socket");
        shared.accept().is_ok()
    });
    running.end();
}

#[test]
fn whoever_adds_a_listener_is_told_what_is_wrong_with_it() {
    let taken = StdListener::bind(LOOPBACK).expect("a free port");
    let address = taken.local_addr().expect("an address");
    let server = server();
    let refusal = |handle: &ServerHandle| handle.bind(address).expect_err("refused").kind();
    let handle = server.handle();
    assert_eq!(refusal(&handle), ErrorKind::AddrInUse);
    let running = Running::new(server, echo);
    let free = handle.bind(LOOPBACK).expect("a free port");
    drop(connect(free));
    assert_eq!(refusal(&handle), ErrorKind::AddrInUse);
    running.end();
    drop(taken);
    assert_eq!(refusal(&handle), ErrorKind::NotConnected, "it has ended");
    StdListener::bind(address).expect("nobody listens");
}

#[test]
fn listeners_that_the_program_made_can_be_added() {
    let runtime = Runtime::new().expect("a runtime");
    run_on(&runtime, async {
        let server = server();
        let handle = server.handle();
        let before = TcpListener::bind(LOOPBACK).expect("a free port");
        let before = handle.add(before).expect("added");
        let serving = runtime::spawn(server.run(tell));
        let late = TcpListener::bind(LOOPBACK).expect("a free port");
        let late = handle.add(late).expect("added");
        for address in [before, late] {
            let (client, told) = ask(address);
            assert_eq!(told, address);
            drop(client);
        }
        handle.drain();
        let report = serving.await.expect("no panic").expect("no error");
        assert_eq!(report.stats.accepted, 2);
        let last = TcpListener::bind(LOOPBACK).expect("a free port");
        let refused = handle.add(last).expect_err("it has ended");
        assert_eq!(refused.kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn a_listener_of_another_runtime_is_refused() {
    let [runtime, other] = [(); 2].map(|()| Runtime::new().expect("a runtime"));
    let foreign = || run_on(&other, async { TcpListener::bind(LOOPBACK) }).expect("a free port");
    // Before it serves, that is not known.
    let failing = Server::bind(LOOPBACK).expect("a free port");
    let handle = failing.handle();
    let address = handle.local_addr();
    handle.add(foreign()).expect("added");
    let failed = failing.serve_on(&runtime, echo).expect_err("not its own");
    assert_eq!(failed.kind(), ErrorKind::InvalidInput);
    run_on(&other, handle.ended());
    wait_until("nobody is let in", || is_shut_out(address));

    let server = server();
    let handle = server.handle();
    let serving = runtime.spawn(server.run(tell));
    let address = handle.bind(LOOPBACK).expect("a free port");
    drop(ask(address));
    let refused = handle.add(foreign()).expect_err("not its own");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert_eq!(handle.local_addrs(), [address]);
    handle.drain();
    run_on(&runtime, serving)
        .expect("no panic")
        .expect("no error");
}

#[test]
fn tasks_run_on_the_runtime_that_the_server_serves_on() {
    let running = Running::new(server(), echo);
    let address = running.handle.bind(LOOPBACK).expect("a free port");
    let mut client = connect(address);
    echo_once(&mut client, b"it serves").expect("echo");
    // From outside of any runtime.
    running.handle.spawn(pending());
    running.handle.stop();
    assert_eq!(running.join().cut_off, 2);
}

#[test]
fn all_listeners_together_let_in_so_many_and_no_more() {
    const LIMIT: usize = 3;
    const LISTENERS: usize = 4;
    let running = Running::new(server().max_connections(LIMIT), tell);
    let handle = running.handle.clone();
    let addresses: Vec<_> = (0..LISTENERS)
        .map(|_| handle.bind(LOOPBACK).expect("a free port"))
        .collect();
    let clients: Vec<_> = (0..40)
        .flat_map(|_| &addresses)
        .map(|address| {
            let address = *address;
            thread::spawn(move || {
                let (mut client, told) = ask(address);
                assert_eq!(told, address);
                echo_once(&mut client, b"served").expect("echo");
            })
        })
        .collect();
    let mut most = 0;
    wait_until("all are served", || {
        most = most.max(handle.stats().active);
        clients.iter().all(JoinHandle::is_finished)
    });
    let count = clients.len() as u64;
    for client in clients {
        client.join().expect("served");
    }
    assert!(most <= LIMIT as u64, "{most} were open");
    assert_eq!(running.end().stats.accepted, count);
}

#[test]
fn how_many_are_let_in_can_change() {
    let running = Running::new(server().max_connections(0), tell);
    let handle = running.handle.clone();
    let address = handle.bind(LOOPBACK).expect("a free port");
    let waiting = [(); 3].map(|()| thread::spawn(move || ask(address)));
    handle.set_max_connections(2);
    wait_until("two are let in", || handle.stats().active == 2);
    handle.set_max_connections(1);
    assert_eq!(handle.stats().active, 2, "those that are in stay");
    handle.set_max_connections(3);
    let served = waiting.map(|client| client.join().expect("served"));
    assert_eq!(handle.stats().accepted, 3);
    drop(served);
    running.end();
}

#[test]
fn whoever_waits_for_room_at_a_listener_that_is_removed_is_refused() {
    let running = Running::new(server().max_connections(1), tell);
    let handle = running.handle.clone();
    let [kept, removed] = [(); 2].map(|()| handle.bind(LOOPBACK).expect("a free port"));
    let (served, _) = ask(kept);
    let mut refused: Vec<_> = (0..5).map(|_| connect(removed)).collect();
    let waiting = connect(kept);
    handle.remove(removed);
    refused.iter_mut().for_each(expect_end);
    // The one that waits at the other listener has the room when it comes.
    drop(served);
    let mut told = [0; 5];
    (&waiting).read_exact(&mut told).expect("served");
    assert_eq!(&told, b"127.0");
    drop(waiting);
    assert_eq!(running.end().stats.accepted, 2);
}

#[test]
fn a_drain_can_leave_connections_alone() {
    let running = Running::new(
        server()
            .and_bind(LOOPBACK)
            .expect("a free port")
            .drain_ends_receives(false),
        tell,
    );
    let handle = running.handle.clone();
    let (mut client, address) = ask(handle.local_addr());
    handle.drain();
    wait_until("nobody is let in", || is_shut_out(address));
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(10));
        echo_once(&mut client, b"as ever").expect("echo");
    }
    assert!(!running.thread.is_finished());
    drop(client);
    let report = running.join();
    assert_eq!((report.cut_off, report.stats.failed), (0, 0));
}

#[test]
fn what_a_drain_left_alone_is_cut_in_the_end() {
    let server = server()
        .and_bind(LOOPBACK)
        .expect("a free port")
        .drain_ends_receives(false)
        .drain_timeout(Duration::from_millis(50));
    let running = Running::new(server, tell);
    let (mut client, _) = ask(running.handle.local_addr());
    assert_eq!(running.end().cut_off, 1);
    expect_end(&mut client);
}

/// Sets a flag when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn the_end_waits_for_tasks_and_cuts_them() {
    for patient in [true, false] {
        let runtime = Runtime::new().expect("a runtime");
        let time = match patient {
            true => LONG,
            false => Duration::from_millis(50),
        };
        run_on(&runtime, async {
            let server = Server::new().drain_timeout(time);
            let handle = server.handle();
            let serving = runtime::spawn(server.run(echo));
            let is_over = Arc::new(AtomicBool::new(false));
            let dropped = Dropped(is_over.clone());
            let (sender, receiver) = channel::<()>();
            handle.spawn(async move {
                let _dropped = dropped;
                match patient {
                    true => receiver.recv().unwrap_or(()),
                    false => pending().await,
                }
            });
            assert_eq!(handle.stats().tasks, 1);
            handle.drain();
            runtime::time::sleep(Duration::from_millis(10)).await;
            assert!(!serving.is_finished());
            drop(sender);
            let report = serving.await.expect("no panic").expect("no error");
            assert_eq!(report.cut_off, u64::from(!patient));
            handle.ended().await;
            assert!(is_over.load(SeqCst), "it is gone");
            assert_eq!(handle.stats().tasks, 0);
            // Nobody would wait for it any more.
            let late = Arc::new(AtomicBool::new(false));
            let dropped = Dropped(late.clone());
            handle.spawn(async move {
                let _dropped = dropped;
                pending().await
            });
            assert!(late.load(SeqCst));
        });
    }
}

#[test]
fn it_has_ended_when_handlers_that_were_cut_have_ended_too() {
    let runtime = Runtime::new().expect("a runtime");
    run_on(&runtime, async {
        let server = Server::bind(LOOPBACK).expect("a free port");
        let handle = server.handle();
        let (sender, receiver) = channel::<()>();
        let receiver = Mutex::new(receiver);
        let serving = runtime::spawn(server.run(move |connection| {
            // Blocks its thread until the test lets it go.
            let _ = receiver.lock().expect("no panic").recv();
            echo(connection)
        }));
        let mut ended = pin!(handle.ended());
        assert!(poll_once(&mut ended).await.is_pending(), "it serves");
        let client = connect(handle.local_addr());
        wait_until("it is served", || handle.stats().accepted == 1);
        handle.stop();
        let report = serving.await.expect("no panic").expect("no error");
        assert_eq!(report.cut_off, 1);
        assert!(poll_once(&mut ended).await.is_pending(), "it blocks");
        drop(sender);
        ended.await;
        assert_eq!(handle.stats().active, 0);
        drop(client);
    });
}

#[test]
fn a_server_whose_future_is_dropped_listens_no_more_and_cuts_what_it_has() {
    let runtime = Runtime::new().expect("a runtime");
    run_on(&runtime, async {
        let server = Server::bind(LOOPBACK).expect("a free port");
        let handle = server.handle();
        let mut serving = runtime::spawn(server.run(tell));
        let (mut client, address) = ask(handle.local_addr());
        handle.spawn(pending());
        serving.abort();
        assert!(serving.await.expect_err("aborted").is_cancelled());
        wait_until("nobody is let in", || is_shut_out(address));
        assert_eq!(
            handle.bind(LOOPBACK).expect_err("refused").kind(),
            ErrorKind::NotConnected
        );
        handle.ended().await;
        expect_end(&mut client);
        let stats = handle.stats();
        assert_eq!((stats.active, stats.tasks), (0, 0));
    });
}

#[test]
fn a_stream_that_a_handler_gave_away_ends_with_a_server_whose_future_is_dropped() {
    let runtime = Runtime::new().expect("a runtime");
    run_on(&runtime, async {
        let server = Server::bind(LOOPBACK).expect("a free port");
        let handle = server.handle();
        let mut serving = runtime::spawn(server.run(|connection| async {
            let mut stream = connection.into_stream();
            drop(runtime::spawn(async move {
                while let Ok(Some(data)) = stream.receive().await {
                    stream.send(data).await.expect("the client is there");
                }
            }));
            Ok(())
        }));
        let mut client = connect(handle.local_addr());
        echo_once(&mut client, b"given away").expect("echo");
        serving.abort();
        assert!(serving.await.expect_err("aborted").is_cancelled());
        handle.ended().await;
        assert_eq!(handle.stats().active, 0);
        expect_end(&mut client);
    });
}

/// Ends a server before it serves.
type End = fn(Server);

const UNSERVED: [(&str, End); 4] = [
    ("it is dropped", drop),
    ("its future is dropped", |server| drop(server.run(echo))),
    ("there is no runtime", |server| {
        let mut serving = pin!(server.run(echo));
        let served = serving
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(served, Poll::Ready(Err(_))), "{served:?}");
    }),
    ("no runtime can be made", |server| {
        let none = BufferPolicy { size: 0, count: 0 };
        let port = CompletionPort::builder().buffers(none);
        let server = server.runtime(Runtime::builder().port(port));
        server.serve(echo).expect_err("no runtime");
    }),
];

#[test]
fn a_server_that_never_served_listens_no_more_and_has_ended() {
    for (way, end) in UNSERVED {
        let server = Server::bind(LOOPBACK).expect("a free port");
        let handle = server.handle();
        let address = handle.local_addr();
        let runtime = Runtime::new().expect("a runtime");
        run_on(&runtime, async { handle.spawn(pending()) });
        thread::spawn(move || end(server))
            .join()
            .expect("as it should");
        assert!(is_shut_out(address), "{way}");
        let refused = handle.bind(LOOPBACK).expect_err("it has ended");
        assert_eq!(refused.kind(), ErrorKind::NotConnected, "{way}");
        on_runtime(handle.ended());
    }
}

#[test]
fn listeners_come_and_go_under_load() {
    let running = Running::new(server().max_connections(8), tell);
    let handle = running.handle.clone();
    let steady = handle.bind(LOOPBACK).expect("a free port");
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let is_over = is_over.clone();
            thread::spawn(move || {
                let mut served = 0;
                while !is_over.load(SeqCst) {
                    let (mut client, told) = ask(steady);
                    assert_eq!(told, steady);
                    echo_once(&mut client, b"hello").expect("echo");
                    served += 1;
                }
                served
            })
        })
        .collect();
    let mut served = 0;
    for round in 0..200 {
        let address = handle.bind(LOOPBACK).expect("a free port");
        let mut early = connect(address);
        if round % 2 == 0 {
            let mut byte = [0];
            early.read_exact(&mut byte).expect("served");
        }
        assert!(handle.remove(address));
        // Served or refused, but not forgotten.
        early.write_all(b"!").unwrap_or(());
        early.shutdown(std::net::Shutdown::Write).unwrap_or(());
        served +=
            u64::from(read_to_end(&mut early).is_ok_and(|told| !told.is_empty()) || round % 2 == 0);
    }
    is_over.store(true, SeqCst);
    for client in clients {
        served += client.join().expect("all are served");
    }
    let stats = running.end().stats;
    // One that was served may have been reset with its answer on the way.
    assert!(stats.accepted >= served, "{served} of {stats:?}");
    assert_eq!((stats.active, stats.panicked), (0, 0));
}
