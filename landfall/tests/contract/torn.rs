//! Memory that the system cannot read to its end, so that a send of it fails half way.
#![allow(unsafe_code, reason = "it has to be mapped")]

/// Memory of which the system can read all but the end.
pub struct Torn(*mut std::ffi::c_void);

/// More than the system takes at a time, so that some of it goes.
pub const READABLE: usize = 256 * 1024;
const TORN: usize = READABLE + 64 * 1024;

// SAFETY: memory of the test's own, which nobody writes to.
unsafe impl Send for Torn {}

impl Torn {
    pub fn new() -> Self {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
        // SAFETY: a new mapping at an address of the system's choice, of which the first part is
        // then made readable.
        Torn(unsafe {
            let nowhere = std::ptr::null_mut();
            let pages = mmap_anonymous(nowhere, TORN, ProtFlags::empty(), MapFlags::PRIVATE)
                .expect("memory");
            mprotect(pages, READABLE, MprotectFlags::READ).expect("memory of ours");
            pages
        })
    }
}

impl AsRef<[u8]> for Torn {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped until dropped, and never written. Nobody but the system looks past the
        // readable part, and is answered with an error.
        unsafe { std::slice::from_raw_parts(self.0.cast(), TORN) }
    }
}

impl Drop for Torn {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nobody refers to it any more.
        unsafe { rustix::mm::munmap(self.0, TORN).expect("it is mapped") };
    }
}
