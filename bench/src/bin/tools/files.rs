//! File servers: `landfall files` and nginx, asked by wrk.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::map::{debian, nginx_configuration};
use crate::process::{OTHERS, Scratch, Server, free_address, on, sibling};
use crate::rounds::{interleave, show};

/// Names and sizes of the files, and whether what counts is their bytes.
const FILES: [(&str, usize, bool); 5] = [
    ("1K", 1024, false),
    ("16K", 16 * 1024, false),
    ("64K", 64 * 1024, false),
    ("1M", 1024 * 1024, true),
    ("64M", 64 * 1024 * 1024, true),
];
const CONNECTIONS: usize = 32;
const SECONDS: usize = 3;

pub fn run(rounds: usize) -> Result<bool> {
    let folder = Scratch::new("files")?;
    for (name, size, _) in FILES {
        folder.write(name, vec![b'x'; size])?;
    }
    let mut servers = [
        ("landfall", landfall(&folder.path(""))?),
        ("nginx", nginx(&folder.path(""))?),
    ];
    let mut holds = true;
    for (name, size, by_bytes) in FILES {
        let all = interleave(&mut servers, rounds, |server| {
            let before = server.processor_time()?;
            let requests = ask(server, name)?;
            let spent = (server.processor_time()? - before).as_secs_f64();
            Ok(match by_bytes {
                true => spent / (requests * size as f64 / 1e9),
                false => spent * 1e6 / requests,
            })
        })?;
        let unit = match by_bytes {
            true => "seconds of processor time per GB",
            false => "us of processor time per request",
        };
        let title = format!("files, {CONNECTIONS} connections, files of {name}");
        holds &= show(&title, unit, &all, &["nginx"]);
    }
    Ok(holds)
}

/// Asks for a file for a while; returns how many complete answers came.
fn ask(server: &Server, file: &str) -> Result<f64> {
    let output = on(OTHERS, &debian("wrk")?)
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{SECONDS}s")])
        .arg(format!("http://{}/{file}", server.address))
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
