//! Who is released, and how many run: statements 21 to 27.

use std::io::{Read, Write};
#[cfg(unix)]
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use landfall::port::{CompletionPort, GetError, Operation};

use crate::support::{
    PATIENCE, assert_quiet, compute_until, compute_until_running, connected, eventually,
    for_each_driver, for_each_driver_alone, next, packet, pair, post,
};
use crate::threads::{Worker, own_times_slept};

/// A time in which whatever the port would do wrongly has happened.
const A_WHILE: Duration = Duration::from_millis(40);

/// Whether so many threads run, where the port tells: Windows' kernel leaves out those that are
/// blocked, but does not say how many are left.
fn runs(port: &CompletionPort, count: usize) -> bool {
    cfg!(windows) || port.running() == count
}

/// A thread that takes one completion and ends.
fn waiter(port: &CompletionPort) -> Worker<usize> {
    let port = port.clone();
    let waiter = Worker::start(move || port.get(Some(PATIENCE)).expect("a packet").token());
    waiter.wait_until_asleep();
    waiter
}

/// A thread that takes one completion and then computes until told to stop.
struct Computing {
    worker: Worker<()>,
    stop: Arc<AtomicBool>,
    at_work: Arc<AtomicBool>,
}

impl Computing {
    /// Starts it waiting.
    fn start(port: &CompletionPort) -> Self {
        Self::start_around(port, |_| {}, |_| {})
    }

    /// As `start`; when it has its completion, it does something before it computes.
    fn start_with(
        port: &CompletionPort,
        before: impl FnOnce(&CompletionPort) + Send + 'static,
    ) -> Self {
        Self::start_around(port, before, |_| {})
    }

    /// As `start`; when told to stop, it does something else.
    fn start_then(
        port: &CompletionPort,
        then: impl FnOnce(&CompletionPort) + Send + 'static,
    ) -> Self {
        Self::start_around(port, |_| {}, then)
    }

    fn start_around(
        port: &CompletionPort,
        before: impl FnOnce(&CompletionPort) + Send + 'static,
        then: impl FnOnce(&CompletionPort) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let at_work = Arc::new(AtomicBool::new(false));
        let worker = {
            let (port, stop, at_work) = (port.clone(), stop.clone(), at_work.clone());
            Worker::start(move || {
                next(&port);
                before(&port);
                at_work.store(true, Ordering::Release);
                compute_until(&stop);
                then(&port);
            })
        };
        worker.wait_until_asleep();
        Computing {
            worker,
            stop,
            at_work,
        }
    }

    fn wait_until_at_work(&self) {
        eventually("the worker has its packet", || {
            self.at_work.load(Ordering::Acquire)
        });
    }

    fn stop(self) {
        self.tell_to_stop().join();
    }

    fn tell_to_stop(self) -> Worker<()> {
        self.stop.store(true, Ordering::Release);
        self.worker
    }
}

#[test]
fn c21_waiters_are_released_last_in_first_out() {
    for_each_driver_alone(|driver| {
        let port = driver.port(4);
        let a = waiter(&port);
        let b = waiter(&port);
        (3..6).for_each(|token| post(&port, token));
        assert_eq!(
            b.join(),
            3,
            "the one that began to wait last takes the oldest packet"
        );
        assert_eq!(a.join(), 4);
        assert_eq!(next(&port).token(), 5, "the next caller takes what is left");
        assert_quiet(&port);
    });
}

#[test]
fn c21_last_in_first_out_holds_among_many_waiters() {
    for_each_driver_alone(|driver| {
        let port = driver.port(6);
        // They stay until all have theirs: one that ends makes the others look for its place.
        let all = Arc::new(Barrier::new(6));
        let waiters: Vec<_> = (0..6)
            .map(|_| {
                let (port, all) = (port.clone(), all.clone());
                let waiter = Worker::start(move || {
                    let token = next(&port).token();
                    all.wait();
                    token
                });
                waiter.wait_until_asleep();
                waiter
            })
            .collect();
        (0..6).for_each(|token| post(&port, token));
        let taken: Vec<_> = waiters.into_iter().map(Worker::join).collect();
        assert_eq!(taken, [5, 4, 3, 2, 1, 0]);
    });
}

/// A packet each as soon as the last one was handled: the same warm thread takes all of them.
#[test]
fn c21_a_packet_at_a_time_keeps_one_thread_warm() {
    for_each_driver_alone(|driver| {
        const PACKETS: usize = 200;
        let port = driver.port(4);
        let (tell, told) = mpsc::channel();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (port, tell) = (port.clone(), tell.clone());
                Worker::start(move || {
                    while port.get(None).is_ok() {
                        tell.send(thread::current().id()).expect("the test listens");
                    }
                })
            })
            .collect();
        workers.iter().for_each(Worker::wait_until_asleep);
        let mut changes = 0;
        let mut last = None;
        for token in 0..PACKETS {
            post(&port, token);
            let now = told.recv_timeout(PATIENCE).expect("the packet was taken");
            changes += usize::from(last.replace(now).is_some_and(|last| last != now));
            // Until it waits again another one is rightly the newest waiter.
            eventually("the worker is back", || port.running() == 0);
        }
        port.close();
        workers.into_iter().for_each(Worker::join);
        assert!(
            changes <= PACKETS / 20,
            "{changes} changes of thread in {PACKETS} packets"
        );
    });
}

#[test]
fn c22_a_thread_that_finds_a_backlog_never_blocks_and_shares_nothing() {
    for_each_driver_alone(|driver| {
        const BACKLOG: usize = 5_000;
        let port = driver.port(1);
        let other = {
            let port = port.clone();
            Worker::start(move || port.get(None).map(|packet| packet.token()))
        };
        other.wait_until_asleep();
        let drainer = {
            let port = port.clone();
            Worker::start(move || {
                next(&port);
                (0..BACKLOG).for_each(|token| post(&port, token));
                let before = own_times_slept();
                for token in 0..BACKLOG {
                    let packet = port
                        .get(Some(Duration::ZERO))
                        .expect("the queue is not empty");
                    assert_eq!(packet.token(), token);
                }
                let after = own_times_slept();
                after.zip(before).map(|(after, before)| after - before)
            })
        };
        drainer.wait_until_asleep();
        post(&port, BACKLOG);
        let slept = drainer.join();
        // Now and then for a lock that the port's own thread holds.
        assert!(
            slept.is_none_or(|slept| slept <= BACKLOG as u64 / 100),
            "slept {slept:?} times over a queue that was never empty"
        );
        assert!(
            !other.is_finished(),
            "nothing was left for the other waiter"
        );
        port.close();
        assert_eq!(other.join(), Err(GetError::Abandoned));
    });
}

#[test]
fn c23_no_waiter_is_woken_while_the_value_is_running() {
    for_each_driver_alone(|driver| {
        let port = driver.port(1);
        let idle = waiter(&port);
        let busy = Computing::start(&port);
        post(&port, 0);
        busy.wait_until_at_work();
        idle.wait_until_asleep();

        let before = idle.times_slept();
        (1..4).for_each(|token| post(&port, token));
        assert_eq!(
            port.get(Some(A_WHILE)).expect_err("withheld"),
            GetError::TimedOut
        );
        assert!(
            !idle.is_finished(),
            "a packet went past the concurrency value"
        );
        assert_eq!(
            idle.times_slept(),
            before,
            "woken for a packet that it may not take"
        );

        busy.stop();
        assert_eq!(idle.join(), 1, "released when the running thread left");
        assert_eq!((next(&port).token(), next(&port).token()), (2, 3));
    });
}

#[test]
fn c23_a_timer_is_withheld_as_a_packet_is() {
    for_each_driver_alone(|driver| {
        let port = driver.port(1);
        let busy = Computing::start(&port);
        post(&port, 0);
        busy.wait_until_at_work();
        port.timer(Instant::now(), 0, 1).expect("the port is open");
        assert_eq!(
            port.get(Some(A_WHILE)).expect_err("withheld"),
            GetError::TimedOut
        );
        busy.stop();
        assert_eq!(next(&port).token(), 1);
    });
}

#[test]
fn c23_what_a_socket_completes_is_withheld_as_a_packet_is() {
    for_each_driver_alone(|driver| {
        let port = driver.port(1);
        let connections: Vec<_> = (0..4).map(|key| connected(&port, key)).collect();
        for (connection, _) in &connections {
            connection
                .submit(Operation::ReceiveOnce, 9)
                .expect("submits");
        }
        let idle = waiter(&port);
        let busy = Computing::start(&port);
        post(&port, 0);
        busy.wait_until_at_work();
        for (_, peer) in &connections {
            let mut peer = peer;
            peer.write_all(b"data").expect("the connection is open");
        }
        thread::sleep(A_WHILE);
        assert!(
            !idle.is_finished(),
            "a completion went past the concurrency value"
        );
        busy.stop();
        assert_eq!(idle.join(), 9);
        (1..4).for_each(|_| assert_eq!(next(&port).token(), 9));
    });
}

#[test]
fn c23_the_running_thread_takes_the_backlog_itself() {
    for_each_driver_alone(|driver| {
        let port = driver.port(1);
        let idle = waiter(&port);
        let busy = Computing::start_then(&port, |port| {
            assert_eq!(next(port).token(), 1, "it never gave its place up");
        });
        post(&port, 0);
        busy.wait_until_at_work();
        post(&port, 1);
        busy.stop();
        post(&port, 2);
        assert_eq!(idle.join(), 2);
    });
}

/// Lets a worker block in the given way with value 1, and checks that another one takes its place
/// and that what the blocked one submitted and what arrives meanwhile is not held up.
fn covers_one_that(
    port: CompletionPort,
    block: impl FnOnce() + Send + 'static,
    unblock: impl FnOnce(),
) {
    let (connection, mut peer) = connected(&port, 1);
    let spare = waiter(&port);
    let go_on = Arc::new(AtomicBool::new(false));
    let blocked = {
        let (port, connection, went_on) = (port.clone(), connection.clone(), go_on.clone());
        Worker::start(move || {
            next(&port);
            connection
                .submit(Operation::Send("on its way".into()), 20)
                .expect("submits");
            connection
                .submit(Operation::ReceiveOnce, 21)
                .expect("submits");
            block();
            went_on.store(true, Ordering::Release);
        })
    };
    blocked.wait_until_asleep();
    post(&port, 10);
    let mut text = [0; 10];
    peer.read_exact(&mut text)
        .expect("what the blocked worker sent arrives");
    assert_eq!(&text, b"on its way");
    assert_eq!(spare.join(), 20, "its send completes with another worker");
    post(&port, 11);
    assert_eq!(next(&port).token(), 11, "packets go on");
    peer.write_all(b"answer").expect("the connection is open");
    assert_eq!(
        next(&port).token(),
        21,
        "its receive completes with another worker"
    );
    assert!(
        !go_on.load(Ordering::Acquire),
        "all of that while it was blocked"
    );
    unblock();
    blocked.join();
}

#[test]
fn c24_a_worker_that_sleeps_is_covered() {
    for_each_driver_alone(|driver| {
        covers_one_that(
            driver.port(1),
            || thread::sleep(Duration::from_millis(150)),
            || {},
        );
    });
}

#[test]
fn c24_a_worker_that_waits_for_a_lock_is_covered() {
    for_each_driver_alone(|driver| {
        let lock = Arc::new(Mutex::new(()));
        let held = lock.lock().expect("not poisoned");
        let wanted = lock.clone();
        covers_one_that(driver.port(1), move || drop(wanted.lock()), || drop(held));
    });
}

#[test]
fn c24_a_worker_that_reads_from_elsewhere_is_covered() {
    for_each_driver_alone(|driver| {
        let (mut reading, mut writing) = pair();
        covers_one_that(
            driver.port(1),
            move || reading.read_exact(&mut [0; 1]).expect("a byte comes"),
            move || writing.write_all(b"x").expect("the connection is open"),
        );
    });
}

#[cfg(unix)]
#[test]
fn c24_a_worker_that_reads_from_a_pipe_is_covered() {
    for_each_driver_alone(|driver| {
        let mut cat = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat can be started");
        let mut output = cat.stdout.take().expect("piped");
        let mut input = cat.stdin.take().expect("piped");
        covers_one_that(
            driver.port(1),
            move || output.read_exact(&mut [0; 1]).expect("a byte comes"),
            move || input.write_all(b"x").expect("cat reads"),
        );
        cat.wait().expect("cat ends with its input");
    });
}

#[test]
fn c24_a_worker_that_waits_for_a_channel_is_covered() {
    for_each_driver_alone(|driver| {
        let (sender, receiver) = mpsc::channel();
        covers_one_that(
            driver.port(1),
            move || receiver.recv().expect("something comes"),
            move || sender.send(()).expect("the worker waits for it"),
        );
    });
}

#[test]
fn c24_a_waiter_without_a_permit_goes_back_to_its_lane_when_one_comes_free() {
    for_each_driver_alone(|driver| {
        let port = driver.port(1);
        let (connection, mut peer) = connected(&port, 1);
        let waits_in_the_lane = {
            let port = port.clone();
            // Without a limit: it would find the completion when its time is over.
            Worker::start(move || port.get(None).expect("a completion").token())
        };
        waits_in_the_lane.wait_until_asleep();
        let (unblock, told) = mpsc::channel();
        let busy = Computing::start_then(&port, move |_| {
            told.recv().expect("the test unblocks it");
        });
        post(&port, 10);
        busy.wait_until_at_work();
        // Rouses the waiter, which finds nothing, and that it may not run.
        connection
            .submit(Operation::ReceiveOnce, 21)
            .expect("submits");
        waits_in_the_lane.wait_until_asleep();
        let blocked = busy.tell_to_stop();
        blocked.wait_until_asleep();
        // Only now, so that nothing but an event in the lane tells of it.
        eventually("the blocked one is not counted", || runs(&port, 0));
        peer.write_all(b"late").expect("the connection is open");
        assert_eq!(waits_in_the_lane.join(), 21);
        unblock.send(()).expect("it is blocked");
        blocked.join();
    });
}

#[test]
fn c24_sixteen_that_sleep_end_as_soon_as_one() {
    for_each_driver_alone(|driver| {
        const SLEEPERS: usize = 16;
        let port = driver.port(1);
        let left = Arc::new(AtomicUsize::new(SLEEPERS));
        let workers: Vec<_> = (0..SLEEPERS)
            .map(|_| {
                let (port, left) = (port.clone(), left.clone());
                Worker::start(move || {
                    while port.get(None).is_ok() {
                        thread::sleep(Duration::from_millis(100));
                        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                            port.close();
                        }
                    }
                })
            })
            .collect();
        workers.iter().for_each(Worker::wait_until_asleep);
        let start = Instant::now();
        (0..SLEEPERS).for_each(|token| post(&port, token));
        workers.into_iter().for_each(Worker::join);
        let taken = start.elapsed();
        assert!(taken < Duration::from_millis(300), "took {taken:?}");
    });
}

#[test]
fn c25_a_resumed_worker_exceeds_the_value_and_releases_are_withheld() {
    for_each_driver_alone(|driver| {
        let port = driver.port(1);
        let (wake, sleep) = mpsc::channel::<()>();
        let stop = Arc::new(AtomicBool::new(false));
        let resumed = {
            let (port, stop) = (port.clone(), stop.clone());
            Worker::start(move || {
                next(&port);
                let _ = sleep.recv();
                compute_until(&stop);
            })
        };
        resumed.wait_until_asleep();
        post(&port, 0);
        eventually("the blocked worker stops counting", || runs(&port, 0));

        let cover = Computing::start_then(&port, |port| {
            let withheld = port
                .get(Some(A_WHILE))
                .expect_err("the resumed worker computes");
            assert_eq!(withheld, GetError::TimedOut);
        });
        post(&port, 1);
        cover.wait_until_at_work();
        assert!(runs(&port, 1));

        drop(wake);
        eventually("the resumed worker counts again", || runs(&port, 2));
        post(&port, 2);
        cover.stop();
        assert_eq!(port.running(), 1, "back at the value");
        stop.store(true, Ordering::Release);
        resumed.join();
        assert_eq!(
            next(&port).token(),
            2,
            "released once the count is below the value"
        );
    });
}

#[test]
fn c26_a_thread_that_goes_to_another_port_leaves_the_first() {
    for_each_driver_alone(|driver| {
        let (first, second) = (driver.port(1), driver.port(1));
        let moving = {
            let second = second.clone();
            Computing::start_then(&first, move |first| {
                assert_eq!(next(&second).token(), 2);
                assert_eq!(next(&second).token(), 3);
                assert_eq!(next(first).token(), 4, "and it may come back");
            })
        };
        post(&first, 0);
        moving.wait_until_at_work();
        let waiting = waiter(&first);
        post(&first, 1);
        thread::sleep(A_WHILE);
        assert!(
            !waiting.is_finished(),
            "the moving thread still runs for the first port"
        );

        let moved = moving.tell_to_stop();
        post(&second, 2);
        assert_eq!(waiting.join(), 1, "its place at the first port is free");
        eventually("the first port has nobody left", || first.running() == 0);
        post(&second, 3);
        post(&first, 4);
        moved.join();
    });
}

#[test]
fn c26_a_thread_that_ends_leaves_its_port() {
    for_each_driver_alone(|driver| {
        let port = driver.port(1);
        let stop = Computing::start(&port);
        let waiting = {
            post(&port, 0);
            stop.wait_until_at_work();
            waiter(&port)
        };
        post(&port, 1);
        assert_eq!(port.running(), 1);
        stop.stop();
        assert_eq!(waiting.join(), 1);
        eventually("both threads have left", || port.running() == 0);
    });
}

#[test]
fn c26_closing_a_port_frees_its_threads_for_others() {
    for_each_driver(|driver| {
        let (first, second) = (driver.port(1), driver.port(1));
        post(&first, 0);
        next(&first);
        first.close();
        assert_eq!(first.get(None).expect_err("closed"), GetError::Closed);
        post(&second, 1);
        assert_eq!(next(&second).token(), 1);
        drop(first);
        compute_until_running(&second, 1);
    });
}

#[test]
fn c27_twice_the_value_of_workers_keep_it_running_when_half_of_them_block() {
    for_each_driver_alone(|driver| {
        let port = driver.port(2);
        let (wake, sleep) = mpsc::channel::<()>();
        let sleep = Arc::new(Mutex::new(sleep));
        let blocked: Vec<_> = (0..2)
            .map(|_| {
                let (port, sleep) = (port.clone(), sleep.clone());
                Worker::start(move || {
                    next(&port);
                    let _ = sleep.lock().map(|sleep| sleep.recv());
                })
            })
            .collect();
        blocked.iter().for_each(Worker::wait_until_asleep);
        (0..2).for_each(|token| post(&port, token));
        let computing: Vec<_> = (0..2).map(|_| Computing::start(&port)).collect();
        (2..4).for_each(|token| post(&port, token));
        computing.iter().for_each(Computing::wait_until_at_work);
        assert!(runs(&port, 2));
        drop(wake);
        blocked.into_iter().for_each(Worker::join);
        computing.into_iter().for_each(Computing::stop);
    });
}

/// How often the threads that look after ports have gone to sleep.
#[cfg(target_os = "linux")]
fn sleeps_of_watchers() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is mounted");
    // A thread may end meanwhile.
    let statuses = tasks.flatten().filter_map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        status
            .starts_with("Name:\tlandfall-watch\n")
            .then_some(status)
    });
    let field = "voluntary_ctxt_switches:\t";
    statuses
        .filter_map(|status| {
            let count = status.lines().find_map(|line| line.strip_prefix(field))?;
            count.parse::<u64>().ok()
        })
        .sum()
}

#[cfg(target_os = "linux")]
#[test]
fn a_port_with_nothing_to_do_wakes_nobody() {
    /// Between looks at threads at work, of which the longest is 100 ms (`IDLE` of `port/watcher.rs`).
    const LONGER_THAN_ANY_PAUSE: Duration = Duration::from_millis(350);
    for_each_driver_alone(|driver| {
        let port = driver.port(2);
        let worker = {
            let port = port.clone();
            Worker::start(move || while port.get(None).is_ok() {})
        };
        (0..10).for_each(|token| post(&port, token));
        worker.wait_until_asleep();
        eventually("the port's own thread sleeps through", || {
            let before = sleeps_of_watchers();
            thread::sleep(LONGER_THAN_ANY_PAUSE);
            before > 0 && before == sleeps_of_watchers()
        });
        port.close();
        worker.join();
    });
}

#[test]
fn a_packet_posted_for_later_is_taken_by_another_if_its_worker_does_not_come_back() {
    for_each_driver_alone(|driver| {
        let port = driver.port(2);
        let idle = waiter(&port);
        let computing = Computing::start_with(&port, |port| {
            port.post_later(packet(1)).expect("the port is open");
        });
        let start = Instant::now();
        post(&port, 0);
        assert_eq!(idle.join(), 1, "while the one that posted it computes");
        computing.stop();

        let idle = waiter(&port);
        let (wake, sleep) = mpsc::channel::<()>();
        let sleeping = {
            let port = port.clone();
            Worker::start(move || {
                next(&port);
                port.post_later(packet(3)).expect("the port is open");
                let _ = sleep.recv();
            })
        };
        sleeping.wait_until_asleep();
        post(&port, 2);
        assert_eq!(idle.join(), 3, "while the one that posted it is blocked");
        drop(wake);
        sleeping.join();
        // Not only when the time of whoever waits is over.
        assert!(start.elapsed() < PATIENCE / 2, "took {:?}", start.elapsed());
    });
}

#[test]
fn a_packet_posted_for_later_is_taken_by_its_worker_when_it_comes_back() {
    for_each_driver(|driver| {
        let port = driver.port(1);
        post(&port, 0);
        next(&port);
        for token in 1..100 {
            port.post_later(packet(token)).expect("the port is open");
            let own = port.get(Some(Duration::ZERO)).expect("it is there");
            assert_eq!(own.token(), token);
        }
        assert_quiet(&port);
    });
}

/// A packet posted behind another one is a backlog, for which another one is released.
#[test]
fn a_second_packet_posted_for_later_releases_another_worker() {
    for_each_driver_alone(|driver| {
        let port = driver.port(2);
        let idle = waiter(&port);
        let computing = Computing::start_with(&port, |port| {
            for token in 1..3 {
                port.post_later(packet(token)).expect("the port is open");
            }
        });
        post(&port, 0);
        assert_eq!(idle.join(), 1, "the oldest of the two");
        computing.stop();
        assert_eq!(next(&port).token(), 2);
    });
}

/// The first worker of a port, at home in one of its lanes, arms receives, takes another packet or
/// not, and computes. Meanwhile their data comes, and workers that came later must take it.
/// Returns the longest time that an echo took.
fn longest_echo_beside_a_computation(port: &CompletionPort, through_get: bool) -> Duration {
    const NEIGHBOURS: usize = 8;
    let connections: Vec<_> = (0..NEIGHBOURS).map(|key| connected(port, key)).collect();
    let handles: Vec<_> = connections
        .iter()
        .map(|(handle, _)| handle.clone())
        .collect();
    let computing = Computing::start_with(port, move |port| {
        for handle in handles {
            handle
                .submit(Operation::ReceiveOnce, ECHO)
                .expect("submits");
        }
        if through_get {
            next(port);
        }
    });
    (0..2).for_each(|token| post(port, token));
    computing.wait_until_at_work();
    let others: Vec<_> = (0..3).map(|_| echoing(port)).collect();
    let mut longest = Duration::ZERO;
    for (_, mut peer) in connections {
        let start = Instant::now();
        peer.write_all(b"ping").expect("the connection is open");
        peer.read_exact(&mut [0; 4])
            .expect("it is echoed while the neighbour computes");
        longest = longest.max(start.elapsed());
    }
    computing.stop();
    port.close();
    others.into_iter().for_each(Worker::join);
    longest
}

const ECHO: usize = 50;

/// A worker that sends back what a receive brings.
fn echoing(port: &CompletionPort) -> Worker<()> {
    let port = port.clone();
    let worker = Worker::start(move || {
        while let Ok(mut completion) = port.get(None) {
            if completion.token() != ECHO {
                continue;
            }
            let data = completion.take_buffer().expect("a receive brings a buffer");
            let handle = completion.handle().expect("a receive has a handle");
            handle.submit(Operation::Send(data), 0).expect("submits");
        }
    });
    worker.wait_until_asleep();
    worker
}

#[test]
fn a_worker_that_computes_does_not_hide_its_neighbours_completions() {
    for_each_driver_alone(|driver| {
        for through_get in [false, true] {
            let longest = longest_echo_beside_a_computation(&driver.port(2), through_get);
            // Hidden, it would not come at all: the neighbour computes until all have theirs.
            let limit = Duration::from_secs(2);
            assert!(
                longest < limit,
                "{longest:?} for an echo, through get: {through_get}"
            );
        }
    });
}
