//! What a directory has, as a page for people and as JSON for programs.

use std::cmp::Reverse;
use std::fmt::{self, Display, Write};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use landfall::fs::{Directory, Entry};
use serde::Serialize;

use super::conditional::within_dates;
use super::path::{Target, encode_name, is_hidden};
use crate::system::paths::bytes_of;
use crate::units::show_bytes;

/// Entries of one listing; of a larger directory these are what the system names first.
const MOST_ENTRIES: usize = 10_000;

/// Without scripts, for any screen, in the reader's own colours.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem}\
h1{font-size:1.2rem;overflow-wrap:anywhere}\
table{width:100%;border-collapse:collapse}\
th,td{text-align:left;padding:.3rem .5rem;border-bottom:1px solid #8884;white-space:nowrap}\
td:first-child{width:100%;white-space:normal;overflow-wrap:anywhere}\
td:nth-child(2){text-align:right}\
@media(max-width:30rem){th:nth-child(3),td:nth-child(3){display:none}}";

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// People.
    Html,
    /// Programs.
    Json,
}

impl Form {
    /// What the query asks for, or else the field `Accept`.
    pub fn of<'a, I: Iterator<Item = &'a str>>(
        query: Option<&str>,
        accept: impl Fn() -> I,
    ) -> Self {
        let asked = query.and_then(|query| {
            let pairs = query.split('&');
            pairs.filter_map(|pair| pair.strip_prefix("format=")).next()
        });
        let accepts = |wanted: &str| {
            let types = accept().flat_map(|types| types.split(','));
            types
                .filter_map(|one| one.split(';').next())
                .any(|one| one.trim().eq_ignore_ascii_case(wanted))
        };
        match asked {
            Some("json") => Form::Json,
            Some("html") => Form::Html,
            _ if accepts("application/json") && !accepts("text/html") => Form::Json,
            _ => Form::Html,
        }
    }

    /// Its type.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Html => "text/html; charset=utf-8",
            Form::Json => "application/json",
        }
    }
}

/// A listing for programs. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
struct Listing {
    /// Of the directory, beginning and ending with a slash.
    path: String,
    entries: Vec<Line>,
    /// Whether there are no more.
    complete: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    /// `directory` or `file`.
    kind: &'static str,
    /// Where it is, from the directory.
    href: String,
    /// `None` for a directory.
    bytes: Option<u64>,
    /// As RFC 3339 has it, in UTC.
    modified: String,
}

/// Lists a directory.
pub fn write(
    directory: &Directory,
    path: &Path,
    target: &Target<'_>,
    shows_hidden: bool,
    form: Form,
) -> io::Result<String> {
    let (mut entries, is_complete) = directory.list_beneath(path, MOST_ENTRIES)?;
    entries.retain(|entry| shows_hidden || !is_hidden(&bytes_of(&entry.name)));
    entries.sort_by(|one, other| {
        (Reverse(one.is_directory), &one.name).cmp(&(Reverse(other.is_directory), &other.name))
    });
    let path = match target.path.is_empty() {
        true => String::from("/"),
        false => format!("/{}/", String::from_utf8_lossy(&target.path)),
    };
    let listing = Listing {
        path,
        entries: entries.iter().map(Line::of).collect(),
        complete: is_complete,
    };
    match form {
        Form::Json => serde_json::to_string(&listing).map_err(io::Error::other),
        Form::Html => Ok(listing.page()),
    }
}

impl Line {
    fn of(entry: &Entry) -> Self {
        let name = bytes_of(&entry.name);
        let slash = if entry.is_directory { "/" } else { "" };
        Line {
            name: String::from_utf8_lossy(&name).into_owned(),
            kind: if entry.is_directory {
                "directory"
            } else {
                "file"
            },
            // With `./` ahead, no name is taken for a scheme.
            href: format!("./{}{slash}", encode_name(&name)),
            bytes: (!entry.is_directory).then_some(entry.length),
            modified: show_moment(entry.modified),
        }
    }
}

fn show_moment(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(within_dates(time)).to_string()
}

impl Listing {
    fn page(&self) -> String {
        let title = Escaped(&self.path);
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
             <table>\n<thead><tr><th>Name<th>Size<th>Changed (UTC)</thead>\n<tbody>\n"
        );
        if self.path != "/" {
            page.push_str("<tr><td><a href=\"../\">../</a><td><td>\n");
        }
        for line in &self.entries {
            let slash = if line.bytes.is_none() { "/" } else { "" };
            // Writing to a string does not fail.
            let _ = writeln!(
                page,
                "<tr><td><a href=\"{}\">{}{slash}</a><td>{}<td>{}",
                line.href,
                Escaped(&line.name),
                line.bytes.map(show_bytes).unwrap_or_default(),
                // Without its seconds.
                line.modified
                    .get(..16)
                    .unwrap_or_default()
                    .replace('T', " "),
            );
        }
        page.push_str("</tbody>\n</table>\n");
        if !self.complete {
            let _ = writeln!(page, "<p>There are more than these {MOST_ENTRIES}.</p>");
        }
        page.push_str("</body>\n</html>\n");
        page
    }
}

/// A text in a page, where it is nothing but text.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_form_is_what_is_asked_for() {
        let form =
            |query, accept: &'static [&'static str]| Form::of(query, || accept.iter().copied());
        assert_eq!(form(None, &[]), Form::Html);
        assert_eq!(form(None, &["*/*"]), Form::Html);
        assert_eq!(
            form(None, &["text/plain", "Application/JSON;q=0.9"]),
            Form::Json
        );
        assert_eq!(form(None, &["text/html, application/json"]), Form::Html);
        assert_eq!(form(Some("a=b&format=json"), &["text/html"]), Form::Json);
        assert_eq!(form(Some("format=html"), &["application/json"]), Form::Html);
        assert_eq!(form(Some("reformat=json"), &[]), Form::Html);
    }

    fn line(name: &str, bytes: Option<u64>) -> Line {
        Line {
            name: name.to_owned(),
            kind: "file",
            href: format!("./{}", encode_name(name.as_bytes())),
            bytes,
            modified: show_moment(UNIX_EPOCH + Duration::from_secs(784_111_777)),
        }
    }

    #[test]
    fn names_are_nothing_but_text_in_a_page() {
        let listing = Listing {
            path: String::from("/<b>/"),
            entries: vec![
                line("a\"><script>&'", Some(1536)),
                line("javascript:x", None),
            ],
            complete: false,
        };
        let page = listing.page();
        for part in [
            "<title>/&lt;b&gt;/</title>",
            "<a href=\"./a%22%3E%3Cscript%3E%26%27\">a&quot;&gt;&lt;script&gt;&amp;&#39;</a>",
            "<td>1.50 KiB<td>1994-11-06 08:49\n",
            "<a href=\"./javascript%3Ax\">javascript:x/</a><td><td>",
            "There are more",
            "<a href=\"../\">",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<script"));
    }
}
