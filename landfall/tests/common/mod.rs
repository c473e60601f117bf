//! What the tests of the port and those above it share.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use landfall::fs::options;

/// A path where a test may have a file, which is gone when the test is.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Scratch(env::temp_dir().join(format!("landfall-{}-{number}", process::id())))
    }

    pub fn holding(bytes: &[u8]) -> Self {
        let scratch = Scratch::new();
        fs::write(&scratch.0, bytes).expect("a temporary file");
        scratch
    }

    /// With so many zeros, which take no room on the disk.
    pub fn sparse(length: u64) -> Self {
        let scratch = Scratch::new();
        scratch.open().set_len(length).expect("a sparse file");
        scratch
    }

    pub fn open(&self) -> File {
        let opened = options().read(true).write(true).create(true).open(&self.0);
        opened.expect("a temporary file")
    }

    pub fn opened_for_writing_only(&self) -> File {
        options().write(true).open(&self.0).expect("is there")
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).expect("is there")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // One that was never made is gone as well.
        let _ = fs::remove_file(&self.0);
    }
}

/// Bytes that say when they are freed.
pub struct Counted(pub Arc<AtomicUsize>, pub Vec<u8>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
