//! Settings of a port.

use std::io;

use super::CompletionPort;
use crate::driver::{self, MAX_LANES, Settings};

/// Which driver a port uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum DriverChoice {
    /// The one that the environment variable `LANDFALL_DRIVER` names (`uring`, `poll`, `iocp`,
    /// `auto`), or else the best one that the system permits: Windows' own ports; io_uring on Linux,
    /// readiness where that is missing or forbidden (a lack of memory or descriptors is an error
    /// instead). [`CompletionPort::driver_reason`] says why it became which.
    #[default]
    Auto,
    /// io_uring, or an error that says why not.
    Uring,
    /// Readiness: epoll on Linux, kqueue on macOS and the BSDs (which compile, and are not
    /// tested). [`Facilities`] are io_uring's and change nothing here.
    Poll,
    /// Windows' own completion ports, or an error elsewhere.
    Iocp,
}

/// How much memory each lane of the port has for pooled receives.
///
/// Buffers are allocated as one block, of which only as much is used as the program holds at a time,
/// beside a few. When a lane has none left, receives use memory of their own. So nobody starves and
/// nobody sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferPolicy {
    /// Bytes of one buffer. A little more than the usual message is best: room that is left over says
    /// that nothing more is there, which saves asking.
    pub size: usize,
    /// Buffers of each lane; at most 32,768.
    pub count: usize,
}

impl Default for BufferPolicy {
    fn default() -> Self {
        BufferPolicy {
            // 16 KiB, a common size of messages, or the largest TLS record with its header and seal.
            size: 16 * 1024 + 64,
            count: 128,
        }
    }
}

/// Optional facilities of the system, each of which can be switched off; the port then does the
/// same by other means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Facilities {
    /// Sockets live in the tables of the lanes instead of the process's, and take no descriptor of
    /// its; each table has as many places as `ulimit -n` allows descriptors. Off: ordinary descriptors.
    pub direct_descriptors: bool,
    /// One accept, many connections. Used with ordinary descriptors; with direct ones several
    /// single accepts are posted, which also bring the peer's address.
    pub multishot_accept: bool,
    /// Single accepts wait for a connection before they look for one (`IORING_ACCEPT_POLL_FIRST`, Linux
    /// 6.10): each look in vain costs a socket and a file. Off: they look at once.
    pub poll_first: bool,
    /// Zero-copy sends for [`SendZeroCopy`](super::Operation::SendZeroCopy). Off: copied.
    pub zero_copy: bool,
}

impl Default for Facilities {
    fn default() -> Self {
        Facilities {
            direct_descriptors: true,
            multishot_accept: true,
            poll_first: true,
            zero_copy: true,
        }
    }
}

/// What Linux moves in one operation at most: a page less than 2 GiB (`MAX_RW_COUNT`).
const MOST_BUFFER_BYTES: usize = 0x7fff_f000;

/// Builds a [`CompletionPort`].
#[derive(Clone, Debug, Default)]
#[must_use = "there is no port before `build`"]
pub struct Builder {
    concurrency: usize,
    lanes: usize,
    driver: DriverChoice,
    buffers: BufferPolicy,
    facilities: Facilities,
}

impl Builder {
    /// The defaults: as many running threads and lanes as processors.
    pub fn new() -> Self {
        Builder::default()
    }

    /// How many threads may run at a time; 0 means one per processor.
    pub fn concurrency(mut self, threads: usize) -> Self {
        self.concurrency = threads;
        self
    }

    /// How many lanes the port has, that is, independent queues of the system (rings, epoll
    /// instances) that it takes completions from; 0 means as many as threads may run at a time. More
    /// than 64 are not used. Windows has one queue for each port, and no use for this.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = lanes;
        self
    }

    /// Which driver to use.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver = driver;
        self
    }

    /// Memory for pooled receives.
    pub fn buffers(mut self, buffers: BufferPolicy) -> Self {
        self.buffers = buffers;
        self
    }

    /// Which optional facilities of the system to use.
    pub fn facilities(mut self, facilities: Facilities) -> Self {
        self.facilities = facilities;
        self
    }

    /// Creates the port.
    ///
    /// # Errors
    ///
    /// Settings out of range ([`InvalidInput`](io::ErrorKind::InvalidInput)), or the system
    /// refuses the driver's set-up. The error then says what to do, and the system's own error,
    /// with its code, is its source.
    pub fn build(self) -> io::Result<CompletionPort> {
        let sizes = 1..=MOST_BUFFER_BYTES;
        let counts = 1..=32_768;
        if !sizes.contains(&self.buffers.size) || !counts.contains(&self.buffers.count) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} buffers of {} bytes: a lane needs 1 to 32,768 buffers of 1 to {MOST_BUFFER_BYTES} bytes",
                    self.buffers.count, self.buffers.size
                ),
            ));
        }
        let concurrency = match self.concurrency {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let lanes = match self.lanes {
            0 => concurrency,
            lanes => lanes,
        };
        let settings = Settings {
            concurrency,
            lanes: lanes.min(MAX_LANES),
            buffers: self.buffers,
            facilities: self.facilities,
        };
        let (driver, reason) = driver::set_up(self.driver, settings)?;
        CompletionPort::from_parts(driver, concurrency, reason)
    }
}
