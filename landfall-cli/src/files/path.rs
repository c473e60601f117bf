//! The target of a request: which path is asked for, decoded once and without anything in it that
//! could lead elsewhere.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::http::origin_form;

/// All but what may stand in any part of a URL as it is.
const NAMES: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATHS: &AsciiSet = &NAMES.remove(b'/');

/// A target is none that can be served (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTarget;

/// What a target asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Names with a slash between each two, and none at the ends: relative to the directory that is
    /// served.
    pub path: Vec<u8>,
    /// It ended in a slash, so a directory is meant.
    pub wants_directory: bool,
    /// What follows the question mark, as it came.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads a target in origin form (`/path?query`) or absolute form (`http://host/path?query`).
    pub fn parse(target: &'a str) -> Result<Self, BadTarget> {
        let target = origin_form(target).ok_or(BadTarget)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        // A fragment is the client's own, and is not sent.
        if target.contains('#') {
            return Err(BadTarget);
        }
        let (path, wants_directory) = normalise(&decode(path)?)?;
        Ok(Target {
            path,
            wants_directory,
            query,
        })
    }

    /// Whether any name on the path begins with a dot.
    pub fn is_hidden(&self) -> bool {
        self.path.split(|&byte| byte == b'/').any(is_hidden)
    }
}

/// Whether a name is one that is not shown.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".")
}

/// What a URL holds for a name, whatever bytes it has.
pub fn encode_name(name: &[u8]) -> impl std::fmt::Display + '_ {
    percent_encode(name, NAMES)
}

/// What a URL holds for a path of such names. Nothing but single slashes is left that a browser
/// could take for the beginning of a host's name.
pub fn encode_path(path: &[u8]) -> impl std::fmt::Display + '_ {
    percent_encode(path, PATHS)
}

fn decode(path: &str) -> Result<Cow<'_, [u8]>, BadTarget> {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = path.as_bytes();
    for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        if !is_hex(bytes.get(place + 1)) || !is_hex(bytes.get(place + 2)) {
            return Err(BadTarget);
        }
    }
    Ok(percent_decode_str(path).into())
}

/// Leaves out empty names and `.`, and takes `..` for what it says, but not above the root.
fn normalise(decoded: &[u8]) -> Result<(Vec<u8>, bool), BadTarget> {
    if decoded.contains(&0) {
        return Err(BadTarget);
    }
    let mut path = Vec::with_capacity(decoded.len());
    let mut wants_directory = false;
    for name in decoded.split(|&byte| byte == b'/') {
        wants_directory = matches!(name, b"" | b"." | b"..");
        match name {
            b"" | b"." => {}
            b".." if path.is_empty() => return Err(BadTarget),
            b".." => {
                let parent = path.iter().rposition(|&byte| byte == b'/');
                path.truncate(parent.unwrap_or(0));
            }
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
        }
    }
    Ok((path, wants_directory))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The path, with a slash behind it if a directory is meant.
    fn path(target: &str) -> Result<String, BadTarget> {
        let target = Target::parse(target)?;
        let slash = if target.wants_directory { "/" } else { "" };
        Ok(String::from_utf8_lossy(&target.path).into_owned() + slash)
    }

    #[test]
    fn paths_are_decoded_once_and_normalised() {
        for (target, expected) in [
            ("/", "/"),
            ("/a", "a"),
            ("/a/", "a/"),
            ("//a///b", "a/b"),
            ("/a/./b/.", "a/b/"),
            ("/a/../b", "b"),
            ("/a/b/..", "a/"),
            ("/a/..", "/"),
            ("/a%20b", "a b"),
            ("/a%2Fb", "a/b"),
            ("/a/%2e%2E/b", "b"),
            ("/%252e%252e/x", "%2e%2e/x"),
            ("/...", "..."),
            ("/a%3Fb", "a?b"),
            ("http://host/a/b", "a/b"),
            ("HTTPS://host:443", "/"),
        ] {
            assert_eq!(path(target).as_deref(), Ok(expected), "{target}");
        }
    }

    #[test]
    fn what_leads_out_or_is_badly_encoded_is_refused() {
        for target in [
            "/..",
            "/../x",
            "/a/../../x",
            "/%2e%2e/x",
            "/.%2e/x",
            "/..%2fx",
            "/a/..%2f..%2fx",
            "/a%00",
            "/%",
            "/%2",
            "/%zz",
            "/a%2",
            "/#",
            "/a#b",
            "*",
            "",
            "a",
            "host:80",
            "http:///a",
            "http://",
            "http://user@host/",
            "ftp://host/a",
            "file:///etc/passwd",
        ] {
            assert_eq!(path(target), Err(BadTarget), "{target}");
        }
    }

    #[test]
    fn the_query_is_kept_and_is_no_part_of_the_path() {
        let target = Target::parse("/a/?format=json&x=/../..").unwrap();
        assert_eq!(
            (&target.path[..], target.query),
            (&b"a"[..], Some("format=json&x=/../.."))
        );
    }

    #[test]
    fn names_that_begin_with_a_dot_are_hidden() {
        for (target, is_hidden) in [
            ("/.git/config", true),
            ("/a/.b", true),
            ("/%2ehidden", true),
            ("/a.b/c.", false),
            ("/a/./b", false),
            ("/", false),
        ] {
            assert_eq!(
                Target::parse(target).unwrap().is_hidden(),
                is_hidden,
                "{target}"
            );
        }
    }

    #[test]
    fn a_redirect_cannot_name_a_host() {
        assert_eq!(
            encode_path(b"a b/\\evil?#").to_string(),
            "a%20b/%5Cevil%3F%23"
        );
        assert_eq!(encode_name(b"a/b:\xff").to_string(), "a%2Fb%3A%FF");
    }

    proptest! {
        #[test]
        fn no_target_leads_out(target in prop_oneof![
            ".{0,40}",
            "/([a-c./%\\\\]|%2e|%2f|%00|\\.\\./){0,20}",
        ]) {
            if let Ok(target) = Target::parse(&target) {
                prop_assert!(!target.path.contains(&0));
                let names = target.path.split(|&byte| byte == b'/');
                let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
                prop_assert!(target.path.is_empty() || names.into_iter().all(is_name));
            }
        }

        #[test]
        fn what_is_encoded_is_read_as_it_was(names in prop::collection::vec("[^/\0]{1,8}", 0..4)) {
            prop_assume!(names.iter().all(|name| name != "." && name != ".."));
            let path = names.join("/");
            let target = format!("/{}", encode_path(path.as_bytes()));
            let target = Target::parse(&target).expect("a target");
            prop_assert_eq!(target.path, path.into_bytes());
        }
    }
}
