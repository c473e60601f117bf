//! Completion ports for Rust.
