//! Requests that depend on what the client has already (RFC 9110, section 13).

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that a date of HTTP can name: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// A time within what dates can name.
pub fn within_dates(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(time))
}

/// In seconds since 1970, without their fraction, as far as dates can name them.
pub fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().min(LAST_SECOND)
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// With its quotes. Strong: it has the nanoseconds of the last change, so that two within a
    /// second differ.
    pub etag: String,
    /// Of the last change, in seconds since 1970.
    pub modified: u64,
}

/// What becomes of a request by its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is carried out.
    Proceed,
    /// The client has it (304).
    NotModified,
    /// The file is not what the client thinks (412).
    Failed,
}

impl Validators {
    /// Those of a file of this length that was last changed then.
    pub fn new(modified: SystemTime, length: u64) -> Self {
        let mut etag = String::with_capacity(32);
        let nanos = modified
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        // Writing to a string does not fail.
        let _ = write!(etag, "\"{nanos:x}-{length:x}\"");
        Validators {
            etag,
            modified: seconds(modified),
        }
    }

    /// Evaluates the conditions in their order. `fields` gives all values of a field.
    pub fn evaluate<'a, I>(&self, fields: impl Fn(&'static str) -> I) -> Verdict
    where
        I: Iterator<Item = &'a str>,
    {
        let date = |name| fields(name).next().and_then(parse_date);
        let matches = |name, weakly| {
            let mut values = fields(name).peekable();
            values.peek()?;
            Some(values.any(|value| self.is_in(value, weakly)))
        };
        let holds = match matches("if-match", false) {
            Some(holds) => holds,
            None => date("if-unmodified-since").is_none_or(|date| self.modified <= date),
        };
        if !holds {
            return Verdict::Failed;
        }
        let is_known = match matches("if-none-match", true) {
            Some(is_known) => is_known,
            None => date("if-modified-since").is_some_and(|date| self.modified <= date),
        };
        match is_known {
            true => Verdict::NotModified,
            false => Verdict::Proceed,
        }
    }

    /// Whether a range is to be answered with a part, by the field `If-Range`: only if the client has
    /// the rest of the very same state.
    pub fn is_same(&self, if_range: &str) -> bool {
        match if_range.starts_with(['"', 'W']) {
            // A weekday may begin so as well.
            true if if_range.contains('"') => if_range == self.etag,
            _ => parse_date(if_range) == Some(self.modified),
        }
    }

    /// Whether a list of tags, or `*`, has this one.
    fn is_in(&self, list: &str, weakly: bool) -> bool {
        if list.trim() == "*" {
            return true;
        }
        let mut rest = list;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let (is_weak, tag) = match rest.strip_prefix("W/") {
                Some(tag) => (true, tag),
                None => (false, rest),
            };
            // What comes after something that is no tag cannot be told from it.
            let Some(end) = tag.strip_prefix('"').and_then(|opaque| opaque.find('"')) else {
                return false;
            };
            let (tag, behind) = tag.split_at(end + 2);
            if tag == self.etag && (weakly || !is_weak) {
                return true;
            }
            rest = behind;
        }
    }
}

/// A date in any of the three forms of HTTP, in seconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    httpdate::parse_http_date(text.trim()).ok().map(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT and a half.
    fn validators() -> Validators {
        let time = UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        Validators::new(time, 0x1000)
    }

    fn verdict(fields: &[(&str, &str)]) -> Verdict {
        let of = |wanted: &'static str| {
            let values: Vec<_> = fields.iter().filter(|(name, _)| *name == wanted).collect();
            values.into_iter().map(|(_, value)| *value)
        };
        validators().evaluate(of)
    }

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";
    const TAG: &str = "\"ae1b981da166f00-1000\"";

    #[test]
    fn the_tag_is_of_the_last_change_and_the_length() {
        let tag = validators().etag;
        assert_eq!(tag, format!("\"{:x}-1000\"", 784_111_777_500_000_000u64));
        assert_eq!(tag, TAG);
        let later = UNIX_EPOCH + Duration::from_nanos(784_111_777_500_000_001);
        assert_ne!(Validators::new(later, 0x1000).etag, tag);
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        for (fields, expected) in [
            (&[][..], Verdict::Proceed),
            (&[("if-none-match", TAG)], Verdict::NotModified),
            (&[("if-none-match", "*")], Verdict::NotModified),
            (&[("if-none-match", "\"x\"")], Verdict::Proceed),
            (&[("if-modified-since", THEN)], Verdict::NotModified),
            (&[("if-modified-since", AFTER)], Verdict::NotModified),
            (&[("if-modified-since", BEFORE)], Verdict::Proceed),
            (&[("if-modified-since", "yesterday")], Verdict::Proceed),
            // The tag decides.
            (
                &[("if-none-match", "\"x\""), ("if-modified-since", THEN)],
                Verdict::Proceed,
            ),
            (
                &[("if-none-match", TAG), ("if-modified-since", BEFORE)],
                Verdict::NotModified,
            ),
        ] {
            assert_eq!(verdict(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_client_that_thinks_of_another_state_is_told_so() {
        for (fields, expected) in [
            (&[("if-match", TAG)][..], Verdict::Proceed),
            (&[("if-match", "*")], Verdict::Proceed),
            (&[("if-match", "\"x\"")], Verdict::Failed),
            (&[("if-match", "")], Verdict::Failed),
            (&[("if-unmodified-since", THEN)], Verdict::Proceed),
            (&[("if-unmodified-since", BEFORE)], Verdict::Failed),
            (&[("if-unmodified-since", "never")], Verdict::Proceed),
            // The tag decides, and this comes before what the client has.
            (
                &[("if-match", TAG), ("if-unmodified-since", BEFORE)],
                Verdict::Proceed,
            ),
            (
                &[("if-match", "\"x\""), ("if-none-match", TAG)],
                Verdict::Failed,
            ),
            (
                &[("if-match", TAG), ("if-none-match", TAG)],
                Verdict::NotModified,
            ),
        ] {
            assert_eq!(verdict(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn lists_of_tags_are_searched_and_weak_ones_are_only_weakly_the_same() {
        let tag = validators();
        for list in [
            format!("\"a\", {TAG}"),
            format!("\"a,\" , ,W/\"b\",{TAG}"),
            format!("{TAG}, nonsense"),
        ] {
            assert!(tag.is_in(&list, false), "{list}");
        }
        let weak = format!("W/{TAG}");
        assert!(tag.is_in(&weak, true) && !tag.is_in(&weak, false));
        for list in [
            "",
            "\"",
            "nonsense",
            &TAG[1..],
            &TAG[..TAG.len() - 1],
            "\"*\"",
        ] {
            assert!(!tag.is_in(list, true), "{list}");
        }
    }

    #[test]
    fn a_part_is_sent_to_who_has_the_rest_of_the_same_state() {
        let tag = validators();
        assert!(tag.is_same(TAG) && tag.is_same(THEN));
        for other in [BEFORE, AFTER, "\"x\"", "*", "", &format!("W/{TAG}")] {
            assert!(!tag.is_same(other), "{other}");
        }
        let wednesday = UNIX_EPOCH + Duration::from_secs(6 * 86_400);
        assert!(Validators::new(wednesday, 0).is_same("Wed, 07 Jan 1970 00:00:00 GMT"));
    }

    #[test]
    fn times_that_no_date_can_name_are_moved() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(seconds(before), 0);
        assert_eq!(Validators::new(before, 1).etag, "\"0-1\"");
        let last = within_dates(UNIX_EPOCH + Duration::from_secs(1 << 40));
        assert_eq!(
            httpdate::fmt_http_date(last),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic(
            value in prop_oneof![".{0,40}", "(W/|\"|,| |[a-c]){0,20}"],
            weakly: bool,
        ) {
            let tag = validators();
            let is_in = tag.is_in(&value, weakly);
            prop_assert!(!is_in || value.trim() == "*" || value.contains(TAG));
            let _ = tag.is_same(&value);
        }

        #[test]
        fn a_tag_is_found_among_any_others(
            before in prop::collection::vec("[!#-~]{0,8}", 0..4),
            after in ".{0,20}",
        ) {
            let mut list: String = before.iter().map(|tag| format!("W/\"{tag}\", ")).collect();
            list.push_str(TAG);
            list.push_str(&after);
            prop_assert!(validators().is_in(&list, false));
        }
    }
}
