//! Files on the runtime.

mod os;

use std::fs::OpenOptions;

/// Options of the standard library for a file that is to be associated with a port: on Windows with
/// `FILE_FLAG_OVERLAPPED` set, which no port does without; elsewhere nothing is special.
///
/// `custom_flags` of `OpenOptionsExt` replaces that flag on Windows; it must be among those given.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    os::prepare(&mut options);
    options
}
