//! `landfall scan`: the ports that are open and no others, whatever this machine runs out of.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::{Running, landfall, run};

/// A directory of its own for a test's files, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("scan-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a shell script in a network of its own, where nobody else listens.
fn in_own_network(script: &str) -> Running {
    let mut command = Command::new("unshare");
    command.args([
        "--map-root-user",
        "--net",
        "sh",
        "-ec",
        &format!("ip link set lo up\n{script}"),
    ]);
    command.env("LANDFALL", env!("CARGO_BIN_EXE_landfall"));
    Running::start(command)
}

/// Forty servers of our own network, on ports all over the range, and what follows them there.
fn beside_forty_servers(script: &str) -> Running {
    in_own_network(&format!(
        "listening=$(mktemp)
        set -- $(for i in $(seq 1 40); do echo 127.0.0.1:$((i * 1600)); done)
        \"$LANDFALL\" serve \"$@\" --discard -q >$listening &
        server=$!
        trap 'kill $server; wait $server || true; rm $listening' EXIT
        until [ \"$(wc -l <$listening)\" = 40 ]; do sleep 0.02; done
        {script}"
    ))
}

/// A network of our own, beside which 10.8.0.0/16 takes everything and answers nothing: it is at the
/// other end of a pair of interfaces, which has no address and is not asked for one.
fn beside_a_silent_network(script: &str) -> Running {
    in_own_network(&format!(
        "ip link add here type veth peer name there
        ip link set there up
        ip link set here arp off up
        ip address add 10.8.0.1/16 dev here
        {script}"
    ))
}

fn forty() -> BTreeSet<u64> {
    (1..=40).map(|i| i * 1600).collect()
}

fn open_ports(scan: &Value) -> BTreeSet<u64> {
    let ports = scan["hosts"][0]["ports"].as_array().expect("a list");
    ports
        .iter()
        .inspect(|port| assert_eq!(port["state"], "open", "{scan}"))
        .map(|port| port["port"].as_u64().expect("a number"))
        .collect()
}

/// Asserts that so many scans, each a line of JSON, all found the forty and nothing else.
#[track_caller]
fn expect_forty(stdout: &str, times: usize) {
    let scans: Vec<Value> = stdout
        .lines()
        .filter(|line| line.starts_with("{\"command\":\"scan\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(scans.len(), times, "{stdout}");
    for scan in scans {
        assert_eq!(open_ports(&scan), forty(), "{scan}");
        assert_eq!(
            (&scan["closed"], &scan["filtered"], &scan["unresolved"]),
            (&65_495.into(), &0.into(), &0.into()),
            "{scan}"
        );
        assert_eq!(scan["exit_code"], 0);
    }
}

#[test]
fn forty_servers_are_found_among_all_ports_every_time() {
    let script = "for i in 1 2 3; do \"$LANDFALL\" scan 127.0.0.1 -p - --json -q; done";
    let outcome = beside_forty_servers(script).finish().expect_code(0);
    expect_forty(&outcome.stdout, 3);
}

#[test]
fn with_few_descriptors_the_same_is_found() {
    for driver in ["auto", "poll"] {
        let script = format!(
            "ulimit -n 64; for i in 1 2; do
                \"$LANDFALL\" scan 127.0.0.1 -p - --driver {driver} --json -q; done"
        );
        let outcome = beside_forty_servers(&script).finish().expect_code(0);
        expect_forty(&outcome.stdout, 2);
    }
}

#[test]
fn nmap_finds_the_same_and_its_tools_take_our_xml() {
    let directory = Directory::new("nmap");
    let [ours, theirs] = ["ours", "theirs"].map(|name| directory.file(name));
    let script = format!(
        "\"$LANDFALL\" scan 127.0.0.1 -p - -oX {ours}.xml -oG {ours}.gnmap -q >/dev/null
        nmap -n -sT -p- -oX {theirs}.xml -oG {theirs}.gnmap 127.0.0.1 >/dev/null
        ndiff {ours}.xml {theirs}.xml || test $? = 1"
    );
    beside_forty_servers(&script).finish().expect_code(0);
    expect_nmaps_xml(&format!("{ours}.xml"));
    let ports = |path: &str| {
        let text = fs::read_to_string(format!("{path}.gnmap")).unwrap();
        let line = text
            .lines()
            .find(|line| line.contains("Ports:"))
            .unwrap()
            .to_owned();
        // Names of services come from another list.
        let states = |ports: &str| -> Vec<String> {
            ports
                .split(", ")
                .map(|port| port.splitn(5, '/').take(4).collect::<Vec<_>>().join("/"))
                .collect()
        };
        let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
        (states(&fields[1]), fields[0].clone(), fields[2..].to_vec())
    };
    let (ours, theirs) = (ports(&ours), ports(&theirs));
    assert_eq!(ours, theirs);
    assert_eq!(ours.0.len(), 40);
}

#[test]
fn a_silent_network_an_unreachable_and_a_forbidden_one_are_told_apart() {
    let script = "ip route add unreachable 10.9.0.0/24
        ip route add prohibit 10.10.0.0/24
        exec \"$LANDFALL\" scan 10.8.0.2 10.9.0.1 10.10.0.1 10.11.0.1 127.0.0.1 -p 22,80 \
            --all-states --timeout 200ms --json";
    let json = beside_a_silent_network(script)
        .finish()
        .expect_code(0)
        .json();
    let reasons: Vec<_> = json["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|host| host["ports"].as_array().unwrap())
        .map(|port| {
            (
                port["state"].as_str().unwrap(),
                port["reason"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("filtered", "no-response"),
        ("filtered", "host-unreach"),
        ("filtered", "admin-prohibited"),
        ("filtered", "net-unreach"),
        ("closed", "conn-refused"),
    ];
    assert_eq!(reasons, expected.map(|pair| [pair; 2]).concat(), "{json}");
    // The silent host was asked twice for each port.
    assert_eq!(json["connects"], 12);
}

#[test]
fn a_port_is_never_called_closed_for_want_of_a_local_port() {
    // The only port that connects can come from is taken.
    let script = "\"$LANDFALL\" serve 0.0.0.0:40000 -q >/dev/null &
        trap \"kill $!; wait\" EXIT
        echo 40000 40000 >/proc/sys/net/ipv4/ip_local_port_range
        until grep -q :9C40 /proc/net/tcp; do sleep 0.02; done
        \"$LANDFALL\" scan 127.0.0.1 -p 80,81 --json";
    let outcome = in_own_network(script)
        .finish()
        .expect_code(4)
        .expect_message(&["2 ports unresolved", "EADDRNOTAVAIL", "--concurrency"]);
    let json = outcome.json();
    assert_eq!(
        (&json["unresolved"], &json["closed"]),
        (&2.into(), &0.into())
    );
    assert_eq!(
        json["hosts"][0]["ports"][0]["reason"], "EADDRNOTAVAIL",
        "{json}"
    );
}

#[test]
fn a_host_that_nothing_here_can_connect_to_ends_at_once_and_slows_nobody() {
    let script = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
        exec \"$LANDFALL\" scan ::1 2001:db8::1 127.0.0.1 -p 1-1000 --json";
    let outcome = in_own_network(script)
        .finish()
        .expect_code(4)
        .expect_message(&["2,000 ports unresolved", "no-source-address", "IPv6"]);
    // A port that is tried again takes 5 s.
    assert!(outcome.time < Duration::from_secs(4), "{outcome:?}");
    let json = outcome.json();
    assert_eq!(
        (&json["unresolved"], &json["closed"]),
        (&2000.into(), &1000.into()),
        "{json}"
    );
    // The window has not shrunk, and nobody wants to see a line for each of these ports.
    assert_eq!(json["local_failures"], 0, "{json}");
    assert_eq!(json["hosts"][0]["ports"], Value::Array(Vec::new()));
    let connects = json["connects"].as_u64().unwrap();
    assert!((1002..1500).contains(&connects), "{json}");
}

#[test]
fn what_a_starved_scan_cannot_have_seen_is_not_called_filtered() {
    let script = "exec \"$LANDFALL\" scan 10.8.0.2 -p 80 --timeout 100ms --json";
    let mut scan = beside_a_silent_network(script);
    scan.stderr_after("up to ");
    // It runs too briefly for a timeout to end meanwhile.
    while scan.is_running() {
        scan.signal(Signal::STOP);
        thread::sleep(Duration::from_millis(200));
        scan.signal(Signal::CONT);
        thread::sleep(Duration::from_millis(20));
    }
    let outcome = scan.finish().expect_code(4).expect_message(&[
        "1 port unresolved",
        "noticed-late",
        "processor",
    ]);
    let port = &outcome.json()["hosts"][0]["ports"][0];
    assert_eq!(
        (&port["state"], &port["reason"]),
        (&"unresolved".into(), &"noticed-late".into())
    );
}

#[test]
fn the_address_that_stands_for_this_machine_is_scanned() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let json = run(&["scan", "0.0.0.0", "-p", &port.to_string(), "--json"])
        .expect_code(0)
        .json();
    assert_eq!(json["hosts"][0]["address"], "0.0.0.0");
    assert_eq!(open_ports(&json), BTreeSet::from([port.into()]));
    // All the ports that the system can pick for our end, and nobody there.
    let script = "echo 40000 40001 >/proc/sys/net/ipv4/ip_local_port_range
        exec \"$LANDFALL\" scan 0.0.0.0 -p 40000,40001 --json";
    let json = in_own_network(script).finish().expect_code(0).json();
    assert_eq!(json["closed"], 2, "{json}");
}

#[test]
fn a_connection_to_itself_is_not_an_open_port() {
    // Nobody listens, and what is scanned are all the ports the system can pick for our end.
    for range in ["40000 40001", "40000 40000"] {
        let script = format!(
            "echo {range} >/proc/sys/net/ipv4/ip_local_port_range
            for i in 1 2 3 4 5; do
                \"$LANDFALL\" scan 127.0.0.1 -p 40000,40001 --json -q --seed $i
            done"
        );
        let outcome = in_own_network(&script).finish().expect_code(0);
        for line in outcome.stdout.lines() {
            let scan: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&scan["closed"], &scan["open"]),
                (&2.into(), &0.into()),
                "{scan}"
            );
        }
    }
}

/// A server that says this to each that comes, on a port of the system's choice.
fn talker(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(words);
        }
    });
    port
}

#[test]
fn a_banner_is_shown_with_what_is_not_text_escaped() {
    let (polite, rude) = (talker(b"220 hello <&>\r\n"), talker(b"\x1b[2J\x00"));
    let ports = format!("{polite},{rude}");
    let scan = |form: &str| {
        let banner = ["scan", "127.0.0.1", "-p", &ports, "--banner", "-q"];
        run(&[&banner[..], &[form, "-"]].concat())
            .expect_code(0)
            .stdout
    };
    let xml = scan("-oX");
    assert!(
        xml.contains(r#"<script id="banner" output="220 hello &lt;&amp;&gt;\r\n"/>"#),
        "{xml}"
    );
    assert!(xml.contains(r#"output="\x1b[2J\x00""#), "{xml}");
    let csv = scan("-oC");
    let line = format!(r"127.0.0.1,,{polite},tcp,open,syn-ack,,220 hello <&>\r\n");
    assert!(csv.lines().any(|other| other == line), "{csv}");
}

#[test]
fn a_silent_port_costs_a_banner_scan_its_time_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let banner = ["--banner", "--banner-time", "100ms", "--json"];
    let outcome = run(&[&["scan", "127.0.0.1", "-p", &port], &banner[..]].concat());
    let json = outcome.expect_code(0).json();
    assert_eq!(json["hosts"][0]["ports"][0]["state"], "open", "{json}");
    assert!(json["elapsed_seconds"].as_f64().unwrap() >= 0.1, "{json}");
}

#[test]
fn an_open_port_is_reset_and_no_port_lingers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    run(&["scan", "127.0.0.1", "-p", &port, "--json"]).expect_code(0);
    let (mut stream, _) = listener.accept().unwrap();
    let error = std::io::Read::read(&mut stream, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn targets_and_ports_are_found_wherever_they_are_given() {
    let directory = Directory::new("targets");
    let (list, leave_out) = (directory.file("list"), directory.file("leave-out"));
    fs::write(&list, "127.0.1.0/29 # eight\n\n127.0.2-3.1,7\n").unwrap();
    fs::write(&leave_out, "127.0.1.4/30").unwrap();
    let mut command = landfall(&[
        "scan",
        "-iL",
        &list,
        "--exclude-file",
        &leave_out,
        "--exclude",
        "127.0.1.0,127.0.3.7",
        "-p",
        "7-9,discard",
        "--exclude-ports",
        "8",
        "--all-states",
        "--json",
    ]);
    command.env("LANDFALL_TARGETS", "::1 localhost 127.0.0.1");
    let json = Running::start(command).finish().expect_code(0).json();
    let addresses: Vec<_> = json["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| host["address"].as_str().unwrap())
        .collect();
    let expected = [
        "::1",
        "127.0.0.1",
        "127.0.1.1",
        "127.0.1.2",
        "127.0.1.3",
        "127.0.2.1",
        "127.0.2.7",
        "127.0.3.1",
    ];
    assert_eq!(addresses, expected);
    assert_eq!(
        (&json["ports"], &json["hosts"][1]["name"]),
        (&"7,9".into(), &"localhost".into())
    );
    assert_eq!(json["hosts"][0]["ports"][1]["service"], "discard");
}

#[test]
fn a_rate_is_kept() {
    let outcome = run(&[
        "scan",
        "127.0.0.1",
        "-p",
        "1-50",
        "--rate",
        "100/s",
        "--json",
    ])
    .expect_code(0);
    let json = outcome.json();
    // 49 pauses of 10 ms, give or take the clocks.
    assert!(json["elapsed_seconds"].as_f64().unwrap() >= 0.45, "{json}");
    // All have a place, but those that wait for their turn are not under way.
    assert!(json["peak_concurrency"].as_u64().unwrap() < 25, "{json}");
}

#[test]
fn a_signal_ends_it_with_what_is_known_marked_as_incomplete_in_every_form() {
    let directory = Directory::new("signal");
    let file = directory.file("scan");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let script = format!(
            "exec \"$LANDFALL\" scan 127.0.0.1 10.8.1.0/28 -p 1-1000 --timeout 1m --seed 1 --json \
                -oX {file}.xml -oG {file}.gnmap -oC {file}.csv"
        );
        let mut scan = beside_a_silent_network(&script);
        scan.stderr_after("scanning: ");
        scan.signal(signal);
        let outcome = scan
            .finish()
            .expect_code(code)
            .expect_message(&["stopped by a signal"]);
        let json = outcome.json();
        assert_eq!(
            (&json["interrupted"], &json["exit_code"]),
            (&true.into(), &code.into())
        );
        let [closed, left] = ["closed", "not_scanned"].map(|key| json[key].as_u64().unwrap());
        assert!(closed > 0 && closed + left == 17_000, "{json}");
        for (form, mark) in [
            ("xml", "exit=\"error\" errormsg=\"stopped by a signal: "),
            ("gnmap", "# Landfall stopped at "),
            ("csv", "\n,,,tcp,not_scanned,"),
        ] {
            let text = fs::read_to_string(format!("{file}.{form}")).unwrap();
            assert!(text.contains(mark), "{text}");
        }
        expect_nmaps_xml(&format!("{file}.xml"));
    }
}

#[test]
fn hosts_that_an_interrupted_scan_did_not_reach_are_not_called_silent() {
    let directory = Directory::new("unreached");
    let file = directory.file("scan");
    let [xml, gnmap, table] = ["xml", "gnmap", "nmap"].map(|form| format!("{file}.{form}"));
    let scan = ["scan", "127.0.0.0/24", "-p", "1-1000", "--rate", "20/s"];
    let mut scan = Running::start(landfall(
        &[&scan[..], &["--seed", "1", "--json", "-oA", &file]].concat(),
    ));
    scan.stderr_after("scanning: ");
    scan.signal(Signal::INT);
    let json = scan.finish().expect_code(130).json();
    let [scanned, partly, not, up] = [
        "hosts_scanned",
        "hosts_partly_scanned",
        "hosts_not_scanned",
        "hosts_up",
    ]
    .map(|key| json[key].as_u64().expect(key));
    assert_eq!((scanned, partly + not, up), (0, 256, partly), "{json}");
    assert!(partly > 0 && not > 0, "{json}");

    let [xml_text, gnmap, table] =
        [&xml, &gnmap, &table].map(|path| fs::read_to_string(path).unwrap());
    let hosts = format!(r#"<hosts up="{up}" down="0" total="{up}"/>"#);
    assert!(xml_text.contains(&hosts), "{xml_text}");
    expect_nmaps_xml(&xml);
    assert!(gnmap.contains(&format!("-- {up} IP address")), "{gnmap}");
    assert!(
        table.contains(&format!("{not} hosts not reached")),
        "{table}"
    );
    assert!(table.contains(" of 256,000 ports scanned in "), "{table}");
    assert!(!table.contains("gave no answer"), "{table}");
}

#[test]
fn what_waits_for_its_turn_is_no_connect() {
    let script = "exec \"$LANDFALL\" scan 127.0.0.0/24 -p 1-1000 --rate 10/s --json";
    let mut scan = in_own_network(script);
    scan.stderr_after("scanning: ");
    scan.signal(Signal::INT);
    let json = scan.finish().expect_code(130).json();
    let [closed, connects] = ["closed", "connects"].map(|key| json[key].as_u64().unwrap());
    // One may be under way.
    assert!((closed..=closed + 1).contains(&connects), "{json}");
}

/// Asserts that a file satisfies nmap's DTD, but for the name of the scanner.
#[track_caller]
fn expect_nmaps_xml(path: &str) {
    let script = format!(
        "sed 's/scanner=\"landfall\"/scanner=\"nmap\"/' {path} |
        xmllint --noout --dtdvalid /usr/share/nmap/nmap.dtd -"
    );
    let mut command = Command::new("sh");
    command.args(["-ec", &script]);
    Running::start(command).finish().expect_code(0);
}

#[test]
fn a_signal_ends_it_while_targets_are_looked_up() {
    let directory = Directory::new("look-up");
    let list = directory.file("list");
    let made = Command::new("mkfifo").arg(&list).status().unwrap();
    assert!(made.success());
    let mut scan = Running::start(landfall(&["scan", "-iL", &list]));
    // Open as soon as the other end is, and then it waits for what is never written.
    let _writer = fs::OpenOptions::new().write(true).open(&list).unwrap();
    for _ in 0..2 {
        scan.signal(Signal::TERM);
    }
    let mut tries = 0;
    while scan.is_running() {
        tries += 1;
        assert!(tries < 400, "it still looks targets up");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let missing = "/nowhere/list";
    let wrong: &[(&[&str], &str)] = &[
        (&["scan"], "name a target"),
        (&["scan", "127.0.0.1", "-p", "U:53"], "connect scan"),
        (&["scan", "127.0.0.1", "-p", "0"], "port 0"),
        (
            &["scan", "127.0.0.1", "-p", "80", "--exclude-ports", "-"],
            "no port is left",
        ),
        (&["scan", "127.0.0.1", "--top", "10000"], "--top 10000"),
        (
            &["scan", "127.0.0.1", "--timeout", "5"],
            "5ms for milliseconds",
        ),
        (&["scan", "127.0.0.1", "--timeout", "0s"], "no time at all"),
        (&["scan", "127.0.0.1/8/8"], "prefix length"),
        (&["scan", "10.0.0.300"], "0 to 255"),
        (&["scan", "::/1"], "at least 96"),
        (&["scan", "-iL", missing], missing),
        (
            &["scan", "127.0.0.1", "-oX", "/nowhere/scan.xml"],
            "cannot create -oX",
        ),
        (&["scan", "127.0.0.1", "-oX", "-", "-oG", "-"], "one form"),
        (&["scan", "127.0.0.1", "--json", "-oG", "-"], "one form"),
    ];
    for (args, message) in wrong {
        run(args).expect_code(2).expect_message(&[message]);
    }
    run(&["scan", "name.invalid"])
        .expect_code(1)
        .expect_message(&["name.invalid"]);
}

#[test]
fn nmaps_habits_are_obeyed_or_refused_with_a_reason() {
    let directory = Directory::new("habits");
    let base = directory.file("base.1");
    let habits = ["-sT", "-Pn", "-n", "-oA", &base, "--all-states"];
    let outcome = run(&[&["scan", "127.0.0.1", "-p", "9"], &habits[..]].concat()).expect_code(0);
    assert!(outcome.stdout.contains("127.0.0.1"), "{outcome:?}");
    let read = |ending| fs::read_to_string(format!("{base}.{ending}")).unwrap();
    assert_eq!(read("nmap"), outcome.stdout);
    assert!(read("xml").contains("<nmaprun") && read("gnmap").contains("9/closed/tcp//discard///"));

    let ours = ["--top", "3", "--retries", "4", "--json"];
    let theirs = [
        "--top-ports",
        "3",
        "--max-retries",
        "4",
        "--open",
        "-vv",
        "--json",
    ];
    let keys = |flags: &[&str]| {
        let json = run(&[&["scan", "127.0.0.1"], flags].concat())
            .expect_code(0)
            .json();
        ["ports", "retries"].map(|key| json[key].clone())
    };
    assert_eq!(keys(&ours), keys(&theirs));
    assert_eq!(keys(&["-F", "--json"]), keys(&["--top", "100", "--json"]));

    for (flag, reason) in [
        ("-sS", "-sT"),
        ("-sU", "UDP"),
        ("-sV", "--banner"),
        ("-sn", "ping"),
        ("-O", "operating system"),
        ("-A", "--banner"),
        ("-oS", "form"),
        ("-T4", "leave it out"),
        ("-T0", "leave it out"),
    ] {
        let outcome = run(&["scan", "127.0.0.1", flag])
            .expect_code(2)
            .expect_message(&[flag, reason]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}

#[test]
fn a_target_of_the_other_family_is_refused() {
    for (flag, target, message) in [
        (
            "-6",
            "127.0.0.1",
            "127.0.0.1 resolves, but not to an IPv6 address",
        ),
        ("-6", "127.0.0.0-3", "not to an IPv6 address"),
        ("-4", "::1", "::1 resolves, but not to an IPv4 address"),
    ] {
        run(&["scan", flag, target, "-p", "9"])
            .expect_code(1)
            .expect_message(&[message]);
    }
    // What is of the family is scanned all the same.
    let json = run(&["scan", "-4", "::1", "127.0.0.1", "-p", "9", "--json"])
        .expect_code(1)
        .json();
    assert_eq!(json["hosts"][0]["address"], "127.0.0.1", "{json}");
    run(&["scan", "-4", "-6", "localhost"]).expect_code(2);
    // A name is of one family if it has no address of the other.
    let script = "echo 127.0.0.1 only.test >hosts; mount --bind hosts /etc/hosts
        exec \"$LANDFALL\" scan -6 only.test -p 9";
    let directory = Directory::new("family");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec", script]);
    command.current_dir(&directory.0);
    command.env("LANDFALL", env!("CARGO_BIN_EXE_landfall"));
    Running::start(command)
        .finish()
        .expect_code(1)
        .expect_message(&["only.test resolves, but not to an IPv6 address"]);
}

#[test]
fn a_connect_that_this_machine_refuses_leaves_the_port_unresolved() {
    let script = "ip route add blackhole 10.9.0.0/24
        exec \"$LANDFALL\" scan 10.9.0.1 -p 80 --json";
    let outcome = in_own_network(script).finish().expect_code(4);
    let outcome = outcome.expect_message(&["EINVAL", "ip route get"]);
    assert_eq!(outcome.json()["unresolved"], 1);
}

#[test]
fn hosts_without_an_answer_are_summed_up_by_the_reason() {
    let script = "exec \"$LANDFALL\" scan 10.9.0.0/28 -p 80,81";
    let outcome = in_own_network(script).finish().expect_code(0);
    let line = "16 hosts: net-unreach, no route from this machine?\n";
    assert!(outcome.stdout.starts_with(line), "{outcome:?}");
    let script = "exec \"$LANDFALL\" scan 127.0.0.1 10.8.0.16/30 -p 80 --timeout 100ms";
    let outcome = beside_a_silent_network(script).finish().expect_code(0);
    assert!(
        outcome.stdout.contains("\n4 other hosts gave no answer\n"),
        "{outcome:?}"
    );
}

/// As nmap 7.93 says it of hosts that it calls down.
#[test]
fn xml_says_why_a_host_gave_no_answer() {
    let script = "ip route add unreachable 10.9.0.0/24
        ip route add prohibit 10.10.0.0/24
        exec \"$LANDFALL\" scan 10.8.0.2 10.9.0.1 10.10.0.1 10.11.0.1 -p 22,80 --timeout 100ms -oX - $0";
    for flags in ["", "--all-states"] {
        let script = script.replace("$0", flags);
        let outcome = beside_a_silent_network(&script).finish().expect_code(0);
        let statuses: Vec<_> = outcome
            .stdout
            .lines()
            .filter_map(|line| line.split_once("<status state=\"unknown\" reason=\""))
            .filter_map(|(_, rest)| rest.split('"').next())
            .collect();
        let expected = [
            "no-response",
            "host-unreach",
            "admin-prohibited",
            "net-unreach",
        ];
        assert_eq!(statuses, expected, "{outcome:#?}");
    }
}

#[test]
fn nothing_open_is_no_failure() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let outcome = run(&["scan", "127.0.0.1", "-p", &port.to_string()]).expect_code(0);
    assert!(
        outcome.stdout.contains("0 open, 1 closed (conn-refused)"),
        "{outcome:?}"
    );
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// The programs that are compared, each with the shell command that leaves its open ports in a file.
const SCANNERS: [(&str, &str); 4] = [
    (
        "landfall",
        "\"$LANDFALL\" scan 127.0.0.1 -p - -q -oC - | cut -d, -f3 | grep -v port",
    ),
    (
        "landfall, ulimit -n 64",
        "(ulimit -n 64; \"$LANDFALL\" scan 127.0.0.1 -p - -q -oC -) | cut -d, -f3 | grep -v port",
    ),
    (
        "nmap",
        "nmap -n -sT -p- -oG - 127.0.0.1 | tr ', ' '\\n\\n' | grep /open/ | sed 's|.*:||; s|/.*||'",
    ),
    (
        "rustscan",
        "rustscan -a 127.0.0.1 -r 1-65535 -g --no-banner | tr -dc '0-9,[' | sed 's/.*\\[//' | tr , '\\n'",
    ),
];

/// Only with a release build, by hand, and with nothing else to do for the machine:
/// `cargo test --release -p landfall-cli --test scan -- --ignored --nocapture`.
#[test]
#[ignore = "compares wall times, which takes a quiet machine and some minutes"]
fn twenty_times_of_twenty_the_same_is_found_and_sooner_than_by_others() {
    let is_there = |program: &str| {
        let look = format!("command -v {program} >/dev/null");
        let status = Command::new("sh").args(["-c", &look]).status();
        program.starts_with("landfall") || status.is_ok_and(|status| status.success())
    };
    let scanners: Vec<_> = SCANNERS.iter().filter(|(name, _)| is_there(name)).collect();
    let mut times: Vec<Vec<u64>> = vec![Vec::new(); scanners.len()];
    for round in 0..20 {
        // Forwards and backwards in turn.
        let mut order: Vec<_> = (0..scanners.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let (name, command) = scanners[place];
            let script = format!(
                "began=$(date +%s%N); ports=$( {command} | sort -n ); ended=$(date +%s%N)
                echo took $(((ended - began) / 1000)); echo $ports"
            );
            let outcome = beside_forty_servers(&script).finish().expect_code(0);
            let (took, ports) = outcome.stdout.trim().split_once('\n').expect("two lines");
            let expected: Vec<_> = forty().iter().map(u64::to_string).collect();
            assert_eq!(ports, expected.join(" "), "{name}, round {round}");
            times[place].push(took.trim_start_matches("took ").parse().unwrap());
        }
    }
    println!("wall time in ms of 20 scans of 65,535 ports: least, median, most");
    for ((name, _), times) in scanners.iter().zip(&mut times) {
        times.sort_unstable();
        let [least, median, most] = [times[0], times[10], times[19]].map(|time| time / 1000);
        println!("{name:24} {least:6} {median:6} {most:6}");
    }
    let own = times[0][10];
    for ((name, _), times) in scanners.iter().zip(&times).skip(2) {
        assert!(own < times[10], "{name} is faster");
    }
}
