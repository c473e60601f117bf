//! The result of a server of files, when it has ended.

use serde::Serialize;

use super::counts::Counts;
use crate::output::Report;
use crate::serve::ServerReport;
use crate::units::grouped;

/// The result. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct FilesReport {
    /// What is said of every server.
    #[serde(flatten)]
    pub server: ServerReport,
    /// The directory.
    pub directory: String,
    /// Requests that were answered.
    pub requests: u64,
    /// With a status of 200 to 299.
    pub answered_2xx: u64,
    /// With a status of 300 to 399.
    pub answered_3xx: u64,
    /// With a status of 400 to 499.
    pub answered_4xx: u64,
    /// With a status of 500 to 599.
    pub answered_5xx: u64,
}

impl FilesReport {
    /// Adds what has been answered.
    pub fn new(server: ServerReport, directory: String, counts: &Counts) -> Self {
        Self {
            server,
            directory,
            requests: counts.total(),
            answered_2xx: counts.of_class(2),
            answered_3xx: counts.of_class(3),
            answered_4xx: counts.of_class(4),
            answered_5xx: counts.of_class(5),
        }
    }
}

impl Report for FilesReport {
    fn table(&self) -> String {
        let answers = format!(
            "{}: {} 2xx, {} 3xx, {} 4xx, {} 5xx",
            grouped(self.requests),
            grouped(self.answered_2xx),
            grouped(self.answered_3xx),
            grouped(self.answered_4xx),
            grouped(self.answered_5xx),
        );
        self.server.table(&self.directory, ("requests", answers))
    }
}
