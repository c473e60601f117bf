//! Threads of a test, and what the system says about them.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use system::Id;

/// A thread that the test can see going to sleep.
pub struct Worker<T> {
    thread: JoinHandle<T>,
    id: Id,
}

impl<T: Send + 'static> Worker<T> {
    pub fn start(run: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            tell.send(Id::current())
                .expect("the test waits for the name");
            run()
        });
        let id = told.recv().expect("a thread that runs tells its name");
        Worker { thread, id }
    }

    /// Waits until the thread sleeps and stays asleep: in `get`, if that is what it does.
    pub fn wait_until_asleep(&self) {
        self.id.wait_until_asleep();
    }

    /// How often the thread has gone to sleep, where the system tells.
    pub fn times_slept(&self) -> Option<u64> {
        self.id.times_slept()
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// What the thread returned; its panic is the test's.
    #[track_caller]
    pub fn join(self) -> T {
        self.thread.join().expect("the thread ran to its end")
    }
}

/// How often the calling thread has gone to sleep, where the system tells.
pub fn own_times_slept() -> Option<u64> {
    Id::current().times_slept()
}

/// Descriptors that the process has open, where the system tells.
pub fn open_descriptors() -> Option<usize> {
    system::open_descriptors()
}

/// By `/proc`.
#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::thread;
    use std::time::Duration;

    use crate::support::eventually;

    pub struct Id(String);

    impl Id {
        pub fn current() -> Self {
            let link = fs::read_link("/proc/thread-self").expect("/proc is mounted");
            let id = link.file_name().expect("PID/task/TID");
            Id(id.to_string_lossy().into_owned())
        }

        pub fn wait_until_asleep(&self) {
            let mut before = None;
            let mut unchanged = 0;
            eventually("the thread sleeps", || {
                let now = self.asleep_since();
                unchanged = if now.is_some() && now == before {
                    unchanged + 1
                } else {
                    0
                };
                before = now;
                thread::sleep(Duration::from_millis(1));
                unchanged >= 3
            });
        }

        /// How often it has gone to sleep so far, if it sleeps now.
        fn asleep_since(&self) -> Option<u64> {
            let status = self.status();
            let state = field(&status, "State:").trim_start();
            state.starts_with('S').then(|| times_slept(&status))
        }

        pub fn times_slept(&self) -> Option<u64> {
            Some(times_slept(&self.status()))
        }

        fn status(&self) -> String {
            fs::read_to_string(format!("/proc/self/task/{}/status", self.0)).unwrap_or_default()
        }
    }

    fn times_slept(status: &str) -> u64 {
        let count = field(status, "voluntary_ctxt_switches:").trim();
        count.parse().expect("the system counts context switches")
    }

    fn field<'a>(status: &'a str, name: &str) -> &'a str {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("0")
    }

    pub fn open_descriptors() -> Option<usize> {
        let descriptors = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
        Some(descriptors.count())
    }
}

/// Windows tells, but the standard library does not ask, and these tests call nothing that is not
/// safe.
#[cfg(windows)]
mod system {
    use std::thread;
    use std::time::Duration;

    pub struct Id;

    impl Id {
        pub fn current() -> Self {
            Id
        }

        /// Time enough to go to sleep.
        pub fn wait_until_asleep(&self) {
            thread::sleep(Duration::from_millis(50));
        }

        pub fn times_slept(&self) -> Option<u64> {
            None
        }
    }

    pub fn open_descriptors() -> Option<usize> {
        None
    }
}
