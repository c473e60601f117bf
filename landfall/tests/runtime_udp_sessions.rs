//! Sessions of a datagram socket: whose datagrams are whose, when they end, and how many there are.

mod runtime_support;

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall::net::{UdpSession, UdpSessions, UdpSocket};
use landfall::runtime;
use landfall::runtime::time::{sleep, timeout};
use runtime_support::*;

/// How long sessions are idle that are to end.
const IDLE: Duration = Duration::from_millis(100);

/// What nobody sends in a test.
const MOMENT: Duration = Duration::from_millis(20);

/// Sessions of a socket, and its address.
fn sessions<T>() -> (UdpSessions<T>, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("an address");
    (UdpSessions::new(socket), address)
}

/// An ordinary socket that sends to an address.
fn peer(address: SocketAddr) -> StdSocket {
    let peer = StdSocket::bind("127.0.0.1:0").expect("bind");
    peer.set_read_timeout(Some(LONG)).expect("a socket");
    peer.connect(address).expect("an address");
    peer
}

fn address_of(peer: &StdSocket) -> SocketAddr {
    peer.local_addr().expect("an address")
}

/// Receives a datagram: who has sent it, the value of its session, what it is.
async fn receive<T>(sessions: &UdpSessions<T>) -> (SocketAddr, Option<Arc<T>>, Vec<u8>) {
    let (received, datagram) = sessions.receive(Vec::with_capacity(2048)).await;
    let received = received.expect("received");
    assert_eq!(received.bytes, datagram.len());
    (received.peer, received.session, datagram)
}

/// A socket that sends to another one, which brings back what is answered.
async fn upstream(target: &StdSocket) -> UdpSocket {
    let upstream = UdpSocket::bind("127.0.0.1:0").expect("bind");
    upstream.connect(address_of(target)).await.expect("connect");
    upstream
}

fn open<T>(sessions: &UdpSessions<T>, peer: &StdSocket, value: T) -> UdpSession<T> {
    let opened = sessions.open(address_of(peer), value);
    opened.expect("there is room")
}

#[test]
fn datagrams_are_told_apart_by_who_sends_them() {
    on_runtime(async {
        let (sessions, address) = sessions();
        let peers: Vec<_> = (0..5).map(|_| peer(address)).collect();
        let mut opened = Vec::new();
        for (number, peer) in peers.iter().enumerate() {
            peer.send(b"first").expect("sends");
            let (from, session, datagram) = receive(&sessions).await;
            assert_eq!((from, &datagram[..]), (address_of(peer), &b"first"[..]));
            assert!(session.is_none(), "it is new");
            opened.push(open(&sessions, peer, number));
        }
        assert_eq!(sessions.count(), 5);
        for (number, peer) in peers.iter().enumerate().rev() {
            peer.send(&[]).expect("sends");
            let (from, session, datagram) = receive(&sessions).await;
            assert_eq!(
                (from, session.as_deref()),
                (address_of(peer), Some(&number))
            );
            assert!(datagram.is_empty());
            let (sent, buffer) = opened[number].send(format!("you are {number}")).await;
            sent.expect("sent");
            assert_eq!(*opened[number].value().as_ref(), number);
            assert_eq!(opened[number].peer(), from);
            let mut answer = [0; 64];
            let length = peer.recv(&mut answer).expect("comes");
            assert_eq!(answer[..length], buffer[..]);
        }
    });
}

#[test]
fn there_are_so_many_sessions_and_no_more() {
    on_runtime(async {
        let (sessions, address) = sessions();
        sessions.set_max_sessions(2);
        let peers: Vec<_> = (0..3).map(|_| peer(address)).collect();
        let first = open(&sessions, &peers[0], ());
        assert!(!sessions.is_full());
        assert!(sessions.open(first.peer(), ()).is_none(), "it has one");
        let second = open(&sessions, &peers[1], ());
        assert!(sessions.is_full());
        assert!(sessions.open(address_of(&peers[2]), ()).is_none());
        drop(first);
        let third = open(&sessions, &peers[2], ());
        sessions.set_max_sessions(1);
        assert_eq!(sessions.count(), 2, "those that are there stay");
        drop(second);
        assert!(sessions.is_full());
        drop(third);
        assert_eq!(sessions.count(), 0);
    });
}

#[test]
fn a_session_is_quiet_when_no_datagram_has_come_for_its_time() {
    on_runtime(async {
        let (sessions, address) = sessions();
        sessions.set_idle_timeout(IDLE);
        let client = peer(address);
        let mut session = open(&sessions, &client, ());
        // Is for those that are opened later.
        sessions.set_idle_timeout(LONG);
        let traffic = runtime::spawn({
            let sessions = sessions.clone();
            async move {
                let begin = Instant::now();
                let mut last = begin;
                while begin.elapsed() < 4 * IDLE {
                    let now = Instant::now();
                    client.send(b"here").expect("sends");
                    match receive(&sessions).await.1 {
                        Some(_) => last = now,
                        None => break,
                    }
                    sleep(MOMENT).await;
                }
                (client, last)
            }
        });
        session.quiet().await;
        let quiet = Instant::now();
        assert_eq!(sessions.count(), 0, "it is out");
        let (client, last) = traffic.await.expect("no panic");
        assert!(quiet - last >= IDLE, "after {:?}", quiet - last);
        client.send(b"again").expect("sends");
        assert!(receive(&sessions).await.1.is_none(), "it has none");
    });
}

#[test]
fn a_session_is_quiet_when_no_datagram_has_gone_for_its_time() {
    on_runtime(async {
        let (sessions, address) = sessions();
        sessions.set_idle_timeout(IDLE);
        let mut session = open(&sessions, &peer(address), ());
        let begin = Instant::now();
        let mut last = begin;
        while begin.elapsed() < 4 * IDLE {
            let now = Instant::now();
            session.send("there").await.0.expect("sent");
            if timeout(MOMENT, session.quiet()).await.is_ok() {
                break;
            }
            last = now;
        }
        if sessions.count() > 0 {
            session.quiet().await;
        }
        assert!(last.elapsed() >= IDLE, "after {:?}", last.elapsed());
    });
}

#[test]
fn answers_of_another_socket_are_forwarded_until_it_is_quiet() {
    on_runtime(async {
        let (sessions, address) = sessions();
        sessions.set_idle_timeout(IDLE);
        let (client, target) = (peer(address), peer(address));
        let upstream = upstream(&target).await;
        let answers = upstream.local_addr().expect("an address");
        let mut session = open(&sessions, &client, ());
        for size in [0, 1, 1_400, 65_507] {
            target.send_to(&pattern(size), answers).expect("sends");
            let forwarded = session.forward(&upstream).await;
            assert_eq!(forwarded.expect("received"), Some(size));
            let mut answer = vec![0; 65_508];
            assert_eq!(client.recv(&mut answer).expect("comes"), size);
            assert!(answer[..size] == pattern(size), "{size} bytes");
        }
        assert_eq!(session.forward(&upstream).await.expect("quiet"), None);
        assert_eq!(sessions.count(), 0);
    });
}

#[cfg(unix)]
#[test]
fn whoever_forwards_hears_that_the_other_side_is_not_there() {
    on_runtime(async {
        let (sessions, address) = sessions();
        let (client, target) = (peer(address), peer(address));
        let upstream = upstream(&target).await;
        drop(target);
        let mut session = open(&sessions, &client, ());
        upstream.send("anybody?").await.expect("sent");
        let error = session.forward(&upstream).await.expect_err("nobody");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_session_that_is_ended_is_quiet_at_once_and_takes_no_other_with_it() {
    on_runtime(async {
        let (sessions, address) = sessions();
        let (client, target) = (peer(address), peer(address));
        let upstream = upstream(&target).await;
        let answers = upstream.local_addr().expect("an address");
        let mut ended = open(&sessions, &client, "old");
        {
            let mut waits = pin!(ended.forward(&upstream));
            assert!(poll_once(&mut waits).await.is_pending());
            sessions.end(address_of(&client));
            assert_eq!(waits.await.expect("quiet"), None);
        }
        client.send(b"again").expect("sends");
        assert!(receive(&sessions).await.1.is_none(), "it has none");
        let _new = open(&sessions, &client, "new");
        target.send_to(b"late", answers).expect("sends");
        assert_eq!(ended.forward(&upstream).await.expect("quiet"), None);
        ended.quiet().await;
        drop(ended);
        client.send(b"again").expect("sends");
        assert_eq!(receive(&sessions).await.1.as_deref(), Some(&"new"));
    });
}

#[test]
fn a_drain_takes_nobody_in_and_waits_until_all_are_quiet() {
    on_runtime(async {
        let (sessions, address) = sessions();
        let (client, stranger) = (peer(address), peer(address));
        let mut session = open(&sessions, &client, ());
        let task = runtime::spawn(async move {
            session.quiet().await;
            session
        });
        let mut drained = pin!(sessions.drained());
        assert!(
            poll_once(&mut drained).await.is_pending(),
            "it does not drain"
        );
        // Let it wait for its minute.
        sleep(MOMENT).await;
        sessions.drain(IDLE);
        let begin = Instant::now();
        assert!(sessions.open(address_of(&stranger), ()).is_none());
        stranger.send(b"let me in").expect("sends");
        client.send(b"still here").expect("sends");
        let (from, session, datagram) = receive(&sessions).await;
        assert_eq!(
            (from, &datagram[..]),
            (address_of(&client), &b"still here"[..])
        );
        assert!(session.is_some());
        stranger.send(b"let me in").expect("sends");
        let received = pin!(receive(&sessions));
        assert!(timeout(MOMENT, received).await.is_err(), "it is nobody's");
        drained.await;
        assert!(begin.elapsed() >= IDLE, "after {:?}", begin.elapsed());
        drop(task.await.expect("no panic"));
        sessions.drained().await;
    });
}

#[test]
fn sessions_that_were_to_drain_can_go_on_taking_peers_in() {
    on_runtime(async {
        let (sessions, address) = sessions();
        let (client, stranger) = (peer(address), peer(address));
        let mut session = open(&sessions, &client, ());
        sessions.drain(Duration::MAX);
        let quiet = timeout(MOMENT, session.quiet());
        assert!(quiet.await.is_err(), "it lasts for its own idle time");
        assert!(sessions.open(address_of(&stranger), ()).is_none());
        sessions.resume();
        let other = open(&sessions, &stranger, ());
        assert_eq!(sessions.count(), 2);
        drop((session, other));
        let mut drained = pin!(sessions.drained());
        assert!(
            poll_once(&mut drained).await.is_pending(),
            "it drains no more"
        );
    });
}

#[test]
fn a_drain_of_no_session_is_over_at_once() {
    on_runtime(async {
        let (sessions, address) = sessions::<()>();
        let mut drained = pin!(sessions.drained());
        assert!(poll_once(&mut drained).await.is_pending());
        let session = open(&sessions, &peer(address), ());
        let waiting = runtime::spawn({
            let sessions = sessions.clone();
            async move { sessions.drained().await }
        });
        sessions.drain(LONG);
        assert!(poll_once(&mut drained).await.is_pending());
        drop(session);
        waiting.await.expect("no panic");
        drained.await;
    });
}

#[test]
fn public_types_cross_threads() {
    fn both<T: Send + Sync>() {}
    both::<UdpSessions<u8>>();
    both::<UdpSession<u8>>();
}
