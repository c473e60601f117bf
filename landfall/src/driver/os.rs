//! The parts of the drivers that differ between systems: which there are, and what stands for a
//! socket outside of the port.

use std::io;

#[cfg(target_os = "linux")]
use super::MAX_LANES;
use super::{Driver, Settings, not_on_this_system};
use crate::port::DriverChoice;

/// A socket of the program's own.
#[cfg(unix)]
pub(crate) type OwnedDescriptor = std::os::fd::OwnedFd;
/// A socket of the program's own.
#[cfg(windows)]
pub(crate) type OwnedDescriptor = std::os::windows::io::OwnedSocket;

/// The code of an operation ended by a cancel or a close.
#[cfg(unix)]
pub(crate) const ABORTED: i32 = libc::ECANCELED;
/// The code of an operation ended by a cancel or a close.
#[cfg(windows)]
pub(crate) const ABORTED: i32 = windows_sys::Win32::Foundation::ERROR_OPERATION_ABORTED as i32;

#[cfg(target_os = "linux")]
pub(super) fn set_up(settings: &Settings) -> io::Result<(Box<dyn Driver>, String)> {
    use super::uring::Uring;
    let reason = match settings.choice {
        DriverChoice::Auto => "io_uring is permitted here",
        DriverChoice::Uring => "asked for",
        DriverChoice::Iocp => return Err(not_on_this_system("iocp", "Windows")),
    };
    let lanes = match settings.lanes {
        0 => settings.concurrency,
        lanes => lanes,
    };
    let driver = Uring::new(lanes.min(MAX_LANES), settings.buffers, settings.facilities)?;
    Ok((Box::new(driver), reason.to_owned()))
}

#[cfg(windows)]
pub(super) fn set_up(settings: &Settings) -> io::Result<(Box<dyn Driver>, String)> {
    use super::iocp::Iocp;
    let reason = match settings.choice {
        DriverChoice::Auto => "Windows has completion ports of its own",
        DriverChoice::Iocp => "asked for",
        DriverChoice::Uring => return Err(not_on_this_system("uring", "Linux")),
    };
    let driver = Iocp::new(settings.concurrency, settings.buffers)?;
    Ok((Box::new(driver), reason.to_owned()))
}
