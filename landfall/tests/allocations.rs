//! Once warm, passing messages on allocates nothing, at the port and in the runtime; and what was
//! allocated for a connection is freed when it has ended.
#![allow(
    unsafe_code,
    reason = "allocations are counted by an allocator, which is an unsafe trait"
)]

mod runtime_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use landfall::buffer::Buffer;
use landfall::port::{Accept, Completion, CompletionKind, CompletionPort, Operation};
use landfall::runtime::{self, Runtime};
use landfall::server::{Connection, Server};
use runtime_support::{LONG, wait_until};

const CLIENTS: usize = 20;
const WARM_UP: usize = 20_000;
const MESSAGES: usize = 100_000;
const MESSAGE: [u8; 64] = [b'm'; 64];

/// What may happen to be allocated meanwhile that is not for messages: the table of a lock at the
/// first contention, a queue that grows. Common on a busy machine only; an idle one counts 0.
const OTHERS: usize = MESSAGES / 1000;

/// The system's allocator, which counts while it is told to.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Bytes that have been allocated and not freed, by all threads.
static LIVE: AtomicIsize = AtomicIsize::new(0);
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

thread_local! {
    /// Set in threads whose allocations are the test's own.
    static IS_EXEMPT: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above; the memory came from the system's allocator.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, SeqCst);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Counts an allocation, and the bytes it adds.
fn count(bytes: isize) {
    LIVE.fetch_add(bytes, SeqCst);
    if !IS_COUNTING.load(SeqCst) || IS_EXEMPT.get() {
        return;
    }
    if COUNT.fetch_add(1, SeqCst) == 0 {
        // A backtrace allocates.
        IS_EXEMPT.set(true);
        *FIRST.lock().expect("no panic") = Some(Backtrace::force_capture());
        IS_EXEMPT.set(false);
    }
}

/// One test at a time: they share the allocator.
static ALONE: Mutex<()> = Mutex::new(());

/// Echoes messages over connections to a server of this process, and checks that the server does
/// not allocate for them.
fn assert_echo_allocates_nothing(server: SocketAddr) {
    IS_EXEMPT.set(true);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(server)).collect();
    assert_allocates_nothing(|messages| exchange(&mut clients, messages));
}

/// Likewise with datagrams.
fn assert_echo_of_datagrams_allocates_nothing(server: SocketAddr) {
    IS_EXEMPT.set(true);
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect_datagrams(server)).collect();
    assert_allocates_nothing(|messages| exchange_datagrams(&clients, messages));
}

/// Has messages exchanged by this thread, and counts what all others allocate for them.
fn assert_allocates_nothing(mut exchange: impl FnMut(usize)) {
    exchange(WARM_UP);
    COUNT.store(0, SeqCst);
    IS_COUNTING.store(true, SeqCst);
    exchange(MESSAGES);
    IS_COUNTING.store(false, SeqCst);
    let (count, first) = (COUNT.load(SeqCst), FIRST.lock().expect("no panic").take());
    IS_EXEMPT.set(false);
    if let Some(first) = first {
        eprintln!("{count} allocations in {MESSAGES} messages, the first of them:\n{first}");
    }
    assert!(
        count <= OTHERS,
        "{count} allocations in {MESSAGES} messages"
    );
}

fn connect(server: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(server).expect("connect");
    client.set_nodelay(true).expect("a socket");
    client.set_read_timeout(Some(LONG)).expect("a socket");
    client
}

/// Every client sends a message before the first waits for its echo.
fn exchange(clients: &mut [TcpStream], messages: usize) {
    for _ in 0..messages / clients.len() {
        for client in &mut *clients {
            client.write_all(&MESSAGE).expect("write");
        }
        for client in &mut *clients {
            let mut echo = [0; MESSAGE.len()];
            client.read_exact(&mut echo).expect("an echo");
            assert_eq!(echo, MESSAGE);
        }
    }
}

fn connect_datagrams(server: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.connect(server).expect("a socket");
    client.set_read_timeout(Some(LONG)).expect("a socket");
    client
}

/// As `exchange`.
fn exchange_datagrams(clients: &[UdpSocket], messages: usize) {
    for _ in 0..messages / clients.len() {
        for client in clients {
            client.send(&MESSAGE).expect("send");
        }
        for client in clients {
            let mut echo = [0; MESSAGE.len()];
            client.recv(&mut echo).expect("an echo");
            assert_eq!(echo, MESSAGE);
        }
    }
}

/// Runs an echo server of two workers on a port.
fn with_port(handle: fn(&CompletionPort, Completion)) {
    let _alone = ALONE.lock();
    let port = CompletionPort::new(0).expect("a port");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let listener = port.associate(listener, 0).expect("associate");
    listener
        .submit(Operation::Accept(Accept::stream()), 0)
        .expect("submit");
    let worker = || {
        let mut taken = Vec::with_capacity(8);
        while port.get_many(&mut taken, 8, None).is_ok() {
            taken
                .drain(..)
                .for_each(|completion| handle(&port, completion));
        }
    };
    thread::scope(|scope| {
        scope.spawn(worker);
        scope.spawn(worker);
        // A failed assertion must not leave the scope waiting for the workers.
        let passed = scope
            .spawn(|| assert_echo_allocates_nothing(address))
            .join();
        port.close();
        passed.expect("see above");
    });
}

fn submit_to_accepted(port: &CompletionPort, mut completion: Completion, first: Operation) {
    if let Some(accepted) = completion.take_accepted() {
        let connection = port.associate(accepted, 0).expect("associate");
        connection.submit(first, 0).expect("submit");
    }
}

#[test]
fn a_port_allocates_nothing_for_streams_of_pooled_buffers() {
    with_port(|port, mut completion| match completion.kind() {
        CompletionKind::Accept => submit_to_accepted(port, completion, Operation::ReceiveStream),
        CompletionKind::Receive if completion.bytes() > 0 => {
            let data = completion
                .take_buffer()
                .expect("a receive brings its buffer");
            let connection = completion.handle().expect("a receive has a handle");
            connection.submit(Operation::Send(data), 0).expect("submit");
        }
        _ => {}
    });
}

#[test]
fn a_port_allocates_nothing_for_buffers_of_the_programs_own() {
    with_port(|port, mut completion| match completion.kind() {
        CompletionKind::Accept => {
            submit_to_accepted(
                port,
                completion,
                Operation::Receive(Vec::with_capacity(1024)),
            );
        }
        CompletionKind::Receive if completion.bytes() > 0 => {
            let data = completion
                .take_buffer()
                .expect("a receive brings its buffer");
            let connection = completion.handle().expect("a receive has a handle");
            connection.submit(Operation::Send(data), 0).expect("submit");
        }
        CompletionKind::Send => {
            let mut vec = completion
                .take_buffer()
                .map(Buffer::into_vec)
                .expect("a send gives it back");
            vec.clear();
            let connection = completion.handle().expect("a send has a handle");
            connection
                .submit(Operation::Receive(vec), 0)
                .expect("submit");
        }
        _ => {}
    });
}

/// Runs a server with a handler on a runtime of its own.
fn with_server<F>(server: Server, handler: fn(Connection) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let _alone = ALONE.lock();
    let handle = server.handle();
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve(handler));
        let passed = scope
            .spawn(|| assert_echo_allocates_nothing(handle.local_addr()))
            .join();
        handle.stop();
        serving.join().expect("no panic").expect("no error");
        passed.expect("see above");
    });
}

fn server() -> Server {
    Server::bind("127.0.0.1:0").expect("bind")
}

async fn echo(mut connection: Connection) -> io::Result<()> {
    while let Some(data) = connection.receive().await? {
        connection.send(data).await?;
    }
    Ok(())
}

#[test]
fn the_runtime_allocates_nothing_for_pooled_buffers() {
    with_server(server(), echo);
}

#[test]
fn the_runtime_allocates_nothing_for_an_idle_timeout() {
    with_server(server().idle_timeout(Duration::from_secs(60)), echo);
}

#[test]
fn the_runtime_allocates_nothing_for_buffers_of_the_programs_own() {
    with_server(server(), |mut connection| async move {
        let mut vec = Vec::with_capacity(1024);
        loop {
            let (received, data) = connection.read(vec).await;
            if received? == 0 {
                return Ok(());
            }
            let (sent, data) = connection.send_owned(data).await;
            sent?;
            vec = data.into_vec();
            vec.clear();
        }
    });
}

#[test]
fn a_port_allocates_nothing_for_datagrams_and_their_senders() {
    let _alone = ALONE.lock();
    // As many lanes as workers: one that waits in several has a list of them.
    let port = CompletionPort::new(1).expect("a port");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let server = socket.local_addr().expect("an address");
    let socket = port.associate(socket, 0).expect("associate");
    let receive = |vec| {
        socket
            .submit(Operation::ReceiveFrom(vec), 0)
            .expect("submit");
    };
    receive(Vec::with_capacity(1024));
    thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(mut completion) = port.get(None) {
                let buffer = completion.take_buffer().expect("both bring it");
                if let Some(address) = completion.peer() {
                    let answer = Operation::SendTo { address, buffer };
                    socket.submit(answer, 0).expect("submit");
                } else {
                    let mut vec = buffer.into_vec();
                    vec.clear();
                    receive(vec);
                }
            }
        });
        let passed = scope
            .spawn(|| assert_echo_of_datagrams_allocates_nothing(server))
            .join();
        port.close();
        passed.expect("see above");
    });
}

#[test]
fn the_runtime_allocates_nothing_for_datagrams() {
    let _alone = ALONE.lock();
    let runtime = Runtime::new().expect("a runtime");
    let (server, echo) = runtime.block_on(async {
        let socket = landfall::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let server = socket.local_addr().expect("an address");
        let echo = runtime::spawn(async move {
            let mut vec = Vec::with_capacity(1024);
            loop {
                let (received, data) = socket.receive_from(vec).await;
                let (bytes, from) = received.expect("received");
                let (sent, data) = socket.send_to_owned(data, from).await;
                sent.expect("sent");
                if bytes == 0 {
                    return;
                }
                vec = data.into_vec();
                vec.clear();
            }
        });
        (server, echo)
    });
    let passed = thread::spawn(move || assert_echo_of_datagrams_allocates_nothing(server)).join();
    connect_datagrams(server).send(&[]).expect("send");
    runtime.block_on(echo).expect("no panic");
    passed.expect("see above");
}

#[test]
fn the_runtime_allocates_nothing_for_datagrams_of_sessions() {
    use landfall::net::{UdpSessions, UdpSocket};

    let _alone = ALONE.lock();
    let target = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let target_address = target.local_addr().expect("an address");
    let echo = thread::spawn(move || {
        IS_EXEMPT.set(true);
        let mut datagram = [0; MESSAGE.len()];
        while let Ok((1.., from)) = target.recv_from(&mut datagram) {
            target.send_to(&datagram, from).expect("send");
        }
    });
    let runtime = Runtime::new().expect("a runtime");
    let server = runtime.block_on(async {
        let sessions = UdpSessions::new(UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let server = sessions.socket().local_addr().expect("an address");
        drop(runtime::spawn(async move {
            let mut vec = Vec::with_capacity(1024);
            loop {
                vec.clear();
                let (received, datagram) = sessions.receive(vec).await;
                let received = received.expect("received");
                let upstream = match received.session {
                    Some(upstream) => upstream,
                    None => {
                        let upstream = UdpSocket::bind("127.0.0.1:0").expect("bind");
                        upstream.connect(target_address).await.expect("connect");
                        let opened = sessions.open(received.peer, upstream);
                        let mut session = opened.expect("there is room");
                        let upstream = session.value().clone();
                        let answers = upstream.clone();
                        drop(runtime::spawn(async move {
                            while let Ok(Some(_)) = session.forward(&answers).await {}
                        }));
                        upstream
                    }
                };
                let (sent, datagram) = upstream.send_owned(datagram).await;
                sent.expect("sent");
                vec = datagram.into_vec();
            }
        }));
        server
    });
    let passed = thread::spawn(move || assert_echo_of_datagrams_allocates_nothing(server)).join();
    connect_datagrams(target_address).send(&[]).expect("send");
    echo.join().expect("no panic");
    passed.expect("see above");
}

/// Bytes that the tables of a port and of a runtime may have grown by, however many connections
/// there were: fewer than any of these can leave without being noticed.
const TABLES: isize = 64 * 1024;

#[test]
fn everything_allocated_for_a_connection_is_freed() {
    const CONNECTIONS: usize = 8_000;
    let _alone = ALONE.lock();
    let server = server();
    let handle = server.handle();
    let come_and_go = |count| {
        for number in 0..count {
            let mut client = connect(handle.local_addr());
            match number % 4 {
                0 => client.write_all(&MESSAGE).expect("write"),
                _ => exchange(std::slice::from_mut(&mut client), 1),
            }
        }
        wait_until("all have ended", || {
            handle.stats().active == 0 && handle.stats().accepted >= count as u64
        });
        LIVE.load(SeqCst)
    };
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve(echo));
        let grown = scope.spawn(|| {
            let before = come_and_go(CONNECTIONS / 4);
            come_and_go(CONNECTIONS) - before
        });
        let grown = grown.join();
        handle.stop();
        serving.join().expect("no panic").expect("no error");
        let grown = grown.expect("no panic");
        println!("{grown} bytes are left of {CONNECTIONS} connections");
        assert!(
            grown < TABLES,
            "{grown} bytes are left of {CONNECTIONS} connections"
        );
    });
}

#[test]
fn a_datagram_too_long_to_be_sent_leaves_nothing_behind() {
    const DATAGRAMS: usize = 2_000;
    let _alone = ALONE.lock();
    let port = CompletionPort::new(1).expect("a port");
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket
        .connect(peer.local_addr().expect("an address"))
        .expect("connect");
    let socket = port.associate(socket, 0).expect("associate");
    let mut data = Buffer::from(vec![0; 70_000]);
    let mut send = |count| {
        for _ in 0..count {
            let too_long = std::mem::take(&mut data);
            socket.submit(Operation::Send(too_long), 0).expect("submit");
            let mut failed = port.get(Some(LONG)).expect("a completion");
            failed.result().expect_err("too long for a datagram");
            data = failed.take_buffer().expect("a send gives it back");
        }
        LIVE.load(SeqCst)
    };
    let before = send(DATAGRAMS / 2);
    let grown = send(DATAGRAMS) - before;
    assert!(
        grown < TABLES,
        "{grown} bytes are left of {DATAGRAMS} datagrams"
    );
}
