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
    let count = digits.parse::<u32>().map_err(|_| {
        format!("`{text}` is not a count: write a whole number such as 36000, 30k or 1M")
    })?;
    match count.checked_mul(factor) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        for nonsense in ["", "-1", "many", "1.5", "30 k", "30kk", "99999999999"] {
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
