//! UDP sockets on the runtime: what comes to whom, and what becomes of futures that are dropped.

mod runtime_support;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use landfall::net::{UdpSocket, is_too_long};
use landfall::runtime::time::sleep;
use landfall::runtime::{self, Runtime};
use runtime_support::*;

/// The most that a datagram of IPv4 can hold.
const MOST: usize = 65_507;

fn room() -> Vec<u8> {
    Vec::with_capacity(MOST)
}

fn bound() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// An ordinary socket.
fn peer() -> (StdSocket, SocketAddr) {
    let peer = StdSocket::bind("127.0.0.1:0").expect("bind");
    peer.set_read_timeout(Some(LONG)).expect("a socket");
    let address = peer.local_addr().expect("an address");
    (peer, address)
}

/// Where nothing listens (tcpmux), and no other test binds meanwhile.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[test]
fn datagrams_go_to_and_come_from_any_number_of_peers() {
    on_runtime(async {
        let (socket, address) = bound();
        let peers: Vec<_> = (0..5).map(|_| peer()).collect();
        for (number, (peer, from)) in peers.iter().enumerate() {
            let size = [0, 1, 1_400, 9_000, MOST][number];
            peer.send_to(&pattern(size), address).expect("sends");
            let (result, data) = socket.receive_from(room()).await;
            assert_eq!(result.expect("received"), (size, *from));
            assert!(data == pattern(size), "{size} bytes");
            let (result, back) = socket.send_to_owned(data, *from).await;
            result.expect("sent");
            assert!(back[..] == pattern(size), "the buffer comes back");
        }
        for (number, (peer, _)) in peers.iter().enumerate() {
            let size = [0, 1, 1_400, 9_000, MOST][number];
            let mut echo = vec![0; MOST + 1];
            assert_eq!(peer.recv_from(&mut echo).expect("comes"), (size, address));
            assert!(echo[..size] == pattern(size));
        }
    });
}

#[test]
fn ipv6_is_received_from_and_sent_to_likewise() {
    on_runtime(async {
        let Ok(socket) = UdpSocket::bind("[::1]:0") else {
            // There is no IPv6 here.
            return;
        };
        let client = UdpSocket::bind("[::1]:0").expect("bind");
        let address = socket.local_addr().expect("an address");
        client.send_to("a question", address).await.expect("sends");
        let (result, data) = socket.receive_from(room()).await;
        let (_, from) = result.expect("received");
        assert_eq!(from, client.local_addr().expect("an address"));
        socket.send_to(data, from).await.expect("sends");
        assert_eq!(client.receive(room()).await.1, b"a question");
    });
}

#[test]
fn a_connected_socket_hears_its_peer_alone_until_it_has_another() {
    on_runtime(async {
        let (socket, address) = bound();
        let unconnected = socket.peer_addr().expect_err("no peer");
        assert_eq!(unconnected.kind(), ErrorKind::NotConnected);
        socket.send("to whom?").await.expect_err("no peer");
        for (stranger, friend) in [(peer(), peer()), (peer(), peer())] {
            socket.connect(friend.1).await.expect("connects at once");
            assert_eq!(socket.peer_addr().expect("a peer"), friend.1);
            stranger.0.send_to(b"unheard", address).expect("sends");
            friend.0.send_to(b"heard", address).expect("sends");
            let (result, data) = socket.receive(room()).await;
            assert_eq!(result.expect("received"), 5);
            assert_eq!(data, b"heard");
            socket.send("an answer").await.expect("sends");
            let mut answer = [0; 20];
            assert_eq!(
                friend.0.recv_from(&mut answer).expect("comes"),
                (9, address)
            );
        }
    });
}

#[test]
fn a_vector_too_short_is_filled_and_the_error_says_so() {
    on_runtime(async {
        let (socket, address) = bound();
        let (peer, _) = peer();
        peer.send_to(b"longer than that", address).expect("sends");
        let mut vec = Vec::with_capacity(12);
        vec.extend_from_slice(b"it is ");
        let capacity = vec.capacity();
        let (result, vec) = socket.receive_from(vec).await;
        assert!(is_too_long(&result.expect_err("cut")));
        assert_eq!(vec, b"it is longer than that"[..capacity]);
        let (result, vec) = socket.receive(vec).await;
        assert_eq!(result.expect_err("no room").kind(), ErrorKind::InvalidInput);
        assert_eq!(vec.len(), capacity, "it comes back");
        let too_long = socket.send_to(vec![0; MOST + 1], address).await;
        assert!(is_too_long(&too_long.expect_err("no datagram is so long")));
        // It is usable as before.
        socket.send_to("to itself", address).await.expect("sends");
        assert_eq!(socket.receive(room()).await.1, b"to itself");
    });
}

#[test]
fn an_answer_that_nobody_is_there_leaves_the_socket_usable() {
    on_runtime(async {
        let (socket, address) = bound();
        let (peer, friend) = peer();
        // Of those sent to an address the system tells nothing.
        for _ in 0..3 {
            socket.send_to("lost", nobody()).await.expect("goes");
        }
        peer.send_to(b"data", address).expect("sends");
        assert_eq!(socket.receive(room()).await.1, b"data");
        socket.connect(nobody()).await.expect("connects at once");
        socket.send("lost").await.expect("goes");
        // Windows is told not to tell.
        if cfg!(unix) {
            let (result, vec) = socket.receive(room()).await;
            let error = result.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert_eq!(vec.capacity(), MOST, "the vector comes back");
        }
        socket.connect(friend).await.expect("connects at once");
        socket.send("found").await.expect("goes");
        assert_eq!(peer.recv(&mut [0; 10]).expect("comes"), 5);
        peer.send_to(b"more", address).expect("sends");
        assert_eq!(socket.receive(room()).await.1, b"more");
    });
}

#[test]
fn tasks_receive_and_send_by_one_socket_at_the_same_time() {
    const EACH: usize = 200;
    const TASKS: usize = 4;
    on_runtime(async {
        let (socket, address) = bound();
        let socket = Arc::new(socket);
        let echoes: Vec<_> = (0..TASKS)
            .map(|_| {
                let socket = socket.clone();
                runtime::spawn(async move {
                    let mut vec = room();
                    loop {
                        vec.clear();
                        let (result, data) = socket.receive_from(vec).await;
                        let (bytes, from) = result.expect("received");
                        if bytes == 0 {
                            return;
                        }
                        let (result, buffer) = socket.send_to_owned(data, from).await;
                        result.expect("sent");
                        vec = buffer.into_vec();
                    }
                })
            })
            .collect();
        let clients: Vec<_> = (0..TASKS)
            .map(|number| {
                runtime::spawn(async move {
                    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
                    client.connect(address).await.expect("connects");
                    for round in 0..EACH {
                        let text = format!("{number}:{round}");
                        client.send(text.clone()).await.expect("sends");
                        let (result, data) = client.receive(room()).await;
                        result.expect("received");
                        assert_eq!(data, text.as_bytes());
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("no panic");
        }
        let (last, _) = bound();
        for _ in 0..TASKS {
            last.send_to("", address).await.expect("sends");
        }
        for echo in echoes {
            echo.await.expect("no panic");
        }
    });
}

#[test]
fn a_receive_that_waits_does_not_keep_a_send_waiting() {
    on_runtime(async {
        let (socket, _) = bound();
        let (peer, friend) = peer();
        let mut waits = pin!(socket.receive_from(room()));
        assert!(poll_once(&mut waits).await.is_pending());
        socket.send_to("meanwhile", friend).await.expect("sends");
        assert_eq!(peer.recv(&mut [0; 20]).expect("comes"), 9);
        assert!(poll_once(&mut waits).await.is_pending());
    });
}

/// However the end of the future and the datagram meet, it goes to the next receive, once.
#[test]
fn a_datagram_of_a_dropped_receive_goes_to_the_next() {
    on_runtime(async {
        let (socket, address) = bound();
        let (peer, from) = peer();
        for round in 0..300_u32 {
            let mut dropped = Box::pin(socket.receive_from(room()));
            assert!(poll_once(&mut dropped).await.is_pending());
            peer.send_to(&round.to_be_bytes(), address).expect("sends");
            match round % 3 {
                // It may just come,
                0 => {}
                // has come, and its completion may have been taken,
                1 => sleep(Duration::from_micros(u64::from(round) * 5)).await,
                // or the future has been told.
                _ => sleep(Duration::from_millis(2)).await,
            }
            drop(dropped);
            if round % 2 == 0 {
                socket.readable().await.expect("it is there");
            }
            let (result, data) = socket.receive_from(room()).await;
            assert_eq!(result.expect("received"), (4, from), "in round {round}");
            assert_eq!(data, round.to_be_bytes());
        }
        let mut none = pin!(socket.receive_from(room()));
        assert!(poll_once(&mut none).await.is_pending());
        sleep(Duration::from_millis(2)).await;
        assert!(poll_once(&mut none).await.is_pending(), "each came once");
    });
}

#[test]
fn a_kept_datagram_fills_a_shorter_vector_as_any_other_does() {
    on_runtime(async {
        let (socket, address) = bound();
        let (peer, _) = peer();
        let mut dropped = Box::pin(socket.receive_from(room()));
        assert!(poll_once(&mut dropped).await.is_pending());
        peer.send_to(b"0123456789", address).expect("sends");
        sleep(Duration::from_millis(20)).await;
        drop(dropped);
        let (result, _) = socket.receive_from(Vec::new()).await;
        let refused = result.expect_err("no room at all");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let (result, data) = socket.receive_from(Vec::with_capacity(4)).await;
        assert!(is_too_long(&result.expect_err("cut")));
        assert_eq!(data, b"0123");
    });
}

#[test]
fn those_who_wait_for_their_turn_get_it_whoever_is_dropped() {
    on_runtime(async {
        let (socket, address) = bound();
        let (peer, _) = peer();
        let mut first = Box::pin(socket.receive(room()));
        let mut second = Box::pin(socket.receive(room()));
        let mut third = Box::pin(socket.receive(room()));
        for future in [&mut first, &mut second, &mut third] {
            assert!(poll_once(future).await.is_pending());
        }
        drop(first);
        drop(second);
        peer.send_to(b"for the third", address).expect("sends");
        assert_eq!(third.await.1, b"for the third");
    });
}

#[test]
fn a_wait_for_a_datagram_takes_nothing() {
    on_runtime(async {
        let (socket, address) = bound();
        let (peer, from) = peer();
        let mut waits = Box::pin(socket.readable());
        assert!(poll_once(&mut waits).await.is_pending());
        peer.send_to(b"data", address).expect("sends");
        waits.await.expect("it is there");
        socket.readable().await.expect("it still is");
        let (result, data) = socket.receive_from(room()).await;
        assert_eq!(result.expect("received"), (4, from));
        assert_eq!(data, b"data");
        let mut dropped = Box::pin(socket.readable());
        assert!(poll_once(&mut dropped).await.is_pending());
        drop(dropped);
        peer.send_to(b"more", address).expect("sends");
        assert_eq!(socket.receive(room()).await.1, b"more");
    });
}

#[test]
fn what_was_given_to_send_goes_though_the_futures_and_the_socket_are_dropped() {
    on_runtime(async {
        let (peer, to) = peer();
        let (socket, from) = bound();
        for number in 0..20_u8 {
            let mut send = Box::pin(socket.send_to(vec![number], to));
            if let Poll::Ready(result) = poll_once(&mut send).await {
                result.expect("sent");
            }
        }
        let unpolled = socket.send_to(vec![99], to);
        drop(unpolled);
        drop(socket);
        // Nothing here lets the worker go on meanwhile but this wait.
        sleep(Duration::from_millis(1)).await;
        for number in 0..20 {
            let mut data = [77; 2];
            assert_eq!(peer.recv_from(&mut data).expect("comes"), (1, from));
            assert_eq!(data[0], number);
        }
        peer.set_nonblocking(true).expect("a socket");
        let none = peer.recv(&mut [0]).expect_err("was not polled");
        assert_eq!(none.kind(), ErrorKind::WouldBlock);
        // The socket is closed: its address is free.
        wait_until_async(|| StdSocket::bind(from).is_ok()).await;
    });
}

async fn wait_until_async(mut condition: impl FnMut() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_socket_is_closed_when_dropped_with_a_receive_that_nobody_waits_for() {
    on_runtime(async {
        let (socket, address) = bound();
        let mut receive = Box::pin(socket.receive(room()));
        assert!(poll_once(&mut receive).await.is_pending());
        drop(receive);
        drop(socket);
        wait_until_async(|| StdSocket::bind(address).is_ok()).await;
    });
}

#[test]
fn more_sends_than_are_kept_wait_for_room_and_all_go() {
    on_runtime(async {
        let (socket, address) = bound();
        let socket = Arc::new(socket);
        socket.set_receive_buffer(1 << 20).await.expect("sets");
        socket.set_send_buffer(1 << 20).await.expect("sets");
        let tasks: Vec<_> = (0..200_u8)
            .map(|number| {
                let socket = socket.clone();
                runtime::spawn(async move { socket.send_to(vec![number; 1_000], address).await })
            })
            .collect();
        let mut seen = [false; 200];
        for _ in 0..seen.len() {
            let (result, data) = socket.receive(room()).await;
            assert_eq!(result.expect("received"), 1_000);
            assert!(!std::mem::replace(&mut seen[data[0] as usize], true));
        }
        for task in tasks {
            task.await.expect("no panic").expect("sent");
        }
    });
}

#[test]
fn a_runtime_that_is_dropped_ends_what_others_wait_for() {
    let runtime = Runtime::new().expect("a runtime");
    let socket = runtime.block_on(async { bound().0 });
    let other = Runtime::new().expect("a runtime");
    let waits = other.spawn(async move {
        let (result, _) = socket.receive_from(room()).await;
        let received = result.expect_err("nothing comes").kind();
        let (result, buffer) = socket.send_owned("back").await;
        assert_eq!(&buffer[..], b"back");
        (received, result.expect_err("gone").kind())
    });
    run_on(&other, async {
        sleep(Duration::from_millis(20)).await;
        drop(runtime);
        assert_eq!(
            waits.await.expect("no panic"),
            (ErrorKind::NotConnected, ErrorKind::NotConnected)
        );
    });
}

#[test]
fn a_socket_of_the_standard_library_keeps_its_options() {
    on_runtime(async {
        let (plain, address) = peer();
        plain.set_ttl(17).expect("sets");
        let socket = UdpSocket::from_std(plain).expect("in a runtime");
        assert_eq!(socket.local_addr().expect("an address"), address);
        socket.send_to("to itself", address).await.expect("sends");
        assert_eq!(socket.receive(room()).await.1, b"to itself");
    });
    let outside = UdpSocket::bind("127.0.0.1:0").expect_err("no runtime");
    assert!(outside.to_string().contains("runtime"), "{outside}");
}
