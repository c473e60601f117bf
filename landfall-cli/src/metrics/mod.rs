//! `--metrics ADDR`: what has been counted, for Prometheus, at `http://ADDR/metrics`.
//!
//! Figures stay where they are counted; they are read when somebody asks for them.

mod endpoint;
mod families;

use clap::Args;

pub use endpoint::Endpoint;
pub use families::Families;

use crate::exit::Failure;
use crate::units::{Limit, port_of};

/// Where metrics are to be had.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct MetricsArgs {
    /// Say what has been counted, for Prometheus, at http://ADDR/metrics
    #[arg(
        long, value_name = "ADDR", default_value = "none",
        value_parser = Limit::parser(parse_address), env = "LANDFALL_METRICS"
    )]
    pub metrics: Limit<String>,
}

impl MetricsArgs {
    /// Where they are to be had, if anywhere.
    pub fn address(&self) -> Option<&str> {
        self.metrics.0.as_deref()
    }

    /// Refuses an address that a program's own clients are to come to.
    pub fn check_apart(&self, others: &[String]) -> Result<(), Failure> {
        let is_same = |address: &&str| others.iter().any(|other| other == address);
        match self.address().filter(is_same) {
            // Another one each time.
            Some(address) if port_of(address) != Ok(0) => Err(Failure::usage(format!(
                "{address} is an address to listen on and that of --metrics: give one of them another port"
            ))),
            _ => Ok(()),
        }
    }

    /// How many of these sockets are left for others. As many as there can be are without a limit.
    pub fn leave_of(&self, sockets: u64) -> u64 {
        match self.metrics.0 {
            Some(_) if sockets < usize::MAX as u64 => sockets.saturating_sub(Endpoint::SOCKETS),
            _ => sockets,
        }
    }
}

/// Reads `HOST:PORT`. The host has to be written: what all the world may ask is nobody's default.
pub fn parse_address(text: &str) -> Result<String, String> {
    port_of(text).map(|_| text.to_owned())
}
