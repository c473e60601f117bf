//! Scanners: `landfall scan`, nmap and RustScan, of all ports of an address with 40 listeners.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::map::debian;
use crate::process::{installed, sibling};
use crate::rounds::{interleave, show};

/// An address of its own, where nothing else listens but what listens everywhere.
const ADDRESS: &str = "127.0.7.1";
const LISTENERS: usize = 40;

/// A scanner, its arguments, and how its output names the open ports.
struct Scanner {
    program: PathBuf,
    arguments: Vec<String>,
    open: fn(&str) -> BTreeSet<u16>,
}

pub fn run(rounds: usize) -> Result<bool> {
    let listeners = (0..LISTENERS)
        .map(|_| TcpListener::bind((ADDRESS, 0)))
        .collect::<Result<Vec<_>, _>>()?;
    let open = open_ports();
    for listener in &listeners {
        let port = listener.local_addr()?.port();
        ensure!(open.contains(&port), "port {port} does not listen");
    }
    let mut scanners = scanners()?;
    let all = interleave(&mut scanners, rounds, |scanner| {
        let (seconds, found) = scanner.run()?;
        compare(&found, &open)?;
        Ok(seconds)
    })?;
    let title = format!(
        "scan, 65,535 ports of {ADDRESS}, of which {} are open",
        open.len()
    );
    Ok(show(&title, "seconds", &all, &["nmap", "rustscan"]))
}

/// What is open, found out in the plainest way: one connect after the other.
fn open_ports() -> BTreeSet<u16> {
    let is_open = |&port: &u16| {
        let connected = TcpStream::connect((ADDRESS, port));
        // The system may pick the port itself for our end: then that is who answers.
        connected.is_ok_and(|stream| stream.local_addr().ok() != stream.peer_addr().ok())
    };
    (1..=u16::MAX).filter(is_open).collect()
}

/// Refuses a result that is not exact: a scanner can be fast by being wrong, either way.
fn compare(found: &BTreeSet<u16>, open: &BTreeSet<u16>) -> Result<()> {
    let missed: Vec<_> = open.difference(found).collect();
    let wrong: Vec<_> = found.difference(open).collect();
    ensure!(
        missed.is_empty() && wrong.is_empty(),
        "missed open ports {missed:?}, called open what is not {wrong:?}"
    );
    Ok(())
}

fn scanners() -> Result<Vec<(&'static str, Scanner)>> {
    let arguments = |text: &str| text.split(' ').map(str::to_owned).collect();
    let mut scanners = vec![
        (
            "landfall",
            Scanner {
                program: sibling("landfall")?,
                arguments: arguments(&format!("scan {ADDRESS} -p- -q -oG -")),
                open: greppable,
            },
        ),
        (
            "nmap",
            Scanner {
                program: debian("nmap")?,
                arguments: arguments(&format!("-sT -n -Pn -p- -oG - {ADDRESS}")),
                open: greppable,
            },
        ),
    ];
    let rustscan = std::env::var_os("RUSTSCAN").map(PathBuf::from);
    match rustscan.or_else(|| installed("rustscan")) {
        Some(program) => scanners.push((
            "rustscan",
            Scanner {
                program,
                // Its default, 4,500 at a time, takes half as long again here: of 5 to 19,000 at a time,
                // 20 were the fastest.
                arguments: arguments(&format!("-a {ADDRESS} -n -g --no-banner -b 20")),
                open: list,
            },
        )),
        None => {
            println!("without rustscan (cargo install rustscan; or set RUSTSCAN to its path)\n")
        }
    }
    Ok(scanners)
}

impl Scanner {
    fn run(&self) -> Result<(f64, BTreeSet<u16>)> {
        let begun = Instant::now();
        let output = command(&self.program)
            .args(&self.arguments)
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let seconds = begun.elapsed().as_secs_f64();
        ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let open = (self.open)(&String::from_utf8_lossy(&output.stdout));
        Ok((seconds, open))
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// `Ports: 22/open/tcp//ssh///, 80/open/tcp//http///`
fn greppable(text: &str) -> BTreeSet<u16> {
    text.split([' ', '\t'])
        .filter_map(|word| word.split_once("/open/tcp/")?.0.parse().ok())
        .collect()
}

/// `127.0.0.1 -> [22,80]`
fn list(text: &str) -> BTreeSet<u16> {
    text.lines()
        .filter_map(|line| line.split_once("-> [")?.1.split_once(']'))
        .flat_map(|(ports, _)| ports.split(','))
        .filter_map(|port| port.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_too_few_or_too_many_is_noticed() {
        let open = BTreeSet::from([22, 80]);
        assert!(compare(&open, &open).is_ok());
        for found in [BTreeSet::from([22]), BTreeSet::from([22, 80, 443])] {
            assert!(compare(&found, &open).is_err());
        }
    }

    #[test]
    fn open_ports_are_read_from_what_the_scanners_write() {
        let text = "Host: 127.0.0.1 ()\tPorts: 22/open/tcp//ssh///, 80/closed/tcp//http///, 443/open/tcp/////";
        assert_eq!(greppable(text), BTreeSet::from([22, 443]));
        assert_eq!(list("127.0.0.1 -> [22,443]\n"), BTreeSet::from([22, 443]));
    }
}
