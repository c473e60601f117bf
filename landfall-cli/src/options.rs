//! Flags that every subcommand running a completion port has.

use std::num::NonZero;
use std::thread;

use clap::{Args, ValueEnum};
use landfall::port::{self, DriverChoice};
use landfall::runtime::Runtime;
#[cfg(unix)]
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::command_line::{takes, wrong_variable};
use crate::exit::Failure;
use crate::system::signals::StopRequest;
use crate::units::parse_count;

/// Chooses the driver unless a flag does: here, and in the library.
pub const DRIVER_VARIABLE: &str = "LANDFALL_DRIVER";

/// How the completion port is set up.
#[derive(Args, Clone, Debug)]
pub struct RuntimeOptions {
    /// What drives the port
    #[arg(
        long, value_enum, default_value_t = Driver::Auto, env = DRIVER_VARIABLE,
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

/// More threads than any machine runs well; a typing error should not start millions.
const MOST_WORKERS: u32 = 4096;

impl RuntimeOptions {
    /// Builds the runtime these options describe.
    pub fn build(&self) -> Result<Runtime, Failure> {
        self.build_on(port::Builder::new())
    }

    /// As `build`, on a port with settings of its own.
    pub fn build_on(&self, port: port::Builder) -> Result<Runtime, Failure> {
        if self.workers.max(self.concurrency) > MOST_WORKERS {
            return Err(Failure::usage(format!(
                "--workers {} and --concurrency {}: a port is served by {MOST_WORKERS} threads at most",
                self.workers, self.concurrency
            )));
        }
        self.driver.check()?;
        Runtime::builder()
            .port(port)
            .workers(self.workers as usize)
            .concurrency(self.concurrency as usize)
            .driver(self.driver.choice())
            .build()
            .map_err(|error| Failure::of_system("cannot set up the port and its workers", &error))
    }

    /// Has this process asked to drain when the parent ends or wishes it, if that was asked for:
    /// `demo` asks its children.
    #[cfg(windows)]
    pub fn end_with_parent(&self, stop: &StopRequest) -> Result<(), Failure> {
        match self.end_with_parent {
            true => stop.listen_to_parent(),
            false => Ok(()),
        }
    }

    /// Has the system send SIGTERM when the parent ends, if that was asked for: `demo` asks its
    /// children.
    #[cfg(unix)]
    pub fn end_with_parent(&self, _stop: &StopRequest) -> Result<(), Failure> {
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
    /// The library's name for it. What the variable asks for is left to the library, which asks the
    /// variable too and names it in what it says, also where a flag asks for the same.
    fn choice(self) -> DriverChoice {
        match self {
            _ if self.is_in_variable() => DriverChoice::Auto,
            Self::Auto => DriverChoice::Auto,
            Self::Uring => DriverChoice::Uring,
            Self::Poll => DriverChoice::Poll,
            Self::Iocp => DriverChoice::Iocp,
        }
    }

    /// Refuses a driver that this system cannot have.
    fn check(self) -> Result<(), Failure> {
        let driver = self.or_of_variable()?;
        let is_here = match driver {
            Self::Auto => true,
            Self::Uring => cfg!(target_os = "linux"),
            Self::Poll => cfg!(unix),
            Self::Iocp => cfg!(windows),
        };
        if is_here {
            return Ok(());
        }
        let whose = match driver.is_in_variable() {
            true => format!(" ({DRIVER_VARIABLE} asks for it)"),
            false => String::new(),
        };
        Err(Failure::usage(format!(
            "there is no driver `{}` on this system{whose}; leave it to `auto`",
            driver.name()
        )))
    }

    /// The one that the variable names, which the library asks where the choice is left to it.
    fn or_of_variable(self) -> Result<Self, Failure> {
        let name = std::env::var_os(DRIVER_VARIABLE).unwrap_or_default();
        if self != Self::Auto || name.is_empty() {
            return Ok(self);
        }
        let name = name.to_string_lossy();
        Self::from_str(&name, false).map_err(|_| {
            let names: Vec<_> = Self::value_variants()
                .iter()
                .map(|driver| driver.name())
                .collect();
            Failure::usage(wrong_variable(DRIVER_VARIABLE, &name, &takes(&names)))
        })
    }

    fn is_in_variable(self) -> bool {
        std::env::var(DRIVER_VARIABLE).is_ok_and(|name| name == self.name())
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

/// How many workers a port has: two per processor.
pub fn default_workers() -> u32 {
    processors().saturating_mul(2)
}
