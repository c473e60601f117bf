//! Names of files as bytes, which is what they are in a URL.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

/// The path that these bytes are; `None` where no file can have it.
#[cfg(unix)]
pub fn path_of(bytes: &[u8]) -> Option<&Path> {
    let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
    Some(Path::new(name))
}

/// The bytes of a name.
#[cfg(unix)]
pub fn bytes_of(name: &OsStr) -> Cow<'_, [u8]> {
    Cow::Borrowed(std::os::unix::ffi::OsStrExt::as_bytes(name))
}

/// The path that these bytes are; `None` where no file can have it: a backslash is a separator here
/// that no URL has.
#[cfg(windows)]
pub fn path_of(bytes: &[u8]) -> Option<&Path> {
    let text = str::from_utf8(bytes).ok()?;
    (!text.contains('\\')).then(|| Path::new(text))
}

/// The bytes of a name. One that is no text has none of its own.
#[cfg(windows)]
pub fn bytes_of(name: &OsStr) -> Cow<'_, [u8]> {
    match name.to_string_lossy() {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}
