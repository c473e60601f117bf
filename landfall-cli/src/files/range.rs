//! `Range`: which part of a file is asked for (RFC 9110, section 14).

/// A part of a file, at least one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// In bytes from the beginning of the file.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// What a `Range` field comes to, for a file of a certain length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it: the field is in another unit, or asks for several parts. A server may send the
    /// whole file then, and several parts in one answer is what hardly a client reads.
    Whole,
    /// One part (206).
    Part(Span),
    /// No part that there is, or no range at all (416, as other servers answer both).
    Nothing,
}

/// More ranges than a client in earnest asks for.
const MOST_RANGES: usize = 64;

/// Reads a `Range` field.
pub fn parse_range(field: &str, file_length: u64) -> Asked {
    let Some((unit, ranges)) = field.split_once('=') else {
        return Asked::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.trim().is_empty() {
        return Asked::Whole;
    }
    let mut part = None;
    // Empty members of a list are allowed and count for nothing.
    let ranges = ranges
        .split(',')
        .map(|range| range.trim_matches([' ', '\t']));
    for (count, range) in ranges.filter(|range| !range.is_empty()).enumerate() {
        if count == MOST_RANGES {
            return Asked::Nothing;
        }
        match parse_one(range, file_length) {
            Err(NoRange) => return Asked::Nothing,
            // From the beginning of an empty file: who resumes with nothing has all of it.
            Ok(Span {
                offset: 0,
                length: 0,
            }) => return Asked::Whole,
            Ok(Span { length: 0, .. }) => {}
            Ok(_) if part.is_some() => return Asked::Whole,
            Ok(span) => part = Some(span),
        }
    }
    part.map_or(Asked::Nothing, Asked::Part)
}

struct NoRange;

/// Reads `first-last`, `first-` or `-length`. Without length: the file has no byte of it.
fn parse_one(range: &str, file_length: u64) -> Result<Span, NoRange> {
    let (first, last) = range.split_once('-').ok_or(NoRange)?;
    if first.is_empty() {
        let length = parse_number(last)?.min(file_length);
        return Ok(Span {
            offset: file_length - length,
            length,
        });
    }
    let first = parse_number(first)?;
    let last = match last {
        "" => u64::MAX,
        last => parse_number(last)?,
    };
    if last < first {
        return Err(NoRange);
    }
    let end = last.saturating_add(1).min(file_length);
    Ok(Span {
        offset: first,
        length: end.saturating_sub(first),
    })
}

/// Digits and nothing else. What is too large to count is larger than any file.
fn parse_number(text: &str) -> Result<u64, NoRange> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(text.parse().unwrap_or(u64::MAX)),
        false => Err(NoRange),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(offset: u64, length: u64) -> Asked {
        Asked::Part(Span { offset, length })
    }

    #[test]
    fn single_open_and_suffix_ranges_are_read() {
        let of_1000 = |field| parse_range(field, 1_000);
        assert_eq!(of_1000("bytes=0-0"), part(0, 1));
        assert_eq!(of_1000("bytes=0-999"), part(0, 1_000));
        assert_eq!(of_1000("bytes=10-19"), part(10, 10));
        assert_eq!(of_1000("bytes=990-2000"), part(990, 10));
        assert_eq!(of_1000("bytes=990-"), part(990, 10));
        assert_eq!(of_1000("bytes=-10"), part(990, 10));
        assert_eq!(of_1000("bytes=-2000"), part(0, 1_000));
        assert_eq!(of_1000("Bytes=10-19"), part(10, 10));
        assert_eq!(of_1000("bytes= 10-19 "), part(10, 10));
        assert_eq!(of_1000("bytes=10-99999999999999999999999"), part(10, 990));
    }

    #[test]
    fn files_beyond_4_gib_have_parts() {
        let length = (5 << 30) + 7;
        assert_eq!(parse_range("bytes=5368709120-", length), part(5 << 30, 7));
        assert_eq!(parse_range("bytes=-5368709120", length), part(7, 5 << 30));
    }

    #[test]
    fn what_is_not_there_or_no_range_is_nothing() {
        for field in [
            "bytes=1000-",
            "bytes=1000-1001",
            "bytes=-0",
            "bytes=,",
            "bytes=abc",
            "bytes=5-2",
            "bytes=-",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=0x1-2",
            "bytes=99999999999999999999-",
            "bytes=0-1,x",
        ] {
            assert_eq!(parse_range(field, 1_000), Asked::Nothing, "{field}");
        }
        for (field, expected) in [
            ("bytes=0-", Asked::Whole),
            ("bytes=-1", Asked::Whole),
            ("bytes=0-0", Asked::Whole),
            ("bytes=1-", Asked::Nothing),
        ] {
            assert_eq!(parse_range(field, 0), expected, "{field} of nothing");
        }
        let many = format!("bytes={}", "2000-,".repeat(MOST_RANGES + 1));
        assert_eq!(parse_range(&many, 1_000), Asked::Nothing);
    }

    #[test]
    fn several_ranges_and_other_units_are_the_whole_file() {
        for field in [
            "bytes=0-1,4-5",
            "bytes=-1,0-",
            "lines=1-2",
            "bytes=",
            "bytes",
            "",
        ] {
            assert_eq!(parse_range(field, 1_000), Asked::Whole, "{field}");
        }
        // Only one of these is there.
        assert_eq!(parse_range("bytes=5000-,10-19", 1_000), part(10, 10));
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic_and_every_part_is_in_the_file(
            field in prop_oneof![".{0,40}", "bytes=[0-9, -]{0,40}"],
            length: u64,
        ) {
            if let Asked::Part(span) = parse_range(&field, length) {
                prop_assert!(span.length > 0);
                prop_assert!(span.offset.checked_add(span.length).is_some_and(|end| end <= length));
            }
        }

        #[test]
        fn a_range_that_is_there_is_what_is_asked_for(first: u32, more: u32, behind: u32) {
            let (first, length) = (u64::from(first), u64::from(more) + 1);
            let field = format!("bytes={first}-{}", first + length - 1);
            let file_length = first + length + u64::from(behind);
            prop_assert_eq!(parse_range(&field, file_length), part(first, length));
        }
    }
}
