//! One JSON object on a line, written piece by piece.

use std::io::{self, Write};
use std::net::IpAddr;

use serde::Serialize;

use super::{Counts, Form, HostReport, PortReport, Setting, Summary};

/// The object of `--json`.
#[derive(Debug, Default)]
pub struct Json {
    has_hosts: bool,
}

#[derive(Serialize)]
struct Host<'a> {
    address: IpAddr,
    name: Option<&'a str>,
    status: &'static str,
    #[serde(flatten)]
    counts: Counts,
    ports: &'a [PortReport],
}

impl Form for Json {
    fn begin(&mut self, to: &mut dyn Write, setting: &Setting) -> io::Result<()> {
        let object = serde_json::to_string(setting)?;
        let members = object.strip_suffix('}').unwrap_or(&object);
        write!(to, "{members},\"hosts\":[")
    }

    fn host(&mut self, to: &mut dyn Write, _: &Setting, host: &HostReport) -> io::Result<()> {
        if !host.is_worth_telling() {
            return Ok(());
        }
        if std::mem::replace(&mut self.has_hosts, true) {
            to.write_all(b",")?;
        }
        let host = Host {
            address: host.host.address,
            name: host.host.name.as_deref(),
            status: host.status().0,
            counts: host.counts,
            ports: &host.listed,
        };
        serde_json::to_writer(to, &host).map_err(io::Error::from)
    }

    fn end(&mut self, to: &mut dyn Write, _: &Setting, summary: &Summary) -> io::Result<()> {
        let object = serde_json::to_string(summary)?;
        let members = object.strip_prefix('{').unwrap_or(&object);
        writeln!(to, "],{members}")?;
        to.flush()
    }
}
