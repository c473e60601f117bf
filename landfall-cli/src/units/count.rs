//! Counts: `36000`, `30k`, `1M`.

/// Reads a count of things, 1 or more.
pub fn parse_count(text: &str) -> Result<u32, String> {
    let trimmed = text.trim();
    let (digits, factor) = match trimmed.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => match trimmed.strip_suffix('M') {
            Some(digits) => (digits, 1_000_000),
            None => (trimmed, 1),
        },
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!(
            "`{text}` is not a count: write a whole number such as 36000, 30k or 1M"
        ));
    }
    let count = digits
        .parse()
        .ok()
        .and_then(|count: u32| count.checked_mul(factor));
    match count {
        Some(0) => Err(String::from("0 is too few: it must be at least 1")),
        Some(count) => Ok(count),
        None => Err(format!(
            "`{text}` is more than {}",
            grouped(u64::from(u32::MAX))
        )),
    }
}

/// Shows a count with its thousands apart: `30,000`.
pub fn grouped(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// A count of things: `1 message`, `30,000 messages`.
pub fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_several() {
        let message = |count| counted(count, "message");
        assert_eq!(
            [message(0), message(1), message(30_000)],
            ["0 messages", "1 message", "30,000 messages"]
        );
    }

    #[test]
    fn counts_are_read() {
        assert_eq!(parse_count("1"), Ok(1));
        assert_eq!(parse_count("36000"), Ok(36_000));
        assert_eq!(parse_count("30k"), Ok(30_000));
        assert_eq!(parse_count("2M"), Ok(2_000_000));
    }

    #[test]
    fn impossible_counts_are_refused() {
        assert!(parse_count("0").unwrap_err().contains("at least 1"));
        assert!(parse_count("0k").unwrap_err().contains("at least 1"));
        assert!(parse_count("5000M").unwrap_err().contains("more than"));
        for great in ["4294967296", "99999999999999999999999", "99999999999k"] {
            assert!(
                parse_count(great).unwrap_err().contains("more than"),
                "{great}"
            );
        }
        for nonsense in ["", "k", "-1", "+1", "many", "1.5", "30 k", "30kk"] {
            assert!(
                parse_count(nonsense).unwrap_err().contains("whole number"),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(90_000), "90,000");
    }
}
