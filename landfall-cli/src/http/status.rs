//! Status codes and their phrases (RFC 9110, section 15).

use std::fmt;

/// What an answer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Three digits.
    pub code: u16,
    phrase: &'static str,
}

impl Status {
    pub const OK: Self = Self::new(200, "OK");
    pub const PARTIAL_CONTENT: Self = Self::new(206, "Partial Content");
    pub const MOVED_PERMANENTLY: Self = Self::new(301, "Moved Permanently");
    pub const NOT_MODIFIED: Self = Self::new(304, "Not Modified");
    pub const BAD_REQUEST: Self = Self::new(400, "Bad Request");
    pub const FORBIDDEN: Self = Self::new(403, "Forbidden");
    pub const NOT_FOUND: Self = Self::new(404, "Not Found");
    pub const METHOD_NOT_ALLOWED: Self = Self::new(405, "Method Not Allowed");
    pub const REQUEST_TIMEOUT: Self = Self::new(408, "Request Timeout");
    pub const LENGTH_REQUIRED: Self = Self::new(411, "Length Required");
    pub const PRECONDITION_FAILED: Self = Self::new(412, "Precondition Failed");
    pub const CONTENT_TOO_LARGE: Self = Self::new(413, "Content Too Large");
    pub const TARGET_TOO_LONG: Self = Self::new(414, "URI Too Long");
    pub const RANGE_NOT_SATISFIABLE: Self = Self::new(416, "Range Not Satisfiable");
    pub const EXPECTATION_FAILED: Self = Self::new(417, "Expectation Failed");
    pub const FIELDS_TOO_LARGE: Self = Self::new(431, "Request Header Fields Too Large");
    pub const INTERNAL_ERROR: Self = Self::new(500, "Internal Server Error");
    pub const NOT_IMPLEMENTED: Self = Self::new(501, "Not Implemented");
    pub const UNAVAILABLE: Self = Self::new(503, "Service Unavailable");
    pub const VERSION_NOT_SUPPORTED: Self = Self::new(505, "HTTP Version Not Supported");

    const fn new(code: u16, phrase: &'static str) -> Self {
        Self { code, phrase }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.phrase)
    }
}
