//! What a service manager hands over and is told: sockets by systemd-socket-activate(1) and by a shell that
//! does the same, and notifications to a socket of the test's own.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{PATIENCE, Running, landfall, socat};

/// The tool with a socket as descriptor 3, and variables that a shell sets when it is what will be the tool.
#[track_caller]
fn with_socket(socket: impl Into<OwnedFd>, variables: &str, args: &[&str]) -> Running {
    let script = format!("exec 3<&0 </dev/null && export {variables} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_landfall")])
        .args(args);
    Running::start_with_input(command, Stdio::from(socket.into()))
}

/// As systemd does it for a socket unit called `web`.
const HANDED_OVER: &str = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web";

/// A listener, its address, and one like it: as long as that lives, nobody can listen there anew.
fn listener() -> (TcpListener, String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let kept = listener.try_clone().unwrap();
    (listener, address, kept)
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[track_caller]
fn check_echo(address: &str) {
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[track_caller]
fn end(server: Running) -> String {
    server.signal(Signal::TERM);
    server.finish().expect_code(0).stderr
}

/// A directory with a socket for notifications, gone with it.
struct Notified {
    place: PathBuf,
    socket: UnixDatagram,
}

impl Notified {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("landfall-notify-{}-{number}", std::process::id());
        let place = std::env::temp_dir().join(name);
        fs::create_dir_all(&place).unwrap();
        let socket = UnixDatagram::bind(place.join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { place, socket }
    }

    #[track_caller]
    fn start(&self, args: &[&str]) -> Running {
        let mut command = landfall(args);
        command.env("NOTIFY_SOCKET", self.place.join("notify"));
        Running::start(command)
    }

    /// The lines of the next notification.
    #[track_caller]
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let count = self.socket.recv(&mut buffer).expect("a notification");
        let text = str::from_utf8(&buffer[..count]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn expect_none(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let received = self.socket.recv(&mut [0; 4096]);
        assert!(received.is_err(), "{received:?} bytes came");
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.place).unwrap();
    }
}

#[test]
fn serve_takes_the_socket_of_its_address() {
    let (socket, address, _kept) = listener();
    let mut server = with_socket(
        socket,
        HANDED_OVER,
        &["serve", &address, "--driver", "poll"],
    );
    server.stdout_after(&format!("listening on {address}"));
    check_echo(&address);
    // Nothing that it might start would have it: O_CLOEXEC is 02000000.
    let pid = server.pid().as_raw_nonzero();
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).unwrap();
    let flags = info
        .split_once("flags:\t")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap();
    let flags = u32::from_str_radix(flags, 8).unwrap();
    assert_eq!(flags & 0o2_000_000, 0o2_000_000, "{info}");
    end(server);
}

#[test]
fn files_takes_the_socket_of_its_address() {
    let notified = Notified::new();
    fs::write(notified.place.join("a.txt"), "hello world\n").unwrap();
    let (socket, address, _kept) = listener();
    let root = notified.place.to_str().unwrap();
    let args = ["files", root, "--listen", &address];
    let mut server = with_socket(socket, HANDED_OVER, &args);
    server.stdout_after("listening on ");
    let mut client = connect(&address);
    client.write_all(b"GET /a.txt HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nhello world\n"), "{answer}");
    end(server);
}

#[test]
fn a_rule_takes_the_socket_of_its_address() {
    let (_target, target) = socat("", "EXEC:cat");
    let (socket, address, _kept) = listener();
    let rule = format!("{address}={target}");
    let mut mapper = with_socket(
        socket,
        HANDED_OVER,
        &["map", &rule, "127.0.0.1:0=127.0.0.1:1"],
    );
    mapper.stdout_after(&format!("listening on {address}"));
    check_echo(&address);
    end(mapper);
}

#[test]
fn a_rule_of_udp_takes_the_socket_of_its_address() {
    let target = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let _kept = socket.try_clone().unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let rule = format!("{address}={}", target.local_addr().unwrap());
    let mut mapper = with_socket(socket, HANDED_OVER, &["map", "--udp", &rule]);
    mapper.stdout_after(&format!("listening on {address}"));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for socket in [&client, &target] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.send_to(b"question", &address).unwrap();
    let mut buffer = [0; 16];
    let (count, from) = target.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"question");
    target.send_to(b"answer", from).unwrap();
    let (count, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"answer");
    end(mapper);
}

#[test]
fn a_socket_that_nobody_takes_is_named() {
    let commands: [&[&str]; 3] = [
        &["serve", "127.0.0.1:0"],
        &["files", ".", "--listen", "127.0.0.1:0"],
        // A rule for datagrams is none for connections.
        &["map", "--udp"],
    ];
    for command in commands {
        let (socket, address, _kept) = listener();
        let rule = format!("{address}=127.0.0.1:1");
        let command = match command[0] {
            "map" => [command, &[&rule]].concat(),
            _ => command.to_vec(),
        };
        let outcome = with_socket(socket, HANDED_OVER, &command).finish();
        let outcome = outcome.expect_code(2).expect_message(&[
            "descriptor 3 (web), TCP on",
            &address,
            "nothing here listens on that address",
        ]);
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn a_socket_that_has_the_port_at_another_address_is_named() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = format!("0.0.0.0:{port}");
    let rule = format!("{address}=127.0.0.1:1");
    let commands: [&[&str]; 4] = [
        &["serve", &address],
        &["files", ".", "--listen", &address],
        &["map", &rule],
        &["map", "127.0.0.1:0=127.0.0.1:1", "--metrics", &address],
    ];
    for command in commands {
        let socket = listener.try_clone().unwrap();
        let outcome = with_socket(socket, HANDED_OVER, command).finish();
        outcome.expect_code(2).expect_message(&[
            &format!("cannot listen on {address}: descriptor 3 (web), TCP on [::]:{port}, was handed over"),
            &format!("name [::]:{port} as the address to listen on"),
        ]);
    }
}

#[test]
fn descriptors_are_counted_from_the_first_that_is_named() {
    let (socket, address, _kept) = listener();
    let variables = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDS_FIRST_FD=5 && exec 5<&3 3<&-";
    with_socket(socket, variables, &["serve", "127.0.0.1:0"])
        .finish()
        .expect_code(2)
        .expect_message(&[&format!("descriptor 5, TCP on {address}")]);
}

/// A client that nobody takes in. One that came just when the listener closed may be ended.
fn waiting(address: &str) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = connect(address);
        client
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let waits = client.read(&mut [0]);
        if waits.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            return client;
        }
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_rule_that_comes_back_takes_its_socket_again() {
    let (_target, target) = socat("", "EXEC:cat");
    let notified = Notified::new();
    let config = notified.place.join("map.toml");
    let rule = |listen: &str| format!("[[map]]\nlisten = \"{listen}\"\ntargets = [\"{target}\"]\n");
    let (socket, address, _kept) = listener();
    let other = rule("127.0.0.1:0");
    fs::write(&config, rule(&address) + &other).unwrap();
    for driver in ["auto", "poll"] {
        let args = [
            "map",
            "--driver",
            driver,
            "--config",
            config.to_str().unwrap(),
        ];
        let mut mapper = with_socket(socket.try_clone().unwrap(), HANDED_OVER, &args);
        mapper.stdout_after(&format!("listening on {address}"));
        fs::write(&config, &other).unwrap();
        mapper.signal(Signal::HUP);
        mapper.stderr_after(&format!("no rule listens on {address} (tcp) any more"));
        mapper.stderr_after("reloaded: 1 rule in force");
        let mut client = waiting(&address);
        client.write_all(b"hello").unwrap();
        fs::write(&config, rule(&address) + &other).unwrap();
        mapper.signal(Signal::HUP);
        mapper.stderr_after("reloaded: 2 rules in force");
        client.read_exact(&mut [0; 5]).unwrap();
        check_echo(&address);
        drop(client);
        end(mapper);
    }
}

#[test]
fn a_socket_has_one_user() {
    for second in [&[][..], &["--metrics"]] {
        let (socket, address, _kept) = listener();
        let same = address.replace("127.0.0.1", "localhost");
        let args = [&["serve", &address][..], second, &[&same]].concat();
        with_socket(socket, HANDED_OVER, &args)
            .finish()
            .expect_code(1)
            .expect_message(&["cannot listen on", "in use"]);
    }
}

#[test]
fn what_is_no_socket_to_serve_on_is_refused() {
    let (kept, address, _) = listener();
    let connection: OwnedFd = connect(&address).into();
    drop(kept);
    let (local, _other) = UnixDatagram::pair().unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    for (descriptor, problem) in [
        (connection, "does not listen: write Accept=no"),
        (
            local.into(),
            "is neither a listener of TCP nor a socket of UDP",
        ),
        (
            file.into(),
            "is neither a listener of TCP nor a socket of UDP",
        ),
    ] {
        with_socket(descriptor, HANDED_OVER, &["serve", "127.0.0.1:0"])
            .finish()
            .expect_code(2)
            .expect_message(&["descriptor 3 (web) was handed over", problem]);
    }
}

#[test]
fn what_is_for_another_process_is_left_alone() {
    for variables in ["LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_FDS=1", "LISTEN_PID=$$"] {
        let (socket, _, _kept) = listener();
        let mut server = with_socket(socket, variables, &["serve", "127.0.0.1:0"]);
        check_echo(&server.stdout_after("listening on "));
        end(server);
    }
}

#[test]
fn systemd_socket_activate_starts_it_with_its_sockets() {
    // An address of loopback that is this test's alone, so that its ports are free.
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = format!("127.73.{high}.{low}");
    let (echo, metrics) = (format!("{host}:7007"), format!("{host}:9100"));
    let mut command = Command::new("systemd-socket-activate");
    command
        .args(["-l", &metrics, "-l", &echo, "--fdname=metrics:echo"])
        .arg(env!("CARGO_BIN_EXE_landfall"))
        .args(["serve", &echo, "--metrics", &metrics]);
    let mut server = Running::start(command);
    server.stderr_after("Listening on");
    server.stderr_after("Listening on");
    // It starts the server when the first client has come.
    check_echo(&echo);
    let mut curl = Command::new("curl");
    curl.args(["-sS", &format!("http://{metrics}/metrics")]);
    let page = Running::start(curl).finish().expect_code(0).stdout;
    assert!(
        page.contains("\nlandfall_received_bytes_total 5\n"),
        "{page}"
    );
    end(server);
}

#[test]
fn the_service_manager_is_told_of_each_step() {
    let (_target, target) = socat("", "EXEC:cat");
    let notified = Notified::new();
    let config = notified.place.join("map.toml");
    let rule = format!("[[map]]\nlisten = \"127.0.0.1:0\"\ntargets = [\"{target}\"]\n");
    fs::write(&config, &rule).unwrap();
    let mut mapper = notified.start(&["map", "--config", config.to_str().unwrap()]);
    let address = mapper.stdout_after("listening on ");
    let status = format!("STATUS=listening on {address}");
    assert_eq!(notified.next(), ["READY=1", &status]);
    check_echo(&address);
    // The line that it leaves when it has ended.
    mapper.stderr_after(" -- ");

    let is_reloading = |lines: &[String]| {
        let [first, time] = lines else {
            panic!("{lines:?}");
        };
        let time = time.strip_prefix("MONOTONIC_USEC=").expect("the time");
        assert_eq!(first, "RELOADING=1");
        assert!(time.parse::<u64>().unwrap() > 0);
    };
    mapper.signal(Signal::HUP);
    is_reloading(&notified.next());
    assert_eq!(notified.next(), ["READY=1", "STATUS=1 rule in force"]);
    fs::write(&config, "nonsense").unwrap();
    mapper.signal(Signal::HUP);
    is_reloading(&notified.next());
    // It serves as before; that the reload has failed is in its status.
    let status = "STATUS=1 rule in force; the last reload failed";
    assert_eq!(notified.next(), ["READY=1", status]);
    fs::write(&config, &rule).unwrap();
    mapper.signal(Signal::HUP);
    is_reloading(&notified.next());
    assert_eq!(notified.next(), ["READY=1", "STATUS=1 rule in force"]);

    let mut client = connect(&address);
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    mapper.signal(Signal::TERM);
    let status = "STATUS=letting 1 connection finish, for 30s at most";
    assert_eq!(notified.next(), ["STOPPING=1", status]);
    drop(client);
    mapper.finish().expect_code(0);
    notified.expect_none();
}

#[test]
fn serve_and_files_are_ready_and_stop() {
    for command in [
        &["serve", "127.0.0.1:0"][..],
        &["files", ".", "--listen", "127.0.0.1:0"],
    ] {
        let notified = Notified::new();
        let mut server = notified.start(command);
        let status = format!(
            "STATUS=listening on {}",
            server.stdout_after("listening on ")
        );
        assert_eq!(notified.next(), ["READY=1", &status]);
        server.signal(Signal::TERM);
        let status = "STATUS=no connection is open: ending";
        assert_eq!(notified.next(), ["STOPPING=1", status]);
        server.finish().expect_code(0);
        notified.expect_none();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn an_abstract_name_is_told_as_well() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("landfall-notify-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = landfall(&["serve", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let server = Running::start(command);
    let mut buffer = [0; 4096];
    let count = socket.recv(&mut buffer).expect("a notification");
    assert!(buffer[..count].starts_with(b"READY=1\n"));
    end(server);
}

#[test]
fn a_service_manager_that_does_not_read_keeps_nobody_from_ending() {
    for command in [
        &["serve", "127.0.0.1:0"][..],
        &["files", ".", "--listen", "127.0.0.1:0"],
        &["map", "127.0.0.1:0=127.0.0.1:1"],
    ] {
        let notified = Notified::new();
        // What one socket sends may have less room than what one receives.
        let mut fillers: Vec<UnixDatagram> = Vec::new();
        let mut has_room = true;
        while has_room {
            let filler = UnixDatagram::unbound().unwrap();
            filler.set_nonblocking(true).unwrap();
            let fill = || filler.send_to(b"x", notified.place.join("notify"));
            has_room = fill().is_ok();
            while fill().is_ok() {}
            fillers.push(filler);
        }
        let mut server = notified.start(command);
        server.stdout_after("listening on ");
        server.stderr_after("NOTIFY_SOCKET how far this has come: it does not read");
        end(server);
    }
}

#[test]
fn processes_of_demo_do_not_speak_for_it() {
    let notified = Notified::new();
    let args = ["demo", "-c", "10", "--messages", "1", "--interval", "100ms"];
    notified.start(&args).finish().expect_code(0);
    notified.expect_none();
}

#[test]
fn a_service_manager_that_is_not_there_is_no_reason_to_stop() {
    let mut command = landfall(&["serve", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", "/nowhere/notify");
    let mut server = Running::start(command);
    check_echo(&server.stdout_after("listening on "));
    assert!(end(server).contains("the service manager cannot be told at NOTIFY_SOCKET"));
}
