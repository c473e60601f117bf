//! `--metrics` with curl as the scraper, and every page held against the text format of Prometheus.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{PATIENCE, Running, landfall, landfall_after, run, serve, socat};

/// Waits for a server to say where its metrics are.
#[track_caller]
fn url_of_metrics(server: &mut Running) -> String {
    server.stderr_after("metrics at ")
}

/// `HOST:PORT` of it.
fn host_of(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap();
    rest.strip_suffix("/metrics").unwrap()
}

/// What curl gets with these arguments.
#[track_caller]
fn curl(args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30"]).args(args);
    Running::start(command).finish().expect_code(0).stdout
}

/// A page of metrics: each sample with its labels, as written, and its value.
#[derive(Debug)]
struct Page {
    samples: BTreeMap<String, u64>,
    text: String,
}

impl Page {
    #[track_caller]
    fn scrape(url: &str) -> Self {
        let answer = curl(&["-i", url]);
        let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8"),
            "{head}"
        );
        Self::parse(text)
    }

    /// Reads the text format, version 0.0.4: families one after the other, each with its help and its
    /// type before its samples, and no series twice.
    #[track_caller]
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "{text}");
        let (mut samples, mut families) = (BTreeMap::new(), HashSet::new());
        let (mut helped, mut family) = (String::new(), (String::new(), String::new()));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a help");
                assert!(!help.is_empty() && is_name(name), "{line}");
                assert!(families.insert(name.to_owned()), "a family twice: {line}");
                helped = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(name, helped, "{line}");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                family = (name.to_owned(), kind.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a sample");
                let name = series.split('{').next().unwrap();
                assert_eq!(name, family.0, "{line}");
                assert!(name.starts_with("landfall_"), "{line}");
                check_labels(series.strip_prefix(name).unwrap());
                let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                let before = samples.insert(series.to_owned(), value);
                assert_eq!(before, None, "a series twice: {line}");
            }
        }
        Self {
            samples,
            text: text.to_owned(),
        }
    }

    #[track_caller]
    fn value(&self, series: &str) -> u64 {
        *self
            .samples
            .get(series)
            .unwrap_or_else(|| panic!("no {series} in {}", self.text))
    }

    /// Scrapes until the samples have these values.
    #[track_caller]
    fn wait_for(url: &str, expected: &[(&str, u64)]) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = Self::scrape(url);
            let is_there = |(series, value): &(&str, u64)| page.value(series) == *value;
            if expected.iter().all(is_there) {
                return page;
            }
            assert!(Instant::now() < deadline, "not {expected:?}: {}", page.text);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
    !name.is_empty() && name.chars().all(is_part)
}

/// `{name="value",...}`, or nothing.
#[track_caller]
fn check_labels(labels: &str) {
    let Some(labels) = labels.strip_prefix('{') else {
        return assert_eq!(labels, "");
    };
    let labels = labels.strip_suffix("\"}").expect("an end");
    for label in labels.split("\",") {
        let (name, value) = label.split_once("=\"").expect("a label");
        assert!(is_name(name) && !value.contains(['"', '\\']), "{label}");
    }
}

/// A directory that is gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("landfall-metrics-{}-{number}", std::process::id());
        let place = std::env::temp_dir().join(name);
        fs::create_dir_all(&place).unwrap();
        Self(place)
    }

    /// Writes a file, and returns its path.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Has something sent back.
fn echo(stream: &mut (impl Read + Write), text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut buffer = vec![0; text.len()];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, text.as_bytes());
}

#[test]
fn serve_says_what_its_report_counts() {
    let mut command = landfall(&["serve", "127.0.0.1:0", "--driver", "poll", "--json"]);
    command.env("LANDFALL_METRICS", "127.0.0.1:0");
    let mut server = Running::start(command);
    let url = url_of_metrics(&mut server);
    let announced = server.stdout_after("{\"listening\":[\"");
    let address = announced.split('"').next().unwrap();

    let page = Page::scrape(&url);
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("landfall_build_info{{version=\"{version}\",driver=\"poll\"}}");
    assert_eq!(page.value(&build), 1);
    assert_eq!(page.value("landfall_connections_accepted_total"), 0);

    let mut client = connect(address);
    echo(&mut client, "hello");
    let page = Page::wait_for(&url, &[("landfall_connections_active", 1)]);
    assert_eq!(page.value("landfall_received_bytes_total"), 5);
    assert!(
        !page
            .text
            .contains(&client.local_addr().unwrap().to_string())
    );
    drop(client);
    let page = Page::wait_for(&url, &[("landfall_connections_active", 0)]);
    server.signal(Signal::TERM);
    let report = server.finish().expect_code(0).json();
    // The scrapes are in none of these.
    for (series, key) in [
        ("landfall_connections_accepted_total", "accepted"),
        ("landfall_connections_refused_total", "refused"),
        ("landfall_connections_failed_total", "failed"),
        ("landfall_connections_timed_out_total", "timed_out"),
        ("landfall_accept_errors_total", "accept_errors"),
        ("landfall_received_bytes_total", "received_bytes"),
        ("landfall_sent_bytes_total", "sent_bytes"),
    ] {
        assert_eq!(Some(page.value(series)), report[key].as_u64(), "{series}");
    }
    assert_eq!(
        (&report["accepted"], &report["sent_bytes"]),
        (&1.into(), &5.into())
    );
}

#[test]
fn files_tells_answers_by_class() {
    let directory = Directory::new();
    directory.write("a.txt", "hello world\n");
    let root = directory.0.to_str().unwrap();
    let args = [
        "files",
        root,
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
    ];
    let mut server = Running::start(landfall(&args));
    let url = url_of_metrics(&mut server);
    let address = server.stdout_after("listening on ");
    assert_eq!(curl(&[&format!("http://{address}/a.txt")]), "hello world\n");
    curl(&[&format!("http://{address}/b.txt")]);
    let page = Page::wait_for(&url, &[("landfall_connections_active", 0)]);
    assert_eq!(page.value("landfall_http_responses_total{code=\"2xx\"}"), 1);
    assert_eq!(page.value("landfall_http_responses_total{code=\"4xx\"}"), 1);
    assert_eq!(page.value("landfall_http_responses_total{code=\"5xx\"}"), 0);
    assert_eq!(page.value("landfall_connections_accepted_total"), 2);
    assert!(page.value("landfall_sent_bytes_total") > 12);
}

#[test]
fn map_tells_rules_and_targets_apart_and_no_clients() {
    let (_target, target) = socat("", "EXEC:cat");
    // Nobody listens there as long as this lives.
    let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    nobody
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let down = nobody.local_addr().unwrap().as_socket().unwrap();
    let directory = Directory::new();
    let config = directory.write(
        "map.toml",
        &format!(
            r#"
            metrics = "127.0.0.1:0"
            [[map]]
            name = "web"
            listen = "127.0.0.1:0"
            targets = ["{target}"]
            [[map]]
            name = "down"
            listen = "127.0.0.1:0"
            targets = ["{down}", "{target}"]
            check = true
            check-fall = 1
            check-interval = "50ms"
            [[map]]
            name = "shut"
            listen = "127.0.0.1:0"
            targets = ["{target}"]
            deny = ["127.0.0.0/8"]
            [[map]]
            name = "udp"
            listen = "127.0.0.1:0"
            targets = ["{target}"]
            udp = true
            "#
        ),
    );
    let mut mapper = Running::start(landfall(&["map", "--config", &config]));
    let url = url_of_metrics(&mut mapper);
    let addresses = [(); 4].map(|()| mapper.stdout_after("listening on "));
    let [web, down_rule, shut, udp] = &addresses;

    let mut client = connect(web);
    echo(&mut client, "hello");
    let own = client.local_addr().unwrap().to_string();
    assert_eq!(connect(shut).read(&mut [0]).unwrap_or(0), 0);
    let rule =
        |name: &str, listen: &str| format!("rule=\"{name}\",listen=\"{listen}\",protocol=\"tcp\"");
    let (web, shut) = (rule("web", web), rule("shut", shut));
    let dead = rule("down", down_rule);
    let active = format!("landfall_map_rule_connections_active{{{web}}}");
    let refused = format!("landfall_map_rule_refused_total{{{shut}}}");
    let is_up =
        |rule: &str, target: &str| format!("landfall_map_target_up{{{rule},target=\"{target}\"}}");
    let is_down = is_up(&dead, &down.to_string());
    let page = Page::wait_for(&url, &[(&active, 1), (&refused, 1), (&is_down, 0)]);
    assert_eq!(page.value(&is_up(&dead, &target)), 1);
    assert_eq!(page.value(&is_up(&web, &target)), 1);
    assert!(!page.text.contains(&own), "{}", page.text);
    let udp = udp.strip_suffix("/udp").unwrap_or(udp);
    let sessions = format!(
        "landfall_map_rule_connections_active{{rule=\"udp\",listen=\"{udp}\",protocol=\"udp\"}}"
    );
    assert_eq!(page.value(&sessions), 0);

    drop(client);
    let page = Page::wait_for(&url, &[(&active, 0)]);
    for whose in [
        format!("rule_{{{web}}}"),
        format!("target_{{{web},target=\"{target}\"}}"),
    ] {
        let (whose, labels) = whose.split_once('{').unwrap();
        for (name, value) in [
            ("connections", 1),
            ("to_server_bytes", 5),
            ("to_client_bytes", 5),
        ] {
            let series = format!("landfall_map_{whose}{name}_total{{{labels}");
            assert_eq!(page.value(&series), value, "{series}");
        }
    }
}

#[test]
fn a_reload_changes_rules_but_not_where_metrics_are() {
    let (_target, target) = socat("", "EXEC:cat");
    let directory = Directory::new();
    let text = |metrics: &str, name: &str| {
        format!(
            "metrics = \"{metrics}\"\n[[map]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\n\
             targets = [\"{target}\"]\n"
        )
    };
    let config = directory.write("map.toml", &text("127.0.0.1:0", "one"));
    let mut mapper = Running::start(landfall(&["map", "--config", &config]));
    let url = url_of_metrics(&mut mapper);
    mapper.stdout_after("listening on ");
    assert!(Page::scrape(&url).text.contains("rule=\"one\""));

    directory.write("map.toml", &text("127.0.0.1:1", "two"));
    mapper.signal(Signal::HUP);
    mapper.stderr_after("metrics do not move to 127.0.0.1:1 in a reload");
    let done = "landfall_map_reloads_total{result=\"success\"}";
    let page = Page::wait_for(&url, &[(done, 1)]);
    assert!(page.text.contains("rule=\"two\"") && !page.text.contains("rule=\"one\""));

    directory.write("map.toml", "metrics = 9100");
    mapper.signal(Signal::HUP);
    mapper.stderr_after("not reloaded");
    Page::wait_for(
        &url,
        &[
            ("landfall_map_reloads_total{result=\"failure\"}", 1),
            (done, 1),
        ],
    );

    // A rule where the metrics are is refused at a reload as well.
    let own = url
        .strip_prefix("http://")
        .unwrap()
        .strip_suffix("/metrics")
        .unwrap();
    directory.write(
        "map.toml",
        &text("127.0.0.1:0", "own").replace("127.0.0.1:0", own),
    );
    mapper.signal(Signal::HUP);
    mapper.stderr_after("rules own and --metrics both listen on");
}

#[test]
fn where_metrics_are_is_said_to_scripts_too() {
    let base = ["serve", "127.0.0.1:0", "-q", "--metrics", "127.0.0.1:0"];
    let mut server = Running::start(landfall(&base));
    let address = server.stdout_after("metrics on ");
    Page::scrape(&format!("http://{address}/metrics"));
    let rule = ["map", "127.0.0.1:0=127.0.0.1:1", "-q", "--json"];
    let args = [&rule[..], &base[3..]].concat();
    let mut mapper = Running::start(landfall(&args));
    let address = mapper.stdout_after("\"metrics\":\"");
    let address = address.strip_suffix("\"}").unwrap();
    Page::scrape(&format!("http://{address}/metrics"));
}

#[test]
fn metrics_are_not_where_clients_come() {
    for command in [&["serve"][..], &["files", ".", "--listen"]] {
        let address = "127.0.0.1:9100";
        run(&[command, &[address, "--metrics", address]].concat())
            .expect_code(2)
            .expect_message(&["127.0.0.1:9100 is an address to listen on and that of --metrics"]);
    }
}

#[test]
fn metrics_have_sockets_when_clients_have_all_others() {
    let args = [
        "serve",
        "127.0.0.1:0",
        "--driver",
        "poll",
        "--metrics",
        "127.0.0.1:0",
    ];
    let mut server = Running::start(landfall_after("ulimit -n 300", &args));
    let url = url_of_metrics(&mut server);
    let address = server.stdout_after("listening on ");
    let clients: Vec<_> = (0..300).map(|_| connect(&address)).collect();
    echo(&mut &clients[0], "hello");
    let page = Page::scrape(&url);
    assert_eq!(page.value("landfall_accept_errors_total"), 0);
}

#[test]
fn check_config_looks_at_metrics_too() {
    let directory = Directory::new();
    let text = "metrics = \"127.0.0.1:9100\"\n[[map]]\nlisten = \"127.0.0.1:9100\"\n\
                targets = [\"127.0.0.1:1\"]\n";
    let config = directory.write("map.toml", text);
    run(&["map", "--config", &config, "--check-config"])
        .expect_code(2)
        .expect_message(&["rules 127.0.0.1:9100 and --metrics both listen on 127.0.0.1:9100"]);
    let config = directory.write("map.toml", &text.replacen("9100", "9101", 1));
    run(&["map", "--config", &config, "--check-config"]).expect_code(0);
    // A name of which only the first address is listened on.
    let args = [
        "map",
        "[::1]:9100=127.0.0.1:1",
        "127.0.0.1:9101=127.0.0.1:1",
    ];
    let metrics = ["--metrics", "localhost:9100", "--check-config"];
    let first = ("localhost", 9100)
        .to_socket_addrs()
        .unwrap()
        .next()
        .unwrap();
    let refusals = usize::from(first.is_ipv6());
    let outcome = run(&[&args[..], &metrics].concat());
    assert_eq!(outcome.stderr.matches("both listen on").count(), refusals);
}

#[test]
fn nothing_else_is_to_be_had_there() {
    let (mut server, _) = serve(&["--metrics", "127.0.0.1:0"]);
    let url = url_of_metrics(&mut server);
    let root = url.strip_suffix("metrics").unwrap();
    let head = curl(&["-I", &url]);
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let length = head
        .split_once("Content-Length: ")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap();
    assert!(length.parse::<usize>().unwrap() > 100, "{head}");
    assert!(curl(&[&format!("{url}?x=y")]).contains("landfall_build_info"));
    // In absolute form, as a proxy is asked.
    let absolute = curl(&["--request-target", &url, &url]);
    assert!(absolute.contains("landfall_build_info"), "{absolute}");
    for path in ["", "metrics/", "metric", "favicon.ico"] {
        let answer = curl(&["-i", &format!("{root}{path}")]);
        assert!(
            answer.starts_with("HTTP/1.1 404 Not Found\r\n"),
            "{path}: {answer}"
        );
    }
    let answer = curl(&["-i", "-d", "x=y", &url]);
    assert!(
        answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"), "{answer}");
    let long = format!("A: {}", "x".repeat(20_000));
    let answer = curl(&["-i", "-H", &long, &url]);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let mut client = connect(
        root.strip_prefix("http://")
            .unwrap()
            .strip_suffix('/')
            .unwrap(),
    );
    client.write_all(b"hello\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
}

#[test]
fn slow_clients_are_cut_and_keep_nobody_out_for_long() {
    let (mut server, address) = serve(&["--metrics", "127.0.0.1:0"]);
    let url = url_of_metrics(&mut server);
    let metrics = url
        .strip_prefix("http://")
        .unwrap()
        .strip_suffix("/metrics")
        .unwrap();
    let began = Instant::now();
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut client = connect(metrics);
            client.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
            client
        })
        .collect();
    // The server's own clients are not held up.
    echo(&mut connect(&address), "hello");
    // As many as may be there at a time are, so this waits until they are cut.
    Page::scrape(&url);
    // They have 2 s; Prometheus gives a scrape 10 s.
    assert!(began.elapsed() < Duration::from_secs(9));
    for mut client in slow {
        match client.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn metrics_go_on_in_a_drain_and_do_not_hold_up_its_end() {
    let (_target, target) = socat("", "EXEC:cat");
    let rule = format!("127.0.0.1:0={target}");
    let mut mapper = Running::start(landfall(&["map", &rule, "--metrics", "127.0.0.1:0"]));
    let url = url_of_metrics(&mut mapper);
    let mut client = connect(&mapper.stdout_after("listening on "));
    echo(&mut client, "hello");
    let _lingering = connect(host_of(&url));
    mapper.signal(Signal::TERM);
    mapper.stderr_after("letting 1 connection finish");
    let page = Page::scrape(&url);
    let is_open = |(series, value): (&String, &u64)| {
        series.starts_with("landfall_map_rule_connections_active{") && *value == 1
    };
    assert!(page.samples.iter().any(is_open), "{}", page.text);
    drop(client);
    mapper.finish().expect_code(0);
}

#[test]
fn an_address_that_cannot_be_had_is_refused_before_anything_starts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let directory = Directory::new();
    let root = directory.0.to_str().unwrap();
    let commands: [&[&str]; 3] = [
        &["serve", "127.0.0.1:0"],
        &["files", root, "--listen", "127.0.0.1:0"],
        &["map", "127.0.0.1:0=127.0.0.1:1"],
    ];
    for command in commands {
        let outcome = run(&[command, &["--metrics", &taken]].concat())
            .expect_code(1)
            .expect_message(&["cannot listen on", &taken, "in use"]);
        assert_eq!(outcome.stdout, "");
        // Not on all addresses unless they are written.
        run(&[command, &["--metrics", "9100"]].concat())
            .expect_code(2)
            .expect_message(&["write 127.0.0.1:9100, or 0.0.0.0:9100 to listen on all addresses"]);
    }
}
