//! Timers: completions for a moment to come.

use std::time::{Duration, Instant};

use landfall::port::CompletionKind;

use crate::support::{
    PATIENCE, QUIET, assert_quiet, eventually, for_each_driver, for_each_driver_alone, next,
};
use crate::threads::Worker;

#[test]
fn timers_complete_in_the_order_of_their_deadlines_and_never_early() {
    for_each_driver_alone(|driver| {
        let port = driver.port(0);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let order = [30, 10, 20, 5, 25];
        let ids = order.map(|millis| {
            port.timer(at(millis as u64), 600 + millis, millis)
                .expect("the port is open")
        });
        for expected in [5, 10, 20, 25, 30] {
            let timer = next(&port);
            assert!(Instant::now() >= at(expected as u64), "early");
            assert_eq!(timer.kind(), CompletionKind::Timer);
            assert_eq!((timer.token(), timer.key()), (expected, 600 + expected));
            let place = order
                .iter()
                .position(|millis| *millis == expected)
                .expect("set");
            assert_eq!(timer.id(), ids[place]);
            assert!(timer.is_final() && timer.handle().is_none());
            assert_eq!(timer.result().expect("a timer never fails"), 0);
        }
        assert!(
            start.elapsed() < Duration::from_millis(150),
            "took {:?}",
            start.elapsed()
        );
        assert_quiet(&port);
    });
}

#[test]
fn a_timer_in_the_past_completes_at_once() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let now = Instant::now();
        let past = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        port.timer(past, 0, 1).expect("the port is open");
        assert_eq!(next(&port).token(), 1);
    });
}

#[test]
fn a_cancelled_timer_never_completes() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let soon = Instant::now() + Duration::from_millis(5);
        let cancelled = port.timer(soon, 0, 1).expect("the port is open");
        let kept = port.timer(soon, 0, 2).expect("the port is open");
        assert!(port.cancel_timer(cancelled));
        assert!(!port.cancel_timer(cancelled), "taken back once");
        assert_eq!(next(&port).token(), 2);
        assert!(!port.cancel_timer(kept), "it has run out");
        assert_quiet(&port);
    });
}

/// Either the cancel or the completion, never both and never neither.
#[test]
fn cancelling_a_timer_races_with_its_deadline() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        for token in 0..60 {
            let deadline = Instant::now() + Duration::from_micros(300);
            let id = port.timer(deadline, 0, token).expect("the port is open");
            while Instant::now() < deadline {
                std::hint::spin_loop();
            }
            if !port.cancel_timer(id) {
                assert_eq!(next(&port).token(), token);
            }
        }
        assert_quiet(&port);
    });
}

#[test]
fn a_far_deadline_neither_comes_early_nor_hides_a_near_one() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let now = Instant::now();
        // Past the limits of 32-bit milliseconds (49 days) and 32-bit seconds (136 years), and the
        // farthest that the clock can name.
        let far: Vec<_> = [1 << 23, 1 << 33, 1 << 40, 1 << 56, i64::MAX as u64 / 2]
            .into_iter()
            .filter_map(|seconds| now.checked_add(Duration::from_secs(seconds)))
            .map(|deadline| port.timer(deadline, 0, 0).expect("the port is open"))
            .collect();
        assert!(far.len() >= 3);
        assert_quiet(&port);
        port.timer(Instant::now() + QUIET, 0, 5)
            .expect("the port is open");
        assert_eq!(next(&port).token(), 5);
        assert_quiet(&port);
        assert!(
            far.into_iter().all(|id| port.cancel_timer(id)),
            "all of them still to come"
        );
    });
}

#[test]
fn a_timer_wakes_a_waiting_thread_and_an_earlier_one_overtakes() {
    for_each_driver(|driver| {
        let port = driver.port(0);
        let waiter = {
            let port = port.clone();
            Worker::start(move || next(&port).token())
        };
        waiter.wait_until_asleep();
        let late = port
            .timer(Instant::now() + PATIENCE, 0, 1)
            .expect("the port is open");
        port.timer(Instant::now() + QUIET, 0, 2)
            .expect("the port is open");
        assert_eq!(waiter.join(), 2);
        assert!(port.cancel_timer(late));
    });
}

#[test]
fn many_timers_all_complete() {
    for_each_driver(|driver| {
        const TIMERS: usize = 2_000;
        let port = driver.port(0);
        let start = Instant::now();
        for token in 0..TIMERS {
            let deadline = start + Duration::from_micros((token * 7919 % TIMERS) as u64 * 5);
            port.timer(deadline, 0, token).expect("the port is open");
        }
        let mut seen = vec![false; TIMERS];
        for _ in 0..TIMERS {
            let token = next(&port).token();
            assert!(
                !std::mem::replace(&mut seen[token], true),
                "timer {token} came twice"
            );
        }
        assert_quiet(&port);
        eventually("the port is at rest", || {
            port.get(Some(Duration::ZERO)).is_err()
        });
    });
}
