//! What is answered to a request, up to the first bytes of its file.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use landfall::fs::Directory;

use super::conditional::{Validators, Verdict};
use super::counts::Counts;
use super::date::{DateText, write_date};
use super::listing::{self, Form};
use super::path::{Target, encode_path};
use super::range::{Asked, Span, parse_range};
use crate::http::{Method, Request, Status};
use crate::output::Log;
use crate::system::paths::path_of;

/// The name of this server.
const SERVER: &str = concat!("landfall/", env!("CARGO_PKG_VERSION"));

/// Files up to this length are read and go out with their heads: that costs less than what is saved
/// where the system takes a file without a copy.
const COPIED: u64 = 8 * 1024;
/// Where all are copied, so much goes with the head at most, since one send costs less than two.
const WITH_HEAD: u64 = 64 * 1024;

/// Room for a head, in bytes. Most need less.
const HEAD: usize = 512;

/// What is served, and how.
#[derive(Debug)]
pub struct Site {
    /// Everything that is served is beneath it.
    pub directory: Directory,
    /// The name of the file that stands for a directory.
    pub index: String,
    /// Whether directories without one are listed.
    pub lists: bool,
    /// Whether names that begin with a dot are served.
    pub shows_hidden: bool,
    /// Whether files are sent by the system as far as it takes them, without a copy.
    pub sends_at_once: bool,
    /// What has been answered.
    pub counts: Counts,
    /// Where failures are told.
    pub log: Log,
    /// The date of answers.
    pub date: DateText,
}

/// An answer whose head, and a part of its body, have been written.
#[derive(Debug)]
pub struct Answer {
    /// What it began with.
    pub status: Status,
    /// Of the body, in bytes.
    pub length: u64,
    /// What is to follow from a file.
    pub rest: Option<FilePart>,
    /// Another request may follow.
    pub keeps_alive: bool,
}

/// A part of a file.
#[derive(Debug)]
pub struct FilePart {
    /// Open for reading.
    pub file: Arc<File>,
    /// Which part.
    pub span: Span,
}

/// What all answers to one request have in common.
struct Reply<'a> {
    site: &'a Site,
    out: &'a mut Vec<u8>,
    now: SystemTime,
    has_body: bool,
    keeps_alive: bool,
    is_1_0: bool,
}

impl Site {
    /// Writes what is answered to a request behind what `out` has.
    ///
    /// # Errors
    ///
    /// The file is shorter than it was a moment ago. Nothing has been written then.
    pub fn answer(
        &self,
        request: &Request<'_>,
        keeps_alive: bool,
        out: &mut Vec<u8>,
    ) -> io::Result<Answer> {
        let mut reply = Reply {
            site: self,
            out,
            now: SystemTime::now(),
            has_body: request.method != Method::Head,
            keeps_alive: keeps_alive && request.keeps_alive,
            is_1_0: request.is_1_0,
        };
        let answer = match self.find(request) {
            Ok(Found::File(file, metadata, name)) => reply.file(request, file, &metadata, &name)?,
            Ok(Found::Listing(target)) => reply.listing(request, &target),
            Ok(Found::Elsewhere(location)) => reply.redirect(&location),
            Err(status) => reply.failure(status),
        };
        self.counts.add(answer.status);
        Ok(answer)
    }

    /// Writes the answer to what is no request. The connection ends with it.
    pub fn refuse(&self, status: Status, out: &mut Vec<u8>) -> Answer {
        self.counts.add(status);
        let mut reply = Reply {
            site: self,
            out,
            now: SystemTime::now(),
            has_body: true,
            keeps_alive: false,
            is_1_0: false,
        };
        reply.failure(status)
    }

    fn find<'a>(&self, request: &Request<'a>) -> Result<Found<'a>, Status> {
        if request.method == Method::Other {
            return Err(Status::METHOD_NOT_ALLOWED);
        }
        let target = Target::parse(request.target).map_err(|_| Status::BAD_REQUEST)?;
        if target.is_hidden() && !self.shows_hidden {
            return Err(Status::NOT_FOUND);
        }
        let path = path_of(&target.path).ok_or(Status::NOT_FOUND)?;
        let (file, metadata) = self.open(path)?;
        match (metadata.is_dir(), target.wants_directory) {
            (false, false) => Ok(Found::File(file, metadata, file_name(path))),
            (false, true) => Err(Status::NOT_FOUND),
            (true, false) => Ok(Found::Elsewhere(with_slash(&target))),
            (true, true) => match self.find_index(path)? {
                Some(index) => Ok(index),
                None if self.lists => Ok(Found::Listing(target)),
                None => Err(Status::FORBIDDEN),
            },
        }
    }

    /// What stands for a directory, if it has that.
    fn find_index<'a>(&self, path: &Path) -> Result<Option<Found<'a>>, Status> {
        match self.open(&path.join(&self.index)) {
            Ok((file, metadata)) if metadata.is_file() => {
                Ok(Some(Found::File(file, metadata, self.index.clone())))
            }
            Ok(_) | Err(Status::NOT_FOUND) => Ok(None),
            Err(status) => Err(status),
        }
    }

    fn open(&self, path: &Path) -> Result<(File, Metadata), Status> {
        let opened = self.directory.open_beneath(path);
        opened.map_err(|error| self.status_of(path, &error))
    }

    /// What a file that cannot be had is answered with. What is wrong here, and not with the request,
    /// is told.
    fn status_of(&self, path: &Path, error: &io::Error) -> Status {
        let status = match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename => return Status::NOT_FOUND,
            ErrorKind::PermissionDenied => return Status::FORBIDDEN,
            _ if crate::system::errno::is_out_of_descriptors(error) => Status::UNAVAILABLE,
            _ => Status::INTERNAL_ERROR,
        };
        // What a client has written may steer a terminal.
        let path = path.as_os_str().as_encoded_bytes().escape_ascii();
        self.log.note(format_args!("cannot read {path}: {error}"));
        status
    }
}

/// What a request leads to.
enum Found<'a> {
    /// With the name that its type is told from.
    File(File, Metadata, String),
    Listing(Target<'a>),
    /// The directory's own name ends in a slash.
    Elsewhere(String),
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The directory that was asked for without its slash. A reference without a host, that begins with
/// one slash: it leads to no other server.
fn with_slash(target: &Target<'_>) -> String {
    let path = encode_path(&target.path);
    match target.query {
        Some(query) => format!("/{path}/?{query}"),
        None => format!("/{path}/"),
    }
}

impl Reply<'_> {
    fn file(
        &mut self,
        request: &Request<'_>,
        file: File,
        metadata: &Metadata,
        name: &str,
    ) -> io::Result<Answer> {
        let length = metadata.len();
        // A date in the future would be a lie.
        let modified = metadata.modified().unwrap_or(UNIX_EPOCH).min(self.now);
        let validators = Validators::new(metadata.modified().unwrap_or(UNIX_EPOCH), length);
        match validators.evaluate(|name| request.values(name)) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Ok(self.not_modified(&validators, modified)),
            Verdict::Failed => return Ok(self.failure(Status::PRECONDITION_FAILED)),
        }
        let whole = Span { offset: 0, length };
        let (status, span) = match asked_for(request, &validators, length) {
            Asked::Whole => (Status::OK, whole),
            Asked::Part(span) => (Status::PARTIAL_CONTENT, span),
            Asked::Nothing => return Ok(self.no_such_range(length)),
        };
        let begun = self.out.len();
        let with_head = match self.site.sends_at_once && span.length > COPIED {
            true => 0,
            false => span.length.min(WITH_HEAD),
        };
        self.out.reserve(HEAD + with_head as usize);
        self.begin(status);
        let (kind, charset) = type_of(name);
        self.field("Content-Type", format_args!("{kind}{charset}"));
        self.field("Content-Length", format_args!("{}", span.length));
        self.validators(&validators, modified);
        if status == Status::PARTIAL_CONTENT {
            let (first, last) = (span.offset, span.offset + span.length - 1);
            self.field(
                "Content-Range",
                format_args!("bytes {first}-{last}/{length}"),
            );
        }
        self.field("Accept-Ranges", format_args!("bytes"));
        self.out.extend_from_slice(b"\r\n");
        if !self.has_body {
            return Ok(self.done(status, span.length, None));
        }
        let rest =
            append(&file, span, with_head, self.out).inspect_err(|_| self.out.truncate(begun))?;
        let rest = rest.map(|span| FilePart {
            file: Arc::new(file),
            span,
        });
        Ok(self.done(status, span.length, rest))
    }

    fn not_modified(&mut self, validators: &Validators, modified: SystemTime) -> Answer {
        self.begin(Status::NOT_MODIFIED);
        self.validators(validators, modified);
        self.out.extend_from_slice(b"\r\n");
        self.done(Status::NOT_MODIFIED, 0, None)
    }

    fn no_such_range(&mut self, length: u64) -> Answer {
        let range = format!("bytes */{length}");
        self.text(Status::RANGE_NOT_SATISFIABLE, &[("Content-Range", &range)])
    }

    fn redirect(&mut self, location: &str) -> Answer {
        self.text(Status::MOVED_PERMANENTLY, &[("Location", location)])
    }

    fn failure(&mut self, status: Status) -> Answer {
        match status {
            Status::METHOD_NOT_ALLOWED => self.text(status, &[("Allow", "GET, HEAD")]),
            _ => self.text(status, &[]),
        }
    }

    /// An answer whose body says what its status does.
    fn text(&mut self, status: Status, fields: &[(&str, &str)]) -> Answer {
        let body = format!("{status}\n");
        self.page(status, "text/plain; charset=utf-8", fields, body.as_bytes())
    }

    fn listing(&mut self, request: &Request<'_>, target: &Target<'_>) -> Answer {
        let site = self.site;
        let form = Form::of(target.query, || request.values("accept"));
        let path = path_of(&target.path).unwrap_or(Path::new(""));
        match listing::write(&site.directory, path, target, site.shows_hidden, form) {
            Ok(body) => {
                let fields = [("Vary", "Accept"), ("Cache-Control", "no-cache")];
                self.page(Status::OK, form.content_type(), &fields, body.as_bytes())
            }
            Err(error) => {
                let status = site.status_of(path, &error);
                self.failure(status)
            }
        }
    }

    fn page(
        &mut self,
        status: Status,
        content_type: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.begin(status);
        self.field("Content-Type", format_args!("{content_type}"));
        self.field("Content-Length", format_args!("{}", body.len()));
        for (name, value) in fields {
            self.field(name, format_args!("{value}"));
        }
        self.out.extend_from_slice(b"\r\n");
        if self.has_body {
            self.out.extend_from_slice(body);
        }
        self.done(status, body.len() as u64, None)
    }

    /// The status, and the fields that every answer has.
    fn begin(&mut self, status: Status) {
        // Writing to memory does not fail.
        let _ = write!(self.out, "HTTP/1.1 {status}\r\nServer: {SERVER}\r\nDate: ");
        self.site.date.write(self.now, self.out);
        self.out
            .extend_from_slice(match (self.keeps_alive, self.is_1_0) {
                (true, false) => b"\r\n",
                (true, true) => b"\r\nConnection: keep-alive\r\n",
                (false, _) => b"\r\nConnection: close\r\n",
            });
    }

    fn validators(&mut self, validators: &Validators, modified: SystemTime) {
        self.out.extend_from_slice(b"Last-Modified: ");
        write_date(modified, self.out);
        self.out.extend_from_slice(b"\r\n");
        self.field("ETag", format_args!("{}", validators.etag));
    }

    fn field(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        let _ = write!(self.out, "{name}: {value}\r\n");
    }

    fn done(&self, status: Status, length: u64, rest: Option<FilePart>) -> Answer {
        Answer {
            status,
            length: if self.has_body { length } else { 0 },
            rest,
            keeps_alive: self.keeps_alive,
        }
    }
}

/// Which part of a file is to be sent.
fn asked_for(request: &Request<'_>, validators: &Validators, length: u64) -> Asked {
    let Some(range) = request.value("range") else {
        return Asked::Whole;
    };
    let mut conditions = request.values("if-range");
    match (conditions.next(), conditions.next()) {
        (None, _) => parse_range(range, length),
        (Some(condition), None) if validators.is_same(condition) => parse_range(range, length),
        (Some(_), _) => Asked::Whole,
    }
}

/// The type of a file by its name. Text is taken to be UTF-8, as nearly all is: without that, browsers
/// guess an older encoding.
fn type_of(name: &str) -> (&'static str, &'static str) {
    let known = mime_guess::from_path(name).first_raw();
    let kind = known.unwrap_or("application/octet-stream");
    match kind.starts_with("text/") {
        true => (kind, "; charset=utf-8"),
        false => (kind, ""),
    }
}

/// Reads so many bytes of a span behind what `out` has. Returns what is left of it.
fn append(mut file: &File, span: Span, count: u64, out: &mut Vec<u8>) -> io::Result<Option<Span>> {
    if span.offset > 0 && count > 0 {
        file.seek(SeekFrom::Start(span.offset))?;
    }
    let read = file.take(count).read_to_end(out)? as u64;
    if read < count {
        return Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "the file has been cut short while it was sent",
        ));
    }
    Ok((read < span.length).then_some(Span {
        offset: span.offset + read,
        length: span.length - read,
    }))
}
