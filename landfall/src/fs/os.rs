//! The part of `fs` that names a system's own flag.

use std::fs::OpenOptions;

/// `FILE_FLAG_OVERLAPPED`: without it a file takes one operation at a time, and no port.
#[cfg(windows)]
const OVERLAPPED: u32 = 0x4000_0000;

#[cfg(windows)]
pub(super) fn prepare(options: &mut OpenOptions) {
    std::os::windows::fs::OpenOptionsExt::custom_flags(options, OVERLAPPED);
}

#[cfg(unix)]
pub(super) fn prepare(_: &mut OpenOptions) {}
