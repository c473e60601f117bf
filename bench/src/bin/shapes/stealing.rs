//! Shape C: one ring a worker; a worker serves its own ring first and helps the others when it has nothing to do.
//! A watcher, asleep while every worker waits, covers the ring of a worker that stays in a handler.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use io_uring::{opcode, types::Fd};

use crate::ring::{Kind, Message, Port, Token};

#[derive(Clone, Copy)]
pub struct Policy {
    /// When a worker with nothing to do takes from another's ring.
    pub steal: Steal,
    /// An idle worker waits on the stuck worker's ring too (a poll in its own ring), not only for the watcher's kick.
    pub cover_by_poll: bool,
    pub watcher: Option<Ticks>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Steal {
    /// Whenever the other is in user code.
    Eagerly,
    /// Only once the watcher has found the other stuck.
    WhenStuck,
}

/// The watcher's periods. A tick costs some 20 us of processor time where timers are virtual, so it ticks fast only with cause.
#[derive(Clone, Copy)]
pub struct Ticks {
    /// No worker has been stuck for a second.
    pub calm: Duration,
    /// One has.
    pub wary: Duration,
    /// It must poke a computing worker, or kick an idle one.
    pub urgent: Duration,
}

/// Ticks without anybody in user code before the watcher goes to sleep.
const QUIET_TICKS: u32 = 10;

const WARY_FOR: Duration = Duration::from_secs(1);

#[repr(align(128))]
#[derive(Default)]
struct Worker {
    in_user_code: AtomicBool,
    stuck: AtomicBool,
    messages: AtomicU64,
    /// The thread's processor clock; stands still while the worker sleeps in a handler.
    clock: AtomicI32,
}

/// What the watcher saw of a worker at its last look.
#[derive(Clone, Default)]
struct Seen {
    messages: u64,
    processor_time: Duration,
}

struct Pool {
    port: Arc<Port>,
    policy: Policy,
    workers: Vec<Worker>,
    watcher_asleep: AtomicBool,
}

pub fn start(port: Arc<Port>, policy: Policy) {
    let workers = port.rings.iter().map(|_| Worker::default()).collect();
    let pool = Arc::new(Pool {
        port,
        policy,
        workers,
        watcher_asleep: AtomicBool::new(false),
    });
    let watcher = policy.watcher.map(|ticks| {
        let pool = pool.clone();
        std::thread::spawn(move || pool.watch(ticks))
            .thread()
            .clone()
    });
    for index in 0..pool.workers.len() {
        let (pool, watcher) = (pool.clone(), watcher.clone());
        std::thread::spawn(move || pool.work(index, watcher.as_ref()));
    }
}

impl Pool {
    fn work(&self, index: usize, watcher: Option<&Thread>) {
        self.workers[index]
            .clock
            .store(own_clock(), Ordering::SeqCst);
        if index == 0 {
            self.port.rings[0].lock().accept(&self.port);
        }
        loop {
            let own = self.port.rings[index].lock().take(&self.port);
            match own.or_else(|| self.steal(index)) {
                Some(message) => self.serve(index, message),
                None => self.wait(index, watcher),
            }
        }
    }

    fn serve(&self, index: usize, message: Message) {
        let worker = &self.workers[index];
        worker.messages.fetch_add(1, Ordering::Relaxed);
        self.port.handle(message);
        if worker.stuck.load(Ordering::Relaxed) {
            worker.stuck.store(false, Ordering::Relaxed);
        }
        self.port.rings[index].lock().reply(&self.port, message);
    }

    fn steal(&self, thief: usize) -> Option<Message> {
        self.others(thief).find_map(|victim| {
            let worker = &self.workers[victim];
            let open = match self.policy.steal {
                Steal::Eagerly => worker.in_user_code.load(Ordering::Relaxed),
                Steal::WhenStuck => worker.stuck.load(Ordering::Relaxed),
            };
            if !open {
                return None;
            }
            self.port.rings[victim].try_lock()?.take(&self.port)
        })
    }

    fn others(&self, index: usize) -> impl Iterator<Item = usize> {
        (0..self.workers.len()).filter(move |&other| other != index)
    }

    /// Flushes and waits. The watcher is woken only if it had gone to sleep.
    fn wait(&self, index: usize, watcher: Option<&Thread>) {
        if self.policy.cover_by_poll {
            self.arm_cover(index);
        }
        let worker = &self.workers[index];
        worker.in_user_code.store(false, Ordering::SeqCst);
        self.port.rings[index].submit_and_wait(1);
        worker.in_user_code.store(true, Ordering::SeqCst);
        if self.watcher_asleep.load(Ordering::SeqCst)
            && self.watcher_asleep.swap(false, Ordering::SeqCst)
        {
            watcher.inspect(|watcher| watcher.unpark());
        }
    }

    fn arm_cover(&self, index: usize) {
        for victim in self
            .others(index)
            .filter(|&other| self.workers[other].stuck.load(Ordering::Relaxed))
        {
            if self.port.cover_armed.swap(1, Ordering::SeqCst) == 0 {
                let fd = Fd(self.port.rings[victim].io.as_raw_fd());
                let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
                self.port.rings[index]
                    .lock()
                    .push(poll.user_data(Token::of(Kind::Cover, 0).pack()));
            }
        }
    }

    fn watch(&self, ticks: Ticks) {
        prepare_watcher();
        let mut seen = vec![Seen::default(); self.workers.len()];
        let (mut quiet, mut period, mut last_stuck) = (0, ticks.calm, None::<Instant>);
        loop {
            std::thread::sleep(period);
            let (stuck, urgent) = self.look(&mut seen);
            if stuck {
                last_stuck = Some(Instant::now());
            }
            period = match last_stuck {
                _ if urgent => ticks.urgent,
                Some(when) if when.elapsed() < WARY_FOR => ticks.wary,
                _ => ticks.calm,
            };
            quiet = if self.anybody_in_user_code() {
                0
            } else {
                quiet + 1
            };
            if quiet >= QUIET_TICKS {
                self.watcher_asleep.store(true, Ordering::SeqCst);
                if !self.anybody_in_user_code() {
                    std::thread::park();
                }
                self.watcher_asleep.store(false, Ordering::SeqCst);
                quiet = 0;
            }
        }
    }

    fn anybody_in_user_code(&self) -> bool {
        self.workers
            .iter()
            .any(|worker| worker.in_user_code.load(Ordering::SeqCst))
    }

    /// Covers the workers that have not moved since the last look. Returns whether there are any, and whether the next
    /// look is urgent.
    fn look(&self, seen: &mut [Seen]) -> (bool, bool) {
        let (mut stuck, mut urgent) = (false, false);
        for (index, worker) in self.workers.iter().enumerate() {
            let messages = worker.messages.load(Ordering::Relaxed);
            if messages != seen[index].messages || !worker.in_user_code.load(Ordering::SeqCst) {
                seen[index].messages = messages;
                continue;
            }
            worker.stuck.store(true, Ordering::Relaxed);
            stuck = true;
            let processor_time = read_clock(worker.clock.load(Ordering::SeqCst));
            let computing = std::mem::replace(&mut seen[index].processor_time, processor_time)
                != processor_time;
            if computing {
                poke();
            }
            // A sleeper's ring moves by itself, and the poll on it brings the idle worker.
            urgent |= computing || !self.policy.cover_by_poll;
            self.cover(index);
        }
        (stuck, urgent)
    }

    /// Flushes what the stuck worker had queued, and brings an idle worker to what has completed on its ring.
    fn cover(&self, stuck: usize) {
        let ring = &self.port.rings[stuck];
        let Some(queues) = ring.try_lock() else {
            return;
        };
        let (flush, completions) = (queues.has_submissions(), queues.has_completions());
        drop(queues);
        if flush {
            ring.submit();
        }
        let needed = completions
            || (self.policy.cover_by_poll && self.port.cover_armed.load(Ordering::SeqCst) == 0);
        let idle = self
            .others(stuck)
            .find(|&other| !self.workers[other].in_user_code.load(Ordering::SeqCst));
        if let (true, Some(idle)) = (needed, idle) {
            let kick = opcode::Nop::new()
                .build()
                .user_data(Token::of(Kind::Kick, 0).pack());
            self.port.rings[idle].lock().push(kick);
            self.port.rings[idle].submit();
        }
    }
}

fn own_clock() -> libc::clockid_t {
    let mut clock = 0;
    // SAFETY: the clock's id outlives the call.
    assert_eq!(
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) },
        0
    );
    clock
}

fn read_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time outlives the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn prepare_watcher() {
    // SAFETY: neither call takes a pointer.
    unsafe {
        // Without this a sleep is late by 50 us, the default slack.
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
            0,
            0,
        );
    }
}

/// Sends every running thread of this process through the kernel, where it posts what its ring has completed.
fn poke() {
    // SAFETY: takes no pointer.
    unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED,
            0,
            0,
        )
    };
}
