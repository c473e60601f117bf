//! However many lanes a driver has: whoever serves them leaves none out.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[cfg(target_os = "linux")]
use landfall::port::CompletionKind;
use landfall::port::{Association, CompletionPort, Handle, Operation};

use crate::support::{
    PATIENCE, Variant, assert_quiet, compute_until, connected, eventually, for_each_driver,
    for_each_driver_alone, next, pair, past_the_port, post,
};
use crate::threads::Worker;

/// A port with so many lanes, where the driver has any.
fn port(driver: &Variant, concurrency: usize, lanes: usize) -> CompletionPort {
    driver
        .builder(concurrency)
        .lanes(lanes)
        .build()
        .expect("the driver can be set up")
}

/// One connection in each lane, with the lane's number for a key.
fn one_in_each(port: &CompletionPort, lanes: usize) -> Vec<(Handle, TcpStream)> {
    (0..lanes).map(|key| connected(port, key)).collect()
}

#[test]
fn a_lane_that_nobody_is_at_home_in_does_not_starve_behind_another() {
    for_each_driver(|driver| {
        for (busy, quiet) in [(1, 2), (2, 1)] {
            const BYTES: usize = 2_000;
            let port = port(driver, 1, 3);
            // Makes this thread, the only one, at home in the first lane.
            assert_quiet(&port);
            let mut connections = one_in_each(&port, 3);
            let (has_more, source) = &mut connections[busy];
            let has_more = has_more.clone();
            source.write_all(&[0; BYTES]).expect("it is connected");
            let receive = || Operation::Receive(Vec::with_capacity(1));
            has_more.submit(receive(), 0).expect("submits");
            let (waits, peer) = &mut connections[quiet];
            waits.submit(receive(), 0).expect("submits");
            let mut taken = 0;
            while next(&port).key() != quiet {
                taken += 1;
                if taken == 1 {
                    peer.write_all(b"x").expect("it is connected");
                }
                assert!(taken < BYTES, "lane {quiet} waits behind lane {busy}");
                has_more.submit(receive(), 0).expect("submits");
            }
        }
    });
}

/// A get that does not wait finds what is there, even where another worker will come by soon.
#[test]
fn a_look_finds_what_is_there_in_the_lane_of_a_worker_in_its_handler() {
    for_each_driver_alone(|driver| {
        const ROUNDS: usize = 20;
        let port = port(driver, 2, 2);
        let goes_on = Arc::new(AtomicBool::new(false));
        let at_work = Arc::new(AtomicUsize::new(0));
        let other = {
            let (port, goes_on, at_work) = (port.clone(), goes_on.clone(), at_work.clone());
            Worker::start(move || {
                while port.get(None).is_ok() {
                    at_work.fetch_add(1, Ordering::AcqRel);
                    compute_until(&goes_on);
                    goes_on.store(false, Ordering::Release);
                }
            })
        };
        other.wait_until_asleep();
        // Makes this thread at home in the lane that the other left.
        assert_quiet(&port);
        let mut connections = one_in_each(&port, 2);
        let mut missed = 0;
        for round in 0..ROUNDS {
            let (connection, peer) = &mut connections[round % 2];
            peer.write_all(b"x").expect("it is connected");
            past_the_port(connection)
                .peek(&mut [0; 1])
                .expect("it arrives");
            post(&port, 0);
            eventually("the other is in its handler", || {
                at_work.load(Ordering::Acquire) == round + 1
            });
            connection
                .submit(Operation::ReceiveOnce, 1)
                .expect("submits");
            let found = port.get(Some(Duration::ZERO));
            missed += usize::from(found.is_err());
            let found = found.or_else(|_| port.get(Some(PATIENCE)));
            goes_on.store(true, Ordering::Release);
            let found = found.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(found.token(), 1);
            eventually("the other is back", || !goes_on.load(Ordering::Acquire));
        }
        // The port's own thread may be handing it over at that very moment.
        assert!(
            missed <= ROUNDS / 4,
            "{missed} looks of {ROUNDS} found nothing"
        );
        port.close();
        other.join();
    });
}

/// On Windows the system chooses among the waiters.
#[cfg(unix)]
#[test]
fn a_worker_parked_for_want_of_a_permit_serves_again_when_a_lane_has_no_worker() {
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    fn serve(port: &CompletionPort, served: &Mutex<HashSet<ThreadId>>) {
        while port.get(None).is_ok() {
            let mut served = served.lock().expect("not poisoned");
            served.insert(thread::current().id());
        }
    }

    /// A worker that finds a packet, and then computes until told to stop.
    fn computing(
        port: &CompletionPort,
        then: impl FnOnce(&CompletionPort) + Send + 'static,
    ) -> (Worker<()>, Arc<AtomicBool>) {
        let stop = Arc::new(AtomicBool::new(false));
        let at_work = Arc::new(AtomicBool::new(false));
        let worker = {
            let (port, stop, at_work) = (port.clone(), stop.clone(), at_work.clone());
            post(&port, 0);
            Worker::start(move || {
                next(&port);
                at_work.store(true, Ordering::Release);
                compute_until(&stop);
                then(&port);
            })
        };
        eventually("it is at work", || at_work.load(Ordering::Acquire));
        (worker, stop)
    }

    for_each_driver_alone(|driver| {
        let port = port(driver, 2, 2);
        let mut connections = one_in_each(&port, 2);
        for (connection, _) in &connections {
            connection
                .submit(Operation::ReceiveStream, 0)
                .expect("submits");
        }
        let served = Arc::new(Mutex::new(HashSet::new()));
        let (first, stop_first) = computing(&port, {
            let served = served.clone();
            move |port| serve(port, &served)
        });
        let (second, stop_second) = computing(&port, |_| {});
        let parked = {
            let (port, served) = (port.clone(), served.clone());
            Worker::start(move || serve(&port, &served))
        };
        parked.wait_until_asleep();
        stop_first.store(true, Ordering::Release);
        first.wait_until_asleep();
        stop_second.store(true, Ordering::Release);
        second.join();
        parked.wait_until_asleep();
        for (_, peer) in &mut connections {
            peer.write_all(b"x").expect("it is connected");
            first.wait_until_asleep();
            parked.wait_until_asleep();
        }
        port.close();
        first.join();
        parked.join();
        assert_eq!(served.lock().expect("not poisoned").len(), 2);
    });
}

/// A worker that comes back has its lane to itself: the one that looked after it meanwhile is not woken for
/// what arrives there.
#[cfg(target_os = "linux")]
#[test]
fn a_guest_leaves_the_lane_of_a_worker_that_is_back() {
    fn serve(port: &CompletionPort, stop: &Arc<AtomicBool>) -> (Worker<()>, Arc<AtomicUsize>) {
        let served = Arc::new(AtomicUsize::new(0));
        let (port, stop, count) = (port.clone(), stop.clone(), served.clone());
        let worker = Worker::start(move || {
            while let Ok(completion) = port.get(None) {
                match completion.kind() {
                    CompletionKind::Packet => compute_until(&stop),
                    _ => drop(count.fetch_add(1, Ordering::AcqRel)),
                }
            }
        });
        worker.wait_until_asleep();
        (worker, served)
    }

    for_each_driver_alone(|driver| {
        const ROUNDS: usize = 20;
        const ATTEMPTS: usize = 10;
        let port = port(driver, 2, 2);
        let mut connections = one_in_each(&port, 2);
        let stop = Arc::new(AtomicBool::new(false));
        let (guest, served_by_guest) = serve(&port, &stop);
        // At home in the second lane, and the first to get a packet.
        let (host, served_by_host) = serve(&port, &stop);
        let (connection, peer) = &mut connections[1];
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        host.wait_until_asleep();
        post(&port, 0);
        peer.write_all(b"x").expect("it is connected");
        eventually("the guest serves", || {
            served_by_guest.load(Ordering::Acquire) == 1
        });
        stop.store(true, Ordering::Release);
        host.wait_until_asleep();
        guest.wait_until_asleep();

        let served = || {
            let counts = [&served_by_host, &served_by_guest];
            counts
                .map(|count| count.load(Ordering::Acquire))
                .iter()
                .sum::<usize>()
        };
        let mut times_woken = || {
            let before = guest.times_slept().expect("the system counts");
            for _ in 0..ROUNDS {
                let already = served();
                peer.write_all(b"x").expect("it is connected");
                eventually("somebody serves", || served() == already + 1);
                host.wait_until_asleep();
            }
            guest.wait_until_asleep();
            guest.times_slept().expect("as before") - before
        };
        // The port may find a host that has lost its processor, and send for the guest: on a machine at
        // other work nearly each time. A guest that stays is woken each time there is.
        let woken: Vec<_> = (0..ATTEMPTS)
            .map(|_| times_woken())
            .take_while(|&woken| woken > ROUNDS as u64 / 2)
            .collect();
        assert!(
            woken.len() < ATTEMPTS,
            "the guest was woken so often for {ROUNDS} messages of the host at a time: {woken:?}"
        );
        port.close();
        host.join();
        guest.join();
    });
}

/// Lanes are a port's own.
#[test]
fn a_socket_is_put_beside_one_of_the_same_port() {
    for_each_driver(|driver| {
        let (one, other) = (port(driver, 1, 4), port(driver, 1, 1));
        let (first, _peer) = connected(&one, 0);
        let (ours, mut peer) = pair();
        let refused = other
            .associate_with(ours, Association::new(1).beside(&first))
            .expect_err("the ports are two");
        assert_eq!(refused.error.kind(), std::io::ErrorKind::InvalidInput);
        let beside = Association::new(1).beside(&first);
        let second = one.associate_with(refused.source, beside);
        let second = second.expect("it came back whole");
        peer.write_all(b"x").expect("it is connected");
        second.submit(Operation::ReceiveOnce, 2).expect("submits");
        assert_eq!(next(&one).token(), 2);
    });
}
