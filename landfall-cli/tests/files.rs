//! `landfall files` with clients we did not write, beside nginx, and with requests that no client in
//! earnest sends.

mod support;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Outcome, PATIENCE, Running, landfall, run};

/// A directory to serve, beside a file that is not in it.
struct Site(PathBuf);

/// What is in the file that must never be served.
const SECRET: &str = "this is not for you";

impl Site {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("landfall-files-{}-{number}", std::process::id());
        let place = std::env::temp_dir().join(name);
        fs::create_dir_all(place.join("root/sub")).unwrap();
        fs::write(place.join("secret"), SECRET).unwrap();
        let site = Site(place);
        site.write("a.txt", b"hello world\n");
        site.write("empty", b"");
        site.write("sub/index.html", b"<p>index</p>\n");
        site
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.root().join(name), bytes).unwrap();
    }

    /// With so many zeros, which take no room on the disk.
    fn sparse(&self, name: &str, length: u64) -> File {
        let file = File::create(self.root().join(name)).unwrap();
        file.set_len(length).unwrap();
        file
    }

    /// `landfall files` on a port of the system's choice, and its address.
    #[track_caller]
    fn serve(&self, args: &[&str]) -> (Running, String) {
        let root = self.root();
        let root = root.to_str().unwrap();
        let base = ["files", root, "--listen", "127.0.0.1:0"];
        let mut server = Running::start(landfall(&[&base, args].concat()));
        let address = match args.contains(&"--json") {
            true => server.stdout_after("\"listening\":[\""),
            false => server.stdout_after("listening on "),
        };
        let address = address.split('"').next().unwrap().to_owned();
        (server, address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Bytes without a pattern that a shift would keep.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[derive(Debug, Default)]
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads the head of an answer.
#[track_caller]
fn read_head(stream: &mut TcpStream) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap();
    let fields = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status: status.split(' ').nth(1).unwrap().parse().unwrap(),
        fields: fields
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body: Vec::new(),
    }
}

/// Reads an answer, with as much body as it announces.
#[track_caller]
fn read_answer(stream: &mut TcpStream, has_body: bool) -> Answer {
    let mut answer = read_head(stream);
    let length = answer.field("content-length").filter(|_| has_body);
    let length = length.map_or(0, |length| length.parse().unwrap());
    answer.body.resize(length, 0);
    stream.read_exact(&mut answer.body).unwrap();
    answer
}

/// Sends some bytes on a connection of their own, and reads the first answer.
#[track_caller]
fn ask_raw(address: &str, request: &str) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let has_body = !request.starts_with("HEAD");
    read_answer(&mut stream, has_body)
}

#[track_caller]
fn get(address: &str, target: &str, fields: &str) -> Answer {
    ask_raw(
        address,
        &format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"),
    )
}

#[track_caller]
fn client(program: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    command.args(args);
    Running::start(command).finish()
}

#[test]
fn clients_of_other_makers_get_every_byte_and_resume() {
    let site = Site::new();
    let bytes = noise(5_000_001);
    site.write("noise", &bytes);
    for args in [
        &[][..],
        &["--zero-copy", "off"],
        &["--driver", "poll", "--zero-copy", "on"],
        &["--driver", "poll", "--zero-copy", "off"],
    ] {
        let (_server, address) = site.serve(args);
        let url = format!("http://{address}/noise");
        let file = site.0.join("fetched");
        let path = file.to_str().unwrap();
        let whole = || {
            assert!(fs::read(&file).unwrap() == bytes, "every byte");
            fs::remove_file(&file).unwrap();
        };
        client("curl", &["-sS", "-o", path, &url]).expect_code(0);
        whole();
        fs::write(&file, &bytes[..1_234_567]).unwrap();
        client("curl", &["-sS", "-C", "-", "-o", path, &url]).expect_code(0);
        whole();
        fs::write(&file, &bytes[..4_999_999]).unwrap();
        client("wget", &["-q", "-c", "-O", path, &url]).expect_code(0);
        whole();
        let directory = site.0.to_str().unwrap();
        let split = [
            "-q", "-x4", "-s4", "-k1M", "-d", directory, "-o", "fetched", &url,
        ];
        client("aria2c", &split).expect_code(0);
        whole();
    }
}

/// nginx over the same directory, in the foreground, and its address.
#[track_caller]
fn nginx(site: &Site) -> (Running, String) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let place = site.0.display();
    let config = format!(
        "daemon off; master_process off; error_log {place}/error.log; pid {place}/pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nopush on; absolute_redirect off;\n\
           if_modified_since before; charset utf-8; default_type application/octet-stream;\n\
           types {{ text/plain txt; text/html html; image/png png; }}\n\
           client_body_temp_path {place}/t1; proxy_temp_path {place}/t2;\n\
           fastcgi_temp_path {place}/t3; uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;\n\
           server {{ listen {address}; root {place}/root; }}\n\
         }}\n"
    );
    let path = site.0.join("nginx.conf");
    fs::write(&path, config).unwrap();
    let mut command = Command::new("nginx");
    command
        .arg("-c")
        .arg(&path)
        .arg("-e")
        .arg(site.0.join("error.log"));
    let server = Running::start(command);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < deadline, "nginx does not come");
        thread::sleep(Duration::from_millis(10));
    }
    (server, address)
}

/// Requests that name what they ask for in many ways.
fn requests_for_paths() -> Vec<String> {
    let targets = [
        "/a.txt",
        "/empty",
        "/large.png",
        "/sub",
        "/sub?x=y",
        "/sub/",
        "/sub/index.html",
        "/missing",
        "/missing/",
        "/a.txt/",
        "/a.txt/x",
        "//a.txt",
        "/./a.txt",
        "/sub/../a.txt",
        "/sub/..//a.txt",
        "/%61.txt",
        "/a%2Etxt",
        "/b%20c.txt",
        "/sub%2Findex.html",
        "/sub/%2e%2e/a.txt",
        "/../a.txt",
        "/%2e%2e/a.txt",
        "/sub/../../a.txt",
        "/a.txt%00",
        "/%",
        "/%zz",
        "/a.txt?x=y&z",
        "/%2561.txt",
        "http://other/a.txt",
    ];
    let of_target =
        |target| ["GET", "HEAD"].map(|method| format!("{method} {target} HTTP/1.1\r\nHost: h\r\n"));
    targets.into_iter().flat_map(of_target).collect()
}

fn requests_for_ranges() -> Vec<String> {
    let ask = |target: &str, range: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: h\r\nRange: {range}\r\n")
    };
    let of_small = [
        "bytes=0-0",
        "bytes=0-4",
        "bytes=4-",
        "bytes=-4",
        "bytes=-9999",
        "bytes=0-9999",
        "bytes=11-",
        "bytes=12-",
        "bytes=99-100",
        "bytes=5-2",
        "bytes=abc",
        "bytes=",
        "bytes=-",
        "bytes=-0",
        "items=0-1",
        "bytes=99-,2-3",
        "bytes=0-99999999999999999",
    ];
    let of_large = ["bytes=100-250000", "bytes=299990-", "bytes=1-"];
    let of_far = [
        "bytes=5368709120-",
        "bytes=-7",
        "bytes=5368709118-5368709122",
    ];
    let mut requests = Vec::new();
    for range in of_small {
        requests.extend(["/a.txt", "/empty"].map(|target| ask(target, range)));
    }
    requests.extend(of_large.map(|range| ask("/large.png", range)));
    requests.extend(of_far.map(|range| ask("/far", range)));
    requests
}

/// `changed` is when `a.txt` was; `TAG` stands for the tag that a server has given it.
fn requests_with_conditions(changed: &str) -> Vec<String> {
    let (before, after) = (
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Fri, 06 Nov 2099 08:49:37 GMT",
    );
    let conditions = [
        format!("If-Modified-Since: {changed}"),
        format!("If-Modified-Since: {before}"),
        format!("If-Modified-Since: {after}"),
        format!("If-Unmodified-Since: {changed}"),
        format!("If-Unmodified-Since: {before}"),
        String::from("If-Modified-Since: nonsense"),
        String::from("If-None-Match: *"),
        String::from("If-None-Match: \"x\", \"y\""),
        String::from("If-Match: *"),
        String::from("If-Match: \"x\""),
        format!("If-Range: {changed}\r\nRange: bytes=2-3"),
        format!("If-Range: {before}\r\nRange: bytes=2-3"),
        String::from("If-Range: \"x\"\r\nRange: bytes=2-3"),
        format!("If-Modified-Since: {before}\r\nRange: bytes=2-3"),
        format!("If-Modified-Since: {changed}\r\nRange: bytes=99-"),
        String::from("If-None-Match: TAG"),
        String::from("If-None-Match: W/TAG"),
        String::from("If-None-Match: \"x\",TAG"),
        String::from("If-Match: TAG"),
        String::from("If-Match: \"x\", TAG"),
        String::from("If-Match: TAG\r\nIf-None-Match: TAG"),
        String::from("If-Range: TAG\r\nRange: bytes=2-3"),
    ];
    conditions
        .map(|fields| format!("GET /a.txt HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
        .to_vec()
}

/// Requests whose method, version or framing is out of the ordinary.
fn requests_with_other_heads() -> Vec<String> {
    let mut requests = [
        "GET /a.txt HTTP/1.0\r\n",
        "GET /a.txt HTTP/1.0\r\nConnection: keep-alive\r\n",
        "GET /a.txt HTTP/1.1\r\n",
        "GET /a.txt HTTP/1.1\r\nHost:\r\n",
        "GET /a.txt HTTP/1.1\r\nHost: h\r\nHost: h\r\n",
        "GET /a.txt HTTP/2.0\r\nHost: h\r\n",
        "GET /a.txt HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "GET /a.txt HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "GET /a.txt HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n",
    ]
    .map(String::from)
    .to_vec();
    requests.extend(
        ["POST", "PUT", "DELETE"]
            .map(|method| format!("{method} /a.txt HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n")),
    );
    requests.push(format!("GET /{} HTTP/1.1\r\nHost: h\r\n", "x".repeat(9000)));
    requests
}

/// In what an answer differs from that of nginx.
fn differences(ours: &Answer, theirs: &Answer) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, ours: Option<&str>, theirs: Option<&str>| {
        if ours != theirs {
            differences.push(format!("{what} {ours:?}, not {theirs:?}"));
        }
    };
    let statuses = [ours, theirs].map(|answer| answer.status.to_string());
    compare("status", Some(&statuses[0]), Some(&statuses[1]));
    let mut names = vec!["content-range", "location", "last-modified"];
    if [200, 206].contains(&ours.status) {
        names.extend(["content-length", "content-type"]);
        let is_same = (ours.body == theirs.body).then_some("other");
        compare("body", is_same, Some("other"));
    }
    if ours.status == 200 {
        names.push("accept-ranges");
    }
    for name in names {
        compare(name, ours.field(name), theirs.field(name));
    }
    // What these say is each server's own.
    for name in ["etag", "server", "date"] {
        let is_there = |answer: &Answer| answer.field(name).map(|_| "there");
        compare(name, is_there(ours), is_there(theirs));
    }
    differences
}

#[test]
fn answers_are_those_of_nginx() {
    let site = Site::new();
    site.write("large.png", &noise(300_000));
    site.write("b c.txt", b"blank\n");
    site.sparse("far", (5 << 30) + 7)
        .write_all_at(b"the end", 5 << 30)
        .unwrap();
    let (_server, ours) = site.serve(&[]);
    let (_nginx, theirs) = nginx(&site);
    let servers = [&ours, &theirs];
    let states = servers.map(|address| get(address, "/a.txt", ""));
    let requests = [
        requests_for_paths(),
        requests_for_ranges(),
        requests_with_conditions(states[0].field("last-modified").unwrap()),
        requests_with_other_heads(),
    ];
    let mut all = Vec::new();
    for request in requests.concat() {
        let [ours, theirs] = [0, 1].map(|which| {
            let request = request.replace("TAG", states[which].field("etag").unwrap());
            ask_raw(servers[which], &format!("{request}\r\n"))
        });
        let found = differences(&ours, &theirs);
        if !found.is_empty() {
            all.push((request.chars().take(200).collect::<String>(), found));
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn nothing_outside_of_the_directory_is_served() {
    let site = Site::new();
    let root = site.root();
    symlink("../secret", root.join("link")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink(site.0.join("secret"), root.join("far")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    let (absolute, name) = (
        site.0.display(),
        site.0.file_name().unwrap().to_string_lossy(),
    );
    let mut targets: Vec<String> = [
        "/../secret",
        "//../secret",
        "/./../secret",
        "/sub/../../secret",
        "/..%2fsecret",
        "/%2e%2e/secret",
        "/%2e%2e%2fsecret",
        "/.%2e/secret",
        "/%2E%2E%2Fsecret",
        "/..\\secret",
        "/..%5csecret",
        "/%5c..%5csecret",
        "/%252e%252e%252fsecret",
        "/%c0%ae%c0%ae/secret",
        "/%c0%ae%c0%ae%c0%afsecret",
        "/..;/secret",
        "/.../secret",
        "/..%00/secret",
        "/..%20/secret",
        "/sub/%00/../../secret",
        "/..%u2215secret",
        "/sub/..%2f..%2fsecret",
        "../secret",
        "secret",
        "\\..\\secret",
        "http://h/../secret",
        "http://h/%2e%2e/secret",
        "file:///../secret",
        "*",
        "/link",
        "/up/secret",
        "/up/",
        "/far",
        "/sub/../link",
        "/sub/../up/secret",
        "/up/root/up/secret",
        "/%6cink",
        "/..",
        "/../",
        "/sub/../..",
        "/sub/../../",
    ]
    .map(String::from)
    .to_vec();
    targets.push(format!("/{absolute}/secret"));
    targets.push(format!("/magic{absolute}/secret"));
    targets.push(format!("/../{name}/secret"));
    targets.push(format!("/up/../{name}/secret"));
    targets.push(format!("{}secret", "/..".repeat(20)));
    for args in [&["--hidden"][..], &["--hidden", "--follow-symlinks"]] {
        let (_server, address) = site.serve(args);
        for target in &targets {
            for version in ["1.0", "1.1"] {
                let request = format!("GET {target} HTTP/{version}\r\nHost: h\r\n\r\n");
                let answer = ask_raw(&address, &request);
                assert!(
                    [400, 403, 404].contains(&answer.status),
                    "{target}: {answer:?}"
                );
                assert!(!answer.text().contains(SECRET), "{target}");
            }
        }
        // It was there all the time, and so is what may be served.
        assert_eq!(get(&address, "/sub/../a.txt", "").status, 200);
    }
    assert_eq!(fs::read_to_string(site.0.join("secret")).unwrap(), SECRET);
}

#[test]
fn hidden_files_links_and_pipes_are_served_as_the_flags_say() {
    let site = Site::new();
    let root = site.root();
    site.write(".hidden", b"hidden");
    symlink("a.txt", root.join("link")).unwrap();
    client("mkfifo", &[root.join("pipe").to_str().unwrap()]).expect_code(0);
    let statuses = |args: &[&str]| {
        let (_server, address) = site.serve(args);
        let names = get(&address, "/?format=json", "").text();
        let is_listed = |name: &str| names.contains(&format!("\"{name}\""));
        ["/.hidden", "/link", "/pipe"]
            .map(|target| (get(&address, target, "").status, is_listed(&target[1..])))
    };
    assert_eq!(statuses(&[]), [(404, false), (403, false), (403, false)]);
    assert_eq!(
        statuses(&["--hidden"]),
        [(200, true), (403, false), (403, false)]
    );
    assert_eq!(
        statuses(&["--follow-symlinks"]),
        [(404, false), (200, true), (403, false)]
    );
}

#[test]
fn a_directory_is_listed_for_people_and_for_programs() {
    let site = Site::new();
    site.write("<b>&\"' %.txt", b"12345");
    fs::create_dir(site.root().join("dir")).unwrap();
    let (_server, address) = site.serve(&[]);
    let page = get(&address, "/", "");
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let text = page.text();
    for part in [
        "<a href=\"./%3Cb%3E%26%22%27%20%25.txt\">&lt;b&gt;&amp;&quot;&#39; %.txt</a><td>5 B",
        "<a href=\"./dir/\">dir/</a>",
        "name=\"viewport\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("<b>") && !text.contains("<script"), "{text}");
    assert!(
        text.find("dir/").unwrap() < text.find("a.txt").unwrap(),
        "{text}"
    );
    // Every link leads where it says.
    let link = get(&address, "/./%3Cb%3E%26%22%27%20%25.txt", "");
    assert_eq!(link.text(), "12345");

    let listing = get(&address, "/", "Accept: application/json\r\n");
    assert_eq!(listing.field("content-type"), Some("application/json"));
    let json: serde_json::Value = serde_json::from_str(&listing.text()).unwrap();
    assert_eq!(
        (json["path"].as_str(), json["complete"].as_bool()),
        (Some("/"), Some(true))
    );
    let names: Vec<_> = json["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["name"])
        .collect();
    assert_eq!(names, ["dir", "sub", "<b>&\"' %.txt", "a.txt", "empty"]);
    assert_eq!(json["entries"][3]["bytes"], 12);
    assert_eq!(json["entries"][0]["kind"], "directory");
    assert_eq!(get(&address, "/sub/", "").text(), "<p>index</p>\n");
    let head = ask_raw(&address, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(head.field("content-length"), page.field("content-length"));

    let (_server, address) = site.serve(&["--no-list", "--index", "a.txt"]);
    assert_eq!(get(&address, "/", "").text(), "hello world\n");
    assert_eq!(get(&address, "/sub/", "").status, 403);
}

#[test]
fn a_url_is_said_beside_the_line_that_scripts_wait_for() {
    let site = Site::new();
    let (mut server, address) = site.serve(&[]);
    assert_eq!(server.stderr_after("http://"), format!("{address}/"));
}

#[test]
fn a_redirect_leads_to_no_other_server() {
    let site = Site::new();
    fs::create_dir(format!("{}/\\evil.example", site.root().display())).unwrap();
    let (_server, address) = site.serve(&[]);
    for (target, location) in [
        ("//sub", "/sub/"),
        ("/sub?a=b", "/sub/?a=b"),
        ("/%5Cevil.example", "/%5Cevil.example/"),
        ("http://evil.example/sub", "/sub/"),
    ] {
        let answer = get(&address, target, "");
        assert_eq!(
            (answer.status, answer.field("location")),
            (301, Some(location)),
            "{target}"
        );
    }
}

#[test]
fn requests_that_are_refused_are_told_why_and_the_connection_ends() {
    let site = Site::new();
    let (_server, address) = site.serve(&[]);
    let fields = |fields: &str| format!("GET /a.txt HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let many = "A: b\r\n".repeat(200);
    let long = format!("A: {}\r\n", "b".repeat(20_000));
    for (request, status) in [
        (String::from("nonsense\r\n\r\n"), 400),
        (String::from("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n"), 400),
        (String::from("GET /a.txt HTTP/3.0\r\nHost: h\r\n\r\n"), 505),
        (fields("Transfer-Encoding: chunked\r\n"), 411),
        (fields("Transfer-Encoding: gzip\r\n"), 501),
        (fields("Content-Length: 1000000\r\n"), 413),
        (fields("Expect: miracles\r\n"), 417),
        (fields(&many), 431),
        (fields(&long), 431),
        (
            fields("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        (fields("A: b\r\n folded\r\n"), 400),
        (fields("A : b\r\n"), 400),
    ] {
        let mut stream = connect(&address);
        stream.write_all(request.as_bytes()).unwrap();
        // What follows is no second request, and does not lose the answer.
        stream
            .write_all(b"GET /sub/ HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        let answer = read_answer(&mut stream, true);
        let shown = &request[..request.len().min(100)];
        assert_eq!(
            (answer.status, answer.field("connection")),
            (status, Some("close")),
            "{shown}"
        );
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "{shown}");
    }
    let other = ask_raw(&address, "BREW /a.txt HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(
        (other.status, other.field("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[test]
fn requests_of_one_segment_are_answered_in_order_and_bodies_passed_over() {
    let site = Site::new();
    let large = noise(200_000);
    site.write("large", &large);
    let (server, address) = site.serve(&["--json"]);
    let mut stream = connect(&address);
    let requests = "GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n\
        HEAD /large HTTP/1.1\r\nHost: h\r\n\r\n\
        \r\nGET /large HTTP/1.1\r\nHost: h\r\n\r\n\
        POST /a.txt HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n\
        GET /large HTTP/1.1\r\nHost: h\r\nRange: bytes=5-9\r\n\r\n\
        GET /missing HTTP/1.1\r\nHost: h\r\n\r\n\
        GET /empty HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n\
        GET /too-late HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut next = |has_body| {
        let answer = read_answer(&mut stream, has_body);
        (answer.status, answer.body)
    };
    assert_eq!(next(true), (200, b"hello world\n".to_vec()));
    assert_eq!(next(false), (200, Vec::new()));
    assert!(next(true) == (200, large.clone()));
    assert_eq!(next(true).0, 405);
    assert_eq!(next(true), (206, large[5..10].to_vec()));
    assert_eq!(next(true).0, 404);
    assert_eq!(next(true), (200, Vec::new()));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    // The same, a byte at a time.
    let mut stream = connect(&address);
    stream.set_nodelay(true).unwrap();
    for byte in "GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"
        .repeat(2)
        .as_bytes()
    {
        stream.write_all(&[*byte]).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(read_answer(&mut stream, true).text(), "hello world\n");
    }
    server.signal(Signal::TERM);
    let json = server.finish().expect_code(0).json();
    assert_eq!(
        (json["requests"].as_u64(), json["answered_4xx"].as_u64()),
        (Some(9), Some(2))
    );
    assert_eq!(
        (json["accepted"].as_u64(), json["failed"].as_u64()),
        (Some(2), Some(0))
    );
}

#[test]
fn who_waits_with_a_body_gets_its_answer_at_once() {
    let site = Site::new();
    let (_server, address) = site.serve(&[]);
    let mut stream = connect(&address);
    let request =
        "PUT /new HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_answer(&mut stream, true);
    assert_eq!(
        (answer.status, answer.field("connection")),
        (405, Some("close"))
    );
    assert!(!site.root().join("new").exists());
}

/// Segments with bytes that have come on a connection.
fn segments(stream: &TcpStream) -> u32 {
    let local = stream.local_addr().unwrap().to_string();
    let shown = client("ss", &["-Htin", "src", &local])
        .expect_code(0)
        .stdout;
    let count = shown.split_once("data_segs_in:").map(|(_, rest)| rest);
    let count = count.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no segments in {shown}"))
}

#[test]
fn a_head_and_the_beginning_of_its_file_are_one_segment() {
    let site = Site::new();
    for driver in ["auto", "poll"] {
        let (_server, address) = site.serve(&["--driver", driver]);
        // All of them fit one segment of the loopback device, which is half of a new window at most.
        for length in [1, 8_192, 8_193, 30_000] {
            site.write("file", &noise(length));
            let ask = || {
                let mut stream = connect(&address);
                stream
                    .write_all(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
                    .unwrap();
                assert!(read_answer(&mut stream, true).body == noise(length));
                segments(&stream)
            };
            // A head that waits for its file goes alone after 200 ms, if the server is kept from running
            // for so long.
            let counts: Vec<_> = (0..10)
                .map(|_| ask())
                .take_while(|&count| count != 1)
                .collect();
            assert!(
                counts.len() < 10,
                "{counts:?} segments for {length} bytes on {driver}"
            );
        }
    }
}

/// A delayed acknowledgement takes 40 ms, and an answer in two small segments waits for one. That meets
/// nearly every round; a machine at other work delays some, and now and then most.
#[test]
fn no_answer_waits_for_an_acknowledgement() {
    const ROUNDS: usize = 25;
    const ATTEMPTS: usize = 5;
    let site = Site::new();
    for length in [1, 8_192, 8_193, 65_536, 70_000, 300_000] {
        site.write("file", &noise(length));
        for driver in ["auto", "poll"] {
            let (_server, address) = site.serve(&["--driver", driver]);
            let mut stream = connect(&address);
            let mut median = || {
                let mut times = [(); ROUNDS].map(|()| {
                    let began = Instant::now();
                    stream
                        .write_all(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
                        .unwrap();
                    assert_eq!(read_answer(&mut stream, true).body.len(), length);
                    began.elapsed()
                });
                times.sort();
                times[ROUNDS / 2]
            };
            let is_quick = (0..ATTEMPTS).any(|_| median() < Duration::from_millis(40));
            assert!(is_quick, "{length} bytes on {driver}");
        }
    }
}

#[test]
fn files_beyond_4_gib_are_served() {
    let site = Site::new();
    let far = site.sparse("far", (5 << 30) + 100_000);
    far.write_all_at(b"far away", 5 << 30).unwrap();
    let (_server, address) = site.serve(&[]);
    let url = format!("http://{address}/far");
    let part = client("curl", &["-sS", "-r", "5368709120-5368709127", &url]).expect_code(0);
    assert_eq!(part.stdout, "far away");
    let whole = ask_raw(&address, "HEAD /far HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(whole.field("content-length"), Some("5368809120"));
    // Across the boundary, and more than goes with the head.
    let answer = get(&address, "/far", "Range: bytes=4294967000-4295167000\r\n");
    assert_eq!((answer.status, answer.body), (206, vec![0; 200_001]));
}

/// Asks for a file that does not fit the system's buffers, and reads nothing of it but the head.
fn begin(address: &str, target: &str) -> TcpStream {
    let mut stream = connect(address);
    stream
        .write_all(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
        .unwrap();
    let answer = read_head(&mut stream);
    assert_eq!(answer.status, 200);
    stream
}

#[test]
fn a_file_that_is_cut_short_ends_its_connection_and_one_that_grows_keeps_its_length() {
    const LENGTH: u64 = 64 << 20;
    let site = Site::new();
    let file = site.sparse("file", LENGTH);
    let (server, address) = site.serve(&["--json"]);
    let mut stream = begin(&address, "/file");
    file.set_len(LENGTH * 2).unwrap();
    let mut body = vec![1; LENGTH as usize];
    stream.read_exact(&mut body).unwrap();
    assert!(body.iter().all(|&byte| byte == 0));
    stream
        .write_all(b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    assert_eq!(read_answer(&mut stream, true).text(), "hello world\n");

    let mut stream = begin(&address, "/file");
    file.set_len(100).unwrap();
    let received = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_or(0);
    assert!(received < LENGTH * 2, "{received}");
    server.signal(Signal::TERM);
    let outcome = server
        .finish()
        .expect_code(0)
        .expect_message(&["cut short"]);
    assert_eq!(outcome.json()["failed"], 1);
}

#[test]
fn who_is_slow_with_a_request_is_not_waited_for() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let site = Site::new();
    let (_server, address) = site.serve(&["--timeout", "300ms", "--idle-timeout", "10s"]);
    let mut stream = connect(&address);
    let began = Instant::now();
    // A byte now and then is no excuse, however long it goes on.
    let mut writer = stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        let start = b"GET /a.txt HTTP/1.1\r\nHost: h\r\nA: ".iter();
        for byte in start.chain(std::iter::repeat(&b'x')) {
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(read_answer(&mut stream, true).status, 408);
    assert!(began.elapsed() >= TIMEOUT);
    stream.shutdown(Shutdown::Both).unwrap();
    dripping.join().unwrap();
}

#[test]
fn each_request_has_the_time_of_one() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let site = Site::new();
    let (_server, address) = site.serve(&["--timeout", "1s"]);
    // Requests in a row, each of which begins before the one before it has been answered, for twice as long
    // as one may take.
    let ask_in_a_row = || {
        let mut stream = connect(&address);
        let began = Instant::now();
        stream.write_all(b"GET").unwrap();
        while began.elapsed() < 2 * TIMEOUT {
            let round = Instant::now();
            stream
                .write_all(b" /a.txt HTTP/1.1\r\nHost: h\r\n\r\nGET")
                .unwrap();
            let status = read_answer(&mut stream, true).status;
            if status != 200 {
                // Only if this test was kept from running.
                assert!(status == 408 && round.elapsed() >= TIMEOUT, "{status}");
                return false;
            }
        }
        true
    };
    assert!(
        (0..5).any(|_| ask_in_a_row()),
        "this machine is too busy to tell"
    );
}

#[test]
fn connections_that_do_nothing_are_closed() {
    let site = Site::new();
    site.sparse("file", 256 << 20);
    let (server, address) = site.serve(&["--idle-timeout", "300ms", "--json"]);
    let mut silent = connect(&address);
    let mut kept = connect(&address);
    kept.write_all(b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    assert_eq!(read_answer(&mut kept, true).status, 200);
    let reader = begin(&address, "/file");
    for stream in [&mut silent, &mut kept] {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    // One that takes nothing of its file is cut as well, once the runtime's close deadline is over.
    server.signal(Signal::TERM);
    let json = server.finish().expect_code(0).json();
    assert_eq!(
        (json["timed_out"].as_u64(), json["cut_off"].as_u64()),
        (Some(3), Some(0))
    );
    drop(reader);
}

#[test]
fn no_more_connections_than_allowed_are_served_at_a_time() {
    let site = Site::new();
    let (_server, address) = site.serve(&["--max-conns", "1"]);
    let ask = |stream: &mut TcpStream| {
        stream
            .write_all(b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
    };
    let mut first = connect(&address);
    ask(&mut first);
    assert_eq!(read_answer(&mut first, true).status, 200);
    let mut second = connect(&address);
    ask(&mut second);
    second
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let waiting = second.read(&mut [0; 1]).unwrap_err();
    assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&waiting.kind()));
    drop(first);
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(read_answer(&mut second, true).status, 200);
    let short = run(&[
        "files",
        "/",
        "--listen",
        "127.0.0.1:0",
        "--max-conns",
        "4000000000",
    ]);
    short
        .expect_code(4)
        .expect_message(&["sockets: 4,000,000,000 needed"]);
}

#[test]
fn a_connection_is_sent_no_more_than_its_rate() {
    let site = Site::new();
    site.write("file", &noise(1 << 20));
    site.write("small", &noise(50_000));
    let (server, address) = site.serve(&["--rate-limit", "1Mi/s", "--json"]);
    let mut stream = connect(&address);
    let mut time = |target: &str| {
        let began = Instant::now();
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
            .unwrap();
        read_answer(&mut stream, true);
        began.elapsed().as_secs_f64()
    };
    let seconds = time("/file");
    assert!(seconds >= 0.98, "{seconds}");
    let seconds: f64 = (0..10).map(|_| time("/small")).sum();
    assert!(seconds >= 0.46, "{seconds}");
    server.signal(Signal::TERM);
    let json = server.finish().expect_code(0).json();
    assert!(json["server_cpu_seconds"].as_f64().unwrap() < 0.5, "{json}");
}

#[test]
fn a_drain_closes_connections_without_a_request_at_once() {
    let site = Site::new();
    // Shorter than what a last answer is given to arrive in.
    let (server, address) = site.serve(&["--drain-timeout", "1s", "--json"]);
    let silent = connect(&address);
    let mut kept = connect(&address);
    kept.write_all(b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    assert_eq!(read_answer(&mut kept, true).status, 200);
    server.signal(Signal::TERM);
    // Neither client closes its side.
    let json = server.finish().expect_code(0).json();
    assert_eq!(
        (json["accepted"].as_u64(), json["cut_off"].as_u64()),
        (Some(2), Some(0)),
        "{json}"
    );
    drop((silent, kept));
}

#[test]
fn a_drain_lets_a_request_that_has_begun_to_come_be_answered() {
    let site = Site::new();
    for driver in ["auto", "poll"] {
        let (mut server, address) = site.serve(&["--driver", driver]);
        let mut idle = connect(&address);
        let mut stream = connect(&address);
        // In one segment: once the first is answered, the start of the second has been received.
        stream
            .write_all(b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\nGET /sub/ HTTP/1.1\r\nHost: h\r\n")
            .unwrap();
        let first = read_answer(&mut stream, true);
        assert_eq!((first.status, first.field("connection")), (200, None));
        server.signal(Signal::TERM);
        server.stderr_after("letting 2 connections finish");
        assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "the drain has begun");
        stream.write_all(b"\r\n").unwrap();
        let second = read_answer(&mut stream, true);
        assert_eq!(
            (second.text().as_str(), second.field("connection")),
            ("<p>index</p>\n", Some("close"))
        );
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        drop(stream);
        server.finish().expect_code(0);
    }
}

#[test]
fn a_drain_lets_answers_finish_and_takes_no_more_requests() {
    let site = Site::new();
    site.write("file", &noise(600_000));
    let (mut server, address) = site.serve(&["--rate-limit", "1M/s"]);
    let mut kept = connect(&address);
    kept.write_all(b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    read_answer(&mut kept, true);
    let mut stream = begin(&address, "/file");
    server.signal(Signal::TERM);
    server.stderr_after("letting 2 connections finish");
    assert_eq!(
        kept.read(&mut [0; 1]).unwrap(),
        0,
        "there is nothing to wait for"
    );
    let mut body = Vec::new();
    stream.read_to_end(&mut body).unwrap();
    assert!(body == noise(600_000));
    server.finish().expect_code(0);
}

/// Bytes that a connection's two ends hold together, and the client's alone does not.
const TAIL: usize = 400_000;

/// Asks for that, and waits until the server has given all of the answer to the system.
fn ask_for_tail(server: &mut Running, address: &str) -> TcpStream {
    let mut stream = connect(address);
    stream
        .write_all(b"GET /tail HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    server.stderr_after(&format!("\"GET /tail HTTP/1.1\" 200 {TAIL} "));
    stream
}

#[test]
fn a_client_that_has_said_that_it_sends_no_more_is_not_waited_for() {
    let site = Site::new();
    // Shorter than what a last answer is given to arrive in.
    let (server, address) = site.serve(&["--drain-timeout", "1s", "--json"]);
    let ask = |request: &str| {
        let mut stream = connect(&address);
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream, true).status, 200);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        // Its side stays open.
        stream
    };
    let clients = [
        "GET /a.txt HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /a.txt HTTP/1.0\r\n\r\n",
    ]
    .map(ask);
    server.signal(Signal::TERM);
    let json = server.finish().expect_code(0).json();
    assert_eq!(json["cut_off"], 0, "{json}");
    drop(clients);
}

#[test]
fn a_client_that_sends_more_than_it_has_said_loses_nothing_of_a_long_answer() {
    let site = Site::new();
    site.write("tail", &noise(TAIL));
    for driver in ["auto", "poll"] {
        let (mut server, address) = site.serve(&["-v", "--driver", driver]);
        for head in ["HTTP/1.0", "HTTP/1.1\r\nHost: h\r\nConnection: close"] {
            let mut stream = connect(&address);
            write!(stream, "GET /tail {head}\r\n\r\n").unwrap();
            server.stderr_after(&format!("\" 200 {TAIL} "));
            // The server closes its side now, if it does not wait.
            thread::sleep(Duration::from_millis(50));
            stream.write_all(b"\r\n").unwrap();
            assert!(read_answer(&mut stream, true).body == noise(TAIL), "{head}");
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "an orderly end");
        }
    }
}

#[test]
fn a_client_that_goes_on_sending_loses_nothing_of_its_last_answer() {
    let site = Site::new();
    site.write("tail", &noise(TAIL));
    let (mut server, address) = site.serve(&["-v"]);
    // First, so that it has been accepted when the others are answered.
    let mut idle = connect(&address);
    let mut kept = ask_for_tail(&mut server, &address);
    let mut refused = ask_for_tail(&mut server, &address);
    // More than is ever on its way between two machines.
    let more = vec![b'x'; 8 << 20];
    refused
        .write_all(b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n")
        .unwrap();
    refused.write_all(&more).unwrap();
    assert!(
        read_answer(&mut refused, true).body == noise(TAIL),
        "every byte"
    );
    let mut refusal = String::new();
    refused
        .read_to_string(&mut refusal)
        .expect("an orderly end");
    assert!(refusal.starts_with("HTTP/1.1 413 "), "{refusal}");

    server.signal(Signal::TERM);
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "the drain has begun");
    // Refused once its own system has all of the answer: then the connection is closed already.
    let _ = kept.write_all(&more);
    assert!(
        read_answer(&mut kept, true).body == noise(TAIL),
        "every byte"
    );
    drop((refused, kept, idle));
    server.finish().expect_code(0);
}

#[test]
fn verbose_tells_every_answer_in_the_common_format() {
    let site = Site::new();
    site.write("file", &noise(100_000));
    let (server, address) = site.serve(&["-v"]);
    get(&address, "/file", "");
    ask_raw(&address, "GET /\x1b[2J HTTP/1.1\r\nHost: h\r\n\r\n");
    server.signal(Signal::TERM);
    let log = server.finish().expect_code(0).stderr;
    let line = log
        .lines()
        .find(|line| line.contains("/file"))
        .expect("a line");
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(
        line.contains(" +0000] \"GET /file HTTP/1.1\" 200 100000 0."),
        "{line}"
    );
    assert!(log.contains("\" 400 "), "{log}");
    assert!(!log.contains('\x1b'), "{log}");
}

#[test]
fn what_cannot_be_served_is_said() {
    let missing = run(&["files", "/nowhere/at/all"]).expect_code(2);
    missing.expect_message(&["cannot serve the directory /nowhere/at/all", "No such file"]);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    run(&["files", file.to_str().unwrap()])
        .expect_code(2)
        .expect_message(&["ot a directory"]);
    for (flags, said) in [
        (&["--timeout", "0s"][..], "--timeout 0s"),
        (&["--idle-timeout", "0s"], "--idle-timeout 0s"),
        (&["--rate-limit", "10Mi"], "per"),
        (&["--index", "../x"], "name of a file"),
        (&["--listen", "8000"], "HOST:PORT"),
    ] {
        run(&[&["files", "/"], flags].concat())
            .expect_code(2)
            .expect_message(&[said]);
    }
}

#[test]
fn a_client_that_closes_its_side_gets_its_answers() {
    let site = Site::new();
    let (_server, address) = site.serve(&[]);
    let mut stream = connect(&address);
    stream
        .write_all(
            "GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"
                .repeat(3)
                .as_bytes(),
        )
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    for _ in 0..3 {
        assert_eq!(read_answer(&mut stream, true).text(), "hello world\n");
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}
