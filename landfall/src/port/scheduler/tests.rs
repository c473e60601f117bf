//! The scheduler's account of its workers, one step at a time.

use super::*;

#[test]
fn a_guest_is_sent_out_of_one_lane_and_roused_in_one_that_it_keeps() {
    let scheduler = Scheduler::new(2, 2);
    let mut state = scheduler.state.lock();
    let guest = state.add(Worker::current());
    let index = guest.index();
    state
        .lanes
        .iter_mut()
        .for_each(|lane| lane.poller = Some(index));
    state.workers[index].covers = 0b11;

    let mut wakes = Wakes::default();
    scheduler.evict(&mut state, index, 0, &mut wakes);
    assert_eq!(state.workers[index].covers, 0b10);
    let pollers: Vec<_> = state.lanes.iter().map(|lane| lane.poller).collect();
    assert_eq!(pollers, [None, Some(index)]);
    assert!(
        matches!(wakes.first, Some(Wake::Lane(1))),
        "roused in the other"
    );
    assert!(wakes.others.is_empty());
    let release = &state.workers[index].release;
    assert!(matches!(release, Some(Release::Reconsider)));
    assert!(guest.released.load(Ordering::SeqCst));

    let mut wakes = Wakes::default();
    scheduler.evict(&mut state, index, 1, &mut wakes);
    assert_eq!(state.workers[index].covers, 0);
    assert!(wakes.first.is_none(), "it is on its way already");
}

#[test]
fn a_look_tells_handling_from_taking_and_from_being_blocked() {
    let scheduler = Scheduler::new(1, 1);
    let worker = scheduler.state.lock().add(Worker::current());
    let looked_at = |phase| {
        worker.phase.store(phase, Ordering::Relaxed);
        let mut looked = Looked::default();
        scheduler.find_suspects(&mut Suspects::default(), &mut looked);
        [looked.handling, looked.taking, looked.blocked]
    };
    assert_eq!(looked_at(RUNNING), [true, false, false]);
    assert_eq!(looked_at(TAKING), [false, true, false]);
    assert_eq!(looked_at(BLOCKED), [false, false, true]);
    assert_eq!(looked_at(OUT), [false, false, false]);
}

/// A scheduler with one lane, whose worker is in user code.
fn with_one_at_work() -> (Scheduler, Arc<Worker>) {
    let scheduler = Scheduler::new(1, 1);
    let worker = scheduler.state.lock().add(Worker::current());
    worker.home.store(0, Ordering::Relaxed);
    worker.phase.store(RUNNING, Ordering::Relaxed);
    scheduler.running.store(1, Ordering::Relaxed);
    (scheduler, worker)
}

/// Judges a worker by what it was found doing at so many looks; whether that was news.
fn judge(scheduler: &Scheduler, worker: &Arc<Worker>, now: ThreadState, stayed: u32) -> bool {
    let _state = scheduler.state.lock();
    scheduler.judge(&Suspect {
        worker: worker.clone(),
        phase: worker.phase.load(Ordering::Relaxed),
        stayed,
        now,
    })
}

#[test]
fn who_waits_for_a_processor_keeps_its_permit_and_for_a_slice_its_lane() {
    let (scheduler, worker) = with_one_at_work();
    let stuck = || scheduler.stuck.load(Ordering::Relaxed);
    assert!(!judge(&scheduler, &worker, ThreadState::Ready, 1));
    assert_eq!((scheduler.running(), stuck()), (1, 0));
    assert!(!judge(&scheduler, &worker, ThreadState::Ready, CONFIRMED));
    assert_eq!((scheduler.running(), stuck()), (1, 1));
}

#[test]
fn who_is_blocked_gives_its_permit_back_until_it_waits_for_a_processor() {
    let (scheduler, worker) = with_one_at_work();
    assert!(judge(&scheduler, &worker, ThreadState::Blocked, 1));
    assert_eq!(scheduler.running(), 0);
    assert!(!judge(&scheduler, &worker, ThreadState::Blocked, 2));
    assert_eq!(scheduler.running(), 0);
    assert!(judge(&scheduler, &worker, ThreadState::Ready, 1));
    assert_eq!(scheduler.running(), 1);
}

#[test]
fn computing_is_news_once_when_it_is_confirmed() {
    let (scheduler, worker) = with_one_at_work();
    let news = [1, CONFIRMED, CONFIRMED + 1]
        .map(|stayed| judge(&scheduler, &worker, ThreadState::Running, stayed));
    assert_eq!(news, [false, true, false]);
    assert_eq!(scheduler.running(), 1);
    assert_eq!(scheduler.stuck.load(Ordering::Relaxed), 1);
}
