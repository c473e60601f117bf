//! Relays: `landfall map`, HAProxy with and without splicing, nginx's stream module.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bulk;
use crate::client::Client;
use crate::process::{self, Echo, OTHERS, Scratch, Server, free_address, installed, sibling};
use crate::rounds::{interleave, show};

/// Bytes on each of so many connections at a time.
const BYTES: u64 = 256 * 1024 * 1024;
const CONNECTIONS: usize = 4;

const MESSAGES: usize = 20_000;
/// One: each message is waited for. Many: one look finds several.
const MESSAGE_CONNECTIONS: [usize; 2] = [1, 50];
const MESSAGE_SIZE: usize = 64;

const PEERS: [&str; 3] = ["haproxy, splicing", "haproxy, copying", "nginx"];

/// A way to start a relay to an address.
type Start = fn(SocketAddr) -> Result<Server>;

const RELAYS: [(&str, Start); 6] = [
    ("landfall", |to| landfall(to, "auto", "auto")),
    ("landfall, copying", |to| landfall(to, "off", "auto")),
    ("landfall, readiness", |to| landfall(to, "auto", "poll")),
    (PEERS[0], |to| haproxy(to, "option splice-auto")),
    (PEERS[1], |to| haproxy(to, "")),
    (PEERS[2], nginx),
];

pub fn run(rounds: usize) -> Result<bool> {
    process::pin(OTHERS)?;
    let mut holds = relayed(rounds)?;
    for connections in MESSAGE_CONNECTIONS {
        holds &= echoed(connections, rounds)?;
    }
    Ok(holds)
}

fn relayed(rounds: usize) -> Result<bool> {
    let target = TcpListener::bind("127.0.0.1:0")?;
    let mut relays = start_all(target.local_addr()?)?;
    let gigabytes = (BYTES * CONNECTIONS as u64) as f64 / 1e9;
    let all = interleave(&mut relays, rounds, |relay| {
        let before = relay.processor_time()?;
        bulk::send(relay.address, &target, CONNECTIONS, BYTES)?;
        Ok((relay.processor_time()? - before).as_secs_f64() / gigabytes)
    })?;
    let title = format!(
        "map, {CONNECTIONS} connections, {} MiB each, one way",
        BYTES >> 20
    );
    Ok(show(
        &title,
        "seconds of processor time per GB",
        &all,
        &PEERS,
    ))
}

fn echoed(connections: usize, rounds: usize) -> Result<bool> {
    let target = Echo::start(connections * RELAYS.len())?;
    let mut relays = start_all(target.address)?
        .into_iter()
        .map(|(name, relay)| {
            let mut client = Client::new(relay.address, MESSAGE_SIZE)?;
            client.connect(connections)?;
            client.closed_loop(0, MESSAGES / 10)?;
            Ok((name, (relay, client)))
        })
        .collect::<Result<Vec<_>>>()?;
    let all = interleave(&mut relays, rounds, |(relay, client)| {
        let before = relay.processor_time()?;
        client.closed_loop(0, MESSAGES)?;
        // There and back.
        Ok((relay.processor_time()? - before).as_secs_f64() * 1e6 / (2 * MESSAGES) as f64)
    })?;
    let title = format!("map, {connections} at a time, echo of {MESSAGE_SIZE} bytes");
    Ok(show(
        &title,
        "us of processor time per relayed message",
        &all,
        &PEERS,
    ))
}

fn start_all(target: SocketAddr) -> Result<Vec<(&'static str, Server)>> {
    RELAYS
        .into_iter()
        .map(|(name, start)| Ok((name, start(target).context(name)?)))
        .collect()
}

fn landfall(target: SocketAddr, zero_copy: &str, driver: &str) -> Result<Server> {
    let address = free_address()?;
    let rule = format!("{address}={target}");
    let arguments = [
        "map",
        &rule,
        "--workers",
        "1",
        "--concurrency",
        "1",
        "--zero-copy",
        zero_copy,
        "--driver",
        driver,
        "-q",
    ];
    let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
    let files = Scratch::new(&format!("map-{}", address.port()))?;
    Server::start(&sibling("landfall")?, &arguments, address, files)
}

fn haproxy(target: SocketAddr, option: &str) -> Result<Server> {
    let address = free_address()?;
    let files = Scratch::new(&format!("haproxy-{}", address.port()))?;
    let configuration = files.write(
        "haproxy.cfg",
        format!(
            "global\n  maxconn 4000\n  nbthread 1\n\
             defaults\n  mode tcp\n  {option}\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             listen relay\n  bind {address}\n  server target {target}\n"
        ),
    )?;
    let arguments = [
        OsStr::new("-db"),
        OsStr::new("-f"),
        configuration.as_os_str(),
    ];
    Server::start(&debian("haproxy")?, &arguments, address, files)
}

fn nginx(target: SocketAddr) -> Result<Server> {
    let address = free_address()?;
    let files = Scratch::new(&format!("nginx-{}", address.port()))?;
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let blocks = format!(
        "stream {{ server {{ listen {address}; proxy_pass {target}; proxy_buffer_size 64k; proxy_half_close on; }} }}\n"
    );
    let configuration = nginx_configuration(&files, Some(module), &blocks)?;
    let arguments = [OsStr::new("-c"), configuration.as_os_str()];
    Server::start(&debian("nginx")?, &arguments, address, files)
}

/// A configuration for nginx in the foreground with one worker.
pub fn nginx_configuration(
    files: &Scratch,
    module: Option<&Path>,
    blocks: &str,
) -> Result<PathBuf> {
    let module = module.map_or(String::new(), |path| {
        format!("load_module {};\n", path.display())
    });
    let text = format!(
        "{module}daemon off;\nworker_processes 1;\npid {};\nerror_log {} crit;\n\
         events {{ worker_connections 4000; }}\n{blocks}",
        files.path("pid").display(),
        files.path("errors").display()
    );
    files.write("nginx.conf", text)
}

pub fn debian(name: &str) -> Result<PathBuf> {
    installed(name).with_context(|| {
        format!("{name} is missing: apt-get install haproxy nginx libnginx-mod-stream wrk nmap")
    })
}
