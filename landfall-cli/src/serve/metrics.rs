//! What a server has counted, for `--metrics`.

use std::fmt;

use landfall::server::ServerHandle;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::metrics::Families;

/// What is said of every server: the figures of its report.
#[derive(Debug)]
pub struct ServerMetrics(pub ServerHandle);

impl Collector for ServerMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.stats();
        let mut families = Families::new(encoder);
        families.gauge(
            "connections_active",
            "Connections that are open",
            stats.active,
        )?;
        for (name, help, value) in [
            (
                "connections_accepted",
                "Connections that were served",
                stats.accepted,
            ),
            (
                "connections_refused",
                "Connections that had come when the server ended, and were not served",
                stats.refused,
            ),
            (
                "connections_failed",
                "Connections that ended with an error",
                stats.failed + stats.panicked,
            ),
            (
                "connections_timed_out",
                "Connections that were closed after --idle-timeout",
                stats.timed_out,
            ),
            (
                "accept_errors",
                "Accepts that failed, for want of descriptors or memory as a rule",
                stats.accept_errors,
            ),
            (
                "received_bytes",
                "Bytes received from clients",
                stats.received_bytes,
            ),
            ("sent_bytes", "Bytes sent to clients", stats.sent_bytes),
        ] {
            families.counter(name, help, value)?;
        }
        Ok(())
    }
}
