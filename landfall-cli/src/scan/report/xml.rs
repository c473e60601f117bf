//! The XML that nmap writes, for the programs that read it. It satisfies nmap's DTD but for the name
//! of the scanner, which is our own.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{Form, HostCounts, HostReport, PortReport, Setting, Summary, unix_seconds};

/// nmap's XML.
#[derive(Debug, Default)]
pub struct Xml;

/// The version of the form that is written.
const FORM: &str = "1.05";

impl Form for Xml {
    fn begin(&mut self, to: &mut dyn Write, setting: &Setting) -> io::Result<()> {
        let Setting {
            command_line,
            version,
            ports,
            ports_per_host,
            ..
        } = setting;
        writeln!(to, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(to, "<!DOCTYPE nmaprun>")?;
        writeln!(
            to,
            r#"<nmaprun scanner="landfall" args="{}" start="{}" version="{version}" xmloutputversion="{FORM}">"#,
            escaped(command_line),
            unix_seconds(setting.started),
        )?;
        writeln!(
            to,
            r#"<scaninfo type="connect" protocol="tcp" numservices="{ports_per_host}" services="{ports}"/>"#
        )?;
        writeln!(to, r#"<verbose level="0"/>"#)?;
        writeln!(to, r#"<debugging level="0"/>"#)
    }

    fn host(&mut self, to: &mut dyn Write, setting: &Setting, host: &HostReport) -> io::Result<()> {
        if !host.is_worth_telling() {
            return Ok(());
        }
        let (state, reason) = host.status();
        let family = match host.host.address.is_ipv4() {
            true => "ipv4",
            false => "ipv6",
        };
        writeln!(
            to,
            r#"<host starttime="{}"><status state="{state}" reason="{reason}" reason_ttl="0"/>"#,
            unix_seconds(setting.started)
        )?;
        let address = host.host.address;
        writeln!(to, r#"<address addr="{address}" addrtype="{family}"/>"#)?;
        writeln!(to, "<hostnames>")?;
        if let Some(name) = &host.host.name {
            writeln!(to, r#"<hostname name="{}" type="user"/>"#, escaped(name))?;
        }
        writeln!(to, "</hostnames>")?;
        write!(to, "<ports>")?;
        for unlisted in &host.unlisted {
            let (state, count) = (unlisted.verdict.state().nmap_name(), unlisted.count);
            writeln!(to, r#"<extraports state="{state}" count="{count}">"#)?;
            let reason = unlisted.verdict.reason();
            writeln!(to, r#"<extrareasons reason="{reason}" count="{count}"/>"#)?;
            writeln!(to, "</extraports>")?;
        }
        for listed in &host.listed {
            writeln!(to, "{}", port(listed))?;
        }
        writeln!(to, "</ports>\n</host>")
    }

    fn end(&mut self, to: &mut dyn Write, _: &Setting, summary: &Summary) -> io::Result<()> {
        let elapsed_seconds = summary.elapsed_seconds;
        let HostCounts { up, down, .. } = summary.hosts;
        let exit = match (summary.exit_code, summary.complaints.as_str()) {
            (0, _) => String::from(r#"exit="success""#),
            (_, "") => String::from(r#"exit="error""#),
            (_, lacks) => format!(r#"exit="error" errormsg="{}""#, escaped(lacks)),
        };
        writeln!(
            to,
            r#"<runstats><finished time="{}" elapsed="{elapsed_seconds:.2}" summary="Landfall {}: {}" {exit}/><hosts up="{up}" down="{down}" total="{}"/>"#,
            unix_seconds(summary.ended),
            summary.ending(),
            escaped(&summary.in_nmaps_words()),
            up + down,
        )?;
        writeln!(to, "</runstats>\n</nmaprun>")?;
        to.flush()
    }
}

fn port(port: &PortReport) -> String {
    let (number, state, reason) = (port.port, port.state.nmap_name(), escaped(&port.reason));
    let mut text = format!(
        r#"<port protocol="tcp" portid="{number}"><state state="{state}" reason="{reason}" reason_ttl="0"/>"#
    );
    if let Some(service) = &port.service {
        // By the port alone, which is worth 3 of 10.
        let service = escaped(service);
        let _ = write!(
            text,
            r#"<service name="{service}" method="table" conf="3"/>"#
        );
    }
    if let Some(banner) = &port.banner {
        let _ = write!(
            text,
            r#"<script id="banner" output="{}"/>"#,
            escaped(banner)
        );
    }
    text + "</port>"
}

/// Text as the value of an attribute. What XML cannot hold is left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\r' | '\t' => {
                let _ = write!(escaped, "&#{};", c as u32);
            }
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_within_its_attribute() {
        assert_eq!(
            escaped("a<b & \"c\"\n\u{1}d"),
            "a&lt;b &amp; &quot;c&quot;&#10;d"
        );
    }
}
