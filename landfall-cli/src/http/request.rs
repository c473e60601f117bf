//! Heads of requests, and which of them are refused (RFC 9112).
//!
//! What another server on the way could read differently is refused rather than guessed: such
//! requests are used to smuggle a second one past it.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Status as Progress};

use super::status::Status;

/// The longest head, in bytes.
pub const MOST_HEAD: usize = 16 * 1024;
/// The longest target, in bytes.
pub const MOST_TARGET: usize = 8 * 1024;
/// The most fields of a head.
pub const MOST_FIELDS: usize = 100;
/// The longest body that is read, to be thrown away.
pub const MOST_BODY: u64 = 64 * 1024;

/// Memory for the fields of a head.
pub type Room<'a> = [MaybeUninit<Header<'a>>; MOST_FIELDS];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A file.
    Get,
    /// What would be said of it.
    Head,
    /// Something that files have not.
    Other,
}

/// The head of a request.
#[derive(Debug)]
pub struct Request<'a> {
    /// What is asked for.
    pub method: Method,
    /// Of what.
    pub target: &'a str,
    /// HTTP/1.0, or 1.1.
    pub is_1_0: bool,
    /// In bytes, with the empty line.
    pub head_length: usize,
    /// Of the body that follows, in bytes.
    pub body_length: u64,
    /// The connection may be used for another one.
    pub keeps_alive: bool,
    fields: &'a [Header<'a>],
}

impl<'a> Request<'a> {
    /// Reads a head from the beginning of some bytes. `None`: it is not there as a whole.
    ///
    /// # Errors
    ///
    /// What to refuse it with. Where the next request would begin is unknown then.
    pub fn read(bytes: &'a [u8], room: &'a mut Room<'a>) -> Result<Option<Self>, Status> {
        let mut head = httparse::Request::new(&mut []);
        let parsed = head.parse_with_uninit_headers(bytes, room);
        let head_length = match parsed {
            Ok(Progress::Complete(length)) if length <= MOST_HEAD => length,
            Ok(Progress::Complete(_)) => return Err(too_long(bytes)),
            Ok(Progress::Partial) if bytes.len() < MOST_HEAD => return Ok(None),
            Ok(Progress::Partial) => return Err(too_long(bytes)),
            Err(Error::TooManyHeaders) => return Err(Status::FIELDS_TOO_LARGE),
            Err(Error::Version) => return Err(version_refused(bytes)),
            Err(_) => return Err(Status::BAD_REQUEST),
        };
        let (Some(name), Some(target), Some(version)) = (head.method, head.path, head.version)
        else {
            return Err(Status::BAD_REQUEST);
        };
        let mut request = Request {
            method: match name {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                _ => Method::Other,
            },
            target,
            is_1_0: version == 0,
            head_length,
            body_length: 0,
            keeps_alive: false,
            fields: head.headers,
        };
        if target.len() > MOST_TARGET {
            return Err(Status::TARGET_TOO_LONG);
        }
        request.check_host()?;
        request.body_length = request.check_body()?;
        request.keeps_alive = request.check_connection()?;
        Ok(Some(request))
    }

    /// All values of a field, whose name is given in small letters. One that is no text is empty.
    pub fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let fields: &'a [Header<'a>] = self.fields;
        let named = fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| str::from_utf8(field.value).unwrap_or_default())
    }

    /// The value of a field that is there once.
    pub fn value(&self, name: &'static str) -> Option<&'a str> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether a list has a member, whatever its capitals.
    fn lists(&self, name: &'static str, member: &str) -> bool {
        self.values(name)
            .flat_map(|list| list.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(member))
    }

    fn check_host(&self) -> Result<(), Status> {
        let mut hosts = self.values("host");
        let is_valid = match (hosts.next(), hosts.next()) {
            (Some(host), None) => is_host(host),
            (None, _) => self.is_1_0,
            (Some(_), Some(_)) => false,
        };
        is_valid.then_some(()).ok_or(Status::BAD_REQUEST)
    }

    /// The length of the body.
    fn check_body(&self) -> Result<u64, Status> {
        let mut lengths = self.values("content-length");
        let mut codings = self.values("transfer-encoding");
        match (lengths.next(), codings.next()) {
            (None, None) => Ok(0),
            (Some(length), None) if lengths.next().is_none() => {
                if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(Status::BAD_REQUEST);
                }
                match length.parse() {
                    Ok(length) if length <= MOST_BODY => Ok(length),
                    _ => Err(Status::CONTENT_TOO_LARGE),
                }
            }
            (None, Some(coding)) if !self.is_1_0 && codings.next().is_none() => {
                match coding.eq_ignore_ascii_case("chunked") {
                    true => Err(Status::LENGTH_REQUIRED),
                    false => Err(Status::NOT_IMPLEMENTED),
                }
            }
            _ => Err(Status::BAD_REQUEST),
        }
    }

    /// Whether another request may follow.
    fn check_connection(&self) -> Result<bool, Status> {
        if self.is_1_0 {
            return Ok(!self.lists("connection", "close") && self.lists("connection", "keep-alive"));
        }
        let mut expectations = self.values("expect").peekable();
        let waits_with_body = expectations.peek().is_some();
        if expectations.any(|expected| !expected.eq_ignore_ascii_case("100-continue")) {
            return Err(Status::EXPECTATION_FAILED);
        }
        // The answer comes at once, and nobody can tell whether the body still does.
        let is_waiting = waits_with_body && self.body_length > 0;
        Ok(!is_waiting && !self.lists("connection", "close"))
    }
}

/// What to refuse a head with that is longer than it may be.
fn too_long(bytes: &[u8]) -> Status {
    let line = bytes.iter().position(|&byte| byte == b'\n');
    match line.is_none_or(|end| end > MOST_TARGET) {
        true => Status::TARGET_TOO_LONG,
        false => Status::FIELDS_TOO_LARGE,
    }
}

/// What to refuse a version with that is not 1.0 or 1.1: another of HTTP, or none at all.
fn version_refused(bytes: &[u8]) -> Status {
    let line = bytes
        .split(|&byte| byte == b'\n')
        .find(|line| line.len() > 1);
    let version = line.and_then(|line| line.trim_ascii_end().rsplit(|&byte| byte == b' ').next());
    let is_version = |version: &[u8]| {
        matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit())
    };
    match version.is_some_and(is_version) {
        true => Status::VERSION_NOT_SUPPORTED,
        false => Status::BAD_REQUEST,
    }
}

/// Whether a field may name a host and a port: not empty, and nothing in it that stands for
/// something else in a URL.
fn is_host(host: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_graphic() && !b"/\\?#@<>\"".contains(&byte);
    !host.is_empty() && host.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a request comes to: its target, the length of its body, and whether another may follow.
    fn read(head: &str) -> Result<(String, u64, bool), Status> {
        let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let request = Request::read(head.as_bytes(), &mut room)?.expect("a whole head");
        assert_eq!(request.head_length, head.len());
        Ok((
            request.target.to_owned(),
            request.body_length,
            request.keeps_alive,
        ))
    }

    fn get(fields: &str) -> Result<(String, u64, bool), Status> {
        read(&format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
    }

    fn ok(body_length: u64, keeps_alive: bool) -> Result<(String, u64, bool), Status> {
        Ok((String::from("/a"), body_length, keeps_alive))
    }

    #[test]
    fn connections_are_kept_as_the_version_and_the_field_say() {
        assert_eq!(get(""), ok(0, true));
        assert_eq!(get("Connection: close\r\n"), ok(0, false));
        assert_eq!(get("Connection: Upgrade, CLOSE\r\n"), ok(0, false));
        assert_eq!(read("GET /a HTTP/1.0\r\n\r\n"), ok(0, false));
        assert_eq!(
            read("GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
            ok(0, true)
        );
        assert_eq!(read("\r\nGET /a HTTP/1.1\nHost: h\n\n"), ok(0, true));
    }

    #[test]
    fn a_host_is_named_once() {
        for head in [
            "GET /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: user@a\r\n\r\n",
        ] {
            assert_eq!(read(head), Err(Status::BAD_REQUEST), "{head}");
        }
        for host in ["example.net:80", "[::1]:8000", "a_b"] {
            let head = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(read(&head), ok(0, true), "{host}");
        }
    }

    #[test]
    fn a_body_has_one_length_or_the_request_is_refused() {
        assert_eq!(get("Content-Length: 5\r\n"), ok(5, true));
        for (fields, status) in [
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Status::BAD_REQUEST,
            ),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                Status::BAD_REQUEST,
            ),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                Status::BAD_REQUEST,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                Status::BAD_REQUEST,
            ),
            ("Content-Length: 5, 5\r\n", Status::BAD_REQUEST),
            ("Content-Length: +5\r\n", Status::BAD_REQUEST),
            ("Content-Length: -5\r\n", Status::BAD_REQUEST),
            ("Content-Length: 0x5\r\n", Status::BAD_REQUEST),
            ("Content-Length:\r\n", Status::BAD_REQUEST),
            ("Content-Length : 5\r\n", Status::BAD_REQUEST),
            ("A: b\r\n Content-Length: 5\r\n", Status::BAD_REQUEST),
            ("A: b\rContent-Length: 5\r\n", Status::BAD_REQUEST),
            ("A: b\0\r\n", Status::BAD_REQUEST),
            ("Content-Length: 65537\r\n", Status::CONTENT_TOO_LARGE),
            (
                "Content-Length: 99999999999999999999\r\n",
                Status::CONTENT_TOO_LARGE,
            ),
            ("Transfer-Encoding: chunked\r\n", Status::LENGTH_REQUIRED),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Status::NOT_IMPLEMENTED,
            ),
        ] {
            assert_eq!(get(fields), Err(status), "{fields}");
        }
        let old = "GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old), Err(Status::BAD_REQUEST));
    }

    #[test]
    fn who_waits_with_a_body_gets_the_answer_and_no_second_one() {
        assert_eq!(
            get("Expect: 100-continue\r\nContent-Length: 5\r\n"),
            ok(5, false)
        );
        assert_eq!(get("Expect: 100-Continue\r\n"), ok(0, true));
        assert_eq!(get("Expect: miracles\r\n"), Err(Status::EXPECTATION_FAILED));
    }

    #[test]
    fn heads_have_bounds() {
        let long = "x".repeat(MOST_TARGET);
        assert_eq!(
            read(&format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n")),
            Err(Status::TARGET_TOO_LONG)
        );
        let fields = |count: usize, value: &str| format!("A: {value}\r\n").repeat(count);
        assert_eq!(get(&fields(MOST_FIELDS - 1, "b")), ok(0, true));
        assert_eq!(
            get(&fields(MOST_FIELDS, "b")),
            Err(Status::FIELDS_TOO_LARGE)
        );
        assert_eq!(get(&fields(3, &long)), Err(Status::FIELDS_TOO_LARGE));
        // Without its end.
        let endless = [
            (format!("GET /{long}{long}"), Status::TARGET_TOO_LONG),
            (
                format!("GET / HTTP/1.1\r\nA: {long}{long}"),
                Status::FIELDS_TOO_LARGE,
            ),
        ];
        for (head, status) in endless {
            let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
            let refused = Request::read(head.as_bytes(), &mut room).map(|_| ());
            assert_eq!(refused, Err(status));
        }
    }

    #[test]
    fn other_versions_are_refused() {
        for (line, status) in [
            ("GET / HTTP/2.0", Status::VERSION_NOT_SUPPORTED),
            ("GET / HTTP/1.2", Status::VERSION_NOT_SUPPORTED),
            ("GET / HTTP/0.9", Status::VERSION_NOT_SUPPORTED),
            ("GET / HTTP/x", Status::BAD_REQUEST),
            ("GET / http/1.1", Status::BAD_REQUEST),
            ("GET /", Status::BAD_REQUEST),
            ("GET  / HTTP/1.1", Status::BAD_REQUEST),
            ("G(T / HTTP/1.1", Status::BAD_REQUEST),
        ] {
            assert_eq!(
                read(&format!("{line}\r\nHost: h\r\n\r\n")),
                Err(status),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_head_is_read_the_same_however_much_follows(
            fields in prop::collection::vec("[A-Za-z-]{1,9}: [ -~]{0,9}", 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            let head = format!("GET /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            let alone = read(&head);
            let mut bytes = head.clone().into_bytes();
            bytes.extend(rest);
            let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
            let followed = Request::read(&bytes, &mut room).map(|request| {
                let request = request.expect("a whole head");
                assert_eq!(request.head_length, head.len());
                (request.target.to_owned(), request.body_length, request.keeps_alive)
            });
            prop_assert_eq!(alone, followed);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
            let _ = Request::read(&bytes, &mut room);
        }
    }
}
