//! `landfall serve` with clients we did not write.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Outcome, PATIENCE, Running, landfall, landfall_after, run, serve};

/// Sends a text with some program's own client and returns what came back.
fn say(program: &str, args: &[&str], text: &str) -> String {
    let mut command = Command::new(program);
    command.args(args);
    let mut client = Running::start(command);
    client.write(text.as_bytes());
    client.finish().expect_code(0).stdout
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn echo_answers_clients_of_other_makers() {
    let (_server, address) = serve(&[]);
    let (host, port) = address.rsplit_once(':').unwrap();
    let text = "hello\nworld\n".repeat(500);
    assert_eq!(say("ncat", &[host, port], &text), text);
    assert_eq!(
        say("socat", &["-t", "5", "-", &format!("TCP:{address}")], &text),
        text
    );
}

#[test]
fn discard_takes_everything_and_says_nothing() {
    let (server, address) = serve(&["--discard"]);
    let text = "x".repeat(100_000);
    assert_eq!(
        say("socat", &["-t", "5", "-", &format!("TCP:{address}")], &text),
        ""
    );
    server.signal(Signal::TERM);
    let outcome = server.finish().expect_code(0);
    assert!(
        outcome.stdout.contains("discard") && outcome.stdout.contains("100,000 bytes"),
        "{outcome:#?}"
    );
}

#[test]
fn verbose_shows_who_came_and_the_start_of_what_they_said() {
    let (server, address) = serve(&["-v"]);
    let mut stream = connect(&address);
    let own = stream.local_addr().unwrap();
    stream.write_all(b"hello \x1b[2Jworld").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"hello \x1b[2Jworld");
    // One that says more is shown by the start of it.
    let mut talker = connect(&address);
    for _ in 0..3 {
        talker.write_all(b"again and again").unwrap();
        talker.read_exact(&mut [0; 15]).unwrap();
    }
    server.signal(Signal::TERM);
    let log = server.finish().expect_code(0).stderr;
    assert!(log.contains(&format!("{own} came")), "{log}");
    assert!(
        log.contains(&format!("{own} says \"hello \\x1b[2Jworld\"")),
        "{log}"
    );
    assert!(log.contains(&format!("{own} left after 15 bytes")), "{log}");
    assert!(!log.contains('\x1b'), "{log}");
    assert_eq!(log.matches(" says \"again and again\"").count(), 1, "{log}");
}

/// A server that says much, where it listens, and its standard output. Nobody reads what it says.
fn unread(args: &[&str]) -> (Child, String, BufReader<ChildStdout>) {
    let mut command = landfall(&[&["serve", "127.0.0.1:0", "-v"], args].concat());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap().to_owned();
    (server, address, stdout)
}

/// Three lines each: more than a pipe holds, and more than are kept, if there are enough of them.
fn connections(address: &str, count: &str) -> Outcome {
    let flags = ["-c", count, "--messages", "1", "--interval", "10ms"];
    run(&[&["load", address], &flags[..]].concat())
}

#[test]
fn verbose_waits_for_no_reader() {
    let (mut server, address, mut stdout) = unread(&[]);
    let outcome = connections(&address, "3k");
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    if outcome.code != Some(0) {
        // It would not hear that it is to end.
        server.kill().unwrap();
    }
    outcome.expect_code(0);
    let mut report = String::new();
    stdout.read_to_string(&mut report).unwrap();
    assert!(report.contains("accepted     3,000"), "{report}");
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn an_error_waits_for_no_reader() {
    let (mut server, address, _stdout) = unread(&["-o", "/dev/full"]);
    connections(&address, "3k").expect_code(0);
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    let start = Instant::now();
    while server.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    // In vain, unless it would not end.
    let _ = server.kill();
    assert_eq!(server.wait().unwrap().code(), Some(1));
}

#[test]
fn a_late_reader_is_told_how_much_it_has_missed() {
    let (mut server, address, _stdout) = unread(&[]);
    connections(&address, "3k").expect_code(0);
    let mut stderr = server.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        log
    });
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
    let log = reader.join().unwrap();
    let missed: usize = log
        .lines()
        .filter_map(|line| line.split_once(" messages were left out"))
        .map(|(count, _)| count.replace(',', "").parse::<usize>().unwrap())
        .sum();
    let said = log
        .lines()
        .filter(|line| !line.contains(" left out"))
        .count();
    assert!(missed > 0, "{log}");
    // Three of each connection, and that the server ends, which may be among those that are missed.
    assert_eq!(said + missed, 3 * 3_000 + 1, "{missed} missed");
}

#[test]
fn json_announces_the_address_and_reports_at_the_end() {
    let mut server = Running::start(landfall(&["serve", "127.0.0.1:0", "--json"]));
    let line = server.stdout_after("{");
    let announcement: serde_json::Value = serde_json::from_str(&format!("{{{line}")).unwrap();
    let address = announcement["listening"][0].as_str().unwrap().to_owned();
    run(&["load", &address, "-c", "20", "--interval", "20ms"]).expect_code(0);
    server.signal(Signal::TERM);
    let json = server.finish().expect_code(0).json();
    assert_eq!(json["accepted"], 20);
    assert_eq!(json["received_bytes"], 20 * 3 * 64);
    assert_eq!(json["sent_bytes"], 20 * 3 * 64);
    assert_eq!(json["failed"], 0);
    assert!(json["server_cpu_seconds"].as_f64().unwrap() > 0.0);
    assert!(!json["driver"].as_str().unwrap().is_empty());
}

#[test]
fn several_addresses_are_served_at_once() {
    let mut server = Running::start(landfall(&["serve", "127.0.0.1:0", "127.0.0.2:0"]));
    let first = server.stdout_after("listening on ");
    let second = server.stdout_after("listening on ");
    assert!(
        first.starts_with("127.0.0.1:") && second.starts_with("127.0.0.2:"),
        "{first} {second}"
    );
    for address in [first, second] {
        let mut stream = connect(&address);
        stream.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }
}

#[test]
fn a_port_in_use_is_exit_1_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let _holder = TcpListener::bind(&taken).unwrap();
    run(&["serve", &taken])
        .expect_code(1)
        .expect_message(&["cannot listen on", &taken, "in use"]);
    run(&["serve", "192.0.2.1:7000"])
        .expect_code(1)
        .expect_message(&["not an address of this machine"]);
}

#[test]
fn mistakes_on_the_command_line_are_exit_2_and_explained() {
    let cases: [(&[&str], &str); 10] = [
        (&["serve"], "<ADDR>"),
        (&["serve", "127.0.0.1"], "HOST:PORT"),
        (&["serve", "::1:7000"], "[::1]:7000"),
        (
            &["serve", "127.0.0.1:0", "--echo", "--discard"],
            "--discard",
        ),
        (&["serve", "127.0.0.1:0", "--max-conns", "0"], "at least 1"),
        (
            &["serve", "127.0.0.1:0", "--idle-timeout", "60"],
            "60ms for milliseconds",
        ),
        (&["serve", "127.0.0.1:0", "--slow", "1"], "per cent"),
        (&["serve", "127.0.0.1:0", "--slow", "1%"], "--busy"),
        (
            &["serve", "127.0.0.1:0", "--busy", "1ms", "--sleep", "1ms"],
            "--sleep",
        ),
        (&["serve", "127.0.0.1:0", "--workers", "0"], "at least 1"),
    ];
    for (args, part) in cases {
        run(args).expect_code(2).expect_message(&[part]);
    }
}

#[test]
fn a_connection_beyond_the_limit_waits_for_a_place() {
    let (_server, address) = serve(&["--max-conns", "2"]);
    let mut answer = [0; 4];
    let mut served: Vec<TcpStream> = (0..2).map(|_| connect(&address)).collect();
    for stream in &mut served {
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut answer).unwrap();
    }
    let mut waiting = connect(&address);
    waiting.write_all(b"wait").unwrap();
    waiting
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(
        waiting.read(&mut answer).is_err(),
        "served beyond the limit"
    );
    drop(served);
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    waiting.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"wait");
}

#[test]
fn an_idle_connection_is_closed() {
    let (server, address) = serve(&["--idle-timeout", "300ms", "-v"]);
    let mut stream = connect(&address);
    let own = stream.local_addr().unwrap();
    let began = Instant::now();
    let mut nothing = Vec::new();
    // Closed or reset, but ended.
    let _ = stream.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    assert!(
        (Duration::from_millis(250)..Duration::from_secs(5)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    server.signal(Signal::TERM);
    let outcome = server.finish().expect_code(0);
    let farewell = format!("{own} was closed after 0 bytes: it was idle for too long");
    let outcome = outcome.expect_message(&[&farewell]);
    let mut rows = outcome.stdout.lines();
    assert!(
        rows.any(|row| row.starts_with("idle for too long") && row.ends_with(" 1")),
        "{outcome:#?}"
    );
}

#[test]
fn idle_connections_are_not_counted_as_failed() {
    let mut server = Running::start(landfall(&[
        "serve",
        "127.0.0.1:0",
        "--json",
        "--idle-timeout",
        "100ms",
    ]));
    let line = server.stdout_after("\"listening\":[\"");
    let (address, _) = line.split_once('"').unwrap();
    for _ in 0..3 {
        // Closed or reset, but ended.
        let _ = connect(address).read(&mut [0]);
    }
    server.signal(Signal::TERM);
    let json = server.finish().expect_code(0).json();
    assert_eq!(json["timed_out"], 3, "{json:#}");
    assert_eq!(json["failed"], 0, "{json:#}");
}

/// A connection whose handler cannot end: more is sent than the system holds, and the answer is
/// never read.
fn stuck_connection(address: &str) -> TcpStream {
    let mut stream = connect(address);
    stream.set_nonblocking(true).unwrap();
    let mut refused_since = None;
    loop {
        match stream.write(&[0; 65536]) {
            Ok(_) => refused_since = None,
            // Full for a while, and not just because the server is a little slow.
            Err(_)
                if refused_since.get_or_insert_with(Instant::now).elapsed()
                    > Duration::from_millis(500) =>
            {
                return stream;
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_signal_ends_idle_connections_and_closes_the_port() {
    let (server, address) = serve(&[]);
    let mut stream = connect(&address);
    stream.write_all(b"before").unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
    server.signal(Signal::TERM);
    assert_eq!(
        stream.read(&mut [0; 1]).unwrap(),
        0,
        "not closed in an orderly way"
    );
    let outcome = server.finish().expect_code(0);
    assert!(outcome.stdout.contains("accepted"), "{outcome:#?}");
    assert!(TcpStream::connect(&address).is_err(), "still listening");
}

#[test]
fn with_no_connection_there_is_nothing_to_let_finish() {
    let (server, _) = serve(&[]);
    server.signal(Signal::TERM);
    let outcome = server.finish().expect_code(0);
    assert_eq!(outcome.stderr, "no connection is open: ending\n");
}

#[test]
fn draining_ends_at_its_timeout() {
    let (mut server, address) = serve(&["--drain-timeout", "500ms"]);
    let _stuck = stuck_connection(&address);
    server.signal(Signal::INT);
    server.stderr_after("letting 1 connection finish, for 500ms at most");
    let outcome = server.finish().expect_code(0);
    assert!(outcome.stdout.contains("cut off"), "{outcome:#?}");
}

#[test]
fn a_second_signal_stops_at_once() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (mut server, address) = serve(&["--drain-timeout", "10m"]);
        let _stuck = stuck_connection(&address);
        server.signal(signal);
        server.stderr_after("again to stop now");
        server.signal(signal);
        let outcome = server.finish().expect_code(code);
        assert!(outcome.time < Duration::from_secs(10), "{:?}", outcome.time);
    }
}

#[test]
fn a_handler_that_sleeps_does_not_hold_up_the_others() {
    // One worker could serve nobody else while it sleeps; the port covers it.
    let (_server, address) = serve(&[
        "--sleep",
        "2s",
        "--slow",
        "50%",
        "--workers",
        "1",
        "--concurrency",
        "1",
    ]);
    // Of two connections the second is slow.
    let mut quick = connect(&address);
    quick.write_all(b"q").unwrap();
    quick.read_exact(&mut [0; 1]).unwrap();
    let mut slow = connect(&address);
    slow.write_all(b"s").unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        quick.write_all(b"q").unwrap();
        quick.read_exact(&mut [0; 1]).unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "held up for {:?}",
        began.elapsed()
    );
    slow.read_exact(&mut [0; 1]).unwrap();
    assert!(
        began.elapsed() > Duration::from_millis(1500),
        "the slow one did not sleep"
    );
}

#[test]
fn a_handler_that_computes_uses_the_processor() {
    let (server, address) = serve(&["--busy", "20ms", "--slow", "100%"]);
    let args = [
        "load",
        &address,
        "-c",
        "1",
        "--messages",
        "10",
        "--interval",
        "0s",
    ];
    run(&args).expect_code(0);
    server.signal(Signal::TERM);
    let outcome = server.finish().expect_code(0);
    let line = outcome
        .stdout
        .lines()
        .find(|line| line.starts_with("processor"))
        .unwrap();
    let seconds: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(seconds >= 10.0 * 0.02, "{outcome:#?}");
}

#[test]
fn too_few_descriptors_to_serve_are_exit_4() {
    let command = landfall_after(
        "ulimit -n 100",
        &["serve", "127.0.0.1:0", "--max-conns", "1M"],
    );
    let outcome = Running::start(command).finish().expect_code(4);
    outcome.expect_message(&[
        "--max-conns",
        "sockets: 1,000,000 needed",
        "descriptor limit of 100",
    ]);
    let command = landfall_after("ulimit -n 5", &["serve", "127.0.0.1:0"]);
    Running::start(command)
        .finish()
        .expect_code(4)
        .expect_message(&["Too many open files"]);
}

#[test]
fn whatever_is_refused_for_want_of_descriptors_is_exit_4() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut port_was_refused = false;
    // The loader needs five.
    for limit in 5.. {
        let lower = format!("ulimit -n {limit}");
        let outcome = Running::start(landfall_after(&lower, &["serve", &address])).finish();
        if outcome.stderr.contains("cannot listen on") && outcome.code == Some(4) {
            let advice = format!("the limit is {limit}; raise");
            assert!(outcome.stderr.contains(&advice), "{outcome:#?}");
        }
        if outcome.stderr.contains("cannot listen on") && outcome.code == Some(1) {
            // Enough for everything but the address.
            assert!(port_was_refused, "with {limit}: {outcome:#?}");
            return;
        }
        let outcome = outcome.expect_code(4).expect_message(&["Too many open"]);
        port_was_refused |= outcome.stderr.contains("raise the limit (ulimit -n)");
    }
}

#[test]
fn accepts_that_fail_for_want_of_descriptors_are_told_with_what_to_do() {
    let command = landfall_after(
        "ulimit -n 40",
        &["serve", "127.0.0.1:0", "--driver", "poll"],
    );
    let mut server = Running::start(command);
    let address = server.stdout_after("listening on ");
    let clients: Vec<_> = (0..60).map(|_| connect(&address)).collect();
    let descriptors = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    let start = Instant::now();
    while std::fs::read_dir(&descriptors).unwrap().count() < 40 {
        assert!(start.elapsed() < PATIENCE, "descriptors are left");
        std::thread::sleep(Duration::from_millis(5));
    }
    // One that is served says that those before it have been tried.
    drop(clients);
    let mut stream = connect(&address);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    drop(stream);
    server.signal(Signal::TERM);
    let outcome = server.finish().expect_code(0);
    let row = outcome
        .stdout
        .lines()
        .find(|line| line.starts_with("accepts that failed"))
        .unwrap_or_else(|| panic!("none failed: {outcome:#?}"));
    assert!(
        row.contains("descriptors (40 allowed)") && row.contains("ulimit -Hn"),
        "{row}"
    );
}
