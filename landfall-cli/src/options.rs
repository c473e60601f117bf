//! Flags that every subcommand running a completion port has.

use std::num::NonZero;
use std::thread;

use clap::{Args, ValueEnum};
use landfall::port::DriverChoice;
use landfall::runtime::Runtime;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::exit::Failure;
use crate::units::parse_count;

/// How the completion port is set up.
#[derive(Args, Clone, Debug)]
pub struct RuntimeOptions {
    /// What drives the port
    #[arg(
        long, value_enum, default_value_t = Driver::Auto, env = "LANDFALL_DRIVER",
        help_heading = "Port"
    )]
    pub driver: Driver,

    /// Threads that take completions; the default is two per processor
    #[arg(
        long, value_name = "N", default_value_t = default_workers(), value_parser = parse_count,
        env = "LANDFALL_WORKERS", help_heading = "Port"
    )]
    pub workers: u32,

    /// How many of them run at once; the default is one per processor
    #[arg(
        long, value_name = "N", default_value_t = processors(), value_parser = parse_count,
        env = "LANDFALL_CONCURRENCY", help_heading = "Port"
    )]
    pub concurrency: u32,

    /// End when the process that started this one ends, however it does
    #[arg(long, hide = true)]
    pub end_with_parent: bool,
}

impl RuntimeOptions {
    /// Builds the runtime these options describe.
    pub fn build(&self) -> Result<Runtime, Failure> {
        Runtime::builder()
            .workers(self.workers as usize)
            .concurrency(self.concurrency as usize)
            .driver(self.driver.choice()?)
            .build()
            .map_err(|error| Failure::of_system("cannot create the completion port", &error))
    }

    /// How many sockets such a port can hold. With `uring` each of its lanes, one for every thread
    /// that may run at once, keeps them in a table of its own, which is as large as the limit on
    /// descriptors; elsewhere each is a descriptor of the process.
    pub fn socket_capacity(&self, driver: &str, descriptor_limit: u64) -> u64 {
        // The standard streams, files, the lanes' pollers.
        const OTHER_DESCRIPTORS: u64 = 64;
        if driver != "uring" {
            return descriptor_limit.saturating_sub(OTHER_DESCRIPTORS);
        }
        // What the port and the kernel allow at most: see `landfall::port::Builder::lanes`, and
        // IORING_MAX_FIXED_FILES.
        const MOST_LANES: u32 = 64;
        const LARGEST_TABLE: u64 = 1 << 20;
        u64::from(self.concurrency.min(MOST_LANES)) * descriptor_limit.min(LARGEST_TABLE)
    }

    /// Has the system send SIGTERM when the parent ends, if that was asked for: `demo` asks its
    /// children.
    pub fn end_with_parent(&self) -> Result<(), Failure> {
        if !self.end_with_parent {
            return Ok(());
        }
        set_parent_process_death_signal(Some(Signal::TERM))
            .map_err(|error| Failure::of_system("cannot follow the parent process", &error.into()))
    }
}

/// The drivers of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// The best one this system permits
    Auto,
    /// io_uring (Linux)
    Uring,
    /// Readiness: epoll, kqueue
    Poll,
    /// I/O completion ports (Windows)
    Iocp,
}

impl Driver {
    /// The library's name for it, if it has it on this system.
    pub fn choice(self) -> Result<DriverChoice, Failure> {
        match self {
            Self::Auto => Ok(DriverChoice::Auto),
            Self::Uring => Ok(DriverChoice::Uring),
            Self::Poll => Ok(DriverChoice::Poll),
            Self::Iocp => Err(Failure::usage(format!(
                "this build has no driver `{}`: leave it to `auto`, or ask for `uring` or `poll`",
                self.name()
            ))),
        }
    }

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Poll => "poll",
            Self::Iocp => "iocp",
        }
    }
}

/// How many processors this process may use.
pub fn processors() -> u32 {
    thread::available_parallelism().map_or(1, |count| {
        u32::try_from(NonZero::get(count)).unwrap_or(u32::MAX)
    })
}

fn default_workers() -> u32 {
    processors().saturating_mul(2)
}
