//! What the examples share.

use std::process::ExitCode;

/// Says on standard error what went wrong, if anything did; what a program exits with.
pub fn report(what: &str, result: landfall::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{what}: {error}");
            ExitCode::FAILURE
        }
    }
}
