//! What Wine needs beside Windows, in one place.
//!
//! Wine carries a receive or send on with the thread that started it, which a signal interrupts when
//! the socket is ready. That thread finds the socket by its *number*. Until it has run, a cancel does
//! not find the operation; and should the socket be closed meanwhile and its number be another
//! socket's, the operation is tried on that one: it may take or send bytes there, or wait for ever.
//! (Wine 8; seen in a trace of its server.)

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};

/// How long that thread may take; a machine that is so busy may lose the operation.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this process runs under Wine, which has a function that Windows lacks to tell.
pub(super) fn runs_us() -> bool {
    static RUNS_US: OnceLock<bool> = OnceLock::new();
    *RUNS_US.get_or_init(|| {
        // SAFETY: both names end with a zero, and `ntdll` stays loaded.
        unsafe {
            let ntdll = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
            !ntdll.is_null() && GetProcAddress(ntdll, c"wine_get_version".as_ptr().cast()).is_some()
        }
    })
}

/// Waits until an operation that is just being carried on is found by a cancel or has ended.
pub(super) fn settle(mut is_settled: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_settled() && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
}
