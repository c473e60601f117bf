//! `landfall map` with clients and targets we did not write: the standard library's, socat, ncat.

mod support;

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Outcome, PATIENCE, Running, landfall, landfall_after, run, serve, socat};

/// `landfall map` with these arguments, and where it listens.
#[track_caller]
fn map(args: &[&str]) -> (Running, String) {
    let mut mapper = Running::start(landfall(&[&["map", "--json"], args].concat()));
    let announced = mapper.stdout_after("{\"listening\":[\"");
    let address = announced.split('"').next().unwrap().to_owned();
    (mapper, address)
}

/// Ends a mapper and returns what it says.
#[track_caller]
fn end(mapper: Running) -> Outcome {
    mapper.signal(Signal::TERM);
    mapper.finish().expect_code(0)
}

/// A rule for one port of the system's choice.
fn rule(targets: &[&SocketAddr]) -> String {
    let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
    format!("127.0.0.1:0={}", targets.join(","))
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A target that does something with every connection, on a thread of its own.
fn target(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    serve_on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
}

fn serve_on(
    listener: TcpListener,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Says its name to everybody who has said something.
fn named(name: &'static str) -> SocketAddr {
    target(move |stream| say_name(stream, name))
}

fn say_name(mut stream: TcpStream, name: &str) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
        if stream.write_all(name.as_bytes()).is_err() {
            return;
        }
    }
}

/// Asks whom a connection has reached.
fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"who?").unwrap();
    let mut buffer = [0; 16];
    let count = stream.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// An address at which nobody listens, and nobody else can as long as this lives.
struct Nobody {
    socket: socket2::Socket,
    address: SocketAddr,
}

impl Nobody {
    /// Listens there, and says this name.
    fn becomes(self, name: &'static str) {
        self.socket.listen(128).unwrap();
        serve_on(self.socket.into(), move |stream| say_name(stream, name));
    }
}

fn nobody() -> Nobody {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    Nobody { socket, address }
}

/// Whether a client was shut out: its connection has ended without a byte.
fn is_shut_out(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(b"who?");
    match stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// The line that a client has left in the log, in its parts.
#[track_caller]
fn line_of(outcome: &Outcome, client: SocketAddr) -> Vec<String> {
    let start = format!("{client} [");
    let line = outcome
        .stderr
        .lines()
        .find(|line| line.starts_with(&start))
        .unwrap_or_else(|| panic!("no line of {client} in {outcome:#?}"));
    line.split(' ').map(str::to_owned).collect()
}

/// How a client's connection ended, in two letters.
#[track_caller]
fn state_of(outcome: &Outcome, client: SocketAddr) -> String {
    line_of(outcome, client)[6].clone()
}

/// A directory that is gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("landfall-map-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn hash_of(bytes: &[u8]) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish().to_be_bytes()
}

/// Takes everything, and answers with its hash.
fn hashing(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    if stream.read_to_end(&mut bytes).is_ok() {
        let _ = stream.write_all(&hash_of(&bytes));
    }
}

/// Sends bytes, ends its sending, and waits for the hash: many times.
fn half_close(mode: &str, megabytes: usize, times: usize) {
    let (mapper, address) = map(&[&rule(&[&target(hashing)]), "--zero-copy", mode]);
    let bytes: Vec<u8> = (0..megabytes << 20)
        .map(|n| ((n * 31) >> 7) as u8)
        .collect();
    for time in 0..times {
        let mut stream = connect(&address);
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, hash_of(&bytes), "{mode}, the {time}th");
    }
    let report = end(mapper).json();
    let sent = (bytes.len() * times) as u64;
    assert_eq!(report["to_server_bytes"], sent);
    assert_eq!(report["to_client_bytes"], 8 * times as u64);
    let zero_copied = report["zero_copied_bytes"].as_u64().unwrap();
    match mode {
        "off" => assert_eq!(zero_copied, 0),
        _ => assert!(zero_copied > sent / 2, "{report}"),
    }
}

#[test]
fn a_client_that_ends_its_side_gets_the_answer_by_copying() {
    half_close("off", 4, 10);
}

#[test]
fn a_client_that_ends_its_side_gets_the_answer_by_splicing() {
    half_close("on", 4, 10);
}

/// 100 MB a hundred times, both ways: minutes. `cargo test --test map -- --ignored half_closes`
#[test]
#[ignore = "takes minutes"]
fn a_hundred_half_closes_of_a_hundred_megabytes() {
    half_close("off", 100, 100);
    half_close("auto", 100, 100);
}

#[test]
fn clients_of_other_makers_reach_targets_of_other_makers() {
    let (_target, echo) = socat("", "EXEC:cat");
    let (mapper, address) = map(&[&format!("127.0.0.1:0={echo}")]);
    let text = "hello\nworld\n".repeat(5_000);
    let (host, port) = address.rsplit_once(':').unwrap();
    let tcp = format!("TCP:{address}");
    for (program, args) in [
        ("ncat", vec![host, port]),
        ("socat", vec!["-t", "5", "-", &tcp]),
    ] {
        let mut command = std::process::Command::new(program);
        command.args(args);
        let mut client = Running::start(command);
        client.write(text.as_bytes());
        assert_eq!(client.finish().expect_code(0).stdout, text, "{program}");
    }
    let outcome = end(mapper);
    assert_eq!(outcome.json()["connections"], 2);
    assert_eq!(outcome.stderr.matches(" -- ").count(), 2, "{outcome:#?}");
}

#[test]
fn two_thousand_connections_are_mapped_at_a_time() {
    let (_server, target) = serve(&[]);
    let (mapper, address) = map(&[&format!("127.0.0.1:0={target}")]);
    let flags = [
        "-c",
        "2k",
        "--messages",
        "3",
        "--interval",
        "500ms",
        "--json",
    ];
    let load = run(&[&["load", address.as_str()], &flags[..]].concat()).expect_code(0);
    assert_eq!(load.json()["verified"], 6_000);
    assert_eq!(load.json()["peak_connections"], 2_000);
    let report = end(mapper).json();
    assert_eq!(report["connections"], 2_000);
    assert_eq!(report["to_server_bytes"], 6_000 * 64);
    assert_eq!(report["to_client_bytes"], 6_000 * 64);
    // Connections are in the port's own tables where there are any.
    if report["driver"] == "uring" {
        assert!(report["descriptors"].as_u64().unwrap() < 100, "{report}");
    }
}

#[test]
fn a_line_has_the_form_of_haproxy() {
    let (mapper, address) = map(&[&rule(&[&named("a")])]);
    let mut stream = connect(&address);
    let client = stream.local_addr().unwrap();
    assert_eq!(ask(&mut stream), "a");
    assert_eq!(ask(&mut stream), "a");
    drop(stream);
    let outcome = end(mapper);
    let target = outcome.json()["rules"][0]["targets"][0]["target"].clone();
    let parts = line_of(&outcome, client);
    let stamp = parts[1].trim_matches(['[', ']']);
    assert_eq!(stamp.len(), "06/Feb/2009:12:12:51.443".len(), "{parts:?}");
    assert_eq!(parts[2], "127.0.0.1:0");
    assert_eq!(
        parts[3],
        format!("127.0.0.1:0/{}", target.as_str().unwrap())
    );
    let times: Vec<u64> = parts[4]
        .split('/')
        .map(|time| time.parse().unwrap())
        .collect();
    assert!(times[0] == 0 && times[1] <= times[2], "{parts:?}");
    assert_eq!(parts[5..], ["2", "--", "1/1/0/0/0", "0/0"]);
}

#[test]
fn a_target_that_refuses_is_passed_over_and_tried_again_later() {
    let gone = nobody();
    let (mapper, address) = map(&[&rule(&[&gone.address, &named("b")]), "--fail-timeout", "1s"]);
    let began = Instant::now();
    for _ in 0..6 {
        assert_eq!(ask(&mut connect(&address)), "b");
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let address_of_gone = gone.address;
    gone.becomes("a");
    while ask(&mut connect(&address)) != "a" {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    }
    let outcome = end(mapper);
    assert_eq!(outcome.json()["failed_connects"], 1, "{outcome:#?}");
    outcome.expect_message(&[
        &format!("{address_of_gone} is left out for 1s: Connection refused"),
        &format!("{address_of_gone} is back"),
        "/+1 0/0",
    ]);
}

#[test]
fn where_nobody_listens_clients_are_shut_out() {
    let (one, other) = (nobody(), nobody());
    let (mapper, address) = map(&[&rule(&[&one.address, &other.address])]);
    let mut streams = [connect(&address), connect(&address)];
    assert!(streams.iter_mut().all(is_shut_out));
    let clients = streams.map(|stream| stream.local_addr().unwrap());
    let outcome = end(mapper);
    assert!(
        clients
            .iter()
            .all(|client| state_of(&outcome, *client) == "SC")
    );
    // Also when both are left out: there is nobody else.
    assert_eq!(outcome.json()["failed_connects"], 4);

    let (mapper, address) = map(&[&rule(&[&one.address])]);
    assert!(is_shut_out(&mut connect(&address)));
    let outcome = end(mapper);
    assert!(!outcome.stderr.contains("left out"), "{outcome:#?}");
    outcome.expect_message(&[" fails, and there is no other to try: Connection refused"]);
}

#[test]
fn a_target_that_cannot_be_reached_from_here_is_passed_over() {
    // Nobody connects to a group.
    let group = "224.0.0.1:9".parse().unwrap();
    let (mapper, address) = map(&[&rule(&[&group, &named("b")])]);
    assert_eq!(ask(&mut connect(&address)), "b");
    let outcome = end(mapper);
    assert_eq!(outcome.json()["failed_connects"], 1);
    outcome.expect_message(&["target 127.0.0.1:0/224.0.0.1:9 is left out", "/+1 0/0"]);
}

#[test]
fn a_target_to_which_no_local_port_is_left_is_passed_over() {
    // Two for each target; all clients but those of the other's share are to go to the first.
    let script = "ip link set lo up
        echo 40000 40001 >/proc/sys/net/ipv4/ip_local_port_range
        wait_for() { until ss -Hltn | grep -q \"$1 \"; do sleep 0.02; done; }
        \"$LANDFALL\" serve 127.0.0.1:7000 127.0.0.1:7001 -q >/dev/null &
        \"$LANDFALL\" map 127.0.0.1:9000=127.0.0.1:7000*9,127.0.0.1:7001 >/dev/null &
        mapper=$!
        wait_for :7001; wait_for :9000
        \"$LANDFALL\" load 127.0.0.1:9000 -c 4 --messages 2 --interval 100ms --json
        kill $mapper; wait $mapper";
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--net", "sh", "-ec", script]);
    command.env("LANDFALL", env!("CARGO_BIN_EXE_landfall"));
    let outcome = Running::start(command).finish().expect_code(0);
    assert_eq!(outcome.json()["verified"], 8);
    assert_eq!(outcome.stderr.matches("/+1 0/0").count(), 2, "{outcome:#?}");
    outcome.expect_message(&["no connection to 127.0.0.1:7000: "]);
}

#[test]
fn a_target_that_does_not_answer_leaves_time_for_the_next() {
    // Its queue is full, so the system drops what comes.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    keep_a_short_queue(&full);
    let silent = full.local_addr().unwrap();
    let _waiting: Vec<_> = (0..4)
        .map(|_| TcpStream::connect_timeout(&silent, Duration::from_millis(100)))
        .collect();
    let (mapper, address) = map(&[&rule(&[&silent, &named("b")]), "--connect-timeout", "1s"]);
    assert_eq!(ask(&mut connect(&address)), "b");
    let alone = map(&[&rule(&[&silent]), "--connect-timeout", "300ms"]);
    let mut stream = connect(&alone.1);
    assert!(is_shut_out(&mut stream));
    assert_eq!(state_of(&end(alone.0), stream.local_addr().unwrap()), "sC");
    end(mapper).expect_message(&[&format!("{silent} is left out"), "/+1 0/0"]);
}

/// Listens anew, with a queue for as few connections as there can be.
fn keep_a_short_queue(listener: &TcpListener) {
    socket2::SockRef::from(listener).listen(0).unwrap();
}

#[test]
fn targets_share_by_weight() {
    let (a, b) = (named("a"), named("b"));
    let (mapper, address) = map(&[&format!("127.0.0.1:0={a}*3,{b}")]);
    let mut counts = HashMap::new();
    for _ in 0..40 {
        *counts.entry(ask(&mut connect(&address))).or_insert(0) += 1;
    }
    assert_eq!((counts["a"], counts["b"]), (30, 10));
    let report = end(mapper).json();
    let of_target = |index: usize| report["rules"][0]["targets"][index]["connections"].clone();
    assert_eq!((of_target(0), of_target(1)), (30.into(), 10.into()));
}

#[test]
fn the_same_source_reaches_the_same_target() {
    let rule = rule(&[&named("a"), &named("b"), &named("c")]);
    let (mapper, address) = map(&[&rule, "--balance", "source-hash"]);
    let first = ask(&mut connect(&address));
    for _ in 0..10 {
        assert_eq!(ask(&mut connect(&address)), first);
    }
    end(mapper);
}

#[test]
fn the_least_loaded_target_is_chosen() {
    let rule = rule(&[&named("a"), &named("b")]);
    let (mapper, address) = map(&[&rule, "--balance", "least-connections"]);
    let mut first = connect(&address);
    let busy = ask(&mut first);
    for _ in 0..5 {
        let mut stream = connect(&address);
        assert_ne!(ask(&mut stream), busy);
        drop(stream);
        // The mapper learns of its end a moment later.
        thread::sleep(Duration::from_millis(50));
    }
    drop(first);
    end(mapper);
}

#[test]
fn checks_find_targets_down_and_up() {
    let gone = nobody();
    let args = ["--check", "--check-interval", "50ms", "--check-fall", "2"];
    let (mut mapper, address) = map(&[&[rule(&[&gone.address]).as_str()], &args[..]].concat());
    mapper.stderr_after(" is DOWN: Connection refused");
    let mut stream = connect(&address);
    assert!(is_shut_out(&mut stream));
    gone.becomes("a");
    mapper.stderr_after(" is UP: ");
    assert_eq!(ask(&mut connect(&address)), "a");
    let outcome = end(mapper);
    let parts = line_of(&outcome, stream.local_addr().unwrap());
    // Nobody has tried to connect.
    assert_eq!(parts[3], "127.0.0.1:0/<NOSRV>");
    assert_eq!(
        (parts[4].starts_with("-1/-1/"), parts[6].as_str()),
        (true, "SC")
    );
}

#[test]
fn a_source_has_so_many_connections_and_no_more() {
    let most = ["--max-conns-per-source", "2", "-v"];
    let (mapper, address) = map(&[&[rule(&[&named("a")]).as_str()], &most[..]].concat());
    let mut two = [connect(&address), connect(&address)];
    assert!(two.iter_mut().all(|stream| ask(stream) == "a"));
    let mut third = connect(&address);
    assert!(is_shut_out(&mut third));
    drop(two);
    let deadline = Instant::now() + PATIENCE;
    while is_shut_out(&mut connect(&address)) {
        assert!(Instant::now() < deadline);
    }
    let outcome = end(mapper);
    let third = third.local_addr().unwrap();
    assert_eq!(state_of(&outcome, third), "PR");
    assert!(outcome.json()["refused"].as_u64().unwrap() >= 1);
    let reason = format!("refuses {third}: it has the 2 of --max-conns-per-source");
    outcome.expect_message(&[&reason]);
}

#[test]
fn more_clients_than_allowed_wait() {
    let (mapper, address) = map(&[&rule(&[&named("a")]), "--max-conns", "1"]);
    let mut first = connect(&address);
    assert_eq!(ask(&mut first), "a");
    let mut second = connect(&address);
    second.write_all(b"who?").unwrap();
    second
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(second.read(&mut [0; 16]).is_err());
    drop(first);
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(second.read(&mut [0; 16]).unwrap(), 1);
    drop(second);
    end(mapper);
}

#[test]
fn it_says_when_clients_have_to_wait_for_room_and_when_no_more() {
    let (mut mapper, address) = map(&[&rule(&[&named("a")]), "--max-conns", "1"]);
    let mut only = connect(&address);
    assert_eq!(ask(&mut only), "a");
    mapper
        .stderr_after("1 connection is open, which is all there is room for: clients have to wait");
    drop(only);
    mapper.stderr_after("there is room for connections again");
    // A drain makes room for nobody.
    let mut only = connect(&address);
    assert_eq!(ask(&mut only), "a");
    mapper.stderr_after("clients have to wait");
    mapper.signal(Signal::TERM);
    mapper.stderr_after("letting 1 connection finish");
    drop(only);
    let outcome = mapper.finish().expect_code(0);
    assert_eq!(
        outcome.stderr.matches("room for connections again").count(),
        1
    );
}

#[test]
fn networks_are_allowed_and_denied() {
    let target = named("a");
    for (args, is_let_in) in [
        (["-v", "--allow", "127.0.0.0/8"], true),
        (["-v", "--allow", "10.0.0.0/8,::1"], false),
        (["-v", "--deny", "127.0.0.1"], false),
        (["-v", "--deny", "127.0.0.2/31"], true),
    ] {
        let (mapper, address) = map(&[&[rule(&[&target]).as_str()], &args[..]].concat());
        let mut stream = connect(&address);
        match is_let_in {
            true => assert_eq!(ask(&mut stream), "a", "{args:?}"),
            false => assert!(is_shut_out(&mut stream), "{args:?}"),
        }
        let client = stream.local_addr().unwrap();
        drop(stream);
        let outcome = end(mapper);
        let state = if is_let_in { "--" } else { "PR" };
        assert_eq!(state_of(&outcome, client), state, "{args:?}");
        let reason = format!("127.0.0.1:0 refuses {client}: it is ");
        let is_said = outcome.stderr.contains(&reason) && outcome.stderr.contains(args[1]);
        assert_eq!(is_said, !is_let_in, "{outcome:#?}");
    }
}

/// Sends back everything, with its end.
fn echo(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    if stream.read_to_end(&mut bytes).is_ok() {
        let _ = stream.write_all(&bytes);
    }
}

/// What a target has received when a client has sent this.
fn through(address: &str, text: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut stream = connect(address);
    // One that is refused may not get that far.
    let _ = stream.write_all(text);
    let _ = stream.shutdown(Shutdown::Write);
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    (received, stream.local_addr().unwrap())
}

#[test]
fn targets_are_told_who_the_client_is() {
    let target = target(echo);
    let (mapper, address) = map(&[&rule(&[&target]), "--send-proxy", "1"]);
    let (received, client) = through(&address, b"hello");
    let listening: SocketAddr = address.parse().unwrap();
    let (from, to) = (client.port(), listening.port());
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\nhello");
    assert_eq!(received, expected.as_bytes());
    end(mapper);

    let (mapper, address) = map(&[&rule(&[&target]), "--send-proxy", "2"]);
    let (received, client) = through(&address, b"hello");
    let listening: SocketAddr = address.parse().unwrap();
    // The signature; version 2, for another; TCP over IPv4; 12 bytes; addresses and ports.
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
    expected.extend(client.port().to_be_bytes());
    expected.extend(listening.port().to_be_bytes());
    expected.extend(b"hello");
    assert_eq!(received, expected);
    end(mapper);
}

#[test]
fn a_proxy_says_who_the_client_is() {
    let rule = rule(&[&target(echo)]);
    let proxy = ["--accept-proxy", "--proxy-from", "127.0.0.0/8"];
    let more = ["--proxy-timeout", "300ms", "--deny", "10.9.0.0/16", "-v"];
    let (mapper, address) = map(&[&[rule.as_str()], &proxy[..], &more[..]].concat());
    let (received, _) = through(&address, b"PROXY TCP4 10.1.2.3 10.8.8.8 1111 2222\r\nhello");
    assert_eq!(received, b"hello");
    let (received, _) = through(&address, b"PROXY TCP4 10.9.2.3 10.8.8.8 1111 2222\r\nhello");
    assert_eq!(received, b"", "denied");
    let (received, garbage) = through(&address, b"hello");
    assert_eq!(received, b"");
    let (_, left) = through(&address, b"PROXY TCP4 10.1");
    let mut silent = connect(&address);
    assert!(silent.read(&mut [0; 1]).is_ok_and(|count| count == 0));
    let outcome = end(mapper);
    let state = |client| state_of(&outcome, client);
    assert_eq!(state("10.1.2.3:1111".parse().unwrap()), "--");
    assert_eq!(state("10.9.2.3:1111".parse().unwrap()), "PR");
    assert_eq!((state(garbage), state(left)), ("PR".into(), "CR".into()));
    let silent = silent.local_addr().unwrap();
    assert_eq!(state(silent), "cR");
    outcome.expect_message(&[
        "refuses 10.9.2.3:1111: it is in --deny",
        &format!("refuses {garbage}: no PROXY header, or a wrong one: "),
        &format!("refuses {left}: it left before"),
        &format!("refuses {silent}: no PROXY header in --proxy-timeout"),
    ]);
}

#[test]
fn what_one_proxy_says_the_next_one_hears() {
    let rule = rule(&[&target(echo)]);
    let flags = [
        "--accept-proxy",
        "--proxy-from",
        "127.0.0.1",
        "--send-proxy",
        "1",
    ];
    let (mapper, address) = map(&[&[rule.as_str()], &flags[..]].concat());
    let text = b"PROXY TCP6 fd00::1 fd00::2 1111 2222\r\nhello";
    assert_eq!(through(&address, text).0, text);
    end(mapper);
}

#[test]
fn others_than_known_proxies_are_refused() {
    let rule = rule(&[&target(echo)]);
    let flags = ["-v", "--accept-proxy", "--proxy-from", "10.0.0.0/8"];
    let (mapper, address) = map(&[&[rule.as_str()], &flags[..]].concat());
    let text = b"PROXY TCP4 10.1.2.3 10.8.8.8 1111 2222\r\nhello";
    let (received, client) = through(&address, text);
    assert_eq!(received, b"");
    let outcome = end(mapper);
    assert_eq!(state_of(&outcome, client), "PR");
    outcome.expect_message(&[&format!("refuses {client}: it is not in --proxy-from")]);
}

#[test]
fn a_reload_keeps_connections_and_wrong_rules_change_nothing() {
    let (a, b) = (named("a"), named("b"));
    let directory = Directory::new();
    let rules = |target: SocketAddr, more: &str| {
        format!(
            "[[map]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\ntargets = [\"{target}\"]\n{more}"
        )
    };
    let file = directory.file("map.toml", &rules(a, ""));
    let log = directory.0.join("log");
    let (mut mapper, address) = map(&[
        "--config",
        &file,
        "--log",
        log.to_str().unwrap(),
        "--deny",
        "10.0.0.0/8",
    ]);
    let mut old = connect(&address);
    assert_eq!(ask(&mut old), "a");

    fs::write(&file, rules(b, "")).unwrap();
    mapper.signal(Signal::HUP);
    mapper.stderr_after("reloaded: 1 rule in force");
    let mut new = connect(&address);
    assert_eq!((ask(&mut old), ask(&mut new)), ("a".into(), "b".into()));

    let somebody = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = somebody.local_addr().unwrap();
    let wrong = [
        String::from("[[map"),
        rules(a, "idle-timeout = 3\n"),
        rules(a, "") + &format!("[[map]]\nlisten = \"{taken}\"\ntargets = [\"{a}\"]\n"),
        rules(a, "") + "[[map]]\nlisten = \"127.0.0.1:0\"\ntargets = [\"nobody.invalid:1\"]\n",
        String::new(),
        String::from("max-conns = \"100M\"\n") + &rules(a, ""),
    ];
    for (text, reason) in wrong.iter().zip([
        "map.toml",
        "3s for seconds",
        "cannot listen",
        "nobody.invalid",
        "no rule",
        "is more than this machine allows; sockets: 200,000,",
    ]) {
        fs::write(&file, text).unwrap();
        mapper.signal(Signal::HUP);
        let said = mapper.stderr_after("error: not reloaded, the old rules stay: ");
        assert!(said.contains(reason), "{said}");
        assert_eq!(ask(&mut connect(&address)), "b", "{text}");
        assert_eq!(ask(&mut old), "a");
    }

    // The rule is gone, and its address with it; its connections go on.
    let other = rules(a, "").replace("127.0.0.1:0", "127.0.0.2:0");
    fs::write(&file, other).unwrap();
    mapper.signal(Signal::HUP);
    mapper.stderr_after("reloaded");
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!((ask(&mut old), ask(&mut new)), ("a".into(), "b".into()));
    drop((old, new));
    let report = end(mapper).json();
    assert_eq!(
        (&report["reloads"], &report["failed_reloads"]),
        (&2.into(), &6.into())
    );
    let log = fs::read_to_string(log).unwrap();
    assert!(log.matches(" web web/").count() >= 7, "{log}");
}

#[test]
fn a_reload_that_is_in_its_own_way_says_so() {
    let directory = Directory::new();
    let text = format!(
        "[[map]]\nlisten = \"127.0.0.1:0\"\ntargets = [\"{}\"]\n",
        named("a")
    );
    let file = directory.file("map.toml", &text);
    let (mut mapper, address) = map(&["--config", &file]);
    let all = address.replace("127.0.0.1", "0.0.0.0");
    fs::write(&file, text.replace("127.0.0.1:0", &all)).unwrap();
    mapper.signal(Signal::HUP);
    let said = mapper.stderr_after("not reloaded, the old rules stay: ");
    let own = format!("cannot listen on {all}: this mapper itself listens on {address}");
    assert!(said.starts_with(&own), "{said}");
    end(mapper);
}

#[test]
fn an_address_that_was_given_up_is_free_for_the_next_reload() {
    let directory = Directory::new();
    let a = named("a");
    let rule = |listen: &str| format!("[[map]]\nlisten = \"{listen}\"\ntargets = [\"{a}\"]\n");
    let file = directory.file("map.toml", &rule("127.0.0.1:0"));
    let (mut mapper, address) = map(&["--config", &file]);
    let with = rule("127.0.0.2:0") + &rule(&address);
    for _ in 0..20 {
        reload(&mut mapper, &file, &rule("127.0.0.2:0"));
        drop(TcpListener::bind(&address).expect("it is free"));
        reload(&mut mapper, &file, &with);
        assert_eq!(ask(&mut connect(&address)), "a");
    }
    end(mapper);
}

#[test]
fn a_reload_changes_how_many_are_let_in_and_how_long_a_drain_may_take() {
    let directory = Directory::new();
    let rule = format!(
        "[[map]]\nlisten = \"127.0.0.1:0\"\ntargets = [\"{}\"]\n",
        named("a")
    );
    let file = directory.file("map.toml", &format!("max-conns = 2\n{rule}"));
    let (mut mapper, address) = map(&["--config", &file, "--max-conns", "1"]);
    let mut clients = [(); 2].map(|()| connect(&address));
    assert!(clients.iter_mut().all(|client| ask(client) == "a"));
    reload(&mut mapper, &file, &format!("max-conns = 1\n{rule}"));
    assert!(clients.iter_mut().all(|client| ask(client) == "a"));
    let mut third = connect(&address);
    third
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    third.write_all(b"who?").unwrap();
    assert!(third.read(&mut [0; 16]).is_err(), "it waits");
    let [first, mut second] = clients;
    drop(first);
    assert!(third.read(&mut [0; 16]).is_err(), "it waits on");
    let more = format!("max-conns = 2\ndrain-timeout = \"100ms\"\n{rule}");
    reload(&mut mapper, &file, &more);
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0];
    third.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, ask(&mut second)), (b"a", "a".into()));
    assert_eq!(end(mapper).json()["cut_off"], 2);
}

#[test]
fn a_target_whose_name_is_not_known_yet_is_used_when_it_is() {
    let directory = Directory::new();
    let hosts = directory.file("hosts", "127.0.0.1 localhost\n");
    let order = directory.file("nsswitch.conf", "hosts: files\n");
    let target = named("a");
    let rules = [false, true].map(|udp| {
        format!(
            "[[map]]\nudp = {udp}\nlisten = \"127.0.0.1:0\"\ntargets = [\"name.test:{}\"]\n",
            target.port()
        )
    });
    let file = directory.file("map.toml", &rules.concat());
    let script = format!(
        "mount --bind {hosts} /etc/hosts; mount --bind {order} /etc/nsswitch.conf; exec \"$@\""
    );
    let start = |more: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", &script, "sh"]);
        command.args([env!("CARGO_BIN_EXE_landfall"), "map", "--json"]);
        command.args(["--config", &file]).args(more);
        Running::start(command)
    };
    start(&[])
        .finish()
        .expect_code(1)
        .expect_message(&["cannot find the address of name.test", "--resolve-later"]);
    let mut mapper = start(&["--resolve-later", "--resolve-every", "20ms"]);
    let announced = mapper.stdout_after("{\"listening\":[\"");
    let address = announced.split('"').next().unwrap();
    let unknown = format!("/name.test:{} has no address yet", target.port());
    mapper.stderr_after(&unknown);
    let mut early = connect(address);
    assert!(is_shut_out(&mut early));
    let datagrams = announced.split('"').nth(2).unwrap();
    udp_client(datagrams.trim_end_matches("/udp"))
        .send(b"x")
        .unwrap();
    // In place: the file is mounted.
    fs::write(&hosts, "127.0.0.1 localhost name.test\n").unwrap();
    mapper.stderr_after("has addresses now: [127.0.0.1:");
    let deadline = Instant::now() + PATIENCE;
    while is_shut_out(&mut connect(address)) {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(ask(&mut connect(address)), "a");
    let outcome = end(mapper);
    let line = line_of(&outcome, early.local_addr().unwrap());
    assert!(line[3].ends_with("/<NOSRV>"), "{line:?}");
    assert_eq!(line[6], "SC");
}

#[test]
fn without_a_file_a_hangup_opens_the_log_anew() {
    let directory = Directory::new();
    let (log, old) = (directory.0.join("log"), directory.0.join("log.1"));
    let rule = rule(&[&named("a")]);
    let (mut mapper, address) = map(&[&rule, "--log", log.to_str().unwrap()]);
    fs::rename(&log, &old).unwrap();
    mapper.signal(Signal::HUP);
    mapper.stderr_after("log is open anew");
    mapper.stderr_after("no rule is read again, as there is no --config");
    assert_eq!(ask(&mut connect(&address)), "a");
    assert_eq!(end(mapper).json()["reloads"], 0);
    let lines = [log, old].map(|path| fs::read_to_string(path).unwrap().lines().count());
    assert_eq!(lines, [1, 0]);
}

#[test]
fn a_reload_knows_an_address_in_another_spelling() {
    let (a, b) = (named("a"), named("b"));
    let directory = Directory::new();
    let rules = |listen: &str, target: SocketAddr| {
        format!("[[map]]\nlisten = \"{listen}\"\ntargets = [\"{target}\"]\n")
    };
    let file = directory.file("map.toml", &rules("127.0.0.1:0", a));
    let (mut mapper, address) = map(&["--config", &file]);
    let mut old = connect(&address);
    assert_eq!(ask(&mut old), "a");
    let port = address.rsplit_once(':').unwrap().1;
    for (host, target, name) in [("127.0.0.1", b, "b"), ("localhost", a, "a")] {
        fs::write(&file, rules(&format!("{host}:{port}"), target)).unwrap();
        mapper.signal(Signal::HUP);
        mapper.stderr_after("reloaded: 1 rule in force");
        assert_eq!(ask(&mut connect(&address)), name, "{host}");
        assert_eq!(ask(&mut old), "a");
    }
    drop(old);
    assert_eq!(end(mapper).json()["connections"], 3);
}

/// `landfall map` with these arguments, where the only name server takes questions and does not answer;
/// it says so on standard error.
fn map_beside_a_silent_name_server(directory: &Directory, args: &[&str]) -> Running {
    let servers = directory.file("resolv.conf", "nameserver 127.0.0.1\n");
    let order = directory.file("nsswitch.conf", "hosts: dns\n");
    let script = format!(
        "ip link set lo up
        mount --bind {servers} /etc/resolv.conf
        mount --bind {order} /etc/nsswitch.conf
        socat -u UDP-RECVFROM:53,bind=127.0.0.1,fork SYSTEM:'echo somebody asks >&2' &
        until ss -Hlun | grep -q 127.0.0.1:53; do sleep 0.02; done
        exec \"$@\""
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount", "sh", "-ec", &script]);
    command
        .args(["sh", env!("CARGO_BIN_EXE_landfall"), "map", "--json"])
        .args(args);
    // Longer than anybody waits here.
    command.env("RES_OPTIONS", "timeout:30 attempts:5");
    Running::start(command)
}

#[test]
fn a_signal_is_obeyed_while_names_are_asked_for() {
    let directory = Directory::new();
    let rule = "127.0.0.1:0=name.test:80";
    let mut mapper = map_beside_a_silent_name_server(&directory, &[rule]);
    mapper.stderr_after("somebody asks");
    mapper.signal(Signal::TERM);
    mapper
        .finish()
        .expect_code(143)
        .expect_message(&["stopped before it listened"]);

    let rules =
        |target: &str| format!("[[map]]\nlisten = \"127.0.0.1:0\"\ntargets = [\"{target}\"]\n");
    let file = directory.file("map.toml", &rules("127.0.0.1:80"));
    let mut mapper = map_beside_a_silent_name_server(&directory, &["--config", &file]);
    mapper.stdout_after("listening");
    fs::write(&file, rules("name.test:80")).unwrap();
    mapper.signal(Signal::HUP);
    mapper.stderr_after("somebody asks");
    mapper.signal(Signal::TERM);
    assert_eq!(mapper.finish().expect_code(0).json()["reloads"], 0);
}

#[test]
fn a_drain_waits_for_connections() {
    let (mut mapper, address) = map(&[&rule(&[&named("a")])]);
    let mut stream = connect(&address);
    assert_eq!(ask(&mut stream), "a");
    mapper.signal(Signal::TERM);
    mapper.stderr_after("letting 1 connection finish, for 30s at most");
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(ask(&mut stream), "a");
    let client = stream.local_addr().unwrap();
    drop(stream);
    let outcome = mapper.finish().expect_code(0);
    assert_eq!(state_of(&outcome, client), "--");
    assert_eq!(outcome.json()["cut_off"], 0);
}

#[test]
fn what_does_not_end_in_time_is_cut() {
    let (mapper, address) = map(&[&rule(&[&named("a")]), "--drain-timeout", "200ms"]);
    let mut stream = connect(&address);
    assert_eq!(ask(&mut stream), "a");
    let outcome = end(mapper);
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(state_of(&outcome, stream.local_addr().unwrap()), "KD");
    assert_eq!(outcome.json()["cut_off"], 1);
}

#[test]
fn a_second_signal_stops_at_once() {
    let (mut mapper, address) = map(&[&rule(&[&named("a")])]);
    let mut stream = connect(&address);
    assert_eq!(ask(&mut stream), "a");
    mapper.signal(Signal::TERM);
    mapper.stderr_after("letting 1 connection finish");
    mapper.signal(Signal::TERM);
    let outcome = mapper.finish().expect_code(143);
    assert_eq!(state_of(&outcome, stream.local_addr().unwrap()), "KD");
    assert_eq!(outcome.json()["exit_code"], 143);
}

#[test]
fn silence_ends_a_connection() {
    let silent = target(|stream| {
        // Holds the connection until the mapper ends it.
        let _ = (&stream).read(&mut [0; 64]);
        let _ = (&stream).read(&mut [0; 64]);
        thread::sleep(PATIENCE);
    });
    let flags = ["--idle-timeout", "300ms"];
    let (mapper, address) = map(&[&[rule(&[&silent]).as_str()], &flags[..]].concat());
    let mut stream = connect(&address);
    let began = Instant::now();
    assert!(stream.read(&mut [0; 1]).is_err());
    assert!(
        began.elapsed() >= Duration::from_millis(290),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(state_of(&end(mapper), stream.local_addr().unwrap()), "cD");

    let flags = ["--half-close-timeout", "300ms"];
    let (mapper, address) = map(&[&[rule(&[&silent]).as_str()], &flags[..]].concat());
    let mut stream = connect(&address);
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(stream.read(&mut [0; 1]).is_err());
    // A target that has ended, and a client that does not.
    let (other, leaving) = map(&[&[rule(&[&target(drop)]).as_str()], &flags[..]].concat());
    let mut patient = connect(&leaving);
    assert_eq!(patient.read(&mut [0; 1]).unwrap(), 0);
    assert!(patient.read(&mut [0; 1]).is_ok());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(state_of(&end(mapper), stream.local_addr().unwrap()), "sD");
    assert_eq!(state_of(&end(other), patient.local_addr().unwrap()), "cD");
}

/// Has the connection reset when it is closed.
fn cut(stream: TcpStream) {
    let none = Some(Duration::ZERO);
    socket2::SockRef::from(&stream).set_linger(none).unwrap();
}

#[test]
fn a_reset_goes_through_and_is_named() {
    let cutting = target(|mut stream| {
        let _ = stream.read(&mut [0; 16]);
        cut(stream);
    });
    let (mapper, address) = map(&[&rule(&[&cutting])]);
    let mut stream = connect(&address);
    stream.write_all(b"who?").unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(state_of(&end(mapper), stream.local_addr().unwrap()), "SD");

    let (mapper, address) = map(&[&rule(&[&named("a")])]);
    let mut stream = connect(&address);
    assert_eq!(ask(&mut stream), "a");
    let client = stream.local_addr().unwrap();
    cut(stream);
    assert_eq!(state_of(&end(mapper), client), "CD");
}

/// A target for datagrams, which it sends back behind its name.
fn udp_target(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..count].to_vec();
            answer.splice(..name.len().min(count), name.bytes().take(count));
            let _ = socket.send_to(&answer, peer);
        }
    });
    address
}

fn udp_client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // So that only answers from there are received.
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn udp_ask(socket: &UdpSocket, length: usize) -> Vec<u8> {
    socket.send(&vec![b'x'; length]).unwrap();
    let mut buffer = vec![0; 65_536];
    let count = socket.recv(&mut buffer).unwrap();
    buffer.truncate(count);
    buffer
}

#[test]
fn datagrams_go_whole_to_one_target_for_each_client() {
    let rule = rule(&[&udp_target("a"), &udp_target("b")]);
    let (mapper, address) = map(&["--udp", &rule, "--udp-timeout", "500ms"]);
    let address = address.strip_suffix("/udp").unwrap();
    let clients: Vec<_> = (0..10).map(|_| udp_client(address)).collect();
    let mut counts = HashMap::new();
    for client in &clients {
        let first = udp_ask(client, 1);
        for length in [0, 1, 1_000, 9_000, 65_507] {
            let answer = udp_ask(client, length);
            assert_eq!(answer.len(), length);
            assert!(answer.starts_with(&first[..first.len().min(length)]));
        }
        *counts.entry(first).or_insert(0) += 1;
    }
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [5, 5]);
    let local: Vec<_> = clients
        .iter()
        .map(|one| one.local_addr().unwrap())
        .collect();
    let outcome = end(mapper);
    for client in local {
        let parts = line_of(&outcome, client);
        assert_eq!(parts[5..7], ["75509", "--"], "{parts:?}");
    }
    let report = outcome.json();
    assert_eq!(report["connections"], 10);
    assert_eq!(report["to_server_bytes"], report["to_client_bytes"]);
}

#[test]
fn quiet_sessions_end_and_their_number_is_bounded() {
    let rule = rule(&[&udp_target("a")]);
    let flags = ["--udp", "--udp-timeout", "300ms", "--udp-sessions", "1"];
    let (mut mapper, address) = map(&[&[rule.as_str()], &flags[..]].concat());
    let address = address.strip_suffix("/udp").unwrap().to_owned();
    let (first, second) = (udp_client(&address), udp_client(&address));
    assert_eq!(udp_ask(&first, 1), b"a");
    second
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    second.send(b"x").unwrap();
    assert!(second.recv(&mut [0; 8]).is_err());
    mapper.stderr_after(&format!("{} [", first.local_addr().unwrap()));
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(udp_ask(&second, 1), b"a");
    let report = end(mapper).json();
    assert_eq!(
        (&report["connections"], &report["refused"]),
        (&2.into(), &1.into())
    );
}

/// Rules of a file, for datagrams: each name with the target of what comes to an address.
fn udp_rules(rules: &[(&str, &str, SocketAddr)], more: &str) -> String {
    let rule = |(name, listen, target): &(&str, &str, SocketAddr)| {
        let listen = listen.trim_end_matches("/udp");
        format!(
            "[[map]]\nudp = true\nname = \"{name}\"\nlisten = \"{listen}\"\ntargets = [\"{target}\"]\n"
        )
    };
    let rules: Vec<_> = rules.iter().map(rule).collect();
    more.to_owned() + &rules.concat()
}

/// Gives a mapper other rules.
#[track_caller]
fn reload(mapper: &mut Running, file: &str, rules: &str) {
    fs::write(file, rules).unwrap();
    mapper.signal(Signal::HUP);
    mapper.stderr_after("reloaded: ");
}

#[test]
fn a_port_of_datagrams_that_was_given_up_is_for_its_sessions_and_for_the_next_rule() {
    let directory = Directory::new();
    let (a, b) = (udp_target("a"), udp_target("b"));
    let other = ("other", "127.0.0.1:0", a);
    let file = directory.file("map.toml", &udp_rules(&[("old", "127.0.0.1:0", a)], ""));
    let (mut mapper, address) = map(&["--config", &file]);
    let old = udp_client(address.trim_end_matches("/udp"));
    assert_eq!(udp_ask(&old, 1), b"a");

    reload(&mut mapper, &file, &udp_rules(&[other], ""));
    // Longer than it takes to tell a session that goes on from one that is to end.
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(udp_ask(&old, 1), b"a");
    let new = udp_client(address.trim_end_matches("/udp"));
    new.set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    new.send(b"x").unwrap();
    assert!(new.recv(&mut [0; 8]).is_err(), "nobody is let in");

    // The same address, by another rule.
    let next = udp_rules(&[other, ("new", &address, b)], "");
    reload(&mut mapper, &file, &next);
    new.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(udp_ask(&new, 1), b"b");
    assert_eq!(
        udp_ask(&old, 1),
        b"a",
        "it goes on under the rule it came by"
    );
    let outcome = end(mapper);
    assert_eq!(state_of(&outcome, old.local_addr().unwrap()), "--");
    assert_eq!(outcome.json()["reloads"], 2);
}

#[test]
fn a_port_of_datagrams_that_was_given_up_is_free_when_its_sessions_have_ended() {
    let directory = Directory::new();
    let a = udp_target("a");
    let more = "drain-timeout = \"300ms\"\n";
    let file = directory.file("map.toml", &udp_rules(&[("old", "127.0.0.1:0", a)], more));
    let (mut mapper, address) = map(&["--config", &file]);
    let address = address.trim_end_matches("/udp").to_owned();
    let client = udp_client(&address);
    assert_eq!(udp_ask(&client, 1), b"a");
    let rules = udp_rules(&[("other", "127.0.0.1:0", a)], more);
    fs::write(&file, rules).unwrap();
    mapper.signal(Signal::HUP);
    let said = mapper.stderr_after(&format!("{address}/udp is given up when its "));
    assert_eq!(said, "1 session has ended, in 300ms at most");
    // It is never idle, and has its time all the same.
    let deadline = Instant::now() + PATIENCE;
    while UdpSocket::bind(&address).is_err() {
        let _ = client.send(b"x");
        thread::sleep(Duration::from_millis(10));
        assert!(Instant::now() < deadline);
    }
    let outcome = end(mapper);
    assert_eq!(state_of(&outcome, client.local_addr().unwrap()), "KD");
}

#[test]
fn a_port_of_datagrams_can_be_given_up_and_taken_again_at_once() {
    let directory = Directory::new();
    let a = udp_target("a");
    let port = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let other = ("other", "127.0.0.1:0", a);
    let with = udp_rules(&[other, ("own", &address, a)], "");
    let file = directory.file("map.toml", &with);
    let (mut mapper, _) = map(&["--config", &file]);
    for _ in 0..20 {
        reload(&mut mapper, &file, &udp_rules(&[other], ""));
        reload(&mut mapper, &file, &with);
        assert_eq!(udp_ask(&udp_client(&address), 1), b"a");
    }
    end(mapper);
}

#[test]
fn a_datagram_target_that_is_not_there_is_passed_over() {
    // It is for the datagrams of one peer, and refuses those of others.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.0.0.1:9").unwrap();
    let gone = socket.local_addr().unwrap();
    let rule = rule(&[&gone, &udp_target("b")]);
    let (mapper, address) = map(&["--udp", &rule]);
    let client = udp_client(address.strip_suffix("/udp").unwrap());
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 8];
    // Datagrams may be lost, so clients ask again.
    while client.send(b"x").is_err() || client.recv(&mut buffer).is_err() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(buffer[0], b'b');
    end(mapper).expect_message(&[&format!("{gone} is left out")]);
}

#[test]
fn several_rules_and_ranges_have_their_ports() {
    let (a, b) = (named("a"), named("b"));
    let directory = Directory::new();
    let text = format!("[[map]]\nlisten = \"127.0.0.1:0\"\ntargets = [\"{b}\"]\n");
    let file = directory.file("map.toml", &text);
    // An address that is this process's own, so that ports of it are free.
    let [_, x, y, z] = std::process::id().to_be_bytes();
    let ports = format!("127.{x}.{y}.{z}:17000-17001={a}");
    let args = ["map", "--json", &ports, "--config", &file];
    let mut mapper = Running::start(landfall(&args));
    let line = mapper.stdout_after("{\"listening\":[");
    let listening: Vec<_> = line
        .split('"')
        .filter(|part| part.contains("127."))
        .collect();
    let names: Vec<_> = listening
        .iter()
        .map(|address| ask(&mut connect(address)))
        .collect();
    assert_eq!(names, ["a", "a", "b"]);
    let report = end(mapper).json();
    assert_eq!(report["rules"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_reload_of_the_same_leaves_each_port_to_its_rule() {
    let names = ["a", "b", "c", "d"];
    let rules = names.map(|name| {
        let target = named(name);
        format!("[[map]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\ntargets = [\"{target}\"]\n")
    });
    let directory = Directory::new();
    let file = directory.file("map.toml", &rules.concat());
    let mut mapper = Running::start(landfall(&["map", "--json", "--config", &file]));
    let line = mapper.stdout_after("{\"listening\":[");
    let listening: Vec<_> = line
        .split('"')
        .filter(|part| part.contains("127."))
        .collect();
    for _ in 0..2 {
        mapper.signal(Signal::HUP);
        mapper.stderr_after("reloaded: 4 rules in force");
        for (address, name) in listening.iter().zip(names) {
            assert_eq!(ask(&mut connect(address)), name);
        }
    }
    end(mapper);
}

#[test]
fn rules_are_checked_without_being_used() {
    let directory = Directory::new();
    let good = "[[map]]\nlisten = \"127.0.0.1:1-3\"\ntargets = [\"localhost:7\"]\n";
    let file = directory.file("good.toml", good);
    let outcome = run(&["map", "--config", &file, "--check-config"]).expect_code(0);
    assert_eq!(outcome.stdout, "3 rules: no mistake found\n");
    let file = directory.file("bad.toml", &good.replace("1-3", "3-1"));
    run(&["map", "--config", &file, "--check-config"])
        .expect_code(2)
        .expect_message(&["bad.toml: line 2, listen: ", "ends before it begins"]);
    let twice = good.to_owned()
        + &good
            .replace("[[map]]", "[[map]]\nname = \"again\"")
            .replace("1-3", "3");
    let file = directory.file("twice.toml", &twice);
    run(&["map", "--config", &file, "--check-config"])
        .expect_code(2)
        .expect_message(&["rules 127.0.0.1:3 and again both listen on 127.0.0.1:3"]);
    let circle = ["localhost:2=127.0.0.1:3", "127.0.0.1:3=127.0.0.1:2"];
    run(&["map", circle[0], circle[1], "--check-config"])
        .expect_code(2)
        .expect_message(&["for ever: localhost:2 to 127.0.0.1:3 to localhost:2"]);
    run(&["map"]).expect_code(2).expect_message(&["no rule"]);
    let file = directory.file("large.toml", &format!("max-conns = \"100M\"\n{good}"));
    run(&["map", "--config", &file, "--check-config"])
        .expect_code(4)
        .expect_message(&["sockets: 200,000,"]);
    let file = directory.file("key.toml", &format!("zzz = 1\n{good}"));
    run(&["map", "--config", &file, "--check-config"])
        .expect_code(2)
        .expect_message(&[
            "`zzz`: there are map, metrics, max-conns, drain-timeout, and the flags",
        ]);
    let file = directory.file("empty.toml", "udp = true\n");
    run(&["map", "--config", &file])
        .expect_code(2)
        .expect_message(&["empty.toml has no rule: write [[map]] with listen and targets"]);
    run(&[
        "map",
        "127.0.0.1:0=127.0.0.1:7",
        "--udp",
        "--send-proxy",
        "1",
    ])
    .expect_code(2)
    .expect_message(&["127.0.0.1:0: the PROXY protocol is for TCP"]);
    run(&["map", "127.0.0.1:0=127.0.0.1:7", "--accept-proxy"])
        .expect_code(2)
        .expect_message(&["--proxy-from"]);
}

#[test]
fn limits_are_named_before_anything_is_done() {
    let args = ["map", "127.0.0.1:20000-20999=127.0.0.1:7"];
    let command = landfall_after("ulimit -n 300", &args);
    Running::start(command)
        .finish()
        .expect_code(4)
        .expect_message(&[
            "mapping 1,000 ports",
            "descriptors: 1,064 needed, 300 available",
        ]);
    let args = ["map", "127.0.0.1:0=127.0.0.1:7", "--max-conns", "1M"];
    let outcome = Running::start(landfall_after("ulimit -n 300", &args)).finish();
    outcome.expect_code(4).expect_message(&[
        "mapping 1 port, with 72 clients that wait, is more",
        "sockets: 2,000,073 needed",
    ]);
    let args = [
        "map",
        "127.0.0.1:0=127.0.0.1:7",
        "--driver",
        "poll",
        "--check",
    ];
    Running::start(landfall_after("ulimit -n 130", &args))
        .finish()
        .expect_code(4)
        .expect_message(&["sockets: 76 needed, 34 available"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    run(&["map", &format!("{address}=127.0.0.1:7")])
        .expect_code(1)
        .expect_message(&[&format!("cannot listen on {address}"), "ss -lntup"]);
}

#[test]
fn descriptors_last_for_connections_sessions_and_checks() {
    let directory = Directory::new();
    let text = format!(
        "[[map]]\nlisten = \"127.0.0.1:0\"\ntargets = [\"{}\"]\nudp = true\n",
        udp_target("u")
    );
    let file = directory.file("map.toml", &text);
    let tcp = rule(&[&named("a"), &named("b")]);
    let checks = ["--check", "--check-interval", "20ms"];
    let args = [
        &["map", "--json", "--driver", "poll", &tcp, "--config", &file],
        &checks[..],
    ]
    .concat();
    // The checks are for TCP alone.
    fs::write(&file, text + "check = false\n").unwrap();
    let mut mapper = Running::start(landfall_after("ulimit -n 300", &args));
    mapper
        .stderr_after("room for 22 connections and 44 sessions of UDP; with 2 listeners, 2 checks");
    let listening = mapper.stdout_after("{\"listening\":[");
    let addresses: Vec<_> = listening
        .split('"')
        .filter(|part| part.contains(':'))
        .collect();
    let (tcp, udp) = (addresses[0], addresses[1].strip_suffix("/udp").unwrap());
    let sessions: Vec<_> = (0..100).map(|_| udp_client(udp)).collect();
    for session in &sessions {
        session.send(b"x").unwrap();
    }
    // Some of them wait, and all are served in the end.
    let clients: Vec<_> = (0..150).map(|_| connect(tcp)).collect();
    for mut client in clients {
        assert!(["a", "b"].contains(&ask(&mut client).as_str()));
    }
    assert_eq!(udp_ask(&sessions[0], 1), b"u");
    let outcome = end(mapper);
    let report = outcome.json();
    assert_eq!(report["connections"], 150 + 44);
    assert_eq!(report["refused"], 56);
    let failed = (&report["failed_connects"], &report["accept_errors"]);
    assert_eq!(failed, (&0.into(), &0.into()), "{outcome:#?}");
    assert!(!outcome.stderr.contains(" is DOWN"), "{outcome:#?}");
}

#[test]
fn the_table_shows_who_got_how_many() {
    let target = named("a");
    let mut mapper = Running::start(landfall(&["map", &rule(&[&target]), "-q"]));
    let address = mapper.stdout_after("listening on ");
    assert_eq!(ask(&mut connect(&address)), "a");
    let outcome = end(mapper);
    assert!(
        outcome.stdout.contains(&format!("1 to {target}")),
        "{outcome:#?}"
    );
    assert_eq!(outcome.stderr, "");
}
