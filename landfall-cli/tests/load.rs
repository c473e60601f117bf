//! `landfall load` against targets of all kinds: good ones, and every way a target can be bad.

mod support;

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::{Running, landfall, landfall_after, run, serve, silent_socat, socat};

#[test]
fn every_byte_of_an_echo_is_verified() {
    let (_server, address) = serve(&[]);
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "50",
        "--messages",
        "4",
        "--interval",
        "100ms",
        "--json",
    ]);
    let json = outcome.expect_code(0).json();
    assert_eq!(json["connected"], 50);
    assert_eq!(json["sent"], 200);
    assert_eq!(json["verified"], 200);
    assert_eq!(
        (&json["lost"], &json["mismatched"], &json["refused"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert_eq!(json["sent_bytes"], 200 * 64);
    assert_eq!(json["received_bytes"], 200 * 64);
    assert_eq!(json["peak_connections"], 50);
    assert!(json["latency_p50_us"].as_u64().unwrap() <= json["latency_p99_9_us"].as_u64().unwrap());
    assert_eq!(json["exit_code"], 0);
}

#[test]
fn an_echo_by_another_program_is_verified_too() {
    let (_socat, address) = socat("", "PIPE");
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "10",
        "--interval",
        "50ms",
        "--size",
        "10k",
        "--json",
    ]);
    assert_eq!(outcome.expect_code(0).json()["verified"], 30);
}

#[test]
fn messages_larger_than_the_systems_buffers_go_both_ways_at_once() {
    let (_server, address) = serve(&[]);
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "2",
        "--messages",
        "2",
        "--interval",
        "10ms",
        "--size",
        "12M",
        "--json",
    ]);
    assert_eq!(outcome.expect_code(0).json()["verified"], 4);
}

#[test]
fn a_text_and_a_file_can_be_sent() {
    let (_server, address) = serve(&[]);
    let json = run(&[
        "load",
        &address,
        "-c",
        "3",
        "--messages",
        "1",
        "--message",
        "hello",
        "--json",
    ])
    .expect_code(0)
    .json();
    assert_eq!(
        (&json["verified"], &json["message_bytes"]),
        (&3.into(), &5.into())
    );
    let file = format!("@{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let json = run(&[
        "load",
        &address,
        "-c",
        "3",
        "--messages",
        "1",
        "--message",
        &file,
        "--json",
    ])
    .expect_code(0)
    .json();
    assert_eq!(json["verified"], 3);
}

#[test]
fn a_rate_over_all_connections_is_kept_for_a_duration() {
    let (_server, address) = serve(&[]);
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "7",
        "--rate",
        "200/s",
        "--duration",
        "1s",
        "--json",
    ])
    .expect_code(0);
    assert_eq!(outcome.json()["verified"], 200);
    assert!(
        outcome.time >= Duration::from_millis(950),
        "{:?}",
        outcome.time
    );
}

#[test]
fn back_to_back_sends_each_message_when_the_last_is_answered() {
    let (_server, address) = serve(&[]);
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "2",
        "--interval",
        "0s",
        "--messages",
        "500",
        "--json",
    ]);
    assert_eq!(outcome.expect_code(0).json()["verified"], 1000);
}

#[test]
fn connects_can_be_paced() {
    let (_server, address) = serve(&[]);
    let args = [
        "load",
        &address,
        "-c",
        "20",
        "--connect-rate",
        "40/s",
        "--interval",
        "10ms",
        "--json",
    ];
    let json = run(&args).expect_code(0).json();
    assert!(
        json["connecting_seconds"].as_f64().unwrap() >= 19.0 / 40.0,
        "{json}"
    );
    assert_eq!(json["verified"], 60);
}

#[test]
fn discard_sends_and_waits_for_no_answer() {
    let (_socat, address) = silent_socat();
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "5",
        "--interval",
        "20ms",
        "--discard",
        "--json",
    ]);
    let json = outcome.expect_code(0).json();
    assert_eq!(
        (&json["sent"], &json["answered"], &json["lost"]),
        (&15.into(), &0.into(), &0.into())
    );
}

#[test]
fn a_source_address_is_used() {
    let (server, address) = serve(&["-v"]);
    let args = [
        "load",
        &address,
        "-c",
        "4",
        "--messages",
        "1",
        "--source-ip",
        "127.0.0.7,127.0.0.8",
    ];
    run(&args).expect_code(0);
    server.signal(Signal::TERM);
    let log = server.finish().expect_code(0).stderr;
    for source in ["127.0.0.7:", "127.0.0.8:"] {
        assert_eq!(
            log.lines()
                .filter(|line| line.starts_with(source) && line.ends_with("came"))
                .count(),
            2,
            "{log}"
        );
    }
}

#[test]
fn the_result_can_go_to_a_file() {
    let (_server, address) = serve(&[]);
    let path = format!("{}/load-result.json", env!("CARGO_TARGET_TMPDIR"));
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "1",
        "--messages",
        "1",
        "--json",
        "-o",
        &path,
    ])
    .expect_code(0);
    assert_eq!(outcome.stdout, "");
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(json["verified"], 1);
}

#[test]
fn flags_can_come_from_the_environment() {
    let (_server, address) = serve(&[]);
    let mut command = landfall(&["load", &address, "--json"]);
    command
        .env("LANDFALL_CONNECTIONS", "3")
        .env("LANDFALL_INTERVAL", "10ms");
    assert_eq!(
        Running::start(command).finish().expect_code(0).json()["verified"],
        9
    );
}

#[test]
fn connections_that_the_target_does_not_close_can_fail_a_run() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap().to_string();
    let (end, ended) = mpsc::channel::<()>();
    let echo = thread::spawn(move || {
        let (stream, _) = target.accept().unwrap();
        std::io::copy(&mut &stream, &mut &stream).unwrap();
        // Its side stays open.
        let _ = ended.recv();
    });
    let load = ["load", &address, "-c", "1", "--messages", "1", "--json"];
    let flags = ["--timeout", "300ms", "--fail-if", "unclosed>0"];
    let json = run(&[&load[..], &flags].concat())
        .expect_code(3)
        .expect_message(&["--fail-if unclosed>0: it was 1"])
        .json();
    assert_eq!(
        (&json["unclosed"], &json["verified"]),
        (&1.into(), &1.into())
    );
    drop(end);
    echo.join().unwrap();
}

#[test]
fn a_condition_that_comes_true_is_exit_3() {
    let (_server, address) = serve(&[]);
    let args = [
        "load",
        &address,
        "-c",
        "2",
        "--interval",
        "10ms",
        "--fail-if",
    ];
    run(&[&args[..], &["p99>1m,lost>0"]].concat()).expect_code(0);
    run(&[&args[..], &["verified<7"]].concat())
        .expect_code(3)
        .expect_message(&["--fail-if verified<7: it was 6"]);
}

#[test]
fn a_target_that_refuses_is_exit_1_and_named() {
    // Bound and closed again, so that nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let outcome = run(&["load", &address, "-c", "10", "--json"]).expect_code(1);
    let outcome = outcome.expect_message(&["10 of 10 connections", &address, "refused"]);
    let json = outcome.json();
    assert_eq!(
        (&json["refused"], &json["connected"], &json["unsent"]),
        (&10.into(), &0.into(), &30.into())
    );
    assert_eq!(json["errors"][0]["error"], "ECONNREFUSED");
    assert_eq!(json["errors"][0]["phase"], "connect");
}

#[test]
fn a_target_that_resets_is_exit_3_and_counted_by_errno() {
    // Takes ten bytes, then closes with a reset.
    let (_socat, address) = socat(",linger=0,shut-close", "SYSTEM:head -c 10 >/dev/null");
    let outcome = run(&[
        "load",
        &address,
        "-c",
        "5",
        "--messages",
        "1",
        "--timeout",
        "5s",
        "--json",
    ])
    .expect_code(3);
    let json = outcome.json();
    assert_eq!(
        (&json["connected"], &json["sent"], &json["lost"]),
        (&5.into(), &5.into(), &5.into())
    );
    assert_eq!(json["errors"][0]["error"], "ECONNRESET", "{json}");
    assert_eq!(json["errors"][0]["count"], 5);
}

#[test]
fn a_target_that_falls_silent_ends_within_the_timeout() {
    let (_socat, address) = silent_socat();
    let args = [
        "load",
        &address,
        "-c",
        "5",
        "--interval",
        "100ms",
        "--timeout",
        "1s",
        "--json",
    ];
    let outcome = run(&args).expect_code(3);
    assert!(outcome.time < Duration::from_secs(5), "{:?}", outcome.time);
    let json = outcome.json();
    assert_eq!((&json["sent"], &json["lost"]), (&15.into(), &15.into()));
    assert_eq!(
        (&json["errors"][0]["error"], &json["errors"][0]["phase"]),
        (&"timeout".into(), &"receive".into())
    );
}

#[test]
fn a_target_that_never_reads_ends_within_the_timeout() {
    // The kernel completes connects up to the backlog; nobody ever accepts them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let args = [
        "load",
        &address,
        "-c",
        "2",
        "--messages",
        "1",
        "--size",
        "64M",
        "--timeout",
        "1s",
        "--json",
    ];
    let outcome = run(&args).expect_code(3);
    assert!(outcome.time < Duration::from_secs(8), "{:?}", outcome.time);
    let json = outcome.json();
    assert_eq!(
        (&json["errors"][0]["error"], &json["errors"][0]["phase"]),
        (&"timeout".into(), &"send".into())
    );
    assert_eq!(json["unsent"], 2);
}

#[test]
fn garbage_is_counted_as_such() {
    let (_socat, address) = socat("", "SYSTEM:echo this is not what you said; cat >/dev/null");
    let args = [
        "load",
        &address,
        "-c",
        "3",
        "--messages",
        "1",
        "--size",
        "10",
        "--timeout",
        "2s",
        "--json",
    ];
    let outcome = run(&args).expect_code(3);
    let json = outcome.json();
    // The greeting is longer than a message: ten bytes of it stand where the answer should be, if
    // they come after it.
    let (mismatched, extra) = (
        json["mismatched"].as_u64().unwrap(),
        json["extra_bytes"].as_u64().unwrap(),
    );
    assert_eq!(
        mismatched * 10 + extra,
        3 * "this is not what you said\n".len() as u64,
        "{json}"
    );
}

#[test]
fn a_flood_is_cut_off() {
    let (_socat, address) = socat("", "OPEN:/dev/zero,rdonly!!OPEN:/dev/null,wronly");
    let args = [
        "load",
        &address,
        "-c",
        "2",
        "--interval",
        "10s",
        "--timeout",
        "20s",
        "--json",
    ];
    let outcome = run(&args).expect_code(3);
    assert!(outcome.time < Duration::from_secs(10), "{:?}", outcome.time);
    let json = outcome.json();
    assert_eq!(json["errors"][0]["error"], "flood", "{json}");
    assert!(json["extra_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn changed_bytes_are_found_and_shown() {
    let (_socat, address) = socat("", "SYSTEM:stdbuf -o0 tr c C");
    let args = [
        "load",
        &address,
        "-c",
        "2",
        "--interval",
        "50ms",
        "--message",
        "abcdef",
    ];
    let outcome = run(&[&args[..], &["--json"]].concat())
        .expect_code(3)
        .expect_message(&["6 answers came back changed"]);
    let json = outcome.json();
    assert_eq!(
        (&json["mismatched"], &json["verified"], &json["lost"]),
        (&6.into(), &0.into(), &0.into())
    );
    assert_eq!(json["first_mismatch"]["offset"], 2);
    assert_eq!(json["first_mismatch"]["expected_byte"], b'c');
    assert_eq!(json["first_mismatch"]["received_byte"], b'C');
    let table = run(&args).expect_code(3).stdout;
    assert!(table.contains("0x43 instead of 0x63"), "{table}");
    // Told not to look, it does not.
    let json = run(&[&args[..], &["--no-verify", "--json"]].concat())
        .expect_code(0)
        .json();
    assert_eq!(
        (&json["answered"], &json["verified"]),
        (&6.into(), &0.into())
    );
}

#[test]
fn too_few_bytes_are_a_lost_message() {
    let (_socat, address) = socat("", "SYSTEM:head -c 100");
    // 64 bytes come back, then 36 of the next 64, then the end.
    let args = [
        "load",
        &address,
        "-c",
        "2",
        "--interval",
        "50ms",
        "--timeout",
        "5s",
        "--json",
    ];
    let json = run(&args)
        .expect_code(3)
        .expect_message(&["not answered"])
        .json();
    assert_eq!(json["verified"], 2, "{json}");
    assert!(json["lost"].as_u64().unwrap() >= 2, "{json}");
    assert_eq!(json["received_bytes"], 200);
}

#[test]
fn extra_bytes_at_the_end_are_counted() {
    let (_socat, address) = socat("", "SYSTEM:cat; echo and more");
    let args = ["load", &address, "-c", "3", "--interval", "50ms", "--json"];
    let json = run(&args)
        .expect_code(3)
        .expect_message(&["27 bytes came that had not been sent"])
        .json();
    assert_eq!(
        (&json["verified"], &json["extra_bytes"]),
        (&9.into(), &27.into())
    );
}

#[test]
fn a_target_that_never_completes_the_handshake_times_out() {
    // A backlog of one, filled: further connects are left unanswered.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        )
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _filler = std::net::TcpStream::connect(address).unwrap();
    let args = [
        "load",
        &address.to_string(),
        "-c",
        "3",
        "--timeout",
        "1s",
        "--json",
    ];
    let outcome = run(&args).expect_code(1);
    assert!(outcome.time < Duration::from_secs(4), "{:?}", outcome.time);
    let json = outcome.json();
    assert_eq!(
        (&json["errors"][0]["error"], &json["errors"][0]["count"]),
        (&"timeout".into(), &3.into())
    );
}

#[test]
fn too_few_ports_are_named_before_anything_is_opened() {
    // There is one loopback address in IPv6, so it cannot be helped by taking more of them.
    let outcome = run(&["load", "[::1]:9", "-c", "200k"]).expect_code(4);
    outcome.expect_message(&[
        "200,000 connections",
        "local ports: 200,000 needed",
        "ip_local_port_range",
        "--source-ip",
    ]);
}

#[test]
fn too_few_descriptors_are_named_before_anything_is_opened() {
    let command = landfall_after("ulimit -n 100", &["load", "127.0.0.1:9", "-c", "10k"]);
    let outcome = Running::start(command).finish().expect_code(4);
    outcome.expect_message(&[
        "10,000 connections",
        "sockets: 10,000 needed",
        "descriptor limit of 100",
        "ulimit -Hn",
    ]);
}

#[test]
fn the_soft_descriptor_limit_is_raised() {
    let (_server, address) = serve(&[]);
    let command = landfall_after(
        "ulimit -Sn 64",
        &[
            "load",
            &address,
            "-c",
            "200",
            "--interval",
            "100ms",
            "--json",
        ],
    );
    assert_eq!(
        Running::start(command).finish().expect_code(0).json()["verified"],
        600
    );
}

/// Runs a shell script in a network of its own, where nobody is disturbed by its settings.
fn in_own_network(script: &str) -> Running {
    let mut command = std::process::Command::new("unshare");
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

#[test]
fn more_loopback_addresses_are_used_when_ports_run_out() {
    let script = "echo 40000 40099 >/proc/sys/net/ipv4/ip_local_port_range
        exec \"$LANDFALL\" demo -c 500 --interval 200ms --json";
    let outcome = in_own_network(script).finish().expect_code(0);
    let json = outcome.json();
    assert_eq!(json["load"]["verified"], 1500, "{json}");
    assert!(json["load"]["source_addresses"].as_u64().unwrap() >= 5);
}

#[test]
fn a_connection_to_itself_is_not_taken_for_a_server() {
    // Nobody listens on 40000, and it is one of two ports the system can pick for our end.
    let script = "echo 40000 40001 >/proc/sys/net/ipv4/ip_local_port_range
        exec \"$LANDFALL\" load 127.0.0.1:40000 -c 1 --messages 1 --timeout 2s --json";
    let outcome = in_own_network(script).finish().expect_code(1);
    let json = outcome.json();
    assert_eq!(
        (&json["verified"], &json["connected"]),
        (&0.into(), &0.into()),
        "{json}"
    );
    assert_eq!(json["errors"][0]["error"], "self_connect", "{json}");
}

#[test]
fn a_signal_stops_sending_and_waits_for_the_answers() {
    let (mut server, address) = serve(&["-v"]);
    let load = Running::start(landfall(&[
        "load",
        &address,
        "-c",
        "10",
        "--interval",
        "50ms",
        "--duration",
        "10m",
        "--json",
    ]));
    for _ in 0..10 {
        server.stderr_after(" says ");
    }
    load.signal(Signal::INT);
    let outcome = load.finish().expect_code(0);
    let json = outcome.json();
    assert_eq!(json["interrupted"], true);
    assert!(json["verified"].as_u64().unwrap() >= 10, "{json}");
    assert_eq!(
        (&json["lost"], &json["sent"]),
        (&0.into(), &json["verified"]),
        "{json}"
    );
}

#[test]
fn a_second_signal_stops_at_once() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // A target that listens and never answers, so that there is something to wait for.
        let (mut target, address) = serve(&["--discard", "-v"]);
        let args = [
            "load",
            &address,
            "-c",
            "3",
            "--interval",
            "10ms",
            "--timeout",
            "10m",
            "--json",
        ];
        let mut load = Running::start(landfall(&args));
        for _ in 0..3 {
            target.stderr_after(" says ");
        }
        load.signal(signal);
        load.stderr_after("again to stop now");
        load.signal(signal);
        let outcome = load.finish().expect_code(code);
        assert!(outcome.time < Duration::from_secs(10), "{:?}", outcome.time);
        assert_eq!(outcome.json()["exit_code"], code);
    }
}

#[test]
fn mistakes_on_the_command_line_are_exit_2_and_explained() {
    let cases: [(&[&str], &str); 16] = [
        (&["load"], "<TARGET>"),
        (&["load", "127.0.0.1:9", "--no-such-flag"], "--no-such-flag"),
        (&["load", "localhost"], "HOST:PORT"),
        (&["load", "127.0.0.1:0"], "port 0"),
        (&["load", "127.0.0.1:9", "-c", "0"], "at least 1"),
        (&["load", "127.0.0.1:9", "-c", "-5"], "-5"),
        (&["load", "127.0.0.1:9", "-c", "99999M"], "more than"),
        (&["load", "127.0.0.1:9", "--messages", "0"], "at least 1"),
        (
            &["load", "127.0.0.1:9", "--interval", "3"],
            "3ms for milliseconds",
        ),
        (&["load", "127.0.0.1:9", "--size", "0"], "at least 1 byte"),
        (&["load", "127.0.0.1:9", "--rate", "100"], "100/s"),
        (
            &["load", "127.0.0.1:9", "--message", "@/no/such/file"],
            "cannot read /no/such/file",
        ),
        (
            &["load", "127.0.0.1:9", "--fail-if", "p99>50"],
            "50ms for milliseconds",
        ),
        (&["load", "127.0.0.1:9", "--timeout", "0s"], "--timeout"),
        (
            &["load", "127.0.0.1:9", "--source-ip", "192.0.2.1"],
            "address of this machine",
        ),
        (
            &["load", "127.0.0.1:9", "--driver", "iocp"],
            "no driver `iocp`",
        ),
    ];
    for (args, part) in cases {
        run(args).expect_code(2).expect_message(&[part]);
    }
    run(&["load", "no-such-host.invalid:9"])
        .expect_code(1)
        .expect_message(&["no-such-host.invalid"]);
}

#[test]
fn quiet_says_nothing_and_progress_off_a_terminal_is_plain_lines() {
    let (_server, address) = serve(&[]);
    let args = [
        "load",
        &address,
        "-c",
        "10",
        "--messages",
        "2",
        "--interval",
        "3s",
    ];
    let quiet = run(&[&args[..], &["-q"]].concat()).expect_code(0);
    assert_eq!(quiet.stderr, "");
    let normal = run(&args).expect_code(0);
    assert!(normal.stderr.contains("sending: "), "{normal:#?}");
    assert!(
        normal.stderr.contains(
            "10 connections; once all are open, 2 messages on each, one every 3s, for 6s"
        ),
        "{normal:#?}"
    );
    assert!(
        !normal.stderr.contains('\x1b') && !normal.stderr.contains('\r'),
        "{normal:#?}"
    );
    assert!(!normal.stdout.contains('\x1b'), "{normal:#?}");
}
