//! Tasks: spawned, joined, aborted, panicking, dropped with their runtime; blocking handlers.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use landfall::runtime::time::{interval, sleep, sleep_until, timeout};
use landfall::runtime::{self, JoinHandle, Runtime, yield_now};

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

/// Sets a flag when dropped.
struct Flag(Arc<AtomicBool>);

impl Flag {
    fn new() -> (Self, Arc<AtomicBool>) {
        let set = Arc::new(AtomicBool::new(false));
        (Flag(set.clone()), set)
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn tasks_give_their_results() {
    let runtime = runtime();
    let sum = runtime.block_on(async {
        let tasks: Vec<_> = (0..1000)
            .map(|n| runtime::spawn(async move { n }))
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.expect("ends");
        }
        sum
    });
    assert_eq!(sum, 499_500);
}

#[test]
fn tasks_spawn_tasks_and_yield() {
    fn tree(depth: u32) -> JoinHandle<u32> {
        runtime::spawn(async move {
            yield_now().await;
            match depth {
                0 => 1,
                _ => {
                    let (left, right) = (tree(depth - 1), tree(depth - 1));
                    left.await.expect("ends") + right.await.expect("ends")
                }
            }
        })
    }
    let runtime = runtime();
    assert_eq!(
        runtime.block_on(async { tree(10).await }).expect("ends"),
        1024
    );
}

#[test]
fn a_task_is_never_run_by_two_workers_at_once() {
    let runtime = Runtime::builder()
        .concurrency(4)
        .workers(8)
        .build()
        .expect("a runtime");
    let inside = Arc::new(AtomicBool::new(false));
    let task = runtime.spawn({
        let inside = inside.clone();
        async move {
            let mut rounds = 0;
            poll_fn(move |cx| {
                assert!(!inside.swap(true, SeqCst), "two workers are in it");
                // Woken while it runs, from here and from elsewhere.
                cx.waker().wake_by_ref();
                let waker = cx.waker().clone();
                drop(runtime::spawn(async move { waker.wake() }));
                std::hint::black_box((0..1000).sum::<u64>());
                inside.store(false, SeqCst);
                rounds += 1;
                if rounds == 10_000 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    });
    runtime.block_on(task).expect("nobody panics");
}

#[test]
fn a_panic_is_a_join_error_and_the_worker_lives() {
    let runtime = Runtime::builder()
        .concurrency(1)
        .workers(1)
        .max_spares(0)
        .build()
        .expect("a runtime");
    for round in 0..50 {
        let panicking = runtime.spawn(async move {
            yield_now().await;
            panic!("round {round}");
        });
        let error = runtime.block_on(panicking).expect_err("it panics");
        assert!(error.is_panic() && !error.is_cancelled());
        assert_eq!(
            error.to_string(),
            format!("the task panicked: round {round}")
        );
        assert_eq!(
            *error
                .into_panic()
                .expect("it panicked")
                .downcast::<String>()
                .expect("text"),
            format!("round {round}")
        );
    }
    assert_eq!(
        runtime
            .block_on(runtime.spawn(async { 7 }))
            .expect("the only worker lives"),
        7
    );
}

#[test]
fn a_destructor_that_panics_harms_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let runtime = Runtime::builder()
        .concurrency(1)
        .workers(1)
        .max_spares(0)
        .build()
        .expect("a runtime");
    // Dropped at its end, when aborted, and with the runtime.
    let task = runtime.spawn(async {
        let _bomb = Bomb;
        yield_now().await;
    });
    assert!(runtime.block_on(task).expect_err("it panics").is_panic());
    let mut task = runtime.spawn(async {
        let _bomb = Bomb;
        pending::<()>().await;
    });
    runtime.block_on(yield_now());
    task.abort();
    assert!(
        runtime
            .block_on(task)
            .expect_err("it was aborted")
            .is_cancelled()
    );
    drop(runtime.spawn(async {
        let _bomb = Bomb;
        pending::<()>().await;
    }));
    assert_eq!(
        runtime
            .block_on(runtime.spawn(async { 7 }))
            .expect("the only worker lives"),
        7
    );
    drop(runtime);
}

#[test]
fn aborting_drops_the_task_where_it_waits() {
    let runtime = runtime();
    let (flag, dropped) = Flag::new();
    let mut task = runtime.spawn(async move {
        let _flag = flag;
        pending::<()>().await;
    });
    assert!(!task.is_finished());
    task.abort();
    let error = runtime.block_on(&mut task).expect_err("it was aborted");
    assert!(error.is_cancelled() && !error.is_panic());
    assert!(
        dropped.load(SeqCst),
        "the handle waits until the task has been dropped"
    );
    assert!(task.is_finished());
    assert!(error.into_panic().is_err());
}

#[test]
fn aborting_a_task_that_has_ended_gives_its_result() {
    let runtime = runtime();
    let mut task = runtime.spawn(async { 5 });
    while !task.is_finished() {
        thread::yield_now();
    }
    task.abort();
    assert_eq!(runtime.block_on(task).expect("it had ended"), 5);
}

#[test]
fn a_dropped_handle_detaches() {
    let runtime = runtime();
    let (send, receive) = mpsc::channel();
    drop(runtime.spawn(async move {
        sleep(Duration::from_millis(5)).await;
        send.send(1).expect("the test waits");
    }));
    assert_eq!(receive.recv_timeout(Duration::from_secs(10)), Ok(1));
}

#[test]
fn dropping_the_runtime_drops_every_task() {
    let runtime = runtime();
    let mut dropped = Vec::new();
    let (started, wait) = mpsc::channel();
    for kind in 0..300 {
        let (flag, set) = Flag::new();
        dropped.push(set);
        let started = started.clone();
        drop(runtime.spawn(async move {
            let _flag = flag;
            let _ = started.send(());
            match kind % 3 {
                0 => pending::<()>().await,
                1 => sleep(Duration::from_secs(3600)).await,
                _ => loop {
                    yield_now().await;
                },
            }
        }));
    }
    for _ in 0..300 {
        wait.recv_timeout(Duration::from_secs(10)).expect("starts");
    }
    drop(runtime);
    assert!(dropped.iter().all(|dropped| dropped.load(SeqCst)));
}

#[test]
fn a_task_woken_while_its_runtime_is_dropped_does_not_outlive_it() {
    const TASKS: usize = 64;
    for round in 0..100 {
        let runtime = runtime();
        let alive = Arc::new(());
        let wakers = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..TASKS {
            let (alive, wakers) = (alive.clone(), wakers.clone());
            let mut listed = false;
            let wait = std::future::poll_fn(move |cx| {
                let _ = &alive;
                if !std::mem::replace(&mut listed, true) {
                    wakers.lock().unwrap().push(cx.waker().clone());
                }
                Poll::<()>::Pending
            });
            drop(runtime.spawn(wait));
        }
        while wakers.lock().unwrap().len() < TASKS {
            thread::yield_now();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let waking = thread::spawn({
            let (wakers, stop) = (std::mem::take(&mut *wakers.lock().unwrap()), stop.clone());
            move || {
                while !stop.load(SeqCst) {
                    wakers.iter().for_each(Waker::wake_by_ref);
                }
            }
        });
        drop(runtime);
        stop.store(true, SeqCst);
        waking.join().expect("no panic");
        let left = Arc::strong_count(&alive) - 1;
        assert_eq!(left, 0, "tasks leaked in round {round}");
    }
}

#[test]
fn handles_of_a_dropped_runtime_say_cancelled() {
    let runtime = runtime();
    let waiting = runtime.spawn(pending::<()>());
    let other = self::runtime();
    drop(runtime);
    assert!(other.block_on(waiting).expect_err("dropped").is_cancelled());
}

#[test]
fn tasks_dropped_with_the_runtime_may_wake_and_spawn() {
    struct SpawnOnDrop(mpsc::Sender<()>);
    impl Drop for SpawnOnDrop {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let runtime = runtime();
    let (send, receive) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    let inner = runtime.spawn(pending::<()>());
    drop(runtime.spawn(async move {
        let _on_drop = SpawnOnDrop(send);
        begun.send(()).expect("the test waits for it");
        // Woken by the other's end, while everything ends.
        let _ = inner.await;
        pending::<()>().await;
    }));
    assert_eq!(has_begun.recv_timeout(Duration::from_secs(10)), Ok(()));
    drop(runtime);
    assert_eq!(receive.recv_timeout(Duration::from_secs(10)), Ok(()));
}

#[test]
fn a_worker_may_drop_its_own_runtime() {
    let runtime = Arc::new(runtime());
    let (send, receive) = mpsc::channel();
    let (flag, dropped) = Flag::new();
    drop(runtime.spawn(async move {
        let _flag = flag;
        pending::<()>().await;
    }));
    let in_task = runtime.clone();
    let (go, gone) = mpsc::channel::<()>();
    drop(runtime.spawn(async move {
        // Only when the task's is the last.
        gone.recv().expect("sent");
        drop(in_task);
        send.send(()).expect("the test waits");
    }));
    drop(runtime);
    go.send(()).expect("the task waits");
    receive
        .recv_timeout(Duration::from_secs(10))
        .expect("the drop does not wait for itself");
    let start = Instant::now();
    while !dropped.load(SeqCst) {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the tasks are dropped in the background"
        );
        thread::yield_now();
    }
}

#[test]
fn runtimes_do_not_mix() {
    let (one, two) = (runtime(), runtime());
    // Woken by a completion of the other runtime's port.
    let answer = one.block_on(async {
        let on_two = two.spawn(async {
            sleep(Duration::from_millis(5)).await;
            1
        });
        let on_one = runtime::spawn(async move { on_two.await.expect("ends") + 1 });
        on_one.await.expect("ends")
    });
    assert_eq!(answer, 2);
    // A runtime blocked on inside of a task of another.
    let inner = one.spawn(async move {
        two.block_on(async { runtime::spawn(async { 3 }).await.expect("ends") })
    });
    assert_eq!(one.block_on(inner).expect("ends"), 3);
}

#[test]
#[should_panic(expected = "no Landfall runtime here")]
fn spawning_outside_of_a_runtime_says_so() {
    drop(runtime::spawn(async {}));
}

#[test]
fn sleeping_takes_its_time() {
    let runtime = runtime();
    runtime.block_on(async {
        let start = Instant::now();
        sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        sleep_until(start).await;
        sleep(Duration::ZERO).await;
        assert!(timeout(Duration::from_secs(100), async { 1 }).await == Ok(1));
        assert!(
            timeout(Duration::from_millis(2), pending::<()>())
                .await
                .is_err()
        );
        // A result that is there counts, however late.
        assert!(timeout(Duration::ZERO, async { 1 }).await == Ok(1));
        assert!(timeout(Duration::MAX, async { 1 }).await == Ok(1));
    });
}

#[test]
fn many_timers_end_in_order_of_their_deadlines() {
    let runtime = runtime();
    let start = Instant::now() + Duration::from_millis(20);
    let ended = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..1000_u32)
        .map(|n| {
            let deadline = start + Duration::from_micros(u64::from(n * 7919 % 1000) * 50);
            let ended = ended.clone();
            runtime.spawn(async move {
                sleep_until(deadline).await;
                assert!(Instant::now() >= deadline, "too early");
                ended.fetch_add(1, SeqCst);
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("not too early");
        }
    });
    assert_eq!(ended.load(SeqCst), 1000);
}

#[test]
fn a_sleep_moves_between_tasks() {
    let runtime = runtime();
    runtime.block_on(async {
        let mut nap = Box::pin(sleep(Duration::from_millis(30)));
        poll_fn(|cx| {
            assert!(nap.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        // The other task's waker replaces this one's.
        timeout(Duration::from_secs(10), runtime::spawn(nap))
            .await
            .expect("woken there")
            .expect("ends");
    });
}

#[test]
fn an_interval_keeps_its_rhythm_and_makes_nothing_up() {
    let runtime = runtime();
    runtime.block_on(async {
        let period = Duration::from_millis(10);
        let mut ticks = interval(period);
        let first = ticks.tick().await;
        thread::sleep(Duration::from_millis(35));
        let late = ticks.tick().await;
        let distance = late - first;
        assert!(distance >= 3 * period, "three were due, {distance:?} later");
        assert_eq!(distance.as_nanos() % period.as_nanos(), 0, "in the rhythm");
        let start = Instant::now();
        let next = ticks.tick().await;
        assert!(next > start, "one that is to come, not one that was missed");
    });
}

#[test]
fn sixteen_sleeping_handlers_end_within_300_ms() {
    let runtime = Runtime::builder()
        .concurrency(1)
        .build()
        .expect("a runtime");
    let start = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..16)
            .map(|_| runtime::spawn(async { thread::sleep(Duration::from_millis(100)) }))
            .collect();
        for task in tasks {
            task.await.expect("ends");
        }
    });
    let took = start.elapsed();
    assert!(took < Duration::from_millis(300), "took {took:?}");
    assert!(
        runtime.workers() <= 18,
        "{} workers for 16 handlers",
        runtime.workers()
    );
}

#[test]
fn spares_stop_at_their_bound() {
    let runtime = Runtime::builder()
        .concurrency(1)
        .workers(1)
        .max_spares(3)
        .build()
        .expect("a runtime");
    let gate = Arc::new(Barrier::new(5));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let gate = gate.clone();
            runtime.spawn(async move {
                gate.wait();
            })
        })
        .collect();
    // All four block until the test comes as the fifth.
    let start = Instant::now();
    while runtime.workers() < 4 {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "only {} workers",
            runtime.workers()
        );
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(runtime.workers(), 4);
    gate.wait();
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("ends");
        }
    });
}

#[test]
fn computing_tasks_never_run_more_than_the_concurrency_value_at_once() {
    let runtime = Runtime::builder()
        .concurrency(1)
        .workers(8)
        .build()
        .expect("a runtime");
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (running, most) = (running.clone(), most.clone());
            runtime.spawn(async move {
                let now = running.fetch_add(1, SeqCst) + 1;
                most.fetch_max(now, SeqCst);
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(20) {
                    std::hint::spin_loop();
                }
                running.fetch_sub(1, SeqCst);
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("ends");
        }
    });
    assert_eq!(most.load(SeqCst), 1);
    assert_eq!(runtime.workers(), 8, "nobody was blocked");
}

#[test]
fn nothing_is_stranded_behind_a_task_that_blocks() {
    let runtime = runtime();
    let (release, blocked) = mpsc::channel::<()>();
    let (done, wait) = mpsc::channel();
    drop(runtime.spawn(async move {
        // Made ready by this task, which then blocks without having gone back to its port.
        let done_too = done.clone();
        drop(runtime::spawn(async move {
            done.send(1).expect("the test waits")
        }));
        let mut sleeper = pin!(sleep(Duration::from_millis(5)));
        poll_fn(|cx| {
            let _ = sleeper.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
        drop(runtime::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            done_too.send(2).expect("the test waits");
        }));
        blocked.recv().expect("released in the end");
    }));
    let limit = Duration::from_secs(5);
    assert_eq!(
        (wait.recv_timeout(limit), wait.recv_timeout(limit)),
        (Ok(1), Ok(2))
    );
    release.send(()).expect("it is still blocked");
}

#[test]
fn public_types_cross_threads() {
    fn both<T: Send + Sync>() {}
    both::<Runtime>();
    both::<runtime::Builder>();
    both::<JoinHandle<std::cell::Cell<u8>>>();
    both::<runtime::JoinError>();
    both::<runtime::time::Sleep>();
    both::<runtime::time::Interval>();
    both::<runtime::time::Timeout<std::future::Ready<()>>>();
    both::<runtime::time::Elapsed>();
}
