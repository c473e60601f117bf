//! File servers: `landfall files` and nginx, asked by wrk.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::map::{debian, nginx_configuration};
use crate::process::{OTHERS, Scratch, Server, free_address, on, sibling};
use crate::rounds::{interleave, show};

/// A file that is asked for by so many connections for so many seconds.
struct Case {
    name: &'static str,
    size: usize,
    connections: usize,
    seconds: u32,
    /// Each connection is used for one request.
    closes: bool,
}

/// Of the largest, few are asked for at a time, and for longer: those that are cut off at the end cost time
/// and are not counted.
const CASES: [Case; 10] = [
    Case {
        closes: true,
        ..Case::of_size("1K", 1024)
    },
    Case {
        closes: true,
        ..Case::of_size("16K", 16 * 1024)
    },
    Case::of_size("1K", 1024),
    Case::of_size("4K", 4 * 1024),
    Case::of_size("8K", 8 * 1024),
    Case::of_size("16K", 16 * 1024),
    Case::of_size("32K", 32 * 1024),
    Case::of_size("64K", 64 * 1024),
    Case::of_size("1M", 1024 * 1024),
    Case {
        name: "64M",
        size: 64 * 1024 * 1024,
        connections: 4,
        seconds: 8,
        closes: false,
    },
];

impl Case {
    const fn of_size(name: &'static str, size: usize) -> Self {
        Case {
            name,
            size,
            connections: 32,
            seconds: 3,
            closes: false,
        }
    }

    /// Whether what counts is its bytes.
    fn by_bytes(&self) -> bool {
        self.size >= 1024 * 1024
    }
}

pub fn run(rounds: usize) -> Result<bool> {
    let folder = Scratch::new("files")?;
    for case in &CASES {
        folder.write(case.name, vec![b'x'; case.size])?;
    }
    let mut servers = [
        ("landfall", landfall(&folder.path(""))?),
        ("nginx", nginx(&folder.path(""))?),
    ];
    let mut holds = true;
    for case in &CASES {
        let all = interleave(&mut servers, rounds, |server| {
            let before = server.processor_time()?;
            let requests = ask(server, case)?;
            let spent = (server.processor_time()? - before).as_secs_f64();
            Ok(match case.by_bytes() {
                true => spent / (requests * case.size as f64 / 1e9),
                false => spent * 1e6 / requests,
            })
        })?;
        let unit = match case.by_bytes() {
            true => "seconds of processor time per GB",
            false => "us of processor time per request",
        };
        let Case {
            name, connections, ..
        } = case;
        let each = match case.closes {
            true => ", one request each",
            false => "",
        };
        let title = format!("files, {connections} connections{each}, files of {name}");
        holds &= show(&title, unit, &all, &["nginx"]);
    }
    Ok(holds)
}

/// Asks for a file for a while; returns how many complete answers came.
fn ask(server: &Server, case: &Case) -> Result<f64> {
    let Case {
        name,
        connections,
        seconds,
        closes,
        ..
    } = case;
    let output = on(OTHERS, &debian("wrk")?)
        .args(["-t1", "--timeout", "30s"])
        .args([format!("-c{connections}"), format!("-d{seconds}s")])
        .args(closes.then_some("-HConnection: close"))
        .arg(format!("http://{}/{name}", server.address))
        .stdin(Stdio::null())
        .output()
        .context("cannot start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "wrk was not answered as it should be: {text}"
    );
    // "  123456 requests in 3.00s, 38.00MB read"
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    requests.with_context(|| format!("wrk does not say how many: {text}"))
}

fn landfall(folder: &Path) -> Result<Server> {
    let address = free_address()?;
    let listen = address.to_string();
    let arguments = [
        OsStr::new("files"),
        folder.as_os_str(),
        OsStr::new("--listen"),
        OsStr::new(&listen),
    ];
    let single = ["--workers", "1", "--concurrency", "1", "-q"].map(OsStr::new);
    let files = Scratch::new(&format!("files-{}", address.port()))?;
    let arguments = [&arguments[..], &single[..]].concat();
    Server::start(&sibling("landfall")?, &arguments, address, files)
}

fn nginx(folder: &Path) -> Result<Server> {
    let address = free_address()?;
    let files = Scratch::new(&format!("nginx-{}", address.port()))?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};", files.path(kind).display()))
        .join(" ");
    let blocks = format!(
        "http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; {temporary}\n\
         server {{ listen {address}; root {}; }} }}\n",
        folder.display()
    );
    let configuration = nginx_configuration(&files, None, &blocks)?;
    let arguments = [OsStr::new("-c"), configuration.as_os_str()];
    Server::start(&debian("nginx")?, &arguments, address, files)
}
