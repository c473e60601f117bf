//! What has been answered, for `--metrics`.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::connection::Service;
use crate::metrics::Families;

/// Answers by the class of their status.
#[derive(Debug)]
pub struct AnswerMetrics(pub Arc<Service>);

impl Collector for AnswerMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.0.site.counts;
        let classes = [(2, "2xx"), (3, "3xx"), (4, "4xx"), (5, "5xx")];
        Families::new(encoder).counters(
            "http_responses",
            "Requests that were answered, by the class of the status",
            classes.map(|(digit, class)| ([("code", class)], counts.of_class(digit))),
        )
    }
}
