//! A line of CSV (RFC 4180) for each listed port.

use std::io::{self, Write};

use super::{Form, HostReport, Setting, Summary};

/// Lines of CSV.
#[derive(Debug, Default)]
pub struct Csv;

impl Form for Csv {
    fn begin(&mut self, to: &mut dyn Write, _: &Setting) -> io::Result<()> {
        writeln!(to, "address,name,port,protocol,state,reason,service,banner")
    }

    fn host(&mut self, to: &mut dyn Write, _: &Setting, host: &HostReport) -> io::Result<()> {
        for port in &host.listed {
            writeln!(
                to,
                "{},{},{},tcp,{},{},{},{}",
                host.host.address,
                quoted(host.name()),
                port.port,
                port.state.name(),
                quoted(&port.reason),
                quoted(port.service.as_deref().unwrap_or_default()),
                quoted(port.banner.as_deref().unwrap_or_default()),
            )?;
        }
        Ok(())
    }

    fn end(&mut self, to: &mut dyn Write, _: &Setting, summary: &Summary) -> io::Result<()> {
        if summary.interrupted {
            // No comment can be written, so it is a line that stands for all ports that are missing.
            writeln!(to, ",,,tcp,not_scanned,{},,", quoted(&summary.complaints))?;
        }
        to.flush()
    }
}

/// A field, in quotes if it needs them.
fn quoted(field: &str) -> String {
    match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_could_be_taken_for_two_is_quoted() {
        assert_eq!(quoted("ssh"), "ssh");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"a\""), "\"say \"\"a\"\"\"");
    }
}
